#!/usr/bin/env python3
"""Holds an output file against docs/output-format.md, with h5py alone, as a user would read it.

usage: check_output.py OUT.h5      prints one line for each violation; exit 1 when there is one

Digests are computed again where the package xxhash is installed; otherwise equal latents must have
equal digests and different ones different ones.
"""
import datetime
import itertools
import json
import math
import os
import sys

import h5py
import numpy as np

FIELDS = {
    "index": "u8", "seed": "u8", "steps": "u4", "cfg": "f8", "denoise": "f8", "sampler_name": "S",
    "scheduler": "S", "positive": "u4", "negative": "u4", "latent_image": "u4", "batch": "u4",
    "status": "u1", "nfe": "u4", "key": "u1[16]", "digest": "u1[16]",
}
TEXTS = ["job", "job_path", "model", "model_sha256", "ksweep_version", "backend", "device",
         "precision", "noise_device", "parallel", "start_time", "end_time"]
NUMBERS = ["batch_rows", "sweep_samples", "start_time_unix", "end_time_unix"]
AXES = ["positive", "negative", "latent_image", "denoise", "scheduler", "sampler_name", "cfg",
        "steps", "seed"]
DEFAULTS = {"negative": "", "denoise": 1.0}
MISSING, DONE, FAILED = 0, 1, 2
BLOCK = 1024


class Checker:
    def __init__(self, path):
        self.path, self.violations = path, 0
        self.file = h5py.File(path, "r")

    def expect(self, truth, *text):
        if not truth:
            print(f"{self.path}:", *text)
            self.violations += 1
        return bool(truth)

    def attributes(self):
        for name in TEXTS:
            if self.expect(name in self.file.attrs, f"attribute {name} is missing"):
                value = self.file.attrs[name]
                self.expect(isinstance(value, str),
                            f"attribute {name} is {type(value).__name__}, not a text")
        for name in NUMBERS:
            if self.expect(name in self.file.attrs, f"attribute {name} is missing"):
                self.expect(np.issubdtype(np.asarray(self.file.attrs[name]).dtype, np.number),
                            f"attribute {name} is not a number")
        for name in ("start_time", "end_time"):
            self.time(name)

    def time(self, name):
        text, seconds = self.file.attrs.get(name), self.file.attrs.get(name + "_unix")
        if not self.expect(text, f"attribute {name} is empty"):
            return
        try:
            when = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
        except ValueError as error:
            self.expect(False, f"attribute {name}: {error}")
            return
        when = when.replace(tzinfo=datetime.timezone.utc).timestamp()
        self.expect(abs(when - seconds) <= 1, f"attribute {name} is not {name}_unix")

    def labels(self):
        for name in ("positive", "negative", "latent_image"):
            if not self.expect(name in self.file, f"/{name} is missing"):
                continue
            info = h5py.check_string_dtype(self.file[name].dtype)
            self.expect(self.file[name].ndim == 1,
                        f"/{name} has {self.file[name].ndim} axes, not one")
            self.expect(info and info.encoding == "utf-8" and info.length is None,
                        f"/{name} does not hold UTF-8 strings of variable length")

    def shapes(self):
        for name in ("latents", "samples", "row_of_index"):
            if not self.expect(name in self.file, f"/{name} is missing"):
                return False
        latents, rows = self.file["latents"], len(self.file["samples"])
        self.expect(rows == self.file.attrs.get("sweep_samples"),
                    f"/samples has {rows} rows, not sweep_samples")
        self.expect(self.file["samples"].ndim == 1, "/samples is not a table")
        self.expect(latents.ndim == 4 and len(latents) == rows,
                    f"/latents is {latents.shape}, not [{rows}, C, H, W]")
        self.expect(latents.dtype in (np.float16, np.float32), f"/latents holds {latents.dtype}")
        index = self.file["row_of_index"]
        self.expect(index.shape == (rows,) and np.issubdtype(index.dtype, np.integer),
                    f"/row_of_index is {index.dtype} {index.shape}")
        if self.expect("checks" in self.file, "/checks is missing"):
            fields = ("check", "image_digest") if "images" in self.file else ("check",)
            checks = self.file["checks"]
            self.expect(checks.shape == (rows,) and checks.dtype.names == fields,
                        f"/checks is {checks.dtype} {checks.shape}")
        if "images" in self.file:
            images = self.file["images"]
            want = (rows, 8 * latents.shape[2], 8 * latents.shape[3], 3)
            self.expect(images.shape == want and images.dtype == np.uint8,
                        f"/images is {images.dtype} {images.shape}")
        return True

    def fields(self):
        dtype = self.file["samples"].dtype
        self.expect(list(dtype.names) == list(FIELDS), f"/samples has the fields {dtype.names}")
        for name, want in FIELDS.items():
            if name not in dtype.names:
                continue
            got = dtype[name]
            fits = got == np.dtype(want) if want != "S" and "[" not in want else \
                got.kind == "S" if want == "S" else got == np.dtype((np.uint8, (16,)))
            self.expect(fits, f"/samples: field {name} is {got}")

    def rows(self):
        table, index = self.file["samples"][:], self.file["row_of_index"][:]
        everything = np.arange(len(table), dtype=np.uint64)
        self.expect(np.array_equal(np.sort(table["index"]), everything),
                    "/samples: index is no permutation")
        self.expect(np.array_equal(index[table["index"]], everything),
                    "/row_of_index is not the inverse of index")
        self.expect(np.all(table["status"] <= FAILED), "/samples: a status is not 0, 1 or 2")
        for name in ("positive", "negative", "latent_image"):
            if name in self.file:
                self.expect(np.all(table[name] < len(self.file[name])),
                            f"/samples: {name} points behind /{name}")
        there = table[table["status"] != MISSING]
        self.expect(np.all(there["sampler_name"] != b""), "/samples: a sampler_name is empty")
        self.expect(np.all(there["scheduler"] != b""), "/samples: a scheduler is empty")
        keys = {bytes(k) for k in there["key"]}
        self.expect(bytes(16) not in keys, "/samples: a key is empty")
        return table

    def data(self, table):
        latents, images, seen = self.file["latents"], self.file.get("images"), {}
        for first in range(0, len(table), BLOCK):
            part = table[first:first + BLOCK]
            values = latents[first:first + BLOCK]
            pictures = images[first:first + BLOCK] if images is not None else itertools.repeat(None)
            for r, (row, latent, picture) in enumerate(zip(part, values, pictures), first):
                if row["status"] != DONE:
                    self.expect(not latent.any(),
                                f"row {r}: the latent of a sample that is not done is not zero")
                    continue
                self.expect(np.isfinite(latent).all(), f"row {r}: the latent is not finite")
                digest, data = bytes(row["digest"]), hash(latent.tobytes())
                self.expect(seen.setdefault(digest, data) == data,
                            f"row {r}: two latents have one digest")
                self.expect(seen.setdefault(data, digest) == digest,
                            f"row {r}: one latent has two digests")
                self.digest(r, digest, latent, "the digest is not the latent's")
                if picture is not None:
                    self.expect(picture.any(), f"row {r}: a done sample has no picture")
                    self.digest(r, bytes(self.file["checks"][r]["image_digest"]), picture,
                                "image_digest is not the picture's")

    def digest(self, r, digest, data, otherwise):
        if xxhash:
            self.expect(xxhash.xxh3_128_digest(data.tobytes()) == digest, f"row {r}: {otherwise}")

    def sweep(self, table):
        """Every sample's row has the values that its index means in the job's grid."""
        try:
            job = json.loads(self.file.attrs["job"])
        except (KeyError, ValueError) as error:
            self.expect(False, f"attribute job is not JSON: {error}")
            return
        folder = os.path.dirname(self.file.attrs["job_path"])
        axes = [lines(spec, folder) if isinstance(spec := job.get(name), dict) and {"lines", "jsonl"} & set(spec)
                else values(job, name) for name in AXES]
        leader = list(range(len(AXES)))  # of axes that walk together: the slowest
        for group in job.get("sweep", []):
            members = [AXES.index(name) for name in group] if isinstance(group, list) else []
            for member in members:
                leader[member] = min(members)
        points = math.prod(len(a) for i, a in enumerate(axes) if leader[i] == i)
        if not self.expect(points and len(table) % points == 0,
                           f"{len(table)} rows for {points} points of the job"):
            return
        batch = len(table) // points
        for row in table:
            if row["status"] == MISSING:
                continue
            rest, at = divmod(int(row["index"]), batch)
            self.expect(row["batch"] == at,
                        f"sample {row['index']}: batch is {row['batch']}, not {at}")
            places = {}
            for i in reversed(range(len(AXES))):
                if leader[i] == i:
                    rest, places[i] = divmod(rest, len(axes[i]))
            for i, name in enumerate(AXES):
                at = places[leader[i]]
                self.value(row, name, axes[i][at], at)
        images = job.get("output", {}).get("images")
        self.expect(images is None or images == ("images" in self.file),
                    "/images is not as the job's output.images")
        kind = job.get("output", {}).get("latents", "float32")
        self.expect(self.file["latents"].dtype == np.dtype(kind),
                    f"/latents is not {kind}, which the job asks for")

    def value(self, row, name, want, at):
        got = row[name]
        if name in ("positive", "negative", "latent_image"):
            self.expect(got == at, f"sample {row['index']}: {name} is {got}, not {at}")
            if isinstance(want, str) and name in self.file:
                label = self.file[name].asstr()[at]
                self.expect(label == want, f"/{name}[{at}] is {label!r}, not {want!r}")
        elif name in ("sampler_name", "scheduler"):
            self.expect(got.decode() == want,
                        f"sample {row['index']}: {name} is {got.decode()}, not {want}")
        elif want is not None:
            near = 0 if name in ("seed", "steps") else 1e-9 * max(1, abs(want))
            self.expect(got == want or abs(float(got) - float(want)) < near,
                        f"sample {row['index']}: {name} is {got}, not {want}")

    def run(self):
        self.attributes()
        self.labels()
        if self.shapes():
            self.fields()
            table = self.rows()
            self.sweep(table)
            self.data(table)
        return self.violations


def seeds(spec, control):
    if isinstance(spec, list):
        return [int(s) for s in spec]
    if not isinstance(spec, dict):
        return [int(spec)]
    if "from" in spec:
        low, high, step = (int(spec[k]) for k in ("from", "to", "step"))
        return list(range(low, high + (1 if step > 0 else -1), step))
    start, count = int(spec.get("start", 0)), int(spec["count"])
    step = {"fixed": 0, "increment": 1, "decrement": -1}.get(control)
    if step is None:
        return [None] * count  # randomize: any
    return [(start + k * step) % 2**64 for k in range(count)]


def lines(spec, folder):
    """The values of {"lines": FILE} or {"jsonl": FILE, "key": KEY}."""
    with open(os.path.join(folder, spec.get("lines", spec.get("jsonl"))), encoding="utf-8-sig", newline="\n") as f:
        rows = [line.rstrip("\n").removesuffix("\r") for line in f]
    rows = [row for row in rows if row.strip(" \t")]
    rows = [json.loads(row)[spec["key"]] for row in rows] if "jsonl" in spec else rows
    return [int(row) if isinstance(row, str) and row.strip().isdigit() else row for row in rows]


def values(job, name):
    """The axis as a list."""
    if name == "seed":
        return seeds(job.get("seed", 0), job.get("control_after_generate", "increment"))
    spec = job.get(name, DEFAULTS.get(name))
    if isinstance(spec, dict) and "from" in spec:
        low, high, step = (float(spec[k]) for k in ("from", "to", "step"))
        return [low + k * step for k in range(int((high - low) / step + 1e-9) + 1)]
    if isinstance(spec, list):
        return spec
    return [spec]


try:
    import xxhash
except ImportError:
    xxhash = None

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.exit(1 if Checker(sys.argv[1]).run() else 0)
    except OSError as problem:
        sys.exit(f"{sys.argv[1]}: {problem}")
