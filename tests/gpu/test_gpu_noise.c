/* Noise drawn by the device: every bit is that of the host's generators. */
#include "gpu.h"

#include <math.h>

#include "backend/generators.h"
#include "base/file.h"
#include "sampling/noise.h"
#include "support/host_ops.h"

static ks_ops *gpu;

static const ks_noise_device cpu = {KS_NOISE_CPU, 0};
static const ks_noise_device devices[] = {
    {KS_NOISE_CPU, 0}, {KS_NOISE_CUDA, 132}, {KS_NOISE_CUDA, 3}, {KS_NOISE_CUDA, 1}, {KS_NOISE_CUDA, 65536}};
enum { DEVICES = sizeof devices / sizeof *devices, GUARD = 64 };

static void *on_device(size_t bytes)
{
    ks_error err = KS_ERROR_NONE;
    void *memory = gpu->alloc(gpu, bytes, &err);
    if (!memory)
        fail_msg("%s", err.text);
    return memory;
}

/* Operations for one call, with what the host makes of them. Each array has a guard behind it. */
enum { MOST = 48 };
typedef struct batch {
    ks_noise_op op[MOST];
    float *want[MOST];
    int count;
} batch;

static float *guarded(int64_t n)
{
    float *values = ks_calloc((size_t)n + GUARD, sizeof *values);
    for (int64_t i = 0; i < n + GUARD; i++)
        values[i] = (float)(i % 101) / 8 - 6;
    return values;
}

/* Adds an operation without its out, and based on what out holds if it has a base_coef. */
static void add(batch *b, ks_noise_op op)
{
    assert_true(b->count < MOST);
    float *want = guarded(op.n);
    size_t bytes = (size_t)(op.n + GUARD) * sizeof *want;
    op.out = on_device(bytes);
    op.base = op.base_coef != 0 ? op.out : NULL;
    gpu->upload(gpu, op.out, want, bytes);
    ks_noise_op host = op;
    host.out = want;
    host.base = op.base ? want : NULL;
    host.state = NULL;
    host_noise_op(&host);
    b->op[b->count] = op;
    b->want[b->count++] = want;
}

static void compare(const float *got, const float *want, int64_t n, const char *where)
{
    for (int64_t i = 0; i < n + GUARD; i++)
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s: element %lld of %lld is %.9g (%a), the host's %.9g (%a)", where, (long long)i, (long long)n,
                     (double)got[i], (double)got[i], (double)want[i], (double)want[i]);
}

/* Runs all in one call and compares every bit. */
static void run_batch(batch *b)
{
    gpu->noise(gpu, b->op, b->count);
    for (int k = 0; k < b->count; k++) {
        const ks_noise_op *op = &b->op[k];
        float *got = ks_calloc((size_t)op->n + GUARD, sizeof *got);
        gpu->download(gpu, got, op->out, (size_t)(op->n + GUARD) * sizeof *got);
        no_failure(gpu, "noise");
        char *where = ks_format("operation %d of %d, %s %d, %d terms, skip %lld", k, b->count,
                               op->device.kind == KS_NOISE_CPU ? "cpu" : "cuda", op->device.multiprocessors, op->terms,
                               (long long)op->skip);
        compare(got, b->want[k], op->n, where);
        gpu->release(gpu, op->out);
        free(where);
        free(got);
        free(b->want[k]);
    }
    b->count = 0;
}

static const int64_t sizes[] = {16,   17,   31,    32,    100,   227,   623,    624,           625,         1000,
                                4096, 5000, 16384, 20000, 65536, 65551, 131072, 2 * 65536 + 3, 1 << 20, (1 << 20) + 9};
enum { SIZES = sizeof sizes / sizeof *sizes };

static void draws_have_the_bits_of_the_host_s(void **state)
{
    (void)state;
    batch b = {.count = 0};
    for (int d = 0; d < DEVICES; d++)
        for (int s = 0; s < SIZES; s++) {
            add(&b, (ks_noise_op){.n = sizes[s], .device = devices[d], .scale = 1, .seed = 977 * (uint64_t)s + 1});
            run_batch(&b);
        }
}

/* Few elements are no draw of the CPU generator here. */
static void philox_draws_small_ones_too(void **state)
{
    (void)state;
    batch b = {.count = 0};
    for (int n = 1; n < 20; n++)
        add(&b, (ks_noise_op){.n = n, .device = devices[1 + n % 4], .scale = 1, .seed = UINT64_MAX - (uint64_t)n});
    run_batch(&b);
}

/* Seeds beyond 32 bits, streams that begin far in, and all generators and sizes in one call. */
static void many_operations_go_out_as_one(void **state)
{
    (void)state;
    batch b = {.count = 0};
    static const uint64_t seeds[] = {0, 1, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX, UINT64_C(0x123456789abcdef)};
    static const int64_t skips[] = {0, 1, 16, 623, 624, 625, 66000, 1247};
    for (int round = 0; round < 8; round++) {
        for (int k = 0; k < 40; k++)
            add(&b, (ks_noise_op){.n = sizes[(k * 7 + round) % 16],
                                  .device = devices[(k + round) % DEVICES],
                                  .scale = k % 3 ? 1 : 14.6146,
                                  .base_coef = k % 4 == 3 ? 0.18215 : 0,
                                  .seed = seeds[k % 6],
                                  .skip = skips[(k + round) % 8]});
        run_batch(&b);
    }
}

/* Draw after draw of sizes that leave words of a state unused. */
static void a_generator_goes_on_where_it_stands(void **state)
{
    (void)state;
    static const int64_t n[] = {100, 16, 17, 624, 65536, 31, 1248, 4099, 65536};
    uint32_t *stream = on_device(KS_NOISE_STATE * sizeof *stream);
    ks_generator g;
    for (int round = 0; round < 3; round++) {
        ks_generator_seed(&g, cpu, 1000 + (uint64_t)round);
        for (size_t k = 0; k < sizeof n / sizeof *n; k++) {
            float *want = guarded(n[k]), *got = guarded(n[k]), *out = on_device((size_t)(n[k] + GUARD) * sizeof *out);
            ks_generator_normal(&g, want, n[k]);
            gpu->upload(gpu, out, got, (size_t)(n[k] + GUARD) * sizeof *out);
            gpu->noise(gpu,
                       &(ks_noise_op){.out = out, .n = n[k], .scale = 1, .device = cpu, .seed = g.seed, .state = stream,
                                      .fresh = k == 0},
                       1);
            gpu->download(gpu, got, out, (size_t)(n[k] + GUARD) * sizeof *out);
            no_failure(gpu, "noise");
            compare(got, want, n[k], "a later draw");
            gpu->release(gpu, out);
            free(want);
            free(got);
        }
    }
    gpu->release(gpu, stream);
}

/* Lanes at different places of their trees in one call, and the host's own answers. */
static void tree_queries_have_the_bits_of_the_host_s(void **state)
{
    (void)state;
    static const double sigma[] = {14.614641189575195, 9.5, 3.25, 0.75, 0.3, 0.02916716784238815};
    static const int64_t n[] = {16, 100, 4096, 16384, 65536, 2 * 65536 + 3};
    enum { LANES = 6 };
    for (int round = 0; round < 5; round++)
        for (int d = 0; d < 2; d++) {
            ks_noise_op op[LANES];
            static ks_noise_term term[LANES][KS_BROWNIAN_TERMS];
            for (int k = 0; k < LANES; k++) {
                ks_brownian_tree tree;
                double from = (double)(float)sigma[(round + k) % 5], to = (double)(float)sigma[(round + k) % 5 + 1];
                assert_int_equal(ks_brownian_tree_init(&tree, 50 + (uint64_t)k, sigma[5], sigma[0], NULL), 0);
                op[k] = (ks_noise_op){.n = n[k], .device = devices[d], .term = term[k],
                                      .out = on_device((size_t)n[k] * sizeof(float))};
                op[k].terms = ks_brownian_terms(&tree, from, to, term[k], &op[k].scale);
            }
            gpu->noise(gpu, op, LANES);
            for (int k = 0; k < LANES; k++) {
                double from = (double)(float)sigma[(round + k) % 5], to = (double)(float)sigma[(round + k) % 5 + 1];
                float *want = guarded(n[k]), *got = guarded(n[k]);
                ks_brownian *b = ks_brownian_new(devices[d], 50 + (uint64_t)k, sigma[5], sigma[0], n[k], NULL);
                assert_non_null(b);
                ks_brownian_noise(b, from, to, want);
                gpu->download(gpu, got, op[k].out, (size_t)n[k] * sizeof *got);
                no_failure(gpu, "noise");
                compare(got, want, n[k], "a tree's noise");
                ks_brownian_free(b);
                gpu->release(gpu, op[k].out);
                free(want);
                free(got);
            }
        }
}

/* More words than have room at a time: several sums, and single draws with and without a state. */
static void what_does_not_fit_at_once_is_drawn_in_slices(void **state)
{
    (void)state;
    enum { TERMS = 90, LARGE = (40 << 20) + 5 };
    static ks_noise_term term[TERMS];
    batch b = {.count = 0};
    for (int k = 0; k < TERMS; k++)
        term[k] = (ks_noise_term){.seed = (uint64_t)(k * k), .plus = sin(k), .minus = k % 3 ? cos(k) : 0};
    for (int k = 0; k < 5; k++)
        add(&b, (ks_noise_op){.n = sizes[SIZES - 4 + k % 2] + k, .device = devices[k == 2], .scale = 0.7, .terms = TERMS, .term = term});
    add(&b, (ks_noise_op){.n = 100, .device = cpu, .scale = 1, .seed = 5, .skip = 700});
    run_batch(&b);
    add(&b, (ks_noise_op){.n = LARGE, .device = cpu, .scale = 1, .seed = 6, .skip = 1001});
    run_batch(&b);
    uint32_t *stream = on_device(KS_NOISE_STATE * sizeof *stream);
    for (int k = 0; k < 2; k++) {
        add(&b, (ks_noise_op){.n = LARGE, .device = cpu, .scale = 1, .seed = 7, .state = stream, .fresh = k == 0,
                              .skip = k == 0 ? 0 : LARGE + KS_NORMAL_BLOCK});
        b.op[0].skip = 0; /* the state is there already */
        run_batch(&b);
    }
    gpu->release(gpu, stream);
}

static void operations_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    float *out = on_device(64 * sizeof *out);
    ks_error err = KS_ERROR_NONE;
    const ks_noise_op wrong[] = {{.out = out, .n = 15, .device = {KS_NOISE_CPU, 0}, .scale = 1},
                                 {.out = out, .n = 0, .device = {KS_NOISE_CUDA, 132}, .scale = 1},
                                 {.out = out, .n = 16, .device = {KS_NOISE_CUDA, 0}, .scale = 1}};
    for (int k = 0; k < 3; k++) {
        gpu->noise(gpu, &wrong[k], 1);
        assert_int_equal(gpu->sync(gpu, &err), -1);
        assert_non_null(strstr(err.text, "noise"));
    }
    gpu->noise(gpu, wrong, 0);
    assert_int_equal(gpu->sync(gpu, &err), 0);
    gpu->release(gpu, out);
}

int main(void)
{
    gpu = gpu_or_skip("fp16");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_have_the_bits_of_the_host_s),
        cmocka_unit_test(philox_draws_small_ones_too),
        cmocka_unit_test(many_operations_go_out_as_one),
        cmocka_unit_test(a_generator_goes_on_where_it_stands),
        cmocka_unit_test(tree_queries_have_the_bits_of_the_host_s),
        cmocka_unit_test(what_does_not_fit_at_once_is_drawn_in_slices),
        cmocka_unit_test(operations_that_make_no_sense_are_refused),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->free(gpu);
    return failed;
}
