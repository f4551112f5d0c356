"""What the end to end tests share: running ksweep in every way it can be started, small job files, safetensors."""
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import h5py
import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KSWEEP = os.environ.get("KSWEEP_BIN", os.path.join(ROOT, "build/release/src/cli/ksweep"))
GOLDEN = os.path.join(ROOT, "tests/golden")
TINY = os.path.join(GOLDEN, "tiny-sd15.safetensors")
DEMO = os.path.join(ROOT, "jobs/demo/shapes-fp16.safetensors")
MPI = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
           OMPI_MCA_btl_base_warn_component_unused="0")


def mpirun(ranks):
    return [os.environ.get("KSWEEP_MPIRUN", "mpirun"), "-n", str(ranks), "--oversubscribe", "--bind-to", "none"]


def start(*args, launcher=(), **kwargs):
    return subprocess.Popen([*launcher, KSWEEP, *map(str, args)], env=MPI, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)


def ksweep(*args, launcher=(), timeout=300):
    """Runs ksweep to its end: .returncode, .stdout, .stderr."""
    return subprocess.run([*launcher, KSWEEP, *map(str, args)], env=MPI, text=True, capture_output=True, timeout=timeout)


def family(pid):
    """A process and all that it has started: mpirun's ranks are in process groups of their own."""
    parents = {}
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{other}/stat") as f:
                parents[int(other)] = int(f.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    pids = [pid]
    for member in pids:
        pids += [child for child, parent in parents.items() if parent == member]
    return pids


def kill_all(process):
    """SIGKILL for a process and all that it has started."""
    for pid in family(process.pid) if process.poll() is None else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def ranks_of(word, program=KSWEEP):
    """The program's processes that have this word among their arguments: {pid: its MPI rank, 0 for one alone}."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
            with open(f"/proc/{pid}/environ", "rb") as f:
                variables = dict(v.split(b"=", 1) for v in f.read().split(b"\0") if b"=" in v)
        except OSError:
            continue
        if words[0] == program.encode() and word.encode() in words:
            found[int(pid)] = int(variables.get(b"OMPI_COMM_WORLD_RANK", 0))
    return found


def catches(pid, number):
    """Whether a process has a handler for a signal."""
    with open(f"/proc/{pid}/status") as f:
        caught = next(line for line in f if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def write_safetensors(path, tensors):
    names, header, offset = list(tensors), {}, 0
    kinds = {"float32": "F32", "float16": "F16", "int64": "I64"}
    for name in names:
        a = tensors[name]
        header[name] = {"dtype": kinds[str(a.dtype)], "shape": list(a.shape), "data_offsets": [offset, offset + a.nbytes]}
        offset += a.nbytes
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(tensors[n]).tobytes() for n in names))


class Case(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="ksweep-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def job(self, name="job.json", **keys):
        """A small demo job, with the given keys in place of its own (None takes a key out)."""
        job = {"ksweep": 1, "model": DEMO, "positive": "a red circle", "negative": "", "steps": 3, "cfg": 2.0,
               "latent_image": {"width": 64, "height": 64}, "seed": 1, "sampler_name": "euler", "scheduler": "karras",
               "output": {"file": "out.h5"}}
        job.update(keys)
        job = {k: v for k, v in job.items() if v is not None}
        path = self.path(name)
        with open(path, "w") as f:
            json.dump(job, f)
        return path

    def tiny_job(self, name="job.json", **keys):
        """A job of the smallest model there is: a sample takes milliseconds. Conditionings "a", "b", "c" are there to choose."""
        contexts = np.random.default_rng(3).normal(size=(3, 1, 8, 32)).astype(np.float32)
        write_safetensors(self.path("contexts.safetensors"), dict(zip("abc", contexts)))
        values = {"model": TINY, "positive": self.context("a"), "negative": self.context("b"), "steps": 2}
        return self.job(name, **{**values, **keys})

    @staticmethod
    def context(name):
        return {"file": "contexts.safetensors", "cond": name}

    def run_ok(self, *args, **kwargs):
        done = ksweep(*args, **kwargs)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def latents(self, out):
        with h5py.File(out) as f:
            return f["latents"][...]

    def wait_for_samples(self, process, out, count):
        """Until `ksweep status` counts so many samples of a run that goes on."""
        for _ in range(1200):
            self.assertIsNone(process.poll(), "the run ended before it could be disturbed")
            done = ksweep("status", out)
            if done.returncode != 2 and int(done.stdout.split(": ")[1].split()[0]) >= count:
                return
            time.sleep(0.05)
        self.fail("no samples came")

    def assert_one_line(self, done, *words):
        """Exit code 2 and one line on stderr that has every word."""
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(word, lines[0])
        return lines[0]
