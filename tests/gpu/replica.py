"""One model on two GPUs: the pictures are those of one GPU, within what rounding may differ, and a rank that is lost ends in time.
Exit status 77: there are no two GPUs."""
import os
import re
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from support import KSWEEP, MPI, ROOT, Case, kill_all, ksweep, mpirun, ranks_of  # noqa: E402

LAYOUTS = {"tensor": {"tensor": 2}, "rows": {"rows": 2}}


def gpus():
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], text=True, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(re.findall(r"^GPU ", listed, re.M))


class Replica(Case):
    def demo(self, name, precision, layout=None, options=()):
        """The demo's latents, on one GPU or on two that have one model."""
        out = self.path(name + ".h5")
        sets = ["device=cuda", f"precision={precision}", "parallel.batch_rows=8"]
        sets += [f"parallel.{key}={value}" for key, value in (layout or {}).items()]
        done = ksweep("run", os.path.join(ROOT, "jobs/demo.json"), "-o", out, *[x for s in sets for x in ("--set", s)], *options,
                      launcher=mpirun(2) if layout else ())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(f"{name}:", *(line for line in done.stdout.splitlines() if "rendered in" in line), flush=True)
        self.run_ok("verify", out)
        with h5py.File(out) as f:
            return f["latents"][...][f["samples"]["status"][...] == 1]

    @staticmethod
    def distances(a, b):
        """Relative L2 of each latent."""
        flat = [x.reshape(len(x), -1).astype(np.float64) for x in (a, b)]
        return np.linalg.norm(flat[0] - flat[1], axis=1) / np.linalg.norm(flat[1], axis=1)

    def test_the_latents_are_those_of_one_gpu(self):
        exact = self.demo("one-fp32", "fp32")
        half = self.distances(self.demo("one-fp16", "fp16"), exact)
        print(f"fp16 on one GPU is {np.median(half):.1e} from fp32 (median; most {half.max():.1e})")
        for name, layout in LAYOUTS.items():
            with self.subTest(layout=name):
                d = self.distances(self.demo(f"{name}-fp32", "fp32", layout), exact)
                print(f"{name} 2, fp32: {np.median(d):.1e} from one GPU (most {d.max():.1e})", flush=True)
                self.assertLess(d.max(), 1e-4)
                d = self.distances(self.demo(f"{name}-fp16", "fp16", layout), exact)
                print(f"{name} 2, fp16: {np.median(d):.1e} from fp32 (most {d.max():.1e})", flush=True)
                self.assertLess(np.median(d), 1.5 * np.median(half))
                self.assertLess(d.max(), 3 * half.max())

    def test_the_same_layout_gives_the_same_bits(self):
        for name, layout in LAYOUTS.items():
            with self.subTest(layout=name):
                whole = self.demo(f"{name}-whole", "fp16", layout)
                part = self.demo(f"{name}-part", "fp16", layout, ["--filter", "seed=9", "--filter", "cfg=7"])
                self.assertEqual(len(part), 6)
                self.assertTrue({x.tobytes() for x in part} < {x.tobytes() for x in whole})

    def lose(self, rank, number, *options):
        """A long demo on two GPUs, and a signal to one rank in its middle: the exit status and the log."""
        log_path, out = self.path("lost.log"), self.path(f"lost-{rank}.h5")
        job = self.job("long.json", seed={"start": 1, "count": 4000}, steps=20, device="cuda", parallel={"tensor": 2})
        with open(log_path, "w") as log:
            process = subprocess.Popen([*mpirun(2), KSWEEP, "run", job, "-o", out, *options], env=MPI, stdout=log, stderr=log)
        self.addCleanup(kill_all, process)
        self.wait_for_samples(process, out, 20)
        os.kill({rank: pid for pid, rank in ranks_of(job).items()}[rank], number)
        began = time.monotonic()
        try:
            status = process.wait(120)
        finally:
            with open(log_path) as log:
                text = log.read()
            print(f"rank {rank}, signal {number}: status {process.poll()} after {time.monotonic() - began:.1f} s\n{text}", flush=True)
        return status, text

    def test_a_rank_that_hangs_ends_the_run_in_time(self):
        for rank in 0, 1:
            with self.subTest(rank=rank):
                self.assertEqual(self.lose(rank, signal.SIGSTOP, "--deadline", "5")[0], 75)

    def test_a_killed_rank_ends_the_run(self):
        self.assertNotEqual(self.lose(1, signal.SIGKILL)[0], 0)

    def test_a_stop_reaches_both(self):
        self.assertEqual(self.lose(1, signal.SIGUSR1)[0], 75)


if __name__ == "__main__":
    if gpus() < 2:
        print("no two NVIDIA GPUs here")
        sys.exit(77)
    unittest.main()
