#!/usr/bin/env python3
"""The demo model on one CPU core: ksweep beside the PyTorch code that trained it, one after the other in one run.

    python3 bench/demo_vs_torch.py [--pictures 6] [--ksweep build/release/src/cli/ksweep]

Each renders the same number of pictures (20 Euler steps, karras, cfg 4, 128 x 128, decoded), PyTorch one at a time as the
demo's sampler does, with a warm-up picture before. Prints seconds a picture, three rounds, and their medians' ratio.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "jobs/demo/shapes-fp16.safetensors")
sys.path.insert(0, os.path.join(ROOT, "tools/demo-model"))  # layout, sample, tokens


def one_core():
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})


def torch_rounds(pictures, rounds):
    import torch
    import layout
    import sample
    from tokens import Tokenizer
    torch.set_num_threads(1)
    model = layout.load(MODEL)
    tokenizer = Tokenizer.load(os.path.join(ROOT, "jobs/demo/tokenizer"))
    sample.generate(model, tokenizer, ["a red circle"])
    for _ in range(rounds):
        start = time.monotonic()
        for seed in range(pictures):
            sample.generate(model, tokenizer, ["a red circle"], seed=seed)
        yield (time.monotonic() - start) / pictures


def ksweep_round(program, pictures, folder):
    job = {"ksweep": 1, "model": MODEL, "positive": "a red circle", "latent_image": {"width": 128, "height": 128},
           "seed": {"start": 0, "count": pictures}, "cfg": 4.0, "scheduler": "karras",
           "output": {"file": "out.h5", "images": True}}
    path = os.path.join(folder, "job.json")
    with open(path, "w") as f:
        json.dump(job, f)
    out = os.path.join(folder, "out.h5")
    if os.path.exists(out):
        os.remove(out)
    start = time.monotonic()
    subprocess.run([program, "run", path, "--threads", "1", "--quiet"], check=True, stdout=subprocess.DEVNULL)
    return (time.monotonic() - start) / pictures


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--pictures", type=int, default=6)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--ksweep", default=os.path.join(ROOT, "build/release/src/cli/ksweep"))
    args = p.parse_args()
    one_core()
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in torch_rounds(args.pictures, args.rounds):
            theirs.append(seconds)
            ours.append(ksweep_round(args.ksweep, args.pictures, folder))
            print(f"PyTorch {theirs[-1]:.2f} s a picture, ksweep {ours[-1]:.2f} s (its start and model loading included)")
    print(f"medians: PyTorch {statistics.median(theirs):.2f}, ksweep {statistics.median(ours):.2f}, "
          f"ratio {statistics.median(theirs) / statistics.median(ours):.2f}")


if __name__ == "__main__":
    main()
