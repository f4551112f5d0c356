#include <stdbool.h>
#include <string.h>

#include "job/fields.h"

/* What the format has, or ComfyUI's user would look for, and this version has not. A later
 * version lifts a refusal by deleting its row (and adding the key to its object's table and to
 * the schema). */
typedef struct refusal {
    ks_part part;
    const char *key;
    const char *value; /* only this text is refused; NULL: the key is */
    const char *what, *instead;
} refusal;

static const refusal refusals[] = {
    {KS_PART_LATENT, "image", NULL, "a picture as latent",
     "encode it and give {\"file\": \"x.latent\"}"},
    {KS_PART_JOB, "precision", "fp8", "\"fp8\"", "give \"auto\", \"fp32\", \"fp16\" or \"bf16\""},
};

static bool applies(const refusal *r, ks_json v)
{
    const char *text;
    return !r->value || (ks_json_is_string(v) && ks_json_string(v, &text, NULL) == 0 &&
                         strcmp(text, r->value) == 0);
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
