"""The handle that `Node.submit` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred

from tasksubmit.errors import IllegalTransition, StoreError, UnknownTask
from tasksubmit.interfaces import ITaskHandler
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.live import raise_if_ended
from tasksubmit.protocol.arguments import checked_later
from tasksubmit.validation import FUNCTION, TEXT, instance_of, optional, provides
from tasksubmit.wire.messages import TaskResultMessage

if TYPE_CHECKING:
    from tasksubmit.node.service import Node


@frozen
class SubmittedTask:
    """A handle on a task that was submitted. It may be dropped at any time: the task goes on."""

    node: Node = field(validator=provides(ITaskHandler, "the Node that submitted it"))
    key: TaskKey = field(validator=instance_of(TaskKey))

    @property
    def task_id(self) -> str:
        """The id that the task was submitted under."""
        return self.key.task_id

    def accepted(self) -> Deferred[Task]:
        """Fires with the record when the receiver has accepted the task, or gone further.

        Fails with `TaskDeclined`, `TaskCancelled` or `TaskExpired` when it ended instead, and with `StoreClosed` when
        the node stops meanwhile. Cancelling the Deferred gives up the wait, not the task.
        """
        accepted = self.node.wait(self.key, lambda task: task.status is not TaskStatus.NEW)
        return accepted.addCallback(_unless_ended)

    @checked_later(on_progress=optional(FUNCTION))
    def result(self, on_progress: Callable[[str], None] | None = None) -> Deferred[TaskResultMessage]:
        """Fires with the results; fails like `accepted`.

        Cancelling the Deferred cancels the task, and so does its ``addTimeout``; `Node.result` gives up the wait alone.

        :param on_progress: is called with the receiver's words whenever it says how far it is.
        """
        return Deferred.fromCoroutine(self._result(on_progress))

    async def _result(self, on_progress: Callable[[str], None] | None) -> TaskResultMessage:
        try:
            if on_progress is not None:
                await self.watch(_told_progress(on_progress))
            return await self.node.result(self.key)
        except CancelledError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Cancel the task, if it is not too late for that, and do not ask what comes of it."""
        self.cancel().addErrback(lambda failure: failure.trap(IllegalTransition, UnknownTask, StoreError))

    @checked_later(changed=FUNCTION)
    def watch(self, changed: Callable[[Task], None]) -> Deferred[Task]:
        """Call ``changed`` with the record as it is, and after each change; fires when nobody need wait any longer.

        Fails with what ``changed`` raises, and with `StoreClosed` when the node stops. Cancelling ends the watch alone.
        """
        last = -1

        def look(task: Task) -> bool:
            nonlocal last
            if task.revision > last:  # the first look may come after a change that it does not show
                last = task.revision
                changed(task)
            return task.is_settled

        return self.node.wait(self.key, look)

    @checked_later(reason=TEXT)
    def cancel(self, reason: str = "Cancelled by the submitter") -> Deferred[Task]:
        """See `Node.cancel`."""
        return self.node.cancel(self.key, reason)


def _unless_ended(task: Task) -> Task:
    raise_if_ended(task)
    return task


def _told_progress(on_progress: Callable[[str], None]) -> Callable[[Task], None]:
    last = ""

    def look(task: Task) -> None:
        nonlocal last
        if task.status is TaskStatus.EXECUTING and task.justification != last:
            last = task.justification
            on_progress(last)

    return look
