"""The program around the verbs: standard streams of any kind, wrong usage, and exit codes."""

from __future__ import annotations

import io
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.exceptions import Abort
from typing_extensions import override

from tasksubmit.cli.control import FAILED
from tasksubmit.cli.session import INTERRUPTED, abandon, say_error

USAGE = 2
PIPE_CLOSED = 141
"""Exit code when nothing reads the output any more: what a shell shows for a program that SIGPIPE has ended."""


class _PipeClosed(Exception):
    """Nothing reads the output; Click has an exit code of its own for a ``BrokenPipeError``."""


class Program(click.Group):
    """The group of all verbs. Whatever happens, a run ends with one of the exit codes and without a traceback."""

    @override
    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]  # it always exits
        """Run a verb, and exit."""
        _prepare_streams()
        arguments = list(sys.argv[1:] if args is None else args)
        sys.exit(self._run(arguments, prog_name, extra))

    def _run(self, arguments: list[str], prog_name: str | None, extra: dict[str, Any]) -> int:
        is_json = "--json" in itertools.takewhile(lambda argument: argument != "--", arguments)
        try:
            code = super().main(arguments, prog_name, **{**extra, "standalone_mode": False})
            sys.stdout.flush()
        except click.ClickException as error:
            _say_usage(error, is_json)
            return error.exit_code
        except (Abort, KeyboardInterrupt):
            say_error("interrupted", "interrupted", "", is_json=is_json)
            return INTERRUPTED
        except (_PipeClosed, BrokenPipeError):
            abandon(sys.stdout)
            return PIPE_CLOSED
        except OSError as error:  # of what Click itself prints: help and the version
            abandon(sys.stdout)
            say_error("output", f"cannot write to standard output: {error.strerror}", "", is_json=False)
            return FAILED
        return code if isinstance(code, int) else 0

    @override
    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments; ``--help`` and ``--version`` print here."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except BrokenPipeError:
            raise _PipeClosed from None

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _PipeClosed from None


def _say_usage(error: click.ClickException, is_json: bool) -> None:
    if is_json:
        context = getattr(error, "ctx", None)
        hint = f"see `{context.command_path} --help`" if context is not None else ""
        say_error("usage", error.format_message(), hint, is_json=True)
        return
    try:
        error.show()
    except OSError:
        abandon(sys.stderr)


def _prepare_streams() -> None:
    """Have standard streams that exist, and that take any text: what their encoding lacks is written as an escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the descriptor was closed before the start
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
