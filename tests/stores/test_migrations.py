"""Bringing a database to this version's schema, and refusing those that cannot be brought there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StoreDamaged, StoreError, StoreTooNew
from tasksubmit.stores.migrations import APPLICATION_ID, migrate, schema_steps

FIRST = "-- people; and their names\nCREATE TABLE people (\n    name TEXT -- not 'unique';\n);\n"
SECOND = """ALTER TABLE people ADD COLUMN age INTEGER;
INSERT INTO people VALUES ('semi;colon
', 7);
CREATE TRIGGER aged AFTER UPDATE ON people BEGIN
    UPDATE people SET age = age + 1;
END;
"""


class MigrateTests(SynchronousTestCase):
    """`migrate`, on schemas made for the purpose."""

    def setUp(self) -> None:
        self.connection = self.connect()

    def connect(self, path: str = ":memory:") -> sqlite3.Connection:
        """A connection as the store makes it."""
        connection = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(connection.close)
        return connection

    def version(self) -> int:
        """How many steps the database says that it has."""
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def dump(self, connection: sqlite3.Connection) -> list[str]:
        """Everything in a database, as statements."""
        return list(connection.iterdump())

    def test_fresh(self) -> None:
        """An empty database gets every step, and the mark of this package."""
        migrate(self.connection, "a.db", [FIRST, SECOND])
        self.assertEqual(self.connection.execute("SELECT * FROM people").fetchall(), [("semi;colon\n", 7)])
        self.assertEqual(self.version(), 2)
        (mark,) = self.connection.execute("PRAGMA application_id").fetchone()
        self.assertEqual(mark, APPLICATION_ID)
        self.assertFalse(self.connection.in_transaction)

    def test_upgraded_equals_fresh(self) -> None:
        """A database that was brought up step by step is like one that got all steps at once."""
        migrate(self.connection, "a.db", [FIRST])
        self.assertEqual(self.version(), 1)
        migrate(self.connection, "a.db", [FIRST, SECOND])
        fresh = self.connect()
        migrate(fresh, "b.db", [FIRST, SECOND])
        self.assertEqual(self.dump(self.connection), self.dump(fresh))

    def test_up_to_date(self) -> None:
        """A database that has every step is left alone."""
        migrate(self.connection, "a.db", [FIRST, SECOND])
        changes = self.connection.total_changes
        migrate(self.connection, "a.db", [FIRST, SECOND])
        self.assertEqual(self.connection.total_changes, changes)

    def test_last_statement_without_semicolon(self) -> None:
        """The last statement of a step counts, however it ends."""
        migrate(self.connection, "a.db", ["CREATE TABLE a (b);\nCREATE TABLE c (d)\n-- the end"])
        self.connection.execute("SELECT d FROM c")

    def test_step_fails(self) -> None:
        """A step that fails leaves the database at the step before, whole, and says which step of what it was."""
        broken = "CREATE TABLE animals (name TEXT);\nCREATE TABLE people (name TEXT);\n"
        error = self.assertRaises(StoreError, migrate, self.connection, "a.db", [FIRST, broken])
        self.assertIn("a.db could not be brought to schema 2: table people already exists", str(error))
        self.assertEqual(self.version(), 1)
        self.assertNotIn("animals", "".join(self.dump(self.connection)))
        self.assertFalse(self.connection.in_transaction)
        migrate(self.connection, "a.db", [FIRST, SECOND])

    def test_too_new(self) -> None:
        """A database with more steps than are known is refused, and told apart by its name and both numbers."""
        migrate(self.connection, "a.db", [FIRST, SECOND])
        before = self.dump(self.connection)
        error = self.assertRaises(StoreTooNew, migrate, self.connection, "a.db", [FIRST])
        self.assertIn("a.db has schema 2, made by a newer version", str(error))
        self.assertIn("knows schemas up to 1", str(error))
        self.assertEqual(self.dump(self.connection), before)

    def test_foreign(self) -> None:
        """A database of another program is refused, and not touched."""
        for statement in ("CREATE TABLE theirs (x)", "PRAGMA user_version = 1"):
            connection = self.connect()
            connection.execute(statement)
            before = self.dump(connection)
            error = self.assertRaises(StoreDamaged, migrate, connection, "their.db", schema_steps())
            self.assertIn("their.db is a database of another program", str(error))
            self.assertEqual(self.dump(connection), before)

    def test_garbage(self) -> None:
        """A file that is no database is refused, and not touched."""
        path = Path(self.mktemp())
        path.write_bytes(b"no database, whatever it may be called " * 100)
        error = self.assertRaises(StoreDamaged, migrate, self.connect(str(path)), str(path), schema_steps())
        self.assertIn(str(path), str(error))
        self.assertIn("restore it from a backup", str(error))
        self.assertTrue(path.read_bytes().startswith(b"no database"))


class SchemaTests(SynchronousTestCase):
    """The schema of this version."""

    def test_steps(self) -> None:
        """The steps are found as files of the package, in their order, and all can be applied."""
        steps = schema_steps()
        self.assertTrue(steps[0].startswith("-- Times are integer milliseconds"))
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(connection.close)
        migrate(connection, "memory:", steps)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        self.assertEqual(version, len(steps))
