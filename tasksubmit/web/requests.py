"""What the control API is asked: the bodies of its requests and the parameters of its queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType

from attrs import field, frozen
from attrs.validators import and_, ge, le, optional

from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.purge import PurgeStep
from tasksubmit.node.service import DRAIN_SECONDS
from tasksubmit.wire.address import Address

MAX_LIST = 1000

MAX_COUNTED = 100_000
"""Records that are looked at to count those of a list: the newest. It bounds the time that this takes."""

STUCK_AFTER = timedelta(days=1)
"""Age at which an open task counts as stuck."""

_NUMBER = optional(and_(ge(0), le(2**62)))
"""The number of a task; the store counts up to 2**63."""

MAX_WAIT_SECONDS = 300
MAX_DRAIN_SECONDS = 3600


class WaitFor(str, Enum):
    """What a task can be waited for to be."""

    ANSWERED = "answered"
    """The receiver answered the submission, or it is known that its answer was lost."""
    ACCEPTED = "accepted"
    """The receiver decided, whichever way."""
    FINISHED = "finished"
    """The results are here, or it ended without."""


CONDITIONS: Mapping[WaitFor, Callable[[Task], bool]] = MappingProxyType(
    {
        WaitFor.ANSWERED: lambda task: (
            task.answered_at is not None or bool(task.code) or task.status is not TaskStatus.NEW
        ),
        WaitFor.ACCEPTED: lambda task: task.status is not TaskStatus.NEW,
        WaitFor.FINISHED: lambda task: task.is_settled,
    }
)


@frozen
class Nothing:
    """A body, or a query, without keys."""


@frozen(kw_only=True)
class Which:
    """Tells tasks with the same id apart: whose record, and who the other party is."""

    side: Side | None = None
    peer: Address | None = None


@frozen(kw_only=True)
class WhichPeer:
    """Tells tasks with the same id apart, where the side is clear: who the other party is."""

    peer: Address | None = None


@frozen(kw_only=True)
class ListQuery:
    """Which tasks to list, newest first unless `oldest_first`.

    `before` and `after` are the ``number`` of a task: the next page begins before the last task of a page, or after it
    when the oldest come first. `outcome` is a word, or empty for tasks without one. `since` is the earliest creation.
    `stuck` leaves tasks with a message that could not be delivered so far, or was abandoned, and tasks that have been
    open for more than a day.
    """

    side: Side | None = None
    status: TaskStatus | None = None
    peer: Address | None = None
    outcome: str | None = None
    since: datetime | None = None
    stuck: bool = False
    oldest_first: bool = False
    limit: int = field(default=100, validator=[ge(1), le(MAX_LIST)])
    before: int | None = None
    after: int | None = None


@frozen(kw_only=True)
class QueueQuery:
    """Which part of the queue; `before` and `after` are a ``queue_position``.

    Requeued tasks have none: they are all on the page that begins at the head.
    """

    limit: int = field(default=100, validator=[ge(1), le(MAX_LIST)])
    before: int | None = None
    after: int | None = None


@frozen(kw_only=True)
class WaitQuery:
    """What to wait for, and how many seconds at most."""

    side: Side | None = None
    peer: Address | None = None
    for_: WaitFor = WaitFor.FINISHED
    timeout: int = field(default=60, validator=[ge(0), le(MAX_WAIT_SECONDS)])


@frozen(kw_only=True)
class Submit:
    """A task to submit. An own `task_id` makes it safe to repeat the request."""

    to: Address
    description: str
    task_id: str | None = None
    expires_at: datetime | None = None
    result_due_at: datetime | None = None
    deliver_by: datetime | None = None


@frozen(kw_only=True)
class Accept:
    """What to tell the submitter with the acceptance."""

    justification: str = "Task accepted"


@frozen(kw_only=True)
class Decline:
    """What to tell the submitter, who has a right to know why."""

    justification: str


@frozen(kw_only=True)
class Cancel:
    """What to tell the receiver."""

    reason: str = "Cancelled by the submitter"


@frozen(kw_only=True)
class Progress:
    """What to tell the submitter about how far the work is.

    `attempt` is the number that ``execute`` gave, needed once there was more than one attempt.
    """

    text: str
    attempt: int | None = None


@frozen(kw_only=True)
class PutBack:
    """What to tell the submitter.

    `attempt` is the number that ``execute`` gave, needed once there was more than one attempt.
    """

    reason: str = "The task was put back"
    attempt: int | None = None


@frozen(kw_only=True)
class Fail:
    """What went wrong, for the submitter.

    `attempt` is the number that ``execute`` gave, needed once there was more than one attempt.
    """

    error: str
    attempt: int | None = None


@frozen(kw_only=True)
class Drain:
    """How many seconds the way to rest may take, half of them for what runs."""

    timeout: int = field(default=int(DRAIN_SECONDS), validator=[ge(0), le(MAX_DRAIN_SECONDS)])


@frozen(kw_only=True)
class Purge:
    """One step of a purge, with one batch of tasks: the one that `task_id` names, or those that match what is given.

    `before` selects tasks that were created before that time. To go on, `after` and
    `until` are the ``next`` and the ``until`` of the answer before. `wait` is how many seconds the step ``abandon``
    waits for pending deliveries. It abandons what the step ``notify`` has ended, and what has completed.
    """

    step: PurgeStep
    task_id: str | None = None
    side: Side | None = None
    peer: Address | None = None
    before: datetime | None = None
    after: int | None = field(default=None, validator=_NUMBER)
    until: int | None = field(default=None, validator=_NUMBER)
    wait: int = field(default=0, validator=[ge(0), le(MAX_WAIT_SECONDS)])


@frozen(kw_only=True)
class Results:
    """The results of a task: either `text`, or `filename` and `content_base64`.

    `attempt` is the number that ``execute`` gave, needed once there was more than one attempt.
    """

    text: str | None = None
    filename: str | None = None
    content_base64: bytes | None = None
    attempt: int | None = None
