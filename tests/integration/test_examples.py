"""The example programs, as their readers run them; one of them on other reactors as well."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override

from tests import processes
from tests.docs.running import free_ports
from tests.integration.test_two_agents import ENVIRONMENT, TWISTD, A, Agent, B
from tests.processes import until
from tests.tiers import tier

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXT = (
    "The minutes of Monday are short. They met about the minutes. The weather was fine. "
    "The minutes of Monday say that they agreed to meet again."
)
SUMMARY = "The minutes of Monday are short. They met about the minutes."


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return processes.run([sys.executable, *arguments], env=ENVIRONMENT, capture_output=True)


class ExamplesTestCase(SynchronousTestCase):
    """A directory, ports and processes that are ended."""

    @override
    def setUp(self) -> None:
        temporary = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(temporary.cleanup)
        self.directory = Path(temporary.name)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a program that runs until it is told to stop."""
        return processes.start(
            self, command, env={**ENVIRONMENT, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def stop(self, process: subprocess.Popen[str]) -> str:
        """Have a program end, and give what it has printed."""
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        return (
            process.communicate(timeout=processes.LONGEST_SECONDS)[0]
            if process.stdout and not process.stdout.closed
            else ""
        )

    def start_worker(self, port: int, peer_port: int) -> subprocess.Popen[str]:
        """Start the agent that summarises, as B, for A."""
        return self.start(
            *(sys.executable, str(EXAMPLES / "summarise.py"), "--address", B, "--port", str(port)),
            *("--state-dir", str(self.directory / "worker"), "--peer", f"{A}=tcp:127.0.0.1:{peer_port}"),
        )


class FanOutTests(ExamplesTestCase):
    """``fan_out.py``."""

    def assert_estimated(self, done: subprocess.CompletedProcess[str]) -> None:
        """Ten agents have answered, and all is closed."""
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        self.assertEqual(len({line.split()[0] for line in lines}), 10)
        self.assertLess(abs(float(lines[-1].split()[-1]) - 3.1416), 0.1)

    def test_fan_out(self) -> None:
        """Ten agents in one process are asked, and each answers."""
        self.assert_estimated(run(str(EXAMPLES / "fan_out.py")))

    @tier("full")
    def test_other_reactors(self) -> None:
        """The same program runs on other reactors."""
        for reactor in ("asyncioreactor", "selectreactor"):
            program = (
                f"from twisted.internet import {reactor}; {reactor}.install(); import runpy; "
                f"runpy.run_path({str(EXAMPLES / 'fan_out.py')!r}, run_name='__main__')"
            )
            self.assert_estimated(run("-c", program))


class BareProtocolTests(ExamplesTestCase):
    """``bare_protocol.py``."""

    def test_exchange(self) -> None:
        """One task is done, the other is declined."""
        done = run(str(EXAMPLES / "bare_protocol.py"))
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(
            done.stdout.splitlines(),
            [
                "'shout this' is answered 200 Task accepted and queued",
                "'shout this' is success: 'SHOUT THIS'",
                "'und dies für später' is answered 400 Task rejected",
            ],
        )


@tier("full")
class SummariseTests(ExamplesTestCase):
    """``summarise.py``, which a daemon submits to."""

    def test_summary(self) -> None:
        """A text is summarised, one that cannot be is refused with the reason, and the program ends cleanly."""
        ports = free_ports(2)
        asker = Agent(self.directory / "a", A, ports[0], B, ports[1])
        asker.start()
        self.addCleanup(asker.stop)
        worker = self.start_worker(ports[1], ports[0])
        done = asker.run("submit", B, TEXT, "--wait")
        self.assertEqual((done.returncode, done.stdout), (0, SUMMARY + "\n"))
        self.assertIn("there is not a single sentence", asker.run("submit", B, "nothing", "--wait").stderr)
        self.assertEqual((self.stop(worker), worker.returncode), ("", 0))


ASGI_SERVER = """
import asyncio, json, sys
sys.path.insert(0, sys.argv[1])
from asgi_app import app

async def serve():
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    life = asyncio.create_task(app({"type": "lifespan"}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    started = await from_app.get()
    assert started["type"] == "lifespan.startup.complete", started

    async def ask(text, method="POST", host="127.0.0.1:8000", **others):
        headers = [(name.encode(), value.encode()) for name, value in {"host": host, **others}.items() if value]
        request, answers = asyncio.Queue(), asyncio.Queue()
        await request.put({"type": "http.request", "body": text[:5].encode(), "more_body": True})
        await request.put({"type": "http.request", "body": text[5:].encode()})
        await app({"type": "http", "method": method, "headers": headers}, request.get, answers.put)
        return (await answers.get())["status"], (await answers.get())["body"].decode()

    for text in sys.argv[2:]:
        print(*await ask(text))
    for other in (
        {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:8001"}, {"host": ""},
        {"host": "evil.example:8000"}, {"host": "evil.example:8000", "origin": "http://evil.example:8000"},
        {"host": "127.0.0.1.evil.example:8000"},
    ):
        status, _ = await ask(sys.argv[2], **other)
        assert status == 403, (other, status)
    status, _ = await ask(sys.argv[2], "GET")
    assert status == 405, status
    status, _ = await ask(sys.argv[2], origin="http://127.0.0.1:8000")
    assert status == 200, status
    await to_app.put({"type": "lifespan.shutdown"})
    print((await from_app.get())["type"])
    await life

asyncio.run(serve())
"""


class AsgiAppTests(ExamplesTestCase):
    """``asgi_app.py``, on the event loop of a server that is not Twisted's."""

    def test_asgi(self) -> None:
        """Each request awaits a task, and gets its results or why there are none; then all of it ends."""
        task, work = free_ports(2)
        self.start_worker(work, task)
        server = self.start(
            *(sys.executable, "-c", ASGI_SERVER, str(EXAMPLES), TEXT, "nothing"),
            TASK_PORT=str(task),
            STATE_DIR=str(self.directory / "asgi"),
            WORKER=f"{B}=tcp:127.0.0.1:{work}",
        )
        printed, _ = server.communicate(timeout=processes.LONGEST_SECONDS)
        first, second, last = printed.splitlines()
        self.assertEqual(first, "200 " + json.dumps({"summary": SUMMARY}))
        self.assertRegex(second, "^502 .*there is not a single sentence in the text")
        self.assertEqual((last, server.returncode), ("lifespan.shutdown.complete", 0))


class WebAppTests(ExamplesTestCase):
    """``web_app.py``, with the agent that summarises behind it."""

    def ask(
        self, port: int, path: str, text: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """One request: its status, and what its JSON says."""
        data = None if text is None else text.encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=processes.LONGEST_SECONDS) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except urllib.error.URLError:
            return 0, None

    def test_web(self) -> None:
        """A text that is posted becomes a summary; what went wrong, and what is not there, is said."""
        web, task, work = free_ports(3)
        self.start_worker(work, task)
        self.start(
            *(*TWISTD, "--nodaemon", "--pidfile=", "--python", str(EXAMPLES / "web_app.py")),
            WEB_PORT=str(web),
            TASK_PORT=str(task),
            STATE_DIR=str(self.directory / "web"),
            WORKER=f"{B}=tcp:127.0.0.1:{work}",
        )
        until(lambda: self.ask(web, "/summaries/nothing")[0] == 404, "the web server did not start")
        for text, expected in (
            (TEXT, (200, "summary", SUMMARY)),
            ("nothing", (502, "error", "there is not a single sentence in the text")),
        ):
            status, answer = self.ask(web, "/summaries", text)
            self.assertEqual(status, 202)
            path = f"/summaries/{answer['id']}"
            until(lambda path=path: self.ask(web, path)[0] != 202, "the summary never came")
            status, answer = self.ask(web, path)
            self.assertEqual((status, answer[expected[1]]), (expected[0], expected[2]))
        evil, own = "http://evil.example", f"http://localhost:{web}"
        for headers in (
            *({"Origin": evil}, {"Origin": "null"}, {"Origin": f"http://127.0.0.1:{work}"}, {"Host": "evil.example"}),
            *({"Host": f"evil.example:{web}", "Origin": f"{evil}:{web}"}, {"Host": "127.0.0.1.evil.example"}),
        ):
            self.assertEqual(self.ask(web, "/summaries", TEXT, headers)[0], 403, headers)
            self.assertEqual(self.ask(web, path, None, headers)[0], 403, headers)
        self.assertEqual(self.ask(web, "/summaries", TEXT, {"Host": f"localhost:{web}", "Origin": own})[0], 202)
