"""Files that are not what was written: a node and ``tasksubmit check`` say so, name the file, and lose nothing more."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.trial.unittest import TestCase

from tasksubmit.errors import StoreDamaged
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.stores.check import check_state
from tasksubmit.stores.sqlite import DATABASE, RESULTS, SQLiteTaskStore
from tasksubmit.testing.contracts.samples import OWN, new_task
from tests.node.helpers import ALICE, BOB
from tests.node.test_restart import RestartTestCase
from tests.processes import run
from tests.stores.support import create_task
from tests.stores.test_check import make_state

PAGE_BYTES = 4096
CHECKOUT = Path(__file__).resolve().parents[2]

_NOISE = b"\xa7\x01noise" * (PAGE_BYTES // 7)


def overwrite(path: Path, offset: int, content: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def page_with(path: Path, words: bytes) -> int:
    """Where the page of a database begins that has these bytes."""
    content = path.read_bytes()
    assert content.count(words) == 1, content.count(words)
    return content.index(words) // PAGE_BYTES * PAGE_BYTES


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a header that is noise": lambda path: overwrite(path, 0, _NOISE[:100]),
    "a first page of zeros": lambda path: overwrite(path, 0, bytes(PAGE_BYTES)),
    "nothing left": lambda path: os.truncate(path, 0),
    "one byte left": lambda path: os.truncate(path, 1),
    "one page left": lambda path: os.truncate(path, PAGE_BYTES),
    "half of it left": lambda path: os.truncate(path, path.stat().st_size // PAGE_BYTES // 2 * PAGE_BYTES),
    "no database at all": lambda path: path.write_bytes(b"dear diary\n" * 1000),
}
"""Damage that a start meets, whatever it is asked to do afterwards."""


class StartTests(TestCase):
    """A start on what is left of a state directory."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")  # trial's own may be too deep for a socket
        self.addCleanup(directory.cleanup)
        self.pristine = Path(directory.name) / "pristine"
        make_state(self.pristine)
        self.directory = self.pristine.with_name("state")
        self.database = self.directory / DATABASE

    def renew(self) -> None:
        """Have a whole state directory again."""
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.copytree(self.pristine, self.directory)

    def store(self) -> SQLiteTaskStore:
        """A store on the directory, as a node makes it."""
        assert IReactorThreads.providedBy(reactor)
        return SQLiteTaskStore(self.directory, reactor)

    def killed(self) -> Path:
        """Have a state directory as a node leaves it that was killed in the middle; gives its log."""
        with closing(sqlite3.connect(self.pristine / DATABASE, isolation_level=None)) as connection:
            for number in range(5):
                create_task(connection, new_task(f"logged-{number}", description="x" * 10_000), ())
            self.renew()
        return Path(f"{self.database}-wal")

    def assert_refused(self, path: Path, way_out: str) -> None:
        """Neither a start nor a check takes it, both name the file and the way out, and nothing is made worse."""
        before = path.read_bytes()
        for _ in range(2):
            error = self.assertRaises(StoreDamaged, self.store().open, OWN)
            self.assertIn(str(path), str(error))
            self.assertIn(way_out, str(error))
            self.assertNotIn("\n", str(error))
        self.assertIn(str(path), [problem.where for problem in check_state(self.directory).problems])
        self.assertEqual(path.read_bytes(), before)

    def test_database(self) -> None:
        """A database whose damage shows at once is refused, and stays as it is."""
        for name, damage in DAMAGES.items():
            with self.subTest(name):
                self.renew()
                damage(self.database)
                self.assert_refused(self.database, "restore it from a backup")

    def test_database_gone(self) -> None:
        """A database that is gone while its results are there is refused, and none is made in its place."""
        self.renew()
        self.database.unlink()
        results = self.directory / RESULTS
        before = sorted(results.rglob("*"))
        for _ in range(2):
            error = self.assertRaises(StoreDamaged, self.store().open, OWN)
            self.assertIn(f"{self.database} is gone, and {results} is not", str(error))
            self.assertIn("restore both from one backup, or move that away to start empty", str(error))
            self.assertNotIn("\n", str(error))
        self.assertFalse(self.database.exists())
        self.assertEqual(sorted(results.rglob("*")), before)

    async def test_start_empty(self) -> None:
        """As the errors say, a node starts empty once the damaged database and its results are out of the way."""
        self.renew()
        DAMAGES["nothing left"](self.database)
        self.assertRaises(StoreDamaged, self.store().open, OWN)
        self.database.rename(self.directory / "damaged.db")
        self.assertRaises(StoreDamaged, self.store().open, OWN)
        (self.directory / RESULTS).rename(self.directory / "kept")
        await self.assert_starts_empty()

    async def test_without_results(self) -> None:
        """A node whose results directory is empty has none to lose: it starts anew without its database."""
        self.renew()
        self.database.unlink()
        for path in (self.directory / RESULTS).iterdir():
            if path.is_file():
                path.unlink()
        await self.assert_starts_empty()

    async def assert_starts_empty(self) -> None:
        """A start is taken, and there is nothing."""
        store = self.store()
        store.open(OWN)
        self.assertEqual(await store.list_tasks(), [])
        await store.close()

    async def test_log(self) -> None:
        """A log that SQLite would pass over in silence is refused; without it, the node goes on with what is left."""
        log = self.killed()
        for offset in (0, 32 + 100):
            self.renew_log(log)
            overwrite(log, offset, _NOISE[:100])
            self.assert_refused(log, "move it away")
        log.unlink()
        store = self.store()
        store.open(OWN)
        self.assertEqual(len(await store.list_tasks()), 4)
        await store.close()

    def renew_log(self, log: Path) -> None:
        """Have the whole log again."""
        kept = log.with_name("kept")
        if not kept.exists():
            shutil.copy(log, kept)
        shutil.copy(kept, log)

    async def test_log_cut_short(self) -> None:
        """A log that a crash cut short is none to refuse: what was committed before is there."""
        log = self.killed()
        os.truncate(log, log.stat().st_size - 100)
        store = self.store()
        store.open(OWN)
        self.assertEqual(len(await store.list_tasks()), 8)
        await store.close()

    def test_command_line(self) -> None:
        """The process ends with one line and without a traceback, and so does the check."""
        self.renew()
        DAMAGES["a header that is noise"](self.database)
        options = ["--state-dir", str(self.directory.absolute())]
        listen = ["--address", str(OWN), "--listen", "tcp:0:interface=127.0.0.1"]
        started = self.run_program("run", *options, *listen)
        self.assertNotEqual(started.returncode, 0)
        told = started.stdout + started.stderr
        self.assertEqual(told.count(f"tasksubmit: {self.database.absolute()} is damaged or no database"), 1, told)
        self.assertNotIn("Traceback", told)
        checked = self.run_program(*options, "check")
        self.assertEqual((checked.returncode, checked.stderr), (1, ""))
        self.assertIn(f"problem: {self.database.absolute()} is damaged", checked.stdout)

    def run_program(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        command = [sys.executable, "-m", "tasksubmit", *arguments]
        return run(command, cwd=CHECKOUT, capture_output=True)


class DamagedPageTests(RestartTestCase):
    """Bob runs, and a page of his database is not what it was."""

    def database(self) -> Path:
        """Bob's."""
        return self.directory / f"node-{BOB.node}" / DATABASE

    async def begin(self, damage: Callable[[Path], None]) -> tuple[TaskKey, TaskKey]:
        """Damage what Bob has of the first of two tasks, while he runs; gives the keys of both."""
        keys = []
        for name in ("first", "second"):
            # So long that each has a page of its own.
            await self.done(self.alice.submit(BOB, f"the {name} work {name * 500}", task_id=name))
            await self.quiet()
            keys.append(TaskKey(Side.RECEIVER, ALICE, name))
        await self.restart_bob()
        damage(self.database())
        return keys[0], keys[1]

    async def refused(self, command: Deferred[Any]) -> None:
        """A command of Bob's fails with an error that names his database and the way out."""
        with self.assertRaises(StoreDamaged) as caught:
            await self.done(command)
        self.assertIn(str(self.database()), str(caught.exception))
        self.assertIn("`tasksubmit check`", str(caught.exception))

    async def assert_served(self, damage: Callable[[Path], None]) -> None:
        """Of the damaged task nothing is done, of the other one everything; peers are told to try again later."""
        first, second = await self.begin(damage)
        await self.refused(self.bob.store.get(first))
        await self.refused(self.bob.accept(first))
        await self.refused(self.bob.resolve("first"))
        await self.refused(self.bob.store.list_tasks(side=None, status=None, peer=None, before=None, limit=9))

        await self.done(self.alice.cancel(self.theirs(first)))
        await self.advance(1)
        [owed] = await self.done(self.alice.store.deliveries_of(self.theirs(first)))
        self.assertIn("the peer answered 'storage'", owed.last_error)
        self.assertIs(await self.status(self.alice, self.theirs(first)), TaskStatus.NEW)
        self.assertTrue(self.flushLoggedErrors(StoreDamaged))

        await self.done(self.bob.accept(second))
        await self.done(self.bob.execute(second))
        await self.done(self.bob.send_results(second, "done"))
        await self.done(self.wait(self.bob, second, "SUCCEEDED"))
        await self.done(self.wait(self.alice, self.theirs(second), "SUCCEEDED"))
        await self.done(self.alice.submit(BOB, "more work", task_id="third"))
        await self.quiet()
        self.assertIs(await self.status(self.bob, TaskKey(Side.RECEIVER, ALICE, "third")), TaskStatus.NEW)
        await self.stop(self.bob)
        self.assertNotEqual(check_state(self.database().parent).problems, ())

    async def test_zeros(self) -> None:
        """A page of zeros spoils the task that was on it, and no other."""
        await self.assert_served(lambda path: overwrite(path, page_with(path, b"the first work"), bytes(PAGE_BYTES)))

    async def test_noise(self) -> None:
        """A page of noise spoils the task that was on it, and no other."""
        await self.assert_served(lambda path: overwrite(path, page_with(path, b"the first work"), _NOISE[:PAGE_BYTES]))

    async def test_value(self) -> None:
        """A record that SQLite reads, but no node wrote, is damage as well: it is not taken for something else."""
        await self.assert_served(lambda path: overwrite(path, self.status_of_first(path), b"OLD"))

    async def test_text(self) -> None:
        """Text that is no UTF-8 is damage."""
        await self.assert_served(lambda path: overwrite(path, path.read_bytes().index(b"the first work"), b"\xff\xfe"))

    def status_of_first(self, path: Path) -> int:
        """Where the status of the first task stands, after the description."""
        content = path.read_bytes()
        return content.index(b"NEW", content.index(b"the first work"))


class DamagedResultTests(RestartTestCase):
    """A result file on Bob's disk is not what was saved."""

    async def owed(self) -> tuple[TaskKey, Path]:
        """Have Bob owe results to Alice, who is away; gives the key of his record, and the file."""
        key = await self.submit("t1")
        await self.done(self.bob.accept(key))
        await self.done(self.bob.execute())
        await self.quiet()
        await self.stop(self.alice)
        await self.done(self.bob.send_results(key, filename="data.csv", content=b"1,2\n3,4\n"))
        await self.quiet()
        task = await self.task(self.bob, key)
        return key, self.directory / f"node-{BOB.node}" / RESULTS / task.result_file

    async def assert_kept_back(self, damage: Callable[[Path], object], *words: str) -> None:
        """What is damaged is never sent; the delivery tells why, and is made once the file is restored."""
        key, path = await self.owed()
        whole = path.read_bytes()
        damage(path)
        self.alice = self.start(ALICE, BOB)
        await self.advance(10)
        [owed] = await self.done(self.bob.store.deliveries_of(key))
        for text in (str(path), "restore it from a backup", *words):
            self.assertIn(text, owed.last_error)
        story = [event.detail for event in await self.done(self.bob.store.events_of(await self.task(self.bob, key)))]
        self.assertTrue([detail for detail in story if str(path) in detail], story)
        self.assertIs(await self.status(self.alice, self.theirs(key)), TaskStatus.EXECUTING)
        self.assertEqual(await self.done(self.bob.store.scores()), [])

        path.write_bytes(whole)
        result = self.alice.result(self.theirs(key))
        await self.advance(70)
        self.assertEqual((await self.done(result)).file_data, whole)
        await self.done(self.wait(self.bob, key, "SUCCEEDED"))

    async def test_altered(self) -> None:
        """A byte that is another is found before anything is sent."""
        await self.assert_kept_back(lambda path: overwrite(path, 2, b"7"), "is damaged")

    async def test_truncated(self) -> None:
        """A file that is shorter is not sent."""
        await self.assert_kept_back(lambda path: os.truncate(path, 4), "its 4 bytes are not those that were saved")

    async def test_missing(self) -> None:
        """A file that is gone is waited for."""
        await self.assert_kept_back(Path.unlink, "No such file or directory")

    async def test_of_submitter(self) -> None:
        """Results that were damaged after they arrived are not handed out, nor does the node go down with them."""
        key, _ = await self.owed()
        self.alice = self.start(ALICE, BOB)
        await self.advance(3)
        await self.done(self.alice.result(self.theirs(key)))
        [path] = (self.directory / f"node-{ALICE.node}" / RESULTS).glob("*.csv")
        overwrite(path, 0, b"9")
        with self.assertRaises(StoreDamaged) as caught:
            await self.done(self.alice.result(self.theirs(key)))
        self.assertIn(str(path), str(caught.exception))
        self.assertIs(await self.status(self.alice, self.theirs(key)), TaskStatus.SUCCEEDED)
        await self.stop(self.alice)
        [problem] = check_state(path.parent.parent).problems
        self.assertIn(str(path), problem.where)
