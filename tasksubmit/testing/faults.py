"""A store for tests that fails when the test says so, in each way in which a commit can fail."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail
from zope.interface.interfaces import IMethod

from tasksubmit.errors import StoreError, StoreUncertain
from tasksubmit.interfaces import ITaskStore
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.validation import SIZE, TEXT, checked, instance_of

METHODS = frozenset(name for name in ITaskStore.names() if IMethod.providedBy(ITaskStore[name])) - {"open", "close"}
"""The methods of `ITaskStore` that can fail here."""

READS = frozenset(
    {
        "aged_deliveries",
        "count_tasks",
        "deliveries_of",
        "disk_space",
        "due",
        "ended",
        "events_of",
        "find",
        "get",
        "list_tasks",
        "load",
        "next_delivery",
        "note",
        "owed_bookings",
        "owed_peers",
        "passed_deadlines",
        "peer_features",
        "put_back",
        "queue",
        "read_result",
        "ready_deliveries",
        "recall",
        "result_bytes",
        "score",
        "scores",
        "tombstones",
    }
)
"""The methods of `ITaskStore` that change nothing."""

CERTAIN = READS | {"confirm", "save_result", "discard_result"}
"""The methods of `ITaskStore` without a commit that could be in doubt."""


class StoreFault(Enum):
    """The ways in which a call to a store fails."""

    ROLLED_BACK = "nothing of it happened, and the caller knows"
    UNCERTAIN_COMMITTED = "the caller does not know; all of it happened"
    UNCERTAIN_ROLLED_BACK = "the caller does not know; nothing of it happened"


@define
class _Planned:
    fault: StoreFault
    after: int


class FaultyTaskStore(MemoryTaskStore):
    """A `MemoryTaskStore` whose methods fail as the test says.

    :ivar calls: the number of calls of each method.
    :ivar is_in_doubt: True from a fault that leaves a commit uncertain until ``confirm``, or another commit, has fired.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.is_in_doubt = False
        self._planned: dict[str, deque[_Planned]] = {}

    @checked(method=TEXT, fault=instance_of(StoreFault), after=SIZE)
    def fail(self, method: str, fault: StoreFault = StoreFault.ROLLED_BACK, *, after: int = 0) -> None:
        """Have one call of a method fail; further faults of the same method come after that.

        :param method: its name in `ITaskStore`.
        :param after: the number of calls that succeed before, counted from now, or from the fault before.
        :raises ValueError: the method does not commit anything, and cannot leave it uncertain.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} cannot fail: name one of ITaskStore that returns a Deferred")
        if method in CERTAIN and fault is not StoreFault.ROLLED_BACK:
            raise ValueError(f"method={method!r} commits nothing that could be uncertain: use StoreFault.ROLLED_BACK")
        self._planned.setdefault(method, deque()).append(_Planned(fault, after))

    def next_fault(self, method: str, *arguments: Any) -> StoreFault | None:
        """Return the way in which the call that is being made fails, if it does; to be overridden by other plans."""
        planned = self._planned.get(method)
        if not planned:
            return None
        if planned[0].after:
            planned[0].after -= 1
            return None
        return planned.popleft().fault

    def _call(self, method: str, call: Callable[[], Deferred[Any]], *arguments: Any) -> Deferred[Any]:
        self.calls[method] += 1
        fault = self.next_fault(method, *arguments)
        if fault is None:
            return call().addCallback(self._called, method)
        if fault is StoreFault.ROLLED_BACK:
            return fail(StoreError(f"the call of {method} was made to fail; nothing of it happened"))
        self.is_in_doubt = True
        error = StoreUncertain(f"the commit of {method} was made to fail; it is unknown whether it happened")
        if fault is StoreFault.UNCERTAIN_ROLLED_BACK:
            return fail(error)
        return call().addCallback(lambda _: fail(error))

    def _called(self, result: Any, method: str) -> Any:
        if method not in CERTAIN or method == "confirm":
            self.is_in_doubt = False
        return result


def _may_fail(method: str) -> Callable[..., Deferred[Any]]:
    original = getattr(MemoryTaskStore, method)

    @wraps(original)
    def call(store: FaultyTaskStore, *arguments: Any, **options: Any) -> Deferred[Any]:
        return store._call(method, lambda: original(store, *arguments, **options), *arguments)

    return call


for _method in METHODS:
    setattr(FaultyTaskStore, _method, _may_fail(_method))
