"""Looking for what to send next, while other messages are under way: none of them is sent twice, none is forgotten."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred
from typing_extensions import override

from tasksubmit.errors import IllegalTransition
from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.protocol.elsewhere import LARGE_BYTES
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tests.node.helpers import (
    ALICE,
    BOB,
    OURS,
    NodeTestCase,
    PairTestCase,
    Script,
    SlowStore,
    refuse,
    request,
    task_id_of,
)
from tests.node.test_delivery import Longest, acknowledge
from tests.protocol.support import RawPeer
from tests.protocol.threads import ThreadedClock


class LookStore(SlowStore):
    """A store that notes how it was looked for what is ready: how many at most, and how many not."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_methods = ("ready_deliveries",)
        self.looks: list[tuple[int, int]] = []

    @override
    def ready_deliveries(
        self,
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        self.looks.append((limit, len(skip)))
        return super().ready_deliveries(peer, now, limit, skip, kinds, sides)


class LookingTests(NodeTestCase):
    """Bob owes updates to an Alice who answers when a test says so."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = LookStore()
        self.bob: Node = self.make_node(BOB, ALICE, store=self.store, random=Longest())
        self.heard: list[tuple[RawPeer, Frame]] = []
        self.listen(ALICE, lambda peer, frame: self.heard.append((peer, frame)))

    def accept(self, *task_ids: str) -> None:
        """Have Alice submit tasks and Bob accept them, which he owes her to say."""
        for task_id in task_ids:
            self.ask(BOB, request(task_id, features=tuple(OURS)))
            self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, task_id)))

    def answer(self, task_id: str, script: Script = acknowledge) -> None:
        """Have Alice answer the last update about a task."""
        peer, frame = next((peer, frame) for peer, frame in self.heard[::-1] if task_id_of(frame) == task_id)
        script(peer, frame)
        self.network.flush()

    def ids(self) -> list[str]:
        """The tasks that Alice heard about."""
        return [task_id_of(frame) for _, frame in self.heard]

    def test_ends_meanwhile(self) -> None:
        """A message that arrives while it is looked for more is not sent again."""
        self.accept("t1", "t2")
        self.store.is_slow = True
        self.accept("t3")
        self.answer("t1")
        self.answer("t2")
        self.assertEqual(self.ids(), ["t1", "t2"])
        self.store.release()
        self.network.flush()
        self.assertEqual(self.ids(), ["t1", "t2", "t3"])
        self.answer("t3")
        self.advance(5)
        self.assertEqual(self.ids(), ["t1", "t2", "t3"])
        self.assert_idle(self.bob)

    def test_fails_meanwhile(self) -> None:
        """A message that is refused for now while it is looked for more is sent again when its time has come."""
        self.accept("t1")
        self.store.is_slow = True
        self.accept("t2")
        self.answer("t1", refuse("overloaded", retry_after_s=3))
        self.store.release()
        self.network.flush()
        self.assertEqual(self.ids(), ["t1", "t2"])
        self.answer("t2")
        self.advance(2)
        self.assertEqual(self.ids(), ["t1", "t2"])
        self.advance(3)
        self.assertEqual(self.ids(), ["t1", "t2", "t1"])
        self.answer("t1")
        self.assert_idle(self.bob)

    def test_next_of_the_same_task(self) -> None:
        """What waits behind a message that arrives while it is looked for more is sent after it, once."""
        self.accept("t1")
        self.store.is_slow = True
        self.done(self.bob.execute())
        self.answer("t1")
        self.store.release()
        self.network.flush()
        self.assertEqual(self.ids(), ["t1", "t1"])
        self.answer("t1")
        self.advance(5)
        self.assertEqual(self.ids(), ["t1", "t1"])
        self.assert_idle(self.bob)

    def test_only_what_is_not_under_way(self) -> None:
        """It is looked for as many as there is room for, and not for those that are under way."""
        self.store.looks.clear()
        self.accept("t1", "t2", "t3")
        rooms = {limit + skipped for limit, skipped in self.store.looks}
        self.assertEqual(rooms, {256})
        self.assertEqual(sorted({skipped for _, skipped in self.store.looks}), [0, 1, 2])
        for task_id in ("t1", "t2", "t3"):
            self.answer(task_id)
        self.assertEqual(self.ids(), ["t1", "t2", "t3"])
        self.assert_idle(self.bob)


class LargeTests(PairTestCase):
    """Two nodes on a reactor that has threads."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.stop(self.alice)
        self.stop(self.bob)
        self.clock: ThreadedClock = ThreadedClock()
        self.clock.advance(1000)
        self.network.clock = self.clock
        self.alice, self.bob = self.make_node(ALICE, BOB), self.make_node(BOB, ALICE)

    def settle(self) -> None:
        """Let the threads do all that they are asked for."""
        self.network.flush()
        while self.clock.is_busy:
            self.clock.work()
            self.network.flush()

    def test_file(self) -> None:
        """A large task with a large file ends like a small one, the file whole."""
        content = bytes(range(256)) * (LARGE_BYTES // 256)
        self.assertTrue(self.live(filename="a.md", content=content) == content)

    def test_text(self) -> None:
        """So does one with a large text, its characters whole wherever it is cut while it is read and written."""
        text = "1é€😀" * (LARGE_BYTES // 4)
        self.assertTrue(self.live(text=text) == text.encode())

    def live(self, **results: Any) -> bytes:
        """Submit a large task, and give it results in the end; returns what the submitter keeps of them."""
        submitted = self.alice.submit(BOB, "d" * LARGE_BYTES)
        self.network.flush()
        handle = self.successResultOf(submitted)
        self.settle()
        key = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
        self.done(self.bob.accept(key))
        self.done(self.bob.execute(key))
        sent = self.bob.send_results(key, **results)
        self.network.flush()
        self.assertNoResult(sent)
        self.settle()
        self.successResultOf(sent)
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        received = self.task(self.alice, handle.key)
        kept: bytes = self.done(self.alice.store.read_result(received.result_file))
        self.assertEqual(received.result_bytes, len(kept))
        self.assert_idle(self.alice, self.bob)
        return kept

    def test_ends_meanwhile(self) -> None:
        """Large results of a task that is withdrawn while they are measured are refused, and none is kept."""
        handle, key = self.executing()
        sent = self.bob.send_results(key, "x" * LARGE_BYTES)
        self.done(self.alice.cancel(handle.key, "enough"))
        self.settle()
        self.failureResultOf(sent, IllegalTransition)
        self.assertEqual(self.statuses(handle), (TaskStatus.CANCELLED, TaskStatus.CANCELLED))
        self.assertEqual(self.files(self.bob), [])
