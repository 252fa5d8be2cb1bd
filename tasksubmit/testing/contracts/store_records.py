"""What every task store does with records and calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import attrs
from attrs import evolve
from twisted.internet.defer import DeferredList, gatherResults
from zope.interface.verify import verifyObject

from tasksubmit.errors import StoreClosed
from tasksubmit.interfaces import ITaskStore
from tasksubmit.lifecycle.change import Change, Tombstone
from tasksubmit.lifecycle.table import DEADLINES, Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.testing.contracts.samples import OTHER, PEER, START, at, new_task, owed, step, told
from tasksubmit.testing.contracts.store_case import StoreCase
from tasksubmit.wire.address import Address


class RecordContract(StoreCase):
    """Records, and the order and the end of calls."""

    async def test_interface(self) -> None:
        """The store has all that the interface asks for, under the same names."""
        verifyObject(ITaskStore, self.store)

    # --- records -------------------------------------------------------------------------------------------------

    async def test_every_field_is_kept(self) -> None:
        """A record reads back with every field as it was written, in whole milliseconds."""
        task = new_task(
            description="\u4ea4 \U0001f600 'x'; --",
            status=TaskStatus.COMPLETED,
            justification="because",
            outcome="failed",
            error="boom",
            code="quota",
            retry_after_s=3,
            created_at=at(1),
            accepted_at=at(2),
            staged_at=at(3),
            queue_position=4,
            execute_started_at=at(5),
            attempt=6,
            max_attempts=7,
            lease_ms=8,
            lease_expires_at=at(9),
            is_lease_bound=True,
            put_back_at=at(10),
            held_at=at(24),
            completed_at=at(7),
            time_idle_ms=2**62,
            time_staged_ms=9,
            time_cpu_ms=10,
            expires_at=at(11),
            result_due_at=at(12),
            deliver_by=at(19),
            submission_begun_at=at(20),
            answered_at=at(13),
            undecided_since=at(21),
            news_at=at(22),
            heard_at=at(16),
            ended_at=at(17),
            delivery_given_up_at=at(18),
            cancel_requested_at=at(14),
            cancel_outcome="undelivered",
            cancel_ends_at=at(23),
            succeeded_heard=True,
            result_type="file",
            result_filename="a.md",
            result_file="t-1_a.md",
            result_bytes=12,
            result_sha256="ab" * 32,
            late_result_file="t-1_b.md",
            scored_cpu_ms=15,
            is_time_disputed=True,
            reward=16,
            features=("ack", "persistent"),
        )
        forgotten = [field.name for field in attrs.fields(Task) if getattr(task, field.name) == field.default]
        self.assertEqual(forgotten, ["number", "revision"])
        created = await self.create(task)
        self.assertEqual(created, evolve(task, number=created.number))
        await self.reopen()
        self.assertEqual(await self.get(task.key), created)

    async def test_create_once(self) -> None:
        """A key that is taken keeps its record, which comes back instead, and owes nothing more."""
        first = await self.create(new_task(), owed(new_task(), b"1"))
        again, is_new = await self.store.create(new_task(description="else"), [owed(new_task(), b"2")])
        self.assertEqual((again, is_new), (first, False))
        self.assertEqual(await self.ready(0), [b"1"])

    async def test_create_at_once(self) -> None:
        """Of many that create the same record at the same moment one succeeds, and all get its record."""
        made = await gatherResults([self.store.create(new_task(description=str(n)), []) for n in range(5)])
        self.assertEqual([is_new for _, is_new in made], [True, False, False, False, False])
        self.assertEqual({task.description for task, _ in made}, {"0"})

    async def test_ids_collide(self) -> None:
        """The same id from another peer, or on the other side, is another record."""
        tasks = [
            await self.create(new_task("t-1", side, peer, description=f"{side} {peer}"))
            for side in Side
            for peer in (PEER, OTHER)
        ]
        await self.create(new_task("t-2"))
        self.assertEqual(len({task.number for task in tasks}), 4)
        for task in tasks:
            self.assertEqual(await self.get(task.key), task)
        found = await self.store.find("t-1")
        self.assertEqual(sorted(found, key=lambda task: task.number), tasks)
        for peer, theirs in ((PEER, tasks[::2]), (OTHER, tasks[1::2]), (Address(0, 99), [])):
            found = await self.store.find("t-1", peer)
            self.assertEqual(sorted(found, key=lambda task: task.number), theirs)
        accepted = await self.change(tasks[0], Event.ACCEPT)
        self.assertIs(accepted.status, TaskStatus.ACCEPTED)
        self.assertEqual([(await self.get(task.key)).status for task in tasks[1:]], [TaskStatus.NEW] * 3)

    async def test_unknown(self) -> None:
        """What is not there is None, or an empty list."""
        self.assertIsNone(await self.store.get(new_task().key))
        self.assertEqual(await self.store.find("t-1"), [])
        self.assertEqual(await self.store.list_tasks(side=None, status=None, peer=None, before=None, limit=9), [])
        self.assertEqual(await self.store.queue(9), [])
        self.assertEqual(await self.store.put_back(9), [])
        self.assertEqual(await self.store.deliveries_of(new_task().key), [])
        self.assertEqual(await self.store.events_of(new_task()), [])
        self.assertIsNone(await self.store.recall(new_task().key))
        self.assertIsNone(await self.store.recall(new_task().key))
        self.assertEqual(await self.store.tombstones("t-1"), [])

    async def test_list(self) -> None:
        """Lists come newest first, by every filter and any two, and go on where the last one ended."""
        await self.create(new_task("a"))
        await self.create(new_task("b", peer=OTHER))
        await self.create(new_task("c", Side.SUBMITTER))
        await self.accepted("d")
        numbers = {task.task_id: task.number for task in await self.listed()}

        async def ids(**filters: Any) -> str:
            return "".join(task.task_id for task in await self.listed(**filters))

        self.assertEqual(await ids(), "dcba")
        self.assertEqual(await ids(side=Side.RECEIVER), "dba")
        self.assertEqual(await ids(status=TaskStatus.NEW), "cba")
        self.assertEqual(await ids(peer=PEER), "dca")
        self.assertEqual(await ids(peer=PEER, status=TaskStatus.NEW), "ca")
        self.assertEqual(await ids(limit=2), "dc")
        self.assertEqual(await ids(limit=2, before=numbers["c"]), "ba")
        self.assertEqual(await ids(before=numbers["a"]), "")

    async def test_list_oldest_first(self) -> None:
        """The order can be reversed, and a list goes on behind a number."""
        for task_id in "abc":
            await self.create(new_task(task_id))
        numbers = {task.task_id: task.number for task in await self.listed()}
        self.assertEqual("".join(task.task_id for task in await self.listed(is_oldest_first=True)), "abc")
        self.assertEqual(
            "".join(task.task_id for task in await self.listed(is_oldest_first=True, after=numbers["a"], limit=1)), "b"
        )
        self.assertEqual("".join(task.task_id for task in await self.listed(after=numbers["a"])), "cb")

    async def test_list_by_end(self) -> None:
        """Lists are filtered by outcome, and by the earliest creation."""
        await self.create(new_task("a", status=TaskStatus.CANCELLED, outcome="failed", created_at=at(1)))
        await self.create(new_task("b", status=TaskStatus.CANCELLED, outcome="expired", created_at=at(2)))
        await self.create(new_task("c", created_at=at(3)))
        for filters, expected in (
            ({"outcome": "failed"}, "a"),
            ({"outcome": ""}, "c"),
            ({"outcome": "nothing"}, ""),
            ({"since": at(2)}, "cb"),
            ({"since": at(2), "outcome": "expired"}, "b"),
        ):
            self.assertEqual("".join(task.task_id for task in await self.listed(**filters)), expected)
            self.assertEqual(await self.store.count_tasks(limit=9, **filters), (len(expected), True))

    async def test_list_stuck(self) -> None:
        """Stuck are tasks with a delivery that has failed or was abandoned, and old ones that have not ended."""
        done: dict[str, Any] = {"status": TaskStatus.SUCCEEDED, "ended_at": at(1)}
        for task in (new_task("failing", **done), new_task("waiting", **done), new_task("old", created_at=at(-9))):
            await self.create(task, *([] if task.task_id == "old" else [owed(task, b"1")]))
        await self.create(new_task("ended", created_at=at(-9), **done))
        await self.create(
            new_task("settled", Side.SUBMITTER, created_at=at(-9), status=TaskStatus.COMPLETED, ended_at=at(1))
        )
        await self.create(new_task("new"))
        failing = (await self.store.deliveries_of(new_task("failing").key))[0]
        await self.store.postpone(failing, told("failed"), at(5), "no")
        stuck = [task.task_id for task in await self.listed(stuck_before=at(-5))]
        self.assertEqual(sorted(stuck), ["failing", "old"])
        self.assertEqual(await self.store.count_tasks(limit=9, stuck_before=at(-5)), (2, True))
        self.assertEqual([task.task_id for task in await self.listed(stuck_before=at(-50))], ["failing"])

    async def test_count(self) -> None:
        """Records are counted by every filter, among the newest of a number, which bounds the cost."""
        self.assertEqual(await self.store.count_tasks(limit=9), (0, True))
        await self.create(new_task("a"))
        await self.create(new_task("b", peer=OTHER))
        await self.create(new_task("c", Side.SUBMITTER))
        await self.accepted("d")
        for filters, expected in (
            ({}, 4),
            ({"side": Side.RECEIVER}, 3),
            ({"status": TaskStatus.NEW}, 3),
            ({"peer": OTHER}, 1),
            ({"peer": PEER, "status": TaskStatus.NEW}, 2),
        ):
            count = await self.store.count_tasks(limit=4, **filters)
            self.assertEqual(count, (expected, True), filters)
        self.assertEqual(await self.store.count_tasks(limit=3), (3, False))
        self.assertEqual(await self.store.count_tasks(limit=3, status=TaskStatus.NEW), (2, False))

    async def test_part_of_the_queue(self) -> None:
        """The queue can be read behind a position, and ahead of one."""
        for task_id in "abc":
            await self.accepted(task_id)
        positions = [task.queue_position for task in await self.store.queue(9)]
        for cursors, expected in (
            ({"after": positions[0]}, "bc"),
            ({"before": positions[2]}, "ab"),
            ({"after": positions[0], "before": positions[2]}, "b"),
        ):
            self.assertEqual("".join(task.task_id for task in await self.store.queue(9, **cursors)), expected)

    async def listed(self, **filters: Any) -> list[Task]:
        """A list with all filters, but those given, left open."""
        return await self.store.list_tasks(
            **{"side": None, "status": None, "peer": None, "before": None, "limit": 9, **filters}
        )

    async def test_remade_number_is_new(self) -> None:
        """Numbers grow with every record, after a restart too."""
        first = await self.create(new_task("a"))
        await self.reopen()
        self.assertGreater((await self.create(new_task("b"))).number, first.number)

    # --- many at once, and the end -------------------------------------------------------------------------------

    async def test_in_the_order_of_the_calls(self) -> None:
        """Changes take effect in the order of the calls, and one that fails spoils no other."""
        tasks = [await self.create(new_task(task_id)) for task_id in "abcdef"]
        changes = [step(task, Event.ACCEPT, n) for n, task in enumerate(tasks)]
        changes.insert(3, step(tasks[0], Event.DECLINE, 9))
        outcomes = await self.outcomes(changes)
        self.assertEqual([type(outcome).__name__ for outcome in outcomes], [*["Task"] * 3, "StaleTask", *["Task"] * 3])
        self.assertEqual("".join(task_id for task_id, _ in await self.queued()), "abcdef")

    async def outcomes(self, changes: Sequence[Change]) -> list[object]:
        """What becomes of changes asked at once: records, or exceptions."""
        asked: list[tuple[bool, Any]] = await DeferredList(
            [self.store.apply(change) for change in changes], consumeErrors=True
        )
        return [outcome if is_success else outcome.value for is_success, outcome in asked]

    async def test_confirm(self) -> None:
        """With nothing in doubt ``confirm`` fires after the changes that were asked for before, and changes nothing."""
        created = self.store.create(new_task(), [])
        await self.store.confirm()
        self.assertTrue(created.called)
        task, _ = await created
        await self.store.confirm()
        await self.reopen()
        await self.store.confirm()
        self.assertEqual(await self.get(task.key), task)

    async def test_closed(self) -> None:
        """A closed store refuses everything with `StoreClosed`; closing it again does nothing."""
        task = await self.create(new_task())
        await self.store.close()
        await self.store.close()
        for call in (
            lambda: self.store.confirm(),
            lambda: self.store.create(task, []),
            lambda: self.store.apply(step(task, Event.ACCEPT, 0)),
            lambda: self.store.postpone(owed(task), told("failed"), START, ""),
            lambda: self.store.leave_tombstone(Tombstone.of(task, START)),
            lambda: self.store.shift_times(timedelta(seconds=1)),
            lambda: self.store.load(),
            lambda: self.store.limit_waits(START),
            lambda: self.store.end_bound_leases(),
            lambda: self.store.forget(task, START),
            lambda: self.store.drop_tombstones(START, 1),
            lambda: self.store.remember_features(PEER, frozenset()),
            lambda: self.store.get(task.key),
            lambda: self.store.recall(task.key),
            lambda: self.store.recall(task.key),
            lambda: self.store.tombstones("t-1"),
            lambda: self.store.events_of(task),
            lambda: self.store.ended(START, 1),
            lambda: self.store.result_bytes(),
            lambda: self.store.put_back(1),
            lambda: self.store.aged_deliveries(START, 1),
            lambda: self.store.find("t-1"),
            lambda: self.store.list_tasks(side=None, status=None, peer=None, before=None, limit=1),
            lambda: self.store.count_tasks(limit=1),
            lambda: self.store.queue(1),
            lambda: self.store.disk_space(),
            lambda: self.store.passed_deadlines([(DEADLINES[0], START)]),
            lambda: self.store.due(DEADLINES[0], START, 1),
            lambda: self.store.ready_deliveries(PEER, START, 1),
            lambda: self.store.next_delivery(PEER),
            lambda: self.store.owed_peers(),
            lambda: self.store.deliveries_of(task.key),
            lambda: self.store.scores(),
            lambda: self.store.peer_features(),
            lambda: self.store.save_result("t-1", "a.md", b""),
            lambda: self.store.discard_result("t-1_a.md"),
            lambda: self.store.read_result("t-1_a.md"),
        ):
            with self.assertRaises(StoreClosed):
                await call()

    async def test_open_twice(self) -> None:
        """Opening an open store does nothing."""
        task = await self.create(new_task())
        self.store.open()
        self.assertEqual(await self.get(task.key), task)
