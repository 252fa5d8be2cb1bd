"""Records as rows: which columns there are, and how a value is written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import attrs

from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.wire.address import Address

_Converter = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def optional_milliseconds(when: datetime | None) -> int | None:
    """A time as its column holds it."""
    return None if when is None else to_milliseconds(when)


def _optional_time(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_milliseconds(milliseconds)


_BY_TYPE: dict[str, tuple[_Converter, _Converter]] = {
    "Side": (str, Side),
    "TaskStatus": (str, TaskStatus),
    "Address": (str, Address.parse),
    "datetime": (to_milliseconds, from_milliseconds),
    "datetime | None": (optional_milliseconds, _optional_time),
    "bool": (int, bool),
    "tuple[str, ...]": (json.dumps, lambda text: tuple(json.loads(text))),
    "str": (_same, _same),
    "int": (_same, _same),
    "int | None": (_same, _same),
}

_FIELDS = [(attribute.name, *_BY_TYPE[str(attribute.type)]) for attribute in attrs.fields(Task)]
TASK_COLUMNS = ", ".join(name for name, _, _ in _FIELDS)
"""The columns of a task, in the order that `task_from_row` expects."""


def task_from_row(row: Sequence[Any]) -> Task:
    """The record that a row of `TASK_COLUMNS` holds."""
    return Task(**{name: read(value) for (name, _, read), value in zip(_FIELDS, row, strict=True)})


def task_values(task: Task, *, without: str) -> dict[str, Any]:
    """Every column of `task` but ``without``, as it is written."""
    return {name: write(getattr(task, name)) for name, write, _ in _FIELDS if name != without}


def changed_values(before: Task, after: Task) -> dict[str, Any]:
    """The columns in which two records differ, as ``after`` has them."""
    changed = {}
    for name, write, _ in _FIELDS:
        value = getattr(after, name)
        if value != getattr(before, name):
            changed[name] = write(value)
    return changed


def key_values(key: TaskKey) -> tuple[str, str, str]:
    """A key as the columns task_id, side, peer."""
    return key.task_id, key.side.value, str(key.peer)


DELIVERY_COLUMNS = "id, task_id, side, peer, kind, payload, created_at, ready_at, sent_at, attempts, last_error"


def delivery_from_row(row: Sequence[Any]) -> Delivery:
    """The delivery that a row of `DELIVERY_COLUMNS` holds."""
    number, task_id, side, peer, kind, payload, created_at, ready_at, sent_at, attempts, last_error = row
    return Delivery(
        id=number,
        key=TaskKey(Side(side), Address.parse(peer), task_id),
        kind=DeliveryKind(kind),
        payload=payload,
        created_at=from_milliseconds(created_at),
        ready_at=_optional_time(ready_at),
        sent_at=_optional_time(sent_at),
        attempts=attempts,
        last_error=last_error,
    )
