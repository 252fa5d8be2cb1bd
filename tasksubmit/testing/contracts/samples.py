"""Records, changes and messages that the contracts are tested with."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import evolve

from tasksubmit.interfaces import Peer
from tasksubmit.lifecycle.change import Change, Delivery, DeliveryKind, TaskEvent
from tasksubmit.lifecycle.table import Event, Side, TaskStatus, advance
from tasksubmit.lifecycle.task import Task
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import FEATURES, MAX_DESCRIPTION_BYTES, MAX_FEATURES, MAX_TASK_ID, SubmitRequest

OWN = Address.parse("0:0000.0000.0001")
PEER = Address.parse("0:0000.0000.0002")
OTHER = Address.parse("0:0000.0000.0003")
START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=timezone.utc)


def at(milliseconds: int) -> datetime:
    """So many milliseconds after `START`."""
    return START + timedelta(milliseconds=milliseconds)


def new_task(task_id: str = "t-1", side: Side = Side.RECEIVER, peer: Address = PEER, **fields: Any) -> Task:
    """A record as it is before the store has it."""
    return Task(side=side, peer=peer, task_id=task_id, **{"description": "read", "created_at": START, **fields})


def owed(task: Task, payload: bytes = b"", milliseconds: int = 0, kind: DeliveryKind = DeliveryKind.STATUS) -> Delivery:
    """A message, a status by default, that is owed to the other party of a task."""
    return Delivery(key=task.key, kind=kind, payload=payload, created_at=at(milliseconds))


def told(name: str, milliseconds: int = 0, detail: str = "", status: TaskStatus = TaskStatus.NEW) -> TaskEvent:
    """A line of a task's story."""
    return TaskEvent(at=at(milliseconds), name=name, by="receiver", status=status, detail=detail)


def step(before: Task, event: Event, milliseconds: int, fields: dict[str, Any] | None = None, **more: Any) -> Change:
    """What an event, and the fields that it sets besides, do to a task; ``more`` goes into the `Change`."""
    changed = evolve(before, **(fields or {}))
    after = changed.advanced(advance(before.side, before.status, event), at(milliseconds))
    return Change(before=before, after=after, at=at(milliseconds), **more)


def submissions() -> list[tuple[Peer, SubmitRequest]]:
    """Valid submissions, common and odd, each with who is at the other end of the connection."""
    common = SubmitRequest("t-1", "Summarise the minutes", str(PEER), str(OWN), FEATURES)
    odd: list[dict[str, Any]] = [
        {},
        {"features": ()},
        {"features": tuple(f"feature-{n}" for n in range(MAX_FEATURES))},
        *({"task_id": task_id} for task_id in ("0", "x" * MAX_TASK_ID, "A-b_c.9", "-")),
        *({"task_description": text} for text in ("", " ", "\n\r\t\0", "\u4ea4 \U0001f600", "'; DROP TABLE tasks; --")),
        {"task_description": "x" * MAX_DESCRIPTION_BYTES},
        *({"expires_at": time} for time in ("1970-01-01T00:00:00Z", "2999-12-31T23:59:59.25+02:00")),
        *({"from_addr": str(sender)} for sender in (OTHER, OWN, Address(0, 0), Address(2**16 - 1, 2**32 - 1))),
        {"to_addr": str(OTHER)},
    ]
    requests = [evolve(common, **fields) for fields in odd]
    return [
        (Peer(Address.parse(request.from_addr) if is_authenticated else None, "a test"), request)
        for request in requests
        for is_authenticated in (False, True)
    ]
