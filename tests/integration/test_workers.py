"""Agents that work by themselves: real daemons, real commands, and a node that is killed at work."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.docs.running import free_ports
from tests.integration.test_two_agents import A, Agent, B
from tests.processes import LONGEST_SECONDS, until

SCRIPT = """#!/bin/sh
echo "progress attempt $TASKSUBMIT_ATTEMPT" >&3
echo $$ >> {directory}/pids
read words
[ "$words" = wait ] && [ ! -e {directory}/go ] && sleep 60
echo "$words, by $TASKSUBMIT_FROM"
"""


class WorkersTests(SynchronousTestCase):
    """An agent that submits, and one whose executor is a command."""

    @override
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name).resolve()
        script = self.directory / "work.sh"
        script.write_text(SCRIPT.format(directory=self.directory))
        script.chmod(0o755)
        port_a, port_b = free_ports(2)
        self.a = Agent(self.directory / "a", A, port_a, B, port_b)
        self.b = Agent(self.directory / "b", B, port_b, A, port_a)
        self.options = ("--accept", "all", "--executor", f"process:{script}:attempts=2")
        for agent, options in ((self.a, ()), (self.b, self.options)):
            self.addCleanup(agent.stop)
            agent.start(*options)

    def pids(self) -> list[int]:
        """The processes that were started, in order."""
        path = self.directory / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def is_alive(self, pid: int) -> bool:
        """Whether there is such a process, and it has not ended."""
        status = Path(f"/proc/{pid}/status")
        return status.exists() and "\nState:\tZ" not in status.read_text()

    def test_work(self) -> None:
        """A task is accepted, done and sent back by nobody's hand."""
        done = self.a.run("submit", B, "hello", "--wait")
        self.assertEqual((done.returncode, done.stdout), (0, f"hello, by {A}\n"))
        worker = self.b.ask("worker")
        self.assertEqual((worker["done"], worker["failed"], worker["executing"]), (1, 0, []))

    def test_killed(self) -> None:
        """A node that is killed at work takes the command with it, and begins the task again after its start."""
        self.a.ask("submit", B, "wait", "--task-id", "t1", "--timeout", "0")
        until(lambda: len(self.pids()) == 1, "nothing was begun")
        until(lambda: self.b.ask("show", "t1")["justification"] == "attempt 1", "no progress was told")
        pidfile = self.b.directory / "pid"
        node = int(pidfile.read_text())
        os.kill(node, signal.SIGKILL)
        until(lambda: not self.is_alive(self.pids()[0]), "the command has outlived its node")
        until(lambda: not Path(f"/proc/{node}").exists(), "the killed node is still there")
        pidfile.unlink()
        (self.directory / "go").touch()
        self.b.start(*self.options)
        self.a.ask("wait", "t1", "--timeout", str(int(LONGEST_SECONDS)))
        self.assertEqual(self.a.run("result", "t1").stdout, f"wait, by {A}\n")
        self.assertEqual(self.b.ask("show", "t1")["attempt"], 2)

    def test_stopped(self) -> None:
        """A node that is stopped ends its commands, and begins their tasks again after its start."""
        self.a.ask("submit", B, "wait", "--task-id", "t1", "--timeout", "0")
        until(lambda: len(self.pids()) == 1, "nothing was begun")
        self.b.stop()
        self.assertFalse(self.is_alive(self.pids()[0]))
        (self.directory / "go").touch()
        self.b.start(*self.options)
        self.a.ask("wait", "t1", "--timeout", str(int(LONGEST_SECONDS)))
        self.assertEqual(len(self.pids()), 2)
