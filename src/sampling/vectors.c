#include "sampling/vectors.h"

#include <stdlib.h>

#include "base/file.h"
#include "sampling/lane.h"

ks_lincomb_op *ks_vectors_combine(ks_vectors *v, float *out, int64_t n)
{
    if (v->combinations == v->combination_room) {
        v->combination_room = v->combination_room ? 2 * v->combination_room : 64;
        v->combination =
            ks_realloc(v->combination, (size_t)v->combination_room, sizeof *v->combination);
    }
    ks_lincomb_op *op = &v->combination[v->combinations++];
    op->out = out;
    op->n = n;
    op->terms = 0;
    return op;
}

void ks_combine_term(ks_lincomb_op *op, double coef, const float *x)
{
    op->coef[op->terms] = coef;
    op->in[op->terms++] = x;
}

static ks_vector_step *add_step(ks_vectors *v)
{
    if (v->steps == v->step_room) {
        v->step_room = v->step_room ? 2 * v->step_room : 16;
        v->step = ks_realloc(v->step, (size_t)v->step_room, sizeof *v->step);
    }
    ks_vector_step *step = &v->step[v->steps++];
    step->before = v->combinations;
    return step;
}

void ks_vectors_draw(ks_vectors *v, const ks_draw *draw)
{
    ks_vector_step *step = add_step(v);
    step->kind = KS_STEP_DRAW;
    step->draw = *draw;
}

void ks_vectors_crop(ks_vectors *v, const ks_crop *crop)
{
    ks_vector_step *step = add_step(v);
    step->kind = KS_STEP_CROP;
    step->crop = *crop;
}

void ks_vectors_inpaint(ks_vectors *v, const ks_inpaint_op *op)
{
    ks_vector_step *step = add_step(v);
    step->kind = KS_STEP_INPAINT;
    step->inpaint = *op;
}

void ks_vectors_blend(ks_vectors *v, const ks_blend_op *op)
{
    ks_vector_step *step = add_step(v);
    step->kind = KS_STEP_BLEND;
    step->blend = *op;
    step->blend.parts = 0;
    step->part = v->parts;
}

void ks_vectors_blend_part(ks_vectors *v, const ks_blend_part *part)
{
    if (v->parts == v->part_room) {
        v->part_room = v->part_room ? 2 * v->part_room : 16;
        v->part = ks_realloc(v->part, (size_t)v->part_room, sizeof *v->part);
    }
    v->part[v->parts++] = *part;
    v->step[v->steps - 1].blend.parts++;
}

/* Whether an array of n floats has something in common with what is drawn. */
static bool overlaps(const float *array, int64_t n, const ks_draw *draw)
{
    uintptr_t a = (uintptr_t)array, b = (uintptr_t)draw->out;
    return a < b + (uintptr_t)draw->n * sizeof(float) && b < a + (uintptr_t)n * sizeof(float);
}

/* Whether op reads or writes what is drawn: then it must run first, others may wait. */
static bool touches(const ks_lincomb_op *op, const ks_draw *draw)
{
    for (int t = 0; t < op->terms; t++)
        if (overlaps(op->in[t], op->n, draw))
            return true;
    return overlaps(op->out, op->n, draw);
}

static int make_noise(ks_vectors *v, const ks_draw *draw, ks_ops *ops, ks_error *err)
{
    if (v->host_floats < draw->n) {
        v->host = ks_realloc(v->host, (size_t)draw->n, sizeof *v->host);
        v->host_floats = draw->n;
    }
    if (ks_lane_make_noise(draw->lane, draw, v->host, err))
        return -1;
    ops->upload(ops, draw->out, v->host, (size_t)draw->n * sizeof(float));
    return 0;
}

/* The combinations that must run before a step: all, but for a draw only those up to the last one
 * that touches what is drawn. */
static int needed_before(const ks_vectors *v, const ks_vector_step *step, int sent)
{
    int end = step->before;
    while (step->kind == KS_STEP_DRAW && end > sent &&
           !touches(&v->combination[end - 1], &step->draw))
        end--;
    return end;
}

static int run_step(ks_vectors *v, ks_vector_step *step, ks_ops *ops, ks_error *err)
{
    const ks_crop *c = &step->crop;
    switch (step->kind) {
    case KS_STEP_DRAW:
        return make_noise(v, &step->draw, ops, err);
    case KS_STEP_CROP:
        ops->crop(ops, c->out, c->x, c->channels, c->height, c->width, c->at);
        break;
    case KS_STEP_BLEND:
        step->blend.part = v->part + step->part;
        ops->blend(ops, &step->blend);
        break;
    case KS_STEP_INPAINT:
        ops->inpaint(ops, &step->inpaint);
        break;
    }
    return 0;
}

int ks_vectors_flush(ks_vectors *v, ks_ops *ops, ks_error *err)
{
    int sent = 0;
    for (int i = 0; i < v->steps; i++) {
        int needed = needed_before(v, &v->step[i], sent);
        if (needed > sent) {
            ops->lincomb(ops, v->combination + sent, needed - sent);
            sent = needed;
        }
        if (run_step(v, &v->step[i], ops, err))
            return -1;
    }
    if (v->combinations > sent)
        ops->lincomb(ops, v->combination + sent, v->combinations - sent);
    ks_vectors_drop(v);
    return 0;
}

void ks_vectors_drop(ks_vectors *v)
{
    v->combinations = v->steps = v->parts = 0;
}

void ks_vectors_clear(ks_vectors *v)
{
    free(v->combination);
    free(v->step);
    free(v->part);
    free(v->host);
    *v = (ks_vectors){0};
}
