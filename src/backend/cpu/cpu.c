/* ks_ops_cpu: the device as a whole. Every call has done its work when it returns. */
#include "backend/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

static void *cpu_alloc(ks_ops *ops, size_t bytes, ks_error *err)
{
    void *memory = ks_cpu_memory(bytes);
    if (memory)
        memset(memory, 0, bytes);
    else
        ks_error_set(err, "no memory for %.1f MiB", (double)bytes / (1 << 20));
    ops->fault |= !memory;
    return memory;
}

static void cpu_release(ks_ops *ops, void *memory)
{
    (void)ops;
    free(memory);
}

static void cpu_copy(ks_ops *ops, void *to, const void *from, size_t bytes)
{
    if (!ks_cpu_of(ops)->failed && bytes > 0)
        memcpy(to, from, bytes);
}

static int cpu_sync(ks_ops *ops, ks_error *err)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    if (!cpu->failed)
        return 0;
    cpu->failed = false;
    ops->fault = true;
    return ks_error_set(err, "%s", cpu->failure.text);
}

static void cpu_free(ks_ops *ops)
{
    if (!ops)
        return;
    ks_cpu *cpu = ks_cpu_of(ops);
    for (int i = 0; cpu->scratch && i < ops->threads; i++)
        free(cpu->scratch[i].data);
    free(cpu->scratch);
    free(cpu->shared.data);
    for (int i = 0; i < cpu->chunks; i++)
        free(cpu->chunk[i].data);
    free(cpu->chunk);
    ks_threads_free(cpu->pool);
    free(cpu);
}

static const ks_ops operations = {
    .name = "cpu",
    .slices = true,
    .precision = "fp32",
    .alloc = cpu_alloc,
    .release = cpu_release,
    .memory_free = ks_cpu_memory_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .sync = cpu_sync,
    .mark = ks_cpu_mark,
    .unwind = ks_cpu_unwind,
    .act = ks_cpu_act,
    .weight = ks_cpu_weight,
    .norm_weight = ks_cpu_norm_weight,
    .table = ks_cpu_table,
    .weight_free = ks_cpu_weight_free,
    .conv = ks_cpu_conv,
    .linear = ks_cpu_linear,
    .geglu = ks_cpu_geglu,
    .group_norm = ks_cpu_group_norm,
    .layer_norm = ks_cpu_layer_norm,
    .attention = ks_cpu_attention,
    .concat = ks_cpu_concat,
    .add = ks_cpu_add,
    .activate = ks_cpu_activate,
    .timestep_embedding = ks_cpu_timestep_embedding,
    .embedding = ks_cpu_embedding,
    .from_latents = ks_cpu_from_latents,
    .to_latents = ks_cpu_to_latents,
    .from_floats = ks_cpu_from_floats,
    .to_floats = ks_cpu_to_floats,
    .to_rgb = ks_cpu_to_rgb,
    .lincomb = ks_cpu_lincomb,
    .crop = ks_cpu_crop,
    .blend = ks_cpu_blend,
    .inpaint = ks_cpu_inpaint,
    .error_norm = ks_cpu_error_norm,
    .all_finite = ks_cpu_all_finite,
    .join = ks_cpu_join,
    .all_reduce = ks_cpu_all_reduce,
    .broadcast = ks_cpu_broadcast,
    .gather = ks_cpu_gather,
    .free = cpu_free,
};

ks_ops *ks_ops_cpu(int threads, ks_error *err)
{
    ks_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) {
        ks_error_set(err, "no memory for the CPU backend");
        return NULL;
    }
    cpu->ops = operations;
    cpu->ops.self = cpu;
    cpu->vector = ks_vector_table(0);
    cpu->pool = ks_threads_new(threads, err);
    if (!cpu->pool) {
        cpu_free(&cpu->ops);
        return NULL;
    }
    cpu->ops.threads = ks_threads_count(cpu->pool);
    cpu->scratch = calloc((size_t)cpu->ops.threads, sizeof *cpu->scratch);
    if (!cpu->scratch) {
        ks_error_set(err, "no memory for the CPU backend");
        cpu_free(&cpu->ops);
        return NULL;
    }
    ks_cpu_describe(cpu->ops.device, sizeof cpu->ops.device);
    ks_cpu_single_blas_thread();
    if (ks_cpu_reserve_blas(cpu->ops.threads, err) != 0) {
        cpu_free(&cpu->ops);
        return NULL;
    }
    return &cpu->ops;
}
