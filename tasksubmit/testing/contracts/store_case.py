"""A task store to be tested, and what the tests of it say; the contract itself is in the modules beside this one."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from typing_extensions import override

from tasksubmit.errors import StaleTask
from tasksubmit.interfaces import ITaskStore
from tasksubmit.lifecycle.change import Change, Delivery
from tasksubmit.lifecycle.table import Event
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.testing.contracts.base import Contract
from tasksubmit.testing.contracts.samples import PEER, at, new_task, step
from tasksubmit.wire.address import Address


class StoreCase(Contract):
    """A store, and what all tests of it say.

    :ivar store: the store that is tested, which is open.
    """

    store: ITaskStore

    def make_store(self) -> ITaskStore:
        """Make the store to be tested, empty and not yet open."""
        raise NotImplementedError

    def make_again(self) -> ITaskStore:
        """Give the store that goes on with what ``store``, which is closed now, has kept: by default itself."""
        return self.store

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = self.make_store()
        self.store.open()
        self.addCleanup(lambda: self.store.close())

    async def reopen(self) -> None:
        """Close the store, and open the one that goes on."""
        await self.store.close()
        self.store = self.make_again()
        self.store.open()

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

    async def payloads(self, task: Task) -> list[bytes]:
        """What is owed for a task, or was given up, in order."""
        return [delivery.payload for delivery in await self.store.deliveries_of(task.key)]

    async def only(self, task: Task, milliseconds: int, **effects: Any) -> Task:
        """Carry out what leaves the record itself as it is."""
        current = await self.get(task.key)
        return await self.store.apply(Change(before=current, after=current, at=at(milliseconds), **effects))

    async def executing(self, task_id: str, **fields: Any) -> Task:
        """A task that is in execution; ``fields`` are set as it begins."""
        return await self.change(await self.accepted(task_id), Event.EXECUTE, 0, fields)

    async def ended(self, task_id: str = "t-1", milliseconds: int = 0, **fields: Any) -> Task:
        """A task that was declined; ``fields`` are set with that."""
        return await self.change(await self.create(new_task(task_id)), Event.DECLINE, milliseconds, fields)

    async def assert_stale(self, change: Change) -> None:
        """The change is refused."""
        with self.assertRaises(StaleTask):
            await self.store.apply(change)
