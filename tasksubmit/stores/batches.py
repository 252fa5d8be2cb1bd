"""Group commit: one thread owns a connection and runs whatever arrived meanwhile as one transaction.

What is asked is an operation and an argument. Calls of the same operation that follow each other are carried out
together, with few statements on many rows: each statement costs a thread the interpreter's lock, which a busy reactor
gives back late.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from tasksubmit.errors import StoreClosed, StoreDamaged, StoreError, StoreUncertain
from tasksubmit.stores.migrations import damaged

T = TypeVar("T")
A = TypeVar("A")
Operation = Callable[[sqlite3.Connection, Sequence[A]], Sequence[T | Failure]]
"""Carries out calls of one kind: takes their arguments, and returns the result, or the ``Failure``, of each.

When it raises instead, all is undone, and it is called again with each argument alone."""


class NotTogether(Exception):
    """Raised by an operation that finds that it cannot carry out its calls together, but each alone."""


Statement = Callable[[sqlite3.Connection], Any]
"""What needs not be carried out together with others; `each` is the operation."""

Call = tuple[Operation[Any, Any], Any]
_Item = tuple[Operation[Any, Any], Any, "Deferred[Any]"]

MAX_BATCH = 1024
"""Operations in one transaction; enough to make the sync cheap, few enough to keep the first of them from waiting."""


def each(connection: sqlite3.Connection, statements: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
    """The operation whose arguments are functions of the connection."""
    return [statement(connection) for statement in statements]


class Worker(Protocol):
    """Runs operations on one connection, in the order in which they were given."""

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """Fires with what ``operation`` returned once it is committed, or fails with what it raised, undone."""

    def close(self) -> Deferred[None]:
        """Finish what was given, refuse more with `StoreClosed`, close the connection; then fires."""


def run_batch(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
    """Run ``calls`` in one transaction and return the result, or the ``Failure``, of each.

    When the commit fails, all of them do. When one of them fails all is undone, and each is run again in a savepoint of
    its own, so that it spoils no other: savepoints cost too much to make them for calls that succeed.

    :raises sqlite3.Error: when it cannot be told what became of the transaction, or of the file.
    """
    try:
        if connection.in_transaction:
            connection.rollback()  # what could not be rolled back at once, last time
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = _run_together(connection, calls)
        except Exception:
            if not connection.in_transaction:
                raise  # the disk is full, for one: SQLite has undone all of it
            connection.rollback()
            connection.execute("BEGIN IMMEDIATE")
            results = [_run_alone(connection, *call) for call in calls]
        connection.execute("COMMIT")
    except Exception as error:
        with suppress(sqlite3.Error):
            connection.rollback()
        if not _is_harmless(error):
            raise
        failure = Failure(_store_error(error, _name(connection)))
        return [failure] * len(calls)
    return results


def _run_together(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
    results: list[Any] = []
    for operation, group in groupby(calls, itemgetter(0)):
        arguments = [argument for _, argument in group]
        for some in [[argument] for argument in arguments] if operation is each else [arguments]:
            results += operation(connection, some)
            if not connection.in_transaction:
                raise sqlite3.OperationalError("a statement ended the transaction")
    return results


def _run_alone(connection: sqlite3.Connection, operation: Operation[A, T], argument: A) -> Any:
    connection.execute("SAVEPOINT operation")
    try:
        result: Any = operation(connection, [argument])[0]
    except Exception:
        if not connection.in_transaction:
            raise
        result = _failure(_name(connection))
        connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")
    return result


def run_reads(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
    """Run ``calls``, which only read, and return the result, or the ``Failure``, of each."""
    results: list[Any] = []
    for operation, group in groupby(calls, itemgetter(0)):
        results += _read_together(connection, operation, [argument for _, argument in group])
    return results


def _read_together(connection: sqlite3.Connection, operation: Operation[A, T], arguments: list[A]) -> Sequence[Any]:
    try:
        return operation(connection, arguments)
    except Exception:
        if len(arguments) == 1:
            return [_failure(_name(connection))]
    return [result for argument in arguments for result in _read_together(connection, operation, [argument])]


def _failure(name: str) -> Failure:
    """The current exception; one of SQLite's becomes a `StoreError` that names the database."""
    failure = Failure()
    return Failure(_store_error(failure.value, name)) if isinstance(failure.value, sqlite3.Error) else failure


def _name(connection: sqlite3.Connection) -> str:
    """The file that a connection is to."""
    with suppress(sqlite3.Error):
        return str(connection.execute("PRAGMA database_list").fetchone()[2]) or "memory:"
    return "the database"


def _store_error(error: BaseException, name: str, is_uncertain: bool = False) -> StoreError:
    if isinstance(error, StoreError):
        return error
    is_text_damaged = str(error).startswith("Could not decode to UTF-8")
    # Its subclasses are otherwise about what was asked of a sound database.
    if type(error) is sqlite3.DatabaseError or is_text_damaged:
        return StoreDamaged(damaged(name, error))
    kind = StoreUncertain if is_uncertain else StoreError
    return kind(f"{name} could not be used: {error}; check the disk and its free space, then try again")


def _is_harmless(error: Exception) -> bool:
    """Whether SQLite has undone the transaction, and all is as before: no space, or a lock that was not to be had."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(
        ("database or disk is full", "database is locked")
    )


class ThreadWorker:
    """A `Worker` in a thread of its own; the results of a batch come back to the reactor in one call.

    :param run: runs the operations of a batch; when it raises, the connection is closed and not trusted again.
    :param reopen: connects again, and raises when there is nothing to be trusted.
    """

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        run: Callable[[sqlite3.Connection, Sequence[Call]], list[Any]],
        reactor: IReactorFromThreads,
        reopen: Callable[[], sqlite3.Connection],
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._name = _name(connection)
        self._run = run
        self._reopen = reopen
        self._reactor = reactor
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._closed: Deferred[None] | None = None
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """See `Worker`."""
        if self._closed is not None:
            return fail(StoreClosed("the store is closed"))
        done: Deferred[T] = Deferred()
        self._queue.put((operation, argument, done))
        return done

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        if self._closed is None:
            self._closed = Deferred()
            self._queue.put(None)
        return self._closed

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            last = self._fill(batch)
            try:
                if self._connection is None:
                    self._connection = self._reopen()
                results = self._run(self._connection, [(operation, argument) for operation, argument, _ in batch])
            except Exception as error:  # whatever it is, nobody may wait for ever
                is_begun = self._connection is not None
                self._close_connection()
                results = [Failure(_store_error(error, self._name, is_begun))] * len(batch)
            self._reactor.callFromThread(_fire, batch, results)
            if last:
                break
        self._close_connection()
        assert self._closed is not None
        self._reactor.callFromThread(self._closed.callback, None)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _fill(self, batch: list[_Item]) -> bool:
        """Take what else has arrived; whether the end of the queue was among it."""
        while len(batch) < MAX_BATCH:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return False
            if item is None:
                return True
            batch.append(item)
        return False


def _fire(batch: list[_Item], results: list[Any]) -> None:
    for (_, _, done), result in zip(batch, results, strict=True):
        done.callback(result)  # a Failure starts the errback chain


class InlineWorker:
    """A `Worker` without a thread, for tests: each operation is a batch of one, done before `run` returns."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        run: Callable[[sqlite3.Connection, Sequence[Call]], list[Any]],
    ) -> None:
        self._connection = connection
        self._run = run
        self._is_closed = False

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """See `Worker`."""
        if self._is_closed:
            return fail(StoreClosed("the store is closed"))
        try:
            [result] = self._run(self._connection, [(operation, argument)])
        except Exception as error:
            return fail(_store_error(error, _name(self._connection)))
        return succeed(result) if not isinstance(result, Failure) else fail(result)

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.close()
        return succeed(None)
