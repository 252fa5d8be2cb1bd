"""What is removed, when, and what is still answered about it."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

from twisted.internet.defer import Deferred, fail
from typing_extensions import override

from tasksubmit.errors import NoRoom, StoreError, TaskForgotten, UnknownTask
from tasksubmit.lifecycle.table import Lease, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.policy import AllOf, PeerQuota, RateLimit
from tasksubmit.node.retention import Retention
from tasksubmit.node.service import Node
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitResponse, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, PairTestCase, SlowStore, request, results

DAY = 24 * 3600


class RetentionTests(PairTestCase):
    """Two nodes that keep what is over for a week, and try to deliver for a day."""

    @override
    def setUp(self) -> None:
        super().setUp()
        for node in (self.alice, self.bob):
            self.stop(node)
        self.alice, self.bob = self.make(ALICE, BOB), self.make(BOB, ALICE)

    def make(self, own: Address, peer: Address) -> Node:
        return self.make_node(own, peer, retention=Retention(timedelta(days=7)), delivery_age_limit=timedelta(days=1))

    def finish(self, task_id: str, text: str = "done") -> None:
        """Take a task through its life."""
        _, key = self.executing(task_id=task_id)
        self.done(self.bob.send_results(key, text))

    def test_removed(self) -> None:
        """After a week a finished task is gone from both nodes, with its results; what is open stays."""
        self.finish("t1")
        _, open_key = self.submit(task_id="open")
        self.done(self.bob.accept(open_key))
        self.done(self.bob.execute(open_key, Lease(timedelta(days=60))))
        self.advance(7 * DAY - 120, step=7200)
        self.assertEqual(len(self.tasks(self.alice)), 2)
        self.done(self.bob.progress(open_key, "going on"))
        self.advance(240, step=60)
        for node in (self.alice, self.bob):
            self.assertEqual([task.task_id for task in self.tasks(node)], ["open"])
            self.assertEqual(self.files(node), [])

    def test_scores_stay(self) -> None:
        """What was earned is not forgotten with the task."""
        self.finish("t1")
        before = self.scores(self.alice), self.scores(self.bob)
        self.advance(8 * DAY, step=7200)
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), before)

    def test_late_messages(self) -> None:
        """Whoever repeats a message about a removed task is answered as before, and nothing is done again."""
        self.finish("t1")
        reward = self.task(self.alice, TaskKey(Side.SUBMITTER, BOB, "t1")).reward
        scores = self.scores(self.alice), self.scores(self.bob)
        self.advance(7 * DAY + 120, step=7200)
        submitted = self.ask(BOB, request("t1"))
        self.assertEqual((submitted.status, submitted.current_status), (200, "SUCCEEDED"))
        self.assertEqual(self.ask(BOB, request("t1", "other work")).code, "id_conflict")
        cancelled = self.ask(BOB, TaskStatusUpdate("t1", "CANCELLED", ack=True))
        self.assertEqual((cancelled.status, cancelled.current_status), (200, "SUCCEEDED"))
        told = self.ask(ALICE, results("t1", ack=True))
        self.assertEqual((told.status, told.current_status, told.reward), (200, "SUCCEEDED", reward))
        told = self.ask(ALICE, TaskStatusUpdate("t1", "SUCCEEDED", ack=True))
        self.assertEqual(told.current_status, "SUCCEEDED")
        self.assertEqual((self.tasks(self.alice), self.tasks(self.bob)), ([], []))
        self.assertEqual((self.scores(self.alice), self.scores(self.bob)), scores)

    def test_commands(self) -> None:
        """Commands about a removed task say what became of it, and its id is not used again."""
        self.finish("t1")
        self.advance(7 * DAY + 120, step=7200)
        self.assertIn("ended as SUCCEEDED", str(self.failed(self.alice.resolve("t1"), UnknownTask)))
        self.failed(self.alice.submit(BOB, "work", task_id="t1"), TaskForgotten)

    def test_tombstones_go(self) -> None:
        """What stays is removed after twice the time for which a message may be repeated, here or by the peer."""
        self.finish("t1")
        self.advance((7 + 14) * DAY, step=7200)
        self.assertEqual(len(self.successResultOf(self.bob.store.tombstones("t1"))), 1)
        self.advance(6 * 3600, step=7200)
        self.assertEqual(self.successResultOf(self.bob.store.tombstones("t1")), [])
        self.assertEqual(self.ask(BOB, request("t1")).current_status, "")

    def test_given_up_results(self) -> None:
        """When results that nobody fetched are removed, a submitter that comes back hears of an end."""
        self.stop(self.alice)
        self.alice = self.make_node(ALICE, BOB, store=SlowStore())
        handle, key = self.executing(task_id="t1")
        self.stop(self.alice)
        self.done(self.bob.send_results(key, "done"))
        self.advance(9 * DAY, step=7200)
        self.assertEqual(self.tasks(self.bob), [])
        self.alice.startService()
        self.advance(10)
        self.assertIs(self.task(self.alice, handle.key).status, TaskStatus.CANCELLED)
        self.assertEqual(self.tasks(self.bob), [])

    def test_size(self) -> None:
        """When the results of a peer would take more than they may, its oldest tasks go first."""
        self.stop(self.alice)
        self.alice = self.make_node(ALICE, BOB, retention=Retention(max_result_bytes=3000))
        for number in range(4):
            self.finish(f"t{number}", "x" * 1000)
            self.advance(1)
        self.assertEqual(sorted(task.task_id for task in self.tasks(self.alice)), ["t2", "t3"])
        self.assertEqual(len(self.files(self.alice)), 2)

    def test_size_removes_results_alone(self) -> None:
        """What takes no room is not removed to make some."""
        self.stop(self.alice)
        self.alice = self.make_node(ALICE, BOB, retention=Retention(max_result_bytes=1500))
        _, key = self.submit(task_id="declined")
        self.done(self.bob.decline(key, "no"))
        self.finish("t1", "x" * 1000)
        self.finish("t2", "x" * 1000)
        self.advance(400)
        self.assertEqual(sorted(task.task_id for task in self.tasks(self.alice)), ["declined", "t2"])

    def test_no_room(self) -> None:
        """Where nothing may go, no more is taken: results of one's own wait, and what is owed stays."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, retention=Retention(max_result_bytes=2200))
        first, second = (self.executing(task_id=task_id)[1] for task_id in ("t1", "t2"))
        self.stop(self.alice)  # so that results are owed
        self.done(self.bob.send_results(first, "x" * 1000))
        self.failed(self.bob.send_results(second, "x" * 1000), NoRoom)
        self.advance(400)
        self.failed(self.bob.send_results(second, "x" * 1000), NoRoom)
        self.assertEqual(len(self.files(self.bob)), 1)
        self.done(self.bob.send_results(second, "x" * 500))
        self.advance(400)
        self.assertEqual(len(self.files(self.bob)), 2)
        self.alice.startService()
        self.advance(400)
        self.assertEqual(self.owed(self.bob, second), [])

    def flood(self, limit: int) -> int:
        """Have Alice submit and withdraw tasks of 1,000 bytes until Bob refuses one; returns how many he took."""
        for number in count():
            self.assertLess(number, limit, "the flood was never refused")
            key = TaskKey(Side.RECEIVER, ALICE, f"flood-{next(self.numbers)}")
            if self.ask(BOB, request(key.task_id, "x" * 1000)).code == "quota":
                return number
            self.ask(BOB, TaskStatusUpdate(key.task_id, "CANCELLED", "", ack=True))
            self.assertIs(self.task(self.bob, key).status, TaskStatus.CANCELLED)
        raise AssertionError

    def test_flood_of_withdrawn_tasks(self) -> None:
        """A peer that submits and withdraws is refused at its share, and gets little more when some was removed."""
        self.stop(self.bob)
        self.numbers = count()
        self.bob = self.make_node(
            BOB, ALICE, CAROL, policy=PeerQuota(100, 20_000, 30), retention=Retention(peer_bytes=20_000)
        )
        self.assertEqual(self.flood(100), 20)
        self.assertEqual(self.ask(BOB, request("honest", by=CAROL)).code, "")
        self.advance(61)
        self.assertEqual(self.bob.load.of(ALICE).stored_bytes, 18_000)
        self.assertEqual(self.bob.load.of(ALICE).records, 20)
        taken = 20
        for _ in range(10):
            taken += self.flood(100)
            self.assertLessEqual(self.bob.load.of(ALICE).stored_bytes, 20_000)
            self.advance(61)
        self.assertEqual(taken, 30)  # a tombstone is left for each
        self.assertEqual(self.ask(BOB, request("honest-too", by=CAROL)).code, "")

    def withdrawals(self, *numbers: int) -> list[SubmitResponse]:
        """Have Alice withdraw tasks from Bob that never arrived, on one connection; returns the answers."""
        updates = [TaskStatusUpdate(f"t{n}", "CANCELLED", "", ack=True, from_addr=str(ALICE)) for n in numbers]
        peer = self.say(BOB, *updates)
        peer.close()
        self.network.flush()
        return peer.answers

    def tombstones(self, *numbers: int) -> int:
        """Return how many of these withdrawn tasks have left a tombstone."""
        return sum(len(self.successResultOf(self.bob.store.tombstones(f"t{number}"))) for number in numbers)

    def test_withdrawals_count(self) -> None:
        """A tombstone for a task that never arrived counts among the tasks of the peer that withdrew it."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, policy=PeerQuota(records=3))
        self.withdrawals(0, 1, 2)
        self.assertEqual(self.ask(BOB, request("one-more")).code, "quota")

    def test_flood_of_withdrawals(self) -> None:
        """A peer that has used up its records leaves no tombstones any more, those that arrive together included."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, policy=AllOf([PeerQuota(records=3)]))
        answers = self.withdrawals(*range(50))
        self.assertEqual([answer.code for answer in answers], ["unknown_task"] * 3 + ["quota"] * 47)
        self.assertEqual({answer.retry_after_s for answer in answers[3:]}, {60})
        self.assertEqual((self.tombstones(*range(50)), self.bob.load.of(ALICE).records), (3, 3))
        self.assertEqual([answer.current_status for answer in self.withdrawals(2, 0)], ["CANCELLED"] * 2)

    def test_fast_withdrawals(self) -> None:
        """Tombstones of withdrawals come no faster than tasks may: they count by the same rate."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, policy=AllOf([PeerQuota(), RateLimit(self.clock, 1, 5)]))
        answers = self.withdrawals(*range(50))
        self.assertEqual([answer.code for answer in answers], ["unknown_task"] * 5 + ["rate_limited"] * 45)
        self.assertEqual((answers[-1].retry_after_s, self.tombstones(*range(50))), (1, 5))
        self.assertEqual(self.ask(BOB, request("t-new")).code, "rate_limited")

    def test_refused_withdrawal(self) -> None:
        """A withdrawal that was refused is repeated: it cancels the submission that arrived meanwhile, or bars it."""
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, policy=RateLimit(self.clock, 1, 1))
        codes = [answer.code for answer in self.withdrawals(0, 1, 2)]
        self.assertEqual(codes, ["unknown_task", "rate_limited", "rate_limited"])
        self.advance(1)
        self.assertEqual(self.ask(BOB, request("t1")).code, "")
        self.advance(1)
        answers = self.withdrawals(1, 2)
        self.assertEqual([(one.current_status, one.code) for one in answers], [("CANCELLED", ""), ("", "unknown_task")])
        self.assertEqual(self.ask(BOB, request("t2")).current_status, "CANCELLED")

    def test_failing_withdrawal(self) -> None:
        """A withdrawal whose tombstone could not be written does not count."""
        self.patch(self.bob.store, "leave_tombstone", lambda *_: fail(StoreError("the disk is full")))
        self.assertEqual([answer.code for answer in self.withdrawals(0, 1)], ["storage"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 2)
        self.assertEqual(self.bob.load.of(ALICE).records, 0)

    def test_waited_for(self) -> None:
        """Whoever waits on a task that is removed is told so."""
        self.finish("t1")
        waiting = self.alice.wait(TaskKey(Side.SUBMITTER, BOB, "t1"), lambda task: False)
        self.advance(8 * DAY, step=7200)
        self.failed(waiting, UnknownTask)

    def test_failing_disk(self) -> None:
        """When nothing can be removed the failure is logged, once a minute, and the next look tries again."""
        for number in range(3):
            self.finish(f"t{number}")
        forget = self.bob.store.forget
        self.patch(self.bob.store, "forget", lambda *args: fail(StoreError("disk full")))
        self.advance(7 * DAY + 3600, step=7200)
        self.assertGreater(len(self.flushLoggedErrors(StoreError)), 0)
        self.patch(self.bob.store, "forget", forget)
        self.advance(120)
        self.assertEqual(self.tasks(self.bob), [])

    def test_many(self) -> None:
        """Many are removed in one go, a hundred at a time."""
        for number in range(250):
            self.ask(BOB, request(f"t{number}"))
        self.advance(120)  # nobody accepts
        self.advance(7 * DAY - 240, step=3600)
        self.assertEqual(len(self.tasks(self.bob)), 250)
        find, limits = self.bob.store.ended, list[int]()

        def ended(before: datetime, limit: int) -> Deferred[list[Task]]:
            limits.append(limit)
            return find(before, limit)

        self.patch(self.bob.store, "ended", ended)
        while len(self.tasks(self.bob)) == 250:
            limits.clear()
            self.advance(60, step=60)
        self.assertEqual(self.tasks(self.bob), [])
        self.assertEqual(limits, [100] * 4)
