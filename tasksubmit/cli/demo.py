"""``tasksubmit demo``: two nodes as real processes, and one task's whole life between them.

All that is told was read from the nodes' control APIs; each step comes with the command that does the same.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from base64 import b64decode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.task import deferLater

from tasksubmit.cli.control import CommandFailed, Control, Json
from tasksubmit.cli.output import clean
from tasksubmit.cli.processes import NodeProcess, free_ports
from tasksubmit.lifecycle.polo import polo_score
from tasksubmit.wire.messages import generate_task_id

SUBMITTER, RECEIVER = "0:0000.0000.0001", "0:0000.0000.0002"
DESCRIPTION = "Count the words of this sentence."
REPORT = "report.txt"

STEP_SECONDS = 30
WORK_SECONDS = 1.0
_POLL_SECONDS = 0.1

Narrate = Callable[[str], None]


@frozen
class _Measured:
    """The durations that a reward is computed from, in milliseconds."""

    time_idle_ms: int
    time_staged_ms: int
    time_cpu_ms: int


async def run_demo(reactor: Any, narrate: Narrate, *, keep: bool = False) -> Json:
    """Start two nodes in a temporary directory, show a task's life, and stop them.

    :param narrate: is called with each line of the story.
    :param keep: whether the directory stays.
    :returns: ``task_id``, ``reward``, ``result``, and ``scores`` by address.
    :raises CommandFailed: when anything is not as it should be; the nodes are stopped all the same.
    """
    directory = Path(tempfile.mkdtemp(prefix="tasksubmit-demo-"))
    ports = free_ports(2)
    a = NodeProcess(reactor, directory / "a", SUBMITTER, ports[0])
    b = NodeProcess(reactor, directory / "b", RECEIVER, ports[1])

    async def stop() -> None:
        try:
            for node in (a, b):
                await node.stop()
        finally:
            if not keep:
                shutil.rmtree(directory)

    with stopping(reactor, stop) as stopped:
        a.start(peer=b)
        b.start(peer=a)
        summary = await _Story(reactor, narrate, a, b).tell()
    return summary
