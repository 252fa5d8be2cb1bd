"""Bringing a database to this version's schema, and refusing those that cannot be brought there."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StoreDamaged, StoreError, StoreTooNew
from tasksubmit.lifecycle.table import ASK_AGAIN, LEASE_LOST, Side, TaskStatus
from tasksubmit.lifecycle.task import NO_REASON, Task, from_milliseconds
from tasksubmit.stores import deliveries, events, ledger, queries, retention
from tasksubmit.stores.migrations import APPLICATION_ID, migrate, schema_steps
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, START, at, new_task

MIGRATED = START + timedelta(days=40)
"""When a database of the first version is brought to this one."""

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


class SecondStepTests(SynchronousTestCase):
    """What the second step makes of a database of the first."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        migrate(self.connection, "a.db", schema_steps()[:1])

    def insert(self, table: str, **values: object) -> None:
        """A row, as the first version wrote it."""
        columns = ", ".join(values)
        self.connection.execute(
            f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
        )

    def old_task(self, task_id: str, side: Side, status: TaskStatus, **fields: object) -> None:
        """A record of the first version; times are milliseconds after `START`."""
        start = int(START.timestamp() * 1000)
        times = {
            name: start + value for name, value in fields.items() if name.endswith("_at") and isinstance(value, int)
        }
        texts = dict.fromkeys(
            (
                *("justification", "outcome", "error", "code", "result_type", "result_filename", "result_file"),
                "late_result_file",
            ),
            "",
        )
        numbers = dict.fromkeys(
            (
                *("revision", "attempt", "time_idle_ms", "time_staged_ms", "time_cpu_ms", "succeeded_heard"),
                *("result_bytes", "is_time_disputed"),
            ),
            0,
        )
        rest = {"features": "[]", "peer": str(PEER), "description": "read", "created_at": start}
        values: dict[str, object] = {**rest, **texts, **numbers, **fields, **times}
        self.insert("tasks", task_id=task_id, side=side.value, status=status.value, **values)

    def migrated(self, task_id: str) -> Task:
        """A record, as this version reads it."""
        [task] = queries.find_tasks(self.connection, [(task_id, None)])[0]
        return task

    def migrate(self) -> None:
        """Bring the database to this version, at `MIGRATED`."""
        seconds = {("%s", "now"): str(int(MIGRATED.timestamp()))}
        self.connection.create_function("strftime", 2, lambda *asked: seconds[asked])
        migrate(self.connection, "a.db", schema_steps())

    def test_executing(self) -> None:
        """What runs at the update has a day from then on, and one attempt; nothing else has a lease."""
        self.old_task("running", Side.RECEIVER, TaskStatus.EXECUTING, execute_started_at=7, attempt=1)
        others = [
            (side, status)
            for side in Side
            for status in TaskStatus
            if (side, status) != (Side.RECEIVER, TaskStatus.EXECUTING)
        ]
        for side, status in others:
            self.old_task(f"{side.value}-{status.value}", side, status, execute_started_at=7)
        self.migrate()
        until = MIGRATED + timedelta(days=1)
        running = self.migrated("running")
        self.assertEqual((running.lease_ms, running.lease_expires_at), (86_400_000, until))
        self.assertEqual(
            (running.attempt, running.max_attempts, running.is_lease_bound, running.put_back_at), (1, 1, False, None)
        )
        self.assertFalse(running.meets(LEASE_LOST, until))
        found = queries.due_tasks(self.connection, LEASE_LOST, until + timedelta(milliseconds=1), 99)
        self.assertEqual([task.task_id for task in found], ["running"])
        for side, status in others:
            other = self.migrated(f"{side.value}-{status.value}")
            self.assertEqual((other.lease_ms, other.lease_expires_at), (0, None), (side, status))

    def test_clock(self) -> None:
        """The time of the update is that of the machine's clock, in whole seconds."""
        self.old_task("over", Side.RECEIVER, TaskStatus.SUCCEEDED)
        earliest = datetime.now(timezone.utc).replace(microsecond=0)
        migrate(self.connection, "a.db", schema_steps())
        ended_at = self.migrated("over").ended_at
        assert ended_at is not None
        self.assertTrue(earliest <= ended_at <= datetime.now(timezone.utc), ended_at)
        self.assertEqual(ended_at.microsecond, 0)

    def test_heard(self) -> None:
        """An open submitted task was heard of when it was answered, if its receiver may be asked; others never were."""
        for features, is_asked in (
            (["ack"], True),
            (["ack", "persistent"], True),
            ([], False),
            (["acknowledge"], False),
        ):
            for status in TaskStatus:
                for side in Side:
                    self.old_task(
                        f"{side.value}-{status.value}-{len(features)}-{is_asked}",
                        side,
                        status,
                        answered_at=9,
                        features=json.dumps(features),
                    )
        self.old_task("unanswered", Side.SUBMITTER, TaskStatus.NEW, features='["ack"]')
        self.migrate()
        heard = queries.due_tasks(self.connection, ASK_AGAIN, at(10), 99)
        self.assertEqual(
            {task.task_id for task in heard},
            {f"submitter-{status}-{n}-True" for status in ("NEW", "ACCEPTED", "EXECUTING") for n in (1, 2)},
        )
        self.assertEqual({task.heard_at for task in heard}, {at(9)})
        [count] = self.connection.execute("SELECT count(*) FROM tasks WHERE heard_at IS NOT NULL").fetchone()
        self.assertEqual(count, 6)

    def test_ended(self) -> None:
        """What has ended counts from the update on, however long ago it did; what goes on has no end."""
        for side in Side:
            for status in TaskStatus:
                name = f"{side.value}-{status.value}"
                self.old_task(f"{name}-created", side, status)
                self.old_task(f"{name}-accepted", side, status, accepted_at=5)
                self.old_task(f"{name}-completed", side, status, accepted_at=5, completed_at=9)
        self.migrate()
        for side in Side:
            for status in TaskStatus:
                for word in ("created", "accepted", "completed"):
                    task = self.migrated(f"{side.value}-{status.value}-{word}")
                    self.assertEqual(task.ended_at, MIGRATED if task.is_settled else None, task.task_id)
        self.assertEqual(retention.ended(self.connection, MIGRATED, 99), [])
        over = retention.ended(self.connection, MIGRATED + timedelta(milliseconds=1), 99)
        self.assertEqual(len(over), 3 * (4 + 5))

    def test_owed(self) -> None:
        """What is owed has all of its time before it is given up; when it is tried next stays as it was."""
        self.old_task("t-1", Side.RECEIVER, TaskStatus.COMPLETED)
        for kind, created_at in (("status", 3), ("results", 5)):
            values: dict[str, object] = {"kind": kind, "payload": b"", "created_at": created_at, "ready_at": 7}
            key = {"task_id": "t-1", "side": "receiver", "peer": str(PEER)}
            self.insert("deliveries", **key, **values, attempts=2, last_error="x")
        self.migrate()
        owed = deliveries.of_task(self.connection, new_task("t-1").key)
        self.assertEqual([delivery.created_at for delivery in owed], [MIGRATED, MIGRATED])
        self.assertEqual(deliveries.aged(self.connection, MIGRATED, 9), [])
        self.assertEqual(len(deliveries.aged(self.connection, MIGRATED + timedelta(milliseconds=1), 9)), 2)
        rows = self.connection.execute("SELECT ready_at, attempts, last_error FROM deliveries").fetchall()
        self.assertEqual(rows, [(7, 2, "x"), (None, 2, "x")])  # the second waits for the first

    def test_the_rest_is_kept(self) -> None:
        """Records, deliveries but for their age, bookings, scores and features are as they were; stories are none."""
        for peer in (PEER, OTHER):
            self.old_task("t-1", Side.RECEIVER, TaskStatus.SUCCEEDED, peer=str(peer), result_file="t-1_a.md")
        key = {"task_id": "t-1", "side": "receiver", "peer": str(PEER)}
        for kind, ready_at in (("status", 5), ("results", None)):
            self.insert(
                "deliveries",
                **key,
                kind=kind,
                payload=b"{}",
                created_at=3,
                ready_at=ready_at,
                attempts=2,
                last_error="x",
            )
        self.insert("bookings", **key, party=str(PEER), points=4, reason="completed", booked_at=7)
        self.insert("scores", party=str(PEER), points=4)
        self.insert("peer_features", peer=str(PEER), features="ack")
        self.insert("owner", address=str(OWN))
        tables = ("bookings", "scores", "peer_features", "owner")
        before = {table: self.connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        columns = [name for _, name, *_ in self.connection.execute("PRAGMA table_info(deliveries)")]
        old = ", ".join(name for name in columns if name not in ("created_at", "sent_at"))
        rows = self.connection.execute(f"SELECT {old} FROM deliveries").fetchall()
        self.migrate()
        for table in tables:
            self.assertEqual(self.connection.execute(f"SELECT * FROM {table}").fetchall(), before[table])
        self.assertEqual(self.connection.execute(f"SELECT {old} FROM deliveries").fetchall(), rows)
        task = queries.get_tasks(self.connection, [new_task("t-1").key])[0]
        assert task is not None
        self.assertEqual((task.result_file, task.result_sha256, task.number), ("t-1_a.md", "", 1))
        self.assertEqual(events.of_task(self.connection, task.number), [])
        first, second = deliveries.of_task(self.connection, task.key)
        self.assertEqual((first.given_up_at, second.given_up_at), (None, None))
        over = retention.ended(self.connection, MIGRATED + timedelta(days=1), 9)
        self.assertEqual([found.key.peer for found in over], [OTHER])
        self.assertEqual(ledger.scores(self.connection), [(PEER, 4)])


class FourthStepTests(SynchronousTestCase):
    """From the third version: deadlines of submitters, cancellations, reasons in tombstones."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        migrate(self.connection, "a.db", schema_steps()[:3])

    def insert(self, table: str, **values: object) -> None:
        """A row of the old schema."""
        marks = ", ".join("?" * len(values))
        sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
        self.connection.execute(sql, tuple(values.values()))

    def old_task(self, task_id: str, **values: object) -> None:
        """An old record, of a submitter unless it says otherwise."""
        texts = ["justification", "outcome", "error", "code"]
        texts += ["result_type", "result_filename", "result_file", "late_result_file"]
        numbers = ["attempt", "time_idle_ms", "time_staged_ms", "time_cpu_ms"]
        numbers += ["succeeded_heard", "result_bytes", "is_time_disputed"]
        row: dict[str, object] = {
            **dict.fromkeys(texts, ""),
            **dict.fromkeys(numbers, 0),
            **{"task_id": task_id, "side": "submitter", "peer": str(PEER), "status": "NEW", "description": "work"},
            **{"revision": 0, "created_at": 5, "features": "[]"},
        }
        self.insert("tasks", **{**row, **values})

    def old_delivery(self, task_id: str, kind: str, **values: object) -> None:
        """An old delivery."""
        row: dict[str, object] = {"task_id": task_id, "side": "submitter", "peer": str(PEER), "kind": kind}
        row |= {"payload": b"", "created_at": 5, "attempts": 0, "last_error": ""}
        self.insert("deliveries", **{**row, **values})

    def migrated(self, task_id: str) -> Task:
        """The record now."""
        [task] = queries.get_tasks(self.connection, [new_task(task_id, Side.SUBMITTER).key])
        assert task is not None
        return task

    def deliveries_of(self, task_id: str) -> list[tuple[str, bool, bool]]:
        """What is pending for a task: its kind, whether it may be sent, and whether it was given up."""
        found = deliveries.of_task(self.connection, new_task(task_id, Side.SUBMITTER).key)
        return [(row.kind.value, row.ready_at is not None, row.given_up_at is not None) for row in found]

    def test_begun(self) -> None:
        """Only a submission that was never tried counts as not begun."""
        self.old_task("new")
        self.old_delivery("new", "submission", ready_at=5)
        for name, values in (("tried", {"attempts": 1}), ("sent", {"sent_at": 6})):
            self.old_task(name)
            self.old_delivery(name, "submission", ready_at=5, **values)
        self.old_task("answered", answered_at=7)
        self.old_task("unconfirmed", code="unconfirmed")
        migrate(self.connection, "a.db", schema_steps())
        self.assertTrue(self.migrated("new").is_unsent)
        for name in ("tried", "sent", "answered", "unconfirmed"):
            self.assertFalse(self.migrated(name).is_unsent, name)
        undecided = {
            name for name in ("new", "tried", "answered", "unconfirmed") if self.migrated(name).undecided_since
        }
        self.assertEqual(undecided, {"answered", "unconfirmed"})

    def test_given_up_submission(self) -> None:
        """A submission that was given up is tried again, unless a cancellation was requested."""
        for name, values in (("open", {}), ("cancelled", {"cancel_requested_at": 8})):
            self.old_task(name, delivery_given_up_at=7, **values)
            self.old_delivery(name, "submission", given_up_at=7, attempts=9)
            self.old_delivery(name, "status", ready_at=8)
        migrate(self.connection, "a.db", schema_steps())
        self.assertEqual(self.deliveries_of("open"), [("submission", True, False), ("status", False, False)])
        self.assertEqual(self.deliveries_of("cancelled"), [("status", True, False)])
        self.assertIsNone(self.migrated("open").delivery_given_up_at)
        self.assertEqual(self.migrated("cancelled").cancel_outcome, "cancelled_by_submitter")

    def test_given_up_results(self) -> None:
        """Other messages that were given up stay so, and hold up none behind them."""
        self.old_task("t-1", side="receiver", status="COMPLETED", delivery_given_up_at=7)
        self.old_delivery("t-1", "results", side="receiver", given_up_at=7)
        self.old_delivery("t-1", "status", side="receiver", ready_at=8)
        migrate(self.connection, "a.db", schema_steps())
        found = deliveries.of_task(self.connection, new_task("t-1").key)
        self.assertEqual(
            [(row.kind.value, row.ready_at, row.given_up_at) for row in found],
            [("results", None, from_milliseconds(7)), ("status", from_milliseconds(8), None)],
        )

    def test_tombstone(self) -> None:
        """An old tombstone gives no reason."""
        key = {"task_id": "t-1", "side": "receiver", "peer": str(PEER)}
        self.insert("tombstones", **key, status="CANCELLED", description_sha256="ab", removed_at=5)
        migrate(self.connection, "a.db", schema_steps())
        [left] = retention.tombstones(self.connection, "t-1")
        self.assertEqual((left.reason, left.status), (NO_REASON, TaskStatus.CANCELLED))
