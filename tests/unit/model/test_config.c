#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/config.h"
#include "support/checkpoint.h"

#define DEMO TEST_ROOT "/jobs/demo/shapes-fp16.safetensors"
#define SD15 TEST_DATA "/tiny-sd15.safetensors"
#define SDXL TEST_DATA "/tiny-sdxl.safetensors"

static char folder[] = "/tmp/ksweep-test-config-XXXXXX";
static char path[sizeof folder + 16], json[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    snprintf(json, sizeof json, "%s/m.json", folder);
    return 0;
}

static int remove_files(void **state)
{
    (void)state;
    unlink(path);
    unlink(json);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

static void write_json(const char *text)
{
    write_bytes(json, text, strlen(text));
}

static int detect(const char *file, ks_model_config *config, ks_error *err)
{
    *err = KS_ERROR_NONE;
    ks_safetensors *st = ks_safetensors_open(file, err);
    if (!st)
        return -1;
    int status = ks_model_detect(st, config, err);
    ks_safetensors_close(st);
    return status;
}

static ks_model_config detected(const char *file)
{
    ks_model_config config;
    ks_error err;
    if (detect(file, &config, &err) != 0)
        fail_msg("%s", err.text);
    return config;
}

/* Writes c and detects it. */
static ks_model_config detected_from(const checkpoint *c)
{
    checkpoint_write(c, path);
    return detected(path);
}

/* m.safetensors is refused, and the message says this behind the folder's name. */
static void assert_refused(const char *message)
{
    ks_model_config config;
    ks_error err;
    assert_int_equal(detect(path, &config, &err), -1);
    assert_memory_equal(err.text, folder, strlen(folder));
    assert_string_equal(err.text + strlen(folder), message);
}

static void refuse(const checkpoint *c, const char *message)
{
    checkpoint_write(c, path);
    assert_refused(message);
}

/* The shapes and types of an existing file. */
static checkpoint *shapes_of(const char *file)
{
    ks_error err = KS_ERROR_NONE;
    ks_safetensors *st = ks_safetensors_open(file, &err);
    if (!st)
        fail_msg("%s", err.text);
    checkpoint *c = checkpoint_new();
    for (int i = 0; i < ks_safetensors_count(st); i++) {
        ks_view view;
        assert_int_equal(ks_safetensors_find(st, ks_safetensors_name(st, i), &view), 1);
        checkpoint_add(c, ks_dtype_name(view.dtype), ks_safetensors_name(st, i), view.rank,
                       view.shape);
    }
    ks_safetensors_close(st);
    return c;
}

static void assert_ints(const int *found, const int *wanted, int count)
{
    for (int i = 0; i < count; i++)
        assert_int_equal(found[i], wanted[i]);
}

/* --- the golden models and the demo --- */

static void tiny_sd15_is_read(void **state)
{
    (void)state;
    ks_model_config c = detected(SD15);
    const ks_unet_config *u = &c.unet;
    assert_string_equal(c.family, "sd15");
    assert_string_equal(u->prefix, "model.diffusion_model.");
    assert_int_equal(u->in_channels, 4);
    assert_int_equal(u->out_channels, 4);
    assert_int_equal(u->model_channels, 32);
    assert_int_equal(u->levels, 2);
    assert_ints(u->channel_mult, (int[]){1, 2}, 2);
    assert_ints(u->res_blocks, (int[]){1, 1}, 2);
    for (int level = 0; level < 2; level++) {
        assert_int_equal(u->depth_in[level][0], 1);
        assert_ints(u->depth_out[level], (int[]){1, 1}, 2);
    }
    assert_int_equal(u->depth_middle, 1);
    assert_false(u->linear_projections);
    assert_int_equal(u->context_dim, 32);
    assert_int_equal(u->adm_channels, 0);
    assert_int_equal(u->heads, 4);
    assert_int_equal(u->head_channels, 0);
    assert_false(c.text.present);
    assert_false(c.vae.present);
    assert_true(c.from_json);
    assert_true(c.latent_scale_factor == 0.18215);
    assert_true(c.linear_start == 0.00085 && c.linear_end == 0.012);
    assert_int_equal(c.prediction, KS_PREDICT_EPS);
    assert_int_equal(c.parameters, 1055044);
    assert_int_equal(c.bytes, 4 * 1055044);
    assert_string_equal(c.dtype, "F32");
}

static void tiny_sdxl_is_read(void **state)
{
    (void)state;
    ks_model_config c = detected(SDXL);
    const ks_unet_config *u = &c.unet;
    assert_string_equal(c.family, "sdxl");
    assert_int_equal(u->depth_in[0][0], 0);
    assert_int_equal(u->depth_in[1][0], 2);
    assert_ints(u->depth_out[0], (int[]){0, 0}, 2);
    assert_ints(u->depth_out[1], (int[]){2, 2}, 2);
    assert_int_equal(u->depth_middle, 2);
    assert_true(u->linear_projections);
    assert_int_equal(u->context_dim, 48);
    assert_int_equal(u->adm_channels, 48);
    assert_int_equal(u->heads, 0);
    assert_int_equal(u->head_channels, 16);
    assert_true(c.latent_scale_factor == 0.13025);
    assert_int_equal(c.parameters, 1340260);
}

static void the_demo_is_read(void **state)
{
    (void)state;
    ks_model_config c = detected(DEMO);
    assert_int_equal(c.unet.model_channels, 96);
    assert_int_equal(c.unet.heads, 4);
    assert_true(c.text.present);
    assert_string_equal(c.text.prefix, "cond_stage_model.transformer.text_model.");
    assert_int_equal(c.text.vocab, 898);
    assert_int_equal(c.text.tokens, 77);
    assert_int_equal(c.text.width, 128);
    assert_int_equal(c.text.layers, 2);
    assert_int_equal(c.text.heads, 4);
    assert_int_equal(c.text.hidden, 512);
    assert_true(c.text.quick_gelu);
    assert_true(c.vae.present);
    assert_int_equal(c.vae.z_channels, 4);
    assert_int_equal(c.vae.embed_channels, 4);
    assert_int_equal(c.vae.out_channels, 3);
    assert_int_equal(c.vae.levels, 4);
    assert_int_equal(c.vae.res_blocks, 1);
    assert_ints(c.vae.channels, (int[]){96, 64, 64, 96}, 4);
    assert_string_equal(c.dtype, "F16");
    assert_in_range(c.parameters, 9475000, 9485000);
}

/* --- the families, at full size --- */

static const checkpoint_unet sd15 = {
    "model.diffusion_model.", 4, 4, 320, 4, {1, 2, 4, 4}, 2, {1, 1, 1, 0}, 1, 0, 768, 0};
static const checkpoint_unet sd2 = {
    "model.diffusion_model.", 4, 4, 320, 4, {1, 2, 4, 4}, 2, {1, 1, 1, 0}, 1, 1, 1024, 0};
static const checkpoint_unet sdxl = {
    "model.diffusion_model.", 4, 4, 320, 3, {1, 2, 4}, 2, {0, 2, 10}, 10, 1, 2048, 2816};

static void sd15_is_known(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &sd15);
    checkpoint_add_clip(k, "F16", "cond_stage_model.transformer.text_model.", 49408, 768, 12);
    checkpoint_add_vae(k, "F32", 128);
    checkpoint_add(k, "F32", "betas", 1, (int64_t[]){1000});
    ks_model_config c = detected_from(k);
    assert_string_equal(c.family, "sd15");
    assert_int_equal(c.parameters, 859520964); /* as published */
    assert_int_equal(c.bytes, 2 * 859520964LL);
    assert_int_equal(c.unet.levels, 4);
    assert_ints(c.unet.res_blocks, (int[]){2, 2, 2, 2}, 4);
    assert_ints(c.unet.depth_in[2], (int[]){1, 1}, 2);
    assert_ints(c.unet.depth_in[3], (int[]){0, 0}, 2);
    assert_ints(c.unet.depth_out[3], (int[]){0, 0, 0}, 3);
    assert_ints(c.unet.depth_out[0], (int[]){1, 1, 1}, 3);
    assert_int_equal(c.unet.heads, 8);
    assert_true(c.latent_scale_factor == 0.18215);
    assert_int_equal(c.text.heads, 12);
    assert_int_equal(c.text.layers, 12);
    assert_ints(c.vae.channels, (int[]){128, 256, 512, 512}, 4);
    assert_int_equal(c.vae.res_blocks, 2);
    assert_false(c.from_json);
    checkpoint_free(k);
}

static void sd2_is_known(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F32", &sd2);
    ks_model_config c = detected_from(k);
    assert_string_equal(c.family, "sd2");
    assert_int_equal(c.parameters, 865910724); /* as published */
    assert_int_equal(c.unet.heads, 0);
    assert_int_equal(c.unet.head_channels, 64);
    assert_true(c.unet.linear_projections);
    assert_int_equal(c.prediction, KS_PREDICT_EPS);
    assert_false(c.text.present);
    checkpoint_free(k);
}

static void sdxl_is_known(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "BF16", &sdxl);
    checkpoint_add_clip(k, "F16", "conditioner.embedders.0.transformer.text_model.", 49408, 768,
                        12);
    ks_model_config c = detected_from(k);
    assert_string_equal(c.family, "sdxl");
    assert_int_equal(c.parameters, 2567463684); /* as published */
    assert_string_equal(c.dtype, "BF16");
    assert_int_equal(c.unet.head_channels, 64);
    assert_int_equal(c.unet.adm_channels, 2816);
    assert_int_equal(c.unet.depth_middle, 10);
    assert_ints(c.unet.depth_in[2], (int[]){10, 10}, 2);
    assert_true(c.latent_scale_factor == 0.13025);
    assert_false(c.text.present);
    assert_int_equal(c.prediction, KS_PREDICT_EPS);
    assert_false(c.zsnr);
    checkpoint_free(k);
}

static void a_bare_unet_is_known(void **state)
{
    (void)state;
    checkpoint_unet bare = sdxl;
    bare.prefix = "";
    bare.depth_middle = 0;
    bare.depth[2] = 4;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &bare);
    ks_model_config c = detected_from(k);
    assert_string_equal(c.unet.prefix, "");
    assert_string_equal(c.family, "sdxl");
    assert_int_equal(c.unet.depth_middle, -1);
    checkpoint_free(k);
}

static void marker_tensors_tell_v_prediction(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &sdxl);
    checkpoint_add(k, "F32", "v_pred", 1, (int64_t[]){0});
    ks_model_config c = detected_from(k);
    assert_int_equal(c.prediction, KS_PREDICT_V);
    assert_false(c.zsnr);
    checkpoint_add(k, "F32", "ztsnr", 1, (int64_t[]){0});
    c = detected_from(k);
    assert_true(c.zsnr);
    checkpoint_free(k);
}

/* ComfyUI's rule for SD 2.x: the spread of one tensor. */
static void sd2_prediction_is_told_by_one_tensor(void **state)
{
    (void)state;
    const char *name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias";
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F32", &sd2);
    checkpoint_write(k, path);
    for (int wide = 0; wide < 2; wide++) {
        ks_safetensors *st = ks_safetensors_open(path, NULL);
        ks_view view;
        size_t size;
        assert_int_equal(ks_safetensors_find(st, name, &view), 1);
        const unsigned char *bytes = ks_safetensors_bytes(st, &size);
        long at = (long)((const unsigned char *)view.data - bytes);
        FILE *f = fopen(path, "r+b");
        assert_int_equal(fseek(f, at, SEEK_SET), 0);
        for (int i = 0; i < 320; i++) {
            float value = (i % 2 ? 1.0f : -1.0f) * (wide ? 0.095f : 0.085f) + 5.0f;
            assert_int_equal(fwrite(&value, sizeof value, 1, f), 1);
        }
        fclose(f);
        ks_safetensors_close(st);
        assert_int_equal(detected(path).prediction, wide ? KS_PREDICT_V : KS_PREDICT_EPS);
    }
    write_json("{\"sampling\": {\"prediction\": \"eps\", \"zsnr\": true}}");
    ks_model_config c = detected(path);
    assert_int_equal(c.prediction, KS_PREDICT_EPS);
    assert_true(c.zsnr);
    checkpoint_free(k);
}

/* --- files that are something else --- */

static void other_models_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *tensor, *what;
    } kinds[] = {
        {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"},
        {"double_blocks.0.img_attn.qkv.weight", NULL},
        {"model.diffusion_model.single_blocks.0.linear1.weight", "Flux or a relative of it"},
        {"lora_unet_down_blocks_0.lora_up.weight", "a LoRA file, not a model"},
        {"control_model.input_blocks.0.0.weight", "a ControlNet"},
        {"time_embedding.linear_1.weight", "a UNet in the layout of diffusers"},
        {"first_stage_model.decoder.conv_in.weight", "a VAE alone"},
        {"text_model.encoder.layers.0.mlp.fc1.weight", "a text encoder alone"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        checkpoint *k = checkpoint_new();
        char message[400];
        checkpoint_add(k, "F16", kinds[i].tensor, 2, (int64_t[]){4, 4});
        snprintf(message, sizeof message,
                 "/m.safetensors: seems to be %s; SD 1.x, SD 2.x and SDXL text-to-image models are "
                 "wanted",
                 kinds[i].what);
        refuse(k, kinds[i].what
                      ? message
                      : "/m.safetensors: has no UNet of SD 1.x, SD 2.x or SDXL (no tensor "
                        "\"model.diffusion_model.input_blocks.0.0.weight\")");
        checkpoint_free(k);
    }
}

static void refuse_variant(int in, const char *extra, const char *what)
{
    checkpoint_unet u = sd15;
    char message[400];
    u.in = in;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &u);
    if (extra)
        checkpoint_add(k, "F16", extra, 1, (int64_t[]){4});
    snprintf(
        message, sizeof message,
        "/m.safetensors: seems to be %s; SD 1.x, SD 2.x and SDXL text-to-image models are wanted",
        what);
    refuse(k, message);
    checkpoint_free(k);
}

static void variants_of_sd_are_named(void **state)
{
    (void)state;
    refuse_variant(9, NULL, "an inpainting model (9 input channels)");
    refuse_variant(8, NULL, "an instruct-pix2pix model (8 input channels)");
    refuse_variant(5, NULL, "a depth-to-image model (5 input channels)");
    refuse_variant(4, "edm_mean", "Playground v2.5");
    refuse_variant(4, "model.diffusion_model.input_blocks.1.0.time_stack.in_layers.0.bias",
                   "Stable Video Diffusion");
}

static void a_tensor_without_a_place_is_refused(void **state)
{
    (void)state;
    checkpoint *k = shapes_of(SD15);
    checkpoint_add(k, "F32", "model.diffusion_model.input_blocks.1.1.gate", 1, (int64_t[]){4});
    refuse(
        k,
        "/m.safetensors: tensor \"model.diffusion_model.input_blocks.1.1.gate\" has no place in a "
        "UNet of SD 1.x, SD 2.x or SDXL");
    checkpoint_free(k);
}

/* --- tensors --- */

static bool needed(const char *name)
{
    static const char *const parts[] = {"model.diffusion_model.", "cond_stage_model.",
                                        "first_stage_model.decoder.",
                                        "first_stage_model.post_quant"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strncmp(name, parts[i], strlen(parts[i])) == 0)
            return !strstr(name, "position_ids");
    return false;
}

/* Every single tensor of the demo that is gone makes an error that names it. */
static void no_needed_tensor_may_be_missing(void **state)
{
    (void)state;
    checkpoint *whole = shapes_of(DEMO);
    int tried = 0;
    write_json(
        "{\"unet_config\": {\"num_heads\": 4}, \"text_config\": {\"num_attention_heads\": 4},"
        " \"latent_scale_factor\": 0.18215}");
    for (int i = 0; i < checkpoint_count(whole); i++) {
        const char *name = checkpoint_name(whole, i);
        ks_model_config config;
        ks_error err;
        if (!needed(name))
            continue;
        checkpoint *k = shapes_of(DEMO);
        checkpoint_remove(k, name);
        checkpoint_write(k, path);
        checkpoint_free(k);
        if (detect(path, &config, &err) == 0)
            fail_msg("without %s the model is accepted", name);
        if (!strstr(err.text, name))
            fail_msg("without %s: %s", name, err.text);
        tried++;
    }
    assert_in_range(tried, 350, 450);
    checkpoint_free(whole);
}

static void no_needed_tensor_may_have_another_shape(void **state)
{
    (void)state;
    checkpoint *k = shapes_of(SDXL);
    int count = checkpoint_count(k);
    write_json("{\"unet_config\": {\"num_head_channels\": 16}, \"latent_scale_factor\": 0.13025}");
    for (int i = 0; i < count; i++) {
        checkpoint *changed = shapes_of(SDXL);
        ks_model_config config;
        ks_error err;
        checkpoint_reshape(changed, checkpoint_name(k, i), 3, (int64_t[]){3, 5, 7});
        checkpoint_write(changed, path);
        if (detect(path, &config, &err) == 0)
            fail_msg("%s of another shape is accepted", checkpoint_name(k, i));
        checkpoint_free(changed);
    }
    checkpoint_free(k);
}

static void messages_tell_shapes(void **state)
{
    (void)state;
    const char *name = "model.diffusion_model.middle_block.1.proj_in.bias";
    checkpoint *k = shapes_of(SD15);
    checkpoint_reshape(k, name, 2, (int64_t[]){64, 1});
    refuse(k,
           "/m.safetensors: tensor \"model.diffusion_model.middle_block.1.proj_in.bias\" has shape "
           "[64, 1]; [64] is wanted");
    checkpoint_remove(k, name);
    refuse(k, "/m.safetensors: has no tensor "
              "\"model.diffusion_model.middle_block.1.proj_in.bias\"; one of "
              "shape [64] is wanted");
    checkpoint_add(k, "I32", name, 1, (int64_t[]){64});
    refuse(k, "/m.safetensors: tensor \"model.diffusion_model.middle_block.1.proj_in.bias\" is of "
              "type I32; "
              "F32, F16 or BF16 is wanted");
    checkpoint_retype(k, name, "F8_E4M3");
    refuse(
        k,
        "/m.safetensors: tensor \"model.diffusion_model.middle_block.1.proj_in.bias\" is of type "
        "F8_E4M3, which cannot be read here");
    checkpoint_free(k);
}

static void empty_and_odd_widths_are_refused(void **state)
{
    (void)state;
    checkpoint_unet u = sd15;
    u.context = 0;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &u);
    refuse(k, "/m.safetensors: axis 1 of tensor \"model.diffusion_model.input_blocks.1.1."
              "transformer_blocks.0.attn2.to_k.weight\" has size 0; 1 to 1048576 are possible");
    checkpoint_free(k);
    memset(u.depth, 0, sizeof u.depth);
    u.depth_middle = 0;
    k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &u);
    refuse(k, "/m.safetensors: the UNet has no cross-attention");
    checkpoint_free(k);
    u = sd15;
    u.width = 40;
    k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &u);
    refuse(k, "/m.safetensors: the 40 channels of the norm "
              "\"model.diffusion_model.input_blocks.1.0.in_layers.0\""
              " do not make 32 groups");
    checkpoint_free(k);
}

/* --- the JSON --- */

static void an_unknown_model_needs_its_json(void **state)
{
    (void)state;
    checkpoint *k = shapes_of(SDXL);
    char message[600];
    snprintf(message, sizeof message,
             "/m.safetensors: a UNet of 4 channels with context 48 and vector 48 is none of SD "
             "1.x, SD 2.x "
             "and SDXL; %s must tell unet_config.num_heads or unet_config.num_head_channels",
             json);
    refuse(k, message);
    write_json("{\"unet_config\": {\"num_heads\": 4}}");
    snprintf(message, sizeof message,
             "/m.safetensors: a UNet of 4 channels with context 48 and vector 48 is none of SD "
             "1.x, SD 2.x "
             "and SDXL; %s must tell latent_scale_factor",
             json);
    assert_refused(message);
    write_json("{\"unet_config\": {\"num_heads\": 5}, \"latent_scale_factor\": 1}");
    assert_refused("/m.safetensors: 5 heads do not divide a transformer of 64 channels");
    write_json("{\"unet_config\": {\"num_heads\": 4}, \"latent_scale_factor\": 0.5}");
    ks_model_config c = detected(path);
    assert_string_equal(c.family, "custom");
    assert_int_equal(c.unet.heads, 4);
    assert_int_equal(c.unet.head_channels, 0);
    assert_true(c.latent_scale_factor == 0.5);
    checkpoint_free(k);
}

/* tiny-sdxl with a JSON of this text. */
static void refuse_json(const char *text, const char *message)
{
    char wanted[900];
    snprintf(wanted, sizeof wanted, message, path);
    write_json(text);
    assert_refused(wanted);
}

static void a_json_that_contradicts_the_shapes_is_refused(void **state)
{
    (void)state;
    checkpoint *k = shapes_of(SDXL);
    checkpoint_write(k, path);
    checkpoint_free(k);
    refuse_json("{\"unet_config\": {\"context_dim\": 64}}",
                "/m.json: unet_config.context_dim: says 64, but the tensors of %s say 48");
    refuse_json("{\"unet_config\": {\"adm_in_channels\": null}}",
                "/m.json: unet_config.adm_in_channels: says 0, but the tensors of %s say 48");
    refuse_json("{\"unet_config\": {\"channel_mult\": [1, 4]}}",
                "/m.json: unet_config.channel_mult[1]: says 4, but the tensors of %s say 2");
    refuse_json("{\"unet_config\": {\"channel_mult\": [1, 2, 4]}}",
                "/m.json: unet_config.channel_mult: has 3 values, but the tensors of %s say 2");
    refuse_json("{\"unet_config\": {\"num_res_blocks\": 2}}",
                "/m.json: unet_config.num_res_blocks: says 2, but the tensors of %s say 1");
    refuse_json("{\"unet_config\": {\"transformer_depth\": [1, 2]}}",
                "/m.json: unet_config.transformer_depth[0]: says 1, but the tensors of %s say 0");
    refuse_json(
        "{\"unet_config\": {\"transformer_depth_output\": [2, 2, 0, 0]}}",
        "/m.json: unet_config.transformer_depth_output[0]: says 2, but the tensors of %s say 0");
    refuse_json(
        "{\"unet_config\": {\"transformer_depth_middle\": 1}}",
        "/m.json: unet_config.transformer_depth_middle: says 1, but the tensors of %s say 2");
    refuse_json("{\"unet_config\": {\"use_linear_in_transformer\": false}}",
                "/m.json: unet_config.use_linear_in_transformer: says false, but the tensors of %s "
                "say true");
    refuse_json("{\"unet_config\": {}, \"prefix\": \"\"}",
                "/m.json: prefix: says \"\", but the tensors of %s say \"model.diffusion_model.\"");
}

static void a_json_with_senseless_values_is_refused(void **state)
{
    (void)state;
    checkpoint *k = shapes_of(SDXL);
    checkpoint_write(k, path);
    checkpoint_free(k);
    refuse_json("{\"unet_config\": 1}", "/m.json: unet_config: wanted an object");
    refuse_json("{\"unet_config\": {\"num_heads\": \"4\"}}",
                "/m.json: unet_config.num_heads: found the text \"4\"; wanted a whole number from "
                "-1 to 65536");
    refuse_json("{\"latent_scale_factor\": 0}",
                "/m.json: latent_scale_factor: 0; wanted a number above 0");
    refuse_json("{\"sampling\": {\"prediction\": \"x0\"}}",
                "/m.json: sampling.prediction: \"x0\"; wanted \"eps\" or \"v\"");
    refuse_json("{\"sampling\": {\"beta_schedule\": \"cosine\"}}",
                "/m.json: sampling.beta_schedule: \"cosine\"; wanted \"linear\"");
    refuse_json("{\"sampling\": {\"timesteps\": 500}}",
                "/m.json: sampling.timesteps: found 500; wanted a whole number from 1000 to 1000");
    refuse_json(
        "{\"sampling\": {\"linear_start\": 0.5}}",
        "/m.json: sampling: linear_start 0.5 and linear_end 0.012; wanted 0 < linear_start < "
        "linear_end < 1");
    refuse_json("{\"text_config\": {\"hidden_act\": \"relu\"}}",
                "/m.json: text_config.hidden_act: \"relu\"; wanted \"quick_gelu\" or \"gelu\"");
    refuse_json("{\"sampling\": ", "/m.json:1:14: the text ends where a value is wanted");
}

static void a_json_of_another_program_is_not_read(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &sd15);
    write_json("{\"description\": \"\", \"sd version\": \"SD1\", \"preferred weight\": 1}");
    assert_false(detected_from(k).from_json);
    checkpoint_free(k);
}

/* transformer_depth_output runs from the last output block to the first. */
static void uneven_output_depths_are_told_in_reverse(void **state)
{
    (void)state;
    checkpoint_unet u = {"model.diffusion_model.", 4, 4, 32, 2, {1, 2}, 1, {0, 1}, 1, 1, 48, 0};
    checkpoint *k = checkpoint_new(), *deeper = checkpoint_new();
    checkpoint_add_unet(k, "F16", &u);
    u.depth[1] = 2;
    checkpoint_add_unet(deeper, "F16", &u);
    for (int i = 0; i < checkpoint_count(deeper); i++) { /* the first output block goes 2 deep */
        const char *name = checkpoint_name(deeper, i);
        if (!strstr(name, "output_blocks.0.1.transformer_blocks.1."))
            continue;
        const char *twin = strstr(name, "transformer_blocks.1.") + strlen("transformer_blocks.1.");
        for (int j = 0; j < checkpoint_count(k); j++) {
            const char *other = checkpoint_name(k, j);
            const char *tail = strstr(other, "output_blocks.0.1.transformer_blocks.0.");
            if (tail &&
                strcmp(tail + strlen("output_blocks.0.1.transformer_blocks.0."), twin) == 0) {
                int rank;
                int64_t shape[8];
                checkpoint_shape(k, other, &rank, shape);
                checkpoint_add(k, "F16", name, rank, shape);
                break;
            }
        }
    }
    checkpoint_free(deeper);
    write_json("{\"unet_config\": {\"num_heads\": 4, \"transformer_depth_output\": [0, 0, 1, 2]},"
               " \"latent_scale_factor\": 1}");
    ks_model_config c = detected_from(k);
    assert_ints(c.unet.depth_out[1], (int[]){2, 1}, 2);
    assert_ints(c.unet.depth_out[0], (int[]){0, 0}, 2);
    checkpoint_free(k);
}

/* --- text encoder and VAE --- */

static checkpoint *with_text(const char *prefix, int width)
{
    checkpoint *k = checkpoint_new();
    checkpoint_unet u = sd15;
    u.context = width;
    checkpoint_add_unet(k, "F16", &u);
    checkpoint_add_clip(k, "F16", prefix, 1000, 768, 2);
    return k;
}

static void the_older_prefix_of_clip_is_read(void **state)
{
    (void)state;
    checkpoint *k = with_text("cond_stage_model.transformer.", 768);
    ks_model_config c = detected_from(k);
    assert_true(c.text.present);
    assert_string_equal(c.text.prefix, "cond_stage_model.transformer.");
    assert_int_equal(c.text.heads, 12);
    write_json("{\"text_config\": {\"num_attention_heads\": 8, \"hidden_act\": \"gelu\"}}");
    c = detected(path);
    assert_int_equal(c.text.heads, 8);
    assert_false(c.text.quick_gelu);
    write_json("{\"text_config\": {\"num_attention_heads\": 7}}");
    assert_refused("/m.safetensors: 7 heads do not divide a text encoder of width 768");
    checkpoint_free(k);
}

static void a_text_encoder_must_fit_the_context(void **state)
{
    (void)state;
    checkpoint *k = with_text("cond_stage_model.transformer.text_model.", 1024);
    refuse(k, "/m.safetensors: the text encoder is 768 wide, but the UNet's context 1024");
    checkpoint_free(k);
}

static void a_vae_of_another_size_is_refused(void **state)
{
    (void)state;
    checkpoint *k = checkpoint_new();
    checkpoint_add_unet(k, "F16", &sd15);
    checkpoint_add_vae(k, "F16", 32);
    checkpoint_reshape(k, "first_stage_model.decoder.conv_out.weight", 4, (int64_t[]){1, 32, 3, 3});
    checkpoint_reshape(k, "first_stage_model.decoder.conv_out.bias", 1, (int64_t[]){1});
    refuse(k, "/m.safetensors: the VAE makes pictures of 1 channels; 3 are wanted");
    for (int i = checkpoint_count(k) - 1; i >= 0; i--)
        if (strstr(checkpoint_name(k, i), "decoder.up.3."))
            checkpoint_remove(k, checkpoint_name(k, i));
    refuse(k, "/m.safetensors: the VAE decoder has 3 levels; 4 are wanted (pictures 8 times the "
              "latent's size)");
    checkpoint_free(k);
}

/* --- for people --- */

static void a_description_tells_what_matters(void **state)
{
    (void)state;
    ks_model_config c = detected(DEMO);
    char *text = ks_model_describe(&c);
    static const char *const parts[] = {"sd15",
                                        "eps",
                                        "9.48 M parameters, F16",
                                        "96, 192 channels",
                                        "heads       4\n",
                                        "128 wide",
                                        "CLIP, 2 layers",
                                        "0.18215",
                                        "96, 64, 64, 96 channels"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i]))
            fail_msg("no \"%s\" in\n%s", parts[i], text);
    free(text);
    c = detected(SDXL);
    text = ks_model_describe(&c);
    assert_non_null(strstr(text, "of 16 channels"));
    assert_non_null(strstr(text, "vector y    48 wide"));
    assert_non_null(strstr(text, "VAE decoder   none"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_sd15_is_read),
        cmocka_unit_test(tiny_sdxl_is_read),
        cmocka_unit_test(the_demo_is_read),
        cmocka_unit_test_teardown(sd15_is_known, remove_files),
        cmocka_unit_test_teardown(sd2_is_known, remove_files),
        cmocka_unit_test_teardown(sdxl_is_known, remove_files),
        cmocka_unit_test_teardown(a_bare_unet_is_known, remove_files),
        cmocka_unit_test_teardown(marker_tensors_tell_v_prediction, remove_files),
        cmocka_unit_test_teardown(sd2_prediction_is_told_by_one_tensor, remove_files),
        cmocka_unit_test_teardown(other_models_are_named, remove_files),
        cmocka_unit_test_teardown(variants_of_sd_are_named, remove_files),
        cmocka_unit_test_teardown(a_tensor_without_a_place_is_refused, remove_files),
        cmocka_unit_test_teardown(no_needed_tensor_may_be_missing, remove_files),
        cmocka_unit_test_teardown(no_needed_tensor_may_have_another_shape, remove_files),
        cmocka_unit_test_teardown(messages_tell_shapes, remove_files),
        cmocka_unit_test_teardown(empty_and_odd_widths_are_refused, remove_files),
        cmocka_unit_test_teardown(an_unknown_model_needs_its_json, remove_files),
        cmocka_unit_test_teardown(a_json_that_contradicts_the_shapes_is_refused, remove_files),
        cmocka_unit_test_teardown(a_json_with_senseless_values_is_refused, remove_files),
        cmocka_unit_test_teardown(a_json_of_another_program_is_not_read, remove_files),
        cmocka_unit_test_teardown(uneven_output_depths_are_told_in_reverse, remove_files),
        cmocka_unit_test_teardown(the_older_prefix_of_clip_is_read, remove_files),
        cmocka_unit_test_teardown(a_text_encoder_must_fit_the_context, remove_files),
        cmocka_unit_test_teardown(a_vae_of_another_size_is_refused, remove_files),
        cmocka_unit_test(a_description_tells_what_matters),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
