#include "model/split.h"

#include <stdio.h>
#include <string.h>

#include "model/unet.h"

/* --- shares of tensors --- */

/* Elements of one step along an axis. */
static int64_t step_of(const ks_view *v, int axis)
{
    int64_t elements = 1;
    for (int i = axis + 1; i < v->rank; i++)
        elements *= v->shape[i];
    return elements;
}

ks_view ks_split_rows(ks_split s, const ks_view *v)
{
    ks_view share = *v;
    share.shape[0] = v->shape[0] / s.parts;
    size_t bytes = (size_t)(share.shape[0] * step_of(v, 0)) * ks_dtype_size(v->dtype);
    share.data = (const char *)v->data + (size_t)s.part * bytes;
    return share;
}

ks_view ks_split_columns(ks_split s, const ks_view *v, void *memory)
{
    ks_view share = *v;
    share.shape[1] = v->shape[1] / s.parts;
    share.data = memory;
    const size_t element = ks_dtype_size(v->dtype);
    const size_t row = (size_t)step_of(v, 0) * element, taken = (size_t)step_of(&share, 0) * element;
    const char *from = (const char *)v->data + (size_t)s.part * taken;
    for (int64_t i = 0; i < v->shape[0]; i++)
        memcpy((char *)memory + (size_t)i * taken, from + (size_t)i * row, taken);
    return share;
}

/* --- what fits --- */

static int greatest_divisor(int a, int b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

/* "4 or 8", "2"; nothing where only the whole would do. */
static void list_parts(int common, char *text, size_t size)
{
    int count = 0, last = 0;
    *text = '\0';
    for (int parts = 2; parts <= common; parts++)
        if (common % parts == 0)
            last = parts;
    for (int parts = 2; parts <= common; parts++) {
        if (common % parts != 0)
            continue;
        size_t n = strlen(text);
        snprintf(text + n, size - n, "%s%d", count == 0 ? "" : parts == last ? " or " : ", ", parts);
        count++;
    }
}

/* The different numbers of heads of a network's attention, "10 and 20", and their greatest common divisor (0: no attention). */
static int list_heads(const ks_unet_config *c, char *text, size_t size)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    const int count = ks_unet_stages(c, stage);
    int heads[KS_UNET_STAGES], kinds = 0, common = 0;
    for (int i = 0; i < count; i++) {
        int k = 0, h = stage[i].transformer ? ks_unet_heads(c, stage[i].out) : 0;
        while (k < kinds && heads[k] != h)
            k++;
        if (h == 0 || k < kinds)
            continue;
        heads[kinds++] = h;
        common = greatest_divisor(h, common);
    }
    *text = '\0';
    for (int k = 0; k < kinds; k++) {
        size_t n = strlen(text);
        snprintf(text + n, size - n, "%s%d", k == 0 ? "" : k + 1 == kinds ? " and " : ", ", heads[k]);
    }
    return common;
}

int ks_unet_split_fits(const ks_unet_config *c, int parts, ks_error *err)
{
    char heads[128], fitting[128];
    int common = list_heads(c, heads, sizeof heads);
    int all = greatest_divisor(KS_GROUPS, common);
    if (parts > 0 && all % parts == 0)
        return 0;
    list_parts(all, fitting, sizeof fitting);
    const char *which = common ? ", its attention " : "", *number = common ? heads : "", *unit = common ? " heads" : "";
    if (*fitting)
        return ks_error_set(err, "the network's norms have %d groups%s%s%s: it cannot be split into %d parts, but into %s", KS_GROUPS,
                            which, number, unit, parts, fitting);
    return ks_error_set(err, "the network's norms have %d groups%s%s%s: it cannot be split at all", KS_GROUPS, which, number, unit);
}

/* --- what a part holds --- */

/* Parameters of a network: those that all parts hold, those that they share, and biases that the first alone holds. */
typedef struct holding {
    double all, shared, first;
} holding;

static void count_resblock(holding *h, double in, double out, double embedding)
{
    h->all += 2 * in;
    h->shared += 9 * in * out + out + embedding * out + out + 2 * out + 9 * out * out;
    h->first += out;
    if (in != out) {
        h->shared += in * out;
        h->first += out;
    }
}

static void count_transformer(holding *h, double c, double depth, double context)
{
    h->all += 2 * c + 2 * (c * c + c) + depth * 6 * c;
    h->shared += depth * (6 * c * c + 2 * context * c + 12 * c * c + 8 * c);
    h->first += depth * 3 * c;
}

static void count_stage(holding *h, const ks_unet_config *c, const ks_unet_stage *s)
{
    for (int i = 0; i < s->resblocks; i++)
        count_resblock(h, i ? s->out : s->in, s->out, 4.0 * c->model_channels);
    if (s->transformer)
        count_transformer(h, s->out, s->depth, c->context_dim);
    if (s->conv_in)
        h->all += 9.0 * s->in * s->out + s->out;
    else if (s->down || s->up)
        h->all += 9.0 * s->out * s->out + s->out;
}

double ks_unet_weight_share(const ks_unet_config *c, int parts)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    const int count = ks_unet_stages(c, stage);
    const double width = c->model_channels, embedding = 4 * width, last = stage[count - 1].out;
    holding h = {0};
    for (int i = 0; i < count; i++)
        count_stage(&h, c, &stage[i]);
    h.all += width * embedding + embedding + embedding * embedding + embedding;
    if (c->adm_channels > 0)
        h.all += c->adm_channels * embedding + embedding + embedding * embedding + embedding;
    h.all += 2 * last + 9 * last * c->out_channels + c->out_channels;
    return (h.all + h.shared / parts + h.first) / (h.all + h.shared + h.first);
}
