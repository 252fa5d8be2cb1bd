"""The code in the pages, to be run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language on a page, without their indentation."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", (ROOT / page).read_text(), re.M)
    return [dedent(block).strip() + "\n" for block in found]
