"""Room on the disk for results, whoever gives them: when there is none left, no more are taken."""

from __future__ import annotations

from attrs import define, field

from tasksubmit.errors import NoRoom
from tasksubmit.interfaces import ITaskStore, SavedResult


@define(eq=False)
class ResultRoom:
    """Counts what results take, between two looks at what they really do; see `RetentionService`.

    What is saved counts at once, also for a task that is still open or that ended long ago. What is refused is
    remembered, so that the next look can make as much room.

    :ivar max_bytes: what they may take; None for no limit.
    :ivar used_bytes: what they take.
    :ivar wanted_bytes: the largest that was refused since room was last made.
    """

    max_bytes: int | None
    used_bytes: int = field(default=0, init=False)
    wanted_bytes: int = field(default=0, init=False)

    async def save(self, store: ITaskStore, task_id: str, filename: str, content: bytes) -> SavedResult:
        """Keep a result; see `ITaskStore.save_result`.

        :raises NoRoom: when there is no room for it; there may be later.
        """
        size_bytes = len(content)
        if self.max_bytes is not None and self.used_bytes + size_bytes > self.max_bytes:
            self.wanted_bytes = max(self.wanted_bytes, size_bytes)
            raise NoRoom(
                f"no room for {size_bytes} bytes of results: {self.used_bytes} of {self.max_bytes} are taken; raise"
                " --max-result-bytes, or wait until what is owed to peers is delivered"
            )
        self.used_bytes += size_bytes
        try:
            return await store.save_result(task_id, filename, content)
        except Exception:
            self.used_bytes -= size_bytes
            raise

    def look(self, used_bytes: int) -> int:
        """Take note of what results really take.

        :returns: how many bytes have to go for them to be within the limit, and for what was refused to find room.
        """
        self.used_bytes = used_bytes
        return 0 if self.max_bytes is None else used_bytes + min(self.wanted_bytes, self.max_bytes) - self.max_bytes
