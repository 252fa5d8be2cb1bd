"""Looks every second for tasks whose time has passed, and lets happen what the table says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from typing_extensions import override

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.interfaces import SHIFTED
from tasksubmit.lifecycle.table import ASK_AGAIN, DEADLINES, LEASE_LOST, Deadline, Event, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.clock import NodeClock
from tasksubmit.node.periodic import ScanService
from tasksubmit.node.records import Records, overdue

_AT_ONCE = 1000
"""Tasks that one look takes: bounds the memory after a long stop; the next look takes the next ones."""


class Deadlines(ScanService):
    """The scan that moves tasks because time passed."""

    def __init__(
        self, records: Records, clock: NodeClock, timeouts: Timeouts, interval_seconds: float, timers: IReactorTime
    ) -> None:
        super().__init__(
            name="deadlines", scan="scan for passed deadlines", interval_seconds=interval_seconds, timers=timers
        )
        self._log = quiet_logger(__name__)
        self._records = records
        self._clock = clock
        self._timeouts = timeouts
        self._started_at = records.now()
        self._doubtful_shift: tuple[timedelta, str] | None = None

    @override
    def startService(self) -> None:
        self._started_at = self._records.now()
        self._doubtful_shift = None
        super().startService()

    @override
    async def _look(self) -> None:
        await self._follow_clock()
        limits = dict(self._limits(self._records.now()))
        for deadline in await self._records.store.passed_deadlines(tuple(limits.items())):
            before = limits[deadline]
            try:
                due = await self._records.store.due(deadline, before, _AT_ONCE)
            except StoreError:  # a damaged record must not hold up the other deadlines
                self._log.failure("those that {event} could not be looked for", event=deadline.event.value)
                continue
            await DeferredList([Deferred.fromCoroutine(self._pass(task.key, deadline, before)) for task in due])

    def _limits(self, now: datetime) -> Iterator[tuple[Deadline, datetime]]:
        """Give each deadline that can pass now, and the time before which its column has to be for that."""
        for deadline in DEADLINES:
            before = now - self._timeouts.limit(deadline)
            if deadline is ASK_AGAIN:
                before = max(before, self._started_at)
            elif deadline.needs_hearing and before < self._started_at:
                continue
            if now >= self._started_at + deadline.grace:
                yield deadline, before

    def _was_unheard(self, task: Task, deadline: Deadline, now: datetime) -> bool:
        """Whether somebody outside executes the task, who could tell of it only since the node was started."""
        is_outside = deadline is LEASE_LOST and not task.is_lease_bound
        return is_outside and now < self._started_at + timedelta(milliseconds=task.lease_ms)

    async def _follow_clock(self) -> None:
        """When the wall clock was set, set the times of what is under way as well: no deadline comes nearer by that.

        Times that lie ahead of the clock were stored before a start, by a clock that was right then: they stay.
        """
        if self._doubtful_shift is not None:
            await self._resolve_shift(*self._doubtful_shift)
        by = self._clock.jump()
        if not by:
            self._clock.adopt()
            return
        self._log.warn("the clock was set by {seconds} s; what is under way goes with it", seconds=by.total_seconds())
        shifted = await self._records.store.note(SHIFTED)
        # The clock goes first: a change that is planned on a record as it was before is then refused as stale.
        before = self._records.now()
        self._move(by)
        try:
            await self._records.store.shift_times(by, before)
        except BaseException as error:
            self._move(-by)
            if not isinstance(error, StoreUncertain):
                raise
            await self._resolve_shift(by, shifted)

    async def _resolve_shift(self, by: timedelta, shifted: str) -> None:
        """Find out whether the times in the store were moved, and move the clock if they were."""
        self._doubtful_shift = by, shifted
        await self._records.store.confirm()
        if await self._records.store.note(SHIFTED) != shifted:
            self._move(by)
        self._doubtful_shift = None

    def _move(self, by: timedelta) -> None:
        self._clock.move(by)
        self._started_at += by

    async def _pass(self, key: TaskKey, deadline: Deadline, before: datetime) -> None:
        reasons: list[str] = []

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            is_passed = task.meets(deadline, before) and not self._was_unheard(task, deadline, now)
            events, fields = overdue(task, deadline) if is_passed else ((), {})
            reasons[:] = fields.values()
            return events, fields

        try:
            await self._records.change(key, decide)
        except Exception:
            self._log.failure("the deadline of task {task_id} could not be carried out", task_id=key.task_id)
            return
        for reason in reasons:
            self._log.info("task {task_id}: {reason}", task_id=key.task_id, peer=key.peer, reason=reason)
