/* Waiting for a part of the queued work, and the device's own clock. */
#include "gpu.h"

#include "base/file.h"

enum { FLOATS = 1 << 24 }; /* a pass takes the GPU longer than queueing it takes the host */

static ks_ops *gpu;

/* out = out + 1, so many times: work that takes its time. */
static void count_up(float *values, int times)
{
    float *one = values + FLOATS;
    for (int i = 0; i < times; i++) {
        ks_lincomb_op op = {.out = values, .n = FLOATS, .terms = 2, .coef = {1, 1}, .in = {values, one}};
        gpu->lincomb(gpu, &op, 1);
    }
}

static float *new_values(void)
{
    ks_error err = KS_ERROR_NONE;
    float *values = gpu->alloc(gpu, 2 * FLOATS * sizeof *values, &err), *ones = ks_calloc(FLOATS, sizeof *ones);
    assert_non_null(values);
    for (int i = 0; i < FLOATS; i++)
        ones[i] = 1;
    gpu->upload(gpu, values + FLOATS, ones, FLOATS * sizeof *ones);
    free(ones);
    return values;
}

static void a_fence_brings_what_was_queued_before_it(void **state)
{
    (void)state;
    enum { FENCES = 20, TAIL = 256 };
    ks_error err = KS_ERROR_NONE;
    float *values = new_values(), got[FENCES][TAIL];
    uint64_t fence[FENCES];
    for (int i = 0; i < FENCES; i++) {
        count_up(values, 3);
        gpu->download(gpu, got[i], values + FLOATS - TAIL, sizeof got[i]);
        fence[i] = gpu->fence(gpu);
    }
    for (int i = 0; i < FENCES; i++) { /* the first ones have lost their events to later ones */
        assert_int_equal(gpu->wait(gpu, fence[i], &err), 0);
        for (int k = 0; k < TAIL; k++)
            assert_true(got[i][k] == (float)(3 * (i + 1)));
    }
    assert_int_equal(gpu->sync(gpu, &err), 0);
    gpu->release(gpu, values);
}

static void a_fence_does_not_wait_for_what_comes_after_it(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    float *values = new_values(), early = 0, late = 0;
    count_up(values, 1);
    assert_int_equal(gpu->sync(gpu, &err), 0);
    gpu->download(gpu, &early, values, sizeof early);
    uint64_t fence = gpu->fence(gpu);
    count_up(values, 500);
    gpu->download(gpu, &late, values, sizeof late);
    double begin = ks_seconds();
    assert_int_equal(gpu->wait(gpu, fence, &err), 0);
    double first = ks_seconds() - begin;
    assert_true(early == 1);
    assert_int_equal(gpu->sync(gpu, &err), 0);
    double all = ks_seconds() - begin;
    printf("the fence after %.3f ms, all after %.3f ms\n", 1e3 * first, 1e3 * all);
    assert_true(late == 501);
    assert_true(first < all / 2);
    gpu->release(gpu, values);
}

static void the_clock_counts_the_device_s_time(void **state)
{
    (void)state;
    enum { STRETCHES = 100 }; /* more than are kept at a time */
    ks_error err = KS_ERROR_NONE;
    float *values = new_values();
    count_up(values, 1);
    assert_int_equal(gpu->sync(gpu, &err), 0);
    int64_t count, before, decoded;
    double start = gpu->clock_seconds(gpu, KS_CLOCK_NETWORK, &before), begin = ks_seconds();
    for (int i = 0; i < STRETCHES; i++) {
        gpu->clock_begin(gpu, KS_CLOCK_NETWORK);
        count_up(values, 20);
        gpu->clock_end(gpu);
    }
    assert_int_equal(gpu->sync(gpu, &err), 0);
    double wall = ks_seconds() - begin, device = gpu->clock_seconds(gpu, KS_CLOCK_NETWORK, &count) - start;
    printf("%.3f ms on the device's clock, %.3f ms on the host's\n", 1e3 * device, 1e3 * wall);
    assert_int_equal(count - before, STRETCHES);
    assert_true(device > 0.5 * wall && device < 1.02 * wall);
    assert_true(gpu->clock_seconds(gpu, KS_CLOCK_DECODE, &decoded) == 0);
    assert_int_equal(decoded, 0);
    gpu->release(gpu, values);
}

int main(void)
{
    gpu = gpu_or_skip("fp16");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fence_brings_what_was_queued_before_it),
        cmocka_unit_test(a_fence_does_not_wait_for_what_comes_after_it),
        cmocka_unit_test(the_clock_counts_the_device_s_time),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu->free(gpu);
    return failed;
}
