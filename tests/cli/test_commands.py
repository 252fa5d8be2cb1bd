"""The verbs, against a node in memory."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

from attrs import evolve
from treq.testing import StubTreq

from tasksubmit.cli import verbs
from tasksubmit.cli.control import AnswerLost, Control, Json, NodeUnreachable
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import TaskKey
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.web import control_site
from tasksubmit.wire.frames import MAX_FRAME
from tasksubmit.wire.messages import TaskResultMessage
from tests.cli.harness import CommandTestCase
from tests.web.harness import OTHER, PEER, STRANGER

DONE_AT = "2026-04-09T12:00:00Z"


class SubmitTests(CommandTestCase):
    """``submit``."""

    def test_not_answered_yet(self) -> None:
        """A receiver that does not answer in ten seconds gets the task later; that is no error."""
        line = self.ok("submit", str(PEER), "Read the book", "--task-id", "t1")
        until = "it is tried until 2026-04-16 12:00:00Z"
        self.assertEqual(line, f"task t1 is recorded, will be sent: {PEER} has not taken it yet; {until}\n")
        self.assertEqual(self.clock.seconds(), 1_775_736_010.25)
        (task,) = self.data("list")
        self.assertEqual((task["task_id"], task["description"]), ("t1", "Read the book"))

    def test_makes_an_id(self) -> None:
        """Without an id, a new one is made each time."""
        first, second = (self.data("submit", str(PEER), "x", "--timeout", "0")["task_id"] for _ in range(2))
        self.assertEqual(len(first), 36)
        self.assertNotEqual(first, second)

    def test_answered(self) -> None:
        """The receiver's answer is waited for."""
        self.clock.callLater(2, lambda: self.tell("t1", "ACCEPTED"))
        line = self.ok("submit", str(PEER), "x", "--task-id", "t1")
        self.assertEqual(line, f"task t1 is submitted to {PEER}, which has it as ACCEPTED\n")

    def test_declined(self) -> None:
        """A task that is declined meanwhile is an error, with the receiver's reason."""
        self.clock.callLater(2, lambda: self.tell("t1", "DECLINED", "no time"))
        line = self.failed("submit", str(PEER), "x", "--task-id", "t1")
        self.assertEqual(line, 'tasksubmit: task t1 is DECLINED: "no time"; see `tasksubmit show t1`\n')

    def test_declined_as_json(self) -> None:
        """With --json an error is an envelope, too."""
        self.clock.callLater(2, lambda: self.tell("t1", "DECLINED", "no time"))
        done = self.run_command("--json", "submit", str(PEER), "x", "--task-id", "t1")
        self.assertEqual((done.exit_code, done.stderr, done.stdout.count("\n")), (1, "", 1))
        expected = {
            "status": "error",
            "code": "declined",
            "message": "task t1 is DECLINED: no time",
            "hint": "see `tasksubmit show t1`",
        }
        self.assertEqual(json.loads(done.stdout), expected)

    def test_wait(self) -> None:
        """With --wait the results are printed, however long they take."""
        message = TaskResultMessage("t1", "text", "forty-two", completed_at=DONE_AT)
        self.clock.callLater(2, lambda: self.tell("t1", "ACCEPTED"))
        self.clock.callLater(1000, lambda: self.deliver(message))
        self.assertEqual(self.ok("submit", str(PEER), "x", "--task-id", "t1", "--wait"), "forty-two\n")

    def test_restart_after_the_wait(self) -> None:
        """A restart between the end of the wait and the results is waited for like one before."""
        answers: list[Exception] = []
        ask = Control.result

        async def result(control: Control, task_id: str, **which: str) -> Json:
            if answers:
                raise answers.pop()
            return await ask(control, task_id, **which)

        message = TaskResultMessage("t1", "text", "forty-two", completed_at=DONE_AT)
        for task_id, error in (("t1", AnswerLost("closed")), ("t2", NodeUnreachable("gone"))):
            self.clock.callLater(2, partial(self.deliver, evolve(message, task_id=task_id)))
            answers.append(error)
            self.patch(Control, "result", result)
            self.assertEqual(self.ok("submit", str(PEER), "x", "--task-id", task_id, "--wait"), "forty-two\n")

    def test_wait_for_too_long(self) -> None:
        """With --wait and --timeout it is an error when the results are not there in time."""
        self.clock.callLater(2, lambda: self.tell("t1", "ACCEPTED"))
        line = self.failed("submit", str(PEER), "x", "--task-id", "t1", "--wait", "--timeout", "5", exit_code=4)
        self.assertIn("task t1 is not finished after 5 s: it is ACCEPTED", line)

    def test_description_from_elsewhere(self) -> None:
        """The description comes from standard input or from a file, as it is."""
        path = Path(self.mktemp())
        path.write_text("from the file\n", "utf-8")
        options = ("submit", str(PEER), "--timeout", "0")
        self.ok(*options, "-", stdin="von der Eingabe: ü\n".encode())
        self.ok(*options, "--file", str(path))
        descriptions = [task["description"] for task in self.data("list")]
        self.assertEqual(descriptions, ["from the file\n", "von der Eingabe: ü\n"])

    def test_usage(self) -> None:
        """No description, two of them, or one that is not text, is wrong usage, and asks nothing of the node."""
        for arguments in ((), ("x", "--file", __file__)):
            done = self.run_command("submit", str(PEER), *arguments)
            self.assertEqual(done.exit_code, 2)
            self.assertIn("give either a DESCRIPTION", done.stderr)
        self.assertEqual(self.run_command("submit", str(PEER), "-", stdin=b"\xff").exit_code, 2)
        self.assertEqual(self.data("list"), [])

    def test_refused_by_the_node(self) -> None:
        """What the node refuses is told with its hint."""
        line = self.failed("submit", str(STRANGER), "x")
        self.assertIn(f"{STRANGER} is not a peer of this node", line)
        self.assertIn("add it with --peer", line)

    def test_times(self) -> None:
        """A deadline is a time stamp or a duration from now; anything else is wrong usage that names the option."""
        self.patch(time, "time", lambda: 1_775_736_000.0)
        for task_id, text, expected in (
            ("a", "2026-04-09T13:00:00Z", "2026-04-09T13:00:00.000Z"),
            ("b", "+1h", "2026-04-09T13:00:00.000Z"),
            ("c", "1h30m", "2026-04-09T13:30:00.000Z"),
        ):
            options = ("--expires-at", text, "--result-due-at", text, "--timeout", "0s")
            task = self.data("submit", str(PEER), "x", "--task-id", task_id, *options)
            self.assertEqual((task["expires_at"], task["result_due_at"]), (expected, expected))
        done = self.run_command("submit", str(PEER), "x", "--expires-at", "soon")
        self.assertEqual((done.exit_code, done.stdout), (2, ""))
        self.assertIn("'--expires-at': 'soon' is not a time like 2026-04-09T12:00:00Z", done.stderr)


class ReceiverTests(CommandTestCase):
    """The verbs of whoever receives."""

    def test_life(self) -> None:
        """A task is accepted, seen in the queue, executed and completed."""
        self.receive("t1")
        self.assertEqual(self.ok("accept", "t1", "--justification", "gladly"), 'task t1 is ACCEPTED: "gladly"\n')
        self.assertIn("t1", self.ok("queue"))
        self.assertIn("EXECUTING", self.ok("execute"))
        self.assertEqual(self.ok("queue"), "the queue is empty\n")
        self.assertIn("task t1 is COMPLETED", self.ok("send-results", "t1", "--text", "42"))

    def test_decline(self) -> None:
        """Declining needs a justification."""
        self.receive("t1")
        self.assertEqual(self.run_command("decline", "t1").exit_code, 2)
        self.assertEqual(self.data("decline", "t1", "--justification", "no time")["status"], "DECLINED")

    def test_from(self) -> None:
        """Tasks with one id are told apart by their submitter."""
        self.receive("t1", "a")
        self.receive("t1", "b", peer=OTHER)
        self.assertIn("--from", self.failed("accept", "t1"))
        self.assertEqual(self.data("accept", "t1", "--from", str(OTHER))["description"], "b")
        self.assertEqual(self.data("execute", "t1", "--from", str(OTHER))["description"], "b")
        self.assertEqual(self.data("show", "t1", "--from", str(PEER))["status"], "NEW")

    def test_results_file(self) -> None:
        """A file is sent under its own name, whatever directory it is in."""
        self.receive("t1")
        self.ok("accept", "t1")
        self.ok("execute", "t1")
        directory = Path(self.mktemp())
        directory.mkdir()
        path = directory / "report.md"
        path.write_bytes(b"\x00\xff")
        task = self.data("send-results", "t1", "--file", str(path))
        self.assertEqual((task["result_type"], task["result_filename"]), ("file", "report.md"))
        self.assertEqual(self.successResultOf(self.node.store.read_result(task["result_file"])), b"\x00\xff")

    def test_results_file_too_large(self) -> None:
        """A file over the size of any frame is not even sent to the node."""
        path = Path(self.mktemp())
        with path.open("wb") as file:
            file.truncate(MAX_FRAME + 1)
        self.assertIn("just under 12 MiB fit", self.failed("send-results", "t1", "--file", str(path)))

    def test_results_usage(self) -> None:
        """Results are a text or a file."""
        self.assertEqual(self.run_command("send-results", "t1").exit_code, 2)
        self.assertEqual(self.run_command("send-results", "t1", "--text", "x", "--file", __file__).exit_code, 2)

    def test_step_too_many(self) -> None:
        """A step that the task's status does not allow is refused."""
        self.receive("t1")
        self.assertIn("the queue is empty", self.failed("execute"))
        self.failed("execute", "t1")


class SubmitterTests(CommandTestCase):
    """The verbs of whoever submitted, after that."""

    def submit(self) -> None:
        """Submit a task."""
        self.ok("submit", str(PEER), "x", "--task-id", "t1", "--timeout", "0")

    def file_result(self, content: bytes = b"\x00\xff") -> None:
        """Get a file as the result of a task."""
        self.submit()
        self.deliver(TaskResultMessage("t1", "file", filename="a.bin", file_data=content, completed_at=DONE_AT))

    def text_result(self, text: str = "forty-two") -> None:
        """Get a text as the result of a task."""
        self.submit()
        self.deliver(TaskResultMessage("t1", "text", text, completed_at=DONE_AT))

    def new_directory(self) -> Path:
        """A directory to save in."""
        directory = Path(self.mktemp())
        directory.mkdir()
        return directory

    def test_cancel(self) -> None:
        """Cancelling ends what was never sent; else it is requested, and said to be so."""
        self.submit()
        line = self.ok("cancel", "t1", "--reason", "not needed", "--to", str(PEER))
        self.assertEqual(line, 'task t1 is CANCELLED: "not needed"\n')

    def test_cancel_what_was_sent(self) -> None:
        """A cancellation of a task that the receiver has is a request."""
        self.submit()
        self.tell("t1", "ACCEPTED")
        line = self.ok("cancel", "t1", "--reason", "not needed", "--to", str(PEER))
        self.assertEqual(line, 'task t1 is ACCEPTED, its cancellation is requested: "not needed"\n')

    def test_result(self) -> None:
        """A text result is printed; before it is here, that is an error."""
        self.submit()
        self.assertIn("are not here yet: it is NEW", self.failed("result", "t1"))
        self.deliver(TaskResultMessage("t1", "text", "forty-two", completed_at=DONE_AT))
        self.assertEqual(self.ok("result", "t1"), "forty-two\n")
        self.assertEqual(self.data("result", "t1")["text"], "forty-two")

    def test_result_on_a_terminal(self) -> None:
        """A terminal gets no control characters of the peer's; a pipe gets the text as it is."""
        self.text_result("a\n\x1b[31mb\u202e")
        self.assertEqual(self.ok("result", "t1", is_terminal=True), "  receiver| a\n  receiver| \\x1b[31mb\\u202e\n")
        self.assertEqual(self.ok("result", "t1"), "a\n\x1b[31mb\u202e\n")

    def test_file_result_on_a_terminal(self) -> None:
        """A file is printed to a terminal if it is text, and else is to be saved."""
        self.file_result(b"tea \x07\n")
        self.assertEqual(self.ok("result", "t1", is_terminal=True), "  receiver| tea \\x07\n")
        self.assertEqual(self.ok("result", "t1"), "tea \x07\n")

    def test_binary_result_on_a_terminal(self) -> None:
        """A file that is not text is not printed to a terminal."""
        self.file_result()
        done = self.run_command("result", "t1", is_terminal=True)
        self.assertEqual((done.exit_code, done.stdout), (1, ""))
        self.assertIn("save it with --output", done.stderr)

    def test_result_saved_as(self) -> None:
        """A result is saved under the name that the user chose."""
        self.file_result()
        path = self.new_directory() / "mine"
        self.assertEqual(self.ok("result", "t1", "--output", str(path)), f"saved 2 bytes as {path}\n")
        self.assertEqual(path.read_bytes(), b"\x00\xff")

    def test_result_saved_in(self) -> None:
        """In a directory a file has the peer's name for it, a text one of its own, and nothing is overwritten."""
        self.file_result()
        directory = self.new_directory()
        answer = self.data("result", "t1", "--output", str(directory))
        self.assertEqual((answer["path"], answer["size_bytes"]), (str(directory / "a.bin"), 2))
        self.assertIn("exists already", self.failed("result", "t1", "--output", str(directory)))
        self.assertEqual((directory / "a.bin").read_bytes(), b"\x00\xff")

    def test_text_result_saved_in(self) -> None:
        """A text result is saved under its task's id."""
        self.text_result()
        directory = self.new_directory()
        self.ok("result", "t1", "--output", str(directory))
        self.assertEqual((directory / "t1_result.txt").read_text("utf-8"), "forty-two")

    def test_result_is_no_option(self) -> None:
        """No name of a saved file looks like an option, whatever the peer chose as file name or as id."""
        directory = self.new_directory()
        name = "--checkpoint-action=exec=sh x.txt"
        for message in (
            TaskResultMessage("-rf", "file", filename=name, file_data=b"x", completed_at=DONE_AT),
            TaskResultMessage("--help", "text", "x", completed_at=DONE_AT),
        ):
            self.ok("submit", str(PEER), "x", "--task-id", message.task_id, "--timeout", "0")
            self.deliver(message)
            self.ok("result", "--output", str(directory), "--", message.task_id)
            kept = json.loads(self.ok("--json", "show", "--", message.task_id))["data"]["result_file"]
            self.assertTrue(kept.startswith(f"_{message.task_id}_"), kept)
        self.assertEqual(sorted(os.listdir(directory)), [f"_{name}", "_--help_result.txt"])

    def test_result_cannot_be_saved(self) -> None:
        """A place that cannot be written to is an error in one line."""
        self.text_result()
        self.assertIn("cannot be written", self.failed("result", "t1", "--output", "/nowhere/at/all"))


class EitherSideTests(CommandTestCase):
    """The verbs for either side, and those about the node."""

    def test_list(self) -> None:
        """Tasks are listed, newest first, and filtered."""
        self.assertEqual(self.ok("list"), "there are no such tasks\n")
        self.receive("t1", "first\nline")
        self.ok("submit", str(OTHER), "x", "--task-id", "t2", "--timeout", "0")
        heading, second, its_text, first, text = self.ok("list").splitlines()
        self.assertEqual(heading.split(), ["TASK", "PEER", "STATUS", "OUTCOME", "CREATED"])
        self.assertEqual(second.split(), ["t2", "to", str(OTHER), "NEW", "2026-04-09T12:00:00.250Z"])
        self.assertTrue(first.startswith("t1 "))
        self.assertEqual((its_text, text), ("  submitter| x", "  submitter| first line"))
        self.assertEqual([task["task_id"] for task in self.data("list", "--side", "receiver")], ["t1"])
        self.assertEqual([task["task_id"] for task in self.data("list", "--limit", "1")], ["t2"])
        self.assertEqual(self.data("list", "--status", "new", "--peer", str(STRANGER)), [])

    def test_pages(self) -> None:
        """A list that is cut says so, with the total and how it goes on; --all has every task."""
        for number in range(5):
            self.receive(f"t{number}")
        first = self.envelope("list", "--limit", "2")
        self.assertEqual(
            ([task["task_id"] for task in first["data"]], first["total"], first["more"]), (["t4", "t3"], 5, True)
        )
        cursor = f"--before {first['data'][-1]['number']}"
        self.assertEqual(
            self.ok("list", "--limit", "2").splitlines()[-1], f"2 of 5; the next with {cursor}, all with --all"
        )
        second = self.envelope("list", "--limit", "3", *cursor.split())
        found = [task["task_id"] for task in second["data"]], second["total"], second["more"]
        self.assertEqual(found, (["t2", "t1", "t0"], 5, False))
        self.assertEqual(len(self.ok("list").splitlines()), 11)
        self.patch(verbs, "LONGEST_PAGE", 2)
        whole = self.envelope("list", "--all")
        self.assertEqual((len(whole["data"]), whole["total"], whole["more"]), (5, 5, False))

    def test_oldest_first(self) -> None:
        """The other order pages with the other cursor."""
        for number in range(5):
            self.receive(f"t{number}")
        *_, more = self.ok("list", "--oldest-first", "--limit", "2").splitlines()
        cursor = more.split("with ")[1].split(",")[0]
        self.assertTrue(cursor.startswith("--after "), cursor)
        tasks = self.data("list", "--oldest-first", *cursor.split())
        self.assertEqual([task["task_id"] for task in tasks], ["t2", "t3", "t4"])
        self.patch(verbs, "LONGEST_PAGE", 2)
        self.assertEqual([task["task_id"] for task in self.data("list", "--oldest-first", "--all")][::4], ["t0", "t4"])

    def test_outcomes(self) -> None:
        """A list shows how tasks ended, and is filtered by that and by their age."""
        self.receive("t1")
        self.receive("t2")
        self.ok("accept", "t1")
        self.ok("execute", "t1")
        self.ok("fail", "t1", "--error", "boom")
        self.clock.advance(7200)
        self.receive("t3")
        ended = {line.split()[0]: line.split()[3:5] for line in self.ok("list").splitlines()[1:]}
        self.assertEqual((ended["t1"], ended["t2"]), (["CANCELLED", "failed"], ["CANCELLED", "accept_timeout"]))
        self.assertEqual([task["task_id"] for task in self.data("list", "--outcome", "failed")], ["t1"])
        self.patch(time, "time", self.clock.seconds)
        self.assertEqual([task["task_id"] for task in self.data("list", "--since", "1h")], ["t3"])
        self.assertEqual(len(self.data("list", "--since", "2026-04-09T00:00:00Z")), 3)

    def test_stuck(self) -> None:
        """Stuck tasks are those with a delivery that fails or was abandoned, and those that are open for too long."""
        self.receive("t1")
        self.assertEqual(self.data("list", "--stuck"), [])
        self.ok("decline", "t1", "--justification", "no time")
        self.clock.advance(1)
        self.assertEqual([task["task_id"] for task in self.data("list", "--stuck")], ["t1"])

    def test_queue_pages(self) -> None:
        """The queue is cut, counted and continued like a list."""
        for number in range(5):
            self.receive(f"t{number}")
            self.ok("accept", f"t{number}")
        page = self.envelope("queue", "--limit", "2")
        self.assertEqual(
            ([task["task_id"] for task in page["data"]], page["total"], page["more"]), (["t0", "t1"], 5, True)
        )
        position = page["data"][-1]["queue_position"]
        more = self.ok("queue", "--limit", "2").splitlines()[-1]
        self.assertEqual(more, f"2 of 5; the next with --after {position}, all with --all")
        rest = self.envelope("queue", "--after", str(position))
        self.assertEqual(([task["task_id"] for task in rest["data"]], rest["more"]), (["t2", "t3", "t4"], False))
        ahead = self.data("queue", "--before", str(position))
        self.assertEqual([task["task_id"] for task in ahead], ["t0"])
        self.ok("execute", "t0")
        self.ok("put-back", "t0")
        self.patch(verbs, "LONGEST_PAGE", 2)
        whole = self.envelope("queue", "--all")
        self.assertEqual(
            ([task["task_id"] for task in whole["data"]], whole["total"]), (["t0", "t1", "t2", "t3", "t4"], 5)
        )

    def test_long_description(self) -> None:
        """A long description takes one line of its own, which no terminal wraps, and does not hide the id."""
        self.receive("t1" * 30, "words " * 1000)
        _, line, text = self.ok("list").splitlines()
        self.assertTrue(line.startswith("t1" * 30))
        self.assertTrue(text.endswith("…"), text)
        self.assertLess(len(text), 80)

    def test_hostile_description(self) -> None:
        """What a peer wrote is shown as text: no markup, no control characters, no marks that turn it around."""
        self.receive("t1", "[red]x[/red] \x1b[2J\u202egnirts\x9b \x00 :smile:")
        shown = self.ok("show", "t1", is_terminal=True)
        self.assertIn("submitter| [red]x[/red] \\x1b[2J\\u202egnirts\\x9b \\x00 :smile:\n", shown)
        self.assertIn("submitter| [red]x[/red] \\x1b[2J\\u202e", self.ok("list", is_terminal=True))
        self.ok("list", "--json").encode("ascii")

    def test_show(self) -> None:
        """A task is shown with all that it has to say, and with what is still owed for it."""
        self.ok("submit", str(PEER), "two\nlines", "--task-id", "t1", "--timeout", "0")
        shown = self.ok("show", "t1", "--to", str(PEER))
        self.assertIn("status         NEW\n", shown)
        self.assertIn("description    submitter| two\n               submitter| lines\n", shown)
        self.assertRegex(
            shown,
            r"still to be sent: submission \(attempts: \d, next at 2026.*, the last one failed\n  quoted\| .* refused",
        )
        self.assertNotIn("reward", shown)

    def test_which(self) -> None:
        """A task cannot be from someone and to someone."""
        self.assertEqual(self.run_command("show", "t1", "--from", str(PEER), "--to", str(PEER)).exit_code, 2)

    def test_unknown(self) -> None:
        """A task that is not there is told in one line with a hint, whatever its id."""
        expected = "tasksubmit: there is no task a/b?c here; `tasksubmit list` shows the tasks that there are\n"
        self.assertEqual(self.failed("show", "t1"), expected.replace("a/b?c", "t1"))
        self.failed("show", "a/b?c")

    def test_wait(self) -> None:
        """Waiting ends well when the task is as asked, and badly when it ended otherwise."""
        self.receive("t1")
        self.clock.callLater(2, lambda: self.node.accept(self.key("t1")))
        self.assertIn("ACCEPTED", self.ok("wait", "t1", "--for", "accepted"))
        self.clock.callLater(3700, lambda: None)
        self.assertIn("it is ACCEPTED", self.failed("wait", "t1", "--timeout", "400", exit_code=4))
        self.receive("t2")
        self.clock.callLater(2, lambda: self.node.decline(self.key("t2"), "no time"))
        self.assertIn('task t2 is DECLINED: "no time"', self.failed("wait", "t2"))

    def key(self, task_id: str) -> TaskKey:
        """The key of a received task."""
        return TaskKey(Side.RECEIVER, PEER, task_id)

    def test_peers(self) -> None:
        """Peers are listed with what is owed to them, and what proves that somebody is one of them."""
        lines = self.ok("peers").splitlines()
        expected = [[str(PEER), "no", "nothing"], [str(OTHER), "no", "nothing"]]
        self.assertEqual([line.split() for line in lines[1:]], expected)

    def test_status(self) -> None:
        """The status is for people as for programs; a reload answers with it."""
        for command in ("status", "reload"):
            text = self.ok(command)
            self.assertIn("certificate  none: peers are not authenticated, unless by mtls: listeners", text)
            self.assertIn(f"{OTHER}  no    nothing", text)
            self.assertIsNone(self.data(command)["certificate"])
            self.assertNotIn("new tasks are refused", text)

    def test_disk_is_low(self) -> None:
        """The status says that new tasks are refused for want of disk space."""
        self.node._disk.problem = "the disk has 9 bytes left, and 10 are kept free"
        self.assertRegex(self.ok("status"), "disk +new tasks are refused: the disk has 9 bytes left")

    def test_reload(self) -> None:
        """A reload says what was applied, what is as before, and what needs a restart."""
        report = Reloaded(applied=("peers were added: x",), unchanged=("keys: no changes",), needs_restart=("--tick",))
        site = control_site(self.node, "9.9", clock=self.clock, reload=lambda: report)
        self.treq = StubTreq(site.resource)
        lines = self.ok("reload").splitlines()
        expected = ["applied: peers were added: x", "applied: pending deliveries are retried now"]
        self.assertEqual(lines[:4], [*expected, "unchanged: keys: no changes", "needs a restart: --tick"])
        self.assertEqual(self.data("reload")["needs_restart"], ["--tick"])

    def test_score(self) -> None:
        """The ledger is shown."""
        self.assertEqual(self.ok("score"), "nobody has a score yet\n")
        self.ok("submit", str(PEER), "x", "--task-id", "t1", "--timeout", "0")
        self.deliver(TaskResultMessage("t1", "text", "42", completed_at=DONE_AT))
        lines = self.ok("score").splitlines()
        self.assertEqual([line.split()[1] for line in lines], ["SCORE", "-1", "1"])
