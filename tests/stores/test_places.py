"""Places in the queue."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.stores.migrations import migrate, schema_steps
from tasksubmit.stores.places import Places
from tasksubmit.wire.address import Address

PEERS = [Address(0, number) for number in range(1, 4)]


@cache
def indexes() -> list[str]:
    """The statements that make the indexes of the queue."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, "memory:", schema_steps())
    sql = "SELECT sql FROM sqlite_master WHERE name IN ('tasks_queue', 'tasks_held_places', 'tasks_turns')"
    found = [text for (text,) in connection.execute(sql)]
    connection.close()
    return found


class Queue:
    """A queue in a database, with no more columns than places need."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute(
            "CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, side, status, peer, queue_position, held_at)"
        )
        for sql in indexes():
            self.connection.execute(sql)

    def places(self, peers: Sequence[Address], is_fair: bool = True) -> list[int]:
        """Find the places of a batch."""
        places = Places(self.connection, peers if is_fair else ())
        return [places.in_turn(peer) if is_fair else places.at_end() for peer in peers]

    def steps(self, peers: Sequence[Address], is_fair: bool = True) -> int:
        """Count the instructions of SQLite's virtual machine that it takes to find the places of a batch."""
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        self.connection.set_progress_handler(count, 1)
        self.places(peers, is_fair)
        self.connection.set_progress_handler(None, 0)
        return steps

    def withdraw(self, number: int) -> None:
        """Let the task that joined as this one leave the queue."""
        self.connection.execute("DELETE FROM tasks WHERE id = ?", (number,))

    def join(self, *peers: Address, is_fair: bool = True) -> None:
        """Let tasks join in one batch."""
        rows = [(str(peer), place) for peer, place in zip(peers, self.places(peers, is_fair), strict=True)]
        sql = "INSERT INTO tasks (side, status, peer, queue_position) VALUES ('receiver', 'ACCEPTED', ?, ?)"
        self.connection.executemany(sql, rows)

    def take(self) -> None:
        """Let the head be begun."""
        self.connection.execute("DELETE FROM tasks WHERE queue_position = (SELECT min(queue_position) FROM tasks)")

    def hold(self, peer: Address, is_held: bool = True) -> None:
        """Let all tasks of a peer be held, or rejoin."""
        self.connection.execute("UPDATE tasks SET held_at = ? WHERE peer = ?", (1 if is_held else None, str(peer)))

    def order(self) -> list[int]:
        """The tasks, by when they joined; fails when two have the same place."""
        rows = self.connection.execute("SELECT id, queue_position FROM tasks ORDER BY queue_position").fetchall()
        assert len({place for _, place in rows}) == len(rows), rows
        return [number for number, _ in rows]


class PlacesTests(SynchronousTestCase):
    """At the end, and in turn."""

    def queue(self) -> Queue:
        """A queue of its own."""
        queue = Queue()
        self.addCleanup(queue.connection.close)
        return queue

    def test_held(self) -> None:
        """The place of a held task is not given to another, at the end or in turn."""
        for is_fair in (False, True):
            queue = self.queue()
            queue.join(*PEERS, is_fair=is_fair)
            queue.hold(PEERS[2])
            queue.join(PEERS[0], PEERS[1], is_fair=is_fair)
            queue.hold(PEERS[2], False)
            self.assertEqual(queue.order(), [1, 2, 3, 4, 5])

    def test_at_end(self) -> None:
        """Each joins behind all others, of its batch as well."""
        queue = self.queue()
        queue.join(*PEERS, is_fair=False)
        queue.take()
        queue.join(*PEERS, is_fair=False)
        self.assertEqual(queue.order(), [2, 3, 4, 5, 6])

    def test_turns(self) -> None:
        """Who has much to do waits for its turns, whether it came at once or bit by bit."""
        alice, bob, carol = PEERS
        for batches in ([(alice, alice, alice), (bob,), (carol, bob)], [(alice,)] * 3 + [(bob,), (carol,), (bob,)]):
            queue = self.queue()
            for batch in batches:
                queue.join(*batch)
            self.assertEqual(queue.order(), [1, 2, 4, 5, 3, 6])

    def test_withdrawn(self) -> None:
        """A submitter that withdraws its tasks has their turns again."""
        alice, bob, carol = PEERS
        queue = self.queue()
        queue.join(carol, alice, alice, alice)
        for number in (2, 3, 4):
            queue.withdraw(number)
        queue.join(bob, alice)
        self.assertEqual(queue.order(), [1, 5, 6])

    def test_undone(self) -> None:
        """A batch that is undone takes no turns."""
        alice, bob, carol = PEERS
        queue = self.queue()
        queue.join(carol)
        queue.connection.execute("BEGIN")
        queue.join(alice, alice)
        queue.connection.execute("ROLLBACK")
        queue.join(bob, alice)
        self.assertEqual(queue.order(), [1, 2, 3])

    def test_turns_after_order(self) -> None:
        """Turns begin behind those who joined while there were none, however many these are of one submitter."""
        alice, bob, _ = PEERS
        queue = self.queue()
        queue.join(alice, alice, alice, is_fair=False)
        queue.join(alice, alice, bob)
        self.assertEqual(queue.order(), [1, 2, 3, 4, 6, 5])

    def test_cost(self) -> None:
        """To find places costs the same whatever the length of the queue, for turns as for the order of acceptance."""
        many = [Address(0, number) for number in range(1, 101)]
        for waiting in ([PEERS[0]], many):
            for joining in (PEERS[:1], PEERS[:1] * 10, many):
                for is_fair in (False, True):
                    queue = self.queue()
                    queue.join(*waiting * 2, is_fair=is_fair)
                    before = queue.steps(joining, is_fair)
                    queue.join(*waiting * (2000 // len(waiting)), is_fair=is_fair)
                    self.assertLessEqual(queue.steps(joining, is_fair), before, (len(waiting), len(joining), is_fair))

    @given(st.lists(st.one_of(st.none(), st.lists(st.sampled_from(PEERS), min_size=1, max_size=4)), max_size=20))
    def test_rounds(self, steps: list[list[Address] | None]) -> None:
        """Whoever joins is in the round after its own last and after that of the head, behind those who are there."""
        queue, waiting, joined = Queue(), list[tuple[int, int, Address]](), 0
        for batch in steps:
            if batch is None:
                queue.take()
                waiting = sorted(waiting)[1:]
                continue
            queue.join(*batch)
            head = min((place for place, *_ in waiting), default=0)
            for peer in batch:
                joined += 1
                last = max((place for place, _, of in waiting if of == peer), default=0)
                waiting.append((max(head, last) + 1, joined, peer))
        self.assertEqual(queue.order(), [number for _, number, _ in sorted(waiting)])
        queue.connection.close()
