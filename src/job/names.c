#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "job/fields.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

/* ComfyUI's names, up to its present release: one that the tables of sampling/ lack gets a line of
 * its own instead of a wrong suggestion. */
static const char *const comfyui_samplers[] = {
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2",
    "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast",
    "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde",
    "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp",
    "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation",
    "gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece",
    "ddim", "uni_pc", "uni_pc_bh2", NULL};

static const char *const comfyui_schedulers[] = {
    "simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal",
    "linear_quadratic", "kl_optimal", NULL};

/* A table of names that an axis takes its values from. */
typedef struct name_table {
    const char *noun, *usual;
    int (*find)(const char *name);
    int (*count)(void);
    const char *(*name)(int row);
    const char *const *comfyui;
} name_table;

static const char *sampler_name(int row)
{
    return ks_sampler_at(row)->name;
}

static const name_table samplers = {"sampler",    "euler",          ks_sampler_find,
                                    ks_sampler_count, sampler_name, comfyui_samplers};
static const name_table schedulers = {"scheduler",  "normal",          ks_scheduler_find,
                                      ks_scheduler_count, ks_scheduler_name, comfyui_schedulers};

/* "a, b, c" of n names; free() it. */
static char *list_of(const char *const *names, size_t n)
{
    char *list = ks_strdup("");
    for (size_t i = 0; i < n; i++) {
        char *longer = ks_format("%s%s%s", list, i ? ", " : "", names[i]);
        free(list);
        list = longer;
    }
    return list;
}

/* Refuses a name that is in no table, with the nearest that is, or with all of them. */
static int unknown_name(const name_table *t, ks_json v, const char *name, ks_error *err)
{
    size_t n = (size_t)t->count();
    const char **names = ks_calloc(n, sizeof *names);
    for (size_t i = 0; i < n; i++)
        names[i] = t->name((int)i);
    const char *nearest = ks_nearest(name, names, n);
    char *all = list_of(names, n);
    if (nearest)
        ks_json_error(v, err, "no %s is called \"%.60s\"; did you mean \"%s\"?", t->noun, name,
                      nearest);
    else
        ks_json_error(v, err, "no %s is called \"%.60s\"; give one of %s", t->noun, name, all);
    free(all);
    free(names);
    return -1;
}

static int read_name(const name_table *t, int *row, ks_json v, ks_error *err)
{
    const char *name = NULL;
    if (!ks_json_is_string(v) || ks_json_string(v, &name, err) != 0) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "the name of a %s, or a list of them", t->noun);
        return ks_misfit(v, err, wanted);
    }
    *row = t->find(name);
    if (*row >= 0)
        return 0;
    for (const char *const *c = t->comfyui; *c; c++)
        if (strcmp(name, *c) == 0)
            return ks_json_error(v, err, "ComfyUI's %s \"%s\" is not supported in this version; "
                                 "give another, such as \"%s\"", t->noun, name, t->usual);
    return unknown_name(t, v, name, err);
}

int ks_item_sampler(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    (void)f;
    return read_name(&samplers, value, v, err);
}

int ks_item_scheduler(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    (void)f;
    return read_name(&schedulers, value, v, err);
}
