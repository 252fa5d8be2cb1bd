"""Group commit in a thread: what goes into one batch, when anybody hears of it, and connections in doubt."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StaleTask, StoreClosed, StoreDamaged, StoreError, StoreUncertain
from tasksubmit.stores.batches import Connected, Statement, each, run_batch
from tasksubmit.stores.threads import MANY, MAX_BATCH, MAX_TURNS, BatchThread, Call
from tests.processes import LONGEST_SECONDS
from tests.stores.test_batches import BROKEN, FULL, connect, database, insert, insert_and_fail, numbers, spoil_commit

SECONDS = LONGEST_SECONDS
"""Long enough for any thread; only a test that fails waits for it."""


class SteppedReactor(Clock):
    """Keeps what threads want called, until the test calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """See `IReactorFromThreads`."""
        self.wanted.put(lambda: callable(*args, **kwargs))

    def wait(self) -> None:
        """End the turn, and make the next call, as soon as a thread wants it."""
        self.advance(0)
        self.wanted.get(timeout=SECONDS)()


class ThreadWorkerTests(SynchronousTestCase):
    """A connection with a thread of its own."""

    def setUp(self) -> None:
        self.path = str(Path(self.mktemp()).absolute())
        self.reactor = SteppedReactor()
        self.batches: list[int] = []
        self.connections = [database(self.path)]
        self.refusals: list[Exception] = []
        self.worker = self.make()
        self.addCleanup(self.close)

    def make(self) -> BatchThread:
        """A worker on the last of the connections."""
        database = Connected(self.connections[-1], self.run_batch, self.reopen)
        return BatchThread("test-writer", database.run, database.close, self.reactor)

    def reopen(self) -> sqlite3.Connection:
        """Connect again, unless there is a reason against it."""
        if self.refusals:
            raise self.refusals.pop()
        self.connections.append(connect(self.path))
        return self.connections[-1]

    def run_one(self, operation: Statement) -> Deferred[Any]:
        """Run an operation in a batch of its own, to the end."""
        done = self.worker.run(each, operation)
        self.reactor.wait()
        return done

    def fail_commit(self, number: int) -> StoreError:
        """Let the commit of a number fail for a reason that leaves the connection in doubt."""
        self.connections[-1].faults["COMMIT"] = [sqlite3.OperationalError(BROKEN)]
        error: StoreError = self.failureResultOf(self.run_one(insert(number)), StoreError).value
        return error

    def run_batch(self, connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
        """Count the calls of each batch."""
        self.batches.append(len(calls))
        return run_batch(connection, calls)

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

        held = self.worker.run(each, operation)
        self.reactor.advance(0)
        self.assertTrue(entered.wait(SECONDS))
        return held, leave

    def test_survives_anything(self) -> None:
        """Whatever goes wrong in a batch fails that batch alone: nobody waits for ever."""
        self.connections[-1].faults["BEGIN IMMEDIATE"] = [MemoryError("no room")]
        self.failureResultOf(self.run_one(insert(1)), StoreError)
        self.assertEqual(self.successResultOf(self.run_one(insert(2))), 2)

    # --- a connection that cannot be trusted ---------------------------------------------------------------------

    def test_harmless_failure(self) -> None:
        """A batch that found no room fails, and the connection is kept."""
        self.connections[-1].faults["COMMIT"] = [sqlite3.OperationalError(FULL)]
        error = self.failureResultOf(self.run_one(insert(1)), StoreError).value
        self.assertIs(type(error), StoreError)
        self.assertIn(f"{self.path} could not be used: {FULL}", str(error))
        self.successResultOf(self.run_one(insert(2)))
        self.assertEqual((len(self.connections), self.connections[0].closed), (1, 0))
        self.assertEqual(self.kept(), [2])

    def test_reopen(self) -> None:
        """When a commit fails otherwise the connection is closed, and the next batch has another one."""
        error = self.fail_commit(1)
        self.assertIs(type(error), StoreUncertain)
        self.assertIn(f"{self.path} could not be used: {BROKEN}; check the disk", str(error))
        self.assertEqual((len(self.connections), self.connections[0].closed), (1, 1))
        for number in (2, 3):
            self.assertEqual(self.successResultOf(self.run_one(insert(number))), number)
        self.assertEqual((len(self.connections), self.connections[1].closed), (2, 0))
        self.assertEqual(self.kept(), [2, 3])
        self.fail_commit(4)
        self.successResultOf(self.run_one(insert(5)))
        self.assertEqual([connection.closed for connection in self.connections], [1, 1, 0])

    def test_reopen_refused(self) -> None:
        """A batch for which there is no connection fails with the reason, and is not run; each next one tries again."""
        self.fail_commit(1)
        damaged = StoreDamaged("tasks.db is damaged")
        self.refusals = [OSError(2, "No such file"), damaged]
        ran: list[object] = []
        first = self.failureResultOf(self.run_one(ran.append))
        self.assertIs(first.value, damaged)
        second = self.failureResultOf(self.run_one(ran.append), StoreError).value
        self.assertIn(f"{self.path} could not be used: [Errno 2] No such file", str(second))
        self.assertEqual((ran, len(self.connections)), ([], 1))
        self.assertEqual(self.successResultOf(self.run_one(insert(3))), 3)
        self.assertEqual(self.kept(), [3])

    def test_damage(self) -> None:
        """Damage that a commit finds is told as such, with the name of the file."""
        self.connections[-1].faults["COMMIT"] = [sqlite3.DatabaseError("database disk image is malformed")]
        error = self.failureResultOf(self.run_one(insert(1)), StoreDamaged).value
        self.assertIn(f"{self.path} is damaged or no database (database disk image is malformed)", str(error))

    def test_close_without_a_connection(self) -> None:
        """A worker whose connection is in doubt can be closed, and needs no other for that."""
        self.fail_commit(1)
        self.close()
        self.assertEqual((len(self.connections), self.connections[0].closed), (1, 1))

    # --- batches -------------------------------------------------------------------------------------------------

    def test_group_commit(self) -> None:
        """Whatever arrives while a batch is at work goes into the next one together."""
        _, leave = self.hold()
        fired = [self.worker.run(each, insert(n)) for n in range(100)]
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.assertEqual([self.successResultOf(deferred) for deferred in fired], list(range(100)))
        self.assertEqual(self.batches, [1, 100])

    def test_many(self) -> None:
        """When very many are asked for in one turn the thread begins before its end."""
        done = [self.worker.run(each, insert(number)) for number in range(MANY - 1)]
        self.assertRaises(Empty, self.reactor.wanted.get, timeout=0.05)
        done.append(self.worker.run(each, insert(MANY)))
        self.reactor.wanted.get(timeout=SECONDS)()
        self.assertEqual(self.successResultOf(done[0]), 0)

    def test_one_turn(self) -> None:
        """What is asked for in one turn of the reactor is one batch, and is not begun before the turn ends."""
        fired = [self.worker.run(each, insert(n)) for n in range(3)]
        with self.assertRaises(Empty):
            self.reactor.wanted.get(timeout=0.05)
        self.reactor.wait()
        self.assertEqual([self.successResultOf(deferred) for deferred in fired], [0, 1, 2])
        self.assertEqual(self.batches, [3])

    def in_turns(self, *actions: Callable[[], object]) -> None:
        """Do one thing in each turn of the reactor, of which this is the first."""
        first, *rest = actions
        first()
        if rest:
            self.reactor.callLater(0, self.in_turns, *rest)

    def test_following_turns(self) -> None:
        """As long as each turn of the reactor brings more, it all is one batch."""

        def ask() -> None:
            self.worker.run(each, numbers)
            self.assertRaises(Empty, self.reactor.wanted.get, timeout=0.05)

        self.in_turns(ask, ask, ask)
        self.reactor.wait()
        self.assertEqual(self.batches, [3])

    def test_turns_are_bounded(self) -> None:
        """Nothing is kept from the thread for ever by what comes in after it."""
        begun = Event()

        def ask() -> None:
            self.worker.run(each, lambda _: begun.set())

        self.in_turns(*[ask] * (MAX_TURNS + 2), lambda: self.assertTrue(begun.wait(SECONDS)), ask)
        self.reactor.advance(0)
        self.assertTrue(begun.is_set())

    def test_batch_is_bounded(self) -> None:
        """A batch takes so many operations at most, in their order; the rest goes into the next."""
        _, leave = self.hold()
        fired = [self.worker.run(each, insert(n)) for n in range(MAX_BATCH + 5)]
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
        first = self.worker.run(each, insert(1)).addCallback(lambda n: fired.append((n, self.kept())))
        second = self.worker.run(each, insert(2)).addCallback(lambda n: fired.append((n, self.kept())))
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
        fired = [self.worker.run(each, operation) for operation in (insert(1), spoil_commit, insert(2))]
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(held)
        for deferred in fired:
            error = self.failureResultOf(deferred, StoreError).value
            self.assertIn("FOREIGN KEY constraint failed", str(error))
        self.successResultOf(self.run_one(insert(3)))
        self.assertEqual(self.kept(), [3])

    def test_one_fails(self) -> None:
        """An operation that fails is told to its caller with what it raised."""
        _, leave = self.hold()
        good, bad = self.worker.run(each, insert(1)), self.worker.run(each, insert_and_fail(2))
        leave.set()
        self.reactor.wait()
        self.reactor.wait()
        self.successResultOf(good)
        self.failureResultOf(bad, StaleTask)
        self.assertEqual(self.kept(), [1])

    def test_cancelled_wait(self) -> None:
        """Cancelling gives up the wait, not the operation, and disturbs nobody."""
        _, leave = self.hold()
        given_up, other = self.worker.run(each, insert(1)), self.worker.run(each, insert(2))
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
        last = self.worker.run(each, insert(1))
        closed = self.worker.close()
        self.failureResultOf(self.worker.run(each, insert(2)), StoreClosed)
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
