"""What serves a listening endpoint: makes the connections, and knows the limits that hold for them all."""

from __future__ import annotations

from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime, ITransport
from twisted.internet.protocol import Factory
from typing_extensions import override

from tasksubmit.errors import TooLarge
from tasksubmit.interfaces import ITaskHandler
from tasksubmit.logs import quiet_logger
from tasksubmit.protocol.arguments import CLOCK, checked_later
from tasksubmit.protocol.bounds import Bounds, Intake
from tasksubmit.protocol.framing import CLOSE_TIMEOUT_SECONDS, IDLE_TIMEOUT_SECONDS
from tasksubmit.protocol.functions import FunctionHandler, SubmissionFunction
from tasksubmit.protocol.handshakes import Handshakes
from tasksubmit.protocol.places import Places
from tasksubmit.protocol.server import TaskSubmitServer
from tasksubmit.validation import COUNT, DELAY, FUNCTION, SECONDS, Kind, checked, instance_of, optional, whole_number
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import MAX_FRAME, Frame, FrameType, type_name

MAX_OUTSTANDING = 256
MAX_OUTSTANDING_BYTES = 32 * 1024 * 1024

MAX_CONTROL_BYTES = 512 * 1024
"""Room for the longest texts of a status update with every character escaped."""

# JSON may escape each byte of a description in six; the rest of a submission has room in this.
_ESCAPED_BYTES = 6
_SUBMISSION_ROOM_BYTES = 64 * 1024


_HANDLER: Kind[Any] = Kind(
    "a provider of ITaskHandler, such as a Node, or a function of (peer, request, send_result)",
    lambda value: ITaskHandler.providedBy(value) or callable(value),
)


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
    :param bounds: what all connections together may be and hold.
    :param random: decides which connections give way when there are too many; by default nobody can foretell it.
    :param identify: asked with the transport when the first frame of a connection came; gives the address that the
        transport has authenticated, or None. If it raises, the peer's requests are refused.
    :ivar intake: what they hold.
    :ivar handshakes: connections that the TLS below has not handed over yet; `MutualTLSServerEndpoint` keeps to it.
    :ivar log: the log of the connections, which no peer can fill.
    :ivar connections: those that are open now.
    :ivar strangers: those of them of which the transport does not say whose they are.
    :ivar unfinished: those that were lost, and of whose frames some are still in work.
    """

    noisy = False

    @checked(
        handler=_HANDLER,
        clock=CLOCK,
        idle_timeout=optional(SECONDS),
        max_frame=whole_number(1, MAX_FRAME),
        max_outstanding=COUNT,
        max_outstanding_bytes=COUNT,
        max_description_bytes=optional(whole_number(1, MAX_FRAME)),
        max_control_bytes=whole_number(1, MAX_FRAME),
        bounds=instance_of(Bounds),
        random=optional(instance_of(Random)),
        identify=FUNCTION,
    )
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
        bounds: Bounds = Bounds(),
        random: Random | None = None,
        identify: Callable[[ITransport], Address | None] = lambda transport: None,
    ) -> None:
        if not ITaskHandler.providedBy(handler):
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
        self.bounds = bounds
        self.intake = Intake(clock, bounds)
        random = SystemRandom() if random is None else random
        self.strangers = Places(bounds.max_connections, bounds.max_connections_per_peer, random)
        self.handshakes = Handshakes(clock, bounds, random, lambda: len(self.connections))
        self.log = quiet_logger(TaskSubmitServer.__module__)
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
        if frame.size_bytes > limit:
            raise TooLarge(f"{frame.size_bytes} bytes; a {type_name(frame.type)} frame may have {limit} here")

    async def _drain(self, grace: float) -> None:
        for gone in [connection.drain(grace) for connection in self.connections | self.unfinished]:
            await gone

    @checked_later(grace=DELAY)
    def close_connections(self, grace: float = CLOSE_TIMEOUT_SECONDS) -> Deferred[None]:
        """Take no further frames, finish those in work, also of lost connections, and close all that are open now.

        Stop listening first, or new ones may come. The factory can be used again afterwards.

        :param grace: seconds after which what is not closed is aborted.
        :returns: fires with None when all are gone; never fails. Cancelling it stops the waiting, not the closing.
        """
        return Deferred.fromCoroutine(self._drain(grace))
