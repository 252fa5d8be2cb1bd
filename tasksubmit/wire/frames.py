"""The typed, length-prefixed frames that carry every message (wire.md, section 1).

The reader is sans-io: `FrameDecoder` is handed bytes as they come and hands back whole frames. How the stream was cut
into chunks makes no difference to what comes out, and little to what it costs: every byte is copied a fixed number of
times, so that a frame of 16 MiB in pieces of one byte takes time in proportion to its size.
"""

from __future__ import annotations

import enum
import struct

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

    __slots__ = ("_max_frame", "_needed", "_pending", "_refusal")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._pending = bytearray()
        # How long _pending must be before looking at it again is worth while.
        self._needed = _HEADER_BYTES
        self._refusal = ""

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream.

        :param data: any number of bytes, cut anywhere.
        :returns: the frames that these bytes completed, oldest first; often none.
        :raises FrameTooLarge: a header announces more than the limit. Its ``frames`` are those that came before; the
            stream cannot be read further, and every later call raises again.
        """
        if self._refusal:
            raise FrameTooLarge(self._refusal)
        stream: bytes | memoryview = data
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            stream = memoryview(self._pending)
            self._pending = bytearray()
        frames: list[Frame] = []
        start = 0
        end = len(stream)
        while (payload_start := start + _HEADER_BYTES) <= end:
            frame_type, length = _unpack_header(stream, start)
            if length > self._max_frame:
                self._refusal = f"a frame of {length} bytes is announced; the limit is {self._max_frame} bytes"
                raise FrameTooLarge(self._refusal, frames)
            payload_end = payload_start + length
            if payload_end > end:
                self._needed = _HEADER_BYTES + length
                break
            frames.append(Frame(frame_type, bytes(stream[payload_start:payload_end])))
            start = payload_end
        else:
            self._needed = _HEADER_BYTES
        if start < end:
            self._pending += stream[start:] if start else stream
        return frames

    def finish(self) -> None:
        """Say that the stream has ended.

        :raises TruncatedFrame: it ended inside a frame; ``part`` tells whether in its header or in its payload.
        """
        held = len(self._pending)
        if not held:
            return
        if held < _HEADER_BYTES:
            raise TruncatedFrame(
                f"the stream ended after {held} of {_HEADER_BYTES} bytes of a frame's header", "header"
            )
        raise TruncatedFrame(
            f"the stream ended after {held - _HEADER_BYTES} of {self._needed - _HEADER_BYTES} bytes of a payload",
            "payload",
        )
