"""The command line: a thin client of a running node's control API.

Exit codes: 0 all is well; 1 the node refused, or the task ended without results; 2 the command was used wrongly; 3 the
node cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit.

    :param argv: the arguments, without the name of the program; by default those of the process.
    """
    from tasksubmit.cli.commands import tasksubmit

    tasksubmit.main(args=argv, prog_name="tasksubmit")
    raise AssertionError("click exits")
