"""One's own key and certificate: made, read, renewed, and checked before they are used."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tasksubmit.errors import ConfigurationError, InvalidAddress
from tasksubmit.tls.files import OTHERS_TOUCH, OTHERS_WRITE, read_guarded
from tasksubmit.wire.address import Address

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

VALIDITY = timedelta(days=730)
"""How long a certificate is good for that is made here."""

EXPIRY_WARNING = timedelta(days=30)
"""How long before its end a certificate is worth a warning."""

_SKEW = timedelta(days=1)
"""How far back a new certificate is dated, for peers whose clocks are slow."""

_LEAST_RSA_BITS = 2048

_CURVES = ec.SECP256R1, ec.SECP384R1, ec.SECP521R1
"""Those that TLS 1.3 signs with: a certificate with another is not so much as sent."""

_DNS_NAME = re.compile(r"a([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})\.tasksubmit\.internal")
_DOMAIN = "tasksubmit.internal"
_PIN = re.compile(r"sha256:[A-Za-z0-9+/]{43}=")


def pin_of(key: object) -> str:
    """The fingerprint of a public key, or of the one in a certificate.

    :returns: the SHA-256 of its SubjectPublicKeyInfo, as ``sha256:`` and 44 characters of base64.
    """
    public = key.public_key() if isinstance(key, (x509.Certificate, ec.EllipticCurvePrivateKey)) else key
    public_bytes = getattr(public, "public_bytes")  # noqa: B009 - every kind of public key has it
    der = public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + base64.b64encode(hashlib.sha256(der).digest()).decode("ascii")


def is_pin(text: str) -> bool:
    """Whether a text is a fingerprint as `pin_of` writes it, and as no other text writes it."""
    if not _PIN.fullmatch(text):
        return False
    digest = text.removeprefix("sha256:")
    return base64.b64encode(base64.b64decode(digest)).decode("ascii") == digest


def is_address(name: str) -> bool:
    """Whether a name is an address; else it is a host name."""
    try:
        Address.parse(name)
    except InvalidAddress:
        return False
    return True


def canonical_name(name: str) -> str:
    """A name in the one spelling in which names are compared: that of an address, if it is one."""
    try:
        return str(Address.parse(name))
    except InvalidAddress:
        return name.lower()


def dns_name(name: str) -> str:
    """The dNSName by which a certificate of a CA speaks of ``name``.

    :param name: an address, which is no host name and whose colons break URIs: ``1:0001.0000.0005`` becomes
        ``a0001-0000-0005.tasksubmit.internal``. Any other name is a host name already.
    """
    try:
        address = Address.parse(name)
    except InvalidAddress:
        return name.lower()
    return "a" + str(address).partition(":")[2].replace(".", "-").lower() + "." + _DOMAIN


def dns_names(certificate: x509.Certificate) -> list[str]:
    """The dNSNames that a certificate says it is for; that is a claim, and no more."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return list(names.get_values_for_type(x509.DNSName))


def claimed_addresses(certificate: x509.Certificate) -> list[Address]:
    """The addresses that a certificate says it is for; that is a claim, and no more."""
    matches = map(_DNS_NAME.fullmatch, dns_names(certificate))
    found = (match.groups() for match in matches if match is not None)
    return [Address(int(network, 16), int(high + low, 16)) for network, high, low in found]


def claimed_address(certificate: x509.Certificate) -> Address | None:
    """The first address that a certificate says it is for."""
    return next(iter(claimed_addresses(certificate)), None)


def is_signed_by_itself(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that no CA has signed it."""
    return certificate.issuer == certificate.subject


def how_to_renew(certificate: x509.Certificate) -> str:
    """What its operator has to do for a new one."""
    if is_signed_by_itself(certificate):
        return "run `tasksubmit renew`"
    return "have the CA sign another, put it in its place, and run `tasksubmit reload`"


@frozen
class Identity:
    """A key and its certificate, as they are shown to others.

    :ivar certificate: one's own.
    :ivar chain: those that lead from it to a CA, if there is one, without that of the CA itself.
    """

    key: PrivateKey
    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pin(self) -> str:
        """The fingerprint that peers know the key by."""
        return pin_of(self.certificate)

    @property
    def expires_at(self) -> datetime:
        """When the first certificate of those shown ends."""
        return min(certificate.not_valid_after_utc for certificate in (self.certificate, *self.chain))

    def expiry_warning(self, now: datetime) -> str:
        """What to say about its end; empty while that is far."""
        left = self.expires_at - now
        if left > EXPIRY_WARNING:
            return ""
        when = self.expires_at.strftime("%Y-%m-%d %H:%M UTC")
        if left <= timedelta(0):
            return f"the certificate expired on {when}, and peers refuse it: {how_to_renew(self.certificate)}"
        return f"the certificate expires on {when}, in {left.days} days: {how_to_renew(self.certificate)}"


def make_key() -> PrivateKey:
    """A new key, on the curve P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def make_certificate(key: PrivateKey, name: str, now: datetime, validity: timedelta = VALIDITY) -> x509.Certificate:
    """A certificate that ``key`` signs for itself.

    :param name: an address or a host name, which it will claim to be.
    :param now: an aware datetime.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, canonical_name(name))])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .sign(key, hashes.SHA256())
    )


def key_pem(key: PrivateKey) -> bytes:
    """A key as it is kept: unencrypted, so for its owner's eyes only."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificates_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates as they are kept."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def read_key(path: Path) -> PrivateKey:
    """Read a private key.

    :raises ConfigurationError: it is not there, not a key, of a kind that is not used here, or others can read it.
    """
    content = read_guarded(path, OTHERS_TOUCH, "others may read the private key, which then proves nothing")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{path} is not a private key in PEM without a password ({_found(content, error)})"
        ) from None
    is_odd = isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, _CURVES)
    if is_odd or not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigurationError(f"{path} is a key of a kind that is not used here: make one on P-256, or with RSA")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _LEAST_RSA_BITS:
        raise ConfigurationError(
            f"{path} is an RSA key of {key.key_size} bits, which can be broken: make one of {_LEAST_RSA_BITS} or more"
        )
    return key


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """Read one certificate or more.

    :raises ConfigurationError: it cannot be read, or holds none.
    """
    content = read_guarded(path, OTHERS_WRITE, "others may write it, and so decide who is believed")
    try:
        return tuple(x509.load_pem_x509_certificates(content))
    except ValueError as error:
        raise ConfigurationError(f"{path} does not hold certificates in PEM ({_found(content, error)})") from None


def _found(content: bytes, error: Exception) -> str:
    """What a file holds instead, or else what the library says, but for its advice to programmers."""
    if not content.strip():
        return "it is empty"
    labels = re.findall(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", content)
    if not labels:
        return "nothing in it is PEM"
    if b"ENCRYPTED" in labels[0] or b"ENCRYPTED" in content:
        return "it has a password: `openssl pkey` writes it without"
    return f"it holds a {labels[0].decode().lower()}: {str(error).partition('. See http')[0]}"


def read_identity(certificate: Path, key: Path) -> Identity:
    """Read a certificate, with its chain behind it, and its key.

    :raises ConfigurationError: saying which file is at fault, and what to do.
    """
    own, *chain = read_certificates(certificate)
    identity = Identity(read_key(key), own, tuple(chain))
    if pin_of(identity.key.public_key()) != identity.pin:
        raise ConfigurationError(f"{certificate} is not the certificate of the key in {key}: renew it, or put it right")
    return identity


def utc_now(seconds: float) -> datetime:
    """Seconds since 1970 as an aware datetime."""
    return datetime.fromtimestamp(seconds, timezone.utc)
