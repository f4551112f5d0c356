/* The queue of lanes' operations: however a flush gathers draws and combinations, arrays end as if each had run in its turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "sampling/lane.h"
#include "support/host_ops.h"

enum { PLACE = 16, PLACES = 16, FLOATS = PLACE * PLACES, STEPS = 30, ROUNDS = 500 };

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 10;
}

/* What the operations do, one at a time, on a copy of the memory. */
typedef struct shadow {
    const float *device;
    float copy[FLOATS];
} shadow;

static float *twin(shadow *s, const float *device)
{
    return s->copy + (device - s->device);
}

static void combine(ks_vectors *v, shadow *s, float *memory, uint32_t *state)
{
    ks_lincomb_op *op = ks_vectors_combine(v, memory + PLACE * (next(state) % (PLACES - 1)), PLACE * (1 + next(state) % 2));
    for (uint32_t t = 0; t < next(state) % 4; t++) {
        const float *in = memory + PLACE * (next(state) % (PLACES - 1));
        bool shifted = in != op->out && in < op->out + op->n && op->out < in + op->n;
        ks_combine_term(op, (double)(next(state) % 5) - 2, shifted ? op->out : in);
    }
    for (int64_t i = 0; i < op->n; i++) {
        double sum = 0;
        for (int t = 0; t < op->terms; t++)
            sum += op->coef[t] * (double)twin(s, op->in[t])[i];
        twin(s, op->out)[i] = (float)sum;
    }
}

static void draw(ks_vectors *v, shadow *s, float *memory, uint32_t *state)
{
    ks_draw d = {.what = KS_DRAW_INITIAL,
                 .out = memory + PLACE * (next(state) % (PLACES - 1)),
                 .n = PLACE * (1 + next(state) % 2),
                 .seed = next(state),
                 .scale = 1,
                 .kept = next(state) % 2};
    ks_vectors_draw(v, &d);
    float *out = twin(s, d.out);
    host_noise_op(&(ks_noise_op){.out = out,
                                 .n = d.n,
                                 .device = {.kind = KS_NOISE_CPU},
                                 .scale = d.scale,
                                 .base = d.kept != 0 ? out : NULL,
                                 .base_coef = d.kept,
                                 .seed = d.seed});
}

static void a_flush_gives_what_the_order_gives(void **state)
{
    (void)state;
    uint32_t seed = 1;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    host_ops_draw_noise(ops);
    ks_vectors v = {0};
    int draws = 0;
    for (int round = 0; round < ROUNDS; round++) {
        float memory[FLOATS];
        shadow s = {.device = memory};
        for (int i = 0; i < FLOATS; i++)
            memory[i] = (float)(next(&seed) % 9) - 4;
        memcpy(s.copy, memory, sizeof memory);
        for (int k = 0; k < STEPS; k++) {
            bool drawn = next(&seed) % 4 == 0;
            draws += drawn;
            (drawn ? draw : combine)(&v, &s, memory, &seed);
        }
        assert_int_equal(ks_vectors_flush(&v, ops, &err), 0);
        assert_memory_equal(memory, s.copy, sizeof memory);
    }
    assert_true(host_ops_noise_calls(ops) < draws);
    ks_vectors_clear(&v);
    ops->free(ops);
}

/* Draws of arrays of their own go out together, and before all combinations. */
static void independent_draws_are_one_operation(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    host_ops_draw_noise(ops);
    ks_vectors v = {0};
    float memory[FLOATS] = {0};
    for (int k = 0; k + 1 < PLACES; k += 2) {
        float *x = memory + k * PLACE, *noise = x + PLACE;
        ks_combine_term(ks_vectors_combine(&v, x, PLACE), 2, x);
        ks_vectors_draw(&v, &(ks_draw){.what = KS_DRAW_INITIAL, .out = noise, .n = PLACE, .seed = (uint64_t)k, .scale = 1});
        ks_lincomb_op *op = ks_vectors_combine(&v, x, PLACE);
        ks_combine_term(op, 1, x);
        ks_combine_term(op, 3, noise);
    }
    assert_int_equal(ks_vectors_flush(&v, ops, &err), 0);
    assert_int_equal(host_ops_noise_calls(ops), 1);
    assert_int_equal(host_ops_lincomb_calls(ops), 1);
    for (int k = 0; k < FLOATS; k += 2 * PLACE)
        assert_true(memory[k] == 3 * memory[k + PLACE] && memory[k] != 0);
    ks_vectors_clear(&v);
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_flush_gives_what_the_order_gives),
        cmocka_unit_test(independent_draws_are_one_operation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
