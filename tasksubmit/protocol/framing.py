"""Frames on a Twisted transport: limits, time-outs and back-pressure, and nothing about what the frames mean."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import FrameTooLarge
from tasksubmit.pieces import PIECE, in_pieces
from tasksubmit.protocol.arguments import CLOCK
from tasksubmit.protocol.elsewhere import LARGE_BYTES
from tasksubmit.validation import checked, wrong_type
from tasksubmit.wire.frames import MAX_FRAME, Frame, FrameDecoder

IDLE_TIMEOUT_SECONDS = 60.0
CLOSE_TIMEOUT_SECONDS = 10.0

MIN_PROGRESS_BYTES = 128 * 1024
"""What must arrive of an unfinished frame within each idle time-out, lest a trickle hold the connection for ever."""


class Hold(enum.Enum):
    """Why a connection takes no frames at the moment."""

    PEER_NOT_READING = enum.auto()
    """The transport's buffer is full of what the peer has not read."""

    WORK_IN_HAND = enum.auto()
    """As many requests are unanswered as may be."""

    NO_ROOM = enum.auto()
    """All connections together hold as much as they may, and this one should not add to it."""

    READING_A_LARGE_ONE = enum.auto()
    """A frame is being read in a thread; those behind it keep their place."""

    CLOSING = enum.auto()
    """No further frame will be taken."""

    __hash__ = object.__hash__  # each is what it is; an enumeration's own hash is slow


@implementer(IPushProducer)
class TaskSubmitProtocol(Protocol, TimeoutMixin):
    """Cuts what arrives into frames and hands them to `frameReceived`, one by one, as long as nothing holds them.

    Made for each connection, in the manner of ``Int32StringReceiver``: override `frameReceived`, call `sendFrame`.
    While the peer does not read what we write, no further frames are taken from it, so that an endpoint that only ever
    writes in answer to a frame holds a bounded number of bytes. A connection that is idle for `idle_timeout` is closed;
    one that is then in the middle of a frame, or is not closed after another `close_timeout`, is aborted.

    A large frame goes to the transport in pieces, as that gets rid of them: it would encrypt or copy all of it at once.

    :ivar MAX_LENGTH: the largest payload to accept, in bytes; may be set until the connection is made.
    :ivar idle_timeout: seconds on the clock, None for no limit; may be set until the connection is made.
    :ivar close_timeout: seconds on the clock that the transport has to write out its buffer and close.
    :ivar is_writable: whether everything that was sent fits into the transport's buffer.
    """

    MAX_LENGTH: int = MAX_FRAME
    idle_timeout: float | None = IDLE_TIMEOUT_SECONDS
    close_timeout: float = CLOSE_TIMEOUT_SECONDS

    _log = Logger()

    @checked(clock=CLOCK)
    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock
        self.is_open = False
        self.is_writable = True
        self._is_lost = False
        self._is_paused = False
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._holds: set[Hold] = set()
        self._pending: deque[Frame] = deque()
        self._fault: FrameTooLarge | None = None
        self._delivering = False
        self._reading = True
        self._progress_bytes = 0
        self._decoder = FrameDecoder(self.MAX_LENGTH)

    # --- for subclasses to override -------------------------------------------------------------------------------

    def frameReceived(self, frame: Frame) -> None:
        """A whole frame has arrived. May call `hold`, after which no other comes until `release`."""
        raise NotImplementedError

    def part_received(self, size_bytes: int) -> None:
        """So much of an unfinished frame has arrived by now, often nothing. Called after each read."""

    def lengthLimitExceeded(self, error: FrameTooLarge) -> None:
        """A header announced too much; all frames before it were handed over. Aborts the connection by default."""
        self.abort()

    def is_busy(self) -> bool:
        """Tell whether something is going on that a silent peer may be waiting for; the connection is then not idle."""
        return False

    def writing_paused(self) -> None:
        """More was sent than fits into the transport's buffer. By default nothing is taken that would be answered."""
        self.hold(Hold.PEER_NOT_READING)

    def writing_resumed(self) -> None:
        """The transport has room again, and has all that was sent."""
        self.release(Hold.PEER_NOT_READING)

    # --- for subclasses to call -----------------------------------------------------------------------------------

    def sendFrame(self, frame: Frame) -> None:
        """Hand a frame to the transport. While the connection is closing, and after, it is dropped.

        :raises FrameTooLarge: the payload is over `MAX_FRAME` bytes.
        """
        if not isinstance(frame, Frame):
            raise wrong_type("frame", "a Frame, such as to_frame() of a message", frame)
        if frame.size_bytes < LARGE_BYTES:
            self.send_encoded(frame.encode())
        else:
            self._send_in_pieces(frame.header(), *frame.pieces)

    def send_encoded(self, frame: bytes) -> None:
        """Like `sendFrame`, for a frame that was encoded already."""
        if not isinstance(frame, bytes):
            raise wrong_type("frame", "bytes, such as encode() of a Frame", frame)
        if len(frame) >= LARGE_BYTES or self._unsent:
            self._send_in_pieces(frame)
        elif self.transport is not None and self.is_open:
            self.resetTimeout()
            self.transport.write(frame)

    def hold(self, why: Hold) -> None:
        """Take no further frame until `release` with the same reason."""
        if not isinstance(why, Hold):
            raise wrong_type("why", "a Hold", why)
        self._holds.add(why)
        self._set_reading()

    def release(self, why: Hold) -> None:
        """Take frames again, unless another reason remains. Those that had arrived are handed over at once."""
        if not isinstance(why, Hold):
            raise wrong_type("why", "a Hold", why)
        if why in self._holds:
            self._holds.remove(why)
            if self._is_lost:
                self._hand_over_rest()
            else:
                self._deliver()

    def is_held(self, why: Hold) -> bool:
        """Tell whether `hold` was called with this reason, and `release` not yet."""
        return why in self._holds

    def close(self) -> None:
        """Take no further frame, write out what was sent, and close; abort if that takes over `close_timeout`."""
        if self.transport is None or not self.is_open:
            return
        # A transport waits for its producer before it closes; and TLS must read the other side's goodbye.
        self._call_transport("unregisterProducer")
        self._is_paused = False
        self._write_unsent()
        self._stop()
        self.setTimeout(self.close_timeout)
        self._call_transport("resumeProducing")
        self.transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection, with everything that was not yet written."""
        self._stop()
        self.setTimeout(None)
        self._call_transport("abortConnection", instead="loseConnection")

    @property
    def is_mid_frame(self) -> bool:
        """Whether a part of a frame has arrived."""
        return self._decoder.buffered_bytes > 0

    # --- what the transport calls ---------------------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        self._decoder = FrameDecoder(self.MAX_LENGTH)
        self.is_open = self.is_writable = True
        self._is_lost = self._is_paused = False
        self._call_transport("setTcpKeepAlive", True)
        self._call_transport("setTcpNoDelay", True)
        self._call_transport("registerProducer", self, True)
        self.setTimeout(self.idle_timeout)

    @override
    def dataReceived(self, data: bytes) -> None:
        if not self.is_open:
            return
        was_mid_frame = self.is_mid_frame
        try:
            frames = self._decoder.feed(data)
        except FrameTooLarge as error:
            self._fault = error
            frames = error.frames
        self._progress_bytes += len(data)
        if frames or not was_mid_frame or self._progress_bytes >= MIN_PROGRESS_BYTES:
            self._progress_bytes = 0
            self.resetTimeout()
        self._pending.extend(frames)
        self.part_received(self._decoder.buffered_bytes)
        self._deliver()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)
        self.is_open = False
        self._is_lost = True
        self._hand_over_rest()

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._is_paused = True
        if self.is_writable:
            self.is_writable = False
            self.writing_paused()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self.resetTimeout()
        self._is_paused = False
        self._write_unsent()
        if not self._is_paused:
            self.is_writable = True
            self.writing_resumed()

    def stopProducing(self) -> None:
        """The transport is going away; `connectionLost` follows and does what is to be done."""

    @override
    def callLater(self, period: float, func: Callable[[], object]) -> IDelayedCall:
        return self.clock.callLater(period, func)

    @override
    def timeoutConnection(self) -> None:
        if self.is_open and self.is_busy():
            self.setTimeout(self.idle_timeout)
        elif self.is_open and not self.is_mid_frame:
            self.close()
        else:
            peer = None if self.transport is None else self.transport.getPeer()
            self._log.info("aborted {peer}, which stayed inside a frame or did not close in time", peer=peer)
            self.abort()

    def _hand_over_rest(self) -> None:
        """Hand over what has arrived on a connection that is lost by now, whatever held it, but in its order.

        Its sender may want no answer, and think it delivered. It is the rest of one read, so that it passes the limits
        by little.
        """
        while self._pending and not self._holds & {Hold.CLOSING, Hold.READING_A_LARGE_ONE}:
            self.frameReceived(self._pending.popleft())
        if Hold.READING_A_LARGE_ONE not in self._holds:
            self._stop()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Hand over what has arrived. A frame may be answered, and so release a hold, while it is handed over."""
        if not self._delivering:
            self._delivering = True
            try:
                while self._pending and not self._holds:
                    self.frameReceived(self._pending.popleft())
                if self._fault is not None and not self._holds:
                    fault, self._fault = self._fault, None
                    self.lengthLimitExceeded(fault)
            finally:
                self._delivering = False
        self._set_reading()

    def _send_in_pieces(self, *parts: bytes) -> None:
        if self.transport is not None and self.is_open:
            self.resetTimeout()
            for part in parts:
                self._unsent.extend(in_pieces(memoryview(part), PIECE))
                self._unsent_bytes += len(part)
            self._write_unsent()

    def _write_unsent(self) -> None:
        while self._unsent and not self._is_paused and self.transport is not None:
            piece = bytes(self._unsent.popleft())
            self._unsent_bytes -= len(piece)
            # A transport pauses when it has over 64 KiB. The last write is longer, so that it tells when all is taken.
            if self._unsent_bytes <= PIECE:
                piece = b"".join((piece, *self._unsent))
                self._unsent.clear()
                self._unsent_bytes = 0
            self.transport.write(piece)

    def _set_reading(self) -> None:
        wanted = not (self._holds or self._pending)
        if self.is_open and wanted != self._reading:
            self._reading = wanted
            self._call_transport("resumeProducing" if wanted else "pauseProducing")

    def _stop(self) -> None:
        self.is_open = False
        self._holds.add(Hold.CLOSING)
        self._pending.clear()
        self._unsent.clear()
        self._unsent_bytes = 0
        self._decoder = FrameDecoder(self.MAX_LENGTH)  # the transport may outlive its use, and a frame may be large

    def _call_transport(self, method: str, *args: object, instead: str = "") -> None:
        """Call what not every transport has: TLS over a Unix socket, say, claims methods of TCP that it lacks."""
        found = getattr(self.transport, method, None) or getattr(self.transport, instead, None)
        if found is not None:
            found(*args)
