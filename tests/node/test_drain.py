"""Bringing a node to rest."""

from __future__ import annotations

from typing_extensions import override

from tasksubmit.errors import NotAccepting
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.node.drain import Drained
from tests.node.helpers import ALICE, BOB, PairTestCase, SlowStore, request


class DrainTests(PairTestCase):
    """Bob is to be stopped."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, store=SlowStore())

    def test_nothing_new(self) -> None:
        """A node that is drained takes, accepts, begins and submits nothing, and says so in a code to try again."""
        _, new = self.submit(task_id="new")
        _, queued = self.submit(task_id="queued")
        self.done(self.bob.accept(queued))
        self.assertEqual(self.done(self.bob.drain()), Drained(0, 0))
        answer = self.ask(BOB, request("another"))
        self.assertEqual((answer.status, answer.code), (400, "not_accepting"))
        self.assertGreater(answer.retry_after_s, 0)
        self.assertEqual(self.ask(BOB, request("new")).current_status, "NEW")
        for refused in (self.bob.accept(new), self.bob.execute(), self.bob.submit(ALICE, "work")):
            self.failed(refused, NotAccepting)

    def test_finishes(self) -> None:
        """What runs may finish, and its results are delivered before the drain is over."""
        handle, key = self.executing()
        drained = self.bob.drain(60)
        self.advance(10)
        self.assertNoResult(drained)
        self.done(self.bob.send_results(key, "done"))
        self.advance(2)
        self.assertEqual(self.successResultOf(drained), Drained(0, 0))
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))

    def test_puts_back(self) -> None:
        """What does not finish in time is put back, and is the first to be begun after the next start."""
        _, key = self.executing()
        drained = self.bob.drain(60)
        self.advance(31)
        self.assertEqual(self.successResultOf(drained), Drained(1, 0))
        self.stop(self.bob)
        self.bob.startService()
        task = self.done(self.bob.execute())
        self.assertEqual((task.key, task.attempt), (key, 2))

    def test_dead_peer(self) -> None:
        """What cannot be delivered in time is counted, and stays owed."""
        _, key = self.executing()
        self.stop(self.alice)
        self.done(self.bob.send_results(key, "done"))
        drained = self.bob.drain(60)
        self.advance(59)
        self.assertNoResult(drained)
        self.advance(2)
        self.assertEqual(self.successResultOf(drained), Drained(0, 1))
        self.assertEqual(len(self.owed(self.bob, key)), 1)

    def test_start_again(self) -> None:
        """A node that is started after its drain takes work again."""
        self.done(self.bob.drain())
        self.stop(self.bob)
        self.bob.startService()
        self.assertEqual(self.ask(BOB, request()).status, 200)
