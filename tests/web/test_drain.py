"""The route that brings a node to rest, and then stops it."""

from __future__ import annotations

from typing import Any

from treq.testing import StubTreq
from twisted.internet.defer import fail

from tasksubmit.errors import StoreError
from tasksubmit.web import control_site
from tests.web.harness import PEER, ApiTestCase


class DrainTests(ApiTestCase):
    """Bringing the node to rest."""

    def drained(self, timeout: int) -> Any:
        """Drain the node, for which it needs its time."""
        response = self.begin("POST", "/v1/drain", {"timeout": timeout})
        for _ in range(2 * timeout):
            self.clock.advance(0.5)
            self.treq.flush()
        return self.envelope(self.successResultOf(response))["data"]

    def test_nothing_left(self) -> None:
        """A node with nothing to do is at rest at once, and stops as soon as its answer is on its way."""
        answer = self.ask("POST", "/v1/drain")
        self.assertEqual(answer, {"put_back": 0, "owed_to": 0, "is_stopping": True})
        self.assertEqual(self.stops, [])
        self.clock.advance(1)
        self.assertEqual(len(self.stops), 1)

    def test_what_is_left(self) -> None:
        """Executions are put back and what cannot be delivered is kept, when their time is up."""
        self.receive("t1")
        self.ask("POST", "/v1/tasks/t1/accept")
        self.ask("POST", "/v1/execute")
        self.assertEqual(self.drained(10), {"put_back": 1, "owed_to": 1, "is_stopping": True})
        self.assertIsNotNone(self.ask("GET", "/v1/tasks/t1")["put_back_at"])

    def test_nothing_new(self) -> None:
        """A node that is being drained says so, and takes nothing new."""
        self.receive("t1")
        self.ask("POST", "/v1/drain")
        self.assertTrue(self.ask("GET", "/v1/node")["is_draining"])
        self.refused(503, "not_accepting", "POST", "/v1/tasks/t1/accept")
        self.refused(503, "not_accepting", "POST", "/v1/execute")
        self.refused(503, "not_accepting", "POST", "/v1/tasks", {"to": str(PEER), "description": "x"})

    def test_stops_once(self) -> None:
        """Who asks twice gets two answers; the node stops once."""
        self.ask("POST", "/v1/drain")
        self.ask("POST", "/v1/drain")
        self.clock.advance(1)
        self.assertEqual(len(self.stops), 1)

    def test_no_way_to_stop(self) -> None:
        """A node that nobody can stop from here runs on, and says so."""
        self.treq = StubTreq(control_site(self.node, "9.9", clock=self.clock).resource)
        self.assertEqual(self.ask("POST", "/v1/drain"), {"put_back": 0, "owed_to": 0, "is_stopping": False})

    def test_cannot_be_drained(self) -> None:
        """A node whose store fails for as long as the drain may last is not stopped."""
        self.patch(self.node.store, "owed_peers", lambda: fail(StoreError("the disk is full")))
        self.refused(503, "storage", "POST", "/v1/drain", {"timeout": 0})
        self.clock.advance(1)
        self.assertEqual(self.stops, [])

    def test_limits(self) -> None:
        """The time that it takes is a number of seconds, up to an hour."""
        for timeout in (-1, 3601, 1.5, "60"):
            self.refused(400, "invalid", "POST", "/v1/drain", {"timeout": timeout})
        self.assertFalse(self.ask("GET", "/v1/node")["is_draining"])
