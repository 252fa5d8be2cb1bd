"""What every task store does: a mixin of behaviours, run for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import attrs
from attrs import evolve
from twisted.internet.defer import DeferredList, gatherResults
from twisted.trial.unittest import TestCase

from tasksubmit.errors import StaleTask, StoreClosed, StoreError
from tasksubmit.interfaces import ITaskStore
from tasksubmit.lifecycle.change import Booking, Change, Delivery, DeliveryKind
from tasksubmit.lifecycle.table import DEADLINES, Event, Side, TaskStatus, Timeouts, advance
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.wire.address import Address

if TYPE_CHECKING:
    Base = TestCase
else:
    Base = object  # so that trial runs the subclasses only

OWN = Address.parse("0:0000.0000.0001")
PEER = Address.parse("0:0000.0000.0002")
OTHER = Address.parse("0:0000.0000.0003")
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


def at(milliseconds: int) -> datetime:
    """So many milliseconds after `START`."""
    return START + timedelta(milliseconds=milliseconds)


def new_task(task_id: str = "t-1", side: Side = Side.RECEIVER, peer: Address = PEER, **fields: Any) -> Task:
    """A record as it is before the store has it."""
    return Task(side=side, peer=peer, task_id=task_id, **{"description": "read", "created_at": START, **fields})


def owed(task: Task, payload: bytes = b"", milliseconds: int = 0) -> Delivery:
    """A status that is owed to the other party of a task."""
    return Delivery(key=task.key, kind=DeliveryKind.STATUS, payload=payload, created_at=at(milliseconds))


def step(before: Task, event: Event, milliseconds: int, fields: dict[str, Any] | None = None, **more: Any) -> Change:
    """What an event, and the fields that it sets besides, do to a task; `more` goes into the `Change`."""
    changed = evolve(before, **(fields or {}))
    after = changed.advanced(advance(before.side, before.status, event), at(milliseconds))
    return Change(before=before, after=after, at=at(milliseconds), **more)


class StoreContract(Base):
    """The behaviours of `ITaskStore`."""

    store: ITaskStore

    async def reopen(self) -> None:
        """Close the store and open it again, where that keeps what it holds."""

    async def create(self, task: Task, *deliveries: Delivery) -> Task:
        """Keep a record that is not there yet."""
        created, is_new = await self.store.create(task, deliveries)
        self.assertTrue(is_new)
        return created

    async def change(
        self, task: Task, event: Event, milliseconds: int = 0, fields: dict[str, Any] | None = None, **more: Any
    ) -> Task:
        """Let an event happen to the record as it is now."""
        current = await self.get(task.key)
        return await self.store.apply(step(current, event, milliseconds, fields, **more))

    async def get(self, key: TaskKey) -> Task:
        """The record that must be there."""
        task = await self.store.get(key)
        assert task is not None
        return task

    async def accepted(self, task_id: str, milliseconds: int = 0, **fields: Any) -> Task:
        """A task that is in the queue."""
        return await self.change(await self.create(new_task(task_id, **fields)), Event.ACCEPT, milliseconds)

    async def queued(self, limit: int = 100) -> list[tuple[str, datetime | None]]:
        """The queue: ids and when each was staged."""
        return [(task.task_id, task.staged_at) for task in await self.store.queue(limit)]

    async def ready(self, milliseconds: int, peer: Address = PEER, limit: int = 100) -> list[bytes]:
        """The payloads that may be sent to a peer at a time."""
        found = await self.store.ready_deliveries(peer, at(milliseconds), limit)
        for delivery, task in found:
            self.assertEqual((delivery.key, task.peer), (task.key, peer))
        return [delivery.payload for delivery, _ in found]

    async def assert_stale(self, change: Change) -> None:
        """The change is refused."""
        with self.assertRaises(StaleTask):
            await self.store.apply(change)

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
            created_at=at(1),
            accepted_at=at(2),
            staged_at=at(3),
            queue_position=4,
            execute_started_at=at(5),
            attempt=6,
            completed_at=at(7),
            time_idle_ms=2**62,
            time_staged_ms=9,
            time_cpu_ms=10,
            expires_at=at(11),
            result_due_at=at(12),
            answered_at=at(13),
            cancel_requested_at=at(14),
            succeeded_heard=True,
            result_type="file",
            result_filename="a.md",
            result_file="t-1_a.md",
            result_bytes=12,
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
        accepted = await self.change(tasks[0], Event.ACCEPT)
        self.assertIs(accepted.status, TaskStatus.ACCEPTED)
        self.assertEqual([(await self.get(task.key)).status for task in tasks[1:]], [TaskStatus.NEW] * 3)

    async def test_unknown(self) -> None:
        """What is not there is None, or an empty list."""
        self.assertIsNone(await self.store.get(new_task().key))
        self.assertEqual(await self.store.find("t-1"), [])
        self.assertEqual(await self.store.list_tasks(side=None, status=None, peer=None, before=None, limit=9), [])
        self.assertEqual(await self.store.queue(9), [])
        self.assertEqual(await self.store.deliveries_of(new_task().key), [])

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

    # --- changes -------------------------------------------------------------------------------------------------

    async def test_change(self) -> None:
        """A change makes the record what it says, and counts the revision up."""
        task = await self.create(new_task())
        declined = await self.change(task, Event.DECLINE, 1500, {"justification": "no time"})
        self.assertEqual(
            declined,
            evolve(
                task,
                status=TaskStatus.DECLINED,
                justification="no time",
                accepted_at=at(1500),
                time_idle_ms=1500,
                revision=task.revision + 1,
            ),
        )
        await self.reopen()
        self.assertEqual(await self.get(task.key), declined)

    async def test_stale(self) -> None:
        """A change of a record that has changed meanwhile is refused, and nothing of it happened."""
        task = await self.create(new_task())
        await self.change(task, Event.ACCEPT, 10)
        before = await self.get(task.key)
        change = step(
            task,
            Event.DECLINE,
            20,
            deliveries=(owed(task, b"stale"),),
            bookings=(Booking(OWN, 5, "stale"),),
        )
        await self.assert_stale(change)
        self.assertEqual(await self.get(task.key), before)
        self.assertEqual(await self.store.deliveries_of(task.key), [])
        self.assertEqual(await self.store.scores(), [])
        self.assertEqual(await self.queued(), [("t-1", at(10))])

    async def test_stale_in_the_same_status(self) -> None:
        """The status alone is not enough: a record that changed within it is stale, too."""
        executing = await self.change(await self.accepted("t-1"), Event.EXECUTE)
        await self.change(executing, Event.PROGRESS, 1, {"justification": "40%"})
        await self.assert_stale(step(executing, Event.RUN_AGAIN, 2))

    async def test_stale_queue(self) -> None:
        """A stale change of the queue stages nothing and takes no place."""
        task = await self.create(new_task("a"))
        await self.change(task, Event.DECLINE)
        await self.assert_stale(step(task, Event.ACCEPT, 5))
        await self.accepted("b", 7)
        self.assertEqual(await self.queued(), [("b", at(7))])

    async def test_first_wins(self) -> None:
        """Of two changes asked at the same moment the first one wins."""
        task = await self.create(new_task())
        first = self.store.apply(step(task, Event.ACCEPT, 1))
        second = self.store.apply(step(task, Event.CANCEL, 1))
        self.assertIs((await first).status, TaskStatus.ACCEPTED)
        with self.assertRaises(StaleTask):
            await second

    async def test_missing_record(self) -> None:
        """A change of a record that the store does not have is refused."""
        await self.assert_stale(step(evolve(new_task(), number=77), Event.ACCEPT, 0))

    async def test_only_effects(self) -> None:
        """A change that leaves the record as it is may owe and settle, and counts no revision."""
        task = await self.create(new_task(), owed(new_task(), b"1"))
        [delivery] = await self.store.deliveries_of(task.key)
        change = Change(before=task, after=task, at=at(5), deliveries=(owed(task, b"2", 5),), settles=delivery.id)
        self.assertEqual(await self.store.apply(change), task)
        self.assertEqual(await self.ready(5), [b"2"])

    # --- the queue -----------------------------------------------------------------------------------------------

    async def test_queue_order(self) -> None:
        """Tasks queue in the order of acceptance, not of creation or name; the head is staged at once, no other."""
        for task_id in "abc":
            await self.create(new_task(task_id))
        for milliseconds, task_id in enumerate("cab", 1):
            await self.change(new_task(task_id), Event.ACCEPT, milliseconds)
        self.assertEqual(await self.queued(), [("c", at(1)), ("a", None), ("b", None)])
        self.assertEqual(await self.queued(limit=2), [("c", at(1)), ("a", None)])
        await self.reopen()
        self.assertEqual(await self.queued(), [("c", at(1)), ("a", None), ("b", None)])

    async def test_next_head_is_staged(self) -> None:
        """Whichever way the head leaves, the next one is staged at that moment."""
        for task_id in "abcd":
            await self.accepted(task_id)
        await self.change(new_task("a"), Event.EXECUTE, 100)
        self.assertEqual((await self.queued())[0], ("b", at(100)))
        await self.reopen()
        await self.change(new_task("b"), Event.TIME_OUT_QUEUE_HEAD, 200)
        self.assertEqual((await self.queued())[0], ("c", at(200)))
        await self.change(new_task("c"), Event.CANCEL, 300)
        self.assertEqual(await self.queued(), [("d", at(300))])
        await self.change(new_task("d"), Event.PASS_DEADLINE, 400)
        self.assertEqual(await self.queued(), [])
        await self.accepted("e", 500)
        self.assertEqual(await self.queued(), [("e", at(500))])

    async def test_leaving_from_behind(self) -> None:
        """A task that leaves from behind the head stages nobody and moves nobody."""
        for task_id in "abc":
            await self.accepted(task_id)
        left = await self.change(new_task("b"), Event.CANCEL, 100)
        self.assertEqual((left.staged_at, left.queue_position), (None, None))
        self.assertEqual(await self.queued(), [("a", START), ("c", None)])

    async def test_last_place_is_free_again(self) -> None:
        """Who comes after the last one left still queues behind all others."""
        await self.accepted("a")
        await self.accepted("b")
        await self.change(new_task("b"), Event.CANCEL)
        await self.accepted("c")
        await self.accepted("d")
        self.assertEqual([task_id for task_id, _ in await self.queued()], ["a", "c", "d"])

    async def test_staged_record(self) -> None:
        """A head comes back with its staging, so that the next change of it is not stale."""
        head = await self.accepted("a", 5)
        self.assertEqual(head.staged_at, at(5))
        executing = await self.store.apply(step(head, Event.EXECUTE, 12))
        self.assertEqual((executing.staged_at, executing.time_staged_ms), (at(5), 7))
        self.assertIsNone(executing.queue_position)

    async def test_staging_makes_stale(self) -> None:
        """What was read of a task before it was staged is stale."""
        await self.accepted("a")
        behind = await self.accepted("b")
        await self.change(new_task("a"), Event.EXECUTE, 5)
        await self.assert_stale(step(behind, Event.EXECUTE, 6))

    async def test_submitted_tasks_do_not_queue(self) -> None:
        """A submitter's ACCEPTED is no place in the queue here."""
        await self.change(await self.create(new_task(side=Side.SUBMITTER)), Event.HEAR_ACCEPTED)
        self.assertEqual(await self.queued(), [])

    # --- deliveries ----------------------------------------------------------------------------------------------

    async def test_in_order_within_a_task(self) -> None:
        """Of one task one message at a time may go, the oldest; settling it lets the next one go."""
        task = await self.create(new_task(), owed(new_task(), b"1"))
        task = await self.change(task, Event.ACCEPT, 10, deliveries=(owed(task, b"2", 10),))
        task = await self.change(task, Event.EXECUTE, 20, deliveries=(owed(task, b"3", 20),))
        self.assertEqual(await self.ready(10_000), [b"1"])
        for milliseconds, expected in ((30, b"2"), (40, b"3")):
            settled = (await self.store.deliveries_of(task.key))[0]
            await self.store.apply(Change(before=task, after=task, at=at(milliseconds), settles=settled.id))
            self.assertEqual(await self.ready(milliseconds - 1), [])
            self.assertEqual(await self.ready(milliseconds), [expected])
            await self.reopen()
        [last] = await self.store.deliveries_of(task.key)
        await self.store.apply(Change(before=task, after=task, at=at(50), settles=last.id))
        self.assertEqual(await self.store.deliveries_of(task.key), [])
        self.assertEqual(await self.store.owed_peers(), [])

    async def test_what_a_delivery_is(self) -> None:
        """A delivery reads back as it was owed; behind another of its task it has no time at which to go."""
        task = new_task()
        submission = Delivery(key=task.key, kind=DeliveryKind.SUBMISSION, created_at=at(3))
        await self.create(task, submission, owed(task, b"{}", 4))
        first, second = await self.store.deliveries_of(task.key)
        self.assertLess(first.id, second.id)
        self.assertEqual(first, evolve(submission, id=first.id, ready_at=at(3)))
        self.assertEqual(second, evolve(owed(task, b"{}", 4), id=second.id, ready_at=None))

    async def test_settled_out_of_turn(self) -> None:
        """Settling a message that waits behind another lets nothing go earlier."""
        task = await self.create(new_task(), *(owed(new_task(), payload) for payload in (b"1", b"2", b"3")))
        _, second, _ = await self.store.deliveries_of(task.key)
        await self.store.apply(Change(before=task, after=task, at=at(9), settles=second.id))
        self.assertEqual(await self.ready(1000), [b"1"])
        self.assertEqual([row.payload for row in await self.store.deliveries_of(task.key)], [b"1", b"3"])

    async def test_settling_twice(self) -> None:
        """Settling what is settled does nothing, not even to a message that was postponed meanwhile."""
        task = await self.create(new_task(), owed(new_task(), b"1"), owed(new_task(), b"2"))
        first, second = await self.store.deliveries_of(task.key)
        settle = Change(before=task, after=task, at=at(9), settles=first.id)
        await self.store.apply(settle)
        await self.store.postpone(second.id, at(500), "refused")
        await self.store.apply(settle)
        self.assertEqual(await self.store.next_delivery(PEER), at(500))

    async def test_tasks_do_not_wait_for_each_other(self) -> None:
        """Messages of several tasks may go at once, the longest ready first, as many as are asked for."""
        for milliseconds, task_id in ((30, "a"), (10, "b"), (20, "c")):
            await self.create(new_task(task_id), owed(new_task(task_id), task_id.encode(), milliseconds))
        await self.create(new_task("d", peer=OTHER), owed(new_task("d", peer=OTHER), b"d"))
        self.assertEqual(await self.ready(25), [b"b", b"c"])
        self.assertEqual(await self.ready(30), [b"b", b"c", b"a"])
        self.assertEqual(await self.ready(30, limit=1), [b"b"])
        self.assertEqual(await self.ready(30, OTHER), [b"d"])

    async def test_postpone(self) -> None:
        """A message that failed goes no earlier than it was postponed to, and remembers how often, and why."""
        task = await self.create(new_task(), owed(new_task(), b"1"), owed(new_task(), b"2"))
        first, _ = await self.store.deliveries_of(task.key)
        await self.store.postpone(first.id, at(5000), "refused")
        await self.store.postpone(first.id, at(9000), "no route")
        await self.reopen()
        first, _ = await self.store.deliveries_of(task.key)
        self.assertEqual((first.ready_at, first.attempts, first.last_error), (at(9000), 2, "no route"))
        self.assertEqual(await self.ready(8999), [])
        self.assertEqual(await self.ready(9000), [b"1"])
        self.assertEqual(await self.store.next_delivery(PEER), at(9000))

    async def test_next_delivery(self) -> None:
        """The next delivery to a peer is the earliest one of all its tasks, and none when nothing is owed."""
        self.assertIsNone(await self.store.next_delivery(PEER))
        await self.create(new_task("a"), owed(new_task("a"), milliseconds=70))
        await self.create(new_task("b"), owed(new_task("b"), milliseconds=50))
        await self.create(new_task("c", peer=OTHER), owed(new_task("c", peer=OTHER), milliseconds=10))
        self.assertEqual(await self.store.next_delivery(PEER), at(50))
        self.assertEqual(sorted(map(str, await self.store.owed_peers())), [str(PEER), str(OTHER)])

    # --- the ledger, and what peers announce ---------------------------------------------------------------------

    async def test_bookings(self) -> None:
        """Points add up over tasks, for each party; the same task never books twice for one party and side."""
        bookings = (Booking(OWN, -1, "completed"), Booking(PEER, 4, "completed"))
        task = await self.create(new_task("a", Side.SUBMITTER))
        task = await self.change(task, Event.HEAR_EXECUTING, bookings=bookings)
        task = await self.change(task, Event.RECEIVE_RESULTS, bookings=(*bookings, Booking(OTHER, 2, "else")))
        self.assertEqual(await self.store.scores(), [(OWN, -1), (PEER, 4), (OTHER, 2)])
        other = await self.create(new_task("b", Side.SUBMITTER))
        await self.change(other, Event.HEAR_EXPIRED, bookings=(Booking(PEER, -1, "expired"),))
        await self.reopen()
        self.assertEqual(await self.store.scores(), [(OWN, -1), (PEER, 3), (OTHER, 2)])

    async def test_features(self) -> None:
        """What a peer announced last is what is remembered, an empty list too."""
        self.assertEqual(await self.store.peer_features(), {})
        await self.store.remember_features(PEER, frozenset({"ack"}))
        await self.store.remember_features(OTHER, frozenset({"ack", "persistent"}))
        await self.store.remember_features(PEER, frozenset())
        await self.reopen()
        self.assertEqual(await self.store.peer_features(), {PEER: frozenset(), OTHER: frozenset({"ack", "persistent"})})

    # --- what is due ---------------------------------------------------------------------------------------------

    async def test_due(self) -> None:
        """Each deadline finds what its column says, oldest first, strictly before the time, and nothing else."""
        for deadline in DEADLINES:
            for status in deadline.statuses:
                prefix = f"{deadline.event.name}-{deadline.since}-{status.value}".replace("_", ".")
                for name, milliseconds in (("x", 40), ("y", 20), ("z", 30)):
                    fields: dict[str, Any] = {"created_at": at(10**9), deadline.since: at(milliseconds)}
                    await self.create(new_task(f"{prefix}-{name}", deadline.side, status=status, **fields))
                for other in TaskStatus:
                    if other not in deadline.statuses:
                        fields = {"created_at": at(10**9), deadline.since: START}
                        await self.create(new_task(f"{prefix}-{other}", deadline.side, status=other, **fields))
                if deadline.unless:
                    fields = {"created_at": at(10**9), deadline.since: START, deadline.unless: START}
                    await self.create(new_task(f"{prefix}-unless", deadline.side, status=status, **fields))
        for deadline in DEADLINES:
            for before, expected in ((20, []), (21, [20]), (31, [20, 30]), (41, [20, 30, 40])):
                due = await self.store.due(deadline, at(before), 100)
                times = [getattr(task, deadline.since) for task in due]
                self.assertEqual(times, [at(ms) for ms in expected for _ in deadline.statuses], deadline)
                for task in due:
                    limit = Timeouts().limit(deadline)
                    overdue = evolve(task, created_at=task.created_at).overdue(at(before) + limit, Timeouts())
                    self.assertIs(overdue, deadline)
            self.assertEqual(len(await self.store.due(deadline, at(41), 2)), 2)

    # --- results -------------------------------------------------------------------------------------------------

    async def test_results(self) -> None:
        """A saved result reads back under the name that it got, before and after a record names it."""
        task = await self.change(await self.accepted("t-1"), Event.EXECUTE)
        name = await self.store.save_result("t-1", "a.md", b"content")
        self.assertEqual(name, "t-1_a.md")
        self.assertEqual(await self.store.read_result(name), b"content")
        await self.change(task, Event.COMPLETE, 0, {"result_file": name})
        await self.reopen()
        self.assertEqual(await self.store.read_result(name), b"content")

    async def test_second_result(self) -> None:
        """A second result of the same name gets another one."""
        names = [await self.store.save_result("t-1", "a.md", b"same") for _ in range(2)]
        self.assertEqual(names, ["t-1_a.md", "t-1_a-2.md"])

    async def test_discarded_result(self) -> None:
        """A discarded result is gone."""
        name = await self.store.save_result("t-1", "a.md", b"content")
        await self.store.discard_result(name)
        with self.assertRaises(StoreError):
            await self.store.read_result(name)

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

    async def test_closed(self) -> None:
        """A closed store refuses everything with `StoreClosed`; closing it again does nothing."""
        task = await self.create(new_task())
        await self.store.close()
        await self.store.close()
        for call in (
            lambda: self.store.create(task, []),
            lambda: self.store.apply(step(task, Event.ACCEPT, 0)),
            lambda: self.store.postpone(1, START, ""),
            lambda: self.store.remember_features(PEER, frozenset()),
            lambda: self.store.get(task.key),
            lambda: self.store.find("t-1"),
            lambda: self.store.list_tasks(side=None, status=None, peer=None, before=None, limit=1),
            lambda: self.store.queue(1),
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
