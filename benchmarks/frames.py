"""What reading frames costs: one large frame in small pieces, and many small frames, beside Twisted's own receiver.

Run from the top of the checkout::

    python -m benchmarks.frames
    python -m benchmarks.frames --mib 1 4 16 --piece-bytes 512

The first table shows that a frame's cost for each byte does not grow with its size. Peak memory is measured in a run of
its own, because measuring it is slow; the stream itself is not counted.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable, Sequence

from twisted.protocols.basic import Int32StringReceiver
from typing_extensions import override

from tasksubmit.wire.frames import MAX_FRAME, Frame, FrameDecoder

MIB = 2**20

Feed = Callable[[bytes], object]


class _Receiver(Int32StringReceiver):
    """Twisted's receiver of strings behind a 32-bit length, which counts what it receives."""

    MAX_LENGTH = MAX_FRAME

    def __init__(self) -> None:
        self.received = 0

    @override
    def stringReceived(self, string: bytes) -> None:
        self.received += 1


def ours() -> Feed:
    """Make a reader of our frames."""
    return FrameDecoder().feed


def twisted() -> Feed:
    """Make a reader of Twisted's frames."""
    return _Receiver().dataReceived


def our_stream(payload: bytes, count: int = 1) -> bytes:
    """Write the same payload in so many of our frames."""
    return Frame(1, payload).encode() * count


def twisted_stream(payload: bytes, count: int = 1) -> bytes:
    """Write the same payload in so many of Twisted's frames."""
    return (len(payload).to_bytes(4, "big") + payload) * count


def cut(stream: bytes, piece_bytes: int) -> list[bytes]:
    """Cut a stream into pieces of one size."""
    return [stream[start : start + piece_bytes] for start in range(0, len(stream), piece_bytes)]


def best_seconds(make: Callable[[], Feed], pieces: Sequence[bytes], repeats: int) -> float:
    """Give the shortest of several times that a new reader takes for the pieces, in seconds."""
    times = []
    for _ in range(repeats):
        feed = make()
        started = time.perf_counter()
        for piece in pieces:
            feed(piece)
        times.append(time.perf_counter() - started)
    return min(times)


def peak_bytes(make: Callable[[], Feed], pieces: Sequence[bytes]) -> int:
    """Give the most memory that a new reader holds while it takes the pieces."""
    feed = make()
    tracemalloc.start()
    for piece in pieces:
        feed(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def large_frames(sizes_mib: Sequence[int], piece_bytes: int, repeats: int) -> None:
    """Print the cost of one frame in small pieces, for several sizes."""
    print(f"one frame, in pieces of {piece_bytes} bytes")
    print(f"{'size':>7} {'ours':>13} {'peak':>9} {'to first':>9}   {'Twisted':>13} {'peak':>9} {'to first':>9}   ratio")
    first: dict[str, float] = {}
    for mib in sizes_mib:
        payload = bytes(min(mib * MIB, MAX_FRAME))
        line = f"{mib:>3} MiB"
        per_byte = {}
        for name, make, stream in (("ours", ours, our_stream(payload)), ("Twisted", twisted, twisted_stream(payload))):
            pieces = cut(stream, piece_bytes)
            per_byte[name] = best_seconds(make, pieces, repeats) * 1e9 / len(stream)
            first.setdefault(name, per_byte[name])
            line += f" {per_byte[name]:8.3f} ns/B {peak_bytes(make, pieces) / MIB:5.1f} MiB"
            line += f" {per_byte[name] / first[name]:8.2f}x  "
        print(f"{line} {per_byte['Twisted'] / per_byte['ours']:6.2f}x")


def small_frames(payload_bytes: int, count: int, repeats: int) -> None:
    """Print how many small frames a second are read, from chunks of several sizes."""
    print(f"\n{count} frames of {payload_bytes} bytes")
    print(f"{'chunks of':>12} {'ours':>15} {'Twisted':>15}   ratio")
    payload = bytes(payload_bytes)
    for chunk_bytes in (payload_bytes + 8, 1500, 2**16, 2**20):
        ours_s = best_seconds(ours, cut(our_stream(payload, count), chunk_bytes), repeats)
        twisted_s = best_seconds(twisted, cut(twisted_stream(payload, count), chunk_bytes), repeats)
        print(
            f"{chunk_bytes:>10} B {count / ours_s:>13,.0f}/s {count / twisted_s:>13,.0f}/s {twisted_s / ours_s:6.2f}x"
        )


def main() -> None:
    """Read the command line and print both tables."""
    parser = argparse.ArgumentParser(description="Measure the reading of frames, beside Twisted's Int32StringReceiver.")
    parser.add_argument("--mib", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="sizes of the large frame")
    parser.add_argument("--piece-bytes", type=int, default=1024, help="size of the pieces it comes in")
    parser.add_argument("--small-bytes", type=int, default=200, help="payload of the small frames")
    parser.add_argument("--small-count", type=int, default=20_000, help="how many small frames")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, of which the fastest counts")
    options = parser.parse_args()
    large_frames(options.mib, options.piece_bytes, options.repeats)
    small_frames(options.small_bytes, options.small_count, options.repeats)


if __name__ == "__main__":
    main()
