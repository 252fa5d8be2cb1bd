"""Looks every second for tasks whose time has passed, and lets happen what the table says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.lifecycle.table import DEADLINES, Deadline, Event, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.records import Records, overdue

_AT_ONCE = 1000
"""Tasks that one look takes: bounds the memory after a long stop; the next look takes the next ones."""


class Deadlines(Service):
    """The ``LoopingCall`` that moves tasks because time passed."""

    _log = Logger()

    def __init__(self, records: Records, timeouts: Timeouts, interval_seconds: float, clock: IReactorTime) -> None:
        self.setName("deadlines")
        self._records = records
        self._timeouts = timeouts
        self._interval = interval_seconds
        self._loop = LoopingCall(self._tick)
        self._loop.clock = clock
        self._stopped: Deferred[LoopingCall] | None = None

    @override
    def startService(self) -> None:
        super().startService()
        self._stopped = self._loop.start(self._interval)

    @override
    def stopService(self) -> Deferred[LoopingCall] | None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self._stopped

    def _tick(self) -> Deferred[None]:
        # A LoopingCall whose call fails never runs again.
        return Deferred.fromCoroutine(self._look()).addErrback(
            lambda failure: self._log.failure("deadlines could not be looked at, will try again", failure)
        )

    async def _look(self) -> None:
        for deadline in DEADLINES:
            before = self._records.now() - self._timeouts.limit(deadline)
            due = await self._records.store.due(deadline, before, _AT_ONCE)
            await DeferredList([Deferred.fromCoroutine(self._pass(task.key)) for task in due])

    async def _pass(self, key: TaskKey) -> None:
        passed: list[Deadline] = []

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            deadline = task.overdue(now, self._timeouts)
            passed[:] = [deadline] if deadline else []
            return overdue(deadline) if deadline else ((), {})  # or it moved on just now

        try:
            await self._records.change(key, decide)
        except Exception:
            self._log.failure("the deadline of task {task_id} could not be carried out", task_id=key.task_id)
            return
        for deadline in passed:
            self._log.info("task {task_id}: {reason}", task_id=key.task_id, peer=key.peer, reason=deadline.reason)
