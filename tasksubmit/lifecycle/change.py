"""What one event does to one task, as a value: the new record and everything that must be committed with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum
from hashlib import sha256

from attrs import field, frozen

from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import NO_REASON, Reason, Task, TaskKey
from tasksubmit.validation import INTEGER, TEXT
from tasksubmit.wire.address import Address, to_address

LONGEST_WAIT = timedelta(hours=1)
"""The longest time between two attempts to deliver a message: what a peer may ask for (wire.md, section 6)."""


class DeliveryKind(str, Enum):
    """What is owed to the other party; the frame is made from the task when it is sent, but for a status."""

    SUBMISSION = "submission"
    """Not owed twice: while one waits, it is the question how the task stands as well."""
    STATUS = "status"
    PROGRESS = "progress"
    """A status update in whose place a later one goes, as long as it waits behind another message."""
    RESULTS = "results"


@frozen(kw_only=True)
class Delivery:
    """A message owed to a task's other party, kept until it is delivered.

    `payload` is the JSON of a `TaskStatusUpdate` and empty for the other kinds. `ready_at` is when it may be sent
    next, ``None`` while an earlier message of the same task waits; of a new message, not before when it may be sent.
    One that was given up at `given_up_at` stays, and holds up no other, until somebody has it tried again. `id` grows
    in the order in which messages became owed; the store gives it.
    """

    key: TaskKey
    kind: DeliveryKind
    payload: bytes = b""
    created_at: datetime
    ready_at: datetime | None = None
    attempts: int = 0
    last_error: str = ""
    given_up_at: datetime | None = None
    id: int = 0


def _to_party(value: Address | str) -> Address:
    return to_address(value, "party")


@frozen
class Booking:
    """Points for one party of a task, booked at most once for each task, side and party."""

    party: Address = field(converter=_to_party)
    points: int = field(validator=INTEGER)
    reason: str = field(validator=TEXT)


@frozen
class OwedBooking:
    """A booking that a score book beside the ledger is still to be told; `id` grows in the order of booking."""

    id: int
    key: TaskKey
    booking: Booking


class Note(str, Enum):
    """What happens to a task besides the events of the table, for its story."""

    DELIVERED = "delivered"
    DELIVERY_FAILED = "delivery_failed"
    DELIVERY_GIVEN_UP = "delivery_given_up"
    RETRIED = "retried"
    UNCONFIRMED = "unconfirmed"
    RESULTS_REFUSED = "results_refused"
    LATE_RESULTS = "late_results"


@frozen(kw_only=True)
class TaskEvent:
    """One line of a task's story, kept with the task.

    `name` is the name of an `Event` in lower case, or a `Note`; `by` whose doing it was: ``submitter``, ``receiver``,
    ``time`` or ``node``. `status` is where the task stood afterwards. The same again is not another line, but counted
    in `times`, the last of them at `last_at`.
    """

    at: datetime
    name: str
    by: str
    status: TaskStatus
    detail: str = ""
    times: int = 1
    last_at: datetime | None = None


@frozen
class Tombstone:
    """What stays of a task that retention removed: enough to answer a repeated message about it.

    `status` is always one that ends the task for whoever asks: of results that were given up nothing is left but that.
    `reason` says why. One of a task that was withdrawn before it arrived has no `description_sha256`: it is that of any
    description.
    """

    key: TaskKey
    status: TaskStatus
    description_sha256: str
    reward: int | None
    removed_at: datetime
    reason: Reason = NO_REASON

    @classmethod
    def of(cls, task: Task, now: datetime) -> Tombstone:
        """What to leave of ``task``."""
        status = task.status if task.is_settled else TaskStatus.CANCELLED
        return cls(task.key, status, _sha256(task.description), task.reward, now, task.reason)

    @classmethod
    def of_withdrawn(cls, key: TaskKey, reason: Reason, now: datetime) -> Tombstone:
        """Return the tombstone of a task that was cancelled before its submission arrived."""
        return cls(key, TaskStatus.CANCELLED, "", None, now, reason)

    def is_of(self, description: str) -> bool:
        """Whether the task was described so."""
        return self.description_sha256 in ("", _sha256(description))


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@frozen(kw_only=True)
class Change:
    """One transaction on one task: `before` is what was read, `after` what it becomes.

    The store refuses it with `StaleTask` when the record is no longer as `before` was. `at` is the time of the change:
    the task that becomes head of the queue by it is staged then. `settles` is the id of a delivery that this change is
    the end of, `gives_up` of one that is not to be tried again by itself; `revives` has those that were given up tried
    again, as if they were new. When it `drops_pending`, what was pending before it is not sent any more, but for what
    it gives up. `tells_bookings` keeps the bookings for a score book beside the ledger, until they are
    settled. A task that joins the queue does so at its end, or, if that `is_fair`, where its submitter's turn is.
    """

    before: Task
    after: Task
    at: datetime
    events: tuple[TaskEvent, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    bookings: tuple[Booking, ...] = ()
    settles: int | None = None
    gives_up: int | None = None
    revives: bool = False
    drops_pending: bool = False
    tells_bookings: bool = False
    is_fair: bool = False

    @property
    def changes_deliveries(self) -> bool:
        """Whether it changes what is owed for the task, or when."""
        return (
            bool(self.deliveries)
            or self.settles is not None
            or self.gives_up is not None
            or self.revives
            or self.drops_pending
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to carry out."""
        return self.before == self.after and not (self.events or self.bookings or self.changes_deliveries)
