"""Logs as JSON: one flat object a line, which keeps the exception's text and traceback."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure

_OWN = frozenset({"time", "level", "namespace", "message", "exception", "exception_text", "traceback"})
_LEGACY = frozenset({"format", "isError", "system", "why", "failure"})
_LEGACY_TYPES = {"time": float, "message": tuple}


def json_observer(stream: TextIO | None = None) -> ILogObserver:
    """An observer that writes JSON lines to ``stream``, by default standard output.

    It can be given to any twistd: ``twistd --logger tasksubmit.logs.json_observer ...``.
    """
    return FileLogObserver(stream or sys.stdout, lambda event: json.dumps(flat_event(event)) + "\n")


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
