#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/beta_ppf.h"
#include "sampling/schedule.h"
#include "support/golden.h"

/* The two tables of schedules.h5. */
static const struct {
    const char *group;
    bool zsnr;
} tables[] = {{"eps", false}, {"v_zsnr", true}};

enum { TABLES = sizeof tables / sizeof tables[0] };

static ks_model_sampling model_of(bool zsnr)
{
    ks_model_sampling ms;
    ks_model_sampling_init(&ms, zsnr ? KS_PREDICT_V : KS_PREDICT_EPS, zsnr, 0.00085, 0.012);
    return ms;
}

/* How far apart two floats of one sign are, in units in the last place. */
static int64_t ulps(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    return llabs((int64_t)x - y);
}

/* What a comparison of many floats has seen. */
typedef struct tally {
    int64_t count, equal, worst;
} tally;

static void compare(tally *t, float a, float b)
{
    int64_t apart = ulps(a, b);
    t->count++;
    t->equal += apart == 0;
    t->worst = apart > t->worst ? apart : t->worst;
}

static void assert_tally(const char *what, tally t, int64_t worst, double equal_share)
{
    print_message("%s: %lld of %lld bit-equal, at most %lld ulp apart\n", what, (long long)t.equal,
                  (long long)t.count, (long long)t.worst);
    assert_true(t.count > 0);
    assert_true(t.worst <= worst);
    assert_true((double)t.equal >= equal_share * (double)t.count);
}

static golden_array read_table(int64_t file, int table, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "/%s/table/%s", tables[table].group, name);
    return golden_read(file, path);
}

static void sigma_tables_are_bit_equal(void **state)
{
    (void)state;
    int64_t file = golden_open("schedules.h5");
    for (int t = 0; t < TABLES; t++) {
        ks_model_sampling ms = model_of(tables[t].zsnr);
        golden_array sigma = read_table(file, t, "sigmas"),
                     log_sigma = read_table(file, t, "log_sigmas");
        assert_int_equal(sigma.count, KS_TIMESTEPS);
        assert_int_equal(log_sigma.count, KS_TIMESTEPS);
        assert_memory_equal(ms.sigma, sigma.value, sizeof ms.sigma);
        assert_memory_equal(ms.log_sigma, log_sigma.value, sizeof ms.log_sigma);
        assert_true(ks_sigma_max(&ms) == sigma.value[KS_TIMESTEPS - 1]);
        assert_true(ks_sigma_min(&ms) == sigma.value[0]);
        golden_free(&sigma);
        golden_free(&log_sigma);
    }
    golden_close(file);
}

static void sigma_of_timestep_is_within_one_ulp(void **state)
{
    (void)state;
    int64_t file = golden_open("schedules.h5");
    tally seen = {0};
    for (int i = 0; i < TABLES; i++) {
        ks_model_sampling ms = model_of(tables[i].zsnr);
        golden_array t = read_table(file, i, "sigma_of_t__t"),
                     sigma = read_table(file, i, "sigma_of_t__sigma");
        for (int64_t k = 0; k < t.count; k++)
            compare(&seen, ks_sigma_of_timestep(&ms, t.value[k]), sigma.value[k]);
        golden_free(&t);
        golden_free(&sigma);
    }
    golden_close(file);
    assert_tally("sigma(t)", seen, 1, 0.95);
}

/* Half-way sigmas hang on the last bit of torch's exp and ln; correctly rounded ones agree on 97
 * %. */
static void timestep_of_sigma_is_equal_but_for_rare_ties(void **state)
{
    (void)state;
    int64_t file = golden_open("schedules.h5");
    for (int i = 0; i < TABLES; i++) {
        ks_model_sampling ms = model_of(tables[i].zsnr);
        golden_array sigma = read_table(file, i, "t_of_sigma__sigma"),
                     t = read_table(file, i, "t_of_sigma__t");
        int64_t ties = KS_TIMESTEPS - 1, clear = t.count - ties, missed = 0;
        assert_true(clear >= KS_TIMESTEPS);
        for (int64_t k = 0; k < clear; k++)
            assert_int_equal(ks_timestep_of_sigma(&ms, sigma.value[k]), (int)t.value[k]);
        for (int64_t k = clear; k < t.count; k++) {
            int apart = abs(ks_timestep_of_sigma(&ms, sigma.value[k]) - (int)t.value[k]);
            assert_true(apart <= 1);
            missed += apart;
        }
        print_message("%s: %lld of %lld ties differ\n", tables[i].group, (long long)missed,
                      (long long)ties);
        assert_true((double)missed <= 0.04 * (double)ties);
        golden_free(&sigma);
        golden_free(&t);
    }
    golden_close(file);
}

/* Ties that common schedules meet: normal with 3, 7, 19, 21 or 31 points. */
static void common_ties_fall_as_in_torch(void **state)
{
    (void)state;
    ks_model_sampling ms = model_of(false);
    assert_int_equal(ks_timestep_of_sigma(&ms, ks_sigma_of_timestep(&ms, 499.5f)), 500);
    assert_int_equal(ks_timestep_of_sigma(&ms, ks_sigma_of_timestep(&ms, 166.5f)), 166);
    assert_int_equal(ks_timestep_of_sigma(&ms, ks_sigma_of_timestep(&ms, 832.5f)), 833);
}

static void timesteps_outside_the_table_are_clamped(void **state)
{
    (void)state;
    ks_model_sampling ms = model_of(false);
    assert_true(ks_sigma_of_timestep(&ms, -5) == ks_sigma_of_timestep(&ms, 0));
    assert_true(ks_sigma_of_timestep(&ms, 5000) == ks_sigma_of_timestep(&ms, 999));
    assert_int_equal(ks_timestep_of_sigma(&ms, 1e30f), KS_TIMESTEPS - 1);
    assert_int_equal(ks_timestep_of_sigma(&ms, 1e-30f), 0);
    assert_int_equal(ks_timestep_of_sigma(&ms, 0), 0);
}

static void percent_to_sigma_is_within_one_ulp(void **state)
{
    (void)state;
    int64_t file = golden_open("schedules.h5");
    for (int i = 0; i < TABLES; i++) {
        ks_model_sampling ms = model_of(tables[i].zsnr);
        char path[200];
        int64_t count, sigmas;
        snprintf(path, sizeof path, "/%s/table/percent", tables[i].group);
        double *percent = golden_doubles(file, path, &count);
        snprintf(path, sizeof path, "/%s/table/percent_to_sigma", tables[i].group);
        double *sigma = golden_doubles(file, path, &sigmas);
        assert_int_equal(count, sigmas);
        for (int64_t k = 0; k < count; k++) {
            double got = ks_percent_to_sigma(&ms, percent[k]);
            if (percent[k] <= 0 || percent[k] >= 1)
                assert_true(got == sigma[k]);
            else
                assert_true(ulps((float)got, (float)sigma[k]) <= 1);
        }
        free(percent);
        free(sigma);
    }
    golden_close(file);
}

/* One data set of schedules.h5 against ks_schedule. */
static void check_schedule(int64_t file, const char *path, const ks_model_sampling *ms,
                           bool discard, tally *seen)
{
    char *status = golden_text(file, path, "status"), *name = golden_text(file, path, "scheduler");
    int steps = (int)golden_integer(file, path, "steps"), scheduler = ks_scheduler_find(name),
        count;
    double denoise = golden_real(file, path, "denoise");
    float *sigmas;
    ks_error err = KS_ERROR_NONE;
    assert_true(scheduler >= 0);
    int rc = ks_schedule(ms, scheduler, steps, denoise, discard, &sigmas, &count, &err);
    if (strcmp(status, "ok") != 0) {
        assert_int_equal(rc, -1);
        assert_non_null(strstr(err.text, name));
    } else {
        golden_array expected = golden_read(file, path);
        if (rc != 0 || count != expected.count)
            fail_msg("%s: %d sigmas, %lld expected; %s", path, count, (long long)expected.count,
                     err.text);
        for (int k = 0; k < count; k++)
            compare(seen, sigmas[k], expected.value[k]);
        golden_free(&expected);
    }
    free(sigmas);
    free(name);
    free(status);
}

static void check_scheduler(int64_t file, const char *scheduler, int64_t worst, double equal_share)
{
    tally seen = {0};
    for (int i = 0; i < 2 * TABLES; i++) {
        const bool discard = i >= TABLES;
        ks_model_sampling ms = model_of(tables[i % TABLES].zsnr);
        char group[200], path[400];
        snprintf(group, sizeof group, "/%s/%s/%s", tables[i % TABLES].group,
                 discard ? "discard_penultimate" : "normal", scheduler);
        int members;
        char **names = golden_members(file, group, &members);
        assert_true(members > 0);
        for (int m = 0; m < members; m++) {
            snprintf(path, sizeof path, "%s/%s", group, names[m]);
            check_schedule(file, path, &ms, discard, &seen);
            free(names[m]);
        }
        free(names);
    }
    assert_tally(scheduler, seen, worst, equal_share);
}

/* Table look-ups must be equal to the bit; torch's own float32 exp, pow and, most of all, tan are
 * up to 1 ulp off. */
static void every_golden_schedule_is_met(void **state)
{
    (void)state;
    static const struct {
        const char *scheduler;
        int64_t ulp;
        double equal;
    } bounds[] = {
        {"simple", 0, 1},           {"ddim_uniform", 0, 1}, {"beta", 0, 1},
        {"linear_quadratic", 0, 1}, {"normal", 1, 0.98},    {"sgm_uniform", 1, 0.98},
        {"exponential", 1, 0.98},   {"karras", 1, 0.98},    {"kl_optimal", 1, 0.8},
    };
    int64_t file = golden_open("schedules.h5");
    assert_int_equal(sizeof bounds / sizeof bounds[0], ks_scheduler_count());
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        check_scheduler(file, bounds[i].scheduler, bounds[i].ulp, bounds[i].equal);
    golden_close(file);
}

static void scheduler_names_lead_back_to_their_rows(void **state)
{
    (void)state;
    assert_int_equal(ks_scheduler_count(), 9);
    for (int i = 0; i < ks_scheduler_count(); i++)
        assert_int_equal(ks_scheduler_find(ks_scheduler_name(i)), i);
    assert_int_equal(ks_scheduler_find("Karras"), -1);
    assert_int_equal(ks_scheduler_find(""), -1);
}

static void a_schedule_that_is_not_finite_is_refused_by_name(void **state)
{
    (void)state;
    ks_model_sampling ms = model_of(false);
    float *sigmas;
    int count;
    ks_error err = KS_ERROR_NONE;
    int row = ks_scheduler_find("kl_optimal");
    assert_int_equal(ks_schedule(&ms, row, 1, 1, false, &sigmas, &count, &err), -1);
    assert_null(sigmas);
    assert_non_null(strstr(err.text, "kl_optimal"));
    assert_non_null(strstr(err.text, "steps 1"));
    assert_null(strchr(err.text, '\n'));
    assert_int_equal(ks_schedule(&ms, row, 1, 1, true, &sigmas, &count, &err), 0);
    assert_int_equal(count, 2);
    free(sigmas);
    assert_int_equal(ks_schedule(&ms, row, 1, 0.5, false, &sigmas, &count, &err), 0);
    assert_int_equal(count, 2);
    free(sigmas);
}

static void no_denoise_gives_an_empty_list(void **state)
{
    (void)state;
    ks_model_sampling ms = model_of(false);
    static const double none[] = {0, -0.0, -1, -INFINITY};
    for (int row = 0; row < ks_scheduler_count(); row++)
        for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
            float *sigmas;
            int count = 7;
            assert_int_equal(ks_schedule(&ms, row, 20, none[i], false, &sigmas, &count, NULL), 0);
            assert_int_equal(count, 0);
            assert_null(sigmas);
        }
}

static void steps_and_denoise_out_of_range_are_refused(void **state)
{
    (void)state;
    ks_model_sampling ms = model_of(false);
    static const struct {
        int steps;
        double denoise;
        const char *says;
    } cases[] = {
        {0, 1, "steps is 0"},
        {-3, 0.5, "steps is -3"},
        {0, 0, "steps is 0"},
        {20, NAN, "not a number"},
        {20, 1e-5, "at most 100000"},
        {10000, 0.01, "1000000 steps"},
        {1, 1e-310, "at most 100000"},
        {100001, 1, "at most 100000"},
        {2147483647, 1, "at most 100000"},
    };
    for (int row = 0; row < ks_scheduler_count(); row++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            float *sigmas;
            int count;
            ks_error err = KS_ERROR_NONE;
            assert_int_equal(ks_schedule(&ms, row, cases[i].steps, cases[i].denoise, true, &sigmas,
                                         &count, &err),
                             -1);
            assert_non_null(strstr(err.text, cases[i].says));
            assert_non_null(strstr(err.text, ks_scheduler_name(row)));
        }
}

/* Falling or level, finite, ends with one 0; the length is as the scheduler makes it. */
static void check_shape(int row, int steps, double denoise, bool discard)
{
    ks_model_sampling ms = model_of(true);
    float *sigmas;
    int count;
    assert_int_equal(ks_schedule(&ms, row, steps, denoise, discard, &sigmas, &count, NULL), 0);
    assert_true(count >= 2);
    const char *name = ks_scheduler_name(row);
    if (denoise < 0.9999)
        assert_true(count <= steps + 1);
    else if (strcmp(name, "ddim_uniform") != 0 && strcmp(name, "beta") != 0)
        assert_int_equal(count, steps + 1);
    for (int i = 0; i + 1 < count; i++) {
        assert_true(isfinite(sigmas[i]) && sigmas[i] > 0);
        assert_true(sigmas[i + 1] <= sigmas[i]);
    }
    assert_true(sigmas[count - 1] == 0);
    free(sigmas);
}

static void long_and_short_schedules_fall_to_zero(void **state)
{
    (void)state;
    static const int steps[] = {2, 3, 999, 1000, 1001, 3000, 10000};
    static const double denoise[] = {1, 0.99995, 0.9999, 0.37};
    for (int row = 0; row < ks_scheduler_count(); row++)
        for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
            for (size_t k = 0; k < sizeof denoise / sizeof denoise[0]; k++)
                check_shape(row, steps[i], denoise[k], (i + k) % 2 == 0);
}

static void assert_quantile(double p, double a, double b, double expected)
{
    double got = ks_beta_ppf(p, a, b);
    if (!(fabs(got - expected) <= 2e-13 * expected))
        fail_msg("beta quantile of %g for %g, %g: %.17g, expected %.17g", p, a, b, got, expected);
}

/* Where the quantile has a closed form: arcsine law, powers, and the uniform. */
static void beta_quantiles_match_closed_forms(void **state)
{
    (void)state;
    const double half_pi = acos(0);
    for (int i = 1; i < 400; i++) {
        double p = i / 400.0, root = sin(half_pi * p);
        assert_quantile(p, 0.5, 0.5, root * root);
        assert_quantile(p, 3, 1, cbrt(p));
        assert_quantile(p, 1, 3, -expm1(log1p(-p) / 3));
        assert_quantile(p, 1, 1, p);
        double x = ks_beta_ppf(p, 0.6, 0.6), mirrored = ks_beta_ppf(1 - p, 0.6, 0.6);
        assert_true(fabs(x + mirrored - 1) < 1e-13);
    }
    assert_true(ks_beta_ppf(0, 0.6, 0.6) == 0);
    assert_true(ks_beta_ppf(1, 0.6, 0.6) == 1);
    assert_true(ks_beta_ppf(0.5, 0.6, 0.6) == 0.5);
}

static void assert_cut(int start, int end, bool leftover, int count, const float *want)
{
    float sigma[] = {9, 7, 5, 3, 0};
    assert_int_equal(ks_schedule_cut(sigma, 5, start, end, leftover), count);
    if (want)
        assert_memory_equal(sigma, want, (size_t)count * sizeof *want);
}

static void start_and_end_steps_cut_the_list(void **state)
{
    (void)state;
    assert_cut(0, 10000, false, 5, (float[]){9, 7, 5, 3, 0});
    assert_cut(0, 4, false, 5, (float[]){9, 7, 5, 3, 0});
    assert_cut(1, 10000, true, 4, (float[]){7, 5, 3, 0});
    assert_cut(0, 3, true, 4, (float[]){9, 7, 5, 3});
    assert_cut(0, 3, false, 4, (float[]){9, 7, 5, 0});
    assert_cut(1, 3, true, 3, (float[]){7, 5, 3});
    assert_cut(3, 10000, true, 2, (float[]){3, 0});
    assert_cut(4, 10000, true, 0, NULL);
    assert_cut(9, 10000, true, 0, NULL);
    assert_cut(2, 2, false, 0, NULL);
    assert_cut(3, 1, false, 0, NULL);
    assert_cut(0, 0, true, 0, NULL);
    assert_int_equal(ks_schedule_cut(NULL, 0, 0, 10000, false), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sigma_tables_are_bit_equal),
        cmocka_unit_test(sigma_of_timestep_is_within_one_ulp),
        cmocka_unit_test(timestep_of_sigma_is_equal_but_for_rare_ties),
        cmocka_unit_test(common_ties_fall_as_in_torch),
        cmocka_unit_test(timesteps_outside_the_table_are_clamped),
        cmocka_unit_test(percent_to_sigma_is_within_one_ulp),
        cmocka_unit_test(every_golden_schedule_is_met),
        cmocka_unit_test(scheduler_names_lead_back_to_their_rows),
        cmocka_unit_test(a_schedule_that_is_not_finite_is_refused_by_name),
        cmocka_unit_test(no_denoise_gives_an_empty_list),
        cmocka_unit_test(steps_and_denoise_out_of_range_are_refused),
        cmocka_unit_test(long_and_short_schedules_fall_to_zero),
        cmocka_unit_test(beta_quantiles_match_closed_forms),
        cmocka_unit_test(start_and_end_steps_cut_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
