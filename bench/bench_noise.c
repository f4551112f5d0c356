/* How fast one core makes noise: normals a second of torch's two generators, and Brownian-tree
 * queries a second, at the latent of an SDXL picture of 1024 x 1024 (4 x 128 x 128).
 *
 * bench_noise [seconds a line, 0.5 by default] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sampling/noise.h"

enum { LATENT = 4 * 128 * 128, STEPS = 20 };

static const ks_noise_device cpu = {KS_NOISE_CPU, 0}, cuda = {KS_NOISE_CUDA, 132};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void line(const char *what, double count, double seconds, double scale, const char *unit)
{
    printf("%-34s %12.2f %s\n", what, count / seconds / scale, unit);
}

static void bench_draws(const char *what, ks_noise_device device, int64_t n, double limit,
                        float *out)
{
    ks_generator g;
    ks_generator_seed(&g, device, 1);
    ks_generator_normal(&g, out, n);
    double start = now(), count = 0;
    do {
        ks_generator_normal(&g, out, n);
        count += (double)n;
    } while (now() - start < limit);
    line(what, count, now() - start, 1e6, "M normals/s");
}

/* The queries of a sampler with one noise a step over Karras sigmas: each shares a sigma with the
 * last. */
static int bench_tree(const char *what, ks_noise_device device, double limit, float *out)
{
    static const double high = 14.614641189575195, low = 0.029167158529162407;
    double start = now(), count = 0;
    for (uint64_t seed = 0; now() - start < limit; seed++) {
        ks_error err = KS_ERROR_NONE;
        ks_brownian *b = ks_brownian_new(device, seed, low, high, LATENT, &err);
        if (!b) {
            fprintf(stderr, "bench_noise: %s\n", err.text);
            return -1;
        }
        double sigma = high;
        for (int i = 1; i < STEPS; i++, count++) {
            double root = 1.4669 + i * (0.6035 - 1.4669) / (STEPS - 1), next = 1;
            for (int k = 0; k < 7; k++)
                next *= root;
            next = (double)(float)next;
            ks_brownian_noise(b, sigma, next, out);
            sigma = next;
        }
        ks_brownian_free(b);
    }
    line(what, count, now() - start, 1, "queries/s");
    return 0;
}

int main(int argc, char **argv)
{
    double limit = argc > 1 ? atof(argv[1]) : 0.5;
    float *out = malloc(16 * LATENT * sizeof *out);
    if (!out) {
        fprintf(stderr, "bench_noise: no memory for %d normals\n", 16 * LATENT);
        return 2;
    }
    bench_draws("cpu generator, 1x4x128x128", cpu, LATENT, limit, out);
    bench_draws("cpu generator, 16x4x128x128", cpu, 16 * LATENT, limit, out);
    bench_draws("cuda generator, 1x4x128x128", cuda, LATENT, limit, out);
    bench_draws("cuda generator, 16x4x128x128", cuda, 16 * LATENT, limit, out);
    int rc = bench_tree("Brownian tree, cpu, 1x4x128x128", cpu, limit, out);
    if (!rc)
        rc = bench_tree("Brownian tree, cuda, 1x4x128x128", cuda, limit, out);
    free(out);
    return rc ? 2 : 0;
}
