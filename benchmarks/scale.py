"""What a node costs that has much to remember: to start, in memory, and at each tick of its deadlines; and what one
connection or one waiting caller takes.

A node with default settings, but for the share of a peer, is started on a directory with 10,000, 100,000 and 1,000,000
tasks (``filler.py`` says which). The page cache is warm, since the tasks were written just before. The cost of a tick
is all CPU time of the idle node, so that it includes whatever else it does once a second. Idle connections have sent
nothing. Waiting callers are tasks of an embedded submitter whose ``result()`` somebody waits for; their records were
stored before, and are not counted. Memory is what the kernel says is resident, which grows in steps.
"""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.agents import agent
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError, drive, free_port
from benchmarks.report import table, times
from benchmarks.rounds import progress
from benchmarks.servers import check_stored, node, stored_tasks

_TICK_SECONDS = 1.0

_FIRST = 100
"""Connections and callers that come before memory is looked at, for what is made with the first of them."""


@dataclass(frozen=True)
class Stored:
    """What a node costs with so many tasks stored."""

    start_seconds: float
    resident_mib: float
    tick_ms: float
    database_mib: float


@dataclass(frozen=True)
class Scale:
    """Everything of this section, by the number of stored tasks; memory is in KiB each."""

    stored: dict[int, Stored]
    connection_kib: float
    waiting_kib: float


def scale(plan: Plan) -> Scale:
    """Measure and print."""
    counts = (1_000, 5_000) if plan.is_quick else (10_000, 100_000, 1_000_000)
    connections, waiting = (100, 200) if plan.is_quick else (2_000, 10_000)
    stored = {}
    for count in counts:
        progress(f"{count:,} stored tasks")
        stored[count] = _with_stored(plan, count)
    least = stored[counts[0]]
    table(
        "a node with many stored tasks",
        ["tasks", "database MiB", "start s", "ratio", "resident MiB", "ratio", "CPU ms of a tick", "ratio"],
        [_row(count, found, least) for count, found in stored.items()],
        f"ratio: to {counts[0]:,} tasks. start: from spawn to the first connection.",
    )
    progress("idle connections and waiting callers")
    found = Scale(stored, _connection_kib(plan, connections), _waiting_kib(plan, waiting))
    table(
        "resident memory of each",
        ["what", "count", "KiB each"],
        [
            ["idle connection", f"{connections:,}", f"{found.connection_kib:.1f}"],
            ["waiting result()", f"{waiting:,}", f"{found.waiting_kib:.1f}"],
        ],
    )
    return found


def _row(count: int, found: Stored, least: Stored) -> list[str]:
    return [
        *(f"{count:,}", f"{found.database_mib:,.1f}"),
        *(f"{found.start_seconds:.2f}", times(found.start_seconds / least.start_seconds)),
        *(f"{found.resident_mib:,.1f}", times(found.resident_mib / least.resident_mib)),
        *(f"{found.tick_ms:.2f}", times(found.tick_ms / least.tick_ms)),
    ]


def _with_stored(plan: Plan, count: int) -> Stored:
    idle_seconds = 1 if plan.is_quick else 10
    directory = plan.work_directory()
    state_dir = directory / "node"
    drive("benchmarks.filler", 600, directory=str(state_dir), count=count)
    check_stored("the filled directory", count, stored_tasks(state_dir))
    size = (state_dir / "tasks.db").stat().st_size
    began = time.perf_counter()
    with node(directory) as server:
        start_seconds = time.perf_counter() - began
        time.sleep(idle_seconds / 2)  # until it has settled
        before = _cpu_seconds(server.pid)
        time.sleep(idle_seconds)
        tick_ms = (_cpu_seconds(server.pid) - before) / (idle_seconds / _TICK_SECONDS) * 1000
        return Stored(start_seconds, _resident_kib(server.pid) / 1024, tick_ms, size / 2**20)


def _connection_kib(plan: Plan, count: int) -> float:
    _allow_files(count + 200)
    directory = plan.work_directory()
    with node(directory) as server, ExitStack() as open_ones:
        resident = []
        for connections in (_FIRST, count):
            for _ in range(connections):
                open_ones.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            time.sleep(0.5)
            resident.append(_resident_kib(server.pid))
        return (resident[1] - resident[0]) / count


def _waiting_kib(plan: Plan, count: int) -> float:
    directory = plan.work_directory()
    with agent("submitter", directory, free_port(), free_port()) as submitter:
        submitter.ask("prepare", count=count + _FIRST)
        submitter.stop()
    # Another process, in which no memory is free that was used for something else.
    with agent("submitter", directory, free_port(), free_port()) as submitter:
        submitter.ask("wait", first=0, count=_FIRST)
        before = _resident_kib(submitter.pid)
        submitter.ask("wait", first=_FIRST, count=count)
        return (_resident_kib(submitter.pid) - before) / count


def _allow_files(count: int) -> None:
    """Let this process and those that it starts have so many open files.

    :raises BenchmarkError: they may not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and hard < count:
        raise BenchmarkError(f"a process may have {hard} open files here, and {count} are needed: see ulimit -Hn")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise BenchmarkError(f"process {pid} has no resident memory")


def _cpu_seconds(pid: int) -> float:
    """The CPU time of all threads of a process; the kernel counts nanoseconds there, and 1/100 s elsewhere."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
