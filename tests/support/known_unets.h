/* The UNets of models that everybody knows, as detection finds them. */
#ifndef TESTS_SUPPORT_KNOWN_UNETS_H
#define TESTS_SUPPORT_KNOWN_UNETS_H

#include "model/config.h"

/* Stable Diffusion XL base. */
static const ks_unet_config known_sdxl = {
    .in_channels = 4,
    .out_channels = 4,
    .model_channels = 320,
    .levels = 3,
    .channel_mult = {1, 2, 4},
    .res_blocks = {2, 2, 2},
    .depth_in = {{0, 0}, {2, 2}, {10, 10}},
    .depth_out = {{0, 0, 0}, {2, 2, 2}, {10, 10, 10}},
    .depth_middle = 10,
    .context_dim = 2048,
    .adm_channels = 2816,
    .head_channels = 64,
};

#endif
