"""Executions that nobody ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from twisted.internet.defer import Deferred, succeed

from tasksubmit.errors import EmptyQueue, IllegalTransition, InvalidMessage, NotAtHead, TaskCancelled
from tasksubmit.lifecycle.table import LEASE_LOST, Deadline, Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tests.node.helpers import ALICE, BOB, PairTestCase, SlowStore

MINUTE = timedelta(minutes=1)


class LeaseTests(PairTestCase):
    """Bob's executions last a minute without progress."""

    def begin(self, lease: Lease, task_id: str = "t1") -> TaskKey:
        """Have Bob begin a task under `lease`."""
        _, key = self.submit(task_id=task_id)
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key, lease))
        return key

    def test_fails(self) -> None:
        """An execution without attempts left is cancelled when its lease runs out, and the submitter is told why."""
        key = self.begin(Lease(MINUTE))
        self.advance(60)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)
        self.advance(3)
        submitted = TaskKey(Side.SUBMITTER, BOB, key.task_id)
        for task in (self.task(self.bob, key), self.task(self.alice, submitted)):
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "lease_expired"))
        self.failed(self.alice.result(submitted), TaskCancelled)
        self.assert_idle(self.alice, self.bob)

    def test_progress_renews(self) -> None:
        """Progress is told to the submitter, and the lease runs from then."""
        key = self.begin(Lease(MINUTE))
        self.advance(50)
        self.done(self.bob.progress(key, "40% reading the corpus"))
        submitted = self.task(self.alice, TaskKey(Side.SUBMITTER, BOB, key.task_id))
        self.assertEqual((submitted.status, submitted.justification), (TaskStatus.EXECUTING, "40% reading the corpus"))
        self.advance(58)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)
        self.advance(5)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.CANCELLED)

    def test_progress_at_the_last_moment(self) -> None:
        """A lease that is renewed while the node has just found it run out is not lost."""
        key = self.begin(Lease(MINUTE))
        find, found, answers = self.bob.store.due, list[list[Task]](), list[Deferred[list[Task]]]()

        def due(deadline: Deadline, *args: Any) -> Deferred[list[Task]]:
            tasks = self.successResultOf(find(deadline, *args))
            if deadline is not LEASE_LOST or not tasks:
                return succeed(tasks)
            found.append(tasks)
            answers.append(Deferred())
            return answers[-1]

        self.patch(self.bob.store, "due", due)
        self.advance(63)
        self.assertEqual([task.key for task in found[0]], [key])
        self.done(self.bob.progress(key, "nearly there"))
        answers[0].callback(found[0])
        self.advance(50)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)

    def test_runs_again(self) -> None:
        """With attempts left it is put back, taken again ahead of the queue, counted, and fails after the last."""
        key = self.begin(Lease(MINUTE, max_attempts=2))
        _, other = self.submit(task_id="t2")
        self.done(self.bob.accept(other))
        self.advance(63)
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.attempt, task.lease_expires_at), (TaskStatus.EXECUTING, 2, None))
        self.assertIsNotNone(task.put_back_at)
        self.failed(self.bob.execute(other), NotAtHead)
        again = self.done(self.bob.execute(lease=Lease(MINUTE, max_attempts=2)))
        self.assertEqual((again.task_id, again.attempt, again.put_back_at), ("t1", 2, None))
        self.assertEqual(self.done(self.bob.execute()).task_id, "t2")
        self.advance(63)
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.outcome, task.attempt), (TaskStatus.CANCELLED, "lease_expired", 2))

    def test_results_of_the_last_attempt(self) -> None:
        """Results of a requeued task are those of its last attempt, and the record says of which attempt they are."""
        for text, attempt in (("with a number", 1), ("without", None)):
            _, key = self.submit(task_id=text.replace(" ", "-"))
            self.done(self.bob.accept(key))
            self.done(self.bob.execute(key))
            self.done(self.bob.put_back(key, "busy"))
            self.failed(self.bob.send_results(key, "of no attempt", attempt=2), IllegalTransition)
            task = self.done(self.bob.send_results(key, text, attempt=attempt))
            self.assertEqual((task.status, task.attempt), (TaskStatus.COMPLETED, 1))

    def test_end_between_attempts(self) -> None:
        """The record of a requeued task that is cancelled names the last attempt, as the next one never started."""
        handle, key = self.submit()
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key))
        self.done(self.bob.put_back(key, "busy"))
        self.done(handle.cancel())
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.attempt), (TaskStatus.CANCELLED, 1))

    def test_last_attempt_counts(self) -> None:
        """The time of execution is that of the last attempt."""
        key = self.begin(Lease(MINUTE, max_attempts=2))
        self.advance(63)
        self.done(self.bob.execute(key))
        self.advance(5)
        task = self.done(self.bob.send_results(key, "done", attempt=2))
        self.assertEqual((task.time_cpu_ms, task.attempt), (5000, 2))
        self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)

    def test_taken_once(self) -> None:
        """Of two that would begin what was put back at the same moment only one gets it."""
        key = self.begin(Lease(MINUTE, max_attempts=3))
        self.done(self.bob.put_back(key, "busy"))
        find, answers = self.bob.store.put_back, list[Callable[[], None]]()

        def put_back(limit: int) -> Deferred[list[Task]]:
            found, later = self.successResultOf(find(limit)), Deferred[list[Task]]()
            answers.append(lambda: later.callback(found))
            return later

        self.patch(self.bob.store, "put_back", put_back)
        first, second = self.bob.execute(), self.bob.execute()
        while answers:
            answers.pop(0)()
        self.assertEqual(self.done(first).key, key)
        self.failed(second, EmptyQueue)

    def test_finishes_although_put_back(self) -> None:
        """Results that come after the lease was lost are as good as any, and nobody begins the task again."""
        key = self.begin(Lease(MINUTE, max_attempts=2))
        self.advance(63)
        self.done(self.bob.send_results(key, "done"))
        self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)
        self.failed(self.bob.execute(), EmptyQueue)

    def superseded(self) -> TaskKey:
        """Have Bob start a task, lose its lease, and start it again: attempt 2 is the current one."""
        key = self.begin(Lease(MINUTE, max_attempts=2))
        self.advance(63)
        self.assertEqual(self.done(self.bob.execute(lease=Lease(MINUTE, max_attempts=2))).attempt, 2)
        return key

    def test_superseded_attempt_is_refused(self) -> None:
        """A worker whose attempt was superseded can neither report nor end the task; the current one can."""
        key, bob = self.superseded(), self.bob
        for attempt, words in (
            (1, "attempt 1 of task t1 was superseded: it is at attempt 2"),
            (3, "task t1 has no attempt 3 yet: it is at attempt 2"),
            (None, "task t1 is at attempt 2: give the number of the attempt"),
        ):
            for refused in (
                bob.send_results(key, "by the first", attempt=attempt),
                bob.send_results(key, filename="a.csv", content=b"1", attempt=attempt),
                bob.progress(key, "50%", attempt=attempt),
                bob.fail(key, "no", attempt=attempt),
                bob.put_back(key, "busy", attempt=attempt),
            ):
                self.assertIn(words, str(self.failed(refused, IllegalTransition)))
        self.assertEqual(self.files(bob), [])
        self.done(bob.progress(key, "50%", attempt=2))
        self.done(bob.send_results(key, "by the second", attempt=2))
        result = self.done(self.alice.result(TaskKey(Side.SUBMITTER, BOB, "t1")))
        self.assertEqual(result.result_text, "by the second")

    def test_attempt_ends_when_the_next_one_starts(self) -> None:
        """A requeued task that nobody has started again may still be ended by its last attempt, and by no other."""
        key = self.superseded()
        self.done(self.bob.put_back(key, "busy", attempt=2))
        self.failed(self.bob.send_results(key, "by the first", attempt=1), IllegalTransition)
        self.failed(self.bob.send_results(key, "by the third", attempt=3), IllegalTransition)
        self.done(self.bob.send_results(key, "by the second", attempt=2))
        self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)

    def test_drain_requeues_any_attempt(self) -> None:
        """A drain requeues an execution whichever attempt it is."""
        key = self.superseded()
        drained = self.bob.drain(2)
        self.advance(3)
        self.assertEqual(self.done(drained).put_back, 1)
        self.assertIsNotNone(self.task(self.bob, key).put_back_at)

    def test_not_taken_again(self) -> None:
        """What was put back does not wait for ever."""
        key = self.begin(Lease(MINUTE, max_attempts=2))
        self.done(self.bob.put_back(key, "busy"))
        self.failed(self.bob.put_back(key, "busy"), IllegalTransition)
        self.advance(3600, step=10)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)
        self.advance(3)
        self.assertEqual(self.task(self.bob, key).outcome, "lease_expired")

    def test_progress_of_what_was_put_back(self) -> None:
        """Whoever had a task before it was put back cannot take it back by telling of progress."""
        key = self.begin(Lease(MINUTE))
        self.done(self.bob.put_back(key, "busy"))
        self.failed(self.bob.progress(key, "50%"), IllegalTransition)
        self.assertIsNotNone(self.task(self.bob, key).put_back_at)

    def test_fail(self) -> None:
        """A failed execution ends the task, and the submitter gets the error."""
        key = self.begin(Lease(MINUTE))
        self.failed(self.bob.fail(key, " "), InvalidMessage)
        self.done(self.bob.fail(key, "no such corpus"))
        submitted = self.task(self.alice, TaskKey(Side.SUBMITTER, BOB, key.task_id))
        self.assertEqual((submitted.outcome, submitted.error), ("failed", "no such corpus"))
        self.failed(self.bob.progress(key, "more"), IllegalTransition)

    def test_waiting_progress_is_replaced(self) -> None:
        """To a submitter that is away only the newest progress is owed, after what it has not heard before."""
        key = self.begin(Lease(MINUTE))
        self.stop(self.alice)
        for percent in range(20):
            self.done(self.bob.progress(key, f"{percent}%"))
        owed = self.owed(self.bob, key)
        self.assertLessEqual(len(owed), 2)
        self.assertIn(b"19%", owed[-1].payload)


class RestartTests(PairTestCase):
    """Leases and stops of the node."""

    def restart(self, lease: Lease) -> TaskKey:
        """Begin a task on a node that is then stopped and started."""
        store = SlowStore()
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, store=store, timeouts=Timeouts(queue_head_timeout=MINUTE))
        _, key = self.submit()
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key, lease))
        self.stop(self.bob)
        self.bob.startService()
        self.advance(2)
        return key

    def test_work_outside(self) -> None:
        """An execution outside the node outlives it."""
        key = self.restart(Lease())
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.put_back_at, task.attempt), (TaskStatus.EXECUTING, None, 1))

    def test_stopped_for_longer(self) -> None:
        """Whoever executes outside could not tell of it while the node was stopped: the lease runs from the start."""
        key = self.restart(Lease(MINUTE))
        self.stop(self.bob)
        self.clock.advance(600)
        self.bob.startService()
        self.advance(55)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)
        self.advance(10)
        self.assertEqual(self.task(self.bob, key).outcome, "lease_expired")

    def test_put_back_before(self) -> None:
        """What was put back waits for its time from the start, and has lost none of its attempts by that."""
        key = self.restart(Lease(MINUTE))
        self.done(self.bob.put_back(key, "busy"))
        self.stop(self.bob)
        self.clock.advance(600)
        self.bob.startService()
        self.advance(55)
        task = self.done(self.bob.execute(lease=Lease(MINUTE)))
        self.assertEqual((task.key, task.attempt, task.max_attempts), (key, 2, 2))

    def test_work_inside(self) -> None:
        """An execution inside the node is lost with it: it is begun again, or fails, as its executor declared."""
        key = self.restart(Lease(max_attempts=2, ends_with_node=True))
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.attempt), (TaskStatus.EXECUTING, 2))
        self.assertIsNotNone(task.put_back_at)
        key = self.restart(Lease(max_attempts=1, ends_with_node=True))
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "lease_expired"))
