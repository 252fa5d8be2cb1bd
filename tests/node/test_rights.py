"""Who may do what: each message, from each kind of caller, as a table that the docs show.

``python -m tests.node.test_rights`` prints the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from attrs import evolve, frozen
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import TaskSubmitError
from tasksubmit.interfaces import Peer
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.testing import Agents, WellBehaved
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskResultMessage, TaskStatusUpdate
from tests.docs.pages import ROOT

TABLE = ROOT / "docs" / "rights.csv"

ALICE, BOB, CAROL, STRANGER = (Address.parse(f"0:0000.0000.000{number}") for number in (1, 2, 3, 9))

CALLERS: dict[str, Address | None] = {
    "the other party": ALICE,
    "the node's own address": BOB,
    "another peer": CAROL,
    "a stranger": STRANGER,
    "nobody knows who": None,
}
"""Who is at the other end, as the transport has authenticated it; Bob is the node, and the task is his and Alice's."""


@frozen
class Case:
    """A message, and the state of the task that it is about."""

    what: str
    make: Callable[[Address], SubmitRequest | TaskStatusUpdate | TaskResultMessage]
    side: Side = Side.RECEIVER
    is_final: bool = False


def submission(task_id: str, by: Address) -> SubmitRequest:
    """A submission to Bob."""
    return SubmitRequest(task_id, "work", str(by), str(BOB))


CASES = (
    Case("submit a task, in the caller's name", lambda caller: submission("new", caller)),
    Case("submit a task, in another's name", lambda caller: submission("new", ALICE if caller != ALICE else CAROL)),
    Case("submit the same task again, in Alice's name", lambda caller: submission("t1", ALICE)),
    Case("withdraw a task that was received", lambda _: TaskStatusUpdate("t1", "CANCELLED", "", ack=True)),
    Case(
        "withdraw a task that was received, in Alice's name",
        lambda _: TaskStatusUpdate("t1", "CANCELLED", "", ack=True, from_addr=str(ALICE)),
    ),
    Case("say ACCEPTED of a task that was received", lambda _: TaskStatusUpdate("t1", "ACCEPTED", "", ack=True)),
    Case("send results of a task that was received", lambda _: TaskResultMessage("t1", "text", "mine", ack=True)),
    Case("say ACCEPTED of a task that was submitted", lambda _: update("ACCEPTED"), Side.SUBMITTER),
    Case("say EXECUTING of a task that was submitted", lambda _: update("EXECUTING"), Side.SUBMITTER),
    Case("say CANCELLED of a task that was submitted", lambda _: update("CANCELLED"), Side.SUBMITTER),
    Case("say EXPIRED of a task that was submitted", lambda _: update("EXPIRED"), Side.SUBMITTER),
    Case("send results of a task that was submitted", lambda _: results(), Side.SUBMITTER),
    Case(
        "send results of a task that was submitted, in Alice's name",
        lambda _: evolve(results(), from_addr=str(ALICE)),
        Side.SUBMITTER,
    ),
    Case("send results of a task that has ended", lambda _: results(), Side.SUBMITTER, is_final=True),
    Case("say ACCEPTED of a task that is not there", lambda _: TaskStatusUpdate("t0", "ACCEPTED", "", ack=True)),
    Case("send results of a task that is not there", lambda _: TaskResultMessage("t0", "text", "", ack=True)),
)


def update(status: str) -> TaskStatusUpdate:
    """What a receiver says."""
    return TaskStatusUpdate("t1", status, "because", ack=True)


def results() -> TaskResultMessage:
    """What a receiver sends."""
    return TaskResultMessage("t1", "text", "done", completed_at="1970-01-01T00:20:00Z", ack=True)


def ask(node: Node, caller: Address | None, case: Case) -> Deferred[SubmitResponse]:
    """Hand a message to the node as its server does."""
    peer, message = Peer(caller, "a test"), case.make(caller or CAROL)
    if isinstance(message, SubmitRequest):
        return node.task_submitted(peer, message, lambda result: None)
    if isinstance(message, TaskStatusUpdate):
        return node.status_updated(peer, message)
    return node.results_received(peer, message)


def outcome(case: Case, caller: Address | None) -> str:
    """What becomes of a message: ``done``, ``no effect``, or the code of the refusal."""
    with Agents() as agents:
        agents.peer(WellBehaved(), address=ALICE)
        agents.peer(WellBehaved(), address=CAROL)
        node = agents.node(address=BOB)
        key = TaskKey(case.side, ALICE, "t1")
        if case.side is Side.RECEIVER:
            agents.done(node.task_submitted(Peer(ALICE, "a test"), submission("t1", ALICE), lambda result: None))
        else:
            agents.done(node.submit(ALICE, "work", task_id="t1"))
            agents.cut()  # what Alice would say is said by the test
        if case.is_final:
            agents.done(node.status_updated(Peer(ALICE, "a test"), update("CANCELLED")))
        before = tasks_of(agents, node)
        try:
            answer = agents.done(ask(node, caller, case))
        except TaskSubmitError as error:
            assert tasks_of(agents, node) == before, (case, caller)
            return error.code
        if answer.status != 200:
            assert tasks_of(agents, node) == before, (case, caller)
            return answer.code
        scores = agents.done(node.scores())
        assert not (case.is_final and scores), "paid for a task that had ended"
        after = tasks_of(agents, node)
        changed = {task.key for task in after if task not in before}
        assert changed <= {key, *(task.key for task in after if task.task_id == "new")}, changed
        is_done = [task.evolved(late_result_file="", revision=0) for task in after] != [
            task.evolved(late_result_file="", revision=0) for task in before
        ]
        return "done" if is_done else "no effect"


def tasks_of(agents: Agents, node: Node) -> list[Task]:
    """Every record of the node."""
    return agents.done(node.store.list_tasks(side=None, status=None, peer=None, before=None, limit=100))


def table() -> str:
    """The whole table, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["to", *CALLERS])
    for case in CASES:
        writer.writerow([case.what, *(outcome(case, caller) for caller in CALLERS.values())])
    return text.getvalue()


class RightsTests(SynchronousTestCase):
    """The table, and what holds in it."""

    def test_table(self) -> None:
        """What the docs show is what the node does."""
        self.assertEqual(table(), TABLE.read_text("utf-8"))

    def test_nothing_is_learnt(self) -> None:
        """Whoever is no party of a task is answered about it as about one that is not there."""
        for case in CASES:
            if case.side is Side.SUBMITTER or "received" in case.what:
                # Whoever gives another's name is refused, whatever there is.
                expected = "invalid" if "in Alice's name" in case.what else "unknown_task"
                for caller in (BOB, CAROL, STRANGER):
                    self.assertEqual(outcome(case, caller), expected, case.what)

    def test_texts_are_the_same(self) -> None:
        """Down to the words."""
        with Agents() as agents:
            agents.peer(WellBehaved(), address=ALICE)
            node = agents.node(address=BOB)
            agents.done(node.task_submitted(Peer(ALICE, "a test"), submission("t1", ALICE), lambda result: None))
            texts = []
            carol = Peer(CAROL, "a test")
            for task_id in ("t1", "t2"):
                for told in (
                    node.status_updated(carol, TaskStatusUpdate(task_id, "CANCELLED", "")),
                    node.results_received(carol, TaskResultMessage(task_id, "text", "")),
                ):
                    texts.append(str(self.failureResultOf(told, TaskSubmitError).value).replace(task_id, "ID"))
        self.assertEqual(len(set(texts)), 1, texts)


if __name__ == "__main__":
    print(table(), end="")
