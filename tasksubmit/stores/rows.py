"""Records as rows: which columns there are, and how a value is written and read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from tasksubmit.errors import InvalidAddress
from tasksubmit.lifecycle.change import Booking, Delivery, DeliveryKind, OwedBooking, TaskEvent, Tombstone
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Reason, Task, TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.wire.address import Address

T = TypeVar("T")
_Row = Sequence[Any]
_Converter = Callable[[Any], Any]


def optional_milliseconds(when: datetime | None) -> int | None:
    """A time as its column holds it."""
    return None if when is None else to_milliseconds(when)


def _optional_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_milliseconds(milliseconds)


@lru_cache(maxsize=1024)
def _written_words(words: tuple[str, ...]) -> str:
    return json.dumps(words)


@lru_cache(maxsize=1024)
def _read_words(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


# How the values of a type are written and read; None: as they are.
_BY_TYPE: dict[str, tuple[_Converter, _Converter] | None] = {
    "Side": (str, Side),
    "TaskStatus": (str, TaskStatus),
    "Address": (str, Address.parse),
    "datetime": (to_milliseconds, from_milliseconds),
    "bool": (int, bool),
    "tuple[str, ...]": (_written_words, _read_words),
    "str": None,
    "int": None,
}
_OR_NONE = " | None"
_FIELDS: tuple[attrs.Attribute[Any], ...] = attrs.fields(Task)
_CONVERTED = [
    (index, *converters, str(attribute.type).endswith(_OR_NONE))
    for index, attribute in enumerate(_FIELDS)
    if (converters := _BY_TYPE[str(attribute.type).removesuffix(_OR_NONE)]) is not None
]

TASK_NAMES = tuple(attribute.name for attribute in _FIELDS)
"""The columns of a task, in the order that `task_from_row` expects."""

TASK_COLUMNS = ", ".join(TASK_NAMES)

BLANK_TASK = Task(side=Side.RECEIVER, peer=Address(0, 0), task_id="", description="", created_at=from_milliseconds(0))
"""A record in which nothing is set that need not be."""

SHIFTED_COLUMNS = [
    attribute.name
    for attribute in _FIELDS
    if str(attribute.type).startswith("datetime")
    and attribute.name not in ("expires_at", "result_due_at", "deliver_by")
]
"""The columns that hold times of the node's own clock; the others were agreed on."""


def _or_damaged(read: Callable[[_Row], T]) -> Callable[[_Row], T]:
    """Have ``read`` raise what SQLite raises for damage when a value is none that was written."""

    @wraps(read)
    def read_or_raise(row: _Row) -> T:
        try:
            return read(row)
        except (ValueError, TypeError, OverflowError, InvalidAddress) as error:
            which = ", ".join(repr(value)[:80] for value in row[:3])
            raise sqlite3.DatabaseError(f"the row {which} cannot be read: {error}") from error

    return read_or_raise


@_or_damaged
def task_from_row(row: Sequence[Any]) -> Task:
    """The record that a row of `TASK_COLUMNS` holds."""
    values = list(row)
    for index, _, read, is_optional in _CONVERTED:
        value = values[index]
        if value is not None or not is_optional:
            values[index] = read(value)
    return Task.of_fields(dict(zip(TASK_NAMES, values, strict=True)))


def row_writer(names: Sequence[str]) -> Callable[[Task], list[Any]]:
    """What gives some columns of a task, as they are written."""
    values_of = attrgetter(*names)
    conversions = [
        (names.index(TASK_NAMES[place]), write) for place, write, _, _ in _CONVERTED if TASK_NAMES[place] in names
    ]

    def write_row(task: Task) -> list[Any]:
        values = list(values_of(task))
        for place, write in conversions:
            value = values[place]
            if value is not None:
                values[place] = write(value)
        return values

    return write_row


MAX_READ_BYTES = 32 * 1024 * 1024
"""Descriptions that one look at the work to do takes into memory; the next look takes the next ones."""


def as_many_as_fit(tasks: Iterable[Task]) -> Iterator[Task]:
    """The first of some tasks, up to `MAX_READ_BYTES` of descriptions, and at least one."""
    total = 0
    for task in tasks:
        yield task
        total += len(task.description)
        if total > MAX_READ_BYTES:
            return


OF_KEY = "task_id = ? AND side = ? AND peer = ?"
"""The condition that `key_values` fill."""


def key_values(key: TaskKey) -> tuple[str, str, str]:
    """A key as the columns task_id, side, peer."""
    return key.task_id, key.side.value, str(key.peer)


DELIVERY_COLUMNS = "id, task_id, side, peer, kind, payload, created_at, ready_at, attempts, last_error, given_up_at"


@_or_damaged
def delivery_from_row(row: Sequence[Any]) -> Delivery:
    """The delivery that a row of `DELIVERY_COLUMNS` holds."""
    number, task_id, side, peer, kind, payload, created_at, ready_at, attempts, last_error, given_up_at = row
    return Delivery(
        id=number,
        key=TaskKey(Side(side), Address.parse(peer), task_id),
        kind=DeliveryKind(kind),
        payload=payload,
        created_at=from_milliseconds(created_at),
        ready_at=_optional_time(ready_at),
        attempts=attempts,
        last_error=last_error,
        given_up_at=_optional_time(given_up_at),
    )


EVENT_COLUMNS = "at, name, by, status, detail, times, last_at"


@_or_damaged
def event_from_row(row: Sequence[Any]) -> TaskEvent:
    """The event that a row of `EVENT_COLUMNS` holds."""
    at, name, by, status, detail, times, last_at = row
    return TaskEvent(
        at=from_milliseconds(at),
        name=name,
        by=by,
        status=TaskStatus(status),
        detail=detail,
        times=times,
        last_at=_optional_time(last_at),
    )


OWED_BOOKING_COLUMNS = "id, task_id, side, peer, party, points, reason"


@_or_damaged
def owed_booking_from_row(row: Sequence[Any]) -> OwedBooking:
    """The booking that a row of `OWED_BOOKING_COLUMNS` holds."""
    number, task_id, side, peer, party, points, reason = row
    key = TaskKey(Side(side), Address.parse(peer), task_id)
    return OwedBooking(number, key, Booking(Address.parse(party), int(points), reason))


TOMBSTONE_COLUMNS = "task_id, side, peer, status, description_sha256, reward, removed_at, outcome, error, justification"


@_or_damaged
def tombstone_from_row(row: Sequence[Any]) -> Tombstone:
    """The tombstone that a row of `TOMBSTONE_COLUMNS` holds."""
    task_id, side, peer, status, description_sha256, reward, removed_at, *reason = row
    key = TaskKey(Side(side), Address.parse(peer), task_id)
    return Tombstone(
        key, TaskStatus(status), description_sha256, reward, from_milliseconds(removed_at), Reason(*reason)
    )


def tombstone_values(left: Tombstone) -> tuple[Any, ...]:
    """A tombstone as the values of `TOMBSTONE_COLUMNS`."""
    reason = left.reason
    return (
        *key_values(left.key),
        left.status.value,
        left.description_sha256,
        left.reward,
        to_milliseconds(left.removed_at),
        reason.outcome,
        reason.error,
        reason.justification,
    )
