"""What is owed to peers: the statements about deliveries, as functions of a connection inside a transaction.

Of the messages of one task only the first may be sent; one that was given up counts no longer.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.task import TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.stores.rows import DELIVERY_COLUMNS, OF_KEY, delivery_from_row, key_values, optional_milliseconds
from tasksubmit.wire.address import Address

_OWED = f"{OF_KEY} AND given_up_at IS NULL"


# --- reading -----------------------------------------------------------------------------------------------------


def ready(connection: sqlite3.Connection, peer: Address, now: datetime, limit: int) -> list[Delivery]:
    """Up to `limit` messages that may be sent to ``peer`` now, the longest ready first."""
    sql = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE peer = ? AND ready_at <= ? ORDER BY ready_at, id LIMIT ?"
    return [delivery_from_row(row) for row in connection.execute(sql, (str(peer), to_milliseconds(now), limit))]


def next_at(connection: sqlite3.Connection, peer: Address) -> datetime | None:
    """When the next message may be sent to ``peer``; None when nothing is owed to it."""
    sql = "SELECT min(ready_at) FROM deliveries WHERE peer = ? AND ready_at IS NOT NULL"
    (ready_at,) = connection.execute(sql, (str(peer),)).fetchone()
    return None if ready_at is None else from_milliseconds(ready_at)


def aged(connection: sqlite3.Connection, before: datetime, limit: int) -> list[Delivery]:
    """Up to `limit` messages that became owed before ``before`` and were not given up, the oldest first."""
    sql = (
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries INDEXED BY deliveries_by_age"
        " WHERE given_up_at IS NULL AND created_at < ? ORDER BY created_at LIMIT ?"
    )
    return [delivery_from_row(row) for row in connection.execute(sql, (to_milliseconds(before), limit))]


def owed_peers(connection: sqlite3.Connection) -> list[Address]:
    """Every peer to whom something is owed."""
    rows = connection.execute("SELECT DISTINCT peer FROM deliveries WHERE ready_at IS NOT NULL")
    return [Address.parse(peer) for (peer,) in rows]


def of_task(connection: sqlite3.Connection, key: TaskKey) -> list[Delivery]:
    """What is owed for one task, or was given up, in order."""
    sql = f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE {OF_KEY} ORDER BY id"
    return [delivery_from_row(row) for row in connection.execute(sql, key_values(key))]


# --- writing -----------------------------------------------------------------------------------------------------


def add(connection: sqlite3.Connection, delivery: Delivery) -> None:
    """Owe a message: behind those of its task that are owed already."""
    key = key_values(delivery.key)
    sql = f"SELECT id, kind, ready_at, given_up_at FROM deliveries WHERE {OF_KEY} ORDER BY id"
    rows = connection.execute(sql, key).fetchall()
    owed = [row for row in rows if row[3] is None]
    if delivery.kind is DeliveryKind.SUBMISSION:
        same = [(number, given_up_at) for number, kind, _, given_up_at in rows if kind == delivery.kind.value]
        if any(given_up_at is None for _, given_up_at in same):
            return
        for number, _ in same:  # the new one takes its place
            connection.execute("DELETE FROM deliveries WHERE id = ?", (number,))
    if delivery.kind is DeliveryKind.PROGRESS and owed:
        last_id, last_kind, last_ready_at, _ = owed[-1]
        if last_kind == delivery.kind.value and last_ready_at is None:
            connection.execute("UPDATE deliveries SET payload = ? WHERE id = ?", (delivery.payload, last_id))
            return
    ready_at = None if owed else delivery.created_at
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


def postpone(connection: sqlite3.Connection, delivery_id: int, ready_at: datetime, error: str, is_unsent: bool) -> None:
    """Note a failed attempt, and when the next may be made; not of one that was given up meanwhile.

    One that came to wait behind another meanwhile goes on waiting. Of one that ``is_unsent`` it is forgotten that it
    may have been sent.
    """
    connection.execute(
        "UPDATE deliveries SET ready_at = CASE WHEN ready_at IS NULL THEN NULL ELSE ? END,"
        " sent_at = CASE WHEN ? THEN NULL ELSE sent_at END, attempts = attempts + 1, last_error = ?"
        " WHERE id = ? AND given_up_at IS NULL",
        (to_milliseconds(ready_at), is_unsent, error, delivery_id),
    )


def mark_sent(connection: sqlite3.Connection, delivery_id: int, now: datetime) -> None:
    """Note that a message is about to be sent to a peer that may not be sent it twice."""
    connection.execute("UPDATE deliveries SET sent_at = ? WHERE id = ?", (to_milliseconds(now), delivery_id))


def settle(connection: sqlite3.Connection, key: TaskKey, delivery_id: int, now: datetime) -> None:
    """Remove a delivery, and let the next one of its task go."""
    connection.execute("DELETE FROM deliveries WHERE id = ?", (delivery_id,))
    _let_next_go(connection, key, now)


def give_up(connection: sqlite3.Connection, key: TaskKey, delivery_id: int, now: datetime) -> None:
    """Keep a delivery, but do not try it again, and let the next one of its task go."""
    connection.execute(
        "UPDATE deliveries SET given_up_at = ?, ready_at = NULL WHERE id = ?", (to_milliseconds(now), delivery_id)
    )
    _let_next_go(connection, key, now)


def revive(connection: sqlite3.Connection, key: TaskKey, now: datetime) -> None:
    """Try what was given up for a task again, as if it were new: before what is owed, for it is older."""
    connection.execute(
        f"UPDATE deliveries SET given_up_at = NULL, ready_at = NULL, attempts = 0, created_at = ? WHERE {OF_KEY}"
        " AND given_up_at IS NOT NULL",
        (to_milliseconds(now), *key_values(key)),
    )
    connection.execute(
        f"UPDATE deliveries SET ready_at = NULL WHERE {_OWED} AND id > (SELECT min(id) FROM deliveries WHERE {_OWED})",
        (*key_values(key), *key_values(key)),
    )
    _let_next_go(connection, key, now)


def _let_next_go(connection: sqlite3.Connection, key: TaskKey, now: datetime) -> None:
    connection.execute(
        "UPDATE deliveries SET ready_at = ? WHERE ready_at IS NULL AND id ="
        f" (SELECT min(id) FROM deliveries WHERE {_OWED})",
        (to_milliseconds(now), *key_values(key)),
    )
