"""Runs one command in a process group of its own, and ends the whole group when its life-line breaks.

A program, not a part of the package: the executor ``process`` starts it with a bare interpreter for each task, so it
imports nothing but what loads fast. Its arguments are the seconds between asking the group to end and killing it, the
directory for the command, and the command. Its descriptors, besides the command's own 0 to 3:

* `LIFELINE`, a pipe of which the node holds the other end: it breaks when the node closes it, and when the node dies,
  however that happens.
* `STATUS`, a pipe to the node. It carries lines: ``started`` when everything up to the command's program is done; then
  ``cannot ...`` if the program cannot be executed; then ``exit CODE`` when the command has ended by itself. The command
  does not inherit it, so that its end is the end of this process.
* perhaps a lock file (see ``places.py``), which this process and the command just keep open.
"""

import os
import select
import signal
import sys
import time

LIFELINE = 4
STATUS = 5
NOT_STARTED = 127
NOT_HANDLED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""The signals that cannot be handled, and those of faults, which would come again."""


def main() -> None:
    """Run the command; the exit code is the command's, or 128 and the number of the signal that ended it."""
    grace_seconds, directory, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.setsid()
    os.set_inheritable(LIFELINE, False)
    os.set_inheritable(STATUS, False)
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in signal.valid_signals() - NOT_HANDLED:
        signal.signal(number, lambda number, frame: None)  # those for the group are not for this process
    child = os.fork()
    if child == 0:
        become(command, directory)
    for descriptor in (0, 1, 2, 3):
        os.close(descriptor)  # so that the node sees their ends
    status = wait(child, [woken, LIFELINE], None)
    if status is None:
        os.killpg(0, signal.SIGTERM)
        wait(child, [woken], grace_seconds)
        # Perhaps there is no node any more to kill what the command leaves behind.
        os.killpg(0, signal.SIGKILL)  # this process as well
        return
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    os.write(STATUS, f"exit {code}\n".encode())
    os._exit(code)


def become(command: "list[str]", directory: str) -> None:
    """Turn this process into the command; the signals that are handled are its own affair then."""
    what = f"enter the directory {directory}"
    try:
        os.chdir(directory)
        what = f"execute {command[0]}"
        os.write(STATUS, b"started\n")
        os.execvp(command[0], command)
    except OSError as error:
        os.write(STATUS, f"cannot {what}: {error.strerror}\n".encode(errors="replace"))
    os._exit(NOT_STARTED)


def wait(child: int, watched: "list[int]", seconds: "float | None") -> "int | None":
    """Wait for the child's end, until the life-line breaks if that is watched, or for so many seconds.

    Returns its status, or None.
    """
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        left = None if until is None else max(0.0, until - time.monotonic())
        ready, _, _ = select.select(watched, [], [], left)
        if not ready or LIFELINE in ready:
            return None
        os.read(watched[0], 4096)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # there may be no more processes or descriptors
        os.write(STATUS, f"cannot supervise the command: {error.strerror}\n".encode(errors="replace"))
        raise
