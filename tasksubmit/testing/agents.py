"""Agents in memory: nodes and scripted peers on one network and one clock, for one test.

`Agents` is all that a test of an application needs to begin with. Nothing happens by itself: time passes and bytes move
while the test waits for something (`Agents.done`), lets time pass (`Agents.advance`) or brings the network to rest
(`Agents.flush`).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Collection, Coroutine, Iterable
from inspect import iscoroutine
from random import Random
from types import TracebackType
from typing import Any, TypeAlias, TypeVar
from unittest import TestCase

from attrs import define
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tasksubmit.interfaces import IPeers, ITaskStore
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.testing.clocks import ProcessClock
from tasksubmit.testing.directory import AgentPeers
from tasksubmit.testing.logged import LoggedErrors
from tasksubmit.testing.network import ANY_DELAY, MemoryNetwork
from tasksubmit.testing.peers import Behaviour, ScriptedPeer
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.validation import BYTES, DELAY, FUNCTION, TEXT, Kind, checked, instance_of, optional, provides, to_tuple
from tasksubmit.wire.address import Address, to_address_or_none, to_addresses

T = TypeVar("T")
Who: TypeAlias = "Address | Node | ScriptedPeer"
"""An agent of the test."""

START_SECONDS = 1_800_000_000.0
"""When a test begins, in seconds since 1970: January 2027."""

PATIENCE_SECONDS = 30.0
"""For how long a test waits for something, by the clock of the test; less than a task waits to be accepted."""

_STOP_SECONDS = 300.0


_TASK = instance_of(SubmittedTask, "a SubmittedTask, such as Node.submit gives")
_NODE = instance_of(Node, "a Node, such as Agents.node gives")
_WHO: Kind[Who] = Kind(
    "an Address, a Node or a ScriptedPeer", lambda value: isinstance(value, (Address, Node, ScriptedPeer))
)
_WORK: Kind[Any] = Kind("a Deferred or a coroutine", lambda value: isinstance(value, Deferred) or iscoroutine(value))
_ERROR_TYPE: Kind[Any] = Kind(
    "a class of exceptions", lambda value: isinstance(value, type) and issubclass(value, BaseException)
)


@define(eq=False)
class _Place:
    """Where a node lives: what outlives one process of it, and the process.

    :ivar make: makes the next process.
    """

    make: Callable[[ITaskStore, ProcessClock], Node]
    store: ITaskStore
    clock: ProcessClock
    node: Node


class Agents:
    """Every agent of a test, the network between them, and the clock.

    Made by the test, which closes it: as a context manager, or by giving it the test case.

    :param test: the test case that `close` is a clean-up of, whichever ``unittest`` or ``twisted.trial`` class it has.
    :param clock: the clock to use; by default one that begins at `START_SECONDS`.
    :ivar clock: all time of the test.
    :ivar network: what the agents talk over; applications may listen and dial on it, too.
    :ivar random: what task ids and delays come from; the same in each run.
    """

    @checked(test=optional(instance_of(TestCase)), clock=optional(instance_of(Clock)))
    def __init__(self, test: TestCase | None = None, *, clock: Clock | None = None) -> None:
        self.clock = _starting_clock() if clock is None else clock
        self.network = MemoryNetwork(self.clock)
        self.random = Random(1)
        self._test = test
        self._places: dict[Address, _Place] = {}
        self._peers: dict[Address, ScriptedPeer] = {}
        self._stores: list[ITaskStore] = []
        self._is_closed = False
        self._logged = LoggedErrors()
        if test is not None:
            test.addCleanup(self.close)

    # --- who there is --------------------------------------------------------------------------------------------

    @checked(store=optional(provides(ITaskStore)), make=FUNCTION)
    def node(
        self,
        address: Address | str | None = None,
        *,
        store: ITaskStore | None = None,
        peers: Iterable[Address | str] | IPeers | None = None,
        make: Callable[..., Node] = Node,
        **options: Any,
    ) -> Node:
        """Make a node and start it.

        :param address: its address; made up if it is left out. That of a node which was stopped may be given again.
        :param store: where it keeps its tasks, by default a `MemoryTaskStore`; one that answers from another thread is
            not for this clock.
        :param peers: whom it knows, by default every other agent of the test, those too that are still to come.
        :param make: makes the node, when that is not the class itself.
        :param options: what else `Node` takes.
        """
        address = self._free(address)
        if peers is None:
            peers = AgentPeers(self.network, address, lambda: self._others(address))
        elif not IPeers.providedBy(peers):
            known = to_addresses(peers, "peers")
            peers = AgentPeers(self.network, address, lambda: known)

        def process(store: ITaskStore, clock: ProcessClock) -> Node:
            given = {
                "clock": clock,
                "listen": {str(address): self.network.server_endpoint(str(address))},
                "random": self.random,
                **options,
            }
            return make(address, store, peers, **given)

        store = store if store is not None else MemoryTaskStore()
        self._stores.append(store)
        clock = ProcessClock(self.clock)
        place = self._places[address] = _Place(process, store, clock, process(store, clock))
        place.node.startService()
        return place.node

    @checked(behaviour=instance_of(Behaviour))
    def peer(self, behaviour: Behaviour, address: Address | str | None = None) -> ScriptedPeer:
        """Put a scripted peer on the network, which does as its `Behaviour` says.

        :param address: its address; made up if it is left out.
        """
        address = self._free(address)
        peer = self._peers[address] = ScriptedPeer(address, behaviour, self.network)
        return peer

    def addresses(self) -> Collection[Address]:
        """The address of every agent of the test."""
        return [*self._places, *self._peers]

    def _others(self, own: Address) -> Collection[Address]:
        return [address for address in self.addresses() if address != own]

    def _free(self, address: Address | str | None) -> Address:
        address = to_address_or_none(address, "address")
        taken = self.addresses()
        if address in self._places and not self._places[address].node.running:
            return address
        if address is None:
            return next(made for n in range(1, 2**16) if (made := Address(0, n)) not in taken)
        if address in taken:
            raise ValueError(f"there is an agent {address} already")
        return address

    # --- what happens --------------------------------------------------------------------------------------------

    @checked(work=_WORK, seconds=DELAY)
    def done(self, work: Deferred[T] | Coroutine[Any, Any, T], seconds: float = PATIENCE_SECONDS) -> T:
        """Give the result of a Deferred or a coroutine, letting bytes move and time pass for as long as it takes.

        What it fails with is raised.

        :param seconds: for how long at most, by the clock of the test.
        :raises AssertionError: when there is no result by then; it says where the tasks stand.
        """
        outcome: list[Any] = []

        def keep(result: T) -> T:
            outcome.append(result)
            return result

        deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        deferred.addCallbacks(keep, outcome.append)
        self._until(lambda: bool(outcome), seconds)
        if not outcome:
            raise AssertionError(f"no result after {seconds:g} seconds of the test's clock; {self._standing()}")
        [result] = outcome
        if isinstance(result, Failure):
            result.raiseException()
        return result  # type: ignore[no-any-return]  # what the Deferred fired with

    @checked(seconds=DELAY)
    def advance(self, seconds: float) -> None:
        """Let time pass, stopping wherever something is due, and let the network come to rest each time."""
        end = self.clock.seconds() + seconds
        self._until(lambda: False, seconds)
        self.clock.advance(max(0.0, end - self.clock.seconds()))
        self.flush()

    def flush(self) -> None:
        """Let the network come to rest, and no time pass."""
        self.network.flush()

    def _until(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Go on from one thing that is due to the next."""
        end = self.clock.seconds() + seconds
        self.flush()
        while not is_over():
            due = min((call.getTime() for call in self.clock.getDelayedCalls()), default=float("inf"))
            due = min(due, self.network.next_arrival())
            if due > end:
                return
            self.clock.advance(max(0.0, due - self.clock.seconds()))
            self.flush()

    def _standing(self) -> str:
        """Where all tasks stand that are not over, for people."""
        listed = [
            f"{task.side.value} {address} has {task.task_id} as {task.status}"
            for address, place in self._places.items()
            if isinstance(place.store, MemoryTaskStore) and place.node.running
            for task in _now(place.store.list_tasks(limit=20))
            if not task.is_settled
        ]
        return "; ".join(listed) or "no task is under way"

    # --- the life of a task --------------------------------------------------------------------------------------

    @checked(task=_TASK)
    def submitted(self, task: SubmittedTask) -> Task:
        """The submitter's record of a task."""
        return self._record(task.node.address, task.key)

    @checked(task=_TASK)
    def received(self, task: SubmittedTask) -> Task:
        """The receiver's record of a task."""
        return self._record(task.key.peer, TaskKey(Side.RECEIVER, task.node.address, task.task_id))

    @checked(task=_TASK)
    def accept(self, task: SubmittedTask) -> Task:
        """Have the receiver accept a task; gives its record."""
        return self.done(self._node(task.key.peer).accept(self.received(task).key))

    @checked(task=_TASK)
    def execute(self, task: SubmittedTask) -> Task:
        """Have the receiver begin a task, which it accepts before if it has to; gives its record."""
        if self.received(task).status is TaskStatus.NEW:
            self.accept(task)
        return self.done(self._node(task.key.peer).execute(self.received(task).key))

    @checked(task=_TASK, text=TEXT, filename=TEXT, content=BYTES)
    def complete(self, task: SubmittedTask, text: str = "", *, filename: str = "", content: bytes = b"") -> Task:
        """Have the receiver complete a task, which it begins before if it has to; gives its record.

        :param text: the results, if they are text.
        :param filename: the name of the results, if they are a file, and ``content`` the bytes of it.
        """
        if self.received(task).status is not TaskStatus.EXECUTING:
            self.execute(task)
        key = self.received(task).key
        return self.done(self._node(task.key.peer).send_results(key, text, filename=filename, content=content))

    def _record(self, address: Address, key: TaskKey) -> Task:
        record = self.done(self._node(address).store.get(key))
        assert record is not None, f"{address} has no task {key.task_id}; has the submission arrived?"
        return record

    def _node(self, address: Address) -> Node:
        assert address in self._places, f"{address} is not a node of this test"
        return self._places[address].node

    # --- trouble -------------------------------------------------------------------------------------------------

    def cut(self, one: Who | Iterable[Who] | None = None, other: Who | Iterable[Who] | None = None) -> None:
        """Part the network: connections between the two break, and dials from one to the other fail, until `heal`.

        :param one: an agent, or several; None for all.
        :param other: the same.
        """
        self.network.part(_names(one, "one"), _names(other, "other"))

    def heal(self) -> None:
        """Undo every `cut`."""
        self.network.heal()

    @checked(seconds=ANY_DELAY)
    def delay(
        self, seconds: float, one: Who | Iterable[Who] | None = None, other: Who | Iterable[Who] | None = None
    ) -> None:
        """Have whatever goes between the two, in either direction, arrive so many seconds of the clock later.

        :param seconds: 0 for at once; ``math.inf`` for not at all, with nobody told, until it is something else.
        :param one: an agent, or several; None for all.
        :param other: the same.
        """
        self.network.delay(seconds, _names(one, "one"), _names(other, "other"))

    @checked(node=_NODE)
    def hold(self, node: Node) -> None:
        """Have the store of a node commit nothing more, so that nothing more is answered, until `release`."""
        self._memory(node).hold_commits()

    @checked(node=_NODE)
    def release(self, node: Node) -> None:
        """Have the store of a node commit again, and what waited first."""
        self._memory(node).release_commits()
        self.flush()

    @checked(node=_NODE)
    def stop(self, node: Node) -> None:
        """Stop a node in good order."""
        self.done(node.stopService(), _STOP_SECONDS)

    @checked(node=_NODE)
    def crash(self, node: Node) -> None:
        """Kill the process of a node: what it had not committed is gone, and this `Node` does nothing any more.

        Its connections break; what waited for its Deferreds is never told.
        """
        store = self._memory(node)
        place = self._places[node.address]
        self.network.abandon(str(node.address))
        place.clock.kill()
        place.store = store.crash()
        self._stores.append(place.store)
        self.flush()

    @checked(node=_NODE)
    def start(self, node: Node) -> Node:
        """Start a node that was stopped, or that crashed.

        :returns: the node that goes on: the same one after a stop, a new one after a crash.
        """
        place = self._places[node.address]
        if place.clock.is_dead:
            place.clock = ProcessClock(self.clock)
            place.node = place.make(place.store, place.clock)
        place.node.startService()
        return place.node

    @checked(node=_NODE)
    def restart(self, node: Node) -> None:
        """Stop a node in good order, and start it again."""
        self.stop(node)
        self.start(node)

    def _memory(self, node: Node) -> MemoryTaskStore:
        store = self._places[node.address].store
        if not isinstance(store, MemoryTaskStore):
            raise TypeError(f"only a node on a MemoryTaskStore can do that, not one on {store!r}")
        return store

    # --- the end -------------------------------------------------------------------------------------------------

    def flush_errors(self, *errors: type[Exception]) -> list[Failure]:
        """Give the failures that were logged until now, and forget them: they were expected.

        A test case of ``twisted.trial`` that `Agents` was made for forgets them, too.

        :param errors: of which types; if none is given all are forgotten, those too that were logged as text alone.
        """
        for error in errors:
            _ERROR_TYPE.check("errors: each", error)
        forget = getattr(self._test, "flushLoggedErrors", None)
        if forget is not None:
            forget(*errors)
        return self._logged.flush(*errors)

    def close(self) -> None:
        """Stop the nodes, and see that nothing is left over; closing again does nothing.

        :raises AssertionError: when a node does not stop, something is left on the clock or the network, or an error
            was logged.
        """
        if self._is_closed:
            return
        self._is_closed = True
        problems = [*self._stop_all(), *self._left_over()]
        gc.collect(1)  # what failed and was not looked at is logged when it is collected
        problems += self._logged.close()
        if problems:
            raise AssertionError("\n".join(problems))

    def _stop_all(self) -> Iterable[str]:
        self.network.heal()
        self.network.delay(0)
        for peer in self._peers.values():
            peer.stop()
        running = {
            address: place.node
            for address, place in self._places.items()
            if place.node.running and not place.clock.is_dead
        }
        for address in running:
            if isinstance(store := self._places[address].store, MemoryTaskStore):
                store.release_commits()
        stopping = {address: node.stopService() for address, node in running.items()}
        is_over = gatherResults(list(stopping.values()), consumeErrors=True)
        is_over.addErrback(lambda _: None)
        self._until(lambda: is_over.called, _STOP_SECONDS)
        for address, stopped in stopping.items():
            if not stopped.called:
                yield f"node {address} does not stop: something that it began does not end when it is cancelled"
            stopped.addErrback(lambda failure: self._logged.add(failure))

    def _left_over(self) -> Iterable[str]:
        self.network.cut_all()
        for store in self._stores:
            if isinstance(store, MemoryTaskStore):
                store.discard()
        for name in self.network.ports:
            yield f"left over on the network: something listens on {name}"
        for call in self.clock.getDelayedCalls():
            yield f"left over on the clock: {call}"
            call.cancel()

    def __enter__(self) -> Agents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except AssertionError as left:
            if error is None:
                raise
            if sys.version_info >= (3, 11):
                error.add_note(str(left))


def _starting_clock() -> Clock:
    clock = Clock()
    clock.advance(START_SECONDS)
    return clock


def _names(who: Who | Iterable[Who] | None, name: str) -> list[str] | None:
    """What agents are called on the network."""
    if who is None:
        return None
    some = to_tuple([who] if isinstance(who, (Address, Node, ScriptedPeer)) else who, name, _WHO)
    return [str(agent if isinstance(agent, Address) else agent.address) for agent in some]


def _now(deferred: Deferred[T]) -> T:
    """The result of what is there at once."""
    results: list[T] = []
    deferred.addCallback(results.append)
    [result] = results
    return result
