"""A network in memory: endpoints by name, connections whose bytes move when the test says so.

`MemoryNetwork` stands where a reactor's TCP would: hand its endpoints to whatever takes endpoints. Nothing is
delivered, and no connection is made or closed, until `MemoryNetwork.pump` (one step) or `MemoryNetwork.flush` (until
all is quiet). Transports behave as the reactor's do: a full buffer pauses the producer, a paused reader is left alone,
a close waits for what was written and for a producer that is to be asked, an abort for neither. The network can be
parted, and slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from functools import partial
from typing import TypeAlias

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
)
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.task import Clock
from zope.interface import implementer

from tasksubmit.protocol.arguments import checked_later
from tasksubmit.testing.transport import BUFFER_BYTES, MemoryAddress, MemoryTransport, Way
from tasksubmit.validation import COUNT, FLAG, TEXT, Kind, checked, instance_of, is_number, provides, to_texts

Names: TypeAlias = "Collection[str] | None"
"""Some names; None for everybody."""

ANY_DELAY: Kind[float] = Kind("a number of seconds from 0, or math.inf", is_number, lambda value: value >= 0)

_MANY_STEPS = 100_000


@frozen
class _Between:
    """All the ways between the names of two groups."""

    one: frozenset[str] | None
    other: frozenset[str] | None

    @classmethod
    def of(cls, one: Names, other: Names) -> _Between:
        """Between these groups."""
        groups = {"one": one, "other": other}
        return cls(*(None if names is None else frozenset(to_texts(names, name)) for name, names in groups.items()))

    def has(self, here: str, there: str) -> bool:
        """Whether the way between two names is among them, in either direction."""
        return any(
            (self.one is None or a in self.one) and (self.other is None or b in self.other)
            for a, b in ((here, there), (there, here))
        )


@define(eq=False)
class _Dial:
    """An attempt to connect, until the network gets round to it."""

    origin: str
    name: str
    factory: IProtocolFactory
    deferred: Deferred[IProtocol]
    way: Way
    dialled_at: float


@define(eq=False)
class _Connection:
    """A connection: who dialled whom, and the end of either."""

    origin: str
    name: str
    client: MemoryTransport
    server: MemoryTransport

    @property
    def ends(self) -> tuple[MemoryTransport, MemoryTransport]:
        return self.client, self.server

    @property
    def is_open(self) -> bool:
        """Whether an end is still connected."""
        return self.client.connected or self.server.connected


@implementer(IListeningPort)
@define(eq=False)
class MemoryPort:
    """A name that is listened on."""

    network: MemoryNetwork
    name: str
    factory: IProtocolFactory

    def startListening(self) -> None:
        if self.name in self.network.ports:
            raise CannotListenError(None, self.name, OSError("the name is taken"))
        self.network.ports[self.name] = self
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        """Stop accepting; connections that were made stay."""
        if self.network.ports.get(self.name) is self:
            del self.network.ports[self.name]
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> MemoryAddress:
        return MemoryAddress(self.name)


@implementer(IStreamServerEndpoint)
@frozen
class MemoryServerEndpoint:
    """Listens on a name."""

    network: MemoryNetwork
    name: str

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fires with the port, or fails with ``CannotListenError`` if the name is taken."""
        port = MemoryPort(self.network, self.name, protocolFactory)
        try:
            port.startListening()
        except CannotListenError:
            return fail()
        return succeed(port)


@implementer(IStreamClientEndpoint)
@frozen
class MemoryClientEndpoint:
    """Dials a name."""

    network: MemoryNetwork
    name: str
    origin: str = ""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fires with the protocol at the next step.

        Fails with ``ConnectionRefusedError`` when nobody listens, with ``NoRouteError`` when the network is parted.
        """
        return self.network.dial(self.name, protocolFactory, self.origin)


@define(eq=False)
class MemoryNetwork:
    """Names, who listens on them, and the connections between.

    :ivar clock: advanced by nothing at each step, so that what was called for "at once" runs.
    :ivar chunk_bytes: how many bytes a step moves in each direction of each connection; set it to 1 to see every cut.
    :ivar dials: how often each name was dialled.
    """

    clock: Clock = field(validator=instance_of(Clock, "a task.Clock"))
    chunk_bytes: int = field(default=BUFFER_BYTES, validator=COUNT)
    ports: dict[str, MemoryPort] = field(factory=dict, init=False)
    dials: dict[str, int] = field(factory=dict, init=False)
    _dialling: deque[_Dial] = field(factory=deque, init=False)
    _refusing: set[str] = field(factory=set, init=False)
    _connections: list[_Connection] = field(factory=list, init=False)
    _parted: list[_Between] = field(factory=list, init=False)
    _delays: dict[_Between, float] = field(factory=dict, init=False)

    @checked(name=TEXT)
    def server_endpoint(self, name: str) -> MemoryServerEndpoint:
        """Give an endpoint that listens on ``name``."""
        return MemoryServerEndpoint(self, name)

    @checked(name=TEXT, origin=TEXT)
    def client_endpoint(self, name: str, origin: str = "") -> MemoryClientEndpoint:
        """Give an endpoint that dials ``name``. Nobody need listen on it yet.

        :param origin: the name of who dials, which `part`, `delay` and `abandon` go by.
        """
        return MemoryClientEndpoint(self, name, origin)

    @checked_later(name=TEXT, factory=provides(IProtocolFactory), origin=TEXT)
    def dial(self, name: str, factory: IProtocolFactory, origin: str = "") -> Deferred[IProtocol]:
        """Ask for a connection, which a later step makes or refuses."""
        self.dials[name] = self.dials.get(name, 0) + 1
        attempt: _Dial
        deferred: Deferred[IProtocol] = Deferred(lambda _: self._cancel(attempt))
        way = Way(self.clock.seconds, partial(self._delay_seconds, origin, name))
        attempt = _Dial(origin, name, factory, deferred, way, self.clock.seconds())
        self._dialling.append(attempt)
        return deferred

    # --- trouble ----------------------------------------------------------------------------------------------------

    @checked(name=TEXT, refusing=FLAG)
    def refuse(self, name: str, refusing: bool = True) -> None:
        """Refuse those who dial ``name`` from now on, or no longer, whether it is listened on or not."""
        (self._refusing.add if refusing else self._refusing.discard)(name)

    @checked(name=TEXT)
    def cut(self, name: str) -> None:
        """Break every connection to ``name``, uncleanly, with all that is under way."""
        self._cut([connection for connection in self._connections if connection.name == name])

    def cut_all(self) -> None:
        """Break every connection."""
        self._cut(list(self._connections))

    def part(self, one: Names = None, other: Names = None) -> None:
        """Break the connections between two groups, and let no dial from one to the other through, until `heal`."""
        between = _Between.of(one, other)
        self._parted.append(between)
        self._cut([connection for connection in self._connections if between.has(connection.origin, connection.name)])

    def heal(self) -> None:
        """Undo every `part`: whoever dials again gets through."""
        self._parted.clear()

    @checked(seconds=ANY_DELAY)
    def delay(self, seconds: float, one: Names = None, other: Names = None) -> None:
        """Have all that goes from one group to the other, and back, arrive so much later; dials too.

        This holds for what is under way already. The last word on a way counts. When ``seconds`` are infinite nothing
        arrives, and nobody is told, until the delay is another.
        """
        between = _Between.of(one, other)
        self._delays.pop(between, None)
        self._delays[between] = seconds

    @checked(name=TEXT)
    def abandon(self, name: str) -> None:
        """End all that is of ``name`` without a word to it, as if its process had died; the others lose connections."""
        self.ports.pop(name, None)
        self._dialling = deque(attempt for attempt in self._dialling if attempt.origin != name)
        for connection in self._connections:
            for party, end in zip((connection.origin, connection.name), connection.ends, strict=True):
                if party == name:
                    end.abandon()

    # --- what goes on -----------------------------------------------------------------------------------------------

    @checked(name=TEXT)
    def connection_count(self, name: str) -> int:
        """Count the connections to ``name`` of which an end is still connected."""
        return sum(connection.name == name and connection.is_open for connection in self._connections)

    def next_arrival(self) -> float:
        """When the next of what is delayed arrives, in seconds of the clock; infinity when nothing does."""
        arrivals = [
            attempt.way.arrives_at(attempt.dialled_at)
            for attempt in self._dialling
            if not attempt.way.has_arrived(attempt.dialled_at)
        ]
        arrivals += [end.next_arrival() for connection in self._connections for end in connection.ends]
        return min(arrivals, default=float("inf"))

    def pump(self) -> bool:
        """Make one step: the connections asked for, and in every connection one chunk or one event a direction.

        :returns: whether anything happened on the network.
        """
        self.clock.advance(0)
        moved = False
        for attempt in [self._dialling.popleft() for _ in range(len(self._dialling))]:
            if attempt.way.has_arrived(attempt.dialled_at):
                moved = True
                self._connect(attempt)
            else:
                self._dialling.append(attempt)
        for connection in list(self._connections):
            for end in connection.ends:
                moved = end.step(self.chunk_bytes) or moved
        self._connections = [connection for connection in self._connections if connection.is_open]
        return moved

    def flush(self) -> None:
        """Step until nothing moves any more.

        :raises AssertionError: it never ends.
        """
        for _ in range(_MANY_STEPS):
            if not self.pump():
                return
        raise AssertionError(f"the network is not quiet after {_MANY_STEPS} steps")

    def _delay_seconds(self, origin: str, name: str) -> float:
        for between in reversed(self._delays):
            if between.has(origin, name):
                return self._delays[between]
        return 0.0

    def _cancel(self, attempt: _Dial) -> None:
        if attempt in self._dialling:
            self._dialling.remove(attempt)
        attempt.deferred.errback(ConnectingCancelledError(MemoryAddress(attempt.name)))

    def _connect(self, attempt: _Dial) -> None:
        if any(between.has(attempt.origin, attempt.name) for between in self._parted):
            attempt.deferred.errback(NoRouteError(f"the network is cut before {attempt.name}"))
            return
        port = self.ports.get(attempt.name)
        if port is None or attempt.name in self._refusing:
            attempt.deferred.errback(ConnectionRefusedError(f"nobody listens on {attempt.name}"))
            return
        here, there = MemoryAddress(f"dialler {sum(self.dials.values())}"), MemoryAddress(attempt.name)
        client_protocol = attempt.factory.buildProtocol(there)
        if client_protocol is None:
            attempt.deferred.errback(ConnectingCancelledError(there))
            return
        server_protocol = port.factory.buildProtocol(here)
        if server_protocol is None:
            attempt.deferred.errback(ConnectionLost(f"{attempt.name} hung up"))
            return
        client = MemoryTransport(here, there, client_protocol, attempt.way)
        server = MemoryTransport(there, here, server_protocol, attempt.way, other=client)
        client.other = server
        self._connections.append(_Connection(attempt.origin, attempt.name, client, server))
        server_protocol.makeConnection(server)
        client_protocol.makeConnection(client)
        attempt.deferred.callback(client_protocol)

    def _cut(self, connections: list[_Connection]) -> None:
        for connection in connections:
            for end in connection.ends:
                end.lose(ConnectionLost())
