#!/usr/bin/env python3
"""Kills runs at random instants and starts them again with the same command, until so many kills are done.

usage: kills.py [--kills 100] [--seed 1] [--ranks 3] [--samples 1500] [--tensor 1]

tensor: ranks that have one model together; that of all ranks is a multiple.

A kill is SIGKILL for one worker, rank 0, mpirun, or all of them at once. After each one, and after each end:
  - nothing is left running after a bounded time;
  - what was done before is still done, and the files of the attempt hold none of it again;
  - `ksweep status` counts what is in the files.
A sweep that ends is compared with an undisturbed one bit by bit. Exit code 1 and what went wrong when anything does not hold.
"""
import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from shards import files_of, shard_paths  # noqa: E402
from support import Case, ksweep, mpirun, ranks_of, start  # noqa: E402

VICTIMS = "worker", "rank 0", "mpirun", "all"
END_SECONDS = 30   # for everything to be gone after a kill
LONGEST_PAUSE = 4  # between a start and its kill: rows reach the files two seconds after they are rendered


class Failure(Exception):
    pass


def expect(truth, *text):
    if not truth:
        raise Failure(" ".join(map(str, text)))


class Sweep:
    """One output that is begun, killed and gone on with until it is done."""

    def __init__(self, job, out, samples, ranks):
        self.job, self.out, self.samples, self.ranks = job, out, samples, ranks
        self.done = {}      # index: latent, as of the last look
        self.known = set()  # paths of the shards as of the last look
        self.rendered = 0   # rows that the attempts' files gained
        self.before = []    # the collected file as of the last start

    def collected(self):
        """What there is of the collected file, finished or not: an earlier attempt may have left some."""
        found = []
        for path in self.out + ".part", self.out:
            try:
                status = os.stat(path)
                found.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except FileNotFoundError:
                found.append(None)
        return found

    def start(self):
        self.before = self.collected()
        return start("run", self.job, "-o", self.out, "-q", "-t", 1, launcher=mpirun(self.ranks))

    def phase(self):
        """Where the attempt that is running now is."""
        if self.collected() != self.before:
            return "collecting"
        return "rendering" if set(shard_paths(self.out)) - self.known else "start"

    def look(self):
        """After an attempt that was killed: nothing is lost, nothing was rendered again, status tells what is there."""
        files = files_of(self.out)
        now = {index: latent for rows in files.values() for index, latent in rows.items()}
        for index, latent in self.done.items():
            expect(now.get(index) == latent, f"sample {index} was done and is lost")
        fresh = [rows for path, rows in files.items() if path != self.out and path not in self.known]
        indices = [index for rows in fresh for index in rows]
        expect(len(set(indices)) == len(indices), "two ranks of one attempt have rendered the same sample")
        again = set(indices) & set(self.done)
        expect(not again, f"{len(again)} samples were done and were rendered again: {sorted(again)[:10]}")
        self.rendered += len(now) - len(self.done)
        self.done, self.known = now, set(files) - {self.out}
        self.check_status()

    def check_status(self):
        done = ksweep("status", self.out)
        if not self.known and not os.path.exists(self.out):
            expect(done.returncode == 2, "status of nothing ends with", done.returncode)
            return
        expect(done.returncode == (0 if len(self.done) == self.samples else 75), "status:", done.returncode, done.stderr)
        expect(f": {len(self.done)} of {self.samples} samples done" in done.stdout, done.stdout, "but", len(self.done), "are there")

    def check_end(self, process, expected):
        """After an attempt that was not disturbed."""
        output, errors = process.communicate()
        expect(process.returncode == 0, "the run ended with", process.returncode, output, errors)
        told = int(output.split(" samples rendered")[0].split()[-1]) if " samples rendered" in output else 0
        expect(told == self.samples - len(self.done), f"{told} samples were rendered, {len(self.done)} were done before")
        self.rendered += told
        expect(self.rendered == self.samples, f"{self.rendered} rows were rendered for {self.samples} samples")
        expect(not os.path.exists(self.out + ".d"), "the folder of shards is still there")
        with h5py.File(self.out) as f:
            expect((f["samples"]["status"] == 1).all(), "samples are missing")
            expect((f["samples"]["index"] == np.arange(self.samples)).all(), "rows are out of order")
            expect(f["latents"][...].tobytes() == expected, "the latents differ from the undisturbed run's")


def family(process, job):
    """mpirun and its ranks: {name: [pids]}."""
    ranks = ranks_of(job)
    workers = [pid for pid, rank in ranks.items() if rank > 0]
    zero = [pid for pid, rank in ranks.items() if rank == 0]
    return {"worker": workers, "rank 0": zero, "mpirun": [process.pid], "all": [process.pid, *ranks]}


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def wait_for_end(process, job):
    """Seconds until mpirun and all ranks are gone."""
    begin = time.monotonic()
    while process.poll() is None or ranks_of(job):
        expect(time.monotonic() - begin < END_SECONDS, "still running after", END_SECONDS, "s:", ranks_of(job))
        time.sleep(0.01)
    process.communicate()
    return time.monotonic() - begin


class Driver:
    def __init__(self, options):
        self.random = random.Random(options.seed)
        self.options = options
        self.victims, self.phases = collections.Counter(), collections.Counter()
        self.sweeps, self.slowest = 0, 0.0
        self.case = Case()
        self.case.folder = tempfile.mkdtemp(prefix="ksweep-kills-")
        per_seed = 6
        self.samples = options.samples // per_seed * per_seed
        self.job = self.case.tiny_job(seed={"count": self.samples // per_seed}, steps=4, cfg=[1.0, 2.0, 4.0],
                                      sampler_name=["euler_ancestral", "dpmpp_2m"], parallel={"tensor": options.tensor})
        self.expected = self.undisturbed()

    def undisturbed(self):
        out = self.case.path("whole.h5")
        done = ksweep("run", self.job, "-o", out, "-q", "-t", 1, launcher=mpirun(self.options.ranks))
        expect(done.returncode == 0, done.stdout, done.stderr)
        return self.case.latents(out).tobytes()

    def wait(self, process, sweep):
        """Lets the attempt run for a while; every fifth until it collects. Whether it still runs."""
        until = time.monotonic() + self.random.uniform(0, LONGEST_PAUSE)
        collecting = self.random.random() < 0.2
        while process.poll() is None and (collecting or time.monotonic() < until):
            if collecting and sweep.phase() == "collecting":
                break
            time.sleep(0.0005 if collecting else 0.005)
        return process.poll() is None

    def attempt(self, sweep):
        """One start and its kill; False when the sweep came to its end first."""
        process = sweep.start()
        victim = self.random.choice(VICTIMS)
        if not self.wait(process, sweep):
            sweep.check_end(process, self.expected)
            return False
        phase = sweep.phase()
        pids = family(process, self.job)[victim]
        if not pids: # the ranks are not there yet
            victim, pids = "mpirun", [process.pid]
        kill([self.random.choice(pids)] if victim == "worker" else pids)
        self.slowest = max(self.slowest, wait_for_end(process, self.job))
        self.victims[victim] += 1
        self.phases[phase] += 1
        sweep.look()
        return True

    def one_sweep(self):
        sweep = Sweep(self.job, self.case.path(f"killed{self.sweeps}.h5"), self.samples, self.options.ranks)
        self.sweeps += 1
        while sum(self.victims.values()) < self.options.kills:
            if not self.attempt(sweep):
                return
        process = sweep.start()
        process.wait()
        sweep.check_end(process, self.expected)

    def run(self):
        while sum(self.victims.values()) < self.options.kills:
            self.one_sweep()

    def layout(self):
        tensor = self.options.tensor
        return f", a model on each {tensor}," if tensor > 1 else ""

    def report(self, seconds):
        def counts(counter):
            return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
        return (f"{sum(self.victims.values())} kills ({counts(self.victims)}; during: {counts(self.phases)}) over {self.sweeps} "
                f"sweeps of {self.samples} samples on {self.options.ranks} ranks{self.layout()} in {seconds:.0f} s: every file equals the "
                f"undisturbed run's, nothing done was lost or rendered twice; all was gone {self.slowest:.1f} s after a kill "
                f"at the latest")


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    for name, value in ("kills", 100), ("seed", 1), ("ranks", 3), ("samples", 1500), ("tensor", 1):
        parser.add_argument("--" + name, type=int, default=value)
    driver = Driver(parser.parse_args())
    begin = time.monotonic()
    try:
        driver.run()
    except (Failure, subprocess.TimeoutExpired) as failure:
        print(f"after {sum(driver.victims.values())} kills, in {driver.case.folder}: {failure}", file=sys.stderr)
        return 1
    print(driver.report(time.monotonic() - begin))
    shutil.rmtree(driver.case.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
