"""Real processes: twistd, in the foreground and as a daemon, twist, and ``python -m tasksubmit run``."""

from __future__ import annotations

import contextlib  # trial would take a `suppress` of the module for its own
import http.client
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import IO, TYPE_CHECKING, Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.processes import LONGEST_SECONDS, run, start
from tests.tiers import tier

if TYPE_CHECKING:
    Base = SynchronousTestCase
else:
    Base = object  # so that trial runs the subclasses only

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = LONGEST_SECONDS
"""After so long a process hangs."""

OWN = "0:0000.0000.0001"
LOOPBACK = "tcp:0:interface=127.0.0.1"
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
ROUTINE = re.compile("starting up|reactor class|listening on|[Ss]tarting|[Ss]topping|Closed|Main loop terminated")
"""What is said about each run, and about parts of it that start and stop."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self.path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self.path))


class ProcessCase(SynchronousTestCase):
    """Ways to run a node in a process of its own, in a new directory."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))  # short, for the path of the socket
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.state = self.directory / "state"
        self.environ = {name: text for name, text in os.environ.items() if not name.startswith("TASKSUBMIT_")}
        self.environ |= {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}

    def options(self, *more: str) -> list[str]:
        """The options of a node that can run, and more."""
        return ["--address", OWN, "--state-dir", str(self.state), "--listen", LOOPBACK, *more]

    def run_to_the_end(self, *command: str, stdin: int = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
        """Run a command that ends by itself."""
        return run(command, cwd=self.directory, env=self.environ, stdin=stdin, capture_output=True)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a process that goes on until it is told to stop, at the latest at the end of the test."""
        process = start(
            self,
            command,
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        watchdog = Timer(SECONDS, process.kill)  # so that no reading of its output hangs
        watchdog.start()
        self.addCleanup(watchdog.cancel)
        return process

    def output(self, process: subprocess.Popen[str]) -> IO[str]:
        """What the process prints."""
        assert process.stdout is not None
        return process.stdout

    def wait_until_up(self, process: subprocess.Popen[str]) -> list[str]:
        """Read what the process prints until it serves the control API, and return it."""
        lines = []
        for line in self.output(process):
            lines.append(line)
            if "listening on UNIXAddress" in line:
                self.ask()
                return lines
        raise AssertionError(f"it ended:\n{''.join(lines)}")

    def ask(self) -> dict[str, Any]:
        """Ask the control API for its description: it answers once the reactor runs."""
        connection = UnixConnection(self.state / "control.sock")
        try:
            connection.request("GET", "/v1/openapi.json")
            response = connection.getresponse()
            self.assertEqual(response.status, 200)
            described: dict[str, Any] = json.load(response)
            return described
        finally:
            connection.close()

    def stop(self, process: subprocess.Popen[str]) -> str:
        """Tell the process to stop; returns what it still printed."""
        process.send_signal(signal.SIGTERM)
        return process.communicate(timeout=SECONDS)[0]

    def files(self) -> set[str]:
        """What the directory holds besides the state."""
        return {path.name for path in self.directory.iterdir()} - {"state"}

    def taken_port(self) -> int:
        """A port of loopback that somebody listens on."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        port: int = listening.getsockname()[1]
        return port


class RunnerContract(Base):
    """What holds whichever way a node is run in the foreground."""

    command: tuple[str, ...]
    exit_code = 0
    """That of a node which SIGTERM has ended."""

    if TYPE_CHECKING:
        directory: Path
        state: Path

        def options(self, *more: str) -> list[str]: ...
        def run_to_the_end(self, *command: str) -> subprocess.CompletedProcess[str]: ...
        def start(self, *command: str) -> subprocess.Popen[str]: ...
        def wait_until_up(self, process: subprocess.Popen[str]) -> list[str]: ...
        def stop(self, process: subprocess.Popen[str]) -> str: ...
        def files(self) -> set[str]: ...
        def taken_port(self) -> int: ...

    def refused(self, *options: str) -> str:
        """It ends with an error of one line, without a traceback and without a file left behind; returns the line."""
        done = self.run_to_the_end(*self.command, *options)
        self.assertNotEqual(done.returncode, 0)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not ROUTINE.search(line)]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn("tasksubmit: ", lines[0])
        self.assertEqual(self.files(), set())
        return lines[0]

    def test_life(self) -> None:
        """It listens, serves the control API on a socket for its owner alone, and SIGTERM ends it cleanly."""
        process = self.start(*self.command, *self.options())
        lines = self.wait_until_up(process)
        [host] = [line for line in lines if "listening on IPv4Address" in line]
        port = re.search(r"port=(\d+)", host)
        assert port is not None
        socket.create_connection(("127.0.0.1", int(port[1]))).close()
        self.assertEqual((self.state / "control.sock").stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.state.stat().st_mode & 0o777, 0o700)
        rest = self.stop(process)
        self.assertEqual(process.returncode, self.exit_code, rest)
        self.assertNotIn("Traceback", "".join(lines) + rest)
        self.assertEqual(sorted(path.name for path in self.state.iterdir()), ["lock", "results", "tasks.db"])
        self.assertEqual(self.files(), set())

    def test_port_taken(self) -> None:
        """A port that is taken is named."""
        port = self.taken_port()
        line = self.refused(*self.options("--listen", f"tcp:{port}:interface=127.0.0.1"))
        self.assertIn(f"cannot listen on tcp:{port}:interface=127.0.0.1", line)

    def test_state_in_use(self) -> None:
        """A state directory that another node uses is named, and that node goes on."""
        process = self.start(*self.command, *self.options())
        self.wait_until_up(process)
        before = self.files()
        done = self.run_to_the_end(*self.other(), *self.options())
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not ROUTINE.search(line)]
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(f"the state directory {self.state} is in use by another process", lines[0])
        self.assertEqual(self.files(), before)
        self.stop(process)
        self.assertEqual(process.returncode, self.exit_code)

    def other(self) -> tuple[str, ...]:
        """How to run a second node in the same directory."""
        return self.command

    def test_newer_store(self) -> None:
        """A store that a newer version made is named, and left as it is."""
        self.state.mkdir()
        connection = sqlite3.connect(self.state / "tasks.db")
        connection.executescript("PRAGMA application_id = 0x7461736B; PRAGMA user_version = 99; CREATE TABLE new (x);")
        connection.close()
        before = (self.state / "tasks.db").read_bytes()
        done = self.run_to_the_end(*self.command, *self.options())
        self.assertNotEqual(done.returncode, 0)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not ROUTINE.search(line)]
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(f"{self.state}/tasks.db has schema 99, made by a newer version", lines[0])
        self.assertEqual((self.state / "tasks.db").read_bytes(), before)
        self.assertEqual(self.files(), set())

    def test_wrong_options(self) -> None:
        """Wrong options are named, and nothing is made."""
        for options, *words in (
            (["--state-dir", str(self.state)], "--address 0:0000.0000.0001"),
            (self.options("--tick", "soon"), "--tick"),
            (self.options("--no-such-option"), "no-such-option"),
            (self.options("--listen", "tcp:0"), "--listen tcp:0 ", "--insecure"),
            (self.options("--control", "tcp:0"), "--control tcp:0: ", "this machine alone"),
        ):
            line = self.refused(*options)
            for word in words:
                self.assertIn(word, line)
        self.assertFalse(self.state.exists())

    def test_check(self) -> None:
        """``--check`` says that all is well, and makes nothing."""
        done = self.run_to_the_end(*self.command, *self.options("--check"))
        self.assertEqual((done.returncode, done.stdout), (0, "tasksubmit: the configuration is fine\n"))
        self.assertEqual(self.files(), set())
        self.assertFalse(self.state.exists())

    def test_json(self) -> None:
        """With ``--log-format json`` every line is a flat object, from the first to the last."""
        process = self.start(*self.command, *self.options("--log-format", "json"))
        text = "".join(self.wait_until_up(process)) + self.stop(process)
        messages = [line["message"] for line in flat_lines(self, text)]
        self.assertTrue(any(message.startswith("listening on IPv4Address") for message in messages), messages)
        self.assertIn("Received SIGTERM, shutting down.", messages)

    def test_killed(self) -> None:
        """After it was killed another one starts in the same directory: the lock and the socket are no hindrance."""
        process = self.start(*self.command, *self.options())
        self.wait_until_up(process)
        process.kill()
        process.wait()
        process = self.start(*self.command, *self.options())
        self.wait_until_up(process)
        self.stop(process)
        self.assertEqual(process.returncode, self.exit_code)


def flat_lines(case: SynchronousTestCase, text: str) -> list[dict[str, Any]]:
    """The lines of a log, each of which has to be a flat JSON object."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        case.assertTrue({"time", "level", "namespace", "message"} <= set(line), line)
        case.assertFalse([value for value in line.values() if isinstance(value, list | dict)], line)
    return lines


@tier("full")
class ModuleTests(ProcessCase, RunnerContract):
    """``python -m tasksubmit run``."""

    command = (sys.executable, "-m", "tasksubmit", "run")

    def test_exit_code_of_wrong_options(self) -> None:
        """A wrong option has the exit code of a command that was used wrongly."""
        self.assertEqual(self.run_to_the_end(*self.command).returncode, 2)


@tier("full")
class TwistTests(ProcessCase, RunnerContract):
    """``twist``."""

    command = (sys.executable, "-m", "twisted", "--log-format", "text", "tasksubmit")
    exit_code = -signal.SIGTERM  # as with twistd


class TwistdTests(ProcessCase, RunnerContract):
    """``twistd --nodaemon``."""

    command = (*TWISTD, "--nodaemon", "tasksubmit")
    exit_code = -signal.SIGTERM  # when all is done twistd ends by the signal that it was told to end by

    @override
    def files(self) -> set[str]:
        """What the directory holds besides the state, and the pid file of a node that runs."""
        return super().files() - ({"twistd.pid"} if self.is_running() else set())

    def is_running(self) -> bool:
        """Whether the pid file is that of a process that runs."""
        try:
            os.kill(int((self.directory / "twistd.pid").read_text()), 0)
        except (OSError, ValueError):
            return False
        return True

    @override
    def other(self) -> tuple[str, ...]:
        return (*TWISTD, "--nodaemon", "--pidfile", "other.pid", "tasksubmit")

    def test_json_log_file(self) -> None:
        """``--logfile`` gets the JSON lines that standard output would have got."""
        options = self.options("--log-format", "json")
        process = self.start(*TWISTD, "--nodaemon", "--logfile", "node.log", "tasksubmit", *options)
        self.wait_for_socket(process)
        self.assertEqual(self.stop(process), "")
        messages = [line["message"] for line in flat_lines(self, (self.directory / "node.log").read_text())]
        self.assertIn("Received SIGTERM, shutting down.", messages)
        self.assertEqual((self.directory / "node.log").stat().st_mode & 0o777, 0o600)

    def wait_for_socket(self, process: subprocess.Popen[str]) -> None:
        """Wait for a node that prints nothing."""
        for _ in attempts():
            self.assertIsNone(process.poll())
            try:
                self.ask()
            except OSError:
                continue
            return
        self.fail("it does not serve the control API")

    def test_json_keeps_exceptions(self) -> None:
        """An exception in a JSON log, with or without a log file, keeps its type, its text and its traceback."""
        plugin = self.directory / "broken.py"
        plugin.write_text(
            "from twisted.logger import Logger\n"
            "from tasksubmit import tap\n"
            "def start(self, real=tap.AgentService.startService):\n"
            "    real(self)\n"
            "    try:\n"
            "        raise ValueError('quite wrong')\n"
            "    except ValueError:\n"
            "        Logger('broken').failure('it broke at {place}', place='home')\n"
            "tap.AgentService.startService = start\n"
        )
        command = (sys.executable, "-c", "import broken; from twisted.scripts.twistd import run; run()", "--nodaemon")
        for more in ((), ("--logfile", "node.log")):
            process = self.start(*command, *more, "tasksubmit", *self.options("--log-format", "json"))
            self.wait_for_socket(process)
            text = self.stop(process) or (self.directory / "node.log").read_text()
            [line] = [line for line in flat_lines(self, text) if line["namespace"] == "broken"]
            self.assertEqual((line["level"], line["message"], line["place"]), ("critical", "it broke at home", "home"))
            self.assertEqual((line["exception"], line["exception_text"]), ("ValueError", "quite wrong"))
            self.assertIn("Traceback", line["traceback"])


def attempts() -> Iterator[None]:
    """Tries at what a process that prints nothing has to get ready for, until that takes too long."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        yield
        time.sleep(0.02)


class DaemonTests(ProcessCase):
    """``twistd``, as a daemon."""

    def twistd(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Start a daemon; returns when it is up, or could not come up."""
        return self.run_to_the_end(*TWISTD, "tasksubmit", *options)

    def kill(self) -> None:
        """End the daemon of the pid file, if there is one."""
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self.directory / "twistd.pid").read_text()), signal.SIGKILL)

    def test_life(self) -> None:
        """The command returns when the daemon is up; SIGTERM ends it, and its pid file goes with it."""
        self.addCleanup(self.kill)
        done = self.twistd(*self.options("--log-format", "json"))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.ask()
        self.assertEqual((self.state / "control.sock").stat().st_mode & 0o777, 0o600)
        os.kill(int((self.directory / "twistd.pid").read_text()), signal.SIGTERM)
        for _ in attempts():
            if self.files() == {"twistd.log"}:
                break
        self.assertEqual(self.files(), {"twistd.log"})
        self.assertEqual(sorted(path.name for path in self.state.iterdir()), ["lock", "results", "tasks.db"])
        messages = [line["message"] for line in flat_lines(self, (self.directory / "twistd.log").read_text())]
        self.assertIn("Received SIGTERM, shutting down.", messages)

    def refused(self, *options: str) -> str:
        """The daemon does not come up, which its caller is told without a traceback; returns what it is told."""
        self.addCleanup(self.kill)
        done = self.twistd(*options)
        self.assertNotEqual(done.returncode, 0)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        for _ in attempts():  # the caller is told first, and the file removed after
            if not (self.directory / "twistd.pid").exists():
                break
        self.assertFalse((self.directory / "twistd.pid").exists())
        return done.stdout + done.stderr

    def test_port_taken(self) -> None:
        """A port that is taken is told to whoever started the daemon."""
        port = self.taken_port()
        self.assertIn(f"tcp:{port}", self.refused(*self.options("--listen", f"tcp:{port}:interface=127.0.0.1")))

    def test_state_in_use(self) -> None:
        """So is a state directory that another node uses."""
        process = self.start(*ModuleTests.command, *self.options())
        self.wait_until_up(process)
        self.assertIn("the state directory", self.refused(*self.options()))
        self.stop(process)
        self.assertEqual(process.returncode, 0)

    def test_newer_store(self) -> None:
        """So is a store that a newer version made."""
        self.state.mkdir()
        connection = sqlite3.connect(self.state / "tasks.db")
        connection.executescript("PRAGMA application_id = 0x7461736B; PRAGMA user_version = 99; CREATE TABLE new (x);")
        connection.close()
        self.assertIn("made by a newer version", self.refused(*self.options()))
        for _ in attempts():  # the caller is told before the log is
            log = (self.directory / "twistd.log").read_text()
            if "install the newer" in log:
                break
        self.assertIn("install the newer version again", log)
        self.assertNotIn("Traceback", log)

    def test_wrong_options(self) -> None:
        """Wrong options are refused before there is a daemon, in one line."""
        told = self.refused(*self.options("--tick", "soon"))
        self.assertRegex(told, r"\Atasksubmit: --tick: .*\n\Z")
        self.assertEqual(self.files(), set())
