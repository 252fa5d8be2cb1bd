"""The control API where more than its operator can connect."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.errors import ConfigurationError
from tasksubmit.web import control_site, site
from tasksubmit.web.gate import TokenGate, make_token, read_token
from tasksubmit.web.routes import OPENAPI_PATH, PREFIX, ROUTES
from tasksubmit.web.site import FewAtOnce
from tests.web.harness import ApiTestCase


class TokenTests(SynchronousTestCase):
    """The file with the token."""

    @override
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def test_made(self) -> None:
        """It is made when it is missing, for its owner alone, and never again."""
        make_token(self.path)
        token = read_token(self.path)
        self.assertGreaterEqual(len(token), 64)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        make_token(self.path)
        self.assertEqual(read_token(self.path), token)

    def test_different(self) -> None:
        """No two are alike."""
        other = Path(self.mktemp())
        make_token(self.path)
        make_token(other)
        self.assertNotEqual(read_token(self.path), read_token(other))

    def test_refused(self) -> None:
        """One that others can read, that is not there, or is none, is refused with what to do."""
        self.path.write_text("abc\n")
        for mode in (0o640, 0o604, 0o666):
            self.path.chmod(mode)
            self.assertIn("chmod 600", str(self.assertRaises(ConfigurationError, read_token, self.path)))
        self.path.chmod(0o600)
        for text in ("", "\n", "two words", "ä"):
            self.path.write_text(text)
            self.assertIn("holds no token", str(self.assertRaises(ConfigurationError, read_token, self.path)))
        missing = Path(self.mktemp())
        self.assertIn("No such file", str(self.assertRaises(ConfigurationError, read_token, missing)))
        error = self.assertRaises(ConfigurationError, make_token, missing / "in" / "nothing")
        self.assertIn("cannot be made", str(error))

    def test_umask(self) -> None:
        """Whatever the umask, nobody else can read it, not even for a moment."""
        before = os.umask(0)
        try:
            make_token(self.path)
        finally:
            os.umask(before)
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)


class GateTests(ApiTestCase):
    """What a gate lets through."""

    @override
    def setUp(self) -> None:
        super().setUp()
        path = Path(self.mktemp())
        self.gate = TokenGate(path)
        self.gate.startService()
        self.addCleanup(self.gate.stopService)
        self.token = read_token(path).decode()
        self.site.resource = control_site(self.node, "9.9", gate=self.gate, clock=self.clock).resource
        self.treq = type(self.treq)(self.site.resource)

    def status(self, **headers: str) -> tuple[int, str]:
        """Ask for the node; the status and the code that this is answered with."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        answer: Any = self.successResultOf(self.treq.request("GET", "http://localhost/v1/node", headers=given))
        self.assertEqual(answer.headers.getRawHeaders("x-content-type-options"), ["nosniff"])
        return answer.code, self.envelope(answer).get("code", "")

    def allowed(self, **headers: str) -> tuple[int, str]:
        """The same, with the token."""
        return self.status(authorization=f"Bearer {self.token}", **headers)

    def test_token(self) -> None:
        """Without the token nothing is answered, whatever else is sent."""
        self.assertEqual(self.allowed(), (200, ""))
        self.assertEqual(self.status(authorization=f"bearer  {self.token} "), (200, ""))
        for authorization in (
            *("", "Bearer", "Bearer ", f"Basic {self.token}", self.token, f"Bearer {self.token[:-1]}"),
            *(f"Bearer {self.token}x", f"Bearer {self.token.swapcase()}x", "Bearer \xe4"),
        ):
            self.assertEqual(self.status(authorization=authorization), (401, "unauthorized"), authorization)
        self.assertEqual(self.status(), (401, "unauthorized"))

    def test_every_route(self) -> None:
        """No route is beside the gate, neither one that is not there nor the description."""
        routes = [(route.method, PREFIX + route.path.replace("{task_id}", "t1")) for route in ROUTES]
        for method, path in (
            *routes,
            ("GET", OPENAPI_PATH),
            ("GET", "/v1/nothing"),
            ("GET", "/"),
            ("PUT", "/v1/tasks"),
        ):
            answer: Any = self.successResultOf(self.treq.request(method, f"http://localhost{path}"))
            self.assertEqual((answer.code, self.envelope(answer)["code"]), (401, "unauthorized"), path)
            self.assertEqual(answer.headers.getRawHeaders("www-authenticate"), ["Bearer"])

    def test_host(self) -> None:
        """A name that somebody else could have made lead here is refused, also with the token."""
        for host in (
            "localhost",
            "localhost:8080",
            "LOCALHOST",
            "127.0.0.1:80",
            "192.0.2.7",
            "[::1]",
            "[::1]:99",
            "::1",
        ):
            self.assertEqual(self.allowed(host=host), (200, ""), host)
        for host in (
            "evil.example",
            "localhost.evil.example:80",
            "127.0.0.1.evil.example",
            "[evil]:1",
            "localhost:1:2",
        ):
            self.assertEqual(self.allowed(host=host), (403, "forbidden"), host)

    def test_origin(self) -> None:
        """A page of another origin is refused, also with the token."""
        self.assertEqual(self.allowed(host="localhost:8080", origin="http://localhost:8080"), (200, ""))
        for origin in ("http://evil.example", "null", "http://localhost:8081", "https://localhost:8080.evil.example"):
            self.assertEqual(self.allowed(host="localhost:8080", origin=origin), (403, "forbidden"), origin)

    def test_one_answer(self) -> None:
        """Whoever is not let through has one answer, and what it asks besides is not looked at."""
        site = control_site(self.node, "9.9", gate=self.gate, clock=self.clock)
        protocol: Any = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        transport = StringTransport()
        protocol.makeConnection(transport)
        for _ in range(2):
            protocol.dataReceived(b"GET /v1/node HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        self.assertEqual(transport.value().count(b"HTTP/1.1 401"), 1)
        self.assertIn(b"\r\nConnection: close\r\n", transport.value())
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))

    def test_silence(self) -> None:
        """However many connect and say nothing, the log says so a few times."""
        channels: list[Any] = [self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", port)) for port in range(100)]
        for channel in channels:
            channel.makeConnection(transport := StringTransport())
        with capturedLogs() as logs:
            self.clock.advance(60)
        self.assertTrue(transport.disconnecting)
        self.assertLess(len([event for event in logs if "Timing out" in formatEvent(event)]), 30)
        for channel in channels:
            channel.connectionLost(Failure(ConnectionDone()))

    def test_few_at_once(self) -> None:
        """Whoever can connect takes no more than so many of the node's files, and they are free again afterwards."""
        self.patch(site, "MAX_CONTROL_CONNECTIONS", 2)
        few = FewAtOnce(self.site)
        with_two = [few.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)) for _ in range(2)]
        for protocol in with_two:
            assert protocol is not None
            protocol.makeConnection(StringTransport())
        self.assertIsNone(few.buildProtocol(IPv4Address("TCP", "127.0.0.1", 2)))
        assert with_two[0] is not None
        with_two[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(few.buildProtocol(IPv4Address("TCP", "127.0.0.1", 3)))

    def test_before_the_start(self) -> None:
        """A gate that has not read its token lets nobody through."""
        gate = TokenGate(Path(self.mktemp()))
        self.treq = type(self.treq)(control_site(self.node, "9.9", gate=gate, clock=self.clock).resource)
        self.assertEqual(self.status(authorization="Bearer "), (401, "unauthorized"))
