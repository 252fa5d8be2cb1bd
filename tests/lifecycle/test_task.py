"""The record of a task: what a change stamps, durations, and what is overdue."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.lifecycle.table import (
    ASK_AGAIN,
    DEADLINES,
    LEASE_LOST,
    TRANSITIONS,
    Deadline,
    Event,
    Side,
    TaskStatus,
    Timeouts,
    advance,
)
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds, milliseconds_between, to_milliseconds
from tasksubmit.wire.address import Address
from tests.tiers import examples

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
        staged = evolve(accepted, staged_at=later(2000), queue_position=1, lease_ms=60_000)
        executing = self.assert_changed(
            staged,
            Event.EXECUTE,
            later(5003),
            status=TaskStatus.EXECUTING,
            execute_started_at=later(5003),
            time_staged_ms=3003,
            attempt=1,
            lease_expires_at=later(65_003),
        )
        completed = self.assert_changed(
            executing,
            Event.COMPLETE,
            later(6007),
            status=TaskStatus.COMPLETED,
            completed_at=later(6007),
            time_cpu_ms=1004,
            lease_expires_at=None,
        )
        self.assert_changed(completed, Event.DELIVER, later(9000), status=TaskStatus.SUCCEEDED, ended_at=later(9000))

    def test_every_decision_ends_the_idle_time(self) -> None:
        """Declining, cancelling and both deadlines stamp a NEW task as accepting does."""
        for event, status, outcome in (
            (Event.DECLINE, TaskStatus.DECLINED, ""),
            (Event.CANCEL, TaskStatus.CANCELLED, ""),
            (Event.TIME_OUT_ACCEPT, TaskStatus.CANCELLED, "accept_timeout"),
            (Event.PASS_DEADLINE, TaskStatus.CANCELLED, "deadline_passed"),
        ):
            self.assert_changed(
                task(),
                event,
                later(70),
                status=status,
                outcome=outcome,
                accepted_at=later(70),
                time_idle_ms=70,
                ended_at=later(70),
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
            ended_at=later(3_600_011),
        )

    def test_withdrawn_from_the_queue(self) -> None:
        """A task withdrawn from the queue is stamped with its end alone."""
        queued = task(status=TaskStatus.ACCEPTED, staged_at=later(10))
        for event, outcome in ((Event.CANCEL, ""), (Event.PASS_DEADLINE, "deadline_passed")):
            self.assert_changed(
                queued, event, later(20), status=TaskStatus.CANCELLED, outcome=outcome, ended_at=later(20)
            )

    def test_progress(self) -> None:
        """Progress renews the lease from that moment on, by as much as it was for, and stamps nothing else."""
        leased = task(status=TaskStatus.EXECUTING, lease_ms=1000, lease_expires_at=later(1000), attempt=1)
        renewed = self.assert_changed(leased, Event.PROGRESS, later(50), lease_expires_at=later(1050))
        self.assert_changed(renewed, Event.PROGRESS, later(1049), lease_expires_at=later(2049))

    def test_run_again(self) -> None:
        """A task that is put back, or lost its lease, counts another attempt, and waits without a lease.

        Its durations stay as they were.
        """
        first = task(
            status=TaskStatus.EXECUTING,
            execute_started_at=START,
            time_staged_ms=7,
            attempt=1,
            lease_ms=90,
            lease_expires_at=later(90),
        )
        for event in (Event.PUT_BACK, Event.RUN_AGAIN):
            self.assert_changed(first, event, later(100), attempt=2, lease_expires_at=None, put_back_at=later(100))

    def test_take_again(self) -> None:
        """What is taken again is leased anew, counts no attempt, and the time of this one alone is the CPU time."""
        waiting = task(
            status=TaskStatus.EXECUTING,
            execute_started_at=START,
            time_staged_ms=7,
            attempt=2,
            lease_ms=90,
            put_back_at=later(100),
        )
        second = self.assert_changed(
            waiting,
            Event.TAKE_AGAIN,
            later(150),
            execute_started_at=later(150),
            lease_expires_at=later(240),
            put_back_at=None,
        )
        self.assertEqual(after(second, Event.COMPLETE, later(180)).time_cpu_ms, 30)

    def test_heard_of_while_put_back(self) -> None:
        """Whoever was thought lost and says so with progress has the task again, in the attempt that it is."""
        waiting = task(status=TaskStatus.EXECUTING, attempt=2, lease_ms=90, put_back_at=later(100))
        self.assert_changed(waiting, Event.PROGRESS, later(110), lease_expires_at=later(200), put_back_at=None)

    def test_failed_execution(self) -> None:
        """An execution that fails or loses its lease says so in the outcome, and has no CPU time."""
        executing = task(status=TaskStatus.EXECUTING, execute_started_at=START, attempt=1)
        for event, outcome in ((Event.FAIL, "failed"), (Event.TIME_OUT_LEASE, "lease_expired")):
            self.assert_changed(
                executing, event, later(9), status=TaskStatus.CANCELLED, outcome=outcome, ended_at=later(9)
            )

    def test_submitter(self) -> None:
        """The submitter's record is stamped with its own acts only: no durations, no decisions."""
        submitted = task(Side.SUBMITTER)
        self.assert_changed(submitted, Event.HEAR_ACCEPTED, later(9), status=TaskStatus.ACCEPTED)
        for event, word in (
            (Event.REQUEST_CANCEL, "cancelled_by_submitter"),
            (Event.TIME_OUT_ANSWER, "answer_timeout"),
            (Event.TIME_OUT_RESULTS, "result_timeout"),
            (Event.TIME_OUT_DELIVERY, "undelivered"),
        ):
            asked = self.assert_changed(submitted, event, later(9), cancel_requested_at=later(9), cancel_outcome=word)
            for end in (Event.CONFIRM_CANCEL, Event.WITHDRAW, Event.TIME_OUT_CANCEL):
                self.assert_changed(
                    asked, end, later(10), status=TaskStatus.CANCELLED, outcome=word, ended_at=later(10)
                )
        undecided = evolve(submitted, heard_at=START, undecided_since=START)
        self.assert_changed(undecided, Event.QUERY_UNDECIDED, later(9), heard_at=later(9), undecided_since=None)
        self.assert_changed(evolve(submitted, heard_at=START), Event.ASK_AGAIN, later(9), heard_at=later(9))
        early = self.assert_changed(submitted, Event.HEAR_SUCCEEDED, later(9), succeeded_heard=True)
        completed = self.assert_changed(
            early, Event.RECEIVE_RESULTS, later(10), status=TaskStatus.COMPLETED, ended_at=later(10)
        )
        self.assert_changed(completed, Event.HEAR_SUCCEEDED, later(11), status=TaskStatus.SUCCEEDED)

    def test_ended_once(self) -> None:
        """Whatever ends a task for its callers stamps that moment; nothing before does, and nothing after it."""
        for (side, status, event), transition in TRANSITIONS.items():
            if status is None:
                continue
            before = task(side, status=status)
            changed = after(before, event, later(5))
            has_ended = transition.target.is_final or (side, changed.status) == (Side.SUBMITTER, TaskStatus.COMPLETED)
            self.assertEqual(changed.ended_at, later(5) if has_ended else None, (side, status, event))
            self.assertEqual(changed.ended_at is not None, changed.is_settled)
            self.assertEqual(after(evolve(before, ended_at=later(1)), event, later(5)).ended_at, later(1))

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
        timeouts = Timeouts(*(timedelta(seconds=seconds) for seconds in (3, 5, 7, 9, 11, 13, 15, 17)))
        limits = {
            "": 0,
            "accept_timeout": 3000,
            "queue_head_timeout": 5000,
            "answer_timeout": 7000,
            "silence_timeout": 9000,
            "delivery_timeout": 11000,
            "news_timeout": 15000,
            "hold_limit": 17000,
        }
        for deadline in DEADLINES:
            for status in deadline.statuses:
                # created long before, but for the deadline that counts from there, so that no other one is due
                fields: dict[str, Any] = {"created_at": later(10**9), deadline.since: later(1000)}
                waiting = task(deadline.side, status=status, **fields)
                due_at = 1000 + limits[deadline.timeout]
                self.assertIsNone(waiting.overdue(later(due_at), timeouts))
                self.assertIs(waiting.overdue(later(due_at + 1), timeouts), deadline)

    def test_defaults(self) -> None:
        """By default a minute for a decision, an hour at the head, 90 seconds for an answer, an hour of silence."""
        for waiting, seconds in (
            (task(), 60),
            (task(status=TaskStatus.ACCEPTED, staged_at=START), 3600),
            (task(Side.SUBMITTER), 7 * 86400),
            (task(Side.SUBMITTER, undecided_since=START), 90),
            (task(Side.SUBMITTER, status=TaskStatus.ACCEPTED, news_at=START), 30 * 86400),
            (task(status=TaskStatus.EXECUTING, put_back_at=START), 3600),
            (task(Side.SUBMITTER, status=TaskStatus.EXECUTING, heard_at=START), 3600),
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
        """A submitter asks for cancellation once, whichever deadline passes; how it stands it goes on to ask."""
        asked = task(Side.SUBMITTER, cancel_requested_at=START, result_due_at=START)
        self.assertIsNone(asked.overdue(later(10**9), Timeouts()))
        self.assertIs(evolve(asked, heard_at=START).overdue(later(10**9), Timeouts()), ASK_AGAIN)

    def test_ask_again(self) -> None:
        """Only a receiver that may be asked is, and only about a task that is open, cancellation asked for or not."""
        for status in TaskStatus:
            heard = task(Side.SUBMITTER, status=status, heard_at=later(10))
            is_open = status in (TaskStatus.NEW, TaskStatus.ACCEPTED, TaskStatus.EXECUTING)
            self.assertEqual(heard.meets(ASK_AGAIN, later(11)), is_open, status)
            self.assertEqual(evolve(heard, cancel_requested_at=START).meets(ASK_AGAIN, later(11)), is_open, status)
            self.assertFalse(heard.meets(ASK_AGAIN, later(10)))
            for other in (evolve(heard, heard_at=None), evolve(heard, side=Side.RECEIVER)):
                self.assertFalse(other.meets(ASK_AGAIN, later(11)))

    def test_meets(self) -> None:
        """A deadline is met by the records it is for: not by the other side's, in other statuses, or too early."""
        for deadline in DEADLINES:
            for side in Side:
                for status in TaskStatus:
                    fields: dict[str, Any] = {deadline.since: later(10)}
                    found = task(side, status=status, **fields)
                    expected = side is deadline.side and status in deadline.statuses
                    self.assertEqual(found.meets(deadline, later(11)), expected, (deadline, side, status))
                    self.assertFalse(found.meets(deadline, later(10)))
                    for column in deadline.unless:
                        self.assertFalse(
                            task(side, status=status, **fields, **{column: START}).meets(deadline, later(11))
                        )

    def test_lost_lease(self) -> None:
        """A lost lease has the task begun again as long as it has attempts left, and ends it with the last one."""
        for attempt, max_attempts, event in (
            (1, 1, Event.TIME_OUT_LEASE),
            (1, 2, Event.RUN_AGAIN),
            (2, 2, Event.TIME_OUT_LEASE),
            (2, 3, Event.RUN_AGAIN),
            (4, 3, Event.TIME_OUT_LEASE),
        ):
            lost = task(
                status=TaskStatus.EXECUTING, attempt=attempt, max_attempts=max_attempts, lease_expires_at=later(10)
            )
            self.assertIsNone(lost.overdue(later(10), Timeouts()))
            self.assertIs(lost.overdue(later(11), Timeouts()), LEASE_LOST)
            self.assertEqual(lost.events_of(LEASE_LOST), (event,))

    def test_attempts_left(self) -> None:
        """Attempts are no way out of any other deadline: what was put back and is not taken in time ends."""
        waiting = task(status=TaskStatus.EXECUTING, attempt=2, max_attempts=9, put_back_at=START)
        overdue = waiting.overdue(later(3_600_001), Timeouts())
        assert overdue is not None
        self.assertEqual((overdue.since, waiting.events_of(overdue)), ("put_back_at", (Event.TIME_OUT_LEASE,)))
        for deadline in DEADLINES:
            if deadline is not LEASE_LOST:
                self.assertEqual(task(attempt=1, max_attempts=9).events_of(deadline)[0], deadline.event)

    def test_nobody_can_have_it(self) -> None:
        """A request to cancel a task that no receiver can have ends it; one that was only ever refused is declined."""
        unsent = task(Side.SUBMITTER, deliver_by=START)
        overdue = unsent.overdue(later(1), Timeouts())
        assert overdue is not None
        self.assertEqual(unsent.events_of(overdue), (Event.TIME_OUT_DELIVERY, Event.WITHDRAW))
        self.assertEqual(evolve(unsent, code="quota").events_of(overdue), (Event.REFUSE,))
        begun = evolve(unsent, code="quota", submission_begun_at=START)
        self.assertEqual(begun.events_of(overdue), (Event.TIME_OUT_DELIVERY,))
        self.assertEqual(unsent.requested(Event.REQUEST_CANCEL), (Event.REQUEST_CANCEL, Event.WITHDRAW))
        self.assertEqual(begun.requested(Event.REQUEST_CANCEL), (Event.REQUEST_CANCEL,))

    def test_undecided(self) -> None:
        """A peer that can be queried is, when it has not decided in time; any other task is to be cancelled."""
        undecided = task(Side.SUBMITTER, undecided_since=START, submission_begun_at=START, answered_at=START)
        overdue = undecided.overdue(later(90_001), Timeouts())
        assert overdue is not None
        self.assertEqual(undecided.events_of(overdue), (Event.TIME_OUT_ANSWER,))
        self.assertEqual(evolve(undecided, heard_at=START).events_of(overdue), (Event.QUERY_UNDECIDED,))

    def test_every_attempt_is_used(self) -> None:
        """A task whose executors are all lost is begun as often as it may be, then ends."""
        lost = task(status=TaskStatus.ACCEPTED, staged_at=START, lease_ms=10, max_attempts=3)
        lost = after(lost, Event.EXECUTE, START)
        begun = [lost.attempt]
        while lost.events_of(LEASE_LOST) == (Event.RUN_AGAIN,):
            lost = after(after(lost, Event.RUN_AGAIN, START), Event.TAKE_AGAIN, START)
            begun.append(lost.attempt)
        self.assertEqual(begun, [1, 2, 3])
        [event] = lost.events_of(LEASE_LOST)
        self.assertIs(after(lost, event, START).status, TaskStatus.CANCELLED)

    def test_other_statuses(self) -> None:
        """A set column means nothing outside the statuses that its deadline is for."""
        times: dict[str, Any] = dict.fromkeys(
            ("staged_at", "expires_at", "lease_expires_at", "put_back_at", "result_due_at", "heard_at"), START
        )
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
                ("receiver", "EXECUTING"): "TIME_OUT_LEASE",
                ("submitter", "NEW"): "TIME_OUT_DELIVERY",
                ("submitter", "ACCEPTED"): "TIME_OUT_RESULTS",
                ("submitter", "EXECUTING"): "TIME_OUT_RESULTS",
            },
        )

    def test_the_cheaper_end_wins(self) -> None:
        """A head whose own deadline passed with the hour ends without costing anybody's score."""
        head = task(status=TaskStatus.ACCEPTED, staged_at=START, expires_at=later(1))
        overdue = head.overdue(later(3_600_001), Timeouts())
        assert overdue is not None
        self.assertIs(overdue.event, Event.PASS_DEADLINE)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "description": st.text(max_size=5),
    "status": st.sampled_from(TaskStatus),
    "staged_at": st.none() | st.integers(0, 10**6).map(later),
    "attempt": st.integers(0, 9),
    "is_lease_bound": st.booleans(),
    "features": st.lists(st.text(max_size=3), max_size=2).map(tuple),
    "number": st.integers(0, 9),
}


class EvolvedTests(SynchronousTestCase):
    """Records out of records."""

    @settings(deadline=None, max_examples=examples(60))
    @given(st.fixed_dictionaries({}, optional=VALUES), st.fixed_dictionaries({}, optional=VALUES))
    def test_as_attrs_does(self, before: dict[str, Any], changes: dict[str, Any]) -> None:
        """A record with some fields changed is the one that attrs makes, and the other stays as it was."""
        record, same = evolve(task(), **before), evolve(task(), **before)
        found, expected = record.evolved(**changes), evolve(record, **changes)
        self.assertEqual((found, repr(found), hash(found)), (expected, repr(expected), hash(expected)))
        self.assertEqual((type(found), vars(found)), (Task, vars(expected)))
        self.assertEqual(record, same)
        self.assertEqual(Task.of_fields(vars(found)), expected)

    @settings(deadline=None, max_examples=examples(60))
    @given(st.fixed_dictionaries({}, optional=VALUES))
    def test_new(self, changes: dict[str, Any]) -> None:
        """A new record is the one with all its defaults, and stays so with whatever is changed in it."""
        given: dict[str, Any] = {
            "side": Side.RECEIVER,
            "peer": PEER,
            "task_id": "t",
            "description": "d",
            "created_at": START,
        }
        new, full = Task.new(**given), Task(**given, justification="A new task was created")
        self.assertEqual((new, repr(new), hash(new)), (full, repr(full), hash(full)))
        self.assertEqual(new.evolved(**changes), evolve(full, **changes))
        self.assertEqual(evolve(new, **changes), full.evolved(**changes))
        self.assertEqual(new != new.evolved(**changes), full != full.evolved(**changes))

    def test_no_such_field(self) -> None:
        """A field that there is not is refused, beside others too, and named."""
        for changes in ({"colour": 1}, {"attempt": 1, "colour": 1}, {"key": None}, {"_attempt": 1}, {"": 1}):
            error = self.assertRaises(TypeError, task().evolved, **changes)
            self.assertIn(repr([*changes][-1]), str(error))

    def test_all_fields(self) -> None:
        """A record is made of all of its fields, and of nothing else."""
        values = vars(task())
        for bad in (
            {},
            {name: value for name, value in values.items() if name != "attempt"},
            {**values, "colour": 1},
        ):
            self.assertRaises(TypeError, Task.of_fields, bad)

    def test_frozen(self) -> None:
        """A record that was made of another cannot be changed, nor does it change with what it was made of."""
        values = dict(vars(task()))
        record = Task.of_fields(values)
        values["attempt"] = 7
        self.assertEqual(record.attempt, 0)
        with self.assertRaises(FrozenInstanceError):
            record.attempt = 7  # type: ignore[misc]  # that is the point
