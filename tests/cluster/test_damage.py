"""Files that are damaged, file systems that fail, numbers that are not finite, jobs that have grown or changed: what is lost, what
is told, and what the next run does. `ksweep status` and `ksweep verify` are held against the files all along."""
import errno
import glob
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from faults import FaultCase, environment  # noqa: E402
from shards import digest, files_of, good_rows, shard_paths  # noqa: E402
from support import KSWEEP, Case, kill_all, ksweep, mpirun, start, write_safetensors  # noqa: E402


class Files(FaultCase):
    def counts(self, out):
        """(done, failed, missing, exit code) as `ksweep status` tells them."""
        told = ksweep("status", out)
        words = told.stdout.replace(",", "").split(": ", 1)[1].split()
        return int(words[0]), int(words[7]), int(words[9]), told.returncode

    def rendered(self, done):
        return int(done.stdout.split(" samples rendered")[0]) if " samples rendered" in done.stdout else 0

    def table(self, out):
        with h5py.File(out) as f:
            return f["samples"][...]

    def stopped_run(self, job, out, at_least):
        """The files of a run that was stopped when so many samples were in them."""
        process = start("run", job, "-q", "-t", 1, "-o", out)
        self.wait_for_samples(process, out, at_least)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75)

    def flip(self, path, place):
        with open(path, "r+b") as f:
            f.seek(place)
            byte = f.read(1)
            f.seek(place)
            f.write(bytes([byte[0] ^ 0x10]))


class Damage(Files):
    """Shards that were cut or changed behind ksweep's back."""

    def setUp(self):
        super().setUp()
        self.job_path = self.tiny_job(seed={"count": 40}, parallel={"batch_rows": 8})
        self.run_ok("run", self.job_path, "-q", "-o", self.path("whole.h5"))
        self.whole = self.latents(self.path("whole.h5"))
        self.run_ok("run", self.job_path, "-q", "-t", 1, "--shard", "0/2", "-o", self.path("part.h5"))
        (self.shard,) = shard_paths(self.path("part.h5"))

    def go_on(self, name, damage):
        """A copy of the half-done output, damaged; what status counts is what the next run does not render again."""
        out = self.path(name + ".h5")
        shutil.copytree(self.path("part.h5.d"), out + ".d")
        damage(shard_paths(out)[0])
        told = ksweep("status", out)
        done = int(told.stdout.split(": ")[1].split()[0]) if told.returncode == 75 else 0
        self.assertIn(told.returncode, (2, 75), told.stdout)
        again = self.run_ok("run", self.job_path, "-q", "-t", 1, "-o", out)
        self.assertEqual(self.rendered(again), 40 - done, f"{name}: {told.stdout}{told.stderr}{again.stdout}")
        self.assertEqual(self.latents(out).tobytes(), self.whole.tobytes(), name)
        self.assertEqual(ksweep("status", out).returncode, 0)
        return done

    def test_a_shard_cut_at_many_places(self):
        size = os.path.getsize(self.shard)
        done = [self.go_on(f"cut{i}", lambda path, i=i: os.truncate(path, size * i // 12)) for i in range(12)]
        self.assertEqual(self.go_on("uncut", lambda path: None), 20)
        self.assertEqual(done[0], 0)

    def test_a_shard_with_flipped_bytes_all_over_it(self):
        size = os.path.getsize(self.shard)
        done = [self.go_on(f"flip{i}", lambda path, i=i: self.flip(path, size * (2 * i + 1) // 32)) for i in range(16)]
        self.assertLess(min(done), 20)

    def test_a_flipped_byte_in_each_of_three_latents(self):
        with h5py.File(self.shard, "r", swmr=True) as f:
            chunks = [f["latents"].id.get_chunk_info(i).byte_offset for i in range(f["latents"].id.get_num_chunks())]
        size = self.whole[0].nbytes

        def damage(path):
            for k in 1, 5, 9:
                self.flip(path, chunks[0] + k * size + 77)
        self.assertEqual(self.go_on("latents", damage), 17)

    def test_a_shard_that_is_gone(self):
        self.assertEqual(self.go_on("gone", os.remove), 0)


class Disks(Files):
    """Operations on the output's files fail from some moment on: a full disk, one that became read-only, one that is broken."""

    def begin(self, job, out, error, *launch, **keys):
        return subprocess.Popen([*launch, KSWEEP, "run", job, "-q", "-t", "1", "-o", out], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=environment(KSWEEP_FAULT_PATH=out, KSWEEP_FAULT_ERRNO=error, **keys))

    def assert_failed(self, process, error, *words):
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, output + errors)
        lines = [line for line in errors.splitlines() if line.startswith("ksweep: ")]
        self.assertEqual(len(lines), 1, errors)
        for word in (os.strerror(error), *words):
            self.assertIn(word, lines[0])

    def test_while_rendering(self):
        job = self.tiny_job(seed={"count": 60}, steps=40)
        self.run_ok("run", job, "-q", "-o", self.path("whole.h5"))
        whole = self.latents(self.path("whole.h5"))
        for error, launch in (errno.EROFS, ()), (errno.ENOSPC, mpirun(2)):
            out, broken = self.path(f"{error}.h5"), self.path(f"{error}.broken")
            process = self.begin(job, out, error, *launch, KSWEEP_FAULT_WHEN=broken)
            self.wait_for_samples(process, out, 1)
            open(broken, "w").close()
            self.assert_failed(process, error, out + ".d")  # the shard, or of a rank that had none yet the folder
            done = {index for rows in files_of(out).values() for index in rows}
            self.assertEqual(self.counts(out), (len(done), 0, 60 - len(done), 75))
            again = self.run_ok("run", job, "-q", "-o", out)
            self.assertEqual(self.rendered(again), 60 - len(done))
            self.assertEqual(self.latents(out).tobytes(), whole.tobytes())

    def test_while_collecting(self):
        job = self.tiny_job(seed={"count": 8})
        self.run_ok("run", job, "-q", "-o", self.path("whole.h5"))
        for error in errno.EROFS, errno.ENOSPC, errno.EIO:
            out = self.path(f"{error}.h5")
            process = self.begin(job, out, error, KSWEEP_FAULT_WHEN=out + ".part")
            self.assert_failed(process, error, out)
            self.assertFalse(os.path.exists(out))
            self.assertEqual(self.counts(out), (8, 0, 0, 0))
            again = self.run_ok("run", job, "-q", "-o", out)
            self.assertEqual(self.rendered(again), 0)
            self.assertEqual(self.latents(out).tobytes(), self.latents(self.path("whole.h5")).tobytes())
            self.assertFalse(os.path.exists(out + ".d"))

    def test_from_the_start(self):
        out = self.path("out.h5")
        process = self.begin(self.tiny_job(), out, errno.EROFS, KSWEEP_FAULT_WHEN="/")
        self.assert_failed(process, errno.EROFS, out)
        self.assertEqual(glob.glob(out + "*"), [])


class NotFinite(Files):
    def test_what_overflows_fails_its_sample_alone(self):
        self.fails_alone(3e38)

    def test_a_nan_fails_its_sample_alone(self):
        self.fails_alone(np.nan)

    def fails_alone(self, value):
        huge = np.full((1, 8, 32), value, np.float32)
        job = self.tiny_job(positive=[self.context("a"), {"file": "huge.safetensors", "cond": "x"}, self.context("c")],
                            seed={"count": 4}, cfg=[1.0, 2.0], parallel={"batch_rows": 5})
        write_safetensors(self.path("huge.safetensors"), {"x": huge})
        good = self.tiny_job("good.json", positive=[self.context("a"), self.context("c")], seed={"count": 4}, cfg=[1.0, 2.0],
                             parallel={"batch_rows": 5})
        self.run_ok("run", good, "-q", "-o", self.path("good.h5"))
        out = self.path("out.h5")
        for start_number in range(2):  # a failed sample is tried again by every run
            done = ksweep("run", job, "-q")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("8 samples failed", done.stdout)
            self.assertEqual(self.rendered(done), 16 if start_number == 0 else 0)
            self.assertEqual(sum("not finite" in line for line in done.stderr.splitlines()), 8, done.stderr)
            rows = self.table(out)
            self.assertEqual(rows["status"].tolist(), [1] * 8 + [2] * 8 + [1] * 8)
            self.assertEqual(self.counts(out), (16, 8, 0, 1))
            latents = self.latents(out)
            self.assertEqual(latents[rows["status"] == 1].tobytes(), self.latents(self.path("good.h5")).tobytes())
            self.assertFalse(latents[rows["status"] == 2].any())
            self.assertIn("16 rows checked, 0 bad", self.run_ok("verify", out).stdout)

    def test_failed_samples_of_a_killed_run_are_tried_again(self):
        write_safetensors(self.path("huge.safetensors"), {"x": np.full((1, 8, 32), 3e38, np.float32)})
        job = self.tiny_job(positive=[{"file": "huge.safetensors", "cond": "x"}, self.context("a")], seed={"count": 2})
        done = ksweep("run", job, "-q", "--shard", "0/2")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(self.counts(self.path("out.h5")), (1, 1, 2, 75))
        done = ksweep("run", job, "-q")
        self.assertEqual((done.returncode, self.rendered(done)), (1, 1), done.stdout)
        self.assertIn("2 samples failed", done.stdout)
        self.assertEqual(self.counts(self.path("out.h5")), (2, 2, 0, 1))


class Growing(Files):
    def test_a_job_that_grew_after_a_kill_or_when_done_renders_only_new_keys(self):
        small = self.tiny_job("small.json", seed={"start": 10, "count": 40}, steps=30)
        large = self.tiny_job("large.json", seed={"start": 10, "count": 40}, steps=[10, 30], cfg=[2.0, 3.0])
        self.run_ok("run", large, "-q", "-o", self.path("fresh.h5"))
        killed, finished = self.path("killed.h5"), self.path("finished.h5")
        process = start("run", small, "-q", "-t", 1, "-o", killed)
        self.wait_for_samples(process, killed, 1)
        kill_all(process)
        process.communicate()
        self.run_ok("run", small, "-q", "-o", finished)
        self.assertEqual(self.counts(finished), (40, 0, 0, 0))
        for out in killed, finished:
            before = self.counts(out)[0]
            process = start("run", large, "-q", "-t", 1, "-o", out)
            self.wait_for_rows(process, out, before)
            self.assertIn(" of 160 samples done", ksweep("status", out).stdout)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 75, output + errors)
            now = before + self.rendered(subprocess.CompletedProcess((), 0, output))
            self.assertEqual(self.counts(out), (now, 0, 160 - now, 75))
            again = self.run_ok("run", large, "-q", "-o", out)
            self.assertEqual(self.rendered(again), 160 - now)
            self.assertEqual(self.counts(out), (160, 0, 0, 0))
            self.assertEqual(self.latents(out).tobytes(), self.latents(self.path("fresh.h5")).tobytes())

    def wait_for_rows(self, process, out, before):
        """Until status counts more than before; it never counts less on the way."""
        for _ in range(1200):
            self.assertIsNone(process.poll(), "the run ended early")
            done = self.counts(out)[0]
            self.assertGreaterEqual(done, before)
            if done > before:
                return
            time.sleep(0.05)
        self.fail("no new samples came")

    def test_what_was_changed_is_told(self):
        same = {"seed": {"count": 3}, "sampler_name": "euler_ancestral"}
        self.run_ok("run", self.tiny_job(**same), "-q")
        before = self.latents(self.path("out.h5"))
        for keys in {"noise_device": "cpu"}, {"prediction": "v"}, {"steps": 3}, {"negative": self.context("c")}:
            self.assert_one_line(ksweep("run", self.tiny_job(**{**same, **keys})), "out.h5", "3 samples",
                                 "name another output.file, or put their values back")
        self.record_as("precision", "fp16")
        self.assert_one_line(ksweep("run", self.tiny_job(**same)), "out.h5", "was begun on cpu in fp16",
                             "this run is on cpu in fp32", "name another output.file")
        self.assertEqual(before.tobytes(), self.latents(self.path("out.h5")).tobytes())

    def record_as(self, name, value):
        """Changes what OUT says of its run, as if it had been rendered so."""
        with h5py.File(self.path("out.h5"), "r+") as f:
            words = bytes(f["info"][...]).split(b"\0")
            words[words.index(name.encode()) + 1] = value.encode()
            text = b"\0".join(words)
            del f["info"]
            f["info"] = np.frombuffer(text, np.uint8)
            f["info"].attrs["check"] = np.frombuffer(digest(text)[:8], np.uint64)[0]


class TwoAtOnce(Files):
    def test_of_two_that_begin_together_one_writes(self):
        job = self.tiny_job(seed={"count": 10**5})
        for _ in range(2):
            both = [start("run", job, "-q", "-t", 1) for _ in range(2)]
            while all(process.poll() is None for process in both):
                time.sleep(0.05)
            refused, writer = sorted(both, key=lambda process: process.poll() is None)
            _, errors = refused.communicate()
            self.assertEqual(refused.returncode, 2, errors)
            self.assertIn(f"out.h5 is being written by another run (process {writer.pid} on ", errors)
            self.assertIsNone(writer.poll())
            writer.send_signal(signal.SIGTERM)
            writer.communicate(timeout=60)
            self.assertEqual(writer.returncode, 75)


class Verify(Files):
    """A flipped byte anywhere in what a user reads of a collected file is found."""

    def places(self, out):
        """{what: (file, offset of a byte in the midst of it)} for every data set with rows."""
        found = {}
        for path in [out, *shard_paths(out)]:
            with h5py.File(path) as f:
                for name in "latents", "images", "samples", "checks", "row_of_index":
                    if name not in f or f[name].is_virtual:
                        continue
                    chunk = f[name].id.get_chunk_info(0).byte_offset if f[name].chunks else f[name].id.get_offset()
                    found[f"{os.path.basename(path)} {name}"] = path, chunk, f[name].dtype, f[name].nbytes
        return found

    def assert_found(self, out, path, offset, *words):
        self.flip(path, offset)
        done = ksweep("verify", out)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(" 1 bad", done.stdout)
        for word in words:
            self.assertIn(word, done.stderr)
        self.flip(path, offset)
        self.assertIn(", 0 bad", self.run_ok("verify", out).stdout)

    def test_a_flipped_byte_of_a_merged_or_a_virtual_file_is_found(self):
        job = self.job(seed=[1, 2, 3], steps=1, cfg=1.0, output={"file": "merge.h5", "images": True})
        self.run_ok("run", job, "-q")
        self.run_ok("run", job, "-q", "-o", self.path("virtual.h5"), "--set", "output.collect=virtual")
        for out in self.path("merge.h5"), self.path("virtual.h5"):
            places = self.places(out)
            (latents,) = (place for name, place in places.items() if name.endswith("latents"))
            (images,) = (place for name, place in places.items() if name.endswith("images"))
            self.assert_found(out, latents[0], latents[1] + 5, "sample 0", "the latent fails its digest")
            self.assert_found(out, images[0], images[1] + 1234, "sample 0", "the picture fails its digest")
            path, offset, table, _ = places[os.path.basename(out) + " samples"]
            for field, (_, at) in table.fields.items():
                self.assert_found(out, path, offset + at, "sample ")
            path, offset, tails, _ = places[os.path.basename(out) + " checks"]
            for field, (_, at) in tails.fields.items():
                self.assert_found(out, path, offset + at, "sample 0")
            path, offset, _, _ = places[os.path.basename(out) + " row_of_index"]
            self.assert_found(out, path, offset + 2 * 8, "/row_of_index")

    def test_a_shard_that_is_gone_behind_a_virtual_file_is_found(self):
        self.run_ok("run", self.tiny_job(seed={"count": 5}), "-q", "--set", "output.collect=virtual")
        out = self.path("out.h5")
        os.remove(shard_paths(out)[0])
        done = ksweep("verify", out)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("5 rows checked, 5 bad", done.stdout)
        self.assertEqual(self.counts(out), (0, 0, 5, 75))
        self.assertEqual(self.rendered(self.run_ok("run", self.path("job.json"), "-q", "--set", "output.collect=virtual")), 5)
        self.assertIn("5 rows checked, 0 bad", self.run_ok("verify", out).stdout)

    def test_a_file_of_an_earlier_version_is_read_without_checks(self):
        job = self.job(seed=[1, 2, 3], steps=1, cfg=1.0, output={"file": "out.h5", "images": True})
        self.run_ok("run", job, "-q")
        with h5py.File(self.path("out.h5"), "r+") as f:
            del f["checks"]
        self.assertIn("3 rows checked, 0 bad", self.run_ok("verify", self.path("out.h5")).stdout)
        self.assertEqual(self.counts(self.path("out.h5")), (3, 0, 0, 0))
        grown = self.job(seed=[1, 2, 3, 4], steps=1, cfg=1.0, output={"file": "out.h5", "images": True})
        self.assertEqual(self.rendered(self.run_ok("run", grown, "-q")), 1)
        self.assertIn("4 rows checked, 0 bad", self.run_ok("verify", self.path("out.h5")).stdout)

    def test_what_verify_finds_the_next_run_renders_again(self):
        job = self.tiny_job(seed={"count": 5})
        self.run_ok("run", job, "-q")
        out = self.path("out.h5")
        before = self.latents(out)
        places = self.places(out)
        path, offset, *_ = places["out.h5 latents"]
        self.flip(path, offset + 3 * before[0].nbytes)
        path, offset, *_ = places["out.h5 samples"]
        self.flip(path, offset)
        self.assertEqual(self.counts(out), (3, 0, 2, 75))
        self.assertEqual(self.rendered(self.run_ok("run", job, "-q")), 2)
        self.assertEqual(self.latents(out).tobytes(), before.tobytes())
        self.assertEqual(self.counts(out), (5, 0, 0, 0))

    def test_a_picture_that_was_damaged_before_it_was_collected_is_rendered_again(self):
        job = self.job(seed=[1, 2, 3, 4], steps=1, cfg=1.0, output={"file": "out.h5", "images": True})
        out = self.path("out.h5")
        self.run_ok("run", job, "-q", "--shard", "0/2")
        with h5py.File(shard_paths(out)[0], "r", swmr=True) as f:
            offset = f["images"].id.get_chunk_info(0).byte_offset
        self.flip(shard_paths(out)[0], offset + 999)
        done = ksweep("run", job, "-q")
        self.assertEqual((done.returncode, self.rendered(done)), (75, 2), done.stderr)
        self.assertIn("1 samples are missing because their rows were damaged", done.stderr)
        self.assertEqual(self.counts(out), (3, 0, 1, 75))
        self.assertEqual(self.rendered(self.run_ok("run", job, "-q")), 1)
        self.assertIn("4 rows checked, 0 bad", self.run_ok("verify", out).stdout)


if __name__ == "__main__":
    unittest.main()
