"""Whose keys are known: a file of one line for each peer, as SSH keeps them.

A line is a name, what proves that somebody is it, and how it is reached::

    # name             proof                                                       endpoint
    0:0000.0000.0002   sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=         tcp:bob.example:11003
    0:0000.0000.0003   ca                                                          tcp:carol.example:11003
    0:0000.0000.0004   removed

The proof is a fingerprint of a public key, two of them with a comma between while a key is being changed, or ``ca``
for whatever certificate the CA signs for the name. The endpoint is a client endpoint string of Twisted's, which may be
left out. The pin maps a key to a name; what a certificate that signs itself says of itself proves nothing.

``removed`` stands for a peer whose trust was removed, so that this is known after a restart, too: an option that says
where such a peer lives does not make it a peer that needs no proof.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from tasksubmit.errors import ConfigurationError
from tasksubmit.tls.files import OTHERS_WRITE, read_guarded
from tasksubmit.tls.identity import canonical_name, dns_name, is_address, is_pin

CA = "ca"
"""The proof that is a CA's signature."""

REMOVED = "removed"
"""What stands in the place of a proof when trust was removed."""

MAX_PINS = 2

_HOST_NAME = re.compile(r"[0-9a-z][0-9a-z._-]{0,252}", re.IGNORECASE)

_HEADER = (
    "# Who is trusted: name, fingerprint of the key (two while it changes) or `ca`, endpoint. See `tasksubmit trust`.\n"
    "# A line of a name and `removed` keeps a peer out whose trust was removed.\n"
)


@frozen
class TrustedPeer:
    """One line of the file.

    :ivar name: an address in its canonical spelling, or a host name.
    :ivar proofs: what proves the name: pins, and `CA`.
    :ivar endpoint: how it is reached; empty when that is not known.
    """

    name: str
    proofs: tuple[str, ...]
    endpoint: str = ""

    @property
    def pins(self) -> tuple[str, ...]:
        """The fingerprints of its keys."""
        return tuple(proof for proof in self.proofs if proof != CA)

    @property
    def is_vouched_for(self) -> bool:
        """Whether the CA's word is taken for it."""
        return CA in self.proofs

    def __str__(self) -> str:
        """The line."""
        return f"{self.name} {','.join(self.proofs)} {self.endpoint}".rstrip()


@frozen
class Trust:
    """All who are trusted, by name. Not changed: `with_proof` and `without` make another.

    :ivar peers: the trusted peers.
    :ivar removed: the names of peers whose trust was removed.
    """

    peers: Mapping[str, TrustedPeer]
    removed: frozenset[str] = frozenset()
    _by_pin: Mapping[str, TrustedPeer] = field(init=False, repr=False, eq=False)
    _by_dns_name: Mapping[str, TrustedPeer] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        by_pin: dict[str, TrustedPeer] = {}
        for peer in self.peers.values():
            for pin in peer.pins:
                other = by_pin.setdefault(pin, peer)
                if other is not peer:
                    raise ConfigurationError(
                        f"{other.name} and {peer.name} have the same key {pin}: a key is for one peer only"
                    )
        object.__setattr__(self, "_by_pin", by_pin)
        vouched = {dns_name(peer.name): peer for peer in self.peers.values() if peer.is_vouched_for}
        object.__setattr__(self, "_by_dns_name", vouched)

    def with_pin(self, pin: str) -> TrustedPeer | None:
        """Whose key has this fingerprint."""
        return self._by_pin.get(pin)

    def with_dns_name(self, name: str) -> TrustedPeer | None:
        """Whom the CA speaks of by this dNSName, if its word is taken for that peer."""
        return self._by_dns_name.get(name)

    @property
    def takes_authority(self) -> bool:
        """True if some peer is trusted through the CA."""
        return bool(self._by_dns_name)

    def with_proof(self, name: str, proof: str, endpoint: str = "") -> Trust:
        """The same, and ``proof`` proves that somebody is ``name``; ``endpoint`` replaces the one before, if given.

        :raises ConfigurationError: the proof is none, the key is somebody else's, or the peer has two already.
        """
        name = canonical_name(name)
        known = self.peers.get(name, TrustedPeer(name, ()))
        proofs = known.proofs if proof in known.proofs else (*known.proofs, proof)
        return self._with(_checked(evolve(known, proofs=proofs, endpoint=endpoint or known.endpoint)))

    def without(self, name: str, proof: str = "") -> Trust:
        """The same without a peer, or without one of its proofs; with the last of them the peer is `removed`.

        :raises ConfigurationError: there is no such peer, or no such proof.
        """
        name = canonical_name(name)
        known = self.peers.get(name)
        if known is None:
            raise ConfigurationError(f"{name} is not trusted; `tasksubmit trust list` shows who is")
        if proof and proof not in known.proofs:
            raise ConfigurationError(f"{name} is not trusted by {proof}, but by {', '.join(known.proofs)}")
        left = tuple(kept for kept in known.proofs if proof and kept != proof)
        if left:
            return self._with(evolve(known, proofs=left))
        return Trust({other: peer for other, peer in self.peers.items() if other != name}, self.removed | {name})

    def _with(self, peer: TrustedPeer) -> Trust:
        return Trust({**self.peers, peer.name: peer}, self.removed - {peer.name})

    def to_bytes(self) -> bytes:
        """The file."""
        lines = [*map(str, self.peers.values()), *(f"{name} {REMOVED}" for name in sorted(self.removed))]
        return (_HEADER + "".join(f"{line}\n" for line in lines)).encode("utf-8")


NOBODY = Trust({})


def read_trust(path: Path) -> Trust:
    """Read the file of those who are trusted.

    :raises ConfigurationError: it cannot be read, others may write it, or a line of it is wrong, which is named.
    """
    content = read_guarded(path, OTHERS_WRITE, "others may write it, and so decide who is trusted")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8: {error}") from None
    peers: dict[str, TrustedPeer] = {}
    removed: set[str] = set()
    where = ""
    try:
        for number, line in enumerate(text.splitlines(), 1):
            where = f", line {number}"
            if line.strip() and not line.lstrip().startswith("#"):
                peer = _parsed(line)
                if peer.name in peers or peer.name in removed:
                    raise ConfigurationError(f"{peer.name} has a line already")
                if peer.proofs:
                    peers[peer.name] = peer
                else:
                    removed.add(peer.name)
        where = ""
        return Trust(peers, frozenset(removed))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}{where}: {error}") from None


def _parsed(line: str) -> TrustedPeer:
    """The peer of a line; without proofs if it was removed."""
    name, *rest = line.split(None, 2)
    if not rest:
        raise ConfigurationError("expected NAME PROOF ENDPOINT, where PROOF is sha256:... or ca")
    proofs = () if rest[0] == REMOVED else tuple(rest[0].split(","))
    return _checked(TrustedPeer(canonical_name(name), proofs, rest[1].strip() if len(rest) > 1 else ""))


def _checked(peer: TrustedPeer) -> TrustedPeer:
    if not _HOST_NAME.fullmatch(peer.name) and not is_address(peer.name):
        raise ConfigurationError(f"{peer.name[:80]!r} is neither an address nor a host name")
    if not peer.endpoint.isprintable():
        raise ConfigurationError(f"{peer.endpoint!r} is not an endpoint")
    for proof in peer.proofs:
        if proof != CA and not is_pin(proof):
            raise ConfigurationError(f"{proof[:80]!r} is neither a fingerprint (sha256: and 44 characters) nor ca")
    if len(set(peer.proofs)) != len(peer.proofs):
        raise ConfigurationError(f"{peer.name} has the same proof twice")
    if len(peer.pins) > MAX_PINS:
        raise ConfigurationError(
            f"{peer.name} would have {len(peer.pins)} keys, and may have {MAX_PINS} while it changes them: "
            f"`tasksubmit trust remove {peer.name} {peer.pins[0]}` removes the old one"
        )
    return peer
