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
#include "base/json.h"
#include "model/tokenizer.h"
#include "support/checkpoint.h"
#include "support/golden.h"

#define DEMO TEST_ROOT "/jobs/demo/tokenizer"

static char folder[] = "/tmp/ksweep-test-tokenizer-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static char *inside(const char *name)
{
    return ks_format("%s/%s", folder, name);
}

static int remove_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"vocab.json", "merges.txt"};
    for (int i = 0; i < 2; i++) {
        char *path = inside(names[i]);
        unlink(path);
        free(path);
    }
    return rmdir(folder);
}

static ks_tokenizer *open_folder(const char *where)
{
    ks_error err = KS_ERROR_NONE;
    ks_tokenizer *t = ks_tokenizer_open(where, &err);
    if (!t)
        fail_msg("%s", err.text);
    return t;
}

static void assert_ids(const ks_tokenizer *t, const char *text, const int32_t *wanted, int count)
{
    ks_error err = KS_ERROR_NONE;
    int32_t *ids;
    int found;
    if (ks_tokenizer_encode(t, text, &ids, &found, &err) != 0)
        fail_msg("%s", err.text);
    if (found != count)
        fail_msg("\"%s\": %d ids, %d wanted", text, found, count);
    for (int i = 0; i < count; i++)
        if (ids[i] != wanted[i])
            fail_msg("\"%s\": id %d is %d, %d wanted", text, i, ids[i], wanted[i]);
    free(ids);
}

/* --- the demo model's tokenizer --- */

static void golden_prompts_give_their_ids(void **state)
{
    (void)state;
    int64_t file = golden_open("demo_golden.h5");
    ks_tokenizer *t = open_folder(DEMO);
    for (int p = 0; p < 5; p++) {
        char group[16], path[32];
        snprintf(group, sizeof group, p < 4 ? "prompt%d" : "uncond", p);
        snprintf(path, sizeof path, "%s/ids", group);
        int64_t count, *ids = golden_integers(file, path, &count);
        char *text = p < 4 ? golden_text(file, group, "prompt") : ks_strdup("");
        int32_t *found;
        int n;
        assert_int_equal(ks_tokenizer_encode(t, text, &found, &n, NULL), 0);
        assert_int_equal(count, 77);
        assert_int_equal(ids[0], ks_tokenizer_start(t));
        for (int i = 1; i < 77; i++)
            assert_int_equal(ids[i], i <= n ? found[i - 1] : ks_tokenizer_end(t));
        free(found);
        free(text);
        free(ids);
    }
    ks_tokenizer_free(t);
    golden_close(file);
}

static void the_demo_vocabulary_is_whole(void **state)
{
    (void)state;
    ks_tokenizer *t = open_folder(DEMO);
    assert_int_equal(ks_tokenizer_vocab(t), 898);
    assert_int_equal(ks_tokenizer_start(t), 896);
    assert_int_equal(ks_tokenizer_end(t), 897);
    ks_tokenizer_free(t);
}

/* Texts and their ids, from an independent implementation (tools/demo-model/tokens.py): case,
 * combining marks, contractions, digits of many scripts, sigmas, white space of many kinds, special
 * tokens, brackets. */
static const struct {
    const char *text;
    int count;
    int32_t ids[32];
} odd_texts[] = {
    {"a red circle", 3, {320, 792, 649}},
    {"A RED Circle", 3, {320, 792, 649}},
    {"a  red\011circle\012", 3, {320, 792, 649}},
    {"caf\303\251 cafe\314\201", 8, {66, 836, 127, 358, 66, 836, 127, 358}},
    {"it's we'll they're I'd",
     17,
     {72, 339, 6, 338, 86, 324, 6, 75, 331, 818, 344, 6, 81, 324, 328, 6, 323}},
    {"'s't!'s", 7, {6, 338, 6, 339, 0, 262, 338}},
    {"1234 7th \302\275\342\205\247",
     12,
     {272, 273, 274, 275, 278, 83, 327, 126, 377, 158, 227, 371}},
    {"\316\237\316\224\316\237\316\243 \316\243 \316\221\316\243.",
     15,
     {138, 123, 138, 112, 138, 123, 139, 480, 139, 481, 138, 109, 139, 480, 269}},
    {"\304\260stanbul", 7, {328, 136, 485, 519, 577, 620, 331}},
    {"\344\275\240\345\245\275 \344\270\226\347\225\214",
     12,
     {160, 121, 254, 161, 98, 377, 160, 116, 244, 163, 243, 490}},
    {"\360\237\230\200\342\200\215\360\237\232\200 ok",
     13,
     {172, 253, 246, 222, 158, 222, 235, 172, 253, 248, 478, 78, 330}},
    {"<|endoftext|> x<|startoftext|>!<|endoftext|>",
     16,
     {897, 343, 896, 0, 27, 347, 68, 77, 551, 69, 83, 68, 87, 339, 91, 285}},
    {"(a red:1.2) [b] \134(c\134)",
     16,
     {263, 320, 792, 281, 272, 269, 273, 264, 314, 321, 316, 59, 263, 322, 59, 264}},
    {"stra\303\237e \357\254\201x \307\205",
     11,
     {519, 527, 127, 253, 324, 171, 105, 223, 343, 131, 484}},
    {"a\302\240b\342\200\203c\343\200\200d\034e\302\205f", 6, {320, 321, 322, 323, 324, 325}},
    {"aaaaaaaaaaaaaaaaaaaaaaaaa", 25, {64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64,
                                       64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 320}},
    {"", 0, {0}},
    {"   ", 0, {0}},
    {"\340\270\201\340\270\263 \340\244\225\340\244\277",
     12,
     {156, 116, 223, 156, 116, 367, 156, 97, 499, 156, 97, 379}},
    {"naive--dash___under...",
     16,
     {77, 574, 835, 12, 268, 67, 64, 82, 327, 62, 62, 318, 810, 13, 13, 269}},
    {" \342\204\253 \341\272\233\314\243", 7, {127, 354, 157, 118, 505, 136, 352}},
};

static void odd_texts_give_their_ids(void **state)
{
    (void)state;
    ks_tokenizer *t = open_folder(DEMO);
    for (size_t i = 0; i < sizeof odd_texts / sizeof *odd_texts; i++)
        assert_ids(t, odd_texts[i].text, odd_texts[i].ids, odd_texts[i].count);
    ks_tokenizer_free(t);
}

static void texts_that_are_not_utf8_are_refused(void **state)
{
    (void)state;
    static const char *const texts[] = {"a\xFFz", "\xC3", "\xED\xA0\x80", "\xC0\x80",
                                        "\xF4\x90\x80\x80"};
    ks_tokenizer *t = open_folder(DEMO);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ks_error err = KS_ERROR_NONE;
        int32_t *ids;
        int count;
        assert_int_equal(ks_tokenizer_encode(t, texts[i], &ids, &count, &err), -1);
        assert_null(ids);
        assert_non_null(strstr(err.text, "cannot be tokenised: Invalid UTF-8 string"));
    }
    ks_tokenizer_free(t);
}

static void a_very_long_word_takes_no_long_time(void **state)
{
    (void)state;
    enum { LENGTH = 600000 };
    ks_tokenizer *t = open_folder(DEMO);
    char *text = ks_calloc(LENGTH + 1, 1);
    for (int i = 0; i < LENGTH; i++)
        text[i] = "circlesquare"[i % 12];
    int32_t *ids;
    int count;
    double start = ks_seconds();
    assert_int_equal(ks_tokenizer_encode(t, text, &ids, &count, NULL), 0);
    assert_true(ks_seconds() - start < 20);
    assert_in_range(count, 1, LENGTH);
    free(ids);
    free(text);
    ks_tokenizer_free(t);
}

static void a_model_finds_its_tokenizer(void **state)
{
    (void)state;
    char *found = ks_tokenizer_find(TEST_ROOT "/jobs/demo/shapes-fp16.safetensors", NULL);
    assert_string_equal(found, DEMO);
    free(found);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_tokenizer_find("/nonexistent/m.safetensors", &err));
    assert_string_equal(err.text, "/nonexistent/m.safetensors: has no tokenizer beside it: neither "
                                  "/nonexistent/m.tokenizer/ nor tokenizer/ is there");
}

/* --- made-up tokenizers --- */

/* The 512 byte tokens of the demo's vocabulary, the tokens that extra names, then the specials. */
static void write_vocabulary(const char *const *extra)
{
    ks_json_doc *demo = ks_json_read(DEMO "/vocab.json", NULL);
    char *path = inside("vocab.json");
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    int id = 512;
    fputs("{\"<|startoftext|>\": 512, \"<|endoftext|>\": 513", out);
    for (int i = 0; extra[i]; i++)
        fprintf(out, ", \"%s\": %d", extra[i], 514 + i);
    for (int i = 0; i < ks_json_size(ks_json_root(demo)); i++) {
        const char *token;
        int64_t value;
        assert_int_equal(
            ks_json_int(ks_json_member(ks_json_root(demo), i, &token), 0, 900, &value, NULL), 0);
        if (value < id)
            fprintf(out, ", \"%s%s\": %d", *token == '"' || *token == '\\' ? "\\" : "", token,
                    (int)value);
    }
    fputs("}", out);
    fclose(out);
    free(path);
    ks_json_free(demo);
}

static void write_merges(const char *text)
{
    char *path = inside("merges.txt");
    write_bytes(path, text, strlen(text));
    free(path);
}

static void assert_refused(const char *message)
{
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_tokenizer_open(folder, &err));
    assert_memory_equal(err.text, folder, strlen(folder));
    assert_string_equal(err.text + strlen(folder), message);
}

static int32_t id_of(const ks_tokenizer *t, const char *text, int place)
{
    int32_t *ids, id;
    int count;
    assert_int_equal(ks_tokenizer_encode(t, text, &ids, &count, NULL), 0);
    assert_true(place < count);
    id = ids[place];
    free(ids);
    return id;
}

static void lower_ranks_go_first(void **state)
{
    (void)state;
    static const char *const extra[] = {"ab", "bc</w>", "abc</w>", NULL};
    write_vocabulary(extra);
    write_merges("#version: 0.2\nb c</w>\na b\na bc</w>\n");
    ks_tokenizer *t = open_folder(folder);
    assert_ids(t, "abc", (int32_t[]){516}, 1);
    assert_ids(t, "abd", (int32_t[]){514, id_of(t, "d", 0)}, 2);
    ks_tokenizer_free(t);
}

/* All pairs of one rank are joined before a pair with a lower rank that only they make. */
static void pairs_of_one_rank_are_joined_together(void **state)
{
    (void)state;
    static const char *const extra[] = {"aba", "ab", "ab</w>", NULL};
    write_vocabulary(extra);
    write_merges("#version: 0.2\nab a\na b\n");
    ks_tokenizer *t = open_folder(folder);
    int32_t b_end = id_of(t, "b", 0), c_end = id_of(t, "c", 0), a = id_of(t, "ax", 0);
    assert_ids(t, "ababc", (int32_t[]){515, 515, c_end}, 3);
    assert_ids(t, "abab", (int32_t[]){514, b_end}, 2);
    assert_ids(t, "abaac", (int32_t[]){514, a, c_end}, 3);
    ks_tokenizer_free(t);
}

static void equal_neighbours_are_joined_from_the_left(void **state)
{
    (void)state;
    static const char *const extra[] = {"aa", NULL};
    write_vocabulary(extra);
    write_merges("#version: 0.2\r\na a\r\n");
    ks_tokenizer *t = open_folder(folder);
    int32_t a = id_of(t, "ab", 0), b_end = id_of(t, "b", 0);
    assert_ids(t, "aaab", (int32_t[]){514, a, b_end}, 3);
    assert_ids(t, "aaaab", (int32_t[]){514, 514, b_end}, 3);
    ks_tokenizer_free(t);
}

static void merges_of_unknown_tokens_are_refused(void **state)
{
    (void)state;
    static const char *const extra[] = {"ab", "ba", NULL};
    write_vocabulary(extra);
    write_merges("#version: 0.2\na b\nxyz b\n");
    assert_refused("/merges.txt:3: the token \"xyz\" is not in vocab.json");
    write_merges("#version: 0.2\na c\n");
    assert_refused("/merges.txt:2: the token \"ac\" is not in vocab.json");
    write_merges("#version: 0.2\nab\n");
    assert_refused("/merges.txt:2: wanted two tokens with one space between them");
    write_merges("#version: 0.2\na b c\n");
    assert_refused("/merges.txt:2: wanted two tokens with one space between them");
    write_merges(" b\n");
    assert_refused("/merges.txt:1: wanted two tokens with one space between them");
    write_merges("a b\na b\n");
    assert_refused("/merges.txt: merges 1 and 2 are the same pair");
    char *path = inside("merges.txt");
    write_bytes(path, "a b\0\n", 5);
    assert_refused("/merges.txt: is no text, it holds NUL");
    unlink(path);
    free(path);
    assert_refused("/merges.txt: cannot open: No such file or directory");
}

static void a_giant_line_is_refused(void **state)
{
    (void)state;
    static const char *const extra[] = {"ab", NULL};
    write_vocabulary(extra);
    char *line = ks_calloc(3000002, 1);
    memset(line, 'a', 3000000);
    line[1500000] = ' ';
    write_merges(line);
    free(line);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_tokenizer_open(folder, &err));
    assert_non_null(strstr(err.text, "merges.txt:1: the token \"aaaa"));
}

static void write_vocab_text(const char *text)
{
    char *path = inside("vocab.json");
    write_bytes(path, text, strlen(text));
    free(path);
}

static void broken_vocabularies_are_refused(void **state)
{
    (void)state;
    write_merges("");
    write_vocab_text("[]");
    assert_refused("/vocab.json: wanted an object of tokens and their ids");
    write_vocab_text("{\"a\": 0, \"b\": 0}");
    assert_refused("/vocab.json: b: the id 0 belongs to another token already");
    write_vocab_text("{\"a\": 0, \"b\": 2}");
    assert_refused("/vocab.json: b: found 2; wanted a whole number from 0 to 1");
    write_vocab_text("{\"a\": 0, \"a\": 1}");
    assert_refused("/vocab.json: the key \"a\" stands twice in one object");
    write_vocab_text("{\"a\": \"0\"}");
    assert_refused("/vocab.json: a: found the text \"0\"; wanted a whole number from 0 to 0");
    write_vocab_text("{\"a\": 0");
    assert_refused("/vocab.json:1:8: the text ends where ',' or '}' is wanted");
    write_vocab_text("{\"a\": 0}");
    assert_refused("/vocab.json: has no token \"\xC4\x80\", which CLIP's tokenizer needs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_prompts_give_their_ids),
        cmocka_unit_test(the_demo_vocabulary_is_whole),
        cmocka_unit_test(odd_texts_give_their_ids),
        cmocka_unit_test(texts_that_are_not_utf8_are_refused),
        cmocka_unit_test(a_very_long_word_takes_no_long_time),
        cmocka_unit_test(a_model_finds_its_tokenizer),
        cmocka_unit_test(lower_ranks_go_first),
        cmocka_unit_test(pairs_of_one_rank_are_joined_together),
        cmocka_unit_test(equal_neighbours_are_joined_from_the_left),
        cmocka_unit_test(merges_of_unknown_tokens_are_refused),
        cmocka_unit_test(a_giant_line_is_refused),
        cmocka_unit_test(broken_vocabularies_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
