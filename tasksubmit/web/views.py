"""What the control API answers. Text in it that comes from peers is data, to be shown as text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar

from attrs import fields, frozen
from typing_extensions import Self

from tasksubmit.lifecycle.change import Delivery, DeliveryKind, TaskEvent
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.attempt import UnendedExecution
from tasksubmit.node.availability import ExecutorProblem
from tasksubmit.node.drain import Drained
from tasksubmit.node.purge import Batch, Selected
from tasksubmit.node.story import Story
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import TaskResultMessage, TaskStatusUpdate

T = TypeVar("T")


@frozen(kw_only=True)
class Page(Generic[T]):
    """One page of a list: its items, and the total of all pages.

    :ivar total: at least so many; all of them if `is_total_exact`.
    :ivar more: True if the list goes on behind this page.
    """

    items: list[T]
    total: int
    is_total_exact: bool
    more: bool


@frozen(kw_only=True)
class TaskView:
    """One side's record of a task; most keys are those of `Task`. `number` orders the records of a node.

    While the task is EXECUTING, either `lease_expires_at` says until when its executor may be silent, or `put_back_at`
    since when it waits to be begun again. `held_at` is set while a received task is held because its submitter is not
    trusted. `ended_at` is when nobody needs to wait for it any longer. `delivery_given_up_at` is set while something
    that is owed for it is not tried any more.
    """

    task_id: str
    number: int
    side: Side
    peer: Address
    from_: Address
    to: Address
    description: str
    status: TaskStatus
    justification: str
    outcome: str
    error: str
    code: str
    retry_after_s: int
    created_at: datetime
    answered_at: datetime | None
    accepted_at: datetime | None
    staged_at: datetime | None
    execute_started_at: datetime | None
    lease_expires_at: datetime | None
    put_back_at: datetime | None
    held_at: datetime | None
    completed_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None
    result_due_at: datetime | None
    deliver_by: datetime | None
    heard_at: datetime | None
    cancel_requested_at: datetime | None
    delivery_given_up_at: datetime | None
    queue_position: int | None
    attempt: int
    max_attempts: int
    time_idle_ms: int
    time_staged_ms: int
    time_cpu_ms: int
    scored_cpu_ms: int | None
    is_time_disputed: bool
    reward: int | None
    result_type: str
    result_filename: str
    result_file: str
    late_result_file: str

    @classmethod
    def of(cls, task: Task, own: Address, **more: Any) -> Self:
        """The view of ``task`` as the node ``own`` has it; ``more`` are the keys of a subclass."""
        is_submitted = task.side is Side.SUBMITTER
        from_, to = (own, task.peer) if is_submitted else (task.peer, own)
        same = {a.name: getattr(task, a.name) for a in fields(TaskView) if a.name not in ("from_", "to")}
        return cls(from_=from_, to=to, **same, **more)


@frozen(kw_only=True)
class DeliveryView:
    """A message that is still owed to the other party of a task, or was given up at `given_up_at`.

    `status` is the one that a status update, or progress, tells. `next_attempt_at` is null while an earlier message
    waits, and when the message was given up.
    """

    kind: DeliveryKind
    status: str | None
    created_at: datetime
    attempts: int
    last_error: str
    next_attempt_at: datetime | None
    given_up_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        """The view of `delivery`."""
        return cls(
            kind=delivery.kind,
            status=TaskStatusUpdate.from_json(delivery.payload).status if delivery.payload else None,
            created_at=delivery.created_at,
            attempts=delivery.attempts,
            last_error=delivery.last_error,
            next_attempt_at=delivery.ready_at,
            given_up_at=delivery.given_up_at,
        )


@frozen(kw_only=True)
class TaskDetails(TaskView):
    """A task, and what is owed to its other party or was given up, in the order of sending."""

    deliveries: list[DeliveryView]

    @classmethod
    def with_deliveries(cls, task: Task, own: Address, deliveries: Iterable[Delivery]) -> TaskDetails:
        """The view of ``task`` with what is owed for it."""
        return cls.of(task, own, deliveries=[DeliveryView.of(delivery) for delivery in deliveries])


@frozen(kw_only=True)
class EventView:
    """One line of a task's story, by ``submitter``, ``receiver``, ``time`` or ``node``.

    `status` is where the task stood afterwards. What happened several `times` in a row, last at `last_at`, is one line.
    """

    at: datetime
    name: str
    by: str
    status: TaskStatus
    detail: str
    times: int
    last_at: datetime | None

    @classmethod
    def of(cls, event: TaskEvent) -> EventView:
        """The view of ``event``."""
        return cls(**{a.name: getattr(event, a.name) for a in fields(EventView)})


@frozen(kw_only=True)
class StoryView(TaskDetails):
    """A task, what is owed for it, all that happened to it, and what it waits for, as it was at `told_at`.

    `sentence` says what it waits for, `until` until when, if there is an end to it, and `then` what happens at that
    time; `commands` are those that act on the task as it stands.
    """

    told_at: datetime
    events: list[EventView]
    sentence: str
    until: datetime | None
    then: str
    commands: list[str]

    @classmethod
    def of_story(cls, story: Story, own: Address) -> StoryView:
        """The view of ``story``."""
        outlook = story.outlook
        return cls.of(
            story.task,
            own,
            deliveries=[DeliveryView.of(delivery) for delivery in story.deliveries],
            told_at=story.told_at,
            events=[EventView.of(event) for event in story.events],
            sentence=outlook.sentence,
            until=outlook.until,
            then=outlook.then,
            commands=list(outlook.commands),
        )


@frozen(kw_only=True)
class ResultView:
    """The results of a submitted task: `text` of a text, `filename` and `content_base64` of a file; else null."""

    task_id: str
    result_type: str
    text: str | None
    filename: str | None
    content_base64: bytes | None
    completed_at: str

    @classmethod
    def of(cls, message: TaskResultMessage) -> ResultView:
        """The view of the results that `message` carries."""
        is_file = message.result_type == "file"
        return cls(
            task_id=message.task_id,
            result_type=message.result_type,
            text=None if is_file else message.result_text,
            filename=message.filename if is_file else None,
            content_base64=message.file_data if is_file else None,
            completed_at=message.completed_at,
        )


@frozen(kw_only=True)
class NodeView:
    """A running node: its address, its version, where it listens for peers, and how many peers it knows.

    One that `is_draining` takes nothing new, and will stop.
    """

    address: Address
    version: str
    listening: list[str]
    peers: int
    is_draining: bool
    is_enabled: bool


@frozen(kw_only=True)
class DrainedView:
    """What is left when a node has come to rest: executions that it put back, and peers that it still owes something.

    One that `is_stopping` ends its process after this answer.
    """

    put_back: int
    owed_to: int
    is_stopping: bool

    @classmethod
    def of(cls, drained: Drained, is_stopping: bool) -> DrainedView:
        """The view of ``drained``."""
        return cls(put_back=drained.put_back, owed_to=drained.owed_to, is_stopping=is_stopping)


@frozen(kw_only=True)
class PeerView:
    """A peer that the node knows: what it announced, and whether something is owed to it.

    `proofs` are what proves that somebody is this peer: fingerprints of keys, and ``ca``; with none, anybody may claim
    to be it. `problem` says why it cannot be dialled, if one end refuses the other's certificate.
    """

    address: Address
    features: list[str]
    is_owed: bool
    proofs: list[str]
    problem: str


@frozen(kw_only=True)
class CertificateView:
    """What the node shows to prove who it is; `warning` says what to do once it is about to end."""

    fingerprint: str
    expires_at: datetime
    warning: str


@frozen(kw_only=True)
class ExecutorProblemView:
    """What keeps the node's executor from starting tasks; it is tried again at `retry_at`.

    One that `is_refusing` has the node refuse new tasks.
    """

    error: str
    since: datetime
    retry_at: datetime
    is_refusing: bool

    @classmethod
    def of(cls, problem: ExecutorProblem | None) -> ExecutorProblemView | None:
        """The view of ``problem``."""
        if problem is None:
            return None
        return cls(**{a.name: getattr(problem, a.name) for a in fields(ExecutorProblemView)})


@frozen(kw_only=True)
class UnendedView:
    """An execution that should have ended and keeps its slot, such as one with a process that cannot be killed.

    `error` says what keeps it, for the operator.
    """

    task_id: str
    peer: Address
    attempt: int
    error: str
    since: datetime

    @classmethod
    def of(cls, unended: UnendedExecution) -> UnendedView:
        """The view of ``unended``."""
        return cls(**{a.name: getattr(unended, a.name) for a in fields(UnendedView)})


@frozen(kw_only=True)
class StatusView:
    """How a node does: who it is, what it shows to peers (null where it uses no TLS), and who they are.

    `disk_problem` says why new tasks are refused for want of disk space, and is empty while they are not.
    `executor_problem` is null while the executor can start tasks; `unended` are executions that should have ended.
    `connections` are those that peers have open; `waiting` is the length of the queue, with requeued tasks; `held`
    counts the tasks whose submitters are not trusted, and `owed_to` the peers that something is owed to. `retrying` are
    steps of the node that have failed and are repeated, such as those of its start, with the last error of each.
    """

    address: Address
    version: str
    listening: list[str]
    is_draining: bool
    is_enabled: bool
    disk_problem: str
    executor_problem: ExecutorProblemView | None
    unended: list[UnendedView]
    certificate: CertificateView | None
    connections: int
    waiting: int
    held: int
    owed_to: int
    retrying: dict[str, str]
    peers: list[PeerView]


@frozen(kw_only=True)
class ReloadView(StatusView):
    """Status of a node after a reload, and the effects of the reload, in phrases for people.

    `applied` are changes that are in effect now, `unchanged` what was read again and is as before, and `needs_restart`
    changes that are not in effect until the node is started again.
    """

    applied: list[str]
    unchanged: list[str]
    needs_restart: list[str]


@frozen(kw_only=True)
class WorkersView:
    """Who does the node's tasks, and what is being done.

    `executor` is ``manual`` where nobody in the node does. Of what is `executing`, `justification` is how far it is as
    last told, and ``attempt`` counts up when it was begun again; `waiting` is the length of the queue, with what was
    put back. `done` and `failed` count what the node's own workers did since it was started. `problem` is null while
    the executor can start tasks; `unended` are executions that should have ended and keep their slots.
    """

    executor: str
    problem: ExecutorProblemView | None
    unended: list[UnendedView]
    concurrency: int
    done: int
    failed: int
    waiting: int
    executing: list[TaskView]


@frozen(kw_only=True)
class PurgedView:
    """A task that a step of a purge found, as it was before the step, and what its content takes.

    One that was not removed has an `obstacle` if it cannot be: it has not ended, or something is pending for it.
    """

    task_id: str
    side: Side
    peer: Address
    status: TaskStatus
    created_at: datetime
    ended_at: datetime | None
    description_bytes: int
    result_bytes: int
    is_removed: bool
    obstacle: str

    @classmethod
    def of(cls, selected: Selected) -> PurgedView:
        """The view of ``selected``."""
        names = ("task_id", "side", "peer", "status", "created_at", "ended_at", "result_bytes")
        return cls(
            **{name: getattr(selected.task, name) for name in names},
            description_bytes=len(selected.task.description.encode()),
            is_removed=selected.is_removed,
            obstacle=selected.obstacle,
        )


@frozen(kw_only=True)
class PurgeView:
    """One step of a purge: the tasks that were found, and where the `next` batch begins; null after the last.

    `returned_bytes` are what the step has returned to the file system of the free space in the database; `free_bytes`
    are free in it after that. Unless it `can_shrink` it has to be compacted once, while
    the node is stopped, before it can return any.
    """

    tasks: list[PurgedView]
    next: int | None
    until: int
    returned_bytes: int
    free_bytes: int
    can_shrink: bool

    @classmethod
    def of(cls, batch: Batch) -> PurgeView:
        """The view of ``batch``."""
        return cls(
            tasks=[PurgedView.of(selected) for selected in batch.selected],
            next=batch.next,
            until=batch.until,
            returned_bytes=batch.space.returned_bytes,
            free_bytes=batch.space.free_bytes,
            can_shrink=batch.space.can_shrink,
        )


@frozen(kw_only=True)
class ScoreView:
    """The polo score of an address, as this node's ledger has it."""

    address: Address
    score: int
