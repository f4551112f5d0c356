#include "sampling/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/generators.h"
#include "base/file.h"

/* --- memory --- */

typedef struct ks_lane_block {
    struct ks_lane_block *next;
    size_t size, used;
    _Alignas(16) char data[];
} ks_lane_block;

enum { BLOCK_BYTES = 16 << 10 };

void *ks_lane_alloc(ks_lane *lane, size_t bytes)
{
    bytes = (bytes + 15) & ~(size_t)15;
    ks_lane_block **link = &lane->block;
    while (*link && (*link)->size - (*link)->used < bytes)
        link = &(*link)->next;
    if (!*link) {
        size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        *link = ks_calloc(1, sizeof **link + size);
        (*link)->size = size;
    }
    void *memory = (*link)->data + (*link)->used;
    (*link)->used += bytes;
    return memset(memory, 0, bytes);
}

float *ks_lane_host(ks_lane *lane, int64_t floats)
{
    if (lane->host_floats < floats) {
        lane->host = ks_realloc(lane->host, (size_t)floats, sizeof *lane->host);
        lane->host_floats = floats;
    }
    return lane->host;
}

float *ks_lane_piece_new(ks_lane *lane, ks_pool *pool, int64_t floats, ks_error *err)
{
    float *data = ks_pool_get(pool, floats, err);
    if (!data)
        return NULL;
    if (lane->pieces == lane->piece_room) {
        lane->piece_room = lane->piece_room ? 2 * lane->piece_room : 8;
        lane->piece = ks_realloc(lane->piece, (size_t)lane->piece_room, sizeof *lane->piece);
    }
    lane->piece[lane->pieces++] = (ks_lane_piece){data, floats};
    return data;
}

ks_lane *ks_lane_new(ks_vectors *vectors, ks_error *err)
{
    ks_fiber *fiber = ks_fiber_new(err);
    if (!fiber)
        return NULL;
    ks_lane *lane = ks_calloc(1, sizeof *lane);
    lane->fiber = fiber;
    lane->vectors = vectors;
    return lane;
}

void ks_lane_free(ks_lane *lane)
{
    ks_fiber_free(lane->fiber);
    while (lane->block) {
        ks_lane_block *next = lane->block->next;
        free(lane->block);
        lane->block = next;
    }
    free(lane->tensor);
    free(lane->piece);
    free(lane->host);
    free(lane);
}

void ks_lane_recycle(ks_lane *lane, ks_pool *pool)
{
    for (int i = 0; i < lane->tensors; i++)
        ks_pool_put(pool, lane->tensor[i].data, lane->elements);
    lane->tensors = 0;
    while (lane->pieces > 0) {
        const ks_lane_piece *piece = &lane->piece[--lane->pieces];
        ks_pool_put(pool, piece->data, piece->floats);
    }
    for (ks_lane_block *b = lane->block; b; b = b->next)
        b->used = 0;
    ks_brownian_free(lane->brownian);
    lane->brownian = NULL;
}

/* --- the start --- */

/* The factor of the noise: what makes x the sum of the latent and noise of standard deviation
 * sigma, or at full denoise a sample of the network's prior. */
static double noise_factor(const ks_call *call)
{
    double sigma = (double)call->sigmas[0], sigma_max = (double)ks_sigma_max(call->model_sampling);
    bool full = sigma > sigma_max || fabs(sigma - sigma_max) <= 1e-5 * fmax(sigma, sigma_max);
    if (!call->add_noise)
        return 0;
    return full ? sqrt(1 + sigma * sigma) : sigma;
}

/* x at sigmas[0] into host. */
static void make_start(const ks_call *call, int64_t item, int64_t elements, float *host)
{
    double factor = noise_factor(call);
    if (call->add_noise)
        ks_noise_prepare(call->seed, call->batch, item, call->batch_index, host);
    else
        memset(host, 0, (size_t)elements * sizeof *host);
    for (int64_t i = 0; i < elements; i++) {
        double latent = call->latent ? (double)call->latent[i] * call->latent_scale : 0;
        host[i] = (float)(factor * (double)host[i] + latent);
    }
}

/* The largest number of a draw that an item takes. */
static int64_t last_draw(const ks_lane *lane, const int64_t *batch_index)
{
    int64_t last = 0;
    for (int k = 0; batch_index && k < lane->call.batch; k++)
        last = batch_index[k] > last ? batch_index[k] : last;
    return last;
}

bool ks_lane_queue_noise(ks_lane *lane, const ks_ops *ops, float *out, uint64_t seed, const int64_t *batch_index, double scale,
                         double kept)
{
    static const int64_t farthest = INT64_C(1) << 24; /* words: passing over them is one thread block's work */
    int64_t n = batch_index ? lane->item : lane->elements, words = ks_noise_words(n);
    if (!ops->noise || n < KS_NORMAL_BLOCK || last_draw(lane, batch_index) > farthest / words)
        return false;
    ks_draw draw = {.out = out, .n = n, .lane = lane, .what = KS_DRAW_INITIAL, .seed = seed, .scale = scale, .kept = kept};
    for (int k = 0; k < (batch_index ? lane->call.batch : 1); k++, draw.out += n) {
        draw.skip = batch_index ? batch_index[k] * words : 0;
        ks_vectors_draw(lane->vectors, &draw);
    }
    return true;
}

/* x at sigmas[0] on the device, when what is queued has run. */
static void start_x(ks_lane *lane, const ks_call *call, ks_ops *ops)
{
    float *x = lane->tensor[0].data;
    size_t bytes = (size_t)lane->elements * sizeof *x;
    double kept = call->latent ? call->latent_scale : 0;
    if (call->add_noise && ks_lane_queue_noise(lane, ops, x, call->seed, call->batch_index, noise_factor(call), kept)) {
        if (call->latent)
            ops->upload(ops, x, call->latent, bytes);
        return;
    }
    float *host = ks_lane_host(lane, lane->elements);
    make_start(call, lane->item, lane->elements, host);
    ops->upload(ops, x, host, bytes);
}

/* Room for the CPU generator's state, where the device draws from it. */
static int take_stream(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    lane->stream = NULL;
    if (!call->sampler->stochastic || !pool->ops->noise || call->noise_device.kind != KS_NOISE_CPU ||
        lane->elements < KS_NORMAL_BLOCK)
        return 0;
    lane->stream = (uint32_t *)(void *)ks_lane_piece_new(lane, pool, KS_NOISE_STATE, err);
    return lane->stream ? 0 : -1;
}

static ks_hash128 hash_of_start(const ks_call *call, int64_t elements)
{
    struct {
        uint64_t seed, noise;
        double factor, scale;
        int64_t shape[4];
        ks_hash128 latent, batch_index, mask;
        int64_t masks, second_noise;
    } all = {.seed = call->seed,
             .noise = call->add_noise,
             .factor = noise_factor(call),
             .scale = call->latent_scale};
    int shape[4] = {call->batch, call->channels, call->height, call->width};
    for (int i = 0; i < 4; i++)
        all.shape[i] = shape[i];
    if (call->latent)
        all.latent = ks_hash(call->latent, (size_t)elements * sizeof(float));
    if (call->batch_index)
        all.batch_index = ks_hash(call->batch_index, (size_t)call->batch * sizeof(int64_t));
    if (call->noise_mask) {
        size_t cells = (size_t)call->height * (size_t)call->width;
        all.mask = ks_hash(call->noise_mask, (size_t)call->noise_masks * cells * sizeof(float));
        all.masks = call->noise_masks;
        all.second_noise = call->sampler->second_noise;
    }
    return ks_hash(&all, sizeof all);
}

static int take_tensors(ks_lane *lane, ks_pool *pool, int count, ks_error *err)
{
    if (lane->tensor_room < count) {
        lane->tensor = ks_realloc(lane->tensor, (size_t)count, sizeof *lane->tensor);
        lane->tensor_room = count;
    }
    while (lane->tensors < count) {
        float *data = ks_pool_get(pool, lane->elements, err);
        if (!data)
            return -1;
        lane->tensor[lane->tensors++].data = data;
    }
    lane->tensors_given = 2;
    return 0;
}

static int copy_call(ks_lane *lane, const ks_call *call, ks_error *err)
{
    int conditions = ks_guidance_room(call);
    lane->call = *call;
    lane->model_sampling = *call->model_sampling;
    lane->sigma = ks_lane_alloc(lane, (size_t)call->count * sizeof *lane->sigma);
    for (int i = 0; i < call->count; i++)
        lane->sigma[i] = (double)call->sigmas[i];
    lane->denoise.rows = 0;
    lane->denoise.row =
        ks_lane_alloc(lane, (size_t)(call->batch * conditions) * sizeof *lane->denoise.row);
    return ks_guidance_init(&lane->guidance, call,
                            ks_lane_alloc(lane, (size_t)conditions * sizeof(ks_condition)),
                            ks_lane_alloc(lane, (size_t)conditions * sizeof(int)), err);
}

static void run_sampler(void *self)
{
    ks_lane *lane = self;
    lane->status = lane->call.sampler->run(lane, &lane->tensor[0], lane->sigma,
                                           lane->call.count - 1, &lane->err);
    lane->state = KS_LANE_ENDED;
}

int ks_lane_begin(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    lane->item = (int64_t)call->channels * call->height * call->width;
    lane->elements = lane->item * call->batch;
    if (copy_call(lane, call, err) || take_tensors(lane, pool, 2 + call->sampler->tensors, err) ||
        take_stream(lane, call, pool, err) || ks_lane_regions_begin(lane, call, pool, err))
        return ks_error_wrap(err, "starting a lane");
    start_x(lane, call, pool->ops);
    lane->start = hash_of_start(call, lane->elements);
    lane->start_known = true;
    lane->generator_ready = lane->tree_ready = false;
    lane->nfe = 0;
    lane->err = KS_ERROR_NONE;
    ks_fiber_start(lane->fiber, run_sampler, lane);
    return 0;
}

void ks_lane_resume(ks_lane *lane)
{
    ks_fiber_resume(lane->fiber);
}

/* --- noise --- */

/* The generator that a draw is from. */
static ks_noise_device device_of(const ks_lane *lane, const ks_draw *draw)
{
    bool chosen = draw->what == KS_DRAW_NEXT || (draw->what == KS_DRAW_TREE && draw->gpu);
    return chosen ? lane->call.noise_device : (ks_noise_device){.kind = KS_NOISE_CPU};
}

/* The span of the lane's Brownian motion: the positive sigmas it uses. */
static void span_of(const ks_lane *lane, double *low, double *high)
{
    *low = INFINITY;
    *high = 0;
    for (int i = 0; i < lane->call.count; i++) {
        *low = lane->sigma[i] > 0 ? fmin(*low, lane->sigma[i]) : *low;
        *high = fmax(*high, lane->sigma[i]);
    }
}

/* Its tree, with the host's memory. */
static ks_brownian *brownian_of(ks_lane *lane, ks_noise_device device, ks_error *err)
{
    double low, high;
    if (lane->brownian)
        return lane->brownian;
    span_of(lane, &low, &high);
    lane->brownian = ks_brownian_new(device, lane->call.seed, low, high, lane->elements, err);
    return lane->brownian;
}

int ks_lane_make_noise(ks_lane *lane, const ks_draw *draw, float *host, ks_error *err)
{
    if (draw->what == KS_DRAW_TREE) {
        ks_brownian *tree = brownian_of(lane, device_of(lane, draw), err);
        if (!tree)
            return -1;
        ks_brownian_noise(tree, draw->sigma, draw->sigma_next, host);
        return 0;
    }
    if (!lane->generator_ready)
        ks_generator_seed(&lane->generator, lane->call.noise_device, lane->call.seed);
    lane->generator_ready = true;
    ks_generator_normal(&lane->generator, host, draw->n);
    return 0;
}

/* Smaller draws of the CPU generator are made one by one in long double, which no device has. */
bool ks_lane_device_draws(const ks_lane *lane, const ks_draw *draw, const ks_ops *ops)
{
    return ops->noise && (device_of(lane, draw).kind == KS_NOISE_CUDA || draw->n >= KS_NORMAL_BLOCK);
}

static int tree_op(ks_lane *lane, const ks_draw *draw, ks_noise_op *op, ks_noise_term term[KS_BROWNIAN_TERMS], ks_error *err)
{
    if (!lane->tree_ready) {
        double low, high;
        span_of(lane, &low, &high);
        if (ks_brownian_tree_init(&lane->tree, lane->call.seed, low, high, err))
            return -1;
        lane->tree_ready = true;
    }
    op->term = term;
    op->terms = ks_brownian_terms(&lane->tree, draw->sigma, draw->sigma_next, term, &op->scale);
    return 0;
}

/* The next draw of the lane's generator. Only the block of a CUDA generator is known on the host. */
static void next_op(ks_lane *lane, const ks_draw *draw, ks_noise_op *op)
{
    ks_generator *g = &lane->generator;
    op->seed = lane->call.seed;
    op->fresh = !lane->generator_ready;
    op->state = lane->stream;
    if (op->device.kind == KS_NOISE_CUDA) {
        if (op->fresh)
            ks_generator_seed(g, op->device, op->seed);
        op->skip = (int64_t)g->block;
        ks_generator_skip(g, draw->n);
    }
    lane->generator_ready = true;
}

int ks_lane_noise_op(ks_lane *lane, const ks_draw *draw, ks_noise_op *op, ks_noise_term term[KS_BROWNIAN_TERMS], ks_error *err)
{
    *op = (ks_noise_op){.out = draw->out, .n = draw->n, .device = device_of(lane, draw), .scale = 1};
    switch (draw->what) {
    case KS_DRAW_TREE:
        return tree_op(lane, draw, op, term, err);
    case KS_DRAW_NEXT:
        next_op(lane, draw, op);
        break;
    case KS_DRAW_INITIAL:
        op->seed = draw->seed;
        op->skip = draw->skip;
        op->scale = draw->scale;
        op->base_coef = draw->kept;
        op->base = draw->kept != 0 ? draw->out : NULL;
        break;
    }
    return 0;
}

/* --- what samplers call, on the fiber --- */

/* t is about to be written. */
static void writes(ks_lane *lane, const ks_tensor *t)
{
    if (t == &lane->tensor[0])
        lane->start_known = false;
}

ks_tensor *ks_tensor_new(ks_lane *lane)
{
    if (lane->tensors_given == lane->tensors)
        abort(); /* the sampler's row in the table states too few */
    return &lane->tensor[lane->tensors_given++];
}

void ks_denoise_pair(ks_lane *lane, ks_tensor *denoised, ks_tensor *uncond, const ks_tensor *x,
                     double sigma)
{
    lane->denoise.denoised = denoised;
    lane->denoise.uncond = uncond;
    lane->denoise.x = x;
    lane->denoise.sigma = (float)sigma;
    lane->state = KS_LANE_DENOISE;
    ks_fiber_suspend(lane->fiber);
    lane->nfe++;
    writes(lane, denoised);
}

void ks_denoise(ks_lane *lane, ks_tensor *denoised, const ks_tensor *x, double sigma)
{
    ks_denoise_pair(lane, denoised, NULL, x, sigma);
}

void ks_lincomb(ks_lane *lane, ks_tensor *out, int count, const ks_term *terms)
{
    ks_lincomb_op *op = ks_vectors_combine(lane->vectors, out->data, lane->elements);
    for (int t = 0; t < count; t++)
        ks_combine_term(op, terms[t].coef, terms[t].x->data);
    writes(lane, out);
}

void ks_noise(ks_lane *lane, ks_tensor *out)
{
    ks_vectors_draw(lane->vectors, &(ks_draw){.out = out->data, .n = lane->elements, .lane = lane});
    writes(lane, out);
}

void ks_brownian_step(ks_lane *lane, ks_tensor *out, double sigma, double sigma_next, bool gpu)
{
    ks_vectors_draw(lane->vectors, &(ks_draw){.out = out->data,
                                              .n = lane->elements,
                                              .lane = lane,
                                              .what = KS_DRAW_TREE,
                                              .gpu = gpu,
                                              .sigma = sigma,
                                              .sigma_next = sigma_next});
    writes(lane, out);
}

double ks_error_norm(ks_lane *lane, const ks_tensor *a, const ks_tensor *b, const ks_tensor *c,
                     double atol, double rtol)
{
    lane->norm = (ks_norm_request){.a = a, .b = b, .c = c, .atol = atol, .rtol = rtol};
    lane->state = KS_LANE_NORM;
    ks_fiber_suspend(lane->fiber);
    return sqrt(lane->norm.mean_square);
}

const ks_model_sampling *ks_lane_model_sampling(const ks_lane *lane)
{
    return &lane->model_sampling;
}

uint64_t ks_lane_seed(const ks_lane *lane)
{
    return lane->call.seed;
}
