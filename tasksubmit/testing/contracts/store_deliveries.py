"""What every task store does with what is owed: in order within a task, given up, tried again."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from attrs import evolve

from tasksubmit.lifecycle.change import Change, Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Event
from tasksubmit.lifecycle.task import Task
from tasksubmit.testing.contracts.samples import OTHER, PEER, at, new_task, owed, told
from tasksubmit.testing.contracts.store_case import StoreCase

PROGRESS = DeliveryKind.PROGRESS
SUBMISSION = DeliveryKind.SUBMISSION


class DeliveryContract(StoreCase):
    """Deliveries."""

    async def owing(self, *payloads: bytes, task_id: str = "t-1") -> Task:
        """A task for which these messages are owed, since 0, 1, 2 ... milliseconds."""
        task = new_task(task_id)
        return await self.create(task, *(owed(task, payload, n) for n, payload in enumerate(payloads)))

    async def row(self, task: Task, payload: bytes) -> Delivery:
        """The delivery with this payload."""
        [found] = [row for row in await self.store.deliveries_of(task.key) if row.payload == payload]
        return found

    async def times(self, task: Task) -> dict[bytes, datetime | None]:
        """When each message of a task may go."""
        return {row.payload: row.ready_at for row in await self.store.deliveries_of(task.key)}

    async def settle(self, task: Task, payload: bytes, milliseconds: int) -> None:
        """The message arrived."""
        await self.only(task, milliseconds, settles=(await self.row(task, payload)).id)

    async def give_up(self, task: Task, payload: bytes, milliseconds: int) -> None:
        """The message is not to be tried again by itself."""
        await self.only(task, milliseconds, gives_up=(await self.row(task, payload)).id)

    async def aged(self, milliseconds: int, limit: int = 100) -> list[bytes]:
        """The payloads of what is owed since before a time."""
        found = await self.store.aged_deliveries(at(milliseconds), limit)
        for delivery, task in found:
            self.assertEqual(delivery.key, task.key)
        return [delivery.payload for delivery, _ in found]

    async def test_left_out(self) -> None:
        """A look leaves out what is under way already, however much that is."""
        for n in range(40):
            await self.owing(b"%d" % n, task_id=f"t-{n}")
        found = [delivery for delivery, _ in await self.store.ready_deliveries(PEER, at(10), 40)]
        for left_out in (found[:1], found[3:], found[5:30]):
            ids = frozenset(delivery.id for delivery in left_out)
            rest = [delivery for delivery in found if delivery.id not in ids]
            for limit in (2, 40):
                left = [delivery for delivery, _ in await self.store.ready_deliveries(PEER, at(10), limit, ids)]
                self.assertEqual(left, rest[:limit])

    # --- order ---------------------------------------------------------------------------------------------------

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
        await self.store.postpone(second, told("failed"), at(500), "refused")
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
        await self.store.postpone(first, told("failed"), at(5000), "refused")
        await self.store.postpone(first, told("failed"), at(9000), "no route")
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

    async def test_hasten(self) -> None:
        """What waits for its next attempt may go at once; what is behind it or was given up is left as it is."""
        task = await self.owing(b"1", b"2")
        other = await self.owing(b"3", task_id="t-2")
        await self.give_up(other, b"3", 5)
        await self.store.postpone(await self.row(task, b"1"), told("failed", 10), at(300_000), "refused")
        self.assertEqual(await self.ready(20), [])
        await self.store.hasten(at(20))
        self.assertEqual(await self.ready(19), [])
        self.assertEqual(await self.ready(20), [b"1"])
        self.assertEqual(await self.times(task), {b"1": at(20), b"2": None})
        self.assertEqual(await self.times(other), {b"3": None})
        await self.store.hasten(at(30))
        self.assertEqual(await self.times(task), {b"1": at(20), b"2": None})

    async def test_held(self) -> None:
        """A new message that is for later goes then, unless another is before it."""
        task = new_task()
        task = await self.create(task, evolve(owed(task, b"1"), ready_at=at(1000)))
        self.assertEqual(await self.times(task), {b"1": at(1000)})
        await self.only(task, 5, deliveries=(evolve(owed(task, b"2", 5), ready_at=at(500)),))
        self.assertEqual(await self.times(task), {b"1": at(1000), b"2": None})
        self.assertEqual(await self.ready(999), [])
        self.assertEqual(await self.ready(1000), [b"1"])

    async def test_dropped(self) -> None:
        """A change may drop what is pending for its task, but not what it brings about, nor what was given up."""
        task = await self.owing(b"1", b"2", b"3")
        other = await self.owing(b"4", task_id="t-2")
        await self.give_up(task, b"1", 10)
        await self.only(task, 20, drops_pending=True, deliveries=(owed(task, b"5", 20),))
        self.assertEqual(await self.times(task), {b"1": None, b"5": at(20)})
        self.assertEqual(await self.times(other), {b"4": at(0)})

    async def test_dropped_and_given_up(self) -> None:
        """A message that a change gives up stays, whatever else that drops."""
        task = await self.owing(b"1", b"2")
        await self.only(task, 20, drops_pending=True, gives_up=(await self.row(task, b"1")).id)
        self.assertEqual(await self.times(task), {b"1": None})

    async def test_kinds(self) -> None:
        """A look may be for some kinds of messages alone."""
        for n, kind in enumerate((SUBMISSION, DeliveryKind.STATUS, DeliveryKind.RESULTS)):
            task = new_task(f"t-{n}")
            await self.create(task, evolve(owed(task, kind.value.encode(), n), kind=kind))
        self.assertEqual(await self.ready(10), [b"submission", b"status", b"results"])
        found = await self.store.ready_deliveries(PEER, at(10), 9, (), (DeliveryKind.STATUS, DeliveryKind.RESULTS))
        self.assertEqual([delivery.payload for delivery, _ in found], [b"status", b"results"])
        self.assertEqual(await self.store.next_delivery(PEER, (DeliveryKind.RESULTS,)), at(2))
        self.assertIsNone(await self.store.next_delivery(PEER, (PROGRESS,)))

    async def test_age_of_submissions(self) -> None:
        """Submissions never become too old: they have a deadline of their own."""
        task = new_task()
        await self.create(task, evolve(owed(task, b"1"), kind=SUBMISSION))
        self.assertEqual(await self.aged(10**9), [])

    # --- given up, and tried again -------------------------------------------------------------------------------

    async def test_given_up(self) -> None:
        """What is given up stays in its place without a time, says since when, and lets the next one of its task go."""
        task = await self.owing(b"1", b"2", b"3")
        before = await self.row(task, b"1")
        await self.give_up(task, b"1", 50)
        await self.reopen()
        self.assertEqual(await self.payloads(task), [b"1", b"2", b"3"])
        self.assertEqual(await self.row(task, b"1"), evolve(before, ready_at=None, given_up_at=at(50)))
        self.assertEqual(await self.times(task), {b"1": None, b"2": at(50), b"3": None})
        self.assertEqual(await self.ready(50), [b"2"])

    async def test_everything_given_up(self) -> None:
        """Nothing is owed when all was given up: no next time, nobody to whom it is owed."""
        task = await self.owing(b"1", b"2")
        for payload in (b"1", b"2"):
            await self.give_up(task, payload, 50)
        self.assertEqual(await self.ready(10_000), [])
        self.assertIsNone(await self.store.next_delivery(PEER))
        self.assertEqual(await self.store.owed_peers(), [])
        self.assertEqual(await self.aged(10_000), [])

    async def test_given_up_out_of_turn(self) -> None:
        """Giving up a message that waits behind another lets nothing go earlier, and is not waited for later."""
        task = await self.owing(b"1", b"2", b"3")
        await self.give_up(task, b"2", 50)
        self.assertEqual(await self.times(task), {b"1": at(0), b"2": None, b"3": None})
        await self.settle(task, b"1", 60)
        self.assertEqual(await self.times(task), {b"2": None, b"3": at(60)})

    async def test_owed_after_given_up(self) -> None:
        """What becomes owed later does not wait for what was given up."""
        task = await self.owing(b"1")
        await self.give_up(task, b"1", 50)
        await self.only(task, 60, deliveries=(owed(task, b"2", 60), owed(task, b"3", 60)))
        self.assertEqual(await self.times(task), {b"1": None, b"2": at(60), b"3": None})

    async def test_settled_after_it_was_given_up(self) -> None:
        """What was given up may be settled still; it then delays nothing and nobody."""
        task = await self.owing(b"1", b"2", b"3")
        await self.give_up(task, b"1", 50)
        await self.settle(task, b"1", 60)
        self.assertEqual(await self.times(task), {b"2": at(50), b"3": None})

    async def test_attempt_ends_after_giving_up(self) -> None:
        """An attempt that fails after its message was given up does not have it tried again."""
        task = await self.owing(b"1")
        under_way = await self.row(task, b"1")
        await self.give_up(task, b"1", 50)
        given_up = await self.row(task, b"1")
        await self.store.postpone(under_way, told("failed"), at(70), "refused")
        self.assertEqual(await self.row(task, b"1"), given_up)

    async def test_revived(self) -> None:
        """What was given up is tried again as if it were new, before what became owed after it."""
        task = await self.owing(b"1", b"2", b"3", b"4")
        await self.store.postpone(await self.row(task, b"1"), told("failed"), at(40), "refused")
        for payload in (b"1", b"3"):
            await self.give_up(task, payload, 50)
        await self.only(task, 60, revives=True)
        await self.reopen()
        self.assertEqual(await self.times(task), {b"1": at(60), b"2": None, b"3": None, b"4": None})
        first = await self.row(task, b"1")
        self.assertEqual((first.attempts, first.created_at, first.given_up_at), (0, at(60), None))
        self.assertEqual((await self.row(task, b"2")).created_at, at(1))
        for milliseconds, payload in enumerate((b"1", b"2", b"3", b"4"), 70):
            self.assertEqual(await self.ready(1000), [payload])
            await self.settle(task, payload, milliseconds)

    async def test_revived_behind_another(self) -> None:
        """What is revived behind a message that is under way waits for it, and does not hasten it."""
        task = await self.owing(b"1", b"2", b"3")
        await self.store.postpone(await self.row(task, b"1"), told("failed"), at(500), "refused")
        await self.give_up(task, b"2", 50)
        await self.only(task, 60, revives=True)
        self.assertEqual(await self.times(task), {b"1": at(500), b"2": None, b"3": None})
        self.assertEqual((await self.row(task, b"1")).attempts, 1)

    async def test_nothing_to_revive(self) -> None:
        """Where nothing was given up, nothing changes; nor does it for other tasks, whatever they gave up."""
        task, other = await self.owing(b"1", b"2"), await self.owing(b"3", task_id="t-2")
        await self.store.postpone(await self.row(task, b"1"), told("failed"), at(500), "refused")
        await self.give_up(other, b"3", 50)
        before = await self.store.deliveries_of(task.key)
        await self.only(task, 60, revives=True)
        self.assertEqual(await self.store.deliveries_of(task.key), before)
        self.assertEqual((await self.row(other, b"3")).given_up_at, at(50))

    async def test_attempt_ends_after_reviving(self) -> None:
        """A message under way that came to wait behind a revived one is not sent again before that."""
        task = await self.owing(b"1", b"2")
        await self.give_up(task, b"1", 50)
        under_way = await self.row(task, b"2")
        await self.only(task, 60, revives=True)
        await self.store.postpone(under_way, told("failed"), at(70), "refused")
        second = await self.row(task, b"2")
        self.assertEqual((second.ready_at, second.attempts, second.last_error), (None, 1, "refused"))
        self.assertEqual(await self.ready(1000), [b"1"])

    async def test_revived_with_what_is_owed_anew(self) -> None:
        """Giving up and reviving in one change with a new message leaves the older one first."""
        task = await self.owing(b"1")
        await self.give_up(task, b"1", 50)
        await self.only(task, 60, revives=True, deliveries=(owed(task, b"2", 60),))
        self.assertEqual(await self.times(task), {b"1": at(60), b"2": None})

    # --- age -----------------------------------------------------------------------------------------------------

    async def test_aged(self) -> None:
        """What is owed since before a time is found over all peers, waiting or not, the oldest first."""
        for milliseconds, task_id in ((30, "a"), (10, "b")):
            task = new_task(task_id)
            await self.create(task, owed(task, task_id.encode(), milliseconds), owed(task, b"late", 40))
        await self.create(new_task("c", peer=OTHER), owed(new_task("c", peer=OTHER), b"c", 20))
        self.assertEqual(await self.aged(10), [])
        self.assertEqual(await self.aged(31), [b"b", b"c", b"a"])
        self.assertEqual(await self.aged(31, limit=2), [b"b", b"c"])
        self.assertEqual(await self.aged(41), [b"b", b"c", b"a", b"late", b"late"])

    async def test_given_up_is_not_aged(self) -> None:
        """What was given up is not found again, until it is revived and as old once more."""
        task = await self.owing(b"1")
        await self.store.postpone(await self.row(task, b"1"), told("failed"), at(40), "refused")
        self.assertEqual(await self.aged(1), [b"1"])
        await self.give_up(task, b"1", 50)
        self.assertEqual(await self.aged(10_000), [])
        await self.only(task, 60, revives=True)
        self.assertEqual((await self.aged(60), await self.aged(61)), ([], [b"1"]))

    # --- what replaces, and what is not owed twice ---------------------------------------------------------------

    async def progress(self, task: Task, *payloads: bytes, milliseconds: int = 0) -> None:
        """Owe progress."""
        for payload in payloads:
            await self.only(task, milliseconds, deliveries=(owed(task, payload, milliseconds, PROGRESS),))

    async def test_progress_replaces(self) -> None:
        """Progress goes in the place of progress that waits last, and is as old as that."""
        task = await self.owing(b"status")
        await self.progress(task, b"10%", milliseconds=10)
        waiting = await self.row(task, b"10%")
        await self.progress(task, b"20%", b"30%", milliseconds=20)
        self.assertEqual(await self.payloads(task), [b"status", b"30%"])
        self.assertEqual(await self.row(task, b"30%"), evolve(waiting, payload=b"30%"))

    async def test_progress_replaces_nothing_else(self) -> None:
        """Progress replaces no status, no progress before a status, and none of another task."""
        task, other = await self.owing(b"status"), await self.owing(b"status", task_id="t-2")
        await self.progress(other, b"1%")
        await self.progress(task, b"10%")
        await self.only(task, 0, deliveries=(owed(task, b"later"),))
        await self.progress(task, b"20%")
        self.assertEqual(await self.payloads(task), [b"status", b"10%", b"later", b"20%"])
        self.assertEqual(await self.payloads(other), [b"status", b"1%"])

    async def test_first_progress_is_not_replaced(self) -> None:
        """The first message of a task may be under way: it stays as it is, also when it was postponed."""
        task = await self.owing()
        await self.progress(task, b"10%")
        await self.progress(task, b"20%")
        self.assertEqual(await self.payloads(task), [b"10%", b"20%"])
        await self.settle(task, b"10%", 5)
        await self.store.postpone(await self.row(task, b"20%"), told("failed"), at(500), "refused")
        await self.progress(task, b"30%", b"40%")
        self.assertEqual(await self.payloads(task), [b"20%", b"40%"])

    async def test_given_up_progress_is_not_replaced(self) -> None:
        """Progress after progress that was given up is another message."""
        task = await self.owing()
        await self.progress(task, b"10%")
        await self.give_up(task, b"10%", 50)
        await self.progress(task, b"20%", milliseconds=60)
        self.assertEqual(await self.times(task), {b"10%": None, b"20%": at(60)})

    async def kinds(self, task: Task) -> Sequence[str]:
        """The kinds of what is owed for a task, or was given up."""
        return [row.kind.value for row in await self.store.deliveries_of(task.key)]

    async def test_submission_is_not_owed_twice(self) -> None:
        """A submission that is owed already, first or not, postponed or not, is the question as well."""
        task = await self.owing(b"status")
        submission = owed(task, b"", 10, SUBMISSION)
        await self.only(task, 10, deliveries=(submission, submission))
        self.assertEqual(await self.kinds(task), ["status", "submission"])
        await self.settle(task, b"status", 20)
        [row] = await self.store.deliveries_of(task.key)
        await self.store.postpone(row, told("failed"), at(500), "refused")
        await self.only(task, 30, deliveries=(owed(task, b"else", 30), submission))
        self.assertEqual(await self.kinds(task), ["submission", "status"])

    async def test_submission_is_owed_again(self) -> None:
        """After one that was answered a submission is owed again, and it takes the place of one that was given up."""
        task, other = await self.owing(), await self.owing(task_id="t-2")
        await self.only(other, 0, deliveries=(owed(other, b"", 0, SUBMISSION),))
        for milliseconds, effect in ((10, "settles"), (20, "gives_up"), (30, "settles")):
            await self.only(task, milliseconds, deliveries=(owed(task, b"", milliseconds, SUBMISSION),))
            row = (await self.store.deliveries_of(task.key))[-1]
            self.assertEqual((row.kind, row.ready_at), (SUBMISSION, at(milliseconds)))
            await self.only(task, milliseconds, **{effect: row.id})
        self.assertEqual(await self.kinds(task), [])
        await self.only(task, 40, deliveries=(owed(task, b"", 40, SUBMISSION),))
        await self.only(task, 50, gives_up=(await self.store.deliveries_of(task.key))[0].id)
        await self.only(task, 60, deliveries=(owed(task, b"", 60, SUBMISSION),))
        self.assertEqual(await self.kinds(task), ["submission"])
        self.assertEqual(await self.kinds(other), ["submission"])
