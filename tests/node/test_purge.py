"""Purges: what is removed, what is kept, and how the other party of an abandoned task hears of it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from typing_extensions import override

from tasksubmit.errors import StoreError, StoreUncertain, UnknownTask
from tasksubmit.lifecycle.change import DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node import purge
from tasksubmit.node.purge import Batch, PurgeStep, Selected, Selection
from tasksubmit.node.service import Node
from tasksubmit.testing import FakeExecutor, FaultyTaskStore, StoreFault
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, PairTestCase, refuse, request, results

DAY = 24 * 3600


class PurgeTestCase(PairTestCase):
    """Two nodes, and ways to purge them."""

    def finish(self, task_id: str, text: str = "done") -> None:
        """Take a task through its life."""
        _, key = self.executing(task_id=task_id)
        self.done(self.bob.send_results(key, text))
        self.advance(2)

    def step(self, node: Node, step: PurgeStep, what: Selection | Task, **options: Any) -> Deferred[Batch]:
        """Begin one step."""
        return Deferred.fromCoroutine(node.purger.step(step, what, **options))

    def purge(
        self, node: Node, step: PurgeStep = PurgeStep.REMOVE, seconds: int = 0, **selection: Any
    ) -> list[Selected]:
        """Do one step with every batch."""
        found: list[Selected] = []
        after = until = None
        while True:
            begun = self.step(node, step, Selection(**selection), after=after, until=until, wait_seconds=seconds)
            self.network.flush()
            while not begun.called:
                self.advance(0.25, step=0.25)
            batch = self.successResultOf(begun)
            found += batch.selected
            after, until = batch.next, batch.until
            if after is None:
                return found

    def abandon(self, node: Node, seconds: int = 10, **selection: Any) -> list[Selected]:
        """Notify, then abandon."""
        self.purge(node, PurgeStep.NOTIFY, **selection)
        return self.purge(node, PurgeStep.ABANDON, seconds, **selection)

    def tombstone(self, node: Node, task_id: str) -> str:
        """The status that the one tombstone with this id has."""
        (left,) = self.successResultOf(node.store.tombstones(task_id))
        return left.status.value


class RemovalTests(PurgeTestCase):
    """What has ended and owes nothing."""

    def test_removed(self) -> None:
        """A finished task goes with its results and its story, and leaves a tombstone that answers."""
        self.finish("t1")
        scores = self.scores(self.alice), self.scores(self.bob)
        number = self.tasks(self.bob)[0].number
        for node in (self.alice, self.bob):
            (found,) = self.purge(node)
            self.assertEqual((found.is_removed, found.obstacle), (True, ""))
            self.assertEqual((self.tasks(node), self.files(node)), ([], []))
            self.assertEqual(self.tombstone(node, "t1"), "SUCCEEDED")
        task = Task.new(side=Side.RECEIVER, peer=ALICE, task_id="x", description="", created_at=self.bob.now())
        self.assertEqual(self.successResultOf(self.bob.store.events_of(task.evolved(number=number))), [])
        self.assertEqual(self.ask(BOB, request("t1")).current_status, "SUCCEEDED")
        self.assertEqual(self.ask(ALICE, results("t1", ack=True)).current_status, "SUCCEEDED")
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), scores)
        self.assertEqual(self.purge(self.bob), [])
        self.assertEqual(self.tombstone(self.bob, "t1"), "SUCCEEDED")

    def test_listed(self) -> None:
        """A list changes nothing, and says why a task would be kept."""
        self.finish("t1")
        self.executing(task_id="t2")
        before = self.tasks(self.bob)
        found = self.purge(self.bob, PurgeStep.LIST)
        self.assertEqual([(one.task.task_id, one.obstacle) for one in found], [("t1", ""), ("t2", "it is EXECUTING")])
        self.assertEqual([one.is_removed for one in found], [False, False])
        self.assertEqual(self.tasks(self.bob), before)

    def test_open_is_kept(self) -> None:
        """No open task is removed, whatever its status, on either side."""
        self.submit(task_id="new")
        _, accepted = self.submit(task_id="accepted")
        self.done(self.bob.accept(accepted))
        for node in (self.alice, self.bob):
            found = self.purge(node)
            self.assertEqual([one.obstacle for one in found], ["it is NEW", "it is ACCEPTED"])
            self.assertEqual(len(self.tasks(node)), 2)

    def test_pending_is_kept(self) -> None:
        """What is still to be delivered is never removed: neither results nor the last word."""
        _, key = self.executing(task_id="t1")
        _, second = self.submit(task_id="t2")
        self.stop(self.alice)
        self.done(self.bob.send_results(key, "done"))
        self.done(self.bob.decline(second, "no"))
        found = self.purge(self.bob)
        self.assertEqual(
            [one.obstacle for one in found],
            ["it is COMPLETED; pending to the other party: results", "pending to the other party: status"],
        )
        self.assertEqual(len(self.tasks(self.bob)), 2)
        self.alice.startService()
        self.advance(70)
        self.assertEqual([one.is_removed for one in self.purge(self.bob)], [True, True])

    def test_one(self) -> None:
        """One task can be named."""
        self.finish("t1")
        self.finish("t2")
        task = self.done(self.bob.resolve("t2"))
        (found,) = self.done(self.step(self.bob, PurgeStep.REMOVE, task)).selected
        self.assertTrue(found.is_removed)
        self.assertEqual([task.task_id for task in self.tasks(self.bob)], ["t1"])

    def test_selected(self) -> None:
        """A purge is about the side, the peer and the age that it is given."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, CAROL)
        self.make_node(CAROL, BOB)
        self.finish("old")
        between = self.bob.now()
        self.advance(10)
        self.finish("young")
        self.ask(BOB, request("other", by=CAROL))
        self.done(self.bob.decline(TaskKey(Side.RECEIVER, CAROL, "other"), "no"))
        self.advance(2)

        def found(**selection: Any) -> list[str]:
            return [one.task.task_id for one in self.purge(self.bob, PurgeStep.LIST, **selection)]

        self.assertEqual(found(), ["old", "young", "other"])
        self.assertEqual(found(peer=ALICE), ["old", "young"])
        self.assertEqual(found(before=between), ["old"])
        self.assertEqual(found(peer=CAROL, before=between), [])
        self.assertEqual(found(side=Side.SUBMITTER), [])
        self.assertEqual([one.is_removed for one in self.purge(self.bob, peer=CAROL)], [True])
        self.assertEqual(len(self.tasks(self.bob)), 2)

    def test_batches(self) -> None:
        """Many are removed in batches, between which others get their turn; what comes meanwhile is no part of it."""
        for number in range(250):
            self.ask(BOB, request(f"t{number}"))
        self.advance(120)  # nobody accepts
        sizes = list[int]()
        after = until = None
        while not sizes or after is not None:
            batch = self.done(self.step(self.bob, PurgeStep.REMOVE, Selection(), after=after, until=until))
            sizes.append(len(batch.selected))
            after, until = batch.next, batch.until
            self.ask(BOB, request(f"more{len(sizes)}"))
        self.assertEqual(sizes, [100, 100, 50])
        self.assertEqual([task.task_id for task in self.tasks(self.bob)], ["more3", "more2", "more1"])

    def test_far_apart(self) -> None:
        """A gap in the numbers of the records takes no time, and the records of others little at once."""
        for number in range(30):
            self.ask(BOB, request(f"t{number}"))
        self.advance(120)
        self.patch(purge, "_NUMBERS_AT_ONCE", 5)
        first = self.purge(self.bob, before=self.bob.now())
        self.assertEqual(len(first), 30)
        self.ask(BOB, request("last"))
        batch = self.done(self.step(self.bob, PurgeStep.LIST, Selection()))
        self.assertEqual(([one.task.task_id for one in batch.selected], batch.next), (["last"], None))
        batch = self.done(self.step(self.bob, PurgeStep.LIST, Selection(peer=BOB)))
        self.assertEqual((batch.selected, batch.next), ([], None))

    def test_changed_meanwhile(self) -> None:
        """A task for which something becomes pending while it is removed stays."""
        self.finish("t1")
        forget = self.bob.store.forget

        def change_first(task: Task, now: datetime) -> Deferred[bool]:
            self.done(
                Deferred.fromCoroutine(
                    self.bob._records.change(task, lambda task, now: ((), {"justification": "changed"}))
                )
            )
            return forget(task, now)

        self.patch(self.bob.store, "forget", change_first)
        (found,) = self.purge(self.bob)
        self.assertFalse(found.is_removed)
        self.assertEqual(len(self.tasks(self.bob)), 1)

    def test_waited_for(self) -> None:
        """Whoever waits on a task that is removed is told so."""
        self.finish("t1")
        waiting = self.alice.wait(TaskKey(Side.SUBMITTER, BOB, "t1"), lambda task: False)
        self.purge(self.alice)
        self.failed(waiting, UnknownTask)

    def test_failing_disk(self) -> None:
        """A disk that fails ends the purge with an error; doubts about what was removed end by themselves."""
        self.stop(self.bob)
        store = FaultyTaskStore()
        self.bob = self.make_node(BOB, ALICE, store=store)
        self.finish("t1")
        store.fail("forget")
        self.failed(self.step(self.bob, PurgeStep.REMOVE, Selection()), StoreError)
        store.fail("forget", StoreFault.UNCERTAIN_ROLLED_BACK)
        self.failed(self.step(self.bob, PurgeStep.REMOVE, Selection()), StoreUncertain)
        self.advance(2)
        self.assertEqual([one.is_removed for one in self.purge(self.bob)], [True])


class SpaceTests(PurgeTestCase):
    """What is returned to the file system."""

    def test_returned(self) -> None:
        """What is removed is returned in small steps, also what retention had freed before."""
        for number in range(60):
            self.ask(BOB, request(f"t{number}", "x" * 200_000))
        self.advance(120)
        steps, return_space = list[int](), self.bob.store.return_space

        def counted(max_bytes: int) -> Deferred[Any]:
            steps.append(max_bytes)
            return return_space(max_bytes)

        self.patch(self.bob.store, "return_space", counted)
        batch = self.done(self.step(self.bob, PurgeStep.REMOVE, Selection()))
        self.assertGreater(batch.space.returned_bytes, 11_000_000)
        self.assertEqual((batch.space.free_bytes, batch.space.can_shrink), (0, True))
        self.assertLessEqual(max(steps), 1024 * 1024)
        for step in (PurgeStep.LIST, PurgeStep.NOTIFY):
            steps.clear()
            self.done(self.step(self.bob, step, Selection()))
            self.assertEqual(steps, [0])

    def test_much(self) -> None:
        """One step returns only so much; the next goes on."""
        for number in range(100):
            self.ask(BOB, request(f"t{number}", "x" * 400_000))
        self.advance(120)
        while len(self.tasks(self.bob)):
            self.done(DeferredList([self.bob.store.forget(task, self.bob.now()) for task in self.tasks(self.bob)]))
        returned = [
            self.done(self.step(self.bob, PurgeStep.REMOVE, Selection())).space.returned_bytes for _ in range(4)
        ]
        self.assertEqual(returned[:2], [16 * 1024 * 1024] * 2)
        self.assertEqual(returned[3], 0)
        self.assertGreater(sum(returned), 39_000_000)


class AbandonTests(PurgeTestCase):
    """What has not ended, or has something pending."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.handle, self.key = self.submit(task_id="t1")

    def to(self, status: TaskStatus) -> None:
        """Take the task so far."""
        if status is not TaskStatus.NEW:
            self.done(self.bob.accept(self.key))
        if status is TaskStatus.EXECUTING:
            self.done(self.bob.execute(self.key))

    def assert_abandoned(self, node: Node) -> None:
        """The task is gone from a node, and its tombstone says that it was cancelled or declined."""
        self.assertEqual(self.tasks(node), [])
        self.assertIn(self.tombstone(node, "t1"), ("CANCELLED", "DECLINED"))

    def test_received(self) -> None:
        """A received task is declined, withdrawn or failed; its submitter is told before it is removed."""
        for status, ends in (
            (TaskStatus.NEW, (TaskStatus.DECLINED, "")),
            (TaskStatus.ACCEPTED, (TaskStatus.CANCELLED, "withdrawn_by_receiver")),
            (TaskStatus.EXECUTING, (TaskStatus.CANCELLED, "failed")),
        ):
            self.handle, self.key = self.submit(task_id=f"{status}-1")
            self.to(status)
            self.assertTrue(all(one.is_removed for one in self.abandon(self.bob)))
            self.assertEqual(self.tasks(self.bob), [])
            task = self.task(self.alice, self.handle.key)
            self.assertEqual((task.status, task.outcome), ends)
            self.assertIn("operator", task.error or task.justification)

    def test_submitted(self) -> None:
        """A submitted task is cancelled at its receiver before it is removed."""
        for status in (TaskStatus.NEW, TaskStatus.ACCEPTED, TaskStatus.EXECUTING):
            self.handle, self.key = self.submit(task_id=f"{status}-1")
            self.to(status)
            self.assertTrue(all(one.is_removed for one in self.abandon(self.alice)))
            self.assertEqual(self.tasks(self.alice), [])
            task = self.task(self.bob, self.key)
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))

    def test_dead_peer(self) -> None:
        """A peer that cannot be reached is waited for once; then what is pending is given up, and its tasks go."""
        for status in (TaskStatus.EXECUTING, TaskStatus.ACCEPTED, TaskStatus.NEW):
            _, self.key = self.submit(task_id=f"{status}-1")
            self.to(status)
        self.stop(self.alice)
        before = self.clock.seconds()
        self.assertTrue(all(one.is_removed for one in self.abandon(self.bob, 10)))
        self.assertLess(self.clock.seconds() - before, 11)
        self.assert_abandoned(self.bob)
        self.advance(60)
        self.assert_idle(self.bob)
        self.alice.startService()
        self.advance(2 * 3600, step=60)  # she asks after her tasks
        self.assertEqual({task.status.is_final for task in self.tasks(self.alice)}, {True})

    def test_dead_receiver(self) -> None:
        """A receiver that comes back after its submitter has purged a task hears that it is cancelled."""
        self.to(TaskStatus.ACCEPTED)
        self.stop(self.bob)
        self.assertTrue(all(one.is_removed for one in self.abandon(self.alice, 1)))
        self.assert_abandoned(self.alice)
        self.bob.startService()
        self.done(self.bob.execute(self.key))  # which its submitter is told
        self.advance(70)
        self.assertIs(self.task(self.bob, self.key).status, TaskStatus.CANCELLED)

    def test_completed(self) -> None:
        """Results that nobody fetches are given up; whoever asks later hears that the task was cancelled."""
        self.to(TaskStatus.EXECUTING)
        self.stop(self.alice)
        self.done(self.bob.send_results(self.key, "done"))
        self.assertTrue(all(one.is_removed for one in self.abandon(self.bob, 1)))
        self.assert_abandoned(self.bob)
        self.assertEqual(self.files(self.bob), [])
        told = self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", ack=True))
        self.assertEqual(told.current_status, "CANCELLED")

    def test_delivered_meanwhile(self) -> None:
        """What can be delivered in time is: the results arrive and are paid."""
        self.to(TaskStatus.EXECUTING)
        self.stop(self.alice)
        self.done(self.bob.send_results(self.key, "done"))
        self.purge(self.bob, PurgeStep.NOTIFY)
        begun = self.step(self.bob, PurgeStep.ABANDON, Selection(), wait_seconds=120)
        self.alice.startService()
        while not begun.called:
            self.advance(1)
        self.assertTrue(self.successResultOf(begun).selected[0].is_removed)
        self.assertEqual(self.tombstone(self.bob, "t1"), "SUCCEEDED")
        self.assertTrue(self.task(self.alice, self.handle.key).is_settled)

    def test_not_without_notice(self) -> None:
        """A task that was not notified is not abandoned."""
        for node in (self.alice, self.bob):
            (found,) = self.purge(node, PurgeStep.ABANDON)
            self.assertEqual((found.is_removed, found.obstacle), (False, "it is NEW"))
            self.assertIs(self.tasks(node)[0].status, TaskStatus.NEW)
        self.stop(self.bob)
        self.done(self.alice.submit(BOB, "x", task_id="t2"))
        self.purge(self.alice, PurgeStep.ABANDON)
        (delivery,) = self.owed(self.alice, TaskKey(Side.SUBMITTER, BOB, "t2"))
        self.assertEqual((delivery.kind, delivery.given_up_at), (DeliveryKind.SUBMISSION, None))

    def test_refused_notice(self) -> None:
        """A peer that refuses the notice for now does not hold the purge up."""
        self.to(TaskStatus.EXECUTING)
        self.stop(self.alice)
        self.listen(ALICE, refuse("overloaded", 3600))
        self.assertTrue(all(one.is_removed for one in self.abandon(self.bob, 3)))
        self.assert_abandoned(self.bob)
        self.advance(120)
        self.assert_idle(self.bob)

    def test_in_flight(self) -> None:
        """What is in flight when it is given up harms nothing: its answer comes for a task that is gone."""
        self.to(TaskStatus.EXECUTING)
        self.stop(self.alice)
        silent = self.listen(ALICE, lambda peer, frame: None)
        self.done(self.bob.send_results(self.key, "done"))
        self.assertTrue(all(one.is_removed for one in self.abandon(self.bob, 1)))
        peer = silent.peers[0]
        refuse("overloaded")(peer, peer.frames[-1])
        self.advance(120)
        self.assert_idle(self.bob)
        self.assert_abandoned(self.bob)

    def test_work_ends(self) -> None:
        """The node's own work on a task that is abandoned is ended."""
        self.stop(self.bob)
        executor = FakeExecutor()
        self.bob = self.make_node(BOB, ALICE, executor=executor)
        self.submit(task_id="t2")
        self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, "t2")))
        self.advance(2)
        (execution,) = executor.executions
        self.assertTrue(all(one.is_removed for one in self.abandon(self.bob)))
        self.assertTrue(execution.is_cancelled)
        self.advance(5)
        self.assertEqual(self.tasks(self.bob), [])

    def test_age(self) -> None:
        """The age of a task is that since its creation, which its end does not change."""
        self.advance(10)
        between = self.bob.now() - timedelta(seconds=5)
        self.submit(task_id="young")
        self.abandon(self.bob, before=between)
        self.assertEqual([task.task_id for task in self.tasks(self.bob)], ["young"])
