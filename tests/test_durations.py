"""Durations and times, as people write them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.durations import format_duration, parse_duration, parse_moment
from tasksubmit.errors import InvalidTime

NOW = datetime(2026, 4, 9, 12, 0, tzinfo=timezone.utc)


class DurationTests(SynchronousTestCase):
    """`parse_duration` and `format_duration`."""

    def test_units(self) -> None:
        """Each unit is accepted, and several of them from the largest to the smallest."""
        for text, seconds in (
            ("90s", 90.0),
            ("5m", 300.0),
            ("1h", 3600.0),
            ("30d", 2_592_000.0),
            ("2w", 1_209_600.0),
            ("250ms", 0.25),
            ("1h30m", 5400.0),
            ("1w1d1h1m1s1ms", 694_861.001),
            ("1.5h", 5400.0),
            ("0s", 0.0),
        ):
            self.assertEqual(parse_duration(text), timedelta(seconds=seconds), text)

    def test_number_without_unit(self) -> None:
        """A number without a unit has the unit of its option, commonly seconds."""
        self.assertEqual(parse_duration("90"), timedelta(seconds=90))
        self.assertEqual(parse_duration(".5"), timedelta(seconds=0.5))
        self.assertEqual(parse_duration("1e3"), timedelta(seconds=1000))
        self.assertEqual(parse_duration("2", "d"), timedelta(days=2))
        self.assertEqual(parse_duration("2h", "d"), timedelta(hours=2))

    def test_refused(self) -> None:
        """Any other text is refused with the text and an example."""
        for text in ("", "soon", "h", "5x", "-5", "+5s", "1m1h", "1h1h", "1h 30m", "nan", "inf", "1H", "５s"):
            error = self.assertRaises(ValueError, parse_duration, text)
            self.assertEqual(str(error), f"{text!r} is not a duration such as 90s, 5m, 1h30m, 30d or 2w")
        for text in ("9999999999w", "1e300", f"{'9' * 400}s"):
            self.assertIn("is too long a duration", str(self.assertRaises(ValueError, parse_duration, text)))

    def test_written(self) -> None:
        """A duration is written in days and smaller units, and reads back the same."""
        for text in ("30d", "1h30m", "90d", "1m30s", "500ms", "0s", "8d1h"):
            self.assertEqual(format_duration(parse_duration(text)), text)
        self.assertEqual(format_duration(timedelta(days=14)), "14d")
        self.assertEqual(format_duration(timedelta(microseconds=1500)), "1ms")


class MomentTests(SynchronousTestCase):
    """`parse_moment`."""

    def test_relative(self) -> None:
        """A duration is a time from now, or ago with a minus or where times in the past are asked for."""
        for text, is_past, expected in (
            ("+1h", False, timedelta(hours=1)),
            ("1h", False, timedelta(hours=1)),
            ("-1h", False, timedelta(hours=-1)),
            ("1h", True, timedelta(hours=-1)),
            ("-1h", True, timedelta(hours=-1)),
            ("+1h", True, timedelta(hours=1)),
            ("+90", False, timedelta(seconds=90)),
        ):
            self.assertEqual(parse_moment(text, NOW, is_past=is_past), NOW + expected, text)

    def test_absolute(self) -> None:
        """A time stamp is that time."""
        self.assertEqual(parse_moment("2026-04-09T14:00:00+02:00", NOW), NOW)

    def test_refused(self) -> None:
        """Any other text, and a time that no calendar has, is refused with the text."""
        for text in (
            "soon",
            "+soon",
            "",
            "2026-04-09",
            "2026-13-09T12:00:00Z",
            "+1000000w",
            "-1000000w",
            "+9999999999w",
        ):
            error = self.assertRaises(InvalidTime, parse_moment, text, NOW)
            self.assertIn(repr(text), str(error))
