"""Many tasks at once: what `Node.submit_many` gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from typing_extensions import Self

from tasksubmit.node.ending import to_its_end
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.validation import (
    COUNT,
    FUNCTION,
    SIZE,
    TEXT,
    Kind,
    checked,
    instance_of,
    iterable,
    optional,
    wrong_type,
)
from tasksubmit.wire.address import Address, to_address
from tasksubmit.wire.messages import TaskResultMessage

_OUTCOME: Kind[TaskResultMessage | Exception] = Kind(
    "the results, a TaskResultMessage, or an exception", lambda value: isinstance(value, TaskResultMessage | Exception)
)


def _to_address(value: Address | str) -> Address:
    return to_address(value, "to")


@frozen
class Finished:
    """One of many tasks, at its end.

    :ivar index: which of the tasks that were given, from 0.
    :ivar task: the handle; None when it could not even be submitted.
    :ivar outcome: its results, or what `Node.submit` or `SubmittedTask.result` failed with.
    """

    index: int = field(validator=SIZE)
    to: Address = field(converter=_to_address)
    description: str = field(validator=TEXT)
    task: SubmittedTask | None = field(validator=optional(instance_of(SubmittedTask)))
    outcome: TaskResultMessage | Exception = field(validator=_OUTCOME)

    def result(self) -> TaskResultMessage:
        """The results; raises the error if there are none."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


def _pairs(tasks: Iterable[tuple[Address | str, str]]) -> Iterator[tuple[int, Address, str]]:
    """The items of an iterable with their indexes.

    :raises TypeError: one of them is no pair of an address and a description.
    :raises InvalidAddress: its address is a string of another form.
    """
    for index, pair in enumerate(tasks):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise wrong_type(f"tasks: item {index}", "a pair (receiver, description)", pair)
        to, description = pair
        TEXT.check(f"tasks: the description of item {index}", description)
        yield index, to_address(to, f"tasks: the receiver of item {index}"), description


class FanOut:
    """Submits tasks, so many at a time, and gives each when it is finished: to ``async for``, or to `next`.

    It takes from its iterable only what it can begin, so that may be long, or without end. What is finished and not
    taken counts as under way: whoever does not take results holds up the rest. An error of the iterable itself, or an
    item that is no pair of an address and a description, is given when what was begun before it has finished.
    """

    @checked(submit=FUNCTION, concurrency=COUNT)
    def __init__(
        self,
        submit: Callable[[Address, str], Deferred[SubmittedTask]],
        tasks: Iterable[tuple[Address | str, str]],
        concurrency: int,
    ) -> None:
        self._submit = submit
        self._tasks = _pairs(iterable(tasks, "tasks", "an iterable of pairs (receiver, description)"))
        self._concurrency = concurrency
        self._under_way: dict[int, Deferred[Any]] = {}
        self._finished: deque[Finished] = deque()
        self._takers: deque[Deferred[Finished | None]] = deque()
        self._has_more = True
        self._fault: Exception | None = None
        self._is_beginning = False
        self._begin()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Finished:
        finished = await self.next()
        if finished is None:
            raise StopAsyncIteration
        return finished

    def next(self) -> Deferred[Finished | None]:
        """Fires with the next task that is finished, in the order in which they finish; None after the last.

        Cancelling gives up the wait alone.
        """
        if self._finished:
            finished = self._finished.popleft()
            self._begin()
            return succeed(finished)
        if self._under_way:
            taker: Deferred[Finished | None] = Deferred(self._takers.remove)
            self._takers.append(taker)
            return taker
        if self._fault is not None:
            fault, self._fault = self._fault, None
            return fail(fault)
        return succeed(None)

    def all(self) -> Deferred[list[Finished]]:
        """Fires with every task that was not taken yet, when all are finished, in the order in which they were given.

        Cancelling it cancels all, as `cancel` does.
        """
        return Deferred.fromCoroutine(self._all())

    async def _all(self) -> list[Finished]:
        try:
            return sorted([finished async for finished in self], key=lambda finished: finished.index)
        except CancelledError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Begin nothing more, and cancel what is under way; each of those then ends with its error."""
        self._has_more = False
        for work in list(self._under_way.values()):
            work.cancel()

    def _begin(self) -> None:
        """Begin as many as may be, and give those who wait what there is."""
        if self._is_beginning:
            return  # what ends at once is seen by the loop that began it
        self._is_beginning = True
        while self._has_more and len(self._under_way) + len(self._finished) < self._concurrency:
            try:
                index, to, description = next(self._tasks)
            except StopIteration:
                self._has_more = False
            except Exception as error:
                self._has_more, self._fault = False, error
            else:
                if self._has_more:  # the iterable itself may have cancelled
                    work = self._under_way[index] = Deferred.fromCoroutine(self._do(index, to, description))
                    work.addCallback(self._end)
        self._is_beginning = False
        self._serve()

    def _serve(self) -> None:
        while self._takers and (self._finished or not self._under_way):
            taker = self._takers.popleft()
            self.next().chainDeferred(taker)

    def _end(self, finished: Finished) -> None:
        del self._under_way[finished.index]
        self._finished.append(finished)
        self._begin()

    async def _do(self, index: int, to: Address, description: str) -> Finished:
        task: SubmittedTask | None = None
        try:
            task = await self._submitted(to, description)
            return Finished(index, to, description, task, await task.result())
        except Exception as error:
            return Finished(index, to, description, task, error)

    async def _submitted(self, to: Address, description: str) -> SubmittedTask:
        """Submit a task; it is cancelled as well when that was cancelled meanwhile."""
        submitted: list[SubmittedTask] = []

        def keep(task: SubmittedTask) -> SubmittedTask:
            submitted.append(task)
            return task

        submission = self._submit(to, description).addCallback(keep)
        try:
            return await to_its_end(submission, lambda: None)
        except CancelledError:
            for task in submitted:
                task.give_up()
            raise
