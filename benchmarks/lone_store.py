"""The store alone, on a real reactor, without a network: a driver in a process of its own.

Keeps OUTSTANDING calls of ``store.create`` under way in an empty directory. The records are as the node makes them.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from benchmarks.driver import DESCRIPTION, LOAD, NODE
from benchmarks.measure import Meter
from benchmarks.processes import Spec
from benchmarks.reactors import report_from_reactor
from tasksubmit import SQLiteTaskStore, generate_task_id
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.wire.messages import FEATURES


def new_task() -> Task:
    """The record of a submission that has just come."""
    now = datetime.now(timezone.utc)
    return Task.new(
        side=Side.RECEIVER,
        peer=LOAD,
        task_id=generate_task_id(),
        description=DESCRIPTION,
        created_at=now.replace(microsecond=now.microsecond // 1000 * 1000),
        features=FEATURES,
    )


async def _create(store: SQLiteTaskStore, meter: Meter) -> None:
    while meter.is_open:
        began = time.perf_counter()
        await store.create(new_task(), [])
        meter.note(began, time.perf_counter())


async def _load(reactor: Any, spec: Spec) -> dict[str, Any]:
    store = SQLiteTaskStore(Path(spec["directory"]), reactor)
    store.open(NODE)
    meter = Meter(spec["warm_up"], spec["seconds"])
    await gatherResults([Deferred.fromCoroutine(_create(store, meter)) for _ in range(spec["outstanding"])])
    await store.close()
    return asdict(meter.figures())


if __name__ == "__main__":
    report_from_reactor(_load)
