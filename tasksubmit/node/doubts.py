"""Tasks whose record was written by a commit that may or may not have happened.

A commit that fails with `StoreUncertain` leaves it unknown whether the change holds. No peer may be answered about such
a task until that is known (wire.md, section 6). The way out needs no restart: `ITaskStore.confirm` is retried until it
succeeds; what reads show is the truth then, and the listeners look at it again. The invariant: while a task is in
doubt, a step that will end the doubt is scheduled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from tasksubmit.errors import StoreUncertain
from tasksubmit.interfaces import ITaskStore
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.periodic import Retrier
from tasksubmit.wire.address import Address

Listener = Callable[[Collection[TaskKey]], None]
"""Called with the tasks that are in doubt no longer, which may be none when a write about no task was in doubt."""

_STEP = "confirm what is on disk"


class Doubts:
    """The keys of tasks in doubt, and the retried step that ends their doubt."""

    _log = Logger()

    def __init__(self, store: ITaskStore, retrier: Retrier) -> None:
        self._store = store
        self._retrier = retrier
        self._keys: set[TaskKey] = set()
        self._is_confirming = False
        self._listeners: list[Listener] = []

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._keys

    def check(self, task_id: str, peer: Address | None) -> None:
        """Refuse to handle a message about a task in doubt: no answer to it would be true.

        :param peer: the other party of the task; None if that is not known.
        :raises StoreUncertain: a task with this id is in doubt.
        """
        if any(key.task_id == task_id and peer in (None, key.peer) for key in self._keys):
            raise StoreUncertain(f"task {task_id} is in doubt: it is unknown whether its last change is on disk")

    def on_resolved(self, listener: Listener) -> None:
        """Have ``listener`` called each time that a doubt has ended."""
        self._listeners.append(listener)

    def note(self, failure: Failure, key: TaskKey | None = None) -> Failure:
        """Note the failure of a write about a task, or about none, as an errback; returns the failure."""
        if failure.check(StoreUncertain):
            self.add(key)
        return failure

    def add(self, key: TaskKey | None = None) -> None:
        """Note that a write about a task, or about none, failed with `StoreUncertain`."""
        if key is not None:
            self._keys.add(key)
        if not self._is_confirming:
            self._is_confirming = True
            # Later: all writes of the batch have failed by then, and their callers have noted what they leave undone.
            self._retrier.run(_STEP, self._confirm, is_immediate=False)

    def clear(self) -> None:
        """Forget every doubt: the store was opened, which resolves them."""
        self._keys.clear()
        self._is_confirming = False

    def _confirm(self) -> Deferred[None]:
        return self._store.confirm().addCallback(self._resolve)

    def _resolve(self, _: None) -> None:
        # A write that fails meanwhile was asked for before: this confirms it as well.
        keys, self._keys = self._keys, set()
        self._is_confirming = False
        for listener in self._listeners:
            try:
                listener(keys)
            except Exception:
                self._log.failure("listener failed: what was left undone in {count} tasks", count=len(keys))
