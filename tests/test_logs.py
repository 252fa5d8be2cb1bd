"""Logs as JSON lines."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import PeerUnreachable
from tasksubmit.logs import flat_event, json_observer
from tasksubmit.wire.address import Address


class Unprintable:
    """Nothing can be said about it."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class JsonObserverTests(SynchronousTestCase):
    """What the observer writes."""

    def setUp(self) -> None:
        self.stream = io.StringIO()
        observer = json_observer(self.stream)
        self.log = Logger("tasksubmit.test", observer=observer)
        self.observer = observer

    def lines(self) -> list[dict[str, Any]]:
        """What was written, read line by line."""
        text = self.stream.getvalue()
        self.assertTrue(text.endswith("\n"))
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            for value in line.values():
                self.assertIsInstance(value, str | int | float | bool | None)
        return lines

    def line(self) -> dict[str, Any]:
        """The one line that was written."""
        [line] = self.lines()
        return line

    def test_event(self) -> None:
        """An event is one flat object: when, how grave, from where, in words, and its fields."""
        address = Address.parse("0:0000.0000.0002")
        self.log.info("task {task_id} of {peer}", task_id="t-1", peer=address, attempt=3, late=False, ratio=0.5)
        line = self.line()
        self.assertIsNotNone(datetime.fromisoformat(line.pop("time")).tzinfo)
        self.assertEqual(
            line,
            {
                "level": "info",
                "namespace": "tasksubmit.test",
                "message": "task t-1 of 0:0000.0000.0002",
                "task_id": "t-1",
                "peer": "0:0000.0000.0002",
                "attempt": 3,
                "late": False,
                "ratio": 0.5,
            },
        )

    def test_time(self) -> None:
        """The time is ISO 8601 in UTC with milliseconds."""
        self.assertEqual(flat_event({"log_time": 1.5})["time"], "1970-01-01T00:00:01.500+00:00")

    def test_levels(self) -> None:
        """The level is a word."""
        for level in LogLevel.iterconstants():
            self.log.emit(level, "said")
        self.assertEqual([line["level"] for line in self.lines()], [level.name for level in LogLevel.iterconstants()])

    def test_failure(self) -> None:
        """An exception keeps its type, its text and its traceback."""
        try:
            raise PeerUnreachable("0:0000.0000.0002 cannot be reached")
        except PeerUnreachable:
            self.log.failure("delivery of {task_id} failed", task_id="t-1")
        line = self.line()
        self.assertEqual(line["level"], "critical")
        self.assertEqual(line["message"], "delivery of t-1 failed")
        self.assertEqual(line["exception"], "PeerUnreachable")
        self.assertEqual(line["exception_text"], "0:0000.0000.0002 cannot be reached")
        self.assertIn("Traceback (most recent call last)", line["traceback"])
        self.assertIn("test_failure", line["traceback"])

    def test_failure_without_words(self) -> None:
        """An exception that nobody commented on is its own message."""
        self.log.failure("", failure=Failure(ValueError("wrong")))
        self.assertEqual(self.line()["message"], "wrong")

    def test_own_names(self) -> None:
        """A field with the name of one of ours is kept beside it."""
        self.log.info("{message}", message="theirs", namespace=7, time="noon", exception="none")
        line = self.line()
        self.assertEqual((line["message_"], line["namespace_"], line["time_"]), ("theirs", 7, "noon"))
        self.assertEqual((line["exception_"], line["level"], line["message"]), ("none", "info", "theirs"))

    def test_odd_fields(self) -> None:
        """Whatever a field holds, the line is written, and can be read by any JSON reader."""
        self.log.info(
            "line\nbreak \u2028 \u4ea4",
            odd=Unprintable(),
            raw=b"\xff",
            many=["a", 1],
            none=None,
            nan=float("nan"),
            half="\ud800",
        )
        line = self.line()
        self.assertEqual(line["message"], "line\nbreak \u2028 \u4ea4")
        self.assertEqual(line["odd"], "<unprintable: RuntimeError>")
        self.assertEqual((line["raw"], line["many"], line["none"]), ("b'\\xff'", "['a', 1]", None))
        self.assertEqual(line["nan"], "nan")

        def refuse(name: str) -> None:
            raise ValueError(f"{name} is no JSON")

        json.loads(self.stream.getvalue(), parse_constant=refuse)

    def test_bad_format(self) -> None:
        """A message that cannot be put together says so, and does not end the log."""
        self.log.info("no {such} field")
        self.assertIn("such", self.line()["message"])

    def test_legacy_events(self) -> None:
        """Events of Twisted's older log read like any other, without its private fields."""
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)
        legacy.msg("said long ago", system="old")
        line = self.line()
        self.assertEqual((line["message"], line["level"]), ("said long ago", "info"))
        self.assertEqual(set(line), {"time", "level", "namespace", "message"})

    def test_legacy_error(self) -> None:
        """An error of Twisted's older log keeps its text and its traceback."""
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)
        legacy.err(Failure(KeyError("gone")), "looking for it")
        self.flushLoggedErrors(KeyError)
        line = self.line()
        self.assertEqual((line["exception"], line["exception_text"]), ("KeyError", "'gone'"))
        self.assertIn("looking for it", line["message"])
