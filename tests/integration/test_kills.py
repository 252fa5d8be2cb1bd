"""A few kills of the many that ``python -m tests.integration.kills`` makes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from tests.integration.kills import MIN_IN_FLIGHT, Run
from tests.processes import LONGEST_SECONDS
from tests.tiers import tier

KILLS = int(os.environ.get("TASKSUBMIT_KILLS", "6"))

clock: Any = reactor


@tier("full")
class KillTests(TestCase):
    """Nodes that die in the middle of everything."""

    timeout = 2 * LONGEST_SECONDS + 10 * KILLS

    async def test_promises(self) -> None:
        """What was answered before a SIGKILL is true after it, once and whole, and all tasks come to an end."""
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        run = Run(clock, Path(directory.name), Random(1))
        figures = await run.run(KILLS)
        self.assertEqual(figures.faults, [], run.log_tails())
        self.assertEqual(figures.kills.total(), KILLS)
        self.assertGreaterEqual(min(figures.in_flight), MIN_IN_FLIGHT)
        self.assertEqual(figures.found["acknowledged"], figures.found["found"])
        self.assertEqual(figures.found["results"], figures.found["complete"])
