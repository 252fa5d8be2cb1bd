"""A clock that has threads, as a reactor has: their work is done when a test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from typing_extensions import override
from zope.interface import implementer

Work = Callable[[BaseException | None], object]


class SteppedPool(ThreadPool):
    """A pool without threads, which does the oldest of its work when it is told to."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.waiting: deque[Work] = deque()

    @override
    def callInThreadWithCallback(self, onResult: Any, func: Any, *args: object, **kw: object) -> None:
        def work(fault: BaseException | None) -> None:
            try:
                if fault is not None:
                    raise fault
                result = func(*args, **kw)
            except Exception:
                onResult(False, Failure())
            else:
                onResult(True, result)

        self.waiting.append(work)


@implementer(IReactorThreads)
class ThreadedClock(Clock):
    """A clock whose threads wait for `work`."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SteppedPool()

    def getThreadPool(self) -> ThreadPool:
        """See `IReactorThreads`."""
        return self.pool

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """See `IReactorFromThreads`; the threads run in the place of the reactor, so that it can be called at once."""
        callable(*args, **kwargs)

    def callInThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:  # noqa: N802
        """See `IReactorInThreads`."""
        self.pool.callInThread(callable, *args, **kwargs)

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802
        """See `IReactorThreads`; there is none."""

    @property
    def is_busy(self) -> bool:
        """Whether a thread has something to do."""
        return bool(self.pool.waiting)

    def work(self, fault: BaseException | None = None) -> None:
        """Let a thread do what was asked for first, or fail to, for reasons of its own."""
        self.pool.waiting.popleft()(fault)
