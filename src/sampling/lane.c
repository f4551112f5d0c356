#include "sampling/lane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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
        ks_lane_regions_begin(lane, call, pool, err))
        return ks_error_wrap(err, "starting a lane");
    float *host = ks_lane_host(lane, lane->elements);
    make_start(call, lane->item, lane->elements, host);
    pool->ops->upload(pool->ops, lane->tensor[0].data, host, (size_t)lane->elements * sizeof *host);
    lane->start = hash_of_start(call, lane->elements);
    lane->start_known = true;
    lane->generator_ready = false;
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

/* The tree of the lane's Brownian motion, over the positive sigmas it uses. */
static ks_brownian *brownian_of(ks_lane *lane, bool gpu, ks_error *err)
{
    if (lane->brownian)
        return lane->brownian;
    ks_noise_device cpu = {.kind = KS_NOISE_CPU};
    double low = INFINITY, high = 0;
    for (int i = 0; i < lane->call.count; i++) {
        low = lane->sigma[i] > 0 ? fmin(low, lane->sigma[i]) : low;
        high = fmax(high, lane->sigma[i]);
    }
    lane->brownian = ks_brownian_new(gpu ? lane->call.noise_device : cpu, lane->call.seed, low,
                                     high, lane->elements, err);
    return lane->brownian;
}

int ks_lane_make_noise(ks_lane *lane, const ks_draw *draw, float *host, ks_error *err)
{
    if (draw->brownian) {
        ks_brownian *tree = brownian_of(lane, draw->gpu, err);
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
                                              .brownian = true,
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
