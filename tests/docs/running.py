"""Runs the samples of a page: one directory, one shell, real processes, ports that are free."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from tests.docs.pages import ROOT, Block
from tests.processes import LONGEST_SECONDS, run

WRITTEN_PORTS = ("11003", "11004", "11005")
"""What the pages call the ports."""

PROGRAMS = {
    "python": "",
    "twistd": "from twisted.scripts.twistd import run; run()",
    "tasksubmit": "from tasksubmit.cli import main; main()",
}

# A program of a page that runs a reactor is interrupted after a moment, as by Ctrl-C.
INTERRUPT = "from twisted.internet import reactor as _reactor; _reactor.callLater(0.5, _reactor.stop)\n"

# Pages show times as they look; which time it is differs with each run.
TIME = re.compile(r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}[T ])?[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z")

COMPARE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@frozen
class Step:
    """One command, and what it is said to print, if anything."""

    where: str
    command: str
    output: str = ""


class SampleFailed(Exception):
    """A sample does not do what its page says."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def steps(blocks: Iterable[Block]) -> list[Step]:
    """What is to be done for the blocks of a page, in order."""
    found = []
    for block in blocks:
        where = f"{block.page.relative_to(ROOT)}:{block.line}"
        name = block.caption or f"block-{block.line}.{block.language}"
        text = INTERRUPT + block.text if block.language == "python" and not block.caption else block.text
        if block.language == "console":
            found += [Step(where, command, output) for command, output in block.commands()]
            continue
        folder = f"mkdir -p {shlex.quote(str(Path(name).parent))}"
        found.append(Step(where, f"{folder}\ncat > {shlex.quote(name)} <<'END OF FILE'\n{text}END OF FILE"))
        if block.caption:
            continue
        elif block.language == "python":
            found.append(Step(where, f"python {name}", block.prints))
        elif block.language == "toml":
            found.append(Step(where, f"tasksubmit run --config {name} --check"))
    return found


def run_page(blocks: list[Block]) -> None:
    """Run the blocks of one page.

    :raises SampleFailed: naming the place, the command and what it printed.
    """
    _run_sessions(block for block in blocks if block.language == "pycon")
    todo = steps(block for block in blocks if block.language != "pycon")
    if todo:
        with tempfile.TemporaryDirectory(prefix="tasksubmit-", ignore_cleanup_errors=True) as directory:
            _run_steps(todo, Path(directory))


def _run_sessions(blocks: Iterable[Block]) -> None:
    names: dict[str, object] = {}
    for block in blocks:
        page = str(block.page.relative_to(ROOT))
        test = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line)
        test.globs = names
        told: list[str] = []
        failed, _ = doctest.DocTestRunner(verbose=False, optionflags=COMPARE).run(
            test, out=told.append, clear_globs=False
        )
        if failed:
            raise SampleFailed("".join(told))


def _run_steps(todo: list[Step], directory: Path) -> None:
    ports = dict(zip(WRITTEN_PORTS, map(str, free_ports(len(WRITTEN_PORTS))), strict=True))
    marks = [f"-- {number} {os.urandom(6).hex()}" for number in range(len(todo))]
    script = "\n".join(f"echo {shlex.quote(mark)}\n{step.command}" for mark, step in zip(marks, todo, strict=True))
    for written, free in ports.items():
        script = script.replace(written, free)
    done = _shell(script, directory)
    said = done.stdout
    for written, free in ports.items():
        said = said.replace(free, written)
    outputs = [_between(said, mark, marks) for mark in marks]
    reached = [step for step, mark in zip(todo, marks, strict=True) if f"{mark}\n" in said]
    if done.returncode:
        step, got = reached[-1], outputs[len(reached) - 1]
        raise SampleFailed(f"{step.where}: $ {step.command}\nended with {done.returncode} and said:\n{got}")
    checker = doctest.OutputChecker()
    for step, got in zip(todo, outputs, strict=True):
        expected, printed = (TIME.sub("TIME", text) for text in (step.output + "\n", got))
        if step.output and not checker.check_output(expected, printed, COMPARE):
            raise SampleFailed(f"{step.where}: $ {step.command}\nsaid:\n{got}\nand not:\n{step.output}")
        if "Traceback (most recent call last)" in got:
            raise SampleFailed(f"{step.where}: $ {step.command}\nsaid:\n{got}")


def _between(said: str, mark: str, marks: list[str]) -> str:
    """What was said after a mark and before the next one."""
    after = said.partition(f"{mark}\n")[2]
    for other in marks[marks.index(mark) + 1 :]:
        after = after.partition(f"{other}\n")[0]
    return after


def _shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a directory, with the programs of this checkout; ends every node that it leaves."""
    programs = directory / ".programs"
    programs.mkdir()
    checkout = f'export PYTHONPATH="${{PYTHONPATH:+$PYTHONPATH:}}"{shlex.quote(str(ROOT))}\n'
    for name, program in PROGRAMS.items():
        path = programs / name
        code = f"-c {shlex.quote(program)} " if program else ""
        path.write_text(f'#!/bin/sh\n{checkout}exec {shlex.quote(sys.executable)} {code}"$@"\n')
        path.chmod(0o755)
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TASKSUBMIT_")}
    environ |= {"PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "100"}
    end = 'set +e; for one in *.pid; do kill "$(cat "$one")"; done 2>/dev/null; kill $(jobs -p) 2>/dev/null'
    path = directory / ".script"
    path.write_text(f"set -euo pipefail\ntrap {shlex.quote(end)} EXIT\n{script}\n")
    try:
        return run(
            ["bash", str(path)],
            cwd=directory,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    finally:
        _wait_for_end(directory)


def _wait_for_end(directory: Path) -> None:
    """Wait until the nodes are gone, and their pid files with them; one that hangs is killed."""
    until = time.monotonic() + LONGEST_SECONDS
    for pidfile in directory.glob("*.pid"):
        while pidfile.exists() and time.monotonic() < until:
            time.sleep(0.02)
        with suppress(OSError, ValueError):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)
