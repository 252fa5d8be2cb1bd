"""Who knows whom in a test."""

from __future__ import annotations

from collections.abc import Callable, Collection

from attrs import frozen
from zope.interface import implementer

from tasksubmit.errors import UnknownPeer
from tasksubmit.interfaces import IPeers
from tasksubmit.testing.network import MemoryClientEndpoint, MemoryNetwork
from tasksubmit.wire.address import Address


@implementer(IPeers)
@frozen(eq=False)
class AgentPeers:
    """The agents of a test that one of them knows.

    :ivar own: whose knowledge it is.
    :ivar known: tells whom it knows; may tell of more as time goes by.
    """

    network: MemoryNetwork
    own: Address
    known: Callable[[], Collection[Address]]

    def addresses(self) -> Collection[Address]:
        """See `IPeers.addresses`."""
        return self.known()

    def endpoint(self, address: Address) -> MemoryClientEndpoint:
        """See `IPeers.endpoint`."""
        if address not in self.known():
            raise UnknownPeer(f"{address} is not an agent that {self.own} knows")
        return self.network.client_endpoint(str(address), str(self.own))
