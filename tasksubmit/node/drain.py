"""Bringing a node to rest: it takes nothing new, finishes or puts back what runs, and delivers what it owes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tasksubmit.errors import IllegalTransition, StoreError
from tasksubmit.lifecycle.table import LEASE_LOST
from tasksubmit.lifecycle.task import END_OF_TIME, Task, TaskKey
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.records import Records
from tasksubmit.wire.address import Address

T = TypeVar("T")

_LOOK_SECONDS = 0.5
_AT_ONCE = 1000


@frozen
class Drained:
    """What is left when a node has come to rest.

    :ivar put_back: executions that did not finish in time; they are begun again after the next start.
    :ivar owed_to: peers that could not be reached in time, or are not trusted; what is pending to them is delivered
        after the next start.
    """

    put_back: int
    owed_to: int


class Drain:
    """The way to rest, to be gone once; a start of the node begins anew.

    :param is_trusted: whether a peer is trusted; what is held for others is not waited for.
    """

    def __init__(
        self, records: Records, inbox: Inbox, timers: IReactorTime, is_trusted: Callable[[Address], bool]
    ) -> None:
        self._records = records
        self._inbox = inbox
        self._timers = timers
        self._is_trusted = is_trusted

    async def run(self, timeout_seconds: float) -> Drained:
        """Bring the node to rest within ``timeout_seconds``: half of that at most is for what runs."""
        self._inbox.is_draining = True
        try:
            return await self._come_to_rest(timeout_seconds)
        except BaseException:
            self._inbox.is_draining = False
            raise

    async def _come_to_rest(self, timeout_seconds: float) -> Drained:
        ends_at = self._timers.seconds() + timeout_seconds
        while await self._retried(self._running, ends_at):
            if self._timers.seconds() >= ends_at - timeout_seconds / 2:
                break
            await deferLater(self._timers, _LOOK_SECONDS)
        put_back: set[TaskKey] = set()
        await self._retried(lambda: self._put_back(put_back), ends_at)
        while any(map(self._is_trusted, owed := await self._retried(self._records.store.owed_peers, ends_at))):
            if self._timers.seconds() >= ends_at:
                break
            await deferLater(self._timers, _LOOK_SECONDS)
        return Drained(len(put_back), len(owed))

    async def _retried(self, step: Callable[[], Awaitable[T]], ends_at: float) -> T:
        """Repeat a step while the store fails and there is time left.

        :raises StoreError: the store still fails when the time is over.
        """
        while True:
            try:
                return await step()
            except StoreError:
                if self._timers.seconds() >= ends_at:
                    raise
            await deferLater(self._timers, _LOOK_SECONDS)

    async def _running(self) -> list[Task]:
        """Some of the executions under way, if there are any."""
        return await self._records.store.due(LEASE_LOST, END_OF_TIME, _AT_ONCE)

    async def _put_back(self, put_back: set[TaskKey]) -> None:
        while running := await self._running():
            for task in running:
                try:
                    reason = "The node is being stopped; the task will be begun again"
                    await self._inbox.put_back(task.key, reason, task.attempt)
                    put_back.add(task.key)
                except IllegalTransition:
                    pass  # it has just finished
