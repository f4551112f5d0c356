#include "job/region.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/file.h"

enum { CELL = 8, LARGEST = 16384 };

/* The region of a conditioning, made when it has none. */
static ks_region_ref *region_of(ks_cond_ref *c)
{
    if (!c->region) {
        c->region = ks_calloc(1, sizeof *c->region);
        c->region->mask_strength = 1;
    }
    return c->region;
}

/* --- areas --- */

/* Number i of [height, width, y, x]: pixels, or shares of the picture. */
static int read_side(ks_json v, int i, bool shares, double *out, ks_error *err)
{
    bool size = i < 2;
    double low = !shares && size ? CELL : 0, high = shares ? 1 : LARGEST;
    int64_t pixels = 0;
    if (shares && ks_json_is_number(v) && ks_json_double(v, out, NULL) == 0 && *out >= low &&
        *out <= high)
        return 0;
    if (!shares && ks_json_int(v, (int64_t)low, (int64_t)high, &pixels, NULL) == 0) {
        *out = (double)pixels;
        return 0;
    }
    if (shares)
        return ks_misfit(v, err, "a share of the picture from 0 to 1");
    return ks_misfit(v, err,
                     size ? "whole pixels from 8 to 16384" : "whole pixels from 0 to 16384");
}

int ks_field_area(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f;
    static const char *const keys[] = {"percentage", NULL};
    ks_region_ref *region = region_of(into);
    ks_json list = v;
    region->has_area = true;
    region->shares = ks_json_is_object(v);
    if (region->shares) {
        if (ks_json_only(v, keys, err) != 0)
            return -1;
        list = ks_json_get(v, "percentage");
    }
    if (!ks_json_is_array(list) || ks_json_size(list) != 4)
        return ks_misfit(ks_json_exists(list) ? list : v, err,
                         "[height, width, y, x] in pixels, or {\"percentage\": [height, width, y, "
                         "x]} in shares of the picture");
    for (int i = 0; i < 4; i++)
        if (read_side(ks_json_at(list, i), i, region->shares, &region->area[i], err) != 0)
            return -1;
    return 0;
}

/* --- masks --- */

static const ks_field mask_fields[] = {
    {.name = "file",
     .read = ks_field_path,
     .at = offsetof(ks_mask_ref, file),
     .low = 1,
     .wanted = "the path of a safetensors, HDF5 or PNG file",
     .missing = "the path of a safetensors, HDF5 or PNG file"},
    {.name = "tensor",
     .read = ks_field_text,
     .at = offsetof(ks_mask_ref, tensor),
     .low = 1,
     .wanted = "the name of a tensor or data set in the file, or of a PNG's channel"},
    {.name = NULL}};

int ks_field_mask_file(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    if (!ks_json_is_object(v))
        return ks_misfit(v, err, "{\"file\": \"m.safetensors\", \"tensor\": \"NAME\"}");
    return ks_fields_read(v, KS_PART_MASK, mask_fields, (char *)into + f->at, err);
}

int ks_field_mask(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    return ks_field_mask_file(f, region_of(into), v, err);
}

int ks_field_mask_strength(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    return ks_field_double(f, region_of(into), v, err);
}

int ks_field_bounds(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    return ks_field_bool(f, region_of(into), v, err);
}

int ks_region_check(const ks_region_ref *region, ks_json v, ks_error *err)
{
    static const char *const keys[] = {"mask_strength", "set_area_to_bounds"};
    for (int i = 0; region && !region->mask.file && i < 2; i++) {
        ks_json key = ks_json_get(v, keys[i]);
        if (ks_json_exists(key))
            return ks_json_error(key, err,
                                 "belongs to a mask that is not there; give \"mask\" or remove it");
    }
    return 0;
}

void ks_mask_ref_clear(ks_mask_ref *mask)
{
    free(mask->file);
    free(mask->tensor);
    *mask = (ks_mask_ref){0};
}

void ks_region_free(ks_region_ref *region)
{
    if (!region)
        return;
    ks_mask_ref_clear(&region->mask);
    free(region);
}
