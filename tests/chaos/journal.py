"""What a task is to do, and what the executions of tasks noted: the truth that the nodes' records are compared with.

The journal of a node is a file beside its work, on no disk that fails. Each execution appends a line to it for each of
its steps: the step, the submitter, the task id, the attempt, and the time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from attrs import define, field, frozen

START, DONE, FAILED, OVERLAP = "start", "done", "failed", "overlap"
BROKEN = "broken as asked"
"""What the error of an execution says that was to fail."""

FILENAME = "result.bin"


@frozen
class Words:
    """The description of a task: what its execution does.

    :ivar seconds: of each step.
    :ivar exit_code: 0 for success.
    :ivar cleanup: seconds from SIGTERM to the end.
    :ivar on_term: the exit code then.
    :ivar kind: ``text`` or ``file``.
    :ivar size: of the results, in bytes, without their first line.
    :ivar steps: how many; each reports progress.
    :ivar is_left: whether a person who begins it never ends it, so that its lease runs out.
    """

    seconds: float
    exit_code: int
    cleanup: float
    on_term: int
    kind: str
    size: int
    steps: int
    is_left: bool

    @classmethod
    def draw(cls, random: Random) -> Words:
        """Some task."""
        return cls(
            seconds=random.choice((0.1, 0.3, 0.7, 1.5)),
            exit_code=random.choice((0, 0, 0, 0, 3)),
            cleanup=random.choice((0, 0.3, 2, 4)),
            on_term=random.choice((143, 143, 0)),
            kind=random.choice(("text", "text", "file")),
            size=random.choice((10, 3000, 5000, 60_000)),
            steps=random.choice((1, 2, 4)),
            is_left=random.random() < 0.1,
        )

    def __str__(self) -> str:
        numbers = f"{self.seconds} {self.exit_code} {self.cleanup} {self.on_term}"
        return f"work {numbers} {self.kind} {self.size} {self.steps} {'left' if self.is_left else 'ended'}"

    @classmethod
    def parse(cls, text: str) -> Words:
        """The words of a description."""
        _, seconds, exit_code, cleanup, on_term, kind, size, steps, left = text.split()
        return cls(
            float(seconds), int(exit_code), float(cleanup), int(on_term), kind, int(size), int(steps), left == "left"
        )

    def result(self, submitter: str, task_id: str, attempt: int) -> bytes:
        """What an attempt yields."""
        return f"{submitter} {task_id} {attempt}\n".encode() + b"x" * self.size


@frozen
class Step:
    """A line of a journal."""

    what: str
    submitter: str
    task_id: str
    attempt: int
    at: float


@define
class Executions:
    """What was noted of one task at one receiver."""

    steps: list[Step] = field(factory=list)

    def attempts(self, what: str) -> list[int]:
        """The attempts that noted a step, in the order of noting."""
        return [step.attempt for step in self.steps if step.what == what]

    @property
    def is_running(self) -> bool:
        """True if the last that was noted is a start."""
        return bool(self.steps) and self.steps[-1].what == START

    def __str__(self) -> str:
        return ", ".join(f"{step.what} {step.attempt} at {step.at:.2f}" for step in self.steps) or "none"


def read_journal(path: Path) -> dict[tuple[str, str], Executions]:
    """By submitter and task id."""
    found: dict[tuple[str, str], Executions] = defaultdict(Executions)
    for line in path.read_text().splitlines() if path.exists() else ():
        what, submitter, task_id, attempt, at = line.split()
        found[submitter, task_id].steps.append(Step(what, submitter, task_id, int(attempt), float(at)))
    return found


@frozen
class Journal:
    """Notes executions that are no command: those of people, and of Python functions.

    :ivar path: of the file.
    :ivar locks: the directory of one lock for each task.
    """

    path: Path
    locks: Path

    def note(self, what: str, submitter: str, task_id: str, attempt: int) -> None:
        """Append a line, in one write."""
        line = f"{what} {submitter} {task_id} {attempt} {time.clock_gettime(time.CLOCK_REALTIME):.3f}\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    @contextmanager
    def execution(self, submitter: str, task_id: str, attempt: int) -> Iterator[None]:
        """Note that an execution started, and whether an earlier one still goes on."""
        with (self.locks / f"{submitter}-{task_id}").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note(OVERLAP, submitter, task_id, attempt)
            self.note(START, submitter, task_id, attempt)
            yield
