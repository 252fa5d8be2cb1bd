"""The faults: drawn from the seed, two at the same time, each with an end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tasksubmit.cli.control import CommandFailed
from tests.chaos import disks
from tests.chaos.journal import read_journal
from tests.chaos.nodes import ChaosNode, links_between
from tests.chaos.page import DiskMode
from tests.chaos.proxy import Manner

KINDS = {
    "process": ("kill", "kill at work", "kill at work", "kill at work", "pause", "drain", "terminate", "disable"),
    "network": tuple(Manner),
    "disk": (*(mode for mode in DiskMode if mode is not DiskMode.WELL), "remount"),
    "clock": (-3600.0, 3600.0, 2 * 86400.0, -2 * 86400.0, 7.0, -7.0),
}
"""What may happen, by class; two faults at the same time are of two classes, or twice of the same."""

_SHORTEST_SECONDS = 0.3
_DRAIN_SECONDS = 2


@frozen
class Fault:
    """One fault, to be.

    :ivar after: seconds from the start of its pair.
    :ivar target: the address of a node.
    :ivar peer: the other node, of what happens to the network.
    """

    kind: str
    what: Any
    target: str
    peer: str
    after: float
    seconds: float
    is_one_way: bool
    stays_silent: bool

    def __str__(self) -> str:
        what = getattr(self.what, "name", self.what)
        if self.kind != "network":
            return f"{self.kind} of {self.target}: {what}"
        ways = "to" if self.is_one_way else "and"
        return f"{self.kind} of {self.target} {ways} {self.peer}: {what}" + ", silent afterwards" * self.stays_silent


def draw_pair(random: Random, addresses: list[str], workers: list[str], longest: float, silence: float) -> list[Fault]:
    """Two faults at the same time, half of them at the same node.

    :param workers: those of the addresses whose nodes execute something by themselves.
    :param silence: how often connections stay open and silent after they were cut.
    """
    same_target = random.choice(addresses) if random.random() < 0.5 else None
    found = []
    for kind in random.choices(list(KINDS), weights=(5, 3, 3, 1), k=2):
        target = same_target or random.choice(addresses)
        what = random.choice(KINDS[kind])
        if what == "kill at work" and target not in workers:
            target = random.choice(workers)
        # A node that is started again immediately finds the commands of its last process cleaning up.
        is_short = what == "kill at work" or (what == "kill" and random.random() < 0.3)
        found.append(
            Fault(
                kind=kind,
                what=what,
                target=target,
                peer=random.choice([address for address in addresses if address != target]),
                after=random.uniform(0, 0.3),
                seconds=0.0 if is_short else random.uniform(_SHORTEST_SECONDS, longest),
                is_one_way=kind == "network" and random.random() < 0.3,
                stays_silent=kind == "network" and random.random() < silence,
            )
        )
    return found


@define(eq=False)
class Faults:
    """Makes faults come and go.

    :ivar tell: is called with a line for each begin and end.
    :ivar hurt: how many faults each node's disk has now.
    :ivar disturbed: every node that ever had a fault, or a link of which had one.
    :ivar had_bad_disk: every node whose disk ever had a fault.
    """

    reactor: Any
    nodes: Mapping[str, ChaosNode]
    has_disks: bool
    tell: Callable[[str], object]
    hurt: dict[str, int] = field(factory=dict)
    disturbed: set[str] = field(factory=set)
    had_bad_disk: set[str] = field(factory=set)
    _is_killed: set[str] = field(factory=set)
    _is_bad: set[str] = field(factory=set)

    async def pair(self, faults: list[Fault]) -> None:
        """Let these come and go; returns when all have ended."""
        await gatherResults([Deferred.fromCoroutine(self._one(fault)) for fault in faults], consumeErrors=True)

    def may_die(self, address: str) -> bool:
        """True if a start of the node may fail: its disk is at fault, or was a moment ago."""
        return bool(self.hurt.get(address))

    async def _one(self, fault: Fault) -> None:
        await self._sleep(fault.after)
        self.tell(f"begins: {fault}")
        node = self.nodes[fault.target]
        self.disturbed |= {fault.target, fault.peer} if fault.kind == "network" else {fault.target}
        if fault.kind == "process":
            await self._process(node, fault)
        elif fault.kind == "network":
            await self._network(fault)
        elif fault.kind == "disk":
            self.hurt[node.address] = self.hurt.get(node.address, 0) + 1
            self.had_bad_disk.add(node.address)
            if node.address not in self._is_bad:  # by the other fault
                self._is_bad.add(node.address)
                await (self._remount(node, fault) if fault.what == "remount" else self._disk(node, fault))
                self._is_bad.discard(node.address)
            self.reactor.callLater(2, self._recovered, node.address)
        else:
            node.page.clock_offset += fault.what
            await self._sleep(fault.seconds)
            node.page.clock_offset -= fault.what
        self.tell(f"ends: {fault}")

    def _recovered(self, address: str) -> None:
        self.hurt[address] -= 1

    async def _process(self, node: ChaosNode, fault: Fault) -> None:
        if fault.what == "pause":
            node.send(signal.SIGSTOP)
            await self._sleep(fault.seconds)
            node.send(signal.SIGCONT)
            return
        if fault.what == "disable":
            await self._enable(node, False)
            await self._sleep(fault.seconds)
            await self._enable(node, True)
            return
        if node.address in self._is_killed:
            return  # by the other fault
        self._is_killed.add(node.address)
        try:
            if fault.what == "kill at work":
                await self._until_at_work(node)
            if fault.what == "drain":
                try:
                    await node.control.drain(_DRAIN_SECONDS)
                except CommandFailed as error:
                    self.tell(f"drain of {node.address} failed: {error}")
                node.is_wanted = False
                await self._sleep(1)
            is_killed = fault.what in ("kill", "kill at work")
            number = signal.SIGKILL if is_killed else signal.SIGTERM
            if not await node.stop(number, seconds=20):
                self.tell(f"{node.address} did not end within 20 s and was killed")
                node.deaths.append(f"{node.address} did not end within 20 s after SIGTERM")
            self.tell(f"{node.address} is down")
            await self._sleep(fault.seconds if is_killed else 0.2)
            node.start()
        finally:
            self._is_killed.discard(node.address)

    async def _enable(self, node: ChaosNode, is_enabled: bool) -> None:
        """Have the node take new tasks, or none; repeated until it answers that it does."""
        for _ in range(60 if is_enabled else 3):
            with suppress(CommandFailed):
                await node.control.set_enabled(is_enabled)
                return
            await self._sleep(0.5)

    async def _until_at_work(self, node: ChaosNode) -> None:
        """Wait until the node executes something, but not for long."""
        for _ in range(20):
            if any(executions.is_running for executions in read_journal(node.journal.path).values()):
                return
            await self._sleep(0.1)

    async def _network(self, fault: Fault) -> None:
        links = links_between(self.nodes, fault.target, fault.peer)[: 1 if fault.is_one_way else 2]
        for link in links:
            await link.cut(fault.what)
        await self._sleep(fault.seconds)
        for link in links:
            link.heal(fault.stays_silent)

    async def _disk(self, node: ChaosNode, fault: Fault) -> None:
        is_really_full = fault.what is DiskMode.FULL and self.has_disks
        if is_really_full:
            disks.fill(node.state)
        else:
            node.page.disk = fault.what
        await self._sleep(fault.seconds)
        disks.make_space(node.state)
        node.page.disk = DiskMode.WELL

    async def _remount(self, node: ChaosNode, fault: Fault) -> None:
        """Kill the node, and start it on a disk that is read-only."""
        if node.address in self._is_killed:
            return
        self._is_killed.add(node.address)
        try:
            await node.stop(signal.SIGKILL)
            is_remounted = self.has_disks and disks.remount(node.state, is_read_only=True)
            if not is_remounted:
                node.page.disk = DiskMode.READ_ONLY
            node.start()
            await self._sleep(fault.seconds)
            if is_remounted:
                disks.remount(node.state, is_read_only=False)
            node.page.disk = DiskMode.WELL
        finally:
            self._is_killed.discard(node.address)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)
