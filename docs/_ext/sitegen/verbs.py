"""Every verb of the command line, from Click."""

from __future__ import annotations

from collections.abc import Iterator

import click

from sitegen.rst import literal, prose, table, title
from tasksubmit.cli.commands import tasksubmit
from tasksubmit.cli.parameters import GlobalOption


def verbs() -> str:
    """The global options, then a section for each verb, by name."""
    context = click.Context(tasksubmit, info_name="tasksubmit")
    before = prose(tasksubmit.help).split("\n\nExit codes")[0]
    parts = [f"{before}\n\n", _parameters(tasksubmit, context)]
    parts += _sections(tasksubmit, context)
    return "".join(parts)


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    """A section for each verb of a group, by name; behind it those of the verbs that it has itself."""
    for name, command in sorted(group.commands.items()):
        inner = click.Context(command, info_name=name, parent=context)
        words = [*inner.command_path.split(), *command.collect_usage_pieces(inner)]
        yield title(inner.command_path.removeprefix("tasksubmit "))
        yield f".. code-block:: text\n\n   {' '.join(words)}\n\n{prose(command.help)}\n\n"
        yield _parameters(command, inner)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)


def _parameters(command: click.Command, context: click.Context) -> str:
    own = [
        parameter
        for parameter in command.get_params(context)
        if command is tasksubmit or not isinstance(parameter, GlobalOption)
    ]
    records = [parameter.get_help_record(context) for parameter in own]
    rows = [(literal(record[0]), prose(record[1])) for record in records if record and record[1]]
    return table(("option", "what it is"), rows, "40 60") if rows else ""
