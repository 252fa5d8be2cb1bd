"""Messages that come twice, late, or in another order: a task ends once, and as if each had come in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from typing_extensions import override

from tasksubmit.errors import IllegalTransition, UnknownTask
from tasksubmit.lifecycle.table import Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, FrameDecoder, FrameType
from tasksubmit.wire.messages import ResponseStatus, SubmitResponse, TaskStatusUpdate
from tests.faults.network import RESULT, SlowWires, WiredPairTestCase, Wires, do_all
from tests.node.helpers import ALICE, BOB, OURS, Message, NodeTestCase, request, results, task_id_of
from tests.protocol.support import RawFactory, RawPeer
from tests.tiers import examples

REWARD = 1
"""What a submitter that follows a script books; no more than work that takes no time earns."""

Step = tuple[str, int, bool]
"""What happens next, on which connection if it is a message, and whether all comes to rest before the next."""

CONNECTIONS = 3
WORK = ("ACCEPTED", "EXECUTING", "40% of it", "results", "SUCCEEDED")
ENDS = ("DECLINED", "CANCELLED", "EXPIRED")
COMMANDS = ("accept", "execute", "send results", "decline")


def repeated(words: Sequence[str], times: int = 3) -> st.SearchStrategy[list[str]]:
    """Each of the words once or several times, in any order."""
    counts = st.tuples(*[st.integers(1, times) for _ in words])
    return counts.map(lambda n: [w for w, times in zip(words, n, strict=True) for _ in range(times)]).flatmap(
        st.permutations
    )


def steps(words: st.SearchStrategy[list[str]]) -> st.SearchStrategy[list[Step]]:
    """The words, each on any connection, some following each other without a rest."""
    one = st.tuples(st.integers(0, CONNECTIONS - 1), st.booleans())
    return words.flatmap(
        lambda drawn: st.lists(one, min_size=len(drawn), max_size=len(drawn)).map(
            lambda how: [(word, *where) for word, where in zip(drawn, how, strict=True)]
        )
    )


def acknowledge(peer: RawPeer, frame: Frame) -> None:
    """Answer as our nodes do."""
    answer = SubmitResponse(task_id_of(frame), ResponseStatus.ACCEPTED, "yes", features=tuple(OURS), reward=REWARD)
    peer.send(answer.to_frame().encode())


@define(eq=False)
class Line:
    """A connection to a node, and what was said on it."""

    peer: RawPeer
    said: list[str] = field(factory=list)


class DisorderTestCase(NodeTestCase):
    """One node, to which messages about one task after the other come in disorder; the other party follows a script."""

    node: Node
    own: Address
    side: Side

    @override
    def setUp(self) -> None:
        super().setUp()
        self.numbers = count()

    def begin(self) -> None:
        """Take another task, and new connections to the node."""
        self.task_id = f"t{next(self.numbers)}"
        self.key = TaskKey(self.side, BOB if self.side is Side.SUBMITTER else ALICE, self.task_id)
        self.scores_before = self.scores(self.node)
        self.files_before = len(self.files(self.node))
        self.last: Task | None = None
        self.is_at_rest = True
        self.lines = [Line(self.say(self.own)) for _ in range(CONNECTIONS)]

    def message(self, word: str) -> Message:
        """The message that a word stands for."""
        if word == "SUBMIT":
            return request(self.task_id, features=tuple(OURS))
        if word == "results":
            return results(self.task_id, RESULT, ack=True)
        if word == "40% of it":
            return TaskStatusUpdate(self.task_id, "EXECUTING", word, ack=True)
        return TaskStatusUpdate(self.task_id, word, "", ack=True)

    def happen(self, step: Step) -> None:
        """Let a message arrive."""
        word, connection, _ = step
        line = self.lines[connection]
        line.said.append(word)
        line.peer.send(self.message(word).to_frame().encode())
        if self.rest(step) and self.last is not None:
            self.assertEqual(line.peer.answers[-1].current_status or "NEW", self.last.status.value)

    def rest(self, step: Step) -> bool:
        """Let all come to rest, if it is to; gives whether nothing but this step happened since the last time."""
        was_at_rest, self.is_at_rest = self.is_at_rest, step[2]
        if self.is_at_rest:
            self.network.flush()
            self.check()
        return was_at_rest and self.is_at_rest

    def check(self) -> None:
        """What holds at any time: final is final, all is booked once at most, and one result is kept at most."""
        task, before = self.successResultOf(self.node.store.get(self.key)), self.last
        self.last = task
        if before is not None and before.status.is_final:
            assert task is not None
            self.assertIs(task.status, before.status)
            self.assertEqual((task.reward, task.result_file), (before.reward, before.result_file))
        scores = {
            party: self.scores(self.node).get(party, 0) - self.scores_before.get(party, 0) for party in (ALICE, BOB)
        }
        booked = {ALICE: 0, BOB: 0}
        if task is not None and task.reward is not None:
            booked = {ALICE: -1, BOB: task.reward}
        elif task is not None and task.status is TaskStatus.EXPIRED:
            booked = {ALICE: 0, BOB: -1}
        self.assertEqual(scores, booked)
        self.assertLessEqual(len(self.files(self.node)) - self.files_before, 1)

    def end(self) -> Task:
        """Let all come to rest; every message was answered once, each result with the same reward. Gives the record."""
        self.network.flush()
        self.check()
        task = self.task(self.node, self.key)
        for line in self.lines:
            answers = line.peer.answers
            self.assertEqual([answer.task_id for answer in answers], [self.task_id] * len(line.said))
            for word, answer in zip(line.said, answers, strict=True):
                self.check_answer(word, answer, task)
            line.peer.close()
        self.network.flush()
        self.assert_idle(self.node)
        return task

    def check_answer(self, word: str, answer: SubmitResponse, task: Task) -> None:
        """The answer to a message says yes and where the task stood."""
        self.assertEqual(answer.status, ResponseStatus.ACCEPTED)
        self.assertIn(answer.current_status, [status.value for status in TaskStatus])
        self.assertEqual(answer.reward, (task.reward or 0) if word == "results" else 0)


class SubmitterTests(DisorderTestCase):
    """What a receiver says, as it reaches the submitter."""

    side = Side.SUBMITTER
    own = ALICE

    @override
    def setUp(self) -> None:
        super().setUp()
        self.node = self.make_node(ALICE, BOB)
        self.listen(BOB, acknowledge)

    def hear(self, steps: Sequence[Step]) -> Task:
        """Submit a task, and let all this arrive."""
        self.begin()
        self.done(self.node.submit(BOB, "w", task_id=self.task_id))
        for step in steps:
            self.happen(step)
        task = self.end()
        self.assertEqual(len(self.files(self.node)) - self.files_before, 1)
        return task

    @settings(max_examples=examples(60), deadline=None)
    @given(steps(st.sampled_from(ENDS).flatmap(lambda end: repeated((*WORK, end)))))
    def test_any_order(self, steps: list[Step]) -> None:
        """Whatever the order, a task ends once, in a status that it was told; its results are kept once."""
        task = self.hear(steps)
        self.assertIn(task.status.value, {word for word, *_ in steps})
        self.assertEqual(task.reward is None, bool(task.late_result_file))
        self.assertEqual(task.reward is None, task.status is not TaskStatus.SUCCEEDED)

    @settings(max_examples=examples(50), deadline=None)
    @given(steps(repeated(WORK)))
    def test_success(self, steps: list[Step]) -> None:
        """The messages of a success end in SUCCEEDED in any order, also when SUCCEEDED overtakes the results."""
        task = self.hear(steps)
        self.assertIs(task.status, TaskStatus.SUCCEEDED)
        self.assertIsNotNone(task.reward)

    @settings(max_examples=examples(50), deadline=None)
    @given(steps(repeated(WORK)), steps(repeated(ENDS)), st.randoms(use_true_random=False))
    def test_results_first(self, work: list[Step], ends: list[Step], random: Random) -> None:
        """Once results have arrived no other end can come: it is SUCCEEDED, in whatever order."""
        first = next(n for n, (word, *_) in enumerate(work) if word == "results")
        work[: first + 1] = [(word, connection, True) for word, connection, _ in work[: first + 1]]
        for step in ends:
            work.insert(random.randint(first + 1, len(work)), step)
        self.assertIs(self.hear(work).status, TaskStatus.SUCCEEDED)


class ReceiverTests(DisorderTestCase):
    """What a submitter says, as it reaches the receiver, who does something meanwhile."""

    side = Side.RECEIVER
    own = BOB

    @override
    def setUp(self) -> None:
        super().setUp()
        self.node = self.make_node(BOB, ALICE)
        self.alice = self.listen(ALICE, acknowledge)

    @override
    def happen(self, step: Step) -> None:
        word = step[0]
        if word not in COMMANDS:
            super().happen(step)
            return
        commands: dict[str, Any] = {
            "accept": self.node.accept,
            "execute": self.node.execute,
            "send results": lambda key: self.node.send_results(key, RESULT),
            "decline": lambda key: self.node.decline(key, "no"),
        }
        done: Deferred[object] = commands[word](self.key)
        self.successResultOf(done.addErrback(lambda failure: failure.trap(IllegalTransition, UnknownTask)))
        self.rest(step)

    @override
    def check_answer(self, word: str, answer: SubmitResponse, task: Task) -> None:
        if answer.code == "unknown_task":  # it was withdrawn before it came
            self.assertEqual(word, "CANCELLED")
        elif word == "SUBMIT" and answer.message.endswith("NEW") and not answer.current_status:
            self.first_answers += 1
        else:
            super().check_answer(word, answer, task)

    def go(self, steps: Sequence[Step]) -> Task:
        """Let all this happen, and see what Alice hears of it."""
        self.begin()
        self.first_answers = 0
        heard = [len(peer.frames) for peer in self.alice.peers]
        for step in steps:
            self.happen(step)
        task = self.end()
        self.assertEqual(self.first_answers, 1)
        frames = [frame for n, peer in enumerate(self.alice.peers) for frame in peer.frames[(heard + [0] * 99)[n] :]]
        words = [
            TaskStatusUpdate.from_frame(frame).status if frame.type == FrameType.STATUS_UPDATE else "results"
            for frame in frames
        ]
        ways = [["DECLINED"], ["ACCEPTED", "CANCELLED"]]  # the second is a task that was declined in the queue
        self.assertIn(words, [*ways, *(["ACCEPTED", "EXECUTING", "results", "SUCCEEDED"][:n] for n in range(5))])
        if task.status in (TaskStatus.SUCCEEDED, TaskStatus.DECLINED):
            self.assertEqual(words[-1], task.status.value)
        self.assertEqual(task.reward, REWARD if task.status is TaskStatus.SUCCEEDED else None)
        self.ask(BOB, TaskStatusUpdate(self.task_id, "CANCELLED", "", ack=True))  # lest it stay in the queue
        return task

    @settings(max_examples=examples(80), deadline=None)
    @given(steps(repeated(("SUBMIT", "CANCELLED", *COMMANDS))))
    def test_any_order(self, steps: list[Step]) -> None:
        """Whatever the order, there is one task, which ends once; Alice is told each step once, in order."""
        self.go(steps)

    @settings(max_examples=examples(40), deadline=None)
    @given(steps(repeated(("SUBMIT", "CANCELLED"), 4)), steps(st.just(list(COMMANDS[:3]))))
    def test_withdrawn_too_late(self, said: list[Step], commands: list[Step]) -> None:
        """After the results were delivered neither a withdrawal nor a submission changes anything."""
        commands = [(word, connection, True) for word, connection, _ in commands]
        task = self.go([("SUBMIT", 0, True), *commands, *(step for step in said)])
        self.assertIs(task.status, TaskStatus.SUCCEEDED)


class SlowWiresTests(WiredPairTestCase):
    """Two nodes between which everything comes late, often after its sender has given up and said it again."""

    @override
    def make_wires(self) -> Wires:
        self.random = Random(7)
        self.slow = SlowWires(clock=self.clock, delay=self.delay)
        return self.slow

    def delay(self) -> float:
        """At once, or after a while, or after more than anybody waits for an answer."""
        return self.random.choice([0, 0, 0, self.random.uniform(0, 5), self.random.uniform(25, 50)])

    @override
    def make_node(self, own: Address, *peers: Address, **options: Any) -> Node:
        patient = Timeouts(answer_timeout=timedelta(days=1))
        return super().make_node(own, *peers, timeouts=patient, **options)

    def test_late(self) -> None:
        """Each task succeeds once on both sides, however late its messages and their answers come."""
        handles = []
        for n in range(40):
            handles.append(self.successResultOf(self.alice.submit(BOB, "w", task_id=f"t{n}")))
            self.advance(self.random.uniform(0, 30))
            for task in self.tasks(self.bob):
                if task.status is TaskStatus.NEW:
                    do_all(self.bob, task)
        for _ in range(60):
            self.advance(20, step=2)
            for task in self.tasks(self.bob):
                if task.status is TaskStatus.NEW:
                    do_all(self.bob, task)
        said = [frame for connection in self.slow.connections for frame in FrameDecoder().feed(connection.near.heard)]
        self.assertGreater(len(said), len(set(said)) + len(handles))  # or nothing was ever repeated
        records = self.tasks(self.alice)
        for handle in handles:
            self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
            self.assertEqual(self.done(handle.result()).result_text, RESULT)
        rewards = [task.reward or 0 for task in records]
        self.assertEqual(self.scores(self.alice), {ALICE: -len(handles), BOB: sum(rewards)})
        self.assertEqual(self.scores(self.bob), self.scores(self.alice))
        self.assertEqual(len(self.files(self.alice)), len(handles))
        self.assert_idle(self.alice, self.bob)


class ReplayTests(WiredPairTestCase):
    """Everything that was ever said, said again to two nodes that are done with it."""

    def state(self) -> tuple[object, ...]:
        """All that the nodes keep."""
        return tuple(
            (self.tasks(node), self.scores(node), self.files(node), self.successResultOf(node.store.owed_peers()))
            for node in (self.alice, self.bob)
        )

    def say_again(self, to: str, text: bytes) -> None:
        """Dial a node and say what was once said to it; all of it is acknowledged."""
        factory = RawFactory()
        dialled = self.network.client_endpoint(to).connect(factory)
        self.network.flush()
        self.successResultOf(dialled)
        [peer] = factory.peers
        peer.send(text)
        self.network.flush()
        frames = FrameDecoder().feed(text)
        self.assertEqual([answer.task_id for answer in peer.answers], [task_id_of(frame) for frame in frames])
        self.assertEqual({answer.status for answer in peer.answers}, {ResponseStatus.ACCEPTED})
        peer.close()
        self.network.flush()

    def test_replay(self) -> None:
        """When tasks are over, every connection of their lives may come again: nothing changes, all is answered."""
        handle, key = self.submit("succeeds")
        do_all(self.bob, self.task(self.bob, key))
        _, declined = self.submit("is declined")
        self.done(self.bob.decline(declined, "no"))
        cancelled, _ = self.executing("is cancelled")
        self.network.cut_all()
        self.done(cancelled.cancel())
        _, expiring = self.submit("expires")
        self.done(self.bob.accept(expiring))
        self.advance(3700, step=10)
        said = [(connection.name, connection.near.heard) for connection in self.wires.connections]
        self.assertGreater(len(said), 3)
        before = self.state()
        ends = {task.status for node in (self.alice, self.bob) for task in self.tasks(node)}
        self.assertEqual(ends, {TaskStatus.SUCCEEDED, TaskStatus.DECLINED, TaskStatus.CANCELLED, TaskStatus.EXPIRED})
        self.assertEqual(self.statuses(handle), (TaskStatus.SUCCEEDED, TaskStatus.SUCCEEDED))
        self.assert_idle(self.alice, self.bob)
        for to, text in Random(1).sample(said * 3, 3 * len(said)):
            self.say_again(to, text)
            self.assertEqual(self.state(), before)
        self.advance(200, step=10)
        self.assertEqual(self.state(), before)
        self.assert_idle(self.alice, self.bob)
