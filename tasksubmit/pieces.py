"""What is large is handled in pieces.

Whoever waits for the interpreter, the reactor above all, gets his turn between two of them; and whoever waits for the
processor gets that, which some kernels leave to a call until it is done. Only to join many pieces into one is left to
``bytes.join``, in a thread, because it lets go of the interpreter when there is much to copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T", str, bytes, memoryview)

PIECE = 64 * 1024
"""Bytes or characters: any work on so few takes a fraction of a millisecond."""


def in_pieces(whole: T, length: int) -> Iterator[T]:
    """Cut into pieces of this length, and a last one that may be shorter; of nothing there is none."""
    return (whole[start : start + length] for start in range(0, len(whole), length))
