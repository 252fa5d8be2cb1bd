"""What a task may do next: statuses, events, deadlines and the one table of transitions, for both sides.

This module is wire.md section 4 as data. Nothing else in the package decides which status may follow which, what a
change stamps, what it owes to whom, or when a task that nobody touches must move. Anything absent from `TRANSITIONS` is
not allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import Enum
from types import MappingProxyType

from attrs import field, frozen

from tasksubmit.errors import IllegalTransition
from tasksubmit.validation import COUNT, DURATION, FLAG

ACCEPT_TIMEOUT = timedelta(minutes=1)
"""The longest stay of a received task in NEW."""

QUEUE_HEAD_TIMEOUT = timedelta(hours=1)
"""The longest stay of a received task at the head of the queue."""

DELIVERY_TIMEOUT = timedelta(days=7)
"""Default delivery deadline of a submission, counted from its creation."""

DELIVERY_GRACE = timedelta(hours=1)
"""Minimum time of trying after a start before `DELIVERY_TIMEOUT` ends a task."""

ANSWER_TIMEOUT = timedelta(seconds=90)
"""Default time after which a submitter cancels a delivered task that is still NEW: it may never be notified."""

RESULT_TIMEOUT = timedelta(days=7)
"""Default time that a submitter waits for the results of a peer without ``ack``, which sends them only once."""

NEWS_TIMEOUT = timedelta(days=30)
"""The longest time without any news of a submitted task, after which the submitter cancels it."""

SILENCE_TIMEOUT = timedelta(hours=1)
"""How long a submitter hears nothing of an open task before it asks the receiver how the task stands."""

LEASE = timedelta(days=1)
"""The longest execution without progress, unless its executor says otherwise."""

HOLD_LIMIT = timedelta(days=7)
"""The longest time that a received task is held because its submitter is not trusted."""


WITHDRAWN_BY_RECEIVER = "withdrawn_by_receiver"
"""The outcome of a task that its receiver accepted, and declined before it started it."""


class TaskStatus(str, Enum):
    """Where a task stands; the values are the words on the wire."""

    NEW = "NEW"
    ACCEPTED = "ACCEPTED"
    DECLINED = "DECLINED"
    EXECUTING = "EXECUTING"
    COMPLETED = "COMPLETED"
    SUCCEEDED = "SUCCEEDED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def is_final(self) -> bool:
        """Whether nothing can follow."""
        return self in _FINAL

    __str__ = str.__str__
    __hash__ = str.__hash__  # as that of what it equals; an enumeration's own is of the name, and slow


_OPEN = (TaskStatus.NEW, TaskStatus.ACCEPTED, TaskStatus.EXECUTING)
_FINAL = frozenset({TaskStatus.DECLINED, TaskStatus.CANCELLED, TaskStatus.EXPIRED, TaskStatus.SUCCEEDED})


class Side(str, Enum):
    """Whose record of a task: each side keeps its own."""

    RECEIVER = "receiver"
    SUBMITTER = "submitter"

    __str__ = str.__str__
    __hash__ = str.__hash__


class Event(Enum):
    """What can happen to a task. A ``HEAR_`` event is the receiver's word as it reaches the submitter."""

    SUBMIT = "submit"
    # the receiver's record
    ACCEPT = "accept"
    DECLINE = "decline"
    EXECUTE = "execute"
    PROGRESS = "report progress"
    PUT_BACK = "be put back"
    RUN_AGAIN = "be put back, its lease lost"
    TAKE_AGAIN = "be taken again"
    HOLD = "be held"
    REJOIN = "rejoin the queue"
    FAIL = "fail"
    COMPLETE = "complete"
    DELIVER = "deliver results"
    CANCEL = "cancel"
    TIME_OUT_ACCEPT = "pass the accept deadline"
    TIME_OUT_QUEUE_HEAD = "wait too long at the head of the queue"
    TIME_OUT_LEASE = "lose the lease"
    TIME_OUT_HOLD = "be held too long"
    PASS_DEADLINE = "pass its deadline"
    DELIVER_LATE = "deliver results too late"
    # the submitter's record
    REFUSE = "be refused"
    HEAR_ACCEPTED = "hear ACCEPTED"
    HEAR_DECLINED = "hear DECLINED"
    HEAR_EXECUTING = "hear EXECUTING"
    HEAR_CANCELLED = "hear CANCELLED"
    HEAR_EXPIRED = "hear EXPIRED"
    HEAR_COMPLETED = "hear COMPLETED in an answer"
    HEAR_SUCCEEDED = "hear SUCCEEDED"
    RECEIVE_RESULTS = "receive results"
    REQUEST_CANCEL = "ask for cancellation"
    TIME_OUT_DELIVERY = "pass the delivery deadline"
    TIME_OUT_ANSWER = "pass the answer deadline"
    TIME_OUT_RESULTS = "pass the deadline of its results"
    TIME_OUT_CANCEL = "pass the deadline of its cancellation"
    CONFIRM_CANCEL = "be withdrawn"
    WITHDRAW = "be withdrawn without an answer"
    LOSE = "be lost by the receiver"
    ASK_AGAIN = "be asked after"
    QUERY_UNDECIDED = "be asked after, the answer deadline passed"


class Stamp(Enum):
    """What a change writes into the record besides the status; `Task.advanced` knows how."""

    ACCEPTED = "accepted_at, time_idle_ms"
    EXECUTE_STARTED = "execute_started_at, time_staged_ms, attempt 1"
    STAGED = "time_staged_ms"
    LEASED = "lease_expires_at, no put_back_at, no held_at"
    PUT_BACK = "attempt + 1, put_back_at, no lease_expires_at"
    STARTED_AGAIN = "execute_started_at"
    HELD = "held_at, no staged_at"
    REJOINED = "no held_at, put_back_at if it was put back"
    RELEASED = "attempt - 1 if it was put back, no lease_expires_at, no put_back_at, no held_at"
    COMPLETED = "completed_at, time_cpu_ms"
    CANCEL_REQUESTED = "cancel_requested_at, cancel_outcome"
    WITHDRAWN = "outcome: that of the first request"
    SUCCEEDED_HEARD = "succeeded_heard"
    ASKED = "heard_at"
    UNDECIDED = "no undecided_since: the answer to a query decides"


class Effect(Enum):
    """What a change brings about in the same commit, beyond its own record."""

    OWE_SUBMISSION = "the submission is to be sent to the receiver"
    OWE_CANCELLATION = "CANCELLED is to be sent to the receiver"
    DROP_PENDING = "what is pending for the task is not sent any more"
    OWE_RESULTS = "the results are to be sent to the submitter"
    NOTIFY_SUBMITTER = "the new status is to be sent to the submitter"
    TELL_PROGRESS = "EXECUTING is to be sent again, in place of an earlier one that waits"
    BOOK_REWARD = "the submitter's score -1, the receiver's + reward"
    BOOK_EXPIRY = "the receiver's score -1"


@frozen
class Transition:
    """The consequences of an event. `outcome` is the word that tells programs why a task ends (wire.md, section 6).

    An event that requests a cancellation leaves the task open: its word is kept until the task is withdrawn.
    """

    target: TaskStatus
    stamps: tuple[Stamp, ...] = ()
    effects: tuple[Effect, ...] = ()
    outcome: str = ""


def _receiver_table() -> dict[tuple[TaskStatus | None, Event], Transition]:
    new, accepted, executing = TaskStatus.NEW, TaskStatus.ACCEPTED, TaskStatus.EXECUTING
    cancelled, completed = TaskStatus.CANCELLED, TaskStatus.COMPLETED
    decided, staged, released = (Stamp.ACCEPTED,), (Stamp.STAGED,), (Stamp.RELEASED,)
    tell = (Effect.NOTIFY_SUBMITTER,)
    tell_progress = (Effect.TELL_PROGRESS,)
    return {
        (None, Event.SUBMIT): Transition(new),
        (new, Event.ACCEPT): Transition(accepted, decided, tell),
        (new, Event.DECLINE): Transition(TaskStatus.DECLINED, decided, tell),
        (new, Event.TIME_OUT_ACCEPT): Transition(cancelled, decided, tell, "accept_timeout"),
        (new, Event.PASS_DEADLINE): Transition(cancelled, decided, tell, "deadline_passed"),
        # The submitter's own word is its outcome.
        (new, Event.CANCEL): Transition(cancelled, decided),
        (accepted, Event.EXECUTE): Transition(executing, (Stamp.EXECUTE_STARTED, Stamp.LEASED), tell),
        (accepted, Event.TIME_OUT_QUEUE_HEAD): Transition(
            TaskStatus.EXPIRED, (*staged, *released), (Effect.NOTIFY_SUBMITTER, Effect.BOOK_EXPIRY), "expired"
        ),
        (accepted, Event.PASS_DEADLINE): Transition(cancelled, released, tell, "deadline_passed"),
        (accepted, Event.DECLINE): Transition(cancelled, released, tell, WITHDRAWN_BY_RECEIVER),
        (accepted, Event.TIME_OUT_HOLD): Transition(cancelled, released, tell, WITHDRAWN_BY_RECEIVER),
        (accepted, Event.CANCEL): Transition(cancelled, released),
        (accepted, Event.HOLD): Transition(accepted, (Stamp.HELD,)),
        (accepted, Event.REJOIN): Transition(accepted, (Stamp.REJOINED,)),
        (executing, Event.PROGRESS): Transition(executing, (Stamp.LEASED,), tell_progress),
        (executing, Event.PUT_BACK): Transition(executing, (Stamp.PUT_BACK,), tell_progress),
        (executing, Event.RUN_AGAIN): Transition(executing, (Stamp.PUT_BACK,), tell_progress),
        (executing, Event.TAKE_AGAIN): Transition(executing, (Stamp.STARTED_AGAIN, Stamp.LEASED), tell_progress),
        # Only while it waits to be begun again.
        (executing, Event.HOLD): Transition(executing, (Stamp.HELD,)),
        (executing, Event.REJOIN): Transition(executing, (Stamp.REJOINED,)),
        (executing, Event.TIME_OUT_HOLD): Transition(cancelled, released, tell, "lease_expired"),
        (executing, Event.CANCEL): Transition(cancelled, released),
        (executing, Event.FAIL): Transition(cancelled, released, tell, "failed"),
        (executing, Event.TIME_OUT_LEASE): Transition(cancelled, released, tell, "lease_expired"),
        (executing, Event.COMPLETE): Transition(completed, (*released, Stamp.COMPLETED), (Effect.OWE_RESULTS,)),
        (completed, Event.DELIVER): Transition(TaskStatus.SUCCEEDED, (), (Effect.NOTIFY_SUBMITTER, Effect.BOOK_REWARD)),
        (completed, Event.DELIVER_LATE): Transition(TaskStatus.SUCCEEDED, (), (), "late"),
    }


def _submitter_table() -> dict[tuple[TaskStatus | None, Event], Transition]:
    new, accepted, executing, completed = *_OPEN, TaskStatus.COMPLETED
    cancelled, declined = TaskStatus.CANCELLED, TaskStatus.DECLINED
    drop = (Effect.DROP_PENDING,)
    # After the request no submission is sent that could start work.
    request = (Effect.DROP_PENDING, Effect.OWE_CANCELLATION)
    table: dict[tuple[TaskStatus | None, Event], Transition] = {
        (None, Event.SUBMIT): Transition(new, (), (Effect.OWE_SUBMISSION,)),
        (new, Event.REFUSE): Transition(declined, (), drop, "refused"),
        (new, Event.HEAR_DECLINED): Transition(declined, (), drop),
        (new, Event.HEAR_ACCEPTED): Transition(accepted),
        (new, Event.HEAR_COMPLETED): Transition(executing),
        (accepted, Event.HEAR_COMPLETED): Transition(executing),
        # Nobody has decided on it: a peer with `ack` is asked first, and the answer decides.
        (new, Event.TIME_OUT_DELIVERY): Transition(new, (Stamp.CANCEL_REQUESTED,), request, "undelivered"),
        (new, Event.TIME_OUT_ANSWER): Transition(new, (Stamp.CANCEL_REQUESTED,), request, "answer_timeout"),
        (new, Event.QUERY_UNDECIDED): Transition(new, (Stamp.ASKED, Stamp.UNDECIDED), (Effect.OWE_SUBMISSION,)),
        (completed, Event.HEAR_SUCCEEDED): Transition(TaskStatus.SUCCEEDED),
    }
    for status in _OPEN:
        # The receiver's word may skip steps, and EXECUTING may be said again with progress.
        table[status, Event.HEAR_EXECUTING] = Transition(executing)
        table[status, Event.HEAR_CANCELLED] = Transition(cancelled, (), drop)
        table[status, Event.HEAR_EXPIRED] = Transition(TaskStatus.EXPIRED, (), (*drop, Effect.BOOK_EXPIRY), "expired")
        table[status, Event.RECEIVE_RESULTS] = Transition(completed, (), (*drop, Effect.BOOK_REWARD))
        # A SUCCEEDED that overtook the results is remembered until they come.
        table[status, Event.HEAR_SUCCEEDED] = Transition(status, (Stamp.SUCCEEDED_HEARD,))
        # Cancelling is a request: the record ends only when the receiver answered, or never can.
        for event, word in (
            (Event.REQUEST_CANCEL, "cancelled_by_submitter"),
            (Event.TIME_OUT_RESULTS, "result_timeout"),
        ):
            table[status, event] = Transition(status, (Stamp.CANCEL_REQUESTED,), request, word)
        for event in (Event.CONFIRM_CANCEL, Event.WITHDRAW, Event.TIME_OUT_CANCEL):
            table[status, event] = Transition(cancelled, (Stamp.WITHDRAWN,), drop)
        table[status, Event.LOSE] = Transition(cancelled, (), drop, "lost")
        # A repeated submission is the question how the task stands (section 6).
        table[status, Event.ASK_AGAIN] = Transition(status, (Stamp.ASKED,), (Effect.OWE_SUBMISSION,))
    return table


TRANSITIONS: Mapping[tuple[Side, TaskStatus | None, Event], Transition] = MappingProxyType(
    {(Side.RECEIVER, status, event): transition for (status, event), transition in _receiver_table().items()}
    | {(Side.SUBMITTER, status, event): transition for (status, event), transition in _submitter_table().items()}
)
"""Every allowed step: (whose record, its status, what happens) to where it leads."""


CANCELLATION_REQUESTS = frozenset(
    event for (_, _, event), transition in TRANSITIONS.items() if Stamp.CANCEL_REQUESTED in transition.stamps
)
"""The events by which a submitter asks for a task to be cancelled."""


def advance(side: Side, status: TaskStatus | None, event: Event) -> Transition:
    """Look up where `event` leads a task of `side` in ``status`` (``None``: there is no record yet).

    :raises IllegalTransition: when the table has no such step; nothing changes.
    """
    try:
        return TRANSITIONS[side, status, event]
    except KeyError:
        where = f"it is {status}" if status else "there is no such task"
        raise IllegalTransition(f"the task cannot {event.value}: {where} in the {side}'s record") from None


HEARD: Mapping[str, Event] = MappingProxyType(
    {
        "ACCEPTED": Event.HEAR_ACCEPTED,
        "DECLINED": Event.HEAR_DECLINED,
        "EXECUTING": Event.HEAR_EXECUTING,
        "SUCCEEDED": Event.HEAR_SUCCEEDED,
        "CANCELLED": Event.HEAR_CANCELLED,
        "EXPIRED": Event.HEAR_EXPIRED,
    }
)
"""What a submitter hears when the receiver says a status. NEW and COMPLETED say nothing: results say COMPLETED."""

ANSWERED: Mapping[str, Event] = MappingProxyType({**HEARD, "COMPLETED": Event.HEAR_COMPLETED})
"""The same, when the receiver says it in an answer: there COMPLETED says that the results are pending."""

ENDED_WITHOUT_RESULTS = frozenset(
    status.value for status in (TaskStatus.DECLINED, TaskStatus.CANCELLED, TaskStatus.EXPIRED)
)
"""The words of the statuses that end a task on both sides, without results."""

RECEIVER_OUTCOMES = frozenset(
    {"accept_timeout", "deadline_passed", "failed", "lease_expired", "expired", WITHDRAWN_BY_RECEIVER}
)
"""The outcomes that receivers report (wire.md, section 6)."""

SUBMITTER_OUTCOMES = frozenset({"cancelled_by_submitter", "answer_timeout", "result_timeout", "undelivered"})
"""The outcomes that submitters report; no receiver does. The words of both tell whose record an update is about."""

_BY_SUBMITTER = (Event.SUBMIT, Event.CANCEL, Event.REQUEST_CANCEL, Event.DELIVER, Event.WITHDRAW)
_BY_TIME = (
    Event.PASS_DEADLINE,
    Event.ASK_AGAIN,
    Event.QUERY_UNDECIDED,
    Event.RUN_AGAIN,
    *(event for event in Event if event.name.startswith("TIME_OUT_")),
)

DECIDED_BY: Mapping[Event, str] = MappingProxyType(
    {event: "submitter" if event in _BY_SUBMITTER else "time" if event in _BY_TIME else "receiver" for event in Event}
)
"""Whose doing an event is: ``submitter``, ``receiver`` or ``time``."""


@frozen(kw_only=True)
class Deadline:
    """A task of `side` in one of `statuses` whose time in the column `since` is over a limit ago meets `event`.

    `timeout` names the setting that is the limit; empty when the column holds the deadline itself. `reason` is what the
    record and the other side are told, if anything. A column that is not set never falls due (``staged_at`` is set on
    the head of the queue alone), nor does a task in which one of the columns `unless` is set. A task that has one of
    the properties in `instead` meets the event beside the first of them, in place of `event`. One that `needs_hearing`
    waits for somebody to act: to a node that was just started nobody can have said anything yet, so it waits for as
    long again. None falls due within `grace` of a start.
    """

    side: Side
    statuses: tuple[TaskStatus, ...]
    since: str
    event: Event
    reason: str = ""
    timeout: str = ""
    unless: tuple[str, ...] = ()
    instead: tuple[tuple[str, Event], ...] = ()
    needs_hearing: bool = False
    grace: timedelta = timedelta(0)


UNDELIVERED_REASON = "The submission could not be delivered by its deadline"
UNDECIDED_REASON = "The receiver did not decide in time"

LEASE_LOST = Deadline(
    side=Side.RECEIVER,
    statuses=(TaskStatus.EXECUTING,),
    since="lease_expires_at",
    event=Event.TIME_OUT_LEASE,
    instead=(("has_attempts_left", Event.RUN_AGAIN),),
    reason="Whoever executed the task was not heard of in time",
)
"""The end of an execution that nobody ends; whatever runs has the column."""

ASK_AGAIN = Deadline(
    side=Side.SUBMITTER,
    statuses=_OPEN,
    since="heard_at",
    timeout="silence_timeout",
    event=Event.ASK_AGAIN,
)
"""How a submitter catches up. After a restart it holds for whatever was not heard of since."""

DEADLINES = (
    # First, so that an end which costs nobody's score wins over one that does.
    Deadline(
        side=Side.RECEIVER,
        statuses=(TaskStatus.NEW, TaskStatus.ACCEPTED),
        since="expires_at",
        event=Event.PASS_DEADLINE,
        reason="The task was not begun by its deadline",
    ),
    Deadline(
        side=Side.RECEIVER,
        statuses=(TaskStatus.NEW,),
        since="created_at",
        timeout="accept_timeout",
        event=Event.TIME_OUT_ACCEPT,
        reason="The task was not accepted in time",
    ),
    Deadline(
        side=Side.RECEIVER,
        statuses=(TaskStatus.ACCEPTED,),
        since="staged_at",
        timeout="queue_head_timeout",
        event=Event.TIME_OUT_QUEUE_HEAD,
        reason="The task was at the head of the queue for too long",
    ),
    LEASE_LOST,
    Deadline(
        side=Side.RECEIVER,
        statuses=(TaskStatus.EXECUTING,),
        since="put_back_at",
        timeout="queue_head_timeout",
        event=Event.TIME_OUT_LEASE,
        unless=("held_at",),
        reason="The task was put back, and not taken again in time",
        needs_hearing=True,
    ),
    Deadline(
        side=Side.RECEIVER,
        statuses=(TaskStatus.ACCEPTED, TaskStatus.EXECUTING),
        since="held_at",
        timeout="hold_limit",
        event=Event.TIME_OUT_HOLD,
        reason="The task was held for too long because its submitter was not trusted",
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=(TaskStatus.NEW,),
        since="deliver_by",
        event=Event.TIME_OUT_DELIVERY,
        unless=("cancel_requested_at",),
        instead=(("is_refused", Event.REFUSE),),
        reason=UNDELIVERED_REASON,
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=(TaskStatus.NEW,),
        since="created_at",
        timeout="delivery_timeout",
        event=Event.TIME_OUT_DELIVERY,
        unless=("cancel_requested_at", "answered_at", "deliver_by"),
        instead=(("is_refused", Event.REFUSE),),
        reason=UNDELIVERED_REASON,
        grace=DELIVERY_GRACE,
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=(TaskStatus.NEW,),
        since="undecided_since",
        timeout="answer_timeout",
        event=Event.TIME_OUT_ANSWER,
        unless=("cancel_requested_at",),
        instead=(("can_be_queried", Event.QUERY_UNDECIDED),),
        needs_hearing=True,
        reason=UNDECIDED_REASON,
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=_OPEN,
        since="result_due_at",
        event=Event.TIME_OUT_RESULTS,
        unless=("cancel_requested_at",),
        reason="The results did not arrive by their deadline",
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=_OPEN,
        since="news_at",
        timeout="news_timeout",
        event=Event.TIME_OUT_RESULTS,
        unless=("cancel_requested_at",),
        reason="The receiver reported nothing new for too long",
    ),
    Deadline(
        side=Side.SUBMITTER,
        statuses=_OPEN,
        since="cancel_ends_at",
        event=Event.TIME_OUT_CANCEL,
        reason="The task was completed before it could be cancelled, but its results did not arrive",
    ),
    ASK_AGAIN,
)
"""Everything that happens to a task because time passed."""


@frozen
class Timeouts:
    """The limits that `DEADLINES` names."""

    accept_timeout: timedelta = field(default=ACCEPT_TIMEOUT, validator=DURATION)
    queue_head_timeout: timedelta = field(default=QUEUE_HEAD_TIMEOUT, validator=DURATION)
    answer_timeout: timedelta = field(default=ANSWER_TIMEOUT, validator=DURATION)
    silence_timeout: timedelta = field(default=SILENCE_TIMEOUT, validator=DURATION)
    delivery_timeout: timedelta = field(default=DELIVERY_TIMEOUT, validator=DURATION)
    result_timeout: timedelta = field(default=RESULT_TIMEOUT, validator=DURATION)
    news_timeout: timedelta = field(default=NEWS_TIMEOUT, validator=DURATION)
    hold_limit: timedelta = field(default=HOLD_LIMIT, validator=DURATION)

    def limit(self, deadline: Deadline) -> timedelta:
        """How long after ``deadline.since`` it falls due."""
        return getattr(self, deadline.timeout) if deadline.timeout else timedelta(0)


@frozen
class Lease:
    """What an executor declares when it begins a task (section 4).

    :ivar duration: the longest time without progress.
    :ivar max_attempts: how often the task is begun; after the last one a lost lease cancels it.
    :ivar ends_with_node: the work does not outlive the node: a start finds its lease run out.
    """

    duration: timedelta = field(default=LEASE, validator=DURATION)
    max_attempts: int = field(default=1, validator=COUNT)
    ends_with_node: bool = field(default=False, validator=FLAG)
