"""A service that removes what executions of earlier runs of the node have left in the work directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IReactorThreads, IReactorTime
from typing_extensions import override

from tasksubmit.node.executors.faults import in_thread
from tasksubmit.node.executors.places import sweep
from tasksubmit.node.periodic import ScanService

INTERVAL_SECONDS = 1.0


class Sweeper(ScanService):
    """Sweeps the work directory at the start, and again until nothing of an earlier run is left; see `places`."""

    def __init__(self, directory: Path, timers: IReactorTime) -> None:
        super().__init__(
            name="sweeper", scan="sweep of the work directory", interval_seconds=INTERVAL_SECONDS, timers=timers
        )
        self._directory = directory
        self._timers = timers
        self._started_at = 0.0

    @override
    def startService(self) -> None:
        self._started_at = self._timers.seconds()
        super().startService()

    @override
    async def _look(self) -> None:
        arguments = self._directory, self._timers.seconds() - self._started_at
        timers: Any = self._timers
        if IReactorThreads.providedBy(timers) and self._directory.is_dir():
            is_clean = await in_thread(timers, sweep, *arguments)
        else:
            is_clean = sweep(*arguments)
        if is_clean:
            self._scan.stop()
