/* Windows and masks of latents: plain float32 arrays, NCHW. */
#include <string.h>

#include "backend/cpu/cpu.h"

enum { PIECE = 1 << 14 }; /* elements a task, about */

/* Lines [channels * height] of `width` elements, shared out whole. */
static int lines_a_task(int width)
{
    return width < PIECE ? PIECE / width : 1;
}

void ks_cpu_crop(ks_ops *ops, float *out, const float *x, int channels, int height, int width,
                 ks_window at)
{
    if (ks_cpu_of(ops)->failed)
        return;
    for (int64_t line = 0; line < (int64_t)channels * at.h; line++) {
        int64_t from = line / at.h * height + at.y + line % at.h;
        memcpy(out + line * at.w, x + from * width + at.x, (size_t)at.w * sizeof *out);
    }
}

/* --- blend --- */

/* One cell: its parts in their order. */
static double blend_cell(const ks_blend_op *op, int c, int y, int x, double here)
{
    double sum = 0, total = 1e-37;
    for (int k = 0; k < op->parts; k++) {
        const ks_blend_part *p = &op->part[k];
        int line = y - p->at.y, cell = x - p->at.x;
        if (line < 0 || line >= p->at.h || cell < 0 || cell >= p->at.w)
            continue;
        int64_t place = (int64_t)line * p->at.w + cell;
        double weight = p->map ? p->scale * (double)p->map[place] : p->scale;
        double in = (double)p->in[(int64_t)c * p->at.h * p->at.w + place];
        sum += weight * (op->x_coef * here + op->in_coef * in);
        total += weight;
    }
    return sum / total;
}

static void blend_task(void *arg, int index, int worker)
{
    (void)worker;
    const ks_blend_op *op = arg;
    int each = lines_a_task(op->width);
    int64_t first = (int64_t)index * each, lines = (int64_t)op->channels * op->height;
    for (int64_t line = first; line < ks_cpu_min(first + each, lines); line++) {
        const float *from = op->x + line * op->width;
        float *to = op->out + line * op->width;
        int c = (int)(line / op->height), y = (int)(line % op->height);
        for (int x = 0; x < op->width; x++)
            to[x] = (float)blend_cell(op, c, y, x, (double)from[x]);
    }
}

void ks_cpu_blend(ks_ops *ops, const ks_blend_op *op)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    ks_blend_op own = *op;
    int each = lines_a_task(op->width);
    int64_t lines = (int64_t)op->channels * op->height;
    if (!cpu->failed)
        ks_threads_run(cpu->pool, (int)((lines + each - 1) / each), blend_task, &own);
}

/* --- inpaint --- */

void ks_cpu_inpaint(ks_ops *ops, const ks_inpaint_op *op)
{
    if (ks_cpu_of(ops)->failed)
        return;
    for (int c = 0; c < op->channels; c++) {
        int64_t channel = c * op->cells;
        for (int64_t i = 0; i < op->cells; i++) {
            double m = (double)op->mask[i], kept = 0;
            for (int t = 0; t < op->terms; t++)
                kept += op->coef[t] * (double)op->in[t][channel + i];
            op->out[channel + i] = (float)(m * (double)op->x[channel + i] + (1 - m) * kept);
        }
    }
}
