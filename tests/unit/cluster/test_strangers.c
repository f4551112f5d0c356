/* Files from strangers: what they claim is not believed, and they lead nowhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <hdf5.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "job/job.h"
#include "ksweep/ksweep.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/latent_file.h"
#include "store/mask_file.h"
#include "store/store.h"
#include "store/table.h"

enum { CHANNELS = 4, HEIGHT = 2, WIDTH = 3, ROWS = 2 };

static char folder[] = "/tmp/ksweep-strangers-XXXXXX", path[128], other[128];

static int set_up(void **state)
{
    (void)state;
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    ks_log_set_level(KS_LOG_NONE);
    ks_h5_start();
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/out.h5", folder);
    snprintf(other, sizeof other, "%s/other.h5", folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    rmdir(folder);
    return 0;
}

static hid_t new_file(const char *name)
{
    hid_t file = H5Fcreate(name, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(file >= 0);
    return file;
}

/* A data set of any shape whose values are zeros; list: how it is laid out. Nothing is written. */
static void put_set(hid_t file, const char *name, hid_t type, int rank, const hsize_t *size, hid_t list)
{
    hid_t space = H5Screate_simple(rank, size, NULL);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(set >= 0);
    ks_h5_close(&set);
    ks_h5_close(&space);
}

/* Both readers of a job's inputs refuse path's /latents with a line that holds `what`. */
static void assert_refused(const char *what)
{
    float *values = NULL;
    int latent[4], mask[3];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_latent_read(path, "latents", -1, &values, latent, &err), -1);
    assert_non_null(strstr(err.text, what));
    assert_non_null(strstr(err.text, path));
    assert_null(values);
    err = KS_ERROR_NONE;
    assert_int_equal(ks_mask_read(path, "latents", &values, mask, &err), -1);
    assert_non_null(strstr(err.text, what));
    assert_null(values);
}

/* --- claims --- */

static void a_data_set_that_claims_more_than_its_file_can_hold_is_refused(void **state)
{
    (void)state;
    const hsize_t size[4] = {1, 1, 1 << 14, 1 << 14};
    hid_t file = new_file(path);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, size, H5P_DEFAULT);
    H5Fclose(file);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 1 << 16);
    assert_refused("claims 1073741824 bytes");
}

static void a_latent_larger_than_any_is_refused(void **state)
{
    (void)state;
    const hsize_t huge[4] = {1, 1, 1 << 15, 1 << 14}, overflowing[4] = {UINT32_MAX, 1, UINT32_MAX, 16};
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[4] = {1, 1, 1, 1};
    H5Pset_chunk(list, 4, chunk);
    hid_t file = new_file(path);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, huge, list);
    H5Fclose(file);
    assert_refused("has a size that no");
    file = new_file(path);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, overflowing, list);
    H5Fclose(file);
    assert_refused("has a size that no");
    ks_h5_close(&list);
}

static void a_picture_that_claims_more_than_its_file_can_hold_is_refused(void **state)
{
    (void)state;
    static const unsigned char png[] = {
        0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R', /* 16384 x 16384, grey */
        0, 0, 0x40, 0, 0, 0, 0x40, 0, 8, 0, 0, 0, 0, 0x8c, 0xa3, 0x4f, 0x58,
        0, 0, 0, 3, 'I', 'D', 'A', 'T', 0, 0, 0};
    float *values;
    int shape[3];
    ks_error err = KS_ERROR_NONE;
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(png, 1, sizeof png, f), sizeof png);
    fclose(f);
    assert_int_equal(ks_mask_read(path, NULL, &values, shape, &err), -1);
    assert_null(values);
    assert_non_null(strstr(err.text, "claims 16384 x 16384 pixels"));
}

/* --- other files --- */

static void a_data_set_that_reads_other_files_is_refused(void **state)
{
    (void)state;
    const hsize_t size[4] = {1, CHANNELS, HEIGHT, WIDTH};
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(4, size, NULL), file = new_file(path);
    assert_true(H5Pset_external(list, "/etc/hostname", 0, H5F_UNLIMITED) >= 0);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, size, list);
    H5Fclose(file);
    assert_refused("data in files elsewhere");
    ks_h5_close(&list);
    file = new_file(path);
    H5Lcreate_external("/etc/hostname", "x", file, "latents", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_refused("data in files elsewhere");
    const char *const sources[] = {"/etc/x.h5", "../x.h5", "a/../../x.h5", "..", "."};
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        list = H5Pcreate(H5P_DATASET_CREATE);
        assert_true(H5Pset_virtual(list, space, sources[i], "latents", space) >= 0);
        file = new_file(path);
        put_set(file, "latents", H5T_IEEE_F32LE, 4, size, list);
        H5Fclose(file);
        ks_h5_close(&list);
        assert_refused("data in files elsewhere");
    }
    ks_h5_close(&space);
}

/* HDF5 follows virtual data sets round and round until the stack is full. */
static void a_circle_of_virtual_data_sets_is_refused(void **state)
{
    (void)state;
    const hsize_t size[4] = {1, CHANNELS, HEIGHT, WIDTH};
    const char *const names[2] = {path, other}, *const next[2] = {"other.h5", "out.h5"};
    hid_t space = H5Screate_simple(4, size, NULL);
    for (int i = 0; i < 2; i++) {
        hid_t list = H5Pcreate(H5P_DATASET_CREATE), file = new_file(names[i]);
        assert_true(H5Pset_virtual(list, space, next[i], "latents", space) >= 0);
        put_set(file, "latents", H5T_IEEE_F32LE, 4, size, list);
        H5Fclose(file);
        ks_h5_close(&list);
    }
    assert_refused("data in files elsewhere");
    ks_h5_close(&space);
}

/* A virtual data set over a plain file beside it is what ksweep itself writes. */
static void a_virtual_data_set_over_files_beside_it_is_read(void **state)
{
    (void)state;
    const hsize_t size[4] = {1, CHANNELS, HEIGHT, WIDTH};
    hid_t space = H5Screate_simple(4, size, NULL), list = H5Pcreate(H5P_DATASET_CREATE), file = new_file(other);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, size, H5P_DEFAULT);
    H5Fclose(file);
    H5Pset_virtual(list, space, "other.h5", "latents", space);
    file = new_file(path);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, size, list);
    H5Fclose(file);
    float *values;
    int shape[4];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_latent_read(path, "latents", -1, &values, shape, &err), 0);
    assert_int_equal(shape[1], CHANNELS);
    free(values);
    ks_h5_close(&list);
    ks_h5_close(&space);
}

static void a_list_of_values_is_no_device(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    const char *job = "{\"ksweep\":1,\"model\":\"m\",\"positive\":{\"lines\":\"/dev/zero\"},\"latent_image\":{\"width\":64,"
                      "\"height\":64},\"output\":{\"file\":\"o.h5\"}}";
    assert_null(ks_job_parse("job.json", job, &err));
    assert_non_null(strstr(err.text, "/dev/zero: is not a plain file"));
}

/* --- outputs --- */

typedef struct forged {
    const char *noise_device; /* NULL: an honest one */
    uint64_t samples, index, rows; /* rows: that the data sets claim, unwritten */
    int picture_side; /* of the pictures in the file, times WIDTH */
    int table_rank;
} forged;

static const char job_text[] = "{\"ksweep\":1,\"model\":\"m\",\"positive\":\"a\",\"latent_image\":{\"width\":24,\"height\":16},"
                               "\"seed\":{\"start\":1,\"count\":2},\"output\":{\"file\":\"o.h5\",\"images\":true}}";

static void put_rows(hid_t file, const forged *f)
{
    const hsize_t size[2] = {f->rows ? f->rows : ROWS, 1000};
    hid_t type = ks_table_file_type(false), memory = ks_table_memory_type(false), list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, f->table_rank, (const hsize_t[2]){64, 1});
    put_set(file, "samples", type, f->table_rank, size, f->rows ? list : H5P_DEFAULT);
    ks_h5_close(&list);
    ks_table_row row[ROWS] = {0};
    for (int i = 0; i < ROWS; i++)
        row[i] = (ks_table_row){.index = f->index ? f->index : (uint64_t)i, .status = KS_DONE, .sampler_name = "euler",
                                .scheduler = "normal"};
    hid_t set = H5Dopen2(file, "samples", H5P_DEFAULT);
    if (f->table_rank == 1 && !f->rows)
        assert_true(H5Dwrite(set, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, row) >= 0);
    ks_h5_close(&set);
    ks_h5_close(&memory);
    ks_h5_close(&type);
}

/* A collected file as ksweep writes it, but for what is forged. */
static void make_output(const forged *f)
{
    static const char *const sampler[] = {"euler"}, *const scheduler[] = {"normal"};
    static char *label[] = {(char *)(uintptr_t) "a"};
    const ks_store_info info = {
        .samples = f->samples ? f->samples : ROWS, .channels = CHANNELS, .height = HEIGHT, .width = WIDTH, .images = true,
        .job = (char *)(uintptr_t)job_text, .job_path = (char *)(uintptr_t) "/nowhere/job.json", .backend = (char *)(uintptr_t) "cpu",
        .precision = (char *)(uintptr_t) "fp32", .noise_device = (char *)(uintptr_t)(f->noise_device ? f->noise_device : "cpu"),
        .batch_rows = 8, .samplers = 1, .schedulers = 1, .sampler_names = sampler, .scheduler_names = scheduler, .positives = 1,
        .negatives = 1, .latents = 1, .positive = label, .negative = label, .latent_image = label};
    const hsize_t rows = f->rows ? f->rows : ROWS, latent[4] = {rows, CHANNELS, HEIGHT, WIDTH};
    const hsize_t image[4] = {rows, HEIGHT * 8, (hsize_t)(WIDTH * (f->picture_side ? f->picture_side : 8)), 3};
    hid_t file = new_file(path);
    assert_int_equal(ks_info_write(file, path, &info, 0, NULL), 0);
    put_set(file, "latents", H5T_IEEE_F32LE, 4, latent, H5P_DEFAULT);
    put_set(file, "images", H5T_STD_U8LE, 4, image, H5P_DEFAULT);
    put_set(file, "row_of_index", H5T_STD_U64LE, 1, &rows, H5P_DEFAULT);
    put_rows(file, f);
    H5Fclose(file);
}

static void a_picture_larger_than_its_latent_is_not_read(void **state)
{
    (void)state;
    uint8_t *rgb = ks_calloc(HEIGHT * 8 * WIDTH * 8, 3);
    ks_error err = KS_ERROR_NONE;
    make_output(&(forged){.picture_side = 8000, .table_rank = 1});
    ks_output *o = ks_output_open(path, &err);
    assert_non_null(o);
    assert_int_equal(ks_output_image(o, 0, rgb, &err), -1);
    assert_non_null(strstr(err.text, path));
    ks_output_close(o);
    free(rgb);
}

static void a_table_of_two_axes_is_not_read(void **state)
{
    (void)state;
    ks_row row;
    ks_error err = KS_ERROR_NONE;
    make_output(&(forged){.table_rank = 2});
    ks_output *o = ks_output_open(path, &err);
    assert_non_null(o);
    assert_int_equal(ks_output_row(o, 0, &row, &err), -1);
    ks_output_close(o);
}

static void rows_that_a_file_cannot_hold_are_not_walked(void **state)
{
    (void)state;
    ks_counts counts;
    ks_error err = KS_ERROR_NONE;
    make_output(&(forged){.rows = (uint64_t)1 << 40, .table_rank = 1});
    assert_null(ks_status_text(path, false, &counts, &err));
    assert_non_null(strstr(err.text, "/samples claims"));
}

static void an_output_of_impossible_numbers_is_refused(void **state)
{
    (void)state;
    ks_counts counts;
    ks_error err = KS_ERROR_NONE;
    make_output(&(forged){.samples = UINT64_MAX / 2, .table_rank = 1});
    free(ks_status_text(path, false, &counts, &err)); /* counts, or has no memory to: either is right */
    assert_null(ks_show(path, 0, &err));
    assert_non_null(strstr(err.text, "does not make the 9223372036854775807 samples"));
    make_output(&(forged){.index = 7, .table_rank = 1});
    assert_null(ks_show(path, 0, &err));
    assert_non_null(strstr(err.text, "row 0 is of sample 7, and its job has 2"));
}

/* What a file records is a text, and stays one in the job that ksweep show prints. */
static void recorded_texts_add_no_keys_to_a_job(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    make_output(&(forged){.noise_device = "cpu\", \"model\": \"/elsewhere", .table_rank = 1});
    char *text = ks_show(path, 0, &err);
    assert_non_null(text);
    ks_json_doc *doc = ks_json_parse("shown", text, strlen(text), &err); /* refuses a second "model" */
    assert_non_null(doc);
    const char *noise;
    assert_int_equal(ks_json_string(ks_json_get(ks_json_root(doc), "noise_device"), &noise, &err), 0);
    assert_string_equal(noise, "cpu\", \"model\": \"/elsewhere");
    ks_json_free(doc);
    free(text);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_data_set_that_claims_more_than_its_file_can_hold_is_refused),
        TEST(a_latent_larger_than_any_is_refused),
        TEST(a_picture_that_claims_more_than_its_file_can_hold_is_refused),
        TEST(a_data_set_that_reads_other_files_is_refused),
        TEST(a_circle_of_virtual_data_sets_is_refused),
        TEST(a_virtual_data_set_over_files_beside_it_is_read),
        TEST(a_list_of_values_is_no_device),
        TEST(a_picture_larger_than_its_latent_is_not_read),
        TEST(a_table_of_two_axes_is_not_read),
        TEST(rows_that_a_file_cannot_hold_are_not_walked),
        TEST(an_output_of_impossible_numbers_is_refused),
        TEST(recorded_texts_add_no_keys_to_a_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
