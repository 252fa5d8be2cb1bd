"""Result files: written whole or not at all, inside one directory, never over another.

A file is written and synced under `INCOMING`, linked to its final name, and the directory synced, before the commit
that names it; the entry in `INCOMING` goes after that commit. So whatever stands there at start is a write that was
interrupted, and a look at its record tells whether to keep it: the cost of that grows with the interrupted writes, not
with the stored files.

Where the disk has no hard links, a mark stands under `INCOMING` in place of the content. It is durable before the final
name is taken, exclusively, and the content is written there. A mark and no record at start: the final file goes.

A name that the disk does not accept is replaced by ``<task_id>.<ext>``. The record keeps the name that the peer gave.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.errors import StoreDamaged, StoreError
from tasksubmit.interfaces import SavedResult
from tasksubmit.lifecycle.results import disk_name, numbered, plain_disk_name
from tasksubmit.pieces import PIECE, in_pieces
from tasksubmit.stores.disk import sync_directory
from tasksubmit.stores.names import LINK_ERRORS, NAME_ERRORS, DiskLimits, probe
from tasksubmit.stores.threads import Call, consecutive

T = TypeVar("T")

INCOMING = ".incoming"

_MARK = b"tasksubmit writes the file of this name in place\n"

_AT_ONCE = 4
"""Files that are written at the same time: each waits for the disk most of the time."""

_Wanted = tuple[str, str, bytes]
"""The id of a task, and the name and the content of a result of its."""


class ResultFiles:
    """The results directory of a node. Every method blocks on the disk: call it in a thread.

    :ivar limits: what the disk cannot do with names, as `open` found.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._incoming = directory / INCOMING
        self.limits = DiskLimits()
        self._has_links = True
        self._for_each: Callable[[Callable[[_Wanted], str | Failure], Iterable[_Wanted]], Iterable[str | Failure]]
        self._for_each = ThreadPoolExecutor(_AT_ONCE, "tasksubmit-results").map

    def open(self, is_named: Callable[[str], bool]) -> None:
        """Make the directories, and sweep what interrupted writes left: kept if ``is_named`` by a record."""
        for directory in (self._directory, self._incoming):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in sorted(self._incoming.iterdir()):
            # A disk may list a name in another Unicode form than that in which it was given.
            is_kept = any(map(is_named, {leftover.name, unicodedata.normalize("NFC", leftover.name)}))
            if not is_kept and (self._is_same(leftover) or is_mark(leftover)):
                (self._directory / leftover.name).unlink(missing_ok=True)
            leftover.unlink()
        self.limits = probe(self._incoming)
        self._has_links = self.limits.has_links

    def write(self, task_id: str, filename: str, content: bytes) -> str:
        """Keep ``content`` durably; returns the file's name in the directory, numbered if others have the name.

        Call `settle` with that name once a record names it, or `discard`.

        :raises StoreError: when it could not be written.
        """
        [name] = self.write_all([(task_id, filename, content)])
        if isinstance(name, Failure):
            name.raiseException()
        return name

    def write_all(self, files: Sequence[_Wanted]) -> list[str | Failure]:
        """Like `write`, for several at once: their names become durable together."""
        others = self._for_each(self._write, files[1:])  # begun when this returns
        names = [*map(self._write, files[:1]), *others]  # one alone needs no other thread
        try:
            self._sync_names()
        except OSError as error:
            failure = self._not_written(error)
            for name in names:
                if isinstance(name, str):
                    self.discard(name)
            return [failure if isinstance(name, str) else name for name in names]
        return names

    def _write(self, wanted: _Wanted) -> str | Failure:
        task_id, filename, content = wanted
        name = disk_name(task_id, filename)
        try:
            if self.limits.suit(name):
                try:
                    return self._write_first(name, content)
                except UnicodeError:
                    pass
                except OSError as error:
                    if error.errno not in NAME_ERRORS:
                        raise
            return self._write_first(plain_disk_name(task_id, filename), content)
        except Exception as error:
            return self._not_written(error)

    def _write_first(self, name: str, content: bytes) -> str:
        """Write a file under a name, or the first numbered one that is free; return that."""
        return next(name for name in _candidates(name) if self._write_as(name, content))

    def _not_written(self, error: Exception) -> Failure:
        if not isinstance(error, OSError):
            return Failure(error)
        why = f"{error.strerror}; check the disk and its free space"
        refusal = StoreError(f"the result could not be written to {self._directory}: {why}")
        refusal.__cause__ = error
        return Failure(refusal)

    def _sync_names(self) -> None:
        sync_directory(self._directory)

    def settle(self, name: str) -> None:
        """A committed record names the file: it stays."""
        _within(self._incoming, name).unlink(missing_ok=True)

    def condemn(self, name: str) -> None:
        """The record that names the file is about to go: call `discard` after that, or `settle` if it stays."""
        with suppress(OSError):  # there is no room for a note, for one; then a crash may leave the file behind
            if self._has_links:
                os.link(self.path(name), _within(self._incoming, name))
            else:
                self._mark(name)

    def discard(self, name: str) -> None:
        """No record names the file: it goes."""
        self.path(name).unlink(missing_ok=True)
        _within(self._incoming, name).unlink(missing_ok=True)

    def read(self, name: str, digest: str = "") -> bytes:
        """The content of a file, which must have the SHA-256 ``digest`` unless that is empty.

        :raises StoreDamaged: when it has another.
        :raises StoreError: when it cannot be read.
        """
        path = self.path(name)
        content = self._content(path)
        if digest and sha256(content).hexdigest() != digest:
            raise StoreDamaged(
                f"the result file {path} is damaged: its {len(content)} bytes are not those that were saved; restore it"
                " from a backup, or from the agent that has the original"
            )
        return content

    def _content(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise StoreError(
                f"the result file {path} cannot be read: {error.strerror}; restore it from a backup"
            ) from error

    def path(self, name: str) -> Path:
        """Where a file is.

        :raises StoreError: when the name leads elsewhere, which no name that `write` returns does.
        """
        return _within(self._directory, name)

    def _is_same(self, leftover: Path) -> bool:
        """Whether the final name is taken by this very write; otherwise another file has it."""
        final = self._directory / leftover.name
        return final.exists() and final.samefile(leftover)

    def _write_as(self, name: str, content: bytes) -> bool:
        """Write a file under a name; return False if the name is taken."""
        if self._has_links:
            try:
                return self._write_and_link(name, content)
            except OSError as error:
                if error.errno not in LINK_ERRORS - NAME_ERRORS:
                    raise
            self._has_links = False
        return self._write_in_place(name, content)

    def _write_in_place(self, name: str, content: bytes) -> bool:
        final = self.path(name)
        if os.path.lexists(final) or not self._mark(name):
            return False
        try:
            descriptor = os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            _within(self._incoming, name).unlink()
            if isinstance(error, FileExistsError):
                return False
            raise
        try:
            _write_durably(descriptor, content)
        except OSError:
            self.discard(name)
            raise
        return True

    def _mark(self, name: str) -> bool:
        """Note durably that no record may name a file; return False if another write of the name is under way."""
        mark = _within(self._incoming, name)
        try:
            descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        try:
            _write_durably(descriptor, _MARK)
            sync_directory(self._incoming)
        except OSError:
            mark.unlink(missing_ok=True)
            raise
        return True

    def _write_and_link(self, name: str, content: bytes) -> bool:
        incoming, final = _within(self._incoming, name), self.path(name)
        try:
            descriptor = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False  # another write of the same name is under way
        try:
            _write_durably(descriptor, content)
            os.link(incoming, final)
        except FileExistsError:
            incoming.unlink()
            return False
        except OSError:
            incoming.unlink(missing_ok=True)
            raise
        return True


class MemoryResultFiles(ResultFiles):
    """Results kept in memory, for tests: the same names, no disk."""

    def __init__(self) -> None:
        super().__init__(Path("memory:"))
        self._for_each = map
        self._contents: dict[str, bytes] = {}

    @override
    def open(self, is_named: Callable[[str], bool]) -> None:
        """There is nothing to make or to sweep."""

    @override
    def settle(self, name: str) -> None:
        """Memory is as settled as it gets."""

    @override
    def discard(self, name: str) -> None:
        """No record came to name the file: it goes."""
        self._contents.pop(name, None)

    @override
    def condemn(self, name: str) -> None:
        """Memory needs no notes."""

    @override
    def _sync_names(self) -> None:
        """There are none to lose."""

    @override
    def _content(self, path: Path) -> bytes:
        try:
            return self._contents[path.name]
        except KeyError:
            raise StoreError(f"there is no result file {path.name}") from None

    @override
    def _write_as(self, name: str, content: bytes) -> bool:
        if name in self._contents:
            return False
        self._contents[name] = content
        return True


def _write_durably(descriptor: int, content: bytes) -> None:
    """Write a file whole, sync and close it."""
    try:
        for rest in in_pieces(memoryview(content), PIECE):
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_mark(path: Path) -> bool:
    """Return True if a file under `INCOMING` marks one that is written in place."""
    try:
        return path.stat().st_size == len(_MARK) and path.read_bytes() == _MARK
    except OSError:
        return False


def save(files: ResultFiles, wanted: Sequence[_Wanted]) -> list[SavedResult | Failure]:
    """The operation that keeps results, given the id of the task, the name and the content of each."""
    return [
        name if isinstance(name, Failure) else SavedResult(name, sha256(content).hexdigest(), len(content))
        for name, (_, _, content) in zip(files.write_all(wanted), wanted, strict=True)
    ]


def each_file(files: ResultFiles, calls: Sequence[Callable[[ResultFiles], T]]) -> list[T | Failure]:
    """The operation whose arguments are functions of the files."""
    results: list[T | Failure] = []
    for call in calls:
        try:
            results.append(call(files))
        except Exception:
            results.append(Failure())
    return results


def run_files(files: ResultFiles, calls: Sequence[Call]) -> list[Any]:
    """Carry out calls on files; those of the same operation that follow each other together."""
    results: list[Any] = []
    for operation, arguments in consecutive(calls):
        results += operation(files, arguments)
    return results


def _within(directory: Path, name: str) -> Path:
    """The file of this name in ``directory``, and nowhere else: names are checked where they arrive, and here again."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise StoreError(f"{name!r} cannot be the name of a result file")
    return directory / name


def _candidates(name: str) -> Iterator[str]:
    yield name
    for number in count(2):
        yield numbered(name, number)
