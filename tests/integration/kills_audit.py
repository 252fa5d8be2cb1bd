"""What nodes promised while they were killed, and whether their disks keep it (wire.md, sections 4 and 6)."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from random import Random

from attrs import define, field, frozen

from tasksubmit.lifecycle.table import TRANSITIONS, Side

DRIVER = "0:0000.0000.0003"
"""The peer of both nodes that is no node: the test itself."""

LOAD, PAIR, GIFT = "load", "pair", "gift"
"""What the ids begin with of tasks from the driver to a node, from node to node, and from a node to the driver."""

RECEIVER, SUBMITTER = Side.RECEIVER.value, Side.SUBMITTER.value
HAS_RESULTS = ("COMPLETED", "SUCCEEDED")
OPEN = ("NEW", "ACCEPTED", "EXECUTING", "COMPLETED")

MISSING = "missing"
DOUBLED = "doubled"
UNKEPT = "back in an earlier status"
FORBIDDEN = "in a forbidden status"
INCOMPLETE = "results incomplete"
TWICE = "booked twice"
OTHER = "other"

Key = tuple[str, str, str]
"""Side, peer and task id: what a record is known by."""


# --- what a task is, which its id alone decides -----------------------------------------------------------------------


@frozen
class Results:
    """What a task yields; a text has no `filename`."""

    filename: str
    content: bytes


def results(task_id: str) -> Results:
    """The results of a task; the same for the same id, however often it is asked."""
    random = Random(task_id)
    content = random.randbytes(random.choice((10, 1_000, 20_000, 40_000)))
    filename = random.choice(("", "", "", "report.pdf", "data.bin", "figure.png"))
    return Results(filename, content if filename else content.hex().encode())


def fate(task_id: str) -> str:
    """What becomes of a task: ``succeed``, ``decline`` or ``withdraw``."""
    is_between_nodes = task_id.startswith(PAIR)
    return Random(task_id).choice(("decline", "withdraw", *("succeed",) * 8)) if is_between_nodes else "succeed"


def description(task_id: str) -> str:
    """What is to be done."""
    return f"do {task_id}"


# --- what the table allows --------------------------------------------------------------------------------------------


@cache
def reachable(side: str, status: str) -> frozenset[str]:
    """Every status that the table lets follow ``status``, itself included."""
    found = {status}
    while True:
        steps = TRANSITIONS.items()
        more = {str(step.target) for (of, before, _), step in steps if of.value == side and str(before) in found}
        if more <= found:
            return frozenset(found)
        found |= more


def may_be(key: Key, promised: str) -> frozenset[str]:
    """What a record may be that was ``promised``: nothing in a run ends a task that left NEW but its submitter."""
    allowed = reachable(key[0], promised)
    if promised == "NEW" or fate(key[2]) == "withdraw":
        return allowed
    return allowed - {"CANCELLED", "EXPIRED"} | {promised}


_QUEUED = f"side = '{RECEIVER}' AND status = 'ACCEPTED'"
_SAME_TASK = "d.task_id = t.task_id AND d.side = t.side AND d.peer = t.peer"
INVARIANTS = (
    (DOUBLED, "several records", "SELECT task_id FROM tasks GROUP BY task_id, side, peer HAVING count(*) > 1"),
    (TWICE, "booked again", "SELECT task_id FROM bookings GROUP BY task_id, side, peer, party HAVING count(*) > 1"),
    (
        TWICE,
        "score is not the sum of its bookings",
        "SELECT party, sum(points) FROM (SELECT party, points FROM scores UNION ALL"
        " SELECT party, -points FROM bookings) GROUP BY party HAVING sum(points) <> 0",
    ),
    (
        TWICE,
        "bookings are not what the record says",
        "SELECT task_id FROM (SELECT task_id, side, peer, reward - 1 AS points, 2 AS n FROM tasks"
        " WHERE reward IS NOT NULL UNION ALL SELECT task_id, side, peer, -points, -1 FROM bookings)"
        " GROUP BY task_id, side, peer HAVING sum(points) <> 0 OR sum(n) <> 0",
    ),
    (
        FORBIDDEN,
        "tasks from the driver move",
        f"SELECT task_id, status FROM tasks WHERE task_id GLOB '{LOAD}-*' AND status NOT IN ('NEW', 'CANCELLED')",
    ),
    (OTHER, "queue and status differ", f"SELECT task_id FROM tasks WHERE (queue_position IS NOT NULL) <> ({_QUEUED})"),
    (
        OTHER,
        "one place for several",
        f"SELECT queue_position FROM tasks WHERE {_QUEUED} GROUP BY queue_position HAVING count(*) > 1",
    ),
    (
        OTHER,
        "another than the head is staged, or the head is not",
        f"SELECT task_id FROM tasks WHERE {_QUEUED} AND (staged_at IS NOT NULL)"
        f" <> (queue_position = (SELECT min(queue_position) FROM tasks WHERE {_QUEUED}))",
    ),
    (
        OTHER,
        "stamps are not there",
        "SELECT task_id FROM tasks WHERE (status IN ('COMPLETED', 'SUCCEEDED') AND (completed_at IS NULL OR"
        f" result_file = '')) OR (side = '{RECEIVER}' AND (accepted_at IS NULL) <> (status = 'NEW'))",
    ),
    (
        OTHER,
        "something is owed for no task",
        "SELECT d.task_id FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM tasks t WHERE " + _SAME_TASK + ")",
    ),
    (
        OTHER,
        "another than the first message of a task is ready, or the first is not",
        "SELECT d.task_id FROM deliveries d WHERE (d.ready_at IS NOT NULL)"
        f" <> (d.id = (SELECT min(t.id) FROM deliveries t WHERE {_SAME_TASK}))",
    ),
    (
        OTHER,
        "what nobody would ever finish",
        f"SELECT task_id FROM tasks t WHERE (side = '{RECEIVER}' AND status = 'COMPLETED' OR side = '{SUBMITTER}' AND"
        " status = 'NEW' AND answered_at IS NULL)"
        f" AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE {_SAME_TASK})",
    ),
)
"""What is never true of a database, however its node ended: kind, words, and a query for what is wrong."""


# --- a node's disk ----------------------------------------------------------------------------------------------------


class Row(sqlite3.Row):
    """A record of a task; the columns of `Disk.tasks`."""

    @property
    def key(self) -> Key:
        return (self["side"], self["peer"], self["task_id"])


@define(eq=False)
class Disk:
    """A node's state directory, which is only read."""

    state: Path
    _database: sqlite3.Connection | None = None

    @contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        """Keep the database open, as its node's death or its last commit left it.

        Not over a start of the node, which has to find it without any other process.
        """
        if self._database is not None:
            yield self._database
            return
        self._database = sqlite3.connect(f"file:{self.state / 'tasks.db'}?mode=ro", uri=True, timeout=30)
        self._database.row_factory = Row
        try:
            yield self._database
        finally:
            self._database.close()
            self._database = None

    def query(self, sql: str, *values: object) -> list[Row]:
        """What a query finds."""
        with self.opened() as database:
            return database.execute(sql, values).fetchall()

    def tasks(self, where: str, *values: object) -> list[Row]:
        """Records."""
        columns = (
            "side, peer, task_id, status, description, answered_at, cancel_requested_at, reward, result_file,"
            " result_type, result_filename"
        )
        return self.query(f"SELECT {columns} FROM tasks WHERE {where}", *values)

    def result(self, name: str) -> bytes | None:
        """A result file."""
        path = self.state / "results" / name
        return path.read_bytes() if name and path.is_file() else None

    def knows_peers(self) -> bool:
        """Whether both peers are known to acknowledge."""
        return len(self.query("SELECT 1 FROM peer_features WHERE features LIKE '%ack%'")) == 2

    def is_quiet(self) -> bool:
        """Whether every task is final, and nothing is owed."""
        open_ = f"SELECT 1 FROM tasks WHERE status IN {OPEN} UNION ALL SELECT 1 FROM deliveries LIMIT 1"
        return not self.query(open_)


# --- the audit --------------------------------------------------------------------------------------------------------


@define(eq=False)
class Promises:
    """What one node has answered, and what was seen on its disk.

    :ivar statuses: the furthest status of each record that was ever answered or seen.
    :ivar acknowledged: the submissions that the driver made, and that were answered 200.
    :ivar paid: the reward in the acknowledgement of the driver's own results.
    :ivar withdrawn: the ids for which the node took the command to cancel.
    """

    address: str
    disk: Disk
    faults: list[tuple[str, str]]
    statuses: dict[Key, str] = field(factory=dict)
    acknowledged: set[str] = field(factory=set)
    paid: dict[str, int] = field(factory=dict)
    withdrawn: set[str] = field(factory=set)
    _fresh: set[Key] = field(factory=set)
    _verified: set[Key] = field(factory=set)

    def fault(self, kind: str, what: str) -> None:
        """Something is not as promised."""
        self.faults.append((kind, f"{self.address}: {what}"))

    def say(self, key: Key, status: str) -> None:
        """The node answered that a record is in this status."""
        before = self.statuses.get(key, status)
        self._fresh.add(key)
        if status in may_be(key, before):
            self.statuses[key] = status
        elif before not in may_be(key, status):  # else the answers overtook each other
            self.fault(FORBIDDEN, f"{key} was answered to be {before}, and then {status}")

    def check(self, *, everything: bool = False) -> None:
        """Look whether the disk has what was promised: since the last look, or ever."""
        for kind, what, sql in INVARIANTS:
            for row in self.disk.query(sql + " LIMIT 5"):
                self.fault(kind, f"{what}: {tuple(row)}")
        wanted = set(self.statuses) if everything else self._fresh
        rows = {row.key: row for row in self._rows(wanted, everything)}
        for key in wanted - rows.keys():
            self.fault(MISSING, f"{key} was {self.statuses[key]}")
        for row in rows.values():
            self._check_row(row, everything)
        self._fresh = set()

    def _rows(self, wanted: Iterable[Key], everything: bool) -> Iterator[Row]:
        """Every record that is not load, and of the load what is wanted."""
        if everything:
            yield from self.disk.tasks("1")
            return
        yield from self.disk.tasks(f"task_id GLOB '{PAIR}-*' OR task_id GLOB '{GIFT}-*'")
        ids = sorted({task_id for _, _, task_id in wanted if task_id.startswith(LOAD)})
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            yield from self.disk.tasks(f"task_id IN ({', '.join('?' * len(some))})", *some)

    def _check_row(self, row: Row, everything: bool) -> None:
        key, status = row.key, row["status"]
        side, _, task_id = key
        promised = self.statuses.get(key, "NEW")
        if status not in may_be(key, promised):
            self.fault(
                UNKEPT if promised in reachable(side, status) else FORBIDDEN, f"{key} is {status} after {promised}"
            )
        if row["description"] != description(task_id):
            self.fault(OTHER, f"{key} has the description {row['description']!r}")
        if side == SUBMITTER and task_id in self.withdrawn and not row["cancel_requested_at"]:
            self.fault(UNKEPT, f"the command to cancel {key} is forgotten")
        if task_id in self.paid and row["reward"] != self.paid[task_id]:
            self.fault(TWICE, f"{key} was paid with {self.paid[task_id]} and now with {row['reward']}")
        self.statuses[key] = status
        if status in HAS_RESULTS and (everything or key not in self._verified):
            self._verified.add(key)
            expected = results(task_id)
            is_named = row["result_filename"] == expected.filename
            if not is_named or self.disk.result(row["result_file"]) != expected.content:
                self.fault(INCOMPLETE, f"the results of {key}, {row['result_file']}, are not those that were given")

    def figures(self) -> Counter[str]:
        """What there is in the end."""
        found = Counter({"acknowledged": len(self.acknowledged)})
        load = {row["task_id"] for row in self.disk.tasks(f"task_id GLOB '{LOAD}-*'")}
        found["found"] = len(load & self.acknowledged)
        for row in self.disk.tasks(f"side = '{SUBMITTER}' AND status IN {HAS_RESULTS}"):
            found["results"] += 1
            found["complete"] += self.disk.result(row["result_file"]) == results(row["task_id"]).content
        found["commands"] = sum(
            not key[2].startswith(LOAD) and status != "NEW" for key, status in self.statuses.items()
        )
        found["bookings"] = len(self.disk.query("SELECT 1 FROM bookings"))
        return found

    def check_end(self, sent: set[str]) -> None:
        """All is quiet: nothing is open, owed, or there although nobody asked for it."""
        self.check(everything=True)
        if not self.disk.is_quiet():
            self.fault(OTHER, "something is open or owed in the end")
        for task_id in {row["task_id"] for row in self.disk.tasks(f"task_id GLOB '{LOAD}-*'")} ^ sent:
            self.fault(MISSING if task_id in sent else DOUBLED, f"{task_id} is only asked for, or only there")
        named = {
            name for row in self.disk.query("SELECT result_file, late_result_file FROM tasks") for name in row if name
        }
        on_disk = {path.name for path in (self.disk.state / "results").iterdir()} - {".incoming"}
        if named != on_disk or any((self.disk.state / "results" / ".incoming").iterdir()):
            self.fault(OTHER, f"result files without a record, or records without: {sorted(named ^ on_disk)[:5]}")
        [[verdict]] = self.disk.query("PRAGMA integrity_check")
        if verdict != "ok":
            self.fault(OTHER, f"the database is damaged: {verdict}")


_OF_PAIR = f"task_id GLOB '{PAIR}-*'"


def compare(a: Promises, b: Promises) -> None:
    """What one node was told the other has on its disk, too; one of them is dead, or both are."""
    for here, there in ((a, b), (b, a)):
        submitted = {row["task_id"]: row for row in here.disk.tasks(f"{_OF_PAIR} AND side = '{SUBMITTER}'")}
        received = {row["task_id"]: row for row in there.disk.tasks(f"{_OF_PAIR} AND side = '{RECEIVER}'")}
        for task_id in received.keys() - submitted.keys():
            here.fault(MISSING, f"{task_id} was sent, and is not on the sender's disk")
        for task_id, mine in submitted.items():
            theirs = received.get(task_id)
            if theirs is None:
                if mine["answered_at"]:
                    there.fault(MISSING, f"{task_id} was answered, and is not on the receiver's disk")
                continue
            if theirs["status"] not in reachable(RECEIVER, mine["status"]):
                there.fault(UNKEPT, f"{task_id} is {theirs['status']}, the submitter heard {mine['status']}")
            if theirs["status"] == "SUCCEEDED" and mine["status"] not in HAS_RESULTS:
                here.fault(UNKEPT, f"{task_id} is {mine['status']}, its results were acknowledged")
            if theirs["status"] == "SUCCEEDED" and theirs["reward"] != mine["reward"]:
                there.fault(TWICE, f"{task_id} is paid with {mine['reward']} there and {theirs['reward']} here")


def compare_end(a: Promises, b: Promises) -> None:
    """All is quiet: both sides of a task say the same, and so do both ledgers."""
    compare(a, b)
    for here, there in ((a, b), (b, a)):
        submitted, received = (
            {row["task_id"]: row["status"] for row in promises.disk.tasks(f"{_OF_PAIR} AND side = '{side}'")}
            for promises, side in ((here, SUBMITTER), (there, RECEIVER))
        )
        for task_id in sorted(submitted.keys() | received.keys()):
            statuses = submitted.get(task_id), received.get(task_id)
            # A task that was withdrawn before it arrived is known to its submitter alone.
            if statuses[0] != statuses[1] and statuses != ("CANCELLED", None):
                here.fault(OTHER, f"{task_id} is {statuses[0]} here, and {statuses[1]} at its receiver")
    ledgers = [
        {tuple(row) for row in promises.disk.query(f"SELECT task_id, party, points FROM bookings WHERE {_OF_PAIR}")}
        for promises in (a, b)
    ]
    for booking in sorted(ledgers[0] ^ ledgers[1])[:5]:
        a.fault(TWICE, f"{booking} is in one ledger only")
