"""The verbs for work in execution, and for bringing a node to rest."""

from __future__ import annotations

import re
import shlex

import click

from tasksubmit.cli import output
from tasksubmit.errors import ExecutorUnavailable
from tasksubmit.node.attempt import UnendedExecution
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.workers import Workers
from tests.cli.harness import CommandTestCase
from tests.web.harness import OTHER, PEER, STRANGER


class ExecutionTests(CommandTestCase):
    """``progress``, ``put-back`` and ``fail``."""

    def executing(self, *task_ids: str) -> None:
        """Begin tasks."""
        for task_id in task_ids:
            self.receive(task_id)
            self.ok("accept", task_id)
            self.ok("execute", task_id)

    def test_progress(self) -> None:
        """Progress is told, and begins the lease anew."""
        self.executing("t1")
        before = self.data("show", "t1")["lease_expires_at"]
        self.clock.advance(5)
        self.assertEqual(self.ok("progress", "t1", "half of it"), 'task t1 is EXECUTING: "half of it"\n')
        task = self.data("progress", "t1", "more", "--from", str(PEER))
        self.assertEqual(task["justification"], "more")
        self.assertGreater(task["lease_expires_at"], before)
        self.assertEqual(self.run_command("progress", "t1").exit_code, 2)

    def test_put_back(self) -> None:
        """What was put back leads the queue, before its head, and `execute` takes it first."""
        self.executing("t1", "t2")
        for task_id in ("t3", "t4"):
            self.receive(task_id)
            self.ok("accept", task_id)
        line = self.ok("put-back", "t2", "--reason", "lunch")
        self.assertEqual(line, 'task t2 is EXECUTING, waits to be begun again: "lunch"\n')
        heading, *rows = (line.split() for line in self.ok("queue").splitlines() if "|" not in line)
        self.assertEqual(heading, ["TASK", "FROM", "PLACE", "SINCE"])
        self.assertEqual([row[0] for row in rows], ["t2", "t3", "t4"])
        self.assertEqual(rows[0][2:4], ["put", "back"])
        self.assertEqual(rows[1][2], "head")
        self.assertTrue(rows[2][2].startswith("2026-"), rows[2])
        self.assertEqual([self.data("execute")["task_id"] for _ in rows], ["t2", "t3", "t4"])
        self.assertEqual(self.ok("queue"), "the queue is empty\n")

    def test_put_back_twice(self) -> None:
        """What was put back already cannot be put back again."""
        self.executing("t1")
        self.assertEqual(self.data("put-back", "t1")["justification"], "The task was put back")
        self.assertIn("was put back already; `tasksubmit why t1`", self.failed("put-back", "t1"))

    def test_superseded_attempt(self) -> None:
        """After a second attempt the verbs need its number, and the commands that `why` prints have it."""
        self.executing("t1")
        self.ok("put-back", "t1", "--attempt", "1")
        self.assertRegex(self.ok("execute"), r"(?m)^attempt +2$")
        self.assertRegex(self.ok("show", "t1"), r"(?m)^attempt +2$")
        for verb, *arguments in (("progress", "half"), ("fail", "--error", "x"), ("put-back",)):
            self.assertIn("give the number of the attempt", self.failed(verb, "t1", *arguments))
            self.assertIn("attempt 1 of task t1 was superseded", self.failed(verb, "t1", *arguments, "--attempt", "1"))
        self.failed("send-results", "t1", "--text", "late", "--attempt", "1")
        self.assertEqual(self.run_command("progress", "t1", "x", "--attempt", "0").exit_code, 2)
        commands = [line.strip("$ ") for line in self.ok("why", "t1").splitlines() if line.startswith("  $ ")]
        self.assertEqual(len(commands), 4)
        (progress,) = [command for command in commands if " progress " in command]
        (results,) = [command for command in commands if " send-results " in command]
        self.ok(*shlex.split(progress)[1:])
        self.assertIn("is COMPLETED", self.ok(*shlex.split(results)[1:]))

    def test_fail(self) -> None:
        """Failing needs an error, and ends the task."""
        self.executing("t1")
        self.assertEqual(self.run_command("fail", "t1").exit_code, 2)
        self.assertIn("tell the submitter what went wrong", self.failed("fail", "t1", "--error", " "))
        self.assertEqual(self.ok("fail", "t1", "--error", "no ink"), 'task t1 is CANCELLED: "The execution failed"\n')
        self.assertIn("no ink", self.ok("show", "t1"))
        self.assertEqual(self.data("list", "--status", "cancelled")[0]["outcome"], "failed")

    def test_refused(self) -> None:
        """What is not in execution, or is nobody's, is an error in one line."""
        self.receive("t1")
        for arguments in (("progress", "t1", "x"), ("put-back", "t1"), ("fail", "t1", "--error", "x")):
            self.assertIn("it is NEW", self.failed(*arguments))
            self.assertIn("there is no", self.failed(arguments[0], "t2", *arguments[2:]))
            self.failed(*arguments, "--from", str(STRANGER))

    def test_from(self) -> None:
        """Tasks with one id are told apart by their submitter."""
        for peer in (PEER, OTHER):
            self.receive("t1", peer=peer)
            self.ok("accept", "t1", "--from", str(peer))
            self.ok("execute", "t1", "--from", str(peer))
        self.assertIn("--from", self.failed("put-back", "t1"))
        self.assertEqual(self.data("put-back", "t1", "--from", str(OTHER))["peer"], str(OTHER))
        self.assertEqual(self.data("fail", "t1", "--error", "x", "--from", str(PEER))["peer"], str(PEER))


class WorkerTests(CommandTestCase):
    """``worker``."""

    def test_idle(self) -> None:
        """A node without workers, of which nobody has taken anything."""
        self.assertEqual(self.ok("worker"), "executor   manual\nwaiting    0\nnothing is being done\n")

    def test_busy(self) -> None:
        """What is being done, since when and how far; text from elsewhere drives no terminal."""
        self.receive("t1")
        self.ok("accept", "t1")
        self.ok("execute", "t1")
        self.ok("progress", "t1", "half \x1b[2J")
        *_, heading, row, progress = self.ok("worker").splitlines()
        self.assertEqual(heading.split(), ["TASK", "FROM", "ATTEMPT", "SINCE"])
        self.assertEqual(row.split()[:3], ["t1", str(PEER), "1"])
        self.assertEqual(progress, "  receiver| half \\x1b[2J")
        self.assertEqual(self.data("worker")["executing"][0]["task_id"], "t1")

    def test_executor(self) -> None:
        """A node with workers says what they are, and how much they did."""
        clock = self.clock
        self.node.workers = Workers(None, None, CallableExecutor(print), 4, 1, clock)  # type: ignore[arg-type]
        self.node.workers.done, self.node.workers.failed = 12, 1
        lines = self.ok("worker").splitlines()
        self.assertEqual(lines[0], "executor   python:builtins:print")
        self.assertEqual(lines[1:3], ["done       12, failed 1, since the node was started", "at once    4"])

    def test_executor_problem(self) -> None:
        """An executor that cannot start tasks is shown by `worker` and by `status`, with what is wrong."""
        workers = Workers(None, None, CallableExecutor(print), 4, 1, self.clock)  # type: ignore[arg-type]
        self.node.workers = workers
        workers.availability.failed(ExecutorUnavailable("cannot execute /bin/gone: No such file or directory"))
        words = (
            "unavailable: cannot execute /bin/gone: No such file or directory (since 2026-04-09T12:00:00.250Z, "
            "retried at 2026-04-09T12:00:01.250Z)\n"
        )
        self.assertIn(f"\nproblem    {words}", self.ok("worker"))
        self.assertRegex(self.ok("status"), rf"(?m)^executor +{re.escape(words)}")
        workers.availability.stop()
        self.assertNotIn("unavailable", self.ok("worker") + self.ok("status"))

    def test_unended(self) -> None:
        """An execution that cannot be ended is shown by `worker` and by `status`, with the reason."""
        workers = Workers(None, None, CallableExecutor(print), 4, 1, self.clock)  # type: ignore[arg-type]
        self.node.workers = workers
        error, since = "process 7 (a\x1b[2J) of user 0 cannot be killed", self.node.now()
        self.patch(workers, "unended", lambda now: [UnendedExecution("t1", PEER, 2, error, since)])
        words = r"t1, attempt 2, keeps its slot: process 7 (a\x1b[2J) of user 0 cannot be killed (since "
        self.assertIn(f"\nnot ended  {words}", self.ok("worker"))
        self.assertRegex(self.ok("status"), rf"(?m)^not ended +{re.escape(words)}")


class SwitchTests(CommandTestCase):
    """``enable`` and ``disable``."""

    def test_switch(self) -> None:
        """A node that is disabled says so, and takes new tasks again when it is enabled."""
        self.assertEqual(self.ok("disable"), "the node takes no new tasks; what it has goes on\n")
        self.assertFalse(self.node.is_enabled)
        self.assertIn(", takes no new tasks until `tasksubmit enable`\n", self.ok("status"))
        self.assertTrue(self.data("enable")["is_enabled"])
        self.assertEqual(self.ok("enable"), "the node takes new tasks\n")
        self.assertNotIn("takes no", self.ok("status"))

    def test_retrying(self) -> None:
        """The status shows the steps that have failed and are being repeated, and why; with none, nothing."""
        self.assertNotIn("retrying", self.ok("status"))
        self.assertEqual(self.data("status")["retrying"], {})

        def fail() -> None:
            raise OSError("the disk is gone")

        self.node._retrier.run("count the tasks that wait", fail)
        self.assertRegex(self.ok("status"), r"\nretrying +count the tasks that wait: the disk is gone\n")
        self.flushLoggedErrors(OSError)

    def test_older_node(self) -> None:
        """The status of a node that runs since before an upgrade, and does not say whether it is disabled, is shown."""
        older = self.data("status")
        del older["is_enabled"]
        told: list[str] = []
        self.patch(click, "echo", lambda text="", **_: told.append(text))
        output.show_status(older)
        self.assertTrue(told[0].endswith(", version 9.9"), told)


class DrainTests(CommandTestCase):
    """``drain``."""

    def test_nothing_left(self) -> None:
        """A node without work is at rest at once, and stops."""
        self.assertEqual(self.ok("drain"), "the node is at rest and stops; nothing is left to do\n")
        self.clock.advance(1)
        self.assertEqual(len(self.stops), 1)

    def test_what_is_left(self) -> None:
        """What did not come to an end in time is told in words."""
        self.receive("t1")
        self.ok("accept", "t1")
        self.ok("execute")
        started_at = self.clock.seconds()
        first, second = self.ok("drain", "--timeout", "120").splitlines()
        self.assertEqual(
            first,
            "the node is at rest and stops; executions put back, to be begun again: 1; peers that could not be reached,"
            " and are still owed something: 1",
        )
        self.assertEqual(second, "it goes on with that when it is started again")
        self.assertEqual(self.clock.seconds(), started_at + 120)

    def test_json(self) -> None:
        """For programs it is numbers."""
        self.assertEqual(self.data("drain", "--timeout", "0"), {"put_back": 0, "owed_to": 0, "is_stopping": True})

    def test_nothing_new(self) -> None:
        """A node that is being drained takes nothing new, and says what to do instead."""
        self.receive("t1")
        self.ok("drain", "--timeout", "0")
        line = self.failed("accept", "t1")
        self.assertIn("it accepts nothing new; start the node again once it has stopped", line)
        self.assertIn("it submits nothing new", self.failed("submit", str(PEER), "x"))

    def test_usage(self) -> None:
        """It takes an hour at most."""
        self.assertEqual(self.run_command("drain", "--timeout", "3601").exit_code, 2)
        self.assertEqual(self.run_command("drain", "--timeout", "soon").exit_code, 2)
