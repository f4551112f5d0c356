/* Axes that are read from files, one value a line. */
#include "unit/job/job_file.h"

#include <errno.h>

#include "job/lines.h"

/* A folder with job.json and one file; everything is removed by clean(). */
typedef struct folder {
    char *path, *job, *file;
} folder;

static void write_bytes(const char *path, const char *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
}

static folder make_folder(const char *bytes, size_t size)
{
    const char *tmp = getenv("TMPDIR");
    folder f = {.path = ks_format("%s/ksweep-lines-XXXXXX", tmp ? tmp : P_tmpdir)};
    assert_non_null(mkdtemp(f.path));
    f.job = ks_format("%s/job.json", f.path);
    f.file = ks_format("%s/values", f.path);
    write_bytes(f.job, SMALL_JOB, strlen(SMALL_JOB));
    write_bytes(f.file, bytes, size);
    return f;
}

static void clean(folder *f)
{
    unlink(f->job);
    unlink(f->file);
    rmdir(f->path);
    free(f->path);
    free(f->job);
    free(f->file);
}

static ks_job *load_sized(const char *set, const char *bytes, size_t size, ks_error *err)
{
    folder f = make_folder(bytes, size);
    ks_job *job = ks_job_load(f.job, &set, 1, err);
    clean(&f);
    return job;
}

/* The job with an axis from a file of this text. */
static ks_job *load(const char *set, const char *text)
{
    ks_error err = KS_ERROR_NONE;
    ks_job *job = load_sized(set, text, strlen(text), &err);
    if (!job)
        fail_msg("%s", err.text);
    return job;
}

#define LINES "positive={\"lines\":\"values\"}"
#define JSONL "positive={\"jsonl\":\"values\",\"key\":\"p\"}"
#define SEEDS "seed={\"lines\":\"values\"}"
#define JSONL_SEEDS "seed={\"jsonl\":\"values\",\"key\":\"s\"}"

/* The axis is refused in one line: job file, axis, then `what`, in which %s stands for the file. */
static void is_refused_sized(const char *set, const char *bytes, size_t size, const char *what)
{
    ks_error err = KS_ERROR_NONE;
    assert_null(load_sized(set, bytes, size, &err));
    assert_null(strchr(err.text, '\n'));
    const char *job = strstr(err.text, "/job.json: ");
    assert_non_null(job);
    char expected[400], *folder_name = strndup(err.text, (size_t)(job - err.text));
    const char *place = strstr(what, "@");
    if (place)
        snprintf(expected, sizeof expected, "%.*s%s/values%s", (int)(place - what), what,
                 folder_name, place + 1);
    else
        snprintf(expected, sizeof expected, "%s", what);
    assert_string_equal(job + strlen("/job.json: "), expected);
    free(folder_name);
}

static void is_refused(const char *set, const char *text, const char *what)
{
    is_refused_sized(set, text, strlen(text), what);
}

static void prompts_are(const ks_job *job, int count, const char *const *texts)
{
    assert_int_equal(job->positives, count);
    for (int i = 0; i < count; i++) {
        assert_int_equal(job->positive[i].count, 1);
        assert_string_equal(job->positive[i].item[0].text, texts[i]);
        assert_string_equal(job->positive[i].label, texts[i]);
        assert_true(job->positive[i].item[0].strength == 1);
        assert_true(job->positive[i].item[0].end_percent == 1);
    }
}

#define TEXTS(...) (const char *const[]){__VA_ARGS__}

static void each_line_is_a_prompt_as_it_stands(void **state)
{
    (void)state;
    ks_job *job = load(LINES, "a red circle\n # no comment \n\n \t \n\"quoted\", {\"a\": 1}\n");
    prompts_are(job, 3, TEXTS("a red circle", " # no comment ", "\"quoted\", {\"a\": 1}"));
    ks_job_free(job);
}

static void ends_of_lines_and_files_may_be_of_any_kind(void **state)
{
    (void)state;
    ks_job *job = load(LINES, "\xEF\xBB\xBF" "ein Stern \xE6\x98\x9F\r\n\r\nb\r\nno end");
    prompts_are(job, 3, TEXTS("ein Stern \xE6\x98\x9F", "b", "no end"));
    ks_job_free(job);
}

static void a_member_of_each_json_line_is_a_value(void **state)
{
    (void)state;
    ks_job *job = load(JSONL, "{\"p\": \"a\", \"x\": 1}\n\n{\"x\": [], \"p\": \"\"}\n");
    prompts_are(job, 2, TEXTS("a", ""));
    ks_job_free(job);
}

static void a_json_line_may_hold_any_form_of_a_value(void **state)
{
    (void)state;
    ks_job *job = load(JSONL, "{\"p\": {\"text\": \"a\", \"strength\": 0.5}}\n"
                              "{\"p\": [\"b\", {\"file\": \"c.safetensors\", \"cond\": \"n\"}]}\n");
    assert_int_equal(job->positives, 2);
    assert_true(job->positive[0].item[0].strength == 0.5);
    assert_string_equal(job->positive[0].label, "{\"text\":\"a\",\"strength\":0.5}");
    assert_int_equal(job->positive[1].count, 2);
    assert_non_null(strstr(job->positive[1].item[1].file, "/c.safetensors"));
    ks_job_free(job);
}

static void seeds_are_exact(void **state)
{
    (void)state;
    ks_job *job = load(SEEDS, "7\n 18446744073709551615\t\r\n\n9007199254740993\n007\n");
    const uint64_t seeds[] = {7, UINT64_MAX, UINT64_C(9007199254740993), 7};
    assert_int_equal(job->seed_count, 4);
    for (uint64_t k = 0; k < 4; k++)
        assert_int_equal(ks_job_seed(job, k), seeds[k]);
    ks_job_free(job);
    job = load(JSONL_SEEDS, "{\"s\": 18446744073709551615}\n{\"s\": \"9007199254740993\"}\n");
    assert_int_equal(ks_job_seed(job, 0), UINT64_MAX);
    assert_int_equal(ks_job_seed(job, 1), UINT64_C(9007199254740993));
    ks_job_free(job);
}

static void the_negative_axis_has_files_too(void **state)
{
    (void)state;
    ks_job *job = load("negative={\"lines\":\"values\"}", "blurry\n");
    assert_string_equal(job->negative[0].label, "blurry");
    ks_job_free(job);
}

static void mistakes_name_file_and_line(void **state)
{
    (void)state;
    is_refused(LINES, " \n\n", "positive: @: holds no values: there is nothing in its lines");
    is_refused(LINES, "a\n\n\xFF\n", "positive: @:3: is not UTF-8; save the file as UTF-8");
    is_refused_sized(LINES, "a\nb\0c\n", 6,
                     "positive: @:2: holds a NUL byte: this is no text file");
    is_refused(SEEDS, "1\n-2\n", "seed: @:2: \"-2\" does not fit; give a whole number from 0 to "
                                 "18446744073709551615");
    is_refused(SEEDS, "18446744073709551616\n",
               "seed: @:1: \"18446744073709551616\" does not fit; give a whole number from 0 to "
               "18446744073709551615");
    is_refused(SEEDS, "1 2\n", "seed: @:1: \"1 2\" does not fit; give a whole number from 0 to "
                               "18446744073709551615");
    is_refused(JSONL, "{\"p\": \"a\"}\n{\"q\": \"a\"}\n", "positive: @:2: has no key \"p\"");
    is_refused(JSONL, "[1]\n", "positive: @:1: is no JSON object, {\"key\": value}");
    is_refused(JSONL, "{\"p\": \"a\"}\n{\"p\": 7}\n",
               "positive: @:2: p: 7 does not fit; give a text, {\"file\": \"c.safetensors\", "
               "\"cond\": \"NAME\"}, a list of values, or a list inside the list to combine several");
    is_refused(JSONL, "{\"p\": \"a\"}\n{\"p\" \"a\"}\n",
               "positive: @:2:6: found '\"' where ':' is wanted");
}

static void lines_have_a_longest_length(void **state)
{
    (void)state;
    char *text = ks_calloc(KS_LINES_LONGEST + 3, 1);
    memset(text, 'x', KS_LINES_LONGEST);
    ks_job *job = load(LINES, text);
    assert_int_equal(strlen(job->positive[0].label), KS_LINES_LONGEST);
    ks_job_free(job);
    text[KS_LINES_LONGEST] = 'x';
    is_refused(LINES, text,
               "positive: @:1: is longer than 65536 bytes, the most that a line may have");
    free(text);
}

static void files_have_a_most_of_values(void **state)
{
    (void)state;
    size_t size = 2 * ((size_t)KS_LINES_MOST + 1);
    char *text = ks_calloc(size, 1);
    for (size_t i = 0; i < size; i += 2)
        memcpy(text + i, "7\n", 2);
    is_refused_sized(SEEDS, text, size,
                     "seed: @:10000001: is one more than the 10000000 values that a file may hold");
    ks_error err = KS_ERROR_NONE;
    ks_job *job = load_sized(SEEDS, text, size - 2, &err);
    assert_non_null(job);
    assert_int_equal(job->seed_count, KS_LINES_MOST);
    ks_job_free(job);
    free(text);
}

static void what_does_not_name_one_file_is_refused(void **state)
{
    (void)state;
    small_job_is_refused("positive={\"lines\":\"a\",\"jsonl\":\"b\",\"key\":\"c\"}",
                         "positive: has both \"lines\" and \"jsonl\"; give one of them");
    small_job_is_refused("positive={\"lines\":\"a\",\"key\":\"c\"}",
                         "positive: has a \"key\" beside \"lines\", whose lines are the values; "
                         "remove it, or give \"jsonl\"");
    small_job_is_refused("seed={\"jsonl\":\"a\"}",
                         "seed.key: is missing; give the key of the value in each line's object");
    small_job_is_refused("negative={\"lines\":7}",
                         "negative.lines: 7 does not fit; give the path of a text file with one "
                         "value a line");
    ks_error err = KS_ERROR_NONE;
    assert_null(try_job(SMALL_JOB, "positive={\"lines\":\"no-such-file\"}", &err));
    assert_non_null(strstr(err.text, ": positive: "));
    assert_non_null(strstr(err.text, "no-such-file: "));
    assert_non_null(strstr(err.text, strerror(ENOENT)));
}

static void the_digest_follows_the_files_contents(void **state)
{
    (void)state;
    ks_job *a = load(LINES, "a\nb\n"), *same = load(LINES, "a\nb\n"), *other = load(LINES, "a\nc\n"),
           *none = small_job(NULL);
    assert_string_equal(a->axis_files, same->axis_files);
    assert_string_not_equal(a->axis_files, other->axis_files);
    assert_string_equal(none->axis_files, "");
    ks_job_free(a);
    ks_job_free(same);
    ks_job_free(other);
    ks_job_free(none);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_line_is_a_prompt_as_it_stands),
        cmocka_unit_test(ends_of_lines_and_files_may_be_of_any_kind),
        cmocka_unit_test(a_member_of_each_json_line_is_a_value),
        cmocka_unit_test(a_json_line_may_hold_any_form_of_a_value),
        cmocka_unit_test(seeds_are_exact),
        cmocka_unit_test(the_negative_axis_has_files_too),
        cmocka_unit_test(mistakes_name_file_and_line),
        cmocka_unit_test(lines_have_a_longest_length),
        cmocka_unit_test(files_have_a_most_of_values),
        cmocka_unit_test(what_does_not_name_one_file_is_refused),
        cmocka_unit_test(the_digest_follows_the_files_contents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
