/* Group norm by clusters (sm_90; fp16 and bf16): x is read once and y written once, whatever a
 * row's size, as long as its slices fit the multiprocessors of one cluster.
 *
 * A cluster has all pixels of a slice of one row, the channels of a few whole groups; each of its
 * blocks, a rank, keeps a piece of the pixels in shared memory. A thread has one unit of channels
 * of every lanes-th pixel, from the copy to the end. It sums x and x * x while they come in, about
 * the first number of the group in the piece; a warp adds up what the threads have of a group,
 * about 0 in double from here on, and sends it to all ranks, which add it up in the order of the
 * ranks. Then every thread scales its pixels, writes them, and copies those of the cluster's next
 * slice to where they were.
 *
 * Nothing but a row's shape decides the order of sums.
 *
 * Slices are whole sectors of memory: with half ones, which two clusters write, the same kernel
 * took twice as long. A slice's copies are under way while the last one's pixels are written; what
 * remains between is hidden by the other blocks of a multiprocessor, so that it takes two of them
 * at least to win over two reads: rows of 128 x 128 have no split for that.
 *
 * Bytes: 2 * 2 an element. At 16 rows 50 to 66 % of the memory's rate, see norm.cu. */
#ifndef KS_KERNELS_NORM_CLUSTER_CUH
#define KS_KERNELS_NORM_CLUSTER_CUH

#include "cluster.cuh"
#include "backend/ops.h"
#include "norm_job.cuh"

enum {
    KS_NORM_COUNT = 8,         /* channels of a unit */
    KS_NORM_STAGES = 4,        /* a thread's copies are waited for in so many parts */
    KS_NORM_SECTOR = 32,       /* bytes of which memory writes no part */
    KS_NORM_SEGMENT = 64,      /* bytes: the least of a pixel that a block reads in one go */
    KS_NORM_SLICE = 256,       /* channels: the most of a slice */
    KS_NORM_KEPT = 46 * 1024,  /* bytes of a piece that leaves room for four blocks of 256 */
    KS_NORM_LEAST = 24 * 1024, /* bytes of a piece that is still halved for more blocks */
    KS_NORM_BLOCKS = 64,       /* of a row: 2 rows fill the chip, 16 many times */
    KS_NORM_SHARED = 228 * 1024, /* of a multiprocessor; each block costs 1024 more */
    KS_NORM_THREADS = 1024     /* of a multiprocessor, at 64 registers */
};

/* --- what the launcher and the kernel agree on --- */

/* A block's shared memory; offsets in bytes. lanes: threads that share a unit of channels. */
struct ks_norm_layout {
    int units, lanes, groups;
    int thread_sum; /* float4 [threads], behind the piece [pixels][units] */
    int rank_sum;   /* double2 [2][ranks][groups] */
    int barrier;    /* [2]: the sums of all ranks are there */
    int moments;    /* float2 [groups]: mean and 1 / deviation */
    int bytes;
};

__host__ __device__ inline ks_norm_layout ks_norm_layout_of(const ks_norm_job &job, int threads)
{
    ks_norm_layout at;
    at.units = job.slice / KS_NORM_COUNT;
    at.lanes = threads / at.units;
    at.groups = job.slice / (job.channels / job.groups);
    at.thread_sum = job.piece * job.slice * 2;
    at.rank_sum = at.thread_sum + threads * (int)sizeof(float4);
    at.barrier = at.rank_sum + 2 * job.ranks * at.groups * (int)sizeof(double2);
    at.moments = at.barrier + 2 * (int)sizeof(uint64_t);
    at.bytes = at.moments + at.groups * (int)sizeof(float2);
    return at;
}

/* --- the kernel --- */

/* A thread's place. from: its first pixel of the piece, behind the last one where it has none.
 * group: of the unit's first channel, in the slice; own: so many of its channels are that group's,
 * the others the next one's. stage: pixels that the threads copy and wait for together. */
struct ks_norm_place {
    ks_norm_layout at;
    int width, rank, unit, from, pixels, group, own, stage;
};

template <int THREADS>
__device__ __forceinline__ ks_norm_place ks_norm_place_of(const ks_norm_job &job)
{
    ks_norm_place p;
    p.at = ks_norm_layout_of(job, THREADS);
    p.width = job.channels / job.groups;
    p.rank = ks_cluster_rank();
    const int lane = (int)threadIdx.x / p.at.units;
    p.unit = (int)threadIdx.x - lane * p.at.units;
    p.pixels = max(0, min(job.piece, job.pixels - p.rank * job.piece));
    p.from = lane < p.at.lanes ? lane : p.pixels;
    p.group = p.unit * KS_NORM_COUNT / p.width;
    p.own = (p.group + 1) * p.width - p.unit * KS_NORM_COUNT;
    const int turns = (job.piece + p.at.lanes - 1) / p.at.lanes;
    p.stage = (turns + KS_NORM_STAGES - 1) / KS_NORM_STAGES * p.at.lanes;
    return p;
}

/* The first channel of the thread's unit in an item, a slice of a row. The last row comes first: it
 * was written last and may still be in L2, as the first one will be when what comes after begins
 * with it. */
__device__ __forceinline__ int ks_norm_channel(const ks_norm_job &job, const ks_norm_place &p,
                                               int item)
{
    return item % (job.channels / job.slice) * job.slice + p.unit * KS_NORM_COUNT;
}

__device__ __forceinline__ int64_t ks_norm_pixel(const ks_norm_job &job, const ks_norm_place &p,
                                                 int item)
{
    const int row = job.n - 1 - item / (job.channels / job.slice);
    return (int64_t)row * job.pixels + p.rank * job.piece;
}

template <class T> __device__ __forceinline__ T *ks_norm_shared(int offset)
{
    return reinterpret_cast<T *>(ks_shared + offset);
}

/* The thread's unit of a pixel of the piece. */
__device__ __forceinline__ uint4 *ks_norm_kept(const ks_norm_place &p, int pixel)
{
    return ks_norm_shared<uint4>(0) + pixel * p.at.units + p.unit;
}

/* Starts the copies of an item. */
template <class T>
__device__ __forceinline__ void ks_norm_copy(const ks_norm_job &job, const ks_norm_place &p,
                                             int item)
{
    const T *x = static_cast<const T *>(job.x) + ks_norm_pixel(job, p, item) * job.x_stride +
                 ks_norm_channel(job, p, item);
#pragma unroll 1
    for (int s = 0, i = p.from; s < KS_NORM_STAGES; s++) {
        for (const int last = min(p.pixels, (s + 1) * p.stage); i < last; i += p.at.lanes)
            ks_cp_async16(ks_norm_kept(p, i), x + i * job.x_stride, true);
        ks_cp_async_commit();
    }
}

/* A thread's sums by channel, of x - shift and of (x - shift)^2. */
struct ks_norm_sums {
    float shift[KS_NORM_COUNT], sum[KS_NORM_COUNT], square[KS_NORM_COUNT];
};

/* The group's first number in the piece; 0 where the piece has no pixels. */
template <class T>
__device__ __forceinline__ float ks_norm_shift(const ks_norm_place &p, int group)
{
    return p.pixels > 0 && group < p.at.groups ? (float)ks_norm_shared<T>(0)[group * p.width]
                                               : 0.0f;
}

/* Adds the thread's pixels from `pixel` on to the end of a stage. */
template <class T>
__device__ __forceinline__ void ks_norm_add(ks_norm_sums &mine, const ks_norm_place &p,
                                            int stage, int &pixel)
{
    const int last = min(p.pixels, (stage + 1) * p.stage);
#pragma unroll 2
    for (; pixel < last; pixel += p.at.lanes) {
        float x[KS_NORM_COUNT];
        ks_unit<T, KS_NORM_COUNT>::open(x, *ks_norm_kept(p, pixel));
#pragma unroll
        for (int e = 0; e < KS_NORM_COUNT; e++) {
            const float d = x[e] - mine.shift[e];
            mine.sum[e] += d;
            mine.square[e] = fmaf(d, d, mine.square[e]);
        }
    }
}

/* Waits for an item's copies, and adds the thread's pixels. */
template <class T>
__device__ __forceinline__ void ks_norm_measure(ks_norm_sums &mine, const ks_norm_place &p)
{
    ks_cp_async_wait<3>();
    __syncthreads(); /* pixel 0 is another thread's; else a thread uses what it has copied itself */
    const float own = ks_norm_shift<T>(p, p.group), next = ks_norm_shift<T>(p, p.group + 1);
#pragma unroll
    for (int e = 0; e < KS_NORM_COUNT; e++) {
        mine.shift[e] = e < p.own ? own : next;
        mine.sum[e] = mine.square[e] = 0.0f;
    }
    int pixel = p.from;
    ks_norm_add<T>(mine, p, 0, pixel);
    ks_cp_async_wait<2>();
    ks_norm_add<T>(mine, p, 1, pixel);
    ks_cp_async_wait<1>();
    ks_norm_add<T>(mine, p, 2, pixel);
    ks_cp_async_wait<0>();
    ks_norm_add<T>(mine, p, 3, pixel);
}

/* Adds up what the block's threads have of a group, all of a warp's threads alike. */
__device__ __forceinline__ float2 ks_norm_gather(const ks_norm_place &p, int group)
{
    const float4 *thread_sum = ks_norm_shared<float4>(p.at.thread_sum);
    const int first = group * p.width / KS_NORM_COUNT;
    const int units = ((group + 1) * p.width - 1) / KS_NORM_COUNT - first + 1;
    float2 all = make_float2(0.0f, 0.0f);
    for (int i = (int)threadIdx.x % 32; i < p.at.lanes * units; i += 32) {
        const int lane = i / units, unit = first + i - lane * units;
        const float4 four = thread_sum[lane * p.at.units + unit];
        const bool own = unit * KS_NORM_COUNT >= group * p.width; /* the unit begins in it */
        all.x += own ? four.x : four.z;
        all.y += own ? four.y : four.w;
    }
    all.x = ks_warp_sum(all.x);
    all.y = ks_warp_sum(all.y);
    return all;
}

__device__ __forceinline__ uint64_t *ks_norm_barrier(const ks_norm_place &p, int turn)
{
    return ks_norm_shared<uint64_t>(p.at.barrier) + turn % 2;
}

/* Where the sums of a rank lie: in one of two places by turns, so that some blocks may still read
 * those of the last turn. */
__device__ __forceinline__ double2 *ks_norm_rank_sum(const ks_norm_job &job, const ks_norm_place &p,
                                                     int turn, int rank)
{
    return ks_norm_shared<double2>(p.at.rank_sum) + (turn % 2 * job.ranks + rank) * p.at.groups;
}

/* Sends the block's sums of every group, about 0, to all ranks. */
template <class T, int THREADS>
__device__ __forceinline__ void ks_norm_send(const ks_norm_job &job, const ks_norm_place &p,
                                             const ks_norm_sums &mine, int turn)
{
    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int e = 0; e < KS_NORM_COUNT; e++) {
        four.x += e < p.own ? mine.sum[e] : 0.0f;
        four.y += e < p.own ? mine.square[e] : 0.0f;
        four.z += e < p.own ? 0.0f : mine.sum[e];
        four.w += e < p.own ? 0.0f : mine.square[e];
    }
    ks_norm_shared<float4>(p.at.thread_sum)[threadIdx.x] = four;
    if (threadIdx.x == 0)
        ks_barrier_expect(ks_norm_barrier(p, turn),
                          (uint32_t)(job.ranks * p.at.groups * (int)sizeof(double2)));
    __syncthreads();
    const int lane = (int)threadIdx.x % 32;
    for (int g = (int)threadIdx.x / 32; g < p.at.groups; g += THREADS / 32) {
        const float2 sums = ks_norm_gather(p, g);
        const double sum = sums.x, by = ks_norm_shift<T>(p, g), n = (double)p.pixels * p.width;
        if (lane < job.ranks)
            ks_cluster_send(ks_norm_rank_sum(job, p, turn, p.rank) + g, ks_norm_barrier(p, turn),
                            lane,
                            make_double2(sum + n * by, sums.y + by * (2.0 * sum + n * by)));
    }
}

/* Adds up the ranks' sums: each group's moments, for all of the block. */
template <int THREADS>
__device__ __forceinline__ void ks_norm_receive(const ks_norm_job &job, const ks_norm_place &p,
                                                int turn)
{
    const double count = (double)job.pixels * p.width;
    for (int g = (int)threadIdx.x; g < p.at.groups; g += THREADS) {
        double sum = 0.0, square = 0.0;
        ks_cluster_barrier_wait(ks_norm_barrier(p, turn), (uint32_t)(turn / 2 % 2));
        for (int r = 0; r < job.ranks; r++) {
            const double2 part = ks_norm_rank_sum(job, p, turn, r)[g];
            sum += part.x;
            square += part.y;
        }
        const double mean = sum / count, variance = fmax(square / count - mean * mean, 0.0);
        ks_norm_shared<float2>(p.at.moments)[g] =
            make_float2((float)mean, 1.0f / sqrtf((float)variance + job.eps));
    }
    __syncthreads();
}

__device__ __forceinline__ void ks_norm_vector(float (&to)[KS_NORM_COUNT], const float *from)
{
#pragma unroll
    for (int e = 0; e < KS_NORM_COUNT; e += 4) {
        const float4 four = __ldg(reinterpret_cast<const float4 *>(from + e));
        to[e] = four.x, to[e + 1] = four.y, to[e + 2] = four.z, to[e + 3] = four.w;
    }
}

/* What is done to the unit's channels: y = x * scale + shift. gamma and beta are in scale and shift
 * on entry. The mean goes into the shift, whose rounding is far below that of a two-byte x. */
struct ks_norm_line {
    float scale[KS_NORM_COUNT], shift[KS_NORM_COUNT];
};

__device__ __forceinline__ void ks_norm_settle(ks_norm_line &a, const ks_norm_place &p)
{
    const float2 *moments = ks_norm_shared<float2>(p.at.moments);
    const float2 own = moments[p.group], next = moments[min(p.group + 1, p.at.groups - 1)];
#pragma unroll
    for (int e = 0; e < KS_NORM_COUNT; e++) {
        a.scale[e] *= e < p.own ? own.y : next.y;
        a.shift[e] = fmaf(e < p.own ? -own.x : -next.x, a.scale[e], a.shift[e]);
    }
}

template <class T>
__device__ __forceinline__ uint4
ks_norm_line_of(const uint4 &unit, const ks_norm_line &a,
                bool silu)
{
    float x[KS_NORM_COUNT];
    ks_unit<T, KS_NORM_COUNT>::open(x, unit);
#pragma unroll
    for (int e = 0; e < KS_NORM_COUNT; e++)
        x[e] = fmaf(x[e], a.scale[e], a.shift[e]);
    if (silu)
#pragma unroll
        for (int e = 0; e < KS_NORM_COUNT; e++)
            x[e] = ks_silu<T>(x[e]);
    return ks_unit<T, KS_NORM_COUNT>::close(x);
}

/* Writes the thread's pixels of an item, and starts the copies of the next one, if there is one. */
template <class T>
__device__ __forceinline__ void ks_norm_write(const ks_norm_job &job, const ks_norm_place &p,
                                              const ks_norm_line &a, int item, int next,
                                              bool more)
{
    const int64_t y_step = p.at.lanes * job.y_stride, x_step = p.at.lanes * job.x_stride;
    uint4 *kept = ks_norm_kept(p, p.from);
    T *y = static_cast<T *>(job.y) + (ks_norm_pixel(job, p, item) + p.from) * job.y_stride +
           ks_norm_channel(job, p, item);
    const T *x = static_cast<const T *>(job.x) +
                 (ks_norm_pixel(job, p, next) + p.from) * job.x_stride +
                 ks_norm_channel(job, p, next);
#pragma unroll 1
    for (int s = 0, i = p.from; s < KS_NORM_STAGES; s++) {
        for (const int last = min(p.pixels, (s + 1) * p.stage); i < last; i += p.at.lanes) {
            *reinterpret_cast<uint4 *>(y) = ks_norm_line_of<T>(*kept, a, job.silu != 0);
            if (more)
                ks_cp_async16(kept, x, true);
            kept += p.at.lanes * p.at.units;
            y += y_step;
            x += x_step;
        }
        ks_cp_async_commit();
    }
}

/* Grid: as many clusters as there is room for; each takes every so many-th item. */
template <class T, int THREADS>
__global__ void
__launch_bounds__(KS_CLUSTERS ? THREADS : 32, KS_CLUSTERS ? KS_NORM_THREADS / THREADS : 1)
    ks_norm_cluster(const __grid_constant__ ks_norm_job job)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    const ks_norm_place p = ks_norm_place_of<THREADS>(job);
    const int items = job.n * (job.channels / job.slice), step = (int)gridDim.x / job.ranks;
    int item = (int)blockIdx.x / job.ranks;
    if (threadIdx.x == 0) {
        ks_barrier_init(ks_norm_barrier(p, 0), 1);
        ks_barrier_init(ks_norm_barrier(p, 1), 1);
        ks_barrier_publish();
    }
    __syncwarp();
    ks_cluster_arrive();
    ks_norm_copy<T>(job, p, item);
    ks_cluster_wait(); /* all blocks have begun, and their barriers are there */
    for (int turn = 0; item < items; turn++) {
        ks_norm_sums mine;
        ks_norm_line a;
        ks_norm_measure<T>(mine, p);
        ks_norm_send<T, THREADS>(job, p, mine, turn);
        ks_norm_vector(a.scale, job.gamma + ks_norm_channel(job, p, item));
        ks_norm_vector(a.shift, job.beta + ks_norm_channel(job, p, item));
        ks_norm_receive<THREADS>(job, p, turn); /* with the last item's all that comes is there */
        ks_norm_settle(a, p);
        const int next = item + step;
        ks_norm_write<T>(job, p, a, item, next < items ? next : item, next < items);
        item = next;
    }
#endif
}

/* --- the launch --- */

struct ks_norm_cluster_kernel {
    int threads;
    ks_norm_kernel half, bfloat16;
};

template <int THREADS> constexpr ks_norm_cluster_kernel ks_norm_cluster_row()
{
    return {THREADS, ks_norm_cluster<__half, THREADS>, ks_norm_cluster<__nv_bfloat16, THREADS>};
}

/* The first that a row fits is taken. */
static const ks_norm_cluster_kernel ks_norm_cluster_kernels[] = {
    ks_norm_cluster_row<256>(),
    ks_norm_cluster_row<512>(),
};

/* Whether no unit of a slice has channels of more than two groups. */
inline bool ks_norm_two_groups(int slice, int width)
{
    for (int first = 0; first < slice; first += KS_NORM_COUNT)
        if ((first % width + KS_NORM_COUNT - 1) / width > 1)
            return false;
    return true;
}

/* Channels of the narrowest slice: whole groups, whole sectors, not too few in one piece. 0: none.
 */
inline int ks_norm_slice_of(const ks_norm_job &job)
{
    const int width = job.channels / job.groups;
    for (int groups = 1; groups <= job.groups; groups++) {
        const int slice = groups * width;
        if (job.groups % groups == 0 && slice * 2 % KS_NORM_SECTOR == 0 &&
            slice * 2 >= KS_NORM_SEGMENT)
            return slice <= KS_NORM_SLICE && ks_norm_two_groups(slice, width) ? slice : 0;
    }
    return 0;
}

/* Among how many ranks a row's slices are split: so many that a piece is small enough to share a
 * multiprocessor with others, and that there are enough of them where they are not small already.
 */
inline int ks_norm_ranks_of(const ks_norm_job &job)
{
    const int64_t slices = job.channels / job.slice;
    const int64_t bytes = (int64_t)job.pixels * job.slice * 2;
    int ranks = 1;
    while (ranks < KS_CLUSTER_MOST &&
           (bytes > (int64_t)KS_NORM_KEPT * ranks ||
            (slices * ranks < KS_NORM_BLOCKS && bytes > (int64_t)KS_NORM_LEAST * ranks)))
        ranks *= 2;
    return ranks;
}

/* The kernel for the row's shape, whose slice, ranks and piece job gets; NULL where a piece does
 * not fit beside the other blocks that the kernel's registers leave room for, and where one block is
 * enough for a slice. */
inline const ks_norm_cluster_kernel *ks_norm_cluster_plan(ks_norm_job *job)
{
    job->slice = ks_norm_slice_of(*job);
    if (job->slice == 0)
        return nullptr;
    job->ranks = ks_norm_ranks_of(*job);
    if (job->ranks == 1)
        return nullptr;
    job->piece = (job->pixels + job->ranks - 1) / job->ranks;
    for (const ks_norm_cluster_kernel &kernel : ks_norm_cluster_kernels) {
        const int room = KS_NORM_SHARED / (KS_NORM_THREADS / kernel.threads) - 1024;
        if ((int64_t)job->piece * job->slice * 2 <= room &&
            ks_norm_layout_of(*job, kernel.threads).bytes <= room)
            return &kernel;
    }
    return nullptr;
}

/* Queues the job, which is planned for the kernel. */
inline int ks_norm_cluster_launch(void *stream, const ks_norm_job &job,
                                  const ks_norm_cluster_kernel &kernel, ks_dtype type)
{
    return ks_cluster_launch(type == KS_F16 ? kernel.half : kernel.bfloat16,
                             (int64_t)job.n * (job.channels / job.slice), job.ranks, kernel.threads,
                             (size_t)ks_norm_layout_of(job, kernel.threads).bytes, stream, job);
}

#endif
