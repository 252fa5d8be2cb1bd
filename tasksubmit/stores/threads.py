"""A thread that carries out what was asked meanwhile, all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from tasksubmit.errors import StoreClosed

T = TypeVar("T")
A = TypeVar("A")
Operation = Callable[[Any, Sequence[A]], Sequence[T | Failure]]
"""Carries out calls of one kind: takes what they work on and their arguments, and returns the result, or the
``Failure``, of each."""

Call = tuple[Operation[Any, Any], Any]
"""An operation, and the argument of one call of it."""

_Asked = tuple[Operation[Any, Any], Any, Deferred[Any]]
"""A call, and who waits for its result."""

Run = Callable[[Sequence[Call]], Sequence[Any]]
"""Carries out calls in their order, and returns the result, or the ``Failure``, of each."""


def consecutive(calls: Sequence[Call]) -> Iterator[tuple[Operation[Any, Any], list[Any]]]:
    """The calls of the same operation that follow each other: it, and their arguments."""
    for operation, group in groupby(calls, itemgetter(0)):
        yield operation, [argument for _, argument in group]


MAX_BATCH = 1024
"""Calls in one batch, not counting those that came with the last of them: enough to make a sync cheap, few enough to
keep the first from waiting."""

MANY = 128
"""Calls that are worth a batch of their own, while more of them come in."""

MAX_TURNS = 8
"""Turns of the reactor that a call waits for others, at most."""


class Worker(Protocol):
    """Carries out calls in the order in which they were given."""

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """Fires with what ``operation`` returned, once that holds, or fails with what it raised, undone."""

    def close(self) -> Deferred[None]:
        """Finish what was given, refuse more with `StoreClosed`, let go of everything; then fires."""


class Reactor(Protocol):
    """What a `BatchThread` needs of a reactor."""

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """See ``IReactorFromThreads``."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kwargs: object) -> IDelayedCall:
        """See ``IReactorTime``."""


class BatchThread:
    """A `Worker` in a thread of its own; the results of a batch come back to the reactor in one call.

    What is asked for is handed over when a turn of the reactor brought nothing more: a thread that was woken by the
    first call would fight with the reactor for the interpreter's lock, and begin a small batch that the others just
    missed. When there are many it is handed over before, so that the thread works while the reactor asks for the rest.

    :param run: carries out a batch.
    :param end: is called in the thread when it ends.
    """

    def __init__(self, name: str, run: Run, end: Callable[[], None], reactor: Reactor) -> None:
        self._run = run
        self._end = end
        self._reactor = reactor
        self._asked: list[_Asked] = []
        self._queue: SimpleQueue[list[_Asked] | None] = SimpleQueue()
        self._is_collecting = False
        self._closed: Deferred[None] | None = None
        Thread(target=self._work, name=name, daemon=True).start()

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """See `Worker`."""
        if self._closed is not None:
            return fail(StoreClosed("the store is closed"))
        done: Deferred[T] = Deferred()
        self._asked.append((operation, argument, done))
        if len(self._asked) >= MANY:
            self._hand_over()
        elif not self._is_collecting:
            self._is_collecting = True
            self._reactor.callLater(0, self._collect, MAX_TURNS, 0)
        return done

    def _collect(self, turns: int, count: int) -> None:
        """Hand over what was asked, unless it is more than the ``count`` of the turn before, and ``turns`` are left."""
        if turns and len(self._asked) > count:
            self._reactor.callLater(0, self._collect, turns - 1, len(self._asked))
        else:
            self._is_collecting = False
            self._hand_over()

    def _hand_over(self) -> None:
        if self._asked:
            asked, self._asked = self._asked, []
            self._queue.put(asked)

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        if self._closed is None:
            self._closed = Deferred()
            self._hand_over()
            self._queue.put(None)
        return self._closed

    def _work(self) -> None:
        is_last = False
        while not is_last and (batch := self._queue.get()) is not None:
            is_last = self._fill(batch)
            try:
                results = self._run([(operation, argument) for operation, argument, _ in batch])
            except BaseException:  # whatever it is, nobody may wait for ever
                results = [Failure()] * len(batch)
            self._reactor.callFromThread(_fire, [done for *_, done in batch], results)
        self._end()
        assert self._closed is not None
        self._reactor.callFromThread(self._closed.callback, None)

    def _fill(self, batch: list[_Asked]) -> bool:
        """Take what else has arrived; whether the end of the queue was among it."""
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return False
            if item is None:
                return True
            batch += item
        return False


def _fire(waiting: Sequence[Deferred[Any]], results: Sequence[Any]) -> None:
    for done, result in zip(waiting, results, strict=True):
        done.callback(result)  # a Failure starts the errback chain


class InlineWorker:
    """A `Worker` without a thread, for tests: each call is a batch of one, done before `run` returns."""

    def __init__(self, run: Run, end: Callable[[], None]) -> None:
        self._run = run
        self._end = end
        self._is_closed = False

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """See `Worker`."""
        if self._is_closed:
            return fail(StoreClosed("the store is closed"))
        try:
            [result] = self._run([(operation, argument)])
        except Exception:
            return fail()
        return fail(result) if isinstance(result, Failure) else succeed(result)

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        if not self._is_closed:
            self._is_closed = True
            self._end()
        return succeed(None)
