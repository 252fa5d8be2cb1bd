"""Every statement that the store runs, as functions of a connection. Each runs inside a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from attrs import evolve

from tasksubmit.errors import StaleTask, StoreError
from tasksubmit.lifecycle.change import Change, Delivery
from tasksubmit.lifecycle.table import Deadline, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.stores.rows import (
    DELIVERY_COLUMNS,
    TASK_COLUMNS,
    changed_values,
    delivery_from_row,
    key_values,
    optional_milliseconds,
    task_from_row,
    task_values,
)
from tasksubmit.wire.address import Address

_OF_KEY = "task_id = ? AND side = ? AND peer = ?"
# SQLite would rather take the index by status, and then read and sort all that is in the status; hence INDEXED BY.
_QUEUE = "tasks INDEXED BY tasks_queue WHERE side = 'receiver' AND status = 'ACCEPTED'"


# --- reading -----------------------------------------------------------------------------------------------------


def get_task(connection: sqlite3.Connection, key: TaskKey) -> Task | None:
    """The task known by `key`."""
    row = connection.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE {_OF_KEY}", key_values(key)).fetchone()
    return task_from_row(row) if row else None


def find_tasks(connection: sqlite3.Connection, task_id: str) -> list[Task]:
    """Every record with this id, of either side, from or for whatever peer."""
    return [
        task_from_row(row)
        for row in connection.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id = ?", (task_id,))
    ]


def list_tasks(
    connection: sqlite3.Connection,
    side: Side | None,
    status: TaskStatus | None,
    peer: Address | None,
    before: int | None,
    limit: int,
) -> list[Task]:
    """Records newest first, filtered; see `ITaskStore.list_tasks`."""
    filters = {"side": side and side.value, "status": status and status.value, "peer": peer and str(peer)}
    conditions = [f"{column} = ?" for column, value in filters.items() if value is not None]
    values: list[object] = [value for value in filters.values() if value is not None]
    if before is not None:
        conditions.append("number < ?")
        values.append(before)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    sql = f"SELECT {TASK_COLUMNS} FROM tasks {where} ORDER BY number DESC LIMIT ?"
    return [task_from_row(row) for row in connection.execute(sql, (*values, limit))]


def queue(connection: sqlite3.Connection, limit: int) -> list[Task]:
    """The first `limit` tasks of the queue, head first."""
    sql = f"SELECT {TASK_COLUMNS} FROM {_QUEUE} ORDER BY queue_position LIMIT ?"
    return [task_from_row(row) for row in connection.execute(sql, (limit,))]


def due_tasks_sql(deadline: Deadline) -> str:
    """The look-up for one deadline, worded like its index in the schema, so that SQLite can use that."""
    index = f"tasks_{deadline.side.value}_{deadline.since}"
    statuses = ", ".join(f"'{status.value}'" for status in deadline.statuses)
    unless = f" AND {deadline.unless} IS NULL" if deadline.unless else ""
    return (
        f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY {index}"
        f" WHERE side = '{deadline.side.value}' AND status IN ({statuses}){unless}"
        f" AND {deadline.since} < ? ORDER BY {deadline.since} LIMIT ?"
    )


def due_tasks(connection: sqlite3.Connection, deadline: Deadline, before: datetime, limit: int) -> list[Task]:
    """Up to ``limit`` tasks that meet ``deadline``, its column before ``before``; the longest due first."""
    rows = connection.execute(due_tasks_sql(deadline), (to_milliseconds(before), limit))
    return [task_from_row(row) for row in rows]


def ready_deliveries(
    connection: sqlite3.Connection, peer: Address, now: datetime, limit: int
) -> list[tuple[Delivery, Task]]:
    """Up to `limit` messages that may be sent to ``peer`` now, each with its task, the longest ready first."""
    sql = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE peer = ? AND ready_at <= ? ORDER BY ready_at, id LIMIT ?"
    rows = connection.execute(sql, (str(peer), to_milliseconds(now), limit)).fetchall()
    found = []
    for row in rows:
        delivery = delivery_from_row(row)
        task = get_task(connection, delivery.key)
        if task is not None:
            found.append((delivery, task))
    return found


def next_delivery(connection: sqlite3.Connection, peer: Address) -> datetime | None:
    """When the next message may be sent to ``peer``; None when nothing is owed to it."""
    sql = "SELECT min(ready_at) FROM deliveries WHERE peer = ? AND ready_at IS NOT NULL"
    (ready_at,) = connection.execute(sql, (str(peer),)).fetchone()
    return None if ready_at is None else from_milliseconds(ready_at)


def owed_peers(connection: sqlite3.Connection) -> list[Address]:
    """Every peer to whom something is owed."""
    return [Address.parse(peer) for (peer,) in connection.execute("SELECT DISTINCT peer FROM deliveries")]


def deliveries_of(connection: sqlite3.Connection, key: TaskKey) -> list[Delivery]:
    """What is owed for one task, in order."""
    sql = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE {_OF_KEY} ORDER BY id"
    return [delivery_from_row(row) for row in connection.execute(sql, key_values(key))]


def scores(connection: sqlite3.Connection) -> list[tuple[Address, int]]:
    """The score of every address that has one, by address."""
    rows = connection.execute("SELECT party, points FROM scores ORDER BY party")
    return [(Address.parse(party), points) for party, points in rows]


def peer_features(connection: sqlite3.Connection) -> dict[Address, frozenset[str]]:
    """What each peer last announced."""
    rows = connection.execute("SELECT peer, features FROM peer_features")
    return {Address.parse(peer): frozenset(features.split()) for peer, features in rows}


def is_result_named(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a record names this result file."""
    sql = "SELECT 1 FROM tasks WHERE result_file = ? OR late_result_file = ? LIMIT 1"
    return connection.execute(sql, (name, name)).fetchone() is not None


def own_by(connection: sqlite3.Connection, name: str, address: Address) -> None:
    """Make the database called ``name`` belong to the node at ``address``, unless it does.

    :raises StoreError: when it belongs to another.
    """
    row = connection.execute("SELECT address FROM owner").fetchone()
    if row is None:
        connection.execute("INSERT INTO owner (address) VALUES (?)", (str(address),))
    elif row[0] != str(address):
        raise StoreError(
            f"{name} holds the tasks of {row[0]}, not of {address}: give that --address, or another --state-dir"
        )


# --- writing -----------------------------------------------------------------------------------------------------


def create_task(connection: sqlite3.Connection, task: Task, deliveries: Iterable[Delivery]) -> tuple[Task, bool]:
    """Insert a record; returns it and True, or the one that has its key already and False."""
    values = task_values(task, without="number")
    cursor = connection.execute(
        f"INSERT INTO tasks ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
        " ON CONFLICT (task_id, side, peer) DO NOTHING",
        tuple(values.values()),
    )
    if cursor.rowcount == 0:
        existing = get_task(connection, task.key)
        assert existing is not None
        return existing, False
    for delivery in deliveries:
        _add_delivery(connection, delivery)
    assert cursor.lastrowid is not None
    return evolve(task, number=cursor.lastrowid), True


def apply_change(connection: sqlite3.Connection, change: Change) -> Task:
    """Carry out `change` and return the record as it is now; see `ITaskStore.apply`."""
    before, after = change.before, change.after
    was_queued, is_queued = _is_queued(before), _is_queued(after)
    if is_queued != was_queued:
        after = evolve(after, queue_position=_next_position(connection) if is_queued else None)
    _compare_and_set(connection, before, after)
    if is_queued != was_queued:
        _stage_head(connection, change.at)
    for delivery in change.deliveries:
        _add_delivery(connection, delivery)
    for booking in change.bookings:
        _book(connection, before.key, booking.party, booking.points, booking.reason, change.at)
    if change.settles is not None:
        _settle(connection, before.key, change.settles, change.at)
    task = get_task(connection, before.key)
    assert task is not None
    return task


def postpone_delivery(connection: sqlite3.Connection, delivery_id: int, ready_at: datetime, error: str) -> None:
    """Note a failed attempt, and when the next may be made."""
    connection.execute(
        "UPDATE deliveries SET ready_at = ?, sent_at = NULL, attempts = attempts + 1, last_error = ? WHERE id = ?",
        (to_milliseconds(ready_at), error, delivery_id),
    )


def mark_sent(connection: sqlite3.Connection, delivery_id: int, now: datetime) -> None:
    """Note that a message is about to be sent to a peer that may not be sent it twice."""
    connection.execute("UPDATE deliveries SET sent_at = ? WHERE id = ?", (to_milliseconds(now), delivery_id))


def remember_features(connection: sqlite3.Connection, peer: Address, features: Iterable[str]) -> None:
    """Keep what ``peer`` announced."""
    connection.execute(
        "INSERT INTO peer_features (peer, features) VALUES (?, ?)"
        " ON CONFLICT (peer) DO UPDATE SET features = excluded.features",
        (str(peer), " ".join(sorted(features))),
    )


def _is_queued(task: Task) -> bool:
    return task.side is Side.RECEIVER and task.status is TaskStatus.ACCEPTED


def _next_position(connection: sqlite3.Connection) -> int:
    row = connection.execute(f"SELECT coalesce(max(queue_position), 0) + 1 FROM {_QUEUE}").fetchone()
    return int(row[0])


def _stage_head(connection: sqlite3.Connection, now: datetime) -> None:
    connection.execute(
        "UPDATE tasks SET staged_at = ?, revision = revision + 1 WHERE staged_at IS NULL AND number ="
        f" (SELECT number FROM {_QUEUE} ORDER BY queue_position LIMIT 1)",
        (to_milliseconds(now),),
    )


def _compare_and_set(connection: sqlite3.Connection, before: Task, after: Task) -> None:
    values = changed_values(before, after)
    if not values:
        return
    assignments = "".join(f"{column} = ?, " for column in values)
    cursor = connection.execute(
        f"UPDATE tasks SET {assignments}revision = revision + 1 WHERE number = ? AND status = ? AND revision = ?",
        (*values.values(), before.number, before.status.value, before.revision),
    )
    if cursor.rowcount == 0:
        raise StaleTask(f"task {before.task_id} is no longer {before.status}: it was changed meanwhile")


def _add_delivery(connection: sqlite3.Connection, delivery: Delivery) -> None:
    key = key_values(delivery.key)
    blocked = connection.execute(f"SELECT 1 FROM deliveries WHERE {_OF_KEY} LIMIT 1", key).fetchone()
    ready_at = None if blocked else delivery.created_at
    connection.execute(
        "INSERT INTO deliveries (task_id, side, peer, kind, payload, created_at, ready_at, attempts, last_error)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0, '')",
        (
            *key,
            delivery.kind.value,
            delivery.payload,
            to_milliseconds(delivery.created_at),
            optional_milliseconds(ready_at),
        ),
    )


def _settle(connection: sqlite3.Connection, key: TaskKey, delivery_id: int, now: datetime) -> None:
    """Remove a delivery, and let the next one of its task go."""
    connection.execute("DELETE FROM deliveries WHERE id = ?", (delivery_id,))
    connection.execute(
        "UPDATE deliveries SET ready_at = ? WHERE ready_at IS NULL AND id ="
        f" (SELECT min(id) FROM deliveries WHERE {_OF_KEY})",
        (to_milliseconds(now), *key_values(key)),
    )


def _book(
    connection: sqlite3.Connection, key: TaskKey, party: Address, points: int, reason: str, now: datetime
) -> None:
    """Add points to the ledger, unless this side of the task has booked for this party before."""
    cursor = connection.execute(
        "INSERT INTO bookings (task_id, side, peer, party, points, reason, booked_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (*key_values(key), str(party), points, reason, to_milliseconds(now)),
    )
    if cursor.rowcount:
        connection.execute(
            "INSERT INTO scores (party, points) VALUES (?, ?)"
            " ON CONFLICT (party) DO UPDATE SET points = scores.points + excluded.points",
            (str(party), points),
        )
