"""What every task store does with results, and with what is long over: removal, and what is left of it."""

from __future__ import annotations

from hashlib import sha256

from attrs import evolve

from tasksubmit.errors import StoreDamaged, StoreError, TaskForgotten
from tasksubmit.interfaces import SavedResult
from tasksubmit.lifecycle.change import Booking, Change, Tombstone
from tasksubmit.lifecycle.table import Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Reason, Task
from tasksubmit.testing.contracts.samples import OTHER, OWN, PEER, at, new_task, owed, told
from tasksubmit.testing.contracts.store_case import StoreCase


class RetentionContract(StoreCase):
    """Results and retention."""

    # --- results -------------------------------------------------------------------------------------------------

    async def test_results(self) -> None:
        """A saved result reads back under the name that it got, before and after a record names it."""
        task = await self.change(await self.accepted("t-1"), Event.EXECUTE)
        saved = await self.store.save_result("t-1", "a.md", b"content")
        name, digest = saved.name, sha256(b"content").hexdigest()
        self.assertEqual(saved, SavedResult("t-1_a.md", digest, 7))
        self.assertEqual(await self.store.read_result(name), b"content")
        self.assertEqual(await self.store.read_result(name, digest), b"content")
        await self.change(task, Event.COMPLETE, 0, {"result_file": name})
        await self.reopen()
        self.assertEqual(await self.store.read_result(name), b"content")
        self.assertEqual(await self.store.read_result(name, digest), b"content")

    async def test_wrong_digest(self) -> None:
        """A result that is not what was saved is damaged."""
        saved = await self.store.save_result("t-1", "a.md", b"content")
        with self.assertRaises(StoreDamaged):
            await self.store.read_result(saved.name, sha256(b"contend").hexdigest())
        self.assertEqual(await self.store.read_result(saved.name), b"content")

    async def test_second_result(self) -> None:
        """A second result of the same name gets another one."""
        saved = [await self.store.save_result("t-1", "a.md", b"same") for _ in range(2)]
        self.assertEqual([result.name for result in saved], ["t-1_a.md", "t-1_a-2.md"])
        self.assertEqual(saved[0].sha256, saved[1].sha256)

    async def test_discarded_result(self) -> None:
        """A discarded result is gone."""
        saved = await self.store.save_result("t-1", "a.md", b"content")
        await self.store.discard_result(saved.name)
        with self.assertRaises(StoreError):
            await self.store.read_result(saved.name)

    async def test_result_bytes(self) -> None:
        """The size of a peer's results is the sum over its records, of either side; peers without results have none."""
        self.assertEqual(await self.store.result_bytes(), {})
        await self.create(new_task("a", result_bytes=5))
        await self.create(new_task("b", Side.SUBMITTER, result_bytes=2**40))
        await self.create(new_task("b", peer=OTHER, result_bytes=7))
        await self.create(new_task("without", peer=OWN))
        self.assertEqual(await self.store.result_bytes(), {PEER: 2**40 + 5, OTHER: 7})
        forgotten = await self.ended("c", result_bytes=100)
        self.assertEqual(await self.store.result_bytes(), {PEER: 2**40 + 105, OTHER: 7})
        await self.store.forget(forgotten, at(9))
        self.assertEqual(await self.store.result_bytes(), {PEER: 2**40 + 5, OTHER: 7})

    # --- what may be removed -------------------------------------------------------------------------------------

    async def over(self, milliseconds: int, limit: int = 100) -> str:
        """The ids of what ended before a time and owes nothing."""
        return "".join(task.task_id for task in await self.store.ended(at(milliseconds), limit))

    async def test_ended(self) -> None:
        """What ended before a time is found, the oldest end first, of either side; what goes on is not."""
        for task_id, milliseconds in (("a", 30), ("b", 10), ("c", 20)):
            await self.ended(task_id, milliseconds)
        await self.accepted("d")
        submitted = await self.create(new_task("e", Side.SUBMITTER))
        await self.change(submitted, Event.RECEIVE_RESULTS, 25)
        self.assertEqual(await self.over(10), "")
        self.assertEqual(await self.over(11), "b")
        self.assertEqual(await self.over(31), "bcea")
        self.assertEqual(await self.over(31, limit=2), "bc")

    async def test_ended_but_owed(self) -> None:
        """What ended is kept as long as something is owed for it; what was given up is not owed any longer."""
        a = await self.create(new_task("a"), owed(new_task("a"), b"1"), owed(new_task("a"), b"2"))
        other = new_task("a", peer=OTHER)
        await self.create(other, owed(other))
        a = await self.change(a, Event.DECLINE, 5)
        await self.change(await self.create(new_task("b")), Event.DECLINE, 9)
        self.assertEqual(await self.over(100), "b")
        self.assertFalse(await self.store.forget(a, at(50)))
        for effect in ("gives_up", "settles"):
            self.assertEqual(await self.over(100), "b")
            row = (await self.store.deliveries_of(a.key))[-1 if effect == "settles" else 0]
            await self.only(a, 60, **{effect: row.id})
        self.assertEqual(await self.over(100), "ab")

    # --- removal -------------------------------------------------------------------------------------------------

    async def tombstone(self, task: Task, milliseconds: int = 50) -> Tombstone:
        """Remove a task, which must be possible, and read what is left of it."""
        self.assertTrue(await self.store.forget(task, at(milliseconds)))
        tombstone = await self.store.recall(task.key)
        assert isinstance(tombstone, Tombstone)
        assert tombstone is not None
        return tombstone

    async def test_forget(self) -> None:
        """Of a removed task a tombstone is left: its key, its last status, the hash of what it was, its reward."""
        task = await self.create(new_task(description="r\u00e9sum\u00e9", side=Side.SUBMITTER))
        task = await self.change(task, Event.RECEIVE_RESULTS, 5, {"reward": 4})
        self.assertEqual(await self.store.recall(task.key), task)
        self.assertEqual(await self.store.recall(task.key), task)
        found = await self.tombstone(task)
        digest = sha256(b"r\xc3\xa9sum\xc3\xa9").hexdigest()
        self.assertEqual(found, Tombstone(task.key, TaskStatus.COMPLETED, digest, 4, at(50)))
        await self.reopen()
        self.assertIsNone(await self.store.get(task.key))
        self.assertEqual(await self.store.recall(task.key), found)
        self.assertEqual(await self.store.find("t-1"), [])
        self.assertEqual(await self.over(100), "")

    async def test_no_reward(self) -> None:
        """A task that earned nothing leaves no reward, which is another thing than 0."""
        self.assertIsNone((await self.tombstone(await self.ended("a"))).reward)
        self.assertEqual((await self.tombstone(await self.ended("b", reward=0))).reward, 0)

    async def test_forget_everything(self) -> None:
        """With a task go its story, its bookings and what was given up; scores stay, and so does all of other tasks."""
        bookings = (Booking(OWN, -1, "expired"), Booking(PEER, 4, "expired"))
        for peer in (PEER, OTHER):
            task = await self.create(new_task(peer=peer), owed(new_task(peer=peer), b"1"))
            [row] = await self.store.deliveries_of(task.key)
            await self.change(task, Event.DECLINE, 1, bookings=bookings, events=(told("decline"),), gives_up=row.id)
        task, other = await self.get(new_task().key), await self.get(new_task(peer=OTHER).key)
        await self.tombstone(task)
        self.assertEqual(await self.store.events_of(task), [])
        self.assertEqual(await self.store.deliveries_of(task.key), [])
        self.assertEqual(await self.store.events_of(other), [told("decline")])
        self.assertEqual(await self.payloads(other), [b"1"])
        self.assertEqual(await self.get(other.key), other)
        self.assertEqual(await self.store.scores(), [(OWN, -2), (PEER, 8)])
        await self.store.drop_tombstones(at(100), 9)
        again = await self.change(await self.create(new_task()), Event.DECLINE, 1, bookings=bookings)
        self.assertEqual(await self.store.scores(), [(OWN, -3), (PEER, 12)])
        self.assertEqual(await self.store.events_of(again), [])

    async def test_forget_results(self) -> None:
        """The results of a removed task are gone, late ones too; those of others stay, and so do their names."""
        names = [(await self.store.save_result("t-1", "a.md", content)).name for content in (b"1", b"2", b"3")]
        task = await self.ended(result_file=names[0], late_result_file=names[1])
        other = await self.ended("t-2", result_file=names[2])
        await self.tombstone(task)
        for name in names[:2]:
            with self.assertRaises(StoreError):
                await self.store.read_result(name)
        await self.reopen()
        self.assertEqual(await self.store.read_result(names[2]), b"3")
        self.assertEqual((await self.store.save_result("t-1", "a.md", b"new")).name, names[0])
        await self.tombstone(other)

    async def test_not_forgotten(self) -> None:
        """What changed since it was read, goes on, owes something or is gone already is not removed."""
        name = (await self.store.save_result("t-1", "a.md", b"1")).name
        read = await self.ended(result_file=name)
        changed = await self.change_field(read)
        self.assertFalse(await self.store.forget(read, at(50)))
        going_on = await self.executing("t-2", late_result_file=name)
        self.assertFalse(await self.store.forget(going_on, at(50)))
        await self.only(changed, 9, deliveries=(owed(changed),))
        self.assertFalse(await self.store.forget(changed, at(50)))
        self.assertFalse(await self.store.forget(evolve(changed, number=77), at(50)))
        self.assertEqual(await self.get(read.key), changed)
        self.assertEqual(await self.store.tombstones("t-1"), [])
        await self.reopen()
        self.assertEqual(await self.store.read_result(name), b"1")
        [row] = await self.store.deliveries_of(changed.key)
        await self.only(changed, 9, settles=row.id)
        self.assertTrue(await self.store.forget(changed, at(50)))
        self.assertFalse(await self.store.forget(changed, at(60)))
        [left] = await self.store.tombstones("t-1")
        self.assertEqual(left.removed_at, at(50))
        for peer, found in ((PEER, [left]), (OTHER, [])):
            self.assertEqual(await self.store.tombstones("t-1", peer), found)

    async def change_field(self, task: Task) -> Task:
        """The record after a change that leaves its status."""
        before = await self.get(task.key)
        return await self.store.apply(Change(before=before, after=evolve(before, code="late"), at=at(9)))

    # --- tombstones ----------------------------------------------------------------------------------------------

    async def test_tombstone_keeps_the_key(self) -> None:
        """The key of a removed task is not given to another, and whoever asks hears when it went; others are free."""
        await self.tombstone(await self.ended())
        with self.assertRaisesRegex(TaskForgotten, r"task t-1 was DECLINED, and was removed on 2026-11-22T12:00:00"):
            await self.store.create(new_task(), [owed(new_task(), b"1")])
        self.assertIsNone(await self.store.get(new_task().key))
        self.assertEqual(await self.payloads(new_task()), [])
        for free in (new_task(peer=OTHER), new_task(side=Side.SUBMITTER), new_task("t-2")):
            await self.create(free)

    async def test_reason(self) -> None:
        """A tombstone tells why the task ended, as its record did."""
        reason = Reason("failed", "out of memory", "The execution failed")
        task = new_task(status=TaskStatus.CANCELLED, ended_at=at(0))
        task = evolve(task, outcome=reason.outcome, error=reason.error, justification=reason.justification)
        self.assertEqual((await self.tombstone(await self.create(task))).reason, reason)

    async def test_tombstone_of_what_never_arrived(self) -> None:
        """A tombstone may be put where there was never a record, and is then that of any description."""
        reason = Reason("cancelled_by_submitter", justification="Never mind")
        left = Tombstone.of_withdrawn(new_task().key, reason, at(40))
        self.assertIsNone(await self.store.leave_tombstone(left))
        await self.reopen()
        self.assertEqual(await self.store.recall(new_task().key), left)
        self.assertEqual(left.status, TaskStatus.CANCELLED)
        self.assertTrue(left.is_of("work") and left.is_of("other work"))
        with self.assertRaises(TaskForgotten) as raised:
            await self.store.create(new_task(), [])
        self.assertEqual(raised.exception.tombstone, left)

    async def test_return_space(self) -> None:
        """Free space is returned in steps, until there is none or no more can be; what is kept stays."""
        kept = await self.create(new_task("kept", description="kept " * 10_000))
        for number in range(3):
            await self.tombstone(await self.ended(f"t-{number}", description="x" * 50_000))
        first = await self.store.return_space(0)
        self.assertEqual(first.returned_bytes, 0)
        left = first
        while (now := await self.store.return_space(20_000)).returned_bytes:
            self.assertLessEqual(now.returned_bytes, 20_000)
            self.assertEqual(now.free_bytes + now.returned_bytes, left.free_bytes)
            left = now
        self.assertTrue(now.free_bytes == 0 or not now.can_shrink)
        self.assertEqual(await self.get(kept.key), kept)
        await self.reopen()
        self.assertEqual(len(await self.store.tombstones("t-0")), 1)

    async def test_tombstone_of_what_is_known(self) -> None:
        """No tombstone is put beside a record or another tombstone; whoever asks is given that instead."""
        task = await self.create(new_task())
        left = Tombstone.of_withdrawn(task.key, Reason("cancelled_by_submitter"), at(40))
        self.assertEqual(await self.store.leave_tombstone(left), task)
        self.assertEqual(await self.store.tombstones("t-1"), [])
        other = await self.tombstone(await self.ended("t-2"))
        again = Tombstone.of_withdrawn(other.key, Reason("cancelled_by_submitter"), at(90))
        self.assertEqual(await self.store.leave_tombstone(again), other)
        self.assertEqual(await self.store.tombstones("t-2"), [other])

    async def test_tombstones_of_an_id(self) -> None:
        """Every tombstone with an id is found by that, of either side and whichever peer."""
        left = []
        for side, peer in ((Side.RECEIVER, PEER), (Side.RECEIVER, OTHER), (Side.SUBMITTER, PEER)):
            event = Event.DECLINE if side is Side.RECEIVER else Event.HEAR_DECLINED
            left.append(await self.tombstone(await self.change(await self.create(new_task("t-1", side, peer)), event)))
        await self.tombstone(await self.ended("t-2"))
        self.assertEqual({found.key for found in await self.store.tombstones("t-1")}, {found.key for found in left})
        self.assertEqual(len(await self.store.tombstones("t-1")), 3)

    async def test_drop_tombstones(self) -> None:
        """Tombstones put before a time go, the oldest first, as many as are asked for; then their keys are free."""
        for task_id, milliseconds in (("a", 30), ("b", 10), ("c", 20)):
            await self.tombstone(await self.ended(task_id), milliseconds)
        self.assertEqual(await self.store.drop_tombstones(at(10), 9), 0)
        self.assertEqual(await self.store.drop_tombstones(at(31), 2), 2)
        await self.reopen()
        self.assertEqual([len(await self.store.tombstones(task_id)) for task_id in "abc"], [1, 0, 0])
        self.assertIsNone(await self.store.recall(new_task("b").key))
        await self.create(new_task("b"))
        self.assertEqual(await self.store.drop_tombstones(at(31), 2), 1)
        self.assertEqual(await self.store.drop_tombstones(at(31), 2), 0)
