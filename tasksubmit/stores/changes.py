"""New records and changes of records, each with all that it brings about, and many of them together.

Operations as `stores.batches` has them. They read first what they need to know of all, and then write for all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from attrs import frozen
from twisted.python.failure import Failure

from tasksubmit.errors import StaleTask, TaskForgotten
from tasksubmit.lifecycle.change import Change, Delivery, Tombstone
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey, to_milliseconds
from tasksubmit.stores import bulk, deliveries, events, ledger
from tasksubmit.stores.batches import NotTogether
from tasksubmit.stores.places import Places
from tasksubmit.stores.queries import QUEUE, recall, tasks_numbered
from tasksubmit.stores.rows import BLANK_TASK, TASK_NAMES, row_writer
from tasksubmit.wire.timestamps import format_time

_ALL = tuple(name for name in TASK_NAMES if name != "number")  # which the database gives
# What a new record has; all else is as in a blank one, and the statement says so.
_GIVEN = (
    *("task_id", "side", "peer", "description", "justification", "created_at"),
    *("expires_at", "result_due_at", "deliver_by", "submission_begun_at", "features"),
)
_REST = tuple(name for name in _ALL if name not in _GIVEN)
_CHANGED = tuple(
    name for name in _ALL if name not in ("revision", "side", "peer", "task_id", "description", "created_at")
)


# --- new records ---------------------------------------------------------------------------------------------------


def create_tasks(
    connection: sqlite3.Connection, creations: Sequence[tuple[Task, Sequence[Delivery]]]
) -> list[tuple[Task, bool]]:
    """Insert records and what they owe; of each it and True, or the one that has its key already and False.

    :raises TaskForgotten: when retention has removed one that had the key.
    """
    tasks = [task for task, _ in creations]
    form = _PLAIN if all(map(_is_plain, tasks)) else _FULL
    rows = list(map(form.write, tasks))
    created, last = bulk.insert(connection, "tasks", form.columns, rows, form.source)
    if created < len(rows):
        if len(rows) > 1:
            raise NotTogether
        return [(_known(connection, creations[0][0].key), False)]
    deliveries.carry_out(
        connection, [deliveries.Step(task.key, task.created_at, owed) for task, owed in creations if owed]
    )
    # Their numbers follow each other: nobody else writes.
    return [(task.evolved(number=number), True) for number, task in enumerate(tasks, last - created + 1)]


_rest_of = attrgetter(*_REST)
_BLANK_REST = _rest_of(BLANK_TASK)
_GIVEN_NAMES = frozenset(_GIVEN)


def _is_plain(task: Task) -> bool:
    # One that was just made has nothing else; of others, which have all, it is seen from the values.
    return vars(task).keys() <= _GIVEN_NAMES or bool(_rest_of(task) == _BLANK_REST)


@frozen
class _Form:
    """One way to insert records.

    :ivar write: what gives the values of a record that vary.
    :ivar columns: those of these values, and of the ones that do not.
    :ivar source: where the columns come from: records that are neither known nor forgotten.
    """

    write: Callable[[Task], list[Any]]
    columns: str
    source: str


def _form(given: Sequence[str], rest: Sequence[str]) -> _Form:
    constants = "".join(f", {_literal(value)}" for value in row_writer(rest)(BLANK_TASK)) if rest else ""
    is_forgotten = " AND ".join(
        f"tombstones.{name} = new.column{given.index(name) + 1}" for name in ("task_id", "side", "peer")
    )
    source = (
        f"SELECT new.*{constants} FROM {{}} WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE {is_forgotten})"
        " ON CONFLICT (task_id, side, peer) DO NOTHING"
    )
    return _Form(row_writer(given), ", ".join((*given, *rest)), source)


def _literal(value: object) -> str:
    return "NULL" if value is None else repr(value)  # numbers, and texts without quotes


_PLAIN, _FULL = _form(_GIVEN, _REST), _form(_ALL, ())


def _known(connection: sqlite3.Connection, key: TaskKey) -> Task:
    [known] = recall(connection, [key])
    if isinstance(known, Tombstone):
        raise TaskForgotten(
            f"task {key.task_id} was {known.status}, and was removed on {format_time(known.removed_at)}; use another"
            " id",
            known,
        )
    assert known is not None
    return known


# --- changes -------------------------------------------------------------------------------------------------------


def apply_changes(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[Task | Failure]:
    """Carry out changes, and return each record as it is now, or a `StaleTask`; see `ITaskStore.apply`."""
    results = _decided(connection, changes)
    made = [(change, task) for change, task in zip(changes, results, strict=True) if isinstance(task, Task)]
    bulk.update(
        connection,
        "tasks",
        "number, revision",
        _UPDATED,
        [
            (task.number, change.before.revision, task.revision, *_write_changed(task))
            for change, task in made
            if task.revision != change.before.revision
        ],
    )
    staged = _stage_head(connection, [one for one, _ in made if _is_queued(one.before) != _is_queued(one.after)])
    events.tell(connection, [(task.number, event) for change, task in made for event in change.events])
    deliveries.carry_out(
        connection,
        [
            deliveries.Step(task.key, one.at, one.deliveries, one.settles, one.gives_up, one.revives, one.drops_pending)
            for one, task in made
            if one.changes_deliveries
        ],
    )
    ledger.book(connection, [change for change, _ in made if change.bookings])
    if staged is not None:
        results = [staged if isinstance(task, Task) and task.number == staged.number else task for task in results]
    return results


_write_changed = row_writer(_CHANGED)
_UPDATED = ", ".join(("revision", *_CHANGED))


def _decided(connection: sqlite3.Connection, changes: Sequence[Change]) -> list[Task | Failure]:
    """The record after each change, with its new revision if it differs: those that join the queue get a place."""
    numbers = {change.before.number for change in changes}
    revisions = dict(bulk.execute(connection, "SELECT number, revision FROM tasks WHERE number IN {}", numbers))
    places = Places(connection, [change.after.peer for change in changes if change.is_fair and _needs_place(change)])
    results: list[Task | Failure] = []
    for change in changes:
        before, after = change.before, change.after
        if revisions.get(before.number) != before.revision:
            results.append(Failure(StaleTask(f"task {before.task_id} is not as it was: it was changed meanwhile")))
            continue
        if after != before:
            revisions[before.number] = revision = before.revision + 1
            after = after.evolved(revision=revision)
            if _has_place(before) and not _has_place(after):
                after = after.evolved(queue_position=None)
            elif _needs_place(change):
                place = places.in_turn(after.peer) if change.is_fair else places.at_end()
                after = after.evolved(queue_position=place)
        results.append(after)
    return results


def _needs_place(change: Change) -> bool:
    return _has_place(change.after) and not _has_place(change.before)


def _has_place(task: Task) -> bool:
    """Whether the task is in the queue, or held, and then keeps its place."""
    return task.side is Side.RECEIVER and task.status is TaskStatus.ACCEPTED


def _is_queued(task: Task) -> bool:
    return _has_place(task) and task.held_at is None


def _stage_head(connection: sqlite3.Connection, changes: Sequence[Change]) -> Task | None:
    """Stage the head of the queue when ``changes`` made another task that; returns it."""
    if not changes:
        return None
    sql = f"SELECT number, staged_at, queue_position FROM {QUEUE} ORDER BY queue_position LIMIT 1"
    row = connection.execute(sql).fetchone()
    if row is None or row[1] is not None:
        return None
    number, _, position = row
    if any(change.before.held_at is not None for change in changes):
        # What was held came back ahead of the head.
        connection.execute(
            "UPDATE tasks SET staged_at = NULL, revision = revision + 1 WHERE side = 'receiver'"
            " AND status IN ('ACCEPTED') AND staged_at IS NOT NULL"
        )
    # It became head when it came, or when the last of those before it left.
    *_, at = [
        change.at
        for change in changes
        if change.before.number == number or (change.before.queue_position or position) < position
    ]
    connection.execute(
        "UPDATE tasks SET staged_at = ?, revision = revision + 1 WHERE number = ?", (to_milliseconds(at), number)
    )
    return tasks_numbered(connection, [number])[number]
