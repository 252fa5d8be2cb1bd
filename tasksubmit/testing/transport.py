"""The two ends of a connection in memory, and the way between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress, IConsumer, IProducer, IProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

BUFFER_BYTES = 65536
"""How much a transport buffers before it pauses its producer, and delivers in one step; as the reactor's TCP does."""

_CLOSE_ENOUGH_SECONDS = 1e-6
"""Sums of seconds are not exact."""


@implementer(IAddress)
@frozen
class MemoryAddress:
    """One end of a connection: the name that was dialled, or ``dialler`` and a number."""

    name: str

    def __str__(self) -> str:
        return self.name


def _none() -> float:
    return 0.0


@frozen
class Way:
    """How long it takes from one end of a connection to the other.

    :ivar seconds: tells the time.
    :ivar delay_seconds: tells how long everything takes that has not arrived yet; it may change at any time.
    """

    seconds: Callable[[], float] = _none
    delay_seconds: Callable[[], float] = _none

    def arrives_at(self, sent_at: float) -> float:
        """When that arrives which was sent at a time; infinity for never."""
        return sent_at + self.delay_seconds()

    def has_arrived(self, sent_at: float | None) -> bool:
        """Whether that has arrived; what was not sent (None) has not."""
        return sent_at is not None and self.seconds() > self.arrives_at(sent_at) - _CLOSE_ENOUGH_SECONDS


@define
class _Sent:
    """Bytes that were written at the same time."""

    at: float
    count: int


@implementer(ITransport, IConsumer, IPushProducer)
@define(eq=False)
class MemoryTransport:
    """One end of a connection in memory; made by `MemoryNetwork`, for each connection two.

    :ivar unread: what was written and not yet delivered to the other end.
    """

    host: MemoryAddress
    peer: MemoryAddress
    protocol: IProtocol
    way: Way = field(factory=Way)
    unread: bytearray = field(factory=bytearray)
    other: MemoryTransport | None = None
    connected: bool = True
    disconnecting: bool = False
    reading: bool = True
    _sent: deque[_Sent] = field(factory=deque)
    _closed_at: float | None = None
    _broken_at: float | None = None
    _is_aborting: bool = False
    _has_ended: bool = False
    _producer: Any = None
    _is_streaming: bool = False
    _is_producer_paused: bool = False

    # --- ITransport and IConsumer -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if not self.connected or not data:
            return
        self.unread += data
        now = self.way.seconds()
        if self._sent and self._sent[-1].at == now:
            self._sent[-1].count += len(data)
        else:
            self._sent.append(_Sent(now, len(data)))
        if self._producer is not None and self._is_streaming and len(self.unread) > BUFFER_BYTES:
            self._is_producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if not self.disconnecting:
            self._closed_at = self.way.seconds()
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
        """Do one thing: abort, tell the other end of it, see its close, deliver up to ``limit`` bytes to it, or close.

        :returns: whether there was anything to do.
        """
        other = self.other
        if other is None:
            return False
        if self._is_aborting or self._broken_at is not None:
            return self._break(other)
        if not self.connected:
            return False
        if self._has_ended and self.reading:
            self.lose(ConnectionDone())
            return True
        arrived = self._arrived(limit)
        if arrived and (other.reading or not other.connected):
            self._deliver(other, arrived)
            return True
        if not self.unread and not self._is_waiting_for_producer() and self.way.has_arrived(self._closed_at):
            other._has_ended = True
            self.lose(ConnectionDone())
            return True
        return False

    def next_arrival(self) -> float:
        """When the next of what is under way to the other end arrives; infinity when nothing is, or it never does."""
        sent_at = [self._sent[0].at] if self._sent else []
        sent_at += [at for at in (self._closed_at, self._broken_at) if at is not None]
        return min((self.way.arrives_at(at) for at in sent_at if not self.way.has_arrived(at)), default=float("inf"))

    def lose(self, reason: Exception) -> None:
        """Tell the protocol that the connection is gone, unless it knows."""
        if not self.connected:
            return
        self.connected = self.reading = False
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        self.protocol.connectionLost(Failure(reason))

    def abandon(self) -> None:
        """Break the connection without a word to the protocol: its process is dead."""
        self.connected = self.reading = False
        self._producer = None
        self._broken_at = self.way.seconds()

    def _break(self, other: MemoryTransport) -> bool:
        has_moved = self._is_aborting and self.connected
        if has_moved:
            self._broken_at = self.way.seconds()
            self.lose(ConnectionAborted())
        if other.connected and self.way.has_arrived(self._broken_at):
            other.lose(ConnectionLost())
            has_moved = True
        return has_moved

    def _arrived(self, limit: int) -> int:
        count = 0
        for sent in self._sent:
            if count >= limit or not self.way.has_arrived(sent.at):
                break
            count += sent.count
        return min(count, limit)

    def _deliver(self, other: MemoryTransport, count: int) -> None:
        chunk = bytes(self.unread[:count])
        del self.unread[:count]
        while count:
            taken = min(count, self._sent[0].count)
            self._sent[0].count -= taken
            count -= taken
            if not self._sent[0].count:
                self._sent.popleft()
        if other.connected:
            other.protocol.dataReceived(chunk)
        if not self.unread and self._is_waiting_for_producer():
            self._is_producer_paused = False
            self._producer.resumeProducing()

    def _is_waiting_for_producer(self) -> bool:
        """Whether there is one that has to be asked for more; one that pushes, and may, has pushed what it had."""
        return self._producer is not None and (self._is_producer_paused or not self._is_streaming)
