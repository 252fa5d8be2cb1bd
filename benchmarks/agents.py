"""Two nodes that work for each other: handles on the processes of ``embedded.py``."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import BenchmarkError, free_port, last_line, running, wait_until_listening

SUBMITTER = "0:0000.0000.000A"
WORKER = "0:0000.0000.000B"


class Agent:
    """A node in a process of its own, which takes commands."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], directory: Path, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.state_dir = directory
        self._process = process
        self._log = log

    def ask(self, command: str, timeout: float = 60, **arguments: Any) -> dict[str, Any]:
        """Have a command carried out; returns the answer.

        :raises BenchmarkError: the process ended, or took over ``timeout`` seconds.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the log tells why
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            raise BenchmarkError(f"the {self.name} did not {command} within {timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"the {self.name} failed: {last_line(self._log.read_text(errors='replace'))}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Stop the node in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@dataclass(frozen=True)
class Pair:
    """A submitter and the worker that it submits to."""

    submitter: Agent
    worker: Agent


@contextmanager
def agent(role: str, directory: Path, port: int, peer_port: int) -> Iterator[Agent]:
    """A worker or a submitter, with its state below ``directory``."""
    address, peer = (WORKER, SUBMITTER) if role == "worker" else (SUBMITTER, WORKER)
    state_dir, log = directory / role, directory / f"{role}.log"
    spec = {"role": role, "address": address, "directory": str(state_dir), "port": port}
    spec |= {"peer": peer, "peer_port": peer_port}
    command = [sys.executable, "-m", "benchmarks.embedded", json.dumps(spec)]
    with running(command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        wait_until_listening(process, port, log)
        yield Agent(role, process, state_dir, log)


@contextmanager
def pair(directory: Path) -> Iterator[Pair]:
    """Both, each with the other as its peer."""
    ports = free_port(), free_port()
    with agent("worker", directory, *ports) as worker, agent("submitter", directory, *reversed(ports)) as submitter:
        yield Pair(submitter, worker)
