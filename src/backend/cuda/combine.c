#include "backend/cuda/combine.h"

#include <string.h>

typedef enum relation { APART, SAME, SHIFTED } relation;

/* How the n floats at a lie to the m floats at b. */
static relation relation_of(const float *a, int64_t n, const float *b, int64_t m)
{
    if (a == b)
        return SAME;
    const uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;
    bool overlap = x < y + (uintptr_t)m * sizeof *b && y < x + (uintptr_t)n * sizeof *a;
    return overlap ? SHIFTED : APART;
}

/* How op a, which comes first, lies to op b: one's output to the other's arrays. */
static relation dependence(const ks_lincomb_op *a, const ks_lincomb_op *b)
{
    relation worst = relation_of(a->out, a->n, b->out, b->n);
    for (int t = 0; t < b->terms && worst != SHIFTED; t++) {
        relation r = relation_of(a->out, a->n, b->in[t], b->n);
        worst = r > worst ? r : worst;
    }
    for (int t = 0; t < a->terms && worst != SHIFTED; t++) {
        relation r = relation_of(a->in[t], a->n, b->out, b->n);
        worst = r > worst ? r : worst;
    }
    return worst;
}

/* Puts op k into the chain of each earlier op it depends on, joining them; chain[i] is the first op
 * of i's chain. false: it must wait for another launch. */
static bool join(const ks_lincomb_op *op, int k, int *chain)
{
    bool with[KS_CUDA_COMBINE] = {false};
    int first = k;
    for (int i = 0; i < k; i++) {
        relation r = dependence(&op[i], &op[k]);
        if (r == SHIFTED)
            return false;
        if (r == SAME) {
            with[chain[i]] = true;
            first = chain[i] < first ? chain[i] : first;
        }
    }
    chain[k] = first;
    for (int i = 0; i < k; i++)
        if (with[chain[i]])
            chain[i] = first;
    return true;
}

int ks_cuda_chains(const ks_lincomb_op *op, int count, ks_lincomb_op *sorted, ks_cuda_chain *chain,
                   int *chains, int64_t *longest)
{
    int member[KS_CUDA_COMBINE], taken = 0, placed = 0;
    while (taken < count && taken < KS_CUDA_COMBINE && join(op, taken, member))
        taken++;
    *chains = 0;
    *longest = 0;
    for (int first = 0; first < taken; first++) {
        if (member[first] != first)
            continue;
        ks_cuda_chain *c = &chain[(*chains)++];
        *c = (ks_cuda_chain){.first = placed};
        for (int i = first; i < taken; i++) {
            if (member[i] != first)
                continue;
            sorted[placed++] = op[i];
            c->count++;
            c->n = op[i].n > c->n ? op[i].n : c->n;
        }
        *longest = c->n > *longest ? c->n : *longest;
    }
    return taken;
}
