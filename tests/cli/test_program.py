"""The program around the verbs: global options, arguments and output of any encoding, streams that fail."""

from __future__ import annotations

import errno
import json
import os
import shlex
from pathlib import Path
from typing import Any

from tasksubmit.cli.session import Session
from tests.cli import harness
from tests.cli.harness import BrokenStream, CommandTestCase, Done, MemorySession, Stream
from tests.web.harness import OTHER, PEER


def undecodable(text: bytes) -> str:
    """An argument of these bytes, as Python reads it in a UTF-8 locale."""
    return text.decode("utf-8", "surrogateescape")


class GlobalOptionTests(CommandTestCase):
    """Options of the whole program."""

    def session(self, *arguments: str) -> Session:
        """The session of a command with these arguments."""
        sessions: list[MemorySession] = []

        def kept(**options: Any) -> MemorySession:
            sessions.append(MemorySession(**options))
            return sessions[0]

        self.patch(harness, "MemorySession", kept)
        self.assertEqual(self.run_command(*arguments).exit_code, 0)
        return sessions[0]

    def test_either_side_of_the_verb(self) -> None:
        """Each global option is taken before the verb and behind it."""
        options = ("--state-dir", "/a", "--control", "/b", "--token-file", "/c", "--json")
        for arguments in ((*options, "list"), ("list", *options), (*options[:2], "list", *options[2:])):
            session = self.session(*arguments)
            found = session.state_dir, session.control, session.token_file, session.is_json
            self.assertEqual(found, (Path("/a"), "/b", Path("/c"), True))

    def test_inner_verbs(self) -> None:
        """A verb of a verb takes them on every side, too."""
        directory = self.mktemp()
        options = ("--state-dir", directory)
        for arguments in ((*options, "trust", "list"), ("trust", *options, "list"), ("trust", "list", *options)):
            self.assertEqual(self.session(*arguments).state_dir, Path(directory))

    def test_behind_the_verb_wins(self) -> None:
        """The option behind the verb wins over the one before, and both over the environment."""
        self.patch(os, "environ", {**os.environ, "TASKSUBMIT_CONTROL": "/environment"})
        self.assertEqual(self.session("list").control, "/environment")
        self.assertEqual(self.session("--control", "/a", "list").control, "/a")
        self.assertEqual(self.session("--control", "/a", "list", "--control", "/b").control, "/b")
        self.assertEqual(self.session("list", "--control", "/b").control, "/b")

    def test_run(self) -> None:
        """``run`` has options of its own: those of a client of the node are refused, in place of being ignored."""
        for options in (("--control", "/a"), ("--json",), ("--token-file", "/a")):
            done = self.run_command(*options, "run", "--check")
            self.assertEqual(done.exit_code, 2, done)
            self.assertIn(
                f"{options[0]} before the verb is for verbs that ask a running node", done.stderr + done.stdout
            )

    def test_version(self) -> None:
        """``--version`` is answered on either side."""
        self.assertEqual(self.ok("--version"), self.ok("list", "--version"))

    def test_printed_commands_lead_to_the_same_node(self) -> None:
        """A command that is printed has the global options of the one that printed it."""
        self.receive("t1")
        text = self.ok("why", "t1", "--state-dir", "/srv/node a")
        self.assertIn("  $ tasksubmit --state-dir '/srv/node a' accept t1\n", text)
        line = self.failed("--control", "/run/x", "show", "t2")
        self.assertIn("`tasksubmit --control /run/x list`", line)


class UsageTests(CommandTestCase):
    """Wrong usage."""

    def test_json(self) -> None:
        """With --json, wrong usage is an envelope on standard output, too."""
        done = self.run_command("accept", "--json")
        self.assertEqual((done.exit_code, done.stderr), (2, ""))
        envelope = json.loads(done.stdout)
        self.assertEqual((envelope["code"], envelope["message"]), ("usage", "Missing argument 'TASK'."))
        self.assertIn("tasksubmit accept --help", envelope["hint"])

    def test_empty_paths(self) -> None:
        """An empty path, as of a variable that is not set, is refused by the name of its option."""
        for option in ("--state-dir", "--token-file"):
            done = self.run_command("list", option, "")
            self.assertEqual(done.exit_code, 2)
            self.assertIn(f"'{option}': it is empty", done.stderr)


class EncodingTests(CommandTestCase):
    """Arguments and output that are not in the encoding of the locale."""

    def refused(self, *arguments: str) -> str:
        """What is said of wrong usage."""
        done = self.run_command(*arguments)
        self.assertEqual((done.exit_code, done.stdout), (2, ""), done)
        return done.stderr

    def test_undecodable_arguments(self) -> None:
        """An argument that is not text in UTF-8 is wrong usage that names the argument and shows its bytes."""
        wrong = undecodable(b"caf\xe9")
        for arguments, name in (
            (("submit", str(PEER), wrong), "[DESCRIPTION]"),
            (("submit", wrong, "x"), "TO"),
            (("submit", str(PEER), "x", "--task-id", wrong), "--task-id"),
            (("show", wrong), "TASK"),
            (("accept", "t1", "--from", wrong), "--from"),
            (("decline", "t1", "--justification", wrong), "--justification"),
            (("list", "--peer", wrong), "--peer"),
            (("list", "--control", wrong), "--control"),
            (("trust", "add", str(PEER), wrong), "PROOF"),
        ):
            self.assertIn(f"Invalid value for '{name}': 'caf\\xe9' is not text in UTF-8", self.refused(*arguments))

    def test_undecodable_file_names(self) -> None:
        """The name of a file may be any bytes."""
        directory = Path(self.mktemp())
        directory.mkdir()
        path = directory / undecodable(b"caf\xe9.txt")
        path.write_text("from the file", "utf-8")
        self.ok("submit", str(PEER), "--file", str(path), "--task-id", "t1", "--timeout", "0")
        self.assertEqual(self.data("show", "t1")["description"], "from the file")
        line = self.run_command("list", "--token-file", str(path)).stderr
        self.assertNotIn("Traceback", line)

    def test_undecodable_names_in_json(self) -> None:
        """JSON has no half surrogate pairs: what cannot be written is a question mark."""
        directory = Path(self.mktemp())
        directory.mkdir()
        path = directory / undecodable(b"caf\xe9")
        done = self.run_command("check", "--state-dir", str(path), "--json")
        self.assertEqual(done.exit_code, 1)
        self.assertNotIn("\\ud", done.stdout)
        self.assertIn("caf?", json.loads(done.stdout)["message"])

    def test_output_that_the_locale_lacks(self) -> None:
        """A character that the encoding of the output does not have is written as an escape."""
        self.receive("t1", "caf\xe9 \U0001f600")
        for encoding, expected in (("latin-1", "caf\xe9 \\U0001f600"), ("cp1251", "caf\\xe9 \\U0001f600")):
            for arguments in (("list",), ("show", "t1")):
                done = self.run_command(*arguments, stdout=Stream(encoding=encoding))
                self.assertEqual((done.exit_code, done.stderr), (0, ""))
                self.assertIn(expected, done.stdout)

    def test_description_that_is_not_text(self) -> None:
        """A description that is not UTF-8 is refused by where it was read from."""
        done = self.run_command("submit", str(PEER), "-", stdin=b"\xff")
        self.assertIn("the description in standard input is not text in UTF-8", done.stderr)
        path = Path(self.mktemp())
        path.write_bytes(b"\xff")
        self.assertIn(f"--file {path} is not text in UTF-8", self.refused("submit", str(PEER), "--file", str(path)))


class StreamTests(CommandTestCase):
    """Standard streams that fail."""

    def run_broken(self, number: int, *arguments: str) -> Done:
        """Run a command whose output is not taken."""
        return self.run_command(*arguments, stdout=BrokenStream(number))

    def test_full_device(self) -> None:
        """Output that cannot be written is an error that says so, whatever prints it."""
        self.receive("t1")
        for arguments in (
            ("list",),
            ("show", "t1"),
            ("list", "--json"),
            ("--help",),
            ("list", "--help"),
            ("--version",),
        ):
            done = self.run_broken(errno.ENOSPC, *arguments)
            self.assertEqual(done.exit_code, 1, done)
            if "--json" not in arguments:
                expected = "tasksubmit: cannot write to standard output: No space left on device\n"
                self.assertEqual(done.stderr, expected)

    def test_closed_pipe(self) -> None:
        """When the reader of the output is gone, the command ends without a word, as by SIGPIPE."""
        self.receive("t1")
        for arguments in (("list",), ("show", "t1"), ("list", "--json"), ("--help",)):
            done = self.run_broken(errno.EPIPE, *arguments)
            self.assertEqual((done.exit_code, done.stderr), (141, ""), arguments)


class PastedCommandTests(CommandTestCase):
    """Commands that are printed, and run as they are."""

    def pasted(self, task_id: str, *which: str) -> list[str]:
        """The commands of ``why``."""
        text = self.ok("why", *which, "--", task_id)
        return [line.removeprefix("  $ tasksubmit ") for line in text.splitlines() if line.startswith("  $ ")]

    def run_pasted(self, command: str) -> str:
        """Run a printed command, with its words in capitals filled in."""
        return self.ok(*shlex.split(command))

    def test_dashes(self) -> None:
        """The commands for a task whose id begins with a dash work."""
        self.receive("-x")
        self.receive("--help")
        accept, decline = self.pasted("-x")
        self.assertEqual((accept, decline), ("accept -- -x", "decline --justification WHY -- -x"))
        self.assertEqual(self.run_pasted(accept), 'task -x is ACCEPTED: "Task accepted"\n')
        self.assertEqual(self.run_pasted(self.pasted("--help")[1]), 'task --help is DECLINED: "WHY"\n')
        (execute,) = self.pasted("-x")
        self.run_pasted(execute)
        results, progress, fail, back = self.pasted("-x")
        self.assertEqual(progress, "progress -- -x TEXT")
        self.run_pasted(progress)
        self.run_pasted(back)
        self.run_pasted(self.pasted("-x")[0])
        self.assertIn("fail --error TEXT -- -x", fail)
        self.assertNotIn("--attempt", results)
        again = self.pasted("-x")[0]
        self.assertIn("--attempt 2", again)
        self.run_pasted(again)

    def test_hints(self) -> None:
        """The hint of an error about such a task works, too."""
        self.ok("submit", str(PEER), "x", "--task-id", "-x", "--timeout", "0")
        self.tell("-x", "DECLINED", "no time")
        line = self.failed("wait", "--", "-x")
        self.assertIn("see `tasksubmit show -- -x`", line)

    def test_same_id(self) -> None:
        """The commands for one of several tasks with an id say which."""
        self.receive("t1")
        self.receive("t1", peer=OTHER)
        accept, _ = self.pasted("t1", "--from", str(OTHER))
        self.assertEqual(accept, f"accept --from {OTHER} t1")
        self.run_pasted(accept)
        self.assertEqual(self.data("show", "t1", "--from", str(OTHER))["status"], "ACCEPTED")


class HomeTests(CommandTestCase):
    """The default state directory."""

    def test_no_home(self) -> None:
        """Without HOME and without a passwd entry, the error asks for --state-dir."""

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        self.patch(os, "environ", {"PATH": os.environ["PATH"]})
        self.patch(Path, "home", no_home)
        for arguments in (("check",), ("trust",), ("init", "--address", str(PEER))):
            self.assertIn("give --state-dir", self.failed(*arguments))

    def test_no_such_user(self) -> None:
        """A home directory of a user that does not exist is refused by the option."""
        line = self.failed("check", "--state-dir", "~nobody-of-that-name/x")
        self.assertIn("--state-dir ~nobody-of-that-name/x: ", line)

    def test_no_working_directory(self) -> None:
        """A relative state directory is refused once the working directory was removed."""
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        directory = Path(self.mktemp())
        directory.mkdir()
        os.chdir(directory)
        (Path(here) / directory).rmdir()
        line = self.failed("check", "--state-dir", "x")
        self.assertIn("the working directory cannot be used: No such file or directory; give an absolute path", line)
