"""One run of the command line: where the node is, how the answer is wanted, and what happens to errors."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click
from attrs import define
from click.exceptions import Abort, Exit

from tasksubmit.cli.control import FAILED, CommandFailed, Control, Json, Page, connect_control
from tasksubmit.cli.output import error_lines, json_line
from tasksubmit.errors import TaskSubmitError
from tasksubmit.state_dir import CONTROL_SOCKET, CONTROL_TOKEN, absolute, default_state_dir

if TYPE_CHECKING:
    from twisted.python.failure import Failure

T = TypeVar("T")

INTERRUPTED = 130


@define
class Session:
    """Values of the global options: the node to ask, and the form of the answer.

    :ivar state_dir: the node's state directory, unless it is the default one.
    :ivar control: its socket, as a path or an endpoint string, unless that is in the state directory.
    :ivar token_file: where the token is that the node demands, unless that is in the state directory.
    :ivar is_json: whether the answer is for programs.
    """

    state_dir: Path | None = None
    control: str | None = None
    token_file: Path | None = None
    is_json: bool = False

    def directory(self) -> Path:
        """The node's state directory.

        :raises ConfigurationError: there is none by default, or none of that name.
        """
        return absolute(self.state_dir or default_state_dir(os.environ))

    @property
    def program(self) -> str:
        """The program with the options that lead to the same node, to be pasted into a shell."""
        options = {"--state-dir": self.state_dir, "--control": self.control, "--token-file": self.token_file}
        given = (
            f"{name}={value}" if str(value).startswith("-") else f"{name} {shlex.quote(str(value))}"
            for name, value in options.items()
            if value is not None
        )
        return " ".join(["tasksubmit", *given])

    def where(self) -> str:
        """Where the node's control API is."""
        return self.control or str(self.directory() / CONTROL_SOCKET)

    def token(self) -> str:
        """The token, if there is one.

        :raises CommandFailed: when the file that was named cannot be read.
        """
        path = self.token_file or self.directory() / CONTROL_TOKEN
        try:
            return path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self.token_file is None:
                return ""  # the node most likely has a Unix socket, and demands none
            raise CommandFailed("invalid", f"the token in {path} cannot be read: {error}") from None

    def ask(self, work: Callable[[Control], Awaitable[T]]) -> T:
        """Run ``work`` with the node; returns what it returns and raises what it raises."""

        async def with_node(reactor: Any) -> T:
            return await work(connect_control(reactor, self.where(), self.token()))

        return in_reactor(with_node)

    def tell(self, answer: Any, show: Callable[[Any], None]) -> None:
        """Print an answer: its envelope for programs, else as `show` prints it.

        :raises CommandFailed: standard output cannot be written.
        """
        try:
            if self.is_json:
                click.echo(json_line({"status": "ok", **_data(answer)}))
            else:
                show(answer)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            abandon(sys.stdout)
            raise CommandFailed("output", f"cannot write to standard output: {error.strerror}") from error

    @contextmanager
    def errors_told(self) -> Iterator[None]:
        """Print errors and exit with their code. There is no traceback unless TASKSUBMIT_DEBUG is set."""
        try:
            yield
        except (click.ClickException, Abort, Exit, BrokenPipeError):
            raise
        except CommandFailed as error:
            self._fail(error.code, error.message, error.hint, error.exit_code, error.quote)
        except TaskSubmitError as error:
            self._fail(error.code, str(error), "", FAILED)
        except KeyboardInterrupt:
            self._fail("interrupted", "interrupted", "", INTERRUPTED)
        except Exception as error:
            hint = "set TASKSUBMIT_DEBUG=1 to see the traceback, and please report it"
            self._fail("internal", f"internal error: {type(error).__name__}: {error}", hint, FAILED)

    def _fail(self, code: str, message: str, hint: str, exit_code: int, quote: str = "") -> None:
        if os.environ.get("TASKSUBMIT_DEBUG"):
            traceback.print_exc()
        hint = hint.replace("`tasksubmit ", f"`{self.program} ")
        say_error(code, message, hint, is_json=self.is_json, quote=quote)
        raise Exit(exit_code)


def _data(answer: Any) -> Json:
    """The keys of an answer in its envelope."""
    if not isinstance(answer, Page):
        return {"data": answer}
    total = {"total": answer.total, "is_total_exact": answer.is_total_exact, "more": answer.more}
    return {"data": answer.items, **total}


def say_error(code: str, message: str, hint: str, *, is_json: bool, quote: str = "") -> None:
    """Print an error: its envelope on standard output for programs, else one line on standard error.

    :param quote: what another agent wrote about it. Where that does not fit into the line of a terminal, it follows.

    Where that cannot be written either, the exit code has to do.
    """
    try:
        if is_json:
            whole = f"{message}: {quote}" if quote else message
            click.echo(json_line({"status": "error", "code": code, "message": whole, "hint": hint}))
        else:
            click.echo("\n".join(error_lines(message, hint, quote)), err=True)
    except OSError:
        abandon(sys.stdout if is_json else sys.stderr)


def abandon(stream: TextIO) -> None:
    """Drop what a standard stream has not taken: otherwise the interpreter would try again when it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def in_reactor(work: Callable[[Any], Awaitable[T]]) -> T:
    """Run the reactor until ``work(reactor)`` is done; returns what it returns and raises what it raises.

    :raises KeyboardInterrupt: when a signal stopped the reactor before.
    """
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react

    results: list[T] = []
    failures: list[Failure] = []
    is_interrupted = False

    def note_interruption() -> None:
        # What the shutdown does to connections ends the work, too, but is not the reason.
        nonlocal is_interrupted
        is_interrupted = not results and not failures

    async def finish(reactor: Any) -> T:
        return await work(reactor)

    def begin(reactor: Any) -> Deferred[None]:
        reactor.addSystemEventTrigger("before", "shutdown", note_interruption)
        return Deferred.fromCoroutine(finish(reactor)).addCallbacks(results.append, failures.append)

    with suppress(SystemExit):
        react(begin)
    if is_interrupted:
        raise KeyboardInterrupt
    if failures:
        failures[0].raiseException()
    return results[0]
