/* Failures that are kept, scratch memory and the stack of activations. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"

enum { CACHE_LINE = 64, LEAST_CHUNK = 16 << 20 };

void ks_cpu_fail(ks_cpu *cpu, const char *format, ...)
{
    if (cpu->failed)
        return;
    cpu->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(cpu->failure.text, sizeof cpu->failure.text, format, args);
    va_end(args);
}

bool ks_cpu_runs(ks_cpu *cpu, bool fits, const char *operation, ks_act y, ks_act x)
{
    if (cpu->failed)
        return false;
    if (!fits)
        ks_cpu_fail(cpu,
                    "cpu backend: %s: y [%d, %d, %d, %d] does not fit x [%d, %d, %d, %d] and the "
                    "operation's other arguments",
                    operation, y.n, y.h, y.w, y.c, x.n, x.h, x.w, x.c);
    return fits;
}

bool ks_cpu_same_shape(ks_act a, ks_act b)
{
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
}

void *ks_cpu_memory(size_t bytes)
{
    const size_t most = (size_t)1 << 47; /* no address space is larger */
    void *memory = NULL;
    if (bytes > most)
        return NULL;
    return posix_memalign(&memory, CACHE_LINE, bytes ? bytes : 1) == 0 ? memory : NULL;
}

static int grow(ks_cpu *cpu, ks_cpu_scratch *s, int64_t floats)
{
    if ((size_t)floats <= s->count)
        return 0;
    free(s->data);
    s->data = ks_cpu_memory((size_t)floats * sizeof *s->data);
    s->count = s->data ? (size_t)floats : 0;
    if (s->data)
        return 0;
    ks_cpu_fail(cpu, "cpu backend: no memory for %.1f MiB of scratch",
                (double)floats * 4 / (1 << 20));
    return -1;
}

int ks_cpu_need_scratch(ks_cpu *cpu, int64_t floats)
{
    for (int i = 0; i < cpu->ops.threads; i++)
        if (grow(cpu, &cpu->scratch[i], floats) < 0)
            return -1;
    return 0;
}

float *ks_cpu_shared_scratch(ks_cpu *cpu, int64_t floats)
{
    return grow(cpu, &cpu->shared, floats) < 0 ? NULL : cpu->shared.data;
}

size_t ks_cpu_mark(ks_ops *ops)
{
    const ks_cpu *cpu = ks_cpu_of(ops);
    return cpu->chunks ? cpu->chunk[cpu->current].start + cpu->used : 0;
}

void ks_cpu_unwind(ks_ops *ops, size_t mark)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    while (cpu->current > 0 && mark < cpu->chunk[cpu->current].start)
        cpu->current--;
    cpu->used = cpu->chunks ? mark - cpu->chunk[cpu->current].start : 0;
}

/* A further chunk of at least `bytes`. */
static int add_chunk(ks_cpu *cpu, size_t bytes)
{
    size_t size = bytes > LEAST_CHUNK ? bytes : LEAST_CHUNK;
    ks_cpu_chunk *grown = realloc(cpu->chunk, (size_t)(cpu->chunks + 1) * sizeof *grown);
    char *data = grown ? ks_cpu_memory(size) : NULL;
    if (grown)
        cpu->chunk = grown;
    if (!data)
        return -1;
    size_t start = cpu->chunks ? grown[cpu->chunks - 1].start + grown[cpu->chunks - 1].size : 0;
    grown[cpu->chunks++] = (ks_cpu_chunk){.data = data, .start = start, .size = size};
    return 0;
}

/* The first place from the top on that has room. Chunks never move and are only added behind, so
 * the same calls find the same places again. */
static void *take(ks_cpu *cpu, size_t bytes)
{
    int c = cpu->current;
    size_t used = cpu->used;
    while (c < cpu->chunks && bytes > cpu->chunk[c].size - used) {
        c++;
        used = 0;
    }
    if (c == cpu->chunks && add_chunk(cpu, bytes) < 0)
        return NULL;
    cpu->current = c;
    cpu->used = used + bytes;
    return cpu->chunk[c].data + used;
}

ks_act ks_cpu_act(ks_ops *ops, int n, int h, int w, int c)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    ks_act a = {.n = n, .h = h, .w = w, .c = c, .stride = c};
    if (cpu->failed)
        return a;
    size_t bytes = (size_t)n * (size_t)h * (size_t)w * (size_t)c * sizeof(float);
    a.data = take(cpu, (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    if (!a.data)
        ks_cpu_fail(cpu, "cpu backend: no memory for activations [%d, %d, %d, %d]", n, h, w, c);
    return a;
}
