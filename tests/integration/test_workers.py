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
from tests.tiers import tier

SCRIPT = """#!/bin/sh
echo "progress attempt $TASKSUBMIT_ATTEMPT" >&3
echo $$ >> {directory}/pids
read words
[ "$words" = wait ] && [ ! -e {directory}/go ] && sleep 60
echo "$words, by $TASKSUBMIT_FROM"
"""


TIDY_SCRIPT = """#!/bin/sh
exec 2> /dev/null  # the node that reads it is killed
echo "start $TASKSUBMIT_ATTEMPT" >> {directory}/log
[ "$TASKSUBMIT_ATTEMPT" = 2 ] && exit
trap 'sleep 4; echo "end $TASKSUBMIT_ATTEMPT" >> {directory}/log; exit' TERM
echo $$ >> {directory}/pids
while :; do sleep 0.1; done
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
        self.options: tuple[str, ...] = ("--accept", "all", "--executor", f"process:{script}:attempts=2")
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

    @tier("full")
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

    def kill_node(self) -> None:
        """Kill the second agent's node, and start it again at once."""
        pidfile = self.b.directory / "pid"
        node = int(pidfile.read_text())
        os.kill(node, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{node}").exists(), "the killed node is still there")
        pidfile.unlink()
        self.b.start(*self.options)

    def start_tidy_command(self, grace: float) -> None:
        """Have the second agent execute a command that tidies up, and logs its steps, on its first attempt."""
        script = self.directory / "tidy.sh"
        script.write_text(TIDY_SCRIPT.format(directory=self.directory))
        script.chmod(0o755)
        self.b.stop()
        executor = f"process:{script}:attempts=2:grace={grace:g}"
        self.options = ("--accept", "all", "--executor", executor, "--concurrency", "2")
        self.b.start(*self.options)
        self.a.ask("submit", B, "tidy", "--task-id", "t1", "--timeout", "0")
        until(lambda: len(self.pids()) == 1, "nothing was begun")

    def log(self) -> list[str]:
        """The steps that the commands have logged."""
        return (self.directory / "log").read_text().splitlines()

    @tier("full")
    def test_next_attempt_waits_for_the_last(self) -> None:
        """When a node is killed, the next attempt starts only after the command of the last one has tidied up."""
        self.start_tidy_command(grace=30)
        self.kill_node()
        self.a.ask("wait", "t1", "--timeout", "60")
        self.assertEqual(self.log(), ["start 1", "end 1", "start 2"])
        until(lambda: not list((self.b.directory / "state" / "work").iterdir()), "something is left of the killed node")

    @tier("full")
    def test_next_attempt_waits_without_a_supervisor(self) -> None:
        """What a killed supervisor leaves is killed when its time is up, and only then the next attempt starts."""
        self.start_tidy_command(grace=1)
        (command,) = self.pids()
        status = Path(f"/proc/{command}/status").read_text()
        (supervisor,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        os.kill(int((self.b.directory / "pid").read_text()), signal.SIGSTOP)  # it must not notice
        os.kill(supervisor, signal.SIGKILL)
        self.kill_node()
        self.a.ask("wait", "t1", "--timeout", "60")
        self.assertEqual(self.log(), ["start 1", "start 2"])
        self.assertFalse(self.is_alive(command))
        until(lambda: not list((self.b.directory / "state" / "work").iterdir()), "something is left of the killed node")

    @tier("full")
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
