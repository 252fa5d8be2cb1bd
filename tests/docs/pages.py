"""The samples of a page: its code blocks, and whether they can be run here.

Every sample is a ``code-block``. What its language means:

``console``
    Lines that begin with ``$`` are commands, which have to succeed; a line goes on when it ends with a backslash. Lines
    below a command are what it prints, where ``...`` stands for anything, and any time for any other time in the same
    form; without any that is not looked at.
``python``
    A program.
``pycon``
    A session with the interpreter.
``toml``
    The configuration of a node.
``text``, ``json``
    Something to look at.

With a ``:caption:`` a block is the file of that name, whatever its language, there for the commands that follow. A
block right under a comment ``.. not run: REASON`` is not run; one under ``.. prints: TEXT`` prints that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

from attrs import frozen

from tests.docs import DOCS

ROOT = DOCS.parent
LOOKED_AT = ("text", "json")

ELSEWHERE = {"docs/testing.rst": "tests.testing.test_pages"}
"""Pages whose samples are tests themselves, and what runs them."""


def pages() -> list[Path]:
    """Every page that people read, from the README on."""
    folders = [
        path
        for path in sorted(DOCS.rglob("*.rst"))
        if "_build" not in path.parts and path.relative_to(ROOT).as_posix() not in ELSEWHERE
    ]
    return [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *folders]


@frozen
class Block:
    """One sample.

    :ivar caption: the file that it is, if any.
    :ivar not_run: why it is not run; empty when it is.
    :ivar prints: what a program prints, if that is looked at.
    """

    page: Path
    line: int
    language: str
    text: str
    caption: str = ""
    not_run: str = ""
    prints: str = ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a ``console`` block, with what it is said to print."""
        command: list[str] = []
        output: list[str] = []
        for line in self.text.splitlines():
            if command and command[-1].endswith("\\") and not output:
                command.append(line)
            elif line.startswith("$ "):
                if command:
                    yield "\n".join(command), "\n".join(output)
                command, output = [line[2:]], []
            else:
                output.append(line)
        if command:
            yield "\n".join(command), "\n".join(output)


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """The samples of a page, in order; ``text`` stands for what is in it."""
    lines = (page.read_text("utf-8") if text is None else text).splitlines()
    found = []
    said = {"not run": "", "prints": ""}
    for number, line in enumerate(lines):
        if comment := re.match(rf" *\.\. ({'|'.join(said)}): ", line):
            said[comment[1]] = _with_more(lines, number)
        if directive := re.match(r"( *)\.\. (?:code-block|sourcecode|code):: *(\S+)$", line):
            inside = _inside(lines[number + 1 :], len(directive[1]))
            text = dedent("\n".join(inside))
            options = dict(re.findall(r"^:([\w-]+): *(.*)$", text.split("\n\n")[0], re.M))
            body = text.split("\n\n", 1)[1] if options else text
            caption = options.get("caption", "")
            found.append(Block(page, number + 1, directive[2], body.strip("\n") + "\n", caption, *said.values()))
            said = dict.fromkeys(said, "")
    return found


def literal_blocks(page: Path) -> list[int]:
    """The lines that open a block by ``::`` alone, of which nobody knows what it is."""
    lines = page.read_text("utf-8").splitlines()
    return [number + 1 for number, line in enumerate(lines) if line.endswith("::") and not re.match(r" *\.\. ", line)]


def _inside(lines: list[str], indentation: int) -> list[str]:
    """The lines that belong to a directive with so much in front."""
    inside = []
    for line in lines:
        if line.strip() and len(line) - len(line.lstrip()) <= indentation:
            break
        inside.append(line)
    return inside


def _with_more(lines: list[str], number: int) -> str:
    """The text of a comment, all of its lines."""
    indentation = len(lines[number]) - len(lines[number].lstrip())
    more = [line.strip() for line in _inside(lines[number + 1 :], indentation)]
    return " ".join([lines[number].split(": ", 1)[1], *more]).strip()
