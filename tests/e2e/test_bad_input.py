"""Bad input gets one clear line and exit code 2, and damages nothing."""
import json
import os
import re
import shutil
import struct
import subprocess
import unittest

import h5py
import numpy as np
from PIL import Image

from support import DEMO, Case, ksweep, mpirun, start, write_safetensors


class Models(Case):
    def refused(self, *words):
        return self.assert_one_line(ksweep("run", self.job(model="m.safetensors")), "m.safetensors", *words)

    def test_absent(self):
        self.refused("No such file")

    def test_empty(self):
        open(self.path("m.safetensors"), "w").close()
        self.refused()

    def test_truncated(self):
        with open(DEMO, "rb") as f, open(self.path("m.safetensors"), "wb") as g:
            g.write(f.read(1 << 20))
        self.refused("cut off while it was copied?")

    def test_a_header_longer_than_the_file(self):
        with open(self.path("m.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", 1 << 40) + b"{}")
        self.refused()

    def test_offsets_beyond_the_data(self):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 20], "data_offsets": [0, 4 << 20]}}).encode()
        with open(self.path("m.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        self.refused("a")

    def test_a_shape_that_does_not_match_its_bytes(self):
        header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 16]}}).encode()
        with open(self.path("m.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(header)) + header + b"\0" * 16)
        self.refused("a")

    def test_no_model_at_all(self):
        write_safetensors(self.path("m.safetensors"), {"x": np.zeros(4, np.float32)})
        self.refused()

    def test_a_tensor_that_does_not_fit(self):
        with open(DEMO, "rb") as f:
            data = f.read()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8:8 + size])
        name = "model.diffusion_model.middle_block.0.in_layers.2.weight"
        shape = header[name]["shape"]
        header[name]["shape"] = [shape[0] // 2, shape[1] * 2, *shape[2:]]
        text = json.dumps(header).encode()
        with open(self.path("m.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + data[8 + size:])
        shutil.copy(DEMO.replace(".safetensors", ".json"), self.path("m.json"))
        self.refused(name)

    def test_one_line_also_from_four_ranks(self):
        done = ksweep("run", self.job(model="m.safetensors"), launcher=mpirun(4))
        lines = [line for line in done.stderr.splitlines() if "m.safetensors" in line]
        self.assertEqual(len(lines), 1, done.stderr)
        self.assertEqual(done.returncode, 2)


class Jobs(Case):
    BAD = [
        ({"stepz": 20}, "stepz", "steps"),
        ({"CFG": 3}, '"CFG"', 'did you mean "cfg"?'),
        ({"sampler": "euler"}, '"sampler"', 'did you mean "sampler_name"?'),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps"),
        ({"cfg": [1.0, "x"]}, "cfg[1]"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"seed": {"start": 1, "count": 0}}, "seed.count"),
        ({"sampler_name": "eular"}, "sampler_name", "euler"),
        ({"scheduler": ["karras", "karas"]}, "scheduler[1]", "karras"),
        ({"denoise": 1.5}, "denoise"),
        ({"latent_image": {"width": 100, "height": 64}}, "latent_image.width"),
        ({"latent_image": {"file": "none.latent"}}, "job.json: latent_image[0].file: ", "none.latent"),
        ({"positive": {"file": "none.safetensors", "cond": "c"}}, "positive", "none.safetensors"),
        ({"positive": []}, "positive"),
        ({"model": None}, "model"),
        ({"ksweep": 2}, "ksweep"),
        ({"noise_device": "gpu"}, "noise_device"),
        ({"precision": "fp8"}, "precision", '"auto", "fp32", "fp16" or "bf16"'),
        ({"device": "gpu"}, "device"),
        ({"cfg": {"from": 1, "to": 2, "step": 0}}, "cfg"),
        ({"output": {"file": "out.h5", "latents": "float8"}}, "output.latents"),
        ({"start_at_step": "3"}, "start_at_step"),
        ({"end_at_step": 10001}, "end_at_step", "10000"),
        ({"add_noise": "disable"}, "add_noise", "false"),
        ({"positive": [[{"text": "x", "area": [64, 64, 0]}]]}, "area", "height, width, y, x"),
        ({"positive": [[{"text": "x", "area": [64, 64, 0, 64]}]]}, "positive[0]", "area", "64 x 64 pixels at line 0, column 64 (",
         "rounded down to cells of 8 pixels", "outside the picture of 64 x 64"),
        ({"positive": {"text": "x", "mask": {"file": "none.png"}}}, "positive[0]", "none.png"),
        ({"latent_image": {"width": 64, "height": 64, "noise_mask": {"file": "none.h5", "tensor": "m"}}},
         "latent_image[0]", "none.h5"),
    ]

    def test_each_kind_of_mistake(self):
        for keys, *words in self.BAD:
            with self.subTest(keys=keys):
                self.assert_one_line(ksweep("run", self.job(**keys)), "job.json", *words)
                self.assertEqual(os.listdir(self.folder), ["job.json"])

    def test_no_json(self):
        with open(self.path("job.json"), "w") as f:
            f.write('{"ksweep": 1,\n "model": }')
        self.assert_one_line(ksweep("run", self.path("job.json")), "job.json:2:11")

    def test_a_graph_of_comfyui(self):
        prompt = {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 20}}, "4": {"class_type": "VAEDecode", "inputs": {}}}
        workflow = {"last_node_id": 3, "nodes": [{"id": 3, "type": "KSampler", "widgets_values": [1, "fixed", 20]}], "links": []}
        for graph in prompt, {"prompt": prompt, "client_id": "x"}, workflow:
            with self.subTest(graph=graph):
                with open(self.path("job.json"), "w") as f:
                    json.dump(graph, f)
                for more in (), ("-o", self.path("out.h5")):
                    self.assert_one_line(ksweep("run", self.path("job.json"), *more), "job.json", "ComfyUI graph", "KSampler",
                                         "docs/job-format.md")

    def test_a_conditioning_of_the_wrong_width(self):
        write_safetensors(self.path("c.safetensors"), {"c": np.zeros((4, 32), np.float32)})
        done = ksweep("run", self.job(positive={"file": "c.safetensors", "cond": "c"}))
        self.assert_one_line(done, "positive[0]", "c.safetensors", "32", "128")

    def test_a_tensor_that_is_not_there(self):
        write_safetensors(self.path("c.safetensors"), {"c": np.zeros((4, 128), np.float32)})
        done = ksweep("run", self.job(positive={"file": "c.safetensors", "cond": "d"}))
        self.assert_one_line(done, "c.safetensors", '"d"')

    def test_a_latent_that_is_not_finite(self):
        for value in (np.nan, np.inf):
            with self.subTest(value=value):
                latent = np.zeros((1, 4, 8, 8), np.float32)
                latent[0, 1, 2, 3] = value
                write_safetensors(self.path("x.latent"), {"latent_tensor": latent})
                with h5py.File(self.path("x.h5"), "w") as f:
                    f["latents"] = latent
                for command in ("plan", "run"):
                    done = ksweep(command, self.job(latent_image={"file": "x.latent"}))
                    self.assert_one_line(done, "job.json: latent_image[0].file: ", "x.latent", "latent_tensor", str(value))
                    done = ksweep(command, self.job(latent_image={"file": "x.h5", "dataset": "latents"}))
                    self.assert_one_line(done, "job.json: latent_image[0].file: ", "x.h5", "/latents", str(value))

    def test_masks_that_cannot_be_meant(self):
        Image.new("RGB", (64, 64), "white").save(self.path("m.png"))
        Image.new("RGB", (64, 64), "white").save(self.path("m.jpg"))
        write_safetensors(self.path("m.safetensors"), {"high": np.full((8, 8), 1.5, np.float32), "low": np.full((8, 8), -1, np.float32)})
        for mask, *words in (({"file": "m.png", "tensor": "alpha"}, "m.png", "transparency"),
                             ({"file": "m.jpg"}, "m.jpg", "neither PNG, safetensors nor HDF5", "JPEG"),
                             ({"file": "m.safetensors", "tensor": "high"}, "m.safetensors", "high", "1.5", "0 to 1"),
                             ({"file": "m.safetensors", "tensor": "low"}, "m.safetensors", "low", "-1", "0 to 1")):
            with self.subTest(mask=mask):
                done = ksweep("plan", self.job(latent_image={"width": 64, "height": 64, "noise_mask": mask}))
                self.assert_one_line(done, "job.json: latent_image[0].noise_mask: ", *words)
                done = ksweep("plan", self.job(positive={"text": "x", "mask": mask}))
                self.assert_one_line(done, "job.json: positive[0]: mask: ", *words)

    def test_a_latent_that_is_a_picture(self):
        with h5py.File(self.path("x.h5"), "w") as f:
            f["images"] = np.zeros((1, 64, 64, 3), np.uint8)
        done = ksweep("plan", self.job(latent_image={"file": "x.h5", "dataset": "images"}))
        self.assert_one_line(done, "latent_image[0].file", "/images", "whole numbers", "[N, C, H, W]", "/latents")

    def test_too_small_a_limit_of_virtual_memory_is_told_and_nothing_hangs(self):
        """A buffer of the BLAS takes 128 MiB for each thread and one more. On one CPU, which `plan` has a thread for."""
        cpu = str(min(os.sched_getaffinity(0)))

        def under(mib, *args):
            done = ksweep(*args, launcher=["taskset", "-c", cpu, "sh", "-c", f'ulimit -v {mib * 1024}; exec "$0" "$@"'], timeout=60)
            return self.assert_one_line(done, f"ulimit -v) is {mib} MiB", "BLAS")

        line = under(1000, "run", self.job(), "--threads", 8)
        self.assertIn(f"needs {128 * 9} more for 8 threads", line)
        under(int(re.search(r"(\d+) of them are taken", line).group(1)) + 100, "plan", self.job())

    def test_a_latent_of_the_wrong_channels(self):
        write_safetensors(self.path("x.latent"), {"latent_tensor": np.zeros((1, 16, 8, 8), np.float32)})
        self.assert_one_line(ksweep("run", self.job(latent_image={"file": "x.latent"})), "x.latent", "16", "4")

    def test_images_without_a_decoder(self):
        with open(os.path.join(os.path.dirname(DEMO), "../../tests/golden/tiny-sd15.safetensors"), "rb") as f:
            with open(self.path("m.safetensors"), "wb") as g:
                g.write(f.read())
        shutil.copy(os.path.join(os.path.dirname(DEMO), "../../tests/golden/tiny-sd15.json"), self.path("m.json"))
        write_safetensors(self.path("c.safetensors"), {"c": np.zeros((4, 32), np.float32)})
        cond = {"file": "c.safetensors", "cond": "c"}
        done = ksweep("run", self.job(model="m.safetensors", positive=cond, negative=cond,
                                      output={"file": "o.h5", "images": True}))
        self.assert_one_line(done, "output.images", "m.safetensors")
        done = ksweep("run", self.job(model="m.safetensors"))
        self.assert_one_line(done, "positive[0]", "text encoder")

    def test_wrong_use_of_the_command_line(self):
        for args in (["rum"], ["run"], ["run", "--sets", "x"], ["run", "a", "b"], ["run", "a", "--set", "x"],
                     ["run", "a", "--threads", "none"]):
            with self.subTest(args=args):
                self.assert_one_line(ksweep(*args))


class Outputs(Case):
    def test_a_folder_that_is_not_there(self):
        self.assert_one_line(ksweep("run", self.job(), "-o", self.path("none/out.h5")), "none/out.h5", "No such file")

    def test_an_output_that_is_a_folder(self):
        os.mkdir(self.path("out.h5"))
        self.assert_one_line(ksweep("run", self.job()), "out.h5")

    def test_an_output_that_is_no_hdf5_file_is_left_alone(self):
        with open(self.path("out.h5"), "w") as f:
            f.write("my notes")
        self.assert_one_line(ksweep("run", self.job()), "out.h5")
        with open(self.path("out.h5")) as f:
            self.assertEqual(f.read(), "my notes")

    def assert_warns_as_run_refuses(self, job, *more):
        """The plan is made, and tells in run's words why a run would be refused."""
        planned, refused = self.run_ok("plan", job, *more), ksweep("run", job, *more)
        self.assertEqual((refused.returncode, planned.stderr), (2, ""))
        self.assertIn("expected time:", planned.stdout)
        self.assertIn("warning: a run would be refused: " + refused.stderr.removeprefix("ksweep: "), planned.stdout)

    def test_plan_warns_of_what_run_refuses(self):
        with open(self.path("notes.md"), "w") as f:
            f.write("my notes")
        shutil.copy(DEMO, self.path("m.safetensors"))
        shutil.copy(DEMO.replace(".safetensors", ".json"), self.path("m.json"))
        shutil.copytree(os.path.join(os.path.dirname(DEMO), "tokenizer"), self.path("tokenizer"))
        job = self.job(model="m.safetensors")
        before = sorted(os.listdir(self.folder))
        for out in "/", self.folder + "/.", self.folder, self.path("none/x.h5"), self.path("notes.md"), self.path("m.safetensors"):
            with self.subTest(out=out):
                self.assert_warns_as_run_refuses(job, "-o", out)
                self.assertEqual(sorted(os.listdir(self.folder)), before)

    def test_plan_warns_of_an_output_that_run_would_not_go_on_with(self):
        self.run_ok("run", self.job(cfg=[2.0, 4.0], parallel={"batch_rows": 4}))
        for keys in ({"output": {"file": "out.h5", "latents": "float16"}}, {"output": {"file": "out.h5", "images": True}},
                     {"latent_image": {"width": 128, "height": 64}}, {"cfg": [2.0, 5.0]}, {"parallel": {"batch_rows": 8}}):
            with self.subTest(keys=keys):
                job = self.job(**{"cfg": [2.0, 4.0], **keys})
                self.assert_warns_as_run_refuses(job)

    def test_a_job_that_shrank_is_pointed_to_filters(self):
        self.run_ok("run", self.job(cfg=[2.0, 4.0], seed=[1, 2]))
        shrunk = self.job(cfg=4.0, seed=[1, 2])
        self.assert_one_line(ksweep("run", shrunk), "2 samples that this job does not ask for", "--filter")
        self.assertNotIn("--filter", self.assert_one_line(ksweep("run", self.job(cfg=[4.0, 5.0], seed=[1, 2]))))
        self.run_ok("run", self.job(cfg=[2.0, 4.0], seed=[1, 2]), "--filter", "cfg=4")

    def test_a_shard_that_cannot_be_read_is_named_once(self):
        self.run_ok("run", self.job(seed=[1, 2]), "--shard", "0/2")
        with open(self.path("out.h5.d", "shard-0007.h5"), "w") as f:
            f.write("no HDF5")
        done = self.run_ok("run", self.job(seed=[1, 2]))
        self.assertEqual(done.stderr.count("shard-0007.h5"), done.stderr.count("this shard is left out"), done.stderr)
        self.assertEqual(done.stderr.count("this shard is left out"), 1, done.stderr)

    def test_another_model_on_the_same_output(self):
        self.run_ok("run", self.job())
        before = self.latents(self.path("out.h5"))
        with open(DEMO, "rb") as f:
            data = bytearray(f.read())
        data[-1000] ^= 1
        with open(self.path("m.safetensors"), "wb") as f:
            f.write(data)
        shutil.copy(DEMO.replace(".safetensors", ".json"), self.path("m.json"))
        shutil.copytree(os.path.join(os.path.dirname(DEMO), "tokenizer"), self.path("tokenizer"))
        self.assert_one_line(ksweep("run", self.job(model="m.safetensors")), "out.h5", "another model")
        self.assertEqual(before.tobytes(), self.latents(self.path("out.h5")).tobytes())

    def mount(self, size):
        folder = self.path("disk")
        os.mkdir(folder)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            self.skipTest("a tmpfs cannot be mounted here: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", folder], check=True)
        return folder

    def test_a_disk_that_is_too_small_from_the_start(self):
        folder = self.mount("64k")
        done = ksweep("run", self.job(seed={"start": 1, "count": 1000}), "-o", folder + "/out.h5")
        self.assert_one_line(done, "out.h5", "MiB")
        self.assertEqual(os.listdir(folder), [])

        self.assertIn("disk:           warning: what is left to render", self.run_ok(
            "plan", self.job(seed={"start": 1, "count": 1000}), "-o", folder + "/out.h5").stdout)

    def test_a_disk_that_has_no_room_for_a_merge(self):
        folder = self.mount("400k")
        out = folder + "/out.h5"
        job = self.tiny_job(seed={"start": 1, "count": 60}, latent_image={"width": 128, "height": 128})
        self.assertIn("disk:           warning: what is left to render fits", self.run_ok("plan", job, "-o", out).stdout)
        done = ksweep("run", job, "-o", out, "--quiet")
        self.assertEqual(done.returncode, 2, done.stderr)
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("==")]  # a sanitizer's own
        self.assertEqual(len(lines), 2, done.stderr)
        for line in lines:
            self.assertIn("--set output.collect=virtual", line)
        self.assertIn("merging, which makes a second copy, takes", lines[0])
        self.assertIn("out.h5.part: cannot write: No space left on device; all that is rendered is safe", lines[1])
        done = self.run_ok("run", job, "-o", out, "--quiet", "--set", "output.collect=virtual")
        self.assertIn("all 60 samples were there already", done.stdout)
        self.assertEqual(done.stderr, "")

    def test_a_disk_that_fills_up(self):
        folder = self.mount("2m")
        job = self.job(seed={"start": 1, "count": 120}, steps=5, latent_image={"width": 128, "height": 128})
        process = start("run", job, "-o", folder + "/out.h5", "--quiet")
        self.wait_for_samples(process, folder + "/out.h5", 3)
        with open(folder + "/ballast", "wb", buffering=0) as f, self.assertRaises(OSError):
            while f.write(b"x" * 4096):
                pass
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, output + errors)
        self.assertIn("out.h5", errors)
        self.assertIn("No space left", errors)
        self.assertEqual(len(errors.strip().splitlines()), 1, errors)
        os.remove(folder + "/ballast")
        self.run_ok("run", job, "-o", folder + "/out.h5")
        self.run_ok("run", job, "-o", self.path("whole.h5"))
        self.assertEqual(self.latents(folder + "/out.h5").tobytes(), self.latents(self.path("whole.h5")).tobytes())


if __name__ == "__main__":
    unittest.main()
