"""The command line against a node in memory."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from typing_extensions import override

from tasksubmit.cli.commands import tasksubmit
from tasksubmit.cli.control import Control
from tasksubmit.cli.session import Session
from tests.web.harness import NodeTestCase

T = TypeVar("T")

_LONGEST_SECONDS = 2000


class Stream(io.TextIOWrapper):
    """A standard stream in memory, which may claim to be a terminal."""

    def __init__(self, content: bytes = b"", is_terminal: bool = False, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(content), encoding=encoding, write_through=True)
        self._is_terminal = is_terminal

    @override
    def isatty(self) -> bool:
        return self._is_terminal

    def written(self) -> bytes:
        """All that was written."""
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


class BrokenStream(Stream):
    """A standard stream that takes nothing.

    :param number: of the error, such as ``errno.ENOSPC``.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    @override
    def write(self, text: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@frozen
class Done:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


@define
class MemorySession(Session):
    """Asks the node of a test; while nothing else happens, seconds pass."""

    test: Any = None

    @override
    def ask(self, work: Callable[[Control], Awaitable[T]]) -> T:
        async def asked() -> T:
            return await work(Control(self.test.treq, "memory", self.test.clock))

        outcomes: list[Any] = []
        Deferred.fromCoroutine(asked()).addBoth(outcomes.append)
        for _ in range(_LONGEST_SECONDS):
            if outcomes:
                break
            self.test.clock.advance(1)
            self.test.treq.flush()
        else:
            raise AssertionError("the command does not end")
        (outcome,) = outcomes
        if isinstance(outcome, Failure):
            outcome.raiseException()
        answer: T = outcome
        return answer


class CommandTestCase(NodeTestCase):
    """Runs commands against the node."""

    def run_command(
        self, *arguments: str, stdin: bytes = b"", is_terminal: bool = False, stdout: Stream | None = None
    ) -> Done:
        """Run one command."""
        stdout, stderr = stdout or Stream(is_terminal=is_terminal), Stream()
        for name, stream in (("stdin", Stream(stdin, is_terminal)), ("stdout", stdout), ("stderr", stderr)):
            self.patch(sys, name, stream)
        try:
            tasksubmit.main(args=arguments, prog_name="tasksubmit", obj=MemorySession(test=self))
        except SystemExit as exit:
            code = exit.code
        return Done(int(code or 0), stdout.written().decode(stdout.encoding), stderr.written().decode())

    def ok(self, *arguments: str, stdin: bytes = b"", is_terminal: bool = False) -> str:
        """What a command prints that succeeds."""
        done = self.run_command(*arguments, stdin=stdin, is_terminal=is_terminal)
        self.assertEqual((done.exit_code, done.stderr), (0, ""), done)
        return done.stdout

    def data(self, *arguments: str) -> Any:
        """The data that a command answers to a program."""
        return self.envelope(*arguments)["data"]

    def envelope(self, *arguments: str) -> dict[str, Any]:
        """All that a command answers to a program."""
        line = self.ok(*arguments, "--json")
        self.assertEqual(line.count("\n"), 1)
        envelope: dict[str, Any] = json.loads(line)
        self.assertEqual(envelope["status"], "ok")
        self.assertEqual(set(envelope) - {"total", "is_total_exact", "more"}, {"status", "data"})
        return envelope

    def failed(self, *arguments: str, exit_code: int = 1) -> str:
        """The one line that a command complains with."""
        done = self.run_command(*arguments)
        self.assertEqual((done.exit_code, done.stdout), (exit_code, ""), done)
        self.assertTrue(done.stderr.startswith("tasksubmit: "), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        return done.stderr
