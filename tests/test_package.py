"""The front door: each name of the Go package has its counterpart here, which does what the table in the docs says."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tasksubmit as t
from tasksubmit.errors import NeverStaged
from tasksubmit.testing.network import MemoryNetwork

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)
MILLISECOND = timedelta(milliseconds=1)
HERE = t.Address.parse("0:0000.0000.0001")
THERE = t.Address.parse("0:0000.0000.0002")


class NamesTests(SynchronousTestCase):
    """What can be imported."""

    def test_all(self) -> None:
        """Everything that the package says it has is there, and documented."""
        for name in t.__all__:
            self.assertTrue(getattr(t, name).__doc__ is not None or name.isupper(), name)
        self.assertEqual(len(set(t.__all__)), len(t.__all__))

    def test_seed(self) -> None:
        """Every name that stands for one of the Go package is at the front door."""
        names = """
            ResponseStatus TaskStatus ACCEPT_TIMEOUT QUEUE_HEAD_TIMEOUT FrameType ALLOWED_RESULT_EXTENSIONS
            FORBIDDEN_RESULT_EXTENSIONS generate_task_id TaskFile parse_time type_name Frame FrameDecoder SubmitRequest
            SubmitResponse TaskStatusUpdate TaskResultMessage TaskResult PoloScoreBreakdown polo_score connect Client
            ITaskHandler TaskSubmitFactory
        """
        self.assertEqual(set(names.split()) - set(t.__all__), set())

    def test_constants(self) -> None:
        """The limits and ports are those of the protocol."""
        self.assertEqual((t.MAX_FRAME, t.PORT, t.DEFAULT_TCP_PORT), (2**24, 1003, 11003))

    def test_unknown(self) -> None:
        """A name that is not there is missed in the usual way."""
        with self.assertRaisesRegex(AttributeError, "'tasksubmit' has no attribute 'Nothing'"):
            _ = t.Nothing

    def test_import_is_cheap(self) -> None:
        """Importing the package, and frames, messages and scores from it, loads no reactor and nothing of Twisted."""
        code = "import sys, tasksubmit as t; t.Frame, t.TaskFile, t.polo_score; print('twisted' in sys.modules)"
        checkout = Path(__file__).resolve().parents[1]
        self.assertEqual(subprocess.check_output([sys.executable, "-c", code], cwd=checkout, text=True), "False\n")


class CheckoutTests(SynchronousTestCase):
    """Python processes that tests start."""

    def test_child_processes_import_this_checkout(self) -> None:
        """A child process imports the tests and the package from any directory, also where nothing is installed."""
        directory = self.mktemp()
        Path(directory).mkdir()
        # Without site, what an editable installation has put on the path is not there.
        code = "import importlib.util as u; print(*(u.find_spec(name).origin for name in ('tests', 'tasksubmit')))"
        found = subprocess.check_output([sys.executable, "-S", "-c", code], cwd=directory, text=True)
        checkout = Path(__file__).resolve().parents[1]
        self.assertEqual(found.split(), [str(checkout / name / "__init__.py") for name in ("tests", "tasksubmit")])


class ValuesTests(SynchronousTestCase):
    """The rows about constants and values."""

    def test_response_status(self) -> None:
        """200 and 400."""
        self.assertEqual((t.ResponseStatus.ACCEPTED, t.ResponseStatus.REJECTED), (200, 400))

    def test_task_status(self) -> None:
        """The eight words are texts, too."""
        words = ["NEW", "ACCEPTED", "DECLINED", "EXECUTING", "COMPLETED", "SUCCEEDED", "CANCELLED", "EXPIRED"]
        self.assertEqual(list(t.TaskStatus), words)
        for word in words:
            self.assertEqual((getattr(t.TaskStatus, word), str(t.TaskStatus(word))), (word, word))

    def test_timeouts(self) -> None:
        """A minute and an hour."""
        self.assertEqual((t.ACCEPT_TIMEOUT, t.QUEUE_HEAD_TIMEOUT), (MINUTE, 60 * MINUTE))

    def test_frame_types(self) -> None:
        """1 to 4, with their names, and a printable name for any other."""
        types = (t.FrameType.SUBMIT, t.FrameType.RESULT, t.FrameType.STATUS_UPDATE, t.FrameType.SEND_RESULTS)
        self.assertEqual(types, (1, 2, 3, 4))
        self.assertEqual(
            [t.type_name(n) for n in range(6)],
            ["UNKNOWN(0)", "SUBMIT", "RESULT", "STATUS_UPDATE", "SEND_RESULTS", "UNKNOWN(5)"],
        )

    def test_extensions(self) -> None:
        """Two frozen sets of extensions with a dot."""
        self.assertIsInstance(t.ALLOWED_RESULT_EXTENSIONS, frozenset)
        self.assertIsInstance(t.FORBIDDEN_RESULT_EXTENSIONS, frozenset)
        self.assertIn(".md", t.ALLOWED_RESULT_EXTENSIONS)
        self.assertIn(".go", t.FORBIDDEN_RESULT_EXTENSIONS)

    def test_generate_task_id(self) -> None:
        """32 hex digits in groups, never twice the same."""
        ids = {t.generate_task_id() for _ in range(100)}
        self.assertEqual(len(ids), 100)
        for task_id in ids:
            self.assertRegex(task_id, r"\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")

    def test_parse_time(self) -> None:
        """RFC 3339 to an aware datetime in UTC."""
        parsed = t.parse_time("2026-11-22T13:00:00+01:00")
        self.assertEqual((parsed, parsed.tzinfo), (NOW, timezone.utc))


class FramesTests(SynchronousTestCase):
    """The rows about frames and messages."""

    def test_frame(self) -> None:
        """A frame of any type encodes, and decodes from a stream however it is cut."""
        frame = t.Frame(2**32 - 1, b"{}")
        self.assertEqual((frame.type, frame.payload), (2**32 - 1, b"{}"))
        encoded = frame.encode()
        self.assertEqual(encoded, b"\xff\xff\xff\xff\0\0\0\2{}")
        decoder = t.FrameDecoder()
        self.assertEqual(decoder.feed(encoded[:5]), [])
        self.assertEqual(decoder.feed(encoded[5:] + encoded), [frame, frame])

    def test_messages(self) -> None:
        """Each message goes to a frame of its type and back, and has the fields of the description."""
        messages: list[tuple[Any, int]] = [
            (t.SubmitRequest(task_id="t", task_description="d", from_addr="a", to_addr="b"), 1),
            (t.SubmitResponse(task_id="t", status=200, message="m"), 1),
            (t.TaskResult(task_description="d", status="success", result=[1], error="e", timestamp="x"), 2),
            (t.TaskStatusUpdate(task_id="t", status="ACCEPTED", justification="j"), 3),
            (
                t.TaskResultMessage(
                    task_id="t",
                    result_type="file",
                    result_text="",
                    filename="a.md",
                    file_data=b"x",
                    completed_at="2026-11-22T12:00:00Z",
                    time_idle_ms=1,
                    time_staged_ms=2,
                    time_cpu_ms=3,
                ),
                4,
            ),
        ]
        for message, frame_type in messages:
            frame = message.to_frame()
            self.assertEqual(frame.type, frame_type)
            self.assertEqual(type(message).from_frame(frame), message)


class TaskFileTests(SynchronousTestCase):
    """The rows about task files."""

    def setUp(self) -> None:
        self.task = t.TaskFile.new("t-1", "read", str(HERE), str(THERE), NOW)

    def test_new(self) -> None:
        """A new task is NEW, created now."""
        task = self.task
        self.assertEqual((task.status, task.status_justification), ("NEW", "A new task was created"))
        self.assertEqual((task.created_at, task.from_, task.to), ("2026-11-22T12:00:00Z", str(HERE), str(THERE)))

    def test_json(self) -> None:
        """To indented JSON in bytes, and back."""
        text = self.task.to_json()
        self.assertTrue(text.startswith(b'{\n  "task_id": "t-1"'))
        self.assertEqual(t.TaskFile.from_json(text), self.task)

    def test_times(self) -> None:
        """The three durations return new records; without a start the last two return the same."""
        idle = self.task.with_time_idle(NOW + 1500 * MILLISECOND)
        self.assertEqual((idle.time_idle_ms, idle.accepted_at), (1500, "2026-11-22T12:00:01Z"))
        self.assertEqual(self.task.time_idle_ms, 0)
        self.assertEqual((self.task.with_time_staged(NOW), self.task.with_time_cpu(NOW)), (self.task, self.task))
        staged = t.TaskFile(created_at=idle.created_at, staged_at="2026-11-22T12:00:00Z")
        executing = staged.with_time_staged(NOW + MINUTE)
        self.assertEqual((executing.time_staged_ms, executing.execute_started_at), (60000, "2026-11-22T12:01:00Z"))
        done = executing.with_time_cpu(NOW + 3 * MINUTE)
        self.assertEqual((done.time_cpu_ms, done.completed_at), (120000, "2026-11-22T12:03:00Z"))

    def test_expiry(self) -> None:
        """NEW for over a minute; ACCEPTED and staged for over an hour."""
        self.assertFalse(self.task.is_expired_for_accept(NOW + MINUTE))
        self.assertTrue(self.task.is_expired_for_accept(NOW + MINUTE + MILLISECOND))
        staged = t.TaskFile(status="ACCEPTED", staged_at="2026-11-22T12:00:00Z")
        self.assertFalse(staged.is_expired_in_queue(NOW + 60 * MINUTE))
        self.assertTrue(staged.is_expired_in_queue(NOW + 60 * MINUTE + MILLISECOND))

    def test_since(self) -> None:
        """Ages are timedeltas; one that never was staged has a named error."""
        self.assertEqual(self.task.time_since_creation(NOW + MINUTE), MINUTE)
        self.assertRaises(NeverStaged, self.task.time_since_staged, NOW)
        self.assertEqual(t.TaskFile(staged_at="2026-11-22T12:00:00Z").time_since_staged(NOW + MINUTE), MINUTE)

    def test_reward(self) -> None:
        """The reward and all its parts, by either formula."""
        task = t.TaskFile(time_idle_ms=6000, time_cpu_ms=60000)
        score = t.polo_score(task)
        self.assertIsInstance(score, t.PoloScoreBreakdown)
        self.assertEqual((score.base, score.cpu_minutes, score.cpu_bonus, score.idle_factor), (1.0, 1.0, 1.0, 0.1))
        self.assertEqual((score.staged_factor, score.efficiency_multiplier, score.raw_reward), (0.0, 0.9, 1.8))
        self.assertEqual(score.final_reward, 2)
        self.assertAlmostEqual(t.polo_score(task, formula=t.ScoreFormula.LINEAR).idle_factor, 0.03)


class ConversationTests(SynchronousTestCase):
    """The rows about clients and servers, on a network in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.asked: list[t.SubmitRequest] = []
        self.senders: list[Any] = []

    def serve(self, answer: Any) -> None:
        """Listen with a function for a handler, which answers like this."""

        def handler(peer: object, request: t.SubmitRequest, send_result: Any) -> Any:
            self.asked.append(request)
            self.senders.append(send_result)
            return answer

        factory = t.TaskSubmitFactory(handler, clock=self.clock)
        self.successResultOf(self.network.server_endpoint("there").listen(factory))

    def client(self) -> t.Client:
        """A client that is connected."""
        connecting = t.connect(self.network.client_endpoint("there"), HERE, clock=self.clock)
        self.assertIsInstance(connecting, Deferred)
        self.network.flush()
        client = self.successResultOf(connecting)
        self.assertIsInstance(client, t.Client)
        self.addCleanup(self.network.flush)
        self.addCleanup(client.close)
        return client

    def test_accepted(self) -> None:
        """A handler that says True answers 200, and the client's call fires with it."""
        self.serve(True)
        submitted = self.client().submit_task("read", THERE, task_id="t-1")
        self.network.flush()
        response = self.successResultOf(submitted)
        self.assertEqual((response.task_id, response.status), ("t-1", t.ResponseStatus.ACCEPTED))
        self.assertEqual(response.message, "Task accepted and queued")
        [request] = self.asked
        self.assertEqual(request, t.SubmitRequest("t-1", "read", str(HERE), str(THERE)))

    def test_rejected(self) -> None:
        """A handler that says False answers 400; one may take its time; an id is made when none is given."""
        answer: Deferred[bool] = Deferred()
        self.serve(answer)
        submitted = self.client().submit_task("read", THERE)
        self.network.flush()
        self.assertNoResult(submitted)
        answer.callback(False)
        self.network.flush()
        response = self.successResultOf(submitted)
        self.assertEqual((response.status, response.message), (t.ResponseStatus.REJECTED, "Task rejected"))
        self.assertRegex(response.task_id, r"\A[0-9a-f-]{36}\Z")

    def test_synchronous_result(self) -> None:
        """The sender that a handler gets sends the old result on the connection of the submission."""
        self.serve(True)
        client = self.client()
        client.submit_task("read", THERE)
        self.network.flush()
        waiting = client.next_result()
        result = t.TaskResult("read", "success", "done", timestamp="2026-11-22T12:00:00Z")
        self.senders[0](result)
        self.network.flush()
        self.assertEqual(self.successResultOf(waiting), result)

    def test_updates_and_results(self) -> None:
        """The other two requests fire with the acknowledgement; a function for a handler knows no task of its own."""
        self.serve(True)
        client = self.client()
        client.submit_task("read", THERE)
        self.network.flush()
        update = client.send_status_update("t-1", "ACCEPTED", "taken")
        results = client.send_results(t.TaskResultMessage(task_id="t-1", result_type="text", result_text="done"))
        self.network.flush()
        for fired in (self.successResultOf(update), self.successResultOf(results)):
            assert fired is not None
            self.assertEqual((fired.status, fired.code), (400, "unknown_task"))

    def test_close(self) -> None:
        """A closed client has no connection."""
        self.serve(True)
        closed = self.client().close()
        self.network.flush()
        self.successResultOf(closed)
        self.assertEqual(self.network.connection_count("there"), 0)
