"""What quotas are measured by, in a node that lives: it always is what the store has."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import IllegalTransition, StoreError
from tasksubmit.interfaces import Peer, PeerLoad
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.policy import AllOf, PeerQuota, QueueLimit, RateLimit
from tasksubmit.node.service import Node
from tasksubmit.testing import Agents, MemoryTaskStore
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, NodeTestCase, SlowStore, request
from tests.tiers import examples


class LoadTests(SynchronousTestCase):
    """Whatever happens to tasks, the load is what the store counts."""

    @settings(max_examples=examples(40), deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["submit", "accept", "decline", "withdraw", "execute", "done", "wait", "restart"]),
                st.sampled_from([ALICE, CAROL]),
                st.integers(0, 3),
                st.sampled_from(["work", "Wörter", ""]),
            ),
            max_size=30,
        )
    )
    def test_any_life(self, steps: list[tuple[str, Address, int, str]]) -> None:
        """After any steps, refused ones among them, and after a restart."""
        with Agents() as agents:
            bob = agents.node(address=BOB, peers=[ALICE, CAROL])
            for step in steps:
                self.take(agents, bob, *step)
                self.assert_counted(agents.done(bob.store.load()), bob)

    def assert_counted(self, found: list[PeerLoad], bob: Node) -> None:
        """The load of a node is what its store has, for each peer and in all."""
        for load in found:
            known = bob.load.of(load.address)
            self.assertEqual(
                (known.open, known.records, known.stored_bytes), (load.open, load.records, load.stored_bytes)
            )
        self.assertEqual(bob.load.queued, sum(load.queued for load in found))
        self.assertEqual(bob.load.undecided, sum(load.new for load in found))
        if not found:
            self.assertEqual([load for load in bob.load.peers if load.records or load.stored_bytes], [])

    def take(self, agents: Agents, bob: Node, step: str, peer: Address, number: int, text: str) -> None:
        """One step of a life."""
        task_id = f"t{number}"
        key = TaskKey(Side.RECEIVER, peer, task_id)
        calls: dict[str, Any] = {
            "submit": lambda: bob.task_submitted(
                Peer(peer, "a test"), SubmitRequest(task_id, text, str(peer), str(BOB)), lambda _: None
            ),
            "withdraw": lambda: bob.status_updated(Peer(peer, "a test"), TaskStatusUpdate(task_id, "CANCELLED", "")),
            "accept": lambda: bob.accept(key),
            "decline": lambda: bob.decline(key, "no"),
            "execute": lambda: bob.execute(key),
            "done": lambda: bob.send_results(key, "done"),
        }
        if step == "wait":
            agents.advance(61)
        elif step == "restart":
            agents.restart(bob)
        else:
            outcome: list[Any] = []
            calls[step]().addBoth(outcome.append)
            agents.flush()


class LimitTests(NodeTestCase):
    """Limits in a node."""

    def make_bob(self, **options: Any) -> Node:
        """Bob with quotas: two open tasks of a peer, two in the queue."""
        policy = AllOf([PeerQuota(2, 1000), QueueLimit(2)])
        return self.make_node(BOB, ALICE, CAROL, policy=policy, **options)

    def submit(self, task_id: str, by: Address = ALICE) -> SubmitResponse:
        """Submit a task to Bob."""
        return self.ask(BOB, request(task_id, by=by))

    def test_quota(self) -> None:
        """A peer at its quota is refused until something has ended; others are not, nor is what is known."""
        bob = self.make_bob()
        self.assertEqual([self.submit(f"t{n}").code for n in range(3)], ["", "", "quota"])
        self.assertEqual(self.submit("c", CAROL).status, 200)
        self.assertEqual(self.submit("t0").status, 200)
        self.done(bob.decline(TaskKey(Side.RECEIVER, ALICE, "t0"), "no"))
        self.assertEqual([self.submit(f"t{n}").code for n in (3, 4)], ["", "quota"])

    def test_queue(self) -> None:
        """While the queue is full a peer with open tasks is refused, and one without is not."""
        bob = self.make_bob()
        for task_id in ("t1", "t2"):
            self.submit(task_id)
            self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, task_id)))
        self.assertEqual([self.submit(task_id, CAROL).code for task_id in ("c1", "c2")], ["", "quota"])
        self.done(bob.execute())
        self.assertEqual(self.submit("c2", CAROL).code, "")

    def test_after_a_restart(self) -> None:
        """What was there before a start counts."""
        store = SlowStore()
        bob = self.make_bob(store=store)
        self.submit("t1")
        self.submit("t2")
        self.stop(bob)
        self.make_bob(store=store)
        self.assertEqual(self.submit("t3").code, "quota")

    def test_same_node(self) -> None:
        """A node that is started again counts anew."""
        bob = self.make_bob(store=SlowStore())
        for task_id in ("t1", "t2"):
            self.submit(task_id)
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t1")))
        self.stop(bob)
        bob.startService()
        self.network.flush()
        self.assertEqual(bob.load.queued, 1)
        self.assertEqual(bob.load.of(ALICE), PeerLoad(ALICE, new=1, queued=1, open=2, records=2, stored_bytes=8))

    def test_own_tasks(self) -> None:
        """What the node itself has submitted, and others have in their queues, is no load of its own."""
        bob, alice = self.make_bob(), self.make_node(ALICE, BOB)
        self.done(bob.submit(ALICE, "work", task_id="t1"))
        self.done(alice.accept(TaskKey(Side.RECEIVER, BOB, "t1")))
        self.advance(2)
        self.assertEqual((bob.load.queued, alice.load.queued), (0, 1))
        self.assertEqual(bob.load.of(ALICE), PeerLoad(ALICE))

    def test_not_written(self) -> None:
        """What could not be written does not count, and neither does one that was sent twice at once."""
        store = MemoryTaskStore()
        bob = self.make_bob(store=store)
        create = store.create
        store.create = lambda task, owed: fail(StoreError("full"))  # type: ignore[method-assign]
        for number in range(5):
            self.assertEqual(self.submit(f"t{number}").code, "storage")
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 5)
        store.create = create  # type: ignore[method-assign]
        peer = self.say(BOB, *[request("same") for _ in range(5)])
        self.assertEqual([answer.status for answer in peer.answers], [200] * 5)
        self.assertEqual((bob.load.of(ALICE).records, bob.load.of(ALICE).stored_bytes), (1, 4))

    def test_rate(self) -> None:
        """A peer that submits too fast is told to wait; to repeat what is known costs it nothing."""
        self.make_node(BOB, ALICE, CAROL, policy=AllOf([RateLimit(self.clock, 1, 3)]))
        self.assertEqual([self.submit(f"t{n}").code for n in (0, 1, 1, 1, 2, 3)], ["", "", "", "", "", "rate_limited"])
        self.assertEqual(self.submit("t3").retry_after_s, 1)
        self.assertEqual(self.submit("c", CAROL).code, "")
        self.advance(0.5)
        self.assertEqual(self.submit("t3").code, "rate_limited")
        self.advance(0.5)
        self.assertEqual([self.submit(f"t{n}").code for n in (3, 4)], ["", "rate_limited"])


class SwitchTests(NodeTestCase):
    """``Node.set_enabled``."""

    def test_disabled(self) -> None:
        """A node that is disabled takes nothing new, answers for what it has, and goes on with it."""
        store = SlowStore()
        bob = self.make_node(BOB, ALICE, store=store)
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.ask(BOB, request("t1"))
        self.done(bob.set_enabled(False))
        refused = self.ask(BOB, request("t2"))
        self.assertEqual((refused.code, refused.retry_after_s), ("not_accepting", 60))
        self.assertEqual(self.ask(BOB, request("t1")).current_status, "NEW")
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.stop(bob)
        bob = self.make_node(BOB, ALICE, store=store)
        self.assertFalse(bob.is_enabled)
        self.assertEqual(self.ask(BOB, request("t2")).code, "not_accepting")
        self.done(bob.set_enabled(True))
        self.assertEqual(self.ask(BOB, request("t2")).code, "")
        self.stop(bob)
        self.assertTrue(self.make_node(BOB, ALICE, store=store).is_enabled)

    def ahead_of_honest(self, *, is_fair: bool) -> int:
        """Have Alice submit all that her quota allows, then Carol a task; count those that are executed before it."""
        bob = self.make_node(BOB, ALICE, CAROL, is_fair=is_fair, policy=PeerQuota(tasks=20))
        for number in range(30):
            answer = self.ask(BOB, request(f"a{number}"))
            self.assertEqual(answer.code, "" if number < 20 else "quota")
            if not answer.code:
                self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, f"a{number}")))
        self.ask(BOB, request("c", by=CAROL))
        self.done(bob.accept(TaskKey(Side.RECEIVER, CAROL, "c")))
        executed = [self.done(bob.execute()).peer for _ in range(21)]
        self.stop(bob)
        return executed.index(CAROL)

    def test_noise(self) -> None:
        """A task waits for all open tasks of a noisy peer, which its quota limits; with fair share for one turn of it.

        The head of the queue comes first in both.
        """
        self.assertEqual(self.ahead_of_honest(is_fair=False), 20)
        self.assertEqual(self.ahead_of_honest(is_fair=True), 2)

    def test_turns(self) -> None:
        """With fair share the submitters take turns in the queue."""
        bob = self.make_node(BOB, ALICE, CAROL, is_fair=True)
        for task_id, by in (("a1", ALICE), ("a2", ALICE), ("a3", ALICE), ("c1", CAROL)):
            self.ask(BOB, request(task_id, by=by))
            self.done(bob.accept(TaskKey(Side.RECEIVER, by, task_id)))
        self.assertEqual([self.done(bob.execute()).task_id for _ in range(4)], ["a1", "a2", "c1", "a3"])
        self.failed(bob.execute(TaskKey(Side.RECEIVER, ALICE, "a1")), IllegalTransition)
