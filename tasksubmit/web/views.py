"""What the control API answers. Text in it that comes from peers is data, to be shown as text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from attrs import fields, frozen
from typing_extensions import Self

from tasksubmit.lifecycle.change import Delivery, DeliveryKind
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import TaskResultMessage, TaskStatusUpdate


@frozen(kw_only=True)
class TaskView:
    """One side's record of a task; most keys are those of `Task`. `number` orders the records of a node."""

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
    created_at: datetime
    answered_at: datetime | None
    accepted_at: datetime | None
    staged_at: datetime | None
    execute_started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    result_due_at: datetime | None
    cancel_requested_at: datetime | None
    queue_position: int | None
    attempt: int
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
        """The view of `task` as the node ``own`` has it; ``more`` are the keys of a subclass."""
        is_submitted = task.side is Side.SUBMITTER
        from_, to = (own, task.peer) if is_submitted else (task.peer, own)
        same = {a.name: getattr(task, a.name) for a in fields(TaskView) if a.name not in ("from_", "to")}
        return cls(from_=from_, to=to, **same, **more)


@frozen(kw_only=True)
class DeliveryView:
    """A message that is still owed to the other party of a task.

    `status` is the one that a status update tells. `next_attempt_at` is null while an earlier message waits.
    """

    kind: DeliveryKind
    status: str | None
    created_at: datetime
    attempts: int
    last_error: str
    next_attempt_at: datetime | None

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryView:
        """The view of `delivery`."""
        is_status = delivery.kind is DeliveryKind.STATUS
        return cls(
            kind=delivery.kind,
            status=TaskStatusUpdate.from_json(delivery.payload).status if is_status else None,
            created_at=delivery.created_at,
            attempts=delivery.attempts,
            last_error=delivery.last_error,
            next_attempt_at=delivery.ready_at,
        )


@frozen(kw_only=True)
class TaskDetails(TaskView):
    """A task, and what is still owed to its other party, in the order of sending."""

    deliveries: list[DeliveryView]

    @classmethod
    def with_deliveries(cls, task: Task, own: Address, deliveries: Iterable[Delivery]) -> TaskDetails:
        """The view of `task` with what is owed for it."""
        return cls.of(task, own, deliveries=[DeliveryView.of(delivery) for delivery in deliveries])


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
    """A running node: its address, its version, where it listens for peers, and how many peers it knows."""

    address: Address
    version: str
    listening: list[str]
    peers: int


@frozen(kw_only=True)
class PeerView:
    """A peer that the node knows: what it announced, and whether something is owed to it."""

    address: Address
    features: list[str]
    is_owed: bool


@frozen(kw_only=True)
class ScoreView:
    """The polo score of an address, as this node's ledger has it."""

    address: Address
    score: int
