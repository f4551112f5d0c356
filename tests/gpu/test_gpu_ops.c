/* Every operation of the CUDA backend, in every type, against the CPU backend on the same numbers,
 * which all types hold exactly. Prints a table: shape, error and bound as relative L2 norms, time.
 *
 * The bounds. u is half a unit of the type's last place (2^-24, 2^-11, 2^-8). Rounding a result
 * once changes it by at most u in this norm, and so does each rounding of a value on the way there,
 * times what the rest of the operation does to it. A sum of k products of independent numbers in
 * float32 moves by about sqrt(k) 2^-24 of itself, here allowed four times, on each backend; tensor
 * cores cut instead of rounding, which drifts: at most 2^-23 for each of the k / 8 steps. */
#include "gpu.h"

#include <math.h>

static double unit_of(ks_dtype type)
{
    return type == KS_F32 ? 0x1p-24 : type == KS_F16 ? 0x1p-11 : 0x1p-8;
}

/* Terms of the longest sum. */
static double terms_of(const op_case *t)
{
    switch (t->what) {
    case CONV:
        return (double)t->in * t->extra * t->extra;
    case ATTENTION:
        return (double)t->extra + (double)t->in / t->heads;
    default:
        return t->in;
    }
}

static double bound_of(const op_case *t, ks_dtype type)
{
    /* conv: before and after what follows the sum. linear: the same, an activation doubling the
     * first. geglu: value, gate (a gelu's relative slope stays under 2) and result. attention: the
     * weights, and queries scaled ahead. concat: a copy. */
    const double roundings[] = {[CONV] = 2,       [LINEAR] = t->activation ? 4 : 2,
                                [GEGLU] = 4,      [GROUP_NORM] = 1,
                                [LAYER_NORM] = 1, [ATTENTION] = 4,
                                [CONCAT] = 0,     [ADD] = 1,
                                [ACTIVATE] = 1};
    if (t->what == CONCAT)
        return 0;
    bool sums = t->what == CONV || t->what == LINEAR || t->what == GEGLU || t->what == ATTENTION;
    double k = terms_of(t), both = sums ? 8 * sqrt(k) * 0x1p-24 : 0;
    double cut = sums && type != KS_F32 ? k / 8 * 0x1p-23 : 0;
    /* and with a norm before it, those of its result or of the weights that have taken it in */
    const double before = has(t, NORMED) ? 2 : 0;
    return (roundings[t->what] + before) * unit_of(type) + both + cut + 32 * 0x1p-24;
}

/* --- arrays --- */

static void fill(operands *o, ks_act a, int seed)
{
    if (!a.data)
        return;
    size_t count = (size_t)pixels_in(a) * (size_t)a.c;
    ks_error err = KS_ERROR_NONE;
    float *dense = o->ops->alloc(o->ops, count * sizeof *dense, &err);
    if (!dense)
        fail_msg("%s", err.text);
    o->ops->upload(o->ops, dense, some_numbers((int64_t)count, seed), count * sizeof *dense);
    o->ops->from_floats(o->ops, a, dense);
    o->ops->release(o->ops, dense);
}

static void fill_all(operands *o)
{
    bool qkv = has(o->t, FUSED_QKV);
    fill(o, o->x, 1);
    fill(o, qkv ? (ks_act){0} : o->a, 2);
    fill(o, qkv ? (ks_act){0} : o->b, 3);
    fill(o, o->row_bias, 4);
    fill(o, o->residual, 5);
}

/* The result as float32, dense; free() it. */
static float *result_of(operands *o)
{
    size_t count = (size_t)pixels_in(o->y) * (size_t)o->y.c;
    float *host = malloc(count * sizeof *host);
    assert_non_null(host);
    ks_error err = KS_ERROR_NONE;
    float *dense = o->ops->alloc(o->ops, count * sizeof *dense, &err);
    if (!dense)
        fail_msg("%s", err.text);
    o->ops->to_floats(o->ops, dense, o->y);
    o->ops->download(o->ops, host, dense, count * sizeof *dense);
    no_failure(o->ops, shape_text(o->t, o->n));
    o->ops->release(o->ops, dense);
    return host;
}

/* What stands between the pixels of a slice is still zero. */
static void gaps_are_untouched(operands *o)
{
    const size_t element = element_of(o->ops), pixel = (size_t)o->y.stride * element;
    const size_t bytes = (size_t)pixels_in(o->y) * pixel, used = (size_t)o->y.c * element;
    if (o->y.stride == o->y.c)
        return;
    unsigned char *all = malloc(bytes);
    assert_non_null(all);
    o->ops->download(o->ops, all, o->y.data, bytes);
    no_failure(o->ops, "a download");
    for (size_t p = 0; p < bytes; p += pixel)
        for (size_t i = used; i < pixel; i++)
            if (all[p + i])
                fail_msg("%s: something was written between pixels", shape_text(o->t, o->n));
    free(all);
}

static double relative_error(const float *a, const float *b, int64_t n)
{
    double sum = 0, all = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
        all += (double)b[i] * (double)b[i];
    }
    return sqrt(sum / (all > 0 ? all : 1));
}

/* --- one case --- */

static float *reference(ks_ops *cpu, const op_case *t)
{
    operands o = new_operands(cpu, t, t->rows);
    fill_all(&o);
    run_case(&o);
    float *result = result_of(&o);
    free_operands(&o);
    return result;
}

/* Milliseconds of one run, over some. */
static float time_of(const operands *o)
{
    enum { RUNS = 10 };
    cudaStream_t stream = ks_cuda_of(o->ops)->stream;
    cudaEvent_t begin, end;
    float ms = 0;
    assert_int_equal(cudaEventCreate(&begin), cudaSuccess);
    assert_int_equal(cudaEventCreate(&end), cudaSuccess);
    assert_int_equal(cudaEventRecord(begin, stream), cudaSuccess);
    for (int i = 0; i < RUNS; i++)
        run_case(o);
    assert_int_equal(cudaEventRecord(end, stream), cudaSuccess);
    assert_int_equal(cudaEventSynchronize(end), cudaSuccess);
    assert_int_equal(cudaEventElapsedTime(&ms, begin, end), cudaSuccess);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return ms / RUNS;
}

/* Whether the case keeps its bound; prints its line. */
static bool check_case(ks_ops *gpu, const op_case *t, const float *expected)
{
    operands o = new_operands(gpu, t, t->rows);
    fill_all(&o);
    run_case(&o);
    float *result = result_of(&o);
    gaps_are_untouched(&o);
    double error = relative_error(result, expected, pixels_in(o.y) * o.y.c);
    double bound = bound_of(t, ks_cuda_of(gpu)->type);
    bool good = error <= bound; /* false for NaN */
    printf("%-5s %-10s %-52s %s %-8s %9.2e %9.2e %8.4f%s\n", t->model, what_names[t->what],
           shape_text(t, t->rows), gpu->precision, engine_text(gpu, t), error, bound,
           (double)time_of(&o), good ? "" : "  WRONG");
    fflush(stdout);
    no_failure(gpu, "timing");
    free(result);
    free_operands(&o);
    return good;
}

static ks_ops *cpu, *gpu[PRECISIONS];

static void every_operation_is_within_its_bound(void **state)
{
    (void)state;
    int wrong = 0;
    printf("%-5s %-10s %-52s %s %-8s %9s %9s %8s\n", "", "operation", "shape", "type", "engine",
           "error", "bound", "ms");
    for (int i = 0; i < OP_CASES; i++) {
        float *expected = reference(cpu, &op_cases[i]);
        for (int p = 0; p < PRECISIONS; p++)
            wrong += !check_case(gpu[p], &op_cases[i], expected);
        free(expected);
    }
    assert_int_equal(wrong, 0);
}

/* --- layers in a row: a product may leave what the next one's norm needs --- */

enum { CHAIN_ROWS = 2, CHAIN_SIDE = 13 };

/* y = x w1^T + y, perhaps y += a, then z = w2 of layer_norm(y): as float32; free() it. */
static float *chain_result(ks_ops *ops, int in, int c, int out, bool gated, bool changed)
{
    const op_case t = {"odd", LINEAR, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, in, c, 0, 0, 0, 0};
    operands o = {.ops = ops, .t = &t, .n = CHAIN_ROWS};
    const ks_act none = {0};
    ks_act x = new_act(&o, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, in);
    ks_act y = new_act(&o, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, c);
    ks_act a = new_act(&o, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, c);
    ks_act normed = new_act(&o, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, c);
    ks_weight *w1 = new_weight(ops, KS_USE_LINEAR, c, in, 0, true);
    o.w = new_weight(ops, gated ? KS_USE_GEGLU : KS_USE_LINEAR, gated ? 2 * out : out, c, 0, true);
    o.norm = new_norm(ops, c);
    o.y = new_act(&o, CHAIN_ROWS, CHAIN_SIDE, CHAIN_SIDE, out);
    fill(&o, x, 1);
    fill(&o, y, 2);
    fill(&o, a, 3);
    bool absorbed = ops->absorb_norm && ops->absorb_norm(ops, o.w, o.norm, 1e-5f);
    ops->linear(ops, y, x, w1, KS_ACT_NONE, y);
    if (changed)
        ops->add(ops, y, y, a);
    if (!absorbed)
        ops->layer_norm(ops, normed, y, o.norm, 1e-5f);
    if (gated)
        ops->geglu(ops, o.y, absorbed ? y : normed, o.w);
    else
        ops->linear(ops, o.y, absorbed ? y : normed, o.w, KS_ACT_NONE, none);
    float *result = result_of(&o);
    ops->weight_free(ops, w1);
    free_operands(&o);
    return result;
}

/* Roundings: of y twice, of the weights or of the norm's result, and what a product and GEGLU have
 * by themselves. */
static double chain_bound(ks_dtype type, int in, int c)
{
    const double k = in + c, cut = type != KS_F32 ? k / 8 * 0x1p-23 : 0;
    return 10 * unit_of(type) + 16 * sqrt(k) * 0x1p-24 + cut + 64 * 0x1p-24;
}

static void a_norm_sees_what_the_layer_before_it_wrote(void **state)
{
    (void)state;
    static const struct {
        int in, c, out;
    } shape[] = {{64, 160, 96}, {320, 1280, 320}, {72, 352, 160}, {40, 96, 64}, {40, 50, 64}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int k = 0; k < 4; k++) {
            const int in = shape[s].in, c = shape[s].c, out = shape[s].out;
            float *right = chain_result(cpu, in, c, out, k & 1, k & 2);
            for (int p = 0; p < PRECISIONS; p++) {
                float *got = chain_result(gpu[p], in, c, out, k & 1, k & 2);
                double error = relative_error(got, right,
                                              (int64_t)CHAIN_ROWS * CHAIN_SIDE * CHAIN_SIDE * out);
                if (!(error <= chain_bound(ks_cuda_of(gpu[p])->type, in, c)))
                    fail_msg("%d > %d > %d, %s, %s: %.2e", in, c, out, k & 1 ? "geglu" : "linear",
                             gpu[p]->precision, error);
                free(got);
            }
            free(right);
        }
}

/* --- what is not an activation in, an activation out --- */

static float *on_device(ks_ops *ops, const float *host, size_t n)
{
    ks_error err = KS_ERROR_NONE;
    float *device = ops->alloc(ops, n * sizeof *device, &err);
    if (!device)
        fail_msg("%s", err.text);
    ops->upload(ops, device, host, n * sizeof *device);
    return device;
}

static float *on_host(ks_ops *ops, const float *device, size_t n)
{
    float *host = malloc(n * sizeof *host);
    assert_non_null(host);
    ops->download(ops, host, device, n * sizeof *host);
    no_failure(ops, "a download");
    return host;
}

/* The sinusoids of some timesteps as floats; free() it. */
static float *sinusoids(ks_ops *ops, int dim)
{
    const float t[5] = {0, 1, 17, 500, 999};
    float *steps = on_device(ops, t, 5);
    float *dense = on_device(ops, some_numbers(5 * dim, 1), (size_t)(5 * dim));
    size_t mark = ops->mark(ops);
    ks_act y = ops->act(ops, 5, 1, 1, dim);
    ops->timestep_embedding(ops, y, steps);
    ops->to_floats(ops, dense, y);
    float *result = on_host(ops, dense, (size_t)(5 * dim));
    ops->unwind(ops, mark);
    ops->release(ops, steps);
    ops->release(ops, dense);
    return result;
}

static void timestep_embeddings_agree(void **state)
{
    (void)state;
    float *expected = sinusoids(cpu, 320);
    for (int p = 0; p < PRECISIONS; p++) {
        float *result = sinusoids(gpu[p], 320);
        double unit = unit_of(ks_cuda_of(gpu[p])->type);
        for (int i = 0; i < 5 * 320; i++)
            assert_true(fabs((double)result[i] - (double)expected[i]) <=
                        unit * fabs((double)expected[i]) + 0x1p-23);
        free(result);
    }
    free(expected);
}

/* Latents through an activation and back, scaled; rows in another order on the way out. */
static void latents_go_through_activations(void **state)
{
    (void)state;
    enum { N = 3, C = 4, H = 9, W = 7, ITEM = C * H * W };
    const float scale[N] = {1.0f, 0.5f, 2.0f};
    for (int p = 0; p < PRECISIONS; p++) {
        ks_ops *ops = gpu[p];
        float *x = on_device(ops, some_numbers(N * ITEM, 1), N * ITEM);
        float *out = on_device(ops, some_numbers(N * ITEM, 2), N * ITEM);
        float *scales = on_device(ops, scale, N);
        float *in[N] = {x, x + ITEM, x + 2 * ITEM}, *to[N] = {out + 2 * ITEM, out, out + ITEM};
        ks_error err;
        float **pointers = ops->alloc(ops, sizeof in + sizeof to, &err);
        ops->upload(ops, pointers, in, sizeof in);
        ops->upload(ops, pointers + N, to, sizeof to);
        size_t mark = ops->mark(ops);
        ks_act y = ops->act(ops, N, H, W, C);
        ops->from_latents(ops, y, (const float *const *)pointers, scales);
        ops->to_latents(ops, pointers + N, y);
        float *result = on_host(ops, out, N * ITEM);
        for (int i = 0; i < N; i++)
            for (int k = 0; k < ITEM; k++)
                assert_true(result[(to[i] - out) + k] ==
                            some_numbers(N * ITEM, 1)[i * ITEM + k] * scale[i]);
        ops->unwind(ops, mark);
        free(result);
        void *const memory[] = {x, out, scales, pointers};
        for (int i = 0; i < 4; i++)
            ops->release(ops, memory[i]);
    }
}

static void pictures_are_the_same_bytes(void **state)
{
    (void)state;
    enum { H = 33, W = 21, VALUES = 2 * H * W * 3 };
    uint8_t bytes[2][VALUES];
    float wide[VALUES];
    for (int i = 0; i < VALUES; i++)
        wide[i] = some_numbers(VALUES, 1)[i] * 2;
    for (int p = 0; p < PRECISIONS; p++) {
        ks_ops *both[2] = {cpu, gpu[p]};
        for (int b = 0; b < 2; b++) {
            ks_ops *ops = both[b];
            ks_error err;
            float *floats = on_device(ops, wide, VALUES);
            uint8_t *rgb = ops->alloc(ops, VALUES, &err);
            size_t mark = ops->mark(ops);
            ks_act x = ops->act(ops, 2, H, W, 3);
            ops->from_floats(ops, x, floats);
            ops->to_rgb(ops, rgb, x);
            ops->download(ops, bytes[b], rgb, VALUES);
            no_failure(ops, "to rgb");
            ops->unwind(ops, mark);
            ops->release(ops, floats);
            ops->release(ops, rgb);
        }
        assert_memory_equal(bytes[0], bytes[1], VALUES);
    }
}

static float *embedded(ks_ops *ops)
{
    enum { N = 2, LENGTH = 11, C = 52, COUNT = 97 };
    int32_t ids[N * LENGTH];
    for (int i = 0; i < N * LENGTH; i++)
        ids[i] = i * 31 % COUNT;
    ks_view tokens = view_of(some_numbers(COUNT * C, 1), 2, COUNT, C, 0);
    ks_view places = view_of(some_numbers(LENGTH * C, 2), 2, LENGTH, C, 0);
    ks_error err;
    ks_weight *t = ops->table(ops, &tokens, &err), *q = ops->table(ops, &places, &err);
    int32_t *device = ops->alloc(ops, sizeof ids, &err);
    float *dense = on_device(ops, some_numbers(N * LENGTH * C, 3), N * LENGTH * C);
    ops->upload(ops, device, ids, sizeof ids);
    size_t mark = ops->mark(ops);
    ks_act y = ops->act(ops, N, LENGTH, 1, C);
    ops->embedding(ops, y, device, t, q);
    ops->to_floats(ops, dense, y);
    float *result = on_host(ops, dense, N * LENGTH * C);
    ops->unwind(ops, mark);
    ops->release(ops, device);
    ops->release(ops, dense);
    ops->weight_free(ops, t);
    ops->weight_free(ops, q);
    return result;
}

static void embeddings_agree(void **state)
{
    (void)state;
    float *expected = embedded(cpu);
    for (int p = 0; p < PRECISIONS; p++) {
        float *result = embedded(gpu[p]);
        assert_true(relative_error(result, expected, 2 * 11 * 52) <=
                    unit_of(ks_cuda_of(gpu[p])->type));
        free(result);
    }
    free(expected);
}

/* Chains, overlaps at an offset, one latent of several, many terms: in order on both backends. */
static float *combined(ks_ops *ops)
{
    enum { ITEM = 5000, ITEMS = 40 };
    float *m = on_device(ops, some_numbers(ITEM * ITEMS, 1), ITEM * ITEMS);
    ks_lincomb_op op[300];
    uint32_t state = 7;
    for (int i = 0; i < 300; i++) {
        state = state * 1664525u + 1013904223u;
        const int whole = (state >> 28) == 0 ? 2 : 1; /* some are two latents long */
        op[i] = (ks_lincomb_op){.out = m + (state >> 8) % (ITEMS - 1) * ITEM,
                                .n = whole * ITEM,
                                .terms = (int)(state >> 20) % (KS_LINCOMB_TERMS + 1)};
        for (int t = 0; t < op[i].terms; t++) {
            state = state * 1664525u + 1013904223u;
            op[i].coef[t] = ((double)(state >> 16) / 65536 - 0.5) / 2;
            op[i].in[t] = t == 0 ? op[i].out : m + (state >> 4) % (ITEMS - 1) * ITEM;
            if (whole == 2 && op[i].in[t] != op[i].out) /* may not lie across its own output */
                op[i].in[t] = op[i].out;
        }
    }
    ops->lincomb(ops, op, 300);
    float *result = on_host(ops, m, ITEM * ITEMS);
    ops->release(ops, m);
    return result;
}

static void combinations_run_as_if_in_order(void **state)
{
    (void)state;
    float *expected = combined(cpu), *result = combined(gpu[0]);
    /* Double sums differ in their last bits at most, which may turn a rounding. */
    assert_true(relative_error(result, expected, 5000 * 40) <= 300 * 0x1p-24);
    free(expected);
    free(result);
}

/* A crop of two channels, an inpainting and a blend of three windows, one after the other. */
static float *windowed(ks_ops *ops)
{
    enum { C = 4, H = 19, W = 23, CELLS = H * W, ALL = C * CELLS };
    const ks_window at[3] = {{0, 0, H, W}, {3, 5, 9, 11}, {12, 0, 7, 23}};
    float *x = on_device(ops, some_numbers(ALL, 1), ALL);
    float *y = on_device(ops, some_numbers(ALL, 2), ALL);
    float *mask = on_device(ops, some_numbers(CELLS, 3), CELLS);
    float *in[3];
    ks_blend_part part[3];
    for (int i = 0; i < 3; i++) {
        in[i] = on_device(ops, some_numbers(ALL, 4 + i), ALL);
        part[i] = (ks_blend_part){
            .at = at[i], .in = in[i], .map = i == 1 ? mask : NULL, .scale = 0.5 + i};
    }
    ops->crop(ops, in[2], x, C, H, W, at[2]);
    ops->inpaint(ops, &(ks_inpaint_op){.out = y,
                                       .x = y,
                                       .mask = mask,
                                       .channels = C,
                                       .cells = CELLS,
                                       .terms = 2,
                                       .coef = {0.7, -1.9},
                                       .in = {x, y}});
    ops->blend(ops, &(ks_blend_op){.out = y,
                                   .x = y,
                                   .channels = C,
                                   .height = H,
                                   .width = W,
                                   .x_coef = 1.25,
                                   .in_coef = -0.75,
                                   .parts = 3,
                                   .part = part});
    float *result = on_host(ops, y, ALL);
    void *const memory[] = {x, y, mask, in[0], in[1], in[2]};
    for (int i = 0; i < 6; i++)
        ops->release(ops, memory[i]);
    return result;
}

static void windows_and_masks_agree(void **state)
{
    (void)state;
    float *expected = windowed(cpu), *result = windowed(gpu[0]);
    assert_true(relative_error(result, expected, 4 * 19 * 23) <= 0x1p-24);
    free(expected);
    free(result);
}

static void error_norms_agree(void **state)
{
    (void)state;
    for (int n = 1; n < 200000; n = n * 7 + 3) {
        double norm[2];
        ks_ops *both[2] = {cpu, gpu[0]};
        for (int b = 0; b < 2; b++) {
            ks_ops *ops = both[b];
            float *a[3];
            for (int i = 0; i < 3; i++)
                a[i] = on_device(ops, some_numbers(n, i), (size_t)n);
            ops->error_norm(ops, &norm[b], a[0], a[1], a[2], n, 0.0078, 0.05);
            no_failure(ops, "error norm");
            for (int i = 0; i < 3; i++)
                ops->release(ops, a[i]);
        }
        assert_true(fabs(norm[0] - norm[1]) <= 1e-12 * norm[0]);
    }
}

static void one_number_that_is_not_finite_is_seen(void **state)
{
    (void)state;
    enum { N = 70001 };
    const int places[] = {-1, 0, 255, 40000, N - 1};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (int k = 0; k < 3; k++) {
            float *a = on_device(gpu[0], some_numbers(N, 1), N);
            int finite = -1;
            if (places[i] >= 0)
                gpu[0]->upload(gpu[0], a + places[i], &bad[k], sizeof *bad);
            gpu[0]->all_finite(gpu[0], &finite, a, N);
            no_failure(gpu[0], "all finite");
            assert_int_equal(finite, places[i] < 0);
            gpu[0]->release(gpu[0], a);
        }
}

/* More than the pinned memory of either way, at odd addresses and sizes. */
static void transfers_of_any_size_arrive(void **state)
{
    (void)state;
    const size_t sizes[] = {1, 63, 4097, (8 << 20) + 5, (100 << 20) + 3};
    unsigned char *from = malloc((100 << 20) + 3), *to = malloc((100 << 20) + 3);
    assert_non_null(from);
    assert_non_null(to);
    for (size_t i = 0; i < (100 << 20) + 3; i++)
        from[i] = (unsigned char)(i * 2654435761u >> 13);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ks_error err;
        char *device = gpu[0]->alloc(gpu[0], sizes[i] + 1, &err);
        assert_non_null(device);
        memset(to, 0, sizes[i]);
        gpu[0]->upload(gpu[0], device + 1, from, sizes[i]);
        gpu[0]->download(gpu[0], to, device + 1, sizes[i]);
        no_failure(gpu[0], "a transfer");
        assert_memory_equal(from, to, sizes[i]);
        gpu[0]->release(gpu[0], device);
    }
    for (int i = 0; i < 20000; i++) /* what was uploaded may change at once */
        gpu[0]->upload(gpu[0], ks_cuda_of(gpu[0])->small, &i, sizeof i);
    int last = 0;
    gpu[0]->download(gpu[0], &last, ks_cuda_of(gpu[0])->small, sizeof last);
    no_failure(gpu[0], "small uploads");
    assert_int_equal(last, 19999);
    free(from);
    free(to);
}

/* Every way in which a weight is kept: plain, packed, packed once more for upsampling. The first round leaves scratch behind for the
 * next ones. What is allocated goes in pages of 2 MiB, so a weight that stays takes one a round at least; less than half of that is
 * another program's on the same GPU. */
static void weights_give_back_their_memory(void **state)
{
    enum { ROUNDS = 40, PAGE = 2 << 20 };
    (void)state;
    for (int p = 0; p < PRECISIONS; p++) {
        ks_ops *ops = gpu[p];
        size_t free_before = 0;
        for (int round = 0; round <= ROUNDS; round++) {
            ks_weight *made[] = {new_weight(ops, KS_USE_UPSAMPLE, 1280, 640, 3, true),
                                 new_weight(ops, KS_USE_CONV, 640, 640, 3, true),
                                 new_weight(ops, KS_USE_GEGLU, 2560, 640, 0, true), new_norm(ops, 640)};
            for (size_t i = 0; i < sizeof made / sizeof *made; i++)
                ops->weight_free(ops, made[i]);
            no_failure(ops, "weights that are freed");
            if (round == 0)
                free_before = ops->memory_free(ops);
        }
        assert_true(ops->memory_free(ops) + ROUNDS / 2 * PAGE > free_before);
    }
}

static void a_failure_is_kept_until_sync_and_then_forgotten(void **state)
{
    (void)state;
    ks_ops *ops = gpu[0];
    ks_error err = KS_ERROR_NONE;
    size_t mark = ops->mark(ops);
    ks_act a = ops->act(ops, 1, 4, 4, 8), b = ops->act(ops, 1, 4, 4, 9);
    ops->add(ops, a, a, b);
    ops->add(ops, a, a, a);
    assert_int_equal(ops->sync(ops, &err), -1);
    assert_non_null(strstr(err.text, "add"));
    assert_int_equal(ops->sync(ops, &err), 0);
    ks_act huge = ops->act(ops, 1 << 10, 1 << 10, 1 << 10, 1 << 10);
    assert_null(huge.data);
    assert_int_equal(ops->sync(ops, &err), -1);
    assert_non_null(strstr(err.text, "no memory"));
    assert_null(ops->alloc(ops, (size_t)1 << 46, &err));
    assert_non_null(strstr(err.text, "no memory"));
    ops->add(ops, a, a, a);
    no_failure(ops, "after a failure");
    ops->unwind(ops, mark);
}

static int set_up(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    make_numbers();
    cpu = ks_ops_cpu(0, &err);
    if (!cpu)
        fail_msg("%s", err.text);
    for (int p = 0; p < PRECISIONS; p++)
        gpu[p] = new_gpu(precisions[p]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int p = 0; p < PRECISIONS; p++)
        gpu[p]->free(gpu[p]);
    cpu->free(cpu);
    free(numbers);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transfers_of_any_size_arrive),
        cmocka_unit_test(latents_go_through_activations),
        cmocka_unit_test(pictures_are_the_same_bytes),
        cmocka_unit_test(timestep_embeddings_agree),
        cmocka_unit_test(embeddings_agree),
        cmocka_unit_test(combinations_run_as_if_in_order),
        cmocka_unit_test(windows_and_masks_agree),
        cmocka_unit_test(error_norms_agree),
        cmocka_unit_test(one_number_that_is_not_finite_is_seen),
        cmocka_unit_test(a_norm_sees_what_the_layer_before_it_wrote),
        cmocka_unit_test(every_operation_is_within_its_bound),
        cmocka_unit_test(weights_give_back_their_memory),
        cmocka_unit_test(a_failure_is_kept_until_sync_and_then_forgotten),
    };
    if (ks_cuda_device_count() == 0)
        return SKIPPED;
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
