"""Group commit: what shares a transaction, what fails alone, and what fails together."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StaleTask, StoreClosed, StoreDamaged, StoreError
from tasksubmit.stores.batches import Connected, Statement, each, run_batch, run_reads
from tasksubmit.stores.threads import Call, InlineWorker


class FaultyConnection(sqlite3.Connection):
    """A connection that fails to carry out statements, as the tests want; `close` is counted."""

    faults: dict[str, list[Exception]]
    closed = 0

    @override
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if vars(self).get("faults", {}).get(sql):
            raise self.faults[sql].pop()
        return super().execute(sql, *parameters)

    @override
    def close(self) -> None:
        self.closed += 1
        super().close()


FULL = "database or disk is full"
BROKEN = "disk I/O error"


def connect(path: str = ":memory:") -> FaultyConnection:
    """A connection as the store makes it, without faults."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=FaultyConnection)
    connection.faults = {}
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def database(path: str = ":memory:") -> FaultyConnection:
    """A connection to a table of numbers, and to one whose rows a commit may refuse."""
    connection = connect(path)
    connection.execute("CREATE TABLE numbers (n INTEGER PRIMARY KEY)")
    connection.execute("CREATE TABLE later (n INTEGER REFERENCES numbers DEFERRABLE INITIALLY DEFERRED)")
    return connection


def alone(*statements: Statement) -> list[Call]:
    """The calls of some statements."""
    return [(each, statement) for statement in statements]


def insert(number: int) -> Statement:
    """Keeps a number, and returns it."""

    def operation(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return operation


def insert_and_fail(number: int) -> Statement:
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
        self.assertEqual(run_batch(self.connection, alone(*(insert(n) for n in (3, 1, 2)))), [3, 1, 2])
        self.assertEqual(numbers(self.connection), [1, 2, 3])
        self.assertEqual((self.statements.count("BEGIN IMMEDIATE"), self.transactions()), (1, 1))

    def test_one_fails(self) -> None:
        """An operation that fails is undone, and spoils no other."""
        first, failure, third = run_batch(self.connection, alone(insert(1), insert_and_fail(2), insert(3)))
        self.assertEqual((first, third), (1, 3))
        self.assertIsInstance(failure.value, StaleTask)
        self.assertEqual(numbers(self.connection), [1, 3])

    def test_error_of_the_database(self) -> None:
        """What SQLite raises in an operation becomes a `StoreError` with its words, for that operation alone."""
        first, failure, third = run_batch(self.connection, alone(insert(1), insert(1), insert(3)))
        self.assertEqual((first, third), (1, 3))
        self.assertIs(failure.type, StoreError)
        self.assertIn("UNIQUE constraint failed", str(failure.value))
        self.assertEqual(numbers(self.connection), [1, 3])

    def assert_all_fail(self, results: list[Any], count: int, words: str) -> None:
        """Every operation of a batch failed with these words, nothing is kept, and the next batch is fine."""
        self.assertEqual([failure.type for failure in results], [StoreError] * count)
        for failure in results:
            self.assertIn(words, str(failure.value))
        self.assertEqual(numbers(self.connection), [])
        self.assertFalse(self.connection.in_transaction)
        self.assertEqual(run_batch(self.connection, alone(insert(4))), [4])

    def test_commit_finds_no_room(self) -> None:
        """When there is no room, or no lock, for a commit all operations fail, and the connection stays good."""
        for harmless in (FULL, "database is locked"):
            self.connection.faults["COMMIT"] = [sqlite3.OperationalError(harmless)]
            results = run_batch(self.connection, alone(insert(1), insert(2)))
            self.assert_all_fail(
                results, 2, f"memory: could not be used: {harmless}; check the disk and its free space"
            )
            self.connection.execute("DELETE FROM numbers")

    def test_operation_finds_no_room(self) -> None:
        """When SQLite has undone all because there was no room for one operation all fail, and no later one is run."""
        ran: list[object] = []

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("ROLLBACK")  # as SQLite does by itself
            raise sqlite3.OperationalError(FULL)

        self.assert_all_fail(run_batch(self.connection, alone(insert(1), fill, ran.append)), 3, FULL)
        self.assertEqual(ran, [])

    def test_commit_fails(self) -> None:
        """When a commit fails otherwise that is raised, for nobody knows what became of it; no transaction is left."""
        for error, spoiler in ((sqlite3.IntegrityError, spoil_commit), (sqlite3.OperationalError, insert(2))):
            if error is sqlite3.OperationalError:
                self.connection.faults["COMMIT"] = [sqlite3.OperationalError(BROKEN)]
            with self.assertRaises(error):
                run_batch(self.connection, alone(insert(1), spoiler))
            self.assertFalse(self.connection.in_transaction)
            self.assertEqual(numbers(self.connection), [])

    def test_rollback_fails(self) -> None:
        """What could not be rolled back at once is before the next batch, and is not kept by that."""
        self.connection.faults["COMMIT"] = [sqlite3.OperationalError(FULL)]
        rollback = self.connection.rollback
        self.patch(self.connection, "rollback", lambda: None)
        [failure] = run_batch(self.connection, alone(insert(1)))
        self.assertIs(failure.type, StoreError)
        self.assertTrue(self.connection.in_transaction)
        self.patch(self.connection, "rollback", rollback)
        self.assertEqual(run_batch(self.connection, alone(insert(2))), [2])
        self.assertEqual(numbers(self.connection), [2])

    def test_transaction_lost(self) -> None:
        """When the transaction is gone in the midst of it that is raised; no later operation is run, none is kept."""
        ran: list[object] = []
        with self.assertRaisesRegex(sqlite3.OperationalError, "a statement ended the transaction"):
            run_batch(self.connection, alone(insert(1), lose_transaction, ran.append))
        self.assertEqual((numbers(self.connection), ran), ([], []))

    def test_begin_fails(self) -> None:
        """When no transaction can begin all operations fail, and none was run."""
        path = self.mktemp()
        holder, connection = database(path), sqlite3.connect(path, timeout=0, isolation_level=None)
        self.addCleanup(holder.close)
        self.addCleanup(connection.close)
        holder.execute("BEGIN IMMEDIATE")
        ran: list[object] = []
        results = run_batch(connection, alone(ran.append, ran.append))
        self.assertEqual([failure.type for failure in results], [StoreError] * 2)
        self.assertIn("locked", str(results[0].value))
        self.assertEqual(ran, [])

    def test_reads(self) -> None:
        """Reads run outside of a transaction of ours, and one that fails spoils no other."""
        insert(7)(self.connection)
        self.statements.clear()
        first, failure, third = run_reads(self.connection, alone(numbers, spoil_syntax, numbers))
        self.assertEqual((first, third), ([7], [7]))
        self.assertIs(failure.type, StoreError)
        self.assertNotIn("BEGIN IMMEDIATE", self.statements)

    def test_file_is_named(self) -> None:
        """Errors name the file of the database, those of reads and of writes, and tell a damaged one apart."""
        path = str(Path(self.mktemp()).absolute())
        connection = database(path)
        self.addCleanup(connection.close)
        for run in (run_batch, run_reads):
            [plain, damaged, too_big] = run(connection, alone(spoil_syntax, find_damage, ask_for_too_much))
            self.assertIs(plain.type, StoreError)
            self.assertIn(f"{path} could not be used: near", str(plain.value))
            self.assertIn("check the disk and its free space, then try again", str(plain.value))
            self.assertIs(damaged.type, StoreDamaged)
            self.assertIn(f"{path} is damaged or no database (database disk image is malformed)", str(damaged.value))
            self.assertIn("restore it from a backup", str(damaged.value))
            self.assertIs(too_big.type, StoreError)
            self.assertIn("string or blob too big", str(too_big.value))


def spoil_syntax(connection: sqlite3.Connection) -> None:
    """Asks the database for what it does not understand."""
    connection.execute("SELECT FROM")


def ask_for_too_much(connection: sqlite3.Connection) -> None:
    """Asks the database for what no database can hold."""
    connection.execute("SELECT zeroblob(3000000000)")


def find_damage(connection: sqlite3.Connection) -> None:
    """Finds what SQLite says of a damaged file."""
    raise sqlite3.DatabaseError("database disk image is malformed")


def lose_transaction(connection: sqlite3.Connection) -> None:
    """Leaves nobody a transaction."""
    connection.execute("ROLLBACK")


class InlineWorkerTests(SynchronousTestCase):
    """A worker without a thread."""

    def test_run(self) -> None:
        """Each operation is done when `run` returns, and fails alone, whatever it fails with."""
        connected = Connected(database(), run_batch)
        worker = InlineWorker(connected.run, connected.close)
        self.assertEqual(self.successResultOf(worker.run(each, insert(1))), 1)
        self.failureResultOf(worker.run(each, insert_and_fail(2)), StaleTask)
        error = self.failureResultOf(worker.run(each, spoil_commit), StoreError).value
        self.assertIn("memory: could not be used: FOREIGN KEY constraint failed", str(error))
        self.assertEqual(self.successResultOf(worker.run(each, numbers)), [1])
        self.successResultOf(worker.close())
        self.failureResultOf(worker.run(each, numbers), StoreClosed)
        self.successResultOf(worker.close())

    def test_failures_are_failures(self) -> None:
        """What a batch returns for an operation that failed is a `Failure` with its traceback."""
        connection = database()
        self.addCleanup(connection.close)
        [failure] = run_batch(connection, alone(insert_and_fail(1)))
        self.assertIsInstance(failure, Failure)
        self.assertIn("someone else was first", failure.getTraceback())
