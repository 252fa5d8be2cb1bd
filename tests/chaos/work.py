"""What an executor ``python`` of the run calls, in a thread."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tasksubmit.errors import ExecutionFailed
from tasksubmit.interfaces import Execution, ExecutionResult, ResultFile
from tests.chaos.journal import BROKEN, DONE, FAILED, FILENAME, Journal, Words


def work(execution: Execution) -> ExecutionResult:
    """Do a task as `Words` has it; a thread is not asked to end, so there is no cleaning up."""
    task = execution.task
    words = Words.parse(task.description)
    journal = Journal(Path(os.environ["CHAOS_JOURNAL"]), Path(os.environ["CHAOS_LOCKS"]))
    key = str(task.peer), task.task_id, task.attempt
    with journal.execution(*key):
        for step in range(words.steps):
            execution.progress(f"{words.steps - step} to go")
            time.sleep(words.seconds)
        if words.exit_code:
            journal.note(FAILED, *key)
            raise ExecutionFailed(f"{BROKEN}: {task.task_id}")
        journal.note(DONE, *key)
    content = words.result(*key)
    return ResultFile(FILENAME, content) if words.kind == "file" else content.decode()
