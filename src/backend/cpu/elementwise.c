/* Operations on single elements, and the ways between latents, plain arrays, pictures and
 * activations. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

typedef struct element_job {
    ks_cpu *cpu;
    ks_act y, a, b;
    ks_activation activation;
    ks_cpu_tiles tiles;
} element_job;

static void run_elements(element_job *j, void (*task)(void *, int, int))
{
    j->tiles = ks_cpu_pixel_tiles(j->y);
    ks_threads_run(j->cpu->pool, ks_cpu_tasks(&j->tiles, j->y.n), task, j);
}

/* --- between activations --- */

static void concat_task(void *arg, int index, int worker)
{
    (void)worker;
    const element_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    for (int64_t p = t.pixel; p < t.pixel + t.pixels; p++) {
        float *y = ks_cpu_at(j->y, t.row, p);
        memcpy(y, ks_cpu_at(j->a, t.row, p), (size_t)j->a.c * sizeof *y);
        memcpy(y + j->a.c, ks_cpu_at(j->b, t.row, p), (size_t)j->b.c * sizeof *y);
    }
}

void ks_cpu_concat(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    element_job j = {.cpu = ks_cpu_of(ops), .y = y, .a = a, .b = b};
    ks_act all = a;
    all.c += b.c;
    b.c = a.c;
    if (ks_cpu_runs(j.cpu, ks_cpu_same_shape(a, b) && ks_cpu_same_shape(y, all), "concat", y, a))
        run_elements(&j, concat_task);
}

static void add_task(void *arg, int index, int worker)
{
    (void)worker;
    const element_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    for (int64_t p = t.pixel; p < t.pixel + t.pixels; p++)
        j->cpu->vector->add(ks_cpu_at(j->y, t.row, p), ks_cpu_at(j->a, t.row, p),
                            ks_cpu_at(j->b, t.row, p), j->y.c);
}

void ks_cpu_add(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    element_job j = {.cpu = ks_cpu_of(ops), .y = y, .a = a, .b = b};
    if (ks_cpu_runs(j.cpu, ks_cpu_same_shape(y, a) && ks_cpu_same_shape(y, b), "add", y, a))
        run_elements(&j, add_task);
}

static void activate_task(void *arg, int index, int worker)
{
    (void)worker;
    const element_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    for (int64_t p = t.pixel; p < t.pixel + t.pixels; p++)
        j->cpu->vector->activate(ks_cpu_at(j->y, t.row, p), ks_cpu_at(j->a, t.row, p), j->y.c,
                                 j->activation);
}

void ks_cpu_activate(ks_ops *ops, ks_act y, ks_act x, ks_activation activation)
{
    element_job j = {.cpu = ks_cpu_of(ops), .y = y, .a = x, .activation = activation};
    if (ks_cpu_runs(j.cpu, ks_cpu_same_shape(y, x), "activate", y, x))
        run_elements(&j, activate_task);
}

/* Frequencies and arguments are rounded to float32 at each step, as the networks were trained with;
 * a cosine of an argument near 1000 shows it in the fifth digit. */
void ks_cpu_timestep_embedding(ks_ops *ops, ks_act y, const float *t)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    const int half = y.c / 2;
    if (!ks_cpu_runs(cpu, y.c % 2 == 0 && ks_cpu_pixels(y) == 1, "timestep embedding", y, y))
        return;
    const float log_period = 9.210340371976184f; /* ln 10000 */
    for (int k = 0; k < half; k++) {
        float exponent = -log_period * (float)k / (float)half;
        float frequency = (float)exp((double)exponent);
        for (int i = 0; i < y.n; i++) {
            double angle = (double)(t[i] * frequency);
            float *to = ks_cpu_at(y, i, 0);
            to[k] = (float)cos(angle);
            to[half + k] = (float)sin(angle);
        }
    }
}

void ks_cpu_embedding(ks_ops *ops, ks_act y, const int32_t *ids, const ks_weight *tokens,
                      const ks_weight *positions)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    const int64_t length = ks_cpu_pixels(y), count = y.n * length;
    bool fits = tokens->in == y.c && positions->in == y.c && positions->out >= length;
    for (int64_t i = 0; fits && i < count; i++)
        fits = ids[i] >= 0 && ids[i] < tokens->out;
    if (!ks_cpu_runs(cpu, fits, "embedding", y, y))
        return;
    for (int64_t i = 0; i < count; i++)
        cpu->vector->add(ks_cpu_at(y, 0, i), tokens->data + ids[i] * tokens->ld,
                         positions->data + i % length * positions->ld, y.c);
}

/* --- between latents and activations --- */

void ks_cpu_from_latents(ks_ops *ops, ks_act y, const float *const *x, const float *scale)
{
    if (ks_cpu_of(ops)->failed)
        return;
    const int64_t pixels = ks_cpu_pixels(y);
    for (int i = 0; i < y.n; i++)
        for (int k = 0; k < y.c; k++)
            for (int64_t p = 0; p < pixels; p++)
                ks_cpu_at(y, i, p)[k] = x[i][k * pixels + p] * scale[i];
}

void ks_cpu_to_latents(ks_ops *ops, float *const *out, ks_act x)
{
    if (ks_cpu_of(ops)->failed)
        return;
    const int64_t pixels = ks_cpu_pixels(x);
    for (int i = 0; i < x.n; i++)
        for (int k = 0; k < x.c; k++)
            for (int64_t p = 0; p < pixels; p++)
                out[i][k * pixels + p] = ks_cpu_at(x, i, p)[k];
}

/* A plain array of a's shape as an activation. */
static ks_act dense(ks_act a, const float *data)
{
    return (ks_act){(void *)(uintptr_t)data, a.n, a.h, a.w, a.c, a.c};
}

void ks_cpu_from_floats(ks_ops *ops, ks_act y, const float *x)
{
    ks_cpu_activate(ops, y, dense(y, x), KS_ACT_NONE);
}

void ks_cpu_to_floats(ks_ops *ops, float *out, ks_act x)
{
    ks_cpu_activate(ops, dense(x, out), x, KS_ACT_NONE);
}

typedef struct rgb_job {
    uint8_t *rgb;
    ks_act x;
    ks_cpu_tiles tiles;
} rgb_job;

static uint8_t to_byte(float x)
{
    float level = (x + 1.0f) / 2.0f;
    level = level > 0.0f ? level < 1.0f ? level : 1.0f : 0.0f; /* NaN is 0 */
    return (uint8_t)lrintf(level * 255.0f);
}

static void rgb_task(void *arg, int index, int worker)
{
    (void)worker;
    const rgb_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    for (int64_t p = t.pixel; p < t.pixel + t.pixels; p++) {
        const float *x = ks_cpu_at(j->x, t.row, p);
        uint8_t *to = j->rgb + (t.row * ks_cpu_pixels(j->x) + p) * 3;
        for (int k = 0; k < 3; k++)
            to[k] = to_byte(x[k]);
    }
}

void ks_cpu_to_rgb(ks_ops *ops, uint8_t *rgb, ks_act x)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    if (!ks_cpu_runs(cpu, x.c == 3, "to rgb", x, x))
        return;
    rgb_job j = {rgb, x, ks_cpu_pixel_tiles(x)};
    ks_threads_run(cpu->pool, ks_cpu_tasks(&j.tiles, x.n), rgb_task, &j);
}
