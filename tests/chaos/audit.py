"""Both sides of each task, and what was done: compared when nothing is open any more.

The rules are those of the wire protocol's sections 4 and 6. The two records of a task end in the same status, with the
same outcome, error and justification, and the same reward. One exception: results that come after the submitter's
record ended are late, and then the receiver's record is SUCCEEDED with outcome ``late``.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from attrs import frozen

from tasksubmit.cli.control import Json
from tests.chaos.journal import BROKEN, DONE, OVERLAP, START, Executions, Words
from tests.chaos.workload import Commands, Pair

SUBMITTER, RECEIVER = "submitter", "receiver"
OPEN = ("NEW", "ACCEPTED", "EXECUTING", "COMPLETED")
ENDED_WITHOUT_RESULTS = ("CANCELLED", "DECLINED", "EXPIRED")
SUBMITTERS_WORDS = ("cancelled_by_submitter", "answer_timeout", "result_timeout", "undelivered")
RETRYABLE = ("rate_limited", "quota", "overloaded", "storage", "not_accepting")
COMPARED = ("outcome", "error", "justification")

Key = tuple[str, str, str]
"""Side, peer and task id: what a node knows a record by."""


@frozen
class Finding:
    """Something that should not be.

    :ivar pair: the task, if it is about one.
    """

    text: str
    pair: Pair | None = None


@frozen
class Sides:
    """All that there is about one task.

    :ivar is_disturbed: whether the receiver, its disk or its network had a fault, or its clock was set.
    :ivar is_by_hand: whether people accept the receiver's tasks.
    """

    pair: Pair
    submitted: Json | None
    received: Json | None
    commands: Commands
    executions: Executions
    is_disturbed: bool
    is_by_hand: bool


def compare(sides: Sides) -> Iterator[str]:
    """What is wrong with a task that is over on both sides."""
    submitted, received, commands = sides.submitted, sides.received, sides.commands
    if submitted is None:
        if "submit" in commands.acknowledged:
            yield "its submission was acknowledged, and the submitter has no record"
        if received is not None:
            yield "the receiver has a record, and the submitter has none"
        return
    if submitted["status"] in OPEN:
        yield f"the submitter's record is still {submitted['status']}"
    if received is not None and received["status"] in OPEN:
        yield f"the receiver's record is still {received['status']}"
    yield from _unexplained(sides, submitted)
    if received is None:
        yield from _without_record(sides, submitted)
        return
    yield from _broken_promises(commands, received)
    yield from _disagreement(submitted, received)
    yield from _executions(sides, received)


def _unexplained(sides: Sides, submitted: Json) -> Iterator[str]:
    """Statuses and outcomes that nothing that happened explains."""
    status, outcome, commands = submitted["status"], submitted["outcome"], sides.commands
    if status in ("CANCELLED", "EXPIRED") and not outcome:
        yield f"it is {status} without an outcome"
    reasons = {
        "cancelled_by_submitter": (commands.may_be_cancelled, "nobody asked for its cancellation"),
        "result_timeout": (commands.has_due, "it has no deadline for results"),
        "deadline_passed": (commands.has_expiry, "it has no deadline"),
        # A submission that arrives while its deadline passes is withdrawn with the word of that deadline.
        "undelivered": (sides.received is None or bool(submitted["cancel_requested_at"]), "the receiver has it"),
        "lost": (sides.received is None, "the receiver has it"),
        "accept_timeout": (sides.is_by_hand or sides.is_disturbed, "its receiver accepts all, and was not disturbed"),
    }
    is_explained, why = reasons.get(outcome, (True, ""))
    if not is_explained:
        yield f"its outcome is {outcome}, but {why}"
    if outcome == "failed":
        error = str(submitted["error"])
        if not error:
            yield "it failed without an error"
        elif BROKEN not in error and not (sides.is_disturbed and "exit code 99" in error):
            yield f"it failed, but not as it was asked to: {error}"
    if status == "DECLINED":
        if submitted["code"] in RETRYABLE and not commands.has_expiry:
            yield f"it is DECLINED with the retryable code {submitted['code']}"
        if not submitted["code"] and submitted["justification"] not in commands.declined:
            yield f"it is DECLINED, but nobody declined it with {submitted['justification']!r}"


def _without_record(sides: Sides, submitted: Json) -> Iterator[str]:
    status, outcome = submitted["status"], submitted["outcome"]
    is_refused = status == "DECLINED" and bool(submitted["code"])
    is_withdrawn = status == "CANCELLED" and outcome in (*SUBMITTERS_WORDS, "lost")
    if not is_refused and not is_withdrawn:
        yield f"it is {status}, and the receiver has no record"
    if submitted["answered_at"] and not submitted["cancel_requested_at"] and not is_refused:
        yield "the receiver answered its submission, and has no record"
    if sides.executions.steps:
        yield f"it was executed, and the receiver has no record: {sides.executions}"


def _broken_promises(commands: Commands, received: Json) -> Iterator[str]:
    """Commands at the receiver that succeeded, and that its record does not know of."""
    end = received["status"], received["outcome"]
    is_kept = {
        "accept": received["status"] != "DECLINED" and received["outcome"] != "accept_timeout",
        "decline": received["status"] == "DECLINED",
        "fail": end == ("CANCELLED", "failed"),
        "send": received["status"] == "SUCCEEDED",
    }
    for command in sorted(commands.acknowledged & is_kept.keys()):
        if not is_kept[command]:
            yield f"the command {command} succeeded, and the receiver's record is {' '.join(end)}"


def _disagreement(submitted: Json, received: Json) -> Iterator[str]:
    is_late = received["outcome"] == "late"
    if is_late:
        if submitted["status"] not in ENDED_WITHOUT_RESULTS:
            yield f"the results are late, and the submitter's record is {submitted['status']}"
        if not submitted["late_result_file"]:
            yield "the results are late, and the submitter has not kept them"
        if submitted["reward"] is not None or received["reward"] is not None:
            yield "the results are late, and were paid for"
        return
    if submitted["status"] != received["status"]:
        yield f"it is {submitted['status']} for the submitter and {received['status']} for the receiver"
        return
    if submitted["status"] == "SUCCEEDED":
        if submitted["reward"] is None or submitted["reward"] != received["reward"]:
            yield f"the submitter paid {submitted['reward']}, the receiver booked {received['reward']}"
        return
    for name in COMPARED:
        if submitted[name] != received[name]:
            yield f"{name}: the submitter has {submitted[name]!r}, the receiver {received[name]!r}"


def _executions(sides: Sides, received: Json) -> Iterator[str]:
    executions, attempt = sides.executions, received["attempt"]
    started = executions.attempts(START)
    if executions.attempts(OVERLAP):
        yield f"two executions at the same time: {executions}"
    if len(set(started)) < len(started):
        yield f"one attempt was started twice: {executions}"
    if started and max(started) > attempt:
        yield f"attempt {max(started)} was started, and the receiver's record is at {attempt}: {executions}"
    if started and received["execute_started_at"] is None:
        yield f"it was executed, and the receiver's record says that it was not: {executions}"
    if received["status"] == "SUCCEEDED" and attempt not in executions.attempts(DONE):
        yield f"attempt {attempt} has results, and was not done: {executions}"


def compare_result(pair: Pair, words: Words, received: Json, result: Json) -> Iterator[str]:
    """What is wrong with the results that the submitter has."""
    expected = words.result(pair[0], pair[2], received["attempt"])
    is_file = result["result_type"] == "file"
    content = b64decode(result["content_base64"]) if is_file else str(result["text"]).encode()
    if is_file != (words.kind == "file") or content != expected:
        yield f"its results are {len(content)} bytes, {content[:80]!r}, and not {len(expected)}, {expected[:80]!r}"


def changed(before: Json, after: Json) -> Iterator[str]:
    """What changed of a record that was final; an empty outcome may still be filled, with all three."""
    names = ["status", "reward"]
    if before["outcome"] or before["status"] != after["status"]:
        names += COMPARED
    for name in names:
        if before[name] != after[name]:
            yield f"{name} of the {after['side']}'s final record changed from {before[name]!r} to {after[name]!r}"


# --- a database whose node has stopped --------------------------------------------------------------------------------

_Bookings = dict[tuple[str, str, str], dict[str, int]]


def check_database(state: Path, own: str) -> tuple[list[str], _Bookings]:
    """What is wrong with a node's database, and the points of each record, by side, peer and id."""
    with closing(sqlite3.connect(f"file:{state / 'tasks.db'}?mode=ro", uri=True, timeout=10)) as database:
        database.row_factory = sqlite3.Row
        found = [f"{own}: integrity: {line}" for (line,) in database.execute("PRAGMA integrity_check") if line != "ok"]
        bookings: _Bookings = {}
        sums: dict[str, int] = {}
        for row in database.execute("SELECT task_id, side, peer, party, points FROM bookings"):
            bookings.setdefault((row["side"], row["peer"], row["task_id"]), {})[row["party"]] = row["points"]
            sums[row["party"]] = sums.get(row["party"], 0) + row["points"]
        scores = {row["party"]: row["points"] for row in database.execute("SELECT party, points FROM scores")}
        if scores != {party: points for party, points in sums.items() if party in scores or points}:
            found.append(f"{own}: the scores are {scores}, the bookings come to {sums}")
        for row in database.execute("SELECT task_id, side, peer, status, outcome, reward FROM tasks"):
            found += _misbooked(own, row, bookings.get((row["side"], row["peer"], row["task_id"]), {}))
    return found, bookings


def _misbooked(own: str, row: sqlite3.Row, booked: Mapping[str, int]) -> Iterator[str]:
    submitter, receiver = (own, row["peer"]) if row["side"] == SUBMITTER else (row["peer"], own)
    expected: dict[str, int] = {}
    if row["status"] == "SUCCEEDED" and row["outcome"] != "late":
        expected = {submitter: -1, receiver: row["reward"]}
    elif row["status"] == "EXPIRED":
        expected = {receiver: -1}
    if row["status"] not in OPEN and dict(booked) != expected:
        yield f"{own}: {row['side']}'s {row['task_id']} with {row['peer']} is {row['status']}, and booked {booked}"
