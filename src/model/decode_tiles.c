/* A picture that is too large for the device's memory, decoded in overlapping tiles. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

/* How an axis of the latent is cut: tiles of `side` cells, evenly spread. */
typedef struct cut {
    int cells, side, overlap, count;
} cut;

static cut cut_of(int cells, int side, int overlap)
{
    cut c = {.cells = cells, .side = cells < side ? cells : side, .overlap = overlap, .count = 1};
    if (cells > side)
        c.count = (cells - overlap + side - overlap - 1) / (side - overlap);
    return c;
}

static int start_of(const cut *c, int k)
{
    return c->count > 1 ? (int)lround((double)k * (c->cells - c->side) / (c->count - 1)) : 0;
}

/* What tile k counts at its pixel p: 1, falling towards an edge that another tile lies over. */
static float weight_of(const cut *c, int k, int p, int factor)
{
    float fade = (float)(c->overlap * factor), left = (float)p + 0.5F, right = (float)(c->side * factor - p) - 0.5F, weight = 1;
    if (k > 0 && left < fade)
        weight *= left / fade;
    if (k + 1 < c->count && right < fade)
        weight *= right / fade;
    return weight;
}

/* The whole picture while tiles are added to it. */
typedef struct canvas {
    cut rows, columns;
    int factor, channels; /* pixels of a cell; of the picture */
    float *sum, *weight;  /* [pixels, channels], [pixels] */
    float *latent, *tile; /* one tile's */
} canvas;

static int canvas_new(canvas *v, const ks_vae_config *c, int height, int width, int side, int overlap, ks_error *err)
{
    *v = (canvas){.rows = cut_of(height, side, overlap), .columns = cut_of(width, side, overlap), .factor = ks_vae_factor(c),
                  .channels = c->out_channels};
    size_t cell = (size_t)v->factor * (size_t)v->factor, pixels = (size_t)height * (size_t)width * cell;
    size_t tile = (size_t)v->rows.side * (size_t)v->columns.side;
    v->sum = calloc(pixels * (size_t)v->channels, sizeof *v->sum);
    v->weight = calloc(pixels, sizeof *v->weight);
    v->latent = malloc(tile * (size_t)c->embed_channels * sizeof *v->latent);
    v->tile = malloc(tile * cell * (size_t)v->channels * sizeof *v->tile);
    if (!v->sum || !v->weight || !v->latent || !v->tile)
        return ks_error_set(err, "no memory for a picture of %d x %d pixels", width * v->factor, height * v->factor);
    return 0;
}

static void canvas_free(canvas *v)
{
    free(v->sum);
    free(v->weight);
    free(v->latent);
    free(v->tile);
}

/* The latent's window of a tile. */
static void crop(canvas *v, const float *latent, int channels, int y, int x)
{
    size_t width = (size_t)v->columns.side;
    float *out = v->latent;
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < v->rows.side; i++, out += width) {
            size_t line = (size_t)c * (size_t)v->rows.cells + (size_t)(y + i);
            memcpy(out, latent + line * (size_t)v->columns.cells + x, width * sizeof *out);
        }
}

static void add_tile(canvas *v, int row, int column)
{
    int f = v->factor, top = start_of(&v->rows, row) * f, left = start_of(&v->columns, column) * f;
    size_t wide = (size_t)v->columns.cells * (size_t)f;
    const float *in = v->tile;
    for (int i = 0; i < v->rows.side * f; i++) {
        float down = weight_of(&v->rows, row, i, f);
        size_t pixel = (size_t)(top + i) * wide + (size_t)left;
        for (int j = 0; j < v->columns.side * f; j++, pixel++) {
            float weight = down * weight_of(&v->columns, column, j, f);
            v->weight[pixel] += weight;
            for (int k = 0; k < v->channels; k++)
                v->sum[pixel * (size_t)v->channels + (size_t)k] += weight * *in++;
        }
    }
}

static void finish(const canvas *v, uint8_t *rgb, float *floats)
{
    size_t pixels = (size_t)v->rows.cells * (size_t)v->columns.cells * (size_t)v->factor * (size_t)v->factor;
    for (size_t i = 0; i < pixels * (size_t)v->channels; i++) {
        float value = v->sum[i] / v->weight[i / (size_t)v->channels];
        if (rgb)
            rgb[i] = (uint8_t)rintf(fminf(fmaxf((value + 1) / 2, 0), 1) * 255);
        if (floats)
            floats[i] = value;
    }
}

int ks_decode_tiles(ks_model *m, const float *latent, int height, int width, int side, int overlap, uint8_t *rgb, float *floats,
                    ks_error *err)
{
    const ks_vae_config *c = &m->config.vae;
    canvas v;
    ks_decoding d = {0};
    int result = canvas_new(&v, c, height, width, side, overlap, err);
    size_t cells = (size_t)v.rows.side * (size_t)v.columns.side;
    if (result == 0)
        result = ks_decoding_begin(&d, m->ops, cells * (size_t)c->embed_channels,
                                   cells * (size_t)(v.factor * v.factor) * (size_t)v.channels, err);
    for (int i = 0; result == 0 && i < v.rows.count * v.columns.count; i++) {
        int row = i / v.columns.count, column = i % v.columns.count;
        crop(&v, latent, c->embed_channels, start_of(&v.rows, row), start_of(&v.columns, column));
        result = ks_decode_piece(m, &d, v.latent, v.rows.side, v.columns.side, NULL, v.tile, err);
        if (result == 0)
            add_tile(&v, row, column);
    }
    if (result == 0)
        finish(&v, rgb, floats);
    ks_decoding_end(&d, m->ops);
    canvas_free(&v);
    return result;
}
