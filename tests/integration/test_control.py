"""The control API where others can connect: a real daemon, the command line, and programs that must not get in."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests.docs.running import free_ports
from tests.integration.test_two_agents import A, Agent, B
from tests.processes import LONGEST_SECONDS


class ControlTests(SynchronousTestCase):
    """One node, whose control API is on a port of this machine."""

    @override
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(temporary.cleanup)
        listening, peer, self.port = free_ports(3)
        self.agent = Agent(Path(temporary.name) / "a", A, listening, B, peer)
        self.token_file = self.agent.directory / "state" / "control.token"
        self.control = ("--control", f"tcp:127.0.0.1:{self.port}")

    def start(self) -> None:
        """Start the node."""
        self.agent.start("--control", f"tcp:{self.port}:interface=127.0.0.1")
        self.addCleanup(self.agent.stop)

    def status(self, **headers: str) -> tuple[int, str]:
        """Ask for the node without the command line."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/node", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=LONGEST_SECONDS) as answer:
                return answer.status, ""
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["code"]

    def test_token(self) -> None:
        """The command line finds the token in the state directory, or where it is told; nobody else gets in."""
        self.start()
        self.assertEqual(self.token_file.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.agent.ask(*self.control, "peers")[0]["address"], B)
        token = self.token_file.read_text().strip()
        self.assertEqual(self.status(Authorization=f"Bearer {token}"), (200, ""))
        self.assertEqual(self.status(), (401, "unauthorized"))
        self.assertEqual(self.status(Authorization=f"Bearer {token}", Host="evil.example"), (403, "forbidden"))
        self.assertEqual(self.status(Authorization=f"Bearer {token}", Origin="http://evil.example"), (403, "forbidden"))
        large = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/tasks", bytes(20_000_000))
        self.assertRaises(
            (urllib.error.HTTPError, urllib.error.URLError), urllib.request.urlopen, large, timeout=LONGEST_SECONDS
        )
        for _ in range(100):
            self.status()
        log = (self.agent.directory / "log").read_text()
        self.assertNotIn(token, log)
        self.assertLess(log.count("a request was not let through"), 50)
        self.assertLess(log.count("/v1/node"), 5)
        elsewhere = self.agent.directory / "token"
        self.token_file.rename(elsewhere)
        self.assertIn("--token-file", self.agent.refused(*self.control, "peers"))
        self.agent.ask(*self.control, "--token-file", str(elsewhere), "peers")
        self.assertIn("cannot be read", self.agent.refused(*self.control, "--token-file", "/no/where", "peers"))

    def test_socket_of_others(self) -> None:
        """A Unix socket that other accounts can open demands the token, which the command line finds."""
        path = self.agent.directory / "open.sock"
        self.agent.start("--control", f"unix:{path}:mode=666")
        self.addCleanup(self.agent.stop)
        self.assertEqual(path.stat().st_mode & 0o777, 0o666)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(LONGEST_SECONDS)
            stranger.connect(str(path))
            stranger.sendall(b"POST /v1/drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            self.assertTrue(stranger.recv(1024).startswith(b"HTTP/1.1 401 "))
        self.assertEqual(self.agent.ask("--control", str(path), "peers")[0]["address"], B)

    def test_directory_of_others(self) -> None:
        """A node does not start on a state directory that others can write, and says what to do in one line."""
        state = self.token_file.parent
        state.mkdir()
        state.chmod(0o777)
        self.assertRaises(subprocess.CalledProcessError, self.start)
        self.assertEqual(list(state.iterdir()), [])

    def test_readable_by_others(self) -> None:
        """A node does not start with a token that others can read, and says what to do."""
        self.token_file.parent.mkdir(mode=0o700)
        self.token_file.write_text("secret\n")
        os.chmod(self.token_file, 0o644)
        self.assertRaises(subprocess.CalledProcessError, self.start)
        log = (self.agent.directory / "log").read_text()
        self.assertIn(f"chmod 600 {self.token_file}", log)
        self.assertNotIn("Traceback", log)
