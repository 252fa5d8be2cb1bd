"""Which record a message is about: by the sender's address, by the words, and by what is left of a record."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import TaskConflict
from tasksubmit.interfaces import Peer
from tasksubmit.lifecycle.table import RECEIVER_OUTCOMES, SUBMITTER_OUTCOMES, Side, TaskStatus
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.routing import TaskOrder, sides_meant
from tasksubmit.node.service import Node
from tasksubmit.testing.executors import FakeExecutor
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.wire.messages import SubmitRequest, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, deployed, request, results

KEY = TaskKey(Side.RECEIVER, ALICE, "t1")


class SidesTests(SynchronousTestCase):
    """The side that an update is about."""

    def test_words(self) -> None:
        """A receiver's status, and either side's outcome of CANCELLED, tell whose record is meant."""
        for status in TaskStatus:
            if status is not TaskStatus.CANCELLED:
                for outcome in ("", "failed", "cancelled_by_submitter", "made_up"):
                    update = TaskStatusUpdate("t1", status.value, "", outcome=outcome)
                    self.assertEqual(sides_meant(update), (Side.SUBMITTER,))
        for outcome in RECEIVER_OUTCOMES:
            self.assertEqual(sides_meant(TaskStatusUpdate("t1", "CANCELLED", "", outcome=outcome)), (Side.SUBMITTER,))
        for outcome in SUBMITTER_OUTCOMES:
            self.assertEqual(sides_meant(TaskStatusUpdate("t1", "CANCELLED", "", outcome=outcome)), (Side.RECEIVER,))
        for outcome in ("", "made_up"):
            update = TaskStatusUpdate("t1", "CANCELLED", "", outcome=outcome)
            self.assertEqual(sides_meant(update), (Side.RECEIVER, Side.SUBMITTER))


class SameIdTests(NodeTestCase):
    """One task id, several peers, and nobody authenticated."""

    def test_two_receivers(self) -> None:
        """One id submitted to two nodes is done by both, and both results arrive where they belong."""
        alice = self.make_node(ALICE, BOB, CAROL)
        for address in (BOB, CAROL):
            self.make_node(address, ALICE, executor=FakeExecutor(str(address)), acceptance=AcceptAll())
            self.done(alice.submit(address, "hello", task_id=f"hello-{address.node}"))
        self.advance(5)
        handles = [self.done(alice.submit(address, "work", task_id="job")) for address in (BOB, CAROL)]
        self.advance(5)
        for handle, address in zip(handles, (BOB, CAROL), strict=True):
            self.assertIs(self.task(alice, handle.key).status, TaskStatus.SUCCEEDED)
            self.assertEqual(self.done(handle.result()).result_text, str(address))

    def test_second_receiver_without_ack(self) -> None:
        """An id that is open with another peer is refused while one of the two does not say who it is."""
        alice = self.make_node(ALICE, BOB, CAROL)
        self.listen(BOB, deployed)
        first = self.done(alice.submit(BOB, "work", task_id="job"))
        self.assertIn("use another id", str(self.failed(alice.submit(CAROL, "work", task_id="job"), TaskConflict)))
        self.done(alice.submit(CAROL, "work"))
        self.done(alice.cancel(first.key))
        self.done(alice.submit(CAROL, "work", task_id="job"))

    def test_two_receivers_at_the_same_time(self) -> None:
        """The second of two submissions of one id is refused, although the first is still being recorded."""
        store = MemoryTaskStore()
        alice = self.make_node(ALICE, BOB, CAROL, store=store)
        store.hold_commits()
        first, second = (alice.submit(address, "work", task_id="job") for address in (BOB, CAROL))
        store.release_commits()
        self.done(first)
        self.failed(second, TaskConflict)

    def test_two_submitters(self) -> None:
        """A cancellation withdraws the task of its sender, and not the other's with the same id."""
        bob = self.make_node(BOB, ALICE, CAROL)
        for by in (ALICE, CAROL):
            self.ask(BOB, request("job", by=by))
        update = TaskStatusUpdate("job", "CANCELLED", "", ack=True, outcome="cancelled_by_submitter")
        self.assertEqual(self.ask(BOB, update).code, "unknown_task")  # nobody knows who says so
        answer = self.ask(BOB, evolve(update, from_addr=str(CAROL)))
        self.assertEqual((answer.status, answer.current_status), (200, "CANCELLED"))
        statuses = {key: self.task(bob, TaskKey(Side.RECEIVER, key, "job")).status for key in (ALICE, CAROL)}
        self.assertEqual(statuses, {ALICE: TaskStatus.NEW, CAROL: TaskStatus.CANCELLED})

    def test_refused_results_do_not_keep_a_task_open(self) -> None:
        """A cancellation that is answered COMPLETED by a peer whose results are refused has an end."""
        alice = self.make_node(ALICE, BOB, delivery_age_limit=timedelta(hours=2))
        bob = self.make_node(BOB, ALICE)
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.network.refuse(str(ALICE))
        self.network.cut_all()
        self.done(bob.send_results(key, "done"))
        self.done(alice.cancel(handle.key))
        self.advance(2.5 * 3600, step=10)
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))


class BothDirectionsTests(NodeTestCase):
    """One id, submitted by each of two nodes to the other."""

    def both(self) -> tuple[Node, Node, TaskKey, TaskKey]:
        """Two nodes that have given each other a task with the same id; and the keys of Alice's records."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        self.done(alice.submit(BOB, "for Bob", task_id="x"))
        self.done(bob.submit(ALICE, "for Alice", task_id="x"))
        return alice, bob, TaskKey(Side.SUBMITTER, BOB, "x"), TaskKey(Side.RECEIVER, BOB, "x")

    def test_each_end_is_its_own(self) -> None:
        """Whatever ends one of the two leaves the other as it is."""
        for submitter_ends in (True, False):
            alice, bob, submitted, received = self.both()
            if submitter_ends:
                self.done(alice.cancel(submitted))
            else:
                self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "x")))
                self.done(bob.execute(TaskKey(Side.RECEIVER, ALICE, "x")))
                self.done(bob.fail(TaskKey(Side.RECEIVER, ALICE, "x"), "broken"))
            self.advance(3)
            expected = "cancelled_by_submitter" if submitter_ends else "failed"
            self.assertEqual(self.task(alice, submitted).outcome, expected)
            self.assertEqual(self.task(bob, TaskKey(Side.RECEIVER, ALICE, "x")).outcome, expected)
            self.assertIs(self.task(alice, received).status, TaskStatus.NEW)
            self.assertIs(self.task(bob, TaskKey(Side.SUBMITTER, ALICE, "x")).status, TaskStatus.NEW)
            self.tearDown()
            self.doCleanups()
            self.setUp()

    def test_forgotten_submission(self) -> None:
        """When retention has removed one of the two, its tombstone answers for it, and the other is not touched."""
        alice, bob, submitted, received = self.both()
        key = TaskKey(Side.RECEIVER, ALICE, "x")
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.done(bob.send_results(key, "done"))
        self.advance(3)
        self.assertTrue(self.done(alice.store.forget(self.task(alice, submitted), alice._records.now())))
        answer = self.ask(ALICE, results("x", ack=True, from_addr=str(BOB)))
        self.assertEqual((answer.status, answer.current_status, answer.reward), (200, "SUCCEEDED", 1))
        late = TaskStatusUpdate("x", "EXECUTING", "", ack=True, from_addr=str(BOB))
        self.assertEqual(self.ask(ALICE, late).current_status, "SUCCEEDED")
        self.assertIs(self.task(alice, received).status, TaskStatus.NEW)

    def test_word_of_the_other_side(self) -> None:
        """A receiver's word about a task that was only received here is about none."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request("x"))
        update = TaskStatusUpdate("x", "CANCELLED", "", ack=True, outcome="failed", from_addr=str(ALICE))
        self.assertEqual(self.ask(BOB, update).code, "unknown_task")
        self.assertIs(self.task(bob, TaskKey(Side.RECEIVER, ALICE, "x")).status, TaskStatus.NEW)


class OrderTests(SynchronousTestCase):
    """Messages about one task."""

    def test_one_after_another(self) -> None:
        """Those about one task wait for each other, those about others do not, and a failure holds up none."""
        order, started, waiting = TaskOrder(), list[str](), dict[str, Deferred[str]]()

        def run(task: str, name: str) -> Deferred[str]:
            def handle() -> Deferred[str]:
                started.append(name)
                waiting[name] = Deferred()
                return waiting[name]

            return order.run(task, handle)

        first, second, third, other = run("a", "1"), run("a", "2"), run("a", "3"), run("b", "4")
        self.assertEqual(started, ["1", "4"])
        waiting["1"].errback(ZeroDivisionError())
        self.failureResultOf(first, ZeroDivisionError)
        self.assertEqual(started, ["1", "4", "2"])
        waiting["2"].callback("second")
        waiting["3"].callback("third")
        waiting["4"].callback("other")
        self.assertEqual([self.successResultOf(one) for one in (second, third, other)], ["second", "third", "other"])
        self.assertEqual(order._queues, {})

    def test_handler_raises(self) -> None:
        """A handler that raises fails its own message, and holds up none behind it."""
        order = TaskOrder()

        def handle() -> Deferred[str]:
            raise ZeroDivisionError

        self.failureResultOf(order.run("a", handle), ZeroDivisionError)
        self.assertEqual(self.successResultOf(order.run("a", lambda: succeed("second"))), "second")
        self.assertEqual(order._queues, {})

    def test_thousands(self) -> None:
        """Thousands of messages about one task wait for the first, and each is handled after it."""
        order, first = TaskOrder(), Deferred[int]()
        handled = [order.run("a", lambda: first)]
        handled += [order.run("a", partial(succeed, n)) for n in range(1, 5000)]
        first.callback(0)
        self.assertEqual([self.successResultOf(one) for one in handled], list(range(5000)))
        self.assertEqual(order._queues, {})


class HeldUpTests(NodeTestCase):
    """A message that cannot be handled holds up no other."""

    def test_after_one_that_fails_at_once(self) -> None:
        """A submission that cannot be recorded is refused, and the next message about the task is answered."""
        self.make_node(BOB, ALICE)
        bad = request(features=tuple(OURS), expires_at="0001-01-01T00:00:00+23:59")
        for _ in range(2):
            self.assertEqual(self.ask(BOB, bad).status, 400)
        self.assertEqual(self.ask(BOB, request(features=tuple(OURS))).status, 200)

    def test_many_that_fail_at_once(self) -> None:
        """Hundreds of messages that wait for one that takes long are all answered, however each of them ends."""
        asked: list[Deferred[None]] = []

        class Slow:
            def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[None]:
                asked.append(Deferred())
                return asked[-1]

        self.make_node(BOB, ALICE, policy=Slow())
        first = self.say(BOB, request(features=tuple(OURS)))
        others = [self.say(BOB, *[evolve(request(features=tuple(OURS)), to_addr=str(CAROL))] * 15) for _ in range(40)]
        asked[0].callback(None)
        self.network.flush()
        self.assertEqual([answer.status for answer in first.answers], [200])
        self.assertEqual([len(peer.answers) for peer in others], [15] * 40)

    def test_after_a_stop(self) -> None:
        """A policy that never answers holds up the messages about the task until the node is stopped, not after."""
        answers: list[Deferred[None]] = [Deferred(), succeed(None)]

        class Stuck:
            def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[None]:
                return answers.pop(0)

        bob = self.make_node(BOB, ALICE, policy=Stuck())
        waiting = self.say(BOB, request(features=tuple(OURS)))
        stopped = bob.stopService()
        self.advance(60)
        self.successResultOf(stopped)
        self.assertEqual(waiting.answers, [])
        bob.startService()
        self.assertEqual(self.ask(BOB, request(features=tuple(OURS))).status, 200)


class MeantTests(NodeTestCase):
    """The record that a message is about."""

    def test_cancelled_of_a_received_task_that_was_removed(self) -> None:
        """A CANCELLED without an outcome is about the received task, of which a tombstone is left, and no other."""
        alice, bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        received = self.done(alice.submit(BOB, "work", task_id="t1"))
        self.done(bob.accept(KEY))
        self.done(received.cancel())
        self.assertTrue(self.done(bob.store.forget(self.task(bob, KEY), bob._records.now())))
        submitted = self.done(bob.submit(ALICE, "other work", task_id="t1"))
        answer = self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", "", ack=True, from_addr=str(ALICE)))
        self.assertEqual(answer.current_status, "CANCELLED")
        self.assertIs(self.task(bob, submitted.key).status, TaskStatus.NEW)

    def test_id_used_again_with_another_peer(self) -> None:
        """Of two tasks with one id, a message without a sender address is about the one that is still open."""
        alice = self.make_node(ALICE, BOB, CAROL)
        for name in (BOB, CAROL):
            self.listen(name, deployed)
        first = self.done(alice.submit(BOB, "work", task_id="job"))
        self.assertEqual(self.ask(ALICE, results("job", ack=True)).status, 200)
        self.assertIs(self.task(alice, first.key).status, TaskStatus.COMPLETED)
        second = self.done(alice.submit(CAROL, "work", task_id="job"))
        self.assertEqual(self.ask(ALICE, results("job", "other", ack=True)).status, 200)
        self.assertIs(self.task(alice, second.key).status, TaskStatus.COMPLETED)
