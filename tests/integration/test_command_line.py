"""The command line as a process: its standard streams, and a node that is restarted under it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tasksubmit.module_form import ignore_current_directory
from tests import processes
from tests.docs.running import free_ports
from tests.integration.test_two_agents import ENVIRONMENT, A, Agent, B, until
from tests.tiers import tier

PROGRAM = (sys.executable, "-m", "tasksubmit")

MODULES = ("attr", "attrs", "click", "constantly", "decimal", "json", "orjson", "socket", "typing", "typing_extensions")
"""Names of modules that the command line imports, of the standard library and others."""


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a verb, with both streams kept unless they are given."""
    given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return processes.run([*PROGRAM, *words], **{**given, **options})


class CurrentDirectoryTests(SynchronousTestCase):
    """``python -m tasksubmit`` in a directory of somebody else's."""

    def test_nothing_is_executed(self) -> None:
        """Neither plugins nor modules of the current directory are imported, whatever their names."""
        temporary = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(temporary.cleanup)
        directory = Path(temporary.name)
        plugins = directory / "twisted" / "plugins"
        plugins.mkdir(parents=True)
        for path in (plugins / "tasksubmit_more.py", *(directory / f"{name}.py" for name in MODULES)):
            path.write_text("raise SystemExit(f'{__file__} was executed')\n")
        environment = {name: text for name, text in ENVIRONMENT.items() if name != "PYTHONSAFEPATH"}
        for module in (("-m", "tasksubmit"), ("-Wignore", "-mtasksubmit")):
            command = [sys.executable, *module, "run", "--help-executors"]
            done = processes.run(command, cwd=directory, env=environment, capture_output=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("process:COMMAND", done.stdout)
        self.assertEqual(list(directory.rglob("*.pyc")) + list(directory.rglob("dropin.cache")), [])


class ModuleFormTests(SynchronousTestCase):
    """When the current directory is taken away from the path, and when it is left."""

    def path_after(self, *orig: str, package: str = "/site/tasksubmit", argv: tuple[str, ...] = ("-m",)) -> list[str]:
        """What is left of a path that begins with the current directory."""
        self.patch(sys, "argv", [*argv, "list"])
        self.patch(sys, "orig_argv", ["python", *orig, "list"])
        self.patch(sys, "path", [os.getcwd(), "/site"])
        ignore_current_directory(package)
        return sys.path

    def test_taken(self) -> None:
        """It is taken away while Python looks for ``-m tasksubmit``."""
        for orig in (("-m", "tasksubmit"), ("-X", "dev", "-mtasksubmit")):
            self.assertEqual(self.path_after(*orig), ["/site"])

    def test_left(self) -> None:
        """It is left for other programs, in a checkout, and where Python did not put it there."""
        whole = [os.getcwd(), "/site"]
        self.assertEqual(self.path_after("-m", "benchmarks"), whole)
        self.assertEqual(self.path_after("program.py", argv=("program.py",)), whole)
        self.assertEqual(self.path_after("-m", "tasksubmit", package=f"{os.getcwd()}/tasksubmit"), whole)
        self.patch(sys, "path", ["/elsewhere", os.getcwd()])
        ignore_current_directory("/site/tasksubmit")
        self.assertEqual(sys.path, ["/elsewhere", os.getcwd()])

    def test_removed(self) -> None:
        """A current directory that was removed is none."""

        def removed() -> str:
            raise FileNotFoundError(2, "No such file or directory")

        before = list(sys.path)
        self.patch(sys, "argv", ["-m"])
        self.patch(sys, "orig_argv", ["python", "-m", "tasksubmit"])
        self.patch(os, "getcwd", removed)
        ignore_current_directory("/site/tasksubmit")
        self.assertEqual(sys.path, before)


class StreamTests(SynchronousTestCase):
    """Standard streams that fail. No node is needed."""

    def test_full_device(self) -> None:
        """Output to a full device is an error of one line."""
        with open("/dev/full", "w") as full:
            done = run("--help", stdout=full)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stderr, "tasksubmit: cannot write to standard output: No space left on device\n")
            for words, exit_code in ((("list", "--state-dir", "/nowhere"), 3), (("accept",), 2)):
                for options in ((), ("--json",)):
                    done = run(*words, *options, stdout=full, stderr=None if options else full)
                    self.assertEqual(done.returncode, exit_code, words)
            done = run("list", "--state-dir", "/nowhere", "--json", stdout=full)
            self.assertEqual((done.returncode, done.stderr), (3, ""))

    def test_closed_pipe(self) -> None:
        """Nothing is said of a reader that is gone."""
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as pipe:
            done = run("--help", stdout=pipe)
        self.assertEqual((done.returncode, done.stderr), (141, ""))

    def test_closed_streams(self) -> None:
        """Streams that were closed before the start are no trouble."""
        script = f"{sys.executable} -m tasksubmit --version >&- 2>&- <&-"
        self.assertEqual(processes.run(["/bin/sh", "-c", script]).returncode, 0)

    def test_no_home(self) -> None:
        """A user without a home directory is asked for --state-dir, by the verbs and by a node."""
        code = (
            "import pwd, sys\n"
            "def nobody(uid): raise KeyError(uid)\n"
            "pwd.getpwuid = nobody\n"
            "from tasksubmit.cli import main\n"
            "main(sys.argv[1:])"
        )
        environment = {name: text for name, text in os.environ.items() if name not in ("HOME", "XDG_STATE_HOME")}
        for words, exit_code in ((("list",), 1), (("check",), 1), (("run", "--address", A, "--check"), 2)):
            done = processes.run([sys.executable, "-c", code, *words], env=environment, capture_output=True)
            self.assertEqual(done.returncode, exit_code, done)
            self.assertIn("give --state-dir", done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done)


@tier("full")
class RestartTests(SynchronousTestCase):
    """A node that is restarted while a command waits."""

    @override
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        ports = free_ports(2)
        base = Path(directory.name)
        self.a = Agent(base / "a", A, ports[0], B, ports[1])
        self.b = Agent(base / "b", B, ports[1], A, ports[0])
        for agent in (self.a, self.b):
            agent.start("--accept-timeout", "10m")
            self.addCleanup(agent.stop)

    def has_client(self) -> bool:
        """True if the control socket of the first agent has a connection."""
        rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()]
        return any(row[5] == "03" and row[-1].endswith("/a/state/control.sock") for row in rows)

    def test_wait(self) -> None:
        """A wait goes on over a restart of its node, and ends as the task does."""
        text = "caf\xe9 \U0001f600"
        self.assertEqual(self.a.ask("submit", B, text, "--task-id", "t1")["status"], "NEW")
        state = str(self.a.directory / "state")
        command = [*PROGRAM, "wait", "t1", "--timeout", "10m", "--state-dir", state, "--json"]
        waiting = processes.start(self, command, stdout=subprocess.PIPE)
        until(self.has_client, "the command does not connect")
        self.a.stop()
        self.a.start("--accept-timeout", "10m")
        self.b.ask("decline", "t1", "--justification", "no time")
        answer, _ = waiting.communicate(timeout=processes.LONGEST_SECONDS)
        self.assertEqual((waiting.returncode, json.loads(answer)["code"]), (1, "declined"))
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        command = [*PROGRAM, "list", "--state-dir", state]
        shown = processes.run(command, env=environment, capture_output=True, check=True, encoding="latin-1")
        self.assertIn("caf\xe9 \\U0001f600", shown.stdout)
