"""Which result files may be sent, and what they are called on disk."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidMessage
from tasksubmit.lifecycle.results import (
    ALLOWED_RESULT_EXTENSIONS,
    FORBIDDEN_RESULT_EXTENSIONS,
    check_result_filename,
    disk_name,
    no_option,
    numbered,
    plain_disk_name,
)
from tests.tiers import examples


class CheckTests(SynchronousTestCase):
    """The check of a file name."""

    def refused(self, name: str, reason: str) -> None:
        """Check that a name is refused, and why."""
        error = self.assertRaises(InvalidMessage, check_result_filename, name)
        self.assertEqual(error.field, "filename")
        self.assertIn(reason, str(error))

    def test_lists(self) -> None:
        """The two lists have the published extensions, and none in common."""
        self.assertEqual((len(ALLOWED_RESULT_EXTENSIONS), len(FORBIDDEN_RESULT_EXTENSIONS)), (24, 36))
        self.assertFalse(ALLOWED_RESULT_EXTENSIONS & FORBIDDEN_RESULT_EXTENSIONS)
        for extension in ALLOWED_RESULT_EXTENSIONS:
            check_result_filename(f"result{extension}")
            check_result_filename(f"result{extension.upper()}")
        for extension in FORBIDDEN_RESULT_EXTENSIONS:
            self.refused(f"result{extension}", "source code")
            self.refused(f"result{extension.upper()}", "source code")

    def test_plain_names(self) -> None:
        """Names with blanks inside, many dots, and letters of any script are fine."""
        for name in ("a b.md", "a..b.pdf", "\u00e4\u4ea4.png", "model.tar.bin", "-.csv", "a" * 197 + ".md"):
            check_result_filename(name)

    def test_no_plain_name(self) -> None:
        """A name that could lead out of its directory, hide, or deceive is refused."""
        for name, reason in (
            ("", "empty"),
            ("../a.md", "slash"),
            ("/etc/a.md", "slash"),
            ("c:\\a.md", "slash"),
            (".", "dot"),
            ("..", "dot"),
            (".md", "dot"),
            (" a.md", "blank"),
            ("a.md ", "blank"),
            ("a.md\n", "blank"),
            ("a\0.md", "printed"),
            ("a\u202edm.md", "printed"),
            ("a\ud800.md", "printed"),
            ("a" * 198 + ".md", "long"),
            ("\u00e4" * 99 + ".md", "long"),
        ):
            self.refused(name, reason)

    def test_unknown_extensions(self) -> None:
        """What is in neither list is refused, and so is a name without extension, each with words of its own."""
        for name in ("a.zip", "a.md.gz", "a.exe", "a.\u00e4"):
            self.refused(name, "allowed are")
        for name in ("a", "md", "a."):
            self.refused(name, "has no extension")

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text(max_size=20) | st.text("./\\ a\n\u202e", max_size=8).map(lambda text: text + ".md"))
    def test_any_name(self, name: str) -> None:
        """Any name is let through, as one component of a path that can be encoded, or refused with the named error."""
        try:
            check_result_filename(name)
        except InvalidMessage:
            return
        self.assertNotRegex(name, r"[/\\\x00-\x1f]")
        self.assertNotIn(name, (".", ".."))
        name.encode()


class DiskNameTests(SynchronousTestCase):
    """Names on disk."""

    def test_plain(self) -> None:
        """A result is kept under the task's id and its own name."""
        self.assertEqual(disk_name("t-1", "report.pdf"), "t-1_report.pdf")

    def test_long(self) -> None:
        """A name that is too long loses the end of its stem, never half a character, and keeps its extension."""
        name = disk_name("t" * 128, "\u00e4" * 98 + ".md")
        self.assertEqual(name, "t" * 128 + "_" + "\u00e4" * 49 + ".md")
        self.assertEqual(len(name.encode()), 230)
        name = disk_name("t" * 127, "\u00e4" * 98 + ".md")
        self.assertEqual(len(name.encode()), 229)
        self.assertEqual(disk_name("t" * 128, "a" * 98 + ".md"), "t" * 128 + "_" + "a" * 98 + ".md")

    def test_no_option(self) -> None:
        """A name that would begin with a dash begins with an underscore, and is no longer than others."""
        self.assertEqual(disk_name("--help", "report.pdf"), "_--help_report.pdf")
        self.assertEqual(plain_disk_name("-rf", "report.PDF"), "_-rf.pdf")
        self.assertEqual(len(disk_name("-" * 128, "a" * 150 + ".md")), 230)
        self.assertEqual((no_option("--x.txt"), no_option("x-.txt")), ("_--x.txt", "x-.txt"))

    def test_numbered(self) -> None:
        """A number comes before the extension."""
        self.assertEqual(numbered("t_report.pdf", 2), "t_report-2.pdf")
        self.assertEqual(numbered("t_a.b.csv", 10), "t_a.b-10.csv")
        self.assertEqual(numbered("plain", 3), "plain-3")
