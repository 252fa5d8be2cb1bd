"""The verbs of whoever receives tasks: decide, queue, execute, and give the results."""

from __future__ import annotations

from pathlib import Path

import click

from tasksubmit.cli import output
from tasksubmit.cli.control import Control, Json, Page
from tasksubmit.cli.results import read_result_file
from tasksubmit.cli.verbs import all_pages, from_option, paged, verb


@click.command()
@click.argument("task")
@click.option("--justification", help="What to tell the submitter.")
@from_option
@verb(output.show_step)
async def accept(control: Control, task: str, justification: str | None, peer: str | None) -> Json:
    """Take a new task into the queue."""
    return await control.accept(task, peer=peer, justification=justification)


@click.command()
@click.argument("task")
@click.option("--justification", required=True, help="Why, for the submitter.")
@from_option
@verb(output.show_step)
async def decline(control: Control, task: str, justification: str, peer: str | None) -> Json:
    """Turn a task down that was not started."""
    return await control.decline(task, justification, peer=peer)


@click.command()
@click.argument("task", required=False)
@from_option
@verb(output.show_task)
async def execute(control: Control, task: str | None, peer: str | None) -> Json:
    """Start the next task of the queue.

    TASK, if given, has to be that one.
    """
    return await control.execute(task, peer=peer)


_attempt_option = click.option(
    "--attempt",
    type=click.IntRange(1, 2**31 - 1),
    metavar="N",
    help="The attempt, as `execute` printed it; needed once there was more than one.",
)


@click.command()
@click.argument("task")
@click.argument("text")
@_attempt_option
@from_option
@verb(output.show_step)
async def progress(control: Control, task: str, text: str, attempt: int | None, peer: str | None) -> Json:
    """Report the progress of an execution to the submitter.

    This renews the lease of the execution.
    """
    return await control.progress(task, text, peer=peer, attempt=attempt)


@click.command("put-back")
@click.argument("task")
@click.option("--reason", help="What to tell the submitter.")
@_attempt_option
@from_option
@verb(output.show_step)
async def put_back(control: Control, task: str, reason: str | None, attempt: int | None, peer: str | None) -> Json:
    """Requeue a task in execution, ahead of the queue."""
    return await control.put_back(task, peer=peer, reason=reason, attempt=attempt)


@click.command()
@click.argument("task")
@click.option("--error", required=True, help="What went wrong, for the submitter.")
@_attempt_option
@from_option
@verb(output.show_step)
async def fail(control: Control, task: str, error: str, attempt: int | None, peer: str | None) -> Json:
    """End a task in execution that cannot be done."""
    return await control.fail(task, error, peer=peer, attempt=attempt)


@click.command("send-results")
@click.argument("task")
@click.option("--text", help="The results, as a text.")
@click.option(
    "--file", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The results, as a file."
)
@_attempt_option
@from_option
@verb(output.show_step)
async def send_results(
    control: Control, task: str, text: str | None, file: Path | None, attempt: int | None, peer: str | None
) -> Json:
    """Give the results of a task in execution.

    They are a text, or a file of up to about 12 MiB. The file's extension tells what it is: documents, tables,
    images and models may be sent, source code may not.
    """
    if (text is None) == (file is None):
        raise click.UsageError("give either --text or --file")
    if file is None:
        return await control.send_text(task, text or "", peer=peer, attempt=attempt)
    return await control.send_file(task, file.name, read_result_file(file), peer=peer, attempt=attempt)


@click.command()
@paged
@click.option("--after", type=int, metavar="POSITION", help="Only tasks behind this position in the queue.")
@click.option("--before", type=int, metavar="POSITION", help="Only tasks ahead of this position in the queue.")
@verb(output.show_queue)
async def queue(control: Control, limit: int, is_all: bool, **query: object) -> Page:
    """Show the queue, in the order of execution.

    Requeued tasks come first.
    """
    if is_all:
        return await all_pages(control.queue, "after", "queue_position", **query)
    return await control.queue(limit=limit, **query)


@click.command()
@verb(output.show_workers)
async def worker(control: Control) -> Json:
    """Show the executor, and the tasks in execution.

    That includes tasks that people and other programs execute.
    """
    return await control.workers()


VERBS: tuple[click.Command, ...] = (accept, decline, queue, worker, execute, progress, put_back, fail, send_results)
"""All of them, for the program."""
