/* ops->noise on the host, by the generators themselves. */
#include <stdlib.h>
#include <string.h>

#include "backend/generators.h"
#include "sampling/mt19937.h"
#include "sampling/noise.h"
#include "support/host_ops.h"

static void *memory_of(int64_t count, size_t size)
{
    void *memory = calloc((size_t)count, size);
    if (!memory)
        abort();
    return memory;
}

static void next_draw(const ks_noise_op *op, float *z)
{
    ks_generator g;
    ks_generator_seed(&g, op->device, op->seed);
    g.block = (uint64_t)op->skip;
    if (op->state && !op->fresh) {
        memcpy(g.mt, op->state, sizeof g.mt);
        g.mt_next = (int)op->state[KS_MT_WORDS];
    }
    if (op->device.kind == KS_NOISE_CPU) {
        uint32_t word;
        for (int64_t i = 0; i < op->skip; i++)
            ks_mt19937_words(g.mt, &g.mt_next, &word, 1);
    }
    ks_generator_normal(&g, z, op->n);
    if (op->state) {
        memcpy(op->state, g.mt, sizeof g.mt);
        op->state[KS_MT_WORDS] = (uint32_t)g.mt_next;
    }
}

static void sum_terms(const ks_noise_op *op, float *z, double *w)
{
    double *minus = memory_of(op->n, sizeof *minus);
    for (int k = 0; k < op->terms; k++) {
        ks_generator g;
        ks_generator_seed(&g, op->device, op->term[k].seed);
        ks_generator_normal(&g, z, op->n);
        for (int64_t i = 0; i < op->n; i++) {
            w[i] += op->term[k].plus * (double)z[i];
            minus[i] += op->term[k].minus * (double)z[i];
        }
    }
    for (int64_t i = 0; i < op->n; i++)
        w[i] -= minus[i];
    free(minus);
}

void host_noise_op(const ks_noise_op *op)
{
    float *z = memory_of(op->n, sizeof *z);
    double *w = memory_of(op->n, sizeof *w);
    if (op->device.kind == KS_NOISE_CPU && op->n < KS_NORMAL_BLOCK)
        abort(); /* not a device's */
    if (op->terms > 0)
        sum_terms(op, z, w);
    else
        next_draw(op, z);
    for (int64_t i = 0; i < op->n; i++) {
        double x = op->scale * (op->terms > 0 ? w[i] : (double)z[i]);
        op->out[i] = (float)(op->base ? x + op->base_coef * (double)op->base[i] : x);
    }
    free(w);
    free(z);
}
