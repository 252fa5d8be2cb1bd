"""What the tests of TLS share: certificates of every kind, and two ends on a network in memory."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint, MutualTLSServerEndpoint
from tasksubmit.tls.files import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TRUST_FILE
from tasksubmit.tls.identity import PrivateKey, certificates_pem, dns_name, key_pem, make_certificate, make_key, pin_of
from tests.protocol.support import RawFactory, RawPeer

ALICE = "0:0000.0000.0001"
BOB = "0:0000.0000.0002"
CAROL = "0:0000.0000.0003"
DAY = timedelta(days=1)


def now() -> datetime:
    """The time by which OpenSSL judges: no test can set it."""
    return datetime.now(timezone.utc)


@define
class Authority:
    """A private CA."""

    key: PrivateKey = field(factory=make_key)
    certificate: x509.Certificate = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.certificate = self._signed(self.key, "the CA", [], True, now() - DAY, now() + 365 * DAY)

    def sign(
        self, key: PrivateKey, *names: str, begins: timedelta = -DAY, ends: timedelta = 90 * DAY
    ) -> x509.Certificate:
        """A certificate for these dNSNames."""
        return self._signed(key, "somebody", list(names), False, now() + begins, now() + ends)

    def _signed(
        self, key: PrivateKey, subject: str, names: list[str], is_ca: bool, begin: datetime, end: datetime
    ) -> x509.Certificate:
        def named(name: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("the CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(x509.DNSName, names))), critical=False)
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
        return Credentials.of_directory(self.directory)

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
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def vouched(authority: Authority, party: Party, *names: str) -> None:
    """Have a CA sign somebody's certificate, for the own name or for others."""
    party.use(authority.sign(party.key, *(names or [dns_name(party.name)])))


class TLSTestCase(SynchronousTestCase):
    """Bob listens, Alice dials, and they know each other's keys; what they are given is nothing of this project."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.alice, self.bob = self.party(ALICE), self.party(BOB)
        self.alice.trust(f"{BOB} {self.bob.pin} tcp:bob:1")
        self.bob.trust(f"{ALICE} {self.alice.pin} tcp:alice:1")
        self.served, self.dialled = RawFactory(), RawFactory()
        self.bobs, self.alices = self.bob.credentials, self.alice.credentials

    def party(self, name: str) -> Party:
        """Somebody new."""
        return Party(name, Path(self.mktemp()))

    def listen(self) -> None:
        """Have Bob listen."""
        inner = self.network.server_endpoint("bob")
        endpoint = MutualTLSServerEndpoint(inner, self.bobs, self.clock)
        self.successResultOf(endpoint.listen(self.served))

    def dial(self, name: str = BOB) -> Deferred[IProtocol]:
        """Have Alice dial Bob, and let the network come to rest."""
        inner = self.network.client_endpoint("bob")
        dialling = MutualTLSClientEndpoint(inner, self.alices, name, self.clock).connect(self.dialled)
        self.network.flush()
        return dialling

    def connect(self) -> tuple[RawPeer, RawPeer]:
        """Have Alice reach Bob; gives her end, and his."""
        self.listen()
        self.successResultOf(self.dial())
        return self.dialled.peers[-1], self.served.peers[-1]

    def admitted(self) -> bool:
        """Whether Alice and Bob can talk, on a new connection."""
        self.listen() if "bob" not in self.network.ports else None
        count = len(self.served.peers)
        dialling = self.dial()
        dialling.addErrback(lambda failure: None)
        return len(self.served.peers) > count and self.dialled.peers[-1].lost is None
