"""Every verb of the command line, from Click."""

from __future__ import annotations

import click

from sitegen.rst import literal, prose, table, title
from tasksubmit.cli.commands import tasksubmit


def verbs() -> str:
    """The options before the verb, then a section for each verb, by name."""
    context = click.Context(tasksubmit, info_name="tasksubmit")
    before = prose(tasksubmit.help).split("\n\nExit codes")[0]
    parts = [f"{before}\n\n", _parameters(tasksubmit, context)]
    for name, command in sorted(tasksubmit.commands.items()):
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(("tasksubmit", name, *command.collect_usage_pieces(inner)))
        parts += [title(name), f".. code-block:: text\n\n   {usage}\n\n", f"{prose(command.help)}\n\n"]
        parts.append(_parameters(command, inner))
    return "".join(parts)


def _parameters(command: click.Command, context: click.Context) -> str:
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [(literal(record[0]), prose(record[1])) for record in records if record and record[1]]
    return table(("option", "what it is"), rows, "40 60") if rows else ""
