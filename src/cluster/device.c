#include "cluster/device.h"

#include <string.h>

#include "base/threads.h"

void ks_device_look(const ks_job *job, ks_device_view *view)
{
    *view = (ks_device_view){0};
    ks_threads_cpus(view->cpu, KS_VIEW_CPUS);
    int count = strcmp(job->device, "cpu") ? ks_cuda_device_count() : 0;
    view->gpus = count < KS_VIEW_GPUS ? count : KS_VIEW_GPUS;
    for (int i = 0; i < view->gpus; i++)
        ks_cuda_device_id(i, view->gpu[i]);
}

/* --- GPUs --- */

/* The GPUs of a node, and how many of the ranks so far have each. */
typedef struct taken {
    const uint8_t *id[KS_VIEW_GPUS * 4];
    int ranks[KS_VIEW_GPUS * 4];
    int count;
} taken;

/* The GPU's place in the table; a new one begins with no rank. */
static int find_gpu(taken *t, const uint8_t *id)
{
    int i = 0;
    while (i < t->count && memcmp(t->id[i], id, KS_GPU_ID))
        i++;
    if (i == t->count && t->count < (int)(sizeof t->id / sizeof *t->id)) {
        t->id[i] = id;
        t->ranks[i] = 0;
        t->count++;
    }
    return i < t->count ? i : 0;
}

/* Gives the rank's view the one of its GPUs that fewest have; -1 when none is free and they are not shared. */
static int take_gpu(taken *t, const ks_device_view *v, bool share)
{
    int best = -1, least = 0;
    for (int i = 0; i < v->gpus; i++) {
        int ranks = t->ranks[find_gpu(t, v->gpu[i])];
        if (best < 0 || ranks < least) {
            best = i;
            least = ranks;
        }
    }
    if (best < 0 || (least && !share))
        return -1;
    t->ranks[find_gpu(t, v->gpu[best])]++;
    return best;
}

int ks_device_gpu(const ks_device_node *node, int rank, bool share)
{
    taken t = {.count = 0};
    int gpu = -1;
    for (int i = 0; i <= rank; i++)
        gpu = take_gpu(&t, &node->view[i], share);
    return gpu;
}

int ks_device_sharers(const ks_device_node *node, int rank, bool share)
{
    taken t = {.count = 0};
    const uint8_t *own = NULL;
    for (int i = 0; i < node->ranks; i++) {
        int gpu = take_gpu(&t, &node->view[i], share);
        if (i == rank && gpu >= 0)
            own = node->view[i].gpu[gpu];
    }
    return own ? t.ranks[find_gpu(&t, own)] : node->ranks;
}

static int count_gpus(const ks_device_node *node)
{
    taken t = {.count = 0};
    for (int i = 0; i < node->ranks; i++) {
        for (int k = 0; k < node->view[i].gpus; k++)
            find_gpu(&t, node->view[i].gpu[k]);
    }
    return t.count;
}

int ks_device_idle_gpus(const ks_device_node *node, bool share)
{
    taken t = {.count = 0};
    int busy = 0;
    for (int i = 0; i < node->ranks; i++)
        take_gpu(&t, &node->view[i], share);
    for (int i = 0; i < t.count; i++)
        busy += t.ranks[i] > 0;
    return count_gpus(node) - busy;
}

static ks_ops *open_cuda(const ks_job *job, int gpu, ks_error *err)
{
    const char *precision = strcmp(job->precision, "auto") ? job->precision : "fp16";
    ks_ops *ops = ks_ops_cuda(gpu, precision, err);
    if (!ops)
        ks_error_wrap(err, "%s: device", job->path);
    return ops;
}

static ks_ops *open_gpu(const ks_job *job, const ks_device_node *node, int rank, bool share, ks_error *err)
{
    int gpu = ks_device_gpu(node, rank, share);
    if (gpu >= 0)
        return open_cuda(job, gpu, err);
    int gpus = count_gpus(node);
    ks_error_set(err, "%s: %d ranks on this node and %d GPU%s: start one rank a GPU, or let them share with --share-gpus",
                 job->path, node->ranks, gpus, gpus == 1 ? "" : "s");
    return NULL;
}

/* --- the CPU --- */

static bool has_cpu(const ks_device_view *v, int cpu)
{
    return v->cpu[cpu / 8] >> (cpu % 8) & 1;
}

int ks_device_threads(const ks_device_node *node, int rank)
{
    double share = 0;
    for (int cpu = 0; cpu < KS_VIEW_CPUS; cpu++) {
        int ranks = 0;
        for (int i = 0; i < node->ranks && has_cpu(&node->view[rank], cpu); i++)
            ranks += has_cpu(&node->view[i], cpu);
        share += ranks ? 1.0 / ranks : 0;
    }
    return share >= 1 ? (int)(share + 1e-6) : 1;
}

static ks_ops *open_cpu(const ks_job *job, const ks_device_node *node, int rank, int threads, ks_error *err)
{
    if (strcmp(job->precision, "auto") && strcmp(job->precision, "fp32")) {
        ks_error_set(err, "%s: precision: the CPU renders in \"fp32\" (or \"auto\"); \"%s\" needs a GPU", job->path,
                     job->precision);
        return NULL;
    }
    return ks_ops_cpu(threads ? threads : ks_device_threads(node, rank), err);
}

ks_ops *ks_device_open(const ks_job *job, const ks_device_node *node, int rank, int threads, bool share, ks_error *err)
{
    if (node->view[rank].gpus)
        return open_gpu(job, node, rank, share, err);
    if (!strcmp(job->device, "cuda"))
        return open_cuda(job, 0, err); /* says what is missing: backend, driver or GPU */
    return open_cpu(job, node, rank, threads, err);
}

ks_ops *ks_device_open_alone(const ks_job *job, int threads, ks_error *err)
{
    ks_device_view view;
    ks_device_look(job, &view);
    ks_device_node node = {&view, 1};
    return ks_device_open(job, &node, 0, threads, false, err);
}
