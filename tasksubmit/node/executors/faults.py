"""Errors that keep an execution from starting, and are no fault of its task."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from tasksubmit.errors import ExecutorUnavailable

T = TypeVar("T")

TRANSIENT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EIO, errno.EINTR})
"""Errors of the machine, whichever file they are about."""


def unavailable(error: OSError, doing: str) -> ExecutorUnavailable:
    """Make the error for an operation of the system that failed before the work could start."""
    where = "" if error.filename is None else f": {error.filename}"
    return ExecutorUnavailable(f"cannot {doing}: {error.strerror or error}{where}")


def in_thread(reactor: Any, call: Callable[..., T], *arguments: Any) -> Deferred[T]:
    """Make a call in a thread of the reactor's.

    :raises ExecutorUnavailable: when no thread can be started.
    """
    try:
        return deferToThreadPool(reactor, reactor.getThreadPool(), call, *arguments)
    except RuntimeError as error:  # of threading: the process may have no more threads
        raise ExecutorUnavailable(f"cannot start a thread: {error}") from error
