"""An executor for tests: its results are there at once, or when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from tasksubmit.errors import ExecutionFailed
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.table import Lease
from tasksubmit.validation import FLAG, TEXT, Kind, checked, instance_of, optional

Outcome: TypeAlias = "ExecutionResult | Exception | Callable[[Execution], ExecutionResult | None]"
"""What an execution comes to: its results, the exception that it fails with, or what makes the one or raises the
other; what makes None has it go on until the test ends it."""


_RESULT: Kind[Any] = Kind("a string or a ResultFile", lambda value: isinstance(value, str | ResultFile))
_ERROR: Kind[Any] = Kind("an exception or a string", lambda value: isinstance(value, str | Exception))
_OUTCOME: Kind[Any] = Kind(
    "a string, a ResultFile, an exception or a function",
    lambda value: isinstance(value, str | ResultFile | Exception) or callable(value),
)


@define(eq=False)
class FakeExecution:
    """One execution that a `FakeExecutor` was asked for.

    :ivar asked: what is to be done.
    :ivar progress: what was told of how far it is, oldest first.
    :ivar is_cancelled: whether its results were no longer wanted.
    :ivar is_over: whether it has ended, in whichever way.
    """

    asked: Execution = field(validator=instance_of(Execution))
    progress: list[str] = field(factory=list, init=False)
    is_cancelled: bool = field(default=False, init=False)
    is_over: bool = field(default=False, init=False)
    _waiting: Deferred[ExecutionResult] = field(factory=Deferred, init=False)

    @property
    def description(self) -> str:
        """What is to be done, in the submitter's words."""
        return self.asked.description

    @checked(result=_RESULT)
    def finish(self, result: ExecutionResult = "done") -> None:
        """End it with results."""
        self._end(result)

    @checked(error=_ERROR)
    def fail(self, error: Exception | str = "failed") -> None:
        """End it with an exception; a text stands for `ExecutionFailed` with that."""
        self._end(Failure(ExecutionFailed(error) if isinstance(error, str) else error))

    @checked(progress=TEXT)
    def tell(self, progress: str) -> None:
        """Say how far it is."""
        self.progress.append(progress)
        self.asked.progress(progress)

    def _end(self, outcome: ExecutionResult | Failure) -> None:
        assert not self.is_over, f"the execution of {self.description!r} is over already"
        self.is_over = True
        self._waiting.callback(outcome)  # a Failure starts the errback chain

    async def _go_on(self, ends_when_cancelled: bool) -> ExecutionResult:
        while True:
            try:
                return await self._waiting
            except CancelledError:
                self.is_cancelled = True
                if ends_when_cancelled or self.is_over:
                    self.is_over = True
                    raise
                self._waiting = Deferred()


@implementer(IExecutor)
class FakeExecutor:
    """Does nothing, and has results all the same.

    :param outcomes: what the executions come to, one after the other, and the last one from then on. Without any, each
        execution goes on until the test ends it.
    :param lease: the terms under which tasks are begun.
    :param ends_when_cancelled: whether an execution ends when it is cancelled; else the test has to end it.
    :ivar executions: every execution so far, oldest first.
    """

    @checked(lease=optional(instance_of(Lease)), ends_when_cancelled=FLAG)
    def __init__(self, *outcomes: Outcome, lease: Lease | None = None, ends_when_cancelled: bool = True) -> None:
        for outcome in outcomes:
            _OUTCOME.check("outcomes: each", outcome)
        self.lease = Lease(ends_with_node=True) if lease is None else lease
        self.executions: list[FakeExecution] = []
        self._outcomes = outcomes
        self._ends_when_cancelled = ends_when_cancelled

    def __str__(self) -> str:
        return "a fake"

    @property
    def running(self) -> list[FakeExecution]:
        """The executions that are not over."""
        return [execution for execution in self.executions if not execution.is_over]

    def execute(self, execution: Execution) -> Coroutine[Any, Any, ExecutionResult]:
        """See `IExecutor.execute`."""
        fake = FakeExecution(execution)
        self.executions.append(fake)
        if self._outcomes:
            outcome = self._outcomes[min(len(self.executions), len(self._outcomes)) - 1]
            self._come_to(fake, outcome)
        return fake._go_on(self._ends_when_cancelled)

    def _come_to(self, fake: FakeExecution, outcome: Outcome) -> None:
        try:
            result = outcome(fake.asked) if callable(outcome) else outcome
        except Exception as error:
            result = error
        if isinstance(result, Exception):
            fake.fail(result)
        elif result is not None:
            fake.finish(result)
