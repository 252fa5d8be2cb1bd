"""Processes of the benchmark: servers that run while something is measured, and drivers that measure and report.

A driver is a module run as ``python -m benchmarks.NAME``: it reads one JSON object from its input and writes one to its
output. Every process is in a process group of its own, so that Ctrl-C reaches the benchmark alone, which then ends them
all; but not in a session of its own: Linux shares the processors out to sessions first ("autogroup"), and lets a thread
that did nothing but wait stand behind another session's for 20 to 30 ms.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parent.parent
"""Where ``python -m benchmarks`` and ``python -m tasksubmit`` are found."""

_START_SECONDS = 120.0
_STOP_SECONDS = 30.0

Spec = Mapping[str, Any]


class BenchmarkError(Exception):
    """It cannot be measured here, or what was measured is not to be believed; the text is one clear line."""


@contextmanager
def running(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to ``log``, and is ended with the block, whatever happens."""
    with log.open("wb") as output:
        options = {"stdout": output, **options}
        process = subprocess.Popen(command, stderr=output, cwd=TOP, preexec_fn=os.setpgrp, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return as soon as a connection to ``port`` is accepted.

    :raises BenchmarkError: the process ended, or took too long.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise BenchmarkError(f"{_named(process.args)} did not start: {last_line(log.read_text(errors='replace'))}")


def drive(module: str, timeout: float, **spec: Any) -> dict[str, Any]:
    """Run a driver to its end; returns what it reports.

    :param timeout: how many seconds it is expected to take at most.
    :raises BenchmarkError: it failed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(spec).encode(),
            capture_output=True,
            timeout=timeout,
            cwd=TOP,
            preexec_fn=os.setpgrp,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{module} did not finish within {timeout:g} s") from None
    if done.returncode:
        raise BenchmarkError(f"{module} failed: {last_line(done.stderr.decode(errors='replace'))}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def report(work: Callable[[Spec], Mapping[str, Any]]) -> None:
    """Be a driver: do ``work`` as the input says, and report what it returns."""
    print(json.dumps(work(json.load(sys.stdin))))


def last_line(text: str) -> str:
    """The line of some output that tells what went wrong."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _named(command: Any) -> str:
    return " ".join(str(word) for word in command[:4])
