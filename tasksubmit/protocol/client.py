"""The dialling side: one peer as seen from here, and the requests under way to it (wire.md, sections 3 and 6)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import cast

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from tasksubmit.errors import (
    CertificateRefused,
    InvalidAddress,
    InvalidMessage,
    PeerError,
    PeerUnreachable,
    PeerVanished,
    TooLarge,
)
from tasksubmit.logs import quiet_logger
from tasksubmit.protocol.arguments import CLIENT_ENDPOINT, CLOCK, checked_later
from tasksubmit.protocol.conversation import Conversation, ConversationFactory, Request
from tasksubmit.protocol.elsewhere import LARGE_BYTES, do_elsewhere
from tasksubmit.validation import (
    COUNT,
    FLAG,
    FUNCTION,
    SECONDS,
    TEXT,
    instance_of,
    optional,
    to_texts,
    whole_number,
)
from tasksubmit.wire.address import Address, to_address
from tasksubmit.wire.frames import MAX_FRAME, Frame
from tasksubmit.wire.messages import (
    ACK,
    MAX_FEATURES,
    PERSISTENT,
    SubmitRequest,
    SubmitResponse,
    TaskResult,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
    known_features,
)

TIMEOUT_SECONDS = 30.0
CONNECT_TIMEOUT_SECONDS = 10.0

WRITE_TIMEOUT_SECONDS = 300.0
"""Enough for the largest frame on a slow link. A transport does not tell how far it is, only when it is done."""

IDLE_TIMEOUT_SECONDS = 30.0
"""Well under what servers have, so that it is the dialler who closes, and not just as the next request goes out."""

MAX_UNCLAIMED_RESULTS = 16
"""Old synchronous results that are kept for `Client.next_result`; the oldest go first."""


def _to_local_address(value: Address | str) -> Address:
    return to_address(value, "local_address")


def _to_features(value: Iterable[str]) -> frozenset[str]:
    return value if type(value) is frozenset else frozenset(to_texts(value, "features"))


@define(eq=False)
class Client:
    """A peer as seen from here: sends it requests, and gives their answers.

    Made by whoever has something to send; it dials when there is something to send, and may be kept for as long as the
    peer matters. `close` it at the end. To a peer that is not known to keep connections open, each request is sent on
    one of its own, one after the other. Once a peer has announced ``persistent`` and ``ack`` one connection is kept (it
    takes both, since without acknowledgements only the close tells that an update was taken), on which requests follow
    each other without waiting for answers. It is closed when idle, and dialled again when needed.

    Every request's Deferred fails with

    - `PeerUnreachable` if no connection could be made: nothing was sent; `CertificateRefused`, which is one of these,
      if one end does not trust the other's certificate (in TLS 1.3 the dialler learns that only after it has written);
    - `PeerVanished` if the connection was lost before the answer, `PeerTimedOut` if that took over `timeout`, or
      writing over `write_timeout`: nobody knows what the peer made of it. A request that was not yet written when a
      connection is lost is dialled for again;
    - `ProtocolViolation` or `MalformedMessage` if the peer sent nonsense;
    - `InvalidMessage` or `TooLarge` if the message cannot be sent at all.

    Cancelling takes back a request that was not yet written. One that was written is not undone; its answer is dropped.

    :ivar endpoint: leads to the peer.
    :ivar local_address: who submits, for `submit_task`.
    :ivar clock: measures every time-out; the reactor, or a ``Clock``.
    :ivar features: what the peer is known to have announced; whatever it announces is added, up to `MAX_FEATURES`.
    :ivar timeout: seconds that the peer has for an answer, from when the transport had taken all of the request.
    :ivar write_timeout: seconds that the transport has for that, once its buffer is full.
    :ivar connect_timeout: seconds for making a connection, the TLS handshake included.
    :ivar max_outstanding: how many requests may be unanswered on one connection; the others wait.
    :ivar max_frame: the largest answer to take, in bytes of payload.
    :ivar idle_timeout: seconds after which an unused connection is closed; None for never.
    :ivar on_features: called with all features whenever the peer has announced new ones.
    :ivar name: what errors call the peer.
    :ivar replaces_features: whether an announcement replaces what was known, which is right for a peer that the
        endpoint authenticates; else it is added.
    :ivar keeps_results: whether old synchronous results are kept until somebody asks for them.
    """

    endpoint: IStreamClientEndpoint = field(validator=CLIENT_ENDPOINT)
    local_address: Address = field(converter=_to_local_address)
    clock: IReactorTime = field(validator=CLOCK)
    features: frozenset[str] = field(default=frozenset(), kw_only=True, converter=_to_features)
    timeout: float = field(default=TIMEOUT_SECONDS, kw_only=True, validator=SECONDS)
    write_timeout: float = field(default=WRITE_TIMEOUT_SECONDS, kw_only=True, validator=SECONDS)
    connect_timeout: float = field(default=CONNECT_TIMEOUT_SECONDS, kw_only=True, validator=SECONDS)
    max_outstanding: int = field(default=256, kw_only=True, validator=COUNT)
    max_frame: int = field(default=MAX_FRAME, kw_only=True, validator=whole_number(1, MAX_FRAME))
    idle_timeout: float | None = field(default=IDLE_TIMEOUT_SECONDS, kw_only=True, validator=optional(SECONDS))
    on_features: Callable[[frozenset[str]], object] | None = field(
        default=None, kw_only=True, validator=optional(FUNCTION)
    )
    name: str = field(default="the peer", kw_only=True, validator=TEXT)
    keeps_results: bool = field(default=True, kw_only=True, validator=FLAG)
    replaces_features: bool = field(default=False, kw_only=True, validator=FLAG)

    _queue: deque[Request] = field(factory=deque, init=False)
    _connection: Conversation | None = field(default=None, init=False)
    _dialling: Deferred[None] | None = field(default=None, init=False)
    _opening: list[Deferred[Client]] = field(factory=list, init=False)
    _closing: list[Deferred[None]] = field(factory=list, init=False)
    log: Logger = field(factory=lambda: quiet_logger(__name__), init=False)
    _is_closed: bool = field(default=False, init=False)
    _results: deque[TaskResult] = field(factory=lambda: deque(maxlen=MAX_UNCLAIMED_RESULTS), init=False)
    _result_waiters: deque[Deferred[TaskResult]] = field(factory=deque, init=False)

    # --- requests -----------------------------------------------------------------------------------------------------

    @checked_later(description=TEXT, task_id=optional(TEXT))
    def submit_task(self, description: str, to: Address | str, task_id: str | None = None) -> Deferred[SubmitResponse]:
        """Submit a task that is described in words, and announce no features.

        :param to: the receiver's address; fails with `InvalidAddress` if it is none.
        :param task_id: None to have one made; the answer carries it.
        :returns: see `submit`.
        """
        try:
            receiver = to_address(to, "to")
        except (InvalidAddress, TypeError):
            return fail()
        task_id = generate_task_id() if task_id is None else task_id
        return self.submit(SubmitRequest(task_id, description, str(self.local_address), str(receiver)))

    @checked_later(request=instance_of(SubmitRequest))
    def submit(self, request: SubmitRequest) -> Deferred[SubmitResponse]:
        """Submit a task.

        :returns: fires with the answer, also when that is a refusal; fails as the class says.
        """
        return cast("Deferred[SubmitResponse]", self._enqueue(request))

    @checked_later(task_id=TEXT, status=TEXT, justification=TEXT)
    def send_status_update(self, task_id: str, status: str, justification: str) -> Deferred[SubmitResponse | None]:
        """Tell the peer where a task stands; see `update`."""
        return self.update(TaskStatusUpdate(task_id, status, justification))

    @checked_later(update=instance_of(TaskStatusUpdate))
    def update(self, update: TaskStatusUpdate) -> Deferred[SubmitResponse | None]:
        """Tell the peer where a task stands, and ask for an acknowledgement.

        :returns: fires with the acknowledgement, also when that is a refusal; or with None if the peer never announced
            ``ack`` and closed cleanly after the frame, which is all that such a peer ever says.
        """
        return self._enqueue(evolve(update, ack=True))

    @checked_later(message=instance_of(TaskResultMessage))
    def send_results(self, message: TaskResultMessage) -> Deferred[SubmitResponse | None]:
        """Send the results of a task, and ask for an acknowledgement.

        :returns: see `update`.
        """
        message = evolve(message, ack=True)
        size_bytes = len(message.file_data) + len(message.result_text)
        if size_bytes < LARGE_BYTES:
            return self._enqueue(message)
        frame = do_elsewhere(self.clock, size_bytes, message.to_frame)
        return frame.addCallback(self._enqueue_frame, message.task_id)

    def next_result(self) -> Deferred[TaskResult]:
        """Wait for the old synchronous result, on the connection of the last submission.

        :returns: fires with the next one that nobody has taken; fails with `PeerVanished` when that connection is gone,
            which with a peer that takes one frame on each is what the next request does. Cancelling stops the waiting.
        """
        if self._results:
            return succeed(self._results.popleft())
        if not self._has_submission_queued() and not (self._connection is not None and self._connection.results_due):
            return fail(PeerVanished(f"no result of {self.name} can come: no connection of a submission is open"))
        waiter: Deferred[TaskResult] = Deferred(self._result_waiters.remove)
        self._result_waiters.append(waiter)
        return waiter

    # --- opening and closing ------------------------------------------------------------------------------------------

    def open(self) -> Deferred[Client]:
        """Dial now, to learn whether that works; the connection serves the first request.

        :returns: fires with the client, or fails with `PeerUnreachable`. Cancelling gives the dial up, unless a request
            waits for it.
        """
        if self._is_closed:
            return fail(PeerUnreachable(f"the client of {self.name} was closed"))
        if self._connection is not None and self._dialling is None:
            return succeed(self)
        opened: Deferred[Client] = Deferred(self._opening_cancelled)
        self._opening.append(opened)
        if self._dialling is None:
            self._dial()
        return opened

    def close(self) -> Deferred[None]:
        """Close the connection and send nothing more. What was not written fails as unreachable, the rest as vanished.

        :returns: fires with None when the connection is gone; never fails.
        """
        self._is_closed = True
        error = f"the client of {self.name} was closed"
        self._fail_queue(PeerUnreachable(error))
        if self._dialling is not None:
            self._dialling.cancel()
        elif self._connection is not None:
            self._connection.close()
            self._connection.fail_all(PeerVanished(error))
        if self._connection is None:
            return succeed(None)
        closed: Deferred[None] = Deferred(self._closing.remove)
        self._closing.append(closed)
        return closed

    # --- what the peer can do -----------------------------------------------------------------------------------------

    @property
    def is_persistent(self) -> bool:
        """Whether one connection is kept for many requests."""
        return PERSISTENT in self.features and ACK in self.features

    @property
    def acknowledges(self) -> bool:
        """Whether a close without an answer means that it failed (wire.md, section 6)."""
        return ACK in self.features

    @property
    def is_connected(self) -> bool:
        """True if a connection is open, on which requests can be written."""
        return self._connection is not None and self._dialling is None and self._connection.is_open

    @property
    def is_awaiting_result(self) -> bool:
        """Whether somebody waits in `next_result`."""
        return bool(self._result_waiters)

    def _learn(self, features: tuple[str, ...]) -> None:
        known = self.features
        if self.replaces_features:
            self.features = frozenset(known_features(features))
        else:
            new = [word for word in known_features(features) if word not in known]
            self.features = known.union(new[: max(0, MAX_FEATURES - len(known))])
        if self.features != known and self.on_features is not None:
            try:
                self.on_features(self.features)
            except Exception:
                self.log.failure("told of the features of {peer}, the listener failed", peer=self.name)

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _enqueue(
        self, message: SubmitRequest | TaskStatusUpdate | TaskResultMessage
    ) -> Deferred[SubmitResponse | None]:
        try:
            frame = message.to_frame()
        except InvalidMessage:
            return fail()
        return self._enqueue_frame(frame, message.task_id)

    def _enqueue_frame(self, frame: Frame, task_id: str) -> Deferred[SubmitResponse | None]:
        if self._is_closed:
            return fail(PeerUnreachable(f"the client of {self.name} was closed"))
        if frame.size_bytes > MAX_FRAME:
            return fail(TooLarge(f"{frame.size_bytes} bytes for task {task_id}; a frame has {MAX_FRAME}"))
        answered: Deferred[SubmitResponse | None] = Deferred(lambda _: self._cancelled(request))
        request = Request(frame, task_id, answered)
        self._queue.append(request)
        self._proceed()
        return answered

    def _cancelled(self, request: Request) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self._stop_needless_dial()

    def _opening_cancelled(self, opened: Deferred[Client]) -> None:
        self._opening.remove(opened)
        self._stop_needless_dial()

    def _stop_needless_dial(self) -> None:
        if self._dialling is not None and not self._queue and not self._opening:
            self._dialling.cancel()

    def _has_submission_queued(self) -> bool:
        return any(request.is_submission for request in self._queue)

    def _proceed(self) -> None:
        """Write what may be written; dial, or close a connection that has served, if that is what it takes."""
        connection = self._connection
        if connection is None:
            if self._queue:
                self._dial()
            return
        if self._dialling is not None:
            return
        while self._queue and self._may_write(connection):
            connection.write(self._queue.popleft())
        if self._queue and not self.is_persistent and connection.written_count and not connection.unanswered:
            connection.close()

    def _may_write(self, connection: Conversation) -> bool:
        if not connection.is_open or not connection.is_writable:
            return False
        return len(connection.unanswered) < self.max_outstanding if self.is_persistent else not connection.written_count

    def _fail_queue(self, error: PeerError) -> None:
        """Fail everything that waits for a connection."""
        requests, self._queue = self._queue, deque()
        opening, self._opening = self._opening, []
        for request in requests:
            request.fail(error)
        for opened in opening:
            opened.errback(error)

    # --- the connection -----------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        connection = self._connection = Conversation(self)
        self._dialling = dialling = Deferred.fromCoroutine(self._connect(connection))
        dialling.addTimeout(self.connect_timeout, self.clock, self._connect_timed_out)
        dialling.addCallbacks(self._connected, self._dial_failed, errbackArgs=(connection,))

    async def _connect(self, connection: Conversation) -> None:
        await self.endpoint.connect(ConversationFactory(connection))
        await connection.ready

    def _connect_timed_out(self, result: object, seconds: float) -> Failure:
        return Failure(PeerUnreachable(f"timed out: {self.name} could not be reached within {seconds:g} s"))

    def _connected(self, _: None) -> None:
        self._dialling = None
        opening, self._opening = self._opening, []
        self._proceed()
        for opened in opening:
            opened.callback(self)

    def _dial_failed(self, failure: Failure, connection: Conversation) -> None:
        self._dialling = None
        connection.is_wanted = False
        connection.ready.addErrback(lambda _: None)
        connection.abort()
        error = failure.value
        if not isinstance(error, PeerUnreachable):
            error = PeerUnreachable(f"{self.name} cannot be reached: {failure.getErrorMessage()}")
        # The queue first: what is asked for in consequence must find no connection, and dial.
        self._connection = None
        self._fail_queue(error)
        self._connection_gone(error)

    def _connection_lost(self, connection: Conversation, reason: Failure) -> None:
        if self._connection is connection and self._dialling is None:
            self._connection = None
            if isinstance(reason.value, CertificateRefused):  # another connection would end like this one
                self._fail_queue(reason.value)
            self._connection_gone(PeerVanished(f"{self.name} is gone: {reason.getErrorMessage()}"))

    def _connection_gone(self, error: PeerError) -> None:
        """Tell those who wait for results that none comes, and those who wait for the end that it is here."""
        if not self._has_submission_queued():
            waiters, self._result_waiters = self._result_waiters, deque()
            for waiter in waiters:
                waiter.errback(error)
        closing, self._closing = self._closing, []
        for closed in closing:
            closed.callback(None)

    def _result_received(self, result: TaskResult) -> None:
        if self._result_waiters:
            self._result_waiters.popleft().callback(result)
        elif self.keeps_results:
            self._results.append(result)


def connect(
    endpoint: IStreamClientEndpoint,
    local_address: Address | str,
    *,
    clock: IReactorTime,
    features: Iterable[str] = frozenset(),
    timeout: float = TIMEOUT_SECONDS,
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
) -> Deferred[Client]:
    """Dial a peer; see `Client` for the parameters.

    :returns: fires with a `Client` that is connected; fails with `PeerUnreachable`, and with ``TypeError``,
        ``ValueError`` or `InvalidAddress` for an argument that `Client` refuses. Cancelling gives up.
    """
    try:
        client = Client(
            endpoint, local_address, clock, features=features, timeout=timeout, connect_timeout=connect_timeout
        )
    except (TypeError, ValueError, InvalidAddress):
        return fail()
    return client.open()
