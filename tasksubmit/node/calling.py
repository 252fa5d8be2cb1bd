"""Calls to what an application has handed to the node: its executor, its policies, its score book."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure


def call(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
    """Fires with what a function comes to, at once or later, and fails with an ``Exception`` when it fails, however.

    Anything else that it raises, such as ``SystemExit`` or the cancellation of asyncio, would pass by whoever handles
    errors, and end a coroutine of the node that waits for it.
    """
    called: Deferred[Any] = maybeDeferred(function, *arguments)
    return called.addErrback(_to_exception)


def _to_exception(failure: Failure) -> Failure:
    error = failure.value
    if isinstance(error, Exception):
        return failure
    raise RuntimeError(f"{type(error).__name__} was raised: {error}") from error
