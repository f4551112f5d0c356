#!/usr/bin/env python3
"""jobs/job.schema.json and the program say the same about a job file.

Every case is a change of a small good job. GOOD must pass the schema and `ksweep plan`, BAD must fail both (exit code 2 and
one line that names the file), and UNSAID, which no schema can express, must fail `ksweep plan` alone."""
import json
import os
import sys
import tempfile

import h5py
import jsonschema
import numpy as np
from PIL import Image

from support import DEMO, ROOT, ksweep, write_safetensors

SMALL = {"ksweep": 1, "model": DEMO, "positive": "a red circle", "latent_image": {"width": 64, "height": 64},
         "output": {"file": "out.h5"}}
ABSENT = object()
FILE = {"file": "c.safetensors", "cond": "a"}
EMPTY = {"width": 64, "height": 64}
MOST = 2**64 - 1


def axis(key, *values):
    return [{key: value} for value in values]


def span(first, last, step):
    return {"from": first, "to": last, "step": step}


GOOD = [
    {},
    {"$schema": "../jobs/job.schema.json"},
    {"ksweep": 1.0},
    *axis("positive", "", "ein Stern – 星 \n", ["a", "b"], ["a", "a"], [["a", "b"]], ["a", ["b", FILE]], FILE, [FILE],
          {"text": "a"}, {"text": "", "strength": 0}, {"text": "a", "strength": 1000},
          {"text": "a", "start_percent": 0, "end_percent": 1}, [["a", {"text": "b", "start_percent": 0.5}]],
          dict(FILE, strength=0.5, start_percent=0.25, end_percent=0.75),
          *[dict({"text": "a"}, **keys) for keys in
            ({"area": [8, 8, 0, 0]}, {"area": [16384, 100, 56, 63.0]}, {"area": {"percentage": [0, 1, 0.5, 0]}},
             {"mask": {"file": "m.png"}}, {"mask": {"file": "m.png", "tensor": "alpha"}, "mask_strength": 0},
             {"mask": {"file": "m.safetensors", "tensor": "m"}, "set_area_to_bounds": True, "mask_strength": 1000},
             {"mask": {"file": "m.safetensors", "tensor": "m"}, "area": [64, 64, 0, 0], "start_percent": 0.5})],
          dict(FILE, area=[8, 8, 0, 0]), dict(FILE, mask={"file": "m.safetensors", "tensor": "m"})),
    *axis("negative", "", ["", "blurry"], FILE),
    *axis("latent_image", [EMPTY], [EMPTY, EMPTY], {"width": 16, "height": 16}, {"width": 64, "height": 128},
          {"width": 64.0, "height": 64}, dict(EMPTY, batch_size=2), dict(EMPTY, batch_size=1, batch_index=[4095]),
          dict(EMPTY, batch_index=[3]), dict(EMPTY, batch_size=2, batch_index=[1, 0]), {"file": "x.latent"},
          {"file": "x.latent", "batch_size": 3}, {"file": "x.h5", "dataset": "latents"},
          {"file": "x.h5", "dataset": "latents", "index": 1}, {"file": "x.h5", "dataset": "latents", "batch_index": [5, 6]},
          [EMPTY, {"file": "x.latent"}], dict(EMPTY, noise_mask={"file": "m.png"}),
          {"file": "x.latent", "noise_mask": {"file": "m.safetensors", "tensor": "m"}}),
    *axis("add_noise", True, False),
    *axis("start_at_step", 0, 10000, 3.0),
    *axis("end_at_step", 0, 10000),
    *axis("return_with_leftover_noise", True, False),
    *axis("seed", 0, MOST, str(MOST), "0", "007", 5.0, [1], [MOST, "9007199254740993", 0, 0], {"count": 1},
          {"start": MOST, "count": 3}, {"start": "5", "count": "3"}, {"count": 10**12}, {"count": 2**63 - 1},
          span(0, 10, 5), span(10, 0, -1), span(str(MOST - 4), MOST, 2), span(3, 3, 7)),
    *[{"seed": {"start": 1, "count": 4}, "control_after_generate": c} for c in
      ("fixed", "increment", "decrement", "randomize")],
    *axis("steps", 1, 10000, 20.0, [1, 2, 2], span(1, 10, 3), span(5, 1, -2), span(4, 4, 1)),
    *axis("cfg", 1, 0, -1.5, 1000, -1000, [1, 1.5], span(0, 1, 0.1), span(3, 2, -0.25), span(2, 2, 0.1)),
    *axis("sampler_name", "euler", ["euler", "dpmpp_2m"]),
    *axis("scheduler", "karras", ["normal", "karras", "beta"]),
    *axis("denoise", 1, 0.5, [0.25, 1.0], span(0.2, 1, 0.1)),
    *axis("noise_device", "cuda", "cuda:1", "cuda:108", "cuda:65536", "cpu"),
    *axis("precision", "auto", "fp32"),
    *axis("prediction", "auto", "eps", "v"),
    *axis("zsnr", True, False),
    *axis("parallel", {}, {"tensor": 1, "rows": 1, "batch_rows": 0}, {"batch_rows": 16}, {"tensor": 4},
          {"rows": 64}, {"tensor": 2, "rows": 2, "batch_rows": 4}),
    *axis("device", "auto", "cpu"),
    *axis("output", {"file": "o.h5", "latents": "float32", "images": False, "collect": "auto"},
          {"file": "o.h5", "latents": "float16", "images": True, "collect": "merge"},
          {"file": "./o.h5", "collect": "virtual"}),
    *axis("positive", {"lines": "p.txt"}, {"jsonl": "p.jsonl", "key": "p"}),
    *axis("negative", {"lines": "p.txt"}, {"jsonl": "p.jsonl", "key": "n"}),
    *axis("seed", {"lines": "s.txt"}, {"jsonl": "p.jsonl", "key": "s"}),
    *axis("sweep", [], ["cfg"], [["cfg"]], ["seed", "cfg", ["positive", "negative"]], [["cfg", "steps", "seed"]]),
    {"positive": {"lines": "p.txt"}, "seed": {"count": 2}, "sweep": [["positive", "seed"]]},
    {"cfg": span(1, 3, 1), "steps": [1, 2, 3], "denoise": [1, 0.5], "scheduler": ["normal", "karras"],
     "sweep": [["steps", "cfg"], ["scheduler", "denoise"]]},
]

NO_AXIS_VALUES = (None, True, {}, [], [[]], [None], [{}])
NO_RANGES = (span(1, 2, 0), {"from": 1, "to": 2}, {"from": 1, "step": 1}, {"to": 1, "step": 1},
             dict(span(1, 2, 1), count=2), {"start": 1, "count": 2}, [span(1, 1, 1)])

BAD = [
    *[{key: ABSENT} for key in ("ksweep", "model", "positive", "latent_image", "output")],
    {"stepz": 20}, {"": 1}, {"Steps": 20},
    *axis("ksweep", 0, 2, "1", True, None),
    *axis("model", "", 7, None, ["a"], {}),
    *axis("positive", 7, *NO_AXIS_VALUES, ["a", []], ["a", 7], [[["a"]]], {"text": 7}, {"text": "a", "file": "c.safetensors"},
          dict(FILE, text="a"), {"text": "a", "cond": "a"}, {"text": "a", "pooled": "a"}, {"text": "a", "y": "a"},
          {"file": "c.safetensors"}, {"cond": "a"}, {"file": "", "cond": "a"}, dict(FILE, cond=""), dict(FILE, cond=7),
          dict(FILE, pooled=""), dict(FILE, pooled="a", y="a"), dict(FILE, width=64), dict(FILE, y="a", crop_h=0),
          dict(FILE, pooled="a", width=16385), dict(FILE, pooled="a", width=-1), dict(FILE, pooled="a", width=0.5),
          {"text": "a", "strength": -0.1}, {"text": "a", "strength": 1001}, {"text": "a", "strength": "1"},
          {"text": "a", "start_percent": -0.1}, {"text": "a", "end_percent": 1.1}, {"text": "a", "weight": 1}),
    *[{"positive": dict({"text": "a"}, **keys)} for keys in
      ({"area": 64}, {"area": [64, 64, 0]}, {"area": [64, 64, 0, 0, 0]}, {"area": [64, 7, 0, 0]}, {"area": [64, 64, -1, 0]},
       {"area": [64, 64, 0, 0.5]}, {"area": [64, 16385, 0, 0]}, {"area": ["percentage", 1, 1, 0, 0]}, {"area": {}},
       {"area": {"percentage": [1, 1, 0]}}, {"area": {"percentage": [1, 1.1, 0, 0]}}, {"area": {"percentage": [1, "1", 0, 0]}},
       {"area": {"percentage": [1, 1, 0, 0], "x": 1}}, {"mask": "m.png"}, {"mask": {}}, {"mask": {"tensor": "m"}},
       {"mask": {"file": "m.png", "tensor": ""}}, {"mask": {"file": ""}}, {"mask": {"file": "m.png", "channel": "red"}},
       {"mask_strength": 1}, {"set_area_to_bounds": False}, {"mask": {"file": "m.png"}, "mask_strength": -1},
       {"mask": {"file": "m.png"}, "set_area_to_bounds": 1})],
    *axis("negative", 7, [], [[]], None),
    *axis("latent_image", 64, "x.latent", *NO_AXIS_VALUES, [[EMPTY]], {"width": 64}, {"height": 64},
          {"width": 64, "height": 65}, {"width": 64, "height": 8}, {"width": 64, "height": 16392},
          {"width": 64, "height": "64"}, dict(EMPTY, file="x.latent"), dict(EMPTY, dataset="d"), dict(EMPTY, index=0),
          dict(EMPTY, batch_size=0), dict(EMPTY, batch_size=4097), dict(EMPTY, batch_size=1.5), dict(EMPTY, batch_index=0),
          dict(EMPTY, batch_index=[]), dict(EMPTY, batch_index=[1, 2]), dict(EMPTY, batch_index=[-1]),
          dict(EMPTY, batch_index=[4096]), dict(EMPTY, batch_index=[0.5]), dict(EMPTY, depth=1), {"file": ""}, {"file": 7},
          {"file": "x.h5", "dataset": ""}, {"file": "x.h5", "dataset": "latents", "index": -1},
          {"file": "x.h5", "dataset": "latents", "index": 0, "batch_index": [0, 1]}, {"image": "x.png"},
          {"file": "x.latent", "image": "x.png"}, dict(EMPTY, noise_mask="m.png"), dict(EMPTY, noise_mask={"tensor": "m"}),
          dict(EMPTY, noise_mask={"file": "m.png", "strength": 1})),
    *axis("seed", -1, 1.5, MOST + 1, str(MOST + 1), "", "-1", "1e3", "0x10", " 1", "1.0", *NO_AXIS_VALUES, [-1], [[1]],
          {"start": 1}, {"start": -1, "count": 1}, {"count": 0}, {"count": -1}, {"count": 1.5}, {"count": 2**63},
          {"count": "0"}, {"count": str(2**63)}, {"count": 1, "step": 1}, span(1, 2, 0), span(1, 2, 0.5), span(-1, 2, 1),
          span(1, MOST + 1, 1), {"from": 1, "to": 2}, {"to": 2, "step": 1}, dict(span(1, 2, 1), count=2), [span(1, 2, 1)]),
    *axis("control_after_generate", "random", "Fixed", 1, None, ["fixed"]),
    *axis("steps", 0, 10001, -1, 20.5, "20", *NO_AXIS_VALUES, [20, 0], *NO_RANGES, span(0, 2, 1), span(1, 10001, 1),
          span(1, 2, 0.5), span(1, 2, 10000)),
    *axis("cfg", 1000.5, -1001, "4", *NO_AXIS_VALUES, [1, "x"], [1, None], *NO_RANGES, span(0, 2000, 1), span(0, 1, 2001),
          span("0", 1, 1)),
    *axis("sampler_name", "eular", "Euler", "", 7, *NO_AXIS_VALUES, ["euler", "x"], "exp_heun_2_x0", span(1, 2, 1)),
    *axis("scheduler", "karas", "", 7, *NO_AXIS_VALUES, ["normal", 7]),
    *axis("denoise", -0.1, 1.1, "1", *NO_AXIS_VALUES, [0.5, 2], span(0, 1.5, 0.5), span(0, 1, 0), {"from": 0, "to": 1}),
    *axis("noise_device", "gpu", "cuda:", "cuda:0", "cuda:01", "cuda:-1", "cuda:1x", "cuda:65537", "CPU", "", 0, None, []),
    *axis("precision", "fp8", "float32", "", 32, None, []),
    *axis("prediction", "x", "V", "", None, True),
    *axis("zsnr", 1, 0, "true", None, []),
    *axis("parallel", 1, None, [], {"tensor": 65}, {"rows": 65}, {"tensor": 0}, {"tensor": "1"}, {"rows": 1.5},
          {"batch_rows": -1}, {"batch_rows": 4097}, {"batch_rows": "8"}, {"columns": 1}),
    *axis("device", "gpu", "", None, 0),
    *axis("output", "out.h5", None, [], {}, {"file": ""}, {"file": 7}, {"file": None}, {"images": True},
          {"file": "o.h5", "latents": "float64"}, {"file": "o.h5", "latents": 16}, {"file": "o.h5", "images": 1},
          {"file": "o.h5", "images": "yes"}, {"file": "o.h5", "collect": "all"}, {"file": "o.h5", "compress": True}),
    *axis("add_noise", 1, "enable", None, [True]),
    *[case for key in ("start_at_step", "end_at_step") for case in axis(key, -1, 10001, 2.5, "3", None, [1, 2])],
    *axis("return_with_leftover_noise", 0, "disable", None, []),
    *axis("sweep", "cfg", None, {}, [[]], [7], ["cgf"], ["batch"], ["Seed"], [["cfg", "cfg"]], [["cfg", ["seed"]]], [None]),
    *axis("positive", {"lines": ""}, {"lines": 7}, {"lines": "p.txt", "key": "p"}, {"lines": "p.txt", "jsonl": "p.jsonl"},
          {"jsonl": "p.jsonl"}, {"jsonl": "p.jsonl", "key": ""}, {"jsonl": 7, "key": "p"}, {"key": "p"},
          ["a", {"lines": "p.txt"}], {"lines": "p.txt", "text": "a"}),
    *axis("seed", {"lines": ""}, {"lines": "s.txt", "count": 1}, {"jsonl": "p.jsonl"}, [{"lines": "s.txt"}]),
    *axis("cfg", {"lines": "s.txt"}),
]

UNSAID = [
    {"seed": span(1, 10, -1)}, {"seed": span(10, 1, 1)}, {"seed": span(0, 10, 3)}, {"seed": span(0, MOST, 1)},
    {"cfg": span(0, 1, 0.3)}, {"cfg": span(1, 0, 0.5)}, {"cfg": span(0, 1000, 0.0001)}, {"steps": span(1, 10, 2)},
    {"seed": {"count": 2**63 - 1}, "cfg": [1, 2]},
    {"latent_image": [EMPTY, {"width": 128, "height": 64}]}, {"latent_image": [EMPTY, dict(EMPTY, batch_size=2)]},
    {"latent_image": dict(EMPTY, batch_size=2, batch_index=[1])},
    {"latent_image": {"file": "x.latent", "batch_size": 2, "batch_index": [1]}},
    {"cfg": [1, 2], "sweep": [["cfg", "seed"]]}, {"sweep": ["cfg", "cfg"]}, {"sweep": ["cfg", ["cfg", "seed"]]},
    {"positive": {"lines": "none.txt"}}, {"positive": {"lines": "blank.txt"}}, {"positive": {"lines": "x.h5"}},
    {"positive": {"jsonl": "p.jsonl", "key": "none"}}, {"positive": {"jsonl": "p.txt", "key": "p"}},
    {"positive": {"jsonl": "p.jsonl", "key": "s"}}, {"seed": {"lines": "p.txt"}}, {"seed": {"jsonl": "p.jsonl", "key": "p"}},
    {"positive": {"text": "a", "start_percent": 0.6, "end_percent": 0.4}}, {"denoise": span(0, 1, 0.3)},
    {"positive": {"text": "a", "area": [64, 64, 64, 0]}}, {"positive": {"text": "a", "mask": {"file": "none.png"}}},
    {"positive": {"text": "a", "mask": {"file": "m.safetensors"}}},
    {"parallel": {"tensor": 3}}, {"parallel": {"tensor": 64}}, {"parallel": {"rows": 2, "batch_rows": 5}},
    {"model": "none.safetensors"}, {"latent_image": {"file": "none.latent"}},
]


def write_inputs(folder):
    context = np.linspace(-1, 1, 4 * 128, dtype=np.float32).reshape(4, 128)
    latent = np.zeros((1, 4, 8, 8), np.float32)
    write_safetensors(os.path.join(folder, "c.safetensors"), {"a": context})
    write_safetensors(os.path.join(folder, "m.safetensors"), {"m": np.ones((8, 8), np.float32)})
    Image.new("LA", (8, 8)).save(os.path.join(folder, "m.png"))
    write_safetensors(os.path.join(folder, "x.latent"), {"latent_tensor": latent, "latent_format_version_0": latent[0, 0, 0]})
    for name, text in {"p.txt": "a star\n\na circle\r\n", "s.txt": f"7\n {MOST}\n", "blank.txt": " \n\n", "p.jsonl": "".join(
            json.dumps({"p": p, "n": "", "s": s}) + "\n" for p, s in (("a star", 7), ({"text": "a"}, str(MOST))))}.items():
        with open(os.path.join(folder, name), "w") as f:
            f.write(text)
    with h5py.File(os.path.join(folder, "x.h5"), "w") as f:
        f["latents"] = np.zeros((2, 4, 8, 8), np.float32)


def planned(folder, job):
    """Exit code and stderr of `ksweep plan` for the job."""
    path = os.path.join(folder, "job.json")
    with open(path, "w") as f:
        json.dump(job, f)
    done = ksweep("plan", path)
    return done.returncode, done.stderr


def mistakes_of(folder, schema, change, schema_says, program_says):
    """What is not as it should be, in words; empty when all is well."""
    job = {key: value for key, value in {**SMALL, **change}.items() if value is not ABSENT}
    valid = schema.is_valid(job)
    code, text = planned(folder, job)
    wrong = []
    if valid != schema_says:
        wrong.append(f"the schema {'accepts' if valid else 'refuses'} it")
    if code != (0 if program_says else 2):
        wrong.append(f"ksweep plan exits with {code}")
    if code == 2 and (len(text.splitlines()) != 1 or "job.json" not in text):
        wrong.append("not one line that names the file")
    return [f"{w}: {text.strip()}" for w in wrong]


def show(change):
    return json.dumps({k: "(absent)" if v is ABSENT else v for k, v in change.items()}, ensure_ascii=False)


def main():
    with open(os.path.join(ROOT, "jobs/job.schema.json")) as f:
        document = json.load(f)
    jsonschema.Draft202012Validator.check_schema(document)
    schema = jsonschema.Draft202012Validator(document)
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="ksweep-test-") as folder:
        write_inputs(folder)
        for name, cases, schema_says, program_says in (("GOOD", GOOD, True, True), ("BAD", BAD, False, False),
                                                       ("UNSAID", UNSAID, True, False)):
            for change in cases:
                wrong = mistakes_of(folder, schema, change, schema_says, program_says)
                for line in wrong:
                    print(f"{name} {show(change)}: {line}")
                passed += not wrong
                failed += bool(wrong)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
