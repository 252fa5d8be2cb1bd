"""What the tests on a disk share: two nodes on it, what they told others, and what must be left of that."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import frozen
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorThreads
from twisted.internet.task import Clock, LoopingCall, deferLater
from twisted.trial.unittest import TestCase
from typing_extensions import override

from tasksubmit.errors import StoreError
from tasksubmit.interfaces import Peer, SendResult
from tasksubmit.lifecycle.table import TRANSITIONS, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import DATABASE, SQLiteTaskStore
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import (
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tests.faults.disk import Disk
from tests.node.helpers import ALICE, BOB
from tests.processes import LONGEST_SECONDS

STATES = {ALICE: "alice", BOB: "bob"}
"""The state directories, on the disk."""

_IN_MEMORY = "/dev/shm"
_TURNS = 10_000
_TURN_SECONDS = 0.02
"""By how much time passes for the nodes in a turn of the reactor, which takes a millisecond or so."""


@frozen
class Acknowledged:
    """What a node told somebody: that it has a task, how far it is, and the content of its results, if it has them."""

    node: Address
    key: TaskKey
    status: TaskStatus
    revision: int = 0
    content: bytes | None = None


class MarkingNode(Node):
    """A node that marks in the disk's journal whatever it answers 200, before it does."""

    disk: Disk

    def _mark(self, response: SubmitResponse, key: TaskKey, content: bytes | None = None) -> SubmitResponse:
        if response.status == ResponseStatus.ACCEPTED:
            status = TaskStatus(response.current_status or "NEW")
            self.disk.mark(Acknowledged(self.address, key, status, content=content))
        return response

    @override
    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> Deferred[SubmitResponse]:
        key = TaskKey(Side.RECEIVER, Address.parse(request.from_addr), request.task_id)
        return super().task_submitted(peer, request, send_result).addCallback(self._mark, key)

    @override
    def status_updated(self, peer: Peer, update: TaskStatusUpdate) -> Deferred[SubmitResponse]:
        return super().status_updated(peer, update).addCallback(self._mark, key_of(self.address, update.task_id))

    @override
    def results_received(self, peer: Peer, message: TaskResultMessage) -> Deferred[SubmitResponse]:
        content = message.file_data if message.result_type == "file" else message.result_text.encode()
        key = key_of(self.address, message.task_id)
        return super().results_received(peer, message).addCallback(self._mark, key, content)


def key_of(node: Address, task_id: str) -> TaskKey:
    """The key of a task that Alice submitted to Bob, in the one's or the other's record."""
    return TaskKey(Side.SUBMITTER, BOB, task_id) if node == ALICE else TaskKey(Side.RECEIVER, ALICE, task_id)


class DiskTestCase(TestCase):
    """A disk, and two nodes on it whose threads are real; their clock and their network are the test's."""

    timeout = LONGEST_SECONDS

    @override
    def setUp(self) -> None:
        # Nothing here needs a real disk, and what is restored after a power loss would be synced to it.
        temporary = TemporaryDirectory(prefix="tasksubmit-", dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None)
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)
        self.disk = Disk(self.directory / "machine")
        self.disk.install()
        self.addCleanup(self.disk.remove)
        for name in STATES.values():
            (self.directory / "machine" / name).mkdir()
        self.disk.sync_directory(self.directory / "machine")
        self.clock = Clock()
        self.clock.advance(1000)
        self.network = MemoryNetwork(self.clock)
        self.running: list[MarkingNode] = []
        self._turns = LoopingCall(self._turn)
        self._turns.start(0.001)
        self.addCleanup(lambda: Deferred.fromCoroutine(self._finish()))

    def _turn(self) -> None:
        self.clock.advance(_TURN_SECONDS)
        self.network.flush()

    async def _finish(self) -> None:
        await self.stop(*self.running)
        self._turns.stop()
        self.flushLoggedErrors(StoreError)  # of a disk that failed, or of a stop in the midst of work
        self.assertEqual(self.disk.errors, [])

    def start(self, own: Address, states: Path | None = None) -> MarkingNode:
        """Start a node as a new process would; ``states`` is where the state directories are, if not on the disk."""
        assert IReactorThreads.providedBy(reactor)
        peer = BOB if own == ALICE else ALICE
        node = MarkingNode(
            own,
            SQLiteTaskStore((states or self.directory / "machine") / STATES[own], reactor),
            StaticPeers({peer: self.network.client_endpoint(str(peer))}),
            clock=self.clock,
            listen={str(own): self.network.server_endpoint(str(own))},
        )
        node.disk = self.disk
        node.startService()
        self.running.append(node)
        return node

    async def stop(self, *nodes: MarkingNode) -> None:
        """Stop nodes, all at once."""
        self.running = [node for node in self.running if node not in nodes]
        for stopped in [node.stopService() for node in nodes]:
            await stopped

    async def told(self, command: Deferred[Task], node: Node, content: bytes | None = None) -> Task:
        """Wait for a command of a node, and mark that whoever gave it was told of its success."""
        task = await command
        self.disk.mark(Acknowledged(node.address, task.key, task.status, task.revision, content))
        return task

    async def turn(self) -> None:
        """Let the nodes and their threads go on a little."""
        assert IReactorCore.providedBy(reactor)
        await deferLater(reactor, 0.001)

    async def until(self, condition: Callable[[], object], otherwise: str = "it never came to be") -> None:
        """Wait until something is so."""
        for _ in range(_TURNS):
            if condition():
                return
            await self.turn()
        self.fail(otherwise)

    def acknowledged(self, node: Address) -> list[Acknowledged]:
        """What the node has told anybody, until now."""
        marks = (getattr(entry, "what", None) for entry in self.disk.journal)
        return [what for what in marks if isinstance(what, Acknowledged) and what.node == node]


async def all_tasks(node: Node) -> list[Task]:
    """Every record that a node has."""
    tasks: list[Task] = await node.store.list_tasks(side=None, status=None, peer=None, before=None, limit=1000)
    return tasks


async def violations(directory: Path, acknowledged: Iterable[Acknowledged]) -> list[str]:
    """What is wrong with a state directory that a power loss left, given what its node had told others."""
    assert IReactorThreads.providedBy(reactor)
    store = SQLiteTaskStore(directory, reactor)
    try:
        store.open()
    except StoreError as error:
        return [f"it does not open: {error}"]
    try:
        tasks = {task.key: task for task in await store.list_tasks(limit=1000)}
        contents = {key: await _content(store, task) for key, task in tasks.items() if task.result_file}
    except (StoreError, ValueError) as error:
        return [f"it cannot be read: {error}"]
    finally:
        await store.close()
    found = [
        *_violations_in_records(tasks.values(), contents),
        *(violation for what in acknowledged for violation in _violations_of(what, tasks, contents)),
    ]
    return found + _violations_in_database(directory / DATABASE)


def _violations_in_records(tasks: Iterable[Task], contents: Mapping[TaskKey, bytes | str]) -> Iterator[str]:
    for task in tasks:
        if not is_reachable(task.side, TaskStatus.NEW, task.status):
            yield f"{task.task_id} is {task.status}, which no {task.side} can be"
        content = contents.get(task.key)
        if isinstance(content, str):
            yield f"{task.task_id} is {task.status}, its results {content}"


def _violations_of(
    what: Acknowledged, tasks: Mapping[TaskKey, Task], contents: Mapping[TaskKey, bytes | str]
) -> Iterator[str]:
    task = tasks.get(what.key)
    if task is None:
        yield f"{what.key.task_id} was {what.status}, and is lost"
    elif task.revision < what.revision or not is_reachable(task.side, what.status, task.status):
        yield f"{task.task_id} was {what.status} ({what.revision}), and is {task.status} ({task.revision})"
    elif what.content is not None and contents.get(what.key) != what.content:
        yield f"{task.task_id} had {len(what.content)} bytes of results, and has others"


async def _content(store: SQLiteTaskStore, task: Task) -> bytes | str:
    """The results that a record names, or what is wrong with them."""
    try:
        content = await store.read_result(task.result_file)
    except StoreError as error:
        return f"cannot be read: {error}"
    return content if len(content) == task.result_bytes else f"are {len(content)} bytes instead of {task.result_bytes}"


def _violations_in_database(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        found = [f"integrity: {line}" for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
        booked = connection.execute("SELECT party, sum(points) FROM bookings GROUP BY party ORDER BY party").fetchall()
        scores = connection.execute("SELECT party, points FROM scores ORDER BY party").fetchall()
        repeated = connection.execute(
            "SELECT task_id FROM bookings GROUP BY task_id, side, peer, party HAVING count(*) > 1"
        ).fetchall()
    found += [f"{task_id} is booked twice" for (task_id,) in repeated]
    if booked != scores:
        found.append(f"the bookings are {booked}, the scores {scores}")
    return found


def is_reachable(side: Side, before: TaskStatus, after: TaskStatus) -> bool:
    """Whether the table lets a task come from one status to the other, which may be the same."""
    reached: set[Any] = set()
    ahead: set[Any] = {before}
    while ahead:
        reached |= ahead
        ahead = {
            transition.target
            for (whose, status, _), transition in TRANSITIONS.items()
            if whose is side and status in ahead
        } - reached
    return after in reached
