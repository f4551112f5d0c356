/* One network on several ranks' CPUs: the group's collectives are all there is between them. */
#include <string.h>

#include "backend/cpu/cpu.h"

int ks_cpu_join(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err)
{
    (void)err;
    ks_cpu *cpu = ks_cpu_of(ops);
    cpu->tensor = tensor;
    cpu->replica = replica;
    return 0;
}

/* Whether a collective of a group shall run; alone there is nothing to do, and without a group it is a failure. */
static bool shared(ks_cpu *cpu, const ks_group *group, const char *operation)
{
    if (!cpu->failed && !group)
        ks_cpu_fail(cpu, "cpu backend: %s before this rank has joined others", operation);
    return !cpu->failed && group->size > 1;
}

/* A group's failure is kept as any other. */
static bool went_well(ks_cpu *cpu, int result, const ks_error *err)
{
    if (result != 0)
        ks_cpu_fail(cpu, "%s", err->text);
    return result == 0;
}

/* Pixels of a row, or of all of them, as one dense array, there or back. */
static void copy_pixels(float *dense, ks_act a, bool back)
{
    const int64_t pixels = a.n * ks_cpu_pixels(a);
    for (int64_t p = 0; p < pixels; p++) {
        float *pixel = (float *)a.data + p * a.stride, *other = dense + p * a.c;
        memcpy(back ? pixel : other, back ? other : pixel, (size_t)a.c * sizeof(float));
    }
}

typedef struct summing {
    float *all; /* [parts, count]: the first part becomes the sum */
    int64_t count;
    int parts;
} summing;

enum { SUM_TILE = 1 << 14 };

/* A stretch of elements, part after part. */
static void sum_tile(void *arg, int index, int worker)
{
    (void)worker;
    const summing *s = arg;
    const int64_t first = (int64_t)index * SUM_TILE, n = ks_cpu_min(SUM_TILE, s->count - first);
    float *sum = s->all + first;
    for (int k = 1; k < s->parts; k++) {
        const float *part = s->all + k * s->count + first;
        for (int64_t i = 0; i < n; i++)
            sum[i] += part[i];
    }
}

void ks_cpu_all_reduce(ks_ops *ops, ks_act y)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    ks_error err = KS_ERROR_NONE;
    if (!shared(cpu, cpu->tensor, "a sum of several ranks"))
        return;
    summing s = {.count = y.n * ks_cpu_pixels(y) * y.c, .parts = cpu->tensor->size};
    float *mine = ks_cpu_shared_scratch(cpu, (s.parts + 1) * s.count);
    if (!mine)
        return;
    s.all = mine + s.count;
    copy_pixels(mine, y, false);
    if (!went_well(cpu, cpu->tensor->gather(cpu->tensor, mine, (size_t)s.count * sizeof(float), s.all, &err), &err))
        return;
    ks_threads_run(cpu->pool, (int)((s.count + SUM_TILE - 1) / SUM_TILE), sum_tile, &s);
    copy_pixels(s.all, y, true);
}

void ks_cpu_broadcast(ks_ops *ops, void *device, size_t bytes)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    ks_error err = KS_ERROR_NONE;
    if (shared(cpu, cpu->replica, "a broadcast"))
        went_well(cpu, cpu->replica->broadcast(cpu->replica, device, bytes, 0, &err), &err);
}

/* This rank's share goes through scratch: a group need not bear that it lies among the others'. */
void ks_cpu_gather(ks_ops *ops, void *device, size_t bytes)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    ks_error err = KS_ERROR_NONE;
    if (!shared(cpu, cpu->replica, "a gathering"))
        return;
    void *mine = ks_cpu_shared_scratch(cpu, (int64_t)((bytes + sizeof(float) - 1) / sizeof(float)));
    if (!mine)
        return;
    memcpy(mine, (char *)device + (size_t)cpu->replica->rank * bytes, bytes);
    went_well(cpu, cpu->replica->gather(cpu->replica, mine, bytes, device, &err), &err);
}
