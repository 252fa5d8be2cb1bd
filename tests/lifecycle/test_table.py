"""The table of transitions: what wire.md section 4 says, row by row, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import IllegalTransition
from tasksubmit.lifecycle.table import (
    ANSWERED,
    ASK_AGAIN,
    CANCELLATION_REQUESTS,
    DEADLINES,
    DECIDED_BY,
    HEARD,
    LEASE_LOST,
    RECEIVER_OUTCOMES,
    SUBMITTER_OUTCOMES,
    TRANSITIONS,
    Effect,
    Event,
    Side,
    Stamp,
    TaskStatus,
    Timeouts,
    advance,
)
from tasksubmit.lifecycle.task import Task

HOLDING = (Event.HOLD, Event.REJOIN)

# from | event | to | stamps | effects | outcome
RECEIVER = """
 -         | SUBMIT              | NEW       |                        |                              |
 NEW       | ACCEPT              | ACCEPTED  | ACCEPTED               | NOTIFY_SUBMITTER             |
 NEW       | DECLINE             | DECLINED  | ACCEPTED               | NOTIFY_SUBMITTER             |
 NEW       | TIME_OUT_ACCEPT     | CANCELLED | ACCEPTED               | NOTIFY_SUBMITTER             | accept_timeout
 NEW       | PASS_DEADLINE       | CANCELLED | ACCEPTED               | NOTIFY_SUBMITTER             | deadline_passed
 NEW       | CANCEL              | CANCELLED | ACCEPTED               |                              |
 ACCEPTED  | EXECUTE             | EXECUTING | EXECUTE_STARTED LEASED | NOTIFY_SUBMITTER             |
 ACCEPTED  | TIME_OUT_QUEUE_HEAD | EXPIRED   | STAGED RELEASED        | NOTIFY_SUBMITTER BOOK_EXPIRY | expired
 ACCEPTED  | PASS_DEADLINE       | CANCELLED | RELEASED               | NOTIFY_SUBMITTER             | deadline_passed
 ACCEPTED  | DECLINE             | CANCELLED | RELEASED               | NOTIFY_SUBMITTER       | withdrawn_by_receiver
 ACCEPTED  | TIME_OUT_HOLD       | CANCELLED | RELEASED               | NOTIFY_SUBMITTER       | withdrawn_by_receiver
 ACCEPTED  | CANCEL              | CANCELLED | RELEASED               |                              |
 ACCEPTED  | HOLD                | ACCEPTED  | HELD                   |                              |
 ACCEPTED  | REJOIN              | ACCEPTED  | REJOINED               |                              |
 EXECUTING | PROGRESS            | EXECUTING | LEASED                 | TELL_PROGRESS                |
 EXECUTING | PUT_BACK            | EXECUTING | PUT_BACK               | TELL_PROGRESS                |
 EXECUTING | RUN_AGAIN           | EXECUTING | PUT_BACK               | TELL_PROGRESS                |
 EXECUTING | TAKE_AGAIN          | EXECUTING | STARTED_AGAIN LEASED   | TELL_PROGRESS                |
 EXECUTING | HOLD                | EXECUTING | HELD                   |                              |
 EXECUTING | REJOIN              | EXECUTING | REJOINED               |                              |
 EXECUTING | TIME_OUT_HOLD       | CANCELLED | RELEASED               | NOTIFY_SUBMITTER             | lease_expired
 EXECUTING | CANCEL              | CANCELLED | RELEASED               |                              |
 EXECUTING | FAIL                | CANCELLED | RELEASED               | NOTIFY_SUBMITTER             | failed
 EXECUTING | TIME_OUT_LEASE      | CANCELLED | RELEASED               | NOTIFY_SUBMITTER             | lease_expired
 EXECUTING | COMPLETE            | COMPLETED | RELEASED COMPLETED     | OWE_RESULTS                  |
 COMPLETED | DELIVER             | SUCCEEDED |                        | NOTIFY_SUBMITTER BOOK_REWARD |
 COMPLETED | DELIVER_LATE        | SUCCEEDED |                        |                              | late
"""

SUBMITTER = """
 -         | SUBMIT            | NEW       |                  | OWE_SUBMISSION                |
 NEW       | REFUSE            | DECLINED  |                  | DROP_PENDING                  | refused
 NEW       | HEAR_DECLINED     | DECLINED  |                  | DROP_PENDING                  |
 NEW       | HEAR_ACCEPTED     | ACCEPTED  |                  |                               |
 NEW       | HEAR_COMPLETED    | EXECUTING |                  |                               |
 ACCEPTED  | HEAR_COMPLETED    | EXECUTING |                  |                               |
 NEW       | TIME_OUT_DELIVERY | NEW       | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | undelivered
 NEW       | TIME_OUT_ANSWER   | NEW       | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | answer_timeout
 NEW       | QUERY_UNDECIDED   | NEW       | ASKED UNDECIDED  | OWE_SUBMISSION                |
 COMPLETED | HEAR_SUCCEEDED    | SUCCEEDED |                  |                               |
 NEW       | HEAR_EXECUTING    | EXECUTING |                  |                               |
 NEW       | HEAR_CANCELLED    | CANCELLED |                  | DROP_PENDING                  |
 NEW       | HEAR_EXPIRED      | EXPIRED   |                  | DROP_PENDING BOOK_EXPIRY      | expired
 NEW       | RECEIVE_RESULTS   | COMPLETED |                  | DROP_PENDING BOOK_REWARD      |
 NEW       | HEAR_SUCCEEDED    | NEW       | SUCCEEDED_HEARD  |                               |
 NEW       | REQUEST_CANCEL    | NEW       | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | cancelled_by_submitter
 NEW       | TIME_OUT_RESULTS  | NEW       | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | result_timeout
 NEW       | CONFIRM_CANCEL    | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 NEW       | WITHDRAW          | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 NEW       | TIME_OUT_CANCEL   | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 NEW       | LOSE              | CANCELLED |                  | DROP_PENDING                  | lost
 NEW       | ASK_AGAIN         | NEW       | ASKED            | OWE_SUBMISSION                |
 ACCEPTED  | HEAR_EXECUTING    | EXECUTING |                  |                               |
 ACCEPTED  | HEAR_CANCELLED    | CANCELLED |                  | DROP_PENDING                  |
 ACCEPTED  | HEAR_EXPIRED      | EXPIRED   |                  | DROP_PENDING BOOK_EXPIRY      | expired
 ACCEPTED  | RECEIVE_RESULTS   | COMPLETED |                  | DROP_PENDING BOOK_REWARD      |
 ACCEPTED  | HEAR_SUCCEEDED    | ACCEPTED  | SUCCEEDED_HEARD  |                               |
 ACCEPTED  | REQUEST_CANCEL    | ACCEPTED  | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | cancelled_by_submitter
 ACCEPTED  | TIME_OUT_RESULTS  | ACCEPTED  | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | result_timeout
 ACCEPTED  | CONFIRM_CANCEL    | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 ACCEPTED  | WITHDRAW          | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 ACCEPTED  | TIME_OUT_CANCEL   | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 ACCEPTED  | LOSE              | CANCELLED |                  | DROP_PENDING                  | lost
 ACCEPTED  | ASK_AGAIN         | ACCEPTED  | ASKED            | OWE_SUBMISSION                |
 EXECUTING | HEAR_EXECUTING    | EXECUTING |                  |                               |
 EXECUTING | HEAR_CANCELLED    | CANCELLED |                  | DROP_PENDING                  |
 EXECUTING | HEAR_EXPIRED      | EXPIRED   |                  | DROP_PENDING BOOK_EXPIRY      | expired
 EXECUTING | RECEIVE_RESULTS   | COMPLETED |                  | DROP_PENDING BOOK_REWARD      |
 EXECUTING | HEAR_SUCCEEDED    | EXECUTING | SUCCEEDED_HEARD  |                               |
 EXECUTING | REQUEST_CANCEL    | EXECUTING | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | cancelled_by_submitter
 EXECUTING | TIME_OUT_RESULTS  | EXECUTING | CANCEL_REQUESTED | DROP_PENDING OWE_CANCELLATION | result_timeout
 EXECUTING | CONFIRM_CANCEL    | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 EXECUTING | WITHDRAW          | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 EXECUTING | TIME_OUT_CANCEL   | CANCELLED | WITHDRAWN        | DROP_PENDING                  |
 EXECUTING | LOSE              | CANCELLED |                  | DROP_PENDING                  | lost
 EXECUTING | ASK_AGAIN         | EXECUTING | ASKED            | OWE_SUBMISSION                |
"""

STATUSES: tuple[TaskStatus | None, ...] = (None, *TaskStatus)

# How far a task has come; no event may lead back.
ORDER = {None: 0, "NEW": 1, "ACCEPTED": 2, "EXECUTING": 3, "COMPLETED": 4}


def written(text: str) -> list[tuple[str, ...]]:
    """The rows of a table above."""
    return [tuple(cell.strip() for cell in line.split("|")) for line in text.strip("\n").splitlines()]


def rows(side: Side) -> list[tuple[str, ...]]:
    """The rows of the real table, in the same form."""
    return [
        (
            status.value if status else "-",
            event.name,
            transition.target.value,
            " ".join(stamp.name for stamp in transition.stamps),
            " ".join(effect.name for effect in transition.effects),
            transition.outcome,
        )
        for (owner, status, event), transition in TRANSITIONS.items()
        if owner is side
    ]


def reached(side: Side, start: TaskStatus | None) -> set[TaskStatus | None]:
    """Every status that can come after `start`, itself included."""
    found = {start}
    while more := {
        transition.target
        for (owner, status, _), transition in TRANSITIONS.items()
        if owner is side and status in found and transition.target not in found
    }:
        found |= more
    return found


class TableTests(SynchronousTestCase):
    """The table as it is."""

    maxDiff = None

    def test_receiver(self) -> None:
        """The receiver's rows are those of the protocol's description."""
        self.assertEqual(sorted(rows(Side.RECEIVER)), sorted(written(RECEIVER)))

    def test_submitter(self) -> None:
        """The submitter's rows are those of the protocol's description."""
        self.assertEqual(sorted(rows(Side.SUBMITTER)), sorted(written(SUBMITTER)))

    def test_absent_is_illegal(self) -> None:
        """Whatever pair of status and event the table lacks raises `IllegalTransition`, and the rest does not."""
        allowed = {(Side.RECEIVER, *row[:2]) for row in written(RECEIVER)}
        allowed |= {(Side.SUBMITTER, *row[:2]) for row in written(SUBMITTER)}
        refused = 0
        for side in Side:
            for status in STATUSES:
                for event in Event:
                    if (side, status.value if status else "-", event.name) in allowed:
                        self.assertIs(advance(side, status, event), TRANSITIONS[side, status, event])
                    else:
                        refused += 1
                        with self.assertRaises(IllegalTransition):
                            advance(side, status, event)
        self.assertEqual(refused, 2 * len(STATUSES) * len(Event) - len(allowed))

    def test_refusal_in_words(self) -> None:
        """A refused step says what cannot happen, to a task in which status, in whose record."""
        error = self.assertRaises(IllegalTransition, advance, Side.RECEIVER, TaskStatus.SUCCEEDED, Event.CANCEL)
        self.assertEqual(str(error), "the task cannot cancel: it is SUCCEEDED in the receiver's record")
        error = self.assertRaises(IllegalTransition, advance, Side.SUBMITTER, None, Event.HEAR_ACCEPTED)
        self.assertEqual(str(error), "the task cannot hear ACCEPTED: there is no such task in the submitter's record")

    def test_every_status_is_reached(self) -> None:
        """On either side every status can come about."""
        for side in Side:
            self.assertEqual(reached(side, None), set(STATUSES))

    def test_every_task_can_end(self) -> None:
        """From every status a final one can be reached."""
        for side in Side:
            for status in STATUSES:
                self.assertTrue(any(after and after.is_final for after in reached(side, status)), status)

    def test_final_is_final(self) -> None:
        """The four final statuses have no way out, and every other has."""
        self.assertEqual(
            {status.value for status in TaskStatus if status.is_final},
            {"DECLINED", "CANCELLED", "EXPIRED", "SUCCEEDED"},
        )
        for side in Side:
            for status in TaskStatus:
                self.assertEqual(reached(side, status) == {status}, status.is_final)

    def test_outcome_tells_every_end(self) -> None:
        """What the receiver ends without success or a refusal in words has an outcome, and nothing else has.

        A submitter that cancels sends its own word.
        """
        for (side, _, event), transition in TRANSITIONS.items():
            if side is Side.RECEIVER and event not in (Event.CANCEL, Event.DELIVER_LATE):
                ended = transition.target in (TaskStatus.CANCELLED, TaskStatus.EXPIRED)
                self.assertEqual(bool(transition.outcome), ended)
                self.assertIn(transition.outcome, RECEIVER_OUTCOMES | {""})

    def test_submitter_is_told(self) -> None:
        """The receiver tells every change that its submitter did not cause; COMPLETED is told by the results.

        That a task is held, it does not tell: the submitter is not trusted.
        """
        for (side, status, event), transition in TRANSITIONS.items():
            if side is Side.RECEIVER and status is not None:
                told = {Effect.NOTIFY_SUBMITTER, Effect.TELL_PROGRESS, Effect.OWE_RESULTS} & set(transition.effects)
                is_silent = event in (Event.CANCEL, Event.DELIVER_LATE, *HOLDING)
                self.assertEqual(bool(told), not is_silent, (status, event))

    def test_progress_is_told_within_a_status(self) -> None:
        """What may go in the place of an earlier message changes no status, and the rest always does."""
        for (side, status, event), transition in TRANSITIONS.items():
            if side is Side.RECEIVER and event not in HOLDING:
                self.assertEqual(Effect.TELL_PROGRESS in transition.effects, transition.target is status)

    def test_whatever_runs_has_a_lease(self) -> None:
        """Each way into execution leases it, and so does each sign of it; only what is put back has no lease.

        To be held, and to rejoin, is for what was put back.
        """
        for (side, _, event), transition in TRANSITIONS.items():
            if side is Side.RECEIVER and transition.target is TaskStatus.EXECUTING and event not in HOLDING:
                lease = Stamp.PUT_BACK if event in (Event.PUT_BACK, Event.RUN_AGAIN) else Stamp.LEASED
                self.assertIn(lease, transition.stamps)
                self.assertEqual(len({Stamp.PUT_BACK, Stamp.LEASED} & set(transition.stamps)), 1)

    def test_told_apart(self) -> None:
        """A step that two may cause is one and the same, whoever did it; the events tell them apart."""
        for side, one, other in (
            (Side.RECEIVER, Event.PUT_BACK, Event.RUN_AGAIN),
            (Side.SUBMITTER, Event.CONFIRM_CANCEL, Event.WITHDRAW),
        ):
            for status in STATUSES:
                same = TRANSITIONS.get((side, status, one))
                self.assertEqual(TRANSITIONS.get((side, status, other)), same, (status, one))
            self.assertNotEqual(DECIDED_BY[one], DECIDED_BY[other])
            self.assertNotEqual(one.value, other.value)

    def test_everything_is_used(self) -> None:
        """No event, stamp or effect is left over."""
        self.assertEqual({event for _, _, event in TRANSITIONS}, set(Event))
        self.assertEqual({stamp for step in TRANSITIONS.values() for stamp in step.stamps}, set(Stamp))
        self.assertEqual({effect for step in TRANSITIONS.values() for effect in step.effects}, set(Effect))

    def test_table_is_constant(self) -> None:
        """Nobody can change the rules at run time."""
        with self.assertRaises(TypeError):
            TRANSITIONS[Side.RECEIVER, TaskStatus.SUCCEEDED, Event.CANCEL] = advance(  # type: ignore[index]
                Side.RECEIVER, TaskStatus.NEW, Event.CANCEL
            )

    @settings(deadline=None)
    @given(st.sampled_from(Side), st.lists(st.sampled_from(Event), max_size=30))
    def test_any_sequence(self, side: Side, events: Sequence[Event]) -> None:
        """No sequence of events leads elsewhere than the written rows, back, or out of a final status."""
        steps = {(row[0], row[1]): row[2] for row in written(RECEIVER if side is Side.RECEIVER else SUBMITTER)}
        status: TaskStatus | None = None
        for event in events:
            expected = steps.get((status.value if status else "-", event.name))
            try:
                after = advance(side, status, event).target
            except IllegalTransition:
                self.assertIsNone(expected)
                continue
            self.assertEqual(after.value, expected)
            self.assertFalse(status is not None and status.is_final)
            if after.value in ORDER:
                self.assertGreaterEqual(ORDER[after.value], ORDER[status])
            status = after


class HeardTests(SynchronousTestCase):
    """What a submitter makes of the receiver's word."""

    def test_words(self) -> None:
        """Each status but NEW, which says nothing, and COMPLETED, which results say, is heard as the event so named."""
        self.assertEqual(
            {word: event.name for word, event in HEARD.items()},
            {word.value: f"HEAR_{word.value}" for word in TaskStatus if word.value not in ("NEW", "COMPLETED")},
        )

    def test_target(self) -> None:
        """A heard status, where it is allowed, leads to just that status; SUCCEEDED waits for the results."""
        for word, event in HEARD.items():
            for status in TaskStatus:
                transition = TRANSITIONS.get((Side.SUBMITTER, status, event))
                if transition is not None and Stamp.SUCCEEDED_HEARD not in transition.stamps:
                    self.assertEqual(transition.target.value, word)


class DeadlineTests(SynchronousTestCase):
    """The table of deadlines."""

    def names(self, values: Iterable[TaskStatus]) -> str:
        """Statuses as words."""
        return " ".join(status.value for status in values)

    def test_rows(self) -> None:
        """The deadlines are those of the protocol's description, the ones that cost nobody's score first."""
        open_statuses = "NEW ACCEPTED EXECUTING"
        self.assertEqual(
            [
                (row.side.value, self.names(row.statuses), row.since, row.timeout, row.event.name, " ".join(row.unless))
                for row in DEADLINES
            ],
            [
                ("receiver", "NEW ACCEPTED", "expires_at", "", "PASS_DEADLINE", ""),
                ("receiver", "NEW", "created_at", "accept_timeout", "TIME_OUT_ACCEPT", ""),
                ("receiver", "ACCEPTED", "staged_at", "queue_head_timeout", "TIME_OUT_QUEUE_HEAD", ""),
                ("receiver", "EXECUTING", "lease_expires_at", "", "TIME_OUT_LEASE", ""),
                ("receiver", "EXECUTING", "put_back_at", "queue_head_timeout", "TIME_OUT_LEASE", "held_at"),
                ("receiver", "ACCEPTED EXECUTING", "held_at", "hold_limit", "TIME_OUT_HOLD", ""),
                ("submitter", "NEW", "deliver_by", "", "TIME_OUT_DELIVERY", "cancel_requested_at"),
                (
                    *("submitter", "NEW", "created_at", "delivery_timeout", "TIME_OUT_DELIVERY"),
                    "cancel_requested_at answered_at deliver_by",
                ),
                ("submitter", "NEW", "undecided_since", "answer_timeout", "TIME_OUT_ANSWER", "cancel_requested_at"),
                ("submitter", open_statuses, "result_due_at", "", "TIME_OUT_RESULTS", "cancel_requested_at"),
                ("submitter", open_statuses, "news_at", "news_timeout", "TIME_OUT_RESULTS", "cancel_requested_at"),
                ("submitter", open_statuses, "cancel_ends_at", "", "TIME_OUT_CANCEL", ""),
                ("submitter", open_statuses, "heard_at", "silence_timeout", "ASK_AGAIN", ""),
            ],
        )

    def test_event_is_allowed(self) -> None:
        """Whatever falls due may happen in each status that the deadline is for."""
        for deadline in DEADLINES:
            for status in deadline.statuses:
                advance(deadline.side, status, deadline.event)
                for name, event in deadline.instead:
                    self.assertIn(name, dir(Task))
                    advance(deadline.side, status, event)

    def test_instead(self) -> None:
        """A lost lease has the task run again while it may; a refused task is declined; a peer with ack is queried."""
        self.assertEqual(
            {(row.since, *case) for row in DEADLINES for case in row.instead},
            {
                (LEASE_LOST.since, "has_attempts_left", Event.RUN_AGAIN),
                ("deliver_by", "is_refused", Event.REFUSE),
                ("created_at", "is_refused", Event.REFUSE),
                ("undecided_since", "can_be_queried", Event.QUERY_UNDECIDED),
            },
        )

    def test_grace(self) -> None:
        """After a start a submission is tried for an hour, unless it has a deadline of its own."""
        self.assertEqual(
            [(row.since, row.grace) for row in DEADLINES if row.grace], [("created_at", timedelta(hours=1))]
        )

    def test_requests(self) -> None:
        """A cancellation is requested by the submitter and by each of its deadlines, each with a word of its own."""
        words = {
            event: {transition.outcome for (_, _, other), transition in TRANSITIONS.items() if other is event}
            for event in CANCELLATION_REQUESTS
        }
        self.assertEqual(
            words,
            {
                Event.REQUEST_CANCEL: {"cancelled_by_submitter"},
                Event.TIME_OUT_DELIVERY: {"undelivered"},
                Event.TIME_OUT_ANSWER: {"answer_timeout"},
                Event.TIME_OUT_RESULTS: {"result_timeout"},
            },
        )
        self.assertEqual({word for found in words.values() for word in found}, SUBMITTER_OUTCOMES)
        self.assertEqual(SUBMITTER_OUTCOMES & RECEIVER_OUTCOMES, set())

    def test_needs_hearing(self) -> None:
        """After a restart those wait anew that somebody outside may end: an answer, and taking what was put back."""
        self.assertEqual(
            [(row.side.value, row.since, row.event.name) for row in DEADLINES if row.needs_hearing],
            [("receiver", "put_back_at", "TIME_OUT_LEASE"), ("submitter", "undecided_since", "TIME_OUT_ANSWER")],
        )

    def test_columns_exist(self) -> None:
        """Every column that a deadline names is a field of the record, and every limit a field of `Timeouts`."""
        task, limits = attrs.fields_dict(Task), attrs.fields_dict(Timeouts)
        for deadline in DEADLINES:
            self.assertIn(deadline.since, task)
            self.assertLessEqual(set(deadline.unless), set(task))
            self.assertIn(deadline.timeout or "accept_timeout", limits)
            self.assertEqual(bool(deadline.reason), deadline is not ASK_AGAIN)

    def test_limits(self) -> None:
        """The limits are a minute, hours and 90 seconds; a deadline that the record itself holds has none."""
        minute, hour, day = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
        self.assertEqual(
            [Timeouts().limit(deadline) for deadline in DEADLINES],
            [
                *(0 * day, minute, hour, 0 * day, hour, 7 * day),
                *(0 * day, 7 * day, timedelta(seconds=90), 0 * day, 30 * day, 0 * day, hour),
            ],
        )
        timeouts = Timeouts(day, 2 * day, 3 * day, 4 * day, 5 * day, 6 * day, 7 * day, 8 * day)
        self.assertEqual(
            [timeouts.limit(deadline) for deadline in DEADLINES],
            [
                *(0 * day, day, 2 * day, 0 * day, 2 * day, 8 * day),
                *(0 * day, 5 * day, 3 * day, 0 * day, 7 * day, 0 * day, 4 * day),
            ],
        )


class DecidedByTests(SynchronousTestCase):
    """Whose doing an event is."""

    def test_every_event(self) -> None:
        """Each event is somebody's doing: time's what only a deadline brings about, and else one of the parties'."""
        by: dict[str, set[str]] = {"submitter": set(), "receiver": set(), "time": set()}
        for event in Event:
            by[DECIDED_BY[event]].add(event.name)
        self.assertEqual(by["submitter"], {"SUBMIT", "CANCEL", "REQUEST_CANCEL", "DELIVER", "WITHDRAW"})
        self.assertEqual(
            by["time"],
            {
                *("PASS_DEADLINE", "TIME_OUT_ACCEPT", "TIME_OUT_QUEUE_HEAD", "TIME_OUT_LEASE"),
                *("TIME_OUT_HOLD", "TIME_OUT_DELIVERY", "TIME_OUT_ANSWER", "TIME_OUT_RESULTS", "TIME_OUT_CANCEL"),
                *("ASK_AGAIN", "QUERY_UNDECIDED", "RUN_AGAIN"),
            },
        )
        self.assertEqual(
            by["receiver"],
            {
                *("ACCEPT", "DECLINE", "EXECUTE", "PROGRESS", "PUT_BACK", "TAKE_AGAIN", "FAIL", "COMPLETE"),
                *("HOLD", "REJOIN", "REFUSE", "RECEIVE_RESULTS", "CONFIRM_CANCEL", "LOSE", "DELIVER_LATE"),
                *(event.name for event in ANSWERED.values()),
            },
        )

    def test_deadlines(self) -> None:
        """What only a deadline brings about is time's doing, and nothing else is."""
        events = {deadline.event for deadline in DEADLINES}
        events |= {event for deadline in DEADLINES for _, event in deadline.instead}
        events.discard(Event.REFUSE)
        self.assertEqual({event for event in Event if DECIDED_BY[event] == "time"}, events)
