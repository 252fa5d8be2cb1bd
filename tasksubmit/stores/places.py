"""Where in the queue a task is put that joins it: at the end, or where its submitter's turn is."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator

from tasksubmit.stores import bulk
from tasksubmit.stores.queries import HELD, QUEUE
from tasksubmit.wire.address import Address

_ROUND = 2**20
"""The places of one round, in which each submitter has one turn."""

# The index leaves out the places before the first round, which `Places.at_end` gives while nobody takes turns: so the
# order of acceptance alone costs nothing more for it.
_TURNS = f"tasks INDEXED BY tasks_turns WHERE side = 'receiver' AND status = 'ACCEPTED' AND queue_position >= {_ROUND}"


def _last_place(condition: str = "") -> str:
    """The expression for the last place of a task in the queue, or of a held one, which may rejoin; NULL for none."""
    places = (f"ifnull((SELECT max(queue_position) FROM {tasks}{condition}), 0)" for tasks in (QUEUE, HELD))
    return f"nullif(max({', '.join(places)}), 0)"


_ENDS = f"(SELECT min(queue_position) FROM {QUEUE}), {_last_place()}"
_PEERS_AND_ENDS = f"SELECT column1, (SELECT max(queue_position) FROM {_TURNS} AND peer = column1), {_ENDS} FROM {{}}"
_OF_ROUND = f" AND queue_position >= column1 AND queue_position < column1 + {_ROUND}"
_LAST_IN_ROUND = f"SELECT column1, {_last_place(_OF_ROUND)} FROM {{}}"


class Places:
    """Finds places for those who join the queue in one batch.

    The turns are start-time fair queueing, each task of the same length: a submitter's next turn is in the round after
    its last, and not before the one after that of the head. So what waits already, the head at least, is never
    overtaken by a whole backlog, and nobody waits for longer than everybody else's turn.

    Everything is read from the queue itself, by few look-ups in indexes for each batch, whatever the length of the
    queue: a batch that is undone, a restart, and a task that leaves the queue need no care.

    :param joining: the submitters that take turns in this batch, each as often as it has tasks there.
    """

    def __init__(self, connection: sqlite3.Connection, joining: Iterable[Address] = ()) -> None:
        self._connection = connection
        self._joining = Counter(map(str, joining))
        self._last: int | None = None
        self._head = 0
        self._last_of: dict[str, int] | None = None
        self._last_in: dict[int, int] = {}

    def at_end(self) -> int:
        """The place behind all others."""
        if self._last is None:
            (last,) = self._connection.execute(f"SELECT {_last_place()}").fetchone()
            self._last = last or 0
        self._last += 1
        return self._last

    def in_turn(self, peer: Address) -> int:
        """The place of the next turn of one of the submitters in ``joining``."""
        if self._last_of is None:
            self._last_of = self._read_queue()
        name = str(peer)
        begin = self._next_round(self._last_of[name])
        self._last_of[name] = self._last_in[begin] = place = self._last_in.get(begin, begin - 1) + 1
        return place

    def _next_round(self, last_of_peer: int) -> int:
        return (max(self._head, last_of_peer) // _ROUND + 1) * _ROUND

    def _read_queue(self) -> dict[str, int]:
        """The last place of each submitter; notes the head, and the last place in each round that is needed."""
        rows = bulk.of_each(self._connection, _PEERS_AND_ENDS, self._joining)
        last_of = {peer: place or 0 for peer, place, _, _ in rows}
        *_, head, last = rows[0]
        if last is not None:
            self._head = head or 0  # the queue is empty, and tasks are held
            found = bulk.of_each(self._connection, _LAST_IN_ROUND, set(self._rounds(last_of, last)))
            self._last_in = {begin: place for begin, place in found if place is not None}
        return last_of

    def _rounds(self, last_of: dict[str, int], last: int) -> Iterator[int]:
        """The rounds of all turns of the batch, but for those behind the last place, which are empty."""
        for peer, count in self._joining.items():
            begin = self._next_round(last_of[peer])
            yield from range(begin, min(begin + count * _ROUND, last + 1), _ROUND)
