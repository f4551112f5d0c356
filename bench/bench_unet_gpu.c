/* One UNet call of SDXL at 1024 x 1024 and SD 1.5 at 512 x 512 on a GPU, random weights, loaded
 * from a file as any other model; two conditionings, as guidance has.
 *   bench_unet_gpu FOLDER [--model sdxl|sd15|all] [--precision fp16] [--rows 16,2] [--shapes]
 *                         [--copies]
 * FOLDER: where the checkpoints are made (SDXL: 5.1 GB), or found again.
 *
 * A call is a replay of its CUDA graph, timed by events: at least CALLS of them and SECONDS long,
 * after WARM others and one second of work. A line of the table is
 *   who model precision rows median min max calls      (milliseconds a row)
 * and lines with '#' tell the rest. Ends with an error when an output is not finite.
 *
 * --shapes: also what each operation and shape adds when every one is timed by events of its own.
 * Then there is no graph: where the host is slower than the GPU, its time is in the numbers.
 * --copies: skip connections are copied even where the backend has slices (ops.h). */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/file.h"
#include "gpu_bench.h"
#include "model/model.h"
#include "random_model.h"

enum { WARM = 3, CALLS = 25, MOST_CALLS = 250, MOST_ROWS = 256 };
static const double seconds = 1.0;

/* --- operations one by one --- */

typedef struct line {
    char text[96];
    double ms, flops;
    int count;
} line;

typedef struct sample {
    int line;
    cudaEvent_t begin, end;
} sample;

enum { LINES = 512, SAMPLES = 8192, NAME = 10 };
static struct {
    ks_ops real;
    line line[LINES];
    sample sample[SAMPLES];
    int lines, samples, open;
} watch;

static void begin_op(ks_ops *ops, const char *name, ks_act y, int terms, double flops)
{
    char text[96];
    snprintf(text, sizeof text, "%-*s %4dx%-3d %5d > %-5d", NAME, name, y.h, y.w, terms, y.c);
    int k = 0;
    while (k < watch.lines && strcmp(watch.line[k].text, text) != 0)
        k++;
    need(k < LINES && watch.samples < SAMPLES, &(ks_error){"too many operations"});
    if (k == watch.lines) {
        watch.lines++;
        watch.line[k] = (line){0};
        memcpy(watch.line[k].text, text, sizeof text);
    }
    watch.line[k].flops += flops;
    sample *s = &watch.sample[watch.samples];
    s->line = k;
    cudaEventCreate(&s->begin);
    cudaEventCreate(&s->end);
    cudaEventRecord(s->begin, ks_cuda_of(ops)->stream);
}

static void end_op(ks_ops *ops)
{
    cudaEventRecord(watch.sample[watch.samples++].end, ks_cuda_of(ops)->stream);
}

static double pixels_of(ks_act a)
{
    return (double)a.n * a.h * a.w;
}

static void timed_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    begin_op(ops, how->upsample ? "conv up" : how->stride == 2 ? "conv down" : "conv", y, x.c,
             2.0 * pixels_of(y) * y.c * x.c * w->kh * w->kw);
    watch.real.conv(ops, y, x, w, how);
    end_op(ops);
}

static void timed_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation a,
                         ks_act residual)
{
    begin_op(ops, residual.data ? "linear+r" : "linear", y, x.c, 2.0 * pixels_of(y) * y.c * x.c);
    watch.real.linear(ops, y, x, w, a, residual);
    end_op(ops);
}

static void timed_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w)
{
    begin_op(ops, "geglu", y, x.c, 4.0 * pixels_of(y) * y.c * x.c);
    watch.real.geglu(ops, y, x, w);
    end_op(ops);
}

static void timed_group_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, int groups,
                             float eps, bool silu)
{
    begin_op(ops, silu ? "gn silu" : "gn", y, x.c, 0);
    watch.real.group_norm(ops, y, x, w, groups, eps, silu);
    end_op(ops);
}

static void timed_layer_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, float eps)
{
    begin_op(ops, "layer norm", y, x.c, 0);
    watch.real.layer_norm(ops, y, x, w, eps);
    end_op(ops);
}

static void timed_attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v,
                            const ks_attention *how)
{
    begin_op(ops, "attention", y, k.h * k.w, 4.0 * pixels_of(y) * y.c * k.h * k.w);
    watch.real.attention(ops, y, q, k, v, how);
    end_op(ops);
}

static void timed_concat(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    begin_op(ops, "concat", y, a.c, 0);
    watch.real.concat(ops, y, a, b);
    end_op(ops);
}

static void watch_ops(ks_ops *ops)
{
    watch.real = *ops;
    ops->conv = timed_conv;
    ops->linear = timed_linear;
    ops->geglu = timed_geglu;
    ops->group_norm = timed_group_norm;
    ops->layer_norm = timed_layer_norm;
    ops->attention = timed_attention;
    ops->concat = timed_concat;
    ops->replay = NULL; /* each call queues its operations */
}

static int by_ms(const void *a, const void *b)
{
    double x = ((const line *)a)->ms, y = ((const line *)b)->ms;
    return (x < y) - (x > y);
}

static void read_samples(void)
{
    for (int i = 0; i < watch.samples; i++) {
        sample *s = &watch.sample[i];
        float ms = 0;
        cudaEventElapsedTime(&ms, s->begin, s->end);
        cudaEventDestroy(s->begin);
        cudaEventDestroy(s->end);
        watch.line[s->line].ms += (double)ms;
        watch.line[s->line].count++;
    }
    watch.samples = 0;
}

static void print_line(const line *l, int rows)
{
    printf("#   %-40s x%-3d %8.4f ms a row", l->text, l->count, l->ms / rows);
    if (l->flops > 0)
        printf(" %5.0f TFLOP/s", l->flops / l->ms * 1e-9);
    printf("\n");
}

/* Lines of one operation as one: the name is the text up to its first shape. */
static int sum_kinds(line *kind)
{
    int kinds = 0;
    for (int i = 0; i < watch.lines; i++) {
        const line *l = &watch.line[i];
        int k = 0;
        while (k < kinds && strncmp(kind[k].text, l->text, NAME) != 0)
            k++;
        if (k == kinds)
            snprintf(kind[kinds++].text, sizeof kind->text, "%.*s", NAME, l->text);
        kind[k].ms += l->ms;
        kind[k].flops += l->flops;
        kind[k].count += l->count;
    }
    return kinds;
}

/* Every shape, then every kind, then all. */
static void print_lines(int rows)
{
    static line kind[LINES];
    line all = {.text = "all of these"};
    memset(kind, 0, sizeof kind);
    read_samples();
    qsort(watch.line, (size_t)watch.lines, sizeof *watch.line, by_ms);
    for (int i = 0; i < watch.lines; i++)
        print_line(&watch.line[i], rows);
    int kinds = sum_kinds(kind);
    qsort(kind, (size_t)kinds, sizeof *kind, by_ms);
    for (int i = 0; i < kinds; i++) {
        print_line(&kind[i], rows);
        all.ms += kind[i].ms;
        all.flops += kind[i].flops;
        all.count += kind[i].count;
    }
    print_line(&all, rows);
    watch.lines = 0;
}

/* --- the network --- */

typedef struct network {
    const random_model *m;
    ks_ops *ops;
    ks_model *model;
    ks_cond *cond[2];
    float *x, *out;
    size_t item; /* values of a latent */
} network;

static void sync_all(const network *n)
{
    ks_error err = KS_ERROR_NONE;
    need(n->ops->sync(n->ops, &err) == 0, &err);
}

static network open_network(const random_model *m, const char *path, const char *precision,
                            bool copies)
{
    ks_error err = KS_ERROR_NONE;
    network n = {.m = m, .item = 4 * (size_t)m->side * (size_t)m->side};
    double begin = ks_seconds();
    ks_model_config config;
    ks_safetensors *st = ks_safetensors_open(path, &err);
    need(st && ks_model_detect(st, &config, &err) == 0, &err);
    n.ops = ks_ops_cuda(0, precision, &err);
    need(n.ops != NULL, &err);
    n.ops->slices = n.ops->slices && !copies;
    double opened = ks_seconds();
    n.model = ks_model_load(st, &config, n.ops, NULL, 0, NULL, &err);
    need(n.model != NULL, &err);
    sync_all(&n);
    ks_safetensors_close(st);
    printf("# %s %s on %s: device ready after %.2f s, weights after %.2f s\n", m->name, precision,
           n.ops->device, opened - begin, ks_seconds() - begin);
    return n;
}

/* Conditionings and latents of random numbers for so many rows. */
static void make_inputs(network *n, int rows)
{
    ks_error err = KS_ERROR_NONE;
    const size_t latents = n->item * (size_t)rows;
    need(random_conditionings(n->m, n->model, n->cond, 2, &err) == 0, &err);
    n->x = random_latents(n->ops, latents, &err);
    n->out = n->x ? n->ops->alloc(n->ops, latents * sizeof(float), &err) : NULL;
    need(n->out != NULL, &err);
}

static void free_inputs(network *n)
{
    for (int i = 0; i < 2; i++)
        ks_cond_free(n->cond[i]);
    n->ops->release(n->ops, n->x);
    n->ops->release(n->ops, n->out);
}

static void call(const network *n, int rows)
{
    ks_error err = KS_ERROR_NONE;
    ks_net_row row[MOST_ROWS];
    for (int i = 0; i < rows; i++)
        row[i] = (ks_net_row){.x = n->x + (size_t)i * n->item,
                              .scale = 1,
                              .timestep = 999 - 997 * i / rows,
                              .cond = n->cond[i % 2],
                              .out = n->out + (size_t)i * n->item};
    need(ks_model_rows(n->model, row, rows, &err) == 0, &err);
}

/* The standard deviation of the output; ends the program when a value is not finite. */
static double output_deviation(const network *n, int rows)
{
    const size_t count = n->item * (size_t)rows;
    float *out = ks_calloc(count, sizeof *out);
    n->ops->download(n->ops, out, n->out, count * sizeof *out);
    sync_all(n);
    double sum = 0, squares = 0, all = (double)count;
    for (size_t i = 0; i < count; i++) {
        sum += (double)out[i];
        squares += (double)out[i] * (double)out[i];
    }
    free(out);
    if (!isfinite(squares)) {
        fprintf(stderr, "%s, %d rows: the output is not finite, its time says nothing\n",
                n->m->name, rows);
        exit(EXIT_FAILURE);
    }
    return sqrt(squares / all - sum / all * (sum / all));
}

/* --- timing --- */

typedef struct timing {
    float median, least, most; /* milliseconds a call */
    int calls;
} timing;

/* Warms up; the calls that fill the wanted time. */
static int calls_to_time(const network *n, int rows)
{
    for (int i = 0; i < WARM; i++)
        call(n, rows);
    sync_all(n);
    double begin = ks_seconds();
    int done = 0;
    for (; done < WARM || ks_seconds() - begin < seconds; done += WARM) {
        for (int i = 0; i < WARM; i++)
            call(n, rows);
        sync_all(n);
    }
    double wanted = seconds / ((ks_seconds() - begin) / done);
    return wanted < CALLS ? CALLS : wanted > MOST_CALLS ? MOST_CALLS : (int)wanted;
}

static timing time_calls(const network *n, int rows)
{
    timing t = {.calls = calls_to_time(n, rows)};
    float ms[MOST_CALLS];
    cudaEvent_t event[MOST_CALLS + 1];
    cudaStream_t stream = ks_cuda_of(n->ops)->stream;
    for (int i = 0; i <= t.calls; i++)
        cudaEventCreate(&event[i]);
    cudaEventRecord(event[0], stream);
    for (int i = 0; i < t.calls; i++) {
        call(n, rows);
        cudaEventRecord(event[i + 1], stream);
    }
    sync_all(n);
    for (int i = 0; i < t.calls; i++)
        cudaEventElapsedTime(&ms[i], event[i], event[i + 1]);
    for (int i = 0; i <= t.calls; i++)
        cudaEventDestroy(event[i]);
    t.median = median_of(ms, t.calls); /* and they are sorted */
    t.least = ms[0];
    t.most = ms[t.calls - 1];
    return t;
}

static void time_shapes(const network *n, int rows)
{
    ks_ops real = *n->ops;
    watch_ops(n->ops);
    call(n, rows);
    sync_all(n);
    *n->ops = real;
    print_lines(rows);
}

static void bench_rows(network *n, int rows, bool shapes)
{
    ks_error err = KS_ERROR_NONE;
    size_t before = n->ops->memory_free(n->ops);
    need(ks_model_plan(n->model, rows, n->m->side, n->m->side, &err) == 0, &err);
    make_inputs(n, rows);
    double begin = ks_seconds();
    call(n, rows);
    sync_all(n);
    double first = ks_seconds() - begin;
    timing t = time_calls(n, rows);
    double deviation = output_deviation(n, rows);
    printf("ksweep        %-5s %-5s %3d %8.3f %8.3f %8.3f %4d\n", n->m->name, n->ops->precision, rows,
           (double)t.median / rows, (double)t.least / rows, (double)t.most / rows, t.calls);
    printf("#   first call %.2f s, %.2f GiB beside the weights, output's standard deviation %.3f\n",
           first, (double)(before - n->ops->memory_free(n->ops)) / (1 << 30), deviation);
    if (shapes)
        time_shapes(n, rows);
    fflush(stdout);
    free_inputs(n);
}

static void bench_model(const random_model *m, const char *folder, const char *precision,
                        const int *rows, bool shapes, bool copies)
{
    ks_error err = KS_ERROR_NONE;
    double begin = ks_seconds();
    char *path = random_model_file(m, folder, &err);
    need(path != NULL, &err);
    printf("# %s made or found in %.1f s\n", path, ks_seconds() - begin);
    network n = open_network(m, path, precision, copies);
    for (; *rows; rows++)
        bench_rows(&n, *rows, shapes);
    ks_model_free(n.model);
    n.ops->free(n.ops);
    free(path);
}

/* --- the command line --- */

enum { MOST_LIST = 16 };

static int usage(void)
{
    fprintf(stderr, "usage: bench_unet_gpu FOLDER [--model sdxl|sd15|all] [--precision fp16] "
                    "[--rows 16,2] [--shapes] [--copies]\n");
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"model", required_argument, NULL, 'm'},
                                            {"precision", required_argument, NULL, 'p'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"shapes", no_argument, NULL, 's'},
                                            {"copies", no_argument, NULL, 'c'},
                                            {NULL, 0, NULL, 0}};
    const char *wanted = "all", *precision = "fp16";
    int rows[MOST_LIST + 1] = {16, 2, 0};
    bool shapes = false, copies = false, found = false;
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'm')
            wanted = optarg;
        else if (option == 'p')
            precision = optarg;
        else if (option == 's')
            shapes = true;
        else if (option == 'c')
            copies = true;
        else if (option != 'r' || !read_list(optarg, 1, MOST_ROWS, rows, MOST_LIST))
            return usage();
    }
    if (optind + 1 != argc)
        return usage();
    for (int i = 0; i < RANDOM_MODELS; i++) {
        if (strcmp(wanted, "all") != 0 && strcmp(wanted, random_models[i].name) != 0)
            continue;
        bench_model(&random_models[i], argv[optind], precision, rows, shapes, copies);
        found = true;
    }
    return found ? EXIT_SUCCESS : usage();
}
