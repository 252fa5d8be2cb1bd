"""What every task store does with scores, with what a score book is still to be told, with quotas and with notes."""

from __future__ import annotations

from tasksubmit.interfaces import PeerLoad
from tasksubmit.lifecycle.change import Booking
from tasksubmit.lifecycle.table import Event, Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, at, new_task, step
from tasksubmit.testing.contracts.store_case import StoreCase


class LedgerContract(StoreCase):
    """Scores, what is owed to a score book, how much waits, notes, and turns in the queue."""

    async def book(self, task: Task, *bookings: Booking, is_told: bool) -> Task:
        """Accept a task, and book points with it."""
        change = step(task, Event.ACCEPT, 10, bookings=bookings, tells_bookings=is_told)
        return await self.store.apply(change)

    async def test_score(self) -> None:
        """The score of one address is that of the ledger, and 0 for one that has none."""
        await self.book(await self.create(new_task()), Booking(OWN, -1, "c"), Booking(PEER, 4, "c"), is_told=False)
        self.assertEqual([await self.store.score(one) for one in (OWN, PEER, OTHER)], [-1, 4, 0])

    async def test_owed_bookings(self) -> None:
        """What a score book is to be told is kept in the order of booking, until it is settled, also when reopened."""
        first, second = await self.create(new_task("t-1")), await self.create(new_task("t-2"))
        await self.book(first, Booking(OWN, -1, "completed"), Booking(PEER, 4, "completed"), is_told=True)
        await self.book(second, Booking(PEER, 2, "completed"), is_told=True)
        await self.reopen()
        owed = await self.store.owed_bookings(10)
        self.assertEqual(
            [(one.key, one.booking) for one in owed],
            [
                (first.key, Booking(OWN, -1, "completed")),
                (first.key, Booking(PEER, 4, "completed")),
                (second.key, Booking(PEER, 2, "completed")),
            ],
        )
        self.assertEqual(await self.store.owed_bookings(2), owed[:2])
        await self.store.settle_bookings([owed[0].id, owed[2].id])
        await self.reopen()
        self.assertEqual(await self.store.owed_bookings(10), [owed[1]])
        self.assertEqual(await self.store.scores(), [(OWN, -1), (PEER, 6)])

    async def test_not_owed(self) -> None:
        """Nothing is kept for a score book when there is none, and of what was booked already nothing again."""
        task = await self.book(await self.create(new_task()), Booking(PEER, 4, "completed"), is_told=False)
        change = step(task, Event.CANCEL, 20, bookings=(Booking(PEER, 4, "again"),), tells_bookings=True)
        await self.store.apply(change)
        self.assertEqual(await self.store.owed_bookings(10), [])

    async def test_numbers_are_not_given_again(self) -> None:
        """A booking that is settled leaves its number to nobody."""
        await self.book(await self.create(new_task("t-1")), Booking(PEER, 1, "c"), is_told=True)
        [first] = await self.store.owed_bookings(10)
        await self.store.settle_bookings([first.id])
        await self.book(await self.create(new_task("t-2")), Booking(PEER, 1, "c"), is_told=True)
        [second] = await self.store.owed_bookings(10)
        self.assertGreater(second.id, first.id)

    async def loads(self) -> list[PeerLoad]:
        """The loads of all peers, by address."""
        return sorted(await self.store.load(), key=lambda load: load.address)

    async def test_load(self) -> None:
        """What each peer takes is counted: new, queued and open tasks, those in all states, and bytes of UTF-8."""
        self.assertEqual(await self.store.load(), [])
        for task_id, description in (("t-1", "abc"), ("t-2", "äö")):
            await self.create(new_task(task_id, description=description))
        await self.accepted("t-3")
        await self.change(await self.accepted("t-4"), Event.EXECUTE)
        await self.create(new_task("t-5", peer=OTHER, description="\U0001f600"))
        await self.create(new_task("t-6", Side.SUBMITTER, description="mine"))
        usual_bytes = len(new_task().description)
        loads = [
            PeerLoad(PEER, new=2, queued=1, open=4, records=4, stored_bytes=7 + 2 * usual_bytes),
            PeerLoad(OTHER, new=1, open=1, records=1, stored_bytes=4),
        ]
        self.assertEqual(await self.loads(), loads)
        ended = await self.change(await self.create(new_task("t-7", peer=OTHER)), Event.DECLINE, 0, {"result_bytes": 9})
        loads[1] = PeerLoad(OTHER, new=1, open=1, records=2, stored_bytes=4 + usual_bytes + 9)
        self.assertEqual(await self.loads(), loads)
        await self.store.forget(ended, at(0))
        loads[1] = PeerLoad(OTHER, new=1, open=1, records=2, stored_bytes=4)
        await self.reopen()
        self.assertEqual(await self.loads(), loads)
        await self.store.drop_tombstones(at(1), 10)
        loads[1] = PeerLoad(OTHER, new=1, open=1, records=1, stored_bytes=4)
        self.assertEqual(await self.loads(), loads)

    async def test_load_in_its_place(self) -> None:
        """The load is counted between the changes that were asked for before it and those after it."""
        first = self.store.create(new_task("t-1", description="abc"), [])
        load = self.store.load()
        second = self.store.create(new_task("t-2", description="abc"), [])
        self.assertEqual(await load, [PeerLoad(PEER, new=1, open=1, records=1, stored_bytes=3)])
        self.assertTrue(first.called)
        await second
        self.assertEqual(await self.store.load(), [PeerLoad(PEER, new=2, open=2, records=2, stored_bytes=6)])

    async def test_notes(self) -> None:
        """A note is kept under its name, in place of an earlier one, also when reopened."""
        self.assertEqual(await self.store.note("disabled"), "")
        await self.store.keep_note("disabled", "yes")
        await self.store.keep_note("other", "else")
        await self.reopen()
        self.assertEqual([await self.store.note(name) for name in ("disabled", "other")], ["yes", "else"])
        await self.store.keep_note("disabled", "")
        self.assertEqual(await self.store.note("disabled"), "")

    # --- turns in the queue ------------------------------------------------------------------------------------------

    async def join(self, task_id: str, peer: str, *, is_fair: bool = True) -> None:
        """Accept a task of a peer, which joins the queue."""
        task = await self.create(new_task(task_id, peer={"A": PEER, "B": OTHER}[peer]))
        await self.store.apply(step(task, Event.ACCEPT, 10, is_fair=is_fair))

    async def order(self) -> list[str]:
        """The queue, the head first; which alone is staged."""
        queue = await self.store.queue(100)
        self.assertEqual([task.staged_at is not None for task in queue], [place == 0 for place in range(len(queue))])
        return [task.task_id for task in queue]

    async def test_turns(self) -> None:
        """Who comes with one task waits for one turn of everybody else, not for the whole of another's backlog."""
        for number in range(4):
            await self.join(f"a{number}", "A")
        await self.join("b0", "B")
        await self.join("b1", "B")
        self.assertEqual(await self.order(), ["a0", "a1", "b0", "a2", "b1", "a3"])
        await self.join("a4", "A")
        await self.join("b2", "B")
        self.assertEqual(await self.order(), ["a0", "a1", "b0", "a2", "b1", "a3", "b2", "a4"])

    async def test_turns_go_on(self) -> None:
        """The turns go on when the head leaves: nobody saves up turns, and nobody overtakes who is head."""
        for task_id, peer in (("a0", "A"), ("a1", "A"), ("a2", "A")):
            await self.join(task_id, peer)
        for _ in range(2):
            [head] = await self.store.queue(1)
            await self.change(head, Event.EXECUTE)
        await self.join("b0", "B")
        await self.join("b1", "B")
        self.assertEqual(await self.order(), ["a2", "b0", "b1"])

    async def test_turns_among_the_unfair(self) -> None:
        """A queue that was kept in the order of acceptance can be gone on with in turns, and the other way round."""
        for number in range(3):
            await self.join(f"a{number}", "A", is_fair=False)
        await self.join("b0", "B")
        await self.join("a3", "A")
        await self.join("b1", "B", is_fair=False)
        self.assertEqual(await self.order(), ["a0", "a1", "a2", "b0", "a3", "b1"])
