"""The samplers whose noise follows the device, each from its paper, and the four whose tree stays on the CPU.

x' = (x - D(x)) / sigma is the probability-flow equation in Karras' form (arXiv 2206.00364), lambda = -ln sigma.
Every sampler takes a Run and gives the latent at the last sigma. Coefficients are doubles made of float32 sigmas; the
few values that are float32 with ComfyUI because they decide a timestep or a tree's node are rounded as it rounds them.
"""
import math

import numpy as np
import torch

f32 = np.float32


class Run:
    """What a sampler works with: the latent, the sigmas (floats), the estimate D, the noise."""
    def __init__(self, x, sigmas, denoise, draw, tree, percent_to_sigma, scalars="host"):
        self.x, self.sigmas, self.denoise = x, sigmas, denoise
        self.draw, self.make_tree, self.percent_to_sigma = draw, tree, percent_to_sigma
        self.scalars, self.trees, self.uses_between = scalars, None, False

    def steps(self):
        return zip(range(len(self.sigmas) - 1), self.sigmas[:-1], self.sigmas[1:])

    def normal(self):
        return self.draw(tuple(self.x.shape)).to(self.x.dtype)

    def brownian(self, sigma, sigma_next):
        if self.trees is None:
            self.trees = self.make_tree(min(s for s in self.sigmas if s > 0), max(self.sigmas))
        return self.trees.noise(sigma, sigma_next)

    def between(self, sigma, sigma_next, r):
        """The sigma a share r of the way in lambda, float32 all along: with correctly rounded functions, or with torch's
        own on its device, whose last bit may differ."""
        self.uses_between = True
        if self.scalars == "host":
            start, end = f32(-math.log(sigma)), f32(-math.log(sigma_next))
            return float(f32(math.exp(-float(start + f32(r) * (end - start)))))
        start, end = (torch.tensor(s, dtype=torch.float32, device=self.scalars).log().neg() for s in (sigma, sigma_next))
        return (start + r * (end - start)).neg().exp().item()


def split(sigma, sigma_next):
    """(down, up): a step to sigma_next as one to sigma_down and noise of sigma_up, with eta 1; float32."""
    a, b = f32(sigma), f32(sigma_next)
    up = min(b, f32(np.sqrt(b * b * (a * a - b * b) / (a * a))))
    return float(f32(np.sqrt(b * b - up * up))), float(up)


def toward(x, denoised, sigma, sigma_next):
    """Euler's step."""
    ratio = sigma_next / sigma
    return ratio * x + (1 - ratio) * denoised


# ------------------------------------------------------------------------------------ ancestral steps

def euler_ancestral(run):
    x = run.x
    for _, s, t in run.steps():
        down, up = split(s, t)
        x = toward(x, run.denoise(x, s), s, down)
        if up > 0:
            x = x + up * run.normal()
    return x


def euler_ancestral_cfg_pp(run):
    """CFG++: the guided estimate is noised again along the unconditional direction (Chung et al. 2024, 2406.08070)."""
    x = run.x
    for _, s, t in run.steps():
        down, up = split(s, t)
        denoised, uncond = run.denoise.pair(x, s)
        x = denoised + down / s * (x - uncond)
        if up > 0:
            x = x + up * run.normal()
    return x


def dpm_2_ancestral(run):
    """DPM-Solver-2's midpoint, half-way in ln sigma (Lu et al. 2022, 2206.00927)."""
    x = run.x
    for _, s, t in run.steps():
        down, up = split(s, t)
        denoised = run.denoise(x, s)
        if down == 0:
            x = toward(x, denoised, s, 0)
        else:
            a, b = f32(math.log(s)), f32(math.log(down))
            middle = float(f32(math.exp(b - (b - a) * f32(0.5))))
            half = toward(x, denoised, s, middle)
            x = x + (down - s) * (half - run.denoise(half, middle)) / middle
        if up > 0:
            x = x + up * run.normal()
    return x


def dpmpp_2s_ancestral(run):
    """DPM-Solver++(2S), r = 1/2 (Lu et al. 2022, 2211.01095, algorithm 1)."""
    x = run.x
    for _, s, t in run.steps():
        down, up = split(s, t)
        denoised = run.denoise(x, s)
        if down > 0:
            middle = run.between(s, down, 0.5)
            denoised = run.denoise(toward(x, denoised, s, middle), middle)
        x = toward(x, denoised, s, down)
        if up > 0:
            x = x + up * run.normal()
    return x


def dpmpp_2s_ancestral_cfg_pp(run):
    """In the second stage the unconditional estimate is the middle's, the guided one still the start's."""
    x = run.x
    for _, s, t in run.steps():
        down, up = split(s, t)
        denoised, uncond = run.denoise.pair(x, s)
        if down == 0:
            x = denoised
            continue
        middle = run.between(s, down, 0.5)
        ratio = middle / s
        half = ratio * (x + denoised - uncond) + (1 - ratio) * denoised
        there, uncond = run.denoise.pair(half, middle)
        ratio = down / s
        x = ratio * (x + denoised - uncond) + (1 - ratio) * there
        x = x + up * run.normal()
    return x


def ddpm(run):
    """Ho et al. 2020 (2006.11239), algorithm 2: the posterior of x_{t-1} for unit-variance variables z = x / sqrt(1 + s^2)."""
    x = run.x
    for _, s, t in run.steps():
        denoised = run.denoise(x, s)
        abar, before = 1 / (1 + s * s), 1 / (1 + t * t)
        alpha = abar / before
        z, eps = x * math.sqrt(abar), (x - denoised) / s
        mean = (z - (1 - alpha) / math.sqrt(1 - abar) * eps) / math.sqrt(alpha)
        if t > 0:
            mean = mean + math.sqrt((1 - alpha) * (1 - before) / (1 - abar)) * run.normal()
        x = mean / math.sqrt(before)
    return x


def lcm(run):
    """Multistep consistency sampling (Luo et al. 2023, 2310.04378, algorithm 3)."""
    x = run.x
    for _, s, t in run.steps():
        x = run.denoise(x, s)
        if t > 0:
            x = x + t * run.normal()
    return x


# ---------------------------------------------------------------------------- exponential integrators

def res_multistep(run, cfg_pp):
    """RES of 2nd order as a multistep method, ancestral (Zhang et al. 2023, 2308.02157). CFG++: the slope is that of the
    unconditional estimate, and x moves along with the guided one."""
    x, old, old_down, before = run.x, None, None, None
    for i, s, t in run.steps():
        down, up = split(s, t)
        guided, uncond = run.denoise.pair(x, s) if cfg_pp else (run.denoise(x, s), None)
        new = uncond if cfg_pp else guided
        lead = guided - uncond if cfg_pp else 0
        if i == 0 or down == 0:
            x = guided + down / s * (x - new) if cfg_pp else toward(x, guided, s, down)
        else:
            h = math.log(s / down)
            c = math.log(old_down / before) / h
            phi_1 = -math.expm1(-h) / h
            phi_2 = (1 - phi_1) / h
            last = h * phi_2 / c
            x = down / s * (x + lead) + (h * phi_1 - last) * new + last * old
        if up > 0:
            x = x + up * run.normal()
        old, old_down, before = new, down, s
    return x


def er_sde(run):
    """ER-SDE-Solver-3 (Cui et al. 2023, 2309.06169, algorithm 3), noise scale x (e^(x^0.3) + 10), sums of 200 points."""
    scale = lambda v: v * (math.exp(v ** 0.3) + 10)
    x, d, slope = run.x, [], None
    for i, s, t in run.steps():
        denoised = run.denoise(x, s)
        if t == 0:
            return denoised
        r, dt = scale(t) / scale(s), t - s
        u = t + np.arange(200) * ((s - t) / 200)
        inverse = 1 / np.array([scale(v) for v in u])
        plain, first = (s - t) / 200 * inverse.sum(), (s - t) / 200 * ((u - s) * inverse).sum()
        x = r * x + (1 - r) * denoised
        if i > 0:
            new_slope = (denoised - d[-1]) / (s - run.sigmas[i - 1])
            x = x + (dt + plain * scale(t)) * new_slope
            if i > 1:
                curve = (new_slope - slope) / ((s - run.sigmas[i - 2]) / 2)
                x = x + (dt * dt / 2 + first * scale(t)) * curve
            slope = new_slope
        x = x + math.sqrt(max(t * t - s * s * r * r, 0)) * run.normal()
        d.append(denoised)
    return x


def seeds(run, sections):
    """SEEDS-2 and SEEDS-3 (Gonzalez et al. 2023, 2305.14267), eta 1. The step's time is cut into equal sections, each
    with noise of its own that every later stage carries on, decayed."""
    x = run.x
    for _, s, t in run.steps():
        first = run.denoise(x, s)
        if t == 0:
            return first
        h = math.log(s / t)
        part = h / sections
        noise = [run.normal() for _ in range(sections)]
        ends = [run.between(s, t, (k + 1) / sections) for k in range(sections - 1)] + [t]
        last = first
        for k, end in enumerate(ends):
            way = (k + 1) * part
            z = 2 * way
            slope = 0 if k == 0 else -math.expm1(-z) if sections == 2 else (1 + math.expm1(-z) / z) * way / (k * part)
            ahead = end / s * math.exp(-way) * x - math.expm1(-z) * first + slope * (last - first)
            for j in range(k + 1):
                ahead = ahead + end * math.exp(-(k - j) * part) * math.sqrt(-math.expm1(-2 * part)) * noise[j]
            if k + 1 < sections:
                last = run.denoise(ahead, end)
        x = ahead
    return x


def sa_solver(run, pece):
    """SA-Solver (Xue et al. 2023, 2309.05019): stochastic Adams, predictor of order 3 and corrector of order 4. tau is 1
    between 20 and 80 percent of the schedule, else 0; the noise of a step is the same for both."""
    high, low = run.percent_to_sigma(0.2), run.percent_to_sigma(0.8)
    sigma, n = run.sigmas, len(run.sigmas) - 1
    x, predicted, estimates = run.x, run.x, []

    def weights(nodes, s, t, tau):
        """Integrals over the step of the Lagrange polynomials in lambda times c e^{-c (lambda_t - lambda)}, c = 1 + tau^2."""
        c, h = 1 + tau * tau, math.log(s / t)
        points, gauss = np.polynomial.legendre.leggauss(24)
        u = (points - 1) / 2 * h                               # lambda - lambda_t, from -h to 0
        kernel = gauss * h / 2 * c * np.exp(c * u)
        at = [math.log(t / node) for node in nodes]
        return [float(sum(kernel * np.prod([(u - b) / (a - b) for b in at if b != a], axis=0))) for a in at]

    def adams(x, nodes, values, s, t, tau, noise, scale):
        out = t / s * math.exp(-tau * tau * math.log(s / t)) * x
        for weight, value in zip(weights(nodes, s, t, tau), values):
            out = out + weight * value
        return out + scale * noise if scale > 0 else out

    tau, scale, noise = 0, 0, None
    for i in range(n):
        s, t = sigma[i], sigma[i + 1]
        estimates.insert(0, run.denoise(predicted, s))
        nodes = [sigma[i - k] for k in range(len(estimates))]
        order = 0 if i == 0 or (t == 0 and not pece) else min(i + 1, 4, n - i if sigma[n] == 0 else 4)
        if order:
            x = adams(x, nodes[:order], estimates[:order], sigma[i - 1], s, tau, noise, scale)
            if pece:
                estimates[0] = run.denoise(x, s)
        else:
            x = predicted
        if t == 0:
            return estimates[0]
        tau = 1 if low <= t <= high else 0
        scale = t * math.sqrt(-math.expm1(-2 * tau * tau * math.log(s / t)))
        if scale > 0:
            noise = run.normal()
        order = min(i + 1, 3, n - 1 - i if sigma[n] == 0 else 3)
        predicted = adams(x, nodes[:order], estimates[:order], s, t, tau, noise, scale)
    return predicted


# --------------------------------------------------------------------------------- on a Brownian tree
# SDE-DPM-Solver++ with eta 1 (2211.01095, section 5).

def dpmpp_sde(run):
    """(2S), r = 1/2."""
    x = run.x
    for _, s, t in run.steps():
        denoised = run.denoise(x, s)
        if t == 0:
            x = toward(x, denoised, s, 0)
            continue
        middle = run.between(s, t, 0.5)
        down, up = split(s, middle)
        half = toward(x, denoised, s, down) + up * run.brownian(s, middle)
        denoised = run.denoise(half, middle)
        down, up = split(s, t)
        x = toward(x, denoised, s, down) + up * run.brownian(s, t)
    return x


def dpmpp_multistep_sde(run, order, heun=False):
    """(2M) in its midpoint and Heun forms, (3M): divided differences of the last estimates against e^{-2h}'s phi functions."""
    x, d, h = run.x, [], []
    for _, s, t in run.steps():
        d.append(run.denoise(x, s))
        if t == 0:
            return d[-1]
        h.append(math.log(s / t))
        z = 2 * h[-1]
        phi_1 = -math.expm1(-z)
        phi_2 = 1 - phi_1 / z
        phi_3 = phi_2 / z - 0.5
        x = t / s * math.exp(-h[-1]) * x + phi_1 * d[-1]
        if order == 3 and len(d) > 2:
            r0, r1 = h[-2] / h[-1], h[-3] / h[-1]
            new, old = (d[-1] - d[-2]) / r0, (d[-2] - d[-3]) / r1
            slope, curve = new + (new - old) * r0 / (r0 + r1), (new - old) / (r0 + r1)
            x = x + phi_2 * slope - phi_3 * curve
        elif len(d) > 1:
            weight = phi_2 if heun or order == 3 else phi_1 / 2
            x = x + weight * (d[-1] - d[-2]) * (h[-1] / h[-2])
        x = x + t * math.sqrt(-math.expm1(-z)) * run.brownian(s, t)
    return x


TREES = {
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": lambda run: dpmpp_multistep_sde(run, 2),
    "dpmpp_2m_sde_heun": lambda run: dpmpp_multistep_sde(run, 2, heun=True),
    "dpmpp_3m_sde": lambda run: dpmpp_multistep_sde(run, 3),
}
SAMPLERS = {
    "euler_ancestral": euler_ancestral,
    "euler_ancestral_cfg_pp": euler_ancestral_cfg_pp,
    "dpm_2_ancestral": dpm_2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_2s_ancestral_cfg_pp": dpmpp_2s_ancestral_cfg_pp,
    "ddpm": ddpm,
    "lcm": lcm,
    "res_multistep_ancestral": lambda run: res_multistep(run, False),
    "res_multistep_ancestral_cfg_pp": lambda run: res_multistep(run, True),
    "er_sde": er_sde,
    "seeds_2": lambda run: seeds(run, 2),
    "seeds_3": lambda run: seeds(run, 3),
    "sa_solver": lambda run: sa_solver(run, False),
    "sa_solver_pece": lambda run: sa_solver(run, True),
    **TREES,
    **{name + "_gpu": sampler for name, sampler in TREES.items()},
}
