"""What every score book does."""

from __future__ import annotations

from typing_extensions import override
from zope.interface.verify import verifyObject

from tasksubmit.interfaces import IScoreBook
from tasksubmit.lifecycle.change import Booking
from tasksubmit.lifecycle.table import Side
from tasksubmit.testing.contracts.base import Contract
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, new_task


class ScoreBookContract(Contract):
    """The behaviours of `IScoreBook`. Say in ``make_book`` what is tested: a book with nothing in it."""

    book: IScoreBook

    def make_book(self) -> IScoreBook:
        """Make the score book to be tested."""
        raise NotImplementedError

    @override
    def setUp(self) -> None:
        super().setUp()
        self.book = self.make_book()

    async def test_interface(self) -> None:
        """The book has all that the interface asks for."""
        verifyObject(IScoreBook, self.book)

    async def test_empty(self) -> None:
        """Who has no score has 0, and is not among those who have one."""
        self.assertEqual(await self.book.score(PEER), 0)
        self.assertEqual(list(await self.book.scores()), [])

    async def test_sums(self) -> None:
        """Points add up for each party, also below 0."""
        for task_id, points in (("t-1", 4), ("t-2", 2)):
            key = new_task(task_id, Side.SUBMITTER).key
            await self.book.book(key, Booking(OWN, -1, "completed"))
            await self.book.book(key, Booking(PEER, points, "completed"))
        self.assertEqual([await self.book.score(one) for one in (OWN, PEER, OTHER)], [-2, 6, 0])
        self.assertEqual(sorted(await self.book.scores()), [(OWN, -2), (PEER, 6)])

    async def test_once(self) -> None:
        """What is told again changes nothing, whatever the points and the reason are then."""
        key = new_task("t-1", Side.SUBMITTER).key
        for points, reason in ((4, "completed"), (4, "completed"), (9, "again")):
            await self.book.book(key, Booking(PEER, points, reason))
        self.assertEqual(await self.book.score(PEER), 4)

    async def test_keys(self) -> None:
        """Another task, another party of it, and another submitter's task of the same id are booked by themselves."""
        for key in (new_task("t-1", Side.SUBMITTER).key, new_task("t-1", Side.SUBMITTER, OTHER).key):
            for party in (OWN, PEER):
                await self.book.book(key, Booking(party, 1, "completed"))
        self.assertEqual(sorted(await self.book.scores()), [(OWN, 2), (PEER, 2)])
