"""A node as the command line sees it: the control API, one method for each route."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from attrs import frozen

from tasksubmit.errors import TaskSubmitError
from tasksubmit.state_dir import MAX_SOCKET_PATH_BYTES

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

Json = dict[str, Any]
"""One JSON object of an answer, such as a task's record."""

FAILED, UNREACHABLE, TIMED_OUT = 1, 3, 4

ANSWER_SECONDS = 30
LONGEST_WAIT_SECONDS = 300
RECONNECT_SECONDS = 1
"""Pause before a node that is being restarted is asked again."""
_START_A_NODE = "start a node with `tasksubmit run` or `twistd tasksubmit`, or name its socket with --control"


class CommandFailed(TaskSubmitError):
    """A command could not do what it was asked to.

    :ivar message: what was wrong, without `quote`.
    :ivar hint: what can be done about it; may be empty.
    :ivar exit_code: of the process.
    :ivar quote: what another agent wrote about it, or chose, such as the name of a file; may be empty.
    """

    def __init__(self, code: str, message: str, hint: str = "", exit_code: int = FAILED, quote: str = "") -> None:
        super().__init__(f"{message}: {quote}" if quote else message)
        self.code = code
        self.message = message
        self.hint = hint
        self.quote = quote
        self.exit_code = exit_code


class NodeUnreachable(CommandFailed):
    """No connection to the node; nothing was asked of it."""

    def __init__(self, message: str, hint: str = _START_A_NODE) -> None:
        super().__init__("unreachable", message, hint, UNREACHABLE)


class AnswerLost(CommandFailed):
    """The node did not answer; whether it did what it was asked is not known."""

    def __init__(self, message: str, hint: str = "look with `tasksubmit list` before you repeat the command") -> None:
        super().__init__("unanswered", message, hint, UNREACHABLE)


@frozen
class Page:
    """A page of a list.

    :ivar total: of all pages: at least so many, and all of them if `is_total_exact`.
    :ivar more: True if the list goes on behind this page.
    """

    items: list[Json]
    total: int
    is_total_exact: bool
    more: bool

    def __iter__(self) -> Iterator[Json]:
        return iter(self.items)


@frozen
class Control:
    """Asks one node.

    Every method is a coroutine that raises `CommandFailed` with the node's own code, message and hint when the node
    refuses, `NodeUnreachable` and `AnswerLost`. ``side`` and ``peer`` tell tasks with the same id apart.

    :ivar treq: sends requests, as ``treq.client.HTTPClient`` does.
    :ivar where: what errors call the node's socket.
    :ivar clock: measures time-outs.
    :ivar token: what a node demands whose API is not on a Unix socket; empty for none.
    """

    treq: Any
    where: str
    clock: IReactorTime
    token: str = ""

    # --- the node -----------------------------------------------------------------------------------------------------

    async def node(self) -> Json:
        """Who the node is."""
        return await self._one("GET", "/node")

    async def status(self) -> Json:
        """How the node does."""
        return await self._one("GET", "/status")

    async def reload(self) -> Json:
        """Have it read keys and trust again; tells its status then."""
        return await self._one("POST", "/reload")

    async def peers(self) -> list[Json]:
        """The peers that the node knows."""
        return await self._many("/peers")

    async def score(self) -> list[Json]:
        """The ledger of polo scores."""
        return await self._many("/score")

    async def queue(self, **query: object) -> Page:
        """Return a page of the tasks that wait to be executed, in the order of taking."""
        return await self._page("/queue", query)

    async def workers(self) -> Json:
        """Who does the tasks, and what is being done."""
        return await self._one("GET", "/workers")

    async def set_enabled(self, is_enabled: bool) -> Json:
        """Whether the node takes new tasks from peers."""
        return await self._one("POST", "/enable" if is_enabled else "/disable")

    async def drain(self, timeout: int) -> Json:
        """Bring the node to rest in ``timeout`` seconds, after which it stops; tells what is left."""
        try:
            return await self._one("POST", "/drain", body={"timeout": timeout}, allow_seconds=timeout + ANSWER_SECONDS)
        except AnswerLost as error:
            raise AnswerLost(str(error), "repeat the command; a node that cannot be reached has stopped") from error

    async def purge(self, step: str, **body: object) -> Json:
        """Do one step of a purge with one batch of tasks."""
        wait = body.get("wait")
        seconds = ANSWER_SECONDS + (wait if isinstance(wait, int) else 0)
        lost = "what was removed stays removed; repeat the command for the rest"
        try:
            return await self._one("POST", "/purge", body={"step": step, **_given(**body)}, allow_seconds=seconds)
        except AnswerLost as error:
            raise AnswerLost(str(error), lost) from error

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def tasks(self, **query: object) -> Page:
        """Return a page of tasks; ``query`` filters them."""
        return await self._page("/tasks", query)

    async def task(self, task_id: str, *, side: str | None = None, peer: str | None = None) -> Json:
        """One task, and what is owed for it."""
        return await self._one("GET", _path(task_id), {"side": side, "peer": peer})

    async def story(self, task_id: str, *, side: str | None = None, peer: str | None = None) -> Json:
        """One task, all that happened to it, and what it waits for."""
        return await self._one("GET", _path(task_id, "story"), {"side": side, "peer": peer})

    async def retry(self, task_id: str, *, side: str | None = None, peer: str | None = None) -> Json:
        """Try to deliver again what was given up for a task."""
        return await self._one("POST", _path(task_id, "retry"), {"side": side, "peer": peer})

    async def submit(
        self,
        to: str,
        description: str,
        task_id: str,
        *,
        expires_at: str | None = None,
        result_due_at: str | None = None,
        deliver_by: str | None = None,
    ) -> Json:
        """Record a task, to be sent to its receiver; repeating it changes nothing."""
        optional = _given(expires_at=expires_at, result_due_at=result_due_at, deliver_by=deliver_by)
        body = {"to": to, "description": description, "task_id": task_id, **optional}
        try:
            return await self._one("POST", "/tasks", body=body)
        except AnswerLost as error:
            raise AnswerLost(str(error), f"repeat the command with --task-id {task_id}, which is safe") from error

    async def accept(self, task_id: str, *, peer: str | None = None, justification: str | None = None) -> Json:
        """Take a NEW task into the queue."""
        return await self._one("POST", _path(task_id, "accept"), {"peer": peer}, _given(justification=justification))

    async def decline(self, task_id: str, justification: str, *, peer: str | None = None) -> Json:
        """Turn a task down that was not started."""
        return await self._one("POST", _path(task_id, "decline"), {"peer": peer}, {"justification": justification})

    async def cancel(self, task_id: str, *, peer: str | None = None, reason: str | None = None) -> Json:
        """Ask for a submitted task to be withdrawn."""
        return await self._one("POST", _path(task_id, "cancel"), {"peer": peer}, _given(reason=reason))

    async def execute(self, task_id: str | None = None, *, peer: str | None = None) -> Json:
        """Begin a task; without an id it is the next of the queue."""
        if task_id is None:
            return await self._one("POST", "/execute")
        return await self._one("POST", _path(task_id, "execute"), {"peer": peer})

    async def progress(self, task_id: str, text: str, *, peer: str | None = None, attempt: int | None = None) -> Json:
        """Tell how far the execution of a task is."""
        body = {"text": text, **_given(attempt=attempt)}
        return await self._one("POST", _path(task_id, "progress"), {"peer": peer}, body)

    async def put_back(
        self, task_id: str, *, peer: str | None = None, reason: str | None = None, attempt: int | None = None
    ) -> Json:
        """Have the execution of a task begun again."""
        body = _given(reason=reason, attempt=attempt)
        return await self._one("POST", _path(task_id, "put-back"), {"peer": peer}, body)

    async def fail(self, task_id: str, error: str, *, peer: str | None = None, attempt: int | None = None) -> Json:
        """End the execution of a task that cannot be done."""
        body = {"error": error, **_given(attempt=attempt)}
        return await self._one("POST", _path(task_id, "fail"), {"peer": peer}, body)

    async def send_text(self, task_id: str, text: str, *, peer: str | None = None, attempt: int | None = None) -> Json:
        """Give a text as the results of a task."""
        body = {"text": text, **_given(attempt=attempt)}
        return await self._one("POST", _path(task_id, "results"), {"peer": peer}, body)

    async def send_file(
        self, task_id: str, filename: str, content: bytes, *, peer: str | None = None, attempt: int | None = None
    ) -> Json:
        """Give a file as the results of a task."""
        file = {"filename": filename, "content_base64": b64encode(content).decode("ascii")}
        body = {**file, **_given(attempt=attempt)}
        return await self._one("POST", _path(task_id, "results"), {"peer": peer}, body)

    async def result(self, task_id: str, *, peer: str | None = None) -> Json:
        """The results of a submitted task."""
        return await self._one("GET", _path(task_id, "result"), {"peer": peer})

    async def wait(
        self,
        task_id: str,
        condition: str,
        *,
        timeout: float | None = None,
        side: str | None = None,
        peer: str | None = None,
        is_reached: bool = False,
    ) -> Json:
        """The task as soon as it is ``answered``, ``accepted`` or ``finished``, also over a restart of the node.

        :param timeout: seconds, after which it raises `CommandFailed` ``timed_out``; None waits for ever.
        :param is_reached: True if the node was reached before. Until it was, `NodeUnreachable` ends the wait: the node
            may be another.
        """
        from twisted.internet.task import deferLater

        until = None if timeout is None else self.clock.seconds() + timeout
        while True:
            left = LONGEST_WAIT_SECONDS if until is None else max(0, round(until - self.clock.seconds()))
            piece = min(left, LONGEST_WAIT_SECONDS)
            is_last = until is not None and left <= piece
            query = {"for": condition, "timeout": piece, "side": side, "peer": peer}
            try:
                return await self._one("GET", _path(task_id, "wait"), query, allow_seconds=piece + ANSWER_SECONDS)
            except CommandFailed as error:
                if error.code == "timed_out" and not is_last:
                    continue
                # Of a node that stops, the store is the first part that an answer would need.
                is_restart = isinstance(error, AnswerLost | NodeUnreachable) or error.code == "storage"
                if not is_restart or (isinstance(error, NodeUnreachable) and not is_reached):
                    raise
                if until is not None and self.clock.seconds() + RECONNECT_SECONDS > until:
                    message = f"task {task_id} is not known to be {condition} after {timeout:g} s: {error}"
                    raise CommandFailed("timed_out", message, error.hint, TIMED_OUT) from error
            is_reached = True
            await deferLater(self.clock, RECONNECT_SECONDS)

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _one(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
        allow_seconds: float = ANSWER_SECONDS,
    ) -> Json:
        answer = await self._ask(method, path, query, body, allow_seconds)
        return answer if isinstance(answer, dict) else self._nonsense()

    async def _many(self, path: str) -> list[Json]:
        answer = await self._ask("GET", path, None, None, ANSWER_SECONDS)
        return answer if isinstance(answer, list) else self._nonsense()

    async def _page(self, path: str, query: Mapping[str, object]) -> Page:
        envelope = await self._envelope("GET", path, query, None, ANSWER_SECONDS)
        try:
            return Page(envelope["data"], envelope["total"], envelope["is_total_exact"], envelope["more"])
        except KeyError:
            self._nonsense()

    def _nonsense(self) -> NoReturn:
        raise CommandFailed("malformed", f"what answers at {self.where} is not a tasksubmit node", _START_A_NODE)

    async def _ask(
        self, method: str, path: str, query: Mapping[str, object] | None, body: object, allow_seconds: float
    ) -> Any:
        return (await self._envelope(method, path, query, body, allow_seconds))["data"]

    async def _envelope(
        self, method: str, path: str, query: Mapping[str, object] | None, body: object, allow_seconds: float
    ) -> Json:
        from twisted.internet.defer import Deferred
        from twisted.internet.error import ConnectError, ConnectionClosed
        from twisted.internet.error import TimeoutError as ConnectTimedOut
        from twisted.python.failure import Failure
        from twisted.web.client import RequestTransmissionFailed, ResponseFailed

        def timed_out(result: Any, seconds: float) -> Any:
            # Cancelling a request ends it with an error of the HTTP client, as if the node had closed the connection.
            if isinstance(result, Failure):
                raise AnswerLost(
                    f"timed out: the node at {self.where} did not answer within {seconds:g} s (is it stopped?)"
                ) from None
            return result

        exchange = Deferred.fromCoroutine(self._exchange(method, path, query, body))
        try:
            content = await exchange.addTimeout(allow_seconds, self.clock, timed_out)
        except ConnectTimedOut as error:
            raise NodeUnreachable(f"timed out: no connection to the node at {self.where} could be made") from error
        except ConnectError as error:
            raise NodeUnreachable(f"no node can be reached at {self.where} ({_reason(error)})") from error
        except (ConnectionClosed, RequestTransmissionFailed, ResponseFailed) as error:
            raise AnswerLost(f"the node at {self.where} closed the connection without an answer") from error
        return self._opened(content)

    async def _exchange(self, method: str, path: str, query: Mapping[str, object] | None, body: object) -> bytes:
        response = await self.treq.request(
            method,
            f"http://localhost/v1{path}",
            params={name: _written(value) for name, value in _given(**(query or {})).items()},
            data=None if body is None else json.dumps(body).encode("utf-8"),
            headers={"authorization": f"Bearer {self.token}"} if self.token else {},
        )
        content: bytes = await response.content()
        return content

    def _opened(self, content: bytes) -> Json:
        """The envelope of an answer with data.

        :raises CommandFailed: it is the envelope of an error, or none.
        """
        try:
            envelope: Json = json.loads(content)
            if envelope["status"] == "ok" and "data" in envelope:
                return envelope
            exit_code = TIMED_OUT if envelope["code"] == "timed_out" else FAILED
            raise CommandFailed(envelope["code"], envelope["message"], envelope["hint"], exit_code)
        except (ValueError, KeyError, TypeError):
            self._nonsense()


def _path(task_id: str, step: str = "") -> str:
    return f"/tasks/{quote(task_id, safe='')}" + (f"/{step}" if step else "")


def _written(value: object) -> str:
    """A parameter of a query."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _given(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _reason(error: BaseException) -> str:
    number = getattr(error, "osError", None)
    return os.strerror(number) if isinstance(number, int) else type(error).__name__


def connect_control(reactor: Any, where: str, token: str = "") -> Control:
    """The node whose control API is at ``where``: the path of a Unix socket, or a Twisted client endpoint string.

    :raises NodeUnreachable: when that cannot be a socket.
    """
    from treq.client import HTTPClient
    from twisted.web.client import Agent
    from twisted.web.iweb import IAgentEndpointFactory
    from zope.interface import implementer

    endpoint = _endpoint(reactor, where)

    @implementer(IAgentEndpointFactory)
    class OneEndpoint:
        """Leads every request to the node, whatever its URL."""

        def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
            return endpoint

    return Control(HTTPClient(Agent.usingEndpointFactory(reactor, OneEndpoint())), where, reactor, token)


def _endpoint(reactor: Any, where: str) -> IStreamClientEndpoint:
    from twisted.internet.endpoints import UNIXClientEndpoint, clientFromString

    is_endpoint = re.match(r"[a-z0-9]+:", where) is not None
    path = where.removeprefix("unix:").split(":")[0]
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise NodeUnreachable(
            f"the path of the socket {path} is over {MAX_SOCKET_PATH_BYTES} bytes long, which Unix does not take",
            "give the node a shorter --state-dir or --control, and the same here",
        )
    if not is_endpoint:
        return UNIXClientEndpoint(reactor, where)
    from tasksubmit.protocol.strings import check_client_type

    try:
        check_client_type(where)
        endpoint: IStreamClientEndpoint = clientFromString(reactor, where)
    except Exception as error:  # parsers are plugins, and raise what they like
        raise NodeUnreachable(f"{where} is not an endpoint that Twisted understands: {error}") from None
    return endpoint
