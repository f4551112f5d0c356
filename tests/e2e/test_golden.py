"""Whole runs from a job file against reference data: what ComfyUI's node returns, and the demo model's own pictures."""
import json
import os
import unittest

import h5py
import numpy as np

from support import DEMO, GOLDEN, Case, write_safetensors

MODELS = {"tiny-sd15": ("tiny-sd15", {}), "tiny-sd15-v": ("tiny-sd15", {"prediction": "v"}),
          "tiny-sd15-vz": ("tiny-sd15", {"prediction": "v", "zsnr": True}), "tiny-sdxl": ("tiny-sdxl", {})}
SUPPORTED = ["euler", "euler_ancestral", "heun", "dpm_2", "lms", "dpmpp_2s_ancestral", "dpmpp_2m", "dpmpp_2m_sde",
             "dpm_adaptive", "ddim", "lcm", "uni_pc"]


KNOWN = {"/sdxl/normal/dpm_adaptive": 2.65e-5}   # one of two results: tests/golden/test_samplers.c tells why


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class GoldenRuns(Case):
    """Cases through job files, with conditionings and latents from files."""

    def export(self, f, case):
        """The case's conditionings and latent as files; its job file."""
        at = case.attrs
        tensors, sides = {}, {}
        for side in "positive", "negative":
            (entry,) = json.loads(text(at[side]))
            tensors[side] = f[entry["context"]][...]
            sides[side] = {"file": "cond.safetensors", "cond": side}
            if "pooled" in entry:
                tensors[side + "-pooled"] = f[entry["pooled"]][...]
                sides[side]["pooled"] = side + "-pooled"
        write_safetensors(self.path("cond.safetensors"), tensors)
        write_safetensors(self.path("in.latent"), {"latent_tensor": f[text(at["latent"])][...],
                                                   "latent_format_version_0": np.zeros(0, np.float32)})
        model, extra = MODELS[text(at["model"])]
        return self.job(model=os.path.join(GOLDEN, model + ".safetensors"), latent_image={"file": "in.latent"},
                        noise_device=text(at.get("noise_device", b"cpu")), seed=int(at["seed"]), steps=int(at["steps"]),
                        cfg=float(at["cfg"]), denoise=float(at["denoise"]), sampler_name=text(at["sampler"]),
                        scheduler=text(at["scheduler"]), **sides, **extra)

    def check(self, group, file="samplers.h5", samplers=SUPPORTED):
        with h5py.File(os.path.join(GOLDEN, file)) as f:
            cases = [c for name, c in f[group].items() if name in samplers and text(c.attrs["status"]) == "ok"]
            self.assertTrue(cases)
            for number, case in enumerate(cases):
                with self.subTest(case=case.name):
                    out = self.path(f"{number}.h5")
                    self.run_ok("run", self.export(f, case), "-o", out)
                    got, want = self.latents(out), case["output"][...]
                    error = np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel())
                    self.assertLessEqual(error, KNOWN.get(case.name, float(case.attrs["suggested_rtol"])))


class ComfyUI(GoldenRuns):
    """Cases of samplers.h5."""

    def test_karras(self):
        self.check("main/karras")

    def test_sdxl(self):
        self.check("sdxl/normal")

    def test_v_prediction_with_zero_terminal_snr(self):
        self.check("vpred_zsnr/normal")

    def test_image_to_image(self):
        self.check("img2img/karras")

    def test_cfg_1_with_a_batch_of_2(self):
        self.check("cfg1_batch2/normal")


class TorchOnAGPU(GoldenRuns):
    """Cases of cuda.h5: PyTorch's runs with its CUDA generator."""

    def test_noise_from_the_cuda_generator(self):
        self.check("main/karras", "cuda.h5", ["euler_ancestral", "seeds_3", "dpmpp_2m_sde", "dpmpp_sde_gpu"])


class Demo(Case):
    def test_the_demo_model_gives_its_reference_latents_and_pictures(self):
        with h5py.File(os.path.join(GOLDEN, "demo_golden.h5")) as f:
            prompts = [f[f"prompt{k}"] for k in range(4)]
            for k, p in enumerate(prompts):
                out = self.path(f"{k}.h5")
                self.run_ok("run", self.job(
                    positive=text(p.attrs["prompt"]), seed=int(p.attrs["seed"]), steps=int(p.attrs["steps"]),
                    cfg=float(p.attrs["cfg"]), latent_image={"width": 128, "height": 128},
                    output={"file": out, "images": True}))
                with h5py.File(out) as g:
                    latent, image = g["latents"][0] * 0.18215, g["images"][0]
                want = p["latent"][...]
                self.assertLess(np.linalg.norm(latent - want) / np.linalg.norm(want), 1e-4)
                steps = np.abs(image.astype(int) - p["image"][...].astype(int))
                self.assertGreaterEqual((steps <= 1).all(axis=-1).mean(), 0.999)


if __name__ == "__main__":
    unittest.main()
