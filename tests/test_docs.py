"""The README reads as it should where packages are shown; the pages of promises keep their own."""

from __future__ import annotations

import re
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

from docutils.core import publish_doctree  # type: ignore[import-untyped]  # it has no types
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PROMISES = DOCS / "promises.rst"


class ReadmeTests(SynchronousTestCase):
    """``README.rst``, which no page of the site includes."""

    def test_structure(self) -> None:
        """It has its title, nothing that docutils would only remark on, and no line of a merge in its text."""
        remarks = StringIO()
        settings = {"report_level": 1, "warning_stream": remarks, "syntax_highlight": "none"}
        readme = publish_doctree((ROOT / "README.rst").read_text(), settings_overrides=settings)
        self.assertEqual(remarks.getvalue(), "")
        self.assertEqual(readme["title"], "tasksubmit")
        self.assertNotRegex(readme.astext(), "<{7}|={7}|>{7}")


class PromisesTests(SynchronousTestCase):
    """``docs/promises.rst``."""

    def test_tests(self) -> None:
        """Each test module and each module of the package that it names exists."""
        named = re.findall(r"``((?:tests|stores|node|lifecycle|protocol)(?:\.\w+)+)``", PROMISES.read_text())
        self.assertGreater(len(named), 30)
        for name in named:
            module = name if name.startswith("tests.") else f"tasksubmit.{name}"
            self.assertIsNotNone(find_spec(module), name)

    def test_every_promise_is_shown(self) -> None:
        """No row of the tables is without its test."""
        rows = re.split(r"\n   \* - ", PROMISES.read_text())[1:]
        for row in rows:
            if not row.startswith("promise\n"):
                self.assertRegex(row, r"``tests\.", row)


class SecurityTests(SynchronousTestCase):
    """``docs/security.rst`` and ``docs/bounds.rst``."""

    def test_tests(self) -> None:
        """Each test module that they name exists, and no promise is without one."""
        for page in ("security.rst", "bounds.rst"):
            named = re.findall(r"``(tests(?:\.\w+)+)``", (DOCS / page).read_text())
            self.assertGreater(len(named), 5)
            for name in named:
                self.assertIsNotNone(find_spec(name), name)
        promises = (DOCS / "security.rst").read_text().partition("Who may do what")[0]
        rows = re.split(r"\n   \* - ", promises)[1:]
        self.assertGreater(len(rows), 10)
        for row in rows[1:]:
            self.assertRegex(row, r"``tests\.", row)
