/* The lanes' arithmetic on plain float32 arrays. */
#include "backend/cpu/cpu.h"

enum { PIECE = 1 << 14 }; /* elements a task */

typedef struct lincomb_job {
    const ks_vector *vector;
    const ks_lincomb_op *op;
} lincomb_job;

static void lincomb_task(void *arg, int index, int worker)
{
    (void)worker;
    const lincomb_job *j = arg;
    int64_t first = (int64_t)index * PIECE;
    j->vector->lincomb(j->op, first, ks_cpu_min(PIECE, j->op->n - first));
}

void ks_cpu_lincomb(ks_ops *ops, const ks_lincomb_op *op, int count)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    if (cpu->failed)
        return;
    for (int i = 0; i < count; i++) {
        lincomb_job j = {cpu->vector, &op[i]};
        ks_threads_run(cpu->pool, (int)((op[i].n + PIECE - 1) / PIECE), lincomb_task, &j);
    }
}

void ks_cpu_error_norm(ks_ops *ops, double *out, const float *a, const float *b, const float *c,
                       int64_t n, double atol, double rtol)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    if (!cpu->failed)
        *out = cpu->vector->error_sum(a, b, c, n, atol, rtol) / (double)n;
}

void ks_cpu_all_finite(ks_ops *ops, int *out, const float *a, int64_t n)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    if (!cpu->failed)
        *out = cpu->vector->all_finite(a, n) ? 1 : 0;
}
