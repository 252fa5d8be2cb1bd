"""A web application that has its work done by an agent: a node as one more service beside the web server.

    twistd --nodaemon --python web_app.py

``POST /summaries`` with a text answers 202 and where its summary will be; ``GET /summaries/ID`` answers with the
summary, 202 with how far it is until then, or 502 with why there will be none. Where things are is in the environment:
``WEB_PORT``, ``TASK_PORT``, ``STATE_DIR``, and ``WORKER``, the ADDRESS=ENDPOINT of the agent that does the work.

It listens on loopback, where a page of any site can have the user's browser send requests, too: those are refused.
"""

import json
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from twisted.application.internet import StreamServerEndpointService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from tasksubmit import Address, Node, SQLiteTaskStore, StaticPeers, TaskStatus
from tasksubmit.errors import TaskSubmitError, UnknownTask

HOSTS = (b"127.0.0.1", b"localhost")
"""The names of this server. Behind a proxy: those that users see. Others can make a name of their own lead here."""


class OwnPagesOnly(Resource):
    """Stands before the root, and refuses requests from pages of other sites, with 403."""

    def __init__(self, root: Resource) -> None:
        super().__init__()
        self.root = root

    def getChild(self, path: bytes, request: Request) -> Resource:
        host = request.getHeader(b"host") or b""
        origin = request.getHeader(b"origin")  # browsers send it with each POST from another site
        if host.partition(b":")[0] in HOSTS and origin in (None, b"http://" + host):
            child: Resource = self.root.getChildWithDefault(path, request)
            return child
        return Forbidden()


class Forbidden(Resource):
    """The answer to a page of another site."""

    isLeaf = True

    def render(self, request: Request) -> bytes:
        request.setResponseCode(403)
        request.setHeader("Content-Type", "application/json")
        return b'{"error": "requests of other sites are not answered"}'


class Summaries(Resource):
    """All summaries."""

    def __init__(self, node: Node, worker: Address) -> None:
        super().__init__()
        self.node = node
        self.worker = worker

    def getChild(self, path: bytes, request: Request) -> Resource:
        return Summary(self.node, path.decode("ascii", "replace"))

    def render_POST(self, request: Request) -> int:
        return answer_later(request, self.submit(request))

    async def submit(self, request: Request) -> dict[str, Any]:
        text = request.content.read().decode() if request.content else ""
        task = await self.node.submit(self.worker, text)  # it is on disk when this returns
        request.setResponseCode(202)
        request.setHeader("Location", f"/summaries/{task.task_id}")
        return {"id": task.task_id}


class Summary(Resource):
    """One summary, which is the result of one task."""

    isLeaf = True

    def __init__(self, node: Node, task_id: str) -> None:
        super().__init__()
        self.node = node
        self.task_id = task_id

    def render_GET(self, request: Request) -> int:
        return answer_later(request, self.show(request))

    async def show(self, request: Request) -> dict[str, Any]:
        try:
            task = await self.node.resolve(self.task_id)
        except UnknownTask:
            request.setResponseCode(404)
            return {"error": "there is no such summary"}
        if not task.is_settled:
            request.setResponseCode(202)
            return {"status": task.status, "progress": task.justification}
        if task.status not in (TaskStatus.COMPLETED, TaskStatus.SUCCEEDED):
            request.setResponseCode(502)
            return {"status": task.status, "error": task.error or task.justification}
        return {"status": task.status, "summary": (await self.node.result(task.key)).result_text}


def answer_later(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> int:
    """Have a coroutine answer a request, unless whoever asked has gone."""

    def finish(body: dict[str, Any]) -> None:
        request.setHeader("Content-Type", "application/json")
        request.write(json.dumps(body).encode())
        request.finish()

    def refuse(failure: Failure) -> None:
        failure.trap(TaskSubmitError, UnicodeDecodeError)
        request.setResponseCode(400)
        finish({"error": str(failure.value)})

    done = Deferred.fromCoroutine(work)
    request.notifyFinish().addErrback(lambda _: done.cancel())
    done.addCallbacks(finish, refuse)
    return NOT_DONE_YET


def make_application() -> Any:
    """The web server and the node, in one tree of services."""
    application = Application("summaries")
    worker, _, endpoint = os.environ["WORKER"].partition("=")
    node = Node(
        Address.parse("0:0000.0000.0001"),
        SQLiteTaskStore(Path(os.environ["STATE_DIR"]), reactor),
        StaticPeers({Address.parse(worker): clientFromString(reactor, endpoint)}),
        clock=reactor,
        wall=time.time,
        listen={"tasks": serverFromString(reactor, f"tcp:{os.environ['TASK_PORT']}:interface=127.0.0.1")},
    )
    node.setServiceParent(application)
    root = Resource()
    root.putChild(b"summaries", Summaries(node, Address.parse(worker)))
    web = serverFromString(reactor, f"tcp:{os.environ['WEB_PORT']}:interface=127.0.0.1")
    StreamServerEndpointService(web, Site(OwnPagesOnly(root))).setServiceParent(application)
    return application


application = make_application()
