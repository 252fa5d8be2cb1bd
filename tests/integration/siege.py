"""Lay siege to a node, and see that it stays under its ceiling of memory while an honest peer is served.

``python -m tests.integration.siege`` starts a node with default settings and, one after the other and then at once,
holds 1,000 slow connections that each dribble a frame of 16 MiB, lets 10,000 connections come and go, and floods it
from one peer with as many submissions as it takes. All the while an honest peer on another host submits tasks, each on
a connection of its own, and sends a frame of 12 MiB. It prints what the node's memory came to and what the honest peer
waited, and exits with 1 when that was over the ceiling, or the honest peer was not served. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from attrs import define, field, frozen

from benchmarks.processes import free_port, running, wait_until_listening
from tasksubmit.protocol.bounds import Bounds
from tasksubmit.wire import Frame, FrameType, generate_task_id
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskResultMessage
from tests.integration.siege_attacks import ATTACKS
from tests.processes import LONGEST_SECONDS, until, watch

NODE, HONEST, FLOODER = "0:0000.0000.0001", "0:0000.0000.0002", "0:0000.0000.0003"
HONEST_HOST = "127.9.0.1"
HONEST_PAUSE_SECONDS = 0.05

MIB = 1024 * 1024


def ceiling_bytes(bounds: Bounds) -> int:
    """The memory that a node promises to stay under; docs/bounds.rst explains the terms."""
    return 240 * MIB + bounds.max_buffered_bytes * 5 // 4 + bounds.max_connections * 160 * 1024


@frozen(kw_only=True)
class Plan:
    """How hard the siege is.

    :ivar seconds: of each round.
    :ivar sizes: how many connections each attack has.
    :ivar only: the name of one round; empty for all.
    :ivar dribble_bytes: how much of each slow frame comes a second.
    :ivar large_bytes: the size of the honest peer's large frame.
    :ivar bounds: those of the node.
    """

    seconds: float = 20.0
    sizes: Mapping[str, int] = field(factory=lambda: {"dribble": 1000, "come_and_go": 10_000, "flood": 100})
    only: str = ""
    dribble_bytes: int = 16 * 1024
    large_bytes: int = 12 * 1024 * 1024
    bounds: Bounds = Bounds()  # it is frozen


@define
class Served:
    """What the honest peer saw: seconds of each submission and of the large frame, its repeats, and what went wrong."""

    seconds: list[float] = field(factory=list)
    large_seconds: float = 0.0
    repeats: int = 0
    faults: list[str] = field(factory=list)


def status(process: subprocess.Popen[bytes], name: str) -> int:
    """A line of the kernel's account of a process, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def reset_peak(process: subprocess.Popen[bytes]) -> None:
    """Have VmHWM start from what is used now."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def converse(port: int, frame: bytes, timeout: float = LONGEST_SECONDS) -> SubmitResponse:
    """Dial, send a frame, and read its answer."""
    with socket.socket() as dialled:
        dialled.settimeout(timeout)
        dialled.bind((HONEST_HOST, 0))
        dialled.connect(("127.0.0.1", port))
        dialled.sendall(frame)
        received = b""
        while len(received) < 8 or len(received) < 8 + struct.unpack(">I", received[4:8])[0]:
            if not (more := dialled.recv(65536)):
                raise ConnectionError("closed without an answer")
            received += more
    return SubmitResponse.from_frame(Frame(FrameType.SUBMIT, received[8:]))


def large_frame(size_bytes: int) -> bytes:
    """Results of a task that the node never submitted: it has to read all of them before it can say so."""
    data = b"x" * (size_bytes * 3 // 4)
    message = TaskResultMessage(
        generate_task_id(), "file", filename="a.bin", file_data=data, completed_at="2026-01-01T00:00:00Z", ack=True
    )
    return message.to_frame().encode()


def be_honest(port: int, plan: Plan, is_over: Callable[[], bool]) -> Served:
    """Submit until the time and the attack are over and the large frame, sent in the middle, was answered."""
    seconds = plan.seconds
    served = Served()
    begun = time.monotonic()
    frame = large_frame(plan.large_bytes)
    is_large_due = True
    is_large_now = False
    while time.monotonic() < begun + (LONGEST_SECONDS if is_large_due or not is_over() else seconds):
        try:
            at = time.monotonic()
            if is_large_now := is_large_due and at > begun + seconds / 2:
                answer = converse(port, frame)
                is_large_due = is_large_now = False
                served.large_seconds = time.monotonic() - at
                if answer.code != "unknown_task":
                    served.faults.append(f"large: {answer}")
            request = SubmitRequest(generate_task_id(), "honest work", HONEST, NODE)
            at = time.monotonic()
            answer = converse(port, request.to_frame().encode())
            served.seconds.append(time.monotonic() - at)
            if answer.status != 200:
                served.faults.append(f"refused: {answer}")
        except OSError as error:
            if is_large_now:
                served.repeats += 1  # as a node would, when one of its own frames was the slowest
            else:
                served.faults.append(f"{type(error).__name__}: {error}")
        time.sleep(HONEST_PAUSE_SECONDS)
    return served


@contextmanager
def attacking(port: int, attacks: Mapping[str, int], dribble_bytes: int) -> Iterator[dict[str, Any]]:
    """The attacks under way, each in its process; gives their counts."""
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    counts = {name: spawn.Array("q", 3, lock=False) for name in attacks}
    processes = []
    for name, size in attacks.items():
        more = {"flood": (FLOODER, NODE), "dribble": (dribble_bytes,)}.get(name, ())
        processes.append(spawn.Process(target=ATTACKS[name], args=(port, stop, counts[name], size, *more)))
    for process in processes:
        process.start()
    try:
        yield counts
    finally:
        stop.set()
        for process in processes:
            process.join(30)
            process.kill()


def round_of(
    node: subprocess.Popen[bytes], port: int, name: str, attacks: Mapping[str, int], plan: Plan, log: Path
) -> list[str]:
    """One attack, or several at once; prints what came of it, and returns what was not as it should be."""
    reset_peak(node)
    log_bytes = log.stat().st_size
    with attacking(port, attacks, plan.dribble_bytes) as counts:
        until(lambda: all(count[0] for count in counts.values()), f"{name}: an attack does not begin")
        size, count = attacks.get("come_and_go", 0), counts.get("come_and_go", [0])
        served = be_honest(port, plan, lambda: count[0] >= size)
    peak, ceiling = status(node, "VmHWM"), ceiling_bytes(plan.bounds)
    ordered = sorted(served.seconds) or [0.0]
    print(
        f"{name:<12} peak {peak / MIB:6.0f} MiB of {ceiling / MIB:.0f}   honest: {len(ordered)} submissions, "
        f"median {median(ordered) * 1000:.0f} ms, 99 % {ordered[len(ordered) * 99 // 100] * 1000:.0f} ms, "
        f"worst {ordered[-1] * 1000:.0f} ms; {plan.large_bytes // MIB} MiB in {served.large_seconds:.1f} s"
        f"{f' after {served.repeats} repeats' if served.repeats else ''}; "
        f"faults {len(served.faults)}   log {(log.stat().st_size - log_bytes) / 1024:.0f} KiB"
    )
    for attack, (opened, ended, answers) in ((attack, list(count)) for attack, count in counts.items()):
        print(f"    {attack}: {opened} connections, {ended} ended by the node, {answers} answers")
    faults = [f"{name}: {fault}" for fault in served.faults]
    if peak > ceiling:
        faults.append(f"{name}: {peak / MIB:.0f} MiB are over the ceiling of {ceiling / MIB:.0f} MiB")
    if not served.seconds or not served.large_seconds:
        faults.append(f"{name}: the honest peer was not served")
    return faults


def lay_siege(plan: Plan) -> list[str]:
    """All rounds; returns what was not as it should be."""
    watch()
    faults = []
    with tempfile.TemporaryDirectory() as directory:
        port, log = free_port(), Path(directory) / "log"
        command = [sys.executable, "-m", "tasksubmit", "run", "--address", NODE, "--state-dir", f"{directory}/state"]
        command += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        command += ["--max-connections", str(plan.bounds.max_connections)]
        command += ["--max-buffered-bytes", str(plan.bounds.max_buffered_bytes)]
        for peer in (HONEST, FLOODER):
            command += ["--peer", f"{peer}=tcp:127.0.0.1:9"]
        with running(command, log) as node:
            wait_until_listening(node, port, log)
            rounds: dict[str, Mapping[str, int]] = {"peace": {}}
            rounds.update({name: {name: size} for name, size in plan.sizes.items()})
            for name, attacks in {**rounds, "all at once": plan.sizes}.items():
                if plan.only in ("", name):
                    faults += round_of(node, port, name, attacks, plan, log)
            if node.poll() is not None:
                faults.append(f"the node ended with {node.returncode}")
        text = log.read_text()
        faults += [line for line in text.splitlines() if "Traceback" in line][:5]
        if faults:
            print(text[-3000:])
    return faults


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.siege", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round (%(default)s)")
    parser.add_argument("--only", default="", help="one round by its name")
    options = parser.parse_args()
    faults = lay_siege(Plan(seconds=options.seconds, only=options.only))
    for fault in faults:
        print("FAULT", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
