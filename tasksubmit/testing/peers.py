"""Scripted peers: agents that are not nodes, do as a `Behaviour` says, and keep what they are sent.

Here are those of good will; `tasksubmit.testing.hostile` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from attrs import define, field
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.errors import FrameTooLarge, MalformedMessage
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import from_milliseconds
from tasksubmit.testing.clocks import ProcessClock
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.validation import FLAG, FUNCTION, INTEGER, TEXT, Kind, checked, instance_of, optional, to_texts
from tasksubmit.wire import records
from tasksubmit.wire.address import Address, to_address
from tasksubmit.wire.frames import Frame, FrameDecoder
from tasksubmit.wire.messages import (
    FEATURES,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
)
from tasksubmit.wire.timestamps import format_time

Message: TypeAlias = SubmitRequest | SubmitResponse | TaskStatusUpdate | TaskResultMessage | TaskResult
"""What passes between agents."""


_SENT: Kind[Any] = Kind("a message or bytes", lambda value: isinstance(value, records.Message | bytes))


def _check_sent(what: Iterable[Message | bytes]) -> None:
    for one in what:
        _SENT.check("what: each", one)


class Line(Protocol):
    """One end of a connection, which sends what it is told and keeps what arrives.

    :ivar received: every byte that arrived.
    :ivar frames: the frames among them.
    :ivar lost: why the connection is over, or was never made; None before that.
    """

    @checked(on_frame=optional(FUNCTION), on_bytes=optional(FUNCTION), on_connected=optional(FUNCTION))
    def __init__(
        self,
        on_frame: Callable[[Line, Frame], None] | None = None,
        on_bytes: Callable[[Line, bytes], None] | None = None,
        on_connected: Callable[[Line], None] | None = None,
    ) -> None:
        self.decoder = FrameDecoder()
        self.received = b""
        self.frames: list[Frame] = []
        self.lost: Failure | None = None
        self.on_frame = on_frame
        self._on_bytes = on_bytes
        self._on_connected = on_connected

    @override
    def connectionMade(self) -> None:
        if self._on_connected is not None:
            self._on_connected(self)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self._on_bytes is not None:
            self._on_bytes(self, data)
        try:
            frames = self.decoder.feed(data)
        except FrameTooLarge as error:  # it cannot be read any further, but goes on being heard
            frames = error.frames
        for frame in frames:
            self.frames.append(frame)
            if self.on_frame is not None:
                self.on_frame(self, frame)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, *what: Message | bytes) -> None:
        """Write messages, or bytes as they are."""
        _check_sent(what)
        assert self.transport is not None, "there is no connection yet"
        for one in what:
            self.transport.write(one if isinstance(one, bytes) else one.to_frame().encode())

    def close(self) -> None:
        """Close cleanly."""
        assert self.transport is not None, "there is no connection yet"
        self.transport.loseConnection()

    @property
    def answers(self) -> list[SubmitResponse]:
        """What was received, read as answers."""
        return [SubmitResponse.from_frame(frame) for frame in self.frames]


class Behaviour:
    """What a scripted peer does when it is dialled: by itself nothing. Subclasses say what, by one or more of these."""

    def connected(self, peer: ScriptedPeer, line: Line) -> None:
        """Somebody has connected."""

    def heard(self, peer: ScriptedPeer, line: Line, data: bytes) -> None:
        """Bytes have arrived; they are in ``line.received``, and messages among them are told of after this."""

    def received(self, peer: ScriptedPeer, line: Line, message: Message) -> None:
        """A message has arrived, on a line that somebody else made."""


def _to_address(value: Address | str) -> Address:
    return to_address(value, "address")


@define(eq=False)
class ScriptedPeer:
    """An agent that is not a node; `Agents.peer` makes it.

    :ivar received: every message that it was sent, oldest first, answers to its own too.
    :ivar broken: every frame that is no message.
    :ivar lines: the connections that others made to it, oldest first.
    """

    address: Address = field(converter=_to_address)
    behaviour: Behaviour = field(validator=instance_of(Behaviour))
    network: MemoryNetwork = field(validator=instance_of(MemoryNetwork))
    received: list[Message] = field(factory=list, init=False)
    broken: list[Frame] = field(factory=list, init=False)
    lines: list[Line] = field(factory=list, init=False)
    clock: ProcessClock = field(init=False)
    _port: IListeningPort = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.clock = ProcessClock(self.network.clock)
        listening = self.network.server_endpoint(str(self.address)).listen(_Lines(self._accept))
        listening.addCallback(lambda port: setattr(self, "_port", port))

    @checked(then_close=FLAG)
    def say(self, to: Address | str, *what: Message | bytes, then_close: bool = False) -> Line:
        """Dial an agent and send it messages, or bytes as they are, on one connection.

        :returns: that connection; what is answered is in its ``answers``, once the network has come to rest.
        """
        to = to_address(to, "to")
        _check_sent(what)

        def connected(line: Line) -> None:
            line.send(*what)
            if then_close:
                line.close()

        def answered(line: Line, frame: Frame) -> None:
            self._keep(frame, SubmitResponse)

        line = Line(answered, on_connected=connected)
        endpoint = self.network.client_endpoint(str(to), str(self.address))
        dialled = endpoint.connect(_Lines(lambda: line))
        dialled.addErrback(line.connectionLost)
        return line

    @checked(description=TEXT, task_id=TEXT)
    def submit(
        self, to: Address | str, description: str, task_id: str = "", features: Iterable[str] = FEATURES
    ) -> Line:
        """Dial an agent and submit a task to it; the same as `say` otherwise.

        :param task_id: made up if it is left out; it is in the answer.
        """
        to = to_address(to, "to")
        task_id = task_id or generate_task_id()
        features = to_texts(features, "features")
        return self.say(to, SubmitRequest(task_id, description, str(self.address), str(to), features))

    def now(self) -> str:
        """The time, as messages have it."""
        return format_time(from_milliseconds(round(self.clock.seconds() * 1000)))

    def stop(self) -> None:
        """Be gone: nobody listens any more, and every connection breaks."""
        self._port.stopListening()
        self.clock.kill()
        self.network.abandon(str(self.address))

    def _accept(self) -> Line:
        line = Line(
            self._receive,
            lambda line, data: self.behaviour.heard(self, line, data),
            lambda line: self.behaviour.connected(self, line),
        )
        self.lines.append(line)
        return line

    def _receive(self, line: Line, frame: Frame) -> None:
        message = self._keep(frame, SubmitRequest)
        if message is not None:
            self.behaviour.received(self, line, message)

    def _keep(self, frame: Frame, submit: type[SubmitRequest] | type[SubmitResponse]) -> Message | None:
        kinds: tuple[type[Message], ...] = (submit, TaskStatusUpdate, TaskResultMessage, TaskResult)
        for kind in kinds:
            if kind.frame_type == frame.type:
                try:
                    self.received.append(message := kind.from_frame(frame))
                except MalformedMessage:
                    break
                return message
        self.broken.append(frame)
        return None


class _Lines(Factory):
    """Makes the lines of a peer."""

    noisy = False

    def __init__(self, make: Callable[[], Line]) -> None:
        self._make = make

    @override
    def buildProtocol(self, addr: object) -> Line:
        return self._make()


class WellBehaved(Behaviour):
    """Does as a node does: takes many messages on a connection, and answers each that wants an answer.

    :param result: the results of every task that it is given, which it sends at once; with None it takes tasks, and
        nothing more comes of them.
    :param features: what it announces.
    """

    @checked(result=optional(TEXT))
    def __init__(self, result: str | None = None, features: Iterable[str] = FEATURES) -> None:
        self.result = result
        self.features = to_texts(features, "features")

    @override
    def received(self, peer: ScriptedPeer, line: Line, message: Message) -> None:
        if isinstance(message, SubmitRequest):
            self.answer(peer, line, message)
            if self.result is not None:
                self.work(peer, message)
        elif isinstance(message, (TaskStatusUpdate, TaskResultMessage)) and message.ack:
            self.answer(peer, line, message)

    def answer(
        self, peer: ScriptedPeer, line: Line, message: SubmitRequest | TaskStatusUpdate | TaskResultMessage
    ) -> None:
        """Answer a message."""
        line.send(self.response(message.task_id))

    def response(self, task_id: str) -> SubmitResponse:
        """The answer that says yes."""
        return SubmitResponse(task_id, ResponseStatus.ACCEPTED, "Task received with status NEW", self.features)

    def work(self, peer: ScriptedPeer, request: SubmitRequest) -> None:
        """Do a task, and tell its submitter of each step."""
        task_id = request.task_id
        peer.say(
            Address.parse(request.from_addr),
            TaskStatusUpdate(task_id, TaskStatus.ACCEPTED.value, "Task accepted", ack=True),
            TaskStatusUpdate(task_id, TaskStatus.EXECUTING.value, "Task begun", ack=True),
            *self.results(peer, task_id),
            TaskStatusUpdate(task_id, TaskStatus.SUCCEEDED.value, "Results sent", ack=True),
        )

    def results(self, peer: ScriptedPeer, task_id: str) -> Iterable[TaskResultMessage]:
        """The results of a task."""
        yield TaskResultMessage(task_id, "text", self.result or "", completed_at=peer.now(), ack=True)


class Deployed(WellBehaved):
    """Does as deployed peers do: handles the first message of a connection, answers only submissions, then closes.

    :param result: the results of every task that it is given, which it sends at once; with None nothing more comes of
        them.
    """

    def __init__(self, result: str | None = None) -> None:
        super().__init__(result, ())

    @override
    def received(self, peer: ScriptedPeer, line: Line, message: Message) -> None:
        if len(line.frames) > 1:
            return
        if isinstance(message, SubmitRequest):
            line.send(self.response(message.task_id))
        line.close()
        if isinstance(message, SubmitRequest) and self.result is not None:
            self.work(peer, message)

    @override
    def work(self, peer: ScriptedPeer, request: SubmitRequest) -> None:
        """Tell the submitter of each step on a connection of its own, but of the last two on one; ask for nothing."""
        to, task_id = Address.parse(request.from_addr), request.task_id
        peer.say(to, TaskStatusUpdate(task_id, TaskStatus.ACCEPTED.value, "Task accepted"), then_close=True)
        peer.say(to, TaskStatusUpdate(task_id, TaskStatus.EXECUTING.value, "Task begun"), then_close=True)
        peer.say(
            to,
            TaskResultMessage(task_id, "text", self.result or "", completed_at=peer.now()),
            TaskStatusUpdate(task_id, TaskStatus.SUCCEEDED.value, "Results sent"),
            then_close=True,
        )


class Refusing(WellBehaved):
    """Refuses everything.

    :param code: why, for programs (wire.md, section 6); a few of them are worth trying again.
    :param retry_after_s: when to try again, in seconds; 0 for no advice.
    """

    @checked(code=TEXT, message=TEXT, retry_after_s=INTEGER)
    def __init__(self, code: str, message: str = "no", retry_after_s: int = 0) -> None:
        super().__init__()
        self._code = code
        self._message = message
        self._retry_after_s = retry_after_s

    @override
    def response(self, task_id: str) -> SubmitResponse:
        return SubmitResponse(
            task_id,
            ResponseStatus.REJECTED,
            self._message,
            self.features,
            code=self._code,
            retry_after_s=self._retry_after_s,
        )
