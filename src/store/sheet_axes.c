#include "store/sheet_axes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

static char *list_axes(const ks_job *job)
{
    char *text = ks_strdup("");
    for (int a = 0; a < KS_AXES; a++) {
        uint64_t size = ks_job_axis_size(job, (ks_axis)a);
        if (size < 2)
            continue;
        char *longer = ks_format("%s%s%s (%llu)", text, *text ? ", " : "", ks_axis_name((ks_axis)a),
                                 (unsigned long long)size);
        free(text);
        text = longer;
    }
    return text;
}

static int find_axis(const ks_job *job, char option, const char *name, ks_axis *axis, ks_error *err)
{
    for (int a = 0; a < KS_AXES; a++)
        if (!strcmp(name, ks_axis_name((ks_axis)a))) {
            *axis = (ks_axis)a;
            return 0;
        }
    char *list = list_axes(job);
    ks_error_set(err, "-%c %s: there is no such axis; this sweep has several values of %s", option,
                 name, *list ? list : "none: every axis has one value");
    free(list);
    return -1;
}

static bool together(const ks_job *job, ks_axis a, ks_axis b)
{
    return ks_job_leader(job, a) == ks_job_leader(job, b);
}

/* The leading axis with most values that does not walk with other (KS_AXES: none is excluded); of
 * equals the faster, a batch of 1 last. */
static ks_axis largest_but(const ks_job *job, ks_axis other)
{
    ks_axis best = KS_AXES;
    for (int a = 0; a < KS_AXES; a++)
        if (!job->behind[a] && (other == KS_AXES || !together(job, (ks_axis)a, other)) &&
            (a != KS_AXIS_BATCH || ks_job_axis_size(job, KS_AXIS_BATCH) > 1) &&
            (best == KS_AXES || ks_job_axis_size(job, (ks_axis)a) >= ks_job_axis_size(job, best)))
            best = (ks_axis)a;
    return best;
}

int ks_sheet_choose(const ks_job *job, const char *x, const char *y, ks_axis *x_axis,
                    ks_axis *y_axis, ks_error *err)
{
    if ((x && find_axis(job, 'x', x, x_axis, err)) || (y && find_axis(job, 'y', y, y_axis, err)))
        return -1;
    if (x && y && *x_axis == *y_axis) {
        char *list = list_axes(job);
        ks_error_set(err,
                     "-x and -y both name %s: two different axes are wanted; this sweep has "
                     "several values of %s",
                     x, *list ? list : "none");
        free(list);
        return -1;
    }
    if (x && y && together(job, *x_axis, *y_axis))
        return ks_error_set(err, "-x %s and -y %s: these two walk together in this sweep; name axes "
                            "that do not", x, y);
    if (!x)
        *x_axis = largest_but(job, y ? *y_axis : KS_AXES);
    if (!y)
        *y_axis = largest_but(job, *x_axis);
    if (!x && !y && ks_job_axis_size(job, *x_axis) > KS_SHEET_WIDE &&
        ks_job_axis_size(job, *y_axis) > 1) {
        ks_axis swap = *x_axis;
        *x_axis = *y_axis;
        *y_axis = swap;
    }
    return 0;
}

static char *latent_label(const ks_latent_ref *ref)
{
    if (!ref->file)
        return ks_format("%d \xc3\x97 %d", ref->width, ref->height);
    const char *slash = strrchr(ref->file, '/'), *name = slash ? slash + 1 : ref->file;
    return ref->index < 0 ? ks_strdup(name) : ks_format("%s [%lld]", name, (long long)ref->index);
}

static char *text_label(const char *text)
{
    return ks_strdup(*text ? text : "(empty)");
}

char *ks_sheet_label(const ks_job *job, ks_axis axis, uint64_t k)
{
    switch (axis) {
    case KS_AXIS_POSITIVE: return text_label(job->positive[k].label);
    case KS_AXIS_NEGATIVE: return text_label(job->negative[k].label);
    case KS_AXIS_LATENT: return latent_label(&job->latent[k]);
    case KS_AXIS_DENOISE: return ks_format("%.8g", job->denoise[k]);
    case KS_AXIS_SCHEDULER: return ks_strdup(ks_scheduler_name(job->scheduler[k]));
    case KS_AXIS_SAMPLER: return ks_strdup(ks_sampler_at(job->sampler[k])->name);
    case KS_AXIS_CFG: return ks_format("%.8g", job->cfg[k]);
    case KS_AXIS_STEPS: return ks_format("%d", job->steps[k]);
    case KS_AXIS_SEED: return ks_format("%llu", (unsigned long long)ks_job_seed(job, k));
    default: return ks_format("%llu", (unsigned long long)k);
    }
}
