"""The statements about tasks, as functions of a connection. Each runs inside a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta

from attrs import evolve

from tasksubmit.errors import StaleTask, StoreError, TaskForgotten
from tasksubmit.lifecycle.change import Change, Delivery, TaskEvent
from tasksubmit.lifecycle.table import Deadline, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, to_milliseconds
from tasksubmit.stores import deliveries, events, retention
from tasksubmit.stores.rows import (
    OF_KEY,
    SHIFTED_COLUMNS,
    TASK_COLUMNS,
    as_many_as_fit,
    changed_values,
    key_values,
    task_from_row,
    task_values,
)
from tasksubmit.wire.address import Address
from tasksubmit.wire.timestamps import format_time

# SQLite would rather take the index by status, and then read and sort all that is in the status; hence INDEXED BY.
_QUEUE = "tasks INDEXED BY tasks_queue WHERE side = 'receiver' AND status = 'ACCEPTED'"


# --- reading -----------------------------------------------------------------------------------------------------


def get_task(connection: sqlite3.Connection, key: TaskKey) -> Task | None:
    """The task known by `key`."""
    row = connection.execute(f"SELECT {TASK_COLUMNS} FROM tasks WHERE {OF_KEY}", key_values(key)).fetchone()
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


def put_back(connection: sqlite3.Connection, limit: int) -> list[Task]:
    """The first `limit` of the EXECUTING tasks that wait to be taken again, the longest waiting first."""
    sql = (
        f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY tasks_receiver_put_back_at WHERE side = 'receiver'"
        " AND status IN ('EXECUTING') AND put_back_at IS NOT NULL ORDER BY put_back_at, number LIMIT ?"
    )
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
    return list(as_many_as_fit(map(task_from_row, rows)))


def with_tasks(connection: sqlite3.Connection, found: Iterable[Delivery]) -> list[tuple[Delivery, Task]]:
    """Deliveries, each with its task; the first of them, if their tasks are long."""
    pairs = ((delivery, get_task(connection, delivery.key)) for delivery in found)
    return list(as_many_as_fit(((delivery, task) for delivery, task in pairs if task), lambda pair: pair[1]))


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
    # The name begins with the task's id and an underscore, which ids may have, too.
    parts = name.split("_")
    task_ids = ["_".join(parts[:length]) for length in range(1, len(parts))]
    sql = "SELECT 1 FROM tasks WHERE task_id = ? AND ? IN (result_file, late_result_file) LIMIT 1"
    return any(connection.execute(sql, (task_id, name)).fetchone() for task_id in task_ids)


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


def create_task(connection: sqlite3.Connection, task: Task, owed: Iterable[Delivery]) -> tuple[Task, bool]:
    """Insert a record; returns it and True, or the one that has its key already and False.

    :raises TaskForgotten: when retention has removed the one that had it.
    """
    tombstone = retention.tombstone(connection, task.key)
    if tombstone is not None:
        raise TaskForgotten(
            f"task {task.task_id} was {tombstone.status}, and was removed on {format_time(tombstone.removed_at)}; use"
            " another id"
        )
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
    for delivery in owed:
        deliveries.add(connection, delivery)
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
    for event in change.events:
        events.tell(connection, before.number, event)
    for delivery in change.deliveries:
        deliveries.add(connection, delivery)
    for booking in change.bookings:
        _book(connection, before.key, booking.party, booking.points, booking.reason, change.at)
    if change.settles is not None:
        deliveries.settle(connection, before.key, change.settles, change.at)
    if change.gives_up is not None:
        deliveries.give_up(connection, before.key, change.gives_up, change.at)
    if change.revives:
        deliveries.revive(connection, before.key, change.at)
    task = get_task(connection, before.key)
    assert task is not None
    return task


def postpone_delivery(
    connection: sqlite3.Connection,
    delivery: Delivery,
    event: TaskEvent,
    ready_at: datetime,
    error: str,
    is_unsent: bool = False,
) -> None:
    """Note a failed attempt, and when the next may be made."""
    deliveries.postpone(connection, delivery.id, ready_at, error, is_unsent)
    row = connection.execute(f"SELECT number FROM tasks WHERE {OF_KEY}", key_values(delivery.key)).fetchone()
    if row is not None:
        events.tell(connection, row[0], event)


def shift_times(connection: sqlite3.Connection, by: timedelta) -> None:
    """Move the times of everything that is under way, because the clock was set by so much."""
    milliseconds = by // timedelta(milliseconds=1)
    # NULL plus anything is NULL.
    tasks = ", ".join(f"{column} = {column} + :by" for column in SHIFTED_COLUMNS)
    connection.execute(
        f"UPDATE tasks SET {tasks}, revision = revision + 1 WHERE ended_at IS NULL", {"by": milliseconds}
    )
    for statement in (
        "UPDATE tasks SET ended_at = ended_at + :by WHERE ended_at IS NOT NULL",
        "UPDATE tombstones SET removed_at = removed_at + :by",
        "UPDATE deliveries SET created_at = created_at + :by, ready_at = ready_at + :by",
    ):
        connection.execute(statement, {"by": milliseconds})


def end_bound_leases(connection: sqlite3.Connection) -> None:
    """Let every lease run out that does not outlive its node."""
    connection.execute(
        "UPDATE tasks SET lease_expires_at = 0, revision = revision + 1 WHERE side = 'receiver'"
        " AND status IN ('EXECUTING') AND lease_expires_at IS NOT NULL AND is_lease_bound"
    )


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
