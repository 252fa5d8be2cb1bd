"""``tasksubmit demo``: two nodes as real processes, and one task's whole life between them.

All that is told was read from the nodes' control APIs; each step comes with the command that does the same.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tasksubmit.cli.control import CommandFailed, Control, Json
from tasksubmit.cli.processes import NodeProcess, free_ports
from tasksubmit.cli.quoting import clean
from tasksubmit.cli.results import read_result_file, result_content
from tasksubmit.lifecycle.polo import polo_score
from tasksubmit.wire.messages import generate_task_id

SUBMITTER, RECEIVER = "0:0000.0000.0001", "0:0000.0000.0002"
DESCRIPTION = "Count the words of this sentence."
REPORT = "report.txt"

STEP_SECONDS = 30
WORK_SECONDS = 1.0
_POLL_SECONDS = 0.1

Narrate = Callable[[str], None]


async def run_demo(reactor: Any, narrate: Narrate, *, keep: bool = False) -> Json:
    """Start two nodes in a temporary directory, show a task's life, and stop them.

    :param narrate: is called with each line of the story.
    :param keep: whether the directory stays.
    :returns: ``task_id``, ``reward``, ``result``, and the ``scores`` by address.
    :raises CommandFailed: when anything is not as it should be; the nodes are stopped all the same.
    """
    directory = Path(tempfile.mkdtemp(prefix="tasksubmit-demo-"))
    ports = free_ports(2)
    submitter = NodeProcess(reactor, directory / "submitter", SUBMITTER, ports[0])
    receiver = NodeProcess(reactor, directory / "receiver", RECEIVER, ports[1])
    is_cleaned_up = False

    async def clean_up() -> None:
        nonlocal is_cleaned_up
        if not is_cleaned_up:
            is_cleaned_up = True
            try:
                await submitter.stop()
                await receiver.stop()
            finally:
                if not keep:
                    shutil.rmtree(directory, ignore_errors=True)

    # A signal stops the reactor, and so the story where it is.
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(clean_up()))
    try:
        submitter.start(peer=receiver)
        receiver.start(peer=submitter)
        summary = await _Story(reactor, narrate, submitter, receiver).tell()
    except Exception:
        with suppress(CommandFailed):
            await clean_up()
        raise
    await clean_up()
    narrate(f"\nBoth nodes are stopped; {directory} is {'kept' if keep else 'removed'}.")
    return summary


@frozen
class _Durations:
    """What a reward is computed from, in milliseconds."""

    time_idle_ms: int
    time_staged_ms: int
    time_cpu_ms: int


@define(eq=False)
class _Story:
    """A task's life. Its controls are those of the two nodes once they answer."""

    reactor: Any
    narrate: Narrate
    submitter: NodeProcess
    receiver: NodeProcess
    task_id: str = field(factory=generate_task_id)

    async def tell(self) -> Json:
        """Tell it; see `run_demo`."""
        self.narrate("Two nodes start, each with the other as its peer.")
        a = await self.submitter.until_it_answers()
        b = await self.receiver.until_it_answers()
        for who, control in (("the submitter", a), ("the receiver", b)):
            node = await control.node()
            self.say(f"{node['address']}, {who}, listens on {', '.join(node['listening'])}")
        await self.submit(a, b)
        report = await self.work(b)
        paid = await self.finish(a, b)
        result = await self.look_at_result(a, paid, report)
        scores = await self.look_at_scores(a, b, paid["reward"])
        return {"task_id": self.task_id, "reward": paid["reward"], "result": result, "scores": scores}

    # --- the steps ----------------------------------------------------------------------------------------------------

    async def submit(self, a: Control, b: Control) -> None:
        """The submitter hands the task over, and the receiver has it."""
        self.step("The submitter gives a task to the receiver", self.submitter, "submit", RECEIVER, DESCRIPTION)
        await a.submit(RECEIVER, DESCRIPTION, self.task_id)
        task = await a.wait(self.task_id, "answered", timeout=STEP_SECONDS)
        self.say(f"task {task['task_id']}, answered at {task['answered_at']}: {task['status']}")
        self.step("The receiver has it", self.receiver, "show", self.task_id)
        task = await b.task(self.task_id)
        self.say(f"from {task['from']}: {task['status']}, {task['description']!r}")
        _check(task["status"] == "NEW" and task["description"] == DESCRIPTION, "the receiver has another task")

    async def work(self, b: Control) -> bytes:
        """The receiver accepts, executes and sends the results; returns the content of the report."""
        self.step("The receiver accepts it", self.receiver, "accept", self.task_id)
        task = await b.accept(self.task_id)
        self.say(f"{task['status']}, {task['time_idle_ms']} ms after it came")
        self.step("It is at the head of the queue", self.receiver, "queue")
        (task,) = await b.queue()
        _check(task["task_id"] == self.task_id, "the queue's head is another task")
        self.say(f"staged at {task['staged_at']}")
        self.step("The receiver begins it", self.receiver, "execute", self.task_id)
        task = await b.execute(self.task_id)
        self.say(f"{task['status']}, {task['time_staged_ms']} ms after it was staged; at work ...")
        await deferLater(self.reactor, WORK_SECONDS)
        report = self.receiver.directory / REPORT
        report.write_text(f"{len(task['description'].split())} words\n", "utf-8")
        self.step("The receiver sends a file", self.receiver, "send-results", self.task_id, "--file", str(report))
        content = read_result_file(report)
        task = await b.send_file(self.task_id, REPORT, content)
        self.say(f"completed at {task['completed_at']}, after {task['time_cpu_ms']} ms of work")
        return content

    async def finish(self, a: Control, b: Control) -> Json:
        """Both sides see the task succeed; returns the submitter's record."""
        self.step("The submitter waits for the results", self.submitter, "wait", self.task_id)
        await a.wait(self.task_id, "finished", timeout=STEP_SECONDS)
        records = {}
        for who, control in (("the submitter", a), ("the receiver", b)):
            task = records[who] = await self.until_succeeded(control)
            self.say(f"{who}'s record: {task['status']}, reward {task['reward']}")
        paid = records["the submitter"]
        durations = _Durations(paid["time_idle_ms"], paid["time_staged_ms"], paid["scored_cpu_ms"])
        score = polo_score(durations)
        self.say(
            f"idle {durations.time_idle_ms} ms, staged {durations.time_staged_ms} ms, work {durations.time_cpu_ms} ms: "
            f"(1 + {score.cpu_bonus:.3f}) * {score.efficiency_multiplier:.3f} = {score.raw_reward:.3f}"
        )
        _check(paid["reward"] == score.final_reward, f"the reward is not {score.final_reward}, which was earned")
        _check(records["the receiver"]["reward"] == paid["reward"], "the two sides booked different rewards")
        return paid

    async def until_succeeded(self, control: Control) -> Json:
        """A side's record, once it is SUCCEEDED."""
        give_up_at = self.reactor.seconds() + STEP_SECONDS
        while (task := await control.task(self.task_id))["status"] != "SUCCEEDED":
            _check(self.reactor.seconds() < give_up_at, f"the task is {task['status']}, and should have succeeded")
            await deferLater(self.reactor, _POLL_SECONDS)
        return task

    async def look_at_result(self, a: Control, paid: Json, report: bytes) -> str:
        """The submitter has the report, in its API and on its disk; returns its text."""
        self.step("The submitter has the report", self.submitter, "result", self.task_id, "--output", ".")
        result = await a.result(self.task_id)
        content = result_content(result)
        on_disk = self.submitter.state_dir / "results" / paid["result_file"]
        text = content.decode("utf-8").strip()
        self.say(f"{result['filename']}: {text!r}, kept as {on_disk}")
        _check(result["filename"] == REPORT and content == report, "the report is not the one that was sent")
        _check(on_disk.read_bytes() == report, "the report on disk is not the one that was sent")
        return text

    async def look_at_scores(self, a: Control, b: Control, reward: int) -> dict[str, int]:
        """Both ledgers say the same; returns it."""
        expected = {SUBMITTER: -1, RECEIVER: reward}
        for who, node, control in (("submitter", self.submitter, a), ("receiver", self.receiver, b)):
            self.step(f"The {who}'s ledger", node, "score")
            ledger = {score["address"]: score["score"] for score in await control.score()}
            self.say(", ".join(f"{address}: {points:+d}" for address, points in ledger.items()))
            _check(ledger == expected, f"the {who}'s ledger should say {expected}")
        return expected

    # --- telling ------------------------------------------------------------------------------------------------------

    def step(self, title: str, node: NodeProcess, *command: str) -> None:
        """Tell what comes next, and which command does it."""
        self.narrate(f"\n{title}:")
        self.narrate(f"  $ {shlex.join(('tasksubmit', '--state-dir', str(node.state_dir), *command))}")

    def say(self, line: str) -> None:
        """Tell what a node said."""
        self.narrate(f"  {clean(line)}")


def _check(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise CommandFailed("demo", f"the demonstration failed: {otherwise}")
