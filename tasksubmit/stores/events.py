"""The story of each task: the statements about its lines, as functions of a connection inside a transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from tasksubmit.lifecycle.change import TaskEvent
from tasksubmit.lifecycle.task import to_milliseconds
from tasksubmit.stores import bulk
from tasksubmit.stores.rows import EVENT_COLUMNS, event_from_row

_COLUMNS = f"task, line, {EVENT_COLUMNS}"

MAX_LINES = 1000
"""A story is no longer; then its last line says what happened last, and how often."""


_LAST_LINES = (
    "SELECT task, line, name, detail FROM (SELECT task, max(line) AS line FROM events WHERE task IN {} GROUP BY task)"
    " AS last JOIN events USING (task, line)"
)


def tell(connection: sqlite3.Connection, told: Sequence[tuple[int, TaskEvent]]) -> None:
    """Add lines to the stories of the tasks with these numbers; one that says the same as the last is counted."""
    if not told:
        return
    last: dict[int, tuple[int, str, str]] = {
        task: (line, name, detail)
        for task, line, name, detail in bulk.execute(connection, _LAST_LINES, {number for number, _ in told})
    }
    rows: list[tuple[Any, ...]] = []
    for number, event in told:
        line, *said = last.get(number, (0,))
        if line >= MAX_LINES or said == [event.name, event.detail]:
            bulk.insert(connection, "events", _COLUMNS, rows)  # the line may be among them
            rows = []
            _count(connection, number, line, event)
            continue
        last[number] = line + 1, event.name, event.detail
        at, status = to_milliseconds(event.at), event.status.value
        rows.append((number, line + 1, at, event.name, event.by, status, event.detail, 1, None))
    bulk.insert(connection, "events", _COLUMNS, rows)


def _count(connection: sqlite3.Connection, number: int, line: int, event: TaskEvent) -> None:
    connection.execute(
        "UPDATE events SET name = ?, by = ?, status = ?, detail = ?, times = times + 1, last_at = ?"
        " WHERE task = ? AND line = ?",
        (event.name, event.by, event.status.value, event.detail, to_milliseconds(event.at), number, line),
    )


def of_task(connection: sqlite3.Connection, number: int) -> list[TaskEvent]:
    """The story of the task with this number, in order."""
    rows = connection.execute(f"SELECT {EVENT_COLUMNS} FROM events WHERE task = ? ORDER BY line", (number,))
    return [event_from_row(row) for row in rows]
