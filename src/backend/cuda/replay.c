/* Work that comes again, kept as CUDA graphs. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"

static void forget(ks_cuda_graph *g)
{
    if (g->graph)
        cudaGraphExecDestroy(g->graph);
    *g = (ks_cuda_graph){0};
}

void ks_cuda_graphs_free(ks_cuda *c)
{
    bool any = false;
    if (c->stuck)
        return;
    for (int i = 0; i < KS_CUDA_GRAPHS; i++)
        any = any || c->graph[i].graph;
    if (any)
        ks_cuda_passed(c, NULL);
    for (int i = 0; i < KS_CUDA_GRAPHS; i++)
        forget(&c->graph[i]);
}

/* What the work queues, without running it; NULL and a kept failure when that cannot be done. */
static cudaGraphExec_t capture(ks_cuda *c, void (*work)(void *), void *arg)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t made = NULL;
    if (!KS_CUDA_CALL(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal)))
        return NULL;
    c->capturing = true;
    work(arg);
    c->capturing = false;
    bool good = KS_CUDA_CALL(c, cudaStreamEndCapture(c->stream, &graph)) && !c->failed;
    if (good && !KS_CUDA_CALL(c, cudaGraphInstantiate(&made, graph, 0)))
        made = NULL;
    if (graph)
        cudaGraphDestroy(graph);
    return made;
}

/* A place for one more: the one that was used longest ago makes room. */
static ks_cuda_graph *free_place(ks_cuda *c)
{
    ks_cuda_graph *oldest = &c->graph[0];
    for (int i = 1; i < KS_CUDA_GRAPHS; i++)
        if (c->graph[i].used < oldest->used)
            oldest = &c->graph[i];
    if (oldest->graph)
        ks_cuda_passed(c, NULL);
    forget(oldest);
    return oldest;
}

/* The first time the work runs as it is, so that algorithms, scratch and the kernels' code are
 * there when it is captured. */
int ks_cuda_replay(ks_ops *ops, uint64_t key, void (*work)(void *arg), void *arg, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    if (c->capturing)
        return ks_error_set(err, "cuda backend: kept work within kept work");
    if (!ks_cuda_runs(c, true, "replay", none, none))
        return 0; /* sync tells */
    c->replays++;
    for (int i = 0; i < KS_CUDA_GRAPHS; i++) {
        ks_cuda_graph *g = &c->graph[i];
        if (!g->graph || g->key != key)
            continue;
        g->used = c->replays;
        KS_CUDA_CALL(c, cudaGraphLaunch(g->graph, c->stream));
        return 0;
    }
    work(arg);
    cudaGraphExec_t made = c->failed ? NULL : capture(c, work, arg);
    if (made)
        *free_place(c) = (ks_cuda_graph){.key = key, .used = c->replays, .graph = made};
    return 0;
}
