"""The wall clock is set while tasks wait: what is under way goes with it, and nothing passes early, twice or never."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from itertools import product
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StoreError
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.clock import NodeClock
from tasksubmit.node.delivery import LONGEST_DELAY_SECONDS
from tasksubmit.node.retention import Retention
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing import FaultyTaskStore, StoreFault
from tasksubmit.wire.address import Address
from tests.node.helpers import ALICE, BOB, CAROL, NodeTestCase, SlowStore, deployed, request
from tests.tiers import examples

HOUR, DAY = 3600.0, 86400.0
JUMPS = (-HOUR, DAY)
DAVE = Address.parse("0:0000.0000.0004")

_YEAR_2026 = 1_767_225_600.0
CLOCKS = (0.0, HOUR, _YEAR_2026 - 3 * DAY, _YEAR_2026 - 600, _YEAR_2026, _YEAR_2026 + DAY, 2 * _YEAR_2026)
_SHIFTED = ("created_at", "accepted_at", "staged_at", "execute_started_at", "lease_expires_at", "heard_at")


def seconds_between(earlier: datetime | None, later: datetime | None) -> float:
    """Two times that must be there."""
    assert earlier is not None and later is not None
    return (later - earlier).total_seconds()


class NodeClockTests(SynchronousTestCase):
    """The clock itself."""

    def setUp(self) -> None:
        self.timers = Clock()
        self.offset = _YEAR_2026
        self.clock = NodeClock(self.timers, lambda: self.timers.seconds() + self.offset)
        self.start = self.clock.now()

    def elapsed(self) -> float:
        """How much later it is than at the beginning."""
        return (self.clock.now() - self.start).total_seconds()

    def test_runs_with_the_timers(self) -> None:
        """Time is what the timers measure, wherever the wall clock is set to."""
        self.offset -= HOUR
        self.timers.advance(5)
        self.assertEqual(self.elapsed(), 5)
        self.assertEqual(self.clock.jump(), timedelta(hours=-1))

    def test_drift(self) -> None:
        """A wall clock that is a little off has not been set, but is followed when that is told."""
        self.offset += 0.9
        self.assertEqual(self.clock.jump(), timedelta(0))
        self.clock.adopt()
        self.assertEqual(self.elapsed(), 0.9)
        self.offset += 0.9
        self.assertEqual(self.clock.jump(), timedelta(0))

    def test_move(self) -> None:
        """After the move the clock agrees with the wall clock."""
        self.offset += DAY
        self.clock.move(self.clock.jump())
        self.assertEqual((self.elapsed(), self.clock.jump()), (DAY, timedelta(0)))

    def test_without_wall(self) -> None:
        """Without a wall clock the timers' own time it is."""
        clock = NodeClock(self.timers)
        self.timers.advance(7)
        self.assertEqual((clock.now().timestamp(), clock.jump()), (7, timedelta(0)))


class JumpTestCase(NodeTestCase):
    """Alice and Bob, each with a wall clock that can be set."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.offsets: dict[Address, float] = {}
        timeouts = Timeouts(silence_timeout=timedelta(seconds=300))
        self.alice = self.make_timed(ALICE, BOB, timeouts=timeouts)
        self.bob = self.make_timed(BOB, ALICE, lease=Lease(timedelta(seconds=200), max_attempts=2))

    def make_timed(self, own: Address, peer: Address, **options: Any) -> Node:
        """Start a node that has a wall clock of its own."""
        self.offsets[own] = _YEAR_2026
        return self.make_node(own, peer, wall=lambda: self.clock.seconds() + self.offsets[own], **options)

    def jump(self, seconds: float, *nodes: Node) -> None:
        """Set the wall clocks of some nodes, by default of both, by so much; a tick later they have noticed."""
        for node in nodes or (self.alice, self.bob):
            self.offsets[node.address] += seconds
        self.advance(1)

    def submit(self, task_id: str, **options: Any) -> tuple[TaskKey, TaskKey]:
        """Have Alice submit a task; gives the keys of her record and Bob's."""
        handle = self.done(self.alice.submit(BOB, "work", task_id=task_id, **options))
        return handle.key, TaskKey(Side.RECEIVER, ALICE, task_id)

    def status(self, node: Node, key: TaskKey) -> TaskStatus:
        """Where a task stands."""
        return self.task(node, key).status

    def for_each_jump(self, check: Callable[[str, float], None]) -> None:
        """Check the same for each jump, with a task id of its own."""
        for number, jump in enumerate(JUMPS):
            check(f"t{number}", jump)

    def assert_passes(self, node: Node, key: TaskKey, status: TaskStatus, left: float) -> None:
        """The task stays where it is while ``left`` seconds pass, and is in ``status`` two seconds later."""
        before = self.status(node, key)
        self.advance(left - 1, step=1 if left < 300 else 30)
        self.assertIs(self.status(node, key), before)
        self.advance(3)
        self.assertIs(self.status(node, key), status)


class ReceiverTests(JumpTestCase):
    """What waits on the receiver's side."""

    def test_new(self) -> None:
        """A task waits for its acceptance for as long as it would have; what is measured is the time that passed."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            self.advance(30)
            self.jump(jump)
            self.assert_passes(self.bob, key, TaskStatus.CANCELLED, left=29)
            task = self.task(self.bob, key)
            self.assertEqual((task.outcome, task.time_idle_ms // 1000), ("accept_timeout", 61))

        self.for_each_jump(check)

    def test_first_message_to_a_reference_peer(self) -> None:
        """It is held for a second after the answer to the submission, not until the clock is where it was."""
        self.stop(self.alice)
        alice = self.listen(ALICE, deployed)
        for number, jump in enumerate(JUMPS):
            self.ask(BOB, request(f"t{number}"))
            self.advance(5)
            self.jump(jump, self.bob)
            self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, f"t{number}")))
            self.advance(2)
            self.assertEqual(len(alice.peers), number + 1)

    def test_shift_fails(self) -> None:
        """Times are moved once, although the commit that moves them failed or was in doubt, and the doubt lasted."""
        self.stop(self.bob)
        for number, (fault, is_confirmed) in enumerate(product(StoreFault, (True, False))):
            store = FaultyTaskStore()
            self.bob = self.make_timed(BOB, ALICE, store=store)
            _, key = self.submit(f"t{number}")
            self.advance(30)
            store.fail("shift_times", fault)
            if not is_confirmed:
                store.fail("confirm")
            self.jump(-2 * HOUR, self.bob)
            self.advance(2)
            self.flushLoggedErrors(StoreError)
            self.assertIs(self.status(self.bob, key), TaskStatus.NEW, (fault, is_confirmed))
            self.assert_passes(self.bob, key, TaskStatus.CANCELLED, left=27)
            self.stop(self.bob)
            store.discard()

    def test_head_of_the_queue(self) -> None:
        """The head expires after its hour, once; whoever is behind it has an hour of its own."""

        def check(task_id: str, jump: float) -> None:
            (_, key), (_, behind) = self.submit(task_id), self.submit(f"{task_id}-behind")
            for each in (key, behind):
                self.done(self.bob.accept(each))
            self.advance(HOUR / 2, step=30)
            self.jump(jump)
            self.assertEqual([task.key for task in self.done(self.bob.store.queue(9))], [key, behind])
            before = self.scores(self.bob).get(BOB, 0)
            self.assert_passes(self.bob, key, TaskStatus.EXPIRED, left=HOUR / 2 - 1)
            self.jump(jump)
            self.assertEqual(self.scores(self.bob)[BOB], before - 1)
            self.assertIs(self.status(self.bob, behind), TaskStatus.ACCEPTED)
            begun = self.done(self.bob.execute(behind))
            self.assertLess(begun.time_staged_ms, 10_000)
            self.done(self.bob.send_results(behind, "done"))

        self.for_each_jump(check)

    def test_lease(self) -> None:
        """A lease runs out in its time, and so does that of the next attempt; what was put back waits its hour."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            self.done(self.bob.accept(key))
            self.done(self.bob.execute(key))
            self.advance(100)
            self.jump(jump)
            self.advance(97)
            self.assertIsNone(self.task(self.bob, key).put_back_at)
            self.advance(4)
            self.assertIsNotNone(self.task(self.bob, key).put_back_at)
            self.jump(jump)
            self.assertIs(self.status(self.bob, key), TaskStatus.EXECUTING)
            self.done(self.bob.execute(key))
            self.jump(-jump)
            self.assert_passes(self.bob, key, TaskStatus.CANCELLED, left=199)
            self.assertEqual(self.task(self.bob, key).outcome, "lease_expired")

        self.for_each_jump(check)

    def test_put_back(self) -> None:
        """What was put back is cancelled after an hour in which nobody took it."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            self.done(self.bob.accept(key))
            self.done(self.bob.execute(key))
            self.done(self.bob.put_back(key))
            self.advance(HOUR / 2, step=30)
            self.jump(jump)
            self.assert_passes(self.bob, key, TaskStatus.CANCELLED, left=HOUR / 2 - 1)

        self.for_each_jump(check)

    def test_durations(self) -> None:
        """What is paid for is the time that passed."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            self.jump(jump)
            self.done(self.bob.accept(key))
            self.jump(jump)
            self.done(self.bob.execute(key))
            self.jump(jump)
            self.advance(9)
            self.done(self.bob.send_results(key, "done"))
            self.advance(2)
            for node, side, peer in ((self.alice, Side.SUBMITTER, BOB), (self.bob, Side.RECEIVER, ALICE)):
                task = self.task(node, TaskKey(side, peer, task_id))
                self.assertIs(task.status, TaskStatus.SUCCEEDED)
                self.assertEqual((task.time_idle_ms, task.time_staged_ms, task.time_cpu_ms), (1000, 1000, 10_000))
                self.assertFalse(task.is_time_disputed)

        self.for_each_jump(check)

    def test_in_between(self) -> None:
        """What is decided after the clock was set, and before that is noticed, is decided by the time that passed."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            self.offsets[BOB] += jump
            self.assertIs(self.done(self.bob.accept(key)).status, TaskStatus.ACCEPTED)
            self.assertIs(self.done(self.bob.execute(key)).status, TaskStatus.EXECUTING)
            self.advance(2)
            self.assertIs(self.status(self.bob, key), TaskStatus.EXECUTING)

        self.for_each_jump(check)


class SubmitterTests(JumpTestCase):
    """What waits on the submitter's side."""

    def cut_off(self) -> None:
        """Have Bob be away."""
        self.stop(self.bob)

    def test_answer(self) -> None:
        """A task that nobody decides about is asked after when its 90 s have passed."""

        def check(task_id: str, jump: float) -> None:
            key, _ = self.submit(task_id)
            self.cut_off()
            self.advance(40)
            self.jump(jump, self.alice)
            self.advance(48)
            self.assertEqual(self.owed(self.alice, key), [])
            self.advance(3)
            self.assertEqual([delivery.kind.value for delivery in self.owed(self.alice, key)], ["submission"])
            self.bob = self.make_timed(BOB, ALICE)
            self.advance(61)

        self.for_each_jump(check)

    def test_silence(self) -> None:
        """A receiver that is not heard of is asked after its time, and once."""

        def check(task_id: str, jump: float) -> None:
            key, theirs = self.submit(task_id)
            self.done(self.bob.accept(theirs))
            self.done(self.bob.execute(theirs, Lease(timedelta(days=30))))
            self.stop(self.bob)
            self.advance(150)
            self.jump(jump, self.alice)
            self.advance(147)
            self.assertEqual(self.owed(self.alice, key), [])
            self.advance(4)
            self.assertEqual([delivery.kind.value for delivery in self.owed(self.alice, key)], ["submission"])
            self.advance(60)
            self.assertEqual(len(self.owed(self.alice, key)), 1)
            self.bob = self.make_timed(BOB, ALICE)
            self.advance(61)

        self.for_each_jump(check)

    def test_back_off(self) -> None:
        """A delivery that failed is tried again within its longest delay, and no more often than before."""
        self.cut_off()

        def check(task_id: str, jump: float) -> None:
            self.submit(task_id)
            self.advance(200)
            dials = self.network.dials
            dials.clear()
            self.advance(300)
            usual = dials.pop(str(BOB))
            self.jump(jump, self.alice)
            self.advance(299)
            self.assertIn(dials[str(BOB)], range(usual // 2, 2 * usual + 1))

        self.for_each_jump(check)

    def test_goes_out(self) -> None:
        """What waits in back-off goes out soon after the peer is there, whatever the clock did."""
        for number, jump in enumerate(JUMPS):
            self.stop(self.bob)
            key, theirs = self.submit(f"t{number}")
            self.advance(20)
            self.jump(jump, self.alice)
            self.bob = self.make_timed(BOB, ALICE)
            self.advance(61)
            self.assertIs(self.status(self.bob, theirs), TaskStatus.NEW)
            self.assertIsNotNone(self.task(self.alice, key).answered_at)

    def test_age(self) -> None:
        """A clock that is set forward gives up no delivery; its age is the time that passed."""
        self.stop(self.alice)
        self.alice = self.make_timed(ALICE, BOB, delivery_age_limit=timedelta(hours=2))
        self.cut_off()
        self.bob = self.make_timed(BOB, ALICE)
        key, _ = self.submit("t")
        self.cut_off()
        self.done(self.alice.cancel(key))
        self.advance(HOUR, step=30)
        for jump in (DAY, 10 * DAY, -11 * DAY):
            self.jump(jump, self.alice)
        self.advance(HOUR - 60, step=30)
        self.assertTrue(all(delivery.given_up_at is None for delivery in self.owed(self.alice, key)))
        self.advance(240, step=5)
        self.assertIsNotNone(self.owed(self.alice, key)[0].given_up_at)


class StoredTests(JumpTestCase):
    """What the records say afterwards."""

    def shifts(self, before: Task, after: Task) -> set[float]:
        """By how much the times of a record have moved that it has."""
        names = [name for name in _SHIFTED if getattr(before, name) is not None]
        return {seconds_between(getattr(before, name), getattr(after, name)) for name in names}

    def test_moved(self) -> None:
        """The times of what is under way move with the clock, those of what was agreed and of what is over do not."""

        def check(task_id: str, jump: float) -> None:
            due = self.alice._records.now() + timedelta(days=3)
            done, done_there = self.submit(f"{task_id}-done")
            for command in (self.bob.accept, self.bob.execute, self.bob.send_results):
                self.done(command(done_there))
            mine, theirs = self.submit(task_id, expires_at=due, result_due_at=due)
            self.done(self.bob.accept(theirs))
            self.done(self.bob.execute(theirs))
            self.advance(2)
            under_way, over = ((self.alice, mine), (self.bob, theirs)), ((self.alice, done), (self.bob, done_there))
            before = {key: self.task(node, key) for node, key in (*under_way, *over)}
            self.jump(jump)
            for node, key in under_way:
                after = self.task(node, key)
                self.assertEqual(self.shifts(before[key], after), {jump})
                self.assertEqual(after.expires_at, due)
                self.assertEqual(after.result_due_at, before[key].result_due_at)
            for node, key in over:
                after = self.task(node, key)
                self.assertEqual(after, evolve(before[key], ended_at=after.ended_at))
                ended_at = before[key].ended_at
                assert ended_at is not None
                self.assertEqual(after.ended_at, ended_at + timedelta(seconds=jump))

        self.for_each_jump(check)

    def test_agreed(self) -> None:
        """A deadline that both sides know passes by the clock: at once when it is set past that, not when set back."""
        now = self.alice._records.now()
        _, early = self.submit("early", expires_at=now + timedelta(hours=20))
        late, _ = self.submit("late", result_due_at=now + timedelta(hours=20))
        for task_id in ("early", "late"):
            self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, task_id)))
        self.jump(-HOUR)
        self.jump(HOUR)
        self.assertIs(self.status(self.bob, early), TaskStatus.ACCEPTED)
        self.jump(DAY)
        self.advance(2)
        self.assertEqual(self.task(self.bob, early).outcome, "deadline_passed")
        self.assertEqual(self.task(self.alice, late).outcome, "result_timeout")

    def test_set_by_a_second_or_less(self) -> None:
        """A clock that drifts moves nothing."""
        _, key = self.submit("t")
        before = self.task(self.bob, key)
        for _ in range(10):
            self.jump(0.9)
        self.assertEqual(self.task(self.bob, key), before)

    def test_set_while_stopped(self) -> None:
        """A clock that is set while the node is stopped is believed: no time is moved, and what is due passes."""
        self.stop(self.bob)
        self.bob = self.make_timed(BOB, ALICE, store=SlowStore())
        _, key = self.submit("t")
        accepted = self.done(self.bob.accept(key))
        self.stop(self.bob)
        self.offsets[BOB] += DAY
        self.bob.startService()
        self.advance(2)
        task = self.task(self.bob, key)
        self.assertEqual((task.status, task.accepted_at), (TaskStatus.EXPIRED, accepted.accepted_at))

    def test_store_fails(self) -> None:
        """When the times cannot be moved just then, nothing passes early, and they are moved as soon as they can be."""

        def check(task_id: str, jump: float) -> None:
            _, key = self.submit(task_id)
            created_at = self.task(self.bob, key).created_at
            shift_times = self.bob.store.shift_times

            asked: list[timedelta] = []

            def broken(by: timedelta, now: datetime | None = None) -> Deferred[None]:
                asked.append(by)
                return fail(StoreError("the disk is full"))

            self.bob.store.shift_times = broken  # type: ignore[method-assign]  # for a while
            self.jump(jump, self.bob)
            self.advance(20)
            self.assertEqual(len(asked), 21)
            self.flushLoggedErrors(StoreError)
            self.assertIs(self.status(self.bob, key), TaskStatus.NEW)
            self.bob.store.shift_times = shift_times  # type: ignore[method-assign]
            self.advance(1)
            self.assertEqual(seconds_between(created_at, self.task(self.bob, key).created_at), jump)
            self.assert_passes(self.bob, key, TaskStatus.CANCELLED, left=37)

        self.for_each_jump(check)


class RetentionTests(JumpTestCase):
    """What ended keeps the time at which it did."""

    def test_kept(self) -> None:
        """Setting the clock by days removes nothing; what ended goes when its time has passed."""
        self.stop(self.bob)
        self.bob = self.make_timed(BOB, ALICE, retention=Retention(keep=timedelta(days=2)))
        _, key = self.submit("t")
        self.done(self.bob.decline(key, "no"))
        for jump in (-HOUR, DAY, HOUR, 40 * DAY):
            self.jump(jump)
            self.advance(120, step=10)
            self.assertIs(self.status(self.bob, key), TaskStatus.DECLINED)
        self.advance(2 * DAY, step=HOUR)
        self.assertIsNone(self.done(self.bob.store.get(key)))
        self.assertEqual(len(self.done(self.bob.store.tombstones(key.task_id))), 1)


class MomentTests(JumpTestCase):
    """What happens at the very moment at which the clock moves: the store takes its time for that."""

    def jump_slowly(self, seconds: float, is_done: bool, meanwhile: Callable[[], object]) -> None:
        """Set Alice's clock, and do something before her store has written what that asks of it, or has said so.

        Writes are done in the order in which they are asked for; reads do not wait for them.
        """
        store = self.alice.store
        assert isinstance(store, SQLiteTaskStore)
        write = store._write
        waiting: list[Callable[[], object]] = []

        def write_slowly(operation: Callable[[Any], Any]) -> Deferred[Any]:
            later: Deferred[Any] = Deferred()
            if is_done:
                answer = write(operation)
                waiting.append(lambda: answer.chainDeferred(later))
            else:
                waiting.append(lambda: write(operation).chainDeferred(later))
            return later

        self.patch(store, "_write", write_slowly)
        self.jump(seconds, self.alice)
        self.assertEqual(len(waiting), 1)
        meanwhile()
        while waiting:
            waiting.pop(0)()
            self.network.flush()
        self.patch(store, "_write", write)
        self.advance(1)

    def test_back_off(self) -> None:
        """A delivery whose next attempt falls into it is not put off until the clock would have come there."""
        for number, (jump, is_done) in enumerate(product(JUMPS, (False, True))):
            self.stop(self.bob)
            key, theirs = self.submit(f"t{number}")
            self.advance(3)
            self.jump_slowly(jump, is_done, lambda: self.advance(10))
            self.bob = self.make_timed(BOB, ALICE)
            self.advance(62)
            self.assertIsNotNone(self.task(self.alice, key).answered_at)
            self.done(self.bob.accept(theirs))

    def test_new(self) -> None:
        """A task that is submitted right then has all the time that it should have."""
        for number, (jump, is_done) in enumerate(product(JUMPS, (False, True))):
            self.stop(self.bob)
            self.jump_slowly(jump, is_done, partial(self.alice.submit, BOB, "work", task_id=f"t{number}"))
            key = TaskKey(Side.SUBMITTER, BOB, f"t{number}")
            self.advance(80)
            self.assertIsNone(self.task(self.alice, key).cancel_requested_at)
            self.bob = self.make_timed(BOB, ALICE)
            self.advance(62)


class BootTests(JumpTestCase):
    """A node is stopped and started again, and its clock is wrong at the start, and set later on."""

    RIGHT = _YEAR_2026

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.alice)
        self.alice = self.make_timed(
            ALICE, BOB, store=SlowStore(), timeouts=Timeouts(answer_timeout=timedelta(days=99))
        )

    def boot(self, offset: float) -> None:
        """Start Alice again, with her clock so far from that of the timers."""
        self.stop(self.alice)
        self.offsets[ALICE] = offset
        self.alice.startService()

    def set_clock(self, offset: float) -> None:
        """Set Alice's clock; a tick later she has noticed."""
        self.jump(offset - self.offsets[ALICE], self.alice)

    def pending(self) -> tuple[TaskKey, Task]:
        """Have Alice submit a task to Bob, who is away, and try it for so long that she waits a minute each time."""
        self.stop(self.bob)
        key, _ = self.submit("t")
        task = self.task(self.alice, key)
        self.advance(200)
        return key, task

    def attempts(self, key: TaskKey) -> int:
        """The number of attempts to deliver the submission so far."""
        [delivery] = self.done(self.alice.store.deliveries_of(key))
        return delivery.attempts

    def assert_tried(self, key: TaskKey) -> None:
        """The next attempt is made within the longest back-off, and a tick."""
        before = self.attempts(key)
        self.advance(LONGEST_DELAY_SECONDS + 2)
        self.assertGreater(self.attempts(key), before)

    def test_no_delivery_waits_longer_after_a_start(self) -> None:
        """However far the clock was set back, a pending delivery is tried within the longest back-off after a start."""
        key, _ = self.pending()
        for seconds in (30.0, 600.0, HOUR, 3 * DAY, 400 * DAY, self.RIGHT):
            self.boot(self.RIGHT - seconds)
            self.assert_tried(key)
            self.boot(self.RIGHT)
            self.assert_tried(key)

    def test_setting_the_clock_right_adds_nothing(self) -> None:
        """Times that lie ahead of the clock at a start stay where they are when the clock is set right."""
        key, task = self.pending()
        self.boot(self.RIGHT - 3 * DAY)
        self.advance(5)
        self.set_clock(self.RIGHT)
        self.assert_tried(key)
        self.assertEqual(self.task(self.alice, key).created_at, task.created_at)
        self.bob.startService()
        self.advance(LONGEST_DELAY_SECONDS + 2)
        self.assertIsNotNone(self.task(self.alice, key).answered_at)

    def test_clock_that_starts_in_1970(self) -> None:
        """A machine without a battery sets its clock after each boot; no time of a record drifts by that."""
        key, task = self.pending()
        for _ in range(5):
            self.boot(-self.clock.seconds())
            self.advance(20)
            self.set_clock(self.RIGHT)
            self.advance(20)
        self.assertEqual(self.task(self.alice, key).created_at, task.created_at)
        self.assert_tried(key)

    def test_boots_in_a_row_keep_no_delivery_waiting(self) -> None:
        """A node that is restarted again and again before its longest back-off is over delivers all the same."""
        key, _ = self.pending()
        before = self.attempts(key)
        for _ in range(5):
            self.boot(-self.clock.seconds())
            self.advance(20)
            self.set_clock(self.RIGHT)
            self.advance(20)
        self.assertGreaterEqual(self.attempts(key), before + 3)

    def test_lease_and_acceptance_after_a_start(self) -> None:
        """No lease and no time for acceptance is longer after a start than when it was given."""
        self.stop(self.alice)
        self.alice = self.make_timed(ALICE, BOB)
        self.stop(self.bob)
        lease = Lease(timedelta(seconds=200))
        self.bob = self.make_timed(BOB, ALICE, store=SlowStore(), lease=lease)
        _, leased = self.submit("leased")
        self.done(self.bob.accept(leased))
        self.done(self.bob.execute(leased))
        _, new = self.submit("new")
        self.stop(self.bob)
        self.offsets[BOB] -= 3 * DAY
        self.bob.startService()
        self.assert_passes(self.bob, new, TaskStatus.CANCELLED, left=60)
        self.assertIs(self.status(self.bob, leased), TaskStatus.EXECUTING)
        self.advance(lease.duration.total_seconds())
        self.assertIs(self.status(self.bob, leased), TaskStatus.CANCELLED)

    @example(  # nothing was written between setting the clock and the boot after it
        [
            *((False, _YEAR_2026 - 3 * DAY, 72), (True, HOUR, 56), (True, _YEAR_2026 - 600, 88)),
            *((True, HOUR, 79), (False, 2 * _YEAR_2026, 3), (True, _YEAR_2026 - 600, 35)),
        ]
    )
    @settings(deadline=None, max_examples=examples(10), phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(st.lists(st.tuples(st.booleans(), st.sampled_from(CLOCKS), st.integers(1, 90)), max_size=8))
    def test_any_sequence_of_boots(self, steps: list[tuple[bool, float, int]]) -> None:
        """Whatever the clock does, in whatever order with boots, records stay readable and deliveries are tried."""
        self.setUp()
        key, _ = self.pending()
        for is_boot, wall, seconds in steps * 2:
            (self.boot if is_boot else self.set_clock)(wall - self.clock.seconds())
            self.advance(seconds)
        self.assert_tried(key)
        self.boot(self.offsets[ALICE])
        self.assert_tried(key)
        [task] = self.tasks(self.alice)
        self.assertTrue(1900 <= task.created_at.year <= 9000)
        self.assertTrue(self.done(self.alice.story(key)).events)


class LikeNothingHappenedTests(JumpTestCase):
    """Two pairs of nodes do the same; the clocks of one of them are set again and again."""

    @override
    def setUp(self) -> None:
        super().setUp()
        for node in (self.alice, self.bob):
            self.stop(node)
        timeouts = Timeouts(*(timedelta(seconds=seconds) for seconds in (20, 40, 35, 25)))
        options: dict[str, Any] = {"timeouts": timeouts, "lease": Lease(timedelta(seconds=30), max_attempts=2)}
        self.pairs = [
            [self.make_timed(own, peer, random=Random(1), **options) for own, peer in ((a, b), (b, a))]
            for a, b in ((ALICE, BOB), (CAROL, DAVE))
        ]

    def act(self, pair: list[Node], action: str, task_id: str) -> str:
        """Do something that may not be possible; gives what came of it."""
        submitter, receiver = pair
        key = TaskKey(Side.RECEIVER, submitter.address, task_id)
        theirs = TaskKey(Side.SUBMITTER, receiver.address, task_id)
        commands: dict[str, Callable[[], Deferred[Any]]] = {
            "submit": lambda: submitter.submit(receiver.address, "work", task_id=task_id),
            "cancel": lambda: submitter.cancel(theirs),
            "accept": lambda: receiver.accept(key),
            "execute": lambda: receiver.execute(),
            "progress": lambda: receiver.progress(key, "on it"),
            "put_back": lambda: receiver.put_back(key),
            "send_results": lambda: receiver.send_results(key, "done"),
        }
        done = commands[action]()
        self.network.flush()
        outcome: list[str] = []
        done.addCallbacks(lambda _: outcome.append("done"), lambda failure: outcome.append(failure.type.__name__))
        return outcome[0]

    def stand(self, pair: list[Node]) -> list[tuple[str, str, str, int]]:
        """Where every task of a pair stands."""
        return [
            (task.task_id, task.status.value, task.outcome, task.attempt)
            for node in pair
            for task in sorted(self.tasks(node), key=lambda task: task.task_id)
        ]

    def test_random(self) -> None:
        """At every moment each task stands where it would without any of that."""
        random = Random(7)
        wanted = {"accept": "NEW", "execute": "ACCEPTED", "send_results": "EXECUTING", "put_back": "EXECUTING"}
        for turn in range(200):
            if random.random() < 0.3:
                for node in random.sample(self.pairs[0], random.choice((1, 2))):
                    self.offsets[node.address] += random.choice((-DAY, -HOUR, -5.0, 5.0, HOUR, DAY))
            action = random.choice(("submit", "submit", "cancel", *wanted, *wanted))
            tasks = [task.task_id for task in self.tasks(self.pairs[0][1]) if task.status == wanted.get(action)]
            task_id = random.choice(sorted(tasks)) if tasks else f"t{turn}"
            outcomes = [self.act(pair, action, task_id) for pair in self.pairs]
            self.assertEqual(outcomes[0], outcomes[1], action)
            self.advance(random.choice((1, 1, 5, 12)))
            self.assertEqual(self.stand(self.pairs[0]), self.stand(self.pairs[1]))
        ends = {status for _, status, *_ in self.stand(self.pairs[1])}
        self.assertGreaterEqual(ends, {"CANCELLED", "EXPIRED", "SUCCEEDED"})
