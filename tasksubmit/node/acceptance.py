"""Who decides on new tasks, when it is not a person: the policies of acceptance, and the service that asks one."""

from __future__ import annotations

from collections.abc import Collection, Coroutine
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import IllegalTransition, NotAccepting
from tasksubmit.interfaces import IAcceptancePolicy, Refusal
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.calling import call
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.records import Records
from tasksubmit.wire.address import Address

_AT_ONCE = 1000
_DECIDED_AT_ONCE = 32
"""Each of these may have a description of a mebibyte, or what it was told to take."""


@implementer(IAcceptancePolicy)
@frozen
class AcceptAll:
    """Accepts every task that was admitted.

    :ivar but: submitters in quarantine, whose tasks are left to somebody else.
    """

    but: Collection[Address] = ()

    def decide(self, task: Task) -> bool:
        """See `IAcceptancePolicy.decide`."""
        return task.peer not in self.but


class Acceptance(Service):
    """Puts new tasks to a policy, and does what it says."""

    def __init__(self, records: Records, inbox: Inbox, policy: IAcceptancePolicy) -> None:
        self.setName("acceptance")
        self._log = quiet_logger(__name__)
        self._store = records.store
        self._inbox = inbox
        self._policy = policy
        self._asked: set[Deferred[Any]] = set()
        self._work: set[Deferred[None]] = set()

    @override
    def startService(self) -> None:
        super().startService()
        self._begin(self._catch_up())

    @override
    def stopService(self) -> Deferred[Any]:
        """Ask no more; fires when what was decided is done."""
        super().stopService()
        for asked in list(self._asked):
            asked.cancel()
        return DeferredList(list(self._work))

    def resume(self) -> None:
        """Decide on the tasks that were left alone while the node could not execute anything."""
        if self.running:
            self._begin(self._catch_up())

    def created(self, task: Task) -> None:
        """A task was submitted, and is on disk."""
        if self.running:
            self._begin(self._decide(task))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        done = Deferred.fromCoroutine(work)
        self._work.add(done)
        done.addErrback(lambda failure: self._log.failure("new tasks could not be looked for", failure))
        done.addBoth(lambda _: self._work.discard(done))

    async def _catch_up(self) -> None:
        """Decide on what an earlier life of the node left NEW, in the order in which it came."""
        found: list[TaskKey] = []  # and not the records: there may be many long ones that nobody decides on
        before = None
        while tasks := await self._store.list_tasks(
            side=Side.RECEIVER, status=TaskStatus.NEW, peer=None, before=before, limit=_AT_ONCE
        ):
            found += [task.key for task in tasks]
            before = tasks[-1].number
        while found and self.running:
            await DeferredList([Deferred.fromCoroutine(self._look_at(found.pop())) for _ in found[:_DECIDED_AT_ONCE]])

    async def _look_at(self, key: TaskKey) -> None:
        task = await self._store.get(key)
        if task is not None and task.status is TaskStatus.NEW:
            await self._decide(task)

    async def _decide(self, task: Task) -> None:
        if self._inbox.refusal() is not None:
            return  # a task that is accepted could only wait, for nobody knows how long; `resume` comes back to it
        try:
            decision = await self._ask(task)
            if isinstance(decision, Refusal):
                await self._inbox.decline(task.key, decision.message)
            elif decision is True:
                await self._inbox.accept(task.key, "Task accepted")
            elif decision:
                raise TypeError(f"the policy answered {decision!r}: neither True, False nor a Refusal")
        except (IllegalTransition, NotAccepting):
            pass  # somebody else has decided, or nothing is decided any more
        except Exception:
            if self.running:
                self._log.failure("task {task_id} was not decided on: it is left to others", task_id=task.task_id)

    async def _ask(self, task: Task) -> bool | Refusal:
        asked: Deferred[bool | Refusal] = call(self._policy.decide, task)
        self._asked.add(asked)
        try:
            return await asked
        finally:
            self._asked.discard(asked)
