"""Socket activation: a node that listens on a socket which somebody else has opened, as systemd does."""

from __future__ import annotations

import contextlib  # trial would take a `suppress` of the module for its own
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.integration.test_twistd import OWN, SECONDS, TWISTD, ProcessCase
from tests.processes import start

UNITS = Path(__file__).resolve().parents[2] / "examples" / "systemd"

# What systemd does between fork and exec: the sockets from 3 on, and whom they are for.
PASS = """
import os, sys
passed, name = int(sys.argv[1]), sys.argv[2]
os.dup2(passed, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=name)
os.execv(sys.argv[3], sys.argv[3:])
"""


class ActivationTests(ProcessCase):
    """``--listen systemd:...``."""

    RUN = (sys.executable, "-m", "tasksubmit", "run")

    def listening(self, host: str = "127.0.0.1", family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        """A socket that listens, as a socket unit has it opened."""
        listening = socket.create_server((host, 0), family=family)
        self.addCleanup(listening.close)
        return listening

    def passing(self, passed: socket.socket, *command: str, name: str = "peers") -> tuple[str, ...]:
        """A command that runs another one to which the socket is passed."""
        os.set_inheritable(passed.fileno(), True)
        return (sys.executable, "-c", PASS, str(passed.fileno()), name, *command)

    def options(self, *more: str) -> list[str]:
        """Those of a node that listens on the socket with the name ``peers``."""
        own = ["--address", OWN, "--state-dir", str(self.state)]
        return [*own, *(more or ("--listen", "systemd:domain=INET:name=peers"))]

    def start_with(self, passed: socket.socket, *command: str) -> subprocess.Popen[str]:
        """Start a node that gets the socket."""
        return start(
            self,
            self.passing(passed, *command),
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            close_fds=False,
        )

    def refused(self, passed: socket.socket, *options: str) -> str:
        """It ends at once with one line, which is returned."""
        process = self.start_with(passed, *self.RUN, *options)
        said, _ = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 2, said)
        self.assertEqual(len(said.splitlines()), 1, said)
        return said

    def test_activated(self) -> None:
        """Who connected before the node ran is served by it, and the socket outlives the node for the next one."""
        passed = self.listening()
        port = passed.getsockname()[1]
        for command in (self.RUN, (*TWISTD, "--nodaemon", "--pidfile", "", "tasksubmit")):
            early = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
            self.addCleanup(early.close)
            process = self.start_with(passed, *command, *self.options())
            lines = self.wait_until_up(process)
            self.assertTrue(any(f"port={port}" in line for line in lines), lines)
            early.sendall((9).to_bytes(4, "big") + (2).to_bytes(4, "big") + b"{}")
            with self.assertRaises(ConnectionResetError):  # no such type: the node aborts the connection
                early.recv(1)
            self.stop(process)
        self.assertEqual(passed.getsockname()[1], port)

    def test_beyond_loopback(self) -> None:
        """A socket that others can reach is refused by where it listens, unless ``--insecure`` says that it may be."""
        passed = self.listening("0.0.0.0")
        said = self.refused(passed, *self.options())
        for word in ("systemd:domain=INET:name=peers", "0.0.0.0", "ListenStream=127.0.0.1:PORT", "--insecure"):
            self.assertIn(word, said)
        self.assertFalse(self.state.exists())
        process = self.start_with(passed, *self.RUN, *self.options(), "--insecure")
        self.wait_until_up(process)
        self.stop(process)

    def test_other_domain(self) -> None:
        """A socket of another domain than the endpoint says is refused with the one that it has."""
        with contextlib.suppress(OSError):
            said = self.refused(self.listening("::1", socket.AF_INET6), *self.options())
            self.assertIn("the socket is of another domain: INET6", said)

    def test_none_passed(self) -> None:
        """A name that no socket has is told; ``--check``, to which none is passed, looks at the rest."""
        said = self.refused(self.listening(), *self.options("--listen", "systemd:domain=INET:name=other"))
        self.assertIn("--listen systemd:domain=INET:name=other: no such socket was passed", said)
        done = self.run_to_the_end(*self.RUN, *self.options(), "--check")
        self.assertEqual((done.returncode, done.stdout), (0, "tasksubmit: the configuration is fine\n"))


class UnitTests(ProcessCase):
    """The units of ``examples/systemd``."""

    def test_verified(self) -> None:
        """``systemd-analyze verify`` finds nothing wrong with them, once the program is where they look for it."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("there is no systemd-analyze")
        for unit in UNITS.glob("tasksubmit.*"):
            text = unit.read_text().replace("/opt/tasksubmit/bin/tasksubmit", "/bin/true")
            (self.directory / unit.name).write_text(text)
        done = self.run_to_the_end(analyze, "verify", "--man=no", "--recursive-errors=no", "./tasksubmit.service")
        complaints = [line for line in (done.stdout + done.stderr).splitlines() if "tasksubmit" in line]
        self.assertEqual((done.returncode, complaints), (0, []), done.stderr)

    def test_configuration(self) -> None:
        """The configuration that comes with them is right, and their socket is the one that it listens on."""
        done = self.run_to_the_end(
            sys.executable, "-m", "tasksubmit", "run", "--config", str(UNITS / "node.toml"), "--check"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        [name] = [
            line.partition("=")[2]
            for line in (UNITS / "tasksubmit.socket").read_text().splitlines()
            if line.startswith("FileDescriptorName=")
        ]
        self.assertIn(f":name={name}", (UNITS / "node.toml").read_text())
