"""A node as the command line sees it: the control API, one method for each route."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
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
_START_A_NODE = "start a node with `tasksubmit run` or `twistd tasksubmit`, or name its socket with --control"


class CommandFailed(TaskSubmitError):
    """A command could not do what it was asked to.

    :ivar hint: what can be done about it; may be empty.
    :ivar exit_code: of the process.
    """

    def __init__(self, code: str, message: str, hint: str = "", exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
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

    async def queue(self) -> list[Json]:
        """What waits to be executed, in the order of taking."""
        return await self._many("/queue")

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

    # --- tasks --------------------------------------------------------------------------------------------------------

    async def tasks(self, **query: object) -> list[Json]:
        """Tasks, the newest first; ``query`` filters them."""
        return await self._many("/tasks", query)

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
    ) -> Json:
        """Record a task, to be sent to its receiver; repeating it changes nothing."""
        optional = _given(expires_at=expires_at, result_due_at=result_due_at)
        body = {"to": to, "description": description, "task_id": task_id, **optional}
        try:
            return await self._one("POST", "/tasks", body=body)
        except AnswerLost as error:
            raise AnswerLost(str(error), f"repeat the command with --task-id {task_id}, which is safe") from error

    async def accept(self, task_id: str, *, peer: str | None = None, justification: str | None = None) -> Json:
        """Take a NEW task into the queue."""
        return await self._one("POST", _path(task_id, "accept"), {"peer": peer}, _given(justification=justification))

    async def decline(self, task_id: str, justification: str, *, peer: str | None = None) -> Json:
        """Turn a NEW task down."""
        return await self._one("POST", _path(task_id, "decline"), {"peer": peer}, {"justification": justification})

    async def cancel(self, task_id: str, *, peer: str | None = None, reason: str | None = None) -> Json:
        """Ask for a submitted task to be withdrawn."""
        return await self._one("POST", _path(task_id, "cancel"), {"peer": peer}, _given(reason=reason))

    async def execute(self, task_id: str | None = None, *, peer: str | None = None) -> Json:
        """Begin a task; without an id it is the next of the queue."""
        if task_id is None:
            return await self._one("POST", "/execute")
        return await self._one("POST", _path(task_id, "execute"), {"peer": peer})

    async def progress(self, task_id: str, text: str, *, peer: str | None = None) -> Json:
        """Tell how far the execution of a task is."""
        return await self._one("POST", _path(task_id, "progress"), {"peer": peer}, {"text": text})

    async def put_back(self, task_id: str, *, peer: str | None = None, reason: str | None = None) -> Json:
        """Have the execution of a task begun again."""
        return await self._one("POST", _path(task_id, "put-back"), {"peer": peer}, _given(reason=reason))

    async def fail(self, task_id: str, error: str, *, peer: str | None = None) -> Json:
        """End the execution of a task that cannot be done."""
        return await self._one("POST", _path(task_id, "fail"), {"peer": peer}, {"error": error})

    async def send_text(self, task_id: str, text: str, *, peer: str | None = None) -> Json:
        """Give a text as the results of a task."""
        return await self._one("POST", _path(task_id, "results"), {"peer": peer}, {"text": text})

    async def send_file(self, task_id: str, filename: str, content: bytes, *, peer: str | None = None) -> Json:
        """Give a file as the results of a task."""
        body = {"filename": filename, "content_base64": b64encode(content).decode("ascii")}
        return await self._one("POST", _path(task_id, "results"), {"peer": peer}, body)

    async def result(self, task_id: str, *, peer: str | None = None) -> Json:
        """The results of a submitted task."""
        return await self._one("GET", _path(task_id, "result"), {"peer": peer})

    async def wait(
        self,
        task_id: str,
        condition: str,
        *,
        timeout: int | None = None,
        side: str | None = None,
        peer: str | None = None,
    ) -> Json:
        """The task as soon as it is ``answered``, ``accepted`` or ``finished``.

        :param timeout: seconds, after which it raises `CommandFailed` ``timed_out``; None waits for ever.
        """
        until = None if timeout is None else self.clock.seconds() + timeout
        while True:
            left = LONGEST_WAIT_SECONDS if until is None else max(0, round(until - self.clock.seconds()))
            piece = min(left, LONGEST_WAIT_SECONDS)
            query = {"for": condition, "timeout": piece, "side": side, "peer": peer}
            try:
                return await self._one("GET", _path(task_id, "wait"), query, allow_seconds=piece + ANSWER_SECONDS)
            except CommandFailed as error:
                if error.code != "timed_out" or (until is not None and left <= piece):
                    raise

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

    async def _many(self, path: str, query: Mapping[str, object] | None = None) -> list[Json]:
        answer = await self._ask("GET", path, query, None, ANSWER_SECONDS)
        return answer if isinstance(answer, list) else self._nonsense()

    def _nonsense(self) -> Any:
        raise CommandFailed("malformed", f"what answers at {self.where} is not a tasksubmit node", _START_A_NODE)

    async def _ask(
        self, method: str, path: str, query: Mapping[str, object] | None, body: object, allow_seconds: float
    ) -> Any:
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
        return self._data(content)

    async def _exchange(self, method: str, path: str, query: Mapping[str, object] | None, body: object) -> bytes:
        response = await self.treq.request(
            method,
            f"http://localhost/v1{path}",
            params={name: str(value) for name, value in _given(**(query or {})).items()},
            data=None if body is None else json.dumps(body).encode("utf-8"),
            headers={"authorization": f"Bearer {self.token}"} if self.token else {},
        )
        content: bytes = await response.content()
        return content

    def _data(self, content: bytes) -> Any:
        try:
            envelope = json.loads(content)
            if envelope["status"] == "ok":
                return envelope["data"]
            exit_code = TIMED_OUT if envelope["code"] == "timed_out" else FAILED
            raise CommandFailed(envelope["code"], envelope["message"], envelope["hint"], exit_code)
        except (ValueError, KeyError, TypeError):
            return self._nonsense()


def _path(task_id: str, step: str = "") -> str:
    return f"/tasks/{quote(task_id, safe='')}" + (f"/{step}" if step else "")


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
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, where)
    except Exception as error:  # parsers are plugins, and raise what they like
        raise NodeUnreachable(f"{where} is not an endpoint that Twisted understands: {error}") from None
    return endpoint
