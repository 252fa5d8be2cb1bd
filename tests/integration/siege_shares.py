"""Shares of one trusted peer, of the disk and of the queue: the limits that the siege tries, and how it sees them hold.

A peer that submits large tasks and withdraws them, as fast as it can, gets no more of the disk than ``--peer-bytes``
says. A peer that keeps the queue as full as it can delays another peer's task by as many tasks as ``--peer-tasks``
says, and with ``--fair-share`` by a turn. Both are seen from the node's own database: how many tasks were started
between two moments does not depend on how busy the machine is.

What is measured without limits is to compare with: then nothing is promised.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from statistics import median
from threading import Thread
from typing import Any

from attrs import frozen

from tasksubmit.interfaces import Execution
from tasksubmit.wire import FrameDecoder
from tasksubmit.wire.messages import FEATURES, ResponseStatus, SubmitResponse
from tests.integration.siege_attacks import FLOODER, HONEST, LARGE_TASK_BYTES

MIB = 1024 * 1024

WORK_SECONDS = 0.02
"""The time that the executor takes for a task."""

NOISE = 300
"""The tasks that the flooder submits each second, all at once."""

EXECUTOR = ("--accept", "all", "--executor", "python:tests.integration.siege_shares:work:thread=yes")

WITHOUT_LIMITS = (
    *("--peer-rate", "1000000", "--peer-burst", "1000000000", "--peer-tasks", "1000000000"),
    *("--peer-records", "1000000000", "--peer-bytes", "1000000000000"),
)

SHARE_BYTES = 16 * MIB
SHARE_RECORDS = 2000
SHARE_OF_DISK = ("--peer-bytes", str(SHARE_BYTES), "--peer-records", str(SHARE_RECORDS))

SHARE_TASKS = 50
SLACK = 5
"""Tasks that may be started while the acceptance of another is on its way to the disk."""

SHARE_OF_QUEUE = ("--peer-rate", "1000000", "--peer-burst", "1000000000", "--peer-tasks", str(SHARE_TASKS))


def work(execution: Execution) -> str:
    """Take a known time for a task; this is what the executor calls."""
    time.sleep(WORK_SECONDS)
    return "done"


class _Taker(BaseRequestHandler):
    """Acknowledges all messages of one connection."""

    def handle(self) -> None:
        decoder = FrameDecoder()
        while received := self.request.recv(65536):
            for frame in decoder.feed(received):
                answer = SubmitResponse(json.loads(frame.payload)["task_id"], ResponseStatus.ACCEPTED, "", FEATURES)
                self.request.sendall(answer.to_frame().encode())


@contextmanager
def taking_results() -> Iterator[int]:
    """Take what the node sends to its peers, so that their tasks end; gives the port."""
    with ThreadingTCPServer(("127.0.0.1", 0), _Taker) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _read(state: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{state / 'tasks.db'}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def taken_of_disk(state: Path) -> tuple[int, int, int]:
    """Print and return the size of a state directory, and the flooder's tasks on record and their bytes."""
    size_bytes = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    [(records, stored_bytes)] = _read(state, "SELECT records, stored_bytes FROM usage WHERE peer = ?", FLOODER)
    print(
        f"    state directory {size_bytes / MIB:.0f} MiB; the flooder has {records} tasks on record with"
        f" {stored_bytes / MIB:.0f} MiB of descriptions"
    )
    return size_bytes, records, stored_bytes


def share_of_disk(state: Path) -> list[str]:
    """What is wrong with what the flooder got of the disk."""
    size_bytes, records, stored_bytes = taken_of_disk(state)
    # The share may be in the database and once more in its log; besides, each record takes some KiB.
    most_bytes = 2 * SHARE_BYTES + 16 * MIB
    found = {
        f"{stored_bytes} bytes of descriptions": stored_bytes >= SHARE_BYTES + LARGE_TASK_BYTES,
        f"{records} tasks on record": records > SHARE_RECORDS,
        f"{size_bytes} bytes in the state directory": size_bytes > most_bytes,
    }
    return [f"disk: {what} are more than the flooder's share" for what, is_fault in found.items() if is_fault]


@frozen
class Wait:
    """The wait of one honest task.

    :ivar is_over: it was started.
    :ivar milliseconds: from its submission to its start, or until now.
    :ivar others: the flooder's tasks that were started meanwhile, or are ahead of it in the queue.
    :ivar own: those of the honest peer itself.
    """

    is_over: bool
    milliseconds: int
    others: int
    own: int


_ACCEPTED = """
    SELECT created_at, accepted_at, execute_started_at, queue_position FROM tasks
    WHERE side = 'receiver' AND peer = ? AND accepted_at IS NOT NULL
"""


def _waits(state: Path) -> list[Wait]:
    flooder, honest = _read(state, _ACCEPTED, FLOODER), _read(state, _ACCEPTED, HONEST)
    now = max((accepted for _, accepted, *_ in (*flooder, *honest)), default=0)
    return [
        Wait(
            started is not None,
            (now if started is None else started) - created,
            _ahead(flooder, accepted, started, position),
            _ahead(honest, accepted, started, position),
        )
        for created, accepted, started, position in honest
    ]


def _ahead(tasks: Sequence[tuple[Any, ...]], accepted: int, started: int | None, position: int) -> int:
    """Count the tasks that were started since one was accepted and before it was, or are ahead of it in the queue."""
    since = [at for *_, at, _ in tasks if at is not None and at >= accepted]
    if started is not None:
        return len([at for at in since if at < started])
    return len([*since, *(at for *_, at in tasks if at is not None and at < position)])


def waits(state: Path) -> list[Wait]:
    """Print and return how long the honest peer's tasks waited for their start."""
    found = _waits(state)
    milliseconds = sorted(wait.milliseconds for wait in found) or [0]
    most = max((wait.others for wait in found), default=0)
    print(
        f"    {sum(wait.is_over for wait in found)} of {len(found)} honest tasks were started; waits: median"
        f" {median(milliseconds):.0f} ms, worst {milliseconds[-1]} ms, with {most} tasks of the flooder ahead at most"
    )
    return found


def share_of_queue(state: Path) -> list[str]:
    """What is wrong with the honest peer's waits in the order of acceptance."""
    return _late([wait.others - SHARE_TASKS - SLACK for wait in waits(state)])


def turns(state: Path) -> list[str]:
    """What is wrong with the honest peer's waits where the submitters take turns."""
    # The head, and a turn for each of its own ahead of it and for itself.
    return _late([wait.others - wait.own - 2 - SLACK for wait in waits(state)])


def _late(too_many: Sequence[int]) -> list[str]:
    """The faults; of each honest task how many more of the flooder's came before it than may."""
    if not too_many:
        return ["noise: no honest task was accepted"]
    if max(too_many) > 0:
        return [f"noise: {max(too_many)} more tasks of the flooder came before an honest one than may"]
    return []


def no_promise(look: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    """Print the figures, and find nothing wrong."""

    def check(state: Path) -> list[str]:
        look(state)
        return []

    return check


@frozen
class Share:
    """One round: what the flooder tries, of a node with which options, and what is wrong with what it got.

    :ivar size: that of the attack.
    :ivar check: prints the figures of a state directory, and returns the faults.
    """

    attack: str
    size: int
    options: Sequence[str]
    check: Callable[[Path], list[str]]


SHARES = {
    "disk": Share("disk", 4, SHARE_OF_DISK, share_of_disk),
    "disk_without_limits": Share("disk", 4, WITHOUT_LIMITS, no_promise(taken_of_disk)),
    "withdraw": Share("withdraw", 4, SHARE_OF_DISK, share_of_disk),
    "withdraw_without_limits": Share("withdraw", 4, WITHOUT_LIMITS, no_promise(taken_of_disk)),
    "order": Share("noise", NOISE, (*EXECUTOR, *SHARE_OF_QUEUE), share_of_queue),
    "order_without_limits": Share("noise", NOISE, (*EXECUTOR, *WITHOUT_LIMITS), no_promise(waits)),
    "order_by_default": Share("noise", NOISE, EXECUTOR, no_promise(waits)),
    "turns": Share("noise", NOISE, (*EXECUTOR, *SHARE_OF_QUEUE, "--fair-share"), turns),
    "turns_without_limits": Share("noise", NOISE, (*EXECUTOR, *WITHOUT_LIMITS, "--fair-share"), turns),
    "turns_by_default": Share("noise", NOISE, (*EXECUTOR, "--fair-share"), turns),
}
