/* The table of samplers, under ComfyUI's names. */
#include <string.h>

#include "sampling/sampler.h"
#include "sampling/samplers/samplers.h"

/* name, function, tensors, discards the last but one sigma, draws noise, evaluations a step,
 * second noise */
static const ks_sampler table[] = {
    {"euler", ks_sample_euler, 1, false, false, 1, false},
    {"euler_cfg_pp", ks_sample_euler_cfg_pp, 3, false, false, 1, false},
    {"euler_ancestral", ks_sample_euler_ancestral, 2, false, true, 1, false},
    {"euler_ancestral_cfg_pp", ks_sample_euler_ancestral_cfg_pp, 3, false, true, 1, false},
    {"heun", ks_sample_heun, 3, false, false, 2, false},
    {"heunpp2", ks_sample_heunpp2, 5, false, false, 3, false},
    {"dpm_2", ks_sample_dpm_2, 3, true, false, 2, false},
    {"dpm_2_ancestral", ks_sample_dpm_2_ancestral, 4, true, true, 2, false},
    {"lms", ks_sample_lms, 5, false, false, 1, false},
    {"dpm_fast", ks_sample_dpm_fast, 5, false, false, 1, false},
    {"dpm_adaptive", ks_sample_dpm_adaptive, 9, false, false, 0, false},
    {"dpmpp_2s_ancestral", ks_sample_dpmpp_2s_ancestral, 3, false, true, 2, false},
    {"dpmpp_2s_ancestral_cfg_pp", ks_sample_dpmpp_2s_ancestral_cfg_pp, 5, false, true, 2, false},
    {"dpmpp_sde", ks_sample_dpmpp_sde, 3, false, true, 2, false},
    {"dpmpp_sde_gpu", ks_sample_dpmpp_sde_gpu, 3, false, true, 2, false},
    {"dpmpp_2m", ks_sample_dpmpp_2m, 2, false, false, 1, false},
    {"dpmpp_2m_cfg_pp", ks_sample_dpmpp_2m_cfg_pp, 3, false, false, 1, false},
    {"dpmpp_2m_sde", ks_sample_dpmpp_2m_sde, 3, false, true, 1, false},
    {"dpmpp_2m_sde_gpu", ks_sample_dpmpp_2m_sde_gpu, 3, false, true, 1, false},
    {"dpmpp_2m_sde_heun", ks_sample_dpmpp_2m_sde_heun, 3, false, true, 1, false},
    {"dpmpp_2m_sde_heun_gpu", ks_sample_dpmpp_2m_sde_heun_gpu, 3, false, true, 1, false},
    {"dpmpp_3m_sde", ks_sample_dpmpp_3m_sde, 4, false, true, 1, false},
    {"dpmpp_3m_sde_gpu", ks_sample_dpmpp_3m_sde_gpu, 4, false, true, 1, false},
    {"ddpm", ks_sample_ddpm, 2, false, true, 1, false},
    {"lcm", ks_sample_lcm, 1, false, true, 1, false},
    {"ipndm", ks_sample_ipndm, 5, false, false, 1, false},
    {"ipndm_v", ks_sample_ipndm_v, 5, false, false, 1, false},
    {"deis", ks_sample_deis, 4, false, false, 1, false},
    {"res_multistep", ks_sample_res_multistep, 4, false, false, 1, false},
    {"res_multistep_cfg_pp", ks_sample_res_multistep_cfg_pp, 4, false, false, 1, false},
    {"res_multistep_ancestral", ks_sample_res_multistep_ancestral, 4, false, true, 1, false},
    {"res_multistep_ancestral_cfg_pp", ks_sample_res_multistep_ancestral_cfg_pp, 4, false, true, 1,
     false},
    {"gradient_estimation", ks_sample_gradient_estimation, 4, false, false, 1, false},
    {"gradient_estimation_cfg_pp", ks_sample_gradient_estimation_cfg_pp, 4, false, false, 1, false},
    {"er_sde", ks_sample_er_sde, 5, false, true, 1, false},
    {"seeds_2", ks_sample_seeds_2, 5, false, true, 2, false},
    {"seeds_3", ks_sample_seeds_3, 6, false, true, 3, false},
    {"sa_solver", ks_sample_sa_solver, 7, false, true, 1, false},
    {"sa_solver_pece", ks_sample_sa_solver_pece, 7, false, true, 2, false},
    {"ddim", ks_sample_ddim, 1, false, false, 1, true},
    {"uni_pc", ks_sample_uni_pc, 5, true, false, 1, false},
    {"uni_pc_bh2", ks_sample_uni_pc_bh2, 5, true, false, 1, false},
};

int ks_sampler_count(void)
{
    return (int)(sizeof table / sizeof table[0]);
}

const ks_sampler *ks_sampler_at(int index)
{
    return &table[index];
}

int ks_sampler_find(const char *name)
{
    for (int i = 0; i < ks_sampler_count(); i++)
        if (strcmp(table[i].name, name) == 0)
            return i;
    return -1;
}
