/* Between host and device. Both ways pass through pinned memory: the host's own memory may change
 * after an upload returns, and no copy stops the host before sync. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"

enum { SEGMENT = 8 << 20, ALIGNMENT = 64, ARRIVALS = 32 << 20 };

int ks_cuda_transfer_init(ks_cuda *c, ks_error *err)
{
    cudaError_t status =
        cudaMallocHost((void **)&c->up.memory, (size_t)KS_CUDA_SEGMENTS * SEGMENT);
    if (status == cudaSuccess)
        status = cudaMallocHost((void **)&c->down.memory, ARRIVALS);
    for (int i = 0; status == cudaSuccess && i < KS_CUDA_SEGMENTS; i++)
        status = cudaEventCreateWithFlags(&c->up.done[i], cudaEventDisableTiming);
    for (int i = 0; status == cudaSuccess && i < KS_CUDA_FENCES; i++)
        status = cudaEventCreateWithFlags(&c->fences.event[i], cudaEventDisableTiming);
    if (status == cudaSuccess)
        return 0;
    return ks_error_set(err, "GPU %d: no pinned memory for transfers: %s", c->device,
                        cudaGetErrorString(status));
}

void ks_cuda_transfer_free(ks_cuda *c)
{
    for (int i = 0; i < KS_CUDA_SEGMENTS; i++)
        if (c->up.done[i])
            cudaEventDestroy(c->up.done[i]);
    for (int i = 0; i < KS_CUDA_FENCES; i++)
        if (c->fences.event[i])
            cudaEventDestroy(c->fences.event[i]);
    cudaFreeHost(c->up.memory);
    cudaFreeHost(c->down.memory);
    free(c->down.arrival);
}

/* --- uploads --- */

/* Goes on to the next segment, once the copies from it are done. */
static bool next_segment(ks_cuda *c)
{
    ks_cuda_uploads *up = &c->up;
    if (!KS_CUDA_CALL(c, cudaEventRecord(up->done[up->segment], c->stream)))
        return false;
    up->waiting[up->segment] = true;
    up->segment = (up->segment + 1) % KS_CUDA_SEGMENTS;
    up->used = 0;
    return !up->waiting[up->segment] ||
           ks_cuda_passed(c, up->done[up->segment]);
}

static bool upload_piece(ks_cuda *c, char *device, const char *host, size_t bytes)
{
    char *pinned = c->up.memory + (size_t)c->up.segment * SEGMENT + c->up.used;
    c->up.used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    memcpy(pinned, host, bytes);
    return KS_CUDA_CALL(
        c, cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, c->stream));
}

void ks_cuda_upload(ks_ops *ops, void *device, const void *host, size_t bytes)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    if (c->capturing)
        ks_cuda_fail(c, "cuda backend: an upload within work that is kept");
    if (!ks_cuda_runs(c, true, "upload", none, none))
        return;
    for (size_t at = 0, piece; at < bytes; at += piece) {
        if (c->up.used >= SEGMENT && !next_segment(c))
            return;
        size_t room = SEGMENT - c->up.used;
        piece = bytes - at < room ? bytes - at : room;
        if (!upload_piece(c, (char *)device + at, (const char *)host + at, piece))
            return;
    }
}

/* --- downloads --- */

/* Brings what has arrived by a fence to its place; the pinned memory is free again when nothing is under way. */
static void bring(ks_cuda *c, uint64_t fence)
{
    ks_cuda_downloads *down = &c->down;
    int there = 0;
    for (; there < down->arrivals && down->arrival[there].fence <= fence; there++) {
        const ks_cuda_arrival *a = &down->arrival[there];
        memcpy(a->host, down->memory + a->at, a->bytes);
    }
    down->arrivals -= there;
    if (there > 0 && down->arrivals > 0)
        memmove(down->arrival, down->arrival + there, (size_t)down->arrivals * sizeof *down->arrival);
    if (down->arrivals == 0)
        down->used = 0;
}

/* Waits for the stream and brings what has arrived to its place. */
static bool settle(ks_cuda *c)
{
    bool good = ks_cuda_passed(c, NULL);
    if (good)
        bring(c, UINT64_MAX);
    c->down.arrivals = 0;
    c->down.used = 0;
    return good;
}

/* Room for one more arrival. */
static ks_cuda_arrival *new_arrival(ks_cuda *c)
{
    ks_cuda_downloads *down = &c->down;
    if (down->arrivals == down->room) {
        int room = down->room ? 2 * down->room : 64;
        ks_cuda_arrival *grown = realloc(down->arrival, (size_t)room * sizeof *grown);
        if (!grown) {
            ks_cuda_fail(c, "cuda backend: no memory for a list of %d downloads", room);
            return NULL;
        }
        down->arrival = grown;
        down->room = room;
    }
    return &down->arrival[down->arrivals++];
}

void ks_cuda_download(ks_ops *ops, void *host, const void *device, size_t bytes)
{
    ks_cuda *c = ks_cuda_of(ops);
    ks_cuda_downloads *down = &c->down;
    const ks_act none = {0};
    if (c->capturing)
        ks_cuda_fail(c, "cuda backend: a download within work that is kept");
    if (!ks_cuda_runs(c, true, "download", none, none))
        return;
    for (size_t at = 0, piece; at < bytes; at += piece) {
        if (down->used >= ARRIVALS && !settle(c))
            return;
        size_t room = ARRIVALS - down->used;
        piece = bytes - at < room ? bytes - at : room;
        ks_cuda_arrival *arrival = new_arrival(c);
        if (!arrival)
            return;
        *arrival = (ks_cuda_arrival){(char *)host + at, down->used, piece, c->fences.made};
        if (!KS_CUDA_CALL(c, cudaMemcpyAsync(down->memory + down->used, (const char *)device + at,
                                             piece, cudaMemcpyDeviceToHost, c->stream)))
            return;
        down->used += (piece + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }
}

/* Hands out and clears a kept failure; what should still arrive is given up with it. */
static int hand_out(ks_cuda *c, ks_error *err)
{
    if (!c->failed)
        return 0;
    c->failed = false;
    c->ops.fault = true;
    c->down.arrivals = 0;
    c->down.used = 0;
    return ks_error_set(err, "%s", c->failure.text);
}

int ks_cuda_sync(ks_ops *ops, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    KS_CUDA_CALL(c, cudaSetDevice(c->device));
    if (c->failed)
        c->down.arrivals = 0;
    settle(c);
    return hand_out(c, err);
}

/* --- fences --- */

uint64_t ks_cuda_fence(ks_ops *ops)
{
    ks_cuda *c = ks_cuda_of(ops);
    uint64_t number = c->fences.made++;
    KS_CUDA_CALL(c, cudaSetDevice(c->device));
    KS_CUDA_CALL(c, cudaEventRecord(c->fences.event[number % KS_CUDA_FENCES], c->stream));
    return number;
}

/* A fence whose event stands for a later one by now is waited for with all that is queued. */
int ks_cuda_wait(ks_ops *ops, uint64_t fence, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (c->failed || c->fences.made - fence > KS_CUDA_FENCES)
        return ks_cuda_sync(ops, err);
    KS_CUDA_CALL(c, cudaSetDevice(c->device));
    if (ks_cuda_passed(c, c->fences.event[fence % KS_CUDA_FENCES]))
        bring(c, fence);
    return hand_out(c, err);
}
