#include "checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"

typedef struct tensor {
    char *name;
    char dtype[12];
    int rank;
    int64_t shape[8];
} tensor;

struct checkpoint {
    tensor *tensors;
    int count, room;
};

checkpoint *checkpoint_new(void)
{
    return ks_calloc(1, sizeof(checkpoint));
}

void checkpoint_free(checkpoint *c)
{
    for (int i = 0; i < c->count; i++)
        free(c->tensors[i].name);
    free(c->tensors);
    free(c);
}

static void set_shape(tensor *t, int rank, const int64_t *shape)
{
    t->rank = rank;
    for (int i = 0; i < rank; i++)
        t->shape[i] = shape[i];
}

void checkpoint_add(checkpoint *c, const char *dtype, const char *name, int rank,
                    const int64_t *shape)
{
    if (c->count == c->room) {
        c->room = c->room ? 2 * c->room : 64;
        c->tensors = ks_realloc(c->tensors, (size_t)c->room, sizeof *c->tensors);
    }
    tensor *t = &c->tensors[c->count++];
    *t = (tensor){.name = ks_strdup(name)};
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
    set_shape(t, rank, shape);
}

static tensor *find(checkpoint *c, const char *name)
{
    for (int i = 0; i < c->count; i++)
        if (strcmp(c->tensors[i].name, name) == 0)
            return &c->tensors[i];
    fail_msg("the test's checkpoint has no tensor %s", name);
    return NULL;
}

void checkpoint_remove(checkpoint *c, const char *name)
{
    tensor *t = find(c, name);
    free(t->name);
    memmove(t, t + 1, (size_t)(c->tensors + c->count - (t + 1)) * sizeof *t);
    c->count--;
}

void checkpoint_reshape(checkpoint *c, const char *name, int rank, const int64_t *shape)
{
    set_shape(find(c, name), rank, shape);
}

void checkpoint_retype(checkpoint *c, const char *name, const char *dtype)
{
    tensor *t = find(c, name);
    snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
}

void checkpoint_shape(checkpoint *c, const char *name, int *rank, int64_t shape[8])
{
    const tensor *t = find(c, name);
    *rank = t->rank;
    memcpy(shape, t->shape, sizeof t->shape);
}

int checkpoint_count(const checkpoint *c)
{
    return c->count;
}

const char *checkpoint_name(const checkpoint *c, int index)
{
    return c->tensors[index].name;
}

/* --- writing --- */

static uint64_t bytes_of(const tensor *t)
{
    static const struct {
        const char *dtype;
        uint64_t bytes;
    } sizes[] = {{"F64", 8}, {"I64", 8}, {"F32", 4}, {"I32", 4}, {"F16", 2}, {"BF16", 2}};
    uint64_t bytes = 1; /* U8, F8_*, BOOL */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (strcmp(sizes[i].dtype, t->dtype) == 0)
            bytes = sizes[i].bytes;
    for (int i = 0; i < t->rank; i++)
        bytes *= (uint64_t)t->shape[i];
    return bytes;
}

/* The header's text; the data's bytes to *data. */
static char *header_of(const checkpoint *c, uint64_t *data)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    assert_non_null(out);
    *data = 0;
    fputc('{', out);
    for (int i = 0; i < c->count; i++) {
        const tensor *t = &c->tensors[i];
        fprintf(out, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", t->name, t->dtype);
        for (int k = 0; k < t->rank; k++)
            fprintf(out, "%s%lld", k ? "," : "", (long long)t->shape[k]);
        fprintf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*data,
                (unsigned long long)(*data + bytes_of(t)));
        *data += bytes_of(t);
    }
    fputc('}', out);
    fclose(out);
    return text;
}

void checkpoint_write(const checkpoint *c, const char *path)
{
    uint64_t data;
    char *header = header_of(c, &data);
    uint64_t length = strlen(header);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int i = 0; i < 8; i++)
        fputc((int)(length >> (8 * i) & 255), f);
    fputs(header, f);
    fflush(f);
    assert_int_equal(ftruncate(fileno(f), (off_t)(8 + length + data)), 0);
    fclose(f);
    free(header);
}

void write_bytes(const char *path, const void *bytes, uint64_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

/* --- networks --- */

/* Adds tensors whose names share a beginning. */
typedef struct adder {
    checkpoint *c;
    const char *dtype;
    char base[160];
} adder;

/* a, with its base longer by the formatted text. */
__attribute__((format(printf, 2, 3))) static adder at(adder a, const char *format, ...)
{
    size_t used = strlen(a.base);
    va_list args;
    va_start(args, format);
    vsnprintf(a.base + used, sizeof a.base - used, format, args);
    va_end(args);
    return a;
}

static void add(adder a, int rank, int64_t n0, int64_t n1, int64_t n2, int64_t n3)
{
    checkpoint_add(a.c, a.dtype, a.base, rank, (int64_t[]){n0, n1, n2, n3});
}

static void norm(adder a, int width)
{
    add(at(a, ".weight"), 1, width, 0, 0, 0);
    add(at(a, ".bias"), 1, width, 0, 0, 0);
}

static void linear(adder a, int out, int in)
{
    add(at(a, ".weight"), 2, out, in, 0, 0);
    add(at(a, ".bias"), 1, out, 0, 0, 0);
}

static void conv(adder a, int out, int in, int side)
{
    add(at(a, ".weight"), 4, out, in, side, side);
    add(at(a, ".bias"), 1, out, 0, 0, 0);
}

static void resblock(adder a, int in, int out, int embedding)
{
    norm(at(a, "in_layers.0"), in);
    conv(at(a, "in_layers.2"), out, in, 3);
    linear(at(a, "emb_layers.1"), out, embedding);
    norm(at(a, "out_layers.0"), out);
    conv(at(a, "out_layers.3"), out, out, 3);
    if (in != out)
        conv(at(a, "skip_connection"), out, in, 1);
}

static void attention(adder a, int width, int context)
{
    add(at(a, "to_q.weight"), 2, width, width, 0, 0);
    add(at(a, "to_k.weight"), 2, width, context, 0, 0);
    add(at(a, "to_v.weight"), 2, width, context, 0, 0);
    linear(at(a, "to_out.0"), width, width);
}

static void transformer(adder a, const checkpoint_unet *u, int width, int depth)
{
    norm(at(a, "norm"), width);
    for (int i = 0; i < 2; i++) {
        if (u->linear)
            linear(at(a, i ? "proj_out" : "proj_in"), width, width);
        else
            conv(at(a, i ? "proj_out" : "proj_in"), width, width, 1);
    }
    for (int d = 0; d < depth; d++) {
        adder b = at(a, "transformer_blocks.%d.", d);
        attention(at(b, "attn1."), width, width);
        attention(at(b, "attn2."), width, u->context);
        linear(at(b, "ff.net.0.proj"), 8 * width, width);
        linear(at(b, "ff.net.2"), width, 4 * width);
        norm(at(b, "norm1"), width);
        norm(at(b, "norm2"), width);
        norm(at(b, "norm3"), width);
    }
}

void checkpoint_add_unet(checkpoint *c, const char *dtype, const checkpoint_unet *u)
{
    adder a = {.c = c, .dtype = dtype};
    a = at(a, "%s", u->prefix);
    int embedding = 4 * u->width, width = u->width, skip[64], skips = 0, index = 1;
    linear(at(a, "time_embed.0"), embedding, u->width);
    linear(at(a, "time_embed.2"), embedding, embedding);
    if (u->vector) {
        linear(at(a, "label_emb.0.0"), embedding, u->vector);
        linear(at(a, "label_emb.0.2"), embedding, embedding);
    }
    conv(at(a, "input_blocks.0.0"), width, u->in, 3);
    skip[skips++] = width;
    for (int level = 0; level < u->levels; level++) {
        for (int b = 0; b < u->blocks; b++, index++) {
            resblock(at(a, "input_blocks.%d.0.", index), width, u->mult[level] * u->width,
                     embedding);
            skip[skips++] = width = u->mult[level] * u->width;
            if (u->depth[level])
                transformer(at(a, "input_blocks.%d.1.", index), u, width, u->depth[level]);
        }
        if (level + 1 < u->levels) {
            conv(at(a, "input_blocks.%d.0.op", index++), width, width, 3);
            skip[skips++] = width;
        }
    }
    resblock(at(a, "middle_block.0."), width, width, embedding);
    if (u->depth_middle > 0) {
        transformer(at(a, "middle_block.1."), u, width, u->depth_middle);
        resblock(at(a, "middle_block.2."), width, width, embedding);
    }
    index = 0;
    for (int level = u->levels - 1; level >= 0; level--)
        for (int b = 0; b <= u->blocks; b++, index++) {
            int out = u->mult[level] * u->width, module = 1;
            resblock(at(a, "output_blocks.%d.0.", index), width + skip[--skips], out, embedding);
            width = out;
            if (u->depth[level])
                transformer(at(a, "output_blocks.%d.%d.", index, module++), u, width,
                            u->depth[level]);
            if (level && b == u->blocks)
                conv(at(a, "output_blocks.%d.%d.conv", index, module), width, width, 3);
        }
    norm(at(a, "out.0"), width);
    conv(at(a, "out.2"), u->out, width, 3);
}

void checkpoint_add_clip(checkpoint *c, const char *dtype, const char *prefix, int vocab, int width,
                         int layers)
{
    adder a = {.c = c, .dtype = dtype};
    a = at(a, "%s", prefix);
    add(at(a, "embeddings.token_embedding.weight"), 2, vocab, width, 0, 0);
    add(at(a, "embeddings.position_embedding.weight"), 2, 77, width, 0, 0);
    checkpoint_add(c, "I64", at(a, "embeddings.position_ids").base, 2, (int64_t[]){1, 77});
    for (int i = 0; i < layers; i++) {
        adder l = at(a, "encoder.layers.%d.", i);
        static const char *const projections[] = {"q_proj", "k_proj", "v_proj", "out_proj"};
        for (int p = 0; p < 4; p++)
            linear(at(l, "self_attn.%s", projections[p]), width, width);
        norm(at(l, "layer_norm1"), width);
        norm(at(l, "layer_norm2"), width);
        linear(at(l, "mlp.fc1"), 4 * width, width);
        linear(at(l, "mlp.fc2"), width, 4 * width);
    }
    norm(at(a, "final_layer_norm"), width);
}

static void vae_resblock(adder a, int in, int out)
{
    norm(at(a, "norm1"), in);
    conv(at(a, "conv1"), out, in, 3);
    norm(at(a, "norm2"), out);
    conv(at(a, "conv2"), out, out, 3);
    if (in != out)
        conv(at(a, "nin_shortcut"), out, in, 1);
}

void checkpoint_add_vae(checkpoint *c, const char *dtype, int width)
{
    static const int mult[] = {1, 2, 4, 4};
    adder a = {.c = c, .dtype = dtype, .base = "first_stage_model."};
    int top = 4 * width, channels = top;
    conv(at(a, "post_quant_conv"), 4, 4, 1);
    a = at(a, "decoder.");
    conv(at(a, "conv_in"), top, 4, 3);
    vae_resblock(at(a, "mid.block_1."), top, top);
    norm(at(a, "mid.attn_1.norm"), top);
    for (int i = 0; i < 4; i++)
        conv(at(a, "mid.attn_1.%s", (const char *const[]){"q", "k", "v", "proj_out"}[i]), top, top,
             1);
    vae_resblock(at(a, "mid.block_2."), top, top);
    for (int level = 3; level >= 0; level--) {
        for (int b = 0; b < 3; b++) {
            vae_resblock(at(a, "up.%d.block.%d.", level, b), channels, mult[level] * width);
            channels = mult[level] * width;
        }
        if (level)
            conv(at(a, "up.%d.upsample.conv", level), channels, channels, 3);
    }
    norm(at(a, "norm_out"), channels);
    conv(at(a, "conv_out"), 3, channels, 3);
}
