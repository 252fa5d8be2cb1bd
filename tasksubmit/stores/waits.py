"""Limits of waits after a start, when the clock may have been set back: see `ITaskStore.limit_waits`.

Every statement goes through the index of a deadline, or of the pending deliveries. With a clock that is right they find
nothing but running leases and back-offs, so that a start costs what waits, not what is stored, and reads no page of a
record that is none of its business: that page may be damaged.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from tasksubmit.lifecycle.change import LONGEST_WAIT
from tasksubmit.lifecycle.table import DEADLINES, Deadline, Side
from tasksubmit.lifecycle.task import to_milliseconds
from tasksubmit.stores.queries import CLOCK, due_tasks_sql, keep_note, note

_LATEST = {
    "lease_expires_at": ":now + lease_ms",
    **dict.fromkeys(("staged_at", "held_at", "heard_at", "undecided_since", "news_at"), ":now"),
}
"""The columns that deadlines count from and that people do not see, and the latest time that each may hold."""

_OF_DELIVERY = "task_id = deliveries.task_id AND side = deliveries.side AND peer = deliveries.peer"

# When the message, or what happened to its task, was last written.
_WRITTEN_AT = (
    "max(created_at, coalesce((SELECT max(coalesce(last_at, at)) FROM events"
    f" WHERE task = (SELECT number FROM tasks WHERE {_OF_DELIVERY})), created_at))"
)


def limit_waits(connection: sqlite3.Connection, now: datetime) -> None:
    """Limit every wait to its maximum."""
    times = {"now": to_milliseconds(now), "longest": LONGEST_WAIT // timedelta(milliseconds=1)}
    times["was"] = int(note(connection, CLOCK) or times["now"])
    keep_note(connection, CLOCK, str(times["now"]))
    for (peer,) in connection.execute("SELECT DISTINCT peer FROM deliveries WHERE ready_at IS NOT NULL").fetchall():
        connection.execute(
            f"UPDATE deliveries SET ready_at = CASE WHEN max(:was, {_WRITTEN_AT}) > :now THEN :now"
            " ELSE min(ready_at, :now + :longest) END WHERE peer = :peer AND ready_at > :now",
            {**times, "peer": peer},
        )
    for deadline in DEADLINES:
        if sql := _limit_sql(deadline):
            connection.execute(sql, times)


def _limit_sql(deadline: Deadline) -> str:
    """Return the statement that limits the column of a deadline; empty if that stays as it is.

    The deadline for a decision counts from the creation, which people see. But its submitter waits for it.
    """
    column = deadline.since
    latest = _LATEST.get(column, ":now" if (deadline.side, column) == (Side.RECEIVER, "created_at") else "")
    if not latest:
        return ""
    # The index and its condition, as the look-up for the deadline words them.
    index, _, condition = due_tasks_sql(deadline).partition(" FROM tasks ")[2].partition(" WHERE ")
    condition = condition.partition(f" AND {column} < ")[0]
    return (
        f"UPDATE tasks {index} SET {column} = {latest}, revision = revision + 1"
        f" WHERE {condition} AND {column} > :now AND {column} > {latest}"
    )
