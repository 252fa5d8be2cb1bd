"""The verbs: one function each. Those of whoever receives tasks are in `tasksubmit.cli.work`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import click

from tasksubmit.cli import identity, output, work
from tasksubmit.cli.check import check, compact
from tasksubmit.cli.control import AnswerLost, CommandFailed, Control, Json, NodeUnreachable, Page
from tasksubmit.cli.parameters import Duration, Moment, complete_parameters, given_options, shown_duration
from tasksubmit.cli.program import Program
from tasksubmit.cli.purge import purge
from tasksubmit.cli.results import save_result
from tasksubmit.cli.session import Session, in_reactor
from tasksubmit.cli.verbs import all_pages, from_or_to, paged, to_option, verb, which
from tasksubmit.commandline import command_line
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.wire.messages import generate_task_id

ANSWER_SECONDS = 10
"""How long `submit` waits for the receiver's answer."""

DRAIN_SECONDS = 60
"""How long `drain` may take."""


_SIDES = click.Choice([side.value for side in Side])
_STATUSES = click.Choice([status.value for status in TaskStatus], case_sensitive=False)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.pass_context
def tasksubmit(context: click.Context) -> None:
    """Give tasks to other agents, and take tasks from them.

    The verbs ask a running node; ``tasksubmit run`` starts one, and ``tasksubmit demo`` shows two at work. The options
    below are taken on either side of the verb.

    \b
    Exit codes: 0 success, 1 the node refused or the task ended without results, 2 wrong usage,
    3 the node cannot be reached, 4 waited too long, 130 interrupted, 141 the reader of the output is gone.
    """
    context.ensure_object(Session)


# --- the submitter's verbs --------------------------------------------------------------------------------------------


@tasksubmit.command()
@click.argument("to")
@click.argument("description", required=False)
@click.option("--file", "file", type=click.File("rb"), help="Read the description from a file.")
@click.option("--task-id", help="The task's id, to repeat a command safely.  [default: a new one]")
@click.option("--expires-at", type=Moment(), help="Cancel it if not started by then: 2026-04-09T12:00:00Z, or +1h.")
@click.option("--result-due-at", type=Moment(), help="Cancel it if the results are not here by then.")
@click.option("--deliver-by", type=Moment(), help="Try to deliver it until then.  [default: for 7 days]")
@click.option("--wait", "is_waiting", is_flag=True, help="Wait for the results, and print them.")
@click.option(
    "--timeout",
    type=Duration(timedelta()),
    help="Time to wait (90s, 5m, or seconds).  [default: 10s for the answer, without end for the results]",
)
@verb(output.show_submitted)
async def submit(
    control: Control,
    to: str,
    description: str | None,
    file: Any,
    task_id: str | None,
    expires_at: str | None,
    result_due_at: str | None,
    deliver_by: str | None,
    is_waiting: bool,
    timeout: timedelta | None,
) -> Json:
    """Submit a task to the agent TO.

    With - for DESCRIPTION it is read from standard input. Other accounts on the machine can see the arguments of
    commands (ps): give a confidential description with - or --file.
    """
    text = _description(description, file)
    if task_id is None:
        task_id = generate_task_id()
        if is_waiting:
            click.echo(f"the task's id is {task_id}", err=True)  # known, whatever happens to the wait
    task = await control.submit(
        to, text, task_id, expires_at=expires_at, result_due_at=result_due_at, deliver_by=deliver_by
    )
    wait = partial(control.wait, task_id, side="submitter", peer=to, is_reached=True)
    if is_waiting:
        task = _unless_ended(await wait("finished", timeout=_seconds(timeout)))
        try:
            result = await control.result(task_id, peer=to)
        except (AnswerLost, NodeUnreachable):  # restarted meanwhile: the wait ends when it is back
            await wait("finished", timeout=_seconds(timeout))
            result = await control.result(task_id, peer=to)
        return {**task, "result": result}
    try:
        seconds = ANSWER_SECONDS if timeout is None else timeout.total_seconds()
        return _unless_ended(await wait("answered", timeout=seconds))
    except CommandFailed as error:
        if error.code != "timed_out":
            raise
        story = await control.story(task_id, side="submitter", peer=to)
        return {**story, "tried_until": story["until"]} if story["status"] == "NEW" else task


def _description(description: str | None, file: Any) -> str:
    if (description is None) == (file is None):
        raise click.UsageError("give either a DESCRIPTION (- for standard input), or --file")
    if file is None and description != "-":
        return description or ""
    where = f"--file {file.name}" if file is not None else "standard input"
    try:
        if file is None and sys.stdin is None:
            raise click.UsageError("standard input is closed: give a DESCRIPTION, or --file")
        content: bytes = file.read() if file is not None else sys.stdin.buffer.read()
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise click.UsageError(f"the description in {where} is not text in UTF-8") from None
    except OSError as error:
        raise click.UsageError(f"the description in {where} cannot be read: {error.strerror}") from None


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _unless_ended(task: Json) -> Json:
    """The task, unless it ended without results.

    :raises CommandFailed: with the other party's reason.
    """
    if task["status"] not in ("DECLINED", "CANCELLED", "EXPIRED"):
        return task
    why = task["error"] or task["justification"] or task["outcome"]
    message = f"task {task['task_id']} is {task['status']}"
    hint = f"see `{command_line('show ID', task['task_id'])}`"
    raise CommandFailed(task["code"] or task["status"].lower(), message, hint, quote=why)


@tasksubmit.command()
@click.argument("task")
@click.option("--reason", help="What to tell the receiver.")
@to_option
@verb(output.show_cancelled)
async def cancel(control: Control, task: str, reason: str | None, peer: str | None) -> Json:
    """Ask for a submitted task to be withdrawn."""
    return await control.cancel(task, peer=peer, reason=reason)


@tasksubmit.command()
@click.argument("task")
@click.option(
    "--output", "save_as", type=click.Path(path_type=Path), help="A file to save it as, or a directory to save it in."
)
@to_option
@verb(output.show_result)
async def result(control: Control, task: str, save_as: Path | None, peer: str | None) -> Json:
    """Print the results of a submitted task, or save them.

    Nothing is ever overwritten.
    """
    answer = await control.result(task, peer=peer)
    return answer if save_as is None else save_result(answer, save_as)


# --- the receiver's verbs ---------------------------------------------------------------------------------------------

for command in work.VERBS:
    tasksubmit.add_command(command)


# --- either side's verbs ----------------------------------------------------------------------------------------------


@tasksubmit.command("list")
@click.option("--side", type=_SIDES, help="Only those that were received here, or submitted from here.")
@click.option("--status", type=_STATUSES, help="Only those with this status.")
@click.option("--peer", metavar="ADDRESS", help="Only those from or to this agent.")
@click.option("--outcome", metavar="WORD", help="Only those that ended so, such as failed or undelivered.")
@click.option("--since", type=Moment(is_past=True), help="Only those created since then: 2026-04-09T12:00:00Z, or 1h.")
@click.option("--stuck", is_flag=True, help="Only tasks with delivery problems, or open for over a day.")
@click.option("--oldest-first", is_flag=True, help="Reverse the order.")
@paged
@click.option("--before", type=int, metavar="NUMBER", help="Only older tasks than the one with this number.")
@click.option("--after", type=int, metavar="NUMBER", help="Only newer tasks than the one with this number.")
@verb(output.show_tasks)
async def list_tasks(control: Control, limit: int, is_all: bool, **query: object) -> Page:
    """List tasks, the newest first.

    With --stuck: tasks with a message that could not be delivered so far, or was abandoned, and tasks that have been
    open for more than a day.
    """
    if is_all:
        cursor = "after" if query["oldest_first"] else "before"
        return await all_pages(control.tasks, cursor, "number", **query)
    return await control.tasks(limit=limit, **query)


@tasksubmit.command()
@click.argument("task")
@from_or_to
@verb(output.show_task)
async def show(control: Control, task: str, from_: str | None, to: str | None) -> Json:
    """Show the record and the deliveries of one task."""
    return await control.task(task, **which(from_, to))


@tasksubmit.command()
@click.argument("task")
@from_or_to
@verb(output.show_story)
async def why(control: Control, task: str, from_: str | None, to: str | None) -> Json:
    """Show the history of a task, and what it waits for now."""
    return await control.story(task, **which(from_, to))


@tasksubmit.command()
@click.argument("task")
@click.option(
    "--for",
    "condition",
    type=click.Choice(["accepted", "finished"]),
    default="finished",
    show_default=True,
    help="What to wait for.",
)
@click.option("--timeout", type=Duration(timedelta()), help="Time to wait (90s, 5m, or seconds).  [default: no end]")
@from_or_to
@verb(output.show_step)
async def wait(
    control: Control, task: str, condition: str, timeout: timedelta | None, from_: str | None, to: str | None
) -> Json:
    """Wait until a task is accepted or finished.

    It is an error when the task ends otherwise. A restart of the node does not end the wait.
    """
    given = which(from_, to)
    waiting = control.wait(task, condition, timeout=_seconds(timeout), side=given.get("side"), peer=given.get("peer"))
    return _unless_ended(await waiting)


@tasksubmit.command()
@click.argument("task")
@from_or_to
@verb(output.show_retried)
async def retry(control: Control, task: str, from_: str | None, to: str | None) -> Json:
    """Try to deliver again what was given up for a task."""
    return await control.retry(task, **which(from_, to))


# --- the node's verbs -------------------------------------------------------------------------------------------------


@tasksubmit.command()
@verb(output.show_status)
async def status(control: Control) -> Json:
    """Show node health: certificate, peers, delivery problems."""
    return await control.status()


@tasksubmit.command()
@verb(output.show_reloaded)
async def reload(control: Control) -> Json:
    """Read keys, trust and the configuration file again.

    Pending deliveries are retried now. The answer says what was applied, what is as before, and what needs a
    restart.
    """
    return await control.reload()


@tasksubmit.command()
@verb(output.show_peers)
async def peers(control: Control) -> list[Json]:
    """List the peers that the node knows."""
    return await control.peers()


@tasksubmit.command()
@verb(output.show_scores)
async def score(control: Control) -> list[Json]:
    """Show the node's ledger of polo scores."""
    return await control.score()


@tasksubmit.command()
@verb(output.show_enabled)
async def enable(control: Control) -> Json:
    """Take new tasks from peers again, after `disable`."""
    return await control.set_enabled(True)


@tasksubmit.command()
@verb(output.show_enabled)
async def disable(control: Control) -> Json:
    """Take no new tasks from peers until `enable`.

    This holds after a restart, too. Tasks that the node has go on.
    """
    return await control.set_enabled(False)


@tasksubmit.command()
@click.option(
    "--timeout",
    type=Duration(timedelta(), timedelta(hours=1)),
    default=timedelta(seconds=DRAIN_SECONDS),
    show_default=shown_duration(DRAIN_SECONDS),
    help="Time that it may take, half of it for running executions.",
)
@verb(output.show_drained)
async def drain(control: Control, timeout: timedelta) -> Json:
    """Bring the node to rest, then stop it.

    It takes nothing new, lets what runs finish or puts it back, and delivers what it owes. What is left in the end is
    kept for its next start.
    """
    return await control.drain(ceil(timeout.total_seconds()))


for command in (purge, check, compact, identity.init, identity.renew, identity.trust):
    tasksubmit.add_command(command)


@tasksubmit.command()
@click.option("--keep", is_flag=True, help="Keep the directory of the two nodes.")
@click.pass_obj
def demo(session: Session, keep: bool) -> None:
    """Start two nodes, and take one task through its life."""
    from tasksubmit.cli.demo import run_demo

    with session.errors_told():
        narrate: Callable[[str], None] = (lambda line: None) if session.is_json else click.echo
        session.tell(in_reactor(lambda reactor: run_demo(reactor, narrate, keep=keep)), output.show_demo)


@tasksubmit.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run a node in the foreground.

    ``tasksubmit run --help`` lists the options of a node.
    """
    from tasksubmit.tap import run as run_node

    session: Session = context.obj
    for option in given_options(context):
        if option != "--state-dir":
            raise click.UsageError(f"{option} before the verb is for verbs that ask a running node; see `run --help`")
    where = () if session.state_dir is None else ("--state-dir", os.fspath(session.state_dir))
    sys.exit(run_node([*where, *arguments]))


complete_parameters(tasksubmit)
