/* The device that a rank renders on: the job's "device" and "precision", and the rank's place on its node. */
#ifndef KS_CLUSTER_DEVICE_H
#define KS_CLUSTER_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "job/job.h"

enum { KS_VIEW_CPUS = 8192, KS_VIEW_GPUS = 16 };

/* What a rank may use of its node, as the launcher has left it: the CPUs that it is bound to and the GPUs that it sees. */
typedef struct ks_device_view {
    uint8_t cpu[KS_VIEW_CPUS / 8]; /* bit i % 8 of byte i / 8: CPU i */
    int32_t gpus;
    uint8_t gpu[KS_VIEW_GPUS][KS_GPU_ID]; /* which they are, for whoever sees them by another number */
} ks_device_view;

/* This process' view; without GPUs when the job is for the CPU. */
void ks_device_look(const ks_job *job, ks_device_view *view);

/* The views of all ranks of a node, in their order. */
typedef struct ks_device_node {
    const ks_device_view *view;
    int ranks;
} ks_device_node;

/* Which of the GPUs that the rank sees is its own: the first that no rank before it has. -1: there is none left, unless they are to
 * be shared evenly. */
int ks_device_gpu(const ks_device_node *node, int rank, bool share);

/* Ranks that render on that GPU; those of the node for one that sees none. */
int ks_device_sharers(const ks_device_node *node, int rank, bool share);

/* GPUs that some rank of the node sees and none renders on: 0 where each rank is bound to its own. */
int ks_device_idle_gpus(const ks_device_node *node, bool share);

/* The rank's share of the CPUs: each counts for as much as there are ranks bound to it. At least 1. */
int ks_device_threads(const ks_device_node *node, int rank);

/* "auto" takes a GPU where there is one, else the CPU. "auto" precision is fp16 on a GPU and fp32 on the CPU. threads: of the CPU,
 * 0 for the rank's share. share: several ranks may have one GPU. NULL and err, which names the job's key, where that cannot be. */
ks_ops *ks_device_open(const ks_job *job, const ks_device_node *node, int rank, int threads, bool share, ks_error *err);

/* The same for a process that is alone. */
ks_ops *ks_device_open_alone(const ks_job *job, int threads, ks_error *err);

#endif
