"""Commands as text, to be pasted into a shell."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.commandline import command_line


class CommandLineTests(SynchronousTestCase):
    """`command_line`."""

    def test_dashes(self) -> None:
        """An id that begins with a dash comes behind ``--``, and every option before that."""
        for words, plain, dashed in (
            ("accept ID", "accept t1", "accept -- -x"),
            ("fail ID --error TEXT", "fail t1 --error TEXT", "fail --error TEXT -- -x"),
            ("progress ID TEXT --attempt 2", "progress t1 TEXT --attempt 2", "progress --attempt 2 -- -x TEXT"),
            ("queue", "queue", "queue"),
        ):
            self.assertEqual(command_line(words, "t1"), f"tasksubmit {plain}")
            self.assertEqual(command_line(words, "-x"), f"tasksubmit {dashed}")
        self.assertEqual(command_line("show ID", "-x", "--to 0:1"), "tasksubmit show --to 0:1 -- -x")
        self.assertEqual(command_line("show ID", "t1", "--to 0:1"), "tasksubmit show --to 0:1 t1")
