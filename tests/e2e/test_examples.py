"""The jobs of jobs/examples can be planned and run after what docs/job-format.md says that they need first."""
import glob
import json
import os
import shutil
import subprocess
import sys
import unittest

import numpy as np

from support import DEMO, ROOT, Case, ksweep

EXAMPLES = os.path.join(ROOT, "jobs/examples")


class Examples(Case):
    def setUp(self):
        super().setUp()
        shutil.copytree(EXAMPLES, self.path("jobs/examples"), ignore=shutil.ignore_patterns("*.safetensors"))

    def example(self, name, *args):
        return (self.path("jobs/examples", name), "--set", "model=" + DEMO, *args)

    def make_conditionings(self):
        done = subprocess.run([sys.executable, os.path.join(EXAMPLES, "conditioning.py"),
                               self.path("jobs/examples/conditioning.safetensors")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def make_demo_output(self):
        os.mkdir(self.path("out"))
        self.run_ok("run", os.path.join(ROOT, "jobs/demo.json"), "-q", "-o", self.path("out/demo.h5"), "--set", "steps=1", "--set",
                    "positive=x", "--set", "output.images=false", "--filter", "index=0")

    def test_what_is_needed_first_is_all_that_is_needed(self):
        needs = {"conditioning-file.json": ("conditioning.safetensors", self.make_conditionings),
                 "img2img.json": ("demo.h5", self.make_demo_output)}
        names = sorted(map(os.path.basename, glob.glob(os.path.join(EXAMPLES, "*.json"))))
        self.assertLess(set(needs), set(names))
        for name in names:
            with self.subTest(name=name):
                if name in needs:
                    file, make = needs[name]
                    self.assert_one_line(ksweep("plan", *self.example(name)), name, file, "No such file")
                    make()
                self.run_ok("plan", *self.example(name))

    def test_its_conditionings_are_those_of_the_texts(self):
        self.make_conditionings()
        small = ("-q", "--set", "seed=7", "--set", "steps=4", "--set", 'latent_image={"width": 64, "height": 64}')
        self.run_ok("run", *self.example("conditioning-file.json", *small), "-o", self.path("files.h5"))
        star = {"text": "a blue star", "strength": 0.5, "start_percent": 0.2}
        texts = ["a red circle", ["a red circle", star]]
        self.run_ok("run", *self.example("conditioning-file.json", *small), "--set", "positive=" + json.dumps(texts), "--set",
                    "negative=", "-o", self.path("texts.h5"))
        files, texts = self.latents(self.path("files.h5")), self.latents(self.path("texts.h5"))
        self.assertEqual(files.shape, (2, 4, 8, 8))
        self.assertLess(np.abs(files - texts).max(), 1e-4)
        self.assertGreater(np.abs(files[0] - files[1]).max(), 0.1)


if __name__ == "__main__":
    unittest.main()
