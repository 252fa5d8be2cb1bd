"""Texts that describe something with arguments and options, as Twisted's endpoint strings do."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import getPlugins

_BUILT_IN = ("tcp", "ssl", "unix")
"""Types of endpoints that Twisted knows without a plugin, on either side."""


def check_server_type(text: str) -> None:
    """Refuse a server endpoint string of an unknown type.

    :raises ValueError: with the types that are known.
    """
    _check_type(text, IStreamServerEndpointStringParser)


def check_client_type(text: str) -> None:
    """Refuse a client endpoint string of an unknown type.

    :raises ValueError: with the types that are known.
    """
    _check_type(text, IStreamClientEndpointStringParserWithReactor)


def _check_type(text: str, parsers: type[Any]) -> None:
    words, _ = split_description(text)
    if words[0].lower() == "mtls":
        words = words[1:] or [""]  # it is around another endpoint
    kind = words[0].lower()
    if kind in _BUILT_IN:
        return
    known = {*_BUILT_IN, *(str(plugin.prefix).lower() for plugin in getPlugins(parsers))}
    if kind not in known:
        raise ValueError(f"unknown endpoint type {words[0]!r}: the types are {', '.join(sorted(known))}")


def split_description(text: str) -> tuple[list[str], dict[str, str]]:
    r"""The parts of ``NAME:ARGUMENT:OPTION=VALUE``: those without and those with a name.

    A ``\`` quotes the character after it. What stands before ``=`` is a name only if it could be one in Python, so that
    the arguments of a command need no quoting.

    :returns: at least one of the former, which may be empty.
    """
    arguments: list[str] = []
    options: dict[str, str] = {}
    name, part, is_quoted = "", "", False
    for character in text + ":":
        if is_quoted:
            part, is_quoted = part + character, False
        elif character == "\\":
            is_quoted = True
        elif character == "=" and not name and part.isidentifier():
            name, part = part, ""
        elif character != ":":
            part += character
        else:
            if name:
                options[name] = part
            else:
                arguments.append(part)
            name = part = ""
    return arguments or [""], options
