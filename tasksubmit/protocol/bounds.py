"""What all peers together may have a server hold: connections, and bytes (docs/bounds.rst has the whole list)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Hashable
from typing import Protocol

from attrs import define, field, frozen
from twisted.internet.interfaces import IAddress, IReactorTime

from tasksubmit.validation import COUNT, RATE, whole_number
from tasksubmit.wire.frames import MAX_FRAME

SMALL_BYTES = 64 * 1024
"""An unfinished frame costs nothing of what all share while no more of it has arrived; so a small one gets through."""

MAX_IN_WORK = 2048
"""How many frames of all connections may be in work before others wait; a flood is then a fifth of a second long."""

SHORTEST_SECONDS = 0.05
"""The age from which on the speed of an unfinished frame is measured; a younger one counts as so old."""

LEAST_BUFFERED_BYTES = 2 * MAX_FRAME
"""With less, the largest frame might find no room beside others."""


@frozen(kw_only=True)
class Bounds:
    """The bounds that an operator may set; they hold for all connections of one `TaskSubmitFactory`.

    :ivar max_connections: how many may be open at once.
    :ivar max_connections_per_peer: how many of them from one host (of IPv6: one /64 network), and how many of one
        authenticated address. Connections without a host, such as those of a Unix socket, count towards the sum alone.
    :ivar max_handshakes: how many connections may be in their TLS handshake at once; they count towards
        ``max_connections``, too.
    :ivar max_handshakes_per_host: how many of them of one host.
    :ivar max_handshake_rate: how many handshakes may begin a second, after a burst of the rate of
        `handshakes.BURST_SECONDS`.
    :ivar max_handshake_rate_per_host: how many of them of one host, in the same way.
    :ivar max_buffered_bytes: what may be held of frames that are unfinished or in work, `SMALL_BYTES` for each
        connection apart; at least `LEAST_BUFFERED_BYTES`.
    """

    max_connections: int = field(default=2000, validator=COUNT)
    max_connections_per_peer: int = field(default=500, validator=COUNT)
    max_handshakes: int = field(default=400, validator=COUNT)
    max_handshakes_per_host: int = field(default=100, validator=COUNT)
    max_handshake_rate: float = field(default=400.0, validator=RATE)
    max_handshake_rate_per_host: float = field(default=100.0, validator=RATE)
    max_buffered_bytes: int = field(default=128 * 1024 * 1024, validator=whole_number(LEAST_BUFFERED_BYTES))


class Holder(Protocol):
    """A connection, as `Intake` sees it.

    :ivar host: where it comes from; None where there are no hosts.
    """

    @property
    def host(self) -> Hashable: ...

    def wait_for_room(self) -> None:
        """Read nothing more until `go_on`."""

    def go_on(self) -> None:
        """Read again."""

    def give_way(self, why: str) -> None:
        """End at once: the bytes that this one holds are needed by others."""


@define(eq=False)
class _Unfinished:
    since: float
    size_bytes: int = 0


@define(eq=False)
class Intake:
    """Counts what the connections of a factory hold, and says who has to wait or to go when it is too much.

    Two rules bound the bytes. While `MAX_IN_WORK` frames are in work, or such as take half of the room, whoever has one
    in work is not read from: they are done with before long. And when unfinished frames want more than is left, the
    slowest of them are dropped; those of one host first, if it holds more than half of all. So many slow senders do not
    keep a fast one out, nor does one fast host, and a peer that has nothing else in work never waits with a frame.

    The speed that counts is a frame's own, divided by the number of unfinished frames of its host. A busy server reads
    all connections equally fast, however fast their peers could send; then hosts with many frames lose some first.
    """

    clock: IReactorTime
    bounds: Bounds
    in_work: int = field(default=0, init=False)
    in_work_bytes: int = field(default=0, init=False)
    unfinished_bytes: int = field(default=0, init=False)
    _places: Counter[Hashable] = field(factory=Counter, init=False)
    _unfinished: dict[Holder, _Unfinished] = field(factory=dict, init=False)
    _waiting: dict[Holder, None] = field(factory=dict, init=False)
    _half_bytes: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._half_bytes = self.bounds.max_buffered_bytes // 2

    # --- places -------------------------------------------------------------------------------------------------------

    def enter(self, peer: Hashable) -> str:
        """Give a connection one more place of a host's or an authenticated address's.

        :param peer: None takes no place.
        :returns: why it cannot have one; empty when it has it, and has to `leave` it.
        """
        if peer is None:
            return ""
        most = self.bounds.max_connections_per_peer
        if self._places[peer] >= most:
            return f"{peer} has {most} connections already"
        self._places[peer] += 1
        return ""

    def leave(self, peer: Hashable) -> None:
        """Give a place back."""
        self._places[peer] -= 1
        if self._places[peer] <= 0:
            del self._places[peer]

    # --- bytes --------------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether so much is in work that those who wait for answers should send no more."""
        return self.in_work >= MAX_IN_WORK or self.in_work_bytes >= self._half_bytes

    def begin(self, size_bytes: int) -> None:
        """A frame is in work from now on."""
        self.in_work += 1
        self.in_work_bytes += size_bytes

    def end(self, size_bytes: int) -> None:
        """A frame is done with: those who wait may have its room."""
        self.in_work -= 1
        self.in_work_bytes -= size_bytes
        if self._waiting and not self.is_busy:
            waiting, self._waiting = self._waiting, {}
            for holder in waiting:
                holder.go_on()

    def wait(self, holder: Holder) -> None:
        """Have a connection wait until less is in work."""
        self._waiting[holder] = None
        holder.wait_for_room()

    def grow(self, holder: Holder, size_bytes: int) -> None:
        """So much has arrived by now of the unfinished frame of a connection; 0 when there is none any more."""
        if size_bytes <= SMALL_BYTES:
            self._forget(holder)
            return
        unfinished = self._unfinished.get(holder)
        if unfinished is None:
            unfinished = self._unfinished[holder] = _Unfinished(self.clock.seconds())
        self.unfinished_bytes += size_bytes - unfinished.size_bytes
        unfinished.size_bytes = size_bytes
        if self._held_bytes > self.bounds.max_buffered_bytes:
            self._make_room()

    def gone(self, holder: Holder) -> None:
        """A connection is lost, and what it had not finished with it."""
        self._waiting.pop(holder, None)
        self._forget(holder)

    @property
    def _held_bytes(self) -> int:
        return self.unfinished_bytes + self.in_work_bytes

    def _forget(self, holder: Holder) -> None:
        unfinished = self._unfinished.pop(holder, None)
        if unfinished is not None:
            self.unfinished_bytes -= unfinished.size_bytes

    def _make_room(self) -> None:
        """Drop the slowest, a sixteenth of the room at once: each time, all have to be compared."""
        enough = self.bounds.max_buffered_bytes * 15 // 16
        now = self.clock.seconds()
        of_hosts = Counter(holder.host for holder in self._unfinished)
        speeds = {
            holder: part.size_bytes / max(now - part.since, SHORTEST_SECONDS) / self._share(holder, of_hosts)
            for holder, part in self._unfinished.items()
        }
        for holder in sorted(self._of_greediest() or speeds, key=speeds.__getitem__):
            if self._held_bytes <= enough:
                break
            share = self._share(holder, of_hosts)
            self.gone(holder)
            holder.give_way(
                f"its unfinished frame came at {speeds[holder] * share:.0f} bytes/s, one of {share} from its host:"
                " slower than those of others, or more than they have"
            )

    @staticmethod
    def _share(holder: Holder, of_hosts: Counter[Hashable]) -> int:
        """Return the number of unfinished frames that a holder's host has; 1 for a connection without a host."""
        return 1 if holder.host is None else of_hosts[holder.host]

    def _of_greediest(self) -> list[Holder]:
        """The connections of the host that holds more than half of all; mostly there is none."""
        by_host: Counter[Hashable] = Counter()
        for holder, part in self._unfinished.items():
            if holder.host is not None:
                by_host[holder.host] += part.size_bytes
        [(host, size_bytes)] = by_host.most_common(1) or [(None, 0)]
        return [holder for holder in self._unfinished if holder.host == host] if size_bytes > self._half_bytes else []


def host_of(address: IAddress | None) -> str | None:
    """Where a connection comes from, as connections are counted: the host, or the /64 network of IPv6; None if none."""
    host = getattr(address, "host", None)
    try:
        ip = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return host if host is None else str(host)
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    # A server that listens on both sees IPv4 hosts as parts of one network.
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
