"""Scripted peers of bad will, or in a bad state. A node survives each of them, and so should your application."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve
from typing_extensions import override

from tasksubmit.testing.peers import Behaviour, Line, Message, ScriptedPeer, WellBehaved
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame
from tasksubmit.wire.messages import (
    ResponseStatus,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
)

Asking = SubmitRequest | TaskStatusUpdate | TaskResultMessage
"""Messages that may want an answer."""


class NeverAnswers(Behaviour):
    """Reads all, and says nothing."""


class NeverReads(Behaviour):
    """Accepts connections and reads nothing from them."""

    @override
    def connected(self, peer: ScriptedPeer, line: Line) -> None:
        line.transport.pauseProducing()  # type: ignore[union-attr]  # of the network in memory


class HangsUp(Behaviour):
    """Closes a connection, without a word, once so many bytes have arrived on it; with 0 before any has."""

    def __init__(self, after_bytes: int = 0) -> None:
        self._after_bytes = after_bytes

    @override
    def connected(self, peer: ScriptedPeer, line: Line) -> None:
        self.heard(peer, line, b"")

    @override
    def heard(self, peer: ScriptedPeer, line: Line, data: bytes) -> None:
        if len(line.received) >= self._after_bytes:
            line.close()


class _Answers(WellBehaved):
    """Says something wrong instead of the right answer."""

    @override
    def answer(self, peer: ScriptedPeer, line: Line, message: Asking) -> None:
        self.say(peer, line, self.response(message.task_id).to_frame().encode())

    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        """Say what is wrong, knowing what is right."""


class CutsAnswer(_Answers):
    """Closes after so many bytes of the right answer."""

    def __init__(self, after_bytes: int) -> None:
        super().__init__()
        self._after_bytes = after_bytes

    @override
    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        line.send(right[: self._after_bytes])
        line.close()


class HalfAnswers(_Answers):
    """Sends half of the right answer, and then nothing."""

    @override
    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        line.send(right[: len(right) // 2])


class Dribbles(_Answers):
    """Sends the right answer, so slowly that it takes for ever: a byte every so many seconds of the clock."""

    def __init__(self, seconds: float = 1.0) -> None:
        super().__init__()
        self._seconds = seconds

    @override
    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        if right and line.lost is None:
            line.send(right[:1])
            peer.clock.callLater(self._seconds, self.say, peer, line, right[1:])


class AnswersGarbage(_Answers):
    """Answers with bytes that are no frame."""

    def __init__(self, garbage: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n") -> None:
        super().__init__()
        self._garbage = garbage

    @override
    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        line.send(self._garbage)


class AnnouncesTooMuch(_Answers):
    """Answers with the header of a frame of 4 GiB."""

    @override
    def say(self, peer: ScriptedPeer, line: Line, right: bytes) -> None:
        line.send(right[:4] + b"\xff\xff\xff\xff")


class AnswersForOthers(_Answers):
    """Answers for a task that it was never asked about."""

    @override
    def answer(self, peer: ScriptedPeer, line: Line, message: Asking) -> None:
        line.send(self.response(generate_task_id()))


class AnswersTwice(_Answers):
    """Gives each answer twice: yes, then no."""

    @override
    def answer(self, peer: ScriptedPeer, line: Line, message: Asking) -> None:
        line.send(
            self.response(message.task_id),
            SubmitResponse(message.task_id, ResponseStatus.REJECTED, "no", self.features, code="invalid"),
        )


class AnswersNonsense(_Answers):
    """Answers with a frame whose payload is no message."""

    @override
    def answer(self, peer: ScriptedPeer, line: Line, message: Asking) -> None:
        line.send(Frame(SubmitResponse.frame_type, b'["yes"]').encode())


class Floods(WellBehaved):
    """Answers each submission with so many of its own, to whoever it came from."""

    def __init__(self, count: int = 1000) -> None:
        super().__init__()
        self._count = count

    @override
    def work(self, peer: ScriptedPeer, request: SubmitRequest) -> None:
        to = Address.parse(request.from_addr)
        tasks = (generate_task_id() for _ in range(self._count))
        peer.say(to, *(SubmitRequest(task_id, "flood", str(peer.address), str(to), self.features) for task_id in tasks))

    @override
    def received(self, peer: ScriptedPeer, line: Line, message: Message) -> None:
        super().received(peer, line, message)
        if isinstance(message, SubmitRequest):
            self.work(peer, message)


class LiesAboutTime(WellBehaved):
    """Does every task at once, and claims that it took ages, in milliseconds."""

    def __init__(self, result: str = "done", time_cpu_ms: int = 10**12) -> None:
        super().__init__(result)
        self._time_cpu_ms = time_cpu_ms

    @override
    def results(self, peer: ScriptedPeer, task_id: str) -> Iterable[TaskResultMessage]:
        for message in super().results(peer, task_id):
            yield evolve(message, time_cpu_ms=self._time_cpu_ms)


BAD_FILE_NAMES = (
    "../../etc/cron.d/job.md",
    "/etc/passwd.txt",
    "..\\..\\autoexec.bat",
    "work.py",
    "run.SH",
    "no-extension",
    ".md",
    "..",
    "",
    "null\0byte.md",
    "line\nbreak.md",
    "x" * 5000 + ".md",
)
"""Names that results must not have (wire.md, section 5)."""


class BadFileNames(WellBehaved):
    """Sends results of each task as files whose names are dangerous, all of them one after the other."""

    def __init__(self, names: Iterable[str] = BAD_FILE_NAMES) -> None:
        super().__init__("")
        self._names = tuple(names)

    @override
    def results(self, peer: ScriptedPeer, task_id: str) -> Iterable[TaskResultMessage]:
        for name in self._names:
            yield TaskResultMessage(
                task_id, "file", filename=name, file_data=b"content", completed_at=peer.now(), ack=True
            )

    @override
    def work(self, peer: ScriptedPeer, request: SubmitRequest) -> None:
        peer.say(Address.parse(request.from_addr), *self.results(peer, request.task_id))
