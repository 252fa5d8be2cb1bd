"""Fills a state directory with so many tasks; a driver in a process of its own.

The store makes the schema and the first two records: one received and NEW, one received and SUCCEEDED. The others are
copies of them by SQL with ids of their own, half of each. The NEW ones were created in the future, so that none of them
falls due while something is measured. Tasks have no stories, deliveries or results: this is about the table of tasks.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from attrs import evolve

from benchmarks.driver import NODE
from benchmarks.lone_store import new_task
from benchmarks.processes import Spec
from benchmarks.reactors import report_from_reactor
from tasksubmit import SQLiteTaskStore, TaskStatus, generate_task_id

_FUTURE = timedelta(days=1)

_COPY = """
WITH RECURSIVE counter (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counter WHERE n < :count),
    ids (id) AS (SELECT lower(hex(randomblob(16))) FROM counter)
INSERT INTO tasks (task_id, {columns})
    SELECT substr(id, 1, 8) || '-' || substr(id, 9, 4) || '-' || substr(id, 13, 4) || '-' || substr(id, 17, 4) || '-'
        || substr(id, 21), {columns}
    FROM ids CROSS JOIN (SELECT {columns} FROM tasks WHERE status = :status ORDER BY number LIMIT 1)
"""


async def _fill(reactor: Any, spec: Spec) -> dict[str, Any]:
    directory = Path(spec["directory"])
    store = SQLiteTaskStore(directory, reactor)
    store.open(NODE)
    task = new_task()
    await store.create(evolve(task, created_at=task.created_at + _FUTURE), [])
    succeeded = evolve(task, task_id=generate_task_id(), status=TaskStatus.SUCCEEDED, ended_at=task.created_at)
    await store.create(succeeded, [])
    await store.close()
    connection = sqlite3.connect(directory / "tasks.db")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -500000")
    names = [name for _, name, *_ in connection.execute("PRAGMA table_info (tasks)")]
    columns = ", ".join(name for name in names if name not in ("number", "task_id"))
    with connection:
        for status in (TaskStatus.NEW, TaskStatus.SUCCEEDED):
            count = spec["count"] // 2 - 1
            connection.execute(_COPY.format(columns=columns), {"count": count, "status": status.value})
    connection.close()
    return {}


if __name__ == "__main__":
    report_from_reactor(_fill)
