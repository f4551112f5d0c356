/* --filter and --shard: which points of a sweep a run renders. */
#include "unit/job/job_file.h"

#include "cluster/bitmap.h"
#include "cluster/select.h"

#define GRID                                                                                       \
    "{\"ksweep\": 1, \"model\": \"m\", \"positive\": [\"a\", \"b\", \"c\"],"                       \
    " \"latent_image\": {\"width\": 64, \"height\": 64, \"batch_size\": 2},"                       \
    " \"denoise\": [1, 0.5], \"scheduler\": [\"karras\", \"normal\"],"                             \
    " \"sampler_name\": [\"euler\", \"heun\"], \"cfg\": [-1.5, 2, 4], \"steps\": [10, 20],"        \
    " \"seed\": [7, \"18446744073709551615\", 9], \"output\": {\"file\": \"o.h5\"}}"

#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

static bool has(const uint64_t *map, uint64_t point)
{
    return !map || ks_bit(map, point);
}

/* Exactly the points whose first sample passes are wanted. */
static void wanted_are(const ks_job *job, const char *const *filters, int count,
                       bool (*passes)(const ks_sample *s))
{
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    uint64_t wanted = 0;
    if (ks_select(&s, job, filters, count, NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(s.points, ks_job_samples(job) / 2);
    for (uint64_t p = 0; p < s.points; p++) {
        ks_sample sample;
        ks_job_sample(job, 2 * p, &sample);
        assert_int_equal(has(s.wanted_map, p), passes(&sample));
        wanted += has(s.wanted_map, p);
    }
    assert_int_equal(s.wanted, wanted);
    assert_int_equal(s.mine, wanted);
    ks_selection_free(&s);
}

static bool any(const ks_sample *s)
{
    (void)s;
    return true;
}

static bool low_cfg(const ks_sample *s)
{
    return s->cfg <= 2;
}

static bool two_seeds(const ks_sample *s)
{
    return s->seed == UINT64_MAX || s->seed == 9;
}

static bool several(const ks_sample *s)
{
    return s->cfg == 4 && s->steps == 20 && s->positive != 1 && s->denoise == 0.5;
}

static bool early(const ks_sample *s)
{
    return s->index + 1 >= 3 && s->index <= 8;
}

static void filters_choose_values_and_ranges(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    wanted_are(job, NULL, 0, any);
    wanted_are(job, (const char *const[]){"cfg=-1.5..2"}, 1, low_cfg);
    wanted_are(job, (const char *const[]){"cfg=-1.5,2.0"}, 1, low_cfg);
    wanted_are(job, (const char *const[]){"seed=9,10..18446744073709551615"}, 1, two_seeds);
    ks_job_free(job);
}

static void all_filters_must_hold(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    const char *const filters[] = {"cfg=4", "steps=15..25", "positive=0,2", "denoise=0.5"};
    wanted_are(job, filters, COUNT(filters), several);
    ks_job_free(job);
}

static void an_index_brings_its_whole_batch(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    wanted_are(job, (const char *const[]){"index=3,4..8"}, 1, early);
    ks_job_free(job);
}

static bool heun(const ks_sample *s)
{
    return s->sampler == 1;
}

static void names_are_looked_up(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    int names[2] = {job->sampler[0], job->sampler[1]};
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    const char *const filters[] = {"sampler_name=heun", "scheduler=normal,karras"};
    assert_int_equal(ks_select(&s, job, filters, 2, NULL, &err), 0);
    for (uint64_t p = 0; p < s.points; p++) {
        ks_sample sample;
        ks_job_sample(job, 2 * p, &sample);
        sample.sampler = sample.sampler == names[1];
        assert_int_equal(has(s.wanted_map, p), heun(&sample));
    }
    ks_selection_free(&s);
    ks_job_free(job);
}

static void is_refused(const char *filter, const char *what)
{
    ks_job *job = load_job(GRID, NULL);
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_select(&s, job, &filter, 1, NULL, &err), -1);
    char *expected = ks_format("--filter %s: %s", filter, what);
    assert_string_equal(err.text, expected);
    free(expected);
    ks_selection_free(&s);
    ks_job_free(job);
}

static void mistakes_in_filters_are_told(void **state)
{
    (void)state;
    is_refused("cfg", "give AXIS=VALUES, as in cfg=2..4 or sampler_name=euler,heun");
    is_refused("cfg=", "give AXIS=VALUES, as in cfg=2..4 or sampler_name=euler,heun");
    is_refused("=2", "give AXIS=VALUES, as in cfg=2..4 or sampler_name=euler,heun");
    is_refused("cgf=2", "no axis is called \"cgf\"; did you mean \"cfg\"?");
    is_refused("width=2", "no axis is called \"width\"; give positive, negative, latent_image, "
                          "denoise, scheduler, sampler_name, cfg, steps, seed or index");
    is_refused("batch=0", "the latents of a batch are rendered together; filter by another axis");
    is_refused("cfg=two", "\"two\" does not fit; give a number, or a range as in 2..4.5");
    is_refused("cfg=2,", "\"\" does not fit; give a number, or a range as in 2..4.5");
    is_refused("cfg=4..2", "the range 4..2 is empty; give the lower end first");
    is_refused("steps=-1", "\"-1\" does not fit; give a whole number, or a range as in 0..9");
    is_refused("seed=1..x", "\"1..x\" does not fit; give a whole number, or a range as in 0..9");
    is_refused("positive=a", "\"a\" does not fit; give the place of a value, 0 for the first, or a "
                             "range as in 0..9");
    is_refused("scheduler=karas", "\"karas\" does not fit; give the name of a scheduler");
    is_refused("cfg=2,3,4", "no value of this sweep is \"3\"; cfg has -1.5, 2, 4");
    is_refused("scheduler=beta",
               "no value of this sweep is \"beta\"; scheduler has karras, normal");
    is_refused("positive=3", "no value of this sweep is \"3\"; positive has the places 0 to 2");
    is_refused("index=0,864", "the sweep has the samples 0 to 863");
}

static void filters_that_leave_nothing_are_refused(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    const char *const filters[] = {"cfg=2", "cfg=4"};
    assert_int_equal(ks_select(&s, job, filters, 2, NULL, &err), -1);
    assert_string_equal(err.text,
                        "--filter cfg=2 and the others: no sample of the sweep passes all of them");
    ks_selection_free(&s);
    ks_job_free(job);
}

/* Every wanted point is in exactly one of N shards; their sizes differ by one run at most. */
static void shards_share(const ks_job *job, const char *const *filters, int count, int parts,
                         uint64_t most_difference)
{
    uint64_t smallest = UINT64_MAX, largest = 0, sum = 0, wanted = 0;
    uint8_t *seen = NULL;
    for (int i = 0; i < parts; i++) {
        char shard[40];
        ks_selection s;
        ks_error err = KS_ERROR_NONE;
        snprintf(shard, sizeof shard, "%d/%d", i, parts);
        assert_int_equal(ks_select(&s, job, filters, count, shard, &err), 0);
        assert_int_equal(s.part, i);
        assert_int_equal(s.parts, parts);
        seen = seen ? seen : ks_calloc((size_t)s.points, 1);
        for (uint64_t p = 0; p < s.points; p++) {
            assert_false(ks_bit(s.mine_map, p) && !has(s.wanted_map, p));
            seen[p] = (uint8_t)(seen[p] + ks_bit(s.mine_map, p));
            assert_true(seen[p] <= 1);
        }
        smallest = s.mine < smallest ? s.mine : smallest;
        largest = s.mine > largest ? s.mine : largest;
        sum += s.mine;
        wanted = s.wanted;
        ks_selection_free(&s);
    }
    assert_int_equal(sum, wanted);
    assert_true(largest - smallest <= most_difference);
    free(seen);
}

static void shards_are_disjoint_and_of_equal_size(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    const char *const filters[] = {"cfg=2..4", "steps=20"};
    const int parts[] = {1, 2, 3, 7, 216, 500};
    for (int i = 0; i < COUNT(parts); i++) {
        shards_share(job, NULL, 0, parts[i], 1);
        shards_share(job, filters, 2, parts[i], 1);
    }
    ks_job_free(job);
    job = small_job("seed={\"count\":100000}");
    shards_share(job, NULL, 0, 3, 64);
    ks_job_free(job);
}

/* steps is the fastest axis with several values: one shard of three must not get all slow ones. */
static void shards_have_a_fair_share_of_slow_points(void **state)
{
    (void)state;
    char *path = write_job(SMALL_JOB);
    const char *sets[] = {"steps=[10,20,60]", "cfg={\"from\":1,\"to\":100,\"step\":1}"};
    ks_error err = KS_ERROR_NONE;
    ks_job *job = ks_job_load(path, sets, 2, &err);
    const char *const shards[] = {"0/3", "1/3", "2/3"};
    for (int i = 0; i < 3; i++) {
        ks_selection s;
        double work = 0;
        assert_int_equal(ks_select(&s, job, NULL, 0, shards[i], &err), 0);
        assert_int_equal(s.mine, 100);
        for (uint64_t p = 0; p < s.points; p++) {
            ks_sample sample;
            ks_job_sample(job, p, &sample);
            work += ks_bit(s.mine_map, p) ? sample.steps : 0;
        }
        assert_in_range((unsigned)work, 2400, 3600); /* 3000 each were ideal */
        ks_selection_free(&s);
    }
    ks_job_free(job);
    unlink(path);
    free(path);
}

static void shard_is_refused(const char *shard, const char *what)
{
    ks_job *job = load_job(GRID, NULL);
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_select(&s, job, NULL, 0, shard, &err), -1);
    assert_string_equal(err.text, what);
    ks_selection_free(&s);
    ks_job_free(job);
}

static void mistakes_in_shards_are_told(void **state)
{
    (void)state;
    shard_is_refused("4", "--shard 4: give I/N, as in 0/4: part I of N, counted from 0");
    shard_is_refused("/4", "--shard /4: give I/N, as in 0/4: part I of N, counted from 0");
    shard_is_refused("1/", "--shard 1/: give I/N, as in 0/4: part I of N, counted from 0");
    shard_is_refused("1/2x", "--shard 1/2x: give I/N, as in 0/4: part I of N, counted from 0");
    shard_is_refused("0/0", "--shard 0/0: give I/N, as in 0/4: part I of N, counted from 0");
    shard_is_refused("4/4", "--shard 4/4: parts are counted from 0; give 0/4 to 3/4");
    shard_is_refused("-1/4", "--shard -1/4: parts are counted from 0; give 0/4 to 3/4");
}

static void parts_of_an_endless_sweep_are_refused(void **state)
{
    (void)state;
    ks_job *job = small_job("seed={\"count\":9223372036854775807}");
    ks_selection s;
    ks_error err = KS_ERROR_NONE;
    const char *filter = "seed=0..9";
    assert_int_equal(ks_select(&s, job, &filter, 1, NULL, &err), -1);
    assert_non_null(strstr(err.text, "9223372036854775807 KSampler calls"));
    ks_selection_free(&s);
    assert_int_equal(ks_select(&s, job, NULL, 0, NULL, &err), 0);
    assert_int_equal(s.mine, INT64_MAX);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(filters_choose_values_and_ranges),
        cmocka_unit_test(all_filters_must_hold),
        cmocka_unit_test(an_index_brings_its_whole_batch),
        cmocka_unit_test(names_are_looked_up),
        cmocka_unit_test(mistakes_in_filters_are_told),
        cmocka_unit_test(filters_that_leave_nothing_are_refused),
        cmocka_unit_test(shards_are_disjoint_and_of_equal_size),
        cmocka_unit_test(shards_have_a_fair_share_of_slow_points),
        cmocka_unit_test(mistakes_in_shards_are_told),
        cmocka_unit_test(parts_of_an_endless_sweep_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
