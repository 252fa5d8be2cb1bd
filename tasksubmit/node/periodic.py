"""Work that is repeated: `Periodic` at an interval, as a service with `ScanService`, and `Retrier` until it succeeds.

Nothing else in the node runs a ``LoopingCall`` or repeats a step that failed. A ``LoopingCall`` whose call fails never
runs again, and a step of a start that is tried once leaves the node without its effect until the next start. Here a
failure is logged, once for all failures in a row, and the work runs again; its first success after that is logged as
well. The invariant: while a service runs, all work of it that has failed is scheduled to run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

Work = Callable[[], Any]
"""What is repeated: returns a Deferred, a coroutine, or something else when it has ended."""

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0

_log = Logger()


class Streak:
    """The failures of one piece of work in a row, of which the first is logged, and the success that ends them."""

    def __init__(self, work: str) -> None:
        self.work = work
        self.failures = 0

    def fail(self, failure: Failure, retry_seconds: float) -> None:
        """Note a failure; the work runs again in ``retry_seconds``."""
        self.failures += 1
        if self.failures == 1:
            _log.failure(
                "work failed: work={work!r} retry_in={seconds:g}s error={error}; repeated until it succeeds",
                failure,
                work=self.work,
                seconds=retry_seconds,
                error=failure.getErrorMessage(),
            )

    def succeed(self) -> None:
        """Note a success."""
        if self.failures:
            _log.info("work succeeded again: work={work!r} failures={failures}", work=self.work, failures=self.failures)
            self.failures = 0


class Periodic:
    """A call at an interval, which runs again at the next one after a failure; a call that takes longer skips some.

    :param work: what is called.
    :param name: the work, as logs name it.
    """

    def __init__(self, work: Work, name: str, interval_seconds: float, clock: IReactorTime) -> None:
        self._work = work
        self._interval = interval_seconds
        self._streak = Streak(name)
        self._loop = LoopingCall(self._call)
        self._loop.clock = clock
        self._ended: Deferred[Any] = succeed(None)

    def start(self, *, now: bool = True) -> None:
        """Begin, with a call at once or after the first interval."""
        self._ended = self._loop.start(self._interval, now)

    def stop(self) -> Deferred[None]:
        """Call no more; fires when a call that is in flight has ended."""
        if self._loop.running:
            self._loop.stop()
        return self._ended.addCallback(lambda _: None)

    def _call(self) -> Deferred[None]:
        return maybeDeferred(self._work).addCallbacks(
            lambda _: self._streak.succeed(), lambda failure: self._streak.fail(failure, self._interval)
        )


class ScanService(Service):
    """A service whose work is one scan, at once and then at an interval; a stop waits for the scan in flight.

    :param name: the name of the service.
    :param scan: the scan, as logs name it.
    """

    def __init__(self, *, name: str, scan: str, interval_seconds: float, timers: IReactorTime) -> None:
        self.setName(name)
        self._scan = Periodic(self._look, scan, interval_seconds, timers)

    @override
    def startService(self) -> None:
        super().startService()
        self._scan.start()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._scan.stop()

    async def _look(self) -> None:
        """Make one scan."""
        raise NotImplementedError


class Retrier:
    """Repeats steps until they succeed, with back-off, from `start` to `stop`.

    :ivar unfinished: the steps that have failed and are being retried, by name, and the last error of each.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._is_running = False
        self._steps: dict[str, Deferred[None]] = {}
        self._waiting: dict[str, list[Deferred[None]]] = {}
        self._waiting_for_attempt: dict[str, list[Deferred[None]]] = {}
        self.unfinished: dict[str, str] = {}

    def start(self) -> None:
        """Take steps."""
        self._is_running = True

    def stop(self) -> Deferred[None]:
        """Give up all steps, and take no more; fires when none is in flight."""
        self._is_running = False
        steps = list(self._steps.values())
        for step in steps:
            step.cancel()
        return DeferredList(steps).addCallback(lambda _: None)

    def run(self, name: str, step: Work, *, is_immediate: bool = True) -> None:
        """Repeat ``step`` until it succeeds; one of the same name that has not succeeded yet is given up before.

        Does nothing when stopped: each start takes its own steps.

        :param is_immediate: call ``step`` before this returns; else in a later turn of the reactor.
        """
        if not self._is_running:
            return
        before = self._steps.get(name)
        over = self._steps[name] = Deferred(lambda _: work.cancel())
        if before is not None:
            before.cancel()
        work = Deferred.fromCoroutine(self._repeat(name, step, is_immediate))
        work.addBoth(lambda _: over.callback(None))
        over.addCallback(lambda _: self._end(name, over))

    def wait(self, name: str) -> Deferred[None]:
        """Return a Deferred that fires when no step of this name is left, because it has succeeded or was given up."""
        return _waiting(self._waiting, name) if name in self._steps else succeed(None)

    def attempt(self, name: str) -> Deferred[None]:
        """Return a Deferred that fires when the step of this name was tried once, whether or not it succeeded."""
        is_first = name in self._steps and name not in self.unfinished
        return _waiting(self._waiting_for_attempt, name) if is_first else succeed(None)

    async def _repeat(self, name: str, step: Work, is_immediate: bool) -> None:
        if not is_immediate:
            await deferLater(self._clock, 0)
        streak = Streak(name)
        seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                await maybeDeferred(step)
            except CancelledError:
                raise
            except Exception as error:
                streak.fail(Failure(), seconds)
                self.unfinished[name] = str(error) or type(error).__name__
                _fire(self._waiting_for_attempt.pop(name, ()))
            else:
                return streak.succeed()
            await deferLater(self._clock, seconds)
            seconds = min(2 * seconds, LONGEST_RETRY_SECONDS)

    def _end(self, name: str, over: Deferred[None]) -> None:
        if self._steps.get(name) is over:  # else another took its place
            del self._steps[name]
            self.unfinished.pop(name, None)
            _fire((*self._waiting_for_attempt.pop(name, ()), *self._waiting.pop(name, ())))


def _waiting(waiting: dict[str, list[Deferred[None]]], name: str) -> Deferred[None]:
    one: Deferred[None] = Deferred()
    waiting.setdefault(name, []).append(one)
    return one


def _fire(waiting: Iterable[Deferred[None]]) -> None:
    for one in waiting:
        one.callback(None)
