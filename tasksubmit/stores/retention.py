"""What retention removes and what it leaves: statements as functions of a connection inside a transaction."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from tasksubmit.lifecycle.change import Tombstone
from tasksubmit.lifecycle.task import Task, to_milliseconds
from tasksubmit.stores.queries import recall
from tasksubmit.stores.rows import (
    OF_KEY,
    TASK_COLUMNS,
    TOMBSTONE_COLUMNS,
    as_many_as_fit,
    key_values,
    task_from_row,
    tombstone_from_row,
    tombstone_values,
)
from tasksubmit.wire.address import Address

_NOT_OWED = (
    "NOT EXISTS (SELECT 1 FROM deliveries WHERE deliveries.task_id = tasks.task_id AND deliveries.side = tasks.side"
    " AND deliveries.peer = tasks.peer AND given_up_at IS NULL)"
)


def ended(
    connection: sqlite3.Connection, before: datetime, limit: int, min_result_bytes: int = 0, peer: Address | None = None
) -> list[Task]:
    """Up to ``limit`` tasks that ended before ``before`` and for which nothing is owed, the oldest first."""
    index, condition = "tasks_ended_at", ""
    of_peer: tuple[str, ...] = ()
    if peer is not None:
        index, condition, of_peer = "tasks_ended_of_peer", " AND peer = ?", (str(peer),)
    sql = (
        f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY {index} WHERE ended_at < ? AND result_bytes >= ?{condition}"
        f" AND {_NOT_OWED} ORDER BY ended_at LIMIT ?"
    )
    rows = connection.execute(sql, (to_milliseconds(before), min_result_bytes, *of_peer, limit))
    return list(as_many_as_fit(map(task_from_row, rows)))


def result_bytes(connection: sqlite3.Connection) -> dict[Address, int]:
    """Return the size of the results of each peer that records name."""
    rows = connection.execute("SELECT peer, sum(result_bytes) FROM tasks WHERE result_bytes > 0 GROUP BY peer")
    return {Address.parse(peer): size for peer, size in rows}


def forget(connection: sqlite3.Connection, task: Task, now: datetime) -> bool:
    """Put a tombstone in the place of an ended task; whether that was done: not if it changed, or something is owed."""
    sql = f"DELETE FROM tasks WHERE number = ? AND revision = ? AND ended_at IS NOT NULL AND {_NOT_OWED}"
    if connection.execute(sql, (task.number, task.revision)).rowcount == 0:
        return False
    key = key_values(task.key)
    connection.execute("DELETE FROM events WHERE task = ?", (task.number,))
    for table in ("deliveries", "bookings"):
        connection.execute(f"DELETE FROM {table} WHERE {OF_KEY}", key)
    _insert(connection, Tombstone.of(task, now))
    return True


def _insert(connection: sqlite3.Connection, left: Tombstone) -> None:
    values = tombstone_values(left)
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO tombstones ({TOMBSTONE_COLUMNS}) VALUES ({marks})", values)


def leave_tombstone(connection: sqlite3.Connection, left: Tombstone) -> Task | Tombstone | None:
    """Put a tombstone where there is neither a record nor a tombstone; return what there is otherwise."""
    [known] = recall(connection, [left.key])
    if known is None:
        _insert(connection, left)
    return known


def tombstones(connection: sqlite3.Connection, task_id: str, peer: Address | None = None) -> list[Tombstone]:
    """What stayed of every task with this id, or of those of one peer; those of others are then not read."""
    sql = f"SELECT {TOMBSTONE_COLUMNS} FROM tombstones WHERE task_id = ?"
    of_peer = () if peer is None else (str(peer),)
    rows = connection.execute(sql + (" AND peer = ?" if of_peer else ""), (task_id, *of_peer))
    return [tombstone_from_row(row) for row in rows]


def drop_tombstones(connection: sqlite3.Connection, before: datetime, limit: int) -> int:
    """Remove up to ``limit`` tombstones that were put before ``before``; how many."""
    sql = (
        "DELETE FROM tombstones WHERE (task_id, side, peer) IN"
        " (SELECT task_id, side, peer FROM tombstones WHERE removed_at < ? ORDER BY removed_at LIMIT ?)"
    )
    return connection.execute(sql, (to_milliseconds(before), limit)).rowcount
