"""What a stranger can have a listener do before anything is proved: how much of it, and how often."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import BufferingTLSTransport
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import ConfigurationError
from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.factory import TaskSubmitFactory
from tasksubmit.protocol.handshakes import BURST_SECONDS, UNIT_BYTES, Handshakes
from tasksubmit.tls import judgement
from tasksubmit.tls.credentials import MAX_CERTIFICATE_BYTES, MAX_HANDSHAKE_BYTES
from tasksubmit.tls.endpoints import MutualTLSServerEndpoint
from tasksubmit.tls.identity import dns_name, make_key
from tasksubmit.tls.judgement import Inspection
from tests.tls.handshake_cost import (
    MOST,
    Shown,
    Taken,
    Wire,
    certificate_of,
    chain_of,
    kinds,
    measure,
    ratios,
    seconds_of,
)
from tests.tls.support import ALICE, CAROL, Authority, TLSTestCase, vouched


class CostTests(TLSTestCase):
    """Certificates that cost time."""

    def setUp(self) -> None:
        super().setUp()
        self.taken = Taken()

    def shown_to_bob(self, shown: Shown) -> list[str]:
        """What Bob logs when a stranger dials and shows something."""
        inner: Any = self.taken
        MutualTLSServerEndpoint(inner, self.bob.credentials, self.clock).listen(self.served)
        with capturedLogs() as logs:
            seconds_of(self.taken.factory, shown)
        self.assertEqual(self.served.peers, [])
        return [str(formatEvent(event)) for event in logs]

    def test_cost(self) -> None:
        """However much a stranger shows, it costs the listener about one and a half handshakes of a peer at most.

        Twice that is the limit here, as the machine may be busy.
        ``python -m tests.tls.handshake_cost`` measures.
        """
        for has_authority in (False, True):
            found = ratios(measure(Path(self.mktemp()), 15, has_authority))
            self.assertEqual({name: ratio for name, ratio in found.items() if ratio > 2 * MOST}, {})

    def test_too_much(self) -> None:
        """What is received past the limit never reaches OpenSSL; the connection is aborted, and the log says why."""
        given: list[int] = []
        feed = BufferingTLSTransport.dataReceived

        def noting(tls: BufferingTLSTransport, data: bytes) -> None:
            given.append(len(data))
            feed(tls, data)

        self.patch(BufferingTLSTransport, "dataReceived", noting)
        key = make_key()
        [line] = self.shown_to_bob(Shown(key, [certificate_of(key, names=33_000)]))
        self.assertEqual(sum(given), MAX_HANDSHAKE_BYTES)
        self.assertIn(f"the TLS handshake has more than {MAX_HANDSHAKE_BYTES} bytes: its certificates are too", line)

    def test_sent_after_it(self) -> None:
        """What one who is refused has sent after its certificate counts as nothing: it learns why it was refused."""
        inner: Any = self.taken
        MutualTLSServerEndpoint(inner, self.bobs, self.clock).listen(self.served)
        key = make_key()
        wire = Wire()
        listener = self.taken.factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 5))
        assert listener is not None
        listener.makeConnection(wire)
        client = SSL.Connection(Shown(key, [certificate_of(key)]).context, None)
        client.set_connect_state()
        self.assertRaises(SSL.WantReadError, client.do_handshake)
        listener.dataReceived(client.bio_read(65536))
        client.bio_write(wire.value())
        wire.clear()
        client.do_handshake()
        for _ in range(10):
            client.send(b"x" * 10_000)
        listener.dataReceived(client.bio_read(200_000))
        self.assertEqual((wire.disconnecting, wire.is_aborted), (True, False))
        client.bio_write(wire.value())
        error = self.assertRaises(SSL.Error, client.recv, 1)
        self.assertIn("unknown ca", str(error))

    def test_names_are_not_examined(self) -> None:
        """Names are examined only where some peer is trusted through a CA, and only when the CA has signed them."""
        examined: list[x509.Certificate] = []
        look = judgement._patterns

        def noting(certificate: x509.Certificate) -> Any:
            examined.append(certificate)
            return look(certificate)

        self.patch(judgement, "_patterns", noting)
        stranger = Authority()
        authority = Authority()
        self.bob.trust_authority(authority)
        shown = (
            Shown(stranger.key, [certificate_of(stranger.key, names=1000)]),
            Shown(stranger.key, [stranger.sign(stranger.key, dns_name(CAROL))]),  # the issuer has the CA's name
            chain_of(ec.SECP256R1(), 2),
        )
        for lines in ([f"{ALICE} {self.alice.pin}"], [f"{ALICE} {self.alice.pin}", f"{CAROL} ca"]):
            self.bob.trust(*lines)
            for one in shown:
                self.shown_to_bob(one)
            self.assertEqual(examined, [])
        self.shown_to_bob(Shown(stranger.key, [authority.sign(stranger.key, "somewhere.else")]))
        self.assertNotEqual(examined, [])

    def test_signatures_above_are_not_verified(self) -> None:
        """The first problem ends a stranger's handshake, before the signatures of a chain are verified."""
        seen: list[tuple[int, bool]] = []
        see = Inspection.see

        def noting(inspection: Inspection, *arguments: Any) -> bool:
            seen.append((arguments[3], see(inspection, *arguments)))
            return seen[-1][1]

        self.patch(Inspection, "see", noting)
        [line] = self.shown_to_bob(chain_of(ec.SECP521R1(), 3))
        self.assertEqual(seen, [(0, False)])
        self.assertIn("nobody who is trusted has the key", line)
        seen.clear()
        self.bob.trust_authority(Authority())
        self.bob.trust(f"{CAROL} ca")
        [line] = self.shown_to_bob(chain_of(ec.SECP521R1(), 3))
        self.assertEqual(seen, [(3, False)])
        self.assertIn("is not signed by the CA that is trusted, but by 'CN=above 3'", line)

    def test_large_names_are_not_shown(self) -> None:
        """The log says who signed a stranger's certificate, unless it takes long to read."""
        self.bob.trust_authority(Authority())
        self.bob.trust(f"{CAROL} ca")
        other = Authority("another CA")
        for names, words in (([], "but by 'CN=another CA'"), (["x" * 60] * 80, "but by another:")):
            [line] = self.shown_to_bob(Shown(other.key, [other.sign(other.key, *names)]))
            self.assertIn(words, line)

    def test_pinned_with_others_above(self) -> None:
        """A peer whose key is known is admitted with whatever is above its certificate, where nobody asks the CA."""
        shown = chain_of(ec.SECP256R1(), 3)
        self.alice.use(*shown.certificates, key=shown.key)
        self.bob.trust(f"{ALICE} {self.alice.pin}")
        self.assertTrue(self.can_talk())

    def test_nothing_is_left(self) -> None:
        """What a connection held is free when it is lost, without waiting until garbage is collected."""
        begin = self.bobs.begin
        connections: list[Any] = []

        def noting(expected: str = "") -> Any:
            connection, inspection = begin(expected)
            connections.append((weakref.ref(connection), inspection))
            return connection, inspection

        self.patch(self.bobs.__class__, "begin", lambda _, expected="": noting(expected))
        inner: Any = self.taken
        MutualTLSServerEndpoint(inner, self.bobs, self.clock).listen(self.served)
        gc.disable()
        self.addCleanup(gc.enable)
        for name, shown in kinds(self.alice.key).items():
            seconds_of(self.taken.factory, shown)
            del self.served.peers[:]
            [(connection, inspection)] = connections
            self.assertIsNone(connection(), name)
            self.assertIsNone(inspection._own, name)
            del connections[:]


class SizeTests(TLSTestCase):
    """One's own certificates."""

    def test_largest(self) -> None:
        """Certificates as large as may be shown are taken; larger ones are refused where they are read."""
        authority = Authority()
        self.bob.trust_authority(authority)
        self.bob.trust(f"{ALICE} ca")
        names = [dns_name(ALICE), *("x" * 58 for _ in range(MAX_CERTIFICATE_BYTES // 60 - 7))]
        vouched(authority, self.alice, *names)
        self.assertTrue(self.can_talk())
        vouched(authority, self.alice, *names, *names[-8:])
        error = self.assertRaises(ConfigurationError, self.alice.credentials.load)
        self.assertIn(f"and peers take {MAX_CERTIFICATE_BYTES}: leave out those", str(error))


class RateTests(SynchronousTestCase):
    """How fast handshakes may begin."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.handshakes = Handshakes(self.clock, Bounds(max_handshake_rate=5, max_handshake_rate_per_host=2))

    def taken(self, host: str | None) -> int:
        """How many units a host gets now."""
        count = 0
        while not self.handshakes.take(host):
            count += 1
        return count

    def test_host(self) -> None:
        """A host has a burst, and then its rate; others have theirs."""
        self.assertEqual(self.taken("10.0.0.1"), 2 * BURST_SECONDS)
        self.assertIn("10.0.0.1 began more than 2 TLS handshakes a second", self.handshakes.take("10.0.0.1"))
        self.assertEqual(self.handshakes.take("10.0.0.2"), "")
        self.clock.advance(1)
        self.assertEqual(self.taken("10.0.0.1"), 2)

    def test_all(self) -> None:
        """All hosts together have a rate; those without a host, such as Unix sockets, know no other."""
        self.assertEqual(self.taken(None), 5 * BURST_SECONDS)
        self.assertIn("all hosts began more than 5 TLS", self.handshakes.take("10.0.0.1"))
        self.clock.advance(1)
        self.assertEqual(self.taken("10.0.0.1"), 5)

    def test_slow(self) -> None:
        """With a rate of less than one in its burst, one may begin all the same."""
        self.handshakes = Handshakes(self.clock, Bounds(max_handshake_rate=0.01))
        self.assertEqual(self.taken("10.0.0.1"), 1)
        self.clock.advance(100)
        self.assertEqual(self.taken("10.0.0.1"), 1)

    def test_many_hosts(self) -> None:
        """Of hosts that have not come for a while nothing is kept."""
        self.handshakes = Handshakes(self.clock, Bounds(max_handshake_rate=10_000))
        for number in range(50_000):
            self.clock.advance(0.001)
            self.assertEqual(self.handshakes.take(f"host {number}"), "")
        self.assertLess(len(self.handshakes._used), 2100)


class ListenerTests(TLSTestCase):
    """A listener that keeps to the rates of its application."""

    def gate(self, host: str = "10.0.0.1") -> Any:
        """A new connection."""
        return self.taken.factory.buildProtocol(IPv4Address("TCP", host, 5))

    def setUp(self) -> None:
        super().setUp()
        bounds = Bounds(max_handshake_rate=1000, max_handshake_rate_per_host=1)
        application = TaskSubmitFactory(lambda *_: True, clock=self.clock, bounds=bounds)
        inner: Any = Taken()
        self.taken: Taken = inner
        MutualTLSServerEndpoint(inner, self.bobs, self.clock).listen(application)

    def ended(self, count: int, data: bytes) -> list[bool]:
        """Connect so often, and send something; returns which of the connections have ended."""
        wires = []
        for _ in range(count):
            gate = self.gate()
            gate.makeConnection(wire := Wire())
            wires.append(wire)
            if data:
                gate.dataReceived(data)
        return [wire.disconnecting for wire in wires]

    def test_rate(self) -> None:
        """A handshake over the rate is cut off before OpenSSL hears of it; connections without a word cost none."""
        begun = b"\x16\x03\x01\x05\x00\x01"  # the beginning of a hello
        self.assertEqual(self.ended(20, b""), [False] * 20)
        with capturedLogs() as logs:
            self.assertEqual(self.ended(6, begun), [False] * 4 + [True] * 2)
        self.assertEqual(len(logs), 0)  # they are logged when they are lost
        self.clock.advance(1)
        self.assertEqual(self.ended(2, begun), [False, True])

    def test_size_counts(self) -> None:
        """A large handshake counts as several."""
        hello = b"\x16\x03\x01\x3f\x00\x01" + bytes(UNIT_BYTES)
        self.assertEqual(self.ended(3, hello), [False, False, True])

    def test_dialling_is_free(self) -> None:
        """One who dials is not held up by the rate of those who dial here: a dial counts where it arrives."""
        hosts: list[object] = []

        def take(_: Handshakes, host: object) -> str:
            hosts.append(host)
            return ""

        self.patch(Handshakes, "take", take)
        self.connect()
        self.assertEqual(len(hosts), 1)
