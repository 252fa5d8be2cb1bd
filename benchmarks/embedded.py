"""Nodes embedded in programs of their own, which do as they are told; ``agents.py`` starts them.

A *worker* takes on whatever is submitted to it, and sends the results that it was told to send. A *submitter* keeps
tasks under way to the worker and waits for the results of each. Both are a `Node` with default settings, but without
limits for its peer, its store in a directory, and reactor timers. A command is a line of JSON on the input, and the
answer to it a line on the output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from typing_extensions import override

from benchmarks.driver import DESCRIPTION
from benchmarks.measure import Meter
from tasksubmit import Address, Node, Peer, PeersOnly, SQLiteTaskStore, StaticPeers, SubmitRequest, SubmitResponse
from tasksubmit.interfaces import SendResult
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.tuning import tune_interpreter

Command = Callable[..., Coroutine[Any, Any, Mapping[str, Any]]]

_PAUSE_SECONDS = 0.001

_READS_AT_ONCE = 100


class Pauses:
    """The longest time for which the reactor did not come to a timer that was due."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._longest = 0.0
        self._call: Any = None

    def begin(self) -> None:
        """Forget what was, and look from now on."""
        self._longest = 0.0
        self._wait()

    def end(self) -> float:
        """Look no longer; returns the longest pause in milliseconds."""
        self._call.cancel()
        return self._longest * 1000

    def _wait(self) -> None:
        self._due = time.perf_counter() + _PAUSE_SECONDS
        self._call = self._clock.callLater(_PAUSE_SECONDS, self._look)

    def _look(self) -> None:
        self._longest = max(self._longest, time.perf_counter() - self._due)
        self._wait()


class Worker(Node):
    """A node that accepts and executes whatever it receives, and answers it with the results it has at hand."""

    results: Mapping[str, Any] = {"text": "done"}

    @override
    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> Deferred[SubmitResponse]:
        answer = maybeDeferred(super().task_submitted, peer, request, send_result)
        return answer.addCallback(self._take_on, request)

    def _take_on(self, response: SubmitResponse, request: SubmitRequest) -> SubmitResponse:
        if response.status == 200 and not response.current_status:
            key = TaskKey(Side.RECEIVER, Address.parse(request.from_addr), request.task_id)
            Deferred.fromCoroutine(self._work(key)).addErrback(_give_up)
        return response

    async def _work(self, key: TaskKey) -> None:
        """Put a task into the queue, and do whichever is the first of the queue then."""
        await self.accept(key)
        task = await self.execute()
        await self.send_results(task.key, **self.results)

    async def give(self, bytes_each: int) -> Mapping[str, Any]:
        """Send results of this size from now on: a file, or a short text when it is 0."""
        self.results = {"filename": "result.bin", "content": os.urandom(bytes_each)} if bytes_each else {"text": "done"}
        return {}


class Submitter(Node):
    """A node that submits to one peer, and waits for the results."""

    worker: Address

    async def run(self, warm_up: float, seconds: float, outstanding: int, bytes_each: int) -> Mapping[str, Any]:
        """Keep so many tasks under way until the time is up; answers when the results of all have come.

        :param bytes_each: the size of the results; 0 when they are a text.
        """
        meter = Meter(warm_up, seconds)

        async def keep_submitting() -> None:
            while meter.is_open:
                began = time.perf_counter()
                task = await self.submit(self.worker, DESCRIPTION)
                results = await task.result()
                if len(results.file_data) != bytes_each:
                    raise ValueError(f"results of {len(results.file_data)} bytes came, not of {bytes_each}")
                meter.note(began, time.perf_counter())

        await gatherResults([Deferred.fromCoroutine(keep_submitting()) for _ in range(outstanding)])
        return asdict(meter.figures())

    async def prepare(self, count: int) -> Mapping[str, Any]:
        """Submit so many tasks, which nobody takes."""
        await gatherResults([self.submit(self.worker, DESCRIPTION, task_id=str(n)) for n in range(count)])
        return {}

    async def wait_for(self, first: int, count: int) -> Mapping[str, Any]:
        """Wait for the results of so many of those; answers once all of that is set up."""
        for n in range(first, first + count):
            self.result(TaskKey(Side.SUBMITTER, self.worker, str(n))).addErrback(lambda _: None)  # of the stop
            if n % _READS_AT_ONCE == 0:
                await self.store.scores()  # comes after the reads that the waits begin with
        await self.store.scores()
        return {}


class _Commands(LineOnlyReceiver):
    """Carries out one command after the other, until the input ends."""

    delimiter = b"\n"

    def __init__(self, commands: Mapping[str, Command], stop: Callable[[], object]) -> None:
        self._commands = commands
        self._stop = stop

    @override
    def lineReceived(self, line: bytes) -> None:
        command = json.loads(line)
        answer = Deferred.fromCoroutine(self._commands[command.pop("do")](**command))
        answer.addCallback(lambda found: self.sendLine(json.dumps(found).encode())).addErrback(_give_up)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop()


def _give_up(failure: Failure) -> None:
    """End the process at once: what it would measure from here on means nothing."""
    print(failure.getTraceback(), failure.getErrorMessage(), sep="\n", file=sys.stderr, flush=True)
    os._exit(1)


def main(reactor: Any) -> None:
    """Run one node until the input ends."""
    spec = json.loads(sys.argv[1])
    peer = Address.parse(spec["peer"])
    peers = StaticPeers({peer: clientFromString(reactor, f"tcp:127.0.0.1:{spec['peer_port']}")})
    make = Worker if spec["role"] == "worker" else Submitter
    node = make(
        Address.parse(spec["address"]),
        SQLiteTaskStore(Path(spec["directory"]), reactor),
        peers,
        clock=reactor,
        policy=PeersOnly(peers),
        listen={"tasks": serverFromString(reactor, f"tcp:{spec['port']}:interface=127.0.0.1")},
    )
    pauses = Pauses(reactor)

    async def begin_pauses() -> Mapping[str, Any]:
        pauses.begin()
        return {}

    async def end_pauses() -> Mapping[str, Any]:
        return {"longest_ms": pauses.end()}

    commands: dict[str, Command] = {"begin_pauses": begin_pauses, "end_pauses": end_pauses}
    if isinstance(node, Worker):
        commands["give"] = node.give
    else:
        node.worker = peer
        commands |= {"run": node.run, "prepare": node.prepare, "wait": node.wait_for}
    node.startService()
    tune_interpreter()
    StandardIO(_Commands(commands, reactor.stop))
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    reactor.run()


if __name__ == "__main__":
    from twisted.internet import reactor

    main(reactor)
