"""How much there is to decide on and to do, of whom: what quotas are measured by, kept without asking the store."""

from __future__ import annotations

from collections.abc import Iterable

from zope.interface import implementer

from tasksubmit.interfaces import ILoad, Waiting
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.wire.address import Address


@implementer(ILoad)
class Load:
    """The tasks received that are NEW, by submitter, with those on their way to the disk; and how many are ACCEPTED.

    :ivar queued: how many tasks wait in the queue.
    :ivar is_known: True once a node has counted what its store has.
    """

    def __init__(self) -> None:
        self.queued = 0
        self.is_known = False
        self._new: dict[Address, Waiting] = {}
        self._begun: dict[int, Task] = {}  # by `id`: the same submission may come twice

    @property
    def undecided(self) -> int:
        """The number of tasks that are NEW, without those on their way to the disk."""
        return sum(waiting.tasks for waiting in self._new.values()) - len(self._begun)

    def new(self, address: Address) -> Waiting:
        """See `ILoad.new`."""
        waiting = self._new.get(address)
        return Waiting() if waiting is None else waiting

    def count(self, found: Iterable[tuple[Address, TaskStatus, int, int]]) -> None:
        """Add what the store had when the node was started; see `ITaskStore.load`."""
        for address, status, tasks, description_bytes in found:
            if status is TaskStatus.NEW:
                self._add(address, tasks, description_bytes)
            else:
                self.queued += tasks

    def clear(self) -> None:
        """Forget everything: the node starts anew."""
        self.queued = 0
        self.is_known = False
        self._new.clear()
        self._begun.clear()

    def recount(self, found: Iterable[tuple[Address, TaskStatus, int, int]]) -> None:
        """Replace all counts by what the store has, with what is still on its way to the disk."""
        self.queued = 0
        self._new.clear()
        self.count(found)
        for task in self._begun.values():
            self._add(task.peer, 1, _size(task))
        self.is_known = True

    def begin(self, task: Task) -> None:
        """A task is being created."""
        self._begun[id(task)] = task
        self._add(task.peer, 1, _size(task))

    def created(self, task: Task) -> None:
        """It is on disk."""
        self._begun.pop(id(task), None)

    def undo(self, task: Task) -> None:
        """It was not: it is known already, or could not be written."""
        if self._begun.pop(id(task), None) is not None:
            self._add(task.peer, -1, -_size(task))

    def changed(self, before: Task, after: Task) -> None:
        """A record was changed."""
        if before.side is not Side.RECEIVER or before.status is after.status:
            return
        if before.status is TaskStatus.NEW:
            self._add(before.peer, -1, -_size(before))
        self.queued += (after.status is TaskStatus.ACCEPTED) - (before.status is TaskStatus.ACCEPTED)

    def _add(self, address: Address, tasks: int, description_bytes: int) -> None:
        waiting = self._new.get(address)
        if waiting is None:
            waiting = self._new[address] = Waiting()
        waiting.tasks += tasks
        waiting.description_bytes += description_bytes
        if waiting.tasks <= 0:
            del self._new[address]


def _size(task: Task) -> int:
    description = task.description
    return len(description) if description.isascii() else len(description.encode())
