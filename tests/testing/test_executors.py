"""The fake executor: canned results, or held ones, and what it remembers."""

from __future__ import annotations

import unittest

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit.errors import ExecutionFailed
from tasksubmit.interfaces import Execution, ExecutionResult, ResultFile
from tasksubmit.lifecycle.table import Lease
from tasksubmit.testing import FakeExecutor
from tasksubmit.testing.contracts import ExecutorContract
from tasksubmit.testing.contracts.samples import new_task


def by_description(execution: Execution) -> ExecutionResult | None:
    """What is to be done says what comes of it."""
    if execution.description == "fail":
        raise ExecutionFailed("it cannot be done")
    if execution.description == "tell":
        execution.progress("half of it")
    return None if execution.description == "go on" else "done"


class FakeContract(ExecutorContract):
    """What every executor does, done by the fake."""

    succeeding, expected, failing, endless, reporting = "work", "done", "fail", "go on", "tell"
    executor: FakeExecutor

    @override
    def make_executor(self) -> FakeExecutor:
        return FakeExecutor(by_description)

    @override
    def running(self) -> int:
        return len(self.executor.running)


class FakeTrialTests(FakeContract, TestCase):
    """The contract, in trial."""


class FakePlainTests(FakeContract, unittest.TestCase):
    """The contract, in unittest."""


class FakeExecutorTests(SynchronousTestCase):
    """What the fake is told, and what it remembers."""

    def begin(self, executor: FakeExecutor, description: str = "work") -> Deferred[ExecutionResult]:
        """Have it do something."""
        self.told: list[str] = []
        return Deferred.fromCoroutine(executor.execute(Execution(new_task(description=description), self.told.append)))

    def test_canned(self) -> None:
        """Outcomes come one after the other, the last one from then on."""
        file = ResultFile("a.md", b"# A")
        executor = FakeExecutor("first", KeyError("second"), file)
        self.assertEqual(self.successResultOf(self.begin(executor)), "first")
        self.failureResultOf(self.begin(executor), KeyError)
        for _ in range(3):
            self.assertIs(self.successResultOf(self.begin(executor)), file)
        self.assertEqual([execution.is_over for execution in executor.executions], [True] * 5)

    def test_computed(self) -> None:
        """A function makes the results of each."""
        executor = FakeExecutor(lambda execution: execution.description.upper())
        self.assertEqual(self.successResultOf(self.begin(executor, "shout")), "SHOUT")

    def test_held(self) -> None:
        """Without outcomes each goes on until the test ends it, in whichever order and way."""
        executor = FakeExecutor()
        works = [self.begin(executor, description) for description in ("a", "b", "c")]
        first, second, third = executor.executions
        self.assertEqual([execution.description for execution in executor.running], ["a", "b", "c"])
        third.finish("of c")
        second.fail("no")
        self.assertEqual(executor.running, [first])
        first.fail(KeyError("of a"))
        self.assertEqual(self.successResultOf(works[2]), "of c")
        self.assertEqual(self.failureResultOf(works[1], ExecutionFailed).getErrorMessage(), "no")
        self.failureResultOf(works[0], KeyError)
        with self.assertRaisesRegex(AssertionError, "'a' is over already"):
            first.finish()

    def test_progress(self) -> None:
        """What the test has it tell is told, and remembered."""
        executor = FakeExecutor()
        work = self.begin(executor)
        executor.executions[0].tell("half of it")
        self.assertEqual((self.told, executor.executions[0].progress), (["half of it"], ["half of it"]))
        executor.executions[0].finish()
        self.assertEqual(self.successResultOf(work), "done")

    def test_cancelled(self) -> None:
        """Cancelling is remembered, and ends the execution."""
        executor = FakeExecutor()
        work = self.begin(executor)
        work.cancel()
        self.failureResultOf(work, CancelledError)
        [execution] = executor.executions
        self.assertEqual((execution.is_cancelled, execution.is_over), (True, True))

    def test_outlives_its_cancellation(self) -> None:
        """One that does not end when it is cancelled goes on until the test ends it."""
        executor = FakeExecutor(ends_when_cancelled=False)
        work = self.begin(executor)
        for _ in range(2):
            work.cancel()
            self.assertNoResult(work)
        [execution] = executor.executions
        self.assertEqual((execution.is_cancelled, execution.is_over), (True, False))
        execution.finish("late")
        self.assertEqual(self.successResultOf(work), "late")

    def test_lease(self) -> None:
        """The lease is the one that was given; by default work ends with its node."""
        lease = Lease(max_attempts=7)
        self.assertIs(FakeExecutor(lease=lease).lease, lease)
        self.assertTrue(FakeExecutor().lease.ends_with_node)
