"""The protocol over real sockets of this machine: TCP, Unix, TLS."""

from __future__ import annotations

import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IListeningPort, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import TestCase
from typing_extensions import override

from tasksubmit.errors import PeerUnreachable, PeerVanished
from tasksubmit.protocol import Client, TaskSubmitFactory, connect
from tasksubmit.wire.address import Address
from tests.processes import LONGEST_SECONDS
from tests.protocol.support import (
    HERE,
    OURS,
    THERE,
    RawFactory,
    WaitingHandler,
    answer,
    encoded,
    request,
    results,
    update,
)

clock: Any = reactor


def make_certificate(name: str) -> PrivateCertificate:
    """Make a key and a certificate that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    loaded: PrivateCertificate = PrivateCertificate.loadPEM(pem)
    return loaded


class SocketTestCase(TestCase):
    """Listens and dials, and cleans up."""

    timeout = LONGEST_SECONDS

    async def listen(self, endpoint: IStreamServerEndpoint, factory: Any) -> IListeningPort:
        """Listen until the end of the test."""
        port: IListeningPort = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        if isinstance(factory, TaskSubmitFactory):
            self.addCleanup(factory.close_connections, 1.0)
        return port

    async def listen_tcp(self, factory: Any) -> TCP4ClientEndpoint:
        """Listen on a free port; give the way there."""
        port: Any = await self.listen(TCP4ServerEndpoint(clock, 0, interface="127.0.0.1"), factory)
        return TCP4ClientEndpoint(clock, "127.0.0.1", port.getHost().port)

    def client(self, endpoint: IStreamClientEndpoint, **options: Any) -> Client:
        """Make a client that is closed at the end of the test."""
        client = Client(endpoint, HERE, clock, **options)
        self.addCleanup(client.close)
        return client

    async def converse(self, client: Client) -> None:
        """Many requests of all kinds and sizes, most of them under way at once."""
        assert (await client.submit(request("first"))).status == 200
        self.assertTrue(client.is_persistent)
        sent: list[Deferred[Any]] = [client.submit(request(f"s{number}")) for number in range(500)]
        sent += [client.update(update(f"u{number}")) for number in range(500)]
        sent += [client.send_results(results(f"r{number}", "x" * 300_000)) for number in range(20)]
        ids = [response.task_id for response in await gatherResults(sent)]
        expected = [f"s{number}" for number in range(500)] + [f"u{number}" for number in range(500)]
        self.assertEqual(ids, expected + [f"r{number}" for number in range(20)])


class TCPTests(SocketTestCase):
    """TCP on the loopback interface."""

    async def test_conversation(self) -> None:
        """Requests of all kinds are answered in order on one connection."""
        handler = WaitingHandler(answer)
        factory = TaskSubmitFactory(handler, clock=clock)
        await self.converse(self.client(await self.listen_tcp(factory)))
        self.assertEqual(len(factory.connections), 1)
        self.assertTrue(handler.peers[0].transport.startswith("127.0.0.1 port "))

    async def test_largest(self) -> None:
        """Results that nearly fill the largest frame arrive."""
        handler = WaitingHandler(answer)
        client = self.client(await self.listen_tcp(TaskSubmitFactory(handler, clock=clock)), features=OURS)
        big = results("big", "x" * (2**24 - 1000))
        await client.send_results(big)
        self.assertEqual(handler.asked[0][1], big)

    async def test_deployed_peer(self) -> None:
        """A peer that closes after one frame gets each on a connection of its own."""
        peers = RawFactory(lambda peer, frame: peer.close())
        client = self.client(await self.listen_tcp(peers))
        self.assertEqual(
            await gatherResults([client.update(update("a")), client.send_results(results("b"))]), [None] * 2
        )
        self.assertEqual([peer.received for peer in peers.peers], [encoded(update("a")), encoded(results("b"))])

    async def test_deployed_dialler(self) -> None:
        """Two frames on one connection that is closed right behind them are both handled."""
        handled: Deferred[None] = Deferred()

        def note(task_id: str) -> object:
            if len(handler.asked) == 2:
                handled.callback(None)
            return answer(task_id)

        handler = WaitingHandler(note)
        endpoint = await self.listen_tcp(TaskSubmitFactory(handler, clock=clock))
        dialler = RawFactory()
        await endpoint.connect(dialler)
        dialler.peers[0].send(encoded(results("a", "x" * 1_000_000, ack=False), update("a", ack=False)))
        dialler.peers[0].close()
        await handled

    async def test_refused(self) -> None:
        """A closed port is unreachable."""
        endpoint = await self.listen_tcp(Factory())
        port = endpoint._port
        await self.assertFailure(
            connect(TCP4ClientEndpoint(clock, "127.0.0.2", port), HERE, clock=clock, connect_timeout=5), PeerUnreachable
        )

    async def test_abort(self) -> None:
        """A peer that resets the connection has vanished."""

        def reset(peer: Any, frame: object) -> None:
            peer.transport.abortConnection()

        client = self.client(await self.listen_tcp(RawFactory(reset)))
        await self.assertFailure(client.update(update()), PeerVanished)

    async def test_close_connections(self) -> None:
        """Closing the server's connections answers what is in work first."""
        asked: Deferred[None] = Deferred()
        decided: Deferred[bool] = Deferred()

        def decide(*_: object) -> Deferred[bool]:
            asked.callback(None)
            return decided

        factory = TaskSubmitFactory(decide, clock=clock)
        client = self.client(await self.listen_tcp(factory))
        submitted = client.submit(request("a"))
        await asked
        closed = factory.close_connections()
        decided.callback(True)
        self.assertEqual((await submitted).status, 200)
        await closed


class UnixTests(SocketTestCase):
    """A Unix socket, which has neither hosts nor TCP's options."""

    async def test_conversation(self) -> None:
        """Requests of all kinds are answered in order on one connection."""
        path = self.mktemp()
        await self.listen(UNIXServerEndpoint(clock, path), TaskSubmitFactory(WaitingHandler(answer), clock=clock))
        await self.converse(self.client(UNIXClientEndpoint(clock, path)))


class TLSTests(SocketTestCase):
    """TLS over TCP, with certificates on both sides."""

    @override
    def setUp(self) -> None:
        self.server_certificate = make_certificate("there.example")
        self.client_certificate = make_certificate("here.example")

    async def serve(self, handler: WaitingHandler) -> TCP4ClientEndpoint:
        """Listen with TLS, taking our client's certificate only."""

        def identify(transport: Any) -> Address:
            seen = Certificate(transport.getPeerCertificate()).digest("sha256")
            return {self.client_certificate.digest("sha256"): THERE}[seen]

        factory = TaskSubmitFactory(handler, clock=clock, identify=identify)
        context = CertificateOptions(
            privateKey=self.server_certificate.privateKey.original,
            certificate=self.server_certificate.original,
            trustRoot=trustRootFromCertificates([Certificate.loadPEM(self.client_certificate.dumpPEM())]),
        )
        self.addCleanup(factory.close_connections, 1.0)
        return await self.listen_tcp(TLSMemoryBIOFactory(context, False, factory, clock))

    def dialler(self, endpoint: TCP4ClientEndpoint, name: str = "there.example") -> IStreamClientEndpoint:
        """Dial with TLS, taking that server's certificate only."""
        trusted = Certificate.loadPEM(self.server_certificate.dumpPEM())
        creator = optionsForClientTLS(name, trustRoot=trusted, clientCertificate=self.client_certificate)
        wrapped: IStreamClientEndpoint = wrapClientTLS(creator, endpoint)
        return wrapped

    async def test_conversation(self) -> None:
        """Requests of all kinds are answered in order; the handler is told who the certificate says it is."""
        handler = WaitingHandler(answer)
        await self.converse(self.client(self.dialler(await self.serve(handler))))
        self.assertEqual({peer.address for peer in handler.peers}, {THERE})

    async def test_wrong_certificate(self) -> None:
        """A server that is not the expected one is unreachable, and nothing was sent to it."""
        handler = WaitingHandler(answer)
        client = self.client(self.dialler(await self.serve(handler), "other.example"))
        await self.assertFailure(client.submit(request()), PeerUnreachable)
        self.assertEqual(handler.asked, [])
