"""Tiers of tests: what the default tier leaves out is run by others."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import tiers
from tests.processes import run

ROOT = Path(__file__).resolve().parents[1]


class TiersTests(SynchronousTestCase):
    """Which tests run when."""

    def test_run_somewhere(self) -> None:
        """Each tier has a tox environment that requires it, and the continuous integration runs it."""
        tox = configparser.ConfigParser(interpolation=None)
        tox.read(ROOT / "tox.ini", encoding="utf-8")
        ci = (ROOT / ".ci" / "run").read_text()
        for name in tiers.TIERS:
            self.assertEqual(tox[f"testenv:{name}"]["set_env"], f"TASKSUBMIT_REQUIRE={name}")
            self.assertIn(f"{name}:tests", ci)

    def test_skipped(self) -> None:
        """A test of another tier is skipped, and says which command runs it; a required one runs."""
        self.patch(tiers, "REQUIRED", frozenset({"package"}))
        marked = [tiers.tier(name)(type("Tests", (), {})) for name in ("full", "package")]
        self.assertIn("tox -e full", marked[0].skip)
        self.assertFalse(hasattr(marked[1], "skip"))

    def test_sampled(self) -> None:
        """The default tier takes the same places each time, and with another seed others; ``full`` takes all."""
        self.patch(tiers, "IS_FULL", False)
        some = list(tiers.sampled(range(1000), 5))
        self.assertEqual(some, list(tiers.sampled(range(1000), 5)))
        self.assertTrue(100 < len(some) < 300, len(some))
        self.assertEqual([tiers.examples(count) for count in (5, 30, 200)], [5, 10, 40])
        self.patch(tiers, "SEED", 1)
        self.assertNotEqual(some, list(tiers.sampled(range(1000), 5)))
        self.patch(tiers, "IS_FULL", True)
        self.assertEqual(list(tiers.sampled(range(1000), 5)), list(range(1000)))
        self.assertEqual(tiers.examples(200), 200)

    def test_unknown(self) -> None:
        """A tier that does not exist is refused, in the variable and in a decorator."""
        environment = {**os.environ, "TASKSUBMIT_REQUIRE": "ful package"}
        done = run([sys.executable, "-c", "import tests.tiers"], env=environment, stderr=subprocess.PIPE)
        self.assertIn("ValueError: TASKSUBMIT_REQUIRE: the tiers are full, package, and not ful\n", done.stderr)
        self.assertRaises(ValueError, tiers.tier, "ful")
