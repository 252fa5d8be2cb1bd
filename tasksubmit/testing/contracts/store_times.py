"""What every task store does with time: what is due, what is put back, leases, and a clock that is set."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve

from tasksubmit.interfaces import SHIFTED
from tasksubmit.lifecycle.change import LONGEST_WAIT, Change
from tasksubmit.lifecycle.table import DEADLINES, LEASE_LOST, Event, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, from_milliseconds
from tasksubmit.testing.contracts.samples import OTHER, START, at, new_task, owed, step, told
from tasksubmit.testing.contracts.store_case import StoreCase

HOUR_MS = 3_600_000
HOUR = timedelta(hours=1)


class TimeContract(StoreCase):
    """Deadlines and the clock."""

    async def test_due(self) -> None:
        """Each deadline finds what its column says, oldest first, strictly before the time, and nothing else."""
        for deadline in DEADLINES:
            for status in deadline.statuses:
                prefix = f"{deadline.event.name}-{deadline.since}-{status.value}".replace("_", ".")
                for name, milliseconds in (("x", 40), ("y", 20), ("z", 30)):
                    fields: dict[str, Any] = {"created_at": at(10**10), deadline.since: at(milliseconds)}
                    await self.create(new_task(f"{prefix}-{name}", deadline.side, status=status, **fields))
                for other in TaskStatus:
                    if other not in deadline.statuses:
                        fields = {"created_at": at(10**10), deadline.since: START}
                        await self.create(new_task(f"{prefix}-{other}", deadline.side, status=other, **fields))
                for column in deadline.unless:
                    fields = {"created_at": at(10**10), deadline.since: START, column: at(10**10)}
                    name = f"{prefix}-unless-{column}".replace("_", ".")
                    await self.create(new_task(name, deadline.side, status=status, **fields))
        for deadline in DEADLINES:
            for before, expected in ((20, []), (21, [20]), (31, [20, 30]), (41, [20, 30, 40])):
                due = await self.store.due(deadline, at(before), 100)
                times = [getattr(task, deadline.since) for task in due]
                self.assertEqual(times, [at(ms) for ms in expected for _ in deadline.statuses], deadline)
                for task in due:
                    self.assertIs(task.overdue(at(before) + Timeouts().limit(deadline), Timeouts()), deadline)
            self.assertEqual(len(await self.store.due(deadline, at(41), 2)), 2)
        for every_other in (DEADLINES[::2], DEADLINES[1::2]):
            limits = [(deadline, at(21 if deadline in every_other else 20)) for deadline in DEADLINES]
            self.assertEqual(await self.store.passed_deadlines(limits), list(every_other))
        self.assertEqual(await self.store.passed_deadlines([(DEADLINES[1], at(21))]), [DEADLINES[1]])
        self.assertEqual(await self.store.passed_deadlines([]), [])

    # --- executions ----------------------------------------------------------------------------------------------

    async def put_back(self, limit: int = 100) -> str:
        """The ids of what waits to be taken again."""
        return "".join(task.task_id for task in await self.store.put_back(limit))

    async def test_put_back(self) -> None:
        """What was put back waits in the order in which that happened, until it is taken again or ends."""
        for task_id in "abcde":
            await self.executing(task_id)
        await self.create(new_task("f", Side.SUBMITTER, status=TaskStatus.EXECUTING, put_back_at=at(1)))
        for task_id, milliseconds in (("b", 30), ("d", 10), ("c", 20), ("a", 20)):
            await self.change(new_task(task_id), Event.RUN_AGAIN, milliseconds)
        self.assertEqual(await self.put_back(), "dacb")  # those of the same moment as they were created
        self.assertEqual(await self.put_back(limit=2), "da")
        await self.reopen()
        await self.change(new_task("a"), Event.TAKE_AGAIN, 40)
        await self.change(new_task("d"), Event.TIME_OUT_LEASE, 40)
        self.assertEqual(await self.put_back(), "cb")
        await self.change(new_task("a"), Event.RUN_AGAIN, 50)
        self.assertEqual(await self.put_back(), "cba")

    async def test_held_is_not_taken_again(self) -> None:
        """A requeued task that is held is not taken again, and does not run into the time-out of others, until then."""
        await self.change(await self.executing("a"), Event.PUT_BACK, 10)
        await self.change(new_task("a"), Event.HOLD, 20)
        self.assertEqual(await self.store.put_back(9), [])
        due = [deadline for deadline in DEADLINES if deadline.since in ("put_back_at", "held_at")]
        found = await self.store.passed_deadlines([(deadline, at(100)) for deadline in due])
        self.assertEqual([deadline.since for deadline in found], ["held_at"])
        back = await self.change(new_task("a"), Event.REJOIN, 30)
        self.assertEqual((back.put_back_at, back.held_at), (at(30), None))
        self.assertEqual(await self.store.put_back(9), [back])

    async def test_put_back_is_no_head(self) -> None:
        """What is put back takes no place in the queue, and stages nobody."""
        task = await self.executing("a")
        await self.accepted("b", 10)
        await self.change(task, Event.RUN_AGAIN, 20)
        self.assertEqual(await self.queued(), [("b", at(10))])

    async def lost(self, milliseconds: int) -> list[str]:
        """The ids of those whose lease ran out before a time."""
        return [task.task_id for task in await self.store.due(LEASE_LOST, at(milliseconds), 100)]

    async def test_bound_leases_end(self) -> None:
        """At a start the leases that do not outlive their node have run out, and no others."""
        lease: dict[str, Any] = {"lease_ms": 1000, "is_lease_bound": True}
        bound = await self.executing("bound", **lease)
        free = await self.executing("free", lease_ms=1000)
        waiting = await self.change(await self.executing("waiting", **lease), Event.RUN_AGAIN, 5)
        completed = await self.change(await self.executing("completed", **lease), Event.COMPLETE, 5)
        self.assertEqual(await self.lost(1000), [])
        await self.store.end_bound_leases()
        await self.reopen()
        self.assertEqual(await self.lost(0), ["bound"])
        self.assertEqual(await self.lost(1001), ["bound", "free"])
        for task in (free, waiting, completed):
            self.assertEqual(await self.get(task.key), task)
        await self.assert_stale(step(bound, Event.PROGRESS, 10))

    async def test_bound_lease_is_renewed(self) -> None:
        """A bound lease that ran out with its node is over only once that was acted on: progress still renews it."""
        await self.executing("a", lease_ms=1000, is_lease_bound=True)
        await self.store.end_bound_leases()
        renewed = await self.change(new_task("a"), Event.PROGRESS, 10)
        self.assertEqual(renewed.lease_expires_at, at(1010))
        self.assertEqual(await self.lost(1010), [])

    # --- a clock that is set -------------------------------------------------------------------------------------

    def under_way(self, hours: int = 0, **fields: Any) -> Task:
        """A record with every time of the node's own clock, at a clock that is so many hours later."""
        names = (
            *("created_at", "accepted_at", "staged_at", "execute_started_at", "lease_expires_at", "put_back_at"),
            *("completed_at", "answered_at", "heard_at", "cancel_requested_at", "delivery_given_up_at", "held_at"),
        )
        times: dict[str, Any] = {name: at(n + hours * HOUR_MS) for n, name in enumerate(names)}
        agreed: dict[str, Any] = {"expires_at": at(50), "result_due_at": at(60)}
        return new_task(**{"status": TaskStatus.EXECUTING, "time_idle_ms": 7, **times, **agreed, **fields})

    async def test_shift(self) -> None:
        """Every time of the node's own clock moves with it, forwards and back; what was agreed on stays."""
        task = await self.create(self.under_way())
        await self.store.shift_times(3 * HOUR)
        await self.reopen()
        self.assertEqual(await self.get(task.key), evolve(self.under_way(3), number=task.number, revision=1))
        await self.store.shift_times(-5 * HOUR)
        self.assertEqual(await self.get(task.key), evolve(self.under_way(-2), number=task.number, revision=2))
        self.assertEqual(await self.store.note(SHIFTED), str(-2 * HOUR_MS))

    async def test_shift_leaves_unset(self) -> None:
        """A time that is not set stays unset, whatever the clock does."""
        task = await self.create(new_task(side=Side.SUBMITTER))
        await self.store.shift_times(-HOUR)
        moved = evolve(task, created_at=at(-HOUR_MS), revision=1)
        self.assertEqual(await self.get(task.key), moved)

    async def test_shift_leaves_the_ended(self) -> None:
        """What has ended is history, but for since when it is kept; a COMPLETED that is owed still moves."""
        ended = await self.ended("ended", 5, delivery_given_up_at=at(4))
        await self.only(ended, 6, events=(told("delivered", 6),))
        owing = await self.change(await self.executing("owing"), Event.COMPLETE, 7)
        await self.store.shift_times(HOUR)
        assert ended.ended_at is not None
        self.assertEqual(await self.get(ended.key), evolve(ended, ended_at=ended.ended_at + HOUR))
        self.assertEqual(await self.store.events_of(ended), [told("delivered", 6)])
        self.assertEqual((await self.get(owing.key)).completed_at, at(HOUR_MS + 7))

    async def test_shift_of_deliveries(self) -> None:
        """What is owed moves with the clock, of whatever task: when it may go, and since when it is owed."""
        task = await self.create(new_task("a"), owed(new_task("a"), b"1", 10), owed(new_task("a"), b"2", 20))
        ended = await self.create(new_task("b", peer=OTHER), owed(new_task("b", peer=OTHER), b"3", 30))
        await self.change(ended, Event.DECLINE, 40)
        await self.store.shift_times(-HOUR)
        self.assertEqual(
            [(row.created_at, row.ready_at) for row in await self.store.deliveries_of(task.key)],
            [(at(10 - HOUR_MS), at(10 - HOUR_MS)), (at(20 - HOUR_MS), None)],
        )
        self.assertEqual(await self.store.next_delivery(OTHER), at(30 - HOUR_MS))

    async def test_shift_makes_stale(self) -> None:
        """A change that was planned before the clock was set, by its old times, is refused."""
        task = await self.create(new_task())
        ended = await self.ended("ended")
        change = step(task, Event.ACCEPT, 10)
        await self.store.shift_times(HOUR)
        await self.assert_stale(change)
        accepted = await self.change(task, Event.ACCEPT, HOUR_MS + 10)
        self.assertEqual(accepted.time_idle_ms, 10)
        await self.store.apply(Change(before=ended, after=evolve(ended, code="late"), at=at(HOUR_MS)))

    async def test_shift_leaves_what_lies_ahead(self) -> None:
        """Times that lie ahead of the clock before it was set stay, except where they may: leases and deliveries."""
        await self.create(new_task("a"), owed(new_task("a"), b"1", 10))
        ahead = await self.create(new_task("b", peer=OTHER, created_at=at(5000)), owed(new_task("b"), b"2", 5000))
        leased = await self.executing("c", lease_ms=1000)
        await self.store.shift_times(HOUR, at(100))
        self.assertEqual((await self.get(new_task("a").key)).created_at, at(HOUR_MS))
        self.assertEqual((await self.get(ahead.key)).created_at, at(5000))
        assert leased.lease_expires_at is not None
        self.assertEqual((await self.get(leased.key)).lease_expires_at, leased.lease_expires_at + HOUR)
        self.assertEqual(await self.store.next_delivery(new_task("a").peer), at(10 + HOUR_MS))

    async def test_shift_stays_in_range(self) -> None:
        """However often the clock is set, every time can be read."""
        task = await self.create(new_task(), owed(new_task(), b"1", 10))
        for years in (-3000, -3000, -3000, 9000, 9000):
            await self.store.shift_times(timedelta(days=365 * years))
            self.assertIn((await self.get(task.key)).created_at.year, (1900, 9000))
            await self.store.deliveries_of(task.key)

    async def test_waits_are_limited(self) -> None:
        """After a start no delivery, lease or deadline lasts longer than it may, wherever the clock stands."""
        await self.create(new_task("a"), owed(new_task("a"), b"1", 10))
        [delivery] = await self.store.deliveries_of(new_task("a").key)
        leased = await self.executing("b", lease_ms=1000)
        queued = await self.accepted("c", 20)
        await self.store.postpone(delivery, told("delivery_failed", 20), at(60_020), "away")
        await self.store.limit_waits(at(30))
        self.assertEqual(await self.store.next_delivery(delivery.key.peer), at(60_020))
        self.assertEqual((await self.get(leased.key)).lease_expires_at, leased.lease_expires_at)
        await self.store.limit_waits(at(-HOUR_MS))
        self.assertEqual(await self.store.next_delivery(delivery.key.peer), at(-HOUR_MS))
        self.assertEqual((await self.get(leased.key)).lease_expires_at, at(1000 - HOUR_MS))
        self.assertEqual((await self.get(queued.key)).staged_at, at(-HOUR_MS))
        self.assertEqual((await self.get(queued.key)).created_at, queued.created_at)
        self.assertEqual((await self.get(delivery.key)).created_at, at(-HOUR_MS))

    async def test_clock_set_back(self) -> None:
        """No delivery waits after a start with a clock behind the last start, or behind where it was set last."""
        await self.create(new_task("a"), owed(new_task("a"), b"1", 10))
        [delivery] = await self.store.deliveries_of(new_task("a").key)
        for start, shift, again, ready in ((100, 0, 99, 99), (100, 0, 101, 60_000), (100, 50, 149, 149)):
            await self.store.limit_waits(at(start))
            await self.store.postpone(delivery, told("delivery_failed", 20), at(60_000 - shift), "away")
            if shift:
                await self.store.shift_times(timedelta(milliseconds=shift), at(100))
            await self.store.limit_waits(at(again))
            self.assertEqual(await self.store.next_delivery(delivery.key.peer), at(ready))

    async def test_long_waits_are_limited(self) -> None:
        """A delivery that would wait longer than any peer may ask for waits that long."""
        await self.create(new_task("a"), owed(new_task("a"), b"1", 10))
        [delivery] = await self.store.deliveries_of(new_task("a").key)
        await self.store.postpone(delivery, told("delivery_failed", 20), at(5 * HOUR_MS), "away")
        await self.store.limit_waits(at(30))
        self.assertEqual(await self.store.next_delivery(delivery.key.peer), at(30) + LONGEST_WAIT)

    async def test_shift_and_due(self) -> None:
        """A deadline falls due after as much time as before, also for a lease that has run out with its node."""
        await self.executing("free", lease_ms=1000)
        await self.executing("bound", lease_ms=1000, is_lease_bound=True)
        await self.store.end_bound_leases()
        await self.store.shift_times(HOUR)
        self.assertEqual((await self.get(new_task("bound").key)).lease_expires_at, from_milliseconds(HOUR_MS))
        self.assertEqual(await self.lost(HOUR_MS + 1000), ["bound"])
        self.assertEqual(await self.lost(HOUR_MS + 1001), ["bound", "free"])
