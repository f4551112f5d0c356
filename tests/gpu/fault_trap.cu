/* A kernel that traps: a real fault of the GPU. */
#include <cuda_runtime_api.h>

static __global__ void trap()
{
    asm("trap;");
}

extern "C" void fault_trap(cudaStream_t stream)
{
    trap<<<1, 1, 0, stream>>>();
}
