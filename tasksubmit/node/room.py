"""Disk space for results: the share of each peer in ``--max-result-bytes``.

The rule: the results of one peer, those given to it and those received from it, take at most three quarters of what the
results of all other peers leave. A peer alone has three quarters of the space, ``n`` busy peers have ``3 / (3n + 1)``
of it each, and some is always left for another peer. Switches share their packet buffers in this way (Choudhury and
Hahne, dynamic queue length thresholds).

What happens past the share of a peer:

* Its own oldest ended tasks with results are removed to make space for its new result. No result is ever removed to
  make space for a result of another peer: a peer that has more than its share, because others came, keeps it until its
  own next result.
* Tasks with pending deliveries stay. If the rest does not make enough space, the result is refused (`NoRoom`, the code
  ``storage``), and the peer is short of space until a result of that size fits. A peer that does not take its results
  fills only its own share.
* The node takes no new tasks from a peer that is short of space (``quota``).
* When a minute has passed in which a peer that is short of space took too little, its executions fail instead of
  waiting: results that are there already are given up, and claimed tasks are not executed. So such a peer occupies no
  worker, no result is lost without a report, and no task is executed again for it.

Space is made at the first refusal and then at each scan of retention, not at each refusal: a peer that repeats results
cannot have the store searched again and again. Between two scans the counts are kept here; a scan replaces them by what
the store has, and so corrects them by results that were discarded.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from attrs import define, field
from twisted.internet.defer import DeferredLock

from tasksubmit.errors import NoRoom, TooLarge
from tasksubmit.interfaces import ITaskStore, Refusal, SavedResult
from tasksubmit.lifecycle.task import Task
from tasksubmit.logs import quiet_logger
from tasksubmit.wire.address import Address

_RETRY_SECONDS = 60

_MOST_SCANS = 2
"""Scans after which the executions of a peer that is still short of space fail: the first may follow immediately."""


@define(eq=False)
class _Share:
    """The results of one peer.

    :ivar used_bytes: their size.
    :ivar wanted_bytes: the largest result that was refused and would not fit yet; 0 if there is none.
    :ivar scans: the scans since then that have not made enough space for it.
    :ivar making: held while space is made.
    """

    used_bytes: int = 0
    wanted_bytes: int = 0
    scans: int = 0
    making: DeferredLock = field(factory=DeferredLock)

    @property
    def is_idle(self) -> bool:
        """True if there is nothing to remember."""
        return not (self.used_bytes or self.wanted_bytes or self.making.locked)


async def _remove_nothing(peer: Address, size_bytes: int) -> int:
    return 0


class ResultRoom:
    """The disk space for results, and the share of each peer in it.

    :ivar max_bytes: what all results may take; None for no limit.
    :ivar remove: removes the oldest ended tasks of a peer, with results of at least so many bytes, as far as there are
        any; returns how many tasks that were. `RetentionService` sets it.
    """

    def __init__(self, max_bytes: int | None) -> None:
        self.max_bytes = max_bytes
        self.remove: Callable[[Address, int], Awaitable[int]] = _remove_nothing
        self._used_bytes = 0
        self._shares: dict[Address, _Share] = {}
        self._log = quiet_logger(__name__)

    # --- what is kept --------------------------------------------------------------------------------------------

    async def save(self, store: ITaskStore, peer: Address, task_id: str, filename: str, content: bytes) -> SavedResult:
        """Keep a result of a peer; see `ITaskStore.save_result`.

        :raises NoRoom: its share has no space for it; there may be some later.
        :raises TooLarge: no share will ever have so much.
        """
        if self.max_bytes is None:
            return await store.save_result(task_id, filename, content)
        size_bytes = len(content)
        share = self._shares.setdefault(peer, _Share())
        await self._make_space(peer, share, size_bytes)
        self._count(share, size_bytes)
        try:
            return await store.save_result(task_id, filename, content)
        except Exception:
            self._count(share, -size_bytes)
            raise

    def removed(self, task: Task) -> None:
        """A task was removed, with its results."""
        share = self._shares.get(task.peer)
        if share is not None:
            self._count(share, -task.result_bytes)

    async def scan(self, used_bytes: Mapping[Address, int]) -> None:
        """Note what the results of each peer really take, and make space for what was refused."""
        self._used_bytes = sum(used_bytes.values())
        for peer in self._shares.keys() | used_bytes.keys():
            self._shares.setdefault(peer, _Share()).used_bytes = used_bytes.get(peer, 0)
        for peer, share in list(self._shares.items()):
            if share.wanted_bytes:
                await self._remove_own(peer, share, share.wanted_bytes)
                self._look_again(peer, share)
            if share.is_idle:
                del self._shares[peer]

    # --- what is refused -----------------------------------------------------------------------------------------

    def refusal(self, peer: Address) -> Refusal | None:
        """Return why no new task is taken from a peer, if so: it is short of space for results."""
        share = self._shares.get(peer)
        if share is None or not share.wanted_bytes:
            return None
        used = f"your results take {share.used_bytes} bytes, and another of {share.wanted_bytes} found no space"
        return Refusal("quota", f"{used}: take those that are pending, or try again later", _RETRY_SECONDS)

    def is_exhausted(self, peer: Address) -> bool:
        """True if a peer has been short of space for so long that executions for it are in vain."""
        share = self._shares.get(peer)
        return share is not None and share.scans >= _MOST_SCANS

    # --- inside --------------------------------------------------------------------------------------------------

    def _allowed(self, others_bytes: int) -> int:
        """Return what the results of a peer may take beside those of all others."""
        return max(0, 3 * ((self.max_bytes or 0) - others_bytes) // 4)

    def _allowed_to(self, share: _Share) -> int:
        return self._allowed(self._used_bytes - share.used_bytes)

    def _excess(self, share: _Share, size_bytes: int) -> int:
        """Return how many bytes of a peer have to go before another result of it fits; 0 or less if it fits."""
        return share.used_bytes + size_bytes - self._allowed_to(share)

    def _count(self, share: _Share, size_bytes: int) -> None:
        share.used_bytes += size_bytes
        self._used_bytes += size_bytes

    async def _make_space(self, peer: Address, share: _Share, size_bytes: int) -> None:
        """Have space for a result of a peer.

        :raises NoRoom: there is none for the time being.
        :raises TooLarge: there will never be.
        """
        if size_bytes > (most := self._allowed(0)):
            raise TooLarge(
                f"results of {size_bytes} bytes are longer than the {most} that one peer's may take: raise"
                " --max-result-bytes"
            )
        if not share.wanted_bytes and self._excess(share, size_bytes) > 0:
            await self._remove_own(peer, share, size_bytes)
        if self._excess(share, size_bytes) > 0:
            if not share.wanted_bytes:
                self._log.warn(
                    "no space for results: peer={peer} size={size} used={used} allowed={allowed}; it takes no new"
                    " tasks of this peer until pending results are delivered, or --max-result-bytes is raised",
                    peer=peer,
                    size=size_bytes,
                    used=share.used_bytes,
                    allowed=self._allowed_to(share),
                )
            share.wanted_bytes = max(share.wanted_bytes, size_bytes)
            raise NoRoom(
                f"no space for {size_bytes} bytes of results: those of {peer} take {share.used_bytes} bytes, of"
                f" {self._allowed_to(share)} that they may take by now; wait until pending ones are delivered, or raise"
                " --max-result-bytes"
            )

    async def _remove_own(self, peer: Address, share: _Share, size_bytes: int) -> None:
        """Remove results of a peer until another of it fits, unless that cannot be."""
        await share.making.acquire()
        try:
            while size_bytes <= self._allowed_to(share) and (excess := self._excess(share, size_bytes)) > 0:
                if not await self.remove(peer, excess):
                    break
        finally:
            share.making.release()

    def _look_again(self, peer: Address, share: _Share) -> None:
        """Note whether there is space for what was refused."""
        if self._excess(share, share.wanted_bytes) > 0:
            share.scans += 1
        else:
            share.wanted_bytes = share.scans = 0
            self._log.info("space for results again: peer={peer}", peer=peer)
