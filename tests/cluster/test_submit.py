"""ksweep submit where there is no Slurm: the script it writes, and what it refuses."""
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from support import KSWEEP, MPI, ROOT, Case, ksweep  # noqa: E402


def body(script):
    return script[script.index("# --- nothing below"):]


class Submit(Case):
    def dry_run(self, *args):
        return self.run_ok("submit", *args, "--dry-run").stdout

    def directives(self, *args):
        return [line[8:] for line in self.dry_run(*args).splitlines() if line.startswith("#SBATCH ")]

    def submit(self, *args, sbatch=None):
        """With a folder in PATH that has this text as sbatch, and nothing else."""
        folder = self.path("bin")
        os.makedirs(folder, exist_ok=True)
        if sbatch is not None:
            with open(folder + "/sbatch", "w") as f:
                f.write("#!/bin/sh\n" + sbatch)
            os.chmod(folder + "/sbatch", 0o755)
        return subprocess.run([KSWEEP, "submit", *args], env=dict(MPI, PATH=folder), text=True, capture_output=True,
                              timeout=60)

    def test_every_option_has_its_line(self):
        lines = self.directives(self.job(), "--nodes", 3, "--gpus-per-node", 4, "--tasks-per-node", 2, "--cpus-per-task", 6,
                                "--time", "2-12", "--partition", "gpu,spot", "--account", "art", "--sbatch=--mem=64G",
                                "--sbatch", "--qos=low")
        self.assertEqual(lines, ["--job-name=job", "--output=%x-%j.log", "--nodes=3", "--ntasks-per-node=2",
                                 "--gpus-per-node=4", "--cpus-per-task=6", "--time=2-12", "--partition=gpu,spot",
                                 "--account=art", "--mem=64G", "--qos=low"])

    def test_what_is_not_said_is_one_whole_node_with_one_task(self):
        self.assertEqual(self.directives(self.job()), ["--job-name=job", "--output=%x-%j.log", "--nodes=1",
                                                       "--ntasks-per-node=1", "--exclusive"])

    def test_gpus_get_a_task_each(self):
        lines = self.directives(self.job(), "--gpus-per-node", 4)
        self.assertIn("--ntasks-per-node=4", lines)
        self.assertNotIn("--exclusive", lines)

    def test_the_tasks_that_have_one_model_are_counted(self):
        job = self.job(parallel={"tensor": 2, "rows": 2})
        for args, tasks in ([], 4), (["--nodes", 3], 4), (["--gpus-per-node", 8], 8), (["--nodes", 2, "--gpus-per-node", 2], 2):
            lines = self.directives(job, *args)
            self.assertIn(f"--ntasks-per-node={tasks}", lines)
            self.assertIn("--distribution=block", lines)
        self.assertNotIn("--distribution=block", self.directives(self.job(parallel={"tensor": 1})))
        spans = "the 4 tasks that have one model are on several nodes"
        job = self.job(parallel={"tensor": 2, "rows": 2})
        self.assertIn(spans, self.run_ok("submit", job, "--nodes", 2, "--gpus-per-node", 2, "--dry-run").stderr)
        self.assertNotIn(spans, self.run_ok("submit", job, "--gpus-per-node", 8, "--dry-run").stderr)
        self.assert_one_line(ksweep("submit", job, "--nodes", 3, "--gpus-per-node", 2, "--dry-run"), "job.json: parallel: one model is "
                             "on 4 tasks (tensor 2, rows 2), and 3 nodes of 2 tasks make no multiple of that")

    def test_the_script_for_one_model_is_the_preemptible_one(self):
        texts = []
        for name in "replica", "preemptible":
            with open(os.path.join(ROOT, "slurm", name + ".sbatch")) as f:
                texts.append(body(f.read()))
        self.assertEqual(texts[0].replace('OPTIONS+=(--set "parallel.tensor=$TENSOR" --set "parallel.rows=$ROWS")\n', ""), texts[1])

    def test_a_preemptible_job_requeues_and_is_warned(self):
        for time, seconds in ("1:00:00", 120), ("8:00", 120), ("4", 60), ("0-0:1", 15), (None, 120):
            limit = ["--time", time] if time else []
            lines = self.directives(self.job(), "--preemptible", *limit)
            for line in "--requeue", "--open-mode=append", f"--signal=B:USR1@{seconds}":
                self.assertIn(line, lines, time)

    def test_the_bodies_are_those_of_the_scripts_in_slurm(self):
        for name, options in ("many-nodes", []), ("one-node", []), ("preemptible", ["--preemptible"]):
            with open(os.path.join(ROOT, "slurm", name + ".sbatch")) as f:
                self.assertEqual(body(f.read()), body(self.dry_run(self.job(), *options)), name)

    def test_the_shell_reads_back_what_was_given(self):
        folder = self.path("a folder's $HOME \"here\"")
        os.mkdir(folder)
        os.rename(self.job(), folder + "/my job.json")
        sets = ["positive=it's a `dog` \\ $(x)", "cfg=[2,4]", "negative="]
        given = [x for s in sets for x in ("--set", s)]
        script = self.dry_run(folder + "/my job.json", "-o", folder + "/out.h5", *given)
        shown = subprocess.run(["bash", "-c", script.split("# --- nothing below")[0] +
                                'printf "%s\\0" "$JOB" "$KSWEEP" "${OPTIONS[@]}"'], text=True, capture_output=True,
                               env={"PATH": os.environ["PATH"]}, check=True).stdout.split("\0")[:-1]
        self.assertEqual(shown, [folder + "/my job.json", os.path.realpath(KSWEEP), "-o", folder + "/out.h5", *given])
        self.assertIn("#SBATCH --job-name=my_job\n", script)

    def test_a_relative_job_is_found_from_everywhere(self):
        self.job()
        done = subprocess.run([KSWEEP, "submit", "job.json", "-o", "o.h5", "--dry-run"], cwd=self.folder, env=MPI, text=True,
                              capture_output=True, check=True)
        self.assertIn(f"JOB={self.folder}/job.json\nOPTIONS=(-o {self.folder}/o.h5)\n", done.stdout)

    def test_a_dry_run_writes_nothing(self):
        job = self.job()
        self.dry_run(job)
        self.assertEqual(os.listdir(self.folder), ["job.json"])

    def test_bad_values_are_refused(self):
        job = self.job()
        for args in (["--time", "5m"], ["--time", "1:2:3:4"], ["--time", "0"], ["--time", "5:"], ["--time", "9" * 30],
                     ["--partition", "a b"], ["--partition", "x\n#SBATCH --mem=1"], ["--account", ""],
                     ["--account", "--nodes=9"], ["--sbatch", "mem=4G"], ["--sbatch", "--mem=1\nrm"], ["--nodes", "0"],
                     ["--gpus-per-node", "-1"], ["--tasks-per-node", "two"]):
            with self.subTest(args=args):
                done = ksweep("submit", job, *args, "--dry-run")
                self.assertIn(args[0], done.stderr)
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("ksweep: ")), (2, "", 1))
        self.assertEqual(os.listdir(self.folder), ["job.json"])

    def test_a_job_that_could_not_run_is_not_submitted(self):
        self.assert_one_line(ksweep("submit", self.job(steps=0)), "steps")
        self.assert_one_line(ksweep("submit", self.job(model="none.safetensors")), "none.safetensors")
        self.assertEqual(os.listdir(self.folder), ["job.json"])

    def test_an_output_that_cannot_be_written_is_not_submitted(self):
        job = self.job()
        for out, *words in ("none/x.h5", "none/x.h5", "No such file"), (".", "no regular file"), ("job.json", "no HDF5 file"):
            done = self.submit(job, "-o", self.path(out), sbatch="echo submitted")
            self.assert_one_line(done, *words)
            self.assertEqual(done.stdout, "")
            self.assertIn(out, self.run_ok("submit", job, "-o", self.path(out), "--dry-run").stdout)
        self.assert_one_line(self.submit(self.job(output={"file": "none/x.h5"}), sbatch="echo submitted"), "none/x.h5", "No such file")
        self.assertFalse(os.path.exists(self.path("job.sbatch")))
        self.run_ok("run", self.job())
        self.assert_one_line(self.submit(self.job(output={"file": "out.h5", "latents": "float16"})), "out.h5 was begun with")

    def test_an_array_is_refused(self):
        job = self.job()
        for option in "--array=0-1", "--array 0-1", "-a0-1", "-a 0-1", "--arr=3":
            with self.subTest(option=option):
                self.assert_one_line(ksweep("submit", job, "--sbatch=" + option), "--sbatch", option, "slurm/array.sbatch", "--shard")
        self.assertEqual(os.listdir(self.folder), ["job.json"])
        self.assertIn("--acctg-freq=30", self.directives(job, "--sbatch=--acctg-freq=30"))

    def test_the_scripts_say_that_gpus_want_as_many_tasks(self):
        for name in "one-node", "many-nodes", "preemptible", "array", "replica":
            with open(os.path.join(ROOT, "slurm", name + ".sbatch")) as f:
                line = next(line for line in f if line.startswith("##SBATCH --gpus-per-node"))
            self.assertIn("--ntasks-per-node", line, name)

    def test_sbatch_gets_the_script_and_its_answer_is_shown(self):
        done = self.submit(self.job(), sbatch='echo "Submitted batch job 7"; while read -r x; do echo "$x"; done <"$1"')
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stdout.splitlines()
        self.assertEqual(lines[:2], [self.path("job.sbatch"), "Submitted batch job 7"])
        self.assertIn("#SBATCH --nodes=1", lines)

    def test_without_sbatch_the_script_is_kept(self):
        self.assert_one_line(self.submit(self.job()), "job.sbatch", "sbatch", "No such file")
        self.assertTrue(os.path.exists(self.path("job.sbatch")))

    def test_an_sbatch_that_refuses_is_told(self):
        done = self.submit(self.job(), sbatch="exit 1")
        self.assert_one_line(done, "job.sbatch", "sbatch")

    def test_only_an_own_script_is_replaced(self):
        job = self.job()
        with open(self.path("job.sbatch"), "w") as f:
            f.write("#!/bin/bash\necho mine\n")
        self.assert_one_line(self.submit(job, sbatch=":"), "job.sbatch", "--script")
        with open(self.path("job.sbatch")) as f:
            self.assertEqual(f.read(), "#!/bin/bash\necho mine\n")
        for nodes in "1", "2":
            done = self.submit(job, "--script", self.path("own.sbatch"), "--nodes", nodes, sbatch=":")
            self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("own.sbatch")) as f:
            self.assertIn("--nodes=2\n", f.read())


class Requeue(Case):
    """The scripts that put their job back, with commands that stand in for Slurm's and for ksweep."""

    def command(self, name, text):
        with open(self.path(name), "w") as f:
            f.write("#!/bin/sh\n" + text)
        os.chmod(self.path(name), 0o755)
        return self.path(name)

    def put_back(self, script, code, retry_after):
        """Whether the job was put back after an end with the code; and what the script said."""
        self.command("squeue", "echo RUNNING")
        self.command("scontrol", 'echo "scontrol $*"')
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "KSWEEP": self.command("ksweep", f"exit {code}"),
               "RETRY_AFTER": str(retry_after), "SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2"}
        done = subprocess.run(["bash", f"{ROOT}/slurm/{script}.sbatch", "job.json"], env=env, text=True, capture_output=True, timeout=60)
        self.assertEqual(done.returncode, code, done.stderr)
        job = "5_2" if script == "array" else "7"
        self.assertIn(done.stdout.count(f"scontrol requeue {job}\n"), (0, 1))
        return "scontrol requeue" in done.stdout, done.stdout

    def test_what_puts_a_job_back(self):
        """75 does, and after some time every code that is none of ksweep's: launchers have 9, 14 or 137 for a killed task."""
        for script in "preemptible", "replica", "array":
            for code, at_once, later in (0, False, False), (1, False, False), (2, False, False), (75, True, True), (9, False, True), \
                    (14, False, True), (137, False, True):
                with self.subTest(script=script, code=code):
                    self.assertEqual(self.put_back(script, code, 300)[0], at_once)
                    back, said = self.put_back(script, code, 0)
                    self.assertEqual(back, later)
                    self.assertEqual("a task was killed" in said, later and code != 75)


if __name__ == "__main__":
    unittest.main()
