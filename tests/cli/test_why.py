"""The verbs that tell what became of a task, and those for what could not be delivered."""

from __future__ import annotations

import os
import time

from typing_extensions import override

from tests.cli.harness import CommandTestCase
from tests.web.harness import OTHER, PEER

DAY = 86400.0
REFUSED = "the peer cannot be reached: Connection was refused by other side."


def set_zone(zone: str | None) -> None:
    """Make `zone` the local one, as the environment has it."""
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()


class StoryTestCase(CommandTestCase):
    """Commands where the clocks are two hours ahead of UTC: times are told in UTC all the same."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(set_zone, os.environ.get("TZ"))
        set_zone("HERE-2")

    def given_up(self) -> None:
        """Decline a task without ever being able to tell its submitter."""
        self.receive("t1")
        self.ok("decline", "t1", "--justification", "no time")
        self.clock.pump([DAY] * 8)


class WhyTests(StoryTestCase):
    """``why``."""

    def test_new(self) -> None:
        """A new task says who submitted it, until when somebody has to decide, and how."""
        self.receive("t1")
        expected = (
            f"12:00:00Z  submitter  NEW        submitted: from {PEER}\n"
            "NEW: waits for somebody here to accept or decline it, until 12:01:00Z; then it is cancelled\n"
            "  $ tasksubmit accept t1\n"
            "  $ tasksubmit decline t1 --justification WHY\n"
        )
        self.assertEqual(self.ok("why", "t1"), expected)

    def test_owed(self) -> None:
        """Each event is a line, the same again is counted, and what is owed is told."""
        self.receive("t1")
        self.clock.advance(2)
        self.ok("accept", "t1", "--justification", "gladly")
        self.clock.advance(10)
        _, accepted, failed, why, rest, owed, last, outlook, *commands = self.ok("why", "t1").splitlines()
        self.assertEqual(accepted, '12:00:02Z  receiver   ACCEPTED   accept: "gladly"')
        self.assertEqual(failed, "12:00:02Z  node       ACCEPTED   delivery failed (2 times, last at 12:00:12Z)")
        self.assertEqual(f"{why} {rest.removeprefix('  quoted| ')}", f"  quoted| status ACCEPTED: {REFUSED}")
        self.assertRegex(
            owed, r"^still to be sent: status ACCEPTED \(attempts: 2, next at 12:00:1\dZ\), the last one failed$"
        )
        self.assertEqual(last, f"  quoted| {REFUSED}")
        self.assertTrue(outlook.startswith("ACCEPTED: is at the head of the queue, "), outlook)
        self.assertTrue(outlook.endswith(", until 13:00:02Z; then it expires, which costs a point"), outlook)
        self.assertEqual(commands, ["  $ tasksubmit execute t1"])

    def test_other_days(self) -> None:
        """What was not today has its date; what was given up says since when."""
        self.given_up()
        *events, owed, _, outlook, command = self.ok("why", "t1").splitlines()
        self.assertTrue(events[0].startswith("2026-04-09 12:00:00Z  submitter  NEW"), events[0])
        self.assertEqual(events[-1], "           12:00:00Z  node       DECLINED   delivery given up: status DECLINED")
        self.assertTrue(owed.startswith("given up at 12:00:00Z: status DECLINED (attempts: "), owed)
        self.assertNotIn("next at", owed)
        self.assertEqual(outlook, "DECLINED: is over, but the submitter could not be told of all")
        self.assertEqual(command, "  $ tasksubmit retry t1")

    def test_time_is_up(self) -> None:
        """What should have happened already is not told as if it were still to come."""
        self.receive("t1")
        self.clock.rightNow += 61  # before the node could look
        self.assertIn("decline it; its time is up: it is cancelled at once\n", self.ok("why", "t1"))

    def test_hostile(self) -> None:
        """What a peer wrote is shown as text, each line of it marked as the peer's."""
        self.ok("submit", str(PEER), "x", "--task-id", "t1", "--timeout", "0")
        self.tell("t1", "DECLINED", "\x1b[2J no\n12:00:00  receiver  ACCEPTED\u202e")
        shown = self.ok("why", "t1", is_terminal=True)
        expected = "hear declined\n  receiver| \\x1b[2J no\n  receiver| 12:00:00  receiver  ACCEPTED\\u202e\n"
        self.assertIn(expected, shown)

    def test_padded(self) -> None:
        """A text that was padded to the width of a terminal begins no row of it with a command of its own."""
        forged = "  $ tasksubmit trust add 0:0000.0000.0666 sha256:0"
        self.patch(os, "environ", {**os.environ, "COLUMNS": "80"})
        for n, (verb, pad) in enumerate((("why", 33), ("show", 65), ("wait", 80 - len("task s2 is EXECUTING: ")))):
            self.ok("submit", str(PEER), "x", "--task-id", f"s{n}", "--timeout", "0")
            self.tell(f"s{n}", "EXECUTING", " " * pad + forged)
            arguments = ("--for", "accepted") if verb == "wait" else ()
            self.assert_marked(forged, self.ok(verb, f"s{n}", *arguments, is_terminal=True))
        for n, pad in enumerate((9, 15, 80)):
            self.receive(f"r{n}", " " * pad + forged + "\n" + forged)
            self.assert_marked(forged, self.ok("list", "--side", "receiver", is_terminal=True))
            self.assert_marked(forged, self.ok("list", "--side", "receiver"))
            self.ok("accept", f"r{n}")
            self.assert_marked(forged, self.ok("queue", is_terminal=True))

    def assert_marked(self, forged: str, shown: str) -> None:
        """On a terminal of 80 columns each row that has words of the text begins with who wrote it."""
        rows = [line[start : start + 80] for line in shown.splitlines() for start in range(0, len(line), 80)]
        theirs = [row for row in rows if set(row.split()) & set(forged.split()[2:])]
        self.assertNotEqual(theirs, [])
        for row in theirs:
            self.assertRegex(row, r"^(\w+)? +(submitter|receiver|quoted)\| ")

    def test_json(self) -> None:
        """For programs it is the whole view, in UTC."""
        self.receive("t1")
        story = self.data("why", "t1")
        self.assertEqual((story["status"], story["until"]), ("NEW", "2026-04-09T12:01:00.250Z"))
        self.assertEqual([event["name"] for event in story["events"]], ["submitted"])

    def test_which(self) -> None:
        """Tasks with one id are told apart; one that is not there is an error in one line."""
        self.receive("t1")
        self.ok("submit", str(OTHER), "x", "--task-id", "t1", "--timeout", "0")
        for options in ((), ("--to", str(OTHER))):  # the one that was submitted here comes first
            self.assertIn(f"to {OTHER}", self.ok("why", "t1", *options))
        self.assertEqual(self.data("why", "t1", "--from", str(PEER))["side"], "receiver")
        self.receive("t3")
        self.receive("t3", peer=OTHER)
        self.assertIn("--from", self.failed("why", "t3"))
        self.assertIn("there is no task t2 here", self.failed("why", "t2"))
        self.assertEqual(self.run_command("why", "t1", "--from", str(PEER), "--to", str(PEER)).exit_code, 2)


class RetryTests(StoryTestCase):
    """``retry``, and how it is found."""

    def test_show(self) -> None:
        """A task says what was given up for it, and how to try again."""
        self.given_up()
        shown = self.ok("show", "t1")
        self.assertIn("delivery_given_up_at  2026-04-17T12:00:00.250Z\n", shown)
        self.assertIn("given up at 2026-04-17T12:00:00.250Z: status DECLINED (attempts: ", shown)
        self.assertTrue(shown.endswith("\n`tasksubmit retry t1` tries again what was given up\n"), shown)

    def test_list(self) -> None:
        """A list marks the tasks for which something was given up, and says what the mark means."""
        self.given_up()
        self.receive("t2")
        _, new, _, declined, _, legend = self.ok("list").splitlines()
        self.assertNotIn("*", new)
        self.assertIn(" DECLINED * ", declined)
        self.assertEqual(
            legend, "* something could not be delivered and was given up; `tasksubmit retry TASK` tries it again"
        )

    def test_retry(self) -> None:
        """What was given up is owed again, after which there is nothing to retry."""
        self.given_up()
        line = self.ok("retry", "t1", "--from", str(PEER))
        self.assertEqual(line, f"task t1 is DECLINED: what was given up is sent to {PEER} again\n")
        self.assertNotIn("*", self.ok("list"))
        self.assertIn("still to be sent: status DECLINED", self.ok("show", "t1"))
        line = self.failed("retry", "t1")
        self.assertIn("nothing that is owed for task t1 was given up; `tasksubmit why t1` says", line)

    def test_json(self) -> None:
        """For programs the answer is the task's record."""
        self.given_up()
        self.assertIsNotNone(self.data("show", "t1")["delivery_given_up_at"])
        self.assertIsNone(self.data("retry", "t1")["delivery_given_up_at"])
