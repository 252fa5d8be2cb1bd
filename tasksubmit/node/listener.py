"""A server endpoint as a service that does not start when it cannot listen."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.errors import ListenError

_TAKEN = (errno.EADDRINUSE, None)
"""What a port says that is taken; a lock of a Unix socket has no number to say it with."""


class Listener(Service):
    """Listens on ``endpoint`` while it runs; `description` is what errors call it.

    One that is not ``is_privileged`` waits for ``startService``: by then twistd has shed its privileges, and the
    services before it have started.

    Twisted's own ``StreamServerEndpointService`` only logs that a port is taken, and the daemon runs on without it.
    """

    _log = Logger()

    def __init__(
        self,
        description: str,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        *,
        is_privileged: bool = True,
    ) -> None:
        self.description = description
        self._endpoint = endpoint
        self._factory = factory
        self._is_privileged = is_privileged
        self._listening: Deferred[None] | None = None
        self.port: IListeningPort | None = None

    @override
    def privilegedStartService(self) -> None:
        """Begin to listen, if that may need privileges.

        :raises ListenError: when the endpoint says at once that it cannot.
        """
        if self._is_privileged:
            self._listen()

    @override
    def startService(self) -> None:
        self._listen()
        super().startService()

    def _listen(self) -> None:
        if self._listening is not None:
            return
        listening, failures = self._try_to_listen()
        if failures and remove_stale_socket(_socket_path(failures[0].value, self._endpoint)):
            listening, failures = self._try_to_listen()
        if failures:
            error = failures[0].value
            is_taken = isinstance(error, CannotListenError) and getattr(error.socketError, "errno", None) in _TAKEN
            hint = "; is it taken by another process?" if is_taken else ""
            raise ListenError(f"cannot listen on {self.description}: {_reason(failures[0])}{hint}") from error
        self._listening = listening
        listening.addCallback(self._log_failures, failures)

    def _try_to_listen(self) -> tuple[Deferred[None], list[Failure]]:
        failures: list[Failure] = []
        listening = self._endpoint.listen(self._factory).addCallback(self._is_listening)
        listening.addErrback(failures.append)
        return listening, failures

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        port, self.port = self.port, None
        listening, self._listening = self._listening, None
        if listening is not None and not listening.called:
            listening.cancel()
        return (port.stopListening() if port is not None else None) or succeed(None)

    def _is_listening(self, port: IListeningPort) -> None:
        self.port = port
        self._log.info("listening on {host}", host=port.getHost())

    def _log_failures(self, _: None, failures: list[Failure]) -> None:
        """Say that an endpoint which needed time failed in the end: too late to stop the start."""
        for failure in failures:
            if not failure.check(CancelledError):
                self._log.failure("cannot listen on {description}", failure, description=self.description)


def _socket_path(error: BaseException | None, endpoint: Any) -> str:
    """The path of the Unix socket that could not be listened on; empty if it was none."""
    # A pid lock whose process belongs to another user fails with a bare PermissionError, which names no path.
    path = error.port if isinstance(error, CannotListenError) else getattr(endpoint, "_address", "")
    return os.fsdecode(path) if isinstance(path, str | bytes) else ""


def remove_stale_socket(path: str) -> bool:
    """Remove a Unix socket on which nobody listens, and Twisted's lock beside it, which a process that died has left.

    The lock names a process by its number. That proves nothing: in a container each node is number 1, and elsewhere the
    number may belong to another process by now. Nobody listens if a connection is refused.

    :returns: True if something was removed.
    """
    if not path or path.startswith("\0"):
        return False
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.setblocking(False)  # one with a full backlog would wait
        try:
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                return False
            attempt.connect(path)
            return False
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except OSError:
            return False  # somebody listens there, or nobody can tell
    lock = f"{path}.lock"
    stale = [left for left in (path, lock) if os.path.lexists(left) and (left == path or os.path.islink(left))]
    try:
        for left in stale:
            os.unlink(left)
    except OSError:
        return False  # the error of the endpoint says more
    return bool(stale)


def _reason(failure: Failure) -> str:
    """Why, without what the caller knows already."""
    error = failure.value
    if isinstance(error, CannotListenError):
        error = error.socketError
    return getattr(error, "strerror", None) or failure.getErrorMessage().rstrip(".")
