"""Many who ask for work at once: each gets a task of his own, in the order of the queue, and nobody waits for ever."""

from __future__ import annotations

from datetime import timedelta

from twisted.internet.defer import CancelledError, Deferred, fail
from typing_extensions import override

from tasksubmit.errors import EmptyQueue, IllegalTransition, NotAccepting, NotAtHead, StoreError, UnknownTask
from tasksubmit.lifecycle.table import Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.stores import rows
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, NodeTestCase, SlowStore, request


class QueueStore(SlowStore):
    """A store whose look at the queue may be slow, or fail; it counts how many tasks were asked for at each look."""

    def __init__(self) -> None:
        super().__init__()
        self.slow_methods = ("put_back",)
        self.looks: list[int] = []
        self.faults: dict[str, StoreError] = {}

    @override
    def put_back(self, limit: int) -> Deferred[list[Task]]:
        self.looks.append(limit)
        fault = self.faults.pop("put_back", None)
        return self._later("put_back", super().put_back(limit) if fault is None else fail(fault))

    @override
    def queue(self, limit: int, **cursors: int | None) -> Deferred[list[Task]]:
        fault = self.faults.pop("queue", None)
        return self._later("queue", super().queue(limit, **cursors) if fault is None else fail(fault))


def key_of(task_id: str) -> TaskKey:
    """What Bob knows Alice's task by."""
    return TaskKey(Side.RECEIVER, ALICE, task_id)


class HandingOutTests(NodeTestCase):
    """Bob, and workers who ask him for tasks of Alice's."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = QueueStore()
        self.bob = self.make_node(
            BOB, ALICE, store=self.store, timeouts=Timeouts(queue_head_timeout=timedelta(hours=1))
        )
        self.asked: list[Deferred[Task]] = []

    def fill(self, *task_ids: str) -> None:
        """Have tasks in the queue."""
        for task_id in task_ids:
            self.ask(BOB, request(task_id))
            self.done(self.bob.accept(key_of(task_id)))

    def begin(self, *task_ids: str | None) -> list[Deferred[Task]]:
        """Ask at once for so many tasks, by name or for whichever is next; the store answers when it is released."""
        self.store.is_slow = True
        self.store.looks.clear()
        first = self.bob.execute()  # while it waits for the store the others come
        begun = [self.bob.execute(None if task_id is None else key_of(task_id)) for task_id in task_ids]
        return [first, *begun]

    def got(self, begun: list[Deferred[Task]]) -> list[object]:
        """What everybody got: the id of a task, or the type of an error."""
        self.store.release()
        self.network.flush()
        found: list[object] = []
        for deferred in begun:
            outcome: list[object] = []
            deferred.addCallbacks(lambda task: task.task_id, lambda failure: failure.type).addCallback(outcome.append)
            self.assertEqual(len(outcome), 1, "somebody waits for ever")
            found += outcome
        return found

    def withdraw(self, task_id: str) -> None:
        """Have Alice take a task back."""
        update = TaskStatusUpdate(task_id, "CANCELLED", "", ack=True, outcome="cancelled_by_submitter")
        self.assertEqual(self.ask(BOB, update).current_status, "CANCELLED")

    def status(self, task_id: str) -> TaskStatus:
        """Where a task stands."""
        return self.task(self.bob, key_of(task_id)).status

    def test_in_the_order_of_the_queue(self) -> None:
        """All who ask at once get different tasks, the first to ask the first of the queue, after few looks at it."""
        self.fill(*"abcdefg")
        self.assertEqual(self.got(self.begin(*[None] * 5)), list("abcdef"))
        self.assertEqual(self.store.looks, [1, 5])
        self.assertEqual([task.task_id for task in self.done(self.store.queue(9))], ["g"])
        [head] = self.done(self.store.queue(9))
        self.assertEqual(head.staged_at, self.bob._records.now())

    def test_by_name(self) -> None:
        """Whoever names the task that is next when his turn comes gets it."""
        self.fill(*"abcd")
        self.assertEqual(self.got(self.begin("b", None, "d")), ["a", "b", "c", "d"])

    def test_not_at_head(self) -> None:
        """Whoever names a task that is not next is refused alone, and the others get theirs."""
        self.fill(*"abcd")
        self.assertEqual(self.got(self.begin("d", None, "d", "c")), ["a", NotAtHead, "b", NotAtHead, "c"])
        self.assertIs(self.status("d"), TaskStatus.ACCEPTED)

    def test_named_wrongly(self) -> None:
        """Whoever names a task that does not wait, or that there is not, is refused alone."""
        self.fill(*"abc")
        self.ask(BOB, request("new"))
        found = self.got(self.begin("new", "a", None, "nowhere", "c"))
        self.assertEqual(found, ["a", IllegalTransition, IllegalTransition, "b", UnknownTask, "c"])

    def test_too_few(self) -> None:
        """When there are fewer tasks than callers the last of them are told that there is none."""
        self.fill(*"abc")
        found = self.got(self.begin(*[None] * 4))
        self.assertEqual(found, ["a", "b", "c", EmptyQueue, EmptyQueue])
        self.assertEqual(self.got(self.begin(None)), [EmptyQueue, EmptyQueue])

    def test_long_descriptions(self) -> None:
        """When one look takes in less than was asked for, there are others: nobody is told that the queue is empty."""
        self.fill("a", "b", "c")
        self.patch(rows, "MAX_READ_BYTES", 1)
        self.assertEqual(self.got(self.begin(None, None, None)), ["a", "b", "c", EmptyQueue])

    def test_head_is_withdrawn(self) -> None:
        """A task that is withdrawn as it would be begun costs nobody his turn."""
        self.fill(*"abcdefgh")
        self.store.slow_methods = ("queue",)
        self.store.is_slow = True
        first = self.bob.execute()
        others = [self.bob.execute() for _ in range(3)]
        self.withdraw("a")
        self.assertEqual(sorted(map(str, self.got([first, *others]))), ["b", "c", "d", "e"])
        self.assertEqual([self.status(task_id) for task_id in "ab"], [TaskStatus.CANCELLED, TaskStatus.EXECUTING])

    def test_many_are_withdrawn(self) -> None:
        """Whatever is withdrawn meanwhile: as many tasks are begun as there are callers, and the others stay."""
        self.fill(*"abcdefgh")
        first = self.begin(*[None] * 3)
        self.store.slow_methods = ("queue",)
        # The first to ask has his answer; the others wait for theirs.
        self.store._waiting.pop(0)()
        for task_id in "bcf":
            self.withdraw(task_id)
        self.assertEqual(sorted(map(str, self.got(first))), ["a", "d", "e", "g"])
        self.assertEqual([task.task_id for task in self.done(self.store.queue(9))], ["h"])

    def test_named_head_is_withdrawn(self) -> None:
        """Whoever named a task that is withdrawn as it would be begun is told so, and gets no other."""
        self.fill("a", "b")
        self.store.slow_methods = ("queue",)
        self.store.is_slow = True
        begun = self.bob.execute(key_of("a"))
        self.withdraw("a")
        self.assertEqual(self.got([begun]), [IllegalTransition])
        self.assertIs(self.status("b"), TaskStatus.ACCEPTED)

    def test_last_is_withdrawn(self) -> None:
        """Whoever would have got the only task, which is withdrawn, is told that there is none."""
        self.fill("a")
        self.store.slow_methods = ("queue",)
        self.store.is_slow = True
        begun = self.bob.execute()
        self.withdraw("a")
        self.assertEqual(self.got([begun]), [EmptyQueue])

    def test_put_back_comes_first(self) -> None:
        """What was put back comes before the queue, in the order in which it was, and is begun again."""
        self.fill(*"abcd")
        self.assertEqual(self.got(self.begin(None)), ["a", "b"])
        for task_id in "ba":
            self.advance(1)
            self.done(self.bob.put_back(key_of(task_id)))
        self.fill("e")
        begun = self.begin("a", None, "d", None)
        self.assertEqual(self.got(begun), ["b", "a", "c", "d", "e"])
        self.assertEqual([self.task(self.bob, key_of(task_id)).attempt for task_id in "abcde"], [2, 2, 1, 1, 1])

    def test_store_fails(self) -> None:
        """When the look at the queue fails those who asked are told so, and the next who ask get their tasks."""
        for method in ("put_back", "queue"):
            self.fill(f"{method}1", f"{method}2")
            self.store.faults[method] = StoreError("busy")
            first, *others = self.begin(None)
            self.assertEqual(self.got([first]), [StoreError])
            self.assertEqual(self.got(others), [f"{method}1"])
            self.assertEqual(self.got([self.bob.execute()]), [f"{method}2"])

    def test_store_fails_for_many(self) -> None:
        """All who asked at once are told of the failure, and nothing was begun for any of them."""
        self.fill(*"abc")
        begun = self.begin(None, "b")
        self.store.faults["put_back"] = StoreError("busy")  # the first of them has had his look
        self.assertEqual(self.got(begun), ["a", StoreError, StoreError])
        self.assertEqual([self.status(task_id) for task_id in "bc"], [TaskStatus.ACCEPTED] * 2)
        self.assertEqual(self.got(self.begin(None)), ["b", "c"])

    def test_draining_meanwhile(self) -> None:
        """Whoever asked before the node began to be drained, and has nothing yet, is refused, and nothing is begun."""
        self.fill(*"abc")
        begun = self.begin(None, "c")
        drained = self.bob.drain(1)
        self.assertEqual(self.got(begun), [NotAccepting] * 3)
        self.advance(2)
        self.done(drained)
        self.assertEqual([self.status(task_id) for task_id in "abc"], [TaskStatus.ACCEPTED] * 3)

    def test_gave_up(self) -> None:
        """Whoever does not wait for his task any longer leaves the others theirs; what was begun for him was begun."""
        self.fill(*"abc")
        begun = self.begin(None, None)
        begun[1].cancel()
        self.assertEqual(self.got(begun), ["a", CancelledError, "c"])
        self.assertIs(self.status("b"), TaskStatus.EXECUTING)
