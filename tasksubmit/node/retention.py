"""Removes what is long over, in small steps, and leaves tombstones that answer whoever asks late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.interfaces import ITaskStore
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.clock import NodeClock
from tasksubmit.node.doubts import Doubts
from tasksubmit.node.load import Load, stored_bytes
from tasksubmit.node.periodic import ScanService
from tasksubmit.node.policy import PEER_BYTES
from tasksubmit.node.room import ResultRoom
from tasksubmit.validation import COUNT, DURATION, SIZE, optional
from tasksubmit.wire.address import Address

RETENTION = timedelta(days=30)

_INTERVAL_SECONDS = 60.0
_AT_ONCE = 100
"""What one step removes: others get their turn at the store after it."""

_AT_FIRST = 8
"""What the first step removes of one peer's tasks, each next one twice as many: often a few are enough."""

_FULL = 0.9
"""The part of its share up to which nothing of a peer is removed early."""


@frozen
class Retention:
    """For how long ended tasks are kept, with their stories and results.

    :ivar keep: their age; what is owed is kept in any case.
    :ivar max_result_bytes: disk limit for results, of which each peer has a share, see `tasksubmit.node.room`; None for
        no limit.
    :ivar peer_bytes: what the tasks and results of one peer may take, see `PeerLoad.stored_bytes`. Its oldest go before
        it has used up the quota of the same size at which it is refused, see `PeerQuota`.
    :ivar min_free_bytes: the free space on the disk below which peers may not submit tasks; None for a twentieth of the
        disk, at most 256 MiB.
    """

    keep: timedelta = field(default=RETENTION, validator=DURATION)
    max_result_bytes: int | None = field(default=None, validator=optional(COUNT))
    peer_bytes: int = field(default=PEER_BYTES, validator=COUNT)
    min_free_bytes: int | None = field(default=None, validator=optional(SIZE))


class RetentionService(ScanService):
    """The scan that removes.

    :param retention: what is removed.
    :param room: the disk space for results, of which this makes some when a peer has too little.
    :param load: is counted again when something was removed.
    :param keep_tombstones: longer than anybody may go on to repeat a message.
    :param forgotten: is called with the key of each task that was removed.
    :param doubts: are told of each task of which it is unknown whether it was removed.
    """

    _log = Logger()

    def __init__(
        self,
        store: ITaskStore,
        clock: NodeClock,
        retention: Retention,
        room: ResultRoom,
        load: Load,
        keep_tombstones: timedelta,
        timers: IReactorTime,
        forgotten: Callable[[TaskKey], None],
        doubts: Doubts,
    ) -> None:
        super().__init__(
            name="retention", scan="scan for ended tasks to remove", interval_seconds=_INTERVAL_SECONDS, timers=timers
        )
        self._store = store
        self._clock = clock
        self._retention = retention
        self._room = room
        room.remove = self._remove_results_of
        self._load = load
        self._must_count = False
        self._removed = 0
        self._keep_tombstones = keep_tombstones
        self._forgotten = forgotten
        self._doubts = doubts

    @override
    async def _look(self) -> None:
        await self._count()  # what an earlier scan removed that failed afterwards
        now = self._clock.now()
        await self._remove_aged(now - self._retention.keep)
        if self._room.max_bytes is not None:
            await self._room.scan(await self._store.result_bytes())
        await self._count()
        for load in self._load.peers:
            await self._remove_of_peer(load.address)
        dropped = await self._drop_tombstones(now - self._keep_tombstones)
        await self._count()
        removed, self._removed = self._removed, 0
        if removed or dropped:
            self._log.info(
                "retention removed {removed} tasks and {dropped} tombstones", removed=removed, dropped=dropped
            )

    async def _count(self) -> None:
        """Count the load again if something was removed since."""
        if self._must_count:
            self._load.recount(await self._store.load())
            self._must_count = False

    async def _remove_aged(self, before: datetime) -> None:
        while self.running and await self._remove(await self._store.ended(before, _AT_ONCE)):
            pass

    async def _remove_of_peer(self, peer: Address) -> None:
        """Remove the oldest of a peer until it has some of its share left."""
        excess = self._load.of(peer).stored_bytes - _FULL * self._retention.peer_bytes
        await self._remove_oldest(peer, excess, stored_bytes)

    async def _remove_results_of(self, peer: Address, size_bytes: int) -> int:
        """See `ResultRoom.remove`."""
        return await self._remove_oldest(peer, size_bytes, lambda task: task.result_bytes, min_result_bytes=1)

    async def _remove_oldest(
        self, peer: Address, excess: float, size: Callable[[Task], int], min_result_bytes: int = 0
    ) -> int:
        """Remove the oldest ended tasks of a peer that have ``excess`` bytes together, or all; return how many."""
        removed = 0
        limit = _AT_FIRST
        while self.running and excess > 0:
            tasks = []
            now = self._clock.now()
            for task in await self._store.ended(now, limit, min_result_bytes=min_result_bytes, peer=peer):
                if excess > 0:
                    tasks.append(task)
                    excess -= size(task)
            count = await self._remove(tasks)
            removed += count
            if not count:
                break
            limit = min(2 * limit, _AT_ONCE)
        return removed

    async def _remove(self, tasks: Sequence[Task]) -> int:
        """Remove tasks for a scan, which logs them; return how many could be."""
        count = len(await self.forget(tasks))
        self._removed += count
        return count

    async def forget(self, tasks: Sequence[Task]) -> list[Task]:
        """Remove tasks that have ended and for which nothing is pending; return those that were removed."""
        now = self._clock.now()
        under_way = [self._forget_one(task, now) for task in tasks]
        self._must_count = self._must_count or bool(under_way)
        results: list[tuple[bool, Any]] = await DeferredList(under_way, consumeErrors=True)
        forgotten = []
        for task, (is_done, result) in zip(tasks, results, strict=True):
            if not is_done:
                result.raiseException()
            if result:
                forgotten.append(task)
        return forgotten

    def _forget_one(self, task: Task, now: datetime) -> Deferred[bool]:
        forgotten = self._store.forget(task, now).addCallback(self._tell, task)
        return forgotten.addErrback(self._doubts.note, task.key)

    def _tell(self, is_forgotten: bool, task: Task) -> bool:
        if is_forgotten:
            self._room.removed(task)
            self._forgotten(task.key)
        return is_forgotten

    async def _drop_tombstones(self, before: datetime) -> int:
        dropped = 0
        while self.running and (count := await self._store.drop_tombstones(before, _AT_ONCE)):
            self._must_count = True
            dropped += count
        return dropped
