"""Work on what is large is done in a thread, so that meanwhile others are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool

T = TypeVar("T")

LARGE_BYTES = 256 * 1024
"""From this size on a message is encoded and decoded in a thread: it takes a millisecond."""

_locks: WeakKeyDictionary[IReactorThreads, DeferredLock] = WeakKeyDictionary()
"""With each reactor one at a time: it takes several times its size, and two would only wait for the interpreter, and
keep the reactor from it."""


class Elsewhere(Protocol):
    """`do_elsewhere` of a clock."""

    def __call__(self, size_bytes: int, call: Callable[[], T]) -> Deferred[T]: ...


def do_elsewhere(clock: IReactorTime, size_bytes: int, call: Callable[[], T]) -> Deferred[T]:
    """Do ``call`` in a thread of the reactor's if it is about much, and the clock is a reactor that has threads.

    :returns: fires with what it returned, or fails with what it raised; at once if it is about little.
    """
    if size_bytes >= LARGE_BYTES and IReactorThreads.providedBy(clock):
        return _locks.setdefault(clock, DeferredLock()).run(deferToThreadPool, clock, clock.getThreadPool(), call)
    return maybeDeferred(call)
