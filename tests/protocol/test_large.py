"""Large messages, which are read and written in a thread: in their order, and with the same end as small ones."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import InvalidMessage, PeerUnreachable, TooLarge
from tasksubmit.protocol.elsewhere import LARGE_BYTES, do_elsewhere
from tasksubmit.protocol.server import ABORT_DELAY_SECONDS
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.wire.frames import MAX_FRAME, Frame, FrameType
from tasksubmit.wire.messages import TaskResultMessage
from tests.protocol.support import (
    OURS,
    NetworkTestCase,
    RawFactory,
    RawPeer,
    WaitingHandler,
    answer,
    encoded,
    request,
    results,
    update,
)
from tests.protocol.threads import ThreadedClock

LARGE = "x" * LARGE_BYTES


def large_request(task_id: str) -> bytes:
    """A submission that is read in a thread."""
    return encoded(request(task_id, LARGE))


def large_results(task_id: str) -> TaskResultMessage:
    """Results that are read and written in a thread."""
    return results(task_id, LARGE)


class LargeTestCase(NetworkTestCase):
    """A clock that has threads, and a network."""

    @override
    def setUp(self) -> None:
        self.clock: ThreadedClock = ThreadedClock()
        self.network = MemoryNetwork(self.clock)

    def work(self) -> None:
        """Let a thread do its work, and the network come to rest."""
        self.clock.work()
        self.network.flush()


class LargeRequestTests(LargeTestCase):
    """The server."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.handler = WaitingHandler()
        self.factory = self.serve(self.handler)
        self.peer = self.raw()

    def deliver(self, data: bytes) -> None:
        """Have the peer send bytes."""
        self.peer.send(data)
        self.network.flush()

    def reply(self, task_id: str) -> None:
        """Answer a waiting question."""
        self.handler.reply(task_id, answer(task_id))
        self.network.flush()

    @property
    def answered(self) -> list[str]:
        """The tasks about which there were answers."""
        return [response.task_id for response in self.peer.answers]

    def assert_lost(self, reason: type[Exception] = ConnectionDone) -> None:
        """The peer saw the connection end, and nothing is left of it."""
        assert self.peer.lost is not None, "still connected"
        self.peer.lost.trap(reason)
        self.assertEqual((self.factory.connections, self.factory.unfinished), (set(), set()))
        self.assertFalse(self.clock.is_busy)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_overtakes(self) -> None:
        """What comes behind a large frame is handed over after it, what came before it before, and so are answers."""
        self.deliver(encoded(request("a")) + large_request("b") + encoded(request("c"), update("d")))
        self.assertEqual(self.handler.ids, ["a"])
        self.deliver(encoded(results("e")))
        self.assertEqual(self.handler.ids, ["a"])
        self.work()
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d", "e"])
        for task_id in "edcba":
            self.assertEqual(self.answered, [])
            self.reply(task_id)
        self.assertEqual(self.answered, ["a", "b", "c", "d", "e"])

    def test_one_large_one_at_a_time(self) -> None:
        """Of several large frames in a row each is read when the one before it is, and all are handed over in order."""
        self.deliver(large_request("a") + encoded(large_results("b")) + encoded(request("c")) + large_request("d"))
        for ids in ("a", "abc", "abcd"):
            self.assertEqual(len(self.clock.pool.waiting), 1)
            self.work()
            self.assertEqual("".join(self.handler.ids), ids)
        self.assertFalse(self.clock.is_busy)

    def test_same_as_small(self) -> None:
        """A large message means what it says, whichever it is."""
        for kind in (request("a", LARGE), large_results("b"), evolve(large_results("c"), ack=False)):
            self.deliver(encoded(kind))
            self.work()
            task_id, message, _ = self.handler.asked[-1]
            self.assertTrue(message == kind, task_id)
            self.reply(task_id)
        self.assertEqual(self.answered, ["a", "b"])

    def test_small_ones_need_no_thread(self) -> None:
        """A frame that is not large is handed over at once."""
        envelope = len(request("a", "").to_json())
        self.deliver(encoded(request("a", "x" * (LARGE_BYTES - envelope - 1))))
        self.assertEqual((self.handler.ids, self.clock.is_busy), (["a"], False))
        self.deliver(encoded(request("b", "x" * (LARGE_BYTES - envelope))))
        self.assertEqual((self.handler.ids, self.clock.is_busy), (["a"], True))
        self.work()

    def test_malformed_submission(self) -> None:
        """A large submission that makes no sense is refused like a small one, in its turn, and the next is served."""
        small = Frame(FrameType.SUBMIT, b'{"task_id": 7}')
        self.deliver(small.encode())
        self.deliver(evolve(small, payload=small.payload + b" " * LARGE_BYTES).encode() + encoded(request("a")))
        self.assertEqual((len(self.peer.answers), self.handler.ids), (1, []))
        self.work()
        first, second = self.peer.answers
        self.assertEqual((first.status, first.code), (400, "malformed"))
        self.assertEqual(second, first)
        self.reply("a")
        self.assertEqual(self.answered, ["", "", "a"])

    def test_malformed_results(self) -> None:
        """Large results that make no sense end the connection, as small ones do, and nothing behind is handed over."""
        self.deliver(Frame(FrameType.SEND_RESULTS, b"[" * LARGE_BYTES).encode() + encoded(request("a")))
        self.assertIsNone(self.peer.lost)
        self.work()
        self.assertEqual((self.handler.ids, self.peer.answers), ([], []))
        self.assert_lost(ConnectionLost)

    def test_invalid(self) -> None:
        """A large submission that no honest peer sends is refused like a small one."""
        self.deliver(encoded(request("../a", LARGE)))
        self.work()
        self.assertEqual([(refusal.status, refusal.code) for refusal in self.peer.answers], [(400, "invalid")])

    def test_reading_fails(self) -> None:
        """When a large frame cannot be read for a reason of our own the connection is closed, and that is logged."""
        self.deliver(large_request("a") + encoded(request("b")))
        self.clock.work(MemoryError("no room"))
        self.network.flush()
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)
        self.assertEqual((self.handler.ids, self.peer.answers), ([], []))
        self.assert_lost(ConnectionLost)

    def test_lost_meanwhile(self) -> None:
        """A large frame that has arrived is handed over although the connection is lost as it is read."""
        self.deliver(large_request("a"))
        self.network.cut_all()
        self.assertEqual((self.handler.ids, len(self.factory.unfinished)), ([], 1))
        closed = self.factory.close_connections()
        self.work()
        self.assertEqual(self.handler.ids, ["a"])
        self.assertNoResult(closed)
        self.reply("a")
        self.successResultOf(closed)
        self.assert_lost(ConnectionLost)

    def test_malformed_and_lost_meanwhile(self) -> None:
        """A large frame that makes no sense leaves nothing behind when its connection is lost as it is read."""
        for frame_type in (FrameType.SUBMIT, FrameType.SEND_RESULTS):
            self.peer = self.raw()
            self.deliver(Frame(frame_type, b"[" * LARGE_BYTES).encode())
            self.network.cut_all()
            self.work()
            self.assertEqual((self.handler.ids, self.peer.answers), ([], []))
            self.assert_lost(ConnectionLost)

    def test_closing_meanwhile(self) -> None:
        """A server that is closed as it reads a large frame answers that first, and takes no other."""
        self.deliver(large_request("a") + encoded(request("b")))
        closed = self.factory.close_connections()
        self.network.flush()
        self.assertNoResult(closed)
        self.work()
        self.assertEqual(self.handler.ids, ["a"])
        self.reply("a")
        self.assertEqual(self.answered, ["a"])
        self.assertNoResult(closed)  # the other was not handled, so that the connection is aborted, a little later
        self.clock.advance(ABORT_DELAY_SECONDS)
        self.network.flush()
        self.successResultOf(closed)
        self.assert_lost(ConnectionLost)

    def test_idle_meanwhile(self) -> None:
        """A connection is not idle while a large frame of it is read."""
        self.deliver(large_request("a"))
        self.advance(10_000)
        self.work()
        self.reply("a")
        self.assertEqual(self.answered, ["a"])

    def test_lost_meanwhile_in_order(self) -> None:
        """What came behind a large frame is handed over after it, also when the connection is lost as it is read."""
        self.deliver(large_request("a") + encoded(update("a", ack=False)))
        self.network.cut_all()
        self.work()
        kinds = [type(message).__name__ for _, message, _ in self.handler.asked]
        self.assertEqual(kinds, ["SubmitRequest", "TaskStatusUpdate"])


class LargeResultsTests(LargeTestCase):
    """The client."""

    @override
    def setUp(self) -> None:
        super().setUp()

        def acknowledge(peer: RawPeer, frame: Frame) -> None:
            peer.send(encoded(answer(TaskResultMessage.from_frame(frame).task_id)))

        self.peers = RawFactory(acknowledge)
        self.listen(self.peers)

    def frames(self) -> list[Frame]:
        """What arrived."""
        return [frame for peer in self.peers.peers for frame in peer.frames]

    def test_sent(self) -> None:
        """Large results are written in a thread, arrive whole, and are acknowledged."""
        client = self.client(features=OURS)
        sent = client.send_results(evolve(large_results("a"), ack=False))
        self.network.flush()
        self.assertNotIn("there", self.network.dials)
        self.work()
        response = self.successResultOf(sent)
        assert response is not None
        self.assertEqual(response.task_id, "a")
        self.assertTrue(self.frames() == [large_results("a").to_frame()])

    def test_file(self) -> None:
        """A large file is sent like a large text."""
        message = TaskResultMessage("a", "file", filename="a.md", file_data=b"\xff" * LARGE_BYTES, ack=True)
        sent = self.client(features=OURS).send_results(message)
        self.work()
        self.successResultOf(sent)
        [frame] = self.frames()
        self.assertTrue(TaskResultMessage.from_frame(frame) == message)

    def test_many(self) -> None:
        """Large results go out in the order in which they were given; what is small needs no thread."""
        client = self.client(features=OURS)
        sent = [client.send_results(large_results(task_id)) for task_id in "abc"]
        small = client.send_results(results("d", "x" * (LARGE_BYTES - 1)))
        self.network.flush()
        self.successResultOf(small)
        for _ in sent:
            self.work()
        for deferred in sent:
            self.successResultOf(deferred)
        ids = [TaskResultMessage.from_frame(frame).task_id for frame in self.frames()]
        self.assertEqual(ids, ["d", "a", "b", "c"])

    def test_cannot_be_sent(self) -> None:
        """What cannot be written, or does not fit into a frame, fails by name, and nobody is dialled."""
        client = self.client(features=OURS)
        unwritable = client.send_results(results("a", f"{LARGE}\ud800"))
        self.work()
        self.failureResultOf(unwritable, InvalidMessage)
        too_large = client.send_results(results("a", "x" * MAX_FRAME))
        self.work()
        self.failureResultOf(too_large, TooLarge)
        self.assertNotIn("there", self.network.dials)

    def test_cancelled_meanwhile(self) -> None:
        """Large results that are taken back before they are written are not sent, and others are."""
        client = self.client(features=OURS)
        cancelled, sent = client.send_results(large_results("a")), client.send_results(large_results("b"))
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.work()
        self.assertNotIn("there", self.network.dials)
        self.work()
        self.successResultOf(sent)
        [frame] = self.frames()
        self.assertEqual(TaskResultMessage.from_frame(frame).task_id, "b")

    def test_cancelled_in_the_queue(self) -> None:
        """Large results that are taken back while a connection is made are not sent."""
        cancelled = self.client(features=OURS).send_results(large_results("a"))
        self.clock.work()
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        self.network.flush()
        self.assertEqual(self.frames(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed_meanwhile(self) -> None:
        """Large results whose client is closed before they are written fail as unreachable, and nobody is dialled."""
        client = self.client(features=OURS)
        sent = client.send_results(large_results("a"))
        self.successResultOf(client.close())
        self.assertNoResult(sent)
        self.work()
        self.failureResultOf(sent, PeerUnreachable)
        self.assertNotIn("there", self.network.dials)


class ElsewhereTests(SynchronousTestCase):
    """Where work is done."""

    def test_where(self) -> None:
        """Only what is about much waits for a thread, and only where there are threads."""
        for clock, size, is_done in (
            (Clock(), 10 * LARGE_BYTES, True),
            (ThreadedClock(), LARGE_BYTES - 1, True),
            (ThreadedClock(), LARGE_BYTES, False),
        ):
            found: list[int] = []
            do_elsewhere(clock, size, lambda: 7).addCallback(found.append)
            self.assertEqual(found, [7] if is_done else [])
            if isinstance(clock, ThreadedClock) and not is_done:
                clock.work()
            self.assertEqual(found, [7])

    def test_one_at_a_time(self) -> None:
        """What is large is done by one thread at a time, in the order in which it came, also after a failure."""
        clock = ThreadedClock()
        done = [do_elsewhere(clock, LARGE_BYTES, call) for call in (lambda: 1 // 0, lambda: 2, lambda: 3)]
        for _ in done:
            self.assertEqual(len(clock.pool.waiting), 1)
            clock.work()
        self.assertFalse(clock.is_busy)
        self.failureResultOf(done[0], ZeroDivisionError)
        self.assertEqual([self.successResultOf(each) for each in done[1:]], [2, 3])

    def test_fails(self) -> None:
        """What the work raises fails its Deferred, wherever it was done."""
        clock = ThreadedClock()
        for size in (0, LARGE_BYTES):
            done = do_elsewhere(clock, size, lambda: 1 // 0)
            if clock.is_busy:
                clock.work()
            self.failureResultOf(done, ZeroDivisionError)
