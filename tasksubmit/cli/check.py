"""The verb that looks at a node's state while no node runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tasksubmit.cli.control import FAILED, Json
from tasksubmit.cli.output import clean
from tasksubmit.cli.session import Session
from tasksubmit.state_dir import default_state_dir

if TYPE_CHECKING:
    from tasksubmit.stores.check import Finding, Report


@click.command()
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    help="The state directory to check.  [env var: TASKSUBMIT_STATE_DIR]",
)
@click.option("--json", "is_json", is_flag=True, help="Print the answer as one line of JSON.")
@click.pass_obj
def check(session: Session, state_dir: Path | None, is_json: bool) -> None:
    """Check the tasks and results that a stopped node has kept; changes nothing.

    Exits with 1 when something is damaged. What was merely left over is told, too, and is no reason to.
    """
    from tasksubmit.stores.check import check_state

    session.is_json |= is_json
    directory = state_dir or session.state_dir or default_state_dir(os.environ)
    with session.errors_told():
        report = check_state(directory.expanduser().absolute())
        session.tell(_data(report), lambda _: _show(report))
        if report.problems:
            sys.exit(FAILED)


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
        click.echo(clean(f"problem: {finding.where} {finding.what}; {finding.hint}"))
    for finding in report.notices:
        click.echo(clean(f"notice: {finding.where} {finding.what}; {finding.hint}"))
    counts = f"{report.tasks} tasks, {report.results} results with {report.result_bytes} bytes"
    verdict = f"{len(report.problems)} problems" if report.problems else "all is whole"
    click.echo(f"checked {counts}: {verdict}")
