#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <sys/mount.h>
#include <time.h>

#include "unit/store/fixture.h"

/* Which index the present sweep gives a sample: id * scale + shift; samples from `limit` on are not
 * in it. */
typedef struct sweep {
    uint64_t scale, shift, limit;
} sweep;

static int64_t index_of(void *self, const ks_row *row)
{
    const sweep *s = self;
    for (uint64_t id = 0; id < s->limit; id++) {
        ks_hash128 key = make_key(id);
        if (ks_hash_equal(&key, &row->key))
            return (int64_t)(id * s->scale + s->shift);
    }
    return -1;
}

static void collect(const char *out, const ks_store_info *info, const char *mode, sweep s)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_store_collect(out, info, mode, index_of, &s, &err))
        fail_msg("%s", err.text);
}

static const sweep SAME = {1, 0, 100};

static ks_output *open_output(const char *out)
{
    ks_error err = KS_ERROR_NONE;
    ks_output *o = ks_output_open(out, &err);
    if (!o)
        fail_msg("%s", err.text);
    return o;
}

/* The row of sample `index` must be that of `id` with the given status. */
static void check_sample(ks_output *o, uint64_t index, uint64_t id, ks_status status)
{
    ks_error err = KS_ERROR_NONE;
    uint64_t r;
    ks_row row, want = make_row(id, index);
    float latent[VALUES], wanted[VALUES] = {0};
    uint8_t *picture = ks_calloc(2, PICTURE), *wanted_picture = picture + PICTURE;
    if (ks_output_find(o, index, &r, &err) || ks_output_row(o, r, &row, &err) ||
        ks_output_latent(o, r, latent, &err))
        fail_msg("%s", err.text);
    assert_int_equal(row.index, index);
    assert_int_equal(row.status, status);
    if (status == KS_DONE) {
        make_latent(id, wanted);
        make_picture(id, wanted_picture);
    }
    assert_memory_equal(latent, wanted, sizeof wanted);
    if (ks_output_info(o)->images) {
        assert_int_equal(ks_output_image(o, r, picture, &err), 0);
        assert_memory_equal(picture, wanted_picture, PICTURE);
    }
    free(picture);
    if (status == KS_MISSING)
        return;
    assert_int_equal(row.seed, want.seed);
    assert_int_equal(row.steps, want.steps);
    assert_true(row.cfg == want.cfg && row.denoise == want.denoise);
    assert_int_equal(row.sampler, want.sampler);
    assert_int_equal(row.scheduler, want.scheduler);
    assert_int_equal(row.nfe, want.nfe);
    assert_memory_equal(&row.key, &want.key, sizeof want.key);
}

static void check_all(const char *out, uint64_t samples)
{
    uint64_t checked, bad;
    ks_output *o = open_output(out);
    assert_int_equal(ks_output_rows(o), samples);
    for (uint64_t i = 0; i < samples; i++)
        check_sample(o, i, i, KS_DONE);
    assert_int_equal(ks_output_verify(o, &checked, &bad, NULL), 0);
    assert_int_equal(checked, samples);
    assert_int_equal(bad, 0);
    ks_output_close(o);
}

static bool has_shards(const char *out)
{
    char *dir = ks_store_dir(out);
    bool has = exists(dir);
    free(dir);
    return has;
}

static void write_three(const char *out, const ks_store_info *info)
{
    write_shard(out, info, 2, 3, 10);
    write_shard(out, info, 0, 3, 10);
    write_shard(out, info, 1, 3, 10);
}

static void a_merged_file_has_every_sample_in_its_own_row(void **state)
{
    for (int f16 = 0; f16 < 2; f16++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, f16);
        ks_store_info info = make_info(30, f16, true);
        write_three(out, &info);
        check_all(out, 30); /* not collected yet: the shards as one */
        collect(out, &info, "merge", SAME);
        assert_false(has_shards(out));
        check_all(out, 30);
        ks_output *o = open_output(out);
        for (uint64_t i = 0, r; i < 30; i++) {
            assert_int_equal(ks_output_find(o, i, &r, NULL), 0);
            assert_int_equal(r, i);
        }
        ks_output_close(o);
        free(out);
    }
}

static void labels_follow_from_the_place_in_the_present_sweep(void **state)
{
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, is_virtual);
        ks_store_info info = make_info(30, false, false);
        ks_row row;
        write_three(out, &info); /* recorded as positive 1, negative 1, all of them */
        collect(out, &info, is_virtual ? "virtual" : "merge", SAME);
        ks_output *o = open_output(out);
        for (uint64_t r = 0; r < 30; r++) {
            assert_int_equal(ks_output_row(o, r, &row, NULL), 0);
            assert_int_equal(row.positive,
                             row.index / 10); /* 3 positives x 2 negatives, slowest first */
            assert_int_equal(row.negative, row.index / 5 % 2);
            assert_int_equal(row.latent_image, 0);
        }
        ks_output_close(o);
        free(out);
    }
}

static void a_merged_file_tells_the_info(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(30, false, false), *got;
    write_three(out, &info);
    collect(out, &info, "merge", SAME);
    assert_int_equal(ks_store_info_read(out, &got, NULL), 1);
    assert_string_equal(got->job, info.job);
    assert_string_equal(got->parallel, info.parallel);
    assert_true(got->end_time == info.end_time);
    assert_string_equal(got->positive[1], fixture_positive[1]);
    ks_store_info_free(got);
    free(out);
}

static void a_virtual_file_maps_the_shards_and_can_be_moved(void **state)
{
    for (int f16 = 0; f16 < 2; f16++) {
        char *from = ks_format("%s/a%d", (char *)*state, f16),
             *to = ks_format("%s/b%d", (char *)*state, f16);
        char *out = ks_format("%s/o.h5", from), *moved = ks_format("%s/o.h5", to);
        ks_store_info info = make_info(30, f16, true);
        mkdir(from, 0777);
        write_three(out, &info);
        collect(out, &info, "virtual", SAME);
        assert_true(has_shards(out));
        assert_int_equal(rename(from, to), 0);
        check_all(moved, 30);
        ks_row row;
        ks_output *o = open_output(
            moved); /* in the shards' order: the first shard began with sample 2 */
        assert_int_equal(ks_output_row(o, 0, &row, NULL), 0);
        assert_int_equal(row.index, 2);
        ks_output_close(o);
        free(from);
        free(to);
        free(out);
        free(moved);
    }
}

static void missing_and_failed_samples_are_zeros_with_their_status(void **state)
{
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, is_virtual);
        ks_store_info info = make_info(30, false, true);
        ks_shard *s = create_shard(out, &info);
        append(s, 3, 3, true);
        append_failed(s, 9, 9);
        append(s, 1, 1, true);
        close_shard(s);
        collect(out, &info, is_virtual ? "virtual" : "merge", SAME);
        uint64_t checked, bad;
        ks_output *o = open_output(out);
        assert_int_equal(ks_output_rows(o), 30);
        for (uint64_t i = 0; i < 30; i++)
            check_sample(o, i, i, i == 1 || i == 3 ? KS_DONE : i == 9 ? KS_FAILED : KS_MISSING);
        assert_int_equal(ks_output_verify(o, &checked, &bad, NULL), 0);
        assert_int_equal(checked * 10 + bad, 20);
        ks_output_close(o);
        free(out);
    }
}

static void of_two_rows_of_a_sample_the_done_and_whole_one_counts(void **state)
{
    for (int is_virtual = 0; is_virtual < 2; is_virtual++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, is_virtual), *first = shard_path(out, 0);
        ks_store_info info = make_info(12, false, false);
        float latent[VALUES];
        ks_shard *s = create_shard(out, &info);
        append_failed(s, 0, 0);
        append(s, 1, 1, false);
        append(s, 2, 2, false);
        close_shard(s);
        write_shard(out, &info, 0, 1,
                    12); /* 0 failed before, 1 is whole twice, 2 is damaged below */
        s = create_shard(out, &info);
        append_failed(s, 5, 5);
        close_shard(s);
        make_latent(2, latent);
        damage_file(first, latent, sizeof latent);
        collect(out, &info, is_virtual ? "virtual" : "merge", SAME);
        check_all(out, 12);
        free(first);
        free(out);
    }
}

static void a_row_that_is_damaged_and_alone_is_missing(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *path = shard_path(out, 0);
    ks_store_info info = make_info(12, false, false);
    float latent[VALUES];
    write_shard(out, &info, 0, 1, 12);
    make_latent(4, latent);
    damage_file(path, latent, sizeof latent);
    sweep same = SAME;
    assert_int_equal(ks_store_collect(out, &info, "merge", index_of, &same, NULL), 1);
    ks_output *o = open_output(out);
    for (uint64_t i = 0; i < 12; i++)
        check_sample(o, i, i, i == 4 ? KS_MISSING : KS_DONE);
    ks_output_close(o);
    free(path);
    free(out);
}

/* A job that grows: what was merged under its old sweep has other indices in the new one. */
static void grow(const char *folder, const char *before, const char *after)
{
    char *out = ks_format("%s/%s-%s.h5", folder, before, after);
    ks_store_info small = make_info(6, false, true), large = make_info(12, false, true);
    large.job = "{\"ksweep\":1,\"grown\":true}";
    write_shard(out, &small, 0, 1, 6);
    collect(out, &small, before, SAME);
    ks_shard *s = create_shard(out, &large);
    for (uint64_t id = 6; id < 12; id++) /* the new samples: ids 6.. at the odd indices */
        append(s, id, (id - 6) * 2 + 1, true);
    close_shard(s);
    ks_error err = KS_ERROR_NONE;
    if (ks_store_collect(out, &large, after, NULL, NULL,
                         &err)) /* by recorded index: only the new job's rows */
        fail_msg("%s", err.text);
    ks_output *o = open_output(out);
    for (uint64_t i = 0; i < 12; i++)
        check_sample(o, i, 6 + i / 2, i % 2 ? KS_DONE : KS_MISSING);
    ks_output_close(o);
    assert_true(has_shards(out)); /* the old job's rows are not thrown away */
    free(out);
}

static int64_t grown_index(void *self, const ks_row *row)
{
    (void)self;
    for (uint64_t id = 0; id < 12; id++) {
        ks_hash128 key = make_key(id);
        if (ks_hash_equal(&key, &row->key))
            return (int64_t)(id < 6 ? id * 2 : (id - 6) * 2 + 1);
    }
    return -1;
}

static void a_grown_job_keeps_what_was_collected(void **state)
{
    static const char *const mode[2] = {"merge", "virtual"};
    for (int k = 0; k < 4; k++) {
        const char *before = mode[k / 2], *after = mode[k % 2];
        char *out = ks_format("%s/%s-%s.h5", (char *)*state, before, after);
        ks_error err = KS_ERROR_NONE;
        ks_store_info large = make_info(12, false, true);
        large.job = "{\"ksweep\":1,\"grown\":true}";
        grow(*state, before, after);
        if (ks_store_collect(out, &large, after, grown_index, NULL, &err))
            fail_msg("%s", err.text);
        ks_output *o = open_output(out);
        for (uint64_t i = 0; i < 12; i++)
            check_sample(o, i, i % 2 ? 6 + i / 2 : i / 2, KS_DONE);
        ks_output_close(o);
        assert_int_equal(has_shards(out), !strcmp(after, "virtual"));
        free(out);
    }
}

static void rows_of_another_job_stay_beside_the_merged_file(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(30, false, false), half = make_info(12, false, false);
    write_three(out, &info);
    collect(out, &info, "merge", SAME);
    collect(out, &half, "merge", (sweep){1, 0, 12});
    check_all(out, 12);
    assert_true(has_shards(out));
    collect(out, &info, "merge", SAME); /* and come back with it */
    check_all(out, 30);
    assert_false(has_shards(out));
    free(out);
}

static void collecting_again_leaves_a_complete_file_alone(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(30, false, false);
    struct stat before, after;
    write_three(out, &info);
    collect(out, &info, "auto", SAME);
    assert_int_equal(stat(out, &before), 0);
    collect(out, &info, "auto", SAME);
    assert_int_equal(stat(out, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    free(out);
}

static void latents_of_the_other_type_are_converted(void **state)
{
    static const char *const mode[2] = {"merge", "virtual"};
    for (int k = 0; k < 4; k++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, k);
        ks_store_info before = make_info(12, k / 2, true), info = make_info(12, !(k / 2), true);
        write_shard(out, &before, 0, 2, 6);
        write_shard(out, &info, 1, 2, 6);
        collect(out, &info, mode[k % 2], SAME);
        check_all(out, 12);
        free(out);
    }
}

static void a_file_of_another_shape_is_left_out(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(12, false, false), other = info;
    ks_error err = KS_ERROR_NONE;
    float latent[VALUES * 2] = {0};
    other.height *= 2;
    char *dir = ks_store_dir(out);
    ks_shard *s = ks_shard_create(dir, &other, &err);
    ks_row row = make_row(0, 0);
    assert_non_null(s);
    assert_int_equal(ks_shard_append(s, &row, latent, NULL, &err), 0);
    close_shard(s);
    write_shard(out, &info, 0, 1, 12);
    collect(out, &info, "merge", SAME);
    check_all(out, 12);
    free(dir);
    free(out);
}

/* Opened as HDF5's own readers do, who know nothing of SWMR. */
static int64_t plain_sum(const char *out, uint64_t rows)
{
    uint16_t *halves = ks_calloc(rows * VALUES, sizeof *halves);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fopen(out, H5F_ACC_RDONLY, H5P_DEFAULT),
          set = H5Dopen2(file, "latents", H5P_DEFAULT);
    hid_t type = H5Dget_type(set);
    assert_true(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, halves) >= 0);
    int64_t sum = 0;
    for (size_t i = 0; i < rows * VALUES; i++)
        sum += halves[i];
    H5Tclose(type);
    H5Dclose(set);
    H5Fclose(file);
    free(halves);
    return sum;
}

static void a_virtual_file_over_killed_shards_can_be_read_by_all(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *whole = ks_format("%s/w.h5", (char *)*state);
    ks_store_info info = make_info(12, true, false);
    int status;
    pid_t child = fork();
    if (!child) {
        ks_shard *s = create_shard(out, &info);
        for (uint64_t i = 0; i < 5; i++)
            append(s, i, i, false);
        _exit(ks_shard_flush(s, NULL) ? 1 : 0); /* and never closed */
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    write_shard(out, &info, 5, 1, 7);
    collect(out, &info, "virtual", SAME);
    check_all(out, 12);
    write_shard(whole, &info, 0, 1, 12);
    collect(whole, &info, "merge", SAME);
    assert_true(plain_sum(out, 12) == plain_sum(whole, 12));
    free(out);
    free(whole);
}

static void a_kill_while_collecting_loses_nothing(void **state)
{
    ks_store_info info = make_info(96, false, true);
    srand((unsigned)getpid());
    for (int round = 0; round < 8; round++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, round);
        write_shard(out, &info, 0, 2, 48);
        write_shard(out, &info, 1, 2, 48);
        pid_t child = fork();
        if (!child) {
            ks_store_collect(out, &info, round % 2 ? "virtual" : "merge", NULL, NULL, NULL);
            _exit(0);
        }
        struct timespec nap = {0, rand() % 12000000};
        nanosleep(&nap, NULL);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        collect(out, &info, round % 4 < 2 ? "merge" : "virtual", SAME);
        check_all(out, 96);
        free(out);
    }
}

static void an_output_that_is_still_written_is_read_as_one(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(12, false, false);
    ks_shard *s = create_shard(out, &info);
    append(s, 11, 11, false);
    append(s, 3, 3, false);
    assert_int_equal(ks_shard_flush(s, NULL), 0);
    ks_output *o = open_output(out);
    assert_int_equal(ks_output_rows(o), 12);
    for (uint64_t i = 0; i < 12; i++)
        check_sample(o, i, i, i == 11 || i == 3 ? KS_DONE : KS_MISSING);
    ks_output_close(o);
    close_shard(s);
    free(out);
}

static void a_resumed_run_is_read_together_with_what_was_collected(void **state)
{
    static const char *const mode[2] = {"merge", "virtual"};
    for (int k = 0; k < 2; k++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, k);
        ks_store_info info = make_info(12, false, true);
        write_shard(out, &info, 0, 1, 5);
        collect(out, &info, mode[k], SAME);
        write_shard(out, &info, 5, 1, 4);
        ks_output *o = open_output(out);
        for (uint64_t i = 0; i < 12; i++)
            check_sample(o, i, i, i < 9 ? KS_DONE : KS_MISSING);
        ks_output_close(o);
        write_shard(out, &info, 9, 1, 3);
        collect(out, &info, mode[k], SAME);
        check_all(out, 12);
        free(out);
    }
}

static void collect_on_a_full_disk(const char *folder)
{
    char *disk = ks_format("%s/disk", folder), *out = ks_format("%s/o.h5", disk);
    char *part = ks_format("%s.part", out);
    ks_store_info info = make_info(96, false, true);
    ks_error err = KS_ERROR_NONE;
    mkdir(disk, 0777);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=900k")) {
        print_message("skipped: a small tmpfs cannot be mounted here: %s\n", strerror(errno));
    } else {
        write_shard(out, &info, 0, 1, 96);
        int status = ks_store_collect(out, &info, "merge", NULL, NULL, &err);
        bool clean = !exists(out) && !exists(part) && has_shards(out);
        if (clean)
            check_all(out, 96);
        assert_int_equal(umount2(disk, MNT_DETACH), 0);
        assert_int_equal(status, -1);
        assert_true(clean);
        assert_non_null(strstr(err.text, part));
        assert_non_null(strstr(err.text, strerror(ENOSPC)));
    }
    free(part);
    free(out);
    free(disk);
}

static void a_full_disk_while_collecting_leaves_the_shards(void **state)
{
    run_apart(collect_on_a_full_disk, *state);
}

static void a_flipped_byte_of_a_collected_latent_is_found(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(12, false, false);
    float latent[VALUES];
    uint64_t checked, bad;
    write_shard(out, &info, 0, 1, 12);
    collect(out, &info, "merge", SAME);
    make_latent(7, latent);
    damage_file(out, latent, sizeof latent);
    ks_log_set_level((ks_log_level)0);
    ks_output *o = open_output(out);
    assert_int_equal(ks_output_verify(o, &checked, &bad, NULL), 0);
    assert_int_equal(checked * 100 + bad, 1201);
    ks_output_close(o);
    free(out);
}

static void what_is_not_there_is_told(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(12, false, false);
    ks_error err = KS_ERROR_NONE;
    ks_row row;
    assert_null(ks_output_open(out, &err));
    assert_non_null(strstr(err.text, out));
    write_shard(out, &info, 0, 1, 12);
    ks_output *o = open_output(out);
    assert_int_equal(ks_output_row(o, 12, &row, &err), -1);
    assert_non_null(strstr(err.text, "12 rows"));
    assert_int_equal(ks_output_image(o, 0, NULL, &err), -1);
    assert_non_null(strstr(err.text, "images"));
    ks_output_close(o);
    assert_int_equal(ks_store_collect(out, &info, "merged", NULL, NULL, &err), -1);
    assert_non_null(strstr(err.text, "\"merged\""));
    free(out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_merged_file_has_every_sample_in_its_own_row),
        TEST(labels_follow_from_the_place_in_the_present_sweep),
        TEST(a_merged_file_tells_the_info),
        TEST(a_virtual_file_maps_the_shards_and_can_be_moved),
        TEST(missing_and_failed_samples_are_zeros_with_their_status),
        TEST(of_two_rows_of_a_sample_the_done_and_whole_one_counts),
        TEST(a_row_that_is_damaged_and_alone_is_missing),
        TEST(a_grown_job_keeps_what_was_collected),
        TEST(rows_of_another_job_stay_beside_the_merged_file),
        TEST(collecting_again_leaves_a_complete_file_alone),
        TEST(latents_of_the_other_type_are_converted),
        TEST(a_file_of_another_shape_is_left_out),
        TEST(a_virtual_file_over_killed_shards_can_be_read_by_all),
        TEST(a_kill_while_collecting_loses_nothing),
        TEST(an_output_that_is_still_written_is_read_as_one),
        TEST(a_resumed_run_is_read_together_with_what_was_collected),
        TEST(a_full_disk_while_collecting_leaves_the_shards),
        TEST(a_flipped_byte_of_a_collected_latent_is_found),
        TEST(what_is_not_there_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
