"""What a node takes while the disk has little space left."""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit.errors import StoreError
from tasksubmit.interfaces import DiskSpace
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.retention import Retention
from tasksubmit.stores.disk import space
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.stores import MemoryTaskStore
from tests.node.helpers import ALICE, BOB, NodeTestCase, request

MIB = 2**20


class SmallStore(MemoryTaskStore):
    """A store that says what is free."""

    def __init__(self, directory: Path, size_bytes: int) -> None:
        super().__init__()
        self.work_directory = directory
        self.size_bytes = size_bytes
        self.free_bytes = size_bytes
        self.fails = False

    @override
    def disk_space(self) -> Deferred[DiskSpace | None]:
        if self.fails:
            return fail(StoreError("the disk cannot be asked"))
        return succeed(DiskSpace(self.size_bytes, self.free_bytes))


class DiskSpaceTests(NodeTestCase):
    """A node on a disk that fills up."""

    def make_bob(self, size_bytes: int, min_free_bytes: int | None = None) -> None:
        """Bob, on a disk of this size."""
        self.store = SmallStore(Path(self.mktemp()), size_bytes)
        retention = Retention(min_free_bytes=min_free_bytes)
        self.bob = self.make_node(BOB, ALICE, store=self.store, retention=retention)

    def code_at(self, free_bytes: int) -> str:
        """What a submission is refused with when so much is free; nothing if it is taken."""
        self.store.free_bytes = free_bytes
        self.advance(1)
        return self.ask(BOB, request(f"t-{free_bytes}")).code

    def test_floor(self) -> None:
        """Below the floor new tasks are refused for now, and taken again above it; the node says why."""
        self.make_bob(10_000 * MIB, 50 * MIB)
        self.assertEqual(self.code_at(50 * MIB), "")
        self.assertEqual(self.bob.disk_problem, "")
        self.assertEqual(self.code_at(50 * MIB - 1), "storage")
        left = f"the disk has {50 * MIB - 1} bytes left, and {50 * MIB} are kept free"
        self.assertEqual(self.bob.disk_problem, left)
        self.assertEqual(self.code_at(51 * MIB), "")
        self.assertEqual(self.bob.disk_problem, "")

    def test_usual_floor(self) -> None:
        """Without a setting a twentieth of the disk is kept free, and no more than 256 MiB."""
        for size_bytes, floor in ((300 * MIB, 15 * MIB), (100_000 * MIB, 256 * MIB)):
            self.make_bob(size_bytes)
            self.assertEqual([self.code_at(floor), self.code_at(floor - 1)], ["", "storage"])
            self.stop(self.bob)

    def test_goes_on(self) -> None:
        """What there is goes on below the floor: it is accepted, executed and delivered, and known tasks are known."""
        self.make_bob(100 * MIB)
        alice = self.make_node(ALICE, BOB)
        handle = self.done(alice.submit(BOB, "work", task_id="t1"))
        own = self.done(self.bob.submit(ALICE, "the other way"))
        self.store.free_bytes = 0
        self.advance(1)
        key = TaskKey(Side.RECEIVER, ALICE, "t1")
        self.assertEqual(self.ask(BOB, request("t1", "work")).code, "")
        self.done(self.bob.accept(key))
        self.done(self.bob.execute())
        self.done(self.bob.send_results(key, "done"))
        self.assertEqual(self.done(handle.result()).result_text, "done")
        self.assertIs(self.task(self.bob, own.key).status, TaskStatus.NEW)
        self.done(self.bob.submit(ALICE, "one more"))

    def test_cannot_look(self) -> None:
        """A disk that cannot be asked once changes nothing."""
        self.make_bob(100 * MIB)
        self.assertEqual(self.code_at(0), "storage")
        self.store.fails = True
        self.assertEqual(self.code_at(99 * MIB), "storage")
        self.store.fails = False
        self.assertEqual(self.code_at(98 * MIB), "")
        self.flushLoggedErrors(StoreError)


class StoreTests(TestCase):
    """What a store says of its disk."""

    async def test_directory(self) -> None:
        """A store in a directory tells the size of its disk and what is free."""
        directory = Path(self.mktemp())
        store = SQLiteTaskStore(directory, reactor)
        store.open(ALICE)
        found = await store.disk_space()
        await store.close()
        assert found is not None
        self.assertEqual(found.size_bytes, space(directory).size_bytes)
        self.assertTrue(0 < found.free_bytes < found.size_bytes)


class MemoryStoreTests(SynchronousTestCase):
    """A store without a disk."""

    def test_memory(self) -> None:
        """A store in memory has no disk."""
        store = MemoryTaskStore()
        store.open(ALICE)
        self.assertIsNone(self.successResultOf(store.disk_space()))
        store.close()
