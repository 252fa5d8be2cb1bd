"""Every call that a node makes to its store fails once: each task ends as it should, and nobody does anything for that.

A scenario is played once to note each call that its nodes make, by the code that makes it. Then it is played again for
each of these calls and each way in which that can fail; from then on everything succeeds. Callers of commands who are
told that their command failed repeat it, as any caller does; nobody reloads, retries or restarts anything besides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from math import inf
from types import FrameType
from typing import Any, ClassVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import EmptyQueue, IllegalTransition, StoreError, UnknownTask
from tasksubmit.interfaces import IAcceptancePolicy, IAdmissionPolicy, Peer, Refusal
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.purge import PurgeStep, Selection
from tasksubmit.node.retention import Retention
from tasksubmit.node.service import Node
from tasksubmit.testing import Agents, FakeExecutor, MemoryScoreBook, MemoryTaskStore
from tasksubmit.testing.faults import CERTAIN, METHODS, FaultyTaskStore, StoreFault
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest
from tests.node.helpers import ALICE, BOB, OURS, Distrust
from tests.tiers import sampled

LIMIT_SECONDS = 300
"""Within which every task has ended as it should, of the test's clock, after the last command of a scenario."""

NEW, CANCELLED, DECLINED, SUCCEEDED = (
    TaskStatus.NEW,
    TaskStatus.CANCELLED,
    TaskStatus.DECLINED,
    TaskStatus.SUCCEEDED,
)

ONE_IN = 6
"""The share of the failures that are played in the default tier of tests; all are in the tier ``full``."""

_NODE_CODE = "/tasksubmit/node/"

Expected = Mapping[str, tuple[TaskStatus | None, TaskStatus | None]]


@frozen
class Call:
    """A call that a node makes: by whom, of which method, the which of this method, and the code that makes it."""

    node: str
    method: str
    number: int
    made_by: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.node}'s {self.method} #{self.number} by {' < '.join(self.made_by)}"


class WalkedStore(FaultyTaskStore):
    """A store that notes who calls it, and fails one call."""

    def __init__(self, node: str, calls: list[Call], failing: tuple[Call, StoreFault] | None) -> None:
        super().__init__()
        self._node = node
        self._noted = calls
        self._failing = failing
        self.has_failed = False

    @override
    def next_fault(self, method: str, *arguments: Any) -> StoreFault | None:
        if method == "confirm":
            return super().next_fault(method)
        call = Call(self._node, method, self.calls[method], tuple(_callers(sys._getframe(), arguments)))
        self._noted.append(call)
        if self._failing is not None and not self.has_failed:
            planned, fault = self._failing
            if (planned.node, planned.method, planned.number) == (self._node, method, call.number):
                self.has_failed = True
                return fault
        return None


def _callers(frame: FrameType | None, arguments: tuple[Any, ...]) -> Iterator[str]:
    """The functions of the node that make a call, the innermost first, and what happens by a change."""
    for argument in arguments:
        if isinstance(argument, Change):
            yield "+".join(event.name for event in argument.events) or "nothing"
    names: list[str] = []
    while frame is not None and len(names) < 6:
        code = frame.f_code
        if _NODE_CODE in code.co_filename and not code.co_name.startswith("<"):
            names.append(code.co_name)
        frame = frame.f_back
    yield from names


@implementer(IAcceptancePolicy)
class Decides:
    """A policy that decides by the description."""

    def decide(self, task: Task) -> bool | Refusal:
        """See `IAcceptancePolicy.decide`."""
        if task.description == "decline":
            return Refusal("not_accepting", "no time for that")
        return task.description != "leave"


@implementer(IAdmissionPolicy)
class Anybody:
    """A policy of which the node does not know that it is pure: known tasks are looked for before it is asked."""

    def admit(self, peer: Peer, request: SubmitRequest) -> None:
        """See `IAdmissionPolicy.admit`."""


class Scenario:
    """A life of two nodes, of which Alice submits and Bob receives.

    :cvar expected: the status in which each task ends, in her record and in his; None where retention removed it.
    :cvar scores: the ledgers of both in the end.
    :cvar is_first_contact: True if the nodes do not know yet that the other acknowledges. Then a submission whose
        answer was lost is not repeated: the task may end as CANCELLED, and Bob may not have it.
    """

    expected: ClassVar[Expected] = {"t1": (SUCCEEDED, SUCCEEDED)}
    scores: ClassVar[Mapping[Address, int]] = {ALICE: -1, BOB: 1}
    is_first_contact: ClassVar[bool] = False

    def alice(self, walk: Walk) -> dict[str, Any]:
        """Options of Alice's node."""
        return {}

    def bob(self, walk: Walk) -> dict[str, Any]:
        """Options of Bob's node."""
        return {}

    def play(self, walk: Walk) -> None:
        """Give the commands."""
        walk.submit("t1")


class Work(Scenario):
    """A task is accepted, executed with progress, and its results are scored in a score book."""

    @override
    def alice(self, walk: Walk) -> dict[str, Any]:
        return {"score_book": walk.book}

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": walk.executor, "acceptance": AcceptAll()}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.wait(lambda: walk.executor.running)
        for execution in walk.executor.running:
            execution.tell("halfway")
        walk.agents.advance(2)
        walk.finish()


class FirstContact(Work):
    """The same, between nodes that have not met before."""

    is_first_contact = True


class Questions(Work):
    """A task whose history, results and scores callers ask for, and whose submission is repeated."""

    @override
    def play(self, walk: Walk) -> None:
        super().play(walk)
        walk.submit("t1")
        key = TaskKey(Side.SUBMITTER, BOB, "t1")
        walk.persist(lambda: walk.alice.result(key), IllegalTransition)
        walk.persist(lambda: walk.alice.story(key))
        walk.persist(lambda: walk.alice.resolve("t1"))
        walk.persist(lambda: walk.alice.store.count_tasks(limit=10))
        walk.persist(lambda: walk.bob.scores())
        walk.persist(lambda: walk.bob.score(ALICE))


class Failure(Scenario):
    """An execution fails."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": FakeExecutor(ZeroDivisionError("no")), "acceptance": AcceptAll()}

    expected: ClassVar[Expected] = {"t1": (CANCELLED, CANCELLED)}
    scores: ClassVar[Mapping[Address, int]] = {}


class Cancellation(Scenario):
    """A task is cancelled during its execution."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": walk.executor, "acceptance": AcceptAll()}

    expected: ClassVar[Expected] = {"t1": (CANCELLED, CANCELLED)}
    scores: ClassVar[Mapping[Address, int]] = {}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.agents.advance(2)
        walk.persist(lambda: walk.alice.cancel(TaskKey(Side.SUBMITTER, BOB, "t1")), IllegalTransition)


class Withdrawal(Scenario):
    """A task is cancelled whose submission was lost on the way."""

    expected: ClassVar[Expected] = {"t1": (SUCCEEDED, SUCCEEDED), "t2": (CANCELLED, None)}

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": FakeExecutor("done"), "acceptance": AcceptAll()}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")  # which leaves a connection
        walk.agents.advance(5)
        walk.agents.delay(inf)
        walk.submit("t2")
        walk.agents.advance(5)
        walk.agents.cut()
        walk.agents.delay(0)
        walk.persist(lambda: walk.alice.cancel(TaskKey(Side.SUBMITTER, BOB, "t2")), IllegalTransition)
        walk.agents.heal()


class Decisions(Scenario):
    """A policy accepts one task, declines another, and leaves the third, which nobody accepts in time."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {
            "executor": FakeExecutor("done"),
            "acceptance": Decides(),
            "policy": Anybody(),
            "timeouts": Timeouts(accept_timeout=timedelta(seconds=10)),
        }

    expected: ClassVar[Expected] = {
        "accept": (SUCCEEDED, SUCCEEDED),
        "decline": (DECLINED, DECLINED),
        "leave": (CANCELLED, CANCELLED),
    }

    @override
    def play(self, walk: Walk) -> None:
        for task_id in self.expected:
            walk.submit(task_id, task_id)


class ByHand(Scenario):
    """A caller accepts a task, executes it, requeues it, executes it again and gives its results, all twice."""

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        walk.wait(lambda: walk.record(walk.bob, key) is not None)
        walk.persist(lambda: walk.bob.accept(key), IllegalTransition)
        walk.execute(key)
        walk.report(key, "progress", "halfway")
        walk.report(key, "put_back", "another time")
        walk.execute(key)
        walk.agents.hold(walk.bob)
        for sent in [walk.told(key, "complete", "done") for _ in range(2)]:
            sent.addErrback(lambda failure: failure.trap(IllegalTransition, StoreError))
        walk.agents.release(walk.bob)
        walk.report(key, "complete", "done")


class Restart(Scenario):
    """Bob restarts during an execution, and with a task that nobody has decided on; Alice with one to submit."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {
            "executor": walk.executor,
            "acceptance": Decides(),
            "timeouts": Timeouts(accept_timeout=timedelta(seconds=10)),
        }

    @override
    def alice(self, walk: Walk) -> dict[str, Any]:
        return {}

    expected: ClassVar[Expected] = {
        "t1": (SUCCEEDED, SUCCEEDED),
        "leave": (CANCELLED, CANCELLED),
        "t2": (SUCCEEDED, SUCCEEDED),
    }
    scores: ClassVar[Mapping[Address, int]] = {ALICE: -2, BOB: 2}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.submit("leave", "leave")
        walk.agents.advance(2)
        walk.agents.stop(walk.bob)
        walk.submit("t2")
        walk.agents.restart(walk.alice)
        walk.agents.start(walk.bob)
        walk.agents.advance(5)
        walk.finish()


class LostWorker(Scenario):
    """The lease of an execution runs out; the task is executed again."""

    expected: ClassVar[Expected] = {"t1": (SUCCEEDED, SUCCEEDED)}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        walk.wait(lambda: walk.record(walk.bob, key) is not None)
        walk.persist(lambda: walk.bob.accept(key), IllegalTransition)
        walk.execute(key, Lease(timedelta(seconds=5), max_attempts=3))
        walk.agents.advance(10)
        walk.execute(key)
        walk.report(key, "complete", "done")


class LostTrust(Scenario):
    """The submitter is not trusted for a while: one task is being executed and one waits, and both are held."""

    expected: ClassVar[Expected] = {"t1": (SUCCEEDED, SUCCEEDED), "t2": (SUCCEEDED, SUCCEEDED)}
    scores: ClassVar[Mapping[Address, int]] = {ALICE: -2, BOB: 2}

    def __init__(self) -> None:
        self.trust = Distrust()

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {
            "executor": walk.executor,
            "acceptance": AcceptAll(),
            "policy": self.trust,
            "stops_untrusted": True,
        }

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.submit("t2")
        walk.wait(lambda: walk.executor.running)
        self.trust.excluded.add(ALICE)
        walk.agents.advance(20)
        self.trust.excluded.clear()
        walk.agents.advance(2)
        walk.finish()


class Partition(Scenario):
    """Messages cannot be delivered for a while; a caller has them tried at once."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": walk.executor, "acceptance": AcceptAll()}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.agents.advance(2)
        walk.agents.cut()
        walk.finish()
        walk.agents.advance(20)
        walk.agents.heal()
        walk.bob.reload()


class Removal(Scenario):
    """Retention removes a task, of which a caller asks again."""

    @override
    def alice(self, walk: Walk) -> dict[str, Any]:
        return {"retention": Retention(timedelta(seconds=2), max_result_bytes=1000)}

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {
            "executor": FakeExecutor("done"),
            "acceptance": AcceptAll(),
            "retention": Retention(timedelta(seconds=2), max_result_bytes=1000),
        }

    expected: ClassVar[Expected] = {"t1": (None, None)}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.agents.advance(65)
        walk.persist(lambda: walk.alice.resolve("t1"), Exception)


class Clock(Scenario):
    """The wall clock is set during an execution."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {
            "executor": walk.executor,
            "acceptance": AcceptAll(),
            "wall": lambda: walk.agents.clock.seconds() + walk.clock_error,
        }

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.agents.advance(2)
        walk.clock_error = 7200.0
        walk.agents.advance(5)
        walk.finish()


class Switch(Scenario):
    """A caller disables the node, enables it, drains it, and starts it again."""

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"executor": walk.executor, "acceptance": AcceptAll()}

    @override
    def play(self, walk: Walk) -> None:
        walk.persist(lambda: walk.bob.set_enabled(False))
        walk.persist(lambda: walk.bob.set_enabled(True))
        walk.submit("t1")
        walk.agents.advance(2)
        walk.persist(lambda: walk.bob.drain(2.0))
        walk.agents.restart(walk.bob)
        walk.agents.advance(5)
        walk.finish()


class Age(Scenario):
    """Deliveries have an age limit, which none of them reaches."""

    @override
    def alice(self, walk: Walk) -> dict[str, Any]:
        return {"delivery_age_limit": timedelta(seconds=30)}

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"delivery_age_limit": timedelta(seconds=30)}

    expected: ClassVar[Expected] = {"t1": (CANCELLED, CANCELLED)}
    scores: ClassVar[Mapping[Address, int]] = {}

    @override
    def play(self, walk: Walk) -> None:
        walk.submit("t1")
        walk.agents.advance(40)


class Purge(Scenario):
    """Bob purges a task that has ended and abandons one in his queue; Alice abandons one that he executes."""

    expected: ClassVar[Expected] = {
        "t1": (SUCCEEDED, None),
        "t2": (CANCELLED, None),
        "t3": (None, CANCELLED),
    }

    @override
    def bob(self, walk: Walk) -> dict[str, Any]:
        return {"timeouts": Timeouts(accept_timeout=timedelta(hours=1))}

    @override
    def play(self, walk: Walk) -> None:
        keys = {task_id: TaskKey(Side.RECEIVER, ALICE, task_id) for task_id in self.expected}
        for task_id in ("t1", "t3", "t2"):
            walk.submit(task_id)
        walk.wait(lambda: all(walk.record(walk.bob, key) for key in keys.values()))
        for task_id in ("t1", "t3", "t2"):
            walk.persist(partial(walk.bob.accept, keys[task_id]), IllegalTransition)
        walk.execute(keys["t1"])
        walk.report(keys["t1"], "complete", "done")
        walk.execute(keys["t3"])
        walk.agents.advance(70)
        self.purge(walk, walk.alice, "t3", PurgeStep.NOTIFY, PurgeStep.ABANDON)
        self.purge(walk, walk.bob, "t2", PurgeStep.NOTIFY, PurgeStep.ABANDON)
        self.purge(walk, walk.bob, "t1", PurgeStep.REMOVE)
        walk.persist(lambda: Deferred.fromCoroutine(walk.bob.purger.step(PurgeStep.LIST, Selection())))

    def purge(self, walk: Walk, node: Node, task_id: str, *steps: PurgeStep) -> None:
        """Do the steps of a purge with one task, and give the messages time in between."""

        async def step(step: PurgeStep) -> None:
            await node.purger.step(step, await node.resolve(task_id))

        def begin(one: PurgeStep) -> Deferred[None]:
            return Deferred.fromCoroutine(step(one))

        for one in steps:
            walk.persist(partial(begin, one), UnknownTask)
            walk.agents.advance(70)


SCENARIOS = (
    Work,
    FirstContact,
    Questions,
    Failure,
    Cancellation,
    Withdrawal,
    Decisions,
    ByHand,
    Restart,
    LostWorker,
    LostTrust,
    Partition,
    Removal,
    Clock,
    Switch,
    Age,
    Purge,
)


class Walk:
    """A scenario that is played once.

    :param failing: the call that fails, and the way in which it does; None for none.
    """

    def __init__(self, scenario: type[Scenario], failing: tuple[Call, StoreFault] | None = None) -> None:
        self.scenario = scenario()
        self.calls: list[Call] = []
        self.agents = Agents()
        self.executor = FakeExecutor()
        self.book = MemoryScoreBook()
        self.clock_error = 0.0
        self.is_finishing = False
        self.stores = [WalkedStore(node, self.calls, failing) for node in ("alice", "bob")]
        if not self.scenario.is_first_contact:
            for store, own, peer in zip(self.stores, (ALICE, BOB), (BOB, ALICE), strict=True):
                store.open(own)
                MemoryTaskStore.remember_features(store, peer, OURS)
        alice, bob = self.scenario.alice(self), self.scenario.bob(self)
        self.alice = self.agents.node(ALICE, store=self.stores[0], **alice)
        self.bob = self.agents.node(BOB, store=self.stores[1], **bob)

    @classmethod
    def played(cls, scenario: type[Scenario]) -> Walk:
        """A scenario that was played without a fault."""
        walk = cls(scenario)
        walk.play()
        return walk

    def play(self) -> list[str]:
        """Play it; returns what is wrong in the end."""
        try:
            self.scenario.play(self)
            self.wait(lambda: not self.problems())
            return self.problems()
        except Exception as error:
            return [repr(error), *self.problems()]
        finally:
            self.agents.flush_errors()
            try:
                self.agents.close()
            except AssertionError as error:
                return [str(error)]

    # --- commands ------------------------------------------------------------------------------------------------

    def persist(self, command: Callable[[], Deferred[Any]], *done: type[Exception]) -> None:
        """Give a command, again and again while the store is at fault; ``done`` says that it was carried out."""
        for _ in range(10):
            try:
                self.agents.done(command())
                return
            except done:
                return
            except StoreError:
                self.agents.advance(1)
        raise AssertionError("a command still fails")

    def submit(self, task_id: str, description: str = "work") -> None:
        """Have Alice submit a task."""
        self.persist(lambda: self.alice.submit(BOB, description, task_id=task_id))

    def execute(self, key: TaskKey, lease: Lease | None = None) -> None:
        """Have Bob execute a task, which may have to be requeued first when an attempt is in doubt."""
        for _ in range(30):
            self.persist(lambda: self.bob.execute(key, lease), IllegalTransition, EmptyQueue)
            task = self.record(self.bob, key)
            if task is not None and task.status is TaskStatus.EXECUTING and task.put_back_at is None:
                return
            self.agents.advance(1)
        raise AssertionError(f"{key.task_id} is not executed")

    def told(self, key: TaskKey, verb: str, text: str) -> Deferred[Task]:
        """Have the worker of the current attempt at a task tell Bob something about it."""
        task = self.record(self.bob, key)
        attempt = None if task is None else task.attempt
        return Deferred.fromCoroutine(getattr(self.bob._inbox, verb)(key, text, attempt=attempt))

    def report(self, key: TaskKey, verb: str, text: str) -> None:
        """The same, until Bob knows."""
        self.persist(lambda: self.told(key, verb, text), IllegalTransition)

    def finish(self) -> None:
        """End what is being executed, and from now on whatever is begun."""
        self.is_finishing = True
        for execution in self.executor.running:
            execution.finish()
        self.agents.flush()

    def wait(self, condition: Callable[[], object]) -> None:
        """Let time pass until something is so, for as long as it may take."""
        for _ in range(LIMIT_SECONDS):
            self.agents.flush()
            if self.is_finishing:
                self.finish()
            if condition():
                return
            self.agents.advance(1)

    # --- what is wrong -------------------------------------------------------------------------------------------

    def record(self, node: Node, key: TaskKey) -> Task | None:
        """A record, read past all faults."""
        store = self.stores[node is self.bob]
        found: list[Task | None] = []
        MemoryTaskStore.get(store, key).addCallback(found.append)
        return found[0]

    def problems(self) -> list[str]:
        """Everything that is not as it should be in the end."""
        is_cancelled = self.scenario.is_first_contact and all(self._is_unconfirmed(*key) for key in self._keys())
        return [] if is_cancelled else [*self._wrong_ends(), *self._left()]

    def _keys(self) -> Iterator[tuple[TaskKey, TaskKey]]:
        """The keys of each task in Alice's records and in Bob's."""
        for task_id in self.scenario.expected:
            yield TaskKey(Side.SUBMITTER, BOB, task_id), TaskKey(Side.RECEIVER, ALICE, task_id)

    def _is_unconfirmed(self, submitted: TaskKey, received: TaskKey) -> bool:
        """True if the task has ended because Alice was not told whether it had arrived."""
        hers, his = self.record(self.alice, submitted), self.record(self.bob, received)
        return hers is not None and hers.status is CANCELLED and (his is None or his.status is CANCELLED)

    def _wrong_ends(self) -> Iterator[str]:
        for keys, expected in zip(self._keys(), self.scenario.expected.values(), strict=True):
            for node, key, status in zip((self.alice, self.bob), keys, expected, strict=True):
                task = self.record(node, key)
                if (task.status if task else None) is not status:
                    yield f"the {key.side.value}'s {key.task_id} is {task and task.status}, not {status}"

    def _left(self) -> Iterator[str]:
        for node, store in ((self.alice, self.stores[0]), (self.bob, self.stores[1])):
            read: list[Any] = []
            MemoryTaskStore.owed_peers(store).addCallback(read.append)
            MemoryTaskStore.scores(store).addCallback(read.append)
            MemoryTaskStore.load(store).addCallback(read.append)
            MemoryTaskStore.owed_bookings(store, 1).addCallback(read.append)
            MemoryTaskStore.peer_features(store).addCallback(read.append)
            owed, scores, load, bookings, features = read
            if features != node._delivery._clients._features:
                yield f"{node.address} remembers the features {features}"
            if owed or bookings:
                yield f"{node.address} still has something to deliver"
            if dict(scores) != dict(self.scenario.scores):
                yield f"{node.address} has the scores {scores}"
            if store.is_in_doubt or node._records.doubts._keys:
                yield f"{node.address} is in doubt"
            if node.retrying:
                yield f"{node.address} retries {node.retrying}"
            counted = {peer.address: (peer.open, peer.records, peer.stored_bytes) for peer in node.load.peers}
            stored = {peer.address: (0, peer.records, peer.stored_bytes) for peer in load}
            if any((peer.new, peer.queued, peer.held) != (0, 0, 0) for peer in node.load.peers):
                yield f"{node.address} has counted what does not wait: {node.load.peers}"
            if node.load.queued or node.load.undecided or {**counted, **stored} != counted:
                yield f"{node.address} has counted {node.load.peers}, and stored {load}"
            if not node.is_enabled:
                yield f"{node.address} is disabled"


Code = tuple[str, str, tuple[str, ...]]
"""The code that makes a call: the node, the method, and the functions."""

_calls: dict[type[Scenario], dict[Code, Call]] = {}


def calls_of(scenario: type[Scenario]) -> dict[Code, Call]:
    """The first call that each code makes; a scenario is played once for that."""
    if scenario in _calls:
        return _calls[scenario]
    walk = Walk(scenario)
    problems = walk.play()
    assert not problems, f"{scenario.__name__} without a fault: {problems}"
    first: dict[Code, Call] = {}
    for call in walk.calls:
        first.setdefault((call.node, call.method, call.made_by), call)
    _calls[scenario] = first
    return first


def new_calls_of(scenario: type[Scenario]) -> list[Call]:
    """Those that no scenario of the same kind before this one makes."""
    known: set[Code] = set()
    for earlier in SCENARIOS[: SCENARIOS.index(scenario)]:
        if earlier.is_first_contact == scenario.is_first_contact:
            known.update(calls_of(earlier))
    return [call for code, call in calls_of(scenario).items() if code not in known]


def faults_of(call: Call) -> Iterator[StoreFault]:
    """The ways in which a call can fail."""
    return iter([StoreFault.ROLLED_BACK] if call.method in CERTAIN else StoreFault)


class StoreCallTests(SynchronousTestCase):
    """Each call fails once, in each way; a test for each scenario is below."""

    def test_every_method(self) -> None:
        """The scenarios call every method of the interface; `confirm` is called after a fault alone, and
        `disk_space` where there is a disk."""
        called = {call.method for scenario in SCENARIOS for call in Walk.played(scenario).calls}
        self.assertEqual(called, METHODS - {"confirm", "disk_space"})
        self.flushLoggedErrors()

    def test_confirm_fails(self) -> None:
        """That a doubt cannot be ended at the first attempt delays the tasks, and no more."""
        for call in sampled(calls_of(Work).values(), ONE_IN):
            if call.method in ("create", "apply"):
                for fault in (StoreFault.UNCERTAIN_COMMITTED, StoreFault.UNCERTAIN_ROLLED_BACK):
                    walk = Walk(Work, (call, fault))
                    for store in walk.stores:
                        store.fail("confirm")
                        store.fail("confirm")
                    self.assertEqual(walk.play(), [], f"{call} {fault.name}")
        self.flushLoggedErrors()


def _test(scenario: type[Scenario]) -> Callable[[StoreCallTests], None]:
    def test(case: StoreCallTests) -> None:
        found = []
        failures = [(call, fault) for call in new_calls_of(scenario) for fault in faults_of(call)]
        for call, fault in sampled(failures, ONE_IN):
            walk = Walk(scenario, (call, fault))
            problems = walk.play()
            if not any(store.has_failed for store in walk.stores):
                problems = ["the call was not made", *problems]
            if problems:
                found.append(f"{call} {fault.name}: {problems}")
        case.flushLoggedErrors()
        if found:
            case.fail("\n".join([f"{len(found)} problems:", *found]))

    test.__doc__ = (scenario.__doc__ or "").strip()
    return test


for _scenario in SCENARIOS:
    setattr(StoreCallTests, f"test_{_scenario.__name__.lower()}", _test(_scenario))
