"""Records that are remembered between their changes: never believed when the store knows better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from twisted.internet.defer import Deferred, fail
from typing_extensions import override

from tasksubmit.errors import IllegalTransition, StoreError, UnknownTask
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.table import Event, Lease, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node import records
from tasksubmit.node.records import Decision, Records, always
from tasksubmit.node.service import Node
from tests.node.helpers import ALICE, BOB, NodeTestCase, SlowStore, request

LONG = Lease(timedelta(days=1))


class CountingStore(SlowStore):
    """A store that counts how often a record is read, and fails to change one when there is a `fault`."""

    reads = 0
    fault: StoreError | None = None

    @override
    def get(self, key: TaskKey) -> Deferred[Task | None]:
        self.reads += 1
        return super().get(key)

    @override
    def apply(self, change: Change) -> Deferred[Task]:
        fault, self.fault = self.fault, None
        return super().apply(change) if fault is None else fail(fault)


def key_of(task_id: str) -> TaskKey:
    """What Bob knows Alice's task by."""
    return TaskKey(Side.RECEIVER, ALICE, task_id)


KEY = key_of("t1")


class RememberedTests(NodeTestCase):
    """Bob's records, and somebody else who changes them in the same store."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = CountingStore()
        self.bob = self.make_node(BOB, ALICE, store=self.store, lease=LONG)
        self.records = self.bob._records
        self.seen: list[TaskStatus | None] = []

    def accepted(self, *task_ids: str, **fields: Any) -> None:
        """Have tasks in the queue, the record of each remembered."""
        for task_id in task_ids:
            self.ask(BOB, request(task_id, **fields))
            self.done(self.bob.accept(key_of(task_id)))

    def other(self) -> Records:
        """Another who changes the records in the same store, and tells nobody."""
        return Node(BOB, self.store, self.bob.peers, clock=self.clock, lease=LONG)._records

    def elsewhere(self, task_id: str, *events: Event, **fields: Any) -> Task:
        """Let somebody else change a record."""
        return self.done(Deferred.fromCoroutine(self.other().change(key_of(task_id), always(*events, **fields))))

    def change(self, key: TaskKey, decide: Decision) -> Deferred[Task]:
        """Change a record as the node does, and note what was decided on."""

        def noting(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            self.seen.append(task.status)
            return decide(task, now)

        return Deferred.fromCoroutine(self.records.change(key, noting))

    def test_not_read_again(self) -> None:
        """A record that was just changed is not read for its next change."""
        self.accepted("t1")
        self.store.reads = 0
        self.done(self.bob.execute(KEY))
        for text in ("10%", "20%"):
            self.done(self.bob.progress(KEY, text))
        self.assertEqual(self.store.reads, 0)
        task = self.task(self.bob, KEY)
        self.assertEqual((task.status, task.justification), (TaskStatus.EXECUTING, "20%"))

    def test_staged_meanwhile(self) -> None:
        """A record that the queue staged since is changed as it is then."""
        self.accepted("t1", "t2")
        self.advance(1)
        self.done(self.bob.execute(KEY))
        self.advance(1)
        before = self.task(self.bob, key_of("t2"))
        task = self.done(self.change(before.key, always(Event.EXECUTE)))
        self.assertEqual((task.staged_at, task.time_staged_ms), (before.staged_at, 1000))
        self.assertEqual(self.seen, [TaskStatus.ACCEPTED] * 2)
        self.assertEqual(task, self.task(self.bob, task.key))

    def test_clock_was_set(self) -> None:
        """A record whose times were moved since is changed with the times that it has now."""
        self.accepted("t1")
        before = self.task(self.bob, KEY)
        self.done(self.store.shift_times(timedelta(hours=1)))
        task = self.done(self.change(KEY, always(Event.EXECUTE)))
        assert before.accepted_at is not None
        self.assertEqual(task.accepted_at, before.accepted_at + timedelta(hours=1))
        self.assertEqual(task.created_at, before.created_at + timedelta(hours=1))
        self.assertEqual(task, self.task(self.bob, KEY))

    def test_changed_elsewhere(self) -> None:
        """What was decided on a record that somebody else changed is decided again, and only that is carried out."""
        self.accepted("t1")
        self.elsewhere("t1", Event.EXECUTE, justification="theirs")

        def fitting(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            event = Event.EXECUTE if task.status is TaskStatus.ACCEPTED else Event.PROGRESS
            return (event,), {"justification": f"{task.justification}, then mine"}

        task = self.done(self.change(KEY, fitting))
        self.assertEqual(self.seen, [TaskStatus.ACCEPTED, TaskStatus.EXECUTING])
        self.assertEqual(task.justification, "theirs, then mine")
        story = [event.name for event in self.done(self.store.events_of(task)) if event.by != "node"]
        self.assertEqual(story, ["accept", "execute", "progress"])

    def test_refused_on_what_is_remembered(self) -> None:
        """What the remembered record does not allow is asked of the fresh one before it is refused."""
        self.accepted("t1")
        self.elsewhere("t1", Event.EXECUTE)
        task = self.done(self.change(KEY, always(Event.FAIL, justification="broken", error="broken")))
        self.assertEqual(self.seen, [TaskStatus.ACCEPTED, TaskStatus.EXECUTING])
        self.assertEqual((task.status, task.outcome), (TaskStatus.CANCELLED, "failed"))

    def test_refused_on_both(self) -> None:
        """What the fresh record does not allow either is refused, after one look at it, and nothing changes."""
        self.accepted("t1")
        before = self.task(self.bob, KEY)
        self.store.reads = 0
        self.failed(self.change(KEY, always(Event.COMPLETE)), IllegalTransition)
        self.assertEqual((self.seen, self.store.reads), ([TaskStatus.ACCEPTED] * 2, 1))
        self.assertEqual(self.task(self.bob, KEY), before)
        self.done(self.bob.execute(KEY))

    def test_refused_by_a_decision(self) -> None:
        """A decision that refuses by itself is asked again on the fresh record, too."""
        self.accepted("t1")
        self.done(self.bob.execute(KEY))
        self.done(self.bob.put_back(KEY, "not now"))
        self.failed(self.bob.progress(KEY, "10%"), IllegalTransition)
        self.failed(self.bob.put_back(KEY, "not now"), IllegalTransition)
        self.elsewhere("t1", Event.TAKE_AGAIN)
        task = self.done(self.bob.progress(KEY, "10%", attempt=2))
        self.assertEqual((task.justification, task.put_back_at), ("10%", None))

    def test_nothing_to_do(self) -> None:
        """That nothing is to be done is decided on the fresh record, and no change is made."""
        self.accepted("t1")
        self.elsewhere("t1", Event.EXECUTE)
        current = self.task(self.bob, KEY)
        self.assertEqual(self.done(self.change(KEY, always())), current)
        self.assertEqual(self.seen, [TaskStatus.ACCEPTED, TaskStatus.EXECUTING])
        self.assertEqual(self.task(self.bob, KEY), current)

    def test_newest_is_believed(self) -> None:
        """Of what the caller has read and what is remembered the later is taken first."""
        self.accepted("t1")
        older = self.task(self.bob, KEY)
        self.done(self.bob.execute(KEY))
        self.store.reads = 0
        task = self.done(Deferred.fromCoroutine(self.records.change(older, always(Event.PROGRESS, justification="x"))))
        self.assertEqual((task.status, self.store.reads), (TaskStatus.EXECUTING, 0))
        read = self.elsewhere("t1", Event.PROGRESS, justification="y")
        self.store.reads = 0
        task = self.done(Deferred.fromCoroutine(self.records.change(read, always(Event.FAIL, error="z"))))
        self.assertEqual((task.status, self.store.reads), (TaskStatus.CANCELLED, 0))

    def test_forgotten_meanwhile(self) -> None:
        """A remembered record that there is no more is unknown."""
        self.accepted("t1")
        ended = self.elsewhere("t1", Event.CANCEL)
        for delivery in self.owed(self.bob, KEY):
            self.done(Deferred.fromCoroutine(self.other().change(KEY, always(), gives_up=delivery)))
        self.assertTrue(self.done(self.store.forget(ended, self.records.now())))
        self.failed(self.bob.execute(KEY), UnknownTask)
        self.failed(self.change(KEY, always(Event.EXECUTE)), UnknownTask)
        self.assertEqual(self.records._recent, {})

    def test_store_fails(self) -> None:
        """After a change that could not be written the record is read again, and not believed to be changed."""
        self.accepted("t1")
        self.store.fault = StoreError("full")
        self.failed(self.bob.execute(KEY), StoreError)
        self.assertEqual(self.records._recent, {})
        self.assertIs(self.done(self.bob.execute(KEY)).status, TaskStatus.EXECUTING)

    # --- what is remembered --------------------------------------------------------------------------------------

    def test_long_descriptions(self) -> None:
        """A record with a long description is not kept in memory, one with a description up to the limit is."""
        self.accepted("short", description="x" * records._MAX_REMEMBERED_TEXT)
        self.accepted("long", description="x" * (records._MAX_REMEMBERED_TEXT + 1))
        self.assertEqual(list(self.records._recent), [key_of("short")])
        self.done(self.bob.execute())
        self.done(self.bob.execute(key_of("long")))
        self.assertEqual(list(self.records._recent), [key_of("short")])

    def test_ended(self) -> None:
        """A record that cannot change any more is not kept in memory."""
        self.accepted("t1")
        self.ask(BOB, request("t2"))
        self.done(self.bob.decline(key_of("t2"), "no time"))
        self.done(self.bob.execute(KEY))
        self.assertEqual(list(self.records._recent), [KEY])
        self.done(self.bob.fail(KEY, "broken"))
        self.assertEqual(self.records._recent, {})

    def test_bounded(self) -> None:
        """Only the records that were changed last are remembered, however many there are."""
        self.assertLessEqual(records._MAX_REMEMBERED * records._MAX_REMEMBERED_TEXT * 4, 64 * 1024 * 1024)
        self.patch(records, "_MAX_REMEMBERED", 4)
        self.accepted(*"abcdef")
        self.assertEqual(list(self.records._recent), [key_of(task_id) for task_id in "cdef"])
        self.done(self.bob.execute())  # "a" is read again, and pushes out another
        self.done(self.change(key_of("e"), lambda task, now: ((), {"justification": "moved to the end"})))
        self.assertEqual(list(self.records._recent), [key_of(task_id) for task_id in "dfae"])
