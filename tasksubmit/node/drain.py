"""Bringing a node to rest: it takes nothing new, finishes or puts back what runs, and delivers what it owes."""

from __future__ import annotations

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tasksubmit.errors import IllegalTransition
from tasksubmit.lifecycle.table import LEASE_LOST
from tasksubmit.lifecycle.task import END_OF_TIME, Task
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.records import Records

_LOOK_SECONDS = 0.5
_AT_ONCE = 1000


@frozen
class Drained:
    """What is left when a node has come to rest.

    :ivar put_back: executions that did not finish in time; they are begun again after the next start.
    :ivar owed_to: peers that could not be reached in time; what they are owed is delivered after the next start.
    """

    put_back: int
    owed_to: int


class Drain:
    """The way to rest, to be gone once; a start of the node begins anew."""

    def __init__(self, records: Records, inbox: Inbox, timers: IReactorTime) -> None:
        self._records = records
        self._inbox = inbox
        self._timers = timers

    async def run(self, timeout_seconds: float) -> Drained:
        """Bring the node to rest within ``timeout_seconds``: half of that at most is for what runs."""
        self._inbox.is_draining = True
        try:
            return await self._come_to_rest(timeout_seconds)
        except BaseException:
            self._inbox.is_draining = False
            raise

    async def _come_to_rest(self, timeout_seconds: float) -> Drained:
        started_at = self._timers.seconds()
        while await self._running() and self._timers.seconds() < started_at + timeout_seconds / 2:
            await deferLater(self._timers, _LOOK_SECONDS)
        put_back = await self._put_back()
        while owed := len(await self._records.store.owed_peers()):
            if self._timers.seconds() >= started_at + timeout_seconds:
                break
            await deferLater(self._timers, _LOOK_SECONDS)
        return Drained(put_back, owed)

    async def _running(self) -> list[Task]:
        """Some of the executions under way, if there are any."""
        return await self._records.store.due(LEASE_LOST, END_OF_TIME, _AT_ONCE)

    async def _put_back(self) -> int:
        count = 0
        while running := await self._running():
            for task in running:
                try:
                    reason = "The node is being stopped; the task will be begun again"
                    await self._inbox.put_back(task.key, reason, task.attempt)
                    count += 1
                except IllegalTransition:
                    pass  # it has just finished
        return count
