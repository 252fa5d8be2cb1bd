"""Withdrawing tasks: what was never sent, what is on its way, and what the receiver answers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogLevel, capturedLogs
from typing_extensions import override

from tasksubmit.errors import IllegalTransition, PeerUnreachable
from tasksubmit.interfaces import Peer
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.protocol.client import Client
from tasksubmit.testing.faults import FaultyTaskStore
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import ResponseStatus, SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.node.helpers import (
    ALICE,
    BOB,
    OURS,
    NodeTestCase,
    PairTestCase,
    Script,
    SlowStore,
    deployed,
    refuse,
    request,
    results,
    task_id_of,
)
from tests.protocol.support import RawPeer

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")
WEEK_SECONDS = 7 * 86400.0


def answer(current_status: str = "", **fields: Any) -> Script:
    """Answer every frame 200, as a node does, with a status and the reason for it."""

    def script(peer: RawPeer, frame: Frame) -> None:
        said = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", ("persistent", "ack"))
        peer.send(evolve(said, current_status=current_status, **fields).to_frame().encode())

    return script


def ignore(peer: RawPeer, frame: Frame) -> None:
    """Take everything and say nothing."""


class ScriptedReceiver(NodeTestCase):
    """Alice submits to a Bob who does as he is told."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = SlowStore()
        self.alice = self.make_node(ALICE, BOB, store=self.store)
        self.script: Script = answer()

    def appear(self) -> None:
        """Have Bob be there."""
        self.bob = self.listen(BOB, lambda peer, frame: self.script(peer, frame))

    def submit(self, task_id: str = "t1", **options: Any) -> TaskKey:
        """Submit a task to Bob."""
        return self.done(self.alice.submit(BOB, "work", task_id=task_id, **options)).key

    def record(self, key: TaskKey) -> Task:
        """Alice's record."""
        return self.task(self.alice, key)

    def end_of(self, key: TaskKey) -> tuple[str, str, str]:
        """How a task ended."""
        task = self.record(key)
        return task.status.value, task.outcome, task.justification

    def frames(self, kind: type[SubmitRequest] | type[TaskStatusUpdate]) -> list[Any]:
        """What Bob was sent."""
        frames = [frame for peer in self.bob.peers for frame in peer.frames if frame.type == kind.frame_type]
        return [kind.from_frame(frame) for frame in frames]


class NeverSentTests(ScriptedReceiver):
    """No receiver can have the task."""

    def test_withdrawn_at_once(self) -> None:
        """A task that was never sent is withdrawn in the commit of the request, and its receiver is not contacted."""
        key = self.submit()
        self.advance(200)
        task = self.done(self.alice.cancel(key, "Never mind"))
        self.assertEqual(self.end_of(key), ("CANCELLED", "cancelled_by_submitter", "Never mind"))
        self.assertIs(task.status, TaskStatus.CANCELLED)
        self.assertEqual(self.owed(self.alice, key), [])
        self.appear()
        self.advance(120)
        self.assertEqual(self.bob.peers, [])

    def test_down_for_longer_than_the_answer_time_out(self) -> None:
        """A peer that is away for longer than a receiver may take to decide is given the task when it is back."""
        key = self.submit()
        self.advance(150)
        self.assertIs(self.record(key).status, TaskStatus.NEW)
        self.assertIsNone(self.record(key).cancel_requested_at)
        self.appear()
        self.advance(70)
        self.assertEqual(len(self.frames(SubmitRequest)), 1)
        self.assertIsNotNone(self.record(key).answered_at)

    def test_undelivered(self) -> None:
        """A task that could not be sent by its deadline ends undelivered; the receiver never gets it."""
        key = self.submit(deliver_by=self.alice._records.now() + timedelta(seconds=30))
        self.advance(31)
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "undelivered"))
        self.appear()
        self.advance(120)
        self.assertEqual(self.bob.peers, [])

    def test_tried_for_an_hour_after_a_start(self) -> None:
        """The default delivery deadline ends no task within an hour of a start."""
        key = self.submit()
        self.stop(self.alice)
        self.clock.advance(8 * 86400)
        self.alice.startService()
        self.advance(3500, step=10)
        self.assertIs(self.record(key).status, TaskStatus.NEW)
        self.advance(200, step=10)
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "undelivered"))

    def test_expires_after_the_default_deadline(self) -> None:
        """A task that expires later than the default delivery deadline is tried until that, not for longer."""
        key = self.submit(expires_at=self.alice._records.now() + timedelta(days=30))
        self.advance(WEEK_SECONDS - 60, step=3600)
        self.assertIs(self.record(key).status, TaskStatus.NEW)
        self.advance(120)
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "undelivered"))

    def test_every_attempt_was_refused(self) -> None:
        """A task that was refused each time is declined at its deadline, with the receiver's last words."""
        self.script = refuse("quota")
        self.appear()
        key = self.submit(deliver_by=self.alice._records.now() + timedelta(seconds=30))
        self.assertEqual((self.record(key).status, self.record(key).code), (TaskStatus.NEW, "quota"))
        self.advance(32)
        task = self.record(key)
        self.assertEqual((task.status, task.outcome, task.code), (TaskStatus.DECLINED, "refused", "quota"))
        self.assertEqual(task.justification, "no")
        self.advance(60)
        self.assert_idle(self.alice)

    def test_cancelled_between_refusals(self) -> None:
        """A task that was only ever refused is withdrawn at once."""
        self.script = refuse("rate_limited")
        self.appear()
        key = self.submit()
        self.done(self.alice.cancel(key))
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))
        self.assertEqual(self.frames(TaskStatusUpdate), [])

    def test_refused_after_the_request(self) -> None:
        """A request while the submission is on its way holds when that is refused for now: nobody has the task."""
        self.script = ignore
        self.appear()
        key = self.submit()
        self.done(self.alice.cancel(key))
        self.assertIs(self.record(key).status, TaskStatus.NEW)
        [peer] = self.bob.peers
        refuse("overloaded")(peer, peer.frames[0])
        self.network.flush()
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))


class NoSubmissionAfterRequestTests(ScriptedReceiver):
    """After a cancellation was requested nothing is sent that could start work."""

    def lose_the_answer(self) -> TaskKey:
        """Submit to a Bob who is known to acknowledge, and never does."""
        self.successResultOf(self.store.remember_features(BOB, OURS))
        self.stop(self.alice)
        self.alice.startService()
        self.script = ignore
        self.appear()
        key = self.submit()
        self.network.cut_all()
        return key

    def test_only_cancelled_is_sent(self) -> None:
        """A submission that may have arrived is not repeated after the request; CANCELLED is sent in its place."""
        key = self.lose_the_answer()
        self.done(self.alice.cancel(key))
        sent = len(self.frames(SubmitRequest))
        self.script = refuse("unknown_task")
        self.advance(120)
        self.assertEqual(len(self.frames(SubmitRequest)), sent)
        self.assertEqual([update.outcome for update in self.frames(TaskStatusUpdate)], ["cancelled_by_submitter"])
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))

    def test_not_after_a_restart(self) -> None:
        """The same after a restart: what an earlier run has begun counts as begun."""
        key = self.lose_the_answer()
        self.stop(self.alice)
        self.alice.startService()
        self.assertIsNotNone(self.record(key).submission_begun_at)
        self.done(self.alice.cancel(key))
        sent = len(self.frames(SubmitRequest))
        self.script = answer("CANCELLED", outcome="cancelled_by_submitter")
        self.advance(120)
        self.assertEqual(len(self.frames(SubmitRequest)), sent)
        self.assertIs(self.record(key).status, TaskStatus.CANCELLED)

    def test_request_wins_over_the_mark(self) -> None:
        """A request that comes while a submission is being marked as begun keeps it from being sent."""
        self.appear()
        self.store.holds_changes = True
        key = self.submit()
        self.network.flush()
        cancelled = self.alice.cancel(key)
        self.store.holds_changes = False
        self.store.release()
        self.network.flush()
        self.done(cancelled)
        self.advance(70)
        statuses = {self.record(key).status}
        submitted = self.frames(SubmitRequest)
        if not submitted:
            self.assertEqual(statuses, {TaskStatus.CANCELLED})
        else:  # the mark was first: then the receiver is told
            self.assertEqual(len(submitted), 1)
            self.assertEqual(len(self.frames(TaskStatusUpdate)), 1)


class LostAnswerTests(ScriptedReceiver):
    """The answer to a submission is lost, and the receiver may not be asked again."""

    def test_results_arrived_before(self) -> None:
        """A record that has its results already says nothing of a submission that was not confirmed."""
        self.script = ignore
        self.appear()
        key = self.submit()
        self.advance(2)
        self.ask(ALICE, results("t1", ack=True))
        self.network.cut_all()
        self.advance(2)
        task = self.record(key)
        self.assertEqual((task.status, task.code, task.error), (TaskStatus.COMPLETED, "", ""))

    def test_submitted_again_meanwhile(self) -> None:
        """A submission that may have arrived does not count as unsent because its task is submitted once more."""
        store = FaultyTaskStore()
        self.stop(self.alice)
        store.open(ALICE)
        self.successResultOf(store.remember_features(BOB, OURS))
        self.alice = self.make_node(ALICE, BOB, store=store)
        self.script = ignore
        self.appear()
        key = self.submit()
        self.network.cut_all()
        self.script = answer()
        self.submit("t2")
        store.fail("get")
        self.advance(1)  # t2 goes, t1 cannot be read
        self.assertEqual(len(self.frames(SubmitRequest)), 2)
        self.assertTrue(self.alice._delivery.sends_now(BOB))
        store.hold_commits()
        again = self.alice.submit(BOB, "work", task_id="t1")
        self.script = refuse("overloaded")
        self.advance(3)
        store.release_commits()
        self.done(again)
        self.assertGreater(len(self.frames(SubmitRequest)), 2)
        self.assertEqual((self.record(key).code, self.record(key).is_unsent), ("overloaded", False))

    def test_nothing_was_sent_and_the_store_fails(self) -> None:
        """A submission of which no byte was written is sent again, although recording that has failed once."""
        store = FaultyTaskStore()
        self.stop(self.alice)
        self.alice = self.make_node(ALICE, BOB, store=store)
        submit, tried = Client.submit, list[str]()

        def submit_later(client: Client, request: SubmitRequest) -> Deferred[SubmitResponse]:
            tried.append(request.task_id)
            if len(tried) > 1:
                return submit(client, request)
            store.fail("apply")
            return fail(PeerUnreachable("gone just now"))

        self.patch(Client, "submit", submit_later)
        self.script = deployed
        self.appear()
        key = self.submit()
        self.assertEqual(tried, ["t1"])
        self.assertIsNotNone(self.record(key).submission_begun_at)
        self.advance(30)
        self.flushLoggedErrors()
        self.assertEqual((len(self.frames(SubmitRequest)), self.record(key).code), (1, ""))
        self.assertIsNotNone(self.record(key).answered_at)


class AnswerTests(ScriptedReceiver):
    """What each answer to CANCELLED means."""

    def cancel(self, script: Script) -> TaskKey:
        """Have Bob take a task, and cancel it while he follows a script."""
        self.appear()
        key = self.submit()
        self.script = script
        self.done(self.alice.cancel(key, "Never mind"))
        return key

    def test_reason_of_the_receiver(self) -> None:
        """The receiver's status, outcome, error and justification are taken as they are answered."""
        for status, fields in (
            ("CANCELLED", {"outcome": "failed", "error": "out of memory", "justification": "The execution failed"}),
            ("DECLINED", {"justification": "I have no time"}),
            ("EXPIRED", {"outcome": "expired", "justification": "It waited too long"}),
            ("CANCELLED", {"outcome": "cancelled_by_submitter", "justification": "Never mind"}),
        ):
            with self.subTest(status=status):
                key = self.cancel(answer(status, **fields))
                task = self.record(key)
                self.assertEqual(task.status.value, status)
                self.assertEqual(
                    (task.outcome, task.error, task.justification),
                    (fields.get("outcome", ""), fields.get("error", ""), fields["justification"]),
                )
                self.tearDown()
                self.doCleanups()
                self.setUp()

    def test_unknown_task(self) -> None:
        """A receiver that does not know the task has confirmed the cancellation."""
        key = self.cancel(refuse("unknown_task"))
        self.assertEqual(self.end_of(key), ("CANCELLED", "cancelled_by_submitter", "Never mind"))

    def test_not_heeded(self) -> None:
        """A receiver that goes on as if nothing was said is told again, until the age limit; then the record ends."""
        for status in ("NEW", "ACCEPTED", "EXECUTING"):
            key = self.cancel(answer(status))
            self.assertIs(self.record(key).status, TaskStatus.NEW, status)
            self.advance(70)
            self.assertGreater(len(self.frames(TaskStatusUpdate)), 3)
            self.advance(WEEK_SECONDS, step=3600)
            self.advance(120)
            self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))
            self.tearDown()
            self.doCleanups()
            self.setUp()

    def test_completed_but_no_results(self) -> None:
        """COMPLETED is the end of the wait after the age limit, if the results never arrive."""
        key = self.cancel(answer("COMPLETED"))
        self.script = answer("SUCCEEDED")
        self.assertIs(self.record(key).status, TaskStatus.EXECUTING)
        self.advance(WEEK_SECONDS - 60, step=3600)
        self.assertIs(self.record(key).status, TaskStatus.EXECUTING)
        self.advance(120)
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))

    def test_completed_with_an_earlier_deadline(self) -> None:
        """The task's own deadline for results is not switched off by a cancellation that came too late."""
        self.appear()
        key = self.submit(result_due_at=self.alice._records.now() + timedelta(hours=1))
        self.script = answer("COMPLETED")
        self.done(self.alice.cancel(key))
        self.advance(3590, step=10)
        self.assertIs(self.record(key).status, TaskStatus.EXECUTING)
        self.advance(20)
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))

    def test_reference_peer(self) -> None:
        """A reference peer cannot be stopped: whoever cancels is told that the work may still be done."""
        self.script = deployed
        self.appear()
        key = self.submit()
        task = self.done(self.alice.cancel(key))
        self.assertIs(self.record(key).status, TaskStatus.CANCELLED)
        self.assertIn("cannot be stopped", self.record(key).justification)
        self.assertIsNotNone(task.cancel_requested_at)

    def test_word_of_the_first_request(self) -> None:
        """Who asked first determines the outcome, and the receiver is told the word."""
        self.appear()
        key = self.submit(result_due_at=self.alice._records.now() + timedelta(seconds=5))
        self.script = refuse("overloaded")
        self.advance(7)
        self.done(self.alice.cancel(key, "Never mind"))
        self.script = refuse("unknown_task")
        self.advance(70)
        self.assertEqual({update.outcome for update in self.frames(TaskStatusUpdate)}, {"result_timeout"})
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "result_timeout"))

    def test_word_of_a_task_that_goes_on(self) -> None:
        """An outcome in an update that does not end the task is no outcome: the task may end for another reason."""
        self.appear()
        key = self.submit()
        self.ask(ALICE, TaskStatusUpdate("t1", "EXECUTING", "", ack=True, outcome="failed"))
        self.assertEqual((self.record(key).status, self.record(key).outcome), (TaskStatus.EXECUTING, ""))
        self.script = refuse("unknown_task")
        self.done(self.alice.cancel(key))
        self.assertEqual(self.end_of(key)[:2], ("CANCELLED", "cancelled_by_submitter"))

    def test_ignored(self) -> None:
        """A message that the task's status does not allow changes nothing, is answered, and logged at debug level."""
        self.appear()
        key = self.submit()
        self.ask(ALICE, results("t1", ack=True))
        before = self.record(key)
        for status in ("NEW", "COMPLETED", "ACCEPTED", "CANCELLED"):
            with capturedLogs() as logged:
                answered = self.ask(ALICE, TaskStatusUpdate("t1", status, "", ack=True, from_addr=str(BOB)))
            self.assertEqual((answered.status, answered.current_status), (200, "COMPLETED"))
            ignored = [event for event in logged if "message ignored" in (event["log_format"] or "")]
            self.assertEqual({event["log_level"] for event in ignored}, {LogLevel.debug}, status)
        self.assertEqual(self.record(key), before)


class ReceiverTests(PairTestCase):
    """What a receiver does with CANCELLED."""

    def cancelled(self, task_id: str = "t1", **fields: Any) -> TaskStatusUpdate:
        """Alice's withdrawal."""
        update = TaskStatusUpdate(task_id, "CANCELLED", "enough", ack=True, outcome="cancelled_by_submitter")
        return evolve(update, **{"from_addr": str(ALICE), **fields})

    def test_overtakes_its_submission(self) -> None:
        """A CANCELLED that arrives before its SUBMIT keeps that from ever starting work."""
        answer = self.ask(BOB, self.cancelled())
        self.assertEqual((answer.status, answer.code), (400, "unknown_task"))
        late = self.ask(BOB, request(features=tuple(OURS)))
        self.assertEqual((late.status, late.current_status), (200, "CANCELLED"))
        self.assertEqual((late.outcome, late.justification), ("cancelled_by_submitter", "enough"))
        self.assertEqual(self.tasks(self.bob), [])

    def test_overtakes_any_description(self) -> None:
        """The tombstone is that of whatever is submitted under the id, by that submitter alone."""
        self.ask(BOB, self.cancelled())
        self.assertEqual(self.ask(BOB, request(description="else")).current_status, "CANCELLED")
        self.assertEqual(self.ask(BOB, request("t2")).current_status, "")

    def test_still_there_after_a_restart(self) -> None:
        """It is on disk before the answer."""
        self.ask(BOB, self.cancelled())
        self.stop(self.bob)
        self.bob.startService()
        self.assertEqual(self.ask(BOB, request()).current_status, "CANCELLED")

    def test_while_the_submission_is_decided(self) -> None:
        """A CANCELLED on another connection waits for the SUBMIT that is being decided, and then withdraws it."""
        store = MemoryTaskStore()
        self.stop(self.bob)
        asked: list[Deferred[None]] = []

        class Slow:
            def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[None]:
                asked.append(Deferred())
                return asked[-1]

        self.bob = self.make_node(BOB, ALICE, store=store, policy=Slow())
        submitting = self.say(BOB, request())
        cancelling = self.say(BOB, self.cancelled())
        self.assertEqual((submitting.answers, cancelling.answers), ([], []))
        asked[0].callback(None)
        self.network.flush()
        self.assertEqual([answer.status for answer in submitting.answers], [200])
        self.assertEqual([answer.current_status for answer in cancelling.answers], ["CANCELLED"])
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.CANCELLED)

    def test_pipelined(self) -> None:
        """The same on one connection, without waiting for the answer to the SUBMIT."""
        self.alice.store.close()
        peer = self.say(BOB, request(features=tuple(OURS)), self.cancelled())
        self.assertEqual(
            [(answer.status, answer.current_status) for answer in peer.answers], [(200, ""), (200, "CANCELLED")]
        )
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.CANCELLED)

    def test_words(self) -> None:
        """The submitter's word is recorded; one that no submitter has is dropped."""
        for n, (word, expected) in enumerate((("answer_timeout",) * 2, ("result_timeout",) * 2, ("undelivered",) * 2)):
            task_id = f"w{n}"
            self.ask(BOB, request(task_id))
            self.ask(BOB, self.cancelled(task_id, outcome=word))
            self.assertEqual(self.task(self.bob, evolve(KEY, task_id=task_id)).outcome, expected)
        self.ask(BOB, request("w9"))
        self.ask(BOB, self.cancelled("w9", outcome="made_up"))
        self.assertEqual(self.task(self.bob, evolve(KEY, task_id="w9")).outcome, "cancelled_by_submitter")

    def test_strangers_leave_no_tombstone(self) -> None:
        """A CANCELLED of somebody who is no peer leaves nothing behind."""
        stranger = "0:0000.0000.00FF"
        answer = self.ask(BOB, self.cancelled(from_addr=stranger))
        self.assertEqual(answer.code, "unknown_task")
        self.assertEqual(self.done(self.bob.store.tombstones("t1")), [])


class AnswersToReceiverTests(PairTestCase):
    """A receiver learns from answers that its submitter does not wait any more."""

    def end_at_alice(self, key: TaskKey) -> None:
        """Have Alice's record end without Bob's knowledge."""
        self.network.refuse(str(BOB))
        self.network.cut_all()
        self.done(self.alice.cancel(key))
        self.network.refuse(str(ALICE))
        self.advance(WEEK_SECONDS + 300, step=3600)
        self.assertIs(self.task(self.alice, key).status, TaskStatus.CANCELLED)

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.bob)
        self.bob = self.make_node(
            BOB, ALICE, timeouts=evolve(self.alice._outbox._timeouts, queue_head_timeout=timedelta(days=99))
        )

    def test_work_is_stopped(self) -> None:
        """The answer CANCELLED to an update cancels the receiver's own record, with the submitter's word."""
        handle, key = self.submit()
        self.done(self.bob.accept(key))
        self.end_at_alice(handle.key)
        self.done(self.bob.execute(key))
        self.network.refuse(str(ALICE), False)
        self.advance(120)
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))
        self.assert_idle(self.bob)

    def test_results_too_late(self) -> None:
        """Results for a record that has ended are delivered too late: neither paid nor reported."""
        handle, key = self.submit()
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key, Lease(timedelta(days=30))))
        self.end_at_alice(handle.key)
        self.done(self.bob.send_results(key, "done"))
        self.network.refuse(str(ALICE), False)
        self.advance(120)
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.outcome, task.reward), (TaskStatus.SUCCEEDED, "late", None))
        self.assertEqual((self.scores(self.bob), self.scores(self.alice)), ({}, {}))
        self.assertEqual(self.task(self.alice, handle.key).late_result_file, f"{key.task_id}_result.txt")
        self.assert_idle(self.bob)


class ReasonTests(NodeTestCase):
    """The reason for a final status is never lost."""

    def test_query_overtakes_the_update(self) -> None:
        """Whoever learns from an answer that a task has ended learns why, and the update behind it changes nothing."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        ends = (
            ("failed", lambda key: bob.fail(key, "out of memory"), ("CANCELLED", "failed", "out of memory")),
            ("declined", lambda key: bob.decline(key, "I have no time"), ("DECLINED", "", "")),
        )
        for task_id, end, expected in ends:
            handle = self.done(alice.submit(BOB, "work", task_id=task_id))
            key = TaskKey(Side.RECEIVER, ALICE, task_id)
            if task_id == "failed":
                self.done(bob.accept(key))
                self.done(bob.execute(key))
            self.network.refuse(str(ALICE))
            self.network.cut_all()
            self.done(end(key))
            theirs = self.task(bob, key)
            self.stop(alice)
            self.clock.advance(1)
            alice.startService()
            self.advance(5)  # Alice asks, and Bob cannot reach her yet
            mine = self.task(alice, handle.key)
            self.assertEqual((mine.status.value, mine.outcome, mine.error), expected)
            self.assertEqual(mine.justification, theirs.justification)
            self.network.refuse(str(ALICE), False)
            self.advance(120)
            self.assertEqual(self.task(alice, handle.key), mine)
        self.assert_idle(alice, bob)

    def test_missing_reason_is_completed(self) -> None:
        """A final record without an outcome takes the reason from a later message of the same status, once."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, answer("CANCELLED"))
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.assertEqual(
            (self.task(alice, handle.key).status, self.task(alice, handle.key).outcome), (TaskStatus.CANCELLED, "")
        )
        for error in ("out of memory", "something else"):
            self.ask(ALICE, TaskStatusUpdate("t1", "CANCELLED", "It failed", ack=True, outcome="failed", error=error))
        task = self.task(alice, handle.key)
        self.assertEqual((task.outcome, task.error, task.justification), ("failed", "out of memory", "It failed"))

    def test_no_reason_takes_none_away(self) -> None:
        """A final record keeps its justification when a later message of the same status gives no reason."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, answer(""))
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        for justification in ("I have no time", ""):
            self.ask(ALICE, TaskStatusUpdate("t1", "DECLINED", justification, ack=True))
        self.assertEqual(self.task(alice, handle.key).justification, "I have no time")

    def test_open_task_has_no_outcome(self) -> None:
        """Only an update that ends a task gives its outcome and error: they would be that of a later cancellation."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, answer(""))
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.ask(ALICE, TaskStatusUpdate("t1", "ACCEPTED", "", ack=True, outcome="failed", error="out of memory"))
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome, task.error), (TaskStatus.ACCEPTED, "", ""))

    def test_words_of_one_record(self) -> None:
        """An answer does not carry an outcome that says something about the record of one side alone."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, refuse("invalid"))
        refused = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.assertEqual(self.task(alice, refused.key).outcome, "refused")
        reply = self.ask(ALICE, TaskStatusUpdate("t1", "ACCEPTED", "", ack=True))
        self.assertEqual((reply.current_status, reply.outcome), ("DECLINED", ""))
        self.assertTrue(self.done(alice.store.forget(self.task(alice, refused.key), alice._records.now())))
        reply = self.ask(ALICE, TaskStatusUpdate("t1", "ACCEPTED", "", ack=True))
        self.assertEqual((reply.current_status, reply.outcome), ("DECLINED", ""))

    def test_long_error(self) -> None:
        """Of an error the first 1,000 characters are kept, however it arrives."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, answer(""))
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        update = TaskStatusUpdate("t1", "CANCELLED", "It failed", ack=True, outcome="failed", error="e" * 1001)
        self.assertEqual(self.ask(ALICE, update).error, "e" * 1000)
        self.assertEqual(self.task(alice, handle.key).error, "e" * 1000)

    def test_tombstone(self) -> None:
        """What retention has removed still says why it ended, to a query and to a late update."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.done(bob.accept(KEY))
        self.done(bob.execute(KEY))
        self.done(bob.fail(KEY, "out of memory"))
        for node, key in ((alice, handle.key), (bob, KEY)):
            self.assertTrue(self.done(node.store.forget(self.task(node, key), node._records.now())))
        for reply in (
            self.ask(BOB, evolve(request(features=tuple(OURS)), query=True)),
            self.ask(ALICE, TaskStatusUpdate("t1", "ACCEPTED", "", ack=True)),
            self.ask(ALICE, results("t1", ack=True)),
        ):
            self.assertEqual(
                (reply.current_status, reply.outcome, reply.error), ("CANCELLED", "failed", "out of memory")
            )

    def test_too_late_to_cancel(self) -> None:
        """What is final cannot be cancelled."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, answer("CANCELLED", outcome="failed"))
        handle = self.done(alice.submit(BOB, "work"))
        self.failed(alice.cancel(handle.key), IllegalTransition)
