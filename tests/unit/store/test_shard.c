#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>

#include "unit/store/fixture.h"

enum { MOST = 4096 };

typedef struct seen {
    ks_row row[MOST];
    int shard[MOST];
    uint64_t place[MOST];
    uint64_t count;
} seen;

static int see(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    seen *s = self;
    if (s->count == MOST)
        return ks_error_set(err, "too many rows");
    s->row[s->count] = *row;
    s->shard[s->count] = shard;
    s->place[s->count++] = place;
    return 0;
}

static ks_scan_counts scan(const char *out, bool check, seen *s)
{
    ks_error err = KS_ERROR_NONE;
    ks_scan_counts counts;
    s->count = 0;
    if (ks_store_scan(out, check, see, s, &counts, &err))
        fail_msg("%s", err.text);
    assert_int_equal(counts.rows, s->count);
    return counts;
}

static void check_row(const ks_row *row, uint64_t id)
{
    ks_row want = make_row(id, id);
    float latent[VALUES];
    make_latent(id, latent);
    want.digest = ks_hash(latent, sizeof latent);
    assert_int_equal(row->index, want.index);
    assert_int_equal(row->seed, want.seed);
    assert_int_equal(row->steps, want.steps);
    assert_true(row->cfg == want.cfg && row->denoise == want.denoise);
    assert_int_equal(row->sampler, want.sampler);
    assert_int_equal(row->scheduler, want.scheduler);
    assert_int_equal(row->positive, want.positive);
    assert_int_equal(row->negative, want.negative);
    assert_int_equal(row->latent_image, want.latent_image);
    assert_int_equal(row->batch, want.batch);
    assert_int_equal(row->nfe, want.nfe);
    assert_int_equal(row->status, want.status);
    assert_memory_equal(&row->key, &want.key, sizeof want.key);
    assert_memory_equal(&row->digest, &want.digest, sizeof want.digest);
}

static void rows_come_back_as_they_were_written(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(100, false, true);
    seen *s = ks_calloc(1, sizeof *s);
    write_shard(out, &info, 0, 2, 7);
    write_shard(out, &info, 1, 2, 5);
    ks_scan_counts counts = scan(out, true, s);
    assert_int_equal(counts.shards, 2);
    assert_int_equal(counts.rows, 12);
    assert_int_equal(counts.bad + (uint64_t)counts.unreadable, 0);
    for (uint64_t i = 0; i < 12; i++) {
        check_row(&s->row[i], i < 7 ? i * 2 : (i - 7) * 2 + 1);
        assert_int_equal(s->shard[i], i < 7 ? 0 : 1);
        assert_int_equal(s->place[i], i < 7 ? i : i - 7);
    }
    free(s);
    free(out);
}

static void info_comes_back_as_it_was_written(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(100, true, false), *got;
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_store_info_read(out, &got, &err), 0);
    char *job = malloc(300001);
    memset(job, 'j', 300000);
    job[300000] = 0;
    info.job = job;
    write_shard(out, &info, 0, 1, 1);
    assert_int_equal(ks_store_info_read(out, &got, &err), 1);
    assert_string_equal(got->job, job);
    assert_string_equal(got->model, info.model);
    assert_string_equal(got->model_sha256, info.model_sha256);
    assert_string_equal(got->version, info.version);
    assert_string_equal(got->backend, info.backend);
    assert_string_equal(got->device, info.device);
    assert_string_equal(got->precision, info.precision);
    assert_string_equal(got->noise_device, info.noise_device);
    assert_string_equal(got->parallel, info.parallel);
    assert_int_equal(got->batch_rows, 16);
    assert_int_equal(got->samples, 100);
    assert_true(got->float16 && !got->images);
    assert_int_equal(got->channels * 10000 + got->height * 100 + got->width, 40605);
    assert_true(got->start_time == info.start_time && got->end_time == info.end_time);
    assert_int_equal(got->positives, 3);
    assert_string_equal(got->positive[1], fixture_positive[1]);
    assert_string_equal(got->negative[1], fixture_negative[1]);
    assert_string_equal(got->latent_image[0], fixture_latent[0]);
    assert_string_equal(got->sampler_names[2], fixture_samplers[2]);
    assert_string_equal(got->scheduler_names[1], fixture_schedulers[1]);
    ks_store_info_free(got);
    free(job);
    free(out);
}

static void a_running_shard_is_read_up_to_its_last_flush(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(100, false, false);
    ks_error err = KS_ERROR_NONE;
    seen *s = ks_calloc(1, sizeof *s);
    int go[2], done[2];
    char token;
    assert_int_equal(pipe(go) | pipe(done), 0);
    pid_t child = fork();
    if (!child) {
        ks_shard *shard = create_shard(out, &info);
        for (uint64_t i = 0; i < 5; i++)
            append(shard, i, i, false);
        if (ks_shard_flush(shard, &err))
            _exit(1);
        for (uint64_t i = 5; i < 8; i++)
            append(shard, i, i, false);
        _exit(write(done[1], "x", 1) != 1 || read(go[0], &token, 1) != 1);
    }
    assert_int_equal(read(done[0], &token, 1), 1);
    ks_scan_counts counts = scan(out, true, s);
    assert_int_equal(counts.rows, 5);
    assert_int_equal(counts.bad, 0);
    int status;
    assert_int_equal(write(go[1], "x", 1), 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    free(s);
    free(out);
}

/* The child appends and flushes as fast as it can, and tells after a flush what is safe. */
static void write_until_killed(const char *out, volatile uint64_t *safe)
{
    ks_store_info info = make_info(MOST, false, true);
    ks_shard *s = create_shard(out, &info);
    for (uint64_t id = 0; id < MOST; id++) {
        append(s, id, id, true);
        if (id % 3)
            continue;
        if (ks_shard_flush(s, NULL))
            _exit(1);
        *safe = id + 1;
    }
    for (;;)
        pause();
}

static void a_kill_at_any_instant_leaves_every_flushed_row_whole(void **state)
{
    volatile uint64_t *safe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                                   -1, 0);
    seen *s = ks_calloc(1, sizeof *s);
    uint64_t killed_with_rows = 0;
    srand((unsigned)getpid());
    for (int round = 0; round < 30; round++) {
        char *out = ks_format("%s/k%d.h5", (char *)*state, round);
        *safe = 0;
        pid_t child = fork();
        if (!child)
            write_until_killed(out, safe);
        struct timespec nap = {0, 2000000 + rand() % 25000000};
        nanosleep(&nap, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        uint64_t flushed = *safe;
        ks_scan_counts counts = scan(out, true, s);
        assert_true(counts.rows >= flushed);
        for (uint64_t i = 0; i < counts.rows; i++)
            check_row(&s->row[i], i);
        killed_with_rows += flushed > 0;
        free(out);
    }
    assert_true(killed_with_rows >= 10);
    munmap((void *)(uintptr_t)safe, 4096);
    free(s);
}

static void a_flipped_byte_of_a_latent_is_found(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *path = shard_path(out, 0);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    float latent[VALUES];
    write_shard(out, &info, 0, 1, 10);
    make_latent(4, latent);
    damage_file(path, latent, sizeof latent);
    ks_scan_counts counts = scan(out, true, s);
    assert_int_equal(counts.rows, 9);
    assert_int_equal(counts.bad, 1);
    for (uint64_t i = 0; i < 9; i++)
        check_row(&s->row[i], i < 4 ? i : i + 1);
    free(s);
    free(path);
    free(out);
}

static void a_flipped_byte_of_a_key_is_found_without_reading_latents(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *path = shard_path(out, 0);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    ks_hash128 key = make_key(7);
    write_shard(out, &info, 0, 1, 10);
    damage_file(path, &key, sizeof key);
    ks_scan_counts counts = scan(out, false, s);
    assert_int_equal(counts.rows, 9);
    assert_int_equal(counts.bad, 1);
    free(s);
    free(path);
    free(out);
}

static void write_bytes(const char *path, const char *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static void shards_that_are_no_shards_are_counted_and_left_out(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    for (int i = 0; i < 4; i++)
        write_shard(out, &info, (uint64_t)i * 10, 1, 10);
    char *path[3] = {shard_path(out, 0), shard_path(out, 1), shard_path(out, 2)};
    char garbage[5000];
    for (size_t i = 0; i < sizeof garbage; i++)
        garbage[i] = (char)(i * i % 251);
    write_bytes(path[0], garbage, 0);
    write_bytes(path[1], garbage, sizeof garbage);
    assert_int_equal(truncate(path[2], 700), 0);
    ks_scan_counts counts = scan(out, true, s);
    assert_int_equal(counts.unreadable, 3);
    assert_int_equal(counts.shards, 1);
    assert_int_equal(counts.rows, 10);
    for (int i = 0; i < 3; i++)
        free(path[i]);
    free(s);
    free(out);
}

/* Damages byte after byte of a shard. Every row that is still handed out must be right. */
static void scan_damaged_shards(const char *folder)
{
    char *out = ks_format("%s/o.h5", folder), *path = shard_path(out, 0);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    size_t size;
    write_shard(out, &info, 0, 1, 3);
    char *whole = ks_read_file(path, 1 << 24, &size, NULL);
    assert_non_null(whole);
    for (size_t at = 0; at < size; at += at < 12000 ? 23 : 997) {
        ks_scan_counts counts;
        ks_store_info *got = NULL;
        whole[at] = (char)(whole[at] ^ 0x55);
        write_bytes(path, whole, size);
        whole[at] = (char)(whole[at] ^ 0x55);
        s->count = 0;
        assert_int_equal(ks_store_scan(out, true, see, s, &counts, NULL), 0);
        for (uint64_t i = 0; i < s->count; i++)
            check_row(&s->row[i], s->row[i].index);
        if (ks_store_info_read(out, &got, NULL) == 1)
            assert_string_equal(got->job, info.job);
        ks_store_info_free(got);
    }
    free(whole);
    free(s);
    free(path);
    free(out);
}

static void no_damaged_byte_of_a_shard_gives_a_wrong_row_or_a_crash(void **state)
{
    run_apart(scan_damaged_shards, *state);
}

/* Cuts a shard at many places. Every row that is still handed out must be right; cut to nothing there is none. */
static void scan_cut_shards(const char *folder)
{
    char *out = ks_format("%s/o.h5", folder), *path = shard_path(out, 0);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    size_t size;
    uint64_t most = 0;
    write_shard(out, &info, 0, 1, 90);
    char *whole = ks_read_file(path, 1 << 24, &size, NULL);
    assert_non_null(whole);
    for (size_t cut = 0; cut <= size; cut += cut + 509 > size && cut < size ? size - cut : 509) {
        write_bytes(path, whole, cut);
        s->count = 0;
        assert_int_equal(ks_store_scan(out, true, see, s, NULL, NULL), 0);
        for (uint64_t i = 0; i < s->count; i++)
            check_row(&s->row[i], s->row[i].index);
        assert_true(cut || !s->count);
        most = s->count;
    }
    assert_int_equal(most, 90);
    free(whole);
    free(s);
    free(path);
    free(out);
}

static void a_shard_that_was_cut_anywhere_gives_no_wrong_row(void **state)
{
    run_apart(scan_cut_shards, *state);
}

enum { PAGE = 4096, SYNCED = 300, LATER = 120 };

/* What the disk may hold after a loss of power: of each page the synced or any later state, here one of the two; the length of
 * either. old: NULL for a file of which nothing was ever synced. */
static void write_mixture(const char *path, const char *old, size_t old_size, const char *new, size_t new_size, unsigned seed)
{
    size_t size = old && rand_r(&seed) % 2 ? old_size : new_size;
    char *mixture = ks_calloc(1, new_size);
    if (old)
        memcpy(mixture, old, old_size);
    for (size_t at = 0; at < new_size; at += PAGE)
        if (rand_r(&seed) % 2)
            memcpy(mixture + at, new + at, new_size - at < PAGE ? new_size - at : PAGE);
    write_bytes(path, mixture, size);
    free(mixture);
}

/* Rows that are found of the first SYNCED; all that are found must be right. */
static uint64_t count_found(const char *out, seen *s)
{
    uint64_t found = 0;
    s->count = 0;
    assert_int_equal(ks_store_scan(out, true, see, s, NULL, NULL), 0);
    for (uint64_t i = 0; i < s->count; i++) {
        check_row(&s->row[i], s->row[i].index);
        found += s->row[i].index < SYNCED;
    }
    return found;
}

static void lose_power(const char *folder)
{
    char *out = ks_format("%s/o.h5", folder), *path = shard_path(out, 0);
    ks_store_info info = make_info(MOST, false, false);
    ks_error err = KS_ERROR_NONE;
    seen *s = ks_calloc(1, sizeof *s);
    size_t old_size, new_size;
    ks_shard *shard = create_shard(out, &info);
    for (uint64_t id = 0; id < SYNCED; id++) {
        append(shard, id, id, false);
        assert_int_equal(id % 7 ? 0 : ks_shard_flush(shard, &err), 0);
    }
    assert_int_equal(ks_shard_sync(shard, &err), 0);
    char *old = ks_read_file(path, 1 << 24, &old_size, NULL);
    for (uint64_t id = SYNCED; id < SYNCED + LATER; id++) {
        append(shard, id, id, false);
        assert_int_equal(id % 7 ? 0 : ks_shard_flush(shard, &err), 0);
    }
    char *new = ks_read_file(path, 1 << 24, &new_size, NULL);
    close_shard(shard);
    uint64_t lost = 0;
    for (unsigned seed = 0; seed < 60; seed++) {
        write_mixture(path, old, old_size, new, new_size, seed);
        assert_int_equal(count_found(out, s), SYNCED);
        write_mixture(path, NULL, 0, new, new_size, seed);
        lost += SYNCED - count_found(out, s);
    }
    assert_true(lost > 0); /* without a sync there is something to lose */
    free(old);
    free(new);
    free(s);
    free(path);
    free(out);
}

static void a_loss_of_power_takes_only_what_came_after_the_last_sync(void **state)
{
    run_apart(lose_power, *state);
}

static void shards_made_at_once_get_numbers_of_their_own(void **state)
{
    enum { CHILDREN = 8 };
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(100, false, false);
    seen *s = ks_calloc(1, sizeof *s);
    pid_t child[CHILDREN];
    for (int i = 0; i < CHILDREN; i++) {
        child[i] = fork();
        if (!child[i]) {
            write_shard(out, &info, (uint64_t)i, CHILDREN, 3);
            _exit(0);
        }
    }
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        assert_int_equal(waitpid(child[i], &status, 0), child[i]);
        assert_int_equal(status, 0);
    }
    ks_scan_counts counts = scan(out, true, s);
    assert_int_equal(counts.shards, CHILDREN);
    assert_int_equal(counts.rows, 3 * CHILDREN);
    free(s);
    free(out);
}

static void a_folder_that_cannot_be_made_is_named(void **state)
{
    ks_store_info info = make_info(100, false, false);
    ks_error err = KS_ERROR_NONE;
    char *dir = ks_format("%s/none/o.h5.d", (char *)*state);
    assert_null(ks_shard_create(dir, &info, &err));
    assert_non_null(strstr(err.text, dir));
    assert_non_null(strstr(err.text, strerror(ENOENT)));
    free(dir);
}

static void an_out_that_is_another_file_is_an_error(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_error err = KS_ERROR_NONE;
    write_bytes(out, "my letters", 10);
    assert_int_equal(ks_store_scan(out, true, NULL, NULL, NULL, &err), -1);
    assert_non_null(strstr(err.text, out));
    free(out);
}

/* Writes until the disk is full; how many rows were flushed before. */
static uint64_t fill_disk(const char *out, uint64_t flush_every, ks_error *append_error,
                          ks_error *close_error)
{
    ks_store_info info = make_info(MOST, false, true);
    char *dir = ks_store_dir(out);
    ks_shard *s = ks_shard_create(dir, &info, append_error);
    uint64_t flushed = 0;
    assert_non_null(s);
    for (uint64_t id = 0; id < MOST; id++) {
        float latent[VALUES];
        uint8_t picture[PICTURE];
        ks_row row = make_row(id, id);
        make_latent(id, latent);
        make_picture(id, picture);
        if (ks_shard_append(s, &row, latent, picture, append_error))
            break;
        if (id % flush_every)
            continue;
        if (ks_shard_flush(s, append_error))
            break;
        flushed = id + 1;
    }
    assert_int_equal(ks_shard_close(s, close_error), -1);
    free(dir);
    return flushed;
}

static void write_to_full_disks(const char *folder)
{
    char *disk = ks_format("%s/disk", folder), *out = ks_format("%s/o.h5", disk);
    seen *s = ks_calloc(1, sizeof *s);
    mkdir(disk, 0777);
    for (int size = 200; size < 1000; size += 133) {
        char *option = ks_format("size=%dk", size);
        ks_error append_error = KS_ERROR_NONE, close_error = KS_ERROR_NONE;
        int mounted = mount("tmpfs", disk, "tmpfs", 0, option);
        free(option);
        if (mounted) {
            print_message("skipped: a small tmpfs cannot be mounted here: %s\n", strerror(errno));
            break;
        }
        uint64_t flushed = fill_disk(out, size % 2 ? 1 : 7, &append_error, &close_error);
        ks_scan_counts counts = scan(out, true, s);
        bool whole = counts.rows >= flushed && flushed > 0;
        for (uint64_t i = 0; i < flushed && whole; i++)
            check_row(&s->row[i], i);
        assert_int_equal(umount2(disk, MNT_DETACH), 0);
        assert_true(whole);
        assert_non_null(strstr(append_error.text, "shard-0000.h5"));
        assert_non_null(strstr(append_error.text, strerror(ENOSPC)));
        assert_string_equal(append_error.text, close_error.text);
    }
    free(s);
    free(out);
    free(disk);
}

static void a_full_disk_is_told_and_leaves_what_was_flushed(void **state)
{
    run_apart(write_to_full_disks, *state);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rows_come_back_as_they_were_written),
        TEST(info_comes_back_as_it_was_written),
        TEST(a_running_shard_is_read_up_to_its_last_flush),
        TEST(a_kill_at_any_instant_leaves_every_flushed_row_whole),
        TEST(a_flipped_byte_of_a_latent_is_found),
        TEST(a_flipped_byte_of_a_key_is_found_without_reading_latents),
        TEST(shards_that_are_no_shards_are_counted_and_left_out),
        TEST(no_damaged_byte_of_a_shard_gives_a_wrong_row_or_a_crash),
        TEST(a_shard_that_was_cut_anywhere_gives_no_wrong_row),
        TEST(a_loss_of_power_takes_only_what_came_after_the_last_sync),
        TEST(shards_made_at_once_get_numbers_of_their_own),
        TEST(a_folder_that_cannot_be_made_is_named),
        TEST(an_out_that_is_another_file_is_an_error),
        TEST(a_full_disk_is_told_and_leaves_what_was_flushed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
