"""The commands and the program of the page on TLS, run as they stand there, on ports that are free."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import TestCase

from tests.integration.test_readme import ROOT, on_free_ports

PAGE = ROOT / "docs" / "tls.rst"


def blocks(language: str) -> list[str]:
    """The code blocks of one language, without their indentation."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", PAGE.read_text(), re.M)
    return [dedent(block).strip() + "\n" for block in found]


class PageTests(TestCase):
    """Whatever the page tells people to type works."""

    def test_page(self) -> None:
        """Every command succeeds, in this order, but the submission that is to be refused; then the program starts."""
        directory = tempfile.TemporaryDirectory(prefix="tasksubmit-")
        self.addCleanup(directory.cleanup)
        commands = Path(directory.name) / "bin"
        commands.mkdir()
        for name, program in {
            "twistd": "from twisted.scripts.twistd import run; run()",
            "tasksubmit": "from tasksubmit.cli import main; main()",
        }.items():
            (commands / name).write_text(f"#!{sys.executable}\n{program}\n")
            (commands / name).chmod(0o755)
        script = "\n".join(re.sub(r"^\$ ", "", block, flags=re.M) for block in blocks("console"))
        [program] = blocks("python")
        interrupt = "from twisted.internet import reactor\nreactor.callLater(0.2, reactor.stop)\n"
        (Path(directory.name) / "program.py").write_text(interrupt + program)
        cleanup = "trap 'kill $(cat *.pid 2>/dev/null) 2>/dev/null || true' EXIT"
        wait = "while [ -e a.pid ] || [ -e b.pid ]; do sleep 0.1; done"
        text = on_free_ports("\n".join([cleanup, script, wait, f"{sys.executable} program.py"]))
        done = subprocess.run(
            ["bash", "-euc", text],
            cwd=directory.name,
            env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        for words in (
            "the running node has taken it up",
            "connections  1",
            "made the next key",
            "0:0000.0000.0001 is not trusted any more",
            "refuses the own certificate",
        ):
            self.assertIn(words, done.stdout)
        self.assertEqual(done.stderr, "")
