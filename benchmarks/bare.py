"""Two servers that store nothing, each in a process of its own: ``python -m benchmarks.bare tasksubmit|amp PORT``.

``tasksubmit`` is this package's protocol with a function that accepts everything: what the network and the protocol
cost without a store. ``amp`` is Twisted's own AMP with a command of the same four fields, which also stores nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols import amp

from tasksubmit import Peer, SubmitRequest, TaskSubmitFactory


class Submit(amp.Command):
    """The four fields of a submission, answered as a node answers it."""

    arguments = [  # noqa: RUF012 - it is how AMP declares them
        (b"task_id", amp.Unicode()),
        (b"task_description", amp.Unicode()),
        (b"from_addr", amp.Unicode()),
        (b"to_addr", amp.Unicode()),
    ]
    response = [  # noqa: RUF012
        (b"status", amp.Integer()),
        (b"message", amp.Unicode()),
    ]


class AmpServer(amp.AMP):
    """Answers `Submit`."""

    @Submit.responder
    def submit(self, task_id: str, task_description: str, from_addr: str, to_addr: str) -> dict[str, Any]:
        """Accept the task, and forget it."""
        return {"status": 200, "message": "Task received with status NEW"}


def _accept(peer: Peer, request: SubmitRequest, send_result: object) -> bool:
    return True


def main() -> None:
    """Serve until the process is ended."""
    kind, port = sys.argv[1:]
    factory: Factory
    if kind == "amp":
        factory = Factory.forProtocol(AmpServer)
        factory.noisy = False
    else:
        factory = TaskSubmitFactory(_accept, clock=reactor)
    serverFromString(reactor, f"tcp:{port}:interface=127.0.0.1").listen(factory)
    reactor.run()


if __name__ == "__main__":
    main()
