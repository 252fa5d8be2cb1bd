"""A service that removes what executions of earlier runs of the node have left in the work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.node.executors.faults import in_thread
from tasksubmit.node.executors.places import sweep

INTERVAL_SECONDS = 1.0


class Sweeper(Service):
    """Sweeps the work directory at the start, and again until nothing of an earlier run is left; see `places`."""

    _log = Logger()

    def __init__(self, directory: Path, timers: IReactorTime) -> None:
        self.setName("sweeper")
        self._directory = directory
        self._timers = timers
        self._started_at = 0.0
        self._loop = LoopingCall(self._sweep)
        self._loop.clock = timers
        self._sweeping: Deferred[Any] | None = None

    @override
    def startService(self) -> None:
        super().startService()
        self._started_at = self._timers.seconds()
        self._loop.start(INTERVAL_SECONDS)

    @override
    def stopService(self) -> Deferred[Any] | None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return self._sweeping

    def _sweep(self) -> Deferred[Any]:
        arguments = self._directory, self._timers.seconds() - self._started_at
        timers: Any = self._timers
        has_threads = IReactorThreads.providedBy(timers) and self._directory.is_dir()
        sweeping: Deferred[Any] = maybeDeferred(
            lambda: in_thread(timers, sweep, *arguments) if has_threads else sweep(*arguments)
        )
        sweeping.addCallbacks(
            self._swept, lambda failure: self._log.failure("the work directory was not swept", failure)
        )
        self._sweeping = sweeping
        return sweeping

    def _swept(self, is_clean: bool) -> None:
        if is_clean and self._loop.running:
            self._loop.stop()
