"""Nodes killed with SIGKILL at random moments under load, and an audit of what they had promised.

    python -m tests.integration.kills [--kills 500] [--seed 1] [--keep]

Two nodes run as processes of their own, on real disks and real sockets. This process is a peer of both: it submits to
them over the protocol, many requests at once, takes tasks from them and sends results, and does at their control APIs
what people do at the command line (`kills_driver`). Now and then it kills one of them, looks at the disk for everything
that was answered before (`kills_audit`), starts the node again, and repeats its requests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from attrs import define, field
from twisted.internet import task
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit import TaskSubmitFactory
from tasksubmit.cli.control import connect_control
from tests.docs.pages import ROOT
from tests.docs.running import free_ports
from tests.integration.kills_audit import (
    DOUBLED,
    DRIVER,
    FORBIDDEN,
    INCOMPLETE,
    MISSING,
    OTHER,
    TWICE,
    UNKEPT,
    Disk,
    Promises,
    compare,
    compare_end,
)
from tests.integration.kills_driver import POLL_SECONDS, Driver, Wire, Worker
from tests.processes import LONGEST_SECONDS, watch

A, B = "0:0000.0000.0001", "0:0000.0000.0002"

MIN_IN_FLIGHT = 64
"""Requests that a node has not answered when it is killed, at least."""

MOST_ANSWERS = 400
"""How many answers to the load a node may live for.

It listens before its store is open, so of those that live for none some die as they open it, others as they catch up.
"""

MOST_TURNS, MOST_IDLE_TURNS = 40, 400
"""Turns of the reactor after those answers; when there are none, nothing happens in most of them."""

ACCEPT_SECONDS = 5
"""How long tasks of the load live: nobody accepts them."""

STEP_SECONDS = REST_SECONDS = LONGEST_SECONDS

TASKS = 8
"""What is submitted at each control API for each kill."""


@define(eq=False)
class NodeProcess(ProcessProtocol):
    """One node, started as often as it was killed.

    :ivar is_clean: whether its last process ended as one does that was asked to.
    """

    reactor: Any
    directory: Path
    address: str
    port: int
    peers: dict[str, int]
    is_clean: bool = field(default=False, init=False)
    _ended: Deferred[None] | None = field(default=None, init=False)
    _read_bytes: int = field(default=0, init=False)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def start(self) -> None:
        """Start the process; its log goes on where the last one's ended."""
        options = {
            "--address": self.address,
            "--state-dir": str(self.state),
            "--listen": f"tcp:{self.port}:interface=127.0.0.1",
            "--accept-timeout": str(ACCEPT_SECONDS),
            "--answer-timeout": "86400",
            "--tick": "0.1",
            "--idle-timeout": "86400",
            "--peer-rate": "100000",
            "--peer-burst": "100000",
        }
        arguments = [word for option in options.items() for word in option]
        arguments += [word for peer, port in self.peers.items() for word in ("--peer", f"{peer}=tcp:127.0.0.1:{port}")]
        self._ended = Deferred()
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "log").open("ab") as log, open(os.devnull, "rb") as nothing:
            self.reactor.spawnProcess(
                self,
                sys.executable,
                [sys.executable, "-m", "tasksubmit", "run", *arguments],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                path=str(self.directory),
                childFDs={0: nothing.fileno(), 1: log.fileno(), 2: log.fileno()},
            )

    async def end(self, signal: str) -> None:
        """Send a signal, and wait until the process is gone."""
        ended = self._ended
        if ended is not None:
            with suppress(ProcessExitedAlready):
                assert self.transport is not None
                self.transport.signalProcess(signal)
            await ended

    @override
    def processEnded(self, reason: Failure) -> None:
        self.is_clean = bool(reason.check(ProcessDone))
        ended, self._ended = self._ended, None
        if ended is not None:
            ended.callback(None)

    def complaints(self) -> str:
        """What the log has since the last call from the first traceback on; empty if there is none."""
        with (self.directory / "log").open("rb") as log:
            log.seek(self._read_bytes)
            written = log.read()
        self._read_bytes += len(written)
        text = written.decode("utf-8", "replace")
        found = [place for word in ("Traceback", "Unhandled") if (place := text.find(word)) >= 0]
        return text[max(0, min(found) - 500) :][:4000] if found else ""

    def log_tail(self) -> str:
        """The end of the log, for people."""
        lines = (self.directory / "log").read_text("utf-8", "replace").splitlines()
        return "\n".join([f"--- the log of {self.address} ends:", *lines[-15:]])


# --- figures ----------------------------------------------------------------------------------------------------------


@define
class Figures:
    """What a run did and found."""

    kills: Counter[str] = field(factory=Counter)
    uncounted: int = 0
    in_flight: list[int] = field(factory=list)
    answered: list[int] = field(factory=list)
    found: Counter[str] = field(factory=Counter)
    faults: list[tuple[str, str]] = field(factory=list)
    seconds: float = 0.0

    def add_kill(self, name: str, in_flight: int, answered: int) -> None:
        """Count a kill, unless it came when most requests had just been answered; it is audited all the same."""
        if in_flight < MIN_IN_FLIGHT:
            self.uncounted += 1
            return
        self.kills[name] += 1
        self.in_flight.append(in_flight)
        self.answered.append(answered)

    def __str__(self) -> str:
        kinds = Counter(kind for kind, _ in self.faults)
        found = self.found
        lines = {
            "kills": f"{self.kills.total()}, of {' and '.join(f'{who} {n}' for who, n in sorted(self.kills.items()))}",
            f"kills with under {MIN_IN_FLIGHT} requests in flight": f"{self.uncounted}, not counted",
            "requests in flight at a kill": _spread(self.in_flight),
            "answers between a start and the kill": _spread(self.answered),
            "submissions acknowledged": f"{found['acknowledged']:,}; found {found['found']:,},"
            f" missing {kinds[MISSING]}, doubled {kinds[DOUBLED]}",
            "records that were answered to be further than NEW": f"{found['commands']:,}; fallen back {kinds[UNKEPT]}",
            "results acknowledged": f"{found['results']:,}; complete {found['complete']:,}",
            "scores booked": f"{found['bookings']:,}; twice {kinds[TWICE]}",
            "records in a forbidden status": f"{kinds[FORBIDDEN]}",
            "other faults": f"{kinds[OTHER] + kinds[INCOMPLETE]}",
            "duration": f"{self.seconds:.0f} s",
        }
        width = max(map(len, lines))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _spread(numbers: list[int]) -> str:
    return f"min {min(numbers)}, median {median(numbers):.0f}, max {max(numbers)}" if numbers else "none"


# --- the run ----------------------------------------------------------------------------------------------------------


@define(eq=False)
class Agent:
    """One of the two nodes, and all that is done to it."""

    name: str
    node: NodeProcess
    promises: Promises
    wire: Wire
    worker: Worker


@define(eq=False)
class Run:
    """Two nodes, killed again and again.

    :param tell: is called with a line now and then.
    """

    reactor: Any
    directory: Path
    random: Random
    tell: Callable[[str], object] = lambda line: None
    figures: Figures = field(factory=Figures)
    _agents: list[Agent] = field(factory=list, init=False)
    _work: list[Deferred[None]] = field(factory=list, init=False)

    async def run(self, kills: int) -> Figures:
        """Kill so often, or until something is not as promised; then let all come to rest, and look at everything."""
        watch()
        began = self.reactor.seconds()
        ports = dict(zip((A, B, DRIVER), free_ports(3), strict=True))
        self._agents = [self._agent("A", A, B, ports), self._agent("B", B, A, ports)]
        factory = TaskSubmitFactory(
            Driver({agent.node.address: agent.wire for agent in self._agents}), clock=self.reactor
        )
        endpoint = TCP4ServerEndpoint(self.reactor, ports[DRIVER], interface="127.0.0.1")
        listening: IListeningPort = await endpoint.listen(factory)
        try:
            await self._in_time(self._start())
            self._work = [Deferred.fromCoroutine(agent.worker.work()) for agent in self._agents]
            await self._in_time(self._meet())
            while self.figures.kills.total() < kills and not self.figures.faults:
                await self._in_time(self._kill_one())
                if self.figures.kills.total() % 10 == 0:
                    self.tell(f"{self.figures.kills.total()} kills, {self.reactor.seconds() - began:.0f} s")
            if not self.figures.faults:
                await self._come_to_rest()
        finally:
            await self.stop()
            await DeferredList(self._work, consumeErrors=True)
            await maybeDeferred(listening.stopListening)
            await factory.close_connections(0)
            self.figures.seconds = self.reactor.seconds() - began
        for agent in self._agents:
            self.figures.found += agent.promises.figures()
        return self.figures

    async def stop(self) -> None:
        """Let no process stay."""
        for agent in self._agents:
            agent.worker.is_over = True
            await agent.node.end("KILL")

    def _agent(self, name: str, address: str, other: str, ports: dict[str, int]) -> Agent:
        peers = {peer: ports[peer] for peer in (other, DRIVER)}
        node = NodeProcess(self.reactor, self.directory / name, address, ports[address], peers)
        promises = Promises(address, Disk(node.state), self.figures.faults)
        wire = Wire(self.reactor, ports[address], promises, self.random)
        control = connect_control(self.reactor, str(node.state / "control.sock"))
        return Agent(name, node, promises, wire, Worker(control, other, promises, TASKS))

    async def _in_time(self, step: Coroutine[Any, Any, None]) -> None:
        """Take a step; nodes that do not do their part, having died or hung, are at fault."""
        try:
            await Deferred.fromCoroutine(step).addTimeout(STEP_SECONDS, self.reactor)
        except TimeoutError:
            self.figures.faults.append((OTHER, f"nothing happened for {STEP_SECONDS} s"))

    async def _start(self) -> None:
        for agent in self._agents:
            agent.node.start()
        await gatherResults([agent.wire.connect() for agent in self._agents])

    async def _meet(self) -> None:
        """A node that does not know that a peer acknowledges sends it nothing twice, so a lost answer is for good."""
        while not all(agent.promises.disk.knows_peers() for agent in self._agents):
            await task.deferLater(self.reactor, POLL_SECONDS)

    async def _kill_one(self) -> None:
        """One node's death, what is on its disk then, and its next start."""
        victim, other = self.random.sample(self._agents, 2)
        wire, promises = victim.wire, victim.promises
        answers = self.random.choice((0, 1, *(self.random.randrange(MOST_ANSWERS) for _ in range(4))))
        for agent in self._agents:
            agent.worker.quota = TASKS
            agent.wire.load(True)
        await wire.when(lambda: wire.answers >= answers)
        for _ in range(self.random.randrange(MOST_TURNS if answers else MOST_IDLE_TURNS)):
            await task.deferLater(self.reactor, 0)
        await wire.when(lambda: wire.in_flight >= MIN_IN_FLIGHT)
        taken = [(line, line.taken) for line in wire.lines]
        answered = wire.answers
        ended = Deferred.fromCoroutine(victim.node.end("KILL"))
        for agent in self._agents:
            agent.wire.load(False)
        await ended
        await wire.when(lambda: not wire.lines)
        # Answers that were on their way when the node died have arrived by now: these requests were never answered.
        in_flight = sum(max(0, count - line.answered) for line, count in taken)
        self.figures.add_kill(victim.name, in_flight, answered)
        with promises.disk.opened():
            promises.check()
            compare(promises, other.promises)
        self._read_logs()
        victim.node.start()
        await wire.connect()

    def _read_logs(self) -> None:
        for agent in self._agents:
            if complaints := agent.node.complaints():
                agent.promises.fault(OTHER, f"the log has {complaints}")

    async def _come_to_rest(self) -> None:
        """Let both nodes finish what they have, stop them, and look at everything."""
        give_up_at = self.reactor.seconds() + REST_SECONDS
        while not self._is_quiet() and self.reactor.seconds() < give_up_at:
            await task.deferLater(self.reactor, 10 * POLL_SECONDS)
        for agent in self._agents:
            agent.worker.is_over = True
        await gatherResults(self._work)
        for agent in self._agents:
            await agent.node.end("TERM")
            if not agent.node.is_clean:
                agent.promises.fault(OTHER, "the node did not end cleanly")
        self._read_logs()
        for agent in self._agents:
            agent.promises.check_end(agent.wire.sent)
        compare_end(*(agent.promises for agent in self._agents))

    def _is_quiet(self) -> bool:
        is_asked = all(agent.wire.is_idle and not agent.worker.unconfirmed for agent in self._agents)
        return is_asked and all(agent.promises.disk.is_quiet() for agent in self._agents)

    def log_tails(self) -> str:
        """What both nodes logged last."""
        return "\n".join(agent.node.log_tail() for agent in self._agents)


async def _main(reactor: Any, options: argparse.Namespace, directory: Path) -> None:
    run = Run(reactor, directory, Random(options.seed), print)
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(run.stop()))
    figures = await run.run(options.kills)
    print(figures)
    if figures.faults:
        print(*(f"{kind}: {what}" for kind, what in figures.faults[:20]), run.log_tails(), sep="\n")
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the nodes' directories")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))
    try:
        task.react(lambda reactor: Deferred.fromCoroutine(_main(reactor, options, directory)))
    finally:
        if options.keep:
            print(f"kept: {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
