/* Every operation of the CPU backend against its definition evaluated in double.
 *
 * Bounds: a float32 sum of K products in any order strays like a random walk, by about eps / 2 *
 * sqrt(K) of the root of the sum of the squared terms; four times that is asked for. Elementary
 * functions: a few eps. */
#include "acts.h"

static const double EPS = 0x1p-23; /* distance of float32 numbers at 1 */

static ks_ops *ops;

/* A sum and what bounds its rounding. */
typedef struct exact {
    double sum, squares;
    int64_t terms;
} exact;

static void term(exact *e, double value)
{
    e->sum += value;
    e->squares += value * value;
    e->terms++;
}

static double bound_of(const exact *e)
{
    return 2.0 * EPS * (sqrt((double)e->terms * e->squares) + fabs(e->sum));
}

static void assert_close(float got, double want, double bound, const char *what, int64_t where)
{
    if (!(fabs((double)got - want) <= bound))
        fail_msg("%s, element %lld: %.9g, exactly %.12g: %.3g of the bound", what, (long long)where,
                 (double)got, want, fabs((double)got - want) / bound);
}

static double activation_of(ks_activation a, double x)
{
    if (a == KS_ACT_SILU)
        return x / (1.0 + exp(-x));
    if (a == KS_ACT_GELU)
        return 0.5 * x * erfc(-x / sqrt(2.0));
    if (a == KS_ACT_QUICK_GELU)
        return x / (1.0 + exp(-1.702 * x));
    return x;
}

/* --- convolution --- */

typedef struct conv_case {
    int n, h, w, in, out, kernel, stride, pad, upsample,
        odd;                           /* odd: the last upsampled line and column cut off */
    int gap, bias, row_bias, residual; /* residual 2: y itself */
} conv_case;

static exact conv_element(const conv_case *c, ks_act x, const param *p, int i, int oy, int ox,
                          int o)
{
    const int scale = c->upsample ? 2 : 1;
    exact e = {0};
    for (int ky = 0; ky < c->kernel; ky++)
        for (int kx = 0; kx < c->kernel; kx++) {
            int y = oy * c->stride + ky - c->pad, xx = ox * c->stride + kx - c->pad;
            bool outside =
                y < 0 || xx < 0 || y >= c->h * scale - c->odd || xx >= c->w * scale - c->odd;
            for (int k = 0; k < c->in && !outside; k++)
                term(&e, value_at(x, i, y / scale, xx / scale, k) *
                             (double)p->w[((o * c->in + k) * c->kernel + ky) * c->kernel + kx]);
        }
    if (p->bias)
        term(&e, (double)p->bias[o]);
    return e;
}

static int conv_size(const conv_case *c, int size)
{
    int seen = c->upsample ? 2 * size - c->odd : size;
    return (seen + 2 * c->pad - c->kernel) / c->stride + 1;
}

static void check_conv(const conv_case *c)
{
    const int h = conv_size(c, c->h), w = conv_size(c, c->w);
    ks_act x = random_act(ops, c->n, c->h, c->w, c->in, c->gap, 1);
    ks_act y = random_act(ops, c->n, h, w, c->out, c->gap, 2);
    ks_act residual = random_act(ops, c->n, h, w, c->out, c->gap / 2, 2);
    ks_act row_bias = random_act(ops, c->n, 1, 1, c->out, c->gap, 3);
    param p = random_param(ops, c->out, c->in, c->kernel, c->bias, 4);
    ks_conv how = {.stride = c->stride, .pad = c->pad, .upsample = c->upsample};
    if (c->row_bias)
        how.row_bias = row_bias;
    if (c->residual)
        how.residual = c->residual == 2 ? y : residual;
    ops->conv(ops, y, x, p.weight, &how);
    no_failure(ops);
    for (int64_t at = 0; at < all_pixels(y); at++)
        for (int o = 0; o < c->out; o++) {
            int i = (int)(at / (h * w));
            exact e = conv_element(c, x, &p, i, (int)(at / w) % h, (int)(at % w), o);
            if (c->row_bias)
                term(&e, value_at(row_bias, i, 0, 0, o));
            if (c->residual)
                term(&e, (double)pixel_of(residual, at)[o]);
            assert_close(pixel_of(y, at)[o], e.sum, bound_of(&e), "conv", at * c->out + o);
        }
    gaps_are_untouched(y);
    free_param(ops, p);
    release_act(ops, x), release_act(ops, y), release_act(ops, residual),
        release_act(ops, row_bias);
}

static void convolutions_are_right(void **state)
{
    (void)state;
    static const conv_case cases[] = {
        /* n  h   w   in  out k  s  p  up odd gap b rb res */
        {1, 1, 1, 1, 1, 3, 1, 1, 0, 0, 0, 1, 0, 0},
        {1, 16, 16, 4, 96, 3, 1, 1, 0, 0, 0, 1, 0, 0},
        {2, 8, 8, 24, 40, 3, 1, 1, 0, 0, 0, 1, 1, 2},
        {2, 5, 7, 13, 9, 3, 1, 1, 0, 0, 3, 1, 1, 1},
        {1, 16, 16, 48, 4, 3, 1, 1, 0, 0, 0, 1, 0, 0},
        {2, 6, 8, 17, 20, 3, 2, 1, 0, 0, 0, 1, 0, 0},
        {1, 7, 5, 16, 33, 3, 2, 1, 0, 0, 5, 0, 1, 0},
        {2, 4, 3, 11, 16, 3, 1, 1, 1, 0, 0, 1, 0, 0},
        {1, 3, 5, 16, 8, 3, 1, 1, 1, 1, 2, 1, 0, 1},
        {2, 6, 6, 19, 23, 1, 1, 0, 0, 0, 0, 1, 0, 1},
        {2, 6, 5, 19, 23, 1, 1, 0, 0, 0, 7, 1, 1, 2},
        {1, 4, 4, 8, 8, 1, 2, 0, 0, 0, 0, 1, 0, 0},
        {1, 20, 17, 3, 7, 3, 1, 1, 0, 0, 0, 0, 0, 0},
        {1, 3, 2, 700, 530, 3, 1, 1, 0, 0, 0, 1, 1, 1},
        {1, 2, 2, 1600, 6, 3, 1, 1, 0, 0, 1, 1, 0, 0},
        {1, 1, 1, 32, 64, 1, 1, 0, 0, 0, 0, 1, 1, 2},
        {1, 9, 9, 5, 6, 5, 1, 2, 0, 0, 0, 1, 0, 0},
        {1, 4, 6, 3, 3, 1, 1, 0, 1, 0, 0, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_conv(&cases[i]);
}

/* --- linear --- */

typedef struct linear_case {
    int n, h, w, in, out, gap, bias, residual; /* residual 2: y itself */
    ks_activation activation;
} linear_case;

static exact linear_element(ks_act x, const param *p, int64_t token, int o)
{
    exact e = {0};
    for (int k = 0; k < p->in; k++)
        term(&e, (double)pixel_of(x, token)[k] * (double)p->w[(int64_t)o * p->in + k]);
    if (p->bias)
        term(&e, (double)p->bias[o]);
    return e;
}

static void check_linear(const linear_case *c)
{
    ks_act x = random_act(ops, c->n, c->h, c->w, c->in, c->gap, 1);
    ks_act y = random_act(ops, c->n, c->h, c->w, c->out, c->gap, 2);
    ks_act residual = random_act(ops, c->n, c->h, c->w, c->out, 2 * c->gap, 2), absent = {0};
    param p = random_param(ops, c->out, c->in, 0, c->bias, 4);
    ops->linear(ops, y, x, p.weight, c->activation,
                !c->residual       ? absent
                : c->residual == 2 ? y
                                   : residual);
    no_failure(ops);
    for (int64_t at = 0; at < all_pixels(y); at++)
        for (int o = 0; o < c->out; o++) {
            exact e = linear_element(x, &p, at, o);
            double want = activation_of(c->activation, e.sum), bound = 1.2 * bound_of(&e);
            if (c->residual) {
                want += (double)pixel_of(residual, at)[o];
                bound += EPS * (fabs((double)pixel_of(residual, at)[o]) + sqrt(e.squares));
            }
            assert_close(pixel_of(y, at)[o], want, bound, "linear", at * c->out + o);
        }
    gaps_are_untouched(y);
    free_param(ops, p);
    release_act(ops, x), release_act(ops, y), release_act(ops, residual);
}

static void linears_are_right(void **state)
{
    (void)state;
    static const linear_case cases[] = {
        {1, 1, 1, 1, 1, 0, 1, 0, KS_ACT_NONE},
        {3, 1, 1, 96, 384, 0, 1, 0, KS_ACT_SILU},
        {2, 1, 1, 37, 91, 3, 1, 1, KS_ACT_NONE},
        {2, 16, 16, 24, 40, 0, 1, 2, KS_ACT_NONE},
        {1, 77, 1, 48, 50, 0, 1, 0, KS_ACT_GELU},
        {1, 77, 1, 48, 50, 2, 1, 1, KS_ACT_QUICK_GELU},
        {2, 5, 7, 33, 21, 1, 0, 0, KS_ACT_NONE},
        {1, 129, 1, 12, 5, 0, 1, 2, KS_ACT_SILU},
        {1, 3, 1, 640, 1300, 0, 1, 0, KS_ACT_NONE},
        {1, 300, 1, 520, 530, 0, 0, 1, KS_ACT_NONE},
        {2, 1, 1, 20, 7, 0, 0, 2, KS_ACT_QUICK_GELU},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_linear(&cases[i]);
}

static void geglus_are_right(void **state)
{
    (void)state;
    static const linear_case cases[] = {
        {2, 8, 8, 24, 96, 0, 1, 0, 0},
        {1, 1, 1, 10, 7, 2, 1, 0, 0},
        {1, 13, 11, 30, 33, 1, 0, 0, 0},
        {2, 5, 1, 16, 600, 0, 1, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const linear_case *c = &cases[i];
        ks_act x = random_act(ops, c->n, c->h, c->w, c->in, c->gap, 1);
        ks_act y = empty_act(ops, c->n, c->h, c->w, c->out, c->gap);
        param p = random_param(ops, 2 * c->out, c->in, 0, c->bias, 4);
        ops->geglu(ops, y, x, p.weight);
        no_failure(ops);
        for (int64_t at = 0; at < all_pixels(y); at++)
            for (int o = 0; o < c->out; o++) {
                exact value = linear_element(x, &p, at, o),
                      gate = linear_element(x, &p, at, c->out + o);
                double factor = activation_of(KS_ACT_GELU, gate.sum);
                double bound =
                    bound_of(&value) * fabs(factor) + 1.2 * bound_of(&gate) * fabs(value.sum) +
                    bound_of(&value) * bound_of(&gate) + 4 * EPS * fabs(factor * value.sum);
                assert_close(pixel_of(y, at)[o], value.sum * factor, bound, "geglu",
                             at * c->out + o);
            }
        gaps_are_untouched(y);
        free_param(ops, p);
        release_act(ops, x), release_act(ops, y);
    }
}

/* --- activations --- */

/* exp is right to 1e-7, the normal distribution to 8e-8 absolute: with the products' roundings 3
 * eps |x|, and far out on the left, where the true value dies away, an absolute 1e-30. */
static void activations_are_right_over_their_whole_range(void **state)
{
    (void)state;
    enum { COUNT = 60001 };
    ks_act x = empty_act(ops, 1, COUNT, 1, 1, 0), y = empty_act(ops, 1, COUNT, 1, 1, 0);
    for (int i = 0; i < COUNT; i++)
        pixel_of(x, i)[0] = (float)(i - COUNT / 2) * (i % 2 ? 0.00017f : 0.0041f);
    for (int a = KS_ACT_NONE; a <= KS_ACT_QUICK_GELU; a++) {
        ops->activate(ops, y, x, (ks_activation)a);
        no_failure(ops);
        for (int i = 0; i < COUNT; i++) {
            double in = (double)pixel_of(x, i)[0], want = activation_of((ks_activation)a, in);
            double bound =
                a == KS_ACT_GELU ? 1e-7 * fabs(in) : (3.0 + 2.0 * fabs(in)) * EPS * fabs(want);
            assert_close(pixel_of(y, i)[0], want, bound + 1e-30, "activation", a * COUNT + i);
        }
    }
    release_act(ops, x), release_act(ops, y);
}

static void activations_keep_what_is_not_finite(void **state)
{
    (void)state;
    ks_act x = empty_act(ops, 1, 2, 1, 1, 0), y = empty_act(ops, 1, 2, 1, 1, 0);
    pixel_of(x, 0)[0] = NAN;
    pixel_of(x, 1)[0] = INFINITY;
    for (int a = KS_ACT_NONE; a <= KS_ACT_QUICK_GELU; a++) {
        ops->activate(ops, y, x, (ks_activation)a);
        assert_true(isnan(pixel_of(y, 0)[0]));
        assert_true(!isfinite(pixel_of(y, 1)[0]));
    }
    release_act(ops, x), release_act(ops, y);
}

/* --- norms --- */

typedef struct norm_case {
    int n, h, w, c, groups, gap, silu, in_place;
    float offset; /* added to x: a mean far from 0 */
} norm_case;

/* Mean and variance of `count` numbers. */
static void moments_of(const double *v, int64_t count, double *mean, double *variance)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += v[i];
    *mean = sum / (double)count;
    for (int64_t i = 0; i < count; i++)
        squares += (v[i] - *mean) * (v[i] - *mean);
    *variance = squares / (double)count;
}

/* One normalised value: the centred x is right to eps of |x| + |mean|. */
static void check_normalised(const norm_case *c, float got, double x, double mean, double variance,
                             double gamma, double beta, const char *what, int64_t where)
{
    double factor = gamma / sqrt(variance + (double)1e-5f), want = (x - mean) * factor + beta;
    double bound = 2.0 * EPS * (fabs(x * factor) + fabs(mean * factor) + fabs(beta));
    if (c->silu)
        want = activation_of(KS_ACT_SILU, want);
    assert_close(got, want, 1.2 * bound + 6.0 * EPS * fabs(want), what, where);
}

static void check_group(const norm_case *c, ks_act x, ks_act y, const param *p, int i, int g)
{
    const int width = c->c / c->groups;
    const int64_t pixels = (int64_t)c->h * c->w;
    double *v = malloc((size_t)(pixels * width) * sizeof *v), mean, variance;
    assert_non_null(v);
    for (int64_t at = 0; at < pixels; at++)
        for (int k = 0; k < width; k++)
            v[at * width + k] = (double)pixel_of(x, i * pixels + at)[g * width + k];
    moments_of(v, pixels * width, &mean, &variance);
    for (int64_t at = 0; at < pixels; at++)
        for (int k = 0; k < width; k++) {
            int o = g * width + k;
            check_normalised(c, pixel_of(y, i * pixels + at)[o], v[at * width + k], mean, variance,
                             (double)p->w[o], (double)p->bias[o], "group norm", at * c->c + o);
        }
    free(v);
}

static void shift_act(ks_act a, float by)
{
    for (int64_t p = 0; p < all_pixels(a); p++)
        for (int k = 0; k < a.c; k++)
            pixel_of(a, p)[k] += by;
}

static void group_norms_are_right(void **state)
{
    (void)state;
    static const norm_case cases[] = {
        {2, 16, 16, 96, 32, 0, 1, 0, 0.0f}, {1, 5, 7, 64, 32, 3, 0, 0, 0.0f},
        {2, 8, 8, 288, 32, 0, 1, 1, 0.5f},  {1, 33, 31, 96, 32, 5, 1, 0, 0.0f},
        {1, 1, 1, 12, 3, 0, 0, 0, 0.0f},    {1, 9, 9, 20, 4, 0, 0, 1, 100.0f},
        {3, 3, 3, 7, 7, 1, 1, 0, 0.0f},     {1, 64, 64, 48, 1, 0, 0, 0, 3.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const norm_case *c = &cases[i];
        ks_act x = random_act(ops, c->n, c->h, c->w, c->c, c->gap, 1), same = x;
        shift_act(x, c->offset);
        ks_act y = random_act(ops, c->n, c->h, c->w, c->c, c->gap, 1);
        shift_act(y, c->offset);
        param p = random_norm(ops, c->c, 5);
        ops->group_norm(ops, y, c->in_place ? y : same, p.weight, c->groups, 1e-5f, c->silu);
        no_failure(ops);
        for (int r = 0; r < c->n * c->groups; r++)
            check_group(c, x, y, &p, r / c->groups, r % c->groups);
        gaps_are_untouched(y);
        free_param(ops, p);
        release_act(ops, x), release_act(ops, y);
    }
}

static void layer_norms_are_right(void **state)
{
    (void)state;
    static const norm_case cases[] = {
        {2, 16, 16, 96, 0, 0, 0, 0, 0.0f}, {1, 77, 1, 37, 0, 3, 0, 1, 0.0f},
        {1, 1, 1, 1280, 0, 0, 0, 0, 1.0f}, {1, 5, 1, 3, 0, 0, 0, 0, 0.0f},
        {2, 3, 3, 128, 0, 0, 0, 0, 50.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const norm_case *c = &cases[i];
        ks_act x = random_act(ops, c->n, c->h, c->w, c->c, c->gap, 1);
        ks_act y = random_act(ops, c->n, c->h, c->w, c->c, c->gap, 1);
        shift_act(x, c->offset);
        shift_act(y, c->offset);
        param p = random_norm(ops, c->c, 5);
        ops->layer_norm(ops, y, c->in_place ? y : x, p.weight, 1e-5f);
        no_failure(ops);
        for (int64_t at = 0; at < all_pixels(x); at++) {
            double v[1280], mean, variance;
            for (int k = 0; k < c->c; k++)
                v[k] = (double)pixel_of(x, at)[k];
            moments_of(v, c->c, &mean, &variance);
            for (int k = 0; k < c->c; k++)
                check_normalised(c, pixel_of(y, at)[k], v[k], mean, variance, (double)p.w[k],
                                 (double)p.bias[k], "layer norm", at * c->c + k);
        }
        gaps_are_untouched(y);
        free_param(ops, p);
        release_act(ops, x), release_act(ops, y);
    }
}

/* --- attention --- */

typedef struct attention_case {
    int n, tokens, kv_rows, keys, heads, width, causal,
        fused; /* fused: q, k, v are slices of one activation */
    const int32_t *kv_row, *kv_len;
    float sharpness; /* q is multiplied by it */
} attention_case;

/* softmax(q k^T / sqrt(width)) v of one query and head; the bound follows the scores' rounding
 * through the weights. */
static void check_query(const attention_case *c, const ks_act *qkv, ks_act y, int i, int token,
                        int head)
{
    const int row = c->kv_row ? c->kv_row[i] : i, first = head * c->width;
    int seen = c->kv_len ? c->kv_len[row] : c->keys;
    seen = c->causal && token + 1 < seen ? token + 1 : seen;
    double *p = malloc((size_t)(seen + 1) * sizeof *p), largest = -INFINITY, sum = 0.0, stray = 0.0;
    assert_non_null(p);
    for (int k = 0; k < seen; k++) {
        exact e = {0};
        for (int d = first; d < first + c->width; d++)
            term(&e, (double)pixel_of(qkv[0], (int64_t)i * c->tokens + token)[d] *
                         (double)pixel_of(qkv[1], (int64_t)row * c->keys + k)[d] / sqrt(c->width));
        p[k] = e.sum;
        largest = fmax(largest, e.sum);
        stray = fmax(stray, bound_of(&e) + 2.0 * EPS * fabs(e.sum));
    }
    for (int k = 0; k < seen; k++)
        sum += p[k] = exp(p[k] - largest);
    stray += EPS * fabs(largest) + 2.0 * EPS;
    for (int d = first; d < first + c->width; d++) {
        exact e = {0};
        double size = 0.0;
        for (int k = 0; k < seen; k++) {
            double v = (double)pixel_of(qkv[2], (int64_t)row * c->keys + k)[d];
            term(&e, p[k] / sum * v);
            size += p[k] / sum * fabs(v);
        }
        assert_close(pixel_of(y, (int64_t)i * c->tokens + token)[d], e.sum,
                     bound_of(&e) + 2.0 * stray * size, "attention", token);
    }
    free(p);
}

static void check_attention(const attention_case *c)
{
    const int channels = c->heads * c->width;
    ks_act qkv[3], whole = random_act(ops, c->n, c->tokens, 1, 3 * channels, 2, 1);
    for (int t = 0; t < 3; t++) {
        qkv[t] = c->fused ? whole
                          : random_act(ops, t ? c->kv_rows : c->n, t ? c->keys : c->tokens, 1,
                                       channels, t, (uint32_t)t + 2);
        qkv[t].c = channels;
        if (c->fused)
            qkv[t].data = (float *)whole.data + t * channels;
    }
    for (int64_t at = 0; at < all_pixels(qkv[0]); at++)
        for (int d = 0; d < channels; d++)
            pixel_of(qkv[0], at)[d] *= c->sharpness;
    ks_act y = empty_act(ops, c->n, c->tokens, 1, channels, 3);
    ks_attention how = {c->heads, c->causal, c->kv_row, c->kv_len};
    ops->attention(ops, y, qkv[0], qkv[1], qkv[2], &how);
    no_failure(ops);
    for (int i = 0; i < c->n; i++)
        for (int token = 0; token < c->tokens; token++)
            for (int head = 0; head < c->heads; head++)
                check_query(c, qkv, y, i, token, head);
    gaps_are_untouched(y);
    for (int t = 0; t < 3 && !c->fused; t++)
        release_act(ops, qkv[t]);
    release_act(ops, whole), release_act(ops, y);
}

static void attentions_are_right(void **state)
{
    (void)state;
    static const int32_t rows[] = {1, 0, 1}, lengths[] = {77, 13}, one[] = {1, 77};
    static const attention_case cases[] = {
        {2, 64, 2, 64, 4, 24, 0, 1, NULL, NULL, 1.0f},
        {1, 1, 1, 1, 1, 8, 0, 0, NULL, NULL, 1.0f},
        {3, 20, 2, 77, 2, 17, 0, 0, rows, lengths, 1.0f},
        {1, 77, 1, 77, 4, 32, 1, 1, NULL, NULL, 1.0f},
        {3, 5, 2, 77, 1, 40, 0, 0, rows, one, 4.0f},
        {1, 150, 1, 1100, 1, 16, 0, 0, NULL, NULL, 3.0f},
        {1, 700, 1, 700, 1, 8, 1, 1, NULL, NULL, 2.0f},
        {2, 30, 2, 77, 2, 8, 1, 0, NULL, lengths, 1.0f},
        {2, 9, 2, 4, 3, 5, 0, 0, NULL, NULL, 20.0f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_attention(&cases[i]);
}

/* --- elements and embeddings --- */

static void concatenations_and_sums_are_right(void **state)
{
    (void)state;
    ks_act a = random_act(ops, 2, 3, 5, 7, 1, 1), b = random_act(ops, 2, 3, 5, 4, 0, 2);
    ks_act c = random_act(ops, 2, 3, 5, 7, 2, 3), y = empty_act(ops, 2, 3, 5, 11, 3);
    ops->concat(ops, y, a, b);
    no_failure(ops);
    for (int64_t p = 0; p < all_pixels(y); p++)
        for (int k = 0; k < 11; k++)
            assert_true(pixel_of(y, p)[k] == (k < 7 ? pixel_of(a, p)[k] : pixel_of(b, p)[k - 7]));
    gaps_are_untouched(y);
    ks_act sum = empty_act(ops, 2, 3, 5, 7, 4);
    ops->add(ops, sum, a, c);
    for (int64_t p = 0; p < all_pixels(a); p++)
        for (int k = 0; k < 7; k++)
            assert_true(pixel_of(sum, p)[k] == pixel_of(a, p)[k] + pixel_of(c, p)[k]);
    ops->add(ops, a, a, c);
    no_failure(ops);
    for (int64_t p = 0; p < all_pixels(a); p++)
        assert_memory_equal(pixel_of(a, p), pixel_of(sum, p), 7 * sizeof(float));
    gaps_are_untouched(sum);
    release_act(ops, a), release_act(ops, b), release_act(ops, c), release_act(ops, y),
        release_act(ops, sum);
}

/* A frequency is exp of a float32 exponent that was rounded three times by half an eps of itself;
 * the frequency and its product with t are rounded once each. */
static void timestep_embeddings_are_right(void **state)
{
    (void)state;
    static const float t[] = {0.0f, 1.0f, 37.0f, 500.0f, 999.0f};
    ks_act y = empty_act(ops, 5, 1, 1, 96, 4);
    ops->timestep_embedding(ops, y, t);
    no_failure(ops);
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 48; k++) {
            double exponent = log(10000.0) * k / 48.0, angle = (double)t[i] * exp(-exponent);
            double bound = EPS + EPS * angle * (1.0 + 1.5 * exponent);
            assert_close(pixel_of(y, i)[k], cos(angle), bound, "cosine", i * 48 + k);
            assert_close(pixel_of(y, i)[48 + k], sin(angle), bound, "sine", i * 48 + k);
        }
    gaps_are_untouched(y);
    release_act(ops, y);
}

static void embeddings_are_looked_up(void **state)
{
    (void)state;
    static const int32_t ids[] = {3, 0, 9, 9, 1, 2};
    float *tokens = random_floats(10 * 6, 1), *positions = random_floats(4 * 6, 2);
    ks_view token_view = view_of(tokens, 2, 10, 6, 0, 0),
            position_view = view_of(positions, 2, 4, 6, 0, 0);
    ks_error err = KS_ERROR_NONE;
    ks_weight *t = ops->table(ops, &token_view, &err), *p = ops->table(ops, &position_view, &err);
    assert_non_null(t);
    assert_non_null(p);
    ks_act y = empty_act(ops, 2, 3, 1, 6, 1);
    ops->embedding(ops, y, ids, t, p);
    no_failure(ops);
    for (int i = 0; i < 6; i++)
        for (int k = 0; k < 6; k++)
            assert_true(pixel_of(y, i)[k] == tokens[ids[i] * 6 + k] + positions[i % 3 * 6 + k]);
    gaps_are_untouched(y);
    ops->weight_free(ops, t);
    ops->weight_free(ops, p);
    free(tokens);
    free(positions);
    release_act(ops, y);
}

/* --- latents --- */

static void latents_come_and_go(void **state)
{
    (void)state;
    float *latent[2] = {random_floats(4 * 6 * 5, 1), random_floats(4 * 6 * 5, 2)};
    float back[2][4 * 6 * 5], *const out[2] = {back[1], back[0]}, scale[] = {0.25f, 3.0f};
    ks_act y = empty_act(ops, 2, 6, 5, 4, 2);
    ops->from_latents(ops, y, (const float *const *)latent, scale);
    ops->to_latents(ops, out, y);
    no_failure(ops);
    for (int i = 0; i < 2; i++)
        for (int at = 0; at < 4 * 6 * 5; at++) {
            assert_true(pixel_of(y, i * 30 + at % 30)[at / 30] == latent[i][at] * scale[i]);
            assert_true(out[i][at] == latent[i][at] * scale[i]);
        }
    gaps_are_untouched(y);
    free(latent[0]);
    free(latent[1]);
    release_act(ops, y);
}

static void floats_come_and_go(void **state)
{
    (void)state;
    float *in = random_floats(2 * 7 * 9, 1), out[2 * 7 * 9];
    ks_act y = empty_act(ops, 2, 7, 1, 9, 3);
    ops->from_floats(ops, y, in);
    ops->to_floats(ops, out, y);
    no_failure(ops);
    assert_memory_equal(in, out, sizeof out);
    gaps_are_untouched(y);
    free(in);
    release_act(ops, y);
}

static void pictures_are_rounded_half_to_even(void **state)
{
    (void)state;
    static const struct {
        float x;
        uint8_t byte;
    } cases[] = {{-1.0f, 0},  {1.0f, 255}, {-7.0f, 0},      {9.0f, 255},
                 {0.0f, 128}, {NAN, 0},    {INFINITY, 255}, {2.0f * 0.5f / 255.0f - 1.0f, 0},
                 {0.5f, 191}};
    ks_act x = empty_act(ops, 1, 3, 1, 3, 1);
    uint8_t rgb[9];
    for (int i = 0; i < 9; i++)
        pixel_of(x, i / 3)[i % 3] = cases[i].x;
    ops->to_rgb(ops, rgb, x);
    no_failure(ops);
    for (int i = 0; i < 9; i++)
        assert_int_equal(rgb[i], cases[i].byte);
    release_act(ops, x);
}

/* --- lanes --- */

static void linear_combinations_are_summed_in_double(void **state)
{
    (void)state;
    enum { N = 20011 };
    float *in[KS_LINCOMB_TERMS], *out = random_floats(N, 99);
    ks_lincomb_op op = {.out = out, .n = N};
    for (int t = 0; t < KS_LINCOMB_TERMS; t++) {
        in[t] = random_floats(N, (uint32_t)t);
        op.in[t] = in[t];
        op.coef[t] = t % 3 ? -1.7 / (t + 1) : 2.9;
    }
    for (op.terms = 0; op.terms <= KS_LINCOMB_TERMS; op.terms++) {
        ops->lincomb(ops, &op, 1);
        no_failure(ops);
        for (int i = 0; i < N; i++) {
            double want = 0.0, size = 0.0;
            for (int t = 0; t < op.terms; t++) {
                want += op.coef[t] * (double)in[t][i];
                size += fabs(op.coef[t] * (double)in[t][i]);
            }
            assert_close(out[i], want, EPS / 2 * fabs(want) + 1e-15 * size, "lincomb", i);
        }
    }
    for (int t = 0; t < KS_LINCOMB_TERMS; t++)
        free(in[t]);
    free(out);
}

/* The second reads what the first wrote, and both write over an input. */
static void linear_combinations_run_in_order_and_in_place(void **state)
{
    (void)state;
    float a[5] = {1, 2, 3, 4, 5}, b[5] = {10, 20, 30, 40, 50};
    ks_lincomb_op op[] = {
        {.out = a, .n = 5, .terms = 2, .coef = {2.0, 1.0}, .in = {a, b}},
        {.out = b, .n = 5, .terms = 2, .coef = {1.0, -0.5}, .in = {a, b}},
    };
    ops->lincomb(ops, op, 2);
    no_failure(ops);
    for (int i = 0; i < 5; i++) {
        assert_true(a[i] == 12.0f * (float)(i + 1));
        assert_true(b[i] == 7.0f * (float)(i + 1));
    }
}

static void error_norms_are_right(void **state)
{
    (void)state;
    for (int n = 1; n <= 1031; n += 103) {
        float *a = random_floats(n, 1), *b = random_floats(n, 2), *c = random_floats(n, 3);
        double got = -1.0, want = 0.0;
        for (int i = 0; i < n; i++) {
            double size = fmax(fabs((double)b[i]), fabs((double)c[i]));
            want += pow((double)a[i] / fmax(0.0078, 0.05 * size), 2.0) / n;
        }
        ops->error_norm(ops, &got, a, b, c, n, 0.0078, 0.05);
        no_failure(ops);
        assert_true(fabs(got - want) <= 1e-13 * want);
        free(a), free(b), free(c);
    }
}

static void what_is_not_finite_is_found_anywhere(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float *a = random_floats(67, 1);
    int finite = -1;
    for (int64_t n = 0; n <= 67; n++) {
        ops->all_finite(ops, &finite, a, n);
        assert_int_equal(finite, 1);
    }
    for (int i = 0; i < 67; i++) {
        float kept = a[i];
        a[i] = bad[i % 3];
        ops->all_finite(ops, &finite, a, 67);
        assert_int_equal(finite, 0);
        a[i] = kept;
    }
    no_failure(ops);
    free(a);
}

static int set_up(void **state)
{
    (void)state;
    ops = new_cpu(1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ops->free(ops);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(convolutions_are_right),
        cmocka_unit_test(linears_are_right),
        cmocka_unit_test(geglus_are_right),
        cmocka_unit_test(activations_are_right_over_their_whole_range),
        cmocka_unit_test(activations_keep_what_is_not_finite),
        cmocka_unit_test(group_norms_are_right),
        cmocka_unit_test(layer_norms_are_right),
        cmocka_unit_test(attentions_are_right),
        cmocka_unit_test(concatenations_and_sums_are_right),
        cmocka_unit_test(timestep_embeddings_are_right),
        cmocka_unit_test(embeddings_are_looked_up),
        cmocka_unit_test(latents_come_and_go),
        cmocka_unit_test(floats_come_and_go),
        cmocka_unit_test(pictures_are_rounded_half_to_even),
        cmocka_unit_test(linear_combinations_are_summed_in_double),
        cmocka_unit_test(linear_combinations_run_in_order_and_in_place),
        cmocka_unit_test(error_norms_are_right),
        cmocka_unit_test(what_is_not_finite_is_found_anywhere),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
