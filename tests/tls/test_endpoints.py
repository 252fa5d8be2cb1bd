"""Two ends over TLS in memory: who is let in, who is not, and what either end is told."""

from __future__ import annotations

import os
from random import Random
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import CertificateOptions
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.errors import CertificateRefused, ConfigurationError
from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.handshakes import Handshakes
from tasksubmit.testing.transport import MemoryTransport
from tasksubmit.tls.credentials import MAX_BETWEEN, Credentials
from tasksubmit.tls.endpoints import (
    HANDSHAKE_SECONDS,
    MutualTLSClientEndpoint,
    MutualTLSServerEndpoint,
    admitted_name,
)
from tasksubmit.tls.faults import fault_of
from tasksubmit.tls.identity import dns_name, make_certificate, make_key, pin_of
from tests.tls.support import ALICE, BOB, CAROL, DAY, Authority, Ear, Ears, TLSTestCase, now, vouched


class PinTests(TLSTestCase):
    """Keys that are known."""

    def test_both_are_known(self) -> None:
        """Both ends learn who is there, and talk; however the bytes are cut."""
        for self.network.chunk_bytes in (65536, 1):
            alice, bob = self.connect() if "bob" not in self.network.ports else self.again()
            alice.send(b"hello" * 10_000)
            bob.send(b"who is it?")
            self.network.flush()
            self.assertEqual((len(bob.received), alice.received), (50_000, b"who is it?"))
            self.assertEqual((admitted_name(alice.transport), admitted_name(bob.transport)), (BOB, ALICE))
            alice.close()
            self.network.flush()
            self.assertIsNotNone(bob.lost)
            self.assertEqual(admitted_name(bob.transport), ALICE)  # what comes late is still hers

    def again(self) -> tuple[Any, Any]:
        """Another connection."""
        self.successResultOf(self.dial())
        return self.dialled.peers[-1], self.served.peers[-1]

    def test_versions(self) -> None:
        """TLS 1.3 is spoken with whoever can, with ciphers that keep what was said secret for ever."""
        alice, _ = self.connect()
        handle: Any = alice.transport
        connection = handle.getHandle()
        self.assertEqual(connection.get_protocol_version_name(), "TLSv1.3")
        ciphers = connection.get_cipher_list()
        self.assertEqual([name for name in ciphers if not name.startswith(("TLS_", "ECDHE-"))], [])
        self.assertEqual([name for name in ciphers if "CBC" in name or name.endswith("SHA")], [])

    def test_unknown_to_bob(self) -> None:
        """Whoever is not trusted gets nowhere, and is told; the listener's log has the fingerprint and the way out."""
        self.bob.trust()
        logged, told = self.refused_by_bob()
        self.assertIn(f"nobody who is trusted has the key {self.alice.pin}", logged)
        self.assertIn(f"`tasksubmit trust add ADDRESS {self.alice.pin} ENDPOINT`", logged)
        self.assertIn(f"{BOB} refuses the own certificate, with the key {self.alice.pin} (unknown ca)", told)

    def test_unknown_to_alice(self) -> None:
        """Nobody is dialled who is not trusted."""
        self.alice.trust()
        self.assertIn(f"{BOB} is not trusted", self.refused_by_alice())

    def test_another_key(self) -> None:
        """Somebody in between, or a peer with a new key: both fingerprints are told."""
        old = self.bob.pin
        self.bob.use_new_key()
        told = self.refused_by_alice()
        self.assertIn(f"{BOB} shows the key {self.bob.pin}, but is trusted by {old}", told)

    def test_somebody_elses_key(self) -> None:
        """A key that is trusted proves one name, and no other: Bob cannot stand where Carol should."""
        self.alice.trust(f"{BOB} {self.bob.pin}", f"{CAROL} {pin_of(make_key().public_key())}")
        self.assertIn(f"{CAROL} shows the key {self.bob.pin}, but is trusted by", self.refused_by_alice(CAROL))
        self.assertTrue(self.can_talk())

    def test_claims(self) -> None:
        """What a certificate that signs itself says of itself proves nothing, and does no harm."""
        stranger = make_key()
        self.alice.use(make_certificate(stranger, ALICE, now()), key=stranger)  # claims her name, has not her key
        self.refused_by_bob()
        self.bob.trust(f"{ALICE} {self.alice.pin}")
        self.alice.use(make_certificate(stranger, CAROL, now()))  # has her key, claims another name
        self.assertTrue(self.can_talk())
        self.assertEqual(admitted_name(self.served.peers[-1].transport), ALICE)

    def test_rotation(self) -> None:
        """While a key is changed both are taken, then the old one no more."""
        new = make_key()
        self.bob.trust(f"{ALICE} {self.alice.pin},{pin_of(new.public_key())}")
        self.assertTrue(self.can_talk())
        self.alice.use(make_certificate(new, ALICE, now()), key=new)
        self.assertTrue(self.can_talk())
        self.bob.trust(f"{ALICE} {self.alice.pin}")
        self.assertTrue(self.can_talk())
        self.alice.use_new_key()
        self.assertFalse(self.can_talk())

    def test_dates(self) -> None:
        """Before its time and after it a certificate is refused also when its key is known; the owner is told."""
        for begin, validity, logged_words, told_words in (
            (-30 * DAY, 10 * DAY, "has expired (it was good until", "(certificate expired): it has expired, on"),
            (30 * DAY, 10 * DAY, "is not valid yet (before", "(bad certificate): it is not valid yet, but from"),
        ):
            self.alice.use(make_certificate(self.alice.key, ALICE, now() + begin, validity))
            logged, told = self.refused_by_bob()
            self.assertIn(f"the certificate of {ALICE}, with the key {self.alice.pin}, {logged_words}", logged)
            self.assertIn(told_words, told)
            self.assertIn("run `tasksubmit renew`", told)
            self.assertNotIn("trust", told)
        self.alice.use(make_certificate(self.alice.key, ALICE, now()))
        self.bob.use(make_certificate(self.bob.key, BOB, now() - 30 * DAY, DAY))
        self.assertIn(f"the certificate of {BOB}, with the key {self.bob.pin}, has expired", self.refused_by_alice())

    def test_what_is_above(self) -> None:
        """Certificates above one whose key is known do not matter, whatever is wrong with them."""
        old = Authority()
        old.certificate = old._signed(old.key, "the CA", [], True, now() - 9 * DAY, now() - DAY)
        self.bob.use(old.sign(self.bob.key, dns_name(CAROL)), old.certificate)
        self.assertTrue(self.can_talk())

    def test_alert_after_all(self) -> None:
        """Only before anything was heard is an alert a refusal: later, what was sent may have been acted upon."""
        alice, bob = self.connect()
        alert = Failure(SSL.Error([("SSL routines", "", "tlsv1 alert internal error")]))
        gate: Any = alice.transport
        bob.send(b"welcome")
        self.network.flush()
        gate.connectionLost(alert)
        assert alice.lost is not None
        self.assertIs(alice.lost, alert)
        self.successResultOf(self.dial())
        gate = self.dialled.peers[1].transport
        gate.connectionLost(alert)
        lost = self.dialled.peers[1].lost
        assert lost is not None
        self.assertIsNotNone(lost.check(CertificateRefused))


class AuthorityTests(TLSTestCase):
    """A private CA."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        for party, other in ((self.alice, BOB), (self.bob, ALICE)):
            vouched(self.authority, party)
            party.trust_authority(self.authority)
            party.trust(f"{other} ca")

    def test_both_are_vouched_for(self) -> None:
        """Whoever the CA calls by the name made from the address is that address, whatever the key."""
        self.assertTrue(self.can_talk())
        self.assertEqual(admitted_name(self.served.peers[-1].transport), ALICE)
        self.alice.key = make_key()
        vouched(self.authority, self.alice)
        self.assertTrue(self.can_talk())

    def test_another_name(self) -> None:
        """Whoever the CA calls otherwise is not who was dialled, nor is a wildcard, which would be everybody."""
        for names in ([dns_name(CAROL)], ["*.tasksubmit.internal"], ["a0000-0000-0002.tasksubmit.internal.example"]):
            vouched(self.authority, self.bob, *names)
            told = self.refused_by_alice()
            self.assertIn(f"not for {dns_name(BOB)}, which is what the CA has to call {BOB}", told)

    def test_another_name_dials(self) -> None:
        """Whoever dials and is called otherwise, by a wildcard, or as two peers at once, is nobody."""
        self.bob.trust(f"{ALICE} ca", f"{CAROL} ca")
        for names in (
            ["a0000-0000-0009.tasksubmit.internal"],
            ["*.tasksubmit.internal"],
            [dns_name(ALICE), dns_name(CAROL)],
        ):
            vouched(self.authority, self.alice, *names)
            logged, told = self.refused_by_bob()
            self.assertIn("nobody who is trusted has the key", logged)
            self.assertIn("its operator has to have the CA sign one for its own address alone", logged)
            self.assertNotIn("tasksubmit trust add", logged)
            self.assertIn("refuses the own certificate", told)
            self.assertIn(f": it is for {', '.join(names)}: have the CA sign one for {dns_name(ALICE)} alone", told)
            self.assertNotIn("trust", told)
        vouched(self.authority, self.alice, dns_name(CAROL), "carol.example")
        self.assertTrue(self.can_talk())
        self.assertEqual(admitted_name(self.served.peers[-1].transport), CAROL)

    def test_not_signed(self) -> None:
        """A certificate that claims the name, signed by itself or by another CA, is refused."""
        self.bob.use(make_certificate(self.bob.key, BOB, now()))
        self.assertIn("is not signed by the CA that is trusted", self.refused_by_alice())
        vouched(Authority(), self.bob)
        self.assertIn("is not signed by the CA that is trusted", self.refused_by_alice())
        other = Authority("another CA")  # which is sent along, so that it is what OpenSSL complains of
        self.bob.use(other.sign(self.bob.key, dns_name(BOB)), other.certificate)
        self.assertIn("is not signed by the CA that is trusted", self.refused_by_alice())
        vouched(self.authority, self.bob)
        vouched(Authority(), self.alice)
        self.assertIn("is not signed by the CA that is trusted", self.refused_by_bob()[0])

    def test_missing_intermediate(self) -> None:
        """A missing certificate between is the fault of its owner, by the peer's log and by the own error."""
        between = Authority("between")
        self.authority.certify(between)
        self.alice.use(between.sign(self.alice.key, dns_name(ALICE)))
        logged, told = self.refused_by_bob()
        self.assertIn("is not signed by the CA that is trusted, but by 'CN=between': its operator has to", logged)
        self.assertIn("(unknown ca): the CA there did not sign it", told)
        self.assertIn("put the certificate of 'CN=between'", told)
        for text in (logged, told):
            self.assertNotIn("tasksubmit trust", text)
        self.alice.use(self.alice.credentials.identity.certificate, between.certificate)
        self.assertTrue(self.can_talk())

    def test_listener_is_at_fault(self) -> None:
        """A listener whose own certificate is refused by those who dial logs what is wrong with it."""
        vouched(self.authority, self.bob, dns_name(CAROL))
        with capturedLogs() as logs:
            self.refused_by_alice()
        [text] = [formatEvent(event) for event in logs if "refuses the own certificate" in formatEvent(event)]
        self.assertIn(f"it is for {dns_name(CAROL)}: have the CA sign one for {dns_name(BOB)} alone", text)

    def test_unknown_though_signed(self) -> None:
        """A right certificate that is refused all the same is for the peer's operator to trust."""
        self.bob.trust(f"{CAROL} ca")
        self.assertIn("its operator has to trust it (`tasksubmit trust`)", self.refused_by_bob()[1])

    def test_wrong_clock(self) -> None:
        """A certificate that is fine by the own clock and not by the peer's sends its owner to the clocks."""
        own = self.alice.credentials.identity
        for alert, words in (
            ("bad certificate", "it is not valid yet there, but from"),
            ("certificate expired", "it has expired there, and ends here on"),
        ):
            self.assertIn(words, fault_of(own, alert, now()))
            self.assertIn("compare the clocks", fault_of(own, alert, now()))

    def test_wrong_usage(self) -> None:
        """Who shows a certificate for servers alone when dialling is told what it has to be for."""
        usage = ExtendedKeyUsageOID.SERVER_AUTH
        self.alice.use(self.authority.sign(self.alice.key, dns_name(ALICE), usage=usage))
        told = self.refused_by_bob()[1]
        self.assertIn("its extended key usage has to name clients and servers alike", told)
        self.assertNotIn("tasksubmit trust", told)

    def test_expired(self) -> None:
        """Whose certificate the CA signed is told to have it sign another, by the log and by who is refused."""
        self.alice.use(self.authority.sign(self.alice.key, dns_name(ALICE), begins=-9 * DAY, ends=-DAY))
        for told in self.refused_by_bob():
            self.assertIn("have the CA sign another", told)
            self.assertNotIn("tasksubmit renew", told)

    def test_signed_by_a_peer(self) -> None:
        """One who is vouched for cannot vouch for others: no CA, no signature."""
        mallory = Authority()
        mallory.certificate = self.authority.sign(mallory.key, dns_name(CAROL))
        self.bob.use(mallory.sign(self.bob.key, dns_name(BOB)), mallory.certificate)
        self.refused_by_alice()

    def test_constraints(self) -> None:
        """What OpenSSL finds last, and with a certificate between, counts as what it finds first."""
        root, between = Authority(permits="tasksubmit.internal"), Authority("between")
        self.alice.trust_authority(root)
        for names in ([], ["a.tasksubmit.internal"], ["somewhere.else"]):
            root.certify(between, *names)
            self.bob.use(between.sign(self.bob.key, dns_name(BOB)), between.certificate)
            if names != ["somewhere.else"]:
                self.listen()
                self.successResultOf(self.dial())
        self.assertIn("with one above it that has the error 47", self.refused_by_alice())

    def test_long_chain(self) -> None:
        """A few certificates may stand between; more would take long to verify, for any stranger."""
        chain: list[Authority] = [self.authority]
        for count in range(1, MAX_BETWEEN + 2):
            chain[-1].certify(between := Authority(f"between {count}"))
            chain.append(between)
            above = [one.certificate for one in reversed(chain[1:])]
            self.bob.use(between.sign(self.bob.key, dns_name(BOB)), *above)
            if count <= MAX_BETWEEN:
                self.assertTrue(self.can_talk())
        self.assertIn("with one above it that has the error", self.refused_by_alice())
        self.alice.trust(f"{BOB} {self.bob.pin}")
        self.assertTrue(self.can_talk())

    def test_dates(self) -> None:
        """Before its time and after it a certificate is refused."""
        for begins, ends, words in ((-9 * DAY, -DAY, "has expired"), (DAY, 9 * DAY, "is not valid yet")):
            self.bob.use(self.authority.sign(self.bob.key, dns_name(BOB), begins=begins, ends=ends))
            self.assertIn(words, self.refused_by_alice())

    def test_usage(self) -> None:
        """One that is for servers alone is none for who dials, and one for clients alone none for who is dialled."""
        server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
        self.alice.use(self.authority.sign(self.alice.key, dns_name(ALICE), usage=server))
        self.assertIn("extended key usage", self.refused_by_bob()[0])
        self.alice.use(self.authority.sign(self.alice.key, dns_name(ALICE), usage=client))
        self.assertTrue(self.can_talk())
        self.bob.use(self.authority.sign(self.bob.key, dns_name(BOB), usage=client))
        self.assertIn("extended key usage", self.refused_by_alice())

    def test_pinned_all_the_same(self) -> None:
        """The CA's word is taken for those of whom the file says so; a pinned peer has to have its key."""
        self.alice.trust(f"{BOB} {pin_of(make_key().public_key())}")
        self.assertIn("but is trusted by sha256:", self.refused_by_alice())
        self.alice.trust(f"{BOB} {self.bob.pin}")
        self.assertTrue(self.can_talk())
        self.bob.use(make_certificate(self.bob.key, BOB, now()))
        self.assertTrue(self.can_talk())

    def test_either(self) -> None:
        """A peer may be trusted both ways, while it changes from one to the other."""
        self.alice.trust(f"{BOB} {self.bob.pin},ca")
        self.assertTrue(self.can_talk())
        self.bob.use(make_certificate(self.bob.key, BOB, now()))
        self.assertTrue(self.can_talk())
        self.bob.key = make_key()
        vouched(self.authority, self.bob)
        self.assertTrue(self.can_talk())

    def test_no_authority(self) -> None:
        """Without the file of the CA its word is nobody's."""
        (self.alice.directory / "ca.pem").unlink()
        self.assertIn("there is no file of the CA", self.refused_by_alice())

    def test_authority_withdrawn(self) -> None:
        """When the CA is another one, those whom the old one vouched for are cut off."""
        alice, bob = self.connect()
        self.bob.trust_authority(Authority())
        self.bobs.load()
        self.network.flush()
        self.assertIsNotNone(bob.lost)
        self.assertIsNotNone(alice.lost)

    def test_host_names(self) -> None:
        """Peers that have no addresses are called by their host names, as the CA calls them."""
        vouched(self.authority, self.bob, "bob.example")
        self.alice.trust("Bob.Example ca")
        self.listen()
        self.successResultOf(self.dial("bob.EXAMPLE"))


class ChangeTests(TLSTestCase):
    """Files that change while connections are open."""

    def test_removal(self) -> None:
        """Whoever is not trusted any more is cut off at once, at either end; others stay."""
        carol = self.party(CAROL)
        self.bob.trust(f"{ALICE} {self.alice.pin}", f"{CAROL} {carol.pin}")
        alice, bob = self.connect()
        self.alices, alices = carol.credentials, self.alices
        carol.trust(f"{BOB} {self.bob.pin}")
        self.successResultOf(self.dial())
        self.bob.trust(f"{CAROL} {carol.pin}")
        self.bobs.load()
        alice.send(b"too late")
        self.network.flush()
        self.assertEqual((bob.received, bob.lost is None, alice.lost is None), (b"", False, False))
        self.assertIsNone(self.served.peers[1].lost)
        carol.trust()
        self.alices.load()
        self.network.flush()
        self.assertIsNotNone(self.served.peers[1].lost)
        self.assertEqual((self.bobs.connections, self.alices.connections, alices.connections), (set(), set(), set()))

    def test_hidden(self) -> None:
        """While the directory cannot be searched, all stays as it was read before."""
        self.connect()

        def forbidden(path: object) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "lstat", forbidden)
        self.assertTrue(self.can_talk())
        self.assertRaises(ConfigurationError, self.bobs.load)

    def test_removal_of_one_key(self) -> None:
        """A connection lives as long as the key that it was made with is trusted, not as the peer is."""
        new = pin_of(make_key().public_key())
        self.bob.trust(f"{ALICE} {self.alice.pin},{new}")
        _, bob = self.connect()
        self.bobs.load()
        self.network.flush()
        self.assertIsNone(bob.lost)
        self.bob.trust(f"{ALICE} {new}")
        self.bobs.load()
        self.network.flush()
        self.assertIsNotNone(bob.lost)

    def test_removal_in_the_handshake(self) -> None:
        """Whoever loses trust between being judged and being admitted is not admitted."""
        self.network.chunk_bytes = 1
        self.listen()
        endpoint = MutualTLSClientEndpoint(self.network.client_endpoint("bob"), self.alices, BOB, self.clock)
        dialling = endpoint.connect(self.dialled)
        while not dialling.called:  # Alice has judged Bob; her own last bytes are under way
            self.network.pump()
        self.bob.trust()
        self.bobs.load()
        self.network.flush()
        self.assertEqual(self.served.peers, [])
        self.assertIsNotNone(self.dialled.peers[0].lost)

    def test_renewal(self) -> None:
        """A new certificate is shown from the next connection on; those that are open stay, nothing is started anew."""
        alice, bob = self.connect()
        self.bob.use(make_certificate(self.bob.key, BOB, now(), 7 * DAY))
        self.successResultOf(self.dial())
        shown: Any = self.dialled.peers[1].transport
        certificate = shown.getPeerCertificate().to_cryptography()
        self.assertLess(certificate.not_valid_after_utc, now() + 8 * DAY)
        alice.send(b"still here")
        self.network.flush()
        self.assertEqual((bob.received, alice.lost), (b"still here", None))

    def test_addition(self) -> None:
        """Whoever is added is admitted with the next connection, without anybody being told to read the file."""
        self.bob.trust()
        self.assertFalse(self.can_talk())
        self.bob.trust(f"{ALICE} {self.alice.pin}")
        self.assertTrue(self.can_talk())

    def test_broken_while_running(self) -> None:
        """Files that cannot be read leave what was read before in force, until they can."""
        self.assertTrue(self.can_talk())
        path = self.bob.directory / "trust"
        content = path.read_bytes()
        path.write_bytes(b"nonsense\n")
        for _ in range(2):
            self.assertTrue(self.can_talk())
        self.assertRaises(ConfigurationError, self.bobs.load)
        self.assertTrue(self.can_talk())
        path.write_bytes(b"")
        self.assertFalse(self.can_talk())
        path.write_bytes(content)
        (self.bob.directory / "key.pem").chmod(0o644)
        self.assertFalse(self.can_talk())

    def test_broken_at_first(self) -> None:
        """Without a key nothing is listened on and nobody is dialled, and the file is named."""
        for party, credentials in ((self.bob, self.bobs), (self.alice, self.alices)):
            (party.directory / "key.pem").chmod(0o640)
            self.assertIn("others may read", str(self.assertRaises(ConfigurationError, credentials.load)))
        server = MutualTLSServerEndpoint(self.network.server_endpoint("bob"), self.bobs, self.clock)
        self.failureResultOf(server.listen(self.served), ConfigurationError)
        self.assertEqual(self.network.ports, {})
        self.failureResultOf(self.dial(), ConfigurationError)
        self.assertEqual(self.network.dials, {})


class StrangerTests(TLSTestCase):
    """Ends that are not as they should be."""

    def dial_plainly(self) -> Ears:
        """Connect to Bob without TLS."""
        self.listen()
        factory = Ears()
        self.successResultOf(_flushed(self, self.network.client_endpoint("bob").connect(factory)))
        return factory

    def dial_twisted(self, options: Any) -> Ears:
        """Connect to Bob as other programs on Twisted do."""
        self.listen()
        factory = Ears()
        wrapped = TLSMemoryBIOFactory(options, True, factory, clock=self.clock)
        self.successResultOf(_flushed(self, self.network.client_endpoint("bob").connect(wrapped)))
        return factory

    def test_silence(self) -> None:
        """Whoever says nothing, or too little for too long, is gone after the time of a handshake."""
        [stranger] = self.dial_plainly().peers
        self.clock.advance(HANDSHAKE_SECONDS - 1)
        stranger.send(b"\x16\x03\x01")  # the beginning of something
        self.network.flush()
        self.assertIsNone(stranger.lost)
        self.clock.advance(1)
        self.network.flush()
        self.assertIsNotNone(stranger.lost)
        self.assertEqual(self.served.peers, [])

    def test_silent_strangers(self) -> None:
        """Whoever connects and says nothing takes a place until the handshake's time is over."""
        bounds = Bounds(max_handshakes=3)
        self.served.handshakes = Handshakes(self.clock, bounds, Random(1))  # type: ignore[attr-defined]  # see `listen`
        ears = [self.dial_plainly()] + [Ears() for _ in range(4)]
        for ear in ears[1:]:
            self.network.client_endpoint("bob").connect(ear).addErrback(lambda _: None)
        self.network.flush()
        self.assertEqual(self.network.connection_count("bob"), 3)
        self.assertTrue(self.can_talk())  # however many keep silent, one of them makes room
        self.clock.advance(HANDSHAKE_SECONDS)
        self.network.flush()
        late = Ears()
        self.successResultOf(_flushed(self, self.network.client_endpoint("bob").connect(late)))
        self.assertIsNone(late.peers[0].lost)

    def test_pipes(self) -> None:
        """A connection of a kind that cannot be aborted is closed, and nothing that still comes is heard."""
        alice, bob = self.connect()
        transport: Any = bob.transport
        self.patch(MemoryTransport, "abortConnection", property())
        alice.send(b"too late")
        self.clock.advance(0)
        sent: Any = alice.transport
        under_way = bytes(sent.transport.transport.unread)
        self.bob.trust()
        self.bobs.load()
        transport.transport.dataReceived(under_way)
        self.network.flush()
        self.assertEqual((bob.received, bool(under_way)), (b"", True))
        self.assertIsNotNone(bob.lost)
        self.assertFalse(transport.transport.transport.connected)

    def test_no_time_limit_after_it(self) -> None:
        """The time of a handshake is no limit for what comes after it."""
        alice, bob = self.connect()
        self.clock.advance(10 * HANDSHAKE_SECONDS)
        self.network.flush()
        self.assertEqual((alice.lost, bob.lost, self.clock.getDelayedCalls()), (None, None, []))

    def test_silent_listener(self) -> None:
        """A dialler does not wait for ever either."""
        self.successResultOf(self.network.server_endpoint("bob").listen(Ears()))
        dialling = self.dial()
        self.clock.advance(HANDSHAKE_SECONDS)
        self.network.flush()
        self.assertIn("over 10 s", self.failureResultOf(dialling, ConnectionLost).getErrorMessage())

    def test_without_tls(self) -> None:
        """Whoever speaks no TLS to Bob gets nowhere; the log says what was the matter."""
        factory = self.dial_plainly()
        factory.peers[0].send(b"\0\0\0\1\0\0\0\2{}")
        self.network.flush()
        self.assertEqual(self.served.peers, [])
        self.assertIsNotNone(factory.peers[0].lost)

    def test_listener_without_tls(self) -> None:
        """A listener that speaks no TLS is told apart from one that refuses."""
        for say in (b"SSH-2.0-OpenSSH_9.9\r\n", b""):
            port: Any = self.successResultOf(self.network.server_endpoint("bob").listen(_Greeting(say)))
            self.assertIn("speak TLS", self.failureResultOf(self.dial(), ConnectionLost).getErrorMessage())
            port.stopListening()

    def test_no_certificate(self) -> None:
        """Whoever shows no certificate is not admitted, in TLS 1.3 as in 1.2."""
        options = CertificateOptions()
        factory = self.dial_twisted(options)
        factory.peers[0].send(b"let me in")
        self.network.flush()
        self.assertEqual(self.served.peers, [])
        self.assertIsNotNone(factory.peers[0].lost)

    def test_old_version(self) -> None:
        """TLS 1.1 is not spoken."""
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_min_proto_version(SSL.TLS1_VERSION)
        factory = self.dial_twisted(_Context(context))
        self.assertIsNotNone(factory.peers[0].lost)
        self.assertEqual(self.served.peers, [])

    def test_twelve(self) -> None:
        """TLS 1.2 is, and a refusal there ends the handshake, not the connection after it."""
        self.alices = _Twelve(self.alices.find_files)
        self.assertTrue(self.can_talk())
        transport: Any = self.dialled.peers[-1].transport
        self.assertEqual(transport.getHandle().get_protocol_version_name(), "TLSv1.2")
        self.bob.trust()
        _, told = self.refused_by_bob()
        self.assertIn("(unknown ca)", told)
        self.assertEqual(len(self.dialled.peers), 1)

    def test_given_up(self) -> None:
        """A dial that is given up, before there is a connection or in the handshake, leaves nothing behind."""
        self.listen()
        for steps in range(4):
            inner = self.network.client_endpoint("bob")
            dialling = MutualTLSClientEndpoint(inner, self.alices, BOB, self.clock).connect(self.dialled)
            for _ in range(steps):
                self.network.pump()
            if not dialling.called:
                dialling.cancel()
                self.failureResultOf(dialling, CancelledError)
                self.network.flush()
                self.assertEqual(self.network.connection_count("bob"), 0)
        self.network.cut_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_application_has_no_protocol(self) -> None:
        """An application that wants no protocol after all gets none, and the connection goes."""

        class Nothing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        self.listen()
        inner = self.network.client_endpoint("bob")
        dialling = MutualTLSClientEndpoint(inner, self.alices, BOB, self.clock).connect(Nothing())
        self.network.flush()
        self.failureResultOf(dialling)
        self.assertEqual(self.network.connection_count("bob"), 0)

    def test_a_scanner(self) -> None:
        """The log does not grow with every stranger that comes again."""
        self.bob.trust()
        self.listen()
        self.assertIn("nobody who is trusted", self.refused_by_bob()[0])
        self.assertEqual(self.refused_by_bob()[0], "")
        self.bobs.load()
        self.assertIn("nobody who is trusted", self.refused_by_bob()[0])


class _Twelve(Credentials):
    """Somebody who knows nothing of TLS 1.3."""

    def begin(self, expected: str = "") -> Any:
        connection, inspection = super().begin(expected)
        connection.set_options(SSL.OP_NO_TLSv1_3)
        return connection, inspection


class _Context:
    """A context as Twisted once took it."""

    def __init__(self, context: SSL.Context) -> None:
        self.context = context

    def getContext(self) -> SSL.Context:
        return self.context


def _flushed(test: TLSTestCase, deferred: Any) -> Any:
    test.network.flush()
    return deferred


class _Greeting(Ears):
    """Says something to everybody, and hangs up."""

    def __init__(self, say: bytes) -> None:
        super().__init__()
        self.say = say

    @override
    def buildProtocol(self, addr: object) -> Ear:
        ear = super().buildProtocol(addr)

        def greet() -> None:
            ear.send(self.say)
            ear.close()

        ear.connectionMade = greet  # type: ignore[method-assign]
        return ear
