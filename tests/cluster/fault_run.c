/* ksweep run on a CPU device that fails when it is told to, as a GPU might:
 *
 *     fault_run JOB RANK OPERATION|ALLOCATION NUMBER [DEADLINE]
 *
 * On rank RANK (-1: on all) operation number NUMBER, a convolution, fails and the next wait tells; or allocation number NUMBER
 * once the run has begun is refused. The exit status is that of ksweep run. This program's ks_device_open takes the place of the
 * library's (ld --wrap). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "cluster/device.h"
#include "ksweep/ksweep.h"

static struct {
    int rank, convs, allocs; /* 0: none fails */
    bool failed;
    ks_ops sound; /* what the CPU would do */
} fault;

static void conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    if (fault.convs && --fault.convs == 0)
        fault.failed = true;
    if (!fault.failed)
        fault.sound.conv(ops, y, x, w, how);
}

static int sync(ks_ops *ops, ks_error *err)
{
    int rc = fault.sound.sync(ops, err);
    if (rc || !fault.failed)
        return rc;
    fault.failed = false;
    ops->fault = true;
    return ks_error_set(err, "an injected fault in a launch");
}

static void *alloc(ks_ops *ops, size_t bytes, ks_error *err)
{
    if (!fault.allocs || --fault.allocs)
        return fault.sound.alloc(ops, bytes, err);
    ops->fault = true;
    ks_error_set(err, "an injected lack of memory for %zu bytes", bytes);
    return NULL;
}

ks_ops *__wrap_ks_device_open(const ks_job *job, const ks_device_node *node, int rank, int threads, bool share, ks_error *err);

ks_ops *__wrap_ks_device_open(const ks_job *job, const ks_device_node *node, int rank, int threads, bool share, ks_error *err)
{
    (void)job, (void)node, (void)threads, (void)share;
    ks_ops *ops = ks_ops_cpu(1, err);
    if (!ops || (fault.rank >= 0 && fault.rank != rank))
        return ops;
    fault.sound = *ops;
    ops->conv = conv;
    ops->sync = sync;
    ops->alloc = alloc;
    return ops;
}

static void tell(int code, const ks_run_summary *summary, const ks_error *err)
{
    (void)summary;
    if (code == KS_EXIT_BAD_INPUT && err->text[0])
        fprintf(stderr, "ksweep: %s\n", err->text);
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: fault_run JOB RANK OPERATION|ALLOCATION NUMBER [DEADLINE]\n");
        return 3;
    }
    fault.rank = atoi(argv[2]);
    *(strcmp(argv[3], "OPERATION") ? &fault.allocs : &fault.convs) = atoi(argv[4]);
    ks_run_options options = {.job = {.path = argv[1]}, .quiet = true, .tell = tell,
                              .deadline_seconds = argc > 5 ? atof(argv[5]) : 0};
    ks_run_summary summary;
    ks_error err = KS_ERROR_NONE;
    return ks_run(&options, &summary, &err);
}
