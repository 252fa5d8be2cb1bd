"""The servers that are measured, each started in a process of its own, on a free port of loopback, in a directory.

All of them have their default settings, but for the share of a peer of our nodes, which is everything, and for
durability: Redis and beanstalkd are told to have each submission on disk before they answer it, as a node does unasked.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.driver import LOAD, NODE
from benchmarks.processes import BenchmarkError, free_port, running, wait_until_listening


@dataclass(frozen=True)
class Server:
    """A server that runs.

    :ivar directory: where it keeps its files.
    """

    port: int
    pid: int
    directory: Path


@contextmanager
def _listening(command: Sequence[str], port: int, directory: Path) -> Iterator[Server]:
    log = directory / "log"
    with running(command, log) as process:
        wait_until_listening(process, port, log)
        yield Server(port, process.pid, directory)


UNLIMITED = ("--peer-rate=1e6", "--peer-burst=1000000000", "--peer-tasks=1000000000", "--peer-records=1000000000")
"""One peer is the whole load here, so its share is everything."""


@contextmanager
def node(directory: Path) -> Iterator[Server]:
    """A node with default settings, but for the share of a peer; its peer is the load driver."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "tasksubmit", "run", "--address", str(NODE), "--state-dir", str(directory / "node")),
        *("--listen", f"tcp:{port}:interface=127.0.0.1", "--peer", f"{LOAD}=tcp:127.0.0.1:9", *UNLIMITED),
    ]
    with _listening(command, port, directory) as server:
        yield server


@contextmanager
def node_with_tls(directory: Path) -> Iterator[Server]:
    """The same with keys: it speaks TLS, and knows the load driver by its key, which is in ``load``."""
    states = {NODE: directory / "node", LOAD: directory / "load"}
    fingerprints = {}
    for address, state in states.items():
        made = _command("--json", "--state-dir", str(state), "init", "--address", str(address))
        [fingerprints[address]] = json.loads(made)["data"]["fingerprints"]
    trust = ("trust", "add", str(LOAD), fingerprints[LOAD], "tcp:127.0.0.1:9")
    _command("--state-dir", str(states[NODE]), *trust)
    port = free_port()
    command = [
        *(sys.executable, "-m", "tasksubmit", "run", "--address", str(NODE), "--state-dir", str(states[NODE])),
        *("--listen", f"tcp:{port}:interface=127.0.0.1", *UNLIMITED),
    ]
    with _listening(command, port, directory) as server:
        yield server


def _command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "tasksubmit", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"tasksubmit {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def redis(directory: Path) -> Iterator[Server]:
    """Redis with an append-only file that is on disk before anything is answered."""
    port = free_port()
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    ]
    with _listening(command, port, directory) as server:
        yield server


@contextmanager
def beanstalkd(directory: Path) -> Iterator[Server]:
    """beanstalkd with a log that is on disk before a job is answered."""
    port = free_port()
    command = ["beanstalkd", "-l", "127.0.0.1", "-p", str(port), "-b", str(directory), "-f", "0"]
    with _listening(command, port, directory) as server:
        yield server


@contextmanager
def bare(kind: str, directory: Path) -> Iterator[Server]:
    """A server of ``bare.py``, which stores nothing."""
    port = free_port()
    with _listening([sys.executable, "-m", "benchmarks.bare", kind, str(port)], port, directory) as server:
        yield server


def stored_tasks(state_dir: Path, status: str | None = None) -> int:
    """How many tasks the database in a state directory has, of one status or of any; its node may run or not."""
    connection = sqlite3.connect(f"file:{state_dir / 'tasks.db'}?mode=ro", uri=True, timeout=10)
    try:
        where = " WHERE status = :status" if status else ""
        (count,) = connection.execute(f"SELECT count(*) FROM tasks{where}", {"status": status}).fetchone()
    finally:
        connection.close()
    return int(count)


def check_stored(name: str, acknowledged: int, stored: int) -> None:
    """Believe no figure of what does not keep what it acknowledged.

    :raises BenchmarkError: it does not.
    """
    if stored != acknowledged:
        raise BenchmarkError(f"{name} acknowledged {acknowledged} submissions, and has {stored}")
