"""The submitter's side: tasks are submitted, followed, and their results kept and paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tasksubmit.errors import IllegalTransition, InvalidTime, StoreUncertain, TaskConflict
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, Note
from tasksubmit.lifecycle.polo import ScoreFormula, polo_score
from tasksubmit.lifecycle.table import HEARD, TRANSITIONS, Event, Side, TaskStatus
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.inbox import acknowledgement, given_up
from tasksubmit.node.records import Decision, Records, always, clipped, described, kept_as, recorded_time
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import (
    ACK,
    ResponseStatus,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
    known_features,
)


class Outbox:
    """What a submitter does with tasks. Its methods are coroutines that return after the commit."""

    def __init__(self, records: Records, formula: ScoreFormula) -> None:
        self._log = quiet_logger(__name__)
        self._records = records
        self._store = records.store
        self._formula = formula

    # --- what the submitter does ---------------------------------------------------------------------------------

    async def submit(
        self,
        to: Address,
        description: str,
        task_id: str,
        expires_at: datetime | None = None,
        result_due_at: datetime | None = None,
    ) -> Task:
        """Record a task and owe its submission to the receiver; the same task again is the one that there is.

        :raises TaskConflict: when the id was used for another description.
        :raises TaskForgotten: when retention has removed the task that had the id.
        """
        task = Task.new(
            side=Side.SUBMITTER,
            peer=to,
            task_id=task_id,
            description=description,
            created_at=self._records.now(),
            expires_at=expires_at,
            result_due_at=result_due_at,
        )
        task, _ = await self._records.create(task)
        if task.description != description:
            raise TaskConflict(f"task {task_id} was submitted to {to} with another description; use another id")
        return task

    async def cancel(self, key: TaskKey, reason: str) -> Task:
        """Ask the receiver to withdraw a task; asking again changes nothing.

        :raises IllegalTransition: when the task is final, or its results are here.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.cancel_requested_at is not None and not task.is_settled:
                return (), {}
            return (Event.REQUEST_CANCEL,), {"justification": reason}

        return await self._records.change(key, decide)

    # --- what the receiver answers -------------------------------------------------------------------------------

    async def submission_answered(self, task: Task, response: SubmitResponse, delivery: Delivery) -> None:
        """The receiver answered the submission, for the first time or again."""
        now = self._records.now()
        answered: dict[str, Any] = {"features": known_features(response.features)}
        if task.answered_at is None:
            answered["answered_at"] = now
        if ACK in response.features:
            answered["heard_at"] = now
        if response.status == ResponseStatus.ACCEPTED:
            decision = self._heed(_heard(response.current_status), {}, anyway=answered)
        else:
            refusal = {"code": clipped(response.code), "justification": clipped(response.message)}
            decision = self._heed((Event.REFUSE,), refusal, anyway=answered)
        await self._records.change(task, decision, settles=delivery)

    async def submission_unconfirmed(self, task: Task, error: str, delivery: Delivery) -> None:
        """The answer was lost, and the peer is of the kind that may not be asked again (wire.md, section 6)."""
        lost = always(code="unconfirmed", error=f"the answer to the submission was lost: {error}")
        await self._records.change(task, lost, settles=delivery, note=(Note.UNCONFIRMED, error))

    async def submission_settled(self, task: Task, delivery: Delivery) -> None:
        """The task has ended before the submission could be sent, or the question how it stands."""
        note = Note.DELIVERED, "nothing: the task has ended"
        await self._records.change(task, always(), settles=delivery, note=note)

    async def question_dropped(self, task: Task, delivery: Delivery) -> None:
        """The receiver is not of the kind any longer that may be asked how a task stands."""
        note = Note.UNCONFIRMED, "the receiver has ceased to answer such questions"
        await self._records.change(task, always(heard_at=None), settles=delivery, note=note)

    async def withdrawn_unsent(self, task: Task, delivery: Delivery) -> None:
        """The cancellation came before the submission was sent: there is nothing to withdraw."""
        note = Note.DELIVERED, "nothing: the submission was never sent"
        await self._records.change(task, self._heed((Event.WITHDRAW,), {}), settles=delivery, note=note)

    async def delivery_given_up(self, task: Task, delivery: Delivery) -> None:
        """What was to be sent is too old: a cancellation then holds without an answer (section 4)."""
        is_withdrawal = delivery.kind is DeliveryKind.STATUS
        events = (Event.WITHDRAW,) if is_withdrawal else ()
        fields = given_up(task, delivery, self._records.now())
        note = Note.DELIVERY_GIVEN_UP, described(delivery)
        await self._records.change(task, self._heed(events, {}, anyway=fields), gives_up=delivery, note=note)

    async def cancellation_answered(self, task: Task, response: SubmitResponse | None, delivery: Delivery) -> None:
        """The receiver answered a cancellation: with the status that won, or, being deployed, with silence."""
        if response is None or response.status != ResponseStatus.ACCEPTED:
            events: Sequence[Event] = (Event.CONFIRM_CANCEL,)
        elif response.current_status in (TaskStatus.CANCELLED.value, ""):
            events = (Event.CONFIRM_CANCEL,)
        else:
            events = _heard(response.current_status)
        await self._records.change(task, self._heed(events, {}), settles=delivery)

    # --- what the receiver tells ---------------------------------------------------------------------------------

    async def status_updated(self, task: Task, update: TaskStatusUpdate) -> SubmitResponse:
        """The receiver tells where the task stands; what the table does not allow changes nothing."""
        events = _heard(update.status)
        if events:
            fields: dict[str, Any] = {
                "justification": update.justification,
                "outcome": update.outcome,
                "error": update.error,
            }
            if task.heard_at is not None:
                fields["heard_at"] = self._records.now()
            task = await self._records.change(task, self._heed(events, fields))
        return acknowledgement(task)

    async def results_received(self, task: Task, message: TaskResultMessage) -> SubmitResponse:
        """Keep results, book the scores once, and tell the reward; repeated ones are acknowledged again."""
        if task.is_settled:
            return await self._late(task, message)
        saved = await self._records.save_result(message)

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            events = (Event.RECEIVE_RESULTS, Event.HEAR_SUCCEEDED) if task.succeeded_heard else (Event.RECEIVE_RESULTS,)
            return events, {**kept_as(message, saved), **self._result_fields(task, message, now)}

        try:
            after = await self._records.change(task, decide)
        except IllegalTransition:  # it became final while the file was written
            await self._store.discard_result(saved.name)
            return await self._late(await self._records.get(task.key), message)
        except StoreUncertain:
            raise  # the next start finds out whether a record names it
        except Exception:
            await self._store.discard_result(saved.name)
            raise
        return acknowledgement(after, after.reward or 0)

    def _result_fields(self, task: Task, message: TaskResultMessage, now: datetime) -> dict[str, Any]:
        try:
            completed_at = recorded_time(message.completed_at)
        except InvalidTime:
            completed_at = now
        durations: dict[str, Any] = {
            "time_idle_ms": message.time_idle_ms,
            "time_staged_ms": message.time_staged_ms,
            "time_cpu_ms": message.time_cpu_ms,
        }
        bounded = task.evolved(**durations).bounded(now)
        scored = bounded.evolved(time_cpu_ms=bounded.scored_cpu_ms or 0)
        return {
            **durations,
            "scored_cpu_ms": bounded.scored_cpu_ms,
            "is_time_disputed": bounded.is_time_disputed,
            "reward": polo_score(scored, self._formula).final_reward,
            "completed_at": completed_at,
            "justification": "The results arrived",
        }

    async def _late(self, task: Task, message: TaskResultMessage) -> SubmitResponse:
        """Results for a settled task: those that it ended with, again, or late ones, which are kept and never paid."""
        if not task.result_file and not task.late_result_file:
            name = (await self._records.save_result(message)).name
            try:
                task = await self._records.change(task, _keep_late(name), note=(Note.LATE_RESULTS, name))
            except StoreUncertain:
                raise
            except Exception:
                await self._store.discard_result(name)
                raise
            if task.late_result_file == name:
                self._log.warn(
                    "results for task {task_id} came after it was {status}; kept as {name}, not paid",
                    task_id=task.task_id,
                    status=task.status,
                    name=name,
                )
            else:
                await self._store.discard_result(name)
        return acknowledgement(task, task.reward or 0)

    def _heed(
        self, events: Sequence[Event], fields: Mapping[str, Any], *, anyway: Mapping[str, Any] | None = None
    ) -> Decision:
        """Let ``events`` happen and set ``fields`` if the table allows it; set the fields ``anyway`` in any case."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if not events or (task.side, task.status, events[0]) in TRANSITIONS:
                return events, {**fields, **(anyway or {})}
            self._log.debug(
                "task {task_id} is {status}, and cannot {event}",
                task_id=task.task_id,
                status=task.status,
                event=events[0].value,
            )
            return (), anyway or {}

        return decide


def _keep_late(name: str) -> Decision:
    """Name a late result, unless the same came twice and the other was first."""
    return lambda task, now: ((), {} if task.late_result_file else {"late_result_file": name})


def _heard(status: str) -> Sequence[Event]:
    """What the submitter hears in a status that the receiver said, if anything."""
    event = HEARD.get(status)
    return (event,) if event else ()
