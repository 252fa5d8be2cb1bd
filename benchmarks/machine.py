"""On what it is measured: machine, versions, and how long the disk takes to be sure.

Figures of different machines, or of one machine at different times, say little beside each other; the latency of fsync
is measured at the beginning and at the end so that it shows when the machine has changed meanwhile.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path

_FSYNCS = 200
_BLOCK = bytes(4096)


def machine() -> str:
    """The machine, in a line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}"


def versions() -> str:
    """What runs the node, in a line."""
    return (
        f"tasksubmit {version('tasksubmit')}, Python {platform.python_version()}, Twisted {version('Twisted')},"
        f" SQLite {sqlite3.sqlite_version}"
    )


def fsync_ms(directory: Path) -> tuple[float, float]:
    """How long 4 KiB at the end of a file take to be on disk, in milliseconds: the median, and the 99th percentile."""
    path = directory / "fsync"
    took = []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(_FSYNCS):
            began = time.perf_counter()
            os.write(descriptor, _BLOCK)
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(descriptor)
        path.unlink()
    took.sort()
    return took[_FSYNCS // 2], took[_FSYNCS * 99 // 100]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
