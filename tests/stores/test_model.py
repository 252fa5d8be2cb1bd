"""The store against a model: random lives of many tasks, and what must be true after each step."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, TypeVar

from attrs import define, evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StaleTask
from tasksubmit.lifecycle.change import Booking, Change, Delivery
from tasksubmit.lifecycle.table import DEADLINES, TRANSITIONS, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, at, new_task, owed, step, told
from tasksubmit.wire.address import Address
from tests.tiers import examples

T = TypeVar("T")

IDS = st.sampled_from(["t-1", "t-2", "t-3"])
PEERS = st.sampled_from([PEER, OTHER])
PARTIES = st.sampled_from([OWN, PEER, OTHER])
SAFE = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)


@define
class Message:
    """What the model knows of a delivery."""

    payload: bytes
    ready_at: datetime | None
    created_at: datetime
    attempts: int = 0
    is_given_up: bool = False


class StoreMachine(RuleBasedStateMachine):
    """Does to a store in memory what may be done to one, and to a model of dictionaries and lists."""

    keys: Bundle[TaskKey] = Bundle("keys")
    reads: Bundle[Task] = Bundle("reads")

    def __init__(self) -> None:
        super().__init__()
        self.store = SQLiteTaskStore(None)
        self.store.open()
        self.now = 0
        self.records: dict[TaskKey, Task] = {}
        self.accepted: list[TaskKey] = []  # in the order of their places
        self.deliveries: dict[TaskKey, list[Message]] = {}
        self.booked: dict[tuple[TaskKey, Address], int] = {}
        self.payloads = 0

    def teardown(self) -> None:
        self.store.close()

    def result(self, deferred: Deferred[T]) -> T:
        """What a call of the store fires with, or raise what it fails with."""
        results: list[T] = []
        failures: list[BaseException] = []
        deferred.addCallbacks(results.append, lambda failure: failures.append(failure.value))
        if failures:
            raise failures[0]
        [result] = results
        return result

    def payload(self) -> bytes:
        """A message unlike any other."""
        self.payloads += 1
        return b"%d" % self.payloads

    def owe(self, key: TaskKey, payload: bytes) -> None:
        """Put a message behind those that the task owes."""
        is_first = not self.owed(key)
        self.deliveries.setdefault(key, []).append(Message(payload, at(self.now) if is_first else None, at(self.now)))

    def owed(self, key: TaskKey) -> list[Message]:
        """The messages of a task that were not given up."""
        return [message for message in self.deliveries.get(key, []) if not message.is_given_up]

    def first_owed(self, key: TaskKey) -> Delivery | None:
        """The message of a task that may be under way."""
        rows = self.result(self.store.deliveries_of(key))
        return next((row for row in rows if row.given_up_at is None), None)

    # --- what may happen -----------------------------------------------------------------------------------------

    @rule(milliseconds=st.integers(min_value=0, max_value=5000))
    def time_passes(self, milliseconds: int) -> None:
        """The clock goes on."""
        self.now += milliseconds

    @rule(target=keys, task_id=IDS, side=st.sampled_from(Side), peer=PEERS)
    def create(self, task_id: str, side: Side, peer: Address) -> TaskKey:
        """A task comes, or comes again."""
        task = new_task(task_id, side, peer, description=str(self.payloads), created_at=at(self.now))
        payload = self.payload()
        kept, is_new = self.result(self.store.create(task, [owed(task, payload, self.now)]))
        assert is_new == (task.key not in self.records)
        if is_new:
            self.records[task.key] = evolve(task, number=kept.number)
            self.owe(task.key, payload)
        assert kept == self.records[task.key]
        return task.key

    @rule(target=reads, key=keys)
    def read(self, key: TaskKey) -> Task:
        """Somebody reads a record, to change it at once or later."""
        task = self.result(self.store.get(key))
        assert task is not None
        return task

    @rule(before=reads, party=PARTIES, points=st.integers(-1, 6), settle=st.booleans(), choice=st.randoms())
    def change(self, before: Task, party: Address, points: int, settle: bool, choice: Any) -> None:
        """An event that the table allows happens to what was read; what is stale is refused, and does nothing."""
        key = before.key
        allowed = [
            event for side, status, event in TRANSITIONS if side is before.side and status is before.status and status
        ]
        if not allowed:
            return
        event = choice.choice(allowed)
        payload = self.payload()
        waiting = self.result(self.store.deliveries_of(key))
        change = step(
            before,
            event,
            self.now,
            {"justification": payload.decode()},
            deliveries=(owed(before, payload, self.now),),
            bookings=(Booking(party, points, "chance"),),
            settles=waiting[0].id if settle and waiting else None,
        )
        if before != self.records[key]:
            try:
                self.result(self.store.apply(change))
            except StaleTask:
                return
            raise AssertionError("a stale change was carried out")
        after = self.result(self.store.apply(change))
        self.move(change)
        assert after == self.records[key]
        self.owe(key, payload)
        self.booked.setdefault((key, party), points)
        if change.settles is not None:
            self.deliveries[key].pop(0)
            self.release(key)

    def move(self, change: Change) -> None:
        """Let the model's record and its queue follow a change."""
        key = change.before.key
        self.records[key] = evolve(change.after, revision=change.before.revision + 1)
        has_place = change.after.side is Side.RECEIVER and change.after.status is TaskStatus.ACCEPTED
        if has_place and key not in self.accepted:
            position = 1 + max((self.records[other].queue_position or 0 for other in self.accepted), default=0)
            self.records[key] = evolve(self.records[key], queue_position=position)
            self.accepted.append(key)
        elif not has_place and key in self.accepted:
            self.records[key] = evolve(self.records[key], queue_position=None)
            self.accepted.remove(key)
        for head in self.queue[:1]:
            if self.records[head].staged_at is None:
                for behind in self.queue[1:]:
                    self.stage(behind, None)
                self.stage(head, change.at)

    @property
    def queue(self) -> list[TaskKey]:
        """The tasks in the queue: accepted, and not held."""
        return [key for key in self.accepted if self.records[key].held_at is None]

    def stage(self, key: TaskKey, staged_at: datetime | None) -> None:
        """Let a task be staged from some time on, or not at all."""
        record = self.records[key]
        if record.staged_at != staged_at:
            self.records[key] = evolve(record, staged_at=staged_at, revision=record.revision + 1)

    def release(self, key: TaskKey) -> None:
        """The first message of a task may go, if it could not before."""
        for first in self.owed(key)[:1]:
            first.ready_at = first.ready_at or at(self.now)

    @rule(key=keys, milliseconds=st.integers(min_value=1, max_value=5000))
    def postpone(self, key: TaskKey, milliseconds: int) -> None:
        """The first message of a task could not be delivered."""
        first = self.first_owed(key)
        if first is not None:
            later = at(self.now + milliseconds)
            self.result(self.store.postpone(first, told("failed"), later, "refused"))
            message = self.owed(key)[0]
            message.ready_at, message.attempts = later, message.attempts + 1

    def apply_effects(self, key: TaskKey, **effects: Any) -> None:
        """Change nothing but what is owed."""
        task = self.records[key]
        assert self.result(self.store.apply(Change(before=task, after=task, at=at(self.now), **effects))) == task

    @rule(key=keys)
    def give_up(self, key: TaskKey) -> None:
        """The first message of a task is not tried again."""
        first = self.first_owed(key)
        if first is not None:
            self.apply_effects(key, gives_up=first.id)
            message = self.owed(key)[0]
            message.ready_at, message.is_given_up = None, True
            self.release(key)

    @rule(key=keys)
    def revive(self, key: TaskKey) -> None:
        """Somebody has all that was given up for a task tried again."""
        self.apply_effects(key, revives=True)
        for message in self.deliveries[key]:
            if message.is_given_up:
                message.is_given_up, message.attempts, message.created_at = False, 0, at(self.now)
        for message in self.deliveries[key][1:]:
            message.ready_at = None
        self.release(key)

    # --- what must be true ---------------------------------------------------------------------------------------

    @invariant()
    def records_agree(self) -> None:
        """Every record is as the model has it, and lists show them newest first."""
        listed = self.result(self.store.list_tasks(limit=100))
        assert listed == sorted(self.records.values(), key=lambda task: -task.number)

    @invariant()
    def queue_agrees(self) -> None:
        """The queue is in the order of acceptance; its head is staged, and nobody else in it is."""
        queue = self.result(self.store.queue(100))
        assert [task.key for task in queue] == self.queue
        assert [task.staged_at is not None for task in queue] == [place == 0 for place in range(len(queue))]

    @invariant()
    def deliveries_agree(self) -> None:
        """Messages wait in order, one of each task ready or timed, and each peer's next is known."""
        for key, expected in self.deliveries.items():
            found = self.result(self.store.deliveries_of(key))
            assert [
                Message(row.payload, row.ready_at, row.created_at, row.attempts, row.given_up_at is not None)
                for row in found
            ] == expected
            assert [row.ready_at is None for row in self.owed(key)] == [n > 0 for n in range(len(self.owed(key)))]
        for peer in (PEER, OTHER):
            heads = {
                message.payload: message.ready_at
                for key in self.deliveries
                for message in self.owed(key)[:1]
                if key.peer == peer and message.ready_at is not None
            }
            assert self.result(self.store.next_delivery(peer)) == min(heads.values(), default=None)
            ready = self.result(self.store.ready_deliveries(peer, at(self.now), 100))
            assert sorted(row.payload for row, _ in ready) == sorted(
                payload for payload, when in heads.items() if when <= at(self.now)
            )
        aged = {row.payload for row, _ in self.result(self.store.aged_deliveries(at(self.now), 1000))}
        waiting = [message for key in self.deliveries for message in self.owed(key)]
        assert aged == {message.payload for message in waiting if message.created_at < at(self.now)}

    @invariant()
    def ledger_agrees(self) -> None:
        """Every score is the sum of what was booked first for each task, side and party."""
        sums: Counter[Address] = Counter()
        for (_, party), points in self.booked.items():
            sums[party] += points
        scores: list[tuple[Address, int]] = self.result(self.store.scores())
        assert dict(scores) == dict(sums)

    @invariant()
    def due_agrees(self) -> None:
        """What is found as due is what the records themselves say, by their columns."""
        for deadline in DEADLINES:
            expected = {key for key, task in self.records.items() if task.meets(deadline, at(self.now))}
            due = self.result(self.store.due(deadline, at(self.now), 100))
            assert {task.key for task in due} == expected
            passed = self.result(self.store.passed_deadlines([(deadline, at(self.now))]))
            assert passed == [deadline] * bool(expected)


class ModelTests(SynchronousTestCase):
    """The machine, run."""

    def test_model(self) -> None:
        """After any sequence of calls the store is as the model is: records, queue, deliveries, ledger, deadlines."""
        run_state_machine_as_test(StoreMachine, settings=SAFE)
