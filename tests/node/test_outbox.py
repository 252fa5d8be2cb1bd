"""The submitter's side: what it believes, what it keeps, what it pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from typing_extensions import override

from tasksubmit.errors import StoreError, TaskCancelled
from tasksubmit.interfaces import SavedResult
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.polo import ScoreFormula, polo_score
from tasksubmit.lifecycle.table import HEARD, TRANSITIONS, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, from_milliseconds
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import (
    MAX_FEATURES,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tests.node.helpers import (
    ALICE,
    BOB,
    CAROL,
    OURS,
    NodeTestCase,
    Script,
    SlowStore,
    deployed,
    refuse,
    results,
    task_id_of,
)
from tests.protocol.support import RawPeer


def answering(current_status: str = "", features: frozenset[str] = OURS) -> Script:
    """Answer every frame 200, with a status."""

    def script(peer: RawPeer, frame: Frame) -> None:
        answer = SubmitResponse(
            task_id_of(frame), ResponseStatus.ACCEPTED, "yes", features=tuple(features), current_status=current_status
        )
        peer.send(answer.to_frame().encode())

    return script


NO_RESULTS = (TaskStatus.DECLINED, TaskStatus.CANCELLED, TaskStatus.EXPIRED)


class OutboxTestCase(NodeTestCase):
    """Alice has submitted a task to a Bob who answers it, and then says what each test has him say."""

    script: Script = staticmethod(answering())

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = SlowStore()
        self.alice = self.make_node(ALICE, BOB, store=self.store)
        self.bob = self.listen(BOB, lambda peer, frame: self.script(peer, frame))
        self.handle = self.done(self.alice.submit(BOB, "work", task_id="t1"))

    @property
    def record(self) -> Task:
        return self.task(self.alice, self.handle.key)

    def hear(self, status: str, justification: str = "", **fields: str) -> SubmitResponse:
        """Bob tells a status and asks for an acknowledgement."""
        return self.ask(ALICE, TaskStatusUpdate("t1", status, justification, ack=True, **fields))

    def receive(self, text: str = "done", **fields: int) -> SubmitResponse:
        """Bob sends results and asks for an acknowledgement."""
        return self.ask(ALICE, results("t1", text, ack=True, **fields))


class StatusTests(OutboxTestCase):
    """The receiver's word."""

    def test_table(self) -> None:
        """From every status, every word does what the table says or nothing, and is answered with where it stands."""
        paths: dict[TaskStatus, list[str]] = {
            TaskStatus.NEW: [],
            TaskStatus.ACCEPTED: ["ACCEPTED"],
            TaskStatus.EXECUTING: ["EXECUTING"],
            TaskStatus.DECLINED: ["DECLINED"],
            TaskStatus.CANCELLED: ["CANCELLED"],
            TaskStatus.EXPIRED: ["EXPIRED"],
            TaskStatus.COMPLETED: ["results"],
            TaskStatus.SUCCEEDED: ["results", "SUCCEEDED"],
        }
        for status, path in paths.items():
            for word in TaskStatus:
                task_id = f"{status}-{word}"
                handle = self.done(self.alice.submit(BOB, "work", task_id=task_id))
                for step in path:
                    update = TaskStatusUpdate(task_id, step, "", ack=True)
                    self.ask(ALICE, results(task_id, ack=True) if step == "results" else update)
                before = self.task(self.alice, handle.key)
                self.assertIs(before.status, status)
                answer = self.ask(ALICE, TaskStatusUpdate(task_id, word.value, "new words", ack=True))
                after = self.task(self.alice, handle.key)
                event = HEARD.get(word.value)
                transition = TRANSITIONS.get((Side.SUBMITTER, status, event)) if event else None
                self.assertIs(after.status, transition.target if transition else status, task_id)
                self.assertEqual((answer.status, answer.current_status), (200, after.status.value), task_id)
                # A reason that is missing is taken from a later message of the same status.
                if transition is None and not (status.value == word.value and status in NO_RESULTS):
                    self.assertEqual(after, before, task_id)

    def test_progress(self) -> None:
        """EXECUTING said again carries progress."""
        self.hear("EXECUTING", "begun")
        self.assertEqual(self.hear("EXECUTING", "40% reading the corpus").current_status, "EXECUTING")
        self.assertEqual(self.record.justification, "40% reading the corpus")

    def test_failed(self) -> None:
        """A failed execution is told with its outcome and its error."""
        result = self.handle.result()
        self.hear("CANCELLED", "it failed", outcome="failed", error="out of memory")
        self.assertEqual((self.record.outcome, self.record.error), ("failed", "out of memory"))
        self.assertIn("out of memory", str(self.failed(result, TaskCancelled)))

    def test_expired_once(self) -> None:
        """EXPIRED costs the receiver a point, however often it is said."""
        for _ in range(3):
            self.hear("EXPIRED", outcome="expired")
        self.assertEqual(self.scores(self.alice), {BOB: -1})

    def test_unknown(self) -> None:
        """A word about a task that was not submitted here is refused."""
        answer = self.ask(ALICE, TaskStatusUpdate("t2", "ACCEPTED", "", ack=True))
        self.assertEqual((answer.status, answer.code), (400, "unknown_task"))

    def test_no_status(self) -> None:
        """A word that is no status is refused and changes nothing."""
        before = self.record
        self.assertEqual(self.hear("PAUSED").code, "invalid")
        self.assertEqual(self.record, before)


class ResultTests(OutboxTestCase):
    """Results, on time, early, late and again."""

    def test_without_steps(self) -> None:
        """Results count also when ACCEPTED and EXECUTING never came."""
        answer = self.receive("42")
        self.assertEqual((answer.status, answer.current_status, answer.reward), (200, "COMPLETED", 1))
        self.assertEqual(self.done(self.handle.result()).result_text, "42")
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 1})

    def test_again(self) -> None:
        """Repeated results are acknowledged with the same reward; nothing is booked or kept twice."""
        self.hear("EXECUTING")
        self.clock.advance(200)
        first = self.receive(time_cpu_ms=180_000)
        again = [self.receive(time_cpu_ms=1), self.receive("other", time_cpu_ms=180_000)]
        self.hear("SUCCEEDED")
        again.append(self.receive(time_cpu_ms=180_000))
        self.assertEqual(first.reward, 3)
        self.assertEqual({answer.reward for answer in again}, {3})
        self.assertEqual([answer.current_status for answer in again], ["COMPLETED", "COMPLETED", "SUCCEEDED"])
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 3})
        self.assertEqual(self.files(self.alice), ["t1_result.txt"])
        self.assertEqual(self.done(self.handle.result()).result_text, "done")

    def test_twice_at_once(self) -> None:
        """Results that come twice while the first are being written are paid and kept once."""
        self.store.is_slow = True
        peers = [self.say(ALICE, results("t1", ack=True)) for _ in range(2)]
        self.store.release()
        self.network.flush()
        self.assertEqual([peer.answers[0].reward for peer in peers], [1, 1])
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 1})
        self.assertEqual(self.files(self.alice), ["t1_result.txt"])

    def test_overtaken(self) -> None:
        """SUCCEEDED that overtakes the results is remembered, and they then pass through COMPLETED in one commit."""
        self.assertEqual(self.hear("SUCCEEDED").current_status, "NEW")
        self.assertTrue(self.record.succeeded_heard)
        answer = self.receive()
        self.assertEqual((answer.current_status, answer.reward), ("SUCCEEDED", 1))
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 1})

    def test_on_one_connection(self) -> None:
        """A deployed peer's results and SUCCEEDED come on one connection, are taken, and nothing is answered."""
        peer = self.say(ALICE, results("t1"), TaskStatusUpdate("t1", "SUCCEEDED", "delivered"), then_close=True)
        self.assertEqual(peer.received, b"")
        self.assertIs(self.record.status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.record.reward, 1)

    def test_on_one_connection_while_slow(self) -> None:
        """The same when the store is slow and the connection is long gone."""
        self.store.is_slow = True
        self.say(ALICE, results("t1"), TaskStatusUpdate("t1", "SUCCEEDED", "delivered"), then_close=True)
        self.store.release()
        self.network.flush()
        self.assertIs(self.record.status, TaskStatus.SUCCEEDED)

    def test_late(self) -> None:
        """Results of a record that is final are kept as late, once, acknowledged, and never paid."""
        for word, status in (("DECLINED", "DECLINED"), ("CANCELLED", "CANCELLED"), ("EXPIRED", "EXPIRED")):
            task_id = f"late-{word}"
            handle = self.done(self.alice.submit(BOB, "work", task_id=task_id))
            self.ask(ALICE, TaskStatusUpdate(task_id, word, "", ack=True))
            scores = self.scores(self.alice)
            for _ in range(2):
                answer = self.ask(ALICE, results(task_id, "late", ack=True))
                self.assertEqual((answer.status, answer.current_status, answer.reward), (200, status, 0))
            task = self.task(self.alice, handle.key)
            self.assertEqual((task.status.value, task.late_result_file), (status, f"{task_id}_result.txt"))
            self.assertEqual((task.result_file, task.reward), ("", None))
            self.assertEqual(self.scores(self.alice), scores)
        self.assertEqual(len(self.files(self.alice)), 3)

    def test_late_twice_at_once(self) -> None:
        """Late results that come twice at once are kept once."""
        self.hear("CANCELLED")
        self.store.is_slow = True
        for _ in range(2):
            self.say(ALICE, results("t1"))
        self.store.release()
        self.network.flush()
        self.assertEqual(self.files(self.alice), [self.record.late_result_file])

    def test_final_meanwhile(self) -> None:
        """Results that were being written when the record became final are late ones."""
        self.store.is_slow = True
        self.say(ALICE, TaskStatusUpdate("t1", "CANCELLED", ""))
        peer = self.say(ALICE, results("t1", ack=True))
        self.store.release()
        self.network.flush()
        self.assertEqual((peer.answers[0].current_status, peer.answers[0].reward), ("CANCELLED", 0))
        self.assertEqual(self.files(self.alice), [self.record.late_result_file])

    def test_final_while_written(self) -> None:
        """The same when that was while the file was written: the task's own end comes in between."""
        save, waiting = self.store.save_result, list[Callable[[], object]]()

        def save_slowly(*args: Any) -> Deferred[SavedResult]:
            later = Deferred[SavedResult]()
            waiting.append(lambda: save(*args).chainDeferred(later))
            return later

        self.patch(self.store, "save_result", save_slowly)
        peer = self.say(ALICE, results("t1", ack=True))
        self.script = answering("CANCELLED")
        self.done(self.handle.cancel())
        while waiting:
            waiting.pop(0)()
        self.network.flush()
        self.assertEqual([answer.current_status for answer in peer.answers], ["CANCELLED"])
        self.assertEqual(self.files(self.alice), [self.record.late_result_file])

    def test_time_is_bounded(self) -> None:
        """A receiver that claims more time than passed here is paid for what passed; both figures are kept."""
        self.hear("EXECUTING")
        self.clock.advance(100)
        answer = self.receive(time_idle_ms=10_000, time_staged_ms=20_000, time_cpu_ms=86_400_000)
        task = self.record
        self.assertEqual((task.time_cpu_ms, task.scored_cpu_ms), (86_400_000, 70_000))
        self.assertTrue(task.is_time_disputed)
        self.assertEqual(answer.reward, task.reward)
        scored = TaskResultMessage("t1", time_idle_ms=10_000, time_staged_ms=20_000, time_cpu_ms=70_000)
        self.assertEqual(answer.reward, polo_score(scored).final_reward)

    def test_without_execution(self) -> None:
        """Results of a task that was never accepted earn the least there is, and the record says what was missing."""
        for own, formula in ((CAROL, ScoreFormula.DOCUMENTED), (Address(0, 4), ScoreFormula.LINEAR)):
            alice = self.make_node(own, BOB, formula=formula)
            for task_id, told in (("never", None), ("accepted", "ACCEPTED")):
                handle = self.done(alice.submit(BOB, "work", task_id=task_id))
                if told:
                    self.ask(own, TaskStatusUpdate(task_id, told, "", ack=True))
                self.clock.advance(80)
                answer = self.ask(own, results(task_id, "", ack=True))
                task = self.task(alice, handle.key)
                self.assertEqual((answer.reward, task.reward), (1, 1))
                self.assertTrue(task.is_time_disputed)
                self.assertEqual(task.justification, "The results arrived, although the receiver reported no execution")

    def test_with_execution(self) -> None:
        """A receiver that reported an execution, or the time of one, is not doubted for the other."""
        self.hear("EXECUTING")
        self.receive()
        self.assertFalse(self.record.is_time_disputed)
        handle = self.done(self.alice.submit(BOB, "work", task_id="superseded"))
        self.clock.advance(60)
        answer = self.ask(ALICE, results("superseded", ack=True, time_cpu_ms=60_000))
        self.assertFalse(self.task(self.alice, handle.key).is_time_disputed)
        self.assertEqual(answer.reward, 2)

    def test_waits_over_all_time(self) -> None:
        """Waits that alone are longer than the time that passed leave no time of work."""
        self.clock.advance(10)
        self.receive(time_idle_ms=2**62, time_staged_ms=2**62, time_cpu_ms=2**63 - 1)
        self.assertEqual((self.record.scored_cpu_ms, self.record.reward), (0, 1))

    def test_honest_time(self) -> None:
        """Durations that fit are taken as they are, however late ACCEPTED and EXECUTING were heard."""
        self.clock.advance(80)
        self.hear("ACCEPTED")
        self.hear("EXECUTING")
        self.receive(time_idle_ms=10_000, time_staged_ms=20_000, time_cpu_ms=50_000)
        self.assertEqual(self.record.scored_cpu_ms, 50_000)
        self.assertFalse(self.record.is_time_disputed)

    def test_completed_at(self) -> None:
        """A time of completion that is none, or that no calendar has, is replaced by the time of arrival."""
        for n, text in enumerate(("", "yesterday", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00")):
            handle = self.done(self.alice.submit(BOB, "work", task_id=f"time-{n}"))
            message = TaskResultMessage(f"time-{n}", "text", "done", completed_at=text, ack=True)
            self.assertEqual(self.ask(ALICE, message).status, 200)
            self.assertEqual(self.task(self.alice, handle.key).completed_at, self.alice._records.now())
        self.receive()
        self.assertEqual(self.record.completed_at, from_milliseconds(1_200_000))

    def test_invalid(self) -> None:
        """Results that no honest peer sends are refused, leave no file, and the task goes on."""
        for bad in (
            TaskResultMessage("t1", "picture", ack=True),
            TaskResultMessage("t1", "file", filename="../x.txt", file_data=b"x", ack=True),
            TaskResultMessage("t1", "file", filename="x.py", file_data=b"x", ack=True),
            TaskResultMessage("t1", "file", filename="", file_data=b"x", ack=True),
            TaskResultMessage("t1", "text", "x", time_cpu_ms=-1, ack=True),
        ):
            answer = self.ask(ALICE, bad)
            self.assertEqual((answer.status, answer.code), (400, "invalid"))
        self.assertEqual((self.record.status, self.files(self.alice)), (TaskStatus.NEW, []))


class AnswerTests(OutboxTestCase):
    """What a receiver answers to a submission."""

    def test_refused(self) -> None:
        """A 400 ends the task, unless its code says to try again; code and words are kept; sending ends."""
        for code in ("score_too_low", "unknown_task", "made_up", ""):
            self.script = refuse(code)
            handle = self.done(self.alice.submit(BOB, "work", task_id=f"refused-{code}"))
            task = self.task(self.alice, handle.key)
            self.assertEqual((task.status, task.code, task.justification), (TaskStatus.DECLINED, code, "no"))
            self.assertEqual(self.owed(self.alice, handle.key), [])
        self.assert_idle(self.alice)

    def test_known_there(self) -> None:
        """An answer that says how the task stands is heeded like the receiver's update."""
        for status in ("ACCEPTED", "DECLINED", "EXECUTING", "CANCELLED", "EXPIRED"):
            self.script = answering(status)
            handle = self.done(self.alice.submit(BOB, "work", task_id=f"known-{status}"))
            self.assertEqual(self.task(self.alice, handle.key).status.value, status)

    def test_nothing_new(self) -> None:
        """An answer that says NEW or nonsense changes nothing but the time of the answer."""
        for status in ("NEW", "PAUSED"):
            self.script = answering(status)
            handle = self.done(self.alice.submit(BOB, "work", task_id=f"same-{status}"))
            task = self.task(self.alice, handle.key)
            self.assertEqual((task.status, task.answered_at), (TaskStatus.NEW, self.alice._records.now()))

    def test_features(self) -> None:
        """What the receiver announces is remembered with it and with the task."""
        self.assertEqual(set(self.record.features), OURS)
        self.assertEqual(self.successResultOf(self.store.peer_features()), {BOB: OURS})

    def test_many_features(self) -> None:
        """What a receiver may announce has a bound with the task as it has with the receiver."""
        self.script = answering(features=OURS | {f"f{number}" for number in range(10_000)} | {"x" * 100})
        handle = self.done(self.alice.submit(BOB, "work", task_id="t2"))
        self.assertEqual(len(self.task(self.alice, handle.key).features), MAX_FEATURES)

    def test_long_texts(self) -> None:
        """A record with a long justification is not kept in memory."""
        self.assertIn(self.handle.key, self.alice._records._recent)
        self.hear("EXECUTING", "\U0001f4a3" + "x" * 8000)
        self.assertNotIn(self.handle.key, self.alice._records._recent)
        self.hear("EXECUTING", "short")
        self.assertIn(self.handle.key, self.alice._records._recent)


class CancellationTests(OutboxTestCase):
    """What a receiver answers to a withdrawal."""

    def cancel(self, script: Script) -> Task:
        self.script = script
        self.done(self.handle.cancel())
        return self.record

    def test_confirmed(self) -> None:
        """CANCELLED, any refusal for good, and a plain yes end the record."""
        for n, script in enumerate((answering("CANCELLED"), answering(""), refuse("unknown_task"), refuse("invalid"))):
            self.script = answering()
            self.handle = self.done(self.alice.submit(BOB, "work", task_id=f"c{n}"))
            task = self.cancel(script)
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))
        self.assert_idle(self.alice)

    def test_completed_won(self) -> None:
        """COMPLETED leaves the record open until the results come, which are paid."""
        self.assertIs(self.cancel(answering("COMPLETED")).status, TaskStatus.EXECUTING)
        self.assertEqual(self.receive().reward, 1)

    def test_results_first(self) -> None:
        """Results that arrive before the answer to a withdrawal count, and then it is not asked for any more."""
        self.cancel(refuse("overloaded"))
        self.assertEqual(self.receive().reward, 1)
        self.assertEqual(self.owed(self.alice, self.handle.key), [])
        self.advance(10)
        self.assertIs(self.record.status, TaskStatus.COMPLETED)
        self.assert_idle(self.alice)

    def test_later(self) -> None:
        """A refusal for now is tried again; meanwhile the record stays open."""
        self.assertIs(self.cancel(refuse("storage")).status, TaskStatus.NEW)
        self.script = answering("CANCELLED")
        self.advance(3)
        self.assertIs(self.record.status, TaskStatus.CANCELLED)

    def test_deployed(self) -> None:
        """A deployed peer that took the frame has answered."""
        self.network.cut_all()
        self.alice._delivery._clients.client(BOB).features = frozenset()
        self.assertIs(self.cancel(deployed).status, TaskStatus.CANCELLED)


class LostAnswerTests(NodeTestCase):
    """Submissions whose answer never came."""

    def lost(self, script: Script, *, known: bool) -> tuple[Task, list[Frame]]:
        """Submit to a peer that does not answer as it should; gives the record, and every submission that it got."""
        store = SlowStore()
        store.open()
        if known:
            store.remember_features(BOB, OURS)
        self.alice = self.make_node(ALICE, BOB, store=store)
        bob = self.listen(BOB, script)
        self.handle = self.done(self.alice.submit(BOB, "work"))
        self.advance(80)
        frames = [frame for peer in bob.peers for frame in peer.frames if frame.type == SubmitRequest.frame_type]
        return self.task(self.alice, self.handle.key), frames

    @staticmethod
    def closes(peer: RawPeer, frame: Frame) -> None:
        peer.close()

    @staticmethod
    def takes(peer: RawPeer, frame: Frame) -> None:
        peer.send(SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes").to_frame().encode())

    @staticmethod
    def waits(peer: RawPeer, frame: Frame) -> None:
        """Say nothing."""

    @staticmethod
    def babbles(peer: RawPeer, frame: Frame) -> None:
        peer.send(Frame(SubmitRequest.frame_type, b"what?").encode())

    @staticmethod
    def confuses(peer: RawPeer, frame: Frame) -> None:
        peer.send(SubmitResponse("another", ResponseStatus.ACCEPTED, "yes").to_frame().encode())

    @staticmethod
    def overflows(peer: RawPeer, frame: Frame) -> None:
        peer.send(b"\xff" * 8)

    def assert_unconfirmed(self, task: Task, frames: list[Frame]) -> None:
        self.assertEqual((task.status, task.code), (TaskStatus.NEW, "unconfirmed"))
        self.assertEqual(len(frames), 1)
        self.assertEqual(self.owed(self.alice, task.key), [])

    def test_closed_by_deployed(self) -> None:
        """To a peer that never announced `ack` a submission is not repeated: the record is marked unconfirmed."""
        self.assert_unconfirmed(*self.lost(self.closes, known=False))

    def test_silent_deployed(self) -> None:
        """The same when it never answers."""
        self.assert_unconfirmed(*self.lost(self.waits, known=False))

    def test_babbling_deployed(self) -> None:
        """The same when its answer cannot be read."""
        self.assert_unconfirmed(*self.lost(self.babbles, known=False))

    def test_confused_deployed(self) -> None:
        """The same when it answers for another task."""
        self.assert_unconfirmed(*self.lost(self.confuses, known=False))

    def test_overflowing_deployed(self) -> None:
        """The same when it sends what is no frame."""
        self.assert_unconfirmed(*self.lost(self.overflows, known=False))

    def test_ours(self) -> None:
        """To a peer that announced `ack` it is repeated."""
        task, frames = self.lost(self.closes, known=True)
        self.assertEqual((task.status, task.code), (TaskStatus.NEW, ""))
        self.assertGreater(len(frames), 3)
        self.assertEqual(len(set(frames)), 1)

    def test_ours_silent(self) -> None:
        """Also when it never answers."""
        self.assertGreater(len(self.lost(self.waits, known=True)[1]), 1)

    def test_not_written(self) -> None:
        """What could not be sent at all is repeated to everybody."""
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work"))
        self.advance(20)
        self.listen(BOB, deployed)
        self.advance(40)
        task = self.task(alice, handle.key)
        self.assertIsNotNone(task.answered_at)
        self.assertEqual(task.code, "")

    def test_stopped_meanwhile(self) -> None:
        """A submission that was being sent to such a peer when the node died is not sent to it again."""
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work"))
        self.done(Deferred.fromCoroutine(alice._outbox.begin_submission(self.task(alice, handle.key))))
        bob = self.listen(BOB, deployed)
        self.advance(70)
        self.assertEqual(bob.peers, [])
        self.assertEqual(self.task(alice, handle.key).code, "unconfirmed")

    def test_not_noted(self) -> None:
        """What was sent to such a peer is not sent again because its answer could not be stored."""
        alice = self.make_node(ALICE, BOB)
        bob = self.listen(BOB, deployed)
        apply, begun = alice.store.apply, list[Change]()

        def fill_after_the_first(change: Change) -> Deferred[Task]:
            begun.append(change)
            return apply(change) if len(begun) == 1 else fail(StoreError("disk full"))

        self.patch(alice.store, "apply", fill_after_the_first)
        handle = self.done(alice.submit(BOB, "work"))
        self.patch(alice.store, "apply", apply)
        self.advance(80)
        self.assertEqual(len(bob.peers), 1)
        self.assertEqual(self.task(alice, handle.key).code, "unconfirmed")
        self.flushLoggedErrors(StoreError)

    def test_noted_before(self) -> None:
        """That such a peer may have a submission is noted before it can have it, and of no other that waits."""
        alice = self.make_node(ALICE, BOB)
        self.listen(BOB, self.waits)
        handles = [self.done(alice.submit(BOB, f"work {n}")) for n in range(2)]
        first, second = [self.task(alice, handle.key) for handle in handles]
        self.assertIsNotNone(first.submission_begun_at)
        self.assertIsNone(second.submission_begun_at)

    def test_stopped_while_dialling(self) -> None:
        """What a stop kept from being sent is sent after the next start, to everybody."""
        alice = self.make_node(ALICE, BOB, store=SlowStore())
        bob = self.listen(BOB, deployed)
        submitted = alice.submit(BOB, "work")
        self.stop(alice)
        self.assertEqual([frame for peer in bob.peers for frame in peer.frames], [])
        alice.startService()
        self.advance(2)
        task = self.task(alice, self.successResultOf(submitted).key)
        self.assertIsNotNone(task.answered_at)
        self.assertEqual(task.code, "")

    def test_cancelled_before(self) -> None:
        """A submission that was cancelled before it could be sent is not sent to such a peer any more."""
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work"))
        self.done(handle.cancel())
        bob = self.listen(BOB, deployed)
        self.advance(70)
        frames = [frame for peer in bob.peers for frame in peer.frames if frame.type == SubmitRequest.frame_type]
        self.assertEqual(frames, [])
        self.assertIs(self.task(alice, handle.key).status, TaskStatus.CANCELLED)
        self.assertEqual(self.owed(alice, handle.key), [])

    def test_refused_when_repeated(self) -> None:
        """A peer that may have taken the submission before, and cannot say so now, is asked until it can."""
        answers: list[Script] = [self.closes, refuse("storage"), self.takes]
        task, frames = self.lost(lambda peer, frame: answers.pop(0)(peer, frame), known=True)
        self.assertEqual((task.status, len(frames)), (TaskStatus.NEW, 3))
        self.assertIsNotNone(task.answered_at)

    def test_updates_decide(self) -> None:
        """The receiver's updates confirm an unconfirmed submission."""
        self.lost(self.closes, known=False)
        self.ask(ALICE, TaskStatusUpdate(self.handle.task_id, "ACCEPTED", "taken", ack=True))
        self.assertIs(self.task(self.alice, self.handle.key).status, TaskStatus.ACCEPTED)

    def test_deadline_decides(self) -> None:
        """Without any update the submitter's deadline withdraws it."""
        self.lost(self.closes, known=False)
        self.advance(15)
        self.assertIs(self.task(self.alice, self.handle.key).status, TaskStatus.CANCELLED)
