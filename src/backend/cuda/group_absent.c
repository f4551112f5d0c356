/* In place of one network on several GPUs where this program was built without NCCL. */
#include "backend/cuda/cuda.h"

int ks_cuda_join(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err)
{
    (void)ops;
    if (tensor->size == 1 && replica->size == 1)
        return 0;
    return ks_error_set(err, "this program was built without NCCL (KSWEEP_NCCL), which one network on several GPUs needs");
}

/* A group of one, for there are no others: nothing is to be done. */
void ks_cuda_all_reduce(ks_ops *ops, ks_act y)
{
    (void)ops;
    (void)y;
}

bool ks_cuda_can_sum_by(const ks_cuda *c, ks_cuda_sum_way way)
{
    (void)c;
    (void)way;
    return false;
}

void ks_cuda_all_reduce_by(ks_ops *ops, ks_act y, ks_cuda_sum_way way)
{
    (void)way;
    ks_cuda_all_reduce(ops, y);
}

void ks_cuda_broadcast(ks_ops *ops, void *device, size_t bytes)
{
    (void)ops;
    (void)device;
    (void)bytes;
}

void ks_cuda_gather(ks_ops *ops, void *device, size_t bytes)
{
    (void)ops;
    (void)device;
    (void)bytes;
}

bool ks_cuda_has_others(const ks_cuda *c)
{
    (void)c;
    return false;
}

bool ks_cuda_others_there(ks_cuda *c, double waited)
{
    (void)c;
    (void)waited;
    return true;
}

void ks_cuda_part(ks_cuda *c)
{
    (void)c;
}
