"""Time stamps: RFC 3339, written in UTC with whole seconds, read with any offset and fraction (wire.md, section 2)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from tasksubmit.errors import InvalidTime
from tasksubmit.validation import TEXT, instance_of

# Like deployed peers it takes an hour of one digit, a comma before the fraction, and offsets up to 24:60.
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?"
    r"(?:Z|([+-])([0-9]{2}):([0-9]{2}))"
)
_WIDEST_OFFSET_HOURS = 24
_WIDEST_OFFSET_MINUTES = 60
_DATETIME = instance_of(datetime, "a datetime.datetime with a time zone")


def parse_time(text: str) -> datetime:
    """Read a time stamp.

    :param text: for example ``2026-04-09T12:00:00Z`` or ``2026-04-09T14:00:00.25+02:00``.
    :returns: an aware datetime in UTC; digits after the sixth of a fraction are dropped. The few instants that UTC
        would put outside the years 1 to 9999 keep the offset that was written.
    :raises InvalidTime: it is no such text, or its year is 0000.
    :raises TypeError: it is no string.
    """
    TEXT.check("text", text)
    match = _TIME.fullmatch(text)
    if match is None:
        raise InvalidTime(f"{text[:80]!r} is not a time like 2026-04-09T12:00:00Z")
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        microsecond = int(fraction[:6].ljust(6, "0")) if fraction else 0
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), microsecond)
        if sign is None:
            return local.replace(tzinfo=timezone.utc)
        offset = _offset(sign, int(offset_hours), int(offset_minutes))
        try:
            return (local - offset).replace(tzinfo=timezone.utc)
        except OverflowError:
            return local.replace(tzinfo=timezone(offset))
    except ValueError as error:
        raise InvalidTime(f"{text[:80]!r} is not a time: {error}") from None


def _offset(sign: str, hours: int, minutes: int) -> timedelta:
    if hours > _WIDEST_OFFSET_HOURS or minutes > _WIDEST_OFFSET_MINUTES:
        raise ValueError("the offset is too wide")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if sign == "-" else offset


def format_time(moment: datetime) -> str:
    """Write a time stamp.

    :param moment: an aware datetime, in any zone.
    :returns: the time in UTC with whole seconds, for example ``2026-04-09T12:00:00Z``; fractions are dropped.
    :raises InvalidTime: the datetime has no zone, or lies outside the years 1 to 9999 in UTC.
    :raises TypeError: it is no datetime.
    """
    _DATETIME.check("moment", moment)
    if moment.tzinfo is None:
        raise InvalidTime(f"{moment} has no time zone; make it aware, for example with tzinfo=timezone.utc")
    try:
        in_utc = moment.astimezone(timezone.utc)
    except OverflowError:
        raise InvalidTime(f"{moment} lies outside the years 1 to 9999 in UTC") from None
    return in_utc.replace(microsecond=0, tzinfo=None).isoformat() + "Z"
