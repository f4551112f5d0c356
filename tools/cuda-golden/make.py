#!/usr/bin/env python3
"""Whole runs of the samplers whose noise follows noise_device "cuda", with PyTorch on its CUDA generator: tests/golden/cuda.h5.

    make.py --check tests/golden/samplers.h5   these samplers (7 minutes on a core), on the CPU generator, against ComfyUI's own outputs
    make.py --run RUNS.npz                     on a GPU: every run of cases.py, with torch's CUDA generator
    make.py --run RUNS.npz --rehearse          the same on the CPU, with own code for that generator
    make.py --pack RUNS.npz cuda.h5            the file that the tests read, in the form of samplers.h5
    make.py --compare RUNS.npz OTHER.npz       the largest distance of two sets of runs

--check and --pack need h5py, --run only numpy and torch. Steps to make the file anew: --check, then --run on a machine
with an NVIDIA GPU, then --pack.

Every run is done twice, in float32 as a user has it and with network and sampler in float64 on the same noise and sigmas; their
distance decides the tolerance by the rule of samplers.h5: max(2e-5, 10 times the distance).
"""
import argparse
import json
import math
import os
import sys
import time

import numpy as np
import torch

import cases
import network
import noise
import samplers

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
FLOOR = 2e-5
LEAST_MARGIN = 1e-5         # a run whose timestep hangs on less (in ln sigma) gets one step more


def distance(a, b):
    """Relative L2."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


class Models:
    """The golden checkpoints, on one device in one precision."""
    def __init__(self, device, dtype):
        self.device, self.dtype, self.loaded = device, dtype, {}

    def get(self, weights):
        """-> (UNet, its configuration); (None, one) for the Gaussian."""
        if weights == "gaussian":
            return None, {"latent_scale_factor": 0.18215}
        if weights not in self.loaded:
            with open(os.path.join(GOLDEN, weights + ".json")) as f:
                config = json.load(f)
            tensors = network.read_safetensors(os.path.join(GOLDEN, weights + ".safetensors"))
            self.loaded[weights] = network.UNet(tensors, config["unet_config"], self.device, self.dtype), config
        return self.loaded[weights]


def run(models, case, source, sigmas, scalars="host"):
    """One KSampler call -> (latent, the Denoiser with its counts, whether sigmas between the schedule's were made).

    case: weights, v_prediction, zsnr, sampler, cfg, seed, latent [B, 4, h, w] and both sides as arrays."""
    device, dtype = models.device, models.dtype
    unet, config = models.get(case["weights"])
    table = network.Sigmas(zsnr=case["zsnr"])
    put = lambda a: None if a is None else torch.from_numpy(a).to(device, dtype)
    sides = [tuple(put(a) for a in case[side]) for side in ("positive", "negative")]
    kind = network.Denoiser if unet else network.Gaussian
    denoise = kind(unet, table, case["v_prediction"], *sides, case["cfg"])
    latent, scale = put(case["latent"]), config["latent_scale_factor"]
    shape, seed, top = tuple(latent.shape), case["seed"], float(table.sigma[-1])
    full = sigmas[0] > top or math.isclose(sigmas[0], top, rel_tol=1e-5)
    factor = math.sqrt(1 + sigmas[0] ** 2) if full else sigmas[0]
    x = noise.initial_noise(seed, shape, device).to(dtype) * factor + latent * scale
    of_tree = source if case["sampler"].endswith("_gpu") else noise.Source("cpu", device)
    tree = lambda low, high: noise.BrownianTree(of_tree, seed, low, high, shape, dtype)
    work = samplers.Run(x, sigmas, denoise, source.generator(seed), tree, table.at_percent, scalars)
    with torch.no_grad():
        out = samplers.SAMPLERS[case["sampler"]](work) / scale
    return out.cpu().numpy(), denoise, work.uses_between


# ------------------------------------------------------------------------------ against samplers.h5

def read_case(f, group):
    """A case of samplers.h5 as `run` takes it."""
    text = lambda name: group.attrs[name].decode()
    side = lambda name: tuple(None if key not in entry else f[entry[key]][...]
                              for (entry,) in [json.loads(text(name))] for key in ("context", "pooled"))
    model = text("model")
    return {"weights": "tiny-sdxl" if model == "tiny-sdxl" else "tiny-sd15", "v_prediction": "-v" in model,
            "zsnr": model.endswith("-vz"), "sampler": text("sampler"), "cfg": float(group.attrs["cfg"]),
            "seed": int(group.attrs["seed"]), "latent": f[text("latent")][...], "positive": side("positive"),
            "negative": side("negative")}


def check_philox(path):
    """The largest difference of own code for torch's CUDA generator from the draws of philox.h5, made on a GPU."""
    import h5py
    worst = 0
    with h5py.File(path) as f:
        multiprocessors = int(f.attrs["multiprocessors"])
        for name, seed in ((name, seed) for seed in f["sequence"] for name in f["sequence"][seed]):
            draws = f["sequence"][seed][name][...]
            g = noise.Philox(int(seed[len("seed"):]), multiprocessors)
            for draw in draws:
                worst = max(worst, float(np.abs(g.normal(draw.size) - draw.reshape(-1)).max()))
    print(f"own code for torch's CUDA generator is within {worst:.3g} of {os.path.basename(path)}")
    return worst < 1e-5


def check(path):
    """Whether every case of these samplers is within its tolerance, and the two schedules are right."""
    import h5py
    models, doubles, source = Models("cpu", torch.float32), Models("cpu", torch.float64), noise.Source("cpu", "cpu")
    failed, worst, runs = 0, {}, 0
    with h5py.File(path) as f:
        found = []
        f.visititems(lambda name, o: found.append(o) if isinstance(o, h5py.Group) and "sampler" in o.attrs and
                     o.attrs["sampler"].decode() in samplers.SAMPLERS and o.attrs["status"] == b"ok" else None)
        for group in found:
            case, sigmas = read_case(f, group), [float(s) for s in group["sigmas"][...]]
            scheduler = group.attrs["scheduler"].decode()
            if scheduler in cases.SCHEDULERS:
                own = cases.schedule(network.Sigmas(zsnr=case["zsnr"]), scheduler, case["sampler"],
                                     int(group.attrs["steps"]), float(group.attrs["denoise"]))
                if not np.allclose(own, sigmas, rtol=2e-7, atol=0):
                    failed += 1
                    print(f"{group.name}: the schedule differs")
            out, denoise, _ = run(models, case, source, sigmas)
            error, bound = distance(out, group["output"][...]), float(group.attrs["suggested_rtol"])
            if error > bound and "f64_rel_l2" not in group.attrs:   # its own distance from float64 was never measured
                exact, _, _ = run(doubles, case, source, sigmas)
                bound = max(bound, 10 * distance(group["output"][...], exact))
                print(f"{group.name}: {error:.3g} off, with ten times its own distance from float64 as its tolerance")
            runs += 1
            worst[case["sampler"]] = max(worst.get(case["sampler"], 0), error / bound)
            if not error <= bound:
                failed += 1
                print(f"{group.name}: error {error:.3g}, tolerance {bound:.3g}, timestep margin {denoise.margin:.2g}", flush=True)
    for sampler, share in worst.items():
        print(f"{sampler:32} worst error / tolerance {share:.2f}")
    missing = set(samplers.SAMPLERS) - set(worst)
    print(f"{runs} runs, {failed} failed" + (f"; no case of {sorted(missing)}" if missing else ""))
    return check_philox(os.path.join(GOLDEN, "philox.h5")) and failed == 0 and not missing


# ------------------------------------------------------------------------------------- the new runs

def describe(rehearse):
    """(device, Source, attributes of the file)"""
    if rehearse:
        return "cpu", noise.Source("philox", "cpu"), {"gpu": "none: a rehearsal", "multiprocessors": 132,
                                                      "torch": torch.__version__}
    properties = torch.cuda.get_device_properties(0)
    return "cuda", noise.Source("cuda", "cuda"), {"gpu": properties.name, "torch": torch.__version__,
                                                  "multiprocessors": properties.multi_processor_count}


def check_generator(multiprocessors):
    """torch's CUDA draws against own code for them: first and second ones, a large shape among them."""
    worst = 0
    for seed, shape in ((5, (1, 4, 16, 16)), (2 ** 40 + 7, (3, 4, 10, 14)), (2 ** 63 + 11, (1, 4, 528, 528))):
        ours = noise.Source("philox", "cpu", multiprocessors).generator(seed)
        theirs = noise.Source("cuda", "cuda").generator(seed)
        for _ in range(2):
            worst = max(worst, float((ours(shape) - theirs(shape).cpu()).abs().max()))
    print(f"torch's CUDA generator and own code for it differ by at most {worst:.3g}", flush=True)
    return worst < 1e-5


def make_case(models, doubles, path, sampler, widgets, arrays, source, device):
    """One run -> (arrays to keep, attributes). The float64 run has the same noise and sigmas."""
    weights, v_prediction = cases.MODELS[widgets["model"]]
    names = {side: cases.conditioning(widgets["model"], side[:3]) for side in ("positive", "negative")}
    case = {"weights": weights, "v_prediction": v_prediction, "zsnr": False, "sampler": sampler, "cfg": widgets["cfg"],
            "seed": widgets["seed"], "latent": arrays[widgets["latent"]],
            **{side: tuple(None if n is None else arrays[n] for n in names[side]) for side in names}}
    steps = widgets["steps"]
    while True:
        sigmas = cases.schedule(network.Sigmas(), widgets["scheduler"], sampler, steps, widgets["denoise"])
        out, denoise, between = run(models, case, source, sigmas)
        if denoise.margin >= LEAST_MARGIN:
            break
        steps += 1
        assert steps < widgets["steps"] + 4, f"{path}: every number of steps puts a sigma between two timesteps"
    exact, _, _ = run(doubles, case, source, sigmas)
    other = run(models, case, source, sigmas, scalars=device)[0] if between else out
    again = run(models, case, source, sigmas)[0]
    side = lambda which: json.dumps([{key: "/inputs/" + n for key, n in zip(("context", "pooled"), names[which]) if n}])
    attributes = {
        "model": widgets["model"], "sampler": sampler, "scheduler": widgets["scheduler"], "steps": steps,
        "cfg": float(widgets["cfg"]), "seed": widgets["seed"], "denoise": float(widgets["denoise"]),
        "latent": "/inputs/" + widgets["latent"], "positive": side("positive"), "negative": side("negative"),
        "batch": out.shape[0], "height": out.shape[2], "width": out.shape[3], "status": "ok", "stochastic": 1,
        "noise_device": f"cuda:{source.multiprocessors}", "n_model_calls": denoise.calls,
        "min_timestep_margin": denoise.margin, "reproducible": int(np.array_equal(out, again)),
        "f64_rel_l2": distance(out, exact), "suggested_rtol": max(FLOOR, 10 * distance(out, exact)),
        "device_scalars_rel_l2": distance(other, out),
        "output_rms": float(np.sqrt(np.mean(out.astype(np.float64) ** 2)))}
    kept = {"output": out, "sigmas": np.array(sigmas, np.float32)}
    if "keep" in widgets:
        index = np.sort(np.random.default_rng(1).choice(out.size, widgets["keep"], replace=False)).astype(np.int64)
        kept = {"index": index, "output": out.reshape(-1)[index], "sigmas": kept["sigmas"]}
    return kept, attributes


def make(path, rehearse):
    """All runs into an .npz: arrays by their paths, and the attributes as JSON."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    device, source, about = describe(rehearse)
    source.multiprocessors = about["multiprocessors"]
    print(about, flush=True)
    good = rehearse or check_generator(about["multiprocessors"])
    models, doubles = Models(device, torch.float32), Models(device, torch.float64)
    arrays, attributes = cases.inputs(), {"/": about}
    data = {f"/inputs/{name}": a for name, a in arrays.items()}
    for case, sampler, widgets in cases.cases():
        start = time.monotonic()
        kept, attributes["/" + case] = make_case(models, doubles, case, sampler, widgets, arrays, source, device)
        data.update({f"/{case}/{name}": a for name, a in kept.items()})
        at = attributes["/" + case]
        print(f"{case:44} steps {at['steps']:2} rms {at['output_rms']:8.4f} float64 {at['f64_rel_l2']:.2g} "
              f"torch's own scalars {at['device_scalars_rel_l2']:.2g} {time.monotonic() - start:.2f} s", flush=True)
        if not (np.isfinite(kept["output"]).all() and at["f64_rel_l2"] < 1e-4):
            good = False
            print(f"{case}: NOT GOOD")
    with open(path, "wb") as f:
        np.savez_compressed(f, attributes=np.array(json.dumps(attributes)), **data)
    print(f"{len(attributes) - 1} runs in {path}, {os.path.getsize(path)} bytes, {'good' if good else 'NOT GOOD'}")
    return good


def read_runs(path):
    """(arrays by path, attributes by path)"""
    with np.load(path) as f:
        arrays = {"/" + name.lstrip("/"): f[name] for name in f.files if name != "attributes"}
        return arrays, json.loads(str(f["attributes"]))


def pack(path, out):
    """The HDF5 file; types and compression as samplers.h5 has them."""
    import h5py
    arrays, attributes = read_runs(path)
    with h5py.File(out, "w") as f:
        for name, a in arrays.items():
            more = {"compression": "gzip", "shuffle": True} if a.nbytes >= 65536 else {}
            f.create_dataset(name, data=a, **more)
        for name, values in attributes.items():
            for key, value in values.items():
                if isinstance(value, str):
                    value = np.bytes_(value)
                f[name].attrs[key] = np.uint64(value) if key == "seed" else value
    print(f"{out}: {len(attributes) - 1} runs, {os.path.getsize(out)} bytes")
    return os.path.getsize(out) < 2 * 2 ** 20


def compare(path, other):
    """Prints the distances of two sets of runs, worst first; whether all are within their tolerances."""
    (arrays, attributes), (others, _) = read_runs(path), read_runs(other)
    far = sorted(((distance(others[c + "/output"], arrays[c + "/output"]) / at["suggested_rtol"], c)
                  for c, at in attributes.items() if c != "/"), reverse=True)
    for share, case in far[:10]:
        print(f"{case:44} distance / tolerance {share:.3f}")
    return far[0][0] <= 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", metavar="SAMPLERS.h5")
    what.add_argument("--run", metavar="RUNS.npz")
    what.add_argument("--pack", nargs=2, metavar=("RUNS.npz", "OUT.h5"))
    what.add_argument("--compare", nargs=2, metavar=("RUNS.npz", "OTHER.npz"))
    parser.add_argument("--rehearse", action="store_true", help="no GPU: own code for its generator")
    args = parser.parse_args()
    if args.check:
        good = check(args.check)
    elif args.run:
        good = make(args.run, args.rehearse)
    else:
        good = pack(*args.pack) if args.pack else compare(*args.compare)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
