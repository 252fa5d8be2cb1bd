"""Receivers that take no submission now: it is tried again, and not by all submissions together."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from typing_extensions import override

from tasksubmit.errors import TaskDeclined
from tasksubmit.lifecycle.table import Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.delivery import MAX_CLEAN_CLOSES
from tasksubmit.node.policy import RateLimit
from tasksubmit.node.records import always
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import FEATURES, ResponseStatus, SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, OURS, NodeTestCase, Script, SlowStore, refuse, request, task_id_of
from tests.protocol.support import RawPeer

RETRYABLE = ("rate_limited", "quota", "overloaded", "storage", "not_accepting")
FOR_GOOD = ("malformed", "invalid", "not_a_peer", "score_too_low", "id_conflict", "too_large", "made_up", "")


def accept(peer: RawPeer, frame: Frame) -> None:
    """Take whatever comes."""
    answer = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", FEATURES)
    peer.send(answer.to_frame().encode())


def refuse_for(code: str, seconds: int) -> Script:
    """Refuse everything, with a hint."""

    def script(peer: RawPeer, frame: Frame) -> None:
        answer = SubmitResponse(task_id_of(frame), ResponseStatus.REJECTED, "no", FEATURES, code, seconds)
        peer.send(answer.to_frame().encode())

    return script


class RefusingTestCase(NodeTestCase):
    """Alice submits to a Bob who follows a script, and whom she knows to acknowledge."""

    @override
    def setUp(self) -> None:
        super().setUp()
        store = SlowStore()
        store.open(ALICE)
        self.successResultOf(store.remember_features(BOB, OURS))
        self.alice = self.make_node(ALICE, BOB, store=store)
        self.script: Script = accept
        self.times: list[float] = []
        self.bob = self.listen(BOB, self._answer)

    def _answer(self, peer: RawPeer, frame: Frame) -> None:
        self.times.append(self.clock.seconds())
        self.script(peer, frame)

    def submit(self, task_id: str = "t1", **options: Any) -> Task:
        """Submit a task; gives Alice's record."""
        return self.task(self.alice, self.done(self.alice.submit(BOB, "work", task_id=task_id, **options)).key)

    def record(self, task_id: str = "t1") -> Task:
        """Alice's record."""
        return self.task(self.alice, TaskKey(Side.SUBMITTER, BOB, task_id))


class RetryTests(RefusingTestCase):
    """A single submission."""

    def test_retryable(self) -> None:
        """A refusal that another attempt may get past is recorded, and the submission tried again until it is taken."""
        for code in RETRYABLE:
            self.script = refuse(code)
            task = self.submit(code)
            self.assertEqual((task.status, task.code, task.justification), (TaskStatus.NEW, code, "no"))
            self.script = accept
            self.advance(70)
            task = self.record(code)
            self.assertIsNotNone(task.answered_at)
            self.assertEqual((task.status, task.code, task.justification), (TaskStatus.NEW, "", "yes"))

    def test_for_good(self) -> None:
        """Any other refusal ends the task at once."""
        for n, code in enumerate(FOR_GOOD):
            self.script = refuse(code)
            task = self.submit(f"t{n}")
            self.assertEqual((task.status, task.outcome, task.code), (TaskStatus.DECLINED, "refused", code))
        self.assert_idle(self.alice)

    def test_hint(self) -> None:
        """The next attempt waits for the longer of the hint and the back-off, and never over an hour."""
        for hint, least, most in ((20, 20, 23), (-5, 0.5, 4), (10**9, 3600, 3700)):
            self.times.clear()
            self.script = refuse_for("overloaded", hint)
            task = self.submit(f"t{hint}".replace("-", "m"))
            self.assertEqual(task.retry_after_s, max(0, hint))
            self.script = accept
            self.advance(most, step=1)
            first, second = self.times[:2]
            self.assertTrue(least <= second - first <= most, (hint, self.times))

    def test_not_forever(self) -> None:
        """The attempts end at the delivery deadline; callers are told of the last refusal."""
        self.script = refuse("rate_limited")
        handle = self.done(self.alice.submit(BOB, "work", deliver_by=self.alice._records.now() + timedelta(seconds=20)))
        result = handle.result()
        self.advance(25)
        self.assertIn("no", str(self.failed(result, TaskDeclined)))

    def test_refused_after_a_lost_answer(self) -> None:
        """A refusal for now of a task that the receiver may have from an attempt before leaves that in doubt."""
        self.script = lambda peer, frame: None
        self.submit()
        self.network.cut_all()
        self.script = refuse("storage")
        self.advance(5)
        self.assertIsNotNone(self.record().submission_begun_at)
        self.assertFalse(self.record().is_unsent)


class ProbeTests(RefusingTestCase):
    """Many submissions to one peer."""

    def test_one_probe(self) -> None:
        """A refusal holds every submission to the peer; then one probes, and the others follow once it is taken."""
        self.script = refuse_for("overloaded", 10)
        self.submit("t0")
        for n in range(1, 20):
            self.submit(f"t{n}")
        self.assertEqual(len(self.times), 1)
        self.advance(9)
        self.assertEqual(len(self.times), 1)
        self.advance(4)
        self.assertEqual(len(self.times), 2)  # the probe was refused, too
        self.script = accept
        self.advance(15)
        self.assertEqual(len(self.times), 22)
        self.assertTrue(all(self.record(f"t{n}").answered_at for n in range(20)))

    def test_other_messages_are_not_held(self) -> None:
        """Only submissions are held: a cancellation goes out."""
        self.submit("taken")
        self.script = refuse_for("overloaded", 100)
        self.submit("held")
        self.script = accept
        self.done(self.alice.cancel(TaskKey(Side.SUBMITTER, BOB, "taken")))
        self.assertIs(self.record("taken").status, TaskStatus.CANCELLED)

    def ask_again(self, task_id: str) -> None:
        """Have Alice query how a task stands, as if nothing had been heard of it."""
        key = TaskKey(Side.SUBMITTER, BOB, task_id)
        self.done(Deferred.fromCoroutine(self.alice._records.change(key, always(Event.ASK_AGAIN))))

    def test_refused_query(self) -> None:
        """A query that is refused for now holds every submission to the peer, too."""
        self.submit("taken")
        self.script = refuse_for("overloaded", 100)
        self.ask_again("taken")
        self.assertEqual(len(self.times), 2)
        self.submit("held")
        self.assertEqual(len(self.times), 2)

    def test_answered_queries(self) -> None:
        """Queries that are answered do not open the way for submissions: the peer was not asked to take any."""
        known = [f"known{n}" for n in range(6)]
        for task_id in known:
            self.submit(task_id)

        def refuse_new(peer: RawPeer, frame: Frame) -> None:
            script = accept if SubmitRequest.from_frame(frame).query else refuse_for("overloaded", 10)
            script(peer, frame)

        self.script = refuse_new
        self.submit("t0")
        for task_id in known:
            self.ask_again(task_id)
        for n in range(1, 20):
            self.submit(f"t{n}")
        self.times.clear()
        self.advance(15)
        self.assertEqual(len(self.times), len(known) + 1)

    def test_rate_limited_batch(self) -> None:
        """A batch that is larger than a peer's rate is taken all the same, in about the time that the rate needs."""
        for peer in self.bob.peers:
            assert peer.transport is not None
            peer.transport.loseConnection()
        self.network.ports[str(BOB)].stopListening()
        bob = self.make_node(BOB, ALICE, policy=RateLimit(self.clock, rate=5, burst=5))
        for n in range(40):
            self.submit(f"t{n}")
        self.advance(40)
        self.assertEqual(len(self.tasks(bob)), 40)
        self.assertTrue(all(self.record(f"t{n}").answered_at for n in range(40)))


class CleanCloseTests(NodeTestCase):
    """A peer that announced ``ack`` and closes cleanly instead."""

    def test_abandoned(self) -> None:
        """After five clean closes in place of acknowledgments a delivery is abandoned; the record says so."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request(features=tuple(OURS)))
        alice = self.listen(ALICE, lambda peer, frame: peer.close())
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t1")))
        self.advance(200)
        self.assertEqual(sum(len(peer.frames) for peer in alice.peers), MAX_CLEAN_CLOSES)
        self.assertIsNotNone(self.task(bob, TaskKey(Side.RECEIVER, ALICE, "t1")).delivery_given_up_at)

    def test_refusals_between(self) -> None:
        """A peer that answers that it cannot take a message now does acknowledge: its clean closes count anew."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request(features=tuple(OURS)))
        count = 0

        def script(peer: RawPeer, frame: Frame) -> None:
            nonlocal count
            count += 1
            if count == MAX_CLEAN_CLOSES:
                refuse("storage")(peer, frame)
            else:
                peer.close()

        self.listen(ALICE, script)
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t1")))
        self.advance(600)
        self.assertEqual(count, 2 * MAX_CLEAN_CLOSES)
        self.assertIsNotNone(self.task(bob, TaskKey(Side.RECEIVER, ALICE, "t1")).delivery_given_up_at)

    def test_not_when_it_breaks(self) -> None:
        """A connection that breaks says nothing about the peer."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request(features=tuple(OURS)))
        alice = self.listen(ALICE, lambda peer, frame: peer.transport.abortConnection())  # type: ignore[union-attr]
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t1")))
        self.advance(200)
        self.assertGreater(len(alice.peers), MAX_CLEAN_CLOSES)
        self.assertIsNone(self.task(bob, TaskKey(Side.RECEIVER, ALICE, "t1")).delivery_given_up_at)


class QueryTests(NodeTestCase):
    """Asking how a task stands."""

    def query(self, task_id: str = "t1", description: str = "work") -> SubmitRequest:
        """Alice's question."""
        return evolve(request(task_id, description, features=tuple(OURS)), query=True)

    def test_unknown(self) -> None:
        """A query about a task that is not there creates nothing, whatever the policy would admit."""
        bob = self.make_node(BOB, ALICE)
        answer = self.ask(BOB, self.query())
        self.assertEqual((answer.status, answer.code), (400, "unknown_task"))
        self.assertEqual(self.tasks(bob), [])

    def test_known(self) -> None:
        """A query about a known task is answered with its status."""
        self.make_node(BOB, ALICE)
        self.ask(BOB, request())
        answer = self.ask(BOB, self.query())
        self.assertEqual((answer.status, answer.current_status), (200, "NEW"))
        self.assertEqual(self.ask(BOB, self.query(description="else")).code, "id_conflict")

    def test_lost_by_the_receiver(self) -> None:
        """A receiver that lost its store is not given the work again: the task ends as lost."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t1")))
        self.stop(bob)
        bob = self.make_node(BOB, ALICE)
        self.advance(3700, step=5)
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "lost"))
        self.assertEqual(self.tasks(bob), [])

    def test_undecided(self) -> None:
        """A peer with ``ack`` is queried after the answer time-out, and only an answer that still says NEW cancels."""
        alice = self.make_node(ALICE, BOB)
        statuses = ["NEW"]

        def script(peer: RawPeer, frame: Frame) -> None:
            is_submission = frame.type == SubmitRequest.frame_type
            status = statuses[-1] if is_submission and SubmitRequest.from_frame(frame).query else ""
            if frame.type == TaskStatusUpdate.frame_type:
                status = "CANCELLED"
            said = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", FEATURES, current_status=status)
            peer.send(said.to_frame().encode())

        self.listen(BOB, script)
        slow = self.done(alice.submit(BOB, "work", task_id="slow")).key
        statuses.append("ACCEPTED")
        self.advance(95)
        self.assertIs(self.task(alice, slow).status, TaskStatus.ACCEPTED)
        self.assertNotIn("in time", self.task(alice, slow).justification)
        self.assertIsNone(self.task(alice, slow).cancel_requested_at)
        statuses.append("NEW")
        idle = self.done(alice.submit(BOB, "work", task_id="idle")).key
        self.advance(95)
        task = self.task(alice, idle)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "answer_timeout"))

    def test_refused(self) -> None:
        """A query that is refused by a peer that announces ``ack`` no longer does not leave the task open for ever."""
        alice = self.make_node(ALICE, BOB)
        accepts = True

        def script(peer: RawPeer, frame: Frame) -> None:
            if accepts:
                accept(peer, frame)
            elif frame.type == SubmitRequest.frame_type:
                refusal = SubmitResponse(task_id_of(frame), ResponseStatus.REJECTED, "no", (), "id_conflict")
                peer.send(refusal.to_frame().encode())
            else:
                refuse("unknown_task")(peer, frame)

        self.listen(BOB, script)
        key = self.done(alice.submit(BOB, "work")).key
        accepts = False
        self.advance(95)
        task = self.task(alice, key)
        self.assertEqual((task.status, task.cancel_requested_at), (TaskStatus.NEW, None))
        self.advance(95)
        task = self.task(alice, key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "answer_timeout"))

    def test_completed_there(self) -> None:
        """A query that is answered COMPLETED moves the record to EXECUTING: the results are pending."""
        alice = self.make_node(ALICE, BOB)

        def script(peer: RawPeer, frame: Frame) -> None:
            said = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", FEATURES)
            peer.send(evolve(said, current_status="COMPLETED").to_frame().encode())

        self.listen(BOB, script)
        key = self.done(alice.submit(BOB, "work")).key
        self.assertIs(self.task(alice, key).status, TaskStatus.EXECUTING)

    def test_no_news(self) -> None:
        """A task of which nothing new was heard for thirty days is cancelled, however often it is confirmed."""
        alice = self.make_node(ALICE, BOB)

        def script(peer: RawPeer, frame: Frame) -> None:
            is_update = frame.type == TaskStatusUpdate.frame_type
            said = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", FEATURES)
            peer.send(evolve(said, current_status="CANCELLED" if is_update else "EXECUTING").to_frame().encode())

        self.listen(BOB, script)
        key = self.done(alice.submit(BOB, "work")).key
        self.advance(29.9 * 86400, step=3600)
        self.assertIs(self.task(alice, key).status, TaskStatus.EXECUTING)
        self.advance(86400, step=3600)
        task = self.task(alice, key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "result_timeout"))
