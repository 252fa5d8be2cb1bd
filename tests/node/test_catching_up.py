"""A submitter that missed what it was told: it asks by submitting again."""

from __future__ import annotations

from datetime import timedelta

from typing_extensions import override

from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.wire.messages import SubmitRequest
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, SlowStore, deployed, refuse, request
from tests.node.test_outbox import OutboxTestCase, answering

HOUR = 3600


class CatchingUpTests(NodeTestCase):
    """Alice's updates from Bob are lost, or were given up while she was away."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.make_node(ALICE, BOB, store=SlowStore())
        self.bob = self.make_node(BOB, ALICE, store=SlowStore(), delivery_age_limit=timedelta(minutes=5))
        self.handle = self.done(self.alice.submit(BOB, "work"))
        self.key = TaskKey(Side.RECEIVER, ALICE, self.handle.task_id)

    def submitted(self) -> Task:
        return self.task(self.alice, self.handle.key)

    def test_after_a_restart(self) -> None:
        """Away for longer than Bob cares, she asks as soon as she is back, and is given everything."""
        self.stop(self.alice)
        self.done(self.bob.accept(self.key))
        self.done(self.bob.execute(self.key))
        self.done(self.bob.send_results(self.key, "done"))
        self.advance(900)
        self.assertIsNotNone(self.task(self.bob, self.key).delivery_given_up_at)
        self.alice.startService()
        self.advance(3)
        self.assertEqual(self.done(self.handle.result()).result_text, "done")
        self.assertIs(self.submitted().status, TaskStatus.SUCCEEDED)
        self.assertIs(self.task(self.bob, self.key).status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.scores(self.alice), self.scores(self.bob))
        self.assert_idle(self.alice, self.bob)

    def test_asked_twice_at_once(self) -> None:
        """Two questions at the same time, about what was given up, are both answered."""
        self.stop(self.alice)
        self.done(self.bob.accept(self.key))
        self.advance(900)
        again = request(self.handle.task_id, "work", features=tuple(OURS))
        peer = self.say(BOB, again, again)
        self.assertEqual([answer.status for answer in peer.answers], [200, 200])

    def test_nobody_there(self) -> None:
        """To a receiver that is away one question is owed, however long that lasts; it is asked for once an hour."""
        self.done(self.bob.accept(self.key))
        self.stop(self.bob)
        self.advance(5 * HOUR, step=600)
        self.assertEqual(len(self.owed(self.alice, self.handle.key)), 1)
        story = self.done(self.alice.story(self.handle.key)).events
        self.assertLessEqual(sum(event.times for event in story if event.name == "ask_again"), 5)


class SilenceTests(OutboxTestCase):
    """A Bob who says nothing of himself."""

    def questions(self) -> int:
        """How often the task was submitted, again or for the first time."""
        return sum(frame.type == SubmitRequest.frame_type for peer in self.bob.peers for frame in peer.frames)

    def test_asked(self) -> None:
        """Alice hears nothing for an hour, asks, and believes what she is told."""
        self.hear("ACCEPTED")
        self.script = answering("EXPIRED")
        self.advance(HOUR - 60, step=60)
        self.assertEqual(self.questions(), 1)
        self.advance(120)
        self.assertEqual(self.questions(), 2)
        self.assertIs(self.record.status, TaskStatus.EXPIRED)

    def test_cancelled_too_late(self) -> None:
        """She goes on asking about a task whose cancellation came too late."""
        self.hear("EXECUTING")
        self.script = answering("COMPLETED")
        self.done(self.handle.cancel("never mind"))
        self.assertIs(self.record.status, TaskStatus.EXECUTING)
        self.advance(2 * HOUR + 300, step=60)
        self.assertEqual(self.questions(), 1 + 2)
        self.receive()
        self.assertIs(self.record.status, TaskStatus.COMPLETED)

    def test_heard(self) -> None:
        """Whoever says something is not asked for the next hour."""
        self.hear("ACCEPTED")
        self.advance(HOUR - 60, step=60)
        self.hear("EXECUTING", "going on")
        self.advance(HOUR - 60, step=60)
        self.assertEqual(self.questions(), 1)

    def test_every_hour(self) -> None:
        """While nothing changes she asks once an hour."""
        self.hear("ACCEPTED")
        self.script = answering("ACCEPTED")
        self.advance(3 * HOUR + 300, step=60)
        self.assertEqual(self.questions(), 1 + 3)

    def test_cannot_answer_now(self) -> None:
        """A receiver that cannot answer a question now has not declined the task."""
        self.script = refuse("overloaded")
        self.advance(1)
        self.stop(self.alice)
        self.alice.startService()
        self.advance(30)
        self.assertGreater(self.questions(), 1)
        self.assertIs(self.record.status, TaskStatus.NEW)

    def test_not_a_deployed_peer(self) -> None:
        """A peer that never announced ``ack`` would do the task twice: it is never asked."""
        carol = self.listen(CAROL, deployed)
        self.stop(self.alice)
        alice = self.make_node(ALICE, CAROL, store=SlowStore())
        handle = self.done(alice.submit(CAROL, "other work"))
        self.assertIsNone(self.task(alice, handle.key).heard_at)
        self.stop(alice)
        alice.startService()
        self.advance(60)
        self.assertEqual(len(carol.peers), 1)

    def test_deployed_by_now(self) -> None:
        """Nor is one asked that took the task, but is not known any longer to acknowledge."""
        self.hear("ACCEPTED")
        self.stop(self.alice)
        self.successResultOf(self.store.remember_features(BOB, frozenset()))
        self.alice = self.make_node(ALICE, BOB, store=self.store)
        self.advance(HOUR + 60, step=30)
        self.assertEqual(self.questions(), 1)
        self.assertIsNone(self.record.heard_at)
        self.assertIs(self.record.status, TaskStatus.ACCEPTED)
