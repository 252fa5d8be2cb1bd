"""The command that measures: that it runs, and that it says what it lacks before it measures anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.processes import run
from tests.tiers import tier

ROOT = Path(__file__).parents[2]


class BenchmarksTests(SynchronousTestCase):
    """``python -m benchmarks``."""

    def run_benchmarks(self, *options: str, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
        """Run it in the checkout, with the programs on ``path`` at hand."""
        return run(
            [sys.executable, "-m", "benchmarks", *options],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    @tier("full")
    def test_submissions(self) -> None:
        """It measures a node, finds all that was acknowledged, and prints how many a second that were."""
        done = self.run_benchmarks("--quick", "--only", "submissions", "--shape", "2x4")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stdout, r"(?m)^ *tasksubmit +2x4 +[1-9][0-9,]* ")

    def test_missing(self) -> None:
        """Without a rival's server it ends at once, with a line that says what to install or how to go on."""
        done = self.run_benchmarks("--quick", "--only", "rivals", path="/nowhere")
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn("redis-server", done.stderr)
        self.assertIn("--without", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertNotIn("per second", done.stdout)

    def test_nothing_to_measure(self) -> None:
        """Numbers that leave nothing to measure are refused, and not taken for none that were given."""
        for wrong in (("--rounds", "0"), ("--seconds", "nan")):
            done = self.run_benchmarks("--quick", "--only", "results", *wrong)
            expected = (1, "benchmarks: --seconds and --rounds must be more than 0\n")
            self.assertEqual((done.returncode, done.stderr), expected, wrong)

    def test_documented_options(self) -> None:
        """Every option that the page on it names is there."""
        page = (ROOT / "docs" / "benchmarks.rst").read_text()
        named = set(re.findall(r"``(--[a-z]+)``", page))
        self.assertGreater(len(named), 3)
        self.assertEqual(named - set(re.findall(r"--[a-z]+", self.run_benchmarks("--help").stdout)), set())
