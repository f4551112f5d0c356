/* Network calls: their plan, and one call from the engine's rows to the UNet. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "model/internal.h"

/* --- planning --- */

static size_t array_bytes(int rows)
{
    return (size_t)rows * (3 * sizeof(float *) + 3 * sizeof(float) + sizeof(int32_t));
}

/* The arrays' places in memory of array_bytes(rows): the pointers first. */
static void lay_out(ks_call_arrays *a, char *memory, int rows)
{
    a->x = (const float **)memory;
    a->out = (float **)memory + rows;
    a->label = (const float **)memory + 2 * (size_t)rows;
    a->scale = (float *)(a->label + rows);
    a->one = a->scale + rows;
    a->timestep = a->one + rows;
    a->slot = (int32_t *)(a->timestep + rows);
}

/* Room for the arrays of so many rows. What is queued may still read the old ones: waits first. */
static int make_arrays(ks_model *m, int rows, ks_error *err)
{
    if (rows <= m->capacity)
        return 0;
    if (m->device && m->ops->sync(m->ops, err) != 0)
        return -1;
    ks_release(m->ops, m->device);
    free(m->host);
    size_t bytes = array_bytes(rows);
    m->capacity = 0;
    m->device = NULL;
    m->host = calloc(1, bytes);
    if (!m->host)
        return ks_error_set(err, "no memory for the arguments of %d rows", rows);
    m->device = m->ops->alloc(m->ops, bytes, err);
    if (!m->device)
        return -1;
    lay_out(&m->host_arrays, m->host, rows);
    lay_out(&m->device_arrays, m->device, rows);
    m->array_bytes = bytes;
    m->capacity = rows;
    return 0;
}

/* As many slots as let two calls' conditionings stay, within a quarter of the free memory; never
 * fewer than a call may need. Parts of a network do not ask for their memory, which may differ: work
 * that one of them has kept and another has not would leave them waiting for each other. */
static int choose_slots(const ks_model *m, int rows, int tokens)
{
    size_t slot = ks_kv_slot_bytes(&m->unet, m->ops, tokens);
    size_t free_bytes = m->ops->memory_free(m->ops);
    size_t fit = slot ? free_bytes / 4 / slot : (size_t)rows;
    int wish = 2 * rows + 2;
    if (fit >= (size_t)wish || m->unet.split.parts > 1)
        return wish;
    return fit > (size_t)rows ? (int)fit : rows;
}

/* A pool with room for every row's conditioning and the longest of them all. Another one is made
 * when that has grown; the conditionings are computed into it as they are used. */
static int make_pool(ks_model *m, int rows, ks_error *err)
{
    enum { USUAL_TOKENS = 77 };
    int tokens = m->longest > USUAL_TOKENS ? m->longest : USUAL_TOKENS;
    if (m->pool.memory && rows <= m->pool.slots && tokens <= m->pool.tokens)
        return 0;
    if (m->pool.memory && m->ops->sync(m->ops, err) != 0)
        return -1;
    ks_kv_pool_free(&m->pool);
    if (ks_kv_pool_init(&m->pool, &m->unet, m->ops, choose_slots(m, rows, tokens), tokens, err) !=
        0) {
        ks_kv_pool_free(&m->pool);
        return -1;
    }
    return 0;
}

/* Refuses a shape whose activations cannot fit, before the first call finds out. */
static int reserve(ks_model *m, int rows, int height, int width, ks_error *err)
{
    const double mib = 1024.0 * 1024.0;
    double need = rows * ks_unet_activation_bytes(&m->config.unet, m->unet.split.parts, height, width,
                                                  (int)ks_element_size(m->ops));
    if (need <= m->reserved)
        return 0;
    double room = (double)m->ops->memory_free(m->ops) + m->reserved;
    if (need > room)
        return ks_error_set(
            err,
            "%d rows of %d x %d latents need about %.0f MiB for activations and %.0f MiB are free: "
            "use fewer batch rows or a smaller latent",
            rows, width, height, need / mib, room / mib);
    m->reserved = need;
    return 0;
}

int ks_model_plan(ks_model *m, int rows, int height, int width, ks_error *err)
{
    if (rows < 1 || height < 1 || width < 1)
        return ks_error_set(err, "a plan of %d rows of %d x %d latents; all must be at least 1",
                            rows, width, height);
    if (reserve(m, rows, height, width, err) != 0)
        return -1;
    m->rows = 0; /* until all of the new plan is there */
    if (make_arrays(m, rows, err) != 0 || make_pool(m, rows, err) != 0)
        return -1;
    m->rows = rows;
    m->height = height;
    m->width = width;
    return 0;
}

/* --- calls --- */

/* Rows that a call of n rows computes: all that were planned where the backend keeps the work. */
static int computed_rows(const ks_model *m, int n)
{
    return m->ops->replay ? m->rows : n;
}

/* Fills the host's arrays and brings every row's conditioning into a slot. Rows beyond n are the
 * first row again: they write the same bits to the same place. */
static int describe(ks_model *m, const ks_net_row *row, int n, ks_error *err)
{
    ks_call_arrays *a = &m->host_arrays;
    for (int i = 0; i < n; i++)
        if (row[i].cond->source.tokens > m->longest)
            m->longest = row[i].cond->source.tokens;
    if (make_pool(m, m->rows, err) != 0)
        return -1;
    ks_kv_pool_begin(&m->pool);
    for (int i = 0; i < computed_rows(m, n); i++) {
        const ks_net_row *r = &row[i < n ? i : 0];
        int slot = ks_kv_pool_slot(&m->pool, &r->cond->source);
        a->x[i] = r->x;
        a->out[i] = r->out;
        a->label[i] =
            m->pool.label ? m->pool.label + (size_t)slot * (size_t)m->unet.embedding : NULL;
        a->scale[i] = r->scale;
        a->one[i] = 1;
        a->timestep[i] = (float)r->timestep;
        a->slot[i] = slot;
    }
    return 0;
}

/* Tells apart calls that queue other work: by all shapes, and all addresses that are not read from
 * the device's arrays. */
static uint64_t key_of_call(const ks_model *m, const ks_unet_call *call)
{
    const struct {
        const void *model, *arrays, *keys_and_values, *lengths;
        uint64_t scratch, capacity, rows, height, width, slots, tokens;
    } all = {
        .model = m,
        .arrays = m->device,
        .keys_and_values = m->pool.memory,
        .lengths = m->pool.length,
        .scratch = m->ops->mark(m->ops),
        .capacity = (uint64_t)m->capacity,
        .rows = (uint64_t)call->n,
        .height = (uint64_t)call->height,
        .width = (uint64_t)call->width,
        .slots = (uint64_t)m->pool.slots,
        .tokens = (uint64_t)m->pool.tokens,
    };
    ks_hash128 hash = ks_hash(&all, sizeof all);
    uint64_t key;
    memcpy(&key, hash.byte, sizeof key);
    return key;
}

/* What one call queues when its arguments are on the device. */
typedef struct queued_call {
    const ks_model *m;
    ks_unet_call call;
} queued_call;

static void queue_call(void *arg)
{
    const queued_call *q = arg;
    ks_unet_run(&q->m->unet, q->m->ops, &q->call);
}

/* Queues the call, on the device's clock where it has one. */
static int run_call(const ks_model *m, queued_call *queued, ks_error *err)
{
    ks_ops *ops = m->ops;
    int result = 0;
    if (ops->clock_begin)
        ops->clock_begin(ops, KS_CLOCK_NETWORK);
    if (ops->replay)
        result = ops->replay(ops, key_of_call(m, &queued->call), queue_call, queued, err);
    else
        queue_call(queued);
    if (ops->clock_end)
        ops->clock_end(ops);
    return result;
}

/* The one shape of a call's rows. */
static int shape_of(const ks_model *m, const ks_net_row *row, int n, int *height, int *width,
                    ks_error *err)
{
    for (int i = 1; i < n; i++)
        if (row[i].height != row[0].height || row[i].width != row[0].width)
            return ks_error_set(err, "a network call of rows of %d x %d and %d x %d cells",
                                row[0].height, row[0].width, row[i].height, row[i].width);
    *height = row[0].height > 0 ? row[0].height : m->height;
    *width = row[0].width > 0 ? row[0].width : m->width;
    return 0;
}

static int check_call(const ks_model *m, int n, ks_error *err)
{
    if (m->rows == 0)
        return ks_error_set(err, "a network call before its shape was planned");
    if (n < 1 || n > m->rows)
        return ks_error_set(err, "a network call of %d rows where 1 to %d were planned", n,
                            m->rows);
    return 0;
}

int ks_model_rows(ks_model *m, const ks_net_row *row, int n, ks_error *err)
{
    int height = 0, width = 0;
    if (check_call(m, n, err) != 0 || shape_of(m, row, n, &height, &width, err) != 0 ||
        reserve(m, m->rows, height, width, err) != 0 || describe(m, row, n, err) != 0)
        return -1;
    const ks_call_arrays *a = &m->device_arrays;
    m->ops->upload(m->ops, m->device, m->host, m->array_bytes);
    for (int i = 0; i < m->unet.kv_layers; i++)
        m->pool.kv[i].row = a->slot;
    queued_call queued = {
        .m = m,
        .call = {.n = computed_rows(m, n),
                 .height = height,
                 .width = width,
                 .x = a->x,
                 .out = a->out,
                 .scale = a->scale,
                 .timestep = a->timestep,
                 .label = a->label,
                 .one = a->one,
                 .kv = m->pool.kv},
    };
    return run_call(m, &queued, err);
}

/* n rows of device latents x to out. */
static int forward_rows(ks_model *m, const float *x, float *out, const int *timesteps,
                        ks_cond *const *conds, int n, ks_error *err)
{
    size_t cells = (size_t)m->height * (size_t)m->width;
    size_t in = cells * (size_t)m->config.unet.in_channels,
           made = cells * (size_t)m->config.unet.out_channels;
    ks_net_row *row = calloc((size_t)n, sizeof *row);
    if (!row)
        return ks_error_set(err, "no memory for %d rows", n);
    for (int i = 0; i < n; i++)
        row[i] = (ks_net_row){.x = x + (size_t)i * in,
                              .scale = 1,
                              .timestep = timesteps[i],
                              .cond = conds[i],
                              .out = out + (size_t)i * made};
    int result = ks_model_rows(m, row, n, err);
    free(row);
    return result;
}

int ks_model_forward(ks_model *m, const float *x, const int *timesteps, ks_cond *const *conds,
                     int n, int height, int width, float *out, ks_error *err)
{
    ks_ops *ops = m->ops;
    size_t cells = (size_t)n * (size_t)height * (size_t)width;
    size_t in = cells * (size_t)m->config.unet.in_channels * sizeof(float);
    size_t made = cells * (size_t)m->config.unet.out_channels * sizeof(float);
    if (ks_model_plan(m, n > m->rows ? n : m->rows, height, width, err) != 0)
        return -1;
    int result = -1;
    float *device_x = ops->alloc(ops, in, err);
    float *device_out = device_x ? ops->alloc(ops, made, err) : NULL;
    if (!device_out)
        goto cleanup;
    ops->upload(ops, device_x, x, in);
    if (forward_rows(m, device_x, device_out, timesteps, conds, n, err) != 0)
        goto cleanup;
    ops->download(ops, out, device_out, made);
    result = ops->sync(ops, err);
cleanup:
    ks_release(ops, device_out);
    ks_release(ops, device_x);
    return result;
}
