"""Runs one command in a process group of its own, and ends all that it started when it ends or the life-line breaks.

A program, not a part of the package: the executor ``process`` starts it with a bare interpreter for each task, so it
imports nothing but what loads fast. Its arguments are the seconds between asking the command to end and killing it, the
directory for the command, and the command. Its descriptors, besides the command's own 0 to 3:

* `LIFELINE`, a pipe of which the node holds the other end: it breaks when the node closes it, and when the node dies,
  however that happens.
* `STATUS`, a pipe to the node. It carries lines: ``started PID`` when everything up to the command's program is done,
  with the number of its process group; then ``cannot ...`` if the program cannot be executed; ``lives ...`` with what
  keeps processes of the command from ending, each time that this changes; and as the last line, when no process of the
  command lives, ``exit CODE`` if it has ended by itself and ``ended`` otherwise. The command does not inherit the pipe,
  so that its end is the end of this process.
* perhaps a lock file (see ``places.py``), which this process and the command just keep open.

On Linux this process adopts what its descendants leave behind (``PR_SET_CHILD_SUBREAPER``). A process cannot leave its
ancestors as it can leave its group, so daemons become children of this one when their parents end. Only children are
killed: the number of a child is given to no other process before its parent has waited for it. This process ends when
it has no child any more, and so says that the whole tree has ended. Elsewhere daemons are adopted by another process.

The trap: this process must not be in the group that it kills, and must not end while a child lives, even one that it is
not permitted to kill. Nobody would wait for that one any more.
"""

import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    try:
        import _signal as signal  # all of `signal` but its enumerations, which take twice as long to load as ctypes
    except ImportError:
        import signal

PROGRAM = "warden.py"
LIFELINE = 4
STATUS = 5
NOT_STARTED = 127
NOT_HANDLED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
"""The signals that cannot be handled, and those of faults, which would come again."""

REPORT_SECONDS = 1.0
"""Time after SIGKILL from which on a process that lives is reported."""

FIRST_PAUSE_SECONDS = 0.01
LONGEST_PAUSE_SECONDS = 5.0
CHILDREN = f"/proc/self/task/{os.getpid()}/children"
"""The file that lists the children of this process, on Linux; without it nothing can be adopted."""

CGROUP_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Run the command; the exit code is the command's, or 128 and the number of the signal that ended it."""
    grace_seconds, directory, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.setsid()
    os.set_inheritable(LIFELINE, False)
    os.set_inheritable(STATUS, False)
    os.set_blocking(STATUS, False)  # a node that does not read must not keep anything from being killed
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in signal.valid_signals() - NOT_HANDLED:
        signal.signal(number, lambda number, frame: None)  # a task's signals do not end this process
    adopt_orphans()
    child = os.fork()
    if child == 0:
        become(command, directory)
    attempt(os.setpgid, child, child)  # so does the child, which may have executed its program by now
    for descriptor in (0, 1, 2, 3):
        os.close(descriptor)  # so that the node sees their ends
    tree = Tree(child, woken)
    tree.wait([woken, LIFELINE], None)
    status = tree.status
    if status is None:
        tree.ask(grace_seconds)
    tree.end()  # perhaps there is no node any more to kill what is left
    if status is None:
        tell("ended")
        os._exit(0)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    tell(f"exit {code}")
    os._exit(code)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents end, where that is possible."""
    if os.path.exists(CHILDREN):
        try:
            import ctypes  # takes 5 ms; before the fork, for a daemon takes less to leave its parent

            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        except (ImportError, OSError, AttributeError, MemoryError):
            pass  # an interpreter without ctypes, or a system that forbids what it does


def become(command: "list[str]", directory: str) -> None:
    """Turn this process into the command; the signals that are handled are its own affair then."""
    what = "make a process group"
    try:
        os.setpgid(0, 0)
        what = f"enter the directory {directory}"
        os.chdir(directory)
        what = f"execute {command[0]}"
        tell(f"started {os.getpid()}")
        os.execvp(command[0], command)
    except OSError as error:
        tell(f"cannot {what}: {error.strerror}")
    os._exit(NOT_STARTED)


class Tree:
    """The processes of the command.

    :ivar status: of the command, as ``os.waitpid`` gives it, once it has ended.
    """

    def __init__(self, child: int, woken: int) -> None:
        self.status: int | None = None
        self._child = child
        self._woken = woken
        self._told = ""
        self._cgroup = ""

    def wait(self, watched: "list[int]", seconds: "float | None") -> None:
        """Wait for the command's end, until the life-line breaks if that is watched, or for so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._reap() and self.status is None:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready, _, _ = select.select(watched, [], [], left)
            if not ready or LIFELINE in ready:
                return
            self._drain()

    def ask(self, grace_seconds: float) -> None:
        """Ask the group of the command to end, and the daemons; it may not be permitted.

        Returns when the command has ended, or after so many seconds. Until then daemons are asked that are adopted only
        when the process between them and the command ends, of which the kernel tells nobody here.
        """
        attempt(os.killpg, self._child, signal.SIGTERM)
        asked: set[int] = set()
        until = time.monotonic() + grace_seconds
        pause = FIRST_PAUSE_SECONDS
        while self.status is None:
            for pid in self._children():
                if pid not in asked and attempt(os.getpgid, pid) != self._child:
                    asked.add(pid)
                    attempt(os.kill, pid, signal.SIGTERM)
            left = until - time.monotonic()
            if left <= 0:
                break
            self.wait([self._woken], min(left, pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def end(self) -> None:
        """Kill all; returns when no child is left, and tells the node meanwhile what lives."""
        # The group in one step, so that processes of it which start others all the time do not escape.
        attempt(os.killpg, self._child, signal.SIGKILL)
        reported_at = time.monotonic() + REPORT_SECONDS
        pause = FIRST_PAUSE_SECONDS
        while self._reap():
            lives = [self._kill(pid) for pid in self._children()]
            select.select([self._woken], [], [], pause)
            self._drain()
            if lives and time.monotonic() >= reported_at and self._reap():
                self._report(lives)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        if self._cgroup:
            attempt(os.rmdir, self._cgroup)

    def _kill(self, pid: int) -> str:
        """Kill a child; returns what to report if it lives on."""
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError as error:
            try:
                self._kill_in_cgroup(pid)
            except OSError as second:
                return f"{name_of(pid)} cannot be killed: {error.strerror} (through a cgroup: {second.strerror})"
        return f"{name_of(pid)} was killed and has not ended"

    def _kill_in_cgroup(self, pid: int) -> None:
        """Kill a child whichever account it has: move it into a new cgroup beneath the own one, and kill that.

        :raises OSError: when the own cgroup, of version 2, is not delegated to the account of the node.
        """
        if not self._cgroup:
            directory = f"{own_cgroup()}/tasksubmit-{os.getpid()}"
            os.mkdir(directory)
            self._cgroup = directory
        for name, text in (("cgroup.procs", str(pid)), ("cgroup.kill", "1")):
            with open(f"{self._cgroup}/{name}", "w") as file:
                file.write(text)

    def _report(self, lives: "list[str]") -> None:
        more = f", and {len(lives) - 3} more" if len(lives) > 3 else ""
        text = "; ".join(lives[:3]) + more
        if text != self._told:
            self._told = text
            tell(f"lives {text}")

    def _reap(self) -> bool:
        """Wait for the children that have ended; returns True if others live."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return True
                if pid == self._child:
                    self.status = status
        except ChildProcessError:
            return False

    def _children(self) -> "list[int]":
        """The children of this process, as far as they can be found."""
        found = {self._child} if self.status is None else set()
        try:
            with open(CHILDREN) as file:  # which lists those of other accounts, too, where /proc hides them
                found.update(map(int, file.read().split()))
        except OSError:
            pass  # there is no such file, and nothing was adopted
        return sorted(found)

    def _drain(self) -> None:
        attempt(os.read, self._woken, 4096)


def name_of(pid: int) -> str:
    """A process, for people; the command chooses its name."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = "".join(c if c.isprintable() else "?" for c in file.read().rstrip("\n"))
        return f"process {pid} ({name}) of user {os.stat(f'/proc/{pid}').st_uid}"
    except OSError:
        return f"process {pid}"


def own_cgroup() -> str:
    """The directory of the cgroup, of version 2, that this process is in.

    :raises OSError: when there is none.
    """
    with open("/proc/self/cgroup") as file:
        path = "".join(line[3:-1] for line in file if line.startswith("0::"))
    for mount in CGROUP_MOUNTS:
        if path and os.path.exists(f"{mount}{path}/cgroup.procs"):
            return mount + path
    raise FileNotFoundError(0, "there is none of version 2")


def tell(line: str) -> None:
    """Write a line to the node, which may be gone."""
    attempt(os.write, STATUS, f"{line}\n".encode(errors="replace"))


def attempt(call: "Callable[..., object]", *arguments: object) -> object:
    """Make a call of the system; returns what it does, or None when it fails."""
    try:
        return call(*arguments)
    except OSError:
        return None


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # there may be no more processes or descriptors
        tell(f"cannot supervise the command: {error.strerror}")
        raise
