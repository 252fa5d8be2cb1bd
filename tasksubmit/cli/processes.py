"""Nodes as processes of their own, for the demonstration."""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.cli.control import CommandFailed, Control, NodeUnreachable, connect_control
from tasksubmit.state_dir import CONTROL_SOCKET

START_SECONDS = 30
STOP_SECONDS = 10
_POLL_SECONDS = 0.1
_LOG_TAIL_LINES = 20

# The child finds the same packages as this process, however that was started.
_TWISTD = "import sys; sys.path[:] = {path!r}; from twisted.scripts.twistd import run; run()"


def free_ports(count: int) -> list[int]:
    """TCP ports of the loopback interface that nobody listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@define(eq=False)
class NodeProcess(ProcessProtocol):
    """One node, run by twistd; whoever starts it has to `stop` it.

    :ivar directory: is made, and holds the log and the node's state.
    :ivar port: of the loopback interface, where it listens for peers.
    """

    reactor: Any
    directory: Path
    address: str
    port: int
    _is_started: bool = field(default=False, init=False)
    _output: bytes = field(default=b"", init=False)
    _exit: Failure | None = field(default=None, init=False)
    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    @property
    def state_dir(self) -> Path:
        """The node's state directory."""
        return self.directory / "state"

    def start(self, peer: NodeProcess) -> None:
        """Start the process, with one other node as its peer."""
        path = [os.path.abspath(entry) for entry in sys.path]
        twistd = ["--nodaemon", "--pidfile=", f"--logfile={self.directory / 'log'}"]
        options = {
            "--address": self.address,
            "--listen": f"tcp:{self.port}:interface=127.0.0.1",
            "--state-dir": str(self.state_dir),
            "--peer": f"{peer.address}=tcp:127.0.0.1:{peer.port}",
        }
        arguments = [argument for option in options.items() for argument in option]
        command = [sys.executable, "-c", _TWISTD.format(path=path), *twistd, "tasksubmit", *arguments]
        self.directory.mkdir()
        self.reactor.spawnProcess(self, sys.executable, command, env=dict(os.environ), path=str(self.directory))
        self._is_started = True

    async def until_it_answers(self) -> Control:
        """The node's control API, as soon as it answers.

        :raises CommandFailed: with the end of its log, when it does not come up.
        """
        control = connect_control(self.reactor, str(self.state_dir / CONTROL_SOCKET))
        give_up_at = self.reactor.seconds() + START_SECONDS
        while self._exit is None and self.reactor.seconds() < give_up_at:
            try:
                await control.node()
            except NodeUnreachable:
                await deferLater(self.reactor, _POLL_SECONDS)
            else:
                return control
        raise self._failed("did not start")

    async def stop(self) -> None:
        """End the process, by force if it takes too long.

        :raises CommandFailed: with the end of its log, when it did not end cleanly.
        """
        if not self._is_started:
            return
        self._signal("TERM")
        try:
            await self._ended().addTimeout(STOP_SECONDS, self.reactor)
        except TimeoutError:
            self._signal("KILL")
            await self._ended()
        if not self._is_clean():
            raise self._failed("did not end cleanly")

    def _is_clean(self) -> bool:
        """Whether it ended as asked: twistd, when it is done, ends by the signal that it got."""
        reason = self._exit.value if self._exit is not None else None
        if isinstance(reason, ProcessTerminated):
            return bool(reason.signal == signal.SIGTERM)
        return isinstance(reason, ProcessDone)

    def _failed(self, how: str) -> CommandFailed:
        log = self.directory / "log"
        written = (log.read_bytes() if log.exists() else b"") + self._output
        tail = written.decode("utf-8", "replace").splitlines()[-_LOG_TAIL_LINES:]
        return CommandFailed("demo", f"the node {self.address} {how}; its log ends: {' | '.join(tail)}")

    def _ended(self) -> Deferred[None]:
        if self._exit is not None:
            return succeed(None)
        ended: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(ended)
        return ended

    def _signal(self, name: str) -> None:
        if self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess(name)

    # --- IProcessProtocol ---------------------------------------------------------------------------------------------

    @override
    def outReceived(self, data: bytes) -> None:
        self._output += data

    @override
    def errReceived(self, data: bytes) -> None:
        self._output += data

    @override
    def processEnded(self, reason: Failure) -> None:
        self._exit = reason
        waiting, self._waiting = self._waiting, []
        for ended in waiting:
            ended.callback(None)
