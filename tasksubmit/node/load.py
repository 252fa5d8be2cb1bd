"""Counts of the tasks that wait in a node, and of what each peer takes. Quotas are measured by them."""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import implementer

from tasksubmit.interfaces import ILoad, PeerLoad
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.wire.address import Address


@implementer(ILoad)
class Load:
    """The load of each peer, as the store has it and with the tasks on their way to the disk.

    What is removed from the store is noticed at the next count, which whoever removes something asks for.

    :ivar queued: how many tasks wait in the queue.
    :ivar undecided: how many tasks are NEW, without those on their way to the disk.
    :ivar is_known: True once a node has counted what its store has.
    """

    def __init__(self) -> None:
        self.queued = 0
        self.undecided = 0
        self.is_known = False
        self._peers: dict[Address, PeerLoad] = {}
        self._begun: dict[int, Task] = {}  # by `id`: the same submission may come twice

    def of(self, address: Address) -> PeerLoad:
        """See `ILoad.of`."""
        return self._peers.get(address) or PeerLoad(address)

    @property
    def peers(self) -> list[PeerLoad]:
        """The load of every peer that has any."""
        return list(self._peers.values())

    @property
    def held(self) -> int:
        """How many tasks are held, see `Task.held_at`."""
        return sum(load.held for load in self._peers.values())

    def clear(self) -> None:
        """Forget everything: the node starts anew."""
        self.queued = self.undecided = 0
        self.is_known = False
        self._peers.clear()
        self._begun.clear()

    def recount(self, found: Iterable[PeerLoad]) -> None:
        """Replace all counts by what `ITaskStore.load` found, with what is still on its way to the disk."""
        self._peers = {load.address: load for load in found}
        self.queued = sum(load.queued for load in self._peers.values())
        self.undecided = sum(load.new for load in self._peers.values())
        for task in self._begun.values():
            self._add(task.peer, 1, stored_bytes(task))
        self.is_known = True

    def begin(self, task: Task) -> None:
        """A task is being created."""
        self._begun[id(task)] = task
        self._add(task.peer, 1, stored_bytes(task))

    def created(self, task: Task) -> None:
        """It is on disk."""
        if self._begun.pop(id(task), None) is not None:
            self.undecided += 1
            self._peer(task.peer).new += 1

    def undo(self, task: Task) -> None:
        """It was not: it is known already, or could not be written."""
        if self._begun.pop(id(task), None) is not None:
            self._add(task.peer, -1, -stored_bytes(task))

    def withdrawn(self, address: Address, count: int = 1) -> None:
        """A tombstone is being left for a task that never arrived; -1 if it was not."""
        self._peer(address).records += count

    def changed(self, before: Task, after: Task) -> None:
        """A record was changed."""
        if before.result_bytes != after.result_bytes:
            self._peer(after.peer).stored_bytes += after.result_bytes - before.result_bytes
        if before.side is not Side.RECEIVER or (before.status is after.status and before.held_at is after.held_at):
            return
        load = self._peer(after.peer)
        decided = before.status is TaskStatus.NEW
        self.undecided -= decided
        load.new -= decided
        joined = _is_queued(after) - _is_queued(before)
        self.queued += joined
        load.queued += joined
        load.held += (after.held_at is not None) - (before.held_at is not None)
        load.open -= after.status.is_final and not before.status.is_final

    def _add(self, address: Address, tasks: int, size_bytes: int) -> None:
        """Count tasks that are created."""
        load = self._peer(address)
        load.open += tasks
        load.records += tasks
        load.stored_bytes += size_bytes

    def _peer(self, address: Address) -> PeerLoad:
        load = self._peers.get(address)
        if load is None:
            load = self._peers[address] = PeerLoad(address)
        return load


def _is_queued(task: Task) -> bool:
    return task.status is TaskStatus.ACCEPTED and task.held_at is None


def stored_bytes(task: Task) -> int:
    """Return the bytes of a task that count as its peer's, see `PeerLoad`."""
    if task.side is Side.SUBMITTER:
        return task.result_bytes
    description = task.description
    return task.result_bytes + (len(description) if description.isascii() else len(description.encode()))
