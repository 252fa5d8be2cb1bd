"""The network in memory behaves as the reactor's does."""

from __future__ import annotations

import math
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from tasksubmit.testing.transport import BUFFER_BYTES, MemoryTransport
from tests.protocol.support import NetworkTestCase, RawFactory, RawPeer


@implementer(IPushProducer)
class Producer:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class NetworkTests(NetworkTestCase):
    """Endpoints, and two raw peers."""

    def pair(self) -> tuple[RawPeer, RawPeer]:
        """Connect two peers, the dialling one first."""
        self.accepted = RawFactory()
        self.listen(self.accepted)
        return self.raw(), self.accepted.peers[0]

    def transport(self, peer: RawPeer) -> MemoryTransport:
        """Give a peer's end."""
        assert isinstance(peer.transport, MemoryTransport)
        return peer.transport

    def assert_lost(self, peer: RawPeer, reason: type[Exception]) -> None:
        """The peer was told of the end, and why."""
        assert peer.lost is not None, "still connected"
        peer.lost.trap(reason)

    def test_interfaces(self) -> None:
        """Every part provides Twisted's interface for it."""
        here, _ = self.pair()
        transport = self.transport(here)
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, transport)
        verifyObject(IAddress, transport.getPeer())
        verifyObject(IAddress, transport.getHost())
        verifyObject(IStreamClientEndpoint, self.network.client_endpoint("x"))
        verifyObject(IStreamServerEndpoint, self.network.server_endpoint("x"))
        verifyObject(IListeningPort, self.network.ports["there"])
        self.assertEqual(str(transport.getPeer()), "there")
        self.assertEqual(str(self.network.ports["there"].getHost()), "there")

    def test_nothing_by_itself(self) -> None:
        """No connection is made, nothing delivered and nothing closed before a step is made."""
        self.listen(accepted := RawFactory())
        dialled = self.network.client_endpoint("there").connect(factory := RawFactory())
        self.assertNoResult(dialled)
        self.assertTrue(self.network.pump())
        here, there = factory.peers[0], accepted.peers[0]
        self.assertIs(self.successResultOf(dialled), here)
        here.send(b"one")
        here.close()
        self.assertEqual((there.received, here.lost, there.lost), (b"", None, None))
        self.network.flush()
        self.assertEqual(there.received, b"one")
        self.assert_lost(here, ConnectionDone)
        self.assert_lost(there, ConnectionDone)
        self.assertFalse(self.network.pump())

    def test_chunks(self) -> None:
        """A step moves as many bytes as it is told."""
        here, there = self.pair()
        self.network.chunk_bytes = 2
        here.send(b"abcde")
        there.send(b"xyz")
        self.network.pump()
        self.assertEqual((there.received, here.received), (b"ab", b"xy"))
        self.network.flush()
        self.assertEqual((there.received, here.received), (b"abcde", b"xyz"))

    def test_refused(self) -> None:
        """Dialling a name that nobody listens on, or that refuses, fails as TCP does."""
        self.pair()
        self.network.refuse("there")
        for name in ("there", "nowhere"):
            dialled = self.network.client_endpoint(name).connect(RawFactory())
            self.network.flush()
            self.failureResultOf(dialled, ConnectionRefusedError)
        self.network.refuse("there", False)
        self.raw()

    def test_listening(self) -> None:
        """A name can be listened on once at a time."""
        endpoint = self.network.server_endpoint("there")
        port = self.successResultOf(endpoint.listen(RawFactory()))
        self.failureResultOf(endpoint.listen(RawFactory()), CannotListenError)
        port.stopListening()
        self.successResultOf(endpoint.listen(RawFactory()))

    def test_cancel(self) -> None:
        """A cancelled dial reaches nobody."""
        self.listen(accepted := RawFactory())
        dialled = self.network.client_endpoint("there").connect(RawFactory())
        dialled.cancel()
        self.network.flush()
        self.failureResultOf(dialled, ConnectingCancelledError)
        self.assertEqual(accepted.peers, [])

    def test_no_protocol(self) -> None:
        """A factory that builds no protocol makes no connection, on either side."""

        class Nobody(Factory):
            noisy = False

            def buildProtocol(self, addr: object) -> None:
                return None

        self.listen(Nobody())
        dialled = self.network.client_endpoint("there").connect(RawFactory())
        self.network.flush()
        self.failureResultOf(dialled, ConnectionLost)
        dialled = self.network.client_endpoint("there").connect(Nobody())
        self.network.flush()
        self.failureResultOf(dialled)

    def test_cut(self) -> None:
        """A cut connection ends uncleanly on both sides at once, without what was under way; others go on."""
        here, there = self.pair()
        self.listen(RawFactory(), "elsewhere")
        self.network.client_endpoint("elsewhere").connect(other := RawFactory())
        self.network.flush()
        here.send(b"lost")
        self.network.cut("there")
        self.assert_lost(here, ConnectionLost)
        self.assert_lost(there, ConnectionLost)
        self.assertEqual(there.received, b"")
        self.assertIsNone(other.peers[0].lost)
        self.network.cut_all()
        self.assert_lost(other.peers[0], ConnectionLost)

    def test_abort(self) -> None:
        """An abort throws away what was not delivered; each side learns its part."""
        here, there = self.pair()
        here.send(b"lost")
        self.transport(here).abortConnection()
        self.assertIsNone(here.lost)
        self.network.flush()
        self.assertEqual(there.received, b"")
        self.assert_lost(here, ConnectionAborted)
        self.assert_lost(there, ConnectionLost)

    def test_paused_reader(self) -> None:
        """A paused reader gets neither bytes nor the end of the connection until it resumes."""
        here, there = self.pair()
        self.transport(there).pauseProducing()
        here.send(b"abc")
        here.close()
        self.network.flush()
        self.assertEqual((there.received, there.lost, here.lost), (b"", None, None))
        self.transport(there).resumeProducing()
        self.network.flush()
        self.assertEqual(there.received, b"abc")
        self.assert_lost(there, ConnectionDone)

    def test_producer(self) -> None:
        """A producer is paused when over a buffer is unread, then resumed; one that is to be asked holds up a close."""
        here, there = self.pair()
        transport, producer = self.transport(here), Producer()
        transport.registerProducer(producer, True)
        self.assertRaises(RuntimeError, transport.registerProducer, Producer(), True)
        here.send(b"\0" * BUFFER_BYTES)
        self.assertEqual(producer.told, [])
        here.send(b"\0")
        self.assertEqual(producer.told, ["pause"])
        self.network.flush()
        self.assertEqual(producer.told, ["pause", "resume"])
        transport.unregisterProducer()
        transport.registerProducer(producer, False)
        here.close()
        self.network.flush()
        self.assertIsNone(here.lost)
        transport.unregisterProducer()
        self.network.flush()
        self.assert_lost(there, ConnectionDone)

    def test_close_with_a_producer(self) -> None:
        """A producer that pushes, and was not paused, has pushed what it had: a close does not wait for it."""
        here, there = self.pair()
        self.transport(here).registerProducer(Producer(), True)
        here.close()
        self.network.flush()
        self.assert_lost(there, ConnectionDone)


class TroubleTests(NetworkTestCase):
    """A network that is parted or slow, and parties that die, seen by raw peers."""

    def pair(self, name: str = "there", origin: str = "here") -> tuple[RawPeer, RawPeer]:
        """Connect two peers, the dialling one first."""
        accepted, dialling = RawFactory(), RawFactory()
        self.listen(accepted, name)
        self.network.client_endpoint(name, origin).connect(dialling)
        self.network.flush()
        return dialling.peers[0], accepted.peers[0]

    def dial(self, name: str, origin: str) -> Deferred[Any]:
        """Dial, and see what comes of it."""
        dialled: Deferred[Any] = self.network.client_endpoint(name, origin).connect(RawFactory())
        self.network.flush()
        return dialled

    def pass_time(self, *seconds: float) -> None:
        """Let time pass in these steps."""
        for step in seconds:
            self.clock.advance(step)
            self.network.flush()

    def test_part(self) -> None:
        """Both ends of what is parted lose their connection, uncleanly; dials find no route, whoever dials."""
        here, there = self.pair()
        other, _ = self.pair("elsewhere")
        self.listen(RawFactory(), "here")
        self.network.part(["here"], ["there"])
        for end in (here, there):
            assert end.lost is not None
            end.lost.trap(ConnectionLost)
        self.assertIsNone(other.lost)
        self.failureResultOf(self.dial("there", "here"), NoRouteError)
        self.failureResultOf(self.dial("here", "there"), NoRouteError)
        self.successResultOf(self.dial("there", "elsewhere"))
        self.network.heal()
        self.successResultOf(self.dial("there", "here"))

    def test_delayed_dial(self) -> None:
        """A dial takes its time; it can be given up meanwhile."""
        self.listen(RawFactory())
        self.network.delay(3, ["here"])
        dialled, given_up = self.dial("there", "here"), self.dial("there", "here")
        self.pass_time(2.9)
        self.assertNoResult(dialled)
        given_up.cancel()
        self.failureResultOf(given_up, ConnectingCancelledError)
        self.assertAlmostEqual(self.network.next_arrival(), 3)
        self.pass_time(0.1)
        self.successResultOf(dialled)
        self.assertEqual(self.network.next_arrival(), math.inf)

    def test_delayed_bytes(self) -> None:
        """Bytes keep their order and their distances; what is written later arrives later; a close comes last."""
        here, there = self.pair()
        self.network.delay(2)
        here.send(b"a")
        self.pass_time(1)
        here.send(b"b")
        here.send(b"c")
        here.close()
        self.assertEqual(self.network.next_arrival(), 2)
        self.pass_time(0.9)
        self.assertEqual(there.received, b"")
        self.pass_time(0.1)
        self.assertEqual((there.received, there.lost), (b"a", None))
        self.pass_time(1)
        self.assertEqual(there.received, b"abc")
        assert there.lost is not None and here.lost is not None
        there.lost.trap(ConnectionDone)

    def test_delayed_close(self) -> None:
        """A close alone takes its time, too."""
        here, there = self.pair()
        self.network.delay(2)
        here.close()
        self.pass_time(1.9)
        self.assertIsNone(there.lost)
        self.pass_time(0.2)
        self.assertIsNotNone(there.lost)

    def test_delayed_abort(self) -> None:
        """Who aborts is rid of the connection at once; the other hears of it when that arrives."""
        here, there = self.pair()
        self.network.delay(2)
        here.send(b"lost")
        here.transport.abortConnection()  # type: ignore[union-attr]
        self.pass_time(0)
        assert here.lost is not None
        here.lost.trap(ConnectionAborted)
        self.pass_time(1.9)
        self.assertIsNone(there.lost)
        self.pass_time(0.2)
        assert there.lost is not None
        there.lost.trap(ConnectionLost)
        self.assertEqual(there.received, b"")

    def test_last_word(self) -> None:
        """Of several delays the last one that was set for a way counts, for what is under way as well."""
        here, there = self.pair()
        self.network.delay(math.inf, ["here"])
        here.send(b"a")
        self.assertEqual(self.network.next_arrival(), math.inf)
        self.pass_time(1000)
        self.network.delay(5, ["nobody"])
        self.network.delay(7, ["there"], ["here"])
        self.network.delay(math.inf, ["elsewhere"])
        self.pass_time(1)
        self.assertEqual(there.received, b"a")
        here.send(b"b")
        self.network.delay(0, ["here"])
        self.network.flush()
        self.assertEqual(there.received, b"ab")

    def test_abandon(self) -> None:
        """A party that dies hears nothing any more, whichever side it is; the others lose their connections."""
        here, there = self.pair()
        self.listen(RawFactory(), "here")
        dialled: Deferred[Any] = self.network.client_endpoint("there", "here").connect(RawFactory())
        there.send(b"for the dead")
        self.network.abandon("here")
        self.network.flush()
        self.assertEqual((here.received, here.lost), (b"", None))
        assert there.lost is not None
        there.lost.trap(ConnectionLost)
        self.assertNoResult(dialled)
        self.failureResultOf(self.dial("here", "there"), ConnectionRefusedError)
        here.send(b"from the dead")
        self.network.flush()
        self.assertEqual(there.received, b"")
        self.successResultOf(self.dial("there", "here"))
        self.network.abandon("there")
        self.failureResultOf(self.dial("there", "here"), ConnectionRefusedError)
