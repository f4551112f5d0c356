"""ksweep under a real Slurm: three nodes of this machine (slurm.sh), the scripts in slurm/, and ksweep submit."""
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import h5py

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../e2e"))
from support import KSWEEP, MPI, ROOT, Case, ksweep, mpirun  # noqa: E402

# Of a job that this test may itself run in, nothing is handed on. All nodes are this machine: Open MPI is to use loopback,
# and not to spin on a CPU that another rank needs.
ENV = {k: v for k, v in MPI.items() if not k.startswith(("SLURM_", "SBATCH_", "PMI", "OMPI_COMM_WORLD"))}
ENV.update(OMPI_MCA_btl_tcp_if_include="lo", OMPI_MCA_oob_tcp_if_include="lo",
           OMPI_MCA_mpi_yield_when_idle="1", KSWEEP=KSWEEP,
           SLURM_PMIX_FENCE="ring")  # as the scripts have it, for what is started by hand here
ENV["PATH"] += ":/usr/sbin:/sbin"
MPIRUN = {"LAUNCH": "mpirun --bind-to none"}
SAMPLES = 80
LONG = {"seed": {"start": 1, "count": SAMPLES}, "steps": 8, "parallel": {"batch_rows": 2},
        "output": {"file": "out.h5", "collect": "virtual"}}  # "virtual" leaves the shards for counting
SHORT = {"seed": {"start": 1, "count": 6}, "sampler_name": ["euler_ancestral", "heun"], "parallel": {"batch_rows": 4}}


def why_not():
    """What this machine lacks for a Slurm of its own; "" for nothing."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "unshare", "mpirun")
               if not shutil.which(name, path=ENV["PATH"])]
    if missing:
        return f"{', '.join(missing)} not found (packages slurm-wlm, munge, openmpi-bin)"
    if os.geteuid() != 0:
        return "only root can start slurmd"
    tried = subprocess.run(["unshare", "-m", "-u", "mount", "--make-rprivate", "/"], capture_output=True, text=True)
    return f"namespaces are not allowed here: {tried.stderr.strip()}" if tried.returncode else ""


def slurm(command, folder, *args):
    subprocess.run([os.path.join(HERE, "slurm.sh"), command, folder, *args], env=ENV, check=True, timeout=120)


def setUpModule():
    reason = why_not()
    if reason:
        print("Slurm tests are skipped:", reason)
        raise unittest.SkipTest(reason)
    global FOLDER
    FOLDER = tempfile.mkdtemp(prefix="slurm-", dir=os.environ.get("KSWEEP_TEST_FOLDER", "/var/tmp"))
    unittest.addModuleCleanup(shutil.rmtree, FOLDER)
    unittest.addModuleCleanup(slurm, "stop", FOLDER)
    slurm("start", FOLDER, ROOT, os.path.dirname(KSWEEP))
    ENV["SLURM_CONF"] = FOLDER + "/etc/slurm.conf"
    TimeLimit.begin()


def command(*args, env=None, **kwargs):
    return subprocess.run([str(a) for a in args], env=dict(ENV, **(env or {})), text=True, capture_output=True, timeout=120,
                          **kwargs)


def ok(*args, **kwargs):
    done = command(*args, **kwargs)
    if done.returncode:
        raise AssertionError(f"{args} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


class Job:
    """A job in the queue."""

    def __init__(self, answer, folder):
        self.id = re.search(r"\d+(_\d+)?", answer.splitlines()[-1]).group()
        self.folder = folder

    def shown(self):
        return dict(re.findall(r"(\w+)=(\S*)", ok("scontrol", "-o", "show", "job", self.id)))

    def log(self):
        text = ""
        for path in sorted(glob.glob(f"{self.folder}/*-{self.id}*.log")):
            with open(path) as f:
                text += f.read()
        return text

    def wait(self, wanted, what, seconds=120):
        """Polls until wanted(shown, log) holds; returns the log."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            shown, log = self.shown(), self.log()
            if wanted(shown, log):
                return log
            time.sleep(0.1)
        raise AssertionError(f"{seconds} s without {what}: {shown['JobState']}, {shown['Restarts']} restarts\n{log}")

    def wait_for_state(self, state):
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        log = self.wait(lambda shown, _: shown["JobState"] in (state, *ended), state)
        if self.shown()["JobState"] != state:
            raise AssertionError(f"{state} was expected: {self.shown()}\n{log}")
        return log


class SlurmCase(Case):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="test-", dir=FOLDER)

    def sbatch(self, script, *args, options=(), env=None):
        path = os.path.join(ROOT, "slurm", script + ".sbatch")
        return Job(ok("sbatch", "--parsable", *options, path, *args, env=env, cwd=self.folder), self.folder)

    def count(self, out):
        """Samples done, as ksweep status has it."""
        return int(ksweep("status", out).stdout.split(": ")[1].split()[0])

    def alone(self, job):
        """The latents of a run without Slurm and MPI."""
        self.run_ok("run", job, "-o", self.path("alone.h5"), "--set", "output.collect=merge")
        return self.latents(self.path("alone.h5")).tobytes()


class Launchers(SlurmCase):
    """One small job, rendered alone once, and then in every way that a batch system can start it."""

    reference = None

    def setUp(self):
        super().setUp()
        self.short = self.job(**SHORT)
        Launchers.reference = self.reference or self.alone(self.short)

    def check(self, name, log="", ranks=None):
        self.assertEqual(self.latents(self.path(name)).tobytes(), self.reference, log)
        if ranks:
            self.assertIn(f" on {ranks} rank{'s' if ranks > 1 else ''};", log)

    def test_srun_with_pmix_equals_a_run_alone(self):
        log = ok("srun", "--mpi=pmix", "-N2", "--ntasks-per-node=2", KSWEEP, "run", self.short, "-o", self.path("srun.h5"))
        self.check("srun.h5", log, 4)

    def test_mpirun_in_an_allocation_equals_a_run_alone(self):
        log = ok("salloc", "-Q", "-N2", "--ntasks-per-node=2", "mpirun", "--bind-to", "none", KSWEEP, "run", self.short, "-o",
                 self.path("mpirun.h5"))
        self.check("mpirun.h5", log, 4)

    def test_srun_of_one_task_needs_no_mpi(self):
        log = ok("srun", "--mpi=none", "-n1", KSWEEP, "run", self.short, "-o", self.path("one.h5"))
        self.check("one.h5", log, 1)

    def test_several_tasks_without_pmi_are_refused(self):
        done = command("srun", "--mpi=none", "-N2", "--ntasks-per-node=2", KSWEEP, "run", self.short)
        self.assertEqual(done.returncode, 2, done.stderr)
        told = [line for line in done.stderr.splitlines() if not line.startswith("srun:")]
        self.assertEqual(len(told), 1, done.stderr)
        self.assertIn("srun started 4 tasks without PMI", told.pop())
        self.assertFalse(os.path.exists(self.path("out.h5")) or os.path.exists(self.path("out.h5.d")))

    def test_the_one_node_script(self):
        one = self.sbatch("one-node", self.short, "-o", "one.h5")
        two = self.sbatch("one-node", self.short, "-o", "two.h5", options=["--ntasks-per-node=2", "--cpus-per-task=1"])
        self.check("one.h5", one.wait_for_state("COMPLETED"), 1)
        self.check("two.h5", two.wait_for_state("COMPLETED"), 2)

    def test_the_many_nodes_script_with_srun_and_with_mpirun(self):
        job = self.sbatch("many-nodes", self.short, "-o", "srun.h5", options=["--ntasks-per-node=2"])
        self.check("srun.h5", job.wait_for_state("COMPLETED"), 4)
        job = self.sbatch("many-nodes", self.short, "-o", "mpirun.h5", options=["--ntasks-per-node=2"], env=MPIRUN)
        self.check("mpirun.h5", job.wait_for_state("COMPLETED"), 4)

    def test_one_model_on_several_tasks(self):
        """Two such groups, with srun; one of tasks on two nodes, with mpirun; and a script of ksweep submit's."""
        split = "--set", "parallel.tensor=2"
        ok(*mpirun(2), KSWEEP, "run", self.short, "-o", self.path("plain.h5"), *split)
        reference = self.latents(self.path("plain.h5")).tobytes()
        jobs = {"srun": self.sbatch("replica", self.short, "-o", "srun.h5", options=["--nodes=2"]),
                "mpirun": self.sbatch("replica", self.short, "-o", "mpirun.h5", options=["--nodes=2", "--ntasks-per-node=1"], env=MPIRUN),
                "sub": Job(ok(KSWEEP, "submit", self.short, "--cpus-per-task", 1, "-o", "sub.h5", *split, cwd=self.folder), self.folder)}
        for name, job in jobs.items():
            log = job.wait_for_state("COMPLETED")
            self.assertEqual(self.latents(self.path(name + ".h5")).tobytes(), reference, log)
            self.assertIn(f" on {4 if name == 'srun' else 2} ranks;", log)
        job = self.sbatch("replica", self.short, options=["--ntasks-per-node=1"])
        self.assertIn("start 2, or another multiple of 2", job.wait_for_state("FAILED"))

    def test_an_array_shares_one_output(self):
        job = self.sbatch("array", self.short, "-o", "array.h5", options=["--array=0-3"])
        job.wait(lambda *_: ok("squeue", "-h", "-j", job.id) == "", "the end of the array")
        log = job.log()
        parts = [int(n) for n in re.findall(r"^(\d+) samples rendered", log, re.M)]
        self.assertEqual((len(parts), sum(parts)), (4, 12), log)
        self.check("array.h5", log)

    def test_variables_at_the_top_of_a_script_are_enough(self):
        with open(os.path.join(ROOT, "slurm/many-nodes.sbatch")) as f:
            text = f.read()
        text = text.replace("JOB=sweep.json", f"JOB={self.short}", 1)
        text = text.replace("OPTIONS=()", "OPTIONS=(-o set.h5 --set 'positive=a red circle')", 1)
        with open(self.path("own.sbatch"), "w") as f:
            f.write(text)
        job = Job(ok("sbatch", "--parsable", "own.sbatch", cwd=self.folder), self.folder)
        self.check("set.h5", job.wait_for_state("COMPLETED"), 2)

    def test_a_bad_job_fails_and_is_not_requeued(self):
        job = self.sbatch("preemptible", self.short, "--set", "steps=0")
        log = job.wait_for_state("FAILED")
        self.assertEqual(job.shown()["ExitCode"], "2:0")
        self.assertEqual(log.count("steps"), 1, log)

    def test_submit(self):
        script = ok(KSWEEP, "submit", self.short, "--nodes", 2, "--dry-run", cwd=self.folder)
        self.assertIn("#SBATCH --nodes=2\n", script)
        self.assertEqual(ok("squeue", "-h", "-n", "job"), "")
        answer = ok(KSWEEP, "submit", self.short, "--nodes", 2, "--tasks-per-node", 2, "--cpus-per-task", 1, "--time", 5,
                    "--partition", "debug", "-o", "sub.h5", "--set", "negative=", cwd=self.folder)
        self.assertRegex(answer, "Submitted batch job [0-9]+")
        job = Job(answer, self.folder)
        self.check("sub.h5", job.wait_for_state("COMPLETED"), 4)
        self.assertEqual((job.shown()["TimeLimit"], job.shown()["JobName"]), ("00:05:00", "job"))

    def test_a_submission_that_slurm_refuses_is_told(self):
        done = command(KSWEEP, "submit", self.short, "--partition", "none")
        self.assertEqual(done.returncode, 2)
        self.assertIn("sbatch did not take it", done.stderr)

    def test_the_line_for_gpus_can_be_switched_on(self):
        """sbatch passes over what stands behind the option."""
        for name in "one-node", "many-nodes", "preemptible", "array", "replica":
            with open(os.path.join(ROOT, "slurm", name + ".sbatch")) as f:
                text = re.sub(r"##(SBATCH --gpus-per-node)=\d+", r"#\1=2", f.read())
            with open(self.path(name), "w") as f:
                f.write(text)
            answer = ok("sbatch", "--parsable", "--hold", "--array=0" if name == "array" else "--nodes=1", self.path(name),
                        self.short, cwd=self.folder)
            job = Job(answer, self.folder)
            self.assertIn("gpu:2", job.shown()["TresPerNode"], name)
            ok("scancel", job.id)

    def told_devices(self, text):
        return sorted(re.findall(r"(node\d) task (\d) sees (\S*)", text))

    def test_gpus_are_those_that_slurm_gave(self):
        tell = self.path("tell")
        with open(tell, "w") as f:
            f.write('#!/bin/sh\necho "$(hostname) task $SLURM_LOCALID sees $CUDA_VISIBLE_DEVICES" >&2\n'
                    f'exec "{KSWEEP}" "$@"\n')
        os.chmod(tell, 0o755)
        answer = ok(KSWEEP, "submit", self.short, "--nodes", 2, "--gpus-per-node", 2, "-o", "g.h5", cwd=self.folder,
                    env={"KSWEEP": tell})
        log = Job(answer, self.folder).wait_for_state("COMPLETED")
        self.check("g.h5", log, 4)
        told = self.told_devices(log)
        self.assertEqual([t[1:] for t in told], [("0", "0,1"), ("1", "0,1")] * 2)
        self.assertEqual(len({t[0] for t in told}), 2)
        done = command("srun", "--mpi=pmix", "-N2", "--ntasks-per-node=2", "--gpus-per-task=1", tell, "run", self.short, "-o",
                       self.path("t.h5"))
        self.check("t.h5", done.stdout, 4)
        told = self.told_devices(done.stderr)
        self.assertEqual(len(set(told)), 4)
        self.assertEqual(sorted(t[2] for t in told), ["0", "0", "1", "1"])


class Stops(SlurmCase):
    """A job that is stopped half way, in many ways, loses nothing and renders nothing twice."""
    reference = None

    def setUp(self):
        super().setUp()
        self.long = self.job(**LONG)
        Stops.reference = self.reference or self.alone(self.long)

    def start(self, script, *options, **env):
        return self.sbatch(script, self.long, "-t", "1", options=options, env=env)

    def shards(self):
        return glob.glob(self.path("out.h5.d/shard-*.h5"))

    def done(self):
        """Samples that are on disk."""
        told = ksweep("status", self.path("out.h5"))
        return int(told.stdout.split(": ")[1].split()[0]) if told.returncode != 2 else 0

    def wait_for_rows(self, job, before=0):
        """Until more samples are on disk than before the present start of the job."""
        job.wait(lambda shown, _: self.done() > before or shown["JobState"] == "COMPLETED", "a finished sample")
        self.assertFalse(os.path.exists(self.path("out.h5")), "the job ended before it could be stopped\n" + job.log())

    def wait_for_requeue(self, job):
        """Until the first start of the job is over. How many samples are on disk then."""
        job.wait(lambda shown, _: (shown["Restarts"], shown["JobState"]) == ("1", "PENDING"), "a requeue")
        return self.done()

    def stop_with_usr1(self, job, before=0):
        """As Slurm does it before the time limit. How many samples the start had rendered."""
        self.wait_for_rows(job, before)
        ok("scancel", "-b", "-s", "USR1", job.id)
        self.wait_for_requeue(job)
        log = job.log()
        self.assertEqual(log.count("goes back into the queue"), 1, log)
        told = re.search(r"(\d+) samples rendered", log)
        self.assertTrue(told, f"{before} samples before, {self.done()} now\n{log}")
        return int(told.group(1))

    def check(self, log):
        """All of the sweep is in the shards, once, with the bits of an undisturbed run."""
        indices = []
        for path in self.shards():
            with h5py.File(path) as f:
                indices += f["samples"]["index"].tolist()
        self.assertEqual(sorted(indices), list(range(SAMPLES)), log)
        with h5py.File(self.path("out.h5")) as f:
            latents = f["latents"][...][f["row_of_index"][...]]
        self.assertEqual(latents.tobytes(), self.reference)

    def test_usr1_requeues_the_job_and_scancel_ends_it(self):
        job = self.start("preemptible")
        first = self.stop_with_usr1(job)
        self.assertGreater(first, 0)
        self.assertEqual(self.count(self.path("out.h5")), first)
        self.wait_for_rows(job, first)
        ok("scancel", job.id)
        log = job.wait_for_state("CANCELLED")
        self.assertEqual(log.count("goes back into the queue"), 1, log)
        done = self.done()
        self.assertGreater(done, first)

        again = self.start("preemptible", "--ntasks-per-node=2", **MPIRUN)
        second = self.stop_with_usr1(again, done)
        self.assertGreater(second, 0)
        log = again.wait_for_state("COMPLETED")
        self.assertIn(f"\n{SAMPLES - done - second} samples rendered", log)
        self.assertEqual((job.shown()["JobState"], job.shown()["Restarts"]), ("CANCELLED", "1"))
        self.check(log)

    def test_a_killed_task_ends_a_short_start_and_requeues_a_long_one(self):
        job = self.start("preemptible", "--ntasks-per-node=2")
        self.wait_for_rows(job)
        os.kill(self.pid_of_task(job, 3), signal.SIGKILL)
        self.assertNotIn("goes back into the queue", job.wait_for_state("FAILED"))
        job = self.start("preemptible", "--ntasks-per-node=2", RETRY_AFTER="0")
        self.wait_for_rows(job, self.done())
        os.kill(self.pid_of_task(job, 3), signal.SIGKILL)
        self.wait_for_requeue(job)
        self.assertRegex(job.log(), r"a task was killed \(exit code [0-9]+\): job [0-9]+ goes back into the queue")
        self.check(job.wait_for_state("COMPLETED"))

    def pid_of_task(self, job, task):
        """Of a task of the job's step: nodes share this machine's process numbers."""
        wanted = {f"SLURM_JOB_ID={job.id}", f"SLURM_PROCID={task}", "SLURM_STEP_ID=0"}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ") as f:
                    if wanted <= set(f.read().split("\0")) and os.readlink(f"/proc/{pid}/exe") == KSWEEP:
                        return int(pid)
            except OSError:
                pass
        self.fail(f"task {task} of job {job.id} is not there")

    def test_a_stopped_task_of_an_array_is_requeued_alone(self):
        job = self.start("array", "--array=0-1")
        last = Job(f"{job.id}_1", self.folder)
        last.wait(lambda *_: len(self.shards()) > 1, "a shard of each task")
        ok("scancel", "-b", "-s", "USR1", last.id)
        self.wait_for_requeue(last)
        self.assertEqual(Job(f"{job.id}_0", self.folder).shown()["Restarts"], "0")
        self.assertEqual(last.log().count("goes back into the queue"), 1)
        last.wait_for_state("COMPLETED")
        job.wait(lambda *_: ok("squeue", "-h", "-j", job.id) == "", "the end of the array")
        self.assertEqual(Job(f"{job.id}_0", self.folder).shown()["Restarts"], "0")
        self.check(job.log())

    def test_scontrol_requeue_and_a_kill_lose_nothing(self):
        job = self.start("preemptible", "--ntasks-per-node=2")
        self.wait_for_rows(job)
        ok("scontrol", "requeue", job.id)
        self.wait_for_rows(job, self.wait_for_requeue(job))
        ok("scancel", "--full", "-s", "KILL", job.id)
        log = job.wait(lambda shown, _: shown["JobState"] not in ("RUNNING", "COMPLETING"), "the end")
        self.assertNotIn("goes back into the queue", log)
        self.assertFalse(os.path.exists(self.path("out.h5")))
        self.check(self.start("many-nodes").wait_for_state("COMPLETED"))


class TimeLimit(SlurmCase):
    """Slurm itself sends the signal some time before the limit: within half a minute for a limit of one. The job runs beside
    the other tests, on what they leave of the CPUs; its second start has only to come."""

    NAME = "test_the_warning_before_the_time_limit_requeues_the_job"

    @classmethod
    def begin(cls):
        case = cls(cls.NAME)
        case.setUp()
        with open(case.path("gentle"), "w") as f:
            f.write(f'#!/bin/sh\n[ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] || exec nice -n 19 "{KSWEEP}" "$@"\n')
        os.chmod(case.path("gentle"), 0o755)
        endless = case.job(seed={"start": 1, "count": 10**6}, parallel={"batch_rows": 2})
        cls.limited = case.sbatch("preemptible", endless, "-t", "1", env={"KSWEEP": case.path("gentle")},
                                  options=["--nodes=1", "--time=1", "--signal=B:USR1@25"])

    def test_the_warning_before_the_time_limit_requeues_the_job(self):
        log = self.limited.wait_for_state("COMPLETED")
        self.assertEqual(self.limited.shown()["Restarts"], "1", log)
        self.assertIn("stopped: the same command goes on", log)
        rendered = int(re.search(r"(\d+) samples rendered", log).group(1))
        self.assertGreater(rendered, 0)
        self.assertEqual(self.count(self.limited.folder + "/out.h5"), rendered)


if __name__ == "__main__":
    unittest.main()
