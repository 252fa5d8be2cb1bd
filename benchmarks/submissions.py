"""Durable submissions a second against one node with default settings, each answered after its fsync.

    python -m benchmarks.submissions [--seconds 10] [--shape 16x64 --shape 16x1]

Starts a node in a process of its own (``python -m tasksubmit run`` in a temporary directory), opens CONNECTIONS
connections to it over loopback TCP, keeps OUTSTANDING submissions under way on each, and counts the answers 200.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.internet import reactor, task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString

from tasksubmit import Address, Client, SubmitRequest, generate_task_id
from tasksubmit.wire import ACK, PERSISTENT

NODE = Address.parse("0:0000.0000.0001")
LOAD = Address.parse("0:0000.0000.0002")


@contextmanager
def running_node(directory: Path) -> Iterator[int]:
    """A node with default settings in a process of its own; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = f"tcp:{port}:interface=127.0.0.1"
    arguments = ["--address", str(NODE), "--listen", listen, "--state-dir", str(directory / "node")]
    peer = ["--peer", f"{LOAD}=tcp:127.0.0.1:9"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tasksubmit", "run", *arguments, *peer], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise SystemExit(f"the node did not start: {(directory / 'log').read_text()}")
        yield port
    finally:
        process.terminate()
        process.wait(20)


class Load:
    """CONNECTIONS x OUTSTANDING submissions under way until time is up."""

    def __init__(self, port: int, connections: int, outstanding: int) -> None:
        features = frozenset({PERSISTENT, ACK})
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{port}")
        self._clients = [Client(endpoint, LOAD, reactor, features=features) for _ in range(connections)]
        self._outstanding = outstanding
        self._is_over = False
        self.latencies: list[float] = []

    async def run(self, seconds: float) -> float:
        """Submit for so long; returns how long it was until the last answer."""
        began = time.perf_counter()
        reactor.callLater(seconds, self._stop)
        await gatherResults(
            [Deferred.fromCoroutine(self._submit(client)) for client in self._clients for _ in range(self._outstanding)]
        )
        took = time.perf_counter() - began
        await gatherResults([client.close() for client in self._clients])
        return took

    def _stop(self) -> None:
        self._is_over = True

    async def _submit(self, client: Client) -> None:
        while not self._is_over:
            request = SubmitRequest(generate_task_id(), "a task of the benchmark", str(LOAD), str(NODE))
            sent = time.perf_counter()
            response = await client.submit(request)
            if response.status != 200:
                raise SystemExit(f"refused: {response.code} {response.message}")
            self.latencies.append(time.perf_counter() - sent)


async def measure(port: int, shape: str, seconds: float) -> int:
    connections, outstanding = map(int, shape.split("x"))
    load = Load(port, connections, outstanding)
    took = await load.run(seconds)
    ordered = sorted(load.latencies)
    p50, p99 = ordered[len(ordered) // 2] * 1000, ordered[len(ordered) * 99 // 100] * 1000
    rate = len(ordered) / took
    print(f"{shape:>8}  {rate:10.0f}/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  ({len(ordered)} in {took:.1f} s)")
    return len(ordered)


async def main_async(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="tasksubmit-") as name, running_node(Path(name)) as port:
        done = 0
        for shape in options.shape or ["16x64", "16x1"]:
            done += await measure(port, shape, options.seconds)
        found = sqlite3.connect(Path(name) / "node" / "tasks.db").execute("SELECT count(*) FROM tasks").fetchone()[0]
        print(f"answered 200: {done}; found in the database: {found}")
        if found != done:
            raise SystemExit("some answered submissions are not there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--shape", action="append", help="CONNECTIONSxOUTSTANDING, such as 16x64; may be repeated")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores")
    task.react(lambda _: Deferred.fromCoroutine(main_async(options)))


if __name__ == "__main__":
    main()
