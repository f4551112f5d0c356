/* Conditionings and latents: every form, and what is kept of it. */
#include "unit/job/job_file.h"

static void a_text_is_one_value_with_itself_as_label(void **state)
{
    (void)state;
    ks_job *job = small_job("positive=a \"large\" star, caf\xc3\xa9");
    assert_int_equal(job->positives, 1);
    assert_int_equal(job->positive[0].count, 1);
    const ks_cond_ref *c = &job->positive[0].item[0];
    assert_string_equal(c->text, "a \"large\" star, caf\xc3\xa9");
    assert_string_equal(job->positive[0].label, c->text);
    assert_null(c->file);
    assert_true(c->strength == 1 && c->start_percent == 0 && c->end_percent == 1);
    assert_false(c->has_size);
    ks_job_free(job);
}

static void a_list_is_an_axis_and_a_list_inside_it_combines(void **state)
{
    (void)state;
    ks_job *job = small_job("positive=[\"a\", [\"b\", {\"text\":\"c\",\"strength\":0.5}], "
                            "{\"file\":\"/c.st\",\"cond\":\"x\"}]");
    assert_int_equal(job->positives, 3);
    assert_string_equal(job->positive[0].label, "a");
    assert_int_equal(job->positive[1].count, 2);
    assert_string_equal(job->positive[1].item[0].text, "b");
    assert_string_equal(job->positive[1].item[1].text, "c");
    assert_true(job->positive[1].item[1].strength == 0.5);
    assert_string_equal(job->positive[1].label, "[\"b\",{\"text\":\"c\",\"strength\":0.5}]");
    assert_int_equal(job->positive[2].count, 1);
    assert_string_equal(job->positive[2].item[0].file, "/c.st");
    ks_job_free(job);
}

static void a_file_alone_is_one_value(void **state)
{
    (void)state;
    ks_job *job = small_job("negative={\"file\":\"/c.st\",\"cond\":\"neg\",\"pooled\":\"p\","
                            "\"start_percent\":0.25,\"end_percent\":0.75,\"strength\":2}");
    assert_int_equal(job->negatives, 1);
    const ks_cond_ref *c = &job->negative[0].item[0];
    assert_string_equal(c->cond, "neg");
    assert_string_equal(c->pooled, "p");
    assert_null(c->y);
    assert_true(c->strength == 2 && c->start_percent == 0.25 && c->end_percent == 0.75);
    assert_string_equal(job->negative[0].label,
                        "{\"file\":\"/c.st\",\"cond\":\"neg\",\"pooled\":\"p\","
                        "\"start_percent\":0.25,\"end_percent\":0.75,\"strength\":2}");
    ks_job_free(job);
}

static void sizes_come_in_the_models_order(void **state)
{
    (void)state;
    ks_job *job = small_job("positive={\"file\":\"/c.st\",\"cond\":\"c\",\"pooled\":\"p\","
                            "\"width\":1024,\"height\":768,\"crop_w\":8,\"target_height\":512}");
    const ks_cond_ref *c = &job->positive[0].item[0];
    assert_true(c->has_size);
    const int expected[6] = {768, 1024, -1, 8, 512, -1};
    assert_memory_equal(c->size, expected, sizeof expected);
    ks_job_free(job);
}

static void the_whole_vector_may_stand_for_pooled(void **state)
{
    (void)state;
    ks_job *job = small_job("positive={\"file\":\"/c.st\",\"cond\":\"c\",\"y\":\"vector\"}");
    assert_string_equal(job->positive[0].item[0].y, "vector");
    ks_job_free(job);
}

static void areas_and_masks_are_kept_as_they_are_given(void **state)
{
    (void)state;
    ks_job *job = small_job("positive=[\"a\",{\"text\":\"b\",\"area\":[64,128,8,16]},"
                            "{\"text\":\"c\",\"area\":{\"percentage\":[0.5,1,0.25,0]},"
                            "\"mask\":{\"file\":\"/m.h5\",\"tensor\":\"t\"},"
                            "\"mask_strength\":0.5,\"set_area_to_bounds\":true},"
                            "{\"text\":\"d\",\"mask\":{\"file\":\"/m.png\"}}]");
    assert_null(job->positive[0].item[0].region);
    const ks_region_ref *area = job->positive[1].item[0].region;
    const double pixels[4] = {64, 128, 8, 16}, shares[4] = {0.5, 1, 0.25, 0};
    assert_true(area->has_area && !area->shares && !area->mask.file);
    assert_memory_equal(area->area, pixels, sizeof pixels);
    const ks_region_ref *both = job->positive[2].item[0].region;
    assert_true(both->has_area && both->shares && both->bounds && both->mask_strength == 0.5);
    assert_memory_equal(both->area, shares, sizeof shares);
    assert_string_equal(both->mask.file, "/m.h5");
    assert_string_equal(both->mask.tensor, "t");
    const ks_region_ref *mask = job->positive[3].item[0].region;
    assert_true(!mask->has_area && !mask->bounds && mask->mask_strength == 1);
    assert_string_equal(mask->mask.file, "/m.png");
    assert_null(mask->mask.tensor);
    ks_job_free(job);
}

static void a_latent_may_have_a_noise_mask(void **state)
{
    (void)state;
    ks_job *job = small_job("latent_image={\"file\":\"/a.latent\",\"noise_mask\":"
                            "{\"file\":\"/m.png\",\"tensor\":\"alpha\"}}");
    assert_string_equal(job->latent[0].noise_mask.file, "/m.png");
    assert_string_equal(job->latent[0].noise_mask.tensor, "alpha");
    ks_job_free(job);
}

static void the_advanced_node_s_defaults_are_the_plain_node(void **state)
{
    (void)state;
    ks_job *job = small_job(NULL);
    assert_true(job->add_noise && !job->leftover_noise);
    assert_true(job->start_at_step == 0 && job->end_at_step == 10000);
    ks_job_free(job);
    job = small_job("start_at_step=7");
    assert_int_equal(job->start_at_step, 7);
    ks_job_free(job);
}

static void an_empty_latent_has_a_size_and_a_batch(void **state)
{
    (void)state;
    ks_job *job = small_job("latent_image={\"width\":512,\"height\":768,\"batch_size\":4}");
    const ks_latent_ref *l = &job->latent[0];
    assert_true(l->width == 512 && l->height == 768 && l->batch_size == 4 && l->index == -1);
    assert_null(l->file);
    assert_int_equal(job->batch, 4);
    assert_string_equal(l->label, "{\"width\":512,\"height\":768,\"batch_size\":4}");
    ks_job_free(job);
}

static void a_latent_may_come_from_a_file(void **state)
{
    (void)state;
    ks_job *job = small_job("latent_image=[{\"file\":\"/a.latent\"},"
                            "{\"file\":\"/b.h5\",\"dataset\":\"latents\",\"index\":3}]");
    assert_int_equal(job->latents, 2);
    assert_string_equal(job->latent[0].file, "/a.latent");
    assert_null(job->latent[0].dataset);
    assert_int_equal(job->latent[0].index, -1);
    assert_string_equal(job->latent[1].dataset, "latents");
    assert_int_equal(job->latent[1].index, 3);
    assert_int_equal(job->batch, 1);
    ks_job_free(job);
}

static void a_batch_index_tells_the_batch_of_a_file(void **state)
{
    (void)state;
    ks_job *job = small_job("latent_image={\"file\":\"/a.latent\",\"batch_index\":[5,0,4095]}");
    assert_int_equal(job->batch, 3);
    assert_int_equal(job->latent[0].batch_indices, 3);
    assert_true(job->latent[0].batch_index[0] == 5 && job->latent[0].batch_index[2] == 4095);
    ks_job_free(job);
}

static void a_files_batch_is_set_once_it_is_known(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_job *job = small_job("latent_image={\"file\":\"/a.latent\"}");
    assert_int_equal(ks_job_set_batch(job, 4, &err), 0);
    assert_int_equal(ks_job_samples(job), 4);
    job->seed_count = UINT64_C(1) << 61;
    assert_int_equal(ks_job_set_batch(job, 3, &err), 0);
    assert_int_equal(ks_job_set_batch(job, 4, &err), -1);
    assert_non_null(strstr(err.text, "batch: makes the sweep larger than 9223372036854775807"));
    assert_int_equal(job->batch, 3);
    ks_job_free(job);
}

static void a_files_batch_must_be_what_the_job_says(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_job *job = small_job("latent_image={\"file\":\"/a.latent\",\"batch_size\":2}");
    assert_int_equal(ks_job_set_batch(job, 2, &err), 0);
    assert_int_equal(ks_job_set_batch(job, 3, &err), -1);
    assert_non_null(strstr(err.text, "latent_image: a file gives a batch of 3 where the job says "
                                     "2; change \"batch_size\", \"batch_index\" or \"index\""));
    assert_int_equal(job->batch, 2);
    ks_job_free(job);
}

static void latents_of_one_shape_make_an_axis(void **state)
{
    (void)state;
    ks_job *job = small_job("latent_image=[{\"width\":128,\"height\":64,\"batch_index\":[2]},"
                            "{\"file\":\"/a.latent\"},{\"width\":128,\"height\":64}]");
    assert_int_equal(job->latents, 3);
    assert_int_equal(job->batch, 1);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_is_one_value_with_itself_as_label),
        cmocka_unit_test(a_list_is_an_axis_and_a_list_inside_it_combines),
        cmocka_unit_test(a_file_alone_is_one_value),
        cmocka_unit_test(sizes_come_in_the_models_order),
        cmocka_unit_test(the_whole_vector_may_stand_for_pooled),
        cmocka_unit_test(areas_and_masks_are_kept_as_they_are_given),
        cmocka_unit_test(a_latent_may_have_a_noise_mask),
        cmocka_unit_test(the_advanced_node_s_defaults_are_the_plain_node),
        cmocka_unit_test(an_empty_latent_has_a_size_and_a_batch),
        cmocka_unit_test(a_latent_may_come_from_a_file),
        cmocka_unit_test(a_batch_index_tells_the_batch_of_a_file),
        cmocka_unit_test(a_files_batch_is_set_once_it_is_known),
        cmocka_unit_test(a_files_batch_must_be_what_the_job_says),
        cmocka_unit_test(latents_of_one_shape_make_an_axis),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
