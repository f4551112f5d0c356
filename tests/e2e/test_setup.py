"""jobs/setup.sh where packages cannot be installed: it says so and goes on with what is there."""
import os
import subprocess
import unittest

from support import ROOT, Case


class Packages(Case):
    def install(self, **programs):
        """install_packages with programs of this test's own in place of the system's; None: it is not there."""
        for name in "bash", "id", "dirname":
            os.symlink(subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip(), self.path(name))
        for name, script in programs.items():
            with open(self.path(name.replace("_", "-")), "w") as f:
                f.write(f"#!{self.path('bash')}\n{script}\n")
            os.chmod(self.path(name.replace("_", "-")), 0o755)
        script = f'source {ROOT}/jobs/setup.sh; install_packages one two && echo went on'
        return subprocess.run([self.path("bash"), "-c", script], env={"PATH": self.folder}, text=True,
                              capture_output=True, timeout=60)

    def check(self, done, *words):
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("went on", done.stdout)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_apt_that_fails(self):
        done = self.install(dpkg_query="exit 1", apt_get="exit 100", sudo='exec "$@"', env='shift; exec "$@"')
        self.check(done, "one two", "apt-get failed")

    def test_no_apt(self):
        self.check(self.install(dpkg_query="exit 1"), "one two", "no apt-get")

    def test_nothing_is_missing(self):
        done = self.install(dpkg_query="printf installed", apt_get="exit 100")
        self.check(done)
        self.assertEqual(done.stderr, "")


if __name__ == "__main__":
    unittest.main()
