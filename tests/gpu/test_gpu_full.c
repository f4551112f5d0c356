/* SD 1.5 at 512 x 512 and SDXL at 1024 x 1024 on random weights: the GPU against the CPU's float32, and rows that change places.
 *
 *   test_gpu_full [FOLDER]
 *
 * FOLDER (/dev/shm, or where KSWEEP_TEST_FOLDER says): where the checkpoints are found or made (5.1 and 1.7 GB); what was made is
 * removed again. Skipped where memory or the folder has too little room.
 *
 * Bounds. A result that is rounded to a type with half a unit of its last place u has a relative error of u / sqrt(3); so many
 * independent ones add as squares. The longest way through SDXL has 730 roundings (17 residual blocks of 4, 70 transformer blocks of
 * 9, 11 transformers of 3), SD 1.5's 280 (22 and 16 of them): u sqrt(730 / 3) = 15.6 u and 9.7 u. Errors made early also pass through
 * all that follows, which is given 1.6. float32: as every golden UNet. */
#include "gpu.h"

#include <math.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "model/model.h"
#include "random_model.h"
#include "support/golden.h"

enum { ROWS = 16, COMPARED = 2, CONDS = 3 };
static const double growth = 1.6, gib = 1024.0 * 1024.0 * 1024.0;

static const struct {
    const char *model;
    double roundings, host_gib, device_gib; /* memory that the comparison takes */
} sizes[] = {{"sdxl", 730, 24, 36}, {"sd15", 280, 8, 12}};

typedef struct network {
    const random_model *m;
    ks_ops *ops;
    ks_model *model;
    ks_cond *cond[CONDS];
    size_t item; /* values of a latent */
} network;

static void check(bool good, const ks_error *err)
{
    if (!good)
        fail_msg("%s", err->text);
}

static network open_network(const random_model *m, const char *path, ks_ops *ops)
{
    ks_error err = KS_ERROR_NONE;
    ks_model_config config;
    network n = {.m = m, .ops = ops, .item = 4 * (size_t)m->side * (size_t)m->side};
    ks_safetensors *st = ks_safetensors_open(path, &err);
    check(st && ks_model_detect(st, &config, &err) == 0, &err);
    n.model = ks_model_load(st, &config, ops, NULL, 0, NULL, &err);
    check(n.model != NULL, &err);
    ks_safetensors_close(st);
    check(random_conditionings(m, n.model, n.cond, CONDS, &err) == 0, &err);
    return n;
}

static void close_network(network *n)
{
    for (int i = 0; i < CONDS; i++)
        ks_cond_free(n->cond[i]);
    ks_model_free(n->model);
    n->ops->free(n->ops);
}

/* The network's output for rows pick[0..rows) of a fixed set; to be freed. */
static float *forward(network *n, const int *pick, int rows)
{
    ks_error err = KS_ERROR_NONE;
    float *x = ks_calloc(n->item * (size_t)rows, sizeof *x), *out = ks_calloc(n->item * (size_t)rows, sizeof *out);
    int timesteps[ROWS];
    ks_cond *cond[ROWS];
    for (int i = 0; i < rows; i++) {
        random_normals(x + n->item * (size_t)i, n->item, 100 + (uint64_t)pick[i]);
        timesteps[i] = 17 + 60 * pick[i];
        cond[i] = n->cond[pick[i] % CONDS];
    }
    check(ks_model_forward(n->model, x, timesteps, cond, rows, n->m->side, n->m->side, out, &err) == 0, &err);
    free(x);
    return out;
}

/* At a fixed number of rows a row's bits depend on neither its place nor its neighbours. */
static void rows_keep_their_bits(network *n, const int *plain)
{
    int moved[ROWS];
    for (int i = 0; i < ROWS; i++)
        moved[i] = plain[(5 * i + 3) % ROWS];
    float *all = forward(n, plain, ROWS), *other = forward(n, moved, ROWS);
    for (int i = 0; i < ROWS; i++)
        assert_memory_equal(other + n->item * (size_t)i, all + n->item * (size_t)moved[i], n->item * sizeof *all);
    free(all);
    free(other);
}

static void compare(const random_model *m, const char *path, const float *reference, double roundings)
{
    static const double unit[PRECISIONS] = {0, 0x1p-11, 0x1p-8};
    int plain[ROWS], wrong = 0;
    for (int i = 0; i < ROWS; i++)
        plain[i] = i;
    for (int p = 0; p < PRECISIONS; p++) {
        network n = open_network(m, path, new_gpu(precisions[p]));
        float *out = forward(&n, plain, COMPARED);
        double error = relative_l2(out, reference, (int64_t)n.item * COMPARED);
        double bound = unit[p] > 0 ? growth * sqrt(roundings / 3) * unit[p] : 1e-4;
        bool good = error <= bound; /* false for NaN */
        printf("%s %s %9.2e (bound %.2e)%s\n", m->name, precisions[p], error, bound, good ? "" : "  WRONG");
        fflush(stdout);
        wrong += !good;
        free(out);
        rows_keep_their_bits(&n, plain);
        close_network(&n);
    }
    assert_int_equal(wrong, 0);
}

/* Whether there is memory for the comparison; says what is missing. */
static bool roomy(const random_model *m, ks_ops *cpu, double host, double device)
{
    ks_ops *gpu = new_gpu("fp32");
    double free_host = (double)cpu->memory_free(cpu) / gib, free_device = (double)gpu->memory_free(gpu) / gib;
    gpu->free(gpu);
    bool good = free_host >= host && free_device >= device;
    if (!good)
        printf("%s is skipped: %.0f GiB of memory and %.0f GiB of the GPU's are free, %.0f and %.0f are needed\n", m->name, free_host,
               free_device, host, device);
    return good;
}

/* Whether the checkpoint is there or the folder has room for it; says what is missing. */
static bool found_or_fits(const random_model *m, const char *folder, bool *found)
{
    struct statvfs fs;
    char *path = ks_format("%s/random-%s.safetensors", folder, m->name);
    *found = access(path, R_OK) == 0;
    free(path);
    bool good = *found || (statvfs(folder, &fs) == 0 && (double)fs.f_bavail * (double)fs.f_frsize >= 5.5 * gib);
    if (!good)
        printf("%s is skipped: %s has no room for its checkpoint of 5.1 GB\n", m->name, folder);
    return good;
}

static const char *folder;
static int compared;

static void agrees_with_the_cpu(const random_model *m)
{
    ks_error err = KS_ERROR_NONE;
    int size = strcmp(m->name, sizes[0].model) != 0;
    assert_string_equal(m->name, sizes[size].model);
    static const int first[COMPARED] = {0, 1};
    bool found = false;
    ks_ops *cpu = ks_ops_cpu(0, &err);
    check(cpu != NULL, &err);
    if (!roomy(m, cpu, sizes[size].host_gib, sizes[size].device_gib) || !found_or_fits(m, folder, &found)) {
        cpu->free(cpu);
        return;
    }
    char *path = random_model_file(m, folder, &err);
    check(path != NULL, &err);
    network n = open_network(m, path, cpu);
    double begin = ks_seconds();
    float *reference = forward(&n, first, COMPARED);
    printf("%s: %d rows on the CPU in %.1f s\n", m->name, COMPARED, ks_seconds() - begin);
    close_network(&n);
    compare(m, path, reference, sizes[size].roundings);
    compared++;
    free(reference);
    if (!found)
        unlink(path);
    free(path);
}

static void full_sizes_agree_with_the_cpu(void **state)
{
    (void)state;
    for (int i = 0; i < RANDOM_MODELS; i++)
        agrees_with_the_cpu(&random_models[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(full_sizes_agree_with_the_cpu)};
    const char *chosen = getenv("KSWEEP_TEST_FOLDER");
    folder = argc > 1 ? argv[1] : chosen ? chosen : "/dev/shm";
    if (ks_cuda_device_count() == 0)
        return SKIPPED;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed || compared ? failed : SKIPPED;
}
