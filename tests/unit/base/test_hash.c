#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/hash.h"
#include "base/hash_ahead.h"

/* What xxh128sum prints for an empty file. */
static void digest_of_nothing_is_the_published_one(void **state)
{
    (void)state;
    ks_hash128 h = ks_hash("", 0);
    char hex[33];
    ks_hex(h.byte, sizeof h.byte, hex);
    assert_string_equal(hex, "99aa06d3014798d86001c324468d497f");
}

static void sha256_is_the_published_one(void **state)
{
    (void)state;
    char hex[KS_SHA256_HEX];
    assert_int_equal(ks_sha256("abc", 3, hex, NULL), 0);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(ks_sha256(NULL, 0, hex, NULL), 0);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void a_digest_made_ahead_is_the_same(void **state)
{
    (void)state;
    enum { SIZE = (48 << 20) + 12345 };
    char *data = malloc(SIZE), ahead[KS_SHA256_HEX], plain[KS_SHA256_HEX];
    assert_non_null(data);
    for (size_t i = 0; i < SIZE; i++)
        data[i] = (char)(i * 2654435761U >> 13);
    for (size_t size = 0; size <= SIZE; size += SIZE / 3) {
        ks_hash_ahead *h = ks_hash_ahead_start(data, size);
        assert_non_null(h);
        assert_int_equal(ks_sha256(data, size, plain, NULL), 0);
        assert_int_equal(ks_hash_ahead_end(h, ahead, NULL), 0);
        assert_string_equal(ahead, plain);
    }
    ks_hash_ahead_drop(ks_hash_ahead_start(data, SIZE));
    ks_hash_ahead_drop(NULL);
    free(data);
}

static ks_hash128 of_texts(const char *a, const char *b)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, a);
    ks_hasher_add_text(h, b);
    return ks_hasher_end(h);
}

static void fields_do_not_run_together(void **state)
{
    (void)state;
    ks_hash128 a = of_texts("ab", "c"), b = of_texts("a", "bc"), c = of_texts("ab", "c");
    assert_false(ks_hash_equal(&a, &b));
    assert_true(ks_hash_equal(&a, &c));
}

static ks_hash128 of_double(double value)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_f64(h, value);
    return ks_hasher_end(h);
}

static void negative_zero_is_zero(void **state)
{
    (void)state;
    ks_hash128 zero = of_double(0.0), negative = of_double(-0.0), other = of_double(5e-324);
    assert_true(ks_hash_equal(&zero, &negative));
    assert_false(ks_hash_equal(&zero, &other));
}

/* Sample keys are kept in files: the digest of given fields must never change. */
static void field_digests_are_stable(void **state)
{
    (void)state;
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, "euler");
    ks_hasher_add_u64(h, 42);
    ks_hash128 fields = ks_hasher_end(h);
    const uint8_t bytes[] = {5, 0, 0, 0, 0, 0, 0,  0, 'e', 'u', 'l', 'e', 'r', 8, 0,
                             0, 0, 0, 0, 0, 0, 42, 0, 0,   0,   0,   0,   0,   0};
    ks_hash128 whole = ks_hash(bytes, sizeof bytes);
    assert_true(ks_hash_equal(&fields, &whole));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digest_of_nothing_is_the_published_one),
        cmocka_unit_test(sha256_is_the_published_one),
        cmocka_unit_test(a_digest_made_ahead_is_the_same),
        cmocka_unit_test(fields_do_not_run_together),
        cmocka_unit_test(negative_zero_is_zero),
        cmocka_unit_test(field_digests_are_stable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
