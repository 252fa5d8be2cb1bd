"""The four nodes: how each is set up, its process, and where it is reached."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.internet.task import deferLater

from tasksubmit.cli.control import AnswerLost, CommandFailed, Control, NodeUnreachable, connect_control
from tasksubmit.tls.keeping import change_trust, make_identity, own_pins
from tasksubmit.wire.address import Address
from tests.chaos.journal import Journal
from tests.chaos.page import Page
from tests.chaos.proxy import Link, Place, own_host, unused_ports
from tests.docs.pages import ROOT

COUNT = 4
SCRIPT = Path(__file__).with_name("work.sh")
MARK = "TASKSUBMIT_CHAOS_RUN"
"""The variable in the environment of every process of a run; its value is the run's own."""

ACCEPT_SECONDS, ANSWER_SECONDS, LEASE_SECONDS, QUEUE_HEAD_SECONDS, SILENCE_SECONDS = 4, 5, 6, 30, 4
GRACE_SECONDS = 5
START_SECONDS = 30.0
_POLL_SECONDS = 0.1


@frozen
class Config:
    """How a node is set up.

    :ivar accepts: ``all``, or ``manual``.
    :ivar executor: as ``--executor`` takes it.
    :ivar limits: options that refuse submissions for a while.
    """

    accepts: str
    executor: str
    concurrency: int
    has_keys: bool
    limits: tuple[str, ...] = ()

    @property
    def is_manual(self) -> bool:
        """True if people execute its tasks."""
        return self.executor == "manual"

    def __str__(self) -> str:
        keys = ", keys" if self.has_keys else ""
        limits = "".join(f", {word}" for word in self.limits)
        return f"accepts {self.accepts}, {self.concurrency} x {self.executor.partition(':')[0]}{keys}{limits}"


_LIMITS: tuple[tuple[str, ...], ...] = ((), (), ("--peer-rate=1", "--peer-burst=1"))
"""Only the rate: a refusal for another limit asks the submitter to wait for a minute."""


def draw_configs(random: Random) -> list[Config]:
    """Some setup of four nodes: at least two run commands, at least one is worked by people, two to four have keys."""
    attempts = [random.choice((1, 2, 3)) for _ in range(COUNT)]
    process = [f"process:{SCRIPT}:attempts={count}:grace={GRACE_SECONDS}:timeout=20" for count in attempts]
    python = f"python:tests.chaos.work:work:thread=yes:attempts={random.choice((1, 2))}"
    executors = [process[0], process[1], "manual", random.choice((process[2], "manual", python))]
    accepts = ["all", random.choice(("all", "manual")), "manual", random.choice(("all", "manual"))]
    keys = [True] * random.choice((2, 2, 4))
    keys += [False] * (COUNT - len(keys))
    random.shuffle(keys)
    limits = [random.choice(_LIMITS) for _ in range(COUNT)]
    found = [
        Config(accepts[number], executors[number], random.choice((1, 2, 3)), keys[number], limits[number])
        for number in range(COUNT)
    ]
    random.shuffle(found)
    return found


@define(eq=False)
class ChaosNode:
    """One node.

    :ivar number: 1 to 4.
    :ivar host: the loopback address that it listens on.
    :ivar links: to each peer, by its address.
    :ivar is_wanted: whether its process is to run; `keep_running` starts it again then, as systemd does.
    :ivar deaths: how its processes ended that nobody had ended.
    """

    reactor: Any
    directory: Path
    number: int
    config: Config
    host: str
    port: int
    mark: str
    links: dict[str, Link] = field(factory=dict)
    is_wanted: bool = False
    is_paused: bool = False
    deaths: list[str] = field(factory=list)
    page: Page = field(init=False)
    control: Control = field(init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _started_at: float = field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o700)
        self.locks.mkdir()
        self.page = Page(self.directory / "page")
        self.control = connect_control(self.reactor, str(self.state / "control.sock"))

    @property
    def address(self) -> str:
        """Its address."""
        return f"0:0000.0000.000{self.number}"

    @property
    def state(self) -> Path:
        """Its state directory, on the disk that fails."""
        return self.directory / "state"

    @property
    def locks(self) -> Path:
        """Where its executions lock their tasks."""
        return self.directory / "locks"

    @property
    def log(self) -> Path:
        """Its log, on no disk that fails."""
        return self.directory / "log"

    @property
    def journal(self) -> Journal:
        """What the executions of its tasks note."""
        return Journal(self.directory / "journal", self.locks)

    @property
    def place(self) -> Place:
        """Where peers of its own kind reach it."""
        return Place(self.host, self.port)

    @property
    def plain_place(self) -> Place:
        """Where peers reach it without TLS."""
        return Place(path=self.directory / "peers.sock") if self.config.has_keys else self.place

    def command(self) -> list[str]:
        """What is run."""
        options = {
            "--address": self.address,
            "--state-dir": str(self.state),
            "--accept": self.config.accepts,
            "--executor": self.config.executor,
            "--concurrency": str(self.config.concurrency),
            "--accept-timeout": str(ACCEPT_SECONDS),
            "--answer-timeout": str(ANSWER_SECONDS),
            "--silence-timeout": str(SILENCE_SECONDS),
            "--queue-head-timeout": str(QUEUE_HEAD_SECONDS),
            "--lease": str(LEASE_SECONDS),
            "--max-attempts": "2",
            "--tick": "0.2",
        }
        arguments = [word for option in options.items() for word in option]
        arguments += self.config.limits
        listening = {self.place.server_string(), self.plain_place.server_string()}
        arguments += [word for where in sorted(listening) for word in ("--listen", where)]
        for peer, link in self.links.items():
            arguments += ["--peer", f"{peer}={link.near.client_string()}"]
        program = [sys.executable, "-m", "tests.chaos.child", str(self.directory / "page"), str(self.state)]
        return [*program, "--nodaemon", "--pidfile=", f"--rundir={self.directory}", "tasksubmit", *arguments]

    # --- its process --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the process; its log goes on where the last one's ended."""
        self.is_wanted = True
        self._started_at = self.reactor.seconds()
        environment = {
            **os.environ,
            MARK: self.mark,
            "PYTHONPATH": str(ROOT),
            "CHAOS_JOURNAL": str(self.journal.path),
            "CHAOS_LOCKS": str(self.locks),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """True while there is a process."""
        return self.process is not None and self.process.poll() is None

    def keep_running(self, may_die: bool) -> None:
        """Start the process again if it ended though it is wanted.

        :param may_die: whether its disk is such that a start may fail.
        """
        if self.is_wanted and not self.is_running and self.reactor.seconds() > self._started_at + 1:
            assert self.process is not None
            if not may_die:
                self.deaths.append(f"{self.address} ended by itself with {self.process.returncode}")
            self.start()

    def send(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.is_running:
            assert self.process is not None
            self.process.send_signal(number)
            self.is_paused = number == signal.SIGSTOP

    async def stop(self, number: int = signal.SIGTERM, seconds: float = 30.0) -> bool:
        """End the process; gives whether it ended in time by itself."""
        self.is_wanted = False
        if self.is_paused:
            self.send(signal.SIGCONT)
        self.send(number)
        until = self.reactor.seconds() + seconds
        while self.is_running:
            if self.reactor.seconds() > until:
                self.send(signal.SIGKILL)
                assert self.process is not None
                self.process.wait()
                return False
            await deferLater(self.reactor, _POLL_SECONDS / 2)
        return True

    async def until_up(self) -> bool:
        """Wait until it answers; gives whether it did in time."""
        until = self.reactor.seconds() + START_SECONDS
        while self.reactor.seconds() < until:
            with suppress(NodeUnreachable, AnswerLost, CommandFailed):
                await self.control.node()
                return True
            await deferLater(self.reactor, _POLL_SECONDS)
        return False


def make_nodes(reactor: Any, directory: Path, random: Random, mark: str) -> dict[str, ChaosNode]:
    """Four nodes, by their addresses, that reach each other through links; none is started yet."""
    host = own_host()
    ports = unused_ports(COUNT + COUNT * (COUNT - 1), random.randrange(10_000), host)
    nodes = [
        ChaosNode(reactor, directory / str(number), number, config, host, ports.pop(), mark)
        for number, config in enumerate(draw_configs(random), 1)
    ]
    for node in nodes:
        if node.config.has_keys:
            now = datetime.now(timezone.utc) - timedelta(days=30)  # clocks are set back
            make_identity(node.state, Address.parse(node.address), now, timedelta(days=365))
    for node in nodes:
        for peer in nodes:
            if peer is not node:
                node.links[peer.address] = _link(reactor, node, peer, ports.pop())
    return {node.address: node for node in nodes}


def _link(reactor: Any, node: ChaosNode, peer: ChaosNode, port: int) -> Link:
    if node.config.has_keys and peer.config.has_keys:
        _, [pin] = own_pins(peer.state)
        change_trust(node.state, lambda trust: trust.with_proof(peer.address, pin))
        return Link(reactor, Place(node.host, port), peer.place)
    # A node with keys puts no TLS around a Unix socket.
    near = Place(path=node.directory / f"to{peer.number}.sock") if node.config.has_keys else Place(node.host, port)
    return Link(reactor, near, peer.plain_place)


def links_between(nodes: Mapping[str, ChaosNode], a: str, b: str) -> tuple[Link, Link]:
    """What one of two nodes dials to reach the other, and the reverse."""
    return nodes[a].links[b], nodes[b].links[a]
