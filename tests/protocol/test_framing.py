"""Frames on a transport: limits, time-outs, back-pressure."""

from __future__ import annotations

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface.verify import verifyObject

from tasksubmit.errors import FrameTooLarge
from tasksubmit.pieces import PIECE
from tasksubmit.protocol.elsewhere import LARGE_BYTES
from tasksubmit.protocol.framing import MIN_PROGRESS_BYTES, Hold, TaskSubmitProtocol
from tasksubmit.testing.transport import BUFFER_BYTES
from tasksubmit.wire.frames import Frame
from tests.protocol.support import NetworkTestCase, RawPeer


class Collector(TaskSubmitProtocol):
    """Keeps frames; can hold after each, or echo each."""

    MAX_LENGTH = 100_000
    idle_timeout: float | None = 60.0
    close_timeout = 10.0

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.frames: list[Frame] = []
        self.errors: list[FrameTooLarge] = []
        self.lost: Failure | None = None
        self.echoes = False
        self.holds_after_each = False
        self.busy = False

    @override
    def frameReceived(self, frame: Frame) -> None:
        self.frames.append(frame)
        if self.holds_after_each:
            self.hold(Hold.WORK_IN_HAND)
        if self.echoes:
            self.sendFrame(frame)

    @override
    def lengthLimitExceeded(self, error: FrameTooLarge) -> None:
        self.errors.append(error)
        super().lengthLimitExceeded(error)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.lost = reason

    @override
    def is_busy(self) -> bool:
        return self.busy


LARGE = Frame(4, bytes(range(256)) * 4096)
"""A frame that does not go to the transport at once."""


class FramingTests(NetworkTestCase):
    """One raw peer against one `Collector`."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.collector = Collector(self.clock)
        self.listen(Factory.forProtocol(lambda: self.collector))
        self.peer: RawPeer = self.raw()

    def deliver(self, data: bytes) -> None:
        """Have the peer send bytes, all of which that can arrive do."""
        self.peer.send(data)
        self.network.flush()

    def assert_lost(self, ours: type[Exception], theirs: type[Exception]) -> None:
        """Both ends were told that the connection ended, and how."""
        assert self.collector.lost is not None and self.peer.lost is not None
        self.collector.lost.trap(ours)
        self.peer.lost.trap(theirs)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_interface(self) -> None:
        """It is a push producer for its transport."""
        verifyObject(IPushProducer, self.collector)

    def test_frames(self) -> None:
        """However the bytes are cut, the same frames arrive in order."""
        frames = [Frame(1, b"{}"), Frame(9, b""), Frame(4, b"x" * 300)]
        data = b"".join(frame.encode() for frame in frames)
        for size in (1, 7, 8, 9, len(data)):
            self.collector.frames.clear()
            for start in range(0, len(data), size):
                self.deliver(data[start : start + size])
            self.assertEqual(self.collector.frames, frames)

    def test_too_large(self) -> None:
        """A header over the limit aborts, after the frames before it were handed over and with nothing buffered."""
        self.deliver(Frame(1, b"a").encode() + Frame(1, b"b" * 100_001).encode()[:9])
        self.assertEqual([frame.payload for frame in self.collector.frames], [b"a"])
        self.assertEqual(len(self.collector.errors), 1)
        self.assertFalse(self.collector.is_mid_frame)
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_too_large_waits_for_held_frames(self) -> None:
        """While frames before the oversized one are held, it is not acted on."""
        self.collector.holds_after_each = True
        self.deliver(Frame(1, b"a").encode() + Frame(1, b"b").encode() + Frame(1, b"c" * 100_001).encode()[:8])
        self.assertEqual((len(self.collector.frames), self.collector.errors), (1, []))
        self.collector.release(Hold.WORK_IN_HAND)
        self.assertEqual((len(self.collector.frames), self.collector.errors), (2, []))
        self.collector.release(Hold.WORK_IN_HAND)
        self.assertEqual(len(self.collector.errors), 1)

    def test_largest(self) -> None:
        """A payload of exactly the limit is taken."""
        self.deliver(Frame(1, b"b" * 100_000).encode())
        self.assertEqual(len(self.collector.frames), 1)

    def test_hold(self) -> None:
        """While held no frame is handed over, and beyond what had arrived nothing is read."""
        self.collector.holds_after_each = True
        one = Frame(1, b"x" * 1000).encode()
        for _ in range(200):
            self.deliver(one)
        self.assertEqual(len(self.collector.frames), 1)
        assert self.peer.transport is not None
        self.assertGreaterEqual(len(self.peer.transport.unread), 199 * len(one) - BUFFER_BYTES)  # type: ignore[attr-defined]
        for expected in range(2, 201):
            self.collector.release(Hold.WORK_IN_HAND)
            self.network.flush()
            self.assertEqual(len(self.collector.frames), expected)

    def test_released_at_once(self) -> None:
        """However many frames are each held and released while they are handed over, none overtakes another."""
        seen: list[Frame] = []

        def receive(frame: Frame) -> None:
            self.collector.hold(Hold.WORK_IN_HAND)
            self.collector.release(Hold.WORK_IN_HAND)
            seen.append(frame)

        self.patch(self.collector, "frameReceived", receive)
        frames = [Frame(number, b"") for number in range(5000)]
        self.deliver(b"".join(frame.encode() for frame in frames))
        self.assertEqual(seen, frames)

    def test_two_holds(self) -> None:
        """Frames come again only when the last reason to hold is gone."""
        self.collector.hold(Hold.WORK_IN_HAND)
        self.collector.hold(Hold.PEER_NOT_READING)
        self.deliver(Frame(1, b"x").encode())
        self.collector.release(Hold.WORK_IN_HAND)
        self.network.flush()
        self.assertEqual(self.collector.frames, [])
        self.collector.release(Hold.PEER_NOT_READING)
        self.network.flush()
        self.assertEqual(len(self.collector.frames), 1)

    def test_back_pressure(self) -> None:
        """A peer that sends and never reads makes us hold a bounded number of bytes, and gets all once it reads."""
        self.collector.echoes = True
        self.stalled()
        one = Frame(1, b"x" * 999).encode()
        for _ in range(1000):
            self.deliver(one)
        self.assertLessEqual(self.unread_bytes, 2 * BUFFER_BYTES)
        self.assertGreater(self.unread_bytes, BUFFER_BYTES)
        self.resumed()
        self.assertEqual(self.peer.received, one * 1000)

    def stalled(self) -> None:
        """The peer stops to read."""
        assert self.peer.transport is not None
        self.peer.transport.pauseProducing()  # type: ignore[attr-defined]

    def resumed(self, steps: int | None = None) -> None:
        """The peer reads again: all that comes, or what comes in so many steps of the network."""
        assert self.peer.transport is not None
        self.peer.transport.resumeProducing()  # type: ignore[attr-defined]
        if steps is None:
            self.network.flush()
        for _ in range(steps or 0):
            self.network.pump()

    def read_some(self) -> None:
        """The peer reads for a few steps: more than the transport had, so that it asks for more."""
        self.resumed(steps=3)
        self.stalled()

    @property
    def unread_bytes(self) -> int:
        """How many bytes the transport has not got rid of."""
        assert self.collector.transport is not None
        return len(self.collector.transport.unread)  # type: ignore[attr-defined]

    def test_large_in_pieces(self) -> None:
        """The transport gets of a large frame what it has room for; what is sent meanwhile comes after it."""
        sent = [Frame(1, b"a"), LARGE, Frame(3, b"c"), Frame(4, b"d" * LARGE_BYTES)]
        self.stalled()
        for frame in sent:
            self.collector.sendFrame(frame)
            self.network.flush()
            self.assertLessEqual(self.unread_bytes, 2 * BUFFER_BYTES)
        self.assertFalse(self.collector.is_writable)
        self.resumed()
        self.assertEqual(self.peer.received == b"".join(frame.encode() for frame in sent), True)
        self.assertTrue(self.collector.is_writable)

    def test_large_is_taken_whole(self) -> None:
        """However a large frame is cut: it counts as written once the transport has got rid of all of it."""
        sizes = (LARGE_BYTES, LARGE_BYTES + 1, 5 * PIECE - 9, 5 * PIECE, 5 * PIECE + 1)
        for frame in (*(Frame(1, bytes(size)) for size in sizes), Frame(1, (bytes(LARGE_BYTES), b"x" * 9, b"y"))):
            self.collector.sendFrame(frame)
            while not self.collector.is_writable:
                self.assertTrue(self.network.pump())
            self.assertEqual(self.unread_bytes, 0)
            self.network.flush()

    def test_large_is_not_read_meanwhile(self) -> None:
        """While a large frame goes out no frame is taken that would be answered, also where the transport has room."""
        self.stalled()
        self.collector.sendFrame(LARGE)
        self.deliver(Frame(1, b"x").encode())
        while len(self.peer.received) < len(LARGE.payload):
            self.assertEqual(self.collector.frames, [])
            self.read_some()
        self.resumed()
        self.assertEqual(len(self.collector.frames), 1)

    def test_large_is_closed_after(self) -> None:
        """Closing sends the rest of a large frame, and what was sent after it; aborting neither."""
        last = Frame(1, b"last")
        for frame in (LARGE, last):
            self.collector.sendFrame(frame)
        self.collector.close()
        self.network.flush()
        self.assertEqual(self.peer.received == LARGE.encode() + last.encode(), True)
        self.assert_lost(ConnectionDone, ConnectionDone)

    def test_large_is_aborted(self) -> None:
        """Aborting drops the rest of a large frame."""
        self.collector.sendFrame(LARGE)
        self.collector.abort()
        self.network.flush()
        self.assertLess(len(self.peer.received), 3 * BUFFER_BYTES)
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_large_is_cut(self) -> None:
        """A connection that is lost in the middle of a large frame leaves nothing to be sent on the next."""
        self.collector.sendFrame(LARGE)
        self.network.cut_all()
        self.assert_lost(ConnectionLost, ConnectionLost)
        self.peer = self.raw()
        other = Frame(1, b"x" * LARGE_BYTES)
        self.collector.sendFrame(other)
        self.network.flush()
        self.assertEqual(self.peer.received == other.encode(), True)

    def test_large_is_not_idle(self) -> None:
        """A connection on which a large frame goes out, however slowly, is not idle; one on which it stays is."""
        self.stalled()
        self.collector.sendFrame(LARGE)
        for _ in range(3):
            self.advance(59)
            self.read_some()
        self.assertIsNone(self.collector.lost)
        self.advance(61)
        self.advance(10)
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_frames_before_close_are_handed_over(self) -> None:
        """Frames that had arrived are handed over although the peer has gone while they were held."""
        self.collector.hold(Hold.PEER_NOT_READING)
        self.collector.dataReceived(Frame(3, b"last").encode())
        self.network.cut_all()
        self.assertEqual([frame.payload for frame in self.collector.frames], [b"last"])

    def test_idle(self) -> None:
        """A connection on which nothing happens is closed cleanly after the idle time-out, not before."""
        self.deliver(Frame(1, b"x").encode())
        self.advance(59.9)
        self.deliver(Frame(1, b"x").encode())
        self.advance(59.9)
        self.assertIsNone(self.collector.lost)
        self.advance(0.2)
        self.assert_lost(ConnectionDone, ConnectionDone)

    def test_sending_is_not_idle(self) -> None:
        """Sending a frame starts the idle time anew."""
        self.advance(50)
        self.collector.sendFrame(Frame(1, b"x"))
        self.advance(50)
        self.assertIsNone(self.collector.lost)

    def test_busy_is_not_idle(self) -> None:
        """A connection that the subclass calls busy outlives the idle time-out."""
        self.collector.busy = True
        self.advance(200)
        self.assertIsNone(self.collector.lost)
        self.collector.busy = False
        self.advance(60)
        self.assert_lost(ConnectionDone, ConnectionDone)

    def test_no_idle_timeout(self) -> None:
        """With None there is no timer at all."""
        self.collector.close()
        self.network.flush()
        self.collector = Collector(self.clock)
        self.collector.idle_timeout = None
        self.peer = self.raw()
        self.deliver(Frame(1, b"x").encode())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stays_in_frame(self) -> None:
        """A connection that stays in the middle of a frame is aborted, however steadily single bytes trickle in."""
        self.deliver(Frame(1, b"x" * 1000).encode()[:12])
        for _ in range(7):
            self.advance(10)
            self.peer.send(b"\0")
        self.network.flush()
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_slow_frame(self) -> None:
        """A frame that makes enough progress may take longer than the idle time-out."""
        self.collector.close()
        self.network.flush()
        self.collector = Collector(self.clock)
        self.collector.MAX_LENGTH = 10 * MIN_PROGRESS_BYTES
        self.peer = self.raw()
        data = Frame(1, b"x" * 5 * MIN_PROGRESS_BYTES).encode()
        for start in range(0, len(data), MIN_PROGRESS_BYTES):
            self.deliver(data[start : start + MIN_PROGRESS_BYTES])
            self.advance(50)
        self.assertEqual(len(self.collector.frames), 1)

    def test_does_not_close(self) -> None:
        """A connection whose peer does not take our last bytes is aborted after the close time-out."""
        self.stalled()
        self.collector.sendFrame(Frame(1, b"x"))
        self.collector.close()
        self.advance(9.9)
        self.assertIsNone(self.collector.lost)
        self.advance(0.2)
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_close_writes_first(self) -> None:
        """Closing sends what was written, even more than a buffer of it, and drops what comes after."""
        frame = Frame(1, b"x" * 90_000)
        self.collector.sendFrame(frame)
        self.collector.close()
        self.collector.sendFrame(frame)
        self.collector.close()
        self.deliver(Frame(1, b"late").encode())
        self.assertEqual(self.peer.received, frame.encode())
        self.assertEqual(self.collector.frames, [])
        self.assert_lost(ConnectionDone, ConnectionDone)

    def test_cut(self) -> None:
        """A lost connection leaves no timer behind, and sending on it does nothing."""
        self.deliver(b"\0\0")
        self.network.cut_all()
        self.collector.sendFrame(Frame(1, b"x"))
        self.collector.close()
        self.collector.abort()
        self.assert_lost(ConnectionLost, ConnectionLost)


class BareTransportTests(NetworkTestCase):
    """Transports with less, or more, than ours."""

    def test_tcp_options(self) -> None:
        """Keep-alive is switched on, and Nagle's algorithm off, where the transport has them."""
        set_to: dict[str, bool] = {}

        class Transport:
            disconnecting = False

            def setTcpKeepAlive(self, on: bool) -> None:
                set_to["keepalive"] = on

            def setTcpNoDelay(self, on: bool) -> None:
                set_to["nodelay"] = on

            def loseConnection(self) -> None:
                set_to["lost"] = True

        collector = Collector(self.clock)
        collector.makeConnection(Transport())
        self.assertEqual(set_to, {"keepalive": True, "nodelay": True})
        collector.abort()
        self.assertTrue(set_to["lost"])
