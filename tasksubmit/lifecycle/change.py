"""What one event does to one task, as a value: the new record and everything that must be committed with it."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from attrs import frozen

from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.wire.address import Address


class DeliveryKind(str, Enum):
    """What is owed to the other party; the frame is made from the task when it is sent, but for a status."""

    SUBMISSION = "submission"
    STATUS = "status"
    RESULTS = "results"


@frozen(kw_only=True)
class Delivery:
    """A message owed to a task's other party, kept until it is delivered.

    `payload` is the JSON of a `TaskStatusUpdate` and empty for the other kinds. `ready_at` is when it may be sent
    next, ``None`` while an earlier message of the same task waits. `id` grows in the order in which messages became
    owed; the store gives it. `sent_at` is set before the message goes to a peer that may not be sent it twice, and
    stays unless it is certain that not a byte of it was written.
    """

    key: TaskKey
    kind: DeliveryKind
    payload: bytes = b""
    created_at: datetime
    ready_at: datetime | None = None
    sent_at: datetime | None = None
    attempts: int = 0
    last_error: str = ""
    id: int = 0


@frozen
class Booking:
    """Points for one party of a task, booked at most once for each task, side and party."""

    party: Address
    points: int
    reason: str


@frozen(kw_only=True)
class Change:
    """One transaction on one task: `before` is what was read, `after` what it becomes.

    The store refuses it with `StaleTask` when the record is no longer as `before` was. `at` is the time of the change:
    the task that becomes head of the queue by it is staged then. `settles` is the id of a delivery that this change is
    the end of.
    """

    before: Task
    after: Task
    at: datetime
    deliveries: tuple[Delivery, ...] = ()
    bookings: tuple[Booking, ...] = ()
    settles: int | None = None
