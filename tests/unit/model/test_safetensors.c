#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/safetensors.h"
#include "support/checkpoint.h"

static char folder[] = "/tmp/ksweep-test-safetensors-XXXXXX";
static char path[sizeof folder + 16];

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* A file of a header (its length before it) and data. */
static void write_file(const char *header, const void *data, size_t size)
{
    size_t length = strlen(header);
    unsigned char *bytes = ks_calloc(8 + length + size, 1);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(bytes + 8, header, length);
    if (size)
        memcpy(bytes + 8 + length, data, size);
    write_bytes(path, bytes, 8 + length + size);
    free(bytes);
}

/* The file is refused; the message begins with its path, and goes on like this. */
static void assert_refused(const char *message)
{
    ks_error err = KS_ERROR_NONE;
    ks_safetensors *st = ks_safetensors_open(path, &err);
    assert_null(st);
    assert_memory_equal(err.text, path, strlen(path));
    assert_string_equal(err.text + strlen(path), message);
}

static void refuse(const char *header, size_t data, const char *message)
{
    static const unsigned char zeros[256];
    write_file(header, zeros, data);
    assert_refused(message);
}

static ks_safetensors *open_file(const char *file)
{
    ks_error err = KS_ERROR_NONE;
    ks_safetensors *st = ks_safetensors_open(file, &err);
    if (!st)
        fail_msg("%s", err.text);
    return st;
}

static void the_golden_model_opens(void **state)
{
    (void)state;
    ks_safetensors *st = open_file(TEST_DATA "/tiny-sd15.safetensors");
    ks_view view;
    size_t size;
    assert_int_equal(ks_safetensors_count(st), 286);
    assert_int_equal(
        ks_safetensors_find(st, "model.diffusion_model.input_blocks.0.0.weight", &view), 1);
    assert_int_equal(view.dtype, KS_F32);
    assert_int_equal(view.rank, 4);
    assert_int_equal(view.shape[0], 32);
    assert_int_equal(view.shape[1], 4);
    assert_int_equal(ks_view_elements(&view), 32 * 4 * 9);
    assert_int_equal(ks_safetensors_find(st, "nothing", &view), 0);
    assert_non_null(ks_safetensors_bytes(st, &size));
    assert_int_equal(size, 4258152);
    for (int i = 0; i < ks_safetensors_count(st); i++) {
        assert_int_equal(ks_safetensors_index(st, ks_safetensors_name(st, i)), i);
        assert_int_equal(ks_safetensors_find(st, ks_safetensors_name(st, i), &view), 1);
    }
    ks_safetensors_close(st);
}

static void an_absent_tensor_names_the_nearest(void **state)
{
    (void)state;
    ks_safetensors *st = open_file(TEST_DATA "/tiny-sd15.safetensors");
    ks_error err = KS_ERROR_NONE;
    ks_view view;
    assert_int_equal(
        ks_safetensors_get(st, "model.diffusion_model.time_embed.0.weigth", &view, &err), -1);
    assert_string_equal(err.text,
                        TEST_DATA "/tiny-sd15.safetensors: has no tensor "
                                  "\"model.diffusion_model.time_embed.0.weigth\"; the nearest is "
                                  "\"model.diffusion_model.time_embed.0.weight\"");
    ks_safetensors_close(st);
}

static void values_come_as_floats(void **state)
{
    (void)state;
    /* halves: 1, -2, smallest subnormal, largest subnormal, 65504, inf, -0, nan */
    static const uint16_t half[] = {0x3C00, 0xC000, 0x0001, 0x03FF, 0x7BFF, 0x7C00, 0x8000, 0x7E01};
    static const uint16_t upper[] = {0x3F80, 0xC0A0};
    static const double real[] = {0.1, -1e300};
    static const int32_t whole[] = {7};
    unsigned char data[16 + 4 + 16 + 4];
    memcpy(data, half, 16);
    memcpy(data + 16, upper, 4);
    memcpy(data + 20, real, 16);
    memcpy(data + 36, whole, 4);
    write_file("{\"__metadata__\":{\"format\":\"pt\"},"
               "\"h\":{\"dtype\":\"F16\",\"shape\":[2,4],\"data_offsets\":[0,16]},"
               "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[16,20]},"
               "\"d\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[20,36]},"
               "\"i\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[36,40]}} ",
               data, sizeof data);
    ks_safetensors *st = open_file(path);
    ks_error err = KS_ERROR_NONE;
    ks_view view;
    float out[8];
    assert_int_equal(ks_safetensors_count(st), 4);
    assert_int_equal(ks_safetensors_get(st, "h", &view, &err), 0);
    assert_int_equal(ks_view_floats(&view, out, &err), 0);
    assert_true(out[0] == 1 && out[1] == -2 && out[2] == 0x1p-24f && out[3] == 1023 * 0x1p-24f);
    assert_true(out[4] == 65504 && isinf(out[5]) && out[6] == 0 && signbit(out[6]) &&
                isnan(out[7]));
    assert_int_equal(ks_safetensors_get(st, "b", &view, &err), 0);
    assert_int_equal(ks_view_floats(&view, out, &err), 0);
    assert_true(out[0] == 1 && out[1] == -5);
    assert_int_equal(ks_safetensors_get(st, "d", &view, &err), 0);
    assert_int_equal(ks_view_floats(&view, out, &err), 0);
    assert_true(out[0] == 0.1f && isinf(out[1]));
    assert_int_equal(ks_safetensors_get(st, "i", &view, &err), 0);
    assert_int_equal(view.rank, 0);
    assert_int_equal(ks_view_elements(&view), 1);
    assert_int_equal(ks_view_floats(&view, out, &err), -1);
    assert_string_equal(err.text, "values of type I32 cannot be read as floats");
    ks_safetensors_close(st);
}

/* Every half is what its sign, exponent and fraction say. */
static void every_half_is_exact(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        ks_view view = {.data = &half, .dtype = KS_F16, .rank = 0};
        float value;
        assert_int_equal(ks_view_floats(&view, &value, NULL), 0);
        int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
        double wanted = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
        if (exponent == 31)
            assert_true(fraction ? isnan(value) : isinf(value));
        else
            assert_true((double)fabsf(value) == wanted);
        if (!isnan(value))
            assert_int_equal(signbit(value) != 0, h >> 15);
    }
}

static void types_that_cannot_be_read_are_named(void **state)
{
    (void)state;
    write_file("{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]}}", "abcd", 4);
    ks_safetensors *st = open_file(path);
    ks_error err = KS_ERROR_NONE;
    ks_view view;
    assert_int_equal(ks_safetensors_find(st, "a", &view), 0);
    assert_int_equal(ks_safetensors_get(st, "a", &view, &err), -1);
    assert_string_equal(err.text + strlen(path),
                        ": tensor \"a\" is of type F8_E4M3, which cannot be read here");
    ks_safetensors_close(st);
}

static void empty_tensors_and_files_of_none_open(void **state)
{
    (void)state;
    write_file("{}", NULL, 0);
    ks_safetensors_close(open_file(path));
    write_file("{\"a\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]},"
               "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
               "x", 1);
    ks_safetensors_close(open_file(path));
}

static void files_too_short_for_a_header_are_refused(void **state)
{
    (void)state;
    static const unsigned char huge[16] = {255, 255, 255, 255, 255, 255, 255, 127};
    static const unsigned char beyond[16] = {200};
    write_bytes(path, "", 0);
    assert_refused(": 0 bytes are no safetensors file");
    write_bytes(path, "abc", 3);
    assert_refused(": 3 bytes are no safetensors file");
    write_bytes(path, huge, sizeof huge);
    assert_refused(": no safetensors file (its header would have 9223372036854775807 bytes, 100 MB "
                   "are the limit)");
    write_bytes(path, beyond, sizeof beyond);
    assert_refused(": cut off: the header has 200 bytes, the file 8 behind its length");
    write_bytes(path, "\xFF\xD8\xFF\xE0 and so on", 14);
    assert_refused(": no safetensors file: it is a JPEG picture");
    write_bytes(path, "PK\3\4 and so on", 14);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_safetensors_open(path, &err));
    assert_non_null(strstr(err.text, "it seems to be a PyTorch .ckpt; convert it to safetensors"));
}

static void headers_that_are_not_the_format_are_refused(void **state)
{
    (void)state;
    refuse("", 0, ": header:1:1: the text ends where a value is wanted");
    refuse("[]", 0, ": header: wanted an object of tensors");
    refuse("{\"a\":", 0, ": header:1:6: the text ends where a value is wanted");
    refuse("{\"a\":1}", 0, ": header: a.dtype: is missing; wanted a text");
    refuse("{\"__metadata__\":{\"a\":1}}", 0, ": header: __metadata__.a: found 1; wanted a text");
    refuse("{\"__metadata__\":[]}", 0, ": header: __metadata__: wanted an object of texts");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
           "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
           8, ": header: the key \"a\" stands twice in one object");
    refuse("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
           ": header: a.dtype: \"F99\" is no known type");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,4]}}", 4,
           ": header: a.shape: wanted a list of sizes");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
           ": header: a.shape[0]: found -1; wanted a whole number from 0 to 9223372036854775807");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4,
           ": header: a.shape[0]: found 1.5; wanted a whole number from 0 to 9223372036854775807");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4,
           ": header: a.shape: 9 axes; at most 8 are possible");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4,
           ": header: a.data_offsets: wanted a list of two offsets");
}

static void lying_offsets_are_refused(void **state)
{
    (void)state;
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
           ": header: a.data_offsets: begins at 4, behind its end at 0");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4,
           ": header: a.data_offsets: ends at byte 8, but the file has 4 bytes of data; was it cut off while it was copied?");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[18446744073709551612,"
           "18446744073709551615]}}",
           4,
           ": header: a.data_offsets: ends at byte 18446744073709551615, but the file has 4 bytes "
           "of data; was it cut off while it was copied?");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
           ": header: a: the shape needs 8 bytes as F32, the offsets give 4");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
           0, ": header: a: the shape has more elements than 64 bits can count");
    refuse("{\"a\":{\"dtype\":\"U8\",\"shape\":[9223372036854775807,2],\"data_offsets\":[0,4]}}", 4,
           ": header: a: the shape has more elements than 64 bits can count");
}

static void holes_and_overlaps_are_refused(void **state)
{
    (void)state;
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
           "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
           8, ": tensor \"b\" begins at data byte 4, the one before it ends at 8: they overlap");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
           "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[8,12]}}",
           12,
           ": tensor \"b\" begins at data byte 8, the one before it ends at 4: there is a hole");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 9,
           ": 9 bytes of data, but the tensors end at 4");
}

/* A download that broke off is refused wherever it broke. */
static void every_cut_of_a_file_is_refused(void **state)
{
    (void)state;
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    write_file(header, "12345678", 8);
    size_t whole = 8 + strlen(header) + 8;
    ks_safetensors_close(open_file(path));
    while (whole-- > 0) {
        ks_error err = KS_ERROR_NONE;
        assert_int_equal(truncate(path, (off_t)whole), 0);
        assert_null(ks_safetensors_open(path, &err));
        assert_memory_equal(err.text, path, strlen(path));
    }
}

static void many_tensors_are_found(void **state)
{
    (void)state;
    checkpoint *c = checkpoint_new();
    char name[32];
    for (int i = 0; i < 5000; i++) {
        snprintf(name, sizeof name, "t%d", (i * 13) % 5000);
        checkpoint_add(c, "F16", name, 1, (int64_t[]){i % 7});
    }
    checkpoint_write(c, path);
    checkpoint_free(c);
    ks_safetensors *st = open_file(path);
    for (int i = 0; i < 5000; i++) {
        ks_view view;
        snprintf(name, sizeof name, "t%d", (i * 13) % 5000);
        assert_int_equal(ks_safetensors_find(st, name, &view), 1);
        assert_int_equal(view.shape[0], i % 7);
    }
    ks_safetensors_close(st);
}

static void a_folder_is_refused(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_safetensors_open(folder, &err));
    assert_non_null(strstr(err.text, "is a folder, a file is wanted"));
    ks_safetensors_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_golden_model_opens),
        cmocka_unit_test(an_absent_tensor_names_the_nearest),
        cmocka_unit_test(values_come_as_floats),
        cmocka_unit_test(every_half_is_exact),
        cmocka_unit_test(types_that_cannot_be_read_are_named),
        cmocka_unit_test(empty_tensors_and_files_of_none_open),
        cmocka_unit_test(files_too_short_for_a_header_are_refused),
        cmocka_unit_test(headers_that_are_not_the_format_are_refused),
        cmocka_unit_test(lying_offsets_are_refused),
        cmocka_unit_test(holes_and_overlaps_are_refused),
        cmocka_unit_test(every_cut_of_a_file_is_refused),
        cmocka_unit_test(many_tensors_are_found),
        cmocka_unit_test(a_folder_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
