"""A small UNet of the Stable Diffusion family from its checkpoint, and the estimate of the clean latent that samplers
work with. The layers follow the checkpoint's names (tools/demo-model/layout.py says how they are put together); the
precision is that of the tensors that come in, so a run in float64 uses the same code.

Shapes: B batch, C channels, h x w latent, T tokens, D context width."""
import json
import math
import struct

import numpy as np
import torch
import torch.nn.functional as F

PREFIX = "model.diffusion_model."
ROWS = 64             # of a network call, so that large batches need little memory


def read_safetensors(path):
    """{name: float32 tensor} of a file that holds only F32."""
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    tensors = {}
    for name, at in header.items():
        if name == "__metadata__":
            continue
        assert at["dtype"] == "F32", f"{path}: {name} is {at['dtype']}"
        begin, end = at["data_offsets"]
        tensors[name] = torch.from_numpy(np.frombuffer(data[begin:end], "<f4").reshape(at["shape"]).copy())
    return tensors


class UNet:
    def __init__(self, weights, config, device, dtype):
        self.w = {k[len(PREFIX):]: v.to(device, dtype) for k, v in weights.items() if k.startswith(PREFIX)}
        self.config, self.dtype, self.device = config, dtype, device
        self.width = config["model_channels"]
        self.counts = {}

    def count(self, prefix):
        """How many numbered children there are under prefix."""
        if prefix not in self.counts:
            numbers = [int(k[len(prefix):].split(".")[0]) for k in self.w if k.startswith(prefix)]
            self.counts[prefix] = 1 + max(numbers, default=-1)
        return self.counts[prefix]

    # --- layers: p is the name that the weights begin with ---

    def linear(self, p, x):
        return F.linear(x, self.w[p + ".weight"], self.w.get(p + ".bias"))

    def conv(self, p, x, **more):
        w = self.w[p + ".weight"]
        return F.conv2d(x, w, self.w[p + ".bias"], padding=w.shape[-1] // 2, **more)

    def group_norm(self, p, x, eps):
        return F.group_norm(x, 32, self.w[p + ".weight"], self.w[p + ".bias"], eps)

    def layer_norm(self, p, x):
        return F.layer_norm(x, x.shape[-1:], self.w[p + ".weight"], self.w[p + ".bias"])

    def time_features(self, t):
        half = self.width // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).to(t.device, self.dtype)
        angle = t.to(self.dtype)[:, None] * frequency[None]
        return torch.cat([angle.cos(), angle.sin()], dim=1)

    def res_block(self, p, x, emb):
        y = self.conv(p + ".in_layers.2", F.silu(self.group_norm(p + ".in_layers.0", x, 1e-5)))
        y = y + self.linear(p + ".emb_layers.1", F.silu(emb))[:, :, None, None]
        y = self.conv(p + ".out_layers.3", F.silu(self.group_norm(p + ".out_layers.0", y, 1e-5)))
        return y + (self.conv(p + ".skip_connection", x) if p + ".skip_connection.weight" in self.w else x)

    def attention(self, p, x, context):
        q, k, v = self.linear(p + ".to_q", x), self.linear(p + ".to_k", context), self.linear(p + ".to_v", context)
        b, n, c = q.shape
        heads = self.config["num_heads"] if self.config["num_heads"] > 0 else c // self.config["num_head_channels"]
        q, k, v = (y.reshape(b, -1, heads, c // heads).transpose(1, 2) for y in (q, k, v))
        weight = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(c // heads), dim=-1)
        return self.linear(p + ".to_out.0", (weight @ v).transpose(1, 2).reshape(b, n, c))

    def transformer_block(self, p, x, context):
        y = self.layer_norm(p + ".norm1", x)
        x = x + self.attention(p + ".attn1", y, y)
        x = x + self.attention(p + ".attn2", self.layer_norm(p + ".norm2", x), context)
        value, gate = self.linear(p + ".ff.net.0.proj", self.layer_norm(p + ".norm3", x)).chunk(2, dim=-1)
        return x + self.linear(p + ".ff.net.2", value * F.gelu(gate))

    def transformer(self, p, x, context):
        """The projections around the blocks are 1x1 convolutions or, with two dimensions, linear layers: the same map."""
        b, c, h, w = x.shape
        pixels = lambda y: y.permute(0, 2, 3, 1).reshape(b, h * w, c)
        project = lambda name, y: F.linear(y, self.w[f"{p}.{name}.weight"].reshape(c, c), self.w[f"{p}.{name}.bias"])
        y = project("proj_in", pixels(self.group_norm(p + ".norm", x, 1e-6)))
        for i in range(self.count(p + ".transformer_blocks.")):
            y = self.transformer_block(f"{p}.transformer_blocks.{i}", y, context)
        return x + project("proj_out", y).reshape(b, h, w, c).permute(0, 3, 1, 2)

    def stage(self, p, x, emb, context):
        """All layers under p in their order; what a layer is, its weights' names tell."""
        for i in range(self.count(p + ".")):
            layer = f"{p}.{i}"
            if layer + ".in_layers.0.weight" in self.w:
                x = self.res_block(layer, x, emb)
            elif layer + ".norm.weight" in self.w:
                x = self.transformer(layer, x, context)
            elif layer + ".op.weight" in self.w:
                x = self.conv(layer + ".op", x, stride=2)
            elif layer + ".conv.weight" in self.w:
                x = self.conv(layer + ".conv", F.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = self.conv(layer, x)
        return x

    def __call__(self, x, t, context, y=None):
        """x [B, 4, h, w], t [B], context [B, T, D], y [B, V] or None -> [B, 4, h, w]."""
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", self.time_features(t))))
        if y is not None:
            emb = emb + self.linear("label_emb.0.2", F.silu(self.linear("label_emb.0.0", y)))
        skips = []
        for i in range(self.count("input_blocks.")):
            x = self.stage(f"input_blocks.{i}", x, emb, context)
            skips.append(x)
        x = self.stage("middle_block", x, emb, context)
        for i in range(self.count("output_blocks.")):
            x = self.stage(f"output_blocks.{i}", torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.conv("out.2", F.silu(self.group_norm("out.0", x, 1e-5)))


class Sigmas:
    """Stable Diffusion's discrete noise levels: betas linear in their square roots; float32 tables."""
    def __init__(self, linear_start=0.00085, linear_end=0.012, zsnr=False):
        beta = np.linspace(linear_start ** 0.5, linear_end ** 0.5, 1000, dtype=np.float64) ** 2
        abar = np.cumprod(1 - beta)
        if zsnr:                      # Lin et al. 2023 (arXiv 2305.08891), algorithm 1, and a last value above zero
            root = np.sqrt(abar)
            abar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
            abar[-1] = 4.8973451890853435e-08
        sigma = np.sqrt((1 - abar) / abar)
        self.sigma, self.log_sigma = sigma.astype(np.float32), np.log(sigma).astype(np.float32)

    def timestep(self, sigma):
        """The nearest timestep, and how far (in ln sigma) the next nearest is from taking its place."""
        distance = np.abs(np.float32(math.log(sigma)) - self.log_sigma)
        nearest, second = np.sort(distance.astype(np.float64))[:2]
        return int(distance.argmin()), float(second - nearest) / 2

    def at(self, t):
        """The sigma of a fractional timestep, float32."""
        t = np.float32(min(max(t, 0), 999))
        low, part = int(t), np.float32(t - np.floor(t))
        mix = (np.float32(1) - part) * self.log_sigma[low] + part * self.log_sigma[min(low + 1, 999)]
        return np.float32(math.exp(mix))

    def at_percent(self, percent):
        return float(self.at((1 - percent) * 999))


class Denoiser:
    """The estimate of the clean latent: guidance over the UNet's two predictions. Keeps count of its calls."""
    def __init__(self, unet, sigmas, v_prediction, positive, negative, cfg):
        """positive, negative: (context [1, T, D], pooled [1, V] or None)."""
        self.unet, self.sigmas, self.v_prediction = unet, sigmas, v_prediction
        self.positive, self.negative, self.cfg = positive, negative, cfg
        self.margin, self.calls = math.inf, 0

    def side(self, x, sigma, timestep, conditioning):
        out = []
        for part in x.split(ROWS):
            b = len(part)
            context, pooled = (None if c is None else c.to(part).expand(b, *c.shape[1:]) for c in conditioning)
            seen = part / math.sqrt(sigma * sigma + 1)
            out.append(self.unet(seen, torch.full((b,), timestep, device=x.device), context, pooled))
        out = torch.cat(out)
        if self.v_prediction:
            return x / (sigma * sigma + 1) - out * (sigma / math.sqrt(sigma * sigma + 1))
        return x - sigma * out

    def pair(self, x, sigma):
        """(guided, unconditional) estimate of x at sigma, a float32 value."""
        timestep, margin = self.sigmas.timestep(sigma)
        self.margin, self.calls = min(self.margin, margin), self.calls + 1
        uncond = self.side(x, sigma, timestep, self.negative)
        cond = self.side(x, sigma, timestep, self.positive)
        return uncond + (cond - uncond) * self.cfg, uncond

    def __call__(self, x, sigma):
        """The guided estimate; with cfg 1 the negative is not evaluated."""
        if self.cfg != 1:
            return self.pair(x, sigma)[0]
        timestep, margin = self.sigmas.timestep(sigma)
        self.margin, self.calls = min(self.margin, margin), self.calls + 1
        return self.side(x, sigma, timestep, self.positive)


class Gaussian(Denoiser):
    """The exact estimate for data that are normal with variance 1, m + (x - m) / (1 + sigma^2), in place of a network:
    element i of a latent has the mean m = 2 + (i mod 5) / 8."""
    def side(self, x, sigma, timestep, conditioning):
        mean = 2 + 0.125 * (torch.arange(x[0].numel(), device=x.device) % 5).to(x.dtype).reshape(x[0].shape)
        return mean + (x - mean) / (1 + sigma * sigma)
