"""What is on a disk after a power loss, worked out from the journal of all that was done to it."""

from __future__ import annotations

import os.path
from itertools import pairwise
from pathlib import Path
from random import Random

from attrs import define, field, frozen

SECTOR = 512
"""Bytes that a disk writes whole or not at all."""

DIRECTORY = 0
"""Stands for the number of a file where a name is that of a directory."""


@frozen
class Write:
    """Bytes went into a file, which is known by a number."""

    file: int
    offset: int
    content: bytes


@frozen
class Truncate:
    """A file was cut, or extended with zeros, to a size."""

    file: int
    size: int


@frozen
class Sync:
    """A file was synced: what was written to it before is durable. Its names are another matter."""

    file: int


@frozen
class SyncFailed:
    """A sync failed. The kernel takes what was written for clean all the same: no later sync brings it to the disk."""

    file: int


@frozen
class Named:
    """A file or a directory got a name, by its creation or by a link. Paths are relative to the disk's root."""

    path: str
    file: int


@frozen
class Unnamed:
    """A name is gone."""

    path: str


@frozen
class SyncDirectory:
    """A directory was synced: the names in it are durable."""

    path: str


@frozen
class Mark:
    """Not the disk's: somebody was told something at this moment."""

    what: object


Entry = Write | Truncate | Sync | SyncFailed | Named | Unnamed | SyncDirectory | Mark


@define
class _Content:
    """A file: what of it is durable, and the writes and truncations since, oldest first."""

    durable: bytearray = field(factory=bytearray)
    pending: list[Write | Truncate] = field(factory=list)

    def sync(self) -> None:
        for change in self.pending:
            _carry_out(self.durable, change)
        self.pending.clear()

    def fail_sync(self) -> None:
        # Sizes are the file system's own, and come to the disk with its journal.
        self.pending = [change for change in self.pending if isinstance(change, Truncate)]

    def after_power_loss(self, luck: Random | None) -> bytes:
        if luck is None or not self.pending:
            return bytes(self.durable)
        content = bytearray(self.durable)
        for change in self.pending:
            for part in _sectors(change):
                if luck.random() < 0.5:
                    _carry_out(content, part)
        return bytes(content)


class Remains:
    """Reads a journal entry by entry, and knows what would be left if the power failed after the last one read."""

    def __init__(self) -> None:
        self._contents: dict[int, _Content] = {}
        self._names: dict[str, int] = {}
        self._durable_names: dict[str, int] = {}
        self._paths: dict[int, str] = {}

    def place(self, entry: Entry) -> str:
        """The path of what an entry makes durable, before it is read; empty for one that makes nothing durable."""
        if isinstance(entry, SyncDirectory):
            return entry.path
        return self._paths[entry.file] if isinstance(entry, Sync) else ""

    def read(self, entry: Entry) -> None:
        """Take the next entry."""
        if isinstance(entry, (Write, Truncate)):
            self._content(entry.file).pending.append(entry)
        elif isinstance(entry, Sync):
            self._content(entry.file).sync()
        elif isinstance(entry, SyncFailed):
            self._content(entry.file).fail_sync()
        elif isinstance(entry, Named):
            self._names[entry.path] = entry.file
            self._paths.setdefault(entry.file, entry.path)
        elif isinstance(entry, Unnamed):
            del self._names[entry.path]
        elif isinstance(entry, SyncDirectory):
            self._sync_names(entry.path)

    def _content(self, file: int) -> _Content:
        return self._contents.setdefault(file, _Content())

    def _sync_names(self, directory: str) -> None:
        for path in self._changed_names():
            if os.path.dirname(path) == directory:
                _take_name(self._durable_names, self._names, path)

    def _changed_names(self) -> list[str]:
        names = self._names.keys() | self._durable_names.keys()
        return sorted(path for path in names if self._names.get(path) != self._durable_names.get(path))

    def restore(self, directory: str, to: Path, luck: Random | None = None) -> None:
        """Write what would be left of a directory to another place, which must not exist yet.

        :param luck: without it nothing survives that was not synced: neither bytes nor names. With it, each sector
            that was written since the last sync does or does not by chance, whatever became of those before it, and
            so does each name that was made or deleted.
        """
        names = dict(self._durable_names)
        if luck is not None:
            for path in self._changed_names():
                if luck.random() < 0.5:
                    _take_name(names, self._names, path)
        if directory not in names:
            return  # all of it is lost
        to.mkdir(parents=True)
        for path in sorted(names):
            target = to / os.path.relpath(path, directory)
            if not path.startswith(directory + "/") or not target.parent.exists():
                continue
            if names[path] == DIRECTORY:
                target.mkdir()
            else:
                target.write_bytes(self._content(names[path]).after_power_loss(luck))


def _take_name(names: dict[str, int], source: dict[str, int], path: str) -> None:
    """Let a path mean in ``names`` what it means in ``source``."""
    if path in source:
        names[path] = source[path]
    else:
        names.pop(path, None)


def _carry_out(content: bytearray, change: Write | Truncate) -> None:
    if isinstance(change, Truncate):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    else:
        content.extend(bytes(max(0, change.offset - len(content))))
        content[change.offset : change.offset + len(change.content)] = change.content


def _sectors(change: Write | Truncate) -> list[Write | Truncate]:
    """The pieces of a change that reach the disk each for itself."""
    if isinstance(change, Truncate):
        return [change]
    end = change.offset + len(change.content)
    cuts = [change.offset, *range((change.offset // SECTOR + 1) * SECTOR, end, SECTOR), end]
    return [
        Write(change.file, start, change.content[start - change.offset : stop - change.offset])
        for start, stop in pairwise(cuts)
    ]
