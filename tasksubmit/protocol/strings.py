"""Texts that describe something with arguments and options, as Twisted's endpoint strings do."""

from __future__ import annotations


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
