"""JSON as the wire has it: one strict decoder, one encoder that writes the reference's bytes (wire.md, section 2).

Reading uses the standard library's scanner and refuses what it lets through but peers never write, on every Python
alike: duplicate keys, ``NaN`` and ``Infinity``, numbers that are too large for a double or over 300 characters long,
unpaired surrogates, a byte order mark, bytes that are not UTF-8, more than 10,000 levels, and more than 100,000 values.

The scanner and most of what Python does with a nested value recurse, and how deep they may depends on the Python, on
its settings and on the caller. So whatever is here works for each depth up to the limit without recursion: the depth of
a document is measured before anything reads it, and only shallow documents are left to the scanner as a whole.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from decimal import Decimal
from itertools import accumulate, chain, repeat
from json.encoder import encode_basestring
from json.scanner import make_scanner
from typing import Any, NoReturn, cast
from uuid import uuid4

from tasksubmit.errors import InvalidMessage, MalformedMessage
from tasksubmit.pieces import PIECE, in_pieces

MAX_DEPTH = 10_000
"""How deeply arrays and objects may be nested, the outermost counted; the limit of reference peers."""

_SHALLOW = 200
"""The depth up to which recursion is tried, which is faster. It may end sooner, at Python's own limit."""

MAX_NUMBER = 300
"""How long a number may be, in characters. An integer of this length is far inside a double's range."""

MAX_VALUES = 100_000
"""How many arrays, objects and commas a document may have, not counting those in strings: so many more values than
one there may be, at most. A document of empty arrays would otherwise take twenty times its size in memory."""

MAX_DEEP_VALUES = 4 * MAX_DEPTH
"""The same for a document that is nested more deeply than `_SHALLOW`, which is read ten times as slowly."""

# The first integers on either side that are longer; the sign counts.
_TOO_HIGH = 10**MAX_NUMBER
_TOO_LOW = -(10 ** (MAX_NUMBER - 1))

# Doubles are written in positional notation from the one magnitude on, and up to (not including) the other.
_SMALLEST_POSITIONAL = 1e-6
_LARGEST_POSITIONAL = 1e21

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


# --- reading ------------------------------------------------------------------------------------------------------


def decode_object(payload: bytes, as_bytes: Container[str] = ()) -> dict[str, object]:
    """Read one JSON object.

    :param payload: the whole document in UTF-8.
    :param as_bytes: keys whose string need not be made: if it is long, the bytes between its quotes may stand for it.
    :returns: the object; integers are exact ints, other numbers finite floats.
    :raises MalformedMessage: it is anything else.
    """
    is_long = len(payload) > MAX_VALUES
    if is_long and _has_more(payload, b"[{,", MAX_VALUES):
        _check_values(payload)
    try:
        document = (_read_in_pieces(payload, as_bytes) if is_long else None) or _read(payload)
    except StopIteration:
        raise MalformedMessage("not a JSON document: it does not begin as one") from None
    except ValueError as error:
        raise MalformedMessage(f"not a JSON document: {error}") from None
    if type(document) is not dict:
        raise MalformedMessage(f"{_json_type(document)} where an object is needed")
    if b"\\" in payload and _SURROGATE_ESCAPE.search(payload):
        _check_surrogates(document)
    return document


def wrong_type(key: str, needed: str, value: object) -> NoReturn:
    """Refuse a value of the wrong JSON type.

    :param key: the JSON name of the field.
    :param needed: what it must be, for example ``a string``.
    :param value: what it is, as decoded.
    :raises MalformedMessage: always.
    """
    raise MalformedMessage(f"{key} is {_json_type(value)} where {needed} is needed", key)


def _has_more(payload: bytes, marks: bytes, most: int) -> bool:
    """Whether any of ``marks`` stand in it more than so often, together."""
    for mark in marks:
        place = payload.find(mark)
        while place >= 0:  # far sooner done than counting, where there are few
            if not most:
                return True
            most -= 1
            place = payload.find(mark, place + 1)
    return False


def _check_values(payload: bytes) -> None:
    """Refuse a document of too many values before any of them takes memory; text may have commas and brackets."""
    unescaped = _without_escaped_quotes(payload)
    # Before each string stands a mark, or a colon that belongs to a key that has one: four quotes to each mark.
    are_many = _has_more(unescaped, b'"', 4 * MAX_VALUES)
    if are_many or _has_more(_outside_strings(unescaped), b"[{,", MAX_VALUES):
        raise MalformedMessage(f"over {MAX_VALUES} values")


def _without_escaped_quotes(payload: bytes) -> bytes:
    """Return a document in which each quote begins or ends a string. Pairs of backslashes go first."""
    return payload.replace(rb"\\", b"").replace(rb"\"", b"")


def _outside_strings(unescaped: bytes) -> bytes:
    """Return a document, given without escaped quotes, without its strings: they are every other part between quotes.

    In a document that is malformed this holds up to the first mistake, and no reader goes further.
    """
    return b"".join(unescaped.split(b'"')[::2])


_STEPS = [0] * 256  # how much deeper each byte leads
for _opening, _closing in (b"[]", b"{}"):
    _STEPS[_opening], _STEPS[_closing] = 1, -1
_NO_BRACKETS = bytes(byte for byte in range(256) if not _STEPS[byte])


def _is_shallow(payload: bytes) -> bool:
    """Return True if the scanner may read a document.

    :raises MalformedMessage: it is nested over `MAX_DEPTH` levels, or is deep and has over `MAX_DEEP_VALUES` values.
    """
    if payload.count(b"[") + payload.count(b"{") <= _SHALLOW:
        return True
    bare = _outside_strings(_without_escaped_quotes(payload))
    depth = max(accumulate(map(_STEPS.__getitem__, bare.translate(None, _NO_BRACKETS))), default=0)
    if depth > MAX_DEPTH:
        raise MalformedMessage(f"nested over {MAX_DEPTH} levels")
    if depth > _SHALLOW and _has_more(bare, b"[{,", MAX_DEEP_VALUES):
        raise MalformedMessage(f"over {MAX_DEEP_VALUES} values in a document that is nested over {_SHALLOW} levels")
    return depth <= _SHALLOW


def _json_type(value: object) -> str:
    """Name the JSON type of a decoded value, for people."""
    if value is None:
        return "null"
    names = {bool: "a boolean", str: "a string", int: "an integer", float: "a number with a fraction or an exponent"}
    return names.get(type(value)) or ("an array" if isinstance(value, list) else "an object")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object, in which no key may come twice: which of the two was meant cannot be told."""
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise MalformedMessage(f"the key {twice[:80]!r} comes twice", twice[:80])
    return members


def _check_length(number: str) -> None:
    if len(number) > MAX_NUMBER:
        raise MalformedMessage(f"a number of {len(number)} characters; the limit is {MAX_NUMBER}")


def _integer(number: str) -> int:
    # int() has a limit of its own, but one that the environment may lift, and without it takes quadratic time.
    _check_length(number)
    return int(number)


def _double(number: str) -> float:
    _check_length(number)
    value = float(number)
    if math.isinf(value):
        raise MalformedMessage(f"the number {number[:40]} is too large")
    return value


def _no_constant(name: str) -> NoReturn:
    raise MalformedMessage(f"{name} is not JSON")


_DECODER: Any = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_double, parse_constant=_no_constant
)
_scan: Callable[[str, int], tuple[object, int]] = make_scanner(_DECODER)


def _read(payload: bytes) -> object:
    """Read a whole document; raises what its parts raise."""
    text = payload.decode("utf-8").strip(" \t\n\r")
    if _is_shallow(payload):
        try:
            document, end = _scan(text, 0)
        except RecursionError:  # the caller's own depth is near the limit
            document, end = _scan_deep(text)
    else:
        document, end = _scan_deep(text)
    if end != len(text):
        raise ValueError(f"more follows after {end} characters")
    return document


_skip_blanks = re.compile(r"[ \t\n\r]*").match


def _scan_deep(text: str) -> tuple[object, int]:
    """Like `_scan` from the beginning, without recursion: it reads the scalars, and open containers are on a list.

    :returns: the value, and the index behind it.
    """
    opened: list[tuple[list[Any], str]] = []  # the items of each container so far, and what closes it
    keys: list[str] = []  # of the objects among them, the key whose value comes next
    end = 0
    while True:
        start = _after_blanks(text, end)
        if text.startswith(("[", "{"), start):
            closing = "]" if text[start] == "[" else "}"
            end = _after_blanks(text, start + 1)
            if not text.startswith(closing, end):
                opened.append(([], closing))
                if closing == "}":
                    end = _read_key(text, end, keys)
                continue
            value: object = [] if closing == "]" else {}
            end += 1
        else:
            value, end = _scan(text, start)
        while opened:
            items, closing = opened[-1]
            items.append(value if closing == "]" else (keys.pop(), value))
            end = _after_blanks(text, end)
            if text.startswith(",", end):
                end += 1
                if closing == "}":
                    end = _read_key(text, _after_blanks(text, end), keys)
                break
            if not text.startswith(closing, end):
                raise ValueError(f"neither , nor {closing} after {end} characters")
            opened.pop()
            value = items if closing == "]" else _unique(items)
            end += 1
        else:
            return value, end


def _after_blanks(text: str, index: int) -> int:
    blanks = _skip_blanks(text, index)
    assert blanks is not None  # there may be none of them
    return blanks.end()


def _read_key(text: str, start: int, keys: list[str]) -> int:
    """Add the key that begins at an index to ``keys``; return the index of its value."""
    if not text.startswith('"', start):
        raise ValueError(f"no key after {start} characters")
    key, end = _scan(text, start)
    end = _after_blanks(text, end)
    if not text.startswith(":", end):
        raise ValueError(f"no : after {end} characters")
    keys.append(cast(str, key))
    return end + 1


_FEW = 64  # strings of a document that are looked at for a long one
_TAKEN_OUT = uuid4().hex  # no peer can know what stands in place of its text


def _read_in_pieces(payload: bytes, as_bytes: Container[str]) -> object:
    """Like `_read` of an object that is one long string mostly, without holding the interpreter for long; else None."""
    start, end = _long_string(payload)
    if start < end:
        # What is wrong, and where, the whole document tells.
        with suppress(ValueError, StopIteration, MalformedMessage):
            string = memoryview(payload)[start:end]
            for piece in in_pieces(string, PIECE):  # every byte as a character, some of which strings may not have
                _scan(f'"{str(piece, "latin-1")}"', 0)
            document = _read(b"".join((payload[:start], _TAKEN_OUT.encode(), payload[end:])))
            members = document if type(document) is dict else {}
            key = next((key for key, value in members.items() if value == _TAKEN_OUT), None)
            if key is not None:
                members[key] = string if key in as_bytes else str(string, "utf-8")
                return members
    return None


def _long_string(payload: bytes) -> tuple[int, int]:
    """Where the string without escapes stands that is all of a document but for a piece, if one of the first few is."""
    if b"\\" not in payload:
        end = -1
        for _ in range(_FEW):
            start = payload.find(b'"', end + 1) + 1
            end = payload.find(b'"', start)
            if not start or end < 0:
                break
            if end - start > max(PIECE, len(payload) - PIECE):
                return start, end
    return 0, 0


def _check_surrogates(document: object) -> None:
    """Refuse half a surrogate pair: it is no text, and could not be written again."""
    strings: list[str] = []
    rest = [document]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            strings.append(value)
        elif isinstance(value, dict):
            rest += value
            rest += value.values()
        elif isinstance(value, list):
            rest += value
    try:
        "\0".join(strings).encode()
    except UnicodeEncodeError:
        raise MalformedMessage("half a surrogate pair in a string") from None


# --- writing ------------------------------------------------------------------------------------------------------

string_text: Callable[[str], str] = encode_basestring
"""Write one string between its quotes. What only web pages mind is escaped later, in `to_bytes`."""


def encode_value(value: object) -> bytes:
    """Write any JSON value compactly, object keys sorted by code point.

    :param value: None, a bool, str, int or finite float, or a list, tuple or dict (with str keys) of such.
    :returns: the bytes of the whole document.
    :raises InvalidMessage: the value, or one inside it, cannot be written.
    """
    return to_bytes(value_text(value))


def to_bytes(text: str) -> bytes:
    """Finish a document, or a part of it: escape what HTML and JavaScript treat as special, and encode it.

    :param text: JSON; the five characters concerned stand nowhere outside its strings.
    :raises InvalidMessage: it holds half a surrogate pair.
    """
    return _escaped(text) if len(text) <= PIECE else b"".join(map(_escaped, in_pieces(text, PIECE)))


_ESCAPES = tuple((character, f"\\u{ord(character):04x}") for character in "<>&\u2028\u2029")


def _escaped(text: str) -> bytes:
    for character, escape in _ESCAPES:
        if character in text:  # much sooner found out than nothing is replaced
            text = text.replace(character, escape)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidMessage("half a surrogate pair in a string") from None


def value_text(value: object, levels: int = MAX_DEPTH) -> str:
    """Write any JSON value as a part of a document that `to_bytes` will finish.

    :param value: as for `encode_value`.
    :param levels: how many levels of arrays and objects may still be opened.
    :raises InvalidMessage: as for `encode_value`.
    """
    try:
        return _shallow_text(value, _SHALLOW)
    except RecursionError:
        return _deep_text(value, levels)


def _shallow_text(value: object, levels: int) -> str:
    """Write a value.

    :raises RecursionError: it is nested over ``levels`` levels, or more than the caller's own depth allows.
    """
    if value is None:
        return "null"
    if isinstance(value, str):
        return string_text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return integer_text(value)
    if isinstance(value, float):
        return double_text(value)
    if not isinstance(value, (list, tuple, dict)):
        raise InvalidMessage(f"a {type(value).__name__} cannot be written as JSON")
    if not levels:
        raise RecursionError
    if not isinstance(value, dict):
        return "[" + ",".join([_shallow_text(item, levels - 1) for item in value]) + "]"
    keys = _sorted_keys(value)
    return "{" + ",".join([f"{string_text(key)}:{_shallow_text(value[key], levels - 1)}" for key in keys]) + "}"


def _sorted_keys(members: dict[Any, Any]) -> list[str]:
    for key in members:
        if not isinstance(key, str):
            raise InvalidMessage(f"the key {key!r} is not a string")
    return sorted(members)


def _deep_text(value: object, levels: int) -> str:
    """Like `_shallow_text`, more slowly and without recursion: open containers are on a list."""
    parts: list[str] = []
    # What is left of each container that is open, and what closes it; around all of them, the value itself.
    opened: list[tuple[Iterator[tuple[str, object]], str]] = [(iter([("", value)]), "")]
    while opened:
        items, closing = opened[-1]
        for before, item in items:
            parts.append(before)
            if isinstance(item, (list, tuple, dict)):
                if len(opened) > levels:
                    raise InvalidMessage(f"nested over {MAX_DEPTH} levels")
                commas = chain(("",), repeat(","))
                if isinstance(item, dict):
                    parts.append("{")
                    keys = _sorted_keys(item)
                    starts = [f"{comma}{string_text(key)}:" for comma, key in zip(commas, keys, strict=False)]
                    opened.append((iter([(start, item[key]) for start, key in zip(starts, keys, strict=True)]), "}"))
                else:
                    parts.append("[")
                    opened.append((zip(commas, item, strict=False), "]"))
                break
            parts.append(_shallow_text(item, 0))
        else:
            parts.append(closing)
            opened.pop()
    return "".join(parts)


def integer_text(value: int) -> str:
    """Write an integer.

    :raises InvalidMessage: it is over `MAX_NUMBER` characters long.
    """
    if not _TOO_LOW < value < _TOO_HIGH:
        raise InvalidMessage(f"an integer of over {MAX_NUMBER} characters")
    return int.__repr__(value)


def double_text(value: float) -> str:
    """Write a double with the fewest digits that read back equal, as the reference does (vectors/README.md).

    :raises InvalidMessage: it is not finite.
    """
    if not math.isfinite(value):
        raise InvalidMessage(f"{value} cannot be written as JSON")
    text = float.__repr__(value)
    if "e" not in text:
        return text.removesuffix(".0")
    if _SMALLEST_POSITIONAL <= abs(value) < _LARGEST_POSITIONAL:
        return format(Decimal(text), "f")
    return text.replace("e-0", "e-")
