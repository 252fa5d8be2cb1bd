"""Workers: they take what is accepted, have it done, and give the results."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import ExecutionFailed, StoreError, TaskCancelled
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.service import Node
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.testing.executors import FakeExecutor
from tests.node.helpers import ALICE, BOB, NodeTestCase, SlowStore

BOUND = Lease(ends_with_node=True)


@implementer(IExecutor)
@define
class Held:
    """An executor whose work ends when the test says so, and which remembers what it was given."""

    lease: Lease = BOUND
    executions: list[Execution] = field(factory=list)
    ends: list[Deferred[Any]] = field(factory=list)
    cancelled: list[str] = field(factory=list)

    def execute(self, execution: Execution) -> Deferred[ExecutionResult]:
        """See `IExecutor.execute`."""
        self.executions.append(execution)
        end: Deferred[Any] = Deferred(lambda _: self.cancelled.append(execution.description))
        self.ends.append(end)
        return end

    def under_way(self) -> list[str]:
        """What is being done."""
        pairs = zip(self.executions, self.ends, strict=True)
        return [execution.description for execution, end in pairs if not end.called]


class WorkersTestCase(NodeTestCase):
    """Alice submits to Bob, whose workers do everything."""

    concurrency = 2

    @override
    def setUp(self) -> None:
        super().setUp()
        self.executor = Held()
        self.alice = self.make_node(ALICE, BOB)
        self.bob = self.employ(self.executor)

    def employ(self, executor: IExecutor, **options: Any) -> Node:
        """Start Bob with an executor."""
        return self.make_node(
            BOB, ALICE, acceptance=AcceptAll(), executor=executor, **{"concurrency": self.concurrency, **options}
        )

    def employ_on_failing_store(self) -> FailingStore:
        """Start Bob anew, with the same executor, on a store that can be made to fail; gives the store."""
        self.stop(self.bob)
        store = FailingStore()
        self.bob = self.employ(self.executor, store=store)
        return store

    def submit(self, description: str) -> SubmittedTask:
        """Have Alice submit a task."""
        return self.done(self.alice.submit(BOB, description))

    def received(self, handle: SubmittedTask) -> TaskKey:
        """The key of Bob's record."""
        return TaskKey(Side.RECEIVER, ALICE, handle.task_id)


class WorkTests(WorkersTestCase):
    """What becomes of tasks."""

    def test_results(self) -> None:
        """A text and a file that the executor gives are the results."""
        text, file = self.submit("a text"), self.submit("a file")
        self.assertEqual(self.executor.under_way(), ["a text", "a file"])
        self.executor.ends[0].callback("here it is")
        self.executor.ends[1].callback(ResultFile("it.csv", b"1,2"))
        self.assertEqual(self.done(text.result()).result_text, "here it is")
        result = self.done(file.result())
        self.assertEqual((result.filename, result.file_data), ("it.csv", b"1,2"))
        self.assertIs(self.task(self.bob, self.received(text)).status, TaskStatus.SUCCEEDED)
        assert self.bob.workers is not None
        self.assertEqual((self.bob.workers.done, self.bob.workers.failed), (2, 0))

    def test_at_most_so_many(self) -> None:
        """No more tasks are begun than there are workers; each that ends makes room for the next, in order."""
        for description in "abcd":
            self.submit(description)
        self.assertEqual(self.executor.under_way(), ["a", "b"])
        self.executor.ends[1].callback("")
        self.network.flush()
        self.assertEqual(self.executor.under_way(), ["a", "c"])
        self.executor.ends[0].callback("")
        self.executor.ends[2].callback("")
        self.network.flush()
        self.assertEqual(self.executor.under_way(), ["d"])

    def test_failure(self) -> None:
        """What an executor raises on purpose is told to the submitter as it is."""
        handle = self.submit("impossible")
        self.executor.ends[0].errback(ExecutionFailed("the book has no last page"))
        error = self.failed(handle.result(), TaskCancelled)
        self.assertIn("the book has no last page", str(error))
        task = self.task(self.alice, handle.key)
        self.assertEqual((task.outcome, task.error), ("failed", "the book has no last page"))
        assert self.bob.workers is not None
        self.assertEqual((self.bob.workers.done, self.bob.workers.failed), (0, 1))

    def test_accident(self) -> None:
        """Any other exception is logged, and its type and text are told; the worker goes on."""
        first, second = self.submit("one"), self.submit("two")
        self.executor.ends[0].errback(ZeroDivisionError("by zero"))
        self.failed(first.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, first.key).error, "ZeroDivisionError: by zero")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.executor.ends[1].callback("fine")
        self.assertEqual(self.done(second.result()).result_text, "fine")
        self.submit("three")
        self.assertEqual(self.executor.under_way(), ["three"])

    def test_no_exception_at_all(self) -> None:
        """What is raised to end a program, or a coroutine, fails its task like any other error."""
        for number, error in enumerate((SystemExit(3), GeneratorExit(), asyncio.CancelledError(), KeyboardInterrupt())):
            handle = self.submit("one")
            self.executor.ends[number].errback(error)
            self.failed(handle.result(), TaskCancelled)
            self.assertIn(f"{type(error).__name__} was raised", self.task(self.alice, handle.key).error)
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_error_without_words(self) -> None:
        """An error whose text cannot be had ends its task as well."""

        class Broken(ExecutionFailed):
            @override
            def __str__(self) -> str:
                raise ZeroDivisionError

        handle = self.submit("one")
        self.executor.ends[0].errback(Broken())
        self.failed(handle.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, handle.key).error, "its text cannot be had")

    def test_error_that_cannot_be_sent(self) -> None:
        """An error of any length and with any characters ends its task."""
        handle = self.submit("one")
        self.executor.ends[0].errback(ExecutionFailed("\ud800" + "x" * 100_000))
        self.failed(handle.result(), TaskCancelled)
        self.assertRegex(self.task(self.alice, handle.key).error, r"^\?x{900,}$")
        nothing = self.submit("two")
        self.executor.ends[1].errback(ExecutionFailed(" "))
        self.failed(nothing.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, nothing.key).error, "it was not said why")

    def test_results_that_cannot_be_sent(self) -> None:
        """Results of no known kind, with a bad name, too large or not text at all fail their task, and say so."""
        for result, words in (
            (17, "int, which is neither a text nor a ResultFile"),
            (ResultFile("../x.txt", b""), "has a slash"),
            (ResultFile("x.exe", b""), "exe"),
            (ResultFile("x.txt", bytes(13 << 20)), "16 MiB"),
            ("\udc00", "surrogate"),
        ):
            handle = self.submit("one")
            self.executor.ends[-1].callback(result)
            self.failed(handle.result(), TaskCancelled)
            self.assertIn(words, self.task(self.alice, handle.key).error)
        assert self.bob.workers is not None
        self.assertEqual((self.bob.workers.done, self.bob.workers.failed), (0, 5))

    def test_result_file_of_something_else(self) -> None:
        """A file whose name is no text, or whose content is not bytes, fails where it is made."""
        for name, content in (("a.txt", "text"), ("a.txt", None), (None, b""), (3, b"")):
            self.assertRaises(TypeError, ResultFile, name, content)

    def test_cancelled(self) -> None:
        """When the submitter cancels, the work is cancelled, and its worker takes the next task."""
        handle = self.submit("one")
        self.submit("two")
        self.submit("three")
        self.done(handle.cancel())
        self.assertEqual(self.executor.cancelled, ["one"])
        self.assertEqual(self.executor.under_way(), ["two", "three"])
        self.assertEqual(self.task(self.alice, handle.key).outcome, "cancelled_by_submitter")
        assert self.bob.workers is not None
        self.assertEqual((self.bob.workers.done, self.bob.workers.failed), (0, 0))

    def test_result_of_what_was_cancelled(self) -> None:
        """An executor that finishes all the same changes nothing."""
        handle = self.submit("one")
        end = self.executor.ends[0]
        end._canceller = lambda deferred: deferred.callback("done anyway")
        self.done(handle.cancel())
        self.failed(handle.result(), TaskCancelled)
        self.assertEqual(self.files(self.bob), [])

    def test_cancelled_at_once(self) -> None:
        """What is cancelled before its worker knows that it has begun is cancelled there, too."""
        self.stop(self.bob)
        store = SlowStore()
        self.bob = self.make_node(BOB, ALICE, executor=self.executor, store=store)
        handle = self.submit("one")
        store.is_slow, store.slow_methods = True, ("apply",)
        accepted = self.bob.accept(self.received(handle))
        store.release_one()
        self.done(accepted)
        self.assertEqual(self.executor.executions, [])
        cancelled = handle.cancel()
        self.network.flush()
        store.release()
        self.done(cancelled)
        self.assertEqual(self.executor.under_way(), [])

    def test_taken_by_hand(self) -> None:
        """What is put back by hand is begun again, by another attempt, and the earlier one can say nothing more."""
        handle = self.submit("one")
        self.done(self.bob.put_back(self.received(handle)))
        self.assertEqual(self.executor.cancelled, ["one"])
        self.assertEqual([one.task.attempt for one in self.executor.executions], [1, 2])
        self.executor.executions[0].progress("a ghost")
        self.network.flush()
        self.assertNotIn("ghost", self.task(self.bob, self.received(handle)).justification)
        self.executor.ends[1].callback("second")
        self.assertEqual(self.done(handle.result()).result_text, "second")

    def test_lease(self) -> None:
        """Work that is silent beyond its lease is cancelled, and begun again as often as the executor says."""
        self.stop(self.bob)
        executor = Held(Lease(BOUND.duration, max_attempts=2, ends_with_node=True))
        self.bob = self.employ(executor)
        handle = self.submit("one")
        for attempts in (1, 2):
            self.assertEqual(len(executor.ends), attempts)
            self.advance(BOUND.duration.total_seconds() + 3, step=3600)
        self.assertEqual(executor.cancelled, ["one", "one"])
        self.failed(handle.result(), TaskCancelled)
        self.assertEqual(self.task(self.alice, handle.key).outcome, "lease_expired")

    def test_coroutine(self) -> None:
        """A coroutine that is cancelled may tidy up first; its worker is busy until then."""
        tidied: Deferred[None] = Deferred()
        never: Deferred[str] = Deferred()
        begun: list[str] = []

        async def work(execution: Execution) -> str:
            begun.append(execution.description)
            try:
                return await never
            except CancelledError:
                await tidied
                raise

        self.stop(self.bob)
        self.bob = self.employ(CallableExecutor(work), concurrency=1)
        handle = self.submit("one")
        self.submit("two")
        self.done(handle.cancel())
        self.assertEqual(begun, ["one"])
        tidied.callback(None)
        self.network.flush()
        self.assertEqual(begun, ["one", "two"])

    def test_one_attempt_at_a_time(self) -> None:
        """A requeued task is started again only when its last attempt has really ended, although a worker is free."""
        self.stop(self.bob)
        executor = FakeExecutor(ends_when_cancelled=False)
        self.bob = self.employ(executor)
        handle = self.submit("one")
        for attempt in (1, 2):
            self.done(self.bob.put_back(self.received(handle), attempt=attempt))
            self.assertEqual(len(executor.executions), 1)
            self.assertTrue(executor.executions[0].is_cancelled)
        self.assertEqual(self.task(self.bob, self.received(handle)).attempt, 3)
        executor.executions[0].finish("too late")
        self.network.flush()
        self.assertEqual([one.asked.task.attempt for one in executor.running], [3])
        executor.executions[1].finish("third")
        self.assertEqual(self.done(handle.result()).result_text, "third")

    def test_unended(self) -> None:
        """Work that cannot be ended keeps its slot, and the node says why, to its operator alone, until it ends."""
        self.stop(self.bob)
        executor = FakeExecutor(ends_when_cancelled=False)
        self.bob = self.employ(executor, concurrency=1)
        first, second = self.submit("one"), self.submit("two")
        self.done(first.cancel())
        self.assertEqual(self.bob.unended, [])
        noted = self.bob.now()
        for error in ("process 7 lives", "process 8 lives"):
            executor.executions[0].asked.unended(error)
            self.advance(10)
            (unended,) = self.bob.unended
            self.assertEqual((unended.task_id, unended.peer, unended.attempt), (first.task_id, ALICE, 1))
            self.assertEqual((unended.error, unended.since), (error, noted))
        self.assertEqual([one.description for one in executor.executions], ["one"])
        self.assertNotIn("process", str(self.task(self.alice, first.key)))
        executor.executions[0].asked.unended("")
        self.assertEqual(self.bob.unended, [])
        executor.executions[0].asked.unended("process 9 lives")
        executor.executions[0].finish()
        self.network.flush()
        self.assertEqual(self.bob.unended, [])
        executor.executions[0].asked.unended("too late")
        self.assertEqual(self.bob.unended, [])
        executor.executions[1].finish("done")
        self.assertEqual(self.done(second.result()).result_text, "done")

    def test_cancelled_while_it_waits_for_an_attempt(self) -> None:
        """A task that waits for the end of its last attempt may be cancelled, and its node be stopped."""
        self.stop(self.bob)
        executor = FakeExecutor(ends_when_cancelled=False)
        self.bob = self.employ(executor)
        handle, other = self.submit("one"), self.submit("two")
        self.done(self.bob.put_back(self.received(handle)))
        self.done(handle.cancel())
        self.failed(handle.result(), TaskCancelled)
        executor.executions[1].finish("done")
        self.done(other.result())
        third = self.submit("three")
        self.assertEqual(executor.executions[2].description, "three")  # the waiting attempt has left its worker
        self.done(self.bob.put_back(self.received(third)))
        stopped = self.bob.stopService()
        self.network.flush()
        self.assertNoResult(stopped)
        executor.executions[0].finish()
        executor.executions[2].finish()
        self.network.flush()
        self.successResultOf(stopped)
        self.assertEqual(len(executor.executions), 3)

    def test_at_once(self) -> None:
        """An executor may answer at once, whichever way."""
        self.stop(self.bob)

        def work(execution: Execution) -> str:
            if execution.description == "bad":
                raise ExecutionFailed("no")
            return execution.description.upper()

        self.bob = self.employ(CallableExecutor(work))
        good, bad = self.submit("good"), self.submit("bad")
        self.assertEqual(self.done(good.result()).result_text, "GOOD")
        self.failed(bad.result(), TaskCancelled)


class ProgressTests(WorkersTestCase):
    """How far it is."""

    def test_told(self) -> None:
        """The submitter hears of progress, and of no more than the newest in each second."""
        handle = self.submit("one")
        heard: list[str] = []
        result = handle.result(on_progress=heard.append)
        self.network.flush()
        for percent in range(10, 60, 10):
            self.executor.executions[0].progress(f"{percent}%")
        self.network.flush()
        self.assertEqual(heard[-1], "10%")
        self.advance(1)
        self.assertEqual(heard[-1], "50%")
        self.assertEqual(len(heard), 3)
        self.executor.ends[0].callback("there")
        self.assertEqual(self.done(result).result_text, "there")

    def test_end_does_not_wait_for_progress(self) -> None:
        """A task that reports progress just before it returns ends at that moment, like any other."""
        self.stop(self.bob)

        def work(execution: Execution) -> str:
            execution.progress("nearly")
            return "ok"

        self.bob = self.employ(CallableExecutor(work))
        started_at = self.clock.seconds()
        handles = [self.submit(f"task {number}") for number in range(5)]
        self.assertEqual([self.done(handle.result()).result_text for handle in handles], ["ok"] * 5)
        self.assertEqual(self.clock.seconds(), started_at)
        for handle in handles:
            self.assertEqual(self.task(self.bob, self.received(handle)).time_cpu_ms, 0)

    def test_end_does_not_wait_for_slow_progress(self) -> None:
        """A failure just after progress, and a cancellation, do not wait either, even when the store is slow."""
        self.stop(self.bob)
        store = SlowStore()
        self.bob = self.employ(self.executor, store=store)
        handle = self.submit("one")
        store.is_slow, store.slow_methods = True, ("apply",)
        self.executor.executions[0].progress("nearly")
        self.executor.ends[0].errback(ExecutionFailed("no"))
        self.network.flush()
        store.release()
        self.failed(handle.result(), TaskCancelled)
        self.submit("two")
        self.assertEqual(self.executor.under_way(), ["two"])

    def test_renews_the_lease(self) -> None:
        """Progress renews the lease."""
        handle = self.submit("one")
        before = self.task(self.bob, self.received(handle)).lease_expires_at
        self.advance(5)
        self.executor.executions[0].progress("going on")
        self.network.flush()
        after = self.task(self.bob, self.received(handle)).lease_expires_at
        assert before is not None
        assert after is not None
        self.assertGreater(after, before)

    def test_disk_is_full(self) -> None:
        """Progress that cannot be written is let go; the work goes on."""
        store = self.employ_on_failing_store()
        handle = self.submit("one")
        store.is_full = True
        self.executor.executions[0].progress("half")
        self.advance(5)
        store.is_full = False
        self.executor.executions[0].progress("more")
        self.executor.ends[0].callback("done")
        self.assertEqual(self.done(handle.result()).result_text, "done")

    def test_of_any_kind(self) -> None:
        """Progress never fails: nothing, too much, and what cannot be sent are made to fit."""
        handle = self.submit("one")
        for text in ("", " \n", "x" * 100_000, "\ud800y"):
            self.executor.executions[0].progress(text)
            self.advance(2)
        self.assertEqual(self.task(self.alice, handle.key).justification, "?y")

    def test_at_the_end(self) -> None:
        """Progress that was not told yet is not told when the task has ended, and nothing waits for it."""
        handle = self.submit("one")
        for text in ("a", "b", "c"):
            self.executor.executions[0].progress(text)
        self.executor.ends[0].callback("done")
        self.executor.executions[0].progress("late")
        self.done(handle.result())
        self.advance(3)
        self.assertEqual(self.task(self.bob, self.received(handle)).justification, "The results were delivered")


class StopTests(WorkersTestCase):
    """What a stop and a start do."""

    def test_restart(self) -> None:
        """What was put back by a stop is begun again after the next start."""
        self.stop(self.bob)
        store, executor = SlowStore(), Held()
        bob = self.employ(executor, store=store)
        handle = self.submit("one")
        self.submit("two")
        self.submit("three")
        self.stop(bob)
        self.assertEqual(sorted(executor.cancelled), ["one", "two"])
        bob = self.employ(executor, store=store)
        self.network.flush()
        self.assertEqual(sorted(executor.under_way()), ["one", "two"])
        self.assertEqual([one.task.attempt for one in executor.executions], [1, 1, 2, 2])
        again = [one.description for one in executor.executions].index("one", 2)
        executor.ends[again].callback("at last")
        self.network.flush()
        self.assertEqual(self.done(handle.result()).result_text, "at last")
        self.assertIn("three", executor.under_way())

    def test_all_at_once(self) -> None:
        """As many of those that wait are begun at a start as may be, without any more news."""
        self.stop(self.bob)
        store = SlowStore()
        bob = self.make_node(BOB, ALICE, acceptance=AcceptAll(), store=store)
        for description in "abcd":
            self.submit(description)
        self.stop(bob)
        self.employ(self.executor, store=store, concurrency=4)
        self.network.flush()
        self.assertEqual(sorted(self.executor.under_way()), ["a", "b", "c", "d"])

    def test_same_node(self) -> None:
        """A node that was stopped can be started again, and works."""
        store = SlowStore()
        self.stop(self.bob)
        bob = self.employ(self.executor, store=store)
        self.stop(bob)
        bob.startService()
        handle = self.submit("one")
        self.executor.ends[0].callback("done")
        self.assertEqual(self.done(handle.result()).result_text, "done")

    def test_stop_waits(self) -> None:
        """A stop waits for work that takes a while to end, and does not interrupt what tidies up already."""
        tidied: Deferred[None] = Deferred()

        async def work(execution: Execution) -> str:
            try:
                return await Deferred[str]()
            except CancelledError:
                await tidied
                raise

        self.stop(self.bob)
        bob = self.employ(CallableExecutor(work))
        self.submit("one")
        self.done(self.submit("two").cancel())
        stopped = bob.stopService()
        self.network.flush()
        self.assertNoResult(stopped)
        tidied.callback(None)
        self.done(stopped)

    def test_stop_while_taking(self) -> None:
        """A task whose beginning is just being written when the node stops is put back as well."""
        self.stop(self.bob)
        store = SlowStore()
        bob = self.make_node(BOB, ALICE, executor=self.executor, store=store)
        handle = self.submit("one")
        store.is_slow = True  # the acceptance is written, and the beginning held when that is told
        accepted = bob.accept(self.received(handle))
        store.is_slow, store.holds_changes = False, True
        store.release_one()
        self.done(accepted)
        stopped = bob.stopService()
        self.network.flush()
        self.assertEqual(self.executor.executions, [])
        store.release()
        self.done(stopped)
        self.assertEqual(self.executor.cancelled, ["one"])
        task = self.successResultOf(store.get(self.received(handle)))
        assert task is not None
        self.assertIsNotNone(task.put_back_at)

    def test_drain(self) -> None:
        """A drain lets the work finish, and begins nothing new."""
        first, second = self.submit("one"), self.submit("two")
        self.submit("three")
        drained = self.bob.drain(60)
        self.executor.ends[0].callback("in time")
        self.advance(2)
        self.assertEqual(self.executor.under_way(), ["two"])
        self.assertEqual(self.done(first.result()).result_text, "in time")
        self.advance(30)
        self.assertEqual(self.executor.cancelled, ["two"])
        self.assertEqual(self.done(drained).put_back, 1)
        self.assertIsNotNone(self.task(self.bob, self.received(second)).put_back_at)


class FailingStore(SlowStore):
    """A store whose disk is full while the test says so, and fails when it reads the first record of a status."""

    is_full = False
    refused = 0
    fails_once: TaskStatus | None = None

    @override
    def apply(self, change: Change) -> Deferred[Task]:
        if self.is_full:
            self.refused += 1
            return fail(StoreError("the disk is full"))
        return super().apply(change)

    @override
    def get(self, key: TaskKey) -> Deferred[Task | None]:
        return super().get(key).addCallback(self._found)

    def _found(self, task: Task | None) -> Task | None:
        if task is not None and task.status is self.fails_once:
            self.fails_once = None
            raise StoreError("it cannot be read")
        return task


class DiskTests(WorkersTestCase):
    """When nothing can be written."""

    def test_results_wait(self) -> None:
        """What the work gave is kept until it can be written."""
        store = self.employ_on_failing_store()
        handle = self.submit("one")
        store.is_full = True
        self.executor.ends[0].callback("hard work")
        self.advance(20)
        self.assertIs(self.task(self.bob, self.received(handle)).status, TaskStatus.EXECUTING)
        self.assertGreater(len(self.flushLoggedErrors(StoreError)), 2)
        store.is_full = False
        self.advance(20)
        self.assertEqual(self.done(handle.result()).result_text, "hard work")

    def test_another_was_faster(self) -> None:
        """What came of an attempt that has waited is not told when the task was begun again meanwhile."""
        ends = ("a text", ResultFile("a.txt", b""), ExecutionFailed("a failure"))
        for number, end in enumerate(ends):
            self.stop(self.bob)
            store = FailingStore()
            self.executor = Held()
            self.bob = self.employ(self.executor, store=store)
            handle = self.submit(f"task {number}")
            store.is_full = True
            self.executor.ends[0].callback(end) if not isinstance(end, Exception) else self.executor.ends[0].errback(
                end
            )
            self.advance(20)
            self.flushLoggedErrors(StoreError)
            store.is_full = False
            self.done(self.bob.put_back(self.received(handle)))
            self.assertEqual([one.task.attempt for one in self.executor.executions], [1, 2])
            self.advance(60)
            self.assertIs(self.task(self.bob, self.received(handle)).status, TaskStatus.EXECUTING)
            self.executor.ends[1].callback("the second")
            self.assertEqual(self.done(handle.result()).result_text, "the second")

    def test_cancelled_although_it_cannot_be_read(self) -> None:
        """Work whose record could not be read when it began is cancelled like any other."""
        store = self.employ_on_failing_store()
        store.fails_once = TaskStatus.EXECUTING
        handle = self.submit("one")
        self.assertEqual(self.executor.under_way(), ["one"])
        self.assertIsNone(store.fails_once)
        self.done(handle.cancel())
        self.advance(3)
        self.assertEqual(self.executor.cancelled, ["one"])

    def test_tried_every_minute(self) -> None:
        """However long the disk is full, it is tried once a minute at least, and not much more often."""
        store = self.employ_on_failing_store()
        self.submit("one")
        store.is_full = True
        self.executor.ends[0].callback("hard work")
        self.advance(1000, step=10)
        before = store.refused
        self.advance(600, step=10)
        self.assertIn(store.refused - before, (9, 10, 11))
        self.flushLoggedErrors(StoreError)
        store.is_full = False

    def test_stop_while_waiting(self) -> None:
        """A node can be stopped meanwhile."""
        store = self.employ_on_failing_store()
        self.submit("one")
        store.is_full = True
        self.executor.ends[0].callback("hard work")
        self.advance(20)
        self.stop(self.bob)
        self.flushLoggedErrors(StoreError)

    def test_taking(self) -> None:
        """Workers that cannot take a task try again."""
        self.stop(self.bob)
        store = FailingStore()
        self.bob = self.make_node(BOB, ALICE, executor=self.executor, store=store)
        handle = self.submit("one")
        self.done(self.bob.accept(self.received(handle)))
        self.executor.ends[0].callback("")
        self.network.flush()
        other = self.submit("two")
        queue = store.queue
        store.queue = lambda *_, **__: fail(StoreError("no"))  # type: ignore[method-assign]
        self.done(self.bob.accept(self.received(other)))
        self.assertEqual(self.executor.under_way(), [])
        store.queue = queue  # type: ignore[method-assign]
        self.advance(2)
        self.assertEqual(self.executor.under_way(), ["two"])
        self.flushLoggedErrors(StoreError)
