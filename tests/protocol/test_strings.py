"""Texts with arguments and options."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.protocol.strings import split_description


def quoted(text: str) -> str:
    """The text, such that it is one argument."""
    return "".join("\\" + character if character in "\\:=" else character for character in text)


class SplitTests(SynchronousTestCase):
    """`split_description`."""

    def test_examples(self) -> None:
        """Colons part, backslashes quote, and options have names."""
        for text, expected in (
            ("", ([""], {})),
            ("manual", (["manual"], {})),
            ("python:a.b:c:thread=yes", (["python", "a.b", "c"], {"thread": "yes"})),
            (
                "process:./run --fast=1 x=y:timeout=3",
                (["process", "./run --fast=1 x=y"], {"timeout": "3"}),
            ),
            (r"process:a\:b\\c", (["process", r"a:b\c"], {})),
            (r"x:a\=b", (["x", "a=b"], {})),
            ("x:a=b=c", (["x"], {"a": "b=c"})),
            ("tcp:1:interface=127.0.0.1", (["tcp", "1"], {"interface": "127.0.0.1"})),
            ("a=b", ([""], {"a": "b"})),
        ):
            self.assertEqual(split_description(text), expected, text)

    @given(st.lists(st.text(), min_size=1), st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.text()))
    def test_anything(self, arguments: list[str], options: dict[str, str]) -> None:
        """Whatever is quoted comes out as it was."""
        parts = [quoted(one) for one in arguments] + [f"{name}={quoted(value)}" for name, value in options.items()]
        self.assertEqual(split_description(":".join(parts)), (arguments, options))
