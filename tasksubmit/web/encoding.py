"""JSON of the control API to values and back: one converter, strict in what it takes."""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any, TypeVar

import orjson
from attrs import fields, has, resolve_types
from cattrs import transform_error
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.preconf.orjson import OrjsonConverter, make_converter

from tasksubmit.errors import InvalidMessage, MalformedMessage, TaskSubmitError
from tasksubmit.wire.address import Address
from tasksubmit.wire.jsontext import decode_object
from tasksubmit.wire.timestamps import parse_time

T = TypeVar("T")


def format_moment(moment: datetime) -> str:
    """Write a time as the control API does.

    :param moment: an aware datetime.
    :returns: RFC 3339 in UTC with milliseconds, for example ``2026-04-09T12:00:00.250Z``.
    """
    return moment.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def json_name(name: str) -> str:
    """The JSON key of an attribute: its own name, less the underscore that Python's keywords get (``from_``)."""
    return name.rstrip("_")


# --- reading single values; what they raise becomes the message, behind the name of the key ---------------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def _text_or_word(value: object, cls: type[str]) -> str:
    """The hook of a class is also that of its subclasses, among which are the enums of words."""
    if not issubclass(cls, Enum):
        return _text(value)
    words = [member.value for member in cls]
    if value not in words:
        raise ValueError(f"expected one of {', '.join(words)}")
    return cls(value)


def _integer(value: object, _: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("expected an integer")
    return value


def _integer_in_text(value: object, _: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 18:
        raise ValueError("expected an integer")
    return int(value)


def _moment(value: object, _: object) -> datetime:
    moment = parse_time(_text(value))
    if moment.utcoffset():
        raise ValueError("lies outside the years 1 to 9999 in UTC")
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _bytes(value: object, _: object) -> bytes:
    try:
        return b64decode(_text(value), validate=True)
    except Base64Error as error:
        raise ValueError(f"expected base64: {error}") from None


def _address(value: object, _: object) -> Address:
    return Address.parse(_text(value))


# --- the converters ---------------------------------------------------------------------------------------------------


def _make_converter(integer: Callable[[object, object], int]) -> OrjsonConverter:
    converter = make_converter(forbid_extra_keys=True)
    for cls, read in ((str, _text_or_word), (int, integer), (datetime, _moment), (bytes, _bytes), (Address, _address)):
        converter.register_structure_hook(cls, read)
    converter.register_unstructure_hook(datetime, format_moment)
    converter.register_unstructure_hook(bytes, lambda content: b64encode(content).decode("ascii"))
    _rename_keywords(converter)
    # Last, since `has` is true of an address, too.
    converter.register_unstructure_hook(Address, str)
    return converter


def _rename_keywords(converter: OrjsonConverter) -> None:
    def renamed(cls: type[Any]) -> dict[str, Any]:
        resolve_types(cls)
        return {a.name: override(rename=json_name(a.name)) for a in fields(cls) if json_name(a.name) != a.name}

    def is_renamed(cls: Any) -> bool:
        return has(cls) and cls is not Address and bool(renamed(cls))

    converter.register_structure_hook_factory(
        is_renamed,
        lambda cls: make_dict_structure_fn(cls, converter, _cattrs_forbid_extra_keys=True, **renamed(cls)),
    )
    converter.register_unstructure_hook_factory(
        is_renamed, lambda cls: make_dict_unstructure_fn(cls, converter, **renamed(cls))
    )


_BODIES = _make_converter(_integer)
_QUERIES = _make_converter(_integer_in_text)


def read_body(content: bytes, cls: type[T]) -> T:
    """Read a request's body; one that is empty reads as an object without keys.

    :raises MalformedMessage: it is no JSON object, or has a key twice; the message names the key.
    :raises InvalidMessage: it is not ``cls``; the message names the key.
    """
    try:
        value = decode_object(content) if content else {}  # unlike orjson, which takes the last of equal keys
    except MalformedMessage as error:
        raise MalformedMessage(f"the body: {error}", error.field) from None
    return _structured(_BODIES, value, cls, "the body")


def read_query(arguments: dict[bytes, list[bytes]], cls: type[T]) -> T:
    """Read the parameters behind a URL's question mark.

    :param arguments: their names to everything that each was given.
    :raises InvalidMessage: they are not ``cls``; the message names the parameter.
    """
    given: dict[str, str] = {}
    for name, values in arguments.items():
        text = name.decode("utf-8", "replace")
        if len(values) > 1:
            raise InvalidMessage(f"the parameter {text} is given {len(values)} times", text)
        given[text] = values[0].decode("utf-8", "replace")
    return _structured(_QUERIES, given, cls, "the query")


def _structured(converter: OrjsonConverter, value: object, cls: type[T], what: str) -> T:
    if not isinstance(value, dict):
        raise InvalidMessage(f"{what} is not a JSON object")
    try:
        return converter.structure(value, cls)
    except BaseValidationError as error:
        faults = [_fault(line, what) for line in transform_error(error, what, _describe)]
        raise InvalidMessage("; ".join(faults)) from None


def _describe(error: BaseException, _: type[Any] | None) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        return f"unknown key {', '.join(sorted(error.extra_fields))}"
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, ValueError | TypeError | TaskSubmitError):
        return str(error)
    return "cannot be read"


def _fault(line: str, what: str) -> str:
    """``expected a text @ the body.to`` as ``to: expected a text``."""
    message, _, path = line.rpartition(" @ ")
    return f"{json_name(path.removeprefix(what).lstrip('.')) or what}: {message}"


def ok_envelope(answer: object, cls: Any) -> bytes:
    """The JSON of an answer that is a ``cls``, in its envelope."""
    return orjson.dumps({"status": "ok", "data": _BODIES.unstructure(answer, unstructure_as=cls)})


def error_envelope(code: str, message: str, hint: str) -> bytes:
    """The JSON of an error, in its envelope."""
    return orjson.dumps({"status": "error", "code": code, "message": message, "hint": hint})
