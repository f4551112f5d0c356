"""The random numbers of a run, as ComfyUI draws them with torch.

The initial noise always comes from torch's CPU generator. Noise inside a sampler, and the nodes of a *_gpu sampler's
Brownian tree, come from a generator on the device. Three sources stand for that device:

    cuda     torch.Generator(device="cuda"): the real thing, which the kept data is made with
    cpu      torch.Generator(device="cpu"): what samplers.h5 was made with, for checking the samplers
    philox   own code for CUDA's generator, for a rehearsal where there is no GPU, and for a check where there is one
"""
import math

import numpy as np
import torch

SOURCES = "cuda", "cpu", "philox"


# ------------------------------------------------------------------------------------- Philox 4x32-10
# Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", in the layout of torch's CUDA kernels.

def philox_words(key, block, threads):
    """The four words of one block of every thread, each [threads] uint32."""
    mask = np.uint64(0xFFFFFFFF)
    counter = [np.full(threads, block & 0xFFFFFFFF, np.uint64), np.full(threads, block >> 32, np.uint64),
               np.arange(threads, dtype=np.uint64), np.zeros(threads, np.uint64)]
    low, high = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    for _ in range(10):
        a, b = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [(b >> np.uint64(32)) ^ counter[1] ^ low, b & mask, (a >> np.uint64(32)) ^ counter[3] ^ high, a & mask]
        low, high = (low + np.uint64(0x9E3779B9)) & mask, (high + np.uint64(0xBB67AE85)) & mask
    return counter


def box_muller(first, second):
    """Two words -> two normals. The uniforms are float32 values; the functions of them are taken in double."""
    single = lambda word, scale: (word.astype(np.float32) * np.float32(scale * 2.0 ** -32) +
                                  np.float32(scale * 2.0 ** -33)).astype(np.float64)
    u, v = single(first, 1), single(second, 2 * math.pi)
    s = np.sqrt(-2 * np.log(u))
    return s * np.sin(v), s * np.cos(v)


class Philox:
    """A generator of torch's CUDA device with a number of multiprocessors."""
    def __init__(self, seed, multiprocessors):
        self.seed, self.multiprocessors, self.block = seed, multiprocessors, 0

    def normal(self, n):
        """The next draw of n normals, float32."""
        threads = 256 * min(-(-n // 256), 8 * self.multiprocessors)
        rounds = -(-n // (4 * threads))
        out = np.empty((rounds, 4, threads), np.float32)
        for r in range(rounds):
            w = philox_words(self.seed, self.block + r, threads)
            out[r, 0], out[r, 1] = box_muller(w[0], w[1])
            out[r, 2], out[r, 3] = box_muller(w[2], w[3])
        self.block += rounds
        return out.reshape(-1)[:n]


# ---------------------------------------------------------------------------------------- generators

class Source:
    """Draws of one kind of device; tensors come on `device`, where the run computes."""
    def __init__(self, kind, device, multiprocessors=132):
        self.kind, self.device, self.multiprocessors = kind, device, multiprocessors

    def generator(self, seed):
        """-> draw(shape), successive draws of one generator."""
        if self.kind == "philox":
            g = Philox(seed, self.multiprocessors)
            return lambda shape: torch.from_numpy(g.normal(math.prod(shape)).reshape(shape)).to(self.device)
        g = torch.Generator(device=self.kind)
        g.manual_seed(seed)
        return lambda shape: torch.randn(shape, generator=g, device=self.kind, dtype=torch.float32).to(self.device)


def initial_noise(seed, shape, device):
    """The whole batch in one draw of the CPU generator."""
    return Source("cpu", device).generator(seed)(shape)


# ------------------------------------------------------------------------------------- Brownian trees

class BrownianTree:
    """Brownian motion over [low, high] by bisection: Li et al. 2020, "Scalable gradients for stochastic differential
    equations" (arXiv 2001.01328), section 4. Every node draws from a generator of its own, whose seed follows from the
    node's place in the tree (numpy's SeedSequence); times are rounded to 6 decimals."""
    def __init__(self, source, seed, low, high, shape, dtype):
        self.source, self.seed, self.shape, self.dtype = source, seed, shape, dtype
        self.low, self.high = round(low, 6), round(high, 6)
        self.root = self.normal(()) * math.sqrt(high - low)

    def normal(self, spawn_key):
        sequence = np.random.SeedSequence(entropy=self.seed, spawn_key=spawn_key, pool_size=24)
        return self.source.generator(int(sequence.generate_state(1)[0]))(self.shape).to(self.dtype)

    def increment(self, a, b, node=None):
        """W(b) - W(a), the sum of the largest nodes inside; node: (from, to, key, depth, increment)."""
        start, end, key, depth, w = node or (self.low, self.high, 0, 0, self.root)
        if a <= start and end <= b:
            return w
        middle = round((start + end) / 2, 6)
        share = (middle - start) / (end - start)
        left = share * w + math.sqrt((middle - start) * (end - middle) / (end - start)) * self.normal((key, depth))
        parts = []
        if a < middle:
            parts.append(self.increment(a, b, (start, middle, 2 * key, depth + 1, left)))
        if b > middle:
            parts.append(self.increment(a, b, (middle, end, 2 * key + 1, depth + 1, w - left)))
        return sum(parts)

    def noise(self, sigma, sigma_next):
        """A standard normal for the step: (W(sigma_next) - W(sigma)) / sqrt(|sigma_next - sigma|)."""
        a, b = (min(max(round(s, 6), self.low), self.high) for s in sorted((sigma, sigma_next)))
        sign = 1 if sigma_next > sigma else -1
        return sign * self.increment(a, b) / float(np.sqrt(np.float32(abs(np.float32(sigma_next) - np.float32(sigma)))))
