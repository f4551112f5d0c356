"""Ranks that hang (SIGSTOP) and ranks that are killed, under mpirun. KSWEEP_ULFM=1: under Open MPI 5 with --with-ft ulfm, where a
run goes on without its dead; KSWEEP_MPIRUN names that mpirun."""
import glob
import os
import re
import signal
import subprocess
import sys
import time
import unittest

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../e2e"))
from support import KSWEEP, MPI, Case, family, kill_all, mpirun  # noqa: E402

ULFM = bool(os.environ.get("KSWEEP_ULFM"))
RANKS, SAMPLES = 3, 48
JOB = {"seed": {"start": 1, "count": SAMPLES}, "steps": 8, "parallel": {"batch_rows": 2},
       "output": {"file": "out.h5", "collect": "virtual"}}  # "virtual" leaves the shards for counting
ENV = dict(MPI, OMPI_MCA_mpi_yield_when_idle="1")


class Run:
    """mpirun with some ranks of one thread each, and what they say."""

    def __init__(self, case, job, *options, ranks=RANKS):
        self.case, self.out = case, case.path("out.h5")
        self.log_path = case.path(f"log-{time.monotonic()}")
        self.began = time.monotonic()
        with open(self.log_path, "w") as log:
            launcher = mpirun(ranks) + (["--with-ft", "ulfm"] if ULFM else [])
            self.process = subprocess.Popen([*launcher, KSWEEP, "run", job, "-t", "1", *options], env=ENV, stdout=log, stderr=log)
        case.addCleanup(kill_all, self.process)

    def log(self):
        with open(self.log_path) as f:
            return f.read()

    def pid(self, rank):
        for pid in family(self.process.pid):
            try:
                with open(f"/proc/{pid}/environ") as f:
                    if f"OMPI_COMM_WORLD_RANK={rank}" in f.read().split("\0") and os.readlink(f"/proc/{pid}/exe") == KSWEEP:
                        return pid
            except OSError:
                pass
        raise AssertionError(f"rank {rank} is not there\n{self.log()}")

    def signal(self, rank, number):
        os.kill(self.pid(rank), number)

    def wait(self, holds, what, seconds=120):
        end = time.monotonic() + seconds
        while not holds():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"{what} did not come; status {self.process.poll()}\n{self.log()}")
            time.sleep(0.02)

    def wait_for_shards(self, count=RANKS):
        """Every rank has a finished sample: each has a shard of its own."""
        before = self.case.shards_before
        self.wait(lambda: len(self.case.shards()) >= before + count, f"{count} shards")

    def end(self, seconds=120):
        """The exit status, which must come in time; nothing of the run may be left."""
        pids = family(self.process.pid)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"no end within {seconds} s\n{self.log()}") from None
        end = time.monotonic() + 10
        while any(self.is_ksweep(pid) for pid in pids):
            if time.monotonic() > end:
                raise AssertionError(f"a rank outlives its run\n{self.log()}")
            time.sleep(0.05)
        return status

    @staticmethod
    def is_ksweep(pid):
        try:
            return os.readlink(f"/proc/{pid}/exe") == KSWEEP
        except OSError:
            return False


class LossCase(Case):
    shards_before = 0
    reference = None
    options, ranks, samples = (), RANKS, SAMPLES  # of every run, the undisturbed one too

    def setUp(self):
        super().setUp()
        self.sweep = self.job(**dict(JOB, seed={"start": 1, "count": self.samples}))
        if not type(self).reference:
            self.run_ok("run", self.sweep, "-o", self.path("alone.h5"), "--set", "output.collect=merge", *self.options,
                        launcher=self.launcher())
            type(self).reference = self.latents(self.path("alone.h5")).tobytes()

    def launcher(self):
        """Of an undisturbed run, of as few ranks as can be."""
        return ()

    def start(self, *options, ranks=None):
        self.shards_before = len(self.shards())
        return Run(self, self.sweep, *self.options, *options, ranks=ranks or self.ranks)

    def shards(self):
        return glob.glob(self.path("out.h5.d/shard-*.h5"))

    def rows(self):
        """Indices of the rows of all shards."""
        indices = []
        for path in self.shards():
            with h5py.File(path, "r", swmr=True) as f:
                indices += f["samples"]["index"].tolist()
        return indices

    def assert_rendered(self, run, samples):
        """It says so in a line of its own, which Open MPI 5's mpirun may begin with a NUL."""
        self.assertRegex(run.log(), rf"\n\0?{samples} samples rendered")

    def check(self, log):
        """The whole sweep is there with the bits of an undisturbed run."""
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual(f["latents"][...][f["row_of_index"][...]].tobytes(), self.reference, log)
            self.assertEqual(f["samples"]["status"].tolist(), [1] * self.samples)
        self.run_ok("verify", self.path("out.h5"))

    def go_on(self):
        """The same command again ends what a lost run has begun: how many samples that were."""
        said = self.run_ok("run", self.sweep, *self.options, launcher=self.launcher()).stdout
        self.check(said)
        if said.startswith(f"all {self.samples} samples were there already"):  # other ranks rendered on until mpirun ended them
            return 0
        return int(re.match(r"(\d+) samples rendered", said).group(1))


class Hung(LossCase):
    """A rank is stopped by SIGSTOP, as a hang that nobody reports."""

    def test_its_lease_goes_to_others_and_the_run_ends_without_it(self):
        run = self.start("--deadline", "2")
        run.wait_for_shards()
        run.signal(2, signal.SIGSTOP)
        status = run.end()
        self.assertEqual(status, 75 if ULFM else 0, run.log())
        self.assertIn("rank 2 is past the deadline of", run.log())
        self.assertIn("rank 2 has said nothing for", run.log())
        self.assert_rendered(run, SAMPLES)
        self.check(run.log())

    def test_one_that_goes_on_later_does_no_harm(self):
        run = self.start("--deadline", "1")
        run.wait_for_shards()
        run.signal(1, signal.SIGSTOP)
        run.wait(lambda: "rank 1 is past the deadline" in run.log(), "the deadline")
        run.signal(1, signal.SIGCONT)
        self.assertEqual(run.end(), 0, run.log())
        self.assertNotIn("has said nothing", run.log())
        self.check(run.log())

    def test_one_with_nothing_to_do_does_not_keep_the_run_at_its_end(self):
        run = self.start("--deadline", "2", "--filter", "index=0", "--set", "steps=300", "--progress", "1")
        run.wait(lambda: "0/1 samples" in run.log(), "the rendering")
        run.signal(2, signal.SIGSTOP)
        self.assertEqual(run.end(), 75 if ULFM else 0, run.log())
        self.assertIn("rank 2 has said nothing for", run.log())
        self.assert_rendered(run, 1)

    def test_when_rank_0_hangs_the_run_ends(self):
        run = self.start("--deadline", "2")
        run.wait_for_shards()
        run.signal(0, signal.SIGSTOP)
        self.assertEqual(run.end(), 75, run.log())
        self.assertIn("rank 0, which leads the run, has not answered", run.log())
        done = len(set(self.rows()))
        self.assertEqual(self.go_on(), SAMPLES - done)

    def test_a_stop_does_not_wait_for_it(self):
        run = self.start("--deadline", "3")
        run.wait_for_shards()
        run.signal(2, signal.SIGSTOP)
        run.signal(1, signal.SIGUSR1)
        began = time.monotonic()
        self.assertEqual(run.end(), 75, run.log())
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("stopped: the same command goes on", run.log())
        rows = self.rows()
        self.assertEqual(self.go_on(), SAMPLES - len(set(rows)))


class Killed(LossCase):
    """kill -9 of ranks."""

    @unittest.skipIf(ULFM, "the run survives it")
    def test_a_killed_worker_ends_the_run_and_loses_nothing(self):
        run = self.start()
        run.wait_for_shards()
        run.signal(2, signal.SIGKILL)
        self.assertNotEqual(run.end(60), 0, run.log())
        done = len(set(self.rows()))
        self.assertGreater(done, 0)
        self.assertEqual(self.go_on(), SAMPLES - done)

    @unittest.skipUnless(ULFM, "only ULFM survives it")
    def test_the_others_go_on_without_a_restart(self):
        run = self.start()
        run.wait_for_shards()
        run.signal(1, signal.SIGKILL)
        run.wait(lambda: "rank 1 has died" in run.log(), "the news of the death")
        run.signal(2, signal.SIGKILL)
        self.assertEqual(run.end(), 0, run.log())
        self.assertIn("rank 2 has died", run.log())
        self.assert_rendered(run, SAMPLES)
        self.check(run.log())

    def test_without_rank_0_there_is_no_run(self):
        run = self.start()
        run.wait_for_shards()
        run.signal(0, signal.SIGKILL)
        status = run.end(60)
        if ULFM:
            self.assertEqual(status, 75, run.log())
            self.assertIn("rank 0, which leads the run, has died", run.log())
        else:
            self.assertNotEqual(status, 0, run.log())
        done = len(set(self.rows()))
        self.assertEqual(self.go_on(), SAMPLES - done)

    def test_a_death_before_the_rendering_ends_in_time(self):
        """Behind MPI_Init: a death inside of it can leave Open MPI 4's own mpirun hanging, when all ranks are gone."""
        run = self.start("--deadline", "1")
        run.wait(lambda: "bytes read by" in run.log(), "the model")
        run.signal(2, signal.SIGKILL)
        self.assertNotEqual(run.end(60), 2, run.log())
        self.go_on()


if __name__ == "__main__":
    unittest.main()
