"""What commands say to people and scripts: what they refuse to overwrite, lost output, failed and missing samples, files that are
none of theirs, the log of failures."""
import os
import shutil
import subprocess
import sys
import unittest

import h5py
from PIL import Image

from support import DEMO, KSWEEP, MPI, ROOT, Case, ksweep, mpirun

CHECK = os.path.join(ROOT, "tests/e2e/check_output.py")
FAILING = {"scheduler": "kl_optimal", "steps": 1}  # a schedule of 0 / 0


def content(path):
    with open(path, "rb") as f:
        return f.read()


class Overwriting(Case):
    def setUp(self):
        super().setUp()
        self.run_ok("run", self.tiny_job(seed=[1, 2], cfg=[1.0, 2.0]), "-q", "--set", "output.collect=virtual")
        self.out = self.path("out.h5")

    def sheet(self, to):
        return ksweep("sheet", self.out, "-x", "cfg", "-y", "seed", "-o", to)

    def refused(self, to, *words):
        before = {name: content(os.path.join(folder, name)) for folder, _, names in os.walk(self.folder) for name in names}
        line = self.assert_one_line(self.sheet(to), *words)
        after = {name: content(os.path.join(folder, name)) for folder, _, names in os.walk(self.folder) for name in names}
        self.assertEqual(before, after, line)

    def test_a_sheet_never_replaces_the_output_under_any_of_its_names(self):
        os.symlink("out.h5", self.path("soft.h5"))
        os.link(self.out, self.path("hard.h5"))
        for name in "out.h5", "soft.h5", "hard.h5", "out.h5.d/../out.h5":
            self.refused(self.path(name), name, "the output itself")

    def test_a_sheet_is_not_drawn_where_an_output_will_be_collected(self):
        os.remove(self.out)
        self.refused(self.out, "out.h5", "the output itself")

    def test_a_sheet_stays_out_of_the_folder_of_shards(self):
        os.makedirs(self.path("out.h5.d/below"))
        os.symlink("out.h5.d/below", self.path("elsewhere"))
        shutil.copy(self.png(), self.path("out.h5.d/there.png"))
        for name in "out.h5.d/new.png", "out.h5.d/there.png", "out.h5.d/below/new.png", "elsewhere/new.png", "out.h5.d/shard-0000.h5":
            self.refused(self.path(name), name, "out.h5.d")

    def png(self):
        self.assertEqual(self.sheet(self.path("grid.png")).returncode, 0)
        return self.path("grid.png")

    def test_a_sheet_replaces_a_picture_and_nothing_else(self):
        shutil.copy(self.path("job.json"), self.path("out.png"))
        open(self.path("empty.png"), "w").close()
        os.mkdir(self.path("folder.png"))
        for name in "job.json", "contexts.safetensors", "empty.png", "folder.png":
            self.refused(self.path(name), name, "no PNG file", "-o")
        self.assert_one_line(ksweep("sheet", self.out), "out.png", "no PNG file")
        self.assertEqual(content(self.path("out.png")), content(self.path("job.json")))
        Image.new("RGB", (3, 2)).save(self.path("old.png"))
        self.assertEqual(self.sheet(self.path("old.png")).returncode, 0)
        self.assertEqual(content(self.path("old.png")), content(self.png()))

    def test_a_run_and_a_script_replace_nothing_of_others(self):
        job = self.path("job.json")
        for name in "job.json", "contexts.safetensors":
            before = content(self.path(name))
            self.assert_one_line(ksweep("run", job, "-o", self.path(name)), name, "is no HDF5 file", "name another output, or move it")
            self.assert_one_line(ksweep("submit", job, "--script", self.path(name)), name, "was not made by ksweep submit")
            self.assertEqual(content(self.path(name)), before)
        os.mkfifo(self.path("pipe"))  # looking into it would wait for a writer
        self.assert_one_line(ksweep("submit", job, "--script", self.path("pipe"), timeout=20), "pipe", "was not made by ksweep submit")


class LostOutput(Case):
    """Standard output on a full device."""
    LINE = "ksweep: standard output: No space left on device\n"

    def to_full(self, *args):
        with open("/dev/full", "w") as full:
            return subprocess.run([KSWEEP, *map(str, args)], env=MPI, text=True, stdout=full, stderr=subprocess.PIPE, timeout=60)

    def test_every_command_tells_that_its_output_is_lost(self):
        job, out = self.tiny_job(seed=[1, 2]), self.path("out.h5")
        self.run_ok("run", job, "-q")
        texts = [f"word {i} " + 60 * "x" for i in range(200)]  # more than stdio holds back
        long = self.job("long.json", positive=texts)
        for args in (["show", out, 1], ["plan", job], ["plan", long], ["submit", job, "--dry-run"], ["submit", long, "--dry-run"],
                     ["status", out], ["verify", out], ["sheet", out], ["model", DEMO], ["run", job, "-q"], ["--help"],
                     ["run", "--help"], ["--version"]):
            done = self.to_full(*args)
            self.assertEqual((done.returncode, done.stderr), (2, self.LINE), args)

    def test_a_script_whose_submission_could_not_be_told_is_not_submitted(self):
        with open(self.path("sbatch"), "w") as f:
            f.write("#!/bin/sh\ntouch \"$0.called\"\n")
        os.chmod(self.path("sbatch"), 0o755)
        with open("/dev/full", "w") as full:
            done = subprocess.run([KSWEEP, "submit", self.tiny_job()], stdout=full, stderr=subprocess.PIPE, text=True,
                                  env={**MPI, "PATH": self.folder + ":" + os.environ["PATH"]})
        self.assertEqual((done.returncode, done.stderr), (2, self.LINE))
        self.assertFalse(os.path.exists(self.path("sbatch.called")))

    def test_ranks_that_print_nothing_lose_nothing(self):
        script = 'if [ "$OMPI_COMM_WORLD_RANK" = 0 ]; then exec "$@"; else exec "$@" >/dev/full; fi'
        launcher = [*mpirun(2), "sh", "-c", script, "sh"]
        self.run_ok("run", self.tiny_job(seed=[1, 2, 3]), "-q", launcher=launcher)

    def test_a_stopped_run_still_says_that_it_goes_on(self):
        job = self.tiny_job(seed={"count": 10**6})
        with open("/dev/full", "w") as full:
            process = subprocess.Popen([KSWEEP, "run", job, "-q"], stdout=full, stderr=subprocess.PIPE, text=True)
        self.wait_for_samples(process, self.path("out.h5"), 1)
        process.terminate()
        _, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, errors)
        self.assertIn(self.LINE, errors)


class Counts(Case):
    def test_status_and_verify_tell_failed_samples(self):
        self.assertEqual(ksweep("run", self.tiny_job(seed={"count": 30}, **FAILING), "-q").returncode, 1)
        status, verify = (ksweep(command, self.path("out.h5")) for command in ("status", "verify"))
        self.assertIn("0 of 30 samples done (0.0 %), 30 failed, 0 missing", status.stdout)
        self.assertEqual(status.returncode, 1)
        self.assertEqual(verify.stdout, "0 rows checked, 0 bad\n30 samples: 0 done, 30 failed, 0 missing\n")
        self.assertEqual(verify.returncode, 0)

    def test_status_and_verify_tell_missing_samples(self):
        job = self.tiny_job(seed={"count": 160}, scheduler=["karras"])
        self.run_ok("run", job, "-q", "--filter", "index=0..19")
        self.run_ok("run", job, "-q", "--shard", "0/4", "-o", self.path("shards.h5"))
        for out, done in (self.path("out.h5"), 20), (self.path("shards.h5"), 40):
            status, verify = (ksweep(command, out) for command in ("status", "verify"))
            self.assertIn(f"{done} of 160 samples done", status.stdout)
            self.assertEqual(status.returncode, 75)
            self.assertEqual(verify.stdout, f"{done} rows checked, 0 bad\n160 samples: {done} done, 0 failed, {160 - done} missing\n")
            self.assertEqual(verify.returncode, 0)

    def test_verify_counts_a_damaged_sample_as_status_does(self):
        self.run_ok("run", self.tiny_job(seed=[1, 2, 3, 4]), "-q")
        with h5py.File(self.path("out.h5"), "r+") as f:
            f["latents"][2, 0, 0, 0] += 1
        self.assertIn("3 of 4 samples done (75.0 %), 0 failed, 1 missing", ksweep("status", self.path("out.h5")).stdout)
        verify = ksweep("verify", self.path("out.h5"))
        self.assertEqual(verify.stdout, "4 rows checked, 1 bad\n4 samples: 3 done, 0 failed, 1 missing\n")
        self.assertEqual(verify.returncode, 1)


class CheckOutput(Case):
    def test_the_checker_knows_every_way_to_write_seeds(self):
        large = 2**64 - 9
        for seed in ({"count": 3}, {"count": 3, "start": 5}, {"from": large, "to": large + 6, "step": 3},
                     {"from": 9, "to": 5, "step": -2}, [str(large), 7], str(large), 4):
            out = self.path("out.h5")
            self.run_ok("run", self.tiny_job(seed=seed), "-q")
            done = subprocess.run([sys.executable, CHECK, out], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""), seed)
            self.seeds_one_more(out)
            done = subprocess.run([sys.executable, CHECK, out], capture_output=True, text=True)
            self.assertIn("seed is", done.stdout, seed)
            os.remove(out)

    @staticmethod
    def seeds_one_more(out):
        with h5py.File(out, "r+") as f:
            rows = f["samples"][...]
            rows["seed"] += 1
            f["samples"][...] = rows


class Readers(Case):
    """Outputs that cannot be read: what is wrong is told, not what a run would do about it."""

    def refused(self, out, *words, user=None):
        for args in (["status", out], ["show", out, 0], ["verify", out], ["sheet", out, "-o", self.path("x.png")]):
            done = subprocess.run([KSWEEP, *map(str, args)], text=True, capture_output=True, user=user)
            line = self.assert_one_line(done, os.path.basename(out), *words)
            self.assertNotIn("another output", line)

    def test_a_file_that_may_not_be_read(self):
        self.run_ok("run", self.tiny_job(), "-q")
        user = None
        if os.geteuid() == 0:
            user = 65534
            os.chmod(self.folder, 0o755)
            if subprocess.run(["test", "-x", KSWEEP], user=user).returncode:
                self.skipTest("an ordinary user cannot start the program here")
        os.chmod(self.path("out.h5"), 0)
        self.refused(self.path("out.h5"), "cannot open: Permission denied", user=user)
        if user:
            os.chmod(self.folder, 0o700)
            self.refused(self.path("out.h5"), "cannot open: Permission denied", user=user)

    def test_a_file_that_is_no_hdf5(self):
        self.refused(self.tiny_job(), "job.json: is no HDF5 file")
        self.refused(self.folder, "is a folder")
        self.refused(self.path("job.json/out.h5"), "cannot open: Not a directory")

    def test_a_file_of_somebody_else(self):
        with h5py.File(self.path("other.h5"), "w") as f:
            f["data"] = [1, 2, 3]
        self.refused(self.path("other.h5"), "is an HDF5 file and no output of ksweep")

    def test_a_truncated_file(self):
        self.run_ok("run", self.tiny_job(seed=[1, 2, 3]), "-q")
        size = os.path.getsize(self.path("out.h5"))
        for i in range(1, 8):
            shutil.copy(self.path("out.h5"), self.path("cut.h5"))
            os.truncate(self.path("cut.h5"), size * i // 8)
            self.refused(self.path("cut.h5"), "is truncated or damaged")
        self.assert_one_line(ksweep("run", self.path("job.json"), "-o", self.path("cut.h5")), "is truncated or damaged",
                             "name another output, or move it")

    def test_what_shards_hold_survives_a_truncated_virtual_file(self):
        job, out = self.tiny_job(seed=[1, 2, 3]), self.path("out.h5")
        self.run_ok("run", job, "-q", "--set", "output.collect=virtual")
        before = self.latents(out).tobytes()
        os.truncate(out, os.path.getsize(out) // 2)
        self.refused(out, "is truncated or damaged", "out.h5.d: move this file away and run the job again")
        self.assert_one_line(ksweep("run", job, "-q"), "move this file away and run the job again")
        os.rename(out, self.path("away.h5"))
        self.assertIn("3 of 3 samples done", self.run_ok("status", out).stdout)
        again = self.run_ok("run", job, "-q", "--set", "output.collect=virtual")
        self.assertNotIn("rendered", again.stdout)
        self.assertEqual(self.latents(out).tobytes(), before)


class Failures(Case):
    def failed_lines(self, done):
        return [line for line in done.stderr.splitlines() if "failed" in line]

    def test_a_reason_is_told_for_ten_samples_and_counted_for_the_others(self):
        job = self.tiny_job(seed={"count": 100}, **FAILING)
        for _ in range(2):
            done = ksweep("run", job, "-q")
            self.assertEqual(done.returncode, 1, done.stderr)
            lines = self.failed_lines(done)
            self.assertEqual(len(lines), 11, done.stderr)
            self.assertEqual(len({line.split("failed: ")[1] for line in lines}), 1, done.stderr)
            self.assertIn("90 more samples failed: ", lines[-1])
            self.assertIn("100 samples failed", done.stdout)

    def test_samples_of_a_batch_count_one_by_one(self):
        job = self.tiny_job(seed={"count": 12}, latent_image={"width": 64, "height": 64, "batch_size": 3}, **FAILING)
        lines = self.failed_lines(ksweep("run", job, "-q"))
        self.assertIn("sample 3 failed: ", lines[1])
        self.assertIn("6 more samples failed: ", lines[-1])

    def test_ten_failures_are_told_one_by_one(self):
        lines = self.failed_lines(ksweep("run", self.tiny_job(seed={"count": 10}, **FAILING), "-q"))
        self.assertEqual(len(lines), 10, lines)
        self.assertNotIn("more samples", "".join(lines))


if __name__ == "__main__":
    unittest.main()
