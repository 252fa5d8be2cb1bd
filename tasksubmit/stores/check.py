"""Looks through a state directory that no node is using: what is damaged, what was left over. It changes nothing."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

from attrs import evolve, frozen

from tasksubmit.errors import StoreError, StoreLocked
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.stores.faults import (
    OTHER_TABLES,
    TASK_DEFAULTS,
    fault_of_delivery,
    faults_of,
    named,
    readable,
    rows_of,
    shown,
)
from tasksubmit.stores.migrations import APPLICATION_ID, DATABASE_ERRORS, migrate, schema_steps
from tasksubmit.stores.queries import is_result_named
from tasksubmit.stores.results import INCOMING, ResultFiles, is_mark
from tasksubmit.stores.rows import DELIVERY_COLUMNS, TASK_COLUMNS, delivery_from_row, key_values, task_from_row
from tasksubmit.stores.sqlite import DATABASE, LOCK, RESULTS
from tasksubmit.stores.wal import fault_of_log

MAX_PAGE_FAULTS = 100
"""What is told of the faults that SQLite finds between pages; after so many nobody reads on."""

_CHUNK_BYTES = 1024 * 1024
_RESTORE = "restore it from a backup, or move it and results/ away to start empty"
_RESTORE_FILE = "restore it from a backup, or from the agent that has the original"

_IS_THERE = "SELECT 1 FROM tasks WHERE task_id = ? AND side = ? AND peer = ?"
_NUMBERS = (
    "SELECT (SELECT count(*) FROM tasks), (SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'tasks')"
)
_WRONG_SCORES = (
    "SELECT party FROM (SELECT party, points FROM scores UNION ALL SELECT party, -points FROM bookings)"
    " GROUP BY party HAVING sum(points) <> 0 ORDER BY party"
)


@frozen
class Finding:
    """One thing that is not as it should be.

    :ivar where: the file or the task.
    :ivar what: is wrong with it.
    :ivar hint: the way out.
    """

    where: str
    what: str
    hint: str
    is_problem: bool = True


@frozen
class Report:
    """What a look at a state directory found. It is whole when there are no `problems`; `notices` need no care.

    :ivar tasks: records that were read.
    :ivar results: result files that were compared with their records.
    :ivar result_bytes: how much that was.
    """

    problems: tuple[Finding, ...]
    notices: tuple[Finding, ...]
    tasks: int
    results: int
    result_bytes: int


def check_state(directory: Path) -> Report:
    """Check the database and the result files of a state directory; takes as long as reading all of it.

    Beside a database that was not closed SQLite leaves an index of its log (``tasks.db-shm``), which the next node
    makes anew.

    :raises StoreLocked: when a node is using it.
    :raises StoreError: when there is none, or it cannot be opened.
    """
    if not directory.is_dir():
        raise StoreError(f"there is no state directory {directory}; name the node's own with --state-dir")
    database = directory / DATABASE
    try:
        with _locked(directory / LOCK):
            if not database.exists():
                raise StoreError(f"there is no database {database}; name the node's own directory with --state-dir")
            check = _Check(directory)
            findings = list(check.findings())
    except OSError as error:
        raise StoreError(f"{error.filename or directory} cannot be read: {error.strerror}") from error
    except sqlite3.OperationalError as error:
        raise StoreError(f"{database} cannot be opened: {error}; can you write to its directory?") from error
    return Report(
        tuple(finding for finding in findings if finding.is_problem),
        tuple(finding for finding in findings if not finding.is_problem),
        check.tasks,
        check.results,
        check.result_bytes,
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep nodes from starting; other checks may go on. Where there is no lock file, no node was ever started."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLocked(
                f"a node is using the state directory {path.parent}: stop the node first, then check"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _connect(database: Path) -> sqlite3.Connection:
    """Open the database to read it only, with what its log has for it, if there is one."""
    has_log = any(_size(Path(f"{database}{suffix}")) for suffix in ("-wal", "-journal"))
    options = "mode=ro" if has_log else "immutable=1"
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?{options}", uri=True, isolation_level=None)
    # Text that is no UTF-8 must not end the reading; `readable` finds it.
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    return connection


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _Check:
    """One look at a state directory, which is locked meanwhile; the generators count what they have read."""

    def __init__(self, directory: Path) -> None:
        self.tasks = self.results = self.result_bytes = 0
        self._database = directory / DATABASE
        self._directory = directory / RESULTS
        self._files = ResultFiles(self._directory)
        self._are_tasks_read = False

    def findings(self) -> Iterator[Finding]:
        """Everything that is not as it should be."""
        if _size(self._database) <= 1:  # to SQLite, a single byte is none
            is_new = not self._directory.exists()
            what = "is empty: no node has come to use it" if is_new else "is empty: what it held is lost"
            yield evolve(self._problem(what), is_problem=not is_new)
            return
        log = Path(f"{self._database}-wal")
        if fault := fault_of_log(log):
            yield Finding(
                str(log), fault, f"what was done last may be missing: restore it with {DATABASE} from one backup"
            )
        with closing(_connect(self._database)) as connection:
            version = yield from self._open(connection)
            if version:
                for findings in (
                    self._pages(connection),
                    self._schema(connection, version),
                    self._records(connection),
                    self._queue(connection),
                    self._deliveries(connection),
                    self._other_tables(connection),
                    self._leftovers(connection),
                ):
                    yield from self._guarded(findings)

    def _problem(self, what: str, hint: str = _RESTORE) -> Finding:
        return Finding(str(self._database), what, hint)

    def _guarded(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        try:
            yield from findings
        except DATABASE_ERRORS as error:
            yield self._problem(f"is damaged, and could not be read to its end ({error})")

    # --- the database ------------------------------------------------------------------------------------------------

    def _open(self, connection: sqlite3.Connection) -> Generator[Finding, None, int | None]:
        """Returns the number of its schema; None when it is not to be read further."""
        try:
            [version], [application] = (
                connection.execute(f"PRAGMA {name}").fetchone() for name in ("user_version", "application_id")
            )
        except sqlite3.OperationalError:
            raise
        except DATABASE_ERRORS as error:
            yield self._problem(f"is damaged or no database ({error})")
            return None
        known = len(schema_steps())
        if application != APPLICATION_ID:
            yield self._problem("is a database of another program", "choose another state directory")
        elif version > known:
            what = f"has schema {version}, made by a newer version of tasksubmit; this one knows schemas up to {known}"
            yield self._problem(what, "check it with the newer version")
        else:
            if version < known:
                what = f"has schema {version}, that of an older version of tasksubmit"
                hint = f"the next start of a node brings it to schema {known}; make a backup before"
                yield Finding(str(self._database), what, hint, is_problem=False)
            return int(version)
        return None

    def _pages(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        for (fault,) in connection.execute(f"PRAGMA integrity_check({MAX_PAGE_FAULTS})"):
            if fault != "ok":
                yield self._problem(f"is damaged ({' '.join(fault.split())})")

    def _schema(self, connection: sqlite3.Connection, version: int) -> Iterator[Finding]:
        """Compare the tables and indexes with those that its version makes."""
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
            migrate(fresh, "memory:", schema_steps()[:version])
            expected, found = _definitions(fresh), _definitions(connection)
        for name in sorted(expected.keys() - found.keys()):
            yield self._problem(f"has no {name}, which schema {version} has")
        for name in sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name]):
            yield self._problem(f"has another {name} than schema {version}")

    def _records(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        rows = rows_of(connection, "tasks", TASK_COLUMNS, TASK_DEFAULTS, "ORDER BY number")
        names = TASK_COLUMNS.split(", ")
        number_at, id_at = names.index("number"), names.index("task_id")
        for row in rows:
            self.tasks += 1
            task, fault = readable(task_from_row, row)
            if task is None:
                yield self._bad(f"record {row[number_at]} (task {shown(row[id_at])})", fault)
                continue
            for fault in faults_of(task):
                yield self._bad(named(task.key), fault)
            yield from self._result(task.key, task.result_file, task.result_bytes, task.result_sha256)
            yield from self._result(task.key, task.late_result_file, None, "")
        self._are_tasks_read = True

    def _bad(self, where: str, fault: str) -> Finding:
        return Finding(where, fault, f"restore {self._database} from a backup")

    def _queue(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        """Positions are unique, and the head, and it alone, is staged. What is held has a position, and is no head."""
        before = None
        is_past_head = False
        columns = "task_id, peer, queue_position, staged_at, held_at"
        order = "WHERE side = 'receiver' AND status = 'ACCEPTED' ORDER BY queue_position"
        rows = rows_of(connection, "tasks", columns, {"held_at": None}, order)
        for task_id, peer, position, staged_at, held_at in rows:
            where = f"task {shown(task_id)} from {shown(peer)}"
            if before is not None and position == before:
                yield self._bad(where, f"has the same place in the queue as another task ({position})")
            is_head = not is_past_head and held_at is None
            if is_head and staged_at is None:
                yield self._bad(where, "is the head of the queue, but not staged")
            if not is_head and staged_at is not None:
                yield self._bad(where, "is staged, but not the head of the queue")
            is_past_head = is_past_head or is_head
            before = position

    def _deliveries(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        """Each can be read and belongs to a task, and of those of one task only the first may be sent."""
        order = "ORDER BY task_id, side, peer, id"
        key, is_first = None, True
        for row in rows_of(connection, "deliveries", DELIVERY_COLUMNS, {"given_up_at": None}, order):
            delivery, fault = readable(delivery_from_row, row)
            if delivery is None:
                yield self._bad(f"delivery {row[0]} (task {shown(row[1])})", fault)
                continue
            if delivery.key != key:
                key, is_first = delivery.key, True
                if self._are_tasks_read and not connection.execute(_IS_THERE, key_values(key)).fetchone():
                    yield self._bad(named(key), "does not exist, but something is owed for it")
            if fault := fault_of_delivery(delivery, is_first):
                yield self._bad(named(delivery.key), f"the {delivery.kind.value} that is owed {fault}")
            is_first = is_first and delivery.given_up_at is not None

    def _other_tables(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        """What belongs to no task, or to one that is gone, can be read; and the scores are the sums of the bookings."""
        for table, columns, read in OTHER_TABLES:
            for row in rows_of(connection, table, columns, {}):
                if fault := readable(read, row)[1]:
                    yield self._bad(f"{table.replace('_', ' ')} of {shown(row[0])}", fault)
        # Retention takes the bookings of what it removes, but not the scores; numbers are never given again.
        kept, made = connection.execute(_NUMBERS).fetchone()
        if kept == made:
            for (party,) in connection.execute(_WRONG_SCORES):
                yield self._bad(f"the score of {shown(party)}", "is not the sum of what was booked")

    # --- result files ------------------------------------------------------------------------------------------------

    def _result(self, key: TaskKey, name: str, size: int | None, digest: str) -> Iterator[Finding]:
        """Compare a file with the record that names it."""
        if not name:
            return
        try:
            path = self._files.path(name)
        except StoreError as error:
            yield self._bad(named(key), str(error))
            return
        where = f"{path} of {named(key)}"
        try:
            found_size, found_digest = _digest(path)
        except OSError as error:
            yield Finding(where, f"cannot be read: {error.strerror}", _RESTORE_FILE)
            return
        self.results += 1
        self.result_bytes += found_size
        if size is not None and found_size != size:
            yield Finding(where, f"has {found_size} bytes instead of {size}", _RESTORE_FILE)
        elif digest and found_digest != digest:
            yield Finding(where, f"is damaged: its {size} bytes are not those that were saved", _RESTORE_FILE)

    def _leftovers(self, connection: sqlite3.Connection) -> Iterator[Finding]:
        """What no record names; only where every record could be read."""
        incoming = self._directory / INCOMING
        interrupted = {path.name: path for path in incoming.iterdir()} if incoming.is_dir() else {}
        for path in sorted(interrupted.values()):
            hint = "the next start of a node sweeps it"
            yield Finding(str(path), "is what an interrupted write left", hint, is_problem=False)
        if not self._are_tasks_read or not self._directory.is_dir():
            return
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name == INCOMING:
                    continue
                twin = interrupted.get(entry.name)
                if twin is not None and (is_mark(twin) or _is_same(twin, entry)):
                    continue
                if not is_result_named(connection, entry.name):
                    hint = "no node removes it: move it away when you do not know it either"
                    yield Finding(entry.path, "is named by no record", hint, is_problem=False)


def _is_same(twin: Path, entry: os.DirEntry[str]) -> bool:
    return os.path.samestat(twin.lstat(), entry.stat(follow_symlinks=False))


def _definitions(connection: sqlite3.Connection) -> dict[str, str]:
    """The statement that made each table and index, by what it is called."""
    rows = connection.execute("SELECT type || ' ' || name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")
    return dict(rows.fetchall())


def _digest(path: Path) -> tuple[int, str]:
    """The length of a file and the SHA-256 of its content.

    :raises OSError: when it cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is not a file")
    size, digest = 0, sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()
