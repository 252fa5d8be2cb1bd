"""The SQLite store: one state directory, one writer thread with group commit, one reader thread."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from tasksubmit.errors import ConfigurationError, StoreClosed, StoreDamaged, StoreError
from tasksubmit.interfaces import SHIFTED, DiskSpace, ITaskStore, PeerLoad, ReturnedSpace, SavedResult
from tasksubmit.lifecycle.change import Change, Delivery, DeliveryKind, OwedBooking, TaskEvent, Tombstone
from tasksubmit.lifecycle.table import Deadline, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.permissions import refuse_writable
from tasksubmit.protocol.arguments import checked_later
from tasksubmit.stores import changes, deliveries, disk, events, ledger, queries, retention, space, waits
from tasksubmit.stores.batches import Connected, each, read_in_turn, run_batch, run_reads
from tasksubmit.stores.migrations import DATABASE_ERRORS, damaged, migrate, schema_steps
from tasksubmit.stores.results import MemoryResultFiles, ResultFiles, each_file, run_files, save
from tasksubmit.stores.threads import BatchThread, InlineWorker, Operation, Worker
from tasksubmit.stores.wal import fault_of_log
from tasksubmit.validation import (
    COUNT,
    FLAG,
    INTEGER,
    MOMENT,
    SIZE,
    TEXT,
    Kind,
    instance_of,
    optional,
    to_path_or_none,
    to_texts,
)
from tasksubmit.wire.address import Address

T = TypeVar("T")
A = TypeVar("A")

DATABASE = "tasks.db"
LOCK = "lock"
RESULTS = "results"
WORK = "work"

OLDEST_SQLITE = (3, 33)
"""Of August 2020: the first that changes many rows to different values with one statement."""

_BUSY_SECONDS = 5.0
"""For how long SQLite waits for a lock that another connection has."""

_LOG_BYTES = 16 * 1024 * 1024
"""A log that is longer takes too long to look through at a start; ``tasksubmit check`` does it."""


_KEY = instance_of(TaskKey, "a TaskKey, such as task.key")
_ADDRESS = instance_of(Address)
_FILTERS: dict[str, Kind[Any]] = {
    "side": optional(instance_of(Side)),
    "status": optional(instance_of(TaskStatus)),
    "peer": optional(_ADDRESS),
    "outcome": optional(TEXT),
    "since": optional(MOMENT),
    "stuck_before": optional(MOMENT),
}
_REACTOR: Kind[Any] = Kind(
    "the reactor, to which the threads of a store in a directory hand their answers",
    lambda value: IReactorTime.providedBy(value) or callable(getattr(value, "callFromThread", None)),
)


@implementer(ITaskStore)
class SQLiteTaskStore:
    """Tasks in ``tasks.db`` and result files in ``results/`` of one state directory, which it locks while open."""

    _log = Logger()

    def __init__(
        self,
        directory: Path | str | None,
        reactor: Any = None,
        *,
        schema: Sequence[str] | None = None,
    ) -> None:
        """
        :param directory: the state directory, made if it is missing; ``None`` keeps everything in memory, and uses no
            thread: every Deferred has fired when it is returned.
        :param reactor: see `tasksubmit.stores.threads.Reactor`; where the threads' answers go; needed with a directory.
        :param schema: the steps of the schema, if not this version's own.
        """
        directory = to_path_or_none(directory, "directory")
        if directory is not None or reactor is not None:
            _REACTOR.check("reactor", reactor)
        self._directory = directory
        self.work_directory = None if directory is None else directory / WORK
        self._reactor = reactor
        self._schema = schema_steps() if schema is None else to_texts(schema, "schema")
        self._results = MemoryResultFiles() if directory is None else ResultFiles(directory / RESULTS)
        self._lock: int | None = None
        self._writer: Worker | None = None
        self._reader: Worker | None = None
        self._files: Worker | None = None

    def open(self, owner: Address | None = None) -> None:
        """See `ITaskStore.open`; makes the state directory with mode 0700.

        :raises StoreError: see `ITaskStore.open`; other accounts can write the directory, or what is in it.
        """
        if self._writer is not None:
            return
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            oldest = ".".join(map(str, OLDEST_SQLITE))
            raise StoreError(
                f"SQLite {sqlite3.sqlite_version} is too old: install {oldest} or newer, or a newer Python"
            )
        if self._directory is None:
            self._open_memory(owner)
        else:
            self._open_directory(self._directory, owner)

    def _open_memory(self, owner: Address | None) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        self._prepare(connection, "memory:", owner)
        database = Connected(connection, run_batch)
        self._writer = InlineWorker(database.run, database.close)
        self._reader = InlineWorker(partial(run_reads, connection), _nothing)
        self._files = InlineWorker(partial(run_files, self._results), _nothing)

    def _log_limits(self) -> None:
        if limits := str(self._results.limits):
            self._log.warn(
                "the disk of the results directory has limits: {limits}; results whose names it does not accept are"
                " kept as <task_id>.<ext>, and records keep their names",
                limits=limits,
            )

    def _prepare(self, connection: sqlite3.Connection, name: str, owner: Address | None) -> None:
        version = migrate(connection, name, self._schema)
        if 0 < version < len(self._schema):
            self._log.info("brought {name} from schema {old} to {new}", name=name, old=version, new=len(self._schema))
        if owner is not None:
            queries.own_by(connection, name, owner)

    def _open_directory(self, directory: Path, owner: Address | None) -> None:
        path = directory / DATABASE
        try:
            with ExitStack() as undo:
                disk.make_directory(directory)
                for name in ("", DATABASE, f"{DATABASE}-wal", LOCK, RESULTS, WORK):
                    refuse_writable(directory / name)
                self._lock = disk.lock(directory / LOCK)
                undo.callback(self._unlock)
                refuse_losses(path)
                disk.make_file(path)
                disk.sync_log(path)
                connection = _connect(path)
                undo.callback(connection.close)
                self._prepare(connection, str(path), owner)  # before anything is written: it may be another's
                _write_safely(connection)
                self._results.open(partial(queries.is_result_named, connection))
                self._log_limits()
                disk.sync_directory(directory)
                reader = _connect(path)
                undo.pop_all()
        except ConfigurationError as error:
            raise StoreError(f"the state directory cannot be trusted: {error}") from error
        except OSError as error:
            raise StoreError(f"the state directory {directory} cannot be used: {error.strerror}") from error
        except sqlite3.OperationalError as error:
            raise StoreError(f"{path} cannot be used: {error}") from error
        except DATABASE_ERRORS as error:
            raise StoreDamaged(damaged(str(path), error)) from error
        writing = Connected(connection, run_batch, partial(_reopen, path))
        reading = Connected(reader, run_reads, partial(_connect, path), is_writing=False)
        self._writer = BatchThread("tasksubmit-writer", writing.run, writing.close, self._reactor)
        self._reader = BatchThread("tasksubmit-reader", reading.run, reading.close, self._reactor)
        self._files = BatchThread("tasksubmit-files", partial(run_files, self._results), _nothing, self._reactor)

    async def _close(self) -> None:
        if self._writer is None:
            return
        assert self._reader is not None and self._files is not None
        databases = self._writer, self._reader
        self._writer = self._reader = None
        for worker in databases:
            await worker.close()
        files, self._files = self._files, None  # last: what was written may have left something to do with files
        await files.close()
        self._unlock()

    def close(self) -> Deferred[None]:
        """See `ITaskStore.close`."""
        return Deferred.fromCoroutine(self._close())

    def confirm(self) -> Deferred[None]:
        """See `ITaskStore.confirm`; after a failed commit, the next use of the writer's connection is a new one."""
        return self._write(_nothing_to_write)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # --- writing -------------------------------------------------------------------------------------------------

    def _write(self, statement: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        return _run(self._writer, each, statement)

    def create(self, task: Task, owed: Sequence[Delivery]) -> Deferred[tuple[Task, bool]]:
        """See `ITaskStore.create`."""
        return _run(self._writer, changes.create_tasks, (task, owed))

    def apply(self, change: Change) -> Deferred[Task]:
        """See `ITaskStore.apply`."""
        done = _run(self._writer, changes.apply_changes, change)
        before, after = change.before, change.after
        for name, old in ((after.result_file, before.result_file), (after.late_result_file, before.late_result_file)):
            if name and name != old:
                done.addCallback(self._settle_result, name)
        return done

    def postpone(self, delivery: Delivery, event: TaskEvent, ready_at: datetime, error: str) -> Deferred[None]:
        """See `ITaskStore.postpone`."""
        return self._write(lambda connection: queries.postpone_delivery(connection, delivery, event, ready_at, error))

    def hasten(self, now: datetime) -> Deferred[None]:
        """See `ITaskStore.hasten`."""
        return self._write(lambda connection: deliveries.hasten(connection, now))

    def limit_waits(self, now: datetime) -> Deferred[None]:
        """See `ITaskStore.limit_waits`."""
        return self._write(lambda connection: waits.limit_waits(connection, now))

    def shift_times(self, by: timedelta, now: datetime | None = None) -> Deferred[None]:
        """See `ITaskStore.shift_times`."""

        def shift(connection: sqlite3.Connection) -> None:
            queries.shift_times(connection, by, now)
            queries.add_to_note(connection, SHIFTED, by // timedelta(milliseconds=1))

        return self._write(shift)

    def end_bound_leases(self) -> Deferred[None]:
        """See `ITaskStore.end_bound_leases`."""
        return self._write(queries.end_bound_leases)

    def forget(self, task: Task, now: datetime) -> Deferred[bool]:
        """See `ITaskStore.forget`."""
        return Deferred.fromCoroutine(self._forget(task, now))

    async def _forget(self, task: Task, now: datetime) -> bool:
        names = [name for name in (task.result_file, task.late_result_file) if name]
        await self._with_files(lambda files: files.condemn, names)
        # When this fails it is not known whether the record went: the next open looks.
        is_forgotten = await self._write(lambda connection: retention.forget(connection, task, now))
        await self._with_files(lambda files: files.discard if is_forgotten else files.settle, names)
        return is_forgotten

    def leave_tombstone(self, tombstone: Tombstone) -> Deferred[Task | Tombstone | None]:
        """See `ITaskStore.leave_tombstone`."""
        return self._write(lambda connection: retention.leave_tombstone(connection, tombstone))

    def drop_tombstones(self, before: datetime, limit: int) -> Deferred[int]:
        """See `ITaskStore.drop_tombstones`."""
        return self._write(lambda connection: retention.drop_tombstones(connection, before, limit))

    @checked_later(max_bytes=SIZE)
    def return_space(self, max_bytes: int) -> Deferred[ReturnedSpace]:
        """See `ITaskStore.return_space`."""
        return Deferred.fromCoroutine(self._return_space(max_bytes))

    async def _return_space(self, max_bytes: int) -> ReturnedSpace:
        left = await self._write(lambda connection: space.return_pages(connection, max_bytes))
        if left.returned_bytes:
            await _run(self._writer, read_in_turn, space.checkpoint)  # which cannot be made inside a transaction
        return left

    def remember_features(self, peer: Address, features: frozenset[str]) -> Deferred[None]:
        """See `ITaskStore.remember_features`."""
        return self._write(lambda connection: queries.remember_features(connection, peer, features))

    @checked_later(name=TEXT, text=TEXT)
    def keep_note(self, name: str, text: str) -> Deferred[None]:
        """See `ITaskStore.keep_note`."""
        return self._write(lambda connection: queries.keep_note(connection, name, text))

    def settle_bookings(self, ids: Collection[int]) -> Deferred[None]:
        """See `ITaskStore.settle_bookings`."""
        return self._write(lambda connection: ledger.settle_bookings(connection, ids))

    # --- reading -------------------------------------------------------------------------------------------------

    def _read(self, statement: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        return _run(self._reader, each, statement)

    @checked_later(key=_KEY)
    def get(self, key: TaskKey) -> Deferred[Task | None]:
        """See `ITaskStore.get`."""
        return _run(self._reader, queries.get_tasks, key)

    @checked_later(task_id=TEXT, peer=optional(_ADDRESS))
    def find(self, task_id: str, peer: Address | None = None) -> Deferred[list[Task]]:
        """See `ITaskStore.find`."""
        return _run(self._reader, queries.find_tasks, (task_id, peer))

    @checked_later(**_FILTERS, before=optional(SIZE), limit=COUNT, after=optional(SIZE), is_oldest_first=FLAG)
    def list_tasks(
        self,
        *,
        side: Side | None = None,
        status: TaskStatus | None = None,
        peer: Address | None = None,
        before: int | None = None,
        limit: int = 100,
        outcome: str | None = None,
        since: datetime | None = None,
        stuck_before: datetime | None = None,
        after: int | None = None,
        is_oldest_first: bool = False,
    ) -> Deferred[list[Task]]:
        """See `ITaskStore.list_tasks`."""
        return self._read(
            lambda connection: queries.list_tasks(
                connection,
                side,
                status,
                peer,
                before,
                limit,
                outcome=outcome,
                since=since,
                stuck_before=stuck_before,
                after=after,
                is_oldest_first=is_oldest_first,
            )
        )

    @checked_later(**_FILTERS, limit=COUNT)
    def count_tasks(
        self,
        *,
        limit: int,
        side: Side | None = None,
        status: TaskStatus | None = None,
        peer: Address | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        stuck_before: datetime | None = None,
    ) -> Deferred[tuple[int, bool]]:
        """See `ITaskStore.count_tasks`."""
        return self._read(
            lambda connection: queries.count_tasks(connection, limit, side, status, peer, outcome, since, stuck_before)
        )

    @checked_later(task_id=TEXT, peer=optional(_ADDRESS))
    def tombstones(self, task_id: str, peer: Address | None = None) -> Deferred[list[Tombstone]]:
        """See `ITaskStore.tombstones`."""
        return self._read(lambda connection: retention.tombstones(connection, task_id, peer))

    @checked_later(key=_KEY)
    def recall(self, key: TaskKey) -> Deferred[Task | Tombstone | None]:
        """See `ITaskStore.recall`."""
        return _run(self._reader, queries.recall, key)

    def ended(
        self, before: datetime, limit: int, *, min_result_bytes: int = 0, peer: Address | None = None
    ) -> Deferred[list[Task]]:
        """See `ITaskStore.ended`."""
        return self._read(lambda connection: retention.ended(connection, before, limit, min_result_bytes, peer))

    def result_bytes(self) -> Deferred[dict[Address, int]]:
        """See `ITaskStore.result_bytes`."""
        return self._read(retention.result_bytes)

    @checked_later(task=instance_of(Task))
    def events_of(self, task: Task) -> Deferred[list[TaskEvent]]:
        """See `ITaskStore.events_of`."""
        return self._read(lambda connection: events.of_task(connection, task.number))

    @checked_later(limit=COUNT, after=optional(INTEGER), before=optional(INTEGER))
    def queue(self, limit: int, *, after: int | None = None, before: int | None = None) -> Deferred[list[Task]]:
        """See `ITaskStore.queue`."""
        return self._read(lambda connection: queries.queue(connection, limit, after, before))

    def put_back(self, limit: int) -> Deferred[list[Task]]:
        """See `ITaskStore.put_back`."""
        return self._read(lambda connection: queries.put_back(connection, limit))

    def disk_space(self) -> Deferred[DiskSpace | None]:
        """See `ITaskStore.disk_space`."""
        directory = self._directory
        return self._read(lambda _: None if directory is None else disk.space(directory))

    def passed_deadlines(self, limits: Sequence[tuple[Deadline, datetime]]) -> Deferred[list[Deadline]]:
        """See `ITaskStore.passed_deadlines`."""
        return self._read(lambda connection: queries.passed_deadlines(connection, limits))

    def due(self, deadline: Deadline, before: datetime, limit: int) -> Deferred[list[Task]]:
        """See `ITaskStore.due`."""
        return self._read(lambda connection: queries.due_tasks(connection, deadline, before, limit))

    def ready_deliveries(
        self,
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        """See `ITaskStore.ready_deliveries`."""
        return self._read_with_tasks(
            lambda connection: deliveries.ready(connection, peer, now, limit, skip, kinds, sides)
        )

    def aged_deliveries(self, before: datetime, limit: int) -> Deferred[list[tuple[Delivery, Task]]]:
        """See `ITaskStore.aged_deliveries`."""
        return self._read_with_tasks(lambda connection: deliveries.aged(connection, before, limit))

    def _read_with_tasks(
        self, find: Callable[[sqlite3.Connection], list[Delivery]]
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        return self._read(lambda connection: queries.with_tasks(connection, find(connection)))

    def next_delivery(
        self,
        peer: Address,
        kinds: Collection[DeliveryKind] = tuple(DeliveryKind),
        sides: Collection[Side] = tuple(Side),
    ) -> Deferred[datetime | None]:
        """See `ITaskStore.next_delivery`."""
        return self._read(lambda connection: deliveries.next_at(connection, peer, kinds, sides))

    def owed_peers(self) -> Deferred[list[Address]]:
        """See `ITaskStore.owed_peers`."""
        return self._read(deliveries.owed_peers)

    @checked_later(key=_KEY)
    def deliveries_of(self, key: TaskKey) -> Deferred[list[Delivery]]:
        """See `ITaskStore.deliveries_of`."""
        return self._read(lambda connection: deliveries.of_task(connection, key))

    def load(self) -> Deferred[list[PeerLoad]]:
        """See `ITaskStore.load`."""
        return _run(self._writer, read_in_turn, queries.load)

    @checked_later(name=TEXT)
    def note(self, name: str) -> Deferred[str]:
        """See `ITaskStore.note`."""
        return self._read(lambda connection: queries.note(connection, name))

    def scores(self) -> Deferred[list[tuple[Address, int]]]:
        """See `ITaskStore.scores`."""
        return self._read(ledger.scores)

    @checked_later(address=_ADDRESS)
    def score(self, address: Address) -> Deferred[int]:
        """See `ITaskStore.score`."""
        return self._read(lambda connection: ledger.score(connection, address))

    def owed_bookings(self, limit: int) -> Deferred[list[OwedBooking]]:
        """See `ITaskStore.owed_bookings`."""
        return self._read(lambda connection: ledger.owed_bookings(connection, limit))

    def peer_features(self) -> Deferred[dict[Address, frozenset[str]]]:
        """See `ITaskStore.peer_features`."""
        return self._read(queries.peer_features)

    # --- result files --------------------------------------------------------------------------------------------

    def _with_files(
        self, action: Callable[[ResultFiles], Callable[[str], None]], names: Sequence[str]
    ) -> Deferred[None]:
        def act(files: ResultFiles) -> None:
            for name in names:
                action(files)(name)

        return _run(self._files, each_file, act)

    def save_result(self, task_id: str, filename: str, content: bytes) -> Deferred[SavedResult]:
        """See `ITaskStore.save_result`."""
        return _run(self._files, save, (task_id, filename, content))

    def _settle_result(self, task: Task, name: str) -> Task:
        # The change is committed, whatever becomes of this: what is not settled now is at the next open.
        self._with_files(lambda files: files.settle, [name]).addErrback(
            lambda failure: self._log.failure(
                "the result {name} was not settled", failure, name=name, task_id=task.task_id
            )
        )
        return task

    def discard_result(self, name: str) -> Deferred[None]:
        """See `ITaskStore.discard_result`."""
        return self._with_files(lambda files: files.discard, [name])

    @checked_later(name=TEXT, digest=TEXT)
    def read_result(self, name: str, digest: str = "") -> Deferred[bytes]:
        """See `ITaskStore.read_result`."""
        return _run(self._files, each_file, lambda files: files.read(name, digest))


def _nothing() -> None:
    """There is nothing to let go of."""


def _nothing_to_write(connection: sqlite3.Connection) -> None:
    """The statement of a transaction that only finds out that there can be one."""


def _run(worker: Worker | None, operation: Operation[A, T], argument: A) -> Deferred[T]:
    return _refuse() if worker is None else worker.run(operation, argument)


def _refuse() -> Deferred[T]:
    return fail(StoreClosed("the store is not open"))


def refuse_losses(path: Path) -> None:
    """Find the damage that SQLite would pass over, and whose traces it would remove.

    :raises StoreDamaged: when something was lost.
    """
    # To SQLite, a single byte is none. The results directory is made after the tables.
    results = path.parent / RESULTS
    if path.exists() and path.stat().st_size <= 1 and results.exists():
        raise StoreDamaged(damaged(str(path), "it is empty, and was not"))
    if not path.exists() and results.exists() and any(entry.is_file() for entry in results.iterdir()):
        raise StoreDamaged(
            f"{path} is gone, and {results} is not: restore both from one backup, or move that away to start empty"
        )
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size <= _LOG_BYTES and (fault := fault_of_log(log)):
        raise StoreDamaged(
            f"{log} {fault}, so that what was done last is lost: restore it and {path.name} from one backup, or move it"
            " away to go on without"
        )


def _connect(path: Path) -> sqlite3.Connection:
    # Once open, each connection is used by its worker's thread alone.
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _write_safely(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")  # what savepoints need is small, and need not be a file
    # Where SQLite overwrites what is deleted, as Debian's does, a full disk has no room for deleting anything long.
    connection.execute("PRAGMA secure_delete = FAST")
    # A savepoint that is undone after its pages went to the log makes SQLite 3.40 lose what is committed later.
    connection.execute("PRAGMA cache_spill = OFF")


def _reopen(path: Path) -> sqlite3.Connection:
    """The database again, after a write to it failed: to be written on only if it is whole."""
    if not path.exists():
        raise StoreDamaged(damaged(str(path), "it is gone"))
    connection = _connect(path)
    try:
        _write_safely(connection)
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise StoreDamaged(damaged(str(path), found))
        _resolve_doubt(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _resolve_doubt(connection: sqlite3.Connection, path: Path) -> None:
    """Have the database file hold, durably, what reads show, and the log nothing else.

    A commit that failed may have left its frames in the log: readers do not see them, but a restart, which reads the
    log from the file, would. And a sync that has failed may report success the next time without having written. A
    checkpoint copies what readers see into the database file and syncs that; then the log is cut to nothing.

    :raises StoreError: when another program reads the database, so that the log is still needed.
    """
    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StoreError(
            f"{path} cannot be written to after a failure while another program reads it: end its transaction"
        )
    disk.sync_log(path)
