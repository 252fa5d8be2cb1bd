"""What is owed to peers: the statements about deliveries, as functions of a connection inside a transaction.

Of the messages of one task only the first may be sent; one that was given up counts no longer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from datetime import datetime

from attrs import define, frozen

from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey, from_milliseconds, to_milliseconds
from tasksubmit.stores import bulk
from tasksubmit.stores.rows import DELIVERY_COLUMNS, OF_KEY, delivery_from_row, key_values
from tasksubmit.wire.address import Address

# --- reading -----------------------------------------------------------------------------------------------------


def ready(
    connection: sqlite3.Connection,
    peer: Address,
    now: datetime,
    limit: int,
    skip: Collection[int],
    kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
    sides: Collection[Side] = tuple(Side),
) -> list[Delivery]:
    """Up to ``limit`` messages that may be sent to ``peer`` now, the longest ready first, without those in ``skip``."""
    marks, skipped = bulk.among([0, *skip])  # no message has the id 0
    sql = (
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries WHERE peer = ? AND ready_at <= ?{_among(kinds, sides)}"
        f" AND id NOT IN {marks}"
        " ORDER BY ready_at, id LIMIT ?"
    )
    return [
        delivery_from_row(row) for row in connection.execute(sql, (str(peer), to_milliseconds(now), *skipped, limit))
    ]


def _among(kinds: Collection[DeliveryKind], sides: Collection[Side]) -> str:
    """The condition that a message is of one of the kinds, and about a record of one of the sides."""
    conditions = []
    for column, values, every in (("kind", kinds, DeliveryKind), ("side", sides, Side)):
        if len(values) < len(every):
            conditions.append(f" AND {column} IN ({', '.join(repr(value.value) for value in values)})")
    return "".join(conditions)


def next_at(
    connection: sqlite3.Connection,
    peer: Address,
    kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
    sides: Collection[Side] = tuple(Side),
) -> datetime | None:
    """When the next message of one of ``kinds`` may be sent to ``peer``; None when none is owed to it."""
    sql = f"SELECT min(ready_at) FROM deliveries WHERE peer = ? AND ready_at IS NOT NULL{_among(kinds, sides)}"
    (ready_at,) = connection.execute(sql, (str(peer),)).fetchone()
    return None if ready_at is None else from_milliseconds(ready_at)


def aged(connection: sqlite3.Connection, before: datetime, limit: int) -> list[Delivery]:
    """Up to ``limit`` messages that became owed before ``before`` and were not given up, the oldest first.

    Submissions are not among them: they have a deadline of their own.
    """
    sql = (
        f"SELECT {DELIVERY_COLUMNS} FROM deliveries INDEXED BY deliveries_by_age"
        " WHERE given_up_at IS NULL AND kind <> 'submission' AND created_at < ? ORDER BY created_at LIMIT ?"
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


@frozen
class Step:
    """What one change does to what is owed for a task.

    :ivar at: when; what then comes first may be sent from then on.
    :ivar owes: messages that become owed, behind those that are.
    :ivar settles: the id of a message that needs not be sent any more.
    :ivar gives_up: the id of one that is kept, and not tried again.
    :ivar drops_pending: whether what was pending is not sent any more, but for what it gives up.
    :ivar revives: whether what was given up is tried again, as if it were new: first, for it is older.
    """

    key: TaskKey
    at: datetime
    owes: Sequence[Delivery] = ()
    settles: int | None = None
    gives_up: int | None = None
    revives: bool = False
    drops_pending: bool = False


@define
class _Line:
    """A message that is owed, or was given up; `id` is 0 before it has a row. Times are as in their columns."""

    id: int
    kind: DeliveryKind
    created_at: int
    ready_at: int | None
    attempts: int
    given_up_at: int | None
    payload: bytes | None = None
    """What it says, if that is new."""


def carry_out(connection: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Do what ``steps`` say, one after the other."""
    of_tasks: dict[tuple[str, str, str], list[_Line]] = {key_values(step.key): [] for step in steps}
    before = {}
    for task_id, side, peer, *values in sorted(bulk.execute(connection, _LINES, {step.key.task_id for step in steps})):
        lines = of_tasks.get((task_id, side, peer))
        if lines is not None:
            lines.append(_Line(*values))
            before[values[0]] = _Line(*values)  # as it was
    for step in steps:
        _take(of_tasks[key_values(step.key)], step)
    rows = []
    changed = []
    for key, lines in of_tasks.items():
        for line in lines:
            if not line.id:
                rows.append((*key, line.kind.value, line.payload, line.created_at, line.ready_at, line.attempts, ""))
            elif before.pop(line.id) != line:
                changed.append((line.id, line.created_at, line.ready_at, line.attempts, line.given_up_at))
                if line.payload is not None:
                    connection.execute("UPDATE deliveries SET payload = ? WHERE id = ?", (line.payload, line.id))
    bulk.execute(connection, "DELETE FROM deliveries WHERE id IN {}", before)
    bulk.update(connection, "deliveries", "id", "created_at, ready_at, attempts, given_up_at", changed)
    bulk.insert(connection, "deliveries", _NEW_COLUMNS, rows)


_LINES = (
    "SELECT task_id, side, peer, id, kind, created_at, ready_at, attempts, given_up_at FROM deliveries"
    " WHERE task_id IN {}"
)
_NEW_COLUMNS = "task_id, side, peer, kind, payload, created_at, ready_at, attempts, last_error"


def _take(lines: list[_Line], step: Step) -> None:
    """Change what is owed for one task, all of which is in ``lines``."""
    at = to_milliseconds(step.at)
    if step.drops_pending:
        lines[:] = [line for line in lines if line.given_up_at is not None or (line.id and line.id == step.gives_up)]
    for delivery in step.owes:
        _owe(lines, delivery)
    lines[:] = [line for line in lines if not line.id or line.id != step.settles]
    for line in lines:
        if line.id and line.id == step.gives_up:
            line.given_up_at, line.ready_at = at, None
        if step.revives and line.given_up_at is not None:
            line.created_at, line.ready_at, line.attempts, line.given_up_at = at, None, 0, None
    first, *rest = [line for line in lines if line.given_up_at is None] or (None,)
    if first is not None and first.ready_at is None:
        first.ready_at = at
    for line in rest:
        line.ready_at = None


def _owe(lines: list[_Line], delivery: Delivery) -> None:
    """Owe a message, behind those that are owed already."""
    owed = [line for line in lines if line.given_up_at is None]
    if delivery.kind is DeliveryKind.SUBMISSION:
        if any(line.kind == delivery.kind for line in owed):
            return
        lines[:] = [line for line in lines if line.kind != delivery.kind]  # the new one takes its place
    if delivery.kind is DeliveryKind.PROGRESS and owed and owed[-1].kind == delivery.kind and owed[-1].ready_at is None:
        owed[-1].payload = delivery.payload
        return
    created_at = to_milliseconds(delivery.created_at)
    ready_at = max(created_at, to_milliseconds(delivery.ready_at)) if delivery.ready_at else created_at
    lines.append(_Line(0, delivery.kind, created_at, None if owed else ready_at, 0, None, delivery.payload))


def postpone(connection: sqlite3.Connection, delivery_id: int, ready_at: datetime, error: str) -> None:
    """Note a failed attempt, and when the next may be made; not of one that was given up meanwhile.

    One that came to wait behind another meanwhile goes on waiting.
    """
    connection.execute(
        "UPDATE deliveries SET ready_at = CASE WHEN ready_at IS NULL THEN NULL ELSE ? END,"
        " attempts = attempts + 1, last_error = ? WHERE id = ? AND given_up_at IS NULL",
        (to_milliseconds(ready_at), error, delivery_id),
    )


def hasten(connection: sqlite3.Connection, now: datetime) -> None:
    """Let what waits for its next attempt be sent from ``now`` on; what is held before its first one stays held."""
    connection.execute(
        "UPDATE deliveries SET ready_at = ?1 WHERE ready_at > ?1 AND attempts > 0", (to_milliseconds(now),)
    )
