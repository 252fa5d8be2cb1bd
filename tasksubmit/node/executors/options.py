"""What the options of executors mean, as ``--executor NAME:ARGUMENT:OPTION=VALUE`` gives them: texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from tasksubmit.durations import parse_duration
from tasksubmit.errors import ConfigurationError
from tasksubmit.lifecycle.table import Lease

MAX_SECONDS = 10**9


def seconds(text: str) -> float:
    """Seconds of a duration, more than 0: ``90s``, ``1h30m``, or a number of seconds."""
    number = parse_duration(text).total_seconds()
    if not 0 < number <= MAX_SECONDS:
        raise ValueError(f"expected more than 0 and at most {MAX_SECONDS} seconds")
    return number


def count(text: str) -> int:
    """A whole number, more than 0."""
    number = int(text)
    if not 0 < number < 2**31:
        raise ValueError("expected a whole number, more than 0")
    return number


def flag(text: str) -> bool:
    """``yes`` or ``no``."""
    if text not in ("yes", "no"):
        raise ValueError("expected yes or no")
    return text == "yes"


def read_options(options: Mapping[str, str], known: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of the options that were given.

    :raises ConfigurationError: naming the option that is not known, or whose value is none.
    """
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in known:
            raise ConfigurationError(f"there is no option {name!r}; there are {', '.join(sorted(known))}")
        try:
            values[name] = known[name](text)
        except ValueError as error:
            raise ConfigurationError(f"{name}={text}: {error}") from None
    return values


def bound_lease(attempts: int, timeout_seconds: float | None, grace_seconds: float = 0) -> Lease:
    """The lease of work that lives in the node, which itself sees to it that the work ends in time."""
    if timeout_seconds is None:
        return Lease(max_attempts=attempts, ends_with_node=True)
    return Lease(timedelta(seconds=timeout_seconds + 2 * grace_seconds + 60), attempts, ends_with_node=True)
