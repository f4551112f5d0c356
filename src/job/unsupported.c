#include <stdbool.h>
#include <string.h>

#include "job/fields.h"

/* What the format has, or ComfyUI's user would look for, and this version has not. A later
 * version lifts a refusal by deleting its row (and adding the key to its object's table and to
 * the schema). */
typedef struct refusal {
    ks_part part;
    const char *key;
    const char *value; /* only this text is refused; NULL: see above */
    double above;      /* only numbers above it are; 0 and no value: the key is refused */
    const char *what, *instead;
} refusal;

static const refusal refusals[] = {
    {KS_PART_LATENT, "image", NULL, 0, "a picture as latent",
     "encode it and give {\"file\": \"x.latent\"}"},
    {KS_PART_JOB, "precision", "fp8", 0, "\"fp8\"", "give \"auto\", \"fp16\" or \"fp32\""},
    {KS_PART_PARALLEL, "tensor", NULL, 1, "tensor parallelism", "give 1 or remove it"},
    {KS_PART_PARALLEL, "rows", NULL, 1, "row parallelism", "give 1 or remove it"},
};

static bool applies(const refusal *r, ks_json v)
{
    const char *text;
    double number;
    if (r->value)
        return ks_json_is_string(v) && ks_json_string(v, &text, NULL) == 0 &&
               strcmp(text, r->value) == 0;
    if (r->above > 0)
        return ks_json_is_number(v) && ks_json_double(v, &number, NULL) == 0 && number > r->above;
    return true;
}

int ks_refuse_unsupported(ks_json object, ks_part part, ks_error *err)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        if (r->part != part)
            continue;
        ks_json v = ks_json_get(object, r->key);
        if (ks_json_exists(v) && applies(r, v))
            return ks_json_error(v, err, "%s is not supported in this version; %s", r->what,
                                 r->instead);
    }
    return 0;
}
