"""Who does the tasks, as the control API tells it."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail
from typing_extensions import override

from tasksubmit.errors import ExecutorUnavailable
from tasksubmit.interfaces import Execution
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors.python import CallableExecutor
from tests.web.harness import PEER, ApiTestCase


class ManualTests(ApiTestCase):
    """A node without workers."""

    def test_manual(self) -> None:
        """What somebody outside has taken is shown, the oldest first; what was put back waits like the queue."""
        for task_id in ("t1", "t2", "t3", "t4"):
            self.receive(task_id)
            self.ask("POST", f"/v1/tasks/{task_id}/accept")
        for _ in range(3):
            self.ask("POST", "/v1/execute")
        self.ask("POST", "/v1/tasks/t1/put-back")
        self.ask("POST", "/v1/tasks/t3/progress", {"text": "half"})
        workers = self.ask("GET", "/v1/workers")
        executing = [(task["task_id"], task["justification"]) for task in workers.pop("executing")]
        self.assertEqual(executing, [("t2", "The task is being executed"), ("t3", "half")])
        self.assertEqual(
            workers,
            {
                "executor": "manual",
                "problem": None,
                "unended": [],
                "concurrency": 0,
                "done": 0,
                "failed": 0,
                "waiting": 2,
            },
        )

    def test_superseded_attempt_is_refused(self) -> None:
        """`execute` gives the number of the attempt, and every verb of a worker takes it."""
        self.receive("t1")
        self.ask("POST", "/v1/tasks/t1/accept")
        self.assertEqual(self.ask("POST", "/v1/execute")["attempt"], 1)
        self.ask("POST", "/v1/tasks/t1/put-back", {"attempt": 1})
        self.assertEqual(self.ask("POST", "/v1/tasks/t1/execute")["attempt"], 2)
        for verb, body in (
            ("progress", {"text": "half"}),
            ("fail", {"error": "no ink"}),
            ("put-back", {}),
            ("results", {"text": "late"}),
        ):
            for attempt in ({}, {"attempt": 1}):
                message = self.refused(409, "illegal_transition", "POST", f"/v1/tasks/t1/{verb}", {**body, **attempt})
                self.assertIn("it is at attempt 2" if attempt else "is at attempt 2: give the number", message)
        self.ask("POST", "/v1/tasks/t1/progress", {"text": "half", "attempt": 2})
        done = self.ask("POST", "/v1/tasks/t1/results", {"text": "done", "attempt": 2})
        self.assertEqual((done["status"], done["attempt"]), ("COMPLETED", 2))


class WorkersTests(ApiTestCase):
    """A node with workers."""

    @override
    def setUp(self) -> None:
        self.options = {"acceptance": AcceptAll(), "executor": CallableExecutor(self.work), "concurrency": 2}
        super().setUp()

    def work(self, execution: Execution) -> Deferred[str]:
        """Fail at once, be unable to start, or never end."""
        if execution.description == "endless":
            execution.unended("process 7 (sleep) of user 0 cannot be killed: Operation not permitted")
        if execution.description == "impossible":
            raise ExecutorUnavailable("cannot execute /bin/gone: No such file or directory")
        execution.progress("reading")
        return fail(ZeroDivisionError()) if execution.description == "bad" else Deferred()

    def test_workers(self) -> None:
        """What they do, how far they are, and what they have done."""
        self.receive("t0", "bad")
        for task_id in ("t1", "t2", "t3"):
            self.receive(task_id)
        self.flushLoggedErrors(ZeroDivisionError)
        workers = self.ask("GET", "/v1/workers")
        executing = [(task["task_id"], task["justification"]) for task in workers.pop("executing")]
        self.assertEqual(executing, [("t1", "reading"), ("t2", "reading")])
        self.assertRegex(workers.pop("executor"), r"^python:tests.web.test_workers:.*work$")
        self.assertEqual(
            workers, {"problem": None, "unended": [], "concurrency": 2, "done": 0, "failed": 1, "waiting": 1}
        )
        self.successResultOf(self.node.story(TaskKey(Side.RECEIVER, PEER, "t0")))

    def test_executor_problem(self) -> None:
        """What keeps the executor from starting tasks is shown here and in the status, and to nobody else."""
        self.assertIsNone(self.ask("GET", "/v1/status")["executor_problem"])
        self.receive("t1", "impossible")
        problem = self.ask("GET", "/v1/workers")["problem"]
        self.assertEqual(
            problem,
            {
                "error": "cannot execute /bin/gone: No such file or directory",
                "since": "2026-04-09T12:00:00.250Z",
                "retry_at": "2026-04-09T12:00:01.250Z",
                "is_refusing": False,
            },
        )
        self.assertEqual(self.ask("GET", "/v1/status")["executor_problem"], problem)
        self.assertNotIn("/bin", json.dumps(self.ask("GET", "/v1/tasks/t1")))
        self.clock.advance(60)
        self.assertTrue(self.ask("GET", "/v1/status")["executor_problem"]["is_refusing"])

    def test_unended(self) -> None:
        """An execution that cannot be ended is shown here and in the status with the reason, and to nobody else."""
        self.receive("t1", "endless")
        (unended,) = self.ask("GET", "/v1/workers")["unended"]
        self.assertEqual(
            unended,
            {
                "task_id": "t1",
                "peer": str(PEER),
                "attempt": 1,
                "error": "process 7 (sleep) of user 0 cannot be killed: Operation not permitted",
                "since": "2026-04-09T12:00:00.250Z",
            },
        )
        self.assertEqual(self.ask("GET", "/v1/status")["unended"], [unended])
        self.assertNotIn("process 7", json.dumps(self.ask("GET", "/v1/tasks/t1")))
