"""The clock of one process of a test, which stops with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

_PRUNE = 64


@implementer(IReactorTime)
class ProcessClock:
    """Tells the time of a clock that many processes share, and calls what one of them wants called later.

    :ivar is_dead: whether the process was killed.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_dead = False
        self._clock = clock
        self._calls: list[IDelayedCall] = []
        self._prune_at = _PRUNE

    def seconds(self) -> float:
        """See ``IReactorTime.seconds``."""
        return self._clock.seconds()

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> IDelayedCall:
        """See ``IReactorTime.callLater``; a dead process has nothing called."""
        call = self._clock.callLater(delay, callable, *args, **kwargs)
        if self.is_dead:
            call.cancel()
            return call
        if len(self._calls) >= self._prune_at:
            self._calls = self._active()
            self._prune_at = 2 * len(self._calls) + _PRUNE
        self._calls.append(call)
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """See ``IReactorTime.getDelayedCalls``: those of this process."""
        return self._active()

    def kill(self) -> None:
        """The process is dead: nothing that it wanted called is called."""
        self.is_dead = True
        for call in self._active():
            call.cancel()
        self._calls = []

    def _active(self) -> list[IDelayedCall]:
        return [call for call in self._calls if call.active()]
