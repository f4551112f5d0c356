/* Which linear combinations go out as one launch: whatever order the chains run in, and element by
 * element, the result is that of one operation after the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/combine.h"

enum { FLOATS = 64, OPS = 40 };

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 10;
}

static void run_element(const ks_lincomb_op *op, int64_t i)
{
    double sum = 0;
    for (int t = 0; t < op->terms; t++)
        sum += op->coef[t] * (double)op->in[t][i];
    op->out[i] = (float)sum;
}

static void run_in_order(const ks_lincomb_op *op, int count)
{
    for (int k = 0; k < count; k++)
        for (int64_t i = 0; i < op[k].n; i++)
            run_element(&op[k], i);
}

/* As the kernel may: the last chain first, its last element first, there op after op. */
static void run_as_chains(const ks_lincomb_op *op, int count)
{
    ks_lincomb_op sorted[KS_CUDA_COMBINE];
    ks_cuda_chain chain[KS_CUDA_COMBINE];
    for (int taken = 0; taken < count;) {
        int chains;
        int64_t longest;
        int some = ks_cuda_chains(op + taken, count - taken, sorted, chain, &chains, &longest);
        assert_in_range(some, 1, count - taken);
        for (int c = chains - 1; c >= 0; c--) {
            assert_true(chain[c].n <= longest);
            for (int64_t i = chain[c].n - 1; i >= 0; i--)
                for (int k = 0; k < chain[c].count; k++)
                    if (i < sorted[chain[c].first + k].n)
                        run_element(&sorted[chain[c].first + k], i);
        }
        taken += some;
    }
}

/* Arrays of 4 or 8 floats at multiples of `grid`. */
static void random_ops(ks_lincomb_op *op, float *memory, uint32_t grid, uint32_t *state)
{
    for (int k = 0; k < OPS; k++) {
        int64_t n = next(state) % 4 == 0 ? 8 : 4;
        uint32_t places = (FLOATS - 8) / grid + 1;
        op[k] = (ks_lincomb_op){.out = memory + next(state) % places * grid,
                                .n = n,
                                .terms = (int)(next(state) % 4)};
        for (int t = 0; t < op[k].terms; t++) {
            const float *in = memory + next(state) % places * grid;
            bool across = in != op[k].out && in < op[k].out + n && op[k].out < in + n;
            op[k].coef[t] = (double)(next(state) % 7) - 3;
            op[k].in[t] = across ? op[k].out : in;
        }
    }
}

static void chains_give_what_the_order_gives(void **state)
{
    (void)state;
    uint32_t seed = 1;
    int whole = 0;
    for (int round = 0; round < 3000; round++) {
        float a[FLOATS], b[FLOATS];
        ks_lincomb_op op[OPS], other[OPS];
        for (int i = 0; i < FLOATS; i++)
            a[i] = b[i] = (float)(next(&seed) % 9) - 4;
        random_ops(op, a, round % 2 ? 4 : 8, &seed);
        for (int k = 0; k < OPS; k++) {
            other[k] = op[k];
            other[k].out = b + (op[k].out - a);
            for (int t = 0; t < op[k].terms; t++)
                other[k].in[t] = b + (op[k].in[t] - a);
        }
        int chains;
        int64_t longest;
        ks_lincomb_op sorted[KS_CUDA_COMBINE];
        ks_cuda_chain chain[KS_CUDA_COMBINE];
        whole += ks_cuda_chains(op, OPS, sorted, chain, &chains, &longest) == OPS;
        run_in_order(op, OPS);
        run_as_chains(other, OPS);
        assert_memory_equal(a, b, sizeof a);
    }
    assert_true(whole >= 1500); /* arrays on one grid never need a second launch */
}

static void independent_operations_are_chains_of_their_own(void **state)
{
    (void)state;
    float memory[FLOATS] = {0};
    ks_lincomb_op op[3], sorted[3];
    ks_cuda_chain chain[3];
    int chains;
    int64_t longest;
    for (int k = 0; k < 3; k++)
        op[k] = (ks_lincomb_op){
            .out = memory + 8 * k, .n = 4 + k, .terms = 1, .coef = {1}, .in = {memory + 40}};
    assert_int_equal(ks_cuda_chains(op, 3, sorted, chain, &chains, &longest), 3);
    assert_int_equal(chains, 3);
    assert_int_equal(longest, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_give_what_the_order_gives),
        cmocka_unit_test(independent_operations_are_chains_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
