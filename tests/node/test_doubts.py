"""A commit of which it is unknown whether it happened: the node finds out, and does what was left undone."""

from __future__ import annotations

from collections.abc import Collection

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.interfaces import IAcceptancePolicy
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.service import Node
from tasksubmit.testing import FakeExecutor, FaultyTaskStore, StoreFault
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, OURS, NodeTestCase, request, task_id_of
from tests.node.test_refusals import accept

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")
HELD, UNDONE = StoreFault.UNCERTAIN_COMMITTED, StoreFault.UNCERTAIN_ROLLED_BACK


@implementer(IAcceptancePolicy)
@define
class CountingAcceptance:
    """A policy that gives one answer, and remembers what it was asked."""

    answer: bool = True
    asked: list[str] = field(factory=list)

    def decide(self, task: Task) -> bool:
        """See `IAcceptancePolicy.decide`."""
        self.asked.append(task.task_id)
        return self.answer


class DoubtTestCase(NodeTestCase):
    """Alice submits to Bob, whose store fails as a test says."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = FaultyTaskStore()
        self.addCleanup(self.flushLoggedErrors)

    def make_bob(self, **options: object) -> Node:
        """Start Bob."""
        self.bob: Node = self.make_node(BOB, ALICE, store=self.store, **options)
        return self.bob

    def status(self) -> TaskStatus:
        """Where the task stands at Bob's."""
        return self.task(self.bob, KEY).status


class DoubtTests(DoubtTestCase):
    """While a task is in doubt, and when it is no longer."""

    def test_in_doubt_until_confirmed(self) -> None:
        """A task is in doubt until the store has confirmed what it has, which is retried until it succeeds."""
        bob = self.make_bob()
        self.ask(BOB, request())
        for fault, status in ((UNDONE, TaskStatus.NEW), (HELD, TaskStatus.DECLINED)):
            self.store.fail("apply", fault)
            self.store.fail("confirm")
            self.failed(bob.decline(KEY, "no"), StoreUncertain)
            self.assertTrue(bob._records.is_in_doubt(KEY))
            self.assertFalse(bob._records.is_in_doubt(TaskKey(Side.SUBMITTER, ALICE, "t1")))
            self.advance(0.5)
            self.assertTrue(bob._records.is_in_doubt(KEY))
            self.assertIn("confirm", str(bob.retrying))
            self.advance(1)
            self.assertFalse(bob._records.is_in_doubt(KEY))
            self.assertEqual(bob.retrying, {})
            self.assertIs(self.status(), status)

    def test_withdrawn_before_it_arrived(self) -> None:
        """While the tombstone of a task that did not arrive is in doubt, no message about the task is handled."""
        bob = self.make_bob()
        submission = request(features=tuple(OURS))
        cancelled = TaskStatusUpdate("t1", "CANCELLED", "", ack=True, from_addr=str(ALICE))
        for fault, status in ((UNDONE, ""), (HELD, "CANCELLED")):
            cancelled, submission = evolve(cancelled, task_id=fault.name), evolve(submission, task_id=fault.name)
            self.store.fail("leave_tombstone", fault)
            self.store.fail("confirm")
            self.assertEqual(self.say(BOB, cancelled).answers, [])
            self.assertEqual(self.say(BOB, submission).answers, [])
            self.assertIsNone(self.done(bob.store.get(evolve(KEY, task_id=fault.name))))
            self.advance(1.5)
            self.assertEqual(self.ask(BOB, submission).current_status, status)

    def test_not_reported(self) -> None:
        """A status that may not be on disk is not sent; it is once the store has confirmed it, and nothing else is."""
        bob = self.make_bob()
        for task_id in ("t1", "t2"):
            self.ask(BOB, request(task_id, features=tuple(OURS)))
        self.done(bob.decline(evolve(KEY, task_id="t2"), "no"))  # Alice is not there
        self.store.fail("apply", HELD)
        for _ in range(5):
            self.store.fail("confirm")
        self.failed(bob.decline(KEY, "no"), StoreUncertain)
        alice = self.listen(ALICE, accept)
        self.advance(20)
        self.assertTrue(bob._records.is_in_doubt(KEY))
        self.assertEqual([task_id_of(frame) for peer in alice.peers for frame in peer.frames], ["t2"])
        self.advance(15)
        self.assertEqual([task_id_of(frame) for peer in alice.peers for frame in peer.frames], ["t2", "t1"])
        self.assert_idle(bob)

    def test_certain_failure(self) -> None:
        """A failure that is certain leaves nothing in doubt."""
        bob = self.make_bob()
        self.ask(BOB, request())
        self.store.fail("apply")
        self.failed(bob.decline(KEY, "no"), StoreError)
        self.assertFalse(bob._records.is_in_doubt(KEY))
        self.assertEqual(self.store.calls["confirm"], 0)

    def test_repeated_command(self) -> None:
        """A command that is repeated while its task is in doubt does not succeed before the change is on disk."""
        alice = self.make_node(ALICE, BOB, store=self.store)
        handle = self.done(alice.submit(BOB, "work"))
        self.store.fail("apply", HELD)
        self.store.fail("confirm")
        self.failed(handle.cancel("no"), StoreUncertain)
        self.failed(handle.cancel("no"), StoreUncertain)
        self.advance(2)
        self.assertIsNotNone(self.task(alice, handle.key).cancel_requested_at)

    def test_waiting_callers(self) -> None:
        """Callers who wait for a change that turns out to hold are notified, and its messages are sent."""
        alice, bob = self.make_node(ALICE, BOB), self.make_bob()
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        declined = bob.wait(KEY, lambda task: task.status is TaskStatus.DECLINED)
        self.store.fail("apply", HELD)
        self.store.fail("confirm")
        self.failed(bob.decline(KEY, "no"), StoreUncertain)
        self.advance(0.5)
        self.assertNoResult(declined)
        self.advance(1)
        self.successResultOf(declined)
        self.assertIs(self.task(alice, handle.key).status, TaskStatus.DECLINED)
        self.assert_idle(alice, bob)

    def test_submission_is_sent(self) -> None:
        """A submission whose commit turns out to hold is sent, although its caller was told that it had failed."""
        alice = self.make_node(ALICE, BOB, store=self.store)
        bob = self.make_node(BOB, ALICE)
        self.store.fail("create", HELD)
        self.failed(alice.submit(BOB, "work", task_id="t1"), StoreUncertain)
        self.advance(1)
        self.assertEqual([task.task_id for task in self.tasks(bob)], ["t1"])

    def test_begun_after_all(self) -> None:
        """A caller was told that a task could not be begun, and it was: it is requeued, and begun by the next call."""
        bob = self.make_bob()
        self.ask(BOB, request())
        self.done(bob.accept(KEY))
        self.store.fail("apply", HELD)
        self.failed(bob.execute(), StoreUncertain)
        self.advance(1)
        self.assertIs(self.status(), TaskStatus.EXECUTING)
        begun = self.done(bob.execute())
        self.assertEqual((begun.key, begun.attempt), (KEY, 2))
        self.advance(60)
        self.assertIsNone(self.task(bob, KEY).put_back_at)

    def test_worker_begins_after_all(self) -> None:
        """So it is with the node's own workers: the task does not stay EXECUTING with no worker on it."""
        for fault in (HELD, UNDONE):
            executor = FakeExecutor()
            self.store = FaultyTaskStore()
            bob = self.make_bob(executor=executor)
            self.ask(BOB, request())
            self.store.fail("apply", fault, after=1)
            self.done(bob.accept(KEY))
            self.advance(2)
            self.assertEqual(len(executor.running), 1, fault)
            self.assertIs(self.status(), TaskStatus.EXECUTING)
            executor.running[0].finish()
            self.network.flush()
            self.assertIs(self.status(), TaskStatus.COMPLETED)
            self.stop(bob)

    def test_load(self) -> None:
        """What the node counts as waiting is what its store has, whether or not the commit in doubt holds."""
        for fault, tasks in ((UNDONE, 0), (HELD, 1)):
            self.store = FaultyTaskStore()
            bob = self.make_bob()
            self.store.fail("create", fault)
            self.say(BOB, request())
            self.advance(1)
            self.assertEqual((bob.load.undecided, bob.load.of(ALICE).records), (tasks, tasks))
            self.store.fail("apply", fault)
            if tasks:
                self.failed(bob.accept(KEY), StoreUncertain)
                self.advance(1)
                self.assertEqual((bob.load.undecided, bob.load.queued), (0, 1))
            self.stop(bob)

    def test_listener_fails(self) -> None:
        """A listener that raises keeps no other from being called, and the doubt ends."""
        bob = self.make_bob()
        self.ask(BOB, request())
        keys: list[TaskKey] = []

        def fail(keys: Collection[TaskKey]) -> None:
            raise ZeroDivisionError

        bob._records.doubts.on_resolved(fail)
        bob._records.doubts.on_resolved(keys.extend)
        self.store.fail("apply", UNDONE)
        self.failed(bob.decline(KEY, "no"), StoreUncertain)
        self.advance(1)
        self.assertEqual(keys, [KEY])
        self.assertFalse(bob._records.is_in_doubt(KEY))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopped(self) -> None:
        """A stop ends the attempts to confirm; the next start begins without doubts."""
        bob = self.make_bob()
        self.ask(BOB, request())
        self.store.fail("apply", UNDONE)
        self.store.fail("confirm")
        self.failed(bob.decline(KEY, "no"), StoreUncertain)
        self.advance(0.5)
        self.stop(bob)
        bob.startService()
        self.assertFalse(bob._records.is_in_doubt(KEY))
        self.advance(5)
        self.assertEqual(bob.retrying, {})


class AcceptanceTests(DoubtTestCase):
    """Who decides on tasks when a write has failed."""

    def test_decision_is_written_later(self) -> None:
        """The write that accepts a task fails once: it is accepted at the next tick, and the policy is asked once."""
        for fault in StoreFault:
            self.store = FaultyTaskStore()
            bob = self.make_bob(acceptance=(policy := CountingAcceptance()))
            self.store.fail("apply", fault)
            self.ask(BOB, request())
            self.advance(2)
            self.assertIs(self.status(), TaskStatus.ACCEPTED, fault)
            self.assertEqual(policy.asked, ["t1"])
            self.stop(bob)

    def test_commit_in_doubt(self) -> None:
        """A submission whose commit turns out to hold is decided on, although nobody was answered."""
        self.make_bob(acceptance=(policy := CountingAcceptance()))
        self.store.fail("create", HELD)
        self.say(BOB, request())
        self.advance(2)
        self.assertIs(self.status(), TaskStatus.ACCEPTED)
        self.assertEqual(policy.asked, ["t1"])

    def test_left_to_others(self) -> None:
        """A task that the policy leaves to others is not put to it again, and costs no scans."""
        self.make_bob(acceptance=(policy := CountingAcceptance(answer=False)))
        self.ask(BOB, request())
        self.advance(2)
        scans = self.store.calls["list_tasks"]
        self.advance(30)
        self.assertEqual(policy.asked, ["t1"])
        self.assertEqual(self.store.calls["list_tasks"], scans)

    def test_scan_fails_at_start(self) -> None:
        """Tasks that are NEW at a start are found although the first scan for them fails."""
        bob = self.make_bob()
        self.ask(BOB, request())
        self.stop(bob)
        bob = self.bob = self.make_node(BOB, ALICE, store=self.next_store(), acceptance=AcceptAll())
        self.advance(2)
        self.assertIs(self.status(), TaskStatus.ACCEPTED)

    def next_store(self) -> FaultyTaskStore:
        """Bob's store, which fails the first scan."""
        self.store.fail("list_tasks")
        return self.store


class StartTests(DoubtTestCase):
    """Steps of a start."""

    def test_note_cannot_be_read(self) -> None:
        """While it is unknown whether the node is disabled, submissions are to be sent again, and soon are taken."""
        for method in ("note", "load"):
            self.store = FaultyTaskStore()
            self.store.fail(method)
            bob = self.make_bob()
            self.assertEqual(len(bob.retrying), 1)
            answer = self.ask(BOB, request())
            self.assertEqual((answer.code, answer.retry_after_s), ("storage", 1))
            self.assertTrue(bob.is_enabled)
            self.advance(2)
            self.assertEqual(self.ask(BOB, request()).status, 200)
            self.assertEqual(bob.retrying, {})
            self.stop(bob)

    def test_disabled(self) -> None:
        """A node that was disabled is disabled after its start, although that could not be read at first."""
        bob = self.make_bob()
        self.done(bob.set_enabled(False))
        self.stop(bob)
        self.store.fail("note")
        bob.startService()
        self.advance(2)
        self.assertFalse(bob.is_enabled)
        self.assertEqual(self.ask(BOB, request()).code, "not_accepting")

    def test_known_tasks_are_answered(self) -> None:
        """Tasks that are known are answered for as ever meanwhile."""
        bob = self.make_bob()
        self.ask(BOB, request())
        self.stop(bob)
        self.store.fail("note")
        bob.startService()
        self.assertEqual(self.ask(BOB, request()).current_status, "NEW")

    def test_submission_waits_for_the_first_read(self) -> None:
        """A submission that arrives while the store is read for the first time is answered after that."""
        reads: list[Deferred[str]] = []
        note = self.store.note

        def slow(name: str) -> Deferred[str]:
            reads.append(Deferred())
            return reads[-1]

        self.store.note = slow  # type: ignore[method-assign]
        self.make_bob()
        peer = self.say(BOB, request())
        self.assertEqual(peer.answers, [])
        note("disabled").chainDeferred(reads[0])
        self.network.flush()
        self.assertEqual([answer.status for answer in peer.answers], [200])

    def test_leases_are_ended_before_executions(self) -> None:
        """No execution begins before the leases of the last run are ended: ending them later would end it as well."""
        executor = FakeExecutor()
        bob = self.make_bob(executor=executor)
        self.ask(BOB, request())
        self.store.fail("end_bound_leases")
        self.stop(bob)
        bob.startService()
        self.done(bob.accept(KEY))
        self.assertEqual(executor.executions, [])
        self.advance(2)
        self.assertEqual(len(executor.running), 1)
        self.advance(5)
        self.assertIs(self.status(), TaskStatus.EXECUTING)
