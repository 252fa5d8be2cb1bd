"""Unix sockets that a node leaves when it is killed, and the locks beside them."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import UNIXServerEndpoint, serverFromString
from twisted.internet.protocol import Factory
from twisted.python import lockfile
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit.errors import ListenError
from tasksubmit.node.listener import Listener
from tests.docs.running import free_ports
from tests.integration.test_two_agents import A, Agent, B, until


class ListenerTests(TestCase):
    """A listener on a path where something is left."""

    @override
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")  # trial's own may be too deep for a socket
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name).resolve() / "a.sock"
        self.lock = Path(f"{self.path}.lock")

    def leave_socket(self) -> None:
        """Leave a socket on which nobody listens."""
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.path))

    def listeners(self) -> list[Listener]:
        """One for each way to say where to listen."""
        texts = (f"unix:{self.path}", f"unix:{self.path}:lockfile=0", f"unix:{self.path}:lockfile=1")
        endpoints = [
            *(serverFromString(reactor, text) for text in texts),
            *(UNIXServerEndpoint(reactor, str(self.path), wantPID=want) for want in (False, True)),
        ]
        return [Listener("here", endpoint, Factory()) for endpoint in endpoints]

    async def assert_listens(self, listener: Listener) -> None:
        """It can be started, connected to and stopped, and leaves nothing."""
        listener.startService()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path))
        await listener.stopService()
        self.assertFalse(os.path.lexists(self.path))
        self.assertFalse(os.path.lexists(self.lock))

    async def test_left_by_the_dead(self) -> None:
        """A socket and a lock are removed whose process is gone, is this one, or is another's by now."""
        for listener in self.listeners():
            for pid in (1, os.getpid(), 2**22 - 3):
                self.leave_socket()
                self.lock.symlink_to(str(pid))
                await self.assert_listens(listener)
                self.lock.unlink(missing_ok=True)

    async def test_socket_alone(self) -> None:
        """A socket without a lock is removed."""
        for listener in self.listeners():
            self.leave_socket()
            await self.assert_listens(listener)

    async def test_lock_alone(self) -> None:
        """A lock without a socket is removed."""
        for listener in self.listeners()[2::2]:
            self.lock.symlink_to("1")
            await self.assert_listens(listener)

    async def test_process_of_another_user(self) -> None:
        """It does not matter that the process which has the number now belongs to another user."""

        def refuse(pid: int, number: int) -> None:
            raise PermissionError(1, "Operation not permitted")

        self.patch(lockfile, "kill", refuse)
        for listener in self.listeners():
            self.leave_socket()
            self.lock.symlink_to("4711")
            await self.assert_listens(listener)
            self.lock.unlink(missing_ok=True)

    def test_in_use(self) -> None:
        """A socket on which a process listens is left alone, be that too busy to take a connection."""
        with socket.socket(socket.AF_UNIX) as living:
            living.bind(str(self.path))
            living.listen(0)
            for listener in self.listeners():
                error = self.assertRaises(ListenError, listener.startService)
                self.assertIn("cannot listen on here", str(error))
                self.assertTrue(self.path.is_socket())

    def test_no_socket(self) -> None:
        """A file that is no socket is left alone."""
        self.path.write_text("precious")
        for listener in self.listeners():
            self.assertRaises(ListenError, listener.startService)
            self.assertEqual(self.path.read_text(), "precious")


class KilledTests(SynchronousTestCase):
    """A node that is killed."""

    def test_starts_again(self) -> None:
        """A node that is killed starts again, although its number belongs to another process: by any way to listen."""
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        base = Path(directory.name).resolve()
        ports = free_ports(2)
        agent = Agent(base / "a", A, ports[0], B, ports[1])
        self.addCleanup(agent.stop)
        peers, control = base / "peers.sock", base / "control.sock"
        locked = ("--listen", f"unix:{peers}:lockfile=1", "--control", f"unix:{control}:lockfile=1")
        for options, where in ((("--listen", f"unix:{peers}"), ()), (locked, ("--control", str(control)))):
            agent.start(*options)
            pidfile = agent.directory / "pid"
            pid = int(pidfile.read_text())
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the killed node is still there")
            pidfile.unlink()
            for lock in base.rglob("*.sock.lock"):
                lock.unlink()
                lock.symlink_to(str(os.getpid()))
            agent.start(*options)
            self.assertEqual(agent.run(*where, "status").returncode, 0)
            agent.stop()
