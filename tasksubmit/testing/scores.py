"""A score book in memory."""

from __future__ import annotations

from collections import Counter

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from tasksubmit.interfaces import IScoreBook
from tasksubmit.lifecycle.change import Booking
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.wire.address import Address


@implementer(IScoreBook)
@define
class MemoryScoreBook:
    """Keeps scores for as long as it lives.

    :ivar bookings: what was booked, in order.
    """

    bookings: dict[tuple[TaskKey, Address], Booking] = field(factory=dict, init=False)

    def score(self, address: Address) -> Deferred[int]:
        """See `IScoreBook.score`."""
        return succeed(sum(booking.points for booking in self.bookings.values() if booking.party == address))

    def scores(self) -> Deferred[list[tuple[Address, int]]]:
        """See `IScoreBook.scores`."""
        sums: Counter[Address] = Counter()
        for booking in self.bookings.values():
            sums[booking.party] += booking.points
        return succeed(sorted(sums.items()))

    def book(self, key: TaskKey, booking: Booking) -> Deferred[None]:
        """See `IScoreBook.book`."""
        self.bookings.setdefault((key, booking.party), booking)
        return succeed(None)
