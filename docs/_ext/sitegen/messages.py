"""Every message and its fields, from the classes that read and write them."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any, get_type_hints

from attrs import fields

from sitegen.rst import first_paragraph, literal, prose, table, title
from tasksubmit import (
    PoloScoreBreakdown,
    SubmitRequest,
    SubmitResponse,
    TaskFile,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
)

MESSAGES: tuple[type[Any], ...] = (
    SubmitRequest,
    SubmitResponse,
    TaskStatusUpdate,
    TaskResultMessage,
    TaskResult,
    TaskFile,
    PoloScoreBreakdown,
)

_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    bytes: "base64",
    tuple[str, ...]: "list of strings",
    object: "any JSON",
}

_SAME = {
    "task_id": "the task's id",
    "task_description": "what is to be done",
    "created_at": "when the task was created",
    "accepted_at": "when it was accepted or declined",
    "execute_started_at": "when the execution began",
    "completed_at": "when the work was done",
    "status": "one of the eight words of ``TaskStatus``",
    "status_justification": "why it stands there, for people",
    "from": "the submitter's address",
    "error": "what went wrong",
    "timestamp": "when the work was done",
}
"""What a field is where its class does not say."""


def messages() -> str:
    """A section for each message."""
    return "".join(_message(cls) for cls in MESSAGES)


def _message(cls: type[Any]) -> str:
    frame_type = getattr(cls, "frame_type", None)
    frame = f"Frame type {frame_type.value}, {frame_type.name}. " if frame_type is not None else ""
    always = json.loads(cls().to_json())
    meanings = _ivars(cls)
    types = get_type_hints(cls)
    rows = []
    for attribute in fields(cls):
        key = attribute.name.rstrip("_")
        rows.append(
            (
                literal(key),
                _TYPES[types[attribute.name]],
                "always" if key in always else "unless empty",
                meanings.get(key) or _SAME[key],
            )
        )
    head = title(cls.__name__) + f"{frame}{first_paragraph(cls.__doc__)}\n\n"
    return head + table(("key", "type", "written", "what it is"), rows, "24 16 14 46")


def _ivars(cls: type[Any]) -> dict[str, str]:
    found = re.findall(r"^:ivar (\w+): ((?:.|\n(?!:|\n))+)", inspect.cleandoc(cls.__doc__ or ""), re.M)
    return {name: " ".join(prose(text).split()).rstrip(".") for name, text in found}
