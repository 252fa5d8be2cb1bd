"""The next task for whoever asks: as many at once as have asked, each from the head of the queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from tasksubmit.errors import EmptyQueue, IllegalTransition, NotAccepting, NotAtHead
from tasksubmit.lifecycle.table import Event, Lease, advance
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.records import Records


@define(eq=False)
class _Asked:
    """Somebody who wants to begin the next task, which has to be ``key`` if that is given.

    :ivar turn: grows with each who asks.
    """

    turn: int
    key: TaskKey | None
    lease: Lease
    begun: Deferred[Task] = field(factory=Deferred)


class HandOut:
    """Gives everybody who asks another task.

    :param take: begins a task; raises `IllegalTransition` when it cannot be begun any more.
    :param is_draining: tells whether nothing is to be begun.
    """

    _log = Logger()

    def __init__(
        self, records: Records, take: Callable[[Task, Lease], Awaitable[Task]], is_draining: Callable[[], bool]
    ) -> None:
        self._records = records
        self._take = take
        self._is_draining = is_draining
        self._asked: list[_Asked] = []
        self._turns = count()
        self._is_under_way = False

    async def begin(self, key: TaskKey | None, lease: Lease) -> Task:
        """Begin the next task, which has to be ``key`` if that is given: what was put back comes before the queue.

        :raises NotAccepting: when the node is being drained.
        :raises EmptyQueue: when there is none.
        :raises NotAtHead: when ``key`` is not the next.
        :raises IllegalTransition: when ``key`` does not wait to be begun, or its time has passed.
        """
        asked = _Asked(next(self._turns), key, lease)
        self._asked.append(asked)
        if not self._is_under_way:
            self._is_under_way = True
            Deferred.fromCoroutine(self._hand_out()).addErrback(
                lambda failure: self._log.failure("what was asked for could not be begun", failure)
            )
        return await asked.begun

    async def _hand_out(self) -> None:
        try:
            while self._asked:
                asked, self._asked = sorted(self._asked, key=lambda one: one.turn), []
                try:
                    heads = deque(await self._waiting(len(asked)))
                except Exception:
                    for one in asked:
                        one.begun.errback()
                else:
                    is_empty = not heads
                    await DeferredList([Deferred.fromCoroutine(self._begin_for(one, heads, is_empty)) for one in asked])
        finally:
            self._is_under_way = False

    async def _waiting(self, limit: int) -> list[Task]:
        """The tasks that wait to be begun, in the order in which they are; looked for at once."""
        store = self._records.store
        waiting: list[Task] = []
        found: list[tuple[bool, Any]] = await DeferredList(
            [store.put_back(limit), store.queue(limit)], consumeErrors=True
        )
        for is_found, tasks in found:
            if not is_found:
                tasks.raiseException()
            waiting += tasks
        return waiting

    async def _begin_for(self, asked: _Asked, heads: deque[Task], is_empty: bool) -> None:
        try:
            if self._is_draining():
                raise NotAccepting("the node is being drained: it begins nothing new")
            if asked.key is not None and (not heads or heads[0].key != asked.key):
                raise await self._why_not(asked.key)
            if is_empty:
                raise EmptyQueue("the queue is empty; accept a task first")
            if not heads:
                self._asked.append(asked)  # one look takes so much into memory: there may be more
                return
            task = await self._take(heads.popleft(), asked.lease)
        except IllegalTransition:
            if asked.key is None:
                self._asked.append(asked)  # the head was withdrawn or its time has passed: the next one is head now
            else:
                asked.begun.errback()
        except Exception:
            asked.begun.errback()
        else:
            asked.begun.callback(task)

    async def _why_not(self, key: TaskKey) -> NotAtHead:
        """Why a task that is not the next cannot be begun.

        :raises IllegalTransition: when it does not wait to be begun.
        """
        task = await self._records.get(key)
        if task.held_at is not None:
            raise IllegalTransition(f"task {key.task_id} is held: {key.peer} is not trusted")
        if task.put_back_at is None:
            advance(key.side, task.status, Event.EXECUTE)
        return NotAtHead(f"task {key.task_id} is not at the head of the queue; see `tasksubmit queue`")
