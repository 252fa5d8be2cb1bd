"""The share of each peer in the disk space for results: no peer takes space, results or workers from another."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import NoRoom, StoreError, TooLarge
from tasksubmit.interfaces import SavedResult
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.retention import Retention
from tasksubmit.node.room import ResultRoom
from tasksubmit.node.service import Node
from tasksubmit.testing import FakeExecutor, MemoryTaskStore
from tasksubmit.testing.contracts.samples import new_task
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import SubmitResponse, TaskResultMessage
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, refuse, request, task_id_of
from tests.protocol.support import RawPeer
from tests.tiers import examples

REASON = "there is no space for your results: take those that are pending, then submit the task again"


class Files:
    """A store that keeps nothing."""

    def save_result(self, task_id: str, filename: str, content: bytes) -> Deferred[SavedResult]:
        """See `ITaskStore.save_result`."""
        return succeed(SavedResult(filename, "", len(content)))


STORE: Any = Files()
PEERS = [Address.parse(f"0:0000.0000.{number:04}") for number in range(1, 6)]


class ReceivedTests(NodeTestCase):
    """Alice submits to Bob and to Carol, whose results she keeps."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = MemoryTaskStore()
        self.alice = self.make_alice()
        for own, text in ((BOB, "b"), (CAROL, "c")):
            self.make_node(own, ALICE, acceptance=AcceptAll(), executor=FakeExecutor(text * 1000))

    def make_alice(self) -> Node:
        """Start Alice on her store."""
        return self.make_node(ALICE, BOB, CAROL, store=self.store, retention=Retention(max_result_bytes=10_000))

    def submit(self, to: Address, count: int = 1) -> None:
        """Have tasks done by a peer, one after another."""
        for _ in range(count):
            self.done(self.alice.submit(to, "work"))
            self.advance(2)

    def count(self, peer: Address) -> int:
        """Return how many results of a peer Alice has; each has a file."""
        tasks = [task for task in self.tasks(self.alice) if task.peer == peer and task.result_bytes]
        self.assertTrue(all(task.result_file in self.files(self.alice) for task in tasks))
        return len(tasks)

    def test_results_of_others_stay(self) -> None:
        """However many results a peer sends, those of another stay; its own oldest are removed."""
        self.submit(BOB, 3)
        self.submit(CAROL, 30)
        self.advance(180)
        self.assertEqual(self.count(BOB), 3)
        self.assertEqual(self.count(CAROL), 5)  # three quarters of what Bob's leave, 5,250 bytes
        kept = [task.number for task in self.tasks(self.alice) if task.peer == CAROL]
        self.assertEqual(max(kept) - min(kept), 4)

    def test_space_for_others(self) -> None:
        """A peer that came first leaves space for others, and with its next results more, until all have the same."""
        self.submit(BOB, 12)
        self.assertEqual(self.count(BOB), 7)
        self.submit(CAROL, 2)
        self.assertEqual((self.count(BOB), self.count(CAROL)), (7, 2))
        for _ in range(10):
            self.submit(BOB)
            self.submit(CAROL)
        self.assertEqual((self.count(BOB), self.count(CAROL)), (5, 3))  # half a result from (4, 4)

    def test_alone(self) -> None:
        """Results are not removed before their peer has used up its share, nor more than its new one needs."""
        self.submit(BOB, 7)
        self.advance(180)
        self.assertEqual(self.count(BOB), 7)
        self.submit(BOB)
        self.assertEqual(self.count(BOB), 7)

    def test_restart(self) -> None:
        """After a restart the results that there are count as before."""
        self.submit(BOB, 7)
        self.stop(self.alice)
        self.alice = self.make_alice()
        self.submit(BOB, 2)
        self.assertEqual(self.count(BOB), 7)
        self.submit(CAROL, 2)
        self.assertEqual(self.count(CAROL), 2)


class GivenTests(NodeTestCase):
    """Bob does tasks of Alice and of Carol with one worker; Alice refuses results until she takes them."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.is_held = False
        self.executor = FakeExecutor(lambda _: None if self.is_held else "x" * 1000)
        self.bob = self.make_node(
            BOB,
            ALICE,
            CAROL,
            acceptance=AcceptAll(),
            executor=self.executor,
            retention=Retention(max_result_bytes=10_000),
        )
        self.is_refusing = True
        for address in (ALICE, CAROL):
            self.listen(address, partial(self.answer, address))

    def answer(self, address: Address, peer: RawPeer, frame: Frame) -> None:
        """Take a message; but refuse results for Alice while she does."""
        if self.is_refusing and address == ALICE and frame.type == TaskResultMessage.frame_type:
            refuse("storage")(peer, frame)
        else:
            peer.send(SubmitResponse(task_id_of(frame), 200, "", tuple(OURS), current_status="SUCCEEDED"))

    def submit(self, task_id: str, by: Address) -> str:
        """Submit a task to Bob; returns the code of a refusal."""
        return self.ask(BOB, request(task_id, by=by, features=tuple(OURS))).code

    def received(self, task_id: str, by: Address) -> Task:
        """Read Bob's record of a task."""
        return self.task(self.bob, TaskKey(Side.RECEIVER, by, task_id))

    def executed(self) -> int:
        """Return how many tasks of Alice were executed."""
        return sum(execution.asked.task.peer == ALICE for execution in self.executor.executions)

    def fill(self) -> None:
        """Have Alice submit twenty tasks; there is space for seven of the results."""
        codes = [self.submit(f"a{number}", ALICE) for number in range(20)]
        self.assertEqual(codes, [""] * 8 + ["quota"] * 12)

    def test_refusal(self) -> None:
        """A peer that does not take its results is refused new tasks, once they fill its share; others are not."""
        self.fill()
        refusal = self.ask(BOB, request("again", by=ALICE))
        self.assertEqual((refusal.code, refusal.retry_after_s), ("quota", 60))
        self.assertRegex(refusal.message, "your results take 7000 bytes, and another of 1000 found no space")
        self.assertEqual(self.submit("c", CAROL), "")
        self.advance(200)  # one result waits for space, and keeps a node from stopping for a while

    def test_others_are_served(self) -> None:
        """A peer that does not take its results keeps neither space nor workers from others."""
        self.fill()
        self.submit("c", CAROL)
        self.advance(200)
        self.assertIs(self.received("c", CAROL).status, TaskStatus.SUCCEEDED)
        for number in range(10):
            self.assertEqual(self.submit(f"c{number}", CAROL), "")
            self.advance(2)
            self.assertIs(self.received(f"c{number}", CAROL).status, TaskStatus.SUCCEEDED)
        self.assertEqual(sum(task.peer == ALICE and task.result_bytes > 0 for task in self.tasks(self.bob)), 7)

    def test_results_that_find_no_space(self) -> None:
        """Results that find no space for two scans are reported as a failure; the task is not executed again."""
        self.fill()
        self.advance(50)
        self.assertIs(self.received("a7", ALICE).status, TaskStatus.EXECUTING)
        self.advance(150)
        task = self.received("a7", ALICE)
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "failed"))
        self.assertEqual(task.error, f"the results were dropped, because {REASON}")
        self.assertEqual(self.executed(), 8)

    def test_queued_tasks(self) -> None:
        """Tasks that are in the queue when there has been no space for two scans fail, and are not executed."""
        self.is_held = True
        self.assertEqual([self.submit(f"a{number}", ALICE) for number in range(20)], [""] * 20)
        self.is_held = False
        self.executor.executions[0].finish("x" * 1000)
        self.advance(200)
        self.assertEqual(self.executed(), 8)
        for number in range(8, 20):
            task = self.received(f"a{number}", ALICE)
            self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "failed"))
            self.assertEqual(task.error, f"the task was not executed, because {REASON}")

    def test_space_again(self) -> None:
        """Once a peer takes its results, there is space for others of it, and its tasks are taken again."""
        self.fill()
        self.advance(200)
        self.is_refusing = False
        self.advance(3600, step=10)
        self.assertEqual(self.submit("again", ALICE), "")
        self.advance(2)
        self.assertIs(self.received("again", ALICE).status, TaskStatus.SUCCEEDED)
        self.assertIs(self.received("a6", ALICE).status, TaskStatus.SUCCEEDED)

    def test_slow_peer(self) -> None:
        """Results of a peer that takes one a minute wait for space, and none is dropped."""
        self.fill()
        self.advance(50)
        self.is_refusing = False
        self.advance(120)
        self.assertIs(self.received("a7", ALICE).status, TaskStatus.SUCCEEDED)


class Disk:
    """Results of peers, of which some are pending, and which `remove` removes the oldest first."""

    def __init__(self, max_bytes: int) -> None:
        self.room = ResultRoom(max_bytes)
        self.room.remove = self.remove
        self.kept: list[tuple[Address, int, bool]] = []
        self.removed: list[Address] = []
        self.searches = 0

    def remove(self, peer: Address, size_bytes: int) -> Deferred[int]:
        """See `ResultRoom.remove`."""
        self.searches += 1
        count = 0
        for result in list(self.kept):
            if result[0] == peer and not result[2] and size_bytes > 0:
                self.kept.remove(result)
                self.removed.append(peer)
                size_bytes -= result[1]
                self.room.removed(new_task(peer=peer, result_bytes=result[1]))
                count += 1
        return succeed(count)

    def save(self, peer: Address, size_bytes: int, is_pending: bool) -> bool:
        """Save a result; returns False if it was refused."""
        self.removed.clear()
        saved = Deferred.fromCoroutine(self.room.save(STORE, peer, "t", "t.md", bytes(size_bytes)))
        outcome: list[Any] = []
        saved.addBoth(outcome.append)
        if isinstance(outcome[0], SavedResult):
            self.kept.append((peer, size_bytes, is_pending))
            return True
        outcome[0].trap(NoRoom, TooLarge)
        return False

    def of(self, peer: Address) -> int:
        """Return the bytes of a peer."""
        return sum(size for address, size, _ in self.kept if address == peer)

    def scan(self) -> None:
        """Have the counts replaced by what there is."""
        self.removed.clear()
        Deferred.fromCoroutine(self.room.scan({peer: self.of(peer) for peer in PEERS if self.of(peer)}))

    @property
    def total(self) -> int:
        """The bytes of all peers."""
        return sum(size for _, size, _ in self.kept)


class ShareTests(SynchronousTestCase):
    """The rule by itself."""

    @settings(max_examples=examples(200), deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["save", "save", "take", "scan"]), st.sampled_from(PEERS), st.integers(1, 90)),
            max_size=80,
        ),
        st.sets(st.sampled_from(PEERS)),
    )
    def test_any_load(self, steps: list[tuple[str, Address, int]], refusing: set[Address]) -> None:
        """Whatever comes, a result that is kept is within its peer's share, and makes none go but its peer's own.

        Small results of a peer that has none always find space, and all are within the limit.
        """
        disk = Disk(100)
        for step, peer, size in steps:
            others = disk.total - disk.of(peer)
            if step == "save":
                had = disk.of(peer)
                is_kept = disk.save(peer, size, peer in refusing)
                self.assertLessEqual(set(disk.removed), {peer})
                self.assertEqual(disk.total - disk.of(peer), others)
                if is_kept:
                    self.assertLessEqual(disk.of(peer), 3 * (100 - others) // 4)
                elif size > 3 * (100 - others) // 4:
                    self.assertEqual(disk.of(peer), had)  # what cannot fit removes nothing in vain
                else:
                    self.assertGreater(had, 0)
            elif step == "take":
                disk.kept = [(address, size, address != peer and wait) for address, size, wait in disk.kept]
            else:
                short = {one for one in PEERS if disk.room.refusal(one)}
                disk.scan()
                self.assertLessEqual(set(disk.removed), short)
            self.assertLess(disk.total, 100)

    def test_fair(self) -> None:
        """Peers that all want as much as they can get come to have the same, and some space is left."""
        disk = Disk(1000)
        for _ in range(500):
            for peer in PEERS:
                disk.save(peer, 5, is_pending=False)
        used = [disk.of(peer) for peer in PEERS]
        self.assertLessEqual(max(used) - min(used), 20)
        self.assertGreater(min(used), 3 * 1000 / 16 - 20)

    def test_searches(self) -> None:
        """A peer that repeats a result that finds no space has the store searched once until the next scan."""
        disk = Disk(100)
        self.assertTrue(disk.save(PEERS[0], 70, is_pending=True))
        for _ in range(10):
            self.assertFalse(disk.save(PEERS[0], 20, is_pending=True))
        self.assertEqual(disk.searches, 1)
        disk.scan()
        self.assertEqual(disk.searches, 2)

    def test_together(self) -> None:
        """Results of a peer that arrive together have space made one after the other, and no more than they need."""
        disk = Disk(100)
        for _ in range(2):
            disk.save(PEERS[0], 35, is_pending=False)
        removals: list[Deferred[None]] = []

        def remove_later(peer: Address, size_bytes: int) -> Deferred[int]:
            removals.append(Deferred())
            return removals[-1].addCallback(lambda _: disk.remove(peer, size_bytes))

        disk.room.remove = remove_later
        saving = [
            Deferred.fromCoroutine(disk.room.save(STORE, PEERS[0], name, "t.md", bytes(20))) for name in ("t1", "t2")
        ]
        self.assertEqual(len(removals), 1)
        removals[0].callback(None)
        for saved in saving:
            self.assertEqual(self.successResultOf(saved).size_bytes, 20)
        self.assertEqual(disk.of(PEERS[0]), 35)

    def test_too_large(self) -> None:
        """A result that no share can ever hold is refused for good, and its peer is not short of space."""
        disk = Disk(100)
        saving = Deferred.fromCoroutine(disk.room.save(STORE, PEERS[0], "t", "t.md", bytes(76)))
        self.failureResultOf(saving, TooLarge)
        self.assertIsNone(disk.room.refusal(PEERS[0]))

    def test_failing_disk(self) -> None:
        """A result that could not be written takes no space."""
        disk = Disk(100)
        self.patch(STORE, "save_result", lambda *_: fail(StoreError("the disk is full")))
        for _ in range(3):
            saving = Deferred.fromCoroutine(disk.room.save(STORE, PEERS[0], "t", "t.md", bytes(50)))
            self.failureResultOf(saving, StoreError)

    def test_no_memory(self) -> None:
        """Nothing is kept of peers without results."""
        disk = Disk(100)
        for peer in PEERS:
            disk.save(peer, 10, is_pending=False)
        disk.kept.clear()
        disk.scan()
        self.assertEqual(disk.room._shares, {})
