"""A device that fails in the middle of a run: a clear line, nothing that was done is lost, others take over."""
import os
import signal
import subprocess
import sys
import time
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from support import MPI, Case, kill_all, ksweep, mpirun, ranks_of  # noqa: E402

FAULT_RUN = os.environ["FAULT_RUN"]


class Faults(Case):
    def setUp(self):
        super().setUp()
        self.sweep = {"seed": {"start": 1, "count": 10}, "control_after_generate": "increment", "cfg": 1.0,
                      "parallel": {"batch_rows": 2}}
        self.run_ok("run", self.job("sound.json", **self.sweep), "-o", self.path("sound.h5"))

    def fault_run(self, rank, what, number, launcher=()):
        return subprocess.run([*launcher, FAULT_RUN, self.job(**self.sweep), str(rank), what, str(number)], env=MPI, text=True,
                              capture_output=True, timeout=120)

    def goes_on(self):
        """The same command finishes the output, which is that of an undisturbed run."""
        self.run_ok("run", self.path("job.json"))
        self.same_output()

    def same_output(self):
        self.assertTrue(np.array_equal(self.latents(self.path("out.h5")), self.latents(self.path("sound.h5"))))
        self.run_ok("verify", self.path("out.h5"))

    def count_of_convolutions(self):
        """Those of the whole run, so that faults can be put into its middle: the first number at which none happens."""
        low, high = 1, 1 << 16
        while low < high:
            middle = (low + high) // 2
            done = self.fault_run(0, "OPERATION", middle)
            ended = done.returncode == 0
            low, high = (low, middle) if ended else (middle + 1, high)
            for name in "out.h5", "out.h5.d":
                subprocess.run(["rm", "-rf", self.path(name)], check=True)
        return low - 1

    def test_a_fault_in_a_launch(self):
        count = self.count_of_convolutions()
        self.assertGreater(count, 100)
        with self.subTest("in the middle: what was done stays, and the same command goes on"):
            done = self.fault_run(0, "OPERATION", count * 2 // 3)
            self.assertEqual(done.returncode, 75, done.stderr)
            self.assertIn("an injected fault in a launch", done.stderr)
            status = ksweep("status", self.path("out.h5")).stdout
            self.assertGreaterEqual(int(status.split(": ")[1].split()[0]), 4, status)
            self.goes_on()

    def test_a_device_that_never_gets_anything_done_is_an_error(self):
        done = self.fault_run(0, "OPERATION", 1)
        self.assert_one_line(done, "an injected fault in a launch")
        self.goes_on()

    def test_memory_refused_while_a_run_goes_on(self):
        codes = set()
        for number in range(1, 400):
            done = self.fault_run(0, "ALLOCATION", number)
            codes.add(done.returncode)
            if done.returncode == 0:
                break
            self.assertIn(done.returncode, (2, 75), done.stderr)
            self.assertIn("an injected lack of memory", done.stderr)
        self.assertIn(0, codes)
        self.same_output()

    def test_another_rank_takes_over(self):
        for rank in 0, 1:
            with self.subTest(rank=rank):
                done = self.fault_run(rank, "OPERATION", 60, mpirun(2))
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("an injected fault in a launch", done.stderr)
                self.same_output()
                os.remove(self.path("out.h5"))

    def test_all_ranks_fail(self):
        done = self.fault_run(-1, "OPERATION", 1, mpirun(2))
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("(1 more rank failed)", done.stderr)
        self.assertEqual(done.stderr.count("ksweep: "), 1, done.stderr)
        self.goes_on()

    def test_rank_0_has_no_device_any_more_and_the_other_rank_hangs(self):
        self.sweep["seed"]["count"] = 200
        log_path = self.path("log")

        def log():
            with open(log_path) as f:
                return f.read()

        with open(log_path, "w") as f:
            process = subprocess.Popen([*mpirun(2), FAULT_RUN, self.job(**self.sweep), "0", "OPERATION", "200", "2"], env=MPI, stderr=f)
        self.addCleanup(kill_all, process)
        end = time.monotonic() + 60
        while "renders no more" not in log():
            self.assertIsNone(process.poll(), log())
            self.assertLess(time.monotonic(), end, log())
            time.sleep(0.01)
        os.kill({rank: pid for pid, rank in ranks_of(self.path("job.json"), FAULT_RUN).items()}[1], signal.SIGSTOP)
        self.assertEqual(process.wait(60), 75, log())
        self.assertIn("rank 1 is past the deadline", log())
        self.assertIn("rank 1 has said nothing for", log())
        self.run_ok("run", self.path("job.json"))
        self.run_ok("verify", self.path("out.h5"))


if __name__ == "__main__":
    unittest.main()
