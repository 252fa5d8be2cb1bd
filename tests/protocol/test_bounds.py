"""What all connections together may be and hold: places, bytes, and who gives way."""

from __future__ import annotations

from collections.abc import Hashable
from random import Random

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.protocol import bounds
from tasksubmit.protocol.bounds import SMALL_BYTES, Bounds, Intake, host_of
from tasksubmit.protocol.server import ABORT_DELAY_SECONDS
from tasksubmit.wire.frames import MAX_FRAME, Frame
from tests.protocol.support import HERE, THERE, RawPeer, encoded, request, results
from tests.protocol.test_server import ServerTestCase

MIB = 1024 * 1024
ROOM = 16 * MIB


def with_room(bounds: Bounds, size_bytes: int) -> Bounds:
    """The same bounds with less room than an operator may give, so that tests need less."""
    object.__setattr__(bounds, "max_buffered_bytes", size_bytes)
    return bounds


@define(eq=False)
class FakeHolder:
    """A connection that notes what it is told."""

    host: Hashable = None
    is_waiting: bool = False
    gone: list[str] = field(factory=list)

    def wait_for_room(self) -> None:
        self.is_waiting = True

    def go_on(self) -> None:
        self.is_waiting = False

    def give_way(self, why: str) -> None:
        self.gone.append(why)


class IntakeTests(SynchronousTestCase):
    """The rules."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.intake = Intake(self.clock, with_room(Bounds(max_connections_per_peer=2), ROOM))

    def grow(self, size_bytes: float, host: Hashable = None) -> FakeHolder:
        """A new connection has so much of an unfinished frame."""
        holder = FakeHolder(host)
        self.intake.grow(holder, int(size_bytes))
        return holder

    def test_slowest_gives_way(self) -> None:
        """When unfinished frames want more than there is, those that came slowest go, and no more than it takes."""
        slow = [self.grow(MIB) for _ in range(10)]
        self.clock.advance(100)
        fast = self.grow(6 * MIB)
        self.assertEqual([holder for holder in slow if holder.gone], [])
        self.intake.grow(fast, 7 * MIB)
        self.assertEqual(len([holder for holder in slow if holder.gone]), 2)  # a sixteenth of the room besides
        self.assertEqual(fast.gone, [])
        self.assertEqual(self.intake.unfinished_bytes, 15 * MIB)

    def test_trickle(self) -> None:
        """A slow one goes even when it is the one that wants more."""
        slow = self.grow(5 * MIB)
        self.clock.advance(1000)
        fast = self.grow(11 * MIB)
        self.intake.grow(slow, 5 * MIB + 1)
        self.assertTrue(slow.gone)
        self.assertEqual(fast.gone, [])

    def test_small_ones_cost_nothing(self) -> None:
        """A frame of which little has arrived takes nothing of what all share, and nobody drops it."""
        small = [self.grow(SMALL_BYTES) for _ in range(1000)]
        self.assertEqual(self.intake.unfinished_bytes, 0)
        self.clock.advance(100)
        self.grow(ROOM + 1)
        self.assertEqual([holder for holder in small if holder.gone], [])

    def test_young_frame_is_not_slow(self) -> None:
        """A frame that began a moment ago and arrives fast stays; older and slower ones go."""
        slow = [self.grow(2 * MIB) for _ in range(7)]
        self.clock.advance(4)
        young = self.grow(SMALL_BYTES + 1)
        self.clock.advance(0.1)
        self.intake.grow(young, MIB // 4)
        self.grow(2 * MIB)
        self.assertTrue(any(holder.gone for holder in slow))
        self.assertEqual(young.gone, [])

    def test_one_frame_of_a_host_outlasts_many(self) -> None:
        """When all frames arrive equally fast, a host with a single one keeps it, and hosts with many lose some."""
        many = [self.grow(MIB, f"10.0.1.{number % 5}") for number in range(15)]
        single = self.grow(MIB * 0.9, "10.0.0.2")
        self.clock.advance(10)
        self.intake.grow(many[0], MIB * 6 // 5)
        self.assertTrue(any(holder.gone for holder in many))
        self.assertEqual(single.gone, [])

    def test_greedy_host(self) -> None:
        """A host that holds more than half of all gives way first, however fast it is."""
        slow = self.grow(MIB, "10.0.0.2")
        self.clock.advance(1000)
        fast = [self.grow(3 * MIB, "10.0.0.1") for _ in range(6)]
        self.assertEqual(slow.gone, [])
        self.assertTrue(any(holder.gone for holder in fast))

    def test_no_hosts(self) -> None:
        """Connections without a host are not taken for those of one."""
        slow = self.grow(1.5 * MIB)
        self.clock.advance(1000)
        fast = [self.grow(size * MIB) for size in (4, 4, 4, 3)]
        self.assertTrue(slow.gone)
        self.assertEqual([holder for holder in fast if holder.gone], [])

    def test_wait_for_work(self) -> None:
        """Who waits goes on as soon as less is in work, counted in bytes and in frames."""
        for frames, size_bytes in ((1, ROOM // 2), (bounds.MAX_IN_WORK, 0)):
            for _ in range(frames):
                self.assertFalse(self.intake.is_busy)
                self.intake.begin(size_bytes)
            self.assertTrue(self.intake.is_busy)
            holder = FakeHolder()
            self.intake.wait(holder)
            self.assertTrue(holder.is_waiting)
            for _ in range(frames):
                self.intake.end(size_bytes)
            self.assertFalse(holder.is_waiting)

    def test_places(self) -> None:
        """A host or an address has so many places, gets back those that it leaves, and takes none of another's."""
        for peer in ("10.0.0.1", HERE):
            self.assertEqual([self.intake.enter(peer), self.intake.enter(peer)], ["", ""])
            self.assertIn(str(peer), self.intake.enter(peer))
            self.assertEqual(self.intake.enter(THERE), "")
            self.intake.leave(THERE)
            self.intake.leave(peer)
            self.assertEqual(self.intake.enter(peer), "")
        self.assertEqual([self.intake.enter(None) for _ in range(9)], [""] * 9)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20 * MIB), st.floats(0, 5)), max_size=40))
    def test_never_more(self, steps: list[tuple[int, int, float]]) -> None:
        """Whatever grows in whatever order, no more is held than there is room, and the count is that of those left."""
        intake = Intake(clock := Clock(), with_room(Bounds(), ROOM))
        holders = {number: FakeHolder(number % 2) for number in range(6)}
        sizes: dict[int, int] = {}
        for number, size_bytes, seconds in steps:
            clock.advance(seconds)
            sizes[number] = size_bytes if size_bytes > SMALL_BYTES else 0
            intake.grow(holders[number], size_bytes)
            for other, holder in holders.items():
                if holder.gone:
                    holder.gone.clear()
                    sizes[other] = 0
            self.assertLessEqual(intake.unfinished_bytes, ROOM)
            self.assertEqual(intake.unfinished_bytes, sum(sizes.values()))

    def test_host_of(self) -> None:
        """IPv4 counts by host, also where it comes over IPv6, IPv6 by network, and what has no host not at all."""
        cases: list[tuple[IAddress | None, str | None]] = [
            (IPv4Address("TCP", "10.0.0.1", 5), "10.0.0.1"),
            (IPv6Address("TCP", "::ffff:10.0.0.1", 5), "10.0.0.1"),
            (IPv6Address("TCP", "2001:db8::1:2:3:4", 5), "2001:db8::/64"),
            (IPv6Address("TCP", "fe80::1%eth0", 5), "fe80::/64"),
            (UNIXAddress("/a/path"), None),
            (None, None),
        ]
        self.assertEqual([host_of(address) for address, _ in cases], [host for _, host in cases])


class ServerBoundsTests(ServerTestCase):
    """Connections under the rules."""

    def test_too_many(self) -> None:
        """A connection over the limit is aborted at once when all have something in work, and said so; when one ends
        another can be made.
        """
        peers = [self.start(bounds=Bounds(max_connections=2)), self.raw()]
        for peer in peers:
            self.deliver(peer, encoded(request("a")))
        with capturedLogs() as logs:
            refused = self.raw()
        assert refused.lost is not None
        refused.lost.trap(ConnectionLost)  # a clean end would count as success with a peer of the deployed kind
        self.assertIn("there are 2 connections already", formatEvent(logs[0]))
        self.assertEqual(len(self.factory.connections), 2)
        self.network.cut_all()
        self.assertIsNone(self.raw().lost)

    def test_idle_ones_give_way(self) -> None:
        """One that has nothing in work makes room for a newcomer of its host, or of any when there are too many."""
        for limit in ("max_connections", "max_connections_per_peer"):
            self.setUp()
            self.start(bounds=Bounds(**{limit: 3}), random=Random(1))
            transports = [self.transport("10.0.0.1") for _ in range(50)]
            self.assertLessEqual(sum(transport.connected for transport in transports), 3)
            self.assertTrue(transports[-1].connected)

    def test_lock_out(self) -> None:
        """However many idle connections a host renews, an honest peer of that host is answered."""
        self.start(random=Random(1))
        idle = [self.transport("127.0.0.1") for _ in range(520)]
        answered = 0
        for number in range(50):
            honest = self.transport("127.0.0.1")
            honest.protocol.dataReceived(encoded(request(str(number))))
            idle = [transport for transport in idle if transport.connected]
            idle += [self.transport("127.0.0.1") for _ in range(min(520 - len(idle), 20))]
            self.reply(str(number))
            answered += b'"status":200' in honest.value()
        self.assertEqual(answered, 50)
        self.assertLessEqual(len(self.factory.connections), 501)

    def test_authenticated_stay(self) -> None:
        """A connection whose address the transport has authenticated gives way to nobody."""
        self.start(bounds=Bounds(max_connections=10), random=Random(1), identify=lambda _: THERE)
        peers = [self.raw() for _ in range(4)]
        for peer in peers:
            self.deliver(peer, encoded(request("a")))
            self.reply("a")
        self.factory.identify = lambda _: None
        for _ in range(100):
            self.transport("10.0.0.1")
        self.assertEqual([peer.lost for peer in peers], [None] * 4)
        self.assertLessEqual(len(self.factory.connections), 10)

    def transport(self, host: str) -> StringTransportWithDisconnection:
        """A connection from a host."""
        transport = StringTransportWithDisconnection()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]  # else it tells nobody
        transport.protocol = self.factory.buildProtocol(IPv4Address("TCP", host, 5))
        transport.protocol.makeConnection(transport)
        return transport

    def test_too_many_of_a_host(self) -> None:
        """One host has so many connections, and others are not kept out by it."""
        self.start(bounds=Bounds(max_connections_per_peer=2))
        transports = [self.transport("10.0.0.1") for _ in range(2)]
        for transport in transports:
            transport.protocol.dataReceived(encoded(request("a")))
        transports += [self.transport("10.0.0.1"), self.transport("10.0.0.2")]
        self.assertEqual([transport.connected for transport in transports], [True, True, False, True])
        transports[0].loseConnection()
        self.assertTrue(self.transport("10.0.0.1").connected)

    def test_too_many_of_an_address(self) -> None:
        """An authenticated address has so many connections, from wherever; one more gets an answer that says so."""
        peer = self.start(bounds=Bounds(max_connections_per_peer=1), identify=lambda _: THERE)
        self.deliver(peer, encoded(request("a")))
        second = self.raw()
        self.deliver(second, encoded(request("b"), request("c")))
        self.assertEqual(self.handler.ids, ["a"])
        self.assertEqual([(r.task_id, r.code) for r in second.answers], [("b", "overloaded")])
        self.advance(ABORT_DELAY_SECONDS)
        assert second.lost is not None
        self.reply("a")
        peer.close()
        self.network.flush()
        self.deliver(third := self.raw(), encoded(request("d")))
        self.assertEqual(self.handler.ids, ["a", "d"])
        self.assertIsNone(third.lost)

    def unfinished(self, peer: RawPeer, size_bytes: int) -> None:
        """Have a peer send so much of a frame of the largest size."""
        self.deliver(peer, (Frame(4, b"").encode()[:4] + MAX_FRAME.to_bytes(4, "big")).ljust(size_bytes, b"\0"))

    def test_slow_frames_give_way(self) -> None:
        """When unfinished frames fill the room a slow one is aborted, its bytes are free, and a fast one arrives."""
        slow = [self.start(bounds=with_room(Bounds(), 4 * MIB)), *(self.raw() for _ in range(4))]
        for peer in slow:
            self.unfinished(peer, MIB - 64 * 1024)
        self.clock.advance(30)
        honest = self.raw()
        with capturedLogs() as logs:
            self.deliver(honest, encoded(results("big", "x" * 2 * MIB)))
        self.reply("big", False)
        self.assertEqual([response.task_id for response in honest.answers], ["big"])
        lost = [peer for peer in slow if peer.lost is not None]
        self.assertGreaterEqual(len(lost), 1)
        self.assertIn("slower than those of others", formatEvent(logs[0]))
        self.assertLessEqual(self.factory.intake.unfinished_bytes, 4 * MIB)
        for peer in slow:
            peer.close()
        self.network.flush()
        self.assertEqual((self.factory.intake.unfinished_bytes, self.factory.intake.in_work), (0, 0))

    def test_much_in_work(self) -> None:
        """While much is in work each connection has one frame in work, and takes others when there is less."""
        self.patch(bounds, "MAX_IN_WORK", 3)
        flooder = self.start()
        self.deliver(flooder, encoded(*(request(f"f{number}") for number in range(10))))
        self.assertEqual(self.handler.ids, ["f0", "f1", "f2"])
        honest = self.raw()
        self.deliver(honest, encoded(request("h0"), request("h1")))
        self.assertEqual(self.handler.ids[3:], ["h0"])
        self.reply("h0")
        self.assertEqual(self.handler.ids[4:], ["h1"])
        for number in range(10):
            self.reply(f"f{number}")
        self.reply("h1")
        self.assertEqual(len(flooder.answers), 10)
        self.assertEqual(len(honest.answers), 2)
        self.assertEqual((self.factory.intake.in_work, self.factory.intake.in_work_bytes), (0, 0))

    def test_work_of_lost_connections_counts(self) -> None:
        """What a connection left in work is counted until it is done with, though the connection is gone."""
        peer = self.start()
        self.deliver(peer, encoded(request("a")))
        self.network.cut_all()
        self.assertEqual(self.factory.intake.in_work, 1)
        self.reply("a")
        self.assertEqual(self.factory.intake.in_work, 0)

    def test_log_stays_small(self) -> None:
        """However many connections are refused, the log says so a few times, and how often it did not."""
        self.deliver(self.start(bounds=Bounds(max_connections=1)), encoded(request("a")))
        with capturedLogs() as logs:
            for _ in range(500):
                self.raw()
        self.assertLess(len(logs), 30)
        self.assertIn("left out", formatEvent(logs[-1]))
