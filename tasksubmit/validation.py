"""Checks and conversions of what callers pass to public classes and functions.

A `Kind` says which values a parameter takes. It is a validator of attrs, for a field; `checked` is the decorator that
checks the arguments of functions, methods and constructors by kinds. The functions ``to_...`` convert as well, where
only one meaning is possible: a string to a member of an enumeration or a path, an iterable to a tuple. Those for
addresses are in `tasksubmit.wire.address`. A converter of attrs is a named function that calls one of them with the
name of its field, since mypy knows no other kind of converter.

Every refusal names the parameter, what is needed and what was given. A value of the wrong type is a ``TypeError``; one
of the right type that makes no sense is a ``ValueError``. This module imports nothing of the package: all others may
use it.

A component counts as left out when it is None, and never because it is false: an empty container, or an object with a
length of 0, is a component.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import wraps
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from attrs import Attribute, frozen
from typing_extensions import ParamSpec

if TYPE_CHECKING:
    from zope.interface import Interface

T = TypeVar("T")
P = ParamSpec("P")
E = TypeVar("E", bound=Enum)

MAX_SECONDS = 10**9
"""The longest time-out, in seconds: about 31 years."""

MAX_DURATION = timedelta(days=36525)
"""The longest duration, 100 years: with it, times stay within the years that a datetime can have."""

MAX_INTEGER = 2**63 - 1
"""The largest whole number, which messages and the store can hold."""

_LONGEST_SHOWN = 80
_ONLY_STRINGS = frozenset({str})


def _shown(value: object) -> str:
    """The value, for people; an object without a text of its own is shown by its type alone."""
    if value is None or type(value).__repr__ is object.__repr__:
        return "None" if value is None else f"an object of type {type(value).__qualname__}"
    try:
        shown = repr(value)
    except Exception:  # of somebody else's making
        return f"an object of type {type(value).__qualname__}"
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}..."


def wrong_type(name: str, needed: str, value: object) -> TypeError:
    """Make the error for a value of another type than is needed."""
    return TypeError(f"{name} must be {needed}, not {_shown(value)} ({type(value).__qualname__})")


def wrong_value(name: str, needed: str, value: object) -> ValueError:
    """Make the error for a value of the right type that makes no sense."""
    return ValueError(f"{name} must be {needed}, not {_shown(value)}")


@frozen
class Kind(Generic[T]):
    """The values that a parameter takes. Calling it validates a field of an attrs class.

    :ivar needed: the values in words, as the end of the sentence "it must be ...".
    :ivar is_type: true of values of the right type.
    :ivar is_in_range: true of those that make sense; None if all do.
    """

    needed: str
    is_type: Callable[[object], bool]
    is_in_range: Callable[[Any], bool] | None = None

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is not of this kind.

        :param name: the name of the parameter.
        :raises TypeError: it has another type.
        :raises ValueError: it makes no sense.
        """
        if not self.is_type(value):
            raise wrong_type(name, self.needed, value)
        if self.is_in_range is not None and not self.is_in_range(value):
            raise wrong_value(name, self.needed, value)

    def __call__(self, instance: object, attribute: Attribute[T], value: T) -> None:
        """Validate a field of an attrs class; see `check`."""
        self.check(attribute.alias or attribute.name, value)


def optional(kind: Kind[Any]) -> Kind[Any]:
    """Return the same kind with None."""
    is_type, is_in_range = kind.is_type, kind.is_in_range
    return Kind(
        f"{kind.needed}, or None",
        lambda value: value is None or is_type(value),
        None if is_in_range is None else lambda value: value is None or is_in_range(value),
    )


def instance_of(cls: type[T], needed: str = "") -> Kind[T]:
    """Return the kind of the instances of a class."""
    return Kind(needed or f"an instance of {cls.__qualname__}", lambda value: isinstance(value, cls))


def provides(interface: type[Interface] | Any, hint: str = "") -> Kind[Any]:
    """Return the kind of the providers of an interface of zope.interface.

    An object that has all members of the interface is one, also when its class does not say so with ``@implementer``.

    :param hint: what a caller can do who has none.
    """

    def is_provider(value: object) -> bool:
        if interface.providedBy(value):
            return True
        # A class has the methods of its instances, and is given by mistake in place of one.
        return not isinstance(value, type) and all(hasattr(value, name) for name in interface.names(all=True))

    return Kind(f"a provider of {interface.__name__}{hint and f' ({hint})'}", is_provider)


def is_integer(value: object) -> bool:
    """True of whole numbers. True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """True of whole numbers and fractions. True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole_number(least: int, most: int = MAX_INTEGER) -> Kind[int]:
    """Return the kind of the whole numbers of a range, both ends in it."""
    limits = f" up to {most}" if most != MAX_INTEGER else ""
    needed = f"a whole number from {least}{limits}"
    return Kind(needed, is_integer, lambda value: least <= value <= most)


TEXT: Kind[str] = Kind("a string", lambda value: isinstance(value, str))
BYTES: Kind[bytes] = Kind("bytes", lambda value: isinstance(value, bytes))
FLAG: Kind[bool] = Kind("True or False", lambda value: isinstance(value, bool))
INTEGER: Kind[int] = Kind("a whole number", is_integer)
COUNT = whole_number(1)
SIZE = whole_number(0)
FUNCTION: Kind[Callable[..., Any]] = Kind("a function", callable)
RATE: Kind[float] = Kind("a number over 0", is_number, lambda value: 0 < value < math.inf)
NUMBER: Kind[float] = Kind("a number", is_number)
SECONDS: Kind[float] = Kind(
    f"a number of seconds over 0 and up to {MAX_SECONDS}", is_number, lambda value: 0 < value <= MAX_SECONDS
)
DELAY: Kind[float] = Kind(
    f"a number of seconds from 0 to {MAX_SECONDS}", is_number, lambda value: 0 <= value <= MAX_SECONDS
)
DURATION: Kind[timedelta] = Kind(
    "a datetime.timedelta over 0 and up to 100 years, such as timedelta(seconds=90)",
    lambda value: isinstance(value, timedelta),
    lambda value: timedelta(0) < value <= MAX_DURATION,
)
MOMENT: Kind[datetime] = Kind(
    "a datetime.datetime with a time zone",
    lambda value: isinstance(value, datetime),
    lambda value: value.tzinfo is not None,
)


def mapping_of(key: Kind[Any], value: Kind[Any]) -> Kind[Mapping[Any, Any]]:
    """Return the kind of the mappings of values of one kind to those of another."""
    return Kind(
        f"a mapping, each key {key.needed}, each value {value.needed}",
        lambda mapping: (
            isinstance(mapping, Mapping) and all(key.is_type(k) and value.is_type(v) for k, v in mapping.items())
        ),
    )


def checker(
    function: Callable[..., Any], kinds: Mapping[str, Kind[Any]]
) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
    """Return a function that checks the arguments of a call of ``function``, positional ones and those by name.

    Defaults are not checked.

    :raises TypeError: a kind is for a parameter that the function has not.
    """
    parameters = signature(function).parameters
    names = list(parameters)
    # Those that a positional argument can be for.
    places = [name for name, one in parameters.items() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if not kinds.keys() <= set(names):
        raise TypeError(f"{function.__qualname__} has no parameters {sorted(kinds.keys() - set(names))}")

    # Values that fit, and None if it fits, are spared calls: `Task.new` is called for each submission.
    tests = {name: (kind.is_type, kind.is_in_range, kind) for name, kind in kinds.items()}
    omissible = {name for name, kind in kinds.items() if kind.is_type(None)}

    def check(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for name, value in chain(zip(places, args, strict=False), kwargs.items()):
            if name in tests and (value is not None or name not in omissible):
                is_type, is_in_range, kind = tests[name]
                if not (is_type(value) and (is_in_range is None or is_in_range(value))):
                    kind.check(name, value)

    return check


def checked(**kinds: Kind[Any]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that it raises for arguments of other kinds. See `Kind.check`.

    Methods that return a Deferred have `tasksubmit.protocol.arguments.checked_later`, which fails it.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        check = checker(function, kinds)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            check(args, kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


# --- conversions --------------------------------------------------------------------------------------------------


def iterable(value: Iterable[T], name: str, needed: str) -> Iterable[T]:
    """Refuse a value that is not iterable, and a string: its items would be its characters.

    :raises TypeError: it is one of these.
    """
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(name, needed, value)
    return value


def to_texts(value: Iterable[str], name: str) -> tuple[str, ...]:
    """Return the tuple of some strings."""
    if type(value) is tuple and _ONLY_STRINGS.issuperset(map(type, value)):
        return value  # the common case, soon
    texts = tuple(iterable(value, name, "a sequence of strings"))
    for text in texts:
        TEXT.check(f"{name}: each", text)
    return texts


def to_bytes(value: bytes | bytearray | memoryview, name: str) -> bytes:
    """Return bytes, given as such or in a buffer, which may change afterwards."""
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    BYTES.check(name, value)
    return value


def to_tuple(value: Iterable[T], name: str, kind: Kind[T]) -> tuple[T, ...]:
    """Return the tuple of some values of one kind."""
    values = tuple(iterable(value, name, f"a sequence, each item {kind.needed}"))
    for one in values:
        kind.check(f"{name}: each", one)
    return values


def to_member(value: E | str, name: str, members: type[E]) -> E:
    """Return a member of an enumeration whose values are strings, given as the member or as its value.

    :raises ValueError: there is none with this value; the error has the list.
    """
    if isinstance(value, members):
        return value
    needed = f"one of {', '.join(repr(member.value) for member in members)} ({members.__qualname__})"
    if not isinstance(value, str):
        raise wrong_type(name, needed, value)
    try:
        return members(value)
    except ValueError:
        raise wrong_value(name, needed, value) from None


def to_path(value: Path | str, name: str) -> Path:
    """Return a path, given as one or as a string."""
    if isinstance(value, str) and not value:
        raise wrong_value(name, "the path of a directory", value)
    if not isinstance(value, Path | str):
        raise wrong_type(name, "a pathlib.Path or a string", value)
    return Path(value)


def to_path_or_none(value: Path | str | None, name: str) -> Path | None:
    """Return a path like `to_path`, or None."""
    return None if value is None else to_path(value, name)
