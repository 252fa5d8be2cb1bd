"""Real nodes whose wall clock is set while their tasks wait: nothing fires early, nothing twice, and nothing never."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.docs.pages import ROOT
from tests.docs.running import free_ports
from tests.integration.test_twistd import UnixConnection
from tests.processes import LONGEST_SECONDS, start, until
from tests.tiers import tier

HOUR, DAY = 3600, 86400
ACCEPT_SECONDS = 10

_CHILD = """
import sys, time

offset_file, real = sys.argv.pop(1), time.time

def seconds():
    with open(offset_file) as file:
        return real() + float(file.read())

time.time = seconds  # before Twisted takes it

from tasksubmit.cli import main
main()
"""


class JumpingNode:
    """A node in a process of its own, whose wall clock can be set."""

    def __init__(self, directory: Path, number: int, port: int) -> None:
        self.address = f"0:0000.0000.000{number}"
        self.port = port
        self._directory = directory / str(number)
        self._directory.mkdir()
        self._offset_file = self._directory / "offset"
        self._offset = 0
        self.jump(0)
        self._process: subprocess.Popen[str] | None = None

    def jump(self, seconds: int) -> None:
        """Set its clock, at once."""
        self._offset += seconds
        new = self._offset_file.with_name("new")
        new.write_text(str(self._offset))
        new.replace(self._offset_file)

    def start(self, test: SynchronousTestCase, peers: dict[str, int]) -> None:
        """Start the process."""
        options = {
            "--address": self.address,
            "--state-dir": str(self._directory / "state"),
            "--listen": f"tcp:{self.port}:interface=127.0.0.1",
            "--accept-timeout": str(ACCEPT_SECONDS),
            "--tick": "0.2",
        }
        arguments = [word for option in options.items() for word in option]
        for address, port in peers.items():
            arguments += ["--peer", f"{address}=tcp:127.0.0.1:{port}"]
        with (self._directory / "log").open("wb") as log:
            self._process = start(
                test,
                [sys.executable, "-c", _CHILD, str(self._offset_file), "run", *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """End the process, which must not have gone down before."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            assert self._process.wait(timeout=LONGEST_SECONDS) == 0, self.log()

    def log(self) -> str:
        """What it has logged."""
        return (self._directory / "log").read_text()

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            self.ask("GET", "/node")
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Ask its control API, which has to answer well."""
        connection = UnixConnection(self._directory / "state" / "control.sock")
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, f"/v1{path}", json.dumps(body) if method == "POST" else None, headers)
            answer = json.load(connection.getresponse())
        finally:
            connection.close()
        assert answer["status"] == "ok", answer
        return answer["data"]

    def status(self, task_id: str) -> str:
        """Where a task stands."""
        return str(self.ask("GET", f"/tasks/{task_id}")["status"])


@tier("full")
class ClockJumpTests(SynchronousTestCase):
    """One submitter, whose clock is set back and forward, and two receivers, of which each has one of that."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        *ports, port_of_nobody, port_of_nobody_else = free_ports(5)
        self.away = {"0:0000.0000.0008": port_of_nobody, "0:0000.0000.0009": port_of_nobody_else}
        nodes = [JumpingNode(directory, number, port) for number, port in enumerate(ports, 1)]
        self.submitter, *self.receivers = nodes
        self.back, self.forward = self.receivers
        peers = {node.address: node.port for node in nodes} | self.away
        for node in nodes:
            node.start(self, peers)
            self.addCleanup(node.stop)
        for node in nodes:
            until(node.is_up, "a node did not start")

    def name(self, receiver: JumpingNode, what: str) -> str:
        """The id of a task for one of the receivers."""
        return f"{what}-{receiver.port}"

    def submit(self, receiver: JumpingNode, what: str, *steps: str) -> str:
        """Submit a task, and take it some steps further; gives its id."""
        task_id = self.name(receiver, what)
        self.submitter.ask("POST", "/tasks", to=receiver.address, description="work", task_id=task_id)
        self.submitter.ask("GET", f"/tasks/{task_id}/wait?for=answered&timeout={LONGEST_SECONDS:.0f}")
        for step in steps:
            receiver.ask("POST", f"/tasks/{task_id}/{step}")
        return task_id

    def jump(self) -> None:
        """Set the clock of each receiver its way, and the submitter's back."""
        self.back.jump(-HOUR)
        self.forward.jump(DAY)
        self.submitter.jump(-HOUR)

    def test_jumps(self) -> None:
        """Short deadlines pass in their time and once, long ones not at all, and deliveries and connections go on."""
        began = time.monotonic()
        for address in self.away:
            self.submitter.ask("POST", "/tasks", to=address, description="work")
        for receiver in self.receivers:
            self.submit(receiver, "executing", "accept", "execute")
            self.submit(receiver, "head", "accept")
            self.submit(receiver, "behind", "accept")
        begun = time.monotonic()
        new = {self.submit(receiver, "new"): receiver for receiver in self.receivers}
        submitted = time.monotonic()
        self.jump()
        self.see_delivery("0:0000.0000.0008")
        self.submitter.jump(HOUR + DAY)
        self.see_delivery("0:0000.0000.0009")

        ended = self.see_end(new)
        for task_id, seconds in ended.items():
            self.assertGreater(seconds, begun + ACCEPT_SECONDS - 0.1, task_id)
            self.assertLess(seconds, submitted + ACCEPT_SECONDS + LONGEST_SECONDS, task_id)
        for receiver in self.receivers:
            self.assertEqual(receiver.status(self.name(receiver, "executing")), "EXECUTING")
            queue = [task["task_id"] for task in receiver.ask("GET", "/queue")]
            self.assertEqual(queue, [self.name(receiver, "head"), self.name(receiver, "behind")])
            self.finish(receiver, began)
        self.see_stories(new)
        for node in (self.submitter, *self.receivers):
            self.assertIn("the clock was set by", node.log())
            self.assertNotIn("Traceback", node.log())

    def see_delivery(self, address: str) -> None:
        """What waited for its next attempt is tried again within its longest delay so far."""
        with socket.create_server(("127.0.0.1", self.away[address])) as listening:
            listening.settimeout(LONGEST_SECONDS)
            try:
                listening.accept()[0].close()
            except TimeoutError:
                self.fail(f"no attempt to deliver to {address} was made after the jump: {self.submitter.log()}")

    def see_end(self, new: dict[str, JumpingNode]) -> dict[str, float]:
        """When each task was cancelled because nobody accepted it, as both sides have it."""
        ended: dict[str, float] = {}

        def look() -> bool:
            for task_id, receiver in new.items():
                if task_id not in ended and receiver.status(task_id) != "NEW":
                    ended[task_id] = time.monotonic()
            return len(ended) == len(new)

        until(look, "the deadline of a new task does not pass")
        for task_id in new:
            until(lambda task_id=task_id: self.submitter.status(task_id) == "CANCELLED", "nobody told the submitter")
        return ended

    def finish(self, receiver: JumpingNode, began: float) -> None:
        """What runs can be finished, what waits begun, and what is new taken."""
        done, head = self.name(receiver, "executing"), self.name(receiver, "head")
        receiver.ask("POST", f"/tasks/{done}/results", text="done")
        until(lambda: self.submitter.status(done) == "SUCCEEDED", "the results did not arrive")
        task = self.submitter.ask("GET", f"/tasks/{done}")
        self.assertFalse(task["is_time_disputed"])
        self.assertLess(task["time_cpu_ms"], (time.monotonic() - began) * 1000 + 1)
        self.assertEqual(receiver.ask("POST", "/execute")["task_id"], head)
        self.submit(receiver, "later", "accept")

    def see_stories(self, new: dict[str, JumpingNode]) -> None:
        """Each deadline has passed once, nobody lost a point by it, and no receiver was thought to be silent."""
        for task_id, receiver in new.items():
            events = receiver.ask("GET", f"/tasks/{task_id}/story")["events"]
            passed = [event for event in events if event["by"] == "time"]
            self.assertEqual([(event["name"], event["times"]) for event in passed], [("time_out_accept", 1)])
            story = self.submitter.ask("GET", f"/tasks/{self.name(receiver, 'executing')}/story")["events"]
            self.assertNotIn("ask_again", [event["name"] for event in story])
            scores = {score["address"]: score["score"] for score in receiver.ask("GET", "/score")}
            self.assertGreaterEqual(scores[receiver.address], 0)
