"""Runs of ksweep whose file operations fail or kill it, by the library of file_shim.c."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../e2e"))
from support import KSWEEP, MPI, Case  # noqa: E402

SHIM = os.environ["KSWEEP_FILE_SHIM"]


def environment(**faults):
    return dict(MPI, LD_PRELOAD=SHIM, **{name: str(value) for name, value in faults.items()})


class FaultCase(Case):
    def with_faults(self, *args, **faults):
        """ksweep to its end under the shim; the keys are the shim's variables."""
        return subprocess.run([KSWEEP, *map(str, args)], env=environment(**faults), text=True, capture_output=True, timeout=300)
