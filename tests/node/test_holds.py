"""Tasks of submitters who are not trusted any more: held, not begun, until trust returns or the limit is reached."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import EmptyQueue, IllegalTransition
from tasksubmit.interfaces import Execution, IExecutor, Peer
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.identity import BelieveAll
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.policy import AllOf, Allow, Deny, PeersOnly, QueueLimit
from tasksubmit.node.service import Node
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, Distrust, NodeTestCase, request

WEEK = timedelta(days=7)


@implementer(IExecutor)
class Patient:
    """An executor whose work ends when it is cancelled, and not before."""

    lease = Lease()

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []

    def execute(self, execution: Execution) -> Deferred[str]:
        """See `IExecutor.execute`."""
        self.begun.append(execution.task.task_id)
        return Deferred(lambda _: self.cancelled.append(execution.task.task_id))


def key_of(task_id: str, peer: Address = ALICE) -> TaskKey:
    """What Bob knows a task by."""
    return TaskKey(Side.RECEIVER, peer, task_id)


class HoldTestCase(NodeTestCase):
    """Bob has accepted tasks of Alice's and Carol's, and may trust Alice no more."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.trust = Distrust()
        self.store = MemoryTaskStore()
        self.bob = self.make_bob()

    def make_bob(self, **options: Any) -> Node:
        """Start Bob on the store."""
        return self.make_node(BOB, ALICE, CAROL, store=self.store, policy=self.trust, **options)

    def restart(self, **options: Any) -> None:
        """Stop Bob, and start him again."""
        self.done(self.bob.stopService())
        self.nodes.remove(self.bob)
        self.bob = self.make_bob(**options)
        self.network.flush()

    def fill(self, *task_ids: str) -> None:
        """Have tasks in the queue; those whose ids begin with c are Carol's."""
        for task_id in task_ids:
            peer = CAROL if task_id.startswith("c") else ALICE
            self.ask(BOB, request(task_id, by=peer))
            self.done(self.bob.accept(key_of(task_id, peer)))

    def distrust(self) -> None:
        """Trust Alice no more, and wait for the next look."""
        self.trust.excluded.add(ALICE)
        self.advance(1)

    def trust_again(self) -> None:
        """Trust Alice again, and wait for the next look."""
        self.trust.excluded.clear()
        self.advance(1)

    def queued(self) -> list[tuple[str, bool]]:
        """The ids of the tasks in the queue, and whether each is staged."""
        return [(task.task_id, task.staged_at is not None) for task in self.done(self.store.queue(2000))]

    def record(self, task_id: str) -> Task:
        """Bob's record of a task of Alice's."""
        return self.task(self.bob, key_of(task_id))


class HoldTests(HoldTestCase):
    """What becomes of tasks that wait."""

    def test_not_begun(self) -> None:
        """From the moment at which trust is gone no task is begun, not even before the next look; others' are."""
        self.fill("a1", "a2", "c1")
        self.trust.excluded.add(ALICE)
        self.assertEqual(self.done(self.bob.execute()).task_id, "c1")
        self.failed(self.bob.execute(), EmptyQueue)
        self.assertEqual([self.record(one).held_at for one in ("a1", "a2")], [self.bob.now()] * 2)

    def test_rejoins_in_order(self) -> None:
        """A held task leaves the queue, and rejoins it in the order of acceptance when trust returns."""
        self.fill("a1", "c1", "a2", "c2")
        self.assertEqual(self.queued(), [("a1", True), ("c1", False), ("a2", False), ("c2", False)])
        self.distrust()
        self.assertEqual(self.queued(), [("c1", True), ("c2", False)])
        self.fill("c3")
        self.trust_again()
        expected = [("a1", True), ("c1", False), ("a2", False), ("c2", False), ("c3", False)]
        self.assertEqual(self.queued(), expected)
        self.assertIsNone(self.record("a1").held_at)
        self.assertEqual([self.done(self.bob.execute()).task_id for _ in range(5)], ["a1", "c1", "a2", "c2", "c3"])

    def test_behind_what_waits(self) -> None:
        """A task that is accepted while others are held is behind them when they rejoin; also with fair share."""
        for is_fair in (False, True):
            self.restart(is_fair=is_fair)
            self.fill(f"a1{is_fair}")
            self.distrust()
            self.fill(f"c1{is_fair}")
            self.trust_again()
            self.assertEqual(
                [self.done(self.bob.execute()).task_id for _ in range(2)], [f"a1{is_fair}", f"c1{is_fair}"]
            )

    def test_no_staged_time(self) -> None:
        """Time in which a task is held is no staged time, and does not expire it."""
        self.fill("a1")
        self.distrust()
        self.advance(7200, step=600)
        self.assertEqual((self.record("a1").status, self.record("a1").staged_at), (TaskStatus.ACCEPTED, None))
        self.trust_again()
        self.advance(5)
        self.done(self.bob.execute())
        self.assertEqual(self.record("a1").time_staged_ms, 5000)

    def test_limit(self) -> None:
        """After the limit a held task is withdrawn, which costs nobody a point; the submitter hears it when trusted."""
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work", task_id="a1"))
        self.done(self.bob.accept(key_of("a1")))
        self.distrust()
        self.advance(WEEK.total_seconds() - 10, step=3600)
        self.assertIs(self.record("a1").status, TaskStatus.ACCEPTED)
        self.advance(20)
        ended = self.record("a1")
        self.assertEqual((ended.status, ended.outcome), (TaskStatus.CANCELLED, "withdrawn_by_receiver"))
        self.assertIn("not trusted", ended.justification)
        self.assertEqual(self.scores(self.bob), {})
        self.assertIs(self.task(alice, handle.key).status, TaskStatus.ACCEPTED)
        self.trust_again()
        self.advance(2)
        heard = self.task(alice, handle.key)
        self.assertEqual((heard.status, heard.outcome), (TaskStatus.CANCELLED, "withdrawn_by_receiver"))

    def test_limit_is_an_option(self) -> None:
        """The limit is the node's own."""
        self.restart(timeouts=Timeouts(hold_limit=timedelta(seconds=30)))
        self.fill("a1")
        self.distrust()
        self.advance(40)
        self.assertIs(self.record("a1").status, TaskStatus.CANCELLED)

    def test_its_own_deadline(self) -> None:
        """A held task that has a deadline is cancelled by it, as any that waits."""
        soon = self.bob.now() + timedelta(seconds=60)
        self.ask(BOB, request("a1", expires_at=soon.isoformat()))
        self.done(self.bob.accept(key_of("a1")))
        self.distrust()
        self.advance(70)
        self.assertEqual(self.record("a1").outcome, "deadline_passed")

    def test_commands(self) -> None:
        """A held task cannot be begun by name, which is refused with the reason; it can be declined."""
        self.fill("a1")
        self.distrust()
        error = self.failed(self.bob.execute(key_of("a1")), IllegalTransition)
        self.assertIn(f"{ALICE} is not trusted", str(error))
        declined = self.done(self.bob.decline(key_of("a1"), "never mind"))
        self.assertEqual((declined.status, declined.held_at), (TaskStatus.CANCELLED, None))

    def test_named_before_the_look(self) -> None:
        """A task that is named before the next look is refused with the same reason, and held."""
        self.fill("a1")
        self.trust.excluded.add(ALICE)
        error = self.failed(self.bob.execute(key_of("a1")), IllegalTransition)
        self.assertIn(f"{ALICE} is not trusted", str(error))
        self.assertIsNotNone(self.record("a1").held_at)

    def test_cancelled_by_submitter(self) -> None:
        """A submitter can withdraw a held task."""
        self.fill("a1")
        self.distrust()
        update = TaskStatusUpdate(
            "a1", "CANCELLED", "", ack=True, outcome="cancelled_by_submitter", from_addr=str(ALICE)
        )
        self.assertEqual(self.ask(BOB, update).current_status, "CANCELLED")

    def test_requeued(self) -> None:
        """A requeued task is held as well, for as long as others, and is begun again when trust returns."""
        self.fill("a1")
        begun = self.done(self.bob.execute())
        self.done(self.bob.put_back(begun.key))
        self.distrust()
        self.advance(7200, step=600)
        self.assertIs(self.record("a1").status, TaskStatus.EXECUTING)
        self.failed(self.bob.execute(), EmptyQueue)
        self.trust_again()
        self.advance(600)
        again = self.done(self.bob.execute())
        self.assertEqual((again.task_id, again.attempt), ("a1", 2))

    def test_requeued_too_long(self) -> None:
        """A requeued task that is held for too long is cancelled."""
        self.fill("a1")
        self.done(self.bob.put_back(self.done(self.bob.execute()).key))
        self.distrust()
        self.advance(WEEK.total_seconds() + 10, step=3600)
        self.assertEqual((self.record("a1").status, self.record("a1").held_at), (TaskStatus.CANCELLED, None))

    def test_restart(self) -> None:
        """Tasks are held after a restart without trust, before any of them is begun; and rejoin after one with it."""
        self.fill("a1", "a2")
        self.done(self.bob.stopService())
        self.trust.excluded.add(ALICE)
        executor = Patient()
        self.bob = self.make_bob(executor=executor)
        self.advance(10)
        self.assertEqual((executor.begun, self.queued(), self.bob.load.held), ([], [], 2))
        self.done(self.bob.stopService())
        self.trust.excluded.clear()
        self.bob = self.make_bob(executor=executor)
        self.advance(10)
        self.assertEqual((executor.begun, self.queued()), (["a1"], [("a2", True)]))

    def test_many(self) -> None:
        """However many tasks a peer has, they are all held at the next look, and rejoin at the next."""
        task_ids = [f"a{n}" for n in range(1100)]
        self.fill(*task_ids, "c1")
        self.distrust()
        self.assertEqual(self.queued(), [("c1", True)])
        self.assertEqual((self.bob.load.held, self.bob.load.queued), (1100, 1))
        self.trust_again()
        self.assertEqual([task_id for task_id, _ in self.queued()], [*task_ids, "c1"])
        self.assertEqual(self.bob.load.held, 0)

    def test_room_in_the_queue(self) -> None:
        """Held tasks take no room in a limited queue from others."""
        self.restart()
        limit = QueueLimit(2).with_load(self.bob.load)
        self.fill("a1", "a2")
        self.ask(BOB, request("c1", by=CAROL))  # which waits to be accepted
        peer, wanted = Peer(None, ""), request("c2", by=CAROL)
        self.assertIsNotNone(limit.admit(peer, wanted))
        self.distrust()
        self.assertIsNone(limit.admit(peer, wanted))

    def test_story(self) -> None:
        """The story of a held task says what it waits for, until when, and what happened."""
        self.fill("a1")
        self.distrust()
        story = self.done(self.bob.story(key_of("a1")))
        self.assertEqual(story.outlook.sentence, "is held, because its submitter is not trusted")
        self.assertEqual(story.outlook.until, story.task.held_at + WEEK if story.task.held_at else None)
        self.trust_again()
        names = [event.name for event in self.done(self.bob.story(key_of("a1"))).events]
        self.assertEqual([name for name in names if name in ("accept", "hold", "rejoin")], ["accept", "hold", "rejoin"])


class ExecutionTests(HoldTestCase):
    """What becomes of tasks that are being executed."""

    def test_left(self) -> None:
        """By default an execution goes on."""
        executor = Patient()
        self.restart(executor=executor)
        self.fill("a1")
        self.distrust()
        self.advance(10)
        self.assertEqual((executor.cancelled, self.record("a1").held_at), ([], None))

    def test_stopped(self) -> None:
        """By option it is ended, and the task held; it is begun again when trust returns."""
        executor = Patient()
        self.restart(executor=executor, stops_untrusted=True)
        self.fill("a1", "c1")
        self.distrust()
        self.assertEqual((executor.begun, executor.cancelled), (["a1", "c1"], ["a1"]))
        self.assertIsNotNone(self.record("a1").held_at)
        self.trust_again()
        self.done(self.bob.fail(key_of("c1", CAROL), "cannot"))
        self.advance(1)
        self.assertEqual((executor.begun, self.record("a1").attempt), (["a1", "c1", "a1"], 2))

    def test_stopped_outside(self) -> None:
        """An execution outside of the node is refused its progress from then on, but its results still count."""
        self.restart(stops_untrusted=True)
        self.fill("a1")
        begun = self.done(self.bob.execute())
        self.distrust()
        self.failed(self.bob.progress(begun.key, "half"), IllegalTransition)
        self.assertIs(self.done(self.bob.send_results(begun.key, "done")).status, TaskStatus.COMPLETED)


class DeliveryTests(HoldTestCase):
    """What is owed to a peer that is not trusted."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.make_node(ALICE, BOB)

    def executing(self) -> TaskKey:
        """Have Bob execute a task of Alice's; gives the key of her record."""
        handle = self.done(self.alice.submit(BOB, "work", task_id="a1"))
        self.done(self.bob.accept(key_of("a1")))
        self.done(self.bob.execute())
        self.advance(2)
        return handle.key

    def test_results(self) -> None:
        """Results are kept back, without an attempt, until trust returns, and then delivered soon."""
        key = self.executing()
        self.distrust()
        self.done(self.bob.send_results(key_of("a1"), "done"))
        self.advance(600, step=10)
        self.assertIs(self.task(self.alice, key).status, TaskStatus.EXECUTING)
        [results] = self.owed(self.bob, key_of("a1"))
        self.assertEqual(results.attempts, 0)
        self.trust_again()
        self.advance(1)
        self.assertIs(self.task(self.alice, key).status, TaskStatus.SUCCEEDED)

    def test_after_restart(self) -> None:
        """They are kept back after a restart as well."""
        key = self.executing()
        self.distrust()
        self.done(self.bob.send_results(key_of("a1"), "done"))
        self.restart()
        self.advance(600, step=10)
        self.assertIs(self.task(self.alice, key).status, TaskStatus.EXECUTING)
        self.trust_again()
        self.advance(1)
        self.assertIs(self.task(self.alice, key).status, TaskStatus.SUCCEEDED)

    def test_drain(self) -> None:
        """A drain does not wait for what is held."""
        self.executing()
        self.distrust()
        self.done(self.bob.send_results(key_of("a1"), "done"))
        drained = self.bob.drain(60.0)
        self.advance(1)
        self.assertEqual(self.successResultOf(drained).owed_to, 1)

    def test_own_submissions(self) -> None:
        """What the node itself submits to such a peer goes out: that peer may not submit, but may be asked."""
        self.distrust()
        handle = self.done(self.bob.submit(ALICE, "work", task_id="b1"))
        self.advance(1)
        self.assertIsNotNone(self.task(self.bob, handle.key).answered_at)


@define
class Proofs(BelieveAll):
    """An authenticator that demands proofs of some."""

    known: dict[Address, tuple[str, ...]] = field(factory=dict)

    @override
    def proofs(self, address: Address) -> Collection[str]:
        return self.known.get(address, ())

    @override
    def needs_proof(self, address: Address) -> bool:
        return address in self.known


class TrustTests(NodeTestCase):
    """Who is trusted."""

    def test_policies(self) -> None:
        """Whoever a policy admits nothing from is not; whatever else a policy decides by does not matter."""
        peers = StaticPeers({ALICE: self.network.client_endpoint(str(ALICE))})
        for policy, trusted in (
            (None, {ALICE}),
            (PeersOnly(peers), {ALICE}),
            (Allow([CAROL]), {CAROL}),
            (Deny([CAROL]), {ALICE}),
            (AllOf([PeersOnly(peers), QueueLimit(1), Deny([ALICE])]), set()),
            (AllOf([]), {ALICE, CAROL}),
            (QueueLimit(1), {ALICE, CAROL}),
        ):
            node = Node(BOB, MemoryTaskStore(), peers, clock=self.clock, policy=policy)
            self.assertEqual({one for one in (ALICE, CAROL) if node.is_trusted(one)}, trusted, policy)

    def test_keys(self) -> None:
        """Whoever has to prove who it is, and has no key that does, is not trusted."""
        authenticator = Proofs({ALICE: ("sha256:abc",), CAROL: ()})
        node = Node(
            BOB, MemoryTaskStore(), StaticPeers({}), clock=self.clock, policy=AllOf([]), authenticator=authenticator
        )
        self.assertEqual([node.is_trusted(one) for one in (ALICE, CAROL, BOB)], [True, False, True])
