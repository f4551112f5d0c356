#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/mt19937.h"
#include "sampling/noise.h"
#include "sampling/normals.h"
#include "sampling/philox.h"
#include "support/golden.h"

static const ks_noise_device cpu = {KS_NOISE_CPU, 0};
static const ks_noise_device h200 = {KS_NOISE_CUDA, 132};

/* torch's own vector ln, sin and cos are that far from correctly rounded ones; on the GPU its fast
 * logarithm and sine. */
static const double CPU_BOUND = 5e-7, CUDA_BOUND = 1.5e-6;

/* What all comparisons of a test have seen. */
typedef struct tally {
    int64_t file;
    int64_t sets, count, equal;
    double worst, bound;
} tally;

static void compare(tally *t, const char *path, const float *got, const float *expected, int64_t n)
{
    double apart = largest_difference(got, expected, n);
    if (!(apart <= t->bound))
        fail_msg("%s: %g apart, %g allowed", path, apart, t->bound);
    t->worst = apart > t->worst ? apart : t->worst;
    for (int64_t i = 0; i < n; i++)
        t->equal += got[i] == expected[i];
    t->count += n;
    t->sets++;
}

static void report(const char *what, const tally *t)
{
    print_message("%s: %lld sets, %lld values, %.1f %% bit-equal, at most %.3g apart\n", what,
                  (long long)t->sets, (long long)t->count,
                  100 * (double)t->equal / (double)t->count, t->worst);
}

static float *floats(int64_t n)
{
    float *p = malloc((size_t)n * sizeof *p);
    assert_non_null(p);
    return p;
}

/* Calls see for every data set of the group's groups. */
static void each_set(tally *t, const char *group, void (*see)(tally *t, const char *path))
{
    int groups, sets;
    char **outer = golden_members(t->file, group, &groups);
    for (int i = 0; i < groups; i++) {
        char path[300], leaf[600];
        snprintf(path, sizeof path, "%s/%s", group, outer[i]);
        char **inner = golden_members(t->file, path, &sets);
        for (int k = 0; k < sets; k++) {
            snprintf(leaf, sizeof leaf, "%s/%s", path, inner[k]);
            see(t, leaf);
            free(inner[k]);
        }
        free(inner);
        free(outer[i]);
    }
    free(outer);
}

static void check_prepared(tally *t, const char *path)
{
    golden_array expected = golden_read(t->file, path);
    float *got = floats(expected.count);
    int64_t *index = NULL, count = 0;
    if (golden_has(t->file, path, "batch_index")) {
        index = golden_list(t->file, path, "batch_index", &count);
        assert_int_equal(count, expected.shape[0]);
    }
    ks_noise_prepare(golden_integer(t->file, path, "seed"), (int)expected.shape[0],
                     expected.count / expected.shape[0], index, got);
    compare(t, path, got, expected.value, expected.count);
    free(index);
    free(got);
    golden_free(&expected);
}

static void initial_noise_matches_torch(void **state)
{
    (void)state;
    tally t = {.file = golden_open("noise.h5"), .bound = CPU_BOUND};
    each_set(&t, "/randn", check_prepared);
    report("randn", &t);
    assert_true(t.sets >= 70);
    assert_true((double)t.equal > 0.7 * (double)t.count);
    golden_close(t.file);
}

static void batch_index_picks_draws_of_single_items(void **state)
{
    (void)state;
    tally t = {.file = golden_open("noise.h5"), .bound = CPU_BOUND};
    each_set(&t, "/batch_index", check_prepared);
    report("batch_index", &t);
    assert_true(t.sets >= 30);
    golden_close(t.file);
}

/* Successive draws of one generator; the leading axis counts them. */
static void check_sequence(tally *t, const char *path, ks_noise_device device)
{
    golden_array expected = golden_read(t->file, path);
    int64_t draws = expected.shape[0], n = expected.count / draws;
    float *got = floats(n);
    ks_generator g;
    ks_generator_seed(&g, device, golden_integer(t->file, path, "seed"));
    for (int64_t k = 0; k < draws; k++) {
        ks_generator_normal(&g, got, n);
        compare(t, path, got, expected.value + k * n, n);
    }
    free(got);
    golden_free(&expected);
}

static void check_cpu_sequence(tally *t, const char *path)
{
    check_sequence(t, path, cpu);
}

static void check_cuda_sequence(tally *t, const char *path)
{
    check_sequence(t, path, h200);
}

static void successive_cpu_draws_match_torch(void **state)
{
    (void)state;
    tally t = {.file = golden_open("noise.h5"), .bound = CPU_BOUND};
    each_set(&t, "/sequence", check_cpu_sequence);
    report("cpu sequence", &t);
    assert_true(t.sets >= 100);
    golden_close(t.file);
}

static void successive_cuda_draws_match_torch(void **state)
{
    (void)state;
    tally t = {.file = golden_open("philox.h5"), .bound = CUDA_BOUND};
    each_set(&t, "/sequence", check_cuda_sequence);
    report("cuda sequence", &t);
    assert_true(t.sets >= 100);
    golden_close(t.file);
}

static golden_array read_member(int64_t file, const char *path, const char *name)
{
    char member[400];
    snprintf(member, sizeof member, "%s/%s", path, name);
    return golden_read(file, member);
}

/* The shape is the path's end: BxCxHxW. */
static int64_t elements_of(const char *path)
{
    const char *text = strrchr(path, '/') + 1;
    int64_t n = 1;
    for (char *end; *text; text = *end ? end + 1 : end)
        n *= strtoll(text, &end, 10);
    return n;
}

static void check_large(tally *t, const char *path)
{
    static const char *const draws[] = {"first_draw", "second_draw"};
    char member[400];
    int64_t count, n = elements_of(path);
    snprintf(member, sizeof member, "%s/index", path);
    int64_t *index = golden_integers(t->file, member, &count);
    float *drawn = floats(n), *got = floats(count);
    ks_generator g;
    ks_generator_seed(&g, h200, golden_integer(t->file, path, "seed"));
    for (int k = 0; k < 2; k++) {
        golden_array expected = read_member(t->file, path, draws[k]);
        ks_generator_normal(&g, drawn, n);
        for (int64_t i = 0; i < count; i++) {
            assert_true(index[i] >= 0 && index[i] < n);
            got[i] = drawn[index[i]];
        }
        compare(t, path, got, expected.value, count);
        golden_free(&expected);
    }
    free(got);
    free(drawn);
    free(index);
}

static void large_cuda_draws_follow_the_grid(void **state)
{
    (void)state;
    tally t = {.file = golden_open("philox.h5"), .bound = CUDA_BOUND};
    each_set(&t, "/large", check_large);
    report("cuda large", &t);
    assert_true(t.sets >= 24);
    golden_close(t.file);
}

/* Published: the 10,000th output of the default seed (C++ standard, [rand.predef]). */
static void mt19937_gives_its_published_output(void **state)
{
    (void)state;
    uint32_t mt[KS_MT_WORDS], word;
    int next;
    ks_mt19937_seed(mt, &next, 5489);
    ks_mt19937_words(mt, &next, &word, 1);
    assert_true(word == 3499211612u);
    ks_mt19937_words(mt, &next, NULL, 9998);
    ks_mt19937_words(mt, &next, &word, 1);
    assert_true(word == 4123659995u);
}

/* Known-answer vectors of Random123 for Philox 4x32-10 whose counter ends with a zero word. */
static void philox_gives_its_published_words(void **state)
{
    (void)state;
    static uint32_t words[4][KS_PHILOX_THREADS];
    static const uint32_t zero[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    ks_philox_words(0, 0, 0, KS_PHILOX_THREADS, words);
    for (int k = 0; k < 4; k++)
        assert_true(words[k][0] == zero[k]);
    static uint32_t shifted[4][KS_PHILOX_THREADS];
    ks_philox_words(0, 0, 5, 16, shifted);
    for (int k = 0; k < 4; k++)
        assert_memory_equal(shifted[k], words[k] + 5, 16 * sizeof **words);
}

static void only_the_low_half_of_a_seed_counts_on_the_cpu(void **state)
{
    (void)state;
    float a[64], b[64];
    ks_noise_prepare(5, 1, 64, NULL, a);
    ks_noise_prepare((UINT64_C(1) << 32) + 5, 1, 64, NULL, b);
    assert_memory_equal(a, b, sizeof a);
    ks_generator g;
    ks_generator_seed(&g, h200, 5);
    ks_generator_normal(&g, a, 64);
    ks_generator_seed(&g, h200, (UINT64_C(1) << 32) + 5);
    ks_generator_normal(&g, b, 64);
    assert_memory_not_equal(a, b, sizeof a);
}

/* Draw `index` of a generator that draws one after another. */
static void nth_draw(uint64_t seed, int64_t index, float *out, int64_t n)
{
    ks_generator g;
    ks_generator_seed(&g, cpu, seed);
    for (int64_t i = 0; i <= index; i++)
        ks_generator_normal(&g, out, n);
}

static void unwanted_draws_are_passed_over_exactly(void **state)
{
    (void)state;
    static const int64_t sizes[] = {3, 15, 16, 17, 60, 1000};
    static const int64_t index[] = {9, 4, 9};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int64_t n = sizes[s];
        float *got = floats(3 * n), *expected = floats(n);
        ks_noise_prepare(77, 3, n, index, got);
        for (int k = 0; k < 3; k++) {
            nth_draw(77, index[k], expected, n);
            assert_memory_equal(got + k * n, expected, (size_t)n * sizeof *got);
        }
        free(got);
        free(expected);
    }
}

static void a_copied_generator_goes_on_alike(void **state)
{
    (void)state;
    static const ks_noise_device devices[] = {{KS_NOISE_CPU, 0}, {KS_NOISE_CUDA, 4}};
    for (int d = 0; d < 2; d++) {
        ks_generator a, b;
        float x[21], y[21];
        ks_generator_seed(&a, devices[d], 11);
        ks_generator_normal(&a, x, 5);
        b = a;
        for (int n = 0; n <= 21; n += 7) {
            ks_generator_normal(&a, x, n);
            ks_generator_normal(&b, y, n);
            assert_memory_equal(x, y, (size_t)n * sizeof *x);
        }
    }
}

/* A generator may be asked for any number of elements: nothing is written past them. */
static void draws_stay_within_their_length(void **state)
{
    (void)state;
    static const ks_noise_device devices[] = {{KS_NOISE_CPU, 0}, {KS_NOISE_CUDA, 1}};
    enum { MOST = 9000 };
    float *out = floats(MOST + 1);
    for (int d = 0; d < 2; d++)
        for (int64_t n = 0; n <= MOST; n = n < 300 ? n + 1 : n * 2 + 1) {
            ks_generator g;
            ks_generator_seed(&g, devices[d], 3);
            for (int64_t i = 0; i <= n; i++)
                out[i] = 1e30f;
            ks_generator_normal(&g, out, n);
            assert_true(out[n] == 1e30f);
            for (int64_t i = 0; i < n; i++)
                assert_true(fabsf(out[i]) < 7);
        }
    free(out);
}

/* Logarithm, sine and cosine in long double instead, from the same words. */
static void vector_normals_have_correctly_rounded_functions_but_for_a_few(void **state)
{
    (void)state;
    enum { WORDS = KS_NORMAL_BLOCKS * KS_NORMAL_BLOCK, CALLS = 100 };
    uint32_t mt[KS_MT_WORDS], words[WORDS];
    float out[WORDS];
    int next, wrong = 0;
    ks_mt19937_seed(mt, &next, 2024);
    for (int call = 0; call < CALLS; call++) {
        ks_mt19937_words(mt, &next, words, WORDS);
        ks_normal_blocks(words, out, KS_NORMAL_BLOCKS);
        for (int i = 0; i < WORDS; i++) {
            const uint32_t *block = words + i / 16 * 16;
            float u = (float)(block[i % 8] & 0xffffffu) * 0x1p-24f;
            float angle = 6.28318530717958648f * ((float)(block[8 + i % 8] & 0xffffffu) * 0x1p-24f);
            float radius = sqrtf(-2 * (float)logl(1 - (long double)u));
            float exact = radius * (float)(i % 16 < 8 ? cosl(angle) : sinl(angle));
            wrong += out[i] != exact;
            assert_true(fabsf(out[i] - exact) <= 2.4e-7f * fabsf(exact));
        }
    }
    print_message("%d of %d normals differ from the correctly rounded functions\n", wrong,
                  WORDS * CALLS);
    assert_true(wrong < WORDS * CALLS / 200);
}

/* The lowest and highest uniforms: radius 0, and the largest radius of 24 bits. */
static void extreme_uniforms_give_finite_normals(void **state)
{
    (void)state;
    uint32_t words[KS_NORMAL_BLOCK] = {0, 0xffffffu, 0,         0xffffffu, 1, 0xff000000u, 0, 0, 0,
                                       0, 0xffffffu, 0x800000u, 0x400000u, 0, 0,           0};
    float out[KS_NORMAL_BLOCK];
    ks_normal_blocks(words, out, 1);
    for (int i = 0; i < KS_NORMAL_BLOCK; i++)
        assert_true(isfinite(out[i]));
    assert_true(out[0] == 0 && out[8] == 0);
    assert_true(fabsf(out[1] - 5.7681075f) < 1e-6f);
    assert_true(out[5] == 0);
}

/* FNV-1a over three draws of 100,003. */
static uint64_t digest_of_draws(ks_noise_device device)
{
    enum { COUNT = 100003 };
    float *out = floats(COUNT);
    ks_generator g;
    ks_generator_seed(&g, device, 20240229);
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    for (int draw = 0; draw < 3; draw++) {
        ks_generator_normal(&g, out, COUNT);
        for (int i = 0; i < COUNT; i++) {
            uint32_t bits;
            memcpy(&bits, &out[i], sizeof bits);
            for (int shift = 0; shift < 32; shift += 8)
                digest = (digest ^ (bits >> shift & 0xff)) * UINT64_C(0x100000001b3);
        }
    }
    free(out);
    return digest;
}

/* Whatever the compiler, the processor and its vectors. */
static void noise_has_the_same_bits_on_every_machine(void **state)
{
    (void)state;
    assert_true(digest_of_draws(cpu) == UINT64_C(0xe0fc123040fa1746));
    assert_true(digest_of_draws((ks_noise_device){KS_NOISE_CUDA, 8}) ==
                UINT64_C(0x220c4fe4f16fd249));
}

static void noise_devices_are_read_from_their_text(void **state)
{
    (void)state;
    ks_noise_device device;
    assert_int_equal(ks_noise_device_parse("cpu", &device, NULL), 0);
    assert_int_equal(device.kind, KS_NOISE_CPU);
    assert_int_equal(ks_noise_device_parse("cuda", &device, NULL), 0);
    assert_int_equal(device.kind, KS_NOISE_CUDA);
    assert_int_equal(device.multiprocessors, 132);
    assert_int_equal(ks_noise_device_parse("cuda:108", &device, NULL), 0);
    assert_int_equal(device.multiprocessors, 108);
}

static void other_noise_devices_are_refused(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",
                                        "gpu",
                                        "CPU",
                                        "cuda:",
                                        "cuda:0",
                                        "cuda:-1",
                                        "cuda:x",
                                        "cuda:12x",
                                        "cuda: 4",
                                        "cuda:+4",
                                        "cuda:99999999999999999999",
                                        "cpu:1",
                                        "cuda:65537"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ks_noise_device device;
        ks_error err = KS_ERROR_NONE;
        assert_int_equal(ks_noise_device_parse(wrong[i], &device, &err), -1);
        assert_non_null(strstr(err.text, "cuda:N"));
        assert_non_null(strstr(err.text, wrong[i]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mt19937_gives_its_published_output),
        cmocka_unit_test(philox_gives_its_published_words),
        cmocka_unit_test(initial_noise_matches_torch),
        cmocka_unit_test(batch_index_picks_draws_of_single_items),
        cmocka_unit_test(successive_cpu_draws_match_torch),
        cmocka_unit_test(successive_cuda_draws_match_torch),
        cmocka_unit_test(large_cuda_draws_follow_the_grid),
        cmocka_unit_test(only_the_low_half_of_a_seed_counts_on_the_cpu),
        cmocka_unit_test(unwanted_draws_are_passed_over_exactly),
        cmocka_unit_test(a_copied_generator_goes_on_alike),
        cmocka_unit_test(draws_stay_within_their_length),
        cmocka_unit_test(vector_normals_have_correctly_rounded_functions_but_for_a_few),
        cmocka_unit_test(extreme_uniforms_give_finite_normals),
        cmocka_unit_test(noise_has_the_same_bits_on_every_machine),
        cmocka_unit_test(noise_devices_are_read_from_their_text),
        cmocka_unit_test(other_noise_devices_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
