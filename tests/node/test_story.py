"""A task's whole story, and the sentence that says what it waits for."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import product
from typing import Any

from attrs import evolve, frozen
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import UnknownTask
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, TaskEvent
from tasksubmit.lifecycle.table import DEADLINES, Event, Lease, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey, from_milliseconds
from tasksubmit.node.story import _THEN, MANY, Outlook, Story, outlook
from tests.node.helpers import ALICE, BOB, PairTestCase, refuse
from tests.protocol.support import RawPeer

AGE_LIMIT = timedelta(days=7)
CREATED = from_milliseconds(1_000_000)
"""When every task of the table was created."""
NOW = CREATED + timedelta(seconds=50)

RECEIVER, SUBMITTER = Side.RECEIVER, Side.SUBMITTER
NEW, ACCEPTED, EXECUTING = TaskStatus.NEW, TaskStatus.ACCEPTED, TaskStatus.EXECUTING
COMPLETED, SUCCEEDED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.SUCCEEDED, TaskStatus.CANCELLED
SUBMISSION, STATUS, RESULTS = DeliveryKind.SUBMISSION, DeliveryKind.STATUS, DeliveryKind.RESULTS


def after(seconds: float) -> datetime:
    """So long after the task was created."""
    return CREATED + timedelta(seconds=seconds)


def a_task(side: Side, status: TaskStatus, **fields: Any) -> Task:
    """One side's record of the task."""
    return Task(side=side, peer=BOB, task_id="t1", description="x", created_at=CREATED, status=status, **fields)


def a_delivery(kind: DeliveryKind, **fields: Any) -> Delivery:
    """Something that is owed for the task since ten seconds after it was created."""
    return Delivery(key=TaskKey(SUBMITTER, BOB, "t1"), kind=kind, created_at=after(10), **fields)


@frozen
class Case:
    """One row of the table: a task, what is owed for it, how many come before it, and what is said of it.

    `says` is the sentence, `until` in seconds after the creation, `then`, and the verbs that act on it.
    """

    task: Task
    says: str
    until: float | None = None
    then: str = ""
    verbs: str = ""
    deliveries: tuple[Delivery, ...] = ()
    ahead: int = 0


def tried(kind: DeliveryKind) -> Delivery:
    """A delivery that failed three times."""
    return a_delivery(kind, attempts=3, last_error="nobody is there")


def given_up(kind: DeliveryKind) -> Delivery:
    """A delivery that is not tried any more."""
    return evolve(tried(kind), given_up_at=after(40))


STAGED = a_task(RECEIVER, ACCEPTED, accepted_at=after(20), staged_at=after(30))
RUNNING = a_task(RECEIVER, EXECUTING, attempt=1, max_attempts=2, lease_ms=600_000, lease_expires_at=after(630))
PUT_BACK = evolve(RUNNING, attempt=2, lease_expires_at=None, put_back_at=after(40))
WITHDRAWN = a_task(SUBMITTER, EXECUTING, answered_at=after(1), heard_at=after(9), cancel_requested_at=after(10))
HEARD_OF = {"answered_at": after(1), "heard_at": after(2)}
WEEK = 7 * 86400

RECEIVED = (
    Case(
        a_task(RECEIVER, NEW),
        "waits for somebody here to accept or decline it",
        60,
        "it is cancelled",
        "accept, decline",
    ),
    Case(
        a_task(RECEIVER, NEW, expires_at=after(55)),
        "waits for somebody here to accept or decline it",
        55,
        "it is cancelled",
        "accept, decline",
    ),
    Case(
        evolve(a_task(RECEIVER, NEW), created_at=after(-20)),
        "waits for somebody here to accept or decline it",
        None,
        "its time is up: it is cancelled at once",
        "accept, decline",
    ),
    Case(
        STAGED,
        "is at the head of the queue, and waits for somebody here to begin it",
        3630,
        "it expires, which costs a point",
        "execute",
    ),
    Case(
        evolve(STAGED, expires_at=after(100)),
        "is at the head of the queue, and waits for somebody here to begin it",
        100,
        "it is cancelled",
        "execute",
    ),
    Case(
        STAGED,
        "is at the head of the queue, but behind 1 task put back",
        3630,
        "it expires, which costs a point",
        "queue, execute",
        ahead=1,
    ),
    Case(evolve(STAGED, staged_at=None), "waits in the queue behind 3 tasks", verbs="queue", ahead=3),
    Case(
        evolve(STAGED, staged_at=None),
        "waits in the queue behind 3 tasks",
        verbs="queue",
        deliveries=(tried(STATUS),),
        ahead=3,
    ),
    Case(evolve(STAGED, staged_at=None), "waits in the queue behind 100 tasks or more", verbs="queue", ahead=MANY),
    Case(
        evolve(STAGED, staged_at=None, expires_at=after(100)),
        "waits in the queue behind 2 tasks",
        100,
        "it is cancelled",
        "queue",
        ahead=2,
    ),
    Case(
        RUNNING,
        "waits for whoever executes it here (attempt 1 of 2) to give the results, or to report progress",
        630,
        "it is put back, to be begun again",
        "send-results, progress, fail, put-back",
    ),
    Case(
        evolve(RUNNING, attempt=2),
        "waits for whoever executes it here (attempt 2 of 2) to give the results, or to report progress",
        630,
        "it is cancelled",
        "send-results, progress, fail, put-back",
    ),
    Case(
        evolve(RUNNING, lease_expires_at=from_milliseconds(0)),
        "waits for whoever executes it here (attempt 1 of 2) to give the results, or to report progress",
        None,
        "its time is up: it is put back, to be begun again at once",
        "send-results, progress, fail, put-back",
    ),
    Case(
        PUT_BACK,
        "was put back, and waits to be begun again as attempt 2",
        3640,
        "it is cancelled",
        "execute",
    ),
    Case(
        PUT_BACK,
        "was put back, and waits to be begun again as attempt 2, behind 2 tasks put back before it",
        3640,
        "it is cancelled",
        "queue, execute",
        ahead=2,
    ),
    Case(
        a_task(RECEIVER, COMPLETED),
        "waits for the submitter to take the results",
        WEEK + 10,
        "what is owed for it is given up",
        deliveries=(a_delivery(RESULTS),),
    ),
    Case(
        a_task(RECEIVER, COMPLETED),
        "waits for the submitter to take the results (tried 3 times in vain)",
        WEEK + 10,
        "what is owed for it is given up",
        deliveries=(tried(RESULTS),),
    ),
    Case(
        a_task(RECEIVER, COMPLETED, delivery_given_up_at=after(40)),
        "waits for nobody: the results could not be delivered, and were given up",
        verbs="retry",
        deliveries=(given_up(RESULTS),),
    ),
    Case(
        a_task(RECEIVER, COMPLETED, code="invalid", error="the submitter refused the results: too odd"),
        "waits for nobody: the submitter refused the results",
        verbs="retry",
        deliveries=(given_up(RESULTS),),
    ),
    Case(a_task(RECEIVER, SUCCEEDED), "is over: nothing more will happen"),
    Case(
        a_task(RECEIVER, CANCELLED),
        "is over, but the submitter is still to be told (tried once in vain)",
        WEEK + 10,
        "what is owed for it is given up",
        deliveries=(evolve(tried(STATUS), attempts=1),),
    ),
    Case(
        a_task(RECEIVER, CANCELLED),
        "is over, but the submitter could not be told of all",
        verbs="retry",
        deliveries=(given_up(STATUS),),
    ),
)

SUBMITTED = (
    Case(
        a_task(SUBMITTER, NEW),
        "is being sent to the receiver",
        WEEK,
        "it is cancelled",
        "cancel",
        deliveries=(a_delivery(SUBMISSION),),
    ),
    Case(
        a_task(SUBMITTER, NEW, deliver_by=after(70), submission_begun_at=after(1)),
        "is being sent to the receiver",
        70,
        "its cancellation is requested",
        "cancel",
        deliveries=(a_delivery(SUBMISSION),),
    ),
    Case(
        a_task(SUBMITTER, NEW, code="rate_limited"),
        "was refused for now, and waits to be submitted again",
        WEEK,
        "it is declined",
        "cancel",
        deliveries=(tried(SUBMISSION),),
    ),
    Case(
        a_task(SUBMITTER, NEW, result_due_at=after(80)),
        "waits to reach the receiver (tried 3 times in vain)",
        80,
        "it is cancelled",
        "cancel",
        deliveries=(tried(SUBMISSION),),
    ),
    Case(
        a_task(SUBMITTER, NEW, **HEARD_OF, submission_begun_at=after(0), undecided_since=after(0)),
        "waits for the receiver to accept or decline it",
        90,
        "the receiver is queried",
        "cancel",
    ),
    Case(
        a_task(SUBMITTER, NEW, answered_at=after(1), submission_begun_at=after(0), undecided_since=after(0)),
        "waits for the receiver to accept or decline it",
        90,
        "its cancellation is requested",
        "cancel",
    ),
    Case(
        a_task(SUBMITTER, NEW, code="unconfirmed", submission_begun_at=after(0), undecided_since=after(0)),
        "was sent, but the answer was lost: waits for the receiver to tell more",
        90,
        "its cancellation is requested",
        "cancel",
    ),
    Case(
        evolve(WITHDRAWN, status=NEW, answered_at=None, heard_at=None),
        "waits for the receiver to confirm that it is cancelled (tried 3 times in vain)",
        WEEK + 10,
        "it counts as cancelled",
        "wait",
        deliveries=(tried(SUBMISSION), a_delivery(STATUS)),
    ),
    Case(
        evolve(WITHDRAWN, heard_at=None),
        "waits for the receiver to confirm that it is cancelled",
        WEEK + 10,
        "it counts as cancelled",
        "wait",
        deliveries=(a_delivery(STATUS),),
    ),
    Case(
        WITHDRAWN,
        "waits for the receiver to confirm that it is cancelled",
        3609,
        "the receiver is asked how it stands",
        "wait",
        deliveries=(a_delivery(STATUS),),
    ),
    Case(
        evolve(WITHDRAWN, heard_at=after(WEEK)),
        "waits for the receiver to confirm that it is cancelled (tried 3 times in vain)",
        WEEK + 10,
        "it counts as cancelled",
        "wait",
        deliveries=(tried(STATUS), a_delivery(SUBMISSION)),
    ),
    Case(
        WITHDRAWN,
        "was to be cancelled, but too late: waits for the results",
        3609,
        "the receiver is asked how it stands",
        "wait",
    ),
    Case(
        WITHDRAWN,
        "was to be cancelled, but too late: waits for the results, and asks how it stands (tried 3 times in vain)",
        3609,
        "the receiver is asked how it stands",
        "wait",
        deliveries=(tried(SUBMISSION),),
    ),
    Case(
        evolve(WITHDRAWN, heard_at=None),
        "was to be cancelled, but too late: waits for the results",
        verbs="wait",
    ),
    Case(
        a_task(SUBMITTER, ACCEPTED, **HEARD_OF),
        "waits for the receiver to begin it",
        3602,
        "the receiver is asked how it stands",
        "wait, cancel",
    ),
    Case(
        a_task(SUBMITTER, EXECUTING, result_due_at=after(200), **HEARD_OF),
        "waits for the receiver to give the results",
        200,
        "its cancellation is requested",
        "wait, cancel",
    ),
    Case(
        a_task(SUBMITTER, EXECUTING, answered_at=after(1)),
        "waits for the receiver to give the results, which cannot be asked how it stands",
        verbs="wait, cancel",
    ),
    Case(
        a_task(SUBMITTER, EXECUTING, **HEARD_OF),
        "waits for the receiver to give the results, and asks how it stands (tried 3 times in vain)",
        3602,
        "the receiver is asked how it stands",
        "wait, cancel",
        deliveries=(tried(SUBMISSION),),
    ),
    Case(
        a_task(SUBMITTER, COMPLETED),
        "has its results; the receiver has yet to say that this is known",
        verbs="result",
    ),
    Case(a_task(SUBMITTER, SUCCEEDED), "is over: nothing more will happen", verbs="result"),
    Case(a_task(SUBMITTER, TaskStatus.DECLINED), "is over: nothing more will happen"),
    Case(a_task(SUBMITTER, TaskStatus.EXPIRED), "is over: nothing more will happen"),
    Case(
        a_task(SUBMITTER, CANCELLED),
        "is over, but the receiver could not be told of all",
        verbs="retry",
        deliveries=(given_up(STATUS),),
    ),
)


class OutlookTests(SynchronousTestCase):
    """What a task waits for, until when, and what can be done."""

    def assert_said(self, case: Case) -> None:
        """The row of the table is so."""
        said = outlook(case.task, case.deliveries, case.ahead, Timeouts(), AGE_LIMIT, NOW)
        until = None if case.until is None else after(case.until)
        self.assertEqual((said.sentence, said.until, said.then), (case.says, until, case.then))
        self.assertEqual(", ".join(command.split()[1] for command in said.commands), case.verbs, case.says)

    def test_received(self) -> None:
        """A received task says what it waits for, whatever its status."""
        for case in RECEIVED:
            self.assert_said(case)

    def test_submitted(self) -> None:
        """A submitted task says what it waits for, whatever its status."""
        for case in SUBMITTED:
            self.assert_said(case)

    def test_commands(self) -> None:
        """The commands name the task, and can be repeated as they are but for the words in capitals."""
        said = outlook(RUNNING, [given_up(STATUS)], 0, Timeouts(), AGE_LIMIT, NOW)
        expected = (
            "tasksubmit retry t1",
            "tasksubmit send-results t1 --text TEXT",
            "tasksubmit progress t1 TEXT",
            "tasksubmit fail t1 --error TEXT",
            "tasksubmit put-back t1",
        )
        self.assertEqual(said.commands, expected)
        self.assertEqual(outlook(PUT_BACK, [], 2, Timeouts(), AGE_LIMIT, NOW).commands[1], "tasksubmit execute")

    def test_nothing_is_left_out(self) -> None:
        """Every status of either side, with something owed or not, has its sentence."""
        owed: tuple[list[Delivery], ...] = ([], [a_delivery(STATUS)], [given_up(RESULTS)])
        for side, status, deliveries in product(Side, TaskStatus, owed):
            said = outlook(a_task(side, status), deliveries, 0, Timeouts(), AGE_LIMIT, NOW)
            self.assertTrue(said.sentence, (side, status))
            self.assertEqual(status.is_final, said.sentence.startswith("is over"), (side, status))

    def test_every_deadline_is_told(self) -> None:
        """What a deadline brings about has words for people."""
        events = {deadline.event for deadline in DEADLINES}
        events |= {event for deadline in DEADLINES for _, event in deadline.instead}
        self.assertEqual(events | {Event.WITHDRAW}, set(_THEN))
        self.assertIn(Event.RUN_AGAIN, _THEN)


class StoryTests(PairTestCase):
    """Stories that a node tells."""

    def story(self, key: TaskKey) -> Story:
        """The story of a task of Bob's, or of Alice's if she submitted it."""
        return self.done((self.bob if key.side is RECEIVER else self.alice).story(key))

    def told(self, story: Story) -> list[tuple[str, str, str]]:
        """Who did what in a story, and where the task stood afterwards."""
        return [(event.by, event.name, event.status.value) for event in story.events]

    def test_whole_life(self) -> None:
        """Both sides tell who did what, from the creation to the end."""
        handle, key = self.executing()
        self.done(self.bob.progress(key, "half of it"))
        self.done(self.bob.send_results(key, "done"))
        self.advance(5)
        received, submitted = self.story(key), self.story(handle.key)
        self.assertEqual(
            [line for line in self.told(received) if line[0] != "node"],
            [
                ("submitter", "submitted", "NEW"),
                ("receiver", "accept", "ACCEPTED"),
                ("receiver", "execute", "EXECUTING"),
                ("receiver", "progress", "EXECUTING"),
                ("receiver", "complete", "COMPLETED"),
                ("submitter", "deliver", "SUCCEEDED"),
            ],
        )
        self.assertEqual(self.told(submitted)[0], ("submitter", "submitted", "NEW"))
        self.assertEqual(self.told(submitted)[-1], ("receiver", "hear_succeeded", "SUCCEEDED"))
        self.assertEqual(received.deliveries, ())
        self.assertEqual(submitted.outlook.commands, ("tasksubmit result " + key.task_id,))

    def test_creation(self) -> None:
        """The first line is made from the record, and says who the other party is."""
        handle, key = self.submit()
        received = TaskEvent(
            at=self.task(self.bob, key).created_at, name="submitted", by="submitter", status=NEW, detail=f"from {ALICE}"
        )
        self.assertEqual(self.story(key).events, (received,))
        self.assertEqual(self.story(handle.key).events[0].detail, f"to {BOB}")

    def test_place(self) -> None:
        """A task knows how many are taken before it: those that were put back, and those of the queue."""
        _, first = self.executing()
        (_, second), (_, third) = self.submit(), self.submit()
        self.done(self.bob.accept(second))
        self.done(self.bob.accept(third))
        self.assertIn("and waits for somebody here to begin it", self.story(second).outlook.sentence)
        self.assertEqual(self.story(third).outlook.sentence, "waits in the queue behind 1 task")
        self.done(self.bob.put_back(first))
        self.assertEqual(self.story(second).outlook.sentence, "is at the head of the queue, but behind 1 task put back")
        self.assertEqual(self.story(third).outlook.sentence, "waits in the queue behind 2 tasks")
        self.assertEqual(self.done(self.bob.execute()).key, first)

    def test_put_back(self) -> None:
        """A story tells whether the receiver put the task back, or its lease was lost in the course of time."""
        _, key = self.executing()
        self.done(self.bob.put_back(key, "not today"))
        self.done(self.bob.execute(key, Lease(timedelta(seconds=90), max_attempts=3)))
        self.advance(100)
        lines = [event for event in self.story(key).events if event.by != "node"][-3:]
        self.assertEqual(
            [(event.by, event.name, event.status) for event in lines],
            [
                ("receiver", "put_back", EXECUTING),
                ("receiver", "take_again", EXECUTING),
                ("time", "run_again", EXECUTING),
            ],
        )
        self.assertEqual(lines[0].detail, "not today")

    def test_withdrawn(self) -> None:
        """A task that was withdrawn before it was sent is the submitter's doing: no receiver confirmed it."""
        self.stop(self.bob)
        handle = self.done(self.alice.submit(BOB, "work"))
        self.done(self.alice.cancel(handle.key))
        self.advance(5)
        self.assertIn(("submitter", "request_cancel", "NEW"), self.told(self.story(handle.key)))
        self.advance(8 * 86400, step=3600)
        told = self.told(self.story(handle.key))
        self.assertIn(("submitter", "withdraw", "CANCELLED"), told)
        self.assertNotIn("confirm_cancel", [name for _, name, _ in told])

    def test_deliveries(self) -> None:
        """What could not be delivered is in the story: each failure counted, and what is given up in the end."""
        handle, key = self.executing()
        self.stop(self.alice)
        self.listen(ALICE, hang_up)
        self.done(self.bob.send_results(key, "done"))
        self.advance(300)
        story = self.story(key)
        (failed,) = [event for event in story.events if event.name == "delivery_failed"]
        (delivery,) = story.deliveries
        self.assertGreater(failed.times, 2)
        self.assertEqual(delivery.attempts, failed.times)
        self.assertIn(f"tried {failed.times} times", story.outlook.sentence)
        self.advance(7 * 86400, step=3600)
        story = self.story(key)
        self.assertEqual(story.events[-1].name, "delivery_given_up")
        self.assertEqual(story.outlook.commands, (f"tasksubmit retry {handle.task_id}",))

    def test_refused_results(self) -> None:
        """Results that the submitter refused for good are told in its words."""
        _, key = self.executing()
        self.stop(self.alice)
        self.listen(ALICE, refuse("invalid"))
        self.done(self.bob.send_results(key, "done"))
        self.advance(5)
        expected = Outlook(
            sentence="waits for nobody: the submitter refused the results",
            commands=(f"tasksubmit retry {key.task_id}",),
        )
        self.assertEqual(self.story(key).outlook, expected)

    def test_unknown(self) -> None:
        """There is no story of a task that is not here."""
        self.failed(self.bob.story(TaskKey(RECEIVER, ALICE, "t9")), UnknownTask)


def hang_up(peer: RawPeer, frame: object) -> None:
    """Break the connection instead of answering."""
    assert peer.transport is not None
    peer.transport.abortConnection()  # type: ignore[attr-defined]  # of the network in memory
