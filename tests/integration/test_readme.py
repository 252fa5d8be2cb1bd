"""The commands and the program of the README, run as they stand there, on ports that are free."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.samples import ROOT, blocks


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def on_free_ports(text: str) -> str:
    for written, port in zip(("11003", "11004"), free_ports(2), strict=True):
        text = text.replace(written, str(port))
    return text


class ReadmeTests(TestCase):
    """Whatever the README tells people to type works."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def run_in_directory(self, command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run with the checkout importable, and with ``twistd`` and ``tasksubmit`` in front of the path."""
        commands = self.directory / "bin"
        commands.mkdir()
        for name, program in {
            "twistd": "from twisted.scripts.twistd import run; run()",
            "tasksubmit": "from tasksubmit.cli import main; main()",
        }.items():
            script = commands / name
            script.write_text(f"#!{sys.executable}\n{program}\n")
            script.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{commands}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        return subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def test_tour(self) -> None:
        """Every command of the tour succeeds, and shows the result and both ends of the task's life."""
        script = "\n".join(re.sub(r"^\$ ", "", block, flags=re.M) for block in blocks("README.rst", "console"))
        self.assertIn("send-results", script)
        cleanup = "trap 'kill $(cat *.pid) 2>/dev/null || true' EXIT"
        done = self.run_in_directory(["bash", "-euc", f"{cleanup}\n{on_free_ports(script)}"])
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("They agreed to meet again.", done.stdout)
        self.assertIn("SUCCEEDED", done.stdout)

    def test_program(self) -> None:
        """The program that embeds a node runs, and its coroutine waits for the worker that is not there."""
        [program] = blocks("README.rst", "python")
        interrupt = "from twisted.internet import reactor\nreactor.callLater(0.5, reactor.stop)\n"
        done = self.run_in_directory([sys.executable, "-c", interrupt + on_free_ports(program)], timeout=30)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("the node was stopped while the task was waited for", done.stdout, done.stderr)

    def test_configuration(self) -> None:
        """The configuration file is right."""
        [configuration] = blocks("README.rst", "toml")
        (self.directory / "a.toml").write_text(configuration)
        done = self.run_in_directory(["tasksubmit", "run", "--config", "a.toml", "--check"])
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
