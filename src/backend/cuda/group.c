/* One network on several GPUs. Two ranks of a node sum through each other's memory, where there is a way (peer.c). For two,
 * NCCL's own sum is the one that ops.h asks for, too: a + b is b + a, and a sum of two numbers of 16 bits has the same bits
 * whether it is rounded once or by way of float32 (24 bits are enough for that: Figueroa 1995). For more, the order of its
 * rings depends on an element's place: so each rank takes a share of the elements from all, sums them in the order of the
 * ranks, and all gather the shares. */
#include "backend/cuda/nccl.h"

#include "kernels/elementwise.h"
#include "kernels/sum.h"

static const ks_act absent = {0};

/* Whether an operation over a link shall run; in a group of one there is nothing to do. */
static bool runs(ks_cuda *c, ks_cuda_link *(*link_of)(struct ks_cuda_others *), const char *operation, ks_act y)
{
    if (!ks_cuda_runs(c, true, operation, y, y))
        return false;
    if (!c->others)
        ks_cuda_fail(c, "cuda backend: %s before this rank has joined others", operation);
    else if (c->others->broken)
        ks_cuda_fail(c, "GPU %d: %s, and the other ranks are given up", c->device, operation);
    return !c->failed && link_of(c->others)->group->size > 1;
}

static ks_cuda_link *tensor_of(struct ks_cuda_others *o)
{
    return &o->tensor;
}

static ks_cuda_link *replica_of(struct ks_cuda_others *o)
{
    return &o->replica;
}

/* --- sums --- */

static ncclDataType_t type_of(const ks_cuda *c)
{
    static const ncclDataType_t types[] = {[KS_F32] = ncclFloat32, [KS_F16] = ncclFloat16, [KS_BF16] = ncclBfloat16};
    return types[c->type];
}

/* Every rank's share of the elements to the rank that sums it: [size, share], in the order of the ranks. */
static bool exchange(ks_cuda *c, ks_cuda_link *l, void *parts, const void *x, size_t share)
{
    const size_t bytes = share * ks_cuda_element(c);
    ncclResult_t status = ncclGroupStart();
    for (int peer = 0; peer < l->group->size && status == ncclSuccess; peer++) {
        status = ncclSend((const char *)x + (size_t)peer * bytes, share, type_of(c), peer, l->comm, c->stream);
        if (status == ncclSuccess)
            status = ncclRecv((char *)parts + (size_t)peer * bytes, share, type_of(c), peer, l->comm, c->stream);
    }
    ncclResult_t ended = ncclGroupEnd();
    return ks_cuda_taken(c, l, status == ncclSuccess ? ended : status, "ncclSend, ncclRecv");
}

/* x [size * share] becomes the sum of all ranks' x. */
static bool sum_by_shares(ks_cuda *c, ks_cuda_link *l, void *x, size_t share)
{
    const size_t size = (size_t)l->group->size, bytes = share * ks_cuda_element(c);
    void *own = (char *)x + (size_t)l->group->rank * bytes, *parts = ks_cuda_take(c, size * bytes);
    return parts && exchange(c, l, parts, x, share) &&
           KS_CUDA_CALL(c, ks_cuda_sum(c->stream, c->type, own, parts, (int)size, (int64_t)share)) &&
           KS_CUDA_NCCL(c, l, ncclAllGather(own, x, share, type_of(c), l->comm, c->stream));
}

static bool copy(ks_cuda *c, ks_act to, ks_act from)
{
    return KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, to, from, NULL, absent, KS_ACT_NONE, absent));
}

/* An activation as pixels in one row. */
static ks_act as_pixels(ks_act a)
{
    a.h = (int)(a.n * ks_cuda_pixels(a));
    a.n = a.w = 1;
    return a;
}

/* Pixels [first, first + count) of a. */
static ks_act some_pixels(const ks_cuda *c, ks_act a, int first, int count)
{
    a.data = (char *)a.data + (size_t)(first * a.stride) * ks_cuda_element(c);
    a.h = count;
    return a;
}

/* Pixels on 16-byte boundaries, in pieces of what fits at once. */
static void sum_by_memory(ks_cuda *c, ks_act y)
{
    const int64_t fit = KS_CUDA_EXCHANGE_MOST / ((int64_t)y.c * (int64_t)ks_cuda_element(c));
    const int most = fit > 0 ? (int)fit : 1;
    for (int first = 0; first < y.h && !c->failed; first += most) {
        const ks_act piece = some_pixels(c, y, first, y.h - first < most ? y.h - first : most);
        KS_CUDA_CALL(c, ks_cuda_sum_with_other(c->stream, c->type, piece, &c->others->peer.x));
    }
}

/* Whether y can be summed where it lies: through memory any pixels on 16-byte boundaries, else what is dense and has, by
 * shares, the same number of units for each. */
static bool sums_in_place(const ks_cuda *c, ks_act y, ks_cuda_sum_way way)
{
    const int64_t unit = 16 / (int64_t)ks_cuda_element(c);
    const bool aligned = (uintptr_t)y.data % 16 == 0;
    if (way == KS_CUDA_BY_MEMORY)
        return aligned && y.c % unit == 0 && y.stride % unit == 0;
    return aligned && y.stride == y.c &&
           (way == KS_CUDA_BY_NCCL || (int64_t)y.h * y.c % (c->others->tensor.group->size * KS_CUDA_SUM_UNIT) == 0);
}

/* A dense place for y's elements and what fills up their shares, as one pixel for each unit. */
static ks_act place_for(ks_cuda *c, ks_act y)
{
    const int64_t unit = KS_CUDA_SUM_UNIT, share = unit * c->others->tensor.group->size;
    const int64_t count = ((int64_t)y.h * y.c + share - 1) / share * share;
    return ks_cuda_act(&c->ops, 1, (int)(count / unit), 1, KS_CUDA_SUM_UNIT);
}

static void sum_by(ks_cuda *c, ks_act y, ks_cuda_sum_way way)
{
    ks_cuda_link *l = tensor_of(c->others);
    const size_t count = (size_t)y.h * (size_t)y.c;
    if (way == KS_CUDA_BY_MEMORY)
        sum_by_memory(c, y);
    else if (way == KS_CUDA_BY_NCCL)
        KS_CUDA_NCCL(c, l, ncclAllReduce(y.data, y.data, count, type_of(c), ncclSum, l->comm, c->stream));
    else
        sum_by_shares(c, l, y.data, count / (size_t)l->group->size);
}

/* There and back. */
static void sum_elsewhere(ks_cuda *c, ks_act y, ks_cuda_sum_way way)
{
    const ks_act place = place_for(c, y);
    ks_act dense = y;
    dense.data = place.data;
    dense.stride = y.c;
    if (c->failed || !copy(c, dense, y))
        return;
    sum_by(c, place, way);
    if (!c->failed)
        copy(c, y, dense);
}

bool ks_cuda_can_sum_by(const ks_cuda *c, ks_cuda_sum_way way)
{
    const struct ks_cuda_others *o = c->others;
    return way == KS_CUDA_BY_SHARES || (o && o->tensor.group->size == 2 && (way == KS_CUDA_BY_NCCL || o->peer.used));
}

void ks_cuda_all_reduce_by(ks_ops *ops, ks_act y, ks_cuda_sum_way way)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!runs(c, tensor_of, "a sum of several ranks", y))
        return;
    size_t mark = ops->mark(ops);
    y = as_pixels(y);
    if (sums_in_place(c, y, way))
        sum_by(c, y, way);
    else
        sum_elsewhere(c, y, way);
    ops->unwind(ops, mark);
}

void ks_cuda_all_reduce(ks_ops *ops, ks_act y)
{
    ks_cuda_sum_way way = KS_CUDA_BY_MEMORY;
    while (!ks_cuda_can_sum_by(ks_cuda_of(ops), way))
        way--;
    ks_cuda_all_reduce_by(ops, y, way);
}

/* --- bytes --- */

void ks_cuda_broadcast(ks_ops *ops, void *device, size_t bytes)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!runs(c, replica_of, "a broadcast", absent))
        return;
    ks_cuda_link *l = replica_of(c->others);
    KS_CUDA_NCCL(c, l, ncclBroadcast(device, device, bytes, ncclChar, 0, l->comm, c->stream));
}

void ks_cuda_gather(ks_ops *ops, void *device, size_t bytes)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!runs(c, replica_of, "a gathering", absent))
        return;
    ks_cuda_link *l = replica_of(c->others);
    const char *own = (const char *)device + (size_t)l->group->rank * bytes;
    KS_CUDA_NCCL(c, l, ncclAllGather(own, device, bytes, ncclChar, l->comm, c->stream));
}
