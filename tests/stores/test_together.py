"""Many calls in one batch do what each does in a batch of its own: the same results, and the same in the database."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import StaleTask, TaskForgotten
from tasksubmit.lifecycle.change import Booking, Change, DeliveryKind
from tasksubmit.lifecycle.table import TRANSITIONS, Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.stores import events, queries, retention
from tasksubmit.stores.batches import Statement, each, run_batch
from tasksubmit.stores.changes import apply_changes, create_tasks
from tasksubmit.stores.events import MAX_LINES
from tasksubmit.stores.migrations import migrate, schema_steps
from tasksubmit.stores.threads import Call
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, at, new_task, owed, step, told
from tests.stores.support import apply_change, create_task
from tests.tiers import examples

SIZES = (1, 15, 16, 17, 33, 63, 64, 65, 130)
"""Around the lengths into which many rows are cut."""

TABLES = ("tasks", "deliveries", "events", "bookings", "scores", "tombstones")


def database() -> sqlite3.Connection:
    """A store's database without anything in it."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, "memory:", schema_steps())
    return connection


def copied(original: sqlite3.Connection) -> sqlite3.Connection:
    """Another database with the same in it."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    original.backup(copy)
    return copy


def content(connection: sqlite3.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All that is in a database, but the numbers that only say what comes before what.

    Of queue positions and ids of deliveries the order is told in place of themselves: how many of them were used up
    meanwhile may differ.
    """
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table in TABLES:
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [name for name, *_ in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        for name in {"tasks": ["queue_position"], "deliveries": ["id"]}.get(table, []):
            places = {value: place for place, value in enumerate(sorted(row[name] for row in rows if row[name]))}
            if table == "deliveries":  # in which order different tasks came to owe is told by their times
                rows.sort(key=lambda row: (row["task_id"], row["side"], row["peer"], row["id"]))
                places = {row["id"]: place for place, row in enumerate(rows)}
            for row in rows:
                row[name] = places.get(row[name])
        found[table] = sorted((tuple(row.values()) for row in rows), key=repr)
    return found


def outcome(result: Any) -> object:
    """A result, or of a failure its type and its words."""
    return (result.type, str(result.value)) if isinstance(result, Failure) else result


def run_alone(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
    """Run each call in a batch of its own."""
    return [result for call in calls for result in run_batch(connection, [call])]


@lru_cache(maxsize=1)
def populated() -> sqlite3.Connection:
    """A database with a few tasks of every kind in it, a long story, and messages that wait or were given up."""
    connection = database()
    connection.execute("BEGIN")
    for side in Side:
        for task_id in ("a", "b", "c"):
            task, _ = create_task(connection, new_task(task_id, side), [owed(new_task(task_id, side), b"first")])
    events.tell(connection, [(task.number, told(f"line {n}")) for n in range(MAX_LINES - 2)])
    for task_id in ("b", "c", "d", "e", "f"):
        task = (
            queries.get_tasks(connection, [new_task(task_id).key])[0]
            or create_task(connection, new_task(task_id), [])[0]
        )
        messages = (owed(task, b"status", 1), owed(task, b"progress", 1, DeliveryKind.PROGRESS))
        task = apply_change(connection, step(task, Event.ACCEPT, 1, deliveries=messages))
        if task_id == "b":
            task = apply_change(connection, step(task, Event.EXECUTE, 2, bookings=(Booking(OWN, 3, "before"),)))
    [_, second, _] = delivery_ids(connection, new_task("c").key)
    change = queries.get_tasks(connection, [new_task("c").key])[0]
    assert change is not None
    apply_change(connection, Change(before=change, after=change, at=at(3), gives_up=second))
    for peer in (PEER, OTHER):
        task, _ = create_task(connection, new_task("gone", peer=peer), [])
        retention.forget(connection, apply_change(connection, step(task, Event.DECLINE, 4)), at(5))
    connection.execute("COMMIT")
    return connection


def delivery_ids(connection: sqlite3.Connection, key: TaskKey) -> list[int]:
    """What is owed for a task, or was given up."""
    sql = "SELECT id FROM deliveries WHERE task_id = ? AND side = ? AND peer = ? ORDER BY id"
    return [number for (number,) in connection.execute(sql, (key.task_id, key.side.value, str(key.peer)))]


KINDS = st.sampled_from(DeliveryKind)
LINES = st.builds(told, st.sampled_from(["x", "y"]), st.integers(0, 3), st.sampled_from(["", "z"]))
PARTIES = st.sets(st.sampled_from([OWN, PEER, OTHER]), max_size=2)


def draw_creation(data: st.DataObject, number: int) -> Call:
    """A task that is new, or has the key of one that is known or forgotten."""
    task_id = data.draw(st.sampled_from(["a", "gone", "new 1", "new 2", f"{number}", f"{number}", f"{number}"]))
    task = new_task(
        task_id,
        data.draw(st.sampled_from(Side)),
        data.draw(st.sampled_from([PEER, PEER, OTHER])),
        description=str(number),
        heard_at=data.draw(st.sampled_from([None, at(7)])),
    )
    kinds = data.draw(st.lists(KINDS, max_size=2))
    return create_tasks, (task, [owed(task, b"%d" % number, kind=kind) for kind in kinds])


def draw_change(data: st.DataObject, connection: sqlite3.Connection, before: Task, number: int, now: datetime) -> Call:
    """What may happen to a task: an event of the table, or nothing but what is owed for it otherwise."""
    allowed = [event for side, status, event in TRANSITIONS if side is before.side and status is before.status]
    event = data.draw(st.sampled_from([*allowed, None]))
    ids = st.sampled_from([None, *delivery_ids(connection, before.key)])
    kinds = data.draw(st.lists(KINDS, max_size=2))
    effects: dict[str, Any] = {
        "deliveries": tuple(owed(before, b"%d %d" % (number, n), 100 + number, kind) for n, kind in enumerate(kinds)),
        "events": tuple(data.draw(st.lists(LINES, max_size=3))),
        "settles": data.draw(ids),
        "gives_up": data.draw(ids),
        "revives": data.draw(st.booleans()),
    }
    if event is None:
        return apply_changes, Change(before=before, after=before, at=now, **effects)
    # Points are booked by events alone.
    bookings = tuple(Booking(party, data.draw(st.integers(-1, 5)), str(number)) for party in data.draw(PARTIES))
    change = step(before, event, 0, {"justification": str(number)}, bookings=bookings, **effects)
    return apply_changes, evolve(change, at=now)


def draw_statement(data: st.DataObject, tasks: Sequence[Task], now: datetime) -> Call:
    """What is carried out in its place."""

    def count(connection: sqlite3.Connection) -> object:
        return connection.execute("SELECT count(*), max(revision) FROM tasks").fetchone()

    task = data.draw(st.sampled_from(tasks))
    statements: list[Statement] = [
        count,
        lambda connection: retention.forget(connection, task, now),
        lambda connection: retention.drop_tombstones(connection, now, 1),
        lambda connection: queries.remember_features(connection, PEER, ["ack"]),
    ]
    return each, data.draw(st.sampled_from(statements))


def without_place(task: Task) -> Task:
    """A record that does not say which number its place in the queue has, but whether it has one."""
    return task.evolved(queue_position=None if task.queue_position is None else 0)


def is_overtaken(call: Call, connection: sqlite3.Connection) -> bool:
    """Whether a call changes a record that was staged since it was read, and to which nothing else has happened."""
    operation, change = call
    if operation is not apply_changes or change.before.staged_at is not None:
        return False
    [current] = queries.get_tasks(connection, [change.before.key])
    return current is not None and current.evolved(staged_at=None, revision=current.revision - 1) == change.before


class TogetherTests(SynchronousTestCase):
    """Together as alone."""

    def connect(self, original: sqlite3.Connection | None = None) -> sqlite3.Connection:
        """A database, empty or like another, until the end of the test."""
        connection = database() if original is None else copied(original)
        self.addCleanup(connection.close)
        return connection

    def assert_same(self, together: sqlite3.Connection, alone: sqlite3.Connection) -> None:
        """Two databases have the same in them."""
        found, expected = content(together), content(alone)
        for table in TABLES:
            self.assertEqual(found[table], expected[table], table)

    def assert_results(self, found: Sequence[Any], expected: Sequence[Any], connection: sqlite3.Connection) -> None:
        """Results are the same, but for what other calls of the batch did, which a record may tell already.

        That is that it was staged, or of a record that was created again what it has become.
        """
        kinds = {result.type for result in found if isinstance(result, Failure)}
        self.assertLessEqual(kinds, {StaleTask, TaskForgotten})
        changed = [result for result in expected if isinstance(result, Task)]
        for one, other in zip(map(outcome, found), map(outcome, expected), strict=True):
            if isinstance(one, Task) and isinstance(other, Task):
                self.assert_record(one, other, connection)
            elif isinstance(one, tuple) and one[1] is False and one != other:
                self.assertIn(without_place(one[0]), map(without_place, changed))
                self.assertIsInstance(other, tuple)
            else:
                self.assertEqual(one, other)

    def assert_record(self, found: Task, expected: Task, connection: sqlite3.Connection) -> None:
        """A record is as expected, unless it became head of the queue, which it says."""
        if found.staged_at is not None and expected.staged_at is None:
            [stored] = queries.get_tasks(connection, [found.key])
            assert stored is not None
            self.assertEqual(stored.staged_at, found.staged_at)
            expected = expected.evolved(staged_at=found.staged_at, revision=expected.revision + 1)
        self.assertEqual(without_place(found), without_place(expected))

    @settings(deadline=None, max_examples=examples(100))
    @given(st.data())
    def test_any_batch(self, data: st.DataObject) -> None:
        """Whatever calls share a batch, each has the result, and all have the effect, of a batch for each.

        Only a change of what an earlier one of the same batch has made head of the queue is left out: alone it comes
        too late, and together it does not, for the queue is staged once, in the end. (See `test_heads`.) The calls that
        move the queue do so at one time.
        """
        alone = copied(populated())
        stale = data.draw(st.lists(st.sampled_from(queries.list_tasks(alone, None, None, None, None, 99)), max_size=2))
        for turn in range(data.draw(st.integers(1, 3))):
            together = copied(alone)
            tasks = queries.list_tasks(together, None, None, None, None, 99)
            calls: list[Call] = []
            expected = []
            for number in range(turn * 100, turn * 100 + data.draw(st.integers(1, 9))):
                kind = data.draw(st.sampled_from(["change"] * 6 + ["create"] * 3 + ["again", "statement"]))
                if kind == "create":
                    call = draw_creation(data, number)
                elif kind == "statement":
                    call = draw_statement(data, tasks, at(turn))
                elif kind == "again" and calls:
                    call = data.draw(st.sampled_from(calls))
                else:
                    call = draw_change(
                        data, together, data.draw(st.sampled_from([*tasks, *stale])), number, at(1000 + turn)
                    )
                if not is_overtaken(call, alone):
                    calls.append(call)
                    expected += run_batch(alone, [call])
            found = run_batch(together, calls)
            self.assert_results(found, expected, together)
            self.assert_same(together, alone)
            together.close()
        alone.close()

    def test_any_size(self) -> None:
        """However many calls share a batch, each has the result, and all have the effect, of a batch for each."""
        for size in SIZES:
            together, alone = self.connect(), self.connect()
            creations: list[Call] = []
            for number in range(size):
                task = new_task(f"t{number}", peer=(PEER, OTHER)[number % 2], description=str(number))
                creations.append((create_tasks, (task, [owed(task, b"new", number)] * (number % 3))))
            created = run_batch(together, creations)
            self.assertEqual(created, run_alone(alone, creations))
            self.assertEqual([(task.number, is_new) for task, is_new in created], [(n + 1, True) for n in range(size)])
            changes: list[Call] = []
            for number, (task, _) in enumerate(created):
                effects: dict[str, Any] = {
                    "deliveries": (owed(task, b"then", 500 + number),) * (number % 3),
                    "events": (told("x", number), told("xy"[number % 2], number)),
                    "bookings": (Booking(OWN, number, "mine"), Booking(task.peer, 1, "theirs")),
                    "settles": next(iter(delivery_ids(together, task.key)[:1]), None),
                    "gives_up": next(iter(delivery_ids(together, task.key)[1:]), None),
                }
                event = (Event.ACCEPT, Event.DECLINE)[number % 5 == 4]
                changes.append((apply_changes, step(task, event, 9, {"justification": str(number)}, **effects)))
            found, expected = run_batch(together, changes), run_alone(alone, changes)
            self.assertEqual(found, expected)
            self.assertEqual([task.justification for task in found], [str(number) for number in range(size)])
            self.assert_same(together, alone)

    def test_one_spoils_many(self) -> None:
        """A creation of what is known, or was forgotten, makes no difference to the others of a large batch."""
        for size in SIZES:
            together, alone = self.connect(populated()), self.connect(populated())
            tasks = [new_task(f"t{number}") for number in range(size)]
            tasks.insert(size // 2, new_task("gone"))
            tasks.insert(size // 3, new_task("a"))
            tasks.append(tasks[0])
            calls: list[Call] = [(create_tasks, (task, [owed(task)])) for task in tasks]
            found = run_batch(together, calls)
            self.assert_results(found, run_alone(alone, calls), together)
            self.assert_same(together, alone)
            kinds = Counter(result.type if isinstance(result, Failure) else result[1] for result in found)
            self.assertEqual(kinds, {True: size, False: 2, TaskForgotten: 1})

    def test_heads(self) -> None:
        """The tasks at the head of the queue begin together; only the one that is head in the end is staged."""
        for size in SIZES:
            connection = self.connect()
            tasks = [
                task
                for task, _ in run_batch(connection, [(create_tasks, (new_task(f"t{n}"), [])) for n in range(size + 2)])
            ]
            queue = run_batch(connection, [(apply_changes, step(task, Event.ACCEPT, 1)) for task in tasks])
            self.assertEqual(queries.queue(connection, 999), queue)
            begun = run_batch(connection, [(apply_changes, step(task, Event.EXECUTE, 5)) for task in queue[:size]])
            self.assertEqual([task.status for task in begun], [TaskStatus.EXECUTING] * size)
            self.assertEqual([task.staged_at for task in begun], [at(1)] + [None] * (size - 1))
            head, last = queries.queue(connection, 999)
            self.assertEqual((head.task_id, head.staged_at), (f"t{size}", at(5)))
            self.assertEqual((last.task_id, last.staged_at), (f"t{size + 1}", None))

    def test_reads(self) -> None:
        """However many ask at once, and whoever asks for the same, each is told of each task once."""
        connection = self.connect(populated())
        for number in range(max(SIZES)):
            create_task(connection, new_task(f"t{number}"), [])
            create_task(connection, new_task(f"t{number}", Side.SUBMITTER, OTHER), [])
        one, gone = new_task("a").key, new_task("gone").key
        for size in SIZES:
            for others in ([], [one, one], [one, gone, new_task("none").key, gone, one]):
                keys = [new_task(f"t{number}").key for number in range(size)] + others
                for asked in (keys, keys + keys, [*others, *keys]):
                    self.assert_read(connection, asked)

    def assert_read(self, connection: sqlite3.Connection, asked: Sequence[TaskKey]) -> None:
        """Asking for all of these at once is as asking for one after the other."""
        ids = [(key.task_id, None) for key in asked]
        peers = [(key.task_id, (PEER, OTHER)[place % 2]) for place, key in enumerate(asked)]
        some = [pair if place % 3 else (pair[0], None) for place, pair in enumerate(peers)]
        for wanted in (ids, peers, some):
            alone = [queries.find_tasks(connection, [one])[0] for one in wanted]
            for found, expected in zip(queries.find_tasks(connection, wanted), alone, strict=True):
                self.assertEqual(found, expected)
                self.assertEqual(len({task.number for task in found}), len(found))
        for read in (queries.get_tasks, queries.recall, queries.tombstones):
            self.assertEqual(read(connection, asked), [read(connection, [key])[0] for key in asked])
        for key, task in zip(asked, queries.get_tasks(connection, asked), strict=True):
            self.assertEqual(None if task is None else task.key, None if key.task_id in ("gone", "none") else key)

    def test_first_booking_wins(self) -> None:
        """Of two bookings of one task for one party in a batch the first counts, as it does alone."""
        together, alone = self.connect(), self.connect()
        for connection in (together, alone):
            task, _ = create_task(connection, new_task(), [])
        calls: list[Call] = [
            (apply_changes, Change(before=task, after=task, at=at(n), bookings=(Booking(OWN, n, ""),))) for n in (1, 2)
        ]
        run_batch(together, calls)
        run_alone(alone, calls)
        self.assert_same(together, alone)

    def test_staged_when_head_left(self) -> None:
        """The next head is staged when the last before it left, whatever moves behind it in the same batch."""
        connection = self.connect()
        a, b, c, d = (create_task(connection, new_task(task_id), [])[0] for task_id in "abcd")
        a, b, c = (apply_change(connection, step(task, Event.ACCEPT, 1)) for task in (a, b, c))
        moves = [step(a, Event.EXECUTE, 5), step(d, Event.ACCEPT, 9), step(c, Event.CANCEL, 10)]
        run_batch(connection, [(apply_changes, move) for move in moves])
        self.assertEqual(queries.queue(connection, 9)[0].staged_at, at(5))
