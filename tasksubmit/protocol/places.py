"""Places for connections of which nobody knows whose they are: when many are taken, some are dropped early, at random.

Who has proved nothing can be told apart by the host alone, and honest peers may share theirs with somebody who opens
connections and says nothing. To refuse the next one, as `max_connections` alone would, keeps the honest one out for as
long as the others are renewed. So a newcomer always gets its place, and another that has nothing in work is dropped for
it. Which one is left to chance, as with OpenSSH's ``MaxStartups``: whoever says nothing is met sooner or later, and one
that shakes hands, or sends a frame, within a moment rarely is. From half of the places on the chance grows that one is
dropped, so that a few that are renewed often do not fill the last of them.

Three are drawn, and the first that has sent nothing goes, or else the last: so one who opens connections as fast as
they are taken, and says nothing on them, drops none but those. What has arrived and was not read yet counts as sent,
for a busy reactor takes many connections before it reads from the first.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Hashable
from random import Random
from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import ISystemHandle

_DRAWN = 3


def has_unread(transport: object) -> bool:
    """True if something has arrived on a socket that its transport has not read yet."""
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    try:
        return isinstance(handle, socket.socket) and bool(handle.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


class Stranger(Protocol):
    """A connection, as `Places` sees it."""

    @property
    def host(self) -> Hashable:
        """Where it comes from; None where there are no hosts."""

    def is_busy(self) -> bool:
        """True while it has something in work: then it is not dropped."""

    def has_begun(self) -> bool:
        """True while something of it has arrived that is not complete, or not read yet."""

    def give_way(self, why: str) -> None:
        """End at once."""


@define(eq=False)
class Places:
    """Connections by their hosts.

    :ivar most: how many there may be.
    :ivar most_per_host: how many of them of one host.
    :ivar random: decides whether one is dropped, and which.
    :ivar known: hosts that others give way to when there are too many in all.
    """

    most: int
    most_per_host: int
    random: Random
    known: Collection[Hashable] = ()
    _hosts: dict[Hashable, dict[Stranger, None]] = field(factory=dict, init=False)
    count: int = field(default=0, init=False)

    def enter(self, newcomer: Stranger, others: int = 0) -> str:
        """Give a place, and drop another connection if many are taken.

        :param others: how many of the places are taken by connections that are not here.
        :returns: why there is no place, when all are taken by connections that do not give way; empty when it has one,
            and has to `leave` it.
        """
        host = newcomer.host
        own = self._hosts.get(host, {})
        if host is not None and self._is_crowded(len(own), self.most_per_host):
            dropped = self._drop(own, f"{len(own)} connections of {host} have not shown whose they are")
            if not dropped and len(own) >= self.most_per_host:
                return f"{host} has {len(own)} connections already"
        most = self.most - others
        if self._is_crowded(self.count, most):
            dropped = self._drop(self._most_crowded(), f"{self.count} connections have not shown whose they are")
            if not dropped and self.count >= most:
                return f"there are {self.count + others} connections already"
        self._hosts.setdefault(host, {})[newcomer] = None
        self.count += 1
        return ""

    def leave(self, stranger: Stranger) -> None:
        """Give the place back, if it has one."""
        own = self._hosts.get(stranger.host, {})
        if stranger in own:
            del own[stranger]
            self.count -= 1
            if not own:
                del self._hosts[stranger.host]

    def _is_crowded(self, taken: int, most: int) -> bool:
        """True if one has to be dropped: by chance from half of the places on, and certainly when all are taken."""
        start = most // 2
        return taken >= most or (taken > start and self.random.random() * (most - start) < taken - start)

    def _drop(self, strangers: Collection[Stranger], why: str) -> bool:
        """Drop one of those that have nothing in work; returns whether there was one."""
        idle = [stranger for stranger in strangers if not stranger.is_busy()]
        if not idle:
            return False
        drawn = [self.random.choice(idle) for _ in range(_DRAWN)]
        dropped = next((stranger for stranger in drawn if not stranger.has_begun()), drawn[-1])
        self.leave(dropped)
        dropped.give_way(f"{why}, and it was drawn by lot to make room")
        return True

    def _most_crowded(self) -> list[Stranger]:
        """The connections of those hosts that have most, of the hosts that are not known if there are any."""
        unknown = {host: own for host, own in self._hosts.items() if host not in self.known} or self._hosts
        most = max(map(len, unknown.values()), default=0)
        return [stranger for own in unknown.values() if len(own) == most for stranger in own]
