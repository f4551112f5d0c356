#include "job/conditioning.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/file.h"
#include "job/fields.h"

#define SIZE(key, place)                                                                           \
    {.name = key, .read = ks_field_int, .at = offsetof(ks_cond_ref, size[place]), .low = 0,        \
     .high = 16384}
#define TENSOR(key, member)                                                                        \
    {.name = key, .read = ks_field_text, .at = offsetof(ks_cond_ref, member), .low = 1,            \
     .wanted = "the name of a tensor in the file"}
#define SHARE(key, member)                                                                         \
    {.name = key, .read = ks_field_double, .at = offsetof(ks_cond_ref, member), .low = 0,          \
     .high = 1}

static const ks_field fields[] = {
    {.name = "text", .read = ks_field_text, .at = offsetof(ks_cond_ref, text)},
    {.name = "file", .read = ks_field_path, .at = offsetof(ks_cond_ref, file), .low = 1,
     .wanted = "the path of a safetensors file"},
    TENSOR("cond", cond), TENSOR("pooled", pooled), TENSOR("y", y),
    {.name = "strength", .read = ks_field_double, .at = offsetof(ks_cond_ref, strength), .low = 0,
     .high = 1000},
    SHARE("start_percent", start_percent), SHARE("end_percent", end_percent),
    SIZE("height", 0), SIZE("width", 1), SIZE("crop_h", 2), SIZE("crop_w", 3),
    SIZE("target_height", 4), SIZE("target_width", 5),
    {.name = NULL}};

static bool any_size(const ks_cond_ref *c)
{
    for (int i = 0; i < 6; i++)
        if (c->size[i] >= 0)
            return true;
    return false;
}

/* Refuses keys that do not go together. */
static int check(const ks_cond_ref *c, ks_json v, ks_error *err)
{
    if (!c->text == !c->file)
        return ks_json_error(v, err, "has %s of \"text\" and \"file\"; give one of them",
                             c->text ? "both" : "none");
    if (c->text && (c->cond || c->pooled || c->y))
        return ks_json_error(v, err, "has a tensor's name beside \"text\"; give \"file\" instead "
                             "of \"text\", or remove \"cond\", \"pooled\" and \"y\"");
    if (c->file && !c->cond)
        return ks_json_error(ks_json_get(v, "cond"), err,
                             "is missing; give the name of a tensor in the file");
    if (c->pooled && c->y)
        return ks_json_error(v, err, "has both \"pooled\" and \"y\"; give \"pooled\", or \"y\" for "
                             "the model's whole vector as it is");
    if (c->has_size && c->file && !c->pooled)
        return ks_json_error(v, err, "has a size but no \"pooled\" that it would go with; give "
                             "\"pooled\" or remove the sizes");
    return 0;
}

static int read_reference(ks_cond_ref *c, ks_json v, ks_error *err)
{
    if (ks_fields_read(v, KS_PART_COND, fields, c, err) != 0)
        return -1;
    c->has_size = any_size(c);
    return check(c, v, err);
}

static int read_one(ks_cond_ref *c, ks_json v, ks_error *err)
{
    *c = (ks_cond_ref){.strength = 1, .end_percent = 1, .size = {-1, -1, -1, -1, -1, -1}};
    const char *text;
    if (ks_json_is_object(v))
        return read_reference(c, v, err);
    if (!ks_json_is_string(v) || ks_json_string(v, &text, NULL) != 0)
        return ks_misfit(v, err, "a text, {\"file\": \"c.safetensors\", \"cond\": \"NAME\"}, a "
                         "list of values, or a list inside the list to combine several");
    c->text = ks_strdup(text);
    return 0;
}

/* The value's name in the output: the text alone, or the reference as JSON. */
static char *label_of(ks_json v)
{
    const char *text;
    if (ks_json_is_string(v) && ks_json_string(v, &text, NULL) == 0)
        return ks_strdup(text);
    return ks_json_print(v);
}

int ks_item_conditioning(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    (void)f;
    ks_conditioning *c = value;
    bool combined = ks_json_is_array(v);
    int n = combined ? ks_json_size(v) : 1;
    if (n == 0)
        return ks_json_error(v, err, "is an empty list; give the conditionings to combine");
    c->item = ks_calloc((size_t)n, sizeof *c->item);
    c->count = n;
    for (int i = 0; i < n; i++)
        if (read_one(&c->item[i], combined ? ks_json_at(v, i) : v, err) != 0)
            return -1;
    c->label = label_of(v);
    return c->label ? 0 : ks_json_error(v, err, "no memory for its name");
}

void ks_conditionings_free(ks_conditioning *values, int count)
{
    for (int i = 0; values && i < count; i++) {
        for (int k = 0; k < values[i].count; k++) {
            ks_cond_ref *c = &values[i].item[k];
            free(c->text);
            free(c->file);
            free(c->cond);
            free(c->pooled);
            free(c->y);
        }
        free(values[i].item);
        free(values[i].label);
    }
    free(values);
}
