"""One delivery: the frame that it becomes, and what the answer means for the task."""

from __future__ import annotations

from tasksubmit.errors import PeerError, PeerUnreachable, TaskSubmitError
from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.inbox import Inbox
from tasksubmit.node.outbox import Outbox
from tasksubmit.node.records import Records, clipped
from tasksubmit.protocol.client import Client
from tasksubmit.wire.messages import (
    ACK,
    FEATURES,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskStatusUpdate,
)
from tasksubmit.wire.timestamps import format_time

WORTH_TRYING_AGAIN = frozenset({"rate_limited", "quota", "overloaded", "storage", "not_accepting"})
"""The codes of a 400 that another attempt may get past (wire.md, section 6)."""


class TryAgain(TaskSubmitError):
    """The peer answered that it cannot take the message now; `retry_after_s` is its hint, 0 without one."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = max(0, retry_after_s)


class SubmissionRefused(TryAgain):
    """The peer takes no submission, or query, now: a sign that it would refuse others, too."""


class Courier:
    """Delivers single messages. What counts as delivered is in wire.md, section 6."""

    def __init__(self, records: Records, inbox: Inbox, outbox: Outbox) -> None:
        self._records = records
        self._inbox = inbox
        self._outbox = outbox

    async def deliver(self, client: Client, delivery: Delivery, task: Task) -> bool:
        """Send one message and commit what the answer means, which settles the delivery.

        :returns: whether it was sent; one that nobody needs any more is not.
        :raises PeerError: when the peer could not be reached, or did not answer.
        :raises TryAgain: when it answered that another attempt is worth it.
        """
        if delivery.kind is DeliveryKind.SUBMISSION:
            return await self._submit(client, delivery, task)
        if delivery.kind is DeliveryKind.RESULTS:
            response = _final(await client.send_results(await self._records.results(task)))
            await self._inbox.results_taken(task, response, delivery)
        else:
            response = _final(await client.update(TaskStatusUpdate.from_json(delivery.payload)))
            if task.side is Side.SUBMITTER:
                await self._outbox.cancellation_answered(task, response, delivery)
            else:
                await self._inbox.status_taken(task, response, delivery)
        return True

    async def give_up(self, delivery: Delivery, task: Task) -> None:
        """Commit that one message is not tried again by itself; what was owed behind it goes on."""
        if task.side is Side.SUBMITTER:
            await self._outbox.delivery_given_up(task, delivery)
        else:
            await self._inbox.delivery_given_up(task, delivery)

    async def _submit(self, client: Client, delivery: Delivery, task: Task) -> bool:
        if task.is_settled:
            await self._outbox.submission_settled(task, delivery)
            return False
        if is_query(task):
            return await self._query(client, delivery, task)
        if task.submission_begun_at is None:
            await client.open()  # an unreachable peer leaves the submission unmarked
        begun = await self._outbox.begin_submission(task)
        if begun is None:
            await self._outbox.submission_settled(task, delivery)
            return False
        task, is_first = begun
        if not is_first and ACK not in client.features:
            # A reference peer would queue it twice, and may have received what was marked as begun before.
            await self._outbox.submission_unconfirmed(task, "the node was stopped meanwhile", delivery)
            return False
        try:
            response = await client.submit(self._request(task))
        except PeerUnreachable:
            if is_first:
                await self._outbox.submission_unsent(task)
            raise
        except PeerError as error:  # an answer that cannot be read is lost, too
            if ACK in client.features:
                raise
            await self._outbox.submission_unconfirmed(task, str(error), delivery)
            return True
        try:
            _final(response, SubmissionRefused)
        except SubmissionRefused:
            await self._outbox.submission_postponed(task, response, is_first=is_first)
            raise
        await self._outbox.submission_answered(task, response, delivery)
        return True

    async def _query(self, client: Client, delivery: Delivery, task: Task) -> bool:
        """Query the status of a task that the receiver has taken."""
        if ACK not in client.features:
            await self._outbox.question_dropped(task, delivery)
            return False
        response = await client.submit(self._request(task, query=True))
        _final(response, SubmissionRefused)
        await self._outbox.query_answered(task, response, delivery)
        return True

    def _request(self, task: Task, query: bool = False) -> SubmitRequest:
        return SubmitRequest(
            task_id=task.task_id,
            task_description=task.description,
            from_addr=str(self._records.own),
            to_addr=str(task.peer),
            features=FEATURES,
            query=query,
            expires_at=format_time(task.expires_at) if task.expires_at else "",
        )


def is_query(task: Task) -> bool:
    """True if the receiver has taken the task: a query is sent in place of the submission."""
    return task.answered_at is not None or task.status is not TaskStatus.NEW


def _final(response: SubmitResponse | None, refused: type[TryAgain] = TryAgain) -> SubmitResponse | None:
    """Return the answer, unless it asks to try again.

    :param refused: what is raised when it does.
    """
    if response is not None and response.status != ResponseStatus.ACCEPTED and response.code in WORTH_TRYING_AGAIN:
        raise refused(
            f"the peer answered {clipped(response.code)!r}: {clipped(response.message)!r}", response.retry_after_s
        )
    return response
