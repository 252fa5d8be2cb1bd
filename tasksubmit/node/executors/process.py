"""The executor ``process``: runs a command for each task, without a shell."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any, TypeVar

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime
from twisted.internet.process import Process, unregisterReapProcessHandler
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import ConfigurationError, ExecutionFailed, ExecutorUnavailable
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.table import Lease
from tasksubmit.node.ending import to_its_end
from tasksubmit.node.executors import warden
from tasksubmit.node.executors.beneath import Base, read_beneath
from tasksubmit.node.executors.faults import in_thread, unavailable
from tasksubmit.node.executors.options import bound_lease, count, read_options, seconds
from tasksubmit.node.executors.places import Place, PlaceTaken
from tasksubmit.validation import (
    COUNT,
    DELAY,
    SECONDS,
    SIZE,
    TEXT,
    mapping_of,
    provides,
    to_path_or_none,
    to_texts,
    wrong_type,
    wrong_value,
)
from tasksubmit.wire.frames import MAX_FRAME
from tasksubmit.wire.timestamps import format_time

TIMEOUT_SECONDS = 3600.0
GRACE_SECONDS = 5.0
MAX_OUTPUT_BYTES = MAX_FRAME // 4 * 3 - 64 * 1024
"""What fits into a frame in base 64, with room for the rest of the message."""

STDIN, STDOUT, STDERR, CONTROL = range(4)

LOCK = 99
"""The descriptor of the attempt's lock file, see `places`; high, so that no script uses the number for itself."""

_MAX_CONTROL_LINE = 8192
_NUMBER = re.compile("[0-9]{1,9}")
_KEPT_OF_STDERR = 4096
_FULL_PIPE_TURNS = 64
"""Turns of the reactor in which a full pipe, of 64 KiB by default, is read, with some to spare."""

_SLACK_SECONDS = 1.0
_POLL_SECONDS = 0.1
_LONGEST_POLL_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 60.0


T = TypeVar("T")

_REACTOR = provides(IReactorTime, "the reactor")


def _to_command(value: Iterable[str]) -> tuple[str, ...]:
    if isinstance(value, str):
        raise wrong_type("command", "the program and its arguments, as in shlex.split('wc -w')", value)
    command = to_texts(value, "command")
    if not command or not command[0]:
        raise wrong_value("command", "the program and its arguments, such as ('wc', '-w')", command)
    return command


def _to_directory(value: Path | str | None) -> Path | None:
    return to_path_or_none(value, "directory")


def _to_environment(value: Mapping[str, str]) -> Mapping[str, str]:
    return dict(value) if isinstance(value, Mapping) else value  # and the validator refuses it


@implementer(IExecutor)
@frozen(kw_only=True)
class ProcessExecutor:
    """Runs a command for each task.

    The description is its standard input; its environment is that of the node and ``TASKSUBMIT_TASK_ID``,
    ``TASKSUBMIT_FROM``, ``TASKSUBMIT_ATTEMPT`` and, if the task has one, ``TASKSUBMIT_EXPIRES_AT``. What it prints, in
    UTF-8, are the results. On descriptor 3 it may write lines: ``progress TEXT`` tells the submitter how far it is, and
    ``result-file PATH`` names a file to send in place of what it prints: one in its directory, reached through no
    symbolic link, that has a single link and belongs to the user of the node or to ``result_owner``. An exit code other
    than 0 is a failure, of which the submitter is told the code and the last line of the standard error.

    When the task is cancelled, takes too long or the node stops, the process group of the command is asked to end
    (SIGTERM), and after a while all that the command has started is killed, on Linux daemons included; when the command
    ends, what it left is killed. It does not outlive the node, not even one that is killed. While a process of it
    lives, such as one of another account that cannot be killed, the execution does not end, and the task is not started
    again, by no later run of the node either.

    :ivar reactor: of the process; has to be able to start processes, threads and timers.
    :ivar command: the program and its arguments, none of which any shell sees.
    :ivar directory: where it runs; by default in a new, empty directory, removed afterwards. That is in the state
        directory, or among the temporary files when the node keeps nothing on disk. Links to it are followed once, when
        the executor is made: with a link that comes later the executor is unavailable.
    :ivar environment: in place of the node's own.
    :ivar timeout_seconds: how long it may take.
    :ivar grace_seconds: from asking the group to end to killing it.
    :ivar max_output_bytes: the most that it may print, and the largest file that it may name.
    :ivar attempts: how often a task is begun at most whose node was killed meanwhile.
    :ivar result_owner: the user id that files named as results belong to, if the command changes to another account.
    """

    reactor: Any = field(repr=False, validator=_REACTOR)
    command: tuple[str, ...] = field(converter=_to_command)
    directory: Path | None = field(default=None, converter=_to_directory)
    environment: Mapping[str, str] = field(
        factory=lambda: dict(os.environ), converter=_to_environment, repr=False, validator=mapping_of(TEXT, TEXT)
    )
    timeout_seconds: float = field(default=TIMEOUT_SECONDS, validator=SECONDS)
    grace_seconds: float = field(default=GRACE_SECONDS, validator=DELAY)
    max_output_bytes: int = field(default=MAX_OUTPUT_BYTES, validator=COUNT)
    attempts: int = field(default=1, validator=COUNT)
    result_owner: int = field(factory=os.geteuid, validator=SIZE)
    _real_directory: Path | None = field(init=False, repr=False, eq=False)

    @_real_directory.default
    def _resolve_directory(self) -> Path | None:
        # Once, for later a command may have put a link in its place.
        return self.directory and self.directory.resolve()

    _log = Logger()

    @property
    def lease(self) -> Lease:
        """See `IExecutor.lease`."""
        return bound_lease(self.attempts, self.timeout_seconds, self.grace_seconds)

    async def execute(self, execution: Execution) -> ExecutionResult:
        """See `IExecutor.execute`."""
        place = await self._claim(execution)
        try:
            return await self._run(execution, place)
        finally:
            await self._leave(execution, place)

    async def _claim(self, execution: Execution) -> Place:
        """Make a place for an attempt, as soon as no process of an earlier one can be alive."""
        root, key = execution.work_directory, execution.task.key
        claim = Place.temporary if root is None else partial(Place.claim, root, key, self.grace_seconds)
        pause = _POLL_SECONDS
        places: list[Place] = []
        while True:
            try:
                await to_its_end(in_thread(self.reactor, claim).addCallback(places.append), lambda: None)
                execution.unended("")
                return places[0]
            except PlaceTaken as taken:
                if pause >= _SLACK_SECONDS:
                    execution.unended(f"a process of an earlier attempt has {taken} locked")
                if pause == _POLL_SECONDS:
                    self._log.info(
                        "execution waits for the end of an earlier attempt: task={task_id} attempt={attempt}",
                        task_id=key.task_id,
                        attempt=execution.task.attempt,
                    )
            except OSError as error:
                raise unavailable(error, "make a directory for the command") from error
            except CancelledError:
                for place in places:
                    await self._leave(execution, place)
                raise
            await deferLater(self.reactor, pause)
            pause = min(2 * pause, 1.0)

    async def _leave(self, execution: Execution, place: Place) -> None:
        """Leave a place, as soon as no process of the attempt has its lock; a cancellation changes nothing."""
        await to_its_end(Deferred.fromCoroutine(self._clear(execution, place)), lambda: None)

    async def _clear(self, execution: Execution, place: Place) -> None:
        pause = _POLL_SECONDS
        while True:
            try:
                return await self._in_thread(place.leave)
            except PlaceTaken:
                # A process that is being started has the node's descriptors for a moment, and is none of the attempt.
                await deferLater(self.reactor, pause)
            lives = await self._in_thread(place.clear)
            if pause > _SLACK_SECONDS:
                execution.unended(lives)
            pause = min(2 * pause, _LONGEST_POLL_SECONDS)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        try:
            return await in_thread(self.reactor, call)
        except ExecutorUnavailable:
            return call()  # blocks, for once: there are no threads, and the next attempt needs the place

    async def _run(self, execution: Execution, place: Place) -> ExecutionResult:
        written = self.directory or place.directory
        real = self._real_directory or place.directory.resolve()
        with ExitStack() as kept:
            opening = in_thread(self.reactor, Base.open, real, written)
            opening.addCallback(lambda base: kept.enter_context(closing(base)))
            try:
                base = await to_its_end(opening, lambda: None)
            except OSError as error:
                raise ExecutorUnavailable(f"cannot enter the directory {real}: {error.strerror}") from error
            return await self._run_in(base, execution, place)

    async def _run_in(self, base: Base, execution: Execution, place: Place) -> ExecutionResult:
        command = _Command(self, execution)
        try:
            ended = command.start(base.directory, place.descriptor)
        except OSError as error:
            raise unavailable(error, "start a process") from error
        await to_its_end(ended, command.end)
        if not command.result_file:
            try:
                return command.output.decode("utf-8")
            except UnicodeDecodeError:
                raise ExecutionFailed("the command printed what is not text in UTF-8") from None
        return ResultFile(PurePath(command.result_file).name, await self._read(base, command.result_file))

    async def _read(self, base: Base, path: str) -> bytes:
        """Read a result file, however long the machine takes to be able to: the work is done."""
        pause = 1.0
        while True:
            try:
                reading = in_thread(self.reactor, read_beneath, base, path, self.max_output_bytes, self.result_owner)
                return await to_its_end(reading, lambda: None)  # the base is closed afterwards
            except (OSError, ExecutorUnavailable) as error:
                self._log.warn(
                    "a result file cannot be read: retry_in={pause:g}s error={error}", pause=pause, error=error
                )
            await deferLater(self.reactor, pause)
            pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    @override
    def __str__(self) -> str:
        return f"process:{shlex.join(self.command)}"


class _Command(ProcessProtocol):
    """One run of the command.

    :ivar output: what it has printed.
    :ivar result_file: the path that it has named.
    """

    transport: Process

    _log = Logger()

    def __init__(self, executor: ProcessExecutor, execution: Execution) -> None:
        self._executor = executor
        self._execution = execution
        self.output = bytearray()
        self.result_file = ""
        self._errors = b""
        self._control = b""
        self._status = b""
        self._group = 0
        self._exit_code: int | None = None
        self._obstacle = ""
        self._has_started = False
        self._has_run = False
        self._has_ended = False
        self._fault = ""
        self._ended: Deferred[None] = Deferred()
        self._timers: list[Any] = []
        self._is_ending = False

    def start(self, directory: Path, lock: int | None) -> Deferred[None]:
        """Start the command; returns a Deferred that fires when it has ended well.

        That fails with `ExecutionFailed` otherwise, and with `ExecutorUnavailable` when its program never ran.

        :param lock: a descriptor for all processes of the command to inherit.
        :raises OSError: when there can be no process.
        """
        executor, task = self._executor, self._execution.task
        interpreter = [sys.executable, "-I", "-S", str(warden.__file__)]
        arguments = [*interpreter, str(executor.grace_seconds), str(directory), *executor.command]
        environment = {
            **executor.environment,
            "TASKSUBMIT_TASK_ID": task.task_id,
            "TASKSUBMIT_FROM": str(task.peer),
            "TASKSUBMIT_ATTEMPT": str(task.attempt),
        }
        if task.expires_at is not None:
            environment["TASKSUBMIT_EXPIRES_AT"] = format_time(task.expires_at)
        pipes: dict[int, Any] = {STDIN: "w", STDOUT: "r", STDERR: "r", CONTROL: "r"}
        pipes |= {warden.LIFELINE: "w", warden.STATUS: "r"}
        if lock is not None:
            pipes[LOCK] = lock
        executor.reactor.spawnProcess(self, sys.executable, arguments, environment, childFDs=pipes)
        return self._ended

    def end(self, fault: str = "") -> None:
        """Have all processes of the command ended; ``fault`` is what the submitter is told."""
        self._fault = self._fault or fault
        if not self._is_ending:
            self._is_ending = True
            self.transport.closeChildFD(warden.LIFELINE)
            # The warden asks, and kills after the grace; unless the command has stopped it (SIGSTOP).
            self._later(self._executor.grace_seconds + _SLACK_SECONDS, self._wake)

    # --- what the reactor calls --------------------------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        seconds = self._executor.timeout_seconds
        self._later(seconds, lambda: self.end(f"the command took longer than {seconds:g} s"))
        self.transport.writeToChild(STDIN, self._execution.description.encode())
        self.transport.closeChildFD(STDIN)

    @override
    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD in (STDOUT, STDERR, CONTROL):
            self._has_run = True
        if childFD == STDERR:
            self._errors = (self._errors + data)[-_KEPT_OF_STDERR:]
        elif childFD == CONTROL:
            self._control_received(data)
        elif childFD == warden.STATUS:
            self._status_received(data)
        elif len(self.output) + len(data) <= self._executor.max_output_bytes:
            self.output += data
        else:
            self.end(f"the command printed more than {self._executor.max_output_bytes} bytes")

    def _control_received(self, data: bytes) -> None:
        *lines, self._control = (self._control + data).split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "progress":
                self._execution.progress(rest)
            elif word == "result-file":
                self.result_file = rest
            else:
                self.end(f"the command wrote a line on descriptor 3 that has no meaning: {word[:40]!r}")
        if len(self._control) > _MAX_CONTROL_LINE:
            self._control = b""
            self.end(f"the command wrote a line on descriptor 3 of over {_MAX_CONTROL_LINE} bytes")

    def _status_received(self, data: bytes) -> None:
        # The command may be able to write here through /proc: what the supervisor does not write is ignored.
        *lines, self._status = (self._status + data).split(b"\n")
        self._status = self._status[:_MAX_CONTROL_LINE]
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            number = int(rest) if _NUMBER.fullmatch(rest) else None
            if word == "started" and number and not self._has_started:  # the supervisor is before the program
                self._has_started = True
                self._group = number
            elif word == "cannot" and not self._obstacle:
                self._obstacle = f"cannot {rest}"
            elif word == "lives":
                self._execution.unended(rest)
            elif word == "exit" and number is not None:
                self._has_ended = True
                self._exit_code = number
            elif word == "ended":
                self._has_ended = True

    @override
    def childConnectionLost(self, childFD: int) -> None:
        if childFD == warden.STATUS:
            if self._group and not self._has_ended:  # something has killed the warden
                self._kill_group()
            self._reap(_POLL_SECONDS)

    def _reap(self, pause: float) -> None:
        """Notice the end of the warden also where nobody handles SIGCHLD, as on a foreign event loop.

        It ends in this moment, for the kernel has closed its descriptors.
        """
        transport = self.transport
        if transport.pid is not None:
            transport.reapProcess()
        if transport.pid is None:
            return
        try:
            os.kill(transport.pid, 0)
        except ProcessLookupError:  # another part of the program waits for all children, or has SIGCHLD ignored
            unregisterReapProcessHandler(transport.pid, transport)
            transport.processEnded(0)
        else:
            self._later(pause, lambda: self._reap(min(2 * pause, _LONGEST_POLL_SECONDS)))

    @override
    def processExited(self, reason: Failure) -> None:
        # Something that the warden could not adopt may hold the pipes open.
        self._later(self._executor.grace_seconds, self._hang_up)

    def _kill_group(self) -> None:
        try:
            os.killpg(self._group, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            self._log.warn(
                "process group cannot be killed: group={group} task={task_id} error={error}",
                group=self._group,
                task_id=self._execution.task.task_id,
                error=error.strerror,
            )

    def _wake(self) -> None:
        if self.transport.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self.transport.pid, signal.SIGCONT)
            self._later(_LONGEST_POLL_SECONDS, self._wake)

    def _hang_up(self, turns: int = _FULL_PIPE_TURNS) -> None:
        """Close the pipes when what is in them has been read, which a busy machine may not have come to so far."""
        if turns:
            return self._later(0, lambda: self._hang_up(turns - 1))  # the reactor reads before
        for descriptor in (STDOUT, STDERR, CONTROL):
            self.transport.closeChildFD(descriptor)
        if STDIN in self.transport.pipes:  # to close it would wait until all is written
            self.transport.pipes[STDIN].connectionLost(Failure(ConnectionAborted()))

    @override
    def processEnded(self, reason: Failure) -> None:
        if self._control:
            self._control_received(b"\n")
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        fault = self._fault or self._fault_of(self._exit_code)
        cannot_run = self._obstacle and self._exit_code == warden.NOT_STARTED and not self._has_run
        if not self._fault and (cannot_run or not self._has_started):
            self._ended.errback(ExecutorUnavailable(self._obstacle or self._not_supervised(reason)))
        elif fault:
            self._ended.errback(ExecutionFailed(fault))
        else:
            self._ended.callback(None)

    def _not_supervised(self, reason: Failure) -> str:
        """Why the program was never run, when the warden could not say so."""
        last_line = self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"cannot supervise the command: {last_line or reason.getErrorMessage()}"

    def _fault_of(self, exit_code: int | None) -> str:
        """What is to be said of how the command ended; nothing when that was well."""
        if exit_code == 0:
            return ""
        if exit_code is None:
            how = "was killed"
        elif 128 < exit_code < 128 + signal.NSIG:
            how = f"was ended by signal {exit_code - 128}"
        else:
            how = f"ended with exit code {exit_code}"
        said = self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"the command {how}" + (f": {said}" if said else "")

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers = [timer for timer in self._timers if timer.active()]
        self._timers.append(self._executor.reactor.callLater(seconds, call))


def make_executor(reactor: Any, *arguments: str, **options: str) -> IExecutor:
    """See `IExecutorMaker.make_executor`.

    :raises ConfigurationError: when there is no such command or directory, or an option is wrong.
    """
    if len(arguments) != 1 or not arguments[0].strip():
        raise ConfigurationError("expected a command; write a colon in it as \\:")
    try:
        command = shlex.split(arguments[0])
    except ValueError as error:
        raise ConfigurationError(f"{arguments[0]}: {error}") from None
    program = shutil.which(command[0])
    if program is None:
        raise ConfigurationError(f"there is no program {command[0]}")
    values = read_options(options, {name: parse for name, (_, parse) in _OPTIONS.items()})
    given = {_OPTIONS[name][0]: value for name, value in values.items()}
    return ProcessExecutor(reactor=reactor, command=(os.path.abspath(program), *command[1:]), **given)


def _directory(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if not path.is_dir():
        raise ValueError("there is no such directory")
    return path


def _user(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise ValueError("there is no such user") from None


_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "attempts": ("attempts", count),
    "directory": ("directory", _directory),
    "grace": ("grace_seconds", seconds),
    "limit": ("max_output_bytes", count),
    "result-owner": ("result_owner", _user),
    "timeout": ("timeout_seconds", seconds),
}
"""The attribute that each option sets, and how it is read."""
