"""The runs that are kept: KSampler's widgets, and inputs made from seeds. One group of cases a shape or model, with every
sampler; and a few samplers on a latent so large that a draw takes several rounds of the generator's threads."""
import math

import numpy as np
import torch

import samplers

MODELS = {          # name: (weights, v-prediction)
    "tiny-sd15": ("tiny-sd15", False),
    "tiny-sd15-v": ("tiny-sd15", True),
    "tiny-sdxl": ("tiny-sdxl", False),
    "gaussian": ("gaussian", False),           # no weights: network.Gaussian
}

ALL = list(samplers.SAMPLERS)
FEW = ["euler_ancestral", "seeds_2", "dpmpp_2m_sde_gpu", "dpmpp_3m_sde_gpu"]

# Seeds use both words of the generator's key. A draw of more than 2048 elements a multiprocessor gives each thread a second
# value, one of more than 8192 a second round: a latent of 4 x 528 x 528 has 8448 for each of 132.
GROUPS = {
    "main/karras": {"model": "tiny-sd15", "latent": "zero_1x4x16x16", "steps": 8, "cfg": 4.5, "seed": 0x9E3779B97F4A7C15},
    "batch/normal": {"model": "tiny-sd15", "latent": "zero_2x4x16x16", "steps": 6, "cfg": 7.0, "seed": 123456789},
    "vpred/normal": {"model": "tiny-sd15-v", "latent": "zero_1x4x16x16", "steps": 6, "cfg": 1.5, "seed": 2 ** 32 + 5},
    "sdxl/normal": {"model": "tiny-sdxl", "latent": "zero_1x4x16x16", "steps": 6, "cfg": 4.5, "seed": 2 ** 64 - 2},
    "img2img/karras": {"model": "tiny-sd15", "latent": "lat_1x4x16x16", "steps": 8, "cfg": 3.5, "seed": 42, "denoise": 0.6},
    "odd/karras": {"model": "tiny-sd15", "latent": "lat_3x4x10x14", "steps": 6, "cfg": 1.0, "seed": 2 ** 40 + 7,
                   "samplers": FEW},
    "gaussian/karras": {"model": "gaussian", "latent": "zero_1x4x528x528", "steps": 4, "cfg": 1.0, "seed": 2 ** 63 + 11,
                        "samplers": ["euler_ancestral", "seeds_3", "dpmpp_sde_gpu", "dpmpp_2m_sde_gpu"], "keep": 4096},
}


def inputs():
    """{name: array}; none of it comes from anywhere but the CPU generator."""
    g = torch.Generator().manual_seed(2026)
    normal = lambda *shape: torch.randn(shape, generator=g).numpy()
    made = {"ctx_pos": normal(1, 77, 32), "ctx_neg": normal(1, 77, 32), "xl_ctx_pos": normal(1, 77, 48),
            "xl_ctx_neg": normal(1, 77, 48), "xl_pool_pos": normal(1, 48), "xl_pool_neg": normal(1, 48),
            "lat_1x4x16x16": normal(1, 4, 16, 16), "lat_3x4x10x14": normal(3, 4, 10, 14)}
    for shape in (1, 4, 16, 16), (2, 4, 16, 16), (1, 4, 528, 528):
        made["zero_" + "x".join(map(str, shape))] = np.zeros(shape, np.float32)
    return made


def conditioning(model, side):
    """Names of the inputs of one side: (context, pooled), None where the model takes none."""
    if model == "gaussian":
        return None, None
    return (f"xl_ctx_{side}", f"xl_pool_{side}") if model == "tiny-sdxl" else (f"ctx_{side}", None)


def cases():
    """(path, sampler, widgets) of every run."""
    for group, widgets in GROUPS.items():
        for sampler in widgets.get("samplers", ALL):
            yield f"{group}/{sampler}", sampler, {"denoise": 1.0, "scheduler": group.split("/")[1], **widgets}


# ----------------------------------------------------------------------------------------- schedules

def linspace(start, end, n):
    """float32 values from the nearer end, as torch's, with one rounding each."""
    step = np.float32((np.float32(end) - np.float32(start)) / np.float32(n - 1)) if n > 1 else np.float32(0)
    return [np.float32(float(start) + float(step) * i) if i < n // 2 or n == 1 else
            np.float32(float(end) - float(step) * (n - 1 - i)) for i in range(n)]


def normal(table, n):
    return [float(table.at(t)) for t in linspace(999, 0, n)] + [0.0]


def karras(table, n):
    """Karras et al. 2022, equation 5, rho 7, with float32 ramps."""
    start, end = float(table.sigma[-1]) ** (1 / 7), float(table.sigma[0]) ** (1 / 7)
    base = [np.float32(start) + r * np.float32(end - start) for r in linspace(0, 1, n)]
    return [float(np.float32(float(b) ** 7)) for b in base] + [0.0]


SCHEDULERS = {"normal": normal, "karras": karras}
DISCARD_PENULTIMATE = {"dpm_2_ancestral"}


def schedule(table, scheduler, sampler, steps, denoise):
    """KSampler's list of sigmas: the last steps + 1 of a longer schedule where denoise is below 1."""
    n = steps if denoise > 0.9999 else math.trunc(steps / denoise)
    if sampler in DISCARD_PENULTIMATE:
        sigmas = SCHEDULERS[scheduler](table, n + 1)
        del sigmas[-2]
    else:
        sigmas = SCHEDULERS[scheduler](table, n)
    return sigmas[-(steps + 1):]
