"""The routes that tell what became of a task, and try again what could not be delivered."""

from __future__ import annotations

from tests.web.harness import PEER, ApiTestCase


class StoryTests(ApiTestCase):
    """The route that tells a task's story."""

    def test_whole(self) -> None:
        """A story has the task, what is owed for it, all that happened, what it waits for, and what can be done."""
        self.receive("t1")
        self.clock.advance(2)
        self.ask("POST", "/v1/tasks/t1/accept", {"justification": "gladly"})
        self.clock.advance(10)
        task = self.ask("GET", "/v1/tasks/t1")
        story = self.ask("GET", f"/v1/tasks/t1/story?side=receiver&peer={PEER}")
        self.assertEqual({key: story.pop(key) for key in task}, task)
        created, accepted, failed = story.pop("events")
        self.assertEqual(
            created,
            {
                "at": "2026-04-09T12:00:00.250Z",
                "name": "submitted",
                "by": "submitter",
                "status": "NEW",
                "detail": f"from {PEER}",
                "times": 1,
                "last_at": None,
            },
        )
        self.assertEqual(
            [accepted[key] for key in ("at", "name", "by", "status", "detail")],
            ["2026-04-09T12:00:02.250Z", "accept", "receiver", "ACCEPTED", "gladly"],
        )
        self.assertEqual((failed["name"], failed["by"]), ("delivery_failed", "node"))
        self.assertEqual(failed["times"], task["deliveries"][0]["attempts"])
        self.assertGreater(failed["last_at"], failed["at"])
        expected = {
            "told_at": "2026-04-09T12:00:12.250Z",
            "sentence": "is at the head of the queue, and waits for somebody here to begin it",
            "until": "2026-04-09T13:00:02.250Z",
            "then": "it expires, which costs a point",
            "commands": ["tasksubmit execute t1"],
        }
        self.assertEqual(story, expected)

    def test_unknown(self) -> None:
        """There is no story of a task that is not here."""
        self.refused(404, "unknown_task", "GET", "/v1/tasks/t1/story")


class RetryTests(ApiTestCase):
    """Trying again what was given up."""

    def test_retry(self) -> None:
        """What was given up is told with the task, and tried again when that is asked for, once."""
        self.receive("t1")
        self.ask("POST", "/v1/tasks/t1/decline", {"justification": "no time"})
        self.refused(409, "illegal_transition", "POST", "/v1/tasks/t1/retry")
        self.clock.advance(7 * 86400 + 1)
        self.clock.advance(1)
        task = self.ask("GET", "/v1/tasks/t1")
        (delivery,) = task["deliveries"]
        self.assertEqual(delivery["given_up_at"], task["delivery_given_up_at"])
        self.assertIsNone(delivery["next_attempt_at"])
        task = self.ask("POST", f"/v1/tasks/t1/retry?side=receiver&peer={PEER}")
        self.assertIsNone(task["delivery_given_up_at"])
        (delivery,) = self.ask("GET", "/v1/tasks/t1")["deliveries"]
        self.assertIsNone(delivery["given_up_at"])
        self.refused(409, "illegal_transition", "POST", "/v1/tasks/t1/retry")
