"""What every driver measures in the same way: how much was done in a window of time, and how long each took.

Nothing here knows what is done. The time before the window, the warm-up, counts for nothing but the total, which is
compared with what is stored in the end; so does what is answered after it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """How hard something is driven: on so many connections, with so many requests under way on each."""

    connections: int
    outstanding: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``CONNECTIONSxOUTSTANDING``.

        :raises ValueError: it is not that.
        """
        connections, outstanding = (int(number) for number in text.split("x"))
        if connections < 1 or outstanding < 1:
            raise ValueError(f"{text} has nothing under way")
        return cls(connections, outstanding)

    @property
    def threads(self) -> int:
        """How many threads drive a client that waits for each answer, instead."""
        return min(self.connections * self.outstanding, 64)

    def __str__(self) -> str:
        return f"{self.connections}x{self.outstanding}"


@dataclass(frozen=True)
class Figures:
    """What one run gave.

    :ivar rate: how many a second were done in the window.
    :ivar p50_ms: the median time that one took, in milliseconds; p99_ms likewise.
    :ivar count: how many were done in the window.
    :ivar total: how many were done at all.
    :ivar busy: the share of one core that the driver itself took; near 1 it measured itself.
    :ivar spread: how far the rates of several runs lie apart, as a share of this one, which is their median; None of a
        single run.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    count: int
    total: int
    busy: float
    spread: float | None = None


class Meter:
    """A window of time that opens after the warm-up; several threads may note what they did.

    When nothing was done in time, it stays open until something is.
    """

    def __init__(self, warm_up: float, seconds: float) -> None:
        self._cpu = time.process_time()
        self._began = time.perf_counter()
        self._opens = self._began + warm_up
        self._closes = self._last = self._opens + seconds
        # Lists, because one call extends them for all threads to see, which adding to a number does not.
        self._within: list[float] = []
        self._outside: list[float] = []

    @property
    def is_open(self) -> bool:
        """Whether more is to be begun."""
        return time.perf_counter() < self._closes or not self._within

    def note(self, began: float, ended: float, times: int = 1) -> None:
        """So many were begun together and done together, by `time.perf_counter`."""
        is_within = self._opens <= ended and (ended < self._closes or not self._within)
        latencies = self._within if is_within else self._outside
        latencies.extend([ended - began] * times)
        if is_within:
            self._last = max(self._last, ended)

    def figures(self) -> Figures:
        """Sum up, once everything is done."""
        busy = (time.process_time() - self._cpu) / (time.perf_counter() - self._began)
        latencies = sorted(self._within)
        count = len(latencies)
        return Figures(
            rate=count / (self._last - self._opens),
            p50_ms=latencies[count // 2] * 1000,
            p99_ms=latencies[count * 99 // 100] * 1000,
            count=count,
            total=count + len(self._outside),
            busy=busy,
        )
