"""A node in a process of its own whose disk is full: the kernel refuses every write of the process beyond a size."""

from __future__ import annotations

import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from threading import Thread

from twisted.trial.unittest import SkipTest

from tasksubmit.wire.frames import FrameDecoder
from tasksubmit.wire.messages import ResponseStatus, SubmitRequest, SubmitResponse
from tests.integration.test_twistd import LOOPBACK, OWN, SECONDS, ProcessCase
from tests.processes import until

PEER = "0:0000.0000.0002"
FULL_BYTES = 8192
"""Less than the database and its log have from the start, so that nothing can be added to either."""


class FullDiskTests(ProcessCase):
    """One walk: the disk is full, then it is not, then the process is killed."""

    def run_node(self) -> subprocess.Popen[str]:
        """Start a node with one peer, and read what it prints for as long as it runs."""
        command = [sys.executable, "-m", "tasksubmit", "run", "--address", OWN, "--state-dir", str(self.state)]
        process = self.start(*command, "--listen", LOOPBACK, "--peer", f"{PEER}=tcp:127.0.0.1:1")
        lines = self.wait_until_up(process)
        [port] = re.findall(r"IPv4Address.*port=(\d+)", "".join(lines))
        self.port = int(port)
        reader = Thread(target=self.output(process).read)
        reader.start()
        self.addCleanup(reader.join)
        self.addCleanup(process.kill)
        return process

    def submit(self, task_id: str) -> SubmitResponse | None:
        """Submit a task as its peer; gives the answer, None if it is unknown what is on the disk."""
        message = SubmitRequest(task_id, "work " * 1000, PEER, OWN)
        with socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS) as connection:
            connection.sendall(message.to_frame().encode())
            decoder = FrameDecoder()
            try:
                while not (frames := decoder.feed(connection.recv(65536))):
                    pass
            except ConnectionResetError:
                return None
        return SubmitResponse.from_frame(frames[0])

    def is_accepted(self, task_id: str) -> bool:
        answer = self.submit(task_id)
        return answer is not None and answer.status == ResponseStatus.ACCEPTED

    def test_full_disk(self) -> None:
        """It refuses with ``storage`` while the disk is full, goes on when there is space, and keeps what it took."""
        if not hasattr(resource, "prlimit"):
            raise SkipTest("limits can be set from outside on Linux alone")
        process = self.run_node()
        before = [f"before-{n}" for n in range(5)]
        for task_id in before:
            self.assertTrue(self.is_accepted(task_id))

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
        refused = [f"refused-{n}" for n in range(5)]
        for task_id in refused:
            answer = self.submit(task_id)
            if answer is not None:
                self.assertEqual((answer.status, answer.code), (ResponseStatus.REJECTED, "storage"))
        self.assertTrue(self.is_accepted(before[0]), "what was taken before is not known any more")

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for task_id in [*refused, "after"]:
            until(lambda task_id=task_id: self.is_accepted(task_id), f"{task_id} is still refused")

        process.send_signal(signal.SIGKILL)
        process.wait()
        with closing(sqlite3.connect(self.state / "tasks.db")) as connection:
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            kept = {task_id for (task_id,) in connection.execute("SELECT task_id FROM tasks")}
        self.assertEqual(kept, {*before, *refused, "after"})
