#include "job/conditioning.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/fields.h"
#include "job/lines.h"
#include "job/region.h"

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
    {.name = "area", .read = ks_field_area},
    {.name = "mask", .read = ks_field_mask, .at = offsetof(ks_region_ref, mask)},
    {.name = "mask_strength", .read = ks_field_mask_strength,
     .at = offsetof(ks_region_ref, mask_strength), .low = 0, .high = 1000},
    {.name = "set_area_to_bounds", .read = ks_field_bounds, .at = offsetof(ks_region_ref, bounds)},
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
    if (c->start_percent > c->end_percent)
        return ks_json_error(ks_json_get(v, "start_percent"), err, "%.15g is behind \"end_percent\", %.15g: it would never be "
                             "active; give at most that", c->start_percent, c->end_percent);
    return ks_region_check(c->region, v, err);
}

static int read_reference(ks_cond_ref *c, ks_json v, ks_error *err)
{
    if (ks_fields_read(v, KS_PART_COND, fields, c, err) != 0)
        return -1;
    c->has_size = any_size(c);
    return check(c, v, err);
}

static const ks_cond_ref plain = {
    .strength = 1, .end_percent = 1, .size = {-1, -1, -1, -1, -1, -1}};

static int read_one(ks_cond_ref *c, ks_json v, ks_error *err)
{
    *c = plain;
    const char *text;
    if (ks_json_is_object(v))
        return read_reference(c, v, err);
    if (!ks_json_is_string(v) || ks_json_string(v, &text, NULL) != 0)
        return ks_misfit(v, err, "a text, {\"file\": \"c.safetensors\", \"cond\": \"NAME\"}, a "
                         "list of values, or a list inside the list to combine several");
    c->text = ks_strdup(text);
    return 0;
}

/* The value that a text alone makes: its name in the output is the text itself. */
static void set_text(ks_conditioning *c, const char *text)
{
    c->item = ks_calloc(1, sizeof *c->item);
    c->count = 1;
    c->item[0] = plain;
    c->item[0].text = ks_strdup(text);
    c->label = c->item[0].text;
}

int ks_item_conditioning(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    (void)f;
    ks_conditioning *c = value;
    const char *text;
    if (ks_json_is_string(v) && ks_json_string(v, &text, NULL) == 0) {
        set_text(c, text);
        return 0;
    }
    bool combined = ks_json_is_array(v);
    int n = combined ? ks_json_size(v) : 1;
    if (n == 0)
        return ks_json_error(v, err, "is an empty list; give the conditionings to combine");
    c->item = ks_calloc((size_t)n, sizeof *c->item);
    c->count = n;
    for (int i = 0; i < n; i++)
        if (read_one(&c->item[i], combined ? ks_json_at(v, i) : v, err) != 0)
            return -1;
    c->label = ks_json_print(v);
    return c->label ? 0 : ks_json_error(v, err, "no memory for its name");
}

/* A value that stands in a file: a line as it is, or what its object holds. */
static int read_line(ks_lines *lines, const ks_field *f, ks_conditioning *value, ks_error *err)
{
    ks_line line;
    if (ks_lines_next(lines, &line, err) != 0)
        return -1;
    if (!line.text)
        return ks_item_conditioning(f, value, line.value, err) ? ks_lines_wrap(lines, err) : 0;
    set_text(value, line.text);
    return 0;
}

int ks_field_conditionings(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    if (!ks_lines_named(v))
        return ks_field_axis(f, into, v, err);
    ks_lines *lines = ks_lines_open(into, v, err);
    if (!lines)
        return -1;
    int n = ks_lines_count(lines), rc = 0;
    ks_conditioning *values = ks_calloc((size_t)n, sizeof *values);
    memcpy((char *)into + f->at, &values, sizeof values);
    memcpy((char *)into + f->count, &n, sizeof n);
    for (int i = 0; i < n && !rc; i++)
        rc = read_line(lines, f, &values[i], err);
    ks_lines_free(lines);
    return rc;
}

void ks_conditionings_free(ks_conditioning *values, int count)
{
    for (int i = 0; values && i < count; i++) {
        if (!values[i].count || values[i].label != values[i].item[0].text)
            free(values[i].label);
        for (int k = 0; k < values[i].count; k++) {
            ks_cond_ref *c = &values[i].item[k];
            free(c->text);
            free(c->file);
            free(c->cond);
            free(c->pooled);
            free(c->y);
            ks_region_free(c->region);
        }
        free(values[i].item);
    }
    free(values);
}
