"""Time stamps as text and as datetimes."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta, timezone

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidTime
from tasksubmit.wire.timestamps import format_time, parse_time
from tests.tiers import examples
from tests.wire.vectors import Row, check_rows, rows

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class ParseTests(SynchronousTestCase):
    """Reading."""

    def test_golden(self) -> None:
        """Each text of the vectors gives the reference's instant, to the microsecond, but for the year 0000."""

        def check(row: Row) -> None:
            if not row["ok"] or row["text"].startswith("0000"):
                self.assertRaises(InvalidTime, parse_time, row["text"])
                return
            moment = parse_time(row["text"])
            self.assertIsNotNone(moment.tzinfo)
            self.assertEqual((moment - EPOCH) // timedelta(microseconds=1), row["unix_ns"] // 1000)

        check_rows(self, rows("times"), check)

    def test_is_utc(self) -> None:
        """What is read is in UTC, whatever offset was written."""
        moment = parse_time("2026-04-09T14:00:00.1234567+02:00")
        self.assertEqual(moment, datetime(2026, 4, 9, 12, 0, 0, 123456, tzinfo=timezone.utc))
        self.assertEqual(moment.utcoffset(), timedelta(0))

    def test_edges_of_the_calendar(self) -> None:
        """An instant that UTC would put into the year 0 or 10000 is exact all the same."""
        last = parse_time("9999-12-31T23:59:59-01:00")
        self.assertEqual(last - parse_time("9999-12-31T23:59:59Z"), timedelta(hours=1))
        first = parse_time("0001-01-01T00:00:00+01:00")
        self.assertEqual(parse_time("0001-01-01T00:00:00Z") - first, timedelta(hours=1))
        self.assertRaises(InvalidTime, parse_time, "9999-12-31T23:59:59-24:30")
        self.assertRaises(InvalidTime, format_time, last)

    def test_offset_too_wide(self) -> None:
        """An offset is at most 24 hours and 60 minutes."""
        self.assertEqual(parse_time("2026-04-09T00:00:00-24:60").hour, 1)
        self.assertRaises(InvalidTime, parse_time, "2026-04-09T00:00:00-25:00")

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text("0123456789-:.TZ+ ,\u0661", max_size=30) | st.text(max_size=30))
    def test_noise(self, text: str) -> None:
        """Any text is read or refused with the named error."""
        with contextlib.suppress(InvalidTime):
            parse_time(text)


class FormatTests(SynchronousTestCase):
    """Writing."""

    def test_whole_seconds(self) -> None:
        """A time is written in UTC, its fraction dropped, its year in four digits."""
        east = timezone(timedelta(hours=2))
        self.assertEqual(format_time(datetime(2026, 4, 9, 14, 0, 5, 999999, tzinfo=east)), "2026-04-09T12:00:05Z")
        self.assertEqual(format_time(datetime(33, 4, 9, tzinfo=timezone.utc)), "0033-04-09T00:00:00Z")

    def test_naive(self) -> None:
        """A time without a zone is refused: it might mean any."""
        self.assertRaises(InvalidTime, format_time, datetime(2026, 4, 9))

    @settings(deadline=None, max_examples=examples(100))
    @given(st.datetimes(timezones=st.just(timezone.utc)))
    def test_round_trip(self, moment: datetime) -> None:
        """What is written reads back as the same second."""
        self.assertEqual(parse_time(format_time(moment)), moment.replace(microsecond=0))
