"""The watchdog of the tests' processes: whatever becomes of the tests, nothing that they started stays."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import run, start, until

PROGRAM = """
import os, subprocess, sys, time
from tests.processes import watch
watch()
child = subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


class ProcessesTests(SynchronousTestCase):
    """Processes that tests start."""

    def test_nothing_outlives_the_tests(self) -> None:
        """When the process that runs the tests is killed, all that it started is killed, daemons included."""
        if not Path("/proc/self/environ").exists():
            raise SkipTest("the environment of other processes can be seen on Linux only")
        checkout = Path(__file__).resolve().parents[1]
        tests = start(self, [sys.executable, "-c", PROGRAM], cwd=checkout, stdout=-1)
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        self.assertTrue(Path(f"/proc/{pid}").exists())
        tests.kill()
        until(lambda: not _is_alive(pid), "the daemon is still there")

    def test_end_of_a_test(self) -> None:
        """A process, and its group, is killed when its test is over."""
        case = SynchronousTestCase()
        process = start(case, ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=-1)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        case.doCleanups()
        until(lambda: not _is_alive(pid), "the child is still there")
        self.assertIsNotNone(process.returncode)

    def test_run(self) -> None:
        """A program that runs to its end gives what it printed and how it ended."""
        done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], capture_output=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (3, "out\n", "err\n"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
