"""A score book beside the ledger."""

from __future__ import annotations

import asyncio
from functools import partial

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from typing_extensions import override

from tasksubmit.lifecycle.change import Booking
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.testing import MemoryScoreBook
from tasksubmit.wire.address import Address
from tests.node.helpers import ALICE, BOB, NodeTestCase, SlowStore

BOOKED = [(TaskKey(Side.SUBMITTER, BOB, "t1"), ALICE, -1), (TaskKey(Side.SUBMITTER, BOB, "t1"), BOB, 1)]


class Book(MemoryScoreBook):
    """A score book that can be out of order, or slow, and holds scores from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[TaskKey, Address, int]] = []
        self.is_broken = False
        self.refused = 0
        self.answer: Deferred[None] | None = None

    @override
    def score(self, address: Address) -> Deferred[int]:
        return succeed(1000 if address == BOB else 0)

    @override
    def scores(self) -> Deferred[list[tuple[Address, int]]]:
        return succeed([(BOB, 1000)])

    @override
    def book(self, key: TaskKey, booking: Booking) -> Deferred[None]:
        if self.is_broken:
            self.refused += 1
            return fail(ZeroDivisionError())
        self.told.append((key, booking.party, booking.points))
        return self.answer or super().book(key, booking)


class ScoreBookTests(NodeTestCase):
    """Alice keeps scores in a book; Bob in his ledger alone."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.book = Book()
        self.store = SlowStore()
        self.alice = self.make_node(ALICE, BOB, store=self.store, score_book=self.book)
        self.bob = self.make_node(BOB, ALICE)

    def work(self, task_id: str = "t1") -> None:
        """Take one task through its life."""
        self.done(self.alice.submit(BOB, "work", task_id=task_id))
        key = TaskKey(Side.RECEIVER, ALICE, task_id)
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key))
        self.done(self.bob.send_results(key, "done"))

    def untold(self) -> int:
        """How many bookings the book is still to be told."""
        return len(self.successResultOf(self.store.owed_bookings(100)))

    def test_told(self) -> None:
        """Each booking is told once, in order, and the ledger has it as well."""
        self.work()
        self.advance(5)
        self.assertEqual(self.book.told, BOOKED)
        self.assertEqual(self.scores(self.alice), {ALICE: -1, BOB: 1})
        self.assertEqual(self.untold(), 0)

    def test_asked(self) -> None:
        """A node with a score book has its scores from there, one without from its ledger."""
        self.work()
        self.assertEqual(self.done(self.alice.score(BOB)), 1000)
        self.assertEqual(self.done(self.alice.scores()), [(BOB, 1000)])
        self.assertEqual(self.done(self.bob.score(BOB)), 1)
        self.assertEqual(self.done(self.bob.score(Address.parse("0:0000.0000.0009"))), 0)
        self.assertEqual(self.done(self.bob.scores()), [(ALICE, -1), (BOB, 1)])

    def test_without_a_book(self) -> None:
        """A node without a score book keeps nothing for one."""
        self.work()
        self.assertEqual(self.successResultOf(self.bob.store.owed_bookings(100)), [])

    def test_out_of_order(self) -> None:
        """A book that fails is asked again, at growing intervals, and has everything in the end; it is logged once."""
        self.book.is_broken = True
        self.work()
        self.advance(60)
        self.assertTrue(4 <= self.book.refused <= 8, self.book.refused)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.book.is_broken = False
        self.advance(400)
        self.assertEqual(self.book.told, BOOKED)

    def test_after_a_restart(self) -> None:
        """What was not told before a stop is told after the next start."""
        self.book.is_broken = True
        self.work()
        self.stop(self.alice)
        self.flushLoggedErrors(ZeroDivisionError)
        self.assertEqual(self.untold(), 2)
        self.book.is_broken = False
        self.alice.startService()
        self.network.flush()
        self.assertEqual(self.book.told, BOOKED)

    def test_slow(self) -> None:
        """While one booking is being told the others wait, and so do those that come meanwhile."""
        self.book.answer = Deferred()
        self.work("t1")
        self.work("t2")
        self.advance(10)
        self.assertEqual(self.book.told, BOOKED[:1])
        answer, self.book.answer = self.book.answer, None
        answer.callback(None)
        self.network.flush()
        self.assertEqual([key.task_id for key, *_ in self.book.told], ["t1", "t1", "t2", "t2"])

    def test_stop(self) -> None:
        """A stop gives up the booking that is being told, however that takes it; it is told again."""
        errors: list[BaseException] = [CancelledError(), asyncio.CancelledError(), SystemExit()]

        def give_up(error: BaseException, deferred: Deferred[None]) -> None:
            deferred.errback(error)

        self.book.answer = Deferred()
        self.work()
        self.stop(self.alice)
        for error in errors:
            self.book.answer = Deferred(partial(give_up, error))
            self.alice.startService()
            self.network.flush()
            self.stop(self.alice)
            self.assertEqual(self.untold(), 2)
            self.assertEqual(self.flushLoggedErrors(), [])
        self.book.answer = None
        self.alice.startService()
        self.network.flush()
        self.assertEqual(self.untold(), 0)

    def test_stop_waits(self) -> None:
        """A stop waits for a book that cannot give up a booking at once, and tells it no more."""
        kept: Deferred[None] = Deferred()

        async def book(key: TaskKey, booking: Booking) -> None:
            try:
                await Deferred[None]()
            except CancelledError:
                await kept

        self.patch(self.book, "book", book)
        self.work()
        stopped = self.alice.stopService()
        self.network.flush()
        self.assertNoResult(stopped)
        kept.callback(None)
        self.done(stopped)
        self.assertEqual(self.untold(), 1)

    def test_pauses(self) -> None:
        """A book that has failed for long is asked every five minutes, and at once when it was well in between."""
        self.book.is_broken = True
        self.work("t1")
        self.advance(2000, step=10)
        refused = self.book.refused
        self.advance(3000, step=10)
        self.assertIn(self.book.refused - refused, (9, 10, 11))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.book.is_broken = False
        self.advance(310, step=10)
        self.assertEqual(self.untold(), 0)
        self.book.is_broken = True
        refused = self.book.refused
        self.work("t2")
        self.advance(10)
        self.assertGreater(self.book.refused - refused, 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
