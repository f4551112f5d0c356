#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"

static ks_json_doc *parse(const char *text)
{
    ks_error err = KS_ERROR_NONE;
    ks_json_doc *doc = ks_json_parse("t.json", text, strlen(text), &err);
    if (!doc)
        fail_msg("%s: %s", text, err.text);
    return doc;
}

/* The text is refused, and the message is exactly this. */
static void refuse_bytes(const char *text, size_t size, const char *message)
{
    ks_error err = KS_ERROR_NONE;
    ks_json_doc *doc = ks_json_parse("t.json", text, size, &err);
    assert_null(doc);
    assert_string_equal(err.text, message);
}

static void refuse(const char *text, const char *message)
{
    refuse_bytes(text, strlen(text), message);
}

static ks_json get(const ks_json_doc *doc, const char *key)
{
    return ks_json_get(ks_json_root(doc), key);
}

static void assert_u64(ks_json v, uint64_t wanted)
{
    uint64_t value = 0;
    ks_error err = KS_ERROR_NONE;
    if (ks_json_u64(v, &value, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(value == wanted);
}

static void big_integers_are_exact(void **state)
{
    (void)state;
    ks_json_doc *doc = parse("{\"a\": 18446744073709551615, \"b\": 9007199254740993, \"c\": [0,"
                             " 9223372036854775807, -9223372036854775808], \"d\": "
                             "\"18446744073709551615\","
                             " \"e\": 18446744073709551616, \"f\": -1, \"g\": 1e3, \"h\": 1e19}");
    assert_u64(get(doc, "a"), UINT64_MAX);
    assert_u64(get(doc, "b"), 9007199254740993u);
    assert_u64(ks_json_at(get(doc, "c"), 0), 0);
    assert_u64(get(doc, "d"), UINT64_MAX);
    assert_u64(get(doc, "g"), 1000);
    int64_t value;
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_json_int(ks_json_at(get(doc, "c"), 1), INT64_MIN, INT64_MAX, &value, &err),
                     0);
    assert_true(value == INT64_MAX);
    assert_int_equal(ks_json_int(ks_json_at(get(doc, "c"), 2), INT64_MIN, INT64_MAX, &value, &err),
                     0);
    assert_true(value == INT64_MIN);
    double real;
    assert_int_equal(ks_json_double(get(doc, "a"), &real, &err), 0);
    assert_true(real == 18446744073709551615.0);
    assert_true(ks_json_is_number(get(doc, "a")));
    assert_false(ks_json_is_string(get(doc, "a")));
    uint64_t u;
    assert_int_equal(ks_json_u64(get(doc, "e"), &u, &err), -1);
    assert_string_equal(err.text, "t.json: e: found 18446744073709551616; wanted a whole number "
                                  "from 0"
                                  " to 18446744073709551615 in plain digits");
    assert_int_equal(ks_json_u64(get(doc, "f"), &u, &err), -1);
    assert_int_equal(ks_json_u64(get(doc, "h"), &u, &err), -1);
    ks_json_free(doc);
}

static void printing_keeps_every_digit(void **state)
{
    (void)state;
    const char *text = "{\"seed\":[18446744073709551615,-12345678901234567890123],\"x\":0.1,\"t\":"
                       "\"a\\\"b\"}";
    ks_json_doc *doc = parse(text);
    char *printed = ks_json_print(ks_json_root(doc));
    assert_string_equal(printed, text);
    free(printed);
    ks_json_free(doc);
}

/* cJSON reads 63 characters of a number and no more. */
static void long_decimals_keep_their_value(void **state)
{
    (void)state;
    char small[120], large[120], text[300];
    memset(small, '0', sizeof small);
    memset(large, '0', sizeof large);
    memcpy(small, "0.1", 3);
    strcpy(small + 100, "1");
    large[0] = '7';
    strcpy(large + 100, ".5e-97");
    snprintf(text, sizeof text, "[%s,%s]", small, large);
    ks_json_doc *doc = parse(text);
    double value;
    assert_int_equal(ks_json_double(ks_json_at(ks_json_root(doc), 0), &value, NULL), 0);
    assert_true(value == 0.1);
    assert_int_equal(ks_json_double(ks_json_at(ks_json_root(doc), 1), &value, NULL), 0);
    assert_true(value == 700.0);
    ks_json_free(doc);
}

static void syntax_errors_name_line_and_column(void **state)
{
    (void)state;
    refuse("", "t.json:1:1: the text ends where a value is wanted");
    refuse("{\"a\": 1,\n \"b\" 2}", "t.json:2:6: found '2' where ':' is wanted");
    refuse("[1, 2,]", "t.json:1:7: found ']' where a value is wanted");
    refuse("{\"a\": 1,}", "t.json:1:9: found '}' where a key in double quotes is wanted");
    refuse("{\"\xC3\xA9\": x}", "t.json:1:7: found 'x' where a value is wanted");
    refuse("[1] 2", "t.json:1:5: found '2' where the end of the text is wanted");
    refuse("[01]", "t.json:1:3: a number must not begin with 0");
    refuse("[1.]", "t.json:1:4: found ']' where a digit is wanted");
    refuse("[-]", "t.json:1:3: found ']' where a digit is wanted");
    refuse("[1e]", "t.json:1:4: found ']' where a digit is wanted");
    refuse("[1e999]", "t.json:1:2: the number is too large");
    refuse("[nan]", "t.json:1:2: found 'n' where a value is wanted");
    refuse("[True]", "t.json:1:2: found 'T' where a value is wanted");
    refuse("[1 2]", "t.json:1:4: found '2' where ',' or ']' is wanted");
    refuse("[1", "t.json:1:3: the text ends where ',' or ']' is wanted");
    refuse("\"abc", "t.json:1:5: the text ends inside a string");
    refuse("[\x01]", "t.json:1:2: found the byte 0x01 where a value is wanted");
}

static void strings_are_strict(void **state)
{
    (void)state;
    refuse("\"a\nb\"", "t.json:1:3: a string must not hold the raw control character 0x0A: write "
                       "\\u000a");
    refuse("\"\xFF\"", "t.json:1:2: the byte 0xFF is not UTF-8");
    refuse("\"\xC0\x80\"", "t.json:1:2: the byte 0xC0 is not UTF-8");
    refuse("\"\xED\xA0\x80\"", "t.json:1:2: the byte 0xED is not UTF-8");
    refuse("\"\xF4\x90\x80\x80\"", "t.json:1:2: the byte 0xF4 is not UTF-8");
    refuse("\"\xE2\x82\"", "t.json:1:2: the byte 0xE2 is not UTF-8");
    refuse("\"\\u0000\"", "t.json:1:2: a text must not hold the character NUL");
    refuse("\"\\ud800x\"", "t.json:1:2: \\ud800 is the first half of a surrogate pair without its "
                           "second");
    refuse("\"\\udc00\"", "t.json:1:2: \\udc00 is the second half of a surrogate pair without its "
                          "first");
    refuse("\"\\x\"", "t.json:1:2: a backslash must be followed by one of \"\\/bfnrt or by u and 4 "
                      "hex digits");
    refuse_bytes("\"a\0b\"", 5,
                 "t.json:1:3: a string must not hold the raw control character 0x00: write "
                 "\\u0000");
    refuse_bytes("1\0", 2, "t.json:1:2: found the byte 0x00 where the end of the text is wanted");
    ks_json_doc *doc = parse("\"\\ud83d\\ude00 \\u00e9 \xF0\x9F\x98\x80\"");
    const char *text;
    assert_int_equal(ks_json_string(ks_json_root(doc), &text, NULL), 0);
    assert_string_equal(text, "\xF0\x9F\x98\x80 \xC3\xA9 \xF0\x9F\x98\x80");
    ks_json_free(doc);
}

static void duplicate_keys_are_refused(void **state)
{
    (void)state;
    refuse("{\"a\": [0, {\"x\": 1, \"y\": 2, \"x\": 3}]}", "t.json: a[1]: the key \"x\" stands "
                                                           "twice in one object");
    char *text = ks_strdup("{");
    for (int i = 0; i < 40; i++) {
        char *longer = ks_format("%s\"k%d\": %d, ", text, i, i);
        free(text);
        text = longer;
    }
    char *twice = ks_format("%s\"k7\": 0}", text);
    refuse(twice, "t.json: the key \"k7\" stands twice in one object");
    free(twice);
    free(text);
}

static void deep_nesting_is_refused(void **state)
{
    (void)state;
    char text[4000];
    memset(text, '[', sizeof text);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_json_parse("t.json", text, sizeof text, &err));
    assert_string_equal(err.text, "t.json:1:101: nested more than 100 levels deep");
}

static void large_containers_answer_as_small_ones(void **state)
{
    (void)state;
    enum { N = 3000 };
    char *text = ks_calloc(N, 24);
    size_t used = (size_t)sprintf(text, "{");
    for (int i = 0; i < N; i++)
        used += (size_t)sprintf(text + used, "%s\"key%d\": %d", i ? "," : "", (i * 7) % N, i);
    sprintf(text + used, "}");
    ks_json_doc *doc = parse(text);
    ks_json root = ks_json_root(doc);
    assert_int_equal(ks_json_size(root), N);
    for (int i = 0; i < N; i++) {
        char key[24], path[24];
        const char *name;
        int64_t value;
        sprintf(key, "key%d", (i * 7) % N);
        ks_json m = ks_json_member(root, i, &name);
        assert_string_equal(name, key);
        assert_string_equal(m.path, key);
        assert_int_equal(ks_json_int(ks_json_get(root, key), i, i, &value, NULL), 0);
        sprintf(path, "key%d", i + N);
        assert_false(ks_json_exists(ks_json_get(root, path)));
    }
    assert_false(ks_json_exists(ks_json_member(root, N, NULL)));
    ks_json_free(doc);
    free(text);
}

static void complaints_name_the_path(void **state)
{
    (void)state;
    ks_json_doc *doc = parse("{\"cfg\": [1, 2, \"x\\ny\"], \"o\": {\"n\": 3.5, \"b\": null}}");
    ks_error err = KS_ERROR_NONE;
    double real;
    int64_t whole;
    bool flag;
    const char *text;
    assert_int_equal(ks_json_double(ks_json_at(get(doc, "cfg"), 2), &real, &err), -1);
    assert_string_equal(err.text, "t.json: cfg[2]: found the text \"x?y\"; wanted a number");
    ks_json o = get(doc, "o");
    assert_int_equal(ks_json_int(ks_json_get(o, "n"), 1, 9, &whole, &err), -1);
    assert_string_equal(err.text, "t.json: o.n: found 3.5; wanted a whole number from 1 to 9");
    assert_int_equal(ks_json_bool(ks_json_get(o, "b"), &flag, &err), -1);
    assert_string_equal(err.text, "t.json: o.b: found null; wanted true or false");
    assert_int_equal(ks_json_string(ks_json_get(o, "gone"), &text, &err), -1);
    assert_string_equal(err.text, "t.json: o.gone: is missing; wanted a text");
    assert_int_equal(ks_json_int(ks_json_at(get(doc, "cfg"), 1), 3, 9, &whole, &err), -1);
    assert_string_equal(err.text, "t.json: cfg[1]: found 2; wanted a whole number from 3 to 9");
    assert_false(ks_json_exists(ks_json_get(get(doc, "cfg"), "n")));
    assert_false(ks_json_exists(ks_json_at(o, 0)));
    assert_int_equal(ks_json_double(ks_json_get(ks_json_get(o, "gone"), "deeper"), &real, &err),
                     -1);
    assert_string_equal(err.text, "t.json: o.gone.deeper: is missing; wanted a number");
    ks_json_free(doc);
}

static void long_paths_and_texts_are_cut(void **state)
{
    (void)state;
    char key[600], text[4000];
    memset(key, 'k', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    snprintf(text, sizeof text, "{\"%s\": {\"%s\": \"%s\"}}", key, key, key);
    ks_json_doc *doc = parse(text);
    ks_json v = ks_json_get(get(doc, key), key);
    ks_error err = KS_ERROR_NONE;
    bool flag;
    assert_true(ks_json_exists(v));
    assert_int_equal(ks_json_bool(v, &flag, &err), -1);
    assert_non_null(strstr(err.text, "kkk..."));
    ks_json_free(doc);
}

static void unknown_keys_name_the_nearest(void **state)
{
    (void)state;
    static const char *const allowed[] = {"seed", "steps", "cfg", NULL};
    ks_json_doc *doc = parse("{\"a\": {\"sede\": 1}, \"b\": {\"zzzzzz\": 1}, \"c\": {\"cfg\": 1, "
                             "\"seed\": 2}}");
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_json_only(get(doc, "a"), allowed, &err), -1);
    assert_string_equal(err.text, "t.json: a: unknown key \"sede\"; did you mean \"seed\"?");
    assert_int_equal(ks_json_only(get(doc, "b"), allowed, &err), -1);
    assert_string_equal(err.text, "t.json: b: unknown key \"zzzzzz\"; known here: seed, steps, "
                                  "cfg");
    assert_int_equal(ks_json_only(get(doc, "c"), allowed, &err), 0);
    ks_json_free(doc);
}

static void every_cut_of_a_document_is_refused(void **state)
{
    (void)state;
    const char *text = "{\"a\": [1.5e3, true, null, \"\\ud83d\\ude00\xC3\xA9\"], \"b\": {\"c\": "
                       "12345678901234567890}}";
    for (size_t n = 0; n < strlen(text); n++) {
        char *exact =
            ks_calloc(n, 1); /* of this very size: a read beyond it is seen by a sanitizer */
        memcpy(exact, text, n);
        ks_error err = KS_ERROR_NONE;
        assert_null(ks_json_parse("t.json", exact, n, &err));
        assert_memory_equal(err.text, "t.json:1:", 9);
        free(exact);
    }
}

static void unreadable_files_are_named(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_json_read("/nonexistent/x.json", &err));
    assert_string_equal(err.text, "/nonexistent/x.json: cannot open: No such file or directory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(big_integers_are_exact),
        cmocka_unit_test(printing_keeps_every_digit),
        cmocka_unit_test(long_decimals_keep_their_value),
        cmocka_unit_test(syntax_errors_name_line_and_column),
        cmocka_unit_test(strings_are_strict),
        cmocka_unit_test(duplicate_keys_are_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(large_containers_answer_as_small_ones),
        cmocka_unit_test(complaints_name_the_path),
        cmocka_unit_test(long_paths_and_texts_are_cut),
        cmocka_unit_test(unknown_keys_name_the_nearest),
        cmocka_unit_test(every_cut_of_a_document_is_refused),
        cmocka_unit_test(unreadable_files_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
