#!/usr/bin/env python3
"""One picture of SDXL in whole runs of ksweep: on one GPU, and with one model on two (the job's "parallel").

    python3 bench/run_split.py KSWEEP MODEL [--sides 1024,2048] [--seconds 6] [--pictures 1]

KSWEEP: the program. MODEL: random-sdxl.safetensors as bench_unet_gpu leaves it in its folder. Euler, cfg 7, random
conditionings, latents only, fp16. Each layout runs once with few steps and once with many, from which the time of a step is
told without that of the start; --seconds: how much longer the second one shall last. A line is
  side layout  milliseconds a step  ratio  (one GPU's time to this one's)  and the second run's own summary.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
from support import MPI, mpirun, write_safetensors  # noqa: E402

LAYOUTS = {"one": {}, "rows": {"rows": 2}, "tensor": {"tensor": 2}}
SHORT = 10  # steps


def write_job(folder, model, side, pictures):
    random = np.random.default_rng(1)
    write_safetensors(os.path.join(folder, "cond.safetensors"), {
        "positive": random.normal(size=(1, 77, 2048)).astype(np.float32), "pooled": random.normal(size=(1, 1280)).astype(np.float32),
        "negative": random.normal(size=(1, 77, 2048)).astype(np.float32)})
    side_of = lambda name: {"file": "cond.safetensors", "cond": name, "pooled": "pooled"}  # noqa: E731
    job = {"ksweep": 1, "model": os.path.abspath(model), "positive": side_of("positive"), "negative": side_of("negative"),
           "latent_image": {"width": side, "height": side}, "seed": {"start": 1, "count": pictures}, "cfg": 7.0,
           "sampler_name": "euler", "scheduler": "normal", "device": "cuda", "precision": "fp16", "output": {"file": "out.h5"}}
    path = os.path.join(folder, "job.json")
    with open(path, "w") as f:
        json.dump(job, f)
    return path


def render(ksweep, job, layout, steps, pictures):
    """Seconds of the rendering, and the run's summary."""
    out = os.path.join(os.path.dirname(job), "out.h5")
    if os.path.exists(out):
        os.remove(out)
    sets = [f"steps={steps}", f"parallel.batch_rows={2 * pictures}", *(f"parallel.{k}={v}" for k, v in layout.items())]
    ranks = 2 if layout else 1
    done = subprocess.run([*(mpirun(ranks) if layout else []), ksweep, "run", job, "-q", *(x for s in sets for x in ("--set", s))], env=MPI,
                          text=True, capture_output=True, timeout=500)
    summary = next((line for line in done.stdout.splitlines() if " samples rendered in " in line), "")
    if done.returncode or not summary:
        sys.exit(f"{layout}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return float(re.search(r"rendered in ([0-9.]+) s", summary).group(1)), summary


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ksweep")
    parser.add_argument("model")
    parser.add_argument("--sides", default="1024,2048")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--pictures", type=int, default=1)
    a = parser.parse_args()
    for side in map(int, a.sides.split(",")):
        one = None
        with tempfile.TemporaryDirectory(prefix="ksweep-bench-") as folder:
            job = write_job(folder, a.model, side, a.pictures)
            for name, layout in LAYOUTS.items():
                short, _ = render(a.ksweep, job, layout, SHORT, a.pictures)
                middle, _ = render(a.ksweep, job, layout, 4 * SHORT, a.pictures)
                guess = max(middle - short, 0.05) / (3 * SHORT)
                steps = SHORT + max(30, int(a.seconds / guess))
                whole, summary = render(a.ksweep, job, layout, steps, a.pictures)
                step = 1000 * (whole - short) / (steps - SHORT)
                one = one or step
                print(f"{side:5d} {name:7s} {step:8.2f} ms a step  {one / step:5.3f}x   {steps} steps: {summary}", flush=True)


if __name__ == "__main__":
    main()
