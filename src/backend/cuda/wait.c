/* Waiting for the device. Alone, the driver waits. With ranks on other devices what is queued may never end, for one of them
 * may be gone: then the host looks again and again, at them too, and after the group's patience gives the others up. */
#include <sched.h>
#include <time.h>

#include "backend/cuda/cuda.h"
#include "base/file.h"

void ks_cuda_pause(int looks)
{
    enum { BUSY = 200 };
    if (looks < BUSY)
        sched_yield();
    else
        nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static cudaError_t look(const ks_cuda *c, cudaEvent_t event)
{
    cudaError_t status = event ? cudaEventQuery(event) : cudaStreamQuery(c->stream);
    if (status == cudaErrorNotReady)
        cudaGetLastError(); /* it is not the next launch's */
    return status;
}

bool ks_cuda_drains(ks_cuda *c, double seconds)
{
    const double begin = ks_seconds();
    cudaError_t status = look(c, NULL);
    for (int looks = 0; status == cudaErrorNotReady && ks_seconds() - begin < seconds; looks++) {
        ks_cuda_pause(looks);
        status = look(c, NULL);
    }
    return status == cudaSuccess;
}

static bool wait_with_others(ks_cuda *c, cudaEvent_t event)
{
    const double begin = ks_seconds();
    cudaError_t status = look(c, event);
    for (int looks = 0; status == cudaErrorNotReady; looks++) {
        if (!ks_cuda_others_there(c, ks_seconds() - begin))
            return false;
        ks_cuda_pause(looks);
        status = look(c, event);
    }
    return ks_cuda_good(c, (int)status, "waiting");
}

bool ks_cuda_passed(ks_cuda *c, cudaEvent_t event)
{
    if (c->stuck) {
        ks_cuda_fail(c, "GPU %d: what it shares with other ranks has no end", c->device);
        return false;
    }
    if (ks_cuda_has_others(c))
        return wait_with_others(c, event);
    return event ? KS_CUDA_CALL(c, cudaEventSynchronize(event)) : KS_CUDA_CALL(c, cudaStreamSynchronize(c->stream));
}
