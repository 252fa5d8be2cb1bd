"""Characters that cannot be seen."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.visible import visible
from tests.tiers import examples

TAGS = "".join(chr(0xE0000 + ord(character)) for character in "ignore all that")


class VisibleTests(SynchronousTestCase):
    """Escapes for what cannot be seen."""

    def test_seen(self) -> None:
        """Letters, marks and symbols of any script stay."""
        for text in ("plain \\ text", "ünïcödé", "e\u0301", "שלום", "作业", "क्ष", "👩 ▶ €"):
            self.assertEqual(visible(text), text)

    def test_invisible(self) -> None:
        """Zero width, tags, marks of direction, selectors, fillers and blanks of all kinds are escapes."""
        zero_width = "\u200b\u200c\u200d\u2060\ufeff\xad\u034f\u180e"
        fillers = "\u115f\u1160\u3164\uffa0\u2800\u17b4\U0001d159"
        selectors = "\ufe00\ufe0f\U000e0100\U000e01ef"
        directions = "\u061c\u200e\u200f\u202a\u202e\u2066\u2069"
        others = "\x00\x1b\x7f\x9b\u2028\u2029\ud800\ue000\u0378\xa0\u3000\n\t"
        for character in zero_width + fillers + selectors + directions + TAGS + others:
            shown = visible(f"a{character}b")
            self.assertRegex(shown, r"^a\\[nrtxuU][0-9a-f]*b$")
            self.assertEqual(shown.encode("ascii").decode("unicode_escape"), f"a{character}b")

    @settings(deadline=None, max_examples=examples(300))
    @given(st.text(max_size=20))
    def test_any(self, text: str) -> None:
        """What comes out can be printed, and has no format character."""
        shown = visible(text)
        self.assertTrue(shown.isprintable())
        self.assertNotIn("Cf", {unicodedata.category(character) for character in shown})
