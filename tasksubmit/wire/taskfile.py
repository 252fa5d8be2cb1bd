"""The task file of deployed peers: one task as indented JSON, with its stamps and durations (wire.md, section 2)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

import attrs
from attrs import frozen
from typing_extensions import Self

from tasksubmit.errors import NeverStaged
from tasksubmit.lifecycle.table import ACCEPT_TIMEOUT, QUEUE_HEAD_TIMEOUT, TaskStatus
from tasksubmit.validation import MOMENT, TEXT, checked
from tasksubmit.wire.records import INDENTED, Layout, Record, integer, text
from tasksubmit.wire.timestamps import format_time, parse_time

_MILLISECOND = timedelta(milliseconds=1)


@frozen
class TaskFile(Record):
    """What is kept of a task in a deployed peer's directory. Times are RFC 3339 text, empty while they are not known.

    Its methods never change it; those called ``with_...`` return another. They take the present as an aware datetime,
    and raise `InvalidTime` when a stamp that they need cannot be read. ``from_`` is the submitter's address, which JSON
    calls ``from``.

    :ivar to: the receiver's address.
    :ivar staged_at: when the task became the head of the queue.
    :ivar time_idle_ms: milliseconds from creation to the decision.
    :ivar time_staged_ms: milliseconds at the head of the queue.
    :ivar time_cpu_ms: milliseconds of execution.
    """

    layout: ClassVar[Layout] = INDENTED

    task_id: str = text()
    task_description: str = text()
    created_at: str = text()
    status: str = text()
    status_justification: str = text()
    from_: str = text(key="from")
    to: str = text()
    accepted_at: str = text(omit=True)
    staged_at: str = text(omit=True)
    execute_started_at: str = text(omit=True)
    completed_at: str = text(omit=True)
    time_idle_ms: int = integer(omit=True)
    time_staged_ms: int = integer(omit=True)
    time_cpu_ms: int = integer(omit=True)

    @classmethod
    @checked(description=TEXT, task_id=TEXT, from_addr=TEXT, to_addr=TEXT, now=MOMENT)
    def new(cls, task_id: str, description: str, from_addr: str, to_addr: str, now: datetime) -> Self:
        """Make the file of a task that was created now."""
        return cls(
            task_id=task_id,
            task_description=description,
            created_at=format_time(now),
            status=TaskStatus.NEW.value,
            status_justification="A new task was created",
            from_=from_addr,
            to=to_addr,
        )

    @checked(now=MOMENT)
    def with_time_idle(self, now: datetime) -> Self:
        """Stamp the decision: accepted_at is now, time_idle_ms runs since created_at."""
        return attrs.evolve(
            self, accepted_at=format_time(now), time_idle_ms=_since(self.created_at, now) // _MILLISECOND
        )

    @checked(now=MOMENT)
    def with_time_staged(self, now: datetime) -> Self:
        """Stamp the start: execute_started_at is now, time_staged_ms runs since staged_at; nothing if never staged."""
        if not self.staged_at:
            return self
        return attrs.evolve(
            self, execute_started_at=format_time(now), time_staged_ms=_since(self.staged_at, now) // _MILLISECOND
        )

    @checked(now=MOMENT)
    def with_time_cpu(self, now: datetime) -> Self:
        """Stamp the end: completed_at is now, time_cpu_ms runs since execute_started_at; nothing if never started."""
        if not self.execute_started_at:
            return self
        return attrs.evolve(
            self, completed_at=format_time(now), time_cpu_ms=_since(self.execute_started_at, now) // _MILLISECOND
        )

    @checked(now=MOMENT)
    def is_expired_for_accept(self, now: datetime) -> bool:
        """Whether the task has been NEW for more than `ACCEPT_TIMEOUT`."""
        return self.status == TaskStatus.NEW and self.time_since_creation(now) > ACCEPT_TIMEOUT

    @checked(now=MOMENT)
    def is_expired_in_queue(self, now: datetime) -> bool:
        """Whether the task is ACCEPTED and has been staged for more than `QUEUE_HEAD_TIMEOUT`."""
        if self.status != TaskStatus.ACCEPTED or not self.staged_at:
            return False
        return self.time_since_staged(now) > QUEUE_HEAD_TIMEOUT

    @checked(now=MOMENT)
    def time_since_creation(self, now: datetime) -> timedelta:
        """Give the age of the task."""
        return _since(self.created_at, now)

    @checked(now=MOMENT)
    def time_since_staged(self, now: datetime) -> timedelta:
        """Give the time since the task became the head of the queue.

        :raises NeverStaged: it never did.
        """
        if not self.staged_at:
            raise NeverStaged(f"task {self.task_id} never reached the head of the queue")
        return _since(self.staged_at, now)


def _since(stamp: str, now: datetime) -> timedelta:
    return now - parse_time(stamp)
