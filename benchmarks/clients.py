"""Task queues for Python, used as their users use them; a driver in a process of its own.

Celery, RQ, Dramatiq and huey have clients that wait for each answer, so that threads keep several calls under way: each
thread makes one call at a time, through the queue's public API. Nobody consumes. The threads share one interpreter, as
they would in a web server, and with Redis it is that interpreter which limits them, not the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Meter
from benchmarks.processes import Spec, report
from tasksubmit.wire import generate_task_id

Client = tuple[Callable[[str], object], Callable[[], int]]
"""Enqueues a payload, and counts what is enqueued."""


def _celery(spec: Spec) -> Client:
    from celery import Celery
    from redis import Redis

    app = Celery(broker=f"redis://127.0.0.1:{spec['port']}/0")
    app.conf.broker_pool_limit = spec["threads"]  # its default of 10 would make the others wait
    queue = Redis(port=spec["port"])
    return (
        lambda payload: app.send_task("benchmark", args=(payload,), ignore_result=True),
        lambda: int(queue.llen("celery")),
    )


def _rq(spec: Spec) -> Client:
    from redis import Redis
    from rq import Queue

    queue = Queue(connection=Redis(port=spec["port"]))
    return lambda payload: queue.enqueue("benchmarks.clients.nothing", payload), lambda: int(queue.count)


def _dramatiq(spec: Spec) -> Client:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    broker = RedisBroker(url=f"redis://127.0.0.1:{spec['port']}/0")
    dramatiq.set_broker(broker)
    actor = dramatiq.actor(nothing)
    return actor.send, lambda: int(broker.client.llen("dramatiq:default"))


def _huey(spec: Spec) -> Client:
    from huey import SqliteHuey

    # Its default of 5 s for a locked database is too short for so many threads.
    huey = SqliteHuey(filename=str(Path(spec["directory"]) / "huey.db"), fsync=True, timeout=60)
    return huey.task()(nothing), huey.pending_count


_CLIENTS: Mapping[str, Callable[[Spec], Client]] = {
    "celery": _celery,
    "rq": _rq,
    "dramatiq": _dramatiq,
    "huey": _huey,
}


def nothing(payload: str) -> None:
    """What would be done if somebody consumed."""


def _load(spec: Spec) -> dict[str, Any]:
    enqueue, count = _CLIENTS[spec["client"]](spec)
    parts = spec["parts"]
    failures: list[BaseException] = []

    def keep_calling() -> None:
        try:
            while meter.is_open and not failures:
                began = time.perf_counter()
                enqueue(generate_task_id().join(parts))
                meter.note(began, time.perf_counter())
        except BaseException as error:
            failures.append(error)

    enqueue("")  # the first call of these clients imports and connects
    before = count()
    meter = Meter(spec["warm_up"], spec["seconds"])
    threads = [threading.Thread(target=keep_calling) for _ in range(spec["threads"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(f"{spec['client']}: {failures[0]!r}")
    return {**asdict(meter.figures()), "stored": count() - before}


if __name__ == "__main__":
    report(_load)
