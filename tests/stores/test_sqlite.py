"""The SQLite store: the contract in memory and in a directory, and what only a directory has."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorThreads
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tasksubmit.errors import StoreClosed, StoreDamaged, StoreError, StoreLocked, StoreTooNew
from tasksubmit.lifecycle.change import Booking, Change
from tasksubmit.lifecycle.table import DEADLINES, Event, Side, TaskStatus
from tasksubmit.stores import queries
from tasksubmit.stores.batches import Operation
from tasksubmit.stores.migrations import APPLICATION_ID, migrate, schema_steps
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tests.stores.contract import OWN, PEER, START, StoreContract, at, new_task, owed, step

CHECKOUT = Path(__file__).resolve().parents[2]


class MemoryTests(StoreContract, TestCase):
    """The contract, in memory."""

    def setUp(self) -> None:
        self.store = SQLiteTaskStore(None)
        self.store.open()
        self.addCleanup(self.store.close)


class DirectoryCase(TestCase):  # without tests of its own
    """A store in a directory, and the threads of the real reactor."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.store = self.make()
        self.store.open()
        self.addCleanup(self.store.close)

    def make(self) -> SQLiteTaskStore:
        """A store on the directory, not yet open."""
        from twisted.internet import reactor

        assert IReactorThreads.providedBy(reactor)
        return SQLiteTaskStore(self.directory, reactor)

    async def reopen(self) -> None:
        """Go on with another store on the same directory, as another process would."""
        await self.store.close()
        self.store = self.make()
        self.store.open()
        self.addCleanup(self.store.close)


class DirectoryContractTests(DirectoryCase, StoreContract):
    """The contract, in a directory, after closing and opening again too."""

    store: SQLiteTaskStore


class DirectoryTests(DirectoryCase):
    """What only a directory has."""

    async def test_owner(self) -> None:
        """A store belongs to the first node that opens it, and is refused to another."""
        await self.store.close()
        self.store.open(OWN)
        await self.store.close()
        error = self.assertRaises(StoreError, self.store.open, PEER)
        self.assertIn(f"holds the tasks of {OWN}, not of {PEER}", str(error))
        self.store.open(OWN)

    async def create(self, task_id: str = "t-1") -> None:
        """Keep a record."""
        await self.store.create(new_task(task_id), [])

    async def ids(self) -> list[str]:
        """The ids of all records."""
        tasks = await self.store.list_tasks(limit=1000)
        return sorted(task.task_id for task in tasks)

    # --- files ---------------------------------------------------------------------------------------------------

    async def test_permissions(self) -> None:
        """Everything in the state directory is the owner's alone."""
        await self.create()
        await self.store.save_result("t-1", "a.md", b"")
        modes = {
            path.relative_to(self.directory).as_posix(): oct(path.stat().st_mode & 0o777)
            for path in (self.directory, *self.directory.rglob("*"))
        }
        directories = (".", "results", "results/.incoming")
        self.assertEqual({name: modes.pop(name) for name in directories}, dict.fromkeys(directories, "0o700"))
        self.assertEqual(set(modes.values()), {"0o600"})
        self.assertTrue({"tasks.db", "tasks.db-wal", "lock", "results/t-1_a.md"} <= set(modes))

    async def test_durable(self) -> None:
        """Commits are synced: the journal is a write-ahead log, and is synced with each of them."""
        connection = self.writer_connection()
        self.assertEqual(connection.execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(connection.execute("PRAGMA synchronous").fetchone(), (2,))

    def writer_connection(self) -> sqlite3.Connection:
        """The connection that writes, while its thread has nothing to do."""
        connection: Any = vars(self.store._writer)["_connection"]
        assert isinstance(connection, sqlite3.Connection)
        return connection

    async def test_nothing_left_open(self) -> None:
        """After a close the write-ahead log is in the database, and no other file is left."""
        await self.create()
        await self.store.close()
        self.assertEqual(sorted(path.name for path in self.directory.iterdir()), ["lock", "results", "tasks.db"])

    async def test_same_store_again(self) -> None:
        """A closed store can be opened again, and has what it had."""
        await self.create()
        await self.store.close()
        self.store.open()
        self.assertEqual(await self.ids(), ["t-1"])

    async def test_close_finishes_what_was_asked(self) -> None:
        """What was asked before the close is done, also in the files, and what is asked after it is refused."""
        task, _ = await self.store.create(new_task(), [])
        saved = [self.store.save_result("t-1", "a.md", b"x" * 100_000) for _ in range(10)]
        name = await saved[0]
        created = [self.store.create(new_task(f"n-{n}"), []) for n in range(50)]
        change = Change(before=task, after=evolve(task, late_result_file=name), at=START)
        applied = self.store.apply(change)
        closed = self.store.close()
        self.failureResultOf(self.store.create(new_task("late"), []), StoreClosed)
        asked: list[Deferred[Any]] = [*created, *saved, applied]
        await closed
        self.assertTrue(all(deferred.called for deferred in asked))
        await gatherResults(asked)
        self.store.open()
        self.assertEqual(len(await self.ids()), 51)
        self.assertEqual([path.name for path in (self.directory / "results").glob("*.md")], [name])

    async def test_close_waits_for_files(self) -> None:
        """A close that comes while a result is written fires when that is done, and only then lets others in."""
        from twisted.internet import reactor

        order: list[str] = []
        leave = ThreadEvent()
        link = os.link

        def slow_link(*names: Path) -> None:
            leave.wait(30)
            link(*names)

        self.patch(os, "link", slow_link)
        saved = self.store.save_result("t-1", "a.md", b"x").addCallback(order.append)
        closed = self.store.close().addCallback(lambda _: order.append("closed"))
        self.refused(StoreLocked)
        reactor.callLater(0.05, leave.set)
        await closed
        await saved
        self.assertEqual(order, ["t-1_a.md", "closed"])

    async def test_commit_stands_though_settling_fails(self) -> None:
        """A change that is committed is told as such, even when its result file cannot be settled at once."""
        task, _ = await self.store.create(new_task(), [])
        name = await self.store.save_result("t-1", "a.md", b"x")
        incoming = self.directory / "results" / ".incoming" / name
        incoming.unlink()
        incoming.mkdir()  # what cannot be unlinked
        changed = await self.store.apply(Change(before=task, after=evolve(task, result_file=name), at=START))
        self.assertEqual(changed.result_file, name)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        incoming.rmdir()

    async def test_orphans_are_swept(self) -> None:
        """A result that no record came to name goes at the next open; one that a record names stays."""
        task, _ = await self.store.create(new_task(), [])
        named, orphan = [await self.store.save_result("t-1", "a.md", content) for content in (b"1", b"2")]
        await self.store.apply(Change(before=task, after=evolve(task, result_file=named), at=START))
        await self.reopen()
        self.assertEqual(await self.store.read_result(named), b"1")
        with self.assertRaises(StoreError):
            await self.store.read_result(orphan)

    # --- what cannot be opened -----------------------------------------------------------------------------------

    def refused(self, kind: type[StoreError], *words: str) -> None:
        """Opening fails in this way, with these words, and lets go of the directory again."""
        error = self.assertRaises(kind, self.make().open)
        self.assertIs(type(error), kind)
        for word in words:
            self.assertIn(word, str(error))

    async def test_locked(self) -> None:
        """A directory that is open is refused to any other store, and not thereafter."""
        self.refused(StoreLocked, f"{self.directory} is in use by another process")
        await self.create()
        await self.reopen()
        self.assertEqual(await self.ids(), ["t-1"])

    async def test_locked_from_another_process(self) -> None:
        """A directory that is open here is refused to another process."""
        code = (
            "import sys; from pathlib import Path; from twisted.internet import reactor\n"
            "from tasksubmit import SQLiteTaskStore, errors\n"
            "try: SQLiteTaskStore(Path(sys.argv[1]), reactor).open()\n"
            "except errors.StoreLocked: print('locked')\n"
        )
        command = [sys.executable, "-c", code, str(self.directory.absolute())]
        self.assertEqual(subprocess.check_output(command, cwd=CHECKOUT, text=True), "locked\n")

    async def test_too_new(self) -> None:
        """A database of a newer version is refused, as it is."""
        await self.create()
        await self.store.close()
        connection = sqlite3.connect(self.directory / "tasks.db")
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        before = (self.directory / "tasks.db").read_bytes()
        self.refused(StoreTooNew, str(self.directory / "tasks.db"), "schema 99")
        self.assertEqual((self.directory / "tasks.db").read_bytes(), before)
        connection = sqlite3.connect(self.directory / "tasks.db")
        connection.execute(f"PRAGMA user_version = {len(schema_steps())}")
        connection.close()
        self.store.open()
        self.assertEqual(await self.ids(), ["t-1"])

    async def test_foreign(self) -> None:
        """Another program's database is refused."""
        await self.store.close()
        (self.directory / "tasks.db").unlink()
        connection = sqlite3.connect(self.directory / "tasks.db")
        connection.execute("CREATE TABLE tasks (theirs)")
        connection.close()
        self.refused(StoreDamaged, str(self.directory / "tasks.db"), "another program")

    async def test_damaged(self) -> None:
        """A file that is cut short, or no database at all, is refused by its name."""
        for n in range(200):
            await self.create(f"t-{n}")
        await self.store.close()
        path = self.directory / "tasks.db"
        content = path.read_bytes()
        for damaged in (content[: len(content) // 2], content[:4096], content[:50], b"garbage " * 1000):
            path.write_bytes(damaged)
            self.refused(StoreDamaged, str(path), "restore it from a backup")
        path.write_bytes(content)
        self.store.open()
        self.assertEqual(len(await self.ids()), 200)

    async def test_busy(self) -> None:
        """A database that another program holds is not called damaged."""
        await self.store.close()
        holder = sqlite3.connect(self.directory / "tasks.db", isolation_level=None)
        self.addCleanup(holder.close)
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        connect = sqlite3.connect
        self.patch(sqlite3, "connect", lambda path, **options: connect(path, **{**options, "timeout": 0}))
        self.refused(StoreError, str(self.directory / "tasks.db"), "locked")

    async def test_no_directory(self) -> None:
        """A state directory that cannot be one is refused by its name."""
        await self.store.close()
        self.directory = Path(self.mktemp())
        self.directory.write_text("a file")
        self.refused(StoreError, f"the state directory {self.directory} cannot be used")

    async def test_disk_fails(self) -> None:
        """A commit that cannot be written fails with `StoreError`, nothing of it happened, and the store goes on."""
        await self.create("before")
        connection = self.writer_connection()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        task = new_task("large", description="x" * 10**6)
        with self.assertRaises(StoreError) as caught:
            await self.store.create(task, [])
        self.assertIn("full", str(caught.exception))
        connection.execute("PRAGMA max_page_count = 1000000")
        await self.create("after")
        self.assertEqual(await self.ids(), ["after", "before"])

    def test_needs_a_reactor(self) -> None:
        """A store in a directory without a reactor is a mistake of the caller."""
        self.assertRaises(TypeError, SQLiteTaskStore(Path(self.mktemp())).open)

    # --- group commit --------------------------------------------------------------------------------------------

    async def test_group_commit(self) -> None:
        """Many changes asked at once go into few transactions; every one of them is there when its Deferred fires."""
        commits: list[str] = []
        self.writer_connection().set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
        await gatherResults([self.store.create(new_task(f"t-{n}"), []) for n in range(500)])
        self.assertLess(len(commits), 20)
        self.assertEqual(len(await self.ids()), 500)


class QueryTests(SynchronousTestCase):
    """How SQLite goes about the store's statements."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        migrate(self.connection, "memory:", schema_steps())
        self.statements: list[str] = []

    def plan(self, sql: str, *values: object) -> str:
        """How SQLite would carry out a statement."""
        rows = self.connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
        return "; ".join(detail for _, _, _, detail in rows)

    def plans(self, operation: Operation) -> list[str]:
        """How SQLite carries out every statement of an operation, but the plain inserts."""
        self.statements.clear()
        self.connection.set_trace_callback(self.statements.append)
        operation(self.connection)
        self.connection.set_trace_callback(None)
        statements = [sql for sql in self.statements if not sql.startswith(("--", "INSERT"))]
        return [self.plan(sql) for sql in statements]

    def assert_plan(self, operation: Operation, expected: str) -> None:
        """The only statement of an operation is carried out like this."""
        self.assertEqual(self.plans(operation), [expected])

    def test_due(self) -> None:
        """What is due is found through the index of its deadline, in its order, without sorting."""
        for deadline in DEADLINES:
            plan = self.plan(queries.due_tasks_sql(deadline), 0, 1)
            index = f"tasks_{deadline.side}_{deadline.since}"
            self.assertEqual(plan, f"SEARCH tasks USING INDEX {index} ({deadline.since}<?)")

    def test_reads(self) -> None:
        """Every other look-up uses its index, and none sorts."""
        self.assert_plan(lambda c: queries.queue(c, 9), "SCAN tasks USING INDEX tasks_queue")
        key = "sqlite_autoindex_tasks_1"
        self.assert_plan(lambda c: queries.find_tasks(c, "t-1"), f"SEARCH tasks USING INDEX {key} (task_id=?)")
        self.assert_plan(
            lambda c: queries.get_task(c, new_task().key),
            f"SEARCH tasks USING INDEX {key} (task_id=? AND side=? AND peer=?)",
        )
        self.assert_plan(
            lambda c: queries.list_tasks(c, None, TaskStatus.NEW, None, 5, 9),
            "SEARCH tasks USING INDEX tasks_by_status (status=? AND number<?)",
        )
        self.assert_plan(lambda c: queries.list_tasks(c, None, None, None, None, 9), "SCAN tasks")
        self.assert_plan(
            lambda c: queries.ready_deliveries(c, PEER, START, 9),
            "SEARCH deliveries USING INDEX deliveries_ready (peer=? AND ready_at<?)",
        )
        self.assert_plan(
            lambda c: queries.next_delivery(c, PEER),
            "SEARCH deliveries USING COVERING INDEX deliveries_ready (peer=? AND ready_at>?)",
        )
        self.assert_plan(
            lambda c: queries.deliveries_of(c, new_task().key),
            "SEARCH deliveries USING INDEX deliveries_of_task (task_id=? AND side=? AND peer=?)",
        )

    def test_writes(self) -> None:
        """No change reads through all tasks or all deliveries to find its own."""
        task, _ = queries.create_task(self.connection, new_task(), [owed(new_task())])
        [delivery] = queries.deliveries_of(self.connection, task.key)
        change = step(
            task,
            Event.ACCEPT,
            5,
            deliveries=(owed(task),),
            bookings=(Booking(OWN, 1, ""),),
            settles=delivery.id,
        )
        plans = self.plans(lambda c: queries.apply_change(c, change))
        plans += self.plans(lambda c: queries.postpone_delivery(c, delivery.id, START, ""))
        self.assertGreater(len(plans), 5)
        for plan in plans:
            for part in plan.split("; "):
                self.assertRegex(part, "^(SEARCH|SCALAR SUBQUERY|SCAN tasks USING INDEX tasks_queue|$)", plan)

    def test_schema_has_every_deadline(self) -> None:
        """There is one index for each deadline, and none that no deadline needs."""
        rows = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%_at)%'")
        names = {name for (name,) in rows if name.startswith("tasks_")}
        self.assertEqual(names, {f"tasks_{deadline.side}_{deadline.since}" for deadline in DEADLINES})

    def test_mark(self) -> None:
        """Our databases carry our mark."""
        self.assertEqual(self.connection.execute("PRAGMA application_id").fetchone(), (APPLICATION_ID,))

    def test_times_are_milliseconds(self) -> None:
        """Times are kept as integer milliseconds since 1970."""
        queries.create_task(self.connection, new_task(created_at=at(1)), [])
        self.assertEqual(
            self.connection.execute("SELECT created_at, side FROM tasks").fetchone(),
            (1795348800001, Side.RECEIVER.value),
        )
