"""One attempt at a task: have the executor do it, tell of its progress, and give what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from tasksubmit.errors import (
    ExecutionFailed,
    ExecutorUnavailable,
    IllegalTransition,
    InvalidMessage,
    NoRoom,
    StoreClosed,
    StoreError,
    TaskSubmitError,
    TooLarge,
    UnknownTask,
)
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.availability import Availability
from tasksubmit.node.calling import call
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.live import LiveTasks
from tasksubmit.node.records import clipped
from tasksubmit.wire.address import Address

PROGRESS_SECONDS = 1.0
"""How often progress is told at most: each time is a line of the task's story, and a message."""

_LONGEST_PAUSE_SECONDS = 60.0
_RETRIES_AT_STOP = 2
"""How often a node that stops tries again to write what came of an execution, unless that has failed before."""

_LOOK_AGAIN_SECONDS = 1.0

_NO_SPACE = "there is no space for your results: take those that are pending, then submit the task again"
"""The reason why an execution for a peer that is short of space fails, in words for that peer."""

_Report = Callable[[], Awaitable[Task]]


@frozen
class UnendedExecution:
    """An execution that should have ended, and keeps its slot.

    :ivar error: what keeps it, for the operator.
    """

    task_id: str
    peer: Address
    attempt: int
    error: str
    since: datetime


class Attempt:
    """An attempt at a task that has just been begun; to be run once.

    :param task: the record as it is now.
    :param availability: of the executor; learns whether it could start the work.
    :param work_directory: see `Execution`.
    :param log: of all attempts, which tasks that cannot be done do not fill.
    :ivar work_ended: fires when nothing of the work goes on; the report of its outcome may still wait for the disk.
    """

    def __init__(
        self,
        task: Task,
        inbox: Inbox,
        live: LiveTasks,
        availability: Availability,
        work_directory: Path | None,
        timers: IReactorTime,
        log: Logger,
    ) -> None:
        self._availability = availability
        self._work_directory = work_directory
        self._failures = 0
        self.work_ended: Deferred[None] = Deferred()
        self._unended = ""
        self._unended_since = 0.0
        self._log = log
        self._task = task
        self._inbox = inbox
        self._live = live
        self._timers = timers
        self._work: Deferred[ExecutionResult] | None = None
        self._is_unwanted = False
        self._is_stopping = False
        self._is_cancelled = False
        self._has_worked = False
        self._unsent = ""
        self._sending: Deferred[None] | None = None
        self._pauses: set[Deferred[None]] = set()

    async def run(self, executor: IExecutor, earlier: Deferred[None] | None = None) -> bool | None:
        """Have the task done, and report what came of it; ends when nothing of it goes on.

        :param earlier: fires when an earlier attempt at the task has ended, if one has not; nothing is started before.
        :returns: True when there are results, False when it failed, None when it was cancelled or put back.
        """
        watching = Deferred.fromCoroutine(self._watch())
        self._work = (
            self._start(executor) if earlier is None else Deferred.fromCoroutine(self._start_after(earlier, executor))
        )
        if self._is_unwanted or self._is_stopping:
            self._cancel_work()
        is_done, report = await self._outcome(self._work)
        self._unended = ""
        self.work_ended.callback(None)
        self._has_worked = True
        watching.cancel()
        self._unsent = ""  # the results say more
        self._cancel_pauses()
        try:
            return None if self._is_unwanted else await self._deliver(is_done, report)
        finally:
            if self._sending is not None:  # a commit of progress, which an outcome had to wait for anyway
                await self._sending

    def _start(self, executor: IExecutor) -> Deferred[ExecutionResult]:
        if self._inbox.is_in_vain(self._task):
            self._availability.release()
            return fail(ExecutionFailed(f"the task was not executed, because {_NO_SPACE}"))
        self._failures = self._availability.started()
        return call(
            executor.execute, Execution(self._task, self._note_progress, self._work_directory, self._note_unended)
        )

    async def _start_after(self, earlier: Deferred[None], executor: IExecutor) -> ExecutionResult:
        self._log.info(
            "execution waits for the end of an earlier attempt: task={task_id} attempt={attempt}",
            task_id=self._task.task_id,
            attempt=self._task.attempt,
        )
        await earlier
        return await self._start(executor)

    def stop(self) -> None:
        """The node stops: end the work, and have the task begun again later."""
        self._is_stopping = True
        self._cancel_pauses()
        self._cancel_work()

    def _has_ended(self, task: Task) -> bool:
        return task.status is not TaskStatus.EXECUTING or task.attempt != self._task.attempt

    async def _watch(self) -> None:
        """End the work when the task is not this attempt's any more, although the disk may not be there to say so."""
        while not self._has_worked:
            try:
                await self._live.wait(self._task.key, self._has_ended)
            except (StoreClosed, UnknownTask, CancelledError):
                return
            except StoreError:
                await self._wait(_LOOK_AGAIN_SECONDS)
            else:
                self._is_unwanted = True
                return self._cancel_work()

    def _cancel_work(self) -> None:
        """Have the executor end its work; to be told once, for a second time would interrupt its tidying up."""
        if self._work is not None and not self._is_cancelled:
            self._is_cancelled = True
            self._work.cancel()

    # --- what came of it ---------------------------------------------------------------------------------------------

    async def _outcome(self, work: Deferred[ExecutionResult]) -> tuple[bool | None, _Report]:
        try:
            result = await work
            self._availability.succeeded(self._failures)
            return True, self._results(result)
        except ExecutorUnavailable as error:
            if not self._is_stopping and not self._is_unwanted:
                self._availability.failed(error)
            return None, self._requeue
        except Exception as error:
            if not self._is_cancelled:
                self._availability.succeeded(self._failures)
            if self._is_stopping:
                return None, self._put_back
            if not isinstance(error, ExecutionFailed) and not self._is_unwanted:
                self._log.failure("task {task_id} could not be done", task_id=self._task.task_id)
            return False, self._failure(error)

    def _results(self, result: object) -> _Report:
        key, attempt = self._task.key, self._task.attempt
        if isinstance(result, str):
            return lambda: self._inbox.complete(key, result, attempt=attempt)
        if isinstance(result, ResultFile):
            return lambda: self._inbox.complete(key, "", result.name, result.content, attempt)
        raise ExecutionFailed(f"the executor gave {type(result).__name__}, which is neither a text nor a ResultFile")

    def _failure(self, error: Exception) -> _Report:
        said = _said_by(error)
        what = _printable(said if isinstance(error, ExecutionFailed) else f"{type(error).__name__}: {said}")
        return lambda: self._inbox.fail(self._task.key, what or "it was not said why", self._task.attempt)

    async def _put_back(self) -> Task:
        why = "The node was stopped; the task will be begun again"
        return await self._inbox.put_back(self._task.key, why, self._task.attempt)

    async def _requeue(self) -> Task:
        # What is wrong is for the operator: it may name local files.
        why = "The executor is unavailable at the moment; the task will be started again"
        return await self._inbox.put_back(self._task.key, why, self._task.attempt)

    async def _deliver(self, is_done: bool | None, report: _Report) -> bool | None:
        """Have a report on disk, however long that takes; returns what came of it, as `run` does."""
        seconds = 1.0
        failures = 0
        while True:
            try:
                await report()
                return is_done
            except (IllegalTransition, UnknownTask) as error:
                self._log.info("too late for task {task_id}: {error}", task_id=self._task.task_id, error=str(error))
                return None
            except (InvalidMessage, TooLarge, UnicodeError) as error:
                is_done, report = False, self._failure(ExecutionFailed(f"the results cannot be sent: {error}"))
            except (StoreError, NoRoom) as error:
                is_short = isinstance(error, NoRoom)
                if is_short and self._inbox.is_in_vain(self._task):
                    dropped = ExecutionFailed(f"the results were dropped, because {_NO_SPACE}")
                    is_done, report = False, self._failure(dropped)
                    continue
                failures += 1
                if self._is_stopping and failures > _RETRIES_AT_STOP:
                    raise
                if is_short:
                    self._log.info("results wait for space: task={task_id}", task_id=self._task.task_id)
                else:
                    self._log.failure("what came of task {task_id} waits for the disk", task_id=self._task.task_id)
                await self._wait(seconds)
                seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)

    # --- how far it is -----------------------------------------------------------------------------------------------

    def _note_progress(self, text: str) -> None:
        self._availability.succeeded(self._failures)
        text = _printable(text)
        if text and not self._has_worked:
            self._unsent = text
            if self._sending is None:
                self._sending = Deferred.fromCoroutine(self._send_progress())

    async def _send_progress(self) -> None:
        """Record the newest progress, at most once in `PROGRESS_SECONDS`; the end of the work ends this, too.

        The pause comes after a message, and is left out once the work has ended: the end never waits for it.
        """
        while self._unsent:
            text, self._unsent = self._unsent, ""
            try:
                await self._inbox.progress(self._task.key, text, self._task.attempt)
            except TaskSubmitError as error:
                self._log.debug("progress was not recorded: error={error}", error=str(error))
            if not self._has_worked:
                await self._wait(PROGRESS_SECONDS)
        self._sending = None

    def unended(self, now: datetime) -> UnendedExecution | None:
        """Return what keeps the work from ending although it should, as of ``now``; None while nothing does."""
        if not self._unended:
            return None
        since = now + timedelta(seconds=self._unended_since - self._timers.seconds())
        return UnendedExecution(self._task.task_id, self._task.peer, self._task.attempt, self._unended, since)

    def _note_unended(self, text: str) -> None:
        if self._has_worked or text == self._unended:
            return
        if not self._unended:
            self._unended_since = self._timers.seconds()
        self._unended = text
        if text:
            self._log.warn(
                "execution keeps its slot: task={task_id} attempt={attempt} error={error}",
                task_id=self._task.task_id,
                attempt=self._task.attempt,
                error=text,
            )

    # --- pauses ------------------------------------------------------------------------------------------------------

    async def _wait(self, seconds: float) -> None:
        """Let time pass, until the attempt ends."""
        pause: Deferred[None] = deferLater(self._timers, seconds)
        self._pauses.add(pause)
        try:
            await pause
        except CancelledError:
            pass
        finally:
            self._pauses.discard(pause)

    def _cancel_pauses(self) -> None:
        for pause in list(self._pauses):
            pause.cancel()


def _said_by(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return error.strerror  # which files there are here is nobody else's business; the log has the whole
    try:
        return str(error)
    except Exception:
        return "its text cannot be had"


def _printable(text: str) -> str:
    """As much of what an executor said as fits into a record, in characters that can be sent."""
    return clipped(text.strip()).encode("utf-8", "replace").decode()
