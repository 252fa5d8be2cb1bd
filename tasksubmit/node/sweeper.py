"""A service that removes what executions of earlier runs of the node have left in the work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from typing_extensions import override

from tasksubmit.node.executors.faults import in_thread
from tasksubmit.node.executors.places import sweep
from tasksubmit.node.periodic import Periodic

INTERVAL_SECONDS = 1.0


class Sweeper(Service):
    """Sweeps the work directory at the start, and again until nothing of an earlier run is left; see `places`."""

    def __init__(self, directory: Path, timers: IReactorTime) -> None:
        self.setName("sweeper")
        self._directory = directory
        self._timers = timers
        self._started_at = 0.0
        self._scan = Periodic(self._sweep, "sweep of the work directory", INTERVAL_SECONDS, timers)

    @override
    def startService(self) -> None:
        super().startService()
        self._started_at = self._timers.seconds()
        self._scan.start()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._scan.stop()

    async def _sweep(self) -> None:
        arguments = self._directory, self._timers.seconds() - self._started_at
        timers: Any = self._timers
        if IReactorThreads.providedBy(timers) and self._directory.is_dir():
            is_clean = await in_thread(timers, sweep, *arguments)
        else:
            is_clean = sweep(*arguments)
        if is_clean:
            self._scan.stop()
