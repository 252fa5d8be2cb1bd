"""The node's own time: that of the wall clock, but set with care."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.runtime import seconds as wall_seconds

from tasksubmit.lifecycle.task import from_milliseconds
from tasksubmit.protocol.arguments import CLOCK
from tasksubmit.validation import checked

TOLERANCE = timedelta(seconds=1)
"""By how much the wall clock may differ without having been set."""


class NodeClock:
    """What time it is, for records.

    It runs with the timers, which the setting of a clock does not touch, and follows the wall clock when it is told to.
    Whoever tells it has to move the times of what is under way, too, or deadlines would pass early, or not at all.

    :param timers: measure durations. A reactor whose ``seconds`` are the wall clock's own sees no jump, and is led
        astray by it.
    :param wall: seconds since 1970 by the wall clock; those of ``timers`` by default.
    """

    def __init__(self, timers: IReactorTime, wall: Callable[[], float] | None = None) -> None:
        self._timers = timers
        self._wall = timers.seconds if wall is None else wall
        self._offset = 0.0
        self.adopt()

    def now(self) -> datetime:
        """The time, in whole milliseconds."""
        # Rounded: 1000.29 seconds times 1000 is a little less than 1000290.
        return from_milliseconds(round((self._timers.seconds() + self._offset) * 1000))

    def jump(self) -> timedelta:
        """By how much the wall clock was set since it was last adopted; zero as long as it merely drifts."""
        difference = timedelta(seconds=self._wall() - self._timers.seconds() - self._offset)
        return difference if abs(difference) > TOLERANCE else timedelta(0)

    def adopt(self) -> None:
        """Be the wall clock's time from now on."""
        self._offset = self._wall() - self._timers.seconds()

    def move(self, by: timedelta) -> None:
        """Be so much later, or earlier, from now on."""
        self._offset += by.total_seconds()


def steady_seconds() -> float:
    """Seconds since some moment, which the setting of the clock does not touch; the time asleep counts, if it can."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@checked(reactor=CLOCK)
def use_steady_timers(reactor: Any) -> None:
    """Have the reactor's timers measure the time that passes.

    Twisted's own follow the wall clock: when that is set back by an hour, all of them stand still for an hour. To be
    called by whoever owns the process, before anything has a timer.
    """
    if reactor.seconds is wall_seconds and not reactor.getDelayedCalls():
        reactor.seconds = steady_seconds
