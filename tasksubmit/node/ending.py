"""Work that takes a while to end: whoever gives it up waits for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred

T = TypeVar("T")


async def to_its_end(work: Deferred[T], interrupt: Callable[[], None]) -> T:
    """Wait for ``work``. When that is cancelled, ``interrupt`` it, wait until it has fired, and raise the cancellation.

    A Deferred that is cancelled itself fires at once, whatever goes on behind it.
    """
    wanted: Deferred[Any] = Deferred()
    over: Deferred[None] = Deferred()

    def end(result: object) -> None:
        if not wanted.called:
            wanted.callback(result)  # a Failure starts the errback chain
        over.callback(None)

    work.addBoth(end)
    try:
        result: T = await wanted
        return result
    except CancelledError:
        if not over.called:
            interrupt()
            await over
        raise
