"""The requests that a server takes, and the order in which it answers them."""

from __future__ import annotations

from typing import TypeAlias

from attrs import define

from tasksubmit.wire.frames import FrameType
from tasksubmit.wire.messages import SubmitRequest, TaskResultMessage, TaskStatusUpdate

Request: TypeAlias = SubmitRequest | TaskStatusUpdate | TaskResultMessage

MESSAGES: dict[int, type[Request]] = {
    FrameType.SUBMIT: SubmitRequest,
    FrameType.STATUS_UPDATE: TaskStatusUpdate,
    FrameType.SEND_RESULTS: TaskResultMessage,
}
"""What the payload of each type of frame is."""


@define(eq=False)
class Turn:
    """A frame's place in the order of answers; lives from its arrival until its answer is out.

    :ivar size_bytes: the length of its payload.
    :ivar request: what it says, once that is known.
    :ivar answer: the bytes to send, once they are known; None, too, where nothing is to be sent.
    :ivar is_unhandled: whether nothing came of the frame, so that the connection has to be aborted.
    :ivar results: old synchronous results that were ready before the answer was out.
    """

    size_bytes: int
    request: Request | None = None
    is_done: bool = False
    is_out: bool = False
    is_unhandled: bool = False
    answer: bytes | None = None
    results: tuple[bytes, ...] = ()
