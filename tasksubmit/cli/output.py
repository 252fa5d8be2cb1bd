"""Output for people: records and lists on a terminal. Text of other agents is quoted; see `tasksubmit.cli.quoting`."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timezone
from io import StringIO
from itertools import zip_longest
from typing import Any

import click

from tasksubmit.cli.control import CommandFailed, Json, Page
from tasksubmit.cli.quoting import QUOTED, block, clean, first_line, in_quotes, sentence, shown_id
from tasksubmit.cli.results import result_content
from tasksubmit.commandline import command_line
from tasksubmit.lifecycle.change import Note
from tasksubmit.wire.timestamps import parse_time

_WIDTH_WITHOUT_TERMINAL = 200
_WIDTH_UNLIMITED = 10_000
_SMALLEST_COLUMN = 20

_PLAIN_PATH = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")
"""A path that needs no quotation marks: it has no blanks, and nothing that a shell treats specially."""

_WRITTEN_BY = {
    "description": "submitter",
    "result_filename": "receiver",
    "result_file": "receiver",
    "late_result_file": "receiver",
    "justification": QUOTED,
    "error": QUOTED,
    "code": QUOTED,
}
"""The keys of a record that hold text, and who wrote it."""

_OWN_WORDS = frozenset({"submitted", Note.DELIVERED.value, Note.DELIVERY_GIVEN_UP.value, Note.RETRIED.value})
"""The events whose detail the node wrote, with no text of others in it."""


def own_command(words: str, task_id: str = "") -> str:
    """Write a command that asks the same node, to be pasted into a shell; see `command_line`."""
    return _for_same_node(command_line(words, task_id))


def _for_same_node(command: str) -> str:
    """The command with the global options of this run."""
    context = click.get_current_context(silent=True)
    program = context.obj.program if context is not None else "tasksubmit"
    return f"{program}{command.removeprefix('tasksubmit')}"


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], nothing: str, texts: Iterable[str] = ()
) -> None:
    """Print rows under headings, each in one line; where there is no room, the last column gives way.

    :param texts: a line for each row, to be printed below it; an empty one is not. A column is no place for text of
        others: in a row that the terminal wraps, it could begin at the left margin.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(clean("" if cell is None else str(cell))) for cell in row] for row in rows]
    if not cells:
        click.echo(nothing)
        return
    width = Console(file=sys.stdout).width if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    table = Table(box=None, pad_edge=False)
    for column, heading in enumerate(columns[:-1]):
        needed = max(len(heading), *(row[column].cell_len for row in cells))
        table.add_column(heading, no_wrap=True, width=needed)
        width -= needed + 1
    table.add_column(columns[-1], no_wrap=True, overflow="ellipsis", max_width=max(width, _SMALLEST_COLUMN))
    for row in cells:
        table.add_row(*row)
    # Rich would rather cut ids short than print a line that the terminal has to fold.
    # It writes to memory, since it would end the process when the reader of the output is gone.
    lines = StringIO()
    console = Console(
        file=lines,
        width=_WIDTH_UNLIMITED,
        force_terminal=sys.stdout.isatty(),
        markup=False,
        highlight=False,
        emoji=False,
    )
    console.print(table)
    heading, *printed = lines.getvalue().splitlines()
    click.echo(heading)
    for line, text in zip_longest(printed, texts, fillvalue=""):
        _say([line, text] if text else [line])


def _print_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values below each other; further lines of a value are indented, and text of others is quoted."""
    width = max(map(len, pairs), default=0)
    indent = " " * (width + 2)
    for name, value in pairs.items():
        if name in _WRITTEN_BY:
            lines = block(str(value), _WRITTEN_BY[name], indent)
        else:
            lines = [indent + clean(line) for line in str(value).split("\n")]
        lines[0] = f"{name:{width}}  {lines[0].removeprefix(indent)}"
        _say(lines)


def show_task(task: Json) -> None:
    """Print a task: every key that says something, and what is still owed for it."""
    unsaid: tuple[object, ...] = (None, "", False)
    told = {name: value for name, value in task.items() if value not in unsaid and name != "deliveries"}
    _print_pairs({**told, "task_id": shown_id(task["task_id"])})
    for delivery in task.get("deliveries", ()):
        _say(_delivery_lines(delivery, str))
    if task["delivery_given_up_at"]:
        click.echo(f"`{own_command('retry ID', task['task_id'])}` tries again what was given up")


def _delivery_lines(delivery: Json, shown: Callable[[str], str]) -> list[str]:
    """Pending and abandoned deliveries, each with its last error; times as ``shown`` writes them."""
    given_up_at, next_at, error = delivery["given_up_at"], delivery["next_attempt_at"], delivery["last_error"]
    state = f"given up at {shown(given_up_at)}" if given_up_at else "still to be sent"
    what = f"{delivery['kind']} {delivery['status'] or ''}".strip()
    then = f", next at {shown(next_at)}" if next_at else ""
    last = ", the last one failed" if error else ""
    return sentence(f"{state}: {what} (attempts: {delivery['attempts']}{then}){last}", error)


def show_step(task: Json) -> None:
    """Print in one line where a task stands after a step."""
    more = ""
    if task["cancel_requested_at"] and task["status"] != "CANCELLED":
        more = ", its cancellation is requested"
    elif task["held_at"]:
        more = ", held, because its submitter is not trusted"
    elif task["put_back_at"] and task["status"] == "EXECUTING":
        more = ", waits to be begun again"
    _say(sentence(f"task {task['task_id']} is {task['status']}{more}", task["justification"]))


def show_cancelled(task: Json) -> None:
    """Print where a task stands whose cancellation was requested, and whether its receiver can be stopped."""
    show_step(task)
    if task["status"] != "CANCELLED" and task["answered_at"] and not task["heard_at"]:
        click.echo("the receiver does not acknowledge cancellations: it cannot be stopped, and may still do the work")


def show_retried(task: Json) -> None:
    """Print that what was given up for a task is tried again."""
    click.echo(clean(f"task {task['task_id']} is {task['status']}: what was given up is sent to {task['peer']} again"))


def show_story(story: Json) -> None:
    """Print a task's story: one line for each event, then what is owed, then what it waits for and what to do."""
    today = parse_time(story["told_at"]).astimezone(timezone.utc).date()

    def shown(moment: str) -> str:
        return _short_time(moment, today)

    width = max(len(shown(event["at"])) for event in story["events"])
    for event in story["events"]:
        times = f" ({event['times']} times, last at {shown(event['last_at'])})" if event["last_at"] else ""
        who, detail = event["by"], event["detail"]
        head = f"{shown(event['at']):>{width}}  {who:9}  {event['status']:9}  {event['name'].replace('_', ' ')}"
        if event["name"] in _OWN_WORDS:
            click.echo(f"{head}{f': {detail}' if detail else ''}{times}")
        else:
            _say(sentence(head, detail, who if who in ("submitter", "receiver") else QUOTED, times))
    for delivery in story["deliveries"]:
        _say(_delivery_lines(delivery, shown))
    until = f", until {shown(story['until'])}" if story["until"] else ""
    then = f"; {'then ' if until else ''}{story['then']}" if story["then"] else ""
    click.echo(clean(f"{story['status']}: {story['sentence']}{until}{then}"))
    for command in story["commands"]:
        click.echo(clean(f"  $ {_for_same_node(command)}"))


def _short_time(moment: str, today: date | None) -> str:
    """A time of the control API in whole seconds, in UTC as everywhere; with its date, unless that is ``today``."""
    time = parse_time(moment).astimezone(timezone.utc)
    return f"{time:%H:%M:%SZ}" if time.date() == today else f"{time:%Y-%m-%d %H:%M:%SZ}"


def show_tasks(page: Page) -> None:
    """Print tasks as a table, and how it goes on."""
    tasks = page.items
    rows = (
        (
            shown_id(task["task_id"]),
            f"{'from' if task['side'] == 'receiver' else 'to'} {task['peer']}",
            f"{task['status']}{' held' if task['held_at'] else ''}{' *' if task['delivery_given_up_at'] else ''}",
            task["outcome"],
            task["created_at"],
        )
        for task in tasks
    )
    columns = ("TASK", "PEER", "STATUS", "OUTCOME", "CREATED")
    print_table(columns, rows, "there are no such tasks", _descriptions(tasks))
    if any(task["delivery_given_up_at"] for task in tasks):
        click.echo(f"* something could not be delivered and was given up; `{own_command('retry TASK')}` tries it again")
    if page.more and tasks:
        is_oldest_first = len(tasks) > 1 and tasks[0]["number"] < tasks[-1]["number"]
        _print_more(page, f"{'--after' if is_oldest_first else '--before'} {tasks[-1]['number']}")


def show_queue(page: Page) -> None:
    """Print the queue as a table: what was put back, then the head, then the others; and how it goes on."""
    rows = ((shown_id(task["task_id"]), task["peer"], *_place(task)) for task in page.items)
    print_table(("TASK", "FROM", "PLACE", "SINCE"), rows, "the queue is empty", _descriptions(page.items))
    if page.more and page.items:
        _print_more(page, f"--after {page.items[-1]['queue_position'] or 0}")


def _descriptions(tasks: Iterable[Json]) -> Iterator[str]:
    """A line for each task with the beginning of its description, empty where there is none."""
    return (task["description"] and first_line(task["description"], "submitter") for task in tasks)


def _print_more(page: Page, cursor: str) -> None:
    total = f"{page.total:,}" if page.is_total_exact else f"{page.total:,} or more"
    click.echo(f"{len(page.items):,} of {total}; the next with {cursor}, all with --all")


def _place(task: Json) -> tuple[str, str]:
    """Where in the queue a task is, and since when."""
    if task["put_back_at"]:
        return "put back", task["put_back_at"]
    return ("head", task["staged_at"]) if task["staged_at"] else ("", task["accepted_at"])


def show_workers(workers: Json) -> None:
    """Print who does the tasks, then a line for each that is being done."""
    executing = workers["executing"]
    click.echo(f"executor   {clean(workers['executor'])}")
    if workers.get("problem"):
        click.echo(f"problem    {clean(_executor_problem(workers['problem']))}")
    for unended in workers.get("unended", ()):
        click.echo(f"not ended  {_unended(unended)}")
    if workers["executor"] != "manual":
        click.echo(f"done       {workers['done']}, failed {workers['failed']}, since the node was started")
        click.echo(f"at once    {workers['concurrency']}")
    click.echo(f"waiting    {workers['waiting']}")
    rows = (
        (shown_id(task["task_id"]), task["peer"], task["attempt"], task["execute_started_at"]) for task in executing
    )
    progress = (task["justification"] and first_line(task["justification"], "receiver") for task in executing)
    print_table(("TASK", "FROM", "ATTEMPT", "SINCE"), rows, "nothing is being done", progress)


def _executor_problem(problem: Json) -> str:
    """One line for what keeps the executor from starting tasks."""
    refusing = "; new tasks are refused" if problem["is_refusing"] else ""
    when = f"since {problem['since']}, retried at {problem['retry_at']}"
    return f"unavailable: {problem['error']} ({when}{refusing})"


def _unended(unended: Json) -> str:
    """One line for an execution that should have ended and keeps its slot."""
    error, since = clean(unended["error"]), unended["since"]
    return f"{clean(unended['task_id'])}, attempt {unended['attempt']}, keeps its slot: {error} (since {since})"


def show_peers(peers: list[Json]) -> None:
    """Print peers as a table."""
    rows = (
        (
            peer["address"],
            "yes" if peer["is_owed"] else "no",
            "key" * (peer["proofs"] not in ([], ["ca"])) or "".join(peer["proofs"]) or "nothing",
            ", ".join(in_quotes(word) if word.startswith("-") else word for word in peer["features"]),
        )
        for peer in peers
    )
    add = own_command("trust add ADDRESS FINGERPRINT ENDPOINT")
    nothing = f"there are no peers; `{add}`, or start the node with --peer ADDRESS=ENDPOINT"
    print_table(("ADDRESS", "OWED", "PROOF", "FEATURES"), rows, nothing)
    for peer in peers:
        if peer["problem"]:
            _say(sentence(peer["address"], peer["problem"]))


def show_status(status: Json) -> None:
    """Print how a node does."""
    certificate = status["certificate"]
    if status["is_draining"]:
        state = ", draining"
    else:
        # A node that runs since before an upgrade does not say it.
        state = "" if status.get("is_enabled", True) else f", takes no new tasks until `{own_command('enable')}`"
    init = own_command("init --address ADDRESS")
    pairs = {
        "node": f"{status['address']}, version {status['version']}{state}",
        "listens on": "\n".join(status["listening"]) or "nothing",
        "certificate": f"none: peers are not authenticated, unless by mtls: listeners; see `{init}`",
        "connections": status["connections"],
        "waiting": status["waiting"],
        "owed to": status["owed_to"],
    }
    if status.get("held"):
        pairs["held"] = f"{status['held']}, whose submitters are not trusted"
    if status.get("disk_problem"):
        pairs["disk"] = f"new tasks are refused: {status['disk_problem']}"
    if status.get("executor_problem"):
        pairs["executor"] = _executor_problem(status["executor_problem"])
    if status.get("unended"):
        pairs["not ended"] = "\n".join(map(_unended, status["unended"]))
    if certificate:
        pairs["certificate"] = f"{certificate['fingerprint']}\ngood until {certificate['expires_at']}"
        if certificate["warning"]:
            pairs["warning"] = certificate["warning"]
    # A node that runs since before an upgrade does not say it.
    if status.get("retrying"):
        pairs["retrying"] = "\n".join(f"{step}: {error}" for step, error in status["retrying"].items())
    _print_pairs(pairs)
    show_peers(status["peers"])


def show_reloaded(status: Json) -> None:
    """Print what a reload did, then how the node does."""
    for heading, phrases in (
        ("applied", [*status["applied"], "pending deliveries are retried now"]),
        ("unchanged", status["unchanged"]),
        ("needs a restart", status["needs_restart"]),
    ):
        for phrase in phrases:
            click.echo(clean(f"{heading}: {phrase}"))
    click.echo()
    show_status(status)


def show_scores(scores: list[Json]) -> None:
    """Print the ledger as a table."""
    rows = ((score["address"], score["score"]) for score in scores)
    print_table(("ADDRESS", "SCORE"), rows, "nobody has a score yet")


def show_result(result: Json) -> None:
    """Print a result, or where it was saved. A pipe gets a file byte for byte, and a text ends with a new line.

    A terminal must not be driven by it, and gets each line marked as the receiver's.

    :raises CommandFailed: when it is a file that is not text, and standard output is a terminal.
    """
    if "path" in result:
        saved, path = f"saved {result['size_bytes']} bytes as", result["path"]
        _say([f"{saved} {path}"] if _PLAIN_PATH.fullmatch(path) else sentence(saved, path))
        return
    content = result_content(result)
    if not sys.stdout.isatty():
        click.echo(content, nl=result["text"] is not None and not content.endswith(b"\n"))
        return
    try:
        _say(block(content.decode("utf-8"), "receiver"))
    except UnicodeDecodeError:
        raise CommandFailed(
            "invalid",
            f"the result of task {result['task_id']} is a file that is not text",
            "save it with --output FILE_OR_DIRECTORY",
            quote=result["filename"],
        ) from None


def show_submitted(task: Json) -> None:
    """Print what became of a submission, or its results."""
    task_id, to = task["task_id"], task["to"]
    if "result" in task:
        show_result(task["result"])
    elif task["code"] == "unconfirmed":
        wait = own_command("wait ID", task_id)
        click.echo(f"task {task_id} was sent to {to}, whose answer was lost: `{wait}` tells more")
    elif task["answered_at"] is None and task["status"] == "NEW":
        until = f"; it is tried until {_short_time(task['tried_until'], None)}" if task.get("tried_until") else ""
        why = ", and refuses it for now" if task["code"] else ""
        _say(sentence(f"task {task_id} is recorded, will be sent: {to} has not taken it yet{until}{why}", task["code"]))
    else:
        click.echo(f"task {task_id} is submitted to {to}, which has it as {task['status']}")


def show_enabled(node: Json) -> None:
    """Print whether a node takes new tasks."""
    click.echo("the node takes new tasks" if node["is_enabled"] else "the node takes no new tasks; what it has goes on")


def show_drained(drained: Json) -> None:
    """Print what is left of a node that has come to rest."""
    left = []
    if drained["put_back"]:
        left.append(f"executions put back, to be begun again: {drained['put_back']}")
    if drained["owed_to"]:
        left.append(f"peers that could not be reached, and are still owed something: {drained['owed_to']}")
    then = "stops" if drained["is_stopping"] else "can be stopped"
    click.echo(f"the node is at rest and {then}; {'; '.join(left) or 'nothing is left to do'}")
    if left:
        click.echo("it goes on with that when it is started again")


def show_purged(done: Json) -> None:
    """Print what a purge has removed, or would, what it has kept and why, and what that freed."""
    tasks, kept = done["tasks"], done["kept"]
    if done["is_dry_run"]:
        rows = [
            (
                one["task_id"],
                f"{'from' if one['side'] == 'receiver' else 'to'} {one['peer']}",
                one["status"],
                one["created_at"],
                _size(one["description_bytes"] + one["result_bytes"]),
                f"abandon: {one['obstacle']}" if one["obstacle"] else "",
            )
            for one in tasks
        ]
        print_table(("TASK", "PEER", "STATUS", "CREATED", "SIZE", "BEFORE"), rows, "there is nothing to remove")
    click.echo(f"{'would remove' if done['is_dry_run'] else 'removed'} {_counted(tasks)}")
    for obstacle, number in Counter(one["obstacle"] or "it was changed meanwhile" for one in kept).items():
        click.echo(clean(f"kept {number:,}: {obstacle}"))
    if any(one["obstacle"] for one in kept):
        click.echo("--abandon removes those, too, and notifies the peers first")
    space = f"{_size(done['free_bytes'])} are free in the database, for reuse"
    if done["is_dry_run"]:
        click.echo(space)
        return
    results = sum(one["result_bytes"] for one in tasks)
    click.echo(f"returned to the file system: {_size(done['returned_bytes'] + results)}; {space}")
    if done["free_bytes"] and not done["can_shrink"]:
        compact = own_command("compact")
        click.echo(
            f"the database is of an older version, and cannot shrink yet: stop the node, and run `{compact}` once"
        )


def purge_question(tasks: list[Json]) -> str:
    """Ask whether to remove some tasks."""
    open_ones = sum(bool(one["obstacle"]) for one in tasks)
    first = f" ({open_ones:,} of them to be abandoned first)" if open_ones else ""
    return f"remove {_counted(tasks)}{first}?"


def _counted(tasks: list[Json]) -> str:
    descriptions, results = (sum(one[name] for one in tasks) for name in ("description_bytes", "result_bytes"))
    noun = "task" if len(tasks) == 1 else "tasks"
    return f"{len(tasks):,} {noun}: {_size(descriptions)} of descriptions, {_size(results)} of results"


def show_compacted(sizes: Json) -> None:
    """Print the size of a database before it was rewritten, and after."""
    click.echo(f"the database had {_size(sizes['before_bytes'])}, and has {_size(sizes['after_bytes'])}")


def _size(number: float) -> str:
    """A number of bytes in the unit that leaves few digits."""
    power = 0
    while number >= 1024 and power < 3:
        number /= 1024
        power += 1
    return f"{number:.{min(power, 1)}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def show_demo(summary: Json) -> None:
    """Print how the demonstration ended; its steps were told while it ran."""
    click.echo(f"all is as it should be: the reward is {summary['reward']}")


def error_lines(message: str, hint: str, quote: str = "") -> list[str]:
    """One line for an error; on a terminal, a ``quote`` of another agent that does not fit into it follows."""
    head, tail = f"tasksubmit: {clean(message)}", clean(f"; {hint}" if hint else "")
    if sys.stderr.isatty() or not quote:
        return sentence(head, quote, QUOTED, tail)
    return [f"{head}: {in_quotes(quote)}{tail}"]


def json_line(envelope: Mapping[str, Any]) -> str:
    """An envelope as one line of ASCII, which no terminal takes for anything else."""
    import json

    line = json.dumps(envelope, separators=(",", ":"))
    if "\\ud" in line:  # half a surrogate pair, as of an undecodable file name, is no JSON for strict readers
        whole = json.dumps(envelope, ensure_ascii=False).encode("utf-8", "replace")
        line = json.dumps(json.loads(whole), separators=(",", ":"))
    return line
