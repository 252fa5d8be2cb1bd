"""Who lives where, and the one connection that a node keeps to each peer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from zope.interface import implementer

from tasksubmit.errors import UnknownPeer
from tasksubmit.interfaces import IPeers
from tasksubmit.protocol.arguments import CLIENT_ENDPOINT
from tasksubmit.protocol.client import Client
from tasksubmit.validation import wrong_type
from tasksubmit.wire.address import Address, to_address
from tasksubmit.wire.messages import ACK, FEATURES

MAX_ANSWER_BYTES = 256 * 1024
"""The largest answer that a peer may give. Those of well-behaved ones have a few hundred bytes."""


def to_endpoints(value: Mapping[Any, Any], name: str) -> dict[Address, IStreamClientEndpoint]:
    """Return the endpoints of peers, whose addresses may be given as strings.

    :raises TypeError: it is no such mapping. The error says how a string becomes an endpoint.
    :raises InvalidAddress: a key is a string of another form.
    """
    if not isinstance(value, Mapping):
        raise wrong_type(name, "a mapping of addresses to endpoints", value)
    endpoints: dict[Address, IStreamClientEndpoint] = {}
    for key, endpoint in value.items():
        address = to_address(key, f"{name}: each key")
        CLIENT_ENDPOINT.check(f"{name}: the endpoint of {address}", endpoint)
        endpoints[address] = endpoint
    return endpoints


@implementer(IPeers)
class StaticPeers:
    """The peers of a table, which may grow.

    :param endpoints: each peer, or the string of its address, with the endpoint that leads to it.
    """

    def __init__(
        self, endpoints: Mapping[Address, IStreamClientEndpoint] | Mapping[str, IStreamClientEndpoint]
    ) -> None:
        self._endpoints = to_endpoints(endpoints, "endpoints")

    def addresses(self) -> Collection[Address]:
        """See `IPeers.addresses`."""
        return self._endpoints.keys()

    def add(self, endpoints: Mapping[Address, IStreamClientEndpoint] | Mapping[str, IStreamClientEndpoint]) -> None:
        """Add peers that are not there yet; those that are keep their endpoints."""
        self._endpoints = {**to_endpoints(endpoints, "endpoints"), **self._endpoints}

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        """See `IPeers.endpoint`."""
        try:
            return self._endpoints[address]
        except KeyError:
            raise UnknownPeer(f"{address} is not a peer of this node; add it with --peer {address}=ENDPOINT") from None


class Clients:
    """A `Client` for each peer, made when first needed and kept.

    :param learned: is called with a peer and its features whenever it announces others than before.
    :param is_authenticated: tells whether whatever seems to come from a peer really does: then its latest announcement
        replaces what was known. Of any other peer what was announced is added up, for a stranger may speak in its name.
    """

    def __init__(
        self,
        own: Address,
        peers: IPeers,
        clock: IReactorTime,
        learned: Callable[[Address, frozenset[str]], None],
        is_authenticated: Callable[[Address], bool],
    ) -> None:
        self._own = own
        self._peers = peers
        self._clock = clock
        self._features: dict[Address, frozenset[str]] = {}
        self._learned = learned
        self._is_authenticated = is_authenticated
        self._clients: dict[Address, Client] = {}

    def remember(self, features: Mapping[Address, frozenset[str]]) -> None:
        """Take up what each peer is known to have announced."""
        for address, announced in features.items():
            self._features[address] = self._features.get(address, frozenset()) | announced
            self._tell_client(address)

    def learn(self, address: Address, features: Iterable[str]) -> None:
        """A peer has announced ``features``, elsewhere than in an answer to its client."""
        known = self._features.get(address, frozenset())
        announced = frozenset(features) if self._is_authenticated(address) else known.union(features)
        if announced.intersection(FEATURES) != known:
            self._announced(address, announced)
            self._tell_client(address)

    def client(self, address: Address) -> Client:
        """The client for a peer.

        :raises UnknownPeer: when the peer is not known.
        """
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = Client(
                self._peers.endpoint(address),
                self._own,
                self._clock,
                features=self._features.get(address, frozenset()),
                on_features=lambda features: self._announced(address, features),
                replaces_features=self._is_authenticated(address),
                keeps_results=False,  # a node asks for none of the old synchronous kind
                max_frame=MAX_ANSWER_BYTES,
            )
        return client

    def takes_many(self, address: Address) -> bool:
        """Whether many messages can be under way to a peer."""
        return self._features.get(address, frozenset()).issuperset(FEATURES)

    def acknowledges(self, address: Address) -> bool:
        """True if a peer has announced ``ack``."""
        return ACK in self._features.get(address, ())

    def is_connected(self, address: Address) -> bool:
        """True if a connection to a peer is open."""
        client = self._clients.get(address)
        return client is not None and client.is_connected

    def _tell_client(self, address: Address) -> None:
        client = self._clients.get(address)
        if client is not None:
            client.features = self._features.get(address, frozenset())

    def _announced(self, address: Address, features: frozenset[str]) -> None:
        features = features.intersection(FEATURES)  # other words mean nothing here
        if self._features.get(address, frozenset()) != features:
            self._features[address] = features
            self._learned(address, features)

    def close(self) -> Deferred[None]:
        """Close every connection; fires when they are closed."""
        clients, self._clients = self._clients, {}
        return gatherResults([client.close() for client in clients.values()]).addCallback(lambda _: None)
