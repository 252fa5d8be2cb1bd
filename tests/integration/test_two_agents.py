"""Two ``twistd`` processes, driven by the command line alone: what an operator does by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit import TaskFile, polo_score
from tests.docs.pages import ROOT
from tests.docs.running import free_ports
from tests.processes import run
from tests.processes import until as until  # others take it from here
from tests.tiers import tier

A, B = "0:0000.0000.0001", "0:0000.0000.0002"
TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Agent:
    """A daemon and the command line that talks to it."""

    def __init__(self, directory: Path, address: str, port: int, peer: str, peer_port: int) -> None:
        self.directory = directory
        self.address = address
        self._command = [
            *TWISTD,
            *(f"--pidfile={directory / 'pid'}", f"--logfile={directory / 'log'}", f"--rundir={directory}"),
            *("tasksubmit", "--address", address, "--state-dir", str(directory / "state")),
            *("--listen", f"tcp:{port}:interface=127.0.0.1", "--peer", f"{peer}=tcp:127.0.0.1:{peer_port}"),
        ]
        directory.mkdir()

    def start(self, *options: str) -> None:
        """Start the daemon; it listens when this returns."""
        run([*self._command, *options], check=True, env=ENVIRONMENT)

    def stop(self) -> None:
        """Stop the daemon, and wait until its process is gone."""
        pidfile = self.directory / "pid"
        if pidfile.exists():
            os.kill(int(pidfile.read_text()), signal.SIGTERM)
            until(lambda: not pidfile.exists(), "the daemon did not stop")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb."""
        command = [sys.executable, "-m", "tasksubmit", "--state-dir", str(self.directory / "state"), *words]
        return run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True)

    def ask(self, *words: str) -> Any:
        """Run a verb that succeeds, and give the data that it prints as JSON."""
        done = self.run("--json", *words)
        if done.returncode != 0:
            raise AssertionError(f"{words}: {done.stdout}{done.stderr}")
        answer = json.loads(done.stdout)
        assert answer["status"] == "ok", answer
        return answer["data"]

    def refused(self, *words: str) -> str:
        """Run a verb that fails, and give the one line that it prints."""
        done = self.run(*words)
        if done.returncode == 0 or done.stdout or done.stderr.count("\n") != 1 or "Traceback" in done.stderr:
            raise AssertionError(f"{words}: {done.returncode} {done.stdout}{done.stderr}")
        return done.stderr


@tier("full")
class TwoAgentsTests(SynchronousTestCase):
    """One walk through everything that two agents do with each other, for starting processes takes time."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        ports = free_ports(2)
        base = Path(directory.name)
        self.a = Agent(base / "a", A, ports[0], B, ports[1])
        self.b = Agent(base / "b", B, ports[1], A, ports[0])
        for agent in (self.a, self.b):
            agent.start()
            self.addCleanup(agent.stop)

    def test_by_hand(self) -> None:
        """Submit, decline, restart in between, execute in order, send text and file, be paid, and time out."""
        a, b = self.a, self.b
        for task_id in ("first", "second", "unwanted"):
            self.assertEqual(a.ask("submit", B, f"do the {task_id}", "--task-id", task_id)["status"], "NEW")
        for task_id in ("first", "second"):
            self.assertEqual(b.ask("accept", task_id)["status"], "ACCEPTED")
        b.ask("decline", "unwanted", "--justification", "no time")
        queue = b.ask("queue")
        self.assertEqual([task["task_id"] for task in queue], ["first", "second"])
        self.assertIsNotNone(queue[0]["staged_at"])
        self.assertIsNone(queue[1]["staged_at"])

        b.stop()
        self.assertIn("start", b.refused("queue"))
        b.start()
        self.assertEqual(self.durable(b.ask("queue")), self.durable(queue))

        self.assertIn("head", b.refused("execute", "second"))
        self.work(["--text", "the first is done"], "first")
        summary = b.directory / "summary.md"
        summary.write_text("# Done\n")
        self.work(["--file", str(summary)], "second")

        self.assertEqual(a.ask("result", "first")["text"], "the first is done")
        result = a.ask("show", "second")
        kept = a.directory / "state" / "results" / result["result_file"]
        self.assertEqual((kept.name, kept.read_text()), ("second_summary.md", "# Done\n"))

        self.assertIn("no time", a.refused("wait", "unwanted"))
        rewards = sum(self.paid(task_id) for task_id in ("first", "second"))
        expected = {A: -2, B: rewards}
        for agent in (a, b):
            scores = {score["address"]: score["score"] for score in agent.ask("score")}
            self.assertEqual(scores, expected)

        b.stop()
        b.start("--accept-timeout", "0.5", "--tick", "0.1")
        a.run("submit", B, "do the forgotten", "--task-id", "forgotten")  # fails if it hears of the end at once
        until(lambda: a.ask("show", "forgotten")["status"] == "CANCELLED", "nobody cancelled the forgotten task")
        for agent in (a, b):
            self.assertEqual(agent.ask("show", "forgotten")["outcome"], "accept_timeout")

    def durable(self, queue: list[Any]) -> list[Any]:
        """What a restart must keep of a queue."""
        return [(task["task_id"], task["queue_position"], task["staged_at"], task["accepted_at"]) for task in queue]

    def work(self, results: list[str], task_id: str) -> None:
        """The receiver executes the head of the queue and sends results; both sides see it succeed."""
        self.assertEqual(self.b.ask("execute")["task_id"], task_id)
        self.b.ask("send-results", task_id, *results)
        self.a.ask("wait", task_id)
        for agent in (self.a, self.b):
            until(lambda agent=agent: agent.ask("show", task_id)["status"] == "SUCCEEDED", f"{task_id} did not succeed")

    def paid(self, task_id: str) -> int:
        """What the submitter booked for a task; it is what the formula gives for the measured durations."""
        record = self.a.ask("show", task_id)
        self.assertFalse(record["is_time_disputed"])
        durations = {name: record[name] for name in ("time_idle_ms", "time_staged_ms", "time_cpu_ms")}
        self.assertEqual({name: self.b.ask("show", task_id)[name] for name in durations}, durations)
        self.assertEqual(record["reward"], polo_score(TaskFile(**durations)).final_reward)
        return int(record["reward"])

    def test_errors(self) -> None:
        """What cannot be done is answered in one line that says why, and the exit code tells."""
        a, b = self.a, self.b
        self.assertIn("no task", a.refused("show", "nothing"))
        self.assertIn("peer", a.refused("submit", "0:0000.0000.0009", "hello"))
        self.assertIn("0:zzz", a.refused("submit", "0:zzz", "hello"))
        a.ask("submit", B, "one", "--task-id", "one")
        self.assertIn("another description", a.refused("submit", B, "two", "--task-id", "one"))
        a.ask("submit", B, "one", "--task-id", "one")
        self.assertIn("it is NEW", b.refused("send-results", "one", "--text", "early"))
        self.assertIn("empty", b.refused("execute"))
        self.assertIn("received from", b.refused("cancel", "one"))
        program = b.directory / "program.py"
        program.write_text("print()")
        b.ask("accept", "one")
        b.ask("execute")
        self.assertIn(".py", b.refused("send-results", "one", "--file", str(program)))
        a.ask("cancel", "one")
        until(lambda: b.ask("show", "one")["status"] == "CANCELLED", "the cancellation did not arrive")
        until(lambda: a.ask("show", "one")["status"] == "CANCELLED", "the cancellation was not confirmed")
        self.assertIn("CANCELLED", a.refused("wait", "one"))
