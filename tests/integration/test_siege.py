"""A short siege: see `tests.integration.siege` for the long one."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.protocol.bounds import LEAST_BUFFERED_BYTES, Bounds
from tests.integration.siege import MIB, Plan, lay_siege
from tests.tiers import tier


@tier("full")
class SiegeTests(SynchronousTestCase):
    """A node in a process of its own."""

    def test_siege(self) -> None:
        """Under slow connections, churn and a flood at once the node stays under its ceiling and serves the honest."""
        if not sys.platform.startswith("linux") or not Path("/proc/self/clear_refs").exists():
            raise SkipTest("the kernel tells the peak of a process's memory on Linux only")
        # Room for all of them: a busy node may not have come yet to those that are gone.
        bounds = Bounds(max_connections=500, max_buffered_bytes=LEAST_BUFFERED_BYTES)
        sizes = {"dribble": 200, "come_and_go": 200, "flood": 4}
        plan = Plan(
            seconds=5, sizes=sizes, only="all at once", bounds=bounds, dribble_bytes=MIB // 2, large_bytes=2 * MIB
        )
        self.assertEqual(lay_siege(plan), [])
