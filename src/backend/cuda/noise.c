/* ops->noise: what the kernels must know of the operations, and the words of the CPU generator in slices that fit.
 *
 * The words of all draws go to the top of the stack of activations, which is free between two network calls. When they are
 * more than LARGEST, each draw is made in slices of as many blocks of 16 elements, and the generators' states wait in between. */
#include "backend/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

#include "backend/generators.h"
#include "kernels/noise.h"

enum { LARGEST = 112 << 20, STATE_BYTES = KS_NOISE_STATE * 4, MOST_OPS = 32768, WORDS_MARGIN = 32 };

/* The operations of a call as the kernels see them, and how their draws are cut. */
typedef struct plan {
    const ks_noise_op *given;
    int ops, terms, draws; /* draws: of the CPU generator */
    int64_t blocks;        /* of the largest draw of the CPU generator */
    int64_t slice;         /* blocks at a time */
    size_t words;          /* bytes for a slice's words of all draws */
    ks_cuda_draw *op;      /* host: behind one another, as they go to the device */
    ks_cuda_draw_term *term;
    ks_cuda_walk *draw;
    size_t described; /* bytes of all three */
} plan;

static int terms_of(const ks_noise_op *op)
{
    return op->terms > 0 ? op->terms : 1;
}

/* Blocks of 16 elements of a draw of the CPU generator, a ragged end being one more; 0 for others. */
static int64_t blocks_of(const ks_noise_op *op)
{
    return op->device.kind == KS_NOISE_CPU ? (op->n + KS_NORMAL_BLOCK - 1) / KS_NORMAL_BLOCK : 0;
}

/* Words that a slice of one draw takes at most: a last block's lie up to 16 further on. */
static int64_t room_of(const ks_noise_op *op, int64_t slice)
{
    int64_t blocks = blocks_of(op) < slice ? blocks_of(op) : slice;
    return blocks * KS_NORMAL_BLOCK + WORDS_MARGIN;
}

static size_t bytes_of_words(const plan *p, int64_t slice)
{
    size_t bytes = 0;
    for (int i = 0; i < p->ops; i++)
        if (blocks_of(&p->given[i]) > 0)
            bytes += (size_t)terms_of(&p->given[i]) * (size_t)room_of(&p->given[i], slice) * sizeof(uint32_t);
    return bytes;
}

/* Counts and cuts. */
static plan plan_of(const ks_noise_op *op, int count)
{
    plan p = {.given = op, .ops = count};
    for (int i = 0; i < count; i++) {
        int64_t blocks = blocks_of(&op[i]);
        p.terms += terms_of(&op[i]);
        p.draws += blocks > 0 ? terms_of(&op[i]) : 0;
        p.blocks = blocks > p.blocks ? blocks : p.blocks;
    }
    p.slice = p.blocks;
    while (bytes_of_words(&p, p.slice) > LARGEST && p.slice > 1)
        p.slice = (p.slice + 1) / 2;
    p.words = bytes_of_words(&p, p.slice);
    return p;
}

static bool fits(const ks_noise_op *op, int count)
{
    for (int i = 0; i < count; i++) {
        bool cuda = op[i].device.kind == KS_NOISE_CUDA;
        if (op[i].n < (cuda ? 1 : KS_NORMAL_BLOCK) || op[i].terms < 0 || (cuda && op[i].device.multiprocessors < 1))
            return false;
    }
    return true;
}

/* Host memory for the descriptions, kept from call to call. */
static bool take_descriptions(ks_cuda *c, plan *p)
{
    size_t ops = (size_t)p->ops * sizeof *p->op, terms = (size_t)p->terms * sizeof *p->term;
    p->described = ops + terms + (size_t)p->draws * sizeof *p->draw;
    if (c->noise_bytes < p->described) {
        char *grown = realloc(c->noise, 2 * p->described);
        if (!grown) {
            ks_cuda_fail(c, "cuda backend: no memory for the descriptions of %d draws", p->terms);
            return false;
        }
        c->noise = grown;
        c->noise_bytes = 2 * p->described;
    }
    p->op = (ks_cuda_draw *)(void *)c->noise;
    p->term = (ks_cuda_draw_term *)(void *)(c->noise + ops);
    p->draw = (ks_cuda_walk *)(void *)(c->noise + ops + terms);
    return true;
}

/* Blocks [first, first + blocks) of a draw in the slice that begins with block `first`. */
static int64_t blocks_in(const plan *p, const ks_noise_op *op, int64_t first)
{
    int64_t left = blocks_of(op) - first;
    return left < 0 ? 0 : left < p->slice ? left : p->slice;
}

/* Words of the slice: all that are left for its last block. */
static int64_t words_in(const plan *p, const ks_noise_op *op, int64_t first)
{
    int64_t blocks = blocks_in(p, op, first);
    if (first + blocks < blocks_of(op) || blocks == 0)
        return blocks * KS_NORMAL_BLOCK;
    int64_t all = op->n + (op->n % KS_NORMAL_BLOCK ? KS_NORMAL_BLOCK : 0);
    return all - first * KS_NORMAL_BLOCK;
}

static void describe_op(const plan *p, const ks_noise_op *op, int64_t first, ks_cuda_draw *to)
{
    *to = (ks_cuda_draw){.out = op->out,
                          .base = op->base,
                          .n = op->n,
                          .scale = op->scale,
                          .base_coef = op->base_coef,
                          .terms = terms_of(op),
                          .whole = op->terms == 0};
    if (op->device.kind == KS_NOISE_CPU) {
        to->first = first * (KS_NORMAL_BLOCK / 2);
        to->pairs = blocks_in(p, op, first) * (KS_NORMAL_BLOCK / 2);
        return;
    }
    to->threads = ks_philox_grid(op->n, op->device.multiprocessors);
    to->block = op->terms == 0 ? (uint64_t)op->skip : 0;
    to->pairs = first > 0 ? 0 : (op->n + 2 * to->threads - 1) / (2 * to->threads) * to->threads;
}

/* Term k of an operation: its draw's place, and for the CPU generator what makes its words at `words`. */
static void describe_term(const plan *p, const ks_noise_op *op, int k, int64_t first, uint32_t *words, uint32_t *state,
                          ks_cuda_draw_term *term, ks_cuda_walk *draw)
{
    bool whole = op->terms == 0, cpu = op->device.kind == KS_NOISE_CPU;
    *term = (ks_cuda_draw_term){.seed = whole ? op->seed : op->term[k].seed, .words = cpu ? words : NULL};
    if (!whole) {
        term->plus = op->term[k].plus;
        term->minus = op->term[k].minus;
    }
    if (!cpu)
        return;
    *draw = (ks_cuda_walk){.out = words,
                            .state = whole && op->state ? op->state : state,
                            .count = words_in(p, op, first),
                            .skip = whole && first == 0 ? op->skip : 0,
                            .seed = (uint32_t)term->seed,
                            .fresh = first == 0 && (!whole || !op->state || op->fresh)};
}

/* The descriptions of the slice from block `first` on; returns the largest number of pairs. states: NULL when one slice is
 * all. */
static int64_t describe(const plan *p, int64_t first, uint32_t *words, uint32_t *states)
{
    ks_cuda_draw_term *term = p->term;
    ks_cuda_walk *draw = p->draw;
    int64_t most = 0;
    for (int i = 0; i < p->ops; i++) {
        const ks_noise_op *op = &p->given[i];
        describe_op(p, op, first, &p->op[i]);
        p->op[i].terms_at = (int32_t)(term - p->term);
        most = p->op[i].pairs > most ? p->op[i].pairs : most;
        for (int k = 0; k < terms_of(op); k++, term++) {
            uint32_t *state = states ? states + (draw - p->draw) * KS_NOISE_STATE : NULL;
            describe_term(p, op, k, first, words, state, term, draw);
            if (op->device.kind != KS_NOISE_CPU)
                continue;
            words += room_of(op, p->slice);
            draw++;
        }
    }
    return most;
}

/* place: device memory for the descriptions. */
static void run_slice(ks_cuda *c, const plan *p, int64_t first, uint32_t *words, uint32_t *states, ks_cuda_draw *place)
{
    int64_t most = describe(p, first, words, states);
    const ks_cuda_draw_term *term = (ks_cuda_draw_term *)(void *)(place + p->ops);
    const ks_cuda_walk *draw = (const ks_cuda_walk *)(const void *)(term + p->terms);
    ks_cuda_upload(&c->ops, place, p->op, p->described);
    if (!c->failed && KS_CUDA_CALL(c, ks_cuda_draw_words(c->stream, draw, p->draws)))
        KS_CUDA_CALL(c, ks_cuda_draw_sums(c->stream, place, p->ops, term, most));
}

static void run_plan(ks_cuda *c, plan *p)
{
    size_t mark = c->ops.mark(&c->ops);
    bool cut = p->slice < p->blocks;
    uint32_t *words = p->draws > 0 ? ks_cuda_take(c, p->words) : NULL;
    uint32_t *states = cut ? ks_cuda_take(c, (size_t)p->draws * STATE_BYTES) : NULL;
    ks_cuda_draw *place = take_descriptions(c, p) ? ks_cuda_take(c, p->described) : NULL;
    int64_t first = 0;
    do {
        if (!c->failed)
            run_slice(c, p, first, words, states, place);
        first += p->slice;
    } while (first < p->blocks);
    c->ops.unwind(&c->ops, mark);
}

void ks_cuda_noise(ks_ops *ops, const ks_noise_op *op, int count)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    for (int at = 0, some; at < count; at += some) {
        some = count - at < MOST_OPS ? count - at : MOST_OPS;
        if (!ks_cuda_runs(c, fits(op + at, some), "noise", none, none))
            return;
        plan p = plan_of(op + at, some);
        run_plan(c, &p);
    }
}
