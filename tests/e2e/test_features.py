"""Conditioning, inpainting and KSampler (Advanced) from job files: what ComfyUI's nodes return, in every form a job can say it."""
import json
import os
import unittest

import h5py
import numpy as np
from PIL import Image

from support import GOLDEN, Case, ksweep, mpirun, write_safetensors


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


class ComfyUI(Case):
    """Cases of features.h5 through job files, with conditionings, masks and latents from files."""

    CASES = [
        "cond/area/euler", "cond/area/dpmpp_2m_sde", "cond/area_neg/euler", "cond/area_only/euler", "cond/area_overflow/euler",
        "cond/area_percent/euler", "cond/area_rect/euler", "cond/two_areas/euler", "cond/mask/euler", "cond/mask_bounds/euler",
        "cond/mask_only/euler", "cond/mask_upscale/euler", "cond/batch2_cond/euler", "cond/timestep_range/heun",
        "cond/ctx_mixed/euler", "cond/combine3_strength/euler", "mask/soft_latentres/ddim", "mask/soft_latentres_denoise/dpmpp_2m",
        "mask/soft_latentres/euler_cfg_pp", "mask/mask_odd_1x100x60/euler", "mask/mask_hard_16x16/ddim",
        "mask/batch2_mask_b2_2x16x16/euler_ancestral", "mask/empty_latent/euler", "advanced/second_stage/euler_ancestral",
        "advanced/leftover_noise/dpmpp_2m_sde", "advanced/middle/dpm_2", "advanced/force_full/uni_pc", "advanced/last0/euler",
        "advanced/start_after_end/euler", "advanced/disable_noise_from0/euler", "batch_index/3_3_5_7/euler_ancestral",
    ]

    def conditioning(self, f, entry, tensors):
        """One entry of a side as the job file says it."""
        out = {"file": "in.safetensors"}
        for key, value in entry.items():
            if key in ("context", "pooled", "mask"):
                tensors[value] = f[value][...]
            if key == "area" and value[0] == "percentage":
                out["area"] = {"percentage": value[1:]}
            elif key == "area":
                out["area"] = [8 * cells for cells in value]
            elif key == "mask":
                out["mask"] = {"file": "in.safetensors", "tensor": value}
            else:
                out["cond" if key == "context" else key] = value
        return out

    def export(self, f, case):
        at, tensors = case.attrs, {}
        sides = {side: [[self.conditioning(f, entry, tensors) for entry in json.loads(text(at[side]))]]
                 for side in ("positive", "negative")}
        latent = {"file": "in.latent"}
        if "batch_index" in at:
            latent["batch_index"] = [int(i) for i in at["batch_index"]]
        if "noise_mask" in at:
            tensors["noise_mask"] = f[text(at["noise_mask"])][...]
            latent["noise_mask"] = {"file": "in.safetensors", "tensor": "noise_mask"}
        advanced = {}
        if "start_step" in at:
            advanced = {"add_noise": not at["disable_noise"], "start_at_step": int(at["start_step"]),
                        "end_at_step": int(at["last_step"]), "return_with_leftover_noise": not at["force_full_denoise"]}
        write_safetensors(self.path("in.safetensors"), tensors)
        write_safetensors(self.path("in.latent"), {"latent_tensor": f[text(at["latent"])][...],
                                                   "latent_format_version_0": np.zeros(0, np.float32)})
        return self.job(model=os.path.join(GOLDEN, text(at["model"]) + ".safetensors"), latent_image=latent, noise_device="cpu",
                        seed=int(at["seed"]), steps=int(at["steps"]), cfg=float(at["cfg"]), denoise=float(at["denoise"]),
                        sampler_name=text(at["sampler"]), scheduler=text(at["scheduler"]), **sides, **advanced)

    def test_features(self):
        with h5py.File(os.path.join(GOLDEN, "features.h5")) as f:
            for number, name in enumerate(self.CASES):
                with self.subTest(case=name):
                    out = self.path(f"{number}.h5")
                    self.run_ok("run", self.export(f, f[name]), "-o", out)
                    got, want = self.latents(out), f[name]["output"][...]
                    error = np.linalg.norm((got - want).ravel()) / np.linalg.norm(want.ravel())
                    self.assertLessEqual(error, float(f[name].attrs["suggested_rtol"]))


class Masks(Case):
    """Tests with some masks in files."""

    def setUp(self):
        super().setUp()
        rng = np.random.default_rng(5)
        self.mask = (rng.integers(0, 256, (24, 40)) / 255).astype(np.float32)
        write_safetensors(self.path("m.safetensors"), {"m": self.mask, "three": np.ones((3, 8, 8), np.float32),
                                                       "nan": np.full((8, 8), np.nan, np.float32),
                                                       "flat": np.ones(8, np.float32)})
        with h5py.File(self.path("m.h5"), "w") as f:
            f["group/m"] = self.mask
        bytes_ = np.rint(self.mask * 255).astype(np.uint8)
        Image.fromarray(bytes_).save(self.path("grey.png"))
        Image.fromarray(np.stack([0 * bytes_, bytes_, 0 * bytes_, 255 - bytes_], -1)).save(self.path("rgba.png"))


class Forms(Masks):
    """The same thing said in several ways, and ways that must differ."""

    def render(self, **keys):
        """Latents and keys of a job."""
        out = self.path("out.h5")
        if os.path.exists(out):
            os.remove(out)
        self.run_ok("run", self.job(**keys))
        with h5py.File(out) as f:
            return f["latents"][...].tobytes(), [bytes(k) for k in f["samples"]["key"]]

    def test_a_mask_is_the_same_from_any_file(self):
        files = [{"file": "m.safetensors", "tensor": "m"}, {"file": "m.h5", "tensor": "group/m"}, {"file": "grey.png"},
                 {"file": "grey.png", "tensor": "blue"}, {"file": "rgba.png", "tensor": "green"},
                 {"file": "rgba.png", "tensor": "alpha"}]
        first = self.render(latent_image={"width": 64, "height": 64, "noise_mask": files[0]})
        for mask in files[1:]:
            with self.subTest(mask=mask):
                self.assertEqual(self.render(latent_image={"width": 64, "height": 64, "noise_mask": mask}), first)
        other = {"file": "rgba.png", "tensor": "red"}
        self.assertNotEqual(self.render(latent_image={"width": 64, "height": 64, "noise_mask": other}), first)

    def test_an_area_is_the_same_in_pixels_and_in_shares(self):
        def both(area):
            return self.render(positive=[["a red circle", {"text": "a blue star", "area": area}]])
        pixels = both([32, 48, 16, 0])
        self.assertEqual(both({"percentage": [0.5, 0.75, 0.25, 0]}), pixels)
        self.assertEqual(both([33, 55, 17, 7]), pixels)
        self.assertNotEqual(both([32, 48, 8, 0]), pixels)

    def test_the_bounds_of_a_mask_are_an_area(self):
        mask = np.zeros((128, 128), np.float32)
        mask[32:96, 16:96] = 1
        write_safetensors(self.path("box.safetensors"), {"m": mask})
        box = {"file": "box.safetensors", "tensor": "m"}
        def both(**keys):
            return self.render(positive=[["a", dict(keys, text="b", mask=box)]], latent_image={"width": 128, "height": 128})
        bounds = both(set_area_to_bounds=True)
        self.assertEqual(both(area=[64, 80, 32, 16]), bounds)
        self.assertEqual(both(area=[8, 8, 0, 0], set_area_to_bounds=True), bounds)
        self.assertNotEqual(both(), bounds)

    def test_settings_that_change_nothing_leave_the_keys_alone(self):
        first = self.render()
        for keys in ({"add_noise": True}, {"start_at_step": 0, "end_at_step": 10000}, {"return_with_leftover_noise": True}):
            with self.subTest(keys=keys):
                self.assertEqual(self.render(**keys), first)
        for keys in ({"add_noise": False}, {"start_at_step": 1}, {"end_at_step": 2},
                     {"end_at_step": 2, "return_with_leftover_noise": True}):
            with self.subTest(keys=keys):
                latents, key = self.render(**keys)
                self.assertNotEqual(latents, first[0])
                self.assertNotEqual(key, first[1])

    def test_two_stages_are_the_whole(self):
        """Leftover noise handed on without new noise is the run in one piece."""
        whole = self.render(steps=6)[0]
        self.run_ok("run", self.job(steps=6, end_at_step=3, return_with_leftover_noise=True), "-o", self.path("half.h5"))
        rest = self.render(steps=6, start_at_step=3, add_noise=False,
                           latent_image={"file": "half.h5", "dataset": "latents", "index": 0})[0]
        a, b = (np.frombuffer(x, np.float32) for x in (whole, rest))
        self.assertLess(np.linalg.norm(a - b) / np.linalg.norm(a), 1e-5)

    def test_what_a_mask_of_zeros_keeps_comes_back(self):
        latent = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
        write_safetensors(self.path("x.latent"), {"latent_tensor": latent, "latent_format_version_0": np.zeros(0, np.float32)})
        write_safetensors(self.path("z.safetensors"), {"m": np.repeat(np.float32([[1, 0]]), 4, 1).repeat(8, 0)})
        self.render(latent_image={"file": "x.latent", "noise_mask": {"file": "z.safetensors", "tensor": "m"}})
        got = self.latents(self.path("out.h5"))
        self.assertLess(np.abs(got - latent)[..., 4:].max(), 1e-5)
        self.assertGreater(np.abs(got - latent)[..., :4].max(), 0.1)

    def test_the_bits_do_not_depend_on_the_neighbours(self):
        areas = [[{"text": "b", "area": [8 * h, 40, 8, 16]}, "a"] for h in range(1, 7)]
        masks = [[{"text": "c", "mask": {"file": "m.safetensors", "tensor": "m"}}, "a"]]
        together = self.render(positive=["plain", *areas, *masks], cfg=[1, 4], sampler_name=["euler", "dpmpp_sde"])
        self.run_ok("verify", self.path("out.h5"), "--sample", "32")
        self.assertEqual(len(set(together[1])), 32)
        for positive in (areas[2], masks[0]):
            latents, keys = self.render(positive=[positive], cfg=[4], sampler_name=["dpmpp_sde"])
            place = together[1].index(keys[0])
            size = len(latents)
            self.assertEqual(together[0][place * size:(place + 1) * size], latents)

    def test_several_ranks_give_the_same_bits(self):
        keys = {"positive": [["a", {"text": "b", "area": [32, 32, 8, 16], "mask": {"file": "m.h5", "tensor": "group/m"}}]],
                "latent_image": {"width": 64, "height": 64, "noise_mask": {"file": "grey.png"}}, "seed": {"count": 12}}
        alone = self.render(**keys)
        self.run_ok("run", self.job(**keys), "-o", self.path("ranks.h5"), launcher=mpirun(3))
        self.assertEqual(self.latents(self.path("ranks.h5")).tobytes(), alone[0])

    def test_plan_counts_the_rows_that_are_run(self):
        def rows(**keys):
            """As planned, and as run: computed and saved."""
            planned = int(self.run_ok("plan", self.job(**keys)).stdout.split("network rows:")[1].split(",")[0])
            done = self.run_ok("run", self.job(**keys), "-o", self.path(f"{len(os.listdir(self.folder))}.h5"))
            words = (done.stdout + done.stderr).replace(",", "").split()
            return planned, int(words[words.index("network") - 1]) + int(words[words.index("saved") - 1])
        area = {"text": "b", "area": [32, 32, 0, 0]}
        for keys, count in (({}, 6), ({"cfg": 1}, 3), ({"positive": [["a", area]]}, 12), ({"positive": [["a", area]], "cfg": 1}, 6),
                            ({"negative": [["a", area]]}, 12), ({"negative": [["a", area]], "cfg": 1}, 6),
                            ({"positive": [["a", area], "b"]}, 18), ({"end_at_step": 2}, 4), ({"start_at_step": 2}, 2)):
            with self.subTest(keys=keys):
                self.assertEqual(rows(**keys), (count, count))


class Mistakes(Masks):
    """Areas and masks that cannot be: one line each."""

    def positive(self, **keys):
        return {"positive": [["a", dict({"text": "b"}, **keys)]]}

    def test_each_kind_of_mistake(self):
        m = {"file": "m.safetensors", "tensor": "m"}
        empty = {"width": 64, "height": 64}
        for keys, *words in (
                (self.positive(area=[32, 32, 64, 0]), "positive[0]", "area", "outside the picture of 64 x 64"),
                (self.positive(area={"percentage": [0.5, 0.5, 0, 1]}), "positive[0]", "area", "outside"),
                (self.positive(mask={"file": "none.png"}), "positive[0]", "mask", "none.png"),
                (self.positive(mask={"file": "m.safetensors", "tensor": "x"}), "m.safetensors", '"x"'),
                (self.positive(mask={"file": "m.safetensors"}), "m.safetensors", "tensor"),
                (self.positive(mask={"file": "m.safetensors", "tensor": "nan"}), "m.safetensors", "finite"),
                (self.positive(mask={"file": "m.safetensors", "tensor": "flat"}), "m.safetensors", "flat", "[H, W]"),
                (self.positive(mask={"file": "m.h5", "tensor": "x"}), "m.h5", "x"),
                (self.positive(mask={"file": "grey.png", "tensor": "m"}), "grey.png", '"m"', "alpha"),
                (dict(self.positive(mask=dict(m, tensor="three")), latent_image=dict(empty, batch_size=4)), "3 masks", "4"),
                ({"latent_image": dict(empty, noise_mask={"file": "none.h5", "tensor": "m"})}, "latent_image[0]", "none.h5"),
                ({"latent_image": dict(empty, noise_mask={"file": "job.json"})}, "latent_image[0]", "job.json")):
            with self.subTest(keys=keys):
                self.assert_one_line(ksweep("run", self.job(**keys)), "job.json", *words)
                self.assertFalse(os.path.exists(self.path("out.h5")))

    def test_a_damaged_picture(self):
        with open(self.path("grey.png"), "rb") as f:
            data = f.read()
        with open(self.path("cut.png"), "wb") as f:
            f.write(data[:len(data) // 2])
        done = ksweep("run", self.job(**self.positive(mask={"file": "cut.png"})))
        self.assert_one_line(done, "cut.png", "PNG")


if __name__ == "__main__":
    unittest.main()
