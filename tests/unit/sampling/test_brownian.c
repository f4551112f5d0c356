#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/noise.h"
#include "support/golden.h"

static const ks_noise_device cpu = {KS_NOISE_CPU, 0};
static const ks_noise_device h200 = {KS_NOISE_CUDA, 132};

/* What all comparisons have seen. */
typedef struct tally {
    int64_t file, queries;
    double worst, worst_l2;
} tally;

static golden_array read_member(int64_t file, const char *path, const char *name)
{
    char member[400];
    snprintf(member, sizeof member, "%s/%s", path, name);
    return golden_read(file, member);
}

/* 1e-6 absolute. Values beyond 2.5 may have more, 4e-7 relative: the float32 sums of torch's own
 * tree are that far from the exact ones (3 last bits). */
static void compare(tally *t, const char *path, int64_t query, const float *got,
                    const float *expected, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double apart = fabs((double)got[i] - (double)expected[i]);
        if (!(apart <= fmax(1e-6, 4e-7 * fabs((double)expected[i]))))
            fail_msg("%s: query %lld, element %lld is %g apart", path, (long long)query,
                     (long long)i, apart);
        t->worst = fmax(t->worst, apart);
    }
    double rms = relative_l2(got, expected, n);
    if (!(rms <= 5e-7))
        fail_msg("%s: query %lld has relative L2 distance %g", path, (long long)query, rms);
    t->worst_l2 = fmax(t->worst_l2, rms);
    t->queries++;
}

/* One group: a tree and its queries, in the order in which they were made. */
static void check_tree(void *self, const char *path)
{
    tally *t = self;
    golden_array sigma = read_member(t->file, path, "sigma");
    golden_array next = read_member(t->file, path, "sigma_next");
    golden_array value = read_member(t->file, path, "value");
    int64_t n = value.count / value.shape[0];
    float *got = malloc((size_t)n * sizeof *got);
    assert_non_null(got);
    assert_int_equal(sigma.count, value.shape[0]);
    assert_int_equal(next.count, value.shape[0]);
    ks_brownian *b = ks_brownian_new(cpu, golden_integer(t->file, path, "seed"),
                                     golden_real(t->file, path, "sigma_min"),
                                     golden_real(t->file, path, "sigma_max"), n, NULL);
    assert_non_null(b);
    for (int64_t k = 0; k < sigma.count; k++) {
        ks_brownian_noise(b, (double)sigma.value[k], (double)next.value[k], got);
        compare(t, path, k, got, value.value + k * n, n);
    }
    ks_brownian_free(b);
    free(got);
    golden_free(&sigma);
    golden_free(&next);
    golden_free(&value);
}

static void tree_queries_match_torchsde(void **state)
{
    (void)state;
    tally t = {.file = golden_open("brownian.h5")};
    golden_walk(t.file, "/", "order", check_tree, &t);
    print_message("%lld queries, at most %.3g apart, relative L2 distance at most %.3g\n",
                  (long long)t.queries, t.worst, t.worst_l2);
    assert_true(t.queries >= 1000);
    golden_close(t.file);
}

static void seed_words_match_numpy(void **state)
{
    (void)state;
    int64_t file = golden_open("brownian.h5");
    int groups, members, checked = 0;
    char **entropies = golden_members(file, "/seedsequence", &groups);
    for (int i = 0; i < groups; i++) {
        char group[200], path[400];
        snprintf(group, sizeof group, "/seedsequence/%s", entropies[i]);
        char **names = golden_members(file, group, &members);
        for (int k = 0; k < members; k++) {
            snprintf(path, sizeof path, "%s/%s", group, names[k]);
            int64_t count, *words = golden_integers(file, path, &count);
            uint64_t key[2] = {0, 0};
            int keys = golden_has(file, path, "spawn_key") ? 2 : 0;
            if (keys) {
                key[0] = golden_integer(file, path, "spawn_key");
                key[1] = golden_integer(file, path, "depth");
            }
            uint32_t word = ks_seed_word(ks_seed_root_of(golden_integer(file, path, "entropy")), key, keys);
            if (word != (uint64_t)words[0])
                fail_msg("%s: word %u, expected %lld", path, word, (long long)words[0]);
            checked++;
            free(words);
            free(names[k]);
        }
        free(names);
        free(entropies[i]);
    }
    free(entropies);
    assert_true(checked >= 40);
    golden_close(file);
}

/* Answers of numpy for entropies and keys at the borders of 32 and 64 bits. */
static void seed_words_of_wide_keys_match_numpy(void **state)
{
    (void)state;
    static const struct {
        uint64_t entropy, key[2];
        int keys;
        uint32_t word;
    } known[] = {
        {UINT64_C(0), {UINT64_C(0), 0}, 0, 4025752534u},
        {UINT64_C(18446744073709551615), {UINT64_C(0), 0}, 0, 1186816001u},
        {UINT64_C(4294967296), {UINT64_C(0), 0}, 0, 434701594u},
        {UINT64_C(5), {UINT64_C(4294967296), 32}, 2, 3172450614u},
        {UINT64_C(4294967301), {UINT64_C(4294967295), 32}, 2, 3197852571u},
        {UINT64_C(18446744073709551615), {UINT64_C(1125899906854969), 51}, 2, 1569231534u},
        {UINT64_C(123456789), {UINT64_C(0), 0}, 2, 1871439022u},
        {UINT64_C(42), {UINT64_C(9223372036854775809), 63}, 2, 1313854792u},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        assert_true(ks_seed_word(ks_seed_root_of(known[i].entropy), known[i].key, known[i].keys) ==
                    known[i].word);
}

enum { N = 48 };

static void query(ks_noise_device device, uint64_t seed, double s, double s_next, float out[N])
{
    ks_brownian *b = ks_brownian_new(device, seed, 0.02916716784238815, 14.614641189575195, N,
                                     NULL);
    assert_non_null(b);
    ks_brownian_noise(b, s, s_next, out);
    ks_brownian_free(b);
}

static void order_of_queries_changes_no_bit(void **state)
{
    (void)state;
    static const double sigma[] = {14.614641189575195, 9.5, 3.25, 0.75, 0.02916716784238815};
    enum { COUNT = sizeof sigma / sizeof sigma[0] };
    static const ks_noise_device devices[] = {{KS_NOISE_CPU, 0}, {KS_NOISE_CUDA, 132}};
    for (int d = 0; d < 2; d++) {
        ks_brownian *b = ks_brownian_new(devices[d], 77, sigma[COUNT - 1], sigma[0], N, NULL);
        for (int round = 0; round < 40; round++) {
            double s = sigma[round * 7 % COUNT], s_next = sigma[(round * 3 + 1) % COUNT];
            float got[N], fresh[N];
            if (s == s_next)
                continue;
            ks_brownian_noise(b, s, s_next, got);
            query(devices[d], 77, s, s_next, fresh);
            assert_memory_equal(got, fresh, sizeof got);
        }
        ks_brownian_free(b);
    }
}

static void going_back_gives_the_same_with_opposite_sign(void **state)
{
    (void)state;
    float down[N], up[N];
    query(cpu, 3, 7.5, 2.25, down);
    query(cpu, 3, 2.25, 7.5, up);
    for (int i = 0; i < N; i++)
        assert_true(down[i] == -up[i]);
}

/* W(s0) - W(s2) = (W(s0) - W(s1)) + (W(s1) - W(s2)). */
static void increments_add_up(void **state)
{
    (void)state;
    float first[N], second[N], both[N];
    query(h200, 9, 8, 5, first);
    query(h200, 9, 5, 0.5, second);
    query(h200, 9, 8, 0.5, both);
    for (int i = 0; i < N; i++)
        assert_true(fabs(sqrt(3) * (double)first[i] + sqrt(4.5) * (double)second[i] -
                         sqrt(7.5) * (double)both[i]) < 2e-6);
}

static void device_decides_the_nodes_generator(void **state)
{
    (void)state;
    float a[N], b[N];
    query(cpu, 9, 8, 5, a);
    query(h200, 9, 8, 5, b);
    assert_memory_not_equal(a, b, sizeof a);
}

/* W over the whole span needs no split. */
static void whole_span_is_the_root_alone(void **state)
{
    (void)state;
    ks_generator g;
    float root[N], got[N];
    ks_generator_seed(&g, h200, ks_seed_word(ks_seed_root_of(42), NULL, 0));
    ks_generator_normal(&g, root, N);
    query(h200, 42, 0.02916716784238815, 14.614641189575195, got);
    for (int i = 0; i < N; i++)
        assert_true(fabsf(got[i] - root[i]) <= 4e-7f * fabsf(root[i]));
}

static void sigmas_outside_the_span_are_clamped(void **state)
{
    (void)state;
    float inside[N], beyond[N];
    query(cpu, 5, 14.614641189575195, 3, inside);
    query(cpu, 5, 20, 3, beyond);
    double ratio = sqrt((14.614641189575195 - 3) / 17);
    for (int i = 0; i < N; i++)
        assert_true(fabs((double)inside[i] * ratio - (double)beyond[i]) <= 1e-6);
    query(cpu, 5, 0.01f, 0.02f, beyond);
    for (int i = 0; i < N; i++)
        assert_true(beyond[i] == 0);
}

static void equal_sigmas_give_no_number(void **state)
{
    (void)state;
    float out[N];
    query(cpu, 5, 3, 3, out);
    for (int i = 0; i < N; i++)
        assert_true(isnan(out[i]));
}

/* A terminal sigma of 4518 takes 33 levels, so keys of more than 32 bits; a single sigma spans
 * nothing. */
static void wide_and_empty_spans_work(void **state)
{
    (void)state;
    float out[N];
    ks_brownian *b = ks_brownian_new(cpu, 8, 0.029167158529162407, 4518.763671875, N, NULL);
    assert_non_null(b);
    ks_brownian_noise(b, 4518.763671875, 4518.76318359375, out);
    double square = 0;
    for (int i = 0; i < N; i++)
        square += (double)out[i] * (double)out[i];
    assert_true(square / N > 0.4 && square / N < 2);
    ks_brownian_free(b);
    b = ks_brownian_new(cpu, 8, 14.5, 14.5, N, NULL);
    assert_non_null(b);
    ks_brownian_noise(b, 14.5, 0.5, out);
    for (int i = 0; i < N; i++)
        assert_true(out[i] == 0);
    ks_brownian_free(b);
    b = ks_brownian_new(cpu, 8, 0, 1e9, N, NULL);
    assert_non_null(b);
    ks_brownian_noise(b, 1e-6, 123456789, out);
    for (int i = 0; i < N; i++)
        assert_true(isfinite(out[i]));
    ks_brownian_free(b);
}

static void impossible_spans_are_refused(void **state)
{
    (void)state;
    static const double spans[][2] = {{2, 1},   {-1, 1},  {0, 1e10},
                                      {NAN, 1}, {0, NAN}, {0, INFINITY}};
    for (size_t i = 0; i < sizeof spans / sizeof spans[0]; i++) {
        ks_error err = KS_ERROR_NONE;
        assert_null(ks_brownian_new(cpu, 1, spans[i][0], spans[i][1], N, &err));
        assert_non_null(strstr(err.text, "span"));
    }
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_brownian_new(cpu, 1, 0, 1, INT64_MAX, &err));
    assert_non_null(strstr(err.text, "elements"));
    assert_null(ks_brownian_new(cpu, 1, 0, 1, 0, NULL));
    ks_brownian_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seed_words_match_numpy),
        cmocka_unit_test(seed_words_of_wide_keys_match_numpy),
        cmocka_unit_test(tree_queries_match_torchsde),
        cmocka_unit_test(order_of_queries_changes_no_bit),
        cmocka_unit_test(going_back_gives_the_same_with_opposite_sign),
        cmocka_unit_test(increments_add_up),
        cmocka_unit_test(device_decides_the_nodes_generator),
        cmocka_unit_test(whole_span_is_the_root_alone),
        cmocka_unit_test(sigmas_outside_the_span_are_clamped),
        cmocka_unit_test(equal_sigmas_give_no_number),
        cmocka_unit_test(wide_and_empty_spans_work),
        cmocka_unit_test(impossible_spans_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
