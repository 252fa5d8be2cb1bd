"""One agent gives a task to each of ten others, and takes the results as they come.

    python fan_out.py

All eleven live in this process, on sockets of this machine, each with a store of its own; nothing changes when they are
on eleven machines.
"""

import random
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater, react
from zope.interface import implementer

from tasksubmit import (
    AcceptAll,
    Address,
    CallableExecutor,
    Execution,
    IPeers,
    Node,
    SQLiteTaskStore,
)
from tasksubmit.errors import TaskSubmitError, UnknownPeer


@implementer(IPeers)
class Known(dict[Address, IStreamClientEndpoint]):
    """Who lives where, by address; more can be added at any time."""

    def addresses(self) -> Collection[Address]:
        return self.keys()

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        if address not in self:
            raise UnknownPeer(f"nobody told where {address} is")
        return self[address]


ASKER = Address.parse("0:0000.0000.0001")
WORKERS = [Address.parse(f"0:0000.0000.00{number:02X}") for number in range(16, 26)]


async def fan_out(reactor: Any) -> None:
    """Start the agents, and give each of the ten the same question."""

    async def estimate(execution: Execution) -> str:
        """Estimate pi by throwing darts, as each of the ten does; some take longer than others."""
        await deferLater(reactor, random.uniform(0, 0.3))
        inside = sum(random.random() ** 2 + random.random() ** 2 <= 1 for _ in range(int(execution.description)))
        return str(4 * inside / int(execution.description))

    agents = MultiService()
    with tempfile.TemporaryDirectory() as directory:

        def agent(address: Address, peers: Known, **options: Any) -> Node:
            node = Node(
                address,
                SQLiteTaskStore(Path(directory) / f"{address.node:x}", reactor),
                peers,
                clock=reactor,
                wall=time.time,
                listen={"tasks": TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")},
                **options,
            )
            node.setServiceParent(agents)
            return node

        def where(node: Node) -> TCP4ClientEndpoint:
            port: Any = node.listeners[0].port
            return TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

        agents.startService()
        try:
            # Each side has to know the other: a peer may submit, and is where the results go.
            known_to_workers, known_to_asker = Known(), Known()
            workers = [
                agent(address, known_to_workers, acceptance=AcceptAll(), executor=CallableExecutor(estimate))
                for address in WORKERS
            ]
            asker = agent(ASKER, known_to_asker)
            known_to_workers[ASKER] = where(asker)
            known_to_asker.update({worker.address: where(worker) for worker in workers})

            estimates = []
            async for finished in asker.submit_many(((address, "20000") for address in WORKERS), concurrency=10):
                try:
                    estimates.append(float(finished.result().result_text))
                except TaskSubmitError as error:
                    print(f"{finished.to} failed: {error}")
                    continue
                mean = sum(estimates) / len(estimates)
                print(f"{finished.to} says {estimates[-1]:.4f}; the mean of {len(estimates)} is {mean:.4f}")
        finally:
            await agents.stopService()


if __name__ == "__main__":
    react(fan_out)
