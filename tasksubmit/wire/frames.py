"""The typed, length-prefixed frames that carry every message (wire.md, section 1).

The reader is sans-io: `FrameDecoder` is handed bytes as they come and hands back whole frames. How the stream was cut
into chunks makes no difference to what comes out, and little to what it costs: every byte is copied a fixed number of
times, so that a frame of 16 MiB in pieces of one byte takes time in proportion to its size. A large payload stays in
pieces until somebody asks for it, who may do so in a thread.
"""

from __future__ import annotations

import enum
import struct

from attrs import field, frozen
from typing_extensions import override

from tasksubmit.errors import FrameTooLarge, InvalidMessage, TruncatedFrame
from tasksubmit.pieces import PIECE
from tasksubmit.validation import INTEGER, Kind, whole_number, wrong_type

MAX_FRAME = 2**24
"""The largest payload of a frame, in bytes: 16 MiB exactly (wire.md, section 1)."""

PORT = 1003
"""The port of task submission on a Pilot address (wire.md, section 1)."""

DEFAULT_TCP_PORT = 11003
"""The port of task submission on plain TCP, where ports under 1024 need privileges (wire.md, section 1)."""

_HEADER = struct.Struct(">II")
_HEADER_BYTES = _HEADER.size
_unpack_header = _HEADER.unpack_from

_LIMIT = whole_number(1, 2**32 - 1)
_BUFFER: Kind[bytearray | memoryview] = Kind(
    "bytes, a bytearray or a memoryview", lambda value: isinstance(value, bytearray | memoryview)
)


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
    INTEGER.check("n", n)
    return _TYPE_NAMES.get(n) or f"UNKNOWN({n})"


_Payload = bytes | tuple[bytes, ...]
"""All in one, or in pieces."""


def _joined(payload: _Payload) -> bytes:
    return b"".join(payload) if isinstance(payload, tuple) else payload


@frozen(repr=False)
class Frame:
    """One frame: a type and a payload.

    :ivar type: any unsigned 32-bit number; those that mean something are in `FrameType`.
    :ivar payload: at most `MAX_FRAME` bytes, one JSON document in UTF-8 where the type is known. It may be given in
        pieces, and is joined whenever it is asked for.
    """

    type: int
    _payload: _Payload = field(eq=_joined)

    def __attrs_post_init__(self) -> None:
        # Spelt out: there is a frame for every message.
        if not isinstance(self.type, int) or isinstance(self.type, bool):
            INTEGER.check("type", self.type)
        if type(self._payload) is not bytes:
            self._check_payload(self._payload)

    def _check_payload(self, payload: object) -> None:
        if isinstance(payload, bytearray | memoryview):  # may change later, and is taken as it is now
            object.__setattr__(self, "_payload", bytes(payload))
            return
        for piece in payload if isinstance(payload, tuple) else (payload,):
            if not isinstance(piece, bytes):
                raise wrong_type("payload", "bytes, or a tuple of bytes", piece)

    @property
    def payload(self) -> bytes:
        return _joined(self._payload)

    @property
    def pieces(self) -> tuple[bytes, ...]:
        """The payload as it was given."""
        return self._payload if isinstance(self._payload, tuple) else (self._payload,)

    @property
    def size_bytes(self) -> int:
        """The length of the payload."""
        return sum(map(len, self._payload)) if isinstance(self._payload, tuple) else len(self._payload)

    @override
    def __repr__(self) -> str:
        return f"Frame(type={self.type!r}, payload=<{self.size_bytes} bytes>)"

    def encode(self) -> bytes:
        """Give the bytes of the whole frame, header included; raises like `header`."""
        return self.header() + self.payload

    def header(self) -> bytes:
        """Give the bytes that come before the payload.

        :raises FrameTooLarge: the payload is over `MAX_FRAME` bytes; the peer would hang up on it.
        :raises InvalidMessage: the type is not an unsigned 32-bit number.
        """
        if self.size_bytes > MAX_FRAME:
            raise FrameTooLarge(f"a payload of {self.size_bytes} bytes is over the limit of {MAX_FRAME} bytes")
        try:
            return _HEADER.pack(self.type, self.size_bytes)
        except struct.error:
            raise InvalidMessage(f"the frame type {self.type!r} is not an unsigned 32-bit number", "type") from None


class FrameDecoder:
    """Cut one byte stream into frames.

    Made for each connection, by whoever reads from it; it lives as long as the connection and owns nothing to close.
    It holds the bytes of at most one unfinished frame, and only bytes that have arrived: a header that announces much
    costs nothing.

    :param max_frame: the largest payload to accept, in bytes; at least 1.
    """

    __slots__ = ("_header", "_length", "_loose", "_max_frame", "_missing", "_pieces", "_refusal", "_type")

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        _LIMIT.check("max_frame", max_frame)
        self._max_frame = max_frame
        self._header = b""  # of the unfinished frame: what is there
        self._type = 0
        self._length = 0
        self._missing = 0  # of its payload
        self._pieces: list[bytes] = []  # what is there of it
        self._loose = bytearray()  # and is no piece yet
        self._refusal = ""

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return _HEADER_BYTES + self._length - self._missing if self._missing else len(self._header)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Take the next bytes of the stream.

        :param data: any number of bytes, cut anywhere; a buffer may be used again at once.
        :returns: the frames that these bytes completed, oldest first; often none.
        :raises FrameTooLarge: a header announces more than the limit. Its ``frames`` are those that came before; the
            stream cannot be read further, and every later call raises again.
        """
        if self._refusal:
            raise FrameTooLarge(self._refusal)
        if not isinstance(data, bytes):
            _BUFFER.check("data", data)
            data = bytes(data)
        frames: list[Frame] = []
        if self._missing:
            part = data[: self._missing]
            data = data[len(part) :]
            self._take(part)
            if not self._missing:
                frames.append(self._finished())
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
                self._type, self._length, self._missing = frame_type, length, length
                self._take(payload)
                break
            frames.append(Frame(frame_type, payload))
        self._header = data[start:]
        return frames

    def _take(self, part: bytes) -> None:
        """Keep the next part of the unfinished payload."""
        self._missing -= len(part)
        self._loose += part
        if len(self._loose) >= PIECE or not self._missing:
            self._pieces.append(bytes(self._loose))
            self._loose.clear()

    def _finished(self) -> Frame:
        pieces, self._pieces = tuple(self._pieces), []
        return Frame(self._type, pieces if len(pieces) > 1 else pieces[0])

    def finish(self) -> None:
        """Say that the stream has ended.

        :raises TruncatedFrame: it ended inside a frame; ``part`` tells whether in its header or in its payload.
        """
        if self._missing:
            came = self._length - self._missing
            raise TruncatedFrame(f"the stream ended after {came} of {self._length} bytes of a payload", "payload")
        if self._header:
            came = len(self._header)
            raise TruncatedFrame(
                f"the stream ended after {came} of {_HEADER_BYTES} bytes of a frame's header", "header"
            )
