/* What noise costs at the latent of an SDXL picture of 1024 x 1024 (4 x 128 x 128), for eight lanes at once: on GPU 0, in one
 * operation, and on one core of the host. Medians.
 *
 * bench_noise_gpu [runs, 50 by default] */
#include "gpu_bench.h"

#include "base/file.h"
#include "sampling/noise.h"

enum { LATENT = 4 * 128 * 128, LANES = 8, STEPS = 20, HOST_RUNS = 3 };

static const ks_noise_device cpu = {KS_NOISE_CPU, 0}, cuda = {KS_NOISE_CUDA, 132};
static const double high = 14.614641189575195, low = 0.029167158529162407;

typedef enum kind { NEXT, INITIAL, TREE } kind;

typedef struct lanes {
    ks_noise_op op[LANES];
    ks_noise_term term[LANES][KS_BROWNIAN_TERMS];
    ks_brownian_tree tree[LANES];
    ks_generator generator[LANES];
    ks_brownian *brownian[LANES];
    float *host;
} lanes;

static float *floats(ks_ops *ops, size_t count)
{
    ks_error err = KS_ERROR_NONE;
    float *memory = ops->alloc(ops, count * sizeof *memory, &err);
    need(memory, &err);
    return memory;
}

static void begin(lanes *l, ks_ops *ops, ks_noise_device device, kind what)
{
    ks_error err = KS_ERROR_NONE;
    l->host = ks_calloc(LATENT, sizeof *l->host);
    for (int k = 0; k < LANES; k++) {
        uint64_t seed = 1000 + (uint64_t)k;
        l->op[k] = (ks_noise_op){.out = floats(ops, LATENT), .n = LATENT, .device = device, .scale = 1, .seed = seed, .fresh = true};
        if (what == NEXT)
            l->op[k].state = (uint32_t *)(void *)floats(ops, KS_NOISE_STATE);
        ks_generator_seed(&l->generator[k], device, seed);
        need(ks_brownian_tree_init(&l->tree[k], seed, low, high, &err) == 0, &err);
        l->brownian[k] = ks_brownian_new(device, seed, low, high, LATENT, &err);
        need(l->brownian[k], &err);
    }
}

static void end(lanes *l, ks_ops *ops)
{
    for (int k = 0; k < LANES; k++) {
        ops->release(ops, l->op[k].out);
        ops->release(ops, l->op[k].state);
        ks_brownian_free(l->brownian[k]);
    }
    free(l->host);
}

/* Karras's sigma number i. */
static double sigma_at(int i)
{
    double root = 1.4669 + i * (0.6035 - 1.4669) / (STEPS - 1), sigma = 1;
    for (int k = 0; k < 7; k++)
        sigma *= root;
    return i <= 0 ? high : (double)(float)sigma;
}

/* What the host must find out before step `run` of all lanes is handed over. */
static void prepare(lanes *l, kind what, int run)
{
    for (int k = 0; k < LANES; k++) {
        ks_noise_op *op = &l->op[k];
        if (what != TREE)
            return;
        int i = (run + 2 * k) % (STEPS - 1);
        op->term = l->term[k];
        op->terms = ks_brownian_terms(&l->tree[k], sigma_at(i), sigma_at(i + 1), l->term[k], &op->scale);
    }
}

static void on_host(lanes *l, kind what, int run)
{
    for (int k = 0; k < LANES; k++) {
        int i = (run + 2 * k) % (STEPS - 1);
        if (what == TREE)
            ks_brownian_noise(l->brownian[k], sigma_at(i), sigma_at(i + 1), l->host);
        else if (what == INITIAL)
            ks_noise_prepare((uint64_t)k, 1, LATENT, NULL, l->host);
        else
            ks_generator_normal(&l->generator[k], l->host, LATENT);
    }
}

/* Median milliseconds of `runs` steps: queueing on the host, and until the GPU is done. */
static void time_gpu(lanes *l, ks_ops *ops, kind what, int runs, float *queued, float *done)
{
    ks_error err = KS_ERROR_NONE;
    float *queue = ks_calloc((size_t)runs, sizeof *queue), *all = ks_calloc((size_t)runs, sizeof *all);
    for (int run = -3; run < runs; run++) {
        double begin = ks_seconds();
        prepare(l, what, run < 0 ? 0 : run);
        ops->noise(ops, l->op, LANES);
        double handed = ks_seconds();
        need(ops->sync(ops, &err) == 0, &err);
        if (run >= 0) {
            queue[run] = (float)(1e3 * (handed - begin));
            all[run] = (float)(1e3 * (ks_seconds() - handed));
        }
        for (int k = 0; k < LANES; k++)
            l->op[k].fresh = false;
    }
    *queued = median_of(queue, runs);
    *done = median_of(all, runs);
    free(queue);
    free(all);
}

static float time_host(lanes *l, kind what)
{
    float ms[HOST_RUNS];
    on_host(l, what, 0);
    for (int run = 0; run < HOST_RUNS; run++) {
        double begin = ks_seconds();
        on_host(l, what, run + 1);
        ms[run] = (float)(1e3 * (ks_seconds() - begin));
    }
    return median_of(ms, HOST_RUNS);
}

static void line(ks_ops *ops, const char *name, ks_noise_device device, kind what, int runs)
{
    static lanes l;
    float queued, done;
    begin(&l, ops, device, what);
    time_gpu(&l, ops, what, runs, &queued, &done);
    float host = time_host(&l, what);
    printf("%-36s %10.3f %10.3f %10.3f\n", name, (double)queued, (double)done, (double)host);
    end(&l, ops);
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    int runs = argc > 1 ? atoi(argv[1]) : 50;
    ks_ops *ops = ks_ops_cuda(0, "fp16", &err);
    need(ops, &err);
    printf("%s, %d lanes of 4x128x128, ms for all of them (medians of %d)\n", ops->device, LANES, runs);
    printf("%-36s %10s %10s %10s\n", "", "queueing", "GPU", "one core");
    line(ops, "initial noise", cpu, INITIAL, runs);
    line(ops, "next draw, cpu generator", cpu, NEXT, runs);
    line(ops, "next draw, cuda generator", cuda, NEXT, runs);
    line(ops, "Brownian tree, cpu generator", cpu, TREE, runs);
    line(ops, "Brownian tree, cuda generator", cuda, TREE, runs);
    ops->free(ops);
    return 0;
}
