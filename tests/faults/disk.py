"""A disk that a test controls: it writes down all that is done to it, and fails when it is told to.

`Disk` stands between the store and the machine's disk. Under SQLite it is a VFS (see `tests.faults.vfs`), under the
result files it replaces the functions of ``os`` that make names and sync. All goes into one journal, from which
`tests.faults.remains` works out what a power loss at any moment leaves.

The process itself sees all that it wrote, synced or not, as it does on a real machine until the power fails.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from contextlib import ExitStack
from fnmatch import fnmatch
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any
from unittest import SkipTest
from unittest.mock import patch

from attrs import define

from tests.faults.remains import (
    DIRECTORY,
    Entry,
    Mark,
    Named,
    Sync,
    SyncDirectory,
    SyncFailed,
    Truncate,
    Unnamed,
    Write,
)
from tests.faults.vfs import OK, UnreachableSQLite, observed_vfs

_real_open, _real_fsync, _real_link, _real_unlink, _real_mkdir = os.open, os.fsync, os.link, os.unlink, Path.mkdir


@define
class Fault:
    """What goes wrong: an operation on the files whose path matches, after a number of such that still succeed.

    :ivar operation: ``write``, ``truncate``, ``sync``; for files that are not SQLite's also ``link``.
    :ivar pattern: of `fnmatch`, for the path relative to the disk's root; its ``*`` matches slashes, too.
    :ivar error: SQLite's code for its files; for others the ``errno``.
    """

    operation: str
    pattern: str
    error: int
    skip: int = 0
    hits: int = 0


class Disk:
    """All that happens below ``root``, from `install` until `remove`. Its methods may be called from any thread.

    :ivar journal: what was done, in order.
    :ivar errors: the exceptions of the disk itself; there should be none.
    :ivar opened_paths: every path that SQLite opened, each time that it did.
    :ivar was_well_until: the length of the journal when the first fault was asked for.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.journal: list[Entry] = []
        self.errors: list[BaseException] = []
        self.opened_paths: list[str] = []
        self.was_well_until = sys.maxsize
        self._faults: list[Fault] = []
        self._lock = Lock()
        self._numbers = count(1)
        self._files: dict[str, int] = {}
        self._inodes: dict[tuple[int, int], int | str] = {}
        self._seen: dict[int, bytes] = {}
        self._patches = ExitStack()

    def install(self) -> None:
        """Be under everything that is opened from now on.

        :raises SkipTest: where SQLite cannot be reached.
        """
        try:
            observed_vfs().install(self)
        except UnreachableSQLite as error:
            raise SkipTest(str(error)) from error
        self._patches.callback(observed_vfs().remove)
        _real_mkdir(Path(self.root), parents=True, exist_ok=True)
        self._inodes[_identity(os.stat(self.root))] = ""
        for owner, name, replacement in (
            (os, "open", self._os_open),
            (os, "fsync", self._os_fsync),
            (os, "link", self._os_link),
            (os, "unlink", self._os_unlink),
            (os, "rename", partial(self._refuse_to_rename, os.rename)),
            (os, "replace", partial(self._refuse_to_rename, os.replace)),
            # These two keep the functions of ``os`` that they call in some versions of Python.
            (Path, "unlink", lambda path, missing_ok=False: _unlink(path, missing_ok)),
            (Path, "mkdir", lambda path, *args, **options: self._path_mkdir(path, *args, **options)),
        ):
            self._patches.enter_context(patch.object(owner, name, replacement))

    def remove(self) -> None:
        """Be gone; what is open stays watched until it is closed."""
        self._patches.close()

    def mark(self, what: object) -> None:
        """Put it into the journal that somebody is told ``what`` now."""
        with self._lock:
            self.journal.append(Mark(what))

    def fail(self, operation: str, pattern: str, error: int, *, skip: int = 0) -> Fault:
        """Let an operation fail from now on, until `heal`; see `Fault`."""
        fault = Fault(operation, pattern, error, skip)
        with self._lock:
            self._faults.append(fault)
            self.was_well_until = min(self.was_well_until, len(self.journal))
        return fault

    def heal(self) -> None:
        """Let everything succeed again."""
        with self._lock:
            self._faults.clear()

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable, as whoever made it would have done."""
        with self._lock:
            self._note_directories(self._relative(path))
            self.journal.append(SyncDirectory(self._relative(path)))

    # --- what the paths mean ----------------------------------------------------------------------------------------

    def covers(self, path: str) -> bool:
        """Whether a path is on this disk."""
        return os.path.realpath(path).startswith(self.root + "/")

    def _relative(self, path: str | Path) -> str:
        relative = os.path.relpath(os.path.realpath(path), self.root)
        return "" if relative == "." else relative

    def _absolute(self, path: str) -> str:
        return os.path.join(self.root, path)

    def _note_directories(self, path: str) -> None:
        """Write down the directory and those above it, if they are new."""
        if not path or path in self._files:
            return
        self._note_directories(os.path.dirname(path))
        self._name(path, DIRECTORY)
        self._inodes[_identity(os.stat(self._absolute(path)))] = path

    def _name(self, path: str, file: int) -> None:
        self._files[path] = file
        self.journal.append(Named(path, file))

    def _file(self, path: str) -> int:
        """The number of the file; one that is not known is new."""
        if path not in self._files:
            number = next(self._numbers)
            self._inodes[_identity(os.stat(self._absolute(path)))] = number
            self._name(path, number)
        return self._files[path]

    def _error_of(self, operation: str, path: str) -> int:
        for fault in self._faults:
            if fault.operation == operation and fnmatch(path, fault.pattern):
                if fault.skip:
                    fault.skip -= 1
                else:
                    fault.hits += 1
                    return fault.error
        return OK

    def _path_of(self, file: int) -> str:
        return next((path for path, number in self._files.items() if number == file), "")

    # --- below SQLite: tests.faults.vfs.Observer ---------------------------------------------------------------------

    def opened(self, path: str) -> int:
        """See `Observer.opened`."""
        with self._lock:
            relative = self._relative(path)
            self.opened_paths.append(relative)
            return self._file(relative)

    def written(self, file: int, offset: int, content: bytes) -> int:
        """See `Observer.written`."""
        return self._database_operation("write", Write(file, offset, content))

    def truncated(self, file: int, size: int) -> int:
        """See `Observer.truncated`."""
        return self._database_operation("truncate", Truncate(file, size))

    def _database_operation(self, operation: str, entry: Write | Truncate) -> int:
        with self._lock:
            error = self._error_of(operation, self._path_of(entry.file))
            if error == OK:
                self.journal.append(entry)
            return error

    def synced(self, file: int, directory: str) -> int:
        """See `Observer.synced`."""
        with self._lock:
            error = self._sync(file)
            if error == OK and directory:
                self.journal.append(SyncDirectory(self._relative(directory)))
            return error

    def deleted(self, path: str, directory: str) -> None:
        """See `Observer.deleted`."""
        with self._lock:
            self._unname(self._relative(path))
            if directory:
                self.journal.append(SyncDirectory(self._relative(directory)))

    def stumbled(self, error: BaseException) -> None:
        """See `Observer.stumbled`."""
        self.errors.append(error)

    def _sync(self, file: int) -> int:
        error = self._error_of("sync", self._path_of(file))
        if error:
            self._seen.pop(file, None)  # whoever writes it again makes it dirty again
        self.journal.append(SyncFailed(file) if error else Sync(file))
        return error

    def _unname(self, path: str) -> None:
        del self._files[path]
        self.journal.append(Unnamed(path))

    # --- below the result files --------------------------------------------------------------------------------------

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = _real_open(path, flags, mode, dir_fd=dir_fd)
        if not flags & os.O_CREAT or not self.covers(path):
            return descriptor
        with self._lock:
            relative = self._relative(path)
            self._file(relative)
            error = self._error_of("write", relative)
        if error == OK:
            return descriptor
        os.close(descriptor)
        # What Python writes into an open file does not come by here; the kernel refuses it in our place.
        assert error == errno.ENOSPC
        return _real_open("/dev/full", os.O_WRONLY)

    def _os_fsync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        with self._lock:
            known = self._inodes.get(_identity(status))
            if isinstance(known, str) and stat.S_ISDIR(status.st_mode):
                error = self._error_of("sync", known)
                if not error:
                    self.journal.append(SyncDirectory(known))
            elif isinstance(known, int):
                self._note_content(known)
                error = self._sync(known)
            else:
                return _real_fsync(descriptor)
        _raise(error, descriptor)

    def _note_content(self, file: int) -> None:
        """Write down what Python has written meanwhile."""
        content = Path(self._absolute(self._path_of(file))).read_bytes()
        if content != self._seen.get(file, b""):
            self._seen[file] = content
            self.journal.append(Write(file, 0, content))

    def _os_link(self, source: Any, target: Any, **options: Any) -> None:
        if not self.covers(target):
            return _real_link(source, target, **options)
        with self._lock:
            file = self._file(self._relative(source))
            self._note_content(file)
            _raise(self._error_of("link", self._relative(target)), target)
            _real_link(source, target, **options)
            self._name(self._relative(target), file)

    def _os_unlink(self, path: Any, **options: Any) -> None:
        if not self.covers(path):
            return _real_unlink(path, **options)
        with self._lock:
            relative = self._relative(path)
            _real_unlink(path, **options)
            if relative in self._files:
                self._unname(relative)

    def _refuse_to_rename(self, rename: Callable[..., None], source: Any, target: Any, **options: Any) -> None:
        if self.covers(source) or self.covers(target):
            raise NotImplementedError("the journal knows no renaming; teach it, now that something renames")
        rename(source, target, **options)

    def _path_mkdir(self, path: Path, *args: Any, **options: Any) -> None:
        _real_mkdir(path, *args, **options)
        if self.covers(str(path)):
            with self._lock:
                self._note_directories(self._relative(path))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _raise(error: int, where: object) -> None:
    if error:
        raise OSError(error, os.strerror(error), str(where))


def _unlink(path: Path, missing_ok: bool) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        if not missing_ok:
            raise
