"""The statements about tasks, as functions of a connection. Each runs inside a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from functools import cache
from os.path import splitext

from attrs import evolve

from tasksubmit.errors import StoreError
from tasksubmit.interfaces import PeerLoad
from tasksubmit.lifecycle.change import LONGEST_WAIT, Delivery, TaskEvent, Tombstone
from tasksubmit.lifecycle.table import Deadline, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, to_milliseconds
from tasksubmit.stores import bulk, deliveries, events, rows
from tasksubmit.stores.rows import (
    OF_KEY,
    SHIFTED_COLUMNS,
    TASK_COLUMNS,
    TOMBSTONE_COLUMNS,
    as_many_as_fit,
    key_values,
    task_from_row,
    tombstone_from_row,
)
from tasksubmit.wire.address import Address

# SQLite would rather take the index by status, and then read and sort all that is in the status; hence INDEXED BY.
QUEUE = "tasks INDEXED BY tasks_queue WHERE side = 'receiver' AND status = 'ACCEPTED' AND held_at IS NULL"
HELD = "tasks INDEXED BY tasks_held_places WHERE side = 'receiver' AND status = 'ACCEPTED' AND held_at IS NOT NULL"

_TASKS_AT_ONCE = 32
"""Tasks that are read to be sent, before it is seen how long they are."""


# --- reading -----------------------------------------------------------------------------------------------------


def find_tasks(connection: sqlite3.Connection, wanted: Sequence[tuple[str, Address | None]]) -> list[list[Task]]:
    """For each id every record that has it, of either side, and from or for the peer if one is given.

    The records of other peers are then told by the index, and not read: who asks for them could measure that.
    """
    peers = {peer for _, peer in wanted}
    sql, more = f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id IN {{}}", ""
    if None not in peers:
        more = f" AND peer IN ({', '.join(repr(str(peer)) for peer in sorted(map(str, peers)))})"
    found: dict[str, list[Task]] = {}
    for row in bulk.execute(connection, sql + more, [task_id for task_id, _ in wanted]):
        task = task_from_row(row)
        found.setdefault(task.task_id, []).append(task)
    return [[task for task in found.get(task_id, ()) if peer in (None, task.peer)] for task_id, peer in wanted]


def tasks_numbered(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, Task]:
    """The tasks with these numbers."""
    sql = f"SELECT {TASK_COLUMNS} FROM tasks WHERE number IN {{}}"
    return {task.number: task for task in map(task_from_row, bulk.execute(connection, sql, numbers))}


def get_tasks(connection: sqlite3.Connection, keys: Sequence[TaskKey]) -> list[Task | None]:
    """The task known by each key."""
    sql = f"SELECT {TASK_COLUMNS} FROM tasks WHERE task_id IN {{}}"
    tasks = {task.key: task for task in map(task_from_row, bulk.execute(connection, sql, _ids(keys)))}
    return [tasks.get(key) for key in keys] if tasks else [None] * len(keys)


_ARE_KNOWN = (
    "SELECT 1 FROM (SELECT task_id FROM tasks UNION ALL SELECT task_id FROM tombstones) AS known WHERE task_id IN {}"
)


def tombstones(connection: sqlite3.Connection, keys: Sequence[TaskKey]) -> list[Tombstone | None]:
    """What retention left of the task known by each key."""
    sql = f"SELECT {TOMBSTONE_COLUMNS} FROM tombstones WHERE task_id IN {{}}"
    found = {left.key: left for left in map(tombstone_from_row, bulk.execute(connection, sql, _ids(keys)))}
    return [found.get(key) for key in keys] if found else [None] * len(keys)


def recall(connection: sqlite3.Connection, keys: Sequence[TaskKey]) -> list[Task | Tombstone | None]:
    """The task known by each key, or what retention left of it."""
    if not bulk.execute(connection, _ARE_KNOWN, _ids(keys)):
        return [None] * len(keys)
    found = zip(get_tasks(connection, keys), tombstones(connection, keys), strict=True)
    return [task or tombstone for task, tombstone in found]


def _ids(keys: Iterable[TaskKey]) -> list[str]:
    return [key.task_id for key in keys]


def list_tasks(
    connection: sqlite3.Connection,
    side: Side | None,
    status: TaskStatus | None,
    peer: Address | None,
    before: int | None,
    limit: int,
    *,
    outcome: str | None = None,
    since: datetime | None = None,
    stuck_before: datetime | None = None,
    after: int | None = None,
    is_oldest_first: bool = False,
) -> list[Task]:
    """Records newest first, filtered; see `ITaskStore.list_tasks`."""
    conditions = {**_filters(side, status, peer, outcome, since, stuck_before), **_between("number", after, before)}
    order = "ASC" if is_oldest_first else "DESC"
    sql = f"SELECT {TASK_COLUMNS} FROM tasks {_where(conditions)} ORDER BY number {order} LIMIT ?"
    return list(as_many_as_fit(map(task_from_row, connection.execute(sql, (*conditions.values(), limit)))))


def count_tasks(
    connection: sqlite3.Connection,
    limit: int,
    side: Side | None,
    status: TaskStatus | None,
    peer: Address | None,
    outcome: str | None,
    since: datetime | None,
    stuck_before: datetime | None,
) -> tuple[int, bool]:
    """Count records among the newest ``limit``; see `ITaskStore.count_tasks`."""
    first, last = connection.execute("SELECT coalesce(min(number), 0), coalesce(max(number), 0) FROM tasks").fetchone()
    filters = _filters(side, status, peer, outcome, since, stuck_before)
    conditions = {**filters, **_between("number", last - limit, None)}
    # With any status, the index by status holds all that is asked for, and is far smaller than the records.
    sql = f"SELECT count(*) FROM tasks {_where([*conditions, *([] if filters else [_one_of(TaskStatus)])])}"
    (count,) = connection.execute(sql, tuple(conditions.values())).fetchone()
    return int(count), bool(first > last - limit)


def _one_of(statuses: Iterable[TaskStatus]) -> str:
    words = ", ".join(f"'{status.value}'" for status in statuses)
    return f"status IN ({words})"


_STUCK = f"""(number IN (
        SELECT stuck.number FROM deliveries JOIN tasks AS stuck
            ON (stuck.task_id, stuck.side, stuck.peer) = (deliveries.task_id, deliveries.side, deliveries.peer)
        WHERE deliveries.attempts > 0 OR deliveries.given_up_at IS NOT NULL
    ) OR ({_one_of(status for status in TaskStatus if not status.is_final)} AND ended_at IS NULL AND created_at < ?))"""


def _filters(
    side: Side | None,
    status: TaskStatus | None,
    peer: Address | None,
    outcome: str | None,
    since: datetime | None,
    stuck_before: datetime | None,
) -> dict[str, object]:
    """Conditions with one parameter each, and their parameters."""
    filters: dict[str, object | None] = {
        "side = ?": side and side.value,
        "status = ?": status and status.value,
        "peer = ?": peer and str(peer),
        "outcome = ?": outcome,
        "created_at >= ?": since and to_milliseconds(since),
        _STUCK: stuck_before and to_milliseconds(stuck_before),
    }
    return {condition: value for condition, value in filters.items() if value is not None}


def _between(column: str, after: int | None, before: int | None) -> dict[str, object]:
    bounds = {f"{column} > ?": after, f"{column} < ?": before}
    return {condition: value for condition, value in bounds.items() if value is not None}


def _where(conditions: Iterable[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def queue(
    connection: sqlite3.Connection, limit: int, after: int | None = None, before: int | None = None
) -> list[Task]:
    """The first ``limit`` tasks of the queue, head first; see `ITaskStore.queue`."""
    conditions = _between("queue_position", after, before)
    sql = (
        f"SELECT {TASK_COLUMNS} FROM {QUEUE}{''.join(f' AND {condition}' for condition in conditions)}"
        " ORDER BY queue_position LIMIT ?"
    )
    return list(as_many_as_fit(map(task_from_row, connection.execute(sql, (*conditions.values(), limit)))))


def put_back(connection: sqlite3.Connection, limit: int) -> list[Task]:
    """The first ``limit`` of the EXECUTING tasks that wait to be taken again, the longest waiting first."""
    sql = (
        f"SELECT {TASK_COLUMNS} FROM tasks INDEXED BY tasks_receiver_put_back_at WHERE side = 'receiver'"
        " AND status IN ('EXECUTING') AND put_back_at IS NOT NULL AND held_at IS NULL"
        " ORDER BY put_back_at, number LIMIT ?"
    )
    return [task_from_row(row) for row in connection.execute(sql, (limit,))]


def passed_deadlines(connection: sqlite3.Connection, limits: Sequence[tuple[Deadline, datetime]]) -> list[Deadline]:
    """Those deadlines that a record meets; see `ITaskStore.passed_deadlines`."""
    sql = passed_deadlines_sql(tuple(deadline for deadline, _ in limits))
    rows = connection.execute(sql, [to_milliseconds(before) for _, before in limits])
    return [limits[position][0] for (position,) in rows]


@cache
def passed_deadlines_sql(deadlines: tuple[Deadline, ...]) -> str:
    """One statement that gives the positions of the deadlines that a record meets."""
    return " UNION ALL ".join(
        f"SELECT {position} WHERE EXISTS (SELECT 1 {_due(deadline)})" for position, deadline in enumerate(deadlines)
    )


def due_tasks_sql(deadline: Deadline) -> str:
    """The look-up of the tasks that meet one deadline."""
    return f"SELECT {TASK_COLUMNS} {_due(deadline)} ORDER BY {deadline.since} LIMIT ?"


def _due(deadline: Deadline) -> str:
    """What selects the tasks that meet a deadline, worded like its index in the schema, so that SQLite can use that."""
    index = f"tasks_{deadline.side.value}_{deadline.since}"
    statuses = ", ".join(f"'{status.value}'" for status in deadline.statuses)
    unless = "".join(f" AND {column} IS NULL" for column in deadline.unless)
    return (
        f"FROM tasks INDEXED BY {index} WHERE side = '{deadline.side.value}' AND status IN ({statuses}){unless}"
        f" AND {deadline.since} < ?"
    )


def due_tasks(connection: sqlite3.Connection, deadline: Deadline, before: datetime, limit: int) -> list[Task]:
    """Up to ``limit`` tasks that meet ``deadline``, its column before ``before``; the longest due first."""
    rows = connection.execute(due_tasks_sql(deadline), (to_milliseconds(before), limit))
    return list(as_many_as_fit(map(task_from_row, rows)))


def with_tasks(connection: sqlite3.Connection, found: Iterable[Delivery]) -> list[tuple[Delivery, Task]]:
    """Deliveries, each with its task; the first of them, if their tasks are long."""
    rest = list(found)
    pairs: list[tuple[Delivery, Task]] = []
    total = 0
    while rest and total <= rows.MAX_READ_BYTES:
        some, rest = rest[:_TASKS_AT_ONCE], rest[_TASKS_AT_ONCE:]
        for delivery, task in zip(some, get_tasks(connection, [one.key for one in some]), strict=True):
            if task is not None and total <= rows.MAX_READ_BYTES:
                pairs.append((delivery, task))
                total += len(task.description)
    return pairs


def load(connection: sqlite3.Connection) -> list[PeerLoad]:
    """The load of every peer that has any."""
    loads = {}
    for peer, records, stored_bytes in connection.execute("SELECT peer, records, stored_bytes FROM usage"):
        loads[peer] = PeerLoad(Address.parse(peer), records=records, stored_bytes=stored_bytes)
    rows = connection.execute(
        "SELECT peer, sum(status = 'NEW'), sum(status = 'ACCEPTED' AND held_at IS NULL), sum(held_at IS NOT NULL),"
        f" count(*) FROM tasks WHERE side = 'receiver' AND status IN ({_OPEN}) GROUP BY peer"
    )
    for peer, new, queued, held, open in rows:
        load = loads.get(peer) or PeerLoad(Address.parse(peer))
        loads[peer] = evolve(load, new=new, queued=queued, held=held, open=open)
    return [load for load in loads.values() if load.records or load.stored_bytes]


_OPEN = ", ".join(f"'{status}'" for status in TaskStatus if not status.is_final)


def note(connection: sqlite3.Connection, name: str) -> str:
    """What is kept under a name."""
    row = connection.execute("SELECT text FROM notes WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def keep_note(connection: sqlite3.Connection, name: str, text: str) -> None:
    """Keep a text under a name."""
    connection.execute(
        "INSERT INTO notes (name, text) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text",
        (name, text),
    )


def add_to_note(connection: sqlite3.Connection, name: str, number: int) -> None:
    """Add to the number that is kept under a name; without one, to 0."""
    keep_note(connection, name, str(int(note(connection, name) or 0) + number))


def peer_features(connection: sqlite3.Connection) -> dict[Address, frozenset[str]]:
    """What each peer last announced."""
    rows = connection.execute("SELECT peer, features FROM peer_features")
    return {Address.parse(peer): frozenset(features.split()) for peer, features in rows}


def is_result_named(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a record names this result file."""
    # The name begins with the task's id and an underscore, which ids may have, too. A plain one is the id and an
    # extension, perhaps with a number between.
    parts = name.split("_")
    plain = splitext(name)[0]
    task_ids = [*("_".join(parts[:length]) for length in range(1, len(parts))), plain, plain.rpartition("-")[0]]
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


def postpone_delivery(
    connection: sqlite3.Connection,
    delivery: Delivery,
    event: TaskEvent,
    ready_at: datetime,
    error: str,
) -> None:
    """Note a failed attempt, and when the next may be made."""
    deliveries.postpone(connection, delivery.id, ready_at, error)
    row = connection.execute(f"SELECT number FROM tasks WHERE {OF_KEY}", key_values(delivery.key)).fetchone()
    if row is not None:
        events.tell(connection, [(row[0], event)])


_EARLIEST = to_milliseconds(datetime(1900, 1, 1, tzinfo=timezone.utc))
_LATEST = to_milliseconds(datetime(9000, 1, 1, tzinfo=timezone.utc))


CLOCK = "clock_ms"
"""The name of the note of the time at the last start, or when the clock was last set."""


def shift_times(connection: sqlite3.Connection, by: timedelta, now: datetime | None) -> None:
    """Move the times of everything that is under way, because the clock was set by so much."""
    if now is not None:
        keep_note(connection, CLOCK, str(to_milliseconds(now + by)))
    times = {
        "by": by // timedelta(milliseconds=1),
        "now": _LATEST if now is None else to_milliseconds(now),
        "longest": LONGEST_WAIT // timedelta(milliseconds=1),
    }
    ahead = {"lease_expires_at": " + lease_ms", "ready_at": " + :longest"}  # how far these may lie ahead of the clock

    def moved(column: str) -> str:
        # NULL plus anything is NULL.
        new = f"max({_EARLIEST}, min({_LATEST}, {column} + :by))"
        return f"{column} = CASE WHEN {column} > :now{ahead.get(column, '')} THEN {column} ELSE {new} END"

    for table, columns, condition in (
        ("tasks", SHIFTED_COLUMNS, "ended_at IS NULL"),
        ("tasks", ["ended_at"], "ended_at IS NOT NULL"),
        ("tombstones", ["removed_at"], "TRUE"),
        ("deliveries", ["created_at", "ready_at"], "TRUE"),
    ):
        changes = [moved(column) for column in columns]
        if columns is SHIFTED_COLUMNS:
            changes.append("revision = revision + 1")
        connection.execute(f"UPDATE {table} SET {', '.join(changes)} WHERE {condition}", times)


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
