"""An executor that cannot start anything: its tasks wait, and the node says so and takes no more of them."""

from __future__ import annotations

import errno
from datetime import timedelta
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent
from typing_extensions import override

from tasksubmit.errors import ExecutionFailed, ExecutorUnavailable, StoreError, TaskCancelled
from tasksubmit.interfaces import Execution, ExecutionResult
from tasksubmit.lifecycle.table import Lease, TaskStatus
from tasksubmit.node.service import Node
from tests.node.helpers import BOB, request
from tests.node.test_workers import FailingStore, Held, WorkersTestCase

SECRET = "/home/bob/secret"


class Broken(Held):
    """An executor that cannot start anything while it `is_broken`.

    :ivar tries: how often it was asked to, when it was broken.
    """

    def __init__(self) -> None:
        super().__init__(Lease(ends_with_node=True))
        self.is_broken = False
        self.tries = 0

    @override
    def execute(self, execution: Execution) -> Deferred[ExecutionResult]:
        """See `IExecutor.execute`."""
        if self.is_broken:
            self.tries += 1
            return fail(ExecutorUnavailable(f"{SECRET}: No such file or directory"))
        return super().execute(execution)


class UnavailableTestCase(WorkersTestCase):
    """Bob's executor breaks."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.bob)
        self.broken = self.executor = Broken()
        self.bob = self.employ(self.broken)


class PauseTests(UnavailableTestCase):
    """What becomes of the tasks."""

    def test_tasks_wait(self) -> None:
        """Tasks that cannot be started are requeued, keep all their attempts, and are done once they can be."""
        self.broken.is_broken = True
        handles = [self.submit(f"task {number}") for number in range(20)]
        self.advance(600)
        for handle in handles:
            self.assertFalse(self.task(self.bob, self.received(handle)).status.is_final)
            submitted = self.task(self.alice, handle.key)
            self.assertNotIn(SECRET, f"{submitted.justification} {submitted.error}")
        self.broken.is_broken = False
        self.advance(61)
        self.assertEqual(len(self.broken.under_way()), 2)
        for number in range(20):
            self.broken.ends[number].callback("done")
            self.network.flush()
        for handle in handles:
            self.assertEqual(self.done(handle.result()).result_text, "done")

    def test_attempts_do_not_count(self) -> None:
        """A task that could not be started has as many attempts left as before: a lost lease starts it again."""
        self.stop(self.bob)
        self.broken.lease = Lease(timedelta(minutes=1), max_attempts=2, ends_with_node=True)
        self.bob = self.employ(self.broken)
        self.broken.is_broken = True
        handle = self.submit("one")
        self.advance(100)
        self.broken.is_broken = False
        self.advance(61)
        self.assertEqual(len(self.broken.ends), 1)
        self.advance(63)
        self.assertEqual(len(self.broken.ends), 2)
        self.broken.ends[1].callback("second")
        self.assertEqual(self.done(handle.result()).result_text, "second")

    def test_back_off(self) -> None:
        """The pauses double, up to a minute, and one task at a time probes."""
        self.broken.is_broken = True
        for number in range(5):
            self.submit(f"task {number}")
        first = self.broken.tries
        self.assertLessEqual(first, 2)
        for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
            tries = self.broken.tries
            self.advance(seconds - 1)
            self.assertEqual(self.broken.tries, tries, seconds)
            self.advance(1)
            self.assertEqual(self.broken.tries, tries + 1, seconds)

    def test_probe_holds_the_others_back(self) -> None:
        """The others start once the probe has run for a moment, or reports progress, or has ended."""
        self.broken.is_broken = True
        for number in range(6):
            self.submit(f"task {number}")
        self.broken.is_broken = False
        self.advance(1)
        self.assertEqual(len(self.broken.under_way()), 1)
        self.advance(4)
        self.assertEqual(len(self.broken.under_way()), 1)
        self.advance(1)
        self.assertEqual(len(self.broken.under_way()), 2)
        self.broken.is_broken = True
        self.broken.ends[0].callback("done")
        self.network.flush()
        self.broken.ends[1].errback(ExecutionFailed("no"))  # which has started before the fault, and proves nothing
        self.advance(0.5, 0.5)
        self.assertEqual(self.broken.under_way(), [])
        self.broken.is_broken = False
        self.advance(0.5, 0.5)
        self.assertEqual(len(self.broken.under_way()), 1)
        self.broken.executions[-1].progress("under way")
        self.network.flush()
        self.assertEqual(len(self.broken.under_way()), 2)

    def test_long_execution_does_not_delay_the_recovery(self) -> None:
        """A task that has run since before the fault does not keep others from probing."""
        self.submit("long")
        self.broken.is_broken = True
        self.submit("short")
        self.advance(20)
        self.broken.is_broken = False
        self.advance(16)
        self.assertEqual(self.broken.under_way(), ["long", "short"])

    def test_store_fails_at_a_probe(self) -> None:
        """A store that fails when a task is to probe does not keep later ones from it."""
        store = FailingStore()
        self.stop(self.bob)
        self.bob = self.employ(self.broken, store=store)
        self.broken.is_broken = True
        self.submit("one")
        self.broken.is_broken = False
        store.is_full = True
        self.advance(5)
        self.flushLoggedErrors(StoreError)
        self.assertEqual(self.broken.under_way(), [])
        store.is_full = False
        self.advance(10)
        self.assertEqual(self.broken.under_way(), ["one"])

    def test_cancelled_meanwhile(self) -> None:
        """A task may be cancelled while it waits for the executor."""
        self.broken.is_broken = True
        handle = self.submit("one")
        self.advance(10)
        self.done(handle.cancel())
        self.failed(handle.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, handle.key).outcome, "cancelled_by_submitter")
        self.assertIs(self.task(self.bob, self.received(handle)).status, TaskStatus.CANCELLED)

    def test_stopped_meanwhile(self) -> None:
        """A node that is stopped and started again tries at once."""
        self.broken.is_broken = True
        handle = self.submit("one")
        self.advance(100)
        self.stop(self.bob)
        self.broken.is_broken = False
        self.bob.startService()
        self.network.flush()
        self.assertIsNone(self.bob.executor_problem)
        self.broken.ends[0].callback("done")
        self.advance(2)
        self.assertEqual(self.done(handle.result()).result_text, "done")

    def test_named_files_stay_here(self) -> None:
        """An error of the system that a function raises is told without the file that it names."""
        handle = self.submit("one")
        self.broken.ends[0].errback(FileNotFoundError(errno.ENOENT, "No such file or directory", SECRET))
        self.failed(handle.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, handle.key).error, "FileNotFoundError: No such file or directory")
        self.assertEqual(len(self.flushLoggedErrors(FileNotFoundError)), 1)


class RefusalTests(UnavailableTestCase):
    """What the node says and takes meanwhile."""

    def employ_for(self, limit: timedelta) -> None:
        """Start Bob anew, who refuses tasks after ``limit``."""
        self.stop(self.bob)
        self.bob = self.employ(self.broken, executor_pause_limit=limit)

    def code(self, task_id: str) -> tuple[str, int]:
        """The code and the hint with which Bob answers a new submission."""
        answer = self.ask(BOB, request(task_id))
        return answer.code, answer.retry_after_s

    def accepted(self, node: Node, *statuses: TaskStatus) -> int:
        """How many tasks have one of the statuses."""
        return len([task for task in self.tasks(node) if task.status in statuses])

    def test_refused_after_the_limit(self) -> None:
        """After the limit new tasks are refused for now, known ones are answered, and it ends with the fault."""
        self.employ_for(timedelta(seconds=30))
        self.broken.is_broken = True
        self.submit("one")
        self.assertEqual(self.code("early"), ("", 0))
        self.advance(29)
        self.assertEqual(self.code("in-time"), ("", 0))
        self.advance(1)
        self.assertEqual(self.code("late"), ("not_accepting", 60))
        self.assertEqual(self.code("early"), ("", 0))
        self.broken.is_broken = False
        self.advance(61)
        self.assertEqual(self.code("late"), ("", 0))

    def test_not_accepted_meanwhile(self) -> None:
        """What was admitted but not accepted before the limit is accepted when the fault is over."""
        self.employ_for(timedelta(microseconds=1))
        self.broken.is_broken = True
        self.submit("one")
        self.advance(1)
        assert self.bob._acceptance is not None
        self.bob._inbox.refusals.clear()  # admitted in the last moment
        handle_to = request("in-between")
        self.bob._acceptance._inbox = _Refusing(self.bob._inbox, self.bob.workers)  # type: ignore[assignment]
        self.ask(BOB, handle_to)
        self.assertEqual(self.accepted(self.bob, TaskStatus.NEW), 1)
        self.broken.is_broken = False
        self.advance(8)
        self.assertEqual(self.accepted(self.bob, TaskStatus.NEW), 0)

    def test_nothing_to_probe_with(self) -> None:
        """Without a task to try the node takes tasks again, and refuses them as soon as one fails to start."""
        self.employ_for(timedelta(seconds=1))
        self.broken.is_broken = True
        handle = self.submit("one")
        self.advance(10)
        self.assertEqual(self.code("a"), ("not_accepting", 60))
        self.done(handle.cancel())
        self.advance(61)
        self.assertIsNotNone(self.bob.executor_problem)
        self.assertEqual(self.code("b"), ("", 0))
        self.assertEqual(self.code("c"), ("not_accepting", 60))
        self.broken.is_broken = False
        self.advance(70)
        self.assertIsNone(self.bob.executor_problem)
        self.assertEqual(self.code("c"), ("", 0))

    def test_problem(self) -> None:
        """The node says what is wrong, since when, and when it tries again; the log has a line for each try."""
        self.assertIsNone(self.bob.executor_problem)
        self.broken.is_broken = True
        since = self.bob._records.now()
        with capturedLogs() as events:
            self.submit("one")
            self.advance(4)
        error = f"error={SECRET}: No such file or directory"
        self.assertEqual(
            [formatEvent(event) for event in events if event["log_namespace"].endswith("Availability")],
            [
                f"executor unavailable: retry_in=1s unavailable_for=0s {error}",
                f"executor unavailable: retry_in=2s unavailable_for=1s {error}",
                f"executor unavailable: retry_in=4s unavailable_for=3s {error}",
            ],
        )
        problem = self.bob.executor_problem
        assert problem is not None
        self.assertEqual(problem.error, f"{SECRET}: No such file or directory")
        self.assertEqual((problem.since, problem.retry_at), (since, since + timedelta(seconds=7)))
        self.assertFalse(problem.is_refusing)
        self.advance(60)
        problem = self.bob.executor_problem
        assert problem is not None
        self.assertTrue(problem.is_refusing)
        self.broken.is_broken = False
        self.advance(70)
        self.assertIsNone(self.bob.executor_problem)


class _Refusing:
    """An inbox whose refusal is that of the workers, although it admits."""

    def __init__(self, inbox: Any, workers: Any) -> None:
        self._inbox = inbox
        self.refusal = workers.refusal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inbox, name)
