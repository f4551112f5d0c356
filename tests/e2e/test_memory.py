"""A whole run under valgrind: no error, no leak."""
import os
import shutil
import subprocess
import unittest

import numpy as np

from support import GOLDEN, KSWEEP, MPI, Case, write_safetensors


@unittest.skipUnless(shutil.which("valgrind"), "valgrind is not installed")
class Memory(Case):
    def valgrind(self, *args):
        done = subprocess.run(["valgrind", "--quiet", "--error-exitcode=99", "--leak-check=full",
                               "--errors-for-leak-kinds=definite,indirect", KSWEEP, *args],
                              env=dict(MPI, OPENBLAS_NUM_THREADS="1"), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotIn("==", done.stderr)

    def test_a_mixed_sweep_its_restart_and_looking_at_it(self):
        rng = np.random.default_rng(1)
        write_safetensors(self.path("c.safetensors"), {"a": rng.standard_normal((4, 32), np.float32),
                                                       "b": rng.standard_normal((6, 32), np.float32)})
        keys = {"model": os.path.join(GOLDEN, "tiny-sd15.safetensors"), "latent_image": {"width": 32, "height": 32},
                "positive": {"file": "c.safetensors", "cond": "a"}, "negative": {"file": "c.safetensors", "cond": "b"},
                "sampler_name": ["euler_ancestral", "dpmpp_2m_sde"], "cfg": [1.0, 3.0]}
        self.valgrind("run", self.job(**keys, steps=1), "--quiet", "--threads", "1")
        self.valgrind("run", self.job(**keys, steps=[1, 2]), "--quiet", "--threads", "1")
        self.valgrind("verify", self.path("out.h5"), "--sample", "1")
        self.valgrind("status", self.path("out.h5"))
        self.valgrind("sheet", self.path("out.h5"), "-x", "cfg", "-y", "steps")


if __name__ == "__main__":
    unittest.main()
