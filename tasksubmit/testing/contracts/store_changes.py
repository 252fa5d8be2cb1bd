"""What every task store does with changes: of records, of the queue and the ledger, and what their stories tell."""

from __future__ import annotations

from attrs import evolve

from tasksubmit.errors import StaleTask
from tasksubmit.lifecycle.change import Booking, Change, TaskEvent
from tasksubmit.lifecycle.table import Event, Side, TaskStatus
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, START, at, new_task, owed, step, told
from tasksubmit.testing.contracts.store_case import StoreCase


class ChangeContract(StoreCase):
    """Changes, the queue, stories and the ledger."""

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
                ended_at=at(1500),
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
            events=(told("decline"),),
        )
        await self.assert_stale(change)
        self.assertEqual(await self.get(task.key), before)
        self.assertEqual(await self.store.deliveries_of(task.key), [])
        self.assertEqual(await self.store.scores(), [])
        self.assertEqual(await self.store.events_of(task), [])
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

    async def test_held_tasks_keep_their_places(self) -> None:
        """A held task is not in the queue, and rejoins it where it was; who rejoins ahead of the head is head now."""
        for task_id in "abc":
            await self.accepted(task_id)
        held = await self.change(new_task("a"), Event.HOLD, 100)
        self.assertEqual((held.held_at, held.staged_at), (at(100), None))
        await self.change(new_task("c"), Event.HOLD, 150)
        self.assertEqual(await self.queued(), [("b", at(100))])
        await self.accepted("d")
        await self.reopen()
        self.assertEqual(await self.queued(), [("b", at(100)), ("d", None)])
        await self.change(new_task("c"), Event.REJOIN, 180)
        self.assertEqual(await self.queued(), [("b", at(100)), ("c", None), ("d", None)])
        back = await self.change(new_task("a"), Event.REJOIN, 200)
        self.assertEqual((back.held_at, back.staged_at), (None, at(200)))
        self.assertEqual(await self.queued(), [("a", at(200)), ("b", None), ("c", None), ("d", None)])
        await self.change(new_task("a"), Event.EXECUTE, 300)
        self.assertEqual((await self.queued())[0], ("b", at(300)))

    async def test_held_until_the_end(self) -> None:
        """A held task that ends leaves its place."""
        await self.accepted("a")
        await self.change(new_task("a"), Event.HOLD, 100)
        ended = await self.change(new_task("a"), Event.TIME_OUT_HOLD, 200)
        self.assertEqual((ended.held_at, ended.queue_position), (None, None))

    async def test_load_of_held_tasks(self) -> None:
        """Held tasks are open, and not in the queue."""
        await self.accepted("a")
        await self.accepted("b")
        await self.change(new_task("a"), Event.HOLD, 100)
        [load] = await self.store.load()
        self.assertEqual((load.queued, load.held, load.open), (1, 1, 2))

    async def test_submitted_tasks_do_not_queue(self) -> None:
        """A submitter's ACCEPTED is no place in the queue here."""
        await self.change(await self.create(new_task(side=Side.SUBMITTER)), Event.HEAR_ACCEPTED)
        self.assertEqual(await self.queued(), [])

    # --- stories -------------------------------------------------------------------------------------------------

    async def test_story(self) -> None:
        """The lines of a story read back as they were told, in that order, whatever their times."""
        lines = (
            TaskEvent(at=at(9), name="accept", by="receiver", status=TaskStatus.ACCEPTED, detail="\u4ea4 'x'"),
            TaskEvent(at=at(7), name="execute", by="node", status=TaskStatus.EXECUTING),
            TaskEvent(at=at(8), name="accept", by="receiver", status=TaskStatus.ACCEPTED, detail="\u4ea4 'x'"),
        )
        task = await self.change(await self.create(new_task()), Event.ACCEPT, events=lines[:2])
        await self.only(task, 0, events=lines[2:])
        other = await self.create(new_task("t-2"))
        await self.only(other, 0, events=(told("other"),))
        await self.reopen()
        self.assertEqual(await self.store.events_of(task), list(lines))
        self.assertEqual(await self.store.events_of(other), [told("other")])

    async def test_equal_lines_are_counted(self) -> None:
        """What the last line says already is counted there, with the last time and where the task stood then."""
        task = await self.create(new_task())
        for milliseconds in (1, 5, 9):
            await self.only(task, 0, events=(told("failed", milliseconds, "refused"),))
        last = told("failed", 12, "refused", TaskStatus.ACCEPTED)
        await self.only(task, 0, events=(last, told("failed", 13, "no route"), told("failed", 14, "refused")))
        await self.only(task, 0, events=(told("else", 15, "refused"),))
        self.assertEqual(
            await self.store.events_of(task),
            [
                evolve(told("failed", 1, "refused", TaskStatus.ACCEPTED), times=4, last_at=at(12)),
                told("failed", 13, "no route"),
                told("failed", 14, "refused"),
                told("else", 15, "refused"),
            ],
        )

    async def test_failed_attempt_is_told(self) -> None:
        """A failed attempt to deliver is told in its task's story, in the same transaction."""
        task = await self.create(new_task(), owed(new_task(), b"1"))
        await self.create(new_task(side=Side.SUBMITTER))
        [delivery] = await self.store.deliveries_of(task.key)
        await self.store.postpone(delivery, told("failed", 3, "refused"), at(10), "refused")
        await self.store.postpone(delivery, told("failed", 12, "refused"), at(20), "refused")
        self.assertEqual(
            await self.store.events_of(task), [evolve(told("failed", 3, "refused"), times=2, last_at=at(12))]
        )

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
