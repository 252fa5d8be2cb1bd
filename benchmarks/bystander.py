"""A process that has nothing to do but wait for one timer after the other: what the machine itself keeps it from.

Until its input ends; then it prints the longest time, in milliseconds, by which a timer was late.
"""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import running

INTERVAL_SECONDS = 0.001


@contextmanager
def bystander(directory: Path) -> Iterator[Callable[[], float]]:
    """Have one stand by; gives a function that ends it and returns what it prints."""
    command = [sys.executable, "-m", "benchmarks.bystander"]
    with running(command, directory / "bystander.log", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it is ready: to start takes it a processor for a while
        yield lambda: float(process.communicate()[0])


def main() -> None:
    """Wait for timers."""
    print(flush=True)
    longest = 0.0
    is_over = False
    while not is_over:
        due = time.perf_counter() + INTERVAL_SECONDS
        is_over = bool(select.select([sys.stdin], [], [], INTERVAL_SECONDS)[0])
        longest = max(longest, time.perf_counter() - due)
    print(longest * 1000)


if __name__ == "__main__":
    main()
