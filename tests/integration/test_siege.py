"""A short siege: see `tests.integration.siege` for the long one."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.protocol.bounds import LEAST_BUFFERED_BYTES, Bounds
from tests.integration.siege import WITH_KEYS, Plan, lay_siege, share_plan
from tests.integration.siege_shares import MIB, SHARES
from tests.tiers import tier


@tier("full")
class SiegeTests(SynchronousTestCase):
    """A node in a process of its own."""

    def setUp(self) -> None:
        if not sys.platform.startswith("linux") or not Path("/proc/self/clear_refs").exists():
            raise SkipTest("the kernel tells the peak of a process's memory on Linux only")

    def test_siege(self) -> None:
        """Under slow connections, churn and a flood at once the node stays under its ceiling and serves the honest."""
        # Room for all of them: a busy node may not have come yet to those that are gone.
        bounds = Bounds(max_connections=500, max_buffered_bytes=LEAST_BUFFERED_BYTES)
        sizes = {"dribble": 200, "come_and_go": 200, "flood": 4}
        plan = Plan(
            seconds=5, sizes=sizes, only="all at once", bounds=bounds, dribble_bytes=MIB // 2, large_bytes=2 * MIB
        )
        self.assertEqual(lay_siege(plan), [])

    def test_lock_out(self) -> None:
        """Connections from the honest peer's own host that say nothing, and are renewed, do not keep it out."""
        self.assertEqual(lay_siege(Plan(seconds=5, sizes={"idle": 520}, only="idle", large_bytes=2 * MIB)), [])

    def test_keys(self) -> None:
        """Large certificates, and silent connections from the honest peer's host, neither stop a node with keys nor
        have it take more memory than small limits allow.
        """
        bounds = Bounds(max_connections=100, max_buffered_bytes=LEAST_BUFFERED_BYTES)
        plan = Plan(seconds=5, sizes=WITH_KEYS, has_keys=True, only="all at once", bounds=bounds, large_bytes=MIB)
        self.assertEqual(lay_siege(plan), [])

    def test_share_of_disk(self) -> None:
        """A peer that submits large tasks and withdraws them, or withdraws tasks that were never there, takes no more
        of the disk than its share.
        """
        for name in ("disk", "withdraw"):
            self.assertEqual(lay_siege(share_plan(SHARES[name], 4)), [], name)

    def test_share_of_queue(self) -> None:
        """A peer that keeps the queue full delays another by as many tasks as may be open, with fair share by a turn,
        also where it has no limits.
        """
        for name in ("order", "turns", "turns_without_limits"):
            self.assertEqual(lay_siege(share_plan(SHARES[name], 4)), [], name)
