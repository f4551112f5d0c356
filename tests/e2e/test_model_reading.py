"""How often the model's file is read: once on a node, however many ranks there are."""
import os
import re
import subprocess
import unittest

from support import DEMO, KSWEEP, MPI, Case, ksweep, mpirun

RANKS = 4
SIZE = os.path.getsize(DEMO)
OPENS = os.environ["KSWEEP_COUNT_OPENS"]  # a library that notes who opens a file


class ModelReading(Case):
    def run_counted(self, job, *options, wrapper=""):
        """Runs ranks that leave behind what the kernel counted of each: bytes that it has read, with its children."""
        script = f'{wrapper} "$@"; code=$?; head -n 1 /proc/$$/io > "{self.folder}/io-$$"; exit $code'
        done = subprocess.run([*mpirun(RANKS), "sh", "-c", script, "sh", KSWEEP, "run", job, "--threads", "1", *options],
                              text=True, capture_output=True, timeout=300,
                              env=dict(MPI, KS_OPENS_OF=os.path.basename(DEMO), KS_OPENS_LOG=self.path("opens")))
        self.assertEqual(done.returncode, 0, done.stderr)
        counts = [int(open(self.path(name)).read().split()[1]) for name in os.listdir(self.folder) if name.startswith("io-")]
        told = re.search(r"(\d+) bytes read by (\d+) of (\d+) ranks", done.stderr)
        return sorted(counts), [int(n) for n in told.groups()]

    def test_one_rank_of_a_node_reads_the_model(self):
        counts, told = self.run_counted(self.job())
        self.assertEqual(told, [SIZE, 1, RANKS])
        self.assertEqual(len(counts), RANKS)
        self.assertGreater(counts[-1], SIZE)
        self.assertLess(sum(counts[:-1]), SIZE // 4)

    def test_no_other_rank_opens_it_and_the_bits_are_the_same(self):
        self.run_counted(self.job(), "-o", self.path("ranks.h5"), wrapper=f"LD_PRELOAD={OPENS}")
        self.assertEqual(len(open(self.path("opens")).read().split()), 1)
        done = ksweep("run", self.job(), "-o", self.path("alone.h5"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("bytes read by", done.stderr)
        self.assertTrue((self.latents(self.path("ranks.h5")) == self.latents(self.path("alone.h5"))).all())

    def test_a_rank_that_cannot_reach_the_memory_maps_the_file(self):
        """In a process namespace of its own, the number of the rank that has read it means nothing. (The variable is Open
        MPI's; all ranks in such namespaces would be more than its shared memory bears.)"""
        apart = "unshare --pid --fork --mount-proc"
        if subprocess.run([*apart.split(), "true"], capture_output=True).returncode:
            self.skipTest("unshare is not allowed here")
        wrapper = f'$(test "$OMPI_COMM_WORLD_RANK" = 1 && echo {apart})'
        _, told = self.run_counted(self.job(), "-o", self.path("apart.h5"), wrapper=wrapper)
        self.assertEqual(told, [2 * SIZE, 2, RANKS])

    def test_what_is_wrong_with_the_model_is_said_once(self):
        with open(self.path("cut.safetensors"), "wb") as f, open(DEMO, "rb") as whole:
            f.write(whole.read(1000))
        for name, what in [("cut", "cut off"), ("none", "cannot open: No such file or directory")]:
            model = self.path(name + ".safetensors")
            done = ksweep("run", self.job(model=model), launcher=mpirun(RANKS))
            self.assertEqual(done.returncode, 2)
            self.assertEqual(done.stderr.count("ksweep: "), 1, done.stderr)
            self.assertIn(what, done.stderr)


if __name__ == "__main__":
    unittest.main()
