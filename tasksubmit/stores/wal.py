"""The log that SQLite keeps beside a database (https://www.sqlite.org/fileformat2.html#walformat)."""

from __future__ import annotations

import struct
from pathlib import Path

_LOG_HEADER, _FRAME_HEADER = 32, 24
_LOG_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}


def fault_of_log(path: Path) -> str:
    """What is wrong with the write-ahead log, if that can be told.

    SQLite takes the log up to the first frame that does not fit, and says nothing of what stands behind it. Most often
    that is what a crash or a failed sync cut short. But when a transaction was begun upon the end of another, the other
    was safe on the disk.
    """
    if not path.exists() or path.stat().st_size <= _LOG_HEADER:
        return ""
    with path.open("rb") as log:
        header = log.read(_LOG_HEADER)
        magic, page_size, salt, expected = struct.unpack(">I4xI4x8s8s", header)
        order = _LOG_MAGIC.get(magic, ">")
        sums = _checksum(order, header[:24], (0, 0))
        if magic not in _LOG_MAGIC or sums != struct.unpack(">II", expected):
            return "is damaged: it does not begin as a log does"
        is_read, is_commit = True, False
        while len(frame := log.read(_FRAME_HEADER + page_size)) == _FRAME_HEADER + page_size:
            size_after_commit, found_salt, expected = struct.unpack(">4xI8s8s", frame[:_FRAME_HEADER])
            if found_salt != salt:  # of an older log, most likely
                is_read = is_commit = False
                continue
            continued = _checksum(order, frame[_FRAME_HEADER:], _checksum(order, frame[:8], sums))
            sums = struct.unpack(">II", expected)
            is_read = is_read and continued == sums
            if not is_read and is_commit and continued == sums:
                return "is damaged in the middle"
            is_commit = size_after_commit != 0
    return ""


def _checksum(order: str, content: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's own: over pairs of 32-bit words."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}II", content):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
