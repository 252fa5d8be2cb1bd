"""Where in the queue a task is put that joins it: at the end, or where its submitter's turn is."""

from __future__ import annotations

import sqlite3

from tasksubmit.stores.queries import HELD, QUEUE
from tasksubmit.wire.address import Address

_ROUND = 2**20
"""The places of one round, in which each submitter has one turn."""


class Places:
    """Finds places for those who join the queue in one batch.

    The turns are start-time fair queueing, each task of the same length: a submitter's next turn is in the round after
    its last, and not before the one after that of the head. So what waits already, the head at least, is never
    overtaken by a whole backlog, and nobody waits for longer than everybody else's turn.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last: int | None = None
        self._head: int | None = None
        self._last_of: dict[str, int] | None = None
        self._last_in: dict[int, int] = {}

    def at_end(self) -> int:
        """The place behind all others."""
        if self._last is None:
            self._last = self._last_place() or 0
        self._last += 1
        return self._last

    def in_turn(self, peer: Address) -> int:
        """The place of the next turn of a submitter; the cost of the first in a batch grows with the queue."""
        if self._last_of is None:
            (self._head,) = self._connection.execute(f"SELECT min(queue_position) FROM {QUEUE}").fetchone()
            sql = f"SELECT peer, max(queue_position) FROM {QUEUE} GROUP BY peer"
            self._last_of = dict(self._connection.execute(sql).fetchall())
        before = max(self._head or 0, self._last_of.get(str(peer), 0))
        begin = (before // _ROUND + 1) * _ROUND
        if begin not in self._last_in:
            last = self._last_place(begin, begin + _ROUND)
            self._last_in[begin] = begin - 1 if last is None else last
        self._last_in[begin] += 1
        self._last_of[str(peer)] = place = self._last_in[begin]
        return place

    def _last_place(self, first: int = 0, end: int = 2**63 - 1) -> int | None:
        """The last place that is taken, by a task in the queue or a held one, which may come back."""
        sql = ", ".join(
            f"(SELECT max(queue_position) FROM {tasks} AND queue_position >= :first AND queue_position < :end)"
            for tasks in (QUEUE, HELD)
        )
        row = self._connection.execute(f"SELECT {sql}", {"first": first, "end": end}).fetchone()
        return max((place for place in row if place is not None), default=None)
