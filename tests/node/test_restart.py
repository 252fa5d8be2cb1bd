"""Nodes that are stopped and started on a real state directory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore, IReactorThreads
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from typing_extensions import override

from tasksubmit.errors import StoreClosed, StoreError, StoreLocked
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.delivery import DeliveryService
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.records import Records
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.wire.address import Address
from tests.node.helpers import ALICE, BOB

T = TypeVar("T")

_TURNS = 5000


def _is_idle(delivery: DeliveryService, records: Records) -> bool:
    return not delivery._work and not records._locks


class RestartTestCase(TestCase):
    """Two nodes with stores on disk, whose threads are real; the clock and the network are the test's."""

    @override
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.network = MemoryNetwork(self.clock)
        self.directory = Path(self.mktemp())
        self.running: list[Node] = []
        self.addCleanup(lambda: Deferred.fromCoroutine(self._finish()))
        self.alice, self.bob = self.start(ALICE, BOB), self.start(BOB, ALICE)

    async def _finish(self) -> None:
        for node in list(self.running):
            await self.stop(node)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def start(self, own: Address, peer: Address) -> Node:
        """Start a node as a new process would, on what the last one of this address left."""
        assert IReactorThreads.providedBy(reactor)
        node = Node(
            own,
            SQLiteTaskStore(self.directory / f"node-{own.node}", reactor),
            StaticPeers({peer: self.network.client_endpoint(str(peer))}),
            clock=self.clock,
            listen={str(own): self.network.server_endpoint(str(own))},
        )
        node.startService()
        self.running.append(node)
        return node

    async def stop(self, node: Node) -> None:
        """Stop a node, and see that nothing is left of it in memory."""
        self.running.remove(node)
        await self.done(node.stopService())
        self.assertEqual((node._delivery._work, node._records._locks, len(node._live)), (set(), {}, 0))

    async def restart_bob(self) -> None:
        await self.stop(self.bob)
        self.bob = self.start(BOB, ALICE)

    async def restart_alice(self) -> None:
        await self.stop(self.alice)
        self.alice = self.start(ALICE, BOB)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let the network and the threads go on until something is so."""
        assert IReactorCore.providedBy(reactor)
        for _ in range(_TURNS):
            self.network.flush()
            if condition():
                return
            await deferLater(reactor, 0.001)
        self.fail("it never came to be")

    async def done(self, deferred: Deferred[T]) -> T:
        """What does the Deferred fire with?"""
        fired: list[Any] = []
        deferred.addBoth(fired.append)
        await self.until(lambda: fired)
        if isinstance(fired[0], Failure):
            fired[0].raiseException()
        result: T = fired[0]
        return result

    async def advance(self, seconds: float) -> None:
        """Let time pass second by second, and the threads come to rest after each."""
        while seconds > 0:
            self.clock.advance(min(1.0, seconds))
            seconds -= 1
            await self.quiet()

    async def quiet(self) -> None:
        """Let everything that is under way come to its end."""
        for node in self.running:
            delivery, records = node._delivery, node._records
            await self.until(partial(_is_idle, delivery, records))
            await self.done(node.store.owed_peers())
            # A start waits for this before it takes anything; of a damaged store it fails.
            await self.done(node.store.load().addErrback(lambda failure: failure.trap(StoreError)))

    async def status(self, node: Node, key: TaskKey) -> TaskStatus:
        return (await self.task(node, key)).status

    async def task(self, node: Node, key: TaskKey) -> Task:
        task = await self.done(node.store.get(key))
        assert task is not None
        return task

    async def submit(self, task_id: str, **options: Any) -> TaskKey:
        """Have Alice submit a task and Bob get it; gives the key of his record."""
        await self.done(self.alice.submit(BOB, f"work {task_id}", task_id=task_id, **options))
        await self.quiet()
        return TaskKey(Side.RECEIVER, ALICE, task_id)

    def wait(self, node: Node, key: TaskKey, status: str) -> Deferred[Task]:
        return node.wait(key, lambda task: task.status.value == status)

    def theirs(self, key: TaskKey) -> TaskKey:
        """The key of Alice's record."""
        return TaskKey(Side.SUBMITTER, BOB, key.task_id)


class RestartTests(RestartTestCase):
    """What survives."""

    async def test_queue(self) -> None:
        """The queue keeps its order, its head, since when that is staged, and when it expires."""
        keys = [await self.submit(f"t{n}") for n in range(3)]
        order = [keys[2], keys[0], keys[1]]
        for key in order:
            await self.advance(2)
            await self.done(self.bob.accept(key))
        before = await self.done(self.bob.store.queue(9))
        await self.restart_bob()
        self.assertEqual(await self.done(self.bob.store.queue(9)), before)
        self.assertEqual([task.key for task in before], order)
        await self.advance(10)
        begun = await self.done(self.bob.execute())
        self.assertEqual((begun.key, begun.time_staged_ms), (order[0], 14_000))
        await self.restart_bob()
        [head, _] = await self.done(self.bob.store.queue(9))
        self.assertEqual((head.key, head.staged_at), (order[1], begun.execute_started_at))
        self.clock.rightNow += 3598
        await self.advance(2)
        self.assertIs(await self.status(self.bob, order[1]), TaskStatus.ACCEPTED)
        await self.advance(2)
        self.assertIs(await self.status(self.bob, order[1]), TaskStatus.EXPIRED)
        await self.done(self.wait(self.alice, self.theirs(order[1]), "EXPIRED"))
        self.assertEqual(await self.done(self.alice.store.scores()), [(BOB, -1)])
        self.assertEqual(await self.done(self.bob.store.scores()), [(BOB, -1)])

    async def test_deadlines_while_down(self) -> None:
        """Deadlines that pass while the receiver is down are carried out when it starts, and told."""
        due = self.bob._records.now() + timedelta(seconds=30)
        late, expiring = await self.submit("late"), await self.submit("expiring", expires_at=due)
        await self.done(self.bob.accept(expiring))
        await self.stop(self.bob)
        self.clock.rightNow += 61
        self.bob = self.start(BOB, ALICE)
        for key, outcome in ((late, "accept_timeout"), (expiring, "deadline_passed")):
            task = await self.done(self.wait(self.alice, self.theirs(key), "CANCELLED"))
            self.assertEqual(task.outcome, outcome)

    async def test_sender_before_delivery(self) -> None:
        """A submission that was not delivered when its node stopped is delivered by the next one."""
        await self.stop(self.bob)
        await self.done(self.alice.submit(BOB, "work", task_id="t1"))
        await self.restart_alice()
        await self.quiet()
        self.bob = self.start(BOB, ALICE)
        await self.advance(3)
        self.assertIs(await self.status(self.bob, TaskKey(Side.RECEIVER, ALICE, "t1")), TaskStatus.NEW)

    async def test_results_owed(self) -> None:
        """Results that were given while the submitter was away arrive after the receiver's restart, paid once."""
        key = await self.submit("t1")
        await self.done(self.bob.accept(key))
        await self.done(self.bob.execute())
        await self.quiet()
        await self.stop(self.alice)
        await self.done(self.bob.send_results(key, filename="data.csv", content=b"1,2\n"))
        await self.restart_bob()
        self.alice = self.start(ALICE, BOB)
        result = self.alice.result(self.theirs(key))
        await self.advance(3)
        message = await self.done(result)
        self.assertEqual((message.filename, message.file_data), ("data.csv", b"1,2\n"))
        await self.done(self.wait(self.bob, key, "SUCCEEDED"))
        await self.done(self.wait(self.alice, self.theirs(key), "SUCCEEDED"))
        self.assertEqual(await self.done(self.alice.store.scores()), [(ALICE, -1), (BOB, 1)])
        self.assertEqual(await self.done(self.bob.store.scores()), [(ALICE, -1), (BOB, 1)])
        await self.restart_alice()
        self.assertEqual((await self.done(self.alice.result(self.theirs(key)))).file_data, b"1,2\n")
        files = [path.name for path in (self.directory / "node-1" / "results").iterdir() if path.is_file()]
        self.assertEqual(files, ["t1_data.csv"])

    async def test_features(self) -> None:
        """What a peer announced is known after a restart: one connection serves, and a lost answer is repeated."""
        key = await self.submit("t1")
        await self.restart_bob()
        await self.restart_alice()
        self.network.dials.clear()
        await self.done(self.bob.accept(key))
        await self.done(self.bob.execute())
        await self.done(self.bob.send_results(key, "done"))
        await self.done(self.wait(self.alice, self.theirs(key), "SUCCEEDED"))
        self.assertEqual(self.network.dials[str(ALICE)], 1)
        [known] = (await self.done(self.alice.store.peer_features())).values()
        self.assertEqual(known, {"persistent", "ack"})

    async def test_cancellation_owed(self) -> None:
        """A withdrawal that was not delivered when its node stopped is delivered by the next one."""
        key = await self.submit("t1")
        await self.stop(self.bob)
        await self.done(self.alice.cancel(self.theirs(key)))
        await self.restart_alice()
        await self.quiet()
        self.bob = self.start(BOB, ALICE)
        await self.quiet()
        await self.advance(3)
        self.assertIs(await self.status(self.bob, key), TaskStatus.CANCELLED)
        self.assertIs(await self.status(self.alice, self.theirs(key)), TaskStatus.CANCELLED)

    async def test_same_node(self) -> None:
        """One node can be stopped and started again in one process, in the middle of a task."""
        key = await self.submit("t1")
        for step in (self.bob.accept, self.bob.execute, self.bob.send_results):
            await self.stop(self.bob)
            with self.assertRaises(StoreClosed):
                await self.done(self.bob.store.get(key))
            self.bob.startService()
            self.running.append(self.bob)
            await self.done(step(key))
        await self.done(self.wait(self.alice, self.theirs(key), "SUCCEEDED"))

    async def test_taken_directory(self) -> None:
        """A second node on the same directory does not start, and leaves the first alone."""
        with self.assertRaises(StoreLocked):
            self.start(BOB, ALICE)
        key = await self.submit("t1")
        self.assertIs(await self.status(self.bob, key), TaskStatus.NEW)


class BusyTests(RestartTestCase):
    """Stops in the middle of work, with threads."""

    async def test_stop_in_flight(self) -> None:
        """A stop while commands, deliveries and answers are under way ends, and the next start finishes the work."""
        await self.submit("first")
        for turn in range(6):
            keys = [TaskKey(Side.RECEIVER, ALICE, f"{turn}-{n}") for n in range(8)]
            commands = [self.alice.submit(BOB, "work", task_id=key.task_id) for key in keys]
            for _ in range(turn * 4):
                self.network.pump()
            stopping = self.alice if turn % 2 else self.bob
            self.running.remove(stopping)
            stopped = stopping.stopService()
            for command in commands:
                try:
                    await self.done(command)
                except StoreClosed:
                    continue
            await self.done(stopped)
            stopping.startService()
            self.running.append(stopping)
            for key in keys:
                # Repeating the command is safe, and is what a caller does who was told nothing.
                await self.done(self.alice.submit(BOB, "work", task_id=key.task_id))
            for _ in range(4):
                await self.advance(1)
            for key in keys:
                self.assertIs(await self.status(self.bob, key), TaskStatus.NEW, key)
                self.assertIs(await self.status(self.alice, self.theirs(key)), TaskStatus.NEW, key)

    async def test_give_up(self) -> None:
        """A command whose caller went away is carried out and told, and its result file is kept."""
        key = await self.submit("t1")
        for command, status in (
            (self.bob.accept(key), "ACCEPTED"),
            (self.wait(self.bob, key, "ACCEPTED"), "ACCEPTED"),
        ):
            command.addErrback(lambda _: None)
            command.cancel()
            await self.done(self.wait(self.alice, self.theirs(key), status))
        await self.done(self.bob.execute(key))
        given = self.bob.send_results(key, "done")
        given.addErrback(lambda _: None)
        given.cancel()
        await self.done(self.wait(self.alice, self.theirs(key), "SUCCEEDED"))
        self.assertEqual((await self.done(self.bob.result(key))).result_text, "done")

    async def work(self, node: Node, key: TaskKey) -> None:
        await node.accept(key)
        begun = await node.execute()
        await node.send_results(begun.key, begun.task_id)

    async def test_many(self) -> None:
        """Many tasks in both directions, all at once, are all done and paid once, on both nodes alike."""
        ends = []
        for node, other, name in ((self.alice, self.bob, "a"), (self.bob, self.alice, "b")):
            for n in range(25):
                node.submit(other.address, "work", task_id=f"{name}{n}")
                ends.append((node, other, f"{name}{n}"))
        for node, other, task_id in ends:
            key = TaskKey(Side.RECEIVER, node.address, task_id)
            while await self.done(other.store.get(key)) is None:
                await self.quiet()
            Deferred.fromCoroutine(self.work(other, key))
        for node, other, task_id in ends:
            result = await self.done(node.result(TaskKey(Side.SUBMITTER, other.address, task_id)))
            self.assertEqual(result.result_text, task_id)
            await self.done(self.wait(other, TaskKey(Side.RECEIVER, node.address, task_id), "SUCCEEDED"))
        await self.quiet()
        self.assertEqual(await self.done(self.alice.store.scores()), [(ALICE, 0), (BOB, 0)])
        self.assertEqual(await self.done(self.bob.store.scores()), [(ALICE, 0), (BOB, 0)])
