#include "sampling/vectors.h"

#include <stdlib.h>
#include <string.h>

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

/* Whether an array of n floats has something in common with one of m. */
static bool overlap(const float *x, int64_t n, const float *y, int64_t m)
{
    uintptr_t a = (uintptr_t)x, b = (uintptr_t)y;
    return a < b + (uintptr_t)m * sizeof(float) && b < a + (uintptr_t)n * sizeof(float);
}

/* Whether op reads or writes what is drawn: then it must run first, others may wait. */
static bool touches(const ks_lincomb_op *op, const ks_draw *draw)
{
    for (int t = 0; t < op->terms; t++)
        if (overlap(op->in[t], op->n, draw->out, draw->n))
            return true;
    return overlap(op->out, op->n, draw->out, draw->n);
}

/* --- draws --- */

/* Hands over the draws that wait, as one operation. */
static void send_draws(ks_vectors *v, ks_ops *ops)
{
    const ks_noise_term *term = v->term;
    for (int i = 0; i < v->noises; i++) {
        v->noise[i].term = term;
        term += v->noise[i].terms;
    }
    if (v->noises > 0)
        ops->noise(ops, v->noise, v->noises);
    v->noises = v->terms = 0;
}

/* Whether a draw must come after those that wait: it writes what one of them writes, or goes on where one ends. */
static bool follows(const ks_vectors *v, const ks_noise_op *op)
{
    for (int i = 0; i < v->noises; i++) {
        const ks_noise_op *other = &v->noise[i];
        if (overlap(op->out, op->n, other->out, other->n) || (op->state && op->state == other->state))
            return true;
    }
    return false;
}

/* Puts a draw among those that wait for the device. */
static int add_draw(ks_vectors *v, const ks_draw *draw, ks_ops *ops, ks_error *err)
{
    ks_noise_term term[KS_BROWNIAN_TERMS];
    ks_noise_op op;
    if (ks_lane_noise_op(draw->lane, draw, &op, term, err))
        return -1;
    if (follows(v, &op))
        send_draws(v, ops);
    if (v->noises == v->noise_room) {
        v->noise_room = v->noise_room ? 2 * v->noise_room : 16;
        v->noise = ks_realloc(v->noise, (size_t)v->noise_room, sizeof *v->noise);
    }
    if (v->terms + op.terms > v->term_room) {
        v->term_room = 2 * v->term_room + 8 * KS_BROWNIAN_TERMS;
        v->term = ks_realloc(v->term, (size_t)v->term_room, sizeof *v->term);
    }
    if (op.terms > 0)
        memcpy(v->term + v->terms, term, (size_t)op.terms * sizeof *term);
    v->noise[v->noises++] = op;
    v->terms += op.terms;
    return 0;
}

static int make_on_host(ks_vectors *v, const ks_draw *draw, ks_ops *ops, ks_error *err)
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

/* --- the flush --- */

/* Hands over the combinations up to number `end`. What waits to be drawn may be theirs. */
static void send_combinations(ks_vectors *v, int end, ks_ops *ops)
{
    if (end <= v->sent)
        return;
    send_draws(v, ops);
    ops->lincomb(ops, v->combination + v->sent, end - v->sent);
    v->sent = end;
}

/* The combinations that must run before a step: all, but for a draw only those up to the last one
 * that touches what is drawn. */
static int needed_before(const ks_vectors *v, const ks_vector_step *step)
{
    int end = step->before;
    while (step->kind == KS_STEP_DRAW && end > v->sent &&
           !touches(&v->combination[end - 1], &step->draw))
        end--;
    return end;
}

static int run_step(ks_vectors *v, ks_vector_step *step, ks_ops *ops, ks_error *err)
{
    const ks_crop *c = &step->crop;
    if (step->kind == KS_STEP_DRAW && ks_lane_device_draws(step->draw.lane, &step->draw, ops))
        return add_draw(v, &step->draw, ops, err);
    send_draws(v, ops);
    switch (step->kind) {
    case KS_STEP_DRAW:
        return make_on_host(v, &step->draw, ops, err);
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
    for (int i = 0; i < v->steps; i++) {
        send_combinations(v, needed_before(v, &v->step[i]), ops);
        if (run_step(v, &v->step[i], ops, err))
            return -1;
    }
    send_draws(v, ops);
    send_combinations(v, v->combinations, ops);
    ks_vectors_drop(v);
    return 0;
}

void ks_vectors_drop(ks_vectors *v)
{
    v->combinations = v->steps = v->parts = v->noises = v->terms = v->sent = 0;
}

void ks_vectors_clear(ks_vectors *v)
{
    free(v->combination);
    free(v->step);
    free(v->part);
    free(v->noise);
    free(v->term);
    free(v->host);
    *v = (ks_vectors){0};
}
