"""A node's process: ``twistd`` with a clock that can be set and a disk that can fail.

``python -m tests.chaos.child PAGE STATE TWISTD-ARGUMENT...``, where the run controls both through `Page`. What the disk
refuses, it refuses as the kernel does: SQLite's writes and syncs through a VFS, what Python opens, makes, links or
removes through an audit hook, both for paths below STATE alone.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.chaos.page import DiskMode, Page

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NAMES = ("os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.truncate")


def set_clock(page: Page) -> None:
    """Have ``time.time`` follow the page; to be called before Twisted is imported."""
    real = time.time
    time.time = lambda: real() + page.clock_offset


def fail_files(page: Page, state: str) -> None:
    """Refuse what Python does to files below ``state``, while the disk is full or read-only."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if page.disk not in (DiskMode.FULL, DiskMode.READ_ONLY):
            return
        is_full = page.disk is DiskMode.FULL
        if event == "open":
            path, _, flags = arguments
            is_refused = bool(flags & (os.O_CREAT if is_full else _WRITES))
        elif event in _NAMES:
            path = arguments[0]
            is_refused = not is_full or event == "os.mkdir"
        else:
            return
        if is_refused and isinstance(path, str | bytes | os.PathLike) and _is_below(path, state):
            number = errno.ENOSPC if is_full else errno.EROFS
            raise OSError(number, os.strerror(number), os.fsdecode(path))

    sys.addaudithook(hook)
    real_fsync = os.fsync

    def fsync(descriptor: Any) -> None:
        if _sync_fails(page) and _is_below(os.readlink(f"/proc/self/fd/{descriptor}"), state):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]  # the same, but for the name of its parameter


def _is_below(path: Any, state: str) -> bool:
    return os.path.abspath(os.fsdecode(path)).startswith(state + "/")


def _sync_fails(page: Page) -> bool:
    if page.disk is DiskMode.SYNC_FAILS_ONCE:
        page.disk = DiskMode.WELL
        return True
    return page.disk in (DiskMode.SYNC_FAILS, DiskMode.READ_ONLY)


def fail_database(page: Page, state: str) -> None:
    """Refuse what SQLite does to files below ``state``; see `tests.faults.vfs`."""
    from tests.faults.vfs import FULL, IOERR_FSYNC, IOERR_TRUNCATE, IOERR_WRITE, OK, UnreachableSQLite, observed_vfs

    class FailingDisk:
        """See `tests.faults.vfs.Observer`."""

        def covers(self, path: str) -> bool:
            return _is_below(path, state)

        def opened(self, path: str) -> int:
            return 0

        def written(self, file: int, offset: int, content: bytes) -> int:
            if page.disk is DiskMode.WRITE_FAILS_ONCE:
                page.disk = DiskMode.WELL
                return IOERR_WRITE
            return {DiskMode.FULL: FULL, DiskMode.READ_ONLY: IOERR_WRITE}.get(page.disk, OK)

        def truncated(self, file: int, size: int) -> int:
            return IOERR_TRUNCATE if page.disk is DiskMode.READ_ONLY else OK

        def synced(self, file: int, directory: str) -> int:
            return IOERR_FSYNC if _sync_fails(page) else OK

        def deleted(self, path: str, directory: str) -> None:
            pass

        def stumbled(self, error: BaseException) -> None:
            sys.stderr.write(f"Unhandled in the disk of the test: {error!r}\n")

    try:
        observed_vfs().install(FailingDisk())
    except UnreachableSQLite as error:
        sys.stderr.write(f"the database of this node has no faults: {error}\n")


def main() -> None:
    """Run ``twistd``."""
    page = Page(Path(sys.argv[1]))
    state = os.path.abspath(sys.argv[2])
    set_clock(page)
    fail_files(page, state)
    fail_database(page, state)
    from twisted.scripts.twistd import run

    sys.argv[:] = ["twistd", *sys.argv[3:]]
    run()


if __name__ == "__main__":
    main()
