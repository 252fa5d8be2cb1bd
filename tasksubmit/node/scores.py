"""A score book beside the node's own ledger: it is told each booking, in order, until it has it."""

from __future__ import annotations

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.interfaces import IScoreBook, ITaskStore
from tasksubmit.node.calling import call
from tasksubmit.node.periodic import Periodic, Streak

_AT_ONCE = 100
_LONGEST_PAUSE_SECONDS = 300.0


class ScoreKeeper(Service):
    """Tells a score book what the ledger has booked.

    :param interval_seconds: how long to wait after a failure; each further one doubles that, up to five minutes.
    """

    def __init__(self, store: ITaskStore, book: IScoreBook, interval_seconds: float, timers: IReactorTime) -> None:
        self.setName("scores")
        self._store = store
        self._book = book
        self._interval = interval_seconds
        self._timers = timers
        self._scan = Periodic(self.booked, "scan for bookings", interval_seconds, timers)
        self._telling: Deferred[None] | None = None
        self._has_news = False
        self._not_before = 0.0
        self._pause = interval_seconds
        self._streak = Streak("report of bookings to the score book")

    @override
    def startService(self) -> None:
        super().startService()
        self._not_before = 0.0
        self._scan.start()

    @override
    def stopService(self) -> Deferred[None] | None:
        """Fires when the booking that is being told is told, or was given up."""
        super().stopService()
        self._scan.stop()
        telling = self._telling
        if telling is not None:
            telling.cancel()
        return telling

    def booked(self) -> None:
        """Something may be owed to the score book."""
        self._has_news = True
        if self.running and self._telling is None and self._timers.seconds() >= self._not_before:
            telling = self._telling = Deferred.fromCoroutine(self._tell())
            if telling.called:
                self._telling = None

    async def _tell(self) -> None:
        try:
            while self._has_news and self.running:
                self._has_news = False
                await self._tell_owed()
            self._pause = self._interval
            self._streak.succeed()
        except Exception:
            if self.running:
                self._streak.fail(Failure(), self._pause)
            self._not_before = self._timers.seconds() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        finally:
            self._telling = None

    async def _tell_owed(self) -> None:
        while owed := await self._store.owed_bookings(_AT_ONCE):
            for one in owed:
                if not self.running:
                    return
                await call(self._book.book, one.key, one.booking)
                await self._store.settle_bookings([one.id])
