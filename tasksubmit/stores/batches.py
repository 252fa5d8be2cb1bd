"""Group commit: one thread owns a connection and runs whatever arrived meanwhile as one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from tasksubmit.errors import StoreClosed, StoreError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
_Item = tuple[Operation, "Deferred[Any]"]

MAX_BATCH = 1024
"""Operations in one transaction; enough to make the sync cheap, few enough to keep the first of them from waiting."""


class Worker(Protocol):
    """Runs operations on one connection, in the order in which they were given."""

    def run(self, operation: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Fires with what ``operation`` returned once it is committed, or fails with what it raised, undone."""

    def close(self) -> Deferred[None]:
        """Finish what was given, refuse more with `StoreClosed`, close the connection; then fires."""


def run_batch(connection: sqlite3.Connection, operations: list[Operation]) -> list[Any]:
    """Run ``operations`` in one transaction and return the result, or the ``Failure``, of each.

    Each runs in a savepoint of its own, so one that fails spoils no other; when the commit fails, all of them do.
    """
    results: list[Any] = []
    execute = connection.execute
    try:
        if connection.in_transaction:
            connection.rollback()  # what could not be rolled back at once, last time
        execute("BEGIN IMMEDIATE")
        for operation in operations:
            execute("SAVEPOINT operation")
            try:
                results.append(operation(connection))
            except Exception:
                if not connection.in_transaction:
                    raise  # the disk is full, for one: SQLite has undone all of it
                results.append(_failure())
                execute("ROLLBACK TO operation")
            execute("RELEASE operation")
        execute("COMMIT")
    except Exception as error:
        with suppress(sqlite3.Error):
            connection.rollback()
        failure = Failure(_store_error(error))
        return [failure] * len(operations)
    return results


def run_reads(connection: sqlite3.Connection, operations: list[Operation]) -> list[Any]:
    """Run ``operations``, which only read, and return the result, or the ``Failure``, of each."""
    results: list[Any] = []
    for operation in operations:
        try:
            results.append(operation(connection))
        except Exception:
            results.append(_failure())
    return results


def _failure() -> Failure:
    """The current exception; one of SQLite's becomes a `StoreError`."""
    failure = Failure()
    return Failure(_store_error(failure.value)) if isinstance(failure.value, sqlite3.Error) else failure


def _store_error(error: Exception) -> StoreError:
    return StoreError(f"the database could not do it: {error}; check the disk, then try again")


class ThreadWorker:
    """A `Worker` in a thread of its own; the results of a batch come back to the reactor in one call."""

    def __init__(
        self,
        name: str,
        connection: sqlite3.Connection,
        run: Callable[[sqlite3.Connection, list[Operation]], list[Any]],
        reactor: IReactorFromThreads,
    ) -> None:
        self._connection = connection
        self._run = run
        self._reactor = reactor
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._closed: Deferred[None] | None = None
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, operation: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """See `Worker`."""
        if self._closed is not None:
            return fail(StoreClosed("the store is closed"))
        done: Deferred[T] = Deferred()
        self._queue.put((operation, done))
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
                results = self._run(self._connection, [operation for operation, _ in batch])
            except Exception as error:  # whatever it is, nobody may wait for ever
                results = [Failure(_store_error(error))] * len(batch)
            self._reactor.callFromThread(_fire, batch, results)
            if last:
                break
        with suppress(sqlite3.Error):
            self._connection.close()
        assert self._closed is not None
        self._reactor.callFromThread(self._closed.callback, None)

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
    for (_, done), result in zip(batch, results, strict=True):
        done.callback(result)  # a Failure starts the errback chain


class InlineWorker:
    """A `Worker` without a thread, for tests: each operation is a batch of one, done before `run` returns."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        run: Callable[[sqlite3.Connection, list[Operation]], list[Any]],
    ) -> None:
        self._connection = connection
        self._run = run
        self._is_closed = False

    def run(self, operation: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """See `Worker`."""
        if self._is_closed:
            return fail(StoreClosed("the store is closed"))
        [result] = self._run(self._connection, [operation])
        return succeed(result) if not isinstance(result, Failure) else fail(result)

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        if not self._is_closed:
            self._is_closed = True
            self._connection.close()
        return succeed(None)
