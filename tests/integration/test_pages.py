"""What the README and the pages tell people to type, run as it stands there with real processes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.docs.pages import LOOKED_AT, ROOT, Block, blocks, literal_blocks, pages
from tests.docs.running import SampleFailed, run_page
from tests.tiers import tier

INDEX = "needs a package index"
NOT_RUN = {
    INDEX: 2,
    f"{INDEX}; .ci/run does it in a clean environment": 3,
    f"{INDEX}; .ci/run does the same in a clean environment": 1,
    f"{INDEX}, and minutes; the tests run every target briefly": 1,
    f"{INDEX}, two servers and ten minutes; .ci/run does it in its short form": 1,
    "runs all tests, this one among them": 1,
    "needs a container runtime": 1,
    "needs uvicorn; tests.integration.test_examples runs the application without it": 1,
    "takes half an hour": 1,
    "needs root and systemd as the first process": 3,
    "systemd-socket-activate runs until it is interrupted; a test passes the socket itself": 1,
}
"""Why blocks are not run, and how many of them."""

TUTORIAL = ROOT / "docs" / "tutorial" / "first-task.rst"

FIRST = (ROOT / "README.rst", TUTORIAL)
"""What a newcomer reads first; the other pages are in the tier ``full``."""

PROGRAMS = ("curl", "openssl")
"""What is not everywhere: without it a page that uses it is not run."""


class PageTests(SynchronousTestCase):
    """Every page with samples; each has a test of its own, so that they can run side by side."""


def _test_of(page: Path) -> Callable[[PageTests], None]:
    def test(self: PageTests) -> None:
        todo = [block for block in blocks(page) if not block.not_run and block.language not in LOOKED_AT]
        for program in PROGRAMS:
            if any(f"$ {program} " in block.text for block in todo) and shutil.which(program) is None:
                raise SkipTest(f"there is no {program}")
        run_page(todo)

    test.__doc__ = f"The samples of {page.relative_to(ROOT)} do what it says."
    return test if page in FIRST else tier("full")(test)


for _page in pages():
    if blocks(_page):
        _name = re.sub(r"\W", "_", str(_page.relative_to(ROOT).with_suffix(""))).lower()
        setattr(PageTests, f"test_{_name}", _test_of(_page))


class SampleTests(SynchronousTestCase):
    """What samples there are."""

    def test_known(self) -> None:
        """Every sample is one that is run, or looked at only; none of those has commands."""
        for page in pages():
            where = str(page.relative_to(ROOT))
            self.assertEqual(literal_blocks(page), [], f"{where}: use code-block, so that it is known what it is")
            for block in blocks(page):
                known = block.caption or block.language in ("console", "python", "pycon", "toml", *LOOKED_AT)
                self.assertTrue(known, f"{where}:{block.line}: {block.language} without a caption")
                if block.language in LOOKED_AT:
                    self.assertNotRegex(block.text, r"(?m)^\$ ", f"{where}:{block.line}")

    def test_installed_alike(self) -> None:
        """The tutorial installs the package as the README does, whose commands are run in a clean environment."""
        [readme, *_] = (block.text for block in blocks(ROOT / "README.rst") if "pip install" in block.text)
        [tutorial] = (block.text for block in blocks(TUTORIAL) if "pip install" in block.text)
        self.assertTrue(readme.startswith(tutorial.splitlines()[0]), (readme, tutorial))

    def test_not_run(self) -> None:
        """What is not run says why, and there is no more of it than is known."""
        reasons: dict[str, int] = {}
        for page in pages():
            for block in blocks(page):
                if block.not_run:
                    reasons[block.not_run] = reasons.get(block.not_run, 0) + 1
        self.assertEqual(reasons, NOT_RUN)


class RunTests(SynchronousTestCase):
    """What runs the samples: it sees when they are wrong."""

    def page(self, text: str) -> list[Block]:
        """The blocks of a page of this text."""
        path = ROOT / "README.rst"  # only its name is told
        return blocks(path, text)

    def fails(self, text: str, *words: str) -> None:
        """A page of this text fails, and says so with these words."""
        error = self.assertRaises(SampleFailed, run_page, self.page(text))
        for word in ("README.rst:1: $ ", *words):
            self.assertIn(word, str(error))

    def test_right(self) -> None:
        """Commands see the files and the variables that those before them have made; what varies is left out."""
        run_page(
            self.page(
                ".. code-block:: text\n   :caption: a/b.txt\n\n   one\n     two\n\nThen:\n\n"
                ".. code-block:: console\n\n   $ cat a/b.txt\n   one\n     t...\n"
                "   $ x=3\n   $ echo \\\n       $x 11003\n   3 11003\n"
            )
        )

    def test_fails(self) -> None:
        """A command that fails ends the page, also when it is not the last one in a pipe."""
        self.fails(
            ".. code-block:: console\n\n   $ echo so far\n   $ false\n   $ echo further\n", "$ false\n", "with 1"
        )
        self.fails(".. code-block:: console\n\n   $ false | cat\n", "$ false | cat")

    def test_says_something_else(self) -> None:
        """What a command prints is compared."""
        self.fails(".. code-block:: console\n\n   $ echo one\n   two\n", "said:\none\n", "not:\ntwo")

    def test_times(self) -> None:
        """A time of a page stands for any time in the same form, and for nothing else."""
        sample = ".. code-block:: console\n\n   $ echo at 2026-11-30T09:41:07.125Z\n   at {}\n"
        run_page(self.page(sample.format("2026-04-09T12:00:00Z")))
        self.fails(sample.format("noon"), "said:\nat 2026-11-30T09:41:07.125Z", "not:\nat noon")

    def test_program(self) -> None:
        """What a program prints is compared, when it is said; a traceback is never right."""
        self.fails(".. code-block:: python\n\n   raise ValueError\n", "ValueError")
        program = ".. code-block:: python\n\n   print('one')\n"
        run_page(self.page(f".. prints: o...\n\n{program}"))
        error = self.assertRaises(SampleFailed, run_page, self.page(f".. prints: two\n\n{program}"))
        self.assertIn("said:\none\n", str(error))

    def test_configuration(self) -> None:
        """A configuration is checked."""
        self.fails('.. code-block:: toml\n\n   addres = "0:0000.0000.0001"\n', "there is no setting 'addres'")

    def test_session(self) -> None:
        """A session with the interpreter is compared, and goes on from block to block."""
        first, second = ".. code-block:: pycon\n\n   >>> x = 1\n\n", ".. code-block:: pycon\n\n   >>> x\n   1\n"
        run_page(self.page(first + second))
        self.assertRaises(SampleFailed, run_page, self.page(second))

    def test_not_run(self) -> None:
        """The reason why a block is not run is that above it, and no other's."""
        text = (
            ".. not run: far too\n   dear\n\n.. code-block:: console\n\n   $ a\n\n.. code-block:: console\n\n   $ b\n"
        )
        self.assertEqual([block.not_run for block in self.page(text)], ["far too dear", ""])
