"""Submissions, new and known: who is asked about them, and what is answered when nothing can be written."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.interfaces import IAdmissionPolicy, IPureAdmissionPolicy, Peer, Refusal
from tasksubmit.lifecycle.change import Delivery, Tombstone
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.policy import AllOf
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, request

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")

QUOTA = Refusal("quota", "enough for today")


class Asked:
    """A policy that notes what it was asked about, and gives whatever `answer` is."""

    def __init__(self) -> None:
        self.answer: Refusal | Deferred[Refusal | None] | None = None
        self.asked: list[str] = []

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | Deferred[Refusal | None] | None:
        """See `IAdmissionPolicy.admit`."""
        self.asked.append(request.task_id)
        return self.answer


@implementer(IPureAdmissionPolicy)
class Pure(Asked):
    """One that may be asked at any time."""


@implementer(IAdmissionPolicy)
class Counting(Asked):
    """One that may not."""


class FailingStore(SQLiteTaskStore):
    """A store in memory that counts what is looked up, and creates nothing while there is a `fault`.

    :ivar is_kept: whether what could not be created is there all the same.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.recalled: list[str] = []
        self.fault: StoreError | None = None
        self.is_kept = False

    @override
    def recall(self, key: TaskKey) -> Deferred[Task | Tombstone | None]:
        self.recalled.append(key.task_id)
        return super().recall(key)

    @override
    def create(self, task: Task, owed: Sequence[Delivery]) -> Deferred[tuple[Task, bool]]:
        if self.fault is None:
            return super().create(task, owed)
        if self.is_kept:
            super().create(task, owed)
        return fail(self.fault)


@implementer(IAdmissionPolicy)
class Coroutines:
    """A policy that is a coroutine function."""

    async def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        return QUOTA if request.task_id == "t2" else None


class CoroutineTests(NodeTestCase):
    """Policies that are coroutine functions, alone and among others."""

    def test_answers(self) -> None:
        """What they return counts."""
        for policy in (Coroutines(), AllOf([Coroutines(), Coroutines()])):
            bob = self.make_node(BOB, ALICE, policy=policy)
            self.assertEqual([self.ask(BOB, request(task_id)).code for task_id in ("t1", "t2")], ["", "quota"])
            self.stop(bob)


class AdmissionTestCase(NodeTestCase):
    """Bob, with a policy and a store that the tests have their hands on."""

    policy: Asked

    @override
    def setUp(self) -> None:
        super().setUp()
        self.policy = self.make_policy()
        self.store = FailingStore()
        self.bob = self.make_node(BOB, ALICE, CAROL, policy=self.policy, store=self.store)

    def make_policy(self) -> Asked:
        """The policy of the tests."""
        return Pure()

    def assert_refused(self, answer: SubmitResponse, code: str) -> None:
        self.assertEqual((answer.status, answer.code, answer.current_status), (400, code, ""))

    def assert_known(self, answer: SubmitResponse, current_status: str) -> None:
        self.assertEqual((answer.status, answer.code, answer.current_status), (200, "", current_status))

    def forget(self) -> None:
        """Have nothing left of the task but that it was cancelled."""
        self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", "", ack=True, outcome="cancelled_by_submitter"))
        self.assertTrue(self.done(self.store.forget(self.task(self.bob, KEY), self.bob._records.now())))


class PurePolicyTests(AdmissionTestCase):
    """A policy that may be asked before it is known whether the task is new."""

    def test_new(self) -> None:
        """Whether a task is new that the policy admits is found out by creating it alone."""
        self.assert_known(self.ask(BOB, request()), "")
        self.assertEqual((self.policy.asked, self.store.recalled), (["t1"], []))

    def test_known(self) -> None:
        """A known task is told how it stands, although the policy would refuse it now."""
        self.ask(BOB, request())
        self.done(self.bob.accept(KEY))
        self.policy.answer = QUOTA
        self.assert_known(self.ask(BOB, request()), "ACCEPTED")
        self.assert_refused(self.ask(BOB, request(description="else")), "id_conflict")
        self.assert_refused(self.ask(BOB, request("t2")), "quota")
        self.assertEqual([task.task_id for task in self.tasks(self.bob)], ["t1"])

    def test_known_and_admitted(self) -> None:
        """A known task is told how it stands when the policy would admit it again, and stays as it is."""
        self.ask(BOB, request())
        self.done(self.bob.accept(KEY))
        before = self.task(self.bob, KEY)
        self.advance(5)
        self.assert_known(self.ask(BOB, request()), "ACCEPTED")
        self.assert_refused(self.ask(BOB, request(description="else")), "id_conflict")
        self.assertEqual(self.tasks(self.bob), [before])

    def test_forgotten(self) -> None:
        """A task of which retention left a tombstone is answered from that, whatever the policy says now."""
        self.ask(BOB, request())
        self.forget()
        for answer in (None, QUOTA):
            self.policy.answer = answer
            self.assert_known(self.ask(BOB, request()), "CANCELLED")
            self.assert_refused(self.ask(BOB, request(description="else")), "id_conflict")
        self.assertEqual(self.tasks(self.bob), [])

    def test_later(self) -> None:
        """A pure policy may take its time all the same."""
        for task_id, verdict in (("t1", None), ("t2", QUOTA)):
            decision: Deferred[Refusal | None] = Deferred()
            self.policy.answer = decision
            peer = self.say(BOB, request(task_id))
            self.assertEqual(peer.frames, [])
            decision.callback(verdict)
            self.network.flush()
            self.assertEqual([answer.code for answer in peer.answers], ["quota" if verdict else ""])
        self.assertEqual([task.task_id for task in self.tasks(self.bob)], ["t1"])

    def test_twice_in_one_read(self) -> None:
        """The same task twice in one read creates one record, and the second is told that it is NEW."""
        peer = self.say(BOB, request(), request(), request("t2"), request())
        self.assertEqual(
            [(answer.task_id, answer.status, answer.current_status) for answer in peer.answers],
            [("t1", 200, ""), ("t1", 200, "NEW"), ("t2", 200, ""), ("t1", 200, "NEW")],
        )
        self.assertEqual(len(self.tasks(self.bob)), 2)

    def test_drained(self) -> None:
        """A node that is drained refuses what is new without asking, and answers for what is known."""
        self.ask(BOB, request())
        self.done(self.bob.drain())
        self.policy.asked.clear()
        self.assert_refused(self.ask(BOB, request("t2")), "not_accepting")
        self.assert_known(self.ask(BOB, request()), "NEW")
        self.assertEqual(self.policy.asked, [])

    def test_features(self) -> None:
        """What is announced with a new task, or with a known one, is learned; with a refused one it is not."""
        self.policy.answer = QUOTA
        self.ask(BOB, request(features=tuple(OURS)))
        self.assertEqual(self.done(self.store.peer_features()), {})
        self.policy.answer = None
        self.ask(BOB, request(features=tuple(OURS)))
        self.ask(BOB, request("t2", by=CAROL))
        self.ask(BOB, request("t2", by=CAROL, features=tuple(OURS)))
        self.assertEqual(self.done(self.store.peer_features()), {ALICE: OURS, CAROL: OURS})


class ImpurePolicyTests(AdmissionTestCase):
    """A policy that is asked about what is new, and about nothing else."""

    @override
    def make_policy(self) -> Asked:
        return Counting()

    def test_asked_once(self) -> None:
        """The policy is asked about what is new alone: neither about what is known nor about what was forgotten."""
        self.assert_known(self.ask(BOB, request()), "")
        self.assert_known(self.ask(BOB, request()), "NEW")
        self.forget()
        self.assert_known(self.ask(BOB, request()), "CANCELLED")
        self.assertEqual((self.policy.asked, len(self.store.recalled)), (["t1"], 3))

    def test_later(self) -> None:
        """A refusal that comes later is the answer, and leaves no record."""
        self.policy.answer = succeed(QUOTA)
        self.assert_refused(self.ask(BOB, request()), "quota")
        self.assertEqual(self.tasks(self.bob), [])


class FullDiskTests(AdmissionTestCase):
    """Nothing new can be written."""

    def fill(self) -> None:
        """Let no further record be created from now on."""
        self.advance(1)
        self.store.fault = StoreError("/var/secret is full")

    def assert_unstored(self, message: SubmitRequest) -> None:
        """The submission is to be tried again later, and the answer tells nothing of the disk."""
        answer = self.ask(BOB, message)
        self.assert_refused(answer, "storage")
        self.assertNotIn("secret", answer.message)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)

    def test_new(self) -> None:
        """What is new cannot be taken; once there is room it can."""
        self.fill()
        self.assert_unstored(request())
        self.assertEqual(self.tasks(self.bob), [])
        self.store.fault = None
        self.assert_known(self.ask(BOB, request()), "")

    def test_known(self) -> None:
        """What was taken before is still answered for, and a conflict with it is told."""
        self.ask(BOB, request())
        self.done(self.bob.accept(KEY))
        self.fill()
        self.assert_known(self.ask(BOB, request()), "ACCEPTED")
        self.assert_refused(self.ask(BOB, request(description="else")), "id_conflict")
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.ACCEPTED)

    def test_forgotten(self) -> None:
        """What retention has removed is still answered for."""
        self.ask(BOB, request())
        self.forget()
        self.fill()
        self.assert_known(self.ask(BOB, request()), "CANCELLED")
        self.assert_refused(self.ask(BOB, request(description="else")), "id_conflict")

    def test_uncertain(self) -> None:
        """A record that this very submission may have left, and a loss of power may take away, is no reason for 200."""
        self.store.fault, self.store.is_kept = StoreUncertain("nobody knows"), True
        peer = self.say(BOB, request())
        self.assertEqual(peer.answers, [])
        assert peer.lost is not None
        peer.lost.trap(ConnectionLost)  # a clean end could be taken for an answer
        self.assertEqual(len(self.tasks(self.bob)), 1)
