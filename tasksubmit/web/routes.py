"""The control API's routes, as data: the server and its description are both made from this table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from tasksubmit.web.api import B, Call, ControlApi, Q
from tasksubmit.web.requests import (
    Accept,
    Cancel,
    Decline,
    Drain,
    Fail,
    ListQuery,
    Nothing,
    Progress,
    Purge,
    PutBack,
    QueueQuery,
    Results,
    Submit,
    WaitQuery,
    Which,
    WhichPeer,
)
from tasksubmit.web.views import (
    DrainedView,
    NodeView,
    Page,
    PeerView,
    PurgeView,
    ReloadView,
    ResultView,
    ScoreView,
    StatusView,
    StoryView,
    TaskDetails,
    TaskView,
    WorkersView,
)

A = TypeVar("A")

PREFIX = "/v1"
OPENAPI_PATH = f"{PREFIX}/openapi.json"


@frozen
class Route(Generic[Q, B, A]):
    """One route.

    :ivar path: below `PREFIX`; ``{task_id}`` stands for a task's id.
    :ivar perform: the method of `ControlApi` that answers.
    :ivar answers: the type of the answer's ``data``.
    :ivar query: the class of the parameters.
    :ivar body: the class of the body, `Nothing` for none.
    :ivar status: of the answer when all is well.
    :ivar is_last: whether the node stops after that answer.
    """

    method: str
    path: str
    perform: Callable[[ControlApi, Call[Q, B]], Awaitable[A]]
    answers: type[A]
    summary: str
    query: type[Q] = field(kw_only=True)
    body: type[B] = field(kw_only=True)
    status: int = field(default=200, kw_only=True)
    is_last: bool = field(default=False, kw_only=True)

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.perform.__name__


def _get(
    path: str,
    perform: Callable[[ControlApi, Call[Q, Nothing]], Awaitable[A]],
    answers: type[A],
    query: type[Q],
    summary: str,
) -> Route[Q, Nothing, A]:
    return Route("GET", path, perform, answers, summary, query=query, body=Nothing)


def _post(
    path: str,
    perform: Callable[[ControlApi, Call[Q, B]], Awaitable[TaskView]],
    query: type[Q],
    body: type[B],
    summary: str,
    status: int = 200,
) -> Route[Q, B, TaskView]:
    return Route("POST", path, perform, TaskView, summary, query=query, body=body, status=status)


_TASK = "/tasks/{task_id}"
_Api = ControlApi

ROUTES: tuple[Route[Any, Any, Any], ...] = (
    _get("/node", _Api.get_node, NodeView, Nothing, "This node"),
    _get("/status", _Api.get_status, StatusView, Nothing, "How this node does, and what peers need to know of it"),
    _get("/peers", _Api.list_peers, list[PeerView], Nothing, "The peers that the node knows"),
    _get("/score", _Api.list_scores, list[ScoreView], Nothing, "The ledger of polo scores"),
    _get("/workers", _Api.get_workers, WorkersView, Nothing, "Who does the tasks, and what is being done"),
    _get(
        "/queue", _Api.get_queue, Page[TaskView], QueueQuery, "The tasks that wait to be begun, in the order of taking"
    ),
    _get("/tasks", _Api.list_tasks, Page[TaskView], ListQuery, "Tasks of either side, the newest first"),
    _get(_TASK, _Api.get_task, TaskDetails, Which, "One task, and what is still owed for it"),
    _get(f"{_TASK}/story", _Api.get_story, StoryView, Which, "All that happened to a task, and what it waits for"),
    _get(f"{_TASK}/wait", _Api.wait, TaskView, WaitQuery, "Wait until a task is answered, accepted or finished"),
    _get(f"{_TASK}/result", _Api.get_result, ResultView, WhichPeer, "The results of a submitted task"),
    _post("/tasks", _Api.submit, Nothing, Submit, "Submit a task: record it, and send it to its receiver", 201),
    _post(f"{_TASK}/cancel", _Api.cancel, WhichPeer, Cancel, "Ask for a submitted task to be withdrawn"),
    _post(f"{_TASK}/retry", _Api.retry, Which, Nothing, "Try to deliver again what was given up for a task"),
    _post(f"{_TASK}/accept", _Api.accept, WhichPeer, Accept, "Take a received task into the queue"),
    _post(
        f"{_TASK}/decline",
        _Api.decline,
        WhichPeer,
        Decline,
        "Turn down a NEW or an ACCEPTED task",
    ),
    _post(f"{_TASK}/execute", _Api.execute, WhichPeer, Nothing, "Begin a task that is the next in the queue"),
    _post(f"{_TASK}/progress", _Api.progress, WhichPeer, Progress, "Tell how far an execution is; renews its lease"),
    _post(f"{_TASK}/put-back", _Api.put_back, WhichPeer, PutBack, "Have an execution begun again"),
    _post(f"{_TASK}/fail", _Api.fail, WhichPeer, Fail, "End an execution that cannot be done"),
    _post(f"{_TASK}/results", _Api.send_results, WhichPeer, Results, "Give the results of a task in execution"),
    _post("/execute", _Api.execute_head, Nothing, Nothing, "Begin the next task of the queue"),
    Route(
        "POST",
        "/purge",
        _Api.purge,
        PurgeView,
        "Remove a batch of ended tasks, or see which could be; returns free space to the file system",
        query=Nothing,
        body=Purge,
    ),
    Route("POST", "/enable", _Api.enable, NodeView, "Take new tasks from peers again", query=Nothing, body=Nothing),
    Route("POST", "/disable", _Api.disable, NodeView, "Take no new tasks from peers", query=Nothing, body=Nothing),
    Route(
        "POST",
        "/reload",
        _Api.reload,
        ReloadView,
        "Read keys, trust and the configuration file again, and retry pending deliveries now",
        query=Nothing,
        body=Nothing,
    ),
    Route(
        "POST",
        "/drain",
        _Api.drain,
        DrainedView,
        "Bring the node to rest, then stop it",
        query=Nothing,
        body=Drain,
        is_last=True,
    ),
)
"""Every route but `OPENAPI_PATH`, which describes them."""
