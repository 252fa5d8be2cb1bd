"""The errors that are logged while a test runs."""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

_HEADINGS = "twisted.internet.defer"
"""Says that there was an unhandled error, and then, in another event, which one."""


@implementer(ILogObserver)
class LoggedErrors:
    """Keeps what is logged as an error, from when it is made until it is closed."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []
        self._texts: list[str] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level") not in (LogLevel.error, LogLevel.critical):
            return
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            self.add(failure)
        elif event.get("log_namespace") != _HEADINGS:
            self._texts.append(formatEvent(event))

    def add(self, failure: Failure) -> None:
        """Keep one more."""
        self._failures.append(failure)

    def flush(self, *errors: type[Exception]) -> list[Failure]:
        """Give the failures of these types, or of all, and forget them; with all, also what was only text."""
        if not errors:
            self._texts.clear()
        found = [failure for failure in self._failures if not errors or failure.check(*errors)]
        self._failures = [failure for failure in self._failures if failure not in found]
        return found

    def close(self) -> list[str]:
        """Keep nothing more; gives what was not flushed, as text."""
        globalLogPublisher.removeObserver(self)
        failures = [f"an error was logged: {failure.getTraceback()}" for failure in self._failures]
        return failures + [f"an error was logged: {text}" for text in self._texts]
