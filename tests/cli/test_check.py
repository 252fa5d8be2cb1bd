"""``tasksubmit check``: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tasksubmit.stores.disk import lock
from tasksubmit.stores.sqlite import DATABASE, LOCK, RESULTS
from tests.cli.harness import CommandTestCase
from tests.stores.test_check import CONTENT, make_state, opened


class CheckTests(CommandTestCase):
    """The verb, on the state directory of a node that was stopped."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        make_state(self.directory)
        self.result = self.directory / RESULTS / "done_result.txt"

    def test_whole(self) -> None:
        """When all is whole, one line says what was looked at."""
        line = f"checked 4 tasks, 2 results with {len(CONTENT) + 4} bytes: all is whole\n"
        self.assertEqual(self.ok("check", "--state-dir", str(self.directory)), line)

    def test_where(self) -> None:
        """The state directory is found as every verb finds it."""
        self.assertIn("all is whole", self.ok("--state-dir", str(self.directory), "check"))
        self.patch(os, "environ", {**os.environ, "TASKSUBMIT_STATE_DIR": str(self.directory)})
        self.assertIn("all is whole", self.ok("check"))

    def test_problems(self) -> None:
        """Each problem is a line that names the file or the task and the way out; then the exit code is 1."""
        self.result.unlink()
        with opened(self.directory) as connection:
            connection.execute("UPDATE tasks SET status = '\x1b[2J' WHERE number = 1")
            connection.execute("UPDATE tasks SET staged_at = 1 WHERE number = 2")
        done = self.run_command("--state-dir", str(self.directory), "check")
        self.assertEqual((done.exit_code, done.stderr), (1, ""))
        record, result, summary = done.stdout.splitlines()
        self.assertTrue(record.startswith("problem: record 1 (task queued-1) cannot be read"), record)
        self.assertNotIn("\x1b", record)
        self.assertTrue(record.endswith(f"; restore {self.directory / DATABASE} from a backup"), record)
        self.assertTrue(result.startswith(f"problem: {self.result} of task done from"), result)
        self.assertEqual(summary, "checked 4 tasks, 1 results with 4 bytes: 2 problems")

    def test_notices(self) -> None:
        """A leftover is told, and is no reason to fail."""
        (self.directory / RESULTS / "stray.txt").touch()
        notice, summary = self.ok("--state-dir", str(self.directory), "check").splitlines()
        self.assertTrue(notice.startswith(f"notice: {self.directory / RESULTS / 'stray.txt'} is named by no"), notice)
        self.assertIn("all is whole", summary)

    def test_padded_name(self) -> None:
        """On a terminal, a file name that is as long as a row begins none of its own."""
        name = "t1_a" + " " * 100 + "$ tasksubmit trust add.txt"
        (self.directory / RESULTS / name).touch()
        shown = self.run_command("--state-dir", str(self.directory), "check", is_terminal=True).stdout
        kind, *rows, _ = shown.splitlines()
        self.assertEqual(kind, "notice:")
        self.assertEqual({row[:10] for row in rows}, {"  notice| "})
        self.assertLess(max(map(len, rows)), 80)

    def test_json(self) -> None:
        """A program gets the same in the envelope; problems show in the exit code as well."""
        whole = self.data("--state-dir", str(self.directory), "check")
        self.assertEqual(
            whole, {"problems": [], "notices": [], "tasks": 4, "results": 2, "result_bytes": len(CONTENT) + 4}
        )
        self.result.write_bytes(b"")
        (self.directory / RESULTS / "stray.txt").touch()
        done = self.run_command("--state-dir", str(self.directory), "--json", "check")
        self.assertEqual((done.exit_code, done.stderr), (1, ""))
        envelope = json.loads(done.stdout)
        self.assertEqual(envelope["status"], "ok")
        [problem], [notice] = envelope["data"]["problems"], envelope["data"]["notices"]
        self.assertEqual(problem["what"], f"has 0 bytes instead of {len(CONTENT)}")
        self.assertEqual((set(problem), set(notice)), ({"where", "what", "hint"}, {"where", "what", "hint"}))

    def test_nothing_to_check(self) -> None:
        """Where no node kept anything, and while one runs, one line says so."""
        self.assertIn("there is no state directory", self.failed("--state-dir", f"{self.directory}x", "check"))
        held = lock(self.directory / LOCK)
        self.addCleanup(os.close, held)
        self.assertIn("stop the node first", self.failed("--state-dir", str(self.directory), "check"))
        done = self.run_command("--state-dir", str(self.directory), "check", "--json")
        self.assertEqual((done.exit_code, json.loads(done.stdout)["code"]), (1, "storage"))
