"""The typed, length-prefixed frames that carry every message (wire.md, section 1).

The reader is sans-io: `FrameDecoder` is handed bytes as they come and hands back whole frames. How the stream was cut
into chunks makes no difference to what comes out, and little to what it costs: every byte is copied a fixed number of
times, so that a frame of 16 MiB in pieces of one byte takes time in proportion to its size.
"""

from __future__ import annotations

import enum
import struct
from io import BytesIO

from attrs import field, frozen

from tasksubmit.errors import FrameTooLarge, InvalidMessage, TruncatedFrame

MAX_FRAME = 2**24
"""The largest payload of a frame, in bytes: 16 MiB exactly (wire.md, section 1)."""

PORT = 1003
"""The port of task submission on a Pilot address (wire.md, section 1)."""

DEFAULT_TCP_PORT = 11003
"""The port of task submission on plain TCP, where ports under 1024 need privileges (wire.md, section 1)."""

_HEADER = struct.Struct(">II")
_HEADER_BYTES = _HEADER.size
_unpack_header = _HEADER.unpack_from


class FrameType(enum.IntEnum):
    """What the payload of a frame is (wire.md, section 1)."""

    SUBMIT = 1
    """A `SubmitRequest` from whoever dialled, and the `SubmitResponse` that answers it."""

    RESULT = 2
    """A `TaskResult`, the old synchronous result, on the connection on which the task was submitted."""

    STATUS_UPDATE = 3
    """A `TaskStatusUpdate`, from either side."""

    SEND_RESULTS = 4
    """A `TaskResultMessage`, from the receiver of the task to its submitter."""


_TYPE_NAMES: dict[int, str] = {int(member): member.name for member in FrameType}


def type_name(n: int) -> str:
    """Give the printable name of a frame type.

    :param n: any frame type, known or not.
    :returns: for example ``STATUS_UPDATE``, or ``UNKNOWN(9)``.
    """
    return _TYPE_NAMES.get(n) or f"UNKNOWN({n})"


def _show_payload(payload: bytes) -> str:
    return f"<{len(payload)} bytes>"


@frozen
class Frame:
    """One frame: a type and a payload.

    :ivar type: any unsigned 32-bit number; those that mean something are in `FrameType`.
    :ivar payload: at most `MAX_FRAME` bytes, one JSON document in UTF-8 where the type is known.
    """

    type: int
    payload: bytes = field(repr=_show_payload)

    def encode(self) -> bytes:
        """Give the bytes of the whole frame, header included; raises like `header`."""
        return self.header() + self.payload

    def header(self) -> bytes:
        """Give the bytes that come before the payload.

        :raises FrameTooLarge: the payload is over `MAX_FRAME` bytes; the peer would hang up on it.
        :raises InvalidMessage: the type is not an unsigned 32-bit number.
        """
        if len(self.payload) > MAX_FRAME:
            raise FrameTooLarge(f"a payload of {len(self.payload)} bytes is over the limit of {MAX_FRAME} bytes")
        try:
            return _HEADER.pack(self.type, len(self.payload))
        except struct.error:
            raise InvalidMessage(f"the frame type {self.type!r} is not an unsigned 32-bit number", "type") from None


class FrameDecoder:
    """Cut one byte stream into frames.

    Made for each connection, by whoever reads from it; it lives as long as the connection and owns nothing to close.
    It holds the bytes of at most one unfinished frame, and only bytes that have arrived: a header that announces much
    costs nothing.

    :param max_frame: the largest payload to accept, in bytes.
    """

    __slots__ = ("_header", "_max_frame", "_missing", "_payload", "_refusal", "_type")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._header = b""  # what is there of one
        self._type = 0
        self._payload = BytesIO()  # what is there of one
        self._missing = 0  # how much is not
        self._refusal = ""

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return _HEADER_BYTES + self._payload.tell() if self._missing else len(self._header)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream.

        :param data: any number of bytes, cut anywhere.
        :returns: the frames that these bytes completed, oldest first; often none.
        :raises FrameTooLarge: a header announces more than the limit. Its ``frames`` are those that came before; the
            stream cannot be read further, and every later call raises again.
        """
        if self._refusal:
            raise FrameTooLarge(self._refusal)
        frames: list[Frame] = []
        if self._missing:
            data = self._continue(data, frames)
        if self._header:
            data, self._header = self._header + data, b""
        start = 0
        end = len(data)
        while (payload_start := start + _HEADER_BYTES) <= end:
            frame_type, length = _unpack_header(data, start)
            if length > self._max_frame:
                self._refusal = f"a frame of {length} bytes is announced; the limit is {self._max_frame} bytes"
                raise FrameTooLarge(self._refusal, frames)
            start = payload_start + length
            payload = data[payload_start:start]
            if start > end:
                self._begin(frame_type, payload, start - end)
                break
            frames.append(Frame(frame_type, payload))
        self._header = data[start:]
        return frames

    def _begin(self, frame_type: int, payload: bytes, missing: int) -> None:
        """Note what has come of a frame."""
        self._type = frame_type
        self._payload = BytesIO()
        self._payload.write(payload)
        self._missing = missing

    def _continue(self, data: bytes, frames: list[Frame]) -> bytes:
        """Take what belongs to the unfinished frame, and return the rest."""
        part = data[: self._missing]
        self._payload.write(part)
        self._missing -= len(part)
        if not self._missing:
            frames.append(Frame(self._type, self._payload.getvalue()))  # which does not copy it
            self._payload = BytesIO()
        return data[len(part) :]

    def finish(self) -> None:
        """Say that the stream has ended.

        :raises TruncatedFrame: it ended inside a frame; ``part`` tells whether in its header or in its payload.
        """
        if self._missing:
            came = self._payload.tell()
            raise TruncatedFrame(f"the stream ended after {came} of {came + self._missing} bytes of a payload", "payload")
        if self._header:
            came = len(self._header)
            raise TruncatedFrame(
                f"the stream ended after {came} of {_HEADER_BYTES} bytes of a frame's header", "header"
            )
