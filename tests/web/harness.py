"""A node in memory behind its control API, for the tests of the API and of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.interfaces import Peer
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.web import control_site
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest, TaskResultMessage, TaskStatusUpdate

OWN = Address.parse("0:0000.0000.0001")
PEER = Address.parse("0:0000.0000.0002")
OTHER = Address.parse("0:0000.0000.0003")
STRANGER = Address.parse("0:0000.0000.0009")


@implementer(IStreamClientEndpoint)
class RefusingEndpoint:
    """An endpoint where nobody listens."""

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint.connect`."""
        return fail(ConnectionRefusedError())


class NodeTestCase(SynchronousTestCase):
    """A started node in memory whose peers cannot be reached, and ways to be its peers.

    :ivar options: more of those of `Node`.
    """

    options: Mapping[str, Any] = MappingProxyType({})

    @override
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.clock.advance(1_775_736_000.25)  # 2026-04-09T12:00:00.250Z
        endpoints: dict[Address, IStreamClientEndpoint] = {PEER: RefusingEndpoint(), OTHER: RefusingEndpoint()}
        self.node = Node(OWN, SQLiteTaskStore(None), StaticPeers(endpoints), clock=self.clock, **self.options)
        self.node.startService()
        self.addCleanup(lambda: self.successResultOf(self.node.stopService()))
        self.stops: list[float] = []
        self.site = control_site(self.node, "9.9", lambda: self.stops.append(self.clock.seconds()), clock=self.clock)
        self.treq: Any = StubTreq(self.site.resource)

    def receive(self, task_id: str, description: str = "Read the book", peer: Address = PEER) -> None:
        """A peer submits a task to the node."""
        request = SubmitRequest(task_id, description, str(peer), str(OWN))
        done = self.node.task_submitted(Peer(None, "memory"), request, lambda result: None)
        self.assertEqual(self.successResultOf(done).status, 200)

    def tell(self, task_id: str, status: str, justification: str = "because", peer: Address = PEER) -> None:
        """A receiver tells the node where its task stands."""
        update = TaskStatusUpdate(task_id, status, justification)
        self.successResultOf(self.node.status_updated(Peer(peer, "memory"), update))

    def deliver(self, message: TaskResultMessage, peer: Address = PEER) -> None:
        """A receiver sends the results of a task to the node."""
        self.successResultOf(self.node.results_received(Peer(peer, "memory"), message))


class ApiTestCase(NodeTestCase):
    """With ways to ask the API."""

    def begin(self, method: str, path: str, body: object = None, content: bytes = b"") -> Deferred[Any]:
        """Send a request; fires with its response."""
        sent = json.dumps(body).encode() if body is not None else content
        request: Callable[..., Deferred[Any]] = self.treq.request
        return request(method, f"http://localhost{path}", data=sent or None)

    def envelope(self, response: Any) -> dict[str, Any]:
        """The body of a response, which has to look as every answer does."""
        self.assertEqual(response.headers.getRawHeaders("content-type"), ["application/json"])
        self.assertEqual(response.headers.getRawHeaders("cache-control"), ["no-store"])
        envelope = json.loads(self.successResultOf(response.content()))
        assert isinstance(envelope, dict)
        return envelope

    def ask(self, method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        """The data of an answer with `status`."""
        response = self.successResultOf(self.begin(method, path, body))
        envelope = self.envelope(response)
        self.assertEqual((response.code, envelope["status"]), (status, "ok"), envelope)
        self.assertEqual(set(envelope) - {"total", "is_total_exact", "more"}, {"status", "data"})
        return envelope["data"]

    def refused(self, status: int, code: str, method: str, path: str, body: object = None, content: bytes = b"") -> str:
        """The message of an error with `status` and `code`."""
        response = self.successResultOf(self.begin(method, path, body, content))
        envelope = self.envelope(response)
        self.assertEqual((response.code, envelope["status"], envelope.get("code")), (status, "error", code), envelope)
        self.assertEqual(set(envelope), {"status", "code", "message", "hint"})
        message = envelope["message"]
        assert isinstance(message, str)
        return message
