"""What is large is handled in pieces: whoever waits for the interpreter, the reactor above all, gets his turn between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TypeVar

T = TypeVar("T", str, bytes, memoryview)

PIECE = 64 * 1024
"""Bytes or characters: any work on so few takes a fraction of a millisecond."""


def in_pieces(whole: T, length: int) -> Iterator[T]:
    """Cut into pieces of this length, and a last one that may be shorter; of nothing there is none."""
    return (whole[start : start + length] for start in range(0, len(whole), length))


def joined(pieces: Iterable[bytes], size_bytes: int) -> bytes:
    """Join pieces that are about this many bytes together; ``bytes.join`` copies everything in one go."""
    whole = BytesIO(bytes(size_bytes))  # is taken over, and no memory yet
    for piece in pieces:
        whole.write(piece)
    whole.truncate()
    return whole.getvalue()
