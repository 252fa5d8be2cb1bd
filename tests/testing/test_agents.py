"""Agents in memory: made on demand, taken through tasks, cut off, slowed down, killed, and cleaned up after."""

from __future__ import annotations

import gc
import math
import sys
import unittest
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit import Address, Node, SQLiteTaskStore, StaticPeers, SubmittedTask, TaskStatus
from tasksubmit.errors import InvalidMessage, StoreClosed, TaskCancelled, UnknownPeer
from tasksubmit.lifecycle.table import Lease, Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.testing import Agents, FakeExecutor, MemoryTaskStore

ALICE = Address.parse("0:0000.0000.0001")


class AgentsCase(SynchronousTestCase):
    """Agents of a test of its own, which leaves nothing."""

    @override
    def setUp(self) -> None:
        self.agents = Agents(self)

    def pair(self, **options: Any) -> tuple[Node, Node]:
        """Make one who asks and one who works."""
        return self.agents.node(), self.agents.node(**options)

    def submit(self, asker: Node, worker: Node, description: str = "work", **options: Any) -> SubmittedTask:
        """Submit a task."""
        return self.agents.done(asker.submit(worker.address, description, **options))


class NodeTests(AgentsCase):
    """Nodes on demand."""

    def test_addresses(self) -> None:
        """Addresses are made up, or given; one that is taken is refused."""
        first, second = self.pair()
        third = self.agents.node(Address.parse("9:0009.0000.0009"))
        self.assertEqual(str(third.address), "9:0009.0000.0009")
        self.assertEqual(len({first.address, second.address, third.address}), 3)
        self.assertEqual(set(self.agents.addresses()), {first.address, second.address, third.address})
        with self.assertRaisesRegex(ValueError, "9:0009.0000.0009 already"):
            self.agents.node(third.address)

    def test_mutual_peers(self) -> None:
        """Each agent knows all others, those that come later too, unless told otherwise."""
        asker = self.agents.node()
        worker = self.agents.node()
        self.submit(asker, worker)
        self.submit(worker, asker)
        for peers in ([asker.address], StaticPeers({})):
            stranger = self.agents.node(peers=peers)
            with self.assertRaises(UnknownPeer):
                self.submit(stranger, worker)
            with self.assertRaises(UnknownPeer):
                self.submit(stranger, stranger)

    def test_options(self) -> None:
        """Any option of a node is passed through, and something else may make the node."""
        made: list[tuple[Any, ...]] = []

        def make(*args: Any, **options: Any) -> Node:
            made.append(args)
            return Node(*args, **options)

        store = MemoryTaskStore()
        worker = self.agents.node(ALICE, store=store, make=make, max_description_bytes=4)
        self.assertEqual(made[0][:2], (ALICE, store))
        self.assertIs(worker.store, store)
        with self.assertRaises(InvalidMessage):
            self.submit(worker, self.agents.node(), "too long")

    def test_same_ids_in_each_run(self) -> None:
        """What is random is the same in each run."""
        ids = []
        for _ in range(2):
            with Agents() as agents:
                asker, worker = agents.node(), agents.node()
                ids.append(agents.done(asker.submit(worker.address, "work")).task_id)
        self.assertEqual(ids[0], ids[1])


class WaitingTests(AgentsCase):
    """Results, and time."""

    def test_done(self) -> None:
        """A Deferred and a coroutine are waited for, while bytes move and time passes as far as they need."""
        asker, worker = self.pair()

        async def ask() -> str:
            task = await asker.submit(worker.address, "work")
            return (await task.result()).result_text

        started = self.agents.clock.seconds()
        self.assertEqual(self.agents.done(succeed(7)), 7)
        self.assertEqual(self.agents.clock.seconds(), started)
        later: Deferred[str] = Deferred()
        self.agents.clock.callLater(2.5, later.callback, "late")
        self.assertEqual(self.agents.done(later), "late")
        self.assertEqual(self.agents.clock.seconds(), started + 2.5)
        self.agents.clock.callLater(1, lambda: self.agents.clock.callLater(1, self.work_for, worker))
        self.assertEqual(self.agents.done(ask()), "all of it")

    def work_for(self, worker: Node) -> None:
        """Do the one task that a node has."""
        [key] = [
            task.key
            for task in self.successResultOf(
                worker.store.list_tasks(side=None, status=None, peer=None, before=None, limit=9)
            )
        ]
        for command in (worker.accept(key), worker.execute(key), worker.send_results(key, "all of it")):
            self.successResultOf(command)

    def test_done_again(self) -> None:
        """A Deferred keeps its result."""
        deferred = succeed(7)
        self.assertEqual([self.agents.done(deferred) for _ in range(2)], [7, 7])

    def test_failure(self) -> None:
        """What is waited for raises what it failed with."""
        with self.assertRaisesRegex(KeyError, "lost"):
            self.agents.done(fail(KeyError("lost")))

    def test_too_late(self) -> None:
        """Waiting ends when patience does; the error says where the tasks stand."""
        asker, worker = self.pair()
        task = self.submit(asker, worker)
        started = self.agents.clock.seconds()
        with self.assertRaisesRegex(AssertionError, f"7 seconds.*submitter {asker.address} has {task.task_id} as NEW"):
            self.agents.done(task.accepted(), seconds=7)
        self.assertLessEqual(self.agents.clock.seconds(), started + 7)
        self.agents.complete(task)
        with self.assertRaisesRegex(AssertionError, "no task is under way"):
            self.agents.done(Deferred())
        with self.assertRaisesRegex(TypeError, "not 5"):
            self.agents.done(5)  # type: ignore[arg-type]  # the mistake that is made

    def test_advance(self) -> None:
        """Time passes from one thing to the next, exactly as far as it should."""
        seen: list[float] = []
        started = self.agents.clock.seconds()
        self.agents.clock.callLater(1.5, lambda: self.agents.clock.callLater(0.25, lambda: seen.append(now())))

        def now() -> float:
            return self.agents.clock.seconds() - started

        self.agents.advance(10)
        self.assertEqual((seen, now()), ([1.75], 10))

    def test_deadline(self) -> None:
        """What a node does with time happens as time passes: a task that nobody accepts is cancelled after a minute."""
        task = self.submit(*self.pair())
        self.agents.advance(59)
        self.assertIs(self.agents.submitted(task).status, TaskStatus.NEW)
        self.agents.advance(2)
        with self.assertRaises(TaskCancelled):
            self.agents.done(task.result())


class LifeTests(AgentsCase):
    """A task's way."""

    def statuses(self, task: SubmittedTask) -> list[str]:
        """Where it stands, as its submitter and as its receiver have it."""
        return [self.agents.submitted(task).status.value, self.agents.received(task).status.value]

    def test_step_by_step(self) -> None:
        """A task is accepted, begun and completed, and either side knows."""
        task = self.submit(*self.pair())
        self.assertEqual(self.statuses(task), ["NEW", "NEW"])
        for step, expected in ((self.agents.accept, "ACCEPTED"), (self.agents.execute, "EXECUTING")):
            self.assertEqual(step(task).status.value, expected)
            self.assertEqual(self.statuses(task), [expected, expected])
        self.assertEqual(self.agents.complete(task, "done").result_type, "text")
        self.assertEqual(self.statuses(task), ["SUCCEEDED", "SUCCEEDED"])
        self.assertEqual(self.agents.done(task.result()).result_text, "done")

    def test_all_at_once(self) -> None:
        """A step takes those before it, as far as they were not taken."""
        asker, worker = self.pair()
        self.agents.execute(begun := self.submit(asker, worker))
        self.assertEqual(self.statuses(begun), ["EXECUTING", "EXECUTING"])
        self.agents.complete(begun)
        self.agents.complete(task := self.submit(asker, worker), filename="a.md", content=b"# A")
        result = self.agents.done(task.result())
        self.assertEqual((result.filename, result.file_data), ("a.md", b"# A"))

    def test_unknown(self) -> None:
        """A task that has not arrived, or whose receiver is no node, is not helped."""
        asker, worker = self.pair()
        self.agents.cut()
        with self.assertRaisesRegex(AssertionError, "has the submission arrived"):
            self.agents.accept(self.submit(asker, worker))


class TroubleTests(AgentsCase):
    """Partitions and delays."""

    def test_cut(self) -> None:
        """Between agents that are cut off from each other nothing passes until that is healed; others talk on."""
        asker, worker = self.pair()
        other = self.agents.node()
        self.submit(asker, worker)
        dials = self.agents.network.dials[str(worker.address)]
        self.agents.cut(asker, worker)
        self.assertEqual(self.agents.network.connection_count(str(worker.address)), 0)
        task = self.submit(asker, worker)
        self.agents.advance(20)
        self.assertGreater(self.agents.network.dials[str(worker.address)], dials + 2)
        self.assertIsNone(self.agents.done(worker.store.recall(self.received_key(task))))
        self.agents.complete(self.submit(asker, other))
        self.agents.complete(self.submit(other, worker))
        self.agents.heal()
        self.agents.advance(30)
        self.agents.complete(task, "after all")
        self.assertEqual(self.agents.done(task.result()).result_text, "after all")

    def received_key(self, task: SubmittedTask) -> TaskKey:
        """The key of the receiver's record."""
        return TaskKey(Side.RECEIVER, task.node.address, task.task_id)

    def arrives(self, asker: Node, worker: Node) -> bool:
        """Whether a submission arrives at once."""
        task = self.submit(asker, worker)
        return self.agents.done(worker.store.get(self.received_key(task))) is not None

    def test_groups(self) -> None:
        """One agent is cut off from all, a group from another, or everybody from everybody."""
        everybody = (True, True, True, True)
        self.assertEqual(self.ways_open(lambda a, b, c, d: None), everybody)
        self.assertEqual(self.ways_open(lambda a, b, c, d: self.agents.cut(a)), (False, False, False, True))
        self.assertEqual(
            self.ways_open(lambda a, b, c, d: self.agents.cut([a, b.address], [c, d])), (True, False, False, True)
        )
        self.assertEqual(self.ways_open(lambda a, b, c, d: self.agents.cut()), (False, False, False, False))
        self.agents.heal()
        self.assertEqual(self.ways_open(lambda a, b, c, d: None), everybody)

    def ways_open(self, cut: Callable[[Node, Node, Node, Node], None]) -> tuple[bool, ...]:
        """Whether submissions arrive, among four new agents: from a to b, from a to c, from d to a, from c to d."""
        a, b, c, d = (self.agents.node() for _ in range(4))
        cut(a, b, c, d)
        return tuple(self.arrives(*way) for way in ((a, b), (a, c), (d, a), (c, d)))

    def test_delay(self) -> None:
        """What is delayed arrives so much later, to the moment, and in its order; others are not delayed."""
        asker, worker = self.pair()
        other = self.agents.node()
        self.agents.accept(self.submit(asker, worker))  # either is connected to the other
        self.agents.delay(0.25, asker, worker)
        task = self.submit(asker, worker)
        self.assertTrue(self.arrives(other, worker))
        self.agents.advance(0.24)
        self.assertIsNone(self.agents.done(worker.store.get(self.received_key(task)), seconds=0))
        self.agents.advance(0.02)
        self.agents.accept(task)
        started = self.agents.clock.seconds()
        self.agents.done(task.accepted())
        self.assertAlmostEqual(self.agents.clock.seconds() - started, 0.25, 4)
        self.agents.delay(0)
        self.assertTrue(self.arrives(asker, worker))

    def test_silence(self) -> None:
        """What is delayed for ever arrives when it is no more, even what was under way."""
        asker, worker = self.pair()
        self.submit(asker, worker)
        self.agents.delay(math.inf)
        task = self.submit(asker, worker)
        self.agents.advance(5)
        self.assertIsNone(self.agents.done(worker.store.get(self.received_key(task))))
        self.agents.delay(0)
        self.agents.flush()
        self.assertIs(self.agents.received(task).status, TaskStatus.NEW)


class RestartTests(AgentsCase):
    """Stops, starts and crashes."""

    def test_restart(self) -> None:
        """A node that is stopped in good order goes on with what it had; waiting for it fails meanwhile."""
        asker, worker = self.pair()
        task = self.submit(asker, worker)
        waiting = task.result()
        self.agents.restart(worker)
        self.agents.restart(asker)
        with self.assertRaises(StoreClosed):
            self.agents.done(waiting)
        self.agents.advance(5)
        self.agents.complete(task, "done")
        self.assertEqual(self.agents.done(task.result()).result_text, "done")

    def test_away(self) -> None:
        """While a node is stopped others try again; it gets what it missed when it is started."""
        asker, worker = self.pair()
        self.agents.stop(worker)
        task = self.submit(asker, worker)
        self.agents.advance(10)
        self.assertIs(self.agents.start(worker), worker)
        self.agents.advance(30)
        self.assertIs(self.agents.received(task).status, TaskStatus.NEW)

    def test_crash_leaves_nothing(self) -> None:
        """A node that crashes while it sends is gone without a word, also when its memory is."""
        unraisable: list[Any] = []
        self.patch(sys, "unraisablehook", lambda args: unraisable.append(args.exc_value))
        for _ in range(5):
            with Agents() as agents:
                asker, worker = agents.node(), agents.node()
                agents.delay(5, asker, worker)
                for _ in range(5):
                    asker.submit(worker.address, "work")
                agents.advance(3.5)
                agents.crash(asker)
            del asker, worker, agents
            gc.collect()
        self.assertEqual(unraisable, [])

    def test_crash(self) -> None:
        """What was committed is there after a crash, what was not is gone, and who waited for it is not told."""
        asker, worker = self.pair()
        kept, lost = self.submit(asker, worker), self.submit(asker, worker)
        self.agents.accept(kept)
        self.agents.hold(worker)
        told: list[object] = []
        worker.accept(self.agents.received(lost).key).addBoth(told.append)
        waiting = worker.wait(self.agents.received(kept).key, lambda task: task.status is TaskStatus.EXECUTING)
        waiting.addBoth(told.append)
        self.agents.crash(worker)
        self.agents.advance(3)
        again = self.agents.start(worker)
        self.assertIsNot(again, worker)
        statuses = [self.agents.received(task).status for task in (kept, lost)]
        self.assertEqual(statuses, [TaskStatus.ACCEPTED, TaskStatus.NEW])
        self.agents.complete(kept, "done")
        self.assertEqual(self.agents.done(kept.result()).result_text, "done")
        self.assertEqual(told, [])

    def test_the_dead_do_nothing(self) -> None:
        """A node that crashed changes nothing any more, whatever it is told, and answers nobody."""
        asker, worker = self.pair()
        task = self.submit(asker, worker)
        key = self.agents.received(task).key
        self.agents.crash(worker)
        self.assertNoResult(worker.accept(key))
        self.agents.advance(10)
        self.agents.start(worker)
        self.assertIs(self.agents.received(task).status, TaskStatus.NEW)

    def test_peers_of_the_dead(self) -> None:
        """The connections of a node that crashes break, and nobody listens in its place."""
        asker, worker = self.pair()
        self.submit(asker, worker)
        name = str(worker.address)
        self.assertEqual(self.agents.network.connection_count(name), 1)
        self.agents.crash(worker)
        self.assertEqual(self.agents.network.connection_count(name), 0)
        self.assertNotIn(name, self.agents.network.ports)

    def test_results_survive(self) -> None:
        """Results that were committed are there after a crash, and are sent."""
        asker, worker = self.pair()
        task = self.submit(asker, worker)
        self.agents.execute(task)
        self.agents.cut()
        self.agents.complete(task, filename="a.md", content=b"# A")
        self.agents.crash(worker)
        self.agents.heal()
        self.agents.start(worker)
        self.assertEqual(self.agents.done(task.result()).file_data, b"# A")

    def test_crash_in_the_midst_of_work(self) -> None:
        """Work that a crash interrupted is begun again, if its lease says so; the end of the first goes unheard."""
        executor = FakeExecutor(lease=Lease(max_attempts=2, ends_with_node=True))
        asker, worker = self.pair(executor=executor, acceptance=AcceptAll())
        task = self.submit(asker, worker)
        self.agents.crash(worker)
        self.agents.start(worker)
        self.agents.advance(2)
        first, second = executor.executions
        self.assertFalse(first.is_cancelled)
        first.finish("of the dead")
        self.agents.advance(2)
        self.assertIs(self.agents.submitted(task).status, TaskStatus.EXECUTING)
        second.finish("of the living")
        self.assertEqual(self.agents.done(task.result()).result_text, "of the living")

    def test_stop_in_the_midst_of_work(self) -> None:
        """A node that is stopped in good order ends its work first, and begins it again when it is started."""
        executor = FakeExecutor()
        asker, worker = self.pair(executor=executor, acceptance=AcceptAll())
        task = self.submit(asker, worker)
        self.agents.restart(worker)
        self.agents.flush()
        first, second = executor.executions
        self.assertEqual((first.is_cancelled, second.is_over), (True, False))
        second.finish("done")
        self.assertEqual(self.agents.done(task.result()).result_text, "done")

    def test_hold(self) -> None:
        """A change that is held is not committed, not answered and not seen; then it is, in its order."""
        asker, worker = self.pair()
        task = self.submit(asker, worker)
        key = self.agents.received(task).key
        self.agents.hold(worker)
        accepted, again = worker.accept(key), worker.accept(key)
        self.agents.flush()
        self.assertNoResult(accepted)
        self.assertIs(self.agents.received(task).status, TaskStatus.NEW)
        self.agents.release(worker)
        self.assertIs(self.agents.done(accepted).status, TaskStatus.ACCEPTED)
        self.failureResultOf(again)
        self.agents.execute(task)

    def test_other_stores(self) -> None:
        """Only the kit's own store can be held, and can crash."""
        worker = self.agents.node(store=SQLiteTaskStore(None))
        for act in (self.agents.hold, self.agents.release, self.agents.crash):
            with self.assertRaisesRegex(TypeError, "only a node on a MemoryTaskStore"):
                act(worker)


class EndTests(SynchronousTestCase):
    """The end of a test."""

    def assert_left(self, agents: Agents, words: str) -> None:
        """Closing complains, once."""
        with self.assertRaisesRegex(AssertionError, words):
            agents.close()
        agents.close()
        self.assertEqual(agents.clock.getDelayedCalls(), [])

    def test_clean(self) -> None:
        """After any trouble everything ends, and nothing is left on the clock or the network."""
        agents = Agents()
        asker, worker, dead, silent = (agents.node() for _ in range(4))
        agents.done(asker.submit(silent.address, "work"))
        agents.done(asker.submit(dead.address, "work"))
        agents.crash(dead)
        agents.cut(asker, worker)
        agents.delay(math.inf)
        agents.done(asker.submit(worker.address, "work"))
        agents.hold(asker)
        asker.submit(worker.address, "never committed, were it not for the end")
        agents.stop(agents.node())
        before = agents.clock.seconds()
        agents.close()
        self.assertEqual(agents.clock.seconds(), before)
        self.assertEqual((agents.clock.getDelayedCalls(), agents.network.ports), ([], {}))
        self.assertFalse(asker.running or worker.running)

    def test_does_not_stop(self) -> None:
        """A node whose executor does not end what it does is named, and nothing of it goes on."""
        agents = Agents()
        worker = agents.node(executor=FakeExecutor(ends_when_cancelled=False), acceptance=AcceptAll())
        agents.done(agents.node().submit(worker.address, "work"))
        self.assert_left(agents, f"^node {worker.address} does not stop[^\n]*$")

    def test_left_on_the_clock(self) -> None:
        """What an application left on the clock is named."""
        agents = Agents()
        agents.clock.callLater(5, self.test_clean)
        self.assert_left(agents, "left over on the clock: <DelayedCall .*test_clean")

    def test_left_on_the_network(self) -> None:
        """What still listens is named."""
        agents = Agents()
        agents.network.server_endpoint("the application").listen(Factory())
        self.assert_left(agents, "something listens on the application")

    def test_logged(self) -> None:
        """An error that was logged fails the test, with its traceback; so does one that nobody looked at."""
        agents = Agents()
        try:
            raise KeyError("lost")
        except KeyError:
            Logger().failure("it happened")
        Logger().error("without {what}", what="a failure")
        fail(ValueError("not looked at"))
        cycle: list[object] = [fail(ValueError("in a cycle"))]
        cycle.append(cycle)
        del cycle
        words = ("test_agents.py", "KeyError: 'lost'", "not looked at", "in a cycle", "without a failure")
        self.assert_left(agents, "(?s)" + ".*".join(words))
        self.flushLoggedErrors()

    def test_expected(self) -> None:
        """Errors that the test expects are given to it, and forgotten; trial forgets them too."""
        agents = Agents(self)
        for error in (KeyError("lost"), ValueError("wrong")):
            try:
                raise error
            except Exception:
                Logger().failure("it happened")
        self.assertEqual([str(failure.value) for failure in agents.flush_errors(KeyError)], ["'lost'"])
        self.assertEqual([str(failure.value) for failure in agents.flush_errors()], ["wrong"])
        self.assertEqual((agents.flush_errors(), self.flushLoggedErrors()), ([], []))
        Logger().error("only text")
        fail(ValueError("not looked at"))
        self.assertEqual([str(failure.value) for failure in agents.flush_errors(ValueError)], ["not looked at"])
        self.assertEqual(agents.flush_errors(), [])

    def test_errors_of_others(self) -> None:
        """What is logged before or after is not this test's."""
        Logger().failure("before", Failure(KeyError()))
        agents = Agents()
        agents.close()
        Logger().failure("after", Failure(KeyError()))
        self.assertEqual(agents.flush_errors(), [])
        self.flushLoggedErrors(KeyError)

    def test_test_fails_first(self) -> None:
        """When the test itself fails that is what is raised; what was left is noted with it, if Python can."""
        agents = Agents()
        with self.assertRaises(ZeroDivisionError) as caught, agents:
            agents.node()
            agents.clock.callLater(5, self.test_clean)
            _ = 1 / 0
        if sys.version_info >= (3, 11):
            self.assertIn("left over on the clock", "".join(caught.exception.__notes__))
        self.assertEqual(agents.clock.getDelayedCalls(), [])

    def test_with(self) -> None:
        """The context manager closes, and complains."""
        with self.assertRaisesRegex(AssertionError, "left over on the clock"), Agents() as agents:
            agents.clock.callLater(5, self.test_clean)


class CaseTests(SynchronousTestCase):
    """Agents that are made for a test case."""

    def test_cases(self) -> None:
        """They are closed when the test is over, and fail it when something is left."""

        class Example:
            def test_good(self) -> None:
                Agents(cast(unittest.TestCase, self)).node()

            def test_bad(self) -> None:
                Agents(cast(unittest.TestCase, self)).clock.callLater(5, print)

        for base in (unittest.TestCase, SynchronousTestCase, TestCase):
            case: Any = type("Case", (Example, base), {})
            result = unittest.TestResult()
            for name in ("test_good", "test_bad"):
                case(name).run(result)
            [(failed, text)] = result.failures + result.errors
            self.assertEqual(failed.id().split(".")[-1], "test_bad")
            self.assertIn("left over on the clock", text)
