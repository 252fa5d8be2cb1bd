"""What holds for every request, whatever it asks: envelopes, strictness, limits, and clients that go away."""

from __future__ import annotations

import io
import json
import time
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.service import Node
from tasksubmit.web.routes import OPENAPI_PATH
from tasksubmit.web.site import MAX_BODY_BYTES, MAX_URL_BYTES, ControlRequest
from tests.web.harness import OWN, PEER, ApiTestCase, NodeTestCase


class RoutingTests(ApiTestCase):
    """Requests for what there is not."""

    def test_no_route(self) -> None:
        """A path that is not there is answered as every error is."""
        for path in ("/", "/v1", "/v1/tasks/", "/v1//tasks", "/v1/tasks/a/b", "/v2/tasks", "/v1/tasks/a%2Fb"):
            self.assertIn(path, self.refused(404, "not_found", "GET", path))

    def test_method(self) -> None:
        """A method that a path does not take is answered with those that it takes."""
        response = self.successResultOf(self.begin("DELETE", "/v1/tasks"))
        self.assertEqual(response.code, 405)
        self.assertEqual(response.headers.getRawHeaders("allow"), ["GET, HEAD, POST"])
        self.assertEqual(self.envelope(response)["code"], "method_not_allowed")

    def test_not_utf8(self) -> None:
        """A path that is not UTF-8 is refused in JSON, too."""
        self.refused(400, "invalid", "GET", "/v1/tasks/%ff")

    def test_no_host(self) -> None:
        """A ``Host`` that can be nobody's name is refused in JSON, too."""
        for host in ("<" * 64, "a" * 64, "a..b"):
            request = self.treq.request("GET", "http://localhost/v1/node", headers={"host": host})
            response: Any = self.successResultOf(request)
            self.assertEqual((response.code, self.envelope(response)["code"]), (400, "invalid"), host)

    def test_markup_is_not_reflected(self) -> None:
        """What a request says comes back in JSON only."""
        message = self.refused(404, "not_found", "GET", "/v1/%3Cscript%3E")
        self.assertNotIn("<", message)


class StrictnessTests(ApiTestCase):
    """Bodies and queries that are not as described."""

    def test_bodies(self) -> None:
        """Each fault of a body is named by its key."""
        good: dict[str, Any] = {"to": str(PEER), "description": "x"}
        cases: list[tuple[object, str]] = [
            ({}, "to: is missing; description: is missing"),
            ({**good, "to": 5}, "to: expected a text"),
            ({**good, "to": "x"}, "to: 'x' is not an address like 1:0001.F291.0004"),
            ({**good, "description": None}, "description: expected a text"),
            ({**good, "task_id": 5}, "task_id: expected a text"),
            ({**good, "when": 1, "who": 2}, "the body: unknown key when, who"),
            ({**good, "expires_at": "soon"}, "expires_at: 'soon' is not a time like 2026-04-09T12:00:00Z"),
            (
                {**good, "expires_at": "9999-12-31T23:59:59-01:00"},
                "expires_at: lies outside the years 1 to 9999 in UTC",
            ),
        ]
        for body, message in cases:
            self.assertEqual(self.refused(400, "invalid", "POST", "/v1/tasks", body), message)
        self.assertEqual(self.ask("GET", "/v1/tasks"), [])

    def test_not_json(self) -> None:
        """A body that is no JSON object is malformed."""
        for content in (b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"[]", b'"x"', b"null"):
            message = self.refused(400, "malformed", "POST", "/v1/tasks", content=content)
            self.assertTrue(message.startswith("the body: "), message)

    def test_key_given_twice(self) -> None:
        """A key that is given twice is refused by name: which of the two values was meant cannot be told."""
        to = f'"to": "{PEER}"'
        for content, key in (
            (f'{{{to}, "description": "a", "description": "b"}}', "description"),
            (f'{{{to}, "description": "a", "{chr(92)}u0074o": "{PEER}"}}', "to"),
            (f'{{{to}, {to}, "description": "a"}}', "to"),
        ):
            message = self.refused(400, "malformed", "POST", "/v1/tasks", content=content.encode())
            self.assertEqual(message, f"the body: the key '{key}' comes twice")
        self.assertEqual(self.ask("GET", "/v1/tasks"), [])

    def test_body_where_none_is_taken(self) -> None:
        """A body is refused where it would be ignored."""
        self.refused(400, "invalid", "POST", "/v1/execute", {"task_id": "t1"})

    def test_queries(self) -> None:
        """Each fault of a query is named by its parameter."""
        cases = {
            "colour=red": "the query: unknown key colour",
            "limit=ten": "limit: expected an integer",
            "limit=-1": "limit: expected an integer",
            "limit=0": "the query: 'limit' must be >= 1: 0",
            "limit=1001": "the query: 'limit' must be <= 1000: 1001",
            "limit=1&limit=2": "the parameter limit is given 2 times",
            "side=left": "side: expected one of receiver, submitter",
            "peer=%ff": "peer: '\ufffd' is not an address like 1:0001.F291.0004",
        }
        for query, message in cases.items():
            self.assertEqual(self.refused(400, "invalid", "GET", f"/v1/tasks?{query}"), message)


class FailureTests(ApiTestCase):
    """When the node itself fails."""

    def test_internal(self) -> None:
        """An error that nobody expected is logged, and its text is kept from the answer."""

        def fail(**filters: object) -> Deferred[list[Task]]:
            raise RuntimeError("secret")

        self.patch(self.node.store, "list_tasks", fail)
        self.assertEqual(self.refused(500, "internal", "GET", "/v1/tasks"), "the node could not do it")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_storage(self) -> None:
        """A store that cannot be used is an error to try again after."""
        self.successResultOf(self.node.store.close())
        self.refused(503, "storage", "GET", "/v1/tasks")


class DescriptionTests(ApiTestCase):
    """The OpenAPI document."""

    def test_document(self) -> None:
        """It describes every route, and every reference in it leads somewhere."""
        response = self.successResultOf(self.begin("GET", "/v1/openapi.json"))
        document = self.envelope(response)
        self.assertEqual(document["openapi"], "3.1.0")
        operations = {
            operation["operationId"]: operation for path in document["paths"].values() for operation in path.values()
        }
        self.assertEqual(len(operations), 27)
        parameters = {parameter["name"] for parameter in operations["wait"]["parameters"]}
        self.assertEqual(parameters, {"task_id", "side", "peer", "for", "timeout"})
        schemas = document["components"]["schemas"]
        self.assertEqual(schemas["Submit"]["required"], ["to", "description"])
        self.assertIn("from", schemas["TaskView"]["properties"])
        text = json.dumps(document)
        for reference in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
            self.assertIn(reference, schemas)

    def test_answers_have_the_described_keys(self) -> None:
        """A task's record has the keys that its description has, no more and no less."""
        document = self.envelope(self.successResultOf(self.begin("GET", "/v1/openapi.json")))
        self.receive("t1")
        described = document["components"]["schemas"]["TaskDetails"]
        self.assertEqual(set(self.ask("GET", "/v1/tasks/t1")), set(described["properties"]))
        self.assertEqual(set(described["required"]), set(described["properties"]))


class SlowStore:
    """Wraps the `resolve` of a node so that its answer waits."""

    def __init__(self, node: Node) -> None:
        self.waiting: Deferred[None] = Deferred()
        self._resolve = node.resolve

    def resolve(self, task_id: str, **which: Any) -> Deferred[Task]:
        """See `Node.resolve`."""
        return self.waiting.addCallback(lambda _: self._resolve(task_id, **which))


class ConnectionTests(NodeTestCase):
    """Requests as bytes on a connection."""

    def connect(self) -> tuple[Any, StringTransport]:
        """A connection to the site."""
        self.requests: list[ControlRequest] = []

        def make_request(*arguments: Any, **options: Any) -> ControlRequest:
            self.requests.append(ControlRequest(*arguments, **options))
            return self.requests[-1]

        self.patch(self.site, "requestFactory", make_request)
        transport = StringTransport()
        protocol = self.site.buildProtocol(None)
        protocol.makeConnection(transport)
        self.addCleanup(self.site.stopFactory)
        return protocol, transport

    def answer(self, request: bytes) -> tuple[int, Any]:
        """The status and the envelope of the answer to a request."""
        protocol, transport = self.connect()
        protocol.dataReceived(request)
        answer = transport.value()
        return int(answer.split()[1]), json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])

    def test_two_hosts(self) -> None:
        """A request with two ``Host`` headers, alike or not, or with none, is refused; HTTP/1.0 need not have one."""
        for hosts, words in (
            (b"Host: localhost\r\nHost: evil.example\r\n", "the Host is given 2 times"),
            (b"Host: localhost\r\nHost: localhost\r\n", "the Host is given 2 times"),
            (b"", "the Host is missing"),
        ):
            for target in (b"/v1/node", b"http://localhost/v1/node"):
                if hosts or target.startswith(b"/"):
                    status, envelope = self.answer(b"GET " + target + b" HTTP/1.1\r\n" + hosts + b"\r\n")
                    self.assertEqual((status, envelope["code"], envelope["message"]), (400, "invalid", words))
        self.assertEqual(self.answer(b"GET /v1/node HTTP/1.0\r\n\r\n")[0], 200)

    def test_absolute_form(self) -> None:
        """A target in absolute form is answered like one in origin form, with its query."""
        self.receive("t1")
        for target in (b"http://localhost/v1/tasks?limit=1", b"HTTP://localhost:80/v1/tasks?limit=1"):
            status, envelope = self.answer(b"GET " + target + b" HTTP/1.1\r\nHost: other\r\n\r\n")
            self.assertEqual((status, envelope["data"][0]["task_id"]), (200, "t1"))
        for target in (b"http://localhost", b"http://localhost/nothing", b"http://localhost?x"):
            self.assertEqual(self.answer(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0], 404)
        status, envelope = self.answer(b"GET http://a..b/v1/node HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual((status, envelope["code"]), (400, "invalid"))

    def test_long_url(self) -> None:
        """A URL that is too long is answered 414 in an envelope, however much of it has come."""
        for length in (MAX_URL_BYTES, 100_000):
            status, envelope = self.answer(b"GET /v1/tasks/" + b"x" * length + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            self.assertEqual((status, envelope["code"]), (414, "url_too_long"))
            self.assertEqual(envelope["message"], "the URL is over 8192 bytes long")
        self.assertEqual(self.answer(b"GET /v1/" + b"x" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")[0], 404)

    def test_long_headers(self) -> None:
        """Headers that are too long, one or all together, are answered 431."""
        long, many = b"A: " + b"x" * 20_000 + b"\r\n", (b"A: " + b"x" * 200 + b"\r\n") * 100
        for headers in (long, many):
            status, envelope = self.answer(b"GET /v1/node HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
            self.assertEqual((status, envelope["code"]), (431, "headers_too_large"))

    def test_not_http(self) -> None:
        """Bytes that are no HTTP request are answered in an envelope, too."""
        for request in (
            b"nonsense\r\n",
            b"GET /v1/node HTTP/1.1\r\nno header\r\n\r\n",
            b"GET / HTTP/1.1\r\nA : x\r\n\r\n",
        ):
            status, envelope = self.answer(request)
            self.assertEqual((status, envelope["code"]), (400, "malformed"))

    def kept_bytes(self) -> int:
        """How much of the body of the request is kept."""
        (request,) = self.requests
        assert request.content is not None
        return int(request.content.tell())

    def test_large_body_by_its_length(self) -> None:
        """A body that is announced as too large is refused, and nothing of it is kept."""
        protocol, transport = self.connect()
        length = MAX_BODY_BYTES + 1
        protocol.dataReceived(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        chunk = b" " * 2**20
        for _ in range(length // len(chunk)):
            protocol.dataReceived(chunk)
            self.assertEqual(self.kept_bytes(), 0)
        self.assertEqual(transport.value(), b"")
        protocol.dataReceived(b" " * (length % len(chunk)))
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 413 "), transport.value()[:80])
        self.assertIn(b'"code":"too_large"', transport.value())

    def test_large_body_in_chunks(self) -> None:
        """A body without a length is refused when it turns out to be too large."""
        protocol, transport = self.connect()
        protocol.dataReceived(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(25):
            protocol.dataReceived(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        self.assertLessEqual(self.kept_bytes(), MAX_BODY_BYTES)
        protocol.dataReceived(b"0\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 413 "), transport.value()[:80])

    def test_access_log(self) -> None:
        """The log has the time of the wall clock, whatever the timers follow."""
        protocol, _ = self.connect()
        log = io.StringIO()
        self.site.logFile = log
        protocol.dataReceived(b"GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n")
        line = log.getvalue()
        self.assertIn('"GET /v1/node HTTP/1.1" 200 ', line)
        logged_at = datetime.strptime(line.split("[")[1].split("]")[0], "%d/%b/%Y:%H:%M:%S %z")
        self.assertLess(abs(logged_at.timestamp() - time.time()), 60)

    def test_access_log_names_no_task(self) -> None:
        """A line has the route in the place of the URL, and no header: an id may be all that a peer has to know."""
        self.receive("secret-id")
        log = io.StringIO()
        self.site.logFile = log
        for method, path, route, code in (
            ("GET", "/v1/tasks/secret-id", "/v1/tasks/{task_id}", 200),
            ("GET", "/v1/tasks/secret-id/story?peer=secret-id", "/v1/tasks/{task_id}/story", 400),
            ("POST", "/v1/tasks/secret-id/accept", "/v1/tasks/{task_id}/accept", 200),
            ("GET", "/v1/tasks?after=secret-id", "/v1/tasks", 400),
            ("GET", "/v1/tasks/secret-id/nothing", "-", 404),
            ("PUT", "/v1/tasks/secret-id", "-", 405),
            ("GET", OPENAPI_PATH, OPENAPI_PATH, 200),
        ):
            protocol, _ = self.connect()
            headers = "Host: x\r\nReferer: http://x/secret-id\r\nUser-Agent: secret-id\r\n"
            protocol.dataReceived(f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode())
            self.assertIn(f'"{method} {route} HTTP/1.1" {code} ', log.getvalue().splitlines()[-1])
        self.assertNotIn("secret-id", log.getvalue())

    def test_waiting_client_goes_away(self) -> None:
        """The wait of a client that went away is given up."""
        self.receive("t1")
        protocol, _ = self.connect()
        protocol.dataReceived(b"GET /v1/tasks/t1/wait HTTP/1.1\r\nHost: x\r\n\r\n")
        timers = len(self.clock.getDelayedCalls())
        self.assertEqual(len(self.node._live), 1)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.node._live), 0)
        self.assertEqual(len(self.clock.getDelayedCalls()), timers - 1)

    def test_draining_client_goes_away(self) -> None:
        """A node that was told to drain comes to rest and stops, also when its client went away."""
        self.receive("t1")
        self.successResultOf(self.node.decline(TaskKey(Side.RECEIVER, PEER, "t1"), "no time"))
        protocol, _ = self.connect()
        protocol.dataReceived(b'POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"timeout": 5}')
        protocol.connectionLost(Failure(ConnectionDone()))
        self.clock.pump([0.5] * 8)
        self.assertEqual(self.stops, [])
        self.clock.pump([0.5] * 4)
        self.assertEqual(len(self.stops), 1)

    def test_changing_client_goes_away(self) -> None:
        """A change that was begun is carried through, also when its client went away."""
        self.receive("t1")
        slow = SlowStore(self.node)
        self.patch(self.node, "resolve", slow.resolve)
        protocol, _ = self.connect()
        protocol.dataReceived(b"POST /v1/tasks/t1/accept HTTP/1.1\r\nHost: x\r\n\r\n")
        protocol.connectionLost(Failure(ConnectionDone()))
        slow.waiting.callback(None)
        (task,) = self.successResultOf(self.node.store.find("t1"))
        self.assertEqual((task.status.value, str(self.node.address)), ("ACCEPTED", str(OWN)))
