"""The policies of admission, one by one and together."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.interfaces import (
    IAdmissionPolicy,
    ICountingAdmissionPolicy,
    IPureAdmissionPolicy,
    Peer,
    PeerLoad,
    Refusal,
)
from tasksubmit.node.load import Load
from tasksubmit.node.policy import (
    AllOf,
    Allow,
    Deny,
    PeerQuota,
    QueueLimit,
    RateLimit,
    ScoreGate,
    SizeLimit,
)
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest
from tests.node.helpers import ALICE, BOB, CAROL, request

THEM = Peer(ALICE, "memory")


@implementer(IAdmissionPolicy)
class Later:
    """A policy that decides later, and notes that it was asked."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Refusal | None]] = []

    def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[Refusal | None]:
        """See `IAdmissionPolicy.admit`."""
        self.asked.append(Deferred())
        return self.asked[-1]


class ListTests(SynchronousTestCase):
    """Those that look at who submits what."""

    def code(self, policy: Any, by: Address = ALICE, description: str = "work") -> str:
        """What a policy answers to a submission."""
        refusal = policy.admit(Peer(by, "memory"), request(by=by, description=description))
        return refusal.code if refusal else ""

    def test_allow_and_deny(self) -> None:
        """Those on a list of those who may, and those not on one of those who may not, are admitted."""
        self.assertEqual([self.code(Allow([ALICE]), one) for one in (ALICE, CAROL)], ["", "not_a_peer"])
        self.assertEqual([self.code(Deny([ALICE]), one) for one in (ALICE, CAROL)], ["not_a_peer", ""])

    def test_size(self) -> None:
        """A description is measured in bytes of UTF-8, and refused for good when it is too long."""
        policy = SizeLimit(4)
        self.assertEqual(
            [self.code(policy, description=one) for one in ("abcd", "äö", "abcde", "äöü")], ["", "", *["too_large"] * 2]
        )
        refusal = policy.admit(THEM, request(description="abcde"))
        assert refusal is not None
        self.assertIn("has 5 bytes; this node takes up to 4", refusal.message)
        self.assertEqual(refusal.retry_after_s, 0)

    def test_score_gate(self) -> None:
        """Whoever has a lower score than the node itself is refused, in the words of deployed peers."""
        for theirs, ours, message in (
            (3, 7, "Polo score too low: submitter=3, receiver=7"),
            (7, 7, None),
            (0, -1, None),
        ):
            scores = {ALICE: succeed(theirs), BOB: succeed(ours)}
            answer = self.successResultOf(ScoreGate(BOB, scores.__getitem__).admit(THEM, request()))
            self.assertEqual((answer.code, answer.message) if answer else None, message and ("score_too_low", message))


class QuotaTests(SynchronousTestCase):
    """Those that look at what is there already."""

    @override
    def setUp(self) -> None:
        self.load = Load()

    def test_tasks(self) -> None:
        """A peer with too many open tasks is refused for now; others are not."""
        policy = PeerQuota(3, load=self.load)
        self.load.recount([PeerLoad(ALICE, open=2)])
        self.assertIsNone(policy.admit(THEM, request()))
        self.load.recount([PeerLoad(ALICE, open=3)])
        refusal = policy.admit(THEM, request())
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.retry_after_s), ("quota", 60))
        self.assertIn("3 of your tasks have not ended; the quota is 3", refusal.message)
        self.assertIsNone(policy.admit(Peer(CAROL, "memory"), request(by=CAROL)))

    def test_bytes(self) -> None:
        """So is one whose tasks and results take too much, and one with too many tasks that have ended."""
        for within, beyond, message in (
            ({"stored_bytes": 49}, {"stored_bytes": 50}, "take 50 bytes; the quota is 50"),
            ({"records": 9}, {"records": 10}, "10 tasks of yours are on record; the quota is 10"),
        ):
            policy = PeerQuota(100, 50, 10, load=self.load)
            self.load.recount([PeerLoad(ALICE, **within)])
            self.assertIsNone(policy.admit(THEM, request()))
            self.load.recount([PeerLoad(ALICE, **beyond)])
            refusal = policy.admit(THEM, request())
            assert refusal is not None
            self.assertIn(message, refusal.message)

    def test_queue(self) -> None:
        """While the queue is full nobody may submit who has an open task."""
        policy = QueueLimit(2, load=self.load)
        self.load.recount([PeerLoad(CAROL, queued=1), PeerLoad(ALICE, new=9)])
        self.assertIsNone(policy.admit(THEM, request()))
        self.load.recount([PeerLoad(CAROL, queued=2, open=2)])
        self.assertIsNone(policy.admit(THEM, request()))
        self.load.recount([PeerLoad(CAROL, queued=1, open=1), PeerLoad(ALICE, queued=1, open=1)])
        refusal = policy.admit(THEM, request())
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.retry_after_s), ("quota", 60))
        self.assertIn("the queue has 2 tasks", refusal.message)


class RateTests(SynchronousTestCase):
    """So many a second, and so many at once."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.policy = RateLimit(self.clock, rate=2, burst=5)

    def submit(self, by: Address = ALICE) -> Refusal | None:
        """Submit a task, which is created if the policy admits it."""
        peer, submission = Peer(by, "memory"), request(by=by)
        refusal = self.policy.admit(peer, submission)
        if refusal is None:
            self.policy.created(peer, submission)
        return refusal

    def test_burst(self) -> None:
        """A peer may submit its burst at once, and then as many as time gives it; asking costs nothing."""
        self.assertEqual([self.submit() for _ in range(5)], [None] * 5)
        for _ in range(10):
            self.assertIsNotNone(self.submit())
        refusal = self.submit()
        assert refusal is not None
        self.assertEqual((refusal.code, refusal.retry_after_s), ("rate_limited", 1))
        self.clock.advance(0.5)
        self.assertIsNone(self.submit())
        self.assertIsNotNone(self.submit())
        self.clock.advance(100)
        self.assertEqual([self.submit() is None for _ in range(6)], [True] * 5 + [False])

    @settings(deadline=None)
    @given(
        st.floats(0, 4e9),
        st.sampled_from((0.1, 0.3, 1 / 3, 1, 3, 5, 7, 30, 1000)) | st.floats(0.01, 10_000),
        st.integers(1, 50),
    )
    def test_burst_at_any_time(self, now: float, rate: float, burst: int) -> None:
        """The whole burst is admitted at one instant, wherever the clock stands, and again once it is earned."""
        self.clock = Clock()
        self.clock.rightNow = now
        self.policy = RateLimit(self.clock, rate=rate, burst=burst)
        self.assertEqual([self.submit() is None for _ in range(burst + 1)], [True] * burst + [False])
        self.clock.advance(1 / rate)
        self.assertIsNone(self.submit())
        self.clock.advance(burst / rate)
        self.assertEqual([self.submit() is None for _ in range(burst + 1)], [True] * burst + [False])

    def test_peers(self) -> None:
        """One peer's bucket is not another's."""
        for _ in range(6):
            self.submit()
        self.assertIsNone(self.submit(CAROL))

    @given(
        st.floats(0, 2e9, allow_nan=False),
        st.floats(0.01, 1000, allow_nan=False),
        st.integers(1, 50),
        st.integers(1, 3),
    )
    def test_exact_burst_at_any_clock_value(self, now: float, rate: float, burst: int, idle: int) -> None:
        """A peer that was idle may submit exactly its burst at one instant, and one task more after each interval."""
        self.clock.rightNow = now
        self.policy = RateLimit(self.clock, rate, burst)
        for _ in range(idle):
            self.assertEqual([self.submit() is None for _ in range(burst + 2)], [True] * burst + [False] * 2)
            self.clock.rightNow += 1 / rate
            self.assertEqual([self.submit() is None for _ in range(2)], [True, False])
            self.clock.rightNow += (burst + 1) / rate

    def test_created_without_being_asked_about(self) -> None:
        """More may be created than the bucket had, of what was under way: the peer pays for it by waiting."""
        for _ in range(9):
            self.policy.created(THEM, request())
        refusal = self.submit()
        assert refusal is not None
        self.assertEqual(refusal.retry_after_s, 3)

    def test_memory(self) -> None:
        """Peers whose bucket is full again are forgotten."""
        for number in range(5000):
            self.submit(Address(0, number))
            self.clock.advance(0.01)
        self.assertLess(len(self.policy._used), 1500)


class AllOfTests(SynchronousTestCase):
    """Several policies together."""

    def test_first_refusal(self) -> None:
        """The first that refuses is the answer, and those behind it are not asked."""
        later = Later()
        policy = AllOf([Deny([CAROL]), SizeLimit(3), later])
        refusal = policy.admit(THEM, request(description="long"))
        assert isinstance(refusal, Refusal)
        self.assertEqual((refusal.code, later.asked), ("too_large", []))

    def test_later(self) -> None:
        """One that answers later holds up those behind it, and is heard."""
        first, second = Later(), Later()
        policy = AllOf([first, SizeLimit(10), second, Deny([ALICE])])
        for answers, expected in (
            ([None, None], "not_a_peer"),
            ([Refusal("quota", "enough")], "quota"),
            ([None, Refusal("quota", "enough")], "quota"),
        ):
            decided = policy.admit(THEM, request())
            assert isinstance(decided, Deferred)
            for one, answer in zip((first, second), answers, strict=False):
                self.assertNoResult(decided)
                one.asked.pop().callback(answer)
            refusal = self.successResultOf(decided)
            assert refusal is not None
            self.assertEqual(refusal.code, expected)
        self.assertEqual(second.asked, [])

    def test_together(self) -> None:
        """However many one that answers later holds up, a quota lets in as many as it would one by one."""
        load, later = Load(), Later()
        policy = AllOf([PeerQuota(2, 1000), later]).with_load(load)
        decided = [policy.admit(THEM, request(f"t{number}")) for number in range(5)]
        codes: list[str] = []
        for answer, asked in zip(decided, later.asked, strict=True):
            assert isinstance(answer, Deferred)
            asked.callback(None)
            refusal = self.successResultOf(answer)
            codes.append(refusal.code if refusal else "")
            if refusal is None:
                load.recount([PeerLoad(ALICE, open=codes.count(""))])
        self.assertEqual(codes, ["", "", *["quota"] * 3])

    def test_nobody(self) -> None:
        """Without policies everything is admitted."""
        self.assertIsNone(AllOf([]).admit(THEM, request()))

    def test_what_they_provide(self) -> None:
        """Together they are pure when each of them is, and pass on what was created to those who count."""
        rate = RateLimit(Clock(), 1, 2)
        pure = AllOf([Deny([]), rate])
        self.assertTrue(IPureAdmissionPolicy.providedBy(pure))
        self.assertFalse(IPureAdmissionPolicy.providedBy(AllOf([Deny([]), Later()])))
        self.assertTrue(ICountingAdmissionPolicy.providedBy(pure))
        for _ in range(2):
            pure.created(THEM, request())
        self.assertIsNotNone(pure.admit(THEM, request()))
