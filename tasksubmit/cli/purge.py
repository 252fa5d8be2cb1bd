"""The verb that removes tasks, batch after batch, and what it asks before."""

from __future__ import annotations

import signal
import sys
from datetime import timedelta
from math import ceil
from typing import Any

import click

from tasksubmit.cli import output
from tasksubmit.cli.control import CommandFailed, Control, Json
from tasksubmit.cli.parameters import Duration, Moment, shown_duration
from tasksubmit.cli.verbs import from_or_to, verb, which
from tasksubmit.commandline import command_line

NOTICE_SECONDS = 10
"""Default time to wait until the other parties of abandoned tasks have been notified."""


@click.command()
@click.argument("task", required=False)
@click.option("--peer", metavar="ADDRESS", help="Only tasks from or to this agent.")
@from_or_to
@click.option("--older-than", "before", type=Moment(is_past=True), help="Only tasks created so long ago: 30d, 12h.")
@click.option("--abandon", "is_abandoning", is_flag=True, help="Remove open tasks and pending deliveries, too.")
@click.option(
    "--notice",
    type=Duration(timedelta(), timedelta(minutes=5)),
    default=timedelta(seconds=NOTICE_SECONDS),
    show_default=shown_duration(NOTICE_SECONDS),
    help="With --abandon: time to notify the peers.",
)
@click.option("--dry-run", "is_dry_run", is_flag=True, help="List the tasks, and remove nothing.")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask for confirmation.")
@verb(output.show_purged)
async def purge(
    control: Control,
    task: str | None,
    peer: str | None,
    from_: str | None,
    to: str | None,
    before: str | None,
    is_abandoning: bool,
    notice: timedelta,
    is_dry_run: bool,
    is_confirmed: bool,
) -> Json:
    """Remove ended tasks, and return free disk space.

    Names one TASK, or all tasks that match the options; one of them is needed. Their results and their histories go;
    a tombstone stays, so that messages about them are still answered. Tasks that have not ended, or have pending
    deliveries, are kept.

    With --abandon they are removed, too. Submitted tasks are cancelled, received ones declined or failed. The peers
    get --notice to hear of it, and to take what is pending; then that is given up.
    """
    selection = _selection(task, peer, from_, to, before)
    if not is_dry_run and not is_confirmed and not sys.stdin.isatty():
        raise click.UsageError("without a terminal there is nobody to ask: confirm with --yes, or see with --dry-run")
    found = await _all_batches(control, "list", selection)
    chosen = [one for one in found["tasks"] if is_abandoning or not one["obstacle"]]
    kept = [one for one in found["tasks"] if one["obstacle"] and not is_abandoning]
    if task is not None and kept:
        _refuse(kept[0])
    if is_dry_run:
        return {**found, "is_dry_run": True, "tasks": chosen, "kept": kept}
    if not is_confirmed and chosen:
        _confirm(output.purge_question(chosen))
    if is_abandoning and chosen:
        await _all_batches(control, "notify", selection)
        done = await _all_batches(control, "abandon", selection, ceil(notice.total_seconds()))
    else:
        done = await _all_batches(control, "remove", selection)
    removed = [one for one in done["tasks"] if one["is_removed"]]
    kept = [one for one in done["tasks"] if not one["is_removed"]]
    if task is not None and kept:
        _refuse(kept[0])
    return {**done, "is_dry_run": False, "tasks": removed, "kept": kept}


def _selection(
    task: str | None, peer: str | None, from_: str | None, to: str | None, before: str | None
) -> dict[str, str | None]:
    given = which(from_, to)
    if peer is not None and given:
        raise click.UsageError("give either --peer, or --from or --to")
    if task is not None and (peer is not None or before is not None):
        raise click.UsageError(
            "give either a TASK, with --from or --to if several have the id, or --peer or --older-than"
        )
    if not (task or peer or given or before):
        raise click.UsageError("say what to remove: a TASK, --peer, --from, --to, or --older-than (0s for every age)")
    return {"task_id": task, "side": given.get("side"), "peer": given.get("peer", peer), "before": before}


def _refuse(kept: Json) -> None:
    task_id = kept["task_id"]
    message = f"task {task_id} is not removed: {kept['obstacle'] or 'it was changed meanwhile'}"
    hint = f"wait for its end, or abandon it with `{command_line('purge ID --abandon', task_id)}`"
    raise CommandFailed("illegal_transition", message, hint)


def _confirm(question: str) -> None:
    """Ask on the terminal; meanwhile an interrupt is for this, and not for the reactor, which waits.

    :raises CommandFailed: the answer is no.
    :raises click.Abort: there is none.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if not click.confirm(question, err=True):
            raise CommandFailed("not_confirmed", "nothing was removed")
    finally:
        signal.signal(signal.SIGINT, before)


async def _all_batches(control: Control, step: str, selection: dict[str, Any], wait: int = 0) -> Json:
    """Do a step with all batches; returns the last answer with the tasks of all, and the sum of what was returned.

    Only the first batches wait, for ``wait`` seconds in all. Steps that remove go on until no space is returned.
    """
    tasks: list[Json] = []
    returned = 0
    until = control.clock.seconds() + wait
    cursor: dict[str, int | None] = {}
    is_last = False
    while True:
        left = min(wait, max(0, ceil(until - control.clock.seconds())))
        if is_last:  # nothing is left to be removed, but perhaps space to be returned
            answer = await control.purge("remove", after=cursor["until"], until=cursor["until"])
        else:
            answer = await control.purge(step, **selection, **cursor, wait=left)
        tasks += answer["tasks"]
        returned += answer["returned_bytes"]
        cursor = {"after": answer["next"], "until": answer["until"]}
        is_last = answer["next"] is None
        if is_last and not (answer["returned_bytes"] and answer["free_bytes"]):
            names = ("free_bytes", "can_shrink")
            return {"tasks": tasks, "returned_bytes": returned, **{name: answer[name] for name in names}}
