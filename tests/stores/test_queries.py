"""How SQLite goes about the store's statements: which index finds what, and what is in the rows."""

from __future__ import annotations

import sqlite3
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.lifecycle.change import Booking
from tasksubmit.lifecycle.table import DEADLINES, Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.stores import deliveries, events, queries, retention, waits
from tasksubmit.stores.batches import Statement
from tasksubmit.stores.migrations import APPLICATION_ID, migrate, schema_steps
from tasksubmit.testing.contracts.samples import OWN, PEER, START, at, new_task, owed, step, told
from tasksubmit.wire.address import Address
from tests.stores.support import apply_change, create_task

OF_TASK = "deliveries_of_task (task_id=? AND side=? AND peer=?)"


WITHOUT_SCAN = (
    r"^(SEARCH|(CORRELATED )?SCALAR SUBQUERY|SCAN \w+ USING INDEX tasks_queue|MATERIALIZE"
    r"|SCAN deliveries USING COVERING INDEX deliveries_ready"
    r"|CO-ROUTINE|SCAN (new|last|CONSTANT ROW|\d+ CONSTANT ROWS|\(subquery-\d+\))|$)"
)
"""Steps of a plan that read through nothing but the queue, the index of pending deliveries, and given values."""


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

    def plans(self, operation: Statement) -> list[str]:
        """How SQLite carries out every statement of an operation, but the plain inserts."""
        self.statements.clear()
        self.connection.set_trace_callback(self.statements.append)
        operation(self.connection)
        self.connection.set_trace_callback(None)
        statements = [sql for sql in self.statements if not sql.startswith(("--", "INSERT"))]
        return [self.plan(sql) for sql in statements]

    def assert_plan(self, operation: Statement, expected: str) -> None:
        """The only statement of an operation is carried out like this."""
        self.assertEqual(self.plans(operation), [expected])

    def test_due(self) -> None:
        """What is due is found through the index of its deadline, in its order, without sorting."""
        self.assertEqual(len(DEADLINES), 13)
        for deadline in DEADLINES:
            plan = self.plan(queries.due_tasks_sql(deadline), 0, 1)
            index = f"tasks_{deadline.side}_{deadline.since}"
            self.assertEqual(plan, f"SEARCH tasks USING INDEX {index} ({deadline.since}<?)")
            plan = self.plan(queries.passed_deadlines_sql((deadline,)), 0)
            self.assertIn(f"SEARCH tasks USING INDEX {index} ({deadline.since}<?)", plan)

    def test_reads(self) -> None:
        """Every other look-up uses its index, and none sorts."""
        self.assert_plan(lambda c: queries.queue(c, 9), "SCAN tasks USING INDEX tasks_queue")
        self.assert_plan(
            lambda c: queries.put_back(c, 9), "SEARCH tasks USING INDEX tasks_receiver_put_back_at (put_back_at>?)"
        )
        key = "sqlite_autoindex_tasks_1"
        plan = f"SEARCH tasks USING INDEX {key} (task_id=?)"
        self.assert_plan(lambda c: queries.find_tasks(c, [("t-1", None)])[0], plan)
        self.assert_plan(lambda c: queries.find_tasks(c, [("t-1", PEER)])[0], plan)
        self.assert_plan(
            lambda c: queries.get_tasks(c, [new_task().key])[0], f"SEARCH tasks USING INDEX {key} (task_id=?)"
        )
        self.assert_plan(
            lambda c: queries.list_tasks(c, None, TaskStatus.NEW, None, 5, 9),
            "SEARCH tasks USING INDEX tasks_by_status (status=? AND number<?)",
        )
        self.assert_plan(lambda c: queries.list_tasks(c, None, None, None, None, 9), "SCAN tasks")

    def test_deliveries(self) -> None:
        """What is owed is found by peer and time, by age, or by task, in its order, and none sorts."""
        self.assert_plan(
            lambda c: deliveries.ready(c, PEER, START, 9, (1, 2)),
            "SEARCH deliveries USING INDEX deliveries_ready (peer=? AND ready_at<?)",
        )
        self.assert_plan(
            lambda c: deliveries.next_at(c, PEER),
            "SEARCH deliveries USING COVERING INDEX deliveries_ready (peer=? AND ready_at>?)",
        )
        self.assert_plan(
            lambda c: deliveries.aged(c, START, 9),
            "SEARCH deliveries USING INDEX deliveries_by_age (created_at<?)",
        )
        self.assert_plan(deliveries.owed_peers, "SCAN deliveries USING COVERING INDEX deliveries_ready")
        self.assert_plan(lambda c: deliveries.of_task(c, new_task().key), f"SEARCH deliveries USING INDEX {OF_TASK}")

    def test_retention(self) -> None:
        """What is over is found by its end, and whether it owes something by its task; tombstones by key and by age."""
        owes = f"CORRELATED SCALAR SUBQUERY 1; SEARCH deliveries USING INDEX {OF_TASK}"
        self.assert_plan(
            lambda c: retention.ended(c, START, 9), f"SEARCH tasks USING INDEX tasks_ended_at (ended_at<?); {owes}"
        )
        self.assert_plan(
            lambda c: queries.tombstones(c, [new_task().key]), "SEARCH tombstones USING PRIMARY KEY (task_id=?)"
        )
        self.assert_plan(lambda c: retention.tombstones(c, "t-1"), "SEARCH tombstones USING PRIMARY KEY (task_id=?)")
        [dropped] = self.plans(lambda c: retention.drop_tombstones(c, START, 9))
        by_key = "SEARCH tombstones USING PRIMARY KEY (task_id=? AND side=? AND peer=?)"
        self.assertTrue(dropped.startswith(by_key), dropped)
        self.assertIn("SEARCH tombstones USING COVERING INDEX tombstones_by_age (removed_at<?)", dropped)
        self.assertNotIn("SCAN", dropped)

    def test_stories(self) -> None:
        """A story is found by its task, in its order."""
        self.assert_plan(lambda c: events.of_task(c, 1), "SEARCH events USING PRIMARY KEY (task=?)")

    def test_writes(self) -> None:
        """No change reads through all tasks or all deliveries to find its own."""
        task, _ = create_task(self.connection, new_task(), [owed(new_task()), owed(new_task())])
        delivery, _ = deliveries.of_task(self.connection, task.key)
        change = step(
            task,
            Event.ACCEPT,
            5,
            deliveries=(owed(task),),
            bookings=(Booking(OWN, 1, ""),),
            events=(told("accept"), told("accept")),
            settles=delivery.id,
            gives_up=delivery.id + 1,
            revives=True,
        )
        plans = self.plans(lambda c: apply_change(c, change))
        plans += self.plans(lambda c: queries.postpone_delivery(c, delivery, told("failed"), START, ""))
        for task_id in ("x", "y"):
            turn = step(self.kept(task_id), Event.ACCEPT, 5, is_fair=True)
            plans += self.plans(lambda c, turn=turn: apply_change(c, turn))  # type: ignore[misc]
        plans += self.plans(queries.end_bound_leases)
        plans += self.plans(lambda c: waits.limit_waits(c, START))
        plans += self.plans(lambda c: queries.is_result_named(c, "t-1_a.md"))
        declined = apply_change(self.connection, step(self.kept("d"), Event.DECLINE, 5))
        plans += self.plans(lambda c: retention.forget(c, declined, START))
        self.assertGreater(len(plans), 20)
        for plan in plans:
            for part in plan.split("; "):
                self.assertRegex(part, WITHOUT_SCAN, plan)

    def kept(self, task_id: str) -> Task:
        """A record that is there."""
        task, _ = create_task(self.connection, new_task(task_id), [])
        return task

    def test_schema_has_every_deadline(self) -> None:
        """There is one index for each deadline, and none that no deadline needs."""
        rows = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")
        names = {name for (name,) in rows if name.startswith(("tasks_receiver_", "tasks_submitter_"))}
        self.assertEqual(names, {f"tasks_{deadline.side}_{deadline.since}" for deadline in DEADLINES})

    def test_result_names(self) -> None:
        """A record that names a result is found by the name, whatever of it is the id, and no other is."""
        for task_id, column in (("a_b", "result_file"), ("a", "late_result_file"), ("a_b_c", "result_file")):
            name = f"{task_id}_{column}_x.md"
            fields: dict[str, Any] = {column: name}
            self.assertFalse(queries.is_result_named(self.connection, name))
            create_task(self.connection, new_task(task_id, **fields), [])
            self.assertTrue(queries.is_result_named(self.connection, name))
        for number, name in enumerate(("p.md", "p-2.md", "p_q-1.md", "p_q-1-2.md")):
            self.assertFalse(queries.is_result_named(self.connection, name))
            task = new_task(name.removesuffix("-2.md").removesuffix(".md"), peer=Address(9, number), result_file=name)
            create_task(self.connection, task, [])
            self.assertTrue(queries.is_result_named(self.connection, name))
        for other in ("a_result_file_x.md", "a_b_late_result_file_x.md", "a_b_c_x.md", "a", "", "_", "%_%"):
            self.assertFalse(queries.is_result_named(self.connection, other), other)

    def test_mark(self) -> None:
        """Our databases carry our mark."""
        self.assertEqual(self.connection.execute("PRAGMA application_id").fetchone(), (APPLICATION_ID,))

    def test_times_are_milliseconds(self) -> None:
        """Times are kept as integer milliseconds since 1970."""
        create_task(self.connection, new_task(created_at=at(1)), [])
        self.assertEqual(
            self.connection.execute("SELECT created_at, side FROM tasks").fetchone(),
            (1795348800001, Side.RECEIVER.value),
        )
