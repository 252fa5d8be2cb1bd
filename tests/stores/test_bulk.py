"""Statements on many rows: whatever their number, exactly these are written, changed and found."""

from __future__ import annotations

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.stores import bulk
from tests.tiers import examples

SIZES = (0, 1, 2, 15, 16, 17, 63, 64, 65, 128, 129, 1000, 1023, 1024, 1025, 5000)
"""Around the lengths of what is cut into pieces, and long enough for many of them."""

WIDE = 37
"""Columns of a table of which few rows fit into a statement."""


class BulkTests(SynchronousTestCase):
    """Rows of a table in memory."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        self.connection.execute("CREATE TABLE things (n INTEGER PRIMARY KEY, kind TEXT, value INTEGER)")

    def fill(self, count: int) -> None:
        """Have so many rows, and none else."""
        self.connection.execute("DELETE FROM things")
        self.connection.executemany("INSERT INTO things VALUES (?, ?, ?)", self.rows(count))

    def rows(self, count: int) -> list[tuple[int, str, int]]:
        """So many rows."""
        return [(n, str(n % 3), -n) for n in range(1, count + 1)]

    def kept(self) -> list[tuple[int, str, int]]:
        """All rows that there are."""
        return self.connection.execute("SELECT n, kind, value FROM things ORDER BY n").fetchall()

    # --- inserting -----------------------------------------------------------------------------------------------

    def test_insert(self) -> None:
        """All rows are inserted, none twice, and it is told how many, and the number of the last one."""
        for size in SIZES:
            self.fill(0)
            counted = bulk.insert(self.connection, "things", "n, kind, value", self.rows(size))
            self.assertEqual(counted, (size, size))
            self.assertEqual(self.kept(), self.rows(size))

    def test_insert_wide(self) -> None:
        """Rows of many columns are inserted like those of few."""
        names = [f"c{n}" for n in range(WIDE)]
        self.connection.execute(f"CREATE TABLE wide ({', '.join(names)})")
        for size in SIZES:
            self.connection.execute("DELETE FROM wide")
            rows = [tuple(n * WIDE + place for place in range(WIDE)) for n in range(size)]
            inserted, _ = bulk.insert(self.connection, "wide", ", ".join(names), rows)
            self.assertEqual(inserted, size)
            self.assertEqual(self.connection.execute("SELECT * FROM wide ORDER BY c0").fetchall(), rows)

    def test_insert_from_a_source(self) -> None:
        """Only what the source selects of the rows is inserted, and counted."""
        source = "SELECT new.* FROM {} WHERE new.column1 % 2 = 0 ON CONFLICT (n) DO NOTHING"
        for size in SIZES:
            self.fill(0)
            self.connection.execute("INSERT INTO things VALUES (4, 'old', 0)")
            inserted, _ = bulk.insert(self.connection, "things", "n, kind, value", self.rows(size), source)
            even = {n: (n, kind, value) for n, kind, value in self.rows(size) if n % 2 == 0}
            self.assertEqual(inserted, len(even.keys() - {4}))
            self.assertEqual(self.kept(), sorted({**even, 4: (4, "old", 0)}.values()))

    def test_insert_fails(self) -> None:
        """A row that may not be inserted is an error, wherever it stands; who has a transaction undoes the others."""
        for size in SIZES[1:]:
            for place in {0, size // 2, size}:
                self.fill(0)
                rows = self.rows(size)
                rows.insert(place, rows[-1])
                self.connection.execute("BEGIN")
                with self.assertRaises(sqlite3.IntegrityError):
                    bulk.insert(self.connection, "things", "n, kind, value", rows)
                self.assertTrue(self.connection.in_transaction)
                self.connection.rollback()
                self.assertEqual(self.kept(), [])

    # --- changing ------------------------------------------------------------------------------------------------

    def test_update(self) -> None:
        """All rows with the keys that are given are changed as they are given, and no other."""
        for size in SIZES:
            self.fill(2 * size + 1)
            bulk.update(self.connection, "things", "n", "value, kind", [(2 * n, n, "new") for n in range(1, size + 1)])
            expected = [
                (n, "new", n // 2) if n % 2 == 0 else (n, kind, value) for n, kind, value in self.rows(2 * size + 1)
            ]
            self.assertEqual(self.kept(), expected)

    def test_update_by_two_keys(self) -> None:
        """A row is changed only if it has all of its keys; one that there is not is passed over."""
        for size in SIZES:
            self.fill(size)
            wanted = [(n, "0", 7) for n in range(size + 5)]
            bulk.update(self.connection, "things", "n, kind", "value", wanted)
            self.assertEqual(
                self.kept(), [(n, kind, 7 if kind == "0" else value) for n, kind, value in self.rows(size)]
            )

    # --- finding -------------------------------------------------------------------------------------------------

    def test_execute(self) -> None:
        """Every row with one of the values is found once, however often the value comes, and in however many pieces."""
        sql = "SELECT n, kind, value FROM things WHERE n IN {}"
        self.fill(6000)
        for size in SIZES:
            expected = self.rows(size)
            for wanted in (
                range(1, size + 1),
                [*range(1, size + 1), *range(1, size + 1)],
                [n for n in range(1, size + 1) for _ in range(2)],
                {*range(1, size + 1), -1, 10_000},
            ):
                self.assertEqual(sorted(bulk.execute(self.connection, sql, wanted)), expected)

    def test_execute_changes(self) -> None:
        """A statement that changes something does so to exactly the rows with the values."""
        for size in SIZES:
            self.fill(size + 3)
            wanted = [*range(1, size + 1), size, -1]
            found = bulk.execute(self.connection, "DELETE FROM things WHERE n IN {}", wanted)
            self.assertEqual(found, [])
            self.assertEqual(self.kept(), self.rows(size + 3)[size:])

    @settings(deadline=None, max_examples=examples(60))
    @given(st.lists(st.integers(0, 300), max_size=200), st.sets(st.integers(0, 300), max_size=200))
    def test_any_values(self, wanted: list[int], kept: set[int]) -> None:
        """Whatever is asked for, with repetitions and in any order: what there is of it is found once."""
        self.connection.execute("DELETE FROM things")
        bulk.insert(self.connection, "things", "n", [(n,) for n in kept])
        found = bulk.execute(self.connection, "SELECT n FROM things WHERE n IN {}", wanted)
        self.assertEqual(sorted(found), sorted((n,) for n in kept.intersection(wanted)))

    def test_of_each(self) -> None:
        """There is a row for each value, whether or not there is anything of it."""
        sql = "SELECT column1, (SELECT value FROM things WHERE n = column1) FROM {}"
        self.fill(2000)
        for size in SIZES:
            found = bulk.of_each(self.connection, sql, range(1, size + 1))
            expected = [(n, -n if n <= 2000 else None) for n in range(1, size + 1)]
            self.assertEqual(list(dict.fromkeys(found)), expected)

    def test_few_statements(self) -> None:
        """However many sizes there are, few different statements are made of them."""
        statements: set[str] = set()
        self.connection.set_trace_callback(lambda sql: statements.add(f"{sql[:6]} {sql.count('(')} {sql.count(',')}"))
        for size in range(1, 300):
            self.connection.execute("DELETE FROM things")
            bulk.insert(self.connection, "things", "n, kind, value", self.rows(size))
            bulk.update(self.connection, "things", "n", "value", [(n, 1) for n, *_ in self.rows(size)])
            bulk.execute(self.connection, "SELECT n FROM things WHERE n IN {}", range(size))
            bulk.of_each(self.connection, "SELECT column1 FROM {}", range(size))
        self.assertLess(len(statements), 100)
