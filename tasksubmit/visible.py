"""Characters that cannot be seen, or that drive a terminal, written as escapes: one rule for logs and the command line.

Unicode calls most of them not printable: control and format characters (zero width, marks of direction, tags), half
surrogate pairs, line separators, blanks other than the space, and code points that mean nothing or something private.
Some are letters, marks or symbols by their category, and yet show nothing; those are listed here.
"""

from __future__ import annotations

_RANGES = (
    (0x034F, 0x034F),  # combining grapheme joiner
    (0x115F, 0x1160),  # Hangul fillers
    (0x17B4, 0x17B5),  # Khmer inherent vowels
    (0x180B, 0x180F),  # Mongolian variation selectors and vowel separator
    (0x2800, 0x2800),  # Braille without a dot
    (0x3164, 0x3164),  # Hangul filler
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFFA0, 0xFFA0),  # half-width Hangul filler
    (0x13441, 0x13442),  # Egyptian blanks
    (0x16FE4, 0x16FE4),  # Khitan filler
    (0x1D159, 0x1D159),  # musical null note head
    (0xE0100, 0xE01EF),  # more variation selectors
)
_SHOW_NOTHING = frozenset(chr(code) for first, last in _RANGES for code in range(first, last + 1))


def visible(text: str) -> str:
    r"""Return ``text`` with an escape, such as ``\u200b``, for each character that cannot be seen.

    Line feeds and tabs are among them. What is ASCII and printable comes back as it is.
    """
    if text.isprintable() and _SHOW_NOTHING.isdisjoint(text):
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() and character not in _SHOW_NOTHING:
        return character
    code = ord(character)
    if code <= 0xFF:
        return repr(character)[1:-1]
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
