"""The SQLite store: the contract in memory and in a directory, and what only a directory has."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import unittest
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tasksubmit.errors import StoreClosed, StoreDamaged, StoreError, StoreLocked, StoreTooNew
from tasksubmit.lifecycle.change import Booking, Change
from tasksubmit.lifecycle.table import DEADLINES, Event, TaskStatus
from tasksubmit.stores import disk, rows
from tasksubmit.stores.events import MAX_LINES
from tasksubmit.stores.migrations import schema_steps
from tasksubmit.stores.results import ResultFiles
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.contracts.samples import OWN, PEER, START, at, new_task, owed, step, told
from tasksubmit.testing.contracts.stores import StoreContract
from tasksubmit.testing.stores import MemoryTaskStore

CHECKOUT = Path(__file__).resolve().parents[2]


def real_reactor() -> IReactorThreads:
    """What runs the tests."""
    from twisted.internet import reactor

    assert IReactorThreads.providedBy(reactor)
    return reactor


class SQLiteContract(StoreContract):
    """The contract, and what SQLite's store bounds besides."""

    async def test_story_is_bounded(self) -> None:
        """A story that has grown to its bound keeps what it began with; its last line says what happened last."""
        task = await self.create(new_task())
        lines = tuple(told("failed", n, str(n)) for n in range(MAX_LINES + 3))
        await self.only(task, 0, events=lines)
        await self.only(task, 0, events=(told("settled", 5000, status=TaskStatus.DECLINED),))
        story = await self.store.events_of(task)
        self.assertEqual(story[:-1], list(lines[: MAX_LINES - 1]))
        last = told("settled", MAX_LINES - 1, status=TaskStatus.DECLINED)
        self.assertEqual(story[-1], evolve(last, times=5, last_at=at(5000)))

    async def test_long_descriptions(self) -> None:
        """A look takes only so many bytes of descriptions into memory, and one task at least."""
        tasks = [await self.owing(b"%d" % n, task_id=f"t-{n}") for n in range(4)]
        for most, count in ((1, 1), (5, 2)):  # bytes, of which each description has four
            self.patch(rows, "MAX_READ_BYTES", most)
            self.assertEqual(await self.ready(10), [b"0", b"1"][:count])
            self.assertEqual(await self.aged(10), [b"0", b"1"][:count])
            self.assertEqual(len(await self.store.due(DEADLINES[1], at(10), 100)), count)
            listed = await self.store.list_tasks(side=None, status=None, peer=None, before=None, limit=100)
            self.assertEqual([task.task_id for task in listed], ["t-3", "t-2"][:count])
        for task in tasks:
            await self.settle(task, b"%d" % (task.number - tasks[0].number), 20)
            await self.change(task, Event.DECLINE, 20)
        self.assertEqual(len(await self.store.ended(at(30), 100)), 2)


class MemoryTests(SQLiteContract, TestCase):
    """The contract, in memory."""

    def make_store(self) -> SQLiteTaskStore:
        return SQLiteTaskStore(None)

    async def reopen(self) -> None:
        """What is in memory goes when it is closed."""


class KeptMemoryTests(SQLiteContract, TestCase):
    """The contract, in the test kit's memory, after closing and opening again too."""

    def make_store(self) -> MemoryTaskStore:
        store = MemoryTaskStore()
        self.addCleanup(store.discard)
        return store


class PlainTests(StoreContract, unittest.TestCase):
    """The contract, run by test cases that know nothing of Deferreds."""

    def make_store(self) -> MemoryTaskStore:
        store = MemoryTaskStore()
        self.addCleanup(store.discard)
        return store


class DirectoryCase(TestCase):  # without tests of its own
    """A store in a directory, and the threads of the real reactor."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.store = self.make()
        self.store.open()
        self.addCleanup(self.store.close)

    def make(self) -> SQLiteTaskStore:
        """A store on the directory, not yet open."""
        return SQLiteTaskStore(self.directory, real_reactor())

    async def reopen(self) -> None:
        """Go on with another store on the same directory, as another process would."""
        await self.store.close()
        self.store = self.make()
        self.store.open()
        self.addCleanup(self.store.close)


class DirectoryContractTests(SQLiteContract, TestCase):
    """The contract, in a directory, after another store has opened it again too, as another process would."""

    def make_store(self) -> SQLiteTaskStore:
        self.directory = Path(self.mktemp())
        return self.make_again()

    def make_again(self) -> SQLiteTaskStore:
        return SQLiteTaskStore(self.directory, real_reactor())


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

    async def test_awkward_disk(self) -> None:
        """What the disk of the results cannot do is logged at the start, and a result survives that, and a restart."""
        make = os.open

        def picky(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if flags & os.O_CREAT and ":" in os.path.basename(path):
                raise OSError(errno.EINVAL, "Invalid argument")
            return make(path, flags, *arguments, **options)

        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        await self.store.close()
        self.patch(os, "open", picky)
        self.patch(os, "link", no_links)
        with capturedLogs() as logs:
            self.store.open()
        [line] = [formatEvent(event) for event in logs if "disk" in formatEvent(event)]
        self.assertIn("the disk of the results directory has limits: no hard links, no ':' in names; results", line)
        task, _ = await self.store.create(new_task(), [])
        saved = await self.store.save_result("t-1", "9:00 minutes.md", b"x")
        named = evolve(task, result_file=saved.name, result_filename="9:00 minutes.md")
        await self.store.apply(Change(before=task, after=named, at=START))
        await self.store.close()
        self.store.open()
        kept = await self.store.get(task.key)
        assert kept is not None
        self.assertEqual((kept.result_file, kept.result_filename), ("t-1.md", "9:00 minutes.md"))
        self.assertEqual(await self.store.read_result(kept.result_file), b"x")

    async def test_durable(self) -> None:
        """Commits are synced: the journal is a write-ahead log, and is synced with each of them."""
        connection = self.writer_connection()
        self.assertEqual(connection.execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(connection.execute("PRAGMA synchronous").fetchone(), (2,))

    def writer_connection(self) -> sqlite3.Connection:
        """The connection that writes, while its thread has nothing to do."""
        connection: Any = vars(self.store._writer)["_run"].__self__._connection
        assert isinstance(connection, sqlite3.Connection)
        return connection

    async def test_names_are_durable(self) -> None:
        """Once a new store is open its own name is synced, and those in its directory, that of the results included."""
        await self.store.close()
        self.directory = Path(self.mktemp())
        synced: list[tuple[Path, list[str]]] = []
        sync = disk.sync_directory

        def note_and_sync(directory: Path) -> None:
            synced.append((directory, sorted(os.listdir(directory))))
            sync(directory)

        self.patch(disk, "sync_directory", note_and_sync)
        await self.reopen()
        self.assertEqual(synced[0], (self.directory.parent, [self.directory.name]))
        self.assertEqual(synced[-1][0], self.directory)
        self.assertTrue({"lock", "results", "tasks.db"} <= set(synced[-1][1]))

    async def test_log_is_written_again(self) -> None:
        """A log that was left behind is written whole once more before it is read, since a sync may have failed."""
        database = Path(self.mktemp())
        log, content = Path(f"{database}-wal"), bytes(range(256)) * 10_000
        log.write_bytes(content)
        os.utime(log, (0, 0))
        disk.sync_log(database)
        self.assertEqual(log.read_bytes(), content)
        self.assertGreater(log.stat().st_mtime, 0)
        log.unlink()
        disk.sync_log(database)
        self.assertFalse(log.exists())

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
        name = (await saved[0]).name
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
        saved = self.store.save_result("t-1", "a.md", b"x").addCallback(lambda result: order.append(result.name))
        closed = self.store.close().addCallback(lambda _: order.append("closed"))
        self.refused(StoreLocked)
        reactor.callLater(0.05, leave.set)
        await closed
        await saved
        self.assertEqual(order, ["t-1_a.md", "closed"])

    async def test_close_waits_for_all_files_of_a_removal(self) -> None:
        """A close that comes while one of a task's results is removed waits for the other one, too."""
        from twisted.internet import reactor

        names = [(await self.store.save_result("t-1", "a.md", content)).name for content in (b"1", b"2")]
        ended = new_task(result_file=names[0], late_result_file=names[1], ended_at=START)
        task, _ = await self.store.create(ended, [])
        order: list[str] = []
        closing, leave = ThreadEvent(), ThreadEvent()
        discard = ResultFiles.discard

        def slow_discard(files: ResultFiles, name: str) -> None:
            closing.set()
            leave.wait(30)
            discard(files, name)
            order.append(name)

        self.patch(ResultFiles, "discard", slow_discard)
        forgotten = self.store.forget(task, START)
        while not closing.is_set():
            await deferLater(reactor, 0)
        closed = self.store.close().addCallback(lambda _: order.append("closed"))
        reactor.callLater(0.05, leave.set)
        await closed
        self.assertTrue(await forgotten)
        self.assertEqual(order, [*names, "closed"])

    async def test_commit_stands_though_settling_fails(self) -> None:
        """A change that is committed is told as such, even when its result file cannot be settled at once."""
        task, _ = await self.store.create(new_task(), [])
        name = (await self.store.save_result("t-1", "a.md", b"x")).name
        incoming = self.directory / "results" / ".incoming" / name
        incoming.unlink()
        incoming.mkdir()  # what cannot be unlinked
        changed = await self.store.apply(Change(before=task, after=evolve(task, result_file=name), at=START))
        self.assertEqual(changed.result_file, name)
        await self.store.discard_result("t-2_a.md")  # comes after it
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        incoming.rmdir()

    async def test_orphans_are_swept(self) -> None:
        """A result that no record came to name goes at the next open; one that a record names stays."""
        task, _ = await self.store.create(new_task(), [])
        named, orphan = [(await self.store.save_result("t-1", "a.md", content)).name for content in (b"1", b"2")]
        await self.store.apply(Change(before=task, after=evolve(task, result_file=named), at=START))
        await self.reopen()
        self.assertEqual(await self.store.read_result(named), b"1")
        with self.assertRaises(StoreError):
            await self.store.read_result(orphan)

    # --- what cannot be opened -----------------------------------------------------------------------------------

    def test_old_sqlite(self) -> None:
        """A SQLite that lacks what the store needs is refused, with what to install."""
        self.patch(sqlite3, "sqlite_version_info", (3, 32, 3))
        with self.assertRaisesRegex(StoreError, r"SQLite [0-9.]+ is too old: install 3\.33 or newer"):
            SQLiteTaskStore(None).open()

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
        self.assertRaises(TypeError, SQLiteTaskStore, Path(self.mktemp()))

    # --- group commit --------------------------------------------------------------------------------------------

    def commits(self) -> list[str]:
        """The commits from now on."""
        commits: list[str] = []
        self.writer_connection().set_trace_callback(
            lambda statement: commits.append(statement) if statement == "COMMIT" else None
        )
        return commits

    async def test_one_transaction(self) -> None:
        """A new task with what it owes is one commit, and so is a change with all that it brings about."""
        task, commits = new_task(), self.commits()
        task, _ = await self.store.create(task, [owed(task)])
        self.assertEqual(len(commits), 1)
        booking, line = Booking(PEER, 1, "why"), told("accept")
        change = step(task, Event.ACCEPT, 1, deliveries=(owed(task),), bookings=(booking,), events=(line,))
        await self.store.apply(change)
        self.assertEqual(len(commits), 2)
        self.assertEqual(len(await self.store.deliveries_of(task.key)), 2)
        self.assertEqual(await self.store.scores(), [(PEER, 1)])
        self.assertEqual(len(await self.store.events_of(task)), 1)

    async def test_group_commit(self) -> None:
        """Many changes asked at once go into few transactions; every one of them is there when its Deferred fires."""
        commits = self.commits()
        await gatherResults([self.store.create(new_task(f"t-{n}"), []) for n in range(500)])
        self.assertLess(len(commits), 20)
        self.assertEqual(len(await self.ids()), 500)
