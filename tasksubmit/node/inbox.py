"""The receiver's side: submissions come in, are decided, queued, executed, and their results go out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure

from tasksubmit.errors import (
    IllegalTransition,
    InvalidMessage,
    NotAccepting,
    StoreError,
    StoreUncertain,
    TaskForgotten,
    TaskSubmitError,
    TooLarge,
    UnknownTask,
)
from tasksubmit.interfaces import (
    IAdmissionPolicy,
    ICountingAdmissionPolicy,
    IPureAdmissionPolicy,
    IWithdrawalPolicy,
    Peer,
    Refusal,
)
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, Note, Tombstone
from tasksubmit.lifecycle.polo import highest_reward
from tasksubmit.lifecycle.table import (
    ENDED_WITHOUT_RESULTS,
    RECEIVER_OUTCOMES,
    SUBMITTER_OUTCOMES,
    TRANSITIONS,
    Deadline,
    Event,
    Lease,
    Side,
    TaskStatus,
    Timeouts,
    advance,
)
from tasksubmit.lifecycle.task import Reason, Task, TaskKey
from tasksubmit.logs import quiet_logger
from tasksubmit.node.handout import HandOut
from tasksubmit.node.holds import hold
from tasksubmit.node.load import Load
from tasksubmit.node.policy import eventual
from tasksubmit.node.records import Decision, Records, always, clipped, described, kept_as, overdue, recorded_time
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import MAX_FRAME
from tasksubmit.wire.messages import (
    ACK,
    FEATURES,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
)
from tasksubmit.wire.timestamps import format_time

IGNORED = "message ignored: task {task_id} is {status}, and cannot {event}"
"""The log line of a message that changes nothing."""

_LONGEST_MS = 2**63 - 1

_REVIVAL_PAUSE = timedelta(minutes=1)


class Inbox:
    """What a receiver does with tasks. Its methods return, or fire, after the commit."""

    def __init__(
        self,
        records: Records,
        policy: IAdmissionPolicy,
        load: Load,
        timeouts: Timeouts,
        announced: Callable[[Address, Sequence[str]], None],
        created: Callable[[Task], None],
        may_speak_for: Callable[[Peer, Address], bool],
        attempted: Callable[[], Deferred[Any]],
        started: Callable[[], Awaitable[None]],
        is_trusted: Callable[[Address], bool],
        recall: Callable[[TaskKey], Deferred[Task | Tombstone | None]],
    ) -> None:
        """
        :param announced: is called with a submitter and the features that it announced.
        :param created: is called with each task that is new.
        :param may_speak_for: whether a peer may say that it is somebody.
        :param attempted: fires when it was tried to read what has to be known before anything new is taken.
        :param started: waits until executions may begin: after the leases of the node's last run were ended.
        :param is_trusted: whether work may be done for a peer.
        :param recall: see `ITaskStore.recall`; waits until there is memory for a record.
        """
        self._log = quiet_logger(__name__)
        self._may_speak_for = may_speak_for
        self._records = records
        self._store = records.store
        self._policy = policy
        self._is_policy_pure = IPureAdmissionPolicy.providedBy(policy)
        self._counting = policy if ICountingAdmissionPolicy.providedBy(policy) else None
        self._withdrawals = policy if IWithdrawalPolicy.providedBy(policy) else None
        self._load = load
        self._timeouts = timeouts
        self._announced = announced
        self._tell_created = created
        self.is_draining = False
        self.is_enabled: bool | None = None
        self._attempted = attempted
        self._started = started
        self._is_trusted = is_trusted
        self._recall = recall
        self._unreported: set[TaskKey] = set()
        self.refusals: list[Callable[[], Refusal | None]] = []
        self._hand_out = HandOut(records, self._take, lambda: self.is_draining)

    # --- what the submitter asks -------------------------------------------------------------------------------

    def task_submitted(self, peer: Peer, request: SubmitRequest) -> Deferred[SubmitResponse]:
        """Admit a submission, or answer one that is known already; see wire.md, sections 4 and 6."""
        try:
            key = TaskKey(Side.RECEIVER, self._submitter(peer, request), request.task_id)
            self._records.doubts.check(key.task_id, key.peer)
        except TaskSubmitError:
            return fail()
        if (
            not request.query
            and self._is_policy_pure
            and self._closed(key.peer) is None
            and self._policy.admit(peer, request) is None
        ):
            return self._create(peer, request, key)
        return self._recall(key).addCallback(self._recalled, peer, request, key)

    def _recalled(
        self, known: Task | Tombstone | None, peer: Peer, request: SubmitRequest, key: TaskKey
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        if isinstance(known, Tombstone):
            return _remembered(request, known)
        if known is not None:
            return Deferred.fromCoroutine(self._answer_known(known, request))
        if request.query:
            raise UnknownTask(f"there is no task {request.task_id} here")
        if self._closed(key.peer) is _STARTING:
            return self._attempted().addCallback(lambda _: self._admit(peer, request, key))
        return self._admit(peer, request, key)

    def _admit(self, peer: Peer, request: SubmitRequest, key: TaskKey) -> SubmitResponse | Deferred[SubmitResponse]:
        refusal = self._closed(key.peer) or eventual(self._policy.admit(peer, request))
        if isinstance(refusal, Deferred):
            return refusal.addCallback(self._judged, peer, request, key)
        return self._judged(refusal, peer, request, key)

    def _closed(self, peer: Address) -> Refusal | None:
        """Return why nothing new is taken from a peer, whatever it is, if so."""
        if self.is_draining:
            return _DRAINING
        if self.is_enabled is False:
            return _DISABLED
        if not self.is_enabled or not self._load.is_known:
            return _STARTING
        return self.refusal() or self._records.room.refusal(peer)

    def refusal(self) -> Refusal | None:
        """Return why no new task can be dealt with at the moment, if so: the first of `refusals`."""
        for refuse in self.refusals:
            if (why := refuse()) is not None:
                return why
        return None

    def _judged(
        self, refusal: Refusal | None, peer: Peer, request: SubmitRequest, key: TaskKey
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        if refusal is not None:
            self._log.info(
                "refused task {task_id} of {size} characters from {peer}: {code}",
                task_id=key.task_id,
                size=len(request.task_description),
                peer=key.peer,
                code=refusal.code,
            )
            return _rejected(request.task_id, refusal)
        return self._create(peer, request, key)

    def _create(self, peer: Peer, request: SubmitRequest, key: TaskKey) -> Deferred[SubmitResponse]:
        task = Task.new(
            side=key.side,
            peer=key.peer,
            task_id=key.task_id,
            description=request.task_description,
            created_at=self._records.now(),
            expires_at=recorded_time(request.expires_at) if request.expires_at else None,
            features=request.features,
        )
        self._load.begin(task)
        return self._records.create(task).addCallbacks(
            self._created, self._not_created, callbackArgs=(task, peer, request), errbackArgs=(task, request)
        )

    def _created(
        self, created: tuple[Task, bool], asked: Task, peer: Peer, request: SubmitRequest
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        task, is_new = created
        if not is_new:
            self._load.undo(asked)
            return Deferred.fromCoroutine(self._answer_known(task, request))
        self._load.created(asked)
        if self._counting is not None:
            self._counting.created(peer, request)
        self._records.remember(task)
        self._announced(task.peer, request.features)
        if ACK not in request.features:
            self._records.hold_messages(task.key)
        self._tell_created(task)
        return _received(request)

    def _not_created(self, failure: Failure, task: Task, request: SubmitRequest) -> Deferred[SubmitResponse]:
        self._load.undo(task)
        self._records.doubts.note(failure, task.key)
        return Deferred.fromCoroutine(self._answer_anyway(failure, task, request))

    async def _answer_anyway(self, failure: Failure, task: Task, request: SubmitRequest) -> SubmitResponse:
        error = failure.value
        if isinstance(error, TaskForgotten):
            return _remembered(request, error.tombstone)
        # When nothing can be written, what was taken before can still be answered for. What may have been written now
        # must not be: nobody may learn of it before it is known to be on disk.
        if isinstance(error, StoreError) and not isinstance(error, StoreUncertain):
            known = await self._store.recall(task.key)
            if isinstance(known, Tombstone):
                return _remembered(request, known)
            if known is not None:
                return await self._answer_known(known, request)
        failure.raiseException()

    async def _answer_known(self, known: Task, request: SubmitRequest) -> SubmitResponse:
        if known.description != request.task_description:
            return _rejected(request.task_id, _CONFLICT)
        self._announced(known.peer, request.features)
        if self._revives(known):
            with suppress(IllegalTransition, UnknownTask):  # or it was asked twice at once
                await self._records.retry(known.key)  # the submitter is back, and waits for it
        return _received(request, known)

    def _revives(self, known: Task) -> bool:
        """True if the question of a submitter has abandoned deliveries retried.

        What it has refused for good stays so until the operator retries it, and the rest is retried once a minute at
        most: a question is small, and results are large.
        """
        abandoned_at = known.delivery_given_up_at
        return abandoned_at is not None and not known.code and self._records.now() >= abandoned_at + _REVIVAL_PAUSE

    def _submitter(self, peer: Peer, request: SubmitRequest) -> Address:
        submitter = Address.parse(request.from_addr)
        if not self._may_speak_for(peer, submitter):
            belongs = f"belongs to {peer.address}" if peer.address is not None else "does not prove that: use TLS"
            raise InvalidMessage(f"from_addr is {submitter}, but the connection {belongs}", "from_addr")
        if Address.parse(request.to_addr) != self._records.own:
            raise InvalidMessage(f"this is {self._records.own}; the task is for {request.to_addr}", "to_addr")
        return submitter

    async def status_updated(self, task: Task, update: TaskStatusUpdate) -> SubmitResponse:
        """Cancel a task for its submitter; in a race with another change, the answer says which one won."""
        reason = Reason(update.outcome, justification=update.justification)
        if (task.side, task.status, Event.CANCEL) not in TRANSITIONS:
            self._log.debug(IGNORED, task_id=task.task_id, status=task.status, event=Event.CANCEL.value)
        return acknowledgement(await self._records.change(task, _cancelled_by(reason)))

    async def withdraw_unknown(self, key: TaskKey, update: TaskStatusUpdate) -> Task | Tombstone | SubmitResponse:
        """Leave a tombstone for a task that its submitter withdrew before it arrived, so that it is never started.

        A submitter that has used up its share gets a retryable refusal, and no tombstone: it repeats the withdrawal, so
        that this still holds.

        :returns: the record or the tombstone that has the key meanwhile; or the refusal.
        :raises UnknownTask: there was neither; the tombstone is on disk.
        """
        refusal = None if self._withdrawals is None else self._withdrawals.admit_withdrawal(key.peer)
        if refusal is not None:
            return _rejected(key.task_id, refusal)
        reason = _told(Reason(update.outcome, justification=clipped(update.justification)))
        tombstone = Tombstone.of_withdrawn(key, reason, self._records.now())
        is_left = False
        self._load.withdrawn(key.peer)  # before the commit, so that others that arrive meanwhile are refused
        try:
            known = await self._store.leave_tombstone(tombstone)
            is_left = known is None
        except StoreUncertain:
            self._records.doubts.add(key)
            raise
        finally:
            if not is_left:
                self._load.withdrawn(key.peer, -1)
        if known is None:
            raise UnknownTask(f"there is no task {key.task_id} here")
        return known

    # --- what the receiver does ----------------------------------------------------------------------------------

    async def accept(self, key: TaskKey, justification: str) -> Task:
        """Take a NEW task into the end of the queue.

        :raises NotAccepting: when the node is being drained.
        :raises IllegalTransition: when it is not NEW, or its time has passed.
        """
        if self.is_draining:
            raise NotAccepting("the node is being drained: it accepts nothing new")
        return await self._begin(key, Event.ACCEPT, justification=justification)

    async def decline(self, key: TaskKey, justification: str) -> Task:
        """Turn a NEW task down, or withdraw from an ACCEPTED one, which is CANCELLED; the justification is required.

        :raises IllegalTransition: when it is neither, or its time has passed.
        """
        if not justification.strip():
            raise InvalidMessage("declining needs a justification: tell the submitter why", "justification")
        return await self._begin(key, Event.DECLINE, justification=justification)

    async def abandon(self, key: TaskKey, reason: str) -> Task:
        """Decline or fail a task without results; of one with results, or one that has ended, nothing changes."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if (task.side, task.status, Event.DECLINE) in TRANSITIONS:
                return (Event.DECLINE,), {"justification": reason}
            if (task.side, task.status, Event.FAIL) in TRANSITIONS:
                return (Event.FAIL,), {"justification": "The execution failed", "error": reason}
            return (), {}

        return await self._records.change(key, decide)

    async def execute(self, key: TaskKey | None, lease: Lease) -> Task:
        """Begin the next task; see `HandOut.begin`."""
        await self._started()
        return await self._hand_out.begin(key, lease)

    async def requeue_unreported(self, key: TaskKey) -> None:
        """Have a task begun again that was begun by a commit in doubt: the caller was told that this had failed."""

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            is_begun = task.status is TaskStatus.EXECUTING and task.put_back_at is None
            if not is_begun or key not in self._unreported:
                return (), {}
            reason = "It was unknown whether the execution had begun"
            return (Event.PUT_BACK,), {"justification": reason, "max_attempts": task.max_attempts + 1}

        if key in self._unreported:
            with suppress(UnknownTask):
                await self._records.change(key, decide)
            self._unreported.discard(key)

    async def _take(self, task: Task, lease: Lease) -> Task:
        if not self._is_trusted(task.peer):
            await self._records.change(task, hold)
            raise IllegalTransition(f"task {task.task_id} is held: {task.peer} is not trusted")
        self._unreported.discard(task.key)
        try:
            return await self._take_now(task, lease)
        except StoreUncertain:
            self._unreported.add(task.key)
            raise

    async def _take_now(self, task: Task, lease: Lease) -> Task:
        terms = {
            "lease_ms": lease.duration // timedelta(milliseconds=1),
            "max_attempts": lease.max_attempts,
            "is_lease_bound": lease.ends_with_node,
        }
        if task.put_back_at is None:
            return await self._begin(task, Event.EXECUTE, justification="The task is being executed", **terms)

        def take_again(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.put_back_at is None:
                raise IllegalTransition(f"task {task.task_id} was taken already")
            again = {**terms, "max_attempts": max(task.max_attempts, lease.max_attempts)}
            return (Event.TAKE_AGAIN,), {
                "justification": f"The task is being executed, attempt {task.attempt}",
                **again,
            }

        return await self._records.change(task, take_again)

    def is_in_vain(self, task: Task) -> bool:
        """True if an execution of a task is in vain: there has been no space for results of its peer for too long."""
        return self._records.room.is_exhausted(task.peer)

    # The number of an attempt is a fencing token: what a worker says about an attempt that was superseded is refused.
    # A worker that names none is believed only while there was a single attempt, which then is the one that it means.
    # An attempt is superseded when the next one starts, not when the task is requeued: until then its results count.

    async def progress(self, key: TaskKey, text: str, attempt: int | None = None) -> Task:
        """Tell how far the execution is, which renews its lease.

        :raises IllegalTransition: when the task is not EXECUTING, or was put back, or ``attempt`` is not the current
            one, or is missing although there was more than one.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.put_back_at is not None:
                raise IllegalTransition(
                    f"task {key.task_id} was put back: execute it again before you tell of progress"
                )
            return (Event.PROGRESS,), {"justification": text}

        return await self._records.change(key, _during(attempt, decide))

    async def put_back(self, key: TaskKey, reason: str, attempt: int | None = None) -> Task:
        """Have an EXECUTING task begun again, by whoever calls `execute` next.

        :raises IllegalTransition: when the task is not EXECUTING, or was put back already, or ``attempt`` is not the
            current one, or is missing although there was more than one.
        """

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            if task.put_back_at is not None:
                raise IllegalTransition(f"task {key.task_id} was put back already")
            # No worker was lost, so none of the attempts that there are for that is used up.
            return (Event.PUT_BACK,), {"justification": reason, "max_attempts": task.max_attempts + 1}

        return await self._records.change(key, _during(attempt, decide))

    async def fail(self, key: TaskKey, error: str, attempt: int | None = None) -> Task:
        """End an EXECUTING task that cannot be done; the submitter is told the error.

        :raises IllegalTransition: when the task is not EXECUTING, or ``attempt`` is not the current one, or is missing
            although there was more than one.
        """
        if not error.strip():
            raise InvalidMessage("failing needs an error: tell the submitter what went wrong", "error")
        failed = always(Event.FAIL, justification="The execution failed", error=clipped(error))
        return await self._records.change(key, _during(attempt, failed))

    async def complete(
        self, key: TaskKey, text: str, filename: str = "", content: bytes = b"", attempt: int | None = None
    ) -> Task:
        """Give the results of an EXECUTING task: a file if there is a ``filename``, else the text.

        :raises InvalidMessage: when the file may not be sent, or has no name.
        :raises TooLarge: when the results do not fit into a frame.
        :raises IllegalTransition: when the task is not EXECUTING, or ``attempt`` is not the current one, or is missing
            although there was more than one.
        """
        if filename and text:
            raise InvalidMessage("give either a text or a file: the text beside a file would be lost", "result_text")
        if content and not filename:
            raise InvalidMessage("a file needs a name, which tells what kind it is", "filename")
        task = self._records.remembered(key)
        if task is None or (task.side, task.status, Event.COMPLETE) not in TRANSITIONS:
            task = await self._records.get(key)
            advance(task.side, task.status, Event.COMPLETE)
        message = TaskResultMessage(
            task_id=key.task_id,
            result_type="file" if filename else "text",
            result_text=text,
            filename=filename,
            file_data=content,
            completed_at=format_time(self._records.now()),
            # What is sent in the end must not be longer than what is checked here.
            time_idle_ms=_LONGEST_MS,
            time_staged_ms=_LONGEST_MS,
            time_cpu_ms=_LONGEST_MS,
            ack=True,
        )
        message.validate()
        if await self._records.elsewhere(len(text) + len(content), message.frame_bytes) > MAX_FRAME:
            raise TooLarge(
                "the results do not fit into one frame of 16 MiB, which takes a file of just under 12 MiB: send less, "
                "or a reference"
            )
        saved = await self._records.save_result(key.peer, message)
        fields = {"justification": "The results were given", **kept_as(message, saved)}
        try:
            return await self._records.change(task, _during(attempt, always(Event.COMPLETE, **fields)))
        except StoreUncertain:
            raise  # the next start finds out whether a record names it
        except Exception:
            await self._store.discard_result(saved.name)
            raise

    async def _begin(self, what: Task | TaskKey, event: Event, **fields: Any) -> Task:
        """Let ``event`` happen, unless a deadline has passed that the clock's last tick did not see."""
        passed: Deadline | None = None

        def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
            nonlocal passed
            advance(task.side, task.status, event)
            passed = task.overdue(now, self._timeouts)
            return ((event,), fields) if passed is None else overdue(task, passed)

        task = await self._records.change(what, decide)
        if passed is not None:
            raise IllegalTransition(f"too late: task {task.task_id} is {task.status} ({task.outcome})")
        return task

    # --- what was told to the submitter --------------------------------------------------------------------------

    async def results_taken(self, task: Task, response: SubmitResponse | None, delivery: Delivery) -> None:
        """The submitter has the results; or it refused them for good.

        The reward that it says it booked is booked here as well, but never more than the task earned by the durations
        of this record: the submitter's word is not proof.
        """
        if response is not None and response.status != ResponseStatus.ACCEPTED:
            self._log.warn(
                "the submitter refused the results of task {task_id}: {code!r}",
                task_id=task.task_id,
                code=clipped(response.code),
            )
            why = f"the submitter refused the results: {clipped(response.message)}"
            code = clipped(response.code) or "refused"
            fields = {**given_up(task, delivery, self._records.now()), "code": code, "error": why}
            note = Note.RESULTS_REFUSED, f"{response.code}: {response.message}"
            await self._records.change(task, always(**fields), gives_up=delivery, note=note)
            return
        if response is not None and response.current_status in ENDED_WITHOUT_RESULTS:
            self._log.info(
                "results delivered too late: task={task_id} submitter_status={status}",
                task_id=task.task_id,
                status=response.current_status,
            )
            too_late = f"The results were delivered too late: the submitter's record is {response.current_status}"
            await self._records.change(task, always(Event.DELIVER_LATE, justification=too_late), settles=delivery)
            return
        told = response.reward if response is not None and response.reward > 0 else None
        reward = None if told is None else min(told, highest_reward(task))
        reduced: tuple[Note, str] | None = None
        if told != reward:
            reduced = Note.DELIVERED, f"{described(delivery)}; the acknowledgment says reward {told}, booked {reward}"
            self._log.warn(
                "reward reduced: task={task_id} peer={peer} acknowledged={told} booked={reward}",
                task_id=task.task_id,
                peer=task.peer,
                told=told,
                reward=reward,
            )
        delivered = always(Event.DELIVER, reward=reward, justification="The results were delivered")
        await self._records.change(task, delivered, settles=delivery, note=reduced)

    async def delivery_given_up(self, task: Task, delivery: Delivery) -> None:
        """What was to be told is too old; somebody may have it tried again."""
        fields = given_up(task, delivery, self._records.now())
        note = Note.DELIVERY_GIVEN_UP, described(delivery)
        await self._records.change(task, always(**fields), gives_up=delivery, note=note)

    async def status_taken(self, task: Task, response: SubmitResponse | None, delivery: Delivery) -> None:
        """Settle a status update that the submitter has acknowledged, or refused for good.

        If its own record has ended, nobody waits for the task any more.
        """
        decision = always()
        if response is not None and response.current_status in ENDED_WITHOUT_RESULTS:
            reason = Reason(response.outcome, justification=clipped(response.justification))
            decision = _cancelled_by(reason)
        await self._records.change(task, decision, settles=delivery)


_CONFLICT = Refusal("id_conflict", "this task id was used for another description")
_DISABLED = Refusal("not_accepting", "this node takes no tasks at the moment; try again later", retry_after_s=60)
_STARTING = Refusal("storage", "this node cannot read its store yet; try again later", retry_after_s=1)
_DRAINING = Refusal("not_accepting", "the node is being drained and will stop; try again later", retry_after_s=5)


def _told(reason: Reason) -> Reason:
    """Return a submitter's reason; ``cancelled_by_submitter`` replaces a word that no submitter has."""
    return reason if reason.outcome in SUBMITTER_OUTCOMES else evolve(reason, outcome="cancelled_by_submitter")


def _cancelled_by(reason: Reason) -> Decision:
    """Cancel, if the table allows that; else complete the reason of a task that was cancelled without one."""
    told = _told(reason)
    fields = {"outcome": told.outcome, "justification": clipped(told.justification)}

    def decide(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
        if (task.side, task.status, Event.CANCEL) in TRANSITIONS:
            return (Event.CANCEL,), fields
        return (), fields if task.status is TaskStatus.CANCELLED and not task.outcome else {}

    return decide


def _during(attempt: int | None, decide: Decision) -> Decision:
    """The decision, provided that ``attempt`` is the current one."""

    def decide_if_current(task: Task, now: datetime) -> tuple[Sequence[Event], Mapping[str, Any]]:
        _require_current(task, attempt)
        return decide(task, now)

    return decide_if_current


def _require_current(task: Task, attempt: int | None) -> None:
    """Refuse a worker whose attempt was superseded, or one that does not say which attempt it means.

    A task that is not EXECUTING has no current attempt: the table of transitions refuses it with a better reason.
    """
    if task.status is not TaskStatus.EXECUTING:
        return
    current = task.attempt - (task.put_back_at is not None)  # a requeued task has the number of its next attempt
    if attempt is None:
        if current > 1:
            raise IllegalTransition(
                f"task {task.task_id} is at attempt {current}: give the number of the attempt that this is about, "
                "as `execute` gave it (--attempt N; attempt=N in Python and in the control API)"
            )
    elif attempt != current:
        raise IllegalTransition(
            f"attempt {attempt} of task {task.task_id} was superseded: it is at attempt {current}"
            if attempt < current
            else f"task {task.task_id} has no attempt {attempt} yet: it is at attempt {current}"
        )


def given_up(task: Task, delivery: Delivery, now: datetime) -> dict[str, Any]:
    """What the record says when a delivery of its is given up."""
    is_over = task.ended_at is None and delivery.kind is DeliveryKind.RESULTS
    return {"delivery_given_up_at": now, **({"ended_at": now} if is_over else {})}


def _remembered(request: SubmitRequest, tombstone: Tombstone) -> SubmitResponse:
    if not tombstone.is_of(request.task_description):
        return _rejected(request.task_id, _CONFLICT)
    return _received(request, tombstone)


def _received(request: SubmitRequest, known: Task | Tombstone | None = None) -> SubmitResponse:
    return SubmitResponse(
        task_id=request.task_id,
        status=ResponseStatus.ACCEPTED,
        message="Task received with status NEW",
        features=FEATURES,
        **(_standing(known) if known else {}),
    )


def _rejected(task_id: str, refusal: Refusal) -> SubmitResponse:
    return SubmitResponse(
        task_id=task_id,
        status=ResponseStatus.REJECTED,
        message=refusal.message,
        code=refusal.code,
        retry_after_s=refusal.retry_after_s,
    )


def acknowledgement(task: Task | Tombstone, reward: int = 0) -> SubmitResponse:
    """Return the answer to a message about a task: its status, and the reason for a final one."""
    return SubmitResponse(
        task_id=task.key.task_id,
        status=ResponseStatus.ACCEPTED,
        message=f"Task is {task.status}",
        features=FEATURES,
        reward=reward,
        **_standing(task),
    )


def _standing(task: Task | Tombstone) -> dict[str, Any]:
    """Return the fields of an answer for a task's status, and for the reason for a final one (wire.md, section 6).

    An outcome that stays in one record, such as ``late``, is not among them.
    """
    reason = task.reason
    is_reported = reason.outcome in RECEIVER_OUTCOMES or reason.outcome in SUBMITTER_OUTCOMES
    return {
        "current_status": task.status.value,
        "outcome": reason.outcome if is_reported else "",
        "error": clipped(reason.error),
        "justification": clipped(reason.justification),
    }
