"""Beyond the grid: axes that walk together, axes from files, parts of a sweep, several runs at one output, ksweep show."""
import glob
import json
import os
import signal
import subprocess
import sys
import time
import unittest

import h5py
import numpy as np

from support import Case, DEMO, kill_all, ksweep, mpirun, start, write_safetensors

CHECK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "check_output.py")
GRID = {"positive": ["a red circle", "a large blue star"], "cfg": [1.0, 2.0, 4.0], "steps": [2, 3], "seed": [7, 8, 2**64 - 1],
        "sampler_name": ["euler", "dpmpp_2m"], "parallel": {"batch_rows": 4}}


class Sweeps(Case):
    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as f:
            f.write(text)

    def table(self, out="out.h5"):
        with h5py.File(self.path(out)) as f:
            return f["samples"][...]

    def assert_same_rows(self, a, b):
        """Equal bits in every row: of two files of the same sweep."""
        with h5py.File(self.path(a)) as x, h5py.File(self.path(b)) as y:
            self.assertEqual(x["latents"][...].tobytes(), y["latents"][...].tobytes())
            for field in x["samples"].dtype.names:
                self.assertEqual(x["samples"][field].tolist(), y["samples"][field].tolist(), field)

    def assert_good(self, out):
        done = subprocess.run([sys.executable, CHECK, self.path(out)], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Zip(Sweeps):
    def test_axes_of_a_group_walk_together(self):
        job = self.job(positive=["a red circle", "a blue star", "a green square"], seed=[5, 6, 9], cfg=[1.0, 3.0],
                       sweep=[["positive", "seed"], "cfg"])
        self.run_ok("run", job)
        rows = self.table()
        self.assertEqual([(r["positive"], r["cfg"], r["seed"]) for r in rows],
                         [(0, 1, 5), (0, 3, 5), (1, 1, 6), (1, 3, 6), (2, 1, 9), (2, 3, 9)])
        self.assert_good("out.h5")
        self.run_ok("run", self.job("one.json", positive="a blue star", seed=6, cfg=3.0), "-o", self.path("one.h5"))
        self.assertEqual(self.latents(self.path("one.h5"))[0].tobytes(), self.latents(self.path("out.h5"))[3].tobytes())

    def test_labels_are_right_when_positive_and_negative_walk_together(self):
        for collect in "merge", "virtual":
            out = f"{collect}.h5"
            job = self.job(positive=["a red circle", "a blue star"], negative=["", "blurry"], cfg=[3.0, 4.0], seed=[1, 2],
                           sweep=[["negative", "positive"]])
            self.run_ok("run", job, "-o", self.path(out), "--set", f"output.collect={collect}", "--filter", "seed=2")
            rows = np.sort(self.table(out), order="index")
            self.assertEqual(rows["positive"].tolist(), [0, 0, 0, 0, 1, 1, 1, 1])
            self.assertEqual(rows["negative"].tolist(), rows["positive"].tolist())
            self.assertEqual(rows["status"].tolist(), [0, 1] * 4)
            self.assert_good(out)

    def test_a_grid_may_become_its_diagonal_by_set_and_back(self):
        grid = self.job(cfg=[1.0, 2.0, 3.0], steps=[2, 3, 4], sweep=[["cfg", "steps"]])
        self.run_ok("run", grid)
        self.assertEqual([(r["cfg"], r["steps"]) for r in self.table()], [(1, 2), (2, 3), (3, 4)])
        done = self.run_ok("run", self.job(cfg=[1.0, 2.0, 3.0], steps=[2, 3, 4]))
        self.assertIn("6 samples rendered", done.stdout)
        self.assertEqual(len(self.table()), 9)

    def test_plan_and_sheet_know_groups(self):
        job = self.job(positive=["a red circle", "a blue star"], seed=[5, 6], cfg=[1.0, 2.0], sweep=[["positive", "seed"]])
        plan = self.run_ok("plan", job).stdout
        self.assertIn("samples:        4 latents", plan)
        self.assertIn("(walks with positive)", plan)
        self.assertIn("network rows:   18,", plan)  # 2 x 3 steps x (1 + 2 rows)
        self.run_ok("run", job)
        for x, y in ("cfg", "positive"), ("seed", "cfg"):
            self.run_ok("sheet", self.path("out.h5"), "-x", x, "-y", y, "-o", self.path("s.png"))
        self.run_ok("sheet", self.path("out.h5"), "-o", self.path("s.png"))
        self.assert_one_line(ksweep("sheet", self.path("out.h5"), "-x", "seed", "-y", "positive", "-o", self.path("s.png")),
                             "walk together")


class Files(Sweeps):
    def test_prompts_and_seeds_come_from_files(self):
        self.write("prompts.txt", "\ufeffa red circle\r\n\r\na large blue star\r\n")
        self.write("seeds.txt", f"{2**64 - 1}\n\n7\n")
        self.run_ok("run", self.job(positive={"lines": "prompts.txt"}, seed={"lines": "seeds.txt"},
                                    sweep=[["positive", "seed"]]))
        self.run_ok("run", self.job("list.json", positive=["a red circle", "a large blue star"], seed=[2**64 - 1, 7],
                                    sweep=[["positive", "seed"]]), "-o", self.path("list.h5"))
        self.assert_same_rows("out.h5", "list.h5")
        self.assert_good("out.h5")
        with h5py.File(self.path("out.h5")) as f:
            self.assertEqual(f["positive"].asstr()[...].tolist(), ["a red circle", "a large blue star"])

    def test_a_json_lines_file_gives_several_axes(self):
        rows = [{"prompt": "a red circle", "not": "", "seed": 3},
                {"prompt": ["a blue star", {"text": "a circle", "strength": 0.5}], "not": "blurry", "seed": str(2**64 - 1)}]
        self.write("p.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        of = {name: {"jsonl": "p.jsonl", "key": key}
              for name, key in (("positive", "prompt"), ("negative", "not"), ("seed", "seed"))}
        self.run_ok("run", self.job(**of, sweep=[["positive", "negative", "seed"]]))
        self.assertEqual(self.table()["seed"].tolist(), [3, 2**64 - 1])
        self.run_ok("run", self.job("one.json", positive=[rows[1]["prompt"]], negative="blurry", seed=2**64 - 1), "-o",
                    self.path("one.h5"))
        self.assertEqual(self.latents(self.path("one.h5"))[0].tobytes(), self.latents(self.path("out.h5"))[1].tobytes())

    def test_a_file_that_grew_renders_only_what_is_new(self):
        job = self.job(positive={"lines": "prompts.txt"})
        self.write("prompts.txt", "a red circle\na blue star\n")
        self.run_ok("run", job)
        before = self.latents(self.path("out.h5"))
        self.write("prompts.txt", "a green square\na red circle\na blue star\n")
        done = self.run_ok("run", job)
        self.assertIn("1 samples rendered", done.stdout)
        self.assertEqual(self.latents(self.path("out.h5"))[1:].tobytes(), before.tobytes())

    def test_a_file_that_changed_is_told_where_its_values_are_looked_at(self):
        self.write("prompts.txt", "a red circle\na blue star\n")
        self.run_ok("run", self.job(positive={"lines": "prompts.txt"}))
        self.write("prompts.txt", "a red circle\na blue square\n")
        for command in ("sheet", self.path("out.h5"), "-o", self.path("s.png")), ("show", self.path("out.h5"), 1):
            self.assert_one_line(ksweep(*command), "job.json", "have changed since")

    def test_mistakes_name_job_file_and_line(self):
        self.write("bad.txt", "a\n" + "x" * 65537 + "\n")
        self.write("seeds.txt", "1\n2\nthree\n")
        self.write("bad.jsonl", '{"p": "a"}\n{"p": "a"\n')
        self.assert_one_line(ksweep("plan", self.job(positive={"lines": "bad.txt"})), "job.json: positive: ", "bad.txt:2: ")
        self.assert_one_line(ksweep("plan", self.job(seed={"lines": "seeds.txt"})), "job.json: seed: ", "seeds.txt:3: ",
                             "three")
        self.assert_one_line(ksweep("plan", self.job(positive={"jsonl": "bad.jsonl", "key": "p"})), "job.json: positive: ",
                             "bad.jsonl:2:")

    def test_a_hundred_thousand_prompts_are_read_at_once(self):
        self.write("prompts.txt", "".join(f"a red circle, number {i}\n" for i in range(100000)))
        job = self.job(positive={"lines": "prompts.txt"}, seed={"count": 100000}, sweep=[["positive", "seed"]])
        self.assertIn("samples:        100000 ", self.run_ok("plan", job, timeout=60).stdout)
        self.run_ok("run", job, "--filter", "index=99998..99999", "-q", timeout=120)
        self.assertEqual(np.flatnonzero(self.table()["status"]).tolist(), [99998, 99999])


class Filters(Sweeps):
    def test_only_samples_that_pass_are_rendered(self):
        job = self.job(**GRID)
        done = self.run_ok("run", job, "--filter", "cfg=1.5..4", "--filter", "sampler_name=dpmpp_2m", "--filter",
                           f"seed=8,{2**64 - 1}")
        self.assertIn("16 samples rendered", done.stdout)
        rows = self.table()
        passes = (rows["index"] // 18 % 2 == 1) & (rows["index"] // 6 % 3 > 0) & (rows["index"] % 3 > 0)
        self.assertEqual(rows["status"].tolist(), passes.astype(int).tolist())
        self.assert_good("out.h5")
        again = self.run_ok("run", job, "--filter", "cfg=4", "--filter", "sampler_name=dpmpp_2m", "--filter", "seed=8")
        self.assertIn("all 4 samples were there already", again.stdout)
        rest = self.run_ok("run", job)
        self.assertIn("56 samples rendered", rest.stdout)
        self.run_ok("run", job, "-o", self.path("whole.h5"))
        self.assert_same_rows("out.h5", "whole.h5")

    def test_an_index_brings_the_batch_it_is_in(self):
        self.run_ok("run", self.job(latent_image={"width": 64, "height": 64, "batch_size": 2}, seed=[1, 2, 3]), "--filter",
                    "index=3")
        self.assertEqual(self.table()["status"].tolist(), [0, 0, 1, 1, 0, 0])

    def test_plan_counts_what_passes(self):
        job = self.tiny_job(cfg=[1.0, 2.0, 4.0], steps=[2, 3], seed=[7, 8, 9], sampler_name=["euler", "dpmpp_2m"])
        for parts in (["--filter", "cfg=1..2", "--filter", "steps=3", "--filter", "index=4..30"], ["--shard", "1/3"],
                      ["--shard", "0/2", "--filter", "sampler_name=dpmpp_2m"]):
            plan = self.run_ok("plan", job, *parts).stdout
            done = self.run_ok("run", job, "-q", *parts, "-o", self.path("-".join(parts).replace("/", "of"))).stdout
            samples = int(done.split(" samples rendered")[0])
            rows = int(done.split(" network rows")[0].split()[-1]) + int(done.split(" saved by sharing")[0].split()[-1])
            self.assertIn(f"samples:        {samples} latents of 4 x 8 x 8, of 36 in the sweep", plan)
            self.assertIn(f"network rows:   {rows},", plan)
        self.assert_one_line(ksweep("plan", job, "--filter", "cfg=3"), "--filter cfg=3", "cfg has 1, 2, 4")

    def test_mistakes_are_told_before_anything_starts(self):
        job = self.job(**GRID)
        for text, word in ("cfg=3", "cfg has 1, 2, 4"), ("cgf=1", '"cfg"'), ("cfg", "AXIS=VALUES"), ("index=72", "0 to 71"):
            self.assert_one_line(ksweep("run", job, "--filter", text), f"--filter {text}: ", word)
        self.assert_one_line(ksweep("run", job, "--filter", "cfg=1", "--filter", "cfg=2"), "no sample")
        for shard in "3/3", "1", "x/2", "0/0":
            self.assert_one_line(ksweep("run", job, "--shard", shard), f"--shard {shard}: ")
        self.assertEqual(os.listdir(self.folder), ["job.json"])


class Shards(Sweeps):
    def finish_all(self, processes):
        outputs = [p.communicate(timeout=300) for p in processes]
        self.assertEqual([p.returncode for p in processes], [0] * len(processes), outputs)
        return [out for out, _ in outputs]

    def test_three_at_once_give_the_file_of_one_run(self):
        job = self.job(**GRID)
        outputs = self.finish_all([start("run", job, "-t", 1, "-q", "--shard", f"{i}/3") for i in range(3)])
        rendered = [int(text.split()[0]) for text in outputs]
        self.assertEqual(sum(rendered), 72, outputs)
        self.assertEqual(rendered, [24, 24, 24])
        self.assertEqual(sum(text.rstrip().endswith("out.h5") for text in outputs) >= 1, True, outputs)
        self.assertFalse(os.path.exists(self.path("out.h5.d")))
        self.run_ok("run", job, "-o", self.path("whole.h5"))
        self.assert_same_rows("out.h5", "whole.h5")
        self.assert_good("out.h5")
        self.assertIn("there already", self.run_ok("run", job, "--shard", "1/3").stdout)

    def test_one_after_the_other_the_last_one_collects(self):
        job = self.job(**GRID)
        for i in range(3):
            done = self.run_ok("run", job, "-q", "--shard", f"{i}/3", launcher=mpirun(2) if i == 1 else ())
            if i < 2:
                self.assertIn(f"this part is done; {48 - 24 * i} of 72 samples are still missing", done.stdout)
                self.assertFalse(os.path.exists(self.path("out.h5")))
                self.assertEqual(ksweep("status", self.path("out.h5")).returncode, 75)
        self.assertFalse(os.path.exists(self.path("out.h5.d")))
        self.run_ok("run", job, "-o", self.path("whole.h5"))
        self.assert_same_rows("out.h5", "whole.h5")

    def test_a_part_that_is_done_renders_nothing_again(self):
        job = self.job(**GRID)
        self.run_ok("run", job, "-q", "--shard", "0/2")
        shards = glob.glob(self.path("out.h5.d/shard-*"))
        again = self.run_ok("run", job, "-q", "--shard", "0/2")
        self.assertNotIn("rendered", again.stdout)
        self.assertIn("this part is done; 36 of 72 samples are still missing", again.stdout)
        self.assertEqual(shards, glob.glob(self.path("out.h5.d/shard-*")))

    def test_a_run_of_the_whole_takes_up_what_parts_have_left(self):
        job = self.job(**GRID)
        self.run_ok("run", job, "-q", "--shard", "2/3")
        self.assertIn("48 samples rendered", self.run_ok("run", job, "-q").stdout)
        self.assertEqual(self.table()["status"].tolist(), [1] * 72)

    def test_parts_of_what_passes_a_filter(self):
        job = self.job(**GRID)
        first = self.run_ok("run", job, "-q", "--shard", "0/2", "--filter", "cfg=2")
        self.assertIn("12 of 24 samples are still missing", first.stdout)
        self.run_ok("run", job, "-q", "--shard", "1/2", "--filter", "cfg=2")
        self.assertEqual((self.table()["status"] == 1).tolist(), (self.table()["index"] // 6 % 3 == 1).tolist())

    def test_parts_keep_the_rows_of_a_call_that_the_first_chose(self):
        job = self.job(**dict(GRID, parallel={}))
        for i in range(3):
            self.run_ok("run", job, "-q", "--shard", f"{i}/3", "-t", 1 + 8 * (i == 1))
        self.assertIn("3 samples rendered again, 0 different", self.run_ok("verify", self.path("out.h5"), "--sample", 3).stdout)

    def test_a_part_that_was_killed_goes_on(self):
        job = self.job(seed={"count": 24}, steps=16, latent_image={"width": 128, "height": 128})
        victim = start("run", job, "-q", "-t", 1, "--shard", "0/2")
        other = start("run", job, "-q", "-t", 1, "--shard", "1/2")
        self.wait_for_samples(victim, self.path("out.h5"), 4)
        kill_all(victim)
        victim.communicate()
        self.assertIn("still missing", self.finish_all([other])[0])
        self.run_ok("run", job, "-q", "--shard", "0/2")
        self.assertFalse(os.path.exists(self.path("out.h5.d")))
        self.run_ok("run", job, "-q", "-o", self.path("whole.h5"))
        self.assertEqual(self.latents(self.path("out.h5")).tobytes(), self.latents(self.path("whole.h5")).tobytes())


class TwoRuns(Sweeps):
    LONG = {"seed": {"count": 400}, "steps": 20, "latent_image": {"width": 128, "height": 128}}

    def test_a_second_run_at_an_output_is_refused_until_the_first_has_gone(self):
        job = self.job(**self.LONG)
        for first, second in ((), ()), (("--shard", "0/2"), ()), ((), ("--shard", "0/2")), (("--shard", "1/2"),) * 2:
            process = start("run", job, "-q", *first)
            while not glob.glob(self.path("out.h5.d/*.lock")):  # the samples may be those of the runs before
                self.assertIsNone(process.poll())
                time.sleep(0.02)
            self.wait_for_samples(process, self.path("out.h5"), 1)
            line = self.assert_one_line(ksweep("run", job, "-q", *second), "out.h5 is being written by another run",
                                        f"process {process.pid} on ")
            self.assertIn("--shard", line)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            self.assertEqual(process.returncode, 75)
            self.assertEqual(glob.glob(self.path("out.h5.d/*.lock")), [])

    def test_looking_at_an_output_is_never_refused(self):
        job = self.job(**self.LONG)
        process = start("run", job, "-q")
        self.wait_for_samples(process, self.path("out.h5"), 2)
        self.assertEqual(ksweep("status", self.path("out.h5")).returncode, 75)
        self.run_ok("show", self.path("out.h5"), 0)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

    def test_a_run_whose_place_was_taken_stops(self):
        job = self.job(**self.LONG)
        process = start("run", job, "-q")
        self.wait_for_samples(process, self.path("out.h5"), 1)
        with open(self.path("out.h5.d", "run.lock"), "w") as f:
            f.write("host=far boot=another space=1 pid=12 started=3 claim=0\n")
        _, text = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 2, text)
        self.assertIn("another run has taken this one's place", text)
        self.assertTrue(os.path.exists(self.path("out.h5.d", "run.lock")))


class Show(Sweeps):
    def again(self, out, row, name="again.json"):
        """What the job that `ksweep show` prints renders, run in another folder: its output's path."""
        os.makedirs(self.path("elsewhere"), exist_ok=True)
        job = self.path("elsewhere", name)
        with open(job, "w") as f:
            f.write(self.run_ok("show", out, row).stdout)
        again = self.path("elsewhere", f"{row}.h5")
        self.run_ok("run", job, "-q", "-o", again)
        return job, again

    def test_every_row_of_a_mixed_sweep_renders_again_with_the_same_bits(self):
        context = np.random.default_rng(3).normal(size=(1, 9, 128)).astype(np.float32)
        write_safetensors(self.path("c.safetensors"), {"a": context})
        job = self.job(
            positive=["a \"red\" circle \\ 星", [{"file": "c.safetensors", "cond": "a", "strength": 0.25}, "a star"]],
            negative=["", {"file": "c.safetensors", "cond": "a"}], denoise=[1.0, 0.6], scheduler=["karras", "beta"],
            sampler_name=["euler_ancestral", "dpmpp_2m", "dpm_adaptive"], cfg=[1.0, 3.3], steps=[4, 5],
            seed=[2**64 - 1, 2**53 + 1, 3], noise_device="cuda:108", zsnr=True, prediction="v",
            parallel={"batch_rows": 5}, sweep=[["denoise", "scheduler"], ["cfg", "steps"]])
        self.run_ok("run", job, "-q")
        rows, latents = self.table(), self.latents(self.path("out.h5"))
        self.assertEqual(len(rows), 144)
        self.assertTrue((rows["status"] == 1).all())
        for r in range(0, 144, 11):
            made, again = self.again(self.path("out.h5"), r)
            self.assertEqual(self.latents(again).tobytes(), latents[r].tobytes(), made)
            with h5py.File(again) as f:
                self.assertEqual(f["samples"]["key"][0].tolist(), rows["key"][r].tolist())
                self.assertEqual(int(f.attrs["batch_rows"]), 5)

    def test_values_from_files_are_written_out(self):
        os.makedirs(self.path("sets"))
        write_safetensors(self.path("sets", "c.safetensors"), {"a": np.ones((7, 128), np.float32)})
        self.write("sets/p.jsonl", '{"p": "a star", "s": 7}\n{"p": {"file": "c.safetensors", "cond": "a"}, "s": "8"}\n')
        self.run_ok("run", self.job(positive={"jsonl": "sets/p.jsonl", "key": "p"}, seed={"jsonl": "sets/p.jsonl", "key": "s"}))
        latents = self.latents(self.path("out.h5"))
        jobs = [self.again(self.path("out.h5"), r) for r in range(4)]
        for r, (_, again) in enumerate(jobs):
            self.assertEqual(self.latents(again).tobytes(), latents[r].tobytes())
        os.remove(self.path("sets", "p.jsonl"))
        self.run_ok("plan", jobs[3][0])

    def test_a_row_of_a_batch_brings_its_batch(self):
        latent = np.random.default_rng(5).normal(size=(2, 4, 8, 8)).astype(np.float32)
        write_safetensors(self.path("x.latent"), {"latent_tensor": latent, "latent_format_version_0": latent[0, 0, 0]})
        self.run_ok("run", self.job(latent_image={"file": "x.latent", "batch_index": [4, 1]}, denoise=0.7, seed=[1, 2],
                                    steps=4, parallel={"batch_rows": 3}))
        for r in range(4):
            _, again = self.again(self.path("out.h5"), r)
            batch = self.latents(self.path("out.h5"))[r - r % 2:r - r % 2 + 2]
            self.assertEqual(self.latents(again).tobytes(), batch.tobytes())

    def test_the_job_is_complete_and_its_paths_absolute(self):
        self.run_ok("run", self.job(seed=[5, 2**64 - 1], output={"file": "out.h5", "images": True, "latents": "float16"}))
        job = json.loads(self.run_ok("show", self.path("out.h5"), 1).stdout)
        self.assertEqual(job["model"], os.path.realpath(DEMO))
        self.assertEqual(job["seed"], str(2**64 - 1))
        self.assertEqual(job["output"], {"file": os.path.realpath(self.path("out")) + "-row-1.h5", "latents": "float16",
                                         "images": True})
        self.assertEqual((job["precision"], job["device"], job["prediction"], job["zsnr"], job["noise_device"]),
                         ("fp32", "cpu", "eps", False, "cuda"))
        self.assertGreater(job["parallel"]["batch_rows"], 0)
        self.assertNotIn("sweep", job)

    def test_mistakes(self):
        self.run_ok("run", self.job())
        self.assert_one_line(ksweep("show", self.path("out.h5"), 1), "there is no row 1")
        self.assert_one_line(ksweep("show", self.path("out.h5"), "x"), "no whole number")
        self.assert_one_line(ksweep("show", self.path("out.h5")), "number of a row")
        self.assert_one_line(ksweep("show", self.path("none.h5"), 0), "none.h5")


if __name__ == "__main__":
    unittest.main()
