"""The run: episodes and rounds, the wait for the end of every task, and the report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater

from tasksubmit.cli.control import CommandFailed, Json
from tests.chaos import disks
from tests.chaos.audit import (
    OPEN,
    RECEIVER,
    SUBMITTER,
    Finding,
    Key,
    Sides,
    changed,
    check_database,
    compare,
    compare_result,
)
from tests.chaos.faults import Faults, draw_pair
from tests.chaos.journal import Executions, read_journal
from tests.chaos.nodes import ChaosNode, make_nodes
from tests.chaos.sweeper import processes_with
from tests.chaos.workload import Pair, Workload, draw_plans
from tests.docs.pages import ROOT

LIMIT_SECONDS = 120.0
"""After the last fault every record is final within this, without any command.

An answer that will never come is waited for 30 s, the longest back-off is 60 s, a node that is drained or disabled asks
its peers to come again after 60 s, and an execution that was lost ends with its lease, after 6 s.
"""

LEFTOVER_SECONDS = 10.0
"""Commands may outlive their node by the time that they may take to clean up."""

_POLL_SECONDS = 0.25
_PAGE = 1000
_TWISTEDS = "ReactorNotRunning"
"""What Twisted logs when a process that stops already gets a SIGTERM: one that was drained, for example."""

_STRANGE_CODES = ("internal", "malformed", "error")


@frozen
class Size:
    """How much a run does.

    :ivar seconds: after so long no round begins.
    :ivar rounds: at most so many; None for no limit.
    :ivar window: seconds of faults in a round.
    :ivar tasks: submissions in a round, about.
    :ivar episode_rounds: rounds with the same four nodes.
    :ivar longest_fault: in seconds.
    :ivar silence: how often a connection that was cut stays open and silent.
    """

    seconds: float
    rounds: int | None = None
    window: float = 12.0
    tasks: int = 50
    episode_rounds: int = 3
    longest_fault: float = 4.0
    silence: float = 0.15


@define
class Totals:
    """What a run did.

    :ivar settled: how many seconds after the faults all was final, in each round.
    :ivar slowest: the longest of these, and what was waited for last.
    :ivar disk_errors: how many errors of their stores the nodes logged whose disks had faults.
    """

    rounds: int = 0
    tasks: int = 0
    executions: int = 0
    ends: Counter[str] = field(factory=Counter)
    settled: list[float] = field(factory=list)
    disk_errors: int = 0
    slowest: tuple[float, str] = (0.0, "")

    def __str__(self) -> str:
        slowest = "; all was final {:.1f} s after the faults at the latest, when {}".format(*self.slowest)
        ends = ", ".join(f"{count} {end}" for end, count in sorted(self.ends.items()))
        done = f"{self.rounds} rounds, {self.tasks} tasks, {self.executions} executions, {self.disk_errors} disk errors"
        return f"{done}{slowest}; {ends}"


@define(eq=False)
class Episode:
    """Four nodes, and some rounds with them.

    :ivar name: the seed and the number, which the choices come from.
    :ivar findings: what should not be.
    """

    reactor: Any
    name: str
    directory: Path
    size: Size
    mark: str
    has_mounts: bool
    tell: Callable[[str], object]
    totals: Totals
    findings: list[Finding] = field(factory=list)
    timeline: list[str] = field(factory=list)
    nodes: dict[str, ChaosNode] = field(factory=dict)
    _records: dict[str, dict[Key, Json]] = field(factory=dict)
    _checked: set[Pair] = field(factory=set)
    _waited_for: str = ""
    _began: float = 0.0
    workload: Workload = field(init=False)
    faults: Faults = field(init=False)

    def seconds(self) -> float:
        """Since the episode began."""
        return float(self.reactor.seconds() - self._began)

    async def run(self, is_over: Callable[[], bool]) -> None:
        """Carry it out, up to the first round that finds something."""
        self._began = self.reactor.seconds()
        self._make()
        keeper = LoopingCall(self._keep_running)
        try:
            await self._start()
            keeper.start(0.3)
            self.workload.start_people()
            for number in range(self.size.episode_rounds):
                if is_over() or self.findings:
                    break
                await self._round(number)
            self._read_logs()
        finally:
            if self.findings:
                self._report()
            self.faults.hurt.clear()
            if keeper.running:
                keeper.stop()
            await self.workload.stop_people()
            await self._stop()
        if not self.findings:
            self._check_disks()
            await self._check_leftovers()
            if self.findings:
                self._report()

    # --- the nodes ----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self.directory.mkdir()
        has_disks = self.has_mounts
        for number in range(1, 5):
            state = self.directory / str(number) / "state"
            if has_disks:
                state.mkdir(parents=True)
                has_disks = disks.mount(state)
        self.nodes = make_nodes(self.reactor, self.directory, Random(f"{self.name} nodes"), self.mark)
        for node in self.nodes.values():
            self._note(f"{node.address} {node.config}")
            for link in node.links.values():
                link.open()
        self.workload = Workload(self.reactor, self.nodes, Random(f"{self.name} work"), self.seconds)
        self.faults = Faults(self.reactor, self.nodes, has_disks, self._note)

    async def _start(self) -> None:
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            if not await node.until_up():
                self._find(f"{node.address} did not come up")

    async def _stop(self) -> None:
        async def stop(node: ChaosNode) -> None:
            if not await node.stop():
                self._find(f"{node.address} did not end within 30 s after SIGTERM")

        await gatherResults([Deferred.fromCoroutine(stop(node)) for node in self.nodes.values()])
        for node in self.nodes.values():
            for link in node.links.values():
                await link.close()

    def kill(self) -> None:
        """Kill every process of the nodes, immediately."""
        for node in self.nodes.values():
            node.is_wanted = False
            node.send(signal.SIGKILL)

    def _keep_running(self) -> None:
        for node in self.nodes.values():
            node.keep_running(may_die=self.faults.may_die(node.address))
            for peer in self.nodes.values():
                if peer is not node:
                    peer.links[node.address].follow(node.is_running)

    # --- a round ------------------------------------------------------------------------------------------------------

    async def _round(self, number: int) -> None:
        random = Random(f"{self.name} round {number}")
        size = self.size
        self._note(f"round {number} begins")
        plans = draw_plans(random, list(self.nodes), size.tasks, size.window, f"{number}")
        until = self.reactor.seconds() + size.window
        work = Deferred.fromCoroutine(self.workload.submit_all(plans, until + 20))
        workers = [address for address, node in self.nodes.items() if not node.config.is_manual]
        while self.reactor.seconds() < until:
            pair = draw_pair(random, list(self.nodes), workers, size.longest_fault, size.silence)
            await self.faults.pair(pair)
            await deferLater(self.reactor, random.uniform(0.2, 1.5))
        self._note(f"round {number}: the faults have ended")
        ended = self.reactor.seconds()
        for node in self.nodes.values():
            if not await node.until_up():
                self._find(f"{node.address} does not answer {self.reactor.seconds() - ended:.0f} s after the faults")
        await work
        await self._settle(ended)
        await self._audit()
        self.totals.rounds += 1
        took = f"{self.totals.settled[-1]:.1f} s to settle"
        self.tell(f"  {self.name} round {number}: {len(plans)} tasks, {took}, at last: {self._waited_for}")

    async def _settle(self, since: float) -> None:
        """Wait until every record is final and every delivery was made; what takes too long is found by the audit."""
        self._waited_for = ""
        while self.reactor.seconds() < since + LIMIT_SECONDS:
            waits_for = await self._waits_for()
            if not waits_for:
                break
            if waits_for != self._waited_for:
                self._note(f"wait: {waits_for}")
            self._waited_for = waits_for
            await deferLater(self.reactor, _POLL_SECONDS)
        else:
            self._find(f"{LIMIT_SECONDS:g} s after the faults ended: {waits_for}")
        self.totals.settled.append(self.reactor.seconds() - since)
        self._note(f"settled after {self.totals.settled[-1]:.1f} s")
        self.totals.slowest = max(self.totals.slowest, (self.totals.settled[-1], self._waited_for))

    async def _waits_for(self) -> str:
        """The first node that has something open; empty when none has."""
        for node in self.nodes.values():
            try:
                for status in OPEN:
                    if tasks := (await node.control.tasks(status=status, limit=1)).items:
                        return f"{node.address} has {tasks[0]['side']}'s {tasks[0]['task_id']}, which is {status}"
                if owed := [peer["address"] for peer in await node.control.peers() if peer["is_owed"]]:
                    return f"{node.address} has something pending for {', '.join(owed)}"
            except CommandFailed as error:
                return f"{node.address} does not answer: {error}"
        return ""

    # --- the audit ----------------------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        try:
            after = {node.address: await self._all(node) for node in self.nodes.values()}
        except CommandFailed as error:
            self._find(f"the records cannot be read: {error}")
            return
        for address, records in self._records.items():
            for key, before in records.items():
                if before["status"] in OPEN:
                    continue
                pair = self._pair(address, key)
                if key not in after[address]:
                    self._find("a record is gone", pair)
                    continue
                for text in changed(before, after[address][key]):
                    self._find(text, pair)
        self._records = after
        journals = {node.address: read_journal(node.journal.path) for node in self.nodes.values()}
        pairs = {self._pair(address, key) for address, records in after.items() for key in records}
        executed = {
            (submitter, receiver, task_id) for receiver, journal in journals.items() for submitter, task_id in journal
        }
        for pair in sorted((pairs | executed | set(self.workload.plans)) - self._checked):
            submitter, receiver, task_id = pair
            sides = Sides(
                pair=pair,
                submitted=after[submitter].get((SUBMITTER, receiver, task_id)),
                received=after[receiver].get((RECEIVER, submitter, task_id)),
                commands=self.workload.commands[pair],
                executions=journals[receiver].get((submitter, task_id), Executions()),
                is_disturbed=receiver in self.faults.disturbed,
                is_by_hand=self.nodes[receiver].config.accepts == "manual",
            )
            found = [*compare(sides), *self._strange(pair), *await self._wrong_result(sides)]
            for text in found:
                self._find(text, pair)
            self._checked.add(pair)
            self._count(sides)

    async def _all(self, node: ChaosNode) -> dict[Key, Json]:
        """Every record of a node."""
        found: dict[Key, Json] = {}
        before: int | None = None
        while True:
            query = {} if before is None else {"before": before}
            tasks = (await node.control.tasks(limit=_PAGE, **query)).items
            if not tasks:
                return found
            found.update({(task["side"], task["peer"], task["task_id"]): task for task in tasks})
            before = tasks[-1]["number"]

    @staticmethod
    def _pair(address: str, key: Key) -> Pair:
        side, peer, task_id = key
        return (address, peer, task_id) if side == SUBMITTER else (peer, address, task_id)

    def _strange(self, pair: Pair) -> Iterator[str]:
        for line in self.workload.commands[pair].lines:
            if any(f": {code}: " in line for code in _STRANGE_CODES):
                yield f"a command was answered with {line}"

    async def _wrong_result(self, sides: Sides) -> list[str]:
        submitted, received, plan = sides.submitted, sides.received, self.workload.plans.get(sides.pair)
        if submitted is None or received is None or plan is None or submitted["status"] != "SUCCEEDED":
            return []
        submitter, receiver, task_id = sides.pair
        try:
            result = await self.nodes[submitter].control.result(task_id, peer=receiver)
        except CommandFailed as error:
            return [f"its results cannot be read: {error}"]
        return list(compare_result(sides.pair, plan.words, received, result))

    def _count(self, sides: Sides) -> None:
        self.totals.tasks += 1
        self.totals.executions += len(sides.executions.attempts("start"))
        record = sides.submitted
        if record is not None:
            is_late = sides.received is not None and sides.received["outcome"] == "late"
            self.totals.ends[f"{record['status']} {record['outcome']}".strip() + " (late results)" * is_late] += 1

    def _read_logs(self) -> None:
        """Find what no log should have: tracebacks, and processes that ended by themselves."""
        for node in self.nodes.values():
            for death in node.deaths:
                self._find(death)
            seen: set[str] = set()
            for traceback in _tracebacks(node.log):
                is_of_disk = "tasksubmit.errors.Store" in traceback and node.address in self.faults.had_bad_disk
                self.totals.disk_errors += is_of_disk
                last = traceback.strip().splitlines()[-1]
                if last not in seen and not is_of_disk and _TWISTEDS not in last:
                    seen.add(last)
                    self._find(f"the log of {node.address} has a traceback: {traceback}")

    def _check_disks(self) -> None:
        bookings = {}
        for node in self.nodes.values():
            found, bookings[node.address] = check_database(node.state, node.address)
            for text in found:
                self._find(text)
        for address, records in self._records.items():
            for (side, peer, task_id), record in records.items():
                if side != SUBMITTER or record["status"] not in ("SUCCEEDED", "EXPIRED"):
                    continue
                mine = bookings[address].get((side, peer, task_id))
                theirs = bookings[peer].get((RECEIVER, address, task_id))
                if mine != theirs:
                    self._find(f"the submitter booked {mine}, the receiver {theirs}", (address, peer, task_id))

    async def _check_leftovers(self) -> None:
        until = self.reactor.seconds() + LEFTOVER_SECONDS
        while left := processes_with(self.mark):
            if self.reactor.seconds() > until:
                self._find(f"processes are left: {left}")
                return
            await deferLater(self.reactor, _POLL_SECONDS)

    # --- the report ---------------------------------------------------------------------------------------------------

    def _note(self, line: str) -> None:
        self.timeline.append(f"{self.seconds():7.2f} s  {line}")

    def _find(self, text: str, pair: Pair | None = None) -> None:
        self.findings.append(Finding(text, pair))

    def _report(self, most: int = 12) -> None:
        tell = self.tell
        tell(f"\n=== {self.name}: {len(self.findings)} findings")
        tell("--- timeline")
        for line in self.timeline:
            tell(line)
        pairs: dict[Pair | None, list[str]] = {}
        for finding in self.findings:
            pairs.setdefault(finding.pair, []).append(finding.text)
        for number, (pair, texts) in enumerate(pairs.items()):
            name = "the nodes" if pair is None else f"task {pair[2]} from {pair[0]} to {pair[1]}"
            tell(f"\n--- finding: {name}")
            for text in texts:
                tell(f"*** {text}")
            if pair is not None and number < most:
                self._report_task(pair)

    def _report_task(self, pair: Pair) -> None:
        submitter, receiver, task_id = pair
        for address, key, option in (
            (submitter, (SUBMITTER, receiver, task_id), ("--to", receiver)),
            (receiver, (RECEIVER, submitter, task_id), ("--from", submitter)),
        ):
            record = self._records.get(address, {}).get(key)
            self.tell(f"- the {key[0]}'s record at {address}:")
            shown = {name: value for name, value in (record or {}).items() if value not in ("", None, 0, False)}
            self.tell("\n".join(f"    {name}: {value}" for name, value in shown.items()) or "    none")
            if record is not None:
                self.tell(self._history(self.nodes[address], task_id, *option))
        self.tell("- commands:")
        self.tell("\n".join(f"    {line}" for line in self.workload.commands[pair].lines) or "    none")
        executions = read_journal(self.nodes[receiver].journal.path).get((submitter, task_id), Executions())
        self.tell(f"- executions: {executions}")
        self.tell(f"- the episode began at {self._epoch():.2f}")

    def _epoch(self) -> float:
        return time.time() - self.seconds()

    def _history(self, node: ChaosNode, task_id: str, *options: str) -> str:
        command = [sys.executable, "-m", "tasksubmit", "--state-dir", str(node.state), "why", *options, "--", task_id]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"}
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
            )
        except subprocess.TimeoutExpired:
            return "    (the node does not answer)"
        return "\n".join(f"    | {line}" for line in (done.stdout + done.stderr).splitlines())


def _tracebacks(log: Path) -> Iterator[str]:
    """Each traceback of a log, with the line above it."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    number = 0
    while number < len(lines):
        if "Traceback" in lines[number] or "Unhandled" in lines[number]:
            end = number + 1
            while end < len(lines) and (lines[end].startswith((" ", "\t")) or "Traceback" in lines[end]):
                end += 1
            yield "\n".join(lines[max(0, number - 1) : end])
            number = end
        number += 1


@define(eq=False)
class Run:
    """Episodes, until the time is over or something is found.

    :ivar keeps_going: whether to go on with new nodes after a finding.
    :ivar found: how many findings there were.
    :ivar is_finished: whether it was carried out to its end.
    :ivar kept: where the logs and the state directories are of the episodes that found something.
    """

    reactor: Any
    seed: int
    size: Size
    directory: Path
    mark: str
    has_mounts: bool
    tell: Callable[[str], object]
    keeps_going: bool = False
    totals: Totals = field(factory=Totals)
    found: int = 0
    is_finished: bool = False
    kept: list[Path] = field(factory=list)
    _episode: Episode | None = None
    _began: float = 0.0

    async def run(self) -> int:
        """Carry it out; gives the number of findings."""
        self._began = self.reactor.seconds()
        number = 0
        while not self._is_over() and (not self.found or self.keeps_going):
            episode = self._episode = Episode(
                reactor=self.reactor,
                name=f"seed {self.seed} episode {number}",
                directory=self.directory / str(number),
                size=self.size,
                mark=self.mark,
                has_mounts=self.has_mounts,
                tell=self.tell,
                totals=self.totals,
            )
            number += 1
            try:
                await episode.run(self._is_over)
            finally:
                if episode.findings:
                    self._keep(episode)
                if self.has_mounts:
                    for node in episode.nodes.values():
                        disks.unmount(node.state)
                shutil.rmtree(episode.directory, ignore_errors=True)
            self.found += len(episode.findings)
        return self.found

    def kill(self) -> None:
        """End all processes, immediately."""
        if self._episode is not None:
            self._episode.kill()

    def _is_over(self) -> bool:
        is_late = self.reactor.seconds() - self._began > self.size.seconds
        return is_late or (self.size.rounds is not None and self.totals.rounds >= self.size.rounds)

    def _keep(self, episode: Episode) -> None:
        kept = Path(tempfile.mkdtemp(prefix="tasksubmit-chaos-kept-")) / episode.directory.name
        ignore = shutil.ignore_patterns("*.sock*", ".filler", "locks")
        shutil.copytree(episode.directory, kept, ignore=ignore, symlinks=True, ignore_dangling_symlinks=True)
        self.kept.append(kept)
        self.tell(f"kept: {kept}")
