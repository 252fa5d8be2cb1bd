"""Group commit: what arrived while the last transaction was committed is run as one transaction.

Calls of the same operation are carried out together, with few statements on many rows: each statement costs a thread
the interpreter's lock, which a busy reactor gives back late. When an operation raises, all is undone, and each call is
carried out alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any, TypeVar

from twisted.python.failure import Failure

from tasksubmit.errors import StoreDamaged, StoreError, StoreUncertain
from tasksubmit.stores.migrations import DATABASE_ERRORS, damaged
from tasksubmit.stores.threads import Call, Operation, consecutive

T = TypeVar("T")
A = TypeVar("A")


class NotTogether(Exception):
    """Raised by an operation that finds that it cannot carry out its calls together, but each alone."""


Statement = Callable[[sqlite3.Connection], Any]
"""What needs not be carried out together with others; `each` is the operation."""


def each(connection: sqlite3.Connection, statements: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
    """The operation whose arguments are functions of the connection."""
    return [statement(connection) for statement in statements]


def read_in_turn(connection: sqlite3.Connection, statements: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
    """The operation of functions that only read, and see the changes before them and none behind.

    They run between transactions: after a read that finds damage, SQLite refuses the rest of a transaction.
    """
    return each(connection, statements)


def run_batch(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
    """Run ``calls`` in one transaction, but for reads in turn, and return the result, or the ``Failure``, of each.

    :raises sqlite3.Error: when it cannot be told what became of a transaction, or of the file.
    """
    results: list[Any] = []
    for is_read, group in groupby(calls, lambda call: call[0] is read_in_turn):
        results += (run_reads if is_read else _run_transaction)(connection, list(group))
    return results


def _run_transaction(connection: sqlite3.Connection, calls: Sequence[Call]) -> list[Any]:
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
    results: list[Any] = [None] * len(calls)
    for operation, places in _groups(calls):
        found = operation(connection, [calls[place][1] for place in places])
        if not connection.in_transaction:
            raise sqlite3.OperationalError("a statement ended the transaction")
        for place, result in zip(places, found, strict=True):
            results[place] = result
    return results


def _groups(calls: Sequence[Call]) -> Iterator[tuple[Operation[Any, Any], list[int]]]:
    """The places of the calls that are carried out together, in the order of each operation's first one.

    Those of different operations may change their order: they are about different tasks, since whoever changes a record
    has seen its creation committed. Only a statement, which may be about anything, keeps its place.
    """
    groups: dict[Operation[Any, Any], list[int]] = {}
    for place, (operation, _) in enumerate(calls):
        if operation is each:
            yield from groups.items()
            groups = {}
            yield each, [place]
        else:
            groups.setdefault(operation, []).append(place)
    yield from groups.items()


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
    for operation, arguments in consecutive(calls):
        results += _read_together(connection, operation, arguments)
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
    return Failure(_store_error(failure.value, name)) if isinstance(failure.value, DATABASE_ERRORS) else failure


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
    if type(error) in (sqlite3.DatabaseError, UnicodeDecodeError) or is_text_damaged:
        return StoreDamaged(damaged(name, error))
    kind = StoreUncertain if is_uncertain else StoreError
    return kind(f"{name} could not be used: {error}; check the disk and its free space, then try again")


def _is_harmless(error: Exception) -> bool:
    """Whether SQLite has undone the transaction, and all is as before: no space, or a lock that was not to be had."""
    return isinstance(error, sqlite3.OperationalError) and str(error).startswith(
        ("database or disk is full", "database is locked")
    )


class Connected:
    """A connection, and what runs batches on it: when that raises, the connection is not trusted again.

    :param run: runs the calls of a batch on a connection.
    :param reopen: connects again, and raises when there is nothing to be trusted; None to what is in memory alone.
    :param is_writing: whether a batch that raises may have changed something.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        run: Callable[[sqlite3.Connection, Sequence[Call]], list[Any]],
        reopen: Callable[[], sqlite3.Connection] | None = None,
        is_writing: bool = True,
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._name = _name(connection)
        self._run = run
        self._reopen = reopen
        self._is_writing = is_writing

    def run(self, calls: Sequence[Call]) -> list[Any]:
        """Run a batch; returns the result, or the ``Failure``, of each call."""
        try:
            if self._connection is None and self._reopen is not None:
                self._connection = self._reopen()
            assert self._connection is not None
            return self._run(self._connection, calls)
        except Exception as error:
            is_begun = self._reopen is not None and self._connection is not None
            if is_begun:
                self.close()
            return [Failure(_store_error(error, self._name, is_begun and self._is_writing))] * len(calls)

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()
