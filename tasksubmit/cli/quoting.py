"""Text of other agents on a terminal: quoted, so that none of it looks like a line of this program.

A description, a justification, an error, a result or the name of a file is shown in one of two forms: *inline*, between
quotation marks, where it ends in the same line; else as a *block*, each line of which is indented and begins with who
wrote it and a bar.

The trap: a line that is longer than the terminal goes on at the left margin of the next row, where a text that was
padded to that length could write anything, such as a command to be pasted. So blocks are wrapped here, the width of
characters is counted generously, since terminals disagree about it, and what the encoding of the terminal lacks is an
escape before the line is measured.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterator

from tasksubmit.visible import visible

QUOTED = "quoted"
"""Mark of a text whose author may be either party."""

_INDENT = "  "
_SMALLEST_WIDTH = 8
_ELLIPSIS = "…"
_WIDE = frozenset("WFA")  # ambiguous ones are wide where East Asian terminals have it so


def columns() -> int:
    """The width of the terminal; 80 where there is none, as for a pager behind a pipe."""
    return shutil.get_terminal_size().columns


def clean(text: str) -> str:
    """Make text from elsewhere one line that drives no terminal and hides nothing.

    :param text: anything.
    :returns: the text with a space for each line feed, tab and other blank, and an escape for every other character
        that cannot be seen, changes the direction of writing, or controls a terminal.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = visible("".join(map(_blank_as_space, text)))
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def in_quotes(text: str) -> str:
    """Text from elsewhere as one line between quotation marks, which it cannot end itself."""
    return '"' + clean(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def block(text: str, who: str, indent: str = _INDENT) -> list[str]:
    """Text from elsewhere as lines that the terminal need not wrap, each marked with who wrote it.

    :param who: ``submitter``, ``receiver``, or `QUOTED`.
    """
    mark = f"{indent}{who}| "
    width = _width_behind(mark)
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    return [mark + part for line in lines for part in _wrapped(clean(line.expandtabs()), width)]


def first_line(text: str, who: str, indent: str = _INDENT) -> str:
    """The beginning of a text from elsewhere, in one line of a `block`."""
    mark = f"{indent}{who}| "
    width = _width_behind(mark)
    beginning = clean(text[: width + 1])  # no character takes less than a cell
    [part, *more] = _wrapped(beginning, width)
    if not more:
        return mark + part
    ellipsis = clean(_ELLIPSIS)
    return mark + next(_wrapped(beginning, width - sum(map(_cells, ellipsis)), at_blanks=False)) + ellipsis


def sentence(head: str, text: str, who: str = QUOTED, tail: str = "") -> list[str]:
    """Say something with a text from elsewhere, as lines: inline if it fits, else as a block.

    :param head: what is said of it; no text of others.
    :param text: may be empty.
    :param tail: what is said behind it; no text of others.
    """
    if not text:
        return [f"{head}{tail}"]
    line = f"{head}: {in_quotes(text)}{tail}"
    if "\n" not in text and sum(map(_cells, line)) < columns():
        return [line]
    return [f"{head}{tail}", *block(text, who)]


def shown_id(task_id: str) -> str:
    """A task's id as it can be copied behind a verb: one that looks like an option has ``--`` before it."""
    return f"-- {task_id}" if task_id.startswith("-") else task_id


def _blank_as_space(character: str) -> str:
    return " " if character in "\n\t" or unicodedata.category(character) == "Zs" else character


def _width_behind(mark: str) -> int:
    return max(columns() - 1 - len(mark), _SMALLEST_WIDTH)


def _cells(character: str) -> int:
    """The cells that a terminal may take for a visible character, at most."""
    if character.isascii():
        return 1
    is_symbol = unicodedata.category(character) == "So"
    return 2 if is_symbol or unicodedata.east_asian_width(character) in _WIDE else 1


def _wrapped(line: str, width: int, *, at_blanks: bool = True) -> Iterator[str]:
    """Parts of a line of at most so many cells, cut behind a blank if there is one."""
    start = used = behind_blank = 0
    for index, character in enumerate(line):
        cells = _cells(character)
        if used + cells > width:
            end = behind_blank if behind_blank > start else index
            yield line[start:end].rstrip(" ")
            start, used = end, sum(map(_cells, line[end:index]))
        used += cells
        if at_blanks and character == " ":
            behind_blank = index + 1
    yield line[start:]
