"""Space that a database returns to the file system, and one of an older version that has to be rewritten first."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import StoreDamaged, StoreError
from tasksubmit.lifecycle.table import Event
from tasksubmit.lifecycle.task import Task
from tasksubmit.stores import compact
from tasksubmit.stores.check import check_state
from tasksubmit.stores.compact import compact_state
from tasksubmit.stores.migrations import migrate, schema_steps
from tasksubmit.stores.sqlite import DATABASE
from tasksubmit.testing.contracts.samples import OWN, at, new_task, step
from tests.stores.test_check import make_state
from tests.stores.test_sqlite import DirectoryCase

TASKS = 20
SIZE = 250_000


def make_old(directory: Path) -> None:
    """The database of a version that did not prepare it for shrinking."""
    directory.mkdir(parents=True)
    with closing(sqlite3.connect(directory / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, "tasks.db", schema_steps())


class SpaceCase(DirectoryCase):  # without tests of its own
    """A store in a directory, to be filled."""

    def size(self) -> int:
        """The size of the database file."""
        return (self.directory / DATABASE).stat().st_size

    async def fill(self, name: str = "t") -> list[Task]:
        """Keep much that has ended."""
        made = await gatherResults(
            [self.store.create(new_task(f"{name}-{n}", description="x" * SIZE), ()) for n in range(TASKS)]
        )
        return list(await gatherResults([self.store.apply(step(task, Event.DECLINE, 1)) for task, _ in made]))

    async def forget(self, tasks: list[Task]) -> None:
        """Remove it."""
        are_forgotten = await gatherResults([self.store.forget(task, at(2)) for task in tasks])
        self.assertEqual(are_forgotten, [True] * len(tasks))

    async def fill_and_forget(self, name: str = "t") -> None:
        """Keep much, and remove it."""
        await self.forget(await self.fill(name))


class SpaceTests(SpaceCase):
    """A new database."""

    async def test_shrinks(self) -> None:
        """The file of a new database shrinks with each step, and ends small."""
        await self.fill_and_forget()
        before = self.size()
        self.assertGreater(before, TASKS * SIZE * 0.9)
        returned = 0
        while (space := await self.store.return_space(1024 * 1024)).returned_bytes:
            returned += space.returned_bytes
            self.assertLessEqual(self.size(), before - returned + 64 * 1024)
        self.assertLess(self.size(), before / 20)
        await self.store.close()
        self.assertEqual(check_state(self.directory).problems, ())

    async def test_others_get_their_turn(self) -> None:
        """Other work that is asked for meanwhile is carried out between the steps."""
        await self.fill_and_forget()
        done: list[str] = []

        async def shrink() -> None:
            while (await self.store.return_space(256 * 1024)).returned_bytes:
                done.append("step")

        shrinking = Deferred.fromCoroutine(shrink())
        while not shrinking.called:
            await self.store.keep_note("other", str(len(done)))
            done.append("other")
        await shrinking
        last = len(done) - done[::-1].index("step")
        self.assertGreater(done[:last].count("other"), 5)

    async def test_little_room(self) -> None:
        """To remove what is long takes little room on the disk, whose lack may be the reason for it."""
        tasks = await self.fill()
        with closing(sqlite3.connect(self.directory / DATABASE, isolation_level=None)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            await self.forget(tasks)
            self.assertLess((self.directory / f"{DATABASE}-wal").stat().st_size, TASKS * SIZE / 20)

    async def test_reader(self) -> None:
        """A reader that another program has, a backup for one, delays the effect, and nothing else."""
        await self.fill_and_forget()
        with closing(sqlite3.connect(self.directory / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM tasks").fetchone()
            before = self.size()
            while (await self.store.return_space(1024 * 1024)).returned_bytes:
                pass
            self.assertGreaterEqual(self.size(), before)
            reader.execute("COMMIT")
        await self.store.close()
        self.assertLess(self.size(), before / 20)


class OldTests(SpaceCase):
    """A database of before."""

    @override
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        make_old(self.directory)
        self.store = self.make()
        self.store.open(OWN)
        self.addCleanup(lambda: self.store.close())

    async def test_reuse_only(self) -> None:
        """It opens, keeps what is free for reuse, and says that it cannot return it."""
        await self.fill_and_forget()
        size = self.size()
        space = await self.store.return_space(1024 * 1024)
        self.assertEqual((space.returned_bytes, space.can_shrink), (0, False))
        self.assertGreater(space.free_bytes, TASKS * SIZE * 0.9)
        await self.fill_and_forget("again")
        self.assertLess(self.size(), size * 1.01)

    async def test_compacted(self) -> None:
        """Rewritten once it is small, and shrinks from then on."""
        kept, _ = await self.store.create(new_task("kept"), ())
        await self.fill_and_forget()
        await self.store.close()
        compacted = compact_state(self.directory)
        self.assertGreater(compacted.before_bytes, TASKS * SIZE * 0.9)
        self.assertLess(compacted.after_bytes, compacted.before_bytes / 20)
        self.assertEqual(self.size(), compacted.after_bytes)
        self.assertEqual(check_state(self.directory).problems, ())
        self.store = self.make()
        self.store.open(OWN)
        self.assertEqual(await self.store.get(kept.key), kept)
        space = await self.store.return_space(0)
        self.assertEqual((space.free_bytes, space.can_shrink), (0, True))


class CompactTests(SynchronousTestCase):
    """What is not rewritten."""

    @override
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "state"
        make_state(self.directory)
        self.database = self.directory / DATABASE

    def test_another_program(self) -> None:
        """A database of another program is left alone."""
        with closing(sqlite3.connect(self.database)) as connection:
            connection.execute("PRAGMA application_id = 1")
        before = self.database.read_bytes()
        self.assertIn("of another program", str(self.assertRaises(StoreError, compact_state, self.directory)))
        self.assertEqual(self.database.read_bytes(), before)

    def test_damaged(self) -> None:
        """What is no database is named as damaged."""
        self.database.write_bytes(b"no database" * 1000)
        self.assertRaises(StoreDamaged, compact_state, self.directory)
        self.database.write_bytes(b"")
        self.assertRaises(StoreDamaged, compact_state, self.directory)

    def test_in_use(self) -> None:
        """A program that reads the database meanwhile keeps it as it is."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as reader:
            reader.execute("BEGIN IMMEDIATE")
            self.patch(compact, "BUSY_SECONDS", 0)
            error = self.assertRaises(StoreError, compact_state, self.directory)
            self.assertIn("it is unchanged", str(error))
        self.assertEqual(check_state(self.directory).problems, ())
        compact_state(self.directory)
