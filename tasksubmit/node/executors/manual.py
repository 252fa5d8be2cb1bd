"""The executor ``manual``: none; a person or a program takes tasks with ``execute`` and gives results."""

from __future__ import annotations

from typing import Any

from tasksubmit.errors import ConfigurationError


def make_executor(reactor: Any, *arguments: str, **options: str) -> None:
    """See `IExecutorMaker.make_executor`.

    :raises ConfigurationError: for any argument.
    """
    if arguments or options:
        raise ConfigurationError("it takes nothing after its name")
