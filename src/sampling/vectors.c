#include "sampling/vectors.h"

#include <stdlib.h>

#include "base/file.h"
#include "sampling/lane.h"

ks_lincomb_op *ks_vectors_combine(ks_vectors *v, float *out, int64_t n)
{
    if (v->combinations == v->combination_room) {
        v->combination_room = v->combination_room ? 2 * v->combination_room : 64;
        v->combination = ks_realloc(v->combination, (size_t)v->combination_room, sizeof *v->combination);
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

void ks_vectors_draw(ks_vectors *v, ks_draw draw)
{
    if (v->draws == v->draw_room) {
        v->draw_room = v->draw_room ? 2 * v->draw_room : 16;
        v->draw = ks_realloc(v->draw, (size_t)v->draw_room, sizeof *v->draw);
    }
    draw.before = v->combinations;
    v->draw[v->draws++] = draw;
}

/* Whether op touches out: combinations that do must run before out is drawn anew, others may wait. */
static bool touches(const ks_lincomb_op *op, const float *out)
{
    for (int t = 0; t < op->terms; t++)
        if (op->in[t] == out)
            return true;
    return op->out == out;
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

int ks_vectors_flush(ks_vectors *v, ks_ops *ops, ks_error *err)
{
    int sent = 0;
    for (int i = 0; i < v->draws; i++) {
        const ks_draw *draw = &v->draw[i];
        int last = draw->before - 1;
        while (last >= sent && !touches(&v->combination[last], draw->out))
            last--;
        if (last >= sent)
            ops->lincomb(ops, v->combination + sent, last + 1 - sent);
        sent = last >= sent ? last + 1 : sent;
        if (make_noise(v, draw, ops, err))
            return -1;
    }
    if (v->combinations > sent)
        ops->lincomb(ops, v->combination + sent, v->combinations - sent);
    ks_vectors_drop(v);
    return 0;
}

void ks_vectors_drop(ks_vectors *v)
{
    v->combinations = v->draws = 0;
}

void ks_vectors_clear(ks_vectors *v)
{
    free(v->combination);
    free(v->draw);
    free(v->host);
    *v = (ks_vectors){0};
}
