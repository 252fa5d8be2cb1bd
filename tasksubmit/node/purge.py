"""Removal of tasks at the operator's command, in small batches, and the return of disk space to the file system.

A caller repeats `Purger.step` over a selection. What it removes goes through `RetentionService.forget`, and so through
one statement of the store, which leaves a task that has not ended, or with a pending delivery, and puts a tombstone in
the place of every other. To abandon such tasks takes two passes, so that there is one wait for all of them and not one
for each batch: NOTIFY ends them as the table of transitions allows, which makes the notice to the other party pending;
ABANDON waits for that, gives up what is still pending, and removes. A task that was not notified is never abandoned.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tasksubmit.errors import IllegalTransition, UnknownTask
from tasksubmit.interfaces import ITaskStore, ReturnedSpace
from tasksubmit.lifecycle.change import Delivery
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.courier import Courier
from tasksubmit.node.doubts import Doubts
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.outbox import Outbox
from tasksubmit.wire.address import Address

REASON = "The operator abandoned the task, and removes it"
"""The reason that the other party of an abandoned task gets."""

_AT_ONCE = 100
"""Tasks in a batch: others get their turn at the store after it."""

_NUMBERS_AT_ONCE = 2000
"""Records that one batch looks at, at most: most may be of other peers."""

_POLL_SECONDS = 0.25

_RETURNED_AT_ONCE = 1024 * 1024
_RETURNS = 16
"""Bytes that one transaction returns to the file system, and how often a batch has that done."""


class PurgeStep(str, Enum):
    """Steps of a purge, each done with the selected tasks of one batch."""

    LIST = "list"
    """Nothing: it says what REMOVE would remove."""
    REMOVE = "remove"
    """Remove those that have ended and have nothing pending."""
    NOTIFY = "notify"
    """End those that are open as far as that can be: cancel, decline or fail them."""
    ABANDON = "abandon"
    """Give up what is pending for those that have ended, or whose cancellation was requested, and remove them."""


@frozen(kw_only=True)
class Selection:
    """Which tasks a purge is about: all that match what is given.

    :ivar before: they were created before this time, which abandoning them does not change.
    """

    side: Side | None = None
    peer: Address | None = None
    before: datetime | None = None

    def has(self, task: Task) -> bool:
        """Return True if a task, which is of the side and the peer, is old enough."""
        return self.before is None or task.created_at < self.before


@frozen
class Selected:
    """A task that a purge found.

    :ivar task: as it was before the step.
    :ivar is_removed: True if the step has removed it.
    :ivar obstacle: why it cannot be removed without being abandoned; empty if it can, or was.
    """

    task: Task
    is_removed: bool
    obstacle: str


@frozen
class Batch:
    """What one step of a purge did.

    :ivar next: where the next batch begins; None after the last.
    :ivar until: the end of the last batch: a number of a task.
    :ivar space: what the step has returned to the file system, and what it could.
    """

    selected: list[Selected] = field(factory=list)
    next: int | None = None
    until: int = 0
    space: ReturnedSpace = field(factory=lambda: ReturnedSpace(0, 0, True))


class Purger:
    """Carries out purges for one node.

    :param forget: removes those of some tasks that have ended and have nothing pending, and returns them.
    """

    def __init__(
        self,
        store: ITaskStore,
        inbox: Inbox,
        outbox: Outbox,
        courier: Courier,
        doubts: Doubts,
        timers: IReactorTime,
        forget: Callable[[Sequence[Task]], Awaitable[Sequence[Task]]],
    ) -> None:
        self._store = store
        self._inbox = inbox
        self._outbox = outbox
        self._courier = courier
        self._doubts = doubts
        self._timers = timers
        self._forget = forget

    async def step(
        self,
        step: PurgeStep,
        what: Selection | Task,
        *,
        after: int | None = None,
        until: int | None = None,
        wait_seconds: float = 0,
    ) -> Batch:
        """Do one step with one batch of tasks.

        :param what: a selection, or one task.
        :param after: `Batch.next` of the batch before; None for the first.
        :param until: `Batch.until` of the batch before; None for what there is now.
        :param wait_seconds: how long ABANDON waits for pending deliveries.
        """
        if isinstance(what, Task):
            batch, tasks = Batch(), [what]
        else:
            batch, tasks = await self._find(what, after, until)
        found = tasks
        removed: Sequence[Task] = ()
        if step is PurgeStep.NOTIFY:
            await _each(self._notify, [task for task in tasks if task.ended_at is None])
        elif step is PurgeStep.ABANDON:
            await self._wait(tasks, wait_seconds)
            await _each(self._give_up, tasks)
        if step is not PurgeStep.LIST:
            tasks = await self._reread(tasks)
        if step in (PurgeStep.REMOVE, PurgeStep.ABANDON):
            removed = await self._forget([task for task in tasks if task.ended_at is not None])
        space = await self._return_space(0 if step in (PurgeStep.LIST, PurgeStep.NOTIFY) else _RETURNS)
        gone = {task.key for task in removed}
        now = {task.key: task for task in tasks}
        left = [task for task in tasks if task.key not in gone]
        obstacles = {
            task.key: _obstacle(task, pending) for task, pending in zip(left, await self._pending(left), strict=True)
        }
        # One that retention removed meanwhile is not there any more, and not removed by this.
        selected = [Selected(task, task.key in gone, obstacles.get(task.key, "")) for task in found if task.key in now]
        return evolve(batch, selected=selected, space=space)

    async def _find(self, what: Selection, after: int | None, until: int | None) -> tuple[Batch, list[Task]]:
        if until is None:
            newest = await self._any_side(limit=1)
            until = newest[0].number if newest else 0
        if after is None:
            after = await self._before_next(0, until)
        some = await self._store.list_tasks(
            side=what.side,
            status=None,
            peer=what.peer,
            after=after,
            before=min(after + _NUMBERS_AT_ONCE, until) + 1,
            limit=_AT_ONCE,
            is_oldest_first=True,
        )
        # With long descriptions a store gives fewer than there are; none are the end of the range.
        end = some[-1].number if some else await self._before_next(after + _NUMBERS_AT_ONCE, until)
        return Batch(next=end if end < until else None, until=until), [task for task in some if what.has(task)]

    async def _before_next(self, after: int, until: int) -> int:
        """Return the number below that of the next record, which may be far away; ``until`` if there is none."""
        following = await self._any_side(after=after, limit=1, is_oldest_first=True)
        return following[0].number - 1 if following else until

    def _any_side(self, **options: Any) -> Deferred[list[Task]]:
        return self._store.list_tasks(**{"side": None, "status": None, "peer": None, "before": None, **options})

    async def _reread(self, tasks: Sequence[Task]) -> list[Task]:
        return [task for task in await _each(self._get, tasks) if task is not None]

    async def _get(self, task: Task) -> Task | None:
        return await self._store.get(task.key)

    async def _pending(self, tasks: Sequence[Task]) -> list[list[Delivery]]:
        return await _each(self._pending_of, tasks)

    async def _pending_of(self, task: Task) -> list[Delivery]:
        return [delivery for delivery in await self._store.deliveries_of(task.key) if delivery.given_up_at is None]

    # --- what is abandoned -------------------------------------------------------------------------------------------

    async def _notify(self, task: Task) -> None:
        try:
            if task.side is Side.SUBMITTER:
                await self._outbox.cancel(task.key, REASON)
            else:
                await self._inbox.abandon(task.key, REASON)
        except (IllegalTransition, UnknownTask):
            pass  # it ended meanwhile, or is gone

    async def _wait(self, tasks: Sequence[Task], seconds: float) -> None:
        """Wait until nothing is pending for ``tasks``, at most so long."""
        until = self._timers.seconds() + seconds
        while any(await self._pending(tasks)) and self._timers.seconds() < until:
            await deferLater(self._timers, _POLL_SECONDS)

    async def _give_up(self, task: Task) -> None:
        current = await self._get(task)
        while current is not None and _is_notified(current) and (pending := await self._pending_of(current)):
            await self._courier.give_up(pending[0], current)
            current = await self._get(task)

    # --- space -------------------------------------------------------------------------------------------------------

    async def _return_space(self, times: int) -> ReturnedSpace:
        """Return space up to so many times, and add up what was returned."""
        space: ReturnedSpace = await self._store.return_space(0)
        returned = 0
        while times and space.free_bytes and space.can_shrink:
            space = await self._store.return_space(_RETURNED_AT_ONCE).addErrback(self._doubts.note)
            returned += space.returned_bytes
            times = times - 1 if space.returned_bytes else 0
        return evolve(space, returned_bytes=returned)


def _is_notified(task: Task) -> bool:
    """True if nothing more can be said to the other party of a task than what is pending."""
    return task.is_settled or (
        task.cancel_requested_at is not None if task.side is Side.SUBMITTER else task.completed_at is not None
    )


def _obstacle(task: Task, pending: Sequence[Delivery]) -> str:
    reasons = [] if task.ended_at is not None else [f"it is {task.status}"]
    if pending:
        kinds = dict.fromkeys(delivery.kind.value for delivery in pending)
        reasons.append(f"pending to the other party: {', '.join(kinds)}")
    return "; ".join(reasons)


async def _each(work: Callable[[Task], Awaitable[Any]], tasks: Sequence[Task]) -> list[Any]:
    """Do ``work`` with all ``tasks`` in one batch of the store; the first failure is raised when all have ended."""

    async def one(task: Task) -> Any:
        return await work(task)

    results: list[tuple[bool, Any]] = await DeferredList(
        [Deferred.fromCoroutine(one(task)) for task in tasks], consumeErrors=True
    )
    for is_done, result in results:
        if not is_done:
            result.raiseException()
    return [result for _, result in results]
