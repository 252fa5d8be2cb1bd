"""Group commit: what shares a transaction, what fails alone, what fails together, and when anybody hears of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tasksubmit.errors import StaleTask, StoreClosed, StoreError
from tasksubmit.stores.batches import MAX_BATCH, InlineWorker, Operation, ThreadWorker, run_batch, run_reads

SECONDS = 30
"""Long enough for any thread; only a test that fails waits for it."""


def database(path: str = ":memory:") -> sqlite3.Connection:
    """A connection to a table of numbers, and to one whose rows a commit may refuse."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE later (n INTEGER REFERENCES numbers DEFERRABLE INITIALLY DEFERRED)")
    return connection


def insert(number: int) -> Operation:
    """Keeps a number, and returns it."""

    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return operation


def insert_and_fail(number: int) -> Operation:
    """Keeps a number, then finds that it may not."""

    def operation(connection: sqlite3.Connection) -> None:
        insert(number)(connection)
        raise StaleTask("someone else was first")

    return operation


def spoil_commit(connection: sqlite3.Connection) -> None:
    """Does what is fine by itself but lets the commit fail."""
    connection.execute("INSERT INTO later VALUES (12345)")


def numbers(connection: sqlite3.Connection) -> list[int]:
    """What is kept."""
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


class RunBatchTests(SynchronousTestCase):
    """One batch."""

    def setUp(self) -> None:
        self.connection = database()
        self.addCleanup(self.connection.close)
        self.statements: list[str] = []
        self.connection.set_trace_callback(self.statements.append)

    def transactions(self) -> int:
        """How many commits there were."""
        return self.statements.count("COMMIT")

    def test_one_transaction(self) -> None:
        """All operations share one transaction, and their results come in their order."""
        self.assertEqual(run_batch(self.connection, [insert(n) for n in (3, 1, 2)]), [3, 1, 2])
        self.assertEqual(numbers(self.connection), [1, 2, 3])
        self.assertEqual((self.statements.count("BEGIN IMMEDIATE"), self.transactions()), (1, 1))

    def test_one_fails(self) -> None:
        """An operation that fails is undone, and spoils no other."""
        first, failure, third = run_batch(self.connection, [insert(1), insert_and_fail(2), insert(3)])
        self.assertEqual((first, third), (1, 3))
        self.assertIsInstance(failure.value, StaleTask)
        self.assertEqual(numbers(self.connection), [1, 3])

    def test_error_of_the_database(self) -> None:
        """What SQLite raises in an operation becomes a `StoreError` with its words, for that operation alone."""
        first, failure, third = run_batch(self.connection, [insert(1), insert(1), insert(3)])
        self.assertEqual((first, third), (1, 3))
        self.assertIs(failure.type, StoreError)
        self.assertIn("UNIQUE constraint failed", str(failure.value))
        self.assertEqual(numbers(self.connection), [1, 3])

    def test_commit_fails(self) -> None:
        """When the commit fails all operations fail, nothing of them is kept, and the next batch is fine."""
        results = run_batch(self.connection, [insert(1), spoil_commit, insert(2)])
        for failure in results:
            self.assertIs(failure.type, StoreError)
            self.assertIn("FOREIGN KEY constraint failed", str(failure.value))
        self.assertEqual(len(results), 3)
        self.assertEqual(numbers(self.connection), [])
        self.assertFalse(self.connection.in_transaction)
        self.assertEqual(run_batch(self.connection, [insert(4)]), [4])

    def test_transaction_lost(self) -> None:
        """When the database gives up the transaction in the midst of it all operations fail."""

        def lose(connection: sqlite3.Connection) -> None:
            connection.execute("ROLLBACK")

        results = run_batch(self.connection, [insert(1), lose, insert(2)])
        self.assertEqual([failure.type for failure in results], [StoreError] * 3)
        self.assertEqual(numbers(self.connection), [])

    def test_begin_fails(self) -> None:
        """When no transaction can begin all operations fail, and none was run."""
        path = self.mktemp()
        holder, connection = database(path), sqlite3.connect(path, timeout=0, isolation_level=None)
        self.addCleanup(holder.close)
        self.addCleanup(connection.close)
        holder.execute("BEGIN IMMEDIATE")
        ran: list[object] = []
        results = run_batch(connection, [ran.append, ran.append])
        self.assertEqual([failure.type for failure in results], [StoreError] * 2)
        self.assertIn("locked", str(results[0].value))
        self.assertEqual(ran, [])

    def test_reads(self) -> None:
        """Reads run outside of a transaction of ours, and one that fails spoils no other."""
        insert(7)(self.connection)
        self.statements.clear()
        first, failure, third = run_reads(self.connection, [numbers, spoil_syntax, numbers])
        self.assertEqual((first, third), ([7], [7]))
        self.assertIs(failure.type, StoreError)
        self.assertNotIn("BEGIN IMMEDIATE", self.statements)


def spoil_syntax(connection: sqlite3.Connection) -> None:
    """Asks the database for what it does not understand."""
    connection.execute("SELECT FROM")


@implementer(IReactorFromThreads)
class SteppedReactor:
    """Keeps what threads want called, until the test calls it."""

    def __init__(self) -> None:
        self.calls: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """See `IReactorFromThreads`."""
        self.calls.put(lambda: callable(*args, **kwargs))

    def wait(self) -> None:
        """Make the next call, as soon as a thread wants it."""
        self.calls.get(timeout=SECONDS)()


class ThreadWorkerTests(SynchronousTestCase):
    """A connection with a thread of its own."""

    def setUp(self) -> None:
        self.path = self.mktemp()
        self.reactor = SteppedReactor()
        self.batches: list[int] = []
        self.worker = ThreadWorker("test-writer", database(self.path), self.run_batch, self.reactor)
        self.addCleanup(self.close)

    def run_batch(self, connection: sqlite3.Connection, operations: list[Operation]) -> list[Any]:
        """Count the operations of each batch."""
        self.batches.append(len(operations))
        return run_batch(connection, operations)

    def close(self) -> None:
        """Close the worker and wait for it."""
        closed = self.worker.close()
        while not closed.called:
            self.reactor.wait()

    def kept(self) -> list[int]:
        """What another connection sees."""
        connection = sqlite3.connect(self.path)
        try:
            return numbers(connection)
        finally:
            connection.close()

    def hold(self) -> tuple[Deferred[None], Event]:
        """Keep the thread busy with a batch until the event is set; returns when it is."""
        entered, leave = Event(), Event()

        def operation(connection: sqlite3.Connection) -> None:
            entered.set()
            leave.wait(SECONDS)

        held = self.worker.run(operation)
        self.assertTrue(entered.wait(SECONDS))
        return held, leave

    def test_survives_anything(self) -> None:
        """Whatever goes wrong in a batch fails that batch alone: nobody waits for ever."""
        broken = [True]

        def run(connection: sqlite3.Connection, operations: list[Operation]) -> list[Any]:
            if broken.pop():
                raise MemoryError("no room")
            return run_batch(connection, operations)

        self.close()
        broken.insert(0, False)
        self.worker = ThreadWorker("test-writer", database(self.mktemp()), run, self.reactor)
        failed = self.worker.run(insert(1))
        self.reactor.wait()
        self.failureResultOf(failed, StoreError)
        fine = self.worker.run(insert(2))
        self.reactor.wait()
        self.assertEqual(self.successResultOf(fine), 2)

    def test_group_commit(self) -> None:
        """Whatever arrives while a batch is at work goes into the next one together."""
        _, leave = self.hold()
        fired = [self.worker.run(insert(n)) for n in range(100)]
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.assertEqual([self.successResultOf(deferred) for deferred in fired], list(range(100)))
        self.assertEqual(self.batches, [1, 100])

    def test_batch_is_bounded(self) -> None:
        """A batch takes so many operations at most, in their order; the rest goes into the next."""
        _, leave = self.hold()
        fired = [self.worker.run(insert(n)) for n in range(MAX_BATCH + 5)]
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(fired[MAX_BATCH - 1])
        self.assertNoResult(fired[MAX_BATCH])
        self.reactor.wait()
        self.successResultOf(fired[-1])
        self.assertEqual(self.batches, [1, MAX_BATCH, 5])

    def test_nothing_fires_before_the_commit(self) -> None:
        """No Deferred fires while its batch is at work, and by the time one fires everybody can see its work."""
        fired: list[tuple[int, list[int]]] = []
        _, leave = self.hold()
        first = self.worker.run(insert(1)).addCallback(lambda n: fired.append((n, self.kept())))
        second = self.worker.run(insert(2)).addCallback(lambda n: fired.append((n, self.kept())))
        self.assertEqual(self.kept(), [])
        leave.set()
        self.reactor.wait()
        self.assertNoResult(first)
        self.reactor.wait()
        self.successResultOf(second)
        self.assertEqual(fired, [(1, [1, 2]), (2, [1, 2])])

    def test_commit_fails(self) -> None:
        """A commit that fails is told to everybody whose operation was in it, and to nobody else."""
        held, leave = self.hold()
        fired = [self.worker.run(operation) for operation in (insert(1), spoil_commit, insert(2))]
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(held)
        for deferred in fired:
            self.failureResultOf(deferred, StoreError)
        later = self.worker.run(insert(3))
        self.reactor.wait()
        self.successResultOf(later)
        self.assertEqual(self.kept(), [3])

    def test_one_fails(self) -> None:
        """An operation that fails is told to its caller with what it raised."""
        _, leave = self.hold()
        good, bad = self.worker.run(insert(1)), self.worker.run(insert_and_fail(2))
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(good)
        self.failureResultOf(bad, StaleTask)
        self.assertEqual(self.kept(), [1])

    def test_cancelled_wait(self) -> None:
        """Cancelling gives up the wait, not the operation, and disturbs nobody."""
        _, leave = self.hold()
        given_up, other = self.worker.run(insert(1)), self.worker.run(insert(2))
        given_up.addErrback(lambda _: None)
        given_up.cancel()
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.assertEqual(self.successResultOf(other), 2)
        self.assertEqual(self.kept(), [1, 2])

    def test_close(self) -> None:
        """Closing finishes what was given, refuses more, and fires when the connection is closed."""
        _, leave = self.hold()
        last = self.worker.run(insert(1))
        closed = self.worker.close()
        self.failureResultOf(self.worker.run(insert(2)), StoreClosed)
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(last)
        self.assertNoResult(closed)
        self.reactor.wait()
        self.successResultOf(closed)
        self.assertEqual(self.kept(), [1])
        self.assertFalse(Path(f"{self.path}-journal").exists())

    def test_close_twice(self) -> None:
        """Closing again does nothing more."""
        self.close()
        self.successResultOf(self.worker.close())


class InlineWorkerTests(SynchronousTestCase):
    """A worker without a thread."""

    def test_run(self) -> None:
        """Each operation is done when `run` returns, and fails alone."""
        worker = InlineWorker(database(), run_batch)
        self.assertEqual(self.successResultOf(worker.run(insert(1))), 1)
        self.failureResultOf(worker.run(insert_and_fail(2)), StaleTask)
        self.failureResultOf(worker.run(spoil_commit), StoreError)
        self.assertEqual(self.successResultOf(worker.run(numbers)), [1])
        self.successResultOf(worker.close())
        self.failureResultOf(worker.run(numbers), StoreClosed)
        self.successResultOf(worker.close())

    def test_failures_are_failures(self) -> None:
        """What a batch returns for an operation that failed is a `Failure` with its traceback."""
        [failure] = run_batch(database(), [insert_and_fail(1)])
        self.assertIsInstance(failure, Failure)
        self.assertIn("someone else was first", failure.getTraceback())
