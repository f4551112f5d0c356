/* Masks from safetensors, HDF5 and PNG files. */
#include <hdf5.h>
#include <math.h>
#include <png.h>

#include "store/mask_file.h"
#include "unit/store/fixture.h"

/* A safetensors file with the tensor "m" of counting values, the 17th of which is above 1. */
static char *write_tensor(const char *folder, const char *shape, size_t count)
{
    char *path = ks_format("%s/m.safetensors", folder),
         *header = ks_format("{\"m\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,%zu]}}",
                             shape, count * 4);
    FILE *f = fopen(path, "wb");
    uint64_t size = strlen(header);
    assert_non_null(f);
    fwrite(&size, sizeof size, 1, f);
    fwrite(header, 1, strlen(header), f);
    for (size_t i = 0; i < count; i++) {
        float value = (float)i / 16;
        fwrite(&value, sizeof value, 1, f);
    }
    fclose(f);
    free(header);
    return path;
}

static float *read_mask(const char *path, const char *name, int n, int h, int w)
{
    float *values;
    int shape[3];
    const int want[3] = {n, h, w};
    ks_error err = KS_ERROR_NONE;
    if (ks_mask_read(path, name, &values, shape, &err))
        fail_msg("%s", err.text);
    assert_memory_equal(shape, want, sizeof want);
    return values;
}

static void is_refused(const char *path, const char *name, const char *why)
{
    float *values;
    int shape[3];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_mask_read(path, name, &values, shape, &err), -1);
    assert_null(values);
    if (!strstr(err.text, why))
        fail_msg("%s", err.text);
}

static void tensors_of_two_to_four_axes_are_masks(void **state)
{
    static const struct {
        const char *shape;
        int n, h, w;
    } cases[] = {{"[3,4]", 1, 3, 4}, {"[2,3,2]", 2, 3, 2}, {"[2,1,2,3]", 2, 2, 3}};
    for (int k = 0; k < 3; k++) {
        char *path = write_tensor(*state, cases[k].shape, 12);
        float *values = read_mask(path, "m", cases[k].n, cases[k].h, cases[k].w);
        for (int i = 0; i < 12; i++)
            assert_true(values[i] == (float)i / 16);
        free(values);
        free(path);
    }
}

static void what_is_no_mask_is_refused(void **state)
{
    static const struct {
        const char *shape, *name, *why;
    } cases[] = {{"[12]", "m", "1 axes"},
                 {"[2,2,3]", "n", "\"n\""},
                 {"[1,2,2,3]", "m", "channels"},
                 {"[2,3,2]", NULL, "\"tensor\""},
                 {"[1,1,1,3,4]", "m", "5 axes"}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        char *path = write_tensor(*state, cases[k].shape, 12);
        is_refused(path, cases[k].name, cases[k].why);
        free(path);
    }
    char *path = write_tensor(*state, "[0,4]", 0);
    is_refused(path, "m", "size");
    free(path);
    path = ks_format("%s/none.png", (const char *)*state);
    is_refused(path, NULL, "none.png");
    free(path);
}

static void data_sets_of_hdf5_files_are_masks(void **state)
{
    char *path = ks_format("%s/m.h5", (const char *)*state);
    const double values[6] = {0, 0.25, 0.5, 0.75, 1, NAN};
    const hsize_t size[2] = {1, 5}, bad[2] = {2, 3};
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space[2] = {H5Screate_simple(2, size, NULL), H5Screate_simple(2, bad, NULL)};
    static const char *const names[] = {"m", "nan"};
    for (int k = 0; k < 2; k++) {
        hid_t set = H5Dcreate2(file, names[k], H5T_IEEE_F64LE, space[k], H5P_DEFAULT, H5P_DEFAULT,
                               H5P_DEFAULT);
        assert_true(H5Dwrite(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0);
        H5Dclose(set);
        H5Sclose(space[k]);
    }
    H5Fclose(file);
    float *read = read_mask(path, "m", 1, 1, 5);
    for (int i = 0; i < 5; i++)
        assert_true(read[i] == (float)i / 4);
    free(read);
    is_refused(path, "nan", "m.h5: nan: value 5 of 6 (counted from 0) is nan; give finite numbers from 0 to 1");
    is_refused(path, "none", "none");
    is_refused(path, NULL, "\"tensor\"");
    free(path);
}

static void values_outside_0_to_1_are_refused(void **state)
{
    char *path = write_tensor(*state, "[3,6]", 18);
    is_refused(path, "m", "m.safetensors: m: value 17 of 18 (counted from 0) is 1.0625; give finite numbers from 0 to 1");
    free(path);
}

static void a_file_of_another_format_is_refused_by_what_it_is(void **state)
{
    static const struct {
        const char *bytes, *what;
    } cases[] = {{"\xFF\xD8\xFF\xE0 JFIF and so on", "neither PNG, safetensors nor HDF5: it is a JPEG picture"},
                 {"", "neither PNG, safetensors nor HDF5"},
                 {"a text", "neither PNG, safetensors nor HDF5"}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        char *path = ks_format("%s/m.jpg", (const char *)*state);
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        fputs(cases[k].bytes, f);
        fclose(f);
        is_refused(path, NULL, cases[k].what);
        free(path);
    }
}

static void write_png(const char *path, png_uint_32 format, const void *pixels)
{
    png_image image = {.version = PNG_IMAGE_VERSION, .width = 3, .height = 2, .format = format};
    assert_true(png_image_write_to_file(&image, path, 0, pixels, 0, NULL));
}

static void a_channel_of_a_png_is_a_mask(void **state)
{
    char *path = ks_format("%s/m.png", (const char *)*state);
    const uint8_t grey[6] = {0, 51, 102, 153, 204, 255};
    uint8_t rgba[24];
    for (int i = 0; i < 24; i++)
        rgba[i] = (uint8_t)(10 * i);
    write_png(path, PNG_FORMAT_GRAY, grey);
    float *values = read_mask(path, NULL, 1, 2, 3);
    for (int i = 0; i < 6; i++)
        assert_true(values[i] == (float)grey[i] / 255.0F);
    free(values);
    free(read_mask(path, "blue", 1, 2, 3));
    is_refused(path, "alpha", "m.png: the PNG has no transparency");
    write_png(path, PNG_FORMAT_RGBA, rgba);
    static const char *const channels[] = {"red", "green", "blue", "alpha"};
    for (int c = 0; c < 4; c++) {
        values = read_mask(path, channels[c], 1, 2, 3);
        for (int i = 0; i < 6; i++) {
            float byte = (float)rgba[4 * i + c];
            assert_true(values[i] == (c == 3 ? 255.0F - byte : byte) / 255.0F);
        }
        free(values);
    }
    is_refused(path, "m", "\"alpha\"");
    free(path);
}

static void a_damaged_png_is_refused(void **state)
{
    char *path = ks_format("%s/m.png", (const char *)*state);
    const uint8_t grey[6] = {0, 51, 102, 153, 204, 255};
    write_png(path, PNG_FORMAT_GRAY, grey);
    FILE *f = fopen(path, "rb");
    uint8_t bytes[400];
    assert_non_null(f);
    size_t size = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    for (size_t kept = 8; kept < size; kept += 7) {
        f = fopen(path, "wb");
        fwrite(bytes, 1, kept, f);
        fclose(f);
        float *values;
        int shape[3];
        ks_error err = KS_ERROR_NONE;
        if (ks_mask_read(path, NULL, &values, shape, &err))
            assert_non_null(strstr(err.text, "PNG"));
        else
            assert_true(kept > size - 16); /* only the end marker was cut off */
        free(values);
    }
    free(path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(tensors_of_two_to_four_axes_are_masks),
        TEST(what_is_no_mask_is_refused),
        TEST(data_sets_of_hdf5_files_are_masks),
        TEST(values_outside_0_to_1_are_refused),
        TEST(a_file_of_another_format_is_refused_by_what_it_is),
        TEST(a_channel_of_a_png_is_a_mask),
        TEST(a_damaged_png_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
