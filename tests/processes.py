"""Processes of tests: how long to wait for them, and that none of them outlives the tests.

A test asserts what happens and in which order, never how fast: the machine may be busy. So there is one time limit,
which is there for what hangs, and it is the same for every step of every test.

What a test starts, it ends. In case it cannot, being killed for one, a watchdog waits for the end of the process that
runs the tests, and then kills all that carries this process's mark in its environment, daemons included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

LONGEST_SECONDS = 300.0
"""The longest wait for anything that another process, or a thread, does. Only a step that hangs takes so long."""

_MARK = "STARTED_BY_TESTS_OF_TASKSUBMIT"
os.environ[_MARK] = f"{os.getpid()}-{os.urandom(8).hex()}"

_WATCHDOG = """
import os, signal, sys
sys.stdin.buffer.read()  # until the process that runs the tests is gone, however it ended
mark = sys.argv[1].encode()
for _ in range(3):  # some may start others meanwhile
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if name.isdigit() and mark in file.read().split(b"\\0") and int(name) != os.getpid():
                    os.kill(int(name), signal.SIGKILL)
        except OSError:
            pass
"""


@cache
def watch() -> subprocess.Popen[bytes] | None:
    """Start the watchdog of this process, once; there is none where the environments of processes cannot be seen.

    To be called before a process is started in another way than by `start` and `run`.
    """
    if not os.path.exists("/proc/self/environ"):
        return None
    mark = f"{_MARK}={os.environ[_MARK]}"
    environment = {name: text for name, text in os.environ.items() if name != _MARK}
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _WATCHDOG, mark],
        env=environment,
        stdin=subprocess.PIPE,  # nothing is written; the system closes it with this process
        start_new_session=True,
    )


def start(test: unittest.TestCase, command: Sequence[Any], **options: Any) -> subprocess.Popen[str]:
    """Start a process in a group of its own, which is killed at the end of a test.

    :param options: of `subprocess.Popen`; texts by default.
    """
    watch()
    process: subprocess.Popen[str] = subprocess.Popen(command, preexec_fn=os.setpgrp, **{"text": True, **options})
    test.addCleanup(kill, process)
    return process


def kill(process: subprocess.Popen[Any]) -> None:
    """Kill a process and its group, and wait for its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(ValueError):  # its output was read and closed
        process.communicate()
    process.wait()


def run(command: Sequence[Any], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a process to its end, in a group of its own, which is killed if that does not come.

    :param options: of `subprocess.run`, except ``timeout``; texts by default.
    """
    watch()
    is_checked = options.pop("check", False)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process: subprocess.Popen[str] = subprocess.Popen(command, preexec_fn=os.setpgrp, **{"text": True, **options})
    try:
        stdout, stderr = process.communicate(timeout=LONGEST_SECONDS)
    except BaseException:
        kill(process)
        raise
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if is_checked:
        done.check_returncode()
    return done


def until(condition: Any, otherwise: str | Callable[[], str]) -> None:
    """Wait for another process or thread.

    :param otherwise: what to say if ``condition()`` does not come true.
    """
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise if isinstance(otherwise, str) else otherwise())
        time.sleep(0.02)
