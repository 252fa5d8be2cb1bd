"""What nodes are asked while they are killed: over the protocol by one of their peers, and at their control APIs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet import task
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit import SubmitRequest, SubmitResponse, TaskResultMessage, TaskStatusUpdate
from tasksubmit.cli.control import AnswerLost, CommandFailed, Control, Json, NodeUnreachable
from tasksubmit.interfaces import ITaskHandler, Peer, SendResult
from tasksubmit.wire.frames import FrameDecoder
from tasksubmit.wire.messages import FEATURES
from tests.integration.kills_audit import (
    DRIVER,
    GIFT,
    HAS_RESULTS,
    LOAD,
    OTHER,
    PAIR,
    RECEIVER,
    SUBMITTER,
    TWICE,
    UNKEPT,
    Promises,
    description,
    fate,
    results,
)

CONNECTIONS, OUTSTANDING = 8, 40
"""The load on each node: connections, and unanswered requests on each of them."""

POLL_SECONDS = 0.05

MOST_EXECUTED = 2
"""Tasks that are begun together."""

Message = SubmitRequest | TaskStatusUpdate | TaskResultMessage


@frozen
class Ask:
    """A request; `is_repeat` when it was acknowledged before."""

    message: Message
    is_repeat: bool = False


@implementer(IPullProducer)
class Line(Protocol):
    """One connection to a node, kept full of requests.

    :ivar taken: how many requests the kernel has; a transport asks its pull producer for more when it is empty.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._decoder = FrameDecoder()
        self._written = 0
        self.unanswered: deque[Ask] = deque()
        self.answered = 0
        self.taken = 0

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.registerProducer(self, False)
        self._wire.lines.append(self)
        self.fill()

    def fill(self) -> None:
        """Write what there is room for."""
        frames = []
        while len(self.unanswered) < OUTSTANDING and (ask := self._wire.next()) is not None:
            self.unanswered.append(ask)
            frames.append(ask.message.to_frame().encode())
        if frames and self.transport is not None:
            self._written += len(frames)
            self.transport.write(b"".join(frames))

    def resumeProducing(self) -> None:
        """The kernel has everything that was written."""
        self.taken = self._written
        self._wire.changed()

    def stopProducing(self) -> None:
        """`connectionLost` follows."""

    @override
    def dataReceived(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self.answered += 1
            self._wire.answered(self.unanswered.popleft(), SubmitResponse.from_frame(frame))
        self.fill()
        self._wire.changed()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._wire.lines.remove(self)
        self._wire.owed.extendleft(reversed(self.unanswered))
        self._wire.changed()


@define(eq=False)
class Wire:
    """All that the driver asks of one node over the protocol.

    :ivar owed: what is to be asked: what nobody answered, what was acknowledged and is asked again, results.
    :ivar is_loading: whether to submit ever more; see `load`.
    :ivar sent: the ids of all submissions that were ever written.
    :ivar answers: to requests since the node was started.
    """

    reactor: Any
    port: int
    promises: Promises
    random: Random
    lines: list[Line] = field(factory=list)
    owed: deque[Ask] = field(factory=deque)
    is_loading: bool = False
    sent: set[str] = field(factory=set)
    answers: int = 0
    _acknowledged: list[Ask] = field(factory=list)
    _given: set[str] = field(factory=set)
    _waiting: list[tuple[Callable[[], bool], Deferred[None]]] = field(factory=list)

    @property
    def in_flight(self) -> int:
        """Requests that the kernel has, and no answer came to."""
        return sum(line.taken - line.answered for line in self.lines)

    @property
    def is_idle(self) -> bool:
        return not self.owed and not any(line.unanswered for line in self.lines)

    def connect(self) -> Deferred[Any]:
        """Dial until the node takes it, and ask on; fires when all connections are there."""
        self.answers = 0
        self.owed.extend(evolve(ask, is_repeat=True) for ask in self._acknowledged)
        self._acknowledged = []
        return gatherResults([Deferred.fromCoroutine(self._dial()) for _ in range(CONNECTIONS)])

    async def _dial(self) -> None:
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        while True:
            try:
                await endpoint.connect(Factory.forProtocol(lambda: Line(self)))
                return
            except ConnectError:
                await task.deferLater(self.reactor, POLL_SECONDS)

    def load(self, is_loading: bool) -> None:
        """Submit ever more, or nothing new."""
        self.is_loading = is_loading
        self._fill()

    def when(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires as soon as something has changed, and ``condition()`` is true."""
        fires: Deferred[None] = Deferred()
        self._waiting.append((condition, fires))
        self.reactor.callLater(0, self.changed)
        return fires

    def changed(self) -> None:
        """Something has."""
        ready = [waiting for waiting in self._waiting if waiting[0]()]
        for waiting in ready:
            self._waiting.remove(waiting)
            waiting[1].callback(None)

    # --- questions ----------------------------------------------------------------------------------------------------

    def next(self) -> Ask | None:
        """What to ask next: old and new mixed."""
        if self.owed and (not self.is_loading or self.random.random() < 0.5):
            return self.owed.popleft()
        if not self.is_loading:
            return None
        task_id = f"{LOAD}-{self.promises.address[-1]}-{len(self.sent)}"
        self.sent.add(task_id)
        return Ask(SubmitRequest(task_id, description(task_id), DRIVER, self.promises.address, FEATURES))

    def give_results(self, task_id: str) -> None:
        """Owe the results of a task that the node gave to the driver, however often it did."""
        if task_id not in self._given:
            self._given.add(task_id)
            self._owe(message_with_results(task_id))

    def _owe(self, message: Message) -> None:
        self.owed.append(Ask(message))
        self._fill()

    def _fill(self) -> None:
        for line in self.lines:
            line.fill()

    # --- answers ------------------------------------------------------------------------------------------------------

    def answered(self, ask: Ask, answer: SubmitResponse) -> None:
        """Note what the node has promised with an answer."""
        self.answers += 1
        message = ask.message
        if answer.status != 200 or answer.task_id != message.task_id:
            self.promises.fault(OTHER, f"answered {message.task_id} with {answer}")
        elif isinstance(message, SubmitRequest):
            if ask.is_repeat and not answer.current_status:
                self.promises.fault(UNKEPT, f"{message.task_id} was acknowledged, and is new when it is repeated")
            self.promises.acknowledged.add(message.task_id)
            self.promises.say((RECEIVER, DRIVER, message.task_id), answer.current_status or "NEW")
        else:
            self._about_gift(message, answer)
        if not ask.is_repeat:
            self._acknowledged.append(ask)

    def _about_gift(self, message: TaskStatusUpdate | TaskResultMessage, answer: SubmitResponse) -> None:
        task_id = message.task_id
        self.promises.say((SUBMITTER, DRIVER, task_id), answer.current_status)
        if isinstance(message, TaskStatusUpdate):
            if answer.current_status != message.status:
                self.promises.fault(UNKEPT, f"{task_id} is {answer.current_status} after {message.status}")
            return
        paid = self.promises.paid.setdefault(task_id, answer.reward)
        if answer.current_status not in HAS_RESULTS or not answer.reward or answer.reward != paid:
            self.promises.fault(TWICE, f"results of {task_id}, paid with {paid}, were answered with {answer}")
        if answer.current_status != "SUCCEEDED":
            self._owe(TaskStatusUpdate(task_id, "SUCCEEDED", "The results were delivered", ack=True))


def message_with_results(task_id: str) -> TaskResultMessage:
    """The results that the driver sends."""
    given = results(task_id)
    text, data = ("", given.content) if given.filename else (given.content.decode(), b"")
    kind = "file" if given.filename else "text"
    return TaskResultMessage(task_id, kind, text, given.filename, data, completed_at="2026-01-01T00:00:00Z", ack=True)


@implementer(ITaskHandler)
@frozen
class Driver:
    """What nodes find at the driver's address: it takes every task, and hears of every status.

    :ivar wires: by the address of the node.
    """

    wires: dict[str, Wire]

    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> bool:
        """See `ITaskHandler`."""
        self.wires[request.from_addr].give_results(request.task_id)
        return True

    def status_updated(self, peer: Peer, update: TaskStatusUpdate) -> SubmitResponse:
        """See `ITaskHandler`."""
        return SubmitResponse(update.task_id, 200, "noted", current_status=update.status)

    def results_received(self, peer: Peer, message: TaskResultMessage) -> SubmitResponse:
        """See `ITaskHandler`; the driver waits for none."""
        return SubmitResponse(message.task_id, 400, "there is no such task", code="unknown_task")


@define(eq=False)
class Worker:
    """Whoever works at one node's control API: submits, withdraws, accepts, declines, executes, gives results.

    :ivar quota: how many more tasks to submit.
    :ivar unconfirmed: those whose submission nobody has confirmed, and to whom they go.
    """

    control: Control
    peer: str
    promises: Promises
    quota: int = 0
    is_over: bool = False
    unconfirmed: dict[str, str] = field(factory=dict)
    _count: int = 0

    async def work(self) -> None:
        """Go on until `is_over`, whatever happens to the node."""
        while not self.is_over:
            if not await self._submit() + await self._receive():
                await task.deferLater(self.control.clock, POLL_SECONDS)

    async def _submit(self) -> int:
        while self.quota:
            self.quota -= 1
            self._count += 1
            kind, to = (PAIR, self.peer) if self._count % 3 else (GIFT, DRIVER)
            self.unconfirmed[f"{kind}-{self.promises.address[-1]}-{self._count}"] = to
        return await _all(self._submit_one(task_id, to) for task_id, to in list(self.unconfirmed.items()))

    async def _submit_one(self, task_id: str, to: str) -> bool:
        if not await self._try(self.control.submit(to, description(task_id), task_id), SUBMITTER):
            return False
        if fate(task_id) == "withdraw" and await self._try(self.control.cancel(task_id, peer=to), SUBMITTER):
            self.promises.withdrawn.add(task_id)
        del self.unconfirmed[task_id]
        return True

    async def _receive(self) -> int:
        begun = await self._ids("EXECUTING")
        moved = await _all(self._try(self._give_results(task_id)) for task_id in begun)
        new = await self._ids("NEW")
        moved += await _all(self._try(self._decide(task_id)) for task_id in new)
        queued = await self._ids("ACCEPTED")
        # Not all of them, so that there commonly is a queue behind the head.
        return moved + await _all(self._try(self.control.execute()) for _ in queued[:MOST_EXECUTED])

    async def _ids(self, status: str) -> list[str]:
        try:
            tasks = await self.control.tasks(side=RECEIVER, status=status, peer=self.peer, limit=20)
        except (NodeUnreachable, AnswerLost):
            return []
        return [str(found["task_id"]) for found in tasks]

    def _decide(self, task_id: str) -> Coroutine[Any, Any, Json]:
        if fate(task_id) == "decline":
            return self.control.decline(task_id, "it is in the plan", peer=self.peer)
        return self.control.accept(task_id, peer=self.peer)

    def _give_results(self, task_id: str) -> Coroutine[Any, Any, Json]:
        given = results(task_id)
        if given.filename:
            return self.control.send_file(task_id, given.filename, given.content, peer=self.peer)
        return self.control.send_text(task_id, given.content.decode(), peer=self.peer)

    async def _try(self, command: Coroutine[Any, Any, Json], side: str = RECEIVER) -> bool:
        """Whether a command succeeded, which is a promise. One whose answer was lost may have, too."""
        try:
            done = await command
        except (NodeUnreachable, AnswerLost):
            return False
        except CommandFailed as error:
            if error.code not in ("illegal_transition", "empty_queue"):  # too late, or somebody else was first
                self.promises.fault(OTHER, f"a command failed: {error.code}, {error}")
            return False
        self.promises.say((side, done["peer"], done["task_id"]), done["status"])
        return True


async def _all(commands: Iterable[Coroutine[Any, Any, bool]]) -> int:
    """Give commands all at once; returns how many succeeded."""
    return sum(await gatherResults([Deferred.fromCoroutine(command) for command in commands]))
