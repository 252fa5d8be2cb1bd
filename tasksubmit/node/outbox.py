"""The submitter's side: tasks are submitted, followed, and their results kept and paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from tasksubmit.errors import (
    IllegalTransition,
    InvalidTime,
    StoreError,
    StoreUncertain,
    TaskConflict,
    TaskSubmitError,
    UnknownTask,
)
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, Note
from tasksubmit.lifecycle.polo import ScoreFormula, polo_score
from tasksubmit.lifecycle.table import (
    ANSWERED,
    ENDED_WITHOUT_RESULTS,
    HEARD,
    RECEIVER_OUTCOMES,
    SUBMITTER_OUTCOMES,
    TRANSITIONS,
    UNDECIDED_REASON,
    Event,
    Side,
    TaskStatus,
    Timeouts,
    advance,
)
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.inbox import IGNORED, acknowledgement, given_up
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


class NotHeeded(TaskSubmitError):
    """The receiver acknowledged a cancellation, but its record is still open."""


class Outbox:
    """What a submitter does with tasks. Its methods are coroutines that return after the commit.

    A task that no receiver can have is withdrawn without contacting the receiver (wire.md, section 4). Such a task has
    no `Task.submission_begun_at`. That is set, in a commit that fails after a cancellation was requested, before a
    submission is handed to the transport. It is unset only by the attempt that set it, when that was refused or not a
    byte was written.

    :param age_limit: how long a message is tried before it is given up.
    """

    def __init__(self, records: Records, formula: ScoreFormula, timeouts: Timeouts, age_limit: timedelta) -> None:
        self._log = quiet_logger(__name__)
        self._records = records
        self._store = records.store
        self._formula = formula
        self._timeouts = timeouts
        self._age_limit = age_limit
        # Tasks whose submission is marked as begun, or may be, though nothing was handed to a transport.
        self._unsent: set[TaskKey] = set()

    # --- what the submitter does ---------------------------------------------------------------------------------

    async def submit(
        self,
        to: Address,
        description: str,
        task_id: str,
        expires_at: datetime | None = None,
        result_due_at: datetime | None = None,
        deliver_by: datetime | None = None,
        is_sent_now: bool = False,
    ) -> Task:
        """Record a task and owe its submission to the receiver; the same task again is the one that there is.

        :param is_sent_now: whether a connection to a receiver with ``ack`` is open, so that it is sent at once: then it
            is recorded as begun, which saves a commit of its own.
        :raises TaskConflict: when the id was used for another description.
        :raises TaskForgotten: when retention has removed the task that had the id.
        """
        now = self._records.now()
        if deliver_by is None and expires_at is not None and expires_at - now > self._timeouts.delivery_timeout:
            deadlines = []  # the default deadline is earlier
        else:
            deadlines = [deadline for deadline in (deliver_by, expires_at) if deadline is not None]
        asked = Task.new(
            side=Side.SUBMITTER,
            peer=to,
            task_id=task_id,
            description=description,
            created_at=now,
            expires_at=expires_at,
            result_due_at=result_due_at,
            deliver_by=min(deadlines, default=None),
            submission_begun_at=now if is_sent_now else None,
        )
        if is_sent_now:
            self._unsent.add(asked.key)
        try:
            task, is_new = await self._records.create(asked)
        except BaseException:
            self._unsent.discard(asked.key)
            raise
        if not is_new:
            self._unsent.discard(asked.key)
        if task.description != description:
            raise TaskConflict(f"task {task_id} was submitted to {to} with another description; use another id")
        return task

    async def cancel(self, key: TaskKey, reason: str) -> Task:
        """Ask the receiver to withdraw a task; asking again changes nothing.

        :returns: the record: CANCELLED already if no receiver can have the task.
        :raises IllegalTransition: when the task is final, or its results are here.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.cancel_requested_at is not None and not task.is_settled:
                return (), {}
            return task.requested(Event.REQUEST_CANCEL), {"justification": reason}

        return await self._records.change(key, decide)

    def changed(self, task: Task) -> None:
        """Forget a task that is not to be submitted any more."""
        if self._unsent and (task.is_settled or task.cancel_requested_at is not None):
            self._unsent.discard(task.key)

    # --- what becomes of a submission ----------------------------------------------------------------------------

    async def begin_submission(self, task: Task) -> tuple[Task, bool] | None:
        """Mark a submission as begun.

        :returns: the record, and whether this is the first attempt that a receiver may know of; None when there is
            nothing to be submitted any more.
        """
        is_marked = task.submission_begun_at is not None
        if is_marked and task.key in self._unsent:
            self._unsent.discard(task.key)
            return task, True
        is_first = False

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            nonlocal is_first
            if not _may_be_submitted(task):
                raise IllegalTransition(f"task {task.task_id} is not to be submitted any more")
            is_first = task.submission_begun_at is None or task.key in self._unsent
            return (), {} if task.submission_begun_at else {"submission_begun_at": now}

        try:
            task = await self._records.change(task, decide)
        except IllegalTransition:
            self._unsent.discard(task.key)
            return None
        except StoreError:
            if is_first:  # whether or not the mark is on disk, nothing was sent
                self._unsent.add(task.key)
            raise
        self._unsent.discard(task.key)
        return task, is_first

    async def submission_unsent(self, task: Task) -> None:
        """Unmark a first submission of which no byte was written: no receiver can have the task."""
        await self._record_unsent(task, {})

    async def submission_postponed(self, task: Task, response: SubmitResponse, *, is_first: bool) -> None:
        """Record a refusal for now; the submission is sent again, unless a cancellation was requested."""
        refusal = _refusal(response)
        if is_first:
            await self._record_unsent(task, refusal)
        else:
            await self._records.change(task, _refused_for_now(refusal))

    async def _record_unsent(self, task: Task, refusal: Mapping[str, Any]) -> None:
        try:
            await self._records.change(task, _unsent(refusal))
        except StoreError:
            self._unsent.add(task.key)  # whether or not the mark is still on disk, no receiver has the task
            raise

    async def submission_answered(self, task: Task, response: SubmitResponse, delivery: Delivery) -> None:
        """Record that the receiver took the submission, or refused it for good."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            answered = self._answered(task, response, now)
            if response.status != ResponseStatus.ACCEPTED:
                return self._heed((Event.REFUSE,), _refusal(response), anyway=answered)(task, now)
            taken = {
                **answered,
                "answered_at": task.answered_at or now,
                "code": "",
                "retry_after_s": 0,
                "deliver_by": None,
                "news_at": now,
                **self._awaiting(task, now, has_ack=ACK in response.features),
            }
            if task.code:
                taken["justification"] = clipped(response.message)
            return self._heed_status(task, response, now, taken)

        await self._records.change(task, decide, settles=delivery)

    async def query_answered(self, task: Task, response: SubmitResponse, delivery: Delivery) -> None:
        """Record the answer to a query: the status of the receiver's record, or that there is none."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            is_undecided = task.undecided_since is None and response.current_status == TaskStatus.NEW.value
            answered = self._answered(task, response, now)
            if ACK not in response.features:
                answered.update(self._awaiting(task, now, has_ack=False))  # it is not queried any more
            if response.status != ResponseStatus.ACCEPTED:
                if response.code != UnknownTask.code:
                    return (), answered
                if task.cancel_requested_at is not None:
                    return self._heed((Event.WITHDRAW,), {}, anyway=answered)(task, now)
                lost = {"justification": "The receiver does not know the task any more"}
                return self._heed((Event.LOSE,), lost, anyway=answered)(task, now)
            if is_undecided and task.status is TaskStatus.NEW and task.cancel_requested_at is None:
                return (Event.TIME_OUT_ANSWER,), {**answered, "justification": UNDECIDED_REASON}
            return self._heed_status(task, response, now, answered)

        await self._records.change(task, decide, settles=delivery)

    async def submission_unconfirmed(self, task: Task, error: str, delivery: Delivery) -> None:
        """The answer was lost, and the peer is of the kind that may not be asked again (wire.md, section 6)."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.is_settled:
                return (), {}  # the receiver had it: its results arrived, or its last word
            lost = {"code": "unconfirmed", "error": f"the answer to the submission was lost: {error}"}
            return (), {**lost, "deliver_by": None, "news_at": now, **self._awaiting(task, now, has_ack=False)}

        await self._records.change(task, decide, settles=delivery, note=(Note.UNCONFIRMED, error))

    async def submission_settled(self, task: Task, delivery: Delivery) -> None:
        """Settle a submission or a query that is not needed any more: the task has ended, or is to be cancelled."""
        note = Note.DELIVERED, "nothing: the task has ended"
        await self._records.change(task, always(), settles=delivery, note=note)

    async def question_dropped(self, task: Task, delivery: Delivery) -> None:
        """Settle a query to a receiver that does not announce ``ack`` any more."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            return (), {"heard_at": None, **self._awaiting(task, now, has_ack=False)}

        note = Note.UNCONFIRMED, "the receiver does not announce ack any more, so that it is not queried"
        await self._records.change(task, decide, settles=delivery, note=note)

    # --- what becomes of a cancellation --------------------------------------------------------------------------

    async def delivery_given_up(self, task: Task, delivery: Delivery) -> None:
        """What was to be sent is too old: a cancellation then holds without an answer (section 4)."""
        is_withdrawal = delivery.kind is DeliveryKind.STATUS
        events = (Event.WITHDRAW,) if is_withdrawal else ()
        fields = given_up(task, delivery, self._records.now())
        note = Note.DELIVERY_GIVEN_UP, described(delivery)
        await self._records.change(task, self._heed(events, {}, anyway=fields), gives_up=delivery, note=note)

    async def cancellation_answered(self, task: Task, response: SubmitResponse | None, delivery: Delivery) -> None:
        """The receiver answered a cancellation: with the status that won, or, as reference peers do, with silence.

        :raises NotHeeded: when its own record goes on as if it had not been asked.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if response is None:
                return self._heed((Event.CONFIRM_CANCEL,), {"justification": NOT_STOPPED})(task, now)
            status = response.current_status
            if response.status != ResponseStatus.ACCEPTED or not status:
                return self._heed((Event.CONFIRM_CANCEL,), {})(task, now)
            if status in (TaskStatus.COMPLETED.value, TaskStatus.SUCCEEDED.value):
                return self._heed_status(task, response, now, {"cancel_ends_at": self._last_day(task, now)})
            if status in ENDED_WITHOUT_RESULTS:
                event = HEARD[status]
                if (task.side, task.status, event) not in TRANSITIONS:
                    event = Event.CONFIRM_CANCEL  # it was accepted, says the record, and declined, says the receiver
                return self._heed((event,), _reason_of(task, response))(task, now)
            if task.is_settled:
                return (), {}
            raise NotHeeded(f"the receiver answered CANCELLED with {clipped(status)!r}")

        await self._records.change(task, decide, settles=delivery)

    def _last_day(self, task: Task, now: datetime) -> datetime:
        """Return the deadline for the results of a task whose cancellation came too late."""
        latest = now + self._age_limit
        is_earlier = task.result_due_at is not None and now < task.result_due_at < latest
        return task.result_due_at if is_earlier and task.result_due_at else latest

    # --- what the receiver tells ---------------------------------------------------------------------------------

    async def status_updated(self, task: Task, update: TaskStatusUpdate) -> SubmitResponse:
        """The receiver tells where the task stands; what the table does not allow changes nothing."""
        event = HEARD.get(update.status)
        if event is None:
            self._ignored(task, f"hear {update.status}")
            return acknowledgement(task)

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.status.is_final:
                self._ignored(task, event.value)
                return (), _missing_reason(task, update.status, update)
            # Only an end has a reason, and a word that no receiver has is dropped.
            is_end = update.status in ENDED_WITHOUT_RESULTS
            outcome = update.outcome if is_end and update.outcome in RECEIVER_OUTCOMES else ""
            fields: dict[str, Any] = {
                "justification": update.justification,
                "outcome": outcome or (task.cancel_outcome if event is Event.HEAR_CANCELLED else ""),
                "error": clipped(update.error) if is_end else "",
                "news_at": now,
            }
            if task.heard_at is not None:
                fields["heard_at"] = now
            return self._heed((event,), fields)(task, now)

        return acknowledgement(await self._records.change(task, decide))

    async def results_received(self, task: Task, message: TaskResultMessage) -> SubmitResponse:
        """Keep results, book the scores once, and tell the reward; repeated ones are acknowledged again."""
        if task.is_settled:
            return await self._late(task, message)
        saved = await self._records.save_result(task.peer, message)

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
        claimed = task.evolved(**durations)
        bounded = claimed.bounded(now)
        scored = bounded.evolved(time_cpu_ms=bounded.scored_cpu_ms or 0)
        return {
            **durations,
            "scored_cpu_ms": bounded.scored_cpu_ms,
            "is_time_disputed": bounded.is_time_disputed,
            "reward": polo_score(scored, self._formula).final_reward,
            "completed_at": completed_at,
            "justification": WITHOUT_EXECUTION if claimed.lacks_execution else "The results arrived",
        }

    async def _late(self, task: Task, message: TaskResultMessage) -> SubmitResponse:
        """Results for a settled task: those that it ended with, again, or late ones.

        Of late ones the first are kept, and none is paid.
        """
        if task.late_result_file:
            self._log.info(
                "late results ignored: task={task_id} status={status} kept={name}",
                task_id=task.task_id,
                status=task.status,
                name=task.late_result_file,
            )
        elif not task.result_file:
            name = (await self._records.save_result(task.peer, message)).name
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

    # --- inside ----------------------------------------------------------------------------------------------------

    def _answered(self, task: Task, response: SubmitResponse, now: datetime) -> dict[str, Any]:
        """Return the fields that every answer to a submission or a query sets."""
        heard_at = now if ACK in response.features else None
        return {"features": known_features(response.features), "heard_at": heard_at}

    def _awaiting(self, task: Task, now: datetime, *, has_ack: bool) -> dict[str, Any]:
        """Return the deadlines that begin when the receiver has the task, or may have it."""
        deadlines: dict[str, Any] = {}
        if task.undecided_since is None and task.status is TaskStatus.NEW:
            deadlines["undecided_since"] = now
        if not has_ack and task.result_due_at is None:
            deadlines["result_due_at"] = now + self._timeouts.result_timeout
        return deadlines

    def _heed_status(
        self, task: Task, response: SubmitResponse, now: datetime, anyway: Mapping[str, Any]
    ) -> tuple[Sequence[Event], Mapping[str, Any]]:
        """Apply the status in an answer if the table allows it; set the fields ``anyway`` in any case."""
        if task.status.is_final:
            return (), {**anyway, **_missing_reason(task, response.current_status, response)}
        event = ANSWERED.get(response.current_status)
        if event is None or (task.side, task.status, event) not in TRANSITIONS:
            return (), anyway
        is_news = advance(task.side, task.status, event).target is not task.status
        fields = {**_reason_of(task, response), **({"news_at": now} if is_news else {})}
        return (event,), {**anyway, **fields}

    def _heed(
        self, events: Sequence[Event], fields: Mapping[str, Any], *, anyway: Mapping[str, Any] | None = None
    ) -> Decision:
        """Apply ``events`` and set ``fields`` if the table allows it; set the fields ``anyway`` in any case."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if not events or (task.side, task.status, events[0]) in TRANSITIONS:
                return events, {**fields, **(anyway or {})}
            self._ignored(task, events[0].value)
            return (), anyway or {}

        return decide

    def _ignored(self, task: Task, event: str) -> None:
        self._log.debug(IGNORED, task_id=task.task_id, status=task.status, event=event)


def _keep_late(name: str) -> Decision:
    """Name a late result, unless the same came twice and the other was first."""
    return lambda task, now: ((), {} if task.late_result_file else {"late_result_file": name})


NOT_STOPPED = "Cancelled here; the receiver cannot be stopped and may still do the work"
"""The justification of a task that was cancelled at a peer without ``ack``."""


WITHOUT_EXECUTION = "The results arrived, although the receiver reported no execution"
"""The justification of results that earn the least there is; the record is marked as disputed, too."""


def _may_be_submitted(task: Task) -> bool:
    is_undelivered = task.status is TaskStatus.NEW and task.answered_at is None
    return is_undelivered and task.cancel_requested_at is None


def _refusal(response: SubmitResponse) -> dict[str, Any]:
    return {
        "code": clipped(response.code),
        "justification": clipped(response.message),
        "retry_after_s": max(0, response.retry_after_s),
    }


def _unsent(refusal: Mapping[str, Any]) -> Decision:
    """Record that no receiver can have a task; one that is to be cancelled is withdrawn then."""

    def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
        if task.status is not TaskStatus.NEW or task.answered_at is not None:
            return (), {}
        if task.cancel_requested_at is not None:
            return (Event.WITHDRAW,), {"submission_begun_at": None}
        return (), {"submission_begun_at": None, **refusal}

    return decide


def _refused_for_now(refusal: Mapping[str, Any]) -> Decision:
    """Record a refusal of a task that the receiver may have from an earlier attempt."""
    return lambda task, now: ((), refusal if _may_be_submitted(task) else {})


def _reason_of(task: Task, answer: SubmitResponse) -> dict[str, Any]:
    """Return the fields of a record that say why it ended, as an answer with a final status tells it."""
    if answer.current_status not in ENDED_WITHOUT_RESULTS:
        return {}
    is_cancelled = answer.current_status == TaskStatus.CANCELLED.value
    return {
        "outcome": _known_outcome(answer.outcome) or (task.cancel_outcome if is_cancelled else ""),
        "error": clipped(answer.error),
        "justification": clipped(answer.justification) or task.justification,
    }


def _known_outcome(outcome: str) -> str:
    """Return ``outcome`` if it is a word of receivers or of submitters; else an empty string."""
    return outcome if outcome in RECEIVER_OUTCOMES or outcome in SUBMITTER_OUTCOMES else ""


def _missing_reason(task: Task, status: str, message: SubmitResponse | TaskStatusUpdate) -> dict[str, Any]:
    """Return the reason for a final status that a later message gives, if the record has none (wire.md, section 6)."""
    if task.outcome or status != task.status.value or status not in ENDED_WITHOUT_RESULTS:
        return {}
    reason = {
        "outcome": _known_outcome(message.outcome),
        "error": clipped(message.error),
        "justification": clipped(message.justification),
    }
    return reason if any(reason.values()) else {}  # a message without a reason takes none away
