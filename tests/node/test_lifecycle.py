"""Whole lives of tasks, between two nodes."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from tasksubmit.errors import (
    IllegalTransition,
    InvalidMessage,
    InvalidTime,
    TaskCancelled,
    TaskConflict,
    TaskDeclined,
    UnknownPeer,
)
from tasksubmit.lifecycle.polo import ScoreFormula, polo_score
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.wire.messages import TaskResultMessage, TaskStatusUpdate
from tasksubmit.wire.timestamps import format_time
from tests.node.helpers import ALICE, BOB, CAROL, NodeTestCase, PairTestCase, request, results
from tests.tiers import examples


class LifeTests(PairTestCase):
    """From submission to reward."""

    def live(self, *, idle: float = 2, staged: float = 3, cpu: float = 150) -> tuple[Task, Task]:
        """Let a task live with these durations in seconds; gives both records."""
        handle, key = self.submit("add up")
        self.advance(idle)
        self.done(self.bob.accept(key))
        self.advance(staged)
        self.done(self.bob.execute())
        self.advance(cpu)
        self.done(self.bob.send_results(key, "42"))
        return self.task(self.alice, handle.key), self.task(self.bob, key)

    def test_text(self) -> None:
        """A text result reaches the submitter, and both records end SUCCEEDED with the same durations and reward."""
        submitted, received = self.live()
        for task in (submitted, received):
            self.assertIs(task.status, TaskStatus.SUCCEEDED)
            self.assertEqual((task.time_idle_ms, task.time_staged_ms, task.time_cpu_ms), (2000, 3000, 150_000))
            self.assertEqual(task.reward, polo_score(received).final_reward)
            self.assertFalse(task.is_time_disputed)
        message = self.done(self.alice.result(submitted.key))
        self.assertEqual((message.result_type, message.result_text), ("text", "42"))
        self.assert_idle(self.alice, self.bob)

    def test_ledgers(self) -> None:
        """Both nodes book -1 for the submitter and the reward of the measured durations for the receiver."""
        submitted, _ = self.live()
        self.assertEqual(submitted.reward, 3)
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 3})
        self.assertEqual(self.scores(self.bob), {ALICE: -1, BOB: 3})

    def test_waits_cost(self) -> None:
        """Long waits before the work lower the reward."""
        submitted, _ = self.live(idle=50, staged=600, cpu=420)
        self.assertEqual(submitted.reward, 2)
        self.assertEqual(polo_score(evolve(submitted, time_idle_ms=0, time_staged_ms=0)).final_reward, 4)

    def test_file(self) -> None:
        """A file result arrives whole, under its own name, and is kept under the task's."""
        handle, key = self.executing()
        result = handle.result()
        content = bytes(range(256)) * 1000
        self.done(self.bob.send_results(key, filename="report.pdf", content=content))
        message = self.done(result)
        self.assertEqual((message.result_type, message.filename, message.file_data), ("file", "report.pdf", content))
        self.assertEqual(self.task(self.alice, handle.key).result_file, f"{handle.task_id}_report.pdf")
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_empty_text(self) -> None:
        """An empty text is a result, too."""
        handle, key = self.executing()
        self.done(self.bob.send_results(key, ""))
        self.assertEqual(self.done(handle.result()).result_text, "")

    def test_each_step_is_told(self) -> None:
        """The submitter's record follows the receiver's, step by step, with the receiver's words."""
        handle, key = self.submit()
        accepted = handle.accepted()
        self.assertNoResult(accepted)
        self.done(self.bob.accept(key, "gladly"))
        self.assertEqual(self.done(accepted).justification, "gladly")
        self.done(self.bob.execute())
        self.assertEqual(self.statuses(handle), (TaskStatus.EXECUTING, TaskStatus.EXECUTING))
        self.done(self.bob.send_results(key, "done"))
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_decline(self) -> None:
        """A declined task ends in both records, and whoever waits is told the justification."""
        handle, key = self.submit()
        accepted, result = handle.accepted(), handle.result()
        self.done(self.bob.decline(key, "too busy today"))
        self.assertEqual(self.statuses(handle), (TaskStatus.DECLINED, TaskStatus.DECLINED))
        self.assertIn("too busy today", str(self.failed(accepted, TaskDeclined)))
        self.failed(result, TaskDeclined)
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))
        self.assert_idle(self.alice, self.bob)

    def test_decline_needs_justification(self) -> None:
        """Declining without saying why is refused and changes nothing."""
        _, key = self.submit()
        for nothing in ("", "  \n"):
            self.failed(self.bob.decline(key, nothing), InvalidMessage)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.NEW)

    def test_both_directions(self) -> None:
        """Two nodes work for each other at once, even under the same task id."""
        handle, key = self.submit(task_id="same")
        back = self.done(self.bob.submit(ALICE, "the other way", task_id="same"))
        back_key = TaskKey(Side.RECEIVER, BOB, "same")
        self.done(self.bob.accept(key))
        self.done(self.alice.accept(back_key))
        self.done(self.bob.execute())
        self.done(self.alice.execute())
        self.done(self.bob.send_results(key, "to Alice"))
        self.done(self.alice.send_results(back_key, "to Bob"))
        self.assertEqual(self.done(handle.result()).result_text, "to Alice")
        self.assertEqual(self.done(back.result()).result_text, "to Bob")
        self.assertEqual(self.scores(self.alice), {ALICE: 0, BOB: 0})
        self.assertEqual(self.scores(self.bob), {ALICE: 0, BOB: 0})
        self.assert_idle(self.alice, self.bob)

    def test_both_directions_cancel(self) -> None:
        """With one id used both ways, a withdrawal ends the task that was received, not the one that was submitted."""
        handle, key = self.submit(task_id="same")
        back = self.done(self.bob.submit(ALICE, "the other way", task_id="same"))
        self.done(handle.cancel())
        self.assertEqual(self.statuses(handle), (TaskStatus.CANCELLED, TaskStatus.CANCELLED))
        self.assertIs(self.task(self.bob, back.key).status, TaskStatus.NEW)
        self.assertIs(self.task(self.alice, TaskKey(Side.RECEIVER, BOB, "same")).status, TaskStatus.NEW)
        self.assertIs(self.task(self.bob, key).status, TaskStatus.CANCELLED)

    def test_both_directions_time_out(self) -> None:
        """With one id used both ways, a receiver's CANCELLED ends the task that was submitted to it, not the other."""
        handle, _ = self.submit(task_id="same")
        self.advance(30)
        back = self.done(self.bob.submit(ALICE, "the other way", task_id="same"))
        self.advance(32)
        self.assertEqual(self.task(self.alice, handle.key).outcome, "accept_timeout")
        self.assertIs(self.task(self.bob, back.key).status, TaskStatus.NEW)
        self.assertIs(self.task(self.alice, TaskKey(Side.RECEIVER, BOB, "same")).status, TaskStatus.NEW)

    def test_withdrawn_by_receiver(self) -> None:
        """A receiver that declines a task of its queue cancels it, for a reason, on both sides and without a score."""
        first, key = self.submit(task_id="t1")
        second, other = self.submit(task_id="t2")
        for one in (key, other):
            self.done(self.bob.accept(one))
        self.failed(self.bob.decline(key, " "), InvalidMessage)
        self.assertIs(self.done(self.bob.decline(key, "no time left")).status, TaskStatus.CANCELLED)
        self.advance(1)
        for task in (self.task(self.bob, key), self.task(self.alice, first.key)):
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "withdrawn_by_receiver"))
            self.assertEqual(task.justification, "no time left")
        self.failed(first.result(), TaskCancelled)
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))
        self.assertEqual((self.bob.load.queued, self.bob.load.of(ALICE).open), (1, 1))
        self.assertEqual(self.done(self.bob.execute()).key, other)
        self.failed(self.bob.decline(other, "not any more"), IllegalTransition)
        self.assertIs(self.task(self.alice, second.key).status, TaskStatus.EXECUTING)

    def test_ambiguous(self) -> None:
        """An id resolves to the task that was submitted under it, whatever others submit under the same."""
        handle, key = self.submit(task_id="same")
        back = self.done(self.bob.submit(ALICE, "the other way", task_id="same"))
        self.assertEqual(self.done(self.bob.resolve("same")).key, back.key)
        self.assertEqual(self.done(self.bob.resolve("same", peer=ALICE)).key, back.key)
        self.assertEqual(self.done(self.bob.resolve("same", side=Side.RECEIVER)).key, key)
        self.assertEqual(self.done(self.alice.resolve("same", side=Side.SUBMITTER)).key, handle.key)

    def test_many(self) -> None:
        """Many tasks at once are all done, in the order of their acceptance."""
        handles = [self.submit(f"task {n}")[0] for n in range(40)]
        keys = [TaskKey(Side.RECEIVER, ALICE, handle.task_id) for handle in reversed(handles)]
        for key in keys:
            self.done(self.bob.accept(key))
        begun = [self.successResultOf(self.bob.execute()) for _ in keys]
        self.assertEqual([task.key for task in begun], keys)
        for key in keys:
            self.successResultOf(self.bob.send_results(key, key.task_id))
        self.network.flush()
        for handle in handles:
            self.assertEqual(self.done(handle.result()).result_text, handle.task_id)
            self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        self.assertEqual(self.scores(self.alice), {ALICE: -40, BOB: 40})
        self.assertEqual(self.scores(self.bob), self.scores(self.alice))
        self.assert_idle(self.alice, self.bob)

    def test_byte_by_byte(self) -> None:
        """However the bytes are cut, the life is the same."""
        self.network.chunk_bytes = 1
        handle, key = self.executing()
        self.done(self.bob.send_results(key, "42"))
        self.assertEqual(self.done(handle.result()).result_text, "42")


class SubmitTests(PairTestCase):
    """What `Node.submit` takes and refuses."""

    def test_again(self) -> None:
        """Submitting under the same id again gives the same task, and sends nothing twice."""
        first, key = self.submit("work", task_id="mine")
        second, _ = self.submit("work", task_id="mine")
        self.assertEqual(first.key, second.key)
        self.assertEqual(len(self.tasks(self.bob)), 1)
        self.assertEqual(self.task(self.bob, key).description, "work")

    def test_conflict(self) -> None:
        """An id that was used for another description is refused."""
        self.submit("work", task_id="mine")
        self.failed(self.alice.submit(BOB, "other work", task_id="mine"), TaskConflict)

    def test_refused(self) -> None:
        """Strangers, invalid ids, and what is too long or cannot be written, are refused and leave no record."""
        self.failed(self.alice.submit(CAROL, "work"), UnknownPeer)
        self.failed(self.alice.submit(BOB, "work", task_id="../x"), InvalidMessage)
        self.failed(self.alice.submit(BOB, "x" * (1024 * 1024 + 1)), InvalidMessage)
        self.failed(self.alice.submit(BOB, "half a \ud800 pair"), InvalidMessage)
        self.assertEqual(self.tasks(self.alice), [])

    def test_times_need_a_zone(self) -> None:
        """A deadline without a time zone is refused by name."""
        naive = self.alice._records.now().replace(tzinfo=None)
        self.failed(self.alice.submit(BOB, "work", expires_at=naive), InvalidTime)
        self.failed(self.alice.submit(BOB, "work", result_due_at=naive), InvalidTime)

    def test_formula(self) -> None:
        """The submitter's formula makes the reward, and the receiver books the same."""
        self.stop(self.alice)
        alice = self.make_node(ALICE, BOB, formula=ScoreFormula.LINEAR)
        handle = self.done(alice.submit(BOB, "work"))
        key = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
        self.advance(20)
        self.done(self.bob.accept(key))
        self.done(self.bob.execute())
        self.advance(420)
        self.done(self.bob.send_results(key, "done"))
        received = self.task(self.bob, key)
        self.assertEqual(received.reward, polo_score(received, ScoreFormula.LINEAR).final_reward)
        self.assertNotEqual(received.reward, polo_score(received, ScoreFormula.DOCUMENTED).final_reward)
        self.assertEqual(self.scores(alice), self.scores(self.bob))


class CancelTests(PairTestCase):
    """The submitter withdraws."""

    def assert_cancels(self, handle: SubmittedTask, key: TaskKey) -> None:
        """A cancellation now takes effect on both sides."""
        result = handle.result()
        requested = self.done(handle.cancel("no longer needed"))
        self.assertIsNotNone(requested.cancel_requested_at)
        for task in (self.task(self.alice, handle.key), self.task(self.bob, key)):
            self.assertIs(task.status, TaskStatus.CANCELLED)
            self.assertEqual(task.outcome, "cancelled_by_submitter")
            self.assertEqual(task.justification, "no longer needed")
        self.failed(result, TaskCancelled)
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), ({}, {}))
        self.assert_idle(self.alice, self.bob)

    def test_new(self) -> None:
        """A task that nobody decided on is withdrawn from both records; when and after how long is kept."""
        handle, key = self.submit()
        self.advance(5)
        self.assert_cancels(handle, key)
        task = self.task(self.bob, key)
        self.assertEqual((task.accepted_at is not None, task.time_idle_ms), (True, 5000))

    def test_accepted(self) -> None:
        """An accepted task is withdrawn and leaves the queue, and the next one becomes its head."""
        handle, key = self.submit()
        self.done(self.bob.accept(key))
        _, next_key = self.submit("next")
        self.done(self.bob.accept(next_key))
        self.advance(7)
        self.done(handle.cancel())
        [head] = self.successResultOf(self.bob.store.queue(9))
        self.assertEqual(head.key, next_key)
        self.assertEqual(head.staged_at, self.bob._records.now())
        self.assertEqual(self.statuses(handle), (TaskStatus.CANCELLED, TaskStatus.CANCELLED))

    def test_executing(self) -> None:
        """A task in work is withdrawn; its results are refused at home."""
        handle, key = self.executing()
        self.assert_cancels(handle, key)
        self.failed(self.bob.send_results(key, "too late"), IllegalTransition)
        self.assertEqual(self.files(self.bob), [])

    def test_completed_wins(self) -> None:
        """When the results were given first, the cancellation is answered COMPLETED and the results are paid."""
        handle, key = self.executing()
        self.network.refuse(str(ALICE))
        self.network.cut_all()
        self.done(self.bob.send_results(key, "done"))
        self.done(handle.cancel())
        self.assertEqual(self.statuses(handle), (TaskStatus.EXECUTING, TaskStatus.COMPLETED))
        self.assertEqual(self.owed(self.alice, handle.key), [])
        self.network.refuse(str(ALICE), False)
        self.advance(10)
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 1})

    def test_results_here(self) -> None:
        """Once the results are here it is too late to cancel."""
        handle, key = self.executing()
        self.done(self.bob.send_results(key, "done"))
        self.failed(handle.cancel(), IllegalTransition)

    def test_again(self) -> None:
        """Cancelling again before the answer asks once; after it, it is too late."""
        handle, _ = self.submit()
        self.network.refuse(str(BOB))
        self.network.cut_all()
        first = self.done(handle.cancel("first"))
        second = self.done(handle.cancel("second"))
        self.assertEqual(first.justification, second.justification)
        self.assertEqual(len(self.owed(self.alice, handle.key)), 1)
        self.network.refuse(str(BOB), False)
        self.advance(10)
        self.assertEqual(self.statuses(handle), (TaskStatus.CANCELLED, TaskStatus.CANCELLED))
        self.failed(handle.cancel(), IllegalTransition)

    def test_answered_with_decline(self) -> None:
        """A cancellation that lost against a decline is answered with it."""
        handle, key = self.submit()
        self.network.refuse(str(ALICE))
        self.network.cut_all()
        self.done(self.bob.decline(key, "no"))
        self.done(handle.cancel())
        self.assertEqual(self.statuses(handle), (TaskStatus.DECLINED, TaskStatus.DECLINED))

    def test_before_the_submission_went_out(self) -> None:
        """A task that is cancelled before its receiver was reached is over at once, and never submitted."""
        self.network.refuse(str(BOB))
        handle = self.done(self.alice.submit(BOB, "work"))
        task = self.done(handle.cancel())
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))
        self.network.refuse(str(BOB), False)
        self.advance(10)
        self.assertIs(self.task(self.alice, handle.key).status, TaskStatus.CANCELLED)
        self.assertEqual(self.done(self.bob.store.find(handle.task_id)), [])

    def test_only_by_the_submitter(self) -> None:
        """The receiver cannot cancel; it declines."""
        _, key = self.submit()
        self.failed(self.bob.cancel(key), IllegalTransition)


class OddPartiesTests(NodeTestCase):
    """Parties that are the same, or that use the same id."""

    def life(self, submitter: Node, receiver: Node, task_id: str) -> TaskResultMessage:
        handle = self.done(submitter.submit(receiver.address, f"for {submitter.address}", task_id=task_id))
        key = TaskKey(Side.RECEIVER, submitter.address, task_id)
        self.done(receiver.accept(key))
        self.done(receiver.execute())
        self.done(receiver.send_results(key, f"to {submitter.address}"))
        return self.done(handle.result())

    def test_itself(self) -> None:
        """A node can work for itself: two records, one net booking."""
        alice = self.make_node(ALICE, ALICE)
        self.assertEqual(self.life(alice, alice, "t1").result_text, f"to {ALICE}")
        tasks = self.tasks(alice)
        self.assertEqual([task.status for task in tasks], [TaskStatus.SUCCEEDED] * 2)
        self.assertEqual(self.scores(alice), {ALICE: 0})
        self.assert_idle(alice)

    def test_cancel_at_itself(self) -> None:
        """A node withdraws a task from itself, and ends both records."""
        alice = self.make_node(ALICE, ALICE)
        handle = self.done(alice.submit(ALICE, "work"))
        self.done(handle.cancel())
        tasks = self.tasks(alice)
        self.assertEqual([task.status for task in tasks], [TaskStatus.CANCELLED] * 2)

    def test_same_id_from_two(self) -> None:
        """Two submitters may use one id: two tasks, two results, two rewards."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE, CAROL)
        carol = self.make_node(CAROL, BOB)
        self.assertEqual(self.life(alice, bob, "same").result_text, f"to {ALICE}")
        self.assertEqual(self.life(carol, bob, "same").result_text, f"to {CAROL}")
        names = {task.result_file for task in self.tasks(bob)}
        self.assertEqual(names, {"same_result.txt", "same_result-2.txt"})
        self.assertEqual(self.scores(bob), {ALICE: -1, CAROL: -1, BOB: 2})
        self.assert_idle(alice, bob, carol)


class CutTests(PairTestCase):
    """Connections that break."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.executing("to get to know each other", task_id="first")
        self.advance(1)

    def work(self, handle_task_id: str) -> None:
        """Do whatever Bob's record asks for next."""
        key = TaskKey(Side.RECEIVER, ALICE, handle_task_id)
        task = self.successResultOf(self.bob.store.get(key))
        if task is None:
            return
        if task.status is TaskStatus.NEW:
            self.successResultOf(self.bob.accept(key))
        elif task.status is TaskStatus.ACCEPTED:
            self.successResultOf(self.bob.execute(key))
        elif task.status is TaskStatus.EXECUTING:
            self.successResultOf(self.bob.send_results(key, "done"))

    def test_cut_after_each_step(self) -> None:
        """Wherever the connections break, the life ends the same: both SUCCEEDED, paid once."""
        for step in range(20):
            task_id = f"cut-{step}"
            handle = self.successResultOf(self.alice.submit(BOB, "work", task_id=task_id))
            for pumped in range(400):
                self.network.pump()
                if pumped == step or pumped == 3 * step + 7:
                    self.network.cut_all()
                if pumped % 5 == 0:
                    self.work(task_id)
                if pumped % 20 == 19:
                    self.clock.advance(1)
            self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED), task_id)
            self.assertEqual(self.scores(self.alice), {ALICE: -1 - step, BOB: 1 + step}, task_id)
            self.assertEqual(self.scores(self.bob), self.scores(self.alice), task_id)
        self.network.flush()
        names = [task.result_file for task in self.tasks(self.alice) if task.result_file]
        self.assertEqual(len(set(names)), 20)
        self.assertEqual(len(self.files(self.alice)), 20)
        self.assert_idle(self.alice, self.bob)


class AnyOrderTests(NodeTestCase):
    """The receiver's words, shuffled."""

    @settings(deadline=None, max_examples=examples(60))
    @given(
        order=st.permutations(range(4)),
        repeats=st.lists(st.integers(0, 3), max_size=6),
        progress=st.integers(0, 10),
    )
    def test_shuffled(self, order: list[int], repeats: list[int], progress: int) -> None:
        """Told in any order and any number of times, the submitter ends with the same record and one booking."""
        self.setUp()
        try:
            alice = self.make_node(ALICE, BOB)
            self.network.refuse(str(BOB))
            handle = self.done(alice.submit(BOB, "work", task_id="t1"))
            self.clock.advance(60)
            spoken: list[TaskStatusUpdate | TaskResultMessage] = [
                TaskStatusUpdate("t1", "ACCEPTED", "taken", ack=True),
                TaskStatusUpdate("t1", "EXECUTING", "begun", ack=True),
                results("t1", "42", time_idle_ms=1000, time_staged_ms=1000, time_cpu_ms=30_000, ack=True),
                TaskStatusUpdate("t1", "SUCCEEDED", "delivered", ack=True),
            ]
            told = [spoken[n] for n in order]
            for n in repeats:
                told.insert(progress % (len(told) + 1), spoken[n])
            for message in told:
                self.assertEqual(self.ask(ALICE, message).status, 200)
            task = self.task(alice, handle.key)
            self.assertIs(task.status, TaskStatus.SUCCEEDED)
            self.assertEqual((task.reward, task.time_cpu_ms, task.result_file), (2, 30_000, "t1_result.txt"))
            self.assertEqual(self.scores(alice), {ALICE: -1, BOB: 2})
            self.assertEqual(self.files(alice), ["t1_result.txt"])
        finally:
            self._finish()
            self.doCleanups()


class ClockTests(PairTestCase):
    """Time as the node's clock gives it."""

    def test_milliseconds(self) -> None:
        """Durations are exact to the millisecond, whatever floating point makes of the clock."""
        for hop in (0.001, 0.29, 0.57, 1.001, 4.35):
            handle, key = self.submit()
            self.clock.advance(hop)
            self.done(self.bob.accept(key))
            self.assertEqual(self.task(self.bob, key).time_idle_ms, round(hop * 1000))
            self.done(self.bob.execute())
            self.done(self.bob.send_results(key))
            self.done(handle.result())

    def test_past_deadline(self) -> None:
        """A deadline that has passed is refused, unless the task is known and only asked for again."""
        soon = self.alice._records.now() + timedelta(seconds=5)
        self.submit(task_id="t1", expires_at=soon)
        self.clock.advance(6)
        self.submit(task_id="t1", expires_at=soon)
        self.failed(self.alice.submit(BOB, "work", task_id="t2", expires_at=soon), InvalidMessage)
        self.failed(self.alice.submit(BOB, "work", task_id="t3", result_due_at=soon), InvalidMessage)

    def test_expired_submission(self) -> None:
        """A submission that is over on arrival is admitted and cancelled, with the outcome that says why."""
        now = self.bob._records.now()
        self.ask(BOB, request("t1", expires_at=format_time(now - timedelta(seconds=5))))
        self.advance(2)
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "deadline_passed"))

    def test_expires_before_its_delivery(self) -> None:
        """A task that could not be delivered by its deadline is never submitted after it."""
        now = self.alice._records.now()
        self.network.refuse(str(BOB))
        handle = self.done(self.alice.submit(BOB, "work", task_id="t1", expires_at=now + timedelta(seconds=5)))
        self.advance(10)
        self.network.refuse(str(BOB), False)
        self.advance(70)
        task = self.task(self.alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "undelivered"))
        self.assertEqual(self.done(self.bob.store.find("t1")), [])
