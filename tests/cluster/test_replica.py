"""Several ranks that have one model together (the job's "parallel"), under mpirun: the latents of every layout, and ranks of a replica
that are lost. KSWEEP_ULFM=1: the losses under Open MPI 5 with --with-ft ulfm, as in test_losses.py."""
import errno
import os
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../e2e"))
from faults import environment  # noqa: E402
from support import KSWEEP, MPI, Case, kill_all, ksweep, mpirun, write_safetensors  # noqa: E402
from test_losses import ULFM, LossCase  # noqa: E402


def layout(tensor, rows):
    return "--set", f"parallel.tensor={tensor}", "--set", f"parallel.rows={rows}"


class ReplicaCase(Case):
    def split(self, job, out, tensor, rows, *options, ranks=None, timeout=120):
        return ksweep("run", job, "-o", self.path(out), "-t", 1, *layout(tensor, rows), *options,
                      launcher=mpirun(ranks or tensor * rows), timeout=timeout)

    def assert_near(self, got, wanted, bound=1e-4):
        """Relative L2 of each latent."""
        got, wanted = (self.latents(self.path(name)).astype(np.float64).reshape(-1, 4 * 8 * 8) for name in (got, wanted))
        self.assertEqual(got.shape, wanted.shape)
        distance = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        self.assertLess(distance.max(), bound)


class Layouts(ReplicaCase):
    def ok(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_every_layout_renders_what_one_rank_does(self):
        job = self.job(seed={"start": 5, "count": 3}, cfg=[1.0, 4.0], sampler_name=["euler_ancestral", "dpmpp_2m"],
                       parallel={"batch_rows": 4}, output={"file": "out.h5", "images": True})
        self.run_ok("run", job, "-o", self.path("alone.h5"))
        bits = {}
        for tensor, rows, ranks in (2, 1, 2), (1, 2, 2), (2, 2, 4), (2, 1, 4), (1, 4, 4):
            name = f"{tensor}-{rows}-{ranks}.h5"
            with self.subTest(layout=name):
                self.assertIn("12 samples rendered in", self.ok(self.split(job, name, tensor, rows, ranks=ranks)))
                self.assert_near(name, "alone.h5")
                with h5py.File(self.path(name)) as f, h5py.File(self.path("alone.h5")) as alone:
                    self.assertEqual(f.attrs["parallel"], f'{{"tensor":{tensor},"rows":{rows}}}')
                    self.assertEqual(f.attrs["batch_rows"], 4)
                    self.assertEqual(f["samples"].fields(["key", "nfe", "status"])[...].tobytes(),
                                     alone["samples"].fields(["key", "nfe", "status"])[...].tobytes())
                    off = np.abs(f["images"][...].astype(int) - alone["images"][...])
                    self.assertLessEqual(off.max(), 2)
                    bits.setdefault(tensor, set()).add(f["latents"][...].tobytes() + f["images"][...].tobytes())
                self.run_ok("verify", self.path(name))
        self.assertEqual({tensor: len(b) for tensor, b in bits.items()}, {1: 1, 2: 1}, "replicas and row parts change no bits here")
        with h5py.File(self.path("alone.h5")) as f:
            self.assertEqual(bits[1], {f["latents"][...].tobytes() + f["images"][...].tobytes()})

    def test_pictures_that_are_decoded_for_longer_than_a_rank_is_waited_for(self):
        """All lanes end at once, and the followers have nothing to do meanwhile."""
        job = self.job(seed={"count": 40}, cfg=1.0, steps=2, latent_image={"width": 128, "height": 128},
                       parallel={"batch_rows": 40}, output={"file": "out.h5", "images": True})
        self.assertIn("40 samples rendered in", self.ok(self.split(job, "out.h5", 2, 1, "--deadline", "1")))

    def test_any_number_of_conditionings_and_sizes_stream_through(self):
        """More conditionings than a follower has slots for, some longer than others, some of a part of the picture; batches."""
        random = np.random.default_rng(11)
        write_safetensors(self.path("many.safetensors"), {f"c{i}": random.normal(size=(1, 77 if i % 3 else 154, 32)).astype(np.float32)
                                                          for i in range(40)})
        conds = [{"file": "many.safetensors", "cond": f"c{i}"} for i in range(40)]
        areas = [[conds[0], dict(conds[i], area=[32, 40, 16, 8 * i], strength=0.7)] for i in range(1, 4)]
        job = self.tiny_job(positive=conds[:32] + areas, negative=conds[39], cfg=[1.0, 3.0], steps=2,
                            latent_image={"width": 64, "height": 64, "batch_size": 2}, parallel={"batch_rows": 4})
        self.run_ok("run", job, "-o", self.path("alone.h5"))
        self.ok(self.split(job, "rows.h5", 1, 2))
        self.assertEqual(self.latents(self.path("rows.h5")).tobytes(), self.latents(self.path("alone.h5")).tobytes())
        self.ok(self.split(job, "both.h5", 2, 2))
        self.assert_near("both.h5", "alone.h5")

    def test_adaptive_samplers_and_masks(self):
        write_safetensors(self.path("mask.safetensors"), {"m": np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)})
        job = self.tiny_job(sampler_name=["dpm_adaptive", "dpmpp_sde", "uni_pc"], seed={"count": 2}, steps=4,
                            latent_image={"width": 64, "height": 64, "noise_mask": {"file": "mask.safetensors", "tensor": "m"}})
        self.run_ok("run", job, "-o", self.path("alone.h5"), "--set", "parallel.batch_rows=4")
        self.ok(self.split(job, "rows.h5", 1, 2, "--set", "parallel.batch_rows=4"))
        self.assertEqual(self.latents(self.path("rows.h5")).tobytes(), self.latents(self.path("alone.h5")).tobytes())


class Refusals(ReplicaCase):
    """What cannot be is one line, and nothing is started."""

    def assert_refused(self, done, *words):
        """mpirun adds lines of its own."""
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("ksweep: ")]
        self.assertEqual(len(lines), 1, done.stderr)
        for word in words:
            self.assertIn(word, lines[0])

    def test_ranks_that_make_no_whole_replicas(self):
        job = self.tiny_job()
        self.assert_one_line(ksweep("run", job, *layout(2, 1)), "job.json: parallel: one model is on 2 ranks", "1 rank was started",
                             "start 2, or another multiple of 2")
        self.assert_refused(self.split(job, "out.h5", 1, 2, ranks=3), "3 ranks were started: start 2, or another multiple of 2")
        self.assertEqual(sorted(os.listdir(self.folder)), ["contexts.safetensors", "job.json"])

    def test_a_model_that_cannot_be_split_so(self):
        self.assert_refused(self.split(self.tiny_job(), "out.h5", 3, 1), "job.json: parallel.tensor: ", "3 parts")
        self.assert_one_line(ksweep("plan", self.tiny_job(), *layout(3, 1)), "job.json: parallel.tensor: ", "3 parts")

    def test_another_layout_on_the_same_output(self):
        job = self.tiny_job(seed={"count": 2})
        self.assertEqual(self.split(job, "out.h5", 1, 2).returncode, 0)
        more = "--set", "seed.count=4"
        for done in self.split(job, "out.h5", 2, 1, *more), ksweep("run", job, *more):
            self.assert_refused(done, "out.h5 was begun with parallel {\"tensor\":1,\"rows\":2}", "put it back")
        self.assertEqual(self.split(job, "out.h5", 1, 2, *more, ranks=4).returncode, 0)

    def test_rows_that_cannot_be_dealt_out(self):
        """The file by which the parts of a run agree may come from anybody."""
        job = self.tiny_job(seed={"count": 4})
        os.mkdir(self.path("out.h5.d"))
        for rows in 3, 4098, 2**31 - 2:
            with self.subTest(rows=rows):
                with open(self.path("out.h5.d/layout"), "w") as f:
                    f.write(f"cpu fp32 1 2 {rows}\n")
                self.assert_refused(self.split(job, "out.h5", 1, 2, "--shard", "0/2"), "out.h5.d: ", f"{rows} rows", "a multiple of 2")

    def test_one_rank_does_not_render_again_what_several_have(self):
        job = self.tiny_job()
        self.assertEqual(self.split(job, "out.h5", 2, 1).returncode, 0)
        self.run_ok("verify", self.path("out.h5"))
        self.assert_one_line(ksweep("verify", self.path("out.h5"), "--sample", "1"), "out.h5: it was rendered with one model on 2 ranks",
                             "tensor 2, rows 1", "--sample")
        shown = self.path("again.json")
        with open(shown, "w") as f:
            f.write(self.run_ok("show", self.path("out.h5"), 0).stdout)
        done = ksweep("run", shown, "-o", self.path("again.h5"), launcher=mpirun(2))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.latents(self.path("again.h5")).tobytes(), self.latents(self.path("out.h5")).tobytes())

    def test_a_plan_tells_the_layout_and_the_memory(self):
        plan = self.run_ok("plan", self.job(), *layout(2, 2)).stdout
        self.assertIn("one model on 4 ranks: each layer on 2, the rows of each call on 2; start 4 ranks", plan)
        self.assertIn("on the first of each 4", plan)
        self.assertNotIn("layout:", self.run_ok("plan", self.job()).stdout)


class LostCase(LossCase):
    """Two replicas of two ranks: 0 leads 1, 2 leads 3."""

    options, ranks, samples = layout(2, 1), 4, 48  # many: other ranks render on until mpirun ends them, which takes seconds
    reference = None

    def launcher(self):
        return mpirun(2)

    def started(self, *options):
        run = self.start(*options)
        run.wait_for_shards(2)
        return run


class Hung(LostCase):
    """SIGSTOP, as a hang that nobody reports; and an orderly stop."""

    def test_a_hanging_follower_costs_its_replica_alone(self):
        run = self.started("--deadline", "2")
        run.signal(3, signal.SIGSTOP)
        self.assertEqual(run.end(), 75 if ULFM else 0, run.log())
        self.assertIn("rank 3, which holds a part of the same model, has not come to a network call within 2 s", run.log())
        self.assertIn("rank 3 has said nothing for", run.log())
        self.check(run.log())

    def test_a_hanging_follower_of_rank_0_costs_its_replica_alone(self):
        """Rank 0 waits for it as long as others wait for rank 0, and leads them to the end without rendering."""
        run = self.started("--deadline", "2", "--progress", "1")
        run.signal(1, signal.SIGSTOP)
        self.assertEqual(run.end(), 75 if ULFM else 0, run.log())
        after = run.log().split("this rank renders no more")[1]
        self.assertGreater(after.count(f"/{self.samples} samples, "), 1, "somebody still tells how far the run is")
        self.check(run.log())

    def test_one_that_hangs_before_the_first_sample(self):
        run = self.start("--deadline", "2", "--set", "steps=400", ranks=2)
        run.wait(lambda: "bytes read by" in run.log(), "the loading")
        time.sleep(1)
        run.signal(1, signal.SIGSTOP)
        self.assertEqual(run.end(), 75, run.log())
        self.assertEqual(self.rows(), [])

    def test_a_hanging_leader_costs_its_replica_alone(self):
        run = self.started("--deadline", "2")
        run.signal(2, signal.SIGSTOP)
        self.assertEqual(run.end(), 75 if ULFM else 0, run.log())
        self.assertIn("rank 2 is past the deadline of", run.log())
        self.check(run.log())

    def test_where_the_only_replica_is_lost_the_run_can_go_on(self):
        for rank in 1, 0:
            with self.subTest(rank=rank):
                run = self.start("--deadline", "1", ranks=2)
                run.wait_for_shards(1)
                run.signal(rank, signal.SIGSTOP)
                self.assertEqual(run.end(), 75, run.log())
        self.go_on()

    def test_one_with_nothing_to_do_is_not_taken_for_one_that_hangs(self):
        run = self.start("--deadline", "1", "--filter", "index=0", "--set", "steps=300")
        self.assertEqual(run.end(), 0, run.log())
        self.assertNotIn("warning", run.log())
        self.assertGreater(float(run.log().split("1 samples rendered in ")[1].split()[0]), 1.5, "longer than the deadline")

    def test_a_stop_at_a_follower_stops_all(self):
        run = self.started()
        run.signal(3, signal.SIGTERM)
        began = time.monotonic()
        self.assertEqual(run.end(), 75, run.log())
        self.assertLess(time.monotonic() - began, 20)
        self.assertIn("stopped: the same command goes on", run.log())
        done = len(set(self.rows()))
        self.assertEqual(self.go_on(), self.samples - done)


class Stopped(LostCase):
    """What a run that is to stop does with a rank that hangs takes a minute."""

    def test_a_hanging_member_is_not_waited_for_long(self):
        for hangs, told, bound in (1, 0, 100), (0, 1, 130):
            with self.subTest(hangs=hangs):
                run = self.start("--deadline", "600", "--set", "steps=40", ranks=2)
                run.wait_for_shards(1)
                run.signal(hangs, signal.SIGSTOP)
                run.signal(told, signal.SIGTERM)
                began = time.monotonic()
                self.assertEqual(run.end(bound), 75, run.log())
                self.assertGreater(time.monotonic() - began, 50, "it is waited for, though not for long")


class Killed(LostCase):
    """kill -9."""

    @unittest.skipIf(ULFM, "the run survives it")
    def test_a_killed_member_ends_the_run_and_loses_nothing(self):
        for rank in 3, 2:
            with self.subTest(rank=rank):
                run = self.started()
                run.signal(rank, signal.SIGKILL)
                self.assertNotEqual(run.end(60), 0, run.log())
                done = len(set(self.rows()))
                self.assertEqual(self.go_on(), self.samples - done)
            self.remove_output()

    def remove_output(self):
        subprocess.run(["rm", "-rf", self.path("out.h5"), self.path("out.h5.d")], check=True)

    @unittest.skipUnless(ULFM, "only ULFM survives it")
    def test_the_other_replica_goes_on(self):
        for rank in 3, 2:
            with self.subTest(killed=rank):
                run = self.started()
                run.signal(rank, signal.SIGKILL)
                self.assertEqual(run.end(), 0, run.log())
                self.assertIn(f"rank {rank} has died", run.log())
                self.check(run.log())
            self.remove_output()

    @unittest.skipUnless(ULFM, "only ULFM survives it")
    def test_without_rank_0_there_is_no_run(self):
        run = self.started()
        run.signal(0, signal.SIGKILL)
        self.assertEqual(run.end(60), 75, run.log())
        self.go_on()


class Faults(Case):
    """A device that fails in the middle, in replicas of two ranks (fault_run.c)."""

    def setUp(self):
        super().setUp()
        self.sweep = self.job(seed={"start": 1, "count": 8}, cfg=1.0, parallel={"tensor": 2, "batch_rows": 2})
        self.assertEqual(ksweep("run", self.sweep, "-o", self.path("sound.h5"), launcher=mpirun(2)).returncode, 0)

    def fault(self, rank, number, ranks):
        return subprocess.run([*mpirun(ranks), os.environ["FAULT_RUN"], self.sweep, str(rank), "OPERATION", str(number)], env=MPI,
                              text=True, capture_output=True, timeout=120)

    def same(self):
        self.assertEqual(self.latents(self.path("out.h5")).tobytes(), self.latents(self.path("sound.h5")).tobytes())

    def test_the_other_replica_takes_over(self):
        for rank, said in (3, "rank 3: an injected fault"), (0, "an injected fault"):
            with self.subTest(rank=rank):
                done = self.fault(rank, 80, 4)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn(said + " in a launch: this rank renders no more", done.stderr)
                self.same()
                os.remove(self.path("out.h5"))

    def test_a_disk_that_is_full_is_no_lost_device(self):
        """It ends the run at once, however many replicas there are."""
        out, broken = self.path("full.h5"), self.path("broken")
        job = self.tiny_job("long.json", seed={"count": 120}, steps=20, parallel={"tensor": 2, "batch_rows": 4})
        env = environment(KSWEEP_FAULT_PATH=out, KSWEEP_FAULT_ERRNO=errno.ENOSPC, KSWEEP_FAULT_WHEN=broken)
        process = subprocess.Popen([*mpirun(4), KSWEEP, "run", job, "-q", "-t", "1", "-o", out], text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=env)
        self.addCleanup(kill_all, process)
        self.wait_for_samples(process, out, 1)
        open(broken, "w").close()
        output, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, output + errors)
        said = [line for line in errors.splitlines() if line.startswith("ksweep: ")]
        self.assertEqual(len(said), 1, errors)
        self.assertIn("No space left on device", said[0])
        self.assertNotIn("renders no more", errors)
        self.assertEqual(ksweep("run", job, "-q", "-o", out, launcher=mpirun(4)).returncode, 0)

    def test_the_only_replica(self):
        done = self.fault(1, 1, 2)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("ksweep: rank 1: an injected fault in a launch\n", done.stderr)
        done = self.fault(1, 160, 2)
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertEqual(ksweep("run", self.sweep, launcher=mpirun(2)).returncode, 0)
        self.same()


if __name__ == "__main__":
    unittest.main()
