"""What is large: read and written in pieces, measured without being made, and cut out of the stream as bytes."""

from __future__ import annotations

import base64
import json
import re
import tracemalloc
from io import BytesIO
from itertools import pairwise
from typing import Any

from attrs import evolve
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import InvalidMessage, MalformedMessage
from tasksubmit.pieces import PIECE
from tasksubmit.wire import jsontext, records
from tasksubmit.wire.frames import Frame, FrameDecoder
from tasksubmit.wire.messages import TaskResultMessage
from tests.tiers import examples
from tests.wire.test_messages import any_message

STRICT = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
"""Base64 with its padding and nothing else."""

RESULTS = TaskResultMessage("t1", "file", filename="a.md", completed_at="2026-01-01T00:00:00Z")

THREE = PIECE // 4 * 3
"""Bytes of content in a piece of base64."""

SIZES = (0, 1, 2, 3, 4, *(k * THREE + n for k in (1, 2) for n in (-4, -3, -2, -1, 0, 1, 2, 3, 4)))
"""Bytes of content, around the lengths of the pieces."""


def content_of(size: int) -> bytes:
    """So many bytes, in which one misplaced piece is seen."""
    return b"".join(n.to_bytes(4, "big") for n in range(size // 4 + 1))[:size]


def document_of(encoded: str) -> bytes:
    """Results whose content is written like this."""
    return json.dumps({"task_id": "t1", "result_type": "file", "file_data": encoded}).encode()


class LengthTests(SynchronousTestCase):
    """How long a message is."""

    @settings(deadline=None, max_examples=examples(200))
    @given(any_message(TaskResultMessage))
    def test_any_message(self, message: Any) -> None:
        """The length that is told is that of the payload that carries the message."""
        self.assertEqual(message.frame_bytes(), len(message.to_frame().payload))

    def test_large(self) -> None:
        """That holds for content of any length, none included."""
        for size in SIZES:
            message = evolve(RESULTS, file_data=content_of(size))
            self.assertEqual(message.frame_bytes(), len(message.to_frame().payload), size)

    def test_cannot_be_written(self) -> None:
        """What cannot be written has no length either, and is refused as in writing it."""
        for fields in ({"result_text": "half a \ud800 pair"}, {"time_cpu_ms": 2**63}, {"task_id": "\udfff"}):
            message = evolve(RESULTS, file_data=b"x", **fields)
            errors = [self.assertRaises(InvalidMessage, call) for call in (message.frame_bytes, message.to_frame)]
            self.assertEqual(*((error.field, str(error)) for error in errors))


class Base64Tests(SynchronousTestCase):
    """Content in pieces."""

    def read(self, encoded: str) -> bytes:
        """The content of results that have it like this."""
        return TaskResultMessage.from_json(document_of(encoded)).file_data

    def test_round_trip(self) -> None:
        """Content is written as base64 of all of it, however many pieces it is written in, and reads back."""
        for size in SIZES:
            content = content_of(size)
            encoded = base64.b64encode(content).decode()
            payload = evolve(RESULTS, file_data=content).to_json()
            self.assertEqual(json.loads(payload).get("file_data", ""), encoded)
            self.assertEqual(TaskResultMessage.from_json(payload).file_data, content)

    def test_damage(self) -> None:
        """Wherever one character is wrong, missing or too much, also at the end of a piece, the message is refused."""
        for size in (5, THREE, 2 * THREE - 1, 2 * THREE, 2 * THREE + 1):
            encoded = base64.b64encode(content_of(size)).decode()
            places = {0, 1, PIECE - 2, PIECE - 1, PIECE, PIECE + 1, PIECE + 4, len(encoded) - 5}
            for place in sorted(place for place in places if 0 <= place < len(encoded) - 4):
                before, after = encoded[:place], encoded[place + 1 :]
                for damaged in (
                    *(before + wrong + after for wrong in "= -_\n\0\u00e9*"),
                    before + after,
                    before + "AA" + after,
                    before + "\n" + encoded[place:],
                ):
                    self.assertRaises(MalformedMessage, self.read, damaged)
            for damaged in (f"{encoded}=", f"{encoded}====", f"{encoded}A===", f"{encoded}AA=", f"{encoded[:-1]}\n"):
                self.assertRaises(MalformedMessage, self.read, damaged)

    def test_padding_between(self) -> None:
        """Padding ends the content: what is put together of two whole contents is refused, wherever a piece ends."""
        for encoded in ("A=A=", "AA=A", "=AAA", "AAAAA=A="):
            self.assertRaises(MalformedMessage, self.read, encoded)
        for size in (1, THREE - 1, THREE - 2, 2 * THREE - 1):
            encoded = base64.b64encode(content_of(size)).decode()
            self.assertTrue(encoded.endswith("="))
            for more in ("AAAA", encoded):
                self.assertRaises(MalformedMessage, self.read, encoded + more)

    def test_loose_bits(self) -> None:
        """Bits that are left over in the last character are ignored."""
        for size in (1, THREE + 1, 2 * THREE + 1):
            encoded = base64.b64encode(content_of(size)).decode()
            loose = encoded[:-3] + chr(ord(encoded[-3]) + 1) + "=="
            self.assertEqual(self.read(loose), content_of(size))

    def test_memory(self) -> None:
        """To read content takes little more memory than it has, twice: its pieces, and it."""
        payload = evolve(RESULTS, file_data=content_of(4_000_000)).to_json()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        TaskResultMessage.from_json(payload)
        self.assertLess(tracemalloc.get_traced_memory()[1], 10_000_000)

    def cut(self, length: int) -> None:
        """Have base64 in pieces of so many characters, and documents over 300 bytes read in pieces."""
        self.patch(records, "PIECE", length)
        self.patch(jsontext, "PIECE", 200)
        self.patch(jsontext, "MAX_VALUES", 300)
        self.patch(jsontext, "_has_more", lambda *_: False)  # it may have more values than that

    @settings(deadline=None, max_examples=examples(300))
    @given(
        st.integers(1, 12),
        st.sampled_from((0, 80)),
        st.text("AZaz09+/=", max_size=60) | st.text("AZ9=- \n\u00e9", max_size=12),
    )
    def test_as_in_one_piece(self, length: int, before: int, encoded: str) -> None:
        """However short the pieces: what is taken is what strict base64 takes, and means the same."""
        self.cut(4 * length)
        encoded = "ABCD" * before + encoded
        expected: object = base64.b64decode(encoded) if STRICT.fullmatch(encoded) else MalformedMessage
        try:
            found: object = self.read(encoded)
        except MalformedMessage as error:
            found = type(error)
        self.assertEqual(found, expected)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.integers(1, 12), st.sampled_from((0, 240)), st.binary(max_size=100))
    def test_any_content(self, length: int, before: int, content: bytes) -> None:
        """However short the pieces: any content is written as it is in one, and reads back."""
        self.cut(4 * length)
        content = bytes(before) + content
        payload = evolve(RESULTS, file_data=content).to_json()
        self.assertEqual(json.loads(payload).get("file_data", ""), base64.b64encode(content).decode())
        self.assertEqual(TaskResultMessage.from_json(payload).file_data, content)


LONG = 10
"""Characters of a document that is long, to these tests."""

TEXTS = ("", "a", "b", "x" * 9, "x" * 200, "yes, [{" * 30, "\u00e9\u20ac\U0001f600" * 60, "x" * 200 + r"\n")
NO_TEXTS = ("x" * 200 + "\n", "\0" + "x" * 200, "x" * 200 + "\\", "x" * 200 + '" "')
"""What stands between quotes, as it should and as it should not."""


def documents() -> st.SearchStrategy[str]:
    """JSON objects, or nearly, in which long strings stand anywhere."""
    string = st.sampled_from((*TEXTS, *TEXTS, *NO_TEXTS)).map(lambda text: f'"{text}"')

    def objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.lists(st.tuples(string, values).map(":".join), max_size=3).map(lambda of: f"{{{','.join(of)}}}")

    value = st.recursive(
        string | st.sampled_from(("1", "null", "?")),
        lambda values: objects(values) | st.lists(values, max_size=3).map(lambda of: f"[{','.join(of)}]"),
        max_leaves=6,
    )
    return st.tuples(objects(value) | string, st.sampled_from(("", "", "", " ", "x", '"'))).map("".join)


class DocumentTests(SynchronousTestCase):
    """Documents with long strings, which are read and written in pieces."""

    def read(self, document: str, piece: int) -> object:
        """What a document reads as in pieces of this length, or why it cannot be read."""
        self.patch(jsontext, "PIECE", piece)
        try:
            return jsontext.decode_object(document.encode(errors="surrogateescape"))
        except MalformedMessage as error:
            return error.field, str(error)

    @settings(deadline=None, max_examples=examples(500))
    @given(documents(), st.integers(10, 150))
    def test_as_in_one_piece(self, document: str, length: int) -> None:
        """However short the pieces: a document reads as it does in one, and is refused in the same words."""
        self.patch(jsontext, "MAX_VALUES", LONG)
        self.patch(jsontext, "_has_more", lambda *_: False)  # it may have more values than that
        assume(len(document) > LONG)
        self.assertEqual(self.read(document, length), self.read(document, 2**20))

    def test_around_a_long_string(self) -> None:
        """That holds for whatever stands in a long string, or before and after it."""
        self.patch(jsontext, "MAX_VALUES", LONG)
        self.patch(jsontext, "_has_more", lambda *_: False)
        long = "x" * 200
        insides = (
            long,
            "\u00e9\u20ac\U0001f600" * 60,
            "\udcff" + long,  # a byte that is not UTF-8
            *(before + inside + long for before in ("", long) for inside in ("\n", r"\n", r"\"", "\\", '"')),
        )
        around = ('{"a":"%s"}', '"%s"', '{"%s":1}', '{"a":["%s"]}', '{"a":"%s","a":1}', '{"a":1,"b":2,"a":"%s","b":3}')
        broken = ('{"a":"%s', '{"a":"%s"', '{"a":"%s"}}', '{"a":"%s","b":}', '{"a":?,"b":"%s"}', ' {"a" : "%s"} ', "%s")
        for document in (form % inside for form in (*around, *broken) for inside in insides):
            self.assertEqual(self.read(document, 50), self.read(document, 2**20), ascii(document))

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text('ab<>&\u2028\u2029\u00e9\U0001f600"\\'), st.integers(1, 9))
    def test_written(self, text: str, length: int) -> None:
        """However short the pieces: a text is written as it is in one."""
        self.patch(jsontext, "PIECE", 2**20)
        expected = jsontext.encode_value(text)
        self.patch(jsontext, "PIECE", length)
        self.assertEqual(jsontext.encode_value(text), expected)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.text('ab<>&\u2028\u2029\u00e9\U0001f600"\\\n', min_size=1), st.integers(1, 9))
    def test_written_in_a_message(self, text: str, length: int) -> None:
        """The same as a field of a message."""
        expected = jsontext.encode_value({"result_text": text})[1:-1]
        for module in (records, jsontext):
            self.patch(module, "PIECE", length)
        self.assertIn(expected, evolve(RESULTS, result_text=text).to_json())

    def test_large(self) -> None:
        """A text of megabytes reads back, wherever it stands in the message."""
        for message in (
            evolve(RESULTS, result_text="x" * 3_000_000),
            evolve(RESULTS, task_id="y" * 1_000_000, result_text="x" * 2_000_000),
        ):
            self.assertEqual(TaskResultMessage.from_json(message.to_json()) == message, True)


class StreamTests(SynchronousTestCase):
    """Frames out of a stream."""

    @settings(deadline=None, max_examples=examples(100))
    @given(st.lists(st.binary(max_size=30), min_size=1, max_size=5), st.lists(st.integers(0, 200), max_size=8))
    def test_payloads_are_bytes(self, payloads: list[bytes], cuts: list[int]) -> None:
        """However a stream is cut, payloads are bytes of their own, which nothing that comes later changes."""
        stream = b"".join(Frame(1, payload).encode() for payload in payloads)
        decoder = FrameDecoder()
        frames: list[Frame] = []
        for start, stop in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
            frames += decoder.feed(stream[start:stop])
        self.assertEqual([frame.payload for frame in frames], payloads)
        self.assertEqual({type(frame.payload) for frame in frames}, {bytes})
        self.assertEqual([type(frame.type) for frame in frames], [int] * len(payloads))

    def test_buffers(self) -> None:
        """Any buffer can be fed, and used again at once: what came out of it is not changed by that."""
        frames = [Frame(1, b"abc"), Frame(2, content_of(100_000)), Frame(3, b"")]
        for length in (1000, 5, 200_000):
            decoder = FrameDecoder()
            found: list[Frame] = []
            stream = BytesIO(b"".join(frame.encode() for frame in frames))
            buffer = bytearray(length)
            while count := stream.readinto(buffer):
                found += decoder.feed(memoryview(buffer)[:count])
                buffer[:] = bytes(length)
            self.assertEqual(found == frames, True)
            self.assertEqual({type(frame.payload) for frame in found}, {bytes})

    def test_stays_in_pieces(self) -> None:
        """A large payload comes in pieces, none of which is small or much larger than what was fed at once."""
        large = Frame(4, content_of(1_000_000))
        stream = large.encode()
        for length in (1, 1000, 65536, 300_000):
            decoder = FrameDecoder()
            chunks = (stream[start : start + length] for start in range(0, len(stream), length))
            [frame] = [frame for chunk in chunks for frame in decoder.feed(chunk)]
            self.assertGreater(len(frame.pieces), 1)
            self.assertEqual({PIECE <= len(piece) < PIECE + length for piece in frame.pieces[:-1]}, {True})
            self.assertEqual(frame == large, True)

    def test_written_in_pieces(self) -> None:
        """A large message is a payload in pieces, of the bytes that it is written in otherwise."""
        for message in (
            evolve(RESULTS, file_data=content_of(1_000_000)),
            evolve(RESULTS, result_text="\u2028x" * 500_000),
        ):
            frame = message.to_frame()
            self.assertLess(max(map(len, frame.pieces)), 8 * PIECE)
            self.assertEqual(frame == Frame(TaskResultMessage.frame_type, message.to_json()), True)

    def test_large(self) -> None:
        """A large frame in pieces of any length is the same, and the small one behind it as well."""
        large, small = Frame(4, content_of(1_000_000)), Frame(1, b"small")
        stream = large.encode() + small.encode()
        for length in (1000, 65536, 999_999, len(stream)):
            decoder = FrameDecoder()
            frames = [
                frame
                for start in range(0, len(stream), length)
                for frame in decoder.feed(stream[start : start + length])
            ]
            self.assertEqual(frames == [large, small], True)
            self.assertEqual({type(frame.payload) for frame in frames}, {bytes})
            self.assertEqual(decoder.buffered_bytes, 0)
