"""Durations and times as people write them in options, configuration files and commands.

A duration is a number with a unit, or several of them from the largest unit to the smallest: ``90s``, ``1h30m``. A
number without a unit has the unit of the option that takes it. A time is RFC 3339, or a duration from now.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from tasksubmit.errors import InvalidTime
from tasksubmit.wire.timestamps import parse_time

UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
"""Length of each unit, from the largest to the smallest, which is their order in a duration."""

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_BARE_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DURATION = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in UNITS))
_EXAMPLES = "such as 90s, 5m, 1h30m, 30d or 2w"
_DATE = re.compile(r"[0-9]{4}-")


def parse_duration(text: str, unit: str = "s") -> timedelta:
    """Read a duration.

    :param text: such as ``90s``, ``1h30m``, ``2.5d`` or, without a unit, ``90``.
    :param unit: the unit of a number that has none, one of `UNITS`.
    :raises ValueError: the text is no duration.
    """
    match = _DURATION.fullmatch(text) if text else None
    try:
        if _BARE_NUMBER.fullmatch(text):
            return UNITS[unit] * float(text)
        if match is None:
            raise ValueError(f"{text[:80]!r} is not a duration {_EXAMPLES}")
        numbers = zip(match.groups(), UNITS.values(), strict=True)
        return sum((length * float(number) for number, length in numbers if number), timedelta())
    except OverflowError:
        raise ValueError(f"{text[:80]!r} is too long a duration") from None


def format_duration(duration: timedelta) -> str:
    """Write a duration of at least zero in whole units, for example ``1h30m``; digits below 1 ms are dropped."""
    parts = []
    for unit, length in UNITS.items():
        if unit == "w":
            continue  # 30d reads better than 4w2d
        count, duration = divmod(duration, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_moment(text: str, now: datetime, *, is_past: bool = False) -> datetime:
    """Read a time.

    :param text: RFC 3339, such as ``2026-04-09T12:00:00Z``; or a duration: ``+1h`` is in an hour, ``-1h`` an hour ago.
    :param now: an aware datetime.
    :param is_past: True if a duration without a sign is ago; otherwise it is from now.
    :raises InvalidTime: the text is neither, or the time lies outside the years 1 to 9999.
    """
    if _DATE.match(text):
        return parse_time(text)
    is_signed = text.startswith(("+", "-"))
    try:
        length = parse_duration(text[1:] if is_signed else text)
    except ValueError as error:
        raise InvalidTime(f"{text[:80]!r} is not a time like 2026-04-09T12:00:00Z: {error}") from None
    try:
        return now - length if text.startswith("-") or (is_past and not is_signed) else now + length
    except OverflowError:
        raise InvalidTime(f"{text[:80]!r} from now lies outside the years 1 to 9999") from None
