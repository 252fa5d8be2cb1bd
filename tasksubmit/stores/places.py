"""Where in the queue a task is put that joins it: at the end, or where its submitter's turn is."""

from __future__ import annotations

import sqlite3

from tasksubmit.stores.queries import QUEUE
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
            (last,) = self._connection.execute(f"SELECT max(queue_position) FROM {QUEUE}").fetchone()
            self._last = last or 0
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
            sql = f"SELECT max(queue_position) FROM {QUEUE} AND queue_position >= ? AND queue_position < ?"
            (last,) = self._connection.execute(sql, (begin, begin + _ROUND)).fetchone()
            self._last_in[begin] = begin - 1 if last is None else last
        self._last_in[begin] += 1
        self._last_of[str(peer)] = place = self._last_in[begin]
        return place
