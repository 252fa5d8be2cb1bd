"""What is owed is sent: in order, again until it arrived, and to each peer as if it were the only one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from random import Random
from struct import pack
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import fail
from typing_extensions import override

from tasksubmit.errors import ListenError, StoreError
from tasksubmit.interfaces import Peer, Refusal
from tasksubmit.lifecycle.polo import ScoreFormula, polo_score
from tasksubmit.lifecycle.table import Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node import delivery
from tasksubmit.node.peers import MAX_ANSWER_BYTES
from tasksubmit.node.service import Node
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.messages import (
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tests.node.helpers import (
    ALICE,
    BOB,
    CAROL,
    OURS,
    NodeTestCase,
    Script,
    SlowStore,
    deployed,
    refuse,
    request,
    task_id_of,
)
from tests.protocol.support import RawPeer

DAVE = Address.parse("0:0000.0000.0004")
KEY = TaskKey(Side.RECEIVER, ALICE, "t1")
TICK = 0.05


class Longest(Random):
    """Waits as long as may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Shortest(Random):
    """Waits as short as may be."""

    def uniform(self, a: float, b: float) -> float:
        return a


def rewarding(reward: int) -> Script:
    """Acknowledge everything with a reward."""

    def script(peer: RawPeer, frame: Frame) -> None:
        answer = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", features=tuple(OURS), reward=reward)
        peer.send(answer.to_frame().encode())

    return script


acknowledge = rewarding(1)
"""Do as our nodes do with work of no time."""


def close(peer: RawPeer, frame: Frame) -> None:
    """Close without an answer."""
    peer.close()


def abort(peer: RawPeer, frame: Frame) -> None:
    """Break the connection."""
    assert peer.transport is not None
    peer.transport.abortConnection()  # type: ignore[attr-defined]  # of the network in memory


def babble(peer: RawPeer, frame: Frame) -> None:
    """Answer what is no message."""
    peer.send(Frame(FrameType.SUBMIT, b"what?").encode())


def ramble(peer: RawPeer, frame: Frame) -> None:
    """Begin an answer that would be larger than any."""
    peer.send(pack(">II", FrameType.SUBMIT, MAX_ANSWER_BYTES + 1) + b"{")


def ignore(peer: RawPeer, frame: Frame) -> None:
    """Take everything and say nothing."""


def told(frame: Frame) -> str:
    """What a frame tells the submitter."""
    return TaskStatusUpdate.from_frame(frame).status if frame.type == FrameType.STATUS_UPDATE else "results"


class BackOffTests(NodeTestCase):
    """When a peer is tried again."""

    def dial_times(self, random: Random, seconds: float) -> list[float]:
        """The times between the first attempts to reach a dead peer."""
        patient = Timeouts(answer_timeout=timedelta(hours=1))
        alice = self.make_node(ALICE, BOB, random=random, tick_seconds=TICK, timeouts=patient)
        self.done(alice.submit(BOB, "work"))
        times: list[float] = []
        start = self.clock.seconds()
        while self.clock.seconds() < start + seconds:
            self.advance(TICK, step=TICK)
            while len(times) < self.network.dials[str(BOB)]:
                times.append(self.clock.seconds())
        return [later - earlier for earlier, later in pairwise(times)]

    def assert_about(self, found: Sequence[float], expected: Sequence[float]) -> None:
        self.assertGreaterEqual(len(found), len(expected))
        for wait, least in zip(found, expected, strict=False):
            self.assertTrue(least - TICK <= wait <= least + 3 * TICK, (found, expected))

    def test_longest(self) -> None:
        """The waits double from a second up to a minute."""
        self.assert_about(self.dial_times(Longest(), 190), [1, 2, 4, 8, 16, 32, 60, 60])

    def test_shortest(self) -> None:
        """Jitter takes off up to half, never more."""
        self.assert_about(self.dial_times(Shortest(), 95), [0.5, 1, 2, 4, 8, 16, 30, 30])

    def test_nothing_new_dials(self) -> None:
        """What becomes owed to a dead peer meanwhile waits with the rest, and is sent with it."""
        alice = self.make_node(ALICE, BOB, random=Longest())
        for n in range(4):
            self.done(alice.submit(BOB, f"work {n}"))
        self.assertEqual(self.network.dials[str(BOB)], 1)
        self.advance(9)
        self.assertEqual(self.network.dials[str(BOB)], 4)
        self.done(alice.submit(BOB, "work 4"))
        self.advance(5)
        self.assertEqual(self.network.dials[str(BOB)], 4)
        bob = self.listen(BOB, acknowledge)
        self.advance(70)
        self.assertEqual(sum(len(peer.frames) for peer in bob.peers), 5)
        self.assert_idle(alice)

    def test_starts_over(self) -> None:
        """After a success the waits start from a second again."""
        alice = self.make_node(ALICE, BOB, random=Longest())
        self.done(alice.submit(BOB, "first"))
        self.advance(20)
        self.listen(BOB, acknowledge)
        self.advance(40)
        self.assert_idle(alice)
        self.network.refuse(str(BOB))
        self.network.cut_all()
        dials = self.network.dials[str(BOB)]
        self.done(alice.submit(BOB, "second"))
        self.advance(2)
        self.assertEqual(self.network.dials[str(BOB)], dials + 2)

    def test_was_away_before(self) -> None:
        """How often a peer was away before says nothing of a message: after a restart the waits are short again."""
        alice = self.make_node(ALICE, BOB, store=SlowStore(), random=Longest())
        handle = self.done(alice.submit(BOB, "work"))
        self.advance(200)
        self.stop(alice)
        self.advance(60)
        dials = self.network.dials[str(BOB)]
        alice.startService()
        self.advance(8)
        self.assertGreaterEqual(self.network.dials[str(BOB)], dials + 3)
        self.assertGreater(self.owed(alice, handle.key)[0].attempts, 8)

    def test_peer_is_back(self) -> None:
        """A peer that submits can be reached again: what is ready for it is sent at once."""
        bob = self.make_node(BOB, ALICE, random=Longest())
        for task_id in ("t1", "t2"):
            self.ask(BOB, request(task_id))
        self.done(bob.accept(KEY))
        self.advance(40)
        self.done(bob.accept(evolve(KEY, task_id="t2")))
        alice = self.listen(ALICE, acknowledge)
        self.network.flush()
        self.assertEqual(alice.peers, [])
        self.ask(BOB, request("t3"))
        self.assertEqual([task_id_of(frame) for peer in alice.peers for frame in peer.frames], ["t2"])

    def test_dead_peer_alone(self) -> None:
        """One peer that is dead, and one that never answers, delay nobody else."""
        alice = self.make_node(ALICE, BOB, CAROL, DAVE)
        self.listen(CAROL, ignore)
        self.listen(DAVE, acknowledge)
        for peer in (BOB, CAROL):
            for n in range(20):
                self.done(alice.submit(peer, f"work {n}"))
        handle = self.done(alice.submit(DAVE, "work"))
        self.assertIsNotNone(self.task(alice, handle.key).answered_at)

    def test_owed_at_the_last_moment(self) -> None:
        """What becomes owed while the node finds that nothing else is, is sent at once."""
        store = SlowStore()
        store.slow_methods = ["next_delivery"]
        alice = self.make_node(ALICE, BOB, store=store)
        self.listen(BOB, acknowledge)
        store.is_slow = True
        self.done(alice.submit(BOB, "first"))
        handle = self.done(alice.submit(BOB, "second"))
        self.assertIsNone(self.task(alice, handle.key).answered_at)
        store.release()
        self.network.flush()
        self.assertIsNotNone(self.task(alice, handle.key).answered_at)
        self.assert_idle(alice)

    def test_at_an_odd_millisecond(self) -> None:
        """Whatever floating point makes of the clock, what is ready is found ready."""
        self.clock.advance(0.29)
        bob = self.make_node(BOB, ALICE, random=Longest(), tick_seconds=0.001)
        alice = self.listen(ALICE, refuse("overloaded"))
        self.ask(BOB, request(features=tuple(OURS)))
        self.done(bob.accept(KEY))
        self.advance(3.1, step=0.001)
        self.assertEqual(sum(len(peer.frames) for peer in alice.peers), 3)


class ReceiverTestCase(NodeTestCase):
    """Bob works for an Alice who follows a script."""

    features: frozenset[str] = OURS

    @override
    def setUp(self) -> None:
        super().setUp()
        self.script: Script = acknowledge
        self.heard: list[str] = []
        self.store = SlowStore()
        self.bob = self.make_node(BOB, ALICE, store=self.store, random=Longest())
        self.alice = self.listen(ALICE, self._hear)

    def _hear(self, peer: RawPeer, frame: Frame) -> None:
        self.heard.append(told(frame))
        self.script(peer, frame)

    def accept(self, task_id: str = "t1", *, script: Script | None = None) -> TaskKey:
        """Have Alice submit a task and Bob accept it, while she follows a script; gives its key."""
        self.ask(BOB, request(task_id, features=tuple(self.features)))
        key = TaskKey(Side.RECEIVER, ALICE, task_id)
        usual, self.script = self.script, script or self.script
        self.done(self.bob.accept(key))
        self.script = usual
        return key

    def work(self, task_id: str = "t1") -> Task:
        """Do a whole task; gives the record afterwards."""
        key = self.accept(task_id)
        self.done(self.bob.execute(key))
        self.done(self.bob.send_results(key, "done"))
        return self.task(self.bob, key)


class AnswersTests(ReceiverTestCase):
    """What counts as delivered to a peer that acknowledges."""

    def test_acknowledged(self) -> None:
        """Each is sent once, in order, on one connection, and the reward that is told is booked."""
        task = self.work()
        self.assertEqual(self.heard, ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"])
        self.assertEqual((task.status, task.reward), (TaskStatus.SUCCEEDED, 1))
        self.assertEqual(self.scores(self.bob), {ALICE: -1, BOB: 1})
        self.assertEqual(len(self.alice.peers), 1)
        self.assert_idle(self.bob)

    def test_closes(self) -> None:
        """A close without an acknowledgement, from a peer that announced it with its task, is tried again."""
        self.accept(script=close)
        self.assertEqual(self.heard, ["ACCEPTED"])
        self.assertEqual(len(self.owed(self.bob, KEY)), 1)
        self.advance(2)
        self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assert_idle(self.bob)

    def test_answers_too_much(self) -> None:
        """Nobody has the node hold an answer that is larger than any: the connection is aborted before it comes."""
        self.accept(script=ramble)
        self.assertIsNotNone(self.alice.peers[0].lost)
        self.advance(2)
        self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assert_idle(self.bob)

    def test_fails_at_each_frame(self) -> None:
        """However it fails at whichever frame, the rest waits behind it, and all arrives in order."""
        frames = ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"]
        for n, (fault, stage) in enumerate((f, s) for f in (close, abort, babble, ignore) for s in frames):
            self.heard.clear()
            failures: list[Script] = [fault] * 2

            def script(peer: RawPeer, frame: Frame, failures: list[Script] = failures, stage: str = stage) -> None:
                (failures.pop() if told(frame) == stage and failures else acknowledge)(peer, frame)

            self.script = script
            key = self.work(f"f{n}").key
            self.advance(80)
            at = frames.index(stage)
            self.assertEqual(self.heard, [*frames[:at], stage, stage, *frames[at:]], fault)
            self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.scores(self.bob), {ALICE: -16, BOB: 16})

    def test_room(self) -> None:
        """Only so many bytes of results are under way to one peer; what is small passes by, and all of it arrives."""
        self.patch(delivery, "_BYTES_AT_ONCE", 10)
        results: list[tuple[RawPeer, Frame]] = []

        def script(peer: RawPeer, frame: Frame) -> None:
            if told(frame) == "results":
                results.append((peer, frame))
            elif not results:
                acknowledge(peer, frame)

        self.script = script
        keys = [self.accept(f"t{n}") for n in range(3)]
        for key in keys:
            self.done(self.bob.execute(key))
        for key in keys:
            self.done(self.bob.send_results(key, "eight by"))
        self.assertEqual(self.heard.count("results"), 1)
        self.script = acknowledge
        acknowledge(*results[0])
        self.network.flush()
        self.assertEqual(self.heard.count("results"), 3)
        for key in keys:
            self.assertIs(self.task(self.bob, key).status, TaskStatus.SUCCEEDED)

    def test_room_for_submissions(self) -> None:
        """The bytes of descriptions count as those of results do."""
        self.patch(delivery, "_BYTES_AT_ONCE", 10)
        self.accept()
        self.script = ignore
        for _ in range(3):
            self.done(self.bob.submit(ALICE, "eight by"))
        frames = [frame for peer in self.alice.peers for frame in peer.frames if frame.type == FrameType.SUBMIT]
        self.assertEqual(len(frames), 1)

    def test_not_noted(self) -> None:
        """When a failed attempt cannot even be noted, the next one waits all the same."""
        self.patch(self.store, "postpone", lambda *args, **options: fail(StoreError("disk full")))
        self.accept(script=refuse("overloaded"))
        self.script = refuse("overloaded")
        self.advance(0.5, step=0.1)
        self.assertEqual(self.heard, ["ACCEPTED"])
        self.script = acknowledge
        self.advance(3)
        self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assertTrue(self.flushLoggedErrors(StoreError))

    def test_one_by_one(self) -> None:
        """A peer of which it is not known that it takes many is sent one message at a time."""
        self.script = ignore
        self.nodes.remove(self.bob)
        self.done(self.bob.stopService())
        self.alice.peers.clear()
        self.bob = self.make_node(BOB, ALICE, store=SlowStore(), random=Longest())
        for n in range(3):
            self.ask(BOB, request(f"t{n}"))
            self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, f"t{n}")))
        self.advance(5)
        self.assertEqual(len(self.heard), 1)

    def test_refused_for_now(self) -> None:
        """What is refused with a code that is worth it is tried again, not before the hint."""
        for code in ("rate_limited", "quota", "overloaded", "storage", "not_accepting"):
            self.heard.clear()
            self.accept(code, script=refuse(code, retry_after_s=20))
            self.advance(19)
            self.assertEqual(self.heard, ["ACCEPTED"])
            self.advance(2)
            self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assert_idle(self.bob)

    def test_odd_hints(self) -> None:
        """A hint of centuries holds for an hour at most, and one of the past for nothing."""
        for n, hint in enumerate((2**62, -5)):
            key = self.accept(f"h{n}", script=refuse("overloaded", retry_after_s=hint))
            self.done(self.bob.execute(key))
            self.assertEqual(len(self.owed(self.bob, key)), 2)
            self.advance(3602 if hint > 0 else 2)
            self.assertEqual(self.owed(self.bob, key), [])

    def test_hint_for_one(self) -> None:
        """A message that is to wait does not delay another task's."""
        self.accept(script=refuse("quota", retry_after_s=500))
        self.accept("t2")
        self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assertEqual(len(self.owed(self.bob, KEY)), 1)

    def test_refused_for_good(self) -> None:
        """An update that is refused for good is done with; results are too, and the record says so."""
        self.script = refuse("unknown_task")
        task = self.work()
        self.assertEqual(self.heard, ["ACCEPTED", "EXECUTING", "results"])
        self.assertEqual((task.status, task.code), (TaskStatus.COMPLETED, "unknown_task"))
        self.assertIn("refused", task.error)
        self.assertEqual(self.scores(self.bob), {})
        self.assert_idle(self.bob)

    def test_no_reward(self) -> None:
        """An acknowledgement that tells no reward, or less than none, books nothing."""
        for n, reward in enumerate((0, -7)):
            self.script = rewarding(reward)
            self.assertIs(self.work(f"r{n}").status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.scores(self.bob), {})

    def test_exaggerated_reward(self) -> None:
        """A submitter cannot raise the receiver's score: no more is booked than the receiver's own durations earn."""
        self.script = rewarding(2**63 - 1)
        task = self.work()
        self.assertEqual((task.status, task.reward), (TaskStatus.SUCCEEDED, 1))
        self.assertEqual(self.scores(self.bob), {ALICE: -1, BOB: 1})
        story = self.done(self.bob.story(KEY))
        self.assertIn(
            f"results; the acknowledgment says reward {2**63 - 1}, booked 1", [event.detail for event in story.events]
        )

    def test_highest_reward(self) -> None:
        """What the durations earn by the formula that gives more is booked, and not a point above it; less is, too."""
        for told_reward, booked in ((6, 5), (5, 5), (4, 4), (1, 1)):
            self.script = rewarding(told_reward)
            key = TaskKey(Side.RECEIVER, ALICE, f"reward-{told_reward}")
            self.ask(BOB, request(key.task_id, features=tuple(self.features)))
            self.clock.advance(20)  # idle: 0.3 off by one formula, 0.1 by the other
            self.done(self.bob.accept(key))
            self.done(self.bob.execute(key))
            self.clock.advance(15 * 60)
            self.done(self.bob.send_results(key, "done"))
            task = self.task(self.bob, key)
            self.assertEqual([polo_score(task, formula).final_reward for formula in ScoreFormula], [4, 5])
            self.assertEqual((task.status, task.reward), (TaskStatus.SUCCEEDED, booked))

    def test_file_gone(self) -> None:
        """Results that cannot be read stay owed, with the reason, and are tried again; other tasks go on."""
        self.script = ignore
        self.work()
        contents = self.store._results._contents  # type: ignore[attr-defined]  # of the kind in memory
        kept = dict(contents)
        contents.clear()
        self.script = acknowledge
        self.advance(120)
        self.assertIn("result file", self.owed(self.bob, KEY)[0].last_error)
        contents.update(kept)
        self.advance(61)
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.SUCCEEDED)


class DeployedTests(ReceiverTestCase):
    """A submitter that is a deployed peer: it reads one frame of a connection and closes."""

    features = frozenset()

    def test_each_on_its_own(self) -> None:
        """Every update, the results and SUCCEEDED go on connections of their own, in order, and a close is enough."""
        self.script = deployed
        self.work()
        self.assertEqual(self.heard, [])  # it may not have its own record yet
        self.advance(2)
        task = self.task(self.bob, KEY)
        self.assertEqual(self.heard, ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"])
        self.assertEqual([len(peer.frames) for peer in self.alice.peers], [1, 1, 1, 1])
        self.assertEqual((task.status, task.reward), (TaskStatus.SUCCEEDED, None))
        self.assertEqual(self.scores(self.bob), {})
        sent = TaskResultMessage.from_frame(self.alice.peers[2].frames[0])
        self.assertEqual((sent.result_type, sent.result_text), ("text", "done"))
        self.assert_idle(self.bob)

    def test_held_whatever_happens(self) -> None:
        """Neither a reload nor a restart sends the first message about a task before the peer has its own record."""
        self.script = deployed
        self.accept()
        self.bob.reload()
        self.network.flush()
        self.assertEqual(self.heard, [])
        self.ask(BOB, request("t2"))
        self.stop(self.bob)
        self.bob = self.make_node(BOB, ALICE, store=self.store)
        self.done(self.bob.accept(TaskKey(Side.RECEIVER, ALICE, "t2")))
        self.network.flush()
        self.assertEqual(self.heard, [])
        self.advance(2)
        self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])

    def test_breaks(self) -> None:
        """A connection that breaks, or hangs, is not a close: it is tried again."""
        for n, fault in enumerate((abort, ignore)):
            self.heard.clear()
            scripts: list[Script] = [deployed, fault]

            def script(peer: RawPeer, frame: Frame, scripts: list[Script] = scripts) -> None:
                scripts.pop()(peer, frame)

            self.script = script
            self.accept(f"b{n}")
            self.advance(40)
            self.assertEqual(self.heard, ["ACCEPTED", "ACCEPTED"])
        self.assert_idle(self.bob)

    def test_learns(self) -> None:
        """Once it has announced `ack` in a later submission, a close is not enough any more."""
        self.script = deployed
        self.accept()
        self.advance(2)
        self.ask(BOB, request("t2", features=tuple(OURS)))
        self.done(self.bob.execute(KEY))
        self.assertEqual(len(self.owed(self.bob, KEY)), 1)
        self.assertEqual(self.successResultOf(self.store.peer_features()), {ALICE: OURS})

    def test_refused_strangers_are_not_learnt(self) -> None:
        """What is announced with a submission that is refused is not remembered."""
        self.ask(BOB, request("t3", by=CAROL, features=tuple(OURS)))
        self.assertEqual(self.successResultOf(self.store.peer_features()), {})


class RandomFaultsTests(NodeTestCase):
    """Many tasks and a peer that fails at random."""

    def test_order(self) -> None:
        """For each task nothing is sent before what precedes it was acknowledged, whatever fails."""
        random = Random(7)
        acknowledged: dict[str, list[str]] = {}
        sent: dict[str, list[str]] = {}
        frames = ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"]

        def script(peer: RawPeer, frame: Frame) -> None:
            task_id, word = task_id_of(frame), told(frame)
            taken = acknowledged.setdefault(task_id, [])
            sent.setdefault(task_id, []).append(word)
            # An acknowledgement may be lost with the connection that carries it; then its frame comes once more.
            self.assertIn(word, (frames[len(taken)], *taken[-1:]) if len(taken) < 4 else taken[-1:])
            fault = random.choice([acknowledge, acknowledge, close, abort, refuse("overloaded")])
            fault(peer, frame)
            if fault is acknowledge and word not in taken:
                taken.append(word)

        bob = self.make_node(BOB, ALICE, random=Random(3))
        keys = [TaskKey(Side.RECEIVER, ALICE, f"t{n}") for n in range(12)]
        for key in keys:
            self.ask(BOB, request(key.task_id, features=tuple(OURS)))
        self.listen(ALICE, script)
        for key in keys:
            self.successResultOf(bob.accept(key))
            self.successResultOf(bob.execute(key))
            self.successResultOf(bob.send_results(key, "done"))
        self.advance(1500)
        self.assertEqual({key.task_id for key in keys}, set(sent))
        for key in keys:
            self.assertIs(self.task(bob, key).status, TaskStatus.SUCCEEDED)
        self.assertEqual(self.scores(bob), {ALICE: -12, BOB: 12})
        self.assert_idle(bob)


class UnknownPeerTests(NodeTestCase):
    """A submitter that nobody knows how to reach."""

    def test_stays_owed(self) -> None:
        """What is owed to an address without an endpoint stays owed, with the reason, and disturbs nobody."""

        class Everybody:
            def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
                return None

        bob = self.make_node(BOB, ALICE, policy=Everybody())
        self.listen(ALICE, acknowledge)
        self.ask(BOB, request("t1", by=CAROL))
        self.ask(BOB, request("t2"))
        key = TaskKey(Side.RECEIVER, CAROL, "t1")
        self.done(bob.accept(key))
        self.done(bob.accept(TaskKey(Side.RECEIVER, ALICE, "t2")))
        self.advance(2)
        [delivery] = self.owed(bob, key)
        self.assertIn("--peer", delivery.last_error)
        self.assertEqual(self.owed(bob, TaskKey(Side.RECEIVER, ALICE, "t2")), [])


class StopTests(NodeTestCase):
    """Nodes that stop and start while they work."""

    def pair(self) -> tuple[Node, Node]:
        """Two nodes that know each other's features and keep what they have when they stop."""
        stores = SlowStore(), SlowStore()
        for store, other in zip(stores, (BOB, ALICE), strict=True):
            store.open()
            store.remember_features(other, OURS)
        alice = self.make_node(ALICE, BOB, store=stores[0])
        return alice, self.make_node(BOB, ALICE, store=stores[1])

    def test_at_any_step(self) -> None:
        """Whenever either node stops in mid-work and starts again, the work ends the same."""
        alice, bob = self.pair()
        for step in range(16):
            handle = self.successResultOf(alice.submit(BOB, "work", task_id=f"s{step}"))
            key = TaskKey(Side.RECEIVER, ALICE, handle.task_id)
            for pumped in range(300):
                self.network.pump()
                if pumped in (step, 2 * step + 9):
                    node = alice if pumped == step else bob
                    self.stop(node)
                    node.startService()
                if pumped % 5 == 0:
                    self.work(bob, key)
                if pumped % 15 == 14:
                    self.clock.advance(1)
            self.network.flush()
            for node in (alice, bob):
                self.assertIs(self.done(node.resolve(key.task_id)).status, TaskStatus.SUCCEEDED, key.task_id)
            self.assertEqual(self.scores(alice), {ALICE: -1 - step, BOB: 1 + step})
            self.assertEqual(self.scores(bob), self.scores(alice))
        self.assert_idle(alice, bob)

    def work(self, node: Node, key: TaskKey) -> None:
        task = self.successResultOf(node.store.get(key))
        if task is None or task.status.is_final or task.status is TaskStatus.COMPLETED:
            return
        if task.status is TaskStatus.NEW:
            self.successResultOf(node.accept(key))
        elif task.status is TaskStatus.ACCEPTED:
            self.successResultOf(node.execute(key))
        else:
            self.successResultOf(node.send_results(key, "done"))

    def test_silent_peer(self) -> None:
        """A node stops at once although a peer owes it an answer, which is no failure; its next start tries at once."""
        bob = self.make_node(BOB, ALICE, store=SlowStore())
        alice = self.listen(ALICE, ignore)
        self.ask(BOB, request(features=tuple(OURS)))
        self.done(bob.accept(KEY))
        self.stop(bob)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.owed(bob, KEY)), 1)
        self.assertEqual(self.owed(bob, KEY)[0].attempts, 0)
        bob.startService()
        self.network.flush()
        self.assertEqual(len([frame for peer in alice.peers for frame in peer.frames]), 2)

    def test_store_fails_at_the_start(self) -> None:
        """What is owed and could not be looked up at the start is looked up a second later."""
        store = SlowStore()
        alice = self.make_node(ALICE, BOB, store=store)
        self.done(alice.submit(BOB, "work"))
        self.stop(alice)
        bob = self.listen(BOB, acknowledge)
        with patch.object(store, "owed_peers", lambda: fail(StoreError("busy"))):
            alice.startService()
        self.assertEqual(len(self.flushLoggedErrors(StoreError)), 1)
        self.advance(3)
        self.assertEqual(sum(len(peer.frames) for peer in bob.peers), 1)

    def test_while_looking(self) -> None:
        """A node that stops while the store looks up what to send dials nobody afterwards."""
        store = SlowStore()
        alice = self.make_node(ALICE, BOB, store=store)
        self.listen(BOB, ignore)
        store.is_slow = True
        submitted = alice.submit(BOB, "work")
        stopped = alice.stopService()
        self.assertNoResult(stopped)
        store.release()
        self.done(submitted)
        self.network.flush()
        self.successResultOf(stopped)
        self.assertNotIn(str(BOB), self.network.dials)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_commits_first(self) -> None:
        """A node that stops while an answer is being written waits for the commit."""
        alice, bob = self.pair()
        assert isinstance(bob.store, SlowStore)
        self.done(alice.submit(BOB, "work", task_id="t1"))
        self.done(bob.accept(KEY))
        bob.store.is_slow = True
        withdrawn = self.say(BOB, TaskStatusUpdate("t1", "CANCELLED", "", ack=True))
        stopped = bob.stopService()
        self.network.flush()
        self.assertNoResult(stopped)
        self.assertEqual(withdrawn.frames, [])
        bob.store.release()
        self.network.flush()
        self.successResultOf(stopped)
        self.assertEqual([answer.current_status for answer in withdrawn.answers], ["CANCELLED"])

    def test_idle(self) -> None:
        """An idle node starts and stops any number of times, and listens each time."""
        alice, _ = self.pair()
        for _ in range(3):
            self.assertIn(str(ALICE), self.network.ports)
            self.stop(alice)
            self.assertNotIn(str(ALICE), self.network.ports)
            alice.startService()

    def test_cannot_listen(self) -> None:
        """A node that cannot listen says so; after a stop it can be started when the place is free."""
        squatter = self.listen(ALICE, ignore)
        alice = Node(
            ALICE,
            SlowStore(),
            self.make_node(BOB, ALICE).peers,
            clock=self.clock,
            listen={"the place": self.network.server_endpoint(str(ALICE))},
        )
        self.assertIn("the place", str(self.assertRaises(ListenError, alice.startService)))
        self.stop(alice)
        self.assertTrue(squatter)
        self.network.ports[str(ALICE)].stopListening()
        alice.startService()
        self.assertIn(str(ALICE), self.network.ports)
        self.stop(alice)


class GivingUpTests(NodeTestCase):
    """Callers that do not wait for their command to end."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.store = SlowStore()
        self.bob = self.make_node(BOB, ALICE, store=self.store)
        self.alice = self.listen(ALICE, acknowledge)
        self.ask(BOB, request(features=tuple(OURS)))

    def give_up(self, command: object, *args: object) -> None:
        assert callable(command)
        self.store.is_slow = True
        deferred = command(*args)
        deferred.cancel()
        self.failureResultOf(deferred)
        self.store.release()
        self.network.flush()

    def test_told(self) -> None:
        """A command whose caller went away is committed and told all the same, and keeps its results."""
        self.give_up(self.bob.accept, KEY)
        self.give_up(self.bob.execute, KEY)
        self.give_up(self.bob.send_results, KEY, "done")
        frames = [told(frame) for peer in self.alice.peers for frame in peer.frames]
        self.assertEqual(frames, ["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"])
        self.assertIs(self.task(self.bob, KEY).status, TaskStatus.SUCCEEDED)
        self.assertEqual(len(self.store._results._contents), 1)  # type: ignore[attr-defined]  # in memory
        self.assert_idle(self.bob)
