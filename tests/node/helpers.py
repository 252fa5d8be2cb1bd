"""What the tests of the node share: nodes on a network in memory, and peers that follow a script."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.interfaces import IPeerAdmissionPolicy, Peer, Refusal
from tasksubmit.lifecycle.change import Change, Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.stores.results import MemoryResultFiles
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing import Agents, Deployed, MemoryNetwork, MemoryTaskStore, Refusing
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import (
    ACK,
    PERSISTENT,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tests.protocol.support import RawFactory, RawPeer

T = TypeVar("T")

ALICE = Address.parse("0:0000.0000.0001")
BOB = Address.parse("0:0000.0000.0002")
CAROL = Address.parse("0:0000.0000.0003")
OURS = frozenset({PERSISTENT, ACK})
"""What a node of ours announces."""

Message = SubmitRequest | SubmitResponse | TaskStatusUpdate | TaskResultMessage
Script = Callable[[RawPeer, Frame], None]


def request(task_id: str = "t1", description: str = "work", by: Address = ALICE, **fields: Any) -> SubmitRequest:
    """Make a submission to Bob as a deployed peer makes it."""
    return SubmitRequest(task_id, description, str(by), str(BOB), **fields)


def results(task_id: str, text: str = "done", **fields: Any) -> TaskResultMessage:
    """Make results of a task."""
    return TaskResultMessage(task_id, "text", text, completed_at="1970-01-01T00:20:00Z", **fields)


def task_id_of(frame: Frame) -> str:
    """The task that a frame of any type is about."""
    return str(json.loads(frame.payload)["task_id"])


def refuse(code: str, retry_after_s: int = 0) -> Script:
    """Answer every frame 400 with a code."""
    refusing = Refusing(code, retry_after_s=retry_after_s)
    return lambda peer, frame: peer.send(refusing.response(task_id_of(frame)))


def deployed(peer: RawPeer, frame: Frame) -> None:
    """Do as deployed peers do: handle the first frame of a connection, answer only a submission, close."""
    if len(peer.frames) == 1:
        if frame.type == SubmitRequest.frame_type:
            peer.send(Deployed().response(task_id_of(frame)))
        peer.close()


class SlowStore(MemoryTaskStore):
    """A store in memory whose answers can wait.

    While it `is_slow` the answers of its `slow_methods` wait for `release`; what was asked for is done at once. With
    `holds_changes` a change is carried out by `release` only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_slow = False
        self.slow_methods: Collection[str] = ("apply", "ready_deliveries")
        self.holds_changes = False
        self._waiting: list[Callable[[], object]] = []

    def _later(self, method: str, answer: Deferred[T]) -> Deferred[T]:
        if not self.is_slow or method not in self.slow_methods:
            return answer
        later: Deferred[T] = Deferred()
        self._waiting.append(lambda: answer.chainDeferred(later))
        return later

    @override
    def apply(self, change: Change) -> Deferred[Task]:
        if self.holds_changes:
            later: Deferred[Task] = Deferred()
            apply = super().apply
            self._waiting.append(lambda: apply(change).chainDeferred(later))
            return later
        return self._later("apply", super().apply(change))

    @override
    def ready_deliveries(
        self,
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        return self._later("ready_deliveries", super().ready_deliveries(peer, now, limit, skip, kinds, sides))

    @override
    def next_delivery(
        self,
        peer: Address,
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[datetime | None]:
        return self._later("next_delivery", super().next_delivery(peer, kinds, sides))

    @override
    def get(self, key: TaskKey) -> Deferred[Task | None]:
        return self._later("get", super().get(key))

    @override
    def close(self) -> Deferred[None]:
        """Stay open, so that what a stopped node has can be seen."""
        return succeed(None)

    def release_one(self) -> None:
        """Give the answer that has waited longest, and no other."""
        self._waiting.pop(0)()

    def release(self) -> None:
        """Give every answer that waits, and those to what is asked for in consequence."""
        self.is_slow = self.holds_changes = False
        while self._waiting:
            self._waiting.pop(0)()


@implementer(IPeerAdmissionPolicy)
@define
class Distrust:
    """Admits everybody but those whom a test puts in."""

    excluded: set[Address] = field(factory=set)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        return Refusal("not_a_peer", "no") if self.excludes(Address.parse(request.from_addr)) else None

    def excludes(self, address: Address) -> bool:
        """See `IPeerAdmissionPolicy.excludes`."""
        return address in self.excluded


class NodeTestCase(SynchronousTestCase):
    """A clock, a network, and nodes on it; at the end the nodes are stopped, and nothing may be left of them."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.agents = Agents(clock=self.clock)
        self.nodes: list[Node] = []
        self.addCleanup(self._finish)

    @property
    def network(self) -> MemoryNetwork:
        """What the nodes talk over."""
        return self.agents.network

    def make_node(self, own: Address, *peers: Address, store: SQLiteTaskStore | None = None, **options: Any) -> Node:
        """Start a node that has these peers."""
        ways = {peer: self.network.client_endpoint(str(peer), str(own)) for peer in peers}
        node = self.agents.node(own, store=store, peers=StaticPeers(ways), clock=self.clock, **options)
        self.nodes.append(node)
        return node

    def listen(self, name: Address, script: Script) -> RawFactory:
        """Put a scripted peer in the place of a node."""
        factory = RawFactory(script)
        self.successResultOf(self.network.server_endpoint(str(name)).listen(factory))
        return factory

    def say(self, to: Address, *messages: Message, then_close: bool = False) -> RawPeer:
        """Dial a node and send it messages on one connection."""
        factory = RawFactory()
        dialled = self.network.client_endpoint(str(to)).connect(factory)
        self.network.flush()
        self.successResultOf(dialled)
        peer = factory.peers[0]
        for message in messages:
            peer.send(message.to_frame().encode())
        if then_close:
            peer.close()
        self.network.flush()
        return peer

    def ask(self, to: Address, message: Message) -> SubmitResponse:
        """Dial a node, send one message, and give the one answer to it."""
        peer = self.say(to, message)
        self.assertEqual(len(peer.answers), 1)
        peer.close()
        self.network.flush()
        return peer.answers[0]

    def done(self, deferred: Deferred[T]) -> T:
        """Let the network come to rest; what has the Deferred fired with?"""
        self.network.flush()
        return self.successResultOf(deferred)

    def failed(self, deferred: Deferred[Any], *errors: type[Exception]) -> Exception:
        """Let the network come to rest; with which of the `errors` has the Deferred failed?"""
        self.network.flush()
        failure = self.failureResultOf(deferred, *errors)
        assert isinstance(failure.value, Exception)
        return failure.value

    def advance(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass in steps, and the network come to rest after each."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            self.network.flush()

    def task(self, node: Node, key: TaskKey) -> Task:
        """The record as the node has it."""
        task = self.successResultOf(node.store.get(key))
        assert task is not None
        return task

    def owed(self, node: Node, key: TaskKey) -> list[Delivery]:
        """What the node still owes for a task."""
        return self.successResultOf(node.store.deliveries_of(key))

    def tasks(self, node: Node) -> list[Task]:
        """Every record that the node has."""
        return self.successResultOf(node.store.list_tasks(side=None, status=None, peer=None, before=None, limit=1000))

    def files(self, node: Node) -> list[str]:
        """Every result that the node keeps, named by a record or not."""
        assert isinstance(node.store, SQLiteTaskStore)
        assert isinstance(node.store._results, MemoryResultFiles)
        return list(node.store._results._contents)

    def scores(self, node: Node) -> dict[Address, int]:
        """The ledger of a node."""
        scores = self.successResultOf(node.store.scores())
        return dict(scores)

    def stop(self, node: Node) -> None:
        """Stop a node, and see that it ends and leaves nothing waiting."""
        stopped = node.stopService()
        self.network.flush()
        self.successResultOf(stopped)
        self.assertNotIn(node.factory, [port.factory for port in self.network.ports.values()])
        self.assertEqual(len(node._live), 0)
        self.assertEqual(node._records._locks, {})
        self.assertEqual((node._delivery._work, node._delivery._owed), (set(), {}))
        self.assertEqual(node.factory.connections, set())

    def assert_idle(self, *nodes: Node) -> None:
        """Nothing is owed, nobody waits, and no memory is kept of it."""
        for node in nodes:
            self.assertEqual(self.successResultOf(node.store.owed_peers()), [])
            self.assertEqual(node._delivery._owed, {})
            self.assertEqual(node._delivery._work, set())
            self.assertEqual(node._records._locks, {})
            self.assertEqual(len(node._live), 0)

    def _finish(self) -> None:
        for node in self.nodes:
            if node.running:
                self.stop(node)
        for port in list(self.network.ports.values()):  # of those in the place of nodes
            port.stopListening()
        self.agents.flush_errors()  # trial looks at them itself
        self.agents.close()


class PairTestCase(NodeTestCase):
    """Two nodes that know each other: Alice submits, Bob receives."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.make_node(ALICE, BOB)
        self.bob = self.make_node(BOB, ALICE)

    def submit(self, description: str = "work", **options: Any) -> tuple[SubmittedTask, TaskKey]:
        """Have Alice submit a task; gives her handle, and the key of Bob's record."""
        handle = self.done(self.alice.submit(BOB, description, **options))
        return handle, TaskKey(Side.RECEIVER, ALICE, handle.task_id)

    def executing(self, description: str = "work", **options: Any) -> tuple[SubmittedTask, TaskKey]:
        """Have Alice submit a task and Bob begin it."""
        handle, key = self.submit(description, **options)
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key))
        return handle, key

    def statuses(self, handle: SubmittedTask) -> tuple[TaskStatus, TaskStatus]:
        """Where a task stands in Alice's record, and in Bob's."""
        received = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
        return self.task(self.alice, handle.key).status, self.task(self.bob, received).status
