/* Attention in tiles of queries by blocks of keys, with the softmax's largest value and sum carried
 * from block to block (Milakov and Gimelshein 2018, arXiv 1805.02867), so that scratch does not
 * grow with the number of tokens. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

enum { QUERIES = 128, KEYS = 512 };

typedef struct attention_job {
    ks_cpu *cpu;
    ks_act y, q, k, v;
    ks_attention how;
    int width, query_tiles;
} attention_job;

/* One tile's softmax on its way through the keys. */
typedef struct tile {
    const attention_job *job;
    int row, kv_row, head, first, queries;
    int keys;                     /* that any query of the tile sees */
    float *score, *largest, *sum; /* [queries][KEYS], [queries], [queries] */
} tile;

static int least(int a, int b)
{
    return a < b ? a : b;
}

static tile tile_of(const attention_job *j, int index, float *scratch)
{
    int rest = index / j->query_tiles, tokens = (int)ks_cpu_pixels(j->q);
    tile t = {.job = j, .head = rest % j->how.heads, .row = rest / j->how.heads};
    t.first = index % j->query_tiles * QUERIES;
    t.queries = least(QUERIES, tokens - t.first);
    t.kv_row = j->how.kv_row ? j->how.kv_row[t.row] : t.row;
    t.keys = j->how.kv_len ? j->how.kv_len[t.kv_row] : (int)ks_cpu_pixels(j->k);
    if (j->how.causal)
        t.keys = least(t.keys, t.first + t.queries);
    t.score = scratch;
    t.largest = scratch + (int64_t)QUERIES * KEYS;
    t.sum = t.largest + QUERIES;
    return t;
}

/* Scores of query i against `seen` of the block's keys become weights; y, holding the blocks
 * before, is scaled to the new largest score. */
static void soften(const tile *t, int i, int keys, int seen, float *y)
{
    const ks_vector *v = t->job->cpu->vector;
    float *score = t->score + (int64_t)i * keys;
    memset(score + seen, 0, (size_t)(keys - seen) * sizeof *score);
    if (seen == 0)
        return;
    float before = t->largest[i], largest = v->max(score, seen);
    if (largest > before)
        t->largest[i] = largest;
    float sum = v->exp_sum(score, seen, t->largest[i]);
    if (before > -INFINITY && largest > before) {
        float factor = expf(before - largest);
        t->sum[i] *= factor;
        v->scale(y, t->job->width, factor);
    }
    t->sum[i] += sum;
}

/* Keys [key, key + keys) of a tile. */
static void attend_block(const tile *t, int key, int keys)
{
    const attention_job *j = t->job;
    const int64_t channel = (int64_t)t->head * j->width;
    const float *q = ks_cpu_at(j->q, t->row, t->first) + channel;
    const float *k = ks_cpu_at(j->k, t->kv_row, key) + channel;
    const float *v = ks_cpu_at(j->v, t->kv_row, key) + channel;
    float *y = ks_cpu_at(j->y, t->row, t->first) + channel;
    ks_cpu_gemm(t->queries, keys, j->width, (float)(1.0 / sqrt(j->width)), q, j->q.stride, k,
                j->k.stride, true, 0.0f, t->score, keys);
    for (int i = 0; i < t->queries; i++) {
        int seen = j->how.causal ? least(keys, t->first + i + 1 - key) : keys;
        soften(t, i, keys, seen > 0 ? seen : 0, y + i * j->y.stride);
    }
    ks_cpu_gemm(t->queries, j->width, keys, 1.0f, t->score, keys, v, j->v.stride, false,
                key > 0 ? 1.0f : 0.0f, y, j->y.stride);
}

static void attention_task(void *arg, int index, int worker)
{
    const attention_job *j = arg;
    tile t = tile_of(j, index, ks_cpu_worker_scratch(j->cpu, worker));
    float *y = ks_cpu_at(j->y, t.row, t.first) + (int64_t)t.head * j->width;
    for (int i = 0; i < t.queries; i++) {
        t.largest[i] = -INFINITY;
        t.sum[i] = 0.0f;
    }
    for (int key = 0; key < t.keys; key += KEYS)
        attend_block(&t, key, least(KEYS, t.keys - key));
    for (int i = 0; i < t.queries; i++, y += j->y.stride)
        if (t.keys > 0)
            j->cpu->vector->scale(y, j->width, 1.0f / t.sum[i]);
        else
            memset(y, 0, (size_t)j->width * sizeof *y);
}

/* Every row of k and v that is asked for must be there. */
static bool rows_exist(const attention_job *j)
{
    if (!j->how.kv_row && j->k.n < j->q.n)
        return false;
    for (int i = 0; j->how.kv_row && i < j->q.n; i++)
        if (j->how.kv_row[i] < 0 || j->how.kv_row[i] >= j->k.n)
            return false;
    for (int i = 0; j->how.kv_len && i < j->k.n; i++)
        if (j->how.kv_len[i] < 0 || j->how.kv_len[i] > ks_cpu_pixels(j->k))
            return false;
    return true;
}

void ks_cpu_attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v, const ks_attention *how)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    attention_job j = {.cpu = cpu, .y = y, .q = q, .k = k, .v = v, .how = *how};
    bool fits = y.n == q.n && ks_cpu_pixels(y) == ks_cpu_pixels(q) && ks_cpu_same_shape(k, v) &&
                y.c == q.c && k.c == q.c && how->heads > 0 && q.c % how->heads == 0 &&
                rows_exist(&j);
    if (!ks_cpu_runs(cpu, fits, "attention", y, q))
        return;
    j.width = q.c / how->heads;
    j.query_tiles = (int)((ks_cpu_pixels(q) + QUERIES - 1) / QUERIES);
    if (ks_cpu_need_scratch(cpu, (int64_t)QUERIES * (KEYS + 2)) == 0)
        ks_threads_run(cpu->pool, q.n * how->heads * j.query_tiles, attention_task, &j);
}
