"""Reading a database that may be damaged: whether each row makes sense, by itself and as what it stands for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from tasksubmit.lifecycle.change import Delivery
from tasksubmit.lifecycle.table import TRANSITIONS, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.stores.rows import (
    BLANK_TASK,
    EVENT_COLUMNS,
    OWED_BOOKING_COLUMNS,
    TASK_NAMES,
    TOMBSTONE_COLUMNS,
    event_from_row,
    owed_booking_from_row,
    row_writer,
    tombstone_from_row,
)
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import TaskStatusUpdate

Row = tuple[Any, ...]

_ALLOWED = {(side, transition.target) for (side, _, _), transition in TRANSITIONS.items()}
_WITH_RESULTS = (TaskStatus.COMPLETED, TaskStatus.SUCCEEDED)
_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "int | None": (int, type(None))}

TASK_DEFAULTS = dict(zip(TASK_NAMES, row_writer(TASK_NAMES)(BLANK_TASK), strict=True))
"""What a record has in the columns that its schema lacks."""


def rows_of(
    connection: sqlite3.Connection, table: str, columns: str, defaults: Mapping[str, Any], order: str = ""
) -> Iterator[Row]:
    """The rows of a table, if there is one; what it lacks in an older schema is taken from ``defaults``."""
    present = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
    if present:
        wanted = ", ".join(name if name in present else f":{name}" for name in columns.split(", "))
        yield from connection.execute(f"SELECT {wanted} FROM {table} {order}", defaults)


def readable(read: Callable[[Row], Any], row: Row) -> tuple[Any, str]:
    """What a row holds, or None and why it cannot be read."""
    try:
        for value in row:
            if isinstance(value, str):
                value.encode()
        value = read(row)
        if isinstance(value, Task):
            _check_types(value)
    except UnicodeEncodeError:
        return None, "cannot be read: it has text that is not UTF-8"
    except Exception as error:  # whatever a damaged value leads to
        return None, f"cannot be read: {error.__cause__ or error}"
    return value, ""


def _check_types(task: Task) -> None:
    """SQLite takes any value in any column.

    :raises ValueError: naming the column that has another than its own.
    """
    for attribute in attrs.fields(Task):
        expected = _TYPES.get(str(attribute.type))
        value = getattr(task, attribute.name)
        if expected is not None and not isinstance(value, expected):
            raise ValueError(f"{attribute.name} is {shown(value)}")


def faults_of(task: Task) -> Iterator[str]:
    """What no change makes of a record."""
    if (task.side, task.status) not in _ALLOWED:
        yield f"is {task.status}, which a {task.side}'s record cannot be"
    is_queued = task.side is Side.RECEIVER and task.status is TaskStatus.ACCEPTED
    if is_queued != (task.queue_position is not None):
        yield f"is {task.status}, and {'not ' if is_queued else ''}in the queue"
    if (task.status in _WITH_RESULTS) != bool(task.result_file):
        yield f"is {task.status}, and has {'a' if task.result_file else 'no'} result"


def fault_of_delivery(delivery: Delivery, is_first: bool) -> str:
    """What no change makes of a delivery; ``is_first`` of those of its task that were not given up."""
    is_next = is_first and delivery.given_up_at is None
    if is_next != (delivery.ready_at is not None):
        return "is not sent, although nothing is before it" if is_next else "may be sent out of its turn"
    try:
        if delivery.payload:
            TaskStatusUpdate.from_json(delivery.payload)
    except Exception as error:
        return f"cannot be read: {error}"
    return ""


def _booked(row: Row) -> None:
    party, points = row
    Address.parse(party)
    if not isinstance(points, int):
        raise ValueError(f"points is {shown(points)}")


def _usage(row: Row) -> None:
    peer, *numbers = row
    Address.parse(peer)
    for number in numbers:
        if not isinstance(number, int):
            raise ValueError(f"the peer has used {shown(number)}")


OTHER_TABLES: tuple[tuple[str, str, Callable[[Row], Any]], ...] = (
    ("events", f"task, {EVENT_COLUMNS}", lambda row: event_from_row(row[1:])),
    ("tombstones", TOMBSTONE_COLUMNS, tombstone_from_row),
    ("scores", "party, points", _booked),
    ("bookings", "party, points", _booked),
    ("owed_bookings", OWED_BOOKING_COLUMNS, owed_booking_from_row),
    ("notes", "name, text", lambda row: (row[0].split(), row[1].split())),
    ("usage", "peer, records, stored_bytes", _usage),
    ("owner", "address", lambda row: Address.parse(row[0])),
    ("peer_features", "peer, features", lambda row: (Address.parse(row[0]), row[1].split())),
)
"""Of each other table: its name, its columns, and what reads a row; the first column tells which row."""


def named(key: TaskKey) -> str:
    """A task, as findings name it."""
    return f"task {key.task_id} {'from' if key.side is Side.RECEIVER else 'to'} {key.peer}"


def shown(value: object) -> str:
    """A value that may be anything, in a few characters."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text[:80]
