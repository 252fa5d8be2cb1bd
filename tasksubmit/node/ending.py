"""Work that takes a while to end: whoever gives it up waits for that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred

T = TypeVar("T")


async def to_its_end(work: Deferred[T], interrupt: Callable[[], None]) -> T:
    """Wait for ``work``. When that is cancelled, ``interrupt`` it, wait until it has fired, and raise the cancellation.

    To cancel it once more changes nothing. A Deferred that is cancelled itself fires at once, whatever goes on behind
    it.
    """
    wanted: Deferred[Any] = Deferred()
    waiting: Deferred[Any] = wanted
    is_over = False

    def end(result: object) -> None:
        nonlocal is_over
        is_over = True
        if not waiting.called:
            waiting.callback(result if waiting is wanted else None)  # a Failure starts the errback chain

    work.addBoth(end)
    try:
        result: T = await wanted
        return result
    except CancelledError:
        if not is_over:
            interrupt()
        while not is_over:
            waiting = Deferred()
            with suppress(CancelledError):
                await waiting
        raise
