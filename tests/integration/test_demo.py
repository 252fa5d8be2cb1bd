"""The demonstration, for real: two processes, their sockets and their disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.processes import run
from tests.tiers import tier

CHECKOUT = Path(__file__).resolve().parents[2]


class DemoTests(SynchronousTestCase):
    """``tasksubmit demo``."""

    @override
    def setUp(self) -> None:
        # Short, as the paths of sockets have to be.
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def demo(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return run(
            (sys.executable, "-m", "tasksubmit", "demo", *options),
            cwd=CHECKOUT,
            env={**os.environ, "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def test_story(self) -> None:
        """A task lives from its submission to its reward, each step has its command, and nothing is left behind."""
        done = self.demo()
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout + done.stderr)
        for verb in ("submit", "show", "accept", "queue", "execute", "send-results", "wait", "result", "score"):
            self.assertRegex(done.stdout, rf"\$ tasksubmit --state-dir \S+ {verb}\b")
        self.assertIn("SUCCEEDED, reward 1", done.stdout)
        self.assertIn("'6 words'", done.stdout)
        self.assertEqual(list(self.directory.iterdir()), [])

    @tier("full")
    def test_kept(self) -> None:
        """With --keep the two nodes' state stays, and --json prints the outcome alone."""
        done = self.demo("--keep", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout + done.stderr)
        outcome = json.loads(done.stdout)["data"]
        self.assertEqual(outcome["scores"], {"0:0000.0000.0001": -1, "0:0000.0000.0002": outcome["reward"]})
        (kept,) = self.directory.iterdir()
        result = kept / "submitter" / "state" / "results" / f"{outcome['task_id']}_report.txt"
        self.assertEqual(result.read_text("utf-8"), "6 words\n")
        self.assertFalse((kept / "submitter" / "state" / "control.sock").exists(), "a node was not stopped")

    def test_long_path(self) -> None:
        """Where the sockets cannot be, it says why, in one line."""
        self.directory = self.directory / ("x" * 100)
        self.directory.mkdir()
        done = self.demo()
        self.assertEqual(done.returncode, 3, done.stdout + done.stderr)
        self.assertIn("bytes long", done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertEqual(list(self.directory.iterdir()), [])
