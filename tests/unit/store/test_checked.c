/* What a restart keeps for the next one: what is the same is not read again, what has changed is. */
#include "fixture.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/time.h>
#include <time.h>

#include "store/checked.h"
#include "store/h5.h"

enum { SAMPLES = 1000, ROWS = 20 };

static const ks_hash128 sweep = {{1}}, other_sweep = {{2}};

typedef struct seen {
    uint64_t rows;
    uint64_t done[SAMPLES / 64 + 1];
} seen;

static int see(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    (void)shard, (void)place, (void)err;
    seen *s = self;
    s->rows++;
    s->done[row->index / 64] |= (uint64_t)1 << (row->index % 64);
    return 0;
}

/* Rows [first, first + ROWS) in the next shard. */
static void put_shard(const char *out, uint64_t first)
{
    ks_store_info info = make_info(SAMPLES, false, false);
    ks_shard *s = create_shard(out, &info);
    for (uint64_t i = first; i < first + ROWS; i++)
        append(s, i, i, false);
    close_shard(s);
}

static void settle(void)
{
    nanosleep(&(struct timespec){.tv_sec = 2, .tv_nsec = 200000000}, NULL);
}

/* A restart of that sweep: rows that were read (*bad: and were not good), and what is known in all. */
static uint64_t restart(const char *out, ks_hash128 of, uint64_t *bad, uint64_t *all)
{
    seen s = {0};
    ks_error err = KS_ERROR_NONE;
    ks_scan_counts counts;
    ks_rescan r = {.samples = SAMPLES, .sweep = of};
    assert_int_equal(ks_store_rescan(out, &r, see, &s, &counts, &err), 0);
    *all = 0;
    for (size_t i = 0; i < SAMPLES / 64 + 1; i++) {
        s.done[i] |= r.done ? r.done[i] : 0;
        *all += (uint64_t)__builtin_popcountll(s.done[i]);
    }
    *bad = counts.bad;
    ks_store_rescan_end(&r, s.done, s.done);
    return s.rows;
}

#define assert_restart(out, of, read, wrong, known)                     \
    do {                                                                \
        uint64_t bad_, all_, rows_ = restart(out, of, &bad_, &all_);    \
        assert_int_equal(rows_, read);                                  \
        assert_int_equal(bad_, wrong);                                  \
        assert_int_equal(all_, known);                                  \
    } while (0)

/* Turns a bit of the latent of a row, in the file's bytes; HDF5 is not asked. */
static void flip(const char *out, int number, uint64_t id)
{
    float latent[VALUES];
    size_t size;
    ks_error err = KS_ERROR_NONE;
    make_latent(id, latent);
    char *path = ks_format("%s.d/shard-%04d.h5", out, number), *bytes = ks_read_file(path, 1 << 24, &size, &err);
    assert_non_null(bytes);
    char *at = memmem(bytes, size, latent, sizeof latent);
    assert_non_null(at);
    int fd = open(path, O_WRONLY);
    *at ^= 1;
    assert_int_equal(pwrite(fd, at, 1, at - bytes), 1);
    close(fd);
    free(bytes);
    free(path);
}

static void what_is_the_same_is_not_read_again(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state);
    put_shard(out, 0);
    put_shard(out, 100);
    settle();
    assert_restart(out, sweep, 2 * ROWS, 0, 2 * ROWS);
    assert_restart(out, sweep, 0, 0, 2 * ROWS);
    put_shard(out, 500); /* too new to be kept */
    assert_restart(out, sweep, ROWS, 0, 3 * ROWS);
    assert_restart(out, sweep, ROWS, 0, 3 * ROWS);
    assert_restart(out, other_sweep, 3 * ROWS, 0, 3 * ROWS);
    free(out);
}

static void what_has_changed_is_read(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state);
    put_shard(out, 0);
    put_shard(out, 100);
    settle();
    assert_restart(out, sweep, 2 * ROWS, 0, 2 * ROWS);
    flip(out, 1, 105);
    assert_restart(out, sweep, 2 * ROWS - 1, 1, 2 * ROWS - 1);
    settle();
    assert_restart(out, sweep, 2 * ROWS - 1, 1, 2 * ROWS - 1);
    char *first = ks_format("%s.d/shard-0000.h5", out);
    assert_int_equal(unlink(first), 0);
    assert_restart(out, sweep, ROWS - 1, 1, ROWS - 1);
    free(first);
    free(out);
}

/* Where the order of the samples has changed, tables are read, and latents that were good are not. */
static void a_latent_is_held_against_its_digest_once(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state), *dir = ks_store_dir(out);
    put_shard(out, 0);
    settle();
    assert_restart(out, sweep, ROWS, 0, ROWS);
    ks_checked kept;
    ks_checked_read(dir, &kept);
    assert_int_equal(kept.files, 1);
    flip(out, 0, 3);
    char *path = ks_format("%s/shard-0000.h5", dir);
    kept.file[0].mark = ks_file_mark_of(path); /* as if the flip had not shown in the times */
    int64_t now;
    ks_checked_write(dir, ks_checked_begin(dir, &now), &kept);
    assert_restart(out, other_sweep, ROWS, 0, ROWS);
    ks_checked_free(&kept);
    free(path);
    free(dir);
    free(out);
}

static void a_damaged_record_is_as_none(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state), *path = ks_format("%s.d/checked", out);
    put_shard(out, 0);
    settle();
    assert_restart(out, sweep, ROWS, 0, ROWS);
    for (off_t at = 0; at < 400; at += 13) {
        int fd = open(path, O_RDWR);
        char byte;
        assert_true(fd >= 0);
        if (pread(fd, &byte, 1, at) == 1) {
            byte ^= 16;
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
            assert_restart(out, sweep, ROWS, 0, ROWS); /* which also puts it right */
        }
        close(fd);
        assert_restart(out, sweep, 0, 0, ROWS);
    }
    assert_int_equal(truncate(path, 100), 0);
    assert_restart(out, sweep, ROWS, 0, ROWS);
    free(path);
    free(out);
}

static int stop_at_100(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    (void)self, (void)shard, (void)place;
    return row->index == 100 ? ks_error_set(err, "stopped") : 0;
}

static void rename_shard(const char *out, int from, int to)
{
    char *old = ks_format("%s.d/shard-%04d.h5", out, from), *new = ks_format("%s.d/shard-%04d.h5", out, to);
    assert_int_equal(to < 0 ? unlink(old) : rename(old, new), 0);
    free(old);
    free(new);
}

/* It has seen some of the files: with those alone, bitmaps that tell of the others would outlive them. */
static void a_restart_that_is_stopped_keeps_nothing_new(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state);
    put_shard(out, 200);
    rename_shard(out, 0, 2);
    settle();
    assert_restart(out, sweep, ROWS, 0, ROWS);
    put_shard(out, 0);
    put_shard(out, 100);
    rename_shard(out, 3, 0);
    rename_shard(out, 4, 1);
    settle();
    ks_error err = KS_ERROR_NONE;
    ks_scan_counts counts;
    ks_rescan r = {.samples = SAMPLES, .sweep = sweep};
    assert_int_equal(ks_store_rescan(out, &r, stop_at_100, NULL, &counts, &err), -1);
    ks_store_rescan_end(&r, NULL, NULL);
    rename_shard(out, 2, -1);
    assert_restart(out, sweep, 2 * ROWS, 0, 2 * ROWS);
    free(out);
}

static void a_glance_counts_what_is_known_and_what_is_new(void **state)
{
    char *out = ks_format("%s/out.h5", (char *)*state);
    seen s = {0};
    ks_error err = KS_ERROR_NONE;
    ks_scan_counts counts;
    put_shard(out, 0);
    settle();
    assert_restart(out, sweep, ROWS, 0, ROWS);
    put_shard(out, 100);
    ks_rescan r = {.samples = SAMPLES};
    assert_int_equal(ks_store_glance(out, &r, true, see, &s, &counts, &err), 0);
    assert_int_equal(s.rows, ROWS);
    assert_non_null(r.done);
    assert_int_equal(r.done[0], ((uint64_t)1 << ROWS) - 1);
    assert_int_equal(counts.shards, 2);
    ks_store_rescan_end(&r, NULL, NULL);
    assert_restart(out, sweep, ROWS, 0, 2 * ROWS);
    r = (ks_rescan){.samples = SAMPLES}; /* in another order: nothing is known */
    assert_int_equal(ks_store_glance(out, &r, false, see, &s, &counts, &err), 0);
    assert_null(r.done);
    ks_store_rescan_end(&r, NULL, NULL);
    r = (ks_rescan){.samples = SAMPLES + 1}; /* a sweep of another size: nothing is known */
    assert_int_equal(ks_store_glance(out, &r, true, see, &s, &counts, &err), 0);
    assert_null(r.done);
    ks_store_rescan_end(&r, NULL, NULL);
    free(out);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_the_same_is_not_read_again),
        TEST(what_has_changed_is_read),
        TEST(a_latent_is_held_against_its_digest_once),
        TEST(a_damaged_record_is_as_none),
        TEST(a_restart_that_is_stopped_keeps_nothing_new),
        TEST(a_glance_counts_what_is_known_and_what_is_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
