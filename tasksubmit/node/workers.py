"""The workers of a node: they take tasks from the queue, and have an executor do them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.errors import EmptyQueue, NotAccepting
from tasksubmit.interfaces import IExecutor, Refusal
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.attempt import Attempt, UnendedExecution
from tasksubmit.node.availability import LONGEST_PAUSE_SECONDS, Availability
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.live import LiveTasks
from tasksubmit.node.periodic import Periodic

EXECUTOR_PAUSE_LIMIT = timedelta(minutes=1)
"""How long the executor may be unavailable before new tasks are refused."""

_UNAVAILABLE = Refusal(
    "not_accepting",
    "this node cannot execute tasks at the moment; try again later",
    retry_after_s=round(LONGEST_PAUSE_SECONDS),
)


class Workers(Service):
    """Up to so many workers, each with one task at a time; they come when there is work, and go when there is none.

    :param interval_seconds: how often to look for tasks, besides when one is accepted or put back.
    :param pause_limit: how long the executor may be unavailable before new tasks are refused.
    :param work_directory: see `Execution`.
    :ivar availability: whether the executor can start executions.
    :ivar done: how many tasks were done since the node was made.
    :ivar failed: how many could not be done.
    """

    _log = Logger()

    def __init__(
        self,
        inbox: Inbox,
        live: LiveTasks,
        executor: IExecutor,
        concurrency: int,
        interval_seconds: float,
        timers: IReactorTime,
        pause_limit: timedelta = EXECUTOR_PAUSE_LIMIT,
        work_directory: Path | None = None,
    ) -> None:
        self.setName("workers")
        self.executor = executor
        self.concurrency = concurrency
        self.done = 0
        self.failed = 0
        self._inbox = inbox
        self._live = live
        self._timers = timers
        self._attempt_log = quiet_logger(Attempt.__module__)
        self._scan = Periodic(self._look, "scan of the queue", interval_seconds, timers)
        self._workers: set[Deferred[None]] = set()
        self._attempts: set[Attempt] = set()
        self._working: dict[TaskKey, list[Attempt]] = {}
        self._news = 0
        self._work_directory = work_directory
        self.availability = Availability(timers, pause_limit.total_seconds(), self._look)

    @override
    def startService(self) -> None:
        super().startService()
        self._scan.start()

    @override
    def stopService(self) -> Deferred[Any]:
        """Take nothing more, end and put back what is being done; fires when nothing of it goes on."""
        super().stopService()
        self._scan.stop()
        self.availability.stop()
        for attempt in list(self._attempts):
            attempt.stop()
        return DeferredList(list(self._workers))

    def changed(self, task: Task) -> None:
        """A task was changed; perhaps it waits to be begun now."""
        if task.status is TaskStatus.ACCEPTED or task.put_back_at is not None:
            self._look()

    def refusal(self) -> Refusal | None:
        """The answer to new submissions while the executor is unavailable for too long; else None."""
        return _UNAVAILABLE if self.availability.is_refusing else None

    def unended(self, now: datetime) -> list[UnendedExecution]:
        """Return the executions that should have ended and keep their slots, as of ``now``; the oldest first."""
        found = [execution for attempt in self._attempts if (execution := attempt.unended(now)) is not None]
        return sorted(found, key=lambda execution: (execution.since, execution.task_id))

    def _look(self) -> None:
        """Have one more worker, if there may be."""
        self._news += 1
        if self.running and len(self._workers) < self.concurrency and self.availability.admit():
            gone: Deferred[None] = Deferred()
            self._workers.add(gone)  # first, for the worker begins at once, and may want another one beside it
            worker = Deferred.fromCoroutine(self._work())
            worker.addErrback(lambda failure: self._log.failure("a worker failed; others go on", failure))
            worker.addBoth(lambda _: self._workers.discard(gone))
            worker.chainDeferred(gone)

    async def _work(self) -> None:
        while self.running:
            news = self._news
            try:
                task = await self._inbox.execute(None, self.executor.lease)
            except EmptyQueue:
                if news != self._news:
                    continue  # it may be empty no more
                self.availability.idle()
                return
            except NotAccepting:
                self.availability.release()
                return
            except BaseException:
                self.availability.release()
                raise
            self._look()  # for there may be others
            await self._do(task)
            if not self.availability.admit():
                return

    async def _do(self, task: Task) -> None:
        attempt = Attempt(
            task,
            self._inbox,
            self._live,
            self.availability,
            self._work_directory,
            self._timers,
            self._attempt_log,
        )
        self._attempts.add(attempt)
        if not self.running:
            attempt.stop()
        # Work whose lease was lost, or that was requeued by hand, may take its time to end: the next attempt waits.
        earlier = self._end_of_earlier(task.key)
        if earlier is not None:
            self.availability.release()  # others need not wait for that
        self._working.setdefault(task.key, []).append(attempt)
        attempt.work_ended.addCallback(lambda _: self._forget(attempt, task.key))
        try:
            is_done = await attempt.run(self.executor, earlier)
        finally:
            self._attempts.discard(attempt)
        self.done += is_done is True
        self.failed += is_done is False

    def _end_of_earlier(self, key: TaskKey) -> Deferred[None] | None:
        """Return a Deferred that fires when the work of all attempts at a task has ended; None when it has already."""
        attempts = list(self._working.get(key, ()))
        if not attempts:
            return None
        all_ended: Deferred[None] = Deferred()
        remaining = len(attempts)

        def count_down(_: None) -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining and not all_ended.called:  # it may have been cancelled
                all_ended.callback(None)

        for attempt in attempts:
            attempt.work_ended.addCallback(count_down)
        return all_ended

    def _forget(self, attempt: Attempt, key: TaskKey) -> None:
        self._working[key].remove(attempt)
        if not self._working[key]:
            del self._working[key]
