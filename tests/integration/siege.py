"""Lay siege to a node, and see that it stays under its ceiling of memory while an honest peer is served.

``python -m tests.integration.siege`` starts a node with default settings and, one after the other and then at once,
holds 1,000 slow connections that each dribble a frame of 16 MiB, lets 10,000 connections come and go, floods it from
one peer with as many submissions as it takes, and keeps 520 connections from the honest peer's own host that say
nothing and are renewed. A node with keys comes next, with default settings and with small limits: strangers show it
certificates of 33,000 names, and 140 connections from the honest peer's host say nothing.

Last comes a peer that takes all it can: it fills the disk with tasks that it withdraws, and the queue with small ones,
see `tests.integration.siege_shares`.

All the while an honest peer submits tasks, each on a connection of its own, and sends a frame of 12 MiB. What is cut
off because others share its host it sends again, as a node would. The siege prints what the node's memory came to and
what the honest peer waited, and exits with 1 when that was over the ceiling, or the honest peer was not served. Linux
only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import ssl
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

from benchmarks.processes import TOP, free_port, running, wait_until_listening
from tasksubmit.protocol.bounds import LEAST_BUFFERED_BYTES, Bounds
from tasksubmit.tls.files import CERTIFICATE_FILE, KEY_FILE
from tasksubmit.tls.identity import certificates_pem, key_pem, make_key
from tasksubmit.wire import Frame, FrameType, generate_task_id
from tasksubmit.wire.messages import FEATURES, SubmitRequest, SubmitResponse, TaskResultMessage
from tests.integration.siege_attacks import ATTACKS, FLOODER, HONEST, NODE
from tests.integration.siege_shares import MIB, SHARES, Share, taking_results
from tests.processes import LONGEST_SECONDS, until, watch
from tests.tls.handshake_cost import certificate_of
from tests.tls.support import Party

HONEST_HOST = "127.9.0.1"

WITHOUT_KEYS = {"dribble": 1000, "come_and_go": 10_000, "flood": 100, "idle": 520}
WITH_KEYS = {"certificates": 8, "silent": 140}

OF_ITS_HOST = {"idle", "silent"}
"""Attacks from the honest peer's own host: some of its connections are drawn by lot."""

MOST_REPEATS = 0.2
"""The share of them that may be."""


def ceiling_bytes(bounds: Bounds) -> int:
    """The memory that a node promises to stay under; docs/bounds.rst explains the terms."""
    return 240 * MIB + bounds.max_buffered_bytes * 5 // 4 + bounds.max_connections * 160 * 1024


@frozen(kw_only=True)
class Plan:
    """How hard the siege is.

    :ivar seconds: of each round.
    :ivar sizes: how many connections each attack has.
    :ivar has_keys: the node has keys, and the honest peer uses TLS.
    :ivar only: the name of one round; empty for all.
    :ivar dribble_bytes: how much of each slow frame comes a second.
    :ivar large_bytes: the size of the honest peer's large frame.
    :ivar pause_seconds: between two submissions of the honest peer.
    :ivar bounds: those of the node.
    :ivar share: what one peer may take, if that is tried.
    """

    seconds: float = 20.0
    sizes: Mapping[str, int] = field(factory=lambda: WITHOUT_KEYS)
    has_keys: bool = False
    only: str = ""
    dribble_bytes: int = 16 * 1024
    large_bytes: int = 12 * 1024 * 1024
    pause_seconds: float = 0.05
    bounds: Bounds = Bounds()  # it is frozen
    share: Share | None = None


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


@frozen
class Honest:
    """The honest peer.

    :ivar tls: what it shows; None where the node has no keys.
    """

    port: int
    tls: ssl.SSLContext | None = None

    def converse(self, frame: bytes) -> SubmitResponse:
        """Dial, send a frame, and read its answer."""
        with socket.create_connection(("127.0.0.1", self.port), LONGEST_SECONDS, (HONEST_HOST, 0)) as plain:
            if self.tls is None:
                return _asked(plain, frame)
            with self.tls.wrap_socket(plain) as encrypted:
                return _asked(encrypted, frame)


def _asked(dialled: socket.socket, frame: bytes) -> SubmitResponse:
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


def be_honest(peer: Honest, plan: Plan, is_over: Callable[[], bool], shares_host: bool) -> Served:
    """Submit until the time and the attack are over and the large frame, sent in the middle, was answered.

    :param shares_host: others attack from the same host.
    """
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
                answer = peer.converse(frame)
                is_large_due = is_large_now = False
                served.large_seconds = time.monotonic() - at
                if answer.code != "unknown_task":
                    served.faults.append(f"large: {answer}")
            request = SubmitRequest(generate_task_id(), "honest work", HONEST, NODE, FEATURES)
            at = time.monotonic()
            answer = peer.converse(request.to_frame().encode())
            served.seconds.append(time.monotonic() - at)
            if answer.status != 200:
                served.faults.append(f"refused: {answer}")
        except OSError as error:
            if is_large_now or shares_host:
                served.repeats += 1  # as a node would, when one of its own frames was the slowest
            else:
                served.faults.append(f"{type(error).__name__}: {error}")
        time.sleep(plan.pause_seconds)
    return served


@contextmanager
def attacking(port: int, attacks: Mapping[str, int], plan: Plan, large: Path) -> Iterator[dict[str, Any]]:
    """The attacks under way, each in its process; gives their counts.

    :param large: the file of a key and a large certificate.
    """
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    counts = {name: spawn.Array("q", 3, lock=False) for name in attacks}
    processes = []
    for name, size in attacks.items():
        more: tuple[Any, ...] = {
            "dribble": (plan.dribble_bytes,),
            "certificates": (str(large),),
            **dict.fromkeys(OF_ITS_HOST, (HONEST_HOST,)),
        }.get(name, ())
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
    node: subprocess.Popen[bytes], peer: Honest, name: str, attacks: Mapping[str, int], plan: Plan, directory: Path
) -> list[str]:
    """One attack, or several at once; prints what came of it, and returns what was not as it should be."""
    reset_peak(node)
    log = directory / "log"
    log_bytes = log.stat().st_size
    with attacking(peer.port, attacks, plan, directory / "large.pem") as counts:
        until(lambda: all(count[0] for count in counts.values()), f"{name}: an attack does not begin")
        size, count = attacks.get("come_and_go", 0), counts.get("come_and_go", [0])
        served = be_honest(peer, plan, lambda: count[0] >= size, bool(OF_ITS_HOST & attacks.keys()))
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
    if served.repeats > max(20.0, MOST_REPEATS * len(served.seconds)):
        faults.append(f"{name}: {served.repeats} repeats for {len(served.seconds)} submissions")
    if not served.seconds or not served.large_seconds:
        faults.append(f"{name}: the honest peer was not served")
    if plan.share is not None:
        faults += plan.share.check(directory / "state")
    return faults


def make_keys(directory: Path) -> ssl.SSLContext:
    """Make the node's keys, a stranger's large certificate, and what the honest peer shows, which is returned."""
    honest = Party(HONEST, directory / "honest")
    Party(NODE, directory / "state").trust(f"{HONEST} {honest.pin} tcp:127.0.0.1:9")
    key = make_key()
    (directory / "large.pem").write_bytes(key_pem(key) + certificates_pem([certificate_of(key, names=33_000)]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(honest.directory / CERTIFICATE_FILE, honest.directory / KEY_FILE)
    return context


def lay_siege(plan: Plan) -> list[str]:
    """All rounds; returns what was not as it should be."""
    watch()
    faults = []
    with tempfile.TemporaryDirectory() as directory, taking_results() as takes:
        port, log = free_port(), Path(directory) / "log"
        command = [sys.executable, "-m", "tasksubmit", "run", "--address", NODE, "--state-dir", f"{directory}/state"]
        command += ["--listen", f"tcp:{port}:interface=127.0.0.1"]
        command += ["--max-connections", str(plan.bounds.max_connections)]
        command += ["--max-buffered-bytes", str(plan.bounds.max_buffered_bytes)]
        if plan.has_keys:
            honest = Honest(port, make_keys(Path(directory)))
        else:
            honest = Honest(port)
            for address in (HONEST, FLOODER):
                command += ["--peer", f"{address}=tcp:127.0.0.1:{takes}"]
        if plan.share is not None:
            print(f"--- with {' '.join(plan.share.options)}")
            command += plan.share.options
        with running(command, log, env={**os.environ, "PYTHONPATH": str(TOP)}) as node:
            wait_until_listening(node, port, log)
            rounds: dict[str, Mapping[str, int]] = {"peace": {}}
            rounds.update({name: {name: size} for name, size in plan.sizes.items()})
            for name, attacks in {**rounds, "all at once": plan.sizes}.items():
                if plan.only in ("", name):
                    faults += round_of(node, honest, name, attacks, plan, Path(directory))
            if node.poll() is not None:
                faults.append(f"the node ended with {node.returncode}")
        text = log.read_text()
        faults += [line for line in text.splitlines() if "Traceback" in line][:5]
        if faults:
            print(text[-3000:])
    return faults


def share_plan(share: Share, seconds: float) -> Plan:
    """One round in which a peer tries to take more than its share."""
    return Plan(
        seconds=seconds,
        sizes={share.attack: share.size},
        only=share.attack,
        large_bytes=2 * MIB,
        pause_seconds=0.2,
        share=share,
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.siege", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each round (%(default)s)")
    parser.add_argument("--only", default="", help="one round by its name")
    options = parser.parse_args()
    faults = lay_siege(Plan(seconds=options.seconds, only=options.only))
    faults += lay_siege(Plan(seconds=options.seconds, only=options.only, sizes=WITH_KEYS, has_keys=True))
    # With small limits whatever is not counted would show.
    small = Bounds(max_connections=100, max_buffered_bytes=LEAST_BUFFERED_BYTES)
    faults += lay_siege(
        Plan(seconds=options.seconds, only=options.only, sizes=WITH_KEYS, has_keys=True, bounds=small, large_bytes=MIB)
    )
    for name, share in SHARES.items():
        if options.only in ("", name):
            faults += lay_siege(share_plan(share, options.seconds))
    for fault in faults:
        print("FAULT", fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
