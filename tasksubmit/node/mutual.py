"""Peers that are known by their keys: who they are, where they live, and how they are dialled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import CertificateRefused, ConfigurationError, InvalidAddress, PeerUnreachable, UnknownPeer
from tasksubmit.interfaces import Credential, IPeers, IReloadable
from tasksubmit.node.identity import BelieveAll
from tasksubmit.node.peers import to_endpoints
from tasksubmit.node.policy import PEERS
from tasksubmit.protocol.arguments import CLOCK, SERVER_ENDPOINT, checked_later
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint, MutualTLSServerEndpoint
from tasksubmit.tls.trust import Trust
from tasksubmit.validation import FUNCTION, checked, instance_of, optional, provides
from tasksubmit.wire.address import Address


@implementer(IPeers, IReloadable)
class MutualTLS(BelieveAll):
    """The peers of a file that says whose keys are known; hand it to a node as its peers and as its authenticator.

    :param credentials: the own key and certificate, and who is trusted.
    :param dial: makes an endpoint of the text that the file has for it.
    :param clock: measures handshakes; commonly the reactor.
    :param wall: the wall clock, in seconds since 1970.
    :param endpoints: where peers live otherwise than the file says.
    :param unproved: peers that are dialled without TLS, and may claim their addresses on connections that are without;
        but for those whose trust was removed.
    """

    _log = Logger()

    @checked(
        credentials=instance_of(Credentials, "Credentials, such as Credentials.of_directory(state_dir)"),
        dial=FUNCTION,
        clock=CLOCK,
        wall=FUNCTION,
        unproved=optional(PEERS),
    )
    def __init__(
        self,
        credentials: Credentials,
        dial: Callable[[str], IStreamClientEndpoint],
        clock: IReactorTime,
        wall: Callable[[], float],
        *,
        endpoints: Mapping[Address, IStreamClientEndpoint] | Mapping[str, IStreamClientEndpoint] | None = None,
        unproved: IPeers | None = None,
    ) -> None:
        self._credentials = credentials
        self._dial = dial
        self._clock = clock
        self._wall = wall
        self._endpoints = {} if endpoints is None else to_endpoints(endpoints, "endpoints")
        self._unproved = unproved
        self._known: tuple[Trust, Collection[Address]] | None = None

    # --- IPeers -------------------------------------------------------------------------------------------------------

    def addresses(self) -> Collection[Address]:
        """See `IPeers.addresses`."""
        trust = self._credentials.trust
        if self._known is None or self._known[0] is not trust:
            found = {address for name in trust.peers if (address := _address(name)) is not None}
            if self._unproved is not None:
                found.update(filter(self._is_unproved, self._unproved.addresses()))
            self._known = trust, frozenset(found)
        return self._known[1]

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        """See `IPeers.endpoint`. What the file says is looked up at each dial."""
        if str(address) in self._credentials.trust.peers:
            return _Dialled(self, address)
        if self._unproved is not None and self._is_unproved(address):
            return self._unproved.endpoint(address)
        raise UnknownPeer(
            f"{address} is not a peer of this node; add it with `tasksubmit trust add {address} FINGERPRINT`"
        )

    @checked(address=instance_of(Address))
    def inner(self, address: Address) -> IStreamClientEndpoint:
        """What is under the TLS to a trusted peer, as the file now has it.

        :raises CertificateRefused: the peer is not trusted any more.
        :raises PeerUnreachable: nothing says where it lives.
        """
        peer = self._credentials.trust.peers.get(str(address))
        if peer is None:
            raise CertificateRefused(
                f"{address} is not trusted any more; `tasksubmit trust add {address} FINGERPRINT` adds its key"
            )
        if address in self._endpoints:
            return self._endpoints[address]
        if not peer.endpoint:
            raise PeerUnreachable(
                f"nothing says how {address} is reached: `tasksubmit trust add {peer.name} {peer.proofs[0]} ENDPOINT`"
            )
        try:
            return self._dial(peer.endpoint)
        except Exception as error:  # parsers are plugins, and raise what they like
            raise PeerUnreachable(f"{address} is trusted at {peer.endpoint!r}, which is no endpoint: {error}") from None

    @checked_later(address=instance_of(Address), factory=provides(IProtocolFactory))
    def connect(self, address: Address, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Dial a trusted peer; see `MutualTLSClientEndpoint.connect`."""
        self._credentials.refresh()
        endpoint = MutualTLSClientEndpoint(self.inner(address), self._credentials, str(address), self._clock)
        return endpoint.connect(factory)

    # --- IReloadable --------------------------------------------------------------------------------------------------

    @override
    def proofs(self, address: Address) -> Collection[str]:
        peer = self._credentials.trust.peers.get(str(address))
        return () if peer is None else peer.proofs

    @override
    def needs_proof(self, address: Address) -> bool:
        """See `IAuthenticator.needs_proof`: all but the peers without keys, so also those not trusted any more."""
        return not self._is_unproved(address) or bool(self.proofs(address))

    def _is_unproved(self, address: Address) -> bool:
        return (
            self._unproved is not None
            and address in self._unproved.addresses()
            and str(address) not in self._credentials.trust.removed
        )

    def reload(self) -> None:
        """See `IReloadable.reload`."""
        self._credentials.load()
        self.warn_of_expiry()

    def credential(self) -> Credential:
        """See `IReloadable.credential`."""
        identity = self._credentials.identity
        now = datetime.fromtimestamp(self._wall(), timezone.utc)
        return Credential(identity.pin, identity.expires_at, identity.expiry_warning(now))

    # --- besides ------------------------------------------------------------------------------------------------------

    @checked(endpoint=SERVER_ENDPOINT)
    def protect(self, endpoint: IStreamServerEndpoint) -> MutualTLSServerEndpoint:
        """The same endpoint, for trusted peers only."""
        return MutualTLSServerEndpoint(endpoint, self._credentials, self._clock)

    def warn_of_expiry(self) -> None:
        """Say in the log that the own certificate ends soon, if it does; never fails."""
        warning = self.credential().warning
        if warning:
            self._log.warn("{what}", what=warning)


@implementer(IStreamClientEndpoint)
class _Dialled:
    """A trusted peer, wherever it lives by the time that it is dialled."""

    def __init__(self, peers: MutualTLS, address: Address) -> None:
        self._peers = peers
        self._address = address

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `MutualTLS.connect`."""
        try:
            return self._peers.connect(self._address, protocolFactory)
        except (ConfigurationError, PeerUnreachable):
            return fail()


def _address(name: str) -> Address | None:
    """The address that a trusted peer is called, if it is one."""
    try:
        return Address.parse(name)
    except InvalidAddress:
        return None
