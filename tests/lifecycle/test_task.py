"""The record of a task: what a change stamps, durations, and what is overdue."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.lifecycle.table import DEADLINES, Deadline, Event, Side, TaskStatus, Timeouts, advance
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds, milliseconds_between, to_milliseconds
from tasksubmit.wire.address import Address

START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
MILLISECOND = timedelta(milliseconds=1)
PEER = Address.parse("0:0000.0000.0002")


def task(side: Side = Side.RECEIVER, **fields: Any) -> Task:
    """A record made at `START`."""
    return Task(side=side, peer=PEER, task_id="t-1", description="read", **{"created_at": START, **fields})


def later(milliseconds: int) -> datetime:
    """So many milliseconds after `START`."""
    return START + milliseconds * MILLISECOND


def after(before: Task, event: Event, now: datetime) -> Task:
    """The record after an event."""
    return before.advanced(advance(before.side, before.status, event), now)


class MillisecondTests(SynchronousTestCase):
    """Times as integers."""

    @settings(deadline=None)
    @given(st.integers(min_value=-62135596800000, max_value=253402300799999))
    def test_round_trip(self, milliseconds: int) -> None:
        """Every millisecond of the calendar reads back as itself."""
        self.assertEqual(to_milliseconds(from_milliseconds(milliseconds)), milliseconds)

    def test_rounds_down(self) -> None:
        """What is finer than a millisecond is dropped, also before 1970."""
        epoch = from_milliseconds(0)
        self.assertEqual(epoch, datetime(1970, 1, 1, tzinfo=timezone.utc))
        self.assertEqual(to_milliseconds(epoch + timedelta(microseconds=1999)), 1)
        self.assertEqual(to_milliseconds(epoch - timedelta(microseconds=1)), -1)

    def test_between(self) -> None:
        """A duration is whole milliseconds; 0 without a start, and 0 when the clock went back."""
        self.assertEqual(milliseconds_between(START, later(1234) + timedelta(microseconds=999)), 1234)
        self.assertEqual(milliseconds_between(None, later(1234)), 0)
        self.assertEqual(milliseconds_between(later(1), START), 0)


class RecordTests(SynchronousTestCase):
    """The record itself."""

    def test_key(self) -> None:
        """A record is known by its side, the other party and the id."""
        self.assertEqual(task().key, TaskKey(Side.RECEIVER, PEER, "t-1"))

    def test_frozen(self) -> None:
        """A record is a value: nobody can change it."""
        with self.assertRaises(FrozenInstanceError):
            task().status = TaskStatus.ACCEPTED  # type: ignore[misc]

    def test_settled(self) -> None:
        """What callers wait for is over when the record is final; for a submitter COMPLETED is enough."""
        for side in Side:
            for status in TaskStatus:
                expected = status.is_final or (side is Side.SUBMITTER and status is TaskStatus.COMPLETED)
                self.assertEqual(task(side, status=status).is_settled, expected)


class StampTests(SynchronousTestCase):
    """What each event writes into the record."""

    def assert_changed(self, before: Task, event: Event, now: datetime, **expected: Any) -> Task:
        """The event sets just these fields."""
        changed = after(before, event, now)
        self.assertEqual(changed, evolve(before, **expected))
        return changed

    def test_a_whole_life(self) -> None:
        """Each step of a received task stamps its moment, and the milliseconds spent before it."""
        new = task()
        accepted = self.assert_changed(
            new, Event.ACCEPT, later(1501), status=TaskStatus.ACCEPTED, accepted_at=later(1501), time_idle_ms=1501
        )
        staged = evolve(accepted, staged_at=later(2000), queue_position=1)
        executing = self.assert_changed(
            staged,
            Event.EXECUTE,
            later(5003),
            status=TaskStatus.EXECUTING,
            execute_started_at=later(5003),
            time_staged_ms=3003,
            attempt=1,
        )
        completed = self.assert_changed(
            executing,
            Event.COMPLETE,
            later(6007),
            status=TaskStatus.COMPLETED,
            completed_at=later(6007),
            time_cpu_ms=1004,
        )
        self.assert_changed(completed, Event.DELIVER, later(9000), status=TaskStatus.SUCCEEDED)

    def test_every_decision_ends_the_idle_time(self) -> None:
        """Declining, cancelling and both deadlines stamp a NEW task as accepting does."""
        for event, status, outcome in (
            (Event.DECLINE, TaskStatus.DECLINED, ""),
            (Event.CANCEL, TaskStatus.CANCELLED, "cancelled_by_submitter"),
            (Event.TIME_OUT_ACCEPT, TaskStatus.CANCELLED, "accept_timeout"),
            (Event.PASS_DEADLINE, TaskStatus.CANCELLED, "deadline_passed"),
        ):
            self.assert_changed(
                task(), event, later(70), status=status, outcome=outcome, accepted_at=later(70), time_idle_ms=70
            )

    def test_expiry_counts_the_staged_time(self) -> None:
        """A head that expires keeps how long it was staged."""
        head = task(status=TaskStatus.ACCEPTED, staged_at=later(10))
        self.assert_changed(
            head,
            Event.TIME_OUT_QUEUE_HEAD,
            later(3_600_011),
            status=TaskStatus.EXPIRED,
            outcome="expired",
            time_staged_ms=3_600_001,
        )

    def test_withdrawn_from_the_queue(self) -> None:
        """A task withdrawn from the queue is stamped with nothing."""
        queued = task(status=TaskStatus.ACCEPTED, staged_at=later(10))
        self.assert_changed(
            queued, Event.CANCEL, later(20), status=TaskStatus.CANCELLED, outcome="cancelled_by_submitter"
        )
        self.assert_changed(
            queued, Event.PASS_DEADLINE, later(20), status=TaskStatus.CANCELLED, outcome="deadline_passed"
        )

    def test_run_again(self) -> None:
        """Another attempt is counted, and the time of the last alone is the CPU time; progress stamps nothing."""
        first = task(status=TaskStatus.EXECUTING, execute_started_at=START, time_staged_ms=7, attempt=1)
        self.assert_changed(first, Event.PROGRESS, later(50))
        second = self.assert_changed(first, Event.RUN_AGAIN, later(100), execute_started_at=later(100), attempt=2)
        self.assertEqual(after(second, Event.COMPLETE, later(130)).time_cpu_ms, 30)

    def test_failed_execution(self) -> None:
        """An execution that fails or loses its lease says so in the outcome, and has no CPU time."""
        executing = task(status=TaskStatus.EXECUTING, execute_started_at=START, attempt=1)
        self.assert_changed(executing, Event.FAIL, later(9), status=TaskStatus.CANCELLED, outcome="failed")
        self.assert_changed(
            executing, Event.TIME_OUT_LEASE, later(9), status=TaskStatus.CANCELLED, outcome="lease_expired"
        )

    def test_submitter(self) -> None:
        """The submitter's record is stamped with its own acts only: no durations, no decisions."""
        submitted = task(Side.SUBMITTER)
        self.assert_changed(submitted, Event.HEAR_ACCEPTED, later(9), status=TaskStatus.ACCEPTED)
        self.assert_changed(submitted, Event.REQUEST_CANCEL, later(9), cancel_requested_at=later(9))
        early = self.assert_changed(submitted, Event.HEAR_SUCCEEDED, later(9), succeeded_heard=True)
        completed = self.assert_changed(early, Event.RECEIVE_RESULTS, later(10), status=TaskStatus.COMPLETED)
        self.assert_changed(completed, Event.HEAR_SUCCEEDED, later(11), status=TaskStatus.SUCCEEDED)

    def test_outcome_of_the_receiver_is_kept(self) -> None:
        """A step without an outcome of its own leaves the one that the receiver sent."""
        told = task(Side.SUBMITTER, outcome="failed")
        self.assertEqual(after(told, Event.HEAR_CANCELLED, START).outcome, "failed")

    def test_clock_goes_back(self) -> None:
        """When the clock goes back between two steps the duration is 0, never negative."""
        accepted = after(task(), Event.ACCEPT, later(-1))
        self.assertEqual((accepted.time_idle_ms, accepted.accepted_at), (0, later(-1)))
        executing = after(evolve(accepted, staged_at=later(5)), Event.EXECUTE, START)
        self.assertEqual(executing.time_staged_ms, 0)
        self.assertEqual(after(executing, Event.COMPLETE, later(-3000)).time_cpu_ms, 0)


class BoundTests(SynchronousTestCase):
    """The bound that the submitter puts on the receiver's durations."""

    def bounded(self, idle: int, staged: int, cpu: int, seen: int) -> int:
        """The bounded CPU time of a task whose results arrive `seen` milliseconds after its submission."""
        claimed = task(Side.SUBMITTER, time_idle_ms=idle, time_staged_ms=staged, time_cpu_ms=cpu)
        bounded = claimed.bounded(later(seen)).scored_cpu_ms
        assert bounded is not None
        return bounded

    def test_honest(self) -> None:
        """Durations that fit into the time that passed here stay as they are."""
        self.assertEqual(self.bounded(10, 20, 70, 100), 70)
        self.assertEqual(self.bounded(10, 20, 70, 5000), 70)

    def test_excess(self) -> None:
        """What exceeds it is taken off the CPU time, which never goes below 0."""
        self.assertEqual(self.bounded(10, 20, 71, 100), 70)
        self.assertEqual(self.bounded(10, 20, 500, 100), 70)
        self.assertEqual(self.bounded(90, 90, 5, 100), 0)

    def test_clock_went_back(self) -> None:
        """With no time passed at all there is nothing to be paid for."""
        self.assertEqual(self.bounded(0, 0, 50, -1000), 0)

    def test_negative_claims(self) -> None:
        """A negative duration counts as 0 and makes no room for another."""
        self.assertEqual(self.bounded(-1000, 0, 200, 100), 100)
        self.assertEqual(self.bounded(0, 0, -5, 100), 0)

    def test_disputed(self) -> None:
        """A record says whether its claim was too long, even when there was no CPU time to cut."""
        self.assertFalse(task(time_cpu_ms=5).is_time_disputed)
        self.assertFalse(task(time_cpu_ms=5).bounded(later(5)).is_time_disputed)
        self.assertTrue(task(time_cpu_ms=5).bounded(later(4)).is_time_disputed)
        self.assertTrue(task(time_idle_ms=5).bounded(later(4)).is_time_disputed)

    @settings(deadline=None)
    @given(*[st.integers(min_value=0, max_value=10**12)] * 4)
    def test_bounds(self, idle: int, staged: int, cpu: int, seen: int) -> None:
        """The bounded time is never over the claim, and fits with the other two when they fit by themselves."""
        bounded = self.bounded(idle, staged, cpu, seen)
        self.assertTrue(0 <= bounded <= cpu)
        if idle + staged <= seen:
            self.assertEqual(bounded, min(cpu, seen - idle - staged))


class OverdueTests(SynchronousTestCase):
    """Which deadline has passed."""

    def test_exact_limit(self) -> None:
        """Each deadline is not due at exactly its limit, and is one millisecond after."""
        timeouts = Timeouts(timedelta(seconds=3), timedelta(seconds=5), timedelta(seconds=7))
        limits = {"": 0, "accept_timeout": 3000, "queue_head_timeout": 5000, "answer_timeout": 7000}
        for deadline in DEADLINES:
            for status in deadline.statuses:
                # created long before, but for the deadline that counts from there, so that no other one is due
                fields: dict[str, Any] = {"created_at": later(10**9), deadline.since: later(1000)}
                waiting = task(deadline.side, status=status, **fields)
                due_at = 1000 + limits[deadline.timeout]
                self.assertIsNone(waiting.overdue(later(due_at), timeouts))
                self.assertIs(waiting.overdue(later(due_at + 1), timeouts), deadline)

    def test_defaults(self) -> None:
        """By default a minute for a decision, an hour at the head, and 90 seconds for an answer."""
        for waiting, seconds in (
            (task(), 60),
            (task(status=TaskStatus.ACCEPTED, staged_at=START), 3600),
            (task(Side.SUBMITTER), 90),
        ):
            self.assertIsNone(waiting.overdue(later(seconds * 1000), Timeouts()))
            self.assertIsNotNone(waiting.overdue(later(seconds * 1000 + 1), Timeouts()))

    def test_unset(self) -> None:
        """A column that is not set never falls due: behind the head, or without deadlines of its own."""
        for side in Side:
            for status in TaskStatus:
                if status is not TaskStatus.NEW:
                    self.assertIsNone(task(side, status=status).overdue(later(10**12), Timeouts()))

    def test_asked_once(self) -> None:
        """A submitter who has asked for cancellation does not ask again, whichever deadline passes."""
        asked = task(Side.SUBMITTER, cancel_requested_at=START, result_due_at=START)
        self.assertIsNone(asked.overdue(later(10**9), Timeouts()))

    def test_other_statuses(self) -> None:
        """A set column means nothing outside the statuses that its deadline is for."""
        times: dict[str, Any] = {"staged_at": START, "expires_at": START, "result_due_at": START}
        found: dict[tuple[str, str], Deadline | None] = {
            (side.value, status.value): task(side, status=status, **times).overdue(later(10**9), Timeouts())
            for side in Side
            for status in TaskStatus
        }
        self.assertEqual(
            {key: row.event.name for key, row in found.items() if row},
            {
                ("receiver", "NEW"): "PASS_DEADLINE",
                ("receiver", "ACCEPTED"): "PASS_DEADLINE",
                ("submitter", "NEW"): "REQUEST_CANCEL",
                ("submitter", "ACCEPTED"): "REQUEST_CANCEL",
                ("submitter", "EXECUTING"): "REQUEST_CANCEL",
            },
        )

    def test_the_cheaper_end_wins(self) -> None:
        """A head whose own deadline passed with the hour ends without costing anybody's score."""
        head = task(status=TaskStatus.ACCEPTED, staged_at=START, expires_at=later(1))
        overdue = head.overdue(later(3_600_001), Timeouts())
        assert overdue is not None
        self.assertIs(overdue.event, Event.PASS_DEADLINE)
