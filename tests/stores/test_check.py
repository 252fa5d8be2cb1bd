"""What a look at a state directory finds: damage of every kind, and what was left over; and that it changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StoreDamaged, StoreError, StoreLocked
from tasksubmit.lifecycle.change import Booking, Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Event, Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.stores import check as check_module
from tasksubmit.stores import queries, retention
from tasksubmit.stores.check import Finding, Report, check_state
from tasksubmit.stores.disk import lock
from tasksubmit.stores.migrations import migrate, schema_steps
from tasksubmit.stores.results import INCOMING, ResultFiles
from tasksubmit.stores.sqlite import DATABASE, LOCK, RESULTS, SQLiteTaskStore
from tasksubmit.stores.wal import fault_of_log
from tasksubmit.testing.contracts.samples import OWN, PEER, at, new_task, step
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.stores.support import apply_change, create_task

CONTENT = b"what came of it"
PAGE_BYTES = 4096


@contextmanager
def opened(directory: Path) -> Iterator[sqlite3.Connection]:
    """The database of a state directory, in a transaction."""
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        yield connection


def create(connection: sqlite3.Connection, task: Task, *deliveries: Delivery) -> Task:
    """Keep a record."""
    return create_task(connection, task, deliveries)[0]


def make_state(directory: Path) -> None:
    """A state directory as a stopped node leaves it: a queue of two, results that are owed, a late result."""
    directory.mkdir(parents=True)
    (directory / LOCK).touch()
    files = ResultFiles(directory / RESULTS)
    files.open(lambda name: False)
    with closing(sqlite3.connect(directory / DATABASE, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        migrate(connection, "tasks.db", schema_steps())
        queries.own_by(connection, "tasks.db", OWN)
        queries.remember_features(connection, PEER, ["ack"])
        for number in (1, 2):
            new = create(connection, new_task(f"queued-{number}"))
            apply_change(connection, step(new, Event.ACCEPT, number))
        task = create(connection, new_task("done"))
        fields = {
            "result_type": "text",
            "result_file": files.write("done", "result.txt", CONTENT),
            "result_bytes": len(CONTENT),
            "result_sha256": sha256(CONTENT).hexdigest(),
        }
        update = TaskStatusUpdate("done", "EXECUTING", "", ack=True).to_json()
        for event, more, kind, payload in (
            (Event.ACCEPT, {}, None, b""),
            (Event.EXECUTE, {}, DeliveryKind.STATUS, update),
            (Event.COMPLETE, fields, DeliveryKind.RESULTS, b""),
        ):
            deliveries = (Delivery(key=task.key, kind=kind, payload=payload, created_at=at(9)),) if kind else ()
            task = apply_change(connection, step(task, event, 10, more, deliveries=deliveries))
        sent = create(connection, new_task("sent", Side.SUBMITTER))
        late = {"late_result_file": files.write("sent", "late.csv", b"1,2\n")}
        bookings = (Booking(PEER, -1, "expired"),)
        apply_change(connection, step(sent, Event.HEAR_EXPIRED, 10, late, bookings=bookings))
        for name in (*late.values(), fields["result_file"]):
            files.settle(str(name))


class CheckCase(SynchronousTestCase):
    """A state directory to damage."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()) / "state"
        make_state(self.directory)
        self.database = self.directory / DATABASE

    def check(self) -> Report:
        """Look at it."""
        return check_state(self.directory)

    def snapshot(self) -> dict[str, bytes]:
        """Every file and what is in it."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        return {str(path.relative_to(self.directory)): path.read_bytes() for path in files}

    def problem(self) -> Finding:
        """The one problem that there is."""
        [problem] = self.check().problems
        return problem

    def told(self, *statements: str) -> str:
        """What is told, in one line each, after ``statements`` on a copy of the state."""
        copy = self.directory.with_name("copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self.directory, copy)
        with opened(copy) as connection:
            for statement in statements:
                connection.execute(statement)
        return "\n".join(f"{p.where} {p.what}; {p.hint}" for p in check_state(copy).problems)

    def damage(self, path: Path, offset: int, content: bytes) -> None:
        """Overwrite a part of a file."""
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(content)


class WholeTests(CheckCase):
    """State as a node leaves it."""

    def test_statement_that_is_no_text(self) -> None:
        """A schema whose statements are no text any more, which SQLite quotes in its errors, is told like damage."""
        content = self.database.read_bytes()
        self.assertEqual(content.count(b"CREATE TABLE peer_features"), 1)
        self.database.write_bytes(content.replace(b"CREATE TABLE peer_features", b"CREATE \xffABLE peer_features"))
        self.assertIn("is damaged", self.check().problems[0].what)
        store = SQLiteTaskStore(self.directory, MemoryReactorClock())
        self.assertRaises(StoreDamaged, store.open)

    def test_whole(self) -> None:
        """What a node left is whole; the records and the results are counted."""
        self.assertEqual(self.check(), Report((), (), 4, 2, len(CONTENT) + 4))

    def test_nothing_changes(self) -> None:
        """Neither a file nor what is in it changes, nor does a file come to be."""
        before = self.snapshot()
        self.check()
        self.assertEqual(self.snapshot(), before)

    def test_log(self) -> None:
        """What a node that was killed had committed counts, and stays in the log for the next one."""
        with closing(sqlite3.connect(self.database)) as connection:
            create(connection, new_task("logged"))
            connection.commit()
            killed = self.directory.with_name("killed")
            shutil.copytree(self.directory, killed)
        (killed / f"{DATABASE}-shm").unlink()
        before = {path.name: path.read_bytes() for path in killed.iterdir() if path.is_file()}
        report = check_state(killed)
        self.assertEqual((report.problems, report.tasks), ((), 5))
        for name, content in before.items():
            self.assertEqual((killed / name).read_bytes(), content, name)
        self.assertEqual({path.name for path in killed.iterdir()} - before.keys(), {RESULTS, f"{DATABASE}-shm"})

    def test_older_schema(self) -> None:
        """A database of an older version is read as far as it goes; a notice says what the next start will do."""
        for name in ("", "-wal", "-shm"):
            Path(f"{self.database}{name}").unlink(missing_ok=True)
        with opened(self.directory) as connection:
            connection.isolation_level = None
            migrate(connection, "tasks.db", schema_steps()[:1])
            columns = ("revision", "attempt", "succeeded_heard", "is_time_disputed", "result_bytes")
            texts = ("justification", "outcome", "error", "code", "result_type", "result_filename", "late_result_file")
            values = {
                **dict.fromkeys((*columns, "time_idle_ms", "time_staged_ms", "time_cpu_ms"), 0),
                **dict.fromkeys(texts, ""),
                **{"side": "receiver", "peer": str(PEER), "task_id": "done", "description": "work"},
                **{"status": "COMPLETED", "created_at": 1, "result_file": "done_result.txt", "features": "[]"},
                "result_bytes": len(CONTENT),
            }
            names = ", ".join(values)
            marks = ", ".join(f":{name}" for name in values)
            connection.execute(f"INSERT INTO tasks ({names}) VALUES ({marks})", values)
            connection.execute(
                "INSERT INTO deliveries"
                " (side, peer, task_id, kind, payload, created_at, ready_at, attempts, last_error)"
                f" VALUES ('receiver', '{PEER}', 'done', 'results', x'', 1, 1, 0, '')"
            )
        report = self.check()
        self.assertEqual((report.problems, report.tasks, report.results), ((), 1, 1))
        schema, late = report.notices
        self.assertIn("has schema 1", schema.what)
        self.assertIn(f"brings it to schema {len(schema_steps())}", schema.hint)
        self.assertIn("sent_late.csv", late.where)

    def test_leftovers(self) -> None:
        """Files that no record names, and what interrupted writes left, are noticed, once each."""
        results = self.directory / RESULTS
        (results / "stray_a.txt").write_bytes(b"?")
        files = ResultFiles(results)
        files.write("half", "b.txt", b"not committed")
        (results / INCOMING / "begun_c.txt").write_bytes(b"c")
        report = self.check()
        self.assertEqual(report.problems, ())
        self.assertEqual(
            {notice.where: notice.what for notice in report.notices},
            {
                str(results / "stray_a.txt"): "is named by no record",
                str(results / INCOMING / "begun_c.txt"): "is what an interrupted write left",
                str(results / INCOMING / "half_b.txt"): "is what an interrupted write left",
            },
        )

    def test_after_retention(self) -> None:
        """Scores outlive the bookings that retention removes."""
        with opened(self.directory) as connection:
            task = queries.find_tasks(connection, [("sent", None)])[0][0]
            self.assertTrue(retention.forget(connection, task, at(0)))
        (self.directory / RESULTS / "sent_late.csv").unlink()
        self.assertEqual(self.check().problems, ())


class RefusedTests(CheckCase):
    """What cannot be looked at."""

    def refused(self, directory: Path, *errors: type[StoreError]) -> str:
        """Why a directory cannot be checked."""
        with self.assertRaises(errors or StoreError) as caught:
            check_state(directory)
        return str(caught.exception)

    def test_nothing_there(self) -> None:
        """A directory or a database that is not there is named, and is not made."""
        missing, empty = self.directory.with_name("missing"), self.directory.with_name("empty")
        self.assertIn(f"no state directory {missing}", self.refused(missing))
        empty.mkdir()
        self.assertIn(f"no database {empty / DATABASE}", self.refused(empty))
        self.assertEqual((missing.exists(), list(empty.iterdir())), (False, []))

    def test_node_runs(self) -> None:
        """While a node holds the lock nothing is looked at; while something is looked at no node starts."""
        held = lock(self.directory / LOCK)
        self.assertIn("stop the node first", self.refused(self.directory, StoreLocked))
        os.close(held)
        starts: list[Exception] = []

        def look(*arguments: object) -> str:
            starts.append(self.assertRaises(StoreLocked, lock, self.directory / LOCK))
            return ""

        self.patch(check_module, "fault_of_log", look)
        self.check()
        self.assertEqual(len(starts), 1)
        os.close(lock(self.directory / LOCK))

    def test_without_lock_file(self) -> None:
        """A copy of the database and the results is enough."""
        (self.directory / LOCK).unlink()
        self.assertEqual(self.check().problems, ())
        self.assertFalse((self.directory / LOCK).exists())

    def test_not_a_file(self) -> None:
        """A directory in the place of the database is an error that names it."""
        self.database.unlink()
        self.database.mkdir()
        self.assertIn(str(self.database), self.refused(self.directory))


class DatabaseTests(CheckCase):
    """A database that is not what it was."""

    def test_no_database(self) -> None:
        """A file that is none is one problem, which says what to do."""
        self.database.write_bytes(b"nothing of the kind" * 1000)
        problem = self.problem()
        self.assertEqual(problem.where, str(self.database))
        self.assertIn("is damaged or no database (file is not a database)", problem.what)
        self.assertEqual(problem.hint, "restore it from a backup, or move it and results/ away to start empty")

    def test_empty(self) -> None:
        """An empty one beside results has lost what it held; where nothing else is, nothing was lost."""
        self.database.write_bytes(b"")
        self.assertEqual(self.problem().what, "is empty: what it held is lost")
        shutil.rmtree(self.directory / RESULTS)
        report = self.check()
        self.assertEqual((report.problems, len(report.notices)), ((), 1))

    def test_foreign_and_newer(self) -> None:
        """The database of another program, or of a newer version, is not read further."""
        self.assertIn("another program", self.told("PRAGMA application_id = 7", "DELETE FROM tasks"))
        self.assertIn("has schema 999, made by a newer version", self.told("PRAGMA user_version = 999"))

    def test_truncated(self) -> None:
        """One that was cut off is damaged, wherever it was cut."""
        size = self.database.stat().st_size
        for length in (1, 100, 3000, PAGE_BYTES, size // 2 + 100, size - PAGE_BYTES):
            os.truncate(self.database, length)
            report = self.check()
            self.assertNotEqual(report.problems, (), length)
            self.assertIn(str(self.database), report.problems[0].where)

    def test_any_page(self) -> None:
        """A page that was zeroed or overwritten is found, whichever it is; only what is free may be."""
        with opened(self.directory) as connection:
            [[free]] = connection.execute("PRAGMA freelist_count")
        self.assertEqual(free, 0)
        content = self.database.read_bytes()
        for noise in (bytes(PAGE_BYTES), b"\xa7\x01noise" * (PAGE_BYTES // 7)):
            for offset in range(0, len(content), PAGE_BYTES):
                self.database.write_bytes(content)
                self.damage(self.database, offset, noise)
                self.assertNotEqual(self.check().problems, (), offset // PAGE_BYTES)

    def test_no_leftovers_when_unread(self) -> None:
        """No result is called a leftover when the records that may name it cannot be read."""
        with opened(self.directory) as connection:
            [[root]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'")
        self.damage(self.database, (root - 1) * PAGE_BYTES, bytes(PAGE_BYTES))
        report = self.check()
        self.assertNotEqual(report.problems, ())
        self.assertEqual(report.notices, ())

    def test_schema(self) -> None:
        """A table or an index that is missing, or is another, is found although SQLite thinks nothing of it."""
        self.assertIn("has no index tasks_queue", self.told("DROP INDEX tasks_queue"))
        altered = "CREATE INDEX tasks_queue ON tasks (queue_position)"
        self.assertIn("has another index tasks_queue", self.told("DROP INDEX tasks_queue", altered))
        self.assertIn("has no table tombstones", self.told("DROP TABLE tombstones"))


class RecordTests(CheckCase):
    """Rows that no node writes."""

    def assert_told(self, words: str, statement: str) -> None:
        """After the statement this is told, with the way out, besides what follows from it."""
        [told] = [line for line in self.told(statement).splitlines() if words in line]
        self.assertIn(f"restore {self.directory.with_name('copy') / DATABASE} from a backup", told)

    def test_unreadable(self) -> None:
        """A record that cannot be read is told by its number and its id, and the others are read all the same."""
        for column, value in (
            ("status", "'LOST'"),
            ("side", "x'ff00'"),
            ("peer", "'nobody'"),
            ("created_at", "'yesterday'"),
            ("ended_at", str(2**62)),
            ("features", "'['"),
            ("attempt", "'many'"),
            ("description", "x'00ff'"),
            ("description", "CAST(x'c328' AS TEXT)"),
        ):
            self.assert_told(
                "record 1 (task queued-1) cannot be read: ", f"UPDATE tasks SET {column} = {value} WHERE number = 1"
            )

    def test_status(self) -> None:
        """What a record's status requires, and forbids, is there, and not."""
        self.assert_told("is EXECUTING, and in the queue", "UPDATE tasks SET status = 'EXECUTING' WHERE number = 2")
        self.assert_told("task done from", "UPDATE tasks SET result_file = '' WHERE task_id = 'done'")
        self.assert_told(
            "is ACCEPTED, and has a result", "UPDATE tasks SET result_file = 'done_result.txt' WHERE number = 2"
        )

    def test_queue(self) -> None:
        """Places in the queue are not shared, and the head, and it alone, is staged."""
        self.assert_told("the same place", "UPDATE tasks SET queue_position = 1 WHERE number = 2")
        self.assert_told("not staged", "UPDATE tasks SET staged_at = NULL WHERE number = 1")
        self.assert_told("not the head", "UPDATE tasks SET staged_at = 5 WHERE number = 2")

    def test_deliveries(self) -> None:
        """What is owed can be read, belongs to a task, and is sent in its turn."""
        self.assert_told("delivery 1 (task done) cannot be read", "UPDATE deliveries SET kind = 'love' WHERE id = 1")
        self.assert_told("status that is owed cannot be read", "UPDATE deliveries SET payload = '{' WHERE id = 1")
        self.assert_told("nothing is before it", "UPDATE deliveries SET ready_at = NULL WHERE id = 1")
        self.assert_told("out of its turn", "UPDATE deliveries SET ready_at = 7 WHERE id = 2")
        with opened(self.directory) as connection:
            connection.execute("DELETE FROM deliveries WHERE id = 2")
        self.assert_told("task gone from", "UPDATE deliveries SET task_id = 'gone'")

    def test_given_up(self) -> None:
        """A delivery that was given up holds up no other."""
        self.assertEqual(
            self.told(
                "UPDATE deliveries SET given_up_at = 5, ready_at = NULL WHERE id = 1",
                "UPDATE deliveries SET ready_at = 5 WHERE id = 2",
            ),
            "",
        )

    def test_other_tables(self) -> None:
        """The other tables are read, too."""
        self.assert_told(f"scores of {PEER}", "UPDATE scores SET points = 'plenty'")
        self.assert_told("owner of me", "UPDATE owner SET address = 'me'")
        self.assert_told("peer features of him", "UPDATE peer_features SET peer = 'him'")
        self.assert_told(
            "tombstones of t", f"INSERT INTO tombstones VALUES ('t', 'x', '{PEER}', 'NEW', '', 0, 0, '', '', '')"
        )
        self.assert_told("events of 1", "INSERT INTO events VALUES (1, 1, 0, 'accept', 'x', 'GONE', '', 1, NULL)")

    def test_scores(self) -> None:
        """Scores are the sums of what was booked, as long as nothing was removed."""
        for statement in (
            "UPDATE scores SET points = 5",
            "DELETE FROM scores",
            "DELETE FROM bookings",
        ):
            self.assert_told(f"the score of {PEER} is not the sum", statement)


class ResultTests(CheckCase):
    """Result files that are not what was saved."""

    def setUp(self) -> None:
        super().setUp()
        self.result = self.directory / RESULTS / "done_result.txt"

    def assert_told(self, words: str) -> None:
        """The problem names the file and the task, and the way out."""
        problem = self.problem()
        self.assertEqual(problem.where, f"{self.result} of task done from {PEER}")
        self.assertIn(words, problem.what)
        self.assertEqual(problem.hint, "restore it from a backup, or from the agent that has the original")

    def test_missing(self) -> None:
        """One that is gone is a problem, whether it was paid for or late."""
        self.result.unlink()
        self.assert_told("cannot be read: No such file or directory")
        self.result.write_bytes(CONTENT)
        (self.directory / RESULTS / "sent_late.csv").unlink()
        self.assertIn("task sent to", self.problem().where)

    def test_truncated(self) -> None:
        """One that is shorter is a problem that tells both lengths."""
        os.truncate(self.result, 3)
        self.assert_told("has 3 bytes instead of 15")

    def test_altered(self) -> None:
        """One byte that is another is found."""
        self.damage(self.result, 4, b"!")
        self.assert_told("its 15 bytes are not those that were saved")

    def test_without_digest(self) -> None:
        """Of a record from before digests were kept, only the length can be compared."""
        with opened(self.directory) as connection:
            connection.execute("UPDATE tasks SET result_sha256 = ''")
        self.damage(self.result, 4, b"!")
        self.assertEqual(self.check().problems, ())
        os.truncate(self.result, 3)
        self.assert_told("has 3 bytes")

    def test_not_a_file(self) -> None:
        """Something else in its place is not read."""
        self.result.unlink()
        os.mkfifo(self.result)
        self.assert_told("cannot be read: it is not a file")

    def test_no_name_of_a_result(self) -> None:
        """A name that leads elsewhere is not followed."""
        with opened(self.directory) as connection:
            connection.execute("UPDATE tasks SET result_file = '../tasks.db' WHERE task_id = 'done'")
        self.assertIn("'../tasks.db' cannot be the name", self.problem().what)


class LogTests(CheckCase):
    """The log that SQLite keeps until it has time for it."""

    def setUp(self) -> None:
        super().setUp()
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            for number in range(5):
                create(connection, new_task(f"logged-{number}", description="x" * 10_000))
            killed = self.directory.with_name("killed")
            shutil.copytree(self.directory, killed)
        self.directory, self.database = killed, killed / DATABASE
        self.log = Path(f"{self.database}-wal")
        self.frame = PAGE_BYTES + 24

    def faults(self) -> list[str]:
        """What is wrong with the log."""
        return [problem.what for problem in self.check().problems if problem.where == str(self.log)]

    def test_whole(self) -> None:
        """A log that is whole is none to speak of, and neither is one that a crash cut short."""
        self.assertEqual(self.check().problems, ())
        size = self.log.stat().st_size
        for length in (size - 1, size - self.frame, size - 2 * self.frame - 7, 32, 7):
            os.truncate(self.log, length)
            self.assertEqual(self.check().problems, (), length)

    def test_garbage(self) -> None:
        """A log that does not begin as one is damaged: SQLite would take the database without it, and say nothing."""
        for offset in (0, 8, 16, 24):
            content = self.log.read_bytes()
            self.damage(self.log, offset, struct.pack("<I", 0xDEADBEEF))
            self.assertEqual(self.faults(), ["is damaged: it does not begin as a log does"])
            self.log.write_bytes(content)

    def test_middle(self) -> None:
        """A transaction that is damaged while later ones are there was not cut short by a crash."""
        for offset in (32 + 100, 32 + self.frame + 10, 32 + 2 * self.frame):
            content = self.log.read_bytes()
            self.damage(self.log, offset, b"noise noise noise noise ")
            self.assertEqual(self.faults(), ["is damaged in the middle"])
            self.log.write_bytes(content)

    def test_failed_commits(self) -> None:
        """What failed commits left behind those that succeeded later is no damage: nothing was ever begun upon it."""
        start = self.directory.with_name("start")
        start.mkdir()
        tails = []
        with closing(sqlite3.connect(start / DATABASE, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE t (x)")
            before = (start / f"{DATABASE}-wal").read_bytes()
            for length in (40_000, 20_000, 5_000):  # each begun on the same state, and shorter than the one before it
                shutil.rmtree(self.directory)
                shutil.copytree(start, self.directory)
                with closing(sqlite3.connect(self.database, isolation_level=None)) as other:
                    other.execute("INSERT INTO t VALUES (randomblob(?))", (length,))
                    tails.append(self.log.read_bytes()[len(before) :])
        log = b""
        for tail in reversed(tails):
            log += tail[len(log) :]
        self.log.write_bytes(before + log)
        self.assertEqual(fault_of_log(self.log), "")

    def test_end(self) -> None:
        """What the last transaction left may be half of it."""
        self.damage(self.log, self.log.stat().st_size - self.frame + 100, b"noise")
        self.assertEqual(self.faults(), [])

    def test_older_frames(self) -> None:
        """Frames of an older log behind those that count are none of its."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
            create(connection, new_task("last"))
            content = self.log.read_bytes()
        (self.directory / f"{DATABASE}-wal").write_bytes(content)
        self.assertGreater(len(content), 10 * self.frame)
        self.assertEqual(self.faults(), [])
