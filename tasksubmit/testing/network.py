"""A network in memory: endpoints by name, connections whose bytes move when the test says so.

`MemoryNetwork` stands where a reactor's TCP would: hand its endpoints to whatever takes endpoints. Nothing is
delivered, and no connection is made or closed, until `MemoryNetwork.pump` (one step) or `MemoryNetwork.flush` (until
all is quiet). Transports behave as the reactor's do: a full buffer pauses the producer, a paused reader is left alone,
a close waits for what was written and for a producer that waits to be asked, an abort for neither.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IListeningPort,
    IProducer,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

BUFFER_BYTES = 65536
"""How much a transport buffers before it pauses its producer, and delivers in one step; as the reactor's TCP does."""

_MANY_STEPS = 100_000


@implementer(IAddress)
@frozen
class MemoryAddress:
    """One end of a connection: the name that was dialled, or ``dialler`` and a number."""

    name: str

    def __str__(self) -> str:
        return self.name


@implementer(ITransport, IConsumer, IPushProducer)
@define(eq=False)
class MemoryTransport:
    """One end of a connection in memory; made by `MemoryNetwork`, for each connection two.

    :ivar unread: what was written and not yet delivered to the other end.
    """

    host: MemoryAddress
    peer: MemoryAddress
    protocol: IProtocol
    unread: bytearray = field(factory=bytearray)
    other: MemoryTransport | None = None
    connected: bool = True
    disconnecting: bool = False
    reading: bool = True
    _is_aborting: bool = False
    _has_ended: bool = False
    _producer: Any = None
    _is_streaming: bool = False
    _is_producer_paused: bool = False

    # --- ITransport and IConsumer -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self.connected:
            return
        self.unread += data
        if self._producer is not None and self._is_streaming and len(self.unread) > BUFFER_BYTES:
            self._is_producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        self.disconnecting = True
        self.reading = False

    def abortConnection(self) -> None:
        self._is_aborting = True
        self.reading = False

    def getPeer(self) -> MemoryAddress:
        return self.peer

    def getHost(self) -> MemoryAddress:
        return self.host

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        if self._producer is not None:
            raise RuntimeError("there is a producer already")
        self._producer, self._is_streaming, self._is_producer_paused = producer, streaming, False
        if not streaming:
            self._producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None

    # --- IPushProducer: what arrives --------------------------------------------------------------------------------

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting and not self._is_aborting:
            self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    # --- what the network calls -------------------------------------------------------------------------------------

    def step(self, limit: int) -> bool:
        """Do one thing: abort, see the other end's close, deliver up to `limit` bytes to it, or close.

        :returns: whether there was anything to do.
        """
        other = self.other
        if not self.connected or other is None:
            return False
        if self._is_aborting:
            self.lose(ConnectionAborted())
            other.lose(ConnectionLost())
            return True
        if self._has_ended and self.reading:
            self.lose(ConnectionDone())
            return True
        if self.unread and (other.reading or not other.connected):
            chunk = bytes(self.unread[:limit])
            del self.unread[:limit]
            if other.connected:
                other.protocol.dataReceived(chunk)
            self._refill()
            return True
        if self.disconnecting and not self.unread and not self._is_waiting_for_producer():
            other._has_ended = True
            self.lose(ConnectionDone())
            return True
        return False

    def lose(self, reason: Exception) -> None:
        """Tell the protocol that the connection is gone, unless it knows."""
        if not self.connected:
            return
        self.connected = self.reading = False
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))

    def _is_waiting_for_producer(self) -> bool:
        """Whether there is one that has to be asked for more; one that pushes, and may, has pushed what it had."""
        return self._producer is not None and (self._is_producer_paused or not self._is_streaming)

    def _refill(self) -> None:
        if not self.unread and self._is_waiting_for_producer():
            self._is_producer_paused = False
            self._producer.resumeProducing()


@define(eq=False)
class _Dial:
    """An attempt to connect, until the network gets round to it."""

    name: str
    factory: IProtocolFactory
    deferred: Deferred[IProtocol]


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

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fires with the protocol at the next step, or fails with ``ConnectionRefusedError``."""
        return self.network.dial(self.name, protocolFactory)


@define(eq=False)
class MemoryNetwork:
    """Names, who listens on them, and the connections between.

    :ivar clock: advanced by nothing at each step, so that what was called for "at once" runs.
    :ivar chunk_bytes: how many bytes a step moves in each direction of each connection; set it to 1 to see every cut.
    :ivar dials: how often each name was dialled.
    """

    clock: Clock
    chunk_bytes: int = BUFFER_BYTES
    ports: dict[str, MemoryPort] = field(factory=dict)
    dials: dict[str, int] = field(factory=dict)
    _dialling: deque[_Dial] = field(factory=deque)
    _refusing: set[str] = field(factory=set)
    _connections: list[tuple[str, MemoryTransport, MemoryTransport]] = field(factory=list)

    def server_endpoint(self, name: str) -> MemoryServerEndpoint:
        """Give an endpoint that listens on ``name``."""
        return MemoryServerEndpoint(self, name)

    def client_endpoint(self, name: str) -> MemoryClientEndpoint:
        """Give an endpoint that dials ``name``. Nobody need listen on it yet."""
        return MemoryClientEndpoint(self, name)

    def dial(self, name: str, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """Ask for a connection, which the next step makes or refuses."""
        self.dials[name] = self.dials.get(name, 0) + 1
        attempt: _Dial
        deferred: Deferred[IProtocol] = Deferred(lambda _: self._cancel(attempt))
        attempt = _Dial(name, factory, deferred)
        self._dialling.append(attempt)
        return deferred

    def refuse(self, name: str, refusing: bool = True) -> None:
        """Refuse those who dial ``name`` from now on, or no longer, whether it is listened on or not."""
        (self._refusing.add if refusing else self._refusing.discard)(name)

    def cut(self, name: str) -> None:
        """Break every connection to ``name``, uncleanly, with all that is under way."""
        self._cut([connection for connection in self._connections if connection[0] == name])

    def cut_all(self) -> None:
        """Break every connection."""
        self._cut(list(self._connections))

    def connection_count(self, name: str) -> int:
        """Count the connections to ``name`` of which an end is still connected."""
        return sum(dialled == name for dialled, *ends in self._connections if any(end.connected for end in ends))

    def pump(self) -> bool:
        """Make one step: the connections asked for, and in every connection one chunk or one event a direction.

        :returns: whether anything happened on the network.
        """
        self.clock.advance(0)
        moved = False
        for attempt in [self._dialling.popleft() for _ in range(len(self._dialling))]:
            moved = True
            self._connect(attempt)
        for _, client, server in list(self._connections):
            for end in (client, server):
                moved = end.step(self.chunk_bytes) or moved
        self._connections = [
            connection for connection in self._connections if connection[1].connected or connection[2].connected
        ]
        return moved

    def flush(self) -> None:
        """Step until nothing moves any more.

        :raises AssertionError: it never ends.
        """
        for _ in range(_MANY_STEPS):
            if not self.pump():
                return
        raise AssertionError(f"the network is not quiet after {_MANY_STEPS} steps")

    def _cancel(self, attempt: _Dial) -> None:
        if attempt in self._dialling:
            self._dialling.remove(attempt)
        attempt.deferred.errback(ConnectingCancelledError(MemoryAddress(attempt.name)))

    def _connect(self, attempt: _Dial) -> None:
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
        client = MemoryTransport(here, there, client_protocol)
        server = MemoryTransport(there, here, server_protocol, other=client)
        client.other = server
        self._connections.append((attempt.name, client, server))
        server_protocol.makeConnection(server)
        client_protocol.makeConnection(client)
        attempt.deferred.callback(client_protocol)

    def _cut(self, connections: list[tuple[str, MemoryTransport, MemoryTransport]]) -> None:
        for _, client, server in connections:
            client.lose(ConnectionLost())
            server.lose(ConnectionLost())
