"""Connections cut at every byte of a conversation: the task ends all the same, and everything counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, groupby, pairwise
from random import Random

from typing_extensions import override

from tasksubmit import SubmittedTask
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.faults.network import (
    RESULT,
    CuttingWires,
    Manner,
    Place,
    TCPTestCase,
    WiredPairTestCase,
    WiredTestCase,
    do_all,
)
from tests.node.helpers import ALICE, BOB, deployed, request
from tests.protocol.support import RawFactory
from tests.tiers import sampled

Work = Callable[[SubmittedTask, Task], None]
"""What happens to a task, given Alice's handle on it, as soon as Bob has it: his record is given, too."""

LONGEST_SECONDS = 400
"""Whatever timed out, was tried again and timed out again, by then it is over."""

HEADER_BYTES = 8

ONE_IN = 8
"""The share of the places that is cut in the default tier of tests; all are in the tier ``full``."""


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Say in a failure where it was."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


def edges_and_steps(frame_ends: Iterable[int], size: int, step: int) -> list[int]:
    """Give where to cut a conversation: at the edges of each header and each message, and every so many bytes."""
    edges = {end + n for end in (0, *frame_ends) for n in (-1, 0, HEADER_BYTES // 2, HEADER_BYTES)}
    return sorted(n for n in edges.union(range(0, size, step)) if 0 <= n < size)


class CutTestCase(WiredPairTestCase):
    """Alice and Bob do tasks one after the other, and in the middle of each the wires are cut."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.lives = 0
        self.rewards: list[int] = []

    def live(self, work: Work, at_once: int = 1) -> list[TaskStatus]:
        """Let tasks live until they are over, on both sides and in the same way; gives how each ended."""
        handles = [self.submit_next() for _ in range(at_once)]
        deadline = self.clock.seconds() + LONGEST_SECONDS
        waiting = list(handles)
        while self.clock.seconds() < deadline:
            self.network.flush()
            for handle in list(waiting):
                received = self.received(handle.task_id)
                if received is not None:
                    waiting.remove(handle)
                    work(handle, received)
            self.network.flush()
            if self.is_over(handles):
                break
            self.clock.advance(2)
        self.assert_idle(self.alice, self.bob)
        ends = [self.check(handle) for handle in handles]
        self.check_ledgers()
        return ends

    def submit_next(self) -> SubmittedTask:
        """Submit another task, whose messages are as long as those of any other."""
        self.lives += 1
        return self.successResultOf(self.alice.submit(BOB, "w", task_id=f"{self.lives:04}"))

    def is_over(self, handles: list[SubmittedTask]) -> bool:
        """Whether nothing is owed, and every task has ended."""
        return not self.is_owing() and all(self.task(self.alice, handle.key).status.is_final for handle in handles)

    def is_owing(self) -> bool:
        """Whether one of them has something to say."""
        return bool(self.alice._delivery._owed or self.bob._delivery._owed)

    def check(self, handle: SubmittedTask) -> TaskStatus:
        """The task ended on both sides in the same way; gives how."""
        submitted, received = self.task(self.alice, handle.key), self.received(handle.task_id)
        assert received is not None
        self.assertTrue(submitted.status.is_final)
        self.assertIs(submitted.status, received.status)
        self.assertEqual(submitted.reward, received.reward)
        self.assertEqual(submitted.outcome, received.outcome)
        if submitted.status is TaskStatus.SUCCEEDED:
            assert submitted.reward is not None
            self.rewards.append(submitted.reward)
            self.assertEqual(self.done(handle.result()).result_text, RESULT)
        return submitted.status

    def check_ledgers(self) -> None:
        """Each task that ever succeeded is booked once on each side, and its result kept once."""
        scores = {ALICE: -len(self.rewards), BOB: sum(self.rewards)} if self.rewards else {}
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), (scores, scores))
        self.assertEqual(len(self.files(self.alice)), len(self.rewards))

    def cut(self, work: Work, *ends: TaskStatus, manners: Iterable[Manner], step: int = 1, at_once: int = 1) -> None:
        """Live the same life again and again, cut at another byte each time; it may end in any of ``ends``."""
        self.live(work, at_once)  # in which they get to know each other
        self.wires.frame_ends.clear()
        before = self.wires.passed_bytes
        self.live(work, at_once)
        size = self.wires.passed_bytes - before
        frame_ends = [end - before for end in self.wires.frame_ends] if at_once == 1 else []
        places = edges_and_steps(frame_ends, size, step)
        for manner in manners:
            for after in sampled(places, ONE_IN):
                self.wires.arm(after, manner)
                with naming(f"{manner.name} after {after} of {size} bytes"):
                    found = self.live(work, at_once)
                    self.assertFalse(self.wires.is_armed)
                    self.assertTrue(set(found) <= set(ends), found)


class KnownPeerTests(CutTestCase):
    """Two nodes each of which knows that the other acknowledges: whatever is cut, nothing is lost or done twice."""

    def succeed(self, _: SubmittedTask, received: Task) -> None:
        do_all(self.bob, received)

    def decline(self, _: SubmittedTask, received: Task) -> None:
        self.successResultOf(self.bob.decline(received.key, "no"))

    def cancel(self, handle: SubmittedTask, received: Task) -> None:
        self.successResultOf(self.bob.accept(received.key))
        self.successResultOf(handle.cancel())

    def race(self, handle: SubmittedTask, received: Task) -> None:
        self.successResultOf(handle.cancel())
        do_all(self.bob, received)

    def live_in_stages(self, cut_after: int, sizes: Sequence[int]) -> list[int]:
        """Live a whole life in stages of these sizes, cut once in each that is long enough; gives what passed in each.

        The next stage begins when nothing is owed any more.
        """
        handle = self.submit_next()
        key = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
        passed = []
        for stage, size in enumerate(sizes):
            before = self.wires.passed_bytes
            if cut_after < size:
                self.wires.arm(cut_after, Manner.LOST)
            if stage == 1:
                self.successResultOf(self.bob.accept(key))
                self.successResultOf(self.bob.execute(key))
            elif stage == 2:
                self.successResultOf(self.bob.send_results(key, RESULT))
            self.network.flush()
            for _ in range(LONGEST_SECONDS):
                if not self.is_owing():
                    break
                self.advance(1)
            self.assertFalse(self.wires.is_armed)
            passed.append(self.wires.passed_bytes - before)
        self.assertIs(self.check(handle), TaskStatus.SUCCEEDED)
        self.check_ledgers()
        self.assert_idle(self.alice, self.bob)
        return passed

    def test_lost(self) -> None:
        """A connection that is lost after any byte of a task's life delays it, and that is all."""
        for _ in range(2):  # in the first they get to know each other
            sizes = self.live_in_stages(0, [0, 0, 0])
        self.assertGreater(sum(sizes), 1000)
        for cut_after in sampled(range(max(sizes)), ONE_IN):
            with naming(f"LOST after {cut_after} bytes of {sizes}"):
                self.live_in_stages(cut_after, sizes)

    def test_other_manners(self) -> None:
        """The same when it is closed cleanly, or falls silent in both directions or in one."""
        self.cut(self.succeed, TaskStatus.SUCCEEDED, manners=[Manner.CLOSED, Manner.SILENT, Manner.MUTE], step=101)

    def test_declined(self) -> None:
        """A task that is declined ends DECLINED, wherever the connection is cut."""
        self.cut(self.decline, TaskStatus.DECLINED, manners=[Manner.LOST], step=2)
        self.assertEqual(self.rewards, [])

    def test_cancelled(self) -> None:
        """A task that its submitter cancels ends CANCELLED, wherever the connection is cut."""
        self.cut(self.cancel, TaskStatus.CANCELLED, manners=[Manner.LOST], step=5)
        self.assertEqual(self.rewards, [])

    def test_cancelled_while_finishing(self) -> None:
        """A task that is cancelled just as it is finished ends as the receiver says, which is the same for both."""
        self.cut(self.race, TaskStatus.SUCCEEDED, TaskStatus.CANCELLED, manners=[Manner.LOST, Manner.SILENT], step=61)

    def test_several_at_once(self) -> None:
        """Tasks whose messages follow each other without waiting all end, wherever their connections are cut."""
        self.cut(self.succeed, TaskStatus.SUCCEEDED, manners=[Manner.LOST, Manner.MUTE], step=131, at_once=3)


class FirstContactTests(WiredPairTestCase):
    """Two nodes that never met: Alice cannot know whether Bob is one of those who would do a task twice."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.numbers = count()

    def meet(self, after: int | None, manner: Manner) -> int:
        """Submit one task between new nodes, and cut; gives how many bytes passed with the submission."""
        for node in list(self.nodes):
            self.stop(node)
            self.nodes.remove(node)
        self.alice, self.bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)
        before = self.wires.passed_bytes
        if after is not None:
            self.wires.arm(after, manner)
        handle = self.done(self.alice.submit(BOB, "w", task_id=f"{next(self.numbers):04}"))
        submitted_bytes = self.wires.passed_bytes - before
        if manner is Manner.SILENT:
            self.advance(40, step=10)
        received = self.received(handle.task_id)
        if received is not None:
            do_all(self.bob, received)
            self.advance(10, step=2)
        else:
            self.assertEqual(self.task(self.alice, handle.key).code, "unconfirmed")
            self.advance(100, step=10)
        submitted = self.task(self.alice, handle.key)
        self.assertIs(submitted.status, TaskStatus.SUCCEEDED if received else TaskStatus.CANCELLED)
        scores = {ALICE: -1, BOB: submitted.reward} if received else {}
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), (scores, scores))
        self.assert_idle(self.alice, self.bob)
        self.assertEqual(submissions(self.wires, handle.task_id), 1)
        return submitted_bytes

    def test_cut(self) -> None:
        """A submission of which a byte was written is sent once; it succeeds if it arrived, else it is cancelled."""
        size = self.meet(None, Manner.LOST)
        for manner in (Manner.LOST, Manner.CLOSED, Manner.SILENT):
            for after in sampled(range(0, size, 5 if manner is Manner.LOST else 47), ONE_IN):
                with naming(f"{manner.name} after {after} of {size} bytes"):
                    self.meet(after, manner)


def submissions(wires: CuttingWires, task_id: str) -> int:
    """Count the connections on which a task was submitted since the last cut was prepared."""
    heard = [connection.near.heard for connection in wires.connections]
    return sum(text.startswith(FrameType.SUBMIT.to_bytes(4, "big")) and task_id.encode() in text for text in heard)


class DeployedReceiverTests(WiredTestCase):
    """Alice submits to a deployed peer, which would queue a task twice that it gets twice."""

    def test_cut(self) -> None:
        """Once a byte of a submission was written it is never sent again, not even long after."""
        self.listen(BOB, deployed)
        alice = self.make_node(ALICE, BOB)
        self.done(alice.submit(BOB, "w", task_id="0000"))
        size = self.wires.passed_bytes
        ends = self.wires.frame_ends
        self.assertEqual(len(ends), 2)
        for manner in (Manner.LOST, Manner.CLOSED, Manner.SILENT):
            for after in sampled(range(0, size, 1 if manner is Manner.LOST else 47), ONE_IN):
                self.wires.arm(after, manner)
                task_id = f"{manner.name[:2]}{after:03}"
                handle = self.done(alice.submit(BOB, "w", task_id=task_id))
                with naming(f"{manner.name} after {after} of {size} bytes"):
                    self.advance(200, step=20)
                    self.assertFalse(self.wires.is_armed)
                    self.assertEqual(submissions(self.wires, task_id), 1)
                    task = self.task(alice, handle.key)
                    self.assertEqual((task.status, task.code), (TaskStatus.CANCELLED, "unconfirmed"))
                    self.assert_idle(alice)

    def test_not_a_byte(self) -> None:
        """A submission of which no byte was written, since the peer could not be reached, is sent, once."""
        bob = self.listen(BOB, deployed)
        alice = self.make_node(ALICE, BOB)
        self.network.refuse(f"the wire to {BOB}")
        handle = self.done(alice.submit(BOB, "w"))
        self.advance(20)
        self.network.refuse(f"the wire to {BOB}", refusing=False)
        self.advance(60)
        self.assertIsNotNone(self.task(alice, handle.key).answered_at)
        self.assertEqual([[frame.type for frame in peer.frames] for peer in bob.peers], [[FrameType.SUBMIT]])


class DeployedSubmitterTests(WiredTestCase):
    """Bob works for a deployed peer, whose close is all the acknowledgement there is."""

    def word(self, frame: Frame) -> str:
        return TaskStatusUpdate.from_frame(frame).status if frame.type == FrameType.STATUS_UPDATE else "results"

    def live(self, bob: Node, alice: RawFactory, task_id: str) -> None:
        """Do a task; see that all was told at least once, and nothing before what precedes it had arrived."""
        alice.peers.clear()
        do_all(bob, self.task(bob, TaskKey(Side.RECEIVER, ALICE, task_id)))
        self.network.flush()
        while bob._delivery._owed:
            self.advance(2, step=2)
        words = [self.word(frame) for peer in alice.peers for frame in peer.frames]
        self.assertEqual([word for word, _ in groupby(words)], ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"])
        self.assertLessEqual(len(words), 5)
        self.assertIs(self.task(bob, TaskKey(Side.RECEIVER, ALICE, task_id)).status, TaskStatus.SUCCEEDED)
        self.assert_idle(bob)

    def test_cut(self) -> None:
        """A connection that is lost or falls silent at any byte is no close: the message is sent again, in order."""
        bob = self.make_node(BOB, ALICE)
        alice = self.listen(ALICE, deployed)
        self.ask(BOB, request("0000"))
        before = self.wires.passed_bytes
        self.live(bob, alice, "0000")
        size = self.wires.passed_bytes - before
        for manner in (Manner.LOST, Manner.SILENT):
            for after in sampled(range(0, size, 3 if manner is Manner.LOST else 41), ONE_IN):
                task_id = f"{manner.name[:1]}{after:03}"
                self.ask(BOB, request(task_id))
                self.wires.arm(after, manner)
                with naming(f"{manner.name} after {after} of {size} bytes"):
                    self.live(bob, alice, task_id)
                    self.assertFalse(self.wires.is_armed)


class SocketTests(TCPTestCase):
    """The same two nodes over real TCP connections of this machine, on which bytes arrive as they like."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.wires = CuttingWires()
        sockets = {address: self.reserve() for address in (ALICE, BOB)}
        self.alice = self.make_node(ALICE, BOB, sockets)
        self.bob = self.make_node(BOB, ALICE, sockets)

    def make_node(self, own: Address, other: Address, sockets: Mapping[Address, Place]) -> Node:
        """Start a node that listens on its socket, and dials the other's by way of the wires."""
        way = self.listen(self.wires.relay(str(other), sockets[other][1]))
        node = Node(
            own,
            SQLiteTaskStore(None),
            StaticPeers({other: way}),
            clock=self.clock,
            listen={"tcp": sockets[own][0]},
            random=Random(1),
        )
        node.startService()
        self.addCleanup(node.stopService)
        return node

    async def live(self, task_id: str) -> None:
        """Let a task live until it is over; the clock goes on with the reactor's turns."""
        handle = self.successResultOf(self.alice.submit(BOB, "w", task_id=task_id))
        key = TaskKey(Side.RECEIVER, ALICE, task_id)
        received: Task | None = None
        for _ in range(2000):
            await self.turn()
            if received is None:
                received = self.successResultOf(self.bob.store.get(key))
                if received is not None:
                    do_all(self.bob, received)
            elif not self.alice._delivery._owed and not self.bob._delivery._owed:
                break
            self.clock.advance(0.1)
        for node in (self.alice, self.bob):
            self.assertIs(self.successResultOf(node.resolve(task_id)).status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.successResultOf(handle.result()).result_text, RESULT)

    async def test_cut(self) -> None:
        """Cut within each header and message, at its last byte and within its answer, a task succeeds all the same."""
        for n in range(2):
            self.wires.frame_ends.clear()
            before = self.wires.passed_bytes
            await self.live(f"00{n}0")
        ends = [end - before for end in self.wires.frame_ends]
        self.assertEqual(len(ends), 10)
        middles = [(start + end) // 2 for start, end in pairwise((0, *ends))]
        headers = [start + HEADER_BYTES // 2 for start in (0, *ends[:-1])]
        lives = 2
        for manner in (Manner.LOST, Manner.CLOSED):
            for after in sorted([0, *ends[:-1], *middles, *headers, *(end - 1 for end in ends)]):
                self.wires.arm(after, manner)
                lives += 1
                with naming(f"{manner.name} after {after} of {ends[-1]} bytes"):
                    await self.live(f"{manner.name[:1]}{lives:03}")
                    self.assertFalse(self.wires.is_armed)
        for node in (self.alice, self.bob):
            self.assertEqual(self.successResultOf(node.store.scores()), [(ALICE, -lives), (BOB, lives)])
