"""A store for tests: in memory, kept over a restart, able to wait with its commits and to die."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred
from typing_extensions import override

from tasksubmit.stores.batches import run_batch, run_reads
from tasksubmit.stores.results import run_files
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.stores.threads import InlineWorker, Operation
from tasksubmit.wire.address import Address

T = TypeVar("T")
A = TypeVar("A")


class MemoryTaskStore(SQLiteTaskStore):
    """The SQLite store in memory, which keeps its tasks when it is closed, until it is told to `discard` them.

    Every Deferred has fired when it is returned, except while commits are held.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self._memory: sqlite3.Connection | None = None
        self._committing: _Committing | None = None

    @override
    def _open_memory(self, owner: Address | None) -> None:
        if self._memory is None:
            self._memory = sqlite3.connect(":memory:", isolation_level=None)
        self._prepare(self._memory, "memory:", owner)
        self._writer = self._committing = _Committing(partial(run_batch, self._memory), _nothing)
        self._reader = InlineWorker(partial(run_reads, self._memory), _nothing)
        self._files = InlineWorker(partial(run_files, self._results), _nothing)

    def hold_commits(self) -> None:
        """Have every change that is asked for from now on wait, uncommitted and unanswered, until `release_commits`."""
        assert self._committing is not None, "the store is not open"
        self._committing.is_held = True

    def release_commits(self) -> None:
        """Commit what waited, in the order in which it was asked for, and hold nothing more."""
        if self._committing is not None:
            self._committing.release()

    def crash(self) -> MemoryTaskStore:
        """Die as with the process: whoever still uses this store is never answered, and changes nothing.

        :returns: a store, not yet open, with what was committed.
        """
        successor = MemoryTaskStore()
        successor._memory, successor._results = self._memory, self._results
        self._memory = self._committing = None
        self._writer = self._reader = self._files = _Dead()
        return successor

    def discard(self) -> None:
        """Let go of the tasks; for a store that is closed."""
        if self._memory is not None:
            self._memory.close()
            self._memory = None


class _Committing(InlineWorker):
    """The writer; while it `is_held` calls wait."""

    is_held = False
    _waiting: tuple[Deferred[None], ...] = ()

    @override
    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        if not self.is_held:
            return super().run(operation, argument)
        turn: Deferred[None] = Deferred()
        self._waiting += (turn,)
        return turn.addCallback(lambda _: super(_Committing, self).run(operation, argument))

    def release(self) -> None:
        """Carry out what waits, then hold nothing."""
        while self._waiting:
            turn, *rest = self._waiting
            self._waiting = tuple(rest)
            turn.callback(None)
        self.is_held = False

    @override
    def close(self) -> Deferred[None]:
        self.release()
        return super().close()


class _Dead:
    """A worker that does nothing, and tells nobody."""

    def run(self, operation: Operation[A, T], argument: A) -> Deferred[T]:
        """See `Worker`."""
        return Deferred()

    def close(self) -> Deferred[None]:
        """See `Worker`."""
        return Deferred()


def _nothing() -> None:
    """Nothing is to be closed."""
