"""A layer under SQLite: a VFS that asks an observer before it writes, truncates, syncs or deletes.

SQLite reaches the disk through a table of C functions, its VFS (https://sqlite.org/vfs.html). Here is a copy of the
default one, ``unix``, in which a few functions are Python's; what is read, locked and shared stays C. As the default
VFS it is under every connection that this process opens, and the store knows nothing of it.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from ctypes import CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_int, c_int64, c_void_p, memmove, sizeof
from typing import Any, ClassVar, Protocol

OK = 0
FULL = 13
IOERR = 10
IOERR_WRITE = IOERR | 3 << 8
IOERR_FSYNC = IOERR | 4 << 8
IOERR_TRUNCATE = IOERR | 6 << 8

_OPEN_CREATE = 0x00000004
_OPEN_JOURNAL_OR_WAL = 0x00000800 | 0x00004000 | 0x00080000

_NAME = b"tests-faults"


class UnreachableSQLite(Exception):
    """The functions of the SQLite that Python uses cannot be called from here."""


class Observer(Protocol):
    """Told what SQLite is about to do; what answers with another code than `OK` is not done, and fails with it."""

    def covers(self, path: str) -> bool:
        """Whether to be told about the file."""

    def opened(self, path: str) -> int:
        """The file was opened, and made if it was missing; gives the number by which the calls below name it."""

    def written(self, file: int, offset: int, content: bytes) -> int:
        """A write."""

    def truncated(self, file: int, size: int) -> int:
        """A truncation."""

    def synced(self, file: int, directory: str) -> int:
        """A sync of the file, then one of ``directory`` if that is not empty."""

    def deleted(self, path: str, directory: str) -> None:
        """The name is gone; then a sync of ``directory`` if that is not empty."""

    def stumbled(self, error: BaseException) -> None:
        """The observer or this module raised an exception, which cannot pass through C."""


_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_Close = CFUNCTYPE(c_int, c_void_p)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Methods(Structure):
    """``sqlite3_io_methods``: what can be done with an open file."""

    _fields_: ClassVar = (
        ("iVersion", c_int),
        ("xClose", _Close),
        ("xRead", c_void_p),
        ("xWrite", _Write),
        ("xTruncate", _Truncate),
        ("xSync", _Sync),
        # xFileSize, the locks, xFileControl, what the device is like, shared memory
        ("others", c_void_p * 11),
        ("xFetch", c_void_p),
        ("xUnfetch", c_void_p),
    )


class _File(Structure):
    """``sqlite3_file``: every VFS has fields of its own behind this one."""

    _fields_: ClassVar = (("pMethods", POINTER(_Methods)),)


class _VFS(Structure):
    """``sqlite3_vfs``."""

    _fields_: ClassVar = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", _Open),
        ("xDelete", _Delete),
        # xAccess, xFullPathname, dynamic libraries, randomness, time, system calls
        ("others", c_void_p * 14),
    )


class _OpenFile:
    """A file that an observer watches, from its opening to its end."""

    def __init__(self, observer: Observer, number: int, methods: _Methods, unsynced_directory: str) -> None:
        self.observer = observer
        self.number = number
        self.methods = methods
        self.unsynced_directory = unsynced_directory


class ObservedVFS:
    """The VFS. There is one for the process, never freed: connections keep pointers into it until they are closed."""

    def __init__(self) -> None:
        self.observer: Observer | None = None
        self._library = _library()
        self._files: dict[int, _OpenFile] = {}
        self._observed_methods: dict[int, _Methods] = {}
        self._real: _VFS = self._library.sqlite3_vfs_find(None).contents
        self._vfs = _copy(self._real)
        self._vfs.pNext = None
        self._vfs.zName = _NAME
        self._vfs.xOpen = _Open(self._open)
        self._vfs.xDelete = _Delete(self._delete)
        # What every copied table of methods shares; kept here, as C keeps nothing alive.
        self._functions = {
            "xClose": _Close(self._close),
            "xWrite": _Write(self._write),
            "xTruncate": _Truncate(self._truncate),
            "xSync": _Sync(self._sync),
        }

    def install(self, observer: Observer) -> None:
        """Be the default VFS, for ``observer``, until `remove`.

        :raises UnreachableSQLite: when Python uses another copy of SQLite than this.
        """
        self.observer = observer
        self._library.sqlite3_vfs_register(byref(self._vfs), 1)
        try:
            with closing(sqlite3.connect(f"file::memory:?vfs={_NAME.decode()}", uri=True)):
                pass
        except sqlite3.OperationalError as error:
            self.remove()
            raise UnreachableSQLite(f"Python's sqlite3 has an SQLite of its own ({error})") from error

    def remove(self) -> None:
        """Let the VFS before be the default again; what is open stays observed."""
        self._library.sqlite3_vfs_unregister(byref(self._vfs))
        self.observer = None

    # --- called by SQLite, in any thread ----------------------------------------------------------------------------

    def _open(self, _: int, name: int | None, file: int, flags: int, out_flags: Any) -> int:
        code: int = self._real.xOpen(byref(self._real), name, file, flags, out_flags)
        observer = self.observer
        if code != OK or name is None or observer is None:
            return code
        try:
            path = os.fsdecode(ctypes.string_at(name))
            if observer.covers(path):
                # As os_unix.c has it: the first sync of a new journal or WAL is also one of its directory.
                is_named_by_sync = flags & _OPEN_CREATE and flags & _OPEN_JOURNAL_OR_WAL
                directory = os.path.dirname(path) if is_named_by_sync else ""
                self._observe(file, _OpenFile(observer, observer.opened(path), self._methods_of(file), directory))
        except BaseException as error:  # nothing may pass through C
            observer.stumbled(error)
        return code

    def _methods_of(self, file: int) -> _Methods:
        methods: _Methods = _File.from_address(file).pMethods.contents
        return methods

    def _observe(self, file: int, open_file: _OpenFile) -> None:
        real = ctypes.addressof(open_file.methods)
        if real not in self._observed_methods:
            methods = _copy(open_file.methods)
            methods.iVersion = min(methods.iVersion, 2)  # 3 would let SQLite write through mapped memory
            for name, function in self._functions.items():
                setattr(methods, name, function)
            self._observed_methods[real] = methods
        _File.from_address(file).pMethods = ctypes.pointer(self._observed_methods[real])
        self._files[file] = open_file

    def _delete(self, _: int, name: bytes, sync_directory: int) -> int:
        code: int = self._real.xDelete(byref(self._real), name, sync_directory)
        observer = self.observer
        path = os.fsdecode(name)
        if code == OK and observer is not None:
            try:
                if observer.covers(path):
                    observer.deleted(path, os.path.dirname(path) if sync_directory else "")
            except BaseException as error:
                observer.stumbled(error)
        return code

    def _close(self, file: int) -> int:
        code: int = self._files.pop(file).methods.xClose(file)
        return code

    def _write(self, file: int, content: int, size: int, offset: int) -> int:
        open_file = self._files[file]
        return self._ask(
            open_file,
            lambda: open_file.observer.written(open_file.number, offset, ctypes.string_at(content, size)),
            lambda: open_file.methods.xWrite(file, content, size, offset),
        )

    def _truncate(self, file: int, size: int) -> int:
        open_file = self._files[file]
        return self._ask(
            open_file,
            lambda: open_file.observer.truncated(open_file.number, size),
            lambda: open_file.methods.xTruncate(file, size),
        )

    def _sync(self, file: int, _: int) -> int:
        open_file = self._files[file]
        # The observer's disk is what counts: nobody needs the machine's own to sync.
        code = self._ask(
            open_file,
            lambda: open_file.observer.synced(open_file.number, open_file.unsynced_directory),
            lambda: OK,
        )
        if code == OK:
            open_file.unsynced_directory = ""
        return code

    def _ask(self, open_file: _OpenFile, observe: Callable[[], int], do: Callable[[], int]) -> int:
        try:
            return observe() or do()
        except BaseException as error:
            open_file.observer.stumbled(error)
            return IOERR


def _library() -> Any:
    """The SQLite that Python's own module is linked with: its functions are found through the module itself."""
    try:
        library: Any = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
        library.sqlite3_vfs_find.restype = POINTER(_VFS)
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
        library.sqlite3_vfs_unregister.argtypes = [c_void_p]
    except (OSError, AttributeError) as error:
        raise UnreachableSQLite(f"Python's sqlite3 does not show the functions of its SQLite ({error})") from error
    return library


def _copy(structure: Any) -> Any:
    copy = type(structure)()
    memmove(byref(copy), byref(structure), sizeof(copy))
    return copy


_shared: list[ObservedVFS] = []


def observed_vfs() -> ObservedVFS:
    """The one VFS of the process.

    :raises UnreachableSQLite: when there can be none.
    """
    if not _shared:
        _shared.append(ObservedVFS())
    return _shared[0]
