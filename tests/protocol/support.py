"""What the tests of this package share: handlers that wait to be told, peers that follow a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.interfaces import ITaskHandler, Peer, SendResult
from tasksubmit.protocol.client import Client
from tasksubmit.protocol.factory import TaskSubmitFactory
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.testing.peers import Line, Message
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import (
    ACK,
    PERSISTENT,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
)

HERE = Address.parse("1:0001.0000.0001")
THERE = Address.parse("1:0001.0000.0002")
OURS = frozenset({PERSISTENT, ACK})
RESULT = TaskResult("work", "success", {"answer": 42}, timestamp="2026-01-01T00:00:00Z")


def request(task_id: str = "t1", description: str = "work") -> SubmitRequest:
    """Make a submission."""
    return SubmitRequest(task_id, description, str(HERE), str(THERE))


def update(task_id: str = "t1", ack: bool = True) -> TaskStatusUpdate:
    """Make a status update."""
    return TaskStatusUpdate(task_id, "ACCEPTED", "taken", ack=ack)


def results(task_id: str = "t1", text: str = "done", ack: bool = True) -> TaskResultMessage:
    """Make results of a task."""
    return TaskResultMessage(task_id, "text", text, completed_at="2026-01-01T00:00:00Z", ack=ack)


def answer(task_id: str = "t1", features: frozenset[str] = OURS) -> SubmitResponse:
    """Make the answer that says yes."""
    return SubmitResponse(task_id, ResponseStatus.ACCEPTED, "yes", features=tuple(sorted(features)))


def encoded(*messages: Message) -> bytes:
    """Give the bytes of messages, one frame after the other."""
    return b"".join(message.to_frame().encode() for message in messages)


@implementer(ITaskHandler)
@define(eq=False)
class WaitingHandler:
    """A handler that answers when it is told to, or at once.

    :ivar asked: what came, oldest first, each with the Deferred that answers it.
    :ivar at_once: gives the answer, or raises; None to wait.
    """

    at_once: Callable[[str], object] | None = None
    asked: list[tuple[str, object, Deferred[Any]]] = field(factory=list)
    peers: list[Peer] = field(factory=list)
    send_results: dict[str, SendResult] = field(factory=dict)

    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> Deferred[Any]:
        self.send_results[request.task_id] = send_result
        return self._ask(peer, request)

    def status_updated(self, peer: Peer, update: TaskStatusUpdate) -> Deferred[Any]:
        return self._ask(peer, update)

    def results_received(self, peer: Peer, message: TaskResultMessage) -> Deferred[Any]:
        return self._ask(peer, message)

    def _ask(self, peer: Peer, message: SubmitRequest | TaskStatusUpdate | TaskResultMessage) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.peers.append(peer)
        self.asked.append((message.task_id, message, deferred))
        if self.at_once is not None:
            try:
                deferred.callback(self.at_once(message.task_id))
            except Exception:
                deferred.errback()
        return deferred

    @property
    def ids(self) -> list[str]:
        """The tasks that were asked about."""
        return [task_id for task_id, _, _ in self.asked]

    def reply(self, task_id: str, value: object = True) -> None:
        """Answer the first waiting question about a task."""
        deferred = next(d for asked, _, d in self.asked if asked == task_id and not d.called)
        if isinstance(value, Exception):
            deferred.errback(value)
        else:
            deferred.callback(value)


RawPeer = Line
"""One end of a connection that sends and keeps bytes as it is told."""


class RawFactory(Factory):
    """Makes a `RawPeer` for each connection and keeps it."""

    noisy = False

    def __init__(self, on_frame: Callable[[RawPeer, Frame], None] | None = None) -> None:
        self.on_frame = on_frame
        self.peers: list[RawPeer] = []

    @override
    def buildProtocol(self, addr: object) -> RawPeer:
        peer = RawPeer(self.on_frame)
        self.peers.append(peer)
        return peer


class NetworkTestCase(SynchronousTestCase):
    """A clock and a network of its own for each test."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)

    def listen(self, factory: Factory, name: str = "there") -> None:
        """Listen on a name."""
        self.successResultOf(self.network.server_endpoint(name).listen(factory))

    def serve(self, handler: object, **options: object) -> TaskSubmitFactory:
        """Listen with the real server."""
        factory = TaskSubmitFactory(handler, clock=self.clock, **options)  # type: ignore[arg-type]  # any options
        self.listen(factory)
        return factory

    def raw(self) -> RawPeer:
        """Dial with a raw peer."""
        dialled = self.network.client_endpoint("there").connect(factory := RawFactory())
        self.network.flush()
        self.successResultOf(dialled)
        return factory.peers[0]

    def client(self, **options: object) -> Client:
        """Make the real client."""
        return Client(self.network.client_endpoint("there"), HERE, self.clock, **options)  # type: ignore[arg-type]

    def deployed(self, reply: bytes = b"", closes: bool = True) -> RawFactory:
        """Listen with a peer that handles one frame per connection, replies, and then closes."""

        def one_frame(peer: RawPeer, frame: Frame) -> None:
            if len(peer.frames) == 1:
                peer.send(reply)
                if closes:
                    peer.close()

        factory = RawFactory(one_frame)
        self.listen(factory)
        return factory

    def advance(self, seconds: float) -> None:
        """Let time pass, then the network."""
        self.clock.advance(seconds)
        self.network.flush()
