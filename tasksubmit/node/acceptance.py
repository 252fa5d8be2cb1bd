"""Who decides on new tasks, when it is not a person: the policies of acceptance, and the service that asks one."""

from __future__ import annotations

from collections.abc import Collection, Coroutine, Iterable
from typing import Any

from attrs import field, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import IllegalTransition, NotAccepting, StoreError, UnknownTask
from tasksubmit.interfaces import IAcceptancePolicy, Refusal
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.calling import call
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.load import Load
from tasksubmit.node.periodic import Periodic, Streak
from tasksubmit.node.records import Records
from tasksubmit.wire.address import Address, to_addresses

_AT_ONCE = 1000
_DECIDED_AT_ONCE = 32
"""Each of these may have a description of a mebibyte, or what it was told to take."""


def _to_addresses(value: Iterable[Address | str]) -> frozenset[Address]:
    return to_addresses(value, "but")


@implementer(IAcceptancePolicy)
@frozen
class AcceptAll:
    """Accepts every task that was admitted.

    :ivar but: submitters in quarantine, whose tasks are left to somebody else; given as any iterable of addresses, or
        of strings such as ``0:0000.0000.0002``.
    """

    but: frozenset[Address] = field(default=frozenset(), converter=_to_addresses)

    def decide(self, task: Task) -> bool:
        """See `IAcceptancePolicy.decide`."""
        return task.peer not in self.but


class Acceptance(Service):
    """Puts new tasks to a policy, and does what it says.

    A task is put to the policy once in each run of the node, when its submission was committed. A scan at each tick
    finds those that this missed: what an earlier run left NEW, and submissions whose commit was in doubt. It reads the
    store only while the load counts more NEW tasks than `_known` has, so that tasks left to others cost nothing. A
    decision that could not be written is kept, and written at a later tick; the policy is not asked again.

    :param load: the node's counts of NEW tasks.
    """

    def __init__(
        self,
        records: Records,
        inbox: Inbox,
        policy: IAcceptancePolicy,
        load: Load,
        interval_seconds: float,
        timers: IReactorTime,
    ) -> None:
        self.setName("acceptance")
        self._log = quiet_logger(__name__)
        self._store = records.store
        self._inbox = inbox
        self._policy = policy
        self._load = load
        self._interval = interval_seconds
        self._scan = Periodic(self._look, "scan for undecided tasks", interval_seconds, timers)
        self._writes = Streak("write of decisions on tasks")
        self._asked: set[Deferred[Any]] = set()
        self._work: set[Deferred[None]] = set()
        self._known: set[TaskKey] = set()
        self._decisions: dict[TaskKey, bool | Refusal | None] = {}
        self._resolved: set[TaskKey] = set()
        self._must_scan = True

    @override
    def startService(self) -> None:
        super().startService()
        for collection in (self._known, self._decisions, self._resolved):
            collection.clear()
        self._must_scan = True
        self._scan.start()

    @override
    def stopService(self) -> Deferred[Any]:
        """Ask no more; fires when what was decided is done."""
        super().stopService()
        stopped = self._scan.stop()
        for asked in list(self._asked):
            asked.cancel()
        return DeferredList([stopped, *self._work])

    def created(self, task: Task) -> None:
        """A task was submitted, and is on disk."""
        if self.running and task.key not in self._known:
            self._known.add(task.key)
            self._begin(self._decide(task))

    def changed(self, before: Task) -> None:
        """A change of the record ``before`` was committed."""
        if before.status is TaskStatus.NEW:
            self._known.discard(before.key)
            self._decisions.pop(before.key, None)

    def resolved(self, keys: Collection[TaskKey]) -> None:
        """It is known now whether commits about these tasks hold, of which `created` and `changed` said nothing."""
        self._resolved.update(keys)
        self._must_scan = True

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        done = Deferred.fromCoroutine(work)
        self._work.add(done)
        done.addErrback(lambda failure: self._log.failure("new tasks could not be decided on", failure))
        done.addBoth(lambda _: self._work.discard(done))

    async def _look(self) -> None:
        for key, decision in list(self._decisions.items()):
            await self._carry_out(key, decision)
        if self._must_scan or (self._load.is_known and self._load.undecided > len(self._known)):
            self._must_scan = False
            try:
                found = await self._find()
            except BaseException:
                self._must_scan = True
                raise
            self._begin(self._decide_on(found))

    async def _find(self) -> list[TaskKey]:
        """Find the tasks that are NEW and were not put to the policy, the newest first."""
        found: list[TaskKey] = []  # and not the records: there may be many long ones that nobody decides on
        resolved = set(self._resolved)
        before = None
        while tasks := await self._store.list_tasks(
            side=Side.RECEIVER, status=TaskStatus.NEW, peer=None, before=before, limit=_AT_ONCE
        ):
            found += [task.key for task in tasks]
            before = tasks[-1].number
        self._resolved -= resolved
        self._known -= resolved.difference(found)
        found = [key for key in found if key not in self._known]
        self._known.update(found)
        return found

    async def _decide_on(self, found: list[TaskKey]) -> None:
        """Put tasks to the policy, the last of them first, so many at a time."""
        while found and self.running:
            await DeferredList([Deferred.fromCoroutine(self._look_at(found.pop())) for _ in found[:_DECIDED_AT_ONCE]])

    async def _look_at(self, key: TaskKey) -> None:
        try:
            task = await self._store.get(key)
        except StoreError:
            self._known.discard(key)
            self._must_scan = True
            return
        if task is not None and task.status is TaskStatus.NEW:
            await self._decide(task)
        else:
            self._known.discard(key)

    async def _decide(self, task: Task) -> None:
        try:
            decision = await self._ask(task)
            if decision is not None and not isinstance(decision, bool | Refusal):
                raise TypeError(f"the policy answered {decision!r}: neither True, False nor a Refusal")
        except Exception:
            if self.running:
                self._log.failure("task {task_id} was not decided on: it is left to others", task_id=task.task_id)
        else:
            await self._carry_out(task.key, decision)

    async def _carry_out(self, key: TaskKey, decision: bool | Refusal | None) -> None:
        """Write a decision; one that cannot be written yet is kept for the next tick."""
        self._decisions.pop(key, None)
        try:
            if isinstance(decision, Refusal):
                await self._inbox.decline(key, decision.message)
            elif decision:
                await self._inbox.accept(key, "Task accepted")
        except (IllegalTransition, UnknownTask):
            pass  # somebody else has decided
        except NotAccepting:
            self._decisions[key] = decision
        except StoreError:
            self._decisions[key] = decision
            if self.running:
                self._writes.fail(Failure(), self._interval)
        except Exception:
            self._log.failure("task {task_id} was not decided on: it is left to others", task_id=key.task_id)
        else:
            self._writes.succeed()

    async def _ask(self, task: Task) -> bool | Refusal:
        asked: Deferred[bool | Refusal] = call(self._policy.decide, task)
        self._asked.add(asked)
        try:
            return await asked
        finally:
            self._asked.discard(asked)
