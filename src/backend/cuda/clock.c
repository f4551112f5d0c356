/* Time on the device: stretches of queued work between two events, read when they have passed, without waiting. */
#include "backend/cuda/cuda.h"

int ks_cuda_clocks_init(ks_cuda *c, ks_error *err)
{
    cudaError_t status = cudaSuccess;
    for (int i = 0; status == cudaSuccess && i < KS_CUDA_STRETCHES; i++) {
        status = cudaEventCreate(&c->clocks.stretch[i].begin);
        if (status == cudaSuccess)
            status = cudaEventCreate(&c->clocks.stretch[i].end);
    }
    if (status == cudaSuccess)
        return 0;
    return ks_error_set(err, "GPU %d: no events for its clock: %s", c->device, cudaGetErrorString(status));
}

void ks_cuda_clocks_free(ks_cuda *c)
{
    for (int i = 0; i < KS_CUDA_STRETCHES; i++) {
        const ks_cuda_stretch *s = &c->clocks.stretch[i];
        if (s->begin)
            cudaEventDestroy(s->begin);
        if (s->end)
            cudaEventDestroy(s->end);
    }
}

/* Counts the oldest stretch; it must have passed. */
static void count_oldest(ks_cuda *c)
{
    ks_cuda_clocks *k = &c->clocks;
    const ks_cuda_stretch *s = &k->stretch[k->first];
    float milliseconds = 0;
    if (KS_CUDA_CALL(c, cudaEventElapsedTime(&milliseconds, s->begin, s->end))) {
        k->seconds[s->kind] += 1e-3 * (double)milliseconds;
        k->count[s->kind]++;
    }
    k->first = (k->first + 1) % KS_CUDA_STRETCHES;
    k->pending--;
}

/* Counts the stretches that have passed; with `wait`, the oldest in any case. */
static void collect(ks_cuda *c, bool wait)
{
    ks_cuda_clocks *k = &c->clocks;
    while (k->pending > (k->open ? 1 : 0) && !c->failed) {
        cudaEvent_t end = k->stretch[k->first].end;
        if (wait) {
            if (!ks_cuda_passed(c, end))
                return;
        } else {
            cudaError_t status = cudaEventQuery(end);
            if (status == cudaErrorNotReady || !ks_cuda_good(c, (int)status, "cudaEventQuery"))
                return;
        }
        wait = false;
        count_oldest(c);
    }
}

void ks_cuda_clock_begin(ks_ops *ops, ks_clock kind)
{
    ks_cuda *c = ks_cuda_of(ops);
    ks_cuda_clocks *k = &c->clocks;
    const ks_act none = {0};
    if (k->open || c->capturing || !ks_cuda_runs(c, true, "clock", none, none))
        return;
    if (k->pending == KS_CUDA_STRETCHES)
        collect(c, true);
    if (k->pending == KS_CUDA_STRETCHES)
        return;
    ks_cuda_stretch *s = &k->stretch[(k->first + k->pending) % KS_CUDA_STRETCHES];
    s->kind = kind;
    if (!KS_CUDA_CALL(c, cudaEventRecord(s->begin, c->stream)))
        return;
    k->pending++;
    k->open = true;
}

void ks_cuda_clock_end(ks_ops *ops)
{
    ks_cuda *c = ks_cuda_of(ops);
    ks_cuda_clocks *k = &c->clocks;
    if (!k->open)
        return;
    k->open = false;
    const ks_cuda_stretch *s = &k->stretch[(k->first + k->pending - 1) % KS_CUDA_STRETCHES];
    if (c->failed || !KS_CUDA_CALL(c, cudaEventRecord(s->end, c->stream)))
        k->pending--; /* its end will never come */
}

double ks_cuda_clock_seconds(ks_ops *ops, ks_clock kind, int64_t *count)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!c->failed && cudaSetDevice(c->device) == cudaSuccess)
        collect(c, false);
    *count = c->clocks.count[kind];
    return c->clocks.seconds[kind];
}
