"""The second step of reading a message, which refuses what no honest peer sends; and new task ids."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidMessage
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.wire.messages import (
    MAX_TEXT_BYTES,
    SubmitRequest,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
)


class ValidateTests(SynchronousTestCase):
    """What makes a message invalid."""

    def invalid(self, message: SubmitRequest | TaskStatusUpdate | TaskResultMessage, field: str) -> None:
        """Check that a message is invalid, and for which field."""
        self.assertEqual(self.assertRaises(InvalidMessage, message.validate).field, field)

    def test_task_id(self) -> None:
        """A task id has 1 to 128 letters, digits, dots, underscores and hyphens, and no dot in front."""
        for task_id in ("a", "a" * 128, generate_task_id(), "a..b", "-", "A_9.z"):
            SubmitRequest(task_id).validate()
        for task_id in ("", "a" * 129, ".", "..", ".a", "a/b", "a\\b", "a b", "a\n", "\u00e4", "a\0", "\u0661"):
            self.invalid(SubmitRequest(task_id), "task_id")
            self.invalid(TaskStatusUpdate(task_id, "NEW"), "task_id")
            self.invalid(TaskResultMessage(task_id, "text"), "task_id")

    def test_description(self) -> None:
        """A description is measured in bytes of UTF-8, against the limit that is given."""
        request = SubmitRequest("t", "\u00e4" * 5)
        request.validate()
        request.validate(max_description_bytes=10)
        error = self.assertRaises(InvalidMessage, request.validate, max_description_bytes=9)
        self.assertEqual(error.field, "task_description")

    def test_expires_at(self) -> None:
        """An expiry is empty or a time."""
        SubmitRequest("t", expires_at="2026-01-01T00:00:00+02:00").validate()
        self.invalid(SubmitRequest("t", expires_at="tomorrow"), "expires_at")

    def test_features(self) -> None:
        """Features are up to 32 words of up to 64 letters, digits, dots, underscores and hyphens."""
        SubmitRequest("t", features=("persistent", "x-y_z.1", "a" * 64)).validate()
        SubmitRequest("t", features=("a",) * 32).validate()
        self.invalid(SubmitRequest("t", features=("a",) * 33), "features")
        for word in ("", "a" * 65, "a b", "a\n", "\u00e4"):
            self.invalid(SubmitRequest("t", features=("ack", word)), "features")

    def test_texts_of_an_update(self) -> None:
        """Each text of a status update has up to `MAX_TEXT_BYTES` of UTF-8."""
        longest = "\u00e4" * (MAX_TEXT_BYTES // 2)
        TaskStatusUpdate("t", "NEW", justification=longest, error=longest).validate()
        self.invalid(TaskStatusUpdate("t", "NEW", justification=longest + "a"), "justification")
        self.invalid(TaskStatusUpdate("t", "NEW", error=longest + "a"), "error")

    def test_outcome(self) -> None:
        """An outcome is empty or a word of up to 64 small letters and underscores."""
        for outcome in ("", "deadline_passed", "a" * 64):
            TaskStatusUpdate("t", "CANCELLED", outcome=outcome).validate()
        for outcome in ("a" * 65, "a" * (MAX_TEXT_BYTES + 1), "Failed", "a b", "a\n"):
            self.invalid(TaskStatusUpdate("t", "CANCELLED", outcome=outcome), "outcome")

    def test_status(self) -> None:
        """A status is one of the eight words, spelt exactly."""
        for status in TaskStatus:
            TaskStatusUpdate("t", status.value).validate()
        for word in ("", "accepted", "DONE", "ACCEPTED "):
            self.invalid(TaskStatusUpdate("t", word), "status")

    def test_results(self) -> None:
        """A result is a text or a file with a name that may be sent, and its durations are not negative."""
        TaskResultMessage("t", "text", "r").validate()
        TaskResultMessage("t", "file", filename="a.md").validate()
        self.invalid(TaskResultMessage("t", "link"), "result_type")
        self.invalid(TaskResultMessage("t", "file"), "filename")
        self.invalid(TaskResultMessage("t", "file", filename="../a.md"), "filename")
        self.invalid(TaskResultMessage("t", "text", filename="a.py"), "filename")
        self.invalid(TaskResultMessage("t", "text", time_idle_ms=-1), "time_idle_ms")
        self.invalid(TaskResultMessage("t", "text", time_staged_ms=-1), "time_staged_ms")
        self.invalid(TaskResultMessage("t", "text", time_cpu_ms=-1), "time_cpu_ms")


class TaskIdTests(SynchronousTestCase):
    """New task ids."""

    def test_form(self) -> None:
        """An id is the random bytes in hex, in groups of 8-4-4-4-12, with no bits fixed."""
        self.assertEqual(generate_task_id(lambda n: bytes(range(n))), "00010203-0405-0607-0809-0a0b0c0d0e0f")
        self.assertEqual(generate_task_id(lambda n: b"\xff" * n), "ffffffff-ffff-ffff-ffff-ffffffffffff")

    def test_random(self) -> None:
        """Ids are not made twice."""
        self.assertEqual(len({generate_task_id() for _ in range(1000)}), 1000)
