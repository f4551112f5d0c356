/* The device that a rank renders on: the job's "device" and "precision", and the rank's place on its node. */
#ifndef KS_CLUSTER_DEVICE_H
#define KS_CLUSTER_DEVICE_H

#include "backend/ops.h"
#include "base/error.h"
#include "job/job.h"

/* local_rank of local_size ranks on this node. "auto" takes a GPU where there is one, else the CPU; a GPU goes to one rank,
 * by local rank among those that CUDA_VISIBLE_DEVICES leaves. "auto" precision is fp16 on a GPU and fp32 on the CPU.
 * threads: of the CPU, 0 for the rank's share. NULL and err, which names the job's key, where that cannot be. */
ks_ops *ks_device_open(const ks_job *job, int local_rank, int local_size, int threads, ks_error *err);

#endif
