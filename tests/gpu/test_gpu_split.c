/* One network on several GPUs: sums, broadcasts and gatherings through NCCL, the golden UNets in parts, and ranks that go
 * while the others wait. Every rank is a process with a GPU of its own; none of this process touches a GPU. */
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "backend/cuda/cuda.h"
#include "support/unet_parts.h"

enum { SKIPPED = 77, RANKS = 2, LIMIT = 240 };
static const double patience = 60;
static const char *const precisions[] = {"fp32", "fp16", "bf16"};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

static int gpus;

static ks_ops *open_gpu(int rank, const char *precision, ks_error *err)
{
    return ks_ops_cuda(rank, precision, err);
}

/* --- a rank, in its process: no assertions, it says what is wrong and ends --- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ks_ops *joined(ks_group *g, const char *precision)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cuda(g->rank, precision, &err);
    if (!ops || ops->join(ops, g, g, &err) != 0)
        parts_give_up("joining", &err);
    return ops;
}

static void must_sync(ks_ops *ops, const char *what)
{
    ks_error err = KS_ERROR_NONE;
    if (ops->sync(ops, &err) != 0)
        parts_give_up(what, &err);
}

static void *device_memory(ks_ops *ops, size_t bytes)
{
    ks_error err = KS_ERROR_NONE;
    void *memory = ops->alloc(ops, bytes, &err);
    if (!memory)
        parts_give_up("memory", &err);
    return memory;
}

/* --- sums --- */

/* What is summed: rows of pixels, each with `beside` channels next to it that stay as they are. */
typedef struct sum_case {
    int n, h, w, c, beside;
} sum_case;

static const sum_case sum_cases[] = {
    {1, 1, 1, 1, 0},   {2, 3, 5, 7, 0},    {2, 3, 5, 7, 3},        {3, 9, 1, 8, 8}, {2, 96, 96, 320, 640},
    {2, 16, 12, 64, 0}, {3, 17, 13, 33, 0}, {2, 64, 64, 640, 0}, {2, 128, 128, 320, 0}, {2, 96, 300, 160, 0},
};
enum { SUM_CASES = sizeof sum_cases / sizeof *sum_cases };

static int64_t values_of(const sum_case *t)
{
    return (int64_t)t->n * t->h * t->w * t->c;
}

/* A number of any size that the types have, for a rank, a row and a place in it. */
static float number(int rank, int row, int64_t place)
{
    uint32_t bits = (uint32_t)rank * 0x9e3779b9u + (uint32_t)row * 0x85ebca6bu + (uint32_t)place * 0xc2b2ae35u + 1;
    for (int i = 0; i < 3; i++)
        bits = (bits ^ (bits >> 15)) * 0x2c1b3c6du;
    return ldexpf((float)((int)(bits >> 12) - (1 << 19)) / (float)(1 << 19), (int)(bits % 16) - 8);
}

/* One case on one device. */
typedef struct summing {
    ks_ops *ops;
    ks_group *group;
    const sum_case *t;
    ks_act y;
    float *device, *host;
} summing;

static void set_act(const summing *s, bool backwards)
{
    const int64_t row = values_of(s->t) / s->t->n;
    for (int i = 0; i < s->t->n; i++)
        for (int64_t k = 0; k < row; k++)
            s->host[i * row + k] = number(s->group->rank, backwards ? s->t->n - 1 - i : i, k);
    s->ops->upload(s->ops, s->device, s->host, (size_t)values_of(s->t) * sizeof(float));
    s->ops->from_floats(s->ops, s->y, s->device);
}

static void get_act(const summing *s, float *out)
{
    s->ops->to_floats(s->ops, s->device, s->y);
    s->ops->download(s->ops, out, s->device, (size_t)values_of(s->t) * sizeof(float));
    must_sync(s->ops, "a sum");
}

/* The sum that must come out, in the type: every rank's numbers as the type has them, in order, in float32. */
static float *expected_sum(const summing *s)
{
    ks_error err = KS_ERROR_NONE;
    const int64_t n = values_of(s->t);
    float *mine = malloc((size_t)n * sizeof *mine), *all = malloc((size_t)(n * s->group->size) * sizeof *all);
    if (!mine || !all)
        _exit(1);
    set_act(s, false);
    get_act(s, mine);
    if (s->group->gather(s->group, mine, (size_t)n * sizeof *mine, all, &err) != 0)
        parts_give_up("gathering numbers", &err);
    for (int64_t i = 0; i < n; i++) {
        mine[i] = all[i];
        for (int rank = 1; rank < s->group->size; rank++)
            mine[i] += all[rank * n + i];
    }
    s->ops->upload(s->ops, s->device, mine, (size_t)n * sizeof *mine);
    s->ops->from_floats(s->ops, s->y, s->device);
    get_act(s, mine);
    free(all);
    return mine;
}

static void queue_sum(void *arg)
{
    const summing *s = arg;
    s->ops->all_reduce(s->ops, s->y);
}

static bool same(const summing *s, const float *expected, const char *way)
{
    const int64_t n = values_of(s->t);
    get_act(s, s->host);
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&s->host[i], &expected[i], sizeof(float)) != 0) {
            fprintf(stderr, "rank %d, %s, [%d, %d, %d, %d] + %d, %s: element %lld is %.9g, not %.9g\n", s->group->rank,
                    s->ops->precision, s->t->n, s->t->h, s->t->w, s->t->c, s->t->beside, way, (long long)i, (double)s->host[i],
                    (double)expected[i]);
            return false;
        }
    return true;
}

static const char *const ways[KS_CUDA_SUM_WAYS] = {"by shares", "by NCCL", "by memory"};

/* The case's sum in every way, and kept; the last with the rows in the opposite order, too. */
static bool sums_rightly(const summing *s)
{
    ks_error err = KS_ERROR_NONE;
    const int64_t row = values_of(s->t) / s->t->n;
    float *expected = expected_sum(s);
    bool good = true;
    for (ks_cuda_sum_way way = 0; way < KS_CUDA_SUM_WAYS; way++) {
        if (!ks_cuda_can_sum_by(ks_cuda_of(s->ops), way))
            continue;
        set_act(s, false);
        ks_cuda_all_reduce_by(s->ops, s->y, way);
        good &= same(s, expected, ways[way]);
    }
    for (int again = 0; again < 4; again++) {
        summing copy = *s;
        set_act(s, again == 3);
        if (s->ops->replay(s->ops, (uint64_t)(s->t - sum_cases) + 1, queue_sum, &copy, &err) != 0)
            parts_give_up("keeping a sum", &err);
        for (int i = 0; again == 3 && i < s->t->n / 2; i++)
            for (int64_t k = 0; k < row; k++) {
                float *a = &expected[i * row + k], *b = &expected[(s->t->n - 1 - i) * row + k], kept = *a;
                *a = *b;
                *b = kept;
            }
        good &= same(s, expected, again == 0 ? "queued" : again == 3 ? "kept, rows moved" : "kept");
    }
    free(expected);
    return good;
}

/* What lies beside the summed channels stays. */
static bool keeps_what_is_beside(const summing *s)
{
    ks_act all = s->y, beside = s->y;
    all.c = s->t->c + s->t->beside;
    beside.data = (char *)beside.data + (size_t)s->t->c * (s->ops->precision[2] == '3' ? 4 : 2);
    beside.c = s->t->beside;
    const int64_t pixels = (int64_t)all.n * all.h * all.w, n = pixels * all.c;
    float *host = malloc((size_t)n * sizeof *host), *device = device_memory(s->ops, (size_t)n * sizeof *host);
    if (!host)
        _exit(1);
    for (int64_t i = 0; i < n; i++)
        host[i] = (float)(i % 61);
    s->ops->upload(s->ops, device, host, (size_t)n * sizeof *host);
    s->ops->from_floats(s->ops, all, device);
    s->ops->all_reduce(s->ops, s->y);
    s->ops->to_floats(s->ops, device, beside);
    s->ops->download(s->ops, host, device, (size_t)(pixels * beside.c) * sizeof *host);
    must_sync(s->ops, "what is beside a sum");
    bool good = true;
    for (int64_t i = 0; i < pixels * beside.c; i++)
        good &= host[i] == (float)((i / beside.c * all.c + s->t->c + i % beside.c) % 61);
    if (!good)
        fprintf(stderr, "rank %d: a sum changes what lies beside it\n", s->group->rank);
    s->ops->release(s->ops, device);
    free(host);
    return good;
}

static int sum_member(ks_group *g, void *arg)
{
    ks_ops *ops = joined(g, arg);
    bool good = true;
    if (g->rank == 0 && g->size == 2)
        printf("%s: each other's memory is %s\n", (char *)arg,
               ks_cuda_can_sum_by(ks_cuda_of(ops), KS_CUDA_BY_MEMORY) ? "used" : "not used, there is no way to it");
    for (int i = 0; i < SUM_CASES; i++) {
        const sum_case *t = &sum_cases[i];
        summing s = {.ops = ops, .group = g, .t = t};
        s.y = (ks_act){.n = t->n, .h = t->h, .w = t->w, .c = t->c, .stride = t->c + t->beside};
        s.y.data = device_memory(ops, (size_t)(values_of(t) / t->c * s.y.stride) * sizeof(float));
        s.device = device_memory(ops, (size_t)values_of(t) * sizeof(float));
        s.host = malloc((size_t)values_of(t) * sizeof(float));
        if (!s.host)
            _exit(1);
        good &= sums_rightly(&s);
        good &= t->beside == 0 || keeps_what_is_beside(&s);
        ops->release(ops, s.y.data);
        ops->release(ops, s.device);
        free(s.host);
    }
    must_sync(ops, "the end");
    ops->free(ops);
    return good ? 0 : 1;
}

static void all_end_well(int ranks, int (*member)(ks_group *, void *), const char *precision)
{
    char arg[8];
    snprintf(arg, sizeof arg, "%s", precision);
    fork_results r = fork_group_run(ranks, patience, LIMIT, member, arg);
    for (int i = 0; i < ranks; i++)
        if (r.status[i] != 0)
            fail_msg("%s: rank %d of %d ended with %d", precision, i, ranks, r.status[i]);
}

static void sums_are_exact_at_every_rank(void **state)
{
    (void)state;
    for (int ranks = RANKS; ranks <= gpus && ranks <= PARTS_MOST; ranks++)
        for (int p = 0; p < PRECISIONS; p++)
            all_end_well(ranks, sum_member, precisions[p]);
}

/* --- bytes --- */

static unsigned char byte_of(int rank, size_t at)
{
    return (unsigned char)(rank * 101 + (int)(at % 251));
}

static bool moves_rightly(ks_ops *ops, const ks_group *g, size_t size)
{
    const size_t ranks = (size_t)g->size, all = ranks * size;
    unsigned char *host = malloc(all), *device = device_memory(ops, all);
    bool good = host != NULL;
    for (size_t i = 0; i < size; i++)
        host[i] = byte_of(g->rank, i);
    ops->upload(ops, device, host, size);
    ops->broadcast(ops, device, size);
    ops->download(ops, host, device, size);
    must_sync(ops, "a broadcast");
    for (size_t i = 0; i < size; i++)
        good &= host[i] == byte_of(0, i);
    for (size_t i = 0; i < size; i++)
        host[i] = byte_of(g->rank, i);
    ops->upload(ops, device + (size_t)g->rank * size, host, size);
    ops->gather(ops, device, size);
    ops->download(ops, host, device, all);
    must_sync(ops, "a gathering");
    for (size_t i = 0; i < all; i++)
        good &= host[i] == byte_of((int)(i / size), i % size);
    if (!good)
        fprintf(stderr, "rank %d: %zu bytes did not arrive\n", g->rank, size);
    ops->release(ops, device);
    free(host);
    return good;
}

static int move_member(ks_group *g, void *arg)
{
    static const size_t sizes[] = {1, 13, 4096, 65537, (5 << 20) + 3};
    ks_ops *ops = joined(g, arg);
    bool good = true;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        good &= moves_rightly(ops, g, sizes[i]);
    ops->free(ops);
    return good ? 0 : 1;
}

static void broadcasts_and_gatherings_arrive(void **state)
{
    (void)state;
    all_end_well(RANKS, move_member, "fp16");
}

/* --- networks --- */

/* As of one GPU in test_gpu_unet. */
static const double bounds[PRECISIONS] = {1e-4, 16 * 0x1p-11, 16 * 0x1p-8};

static void parts_make_the_whole(void **state)
{
    (void)state;
    static const char *const names[] = {"tiny-sd15", "tiny-sdxl"};
    int wrong = 0;
    for (size_t m = 0; m < sizeof names / sizeof *names; m++)
        for (int p = 0; p < PRECISIONS; p++) {
            unet_parts t = unet_parts_new(names[m], precisions[p], open_gpu);
            for (int parts = 2; parts <= PARTS_MOST && parts <= gpus; parts *= 2) {
                unet_parts_run(&t, parts, patience);
                double error = unet_parts_error(&t, NULL);
                bool good = error <= bounds[p];
                printf("%s %s in %d parts: %9.2e (bound %.2e)%s\n", names[m], precisions[p], parts, error, bounds[p],
                       good ? "" : "  WRONG");
                wrong += !good;
            }
            unet_parts_free(&t);
        }
    assert_int_equal(wrong, 0);
}

/* --- ranks that go --- */

enum { GOES = 1, GONE = 17 };
static const double short_patience = 3;
static atomic_int *told; /* shared: the one that stays has been told */

/* Sums in one way, kept ones and queued ones in turn. */
typedef struct going {
    summing s;
    ks_cuda_sum_way way;
} going;

static void queue_sum_of_going(void *arg)
{
    const going *g = arg;
    ks_cuda_all_reduce_by(g->s.ops, g->s.y, g->way);
}

static void queue_some_sums(going *g)
{
    ks_error err = KS_ERROR_NONE;
    for (int i = 0; i < 3; i++) {
        if (g->s.ops->replay(g->s.ops, 1, queue_sum_of_going, g, &err) != 0)
            parts_give_up("keeping a sum", &err);
        ks_cuda_all_reduce_by(g->s.ops, g->s.y, g->way);
    }
}

/* Sums that are not answered: what is kept and what is queued both come to an end, and so does the device. */
static int stay(going *g, const double begin)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = g->s.ops;
    queue_some_sums(g);
    bool good = ops->sync(ops, &err) == -1 && ops->fault;
    fprintf(stderr, "%s, after %.1f seconds: %s\n", ways[g->way], now() - begin, err.text);
    ops->all_reduce(ops, g->s.y);
    good &= ops->sync(ops, &err) == -1;
    ops->free(ops);
    atomic_store(told, 1);
    fprintf(stderr, "the device was given back after %.1f seconds\n", now() - begin);
    return good && now() - begin < 60 ? 0 : 1;
}

/* way: where there is none through memory, NCCL's. */
static int one_goes(ks_group *g, ks_cuda_sum_way way, void (*go)(void))
{
    static const sum_case t = {2, 32, 32, 640, 0};
    ks_ops *ops = joined(g, "fp16");
    summing s = {.ops = ops, .group = g, .t = &t};
    going both = {.way = ks_cuda_can_sum_by(ks_cuda_of(ops), way) ? way : KS_CUDA_BY_NCCL};
    s.y = (ks_act){.n = t.n, .h = t.h, .w = t.w, .c = t.c, .stride = t.c};
    s.y.data = device_memory(ops, (size_t)values_of(&t) * sizeof(float));
    s.device = device_memory(ops, (size_t)values_of(&t) * sizeof(float));
    s.host = malloc((size_t)values_of(&t) * sizeof(float));
    if (!s.host)
        _exit(1);
    set_act(&s, false);
    both.s = s;
    queue_some_sums(&both);
    must_sync(ops, "sums together");
    if (g->rank == GOES)
        go();
    return g->rank == GOES ? GONE : stay(&both, now());
}

/* Comes too late, and ends without a word to the device. */
static void hang(void)
{
    while (!atomic_load(told))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    _exit(GONE);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
}

static int hanging_member(ks_group *g, void *arg)
{
    return one_goes(g, *(const ks_cuda_sum_way *)arg, hang);
}

static int dying_member(ks_group *g, void *arg)
{
    return one_goes(g, *(const ks_cuda_sum_way *)arg, die);
}

static void the_other_is_told(int (*member)(ks_group *, void *), int status)
{
    for (ks_cuda_sum_way way = KS_CUDA_BY_NCCL; way <= KS_CUDA_BY_MEMORY; way++) {
        told = fork_group_memory(sizeof *told);
        fork_results r = fork_group_run(RANKS, short_patience, LIMIT, member, &way);
        fork_group_free(told, sizeof *told);
        assert_int_equal(r.status[1 - GOES], 0);
        assert_int_equal(r.status[GOES], status);
    }
}

static void a_rank_that_hangs_is_given_up(void **state)
{
    (void)state;
    the_other_is_told(hanging_member, GONE);
}

static void a_rank_that_dies_is_given_up(void **state)
{
    (void)state;
    the_other_is_told(dying_member, 256 + SIGKILL);
}

/* --- whether there is anything to test on --- */

static int count_member(ks_group *g, void *arg)
{
    (void)g;
    *(int *)arg = ks_cuda_device_count();
    return 0;
}

/* Counted in a process of its own: CUDA does not bear a fork. */
static int count_gpus(void)
{
    int *count = fork_group_memory(sizeof *count);
    fork_group_run(1, patience, LIMIT, count_member, count);
    int found = *count;
    fork_group_free(count, sizeof *count);
    return found;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broadcasts_and_gatherings_arrive),
        cmocka_unit_test(sums_are_exact_at_every_rank),
        cmocka_unit_test(parts_make_the_whole),
        cmocka_unit_test(a_rank_that_hangs_is_given_up),
        cmocka_unit_test(a_rank_that_dies_is_given_up),
    };
#ifndef KSWEEP_HAVE_NCCL
    puts("skipped: this build has no NCCL");
    return SKIPPED;
#endif
    gpus = count_gpus();
    if (gpus < RANKS) {
        printf("skipped: %d GPU%s here, and 2 are needed\n", gpus, gpus == 1 ? "" : "s");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
