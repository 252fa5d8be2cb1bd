"""What the control API does with the node, route by route."""

from __future__ import annotations

from base64 import b64encode

from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.wire.messages import TaskResultMessage
from tests.web.harness import OTHER, OWN, PEER, STRANGER, ApiTestCase


class NodeRoutesTests(ApiTestCase):
    """The routes that tell about the node."""

    def test_node(self) -> None:
        """The node tells who it is."""
        expected = {"address": str(OWN), "version": "9.9", "listening": [], "peers": 2}
        expected |= {"is_draining": False, "is_enabled": True}
        self.assertEqual(self.ask("GET", "/v1/node"), expected)

    def test_peers(self) -> None:
        """Each peer is listed with what it announced and whether something is owed to it."""
        self.successResultOf(self.node.store.remember_features(PEER, frozenset({"ack", "persistent"})))
        self.ask("POST", "/v1/tasks", {"to": str(OTHER), "description": "x"}, status=201)
        expected = [
            {"address": str(PEER), "features": ["ack", "persistent"], "is_owed": False, "proofs": [], "problem": ""},
            {"address": str(OTHER), "features": [], "is_owed": True, "proofs": [], "problem": ""},
        ]
        self.assertEqual(self.ask("GET", "/v1/peers"), expected)

    def test_status(self) -> None:
        """The status tells how the node does; one without keys shows no certificate."""
        self.ask("POST", "/v1/tasks", {"to": str(OTHER), "description": "x"}, status=201)
        self.receive("t1")
        self.successResultOf(self.node.accept(TaskKey(Side.RECEIVER, PEER, "t1")))
        expected = {
            "address": str(OWN),
            "version": "9.9",
            "listening": [],
            "is_draining": False,
            "is_enabled": True,
            "disk_problem": "",
            "executor_problem": None,
            "unended": [],
            "certificate": None,
            "connections": 0,
            "waiting": 1,
            "held": 0,
            "owed_to": 2,
            "retrying": {},
            "peers": self.ask("GET", "/v1/peers"),
        }
        self.assertEqual(self.ask("GET", "/v1/status"), expected)

    def test_reload(self) -> None:
        """A reload has what waits for its next attempt sent at once, and answers with the status and what it did."""
        task = self.ask("POST", "/v1/tasks", {"to": str(OTHER), "description": "x"}, status=201)
        self.clock.advance(0.1)  # less than the shortest pause
        self.assertEqual(self.ask("GET", f"/v1/tasks/{task['task_id']}")["deliveries"][0]["attempts"], 1)
        reloaded = self.ask("POST", "/v1/reload")
        did = {name: reloaded.pop(name) for name in ("applied", "unchanged", "needs_restart")}
        self.assertEqual(did, {"applied": [], "unchanged": [], "needs_restart": []})
        self.assertEqual(reloaded, self.ask("GET", "/v1/status"))
        self.assertEqual(self.ask("GET", f"/v1/tasks/{task['task_id']}")["deliveries"][0]["attempts"], 2)

    def test_score(self) -> None:
        """The ledger is empty at first, and a completed task moves both parties."""
        self.assertEqual(self.ask("GET", "/v1/score"), [])
        self.ask("POST", "/v1/tasks", {"to": str(PEER), "description": "x", "task_id": "t1"}, status=201)
        self.deliver(TaskResultMessage("t1", "text", "42", completed_at="2026-04-09T12:00:00Z"))
        expected = [{"address": str(OWN), "score": -1}, {"address": str(PEER), "score": 1}]
        self.assertEqual(self.ask("GET", "/v1/score"), expected)


class SubmitterTests(ApiTestCase):
    """The routes of whoever submits."""

    def submit(self, task_id: str = "t1", **more: object) -> dict[str, object]:
        """Submit a task to the peer."""
        body = {"to": str(PEER), "description": "Read <b>it</b>", "task_id": task_id, **more}
        answer = self.ask("POST", "/v1/tasks", body, status=201)
        assert isinstance(answer, dict)
        return answer

    def test_submit(self) -> None:
        """A submitted task is answered with its record, every key of it."""
        task = self.submit(expires_at="2026-04-09T16:00:00.5+02:00")
        expected = {
            "task_id": "t1",
            "number": 1,
            "side": "submitter",
            "peer": str(PEER),
            "from": str(OWN),
            "to": str(PEER),
            "description": "Read <b>it</b>",
            "status": "NEW",
            "justification": "A new task was created",
            "outcome": "",
            "error": "",
            "code": "",
            "retry_after_s": 0,
            "created_at": "2026-04-09T12:00:00.250Z",
            "expires_at": "2026-04-09T14:00:00.500Z",
            "deliver_by": "2026-04-09T14:00:00.500Z",
            "attempt": 0,
            "max_attempts": 1,
            "time_idle_ms": 0,
            "time_staged_ms": 0,
            "time_cpu_ms": 0,
            "is_time_disputed": False,
            "result_type": "",
            "result_filename": "",
            "result_file": "",
            "late_result_file": "",
        }
        unset = dict.fromkeys(
            (
                *("answered_at", "accepted_at", "staged_at", "execute_started_at", "completed_at"),
                *("result_due_at", "cancel_requested_at", "queue_position", "scored_cpu_ms", "reward"),
                *("lease_expires_at", "put_back_at", "held_at", "heard_at", "ended_at", "delivery_given_up_at"),
            )
        )
        self.assertEqual(task, {**expected, **unset})

    def test_submit_makes_an_id(self) -> None:
        """Without an id, one is made."""
        task = self.ask("POST", "/v1/tasks", {"to": str(PEER), "description": "x"}, status=201)
        self.assertEqual(len(task["task_id"]), 36)

    def test_submit_again(self) -> None:
        """The same task again is the one that there is; another under its id is a conflict."""
        self.assertEqual(self.submit(), self.submit())
        self.assertEqual(len(self.ask("GET", "/v1/tasks")), 1)
        self.refused(409, "id_conflict", "POST", "/v1/tasks", {"to": str(PEER), "description": "y", "task_id": "t1"})

    def test_submit_to_a_stranger(self) -> None:
        """A receiver that is not a peer is refused."""
        body = {"to": str(STRANGER), "description": "x"}
        self.assertIn(str(STRANGER), self.refused(400, "not_a_peer", "POST", "/v1/tasks", body))

    def test_submit_what_may_not_be_sent(self) -> None:
        """An id or a description that may not be sent is refused."""
        body = {"to": str(PEER), "description": "x", "task_id": "../x"}
        self.assertIn("'../x'", self.refused(400, "invalid", "POST", "/v1/tasks", body))
        body = {"to": str(PEER), "description": "x" * 1024 * 1025}
        self.refused(400, "invalid", "POST", "/v1/tasks", body)

    def test_deliveries(self) -> None:
        """A task tells what is still owed for it, and why the last attempt failed."""
        self.submit()
        (delivery,) = self.ask("GET", "/v1/tasks/t1")["deliveries"]
        self.assertEqual((delivery["kind"], delivery["status"], delivery["attempts"]), ("submission", None, 1))
        self.assertIn("refused", delivery["last_error"])
        self.assertGreater(delivery["next_attempt_at"], delivery["created_at"])
        self.assertIsNone(delivery["given_up_at"])

    def test_cancel(self) -> None:
        """Cancelling what was never sent ends it; else it is a request, recorded and owed to the receiver."""
        self.submit()
        task = self.ask("POST", "/v1/tasks/t1/cancel", {"reason": "changed my mind"})
        self.assertEqual((task["status"], task["outcome"]), ("CANCELLED", "cancelled_by_submitter"))
        self.assertEqual(task["cancel_requested_at"], "2026-04-09T12:00:00.250Z")
        self.assertEqual(self.ask("GET", "/v1/tasks/t1")["deliveries"], [])
        self.ask("POST", "/v1/tasks", {"to": str(PEER), "description": "x", "task_id": "t2"}, status=201)
        self.tell("t2", "ACCEPTED")
        self.assertEqual(self.ask("POST", "/v1/tasks/t2/cancel", {})["status"], "ACCEPTED")
        owed = self.ask("GET", "/v1/tasks/t2")["deliveries"]
        self.assertEqual([(d["kind"], d["status"]) for d in owed], [("status", "CANCELLED")])

    def test_result_text(self) -> None:
        """A text result is told as text."""
        self.submit()
        self.refused(409, "no_results", "GET", "/v1/tasks/t1/result")
        self.deliver(TaskResultMessage("t1", "text", "<i>42</i>", completed_at="2026-04-09T12:00:00Z"))
        expected = {
            "task_id": "t1",
            "result_type": "text",
            "text": "<i>42</i>",
            "filename": None,
            "content_base64": None,
            "completed_at": "2026-04-09T12:00:00Z",
        }
        self.assertEqual(self.ask("GET", "/v1/tasks/t1/result"), expected)

    def test_result_file(self) -> None:
        """A file result is told as its name and its content in base64."""
        self.submit()
        message = TaskResultMessage(
            "t1", "file", filename="a.bin", file_data=b"\x00\xff", completed_at="2026-04-09T12:00:00Z"
        )
        self.deliver(message)
        result = self.ask("GET", "/v1/tasks/t1/result")
        self.assertEqual((result["text"], result["filename"], result["content_base64"]), (None, "a.bin", "AP8="))

    def test_result_of_a_declined_task(self) -> None:
        """A task that ended without results says so, in the receiver's words."""
        self.submit()
        self.tell("t1", "DECLINED", "no time")
        self.assertIn("no time", self.refused(409, "declined", "GET", "/v1/tasks/t1/result"))


class ReceiverTests(ApiTestCase):
    """The routes of whoever receives."""

    def test_life(self) -> None:
        """A received task is accepted, queued, executed and completed."""
        self.receive("t1")
        self.clock.advance(2)
        task = self.ask("POST", "/v1/tasks/t1/accept")
        self.assertEqual((task["status"], task["justification"]), ("ACCEPTED", "Task accepted"))
        self.assertEqual((task["from"], task["to"], task["time_idle_ms"]), (str(PEER), str(OWN), 2000))
        self.assertEqual([task["task_id"] for task in self.ask("GET", "/v1/queue")], ["t1"])
        self.assertEqual(self.ask("POST", "/v1/tasks/t1/execute")["status"], "EXECUTING")
        self.assertEqual(self.ask("GET", "/v1/queue"), [])
        task = self.ask("POST", "/v1/tasks/t1/results", {"text": "42"})
        self.assertEqual((task["status"], task["result_type"]), ("COMPLETED", "text"))

    def test_purge(self) -> None:
        """A step of a purge says what it found, what it removed, and why not."""
        self.receive("t1", "first")
        self.receive("t2")
        found = self.ask("POST", "/v1/purge", {"step": "remove", "peer": str(PEER)})
        self.assertEqual(
            [(one["task_id"], one["obstacle"]) for one in found["tasks"]], [("t1", "it is NEW"), ("t2", "it is NEW")]
        )
        self.assertEqual(
            (found["next"], found["until"], found["returned_bytes"], found["can_shrink"]), (None, 2, 0, True)
        )
        self.ask("POST", "/v1/purge", {"step": "notify", "task_id": "t1"})
        found = self.ask("POST", "/v1/purge", {"step": "abandon", "task_id": "t1"})
        self.assertEqual(
            found["tasks"],
            [
                {
                    "task_id": "t1",
                    "side": "receiver",
                    "peer": str(PEER),
                    "status": "DECLINED",
                    "created_at": "2026-04-09T12:00:00.250Z",
                    "ended_at": "2026-04-09T12:00:00.250Z",
                    "description_bytes": 5,
                    "result_bytes": 0,
                    "is_removed": True,
                    "obstacle": "",
                }
            ],
        )
        self.refused(404, "unknown_task", "POST", "/v1/purge", {"step": "list", "task_id": "t1"})
        self.refused(400, "invalid", "POST", "/v1/purge", {"step": "vanish"})
        self.refused(400, "invalid", "POST", "/v1/purge", {"step": "list", "after": 2**63})
        self.refused(400, "invalid", "POST", "/v1/purge", {"step": "list", "wait": 301})
        self.assertEqual([task["task_id"] for task in self.ask("GET", "/v1/tasks")], ["t2"])

    def test_decline(self) -> None:
        """Declining needs a justification that says something."""
        self.receive("t1")
        self.assertEqual(self.refused(400, "invalid", "POST", "/v1/tasks/t1/decline"), "justification: is missing")
        self.refused(400, "invalid", "POST", "/v1/tasks/t1/decline", {"justification": " "})
        task = self.ask("POST", "/v1/tasks/t1/decline", {"justification": "no time"})
        self.assertEqual((task["status"], task["justification"]), ("DECLINED", "no time"))
        self.refused(409, "illegal_transition", "POST", "/v1/tasks/t1/accept")

    def test_queue(self) -> None:
        """Only the head of the queue can be executed; without an id it is the head, whichever that is."""
        self.refused(409, "empty_queue", "POST", "/v1/execute")
        for task_id in ("t1", "t2"):
            self.receive(task_id)
            self.ask("POST", f"/v1/tasks/{task_id}/accept")
        self.refused(409, "not_at_head", "POST", "/v1/tasks/t2/execute")
        self.assertEqual(self.ask("POST", "/v1/execute")["task_id"], "t1")
        self.assertEqual(self.ask("POST", "/v1/execute")["task_id"], "t2")

    def executing(self) -> None:
        """Bring a task into execution."""
        self.receive("t1")
        self.ask("POST", "/v1/tasks/t1/accept")
        self.ask("POST", "/v1/tasks/t1/execute")

    def test_lease(self) -> None:
        """A task in execution says until when its executor may be silent; progress begins the lease anew."""
        self.executing()
        task = self.ask("GET", "/v1/tasks/t1")
        self.assertEqual((task["attempt"], task["max_attempts"]), (1, 1))
        self.assertEqual(task["lease_expires_at"], "2026-04-10T12:00:00.250Z")
        self.clock.advance(60)
        task = self.ask("POST", "/v1/tasks/t1/progress", {"text": "half of it"})
        self.assertEqual((task["status"], task["justification"]), ("EXECUTING", "half of it"))
        self.assertEqual(task["lease_expires_at"], "2026-04-10T12:01:00.250Z")
        owed = self.ask("GET", "/v1/tasks/t1")["deliveries"]
        self.assertEqual((owed[-1]["kind"], owed[-1]["status"]), ("progress", "EXECUTING"))

    def test_fail(self) -> None:
        """An execution that fails needs an error that says something, and ends the task."""
        self.executing()
        self.assertEqual(self.refused(400, "invalid", "POST", "/v1/tasks/t1/fail"), "error: is missing")
        self.refused(400, "invalid", "POST", "/v1/tasks/t1/fail", {"error": " "})
        task = self.ask("POST", "/v1/tasks/t1/fail", {"error": "the book is empty"})
        self.assertEqual((task["status"], task["outcome"], task["error"]), ("CANCELLED", "failed", "the book is empty"))
        self.assertEqual(task["ended_at"], "2026-04-09T12:00:00.250Z")

    def test_put_back(self) -> None:
        """What was put back comes first in the queue, which lists the order in which tasks are begun."""
        for task_id in ("t1", "t2", "t3"):
            self.receive(task_id)
            self.ask("POST", f"/v1/tasks/{task_id}/accept")
        self.ask("POST", "/v1/execute")
        self.ask("POST", "/v1/execute")
        self.clock.advance(1)
        task = self.ask("POST", "/v1/tasks/t2/put-back", {"reason": "lunch"})
        self.assertEqual((task["status"], task["justification"], task["attempt"]), ("EXECUTING", "lunch", 2))
        self.assertEqual((task["put_back_at"], task["lease_expires_at"]), ("2026-04-09T12:00:01.250Z", None))
        self.clock.advance(1)
        self.ask("POST", "/v1/tasks/t1/put-back")
        queue = self.ask("GET", "/v1/queue")
        self.assertEqual(
            [(task["task_id"], task["queue_position"]) for task in queue[:2]], [("t2", None), ("t1", None)]
        )
        begun = [self.ask("POST", "/v1/execute")["task_id"] for _ in range(3)]
        self.assertEqual(begun, [task["task_id"] for task in queue])
        self.refused(409, "empty_queue", "POST", "/v1/execute")

    def test_not_in_execution(self) -> None:
        """What is not in execution makes no progress, is not put back, and does not fail."""
        self.receive("t1")
        for step, body in (("progress", {"text": "x"}), ("put-back", {}), ("fail", {"error": "x"})):
            self.refused(409, "illegal_transition", "POST", f"/v1/tasks/t1/{step}", body)

    def test_results_file(self) -> None:
        """A file result is kept under its name."""
        self.executing()
        body = {"filename": "a.bin", "content_base64": b64encode(b"\x00\xff").decode()}
        task = self.ask("POST", "/v1/tasks/t1/results", body)
        self.assertEqual((task["result_type"], task["result_filename"]), ("file", "a.bin"))

    def test_results_that_are_neither(self) -> None:
        """Results are a text or a file, not both and not none, and a file is one that may be sent."""
        self.executing()
        for body in ({}, {"text": "x", "filename": "a.txt", "content_base64": ""}, {"filename": "a.txt"}):
            self.refused(400, "invalid", "POST", "/v1/tasks/t1/results", body)
        for name in ("", "../a.txt", "a.py"):
            body = {"filename": name, "content_base64": ""}
            self.refused(400, "invalid", "POST", "/v1/tasks/t1/results", body)
        message = self.refused(
            400, "invalid", "POST", "/v1/tasks/t1/results", {"filename": "a.txt", "content_base64": "&"}
        )
        self.assertIn("content_base64: expected base64", message)

    def test_results_too_large(self) -> None:
        """Results that do not fit into a frame are refused as too large."""
        self.executing()
        self.refused(413, "too_large", "POST", "/v1/tasks/t1/results", {"text": "x" * (16 * 1024 * 1024)})


class FindingTests(ApiTestCase):
    """Which task is meant."""

    def test_unknown(self) -> None:
        """A task that is not here is unknown, also when the other side has one of that id."""
        self.refused(404, "unknown_task", "GET", "/v1/tasks/t1")
        self.receive("t1")
        self.refused(404, "unknown_task", "POST", "/v1/tasks/t1/cancel")
        self.refused(404, "unknown_task", "GET", f"/v1/tasks/t1?peer={OTHER}")

    def test_ambiguous(self) -> None:
        """Tasks with one id are told apart by peer and by side."""
        self.receive("t1", "a")
        self.receive("t1", "b", peer=OTHER)
        self.ask("POST", "/v1/tasks", {"to": str(PEER), "description": "c", "task_id": "t1"}, status=201)
        self.refused(409, "ambiguous_task", "POST", "/v1/tasks/t1/accept")
        self.refused(409, "ambiguous_task", "GET", "/v1/tasks/t1?side=receiver")
        for query in ("", f"?peer={PEER}", "?side=submitter"):
            self.assertEqual(self.ask("GET", f"/v1/tasks/t1{query}")["description"], "c")
        self.assertEqual(self.ask("POST", f"/v1/tasks/t1/accept?peer={OTHER}")["description"], "b")

    def test_list(self) -> None:
        """Tasks are listed newest first, filtered, and page by page."""
        for n in range(3):
            self.receive(f"r{n}")
        self.ask("POST", "/v1/tasks", {"to": str(OTHER), "description": "x", "task_id": "s0"}, status=201)
        self.ask("POST", "/v1/tasks/r1/accept")

        def listed(query: str) -> list[str]:
            return [task["task_id"] for task in self.ask("GET", f"/v1/tasks{query}")]

        self.assertEqual(listed(""), ["s0", "r2", "r1", "r0"])
        self.assertEqual(listed("?side=receiver&status=NEW"), ["r2", "r0"])
        self.assertEqual(listed(f"?peer={OTHER}"), ["s0"])
        page = self.ask("GET", "/v1/tasks?limit=2")
        self.assertEqual(listed(f"?limit=2&before={page[-1]['number']}"), ["r1", "r0"])


class WaitTests(ApiTestCase):
    """Waiting for a task."""

    def test_at_once(self) -> None:
        """What is so already is answered at once."""
        self.receive("t1")
        self.ask("POST", "/v1/tasks/t1/decline", {"justification": "no"})
        self.assertEqual(self.ask("GET", "/v1/tasks/t1/wait?for=finished&timeout=0")["status"], "DECLINED")

    def test_later(self) -> None:
        """The answer comes with the change that was waited for, not with one before it."""
        self.ask("POST", "/v1/tasks", {"to": str(PEER), "description": "x", "task_id": "t1"}, status=201)
        accepted = self.begin("GET", "/v1/tasks/t1/wait?for=accepted")
        finished = self.begin("GET", "/v1/tasks/t1/wait")
        self.assertNoResult(accepted)
        self.tell("t1", "ACCEPTED")
        self.treq.flush()
        self.assertEqual(self.envelope(self.successResultOf(accepted))["data"]["status"], "ACCEPTED")
        self.assertNoResult(finished)
        self.deliver(TaskResultMessage("t1", "text", "42", completed_at="2026-04-09T12:00:00Z"))
        self.treq.flush()
        self.assertEqual(self.envelope(self.successResultOf(finished))["data"]["status"], "COMPLETED")

    def test_timed_out(self) -> None:
        """When it is not so in time, the answer says how the task stands."""
        self.receive("t1")
        response = self.begin("GET", "/v1/tasks/t1/wait?for=accepted&timeout=5")
        self.clock.advance(5)
        self.treq.flush()
        answer = self.successResultOf(response)
        self.assertEqual(answer.code, 504)
        envelope = self.envelope(answer)
        self.assertEqual(envelope["code"], "timed_out")
        self.assertEqual(envelope["message"], "task t1 is not accepted after 5 s: it is NEW")

    def test_limits(self) -> None:
        """Nobody waits for longer than five minutes, nor for something else."""
        self.receive("t1")
        self.refused(400, "invalid", "GET", "/v1/tasks/t1/wait?timeout=301")
        message = self.refused(400, "invalid", "GET", "/v1/tasks/t1/wait?for=ever")
        self.assertEqual(message, "for: expected one of answered, accepted, finished")

    def test_node_stops(self) -> None:
        """When the node stops, whoever waits is told."""
        self.receive("t1")
        response = self.begin("GET", "/v1/tasks/t1/wait")
        self.successResultOf(self.node.stopService())
        self.treq.flush()
        answer = self.successResultOf(response)
        self.assertEqual((answer.code, self.envelope(answer)["code"]), (503, "storage"))
