"""What a program shows to others and whom it trusts: read from files, and read again when they change."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from attrs import define, field, frozen
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto
from twisted.logger import Logger

from tasksubmit.errors import ConfigurationError
from tasksubmit.tls.files import CA_FILE, CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, is_there
from tasksubmit.tls.identity import Identity, read_certificates, read_identity
from tasksubmit.tls.judgement import Admitted, Inspection
from tasksubmit.tls.trust import NOBODY, Trust, read_trust
from tasksubmit.validation import FUNCTION, TEXT, to_path

CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""Those of TLS 1.2: with forward secrecy, and none without authentication of what is sent. Of 1.3 all are."""

# No session is ever taken up again: that would go past the judgement. (OpenSSL still sends what TLS 1.3 calls tickets,
# but nothing is kept that they could lead to, and they hold nothing themselves.)
_OPTIONS = SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE | SSL.OP_NO_RENEGOTIATION

# A certificate that is compressed on its way could be of any size for `MAX_HANDSHAKE_BYTES`. pyOpenSSL has no name for
# SSL_OP_NO_RX_CERTIFICATE_COMPRESSION; OpenSSL before 3.2, which knows no compression, ignores it.
_OPTIONS |= 1 << 33

MAX_HANDSHAKE_BYTES = 7680
"""How much may be received before a handshake is over: four certificates with RSA keys of 3072 bits, three of 4096.

OpenSSL's work grows with what a certificate holds, be it names, extensions or parts of the subject. With so much of
the worst of them a stranger costs at most one and a half handshakes of a peer (``python -m tests.tls.handshake_cost``);
with 20 KiB it would be three.
"""

MAX_CERTIFICATE_BYTES = MAX_HANDSHAKE_BYTES - 2304
"""How large the own certificates may be together: the rest is for the hello, and for what proves the key."""

OWN_ALONE = -2
"""As the depth of a chain: OpenSSL looks for no certificate above the own one, reports that (as error 22, which
comes first), and verifies no signature. With 0 it would still take the one that signed it.
"""

MAX_BETWEEN = 3
"""Certificates between one and its CA. To verify each takes time, and a stranger can make it take long."""

_MANY = 100
"""Texts of the log that are remembered, so as not to be said again."""

_VERIFY = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


@frozen
class Files:
    """Where the credentials are kept. Without a file of the CA nobody is trusted by its word; without one of those who
    are trusted, nobody is.
    """

    certificate: Path
    key: Path
    trust: Path | None
    ca: Path | None

    @classmethod
    def of_directory(cls, directory: Path) -> Files:
        """Those of a node, by their names in its state directory; the last two need not be there.

        :raises ConfigurationError: whether they are there cannot be seen.
        """
        names = (CERTIFICATE_FILE, KEY_FILE, TRUST_FILE, CA_FILE)
        certificate, key, trust, ca = (directory / name for name in names)
        return cls(certificate, key, trust if is_there(trust) else None, ca if is_there(ca) else None)

    def stamps(self) -> tuple[object, ...]:
        """What changes when a file does."""
        return tuple(map(_stamp, (self.certificate, self.key, self.trust, self.ca)))


def _stamp(path: Path | None) -> object:
    try:
        status = os.stat(path) if path is not None else None
    except OSError:
        status = None
    return None if status is None else (status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode)


@frozen
class _Loaded:
    """What the files said, all of them from one reading."""

    identity: Identity
    trust: Trust
    authority: bytes
    with_authority: SSL.Context
    own_alone: SSL.Context


class Connection(Protocol):
    """What `Credentials` know of a connection that was made with them."""

    admitted: Admitted | None

    def cut(self) -> None:
        """End it at once."""


@define(eq=False)
class Credentials:
    """A key, its certificate, and those who are trusted: for any number of endpoints, over which they outlive a change.

    :ivar find_files: says where they are; asked at each reading, since some need not be there.
    :ivar own_name: the address or the host name that the certificate should be for; empty if unknown.
    :ivar connections: those that were admitted and are open. Whom a new reading does not admit any more is cut off.
    """

    find_files: Callable[[], Files] = field(validator=FUNCTION)
    own_name: str = field(default="", validator=TEXT)
    connections: set[Connection] = field(factory=set, init=False)
    _loaded: _Loaded | None = field(default=None, init=False)
    _stamps: tuple[object, ...] = field(default=(), init=False)
    _told: set[str] = field(factory=set, init=False)

    _log = Logger()

    @classmethod
    def of_directory(cls, directory: Path | str, own_name: str = "") -> Credentials:
        """Those of the node that has this state directory."""
        path = to_path(directory, "directory")
        return cls(lambda: Files.of_directory(path), own_name)

    # --- reading ------------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Read the files, and cut off whom they admit no longer; a reading that fails changes nothing.

        :raises ConfigurationError: naming the file and what to do.
        """
        files = self.find_files()
        stamps = files.stamps()  # before the reading: what changes meanwhile is read once more
        self._stamps = stamps
        self._loaded = _read(files)
        self._told.clear()
        for connection in list(self.connections):
            if not self.still_admit(connection.admitted):
                name = connection.admitted.name if connection.admitted is not None else "nobody"
                self._log.info("{name} is not trusted any more: its connection is cut", name=name)
                try:
                    connection.cut()
                except Exception:  # the next one has to be cut all the same
                    self._log.failure("the connection of {name} could not be cut", name=name)

    def refresh(self) -> None:
        """Read the files again if they have changed; when that fails, say so and go on with what was read before."""
        try:
            if self._loaded is not None and self.find_files().stamps() == self._stamps:
                return
            self.load()
        except ConfigurationError as error:
            if self._loaded is None:
                raise
            self._log.error("the certificates cannot be read again, those of before stay: {error}", error=error)
        else:
            self._log.info("the certificates were read; the own key is {pin}", pin=self.identity.pin)

    @property
    def _current(self) -> _Loaded:
        if self._loaded is None:
            self.load()
        assert self._loaded is not None
        return self._loaded

    @property
    def identity(self) -> Identity:
        """One's own key and certificate."""
        return self._current.identity

    @property
    def trust(self) -> Trust:
        """Who is trusted."""
        return self._current.trust

    # --- connecting ---------------------------------------------------------------------------------------------------

    def begin(self, expected: str = "") -> tuple[SSL.Connection, Inspection]:
        """The TLS of a new connection, and what inspects the other end's certificate in its handshake.

        :param expected: who has to be at the other end; empty for anybody who is trusted.
        """
        self.refresh()
        current = self._current
        inspection = Inspection(current.trust, current.authority, expected)
        context = current.with_authority if inspection.asks_authority else current.own_alone
        connection = SSL.Connection(context, None)
        connection.set_verify(_VERIFY, inspection.see)
        return connection, inspection

    def is_news(self, text: str) -> bool:
        """Whether this was not said since the files were read; lest somebody who comes again and again fill the log."""
        if text in self._told:
            return False
        if len(self._told) >= _MANY:
            self._told.clear()
        self._told.add(text)
        return True

    def still_admit(self, admitted: Admitted | None) -> bool:
        """Whether somebody who was admitted before would be again."""
        current = self._current
        return admitted is not None and admitted.is_still(current.trust, current.authority)


def _read(files: Files) -> _Loaded:
    identity = read_identity(files.certificate, files.key)
    shown_bytes = sum(len(one.public_bytes(Encoding.DER)) for one in (identity.certificate, *identity.chain))
    if shown_bytes > MAX_CERTIFICATE_BYTES:
        raise ConfigurationError(
            f"{files.certificate}: its certificates have {shown_bytes} bytes, and peers take {MAX_CERTIFICATE_BYTES}: "
            "leave out those that do not lead to the CA, or have it sign one with fewer names"
        )
    trust = read_trust(files.trust) if files.trust is not None else NOBODY
    authorities = read_certificates(files.ca) if files.ca is not None else ()
    with_authority, own_alone = _context(files, identity), _context(files, identity)
    own_alone.set_verify_depth(OWN_ALONE)
    with_authority.set_verify_depth(MAX_BETWEEN)
    store = with_authority.get_cert_store()
    assert store is not None
    for certificate in authorities:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    authority = b"".join(sorted(certificate.fingerprint(hashes.SHA256()) for certificate in authorities))
    return _Loaded(identity, trust, authority, with_authority, own_alone)


def _context(files: Files, identity: Identity) -> SSL.Context:
    """What connections with these credentials have in common, whoever is trusted."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(_OPTIONS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(CIPHERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(secrets.token_bytes(16))
    try:
        context.use_certificate(identity.certificate)
        context.use_privatekey(identity.key)
        for certificate in identity.chain:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:
        raise ConfigurationError(f"{files.certificate} cannot be used: {error}") from None
    context.set_verify(_VERIFY)
    return context
