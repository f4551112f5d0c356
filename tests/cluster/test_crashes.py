"""A process that dies before, or in the midst of, any single operation on its files: the next start loses nothing and is right."""
import glob
import os
import signal
import sys
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from faults import FaultCase  # noqa: E402
from shards import files_of  # noqa: E402
from support import ksweep  # noqa: E402

SAMPLES = 12
STEP = int(os.environ.get("KSWEEP_CRASH_STEP", 4))  # 1: every operation, where it says so below


class Crashes(FaultCase):
    def setUp(self):
        super().setUp()
        self.job_path = self.tiny_job(seed={"count": SAMPLES}, sampler_name="euler_ancestral")
        self.run_ok("run", self.job_path, "-q", "-t", 1, "-o", self.path("whole.h5"))
        self.whole = self.latents(self.path("whole.h5"))

    def done_now(self, out):
        """{index: latent} of what is done by the files."""
        done = {index: latent for rows in files_of(out).values() for index, latent in rows.items()}
        for index, latent in done.items():
            self.assertEqual(latent, self.whole[index].tobytes(), index)
        return done

    def check_whole(self, out):
        """OUT has every sample, as an undisturbed run has it."""
        with h5py.File(out) as f:
            rows, latents = f["samples"][...], f["latents"][...]
            of_index = f["row_of_index"][...]
        self.assertTrue((rows["status"] == 1).all())
        self.assertEqual(latents[of_index].tobytes(), self.whole.tobytes())
        self.assertTrue((rows["index"][of_index] == np.arange(SAMPLES)).all())
        self.assertIn(f"{SAMPLES} rows checked, 0 bad", self.run_ok("verify", out).stdout)

    def check_status(self, out, done):
        told = ksweep("status", out)
        if not done and told.returncode == 2:
            self.assertIn("there is no output", told.stderr)
            return
        self.assertIn(f": {len(done)} of {SAMPLES} samples done", told.stdout, told.stderr)

    @staticmethod
    def age_nameless_lock(out):
        """A lock that was made and does not name its process yet is waited for, two minutes from the last touch."""
        for lock in glob.glob(glob.escape(out) + ".d/*.lock"):
            if os.path.getsize(lock) == 0:
                os.utime(lock, (time.time() - 300,) * 2)

    def command(self, name, collect, *more):
        return "run", self.job_path, "-q", "-t", 1, "-o", self.path(name + ".h5"), "--set", f"output.collect={collect}", *more

    def operations(self, name, collect, *more):
        """What a run that is not disturbed does to its files: a line each."""
        log = self.path(name + ".log")
        done = self.with_faults(*self.command(name, collect, *more), KSWEEP_FAULT_LOG=log, KSWEEP_FAULT_PATH=self.path(name + ".h5"))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(log) as f:
            return f.read().splitlines()

    def at_each(self, operations, step, crash_at):
        """Calls crash_at for numbers of operations, several at once: taking over a dead run's place is a second of waiting."""
        self.assertGreater(operations, 30, "a run has more operations than that")
        with ThreadPoolExecutor(8) as pool:
            for result in [pool.submit(crash_at, k) for k in range(1, operations + 1, step)]:
                result.result()

    def crash_at(self, collect, k, *more):
        """One run that dies at operation k, and the next."""
        out, command = self.path(f"{collect}{k}.h5"), self.command(f"{collect}{k}", collect, *more)
        first = self.with_faults(*command, KSWEEP_FAULT_TEAR=k, KSWEEP_FAULT_PATH=out)
        self.assertEqual(first.returncode, -signal.SIGKILL, first.stderr)
        done = self.done_now(out)
        self.check_status(out, done)
        self.age_nameless_lock(out)
        second = self.run_ok(*command)
        told = int(second.stdout.split(" samples rendered")[0]) if " samples rendered" in second.stdout else 0
        self.assertEqual(told, SAMPLES - len(done), second.stdout)
        self.check_whole(out)

    def test_a_death_at_any_operation_of_a_run_that_merges(self):
        self.at_each(len(self.operations("counted", "merge")), 1, lambda k: self.crash_at("merge", k))

    def test_a_death_at_any_operation_of_a_run_with_a_virtual_file(self):
        self.at_each(len(self.operations("counted", "virtual")), STEP, lambda k: self.crash_at("virtual", k))

    def test_a_death_at_any_operation_of_a_part(self):
        self.at_each(len(self.operations("counted", "merge", "--shard", "0/1")), STEP,
                     lambda k: self.crash_at("merge", k, "--shard", "0/1"))

    def test_a_layout_whose_writer_died_is_written_anew(self):
        os.mkdir(self.path("out.h5.d"))
        open(self.path("out.h5.d", "layout"), "w").close()
        self.assertEqual(self.run_ok(*self.command("out", "merge", "--shard", "0/1")).stderr, "")
        self.check_whole(self.path("out.h5"))

    def test_a_death_in_the_midst_of_writing_killed_shards_anew(self):
        """Collecting a virtual file over shards that a kill has left: it writes them anew and removes them."""
        lines = self.operations("counted", "virtual")
        last_write = max(i for i, line in enumerate(lines, 1) if line.startswith("write") and "/shard-" in line)
        self.kill_first = last_write + 1 # all rows are in the shard, and it is still open for writing
        self.leave_shard("probe")
        operations = len(self.operations("probe", "virtual"))
        self.at_each(operations, STEP, self.adopt_at)

    def leave_shard(self, name):
        """The files of a run that was killed when all was rendered, and their rows."""
        out = self.path(name + ".h5")
        self.with_faults(*self.command(name, "virtual"), KSWEEP_FAULT_KILL=self.kill_first, KSWEEP_FAULT_PATH=out)
        done = self.done_now(out)
        self.assertEqual(len(done), SAMPLES)
        return done

    def adopt_at(self, k):
        out, command = self.path(f"adopt{k}.h5"), self.command(f"adopt{k}", "virtual")
        done = self.leave_shard(f"adopt{k}")
        first = self.with_faults(*command, KSWEEP_FAULT_TEAR=k, KSWEEP_FAULT_PATH=out)
        self.assertEqual(first.returncode, -signal.SIGKILL, first.stderr)
        self.assertEqual(self.done_now(out), done)
        self.age_nameless_lock(out)
        self.assertNotIn("rendered", self.run_ok(*command).stdout)
        self.check_whole(out)

    def test_shards_are_removed_after_the_file_and_its_folder_are_on_disk(self):
        log, out = self.path("log"), self.path("out.h5")
        self.with_faults("run", self.job_path, "-q", "-o", out, KSWEEP_FAULT_LOG=log, KSWEEP_FAULT_PATH=self.folder)
        with open(log) as f:
            lines = f.read().splitlines()
        last = {line: i for i, line in enumerate(lines)}
        order = [last[line] for line in (f"sync {out}.d/shard-0000.h5", f"sync {out}.part", f"rename {out}.part",
                                                f"sync {self.folder}", f"unlink {out}.d/shard-0000.h5")]
        self.assertEqual(order, sorted(order), lines)


if __name__ == "__main__":
    unittest.main()
