"""Watches the free space on the disk of the store: below a floor no new task is taken from peers.

What is left then is for the tasks that there are: their messages, results and stories are written as before, and so is
what the operator submits.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from typing_extensions import override

from tasksubmit.interfaces import ITaskStore, Refusal
from tasksubmit.node.periodic import ScanService

_MOST_BYTES = 256 * 2**20
_PART = 20
"""The usual floor: one part in so many of the disk, and no more than these bytes."""

_LOW = Refusal("storage", "this node has little space left on its disk; try again later", retry_after_s=10)


class DiskWatch(ScanService):
    """The scan that looks at the free space.

    :param floor_bytes: the free space below which new tasks are refused; None for the usual floor.
    :ivar problem: why new tasks are refused; empty while they are not.
    """

    _log = Logger()

    def __init__(
        self, store: ITaskStore, floor_bytes: int | None, interval_seconds: float, timers: IReactorTime
    ) -> None:
        super().__init__(
            name="disk space", scan="look at the free disk space", interval_seconds=interval_seconds, timers=timers
        )
        self._store = store
        self._floor = floor_bytes
        self.problem = ""

    def refusal(self) -> Refusal | None:
        """Return why no new task is taken, if so."""
        return _LOW if self.problem else None

    @override
    async def _look(self) -> None:
        space = await self._store.disk_space()
        if space is None:
            return
        floor = min(_MOST_BYTES, space.size_bytes // _PART) if self._floor is None else self._floor
        was_low, is_low = bool(self.problem), space.free_bytes < floor
        left = f"the disk has {space.free_bytes} bytes left, and {floor} are kept free"
        self.problem = left if is_low else ""
        if is_low != was_low:
            self._log.warn("new tasks are {what}: {left}", what="refused" if is_low else "taken again", left=left)
