"""The verbs about a node's state while no node runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from tasksubmit.cli.control import FAILED, Json
from tasksubmit.cli.output import show_compacted
from tasksubmit.cli.quoting import block, clean, columns
from tasksubmit.cli.session import Session

if TYPE_CHECKING:
    from tasksubmit.stores.check import Finding, Report


@click.command()
@click.pass_obj
def check(session: Session) -> None:
    """Check the tasks and results of a stopped node.

    Nothing is changed. Exits with 1 when something is damaged. Leftovers are reported, too, and are no
    reason to.
    """
    from tasksubmit.stores.check import check_state

    with session.errors_told():
        report = check_state(session.directory())
        session.tell(_data(report), lambda _: _show(report))
        if report.problems:
            raise Exit(FAILED)


@click.command()
@click.pass_obj
def compact(session: Session) -> None:
    """Rewrite the database of a stopped node, once.

    Its free space goes to the file system. A database of an older version needs that once; from then on `purge`
    shrinks it while the node runs. It needs time and free disk space as for two copies of what the database holds.
    """
    from tasksubmit.stores.compact import compact_state

    with session.errors_told():
        compacted = compact_state(session.directory())
        sizes = {"before_bytes": compacted.before_bytes, "after_bytes": compacted.after_bytes}
        session.tell(sizes, show_compacted)


def _data(report: Report) -> Json:
    return {
        "problems": [_finding(finding) for finding in report.problems],
        "notices": [_finding(finding) for finding in report.notices],
        "tasks": report.tasks,
        "results": report.results,
        "result_bytes": report.result_bytes,
    }


def _finding(finding: Finding) -> Json:
    return {"where": finding.where, "what": finding.what, "hint": finding.hint}


def _show(report: Report) -> None:
    for finding in report.problems:
        _show_finding("problem", finding)
    for finding in report.notices:
        _show_finding("notice", finding)
    counts = f"{report.tasks} tasks, {report.results} results with {report.result_bytes} bytes"
    verdict = f"{len(report.problems)} problems" if report.problems else "all is whole"
    click.echo(f"checked {counts}: {verdict}")


def _show_finding(kind: str, finding: Finding) -> None:
    text = f"{finding.where} {finding.what}; {finding.hint}"
    line = clean(f"{kind}: {text}")
    # A finding names files and tasks as peers named them: a terminal must not wrap it to its left margin.
    if sys.stdout.isatty() and len(line) >= columns():
        line = "\n".join([f"{kind}:", *block(text, kind)])
    click.echo(line)
