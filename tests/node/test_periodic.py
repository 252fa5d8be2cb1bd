"""Work that is repeated: a failure is never the last word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.node import periodic
from tasksubmit.node.periodic import LONGEST_RETRY_SECONDS, Periodic, Retrier


class RepeatedTestCase(SynchronousTestCase):
    """Work that fails as often as a test says."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: list[float] = []
        self.failures = 0
        self.lines: list[str] = []

    def work(self) -> Deferred[None] | None:
        """Fail, at once or with a Deferred, until no failure is left."""
        self.calls.append(self.clock.seconds())
        if self.failures:
            self.failures -= 1
            if self.failures % 2:
                raise OSError("the disk is gone")
            return fail(OSError("the disk is gone"))
        return None


class PeriodicTests(RepeatedTestCase):
    """A call at an interval."""

    def test_goes_on(self) -> None:
        """After failures it is called at each interval as before; only the first of them is logged."""
        self.failures = 3
        periodic = Periodic(self.work, "work", 2.0, self.clock)
        periodic.start()
        self.clock.pump([1.0] * 8)
        self.assertEqual(self.calls, [0, 2, 4, 6, 8])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.successResultOf(periodic.stop())
        self.clock.advance(10)
        self.assertEqual(len(self.calls), 5)

    def test_second_streak_is_logged(self) -> None:
        """A failure after a success is logged again."""
        periodic = Periodic(self.work, "work", 1.0, self.clock)
        periodic.start(now=False)
        for _ in range(2):
            self.failures = 2
            self.clock.pump([1.0] * 3)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)
        periodic.stop()

    def test_coroutine(self) -> None:
        """The work may be a coroutine function."""

        async def work() -> None:
            self.work()

        periodic = Periodic(work, "work", 1.0, self.clock)
        periodic.start()
        self.clock.advance(1)
        self.assertEqual(self.calls, [0, 1])
        periodic.stop()

    def test_stop_waits(self) -> None:
        """A stop fires when the call that is in flight has ended; no other call comes before or after that."""
        work: Deferred[None] = Deferred()
        calls: list[int] = []

        def call() -> Deferred[None]:
            calls.append(1)
            return work

        periodic = Periodic(call, "work", 1.0, self.clock)
        periodic.start()
        self.clock.advance(3)
        stopped = periodic.stop()
        self.assertNoResult(stopped)
        work.callback(None)
        self.successResultOf(stopped)
        self.clock.advance(3)
        self.assertEqual(len(calls), 1)

    def test_started_again(self) -> None:
        """It can be stopped before it was started, and started again."""
        periodic = Periodic(self.work, "work", 1.0, self.clock)
        self.successResultOf(periodic.stop())
        for _ in range(2):
            periodic.start()
            self.successResultOf(periodic.stop())
        self.assertEqual(self.calls, [0, 0])


class OnlyWayTests(SynchronousTestCase):
    """No service of the node has a way of its own."""

    def test_looping_calls(self) -> None:
        """Only this module makes a ``LoopingCall``."""
        package = Path(periodic.__file__).parent
        users = [path.name for path in package.rglob("*.py") if "LoopingCall(" in path.read_text()]
        self.assertEqual(users, ["periodic.py"])


class RetrierTests(RepeatedTestCase):
    """Steps that have to succeed."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.retrier = Retrier(self.clock)
        self.retrier.start()

    def run_step(self, name: str = "count the load", step: Callable[[], Any] | None = None) -> Deferred[None]:
        """Run a step; returns what fires when it is over."""
        self.retrier.run(name, step or self.work)
        return self.retrier.wait(name)

    def test_at_once(self) -> None:
        """A step that succeeds runs once, and has nothing to report."""
        self.successResultOf(self.run_step())
        self.clock.advance(100)
        self.assertEqual(self.calls, [0])
        self.assertEqual(self.retrier.unfinished, {})

    def test_until_it_succeeds(self) -> None:
        """A step that fails is repeated with back-off, reported meanwhile, and logged once."""
        self.failures = 3
        done = self.run_step()
        self.assertEqual(self.retrier.unfinished, {"count the load": "the disk is gone"})
        self.clock.pump([1.0] * 6)
        self.assertNoResult(done)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(self.calls, [0, 1, 3, 7])
        self.assertEqual(self.retrier.unfinished, {})
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_attempt(self) -> None:
        """Those who wait for an attempt wait for the first one only; with none to wait for, for nothing."""
        attempts: list[Deferred[None]] = []

        def step() -> Deferred[None]:
            attempts.append(Deferred())
            return attempts[-1]

        self.retrier.run("count the load", step)
        tried = self.retrier.attempt("count the load")
        self.assertNoResult(tried)
        attempts[0].errback(OSError("the disk is gone"))
        self.successResultOf(tried)
        self.successResultOf(self.retrier.attempt("count the load"))
        self.clock.advance(1)
        attempts[1].callback(None)
        self.successResultOf(self.retrier.attempt("count the load"))
        self.flushLoggedErrors(OSError)

    def test_longest(self) -> None:
        """However long it fails, it is repeated every minute."""
        self.failures = 100
        self.run_step()
        self.clock.pump([1.0] * 1000)
        pauses = [later - earlier for earlier, later in zip(self.calls, self.calls[1:], strict=False)]
        self.assertEqual(max(pauses), LONGEST_RETRY_SECONDS)
        self.flushLoggedErrors(OSError)
        self.successResultOf(self.retrier.stop())

    def test_stop(self) -> None:
        """A stop gives up what waits and cancels what is in flight; nothing is left, and nothing new is taken."""
        self.failures = 1
        waiting = self.run_step()
        cancelled: list[Deferred[None]] = []
        in_flight = self.run_step("read the note", lambda: Deferred(cancelled.append))
        self.successResultOf(self.retrier.stop())
        self.successResultOf(waiting)
        self.successResultOf(in_flight)
        self.assertEqual(len(cancelled), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.retrier.unfinished, {})
        self.successResultOf(self.run_step())
        self.assertEqual(self.calls, [0])
        self.flushLoggedErrors(OSError)

    def test_replaced(self) -> None:
        """A step takes the place of one of its name that has not succeeded, and those who wait, wait for it."""
        self.failures = 1
        done = self.run_step()
        step: Deferred[None] = Deferred()
        self.retrier.run("count the load", lambda: step)
        self.assertNoResult(done)
        self.clock.advance(10)
        self.assertEqual(self.calls, [0])
        step.callback(None)
        self.successResultOf(done)
        self.flushLoggedErrors(OSError)
