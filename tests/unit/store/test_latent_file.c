#include <hdf5.h>
#include <math.h>

#include "store/latent_file.h"
#include "unit/store/fixture.h"

enum { HELD = 200 }; /* values behind these are infinite */

/* A safetensors file of counting values, with or without the marker of ComfyUI's format. */
static char *write_safetensors(const char *folder, const char *shape, size_t count, bool marker)
{
    char *path = ks_format("%s/x.latent", folder),
         *header = ks_format(
             "{\"latent_tensor\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,%zu]}%s}",
             shape, count * 4,
             marker ? ",\"latent_format_version_0\":{\"dtype\":\"F32\",\"shape\":[0],\"data_"
                      "offsets\":[0,0]}"
                    : "");
    FILE *f = fopen(path, "wb");
    uint64_t size = strlen(header);
    assert_non_null(f);
    fwrite(&size, sizeof size, 1, f);
    fwrite(header, 1, strlen(header), f);
    for (size_t i = 0; i < count; i++) {
        float value = i < HELD ? (float)i - 3 : INFINITY;
        fwrite(&value, sizeof value, 1, f);
    }
    fclose(f);
    free(header);
    return path;
}

static float *read_latent(const char *path, const char *dataset, int64_t index, int shape[4])
{
    float *values;
    ks_error err = KS_ERROR_NONE;
    if (ks_latent_read(path, dataset, index, &values, shape, &err))
        fail_msg("%s", err.text);
    return values;
}

static void assert_shape(const int shape[4], int b, int c, int h, int w)
{
    const int want[4] = {b, c, h, w};
    assert_memory_equal(shape, want, sizeof want);
}

static void a_latent_with_the_marker_is_taken_as_it_is(void **state)
{
    int shape[4];
    char *path = write_safetensors(*state, "[2,4,3,5]", 120, true);
    float *values = read_latent(path, NULL, -1, shape);
    assert_shape(shape, 2, 4, 3, 5);
    for (int i = 0; i < 120; i++)
        assert_true(values[i] == (float)i - 3);
    free(values);
    free(path);
}

static void a_latent_without_the_marker_is_divided_by_the_old_factor(void **state)
{
    int shape[4];
    char *path = write_safetensors(*state, "[1,4,3,5]", 60, false);
    float *values = read_latent(path, NULL, -1, shape);
    for (int i = 0; i < 60; i++)
        assert_true(fabs(values[i] - ((double)i - 3) / 0.18215) <= 1e-6 * fabs(i - 3.0) / 0.18215);
    free(values);
    free(path);
}

static void three_axes_are_a_batch_of_one(void **state)
{
    int shape[4];
    char *path = write_safetensors(*state, "[4,3,5]", 60, true);
    free(read_latent(path, NULL, -1, shape));
    assert_shape(shape, 1, 4, 3, 5);
    free(path);
}

static void an_index_takes_one_item_of_the_batch(void **state)
{
    int shape[4];
    char *path = write_safetensors(*state, "[3,4,3,5]", 180, true);
    float *values = read_latent(path, NULL, 2, shape);
    assert_shape(shape, 1, 4, 3, 5);
    for (int i = 0; i < 60; i++)
        assert_true(values[i] == (float)(i + 120) - 3);
    free(values);
    free(path);
}

static void assert_refused(const char *path, const char *dataset, int64_t index, const char *part)
{
    float *values;
    int shape[4];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_latent_read(path, dataset, index, &values, shape, &err), -1);
    assert_null(values);
    assert_non_null(strstr(err.text, path));
    if (!strstr(err.text, part))
        fail_msg("\"%s\" does not tell \"%s\"", err.text, part);
}

static void what_is_no_latent_is_refused_by_name(void **state)
{
    char *none = ks_format("%s/none.latent", (char *)*state);
    assert_refused(none, NULL, -1, "No such file");
    free(none);
    char *path = write_safetensors(*state, "[3,4,3,5]", 180, true);
    assert_refused(path, NULL, 3, "there is no item 3: its batch has 3");
    assert_refused(path, "other", -1, "other");
    free(path);
    path = write_safetensors(*state, "[12,5]", 60, true);
    assert_refused(path, NULL, -1, "2 axes");
    FILE *f = fopen(path, "wb");
    fputs("neither one nor the other", f);
    fclose(f);
    assert_refused(path, NULL, -1, "");
    free(path);
}

static void a_latent_that_is_not_finite_is_refused(void **state)
{
    char *path = write_safetensors(*state, "[4,4,3,5]", 240, true);
    assert_refused(path, NULL, -1, "latent_tensor: value 200 of 240 (counted from 0) is inf; give finite numbers");
    assert_refused(path, NULL, 3, "latent_tensor: value 20 of 60");
    free(path);
}

/* /latents [3, 4, 2, 5], /batches [2, 3, 4, 2, 5] and /text of counting doubles and bytes. */
static char *write_hdf5(const char *folder)
{
    static const hsize_t size[5] = {2, 3, 4, 2, 5};
    char *path = ks_format("%s/x.h5", folder);
    double value[240];
    for (int i = 0; i < 240; i++)
        value[i] = i * 0.5;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    for (int k = 0; k < 2; k++) {
        hid_t space = H5Screate_simple(4 + k, size + 1 - k, NULL);
        hid_t set = H5Dcreate2(file, k ? "batches" : "latents", H5T_IEEE_F64LE, space, H5P_DEFAULT,
                               H5P_DEFAULT, H5P_DEFAULT);
        assert_true(H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0);
        H5Dclose(set);
        H5Sclose(space);
    }
    hid_t space = H5Screate_simple(4, size + 1, NULL);
    H5Dclose(H5Dcreate2(file, "text", H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
    H5Fclose(file);
    return path;
}

static void data_sets_of_hdf5_are_read_whole_or_by_item(void **state)
{
    int shape[4];
    char *path = write_hdf5(*state);
    float *values = read_latent(path, "latents", -1, shape);
    assert_shape(shape, 3, 4, 2, 5);
    assert_true(values[119] == 59.5f);
    free(values);
    values = read_latent(path, NULL, 1, shape);
    assert_shape(shape, 1, 4, 2, 5);
    assert_true(values[0] == 20.0f);
    free(values);
    values = read_latent(path, "batches", 1, shape);
    assert_shape(shape, 3, 4, 2, 5);
    assert_true(values[0] == 60.0f);
    free(values);
    assert_refused(path, "latents", 3, "no item 3: it has 3");
    assert_refused(path, "none", -1, "/none");
    assert_refused(path, "batches", -1, "5 axes");
    assert_refused(path, "text", -1, "/text holds whole numbers on 4 axes; give a data set of real numbers, [N, C, H, W]");
    free(path);
}

static void a_float16_shard_is_read_as_float32(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *path = shard_path(out, 0);
    ks_store_info info = make_info(5, true, false);
    float want[VALUES];
    int shape[4];
    write_shard(out, &info, 0, 1, 5);
    float *values = read_latent(path, "latents", 3, shape);
    make_latent(3, want);
    assert_shape(shape, 1, CHANNELS, HEIGHT, WIDTH);
    assert_memory_equal(values, want, sizeof want);
    free(values);
    free(path);
    free(out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_latent_with_the_marker_is_taken_as_it_is),
        TEST(a_latent_without_the_marker_is_divided_by_the_old_factor),
        TEST(three_axes_are_a_batch_of_one),
        TEST(an_index_takes_one_item_of_the_batch),
        TEST(what_is_no_latent_is_refused_by_name),
        TEST(a_latent_that_is_not_finite_is_refused),
        TEST(data_sets_of_hdf5_are_read_whole_or_by_item),
        TEST(a_float16_shard_is_read_as_float32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
