/* What the tests of the store share: a folder of their own, and samples whose every value follows
 * from a number. */
#ifndef TESTS_UNIT_STORE_FIXTURE_H
#define TESTS_UNIT_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "store/store.h"

#define FIXTURE __attribute__((unused)) static

enum {
    CHANNELS = 4,
    HEIGHT = 6,
    WIDTH = 5,
    VALUES = CHANNELS * HEIGHT * WIDTH,
    PICTURE = HEIGHT * WIDTH * 64 * 3
};

static const char *const fixture_samplers[] = {"euler", "dpmpp_2m",
                                               "res_multistep_ancestral_cfg_pp"};
static const char *const fixture_schedulers[] = {"normal", "karras"};
static char *fixture_positive[] = {"a red circle", "twee blåe \xe2\x98\x83", ""};
static char *fixture_negative[] = {"bad", "worse"};
static char *fixture_latent[] = {"{\"width\":40,\"height\":48}"};

FIXTURE char *make_folder(void)
{
    const char *base = getenv("TMPDIR");
    char *folder = ks_format("%s/ksweep-store-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(folder));
    return folder;
}

FIXTURE void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        char *inner = ks_format("%s/%s", path, e->d_name);
        remove_tree(inner);
        free(inner);
    }
    if (dir)
        closedir(dir);
    remove(path);
}

/* A test's state is its folder. */
FIXTURE int set_up(void **state)
{
    ks_log_set_level(KS_LOG_ERROR);
    *state = make_folder();
    return 0;
}

FIXTURE int tear_down(void **state)
{
    remove_tree(*state);
    free(*state);
    return 0;
}

/* Runs the body in a process of its own: HDF5 keeps memory of what it could not open or close. */
FIXTURE void run_apart(void (*body)(const char *folder), const char *folder)
{
    int status;
    pid_t child = fork();
    if (!child) {
        body(folder);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

FIXTURE ks_store_info make_info(uint64_t samples, bool float16, bool images)
{
    return (ks_store_info){.samples = samples,
                           .channels = CHANNELS,
                           .height = HEIGHT,
                           .width = WIDTH,
                           .float16 = float16,
                           .images = images,
                           .job_path = (char *)"job.json",
                           .job = "{\"ksweep\":1}",
                           .model = "demo/m.safetensors",
                           .model_sha256 = "0123abcd",
                           .version = "1.2.3",
                           .backend = "cpu",
                           .device = "a CPU",
                           .precision = "fp32",
                           .noise_device = "cuda:132",
                           .parallel = "{\"tensor\":1,\"rows\":1}",
                           .batch_rows = 16,
                           .samplers = 3,
                           .schedulers = 2,
                           .sampler_names = fixture_samplers,
                           .scheduler_names = fixture_schedulers,
                           .positives = 3,
                           .negatives = 2,
                           .latents = 1,
                           .positive = fixture_positive,
                           .negative = fixture_negative,
                           .latent_image = fixture_latent,
                           .start_time = 1700000000.25,
                           .end_time = 1700000100.5};
}

/* Values that float16 holds exactly, different for every sample and place. */
FIXTURE void make_latent(uint64_t id, float *latent)
{
    for (size_t i = 0; i < VALUES; i++)
        latent[i] = (float)((int64_t)((id * 7919 + i * 31) % 2048) - 1024) / 64;
}

FIXTURE void make_picture(uint64_t id, uint8_t *rgb)
{
    for (size_t i = 0; i < PICTURE; i++)
        rgb[i] = (uint8_t)(id * 37 + i);
}

FIXTURE ks_hash128 make_key(uint64_t id)
{
    return ks_hash(&id, sizeof id);
}

/* The row of sample `id`, at index `index` of its sweep. */
FIXTURE ks_row make_row(uint64_t id, uint64_t index)
{
    return (ks_row){.index = index,
                    .seed = id + 0xffffffff00000000u,
                    .steps = 20 + (uint32_t)(id % 3),
                    .cfg = 1.5 + (double)id,
                    .denoise = 0.75,
                    .sampler = (int32_t)(id % 3),
                    .scheduler = (int32_t)(id % 2),
                    .positive = 1,
                    .negative = 1,
                    .latent_image = 0,
                    .batch = 0,
                    .nfe = 40,
                    .status = KS_DONE,
                    .key = make_key(id)};
}

FIXTURE void append(ks_shard *s, uint64_t id, uint64_t index, bool images)
{
    ks_error err = KS_ERROR_NONE;
    float latent[VALUES];
    uint8_t picture[PICTURE];
    ks_row row = make_row(id, index);
    make_latent(id, latent);
    make_picture(id, picture);
    if (ks_shard_append(s, &row, latent, images ? picture : NULL, &err))
        fail_msg("%s", err.text);
}

FIXTURE void append_failed(ks_shard *s, uint64_t id, uint64_t index)
{
    ks_error err = KS_ERROR_NONE;
    ks_row row = make_row(id, index);
    row.status = KS_FAILED;
    if (ks_shard_append(s, &row, NULL, NULL, &err))
        fail_msg("%s", err.text);
}

/* The shard's number is the next free one of OUT.d. */
FIXTURE ks_shard *create_shard(const char *out, const ks_store_info *info)
{
    ks_error err = KS_ERROR_NONE;
    char *dir = ks_store_dir(out);
    ks_shard *s = ks_shard_create(dir, info, &err);
    if (!s)
        fail_msg("%s", err.text);
    free(dir);
    return s;
}

FIXTURE void close_shard(ks_shard *s)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_shard_close(s, &err))
        fail_msg("%s", err.text);
}

/* A closed shard of samples first, first + step, ... (count of them), index == id. */
FIXTURE void write_shard(const char *out, const ks_store_info *info, uint64_t first, uint64_t step,
                         uint64_t count)
{
    ks_shard *s = create_shard(out, info);
    for (uint64_t i = 0; i < count; i++)
        append(s, first + i * step, first + i * step, info->images);
    close_shard(s);
}

FIXTURE char *shard_path(const char *out, int number)
{
    return ks_format("%s.d/shard-%04d.h5", out, number);
}

FIXTURE bool exists(const char *path)
{
    struct stat st;
    return !stat(path, &st);
}

/* Replaces `size` bytes at the only place of the file that holds `from`. */
FIXTURE void damage_file(const char *path, const void *from, size_t size)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    size_t total = (size_t)ftell(f);
    uint8_t *bytes = malloc(total);
    rewind(f);
    assert_int_equal(fread(bytes, 1, total, f), total);
    uint8_t *at = memmem(bytes, total, from, size);
    assert_non_null(at);
    assert_null(memmem(at + 1, total - (size_t)(at + 1 - bytes), from, size));
    fseek(f, (long)(at - bytes) + (long)size / 2, SEEK_SET);
    fputc(at[size / 2] ^ 4, f);
    fclose(f);
    free(bytes);
}

#endif
