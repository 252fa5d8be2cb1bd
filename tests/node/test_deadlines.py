"""What happens because time passed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from tasksubmit.errors import IllegalTransition, StoreDamaged, StoreError, TaskCancelled, TaskExpired
from tasksubmit.lifecycle.table import DEADLINES, Deadline, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tests.node.helpers import ALICE, BOB, NodeTestCase, PairTestCase, deployed

HOUR = 3600.0


class AcceptDeadlineTests(PairTestCase):
    """60 s to accept."""

    def test_told(self) -> None:
        """A task that nobody accepts is cancelled after 60 s, and the submitter is told why, in words and in a word."""
        handle, key = self.submit()
        accepted = handle.accepted()
        self.advance(60)
        self.assertEqual(self.statuses(handle), (TaskStatus.NEW, TaskStatus.NEW))
        self.advance(2)
        for task in (self.task(self.alice, handle.key), self.task(self.bob, key)):
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "accept_timeout"))
        self.assertEqual(self.task(self.bob, key).time_idle_ms // 1000, 61)
        self.failed(accepted, TaskCancelled)
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))
        self.assert_idle(self.alice, self.bob)

    def test_accept_too_late(self) -> None:
        """Accepting or declining after the deadline is refused, although no tick has noticed it yet."""
        for attempt in ("accept", "decline"):
            handle, key = self.submit()
            self.clock.rightNow += 60.001  # no timer runs
            self.failed(getattr(self.bob, attempt)(key, "gladly"), IllegalTransition)
            self.assertEqual(self.task(self.bob, key).outcome, "accept_timeout")
            self.advance(2)
            self.assertEqual(self.task(self.alice, handle.key).outcome, "accept_timeout")

    def test_at_the_last_moment(self) -> None:
        """At exactly 60 s a task can still be accepted."""
        _, key = self.submit()
        self.clock.rightNow += 60
        self.assertIs(self.done(self.bob.accept(key)).status, TaskStatus.ACCEPTED)

    def test_accept_of_a_submitted_task(self) -> None:
        """The submitter cannot accept its own record, before or after its deadline."""
        handle, _ = self.submit()
        self.failed(self.alice.accept(handle.key), IllegalTransition)
        self.clock.rightNow += 91
        self.failureResultOf(self.alice.accept(handle.key), IllegalTransition)
        self.assertIsNone(self.task(self.alice, handle.key).cancel_requested_at)

    def test_many(self) -> None:
        """Many that fall due together are all cancelled."""
        handles = [self.submit(str(n))[0] for n in range(30)]
        self.advance(63)
        self.assertEqual({self.statuses(h) for h in handles}, {(TaskStatus.CANCELLED, TaskStatus.CANCELLED)})


class QueueHeadTests(PairTestCase):
    """An hour at the head of the queue."""

    def test_expiry(self) -> None:
        """The head expires after an hour, costs the receiver a point in both ledgers, once, and the next is staged."""
        first, key = self.submit("first")
        second, next_key = self.submit("second")
        self.done(self.bob.accept(key))
        self.advance(10)
        self.done(self.bob.accept(next_key))
        self.assertIsNone(self.task(self.bob, next_key).staged_at)
        result = first.result()
        self.advance(HOUR - 10, step=10)
        self.assertEqual(self.statuses(first), (TaskStatus.ACCEPTED, TaskStatus.ACCEPTED))
        self.advance(2)
        for task in (self.task(self.alice, first.key), self.task(self.bob, key)):
            self.assertEqual((task.status, task.outcome), (TaskStatus.EXPIRED, "expired"))
        self.assertEqual(self.task(self.bob, key).time_staged_ms // 1000, 3601)
        self.failed(result, TaskExpired)
        staged_at = self.task(self.bob, next_key).staged_at
        assert staged_at is not None
        self.assertLess(self.bob._records.now() - staged_at, timedelta(seconds=2))
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({BOB: -1}, {BOB: -1}))
        self.advance(HOUR - 10, step=10)
        self.assertEqual(self.statuses(second), (TaskStatus.ACCEPTED, TaskStatus.ACCEPTED))
        self.advance(20)
        self.assertEqual(self.statuses(second), (TaskStatus.EXPIRED, TaskStatus.EXPIRED))
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({BOB: -2}, {BOB: -2}))
        self.assert_idle(self.alice, self.bob)

    def test_only_the_head(self) -> None:
        """Neither a task behind the head, nor one that was declined, taken or finished, ever expires."""
        done, done_key = self.executing("done")
        self.done(self.bob.send_results(done_key, "42"))
        working, _ = self.executing("working")
        declined, declined_key = self.submit("declined")
        self.done(self.bob.decline(declined_key, "no"))
        self.advance(2 * HOUR, step=60)
        self.assertIs(self.statuses(done)[1], TaskStatus.SUCCEEDED)
        self.assertIs(self.statuses(working)[1], TaskStatus.EXECUTING)
        self.assertIs(self.statuses(declined)[1], TaskStatus.DECLINED)
        self.assertNotIn(-1, [self.scores(self.bob).get(BOB)])

    def test_execute_too_late(self) -> None:
        """Executing skips a head whose time has passed, though no tick has noticed it; by name, it is refused."""
        keys = []
        for n in range(3):
            _, key = self.submit(str(n))
            self.done(self.bob.accept(key))
            keys.append(key)
        self.clock.rightNow += HOUR + 1
        self.failed(self.bob.execute(keys[0]), IllegalTransition)
        self.assertIs(self.task(self.bob, keys[0]).status, TaskStatus.EXPIRED)
        self.assertEqual(self.done(self.bob.execute()).key, keys[1])
        self.clock.rightNow += HOUR + 1
        _, last = self.submit("last")
        self.done(self.bob.accept(last))
        self.assertEqual(self.done(self.bob.execute()).key, last)
        self.assertEqual(self.scores(self.bob)[BOB], -2)


class ExpiresAtTests(PairTestCase):
    """Tasks that must begin by some time."""

    def test_new_and_accepted(self) -> None:
        """A task that was not begun by its deadline is cancelled in either status, and costs nobody a point."""
        due = self.alice._records.now() + timedelta(seconds=30)
        new, _ = self.submit("new", expires_at=due)
        accepted, key = self.submit("accepted", expires_at=due)
        self.done(self.bob.accept(key))
        self.advance(30)
        self.assertEqual(self.statuses(accepted), (TaskStatus.ACCEPTED, TaskStatus.ACCEPTED))
        self.advance(2)
        for handle in (new, accepted):
            self.assertEqual(self.statuses(handle), (TaskStatus.CANCELLED, TaskStatus.CANCELLED))
            self.assertEqual(self.task(self.alice, handle.key).outcome, "deadline_passed")
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))

    def test_before_the_costly_end(self) -> None:
        """When it passes together with the hour at the head, nobody pays."""
        _, key = self.submit(expires_at=self.alice._records.now() + timedelta(seconds=HOUR))
        self.done(self.bob.accept(key))
        self.clock.rightNow += 2 * HOUR
        self.advance(1)
        self.assertEqual(self.task(self.bob, key).outcome, "deadline_passed")
        self.assertEqual(self.scores(self.bob), {})

    def test_begun(self) -> None:
        """Once begun, a task is not cancelled."""
        handle, key = self.executing(expires_at=self.alice._records.now() + timedelta(seconds=30))
        self.advance(60)
        self.assertEqual(self.statuses(handle), (TaskStatus.EXECUTING, TaskStatus.EXECUTING))
        self.done(self.bob.send_results(key, "late, but begun in time"))
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_too_late_to_begin(self) -> None:
        """After it passed, neither accept nor execute work, although no tick has noticed."""
        due = self.alice._records.now() + timedelta(seconds=30)
        _, new = self.submit("new", expires_at=due)
        _, accepted = self.submit("accepted", expires_at=due)
        self.done(self.bob.accept(accepted))
        self.clock.rightNow += 31
        self.failed(self.bob.accept(new), IllegalTransition)
        self.failed(self.bob.execute(accepted), IllegalTransition)
        self.assertEqual(self.task(self.bob, accepted).outcome, "deadline_passed")


class OwnDeadlineTests(NodeTestCase):
    """The submitter's own deadlines, against receivers that never say anything."""

    def test_nobody_decides(self) -> None:
        """A task still NEW after 90 s is withdrawn; a deployed peer that took the frame has answered enough."""
        alice, bob = self.make_node(ALICE, BOB), self.listen(BOB, deployed)
        handle = self.done(alice.submit(BOB, "work"))
        result = handle.result()
        self.advance(90)
        self.assertIsNone(self.task(alice, handle.key).cancel_requested_at)
        self.advance(2)
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "answer_timeout"))
        self.assertEqual([len(peer.frames) for peer in bob.peers], [1, 1])
        self.failed(result, TaskCancelled)
        self.assert_idle(alice)

    def test_unreachable(self) -> None:
        """A task that could not even be sent is tried for a week, then ends, and its receiver is never contacted."""
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work"))
        self.advance(7 * 86400, step=3600)
        self.assertIs(self.task(alice, handle.key).status, TaskStatus.NEW)
        self.advance(2)
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "undelivered"))
        self.assertEqual(self.owed(alice, handle.key), [])

    def test_results_deadline(self) -> None:
        """Results that are not here by the task's own deadline are not waited for, whatever the status."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        handles = []
        for steps in (0, 2, 1):
            due = alice._records.now() + timedelta(seconds=30)
            handle = self.done(alice.submit(BOB, f"work {steps}", result_due_at=due))
            key = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
            if steps > 0:
                self.done(bob.accept(key))
            if steps > 1:
                self.done(bob.execute(key))
            handles.append(handle)
        self.advance(30)
        self.assertEqual([self.task(alice, h.key).status.value for h in handles], ["NEW", "EXECUTING", "ACCEPTED"])
        self.advance(2)
        for handle in handles:
            for node in (alice, bob):
                task = self.done(node.resolve(handle.task_id))
                self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "result_timeout"))
        self.assert_idle(alice, bob)

    def test_settings(self) -> None:
        """Every limit can be set."""
        timeouts = Timeouts(
            accept_timeout=timedelta(seconds=5),
            queue_head_timeout=timedelta(seconds=20),
            answer_timeout=timedelta(seconds=3),
        )
        alice, bob = self.make_node(ALICE, BOB, timeouts=timeouts), self.make_node(BOB, ALICE, timeouts=timeouts)
        kept = self.done(alice.submit(BOB, "kept"))
        key = TaskKey(Side.RECEIVER, ALICE, kept.task_id)
        self.done(bob.accept(key))
        dropped = self.done(alice.submit(BOB, "dropped"))
        self.advance(5)
        self.assertIs(self.task(alice, dropped.key).status, TaskStatus.CANCELLED)
        self.advance(17)
        self.assertIs(self.task(alice, kept.key).status, TaskStatus.EXPIRED)
        self.assertIs(self.task(bob, key).status, TaskStatus.EXPIRED)


class TroubleTests(PairTestCase):
    """A store that fails for a while."""

    def test_goes_on(self) -> None:
        """When the store fails, the scan is repeated every second until it succeeds; one error is logged."""
        handle, _ = self.submit()
        broken: list[object] = []

        def passed_deadlines(*args: Any) -> Deferred[list[Deadline]]:
            broken.append(args)
            return fail(StoreError("the disk is full"))

        self.patch(self.bob.store, "passed_deadlines", passed_deadlines)
        self.advance(62)
        self.assertGreater(len(broken), 30)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)
        self.assertIs(self.statuses(handle)[1], TaskStatus.NEW)
        del self.bob.store.passed_deadlines
        self.advance(2)
        self.assertIs(self.statuses(handle)[1], TaskStatus.CANCELLED)

    def test_damaged_record(self) -> None:
        """When what meets one deadline cannot be read, the others pass all the same."""
        handle, _ = self.submit()
        find = self.bob.store.due

        def due(deadline: Deadline, *args: Any) -> Deferred[list[Task]]:
            return fail(StoreDamaged("a row")) if deadline is DEADLINES[0] else find(deadline, *args)

        self.patch(self.bob.store, "passed_deadlines", lambda limits: succeed([deadline for deadline, _ in limits]))
        self.patch(self.bob.store, "due", due)
        self.advance(62)
        self.assertTrue(self.flushLoggedErrors(StoreDamaged))
        self.assertIs(self.statuses(handle)[1], TaskStatus.CANCELLED)

    def test_one_fails(self) -> None:
        """A task whose change cannot be committed does not keep the others from theirs."""
        first, _ = self.submit("first")
        second, _ = self.submit("second")
        apply = self.bob.store.apply

        def choosy(change: Any) -> Deferred[Task]:
            return fail(StoreError("no")) if change.before.description == "first" else apply(change)

        self.patch(self.bob.store, "apply", choosy)
        self.advance(62)
        self.assertTrue(self.flushLoggedErrors(StoreError))
        self.assertIs(self.statuses(second)[1], TaskStatus.CANCELLED)
        self.assertIs(self.statuses(first)[1], TaskStatus.NEW)
        self.bob.store.apply = apply  # type: ignore[method-assign]  # the fault is over
        self.advance(1)
        self.assertIs(self.statuses(first)[1], TaskStatus.CANCELLED)
