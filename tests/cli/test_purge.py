"""``tasksubmit purge`` and ``tasksubmit compact``: what they ask, what they say, and how they end."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from typing_extensions import override

from tasksubmit.interfaces import ReturnedSpace
from tasksubmit.node.purge import REASON
from tasksubmit.stores.disk import lock
from tasksubmit.stores.sqlite import DATABASE, LOCK
from tasksubmit.wire.messages import TaskResultMessage
from tests.cli.harness import CommandTestCase
from tests.stores.test_check import make_state
from tests.web.harness import OTHER, OWN, PEER

AT_REST = "0 B are free in the database, for reuse"


class PurgeTests(CommandTestCase):
    """The verb, on a node with one task that ended, and one that is open."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.data("submit", str(PEER), "Read the book", "--task-id", "ended", "--timeout", "0")
        self.tell("ended", "ACCEPTED")
        self.deliver(TaskResultMessage("ended", "text", "42", completed_at="2026-04-09T12:00:00Z"))
        self.receive("open", peer=OTHER)

    def ids(self) -> list[str]:
        """The tasks that there are."""
        return [task["task_id"] for task in self.data("list")]

    def test_removed(self) -> None:
        """What was removed is counted, and what it freed; what was kept is counted with the reason."""
        lines = self.ok("purge", "--older-than", "0s", "--yes").splitlines()
        self.assertEqual(lines[0], "removed 1 task: 13 B of descriptions, 2 B of results")
        self.assertEqual(lines[1], "kept 1: it is NEW")
        self.assertEqual(lines[2], "--abandon removes those, too, and notifies the peers first")
        self.assertTrue(lines[3].startswith("returned to the file system: "), lines)
        self.assertTrue(lines[3].endswith(f"; {AT_REST}"), lines)
        self.assertEqual(self.ids(), ["open"])
        self.assertIn("was removed on", self.failed("show", "ended"))

    def test_dry_run(self) -> None:
        """A dry run lists what would be removed, with sizes, and removes nothing; it needs no confirmation."""
        lines = self.ok("purge", "--older-than", "0s", "--dry-run").splitlines()
        self.assertEqual(lines[0].split(), ["TASK", "PEER", "STATUS", "CREATED", "SIZE", "BEFORE"])
        self.assertEqual(
            lines[1].split(), ["ended", "to", str(PEER), "COMPLETED", "2026-04-09T12:00:00.250Z", "15", "B"]
        )
        self.assertEqual(lines[2], "would remove 1 task: 13 B of descriptions, 2 B of results")
        self.assertEqual(lines[3], "kept 1: it is NEW")
        self.assertEqual(self.ids(), ["open", "ended"])
        lines = self.ok("purge", "--older-than", "0s", "--dry-run", "--abandon").splitlines()
        self.assertIn("abandon: it is NEW", lines[2])
        self.assertIn("there is nothing to remove", self.ok("purge", "--peer", str(OWN), "--dry-run"))
        self.assertEqual(self.ids(), ["open", "ended"])

    def test_json(self) -> None:
        """A program gets every task with its sizes, and what was returned."""
        done = self.data("purge", "--peer", str(PEER), "--yes")
        (task,) = done["tasks"]
        self.assertEqual(
            (task["task_id"], task["side"], task["peer"], task["status"], task["is_removed"], task["obstacle"]),
            ("ended", "submitter", str(PEER), "COMPLETED", True, ""),
        )
        self.assertEqual((task["description_bytes"], task["result_bytes"]), (13, 2))
        self.assertEqual((done["kept"], done["is_dry_run"], done["can_shrink"]), ([], False, True))
        self.assertEqual(set(done), {"tasks", "kept", "is_dry_run", "returned_bytes", "free_bytes", "can_shrink"})

    def test_one(self) -> None:
        """A named task is removed alone, or refused with the reason and the way out."""
        refusal = self.failed("purge", "open", "--yes")
        self.assertEqual(
            refusal,
            "tasksubmit: task open is not removed: it is NEW; wait for its end, or abandon it with"
            " `tasksubmit purge open --abandon`\n",
        )
        self.failed("purge", "open", "--dry-run")
        self.assertIn("removed 1 task", self.ok("purge", "ended", "--yes"))
        self.assertEqual(self.ids(), ["open"])
        self.assertIn("there is no task gone here", self.failed("purge", "gone", "--yes"))

    def test_selected(self) -> None:
        """The options select by the peer, the side and the age."""
        self.clock.advance(100)
        for options in (
            ("--peer", str(OTHER)),
            ("--from", str(PEER)),
            ("--to", str(OTHER)),
            ("--older-than", "2036-01-01T00:00:00Z", "--peer", str(OWN)),
        ):
            self.assertIn("removed 0 tasks", self.ok("purge", *options, "--yes"))
        self.assertIn("removed 0 tasks", self.ok("purge", "--older-than", "2026-04-09T12:00:00Z", "--yes"))
        self.assertEqual(self.ids(), ["open", "ended"])
        self.assertIn("removed 1 task", self.ok("purge", "--to", str(PEER), "--yes"))

    def test_abandoned(self) -> None:
        """Open tasks are ended, and removed after the time for notices, though the peer cannot be reached."""
        before = self.clock.seconds()
        self.assertIn(
            "removed 2 tasks", self.ok("purge", "--older-than", "0s", "--abandon", "--yes", "--notice", "30s")
        )
        self.assertEqual(self.ids(), [])
        self.assertLess(self.clock.seconds() - before, 40)
        (left,) = self.successResultOf(self.node.store.tombstones("open"))
        self.assertEqual((left.status, left.reason.justification), ("DECLINED", REASON))

    def test_abandoned_without_notice(self) -> None:
        """Without time for notices nothing is waited for."""
        before = self.clock.seconds()
        self.ok("purge", "open", "--abandon", "--yes", "--notice", "0s")
        self.assertLess(self.clock.seconds() - before, 10)
        self.assertEqual(self.ids(), ["ended"])

    def test_confirmed(self) -> None:
        """A terminal is asked, with the sizes; every answer but yes removes nothing."""
        handler = signal.getsignal(signal.SIGINT)
        for answer, exit_code in ((b"n\n", 1), (b"\n", 1), (b"", 130)):
            done = self.run_command("purge", "--older-than", "0s", stdin=answer, is_terminal=True)
            self.assertEqual((done.exit_code, self.ids()), (exit_code, ["open", "ended"]), done)
            self.assertIn("remove 1 task: 13 B of descriptions, 2 B of results?", done.stderr)
        done = self.run_command("purge", "--older-than", "0s", "--abandon", stdin=b"y\n", is_terminal=True)
        self.assertEqual((done.exit_code, self.ids()), (0, []), done)
        self.assertIn("2 tasks", done.stderr)
        self.assertIn("(1 of them to be abandoned first)", done.stderr)
        self.assertIs(signal.getsignal(signal.SIGINT), handler)

    def test_usage(self) -> None:
        """Without a selection, or without anybody to ask, nothing is done; options that contradict are refused."""
        for arguments, expected in (
            (("--yes",), "say what to remove"),
            (("ended",), "confirm with --yes"),
            (("--peer", str(PEER), "--from", str(PEER), "--yes"), "either --peer"),
            (("ended", "--older-than", "1d", "--yes"), "either a TASK"),
            (("--older-than", "soon", "--yes"), "soon"),
        ):
            done = self.run_command("purge", *arguments)
            self.assertEqual(done.exit_code, 2, done)
            self.assertIn(expected, done.stderr)
        self.assertEqual(self.ids(), ["open", "ended"])

    def test_cannot_shrink(self) -> None:
        """Of a database of an older version it is said what is needed once, and that its space is for reuse."""

        def return_space(max_bytes: int) -> Deferred[ReturnedSpace]:
            return succeed(ReturnedSpace(0, 3_000_000, False))

        self.patch(self.node.store, "return_space", return_space)
        *_, returned, hint = self.ok("purge", "ended", "--yes").splitlines()
        self.assertEqual(returned, "returned to the file system: 2 B; 2.9 MiB are free in the database, for reuse")
        self.assertIn("stop the node, and run `tasksubmit compact` once", hint)

    def test_long(self) -> None:
        """Many tasks take many requests; space is returned until there is none, also what was free before."""
        for number in range(120):
            self.receive(f"t{number}", "x" * 250_000, OTHER)
        self.clock.advance(120)  # nobody accepts; their last words are pending, for the peer is not there
        lines = self.ok("purge", "--from", str(OTHER), "--abandon", "--notice", "0s", "--yes").splitlines()
        self.assertTrue(lines[0].startswith("removed 121 tasks: 28.6 MiB"), lines)
        self.assertTrue(lines[1].endswith(f"MiB; {AT_REST}"), lines)
        self.assertGreater(float(lines[1].split()[5]), 28)


class CompactTests(CommandTestCase):
    """``compact``, on the state directory of a node that was stopped."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        make_state(self.directory)

    def test_compacted(self) -> None:
        """The sizes are told, and the database is whole."""
        line = self.ok("compact", "--state-dir", str(self.directory))
        self.assertRegex(line, r"^the database had [0-9.]+ KiB, and has [0-9.]+ KiB\n$")
        self.assertIn("all is whole", self.ok("check", "--state-dir", str(self.directory)))
        with closing(sqlite3.connect(self.directory / DATABASE)) as connection:
            self.assertEqual(connection.execute("PRAGMA auto_vacuum").fetchone(), (2,))

    def test_running(self) -> None:
        """Beside a running node nothing is done."""
        held = lock(self.directory / LOCK)
        self.addCleanup(os.close, held)
        self.assertIn("in use by another process", self.failed("compact", "--state-dir", str(self.directory)))

    def test_nothing(self) -> None:
        """Where no database is, none is made."""
        line = self.failed("compact", "--state-dir", str(self.directory / "results"))
        self.assertIn("there is no database", line)
        self.assertFalse((self.directory / "results" / LOCK).exists())
