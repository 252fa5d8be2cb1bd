"""Peers that are dead in any of many ways: they cost little, for any number of messages, and delay nobody else."""

from __future__ import annotations

import gc
import socket
import sqlite3
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, Timeouts
from tasksubmit.lifecycle.task import Task, from_milliseconds
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.protocol.framing import CLOSE_TIMEOUT_SECONDS
from tasksubmit.stores import queries
from tasksubmit.stores.changes import create_tasks
from tasksubmit.stores.migrations import migrate, schema_steps
from tasksubmit.stores.sqlite import DATABASE, SQLiteTaskStore
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import MAX_DESCRIPTION_BYTES, ResponseStatus, SubmitResponse
from tests.faults.network import TCPTestCase, real
from tests.node.helpers import ALICE, BOB, CAROL, OURS, NodeTestCase, Script, task_id_of
from tests.protocol.support import RawFactory, RawPeer
from tests.tiers import tier

T = TypeVar("T")

DEAD, LIVE = BOB, CAROL

PATIENT = Timeouts(answer_timeout=timedelta(days=1))
"""For an Alice who does not cancel what is not answered."""

WAITING = 40
SECONDS = 600
MOST_ATTEMPTS = 25
"""In so many seconds: with waits of 0.5, 1, 2, 4, 8, 16 and then 30 seconds there would be 25."""


def acknowledge(peer: RawPeer, frame: Frame) -> None:
    """Answer as our nodes do."""
    answer = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", features=tuple(OURS))
    peer.send(answer.to_frame().encode())


def ignore(peer: RawPeer, frame: Frame) -> None:
    """Take everything and say nothing."""


def answer_half(peer: RawPeer, frame: Frame) -> None:
    """Begin an answer, and never end it."""
    answer = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes").to_frame().encode()
    if len(peer.frames) == 1:
        peer.send(answer[: len(answer) // 2])


def hang_up(peer: RawPeer, frame: Frame) -> None:
    """Close without an answer."""
    peer.close()


class InMemoryTests(NodeTestCase):
    """Dead peers on a network in memory."""

    def go_through(self, script: Script | None, known: frozenset[str] = OURS) -> None:
        """Owe much to a peer that is dead in this way, see that the live one does not notice, and revive it."""
        dead = self.listen(DEAD, lambda peer, frame: (script or acknowledge)(peer, frame))
        live = self.listen(LIVE, acknowledge)
        self.network.refuse(str(DEAD), script is None)
        store = SQLiteTaskStore(None)
        store.open()
        store.remember_features(DEAD, known)
        alice = self.make_node(ALICE, DEAD, LIVE, store=store, random=Random(1), timeouts=PATIENT)
        for n in range(WAITING):
            self.successResultOf(alice.submit(DEAD, f"work {n}"))
        for _ in range(60):
            handle = self.done(alice.submit(LIVE, "work"))
            self.assertIsNotNone(self.task(alice, handle.key).answered_at)
            self.assertLessEqual(self.network.connection_count(str(DEAD)), 1)
            self.advance(SECONDS / 60, step=2)
        self.assertTrue(5 <= self.network.dials[str(DEAD)] <= MOST_ATTEMPTS, self.network.dials)
        self.assertEqual(sum(len(peer.frames) for peer in live.peers), 60)
        self.network.refuse(str(DEAD), False)
        script = acknowledge
        self.advance(200, step=2)
        self.assertTrue(all(task.answered_at for task in self.tasks(alice)))
        self.assertEqual(len({task_id_of(frame) for peer in dead.peers for frame in peer.frames}), WAITING)
        self.assert_idle(alice)

    def test_refuses(self) -> None:
        """A peer that refuses connections, known or not, is tried less and less often, and gets all in the end."""
        self.go_through(None)

    def test_refuses_stranger(self) -> None:
        """The same when nothing is known of it."""
        self.go_through(None, frozenset())

    def test_ignores(self) -> None:
        """The same when it accepts connections and never answers."""
        self.go_through(ignore)

    def test_answers_half(self) -> None:
        """The same when it begins an answer and never ends it."""
        self.go_through(answer_half)

    def test_hangs_up(self) -> None:
        """The same when it closes without an answer."""
        self.go_through(hang_up)


@implementer(IStreamClientEndpoint)
class Nowhere:
    """Dials an address from which nothing ever comes back."""

    def __init__(self) -> None:
        self.dials = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Never fires."""
        self.dials += 1
        return Deferred()


class DeafPeer(RawPeer):
    """A peer that never reads."""

    @override
    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.pauseProducing()


class DeafPeers(RawFactory):
    """Makes and keeps them: the reactor does not keep what it does not read from."""

    @override
    def buildProtocol(self, addr: object) -> RawPeer:
        peer = DeafPeer()
        self.peers.append(peer)
        return peer


class DeadPeerTestCase(TCPTestCase):
    """A node on real TCP connections that owes much to a dead peer, and something to a live one."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.live = RawFactory(acknowledge)
        self.way_to_live = self.listen(self.live)

    def start(self, dead: IStreamClientEndpoint, store: SQLiteTaskStore) -> Node:
        """Start a node with these peers."""
        node = Node(
            ALICE,
            store,
            StaticPeers({DEAD: dead, LIVE: self.way_to_live}),
            clock=self.clock,
            timeouts=PATIENT,
            random=Random(1),
        )
        node.startService()
        self.addCleanup(self.stop, node)
        return node

    async def stop(self, node: Node) -> None:
        """Stop a node, if it runs."""
        if node.running:
            stopped = node.stopService()
            self.clock.advance(CLOSE_TIMEOUT_SECONDS)  # which a peer that does not read has before it is cut off
            await stopped

    def closed_port(self) -> IStreamClientEndpoint:
        """A port on which nobody listens."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            return TCP4ClientEndpoint(real, "127.0.0.1", unused.getsockname()[1])

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Let the reactor turn until a condition holds; the clock stands still."""
        for _ in range(3000):
            if condition():
                return
            await self.turn(0.001)
        self.fail(what)

    async def see_live(self, node: Node) -> None:
        """Submit to the live peer, and see that it is sent and answered without a tick of the clock."""
        before = sum(len(peer.frames) for peer in self.live.peers)
        handle = await node.submit(LIVE, "work")
        await self.until(
            lambda: sum(len(peer.frames) for peer in self.live.peers) == before + 1, "the live peer got nothing"
        )
        answered = node.wait(handle.key, lambda task: task.answered_at is not None)
        await self.until(lambda: answered.called, "the answer of the live peer was not taken")


class SocketTests(DeadPeerTestCase):
    """Dead peers on real TCP connections, on which bytes that nobody reads fill buffers."""

    async def go_through(self, dead: IStreamClientEndpoint, attempts: Callable[[], int], size: int = 1) -> None:
        """Let time pass with a dead peer: it is tried again and again, not too often, and nobody else is delayed."""
        store = SQLiteTaskStore(None)
        store.open()
        store.remember_features(DEAD, OURS)
        node = self.start(dead, store)
        for n in range(12):
            await node.submit(DEAD, f"{n}" + "x" * size)
        await self.see_live(node)
        for second in range(SECONDS):
            self.clock.advance(1)
            await self.turn()
            if second % 60 == 0:
                await self.see_live(node)
        self.assertTrue(2 <= attempts() <= MOST_ATTEMPTS, attempts())
        await self.stop(node)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_closed_port(self) -> None:
        """Nobody listens."""
        dialled = Counting(self.closed_port())
        await self.go_through(dialled, lambda: dialled.dials)

    async def test_nowhere(self) -> None:
        """No answer comes even to the dialling."""
        nowhere = Nowhere()
        await self.go_through(nowhere, lambda: nowhere.dials)

    async def test_never_accepted(self) -> None:
        """The kernel accepts connections, the process does not."""
        listening = socket.socket()
        self.addCleanup(listening.close)
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        dialled = Counting(TCP4ClientEndpoint(real, "127.0.0.1", listening.getsockname()[1]))
        await self.go_through(dialled, lambda: dialled.dials)

    async def test_ignores(self) -> None:
        """It reads everything, and never answers."""
        dead = RawFactory(ignore)
        await self.go_through(self.listen(dead), lambda: len(dead.peers))

    async def test_answers_half(self) -> None:
        """It begins an answer, and never ends it."""
        dead = RawFactory(answer_half)
        await self.go_through(self.listen(dead), lambda: len(dead.peers))

    async def test_reads_nothing(self) -> None:
        """It reads nothing, and what is to be sent is more than all buffers on the way take."""
        dialled = Narrow(self.listen(DeafPeers()))
        await self.go_through(dialled, lambda: dialled.dials, size=MAX_DESCRIPTION_BYTES - 2)


@implementer(IStreamClientEndpoint)
class Counting:
    """An endpoint that counts how often it is dialled."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self.endpoint = endpoint
        self.dials = 0

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`."""
        self.dials += 1
        return self.endpoint.connect(protocolFactory)


class Narrow(Counting):
    """One whose connections hold little on the way."""

    @override
    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return super().connect(protocolFactory).addCallback(self._narrow)

    def _narrow(self, protocol: Any) -> Any:
        protocol.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        return protocol


VERY_MANY = 100_000
MOST_IN_MEMORY = 1000
"""Deliveries, and as many tasks: 256 under way and twice that read ahead, with room."""

TICKS = 100
MOST_READS = 20
"""Of the store for each tick, on average: the deadlines, a few for each attempt, and those of this test."""


class CountingStore(SQLiteTaskStore):
    """Counts what it is asked for, and how much there is in memory whenever it has read what the dead peer is owed."""

    reads = 0
    writes = 0
    most_in_memory = 0

    def __init__(self, directory: Path, reactor: Any) -> None:
        super().__init__(directory, reactor)
        gc.collect()
        self._before = self._in_memory()  # of other tests

    @override
    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        self.reads += 1
        return super()._read(operation)

    @override
    def _write(self, operation: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        self.writes += 1
        return super()._write(operation)

    @override
    def ready_deliveries(
        self,
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        ready = super().ready_deliveries(peer, now, limit, skip, kinds, sides)
        return ready.addCallback(self._count) if peer == DEAD else ready

    def _count(self, ready: list[tuple[Delivery, Task]]) -> list[tuple[Delivery, Task]]:
        now = [count - before for count, before in zip(self._in_memory(), self._before, strict=True)]
        self.most_in_memory = max(self.most_in_memory, *now)
        return ready

    def _in_memory(self) -> list[int]:
        kinds = [type(thing) for thing in gc.get_objects()]
        return [kinds.count(Delivery), kinds.count(Task)]

    async def come_to_rest(self) -> None:
        """Wait until what was asked for is done, and what is asked for in consequence."""
        before = -1
        while before != self.reads + self.writes:
            before = self.reads + self.writes + 2
            await self.peer_features()
            await self.remember_features(LIVE, OURS)


def fill(directory: Path, amount: int) -> None:
    """Make a state directory in which a node owes that many submissions to the dead peer."""
    directory.mkdir()
    connection = sqlite3.connect(directory / DATABASE, isolation_level=None)
    migrate(connection, DATABASE, schema_steps())
    connection.execute("BEGIN")
    created_at = from_milliseconds(1_000_000)
    task = Task(side=Side.SUBMITTER, peer=DEAD, task_id="t0", description="w" * 100, created_at=created_at)
    delivery = Delivery(key=task.key, kind=DeliveryKind.SUBMISSION, created_at=created_at)
    create_tasks(connection, [(task, [delivery])])
    for table, key in (("tasks", "number"), ("deliveries", "id")):
        names = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        columns = ", ".join(name for name in names if name not in (key, "task_id"))
        connection.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            f" INSERT INTO {table} (task_id, {columns})"
            f" SELECT 't' || i, {columns} FROM n, {table} WHERE task_id = 't0'",
            (amount - 1,),
        )
    queries.remember_features(connection, DEAD, OURS)
    connection.execute("COMMIT")
    connection.close()


class ManyWaitingTests(DeadPeerTestCase):
    """A dead peer with very many messages waiting for it in a real state directory."""

    async def go_through(self, dead: Counting) -> None:
        """Let time pass with the dead peer."""
        directory = Path(self.mktemp())
        fill(directory, VERY_MANY)
        store = CountingStore(directory, real)
        node = self.start(dead, store)
        await self.until(lambda: dead.dials > 0, "the dead peer was not dialled")
        await self.see_live(node)
        reads = 0
        for tick in range(TICKS):
            before = store.reads
            self.clock.advance(1)
            await store.come_to_rest()
            reads += store.reads - before
            if tick % 10 == 0:
                await self.see_live(node)
        self.assertTrue(3 <= dead.dials <= MOST_ATTEMPTS, dead.dials)
        self.assertTrue(256 <= store.most_in_memory <= MOST_IN_MEMORY, store.most_in_memory)
        self.assertLessEqual(reads / TICKS, MOST_READS)
        await self.stop(node)
        still = sqlite3.connect(directory / DATABASE)
        self.addCleanup(still.close)
        [(count,)] = still.execute("SELECT count(*) FROM deliveries")
        self.assertEqual(count, VERY_MANY)

    @tier("full")
    async def test_refuses(self) -> None:
        """100,000 messages for a peer that refuses connections cost bounded memory, and delay nobody."""
        await self.go_through(Counting(self.closed_port()))

    async def test_ignores(self) -> None:
        """100,000 messages for a peer that accepts connections and never answers cost bounded memory, too."""
        await self.go_through(Counting(self.listen(RawFactory(ignore))))
