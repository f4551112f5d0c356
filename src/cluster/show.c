/* ksweep show: the job file that renders one row of an output again, alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/json_text.h"
#include "base/log.h"
#include "cluster/axis_text.h"
#include "cluster/load.h"
#include "ksweep/ksweep.h"
#include "model/config.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"
#include "store/store.h"

/* What is written anew; all other keys of the job are copied. "$schema" is relative to the job
 * file, and one sample has no sweep. */
static const char *const own_keys[] = {"$schema",
                                       "ksweep",
                                       "model",
                                       "positive",
                                       "negative",
                                       "latent_image",
                                       "seed",
                                       "steps",
                                       "cfg",
                                       "sampler_name",
                                       "scheduler",
                                       "denoise",
                                       "control_after_generate",
                                       "sweep",
                                       "noise_device",
                                       "precision",
                                       "device",
                                       "prediction",
                                       "zsnr",
                                       "parallel",
                                       "output",
                                       NULL};

/* Where the row comes from, and where its job goes. */
typedef struct show {
    const char *output;
    const ks_store_info *info;
    ks_json_doc *doc; /* the job as it is recorded */
    ks_job *job;
    ks_sample sample;
    FILE *out;
} show;

/* The path as seen from the folder of the file `base`, without detours where it exists. */
static char *absolute_path(const char *base, const char *path)
{
    char *beside = ks_path_beside(base, path), *real = beside ? realpath(beside, NULL) : NULL;
    if (real)
        free(beside);
    return real ? real : beside;
}

/* A value as it is, but for the paths in it, which are relative to the folder of base. */
static void write_value(FILE *out, ks_json v, const char *base)
{
    bool object = ks_json_is_object(v), list = ks_json_is_array(v);
    if (!object && !list) {
        char *text = ks_json_print(v);
        fputs(text ? text : "null", out);
        free(text);
        return;
    }
    fputc(object ? '{' : '[', out);
    for (int i = 0; i < ks_json_size(v); i++) {
        const char *key = "", *path;
        ks_json item = object ? ks_json_member(v, i, &key) : ks_json_at(v, i);
        fputs(i ? ", " : "", out);
        if (object) {
            ks_json_write_string(out, key);
            fputs(": ", out);
        }
        bool is_path = !strcmp(key, "file") || !strcmp(key, "image");
        if (is_path && ks_json_is_string(item) && !ks_json_string(item, &path, NULL)) {
            char *whole = absolute_path(base, path);
            ks_json_write_string(out, whole);
            free(whole);
        } else {
            write_value(out, item, base);
        }
    }
    fputc(object ? '}' : ']', out);
}

/* A value that is kept as compact JSON. */
static int write_label(const show *s, const char *label, const char *base, ks_error *err)
{
    ks_json_doc *doc = ks_json_parse(base, label, strlen(label), err);
    if (!doc)
        return ks_error_wrap(err, "%s", s->output);
    bool list = ks_json_is_array(ks_json_root(doc)); /* one value of several conditionings */
    fputs(list ? "[" : "", s->out);
    write_value(s->out, ks_json_root(doc), base);
    fputs(list ? "]" : "", s->out);
    ks_json_free(doc);
    return 0;
}

/* Paths in a JSON-lines file are relative to it; all others to the job file. */
static char *base_of(const show *s, const char *axis)
{
    const char *path;
    ks_json jsonl = ks_json_get(ks_json_get(ks_json_root(s->doc), axis), "jsonl");
    if (ks_json_is_string(jsonl) && !ks_json_string(jsonl, &path, NULL))
        return ks_path_beside(s->info->job_path, path);
    return ks_strdup(s->info->job_path);
}

static int write_conditioning(const show *s, const char *axis, const ks_conditioning *c,
                              ks_error *err)
{
    fprintf(s->out, ",\n  \"%s\": ", axis);
    if (c->label == c->item[0].text) {
        ks_json_write_string(s->out, c->label);
        return 0;
    }
    char *base = base_of(s, axis);
    int rc = write_label(s, c->label, base, err);
    free(base);
    return rc;
}

/* Keys that decide bits and are no axis, whatever they are. */
static void write_others(const show *s)
{
    ks_json root = ks_json_root(s->doc);
    for (int i = 0; i < ks_json_size(root); i++) {
        const char *key;
        ks_json v = ks_json_member(root, i, &key);
        int k = 0;
        while (own_keys[k] && strcmp(own_keys[k], key))
            k++;
        if (own_keys[k])
            continue;
        fputs(",\n  ", s->out);
        ks_json_write_string(s->out, key);
        fputs(": ", s->out);
        write_value(s->out, v, s->info->job_path);
    }
}

/* A seed that programs with doubles for numbers would round is written as text. */
static void write_widgets(const show *s)
{
    char cfg[40], denoise[40];
    const char *quote = s->sample.seed > (uint64_t)1 << 53 ? "\"" : "";
    ks_number_text(s->sample.cfg, cfg, sizeof cfg);
    ks_number_text(s->sample.denoise, denoise, sizeof denoise);
    fprintf(
        s->out,
        ",\n  \"seed\": %s%llu%s,\n  \"steps\": %d,\n  \"cfg\": %s,\n  \"sampler_name\": \"%s\","
        "\n  \"scheduler\": \"%s\",\n  \"denoise\": %s",
        quote, (unsigned long long)s->sample.seed, quote, s->sample.steps, cfg,
        ks_sampler_at(s->sample.sampler)->name, ks_scheduler_name(s->sample.scheduler), denoise);
}

/* What the model's file stands for where the job says "auto". */
static void write_prediction(const show *s)
{
    ks_model_config config;
    ks_error why = KS_ERROR_NONE;
    ks_safetensors *file = ks_safetensors_open(s->job->model, &why);
    bool known = file && !ks_model_detect(file, &config, &why);
    if (!known)
        ks_log_warn("the model cannot be looked at: %s", why.text);
    const char *prediction = s->job->prediction;
    if (known && !strcmp(prediction, "auto"))
        prediction = config.prediction == KS_PREDICT_V ? "v" : "eps";
    fprintf(s->out, ",\n  \"prediction\": \"%s\"", prediction);
    if (known || s->job->zsnr_given)
        fprintf(s->out, ",\n  \"zsnr\": %s",
                (s->job->zsnr_given ? s->job->zsnr : config.zsnr) ? "true" : "false");
    ks_safetensors_close(file);
}

static void write_run(const show *s, uint64_t row)
{
    const ks_store_info *i = s->info;
    const char *const recorded[][2] = {
        {"noise_device", i->noise_device}, {"precision", i->precision}, {"device", i->backend}};
    for (size_t k = 0; k < sizeof recorded / sizeof *recorded; k++) {
        fprintf(s->out, ",\n  \"%s\": ", recorded[k][0]);
        ks_json_write_string(s->out, recorded[k][1]);
    }
    write_prediction(s);
    fprintf(s->out, ",\n  \"parallel\": {\"tensor\": %d, \"rows\": %d, \"batch_rows\": %d}",
            s->job->tensor, s->job->rows, i->batch_rows);
    size_t stem = strlen(s->output);
    stem -= stem > 3 && !strcmp(s->output + stem - 3, ".h5") ? 3 : 0;
    char *file = ks_format("%.*s-row-%llu.h5", (int)stem, s->output, (unsigned long long)row);
    fputs(",\n  \"output\": {\"file\": ", s->out);
    ks_json_write_string(s->out, file);
    fprintf(s->out, ", \"latents\": \"%s\", \"images\": %s}\n}\n",
            i->float16 ? "float16" : "float32", i->images ? "true" : "false");
    free(file);
}

static int write_job(const show *s, uint64_t row, ks_error *err)
{
    const ks_job *job = s->job;
    fputs("{\n  \"ksweep\": 1,\n  \"model\": ", s->out);
    char *model = absolute_path(s->info->job_path, job->model);
    ks_json_write_string(s->out, model);
    free(model);
    if (write_conditioning(s, "positive", &job->positive[s->sample.positive], err) ||
        write_conditioning(s, "negative", &job->negative[s->sample.negative], err))
        return -1;
    fputs(",\n  \"latent_image\": ", s->out);
    if (write_label(s, job->latent[s->sample.latent].label, s->info->job_path, err))
        return -1;
    write_widgets(s);
    write_others(s);
    write_run(s, row);
    return 0;
}

char *ks_show(const char *output, uint64_t number, ks_error *err)
{
    char *text = NULL, *path = realpath(output, NULL);
    size_t size;
    ks_row row;
    int rc = -1;
    show s = {.output = path ? path : output};
    ks_output *o = ks_output_open(output, err);
    if (!o || ks_output_row(o, number, &row, err))
        goto cleanup;
    s.info = ks_output_info(o);
    s.doc = ks_json_parse(s.info->job_path, s.info->job, strlen(s.info->job), err);
    s.job = s.doc ? ks_job_of_output(s.info, err) : NULL;
    if (!s.job)
        goto cleanup;
    if (row.index >= ks_job_samples(s.job)) {
        ks_error_set(err, "%s: row %llu is of sample %llu, and its job has %llu", output, (unsigned long long)number,
                     (unsigned long long)row.index, (unsigned long long)ks_job_samples(s.job));
        goto cleanup;
    }
    ks_job_sample(s.job, row.index, &s.sample);
    s.out = open_memstream(&text, &size);
    rc = s.out ? write_job(&s, number, err) : ks_error_set(err, "%s: out of memory", output);
cleanup:
    if (s.out)
        fclose(s.out);
    ks_job_free(s.job);
    ks_json_free(s.doc);
    ks_output_close(o);
    free(path);
    if (!rc)
        return text;
    free(text);
    return NULL;
}
