"""The page about the test kit: every sample is run as it stands there, by pytest and by trial."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

from twisted.trial.unittest import TestCase
from typing_extensions import override

from tests.docs.pages import ROOT, blocks
from tests.processes import run
from tests.tiers import tier

PAGE = ROOT / "docs" / "testing.rst"


def samples(page: Path, language: str) -> list[str]:
    """The samples of one language on a page."""
    return [block.text for block in blocks(page) if block.language == language]


class PageTests(TestCase):
    """``docs/testing.rst``."""

    @override
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.samples = "\n\n".join(samples(PAGE, "python"))
        (self.directory / "test_samples.py").write_text(self.samples)

    def run_with(self, *command: str) -> str:
        """Run a program on the samples; gives what it printed."""
        done = run(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    @tier("full")
    def test_pytest(self) -> None:
        """Every sample passes in pytest, where a warning is an error: functions, fixtures and test cases."""
        printed = self.run_with("pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_samples.py")
        functions = len(re.findall(r"^def test_|^    def test_", self.samples, re.M))
        [passed] = re.findall(r"(\d+) passed", printed)
        self.assertGreater(functions, 10)
        self.assertGreater(int(passed), functions + 60)  # the contracts have many
        self.assertNotIn("failed", printed)

    def test_readme(self) -> None:
        """The sample in the README is the first one of the page."""
        [sample] = [block for block in samples(ROOT / "README.rst", "text") if "Agents()" in block]
        self.assertIn(indent(sample, "    "), samples(PAGE, "python")[0])

    def test_trial(self) -> None:
        """The samples that are test cases pass in trial."""
        printed = self.run_with("twisted.trial", "--temp-directory=trial", "test_samples")
        self.assertRegex(printed, r"PASSED \(.*successes=\d{2,}\)")
        self.assertIn("test_held", printed)
