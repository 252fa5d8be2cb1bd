"""The workers of a node: they take tasks from the queue, and have an executor do them."""

from __future__ import annotations

from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.errors import EmptyQueue, NotAccepting
from tasksubmit.interfaces import IExecutor
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.logs import quiet_logger
from tasksubmit.node.attempt import Attempt
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.live import LiveTasks
from tasksubmit.node.periodic import Periodic


class Workers(Service):
    """Up to so many workers, each with one task at a time; they come when there is work, and go when there is none.

    :param interval_seconds: how often to look for tasks, besides when one is accepted or put back.
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
        self._news = 0

    @override
    def startService(self) -> None:
        super().startService()
        self._scan.start()

    @override
    def stopService(self) -> Deferred[Any]:
        """Take nothing more, end and put back what is being done; fires when nothing of it goes on."""
        super().stopService()
        self._scan.stop()
        for attempt in list(self._attempts):
            attempt.stop()
        return DeferredList(list(self._workers))

    def changed(self, task: Task) -> None:
        """A task was changed; perhaps it waits to be begun now."""
        if task.status is TaskStatus.ACCEPTED or task.put_back_at is not None:
            self._look()

    def _look(self) -> None:
        """Have one more worker, if there may be."""
        self._news += 1
        if self.running and len(self._workers) < self.concurrency:
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
            except NotAccepting:
                return
            except EmptyQueue:
                if news == self._news:
                    return
                continue  # it may be empty no more
            self._look()  # for there may be others
            await self._do(task)

    async def _do(self, task: Task) -> None:
        attempt = Attempt(task, self._inbox, self._live, self._timers, self._attempt_log)
        self._attempts.add(attempt)
        if not self.running:
            attempt.stop()
        try:
            is_done = await attempt.run(self.executor)
        finally:
            self._attempts.discard(attempt)
        self.done += is_done is True
        self.failed += is_done is False
