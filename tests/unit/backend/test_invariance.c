/* A row's bits depend on neither its place, nor its neighbours, nor the number of threads. Every
 * operation runs on a batch of seven rows, on the same rows in another order, on each row alone,
 * and on one, two and three threads: every row must come out with the same bits. And the same calls
 * give the same scratch addresses. */
#include "acts.h"

enum { ROWS = 7 };

/* One operation's n rows: x [n, h, w, in], extra and y [n, y_h, y_w, out], row_bias [n, 1, 1, out].
 * kv has x's rows the other way round; kv_row undoes that. */
typedef struct batch {
    ks_ops *ops;
    param parameter;
    const ks_weight *weight;
    ks_act y, x, extra, row_bias, kv;
    int32_t kv_row[ROWS], kv_len[ROWS];
} batch;

typedef struct operation {
    const char *name;
    void (*run)(const batch *b);
    int h, w, in, y_h, y_w, out;
    int kernel, params; /* the parameter: [params, in] (kernel 0), [params, in, kernel, kernel], a
                           norm's (-1) */
} operation;

static void run_conv(const batch *b)
{
    ks_conv how = {.stride = 1, .pad = 1, .residual = b->extra, .row_bias = b->row_bias};
    b->ops->conv(b->ops, b->y, b->x, b->weight, &how);
}

static void run_down(const batch *b)
{
    b->ops->conv(b->ops, b->y, b->x, b->weight, &(ks_conv){.stride = 2, .pad = 1});
}

static void run_up(const batch *b)
{
    b->ops->conv(b->ops, b->y, b->x, b->weight,
                 &(ks_conv){.stride = 1, .pad = 1, .upsample = true});
}

static void run_pointwise(const batch *b)
{
    b->ops->conv(b->ops, b->y, b->x, b->weight, &(ks_conv){.stride = 1, .residual = b->extra});
}

static void run_linear(const batch *b)
{
    b->ops->linear(b->ops, b->y, b->x, b->weight, KS_ACT_NONE, b->extra);
}

static void run_linear_silu(const batch *b)
{
    b->ops->linear(b->ops, b->y, b->x, b->weight, KS_ACT_SILU, b->extra);
}

static void run_geglu(const batch *b)
{
    b->ops->geglu(b->ops, b->y, b->x, b->weight);
}

static void run_group_norm(const batch *b)
{
    b->ops->group_norm(b->ops, b->y, b->x, b->weight, 32, 1e-5f, true);
}

static void run_layer_norm(const batch *b)
{
    b->ops->layer_norm(b->ops, b->y, b->x, b->weight, 1e-5f);
}

/* q, k and v are the thirds of their activations' channels. */
static void attend(const batch *b, ks_act q, ks_act kv, const ks_attention *how)
{
    q.c = kv.c = b->y.c;
    ks_act k = kv, v = kv;
    k.data = (float *)kv.data + kv.c;
    v.data = (float *)kv.data + 2 * kv.c;
    b->ops->attention(b->ops, b->y, q, k, v, how);
}

static void run_self_attention(const batch *b)
{
    attend(b, b->x, b->x, &(ks_attention){.heads = 4});
}

static void run_causal_attention(const batch *b)
{
    attend(b, b->x, b->x, &(ks_attention){.heads = 2, .causal = true});
}

static void run_masked_attention(const batch *b)
{
    attend(b, b->x, b->kv, &(ks_attention){.heads = 4, .kv_row = b->kv_row, .kv_len = b->kv_len});
}

static void run_concat(const batch *b)
{
    ks_act left = b->x;
    left.c = b->y.c - b->extra.c / 2;
    ks_act right = b->extra;
    right.c /= 2;
    b->ops->concat(b->ops, b->y, left, right);
}

static void run_add(const batch *b)
{
    b->ops->add(b->ops, b->y, b->x, b->extra);
}

static void run_gelu(const batch *b)
{
    b->ops->activate(b->ops, b->y, b->x, KS_ACT_GELU);
}

/*   name               run                h   w   in  y_h y_w out  k  params */
static const operation operations[] = {
    {"conv", run_conv, 16, 16, 33, 16, 16, 20, 3, 20},
    {"conv of many terms", run_conv, 5, 3, 600, 5, 3, 520, 3, 520},
    {"conv of one pixel", run_conv, 1, 1, 7, 1, 1, 9, 3, 9},
    {"downsampling conv", run_down, 9, 8, 24, 5, 4, 24, 3, 24},
    {"upsampling conv", run_up, 5, 6, 24, 10, 12, 24, 3, 24},
    {"pointwise conv", run_pointwise, 13, 11, 40, 13, 11, 24, 1, 24},
    {"linear of one token", run_linear, 1, 1, 96, 1, 1, 75, 0, 75},
    {"linear", run_linear, 77, 1, 30, 77, 1, 41, 0, 41},
    {"linear of two tiles and a token", run_linear, 257, 1, 30, 257, 1, 41, 0, 41},
    {"linear with activation", run_linear_silu, 10, 9, 30, 10, 9, 41, 0, 41},
    {"geglu", run_geglu, 8, 8, 24, 8, 8, 96, 0, 192},
    {"group norm", run_group_norm, 16, 16, 96, 16, 16, 96, -1, 96},
    {"group norm of several tiles", run_group_norm, 40, 37, 96, 40, 37, 96, -1, 96},
    {"layer norm", run_layer_norm, 77, 5, 100, 77, 5, 100, -1, 100},
    {"self-attention", run_self_attention, 16, 10, 3 * 28, 16, 10, 28, 0, 1},
    {"self-attention of several blocks", run_self_attention, 30, 20, 3 * 16, 30, 20, 16, 0, 1},
    {"causal attention", run_causal_attention, 77, 1, 3 * 16, 77, 1, 16, 0, 1},
    {"masked attention", run_masked_attention, 77, 1, 3 * 16, 77, 1, 16, 0, 1},
    {"concat", run_concat, 9, 7, 50, 9, 7, 60, 0, 1},
    {"add", run_add, 21, 20, 99, 21, 20, 99, 0, 1},
    {"gelu", run_gelu, 21, 20, 99, 21, 20, 99, 0, 1},
};

/* n rows in a new activation: rows pick[0], pick[1], ... of the seven that seed makes; reversed:
 * the last first. */
static ks_act picked_act(ks_ops *ops, int h, int w, int c, int gap, uint32_t seed, const int *pick,
                         int n, bool reversed)
{
    ks_act from = random_act(ops, ROWS, h, w, c, 0, seed), to = empty_act(ops, n, h, w, c, gap);
    const int64_t pixels = (int64_t)h * w;
    for (int i = 0; i < n; i++)
        for (int64_t p = 0; p < pixels; p++)
            memcpy(pixel_of(to, (reversed ? n - 1 - i : i) * pixels + p),
                   pixel_of(from, pick[i] * pixels + p), (size_t)c * sizeof(float));
    release_act(ops, from);
    return to;
}

static batch new_batch(const operation *o, int threads, const int *pick, int n, int gap)
{
    batch b = {.ops = new_cpu(threads)};
    b.parameter = o->kernel < 0 ? random_norm(b.ops, o->params, 5)
                                : random_param(b.ops, o->params, o->in, o->kernel, true, 5);
    b.weight = b.parameter.weight;
    b.x = picked_act(b.ops, o->h, o->w, o->in, gap, 1, pick, n, false);
    b.kv = picked_act(b.ops, o->h, o->w, o->in, gap, 1, pick, n, true);
    b.extra = picked_act(b.ops, o->y_h, o->y_w, o->out, gap, 2, pick, n, false);
    b.row_bias = picked_act(b.ops, 1, 1, o->out, gap, 3, pick, n, false);
    b.y = empty_act(b.ops, n, o->y_h, o->y_w, o->out, gap);
    for (int i = 0; i < n; i++) {
        b.kv_row[i] = n - 1 - i;
        b.kv_len[n - 1 - i] = 10 + 9 * pick[i];
    }
    return b;
}

static void free_batch(batch *b)
{
    const ks_act acts[] = {b->x, b->kv, b->extra, b->row_bias, b->y};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        release_act(b->ops, acts[i]);
    free_param(b->ops, b->parameter);
    b->ops->free(b->ops);
}

/* The operation's result for the rows pick[0 .. n), dense; free() it. */
static float *result_of(const operation *o, int threads, const int *pick, int n, int gap)
{
    batch b = new_batch(o, threads, pick, n, gap);
    o->run(&b);
    no_failure(b.ops);
    gaps_are_untouched(b.y);
    float *result = malloc((size_t)(all_pixels(b.y) * o->out) * sizeof *result);
    assert_non_null(result);
    for (int64_t p = 0; p < all_pixels(b.y); p++)
        memcpy(result + p * o->out, pixel_of(b.y, p), (size_t)o->out * sizeof *result);
    free_batch(&b);
    return result;
}

/* The rows pick[0 .. n) have the bits that they have in `all`, the result of the whole batch in its
 * own order. */
static void same_bits(const operation *o, const float *all, int threads, const int *pick, int n,
                      int gap)
{
    const size_t row = (size_t)o->y_h * (size_t)o->y_w * (size_t)o->out;
    float *some = result_of(o, threads, pick, n, gap);
    for (int i = 0; i < n; i++)
        if (memcmp(some + (size_t)i * row, all + (size_t)pick[i] * row, row * sizeof *all) != 0)
            fail_msg("%s: row %d at place %d of %d on %d threads has other bits", o->name, pick[i],
                     i, n, threads);
    free(some);
}

static const int PLAIN[ROWS] = {0, 1, 2, 3, 4, 5, 6}, MOVED[ROWS] = {4, 0, 6, 3, 1, 5, 2};

static void a_rows_place_does_not_change_its_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        float *all = result_of(&operations[i], 1, PLAIN, ROWS, 0);
        same_bits(&operations[i], all, 1, MOVED, ROWS, 0);
        free(all);
    }
}

static void a_row_alone_has_the_bits_it_has_in_a_batch(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        float *all = result_of(&operations[i], 1, PLAIN, ROWS, 0);
        for (int row = 0; row < ROWS; row += 3)
            same_bits(&operations[i], all, 1, &PLAIN[row], 1, 0);
        free(all);
    }
}

static void the_number_of_threads_does_not_change_a_bit(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        float *all = result_of(&operations[i], 1, PLAIN, ROWS, 0);
        same_bits(&operations[i], all, 2, PLAIN, ROWS, 0);
        same_bits(&operations[i], all, 3, MOVED, ROWS, 0);
        free(all);
    }
}

static void a_slice_of_wider_pixels_has_the_bits_of_dense_ones(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        float *all = result_of(&operations[i], 1, PLAIN, ROWS, 0);
        same_bits(&operations[i], all, 1, PLAIN, ROWS, 5);
        free(all);
    }
}

/* Addresses of a few activations, some larger than a chunk of the stack. */
static void take_acts(ks_ops *ops, void **address)
{
    size_t mark = ops->mark(ops);
    address[0] = ops->act(ops, 1, 3, 3, 5).data;
    size_t inner = ops->mark(ops);
    address[1] = ops->act(ops, 2, 1024, 1024, 3).data;
    address[2] = ops->act(ops, 1, 7, 1, 1).data;
    ops->unwind(ops, inner);
    address[3] = ops->act(ops, 1, 2048, 1024, 7).data;
    address[4] = ops->act(ops, 4, 77, 1, 128).data;
    ops->unwind(ops, mark);
}

static void the_same_calls_give_the_same_addresses(void **state)
{
    (void)state;
    ks_ops *ops = new_cpu(1);
    void *first[5], *again[5];
    take_acts(ops, first);
    for (int turn = 0; turn < 3; turn++) {
        take_acts(ops, again);
        assert_memory_equal(first, again, sizeof first);
    }
    for (int i = 0; i < 5; i++)
        assert_int_equal((uintptr_t)first[i] % 64, 0);
    no_failure(ops);
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rows_place_does_not_change_its_bits),
        cmocka_unit_test(a_row_alone_has_the_bits_it_has_in_a_batch),
        cmocka_unit_test(the_number_of_threads_does_not_change_a_bit),
        cmocka_unit_test(a_slice_of_wider_pixels_has_the_bits_of_dense_ones),
        cmocka_unit_test(the_same_calls_give_the_same_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
