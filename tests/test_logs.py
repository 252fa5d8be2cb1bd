"""Logs: JSON lines, text that obeys nobody, and loggers that cannot be made to fill a disk."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

from twisted.logger import ILogObserver, Logger, LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.python import log as legacy
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tasksubmit.errors import PeerUnreachable
from tasksubmit.logs import (
    LINES,
    PERIOD_SECONDS,
    QuietObserver,
    flat_event,
    json_observer,
    quiet_logger,
    text_observer,
)
from tasksubmit.visible import visible
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import generate_task_id


class Unprintable:
    """Nothing can be said about it."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class JsonObserverTests(SynchronousTestCase):
    """What the observer writes."""

    def setUp(self) -> None:
        self.stream = io.StringIO()
        observer = json_observer(self.stream, has_whole_ids=True)
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

    def test_short_ids(self) -> None:
        """Unless told otherwise no field has a whole id of a task, which may be all that a peer has to know."""
        random_id = generate_task_id()
        self.log = Logger("tasksubmit.test", observer=json_observer(self.stream))
        try:
            raise PeerUnreachable(f"what came of {random_id} cannot be told")
        except PeerUnreachable:
            self.log.failure(
                "results of {task_id} are kept as {name}", task_id="job-of-monday", name="job-of-monday_a.md", attempt=3
            )
        self.assertNotIn(random_id, self.stream.getvalue())
        self.assertNotIn("job-of-monday", self.stream.getvalue())
        line = self.line()
        self.assertEqual(line["message"], "results of job-of... are kept as job-of..._a.md")
        self.assertEqual((line["task_id"], line["attempt"]), ("job-of...", 3))
        self.assertEqual(line["exception_text"], f"what came of {random_id[:8]}... cannot be told")
        self.assertIn(f"what came of {random_id[:8]}... cannot be told", line["traceback"])

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


HOSTILE = {
    "a line of its own": "x\n2026-01-01T00:00:00+0000 [node#info] forged",
    "returns to the start": "x\rforged",
    "clears the screen": "\x1b[2J\x1b]0;title\x07",
    "C1 controls": "\x9b31m\x85",
    "turns the direction": "\u202egnp.exe\u2066\u2069\u200f",
    "other ends of lines": "x\u2028y\u2029z\x0b\x0c\x1c",
    "invisible": "a\u200bb\ufeff\x00\x7f\u3164\u2800\ufe0f\U000e0041",
    "half a pair": "\ud800",
}


class HostileTextTests(SynchronousTestCase):
    """What peers write does in neither format what it says."""

    def written(self, make: Any, text: str) -> str:
        """What an observer writes of a text in a message, in a failure and in a field."""
        stream = io.StringIO()
        log = Logger("tasksubmit.test", observer=make(stream))
        log.warn("said {text}", text=text)
        log.failure("failed", Failure(ValueError(text)))
        return stream.getvalue()

    def test_text(self) -> None:
        """Each event is one line, others of it begin with a tab, and each character can be printed."""
        for name, text in HOSTILE.items():
            written = self.written(text_observer, text)
            self.assertEqual([c for c in written if visible(c) != c and c not in "\n\t"], [], name)
            starts = [line for line in written.split("\n")[:-1] if not line.startswith("\t")]
            self.assertEqual(len(starts), 2, (name, starts))

    def test_plain_text(self) -> None:
        """What can be printed, in whatever script, is written as it is."""
        stream = io.StringIO()
        Logger("tasksubmit.test", observer=text_observer(stream)).warn("{text}", text="größe 作业 \\n")
        self.assertTrue(stream.getvalue().endswith(" [tasksubmit.test#warn] größe 作业 \\n\n"))

    def test_json(self) -> None:
        """Each event is one line of ASCII."""
        for name, text in HOSTILE.items():
            written = self.written(json_observer, text)
            self.assertEqual(written.count("\n"), 2, name)
            self.assertTrue(written.isascii() and written.replace("\n", "").isprintable(), name)


class QuietTests(SynchronousTestCase):
    """No more than so many lines of a kind in a minute."""

    def setUp(self) -> None:
        self.events: list[Any] = []
        self.observer = QuietObserver(implementer(ILogObserver)(lambda event: self.events.append(event)))

    def log(self, times: int, now: float, kind: str = "{peer} is odd") -> list[str]:
        """Log some lines at a time; returns what came of them."""
        self.events.clear()
        for number in range(times):
            self.observer({"log_format": kind, "log_time": now, "log_level": LogLevel.info, "peer": number})
        return [formatEvent(event) for event in self.events]

    def test_flood(self) -> None:
        """The first lines are passed on, one says that others are not, and a later one how many they were."""
        told = self.log(1000, 0.0)
        self.assertEqual(told[:LINES], [f"{number} is odd" for number in range(LINES)])
        self.assertEqual(len(told), LINES + 1)
        self.assertIn("left out", told[-1])
        self.assertEqual(self.log(5, PERIOD_SECONDS - 1), [])
        told = self.log(1, PERIOD_SECONDS)
        self.assertEqual(told, [f"{1005 - LINES} lines of this kind were left out: '{{peer}} is odd'", "0 is odd"])

    def test_kinds(self) -> None:
        """One kind does not silence another, and few lines are told as they are."""
        self.log(1000, 0.0)
        self.assertEqual(self.log(2, 1.0, "{peer} left"), ["0 left", "1 left"])
        self.assertEqual(self.log(1, 100.0, "{peer} left"), ["0 left"])

    def test_clock_set_back(self) -> None:
        """A wall clock that is set back does not silence for as long."""
        self.log(1000, 1e6)
        self.assertEqual(len(self.log(1, 0.0)), 2)

    def test_logger(self) -> None:
        """The loggers that are handed out write to the log of the process; each counts for itself."""
        with capturedLogs() as logs:
            for log in (quiet_logger("tasksubmit.a"), quiet_logger("tasksubmit.b")):
                for _ in range(100):
                    log.info("x")
        self.assertEqual(len(logs), 2 * (LINES + 1))
        self.assertEqual({event["log_namespace"] for event in logs}, {"tasksubmit.a", "tasksubmit.b"})
