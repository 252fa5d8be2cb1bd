"""The client: one frame a connection or many, what counts as delivered, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, ISSLTransport, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import alsoProvides, implementer

from tasksubmit.errors import (
    FrameTooLarge,
    InvalidMessage,
    MalformedMessage,
    PeerTimedOut,
    PeerUnreachable,
    PeerVanished,
    ProtocolViolation,
    TooLarge,
)
from tasksubmit.protocol.client import Client, connect
from tasksubmit.protocol.elsewhere import LARGE_BYTES
from tasksubmit.testing.transport import BUFFER_BYTES
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.messages import ACK, PERSISTENT, SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.protocol.support import (
    HERE,
    OURS,
    RESULT,
    THERE,
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

T = TypeVar("T")

NOTHING: frozenset[str] = frozenset()


class DeployedPeerTests(NetworkTestCase):
    """Peers that take one frame on a connection, and close it."""

    def test_submit(self) -> None:
        """A submission is answered on its connection, byte for byte as deployed peers write it."""
        peers = self.deployed(encoded(answer(features=NOTHING)))
        submitted = self.client().submit(request())
        self.network.flush()
        self.assertEqual(self.successResultOf(submitted), answer(features=NOTHING))
        self.assertEqual(peers.peers[0].received, encoded(request()))

    def test_submit_task(self) -> None:
        """`submit_task` fills in an id and both addresses, and announces nothing."""
        peers = self.deployed()
        client = self.client()
        for task_id in (None, "mine"):
            self.failureResultOf(self.flushed(client.submit_task("work", THERE, task_id)), PeerVanished)
        first, second = (SubmitRequest.from_frame(peer.frames[0]) for peer in peers.peers)
        self.assertEqual(evolve(first, task_id=""), request(""))
        self.assertEqual(len(first.task_id), 36)
        self.assertEqual(second, request("mine"))

    def test_update(self) -> None:
        """A clean close after an update or results is all that such a peer says: the Deferred fires with None."""
        peers = self.deployed()
        client = self.client()
        updated = self.flushed(client.send_status_update("t1", "ACCEPTED", "taken"))
        sent = self.flushed(client.send_results(results(ack=False)))
        self.assertIsNone(self.successResultOf(updated))
        self.assertIsNone(self.successResultOf(sent))
        self.assertEqual([peer.received for peer in peers.peers], [encoded(update()), encoded(results())])

    def test_one_frame_a_connection(self) -> None:
        """Requests made at once go out one after the other, each on a connection of its own, in order."""
        open_at_once = []

        def one_frame(peer: RawPeer, frame: Frame) -> None:
            open_at_once.append(self.network.connection_count("there"))
            peer.close()

        peers = RawFactory(one_frame)
        self.listen(peers)
        client = self.client()
        sent = [client.update(update(f"t{number}")) for number in range(5)]
        self.network.flush()
        self.assertEqual([self.successResultOf(deferred) for deferred in sent], [None] * 5)
        ids = [[TaskStatusUpdate.from_frame(frame).task_id for frame in peer.frames] for peer in peers.peers]
        self.assertEqual(ids, [["t0"], ["t1"], ["t2"], ["t3"], ["t4"]])
        self.assertEqual(open_at_once, [1] * 5)

    def test_peer_stays_open(self) -> None:
        """To a peer that answers and does not close, the client closes before it dials for the next request."""
        peers = self.deployed(encoded(answer("", NOTHING)), closes=False)
        client = self.client()
        first, second, third = client.submit(request("a")), client.submit(request("b")), client.update(update("c"))
        self.network.flush()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(third)
        self.assertEqual([len(peer.frames) for peer in peers.peers], [1, 1, 1])
        for peer in peers.peers:
            assert peer.lost is not None
            peer.lost.trap(ConnectionDone)

    def test_no_answer_to_submission(self) -> None:
        """A close without an answer to a submission is always a failure."""
        self.deployed()
        self.failureResultOf(self.flushed(self.client().submit(request())), PeerVanished)

    def test_acknowledging_peer_closes(self) -> None:
        """A peer that announced `ack` and closes without acknowledging has failed."""
        self.deployed()
        self.failureResultOf(self.flushed(self.client(features=frozenset({ACK})).update(update())), PeerVanished)

    def test_peer_that_acknowledged_closes(self) -> None:
        """A clean close is no delivery of what was written to a peer with ``ack``, whatever it announced since."""
        peers = RawFactory()
        self.listen(peers)
        client = self.client(features=OURS)
        sent = [client.update(update(f"t{number}")) for number in range(3)]
        self.network.flush()
        client.features = NOTHING
        peers.peers[0].close()
        self.network.flush()
        for deferred in sent:
            self.failureResultOf(deferred, PeerVanished)

    def test_unclean_close(self) -> None:
        """A broken connection is never a delivery."""
        self.listen(RawFactory(lambda peer, frame: self.network.cut_all()))
        self.failureResultOf(self.flushed(self.client().update(update())), PeerVanished)

    def test_close_in_an_answer(self) -> None:
        """A clean close in the middle of an answer is no delivery either."""
        self.deployed(encoded(answer())[:-1])
        self.failureResultOf(self.flushed(self.client().update(update())), PeerVanished)

    def test_close_before_all_was_written(self) -> None:
        """A clean close while a part of the frame still waits to be written is no delivery."""
        factory = RawFactory()
        self.listen(factory)
        sent = self.client().send_results(results(text="x" * (3 * BUFFER_BYTES)))
        self.network.pump()
        self.network.pump()
        factory.peers[0].close()
        self.network.flush()
        self.failureResultOf(sent, PeerVanished)

    def test_refusing_peer(self) -> None:
        """When nobody listens, everything that waits fails as unreachable."""
        client = self.client()
        sent = [client.submit(request("a")), client.update(update("b"))]
        self.network.flush()
        for deferred in sent:
            self.failureResultOf(deferred, PeerUnreachable)
        self.assertEqual(self.network.dials, {"there": 1})

    def test_recovers(self) -> None:
        """After a failed dial the next request dials again."""
        client = self.client()
        self.failureResultOf(self.flushed(client.submit(request())), PeerUnreachable)
        self.deployed(encoded(answer(features=NOTHING)))
        self.successResultOf(self.flushed(client.submit(request())))

    def flushed(self, deferred: Deferred[T]) -> Deferred[T]:
        """Give the Deferred back after all has moved."""
        self.network.flush()
        return deferred


class OldResultTests(NetworkTestCase):
    """The old synchronous result."""

    def test_with_the_answer(self) -> None:
        """A RESULT that comes right behind the answer is kept until it is asked for."""
        self.deployed(encoded(answer(features=NOTHING), RESULT))
        client = self.client()
        client.submit(request())
        self.network.flush()
        self.assertEqual(self.successResultOf(client.next_result()), RESULT)
        self.failureResultOf(client.next_result(), PeerVanished)

    def test_not_kept(self) -> None:
        """Who never asks for any keeps none."""
        self.deployed(encoded(answer(features=NOTHING), RESULT))
        client = self.client(keeps_results=False)
        client.submit(request())
        self.network.flush()
        self.failureResultOf(client.next_result(), PeerVanished)

    def test_later(self) -> None:
        """The connection of an accepted submission stays open for a RESULT, for as long as somebody waits."""
        peers = self.deployed(encoded(answer(features=NOTHING)), closes=False)
        client = self.client()
        submitted = client.submit(request())
        waiting = client.next_result()
        self.network.flush()
        self.successResultOf(submitted)
        self.advance(300)
        peers.peers[0].send(encoded(RESULT))
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting), RESULT)

    def test_before_the_answer(self) -> None:
        """A RESULT is never taken for the answer."""
        self.deployed(encoded(RESULT, answer(features=NOTHING)))
        client = self.client()
        submitted, waiting = client.submit(request()), client.next_result()
        self.network.flush()
        self.assertEqual(self.successResultOf(submitted), answer(features=NOTHING))
        self.assertEqual(self.successResultOf(waiting), RESULT)

    def test_of_a_queued_submission(self) -> None:
        """Waiting for the result of a submission outlasts the connections of the requests before it."""

        def serve(peer: RawPeer, frame: Frame) -> None:
            if frame.type == FrameType.SUBMIT:
                peer.send(encoded(answer("b", NOTHING), RESULT))
            peer.close()

        self.listen(RawFactory(serve))
        client = self.client()
        client.update(update("a"))
        client.submit(request("b"))
        waiting = client.next_result()
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting), RESULT)

    def test_never(self) -> None:
        """Waiting fails when the connection goes, or the next request takes its place."""
        self.deployed(encoded(answer("", NOTHING)), closes=False)
        client = self.client()
        client.submit(request("a"))
        first = client.next_result()
        self.network.flush()
        client.update(update("b"))
        self.network.flush()
        self.failureResultOf(first, PeerVanished)
        client.submit(request("c"))
        second = client.next_result()
        self.network.flush()
        self.network.cut_all()
        self.failureResultOf(second, PeerVanished)

    def test_unreachable(self) -> None:
        """Waiting for the result of a submission that cannot be dialled for fails with it."""
        client = self.client()
        submitted, waiting = client.submit(request()), client.next_result()
        self.network.flush()
        self.failureResultOf(submitted, PeerUnreachable)
        self.failureResultOf(waiting, PeerUnreachable)

    def test_cancel(self) -> None:
        """Who cancels the waiting leaves the RESULT to the next one who asks."""
        self.deployed(encoded(answer(features=NOTHING), RESULT))
        client = self.client()
        client.submit(request())
        cancelled, kept = client.next_result(), client.next_result()
        cancelled.cancel()
        self.network.flush()
        self.failureResultOf(cancelled, CancelledError)
        self.assertEqual(self.successResultOf(kept), RESULT)

    def test_too_many(self) -> None:
        """More results than submissions are a violation."""
        peers = self.deployed(encoded(answer(), RESULT, RESULT), closes=False)
        client = self.client()
        submitted = client.submit(request())
        self.network.flush()
        self.successResultOf(submitted)
        self.assertIsNotNone(peers.peers[0].lost)


class PersistentPeerTests(NetworkTestCase):
    """Our own server, which keeps connections open and acknowledges."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.handler = WaitingHandler()
        self.factory = self.serve(self.handler)

    def reply(self, *task_ids: str) -> None:
        """Have the handler answer, and deliver."""
        for task_id in task_ids:
            self.handler.reply(task_id, answer(task_id))
        self.network.flush()

    def test_learns(self) -> None:
        """From the answer that announces it on, the same connection is used, and requests follow without waiting."""
        told: list[frozenset[str]] = []
        client = self.client(on_features=told.append)
        sent: Sequence[Deferred[Any]]
        sent = [client.submit(request("a")), client.update(update("b")), client.send_results(results("c"))]
        self.network.flush()
        self.assertEqual(self.handler.ids, ["a"])
        self.assertEqual((client.features, told), (NOTHING, []))
        self.reply("a")
        self.assertEqual(self.handler.ids, ["a", "b", "c"])
        self.reply("c", "b")
        answers = [self.successResultOf(deferred) for deferred in sent]
        self.assertEqual([got.task_id for got in answers if got], ["a", "b", "c"])
        self.assertEqual((client.features, told), (OURS, [OURS]))
        self.assertEqual(self.network.dials, {"there": 1})

    def test_learns_words_only(self) -> None:
        """Of what an answer announces only what may be a feature is remembered, and not without end."""
        client = self.client()
        self.flushed_submit(client, "a", ("a b", "", "x" * 65, "\n", "ack", "persistent"))
        self.assertEqual(client.features, OURS)
        self.flushed_submit(client, "b", tuple(f"w{number}" for number in range(20)))
        self.flushed_submit(client, "c", tuple(f"v{number}" for number in range(20)))
        self.assertEqual(len(client.features), 32)
        self.assertLess(OURS, client.features)

    def flushed_submit(self, client: Client, task_id: str, features: tuple[str, ...]) -> None:
        """Submit, and have the client told of features with the answer."""
        submitted = client.submit(request(task_id))
        self.network.flush()
        (connection,) = self.factory.connections
        connection.sendFrame(evolve(answer(task_id), features=features).to_frame())
        self.network.flush()
        self.successResultOf(submitted)

    def test_listener_fails(self) -> None:
        """A failing listener is logged, and disturbs nothing."""

        def listener(features: frozenset[str]) -> None:
            raise ValueError

        client = self.client(on_features=listener)
        submitted = client.submit(request("a"))
        self.network.flush()
        self.reply("a")
        self.successResultOf(submitted)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_features_are_remembered(self) -> None:
        """What a peer has once announced counts, also if a later answer does not say it again."""
        self.listen(RawFactory(lambda peer, frame: peer.send(encoded(answer("", frozenset({"new"}))))), "terse")
        client = Client(self.network.client_endpoint("terse"), HERE, self.clock, features=OURS)
        self.submitted(client, "a")
        self.assertEqual(client.features, OURS | {"new"})

    def test_persistent_alone(self) -> None:
        """A peer that keeps connections and does not acknowledge gets one frame on each."""
        client = self.client(features=frozenset({PERSISTENT}))
        self.assertFalse(client.is_persistent)

    def test_max_outstanding(self) -> None:
        """No more than so many requests are unanswered; the next goes out when one is answered."""
        client = self.client(features=OURS, max_outstanding=3)
        for task_id in "abcdef":
            client.submit(request(task_id))
        self.network.flush()
        self.assertEqual(self.handler.ids, ["a", "b", "c"])
        self.reply("a")
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d"])
        self.reply("c")
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d"])
        self.reply("b")
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d", "e", "f"])

    def test_back_pressure(self) -> None:
        """While the peer does not read, no more than about a buffer is written; all arrives when it reads again."""
        client = self.client(features=OURS, timeout=1000.0)
        self.flushed_open(client)
        (connection,) = self.factory.connections
        assert connection.transport is not None
        connection.transport.pauseProducing()  # type: ignore[attr-defined]
        self.handler.at_once = answer
        sent = [client.submit(request(f"t{number}", "x" * 10_000)) for number in range(200)]
        self.network.flush()
        dialled = client._connection
        assert dialled is not None and dialled.transport is not None
        self.assertLess(len(dialled.transport.unread), BUFFER_BYTES + 11_000)  # type: ignore[attr-defined]
        self.assertLess(dialled.written_count, 20)
        connection.transport.resumeProducing()  # type: ignore[attr-defined]
        self.network.flush()
        self.assertEqual([self.successResultOf(d).task_id for d in sent], [f"t{n}" for n in range(200)])

    def test_resumes(self) -> None:
        """Once the peer has read what there was, more is written, whether it answers or not."""
        self.listen(factory := RawFactory(), "silent")
        client = Client(self.network.client_endpoint("silent"), HERE, self.clock, features=OURS)
        for number in range(200):
            client.submit(request(f"t{number}", "x" * 10_000))
        self.network.flush()
        self.assertEqual(len(factory.peers[0].frames), 200)

    def test_no_deadlock(self) -> None:
        """Both directions full at once sort themselves out, as the client reads also while it cannot write."""
        client = self.client(features=OURS)
        self.handler.at_once = lambda task_id: evolve(answer(task_id), message="m" * 10_000)
        sent = [client.submit(request(f"t{number}", "x" * 10_000)) for number in range(1000)]
        self.network.flush()
        for deferred in sent:
            self.successResultOf(deferred)

    def test_idle(self) -> None:
        """An idle connection is closed by the client; the next request dials again."""
        client = self.client(features=OURS, idle_timeout=20.0)
        self.handler.at_once = answer
        self.successResultOf(self.submitted(client, "a"))
        self.advance(19.9)
        self.assertEqual(len(self.factory.connections), 1)
        self.advance(0.2)
        self.assertEqual(len(self.factory.connections), 0)
        self.successResultOf(self.submitted(client, "b"))
        self.assertEqual(self.network.dials, {"there": 2})

    def test_request_while_closing(self) -> None:
        """A request made while an idle connection is being closed goes out on the next one."""
        client = self.client(features=OURS, idle_timeout=20.0)
        self.handler.at_once = answer
        self.flushed_open(client)
        self.clock.advance(20)
        self.successResultOf(self.submitted(client, "a"))
        self.assertEqual(self.network.dials, {"there": 2})

    def test_waiting_is_not_idle(self) -> None:
        """A connection with an unanswered request is not idle."""
        client = self.client(features=OURS, idle_timeout=20.0, timeout=100.0)
        submitted = client.submit(request("a"))
        self.network.flush()
        self.advance(90)
        self.reply("a")
        self.successResultOf(submitted)

    def test_peer_closes_while_idle(self) -> None:
        """That the peer closes an idle connection is no error; the next request dials again."""
        client = self.client(features=OURS)
        self.handler.at_once = answer
        self.successResultOf(self.submitted(client, "a"))
        self.factory.close_connections()
        self.network.flush()
        self.successResultOf(self.submitted(client, "b"))
        self.assertEqual(self.network.dials, {"there": 2})

    def test_closes_as_request_is_written(self) -> None:
        """A connection that the peer has closed just before a request was written fails that request, once."""
        client = self.client(features=OURS)
        self.handler.at_once = answer
        self.successResultOf(self.submitted(client, "a"))
        self.factory.close_connections()
        self.failureResultOf(self.submitted(client, "b"), PeerVanished)

    def test_lost(self) -> None:
        """Losing the connection fails what was written, and dials again for what was not."""
        client = self.client(features=OURS, max_outstanding=2)
        sent = [client.submit(request(task_id)) for task_id in "abcd"]
        self.network.flush()
        self.network.cut_all()
        for deferred in sent[:2]:
            self.failureResultOf(deferred, PeerVanished)
        self.network.flush()
        self.assertEqual(self.handler.ids, ["a", "b", "c", "d"])
        self.reply("c", "d")
        for deferred in sent[2:]:
            self.successResultOf(deferred)

    def test_lost_and_unreachable(self) -> None:
        """When that dial fails, too, what was not written fails as unreachable."""
        client = self.client(features=OURS, max_outstanding=1)
        written, waiting = client.update(update("a")), client.update(update("b"))
        self.network.flush()
        self.network.refuse("there")
        self.network.cut_all()
        self.network.flush()
        self.failureResultOf(written, PeerVanished)
        self.failureResultOf(waiting, PeerUnreachable)
        self.reply("a")

    def test_cut_anywhere(self) -> None:
        """Wherever a conversation is cut, each request is answered or fails, and none is answered wrongly."""
        self.handler.at_once = answer
        self.network.chunk_bytes = 1
        steps = 0
        while True:
            client = self.client(features=OURS)
            sent: Sequence[Deferred[Any]]
            sent = [client.submit(request("a")), client.update(update("b")), client.send_results(results("c"))]
            for _ in range(steps):
                self.network.pump()
            is_over = all(deferred.called for deferred in sent)
            self.network.refuse("there")
            self.network.cut_all()
            self.network.flush()
            for deferred, task_id in zip(sent, "abc", strict=True):
                outcome: list[object] = []
                deferred.addBoth(outcome.append)
                if isinstance(outcome[0], SubmitResponse):
                    self.assertEqual(outcome[0].task_id, task_id)
                else:
                    outcome[0].trap(PeerVanished, PeerUnreachable)  # type: ignore[attr-defined]
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.network.refuse("there", False)
            steps += 1
            if is_over:
                break
        self.assertGreater(steps, 300)

    def submitted(self, client: Client, task_id: str) -> Deferred[SubmitResponse]:
        """Submit, and let all move."""
        deferred = client.submit(request(task_id))
        self.network.flush()
        return deferred

    def flushed_open(self, client: Client) -> None:
        """Dial now."""
        opened = client.open()
        self.network.flush()
        self.assertIs(self.successResultOf(opened), client)


class NonsenseTests(NetworkTestCase):
    """Peers that send what the protocol does not allow."""

    def assert_given_up(self, reply: bytes, error: type[Exception], sent_frames: int = 1) -> None:
        """After such a reply everything under way fails with `error`, and the peer sees an abort."""
        factory = RawFactory(lambda peer, frame: peer.send(reply) if len(peer.frames) == sent_frames else None)
        self.listen(factory)
        client = self.client(features=OURS, max_frame=1000)
        sent = [client.submit(request(task_id)) for task_id in "ab"]
        self.network.flush()
        for deferred in sent:
            self.failureResultOf(deferred, error)
        self.assertIsNotNone(factory.peers[0].lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.setUp()

    def test_unreadable(self) -> None:
        """An answer, or a RESULT, that cannot be read."""
        for payload in (b"", b"{", b'{"status":"200"}'):
            self.assert_given_up(Frame(1, payload).encode(), MalformedMessage)
        self.assert_given_up(Frame(2, b"{").encode(), MalformedMessage)

    def test_wrong_frames(self) -> None:
        """Requests, and frames of unknown types, on a connection that was dialled here."""
        for frame in (update().to_frame(), results().to_frame(), Frame(0, b"{}"), Frame(77, b"{}")):
            self.assert_given_up(frame.encode(), ProtocolViolation)

    def test_too_large(self) -> None:
        """A frame over the limit."""
        self.assert_given_up(Frame(1, b"x" * 1001).encode(), FrameTooLarge)

    def test_out_of_turn(self) -> None:
        """An answer for another task than the one whose turn it is."""
        self.assert_given_up(encoded(answer("b")), ProtocolViolation, sent_frames=2)

    def test_status(self) -> None:
        """An answer that says neither yes nor no."""
        for status in (0, 199, 202, 404, 500, -200):
            self.assert_given_up(encoded(evolve(answer("a"), status=status)), ProtocolViolation)

    def test_unasked(self) -> None:
        """An answer to nothing costs the connection, and the next request gets a new one."""
        factory = RawFactory()
        self.listen(factory)
        client = self.client(features=OURS)
        opened = client.open()
        self.network.flush()
        self.successResultOf(opened)
        factory.peers[0].send(encoded(answer()))
        self.network.flush()
        self.assertIsNotNone(factory.peers[0].lost)
        submitted = client.submit(request())
        self.network.flush()
        factory.peers[1].send(encoded(answer()))
        self.network.flush()
        self.successResultOf(submitted)

    def test_one_answer_too_many(self) -> None:
        """A second answer does not harm what the first one said."""
        self.deployed(encoded(answer(), answer()), closes=False)
        client = self.client()
        submitted = client.submit(request())
        self.network.flush()
        self.assertEqual(self.successResultOf(submitted), answer())
        self.assertEqual(self.network.connection_count("there"), 0)


class TimeTests(NetworkTestCase):
    """Peers that are slow, or silent."""

    def test_no_answer(self) -> None:
        """Each request has its time from when it was written; then it times out, and the rest vanish with it."""
        factory = RawFactory()
        self.listen(factory)
        client = self.client(features=OURS, timeout=30.0)
        first = client.submit(request("a"))
        self.network.flush()
        self.advance(10)
        second = client.update(update("b"))
        self.network.flush()
        self.advance(19.9)
        self.assertNoResult(first)
        self.advance(0.2)
        error = self.failureResultOf(first, PeerTimedOut).value
        self.assertRegex(str(error), "^timed out: .* did not answer within 30 s$")
        self.failureResultOf(second, PeerVanished)
        self.assertIsNotNone(factory.peers[0].lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def stalled(self, **options: object) -> tuple[Client, RawPeer]:
        """Connect to a peer that does not read, and is silent."""
        factory = RawFactory()
        self.listen(factory)
        client = self.client(features=OURS, timeout=30.0, **options)
        client.open()
        self.network.flush()
        (peer,) = factory.peers
        assert peer.transport is not None
        peer.transport.pauseProducing()  # type: ignore[attr-defined]  # the memory transport's
        return client, peer

    def test_slow_link(self) -> None:
        """The time for the answer to a large request begins when all of it was taken, however long that took."""
        self.take_slowly(2 * BUFFER_BYTES)

    def test_slow_link_in_pieces(self) -> None:
        """The same for one that the transport gets in pieces."""
        self.take_slowly(LARGE_BYTES)

    def take_slowly(self, size_bytes: int) -> None:
        """Have a peer take results of this size after a time, and never answer."""
        client, peer = self.stalled()
        sent = client.send_results(results(text="x" * size_bytes))
        self.advance(299)
        self.assertNoResult(sent)
        assert peer.transport is not None
        peer.transport.resumeProducing()  # type: ignore[attr-defined]  # the memory transport's
        self.network.flush()
        self.assertEqual(len(peer.frames), 1)
        self.advance(29)
        self.assertNoResult(sent)
        self.advance(2)
        self.failureResultOf(sent, PeerTimedOut)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_reads(self) -> None:
        """A peer that does not take a large request times out, later than one that does not answer a small one."""
        client, peer = self.stalled(write_timeout=100.0)
        sent = client.send_results(results(text="x" * 2 * BUFFER_BYTES))
        self.advance(99)
        self.assertNoResult(sent)
        self.advance(2)
        self.failureResultOf(sent, PeerTimedOut)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reads_too_slowly(self) -> None:
        """All of a large request has to be taken in that time, also where the transport gets it in pieces."""
        client, peer = self.stalled(write_timeout=100.0)
        sent = client.send_results(results(text="x" * 4 * LARGE_BYTES))
        assert peer.transport is not None
        for _ in range(2):
            self.advance(45)
            peer.transport.resumeProducing()  # type: ignore[attr-defined]  # the memory transport's
            for _ in range(2):
                self.network.pump()
            peer.transport.pauseProducing()  # type: ignore[attr-defined]  # the memory transport's
        self.assertGreater(len(peer.received), 3 * BUFFER_BYTES)
        self.assertNoResult(sent)
        self.advance(11)
        self.failureResultOf(sent, PeerTimedOut)

    def test_answered_before_taken(self) -> None:
        """A request that was answered before all of it was taken has no time-out afterwards."""
        client, peer = self.stalled()
        sent = client.send_results(results(text="x" * 2 * BUFFER_BYTES))
        peer.send(encoded(answer()))
        self.network.flush()
        self.successResultOf(sent)
        assert peer.transport is not None
        peer.transport.resumeProducing()  # type: ignore[attr-defined]  # the memory transport's
        self.network.flush()
        closed = client.close()
        self.network.flush()
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_queue_has_no_time_limit(self) -> None:
        """The time of a request that waits for its connection has not begun."""
        self.listen(RawFactory())
        client = self.client(timeout=30.0)
        first, second = client.update(update("a")), client.update(update("b"))
        self.network.flush()
        self.advance(30)
        self.failureResultOf(first, PeerTimedOut)
        self.advance(29)
        self.assertNoResult(second)
        self.advance(2)
        self.failureResultOf(second, PeerTimedOut)

    def test_connect_timeout(self) -> None:
        """A dial that takes too long fails everything that waits for it."""
        self.listen(factory := RawFactory())
        client = self.client(connect_timeout=10.0)
        submitted = client.submit(request())
        self.clock.advance(9.9)
        self.assertNoResult(submitted)
        self.clock.advance(0.2)
        self.failureResultOf(submitted, PeerUnreachable)
        self.network.flush()
        self.assertEqual(factory.peers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_an_answer(self) -> None:
        """A peer that stays in the middle of its answer runs into the same time-out."""
        self.deployed(encoded(answer())[:-1], closes=False)
        client = self.client(timeout=100.0)
        submitted = client.submit(request())
        self.network.flush()
        self.advance(99)
        self.assertNoResult(submitted)
        self.advance(2)
        self.failureResultOf(submitted, PeerTimedOut)


@implementer(IStreamClientEndpoint)
class OddEndpoint:
    """An endpoint over "TLS" whose every step the test makes; cancelling does not stop it."""

    def __init__(self) -> None:
        self.transport = StringTransport()
        alsoProvides(self.transport, ISSLTransport)
        self.connected: Deferred[IProtocol] = Deferred(lambda _: None)
        self.factory: Any = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        return self.connected

    def build(self) -> Any:
        """Build the protocol, and connect it, if there is one."""
        protocol = self.factory.buildProtocol(None)
        if protocol is not None:
            protocol.makeConnection(self.transport)
        return protocol


class HandshakeTests(SynchronousTestCase):
    """Transports that are not ready for use when they are connected."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.endpoint = OddEndpoint()
        self.client = Client(self.endpoint, HERE, self.clock, connect_timeout=10.0)
        self.submitted = self.client.submit(request())

    def test_nothing_before(self) -> None:
        """Nothing is written until the handshake is complete."""
        protocol = self.endpoint.build()
        self.endpoint.connected.callback(protocol)
        updated = self.client.update(update())
        self.assertEqual(self.endpoint.transport.value(), b"")
        protocol.handshakeCompleted()
        self.assertEqual(self.endpoint.transport.value(), encoded(request()))
        protocol.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(self.submitted, PeerVanished)
        self.assertNoResult(updated)

    def test_timeout(self) -> None:
        """A handshake that takes too long counts as a failed dial, and is aborted."""
        protocol = self.endpoint.build()
        self.endpoint.connected.callback(protocol)
        self.clock.advance(10)
        self.failureResultOf(self.submitted, PeerUnreachable)
        self.assertTrue(self.endpoint.transport.disconnected)
        protocol.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """A connection that is lost in its handshake was never there."""
        protocol = self.endpoint.build()
        self.endpoint.connected.callback(protocol)
        protocol.connectionLost(Failure(ConnectionLost()))
        self.failureResultOf(self.submitted, PeerUnreachable)

    def test_endpoint_fails_late(self) -> None:
        """An endpoint that fails after it made a connection, which is then lost, leaves nothing behind."""
        protocol = self.endpoint.build()
        self.endpoint.connected.errback(ConnectionLost())
        self.failureResultOf(self.submitted, PeerUnreachable)
        protocol.connectionLost(Failure(ConnectionLost()))

    def test_connects_too_late(self) -> None:
        """A connection that comes after the dial was given up is not taken."""
        self.clock.advance(10)
        self.failureResultOf(self.submitted, PeerUnreachable)
        self.assertIsNone(self.endpoint.build())


class CancelTests(NetworkTestCase):
    """Cancelling, at each stage."""

    def test_while_dialling(self) -> None:
        """Cancelling the only request that is dialled for stops the dial."""
        self.listen(factory := RawFactory())
        client = self.client()
        submitted = client.submit(request())
        submitted.cancel()
        self.failureResultOf(submitted, CancelledError)
        self.network.flush()
        self.assertEqual(factory.peers, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_while_dialling_for_two(self) -> None:
        """Cancelling one of two leaves the dial to the other."""
        self.deployed(encoded(answer("b", NOTHING)))
        client = self.client()
        first, second = client.submit(request("a")), client.submit(request("b"))
        first.cancel()
        self.network.flush()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.successResultOf(second).task_id, "b")

    def test_in_the_queue(self) -> None:
        """A request that was not written is never sent."""
        handler = WaitingHandler()
        self.serve(handler)
        client = self.client(features=OURS, max_outstanding=1)
        first, second, third = (client.submit(request(task_id)) for task_id in "abc")
        self.network.flush()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        handler.reply("a")
        self.network.flush()
        handler.reply("c")
        self.network.flush()
        self.assertEqual(handler.ids, ["a", "c"])
        self.successResultOf(first)
        self.successResultOf(third)

    def test_when_written(self) -> None:
        """The answer to a request that was written is dropped, and the others keep their order."""
        handler = WaitingHandler()
        self.serve(handler)
        client = self.client(features=OURS)
        first, second, third = (client.submit(request(task_id)) for task_id in "abc")
        self.network.flush()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        for task_id in "abc":
            handler.reply(task_id)
        self.network.flush()
        self.assertEqual(self.successResultOf(first).task_id, "a")
        self.assertEqual(self.successResultOf(third).task_id, "c")

    def test_when_written_and_never_answered(self) -> None:
        """A cancelled request still times out, so that a silent peer is given up."""
        self.listen(factory := RawFactory())
        client = self.client(features=OURS)
        first = client.submit(request("a"))
        self.network.flush()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.advance(31)
        self.assertIsNotNone(factory.peers[0].lost)

    def test_when_answered(self) -> None:
        """Cancelling what has an answer changes nothing."""
        self.deployed(encoded(answer(features=NOTHING)))
        submitted = self.client().submit(request())
        self.network.flush()
        submitted.cancel()
        self.successResultOf(submitted)


class OpenAndCloseTests(NetworkTestCase):
    """The beginning and the end of a client."""

    def test_connect(self) -> None:
        """`connect` dials, and its connection serves the first request."""
        self.deployed(encoded(answer(features=NOTHING)))
        connected = connect(self.network.client_endpoint("there"), HERE, clock=self.clock)
        self.network.flush()
        client = self.successResultOf(connected)
        self.assertIs(self.successResultOf(client.open()), client)
        submitted = client.submit(request())
        self.network.flush()
        self.successResultOf(submitted)
        self.assertEqual(self.network.dials, {"there": 1})

    def test_connect_refused(self) -> None:
        """`connect` fails if nobody listens."""
        connected = connect(self.network.client_endpoint("there"), HERE, clock=self.clock)
        self.network.flush()
        self.failureResultOf(connected, PeerUnreachable)

    def test_connect_cancelled(self) -> None:
        """Cancelling `connect` gives the dial up."""
        self.listen(factory := RawFactory())
        connected = connect(self.network.client_endpoint("there"), HERE, clock=self.clock)
        connected.cancel()
        self.failureResultOf(connected, CancelledError)
        self.network.flush()
        self.assertEqual(factory.peers, [])

    def test_dialled_and_lost(self) -> None:
        """A connection that was dialled ahead and is gone when it is needed is dialled again."""
        peers = self.deployed(encoded(answer(features=NOTHING)))
        client = self.client()
        client.open()
        self.network.flush()
        peers.peers[0].close()
        self.network.flush()
        submitted = client.submit(request())
        self.network.flush()
        self.successResultOf(submitted)

    def test_close(self) -> None:
        """Closing fails what is under way, closes the connection, and fires; after that nothing is sent."""
        self.listen(factory := RawFactory())
        client = self.client(features=OURS, max_outstanding=1)
        written, waiting = client.submit(request("a")), client.submit(request("b"))
        self.network.flush()
        closed = client.close()
        self.failureResultOf(written, PeerVanished)
        self.failureResultOf(waiting, PeerUnreachable)
        self.assertNoResult(closed)
        self.network.flush()
        self.assertIsNone(self.successResultOf(closed))
        assert factory.peers[0].lost is not None
        factory.peers[0].lost.trap(ConnectionDone)
        self.failureResultOf(client.submit(request()), PeerUnreachable)
        self.failureResultOf(client.open(), PeerUnreachable)
        self.assertIsNone(self.successResultOf(client.close()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_while_dialling(self) -> None:
        """Closing gives up the dial, and everything that waits for it."""
        self.listen(factory := RawFactory())
        client = self.client()
        submitted, opened = client.submit(request()), client.open()
        self.assertIsNone(self.successResultOf(client.close()))
        self.failureResultOf(submitted, PeerUnreachable)
        self.failureResultOf(opened, PeerUnreachable)
        self.network.flush()
        self.assertEqual(factory.peers, [])

    def test_close_unused(self) -> None:
        """Closing a client that never dialled fires at once."""
        self.assertIsNone(self.successResultOf(self.client().close()))

    def test_not_sendable(self) -> None:
        """What cannot be sent fails by itself, without a dial."""
        client = self.client()
        self.failureResultOf(client.submit(request("a", "\ud800")), InvalidMessage)
        self.failureResultOf(client.submit(request("a", "x" * 2**24)), TooLarge)
        self.assertEqual(self.network.dials, {})

    def test_called_back_into(self) -> None:
        """Whoever asks for more from within a callback gets it, whatever happened to the request before."""
        self.deployed(encoded(answer("", NOTHING)))
        client = self.client()
        outcomes: list[object] = []

        def again(left: int) -> Callable[[object], None]:
            def ask(outcome: object) -> None:
                outcomes.append(outcome)
                if left:
                    client.submit(request(str(left))).addBoth(again(left - 1))

            return ask

        client.submit(request("first")).addBoth(again(4))
        self.network.flush()
        self.assertEqual(len(outcomes), 5)
        self.assertTrue(all(isinstance(outcome, SubmitResponse) for outcome in outcomes))
        self.network.refuse("there")
        client.submit(request("first")).addBoth(again(2))
        self.network.flush()
        self.assertEqual([type(outcome.value) for outcome in outcomes[5:]], [PeerUnreachable] * 3)  # type: ignore[attr-defined]
