"""How fast strangers may have handshakes made: each costs the reactor's time before anything is proved.

A handshake is counted in units of `UNIT_BYTES` that are received in it, the first with its first byte, so that one who
says nothing uses up nothing for the others of its host, and one who shows much counts several times.
"""

from __future__ import annotations

from collections.abc import Hashable

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from tasksubmit.protocol.bounds import Bounds

UNIT_BYTES = 4096
"""So much of a handshake counts as one. That of a peer whose key is known has 2 to 3 KiB."""

BURST_SECONDS = 4.0
"""The rate of so many seconds may come at one instant."""

_FEW = 1024


@frozen
class _Used:
    units: float
    at: float


@define(eq=False)
class Handshakes:
    """Leaky buckets: one for each host, and one for all.

    :ivar clock: gives the time, in seconds.
    :ivar bounds: has the rates.
    """

    clock: IReactorTime
    bounds: Bounds = Bounds()
    _used: dict[Hashable, _Used] = field(factory=dict, init=False)
    _most: int = field(default=_FEW, init=False)

    def take(self, host: Hashable) -> str:
        """Count one more unit of a host.

        :param host: None for connections without one, which count in all alone.
        :returns: why it cannot be had; empty when it was counted.
        """
        now = self.clock.seconds()
        rates: dict[Hashable, float] = {None: self.bounds.max_handshake_rate}
        if host is not None:
            rates[host] = self.bounds.max_handshake_rate_per_host
        for one, rate in rates.items():
            if self._left(one, rate, now) + 1 > max(1.0, rate * BURST_SECONDS):
                return f"{'all hosts' if one is None else one} began more than {rate:g} TLS handshakes a second"
        for one, rate in rates.items():
            self._used[one] = _Used(self._left(one, rate, now) + 1, now)
        if len(self._used) > self._most:
            self._forget(now)
        return ""

    def _left(self, host: Hashable, rate: float, now: float) -> float:
        """What has not leaked yet from a host's bucket."""
        used = self._used.get(host)
        return 0.0 if used is None else max(0.0, used.units - max(0.0, now - used.at) * rate)

    def _forget(self, now: float) -> None:
        """Drop the buckets that are empty; `take` finds them so."""
        rate = self.bounds.max_handshake_rate_per_host
        self._used = {host: used for host, used in self._used.items() if host is None or self._left(host, rate, now)}
        self._most = max(_FEW, 2 * len(self._used))
