/* Two rows of SDXL (one picture with guidance) on one GPU, with a row on each of two, and with half of the network on each of
 * two; fp16, random weights.
 *   bench_split_gpu FOLDER [--sides 128,256] [--calls 40] [--ways sums,one,half,rows,tensor]
 * FOLDER: where the checkpoint is made (5.1 GB), or found again. sides: of the latents, in cells. sums: those of the two
 * halves alone, at the network's sizes. half: one half without the other, so without the sums: what is left of tensor's time.
 *
 * Every rank is a process with a GPU of its own. A call is all that a step needs: the latents from rank 0 to the others, the
 * network, the outputs of all to all. Rank 0's device tells the time from call to call, while the host is one call ahead, as
 * in a run. A line of the table is
 *   who model precision cells way median min max calls ratio      (milliseconds a call; ratio: one GPU's median to this one's)
 * and lines with '#' tell what a rank holds. Ends with an error when an output is not finite, or the ranks' outputs differ
 * from each other. */
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/nccl.h"
#include "base/file.h"
#include "gpu_bench.h"
#include "model/model.h"
#include "random_model.h"
#include "support/fork_group.h"

enum { ROWS = 2, RANKS = 2, WARM = 5, MOST_CALLS = 1000, MOST_SIDES = 4, LIMIT = 560 };
static const double patience = 120;

/* --- the network --- */

typedef enum way { ONE, HALF, BY_ROWS, BY_TENSOR, WAYS } way;
static const char *const way_names[WAYS] = {"one", "half", "rows", "tensor"};

static int ranks_of(way how)
{
    return how == ONE || how == HALF ? 1 : RANKS;
}

/* What rank 0 and the others find, in shared memory. */
typedef struct finding {
    float median, least, most;
    double weight_bytes[RANKS], promised_bytes, other_bytes;
    uint64_t output[RANKS]; /* a sum of the outputs' bits */
    double deviation;
} finding;

typedef struct plan {
    const char *path;
    const random_model *model;
    int side, calls;
    way how;
    finding *found;
} plan;

/* One rank's network and arrays. */
typedef struct network {
    const plan *p;
    ks_group *group, alone;
    ks_ops *ops;
    ks_model *model;
    ks_cond *cond[ROWS];
    float *x, *out; /* [ROWS, 4, side, side] */
    size_t item;    /* values of a latent */
} network;

/* The groups that a way of working together makes of the ranks. */
static void join_others(network *n)
{
    ks_error err = KS_ERROR_NONE;
    n->alone = (ks_group){.size = 1};
    ks_group *tensor = n->p->how == BY_TENSOR ? n->group : &n->alone;
    ks_group *replica = ranks_of(n->p->how) > 1 ? n->group : &n->alone;
    n->ops = ks_ops_cuda(n->group->rank, "fp16", &err);
    need(n->ops != NULL, &err);
    need(n->ops->join(n->ops, tensor, replica, &err) == 0, &err);
}

static void sync_all(const network *n)
{
    ks_error err = KS_ERROR_NONE;
    need(n->ops->sync(n->ops, &err) == 0, &err);
}

/* The weights, and the bytes of the device that they take. */
static void load_model(network *n)
{
    ks_error err = KS_ERROR_NONE;
    ks_model_config config;
    const bool parted = n->p->how == BY_TENSOR || n->p->how == HALF;
    const int parts = parted ? RANKS : 1;
    const ks_split split = {parted ? n->group->rank : 0, parts};
    ks_safetensors *st = ks_safetensors_open(n->p->path, &err);
    need(st && ks_model_detect(st, &config, &err) == 0, &err);
    const size_t before = n->ops->memory_free(n->ops);
    n->model = ks_model_load(st, &config, n->ops, &split, 0, NULL, &err);
    need(n->model != NULL, &err);
    sync_all(n);
    n->p->found->weight_bytes[n->group->rank] = (double)(before - n->ops->memory_free(n->ops));
    n->p->found->promised_bytes = 2.0 * (double)config.parameters * ks_unet_weight_share(&config.unet, parts);
    ks_safetensors_close(st);
}

static void make_inputs(network *n)
{
    ks_error err = KS_ERROR_NONE;
    n->item = 4 * (size_t)n->p->side * (size_t)n->p->side;
    const size_t latents = n->item * ROWS;
    need(random_conditionings(n->p->model, n->model, n->cond, ROWS, &err) == 0, &err);
    n->x = random_latents(n->ops, latents, &err);
    n->out = n->x ? n->ops->alloc(n->ops, latents * sizeof(float), &err) : NULL;
    need(n->out != NULL, &err);
}

static int rows_of(const network *n)
{
    return n->p->how == BY_ROWS ? ROWS / RANKS : ROWS;
}

static void call(const network *n)
{
    ks_error err = KS_ERROR_NONE;
    ks_net_row row[ROWS];
    const int rows = rows_of(n), first = n->p->how == BY_ROWS ? n->group->rank * rows : 0;
    if (ranks_of(n->p->how) > 1)
        n->ops->broadcast(n->ops, n->x, n->item * ROWS * sizeof(float));
    for (int i = 0; i < rows; i++)
        row[i] = (ks_net_row){.x = n->x + (size_t)(first + i) * n->item,
                              .scale = 1,
                              .timestep = 600,
                              .cond = n->cond[first + i],
                              .out = n->out + (size_t)(first + i) * n->item};
    need(ks_model_rows(n->model, row, rows, &err) == 0, &err);
    if (n->p->how == BY_ROWS)
        n->ops->gather(n->ops, n->out, (size_t)rows * n->item * sizeof(float));
}

/* Every call's time from the end of the one before it; the host waits for that one before it goes on. */
static void time_calls(const network *n)
{
    const int calls = n->p->calls;
    ks_error err = KS_ERROR_NONE;
    float ms[MOST_CALLS];
    cudaEvent_t event[MOST_CALLS + 1];
    cudaStream_t stream = ks_cuda_of(n->ops)->stream;
    for (int i = 0; i <= calls; i++)
        cudaEventCreate(&event[i]);
    cudaEventRecord(event[0], stream);
    uint64_t before = n->ops->fence(n->ops);
    for (int i = 0; i < calls; i++) {
        call(n);
        cudaEventRecord(event[i + 1], stream);
        uint64_t fence = n->ops->fence(n->ops);
        need(n->ops->wait(n->ops, before, &err) == 0, &err);
        before = fence;
    }
    sync_all(n);
    for (int i = 0; i < calls; i++)
        cudaEventElapsedTime(&ms[i], event[i], event[i + 1]);
    for (int i = 0; i <= calls; i++)
        cudaEventDestroy(event[i]);
    if (n->group->rank != 0)
        return;
    n->p->found->median = median_of(ms, calls); /* and they are sorted */
    n->p->found->least = ms[0];
    n->p->found->most = ms[calls - 1];
}

static void look_at_output(const network *n)
{
    const size_t count = n->item * ROWS;
    float *out = ks_calloc(count, sizeof *out);
    uint64_t bits = 0;
    double sum = 0, squares = 0;
    n->ops->download(n->ops, out, n->out, count * sizeof *out);
    sync_all(n);
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, &out[i], sizeof word);
        bits = bits * 0x9E3779B97F4A7C15u + word;
        sum += (double)out[i];
        squares += (double)out[i] * (double)out[i];
    }
    free(out);
    if (!isfinite(squares)) {
        fprintf(stderr, "%s: the output is not finite, its time says nothing\n", way_names[n->p->how]);
        exit(EXIT_FAILURE);
    }
    n->p->found->output[n->group->rank] = bits;
    n->p->found->deviation = sqrt(squares / (double)count - sum / (double)count * (sum / (double)count));
}

static int rank_member(ks_group *g, void *arg)
{
    ks_error err = KS_ERROR_NONE;
    network n = {.p = arg, .group = g};
    join_others(&n);
    load_model(&n);
    const size_t before = n.ops->memory_free(n.ops);
    need(ks_model_plan(n.model, rows_of(&n), n.p->side, n.p->side, &err) == 0, &err);
    make_inputs(&n);
    for (int i = 0; i < WARM; i++)
        call(&n);
    sync_all(&n);
    n.p->found->other_bytes = (double)(before - n.ops->memory_free(n.ops));
    time_calls(&n);
    look_at_output(&n);
    for (int i = 0; i < ROWS; i++)
        ks_cond_free(n.cond[i]);
    n.ops->release(n.ops, n.x);
    n.ops->release(n.ops, n.out);
    ks_model_free(n.model);
    n.ops->free(n.ops);
    return 0;
}

/* One way at one size; its median, 0 where it failed. one: that of one GPU, or 0. */
static float bench_way(plan *p, float one)
{
    const int ranks = ranks_of(p->how);
    memset(p->found, 0, sizeof *p->found);
    fork_results r = fork_group_run(ranks, patience, LIMIT, rank_member, p);
    const finding *f = p->found;
    for (int i = 0; i < ranks; i++)
        if (r.status[i] != 0 || f->output[i] != f->output[0]) {
            fprintf(stderr, "%s: rank %d ended with %d%s\n", way_names[p->how], i, r.status[i],
                    r.status[i] == 0 ? ", and another output than rank 0's" : "");
            return 0;
        }
    printf("ksweep        %-5s fp16  %4d %-6s %8.3f %8.3f %8.3f %4d", p->model->name, p->side, way_names[p->how], (double)f->median,
           (double)f->least, (double)f->most, p->calls);
    if (one > 0)
        printf(" %6.3fx", (double)(one / f->median));
    printf("\n#   a rank's weights take %.3f GiB (%.3f are its parameters' share), all beside them %.2f GiB; output's standard "
           "deviation %.3f\n", f->weight_bytes[0] / (1 << 30), f->promised_bytes / (1 << 30), f->other_bytes / (1 << 30), f->deviation);
    fflush(stdout);
    return f->median;
}

/* --- sums alone --- */

enum { SUMS = 40, REPEATS = 11 };

/* Activations of two rows at 1024 x 1024 and at 2048 x 2048 pixels. */
static const ks_act sum_shapes[] = {
    {.n = ROWS, .h = 32, .w = 32, .c = 1280}, {.n = ROWS, .h = 64, .w = 64, .c = 640},   {.n = ROWS, .h = 128, .w = 128, .c = 320},
    {.n = ROWS, .h = 128, .w = 128, .c = 640}, {.n = ROWS, .h = 256, .w = 256, .c = 320},
};

typedef struct summing {
    ks_ops *ops;
    ks_act y;
    ks_cuda_sum_way way;
} summing;

static void queue_sums(void *arg)
{
    const summing *s = arg;
    for (int i = 0; i < SUMS; i++)
        ks_cuda_all_reduce_by(s->ops, s->y, s->way);
}

/* Microseconds of a sum, from a kept graph of them. */
static double time_sums(summing *s)
{
    static uint64_t key;
    ks_error err = KS_ERROR_NONE;
    float ms[REPEATS];
    cudaEvent_t begin, end;
    cudaStream_t stream = ks_cuda_of(s->ops)->stream;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    for (int i = -1; i < REPEATS; i++) {
        cudaEventRecord(begin, stream);
        key += i < 0;
        need(s->ops->replay(s->ops, key, queue_sums, s, &err) == 0, &err);
        cudaEventRecord(end, stream);
        need(s->ops->sync(s->ops, &err) == 0, &err);
        if (i >= 0)
            cudaEventElapsedTime(&ms[i], begin, end);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return 1e3 * (double)median_of(ms, REPEATS) / SUMS;
}

/* blocks: of a sum through memory, or 0. */
static void time_way(summing *s, const ks_group *g, const char *name, int blocks)
{
    char many[32] = "";
    const ks_act t = s->y;
    const double bytes = 2.0 * t.n * t.h * t.w * t.c, us = time_sums(s);
    if (blocks > 0)
        snprintf(many, sizeof many, "%d blocks", blocks);
    if (g->rank == 0)
        printf("# sum of [%d, %d, %d, %d], %5.1f MB, by %-6s %-10s %7.1f us %6.0f GB/s\n", t.n, t.h, t.w, t.c, 1e-6 * bytes, name, many,
               us, 1e-3 * bytes / us);
}

/* Through memory by any number of blocks for each multiprocessor. */
static void time_ways(summing *s, const ks_group *g)
{
    static const char *const names[KS_CUDA_SUM_WAYS] = {"shares", "NCCL", "memory"};
    for (s->way = 0; s->way < KS_CUDA_SUM_WAYS; s->way++) {
        ks_cuda *c = ks_cuda_of(s->ops);
        if (!ks_cuda_can_sum_by(c, s->way))
            continue;
        if (s->way != KS_CUDA_BY_MEMORY) {
            time_way(s, g, names[s->way], 0);
            continue;
        }
        ks_cuda_exchange *x = &c->others->peer.x;
        const int blocks = x->blocks;
        for (int each = 1; each <= KS_CUDA_EXCHANGE_MOST_EACH; each++) {
            x->blocks = blocks / KS_CUDA_EXCHANGE_EACH * each;
            time_way(s, g, names[s->way], x->blocks);
        }
        x->blocks = blocks;
    }
}

static int sums_member(ks_group *g, void *arg)
{
    (void)arg;
    ks_error err = KS_ERROR_NONE;
    summing s = {.ops = ks_ops_cuda(g->rank, "fp16", &err)};
    need(s.ops && s.ops->join(s.ops, g, g, &err) == 0, &err);
    for (size_t i = 0; i < sizeof sum_shapes / sizeof *sum_shapes; i++) {
        const ks_act t = sum_shapes[i];
        s.y = s.ops->act(s.ops, t.n, t.h, t.w, t.c); /* zeros, which stay so */
        cudaMemsetAsync(s.y.data, 0, 2 * (size_t)t.n * (size_t)t.h * (size_t)t.w * (size_t)t.c, ks_cuda_of(s.ops)->stream);
        time_ways(&s, g);
    }
    s.ops->free(s.ops);
    return 0;
}

static bool bench_sums(void)
{
    fork_results r = fork_group_run(RANKS, patience, LIMIT, sums_member, NULL);
    if (r.status[0] != 0 || r.status[1] != 0)
        fprintf(stderr, "sums: the ranks ended with %d and %d\n", r.status[0], r.status[1]);
    return r.status[0] == 0 && r.status[1] == 0;
}

/* --- the command line --- */

static bool is_listed(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || at[n] == '\0'))
            return true;
    }
    return false;
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_split_gpu FOLDER [--sides 128,256] [--calls 40] [--ways sums,one,half,rows,tensor]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"sides", required_argument, NULL, 's'},
                                            {"calls", required_argument, NULL, 'c'},
                                            {"ways", required_argument, NULL, 'w'},
                                            {NULL, 0, NULL, 0}};
    int sides[MOST_SIDES + 1] = {128, 256, 0};
    const char *ways = "sums,one,half,rows,tensor";
    plan p = {.model = &random_models[0], .calls = 40};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'w')
            ways = optarg;
        else if (option == 'c')
            p.calls = atoi(optarg);
        else if (option != 's' || !read_list(optarg, 8, 1024, sides, MOST_SIDES))
            return usage();
    }
    if (optind + 1 != argc || p.calls < 1 || p.calls > MOST_CALLS)
        return usage();
    ks_error err = KS_ERROR_NONE;
    char *path = random_model_file(p.model, argv[optind], &err);
    need(path != NULL, &err);
    p.path = path;
    p.found = fork_group_memory(sizeof *p.found);
    bool good = !is_listed(ways, "sums") || bench_sums();
    for (const int *side = sides; *side; side++) {
        float one = 0;
        for (p.how = ONE, p.side = *side; p.how < WAYS; p.how++) {
            if (!is_listed(ways, way_names[p.how]))
                continue;
            float median = bench_way(&p, one);
            one = p.how == ONE ? median : one;
            good = good && median > 0;
        }
    }
    free(path);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
