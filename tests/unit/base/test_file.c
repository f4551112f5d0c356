#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/nearest.h"

static char folder[] = "/tmp/ksweep-test-file-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

static char *write_file(const char *name, const void *data, size_t size)
{
    char *path = ks_format("%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
    return path;
}

static void a_map_shows_the_bytes(void **state)
{
    (void)state;
    char *path = write_file("a", "hello", 5);
    ks_map map;
    assert_int_equal(ks_map_open(path, &map, NULL), 0);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    ks_map_close(&map);
    assert_null(map.data);
    ks_map_close(&map);
    unlink(path);
    free(path);
}

static void an_empty_file_maps_to_nothing(void **state)
{
    (void)state;
    char *path = write_file("empty", "", 0);
    ks_map map;
    assert_int_equal(ks_map_open(path, &map, NULL), 0);
    assert_null(map.data);
    assert_int_equal(map.size, 0);
    ks_map_close(&map);
    unlink(path);
    free(path);
}

static void what_cannot_be_mapped_says_why(void **state)
{
    (void)state;
    ks_map map;
    ks_error err = KS_ERROR_NONE;
    char wanted[200];
    assert_int_equal(ks_map_open("/nonexistent/a", &map, &err), -1);
    assert_string_equal(err.text, "/nonexistent/a: cannot open: No such file or directory");
    assert_int_equal(ks_map_open(folder, &map, &err), -1);
    snprintf(wanted, sizeof wanted, "%s: is a folder, a file is wanted", folder);
    assert_string_equal(err.text, wanted);
    assert_int_equal(ks_map_open("/dev/null", &map, &err), -1);
    assert_string_equal(err.text, "/dev/null: is not a plain file");
}

static void reading_stops_at_the_limit(void **state)
{
    (void)state;
    enum { SIZE = 200000 };
    char *bytes = ks_calloc(SIZE, 1);
    memset(bytes, 'x', SIZE);
    char *path = write_file("b", bytes, SIZE);
    size_t size;
    char *text = ks_read_file(path, SIZE, &size, NULL);
    assert_non_null(text);
    assert_int_equal(size, SIZE);
    assert_memory_equal(text, bytes, SIZE);
    assert_int_equal(text[SIZE], 0);
    free(text);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_read_file(path, SIZE - 1, &size, &err));
    assert_non_null(strstr(err.text, "larger than the 199999 bytes"));
    assert_null(ks_read_file(folder, SIZE, &size, &err));
    assert_non_null(strstr(err.text, "cannot read: Is a directory"));
    unlink(path);
    free(path);
    free(bytes);
}

static void assert_text(char *found, const char *wanted)
{
    assert_string_equal(found, wanted);
    free(found);
}

static void paths_are_joined_beside_the_file(void **state)
{
    (void)state;
    assert_text(ks_path_beside("a/b.json", "c.h5"), "a/c.h5");
    assert_text(ks_path_beside("b.json", "c.h5"), "c.h5");
    assert_text(ks_path_beside("/b.json", "c/d"), "/c/d");
    assert_text(ks_path_beside("a/b.json", "/c"), "/c");
}

static void only_the_last_extension_changes(void **state)
{
    (void)state;
    assert_text(ks_path_with_extension("a/b.c", ".json"), "a/b.json");
    assert_text(ks_path_with_extension("a.d/b", ".json"), "a.d/b.json");
    assert_text(ks_path_with_extension("a.b.c", ".x"), "a.b.x");
    assert_text(ks_path_with_extension("d/.hidden", ".x"), "d/.hidden.x");
}

static void edit_distance_counts_edits(void **state)
{
    (void)state;
    assert_int_equal(ks_edit_distance("", ""), 0);
    assert_int_equal(ks_edit_distance("abc", ""), 3);
    assert_int_equal(ks_edit_distance("kitten", "sitting"), 3);
    assert_int_equal(ks_edit_distance("steps", "steps"), 0);
    static const char *const names[] = {"euler", "heun", "lms"};
    assert_string_equal(ks_nearest("eulr", names, 3), "euler");
    assert_string_equal(ks_nearest("huen", names, 3), "heun");
    assert_null(ks_nearest("dpmpp_2m", names, 3));
    static const char *const keys[] = {"cfg", "sampler_name", "scheduler", "steps"};
    assert_string_equal(ks_nearest("CFG", keys, 4), "cfg");
    assert_string_equal(ks_nearest("STEPS", keys, 4), "steps");
    assert_string_equal(ks_nearest("sampler", keys, 4), "sampler_name");
    assert_string_equal(ks_nearest("Scheduler_Name", keys, 4), "scheduler");
    assert_null(ks_nearest("sa", keys, 4));
    assert_null(ks_nearest("noise", keys, 4));
}

static void the_clock_moves_on(void **state)
{
    (void)state;
    double before = ks_seconds();
    usleep(2000);
    assert_true(ks_seconds() - before >= 0.002);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_map_shows_the_bytes),
        cmocka_unit_test(an_empty_file_maps_to_nothing),
        cmocka_unit_test(what_cannot_be_mapped_says_why),
        cmocka_unit_test(reading_stops_at_the_limit),
        cmocka_unit_test(paths_are_joined_beside_the_file),
        cmocka_unit_test(only_the_last_extension_changes),
        cmocka_unit_test(edit_distance_counts_edits),
        cmocka_unit_test(the_clock_moves_on),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
