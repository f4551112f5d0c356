"""ksweep run, alone and under mpirun: the same bits, whatever the neighbours, the ranks, the restarts."""
import glob
import json
import os
import signal
import time
import unittest

import h5py
import numpy as np

from support import Case, catches, kill_all, ksweep, mpirun, ranks_of, start

MIXED = {"sampler_name": ["euler_ancestral", "dpmpp_2m", "heun"], "steps": {"from": 5, "to": 12, "step": 1},
         "cfg": [1.0, 4.5, 8.0], "seed": {"start": 7, "count": 1}, "control_after_generate": "increment",
         "parallel": {"batch_rows": 8}}


class Runs(Case):
    def test_alone_and_under_mpirun_write_the_same_bits(self):
        job = self.job(**MIXED)
        self.run_ok("run", job, "-o", self.path("alone.h5"))
        alone = self.latents(self.path("alone.h5"))
        self.assertEqual(alone.shape, (72, 4, 8, 8))
        self.assertTrue(np.isfinite(alone).all())
        for ranks in 1, 2, 4:
            out = self.path(f"ranks{ranks}.h5")
            self.run_ok("run", job, "-o", out, launcher=mpirun(ranks))
            self.assertEqual(alone.tobytes(), self.latents(out).tobytes(), f"{ranks} ranks")

    def test_a_sample_of_a_mixed_sweep_equals_the_same_sample_alone(self):
        job = self.job(**MIXED)
        done = self.run_ok("run", job, "-o", self.path("all.h5"))
        filled = float(done.stdout.split(" % of rows filled")[0].split()[-1])
        self.assertGreater(filled, 95.0, done.stdout)
        with h5py.File(self.path("all.h5")) as f:
            rows, latents = f["samples"][...], f["latents"][...]
        for r in range(0, len(rows), 13):
            row = rows[r]
            sets = {"steps": int(row["steps"]), "cfg": float(row["cfg"]), "sampler_name": row["sampler_name"].decode(),
                    "seed": int(row["seed"])}
            single = self.path(f"single{r}.h5")
            changes = [x for k, v in sets.items() for x in ("--set", f"{k}={json.dumps(v)}")]
            self.run_ok("run", job, "-o", single, *changes)
            self.assertEqual(self.latents(single)[0].tobytes(), latents[r].tobytes(), sets)

    def test_thread_count_does_not_change_bits(self):
        job = self.job(seed={"start": 1, "count": 3})
        for threads in 1, 2, 3:
            self.run_ok("run", job, "-o", self.path(f"{threads}.h5"), "--threads", threads)
        one = self.latents(self.path("1.h5")).tobytes()
        self.assertEqual(one, self.latents(self.path("2.h5")).tobytes())
        self.assertEqual(one, self.latents(self.path("3.h5")).tobytes())

    def test_a_second_start_renders_nothing(self):
        job = self.job(seed={"start": 1, "count": 3})
        self.run_ok("run", job)
        before = os.stat(self.path("out.h5")).st_mtime_ns
        again = self.run_ok("run", job)
        self.assertIn("there already", again.stdout)
        self.assertEqual(before, os.stat(self.path("out.h5")).st_mtime_ns)

    def test_a_job_that_grew_renders_only_what_is_new(self):
        self.run_ok("run", self.job(seed={"start": 1, "count": 3}, cfg=[2.0, 4.0]))
        grown = self.job(seed={"start": 1, "count": 4}, cfg=[1.5, 2.0, 4.0], positive=["a blue star", "a red circle"])
        done = self.run_ok("run", grown)
        self.assertIn("18 samples rendered", done.stdout)
        self.run_ok("run", grown, "-o", self.path("fresh.h5"))
        self.assertEqual(self.latents(self.path("out.h5")).tobytes(), self.latents(self.path("fresh.h5")).tobytes())

    def test_a_job_that_would_drop_rendered_samples_is_refused(self):
        self.run_ok("run", self.job(cfg=[2.0, 4.0]))
        before = self.latents(self.path("out.h5"))
        done = ksweep("run", self.job(cfg=[4.0, 5.0]))
        self.assert_one_line(done, "out.h5", "1 samples", "does not ask for")
        self.assertEqual(before.tobytes(), self.latents(self.path("out.h5")).tobytes())

    def test_cfg_matters(self):
        self.run_ok("run", self.job(cfg=[1.0, 8.0]))
        a, b = self.latents(self.path("out.h5"))
        self.assertGreater(np.abs(a - b).max(), 0.1)

    def test_a_latent_batch_is_one_call_with_joint_noise(self):
        self.run_ok("run", self.job(latent_image={"width": 64, "height": 64, "batch_size": 3}, seed=[5, 6]))
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual(f["samples"]["batch"].tolist(), [0, 1, 2, 0, 1, 2])
            latents = f["latents"][...]
        self.assertEqual(len({x.tobytes() for x in latents}), 6)
        self.run_ok("run", self.job(seed=5), "-o", self.path("one.h5"))
        self.assertEqual(self.latents(self.path("one.h5"))[0].tobytes(), latents[0].tobytes())

    def test_a_sample_that_fails_leaves_the_others(self):
        done = ksweep("run", self.job(sampler_name="ddim", seed=[1, 2**64 - 1, 3]))
        self.assertEqual(done.returncode, 1, done.stderr)
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual(f["samples"]["status"].tolist(), [1, 2, 1])
            self.assertEqual(int(f["samples"]["seed"][1]), 2**64 - 1)
        self.assertIn("1 samples failed", done.stdout)

    def test_float16_latents_are_the_rounded_float32_ones(self):
        job = self.job(seed=[1, 2])
        self.run_ok("run", job)
        self.run_ok("run", job, "-o", self.path("half.h5"), "--set", 'output.latents="float16"')
        half = self.latents(self.path("half.h5"))
        self.assertEqual(half.dtype, np.float16)
        self.assertEqual(half.tobytes(), self.latents(self.path("out.h5")).astype(np.float16).tobytes())

    def test_the_virtual_file_has_the_same_rows(self):
        job = self.job(seed={"start": 1, "count": 6})
        self.run_ok("run", job)
        self.run_ok("run", job, "-o", self.path("virtual.h5"), "--set", 'output.collect="virtual"', launcher=mpirun(2))
        self.assertTrue(glob.glob(self.path("virtual.h5.d/shard-*.h5")))
        with h5py.File(self.path("out.h5")) as a, h5py.File(self.path("virtual.h5")) as b:
            for index in range(6):
                row = int(b["row_of_index"][index])
                self.assertEqual(int(b["samples"][row]["index"]), index)
                self.assertEqual(a["latents"][index].tobytes(), b["latents"][row].tobytes())


class Stops(Case):
    SAMPLES = 20
    LONG = {"seed": {"start": 1, "count": SAMPLES}, "steps": 20, "latent_image": {"width": 128, "height": 128}}

    def stop_and_resume(self, how, ranks):
        job = self.job(**self.LONG)
        process = start("run", job, launcher=mpirun(ranks) if ranks else (), start_new_session=True)
        self.wait_for_samples(process, self.path("out.h5"), 3)
        how(process)
        process.communicate(timeout=60)
        self.assertFalse(os.path.exists(self.path("out.h5")))
        left = ksweep("status", self.path("out.h5"))
        done = int(left.stdout.split(": ")[1].split()[0])
        self.assertEqual(left.returncode, 75)
        self.assertGreaterEqual(done, 3)
        rest = self.run_ok("run", job)
        self.assertIn(f"{self.SAMPLES - done} samples rendered", rest.stdout)
        self.assertEqual(self.latents(self.path("out.h5")).tobytes(), self.undisturbed(job))
        return process

    def undisturbed(self, job):
        """The latents of a run that nothing stops, rendered once for all tests."""
        if not hasattr(Stops, "whole"):
            self.run_ok("run", job, "-o", self.path("whole.h5"))
            Stops.whole = self.latents(self.path("whole.h5")).tobytes()
        return Stops.whole

    def test_sigterm_ends_with_75_and_the_same_command_goes_on(self):
        process = self.stop_and_resume(lambda p: p.send_signal(signal.SIGTERM), 0)
        self.assertEqual(process.returncode, 75)

    def test_sigusr1_stops_all_ranks(self):
        process = self.stop_and_resume(lambda p: p.send_signal(signal.SIGUSR1), 2)
        self.assertEqual(process.returncode, 75)

    def wait_for_handlers(self, job, ranks):
        """Until so many processes have reached main, which is where signals are caught first."""
        for _ in range(2000):
            try:
                if sum(catches(pid, signal.SIGUSR1) for pid in ranks_of(job)) == ranks:
                    return
            except OSError:
                pass
            time.sleep(0.005)
        self.fail("no handlers")

    def test_a_stop_during_the_start_ends_with_75_too(self):
        """The signal comes while ksweep starts, reads the model and looks at the output: never a death by signal."""
        job = self.tiny_job(seed={"count": 10**6})
        told = ""
        for pause in 0, 0.01, 0.02, 0.05, 0.08, 0.12, 0.2, 0.3:
            process = start("run", job, "-q")
            self.wait_for_handlers(job, 1)
            time.sleep(pause)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 75, f"after {pause} s: {output}{errors}")
            self.assertIn("stopped", output)
            told += output
            self.assertEqual(glob.glob(self.path("out.h5.d/*.lock")), [])
        self.assertIn("stopped before rendering began", told)

    def test_a_stop_during_the_start_of_several_ranks(self):
        job = self.tiny_job(seed={"count": 10**6})
        process = start("run", job, "-q", launcher=mpirun(2))
        self.wait_for_handlers(job, 2)
        process.send_signal(signal.SIGUSR1)
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 75, output + errors)
        self.assertEqual(output.count("stopped"), 1, output)

    def test_a_killed_run_goes_on(self):
        self.stop_and_resume(kill_all, 2)


if __name__ == "__main__":
    unittest.main()
