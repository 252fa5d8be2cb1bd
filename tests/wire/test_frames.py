"""Byte streams to frames: the golden vectors, every way of cutting a stream, and what it costs."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from functools import partial
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import FrameTooLarge, InvalidMessage, TruncatedFrame
from tasksubmit.wire.frames import DEFAULT_TCP_PORT, MAX_FRAME, PORT, Frame, FrameDecoder, FrameType, type_name
from tests.tiers import examples
from tests.wire.vectors import Row, check_rows, rows

KIB = 2**10
MIB = 2**20


def decode(stream: bytes, piece_bytes: int | None = None) -> tuple[list[Frame], str]:
    """Read a stream to its end, in pieces of one size.

    :returns: the frames, and how it ended, in the words of the vectors.
    """
    decoder = FrameDecoder()
    frames: list[Frame] = []
    size = piece_bytes or max(len(stream), 1)
    try:
        for start in range(0, len(stream), size):
            frames += decoder.feed(stream[start : start + size])
        decoder.finish()
    except FrameTooLarge as error:
        return frames + error.frames, "too_large"
    except TruncatedFrame as error:
        return frames, f"truncated_{error.part}"
    return frames, "clean"


def described(frame: Frame, bulky: bool) -> dict[str, Any]:
    """Describe a frame as the vectors do."""
    if bulky:
        digest = hashlib.sha256(frame.payload).hexdigest()
        return {"type": frame.type, "payload_len": len(frame.payload), "payload_sha256": digest}
    return {"type": frame.type, "payload_hex": frame.payload.hex()}


class GoldenTests(SynchronousTestCase):
    """Parity with the reference."""

    def check(self, row: Row, piece_bytes: int | None) -> None:
        """Check one row of the vectors, cut into pieces of one size."""
        bulky = "header_hex" in row
        if bulky:
            stream = bytes.fromhex(row["header_hex"]) + bytes([row["payload_byte"]]) * row["payload_len"]
        else:
            stream = bytes.fromhex(row["input_hex"])
        frames, end = decode(stream, piece_bytes)
        outcome = row["outcome"]
        self.assertEqual([described(frame, bulky) for frame in frames], outcome["frames"])
        self.assertEqual(end, outcome["end"])

    def test_whole(self) -> None:
        """Each stream of the vectors, fed whole, gives the frames and the end that the reference finds."""
        check_rows(self, rows("frames_stream"), lambda row: self.check(row, None))

    def test_in_pieces(self) -> None:
        """Each stream of the vectors, fed in small pieces, gives the same."""
        for piece_bytes in (1, 2, 7, 8, 9, 64):
            small = [row for row in rows("frames_stream") if "input_hex" in row]
            check_rows(self, small, partial(self.check, piece_bytes=piece_bytes))
        bulky = [row for row in rows("frames_stream") if "header_hex" in row]
        check_rows(self, bulky, lambda row: self.check(row, 1000))

    def test_type_names(self) -> None:
        """Frame types print as the reference prints them."""
        check_rows(self, rows("typenames"), lambda row: self.assertEqual(type_name(row["type"]), row["name"]))


FRAMES = st.builds(Frame, st.integers(0, 2**32 - 1), st.binary(max_size=40))


class DecoderTests(SynchronousTestCase):
    """The decoder, fed in every way."""

    @settings(deadline=None, max_examples=examples(200))
    @given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 300), max_size=12), st.integers(0, 20))
    def test_cuts(self, frames: list[Frame], cuts: list[int], missing: int) -> None:
        """However a stream is cut, even when its end is missing, the same frames come out and the same end."""
        whole = b"".join(frame.encode() for frame in frames)
        stream = whole[: max(len(whole) - missing, 0)]
        expected, end = decode(stream)
        self.assertEqual(expected, frames[: len(expected)])
        decoder = FrameDecoder()
        positions = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        found = []
        for start, stop in pairwise(positions):
            found += decoder.feed(stream[start:stop])
        self.assertEqual(found, expected)
        self.assertEqual(decoder.buffered_bytes, len(stream) - sum(8 + len(frame.payload) for frame in expected))
        if end == "clean":
            decoder.finish()
        else:
            error = self.assertRaises(TruncatedFrame, decoder.finish)
            self.assertEqual(f"truncated_{error.part}", end)

    @settings(deadline=None, max_examples=examples(200))
    @given(st.lists(st.binary(max_size=50), max_size=5))
    def test_noise(self, chunks: list[bytes]) -> None:
        """Any bytes give frames or the named error."""
        decoder = FrameDecoder(max_frame=30)
        with contextlib.suppress(FrameTooLarge, TruncatedFrame):
            for chunk in chunks:
                decoder.feed(chunk)
            decoder.finish()

    def test_too_large(self) -> None:
        """A header over the limit is refused at once; the frames before it are told, once; and it stays refused."""
        decoder = FrameDecoder(max_frame=10)
        fine = Frame(1, b"0123456789")
        self.assertEqual(decoder.feed(fine.encode()[:5]), [])
        error = self.assertRaises(FrameTooLarge, decoder.feed, fine.encode()[5:] + Frame(2, b"x" * 11).encode()[:8])
        self.assertEqual(error.frames, [fine])
        self.assertEqual(decoder.buffered_bytes, 0)
        error = self.assertRaises(FrameTooLarge, decoder.feed, b"")
        self.assertEqual(error.frames, [])
        self.assertEqual(error.code, "too_large")

    def test_payloads_are_bytes(self) -> None:
        """Payloads are bytes, whether they came whole or in pieces."""
        decoder = FrameDecoder()
        frames = decoder.feed(b"\0\0\0\1\0\0\0\1a\0\0\0\1\0\0\0\1") + decoder.feed(b"b")
        self.assertEqual([type(frame.payload) for frame in frames], [bytes, bytes])


class FrameTests(SynchronousTestCase):
    """Single frames."""

    def test_constants(self) -> None:
        """The limit and the ports are the protocol's."""
        self.assertEqual((MAX_FRAME, PORT, DEFAULT_TCP_PORT), (16 * MIB, 1003, 11003))
        self.assertEqual([int(member) for member in FrameType], [1, 2, 3, 4])

    def test_encode(self) -> None:
        """A frame is its type and its length, big-endian, and its payload."""
        self.assertEqual(Frame(FrameType.STATUS_UPDATE, b"{}").encode(), b"\0\0\0\3\0\0\0\2{}")
        self.assertEqual(Frame(2**32 - 1, b"").encode(), b"\xff\xff\xff\xff\0\0\0\0")

    def test_unencodable(self) -> None:
        """A payload over the limit, or a type that does not fit, is refused."""
        self.assertEqual(len(Frame(1, bytes(MAX_FRAME)).encode()), MAX_FRAME + 8)
        self.assertRaises(FrameTooLarge, Frame(1, bytes(MAX_FRAME + 1)).encode)
        for frame_type in (-1, 2**32):
            self.assertRaises(InvalidMessage, Frame(frame_type, b"").encode)

    def test_pieces(self) -> None:
        """A payload in pieces is the same payload: equal, as long, and encoded like the one that they make."""
        whole = Frame(1, b"abcdef")
        for pieces in ((b"ab", b"cdef"), (b"abcdef",), (b"", b"abcdef", b"")):
            frame = Frame(1, pieces)
            self.assertEqual((frame, hash(frame), repr(frame)), (whole, hash(whole), repr(whole)))
            self.assertEqual((frame.payload, frame.size_bytes, frame.pieces), (b"abcdef", 6, pieces))
            self.assertEqual(frame.encode(), whole.encode())
        self.assertEqual(whole.pieces, (b"abcdef",))
        for buffer in (bytearray(b"abcdef"), memoryview(b"abcdef")):
            self.assertEqual(Frame(1, buffer).encode(), whole.encode())  # type: ignore[arg-type]  # works all the same
        self.assertNotEqual(Frame(1, (b"ab", b"cdeg")), whole)
        self.assertRaises(FrameTooLarge, Frame(1, (bytes(MAX_FRAME), b"x")).header)

    def test_repr_is_short(self) -> None:
        """A frame prints without its payload, which may be large and may be private."""
        self.assertEqual(repr(Frame(1, b"secret")), "Frame(type=1, payload=<6 bytes>)")


class CostTests(SynchronousTestCase):
    """What reading costs grows with what arrives, and with nothing else."""

    def peak_bytes(self, chunks: list[bytes]) -> int:
        """Feed a new decoder and give the most memory that it held."""
        decoder = FrameDecoder()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        for chunk in chunks:
            decoder.feed(chunk)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return peak

    def test_announced_is_not_allocated(self) -> None:
        """A header that announces 16 MiB costs nothing before they come."""
        header = Frame(1, bytes(MAX_FRAME)).encode()[:8]
        self.assertLess(self.peak_bytes([header, b"x"]), 10 * KIB)

    def test_peak_memory(self) -> None:
        """Reading a large frame in small pieces holds little more than its size: what is held is not copied again."""
        stream = Frame(1, bytes(4 * MIB)).encode()
        pieces = [stream[start : start + KIB] for start in range(0, len(stream), KIB)]
        self.assertLess(self.peak_bytes(pieces), 1.25 * len(stream))

    def test_held_bytes_are_counted(self) -> None:
        """While a frame of many pieces comes, the decoder tells how many bytes it holds, its header included."""
        stream = Frame(1, bytes(MIB)).encode()
        decoder = FrameDecoder()
        for start in range(0, len(stream) - KIB, KIB):
            self.assertEqual(decoder.feed(stream[start : start + KIB]), [])
            self.assertEqual(decoder.buffered_bytes, start + KIB)
        self.assertEqual(len(decoder.feed(stream[decoder.buffered_bytes :])), 1)
        self.assertEqual(decoder.buffered_bytes, 0)

    def test_many_small_frames(self) -> None:
        """Many frames in one chunk leave nothing behind and cost little more than themselves."""
        frame = Frame(1, b"x" * 100)
        chunk = frame.encode() * 10_000
        decoder = FrameDecoder()
        self.assertEqual(decoder.feed(chunk), [frame] * 10_000)
        self.assertEqual(decoder.buffered_bytes, 0)
