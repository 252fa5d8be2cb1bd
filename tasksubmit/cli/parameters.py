"""Parameters of the command line: global options, which are taken on either side of the verb, and types of values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from typing_extensions import override

from tasksubmit.cli.session import Session
from tasksubmit.durations import UNITS, format_duration, parse_duration, parse_moment
from tasksubmit.errors import InvalidTime
from tasksubmit.wire.timestamps import format_time

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]  # generic since Click 8.4
else:
    _ParamType = click.ParamType

# --- types ------------------------------------------------------------------------------------------------------------


class _Text(click.types.StringParamType):
    """A string that UTF-8 can encode: Python reads an undecodable byte of an argument as half a surrogate pair."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            self.fail(f"'{shown}' is not text in UTF-8", param, ctx)
        return text


class _Name(_Text):
    """The id of a task, or an address."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; a variable that is not set?", param, ctx)
        return super().convert(value, param, ctx)


TEXT = _Text()
_NAME = _Name()
_NAMES = frozenset({"task", "task_id", "to", "from_", "peer", "address", "control"})
"""Parameters that are no good when they are empty."""


class NamedPath(click.Path):
    """A path that is not empty: an empty string, as of a variable that is not set, is not the current directory."""

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; a variable that is not set?", param, ctx)
        return super().convert(value, param, ctx)


class Duration(_ParamType):
    """A duration such as ``90s`` or ``1h30m``, as a timedelta.

    :param unit: of a number without a unit, one of `UNITS`.
    """

    name = "duration"

    def __init__(self, least: timedelta, most: timedelta | None = None, unit: str = "s") -> None:
        self._least = least
        self._most = most
        self._unit = unit

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        try:
            duration = parse_duration(value, self._unit)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if duration < self._least or (self._most is not None and duration > self._most):
            most = f" and at most {self._number(self._most)}" if self._most is not None else ""
            self.fail(f"{value!r} is not a duration of at least {self._number(self._least)}{most}", param, ctx)
        return duration

    def _number(self, duration: timedelta) -> str:
        return f"{duration / UNITS[self._unit]:g}{self._unit}"


def shown_duration(seconds: float) -> str:
    """Write seconds as options take them."""
    return format_duration(timedelta(seconds=seconds))


class Moment(_ParamType):
    """A time as the control API takes it: a time stamp as it is, a duration as the time so long from now.

    :param is_past: True if a duration without a sign is ago.
    """

    name = "time"

    def __init__(self, *, is_past: bool = False) -> None:
        self._is_past = is_past

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        try:
            moment = parse_moment(value, now, is_past=self._is_past)
            return value if "T" in value else format_time(moment)
        except InvalidTime as error:
            self.fail(str(error), param, ctx)


# --- global options ---------------------------------------------------------------------------------------------------


class GlobalOption(click.Option):
    """An option of the whole program: it goes to the session, and into no verb."""

    def __init__(self, *names: str, **options: Any) -> None:
        super().__init__(list(names), expose_value=False, callback=_keep, **options)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value not in (None, False) and not context.resilient_parsing:
        setattr(context.ensure_object(Session), str(parameter.name), value)


def _print_version(context: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        from tasksubmit import __version__  # slow to look up

        click.echo(f"tasksubmit {__version__}")
        context.exit()


def _global_options(*, is_program: bool) -> Iterator[click.Option]:
    """The options; variables of the environment count once, for the program, so that an option wins over them."""

    def variable(name: str) -> dict[str, Any]:
        return {"envvar": name, "show_envvar": True} if is_program else {}

    yield GlobalOption(
        "--state-dir",
        type=NamedPath(path_type=Path),
        help="State directory of the node, with its socket.  [env var: TASKSUBMIT_STATE_DIR]",
    )
    yield GlobalOption(
        "--control",
        type=_NAME,
        help="Control socket of the node: a path, or a Twisted endpoint string.",
        **variable("TASKSUBMIT_CONTROL"),
    )
    yield GlobalOption(
        "--token-file",
        type=NamedPath(path_type=Path),
        help="Token of a node with its control API on TCP.  [default: control.token in the state directory]",
        **variable("TASKSUBMIT_TOKEN_FILE"),
    )
    yield GlobalOption("--json", "is_json", is_flag=True, help="Print the answer as one line of JSON.")
    version = GlobalOption("--version", is_flag=True, is_eager=True, help="Show the version and exit.")
    version.callback = _print_version
    yield version


def complete_parameters(command: click.Command, *, is_program: bool = True) -> None:
    """Give a command, and the commands of a group, the global options, and have every string checked for UTF-8.

    A command with ``ignore_unknown_options`` passes its arguments on, and gets no options.
    """
    for parameter in command.params:
        if isinstance(parameter.type, click.types.StringParamType):
            parameter.type = _NAME if parameter.name in _NAMES else TEXT
    if not command.context_settings.get("ignore_unknown_options"):
        command.params += _global_options(is_program=is_program)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            complete_parameters(inner, is_program=False)


def given_options(context: click.Context) -> list[str]:
    """Names of the global options that the command line, and not the environment, gave before the verb."""
    before = context.parent
    if before is None:
        return []
    return [
        parameter.opts[0]
        for parameter in before.command.params
        if parameter.name is not None and before.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
