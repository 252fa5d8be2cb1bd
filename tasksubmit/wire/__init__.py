"""Bytes to values and back: frames, messages, task files, addresses and time stamps (wire.md, sections 1 and 2).

Nothing here knows of connections, clocks or disks. Bytes of a stream go into a `FrameDecoder`; the frames that come out
go into ``from_frame`` of a message class, and the message's ``validate`` tells whether it makes sense.
"""

from tasksubmit.wire.address import Address, SocketAddress
from tasksubmit.wire.frames import DEFAULT_TCP_PORT, MAX_FRAME, PORT, Frame, FrameDecoder, FrameType, type_name
from tasksubmit.wire.messages import (
    ACK,
    MAX_TEXT_BYTES,
    PERSISTENT,
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
)
from tasksubmit.wire.taskfile import TaskFile
from tasksubmit.wire.timestamps import format_time, parse_time

__all__ = [
    # frames
    "DEFAULT_TCP_PORT",
    "MAX_FRAME",
    "PORT",
    "Frame",
    "FrameDecoder",
    "FrameType",
    "type_name",
    # messages
    "ACK",
    "MAX_TEXT_BYTES",
    "PERSISTENT",
    "ResponseStatus",
    "SubmitRequest",
    "SubmitResponse",
    "TaskResult",
    "TaskResultMessage",
    "TaskStatusUpdate",
    "generate_task_id",
    # records and values
    "Address",
    "SocketAddress",
    "TaskFile",
    "format_time",
    "parse_time",
]
