"""The record that a message of a peer is about, and the order in which messages about one task are handled.

A task id says nothing by itself: two peers may use the same one, and a pair of nodes may use it in both directions.
The sender and the words of the message tell which record is meant: a submitter and a receiver report different outcomes
(wire.md, section 6). The trap for the next editor: to look at the other side's record when the one that is meant is
gone would report the fate of another task. Its tombstone answers, or nothing does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred

from tasksubmit.errors import InvalidMessage, UnknownTask
from tasksubmit.interfaces import ITaskStore, Peer
from tasksubmit.lifecycle.change import Tombstone
from tasksubmit.lifecycle.table import RECEIVER_OUTCOMES, SUBMITTER_OUTCOMES, Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.doubts import Doubts
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import TaskStatusUpdate

T = TypeVar("T")
K = TypeVar("K", Task, Tombstone)


def sides_meant(update: TaskStatusUpdate) -> Sequence[Side]:
    """Return the sides whose record a status update may be about, the likelier first.

    Only CANCELLED is a word of both sides; its outcome tells whose. Without one it comes from a reference peer, whose
    receivers never report CANCELLED.
    """
    if update.status != TaskStatus.CANCELLED.value or update.outcome in RECEIVER_OUTCOMES:
        return (Side.SUBMITTER,)
    if update.outcome in SUBMITTER_OUTCOMES:
        return (Side.RECEIVER,)
    return (Side.RECEIVER, Side.SUBMITTER)


class Routing:
    """Finds the record that a message is about.

    :param doubts: the tasks about which no message is handled.
    :param may_speak_for: tells whether a peer may say that it is somebody.
    """

    def __init__(self, store: ITaskStore, doubts: Doubts, may_speak_for: Callable[[Peer, Address], bool]) -> None:
        self._store = store
        self._doubts = doubts
        self._may_speak_for = may_speak_for

    def sender(self, peer: Peer, from_addr: str) -> Address | None:
        """Return the address of the sender of a message; None if that is not known.

        :param from_addr: what the message says; empty if it says nothing.
        :raises InvalidMessage: ``peer`` may not say that it is ``from_addr``.
        """
        if not from_addr:
            return peer.address
        claimed = Address.parse(from_addr)
        if not self._may_speak_for(peer, claimed):
            belongs = f"belongs to {peer.address}" if peer.address is not None else "does not prove that: use TLS"
            raise InvalidMessage(f"from_addr is {claimed}, but the connection {belongs}", "from_addr")
        return claimed

    async def find(self, peer: Peer, sender: Address | None, task_id: str, sides: Sequence[Side]) -> Task | Tombstone:
        """Return the record that ``peer`` means, or what retention left of it.

        :param sides: whose record it may be, the likelier first.
        :raises UnknownTask: there is none, or several: then the sender has to say who it is.
        :raises StoreUncertain: it is unknown whether the last change of the task is on disk.
        """
        self._doubts.check(task_id, sender)
        tasks = self._of_peer(peer, await self._store.find(task_id, sender))
        left: list[Tombstone] | None = None
        for side in sides:
            of_side: Sequence[Task | Tombstone] = [task for task in tasks if task.side is side]
            if not of_side:  # only now: the record of another side says nothing of a task that was removed
                if left is None:
                    left = self._of_peer(peer, await self._store.tombstones(task_id, sender))
                of_side = [tombstone for tombstone in left if tombstone.key.side is side]
            if of_side:
                return _only(of_side, task_id)
        del tasks, of_side  # the traceback of the error would keep them, until the next collection of cycles
        raise UnknownTask(f"there is no task {task_id} here")

    def _of_peer(self, peer: Peer, records: list[K]) -> list[K]:
        return [record for record in records if self._may_speak_for(peer, record.key.peer)]


def _only(records: Sequence[Task | Tombstone], task_id: str) -> Task | Tombstone:
    """Return the one record of several with an id; of those of unknown senders, the one that is open.

    :raises UnknownTask: several are open, or none is.
    """
    if len(records) > 1:
        records = [record for record in records if isinstance(record, Task) and not record.is_settled]
    if len(records) != 1:
        raise UnknownTask(f"several tasks have the id {task_id}, and the message does not say from whom it is")
    return records[0]


@define(eq=False)
class _Queue:
    """The messages about one task.

    :ivar waiting: a Deferred for each message that is not handled yet; it fires when the message is to be handled.
    :ivar is_handling: whether a message is being handled.
    :ivar is_advancing: whether a loop is starting the messages that wait.
    """

    waiting: deque[Deferred[None]] = field(factory=deque)
    is_handling: bool = False
    is_advancing: bool = False


class TaskOrder:
    """Has the messages about one task handled one after another, in the order of their arrival.

    A cancellation that arrives while its submission is being decided waits for that, so that it finds the task.

    The trap for the next editor: a message may be handled before its handler returns, and peers may send thousands of
    messages about one task. They are started in a loop: if each started the next, the stack would overflow.
    """

    def __init__(self) -> None:
        self._queues: dict[Hashable, _Queue] = {}

    def run(self, task: Hashable, handle: Callable[[], Deferred[T]]) -> Deferred[T]:
        """Call ``handle`` once everything has ended that was run for ``task`` before; return a Deferred of its result.

        :param task: what tells one task from another.
        :param handle: what it raises, the Deferred fails with.
        """
        queue = self._queues.get(task)
        if queue is None:
            queue = self._queues[task] = _Queue()
        turn: Deferred[None] = Deferred()
        handled: Deferred[T] = turn.addCallback(lambda _: handle())
        handled.addBoth(self._end, task, queue)
        queue.waiting.append(turn)
        self._advance(task, queue)
        return handled

    def _end(self, result: T, task: Hashable, queue: _Queue) -> T:
        queue.is_handling = False
        self._advance(task, queue)
        return result

    def _advance(self, task: Hashable, queue: _Queue) -> None:
        """Start the next message, unless one is being handled."""
        if queue.is_advancing:
            return
        queue.is_advancing = True
        while queue.waiting and not queue.is_handling:
            queue.is_handling = True
            queue.waiting.popleft().callback(None)
        queue.is_advancing = False
        if not queue.is_handling:
            del self._queues[task]
