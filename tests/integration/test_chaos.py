"""A short chaos run, and what a run leaves that is killed; ``python -m tests.chaos`` is the long one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.chaos.sweeper import processes_with
from tests.docs.pages import ROOT
from tests.processes import LONGEST_SECONDS, start, until

SMALL = ("--rounds", "1", "--window", "3.5", "--tasks", "14", "--longest-fault", "2", "--no-silence")


class ChaosTests(SynchronousTestCase):
    """Four nodes in processes of their own."""

    @override
    def setUp(self) -> None:
        if not sys.platform.startswith("linux"):
            raise SkipTest("the run finds its processes by what Linux tells of them")
        self.directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))
        self.addCleanup(self.clean_up)

    def clean_up(self) -> None:
        """Remove the directory, unless a run has kept something in it."""
        if not list(self.directory.glob("*-kept-*")):
            shutil.rmtree(self.directory, ignore_errors=True)

    def run_chaos(self, *options: str) -> subprocess.Popen[str]:
        """Start a run; all its files are in the directory."""
        return start(
            self,
            [sys.executable, "-m", "tests.chaos", *SMALL, *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def left(self) -> list[str]:
        """Processes, mounts and files of the run."""
        processes = [*processes_with(str(self.directory)).values()]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(self.directory) in line]
        return [*processes, *mounts, *map(str, self.directory.iterdir())]

    def test_both_sides_agree(self) -> None:
        """After two faults at the same time all tasks end by themselves, and both sides of each say the same."""
        process = self.run_chaos("--seed", "1")
        output, _ = process.communicate(timeout=2 * LONGEST_SECONDS)
        self.assertEqual(process.returncode, 0, output)
        self.assertEqual(self.left(), [])

    def test_killed(self) -> None:
        """A run that is interrupted, or killed, leaves no process, no mount and no file."""
        for number in (signal.SIGINT, signal.SIGKILL):
            process = self.run_chaos("--seed", "2")
            nodes = "tests.chaos.child"
            until(lambda nodes=nodes: any(nodes in one for one in self.left()), "no node was started")
            process.send_signal(number)
            self.assertNotEqual(process.wait(LONGEST_SECONDS), 0)
            until(lambda: not self.left(), f"something is left after signal {number}")
