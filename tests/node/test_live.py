"""Waiting for what becomes of a task."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StoreClosed, TaskCancelled, TaskDeclined, TaskExpired, UnknownTask
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds
from tasksubmit.node.live import LiveTasks, raise_if_ended
from tests.node.helpers import BOB, PairTestCase

TASK = Task(side=Side.SUBMITTER, peer=BOB, task_id="t1", description="work", created_at=from_milliseconds(0))
ACCEPTED = evolve(TASK, status=TaskStatus.ACCEPTED)


def never(task: Task) -> bool:
    return False


def is_accepted(task: Task) -> bool:
    return task.status is TaskStatus.ACCEPTED


class LiveTasksTests(SynchronousTestCase):
    """Waiters of tasks that are read slowly."""

    @override
    def setUp(self) -> None:
        self.reads: list[Deferred[Task]] = []
        self.live = LiveTasks(self._get)

    def _get(self, key: TaskKey) -> Deferred[Task]:
        self.reads.append(Deferred())
        return self.reads[-1]

    def wait(self, condition: object = is_accepted, *, read: Task | None = TASK) -> Deferred[Task]:
        """Wait for a task; its record is read unless `read` is None."""
        assert callable(condition)
        waiting = Deferred.fromCoroutine(self.live.wait(TASK.key, condition))
        if read is not None:
            self.reads[-1].callback(read)
        return waiting

    def test_met_already(self) -> None:
        """Waiting for what is so already fires at once, and is forgotten."""
        self.assertEqual(self.successResultOf(self.wait(read=ACCEPTED)), ACCEPTED)
        self.assertEqual(len(self.live), 0)

    def test_met_later(self) -> None:
        """The first change that meets the condition fires, others do not, and nothing is kept afterwards."""
        waiting = self.wait()
        self.live.changed(TASK)
        self.assertNoResult(waiting)
        self.live.changed(ACCEPTED)
        self.assertEqual(self.successResultOf(waiting), ACCEPTED)
        self.live.changed(TASK)
        self.assertEqual(len(self.live), 0)

    def test_changed_while_read(self) -> None:
        """A change between the call and the reading of the record is not missed."""
        waiting = self.wait(read=None)
        self.live.changed(ACCEPTED)
        self.reads[0].callback(TASK)
        self.assertEqual(self.successResultOf(waiting), ACCEPTED)
        self.assertEqual(len(self.live), 0)

    def test_each_its_own(self) -> None:
        """Callers with several conditions are told each when its own is met; one that gives up disturbs nobody."""
        first, second, third = self.wait(), self.wait(), self.wait(lambda task: task.status is TaskStatus.EXECUTING)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.live.changed(ACCEPTED)
        self.assertEqual(self.successResultOf(second), ACCEPTED)
        self.assertNoResult(third)
        self.assertEqual(len(self.live), 1)
        third.cancel()
        self.failureResultOf(third, CancelledError)
        self.assertEqual(len(self.live), 0)

    def test_cancelled_while_read(self) -> None:
        """Giving up while the record is read leaves nothing."""
        waiting = self.wait(read=None)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.live), 0)

    def test_cancelled_by_another(self) -> None:
        """A caller that, when told, gives up the wait of another one disturbs neither it nor the change."""
        first, second, third = self.wait(), self.wait(), self.wait()
        first.addCallback(lambda _: second.cancel())
        self.live.changed(ACCEPTED)
        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)
        self.assertEqual(self.successResultOf(third), ACCEPTED)

    def test_waits_again_when_told(self) -> None:
        """A caller that is told may wait again at once, for the next change."""
        again: list[Deferred[Task]] = []
        self.wait().addCallback(lambda _: again.append(self.wait(read=None)))
        self.live.changed(ACCEPTED)
        self.assertNoResult(again[0])
        self.live.changed(ACCEPTED)
        self.reads[-1].callback(TASK)
        self.assertEqual(self.successResultOf(again[0]), ACCEPTED)
        self.assertEqual(len(self.live), 0)

    def test_unknown(self) -> None:
        """Waiting for a task that is not there fails and leaves nothing."""
        waiting = self.wait(read=None)
        self.reads[0].errback(UnknownTask("there is no such task"))
        self.failureResultOf(waiting, UnknownTask)
        self.assertEqual(len(self.live), 0)

    def test_condition_raises(self) -> None:
        """A condition that raises fails its own caller, not the others, not the change."""

        def fussy(task: Task) -> bool:
            raise ZeroDivisionError if is_accepted(task) else ValueError

        self.failureResultOf(self.wait(fussy), ValueError)
        self.assertEqual(len(self.live), 0)
        first, other = self.wait(lambda task: is_accepted(task) and fussy(task)), self.wait()
        self.live.changed(ACCEPTED)
        self.failureResultOf(first, ZeroDivisionError)
        self.assertEqual(self.successResultOf(other), ACCEPTED)
        self.assertEqual(len(self.live), 0)

    def test_stop(self) -> None:
        """Stopping fails everyone who waits, also who gives up on that occasion, and those still reading."""
        first, second, reading = self.wait(), self.wait(never), self.wait(read=None)

        def give_up(failure: Failure) -> Failure:
            second.cancel()
            return failure

        first.addErrback(give_up)
        self.live.stop()
        self.failureResultOf(first, StoreClosed)
        self.failureResultOf(second, CancelledError)
        self.reads[-1].errback(StoreClosed("closed"))
        self.failureResultOf(reading, StoreClosed)
        self.assertEqual(len(self.live), 0)

    def test_ends(self) -> None:
        """Each way to end without results has its error, which holds the record and the words."""
        for status, error in (("DECLINED", TaskDeclined), ("CANCELLED", TaskCancelled), ("EXPIRED", TaskExpired)):
            task = evolve(TASK, status=TaskStatus(status), justification="because")
            raised = self.assertRaises(error, raise_if_ended, task)
            self.assertEqual(raised.task, task)
            self.assertIn("because", str(raised))
        for status in ("NEW", "ACCEPTED", "EXECUTING", "COMPLETED", "SUCCEEDED"):
            raise_if_ended(evolve(TASK, status=TaskStatus(status)))


class HandleTests(PairTestCase):
    """Waiting through a node's handles."""

    def test_several(self) -> None:
        """Any number of callers may wait for the same, each with a Deferred of its own."""
        handle, key = self.executing()
        waiting = [self.alice.result(handle.key) for _ in range(5)]
        waiting[2].cancel()
        self.failed(waiting.pop(2), CancelledError)
        self.done(self.bob.send_results(key, "42"))
        self.assertEqual({self.done(result).result_text for result in waiting}, {"42"})
        self.assertEqual(self.done(handle.result()).result_text, "42")
        self.assertEqual(len(self.alice._live), 0)

    def test_dropped(self) -> None:
        """Giving up every wait does not touch the task."""
        handle, key = self.submit()
        for waiting in (handle.accepted(), self.alice.result(handle.key)):
            waiting.cancel()
            self.failed(waiting, CancelledError)
        self.done(self.bob.accept(key))
        self.assertIs(self.task(self.alice, handle.key).status, TaskStatus.ACCEPTED)

    def test_listener_that_fails(self) -> None:
        """What goes wrong in a caller's callback is the caller's: the record changes, and others are told."""
        handle, key = self.submit()
        first, second = handle.accepted(), handle.accepted()
        first.addCallback(lambda _: 1 / 0)
        self.done(self.bob.accept(key))
        self.failed(first, ZeroDivisionError)
        self.assertIs(self.done(second).status, TaskStatus.ACCEPTED)

    def test_node_stops(self) -> None:
        """Those who wait when the node stops are told so; those who come later, too."""
        handle, _ = self.submit()
        accepted, result = handle.accepted(), handle.result()
        self.stop(self.alice)
        for waiting in (accepted, result, handle.result()):
            self.assertIn("the node was stopped while", str(self.failed(waiting, StoreClosed)))

    def test_unknown(self) -> None:
        """Waiting for a task that was never submitted fails."""
        self.failed(self.alice.result(TASK.key), UnknownTask)
