"""Logs: as JSON, one flat object a line; as text that obeys nobody; and loggers that nobody can make fill a disk."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from attrs import define, field
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    formatEventAsClassicLogText,
    globalLogPublisher,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from tasksubmit.visible import visible

LINES = 20
"""How many lines of a kind a `quiet_logger` passes on in each `PERIOD_SECONDS`."""

PERIOD_SECONDS = 60.0

_BETWEEN_BREAKS = re.compile(r"[^\n\t]+")
_OWN = frozenset({"time", "level", "namespace", "message", "exception", "exception_text", "traceback"})
_LEGACY = frozenset({"format", "isError", "system", "why", "failure"})
_LEGACY_TYPES = {"time": float, "message": tuple}


def json_observer(stream: TextIO | None = None, *, has_whole_ids: bool = False) -> ILogObserver:
    """An observer that writes JSON lines to ``stream``, by default standard output.

    It can be given to any twistd: ``twistd --logger tasksubmit.logs.json_observer ...``.

    :param has_whole_ids: False shortens the ids of tasks: where peers have no keys, whoever knows the id of a task can
        report its status, send its results or cancel it. True is for a node whose peers all have keys.
    """

    def line(event: LogEvent) -> str:
        flat = flat_event(event)
        if not has_whole_ids:
            flat = {name: _with_short_ids(v, event) if isinstance(v, str) else v for name, v in flat.items()}
        return json.dumps(flat) + "\n"

    return FileLogObserver(sys.stdout if stream is None else stream, line)


def text_observer(stream: TextIO | None = None, *, has_whole_ids: bool = False) -> ILogObserver:
    """An observer that writes the usual lines of text to ``stream``, by default standard output.

    Twisted's own writes what it is given: here what a terminal would obey, what turns the direction of writing, and
    what others take for the end of a line comes out as an escape. Lines after the first of an event begin with a tab.

    :param has_whole_ids: see `json_observer`.
    """

    def line(event: LogEvent) -> str | None:
        text = formatEventAsClassicLogText(event)
        if text is None:
            return None
        text = text if has_whole_ids else _with_short_ids(text, event)
        if text.isascii() and text[:-1].isprintable():
            return text
        # The newlines are those of the format, which puts a tab after each that was in the message.
        return _BETWEEN_BREAKS.sub(lambda part: visible(part[0]), text)

    return FileLogObserver(sys.stdout if stream is None else stream, line)


_GENERATED_ID = re.compile(r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}(?![0-9A-Za-z])")


def _short_id(task_id: str) -> str:
    """The beginning of a task's id: enough to find the task, too little to speak of it to a node."""
    return task_id[: min(8, len(task_id) // 2)] + "..."


def _with_short_ids(text: str, event: LogEvent) -> str:
    """Shorten the id that an event is about, wherever it occurs, and all others that look like generated ones."""
    text = _GENERATED_ID.sub(lambda found: _short_id(found[0]), text)
    own = event.get("task_id")
    own = own.strip("'\"") if isinstance(own, str) else ""  # it may have been quoted
    if not own:
        return text
    return re.sub(rf"(?<![0-9A-Za-z]){re.escape(own)}(?![0-9A-Za-z])", lambda _: _short_id(own), text)


def flat_event(event: LogEvent) -> dict[str, object]:
    """What a log event says, as a flat mapping of JSON values.

    :returns: ``time`` (ISO 8601, UTC), ``level``, ``namespace``, ``message``; with a failure also ``exception`` (its
        type), ``exception_text`` and ``traceback``; and the event's own fields, texts unless they are numbers. A field
        that has one of those names gets an underscore behind it.
    """
    level = event.get("log_level")
    flat: dict[str, object] = {
        "time": datetime.fromtimestamp(event.get("log_time", 0), timezone.utc).isoformat(timespec="milliseconds"),
        "level": level.name if level is not None else "info",
        "namespace": event.get("log_namespace", ""),
        "message": formatEvent(event) or "",
    }
    failure = event.get("log_failure", event.get("failure"))  # the second is that of Twisted's older log
    if isinstance(failure, Failure):
        flat["exception"] = getattr(failure.type, "__qualname__", str(failure.type))
        flat["exception_text"] = failure.getErrorMessage()
        flat["traceback"] = failure.getTraceback()
        if not flat["message"]:
            flat["message"] = flat["exception_text"]
    for name, value in _fields(event).items():
        flat[name + "_" if name in _OWN else name] = value
    return flat


def _fields(event: Mapping[str, Any]) -> dict[str, object]:
    return {
        name: value if _is_plain(value) else _printed(value)
        for name, value in event.items()
        if not name.startswith("log_") and name not in _LEGACY and type(value) is not _LEGACY_TYPES.get(name)
    }


def _is_plain(value: object) -> bool:
    """Whether JSON has the value; it has no infinity, for one."""
    return value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _printed(value: object) -> str:
    try:
        return repr(value) if isinstance(value, bytes) else str(value)
    except Exception as error:
        return f"<unprintable: {type(error).__name__}>"


# --- loggers ------------------------------------------------------------------------------------------------------


@define(eq=False)
class _Kind:
    since: float
    count: int = 0


@implementer(ILogObserver)
@define(eq=False)
class QuietObserver:
    """Passes on no more than `LINES` events of a kind in `PERIOD_SECONDS`; then one tells how many were left out.

    The kind of an event is its format. Time is that of the events.

    :ivar observer: gets the events.
    """

    observer: ILogObserver = field(default=globalLogPublisher)
    _kinds: dict[str, _Kind] = field(factory=dict, init=False)

    def __call__(self, event: LogEvent) -> None:
        name, now = str(event.get("log_format")), event["log_time"]
        kind = self._kinds.get(name)
        if kind is None or not 0 <= now - kind.since < PERIOD_SECONDS:
            if kind is not None and kind.count > LINES:
                self._tell(event, f"{kind.count - LINES} lines of this kind were left out")
            kind = self._kinds[name] = _Kind(now)
        kind.count += 1
        if kind.count <= LINES:
            self.observer(event)
        elif kind.count == LINES + 1:
            self._tell(event, f"more than {LINES} lines of this kind; for {PERIOD_SECONDS:g} s others are left out")

    def _tell(self, event: LogEvent, what: str) -> None:
        told: LogEvent = {name: event[name] for name in ("log_time", "log_namespace", "log_logger") if name in event}
        told.update(log_level=LogLevel.warn, log_format="{what}: {kind!r}", what=what, kind=event.get("log_format"))
        self.observer(told)


def quiet_logger(namespace: str) -> Logger:
    """A logger for lines that a peer can cause; see `QuietObserver`. Made for each object, not for a class."""
    return Logger(namespace, observer=QuietObserver())
