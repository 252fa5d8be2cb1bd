"""What the tests of this package share: operations of the SQLite store on a connection, one call at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from twisted.python.failure import Failure

from tasksubmit.lifecycle.change import Change, Delivery
from tasksubmit.lifecycle.task import Task
from tasksubmit.stores.changes import apply_changes, create_tasks


def create_task(connection: sqlite3.Connection, task: Task, owed: Sequence[Delivery]) -> tuple[Task, bool]:
    """Keep one new record."""
    return create_tasks(connection, [(task, owed)])[0]


def apply_change(connection: sqlite3.Connection, change: Change) -> Task:
    """Carry out one change."""
    [result] = apply_changes(connection, [change])
    if isinstance(result, Failure):
        result.raiseException()
    return result
