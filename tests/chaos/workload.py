"""The work of a round: who submits what to whom under which id, who cancels, and what people do at the receivers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta, timezone
from random import Random
from typing import Any
from zlib import crc32

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tasksubmit.cli.control import AnswerLost, CommandFailed, Json, NodeUnreachable
from tests.chaos.journal import BROKEN, DONE, FAILED, FILENAME, START, Words
from tests.chaos.nodes import ChaosNode

Pair = tuple[str, str, str]
"""Submitter, receiver and task id: what a task is known by here."""

_POLL_SECONDS = 0.3
_SHARING = ("own", "own", "own", "two receivers", "two submitters", "both directions")
"""How an id is shared; see `draw_plans`."""


@frozen
class Plan:
    """One submission, to be.

    :ivar after: seconds from the start of the round.
    :ivar cancel_after: seconds from the submission to the cancellation; None for none.
    :ivar expires_after: seconds from the submission to ``expires_at``; None for none.
    :ivar due_after: seconds from the submission to ``result_due_at``; None for none.
    """

    pair: Pair
    words: Words
    after: float
    cancel_after: float | None
    expires_after: float | None
    due_after: float | None


def draw_plans(random: Random, addresses: list[str], count: int, seconds: float, prefix: str) -> list[Plan]:
    """So many submissions over so many seconds."""
    plans: list[Plan] = []
    number = 0
    while len(plans) < count:
        number += 1
        task_id = f"{prefix}-{number}"
        after = random.uniform(0, seconds)
        a, b, c = random.sample(addresses, 3)
        sharing = random.choice(_SHARING)
        ways = {"own": [(a, b)], "two receivers": [(a, b), (a, c)], "two submitters": [(a, c), (b, c)]}
        for submitter, receiver in ways.get(sharing, [(a, b), (b, a)]):
            plans.append(
                Plan(
                    pair=(submitter, receiver, task_id),
                    words=Words.draw(random),
                    after=after + random.choice((0, 0, 0.2, 1)),
                    cancel_after=random.choice((0, 0.1, 0.5, 1, 2, 4)) if random.random() < 0.3 else None,
                    expires_after=random.uniform(2, 8) if random.random() < 0.1 else None,
                    due_after=random.uniform(2, 8) if random.random() < 0.1 else None,
                )
            )
    return plans


@define
class Commands:
    """What was asked for one task, and what was answered.

    :ivar lines: for people.
    :ivar acknowledged: the commands that succeeded.
    :ivar refusal: the code with which its submission was refused, for good.
    :ivar may_be_cancelled: whether anybody ever asked for its cancellation, answered or not.
    :ivar declined: the reasons with which anybody ever declined it, answered or not.
    :ivar failed: the errors with which a person ever ended it, answered or not.
    :ivar has_expiry: whether it has an ``expires_at``.
    :ivar has_due: whether it has a ``result_due_at``.
    """

    lines: list[str] = field(factory=list)
    acknowledged: set[str] = field(factory=set)
    refusal: str = ""
    may_be_cancelled: bool = False
    declined: set[str] = field(factory=set)
    failed: set[str] = field(factory=set)
    has_expiry: bool = False
    has_due: bool = False


@define(eq=False)
class Workload:
    """Carries out plans, and works at the nodes whose tasks people accept or execute.

    :ivar seconds: of the run, for the lines.
    :ivar is_over: whether the people go home.
    """

    reactor: Any
    nodes: Mapping[str, ChaosNode]
    random: Random
    seconds: Callable[[], float]
    commands: dict[Pair, Commands] = field(factory=lambda: defaultdict(Commands))
    plans: dict[Pair, Plan] = field(factory=dict)
    is_over: bool = False
    _people: list[Deferred[None]] = field(factory=list)

    async def submit_all(self, plans: list[Plan], give_up_at: float) -> None:
        """Carry out all plans; those whose submitter does not answer are repeated until ``give_up_at``."""
        await gatherResults([Deferred.fromCoroutine(self._carry_out(plan, give_up_at)) for plan in plans])

    def start_people(self) -> None:
        """Have people at every node that needs some."""
        for node in self.nodes.values():
            if node.config.accepts == "manual":
                self._people.append(Deferred.fromCoroutine(self._accept_and_decline(node)))
            if node.config.is_manual:
                for _ in range(node.config.concurrency):
                    self._people.append(Deferred.fromCoroutine(self._execute(node)))

    async def stop_people(self) -> None:
        """Send them home."""
        self.is_over = True
        await gatherResults(self._people)

    # --- the submitters -----------------------------------------------------------------------------------------------

    async def _carry_out(self, plan: Plan, give_up_at: float) -> None:
        self.plans[plan.pair] = plan
        commands = self.commands[plan.pair]
        await self._sleep(plan.after)
        now = datetime.now(timezone.utc)
        commands.has_expiry, commands.has_due = plan.expires_after is not None, plan.due_after is not None
        submitter, receiver, task_id = plan.pair
        times = {
            name: (now + timedelta(seconds=after)).isoformat()
            for name, after in (("expires_at", plan.expires_after), ("result_due_at", plan.due_after))
            if after is not None
        }
        control = self.nodes[submitter].control
        while self.reactor.seconds() < give_up_at:
            done, code = await self._try(
                plan.pair, "submit", control.submit(receiver, str(plan.words), task_id, **times)
            )
            if done is not None:
                break
            if code not in ("unreachable", "unanswered", "storage", "store_full", "overloaded"):
                commands.refusal = code
                break
            await self._sleep(0.4)
        if plan.cancel_after is None:
            return
        await self._sleep(plan.cancel_after)
        while self.reactor.seconds() < give_up_at:
            commands.may_be_cancelled = True
            cancel = control.cancel(task_id, peer=receiver, reason=cancel_reason(plan.pair))
            done, code = await self._try(plan.pair, "cancel", cancel)
            if done is not None or code not in ("unreachable", "unanswered"):
                break
            await self._sleep(0.4)

    # --- the people at the receivers ----------------------------------------------------------------------------------

    async def _accept_and_decline(self, node: ChaosNode) -> None:
        while not self.is_over:
            for task in await self._received(node, "NEW"):
                pair = (task["peer"], node.address, task["task_id"])
                luck = Random(f"decide {pair}").random()
                if luck < 0.7:
                    accept = node.control.accept(task["task_id"], peer=task["peer"])
                    await self._try(pair, "accept", accept)
                elif luck < 0.85:
                    reason = decline_reason(pair)
                    self.commands[pair].declined.add(reason)
                    decline = node.control.decline(task["task_id"], reason, peer=task["peer"])
                    await self._try(pair, "decline", decline)
            await self._sleep(_POLL_SECONDS)

    async def _received(self, node: ChaosNode, status: str) -> list[Json]:
        try:
            return (await node.control.tasks(side="receiver", status=status, limit=50)).items
        except CommandFailed:
            return []

    async def _execute(self, node: ChaosNode) -> None:
        while not self.is_over:
            try:
                task = await node.control.execute()
            except CommandFailed:
                await self._sleep(_POLL_SECONDS)
                continue
            await self._do(node, task)

    async def _do(self, node: ChaosNode, task: Json) -> None:
        submitter, task_id, attempt = task["peer"], task["task_id"], task["attempt"]
        pair = (submitter, node.address, task_id)
        self._note(pair, f"execute: attempt {attempt}")
        words = Words.parse(task["description"])
        key = submitter, task_id, attempt
        # Some people do not name their attempt, which is good only as long as there was no other.
        names: dict[str, Any] = {"peer": submitter, **({"attempt": attempt} if hash_of(pair) % 3 else {})}
        node.journal.note(START, *key)
        for step in range(words.steps):
            progress = node.control.progress(task_id, f"{words.steps - step} to go", **names)
            await self._try(pair, "progress", progress)
            await self._sleep(words.seconds)
        if words.is_left and attempt == 1:
            return
        if words.exit_code:
            error = f"{BROKEN}: {task_id}"
            self.commands[pair].failed.add(error)
            node.journal.note(FAILED, *key)
            await self._insist(pair, "fail", lambda: node.control.fail(task_id, error, **names))
            return
        content = words.result(*key)
        node.journal.note(DONE, *key)
        if words.kind == "file":
            await self._insist(pair, "send", lambda: node.control.send_file(task_id, FILENAME, content, **names))
        else:
            await self._insist(pair, "send", lambda: node.control.send_text(task_id, content.decode(), **names))

    async def _insist(self, pair: Pair, what: str, command: Callable[[], Coroutine[Any, Any, Json]]) -> None:
        """Repeat a command until it is answered, for as long as a lease lasts."""
        for _ in range(15):
            _, code = await self._try(pair, what, command())
            if code not in ("unreachable", "unanswered", "storage"):
                return
            await self._sleep(0.4)

    # --- shared -------------------------------------------------------------------------------------------------------

    async def _try(self, pair: Pair, what: str, command: Coroutine[Any, Any, Json]) -> tuple[Json | None, str]:
        """The answer, or None and the code of the error."""
        try:
            done = await command
        except (NodeUnreachable, AnswerLost, CommandFailed) as error:
            self._note(pair, f"{what}: {error.code}: {error}")
            return None, error.code
        self._note(pair, f"{what}: {done['status']}")
        self.commands[pair].acknowledged.add(what)
        return done, ""

    def _note(self, pair: Pair, line: str) -> None:
        """Note what was answered, unless it is the same again."""
        lines = self.commands[pair].lines
        if not lines or not lines[-1].endswith(f"  {line}"):
            lines.append(f"{self.seconds():7.2f} s  {line}")

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)


def hash_of(pair: Pair) -> int:
    """A number that is the same for the same task in each run."""
    return crc32(repr(pair).encode())


def cancel_reason(pair: Pair) -> str:
    """Why a task is cancelled."""
    return f"{pair[0]} changed its mind about {pair[2]}"


def decline_reason(pair: Pair) -> str:
    """Why a task is declined."""
    return f"{pair[1]} does not like {pair[2]} of {pair[0]}"
