"""plan, status, sheet, verify, model, help."""
import json
import os
import re
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np
from PIL import Image

from support import DEMO, ROOT, Case, ksweep


class Tools(Case):
    def test_version_and_help(self):
        self.assertRegex(self.run_ok("--version").stdout, r"^ksweep \d+\.\d+\.\d+")
        everything = self.run_ok("--help").stdout
        for command in "run", "plan", "status", "sheet", "verify", "model":
            self.assertIn(f"ksweep {command}", everything)
            self.assertIn(f"usage: ksweep {command}", self.run_ok(command, "--help").stdout)

    def test_a_billion_samples_are_planned_at_once(self):
        job = self.job(seed={"start": 0, "count": 10**7}, cfg={"from": 1, "to": 10, "step": 0.1}, steps=[20, 30],
                       control_after_generate="increment")
        start = time.monotonic()
        done = self.run_ok("plan", job)
        self.assertLess(time.monotonic() - start, 1.0)
        self.assertIn(str(10**7 * 91 * 2), done.stdout)
        rows = 10**7 * (20 + 30) * (90 * 2 + 1)
        self.assertIn(str(rows), done.stdout)

    def test_plan_counts_the_rows_that_run_renders(self):
        job = self.job(seed=[1, 2], cfg=[1.0, 3.0], sampler_name=["euler", "dpmpp_2m"], scheduler=["karras", "simple"])
        planned = int(self.run_ok("plan", job).stdout.split("network rows:")[1].split(",")[0])
        done = self.run_ok("run", job).stdout
        rows = int(done.split(" network rows")[0].split()[-1])
        saved = int(done.split(" saved by sharing")[0].split()[-1])
        self.assertEqual(planned, rows + saved)
        self.assertGreater(saved, 0)

    def planned(self, *args):
        """What plan says: samples that are there, that are left, network rows. Nothing is written by it, whatever is there."""
        before = self.everything()
        text = self.run_ok("plan", *args).stdout
        self.assertEqual(self.everything(), before)
        there, left = re.search(r"already there: +(\d+) of them, (\d+) are left", text).groups()
        return int(there), int(left), int(re.search(r"network rows: +(\d+)", text).group(1))

    def everything(self):
        found = []
        for folder, _, names in os.walk(self.folder):
            found += [(folder, os.stat(folder).st_mtime_ns)]
            found += [(name, os.stat(os.path.join(folder, name)).st_mtime_ns) for name in names]
        return sorted(found)

    def test_plan_counts_what_is_there(self):
        job = self.job(seed=[1, 2, 3], cfg=[1.0, 3.0])
        self.assertNotIn("already there", self.run_ok("plan", job).stdout)
        self.run_ok("run", job, "--shard", "0/3")  # shards alone
        self.assertEqual(self.planned(job)[:2], (2, 4))
        self.assertEqual(self.planned(job, "--shard", "0/3"), (2, 0, 0))
        self.assertEqual(self.planned(job, "--shard", "1/3")[:2], (0, 2))
        self.run_ok("run", job, "--filter", "cfg=3")
        self.assertEqual(self.planned(job, "--filter", "cfg=3"), (3, 0, 0))
        there, left, rows = self.planned(job)
        self.assertEqual((there + left, rows), (6, 3 * left))  # those of cfg 1: a row for each of 3 steps
        self.run_ok("run", job)
        self.assertEqual(self.planned(job), (6, 0, 0))
        grown = self.job(seed=[5, 1, 2, 3], cfg=[1.0, 2.0, 3.0])  # at other indices
        self.assertEqual(self.planned(grown)[:2], (6, 6))
        self.run_ok("run", grown, "--set", "output.collect=virtual")
        self.assertEqual(self.planned(grown, "--set", "output.collect=virtual"), (12, 0, 0))

    def test_plan_knows_the_size_of_the_output(self):
        with open(self.path("p.txt"), "w") as f:
            f.writelines(f"a red circle, number {i} of a long list of prompts\n" for i in range(3000))
        job = self.job(positive={"lines": "p.txt"})
        units = {"B": 1, "KiB": 2**10, "MiB": 2**20}
        for options in ["--filter", "index=0..9"], ["--filter", "index=0..29", "--set", "output.images=true", "-o", self.path("i.h5")]:
            value, unit = re.search(r"output: .*, about (\S+) (\w+)", self.run_ok("plan", job, *options).stdout).groups()
            out = self.run_ok("run", job, "-q", *options).stdout.splitlines()[-1]
            size = os.stat(out).st_blocks * 512
            self.assertLess(abs(float(value) * units[unit] / size - 1), 0.1, (value, unit, size))

    def test_model_tells_what_a_checkpoint_is(self):
        done = self.run_ok("model", DEMO).stdout
        for word in "sd15", "96", "128", "text", "VAE", "F16":
            self.assertIn(word.lower(), done.lower())

    def test_verify_renders_samples_again(self):
        self.run_ok("run", self.job(seed={"start": 1, "count": 4}, sampler_name=["euler_ancestral", "dpmpp_2m"]))
        done = self.run_ok("verify", self.path("out.h5"), "--sample", 5)
        self.assertIn("8 rows checked, 0 bad", done.stdout)
        self.assertIn("5 samples rendered again, 0 different", done.stdout)

    def test_verify_finds_a_flipped_byte(self):
        self.run_ok("run", self.job(seed={"start": 1, "count": 4}))
        with h5py.File(self.path("out.h5")) as f:
            place = f["latents"].id.get_chunk_info(0).byte_offset if f["latents"].chunks else f["latents"].id.get_offset()
        with open(self.path("out.h5"), "r+b") as f:
            f.seek(place + 5)
            byte = f.read(1)
            f.seek(place + 5)
            f.write(bytes([byte[0] ^ 4]))
        done = ksweep("verify", self.path("out.h5"))
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("1 bad", done.stdout)

    def test_status_of_a_finished_run(self):
        self.run_ok("run", self.job(seed={"start": 1, "count": 4}))
        self.assertIn("4 of 4 samples done", self.run_ok("status", self.path("out.h5")).stdout)
        self.assert_one_line(ksweep("status", self.path("none.h5")), "none.h5")

    def test_sheet_with_and_without_images(self):
        job = self.job(seed=[1, 2], cfg=[1.0, 3.0, 5.0], sampler_name=["euler", "heun"],
                       output={"file": "out.h5", "images": True})
        self.run_ok("run", job)
        self.run_ok("sheet", self.path("out.h5"), "-x", "cfg", "-y", "seed", "-o", self.path("grid.png"))
        picture = np.asarray(Image.open(self.path("grid.png")))
        with h5py.File(self.path("out.h5")) as f:
            image = f["images"][0]
        self.assertGreater(picture.shape[0], 4 * image.shape[0])
        self.assertGreater(picture.shape[1], 3 * image.shape[1])
        self.run_ok("run", self.job(seed=[1, 2], cfg=[1.0, 3.0]), "-o", self.path("plain.h5"))
        self.run_ok("sheet", self.path("plain.h5"))
        self.assertTrue(os.path.exists(self.path("plain.png")))

    def test_sheet_names_the_axes_that_there_are(self):
        self.run_ok("run", self.job(seed=[1, 2]))
        self.assert_one_line(ksweep("sheet", self.path("out.h5"), "-x", "sede"), "sede", "seed")

    def test_the_output_is_what_its_documentation_says(self):
        self.run_ok("run", self.job(seed=[1, 2], positive=["a red circle", "ein blauer Stern – 星"],
                                    output={"file": "out.h5", "images": True}))
        done = subprocess.run([sys.executable, os.path.join(ROOT, "tests/e2e/check_output.py"), self.path("out.h5")],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    unittest.main()
