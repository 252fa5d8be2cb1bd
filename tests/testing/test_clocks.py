"""The clock of one process among several."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.testing.clocks import ProcessClock


class ProcessClockTests(SynchronousTestCase):
    """Two processes on one clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(5)
        self.here, self.there = ProcessClock(self.clock), ProcessClock(self.clock)
        self.called: list[str] = []

    def test_shared(self) -> None:
        """Both tell the same time, and each knows its own calls only."""
        call = self.here.callLater(1, self.called.append, "here")
        self.there.callLater(2, self.called.append, "there")
        self.assertEqual((self.here.seconds(), self.there.seconds()), (5, 5))
        self.assertEqual(list(self.here.getDelayedCalls()), [call])
        self.clock.advance(1)
        self.assertEqual((self.called, list(self.here.getDelayedCalls())), (["here"], []))

    def test_kill(self) -> None:
        """A dead process has nothing called, neither what it wanted before nor what it wants after."""
        self.here.callLater(1, self.called.append, "before")
        self.there.callLater(1, self.called.append, "of another")
        self.here.kill()
        self.here.callLater(1, self.called.append, "after")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(2)
        self.assertEqual(self.called, ["of another"])

    def test_many(self) -> None:
        """What was called long ago is not kept; what is still to come is killed, however much there is."""
        for _ in range(1000):
            self.here.callLater(0, self.called.append, "soon")
            self.clock.advance(0)
        self.assertLess(len(self.here._calls), 200)
        for _ in range(1000):
            self.here.callLater(1, self.called.append, "never")
        self.here.kill()
        self.clock.advance(1)
        self.assertEqual(self.called, ["soon"] * 1000)
