"""The load that a program with this package's ``Client`` makes; a driver in a process of its own.

It submits the same as ``load.py`` does, but through the public API: a coroutine for each submission under way.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString

from benchmarks.driver import DESCRIPTION, LOAD, NODE
from benchmarks.measure import Meter
from benchmarks.processes import BenchmarkError, Spec
from benchmarks.reactors import report_from_reactor
from tasksubmit import Client, SubmitRequest, generate_task_id
from tasksubmit.wire.messages import FEATURES


async def _submit(client: Client, meter: Meter) -> None:
    while meter.is_open:
        began = time.perf_counter()
        request = SubmitRequest(generate_task_id(), DESCRIPTION, str(LOAD), str(NODE), features=FEATURES)
        response = await client.submit(request)
        if response.status != 200:
            raise BenchmarkError(f"refused: {response.code} {response.message}")
        meter.note(began, time.perf_counter())


async def _load(reactor: Any, spec: Spec) -> dict[str, Any]:
    endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{spec['port']}")
    clients = [Client(endpoint, LOAD, reactor, features=frozenset(FEATURES)) for _ in range(spec["connections"])]
    meter = Meter(spec["warm_up"], spec["seconds"])
    await gatherResults(
        [Deferred.fromCoroutine(_submit(client, meter)) for client in clients for _ in range(spec["outstanding"])]
    )
    figures = meter.figures()
    await gatherResults([client.close() for client in clients])
    return asdict(figures)


if __name__ == "__main__":
    report_from_reactor(_load)
