"""The listening side: frames in, answers out, each in its turn (wire.md, sections 3 and 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TypeAlias

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IReactorTime, ITransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    FrameTooLarge,
    InvalidMessage,
    MalformedMessage,
    PeerVanished,
    StoreError,
    TaskSubmitError,
    TooLarge,
)
from tasksubmit.interfaces import ITaskHandler, Peer
from tasksubmit.protocol.elsewhere import LARGE_BYTES, do_elsewhere
from tasksubmit.protocol.framing import CLOSE_TIMEOUT_SECONDS, IDLE_TIMEOUT_SECONDS, Hold, TaskSubmitProtocol
from tasksubmit.protocol.functions import FunctionHandler, SubmissionFunction
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import MAX_FRAME, Frame, FrameType, type_name
from tasksubmit.wire.messages import (
    FEATURES,
    MAX_TASK_ID,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
)

MAX_OUTSTANDING = 256
MAX_OUTSTANDING_BYTES = 32 * 1024 * 1024

MAX_CONTROL_BYTES = 512 * 1024
"""Room for the longest texts of a status update with every character escaped."""

MAX_FAULTS = 16
"""How many frames of one connection may be malformed or invalid; with the last of them it is closed."""

# JSON may escape each byte of a description in six; the rest of a submission has room in this.
_ESCAPED_BYTES = 6
_SUBMISSION_ROOM_BYTES = 64 * 1024

Request: TypeAlias = SubmitRequest | TaskStatusUpdate | TaskResultMessage

_MESSAGES: dict[int, type[Request]] = {
    FrameType.SUBMIT: SubmitRequest,
    FrameType.STATUS_UPDATE: TaskStatusUpdate,
    FrameType.SEND_RESULTS: TaskResultMessage,
}


class _Unanswerable(Exception):
    """A frame is so broken that it cannot be told whether it wants an answer: the connection has to end."""


@define(eq=False)
class _Turn:
    """A frame's place in the order of answers; lives from its arrival until its answer is out.

    :ivar size_bytes: the length of its payload.
    :ivar request: what it says, once that is known.
    :ivar answer: the bytes to send, once they are known; None, too, where nothing is to be sent.
    :ivar results: old synchronous results that were ready before the answer was out.
    """

    size_bytes: int
    request: Request | None = None
    is_done: bool = False
    is_out: bool = False
    answer: bytes | None = None
    results: list[bytes] = field(factory=list)


@implementer(IHalfCloseableProtocol)
class TaskSubmitServer(TaskSubmitProtocol):
    """One connection that a peer made: hands its frames to the handler, and answers them in the order they came in.

    Made by `TaskSubmitFactory` for each connection. It stays open until the peer closes it, it was idle for too long,
    a frame came that the protocol does not allow here, or `MAX_FAULTS` that make no sense. A peer that closes only its
    own direction still gets its answers.
    """

    _log = Logger()

    def __init__(self, factory: TaskSubmitFactory, address: IAddress | None) -> None:
        super().__init__(factory.clock)
        self.factory = self._factory = factory
        self.MAX_LENGTH = factory.max_frame
        self.idle_timeout = factory.idle_timeout
        self._origin = _printable(address)
        self._peer: Peer | None = None
        self._turns: deque[_Turn] = deque()
        self._unanswered_bytes = 0
        self._fault_count = 0
        self._is_all_read = False
        self._last_call: IDelayedCall | None = None
        self._is_cut_short = False
        self._waiting_for_end: list[Deferred[None]] = []

    # --- what the transport and the framing call ----------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        self._factory.connections.add(self)
        super().connectionMade()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._fault_count > 1:
            self._log.info("{peer} sent {count} frames that made no sense", peer=self._origin, count=self._fault_count)
        self._factory.connections.discard(self)
        if self._turns and not self._is_cut_short:
            self._factory.unfinished.add(self)
        else:
            self._end()

    def _end_if_finished(self) -> None:
        if self in self._factory.unfinished and not self._turns and not self._pending:
            self._end()

    def _end(self) -> None:
        """The connection is gone, and nothing that came on it is in work any more."""
        self._factory.unfinished.discard(self)
        if self._last_call is not None and self._last_call.active():
            self._last_call.cancel()
        waiting, self._waiting_for_end = self._waiting_for_end, []
        for deferred in waiting:
            deferred.callback(None)

    @override
    def frameReceived(self, frame: Frame) -> None:
        turn = _Turn(len(frame.payload))
        self._turns.append(turn)
        self._unanswered_bytes += turn.size_bytes
        try:
            self._begin(frame, turn)
        except Exception:
            self._give_up(Failure(), turn)
        if self._is_full():
            self.hold(Hold.WORK_IN_HAND)

    @override
    def lengthLimitExceeded(self, error: FrameTooLarge) -> None:
        self._log.warn("{peer} is disconnected: {error}", peer=self._origin, error=error)
        self._finish()

    def readConnectionLost(self) -> None:
        """The peer sends nothing more, and may yet read."""
        self._is_all_read = True
        self._close_if_all_answered()

    def writeConnectionLost(self) -> None:
        """Only follows when one's own direction alone is closed, which is never done here."""

    @override
    def is_busy(self) -> bool:
        return bool(self._turns)

    # --- ending -------------------------------------------------------------------------------------------------------

    def drain(self, grace: float) -> Deferred[None]:
        """Take no further frame, finish those in work, and close.

        :param grace: seconds on the factory's clock, after which the connection is aborted, whatever is in work.
        :returns: fires with None when the connection is gone; never fails.
        """
        if self not in self._factory.connections and self not in self._factory.unfinished:
            return succeed(None)
        gone: Deferred[None] = Deferred()
        self._waiting_for_end.append(gone)
        if self._last_call is None:
            self._last_call = self.clock.callLater(grace, self._cut_short)
        self._finish()
        return gone

    def _cut_short(self) -> None:
        self._is_cut_short = True
        self.abort()
        if self in self._factory.unfinished:
            self._end()

    def _finish(self) -> None:
        """Close as soon as every frame that was taken is answered."""
        self.hold(Hold.CLOSING)
        if not self._turns:
            self.close()

    def _close_if_all_answered(self) -> None:
        if self._is_all_read and not self._turns and not self._pending:
            self.close()

    # --- from frame to answer -----------------------------------------------------------------------------------------

    def _begin(self, frame: Frame, turn: _Turn) -> None:
        """Have a frame handled, whose answer is known at once or later.

        :raises _Unanswerable: the connection has to end.
        """
        kind = _MESSAGES.get(frame.type)
        if kind is None:
            raise _Unanswerable(f"a {type_name(frame.type)} frame is no request")
        try:
            self._factory.check_size(frame)
            if len(frame.payload) >= LARGE_BYTES:
                self._read_elsewhere(kind, frame, turn)
                return
            request = kind.from_frame(frame)
        except (MalformedMessage, TooLarge) as error:
            self._not_read(kind, error, turn)
        else:
            self._handle(request, turn)

    def _read_elsewhere(self, kind: type[Request], frame: Frame, turn: _Turn) -> None:
        self.hold(Hold.READING_A_LARGE_ONE)
        reading = do_elsewhere(self.clock, len(frame.payload), lambda: kind.from_frame(frame))
        handled = reading.addCallbacks(
            lambda request: self._complete(None, turn) if self._is_cut_short else self._handle(request, turn),
            lambda failure: self._not_read(kind, _malformed(failure), turn),
        )
        handled.addErrback(self._give_up, turn)
        handled.addCallback(lambda _: self.release(Hold.READING_A_LARGE_ONE))
        handled.addCallback(lambda _: self._end_if_finished())

    def _not_read(self, kind: type[Request], error: MalformedMessage | TooLarge, turn: _Turn) -> None:
        if kind is not SubmitRequest:
            raise _Unanswerable(f"{type_name(kind.frame_type)}: {error}") from error
        self._complete(_encode(self._refuse(kind.__name__, "", error.code, error)), turn)

    def _handle(self, request: Request, turn: _Turn) -> None:
        turn.request = request
        try:
            request.validate(self._factory.max_description_bytes)
            answer = self._ask(request, turn)
        except Exception as error:
            self._refused(request, error, turn)
            return
        if not isinstance(answer, Deferred) and isinstance(answer, Coroutine):
            answer = Deferred.fromCoroutine(answer)
        if isinstance(answer, Deferred):
            answer.addCallbacks(self._answered, self._failed, callbackArgs=(turn,), errbackArgs=(turn,))
            answer.addErrback(self._give_up, turn)
        else:
            self._answered(answer, turn)

    def _ask(self, request: Request, turn: _Turn) -> object:
        """Have the handler decide, now or later."""
        handler, peer = self._factory.handler, self._who()
        if isinstance(request, SubmitRequest):
            return handler.task_submitted(peer, request, partial(self._send_result, turn))
        if isinstance(request, TaskStatusUpdate):
            return handler.status_updated(peer, request)
        return handler.results_received(peer, request)

    def _answered(self, answer: object, turn: _Turn) -> None:
        """The handler has decided."""
        request = turn.request
        assert request is not None
        try:
            frame = _encode(_response(answer, request.task_id))
        except Exception as error:
            self._refused(request, error, turn)
        else:
            self._complete(frame if isinstance(request, SubmitRequest) or request.ack else None, turn)

    def _failed(self, failure: Failure, turn: _Turn) -> None:
        """The handler could not decide."""
        assert turn.request is not None
        try:
            failure.raiseException()  # so that it is the exception that is handled, for the log
        except Exception as error:
            self._refused(turn.request, error, turn)

    def _refused(self, request: Request, error: Exception, turn: _Turn) -> None:
        frame = _encode(self._refusal(request, error))
        self._complete(frame if isinstance(request, SubmitRequest) or request.ack else None, turn)

    def _refusal(self, request: Request, error: Exception) -> SubmitResponse:
        """Put the error that is being handled into an answer: what the peer may know of it, and no more."""
        kind = type(request).__name__
        task_id = request.task_id if len(request.task_id) <= MAX_TASK_ID else ""
        if isinstance(error, TaskSubmitError) and not isinstance(error, StoreError):
            is_size = isinstance(error, InvalidMessage) and error.field == "task_description"
            return self._refuse(kind, task_id, "too_large" if is_size else error.code, error)
        self._log.failure(
            "{kind} of {peer} for task {task_id} failed", kind=kind, peer=self._origin, task_id=_quoted(task_id)
        )
        if isinstance(error, StoreError):
            return _rejection(task_id, error.code, "the task cannot be stored now, try again later")
        return _rejection(task_id, "overloaded", "internal error, try again later")

    def _refuse(self, kind: str, task_id: str, code: str, error: Exception) -> SubmitResponse:
        is_fault = isinstance(error, (MalformedMessage, InvalidMessage, TooLarge))
        self._fault_count += is_fault
        if not is_fault or self._fault_count == 1:
            self._log.info(
                "{kind} of {peer} for task {task_id} is refused: {code}, {error}",
                kind=kind,
                peer=self._origin,
                task_id=_quoted(task_id),
                code=code,
                error=_quoted(str(error), 200),
            )
        if self._fault_count >= MAX_FAULTS:
            self.hold(Hold.CLOSING)
        return _rejection(task_id, code, str(error))

    def _who(self) -> Peer:
        """Name the peer; not before its first frame, since TLS knows a certificate only after the handshake."""
        if self._peer is None:
            assert self.transport is not None  # a frame came from it
            self._peer = Peer(self._factory.identify(self.transport), self._origin)
        return self._peer

    # --- answers in order ---------------------------------------------------------------------------------------------

    def _give_up(self, failure: Failure, turn: _Turn) -> None:
        """End the connection: after this frame there is no telling what the peer waits for."""
        if failure.check(_Unanswerable):
            self._log.warn("{peer} is disconnected: {error}", peer=self._origin, error=failure.value)
        else:
            self._log.failure("{peer} is disconnected: no answer can be made", failure, peer=self._origin)
        self.hold(Hold.CLOSING)
        self._complete(None, turn)

    def _complete(self, answer: bytes | None, turn: _Turn) -> None:
        """Send every answer whose turn has come, and take further frames or end."""
        turn.is_done, turn.answer = True, answer
        while self._turns and self._turns[0].is_done:
            first = self._turns.popleft()
            first.is_out = True
            self._unanswered_bytes -= first.size_bytes
            if first.answer is None:
                self.resetTimeout()
            else:
                self.send_encoded(first.answer)
            for result in first.results:
                self.send_encoded(result)
        if not self.is_open:
            self._end_if_finished()
        elif self.is_held(Hold.CLOSING):
            self._finish()
        elif not self._is_full():
            self.release(Hold.WORK_IN_HAND)
            self._close_if_all_answered()

    def _is_full(self) -> bool:
        return (
            len(self._turns) >= self._factory.max_outstanding
            or self._unanswered_bytes >= self._factory.max_outstanding_bytes
        )

    def _send_result(self, turn: _Turn, result: TaskResult) -> None:
        """Send the old synchronous result of the submission that ``turn`` is of."""
        if not self.is_open:
            raise PeerVanished(f"{self._origin} is not connected any more; its result was not sent")
        frame = result.to_frame().encode()
        if turn.is_out:
            self.send_encoded(frame)
        else:
            turn.results.append(frame)


def _malformed(failure: Failure) -> MalformedMessage:
    if isinstance(failure.value, MalformedMessage):
        return failure.value
    failure.raiseException()


def _response(answer: object, task_id: str) -> SubmitResponse:
    """The answer of a handler in full."""
    if isinstance(answer, SubmitResponse):
        return answer
    if answer is True:
        return SubmitResponse(task_id, ResponseStatus.ACCEPTED, "Task accepted and queued")
    if answer is False:
        return SubmitResponse(task_id, ResponseStatus.REJECTED, "Task rejected")
    raise TypeError(f"the handler answered {answer!r}, which is neither a bool nor a SubmitResponse")


def _encode(answer: SubmitResponse) -> bytes:
    try:
        if answer.features != FEATURES:
            answer = evolve(answer, features=FEATURES)
        return answer.to_frame().encode()
    except TaskSubmitError as error:
        raise ValueError(f"an answer cannot be written: {error}") from error  # no fault of the peer


def _rejection(task_id: str, code: str, message: str) -> SubmitResponse:
    return SubmitResponse(task_id, ResponseStatus.REJECTED, message, code=code)


def _quoted(text: str, max_characters: int = 80) -> str:
    """Print what a peer wrote, or had a part in, so that it can neither forge a line of the log nor flood it."""
    return repr(text[:max_characters])


def _printable(address: IAddress | None) -> str:
    """Print where a connection comes from. Not every transport has hosts and ports."""
    host = getattr(address, "host", None)
    return str(address) if host is None else f"{host} port {getattr(address, 'port', '?')}"


class TaskSubmitFactory(Factory):
    """Serves task submissions; hand it to ``listen`` of any server endpoint.

    :param handler: an `ITaskHandler`, or a function ``(peer, request, send_result)`` that gives True, False, or a
        Deferred of one. With a function, updates and results get 400 ``unknown_task``.
    :param clock: measures every time-out; the reactor, or a ``Clock``.
    :param idle_timeout: seconds after which a connection with nothing to answer is closed; None for never.
    :param max_frame: the largest payload to take, in bytes.
    :param max_outstanding: unanswered frames of one connection past which it is not read from.
    :param max_outstanding_bytes: the same for the sum of their payloads.
    :param max_description_bytes: the longest description to take, in bytes of UTF-8; None for any that fits a frame.
    :param max_control_bytes: the largest payload of a status update to take, in bytes.
    :param identify: asked with the transport when the first frame of a connection came; gives the address that the
        transport has authenticated, or None. If it raises, the peer's requests are refused.
    :ivar connections: those that are open now.
    :ivar unfinished: those that were lost, and of whose frames some are still in work.
    """

    noisy = False

    def __init__(
        self,
        handler: ITaskHandler | SubmissionFunction,
        *,
        clock: IReactorTime,
        idle_timeout: float | None = IDLE_TIMEOUT_SECONDS,
        max_frame: int = MAX_FRAME,
        max_outstanding: int = MAX_OUTSTANDING,
        max_outstanding_bytes: int = MAX_OUTSTANDING_BYTES,
        max_description_bytes: int | None = None,
        max_control_bytes: int = MAX_CONTROL_BYTES,
        identify: Callable[[ITransport], Address | None] = lambda transport: None,
    ) -> None:
        if not ITaskHandler.providedBy(handler):
            if not callable(handler):
                raise TypeError(f"a handler provides ITaskHandler or is a function, which {handler!r} is not")
            handler = FunctionHandler(handler)
        self.handler: ITaskHandler = handler
        self.clock = clock
        self.idle_timeout = idle_timeout
        self.max_frame = max_frame
        self.max_outstanding = max_outstanding
        self.max_outstanding_bytes = max_outstanding_bytes
        self.max_description_bytes = max_description_bytes
        self.max_control_bytes = max_control_bytes
        self.identify = identify
        self.connections: set[TaskSubmitServer] = set()
        self.unfinished: set[TaskSubmitServer] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> TaskSubmitServer:
        return TaskSubmitServer(self, addr)

    def check_size(self, frame: Frame) -> None:
        """Refuse a frame that is too large for what it is, before it takes the memory that decoding takes.

        :raises TooLarge: it is.
        """
        limit = self.max_frame
        if frame.type == FrameType.STATUS_UPDATE:
            limit = self.max_control_bytes
        elif frame.type == FrameType.SUBMIT and self.max_description_bytes is not None:
            limit = _ESCAPED_BYTES * self.max_description_bytes + _SUBMISSION_ROOM_BYTES
        if len(frame.payload) > limit:
            raise TooLarge(f"{len(frame.payload)} bytes; a {type_name(frame.type)} frame may have {limit} here")

    async def _drain(self, grace: float) -> None:
        for gone in [connection.drain(grace) for connection in self.connections | self.unfinished]:
            await gone

    def close_connections(self, grace: float = CLOSE_TIMEOUT_SECONDS) -> Deferred[None]:
        """Take no further frames, finish those in work, also of lost connections, and close all that are open now.

        Stop listening first, or new ones may come. The factory can be used again afterwards.

        :param grace: seconds after which what is not closed is aborted.
        :returns: fires with None when all are gone; never fails. Cancelling it stops the waiting, not the closing.
        """
        return Deferred.fromCoroutine(self._drain(grace))
