"""Holds the tasks of submitters who are not trusted: they are not begun, and end after `Timeouts.hold_limit`.

A held task is out of the queue and keeps its place, see `ITaskStore.apply`. The scan here holds whatever waits to be
begun, and has it rejoin when trust returns. It comes too late for a task that is begun between two looks, so `Inbox`
asks before it begins one. Messages to such a peer about its tasks are held by `DeliveryService`, which asks as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.errors import UnknownTask
from tasksubmit.interfaces import IAdmissionPolicy, IAuthenticator, IPeerAdmissionPolicy
from tasksubmit.lifecycle.table import Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.load import Load
from tasksubmit.node.periodic import ScanService
from tasksubmit.node.records import Decision, Records
from tasksubmit.wire.address import Address

_AT_ONCE = 500
"""Tasks that are read and changed together."""

_BOTH = (TaskStatus.EXECUTING, TaskStatus.ACCEPTED)
"""The statuses in which a task can be held."""


def is_trusted(address: Address, authenticator: IAuthenticator, policy: IAdmissionPolicy) -> bool:
    """Return whether work may be done for a peer: the policy admits it, and it has a key if it needs one."""
    if IPeerAdmissionPolicy.providedBy(policy) and policy.excludes(address):
        return False
    return not authenticator.needs_proof(address) or bool(authenticator.proofs(address))


def hold(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
    """Hold a task that waits to be begun; see `Decision`."""
    return ((Event.HOLD,) if task.waits_to_begin else ()), {}


def stop_and_hold(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
    """Hold a task that waits to be begun, or that is being executed, which ends the attempt."""
    if task.status is TaskStatus.EXECUTING and task.put_back_at is None:
        # As with `Inbox.put_back`, none of the attempts for lost leases is used up.
        reason = "The submitter is not trusted any more"
        return (Event.PUT_BACK, Event.HOLD), {"justification": reason, "max_attempts": task.max_attempts + 1}
    return hold(task, now)


def _release(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
    return ((Event.REJOIN,) if task.held_at is not None else ()), {}


class Holds(ScanService):
    """The scan that holds and releases tasks.

    :param load: tells which peers have tasks.
    :param is_trusted: whether work may be done for a peer.
    :param stops: whether executions for peers that are not trusted are ended, and held as well.
    """

    _log = Logger()

    def __init__(
        self,
        records: Records,
        load: Load,
        is_trusted: Callable[[Address], bool],
        stops: bool,
        interval_seconds: float,
        timers: IReactorTime,
    ) -> None:
        super().__init__(
            name="holds", scan="scan for tasks to hold or release", interval_seconds=interval_seconds, timers=timers
        )
        self._records = records
        self._load = load
        self._is_trusted = is_trusted
        self._stops = stops

    @override
    async def _look(self) -> None:
        for load in self._load.peers:
            if not load.open:
                continue
            if self._is_trusted(load.address):
                if load.held:
                    await self._change_all(load.address, _BOTH, "released", _release)
            elif load.open > load.held + load.new:
                # Few are executed. Of those that are accepted many may be held already.
                statuses = _BOTH if load.queued else (TaskStatus.EXECUTING,)
                await self._change_all(load.address, statuses, "held", stop_and_hold if self._stops else hold)

    async def _change_all(self, peer: Address, statuses: Iterable[TaskStatus], what: str, decide: Decision) -> None:
        count = 0
        async for tasks in self._tasks(peer, statuses):
            wanted = [task for task in tasks if decide(task, self._records.now())[0]]
            changes = [Deferred.fromCoroutine(self._records.change(task.key, decide)) for task in wanted]
            results: list[tuple[bool, Any]] = await DeferredList(changes, consumeErrors=True)
            for is_done, result in results:
                if not is_done and not result.check(UnknownTask):
                    result.raiseException()
            count += len(wanted)
        if count:
            self._log.info("{count} tasks of {peer} were {what}", count=count, peer=peer, what=what)

    async def _tasks(self, peer: Address, statuses: Iterable[TaskStatus]) -> AsyncIterator[list[Task]]:
        """The received tasks of a peer with one of the statuses, in order of creation, some at a time."""
        for status in statuses:
            after = 0
            while self.running:
                tasks = await self._records.store.list_tasks(
                    side=Side.RECEIVER,
                    status=status,
                    peer=peer,
                    before=None,
                    limit=_AT_ONCE,
                    after=after,
                    is_oldest_first=True,
                )
                if not tasks:
                    break
                after = tasks[-1].number
                yield tasks
