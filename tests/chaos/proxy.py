"""The network between the nodes: a TCP proxy for each ordered pair, which the run can cut in several manners.

A node dials its peer at the proxy's port, and the proxy dials the peer. What a connection has lost it cannot get back,
so a connection that lost bytes never carries any again: it is aborted, or stays open and silent.
"""

from __future__ import annotations

import os
import socket
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IListeningPort, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from typing_extensions import override


class Manner(Enum):
    """How a link is cut.

    :cvar REFUSE: nobody listens; open connections are reset.
    :cvar RESET: connections are made, and reset when the first bytes come; open ones are reset.
    :cvar STALL: nothing passes, in either direction; it all arrives when the cut ends.
    :cvar BLACK_HOLE: bytes are lost in both directions, and nobody is notified; no new connection gets through.
    :cvar REQUESTS_LOST: bytes of the dialling side are lost; the other direction works.
    :cvar ANSWERS_LOST: bytes of the dialled side are lost: requests arrive, answers do not.
    :cvar HALF_OPEN: the dialled side's connections are reset; the dialling side is not notified.
    """

    REFUSE = "refused"
    RESET = "reset"
    STALL = "stalled"
    BLACK_HOLE = "black hole"
    REQUESTS_LOST = "requests lost"
    ANSWERS_LOST = "answers lost"
    HALF_OPEN = "half open"


_SILENT_AFTERWARDS = (Manner.BLACK_HOLE, Manner.REQUESTS_LOST, Manner.ANSWERS_LOST, Manner.HALF_OPEN)


@define(eq=False)
class Place:
    """Where something listens on this machine: a port of a loopback address, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def server_string(self) -> str:
        """As ``--listen`` takes it."""
        if self.path is not None:
            return f"unix:{self.path}:mode=600:lockfile=1"
        return f"tcp:{self.port}:interface={self.host}"

    def client_string(self) -> str:
        """As ``--peer`` takes it."""
        return f"unix:{self.path}" if self.path is not None else f"tcp:{self.host}:{self.port}"

    def client_endpoint(self, reactor: Any) -> IStreamClientEndpoint:
        """To dial it."""
        if self.path is not None:
            return UNIXClientEndpoint(reactor, str(self.path), timeout=5)
        return TCP4ClientEndpoint(reactor, self.host, self.port, timeout=5)

    def listen(self, reactor: Any, factory: Factory[Any]) -> IListeningPort:
        """Listen on it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            port: IListeningPort = reactor.listenUNIX(str(self.path), factory, mode=0o600)
        else:
            port = reactor.listenTCP(self.port, factory, interface=self.host)
        return port


class End(Protocol):
    """One of the two ends of a connection through the proxy.

    :ivar is_lossy: whether what it receives is dropped.
    :ivar is_mute: whether its own end is concealed from the other side.
    """

    transport: Any
    other: End | None = None

    def __init__(self, link: Link, is_dialler: bool) -> None:
        self.link = link
        self.is_dialler = is_dialler
        self.is_lossy = False
        self.is_mute = False
        self.is_open = False
        self._early = b""

    @override
    def connectionMade(self) -> None:
        self.is_open = True
        self.link.ends.add(self)
        if self.link.manner is not None:
            self.apply(self.link.manner)
        if self.is_dialler:
            self.link.dial(self)

    def join(self, other: End) -> None:
        """Begin to relay."""
        self.other, other.other = other, self
        if self._early and other.is_open:
            other.transport.write(self._early)
            self._early = b""
        if not self.is_open:
            other.end(is_clean=True)

    @override
    def dataReceived(self, data: bytes) -> None:
        manner = self.link.manner
        if manner is Manner.RESET:
            self.end(is_clean=False)
        if self.is_lossy or not self.is_open:
            return
        if self.other is None:
            self._early += data
        elif self.other.is_open:
            self.other.transport.write(data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_open = False
        self.link.ends.discard(self)
        if self.other is not None and self.other.is_open and not (self.is_mute or self.is_lossy):
            self.other.end(is_clean=reason.check(ConnectionDone) is not None)

    def end(self, is_clean: bool) -> None:
        """Close this end, or reset it."""
        if self.is_open:
            if not is_clean:
                self.is_open = False  # nothing is relayed any more
                self.link.ends.discard(self)
                if self.other is not None and not self.is_mute:
                    other, self.other = self.other, None
                    other.end(is_clean=False)
            (self.transport.loseConnection if is_clean else self.transport.abortConnection)()

    def apply(self, manner: Manner) -> None:
        """Cut this end."""
        if manner is Manner.STALL:
            self.transport.pauseProducing()
        elif manner is Manner.BLACK_HOLE:
            self.is_lossy = True
        elif manner is Manner.REQUESTS_LOST:
            self.is_lossy = self.is_dialler
        elif manner is Manner.ANSWERS_LOST:
            self.is_lossy = not self.is_dialler
        elif manner is Manner.HALF_OPEN:
            if self.is_dialler:
                self.is_lossy = True
            else:
                self.is_mute = True
                self.end(is_clean=False)
        elif manner in (Manner.REFUSE, Manner.RESET) and self.other is not None:
            self.end(is_clean=False)


@define(eq=False)
class Link:
    """What one node dials to reach another.

    :ivar near: where the dialling node finds the proxy.
    :ivar far: where the proxy finds the dialled node.
    :ivar manner: how it is cut now.
    """

    reactor: Any
    near: Place
    far: Place
    manner: Manner | None = None
    ends: set[End] = field(factory=set)
    _listening: IListeningPort | None = None

    def open(self) -> None:
        """Listen."""
        if self._listening is None:
            factory = Factory.forProtocol(lambda: End(self, is_dialler=True))
            factory.noisy = False
            self._listening = self.near.listen(self.reactor, factory)

    def dial(self, near: End) -> None:
        """Dial the node for a connection that was just made."""
        if self.manner in (Manner.BLACK_HOLE, Manner.RESET):
            return
        factory = _Dialled(self)

        def failed(failure: Failure) -> None:
            near.end(is_clean=False)

        dialled: Deferred[Any] = self.far.client_endpoint(self.reactor).connect(factory)
        dialled.addCallbacks(lambda far: near.join(far), failed)

    def follow(self, is_far_up: bool) -> None:
        """Refuse connections while the dialled node has no process, as its machine would."""
        if self.manner is Manner.REFUSE:
            return
        if is_far_up:
            self.open()
        elif self._listening is not None:
            Deferred.fromCoroutine(self._close())

    async def cut(self, manner: Manner) -> None:
        """Cut it, until `heal`."""
        self.manner = manner
        if manner is Manner.REFUSE:
            await self._close()
        for end in list(self.ends):
            end.apply(manner)

    def heal(self, stays_silent: bool = False) -> None:
        """Let everything pass again.

        :param stays_silent: leave the connections that lost bytes open and silent, instead of resetting them.
        """
        manner, self.manner = self.manner, None
        for end in list(self.ends):
            if manner is Manner.STALL:
                end.transport.resumeProducing()
            elif manner in _SILENT_AFTERWARDS:
                if not stays_silent:
                    end.end(is_clean=False)
                else:  # what the other direction still carries would be the answers to other requests
                    end.is_lossy = True
        self.open()

    async def close(self) -> None:
        """End everything."""
        await self._close()
        for end in list(self.ends):
            end.end(is_clean=False)

    async def _close(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            await maybeDeferred(listening.stopListening)


class _Dialled(Factory):
    """Makes the ends at the dialled nodes."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    @override
    def buildProtocol(self, addr: IAddress | None) -> End:
        return End(self._link, is_dialler=False)


LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
"""Below the ports that the kernel gives to those who dial, so that a port stays free while nobody listens on it."""


def own_host() -> str:
    """A loopback address that no other run has: nobody else takes a port of it while a node is down."""
    number = os.getpid()
    return f"127.{1 + number // 64_000 % 250}.{number // 250 % 256}.{1 + number % 250}"


def unused_ports(count: int, start: int, host: str) -> list[int]:
    """Ports of a host that nobody listens on, from ``start`` on, wherever that is in the range."""
    found: list[int] = []
    for step in range(HIGHEST_PORT - LOWEST_PORT):
        port = LOWEST_PORT + (start + step) % (HIGHEST_PORT - LOWEST_PORT)
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError("there are not enough unused ports")
