"""The messages that two agents exchange (wire.md, section 2), and what a node of ours adds to them (section 6).

Reading has two steps. ``from_frame`` *decodes*: it takes whatever a peer may lawfully send. ``validate`` then refuses
what no honest peer sends. Addresses and times are plain text in messages; see `Address.parse` and `parse_time`.

Decoding refuses some sloppy input that deployed peers read, and that none of them writes: a key in another letter
case, a key that comes twice, text that is not UTF-8 or has half a surrogate pair, the document ``null``, base64 with
line breaks, bytes as an array of integers, numbers of over 300 characters, and more than 100,000 values. Null in place
of a value reads as the field's zero value, and loose bits at the end of base64 are ignored, as they do.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable
from itertools import islice
from typing import ClassVar

from attrs import evolve, frozen
from typing_extensions import Self, override

from tasksubmit.errors import InvalidAddress, InvalidMessage, InvalidTime
from tasksubmit.lifecycle.results import check_result_filename
from tasksubmit.lifecycle.table import TaskStatus
from tasksubmit.pieces import PIECE, in_pieces
from tasksubmit.validation import FUNCTION
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, FrameType
from tasksubmit.wire.records import Message, anything, base64, check_frame, flag, integer, text, words
from tasksubmit.wire.timestamps import parse_time

PERSISTENT = "persistent"
"""The feature of taking many frames on one connection and answering each request in order (wire.md, section 6)."""

ACK = "ack"
"""The feature of acknowledging status updates and results that ask for it (wire.md, section 6)."""

FEATURES = (PERSISTENT, ACK)
"""What a node of ours announces, and all that it needs to know of what others announce."""

MAX_DESCRIPTION_BYTES = 1024 * 1024
"""The longest description that is taken, unless configured otherwise, in bytes of UTF-8."""

MAX_TASK_ID = 128
"""The longest task id, in characters (wire.md, section 2)."""

MAX_TEXT_BYTES = 16 * 1024
"""The longest justification, outcome or error of a status update, in bytes of UTF-8."""

MAX_FEATURES = 32
"""How many features a message may announce."""

# It names files and rows: hence no slash and no leading dot.
_TASK_ID = re.compile(rf"(?!\.)[A-Za-z0-9._-]{{1,{MAX_TASK_ID}}}")
_FEATURE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OUTCOME = re.compile(r"[a-z_]{1,64}")
_STATUS_WORDS = frozenset(status.value for status in TaskStatus)
_RESULT_TYPES = ("text", "file")


class ResponseStatus(enum.IntEnum):
    """The answer to a request, `SubmitResponse.status`."""

    ACCEPTED = 200
    """The task was received, or the message acknowledged; the change is on disk."""

    REJECTED = 400
    """It was refused; ``message`` says why to people and ``code`` to programs."""


def generate_task_id(random_bytes: Callable[[int], bytes] = os.urandom) -> str:
    """Make an id for a new task.

    :param random_bytes: gives as many random bytes as it is asked for.
    :returns: 32 random hex digits in groups of 8-4-4-4-12, none of them fixed.
    """
    if not callable(random_bytes):
        FUNCTION.check("random_bytes", random_bytes)
    digits = random_bytes(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def known_features(announced: Iterable[str]) -> tuple[str, ...]:
    """Keep of what a peer announces the words that may be features, and no more than `MAX_FEATURES` of them."""
    return tuple(islice(filter(_FEATURE.fullmatch, announced), MAX_FEATURES))


# --- messages -----------------------------------------------------------------------------------------------------


@frozen
class SubmitRequest(Message):
    """A submitter hands over a task.

    :ivar from_addr: the submitter's address.
    :ivar to_addr: the receiver's address.
    :ivar features: what the sender can do: `PERSISTENT`, `ACK`, and words of newer peers.
    :ivar query: asks only how the task stands: a receiver that does not know the task creates nothing.
    :ivar expires_at: when the task, if it was not begun, is cancelled; empty for never.
    """

    frame_type: ClassVar[FrameType] = FrameType.SUBMIT

    task_id: str = text()
    task_description: str = text()
    from_addr: str = text()
    to_addr: str = text()
    features: tuple[str, ...] = words(omit=True)
    query: bool = flag(omit=True)
    expires_at: str = text(omit=True)

    def validate(self, max_description_bytes: int | None = None) -> None:
        """Refuse what no honest peer sends (wire.md, section 2).

        :param max_description_bytes: the longest description to take, in bytes of UTF-8; None for any.
        :raises InvalidMessage: ``field`` names the culprit.
        """
        _check_task_id(self.task_id)
        if max_description_bytes is not None:
            size_bytes = len(self.task_description.encode("utf-8"))
            if size_bytes > max_description_bytes:
                raise InvalidMessage(
                    f"a description of {size_bytes} bytes; the limit is {max_description_bytes}", "task_description"
                )
        if self.features != FEATURES and known_features(self.features) != self.features:
            raise InvalidMessage(
                f"features are up to {MAX_FEATURES} words of 1 to 64 of A-Z a-z 0-9 . _ -, which these are not",
                "features",
            )
        if self.expires_at:
            try:
                parse_time(self.expires_at)
            except InvalidTime as error:
                raise InvalidMessage(str(error), "expires_at") from None


@frozen
class SubmitResponse(Message):
    """A receiver answers a submission; in the same form either side acknowledges an update or results.

    :ivar status: a `ResponseStatus`; any 64-bit integer is read.
    :ivar message: for people, for example ``Task received with status NEW``.
    :ivar features: what the sender can do.
    :ivar code: why it was refused, for programs (wire.md, section 6).
    :ivar retry_after_s: when trying again may be worth it, in seconds; 0 for no advice.
    :ivar current_status: where the task stands, when the request changed nothing.
    :ivar outcome: of a final `current_status`, why the task ended, for programs.
    :ivar error: of the outcome ``failed``, what went wrong.
    :ivar justification: of a final `current_status`, why, for people.
    :ivar reward: the points that the submitter booked for the results, at least 1; 0 for none.
    """

    frame_type: ClassVar[FrameType] = FrameType.SUBMIT

    task_id: str = text()
    status: int = integer()
    message: str = text()
    features: tuple[str, ...] = words(omit=True)
    code: str = text(omit=True)
    retry_after_s: int = integer(omit=True)
    current_status: str = text(omit=True)
    outcome: str = text(omit=True)
    error: str = text(omit=True)
    justification: str = text(omit=True)
    reward: int = integer(omit=True)

    @classmethod
    @override
    def from_frame(cls, frame: Frame) -> Self:
        """Read the answer in a frame of any type, as deployed peers do.

        :raises MalformedMessage: the payload is not this message.
        """
        check_frame(frame)
        return cls.from_json(frame.payload)


@frozen
class TaskStatusUpdate(Message):
    """One side tells the other where a task stands now.

    :ivar status: one of the eight words of `TaskStatus`.
    :ivar justification: why, for people; of EXECUTING, how far the work is.
    :ivar ack: asks for an acknowledgement.
    :ivar outcome: how a task ended, for programs (wire.md, section 6).
    :ivar error: of the outcome ``failed``, what went wrong.
    :ivar from_addr: the sender's address.
    """

    frame_type: ClassVar[FrameType] = FrameType.STATUS_UPDATE

    task_id: str = text()
    status: str = text()
    justification: str = text()
    ack: bool = flag(omit=True)
    outcome: str = text(omit=True)
    error: str = text(omit=True)
    from_addr: str = text(omit=True)

    def validate(self, max_description_bytes: int | None = None) -> None:
        """Refuse what no honest peer sends (wire.md, section 2).

        :param max_description_bytes: not used; here so that every request is validated by the same call.
        :raises InvalidMessage: ``field`` names the culprit.
        """
        _check_task_id(self.task_id)
        if self.status not in _STATUS_WORDS:
            raise InvalidMessage(f"{self.status[:40]!r} is not a status", "status")
        for name in ("justification", "outcome", "error"):
            size_bytes = len(getattr(self, name).encode("utf-8"))
            if size_bytes > MAX_TEXT_BYTES:
                raise InvalidMessage(f"{name} has {size_bytes} bytes; the limit is {MAX_TEXT_BYTES}", name)
        if self.outcome and not _OUTCOME.fullmatch(self.outcome):
            raise InvalidMessage(f"{self.outcome[:40]!r} is not an outcome: 1 to 64 of a-z _", "outcome")
        _check_from_addr(self.from_addr)


@frozen
class TaskResultMessage(Message):
    """A receiver sends the results of a task.

    :ivar result_type: ``text`` or ``file``.
    :ivar result_text: the text.
    :ivar filename: the plain name of the file.
    :ivar file_data: the content of the file.
    :ivar completed_at: when the work was done.
    :ivar time_idle_ms: milliseconds from creation to acceptance, by the receiver's clock.
    :ivar time_staged_ms: milliseconds at the head of the queue.
    :ivar time_cpu_ms: milliseconds of execution.
    :ivar ack: asks for an acknowledgement.
    :ivar from_addr: the sender's address.
    """

    frame_type: ClassVar[FrameType] = FrameType.SEND_RESULTS

    task_id: str = text()
    result_type: str = text()
    result_text: str = text(omit=True)
    filename: str = text(omit=True)
    file_data: bytes = base64(omit=True)
    completed_at: str = text()
    time_idle_ms: int = integer(omit=True)
    time_staged_ms: int = integer(omit=True)
    time_cpu_ms: int = integer(omit=True)
    ack: bool = flag(omit=True)
    from_addr: str = text(omit=True)

    def validate(self, max_description_bytes: int | None = None) -> None:
        """Refuse what no honest peer sends (wire.md, section 2).

        :param max_description_bytes: not used; here so that every request is validated by the same call.
        :raises InvalidMessage: ``field`` names the culprit.
        """
        _check_task_id(self.task_id)
        if self.result_type not in _RESULT_TYPES:
            raise InvalidMessage(f"{self.result_type[:40]!r} is not a type of result: text or file", "result_type")
        if self.filename or self.result_type == "file":
            check_result_filename(self.filename)
        for name in ("time_idle_ms", "time_staged_ms", "time_cpu_ms"):
            if getattr(self, name) < 0:
                raise InvalidMessage(f"{name} is negative", name)
        _check_from_addr(self.from_addr)

    def content(self) -> bytes:
        """The results themselves: what the file holds, or the text in UTF-8.

        :raises UnicodeEncodeError: the text holds half a surrogate pair.
        """
        if self.result_type == "file":
            return self.file_data
        return b"".join([piece.encode() for piece in in_pieces(self.result_text, PIECE)])

    def frame_bytes(self) -> int:
        """The length of the payload that carries the message, without making all of it.

        :raises InvalidMessage: a field holds what cannot be written.
        """
        length = len(self.file_data)
        # What is not there is written as nothing at all; three bytes, in four characters, stand for it.
        content = b"..." if length else b""
        return len(evolve(self, file_data=content).to_json()) + 4 * ((length + 2) // 3 - len(content) // 3)


@frozen
class TaskResult(Message):
    """The old synchronous result, on the connection on which the task was submitted.

    :ivar status: ``success`` or ``error``.
    :ivar result: any JSON value. Integers are exact here; deployed peers read every number as a double.
    """

    frame_type: ClassVar[FrameType] = FrameType.RESULT

    task_description: str = text()
    status: str = text()
    result: object = anything()
    error: str = text(omit=True)
    timestamp: str = text()


def _check_from_addr(from_addr: str) -> None:
    if from_addr:
        try:
            Address.parse(from_addr)
        except InvalidAddress as error:
            raise InvalidMessage(str(error), "from_addr") from None


def _check_task_id(task_id: str) -> None:
    if not _TASK_ID.fullmatch(task_id):
        raise InvalidMessage(
            f"{task_id[:40]!r} is not a task id: 1 to {MAX_TASK_ID} of A-Z a-z 0-9 . _ - with no dot in front",
            "task_id",
        )
