"""The bytes of JSON values; what the decoder refuses is tested with the messages."""

from __future__ import annotations

import json
from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidMessage, MalformedMessage
from tasksubmit.wire.jsontext import MAX_VALUES, decode_object, encode_value
from tests.tiers import examples


class EncodeTests(SynchronousTestCase):
    """Single values."""

    def test_escapes(self) -> None:
        """What JSON, HTML and JavaScript mind is escaped; all other text is plain UTF-8."""
        self.assertEqual(
            encode_value('"\\/\b\f\n\r\t\0\x1f\x7f<>&\u2028\u2029\u00e4\ufffd\U0001f600'),
            b'"\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7f\\u003c\\u003e\\u0026\\u2028\\u2029'
            b'\xc3\xa4\xef\xbf\xbd\xf0\x9f\x98\x80"',
        )

    def test_doubles(self) -> None:
        """Doubles have the fewest digits, and an exponent only outside 1e-6 to 1e21."""
        for value, text in (
            (1.0, "1"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (1e-6, "0.000001"),
            (9.999999e-7, "9.999999e-7"),
            (1e16, "10000000000000000"),
            (1.5e20, "150000000000000000000"),
            (1e21, "1e+21"),
            (-1.5e300, "-1.5e+300"),
            (5e-324, "5e-324"),
            (1e-10, "1e-10"),
        ):
            self.assertEqual(encode_value(value).decode(), text)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_doubles_round_trip(self, value: float) -> None:
        """Every finite double reads back equal, its sign included."""
        self.assertEqual(repr(float(encode_value(value))), repr(value))

    def test_sorted_keys(self) -> None:
        """Keys are sorted by code point, at every level, whatever order they came in."""
        value = OrderedDict([("\U0001f600", 1), ("\uffff", [{"b": 1, "a": 2}]), ("Z", 3), ("a", 4)])
        self.assertEqual(encode_value(value).decode(), '{"Z":3,"a":4,"\uffff":[{"a":2,"b":1}],"\U0001f600":1}')

    def test_refused(self) -> None:
        """What JSON cannot hold is refused, wherever it stands."""
        for value in (float("inf"), {"a": [float("nan")]}, {None: 1}, {1, 2}, b"", "\udc00", {"\ud800": 1}):
            self.assertRaises(InvalidMessage, encode_value, value)


class DecodeTests(SynchronousTestCase):
    """Whole documents."""

    @settings(deadline=None, max_examples=examples(300))
    @given(st.text('{}[]",:0123456789.eE+-\\ud8c tfalsruN\n\ufeff', max_size=30).map(lambda text: text.encode()))
    def test_noise(self, document: bytes) -> None:
        """Any document is read as the standard library reads it, or refused with the named error."""
        try:
            found = decode_object(document)
        except MalformedMessage:
            return
        self.assertEqual(found, json.loads(document))

    def test_too_many_values(self) -> None:
        """A document of too many values is refused before they are made, whatever they are."""
        for item in (b"[]", b"{}", b"1", b'""', b'{"":0}', b"[[]]"):
            few, many = (b'{"a":[' + b",".join([item] * count) + b"]}" for count in (MAX_VALUES // 4, 2 * MAX_VALUES))
            decode_object(few)
            self.assertIn("values", str(self.assertRaises(MalformedMessage, decode_object, many)))
        error = self.assertRaises(MalformedMessage, decode_object, b'","' * (3 * MAX_VALUES))
        self.assertIn("values", str(error))

    def test_marks_in_strings(self) -> None:
        """Commas and brackets of a text are no values, however it is escaped."""
        for text in (",", "[{", '",', "\\,", '\\",[', ',\\"\\\\"'):
            document = {"\\": text * (MAX_VALUES + 1), "b": [text]}
            self.assertEqual(decode_object(json.dumps(document).encode()), document)

    def test_number_types(self) -> None:
        """A number without fraction and exponent is an int, any other a float."""
        found = decode_object(b'{"a":-0,"b":1.0,"c":1e2,"d":18446744073709551617}')
        self.assertEqual(found, {"a": 0, "b": 1.0, "c": 100.0, "d": 2**64 + 1})
        self.assertEqual([type(value) for value in found.values()], [int, float, float, int])
