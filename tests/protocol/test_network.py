"""The network in memory behaves as the reactor's does."""

from __future__ import annotations

from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
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

from tasksubmit.testing.network import BUFFER_BYTES, MemoryTransport
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
