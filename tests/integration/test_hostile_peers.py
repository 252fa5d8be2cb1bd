"""What peers write: file names that lead astray, and text that does what it says. Real files, real threads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from typing_extensions import override

from tasksubmit.cli.control import CommandFailed
from tasksubmit.cli.results import save_result
from tasksubmit.errors import InvalidMessage
from tasksubmit.interfaces import Peer
from tasksubmit.lifecycle.results import check_result_filename
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.stores.sqlite import RESULTS, SQLiteTaskStore
from tasksubmit.wire.messages import TaskResultMessage
from tests.processes import LONGEST_SECONDS
from tests.web.harness import OWN, PEER, ApiTestCase, RefusingEndpoint

clock: Any = reactor

REFUSED = (
    *("../evil.txt", "../../../etc/passwd.txt", "..\\evil.txt", "a/../../evil.txt", "sub/evil.txt", "./evil.txt"),
    *("/etc/cron.d/evil.txt", "/evil.txt", "//evil.txt", "C:\\evil.txt", "\\\\host\\share\\evil.txt"),
    *("evil.txt\0.md", "\0.txt", "evil\n.txt", "\nevil.txt", "evil\r.txt", "evil\t.txt", "evil\x1b[2J.txt", "\x7f.txt"),
    *("gnp\u202e.txt", "a\u2066b.txt", "a\u200b.txt", "a\u2028b.txt", "\ufeffa.txt", "a\u0085.txt", "a\ud800.txt"),
    *("", ".", "..", "...", ".txt", ".bashrc", ".hidden.txt", " ", " a.txt", "a.txt ", "\u00a0a.txt", "a.txt\u3000"),
    *("noextension", "evil.sh", "evil.PY", "evil.txt.", "evil.txt/", "evil.exe", "report\u2024txt", "evil.txt\u2024sh"),
    *("x" * 197 + ".txt", "x" * 5000 + ".txt", "\u00e4" * 120 + ".txt", "\U0001f600" * 60 + ".txt"),
)
"""Names that no honest peer sends."""

TAKEN = (
    *("CON.txt", "nul.txt", "aux.md", "COM1.csv", "PRN.pdf", "clock$.txt", "desktop.ini.txt", "~root.txt", "~.txt"),
    *("$HOME.txt", "$(reboot).txt", "`reboot`.txt", "a;reboot.txt", "a|b.txt", "-rf.txt", "--output.txt", "*.txt"),
    *("%2e%2e%2fevil.txt", "a..b.txt", "a b.txt", "<script>alert(1)<script>.txt", '"quoted".txt'),
    *("\uff0e\uff0e\uff0fevil.txt", "a\u2215evil.txt", "\u0440\u0430ypal.pdf", "e\u0301.txt", "\u00e9.txt"),
    *("Report.PDF", "report.pdf", "REPORT.pdf", "x" * 196 + ".txt"),
)
"""Odd names that are names all the same: they are kept as they are, behind the id of the task."""


class FileNameTests(TestCase):
    """Results from a peer, on the node's disk and in the user's directory."""

    timeout = LONGEST_SECONDS

    @override
    async def setUp(self) -> None:  # type: ignore[override]  # trial waits for it
        self.top = Path(self.mktemp()).absolute()
        self.state = self.top / "deep" / "state"
        (self.top / "deep").mkdir(parents=True)
        self.secret = self.top / "secret.txt"
        self.secret.write_text("theirs")
        peers = StaticPeers({PEER: RefusingEndpoint()})
        self.node = Node(OWN, SQLiteTaskStore(self.state, clock), peers, clock=Clock())
        self.node.startService()
        self.addCleanup(self.node.stopService)

    def outside(self) -> set[tuple[str, str]]:
        """Every file that is not the node's, with its content."""
        paths = [path for path in self.top.rglob("*") if self.state not in path.parents and not path.is_dir()]
        return {(str(path), path.read_text()) for path in paths if path.exists()}

    def kept(self) -> set[str]:
        """The names of the result files."""
        return {path.name for path in (self.state / RESULTS).iterdir() if path.is_file()}

    async def receive(self, task_id: str, filename: str) -> str:
        """Submit a task, and have its receiver send a file of that name; returns the code of the refusal, if it is."""
        await self.node.submit(PEER, "work", task_id=task_id)
        message = TaskResultMessage(
            task_id, "file", filename=filename, file_data=b"x", completed_at="2026-01-01T00:00:00Z", ack=True
        )
        try:
            message.validate()  # what the server does before it asks
        except InvalidMessage as error:
            return error.code
        await self.node.results_received(Peer(PEER, "memory"), message)
        return ""

    async def test_refused(self) -> None:
        """What is not a plain name of a file that may be sent is refused, and leaves no file anywhere."""
        before = self.outside()
        for number, name in enumerate(REFUSED):
            self.assertEqual(await self.receive(f"t{number}", name), "invalid", repr(name))
        self.assertEqual(self.kept(), set())
        self.assertEqual(self.outside(), before)

    async def test_taken(self) -> None:
        """An odd name is one file in the results directory, under its task's id, and nothing happens elsewhere."""
        before = self.outside()
        for number, name in enumerate(TAKEN):
            self.assertEqual(await self.receive(f"t{number}", name), "", repr(name))
        self.assertEqual(self.kept(), {f"t{number}_{name}" for number, name in enumerate(TAKEN)})
        self.assertEqual(self.outside(), before)

    async def test_in_the_way(self) -> None:
        """A file, a link or a directory that has the name is neither followed, replaced nor written to."""
        results = self.state / RESULTS
        (results / "t0_a.txt").symlink_to(self.secret)
        (results / "t1_a.txt").symlink_to(self.top / "missing")
        (results / "t2_a.txt").write_text("mine")
        (results / "t3_a.txt").mkdir()
        (results / "t4_a.txt").symlink_to(self.top)
        before = self.outside()
        for number in range(5):
            self.assertEqual(await self.receive(f"t{number}", "a.txt"), "")
            self.assertEqual((results / f"t{number}_a-2.txt").read_text(), "x")
        self.assertEqual(self.outside(), before)
        self.assertEqual((results / "t2_a.txt").read_text(), "mine")
        self.assertFalse((self.top / "missing").exists())

    def save(self, name: str) -> Path:
        """Save a result as ``tasksubmit result --output DIR`` does."""
        output = self.top / "out"
        output.mkdir(exist_ok=True)
        shown = {"task_id": "t", "result_type": "file", "text": None, "filename": name, "content_base64": "eA=="}
        return Path(save_result(shown, output)["path"])

    def test_saved(self) -> None:
        """In the user's directory an odd name is a file of that directory, and others are refused there once more."""
        for name in TAKEN:
            saved_as = f"_{name}" if name.startswith("-") else name  # no program takes it for an option
            self.assertEqual(self.save(name), self.top / "out" / saved_as)
        before = self.outside()
        for name in REFUSED[:-12]:
            if name:  # else it is named after the task
                self.assertRaises(InvalidMessage, self.save, name)
        self.assertEqual(self.outside(), before)

    def test_saved_in_the_way(self) -> None:
        """Whatever has the name in the user's directory stays as it is, and the user is told."""
        output = self.top / "out"
        output.mkdir()
        (output / "link.txt").symlink_to(self.secret)
        (output / "dangling.txt").symlink_to(self.top / "missing")
        (output / "file.txt").write_text("mine")
        (output / "directory.txt").mkdir()
        os.mkfifo(output / "pipe.txt")
        for name in ("link.txt", "dangling.txt", "file.txt", "directory.txt", "pipe.txt"):
            with self.assertRaises(CommandFailed) as caught:
                self.save(name)
            self.assertEqual(caught.exception.code, "exists", name)
        self.assertEqual(self.secret.read_text(), "theirs")
        self.assertFalse((self.top / "missing").exists())

    def test_lists(self) -> None:
        """The two lists of names are what they say."""
        for name in TAKEN:
            check_result_filename(name)
        for name in REFUSED:
            self.assertRaises(InvalidMessage, check_result_filename, name)


class TextTests(ApiTestCase):
    """Text from peers in the answers of the control API."""

    HTML = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"

    def test_html(self) -> None:
        """HTML comes back as a text in JSON that no browser takes for a page."""
        self.receive("t1", description=self.HTML)
        response = self.successResultOf(self.begin("GET", "/v1/tasks/t1"))
        self.assertEqual(json.loads(self.successResultOf(response.content()))["data"]["description"], self.HTML)
        for name, value in (("content-type", "application/json"), ("x-content-type-options", "nosniff")):
            self.assertEqual(response.headers.getRawHeaders(name), [value])

    def test_html_in_errors(self) -> None:
        """So do errors that quote what was asked for, and paths that do not exist."""
        for path in (f"/v1/tasks/{'%3Cscript%3E'}", "/%3Cscript%3Ealert(1)%3C/script%3E", "/v1/tasks?x=<script>"):
            response = self.successResultOf(self.begin("GET", path))
            self.assertGreaterEqual(response.code, 400)
            self.assertEqual(response.headers.getRawHeaders("content-type"), ["application/json"])
            self.assertEqual(response.headers.getRawHeaders("x-content-type-options"), ["nosniff"])

    def test_controls(self) -> None:
        """Escapes, bidi controls and line ends in a description come back as they were, escaped by JSON."""
        hostile = "\x1b[2J\u202e\r\n\u2028\x00"
        self.receive("t1", description=hostile)
        response = self.successResultOf(self.begin("GET", "/v1/tasks/t1"))
        content = self.successResultOf(response.content())
        self.assertNotIn(b"\x1b", content)
        self.assertNotIn(b"\n", content)
        self.assertEqual(json.loads(content)["data"]["description"], hostile)
