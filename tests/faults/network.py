"""What the tests of this package share: wires that cut, hold back and record what passes between nodes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IListeningPort,
    IPullProducer,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.network import MemoryClientEndpoint, MemoryNetwork
from tasksubmit.wire.address import Address
from tests.node.helpers import ALICE, NodeTestCase, PairTestCase
from tests.processes import LONGEST_SECONDS

RESULT = "ok"
"""What Bob's work comes to."""


class Manner(Enum):
    """How a wire is cut."""

    LOST = "both ends see the connection lost"
    CLOSED = "both ends see it closed cleanly, as the end of a process does it"
    SILENT = "nothing passes any more, and nobody is told"
    MUTE = "what is asked arrives, no answer does, and nobody is told"


class End(Protocol):
    """One of the two ends of a connection through the wires. What it hears is for the other to say.

    :ivar heard: all that its party ever wrote.
    :ivar is_silent: whether what it hears is lost.
    :ivar is_over: whether its connection was made and is gone.
    """

    transport: Any
    other: End

    def __init__(self, wires: Wires, on_connected: Callable[[], None]) -> None:
        self.wires = wires
        self.heard = b""
        self.is_silent = False
        self.is_over = False
        self._on_connected = on_connected

    @override
    def connectionMade(self) -> None:
        self._on_connected()

    @override
    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if not self.is_silent:
            self.wires.carry(self.other, data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_over = True
        if not self.is_silent:
            is_clean = reason.check(ConnectionDone) is not None
            self.wires.carry_end(self.other, is_clean)

    def say(self, data: bytes, then: Callable[[], None] | None = None) -> None:
        """Write; call ``then`` once the transport has passed on all of it."""
        if self.transport is None or self.is_over:
            return
        self.transport.write(data)
        if then is not None:
            self.transport.registerProducer(_OnceWritten(self, then), False)

    def end(self, is_clean: bool) -> None:
        """Close, or break the connection."""
        if self.transport is not None:
            (self.transport.loseConnection if is_clean else self.transport.abortConnection)()


@implementer(IPullProducer)
class _OnceWritten:
    """Produces nothing. A transport asks it when it is registered, and again when there is nothing left to write."""

    def __init__(self, end: End, then: Callable[[], None]) -> None:
        self._end = end
        self._then = then
        self._is_registered = False

    def resumeProducing(self) -> None:
        if self._is_registered:
            self._end.transport.unregisterProducer()
            self._then()
        self._is_registered = True

    def stopProducing(self) -> None:
        """The connection was lost first."""


@define(eq=False)
class Connection:
    """A connection through the wires: who was dialled, the end that the dialler has, the end at the dialled."""

    name: str
    near: End
    far: End

    @property
    def is_over(self) -> bool:
        """Whether both ends are gone, or the dialled was not reached."""
        return self.near.is_over and (self.far.is_over or self.far.transport is None)


@define(eq=False)
class Wires:
    """All connections between the parties of a test. These ones pass everything on at once.

    :ivar connections: every connection ever made, oldest first.
    """

    connections: list[Connection] = field(factory=list)

    def relay(self, name: str, target: IStreamClientEndpoint) -> Factory:
        """Make what is to listen in the place of ``name``, who is dialled at ``target``."""
        return _Relay(self, name, target)

    def carry(self, to: End, data: bytes) -> None:
        """Bring to an end what the other has heard."""
        to.say(data)

    def carry_end(self, to: End, is_clean: bool) -> None:
        """Tell an end that the other's connection is over."""
        to.end(is_clean)


@define(eq=False)
class CuttingWires(Wires):
    """Cuts every connection there is when so many bytes have passed, counted over all of them and both directions.

    What has passed by then has arrived. Connections that are made later are whole. Those that are over are forgotten
    when the next cut is prepared.

    :ivar passed_bytes: how many have passed so far.
    :ivar frame_ends: where in this count each of the frames ended, as long as they come in one piece each.
    """

    passed_bytes: int = 0
    frame_ends: list[int] = field(factory=list)
    _cut_at: int | None = None
    _manner: Manner = Manner.LOST

    def arm(self, after: int, manner: Manner) -> None:
        """Cut when ``after`` more bytes have passed; with 0, before the next one does."""
        self._cut_at, self._manner = self.passed_bytes + after, manner
        self.connections = self._open()

    @property
    def is_armed(self) -> bool:
        """Whether the cut is still to come."""
        return self._cut_at is not None

    @override
    def carry(self, to: End, data: bytes) -> None:
        self.frame_ends.append(self.passed_bytes + len(data))
        if self._cut_at is None or self._cut_at > self.passed_bytes + len(data):
            self.passed_bytes += len(data)
            to.say(data)
            return
        arriving = data[: self._cut_at - self.passed_bytes]
        self.passed_bytes, self._cut_at = self._cut_at, None
        if self._manner in (Manner.SILENT, Manner.MUTE):
            to.say(arriving)
            self._silence()
        elif arriving:
            to.say(arriving, self._break)
        else:
            self._break()

    def _open(self) -> list[Connection]:
        return [connection for connection in self.connections if not connection.is_over]

    def _silence(self) -> None:
        for connection in self._open():
            connection.far.is_silent = True
            connection.near.is_silent = self._manner is Manner.SILENT

    def _break(self) -> None:
        for connection in self._open():
            connection.near.end(self._manner is Manner.CLOSED)
            connection.far.end(self._manner is Manner.CLOSED)


@define(eq=False)
class SlowWires(Wires):
    """Holds back all that passes, each direction of each connection in its order, and brings it even after its end.

    :ivar delay: gives the seconds of the clock for which the next piece is held back.
    """

    clock: IReactorTime = field(kw_only=True)
    delay: Callable[[], float] = field(kw_only=True)
    _free_at: dict[End, float] = field(factory=dict)

    @override
    def carry(self, to: End, data: bytes) -> None:
        self._later(to, lambda: to.say(data))

    @override
    def carry_end(self, to: End, is_clean: bool) -> None:
        self._later(to, lambda: to.end(is_clean))

    def _later(self, to: End, happen: Callable[[], None]) -> None:
        now = self.clock.seconds()
        # A millisecond apart, since calls for one moment come in any order.
        at = self._free_at[to] = max(now + self.delay(), self._free_at.get(to, 0.0) + 0.001)
        self.clock.callLater(at - now, happen)


class _Relay(Factory):
    """Listens in the place of somebody, and dials him for each who comes."""

    noisy = False

    def __init__(self, wires: Wires, name: str, target: IStreamClientEndpoint) -> None:
        self._wires = wires
        self._name = name
        self._target = target

    @override
    def buildProtocol(self, addr: object) -> End:
        def dial() -> None:
            near.transport.pauseProducing()  # until there is somebody to tell it to
            dialling: Deferred[Any] = self._target.connect(Factory.forProtocol(lambda: far))
            dialling.addErrback(lambda _: near.end(is_clean=False))

        def dialled() -> None:
            if near.is_over:
                far.end(is_clean=False)
            else:
                near.transport.resumeProducing()

        near, far = End(self._wires, dial), End(self._wires, dialled)
        near.other, far.other = far, near
        self._wires.connections.append(Connection(self._name, near, far))
        return near


@define(eq=False)
class WiredNetwork(MemoryNetwork):
    """A network in memory on which all dial through wires."""

    wires: Wires = field(factory=Wires)

    @override
    def client_endpoint(self, name: str, origin: str = "") -> MemoryClientEndpoint:
        way, target = f"the wire to {name}", super().client_endpoint(name)
        if way not in self.ports:
            self.server_endpoint(way).listen(self.wires.relay(name, target))
        return super().client_endpoint(way)


class WiredTestCase(NodeTestCase):
    """Nodes whose connections go through wires."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.wires = CuttingWires()
        self.agents.network = WiredNetwork(self.clock, wires=self.make_wires())

    def make_wires(self) -> Wires:
        """Make the wires; by default those that can be cut."""
        return self.wires

    @override
    def make_node(self, own: Address, *peers: Address, store: SQLiteTaskStore | None = None, **options: Any) -> Node:
        options.setdefault("random", Random(1))
        return super().make_node(own, *peers, store=store, **options)


class WiredPairTestCase(PairTestCase, WiredTestCase):
    """Alice and Bob, and the wires between them."""

    def received(self, task_id: str) -> Task | None:
        """Bob's record of a task."""
        return self.successResultOf(self.bob.store.get(TaskKey(Side.RECEIVER, ALICE, task_id)))


real: Any = reactor

Place = tuple[IStreamServerEndpoint, IStreamClientEndpoint]
"""What listens on a port of this machine, and what dials it."""


class TCPTestCase(TestCase):
    """Real TCP connections of this machine, and a clock that the test moves."""

    timeout = LONGEST_SECONDS

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)

    def reserve(self) -> Place:
        """Take a free port."""
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        way = TCP4ClientEndpoint(real, "127.0.0.1", listening.getsockname()[1])
        return AdoptedStreamServerEndpoint(real, listening.detach(), socket.AF_INET), way

    def listen(self, factory: Factory) -> IStreamClientEndpoint:
        """Listen until the end of the test; gives the way there."""
        place, way = self.reserve()
        listening: Deferred[IListeningPort] = place.listen(factory)
        port = self.successResultOf(listening)
        self.addCleanup(port.stopListening)
        return way

    def turn(self, seconds: float = 0) -> Deferred[None]:
        """Let the reactor turn once, or for a real moment."""
        return deferLater(real, seconds)


def do_all(node: Node, task: Task) -> None:
    """Have a node do a NEW task that it has received, in no time, whatever the submitter has heard of it by then."""
    node.accept(task.key)
    node.execute(task.key)
    node.send_results(task.key, RESULT)
