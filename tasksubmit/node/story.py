"""A task's whole story: what happened to it, what is owed for it, and what it waits for now.

`outlook` says the last of these in a sentence. It reads the same tables as the node does: what time will do is found
in `DEADLINES`, so a new deadline is told without a change here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from attrs import frozen

from tasksubmit.commandline import command_line
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, TaskEvent
from tasksubmit.lifecycle.table import DEADLINES, Event, Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import END_OF_TIME, Task, TaskKey
from tasksubmit.node.records import Records

MANY = 100
"""How many tasks before one are counted; more are many."""


@frozen(kw_only=True)
class Outlook:
    """What a task waits for.

    :ivar sentence: what it waits for, to be read after the task's name or status; without a time.
    :ivar until: when it waits no longer; None when it waits without end, for nothing, or for what is due already.
    :ivar then: what happens at that time; empty when nothing does.
    :ivar commands: of the command line, that act on the task as it stands; words in capitals are to be filled in.
    """

    sentence: str
    until: datetime | None = None
    then: str = ""
    commands: tuple[str, ...] = ()


@frozen(kw_only=True)
class Story:
    """One task's story, as it was at `told_at`.

    :ivar events: every line in order; the first is the creation.
    :ivar deliveries: what is owed for it or was given up, in the order of sending.
    """

    task: Task
    told_at: datetime
    events: tuple[TaskEvent, ...]
    deliveries: tuple[Delivery, ...]
    outlook: Outlook


@frozen
class Stories:
    """Tells the stories of a node's tasks.

    :ivar age_limit: how long a message is tried before it is given up.
    """

    records: Records
    timeouts: Timeouts
    age_limit: timedelta

    async def tell(self, key: TaskKey) -> Story:
        """The story of the task known by ``key``.

        :raises UnknownTask: when there is none.
        """
        task = await self.records.get(key)
        events = await self.records.store.events_of(task)
        deliveries = await self.records.store.deliveries_of(key)
        ahead = await self._ahead_of(task)
        others = await self.records.store.find(task.task_id)
        now = self.records.now()
        return Story(
            task=task,
            told_at=now,
            events=(_creation(task), *events),
            deliveries=tuple(deliveries),
            outlook=outlook(task, deliveries, ahead, self.timeouts, self.age_limit, now, is_ambiguous=len(others) > 1),
        )

    async def _ahead_of(self, task: Task) -> int:
        """How many tasks `Node.execute` takes before this one, up to `MANY`; 0 for one that it does not take."""
        if not task.waits_to_begin:
            return 0
        waiting = [other.key for other in await self.records.store.put_back(MANY)]
        if task.put_back_at is None:
            waiting += [other.key for other in await self.records.store.queue(MANY)]
        return min(waiting.index(task.key) if task.key in waiting else MANY, MANY)


def _creation(task: Task) -> TaskEvent:
    """The line that the record itself tells."""
    where = f"from {task.peer}" if task.side is Side.RECEIVER else f"to {task.peer}"
    return TaskEvent(at=task.created_at, name="submitted", by="submitter", status=TaskStatus.NEW, detail=where)


def outlook(
    task: Task,
    deliveries: Sequence[Delivery],
    ahead: int,
    timeouts: Timeouts,
    age_limit: timedelta,
    now: datetime,
    *,
    is_ambiguous: bool = False,
) -> Outlook:
    """What ``task`` waits for, until when, and what can be done about it.

    :param deliveries: what is owed for it or was given up, in the order of sending.
    :param ahead: how many tasks are executed before this one, up to `MANY`; of no matter unless it is in the queue.
    :param age_limit: how long a message is tried before it is given up.
    :param is_ambiguous: True if other tasks have the same id, so that commands have to name the peer.
    """
    owed = [delivery for delivery in deliveries if delivery.given_up_at is None]
    is_given_up = len(owed) < len(deliveries)
    tell = _held if task.held_at is not None else _TELL.get((task.side, task.status), _ended)
    sentence, commands = tell(task, owed, is_given_up, ahead)
    if is_given_up:
        commands = ("retry ID", *commands)
    until, then = _next_turn(task, owed, timeouts, age_limit)
    if until is not None and until <= now:
        until, then = None, f"its time is up: {then} at once"
    return Outlook(
        sentence=sentence,
        until=until,
        then=then,
        commands=tuple(
            command_line(command, task.task_id, _which(task) if is_ambiguous else "") for command in commands
        ),
    )


def _which(task: Task) -> str:
    """The option that tells a task from others with its id."""
    return f"--from {task.peer}" if task.side is Side.RECEIVER else f"--to {task.peer}"


# --- until when ----------------------------------------------------------------------------------------------------

_THEN = {
    Event.PASS_DEADLINE: "it is cancelled",
    Event.TIME_OUT_ACCEPT: "it is cancelled",
    Event.TIME_OUT_QUEUE_HEAD: "it expires, which costs a point",
    Event.TIME_OUT_LEASE: "it is cancelled",
    Event.TIME_OUT_HOLD: "it is cancelled",
    Event.RUN_AGAIN: "it is put back, to be begun again",
    Event.TIME_OUT_DELIVERY: "its cancellation is requested",
    Event.REFUSE: "it is declined",
    Event.WITHDRAW: "it is cancelled",
    Event.TIME_OUT_CANCEL: "it is cancelled all the same",
    Event.QUERY_UNDECIDED: "the receiver is queried",
    Event.TIME_OUT_ANSWER: "its cancellation is requested",
    Event.TIME_OUT_RESULTS: "its cancellation is requested",
    Event.ASK_AGAIN: "the receiver is asked how it stands",
}
"""What each event that a deadline brings about is for people."""


def _next_turn(
    task: Task, owed: Sequence[Delivery], timeouts: Timeouts, age_limit: timedelta
) -> tuple[datetime | None, str]:
    """When time alone will do something to the task, and what: by a deadline, or by giving up what is owed."""
    turns = [
        (getattr(task, deadline.since) + timeouts.limit(deadline), _THEN[task.events_of(deadline)[-1]])
        for deadline in DEADLINES
        if task.meets(deadline, END_OF_TIME)
    ]
    withdrawal = _withdrawal(task, owed)
    if withdrawal is not None:
        turns.append((withdrawal.created_at + age_limit, "it counts as cancelled"))
    if owed and (task.status.is_final or task.status is TaskStatus.COMPLETED):
        turns.append((min(delivery.created_at for delivery in owed) + age_limit, "what is owed for it is given up"))
    return min(turns, default=(None, ""))


def _withdrawal(task: Task, owed: Sequence[Delivery]) -> Delivery | None:
    """The cancellation that a submitter owes to the receiver of an open task."""
    is_open = task.side is Side.SUBMITTER and not task.is_settled
    return next((delivery for delivery in owed if is_open and delivery.kind is DeliveryKind.STATUS), None)


# --- what for ------------------------------------------------------------------------------------------------------

_Told = tuple[str, tuple[str, ...]]
"""A sentence, and the verbs that act on the task."""


def _received(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    return "waits for somebody here to accept or decline it", ("accept ID", "decline ID --justification WHY")


def _queued(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    if not ahead:
        return "is at the head of the queue, and waits for somebody here to begin it", ("execute ID",)
    if task.staged_at is not None:
        return f"is at the head of the queue, but behind {_counted(ahead)} put back", ("queue", "execute")
    return f"waits in the queue behind {_counted(ahead)}", ("queue",)


def _held(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    # An attempt that was superseded by none may still give results.
    commands = ("decline ID --justification WHY",) if task.status is TaskStatus.ACCEPTED else ()
    return "is held, because its submitter is not trusted", commands


def _in_execution(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    if task.put_back_at is not None:
        behind = f", behind {_counted(ahead)} put back before it" if ahead else ""
        commands = ("queue", "execute") if ahead else ("execute ID",)
        return f"was put back, and waits to be begun again as attempt {task.attempt}{behind}", commands
    attempt = f" --attempt {task.attempt}" if task.attempt > 1 else ""  # without, each of these would be refused
    verbs = ("send-results ID --text TEXT", "progress ID TEXT", "fail ID --error TEXT", "put-back ID")
    return (
        f"waits for whoever executes it here (attempt {task.attempt} of {task.max_attempts}) to give the results, or"
        " to report progress",
        tuple(verb + attempt for verb in verbs),
    )


def _completed(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    results = next((delivery for delivery in owed if delivery.kind is DeliveryKind.RESULTS), None)
    if results is not None or not is_given_up:
        return f"waits for the submitter to take the results{_failed(results)}", ()
    if task.error:  # in the submitter's words, which the history quotes
        return "waits for nobody: the submitter refused the results", ()
    return "waits for nobody: the results could not be delivered, and were given up", ()


def _submitted(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    if task.cancel_requested_at is not None:
        return _withdrawn(task, owed, is_given_up)
    if task.answered_at is not None:
        return "waits for the receiver to accept or decline it", ("cancel ID",)
    if task.code == "unconfirmed":
        return "was sent, but the answer was lost: waits for the receiver to tell more", ("cancel ID",)
    submission = _question(owed)
    if task.is_refused:
        return "was refused for now, and waits to be submitted again", ("cancel ID",)
    how = "waits to reach" if submission is not None and submission.attempts else "is being sent to"
    return f"{how} the receiver{_failed(submission)}", ("cancel ID",)


def _followed(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    if task.cancel_requested_at is not None:
        return _withdrawn(task, owed, is_given_up)
    what = "begin it" if task.status is TaskStatus.ACCEPTED else "give the results"
    question = _question(owed)
    if question is not None:
        asked = f", and asks how it stands{_failed(question)}"
    else:
        asked = "" if task.heard_at is not None else ", which cannot be asked how it stands"
    return f"waits for the receiver to {what}{asked}", ("wait ID", "cancel ID")


def _withdrawn(task: Task, owed: Sequence[Delivery], is_given_up: bool) -> _Told:
    withdrawal = _withdrawal(task, owed)
    if withdrawal is None:
        question = _question(owed)
        asked = "" if question is None else f", and asks how it stands{_failed(question)}"
        return f"was to be cancelled, but too late: waits for the results{asked}", ("wait ID",)
    first = owed[0]  # what is tried: the withdrawal may have to wait for the submission
    return f"waits for the receiver to confirm that it is cancelled{_failed(first)}", ("wait ID",)


def _has_results(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    return "has its results; the receiver has yet to say that this is known", ("result ID",)


def _ended(task: Task, owed: Sequence[Delivery], is_given_up: bool, ahead: int) -> _Told:
    other = "submitter" if task.side is Side.RECEIVER else "receiver"
    has_results = task.side is Side.SUBMITTER and task.status is TaskStatus.SUCCEEDED
    commands = ("result ID",) if has_results else ()
    if owed:
        return f"is over, but the {other} is still to be told{_failed(owed[0])}", commands
    if is_given_up:
        return f"is over, but the {other} could not be told of all", commands
    return "is over: nothing more will happen", commands


_TELL = {
    (Side.RECEIVER, TaskStatus.NEW): _received,
    (Side.RECEIVER, TaskStatus.ACCEPTED): _queued,
    (Side.RECEIVER, TaskStatus.EXECUTING): _in_execution,
    (Side.RECEIVER, TaskStatus.COMPLETED): _completed,
    (Side.SUBMITTER, TaskStatus.NEW): _submitted,
    (Side.SUBMITTER, TaskStatus.ACCEPTED): _followed,
    (Side.SUBMITTER, TaskStatus.EXECUTING): _followed,
    (Side.SUBMITTER, TaskStatus.COMPLETED): _has_results,
}
"""Who tells of a task; the others are over."""


def _question(owed: Sequence[Delivery]) -> Delivery | None:
    """The submission, which is the question how the task stands as well."""
    return next((delivery for delivery in owed if delivery.kind is DeliveryKind.SUBMISSION), None)


def _failed(delivery: Delivery | None) -> str:
    """What to add when a delivery was tried in vain."""
    if delivery is None or not delivery.attempts:
        return ""
    times = "once" if delivery.attempts == 1 else f"{delivery.attempts} times"
    return f" (tried {times} in vain)"


def _counted(ahead: int) -> str:
    if ahead >= MANY:
        return f"{MANY} tasks or more"
    return "1 task" if ahead == 1 else f"{ahead} tasks"
