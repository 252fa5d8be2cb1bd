"""What a state directory needs of the disk: names that are durable, a log that is, and one process at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from tasksubmit.errors import StoreLocked
from tasksubmit.interfaces import DiskSpace

_CHUNK_BYTES = 1024 * 1024


def space(directory: Path) -> DiskSpace:
    """Return the size of the disk that a directory is on, and what is free on it for this process."""
    found = os.statvfs(directory)
    return DiskSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory that only its owner can enter, and those above it that are missing, durably."""
    missing = [one for one in (directory, *directory.parents) if not one.exists()]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in missing:
        with suppress(PermissionError):  # a directory that may not be read was not made here
            sync_directory(made.parent)


def make_file(path: Path) -> None:
    """Make a file that only its owner can read, if it is missing.

    Not while a connection of this process has it open: closing it again would let go of all the locks of SQLite.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def sync_log(database: Path) -> None:
    """Make the write-ahead log that SQLite is about to read durable.

    A process that died of a failing disk leaves a log that can be read from memory, but is not on the disk, and which
    no later sync would put there: what was not written since counts as clean. So it is written again.
    """
    with suppress(FileNotFoundError), open(f"{database}-wal", "r+b") as log:
        while chunk := log.read(_CHUNK_BYTES):
            log.seek(-len(chunk), os.SEEK_CUR)
            log.write(chunk)
        log.flush()
        os.fsync(log.fileno())


def lock(path: Path) -> int:
    """Take the lock file for this process; the kernel lets go of it when the process ends, however it ends.

    :returns: the file's descriptor; closing it lets go.
    :raises StoreLocked: when another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreLocked(
            f"the state directory {path.parent} is in use by another process; stop it, or choose another directory"
        ) from error
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a process has the lock file; no, where it cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
