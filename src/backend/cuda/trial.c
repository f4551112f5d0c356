/* Whether an algorithm gives a row the same bits at whatever place of a call. */
#include "backend/cuda/cuda.h"
#include "kernels/parameters.h"

/* The arrays of a trial: memory of their own, given back at its end. */
typedef struct arrays {
    ks_act plain, moved, x, row_bias, residual;
    int32_t *differ;
} arrays;

static size_t row_elements(ks_act a)
{
    return (size_t)ks_cuda_pixels(a) * (size_t)a.stride;
}

/* Zeroed memory; NULL after a failure. */
static void *memory_for(ks_cuda *c, size_t bytes)
{
    ks_error err;
    void *memory = c->failed ? NULL : ks_cuda_alloc(&c->ops, bytes, &err);
    if (!memory && !c->failed)
        ks_cuda_fail(c, "trying an algorithm: %s", err.text);
    return memory;
}

/* Memory of a's shape and stride; an absent one stays absent. */
static ks_act twin(ks_cuda *c, ks_act a)
{
    if (a.data)
        a.data = memory_for(c, (size_t)a.n * row_elements(a) * ks_cuda_element(c));
    return a;
}

static void fill(ks_cuda *c, ks_act a, int shift, uint32_t seed)
{
    if (a.data)
        KS_CUDA_CALL(c, ks_cuda_random_rows(c->stream, c->type, a.data, a.n,
                                            (int64_t)row_elements(a), shift, seed));
}

/* The rows, each `shift` places from where it stood, into y, which is the residual where it is on
 * the trial. */
static bool run(ks_cuda *c, const ks_cuda_trial *t, const arrays *all, ks_act y, int shift)
{
    ks_act residual = t->residual.data == t->y.data ? y : all->residual;
    fill(c, all->x, shift, 1);
    fill(c, all->row_bias, shift, 2);
    fill(c, residual, shift, 3);
    return !c->failed && t->run(c, t->how, y, all->x, all->row_bias, residual);
}

/* Row by row, shifted by one place and by half of them: every row meets other tiles. */
static bool same_bits(ks_cuda *c, const ks_cuda_trial *t, const arrays *all)
{
    const int n = t->y.n, shift[] = {1, n / 2};
    const size_t row = row_elements(t->y) * ks_cuda_element(c);
    int32_t differ = 0;
    if (!run(c, t, all, all->plain, 0))
        return false;
    for (int i = 0; n > 1 && i < (n > 3 ? 2 : 1); i++)
        if (!run(c, t, all, all->moved, shift[i]) ||
            !KS_CUDA_CALL(c, ks_cuda_compare_rows(c->stream, all->differ, all->plain.data,
                                                  all->moved.data, n, row, shift[i])))
            return false;
    return KS_CUDA_CALL(c, cudaMemcpyAsync(&differ, all->differ, sizeof differ,
                                           cudaMemcpyDeviceToHost, c->stream)) &&
           ks_cuda_passed(c, NULL) && !differ;
}

bool ks_cuda_keeps_rows(ks_cuda *c, const ks_cuda_trial *t)
{
    if (c->capturing)
        ks_cuda_fail(c, "cuda backend: a shape that was not there when the work was kept");
    const arrays all = {.plain = twin(c, t->y),
                        .moved = twin(c, t->y),
                        .x = twin(c, t->x),
                        .row_bias = twin(c, t->row_bias),
                        .residual = twin(c, t->residual),
                        .differ = memory_for(c, sizeof *all.differ)};
    bool keeps = !c->failed && same_bits(c, t, &all);
    void *const memory[] = {all.plain.data,    all.moved.data,    all.x.data,
                            all.row_bias.data, all.residual.data, all.differ};
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        ks_cuda_release(&c->ops, memory[i]);
    return keeps;
}
