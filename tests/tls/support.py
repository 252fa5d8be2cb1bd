"""What the tests of TLS share: certificates of every kind, and two ends on a network in memory."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import cast

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import CertificateRefused
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint, MutualTLSServerEndpoint
from tasksubmit.tls.files import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, replace_file
from tasksubmit.tls.identity import PrivateKey, certificates_pem, dns_name, key_pem, make_certificate, make_key, pin_of

ALICE = "0:0000.0000.0001"
BOB = "0:0000.0000.0002"
CAROL = "0:0000.0000.0003"
DAY = timedelta(days=1)


def now() -> datetime:
    """The time by which OpenSSL judges: no test can set it."""
    return datetime.now(timezone.utc)


@define
class Authority:
    """A private CA.

    :ivar permits: the domain that its certificates may be for; empty for any.
    """

    name: str = "the CA"
    permits: str = ""
    key: PrivateKey = field(factory=make_key)
    certificate: x509.Certificate = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.certificate = self._signed(self.key, self.name, [], True, now() - DAY, now() + 365 * DAY)

    def certify(self, other: Authority, *names: str) -> None:
        """Have another CA sign in this one's name."""
        other.certificate = self._signed(other.key, other.name, list(names), True, now() - DAY, now() + DAY)

    def sign(
        self,
        key: PrivateKey,
        *names: str,
        begins: timedelta = -DAY,
        ends: timedelta = 90 * DAY,
        usage: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        """A certificate for these dNSNames."""
        return self._signed(key, "somebody", list(names), False, now() + begins, now() + ends, usage)

    def _signed(
        self,
        key: PrivateKey,
        subject: str,
        names: list[str],
        is_ca: bool,
        begin: datetime,
        end: datetime,
        usage: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        def named(name: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
        if is_ca and self.permits:
            constraints = x509.NameConstraints([x509.DNSName(self.permits)], None)
            builder = builder.add_extension(constraints, critical=True)
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@define
class Party:
    """Somebody with a directory of keys, certificates, and those who are trusted."""

    name: str
    directory: Path
    key: PrivateKey = field(factory=make_key)

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        self.use(make_certificate(self.key, self.name, now()))

    @property
    def pin(self) -> str:
        """The fingerprint of the key."""
        return pin_of(self.key.public_key())

    @property
    def credentials(self) -> Credentials:
        """New ones, that read the directory."""
        return Credentials.of_directory(self.directory, self.name)

    def use(self, *certificates: x509.Certificate, key: PrivateKey | None = None) -> None:
        """Show these from now on."""
        self.key = key or self.key
        self._write(KEY_FILE, key_pem(self.key))
        self._write(CERTIFICATE_FILE, certificates_pem(certificates))

    def use_new_key(self) -> None:
        """Show another key from now on."""
        key = make_key()
        self.use(make_certificate(key, self.name, now()), key=key)

    def trust(self, *lines: str) -> None:
        """Trust these from now on, and nobody else."""
        self._write(TRUST_FILE, "".join(f"{line}\n" for line in lines).encode())

    def trust_authority(self, *authorities: Authority) -> None:
        """Take the word of these CAs."""
        self._write(CA_FILE, certificates_pem([authority.certificate for authority in authorities]))

    def _write(self, name: str, content: bytes) -> None:
        replace_file(self.directory / name, content)


def vouched(authority: Authority, party: Party, *names: str) -> None:
    """Have a CA sign somebody's certificate, for the own name or for others."""
    party.use(authority.sign(party.key, *(names or [dns_name(party.name)])))


class Ear(Protocol):
    """A protocol that knows nothing of this project: it keeps what it hears."""

    received = b""
    lost: Failure | None = None

    @override
    def dataReceived(self, data: bytes) -> None:
        self.received += data

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, data: bytes) -> None:
        """Write bytes."""
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        """Close cleanly."""
        assert self.transport is not None
        self.transport.loseConnection()


class Ears(Factory):
    """Makes an `Ear` for each connection and keeps it."""

    noisy = False

    def __init__(self) -> None:
        self.peers: list[Ear] = []

    @override
    def buildProtocol(self, addr: object) -> Ear:
        self.peers.append(Ear())
        return self.peers[-1]


class TLSTestCase(SynchronousTestCase):
    """Bob listens, Alice dials, and they know each other's keys; what they are given is nothing of this project."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.alice, self.bob = self.party(ALICE), self.party(BOB)
        self.alice.trust(f"{BOB} {self.bob.pin} tcp:bob:1")
        self.bob.trust(f"{ALICE} {self.alice.pin} tcp:alice:1")
        self.served, self.dialled = Ears(), Ears()
        self.bobs, self.alices = self.bob.credentials, self.alice.credentials

    def party(self, name: str) -> Party:
        """Somebody new."""
        return Party(name, Path(self.mktemp()))

    def listen(self) -> None:
        """Have Bob listen, if he does not yet."""
        if "bob" in self.network.ports:
            return
        inner = self.network.server_endpoint("bob")
        endpoint = MutualTLSServerEndpoint(inner, self.bobs, self.clock)
        self.successResultOf(endpoint.listen(self.served))

    def dial(self, name: str = BOB) -> Deferred[IProtocol]:
        """Have Alice dial Bob, and let the network come to rest."""
        inner = self.network.client_endpoint("bob")
        dialling = MutualTLSClientEndpoint(inner, self.alices, name, self.clock).connect(self.dialled)
        self.network.flush()
        return dialling

    def connect(self) -> tuple[Ear, Ear]:
        """Have Alice reach Bob; gives her end, and his."""
        self.listen()
        self.successResultOf(self.dial())
        return self.dialled.peers[-1], self.served.peers[-1]

    def can_talk(self) -> bool:
        """Whether Alice and Bob can talk, on a new connection."""
        self.listen()
        count = len(self.served.peers)
        self.dial().addErrback(lambda failure: None)
        return len(self.served.peers) > count and self.dialled.peers[-1].lost is None

    def refused_by_alice(self, name: str = BOB) -> str:
        """Why Alice does not go on when she dials; Bob's program hears nothing of it."""
        self.listen()
        counts = len(self.served.peers), len(self.dialled.peers)
        failure = self.failureResultOf(self.dial(name), CertificateRefused)
        self.assertEqual((len(self.served.peers), len(self.dialled.peers)), counts)
        return str(failure.getErrorMessage())

    def refused_by_bob(self) -> tuple[str, str]:
        """Why Bob does not let Alice in, as his log has it and as she hears it; his program hears nothing of it."""
        self.listen()
        count = len(self.served.peers)
        logged = [""]
        observer = cast("ILogObserver", lambda event: logged.append(str(event["error"])) if "error" in event else None)
        globalLogPublisher.addObserver(observer)
        try:
            dialling = self.dial()
        finally:
            globalLogPublisher.removeObserver(observer)
        self.assertEqual(len(self.served.peers), count)
        if isinstance(dialling.result, Failure):  # in TLS 1.2 the dialler learns it in time
            return logged[-1], self.failureResultOf(dialling, CertificateRefused).getErrorMessage()
        lost = self.dialled.peers[-1].lost
        assert lost is not None
        lost.trap(CertificateRefused)
        return logged[-1], lost.getErrorMessage()
