"""What is fuzzed: each target takes any bytes, and raises when something is wrong with what came of them.

What a target lets pass are the errors that the parser promises; any other exception is a finding, and so is an answer
that contradicts itself. Targets are pure, but for those that need a node or a state directory, which they make once.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from datetime import datetime, timezone
from functools import lru_cache
from io import StringIO
from pathlib import Path
from queue import Queue
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    ConfigurationError,
    FrameTooLarge,
    InvalidAddress,
    InvalidMessage,
    InvalidTime,
    MalformedMessage,
    StoreError,
)
from tasksubmit.lifecycle.results import check_result_filename, disk_name, numbered
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.executors import make_executor
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.settings import Settings, load_settings
from tasksubmit.stores.check import check_state
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.tap import Options, _peers, _server_endpoints
from tasksubmit.testing import MemoryNetwork
from tasksubmit.testing.contracts.samples import OWN, PEER
from tasksubmit.tls.identity import make_certificate, make_key, pin_of
from tasksubmit.tls.judgement import Inspection
from tasksubmit.tls.trust import CA, Trust, TrustedPeer, read_trust
from tasksubmit.web import control_site
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import Frame, FrameDecoder
from tasksubmit.wire.jsontext import decode_object
from tasksubmit.wire.messages import SubmitRequest, SubmitResponse, TaskResult, TaskResultMessage, TaskStatusUpdate
from tasksubmit.wire.taskfile import TaskFile
from tasksubmit.wire.timestamps import format_time, parse_time
from tests.processes import LONGEST_SECONDS
from tests.stores.test_check import CONTENT, make_state

MESSAGES = (SubmitRequest, SubmitResponse, TaskStatusUpdate, TaskResultMessage, TaskResult)

_CUT_BYTES = 4


def frames(data: bytes) -> None:
    """However a stream is cut, the same frames come out, and those that came out make the stream again."""
    cuts, stream = data[:_CUT_BYTES], data[_CUT_BYTES:]

    def read(chunks: Iterator[bytes]) -> tuple[list[Frame], str]:
        decoder, found = FrameDecoder(max_frame=1000), []
        try:
            for chunk in chunks:
                found += decoder.feed(chunk)
        except FrameTooLarge as error:
            return found + error.frames, str(error)
        assert decoder.buffered_bytes < 1008
        return found, ""

    whole = read(iter([stream]))
    steps = [1 + cut for cut in cuts] or [1]

    def pieces() -> Iterator[bytes]:
        start = count = 0
        while start < len(stream):
            end = start + steps[count % len(steps)]
            yield stream[start:end]
            start, count = end, count + 1

    assert read(pieces()) == whole
    assert stream.startswith(b"".join(frame.encode() for frame in whole[0]))


def messages(data: bytes) -> None:
    """A payload is refused, or read into a message that is written and read again as the same."""
    kind = MESSAGES[data[0] % len(MESSAGES)] if data else SubmitRequest
    try:
        message = kind.from_frame(Frame(kind.frame_type, data[1:]))
    except MalformedMessage:
        return
    try:
        again = message.to_frame()
    except InvalidMessage:
        return  # a number of which JSON has no form, say
    assert kind.from_frame(again) == message, message
    if isinstance(message, SubmitRequest | TaskStatusUpdate | TaskResultMessage):
        try:
            message.validate(1000)
        except InvalidMessage:
            return
        assert message.task_id.isascii() and "/" not in message.task_id


def jsontext(data: bytes) -> None:
    """What is read as JSON is what the standard library reads."""
    try:
        document = decode_object(data)
    except MalformedMessage:
        return
    assert document == json.loads(data)


def taskfile(data: bytes) -> None:
    """A task file is refused, or written and read again as the same."""
    try:
        task = TaskFile.from_json(data)
        again = task.to_json()
    except (MalformedMessage, InvalidMessage):
        return
    assert TaskFile.from_json(again) == task


def addresses(data: bytes) -> None:
    """An address is refused, or has one form that reads as the same."""
    try:
        address = Address.parse(data.decode("utf-8", "replace"))
    except InvalidAddress:
        return
    assert Address.parse(str(address)) == address


def times(data: bytes) -> None:
    """A time is refused, or can be written to the second and read again, unless UTC puts it out of all years."""
    try:
        moment = parse_time(data.decode("utf-8", "replace"))
    except InvalidTime:
        return
    try:
        written = format_time(moment)
    except InvalidTime:
        assert moment.utcoffset()
        return
    assert parse_time(written) == moment.replace(microsecond=0)


def filenames(data: bytes) -> None:
    """A file name is refused, or is one name of a file in whatever directory, that can be printed."""
    name = data.decode("utf-8", "surrogateescape")
    try:
        check_result_filename(name)
    except InvalidMessage:
        return
    for kept in (name, disk_name("t" * 128, name), numbered(disk_name("t", name), 12345)):
        assert Path("/d", kept).parent == Path("/d") and kept.isprintable(), kept
        assert not kept.startswith(".") and len(kept.encode()) <= 255, kept


# --- configuration ------------------------------------------------------------------------------------------------


@lru_cache
def _scratch() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="tasksubmit-fuzz-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _parts(settings: Settings) -> None:
    """Make what settings describe by text; nothing listens or dials."""
    reactor = MemoryReactorClock()
    _server_endpoints(settings, reactor)
    _peers(settings, reactor)


def configuration(data: bytes) -> None:
    """A configuration file is refused in one line, or gives settings whose parts can be made, or are refused in one."""
    path = _scratch() / "config.toml"
    path.write_bytes(data)
    try:
        _parts(load_settings({}, path, {"XDG_STATE_HOME": "/var/state"}))
    except ConfigurationError as error:
        assert len(str(error)) < 100_000


def options(data: bytes) -> None:
    """Options are refused as wrong, print something, or give settings."""
    arguments = [part.decode("utf-8", "replace") for part in data.split(b"\0")]
    try:
        with redirect_stdout(StringIO()):
            Options().parseOptions(["--address", "0:0000.0000.0001", *arguments])
    except (UsageError, SystemExit):
        pass


def endpoints(data: bytes) -> None:
    """Texts of endpoints are refused, or describe some."""
    text = data.decode("utf-8", "replace")
    for given in ({"listen": [text], "insecure": True}, {"peer": [f"0:0000.0000.0002={text}"]}, {"control": text}):
        with suppress(ConfigurationError):
            _parts(load_settings({"address": "0:0000.0000.0001", **given}, None, {"XDG_STATE_HOME": "/var/state"}))


def executors(data: bytes) -> None:
    """The text of an executor is refused, or describes one."""
    with suppress(ConfigurationError):
        make_executor(MemoryReactorClock(), data.decode("utf-8", "replace"))


# --- a node -------------------------------------------------------------------------------------------------------


@lru_cache
def _node() -> Node:
    clock = Clock()
    peers = StaticPeers({PEER: MemoryNetwork(clock).client_endpoint("peer")})
    node = Node(OWN, SQLiteTaskStore(None), peers, clock=clock)
    node.startService()
    return node


@contextmanager
def _nothing_fails() -> Iterator[None]:
    """Raise what the block logs as a failure: something that nobody had thought of."""
    failures: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if "log_failure" in event:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    for event in failures:
        event["log_failure"].raiseException()


class _Wire(StringTransport):
    """A connection that ends when the protocol wants it to, as those of TCP do: after what it is doing just then."""

    @override
    def abortConnection(self) -> None:
        self.loseConnection()

    @override
    def unregisterProducer(self) -> None:
        self.producer = None


def _talk(factory: IProtocolFactory, data: bytes) -> bytes:
    """What is answered to bytes that come in two pieces; the connection is closed afterwards."""
    wire = _Wire()
    protocol = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 5))
    assert protocol is not None
    with _nothing_fails():
        protocol.makeConnection(wire)
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            if piece and not wire.disconnecting:
                protocol.dataReceived(piece)
        protocol.connectionLost(Failure(ConnectionDone()))
    answered: bytes = wire.value()
    return answered


def server(data: bytes) -> None:
    """A node answers whatever a peer sends with whole answers, or hangs up; and keeps nothing of the connection."""
    answered = FrameDecoder()
    for frame in answered.feed(_talk(_node().factory, data)):
        SubmitResponse.from_frame(frame)
    assert not answered.buffered_bytes
    factory = _node().factory
    assert not factory.connections and not factory.unfinished
    assert factory.intake.in_work == factory.intake.in_work_bytes == factory.intake.unfinished_bytes == 0


def http(data: bytes) -> None:
    """The control API answers whatever is sent with JSON of its own, or closes the connection."""
    site = control_site(_node(), "9.9", clock=Clock())
    site.logFile = StringIO()
    answered = _talk(site, data)
    assert not answered or answered.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")), answered[:100]
    assert b"Traceback" not in answered
    _node().drain(0)
    _node()._inbox.is_draining = False


# --- a state directory --------------------------------------------------------------------------------------------


class _Threads:
    """As much of a reactor as a store needs: a place where answers go."""

    def __init__(self) -> None:
        self._calls: Queue[tuple[Callable[..., object], tuple[object, ...]]] = Queue()

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        self._calls.put((call, arguments))

    def callLater(self, delay: float, call: Callable[..., object], *arguments: object) -> None:
        self._calls.put((call, arguments))

    def wait(self, deferred: Deferred[Any]) -> Any:
        """What a Deferred fires with; raises what it fails with."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            call, arguments = self._calls.get(timeout=LONGEST_SECONDS)
            call(*arguments)
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]


@lru_cache
def _state() -> Path:
    directory = _scratch() / "whole"
    make_state(directory)
    return directory


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.stat().st_size)


def state(data: bytes) -> None:
    """A state directory that was tampered with is refused, or read; a result is what was saved, or is refused.

    Each seven bytes write three others over those somewhere in one of the files.
    """
    directory = _scratch() / "damaged"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(_state(), directory)
    for start in range(0, len(data) - 6, 7):
        files = _files(directory)
        path = files[data[start] % len(files)]
        content = bytearray(path.read_bytes())
        at = int.from_bytes(data[start + 1 : start + 4], "big") % len(content)
        content[at : at + 3] = data[start + 4 : start + 7]
        path.write_bytes(content)
    with suppress(StoreError):
        check_state(directory)
    with _nothing_fails(), suppress(StoreError):
        _read_all(directory)


def _read_all(directory: Path) -> None:
    threads = _Threads()
    store = SQLiteTaskStore(directory, threads)
    store.open()
    try:
        tasks: list[Task] = threads.wait(store.list_tasks(side=None, status=None, peer=None, before=None, limit=100))
        threads.wait(store.queue(10))
        for task in tasks:
            threads.wait(store.events_of(task))
            if task.result_file and task.key.side is Side.RECEIVER and len(task.result_sha256) == 64:
                content = threads.wait(store.read_result(task.result_file, task.result_sha256))
                assert content == CONTENT, content
    finally:
        threads.wait(store.close())


# --- who is trusted ----------------------------------------------------------------------------------------------


def trust(data: bytes) -> None:
    """The file of those who are trusted is refused, or is read as it is written again."""
    path = _scratch() / "trust"
    path.touch(mode=0o600)
    path.write_bytes(data)
    with suppress(ConfigurationError):
        read = read_trust(path)
        path.write_bytes(read.to_bytes())
        assert read_trust(path) == read, read


@lru_cache
def trusted() -> tuple[bytes, Trust]:
    """A certificate in DER, and those who are trusted: one by its key, another by the word of a CA."""
    certificate = make_certificate(make_key(), str(OWN), datetime(2026, 1, 1, tzinfo=timezone.utc))
    peers = (TrustedPeer(str(OWN), (pin_of(certificate),)), TrustedPeer(str(PEER), (CA,)))
    return certificate.public_bytes(Encoding.DER), Trust({peer.name: peer for peer in peers})


def certificates(data: bytes) -> None:
    """Whatever OpenSSL takes for a certificate is admitted by its key alone, or refused with a reason."""
    try:
        shown = crypto.load_certificate(crypto.FILETYPE_ASN1, data)
    except (crypto.Error, ValueError):
        return
    for expected in ("", str(OWN), str(PEER)):
        inspection = Inspection(trusted()[1], b"", expected)
        inspection.see(None, shown, 0, 0, 1)  # type: ignore[arg-type]  # the connection is not looked at
        assert (inspection.admitted is None) != (inspection.refusal is None)
        if inspection.admitted is not None:
            assert expected != str(PEER)
            assert pin_of(shown.to_cryptography()) in trusted()[1].peers[str(OWN)].pins
        else:
            assert str(inspection.refusal)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        *(frames, messages, jsontext, taskfile, addresses, times, filenames),
        *(configuration, options, endpoints, executors, server, http, state, trust, certificates),
    )
}
