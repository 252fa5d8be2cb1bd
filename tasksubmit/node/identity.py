"""Whose word counts for whom: what a connection has proved about the other end, and what it need not prove."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.interfaces import ITransport
from zope.interface import implementer

from tasksubmit.interfaces import IAuthenticator, Peer
from tasksubmit.tls.endpoints import admitted_name
from tasksubmit.wire.address import Address


@implementer(IAuthenticator)
class BelieveAll:
    """The authenticator of a node that was given none: an address is whose says so, but for what TLS has proved."""

    def authenticate(self, transport: ITransport) -> Address | None:
        """See `IAuthenticator.authenticate`."""
        name = admitted_name(transport)
        return None if name is None else Address.parse(name)

    def proofs(self, address: Address) -> Collection[str]:
        """See `IAuthenticator.proofs`."""
        return ()


def may_speak_for(peer: Peer, address: Address, authenticator: IAuthenticator) -> bool:
    """Whether what ``peer`` says about itself or its tasks is to be taken as said by ``address``.

    One that proved nothing may be anybody who is not known to prove it.
    """
    if peer.address is not None:
        return peer.address == address
    return not authenticator.proofs(address)
