"""A circuit breaker for the executor: after a failure to start an execution, nothing is started for a while.

An executor that raises `ExecutorUnavailable` could not start: its machine is at fault, not the task. The tasks would
only go through the same fault one after the other, so the workers pause. At the end of a pause one task *probes*; the
others wait. A probe that fails makes the next pause twice as long, up to `LONGEST_PAUSE_SECONDS`; one that gets going
ends the fault, and the workers go on.

The trap: a queue may be empty at the end of a pause, and new tasks may be refused because of the fault. Nothing could
probe then, and the fault would never end. So `idle` has new tasks accepted again while the fault is still on record:
the first of them probes, and if that fails the node refuses again without waiting for the limit a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from attrs import frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from tasksubmit.errors import ExecutorUnavailable

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

PROBE_SECONDS = 5.0
"""An execution that runs for so long, or reports progress, has started. Failures to start take milliseconds."""


@frozen
class ExecutorProblem:
    """Fault that keeps an executor from starting anything.

    :ivar error: what is wrong, for the operator: it may name local paths.
    :ivar since: when it was noticed first.
    :ivar retry_at: when the next task probes, if there is one.
    :ivar is_refusing: True if new tasks are refused because of it.
    """

    error: str
    since: datetime
    retry_at: datetime
    is_refusing: bool


@frozen
class _Fault:
    """An `ExecutorProblem`, its times in seconds of the timers."""

    since: float
    retry_at: float
    error: str


class Availability:
    """Availability of an executor, as far as its last attempts showed.

    :param timers: measures the pauses.
    :param limit_seconds: how long a fault may last before new tasks are refused.
    :param resume: is called when the workers may look for tasks again.
    """

    _log = Logger()

    def __init__(self, timers: IReactorTime, limit_seconds: float, resume: Callable[[], None]) -> None:
        self._timers = timers
        self._limit_seconds = limit_seconds
        self._resume = resume
        self._fault: _Fault | None = None
        self.failures = 0
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._pause: IDelayedCall | None = None
        self._probe: IDelayedCall | None = None
        self._is_idle = False
        self._is_reserved = False

    @property
    def is_refusing(self) -> bool:
        """True if new tasks are to be refused because of the fault."""
        fault = self._fault
        if fault is None or self._is_idle:
            return False
        return self._timers.seconds() >= fault.since + self._limit_seconds

    def problem(self, now: datetime) -> ExecutorProblem | None:
        """Return the fault that keeps the executor from starting anything, as of ``now``; None if there is none."""
        fault = self._fault
        if fault is None:
            return None
        since, retry_at = (now + timedelta(seconds=at - self._timers.seconds()) for at in (fault.since, fault.retry_at))
        return ExecutorProblem(fault.error, since, retry_at, self.is_refusing)

    def admit(self) -> bool:
        """Let a worker look for a task; under a fault only one at a time, and none during a pause.

        A worker that was let in has to call `started`, `idle` or `release`.
        """
        if self._fault is None:
            return True
        is_free = self._pause is None and self._probe is None and not self._is_reserved
        self._is_reserved = self._is_reserved or is_free
        return is_free

    def started(self) -> int:
        """Note that an execution starts; returns what `succeeded` needs to know which one it was."""
        self._is_reserved = False
        if self._fault is not None and self._probe is None:
            failures = self.failures
            self._is_idle = False
            self._probe = self._timers.callLater(PROBE_SECONDS, lambda: self.succeeded(failures))
        return self.failures

    def failed(self, error: ExecutorUnavailable) -> None:
        """Note that an execution could not start, and pause."""
        self.failures += 1
        now = self._timers.seconds()
        since = now if self._fault is None else self._fault.since
        if self._pause is not None:
            return  # one of several that were started before the first of them failed
        self._cancel_probe()
        self._is_idle = False
        seconds, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        self._fault = _Fault(since, now + seconds, str(error))
        self._pause = self._timers.callLater(seconds, self._end_pause)
        self._log.warn(
            "executor unavailable: retry_in={retry_in:g}s unavailable_for={lasted:g}s error={error}",
            retry_in=seconds,
            lasted=now - since,
            error=self._fault.error,
        )

    def succeeded(self, failures: int) -> None:
        """Note that an execution got going, which `started` gave ``failures`` for.

        One that started before the last failure proves nothing.
        """
        if self._fault is None or failures != self.failures:
            return
        lasted = self._timers.seconds() - self._fault.since
        self.stop()
        self._log.info("executor available again: unavailable_for={lasted:g}s", lasted=lasted)
        self._resume()

    def release(self) -> None:
        """Note that a worker that was let in does not start anything now."""
        self._is_reserved = False

    def idle(self) -> None:
        """Note that there was no task to probe with."""
        self._is_reserved = False
        if self._fault is not None and self._pause is None and self._probe is None and not self._is_idle:
            self._is_idle = True
            self._resume()

    def stop(self) -> None:
        """Forget the fault: the node stops, or the fault is over."""
        self._cancel_probe()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        self._fault = None
        self._is_idle = self._is_reserved = False
        self._pause_seconds = FIRST_PAUSE_SECONDS

    def _end_pause(self) -> None:
        self._pause = None
        self._resume()

    def _cancel_probe(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None and probe.active():
            probe.cancel()
