"""A node on the event loop of another program, with commands for tasks; nobody handles SIGCHLD for Twisted there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.docs.running import free_ports
from tests.integration.test_two_agents import ENVIRONMENT
from tests.processes import LONGEST_SECONDS, run

PROGRAM = """
import asyncio, signal, sys, time
from pathlib import Path

async def main():
    from twisted.internet import asyncioreactor
    loop = asyncio.get_running_loop()
    asyncioreactor.install(loop)
    from twisted.internet import reactor
    from twisted.internet.endpoints import clientFromString, serverFromString
    from tasksubmit import AcceptAll, Address, Node, ProcessExecutor, SQLiteTaskStore, StaticPeers
    {prelude}
    own = Address.parse("0:0000.0000.0001")
    node = Node(
        own,
        SQLiteTaskStore(Path(sys.argv[1]), reactor),
        StaticPeers({{own: clientFromString(reactor, "tcp:127.0.0.1:" + sys.argv[2])}}),
        clock=reactor,
        listen={{"tasks": serverFromString(reactor, "tcp:" + sys.argv[2] + ":interface=127.0.0.1")}},
        acceptance=AcceptAll(),
        executor=ProcessExecutor(reactor=reactor, command=("/bin/sh", "-c", sys.argv[3]), grace_seconds=0.2),
    )
    node.startService()
    for _ in range(3):
        task = await node.submit(own, "one two three").asFuture(loop)
        result = await asyncio.wait_for(task.result().asFuture(loop), {LONGEST_SECONDS})
        print(result.result_text.strip())
    await node.stopService().asFuture(loop)
    reactor.getThreadPool().stop()
    print("stopped")

asyncio.run(main())
"""

START = "reactor.startRunning(installSignalHandlers=False)"


class ForeignLoopTests(SynchronousTestCase):
    """A program that runs asyncio itself."""

    @override
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)

    def run_program(self, prelude: str, command: str = "wc -w") -> subprocess.CompletedProcess[str]:
        """Run the program to its end."""
        program = PROGRAM.format(prelude=prelude, LONGEST_SECONDS=LONGEST_SECONDS / 2)
        arguments = [sys.executable, "-c", program, str(self.directory / "state"), str(*free_ports(1)), command]
        return run(arguments, env=ENVIRONMENT, capture_output=True)

    def test_commands_end(self) -> None:
        """Commands do tasks, and their ends are noticed."""
        done = self.run_program(START)
        self.assertEqual((done.returncode, done.stdout.split(), done.stderr), (0, [*"333", "stopped"], ""))

    def test_output_outlives_the_command(self) -> None:
        """The end of a command is noticed although a process that has left its group holds its output open."""
        pids = self.directory / "pids"
        done = self.run_program(START, f"wc -w; setsid sleep 600 & echo $! >> {pids}")
        for pid in pids.read_text().split():
            with contextlib.suppress(ProcessLookupError):  # on Linux the supervisor ends them, too
                os.kill(int(pid), signal.SIGKILL)
        self.assertEqual((done.returncode, done.stdout.split(), done.stderr), (0, [*"333", "stopped"], ""))

    def test_children_are_reaped_by_nobody(self) -> None:
        """The end of a command is noticed, and its exit code known, in a program that ignores SIGCHLD."""
        done = self.run_program(f"{START}; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
        self.assertEqual((done.returncode, done.stdout.split(), done.stderr), (0, [*"333", "stopped"], ""))

    def test_reactor_was_not_started(self) -> None:
        """A node refuses to start on a reactor that was not started, and says what to do."""
        done = self.run_program("pass")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("ReactorNotStarted: the reactor was not started", done.stderr.splitlines()[-1])
        self.assertIn("call reactor.startRunning(installSignalHandlers=False)", done.stderr)
        self.assertFalse((self.directory / "state").exists())
