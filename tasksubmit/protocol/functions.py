"""The seed's kind of handler: one function, which knows submissions only."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred
from zope.interface import implementer

from tasksubmit.errors import UnknownTask
from tasksubmit.interfaces import ITaskHandler, Peer, SendResult
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskResultMessage, TaskStatusUpdate

SubmissionFunction: TypeAlias = Callable[[Peer, SubmitRequest, SendResult], "bool | Deferred[bool]"]
"""True accepts a submission, False rejects it."""


@implementer(ITaskHandler)
@frozen
class FunctionHandler:
    """Asks a function about submissions, and refuses everything else."""

    submitted: SubmissionFunction

    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> bool | Deferred[bool]:
        """Have the function decide."""
        return self.submitted(peer, request, send_result)

    def status_updated(self, peer: Peer, update: TaskStatusUpdate) -> SubmitResponse:
        """Refuse with `UnknownTask`."""
        raise UnknownTask("no task was submitted from here")

    def results_received(self, peer: Peer, message: TaskResultMessage) -> SubmitResponse:
        """Refuse with `UnknownTask`."""
        raise UnknownTask("no task was submitted from here")
