"""The receiver's side: what it answers, what it queues, what it lets out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    EmptyQueue,
    IllegalTransition,
    InvalidMessage,
    NotAtHead,
    StoreError,
    TooLarge,
    UnknownTask,
)
from tasksubmit.interfaces import IAdmissionPolicy, Peer, Refusal
from tasksubmit.lifecycle.change import Tombstone
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.records import MAX_KEPT_TEXT
from tasksubmit.node.service import RECORDS_IN_WORK
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import MAX_FRAME, Frame
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, PairTestCase, SlowStore, request, results
from tests.protocol.support import RawPeer

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")


@implementer(IAdmissionPolicy)
class Moody:
    """A policy that gives whatever `answer` is, now or later."""

    answer: Refusal | Deferred[Refusal | None] | None = None
    asked = 0

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | Deferred[Refusal | None] | None:
        """See `IAdmissionPolicy.admit`."""
        self.asked += 1
        return self.answer


def silent(peer: RawPeer, frame: Frame) -> None:
    """Take everything and say nothing."""


class SubmissionTests(NodeTestCase):
    """What a submission is answered."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.policy = Moody()
        self.bob = self.make_node(BOB, ALICE, CAROL, policy=self.policy)

    def assert_refused(self, answer: SubmitResponse, code: str) -> None:
        self.assertEqual((answer.status, answer.code), (400, code))

    def test_admitted(self) -> None:
        """An admitted submission is answered in the deployed peers' words, and is NEW."""
        answer = self.ask(BOB, request(features=tuple(OURS)))
        self.assertEqual((answer.status, answer.message), (200, "Task received with status NEW"))
        self.assertEqual((answer.task_id, answer.current_status, set(answer.features)), ("t1", "", OURS))
        task = self.task(self.bob, KEY)
        self.assertEqual((task.status, task.description, set(task.features)), (TaskStatus.NEW, "work", OURS))
        self.assertEqual(task.created_at, self.bob._records.now())

    def test_again(self) -> None:
        """The same task again creates nothing and is told how it stands, without asking the policy."""
        self.ask(BOB, request())
        self.policy.answer = Refusal("quota", "enough for today")
        for step, status in (("accept", "ACCEPTED"), ("execute", "EXECUTING")):
            self.done(getattr(self.bob, step)(KEY))
            answer = self.ask(BOB, request())
            self.assertEqual((answer.status, answer.message), (200, "Task received with status NEW"))
            self.assertEqual(answer.current_status, status)
        self.assertEqual(self.policy.asked, 1)
        self.assertEqual(len(self.tasks(self.bob)), 1)

    def test_again_on_one_connection(self) -> None:
        """The same task twice in one read creates one record, also when the policy takes its time."""
        decision: Deferred[Refusal | None] = Deferred()
        self.policy.answer = decision
        peer = self.say(BOB, request(), request())
        decision.callback(None)
        self.network.flush()
        self.assertEqual([(a.status, a.current_status) for a in peer.answers], [(200, ""), (200, "NEW")])
        self.assertEqual(len(self.tasks(self.bob)), 1)

    def test_other_description(self) -> None:
        """A known id with another description is a conflict, and the task stays as it is."""
        self.ask(BOB, request())
        self.assert_refused(self.ask(BOB, request(description="other work")), "id_conflict")
        self.assertEqual(self.task(self.bob, KEY).description, "work")

    def test_refused(self) -> None:
        """What the policy refuses is answered with its code and hint, leaves no record, and is not remembered."""
        self.policy.answer = Refusal("rate_limited", "slowly", retry_after_s=7)
        answer = self.ask(BOB, request())
        self.assert_refused(answer, "rate_limited")
        self.assertEqual((answer.message, answer.retry_after_s), ("slowly", 7))
        self.assertEqual(self.tasks(self.bob), [])
        self.policy.answer = succeed(None)
        self.assertEqual(self.ask(BOB, request()).current_status, "")

    def test_policy_fails(self) -> None:
        """A policy that fails refuses for now."""
        self.policy.answer = fail(ZeroDivisionError())
        self.assert_refused(self.ask(BOB, request()), "overloaded")
        self.flushLoggedErrors(ZeroDivisionError)

    def test_invalid(self) -> None:
        """Addresses that are none, a task for somebody else, and impossible ids and times are refused and not kept."""
        for bad in (
            SubmitRequest("t1", "work", "Alice", str(BOB)),
            SubmitRequest("t1", "work", "", ""),
            SubmitRequest("t1", "work", str(ALICE), "0:0000"),
            SubmitRequest("t1", "work", str(ALICE), str(CAROL)),
            request("../t1"),
            request(expires_at="tomorrow"),
            request(expires_at="9999-12-31T23:59:59-01:00"),
            request(expires_at="0001-01-01T00:00:00+01:00"),
        ):
            self.assert_refused(self.ask(BOB, bad), "invalid")
        self.assertEqual(self.tasks(self.bob), [])
        self.advance(2)

    def test_too_long(self) -> None:
        """A description over the limit is refused by name."""
        self.assert_refused(self.ask(BOB, request(description="x" * (1024 * 1024 + 1))), "too_large")

    def test_somebody_elses_connection(self) -> None:
        """Where the transport knows the peer, a submission in another's name is refused."""
        answer = self.bob.task_submitted(Peer(CAROL, "test"), request(), lambda result: None)
        self.failed(answer, InvalidMessage)
        self.done(self.bob.task_submitted(Peer(ALICE, "test"), request(), lambda result: None))

    def test_somebody_elses_task(self) -> None:
        """Where the transport knows the peer, another's task is an unknown one to it."""
        self.ask(BOB, request())
        withdrawal = TaskStatusUpdate("t1", "CANCELLED", "", outcome="cancelled_by_submitter")
        self.failed(self.bob.status_updated(Peer(CAROL, "test"), withdrawal), UnknownTask)
        self.failed(self.bob.results_received(Peer(CAROL, "test"), results("t1")), UnknownTask)
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.NEW)
        self.done(self.bob.status_updated(Peer(ALICE, "test"), withdrawal))
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.CANCELLED)

    def test_store_fails(self) -> None:
        """What cannot be written is not answered 200, and is worth trying again; nothing of the disk is told."""
        self.patch(self.bob.store, "create", lambda task, deliveries: fail(StoreError("/var/secret is full")))
        answer = self.ask(BOB, request())
        self.assert_refused(answer, "storage")
        self.assertNotIn("secret", answer.message)
        self.flushLoggedErrors(StoreError)


class CountingStore(MemoryTaskStore):
    """A store whose reads of records wait until they are released; it counts those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False
        self.waiting: list[Callable[[], object]] = []

    def _later(self, answer: Deferred[Any]) -> Deferred[Any]:
        if not self.is_slow:
            return answer
        later: Deferred[Any] = Deferred()
        self.waiting.append(lambda: answer.chainDeferred(later))
        return later

    @override
    def recall(self, key: TaskKey) -> Deferred[Task | Tombstone | None]:
        return self._later(super().recall(key))

    @override
    def find(self, task_id: str, peer: Address | None = None) -> Deferred[list[Task]]:
        return self._later(super().find(task_id, peer))


class MemoryTests(NodeTestCase):
    """Small messages about large tasks."""

    def test_few_records_at_once(self) -> None:
        """However many questions, or updates, come at once, so many records are read for them, and the rest later."""
        store = CountingStore()
        self.make_node(BOB, ALICE, store=store)
        self.ask(BOB, request())
        store.is_slow = True
        update = TaskStatusUpdate("t1", "EXECUTING", "", ack=True, from_addr=str(ALICE))
        for message in (request(query=True), update):
            peers = [self.say(BOB, *[message] * 50) for _ in range(3)]
            if message is update:  # messages about one task are handled one after another
                peers += [self.say(BOB, *[evolve(update, task_id=f"u{n}") for n in range(100)])]
            count = 0
            while store.waiting:
                self.assertLessEqual(len(store.waiting), RECORDS_IN_WORK)
                waiting, store.waiting = store.waiting, []
                count += len(waiting)
                for release in waiting:
                    release()
                self.network.flush()
            self.assertGreaterEqual(count, 150)
            self.assertEqual(sum(len(peer.answers) for peer in peers), count)

    def test_reason_of_a_cancellation(self) -> None:
        """As much of a submitter's reason is kept as of any text of a peer."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request())
        self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", "why " * 4000, ack=True, outcome="cancelled_by_submitter"))
        self.assertEqual(len(self.task(bob, KEY).justification), MAX_KEPT_TEXT)


class TextTests(PairTestCase):
    """Texts that the other side could not be told."""

    def test_too_long(self) -> None:
        """A justification that fits into no update is refused, and nothing happens."""
        handle, key = self.submit()
        self.failed(self.bob.accept(key, "y" * 17_000_000), InvalidMessage)
        self.failed(self.bob.decline(key, "y" * 17_000_000), InvalidMessage)
        self.failed(self.alice.cancel(handle.key, "y" * 17_000_000), InvalidMessage)
        self.assertEqual(self.statuses(handle), (TaskStatus.NEW, TaskStatus.NEW))

    def test_beside_a_file(self) -> None:
        """A text beside a file, which nobody would see, is refused."""
        _, key = self.executing()
        self.failed(self.bob.send_results(key, "note", filename="a.md", content=b"x"), InvalidMessage)


class FeatureTests(NodeTestCase):
    """What submitters announce."""

    def test_repeated(self) -> None:
        """Features are learned from a repeated submission, too; words that mean nothing are not kept."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request("t1"))
        self.assertEqual(self.successResultOf(bob.store.peer_features()), {})
        self.ask(BOB, request("t1", features=("ack", "later", "persistent")))
        self.assertEqual(self.successResultOf(bob.store.peer_features()), {ALICE: OURS})


class StrangerTests(NodeTestCase):
    """The policy of a node that was given none."""

    def test_not_a_peer(self) -> None:
        """A submission from an address that is no peer is refused and leaves no record."""
        bob = self.make_node(BOB, ALICE)
        answer = self.ask(BOB, request(by=CAROL))
        self.assertEqual((answer.status, answer.code), (400, "not_a_peer"))
        self.assertEqual(self.tasks(bob), [])
        self.assertEqual(self.ask(BOB, request()).status, 200)


class WithdrawalTests(NodeTestCase):
    """CANCELLED from a submitter, as deployed peers and ours send it."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.bob = self.make_node(BOB, ALICE)
        self.alice = self.listen(ALICE, silent)
        self.ask(BOB, request())

    def withdraw(self, outcome: str = "cancelled_by_submitter") -> SubmitResponse:
        return self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", "enough", ack=True, outcome=outcome))

    def test_again(self) -> None:
        """A withdrawal is answered CANCELLED each time it is repeated, and the submitter is told nothing else."""
        for outcome in ("", "cancelled_by_submitter", ""):
            answer = self.withdraw(outcome)
            self.assertEqual((answer.status, answer.current_status), (200, "CANCELLED"))
        task = self.task(self.bob, KEY)
        self.assertEqual((task.outcome, task.justification), ("cancelled_by_submitter", "enough"))
        self.assertEqual(self.alice.peers, [])

    def test_too_late(self) -> None:
        """What was finished first is not withdrawn; the answer says how it stands."""
        self.done(self.bob.accept(KEY))
        self.done(self.bob.execute())
        self.done(self.bob.send_results(KEY, "done"))
        answer = self.withdraw()
        self.assertEqual((answer.status, answer.current_status), (200, "COMPLETED"))
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.COMPLETED)

    def test_unknown(self) -> None:
        """A withdrawal, an update or results of an unknown task are refused."""
        for message in (
            TaskStatusUpdate("t2", "CANCELLED", "", ack=True),
            TaskStatusUpdate("t2", "ACCEPTED", "", ack=True),
            results("t2", ack=True),
        ):
            answer = self.ask(BOB, message)
            self.assertEqual((answer.status, answer.code), (400, "unknown_task"))

    def test_receivers_words(self) -> None:
        """A submitter cannot move the receiver's record with a receiver's words, nor end it with results."""
        for status in TaskStatus:
            if status is not TaskStatus.CANCELLED:
                answer = self.ask(BOB, TaskStatusUpdate("t1", status.value, "", ack=True))
                self.assertEqual((answer.status, answer.code), (400, "unknown_task"))
        self.assertEqual(self.ask(BOB, results("t1", ack=True)).code, "unknown_task")
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.NEW)

    def test_without_acknowledgement(self) -> None:
        """A deployed peer's withdrawal takes effect and is not answered."""
        peer = self.say(BOB, TaskStatusUpdate("t1", "CANCELLED", "enough"), then_close=True)
        self.assertEqual(peer.received, b"")
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.CANCELLED)


class QueueTests(PairTestCase):
    """The queue, and its head."""

    def queue(self, *descriptions: str) -> list[TaskKey]:
        """Submit and accept tasks; gives their keys."""
        keys = [self.submit(description)[1] for description in descriptions]
        for key in keys:
            self.advance(1)
            self.done(self.bob.accept(key))
        return keys

    def test_order(self) -> None:
        """The queue is in order of acceptance, and a task is staged when it becomes its head."""
        _, late = self.submit("submitted first")
        first, second = self.queue("accepted first", "accepted second")
        self.done(self.bob.accept(late))
        self.assertEqual([task.key for task in self.done(self.bob.store.queue(9))], [first, second, late])
        self.assertEqual(self.task(self.bob, first).staged_at, self.task(self.bob, first).accepted_at)
        self.assertIsNone(self.task(self.bob, second).staged_at)
        self.advance(10)
        self.assertEqual(self.done(self.bob.execute()).time_staged_ms, 11_000)
        self.assertEqual(self.task(self.bob, second).staged_at, self.bob._records.now())

    def test_not_at_head(self) -> None:
        """A task that is asked for by name runs only at the head."""
        first, second = self.queue("first", "second")
        self.failed(self.bob.execute(second), NotAtHead)
        self.done(self.bob.execute(first))
        self.failed(self.bob.execute(first), IllegalTransition)
        self.done(self.bob.execute(second))

    def test_empty(self) -> None:
        """With an empty queue there is nothing to execute."""
        self.failed(self.bob.execute(), EmptyQueue)
        _, key = self.submit()
        self.failed(self.bob.execute(), EmptyQueue)
        self.failed(self.bob.execute(key), IllegalTransition)
        self.failed(self.bob.execute(TaskKey(Side.RECEIVER, ALICE, "nowhere")), UnknownTask)

    def test_at_once(self) -> None:
        """Two who ask at the same time get two different tasks."""
        first, second = self.queue("first", "second")
        begun = [self.bob.execute(), self.bob.execute()]
        self.assertEqual([self.done(task).key for task in begun], [first, second])

    def test_staged_meanwhile(self) -> None:
        """A task that becomes head while a change of it is under way is read, and the change decided, again."""
        store = SlowStore()
        bob = self.make_node(CAROL, ALICE, store=store)
        keys = [TaskKey(Side.RECEIVER, ALICE, task_id) for task_id in ("head", "next")]
        for key in keys:
            self.ask(CAROL, SubmitRequest(key.task_id, "work", str(ALICE), str(CAROL)))
            self.done(bob.accept(key))
        store.holds_changes = True
        withdrawal = TaskStatusUpdate("next", "CANCELLED", "", outcome="cancelled_by_submitter")
        answer = bob.status_updated(Peer(ALICE, "test"), withdrawal)
        store.holds_changes = False
        self.done(bob.execute())
        self.assertIsNotNone(self.task(bob, keys[1]).staged_at)
        store.release()
        self.assertEqual(self.done(answer).current_status, "CANCELLED")

    def test_decline_accepted(self) -> None:
        """A task that waits in the queue can still be declined: it ends on both sides, and costs nobody's score."""
        handle, key = self.submit()
        _, second = self.submit()
        for one in (key, second):
            self.done(self.bob.accept(one))
        task = self.done(self.bob.decline(key, "no time after all"))
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "withdrawn_by_receiver"))
        told = self.task(self.alice, handle.key)
        self.assertEqual((told.status, told.outcome), (TaskStatus.CANCELLED, "withdrawn_by_receiver"))
        self.assertEqual(told.justification, "no time after all")
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))
        self.assertEqual(self.done(self.bob.execute()).key, second)
        self.failed(self.bob.decline(second, "no"), IllegalTransition)

    def test_wrong_order(self) -> None:
        """Steps that the table does not have are refused and change nothing."""
        handle, key = self.submit()
        self.failed(self.bob.send_results(key, "x"), IllegalTransition)
        self.done(self.bob.accept(key))
        self.failed(self.bob.accept(key), IllegalTransition)
        self.failed(self.bob.send_results(key, "x"), IllegalTransition)
        self.done(self.bob.execute(key))
        self.failed(self.bob.decline(key, "no"), IllegalTransition)
        self.done(self.bob.send_results(key, "x"))
        self.failed(self.bob.send_results(key, "x"), IllegalTransition)
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        self.assertEqual(len(self.files(self.bob)), 1)


class ResultsTests(PairTestCase):
    """What may be given as results."""

    def test_names(self) -> None:
        """Source code, unknown kinds, paths and hidden files are refused; the task stays in work."""
        handle, key = self.executing()
        for name in ("x.py", "x.R", "x.exe", "x", "../x.txt", "a/x.txt", ".x.txt", "x.txt ", "x\n.txt", "x\\y.txt"):
            self.failed(self.bob.send_results(key, filename=name, content=b"x"), InvalidMessage)
        self.assertEqual(self.statuses(handle), (TaskStatus.EXECUTING, TaskStatus.EXECUTING))
        self.assertEqual(self.files(self.bob), [])
        self.done(self.bob.send_results(key, filename="X.TXT", content=b"x"))
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_nameless(self) -> None:
        """Content without a file name is refused, not dropped."""
        _, key = self.executing()
        self.failed(self.bob.send_results(key, content=b"x"), InvalidMessage)

    def test_largest(self) -> None:
        """Whatever is not refused as too large can be sent."""
        handle, key = self.executing()
        room = MAX_FRAME - len(results(handle.task_id, "").to_frame().payload)
        self.failed(self.bob.send_results(key, "x" * (room + 1)), TooLarge)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.EXECUTING)
        for spare in range(0, 400, 20):
            refused: list[Failure] = []
            self.bob.send_results(key, "x" * (room - spare)).addErrback(refused.append)
            if not refused:
                break
            refused[0].trap(TooLarge)
        self.network.flush()
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_not_text(self) -> None:
        """A text that cannot be written is refused."""
        _, key = self.executing()
        self.failed(self.bob.send_results(key, "half a \ud800 pair"), InvalidMessage)
