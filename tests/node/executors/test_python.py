"""Functions that do tasks."""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit.errors import ConfigurationError, ExecutionFailed
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.executors.python import CallableExecutor, make_executor
from tests.node.helpers import ALICE

NOW = datetime(2026, 4, 9, 12, tzinfo=timezone.utc)
GATE = threading.Event()


def shout(execution: Execution) -> str:
    """Do a task at once."""
    return execution.description.upper()


async def never(execution: Execution) -> str:
    """Do a task that takes for ever."""
    return await Deferred[str]()


def where(execution: Execution) -> str:
    """Tell in which thread it runs."""
    execution.progress("looking")
    return str(threading.get_ident())


def blocking(execution: Execution) -> str:
    """Block until the test lets it go."""
    GATE.wait(30)
    return "late"


def begin(executor: IExecutor, heard: list[str] | None = None) -> Deferred[ExecutionResult]:
    """Have a task done."""
    task = Task(side=Side.RECEIVER, peer=ALICE, task_id="t1", description="work", created_at=NOW)
    execute: Any = executor.execute
    return maybeDeferred(execute, Execution(task, (heard if heard is not None else []).append))


class MakerTests(SynchronousTestCase):
    """``--executor python:MODULE:FUNCTION``."""

    def make(self, name: str, **options: str) -> CallableExecutor:
        """The executor that calls one of the functions above."""
        executor = make_executor(Clock(), __name__, name, **options)
        assert isinstance(executor, CallableExecutor)
        return executor

    def test_made(self) -> None:
        """The function is called, and its lease is that of work which ends with the node."""
        executor = self.make("shout", attempts="3")
        self.assertEqual(self.successResultOf(begin(executor)), "WORK")
        self.assertEqual((executor.lease.max_attempts, executor.lease.ends_with_node), (3, True))
        self.assertEqual(str(executor), f"python:{__name__}:shout")
        self.assertEqual(str(self.make("shout", timeout="5", thread="no")), f"python:{__name__}:shout")

    def test_time_out(self) -> None:
        """A function that takes too long is cancelled, and the task fails."""
        clock = Clock()
        work = begin(make_executor(clock, __name__, "never", timeout="5"))
        clock.advance(4.9)
        self.assertNoResult(work)
        clock.advance(0.2)
        self.assertEqual(str(self.failureResultOf(work, ExecutionFailed).value), "it took longer than 5 s")

    def test_in_time(self) -> None:
        """One that does not leaves no timer behind."""
        clock = Clock()
        executor = make_executor(clock, __name__, "shout", timeout="5")
        self.assertEqual(self.successResultOf(begin(executor)), "WORK")
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_refused(self) -> None:
        """What is wrong is said, also what a module does when it is imported."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "tasksubmit_broken_module.py").write_text("1 / 0\n")
        self.patch(sys, "path", [str(directory), *sys.path])
        for arguments, options, words in (
            (("os",), {}, "expected MODULE:FUNCTION"),
            (("no_such_module", "x"), {}, "no_such_module:x cannot be imported"),
            (("os", "no_such_name"), {}, "os:no_such_name cannot be imported"),
            (("tasksubmit_broken_module", "x"), {}, "ZeroDivisionError: division by zero"),
            (("os", "sep"), {}, "os:sep is not a function but str"),
            (("os", "getcwd"), {"thread": "maybe"}, "thread=maybe: expected yes or no"),
        ):
            error = self.assertRaises(ConfigurationError, make_executor, Clock(), *arguments, **options)
            self.assertIn(words, str(error))


class ThreadTests(TestCase):
    """``thread=yes``: functions that block."""

    @override
    def setUp(self) -> None:
        GATE.clear()

    async def test_thread(self) -> None:
        """The function runs in another thread; its progress is told on the reactor's."""
        heard: list[tuple[str, int]] = []
        task = Task(side=Side.RECEIVER, peer=ALICE, task_id="t1", description="work", created_at=NOW)
        execute: Any = make_executor(reactor, __name__, "where", thread="yes").execute
        result = await execute(Execution(task, lambda text: heard.append((text, threading.get_ident()))))
        self.assertNotEqual(result, str(threading.get_ident()))
        self.assertEqual(heard, [("looking", threading.get_ident())])

    async def test_cancelled(self) -> None:
        """It cannot be interrupted: whoever cancels it waits until it has ended."""
        work = begin(make_executor(reactor, __name__, "blocking", thread="yes"))
        ended: list[object] = []
        work.addBoth(ended.append)
        work.cancel()
        self.assertEqual(ended, [])
        GATE.set()
        await work
        self.assertTrue(ended[0].check(CancelledError))  # type: ignore[attr-defined]


class ForeignTests(SynchronousTestCase):
    """What functions of other frameworks raise."""

    def test_asyncio_cancellation(self) -> None:
        """The cancellation of asyncio, which is no ordinary exception, is passed on as it is."""

        def work(execution: Execution) -> Deferred[str]:
            raise asyncio.CancelledError

        self.failureResultOf(begin(CallableExecutor(work)), asyncio.CancelledError)
