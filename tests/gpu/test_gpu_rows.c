/* A row's bits do not depend on its place: every operation on 16 rows, and on the same rows moved,
 * and whole networks on permuted rows and among other neighbours. */
#include "gpu.h"

#include "kernels/parameters.h"
#include "support/open_model.h"

enum { ROWS = 16 };

static ks_ops *gpu[PRECISIONS];

static void fill(const operands *o, ks_act a, int shift, uint32_t seed)
{
    const ks_cuda *c = ks_cuda_of(o->ops);
    if (a.data)
        assert_int_equal(ks_cuda_random_rows(c->stream, c->type, a.data, a.n,
                                             (int64_t)a.h * a.w * a.stride, shift, seed),
                         cudaSuccess);
}

/* Row i looks at row n - 1 - i of keys that stay where they are: its pointer moves with it. */
static void move_pointers(const operands *o, int shift)
{
    int32_t row[ROWS];
    for (int i = 0; i < o->n; i++)
        row[i] = o->n - 1 - (i + shift) % o->n;
    o->ops->upload(o->ops, o->kv_row, row, (size_t)o->n * sizeof *row);
}

static void run_moved(const operands *o, int shift)
{
    const bool masked = has(o->t, MASKED), qkv = has(o->t, FUSED_QKV);
    const ks_act none = {0};
    ks_act y = o->y, whole = o->x;
    assert_int_equal(cudaMemsetAsync(y.data, 0,
                                     (size_t)pixels_in(y) * (size_t)y.stride * element_of(o->ops),
                                     ks_cuda_of(o->ops)->stream),
                     cudaSuccess);
    fill(o, whole, shift, 1);
    fill(o, qkv ? none : o->a, masked ? 0 : shift, 2);
    fill(o, qkv ? none : o->b, masked ? 0 : shift, 3);
    fill(o, o->row_bias, shift, 4);
    fill(o, o->residual, shift, 5);
    if (masked)
        move_pointers(o, shift);
    run_case(o);
}

/* Prints the case's line; whether all rows kept their bits. */
static bool keeps_bits(ks_ops *ops, const op_case *t)
{
    const int shifts[] = {1, 5, ROWS / 2};
    operands o = new_operands(ops, t, ROWS);
    const size_t row = (size_t)o.y.h * (size_t)o.y.w * (size_t)o.y.stride * element_of(ops);
    void *first = device_memory(&o, row * ROWS);
    int32_t *differ = device_memory(&o, sizeof *differ), changed = 0;
    cudaStream_t stream = ks_cuda_of(ops)->stream;
    run_moved(&o, 0);
    no_failure(ops, shape_text(t, ROWS));
    assert_int_equal(
        cudaMemcpyAsync(first, o.y.data, row * ROWS, cudaMemcpyDeviceToDevice, stream),
        cudaSuccess);
    for (size_t i = 0; i < sizeof shifts / sizeof *shifts; i++) {
        run_moved(&o, shifts[i]);
        assert_int_equal(
            ks_cuda_compare_rows(stream, differ, first, o.y.data, ROWS, row, shifts[i]),
            cudaSuccess);
    }
    ops->download(ops, &changed, differ, sizeof changed);
    no_failure(ops, shape_text(t, ROWS));
    printf("%-5s %-10s %-52s %s %-8s %s\n", t->model, what_names[t->what], shape_text(t, ROWS),
           ops->precision, engine_text(ops, t), changed ? "CHANGED" : "same bits");
    fflush(stdout);
    free_operands(&o);
    return !changed;
}

static void every_operation_keeps_a_moved_rows_bits(void **state)
{
    (void)state;
    int changed = 0;
    for (int i = 0; i < OP_CASES; i++)
        for (int p = 0; p < PRECISIONS; p++)
            changed += !keeps_bits(gpu[p], &op_cases[i]);
    assert_int_equal(changed, 0);
}

/* --- whole networks --- */

enum { CALL = 5, SIDE = 12, CELLS = SIDE * SIDE * 4 };

typedef struct network {
    open_model open;
    ks_cond *cond[CALL];
} network;

static network open_network(const char *name, const char *precision)
{
    char path[512];
    ks_error err = KS_ERROR_NONE;
    network n = {0};
    ks_model_config config;
    snprintf(path, sizeof path, TEST_DATA "/%s.safetensors", name);
    ks_safetensors *st = ks_safetensors_open(path, &err);
    if (!st || ks_model_detect(st, &config, &err) != 0)
        fail_msg("%s", err.text);
    n.open.ops = new_gpu(precision);
    n.open.model = ks_model_load(st, &config, n.open.ops, NULL, 0, NULL, &err);
    if (!n.open.model)
        fail_msg("%s", err.text);
    ks_safetensors_close(st);
    for (int i = 0; i < CALL; i++) {
        int tokens = i == 1 ? 154 : 77 - i;
        n.cond[i] = ks_cond_new(n.open.model,
                                some_numbers((int64_t)tokens * config.unet.context_dim, 20 + i),
                                tokens,
                                config.unet.adm_channels
                                    ? some_numbers(config.unet.adm_channels, 30 + i)
                                    : NULL,
                                &err);
        if (!n.cond[i])
            fail_msg("%s", err.text);
    }
    return n;
}

/* The rows pick[0 .. n) through the network. */
static void forward(const network *net, const int *pick, int n, float *out)
{
    float x[CALL * CELLS];
    int timesteps[CALL];
    ks_cond *cond[CALL];
    ks_error err = KS_ERROR_NONE;
    for (int i = 0; i < n; i++) {
        memcpy(x + i * CELLS, some_numbers(CELLS, pick[i]), CELLS * sizeof *x);
        timesteps[i] = 37 + 200 * pick[i];
        cond[i] = net->cond[pick[i]];
    }
    if (ks_model_forward(net->open.model, x, timesteps, cond, n, SIDE, SIDE, out, &err) != 0)
        fail_msg("%s", err.text);
}

static void networks_keep_a_rows_bits(void **state)
{
    (void)state;
    static const char *const names[] = {"tiny-sd15", "tiny-sdxl"};
    const int plain[CALL] = {0, 1, 2, 3, 4}, moved[CALL] = {3, 0, 4, 2, 1}, few[2] = {4, 2};
    float all[CALL * CELLS], other[CALL * CELLS], two[2 * CELLS];
    for (int m = 0; m < 2; m++)
        for (int p = 0; p < PRECISIONS; p++) {
            network net = open_network(names[m], precisions[p]);
            forward(&net, plain, CALL, all);
            forward(&net, moved, CALL, other);
            for (int i = 0; i < CALL; i++)
                assert_memory_equal(other + i * CELLS, all + moved[i] * CELLS,
                                    CELLS * sizeof *all);
            forward(&net, few, 2, two); /* the plan's five rows, three of them padding */
            for (int i = 0; i < 2; i++)
                assert_memory_equal(two + i * CELLS, all + few[i] * CELLS, CELLS * sizeof *all);
            forward(&net, plain, CALL, other); /* and again */
            assert_memory_equal(other, all, sizeof all);
            for (int i = 0; i < CALL; i++)
                ks_cond_free(net.cond[i]);
            close_model(&net.open);
        }
}

static int set_up(void **state)
{
    (void)state;
    make_numbers();
    for (int p = 0; p < PRECISIONS; p++)
        gpu[p] = new_gpu(precisions[p]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int p = 0; p < PRECISIONS; p++)
        gpu[p]->free(gpu[p]);
    free(numbers);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(networks_keep_a_rows_bits),
        cmocka_unit_test(every_operation_keeps_a_moved_rows_bits),
    };
    if (ks_cuda_device_count() == 0)
        return SKIPPED;
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
