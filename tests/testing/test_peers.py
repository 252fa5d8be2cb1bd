"""Scripted peers: what each says is what its name says, and a node survives it."""

from __future__ import annotations

from datetime import timedelta

from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit import SubmitRequest, SubmittedTask, TaskStatus, TaskStatusUpdate
from tasksubmit.errors import TaskCancelled, TaskDeclined, TaskSubmitError
from tasksubmit.lifecycle.results import check_result_filename
from tasksubmit.testing import Agents, Behaviour, Deployed, Line, Refusing, ScriptedPeer, WellBehaved
from tasksubmit.testing.hostile import (
    BAD_FILE_NAMES,
    AnnouncesTooMuch,
    AnswersForOthers,
    AnswersGarbage,
    AnswersNonsense,
    AnswersTwice,
    BadFileNames,
    CutsAnswer,
    Dribbles,
    Floods,
    HalfAnswers,
    HangsUp,
    LiesAboutTime,
    NeverAnswers,
    NeverReads,
)
from tasksubmit.testing.peers import Message
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import FEATURES


class PeersCase(SynchronousTestCase):
    """A node, and a scripted peer to which it submits a task."""

    @override
    def setUp(self) -> None:
        self.agents = Agents(self)
        self.node = self.agents.node()

    def given(self, behaviour: Behaviour) -> tuple[ScriptedPeer, SubmittedTask]:
        """Put the peer there, and submit a task to it."""
        peer = self.agents.peer(behaviour)
        return peer, self.agents.done(self.node.submit(peer.address, "work"))

    def status(self, task: SubmittedTask) -> TaskStatus:
        """Where the task stands."""
        return self.agents.submitted(task).status

    def said_to(self, behaviour: Behaviour, *what: Message | bytes) -> Line:
        """Put the peer there, and have another say something to it; gives the connection of that other."""
        peer, other = self.agents.peer(behaviour), self.agents.peer(Behaviour())
        line = other.say(peer.address, *what)
        self.agents.flush()
        return line


REQUEST = SubmitRequest("t-1", "work", "0:0000.0000.0001", "0:0000.0000.0002")
UPDATE = TaskStatusUpdate("t-1", "ACCEPTED", "taken", ack=True)
ANSWER_BYTES = len(WellBehaved().response("t-1").to_frame().encode())


class GoodTests(PeersCase):
    """Peers of good will."""

    def test_well_behaved(self) -> None:
        """It takes a task and answers; many messages come on one connection, each that wants an answer gets it."""
        peer, task = self.given(WellBehaved())
        self.agents.done(self.node.submit(peer.address, "more"))
        self.agents.done(task.cancel())
        self.agents.flush()
        self.assertEqual([type(message) for message in peer.received], [SubmitRequest, SubmitRequest, TaskStatusUpdate])
        self.assertEqual(
            [
                (message.task_id, message.task_description)
                for message in peer.received[:1]
                if isinstance(message, SubmitRequest)
            ],
            [(task.task_id, "work")],
        )
        self.assertEqual(len(peer.lines), 1)
        line = self.said_to(WellBehaved(), REQUEST, UPDATE, TaskStatusUpdate("t-1", "EXECUTING", ""))
        self.assertEqual([(answer.status, answer.features) for answer in line.answers], [(200, FEATURES)] * 2)

    def test_well_behaved_worker(self) -> None:
        """With results it does every task at once, and hears that they arrived."""
        peer, task = self.given(WellBehaved("all of it"))
        self.assertEqual(self.agents.done(task.result()).result_text, "all of it")
        self.assertIs(self.status(task), TaskStatus.SUCCEEDED)
        self.assertEqual([message.status for message in peer.received[1:]], [200] * 4)  # type: ignore[union-attr]

    def test_deployed(self) -> None:
        """It handles the first message of a connection only, answers only submissions, and closes."""
        peer, task = self.given(Deployed())
        self.agents.done(task.cancel())
        self.agents.flush()
        self.assertEqual([len(line.frames) for line in peer.lines], [1, 1])
        self.assertEqual([type(message) for message in peer.received], [SubmitRequest, TaskStatusUpdate])
        line = self.said_to(Deployed(), REQUEST, REQUEST)
        self.assertEqual([(answer.status, answer.features) for answer in line.answers], [(200, ())])
        silent = self.said_to(Deployed(), UPDATE)
        self.assertEqual(silent.received, b"")
        for over in (line, silent):
            assert over.lost is not None
            over.lost.trap(ConnectionDone)

    def test_deployed_worker(self) -> None:
        """With results it sends them, asks for no acknowledgement, and the task succeeds."""
        peer, task = self.given(Deployed("all of it"))
        self.assertEqual(self.agents.done(task.result()).result_text, "all of it")
        self.assertIs(self.status(task), TaskStatus.SUCCEEDED)
        self.assertEqual(len(peer.received), 1)

    def test_refusing(self) -> None:
        """It refuses for the reason that it was given."""
        _, task = self.given(Refusing("score_too_low", "Polo score too low"))
        with self.assertRaisesRegex(TaskDeclined, "Polo score too low"):
            self.agents.done(task.result())
        [answer] = self.said_to(Refusing("quota", retry_after_s=7), REQUEST).answers
        self.assertEqual((answer.code, answer.retry_after_s), ("quota", 7))

    def test_submits(self) -> None:
        """A scripted peer submits tasks to a node, and is told of them as any other peer."""
        peer = self.agents.peer(WellBehaved())
        line = peer.submit(self.node.address, "work", "t-9")
        self.agents.flush()
        self.assertEqual([(answer.task_id, answer.status) for answer in line.answers], [("t-9", 200)])
        task = self.agents.done(self.node.resolve("t-9"))
        self.agents.done(self.node.accept(task.key))
        self.agents.flush()
        self.assertEqual([type(message).__name__ for message in peer.received], ["SubmitResponse", "TaskStatusUpdate"])

    def test_records_what_is_broken(self) -> None:
        """A frame that is no message is kept beside the messages."""
        peer = self.agents.peer(WellBehaved())
        frames = [Frame(1, b"[]"), Frame(9, b"{}")]
        self.agents.peer(Behaviour()).say(peer.address, *(frame.encode() for frame in frames))
        self.agents.flush()
        self.assertEqual((peer.received, peer.broken), ([], frames))

    def test_dials_nobody(self) -> None:
        """A connection that is never made is lost."""
        peer = self.agents.peer(Behaviour())
        self.agents.stop(self.node)
        line = peer.say(self.node.address, REQUEST)
        self.agents.flush()
        assert line.lost is not None
        line.lost.trap(ConnectionRefusedError)

    def test_own(self) -> None:
        """A behaviour of one's own overrides what matters."""

        class Grumpy(WellBehaved):
            @override
            def received(self, peer: ScriptedPeer, line: Line, message: Message) -> None:
                if len(peer.received) > 1:
                    super().received(peer, line, message)

        peer, task = self.given(Grumpy())
        self.assertIsNone(self.agents.submitted(task).answered_at)
        line = self.agents.peer(Behaviour()).say(peer.address, REQUEST)
        self.agents.flush()
        self.assertEqual(len(line.answers), 1)


class HostileTests(PeersCase):
    """Peers of bad will: what each of them says, and that a node goes on."""

    def test_what_they_say(self) -> None:
        """Each says to a submission what its name says, byte for byte."""
        right = WellBehaved().response("t-1").to_frame().encode()
        for behaviour, said, closes in (
            (NeverAnswers(), b"", False),
            (NeverReads(), b"", False),
            (HangsUp(), b"", True),
            (HangsUp(10), b"", True),
            (HangsUp(10_000), b"", False),
            (CutsAnswer(11), right[:11], True),
            (HalfAnswers(), right[: len(right) // 2], False),
            (Dribbles(), right[:1], False),
            (AnswersGarbage(b"\0\1"), b"\0\1", False),
            (AnnouncesTooMuch(), b"\0\0\0\1\xff\xff\xff\xff", False),
            (AnswersNonsense(), b'\0\0\0\1\0\0\0\7["yes"]', False),
        ):
            line = self.said_to(behaviour, REQUEST)
            self.assertEqual((line.received, line.lost is not None), (said, closes), behaviour)

    def test_never_reads(self) -> None:
        """One that never reads has received nothing."""
        peer, _ = self.given(NeverReads())
        self.assertEqual([line.received for line in peer.lines], [b""])

    def test_dribbles(self) -> None:
        """One that dribbles sends a byte at a time, until the connection is gone."""
        line = self.said_to(Dribbles(0.5), REQUEST)
        self.agents.advance(0.9)
        self.assertEqual(len(line.received), 2)
        self.agents.advance(1000)
        self.assertEqual(len(line.received), ANSWER_BYTES)
        self.assertEqual([answer.status for answer in line.answers], [200])

    def test_answers(self) -> None:
        """Those that answer wrongly do so in whole frames."""
        [other] = self.said_to(AnswersForOthers(), REQUEST).answers
        self.assertNotEqual(other.task_id, "t-1")
        twice = self.said_to(AnswersTwice(), REQUEST).answers
        self.assertEqual([(answer.task_id, answer.status) for answer in twice], [("t-1", 200), ("t-1", 400)])

    def test_survived(self) -> None:
        """A node survives all of them: its task ends by a deadline, or stands as it should, and others are served."""
        behaviours = (
            NeverAnswers(),
            NeverReads(),
            HangsUp(),
            HangsUp(30),
            CutsAnswer(0),
            CutsAnswer(20),
            HalfAnswers(),
            Dribbles(),
            AnswersGarbage(),
            AnnouncesTooMuch(),
            AnswersForOthers(),
            AnswersNonsense(),
        )
        self.node = self.agents.node(delivery_age_limit=timedelta(minutes=10))
        tasks = [self.given(behaviour)[1] for behaviour in behaviours]
        _, good = self.given(WellBehaved("done"))
        self.assertEqual(self.agents.done(good.result()).result_text, "done")
        for behaviour, task in zip(behaviours, tasks, strict=True):
            with self.assertRaises(TaskCancelled, msg=str(behaviour)):
                self.agents.done(task.result(), seconds=7200)

    def test_answers_twice(self) -> None:
        """Of two answers the first counts."""
        _, task = self.given(AnswersTwice())
        self.assertIs(self.status(task), TaskStatus.NEW)
        self.assertIsNotNone(self.agents.submitted(task).answered_at)

    def test_floods(self) -> None:
        """One that floods submits as many tasks as it was told, each of which is answered."""
        peer, _ = self.given(Floods(300))
        self.agents.flush()
        self.assertEqual(self.count_received(peer), 300)
        self.assertEqual(sum(1 for message in peer.received if not isinstance(message, SubmitRequest)), 300)

    def count_received(self, peer: ScriptedPeer) -> int:
        """How many tasks the node has from the peer."""
        tasks = self.agents.done(
            self.node.store.list_tasks(side=None, status=TaskStatus.NEW, peer=peer.address, before=None, limit=1000)
        )
        return sum(1 for task in tasks if task.description == "flood")

    def test_lies_about_time(self) -> None:
        """Who claims to have worked for ages is paid for what the node saw, and that is noted."""
        _, task = self.given(LiesAboutTime(time_cpu_ms=10**12))
        self.agents.done(task.result())
        record = self.agents.submitted(task)
        self.assertEqual((record.time_cpu_ms, record.is_time_disputed), (10**12, True))
        self.assertLess(record.scored_cpu_ms or 0, 1000)

    def test_bad_file_names(self) -> None:
        """Every dangerous name is refused, and nothing is kept."""
        for name in BAD_FILE_NAMES:
            self.assertRaises(TaskSubmitError, check_result_filename, name)
        peer, task = self.given(BadFileNames())
        self.agents.flush()
        answers = [message for message in peer.received if not isinstance(message, SubmitRequest)]
        self.assertEqual([answer.status for answer in answers], [400] * len(BAD_FILE_NAMES))  # type: ignore[union-attr]
        self.assertIs(self.status(task), TaskStatus.NEW)
        self.assertEqual(self.agents.submitted(task).result_file, "")
