"""Who decides on new tasks."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import StoreError
from tasksubmit.interfaces import IAcceptancePolicy, Refusal
from tasksubmit.lifecycle.change import Change
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node import acceptance
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.wire.messages import TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, NodeTestCase, SlowStore, request


@implementer(IAcceptancePolicy)
@define
class Answers:
    """A policy that answers as the test says, and remembers what it was asked."""

    answer: Any = None
    asked: list[str] = field(factory=list)

    def decide(self, task: Task) -> Any:
        """See `IAcceptancePolicy.decide`."""
        self.asked.append(task.task_id)
        return self.answer() if callable(self.answer) else self.answer


class AcceptanceTests(NodeTestCase):
    """Bob's policy, and what it does with Alice's tasks."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.policy = Answers()
        self.store = SlowStore()
        self.bob = self.make_node(BOB, ALICE, acceptance=self.policy, store=self.store)

    def status(self, task_id: str = "t1") -> tuple[TaskStatus, str]:
        """Where the task stands with Bob, and in what words."""
        (task,) = [task for task in self.tasks(self.bob) if task.task_id == task_id]
        return task.status, task.justification

    def test_answers(self) -> None:
        """True accepts, False leaves the task NEW, and a refusal declines it with its message; at once or later."""
        later: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            later.append(Deferred())
            return later[-1]

        for number, (answer, expected) in enumerate(
            [
                (True, (TaskStatus.ACCEPTED, "Task accepted")),
                (False, (TaskStatus.NEW, "A new task was created")),
                (Refusal("busy", "not on Mondays"), (TaskStatus.DECLINED, "not on Mondays")),
            ]
        ):
            self.policy.answer = answer
            self.assertEqual(self.ask(BOB, request(f"now{number}")).status, 200)
            self.assertEqual(self.status(f"now{number}"), expected)
            self.policy.answer = wait
            self.assertEqual(self.ask(BOB, request(f"later{number}")).status, 200)
            self.assertIs(self.status(f"later{number}")[0], TaskStatus.NEW)
            later[-1].callback(answer)
            self.network.flush()
            self.assertEqual(self.status(f"later{number}"), expected)

    def test_asked_once(self) -> None:
        """A submission that is repeated is not put to the policy again."""
        self.ask(BOB, request())
        self.ask(BOB, request())
        self.assertEqual(self.policy.asked, ["t1"])

    def test_after_a_start(self) -> None:
        """What an earlier life of the node left NEW is decided on after the start, and nothing else."""
        self.ask(BOB, request("t1"))
        self.ask(BOB, request("t2"))
        self.policy.answer = True
        self.ask(BOB, request("t3"))
        self.stop(self.bob)
        self.policy.asked.clear()
        self.bob.startService()
        self.network.flush()
        self.assertEqual(self.policy.asked, ["t1", "t2"])
        self.assertEqual({task.status for task in self.tasks(self.bob)}, {TaskStatus.ACCEPTED})

    def test_many_after_a_start(self) -> None:
        """However many there are, they are decided on in the order in which they came."""
        self.patch(acceptance, "_AT_ONCE", 2)
        self.patch(acceptance, "_DECIDED_AT_ONCE", 2)
        waiting = [f"t{number}" for number in range(5)]
        for task_id in waiting:
            self.ask(BOB, request(task_id))
        self.stop(self.bob)
        for answer, asked in ((Deferred, waiting[:2]), (True, waiting)):  # so many are asked about at once
            self.policy.answer = answer
            self.policy.asked.clear()
            self.bob.startService()
            self.network.flush()
            self.assertEqual(self.policy.asked, asked)
            if answer is not True:
                self.stop(self.bob)
        self.assertEqual([task.task_id for task in self.successResultOf(self.store.queue(9))], waiting)

    def test_read_when_its_turn_comes(self) -> None:
        """After a start a few tasks at a time are read: what was withdrawn meanwhile is not asked about."""
        self.patch(acceptance, "_DECIDED_AT_ONCE", 1)
        self.policy.answer = False
        self.say(BOB, request("t1"), request("t2"), request("t3"))
        self.stop(self.bob)
        self.policy.asked.clear()
        later: list[Deferred[Any]] = []

        def wait() -> Deferred[Any]:
            later.append(Deferred())
            return later[-1]

        self.policy.answer = wait
        self.bob.startService()
        self.network.flush()
        self.ask(BOB, TaskStatusUpdate("t2", "CANCELLED", "no", ack=True))
        later[0].callback(True)
        self.network.flush()
        self.assertEqual(self.policy.asked, ["t1", "t3"])
        later[1].callback(True)

    def test_policy_fails(self) -> None:
        """A policy that fails is logged, and leaves the task to somebody else; the next one is put to it again."""
        self.policy.answer = lambda: fail(ZeroDivisionError())
        self.ask(BOB, request("t1"))
        self.assertIs(self.status("t1")[0], TaskStatus.NEW)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.policy.answer = True
        self.ask(BOB, request("t2"))
        self.assertIs(self.status("t2")[0], TaskStatus.ACCEPTED)

    def test_no_answer_at_all(self) -> None:
        """Only True accepts: what is no answer is logged like a failure, and nothing comes of it."""
        for number, answer in enumerate(("no", (False, "why"), 1)):
            self.policy.answer = answer
            self.ask(BOB, request(f"t{number}"))
            self.assertIs(self.status(f"t{number}")[0], TaskStatus.NEW)
            (failure,) = self.flushLoggedErrors(TypeError)
            self.assertIn(f"the policy answered {answer!r}", str(failure.value))

    def test_no_exception_at_all(self) -> None:
        """A policy that raises what is no error of a policy is one that fails; at a stop nobody is told."""
        self.policy.answer = lambda: fail(SystemExit(1))
        self.ask(BOB, request("t1"))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.policy.answer = lambda: Deferred(lambda deferred: deferred.errback(asyncio.CancelledError()))
        self.ask(BOB, request("t2"))
        self.stop(self.bob)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_store_fails(self) -> None:
        """A decision that cannot be written is logged, and leaves the task NEW."""

        def apply(change: Change) -> Deferred[Task]:
            return fail(StoreError("full"))

        self.policy.answer = True
        self.patch(self.store, "apply", apply)
        self.ask(BOB, request())
        self.assertIs(self.status()[0], TaskStatus.NEW)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)

    def test_somebody_else_was_first(self) -> None:
        """A decision that comes too late changes nothing."""
        later: Deferred[Any] = Deferred()
        self.policy.answer = lambda: later
        self.ask(BOB, request())
        (task,) = self.tasks(self.bob)
        self.done(self.bob.decline(task.key, "by hand"))
        later.callback(True)
        self.network.flush()
        self.assertEqual(self.status(), (TaskStatus.DECLINED, "by hand"))

    def test_stop(self) -> None:
        """A node that stops cancels what its policy was asked, and does not wait for an answer."""
        cancelled: list[Deferred[Any]] = []
        self.policy.answer = lambda: Deferred(cancelled.append)
        self.ask(BOB, request())
        self.stop(self.bob)
        self.assertEqual(len(cancelled), 1)

    def test_stop_waits(self) -> None:
        """A node that stops waits until a decision is written."""
        later: Deferred[Any] = Deferred()
        self.policy.answer = lambda: later
        self.ask(BOB, request())
        self.store.holds_changes = True
        later.callback(True)
        stopped = self.bob.stopService()
        self.network.flush()
        self.assertNoResult(stopped)
        self.store.release()
        self.done(stopped)

    def test_drain(self) -> None:
        """A node that is being drained accepts nothing, and decides after its next start."""
        later: Deferred[Any] = Deferred()
        self.policy.answer = lambda: later
        self.ask(BOB, request())
        self.done(self.bob.drain(0))
        later.callback(True)
        self.network.flush()
        self.assertIs(self.status()[0], TaskStatus.NEW)
        self.stop(self.bob)
        self.policy.answer = True
        self.bob.startService()
        self.network.flush()
        self.assertIs(self.status()[0], TaskStatus.ACCEPTED)


class AcceptAllTests(NodeTestCase):
    """The policy that comes with the package."""

    def test_all(self) -> None:
        """Every task that was admitted is accepted; what was not admitted is not there."""
        bob = self.make_node(BOB, ALICE, acceptance=AcceptAll())
        for number in range(50):
            self.ask(BOB, request(f"t{number}"))
        self.assertEqual({task.status for task in self.tasks(bob)}, {TaskStatus.ACCEPTED})
        self.assertEqual(len(self.successResultOf(bob.store.queue(100))), 50)

    def test_quarantine(self) -> None:
        """Those of submitters in quarantine are left to somebody."""
        bob = self.make_node(BOB, ALICE, CAROL, acceptance=AcceptAll(but=[CAROL]))
        for by in (ALICE, CAROL):
            self.ask(BOB, request(f"by-{by.node}", by=by))
        statuses = {task.peer: task.status for task in self.tasks(bob)}
        self.assertEqual(statuses, {ALICE: TaskStatus.ACCEPTED, CAROL: TaskStatus.NEW})
