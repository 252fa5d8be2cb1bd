"""Who a certificate belongs to, or why it is refused; decided inside the handshake, before anything is read.

Whatever is done here with a certificate, any stranger can have done, as often as connections are taken. So nothing is
examined whose cost the stranger decides before something is proved:

* A key that is known is looked up first, by its fingerprint. Where nobody is trusted through a CA that is all: OpenSSL
  does not look for who signed the certificate (`credentials.OWN_ALONE`), and its names are not read.
* Where somebody is, the names are read when OpenSSL has verified the CA's signature, and the handshake ends at the
  first certificate above the own one that does not lead to the CA, before the signatures below it are verified.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.exceptions import CertificateError
from service_identity.hazmat import DNS_ID, DNSPattern, verify_service_identity

from tasksubmit.errors import CertificateRefused
from tasksubmit.tls.identity import dns_name, how_to_renew, pin_of
from tasksubmit.tls.trust import CA, Trust, TrustedPeer

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_WRONG_PURPOSE = 26  # X509_V_ERR_INVALID_PURPOSE

_TOO_LONG = 22  # X509_V_ERR_CERT_CHAIN_TOO_LONG
_UNSIGNED = frozenset({2, 7, 18, 19, 20, 21, _TOO_LONG})
"""OpenSSL's problems with who signed a certificate: to one whose key is pinned they are none."""

_SIGNED_BY_ITSELF = (18, 0)  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, with the own certificate

_DATES = frozenset({_NOT_YET_VALID, _EXPIRED})
"""Problems that OpenSSL finds right after it has verified who signed the certificate."""

_SHOWN_BYTES = 4096
"""The largest certificate of which names are shown that nobody vouches for: to read them takes time."""

Problem = tuple[int, int]
"""OpenSSL's number of what is wrong with a certificate, and that certificate's depth; one's own is at 0."""


@frozen
class Admitted:
    """Who is at the other end, and what proved it.

    :ivar name: as the file of those who are trusted has it.
    :ivar pin: the fingerprint of the key that was shown.
    :ivar proof: that pin, or `CA`.
    :ivar authority: what identifies the CA that vouched; empty for a pin.
    """

    name: str
    pin: str
    proof: str
    authority: bytes = b""

    def is_still(self, trust: Trust, authority: bytes) -> bool:
        """Whether ``trust``, and the CA as it is now, would admit it again."""
        peer = trust.peers.get(self.name)
        return peer is not None and self.proof in peer.proofs and self.authority in (b"", authority)


@define(eq=False)
class Inspection:
    """What one handshake has found out: OpenSSL calls `see` in its course.

    :ivar trust: who is trusted, as it was when the connection was made.
    :ivar authority: what identifies the CA; empty without one.
    :ivar expected: who was dialled; empty where somebody else dials.
    :ivar admitted: who it is, once that is known.
    :ivar refusal: why the certificate was refused, if it was.
    """

    trust: Trust
    authority: bytes
    expected: str = ""
    admitted: Admitted | None = None
    refusal: CertificateRefused | None = None
    _problems: list[Problem] = field(factory=list)
    _own: crypto.X509 | None = None

    @property
    def asks_authority(self) -> bool:
        """True if the CA's word can be what proves who it is."""
        if not self.expected:
            return bool(self.authority) and self.trust.takes_authority
        peer = self.trust.peers.get(self.expected)
        return bool(self.authority) and peer is not None and peer.is_vouched_for

    def see(self, _: SSL.Connection, shown: crypto.X509, problem: int, depth: int, is_fine: int) -> bool:
        """What OpenSSL's verification calls for each of its problems, and for each certificate that it is done with.

        It must never raise: what would come of that is not defined.

        :returns: whether to go on; after False an alert tells the other end.
        """
        if not is_fine:
            self._problems.append((problem, depth))
        if not depth:
            self._own = shown
        if self._own is None:
            if self.asks_authority and problem in _UNSIGNED:
                self._refuse_above(shown, problem)
            return self.refusal is None
        # Judged whenever something new is known: the alert then says what it was, and nothing comes too late to count.
        self._judge(self._own)
        return self.refusal is None

    def forget(self) -> None:
        """Let go of the certificate: pyOpenSSL keeps what it calls back until garbage is collected."""
        self._own = None

    def _refuse_above(self, above: crypto.X509, problem: int) -> None:
        """Refuse a certificate, not seen yet, for one above it. OpenSSL would go on to verify all signatures below."""
        try:
            words = _words_above(problem, above.to_cryptography())
        except Exception as error:  # as in `_judge`
            words = f"comes with one above it that cannot be read: {error}"
        self.refusal = CertificateRefused(f"the certificate of {self.expected or 'the other end'} {words}")

    def _judge(self, own: crypto.X509) -> None:
        authority = self.authority if self.asks_authority else b""
        try:
            self.admitted = admit(own, self._problems, self.trust, authority, self.expected)
        except CertificateRefused as refusal:
            # Its traceback would hold all that is on the stack, the connection among it.
            self.admitted, self.refusal = None, refusal.with_traceback(None)
        except Exception as error:  # whatever a certificate may hold that no library reads
            self.admitted, self.refusal = None, CertificateRefused(f"the certificate cannot be read: {error}")


def admit(shown: crypto.X509, problems: Sequence[Problem], trust: Trust, authority: bytes, expected: str) -> Admitted:
    """Who shows a certificate, of which the handshake has proved that they have its key.

    :param problems: those of OpenSSL, with the certificate (at depth 0) and with those above it.
    :param authority: what identifies the CA; empty where its word proves nothing.
    :param expected: who it has to be; empty for anybody who is trusted.
    :raises CertificateRefused: saying which fingerprint was seen, which was expected, and what to do.
    """
    pin = pin_of(shown.get_pubkey().to_cryptography_key())
    peer = trust.peers.get(expected) if expected else trust.with_pin(pin)
    if peer is not None and pin in peer.pins:
        own = [(problem, depth) for problem, depth in problems if not depth and problem not in _UNSIGNED]
        _refuse_problems(peer.name, pin, shown, own)
        return Admitted(peer.name, pin, pin)
    if expected:
        peer = _expected_through_authority(expected, peer, pin, authority)
    elif not authority or _SIGNED_BY_ITSELF in problems:
        raise CertificateRefused(
            f"nobody who is trusted has the key {pin}; if it is a peer's, ask its operator and then run "
            f"`tasksubmit trust add ADDRESS {pin} ENDPOINT`",
            pin,
        )
    elif {problem for problem, _ in problems} <= _DATES:
        peer = _vouched_for(shown.to_cryptography(), trust)
    _refuse_problems(peer.name if peer is not None else "the other end", pin, shown, problems)
    certificate = shown.to_cryptography()
    if peer is None:
        raise CertificateRefused(
            f"nobody who is trusted has the key {pin}, nor the name that its certificate, signed by the CA, is for: "
            f"{_claims(certificate)}; its operator has to have the CA sign one for its own address alone",
            pin,
        )
    if not _is_for(certificate, dns_name(peer.name)):
        raise CertificateRefused(
            f"the certificate with the key {pin} is for {_claims(certificate)}, not for {dns_name(peer.name)}, which "
            f"is what the CA has to call {peer.name}",
            pin,
            (CA,),
        )
    return Admitted(peer.name, pin, CA, authority)


def _expected_through_authority(name: str, peer: TrustedPeer | None, pin: str, authority: bytes) -> TrustedPeer:
    """Return the peer that was dialled, if the CA may vouch for it."""
    if peer is None:
        raise CertificateRefused(f"{name} is not trusted; `tasksubmit trust add` adds its key", pin)
    if not peer.is_vouched_for:
        raise CertificateRefused(
            f"{peer.name} shows the key {pin}, but is trusted by {' or '.join(peer.pins)}: somebody is in between, or "
            f"it has a new key; ask its operator, and then run `tasksubmit trust add {peer.name} {pin}`",
            pin,
            peer.proofs,
        )
    if not authority:
        raise CertificateRefused(f"{peer.name} is trusted by the CA's word, but there is no file of the CA", pin, (CA,))
    return peer


def _refuse_problems(name: str, pin: str, shown: crypto.X509, problems: Sequence[Problem]) -> None:
    for problem, depth in problems:
        certificate = shown.to_cryptography()
        words = _words_above(problem, certificate) if depth else _words(problem, certificate)
        raise CertificateRefused(f"the certificate of {name}, with the key {pin}, {words}", pin)


def _words_above(problem: int, certificate: x509.Certificate) -> str:
    """What is wrong with a certificate above the own one."""
    if problem == _EXPIRED:
        return "comes with one above it, of a CA, that has expired"
    if problem in _UNSIGNED and problem != _TOO_LONG:
        return _words(problem, certificate)
    return f"comes with one above it that has the error {problem}"


def _words(problem: int, certificate: x509.Certificate) -> str:
    if problem == _EXPIRED:
        return (
            f"has expired (it was good until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M UTC}): its operator has "
            f"to {how_to_renew(certificate)}"
        )
    if problem == _NOT_YET_VALID:
        return (
            f"is not valid yet (before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M UTC}): compare the clocks of "
            "both machines"
        )
    if problem in _UNSIGNED:
        return (
            f"is not signed by the CA that is trusted, but by {_issuer(certificate)}: its operator has to "
            "have that CA sign it, or to put the certificates between into its file, behind its own"
        )
    if problem == _WRONG_PURPOSE:
        return "is not for clients and servers alike, as its extended key usage has to say, if it has one"
    return f"is refused by OpenSSL, with the error {problem} of its verification"


def _issuer(certificate: x509.Certificate) -> str:
    if len(certificate.public_bytes(serialization.Encoding.DER)) > _SHOWN_BYTES:
        return "another"
    return repr(certificate.issuer.rfc4514_string()[:100])


def _patterns(certificate: x509.Certificate) -> list[DNSPattern]:
    """The dNSNames of a certificate, but for wildcards: they would speak of everybody."""
    try:
        patterns = extract_patterns(certificate)
    except (CertificateError, ValueError):
        return []
    return [one for one in patterns if isinstance(one, DNSPattern) and b"*" not in one.pattern]


def _is_for(certificate: x509.Certificate, name: str) -> bool:
    try:
        verify_service_identity(_patterns(certificate), [DNS_ID(name)], [])
    except (VerificationError, CertificateError):
        return False
    return True


def _vouched_for(certificate: x509.Certificate, trust: Trust) -> TrustedPeer | None:
    """The one trusted peer that the certificate speaks of, if it is one; whether the CA says so is another matter."""
    found = {trust.with_dns_name(one.pattern.decode("ascii", "replace").lower()) for one in _patterns(certificate)}
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def _claims(certificate: x509.Certificate) -> str:
    """What a certificate says of itself, for people: text from anybody, so quoted and cut."""
    names = [one.pattern.decode("ascii", "replace") for one in _patterns(certificate)]
    return repr(", ".join(names)[:100]) if names else "nobody"
