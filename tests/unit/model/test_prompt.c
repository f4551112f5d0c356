/* Prompts: emphasis and blocks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/text.h"

enum { TOKENS = 77 };

static ks_tokenizer *tokenizer;

static int open_tokenizer(void **state)
{
    (void)state;
    tokenizer = ks_tokenizer_open(TEST_ROOT "/jobs/demo/tokenizer", NULL);
    return tokenizer ? 0 : -1;
}

static int close_tokenizer(void **state)
{
    (void)state;
    ks_tokenizer_free(tokenizer);
    return 0;
}

static ks_prompt make(const char *text)
{
    ks_error err = KS_ERROR_NONE;
    ks_prompt p;
    if (ks_prompt_make(&p, tokenizer, text, TOKENS, &err) != 0)
        fail_msg("%s", err.text);
    return p;
}

/* The ids between start and end of a one-block text must be those of `plain`, with these weights a
 * word, each of which is one token. */
static void check(const char *text, const char *plain, const double *weight)
{
    ks_prompt p = make(text);
    int32_t *id;
    int count;
    assert_int_equal(ks_tokenizer_encode(tokenizer, plain, &id, &count, NULL), 0);
    assert_int_equal(p.blocks, 1);
    assert_int_equal(p.id[0], ks_tokenizer_start(tokenizer));
    for (int i = 0; i < count; i++) {
        assert_int_equal(p.id[1 + i], id[i]);
        double expected = weight ? weight[i] : 1;
        assert_float_equal(p.weight[1 + i], expected, 1e-6);
    }
    for (int i = 1 + count; i < TOKENS; i++) {
        assert_int_equal(p.id[i], ks_tokenizer_end(tokenizer));
        assert_float_equal(p.weight[i], 1, 0);
    }
    free(id);
    ks_prompt_free(&p);
}

static void a_plain_text_is_one_block_of_weight_1(void **state)
{
    (void)state;
    check("", "", NULL);
    check("a red circle", "a red circle", NULL);
    ks_prompt p = make("a red circle");
    assert_false(p.emphasised);
    ks_prompt_free(&p);
}

static void brackets_weigh_what_they_say(void **state)
{
    (void)state;
    check("a (red) circle", "a red circle", (double[]){1, 1.1, 1});
    check("a (red:1.5) circle", "a red circle", (double[]){1, 1.5, 1});
    check("a ((red)) circle", "a red circle", (double[]){1, 1.21, 1});
    check("(a (red:0.5) circle:2)", "a red circle", (double[]){2, 0.5, 2});
    check("(a (red) circle:2)", "a red circle", (double[]){2, 2.2, 2});
    check("(a) (red: 1.3 )(circle:-1)", "a red circle", (double[]){1.1, 1.3, -1});
    ks_prompt p = make("a (red) circle");
    assert_true(p.emphasised);
    ks_prompt_free(&p);
}

static void what_is_no_emphasis_stays_text(void **state)
{
    (void)state;
    check("a \\(red\\) circle", "a (red) circle", NULL);
    check("a (red circle", "a (red circle", NULL);
    check("a red) circle", "a red) circle", NULL);
    check("(red:much)", "red:much", (double[]){1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1});
}

/* "red " n times: n tokens. */
static char *reds(int n, const char *end)
{
    char *text = calloc((size_t)n * 4 + strlen(end) + 1, 1);
    assert_non_null(text);
    for (int i = 0; i < n; i++)
        memcpy(text + (size_t)i * 4, "red ", 4);
    strcpy(text + (size_t)n * 4, end);
    return text;
}

static void check_blocks(int words, int blocks)
{
    char *text = reds(words, "");
    ks_prompt p = make(text);
    int seen = 0;
    assert_int_equal(p.blocks, blocks);
    for (int b = 0; b < blocks; b++) {
        assert_int_equal(p.id[b * TOKENS], ks_tokenizer_start(tokenizer));
        assert_int_equal(p.id[b * TOKENS + TOKENS - 1], ks_tokenizer_end(tokenizer));
        for (int i = 1; i < TOKENS - 1; i++)
            seen += p.id[b * TOKENS + i] != ks_tokenizer_end(tokenizer);
    }
    assert_int_equal(seen, words);
    ks_prompt_free(&p);
    free(text);
}

static void a_long_text_fills_blocks_of_75(void **state)
{
    (void)state;
    check_blocks(75, 1);
    check_blocks(76, 2);
    check_blocks(150, 2);
    check_blocks(151, 3);
}

static void a_short_run_is_not_cut_in_two(void **state)
{
    (void)state;
    char *text = reds(73, "(blue green star:1.2)");
    ks_prompt p = make(text);
    assert_int_equal(p.blocks, 2);
    assert_int_equal(p.id[74], ks_tokenizer_end(tokenizer));
    assert_float_equal(p.weight[TOKENS + 1], 1.2, 1e-6);
    assert_float_equal(p.weight[TOKENS + 3], 1.2, 1e-6);
    assert_int_equal(p.id[TOKENS + 4], ks_tokenizer_end(tokenizer));
    ks_prompt_free(&p);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plain_text_is_one_block_of_weight_1),
        cmocka_unit_test(brackets_weigh_what_they_say),
        cmocka_unit_test(what_is_no_emphasis_stays_text),
        cmocka_unit_test(a_long_text_fills_blocks_of_75),
        cmocka_unit_test(a_short_run_is_not_cut_in_two),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
