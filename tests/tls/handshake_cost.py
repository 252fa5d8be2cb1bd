"""Measure what a handshake costs the node that listens: the most expensive ones that a stranger can have it make.

``python -m tests.tls.handshake_cost`` prints, for each kind of certificate, the processor time from the connection to
its end, and its ratio to the handshake of a trusted peer that shows a certificate of one name. Client and listener are
in one process, and the listener alone is measured. The kinds take turns, and the least of each counts, so that what
else the machine does changes the ratio little.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, field
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.tls.credentials import MAX_HANDSHAKE_BYTES, Credentials
from tasksubmit.tls.endpoints import MutualTLSServerEndpoint
from tasksubmit.tls.identity import PrivateKey, make_certificate, make_key
from tests.tls.support import ALICE, BOB, CAROL, DAY, Authority, Ears, Party, now

MOST = 1.5
"""What a stranger's connection may cost at most, in handshakes of a trusted peer."""

TRUSTED = "a trusted peer, one name"


@define
class Shown:
    """What one who dials shows: a key, its certificate, and others behind it."""

    key: PrivateKey
    certificates: Sequence[x509.Certificate]
    context: SSL.Context = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.context.use_privatekey(self.key)
        self.context.use_certificate(self.certificates[0])
        for certificate in self.certificates[1:]:
            self.context.add_extra_chain_cert(certificate)


class Wire(StringTransport):
    """A transport whose end can be seen, however it came."""

    is_aborted = False

    @override
    def abortConnection(self) -> None:
        self.is_aborted = True
        self.loseConnection()


def certificate_of(
    key: PrivateKey, names: int = 1, extensions: int = 0, parts: int = 1, key_above: PrivateKey | None = None
) -> x509.Certificate:
    """A certificate with so many names, unknown extensions, and parts of its subject; signed by itself unless told."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")] * parts)
    issuer = subject if key_above is None else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "above 0")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - DAY)
        .not_valid_after(now() + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("%x" % (n % 16)) for n in range(names)]), False)
    )
    for number in range(extensions):
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.3.6.{number}"), b"")
        builder = builder.add_extension(unknown, False)
    return builder.sign(key if key_above is None else key_above, hashes.SHA256())


def chain_of(curve: ec.EllipticCurve, count: int) -> Shown:
    """A certificate, and so many above it that nobody trusts, each signed by the next."""
    keys = [ec.generate_private_key(curve) for _ in range(count)]
    chain = [certificate_of(own := make_key(), key_above=keys[0])]
    for number, key in enumerate(keys):
        authority = Authority(f"above {number + 1}", key=keys[min(number + 1, count - 1)])
        above = Authority(f"above {number}", key=key)
        authority.certify(above)
        chain.append(above.certificate)
    return Shown(own, chain)


def kinds(trusted: PrivateKey) -> Mapping[str, Shown]:
    """What strangers may show: what fits into `MAX_HANDSHAKE_BYTES`, which an own hello of 1.7 KiB is part of."""
    key = make_key()
    large = rsa.generate_private_key(65537, 4096)
    rest = MAX_HANDSHAKE_BYTES - 1700 - 700
    return {
        TRUSTED: Shown(trusted, [make_certificate(trusted, ALICE, now())]),
        "one name": Shown(key, [make_certificate(key, CAROL, now())]),
        "33,000 names": Shown(key, [certificate_of(key, names=33_000)]),
        "as many names as fit": Shown(key, [certificate_of(key, names=rest // 3)]),
        "as many extensions as fit": Shown(key, [certificate_of(key, extensions=rest // 10)]),
        "as long a subject as fits": Shown(key, [certificate_of(key, parts=rest // 25)]),
        "RSA of 4096 bits": Shown(large, [certificate_of(large)]),
        "4 above, on P-521": chain_of(ec.SECP521R1(), 4),
    }


def seconds_of(factory: IProtocolFactory, shown: Shown) -> float:
    """Connect, shake hands as far as it goes, and end; returns the processor time of the listener."""
    client = SSL.Connection(shown.context, None)
    client.set_connect_state()
    wire = Wire()
    spent = -time.process_time()
    listener = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 5))
    assert listener is not None
    listener.makeConnection(wire)
    spent += time.process_time()
    while not wire.disconnecting:
        try:
            client.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error:
            break
        try:
            sent = client.bio_read(1024 * 1024)
        except SSL.WantReadError:
            break
        spent -= time.process_time()
        while sent and not wire.disconnecting:
            listener.dataReceived(sent[:65536])
            sent = sent[65536:]
        spent += time.process_time()
        if wire.value():
            client.bio_write(wire.value())
            wire.clear()
    spent -= time.process_time()
    listener.connectionLost(Failure(ConnectionDone()))
    return spent + time.process_time()


class Taken:
    """An endpoint that keeps the factory which it is to listen with."""

    factory: IProtocolFactory

    def listen(self, factory: IProtocolFactory) -> None:
        """See `IStreamServerEndpoint.listen`."""
        self.factory = factory


def measure(directory: Path, rounds: int, has_authority: bool = False) -> dict[str, float]:
    """The seconds of each kind.

    :param has_authority: another peer is trusted through a CA.
    """
    bob, alice, authority = Party(BOB, directory / "bob"), make_key(), Authority()
    pin = Party(ALICE, directory / "alice", alice).pin
    bob.trust(f"{ALICE} {pin}", *([f"{CAROL} ca"] if has_authority else []))
    if has_authority:
        bob.trust_authority(authority)
    clock, taken = Clock(), Taken()
    MutualTLSServerEndpoint(taken, Credentials.of_directory(bob.directory), clock).listen(Ears())  # type: ignore[arg-type]
    seconds: dict[str, list[float]] = {}
    shown = kinds(alice)
    for _ in range(rounds):
        for name, one in shown.items():
            clock.advance(1)  # lest they come too fast
            seconds.setdefault(name, []).append(seconds_of(taken.factory, one))
    return {name: min(several) for name, several in seconds.items()}


def ratios(seconds: Mapping[str, float]) -> dict[str, float]:
    """What strangers cost, in handshakes of a trusted peer."""
    return {name: one / seconds[TRUSTED] for name, one in seconds.items() if name != TRUSTED}


def main() -> int:
    """The command line."""
    is_fine = True
    for has_authority in (False, True):
        with tempfile.TemporaryDirectory() as directory:
            seconds = measure(Path(directory), 100, has_authority)
        print("with a CA" if has_authority else "keys alone")
        for name, ratio in {TRUSTED: 1.0, **ratios(seconds)}.items():
            print(f"    {name:<28} {seconds[name] * 1e6:6.0f} us   {ratio:.2f}")
            is_fine = is_fine and ratio <= MOST
    return not is_fine


if __name__ == "__main__":
    sys.exit(main())
