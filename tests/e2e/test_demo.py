"""The demo model draws what it is asked for, judged by colour and shape; and the judge itself judges rightly."""
import os
import subprocess
import sys
import unittest

from support import ROOT, Case, mpirun

JUDGE = os.path.join(ROOT, "tests/e2e/judge.py")


class Pictures(Case):
    def judge(self, *args):
        done = subprocess.run([sys.executable, JUDGE, *args], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(done.stdout, end="")

    def test_the_judge_is_right_on_drawn_originals(self):
        self.judge("--self-test")

    def test_forty_prompts_give_their_colours_and_shapes(self):
        job = os.path.join(ROOT, "tests/e2e/jobs/accuracy.json")
        self.run_ok("run", job, "-o", self.path("out.h5"), launcher=mpirun(2))
        self.judge(self.path("out.h5"), "--at-least", "0.95")


if __name__ == "__main__":
    unittest.main()
