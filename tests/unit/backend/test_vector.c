/* The loops of every instruction set that this CPU can run, against double; and their independence
 * of where an element stands. */
#include "acts.h"

#include "backend/cpu/vector.h"

enum { COUNT = 4099 };

static const double EPS = 0x1p-23;

/* Runs check for each table. */
static void for_tables(void (*check)(const ks_vector *v))
{
    for (int i = 0; ks_vector_table(i); i++)
        check(ks_vector_table(i));
}

static void assert_near(const ks_vector *v, double got, double want, double bound)
{
    if (!(fabs(got - want) <= bound))
        fail_msg("%s: %.9g for %.12g, %.3g of the bound", v->name, got, want,
                 fabs(got - want) / bound);
}

static void ramp(float *x, int n, double from, double to)
{
    for (int i = 0; i < n; i++)
        x[i] = (float)(from + (to - from) * i / (n - 1));
}

static void check_exponential(const ks_vector *v)
{
    float x[COUNT], e[COUNT];
    ramp(x, COUNT, -87.0, 88.0);
    memcpy(e, x, sizeof x);
    v->exp_sum(e, COUNT, 0.0f);
    for (int i = 0; i < COUNT; i++)
        assert_near(v, (double)e[i], exp((double)x[i]), 1e-7 * exp((double)x[i]));
    for (int n = 1; n < 70; n++) {
        double sum = 0.0;
        ramp(e, n + 1, -3.0, 1.0);
        double got = (double)v->exp_sum(e, n, 0.5f);
        for (int i = 0; i < n; i++)
            sum += (double)e[i];
        assert_near(v, got, sum, 4.0 * EPS * sum);
    }
}

static void exponentials_are_right(void **state)
{
    (void)state;
    for_tables(check_exponential);
}

static double normal(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

static void check_normal(const ks_vector *v)
{
    float x[COUNT], one[COUNT], y[COUNT];
    ramp(x, COUNT, -12.0, 12.0);
    for (int i = 0; i < COUNT; i++)
        one[i] = 1.0f;
    v->geglu(y, one, x, COUNT);
    for (int i = 0; i < COUNT; i++)
        assert_near(v, (double)y[i], (double)x[i] * normal((double)x[i]),
                    8e-8 * fabs((double)x[i]) + EPS / 2 * fabs((double)y[i]));
}

static void the_normal_distribution_is_right(void **state)
{
    (void)state;
    for_tables(check_normal);
}

/* A function of one element gives the same bits wherever it stands, in vectors or behind the last
 * one. */
static void check_places(const ks_vector *v)
{
    enum { N = 67 };
    float x[N], whole[N], part[N];
    ramp(x, N, -3.0, 5.0);
    for (int a = KS_ACT_NONE; a <= KS_ACT_QUICK_GELU; a++) {
        v->activate(whole, x, N, (ks_activation)a);
        for (int from = 0; from < 20; from++)
            for (int n = 0; n + from <= N; n += 3) {
                v->activate(part, x + from, n, (ks_activation)a);
                assert_memory_equal(part, whole + from, (size_t)n * sizeof *part);
            }
    }
}

static void an_elements_bits_do_not_depend_on_its_place(void **state)
{
    (void)state;
    for_tables(check_places);
}

static void check_sums(const ks_vector *v)
{
    for (int n = 1; n < 70; n++) {
        float *x = random_floats(n, (uint32_t)n), *b = random_floats(n, 7), y[70], largest = x[0];
        double sum[70] = {0}, square[70] = {0}, norm = 0.0, got;
        for (int i = 0; i < n; i++) {
            largest = fmaxf(largest, x[i]);
            norm += pow(
                (double)x[i] / fmax(0.01, 0.1 * fmax(fabs((double)b[i]), fabs((double)x[i]))), 2.0);
        }
        assert_true(v->max(x, n) == largest);
        got = v->error_sum(x, b, x, n, 0.01, 0.1);
        assert_near(v, got, norm, 1e-13 * norm);
        v->moments(sum, square, x, 0, 3, n);
        v->vector_matrix(y, b, x, 0, NULL, 1, n);
        for (int i = 0; i < n; i++) {
            assert_near(v, sum[i], 3.0 * (double)x[i], 1e-15 * fabs((double)x[i]));
            assert_near(v, square[i], 3.0 * (double)x[i] * (double)x[i], 1e-14);
            assert_true(y[i] == b[0] * x[i]);
        }
        assert_true(v->all_finite(x, n));
        x[n - 1] = NAN;
        assert_false(v->all_finite(x, n));
        free(x), free(b);
    }
}

static void sums_of_every_length_are_right(void **state)
{
    (void)state;
    for_tables(check_sums);
}

static void check_affine(const ks_vector *v)
{
    for (int n = 1; n < 70; n++) {
        float *x = random_floats(n, 1), *scale = random_floats(n, 2), *shift = random_floats(n, 3),
              y[70], z[70];
        v->affine(y, x, scale, shift, n, false);
        v->affine(z, x, scale, shift, n, true);
        v->layer_norm(x, x, scale, shift, n,
                      1.0f); /* in place; its values are checked with the operations */
        for (int i = 0; i < n; i++) {
            double sum = (double)y[i];
            assert_near(v, (double)z[i], sum / (1.0 + exp(-sum)), 4 * EPS * fabs(sum));
            assert_true(isfinite(x[i]) != 0);
        }
        free(x), free(scale), free(shift);
    }
}

static void affine_maps_of_every_length_are_right(void **state)
{
    (void)state;
    for_tables(check_affine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponentials_are_right),
        cmocka_unit_test(the_normal_distribution_is_right),
        cmocka_unit_test(an_elements_bits_do_not_depend_on_its_place),
        cmocka_unit_test(sums_of_every_length_are_right),
        cmocka_unit_test(affine_maps_of_every_length_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
