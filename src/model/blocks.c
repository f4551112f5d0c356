/* Residual blocks. */
#include "model/blocks.h"

#include <string.h>

ks_act ks_act_on(void *data, int n, int h, int w, int c)
{
    return (ks_act){.data = data, .n = n, .h = h, .w = w, .c = c, .stride = c};
}

ks_act ks_act_slice(ks_act a, int first, int c, size_t element)
{
    if (a.data)
        a.data = (char *)a.data + (size_t)first * element;
    a.c = c;
    return a;
}

size_t ks_element_size(const ks_ops *ops)
{
    return strcmp(ops->precision, "fp32") == 0 ? 4 : 2;
}

void ks_release(ks_ops *ops, void *memory)
{
    if (memory)
        ops->release(ops, memory);
}

void ks_resblock_load(ks_resblock *r, ks_loader *l, const char *base,
                      const ks_resblock_names *names, int in, int out, float eps)
{
    *r = (ks_resblock){.in = in, .out = out, .split = l->split, .eps = eps};
    r->norm1 = ks_load_norm(l, ks_join(base, "%s", names->norm1).text, in);
    r->conv1 = ks_load_conv_share(l, KS_SHARE_OUTPUTS, ks_join(base, "%s", names->conv1).text, in,
                                  out, 3);
    r->norm2 = ks_load_norm_share(l, KS_SHARE_OUTPUTS, ks_join(base, "%s", names->norm2).text, out);
    r->conv2 = ks_load_conv_share(l, KS_SHARE_INPUTS, ks_join(base, "%s", names->conv2).text, out,
                                  out, 3);
    if (in != out)
        r->shortcut = ks_load_linear_share(l, KS_SHARE_INPUTS,
                                           ks_join(base, "%s", names->shortcut).text, in, out, true);
}

void ks_resblock_run(const ks_resblock *r, ks_ops *ops, ks_act y, ks_act x, ks_act time)
{
    size_t mark = ops->mark(ops);
    const int parts = r->split.parts, share = r->in / parts;
    ks_act normed = ops->act(ops, x.n, x.h, x.w, r->in);
    ks_act hidden = ops->act(ops, x.n, x.h, x.w, r->out / parts);
    ks_conv first = {.stride = 1, .pad = 1, .row_bias = time};
    ks_conv second = {.stride = 1, .pad = 1, .residual = ks_split_residual(r->split, x)};
    ops->group_norm(ops, normed, x, r->norm1, KS_GROUPS, r->eps, true);
    ops->conv(ops, hidden, normed, r->conv1, &first);
    ops->group_norm(ops, hidden, hidden, r->norm2, KS_GROUPS / parts, r->eps, true);
    if (r->shortcut) {
        ks_act taken = ks_act_slice(x, r->split.part * share, share, ks_element_size(ops));
        ops->linear(ops, y, taken, r->shortcut, KS_ACT_NONE, (ks_act){0});
        second.residual = y;
    }
    ops->conv(ops, y, hidden, r->conv2, &second);
    ks_split_sum(r->split, ops, y);
    ops->unwind(ops, mark);
}
