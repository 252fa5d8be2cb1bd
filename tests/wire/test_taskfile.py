"""Task files: their text, and the times that they work out."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidTime, MalformedMessage, NeverStaged
from tasksubmit.wire.taskfile import TaskFile
from tests.tiers import examples
from tests.wire.vectors import Row, check_rows, rows

START = datetime(2026, 4, 9, 12, tzinfo=timezone.utc)


def task_file(row: Row, key: str) -> TaskFile:
    """Make the task file of a row's fields."""
    return TaskFile(**{"from_" if name == "from" else name: value for name, value in row[key].items()})


def after(**elapsed: float) -> datetime:
    """Give the moment so much later than `START`."""
    return START + timedelta(**elapsed)


class GoldenTests(SynchronousTestCase):
    """Parity with the reference."""

    def test_write(self) -> None:
        """Each record of the vectors is written byte for byte as the reference writes it, and reads back."""

        def check(row: Row) -> None:
            document = task_file(row, "fields").to_json()
            self.assertEqual(document.decode(), row["text"])
            self.assertEqual(TaskFile.from_json(document), task_file(row, "reread"))

        check_rows(self, rows("taskfile", op="marshal"), check)

    def test_read(self) -> None:
        """Each text of the vectors is read as the reference reads it; sloppy ones, but for null fields, are refused."""

        def check(row: Row) -> None:
            document = bytes.fromhex(row["input_hex"])
            if row["ok"] and row["lenient"] in ([], ["null_value"]):
                self.assertEqual(TaskFile.from_json(document), task_file(row, "fields"))
                self.assertEqual(TaskFile.from_json(document).to_json().decode(), row["text"])
            else:
                self.assertRaises(MalformedMessage, TaskFile.from_json, document)

        check_rows(self, rows("taskfile", op="unmarshal"), check)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.binary(max_size=60))
    def test_noise(self, noise: bytes) -> None:
        """Any bytes are read or refused with the named error."""
        with contextlib.suppress(MalformedMessage):
            TaskFile.from_json(noise)


class LifeTests(SynchronousTestCase):
    """What a task file knows of its times."""

    def setUp(self) -> None:
        """Make a new task."""
        self.task = TaskFile.new("t", "work", "0:0000.0000.0001", "0:0000.0000.0002", START)

    def staged(self, status: str = "ACCEPTED") -> TaskFile:
        """Give a task of some status that was staged at the start."""
        return TaskFile(status=status, staged_at="2026-04-09T12:00:00Z")

    def test_new(self) -> None:
        """A new task is NEW, created now, and has no other stamps."""
        self.assertEqual(
            self.task,
            TaskFile(
                task_id="t",
                task_description="work",
                created_at="2026-04-09T12:00:00Z",
                status="NEW",
                status_justification="A new task was created",
                from_="0:0000.0000.0001",
                to="0:0000.0000.0002",
            ),
        )

    def test_durations(self) -> None:
        """Each step stamps the present and the whole milliseconds since the step before."""
        task = self.task.with_time_idle(after(seconds=1.5))
        self.assertEqual((task.accepted_at, task.time_idle_ms), ("2026-04-09T12:00:01Z", 1500))
        task = self.staged().with_time_staged(after(minutes=1, microseconds=1999))
        self.assertEqual((task.execute_started_at, task.time_staged_ms), ("2026-04-09T12:01:00Z", 60_001))
        task = task.with_time_cpu(after(minutes=3))
        self.assertEqual((task.completed_at, task.time_cpu_ms), ("2026-04-09T12:03:00Z", 120_000))

    def test_nothing_to_measure(self) -> None:
        """A task that was never staged, or never started, stays as it is."""
        self.assertIs(self.task.with_time_staged(after(minutes=1)), self.task)
        self.assertIs(self.task.with_time_cpu(after(minutes=1)), self.task)

    def test_expired_for_accept(self) -> None:
        """A NEW task expires after more than a minute, any other never."""
        self.assertFalse(self.task.is_expired_for_accept(after(minutes=1)))
        self.assertTrue(self.task.is_expired_for_accept(after(minutes=1, microseconds=1)))
        accepted = TaskFile(status="ACCEPTED", created_at="2026-04-09T12:00:00Z")
        self.assertFalse(accepted.is_expired_for_accept(after(days=1)))

    def test_expired_in_queue(self) -> None:
        """An ACCEPTED task expires after more than an hour as the head of the queue, any other never."""
        self.assertFalse(self.staged().is_expired_in_queue(after(hours=1)))
        self.assertTrue(self.staged().is_expired_in_queue(after(hours=1, microseconds=1)))
        self.assertFalse(self.staged("EXECUTING").is_expired_in_queue(after(days=1)))
        self.assertFalse(TaskFile(status="ACCEPTED").is_expired_in_queue(after(days=1)))

    def test_ages(self) -> None:
        """The age counts from creation, the time at the head from staging; one never staged has none."""
        self.assertEqual(self.task.time_since_creation(after(minutes=5)), timedelta(minutes=5))
        self.assertEqual(self.staged().time_since_staged(after(hours=2)), timedelta(hours=2))
        self.assertRaises(NeverStaged, self.task.time_since_staged, START)

    def test_unreadable_stamp(self) -> None:
        """A stamp that is needed and cannot be read is told."""
        self.assertRaises(InvalidTime, TaskFile(created_at="yesterday").time_since_creation, START)
