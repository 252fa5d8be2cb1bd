"""New records and changes of records, each with all that it brings about, and many of them together.

Operations as `stores.batches` has them. They read first what they need to know of all, and then write for all.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence

from tasksubmit.errors import StaleTask, TaskForgotten
from tasksubmit.lifecycle.change import Change, Delivery
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, to_milliseconds
from tasksubmit.stores import bulk, deliveries, events
from tasksubmit.stores.batches import NotTogether
from tasksubmit.stores.queries import QUEUE, get_tasks, tasks_numbered, tombstones
from tasksubmit.stores.rows import TASK_NAMES, key_values, task_values
from tasksubmit.wire.timestamps import format_time

_PLACES = {name: place for place, name in enumerate(TASK_NAMES)}
_NUMBER, _REVISION = _PLACES["number"], _PLACES["revision"]
_CREATED = ", ".join(name for name in TASK_NAMES if name != "number")  # which the database gives
_FIXED = ("number", "revision", "side", "peer", "task_id", "description", "created_at")
_CHANGED = ", ".join(name for name in TASK_NAMES if name not in _FIXED)
_CHANGED_PLACES = [_PLACES[name] for name in _CHANGED.split(", ")]


# --- new records ---------------------------------------------------------------------------------------------------


def create_tasks(
    connection: sqlite3.Connection, creations: Sequence[tuple[Task, Sequence[Delivery]]]
) -> list[tuple[Task, bool]]:
    """Insert records and what they owe; of each it and True, or the one that has its key already and False.

    :raises TaskForgotten: when retention has removed one that had the key.
    """
    for left in tombstones(connection, [task.key for task, _ in creations]):
        if left is not None:
            raise TaskForgotten(
                f"task {left.key.task_id} was {left.status}, and was removed on {format_time(left.removed_at)}; use"
                " another id"
            )
    rows = [_new_row(task) for task, _ in creations]
    created, last = bulk.insert(connection, "tasks", _CREATED, rows, "ON CONFLICT (task_id, side, peer) DO NOTHING")
    if created < len(rows):
        if len(rows) > 1:
            raise NotTogether
        [existing] = get_tasks(connection, [creations[0][0].key])
        assert existing is not None
        return [(existing, False)]
    deliveries.carry_out(
        connection, [deliveries.Step(task.key, task.created_at, owed) for task, owed in creations if owed]
    )
    # Their numbers follow each other: nobody else writes.
    return [(task.evolved(number=number), True) for number, (task, _) in enumerate(creations, last - created + 1)]


def _new_row(task: Task) -> list[object]:
    values = task_values(task)
    del values[_NUMBER]
    return values


# --- changes -------------------------------------------------------------------------------------------------------


def apply_changes(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[Task]:
    """Carry out changes of different records, and return each record as it is now; see `ITaskStore.apply`.

    :raises StaleTask: when one is not as its change has it before.
    """
    after = _with_positions(connection, changes)
    _compare_and_set(connection, changes, after)
    staged = _stage_head(connection, [one for one in changes if _is_queued(one.before) != _is_queued(one.after)])
    events.tell(connection, [(one.before.number, event) for one in changes for event in one.events])
    deliveries.carry_out(
        connection,
        [
            deliveries.Step(one.before.key, one.at, one.deliveries, one.settles, one.gives_up, one.revives)
            for one in changes
        ],
    )
    _book(connection, changes)
    return [staged if staged is not None and staged.number == task.number else task for task in after]


def _is_queued(task: Task) -> bool:
    return task.side is Side.RECEIVER and task.status is TaskStatus.ACCEPTED


def _with_positions(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[Task]:
    """The records after the changes; those that join the queue do so at its end, in the order of the changes."""
    position = None
    after = []
    for change in changes:
        task = change.after
        if _is_queued(task) != _is_queued(change.before):
            if not _is_queued(task):
                task = task.evolved(queue_position=None)
            else:
                position = (_last_position(connection) if position is None else position) + 1
                task = task.evolved(queue_position=position)
        after.append(task)
    return after


def _last_position(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute(f"SELECT max(queue_position) FROM {QUEUE}").fetchone()
    return int(last or 0)


def _compare_and_set(connection: sqlite3.Connection, changes: Sequence[Change], after: list[Task]) -> None:
    """Write the records that differ, with their new revision; the others are put in as they are now."""
    rows = []
    same = []
    for place, (change, task) in enumerate(zip(changes, after, strict=True)):
        before = change.before
        if task == before:
            same.append(place)
            continue
        after[place] = task.evolved(revision=before.revision + 1)
        values = task_values(task)
        rows.append([before.number, before.revision, before.revision + 1, *[values[at] for at in _CHANGED_PLACES]])
    if bulk.update(connection, "tasks", "number, revision", f"revision, {_CHANGED}", rows) < len(rows):
        stale = changes[0].before
        raise StaleTask(f"task {stale.task_id} is no longer {stale.status}: it was changed meanwhile")
    current = tasks_numbered(connection, [after[place].number for place in same])
    for place in same:
        after[place] = current.get(after[place].number, after[place])


def _stage_head(connection: sqlite3.Connection, changes: Sequence[Change]) -> Task | None:
    """Stage the head of the queue when ``changes`` made another task that; returns it."""
    if not changes:
        return None
    row = connection.execute(f"SELECT number, staged_at FROM {QUEUE} ORDER BY queue_position LIMIT 1").fetchone()
    if row is None or row[1] is not None:
        return None
    number = row[0]
    # It came into an empty queue, or the one before it left.
    at = next((change.at for change in changes if change.before.number == number), changes[-1].at)
    connection.execute(
        "UPDATE tasks SET staged_at = ?, revision = revision + 1 WHERE number = ?", (to_milliseconds(at), number)
    )
    return tasks_numbered(connection, [number])[number]


def _book(connection: sqlite3.Connection, changes: Iterable[Change]) -> None:
    """Add points to the ledger, unless this side of the task has booked for this party before."""
    wanted = {
        (*key_values(one.before.key), str(booking.party)): (booking.points, booking.reason, to_milliseconds(one.at))
        for one in changes
        for booking in one.bookings
    }
    for booked in bulk.execute(connection, _BOOKED, [task_id for task_id, *_ in wanted]):
        wanted.pop(booked, None)
    points: Counter[str] = Counter()
    for (*_, party), (earned, *_) in wanted.items():
        points[party] += earned
    bulk.insert(
        connection,
        "bookings",
        "task_id, side, peer, party, points, reason, booked_at",
        [(*whose, *booked) for whose, booked in wanted.items()],
    )
    bulk.insert(
        connection,
        "scores",
        "party, points",
        list(points.items()),
        "ON CONFLICT (party) DO UPDATE SET points = scores.points + excluded.points",
    )


_BOOKED = "SELECT task_id, side, peer, party FROM bookings WHERE task_id IN {}"
