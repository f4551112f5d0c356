#include "job/zip.h"

#include <stdbool.h>
#include <string.h>

#include "base/nearest.h"
#include "job/fields.h"

static const char wanted[] = "the name of an axis, or a list of names of axes that walk together";

/* The axis that v names, which must not have been named before. */
static int read_axis(ks_json v, bool named[KS_AXES], ks_axis *axis, ks_error *err)
{
    const char *names[KS_AXIS_BATCH], *name = NULL;
    if (!ks_json_is_string(v) || ks_json_string(v, &name, NULL) != 0)
        return ks_misfit(v, err, wanted);
    int a = 0;
    for (; a < KS_AXIS_BATCH && strcmp(name, ks_axis_name((ks_axis)a)) != 0; a++)
        names[a] = ks_axis_name((ks_axis)a);
    if (a == KS_AXIS_BATCH) {
        const char *nearest = ks_nearest(name, names, KS_AXIS_BATCH);
        return nearest ? ks_json_error(v, err, "no axis is called \"%.60s\"; did you mean \"%s\"?",
                                       name, nearest)
                       : ks_json_error(v, err, "no axis is called \"%.60s\"; the axes are "
                                       "positive, negative, latent_image, denoise, scheduler, "
                                       "sampler_name, cfg, steps and seed", name);
    }
    if (named[a])
        return ks_json_error(v, err, "names %s a second time; an axis walks once", name);
    named[a] = true;
    *axis = (ks_axis)a;
    return 0;
}

/* All members of a group have as many values as its first. */
static int check_sizes(const ks_job *job, ks_json group, const ks_axis *axis, int n, ks_error *err)
{
    uint64_t first = ks_job_axis_size(job, axis[0]);
    for (int i = 1; i < n; i++) {
        uint64_t size = ks_job_axis_size(job, axis[i]);
        if (size != first)
            return ks_json_error(group, err, "%s has %llu values and %s has %llu; axes that walk "
                                 "together need equally many", ks_axis_name(axis[0]),
                                 (unsigned long long)first, ks_axis_name(axis[i]),
                                 (unsigned long long)size);
    }
    return 0;
}

static int read_group(ks_job *job, ks_json v, bool named[KS_AXES], ks_error *err)
{
    ks_axis axis[KS_AXES] = {0}; /* more names than axes would hold one twice */
    int n = ks_json_size(v), slowest = KS_AXES;
    if (n == 0)
        return ks_json_error(v, err, "is an empty list; give %s", wanted);
    for (int i = 0; i < n; i++) {
        if (read_axis(ks_json_at(v, i), named, &axis[i], err))
            return -1;
        slowest = (int)axis[i] < slowest ? (int)axis[i] : slowest;
    }
    for (int i = 0; i < n; i++)
        job->behind[axis[i]] = (int)axis[i] - slowest;
    return check_sizes(job, v, axis, n, err);
}

int ks_zip_read(ks_job *job, ks_json v, ks_error *err)
{
    bool named[KS_AXES] = {false};
    ks_axis alone;
    if (!ks_json_is_array(v))
        return ks_misfit(v, err, "a list, as in [[\"positive\", \"seed\"], \"cfg\"]");
    for (int i = 0; i < ks_json_size(v); i++) {
        ks_json item = ks_json_at(v, i);
        if (ks_json_is_array(item) ? read_group(job, item, named, err)
                                   : read_axis(item, named, &alone, err))
            return -1;
    }
    return 0;
}
