#include "cluster/device.h"

#include <string.h>

#include "base/threads.h"

static ks_ops *open_cpu(const ks_job *job, int local_size, int threads, ks_error *err)
{
    if (strcmp(job->precision, "auto") && strcmp(job->precision, "fp32")) {
        ks_error_set(err, "%s: precision: the CPU renders in \"fp32\" (or \"auto\"); \"%s\" needs a GPU", job->path,
                     job->precision);
        return NULL;
    }
    if (!threads)
        threads = ks_threads_available() / local_size;
    return ks_ops_cpu(threads > 0 ? threads : 1, err);
}

/* Ranks that were bound to a GPU each see one GPU; otherwise the node's GPUs are dealt out by local rank. */
static ks_ops *open_gpu(const ks_job *job, int gpus, int local_rank, int local_size, ks_error *err)
{
    const char *precision = strcmp(job->precision, "auto") ? job->precision : "fp16";
    if (gpus > 1 && local_size > gpus) {
        ks_error_set(err, "%s: %d ranks on this node and %d GPUs: start one rank a GPU", job->path, local_size, gpus);
        return NULL;
    }
    ks_ops *ops = ks_ops_cuda(gpus > 1 ? local_rank : 0, precision, err);
    if (!ops)
        ks_error_wrap(err, "%s: device", job->path);
    return ops;
}

ks_ops *ks_device_open(const ks_job *job, int local_rank, int local_size, int threads, ks_error *err)
{
    int gpus = strcmp(job->device, "cpu") ? ks_cuda_device_count() : 0;
    if (gpus)
        return open_gpu(job, gpus, local_rank, local_size, err);
    if (!strcmp(job->device, "cuda"))
        return open_gpu(job, 1, local_rank, local_size, err); /* says what is missing: backend, driver or GPU */
    return open_cpu(job, local_size, threads, err);
}
