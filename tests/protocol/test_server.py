"""The server: every request answered once and in order, limits, refusals, endings."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from tasksubmit.errors import PeerVanished, StoreError, StoreUncertain, TaskConflict
from tasksubmit.interfaces import ITaskHandler, Peer, SendResult
from tasksubmit.protocol.server import ABORT_DELAY_SECONDS
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.testing.transport import BUFFER_BYTES
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.messages import MAX_TEXT_BYTES, SubmitRequest, SubmitResponse, TaskResult
from tests.protocol.support import (
    RESULT,
    THERE,
    NetworkTestCase,
    RawPeer,
    WaitingHandler,
    answer,
    encoded,
    request,
    results,
    update,
)
from tests.tiers import examples


class ServerTestCase(NetworkTestCase):
    """One raw peer against the server with a `WaitingHandler`."""

    def start(self, **options: object) -> RawPeer:
        """Serve, and dial."""
        self.handler = WaitingHandler()
        self.factory = self.serve(self.handler, **options)
        return self.raw()

    def deliver(self, peer: RawPeer, data: bytes) -> None:
        """Have the peer send bytes."""
        peer.send(data)
        self.network.flush()

    def reply(self, task_id: str, value: object = True) -> None:
        """Answer a waiting question."""
        self.handler.reply(task_id, value)
        self.network.flush()

    def assert_aborted(self, peer: RawPeer) -> None:
        """The connection is aborted, once the answers that were written have left."""
        if peer.answers:
            self.assertIsNone(peer.lost)
            self.advance(ABORT_DELAY_SECONDS)
        self.assert_lost(peer, ConnectionLost)

    def assert_lost(self, peer: RawPeer, reason: type[Exception] = ConnectionDone) -> None:
        """The peer saw the connection end, and the server has forgotten it."""
        assert peer.lost is not None, "still connected"
        peer.lost.trap(reason)
        self.assertEqual(self.factory.connections, set())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AnswerTests(ServerTestCase):
    """What is answered."""

    def test_interface(self) -> None:
        """The test's handler, and what a function is wrapped in, provide `ITaskHandler`."""
        verifyObject(ITaskHandler, WaitingHandler())
        verifyObject(ITaskHandler, self.serve(lambda *_: True).handler)

    def test_true_and_false(self) -> None:
        """True is answered 200 and False 400, with the seed's words and our features."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), request("b")))
        self.reply("a", True)
        self.reply("b", False)
        self.assertEqual(
            peer.answers,
            [
                SubmitResponse("a", 200, "Task accepted and queued", features=("persistent", "ack")),
                SubmitResponse("b", 400, "Task rejected", features=("persistent", "ack")),
            ],
        )

    def test_own_answer(self) -> None:
        """An answer of the handler's own goes out as it is, features added."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        mine = SubmitResponse("a", 400, "no", code="quota", retry_after_s=5)
        self.reply("a", mine)
        self.assertEqual(peer.answers, [evolve(mine, features=("persistent", "ack"))])

    def test_updates_and_results(self) -> None:
        """Updates and results are answered only when they ask for it; all of them are handled."""
        peer = self.start()
        self.deliver(peer, encoded(update("a", ack=False), results("b"), results("c", ack=False), update("d")))
        for task_id in "abcd":
            self.reply(task_id, answer(task_id))
        self.assertEqual([response.task_id for response in peer.answers], ["b", "d"])
        self.assertIsNone(peer.lost)

    def test_in_order(self) -> None:
        """Frames are handed over without waiting; answers go out in the order in which the frames came."""
        peer = self.start()
        self.deliver(peer, encoded(*map(request, "abcd")))
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d"])
        sent_after = []
        for task_id in "cbad":
            self.reply(task_id)
            sent_after.append("".join(response.task_id for response in peer.answers))
        self.assertEqual(sent_after, ["", "", "abc", "abcd"])

    @settings(deadline=None, max_examples=examples(50))
    @given(st.data())
    def test_any_order(self, data: st.DataObject) -> None:
        """Whatever frames come and in whatever order they are handled, each that asks is answered once, in order."""
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        peer = self.start(max_outstanding=3)
        kinds = data.draw(st.lists(st.sampled_from([request, update, results, "silent", "broken"]), max_size=12))
        wanted = []
        for number, kind in enumerate(kinds):
            task_id = f"t{number}"
            if kind == "silent":
                peer.send(encoded(update(task_id, ack=False)))
            elif kind == "broken":
                peer.send(Frame(1, b"{").encode())
                wanted.append("")
            else:
                assert callable(kind)
                peer.send(encoded(kind(task_id)))
                wanted.append(task_id)
        self.network.flush()
        while waiting := [task_id for task_id, _, deferred in self.handler.asked if not deferred.called]:
            self.assertLessEqual(len(waiting), 3)
            chosen = data.draw(st.sampled_from(waiting))
            self.reply(chosen, answer(chosen))
        self.assertEqual([response.task_id for response in peer.answers], wanted)

    def test_handler_at_once(self) -> None:
        """A handler that answers at once is served many frames in one read, past the limit of unanswered ones."""
        peer = self.start(max_outstanding=2)
        self.handler.at_once = lambda _: True
        ids = [f"t{number}" for number in range(500)]
        self.deliver(peer, encoded(*map(request, ids)))
        self.assertEqual([response.task_id for response in peer.answers], ids)

    def test_peer(self) -> None:
        """The handler learns where the connection comes from, and whom the transport has authenticated."""
        transports: list[object] = []

        def identify(transport: object) -> object:
            transports.append(transport)
            return THERE

        peer = self.start(identify=identify)
        self.assertEqual(transports, [])
        self.deliver(peer, encoded(request("a"), request("b")))
        self.assertEqual(len(transports), 1)
        self.assertEqual(self.handler.peers, [Peer(THERE, "dialler 1")] * 2)

    def test_peer_unknown(self) -> None:
        """By default nobody is authenticated."""
        self.deliver(self.start(), encoded(request()))
        self.assertIsNone(self.handler.peers[0].address)

    def test_identify_fails(self) -> None:
        """A peer that cannot be identified is refused, never taken for somebody unauthenticated."""

        def identify(transport: object) -> object:
            raise ValueError("bad certificate")

        peer = self.start(identify=identify)
        self.deliver(peer, encoded(request()))
        self.assertEqual(peer.answers[0].code, "overloaded")
        self.assertEqual(self.handler.asked, [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class FunctionTests(ServerTestCase):
    """The seed's kind of handler."""

    def test_bool(self) -> None:
        """A function gives True or False, at once or later."""
        later: Deferred[bool] = Deferred()
        asked: list[SubmitRequest] = []

        def decide(peer: Peer, request: SubmitRequest, send_result: SendResult) -> bool | Deferred[bool]:
            asked.append(request)
            return later if request.task_id == "a" else False

        self.factory = self.serve(decide)
        peer = self.raw()
        self.deliver(peer, encoded(request("a"), request("b")))
        later.callback(True)
        self.network.flush()
        self.assertEqual([(r.task_id, r.status) for r in peer.answers], [("a", 200), ("b", 400)])
        self.assertEqual(asked, [request("a"), request("b")])

    def test_coroutine_function(self) -> None:
        """An async function serves as well."""

        async def decide(peer: Peer, request: SubmitRequest, send_result: SendResult) -> bool:
            return True

        self.factory = self.serve(decide)
        peer = self.raw()
        self.deliver(peer, encoded(request("a")))
        self.assertEqual(peer.answers[0].status, 200)

    def test_no_tasks(self) -> None:
        """Updates and results are refused, there being no tasks that they could be about."""
        self.factory = self.serve(lambda *_: True)
        peer = self.raw()
        self.deliver(peer, encoded(update("a"), results("b"), update("c", ack=False)))
        self.assertEqual([(r.status, r.code) for r in peer.answers], [(400, "unknown_task")] * 2)


class ResultTests(ServerTestCase):
    """The old synchronous result."""

    def test_after_the_answer(self) -> None:
        """A result that is ready before the answer, or before earlier answers, goes out right after its own."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), request("b"), request("c")))
        self.handler.send_results["b"](RESULT)
        self.reply("b")
        self.reply("c")
        self.assertEqual(peer.frames, [])
        self.reply("a")
        self.assertEqual([frame.type for frame in peer.frames], [1, 1, 2, 1])
        self.assertEqual(TaskResult.from_frame(peer.frames[2]), RESULT)

    def test_later(self) -> None:
        """A result may be sent at any time while the connection lasts, and goes out at once."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        self.reply("a")
        self.advance(30)
        self.handler.send_results["a"](RESULT)
        self.network.flush()
        self.assertEqual([frame.type for frame in peer.frames], [FrameType.SUBMIT, FrameType.RESULT])

    def test_gone(self) -> None:
        """Once the connection is gone, or closing, sending a result raises `PeerVanished`."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        peer.close()
        self.network.flush()
        self.assertRaises(PeerVanished, self.handler.send_results["a"], RESULT)
        self.reply("a")


class RefusalTests(ServerTestCase):
    """What makes no sense."""

    def refusal(self, data: bytes, **options: object) -> SubmitResponse:
        """Give the one answer to some bytes; the handler is not asked and the connection stays."""
        peer = self.start(**options)
        self.deliver(peer, data)
        self.assertEqual(self.handler.asked, [])
        self.deliver(peer, encoded(request("next")))
        self.reply("next")
        first, second = peer.answers
        self.assertEqual((second.task_id, second.status), ("next", 200))
        self.assertEqual(first.status, 400)
        self.assertEqual(first.features, ("persistent", "ack"))
        self.assertNotEqual(first.message, "")
        return first

    def test_malformed_submit(self) -> None:
        """A SUBMIT that cannot be decoded is answered 400 malformed, with no task id."""
        for payload in (b"", b"{", b"[]", b'{"task_id":5}', b"\xff"):
            refused = self.refusal(Frame(1, payload).encode())
            self.assertEqual((refused.code, refused.task_id), ("malformed", ""))
            self.setUp()

    def test_invalid_submit(self) -> None:
        """A SUBMIT that decodes and makes no sense is answered 400 invalid."""
        refused = self.refusal(encoded(evolve(request("a"), expires_at="tomorrow")))
        self.assertEqual((refused.code, refused.task_id), ("invalid", "a"))

    def test_invalid_id(self) -> None:
        """An id that is not one is sent back only if it is short."""
        self.assertEqual(self.refusal(encoded(request("../x"))).task_id, "../x")
        self.setUp()
        self.assertEqual(self.refusal(encoded(request("x" * 129))).task_id, "")

    def test_description_too_large(self) -> None:
        """A description over the limit is answered 400 too_large."""
        refused = self.refusal(encoded(request("a", "x" * 101)), max_description_bytes=100)
        self.assertEqual((refused.code, refused.task_id), ("too_large", "a"))

    def test_submit_too_large(self) -> None:
        """A SUBMIT that no description within the limit can make is answered 400 too_large, and not decoded."""
        refused = self.refusal(Frame(1, b"{" * (600 + 65537)).encode(), max_description_bytes=100)
        self.assertEqual((refused.code, refused.task_id), ("too_large", ""))

    def test_submit_escaped(self) -> None:
        """A description of the longest length is taken, however its sender escapes it."""
        peer = self.start(max_description_bytes=100_000)
        payload = b'{"task_id":"a","task_description":"' + b"\\u0061" * 100_000 + b'"}'
        self.deliver(peer, Frame(1, payload).encode())
        self.assertEqual(self.handler.ids, ["a"])

    def test_update_too_large(self) -> None:
        """A status update over its limit ends the connection; results have the limit of frames."""
        peer = self.start()
        longest = "\x01" * MAX_TEXT_BYTES
        self.deliver(peer, encoded(results("a", "x" * 600_000)))
        self.deliver(peer, encoded(evolve(update("b"), justification=longest, error=longest)))
        self.deliver(peer, encoded(evolve(update("c"), justification="x" * 600_000)))
        self.assertEqual(self.handler.ids, ["a", "b"])
        self.reply("a")
        self.reply("b")
        self.assertEqual([response.status for response in peer.answers], [200, 200])
        self.assert_aborted(peer)

    def test_many_faults(self) -> None:
        """So many malformed or invalid frames end the connection; the first is logged, and how many there were."""
        with capturedLogs() as events:
            peer = self.start()
            bad = Frame(1, b"{").encode() + encoded(request("/"), evolve(update("a", ack=False), status="LOST"))
            self.deliver(peer, bad * 5 + encoded(request("good")))
            self.reply("good")
            self.deliver(peer, encoded(request("/"), request("late")))
            self.assertEqual(self.handler.ids, ["good"])
            self.assertEqual(len(peer.answers), 12)
            self.assert_aborted(peer)
        lines = [str(formatEvent(event)) for event in events]
        self.assertEqual(len([line for line in lines if "is refused" in line]), 1)
        self.assertEqual(lines[-1], "dialler 1 sent 16 frames that made no sense")

    def test_other_refusals_are_no_faults(self) -> None:
        """Requests that make sense may be refused as often as it takes, and are all logged."""
        peer = self.start()
        with capturedLogs() as events:
            for number in range(20):
                self.deliver(peer, encoded(request(f"t{number}")))
                self.reply(f"t{number}", TaskConflict("no"))
        self.assertIsNone(peer.lost)
        self.assertEqual(len([event for event in events if "refused" in str(formatEvent(event))]), 20)

    def test_invalid_update(self) -> None:
        """An update or results that make no sense are answered 400 if they ask, and ignored otherwise."""
        refused = self.refusal(encoded(evolve(update("a"), status="LOST")))
        self.assertEqual((refused.code, refused.task_id), ("invalid", "a"))
        self.setUp()
        refused = self.refusal(
            encoded(evolve(results("a", ack=False), time_cpu_ms=-1), evolve(results("b"), time_cpu_ms=-1))
        )
        self.assertEqual((refused.code, refused.task_id), ("invalid", "b"))

    def test_unanswerable(self) -> None:
        """A frame that may or may not want an answer ends the connection, once the answers before it are out."""
        bad_frames = (
            Frame(3, b"{"),
            Frame(4, b'{"ack":1}'),
            RESULT.to_frame(),
            Frame(99, b"{}"),
            Frame(1, b"x" * 1001),
        )
        for bad in bad_frames:
            peer = self.start(max_frame=1000)
            self.deliver(peer, encoded(request("a"), request("b")) + bad.encode() + encoded(request("c")))
            self.assertEqual(self.handler.ids, ["a", "b"])
            self.reply("b")
            self.assertIsNone(peer.lost)
            self.reply("a")
            self.assertEqual([response.task_id for response in peer.answers], ["a", "b"])
            self.assert_aborted(peer)
            self.setUp()

    def test_uncertain(self) -> None:
        """When it is not known what is on the disk there is no answer, and the connection is aborted."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        self.reply("a", StoreUncertain("the disk is gone"))
        self.assertEqual(peer.answers, [])
        self.assert_aborted(peer)

    def test_uncertain_among_others(self) -> None:
        """Those before it are answered; of those behind it none is, for it would be taken for the missing answer."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), request("b"), request("c")))
        for task_id, value in (("c", True), ("b", StoreUncertain("the disk is gone")), ("a", True)):
            self.reply(task_id, value)
        self.assertEqual([response.task_id for response in peer.answers], ["a"])
        self.deliver(peer, encoded(request("d")))
        self.assert_aborted(peer)
        self.assertEqual(self.handler.ids, ["a", "b", "c"])

    def test_uncertain_while_others_wait(self) -> None:
        """The connection is aborted although something behind is still in work, which is finished."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), request("b")))
        self.reply("a", StoreUncertain("the disk is gone"))
        assert peer.lost is not None
        self.assertEqual(len(self.factory.unfinished), 1)
        self.reply("b")
        self.assertEqual((peer.answers, self.factory.unfinished), ([], set()))
        self.assert_aborted(peer)

    def test_named_error(self) -> None:
        """An error of ours from the handler is answered with its code and text, and not logged as a failure."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), update("b")))
        self.reply("a", TaskConflict("that id is taken"))
        self.reply("b", TaskConflict("no"))
        self.assertEqual(
            [(r.code, r.message) for r in peer.answers], [("id_conflict", "that id is taken"), ("id_conflict", "no")]
        )

    def test_store_error(self) -> None:
        """A broken store is logged, and its error's text, which names files, is kept from the peer."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        self.reply("a", StoreError("/var/lib/secret is full"))
        self.assertEqual(peer.answers[0].code, "storage")
        self.assertNotIn("secret", peer.answers[0].message)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)

    def test_store_error_without_an_answer(self) -> None:
        """A message that asks for no answer, and could not be stored, is not taken for delivered: it is aborted."""
        peer = self.start()
        self.deliver(peer, encoded(update("a", ack=False)))
        self.reply("a", StoreError("/var/lib/secret is full"))
        self.assertEqual(peer.answers, [])
        self.assert_aborted(peer)

    def test_other_error(self) -> None:
        """Any other failure of the handler is logged, and the peer told to try again later."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), update("b", ack=False), results("c")))
        for task_id in "abc":
            self.reply(task_id, ValueError("secret"))
        self.assertEqual([(r.task_id, r.code) for r in peer.answers], [("a", "overloaded"), ("c", "overloaded")])
        self.assertNotIn("secret", peer.answers[0].message)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 3)

    def test_nonsense_from_handler(self) -> None:
        """An answer that is none, or cannot be written, counts as a failure of the handler."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), request("b"), request("c")))
        self.reply("a", None)
        self.reply("b", SubmitResponse("b", 200, "\ud800"))
        self.reply("c", True)
        self.assertEqual([(r.task_id, r.status) for r in peer.answers], [("a", 400), ("b", 400), ("c", 200)])
        self.assertEqual({response.code for response in peer.answers[:2]}, {"overloaded"})
        self.assertEqual(len(self.flushLoggedErrors(TypeError, ValueError)), 2)

    def test_log_lines(self) -> None:
        """Whatever a peer puts into its frames, or an error quotes of it, a line of the log stays one, and short."""
        peer = self.start()
        with capturedLogs() as events:
            self.deliver(peer, encoded(request("\n" * 120), request("b"), request("c" * 120)))
            self.reply("b", TaskConflict("no:\n" + "x" * 1000))
            self.reply("c" * 120, ValueError())
        lines = [str(formatEvent(event)) for event in events]
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.assertNotIn("\n", line)
            self.assertLess(len(line), 500)
        self.assertNotIn("c" * 81, lines[2])
        self.flushLoggedErrors(ValueError)

    def test_log_format(self) -> None:
        """What a peer sent is never part of a log format."""
        with capturedLogs() as events:
            self.refusal(encoded(evolve(request("a"), expires_at="{bomb}")))
        self.assertFalse([event for event in events if "bomb" in str(event.get("log_format"))])


class LimitTests(ServerTestCase):
    """What one connection may occupy."""

    def test_outstanding(self) -> None:
        """As many frames as allowed are in work, those without answer included; past that nothing is read."""
        peer = self.start(max_outstanding=4)
        frames = [request(f"t{n}") if n % 2 else update(f"t{n}", ack=False) for n in range(5000)]
        self.deliver(peer, encoded(*frames))
        self.assertEqual(len(self.handler.asked), 4)
        assert peer.transport is not None
        unread = len(peer.transport.unread)  # type: ignore[attr-defined]
        self.assertGreaterEqual(unread, len(encoded(*frames)) - BUFFER_BYTES)
        self.reply("t1")
        self.assertEqual(len(self.handler.asked), 4)  # its turn has not come: t0 is not done
        self.reply("t0", answer("t0"))
        self.assertEqual(len(self.handler.asked), 6)

    def test_outstanding_bytes(self) -> None:
        """Past so many bytes of unanswered payload nothing is read."""
        peer = self.start(max_outstanding_bytes=1000)
        self.deliver(peer, encoded(*(request(f"t{n}", "x" * 300) for n in range(20))))
        self.assertEqual(len(self.handler.asked), 3)
        self.reply("t0")
        self.assertEqual(len(self.handler.asked), 4)

    def test_peer_does_not_read(self) -> None:
        """A peer that does not read its answers is not read from, so that they do not pile up."""
        peer = self.start()
        self.handler.at_once = lambda _: True
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]
        for number in range(200):
            self.deliver(peer, encoded(*(request(f"t{number}-{n}") for n in range(50))))
        (connection,) = self.factory.connections
        assert connection.transport is not None
        self.assertLess(len(connection.transport.unread), 4 * BUFFER_BYTES)  # type: ignore[attr-defined]
        self.assertLess(len(self.handler.asked), 5000)
        peer.transport.resumeProducing()  # type: ignore[attr-defined]
        self.network.flush()
        self.assertEqual(len(peer.answers), 10_000)


class EndingTests(ServerTestCase):
    """How connections end."""

    def test_idle(self) -> None:
        """A connection is idle only when all was answered; then it is closed after the time-out."""
        peer = self.start(idle_timeout=60.0)
        self.deliver(peer, encoded(request("a")))
        self.advance(500)
        self.assertIsNone(peer.lost)
        self.reply("a")
        self.advance(59)
        self.assertIsNone(peer.lost)
        self.advance(2)
        self.assert_lost(peer)

    def test_idle_since_handled(self) -> None:
        """The idle time begins when the last frame was handled, also if it wanted no answer."""
        peer = self.start(idle_timeout=60.0)
        self.deliver(peer, encoded(update("a", ack=False)))
        self.advance(60)
        self.advance(30)
        self.reply("a", answer("a"))
        self.advance(59)
        self.assertIsNone(peer.lost)
        self.advance(2)
        self.assert_aborted(peer)

    def test_silent_peer(self) -> None:
        """A peer that has sent nothing is aborted when it was idle for too long: its first frame may be on its way."""
        peer = self.start(idle_timeout=60.0)
        self.advance(61)
        self.assert_aborted(peer)

    def test_peer_closes(self) -> None:
        """When the peer goes, what is in work is finished, and its answers are dropped."""
        peer = self.start()
        self.deliver(peer, encoded(request("a"), update("b", ack=False)))
        peer.close()
        self.network.flush()
        self.assert_lost(peer)
        self.reply("a")
        self.reply("b", ValueError("late"))
        self.assertEqual(peer.frames, [])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_half_close(self) -> None:
        """When the peer closes its direction alone, all that it sent is handled, within limits, and answered."""
        peer = self.start(max_outstanding=1)
        (connection,) = self.factory.connections
        verifyObject(IHalfCloseableProtocol, connection)
        self.deliver(peer, encoded(request("a"), update("b", ack=False), results("c")))
        connection.readConnectionLost()
        self.network.flush()
        for task_id in "abc":
            self.assertIsNone(peer.lost)
            self.assertEqual(self.handler.ids[-1], task_id)
            self.reply(task_id)
        self.assertEqual([response.task_id for response in peer.answers], ["a", "c"])
        self.assert_lost(peer)

    def test_half_close_before_reading(self) -> None:
        """A peer that closes its direction first, and reads its answers afterwards, gets all of them."""
        peer = self.start()
        self.handler.at_once = lambda task_id: evolve(answer(task_id), message="m" * 10_000)
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]  # the memory transport's
        ids = [f"t{number}" for number in range(50)]
        self.deliver(peer, encoded(*map(request, ids)))
        self.assertLess(len(self.handler.asked), 50)
        (connection,) = self.factory.connections
        connection.readConnectionLost()
        peer.transport.resumeProducing()  # type: ignore[attr-defined]  # the memory transport's
        self.network.flush()
        self.assertEqual([response.task_id for response in peer.answers], ids)
        self.assert_lost(peer)

    def test_half_close_at_rest(self) -> None:
        """When nothing is in work the connection is closed at once; in the middle of a frame it is aborted."""
        for data, reason in ((b"", ConnectionDone), (encoded(request("a"))[:10], ConnectionLost)):
            peer = self.start()
            self.deliver(peer, data)
            (connection,) = self.factory.connections
            connection.readConnectionLost()
            self.network.flush()
            self.assert_lost(peer, reason)
            self.setUp()

    def test_frames_of_a_peer_that_left(self) -> None:
        """Frames that had arrived are handled though their sender has gone, limits or not: it thinks them delivered."""
        peer = self.start(max_outstanding=1)
        peer.send(encoded(update("a", ack=False), results("b", ack=False), update("c", ack=False)))
        self.network.flush()
        self.assertEqual(self.handler.ids, ["a"])
        self.network.cut_all()
        self.assertEqual(self.handler.ids, ["a", "b", "c"])
        for task_id in "abc":
            self.reply(task_id, answer(task_id))
        self.assert_lost(peer, ConnectionLost)

    def test_cut_anywhere(self) -> None:
        """Wherever the connection is cut, whole frames are handled, and nothing else happens."""
        data = encoded(request("a"), update("b", ack=False), results("c"))
        ends = [len(encoded(request("a"))), len(encoded(request("a"), update("b", ack=False))), len(data)]
        for length in range(len(data) + 1):
            peer = self.start()
            self.handler.at_once = answer
            self.deliver(peer, data[:length])
            self.network.cut_all()
            self.assertEqual(len(self.handler.asked), sum(end <= length for end in ends))
            self.assert_lost(peer, ConnectionLost)
            self.setUp()

    def test_close_connections(self) -> None:
        """Closing takes no further frames, answers those in work, closes all connections, and then fires."""
        idle, busy = self.start(), self.raw()
        self.deliver(busy, encoded(request("a"), request("b")))
        closed = self.factory.close_connections()
        self.network.flush()
        assert idle.lost is not None
        self.assertNoResult(closed)
        self.deliver(busy, encoded(request("late")))
        self.reply("b")
        self.assertIsNone(busy.lost)
        self.reply("a")
        self.assertEqual([response.task_id for response in busy.answers], ["a", "b"])
        self.assertEqual(self.handler.ids, ["a", "b"])
        self.assertIsNone(self.successResultOf(closed))
        self.assert_lost(busy)

    def test_close_connections_grace(self) -> None:
        """A connection whose work does not end, or whose peer does not read, is aborted after the grace period."""
        slow, deaf = self.start(), self.raw()
        self.deliver(slow, encoded(request("a")))
        self.deliver(deaf, encoded(request("b")))
        assert deaf.transport is not None
        deaf.transport.pauseProducing()  # type: ignore[attr-defined]
        self.handler.reply("b")
        first, second = self.factory.close_connections(grace=5), self.factory.close_connections(grace=50)
        self.advance(4.9)
        self.assertNoResult(first)
        self.advance(0.2)
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.successResultOf(second))
        self.assert_lost(slow, ConnectionLost)
        self.assert_lost(deaf, ConnectionLost)
        self.reply("a")

    def test_close_connections_cut(self) -> None:
        """What came on a connection that is lost meanwhile is finished first; and closing none fires at once."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        closed = self.factory.close_connections()
        self.network.cut_all()
        self.assertNoResult(closed)
        self.reply("a")
        self.assertIsNone(self.successResultOf(closed))
        self.assert_lost(peer, ConnectionLost)
        self.assertIsNone(self.successResultOf(self.factory.close_connections()))

    def test_close_connections_cut_grace(self) -> None:
        """Work that does not end is not waited for any longer than the grace period, though its connection is lost."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        self.network.cut_all()
        self.assert_lost(peer, ConnectionLost)
        closed = self.factory.close_connections(grace=5)
        self.advance(4.9)
        self.assertNoResult(closed)
        self.advance(0.2)
        self.assertIsNone(self.successResultOf(closed))
        self.reply("a")

    def test_again(self) -> None:
        """After closing its connections a factory serves new ones."""
        self.start()
        closed = self.factory.close_connections()
        self.network.flush()
        self.successResultOf(closed)
        peer = self.raw()
        self.deliver(peer, encoded(request("a")))
        self.reply("a")
        self.assertEqual(len(peer.answers), 1)
