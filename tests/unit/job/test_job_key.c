/* Keys: what counts, what does not, and what a key costs. */
#include "unit/job/job_file.h"

#include "sampling/sampler.h"
#include "sampling/schedule.h"

static ks_hash128 digest_of(const char *text)
{
    return ks_hash(text, strlen(text));
}

/* Digests with one value an axis; pos and the others are the caller's. */
static ks_job_digests digests_of(const ks_hash128 value[3])
{
    return (ks_job_digests){digest_of("model"), &value[0], &value[1], &value[2]};
}

static ks_hash128 key_of(const char *set, const ks_sample *sample)
{
    const ks_hash128 value[3] = {digest_of("positive"), digest_of("negative"), digest_of("latent")};
    ks_job_digests digests = digests_of(value);
    ks_job *job = small_job(set);
    ks_hash128 key = ks_job_key(job, &digests, sample);
    ks_job_free(job);
    return key;
}

static ks_sample some_sample(const char *sampler)
{
    return (ks_sample){.index = 5, .seed = 42, .steps = 20, .cfg = 7, .denoise = 1,
                       .sampler = ks_sampler_find(sampler),
                       .scheduler = ks_scheduler_find("karras")};
}

static void every_widget_counts(void **state)
{
    (void)state;
    ks_sample variant[8];
    for (int i = 0; i < 8; i++)
        variant[i] = some_sample("euler");
    variant[1].seed = 43;
    variant[2].steps = 21;
    variant[3].cfg = 7.000000000000001;
    variant[4].denoise = 0.9;
    variant[5].sampler = ks_sampler_find("heun");
    variant[6].scheduler = ks_scheduler_find("normal");
    variant[7].batch = 1;
    ks_hash128 key[8];
    for (int i = 0; i < 8; i++) {
        key[i] = key_of(NULL, &variant[i]);
        for (int k = 0; k < i; k++)
            assert_false(ks_hash_equal(&key[i], &key[k]));
    }
}

static void every_digest_counts(void **state)
{
    (void)state;
    ks_job *job = small_job(NULL);
    ks_sample s = some_sample("euler");
    ks_hash128 value[3] = {digest_of("positive"), digest_of("negative"), digest_of("latent")};
    ks_job_digests digests = digests_of(value);
    ks_hash128 first = ks_job_key(job, &digests, &s);
    for (int i = 0; i < 3; i++) {
        ks_hash128 kept = value[i];
        value[i] = digest_of("other");
        ks_hash128 key = ks_job_key(job, &digests, &s);
        assert_false(ks_hash_equal(&first, &key));
        value[i] = kept;
    }
    ks_hash128 same = ks_job_key(job, &digests, &s);
    assert_true(ks_hash_equal(&first, &same));
    digests.model = digest_of("another model");
    same = ks_job_key(job, &digests, &s);
    assert_false(ks_hash_equal(&first, &same));
    ks_job_free(job);
}

static void exchanged_conditionings_are_another_sample(void **state)
{
    (void)state;
    ks_job *job = small_job(NULL);
    ks_sample s = some_sample("euler");
    const ks_hash128 one[3] = {digest_of("a"), digest_of("b"), digest_of("l")};
    const ks_hash128 two[3] = {digest_of("b"), digest_of("a"), digest_of("l")};
    ks_job_digests first = digests_of(one), second = digests_of(two);
    ks_hash128 a = ks_job_key(job, &first, &s), b = ks_job_key(job, &second, &s);
    assert_false(ks_hash_equal(&a, &b));
    ks_job_free(job);
}

static bool same_key(const char *set, const char *other, const char *sampler)
{
    ks_sample s = some_sample(sampler);
    ks_hash128 a = key_of(set, &s), b = key_of(other, &s);
    return ks_hash_equal(&a, &b);
}

static void what_does_not_change_the_bits_does_not_count(void **state)
{
    (void)state;
    assert_true(same_key(NULL, "precision=fp32", "euler"));
    assert_true(same_key(NULL, "parallel={\"batch_rows\":8}", "euler"));
    assert_true(same_key(NULL, "parallel={\"tensor\":2,\"rows\":2}", "euler"));
    assert_true(same_key(NULL, "seed={\"start\":9,\"count\":100}", "euler"));
    assert_true(same_key(NULL, "output.file=elsewhere.h5", "euler"));
    ks_sample here = some_sample("euler"), there = some_sample("euler");
    there.index = 77;
    ks_hash128 a = key_of(NULL, &here), b = key_of(NULL, &there);
    assert_true(ks_hash_equal(&a, &b));
}

static void the_reading_of_the_model_counts(void **state)
{
    (void)state;
    assert_false(same_key("prediction=eps", "prediction=v", "euler"));
    assert_false(same_key("zsnr=true", "zsnr=false", "euler"));
    assert_false(same_key(NULL, "zsnr=true", "euler"));
    assert_true(same_key(NULL, "zsnr=false", "euler"));
}

static void the_advanced_node_counts_where_it_differs(void **state)
{
    (void)state;
    static const char *const others[] = {"add_noise=false", "start_at_step=3", "end_at_step=3"};
    assert_true(same_key(NULL, "add_noise=true", "euler"));
    assert_true(same_key(NULL, "start_at_step=0", "euler"));
    assert_true(same_key(NULL, "end_at_step=10000", "euler"));
    assert_true(same_key(NULL, "return_with_leftover_noise=true", "euler"));
    for (int i = 0; i < 3; i++) {
        assert_false(same_key(NULL, others[i], "euler"));
        assert_false(same_key(others[i], others[(i + 1) % 3], "euler"));
    }
    const char cut[] = "{\"ksweep\": 1, \"model\": \"m\", \"positive\": \"\", \"end_at_step\": 3,"
                       " \"latent_image\": {\"width\": 64, \"height\": 64}, \"output\": {\"file\": "
                       "\"o\"}}";
    const ks_hash128 value[3] = {digest_of("a"), digest_of("b"), digest_of("c")};
    ks_job_digests digests = digests_of(value);
    ks_sample s = some_sample("euler");
    ks_job *without = load_job(cut, NULL), *with = load_job(cut, "return_with_leftover_noise=true");
    ks_hash128 a = ks_job_key(without, &digests, &s), b = ks_job_key(with, &digests, &s);
    assert_false(ks_hash_equal(&a, &b));
    ks_job_free(without);
    ks_job_free(with);
}

static void the_noise_device_counts_only_where_noise_is_drawn(void **state)
{
    (void)state;
    assert_true(same_key("noise_device=cpu", "noise_device=cuda", "euler"));
    assert_false(same_key("noise_device=cpu", "noise_device=cuda", "euler_ancestral"));
    assert_false(same_key("noise_device=cuda:108", "noise_device=cuda", "euler_ancestral"));
    assert_true(same_key("noise_device=cuda:132", "noise_device=cuda", "euler_ancestral"));
}

static void minus_zero_is_zero(void **state)
{
    (void)state;
    ks_sample plus = some_sample("euler"), minus = some_sample("euler");
    plus.cfg = 0.0;
    minus.cfg = -0.0;
    ks_hash128 a = key_of(NULL, &plus), b = key_of(NULL, &minus);
    assert_true(ks_hash_equal(&a, &b));
}

/* Files on disk hold keys: this one must stay as it is, on every machine. */
static void keys_do_not_change_between_releases(void **state)
{
    (void)state;
    ks_sample s = some_sample("euler_ancestral");
    ks_hash128 key = key_of("zsnr=true", &s);
    char hex[33];
    ks_hex(key.byte, sizeof key.byte, hex);
    assert_string_equal(hex, "564b223a687821ff5973cc95389cac53");
}

static void a_keyer_gives_the_same_keys_quickly(void **state)
{
    (void)state;
    const ks_hash128 value[3] = {digest_of("positive"), digest_of("negative"), digest_of("latent")};
    ks_job_digests digests = digests_of(value);
    ks_job *job = small_job("seed={\"start\":1,\"count\":1000000}");
    ks_job_keyer *keyer = ks_job_keyer_new(job, &digests);
    uint8_t mix = 0;
    double start = ks_seconds();
    for (uint64_t i = 0; i < ks_job_samples(job); i++) {
        ks_sample s;
        ks_job_sample(job, i, &s);
        mix ^= ks_job_keyer_key(keyer, &s).byte[0];
    }
    double seconds = ks_seconds() - start;
    ks_sample s;
    ks_job_sample(job, 999999, &s);
    ks_hash128 slow = ks_job_key(job, &digests, &s), quick = ks_job_keyer_key(keyer, &s);
    assert_true(ks_hash_equal(&slow, &quick));
    print_message("%.0f ns a sample and key (%u)\n", seconds * 1e3, mix);
    assert_true(seconds < 5);
    ks_job_keyer_free(keyer);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_widget_counts),
        cmocka_unit_test(every_digest_counts),
        cmocka_unit_test(exchanged_conditionings_are_another_sample),
        cmocka_unit_test(what_does_not_change_the_bits_does_not_count),
        cmocka_unit_test(the_reading_of_the_model_counts),
        cmocka_unit_test(the_advanced_node_counts_where_it_differs),
        cmocka_unit_test(the_noise_device_counts_only_where_noise_is_drawn),
        cmocka_unit_test(minus_zero_is_zero),
        cmocka_unit_test(keys_do_not_change_between_releases),
        cmocka_unit_test(a_keyer_gives_the_same_keys_quickly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
