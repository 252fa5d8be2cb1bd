"""Many tasks at once, and handles on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from typing_extensions import override

from tasksubmit.errors import ExecutionFailed, StoreClosed, TaskCancelled, UnknownPeer
from tasksubmit.interfaces import Execution
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.fanout import FanOut, Finished
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.wire.address import Address
from tests.node.helpers import ALICE, BOB, CAROL, NodeTestCase, SlowStore


class FanOutTestCase(NodeTestCase):
    """Alice submits to Bob and Carol, who work when the test lets them."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.under_way: dict[str, Deferred[str]] = {}
        self.progress: dict[str, Callable[[str], None]] = {}
        self.alice = self.make_node(ALICE, BOB, CAROL)
        for worker in (BOB, CAROL):
            self.make_node(worker, ALICE, acceptance=AcceptAll(), executor=CallableExecutor(self.work), concurrency=100)

    def work(self, execution: Execution) -> Deferred[str]:
        """What both do."""
        self.progress[execution.description] = execution.progress
        self.under_way[execution.description] = Deferred()
        return self.under_way[execution.description]

    def finish(self, *descriptions: str) -> None:
        """Let some work be done."""
        for description in descriptions:
            self.under_way.pop(description).callback(description.upper())
        self.network.flush()

    def texts(self, finished: list[Finished]) -> list[str]:
        """The results of tasks."""
        return [one.result().result_text for one in finished]


class FanOutTests(FanOutTestCase):
    """``Node.submit_many``."""

    def test_as_they_finish(self) -> None:
        """``async for`` gives each task as soon as it is finished, in the order in which they finish."""
        taken: list[Finished] = []

        async def collect() -> None:
            async for finished in self.alice.submit_many([(BOB, "a"), (CAROL, "b"), (BOB, "c")]):
                taken.append(finished)

        done = Deferred.fromCoroutine(collect())
        self.network.flush()
        self.finish("b")
        self.assertEqual([(one.index, one.to, one.description) for one in taken], [(1, CAROL, "b")])
        self.finish("c", "a")
        self.successResultOf(done)
        self.assertEqual(self.texts(taken), ["B", "C", "A"])

    def test_at_most_so_many(self) -> None:
        """No more are under way than asked for, and no more are taken from the iterable."""
        drawn: list[str] = []

        def tasks() -> Iterator[tuple[Address, str]]:
            for letter in "abcdef":
                drawn.append(letter)
                yield BOB, letter

        many = self.alice.submit_many(tasks(), concurrency=2)
        self.network.flush()
        self.assertEqual((drawn, list(self.under_way)), (["a", "b"], ["a", "b"]))
        self.finish("a")
        self.assertEqual(drawn, ["a", "b"])  # nobody has taken it yet
        self.assertEqual(self.done(many.next()).description, "a")  # type: ignore[union-attr]
        self.network.flush()
        self.assertEqual((drawn, list(self.under_way)), (["a", "b", "c"], ["b", "c"]))
        everything = many.all()
        for letter in "bcdef":
            self.finish(letter)
        self.assertEqual(self.texts(self.done(everything)), ["B", "C", "D", "E", "F"])

    def test_all_in_order(self) -> None:
        """``all`` gives the tasks in the order in which they were given."""
        everything = self.alice.submit_many([(BOB, "a"), (BOB, "b")]).all()
        self.network.flush()
        self.finish("b", "a")
        self.assertEqual(self.texts(self.done(everything)), ["A", "B"])

    def test_errors(self) -> None:
        """A task that cannot be submitted, or fails, ends with its error; the others go on."""
        stranger = Address.parse("0:0000.0000.0009")
        everything = self.alice.submit_many([(stranger, "a"), (BOB, "b"), (BOB, "c")], concurrency=1).all()
        self.network.flush()
        self.under_way.pop("b").errback(ExecutionFailed("no ink"))
        self.network.flush()
        self.finish("c")
        first, second, third = self.done(everything)
        self.assertRaises(UnknownPeer, first.result)
        self.assertIsNone(first.task)
        self.assertIn("no ink", str(self.assertRaises(TaskCancelled, second.result)))
        self.assertIsNotNone(second.task)
        self.assertEqual(third.result().result_text, "C")

    def test_many_that_fail_at_once(self) -> None:
        """Thousands that end at once do not exhaust the stack."""
        stranger = Address.parse("0:0000.0000.0009")
        finished = self.done(self.alice.submit_many([(stranger, "a")] * 5000, concurrency=3).all())
        self.assertEqual(len(finished), 5000)

    def test_nothing(self) -> None:
        """No tasks are finished at once."""
        many = self.alice.submit_many([])
        self.assertEqual(self.successResultOf(many.all()), [])
        self.assertIsNone(self.successResultOf(many.next()))

    def test_bad_concurrency(self) -> None:
        """A concurrency under 1 is refused."""
        self.assertRaises(ValueError, self.alice.submit_many, [], concurrency=0)

    def test_iterable_fails(self) -> None:
        """An error of the iterable is given after what was begun before it."""

        def tasks() -> Iterator[tuple[Address, str]]:
            yield BOB, "a"
            raise ZeroDivisionError

        many: FanOut = self.alice.submit_many(tasks())
        everything = many.all()
        self.network.flush()
        self.finish("a")
        self.failureResultOf(everything, ZeroDivisionError)
        self.assertIsNone(self.successResultOf(many.next()))

    def test_several_takers(self) -> None:
        """Several may take; each gets another task, or None when there is no more."""
        many = self.alice.submit_many([(BOB, "a")])
        takers = [many.next(), many.next(), many.next()]
        takers.pop(0).addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        self.network.flush()
        self.finish("a")
        first, second = (self.successResultOf(taker) for taker in takers)
        assert first is not None
        self.assertEqual(first.description, "a")
        self.assertIsNone(second)

    def test_cancel(self) -> None:
        """Cancelling ``all`` cancels the tasks under way and begins no others."""
        everything = self.alice.submit_many([(BOB, "a"), (BOB, "b"), (BOB, "c")], concurrency=2).all()
        self.network.flush()
        everything.cancel()
        self.network.flush()
        self.failureResultOf(everything, CancelledError)
        self.assertEqual([task.status for task in self.tasks(self.alice)], [TaskStatus.CANCELLED] * 2)

    def test_cancel_before_it_is_recorded(self) -> None:
        """A task that is just being recorded is cancelled as well."""
        many = self.alice.submit_many([(BOB, "a")])
        many.cancel()
        finished = self.done(many.all())
        self.assertIsInstance(finished[0].outcome, CancelledError)
        self.advance(2)
        self.assertEqual([task.status for task in self.tasks(self.alice)], [TaskStatus.CANCELLED])

    def test_cancel_twice(self) -> None:
        """To cancel again, while the first time is not through, changes nothing."""
        self.stop(self.alice)
        store = SlowStore()
        alice = self.make_node(ALICE, BOB, store=store)
        store.hold_commits()
        many = alice.submit_many([(BOB, "a")])
        many.cancel()
        many.cancel()
        store.release_commits()
        self.assertIsInstance(self.done(many.all())[0].outcome, CancelledError)
        self.advance(2)
        self.assertEqual([task.status for task in self.tasks(alice)], [TaskStatus.CANCELLED])

    def test_cancelled_by_the_iterable(self) -> None:
        """The iterable itself may find that it is enough: what it gives then is not begun."""

        def tasks() -> Iterator[tuple[Address, str]]:
            yield BOB, "a"
            many.cancel()
            yield BOB, "b"

        many = self.alice.submit_many(tasks(), concurrency=1)
        first = many.next()
        self.network.flush()
        self.finish("a")
        self.done(first)
        self.assertIsNone(self.done(many.next()))
        self.assertEqual([task.description for task in self.tasks(self.alice)], ["a"])


class HandleTests(FanOutTestCase):
    """``SubmittedTask``: watching, and cancelling the wait."""

    def test_cancelled_result(self) -> None:
        """Cancelling a result that is waited for cancels the task, on both sides."""
        handle = self.done(self.alice.submit(BOB, "a"))
        result = handle.result()
        self.network.flush()
        result.cancel()
        self.network.flush()
        self.failureResultOf(result, CancelledError)
        self.assertIs(self.task(self.alice, handle.key).status, TaskStatus.CANCELLED)
        self.assertTrue(self.under_way.pop("a").called)

    def test_timed_out_result(self) -> None:
        """So does a time-out."""
        handle = self.done(self.alice.submit(BOB, "a"))
        result = handle.result(on_progress=lambda text: None).addTimeout(30, self.clock)
        self.advance(31)
        self.failureResultOf(result, TookTooLong)
        self.assertIs(self.task(self.alice, handle.key).status, TaskStatus.CANCELLED)

    def test_wait_given_up(self) -> None:
        """Giving up the wait alone leaves the task as it is."""
        handle = self.done(self.alice.submit(BOB, "a"))
        waits: list[Deferred[Any]] = [self.alice.result(handle.key), handle.accepted(), handle.watch(lambda task: None)]
        for wait in waits:
            wait.addErrback(lambda failure: failure.trap(CancelledError))
            wait.cancel()
        self.network.flush()
        self.finish("a")
        self.assertEqual(self.done(handle.result()).result_text, "A")

    def test_cancelled_too_late(self) -> None:
        """Cancelling a result after the node has stopped, or the task has ended, does no harm."""
        handle = self.done(self.alice.submit(BOB, "a"))
        result = handle.result()
        self.network.flush()
        self.stop(self.alice)
        self.failureResultOf(result, StoreClosed)
        result.cancel()

    def test_given_up_too_late(self) -> None:
        """To give up a task that has ended, is forgotten, or whose node has stopped does no harm."""
        handle = self.done(self.alice.submit(BOB, "a"))
        self.finish("a")
        self.done(handle.result())
        handle.give_up()
        SubmittedTask(self.alice, TaskKey(Side.SUBMITTER, BOB, "never-was")).give_up()
        self.network.flush()
        self.stop(self.alice)
        handle.give_up()
        self.network.flush()

    def test_progress_is_told_once(self) -> None:
        """The same words are told once, however often the record changes meanwhile."""
        handle = self.done(self.alice.submit(BOB, "a"))
        heard: list[str] = []
        result = handle.result(on_progress=heard.append)
        self.network.flush()
        for _ in range(3):
            self.progress["a"]("half of it")
            self.advance(2)
        self.assertEqual(heard[-1], "half of it")
        self.assertEqual(len(heard), len(set(heard)))
        self.finish("a")
        self.done(result)

    def test_watch(self) -> None:
        """A watch sees the record as it is, then each change once, and ends with the task."""
        handle = self.done(self.alice.submit(BOB, "a"))
        seen: list[Task] = []
        watch = handle.watch(seen.append)
        self.network.flush()
        self.finish("a")
        self.assertTrue(self.successResultOf(watch).is_settled)
        statuses = [task.status for task in seen]
        self.assertEqual(statuses[-2:], [TaskStatus.EXECUTING, TaskStatus.COMPLETED])
        self.assertEqual(sorted({task.revision for task in seen}), [task.revision for task in seen])

    def test_watcher_fails(self) -> None:
        """What a watcher raises fails its own watch and nothing else."""
        handle = self.done(self.alice.submit(BOB, "a"))

        def fail(task: Task) -> None:
            raise ZeroDivisionError

        watch, result = handle.watch(fail), handle.result()
        self.network.flush()
        self.failureResultOf(watch, ZeroDivisionError)
        self.finish("a")
        self.assertEqual(self.done(result).result_text, "A")
