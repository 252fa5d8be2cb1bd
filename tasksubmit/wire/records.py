"""Records that are JSON objects on the wire: each class is one table of fields, read and written by the same code.

A record is a frozen attrs class below `Record`, whose fields are made by the helpers of this module::

    @frozen
    class TaskStatusUpdate(Message):
        task_id: str = text()
        ack: bool = flag(omit=True)

The order of the fields is their order on the wire. A field's helper fixes its JSON type; its JSON name is its own
unless another is given; with ``omit=True`` it is left out while it is empty, zero or false. Every field has such a
zero value as its default, which is also what a missing key, or null, reads as.

Two ways lead to a record. Callers construct it, and a value of another type than the field's is a ``TypeError``: the
constructor that attrs made is wrapped for that. `Record.from_json` has checked every type as it read, and fills the
record with the constructor as attrs made it; so reading costs nothing more.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ClassVar, cast

import attrs
from attrs import frozen
from typing_extensions import Self

from tasksubmit.errors import InvalidMessage, MalformedMessage
from tasksubmit.pieces import PIECE, in_pieces
from tasksubmit.validation import BYTES, FLAG, INTEGER, NUMBER, TEXT, Kind, instance_of, to_texts
from tasksubmit.validation import to_bytes as to_content
from tasksubmit.wire.frames import Frame, FrameType, type_name
from tasksubmit.wire.jsontext import (
    MAX_DEPTH,
    decode_object,
    double_text,
    integer_text,
    string_text,
    to_bytes,
    value_text,
    wrong_type,
)

_FRAME = instance_of(Frame)
_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


# --- kinds of fields ----------------------------------------------------------------------------------------------


@frozen
class _Kind:
    """What a field holds: its zero value, how it is written, and how it is read.

    :ivar write: takes the value; returns its JSON text, or the finished bytes of that in pieces. Raises
        `InvalidMessage`.
    :ivar read: takes the key and the decoded JSON value, never None; returns the value. Raises `MalformedMessage`.
    :ivar takes: the value that a caller gave, as the field keeps it. Raises ``TypeError``.
    :ivar type: of values that are kept as they are, without asking `takes`.
    :ivar reads_bytes: whether `read` also takes a string as the bytes that stand between its quotes.
    """

    zero: object
    write: Callable[[Any], str | list[bytes]]
    read: Callable[[str, object], object]
    takes: Callable[[Any, str], object]
    type: type | None = None
    reads_bytes: bool = False


def _read_text(key: str, value: object) -> str:
    return value if type(value) is str else wrong_type(key, "a string", value)


def _write_text(value: str) -> str | list[bytes]:
    if len(value) <= PIECE:
        return string_text(value)
    return [b'"', *(to_bytes(string_text(piece)[1:-1]) for piece in in_pieces(value, PIECE)), b'"']


def _read_integer(key: str, value: object) -> int:
    if type(value) is not int:
        wrong_type(key, "an integer", value)
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise MalformedMessage(f"{key} does not fit in 64 bits", key)
    return value


def _write_integer(value: int) -> str:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise InvalidMessage("it does not fit in 64 bits")
    return integer_text(value)


def _read_double(key: str, value: object) -> float:
    if type(value) is not float and type(value) is not int:
        wrong_type(key, "a number", value)
    return float(value)


def _read_flag(key: str, value: object) -> bool:
    return value if type(value) is bool else wrong_type(key, "a boolean", value)


def _read_words(key: str, value: object) -> tuple[str, ...]:
    if type(value) is not list:
        wrong_type(key, "an array", value)
    return tuple([_read_text(key, word) for word in value])


def _read_base64(key: str, value: object) -> bytes:
    """Read padded standard base64. Unused bits before the padding may be set, as deployed peers let them."""
    encoded = value if type(value) is memoryview else memoryview(_read_text(key, value).encode())
    end = bytes(encoded[-3:])
    padding = len(end) - len(end.rstrip(b"="))
    try:
        content = b"".join(map(binascii.a2b_base64, in_pieces(encoded, PIECE)))
    except ValueError:
        content = b""
    # a2b_base64 skips what is not base64, or stops at it, differently on each Python; but then bytes are missing.
    if len(encoded) % 4 or padding > 2 or len(content) != len(encoded) // 4 * 3 - padding:
        raise MalformedMessage(f"{key} is not base64", key)
    return content


def _write_words(value: tuple[str, ...]) -> str:
    return f"[{','.join(map(string_text, value))}]"


def _write_base64(value: bytes) -> list[bytes]:
    pieces = [binascii.b2a_base64(piece, newline=False) for piece in in_pieces(value, PIECE // 4 * 3)]
    return [b'"', *pieces, b'"']


def _same(kind: Kind[Any]) -> Callable[[Any, str], object]:
    """The value as it is, if it is of this kind."""

    def take(value: Any, name: str) -> object:
        if not kind.is_type(value):
            kind.check(name, value)
        return value

    return take


_TEXT = _Kind("", _write_text, _read_text, _same(TEXT), str)
_INTEGER = _Kind(0, _write_integer, _read_integer, _same(INTEGER), int)
_DOUBLE = _Kind(0.0, double_text, _read_double, _same(NUMBER), float)
_FLAG = _Kind(False, value_text, _read_flag, _same(FLAG), bool)
_WORDS = _Kind((), _write_words, _read_words, to_texts)
_BASE64 = _Kind(b"", _write_base64, _read_base64, to_content, bytes, reads_bytes=True)
# The document around it is one level more. Values of any type are kept: `value_text` refuses what is not JSON.
_ANYTHING = _Kind(None, lambda value: value_text(value, MAX_DEPTH - 1), lambda _, value: value, lambda value, _: value)


@frozen
class _OnTheWire:
    """What a field's metadata says."""

    kind: _Kind
    omit: bool
    key: str


def _field(kind: _Kind, omit: bool, key: str = "") -> Any:
    return attrs.field(default=kind.zero, metadata={_OnTheWire: _OnTheWire(kind, omit, key)})


def text(*, omit: bool = False, key: str = "") -> Any:
    """Make a field for a str, a JSON string."""
    return _field(_TEXT, omit, key)


def integer(*, omit: bool = False) -> Any:
    """Make a field for an int of at most 64 bits, sign included: a JSON number without fraction or exponent."""
    return _field(_INTEGER, omit)


def double() -> Any:
    """Make a field for a finite float, a JSON number."""
    return _field(_DOUBLE, omit=False)


def flag(*, omit: bool = False) -> Any:
    """Make a field for a bool, a JSON boolean."""
    return _field(_FLAG, omit)


def words(*, omit: bool = False) -> Any:
    """Make a field for a tuple of str, a JSON array of strings."""
    return _field(_WORDS, omit)


def base64(*, omit: bool = False) -> Any:
    """Make a field for bytes, a JSON string of padded standard base64."""
    return _field(_BASE64, omit)


def anything() -> Any:
    """Make a field for any JSON value: None, bool, str, int, finite float, and lists and dicts of such."""
    return _field(_ANYTHING, omit=False)


# --- records ------------------------------------------------------------------------------------------------------


@frozen
class Layout:
    """What stands between the members of a JSON object."""

    opening: str
    colon: str
    comma: str
    closing: str


COMPACT = Layout("{", ":", ",", "}")
"""No spaces: what goes into frames."""

INDENTED = Layout("{\n  ", ": ", ",\n  ", "\n}")
"""Each member on a line of its own, indented by two spaces; no newline at the end: what goes into files."""


def _checking(
    fill: Callable[..., None], fields: Sequence[tuple[str, type | None, Callable[[Any, str], object]]]
) -> Callable[..., None]:
    """The constructor that refuses values of wrong types, around the one that attrs made."""

    @wraps(fill)
    def construct(self: Record, *args: Any, **kwargs: Any) -> None:
        fill(self, *args, **kwargs)
        for name, exact, takes in fields:
            value = getattr(self, name)
            if type(value) is not exact:
                taken = takes(value, name)
                if taken is not value:
                    object.__setattr__(self, name, taken)

    return construct


class Record:
    """The base of every record. Subclasses are frozen attrs classes whose fields the helpers of this module made."""

    __slots__ = ()

    layout: ClassVar[Layout] = COMPACT

    # The table of fields, worked out once for each class: (attribute, text before the value, write, omit) in the order
    # of the wire, and key to (attribute, read).
    _written: ClassVar[tuple[tuple[str, str, Callable[[Any], str | list[bytes]], bool], ...]]
    _read: ClassVar[dict[str, tuple[str, Callable[[str, object], object]]]]
    _read_as_bytes: ClassVar[frozenset[str]]

    # The constructor as attrs made it: for values whose types are known to be right.
    _fill: ClassVar[Callable[..., None]]

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        # attrs calls this once it has finished a subclass.
        written = []
        read = {}
        read_as_bytes = set()
        taken = []
        for attribute in attrs.fields(cast(Any, cls)):
            wire: _OnTheWire = attribute.metadata[_OnTheWire]
            key = wire.key or attribute.name
            written.append((attribute.name, f'"{key}"{cls.layout.colon}', wire.kind.write, wire.omit))
            read[key] = (attribute.name, wire.kind.read)
            taken.append((attribute.name, wire.kind.type, wire.kind.takes))
            if wire.kind.reads_bytes:
                read_as_bytes.add(key)
        cls._written = tuple(written)
        cls._read = read
        cls._read_as_bytes = frozenset(read_as_bytes)
        cls._fill = cls.__init__
        cls.__init__ = _checking(cls._fill, taken)  # type: ignore[method-assign]  # see the module's docstring

    def to_json(self) -> bytes:
        """Write the record.

        :returns: one JSON object, byte for byte as the reference writes it.
        :raises InvalidMessage: a field holds what cannot be written; ``field`` names it.
        """
        written = self._write()
        return written if isinstance(written, bytes) else b"".join(written)

    def _write(self) -> bytes | tuple[bytes, ...]:
        """What `to_json` returns, in pieces if it is large."""
        layout = self.layout
        parts: list[str | bytes] = []
        is_in_pieces = False
        between = layout.opening
        name = ""
        try:
            for name, before, write, omit in self._written:
                value = getattr(self, name)
                if value or not omit:
                    parts += between, before
                    written = write(value)
                    if type(written) is str:
                        parts.append(written)
                    else:
                        parts += written
                        is_in_pieces = True
                    between = layout.comma
        except InvalidMessage as error:
            raise InvalidMessage(f"{name}: {error}", name) from error
        if not parts:
            parts.append(layout.opening)
        parts.append(layout.closing)
        if not is_in_pieces:
            return to_bytes("".join(cast("list[str]", parts)))
        return tuple([part if type(part) is bytes else to_bytes(cast(str, part)) for part in parts])

    @classmethod
    def from_json(cls, document: bytes) -> Self:
        """Read a record, as a peer may lawfully have written it (wire.md, section 2, *decode*).

        Keys that are not known are ignored: peers may be newer. What is read need not make sense; see ``validate``
        where the class has one.

        :param document: one JSON object in UTF-8.
        :raises MalformedMessage: it is none, or a field has a value of the wrong type; ``field`` names the key.
        """
        if type(document) is not bytes:
            BYTES.check("document", document)
        known = cls._read
        values: dict[str, Any] = {}
        for key, value in decode_object(document, cls._read_as_bytes).items():
            entry = known.get(key)
            if entry is None:
                _check_unknown(key, known)
            elif value is not None:
                name, read = entry
                values[name] = read(key, value)
        record = cls.__new__(cls)
        record._fill(**values)
        return record


def _check_unknown(key: str, known: dict[str, Any]) -> None:
    """Refuse a key that deployed peers take for a known one: they compare without regard to case, and U+017F as s.

    To ignore it would give the message another meaning here than it has there. (``lower`` makes U+212A a k.)
    """
    folded = key.lower().replace("\u017f", "s")
    if folded in known:
        raise MalformedMessage(f"the key {key!r} must be spelt {folded!r}", folded)


def check_frame(frame: object) -> None:
    """Refuse what is not a frame; called for each that is read.

    :raises TypeError: it is none.
    """
    if type(frame) is not Frame:
        _FRAME.check("frame", frame)


class Message(Record):
    """A record that travels in frames."""

    __slots__ = ()

    frame_type: ClassVar[FrameType]

    def to_frame(self) -> Frame:
        """Put the message into a frame of its type.

        :raises InvalidMessage: a field holds what cannot be written.
        """
        return Frame(self.frame_type, self._write())

    @classmethod
    def from_frame(cls, frame: Frame) -> Self:
        """Read the message in a frame.

        :raises MalformedMessage: the frame is of another type, or its payload is not this message.
        """
        check_frame(frame)
        if frame.type != cls.frame_type:
            raise MalformedMessage(f"a {type_name(frame.type)} frame where {cls.frame_type.name} is needed")
        return cls.from_json(frame.payload)
