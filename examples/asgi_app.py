"""An ASGI application that awaits tasks: a node on the event loop of uvicorn, hypercorn or any other ASGI server.

    uvicorn asgi_app:app --app-dir examples --host 127.0.0.1

``POST /`` with a text answers with its summary, which an agent makes, or with 502 and why there is none. Where things
are is in the environment: ``TASK_PORT``, ``STATE_DIR``, and ``WORKER``, the ADDRESS=ENDPOINT of the agent. A page of
any site can have the user's browser send requests to loopback: those are refused.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tasksubmit import Address, Node, SQLiteTaskStore, StaticPeers, TaskSubmitError

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WORKER, _, ENDPOINT = os.environ["WORKER"].partition("=")
TIMEOUT_SECONDS = 30
HOSTS = (b"127.0.0.1", b"localhost")
"""The names of this server. Behind a proxy: those that users see. Others can make a name of their own lead here."""


class Application:
    """One node, from the start of the server to its stop; each request awaits one task."""

    def __init__(self) -> None:
        self._node: Node | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            self._node = start_node()
        except TaskSubmitError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await stop_node(self._node)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        status, answer = refusal(scope) or await self._outcome(receive)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def _outcome(self, receive: Receive) -> tuple[int, dict[str, str]]:
        text, is_complete = b"", False
        while not is_complete:
            message = await receive()
            text += message.get("body", b"")
            is_complete = not message.get("more_body", False)
        try:
            return 200, {"summary": await self._summarise(text.decode())}
        except (TaskSubmitError, asyncio.TimeoutError, UnicodeDecodeError) as error:
            return 502, {"error": str(error) or "the summary takes too long"}

    async def _summarise(self, text: str) -> str:
        assert self._node is not None
        loop = asyncio.get_running_loop()
        task = await self._node.submit(Address.parse(WORKER), text).asFuture(loop)  # it is on disk now
        # Whoever stops waiting here cancels the task; `Node.result` would only stop waiting.
        result = await asyncio.wait_for(task.result().asFuture(loop), TIMEOUT_SECONDS)
        return result.result_text


def refusal(scope: Message) -> tuple[int, dict[str, str]] | None:
    """The answer to a request from a page of another site, or with another method; None for those to be served."""
    headers = dict(scope["headers"])
    host = headers.get(b"host", b"")
    # Browsers send the origin with each POST from another site, but not with each GET.
    if host.partition(b":")[0] not in HOSTS or headers.get(b"origin", b"http://" + host) != b"http://" + host:
        return 403, {"error": "requests of other sites are not answered"}
    if scope["method"] != "POST":
        return 405, {"error": "post a text"}
    return None


def start_node() -> Node:
    """Start a node on the event loop that runs."""
    from twisted.internet import asyncioreactor

    asyncioreactor.install(asyncio.get_running_loop())
    from twisted.internet import reactor as installed
    from twisted.internet.endpoints import clientFromString, serverFromString

    reactor: Any = installed
    # The server runs the loop and handles signals. This starts the rest of the reactor, its thread pool for one.
    reactor.startRunning(installSignalHandlers=False)
    node = Node(
        Address.parse("0:0000.0000.0001"),
        SQLiteTaskStore(Path(os.environ["STATE_DIR"]), reactor),
        StaticPeers({Address.parse(WORKER): clientFromString(reactor, ENDPOINT)}),
        clock=reactor,
        wall=time.time,
        listen={"tasks": serverFromString(reactor, f"tcp:{os.environ['TASK_PORT']}:interface=127.0.0.1")},
    )
    node.startService()
    return node


async def stop_node(node: Node) -> None:
    """Stop the node, and the threads, for which Python would wait at its exit."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    await node.stopService().asFuture(asyncio.get_running_loop())
    reactor.getThreadPool().stop()


app = Application()
