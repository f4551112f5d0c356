"""What the README shows works as it is printed: the first job, its commands, both ways to read the output."""
import os
import re
import shutil
import subprocess
import sys
import types
import unittest

import h5py
import numpy as np

from support import KSWEEP, MPI, ROOT, Case


def blocks(language):
    with open(os.path.join(ROOT, "README.md")) as f:
        return re.findall(rf"```{language}\n(.*?)```", f.read(), re.S)


class Readme(Case):
    def setUp(self):
        super().setUp()
        (job,) = blocks("json")
        with open(self.path("first.json"), "w") as f:
            f.write(job)
        os.symlink(os.path.join(ROOT, "jobs"), self.path("jobs"))

    def shell(self, command):
        path = os.path.dirname(KSWEEP) + os.pathsep + os.environ["PATH"]
        env = dict(MPI, PATH=path, OMPI_MCA_rmaps_base_oversubscribe="1")
        done = subprocess.run(["bash", "-ec", command], cwd=self.folder, env=env, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_the_first_job_and_both_readers(self):
        commands = blocks("sh")[1]
        self.shell(commands.replace("export PATH=$PWD/build/release/src/cli:$PATH\n", ""))
        self.assertTrue(os.path.exists(self.path("first.png")))
        self.read_with_h5py()
        self.read_as_a_data_set()

    def read_with_h5py(self):
        code = blocks("python")[0]
        found = self.python(code, {})
        self.assertEqual(found["latents"].shape, (2, 4, 16, 16))
        self.assertEqual(found["images"].shape, (2, 128, 128, 3))

    def read_as_a_data_set(self):
        code = blocks("python")[1]
        found = self.python(code, {})
        data = found["Sweep"]("first.h5")
        self.assertEqual(len(data), 64)
        latent, prompt = data[40]
        self.assertEqual(prompt, 1)
        with h5py.File(self.path("first.h5")) as f:
            self.assertTrue(np.array_equal(np.asarray(latent), f["latents"][40]))

    def python(self, code, names):
        self.assertLessEqual(len(code.strip().splitlines()), 6)
        here = os.getcwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, here)
        exec(compile(code, "README.md", "exec"), names)
        return names


def without_torch():
    """Where PyTorch is not installed: the two names of it that the README uses, so that the rest is still run."""
    torch = types.ModuleType("torch")
    torch.utils = types.SimpleNamespace(data=types.SimpleNamespace(Dataset=object))
    torch.from_numpy = lambda a: a
    print("PyTorch is not installed: its Dataset class and from_numpy are stood in for")
    return torch


if __name__ == "__main__":
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.modules["torch"] = without_torch()
    unittest.main()
