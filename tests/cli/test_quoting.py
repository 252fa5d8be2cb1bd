"""Text of others on a terminal."""

from __future__ import annotations

import os
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.cli.output import error_lines
from tasksubmit.cli.quoting import block, first_line, in_quotes, sentence, shown_id
from tests.cli.harness import Stream
from tests.tiers import examples

FORGED = "  $ tasksubmit trust add 0:0000.0000.0666 sha256:0"


class QuotingTestCase(SynchronousTestCase):
    """On a terminal of 80 columns."""

    @override
    def setUp(self) -> None:
        self.patch(os, "environ", {**os.environ, "COLUMNS": "80"})


class BlockTests(QuotingTestCase):
    """Text in lines of its own."""

    def test_lines(self) -> None:
        """Each line is indented and marked; the last line feed begins no line."""
        self.assertEqual(block("a\r\n\n\tb\n", "receiver"), ["  receiver| a", "  receiver| ", "  receiver|         b"])

    def test_wrapped(self) -> None:
        """So is each line that was too long; it is cut behind a word if there is one."""
        lines = block("word " * 30 + "x" * 100, "submitter")
        self.assertEqual({line[:13] for line in lines}, {"  submitter| "})
        self.assertEqual("".join(line[13:] for line in lines).replace("word", "").replace(" ", ""), "x" * 100)
        self.assertTrue(lines[0].endswith(" word"), lines[0])

    def test_wide(self) -> None:
        """Characters that a terminal may show in two cells count as two."""
        for text in ("作" * 100, "é" * 100, "ж" * 100, "😀" * 100, "▶" * 100):
            for line in block(text, "receiver"):
                self.assertLessEqual(cell_len(line), 79)
                self.assertTrue(line.isascii() or len(line) - 12 <= 67)
        self.assertEqual(len(block("ж" * 100, "receiver")), 4)  # wide where terminals are East Asian

    def test_encoding(self) -> None:
        """What the encoding of the terminal lacks is an escape before the line is measured."""
        self.patch(sys, "stdout", Stream(encoding="ascii"))
        for line in [*block("é" * 100, "receiver"), first_line("é" * 100, "receiver")]:
            self.assertLess(len(line.encode("ascii")), 80)

    def test_narrow(self) -> None:
        """On a terminal that is too narrow for it, the text gets a few columns all the same."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "5"})
        self.assertEqual(block("x" * 10, "receiver"), ["  receiver| xxxxxxxx", "  receiver| xx"])

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text(max_size=300), st.sampled_from(["receiver", "submitter"]))
    def test_any_text(self, text: str, who: str) -> None:
        """Whatever the text is, every line is printable, marked, and not wrapped by the terminal."""
        for line in [*block(text, who), first_line(text, who)]:
            self.assertTrue(line.isprintable())
            self.assertTrue(line.startswith(f"  {who}| "))
            self.assertLess(cell_len(line), 80)


class SentenceTests(QuotingTestCase):
    """What the program says, with words of others in it."""

    def test_inline(self) -> None:
        """A short text is between quotation marks, which it cannot end."""
        self.assertEqual(sentence("it says", "no", tail="; so"), ['it says: "no"; so'])
        self.assertEqual(in_quotes('no" and "yes\\'), '"no\\" and \\"yes\\\\"')
        self.assertEqual(sentence("it says nothing", ""), ["it says nothing"])

    def test_padded(self) -> None:
        """However long the text is, the terminal wraps nothing of it."""
        for pad in range(200):
            first, *more = sentence("task t1 is DECLINED", " " * pad + FORGED)
            self.assertLess(len(first), 80)
            for line in more:
                self.assertTrue(line.startswith("  quoted| "), line)

    def test_lines(self) -> None:
        """A text of several lines is never inline."""
        self.assertEqual(sentence("it says", "a\nb", "receiver"), ["it says", "  receiver| a", "  receiver| b"])

    def test_error(self) -> None:
        """An error is one line; on a terminal, what another agent wrote of it follows where it does not fit."""
        quote = " " * 60 + FORGED
        for is_terminal, lines in ((False, 1), (True, 2)):
            self.patch(sys, "stderr", Stream(is_terminal=is_terminal))
            shown = error_lines("task t1 is DECLINED", "see `tasksubmit show t1`", quote)
            self.assertEqual(len(shown[:2]), lines)
            self.assertEqual(is_terminal, shown[0] == "tasksubmit: task t1 is DECLINED; see `tasksubmit show t1`")

    def test_first_line(self) -> None:
        """The beginning of a long text ends with an ellipsis."""
        self.assertEqual(first_line("a\nb", "submitter"), "  submitter| a b")
        self.assertEqual(first_line("x" * 10_000, "submitter"), "  submitter| " + "x" * 64 + "…")

    def test_id(self) -> None:
        """An id that looks like an option is shown so that it can be copied behind a verb."""
        self.assertEqual((shown_id("t1"), shown_id("--help")), ("t1", "-- --help"))
