/* A pair of ranks on one node that write into each other's memory (kernels/sum.cu): half the time of NCCL's sums at the sizes
 * of these networks. Where that cannot be had (other nodes, no way between the GPUs, or a first sum that goes wrong) both go
 * without, and that is no failure. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/nccl.h"
#include "base/file.h"

/* What a rank tells the other: where it is, and how to find its memory. */
typedef struct offer {
    char node[64];
    cudaIpcMemHandle_t memory;
    int multiprocessors;
    bool made;
} offer;

/* This machine, and since when it runs: of use to whoever runs on the same system alone. */
static void name_node(char *name, size_t size)
{
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (!f || !fgets(name, (int)size, f))
        *name = '\0';
    if (f)
        fclose(f);
}

/* A CUDA call that may fail without being a failure. */
static bool works(cudaError_t status)
{
    if (status != cudaSuccess)
        cudaGetLastError();
    return status == cudaSuccess;
}

static void *zeroed(ks_cuda *c, size_t bytes)
{
    void *memory = NULL;
    if (!works(cudaMalloc(&memory, bytes)))
        return NULL;
    if (works(cudaMemsetAsync(memory, 0, bytes, c->stream)) && works(cudaStreamSynchronize(c->stream)))
        return memory;
    cudaFree(memory);
    return NULL;
}

static void make_offer(ks_cuda *c, ks_cuda_peer *p, offer *mine)
{
    *mine = (offer){.made = false};
    name_node(mine->node, sizeof mine->node);
    p->x.own = zeroed(c, ks_cuda_exchange_bytes());
    p->x.turns = zeroed(c, KS_CUDA_TURN_BYTES);
    mine->made = *mine->node && p->x.own && p->x.turns &&
                 works(cudaHostAlloc((void **)&p->given_up, sizeof *p->given_up, cudaHostAllocMapped)) &&
                 works(cudaDeviceGetAttribute(&mine->multiprocessors, cudaDevAttrMultiProcessorCount, c->device)) &&
                 works(cudaIpcGetMemHandle(&mine->memory, p->x.own));
    if (!mine->made)
        return;
    *p->given_up = 0;
    p->x.given_up = p->given_up;
}

/* The memory of the other's offer, where both have made one on one node. */
static bool take_offer(ks_cuda_peer *p, const offer *both, int rank)
{
    const offer *other = &both[1 - rank];
    if (!both[0].made || !both[1].made || strcmp(both[0].node, both[1].node) != 0)
        return false;
    const int least = both[0].multiprocessors < both[1].multiprocessors ? both[0].multiprocessors : both[1].multiprocessors;
    p->x.blocks = KS_CUDA_EXCHANGE_EACH * least;
    if (p->x.blocks > KS_CUDA_EXCHANGE_BLOCKS)
        p->x.blocks = KS_CUDA_EXCHANGE_BLOCKS;
    if (works(cudaIpcOpenMemHandle(&p->x.other, other->memory, cudaIpcMemLazyEnablePeerAccess)))
        return true;
    p->x.other = NULL;
    return false;
}

/* --- a first sum --- */

enum { TRIED = 3 << 20 }; /* several tiles for each block */
static const double trial_seconds = 10;

static float tried_number(int rank, int i)
{
    return (float)((rank + 1) * (i % 1021));
}

/* Sums the numbers twice on the device; false where that does not end. */
static bool run_trial(ks_cuda *c, ks_cuda_peer *p, float *host, float *device)
{
    const size_t bytes = TRIED * sizeof *host;
    const ks_act y = {.data = device, .n = 1, .h = TRIED / 1024, .w = 1, .c = 1024, .stride = 1024};
    bool good = works(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, c->stream));
    for (int i = 0; i < 2 && good; i++)
        good = works((cudaError_t)ks_cuda_sum_with_other(c->stream, KS_F32, y, &p->x));
    good = good && works(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->stream));
    if (ks_cuda_drains(c, trial_seconds))
        return good;
    *p->given_up = 1;
    return ks_cuda_drains(c, trial_seconds) && false;
}

/* host, device: of TRIED numbers; host: pinned, for what is copied from there must not keep the host. */
static bool sums_rightly(ks_cuda *c, ks_cuda_peer *p, int rank, float *host, float *device)
{
    for (int i = 0; i < TRIED; i++)
        host[i] = tried_number(rank, i);
    bool good = run_trial(c, p, host, device);
    for (int i = 0; i < TRIED && good; i++)
        good = host[i] == 2 * (tried_number(0, i) + tried_number(1, i));
    return good;
}

static bool passes_trial(ks_cuda *c, ks_cuda_peer *p, int rank)
{
    float *host = NULL, *device = zeroed(c, TRIED * sizeof *device);
    bool good = device && works(cudaMallocHost((void **)&host, TRIED * sizeof *host)) && sums_rightly(c, p, rank, host, device);
    cudaFreeHost(host);
    cudaFree(device);
    return good;
}

/* --- from beginning to end --- */

/* Whether all agree; -1 where they do not come. */
static int agree(ks_group *g, bool good, ks_error *err)
{
    unsigned char mine = good, all[2] = {0};
    if (g->gather(g, &mine, sizeof mine, all, err) != 0)
        return -1;
    return all[0] && all[1];
}

int ks_cuda_peer_join(ks_cuda *c, ks_cuda_peer *p, ks_group *g, ks_error *err)
{
    offer mine, both[2];
    *p = (ks_cuda_peer){0};
    if (g->size != 2)
        return 0;
    make_offer(c, p, &mine);
    if (g->gather(g, &mine, sizeof mine, both, err) != 0)
        return -1;
    int agreed = agree(g, take_offer(p, both, g->rank), err);
    if (agreed > 0)
        agreed = agree(g, passes_trial(c, p, g->rank), err);
    if (agreed < 0)
        return -1;
    p->used = agreed;
    if (p->used)
        return 0;
    ks_cuda_peer_close(p);
    if (agree(g, true, err) < 0) /* both have let go when this has come */
        return -1;
    ks_cuda_peer_free(p);
    return 0;
}

void ks_cuda_peer_give_up(ks_cuda_peer *p)
{
    if (p->given_up)
        *(volatile int *)p->given_up = 1;
}

void ks_cuda_peer_close(ks_cuda_peer *p)
{
    if (p->x.other)
        cudaIpcCloseMemHandle(p->x.other);
    p->x.other = NULL;
    cudaGetLastError();
}

void ks_cuda_peer_free(ks_cuda_peer *p)
{
    ks_cuda_peer_close(p);
    cudaFree(p->x.own);
    cudaFree(p->x.turns);
    cudaFreeHost(p->given_up);
    cudaGetLastError();
    *p = (ks_cuda_peer){0};
}
