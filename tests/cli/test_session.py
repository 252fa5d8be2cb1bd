"""What holds for every verb: how errors end, and how the node is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionRefusedError
from twisted.internet.error import TimeoutError as ConnectTimedOut
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import RequestTransmissionFailed, ResponseFailed

from tasksubmit.cli.commands import tasksubmit
from tasksubmit.cli.control import AnswerLost, CommandFailed, Control, NodeUnreachable, connect_control
from tasksubmit.cli.quoting import clean
from tasksubmit.cli.session import Session
from tests.cli.harness import CommandTestCase, MemorySession

CHECKOUT = Path(__file__).resolve().parents[2]


class CleanTests(SynchronousTestCase):
    """Text from elsewhere, made safe."""

    def test_harmless(self) -> None:
        """Letters of any script and emoji stay."""
        for text in ("plain [bold] text", "ünïcödé", "שלום", "👩👩👧", "क्ष"):
            self.assertEqual(clean(text), text)

    def test_unsafe(self) -> None:
        """Control characters, direction marks, line separators and half pairs are shown as escapes."""
        for character in "\x00\x07\x1b\x7f\x85\x9b\r\u061c\u200e\u202a\u202e\u2066\u2069\u2028\u2029\ud800":
            shown = clean(f"a{character}b")
            self.assertRegex(shown, r"^a\\([rx]|u)[0-9a-f]*b$")
            self.assertEqual(shown.encode("ascii").decode("unicode_escape"), f"a{character}b")

    def test_lines(self) -> None:
        """It is one line: line feeds, tabs and the blanks of other alphabets become spaces."""
        self.assertEqual(clean("a\n\tb\xa0c\u3000d"), "a  b c d")


class BrokenTreq:
    """Stands for treq; no request gets an answer but this."""

    def __init__(self, answer: Deferred[Any]) -> None:
        self.answer = answer

    def request(self, *arguments: object, **options: object) -> Deferred[Any]:
        """See `treq.request`."""
        return self.answer


class Response:
    """A response with some content."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def content(self) -> bytes:
        """See treq's responses."""
        return self._content


def _fail(error: Exception, answer: Deferred[Any]) -> None:
    """Fail an answer that was cancelled with an error other than that."""
    answer.errback(error)


class ControlTests(SynchronousTestCase):
    """A node that cannot be asked."""

    def ask(self, answer: Deferred[Any], work: Callable[[Control], Awaitable[Any]]) -> Deferred[Any]:
        """Ask, and get the answer."""
        self.clock = Clock()

        async def asked() -> Any:
            return await work(Control(BrokenTreq(answer), "/run/control.sock", self.clock))

        return Deferred.fromCoroutine(asked())

    def test_unreachable(self) -> None:
        """Where nothing listens, the error names the socket and says how to start a node."""
        for error in (ConnectionRefusedError(osError=111), ConnectError(osError=2)):
            failure = self.failureResultOf(self.ask(fail(error), Control.node), NodeUnreachable)
            self.assertIn("/run/control.sock", str(failure.value))
            self.assertIn("twistd tasksubmit", failure.value.hint)
            self.assertEqual(failure.value.exit_code, 3)

    def test_no_answer(self) -> None:
        """A node that does not answer is not waited for for ever."""
        asked = self.ask(Deferred(), Control.node)
        self.clock.advance(30)
        failure = self.failureResultOf(asked, AnswerLost)
        self.assertIn("timed out: the node at /run/control.sock did not answer within 30 s", str(failure.value))

    def test_stopped_node(self) -> None:
        """A stopped node timed out, whatever the HTTP client makes of the end of its request."""
        for error in (ResponseFailed([]), RequestTransmissionFailed([]), ConnectionAborted()):
            asked = self.ask(Deferred(partial(_fail, error)), Control.node)
            self.clock.advance(30)
            failure = self.failureResultOf(asked, AnswerLost)
            self.assertIn("timed out: the node at /run/control.sock did not answer within 30 s", str(failure.value))

    def test_connecting_times_out(self) -> None:
        """A node that takes no connection timed out, too."""
        failure = self.failureResultOf(self.ask(fail(ConnectTimedOut()), Control.node), NodeUnreachable)
        self.assertIn("timed out: no connection to the node at /run/control.sock", str(failure.value))

    def test_answer_lost(self) -> None:
        """When the answer to a submission is lost, the hint says how to repeat it safely."""
        asked = self.ask(fail(ResponseFailed([])), lambda control: control.submit("0:0000.0000.0002", "x", "t1"))
        self.assertIn("--task-id t1", self.failureResultOf(asked, AnswerLost).value.hint)

    def test_drain(self) -> None:
        """A drain is waited for as long as it may take; when its answer is lost, the node may have stopped."""
        asked = self.ask(Deferred(), lambda control: control.drain(300))
        self.clock.advance(329)
        self.assertNoResult(asked)
        self.clock.advance(1)
        hint = self.failureResultOf(asked, AnswerLost).value.hint
        self.assertEqual(hint, "repeat the command; a node that cannot be reached has stopped")

    def test_nonsense(self) -> None:
        """An answer that is no node's is an error."""
        for content in (b"<html>", b"[]", b"{}", b'{"status":"ok","data":5}', b'{"status":"error"}'):
            answer: Deferred[Any] = Deferred()
            answer.callback(Response(content))
            failure = self.failureResultOf(self.ask(answer, Control.node), CommandFailed)
            self.assertIn("is not a tasksubmit node", str(failure.value))

    def test_path_too_long(self) -> None:
        """A path that is too long for a Unix socket is refused in so many words."""
        for prefix in ("", "unix:"):
            error = self.assertRaises(NodeUnreachable, connect_control, Clock(), f"{prefix}/{'x' * 107}")
            self.assertIn("is over 107 bytes long", str(error))
            connect_control(Clock(), f"{prefix}/{'x' * 106}")

    def test_not_an_endpoint(self) -> None:
        """An endpoint string that Twisted does not understand is refused."""
        error = self.assertRaises(NodeUnreachable, connect_control, Clock(), "carrier-pigeon:x".replace("-", ""))
        self.assertIn("not an endpoint", str(error))


class ScriptedTreq:
    """Stands for treq; each request gets the next answer: an exception, or an envelope."""

    def __init__(self, *answers: Exception | Mapping[str, Any]) -> None:
        self._answers = list(answers)

    def request(self, *arguments: object, **options: object) -> Deferred[Any]:
        """See `treq.request`."""
        answer = self._answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(Response(json.dumps(dict(answer)).encode()))


class WaitTests(SynchronousTestCase):
    """`Control.wait` while the node is restarted."""

    DONE = MappingProxyType({"status": "ok", "data": {"task_id": "t1"}})
    STOPPING = MappingProxyType({"status": "error", "code": "storage", "message": "stopped", "hint": ""})
    REFUSED = ConnectionRefusedError(osError=111)

    def wait(self, *answers: Exception | Mapping[str, Any], **options: Any) -> Deferred[Any]:
        """Begin to wait."""
        self.clock = Clock()
        control = Control(ScriptedTreq(*answers), "/run/control.sock", self.clock)
        return Deferred.fromCoroutine(control.wait("t1", "finished", **options))

    def test_reconnects(self) -> None:
        """A node that is stopped, cannot be reached for a while, and is started again, is asked again."""
        for end in (ResponseFailed([]), self.STOPPING):
            waiting = self.wait(end, self.REFUSED, self.REFUSED, self.DONE, timeout=60)
            for _ in range(2):
                self.clock.advance(1)
                self.assertNoResult(waiting)
            self.clock.advance(1)
            self.assertEqual(self.successResultOf(waiting), {"task_id": "t1"})

    def test_time_out(self) -> None:
        """The time-out counts through the restart; its error has the exit code of one, and says what is in the way."""
        waiting = self.wait(ResponseFailed([]), *[self.REFUSED] * 9, timeout=5)
        self.clock.pump([1] * 4)
        self.assertNoResult(waiting)
        self.clock.advance(1)
        error = self.failureResultOf(waiting, CommandFailed).value
        self.assertEqual((error.code, error.exit_code), ("timed_out", 4))
        self.assertIn("t1 is not known to be finished after 5 s: no node can be reached at /run/", str(error))

    def test_never_reached(self) -> None:
        """A node that was never reached ends the wait at the first attempt, unless it has just been asked otherwise."""
        self.failureResultOf(self.wait(self.REFUSED, timeout=60), NodeUnreachable)
        waiting = self.wait(self.REFUSED, self.DONE, timeout=60, is_reached=True)
        self.clock.advance(1)
        self.successResultOf(waiting)

    def test_refused(self) -> None:
        """Any other error ends the wait."""
        unknown = {"status": "error", "code": "unknown_task", "message": "no task t1", "hint": ""}
        self.assertEqual(self.failureResultOf(self.wait(unknown), CommandFailed).value.code, "unknown_task")


class WhereTests(SynchronousTestCase):
    """Where a node is looked for."""

    def test_order(self) -> None:
        """The socket that is named wins over the state directory that is named, and that over the default one."""
        self.patch(os, "environ", {"TASKSUBMIT_STATE_DIR": "/default"})
        self.assertEqual(Session().where(), "/default/control.sock")
        self.assertEqual(Session(state_dir=Path("/state")).where(), "/state/control.sock")
        self.assertEqual(Session(state_dir=Path("/state"), control="unix:/x").where(), "unix:/x")


class ErrorTests(CommandTestCase):
    """Errors that nobody expected."""

    def break_node(self) -> None:
        """Make a verb of the command line fail as it never should."""

        def broken(session: object, work: object) -> None:
            raise RuntimeError("what\nnow")

        self.patch(MemorySession, "ask", broken)

    def test_internal(self) -> None:
        """An error that nobody expected is one line, too, and says how to see more."""
        self.break_node()
        line = self.failed("list")
        self.assertIn("internal error: RuntimeError: what now; set TASKSUBMIT_DEBUG=1", line)

    def test_internal_as_json(self) -> None:
        """For a program it is an envelope."""
        self.break_node()
        done = self.run_command("list", "--json")
        self.assertEqual((done.exit_code, json.loads(done.stdout)["code"]), (1, "internal"))

    def test_debug(self) -> None:
        """With TASKSUBMIT_DEBUG the traceback is shown before the line."""
        self.break_node()
        self.patch(os, "environ", {**os.environ, "TASKSUBMIT_DEBUG": "1"})
        done = self.run_command("list")
        self.assertTrue(done.stderr.startswith("Traceback "))
        self.assertIn("\ntasksubmit: internal error", done.stderr)

    def test_usage(self) -> None:
        """Wrong usage has an exit code of its own."""
        for arguments in (("fly",), ("list", "--limit", "0"), ("accept",), ("wait", "t1", "--for", "ever")):
            self.assertEqual(self.run_command(*arguments).exit_code, 2, arguments)


class ProgramTests(SynchronousTestCase):
    """The program as it is started."""

    def run_program(self, *arguments: str, code: int = 0) -> str:
        """What it prints, on either stream."""
        command = (sys.executable, "-c", "from tasksubmit.cli import main; main()", *arguments)
        done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def test_every_verb_has_help(self) -> None:
        """Each verb says in a sentence what it does, and takes --json unless it is ``run``."""
        for name, command in tasksubmit.commands.items():
            self.assertTrue(command.help, name)
            options = {option for parameter in command.params for option in parameter.opts}
            self.assertEqual("--json" in options, name != "run", name)

    def test_help_is_fast(self) -> None:
        """Help needs nothing of Twisted."""
        code = (
            "import sys, tasksubmit.cli.commands; print([n for n in ('twisted', 'treq', 'rich') if n in sys.modules])"
        )
        output = subprocess.check_output([sys.executable, "-c", code], cwd=CHECKOUT, text=True)
        self.assertEqual(output.strip(), "[]")

    def test_run_help(self) -> None:
        """``run --help`` is the help of the node."""
        self.assertIn("--queue-head-timeout", self.run_program("run", "--help"))

    def test_no_node(self) -> None:
        """Without a node the exit code is 3."""
        line = self.run_program("--state-dir", "/nowhere", "queue", code=3)
        self.assertTrue(line.startswith("tasksubmit: no node can be reached at /nowhere/control.sock ("), line)
