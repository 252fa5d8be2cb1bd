"""TLS handshakes of strangers: how many there may be, and how fast they may begin.

Each costs the reactor's time before anything is proved. It is counted in units of `UNIT_BYTES` that are received in it,
the first with its first byte, so that one who says nothing uses up nothing for the others of its host, and one who
shows much counts several times.

Hosts from which a peer was admitted are known: what strangers elsewhere do in all does not count against them. Who
shares a host with strangers shares its rate with them; all that can be told apart there is who finishes a handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from random import Random, SystemRandom

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.buckets import LeakyBuckets
from tasksubmit.protocol.places import Places, Stranger

UNIT_BYTES = 4096
"""So much of a handshake counts as one. That of a peer whose key is known has 2 to 3 KiB."""

BURST_SECONDS = 4.0
"""The rate of so many seconds may come at one instant."""

_MANY_HOSTS = 1024
"""Hosts of peers that are remembered; the one from which nobody was admitted for longest is forgotten."""


@define(eq=False)
class Handshakes:
    """Places for handshakes, and leaky buckets for their rates: one for each host, and one for all that are not known.

    :ivar clock: gives the time, in seconds.
    :ivar bounds: has the numbers.
    :ivar random: decides which give way.
    :ivar count_others: how many connections there are besides, which share `Bounds.max_connections` with these.
    """

    clock: IReactorTime
    bounds: Bounds = Bounds()
    random: Random = field(factory=SystemRandom)
    count_others: Callable[[], int] = field(default=lambda: 0)
    _places: Places = field(init=False)
    _known: dict[Hashable, None] = field(factory=dict, init=False)
    _used: LeakyBuckets = field(factory=LeakyBuckets, init=False)

    def __attrs_post_init__(self) -> None:
        bounds = self.bounds
        self._places = Places(bounds.max_handshakes, bounds.max_handshakes_per_host, self.random, self._known)

    @property
    def count(self) -> int:
        """How many are not over."""
        return self._places.count

    def enter(self, stranger: Stranger) -> str:
        """Give a connection its place until it is admitted or lost; see `Places.enter`."""
        spare = self.bounds.max_connections - self.count_others()
        return self._places.enter(stranger, max(0, self.bounds.max_handshakes - spare))

    def leave(self, stranger: Stranger) -> None:
        """Give the place back, if it has one."""
        self._places.leave(stranger)

    def admitted(self, host: Hashable) -> None:
        """Somebody of this host has proved to be a peer."""
        if host is not None:
            self._known.pop(host, None)
            self._known[host] = None
            if len(self._known) > _MANY_HOSTS:
                del self._known[next(iter(self._known))]

    def take(self, host: Hashable) -> str:
        """Count one more unit of a host.

        :param host: None for connections without one, which count in all alone.
        :returns: why it cannot be had; empty when it was counted.
        """
        now = self.clock.seconds()
        rates: dict[Hashable, float] = {}
        if host not in self._known:
            rates[None] = self.bounds.max_handshake_rate
        if host is not None:
            rates[host] = self.bounds.max_handshake_rate_per_host
        for one, rate in rates.items():
            if self._used.level(one, now) + 1 > max(1.0, rate * BURST_SECONDS):
                return f"{'all hosts' if one is None else one} began more than {rate:g} TLS handshakes a second"
        for one, rate in rates.items():
            self._used.add(one, rate, now)
        return ""
