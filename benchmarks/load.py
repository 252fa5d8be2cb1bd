"""The lean load driver, for everything that has a wire protocol; ``driver.py`` starts it in a process of its own.

Keeps OUTSTANDING requests under way on each of CONNECTIONS connections to a port of loopback, counts the answers and
takes the time of each. It does as little as it can, since it shares the machine with the server: a request is a
template with a new task id in it, what may be sent at once is sent in one call, and what has arrived is read in one.
Answers come in the order of the requests in each of these protocols; an answer that is an error ends the run. What an
answer says beyond that is not looked at: whether what was acknowledged is there is asked of the server afterwards.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Meter
from benchmarks.processes import Spec, report
from tasksubmit.wire import generate_task_id

_HEADER = struct.Struct(">II")
_SUBMIT = 1
_SILENCE_SECONDS = 30.0

Parser = Callable[[bytes], tuple[int, bytes]]
"""Counts the whole answers at the start of what has arrived; returns how many, and the rest."""


def _frames(data: bytes) -> tuple[int, bytes]:
    """Answers of a node: frames of type SUBMIT, each with status 200."""
    count = position = 0
    while position + _HEADER.size <= len(data):
        kind, length = _HEADER.unpack_from(data, position)
        end = position + _HEADER.size + length
        if end > len(data):
            break
        if kind != _SUBMIT or data.find(b'"status":200', position, end) < 0:
            raise SystemExit(f"refused: {data[position:end]!r}")
        position = end
        count += 1
    return count, data[position:]


def _bulk_strings(data: bytes) -> tuple[int, bytes]:
    """Answers of Redis to XADD: each the length of an entry's id in one line, and the id in another."""
    *lines, rest = data.split(b"\r\n")
    for line in lines[::2]:
        if not line.startswith(b"$"):
            raise SystemExit(f"refused: {line!r}")
    if len(lines) % 2:
        rest = lines[-1] + b"\r\n" + rest
    return len(lines) // 2, rest


def _inserted(data: bytes) -> tuple[int, bytes]:
    """Answers of beanstalkd to put: a line each."""
    *lines, rest = data.split(b"\r\n")
    for line in lines:
        if not line.startswith(b"INSERTED "):
            raise SystemExit(f"refused: {line!r}")
    return len(lines), rest


def _boxes(data: bytes) -> tuple[int, bytes]:
    """Answers of an AMP server: no value in them has a zero byte, so that two of them end a box."""
    *boxes, rest = data.split(b"\0\0")
    for box in boxes:
        if b"\0\x07_answer" not in box or b"\x06status\0\x03200" not in box:
            raise SystemExit(f"refused: {box!r}")
    return len(boxes), rest


_PARSERS: Mapping[str, Parser] = {
    "tasksubmit": _frames,
    "redis": _bulk_strings,
    "beanstalkd": _inserted,
    "amp": _boxes,
}


class _Connection:
    """One connection and the requests under way on it."""

    def __init__(self, port: int, parts: list[bytes], parse: Parser, tls: ssl.SSLContext | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket)
        self._parts = parts
        self._parse = parse
        self._unread = b""
        self._sent: deque[tuple[float, int]] = deque()

    def send(self, count: int) -> None:
        """Send so many requests. Blocks only while the server does not read; it never waits for us to read first."""
        join = b"".join
        requests = [generate_task_id().encode().join(self._parts) for _ in range(count)]
        self._sent.append((time.perf_counter(), count))
        self.socket.sendall(join(requests))

    def receive(self, meter: Meter) -> int:
        """Take what has arrived; returns how many requests it answers."""
        data = self.socket.recv(262144)
        while isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            data += self.socket.recv(262144)  # what OpenSSL has read, a selector does not tell of
        if not data:
            raise SystemExit("the server has closed a connection")
        count, self._unread = self._parse(self._unread + data)
        now = time.perf_counter()
        left = count
        while left:
            sent, times = self._sent.popleft()
            if times > left:
                self._sent.appendleft((sent, times - left))
                times = left
            meter.note(sent, now, times)
            left -= times
        return count


def _tls(keys: Path) -> ssl.SSLContext:
    """The driver shows its own certificate, and takes any from the node: that costs the node all, and it little."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(keys / "certificate.pem", keys / "key.pem")
    return context


def _load(spec: Spec) -> dict[str, Any]:
    parts = [part.encode("latin-1") for part in spec["parts"]]
    parse = _PARSERS[spec["protocol"]]
    outstanding = spec["outstanding"]
    selector = selectors.DefaultSelector()
    tls = _tls(Path(spec["keys"])) if spec["keys"] else None
    connections = [_Connection(spec["port"], parts, parse, tls) for _ in range(spec["connections"])]
    meter = Meter(spec["warm_up"], spec["seconds"])
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(outstanding)
    under_way = outstanding * len(connections)
    while under_way:
        ready = selector.select(_SILENCE_SECONDS)
        if not ready:
            raise SystemExit(f"no answer came for {_SILENCE_SECONDS:g} s, with {under_way} requests under way")
        for key, _ in ready:
            answered = key.data.receive(meter)
            if not answered:
                continue
            if meter.is_open:
                key.data.send(answered)
            else:
                under_way -= answered
    for connection in connections:
        connection.socket.close()
    return asdict(meter.figures())


if __name__ == "__main__":
    report(_load)
