"""What the siege does to a node: each attack runs in a process of its own until it is told to stop."""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from threading import Thread
from typing import Any

from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.wire import MAX_FRAME, generate_task_id
from tasksubmit.wire.messages import FEATURES, SubmitRequest, TaskStatusUpdate

NODE, HONEST, FLOODER = "0:0000.0000.0001", "0:0000.0000.0002", "0:0000.0000.0003"

LARGE_TASK_BYTES = 1024 * 1024
COMING_AT_ONCE = 20
LARGE_HEADER = struct.pack(">II", 4, MAX_FRAME)

Counts = Any
"""A multiprocessing array: how many connections were made, how many the node ended, how many answers came."""


class Attacker:
    """One connection of an attack; `selectors` says when it may write or read."""

    def __init__(self, siege: Attack, host: str) -> None:
        self.siege = siege
        self.host = host
        self.rest = memoryview(siege.opening())
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.bind((host, 0))
        self.socket.connect_ex(("127.0.0.1", siege.port))
        siege.counts[0] += 1

    def write(self) -> bool:
        """Write what the transport takes; returns whether the connection is still there."""
        try:
            if self.rest:
                self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            pass
        except OSError as error:
            return error.errno in (errno.EINPROGRESS, errno.ENOTCONN)
        return True

    def read(self) -> bool:
        """Read answers, and count them; returns whether the connection is still there."""
        try:
            received = self.socket.recv(256 * 1024)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.siege.counts[2] += received.count(b'"status":')
        return bool(received)


class Attack:
    """Keeps so many connections from so many hosts, and opens another for each that is ended."""

    def __init__(self, port: int, counts: Counts, size: int, hosts: list[str]) -> None:
        self.port = port
        self.counts = counts
        self.size = size
        self.hosts = hosts
        self.selector = selectors.DefaultSelector()
        self.attackers: dict[Attacker, None] = {}

    def opening(self) -> bytes:
        """What a new connection begins with."""
        return b""

    def events(self) -> int:
        """What a connection waits for."""
        return selectors.EVENT_READ

    def add(self) -> None:
        """Open one more."""
        attacker = Attacker(self, self.hosts[self.counts[0] % len(self.hosts)])
        self.attackers[attacker] = None
        self.selector.register(attacker.socket, self.events(), attacker)

    def remove(self, attacker: Attacker) -> None:
        """Close one."""
        self.selector.unregister(attacker.socket)
        attacker.socket.close()
        del self.attackers[attacker]

    def look(self, seconds: float) -> None:
        """Do what can be done."""
        for key, events in self.selector.select(seconds):
            alive = True
            if events & selectors.EVENT_READ:
                alive = key.data.read()
            if alive and events & selectors.EVENT_WRITE:
                alive = key.data.write()
            if not alive:
                self.counts[1] += 1
                self.remove(key.data)


def dribble(port: int, stop: Event, counts: Counts, size: int, chunk_bytes: int) -> None:
    """Keep connections in the middle of frames of 16 MiB, of each of which so many bytes come a second."""
    chunk = bytes(chunk_bytes)
    attack = Attack(port, counts, size, [f"127.1.0.{number}" for number in range(1, 11)])
    attack.opening = lambda: LARGE_HEADER  # type: ignore[method-assign]
    due = time.monotonic()
    while not stop.is_set():
        for _ in range(min(50, size - len(attack.attackers))):
            attack.add()
        attack.look(0.01)
        if time.monotonic() >= due:
            due += 1.0
            for attacker in list(attack.attackers):
                if not attacker.rest:
                    attacker.rest = memoryview(chunk)
                if not attacker.write():
                    counts[1] += 1
                    attack.remove(attacker)


def come_and_go(port: int, stop: Event, counts: Counts, size: int) -> None:
    """Open and close so many connections: some without a word, some in the middle of one, some with nonsense."""
    words = [b"", b"\0\0\0", LARGE_HEADER + b"{", struct.pack(">II", 1, 2) + b"{}", struct.pack(">II", 9, 0)]
    hosts = [f"127.2.0.{number}" for number in range(1, 101)]
    while counts[0] < size and not stop.is_set():
        together = [socket.socket() for _ in range(min(COMING_AT_ONCE, size - counts[0]))]
        for number, dialled in enumerate(together):
            dialled.setblocking(False)
            dialled.bind((hosts[number % len(hosts)], 0))
            dialled.connect_ex(("127.0.0.1", port))
        for number, dialled in enumerate(together):
            dialled.settimeout(10)
            try:
                dialled.sendall(words[number % len(words)])
            except OSError:
                counts[1] += 1
            dialled.close()
            counts[0] += 1


def submissions(count: int) -> Iterator[bytes]:
    """Valid submissions without end, so many at once; a hundred have some tens of KiB."""
    while True:
        yield b"".join(
            SubmitRequest(generate_task_id(), "flood " * 10, FLOODER, NODE, FEATURES).to_frame().encode()
            for _ in range(count)
        )


def flood(port: int, stop: Event, counts: Counts, size: int) -> None:
    """Submit without end from one host on many connections; every other one of them never reads its answers."""
    attack = Attack(port, counts, size, ["127.3.0.1"])
    attack.events = lambda: selectors.EVENT_WRITE | selectors.EVENT_READ * (counts[0] % 2)  # type: ignore[method-assign]
    _send(attack, stop, submissions(100))


def withdrawal(task_id: str, justification: str = "") -> bytes:
    """The message that withdraws a task."""
    update = TaskStatusUpdate(task_id, TaskStatus.CANCELLED.value, justification, ack=True, from_addr=FLOODER)
    return update.to_frame().encode()


def withdrawn_tasks() -> Iterator[bytes]:
    """Large tasks without end, each withdrawn right behind its submission."""
    description = "x" * LARGE_TASK_BYTES
    while True:
        request = SubmitRequest(generate_task_id(), description, FLOODER, NODE)
        yield request.to_frame().encode() + withdrawal(request.task_id)


def unknown_withdrawals() -> Iterator[bytes]:
    """Withdrawals of tasks that were never submitted, without end, a hundred at once."""
    while True:
        yield b"".join(withdrawal(generate_task_id(), "x" * 1000) for _ in range(100))


def fill_disk(port: int, stop: Event, counts: Counts, size: int) -> None:
    """Submit large tasks and withdraw them without end, from one host on many connections."""
    _send(_reading_all(port, counts, size), stop, withdrawn_tasks())


def withdraw_unknown(port: int, stop: Event, counts: Counts, size: int) -> None:
    """Withdraw unknown tasks without end, from one host on many connections."""
    _send(_reading_all(port, counts, size), stop, unknown_withdrawals())


def _reading_all(port: int, counts: Counts, size: int) -> Attack:
    """An attack from one host whose connections read all answers."""
    attack = Attack(port, counts, size, ["127.5.0.1"])
    attack.events = lambda: selectors.EVENT_WRITE | selectors.EVENT_READ  # type: ignore[method-assign]
    return attack


def _send(attack: Attack, stop: Event, source: Iterator[bytes]) -> None:
    """Keep every connection of an attack busy with what a source gives."""
    while not stop.is_set():
        for _ in range(min(50, attack.size - len(attack.attackers))):
            attack.add()
        for attacker in attack.attackers:
            if not attacker.rest:
                attacker.rest = memoryview(next(source))
        attack.look(0.05)


def be_noisy(port: int, stop: Event, counts: Counts, size: int) -> None:
    """Submit so many small tasks at once, each second, on one connection."""
    attack = _reading_all(port, counts, 1)
    source = submissions(size)
    due = time.monotonic()
    while not stop.is_set():
        if not attack.attackers:
            attack.add()
        for attacker in attack.attackers:
            if not attacker.rest and time.monotonic() >= due:
                due += 1.0
                attacker.rest = memoryview(next(source))
        attack.look(0.02)
        time.sleep(0.02)  # there is nearly always room to write


def lock_out(port: int, stop: Event, counts: Counts, size: int, host: str) -> None:
    """Keep so many connections from the honest peer's host that say nothing, and renew each that the node ends."""
    attack = Attack(port, counts, size, [host])
    while not stop.is_set():
        for _ in range(min(50, size - len(attack.attackers))):
            attack.add()
        attack.look(0.01)


def certificates(port: int, stop: Event, counts: Counts, size: int, file: str) -> None:
    """Shake hands without end on so many connections, each from a host of its own, and show what is in a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(file)

    def shake(host: str) -> None:
        while not stop.is_set():
            counts[0] += 1
            try:
                dialled = socket.create_connection(("127.0.0.1", port), 10, (host, 0))
                with dialled, context.wrap_socket(dialled) as encrypted:
                    encrypted.recv(1)
            except OSError:
                counts[1] += 1

    threads = [Thread(target=shake, args=(f"127.4.0.{number}",)) for number in range(1, size + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


ATTACKS: dict[str, Callable[..., None]] = {
    "dribble": dribble,
    "come_and_go": come_and_go,
    "flood": flood,
    "disk": fill_disk,
    "withdraw": withdraw_unknown,
    "noise": be_noisy,
    "idle": lock_out,
    "silent": lock_out,
    "certificates": certificates,
}
