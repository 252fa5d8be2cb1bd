"""The executor ``process``: runs a command for each task, without a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IReactorTime
from twisted.internet.process import Process
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import ConfigurationError, ExecutionFailed
from tasksubmit.interfaces import Execution, ExecutionResult, IExecutor, ResultFile
from tasksubmit.lifecycle.table import Lease
from tasksubmit.node.ending import to_its_end
from tasksubmit.node.executors import warden
from tasksubmit.node.executors.options import bound_lease, count, read_options, seconds
from tasksubmit.validation import (
    COUNT,
    DELAY,
    SECONDS,
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

_MAX_CONTROL_LINE = 8192
_KEPT_OF_STDERR = 4096
_SLACK_SECONDS = 1.0


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
    ``result-file PATH`` names a file to send in place of what it prints. An exit code other than 0 is a failure, of
    which the submitter is told the code and the last line of the standard error.

    The command, and all that it has started, is one process group. When the task is cancelled, takes too long or the
    node stops, the group is asked to end (SIGTERM) and after a while killed; when the command ends, what it left of the
    group is killed. It does not outlive the node, not even one that is killed.

    :ivar reactor: of the process; has to be able to start processes, threads and timers.
    :ivar command: the program and its arguments, none of which any shell sees.
    :ivar directory: where it runs; by default in a new, empty directory, removed afterwards.
    :ivar environment: in place of the node's own.
    :ivar timeout_seconds: how long it may take.
    :ivar grace_seconds: from asking the group to end to killing it.
    :ivar max_output_bytes: the most that it may print, and the largest file that it may name.
    :ivar attempts: how often a task is begun at most whose node was killed meanwhile.
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

    @property
    def lease(self) -> Lease:
        """See `IExecutor.lease`."""
        return bound_lease(self.attempts, self.timeout_seconds, self.grace_seconds)

    async def execute(self, execution: Execution) -> ExecutionResult:
        """See `IExecutor.execute`."""
        if self.directory is not None:
            return await self._run(execution, self.directory)
        directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))
        try:
            return await self._run(execution, directory)
        finally:
            await self._in_thread(lambda: shutil.rmtree(directory, ignore_errors=True))

    async def _run(self, execution: Execution, directory: Path) -> ExecutionResult:
        command = _Command(self, execution)
        await to_its_end(command.start(directory), command.end)
        if not command.result_file:
            try:
                return command.output.decode("utf-8")
            except UnicodeDecodeError:
                raise ExecutionFailed("the command printed what is not text in UTF-8") from None
        path = directory / command.result_file
        return ResultFile(path.name, await self._in_thread(lambda: _read(path, self.max_output_bytes)))

    def _in_thread(self, call: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), call)

    @override
    def __str__(self) -> str:
        return f"process:{shlex.join(self.command)}"


def _read(path: Path, limit: int) -> bytes:
    """The content of a result file; blocks.

    :raises ExecutionFailed: when it is none that could be sent.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ExecutionFailed(f"the result file {path.name} is not a regular file")
            content = file.read(limit + 1)  # of whatever size it is said to be: something may write to it still
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ExecutionFailed(f"the result file {path.name} cannot be read: {why}") from None
    if len(content) > limit:
        raise ExecutionFailed(f"the result file {path.name} has more than {limit} bytes")
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for its writer


class _Command(ProcessProtocol):
    """One run of the command.

    :ivar output: what it has printed.
    :ivar result_file: the path that it has named.
    """

    transport: Process

    def __init__(self, executor: ProcessExecutor, execution: Execution) -> None:
        self._executor = executor
        self._execution = execution
        self.output = bytearray()
        self.result_file = ""
        self._errors = b""
        self._control = b""
        self._fault = ""
        self._ended: Deferred[None] = Deferred()
        self._timers: list[Any] = []
        self._pid = 0
        self._is_ending = False

    def start(self, directory: Path) -> Deferred[None]:
        """Fires when the command has ended well, and fails with `ExecutionFailed` when otherwise."""
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
        pipes: dict[int, Any] = {STDIN: "w", STDOUT: "r", STDERR: "r", CONTROL: "r", warden.LIFELINE: "w"}
        executor.reactor.spawnProcess(self, sys.executable, arguments, environment, childFDs=pipes)
        return self._ended

    def end(self, fault: str = "") -> None:
        """Have the process group ended; ``fault`` is what the submitter is told."""
        self._fault = self._fault or fault
        if not self._is_ending:
            self._is_ending = True
            self.transport.closeChildFD(warden.LIFELINE)
            # The warden asks, and kills after the grace; unless the group, which it is in, has been stopped (SIGSTOP).
            self._later(self._executor.grace_seconds + _SLACK_SECONDS, self._kill)

    # --- what the reactor calls --------------------------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        assert self.transport.pid is not None
        self._pid = self.transport.pid
        seconds = self._executor.timeout_seconds
        self._later(seconds, lambda: self.end(f"the command took longer than {seconds:g} s"))
        self.transport.writeToChild(STDIN, self._execution.description.encode())
        self.transport.closeChildFD(STDIN)

    @override
    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == STDERR:
            self._errors = (self._errors + data)[-_KEPT_OF_STDERR:]
        elif childFD == CONTROL:
            self._control_received(data)
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

    @override
    def processExited(self, reason: Failure) -> None:
        self._kill()  # what the command left behind
        # Something that has left the group may hold the pipes open.
        self._later(self._executor.grace_seconds, self._hang_up)

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)

    def _hang_up(self) -> None:
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
        fault = self._fault or self._fault_of(getattr(reason.value, "exitCode", None))
        if fault:
            self._ended.errback(ExecutionFailed(fault))
        else:
            self._ended.callback(None)

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


_OPTIONS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "attempts": ("attempts", count),
    "directory": ("directory", _directory),
    "grace": ("grace_seconds", seconds),
    "limit": ("max_output_bytes", count),
    "timeout": ("timeout_seconds", seconds),
}
"""The attribute that each option sets, and how it is read."""
