"""Deliveries that nobody takes."""

from __future__ import annotations

from datetime import timedelta

from attrs import evolve
from typing_extensions import override

from tasksubmit.errors import IllegalTransition, TaskCancelled
from tasksubmit.lifecycle.change import DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.retention import Retention
from tests.node.helpers import ALICE, BOB, NodeTestCase, PairTestCase, SlowStore, refuse, request
from tests.node.test_outbox import answering

DAY = timedelta(days=1)


class ResultsTests(PairTestCase):
    """Bob has results for an Alice who is away."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.alice)
        self.alice = self.make_node(ALICE, BOB, store=SlowStore())
        self.handle, self.key = self.executing()
        self.stop(self.alice)
        self.done(self.bob.send_results(self.key, "done"))
        self.delivery = self.bob._delivery

    def test_given_up(self) -> None:
        """After seven days the record says that delivery was given up, and the attempts end."""
        self.advance(7 * 24 * 3600 - 3600, step=3600)
        self.assertIsNone(self.task(self.bob, self.key).delivery_given_up_at)
        self.advance(2 * 3600, step=3600)
        task = self.task(self.bob, self.key)
        self.assertIs(task.status, TaskStatus.COMPLETED)
        self.assertIsNotNone(task.delivery_given_up_at)
        [delivery] = self.owed(self.bob, self.key)
        self.assertIs(delivery.kind, DeliveryKind.RESULTS)
        self.assertGreater(delivery.attempts, 50)
        dials = self.network.dials[str(ALICE)]
        self.advance(3600, step=600)
        self.assertEqual(self.network.dials[str(ALICE)], dials)
        self.assertEqual(self.successResultOf(self.bob.store.owed_peers()), [])

    def test_retry(self) -> None:
        """What was given up can be tried again, and the task ends as if nothing had been."""
        self.failed(self.bob.retry(self.key), IllegalTransition)
        self.advance(8 * 24 * 3600, step=3600)
        self.alice.startService()
        self.done(self.bob.retry(self.key))
        self.assertEqual(self.statuses(self.handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        self.assertIsNone(self.task(self.bob, self.key).delivery_given_up_at)
        self.assertEqual(self.scores(self.alice), self.scores(self.bob))
        self.assert_idle(self.alice, self.bob)

    def test_retry_ages_again(self) -> None:
        """What is tried again has its whole time again, and is not over."""
        self.advance(8 * 24 * 3600, step=3600)
        self.assertIsNotNone(self.task(self.bob, self.key).ended_at)
        self.assertIsNone(self.done(self.bob.retry(self.key)).ended_at)
        self.advance(6 * 24 * 3600, step=3600)
        self.assertIsNone(self.task(self.bob, self.key).delivery_given_up_at)
        self.advance(2 * 24 * 3600, step=3600)
        self.assertIsNotNone(self.task(self.bob, self.key).delivery_given_up_at)

    def test_story(self) -> None:
        """The story of the task has the failures, counted, the giving up, and the retry."""
        self.advance(8 * 24 * 3600, step=3600)
        self.done(self.bob.retry(self.key))
        story = self.successResultOf(self.bob.store.events_of(self.task(self.bob, self.key)))
        names = [event.name for event in story]
        self.assertEqual(names[:2], ["accept", "delivered"])
        self.assertEqual(names[-4:-1], ["delivery_failed", "delivery_given_up", "retried"])
        failed = story[-4]
        self.assertGreater(failed.times, 100)
        self.assertIn("results: the peer cannot be reached", failed.detail)

    def test_kept_while_owed(self) -> None:
        """Results that are still tried are not removed, however short the retention; given up they go."""
        self.stop(self.bob)
        bob = self.make_node(BOB, ALICE, store=SlowStore(), retention=Retention(timedelta(seconds=1)))
        key = TaskKey(Side.RECEIVER, ALICE, "t9")
        self.ask(BOB, request("t9"))
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.done(bob.send_results(key, "done"))
        self.advance(6 * 24 * 3600, step=3600)
        self.task(bob, key)
        self.advance(3 * 24 * 3600, step=3600)
        self.assertEqual(self.tasks(bob), [])
        self.assertEqual(self.files(bob), [])

    def test_after_a_long_stop(self) -> None:
        """A node that was stopped for longer than that tries everything first."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, store=SlowStore())
        self.ask(BOB, request("t9"))
        key = TaskKey(Side.RECEIVER, ALICE, "t9")
        self.done(self.bob.accept(key))
        self.stop(self.bob)
        self.clock.advance(8 * 24 * 3600)
        self.bob.startService()
        self.advance(120)
        self.assertIsNone(self.task(self.bob, key).delivery_given_up_at)
        self.listen(ALICE, answering())
        self.advance(120)
        self.assertEqual(self.owed(self.bob, key), [])


class RefusedTests(NodeTestCase):
    """A submitter that refuses results for good."""

    def test_said(self) -> None:
        """The receiver's record says so, and the results are tried again on demand, but not when the submitter asks."""
        bob = self.make_node(BOB, ALICE)
        self.ask(BOB, request())
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        alice = self.listen(ALICE, refuse("invalid"))
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.done(bob.send_results(key, "done"))
        self.advance(2)
        task = self.task(bob, key)
        self.assertEqual((task.status, task.code), (TaskStatus.COMPLETED, "invalid"))
        self.assertIsNotNone(task.delivery_given_up_at)
        self.assertEqual(self.successResultOf(bob.store.owed_peers()), [])
        retried = self.done(bob.retry(key))
        self.assertEqual((retried.code, retried.error), ("", ""))
        frames = [frame for peer in alice.peers for frame in peer.frames]
        self.assertIsNotNone(self.task(bob, key).delivery_given_up_at)
        self.advance(120)
        self.ask(BOB, evolve(request(), query=True))
        self.network.flush()
        self.assertEqual([frame for peer in alice.peers for frame in peer.frames], frames)


class CancellationTests(NodeTestCase):
    """A submitter that cannot reach the receiver."""

    def test_holds_without_an_answer(self) -> None:
        """A cancellation that nobody answered for seven days holds; whoever waits is told."""
        alice = self.make_node(ALICE, BOB, store=SlowStore())
        bob = self.listen(BOB, answering())
        handle = self.done(alice.submit(BOB, "work"))
        result = handle.result()
        bob.on_frame = None
        self.network.cut_all()
        self.done(handle.cancel("never mind"))
        self.advance(6 * 24 * 3600, step=3600)
        self.assertIs(self.task(alice, handle.key).status, TaskStatus.NEW)
        self.advance(24 * 3600, step=3600)
        self.advance(600, step=10)
        task = self.task(alice, handle.key)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "cancelled_by_submitter"))
        self.assertIsNotNone(task.delivery_given_up_at)
        self.failed(result, TaskCancelled)

    def test_one_does_not_hold_up_the_next(self) -> None:
        """What was given up is not in the way of what is owed later for the same task."""
        timeouts = Timeouts(queue_head_timeout=10 * DAY)
        bob = self.make_node(BOB, ALICE, delivery_age_limit=timedelta(minutes=5), timeouts=timeouts)
        self.ask(BOB, request())
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.done(bob.accept(key))
        self.advance(600)
        self.assertIsNotNone(self.task(bob, key).delivery_given_up_at)
        alice = self.listen(ALICE, answering())
        self.done(bob.execute(key))
        self.assertIn(b"EXECUTING", alice.peers[-1].frames[-1].payload)

    def test_lets_the_next_go(self) -> None:
        """What waited behind what was given up is tried in its place."""
        bob = self.make_node(BOB, ALICE, delivery_age_limit=timedelta(minutes=5))
        self.ask(BOB, request())
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.done(bob.accept(key))
        self.advance(200)
        self.done(bob.execute(key))
        self.advance(120)
        alice = self.listen(ALICE, answering())
        self.advance(70)
        self.assertIsNotNone(self.task(bob, key).delivery_given_up_at)
        [frame] = [frame for peer in alice.peers for frame in peer.frames]
        self.assertIn(b"EXECUTING", frame.payload)

    def test_not_while_under_way(self) -> None:
        """What is too old while it is under way is given up once that attempt has failed, too."""
        bob = self.make_node(BOB, ALICE, delivery_age_limit=timedelta(seconds=10))
        self.ask(BOB, request())
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.listen(ALICE, lambda peer, frame: None)
        self.done(bob.accept(key))
        self.advance(25)
        self.assertIsNone(self.task(bob, key).delivery_given_up_at)
        self.advance(10)
        self.assertIsNotNone(self.task(bob, key).delivery_given_up_at)
