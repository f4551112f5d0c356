/* In place of the CUDA backend where this program was built without it. */
#include <string.h>

#include "backend/ops.h"

int ks_cuda_device_count(void)
{
    return 0;
}

void ks_cuda_device_id(int device, uint8_t id[KS_GPU_ID])
{
    (void)device;
    memset(id, 0, KS_GPU_ID);
}

ks_ops *ks_ops_cuda(int device, const char *precision, ks_error *err)
{
    (void)device;
    (void)precision;
    ks_error_set(err, "this program was built without its CUDA backend (KSWEEP_CUDA)");
    return NULL;
}
