"""The record of one task, as one side keeps it, and what a change stamps into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import NOTHING, Attribute, field, fields, frozen

from tasksubmit.lifecycle.table import (
    CANCELLATION_REQUESTS,
    DEADLINES,
    Deadline,
    Event,
    Side,
    Stamp,
    TaskStatus,
    Timeouts,
    Transition,
)
from tasksubmit.validation import FLAG, INTEGER, MOMENT, TEXT, Kind, checked, instance_of, optional, to_member, to_texts
from tasksubmit.wire.address import Address, to_address

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
END_OF_TIME = datetime.max.replace(tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


def from_milliseconds(milliseconds: int) -> datetime:
    """The aware UTC datetime so many milliseconds after 1970."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def to_milliseconds(when: datetime) -> int:
    """Milliseconds since 1970, rounded down."""
    return (when - _EPOCH) // _MILLISECOND


def milliseconds_between(start: datetime | None, end: datetime) -> int:
    """The duration in whole milliseconds; 0 when ``start`` is unset or the clock went back meanwhile."""
    return max(0, (end - start) // _MILLISECOND) if start else 0


# Spelt out where nothing is to be converted: there is a key for every look at a record.


def _to_side(value: Side | str) -> Side:
    return value if isinstance(value, Side) else to_member(value, "side", Side)


def _to_peer(value: Address | str) -> Address:
    return value if isinstance(value, Address) else to_address(value, "peer")


def _to_task_id(value: str) -> str:
    if not isinstance(value, str):
        TEXT.check("task_id", value)
    return value


@frozen(cache_hash=True)
class TaskKey:
    """Key of a task: whose record it is, who the other party is, and the id that the submitter made.

    :ivar side: or its word, ``receiver`` or ``submitter``.
    :ivar peer: or the string of its address.
    """

    side: Side = field(converter=_to_side)
    peer: Address = field(converter=_to_peer)
    task_id: str = field(converter=_to_task_id)


@frozen
class Reason:
    """The reason for a final status, as answers carry it beside the status (wire.md, section 6)."""

    outcome: str = ""
    error: str = ""
    justification: str = ""


NO_REASON = Reason()

_KINDS: Mapping[str, Kind[Any]] = {
    "Side": instance_of(Side),
    "Address": instance_of(Address),
    "TaskStatus": instance_of(TaskStatus),
    "str": TEXT,
    "int": INTEGER,
    "int | None": optional(INTEGER),
    "bool": FLAG,
    "datetime": MOMENT,
    "datetime | None": optional(MOMENT),
    "tuple[str, ...]": Kind("a tuple of strings", lambda value: isinstance(value, tuple)),
}
"""Validators of the fields of a record, by the types of the fields."""


def _validated(_: type, attributes: list[Attribute[Any]]) -> list[Attribute[Any]]:
    return [attribute.evolve(validator=_KINDS[str(attribute.type)]) for attribute in attributes]


@frozen(kw_only=True, slots=False, eq=False, field_transformer=_validated)
class Task:
    """One side's record of a task. Times are aware UTC datetimes in whole milliseconds of the node's own clock.

    A change makes a new record; `revision` counts them and `number` orders the records of a store by creation. Both
    belong to the store and are 0 until it has the record.

    There are many of them, and mostly little is set: a record keeps what it was made with in a dictionary, which is
    copied sooner than so many fields are set, and has the class's defaults for the rest. The constructor is for others
    than the node, and refuses values of wrong types.
    """

    side: Side
    peer: Address
    task_id: str
    description: str
    created_at: datetime
    status: TaskStatus = TaskStatus.NEW
    justification: str = ""
    outcome: str = ""
    """Why the task ended, in a word for programs (wire.md, section 6)."""
    error: str = ""
    """What went wrong in a failed execution, in the receiver's words."""
    code: str = ""
    """The code of the refusal that the submission was last answered with; ``unconfirmed`` when its answer was lost."""
    retry_after_s: int = 0
    """When the receiver wants to be tried again, in seconds, as the refusal says."""

    accepted_at: datetime | None = None
    """When the receiver decided, whichever way."""
    staged_at: datetime | None = None
    """When the task became head of the queue."""
    queue_position: int | None = None
    execute_started_at: datetime | None = None
    attempt: int = 0
    max_attempts: int = 1
    """How often the task is begun before a lost lease ends it."""
    lease_ms: int = 0
    """How long the execution may go on without progress."""
    lease_expires_at: datetime | None = None
    """When whoever executes the task counts as lost."""
    is_lease_bound: bool = False
    """Whether a stop of the node ends the execution, too."""
    put_back_at: datetime | None = None
    """Since when an EXECUTING task waits, ahead of the queue, to be taken again."""
    held_at: datetime | None = None
    """Since when a received task that waits to be begun is held: out of the queue, its submitter not trusted."""
    completed_at: datetime | None = None
    time_idle_ms: int = 0
    time_staged_ms: int = 0
    time_cpu_ms: int = 0

    expires_at: datetime | None = None
    """A task not begun by then is cancelled."""
    result_due_at: datetime | None = None
    """The submitter's own deadline for the results."""
    deliver_by: datetime | None = None
    """Until when the submission is tried, unless `Timeouts.delivery_timeout` says; unset once it was taken."""
    submission_begun_at: datetime | None = None
    """When a submission was begun that the receiver may have; unset while no receiver can have the task."""
    answered_at: datetime | None = None
    """When the receiver answered the submission."""
    undecided_since: datetime | None = None
    """When the receiver got the submission, or may have, until it decides or is queried."""
    heard_at: datetime | None = None
    """When the receiver was last heard of, or asked; unset if it is of the kind that must not be asked."""
    news_at: datetime | None = None
    """When the receiver last reported something new."""
    cancel_requested_at: datetime | None = None
    cancel_outcome: str = ""
    """The outcome if the cancellation takes effect: the word of the first request."""
    cancel_ends_at: datetime | None = None
    """When a task whose cancellation came too late is cancelled all the same, unless its results arrive."""
    ended_at: datetime | None = None
    """When callers need not wait any longer: retention counts from then."""
    delivery_given_up_at: datetime | None = None
    """When something that is owed to the other party was last given up; it can be tried again."""
    succeeded_heard: bool = False
    """SUCCEEDED came before the results did."""

    result_type: str = ""
    """``text`` or ``file`` once there are results."""
    result_filename: str = ""
    """What a file result is called between the parties."""
    result_file: str = ""
    """The file's name in the results directory, for either type."""
    result_bytes: int = 0
    """The length of that file."""
    result_sha256: str = ""
    """What that file contains, in hexadecimal digits."""
    late_result_file: str = ""
    """Results that came after the record was final: kept, never paid."""
    scored_cpu_ms: int | None = None
    """time_cpu_ms bounded by what the submitter saw itself; the reward was computed from it (section 5)."""
    is_time_disputed: bool = False
    """The receiver claimed more time than passed here between submission and results, or gave results without an
    execution: it neither reported EXECUTING nor claims any time of it."""
    reward: int | None = None
    """What the receiver earned, once booked."""

    features: tuple[str, ...] = ()
    """What the other party announced with this task."""
    number: int = 0
    revision: int = 0

    @property
    def key(self) -> TaskKey:
        """What the record is known by."""
        return TaskKey(self.side, self.peer, self.task_id)

    @staticmethod
    @checked(
        task_id=TEXT,
        description=TEXT,
        created_at=MOMENT,
        expires_at=optional(MOMENT),
        result_due_at=optional(MOMENT),
        deliver_by=optional(MOMENT),
        submission_begun_at=optional(MOMENT),
    )
    def new(
        *,
        side: Side | str,
        peer: Address | str,
        task_id: str,
        description: str,
        created_at: datetime,
        expires_at: datetime | None = None,
        result_due_at: datetime | None = None,
        deliver_by: datetime | None = None,
        submission_begun_at: datetime | None = None,
        features: Iterable[str] = (),
    ) -> Task:
        """The record of a task that was just submitted."""
        return _keeping(
            {
                "side": _to_side(side),
                "peer": _to_peer(peer),
                "task_id": task_id,
                "description": description,
                "justification": "A new task was created",
                "created_at": created_at,
                "expires_at": expires_at,
                "result_due_at": result_due_at,
                "deliver_by": deliver_by,
                "submission_begun_at": submission_begun_at,
                "features": to_texts(features, "features"),
            }
        )

    def evolved(self, **changes: Any) -> Task:
        """The record with some fields changed; what ``attrs.evolve`` does, but soon enough for every message.

        :raises TypeError: when there is no such field.
        """
        if not _NAMES.issuperset(changes):
            raise TypeError(f"no fields of a task: {sorted(changes.keys() - _NAMES)}")
        return _keeping({**vars(self), **changes})

    @staticmethod
    def of_fields(values: dict[str, Any]) -> Task:
        """The record with these values of its fields, all of them.

        :raises TypeError: when there are others.
        """
        if len(values) != len(_NAMES):
            raise TypeError(f"no fields of a task, or not all: {sorted(values.keys() ^ _NAMES)}")
        return _keeping({**values})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Task):
            return NotImplemented
        return {**_DEFAULTS, **vars(self)} == {**_DEFAULTS, **vars(other)}

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def is_settled(self) -> bool:
        """Whether callers need not wait any longer: final, or the results are here (section 4)."""
        return _is_settled(self.side, self.status)

    @property
    def reason(self) -> Reason:
        """Return why the task has ended; empty while it has not."""
        if not self.status.is_final:
            return NO_REASON
        return Reason(self.outcome, self.error, self.justification)

    @property
    def has_attempts_left(self) -> bool:
        """True if a lost lease has the task run again."""
        return self.attempt < self.max_attempts

    @property
    def waits_to_begin(self) -> bool:
        """True if the task may be begun: it is in the queue, or was put back, and is not held."""
        is_waiting = self.status is TaskStatus.ACCEPTED or self.put_back_at is not None
        return self.side is Side.RECEIVER and is_waiting and self.held_at is None

    @property
    def is_unsent(self) -> bool:
        """True if no receiver can have the task: no submission was begun, or each was answered with a refusal."""
        return self.status is TaskStatus.NEW and self.submission_begun_at is None

    @property
    def is_refused(self) -> bool:
        """True if the receiver was reached, and has refused every submission of the task."""
        return self.is_unsent and bool(self.code)

    @property
    def lacks_execution(self) -> bool:
        """True while nothing that the receiver reported speaks of an execution: no status, and no duration."""
        return self.status is not TaskStatus.EXECUTING and self.time_cpu_ms <= 0

    @property
    def can_be_queried(self) -> bool:
        """True if the receiver announced ``ack`` and has answered: then it may be asked how the task stands."""
        return self.heard_at is not None

    def requested(self, event: Event) -> tuple[Event, ...]:
        """Return the events when a cancellation is requested by ``event``: at once the end, if no receiver has it."""
        return (event, Event.WITHDRAW) if self.is_unsent else (event,)

    def advanced(self, transition: Transition, now: datetime) -> Task:
        """The record after ``transition``: its status, its stamps and, if the transition has one, its outcome."""
        changes: dict[str, Any] = {"status": transition.target}
        for stamp in transition.stamps:
            changes.update(_STAMPS[stamp](self, now))
        if transition.outcome:
            is_end = transition.target.is_final
            changes["outcome" if is_end else "cancel_outcome"] = transition.outcome
        if self.ended_at is None and _is_settled(self.side, transition.target):
            changes["ended_at"] = now
        return self.evolved(**changes)

    def bounded(self, now: datetime) -> Task:
        """The record with what of the receiver's claim is paid for (section 5).

        What the three durations together exceed the time since the submission by is taken off time_cpu_ms. A claim
        of time is paid although EXECUTING was never heard: results supersede an update that still waits to be sent.
        """
        claimed = max(0, self.time_idle_ms) + max(0, self.time_staged_ms) + max(0, self.time_cpu_ms)
        excess = max(0, claimed - milliseconds_between(self.created_at, now))
        is_disputed = excess > 0 or self.lacks_execution
        return self.evolved(scored_cpu_ms=max(0, self.time_cpu_ms - excess), is_time_disputed=is_disputed)

    def meets(self, deadline: Deadline, before: datetime) -> bool:
        """Whether ``deadline`` is about this record, and its column earlier than ``before``."""
        if self.side is not deadline.side or self.status not in deadline.statuses:
            return False
        if any(getattr(self, column) is not None for column in deadline.unless):
            return False
        since: datetime | None = getattr(self, deadline.since)
        return since is not None and since < before

    def overdue(self, now: datetime, timeouts: Timeouts) -> Deadline | None:
        """The first of `DEADLINES` that has passed for this record; ``None`` while there is none."""
        for deadline in DEADLINES:
            if self.meets(deadline, now - timeouts.limit(deadline)):
                return deadline
        return None

    def events_of(self, deadline: Deadline) -> tuple[Event, ...]:
        """Return what happens to this record when ``deadline`` passes."""
        event = next((event for name, event in deadline.instead if getattr(self, name)), deadline.event)
        return self.requested(event) if event in CANCELLATION_REQUESTS else (event,)


_NAMES = frozenset(attribute.name for attribute in fields(Task))
_DEFAULTS = {attribute.name: attribute.default for attribute in fields(Task) if attribute.default is not NOTHING}
for _name, _default in _DEFAULTS.items():
    setattr(Task, _name, _default)  # attrs has taken them off


def _keeping(values: dict[str, Any]) -> Task:
    """The record that has this dictionary."""
    task = object.__new__(Task)
    object.__setattr__(task, "__dict__", values)
    return task


def _is_settled(side: Side, status: TaskStatus) -> bool:
    return status.is_final or (side is Side.SUBMITTER and status is TaskStatus.COMPLETED)


_STAMPS: Mapping[Stamp, Callable[[Task, datetime], dict[str, Any]]] = {
    Stamp.ACCEPTED: lambda task, now: {
        "accepted_at": now,
        "time_idle_ms": milliseconds_between(task.created_at, now),
    },
    Stamp.EXECUTE_STARTED: lambda task, now: {
        "execute_started_at": now,
        "time_staged_ms": milliseconds_between(task.staged_at, now),
        "attempt": 1,
    },
    Stamp.STAGED: lambda task, now: {"time_staged_ms": milliseconds_between(task.staged_at, now)},
    Stamp.LEASED: lambda task, now: {
        "lease_expires_at": now + task.lease_ms * _MILLISECOND,
        "put_back_at": None,
        "held_at": None,
    },
    Stamp.PUT_BACK: lambda task, now: {"attempt": task.attempt + 1, "lease_expires_at": None, "put_back_at": now},
    Stamp.HELD: lambda task, now: {"held_at": now, "staged_at": None},
    Stamp.REJOINED: lambda task, now: {"held_at": None, "put_back_at": now if task.put_back_at is not None else None},
    # A requeued task has the number of its next attempt; when it ends instead, that one was none.
    Stamp.RELEASED: lambda task, now: {
        "attempt": task.attempt - (task.put_back_at is not None),
        "lease_expires_at": None,
        "put_back_at": None,
        "held_at": None,
    },
    # time_cpu_ms counts the last attempt only.
    Stamp.STARTED_AGAIN: lambda task, now: {"execute_started_at": now},
    Stamp.COMPLETED: lambda task, now: {
        "completed_at": now,
        "time_cpu_ms": milliseconds_between(task.execute_started_at, now),
    },
    Stamp.CANCEL_REQUESTED: lambda task, now: {"cancel_requested_at": now},
    Stamp.WITHDRAWN: lambda task, now: {"outcome": task.outcome or task.cancel_outcome},
    Stamp.ASKED: lambda task, now: {"heard_at": now},
    Stamp.UNDECIDED: lambda task, now: {"undecided_since": None},
    Stamp.SUCCEEDED_HEARD: lambda task, now: {"succeeded_heard": True},
}
