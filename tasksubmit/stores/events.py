"""The story of each task: the statements about its lines, as functions of a connection inside a transaction."""

from __future__ import annotations

import sqlite3

from tasksubmit.lifecycle.change import TaskEvent
from tasksubmit.lifecycle.task import to_milliseconds
from tasksubmit.stores.rows import EVENT_COLUMNS, event_from_row

MAX_LINES = 1000
"""A story is no longer; then its last line says what happened last, and how often."""


def tell(connection: sqlite3.Connection, number: int, event: TaskEvent) -> None:
    """Add a line to the story of the task with this number, or count it when it says the same as the last one."""
    sql = "SELECT line, name, detail FROM events WHERE task = ? ORDER BY line DESC LIMIT 1"
    line, *last = connection.execute(sql, (number,)).fetchone() or (0, None)
    if line >= MAX_LINES or last == [event.name, event.detail]:
        connection.execute(
            "UPDATE events SET name = ?, by = ?, status = ?, detail = ?, times = times + 1, last_at = ?"
            " WHERE task = ? AND line = ?",
            (event.name, event.by, event.status.value, event.detail, to_milliseconds(event.at), number, line),
        )
        return
    connection.execute(
        f"INSERT INTO events (task, line, {EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, 1, NULL)",
        (number, line + 1, to_milliseconds(event.at), event.name, event.by, event.status.value, event.detail),
    )


def of_task(connection: sqlite3.Connection, number: int) -> list[TaskEvent]:
    """The story of the task with this number, in order."""
    rows = connection.execute(f"SELECT {EVENT_COLUMNS} FROM events WHERE task = ? ORDER BY line", (number,))
    return [event_from_row(row) for row in rows]
