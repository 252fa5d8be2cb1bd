"""The golden vectors of ``tests/vectors``, loaded for the tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskResult, TaskResultMessage, TaskStatusUpdate
from tasksubmit.wire.records import Message

Row = dict[str, Any]

VECTORS = Path(__file__).parent.parent / "vectors"

KINDS: dict[str, type[Message]] = {
    "submit_request": SubmitRequest,
    "submit_response": SubmitResponse,
    "task_result": TaskResult,
    "status_update": TaskStatusUpdate,
    "task_result_message": TaskResultMessage,
}
"""Each message kind of the vectors, and its class."""


def rows(name: str, **wanted: object) -> list[Row]:
    """Load the rows of one file.

    :param name: the file, without its ``.json``.
    :param wanted: take only rows in which these keys have these values.
    """
    loaded: list[Row] = json.loads((VECTORS / f"{name}.json").read_text("ascii"))
    return [row for row in loaded if all(row.get(key) == value for key, value in wanted.items())]


def check_rows(test: SynchronousTestCase, found: list[Row], check: Callable[[Row], None]) -> None:
    """Check each row, and then fail once, telling every row that failed and the case that it belongs to."""
    test.assertTrue(found, "no rows to check")
    failures = []
    for row in found:
        try:
            check(row)
        except Exception as error:
            failures.append(f"{row.get('case')}: {type(error).__name__}: {error}\n    {str(row)[:400]}")
    if failures:
        test.fail(f"{len(failures)} of {len(found)} rows:\n" + "\n".join(failures))
