"""Places for attempts on the disk: a directory to work in, and a lock that tells whether an attempt may still live.

A node that dies leaves commands that tidy up, and the next one must not start the same task beside them. So each
attempt has a lock file, named after its task. The node locks it (flock) and passes the open file to the supervisor and
to the command, which pass it to whatever they start. The kernel keeps the lock until the last of these processes has
ended, however it ended and whoever else was killed; a restart of the machine ends it, too. An attempt starts only when
it has the lock of its task.

The node leaves a place when it can lock the file again through another descriptor, after it has closed its own: then no
process of the attempt has the lock. What has it although the supervisor has ended is killed.

`sweep` removes at the start what dead attempts have left. It waits for those that live for as long as their commands
have to tidy up; what still holds a lock then and has lost its supervisor is killed. A supervisor is never killed: it
lives as long as a process does that it could not kill. To find these processes takes ``/proc``: elsewhere than on
Linux they are waited for.

The trap: a lock file may be removed by one who has locked it while another, who opened it before, waits for the lock.
That one would then lock a file that nobody finds any more; so whoever gets a lock looks whether it is still of the file
of that name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path, PurePath

from attrs import define

from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.executors import warden

_LOCK_SUFFIX = ".lock"
_SLACK_SECONDS = 2.0


class PlaceTaken(Exception):
    """A process of an earlier attempt at the task lives, or may."""


@define
class Place:
    """The place of one attempt, which has its lock.

    :ivar directory: new and empty.
    :ivar descriptor: of the lock file, to be inherited by every process of the attempt; None for a temporary place.
    """

    directory: Path
    descriptor: int | None = None
    _lock_path: Path | None = None
    _probe: int | None = None

    @classmethod
    def claim(cls, root: Path, key: TaskKey, grace_seconds: float) -> Place:
        """Make a place for an attempt at a task; blocks.

        :param root: the directory of all places, made if it is missing.
        :param grace_seconds: how long the command may tidy up.
        :raises PlaceTaken: when an earlier attempt may live.
        :raises OSError: when the disk does not allow it; nothing is left then.
        """
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = sha256(f"{key.side} {key.peer} {key.task_id}".encode()).hexdigest()[:32]
        lock_path = root / (name + _LOCK_SUFFIX)
        descriptor = _lock(lock_path)
        probe = None
        try:
            probe = os.open(lock_path, os.O_RDWR)  # now, for there may be no descriptor in the end
            # On a full disk this is what fails; a new directory may yet be possible.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{grace_seconds}\n".encode(), 0)
            for left in _directories(root, name):
                remove_tree(left)
            return cls(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root)), descriptor, lock_path, probe)
        except BaseException:
            os.close(descriptor)
            if probe is not None:
                os.close(probe)
            raise

    @classmethod
    def temporary(cls) -> Place:
        """Make a place for an attempt of a node that keeps nothing on disk; blocks. It has no lock.

        :raises OSError: when the disk does not allow it.
        """
        return cls(Path(tempfile.mkdtemp(prefix="tasksubmit-")))

    def leave(self) -> None:
        """Remove the place; blocks. To be called when the attempt has ended; what cannot be removed is left.

        :raises PlaceTaken: when a process of the attempt has the lock, or it cannot be found out whether one has.
        """
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self._probe is not None:
            try:
                fcntl.flock(self._probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise PlaceTaken(self._lock_path) from None
        try:
            remove_tree(self.directory)
            if self._lock_path is not None:
                with suppress(OSError):
                    self._lock_path.unlink()
        finally:
            if self._probe is not None:
                os.close(self._probe)
                self._probe = None

    def clear(self) -> str:
        """Kill what has the lock although its supervisor has ended; blocks. Returns which processes these are."""
        return "" if self._lock_path is None else kill_holders(self._lock_path)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_same(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise PlaceTaken(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _directories(root: Path, name: str) -> Iterator[Path]:
    return root.glob(f"{name}-*")


def sweep(root: Path, waited_seconds: float) -> bool:
    """Remove what dead attempts left in ``root``, and kill what lost its supervisor; blocks.

    :param waited_seconds: how long ago the node was started.
    :returns: True when nothing of an earlier run of the node is left.
    """
    is_clean = True
    try:
        entries = os.listdir(root)
    except OSError:
        return True  # no place was ever made, or none can be: attempts will say so
    for name in sorted({entry.removesuffix(_LOCK_SUFFIX).partition("-")[0] for entry in entries}):
        path = root / (name + _LOCK_SUFFIX)
        try:
            descriptor = _lock(path)
        except PlaceTaken:
            if os.getpid() in holders(path):
                continue  # an attempt of this run of the node has the place by now
            is_clean = False
            if waited_seconds > _grace_of(path) + _SLACK_SECONDS:
                kill_holders(path)
        except OSError:
            is_clean = False
        else:
            try:
                for left in _directories(root, name):
                    remove_tree(left)
                with suppress(OSError):
                    path.unlink()
            finally:
                os.close(descriptor)
    return is_clean


def _grace_of(lock_path: Path) -> float:
    try:
        with lock_path.open("rb") as file:
            return float(file.read(64).partition(b"\n")[0])  # the command can write to it, as much as it likes
    except (OSError, ValueError):
        return 0.0


def kill_holders(lock_path: Path) -> str:
    """Kill the processes that have a lock, unless their supervisor is among them.

    :returns: which they are and what keeps them from being killed, for the operator.
    """
    pids = holders(lock_path)
    for pid in filter(_is_supervisor, pids):
        with suppress(OSError):
            os.kill(pid, signal.SIGCONT)  # its task may have stopped it
        return f"{warden.name_of(pid)}, the supervisor, has not ended"
    return "; ".join(_kill(pid) for pid in pids) or f"a process that cannot be found has {lock_path} locked"


def _kill(pid: int) -> str:
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError as error:
        return f"{warden.name_of(pid)} cannot be killed: {error.strerror}"
    return f"{warden.name_of(pid)} was killed and has not ended"


def _is_supervisor(pid: int) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(PurePath(os.fsdecode(argument)).name == warden.PROGRAM for argument in arguments[1:4])


def holders(lock_path: Path) -> list[int]:
    """The processes that have a lock file open and locked; none where there is no ``/proc``."""
    try:
        wanted = os.stat(lock_path)
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    return [pid for pid in pids if _holds(Path(f"/proc/{pid}"), wanted)]


def _holds(process: Path, wanted: os.stat_result) -> bool:
    try:
        for descriptor in os.listdir(process / "fd"):
            with suppress(OSError):
                if not os.path.samestat(os.stat(process / "fd" / descriptor), wanted):
                    continue
                if "FLOCK" in (process / "fdinfo" / descriptor).read_text("ascii", "replace"):
                    return True
    except OSError:
        pass  # it has ended, or belongs to another user
    return False


def remove_tree(directory: Path) -> None:
    """Remove a directory with all that a command made in it, also what it made unreadable; leaves what it cannot.

    No link is followed, whoever swaps names meanwhile. Directories are moved to the top before they are emptied: so it
    takes no more descriptors and no more stack however deep they are.
    """
    for _ in range(2):  # a fault that happens once leaves nothing behind
        with suppress(OSError):
            parent = os.open(directory.parent, _DIRECTORY)
            try:
                return _remove_beneath(parent, directory.name)
            finally:
                os.close(parent)


def _remove_beneath(parent: int, name: str) -> None:
    try:
        top = _open_directory(parent, name)
    except NotADirectoryError:  # a link, or another file, in its place
        os.unlink(name, dir_fd=parent)
        return
    try:
        prefix = secrets.token_hex(8)
        moved = count()
        while directories := _empty(top, lambda: f"{prefix}-{next(moved)}", None):
            if not sum(_flatten(top, inner, lambda: f"{prefix}-{next(moved)}") for inner in directories):
                break  # none of them can be removed, which is an error below
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _flatten(top: int, name: str, fresh: Callable[[], str]) -> bool:
    """Move the directories in a directory of the top to the top, and remove it; returns whether that was done."""
    with suppress(OSError):
        inner = _open_directory(top, name)
        try:
            _empty(inner, fresh, top)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=top)
        return True
    return False


def _empty(directory: int, fresh: Callable[[], str], top: int | None) -> list[str]:
    """Remove the files of a directory, and move its directories to the top; returns the names of those that stay."""
    left = []
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        with suppress(OSError):
            if not is_directory:
                os.unlink(name, dir_fd=directory)
                continue
            if top is not None:
                os.close(_open_directory(directory, name))  # to move a directory takes the permission to write to it
                os.rename(name, fresh(), src_dir_fd=directory, dst_dir_fd=top)
                continue
        left.append(name)
    return left


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _open_directory(parent: int, name: str) -> int:
    """Open a directory, which is made accessible.

    :raises NotADirectoryError: it is a link, or another file.
    """
    try:
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except PermissionError:
        _make_accessible(parent, name)
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    with suppress(OSError):
        os.fchmod(descriptor, 0o700)
    return descriptor


def _make_accessible(parent: int, name: str) -> None:
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(name, 0o700, dir_fd=parent, follow_symlinks=False)
        return
    # Linux changes the mode of what a descriptor is of, but not through one that was opened without permissions.
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)
