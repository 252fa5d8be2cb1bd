"""Ends and removes all that a run leaves, also one that was killed: a process of its own, which outlives the run.

``python -m tests.chaos.sweeper DIRECTORY MARK`` waits until its standard input ends. Then it kills every process that
has MARK in its environment, takes away what is mounted below DIRECTORY, and removes DIRECTORY.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

_SWEEPS = 50


def processes_with(mark: str) -> dict[int, str]:
    """The command lines of the processes that have a mark in their environment, by process id."""
    found: dict[int, str] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (directory / "environ").read_bytes():
                command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                if command and int(directory.name) != os.getpid():
                    found[int(directory.name)] = command.strip()[:200]
    return found


def sweep(directory: Path, mark: str) -> None:
    """Kill, unmount and remove."""
    for _ in range(_SWEEPS):
        left = processes_with(mark)
        if not left:
            break
        for process_id in left:
            with suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        time.sleep(0.05)
    with suppress(OSError):
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in mounts:
            if path.startswith(f"{directory}/"):
                subprocess.run(["umount", "--lazy", path], stdin=subprocess.DEVNULL, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    """Wait, then sweep."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(Path(sys.argv[1]), sys.argv[2])


if __name__ == "__main__":
    main()
