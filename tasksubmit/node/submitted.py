"""The handle that `Node.submit` gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.live import raise_if_ended
from tasksubmit.wire.messages import TaskResultMessage

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from tasksubmit.node.service import Node


@frozen
class SubmittedTask:
    """A handle on a task that was submitted. It may be dropped at any time: the task goes on."""

    node: Node
    key: TaskKey

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

    def result(self) -> Deferred[TaskResultMessage]:
        """Fires with the results; fails like `accepted`."""
        return self.node.result(self.key)

    def cancel(self, reason: str = "Cancelled by the submitter") -> Deferred[Task]:
        """See `Node.cancel`."""
        return self.node.cancel(self.key, reason)


def _unless_ended(task: Task) -> Task:
    raise_if_ended(task)
    return task
