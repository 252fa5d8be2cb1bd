"""The listening side: frames in, answers out, each in its turn (wire.md, sections 3 and 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    FrameTooLarge,
    InvalidMessage,
    MalformedMessage,
    PeerVanished,
    StoreError,
    StoreUncertain,
    TaskSubmitError,
    TooLarge,
    TooManyConnections,
)
from tasksubmit.interfaces import Peer
from tasksubmit.protocol.answers import encode, printable, quoted, rejection, response
from tasksubmit.protocol.bounds import host_of
from tasksubmit.protocol.elsewhere import LARGE_BYTES, do_elsewhere
from tasksubmit.protocol.framing import Hold, TaskSubmitProtocol
from tasksubmit.protocol.places import has_unread
from tasksubmit.protocol.turns import MESSAGES, Request, Turn
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, type_name
from tasksubmit.wire.messages import (
    MAX_TASK_ID,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskStatusUpdate,
)

if TYPE_CHECKING:
    from tasksubmit.protocol.factory import TaskSubmitFactory

ABORT_DELAY_SECONDS = 1.0
"""How long answers that were just written have to leave before a connection is aborted with a frame unhandled."""

MAX_FAULTS = 16
"""How many frames of one connection may be malformed or invalid; with the last of them it is closed."""


class _Unanswerable(Exception):
    """A frame is so broken that it cannot be told whether it wants an answer: the connection has to end."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class TaskSubmitServer(TaskSubmitProtocol):
    """One connection that a peer made: hands its frames to the handler, and answers them in the order they came in.

    Made by `TaskSubmitFactory` for each connection. It stays open until the peer closes it, it was idle for too long,
    a frame came that the protocol does not allow here, or `MAX_FAULTS` that make no sense. A peer that closes only its
    own direction still gets its answers.

    A peer that does not know of ``ack`` yet takes a clean close for delivery (wire.md, section 6). So a connection is
    aborted, never closed, when a frame of it was not handled, or may be on its way: that is, unless the peer has closed
    its direction, or was sent an answer, from which it knows of ``ack``.
    """

    def __init__(self, factory: TaskSubmitFactory, address: IAddress | None) -> None:
        super().__init__(factory.clock)
        self.factory = self._factory = factory
        self._intake = factory.intake
        self._log = factory.log
        self.host = host_of(address)
        self._places: list[str | Address] = []
        self.MAX_LENGTH = factory.max_frame
        self.idle_timeout = factory.idle_timeout
        self._origin = printable(address)
        self._peer: Peer | None = None
        self._turns: deque[Turn] = deque()
        self._unanswered_bytes = 0
        self._fault_count = 0
        self._is_all_read = False
        self._last_call: IDelayedCall | None = None
        self._is_cut_short = False
        self._is_heard = True
        self._has_answered = False
        self._has_unhandled = False
        self._is_cut_off = False
        self._abort_call: IDelayedCall | None = None
        self._waiting_for_end: list[Deferred[None]] = []

    # --- what the transport and the framing call ----------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        if full := self._enter():
            # Not closed: a peer of the deployed kind takes a clean end for success.
            self._log.info("{peer} is disconnected at once: {why}", peer=self._origin, why=full)
            self._leave_places()
            self.abort()
        else:
            self._factory.connections.add(self)

    def handshakeCompleted(self) -> None:
        """TLS knows who it is: one who sends nothing has a place of that peer's all the same."""
        if not self.is_open:
            return
        try:
            self._who()
        except TooManyConnections as full:
            self._log.info("{peer} is disconnected at once: {why}", peer=self._origin, why=full)
            self.abort()
        except Exception:  # it is asked again with each frame, which is then refused, and says why in the log
            return

    def trust_ended(self) -> None:
        """What `Gate.cut` tells: nothing more that has arrived is acted upon, nor what is being read."""
        self._is_heard = False
        self._stop()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if self._fault_count > 1:
            self._log.info("{peer} sent {count} frames that made no sense", peer=self._origin, count=self._fault_count)
        if self._abort_call is not None and self._abort_call.active():
            self._abort_call.cancel()
        self._factory.connections.discard(self)
        self._intake.gone(self)
        self._leave_places()
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
        turn = Turn(frame.size_bytes)
        self._turns.append(turn)
        self._unanswered_bytes += turn.size_bytes
        self._intake.begin(turn.size_bytes)
        try:
            self._begin(frame, turn)
        except Exception:
            self._give_up(Failure(), turn)
        if self._is_full():
            self.hold(Hold.WORK_IN_HAND)
        elif self._turns and self._intake.is_busy:
            self._intake.wait(self)

    @override
    def part_received(self, size_bytes: int) -> None:
        self._intake.grow(self, size_bytes)

    @override
    def lengthLimitExceeded(self, error: FrameTooLarge) -> None:
        self._log.warn("{peer} is disconnected: {error}", peer=self._origin, error=error)
        self._has_unhandled = True
        self._finish()

    @override
    def close(self) -> None:
        """See `TaskSubmitProtocol.close`; aborts where a clean close could be taken for delivery."""
        self._has_unhandled = self._has_unhandled or bool(self._pending) or self.is_mid_frame
        if not self.is_open or (not self._has_unhandled and (self._has_answered or self._is_all_read)):
            super().close()
        elif not self._has_answered:
            self.abort()
        elif self._abort_call is None:
            self.hold(Hold.CLOSING)
            self._abort_call = self.clock.callLater(ABORT_DELAY_SECONDS, self.abort)

    def readConnectionLost(self) -> None:
        """The peer sends nothing more, and may yet read."""
        self._is_all_read = True
        self._close_if_all_answered()

    def writeConnectionLost(self) -> None:
        """Only follows when one's own direction alone is closed, which is never done here."""

    @override
    def is_busy(self) -> bool:
        return bool(self._turns)

    # --- as `Intake` and `Places` see it ------------------------------------------------------------------------------

    def has_begun(self) -> bool:
        """See `Stranger.has_begun`."""
        return self.is_mid_frame or has_unread(self.transport)

    def wait_for_room(self) -> None:
        """See `Holder.wait_for_room`."""
        self.hold(Hold.NO_ROOM)

    def go_on(self) -> None:
        """See `Holder.go_on`."""
        self.release(Hold.NO_ROOM)

    def give_way(self, why: str) -> None:
        """See `Holder.give_way` and `Stranger.give_way`."""
        self._leave_places()  # another is about to take them
        self._log.warn("{peer} is disconnected: {error}", peer=self._origin, error=why)
        self.abort()

    def _enter(self) -> str:
        """Be counted as a connection, for which another may have to go; returns why that cannot be."""
        factory = self._factory
        authenticated = len(factory.connections) - factory.strangers.count
        full = factory.strangers.enter(self, authenticated + factory.handshakes.count)
        return full or self._take_place(self.host)

    def _take_place(self, peer: str | Address | None) -> str:
        """Be counted as one of a peer's connections; returns why that cannot be."""
        why = self._intake.enter(peer)
        if peer is not None and not why:
            self._places.append(peer)
        return why

    def _leave_places(self) -> None:
        self._factory.strangers.leave(self)
        while self._places:
            self._intake.leave(self._places.pop())

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

    def _begin(self, frame: Frame, turn: Turn) -> None:
        """Have a frame handled, whose answer is known at once or later.

        :raises _Unanswerable: the connection has to end.
        """
        kind = MESSAGES.get(frame.type)
        if kind is None:
            raise _Unanswerable(f"a {type_name(frame.type)} frame is no request")
        try:
            self._factory.check_size(frame)
            if frame.size_bytes >= LARGE_BYTES:
                self._read_elsewhere(kind, frame, turn)
                return
            request = kind.from_frame(frame)
        except (MalformedMessage, TooLarge) as error:
            self._not_read(kind, error, turn)
        else:
            self._handle(request, turn)

    def _read_elsewhere(self, kind: type[Request], frame: Frame, turn: Turn) -> None:
        self.hold(Hold.READING_A_LARGE_ONE)
        reading = do_elsewhere(self.clock, frame.size_bytes, lambda: kind.from_frame(frame))
        handled = reading.addCallbacks(
            lambda request: self._handle(request, turn) if self._is_to_be_handled else self._complete(None, turn),
            lambda failure: self._not_read(kind, _malformed(failure), turn),
        )
        handled.addErrback(self._give_up, turn)
        handled.addCallback(lambda _: self.release(Hold.READING_A_LARGE_ONE))
        handled.addCallback(lambda _: self._end_if_finished())

    @property
    def _is_to_be_handled(self) -> bool:
        return self._is_heard and not self._is_cut_short

    def _not_read(self, kind: type[Request], error: MalformedMessage | TooLarge, turn: Turn) -> None:
        if kind is not SubmitRequest:
            raise _Unanswerable(f"{type_name(kind.frame_type)}: {error}") from error
        self._complete(encode(self._refuse(kind.__name__, "", error.code, error)), turn)

    def _handle(self, request: Request, turn: Turn) -> None:
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
            answer.addBoth(self._decided, turn)
        else:
            self._answered(answer, turn)

    def _ask(self, request: Request, turn: Turn) -> object:
        """Have the handler decide, now or later."""
        handler, peer = self._factory.handler, self._who()
        if isinstance(request, SubmitRequest):
            return handler.task_submitted(peer, request, partial(self._send_result, turn))
        if isinstance(request, TaskStatusUpdate):
            return handler.status_updated(peer, request)
        return handler.results_received(peer, request)

    def _decided(self, answer: object, turn: Turn) -> None:
        """The handler has come to an end, one way or the other."""
        try:
            if isinstance(answer, Failure):
                self._failed(answer, turn)
            else:
                self._answered(answer, turn)
        except Exception:
            self._give_up(Failure(), turn)

    def _answered(self, answer: object, turn: Turn) -> None:
        """The handler has decided."""
        request = turn.request
        assert request is not None
        try:
            frame = encode(response(answer, request.task_id))
        except Exception as error:
            self._refused(request, error, turn)
        else:
            self._complete(frame if isinstance(request, SubmitRequest) or request.ack else None, turn)

    def _failed(self, failure: Failure, turn: Turn) -> None:
        """The handler could not decide."""
        assert turn.request is not None
        try:
            failure.raiseException()  # so that it is the exception that is handled, for the log
        except Exception as error:
            self._refused(turn.request, error, turn)

    def _refused(self, request: Request, error: Exception, turn: Turn) -> None:
        is_answered = isinstance(request, SubmitRequest) or request.ack
        if isinstance(error, StoreUncertain) or (isinstance(error, StoreError) and not is_answered):
            # It is unknown whether the change is on disk, or nothing of it is, and no answer can say so.
            self._give_up(Failure(error), turn)
            return
        frame = encode(self._refusal(request, error))
        self._complete(frame if is_answered else None, turn)

    def _refusal(self, request: Request, error: Exception) -> SubmitResponse:
        """Put the error that is being handled into an answer: what the peer may know of it, and no more."""
        kind = type(request).__name__
        task_id = request.task_id if len(request.task_id) <= MAX_TASK_ID else ""
        if isinstance(error, TaskSubmitError) and not isinstance(error, StoreError):
            is_size = isinstance(error, InvalidMessage) and error.field == "task_description"
            return self._refuse(kind, task_id, "too_large" if is_size else error.code, error)
        self._log.failure(
            "{kind} of {peer} for task {task_id} failed", kind=kind, peer=self._origin, task_id=quoted(task_id)
        )
        if isinstance(error, StoreError):
            return rejection(task_id, error.code, "the task cannot be stored now, try again later")
        return rejection(task_id, "overloaded", "internal error, try again later")

    def _refuse(self, kind: str, task_id: str, code: str, error: Exception) -> SubmitResponse:
        is_fault = isinstance(error, (MalformedMessage, InvalidMessage, TooLarge))
        self._fault_count += is_fault
        if not is_fault or self._fault_count == 1:
            self._log.info(
                "{kind} of {peer} for task {task_id} is refused: {code}, {error}",
                kind=kind,
                peer=self._origin,
                task_id=quoted(task_id),
                code=code,
                error=quoted(str(error), 200),
            )
        if self._fault_count >= MAX_FAULTS:
            self.hold(Hold.CLOSING)
        return rejection(task_id, code, str(error))

    def _who(self) -> Peer:
        """Name the peer; not before its first frame or TLS's handshake, after which alone a certificate is known."""
        if self._peer is None:
            assert self.transport is not None  # a frame came from it
            address = self._factory.identify(self.transport)
            if full := self._take_place(address):
                self.hold(Hold.CLOSING)
                raise TooManyConnections(full)
            self._peer = Peer(address, self._origin)
            if address is not None:
                self._factory.strangers.leave(self)
        return self._peer

    # --- answers in order ---------------------------------------------------------------------------------------------

    def _give_up(self, failure: Failure, turn: Turn) -> None:
        """End the connection: after this frame there is no telling what the peer waits for."""
        if failure.check(_Unanswerable, StoreError):
            self._log.warn("{peer} is disconnected: {error}", peer=self._origin, error=failure.value)
        else:
            self._log.failure("{peer} is disconnected: no answer can be made", failure, peer=self._origin)
        self.hold(Hold.CLOSING)
        turn.is_unhandled = True
        self._complete(None, turn)

    def _complete(self, answer: bytes | None, turn: Turn) -> None:
        """Send every answer whose turn has come, and take further frames or end."""
        turn.is_done, turn.answer = True, answer
        while self._turns and self._turns[0].is_done:
            first = self._turns.popleft()
            first.is_out = True
            self._unanswered_bytes -= first.size_bytes
            self._intake.end(first.size_bytes)
            self._is_cut_off = self._is_cut_off or first.is_unhandled
            if self._is_cut_off:
                continue  # an answer would be taken for that to the frame before
            if first.answer is None:
                self.resetTimeout()
            else:
                self.send_encoded(first.answer)
                self._has_answered = True
            for result in first.results:
                self.send_encoded(result)
        if not self.is_open:
            self._end_if_finished()
        elif self._is_cut_off:
            self._has_unhandled = True
            self.close()
        elif self.is_held(Hold.CLOSING):
            self._finish()
        elif not self._is_full():
            self.release(Hold.WORK_IN_HAND)
            if not self._turns:
                self.release(Hold.NO_ROOM)  # one frame of each may be in work
                self._close_if_all_answered()

    def _is_full(self) -> bool:
        return (
            len(self._turns) >= self._factory.max_outstanding
            or self._unanswered_bytes >= self._factory.max_outstanding_bytes
        )

    def _send_result(self, turn: Turn, result: TaskResult) -> None:
        """Send the old synchronous result of the submission that ``turn`` is of."""
        if not self.is_open:
            raise PeerVanished(f"{self._origin} is not connected any more; its result was not sent")
        frame = result.to_frame().encode()
        if turn.is_out:
            self.send_encoded(frame)
        else:
            turn.results += (frame,)


def _malformed(failure: Failure) -> MalformedMessage:
    if isinstance(failure.value, MalformedMessage):
        return failure.value
    failure.raiseException()
