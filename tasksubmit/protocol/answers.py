"""What a server says: decisions and errors put into answers, and into words for the log."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.interfaces import IAddress

from tasksubmit.errors import TaskSubmitError
from tasksubmit.wire.messages import FEATURES, ResponseStatus, SubmitResponse


def response(answer: object, task_id: str) -> SubmitResponse:
    """The answer of a handler in full.

    :raises TypeError: it is none.
    """
    if isinstance(answer, SubmitResponse):
        return answer
    if answer is True:
        return SubmitResponse(task_id, ResponseStatus.ACCEPTED, "Task accepted and queued")
    if answer is False:
        return SubmitResponse(task_id, ResponseStatus.REJECTED, "Task rejected")
    raise TypeError(f"the handler answered {answer!r}, which is neither a bool nor a SubmitResponse")


def rejection(task_id: str, code: str, message: str) -> SubmitResponse:
    """The answer that says no."""
    return SubmitResponse(task_id, ResponseStatus.REJECTED, message, code=code)


def encode(answer: SubmitResponse) -> bytes:
    """The bytes of an answer, with our features in it.

    :raises ValueError: it cannot be written, which is no fault of the peer's.
    """
    try:
        if answer.features != FEATURES:
            answer = evolve(answer, features=FEATURES)
        return answer.to_frame().encode()
    except TaskSubmitError as error:
        raise ValueError(f"an answer cannot be written: {error}") from error


def quoted(text: str, max_characters: int = 80) -> str:
    """Print what a peer wrote, or had a part in, so that it can neither forge a line of the log nor flood it."""
    return repr(text[:max_characters])


def printable(address: IAddress | None) -> str:
    """Print where a connection comes from. Not every transport has hosts and ports."""
    host = getattr(address, "host", None)
    return str(address) if host is None else f"{host} port {getattr(address, 'port', '?')}"
