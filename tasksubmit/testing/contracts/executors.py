"""What every executor does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from typing_extensions import override
from zope.interface.verify import verifyObject

from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.results import check_result_filename
from tasksubmit.lifecycle.table import Lease, TaskStatus
from tasksubmit.testing.contracts.base import Contract
from tasksubmit.testing.contracts.samples import new_task


class ExecutorContract(Contract):
    """The behaviours of `IExecutor`. Say how it is made, what it can do, and how to see whether it does it.

    :ivar succeeding: a description of what it can do.
    :ivar expected: the results of that.
    :ivar failing: a description of what it cannot do.
    :ivar endless: a description of what it does until it is cancelled.
    :ivar reporting: a description of what it can do, and tells progress of; None if it never does.
    """

    succeeding: str
    expected: ExecutionResult
    failing: str
    endless: str
    reporting: str | None = None

    executor: IExecutor

    def make_executor(self) -> IExecutor:
        """Make the executor to be tested."""
        raise NotImplementedError

    def running(self) -> int:
        """Count the works that go on: processes, threads, or whatever the executor has them done by."""
        raise NotImplementedError

    @override
    def setUp(self) -> None:
        super().setUp()
        self.executor = self.make_executor()
        self._begun: list[Deferred[ExecutionResult]] = []
        self.addCleanup(self._end_all)

    def begin(self, description: str, progress: Callable[[str], None] | None = None) -> Deferred[ExecutionResult]:
        """Have a task done, as a node has."""
        task = evolve(new_task(f"t-{len(self._begun)}"), description=description, status=TaskStatus.EXECUTING)
        execution = Execution(task, progress or (lambda text: None))
        execute: Callable[..., Any] = self.executor.execute  # which gives results in any of three ways
        work: Deferred[ExecutionResult] = maybeDeferred(execute, execution)
        self._begun.append(work)
        return work

    def _end_all(self) -> Deferred[Any]:
        for work in self._begun:
            work.cancel()
        return DeferredList(self._begun, consumeErrors=True)

    async def ended(self, work: Deferred[ExecutionResult]) -> object:
        """Wait for the end, whatever it is: results, or an exception."""
        try:
            return await work
        except Exception as error:
            return error

    async def test_interface(self) -> None:
        """The executor has all that the interface asks for; its lease is a `Lease`, and its text is for people."""
        verifyObject(IExecutor, self.executor)
        self.assertIsInstance(self.executor.lease, Lease)
        text = str(self.executor)
        self.assertTrue(text.strip() and text.isprintable(), f"{text!r} is shown to people, in one line")
        self.assertNotIn(" object at 0x", text)

    async def test_results(self) -> None:
        """What can be done has results, of a kind that can be sent, each time that it is done."""
        for _ in range(2):
            result = await self.begin(self.succeeding)
            self.assertEqual(result, self.expected)
            self.assertIsInstance(result, (str, ResultFile))
            if isinstance(result, ResultFile):
                check_result_filename(result.name)
        self.assertEqual(self.running(), 0)

    async def test_failure(self) -> None:
        """What cannot be done fails with an exception that says something, and others can be done after it."""
        error = await self.ended(self.begin(self.failing))
        self.assertIsInstance(error, Exception)
        self.assertNotIsInstance(error, CancelledError)
        self.assertTrue(str(error).strip(), f"the submitter is told nothing by {error!r}")
        self.assertEqual(self.running(), 0)
        self.assertEqual(await self.begin(self.succeeding), self.expected)

    async def test_cancel(self) -> None:
        """Cancelling ends the work; the Deferred fires, in whichever way, when nothing of it goes on any more."""
        work = self.begin(self.endless)
        self.assertFalse(work.called, "what is described as endless has ended")
        work.cancel()
        await self.ended(work)
        self.assertEqual(self.running(), 0)
        self.assertEqual(await self.begin(self.succeeding), self.expected)

    async def test_several_at_once(self) -> None:
        """Several tasks are done at once, and the end of one is nothing to the others."""
        first, second = self.begin(self.endless), self.begin(self.endless)
        self.assertEqual(await self.begin(self.succeeding), self.expected)
        await self.ended(self.begin(self.failing))
        self.assertEqual((first.called, second.called), (False, False))
        first.cancel()
        await self.ended(first)
        self.assertFalse(second.called)
        self.assertEqual(self.running(), 1)
        second.cancel()
        await self.ended(second)
        self.assertEqual(self.running(), 0)

    async def test_progress(self) -> None:
        """What is told of progress is text, which says something."""
        if self.reporting is None:
            raise SkipTest("the executor tells no progress")
        told: list[str] = []
        await self.begin(self.reporting, told.append)
        self.assertNotEqual(told, [])
        for text in told:
            self.assertIsInstance(text, str)
            self.assertTrue(text.strip())
