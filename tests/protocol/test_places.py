"""Places of connections that have proved nothing: a newcomer gets one, and who gives way is left to chance."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Hashable
from random import Random

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import ISystemHandle
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.handshakes import Handshakes
from tasksubmit.protocol.places import Places, has_unread


@define(eq=False)
class FakeStranger:
    """A connection that notes what it is told."""

    host: Hashable = "10.0.0.1"
    works: bool = False
    began: bool = False
    gone: list[str] = field(factory=list)

    def is_busy(self) -> bool:
        return self.works

    def has_begun(self) -> bool:
        return self.began

    def give_way(self, why: str) -> None:
        self.gone.append(why)


class PlacesTests(SynchronousTestCase):
    """The rules."""

    def setUp(self) -> None:
        self.places = Places(most=400, most_per_host=100, random=Random(1))

    def enter(self, host: Hashable = "10.0.0.1", works: bool = False) -> FakeStranger:
        """Another connection gets a place."""
        stranger = FakeStranger(host, works)
        self.assertEqual(self.places.enter(stranger), "")
        return stranger

    def test_few(self) -> None:
        """While half of the places of a host are free nobody is dropped, and chance is not asked."""
        state = self.places.random.getstate()
        strangers = [self.enter() for _ in range(51)]
        self.assertEqual([one for one in strangers if one.gone], [])
        self.assertEqual(self.places.random.getstate(), state)

    def test_early(self) -> None:
        """From then on some are dropped before all places are taken, and the more, the fewer are left."""
        dropped: list[int] = []
        strangers: list[FakeStranger] = []
        while self.places.count < 99:
            before = self.places.count
            strangers.append(self.enter())
            if self.places.count == before:
                dropped.append(before)
        gone = [one for one in strangers if one.gone]
        self.assertGreater(len([count for count in dropped if count > 80]), 2 * len([c for c in dropped if c <= 80]))
        self.assertEqual(len(gone), len(dropped))
        self.assertIn("connections of 10.0.0.1 have not shown whose they are, and it was drawn by lot", gone[0].gone[0])

    def test_renewed(self) -> None:
        """However often others of its host are renewed, an honest one gets a place, and mostly keeps it for long."""
        kept = 0
        for _ in range(200):
            for _ in range(140):
                self.enter()
            honest = self.enter()
            for _ in range(10):
                self.enter()
            kept += not honest.gone
            self.places.leave(honest)
        self.assertGreater(kept, 160)
        self.assertLessEqual(self.places.count, 100)

    def test_random(self) -> None:
        """Which one is dropped is left to chance: neither the oldest nor the newest, and the same for the same seed."""
        gone = []
        for _ in range(2):
            self.setUp()
            strangers = [self.enter() for _ in range(400)]
            gone.append([bool(one.gone) for one in strangers])
        self.assertEqual(gone[0], gone[1])
        self.assertGreater(sum(gone[0][:50]), 10)
        self.assertLess(sum(gone[0][:50]), 50)

    def test_work_is_not_dropped(self) -> None:
        """One that has something in work stays; when all have, the newcomer is the one that is refused."""
        strangers = [self.enter(works=True) for _ in range(100)]
        self.assertEqual(self.places.enter(FakeStranger()), "10.0.0.1 has 100 connections already")
        strangers[7].works = False
        self.assertEqual(self.places.enter(FakeStranger()), "")
        self.assertEqual([one for one in strangers if one.gone], [strangers[7]])

    def test_silent_ones_first(self) -> None:
        """One that has begun something is spared while most say nothing, however many come."""
        for _ in range(60):
            self.enter()
        honest = self.enter()
        honest.began = True
        for _ in range(5000):
            self.enter()
        self.assertEqual(honest.gone, [])

    def test_silent_one_among_others(self) -> None:
        """Where most have sent something, one that has not yet is still hardly dropped at once."""
        kept = 0
        for _ in range(100):
            for _ in range(101):
                self.enter().began = True
            honest = self.enter()
            for _ in range(5):
                self.enter().began = True
            kept += not honest.gone
            self.places.leave(honest)
        self.assertGreater(kept, 75)

    def test_not_read_yet(self) -> None:
        """What has arrived at a socket counts as sent before it is read; what is no socket has nothing unread."""

        @implementer(ISystemHandle)
        class Transport:
            def getHandle(self) -> socket.socket:  # noqa: N802 - Twisted's
                return here

        here, there = socket.socketpair()
        self.addCleanup(there.close)
        self.assertFalse(has_unread(Transport()))
        there.send(b"hello")
        self.assertEqual((has_unread(Transport()), here.recv(9)), (True, b"hello"))
        here.close()
        self.assertEqual((has_unread(Transport()), has_unread(object()), has_unread(None)), (False, False, False))

    def test_all(self) -> None:
        """When all places are taken, one of the host that has most goes; connections without a host are such a host."""
        self.enter("10.0.0.9")
        for number in range(399):
            self.enter(None if number % 2 else f"10.0.1.{number % 14}")
        mine = self.enter("10.0.0.8")
        for _ in range(1000):
            self.enter(None)
        self.assertEqual(mine.gone, [])
        self.assertLessEqual(self.places.count, 400)

    def test_others(self) -> None:
        """Places that are taken by other connections are none for strangers."""
        for _ in range(10):
            self.assertEqual(self.places.enter(FakeStranger(None), 390), "")
        self.assertEqual(self.places.enter(FakeStranger(None), 400), "")  # another went
        self.assertLessEqual(self.places.count, 10)
        self.places = Places(2, 2, Random(1))
        self.assertEqual(self.places.enter(FakeStranger(), 2), "there are 2 connections already")

    @given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=200))
    def test_never_more(self, steps: list[tuple[int, bool, bool]]) -> None:
        """Whoever comes and goes in whatever order, there are never more than there may be, and the count is right."""
        places = Places(10, 4, Random(2))
        there: list[FakeStranger] = []
        for host, works, leaves in steps:
            if leaves and there:
                places.leave(there.pop())
            elif not places.enter(stranger := FakeStranger(host, works)):
                there.append(stranger)
            there = [one for one in there if not one.gone]
            self.assertEqual(places.count, len(there))
            self.assertLessEqual(places.count, 10)
            self.assertLessEqual(max(Counter(one.host for one in there).values(), default=0), 4)


class KnownTests(SynchronousTestCase):
    """Hosts of peers."""

    def test_rate(self) -> None:
        """What strangers elsewhere begin in all does not count against a host from which a peer was admitted."""
        handshakes = Handshakes(Clock(), Bounds(max_handshake_rate=1, max_handshake_rate_per_host=1), Random(1))
        handshakes.admitted("10.0.0.1")
        while not handshakes.take(None):
            pass
        self.assertNotEqual(handshakes.take("10.0.0.2"), "")
        self.assertEqual([handshakes.take("10.0.0.1") for _ in range(4)], [""] * 4)
        self.assertNotEqual(handshakes.take("10.0.0.1"), "")

    def test_places(self) -> None:
        """While others are there, none of a known host gives way for all of them."""
        handshakes = Handshakes(Clock(), Bounds(max_handshakes=20, max_handshakes_per_host=20), Random(1))
        handshakes.admitted("10.0.0.1")
        mine = [FakeStranger("10.0.0.1") for _ in range(9)]
        for one in mine:
            handshakes.enter(one)
        for number in range(1000):
            handshakes.enter(FakeStranger(f"10.0.1.{number}"))
        self.assertEqual([one for one in mine if one.gone], [])
        self.assertLessEqual(handshakes.count, 20)

    def test_shared(self) -> None:
        """Handshakes and connections together are no more than there may be connections."""
        handshakes = Handshakes(Clock(), Bounds(max_connections=10), Random(1), lambda: 7)
        for number in range(100):
            self.assertEqual(handshakes.enter(FakeStranger(f"10.0.1.{number}")), "")
        self.assertLessEqual(handshakes.count, 3)
        full = Handshakes(Clock(), Bounds(max_connections=10), Random(1), lambda: 10)
        self.assertEqual(full.enter(FakeStranger()), "there are 400 connections already")

    def test_many_are_forgotten(self) -> None:
        """Of known hosts the latest are kept, so that a peer with many cannot fill the memory."""
        handshakes = Handshakes(Clock(), Bounds())
        for number in range(5000):
            handshakes.admitted(number)
            handshakes.admitted("10.0.0.1")
        self.assertEqual((len(handshakes._known), "10.0.0.1" in handshakes._known), (1024, True))
