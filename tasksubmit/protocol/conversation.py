"""One dialled connection: requests out, and what comes back matched to them (wire.md, sections 3 and 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    CertificateRefused,
    FrameTooLarge,
    MalformedMessage,
    NotAcknowledged,
    PeerError,
    PeerTimedOut,
    PeerVanished,
    ProtocolViolation,
)
from tasksubmit.protocol.framing import TaskSubmitProtocol
from tasksubmit.wire.frames import Frame, FrameType, type_name
from tasksubmit.wire.messages import ResponseStatus, SubmitResponse, TaskResult

if TYPE_CHECKING:
    from tasksubmit.protocol.client import Client


_STATUSES = frozenset(ResponseStatus)


@define(eq=False)
class Request:
    """One frame to be sent, and who waits for its answer. It has left the queue once it was written."""

    frame: Frame
    task_id: str
    answered: Deferred[SubmitResponse | None]
    timer: IDelayedCall | None = None

    @property
    def is_submission(self) -> bool:
        return self.frame.type == FrameType.SUBMIT

    def succeed(self, answer: SubmitResponse | None) -> None:
        self.stop_timer()
        if not self.answered.called:
            self.answered.callback(answer)

    def fail(self, error: PeerError) -> None:
        self.stop_timer()
        if not self.answered.called:
            self.answered.errback(error)

    def stop_timer(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


@implementer(IHandshakeListener)
class Conversation(TaskSubmitProtocol):
    """One connection to the peer: writes requests, and matches what comes back to them in order.

    Made by `Client` for each dial. Unlike a server it goes on reading while it cannot write: two ends that each wait
    for the other to read would wait for ever.

    :ivar ready: fires once requests can be written; over TLS, after the handshake.
    :ivar is_wanted: whether the dial that it was made for is not given up.
    :ivar unanswered: the requests that were written, oldest first.
    :ivar written_count: how many requests were ever written.
    :ivar awaits_acknowledgment: whether the peer was known to acknowledge when one of them was written; it may have
        announced something else since then.
    :ivar results_due: how many submissions were written that no RESULT has come for.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client.clock)
        self.MAX_LENGTH = client.max_frame
        self.idle_timeout = client.idle_timeout
        self.client = client
        self.ready: Deferred[None] = Deferred()
        self.is_wanted = True
        self.unanswered: deque[Request] = deque()
        self.written_count = 0
        self.awaits_acknowledgment = False
        self.results_due = 0
        self._draining: Request | None = None

    def write(self, request: Request) -> None:
        """Send a request; from here on it is answered, or fails, by this connection."""
        self.unanswered.append(request)
        self.written_count += 1
        self.awaits_acknowledgment = self.awaits_acknowledgment or self.client.acknowledges
        self.results_due += request.is_submission
        self._give_time(request, self.client.timeout, self._timed_out)
        self.sendFrame(request.frame)

    def give_up(self, error: PeerError, first: Request | None = None) -> None:
        """Abort, and fail everything that is under way as `fail_all` does."""
        self.abort()
        self.fail_all(error, first)

    def fail_all(self, error: PeerError, first: Request | None = None) -> None:
        """Fail everything under way with ``error``; if ``first`` is given only that, and the rest as vanished."""
        requests, self.unanswered = self.unanswered, deque()
        for request in requests:
            is_to_blame = first is None or request is first
            request.fail(error if is_to_blame else PeerVanished(f"the connection was given up: {error}"))

    # --- hooks --------------------------------------------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        if not ISSLTransport.providedBy(self.transport):
            self.ready.callback(None)

    def handshakeCompleted(self) -> None:
        """TLS is up: the peer is who it should be."""
        self.ready.callback(None)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        is_end = self.is_open and self.is_writable and not self.is_mid_frame and reason.check(ConnectionDone)
        super().connectionLost(reason)
        requests, self.unanswered = self.unanswered, deque()
        if not self.ready.called:
            self.ready.errback(reason)
        self.client._connection_lost(self, reason)
        acknowledges = self.awaits_acknowledgment or self.client.acknowledges
        for number, request in enumerate(requests):
            if is_end and not request.is_submission and not acknowledges:
                request.succeed(None)  # as far as such a peer can tell, it has arrived
            elif is_end and not request.is_submission and number == 0:  # the one that it was to answer next
                request.fail(NotAcknowledged(f"{self.client.name} closed the connection without an acknowledgement"))
            elif isinstance(reason.value, CertificateRefused):
                request.fail(reason.value)
            else:
                request.fail(PeerVanished(f"{self.client.name} closed the connection: {reason.getErrorMessage()}"))
        self.client._proceed()

    @override
    def frameReceived(self, frame: Frame) -> None:
        try:
            if frame.type == FrameType.RESULT:
                self._result_received(TaskResult.from_frame(frame))
            elif frame.type == FrameType.SUBMIT:
                self._answer_received(SubmitResponse.from_frame(frame))
            else:
                raise ProtocolViolation(f"{self.client.name} sent {type_name(frame.type)} on a connection dialled here")
        except (ProtocolViolation, MalformedMessage) as error:
            self.client.log.warn("{peer} is given up: {error}", peer=self.client.name, error=error)
            self.give_up(error)

    @override
    def lengthLimitExceeded(self, error: FrameTooLarge) -> None:
        self.give_up(error)

    @override
    def is_busy(self) -> bool:
        return bool(self.unanswered) or self.client.is_awaiting_result

    @override
    def writing_paused(self) -> None:
        if self.unanswered:
            # Before the transport has taken it nothing more is written, so that there is only this one.
            self._draining = request = self.unanswered[-1]
            self._give_time(request, self.client.write_timeout, self._not_taken)

    @override
    def writing_resumed(self) -> None:
        request, self._draining = self._draining, None
        if request is not None and request in self.unanswered:
            self._give_time(request, self.client.timeout, self._timed_out)
        self.client._proceed()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _answer_received(self, answer: SubmitResponse) -> None:
        if not self.unanswered:
            raise ProtocolViolation(f"{self.client.name} answered what was not asked")
        request = self.unanswered[0]
        if answer.task_id not in (request.task_id, ""):
            raise ProtocolViolation(f"{self.client.name} answered for task {answer.task_id[:80]!r} out of turn")
        if answer.status not in _STATUSES:
            raise ProtocolViolation(f"{self.client.name} answered with the status {answer.status}")
        self.unanswered.popleft()
        self.client._learn(answer.features)
        request.succeed(answer)
        # What was accepted may yet have a RESULT; then it is the peer, the next request or the time that closes.
        is_last = not (request.is_submission and answer.status == ResponseStatus.ACCEPTED)
        if is_last and not self.client.is_persistent:
            self.close()
        self.client._proceed()

    def _result_received(self, result: TaskResult) -> None:
        if not self.results_due:
            raise ProtocolViolation(f"{self.client.name} sent a result of nothing")
        self.results_due -= 1
        self.client._result_received(result)

    def _give_time(self, request: Request, seconds: float, timed_out: Callable[[Request], None]) -> None:
        request.stop_timer()
        request.timer = self.clock.callLater(seconds, timed_out, request)

    def _not_taken(self, request: Request) -> None:
        seconds = self.client.write_timeout
        self.give_up(
            PeerTimedOut(f"timed out: {self.client.name} did not take a request within {seconds:g} s"), first=request
        )

    def _timed_out(self, request: Request) -> None:
        seconds = self.client.timeout
        self.give_up(PeerTimedOut(f"timed out: {self.client.name} did not answer within {seconds:g} s"), first=request)


class ConversationFactory(Factory):
    """Builds the one protocol it was made with, unless the dial was given up meanwhile."""

    noisy = False

    def __init__(self, connection: Conversation) -> None:
        self.connection = connection

    @override
    def buildProtocol(self, addr: IAddress | None) -> Conversation | None:
        return self.connection if self.connection.is_wanted else None
