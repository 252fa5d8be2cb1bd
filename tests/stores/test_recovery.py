"""The SQLite store after a crash or damage: what the next open, or the next batch, makes of it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve

from tasksubmit.errors import StoreClosed, StoreDamaged, StoreError
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.task import Task
from tasksubmit.stores import retention, sqlite
from tasksubmit.stores.batches import each
from tasksubmit.stores.results import INCOMING, ResultFiles
from tasksubmit.testing.contracts.samples import START, new_task
from tests.stores.test_sqlite import DirectoryCase


class RemovalTests(DirectoryCase):
    """A removal by retention that did not come to its end."""

    async def ended(self) -> Task:
        """A task that has ended, with a result and a late one."""
        names = [(await self.store.save_result("t_1", "a_b.md", content)).name for content in (b"1", b"2")]
        task, _ = await self.store.create(new_task("t_1", ended_at=START), [])
        after = evolve(task, result_file=names[0], late_result_file=names[1])
        ended = await self.store.apply(Change(before=task, after=after, at=START))
        await self.store.discard_result("none")  # comes after what the change left to do with files
        return ended

    def files(self) -> set[str]:
        """Every file under the results directory."""
        results = self.directory / "results"
        return {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}

    async def test_crash_before_the_commit(self) -> None:
        """Results that were condemned stay when their record is still there at the next open."""
        task = await self.ended()
        files = ResultFiles(self.directory / "results")
        for name in (task.result_file, task.late_result_file):
            files.condemn(name)
        self.assertEqual(len(self.files()), 4)
        await self.reopen()
        self.assertEqual(self.files(), {task.result_file, task.late_result_file})
        self.assertEqual(await self.store.read_result(task.late_result_file), b"2")

    async def test_crash_after_the_commit(self) -> None:
        """Results whose record is gone go at the next open."""
        task = await self.ended()
        self.patch(ResultFiles, "discard", lambda files, name: None)
        self.assertTrue(await self.store.forget(task, START))
        self.assertEqual(len(self.files()), 4)
        await self.reopen()
        self.assertEqual(self.files(), set())

    async def test_commit_fails(self) -> None:
        """When it is not known whether the record went, the results wait for the next open, which looks."""
        task = await self.ended()

        def fail(*arguments: object) -> bool:
            raise StoreError("nobody knows")

        self.patch(retention, "forget", fail)
        with self.assertRaisesRegex(StoreError, "nobody knows"):
            await self.store.forget(task, START)
        condemned = {f"{INCOMING}/{name}" for name in (task.result_file, task.late_result_file)}
        self.assertTrue(condemned <= self.files())
        self.assertEqual(await self.store.read_result(task.result_file), b"1")
        await self.reopen()
        self.assertEqual(self.files(), {task.result_file, task.late_result_file})

    async def test_refused(self) -> None:
        """The results of a task that may not be removed are settled again at once."""
        task = await self.ended()
        self.assertFalse(await self.store.forget(evolve(task, revision=77), START))
        self.assertEqual(self.files(), {task.result_file, task.late_result_file})

    async def test_closed_meanwhile(self) -> None:
        """A removal that a close overtakes fails, and has removed nothing."""
        task = await self.ended()
        forgotten = self.store.forget(task, START)
        await self.store.close()
        with self.assertRaises(StoreClosed):
            await forgotten
        self.store.open()
        self.assertEqual(self.files(), {task.result_file, task.late_result_file})
        self.assertEqual(await self.store.get(task.key), task)

    async def test_damaged_result(self) -> None:
        """A result that was cut short is damaged by its digest, and the error names the file."""
        saved = await self.store.save_result("t-1", "a.md", b"content")
        path = self.directory / "results" / saved.name
        path.write_bytes(b"cont")
        with self.assertRaisesRegex(StoreDamaged, f"the result file {path} is damaged: its 4 bytes"):
            await self.store.read_result(saved.name, saved.sha256)


_LOOK = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute('SELECT count(*) FROM tasks').fetchone())"
)


class OutsiderTests(DirectoryCase):
    """Somebody else reads the database while it is in use: a shell, or a backup."""

    async def test_log_stays(self) -> None:
        """It is not the last to close the database, so SQLite leaves the log alone, and what is in it is not lost."""
        await self.store.create(new_task("t-1"), ())
        await self.reopen()
        await self.store.create(new_task("t-2"), ())
        database = str(self.directory / "tasks.db")
        look = [sys.executable, "-c", _LOOK, database]
        self.assertEqual(subprocess.run(look, check=True, capture_output=True, text=True).stdout.strip(), "2")
        log = Path(f"{database}-wal")
        self.assertTrue(log.exists())
        await self.store.create(new_task("t-3"), ())
        self.assertEqual(subprocess.run(look, check=True, capture_output=True, text=True).stdout.strip(), "3")


class ReopenTests(DirectoryCase):
    """A connection that is not trusted any more."""

    def setUp(self) -> None:
        super().setUp()
        self.path = self.directory / "tasks.db"

    def writer(self) -> Any:
        """The thread that writes."""
        return vars(self.store)["_writer"]

    def connection(self) -> Any:
        """Its connection, while it has nothing to do."""
        return vars(self.writer())["_run"].__self__._connection

    async def lose(self) -> None:
        """Let the writer find its transaction gone, which nothing explains."""
        with self.assertRaisesRegex(StoreError, f"{self.path} could not be used: a statement ended the transaction"):
            await self.writer().run(each, lambda connection: connection.execute("ROLLBACK"))
        self.assertIsNone(self.connection())

    async def test_goes_on(self) -> None:
        """After a write that failed the store connects again, checks the database, and goes on as durably."""
        before, _ = await self.store.create(new_task("before"), [])
        await self.lose()
        self.assertEqual(await self.store.get(before.key), before)
        await self.store.create(new_task("after"), [])
        self.assertEqual({task.task_id for task in await self.store.list_tasks()}, {"before", "after"})
        self.assertEqual(self.connection().execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(self.connection().execute("PRAGMA synchronous").fetchone(), (2,))
        await self.reopen()
        self.assertEqual(len(await self.store.list_tasks()), 2)

    async def test_confirm(self) -> None:
        """`confirm` connects again; the database file then has all that reads show, and the log nothing."""
        task, _ = await self.store.create(new_task("before"), [])
        await self.lose()
        await self.store.confirm()
        self.assertIsNotNone(self.connection())
        self.assertEqual(Path(f"{self.path}-wal").read_bytes(), b"")
        self.assertEqual(await self.store.get(task.key), task)

    async def test_read_by_another_program(self) -> None:
        """Nothing is confirmed while a program reads an older state of the database, whose log is needed then."""
        self.patch(sqlite, "_BUSY_SECONDS", 0.01)
        await self.store.create(new_task("before"), [])
        with closing(sqlite3.connect(self.path, isolation_level=None)) as backup:
            backup.execute("BEGIN")
            backup.execute("SELECT count(*) FROM tasks").fetchone()
            await self.store.create(new_task("after"), [])
            await self.lose()
            for ask in (self.store.confirm, lambda: self.store.create(new_task("during"), [])):
                with self.assertRaisesRegex(
                    StoreError, f"{self.path} cannot be written to .* another program reads it"
                ):
                    await ask()
            self.assertEqual(len(await self.store.list_tasks()), 2)
        await self.store.confirm()
        self.assertEqual(len(await self.store.list_tasks()), 2)

    async def test_damaged(self) -> None:
        """A database that is not whole is not written on; once it is restored the store goes on."""
        await self.store.create(new_task("before"), [])
        root, size = await self.writer().run(each, self.place_of_scores)
        await self.reopen()  # all of it is in the database now, and not in the log
        await self.lose()
        whole = self.path.read_bytes()
        damaged = whole[: (root - 1) * size] + b"\xff" * size + whole[root * size :]
        self.path.write_bytes(damaged)
        for _ in range(2):
            with self.assertRaisesRegex(StoreDamaged, f"{self.path} is damaged or no database"):
                await self.store.create(new_task("new"), [])  # which has nothing to do with scores
        self.assertEqual(self.path.read_bytes(), damaged)
        self.path.write_bytes(whole)
        await self.store.create(new_task("new"), [])
        self.assertEqual(len(await self.store.list_tasks()), 2)

    def place_of_scores(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """The number of the page that the scores begin on, and the size of a page in bytes."""
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'scores'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        return root, size

    async def test_no_database(self) -> None:
        """What is no database at all is not written on either."""
        await self.lose()
        self.path.write_bytes(b"garbage " * 1000)
        with self.assertRaisesRegex(StoreDamaged, f"{self.path} is damaged or no database"):
            await self.store.create(new_task(), [])
        self.assertTrue(Path(self.path).read_bytes().startswith(b"garbage"))

    async def test_gone(self) -> None:
        """A database that is gone is told as such, and no empty one is made in its place."""
        await self.lose()
        moved = self.path.rename(self.directory / "moved.db")
        for _ in range(2):
            with self.assertRaisesRegex(StoreDamaged, rf"{self.path} is damaged or no database \(it is gone\)"):
                await self.store.create(new_task(), [])
        self.assertFalse(self.path.exists())
        moved.rename(self.path)
        await self.store.create(new_task(), [])

    async def test_reads_name_the_file(self) -> None:
        """What a read finds damaged is told with the name of the file."""
        self.patch(retention, "result_bytes", self.malformed)
        with self.assertRaisesRegex(StoreDamaged, f"{self.path} is damaged or no database"):
            await self.store.result_bytes()

    def malformed(self, connection: sqlite3.Connection) -> int:
        """Fails as SQLite does with a damaged file."""
        raise sqlite3.DatabaseError("database disk image is malformed")
