"""One page of memory that the run shares with one node: how far its clock is off, and how its disk fails.

Imports nothing of Twisted: `tests.chaos.child` has to set the clock before Twisted takes it.
"""

from __future__ import annotations

import mmap
import struct
from enum import IntEnum
from pathlib import Path

_CLOCK = struct.Struct("<d")
_DISK_AT = _CLOCK.size


class DiskMode(IntEnum):
    """State of a node's disk.

    :cvar SYNC_FAILS: fsync fails, so nobody knows whether a commit is on disk.
    :cvar SYNC_FAILS_ONCE: the same, for one fsync.
    :cvar WRITE_FAILS_ONCE: one write of the database fails.
    """

    WELL = 0
    FULL = 1
    READ_ONLY = 2
    SYNC_FAILS = 3
    SYNC_FAILS_ONCE = 4
    WRITE_FAILS_ONCE = 5


class Page:
    """The page, as either of the two processes sees it; made by the first that opens it.

    :param path: of the file that both map.
    """

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(mmap.PAGESIZE)
            self._memory = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    @property
    def clock_offset(self) -> float:
        """Seconds that the node's wall clock is ahead."""
        (seconds,) = _CLOCK.unpack_from(self._memory)
        return float(seconds)

    @clock_offset.setter
    def clock_offset(self, seconds: float) -> None:
        _CLOCK.pack_into(self._memory, 0, seconds)

    @property
    def disk(self) -> DiskMode:
        """How the disk is."""
        return DiskMode(self._memory[_DISK_AT])

    @disk.setter
    def disk(self, mode: DiskMode) -> None:
        self._memory[_DISK_AT] = mode
