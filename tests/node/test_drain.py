"""Bringing a node to rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from typing_extensions import override

from tasksubmit.errors import NotAccepting, StoreError
from tasksubmit.lifecycle.table import Deadline, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.drain import Drained
from tasksubmit.testing import FaultyTaskStore
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

    def test_finishes_at_the_last_moment(self) -> None:
        """What finishes just as it would be put back has finished, and the drain goes on."""
        _, key = self.executing()
        find, answers = self.bob.store.due, list[Callable[[], None]]()

        def due(deadline: Deadline, *args: Any) -> Deferred[list[Task]]:
            found, later = self.successResultOf(find(deadline, *args)), Deferred[list[Task]]()
            if not found:
                return succeed(found)
            answers.append(lambda: later.callback(found))
            return later

        self.patch(self.bob.store, "due", due)
        drained = self.bob.drain(1)
        answers.pop(0)()  # it waits for what runs
        self.advance(0.5)
        answers.pop(0)()  # and does not any longer
        self.done(self.bob.send_results(key, "done"))
        answers.pop(0)()  # which it was about to put back
        self.advance(1)
        self.assertEqual(self.successResultOf(drained), Drained(0, 0))
        self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)

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

    def test_joined(self) -> None:
        """A second drain joins the first, and both are told what is left."""
        self.executing()
        first, second = self.bob.drain(10), self.bob.drain(60)
        self.advance(6)
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (Drained(1, 0), Drained(1, 0)))

    def test_fails(self) -> None:
        """A drain that fails, because the store fails for as long as it may last, leaves a node that works on."""
        _, key = self.submit()
        self.patch(self.bob.store, "due", lambda *args: fail(StoreError("the disk is gone")))
        drained = self.bob.drain(5)
        self.advance(4)
        self.assertNoResult(drained)
        self.advance(2)
        self.failed(drained, StoreError)
        self.flushLoggedErrors(StoreError)
        self.assertFalse(self.bob.is_draining)
        self.done(self.bob.accept(key))

    def test_store_fails_once(self) -> None:
        """A read or a write that fails once delays a drain, and no more."""
        for method in ("due", "apply", "owed_peers"):
            store = FaultyTaskStore()
            self.stop(self.bob)
            self.bob = self.make_node(BOB, ALICE, store=store)
            self.executing()
            drained = self.bob.drain(10)
            store.fail(method)
            self.advance(11)
            self.assertEqual(self.successResultOf(drained), Drained(1, 0), method)
        self.flushLoggedErrors(StoreError)

    def test_stopped_meanwhile(self) -> None:
        """A node that is stopped does not go on with its drain."""
        self.executing()
        drained = self.bob.drain(60)
        self.stop(self.bob)
        self.failed(drained, CancelledError)

    def test_start_again(self) -> None:
        """A node that is started after its drain takes work again."""
        self.done(self.bob.drain())
        self.stop(self.bob)
        self.bob.startService()
        self.assertEqual(self.ask(BOB, request()).status, 200)
