"""Writing reStructuredText."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def literal(text: object) -> str:
    """Text as code; nothing for an empty one."""
    return f"``{text}``" if str(text) else ""


def title(text: str, underline: str = "-") -> str:
    """A heading."""
    return f"{text}\n{underline * len(text)}\n\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str) -> str:
    """A table; a cell may have several lines.

    :param widths: of the columns, such as ``20 80``.
    """
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            first, *more = cell.split("\n")
            lines.append(f"   {'*' if number == 0 else ' '} - {first}".rstrip())
            lines += [f"       {line}".rstrip() for line in more]
    return "\n".join(lines) + "\n\n"


def prose(docstring: str | None) -> str:
    """A docstring as text of a page: what stands in single backticks there is code here."""
    text = inspect.cleandoc(docstring or "").replace("\b\n", "")
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text)
    return text.replace("wire.md, ", ":doc:`/wire`, ")  # the page is what readers have


def first_paragraph(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(prose(docstring).split("\n\n")[0].split())
