"""The control API as a twisted.web site, on Klein: requests in, envelopes out."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import FORBIDDEN, UNAUTHORIZED, HTTPChannel, datetimeToLogString
from twisted.web.iweb import IAccessLogFormatter, IRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from typing_extensions import override
from werkzeug.exceptions import BadHost, HTTPException, MethodNotAllowed
from zope.interface import provider

from tasksubmit.commandline import command_line
from tasksubmit.errors import TaskSubmitError
from tasksubmit.logs import quiet_logger
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.node.service import Node
from tasksubmit.web.api import Call, ControlApi
from tasksubmit.web.encoding import error_envelope, ok_envelope, read_body, read_query
from tasksubmit.web.faults import fault_of
from tasksubmit.web.gate import Barred, TokenGate
from tasksubmit.web.openapi import openapi_document
from tasksubmit.web.routes import OPENAPI_PATH, PREFIX, ROUTES, Route

MAX_BODY_BYTES = 24 * 1024 * 1024
"""The largest request: results that fill a frame, in base64, and room for the rest."""

MAX_URL_BYTES = 8192
"""The longest first line of a request. Every route with every parameter is far below it."""

MAX_CONTROL_CONNECTIONS = 256
"""Who may connect can do so without a token, and each connection takes a file of the node's."""

STOP_PAUSE_SECONDS = 0.1
"""Between the last answer and the stop: for the answer to leave."""


def control_site(
    node: Node,
    version: str,
    stop: Callable[[], object] | None = None,
    *,
    gate: TokenGate | None = None,
    clock: IReactorTime | None = None,
    reload: Callable[[], Reloaded] | None = None,
) -> Site:
    """The control API of a node.

    Whoever may connect to it may do everything; without a gate it is for a Unix socket that only its operator can open.

    :param node: which has to run while requests come.
    :param version: of the package, to tell.
    :param stop: ends the process that the node runs in; called once, after a drain has been answered. Without it the
        drained node runs on.
    :param gate: lets requests through; where others can connect there has to be one.
    :param clock: measures all time-outs; left out, it is the reactor, as ``Site`` has it.
    :param reload: reads again what the node was made of; by default `Node.reload`.
    """
    site = ControlSite(
        Resource(),
        requestFactory=ControlRequest,
        parsePOSTFormSubmission=False,
        logFormatter=_log_line,
        reactor=clock,
    )
    api = ControlApi(node, version, site.reactor, can_stop=stop is not None, reload_node=reload)
    site.resource = ControlResource(api, stop, gate)
    return site


@provider(IAccessLogFormatter)
def _log_line(timestamp: str, request: Any) -> str:
    """The usual line, with the route in the place of the URL and without headers, so that it names no task.

    The ``timestamp`` comes from the reactor's timers, which need not follow the wall clock.
    """
    client = getattr(request.getClientAddress(), "host", "-")
    method, protocol = (text.decode("ascii", "backslashreplace") for text in (request.method, request.clientproto))
    route, size = getattr(request, "logged_route", "-"), request.sentLength or "-"
    return f'"{client}" - - {datetimeToLogString()} "{method} {route} {protocol}" {request.code} {size}'


def _answer_headers(request: IRequest, status: int) -> None:
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"cache-control", b"no-store")
    request.setHeader(b"x-content-type-options", b"nosniff")


_COMMAND = re.compile(r"`tasksubmit ([^`]+ ID)`")


def _error(request: IRequest, code: str, message: str, task_id: str = "ID") -> bytes:
    fault = fault_of(code)
    _answer_headers(request, fault.status)
    hint = _COMMAND.sub(lambda command: f"`{command_line(command[1], task_id)}`", fault.hint)
    return error_envelope(code, message, hint)


class ControlChannel(HTTPChannel):
    """A connection, which refuses a URL or headers that are too long in the words of the API."""

    @override
    def lineReceived(self, line: bytes) -> None:
        is_first = self._receivedHeaderSize == 0
        if is_first and len(line) > MAX_URL_BYTES:
            self._refuse_url()
        elif not is_first and self._receivedHeaderSize + len(line) > self.totalHeadersSize:
            self._refuse_headers()
        else:
            super().lineReceived(line)

    @override
    def lineLengthExceeded(self, line: bytes) -> None:
        if self._receivedHeaderSize:
            self._refuse_headers()
        else:
            self._refuse_url()

    def _refuse_url(self) -> None:
        self._refuse("url_too_long", f"the URL is over {MAX_URL_BYTES} bytes long")

    def _refuse_headers(self) -> None:
        self._refuse("headers_too_large", f"the headers are over {self.totalHeadersSize} bytes long")

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802  # Twisted's, which has an empty body
        self._refuse("malformed", "the request is not HTTP")

    def _refuse(self, code: str, message: str) -> None:
        """Answer a request that is not read to its end, and close the connection."""
        fault = fault_of(code)
        body = error_envelope(code, message, fault.hint)
        headers = {
            b"content-type": b"application/json",
            b"cache-control": b"no-store",
            b"x-content-type-options": b"nosniff",
            b"content-length": b"%d" % len(body),
            b"connection": b"close",
        }
        lines = [
            f"HTTP/1.1 {fault.status} {HTTPStatus(fault.status).phrase}".encode("ascii"),
            *(b": ".join(pair) for pair in headers.items()),
        ]
        assert self.transport is not None
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.loseConnection()


class ControlSite(Site):
    """Logs the requests that were let through; others say what their senders like, as often as they like."""

    # As it is, without a choice of protocols, so that it can be given a log.
    protocol = ControlChannel  # type: ignore[assignment]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._quiet_log = quiet_logger(HTTPChannel.__module__)

    @override
    def buildProtocol(self, addr: IAddress | None) -> Any:
        channel = super().buildProtocol(addr)
        channel._log = self._quiet_log  # it says of each connection that it was silent for too long
        return channel

    @override
    def log(self, request: Any) -> None:
        if request.code not in (UNAUTHORIZED, FORBIDDEN):
            super().log(request)


class FewAtOnce(WrappingFactory):
    """Takes up to `MAX_CONTROL_CONNECTIONS` at once, and aborts others."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._quiet_log = quiet_logger(__name__)

    @override
    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]  # as factories may
        if len(self.protocols) >= MAX_CONTROL_CONNECTIONS:
            self._quiet_log.warn(
                "the control API has {most} connections, and takes no more", most=MAX_CONTROL_CONNECTIONS
            )
            return None
        return super().buildProtocol(addr)


_ABSOLUTE = re.compile(rb"https?://([^/?#]*)", re.IGNORECASE)


class ControlRequest(Request):
    """A request of which no more than `MAX_BODY_BYTES` is kept; what is larger is read, dropped and refused."""

    barred: Barred | None = None
    """Why the request is not let through, seen from its headers."""
    logged_route = "-"
    """What the log calls the URL, which may name a task."""
    _is_too_large = False
    _received_bytes = 0

    @override
    def gotLength(self, length: int | None) -> None:
        resource = getattr(getattr(self.channel, "site", None), "resource", None)
        self.barred = resource.barred(self) if isinstance(resource, ControlResource) else None
        self._is_too_large = length is not None and length > MAX_BODY_BYTES
        super().gotLength(0 if self._is_too_large or self.barred else length)

    @override
    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take a target in absolute form (``GET http://HOST/PATH``) like one in origin form.

        Its host takes the place of the ``Host`` header (RFC 9112, 3.2.2).
        """
        absolute = _ABSOLUTE.match(path)
        if absolute is not None and len(self.requestHeaders.getRawHeaders(b"host", [])) < 2:
            self.requestHeaders.setRawHeaders(b"host", [absolute[1]])
            path = path[absolute.end() :]
            path = path if path.startswith(b"/") else b"/" + path
        super().requestReceived(command, path, version)

    @override
    def handleContentChunk(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._received_bytes > MAX_BODY_BYTES:
            self._is_too_large = True
        if not self._is_too_large and self.barred is None:
            super().handleContentChunk(data)

    @override
    def process(self) -> None:
        if self.barred is not None or not self._is_too_large:
            super().process()
            return
        self.write(_error(self, "too_large", f"the body is over {MAX_BODY_BYTES} bytes long"))
        self.finish()


class ControlResource(Resource):
    """The root of the control API; finds the route with Klein.

    :param stop: see `control_site`.
    :param gate: see `control_site`.
    """

    isLeaf = True
    _log = Logger()

    def __init__(
        self, api: ControlApi, stop: Callable[[], object] | None = None, gate: TokenGate | None = None
    ) -> None:
        super().__init__()
        self._api = api
        self._gate = gate
        self._quiet_log = quiet_logger(__name__)
        self._stop = stop
        self._openapi = orjson.dumps(openapi_document(ROUTES, api.version))
        app = Klein()
        app.url_map.merge_slashes = False
        for route in ROUTES:
            self._serve(app, route)
        app.route(OPENAPI_PATH, methods=["GET"])(self._describe)
        app.handle_errors(HTTPException)(self._no_route)
        self._klein = app.resource()

    @override
    def render(self, request: Request) -> int | bytes:
        hosts = request.requestHeaders.getRawHeaders(b"host", [])
        if len(hosts) > 1:
            return _error(request, "invalid", f"the Host is given {len(hosts)} times")
        if not hosts and request.clientproto != b"HTTP/1.0":
            return _error(request, "invalid", "the Host is missing")
        try:
            for text in (unquote_to_bytes(request.path), request.getRequestHostname()):
                text.decode("utf-8")
        except UnicodeDecodeError:
            return _error(request, "invalid", "the URL or the host is not UTF-8")
        barred = getattr(request, "barred", None) or self.barred(request)
        if barred is not None:
            self._quiet_log.warn("a request was not let through to the control API: {code}", code=barred.code)
            request.setHeader(b"www-authenticate", b"Bearer")
            # Whoever asks on, and reads no answers, would have them all kept.
            request.setHeader(b"connection", b"close")
            request.channel.persistent = False
            return _error(request, barred.code, barred.message)
        try:
            self._klein.render(request)
        except BadHost:
            return _error(request, "invalid", "the Host is not the name of a host")
        return NOT_DONE_YET

    def barred(self, request: IRequest) -> Barred | None:
        """Why a request is not let through; None when it is, or there is no gate."""
        return self._gate.barred(request) if self._gate is not None else None

    def _serve(self, app: Klein, route: Route[Any, Any, Any]) -> None:
        def serve(request: Any, task_id: str = "") -> Deferred[bytes]:
            request.logged_route = PREFIX + route.path
            done = Deferred.fromCoroutine(self._perform(route, request, task_id))
            return done if route.method == "GET" else _to_the_end(done)

        rule = (PREFIX + route.path).replace("{", "<").replace("}", ">")
        app.route(rule, methods=[route.method], endpoint=route.name)(serve)

    async def _perform(self, route: Route[Any, Any, Any], request: IRequest, task_id: str) -> bytes:
        try:
            query = read_query(request.args, route.query)
            body = read_body(request.content.read(), route.body)
            answer = ok_envelope(await route.perform(self._api, Call(task_id, query, body)), route.answers)
        except CancelledError:
            raise
        except TaskSubmitError as error:
            return _error(request, error.code, str(error), task_id or "ID")
        except Exception:
            self._log.failure("{method} {path} failed", method=route.method, path=PREFIX + route.path, task_id=task_id)
            return _error(request, "internal", "the node could not do it")
        if route.is_last:
            self._stop_soon()
        _answer_headers(request, route.status)
        return answer

    def _stop_soon(self) -> None:
        """Stop, whether or not the client is still there to get the answer."""
        stop, self._stop = self._stop, None
        if stop is not None:
            self._api.clock.callLater(STOP_PAUSE_SECONDS, stop)

    def _describe(self, request: Any) -> bytes:
        request.logged_route = OPENAPI_PATH
        _answer_headers(request, 200)
        return self._openapi

    def _no_route(self, request: IRequest, failure: Failure) -> bytes:
        method, path = (text.decode("utf-8", "replace") for text in (request.method, request.path))
        if isinstance(failure.value, MethodNotAllowed):
            allowed = ", ".join(sorted(failure.value.valid_methods or ()))
            request.setHeader(b"allow", allowed.encode("ascii"))
            return _error(request, "method_not_allowed", f"{path} does not take {method}, but {allowed}")
        return _error(request, "not_found", f"there is no {path}")


def _to_the_end(work: Deferred[bytes]) -> Deferred[bytes]:
    """What ``work`` fires with. Klein cancels what it waits for when the client goes away; ``work`` itself goes on."""
    shown: Deferred[bytes] = Deferred()
    work.chainDeferred(shown)
    return shown
