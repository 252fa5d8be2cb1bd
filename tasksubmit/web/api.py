"""What each route of the control API does with the node."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from attrs import fields, frozen
from twisted.internet.defer import TimeoutError as WaitedTooLong
from twisted.internet.interfaces import IReactorTime

from tasksubmit.errors import InvalidMessage
from tasksubmit.interfaces import IReloadable
from tasksubmit.lifecycle.table import Side, TaskStatus
from tasksubmit.lifecycle.task import Task
from tasksubmit.node.purge import Selection
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.node.service import Node
from tasksubmit.web.faults import ApiError
from tasksubmit.web.requests import (
    CONDITIONS,
    MAX_COUNTED,
    MAX_LIST,
    STUCK_AFTER,
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
    CertificateView,
    DrainedView,
    ExecutorProblemView,
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
    UnendedView,
    WorkersView,
)
from tasksubmit.wire.address import Address

Q = TypeVar("Q")
B = TypeVar("B")

_LONG = 1024 * 1024
"""Length of descriptions below which a store leaves none out of a list."""


@frozen
class Call(Generic[Q, B]):
    """One request, read: the task that its path names (empty when it names none), its query and its body."""

    task_id: str
    query: Q
    body: B


@frozen
class ControlApi:
    """Answers calls; one method for each route. All may raise any `TaskSubmitError`.

    :ivar clock: measures how long somebody waits.
    :ivar can_stop: whether the node is stopped once it has been drained.
    :ivar reload_node: reads again what the node was made of; by default `Node.reload`.
    """

    node: Node
    version: str
    clock: IReactorTime
    can_stop: bool = False
    reload_node: Callable[[], Reloaded] | None = None

    # --- the node -----------------------------------------------------------------------------------------------------

    async def get_node(self, call: Call[Nothing, Nothing]) -> NodeView:
        """Who this is, and where it listens."""
        return NodeView(
            address=self.node.address,
            version=self.version,
            listening=[_where(listener) for listener in self.node.listeners],
            peers=len(self.node.peers.addresses()),
            is_draining=self.node.is_draining,
            is_enabled=self.node.is_enabled,
        )

    async def enable(self, call: Call[Nothing, Nothing]) -> NodeView:
        """Take new tasks from peers again."""
        await self.node.set_enabled(True)
        return await self.get_node(call)

    async def disable(self, call: Call[Nothing, Nothing]) -> NodeView:
        """Take no new tasks from peers until told otherwise."""
        await self.node.set_enabled(False)
        return await self.get_node(call)

    async def drain(self, call: Call[Nothing, Drain]) -> DrainedView:
        """Bring the node to rest; whoever serves this answer then stops it."""
        return DrainedView.of(await self.node.drain(call.body.timeout), self.can_stop)

    async def list_peers(self, call: Call[Nothing, Nothing]) -> list[PeerView]:
        """Every peer that is known, by address."""
        features = await self.node.store.peer_features()
        owed = set(await self.node.store.owed_peers())
        return [
            PeerView(
                address=peer,
                features=sorted(features.get(peer, ())),
                is_owed=peer in owed,
                proofs=list(self.node.authenticator.proofs(peer)),
                problem=self.node.refusals.get(peer, ""),
            )
            for peer in sorted(self.node.peers.addresses())
        ]

    async def get_status(self, call: Call[Nothing, Nothing]) -> StatusView:
        """How the node does."""
        authenticator = self.node.authenticator
        shown = authenticator.credential() if IReloadable.providedBy(authenticator) else None
        return StatusView(
            address=self.node.address,
            version=self.version,
            listening=[_where(listener) for listener in self.node.listeners],
            is_draining=self.node.is_draining,
            is_enabled=self.node.is_enabled,
            disk_problem=self.node.disk_problem,
            executor_problem=ExecutorProblemView.of(self.node.executor_problem),
            unended=[UnendedView.of(unended) for unended in self.node.unended],
            certificate=CertificateView(
                fingerprint=shown.fingerprint, expires_at=shown.expires_at, warning=shown.warning
            )
            if shown
            else None,
            connections=len(self.node.factory.connections),
            waiting=await self._waiting_count(),
            held=self.node.load.held,
            owed_to=len(await self.node.store.owed_peers()),
            retrying=dict(self.node.retrying),
            peers=await self.list_peers(call),
        )

    async def reload(self, call: Call[Nothing, Nothing]) -> ReloadView:
        """Read files again, and retry pending deliveries now; `ConfigurationError` leaves all as it was."""
        reloaded = (self.reload_node or self.node.reload)()
        status = await self.get_status(call)
        return ReloadView(
            **{attribute.name: getattr(status, attribute.name) for attribute in fields(StatusView)},
            applied=list(reloaded.applied),
            unchanged=list(reloaded.unchanged),
            needs_restart=list(reloaded.needs_restart),
        )

    async def list_scores(self, call: Call[Nothing, Nothing]) -> list[ScoreView]:
        """The ledger, by address."""
        return [ScoreView(address=address, score=score) for address, score in sorted(await self.node.scores())]

    async def get_workers(self, call: Call[Nothing, Nothing]) -> WorkersView:
        """Who does the tasks, and what is being done: the oldest first."""
        store, workers = self.node.store, self.node.workers
        executing: list[Task] = []
        while page := await store.list_tasks(
            side=Side.RECEIVER,
            status=TaskStatus.EXECUTING,
            peer=None,
            before=None,
            after=executing[-1].number if executing else None,
            limit=MAX_LIST,
            is_oldest_first=True,
        ):
            executing += page
        return WorkersView(
            executor=str(workers.executor) if workers else "manual",
            problem=ExecutorProblemView.of(self.node.executor_problem),
            unended=[UnendedView.of(unended) for unended in self.node.unended],
            concurrency=workers.concurrency if workers else 0,
            done=workers.done if workers else 0,
            failed=workers.failed if workers else 0,
            waiting=await self._waiting_count(),
            executing=[self._view(task) for task in executing if task.put_back_at is None],
        )

    # --- reading tasks ------------------------------------------------------------------------------------------------

    async def list_tasks(self, call: Call[ListQuery, Nothing]) -> Page[TaskView]:
        """One page of tasks; with long descriptions fewer than asked for, and none only at the end."""
        query, store = call.query, self.node.store
        filters: dict[str, Any] = {
            "side": query.side,
            "status": query.status,
            "peer": query.peer,
            "outcome": query.outcome,
            "since": query.since,
            "stuck_before": self.node.now() - STUCK_AFTER if query.stuck else None,
        }
        order = partial(store.list_tasks, **filters, is_oldest_first=query.oldest_first)
        tasks = await order(before=query.before, after=query.after, limit=query.limit + 1)
        total, is_exact = await store.count_tasks(**filters, limit=MAX_COUNTED)
        more = len(tasks) > query.limit
        if not more and sum(len(task.description) for task in tasks) > _LONG:  # the store may have left some out
            last = tasks[-1].number
            cursors = (query.before, last) if query.oldest_first else (last, query.after)
            more = bool(await order(before=cursors[0], after=cursors[1], limit=1))
        items = [self._view(task) for task in tasks[: query.limit]]
        return Page(items=items, total=total, is_total_exact=is_exact, more=more)

    async def get_task(self, call: Call[Which, Nothing]) -> TaskDetails:
        """One task, and what is owed for it."""
        task = await self._find(call, call.query.side)
        deliveries = await self.node.store.deliveries_of(task.key)
        return TaskDetails.with_deliveries(task, self.node.address, deliveries)

    async def get_story(self, call: Call[Which, Nothing]) -> StoryView:
        """All that happened to one task, and what it waits for."""
        task = await self._find(call, call.query.side)
        return StoryView.of_story(await self.node.story(task.key), self.node.address)

    async def get_queue(self, call: Call[QueueQuery, Nothing]) -> Page[TaskView]:
        """One page of the tasks that wait to be executed, in the order of taking: those put back, then the queue."""
        query, store = call.query, self.node.store
        put_back = await store.put_back(MAX_LIST)
        first = put_back if query.after is None else []
        rest = max(query.limit - len(first), 0)
        queued = await store.queue(rest + 1, after=query.after, before=query.before)
        more = len(queued) > rest
        if queued and not more and sum(len(task.description) for task in queued) > _LONG:
            more = bool(await store.queue(1, after=queued[-1].queue_position, before=query.before))
        return Page(
            items=[self._view(task) for task in (*first, *queued[:rest])],
            total=len(put_back) + self.node.load.queued,
            is_total_exact=len(put_back) < MAX_LIST,
            more=more,
        )

    async def wait(self, call: Call[WaitQuery, Nothing]) -> TaskView:
        """Wait until a task is as asked; `ApiError` ``timed_out`` when it is not in time."""
        query = call.query
        task = await self._find(call, query.side)
        waiting = self.node.wait(task.key, CONDITIONS[query.for_])
        try:
            return self._view(await waiting.addTimeout(query.timeout, self.clock))
        except WaitedTooLong:
            task = await self.node.resolve(task.task_id, side=task.side, peer=task.peer)
            raise ApiError(
                "timed_out",
                f"task {task.task_id} is not {query.for_.value} after {query.timeout} s: it is {task.status}",
            ) from None

    async def get_result(self, call: Call[WhichPeer, Nothing]) -> ResultView:
        """The results of a submitted task; `TaskEnded` when it ended without, `ApiError` when they are not here yet."""
        task = await self._find(call, Side.SUBMITTER)
        if not task.is_settled:
            raise ApiError("no_results", f"the results of task {task.task_id} are not here yet: it is {task.status}")
        return ResultView.of(await self.node.result(task.key))

    # --- the submitter's side -----------------------------------------------------------------------------------------

    async def submit(self, call: Call[Nothing, Submit]) -> TaskView:
        """Record a task, to be sent to its receiver."""
        body = call.body
        submitted = await self.node.submit(
            body.to,
            body.description,
            task_id=body.task_id,
            expires_at=body.expires_at,
            result_due_at=body.result_due_at,
            deliver_by=body.deliver_by,
        )
        key = submitted.key
        return self._view(await self.node.resolve(key.task_id, side=key.side, peer=key.peer))

    async def cancel(self, call: Call[WhichPeer, Cancel]) -> TaskView:
        """Ask for a submitted task to be withdrawn."""
        task = await self._find(call, Side.SUBMITTER)
        return self._view(await self.node.cancel(task.key, call.body.reason))

    # --- either side --------------------------------------------------------------------------------------------------

    async def retry(self, call: Call[Which, Nothing]) -> TaskView:
        """Try to deliver again what was given up for a task."""
        task = await self._find(call, call.query.side)
        return self._view(await self.node.retry(task.key))

    # --- the receiver's side ------------------------------------------------------------------------------------------

    async def accept(self, call: Call[WhichPeer, Accept]) -> TaskView:
        """Take a NEW task into the queue."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.accept(task.key, call.body.justification))

    async def decline(self, call: Call[WhichPeer, Decline]) -> TaskView:
        """Turn a NEW task down, or withdraw from an ACCEPTED one."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.decline(task.key, call.body.justification))

    async def execute(self, call: Call[WhichPeer, Nothing]) -> TaskView:
        """Begin a task, which has to be the next in the queue."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.execute(task.key))

    async def execute_head(self, call: Call[Nothing, Nothing]) -> TaskView:
        """Begin the next task of the queue, whichever that is."""
        return self._view(await self.node.execute())

    async def progress(self, call: Call[WhichPeer, Progress]) -> TaskView:
        """Tell how far an execution is, which renews its lease."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.progress(task.key, call.body.text, attempt=call.body.attempt))

    async def put_back(self, call: Call[WhichPeer, PutBack]) -> TaskView:
        """Have an execution begun again."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.put_back(task.key, call.body.reason, attempt=call.body.attempt))

    async def fail(self, call: Call[WhichPeer, Fail]) -> TaskView:
        """End an execution that cannot be done."""
        task = await self._find(call, Side.RECEIVER)
        return self._view(await self.node.fail(task.key, call.body.error, attempt=call.body.attempt))

    async def send_results(self, call: Call[WhichPeer, Results]) -> TaskView:
        """Give the results of an EXECUTING task."""
        text, filename, content = call.body.text, call.body.filename, call.body.content_base64
        if (text is None) == (filename is None) or (filename is None) != (content is None):
            raise InvalidMessage("give either text, or filename and content_base64")
        task = await self._find(call, Side.RECEIVER)
        if filename == "":
            raise InvalidMessage("the file name is empty", "filename")
        return self._view(
            await self.node.send_results(
                task.key, text or "", filename=filename or "", content=content or b"", attempt=call.body.attempt
            )
        )

    # --- removal ------------------------------------------------------------------------------------------------------

    async def purge(self, call: Call[Nothing, Purge]) -> PurgeView:
        """Do one step of a purge with one batch of tasks, or with one task."""
        body = call.body
        what: Selection | Task = Selection(side=body.side, peer=body.peer, before=body.before)
        if body.task_id is not None:
            what = await self.node.resolve(body.task_id, side=body.side, peer=body.peer)
        batch = await self.node.purger.step(body.step, what, after=body.after, until=body.until, wait_seconds=body.wait)
        return PurgeView.of(batch)

    # --- shared -------------------------------------------------------------------------------------------------------

    async def _waiting_count(self) -> int:
        return len(await self.node.store.put_back(MAX_LIST)) + self.node.load.queued

    async def _find(self, call: Call[Any, Any], side: Side | None) -> Task:
        peer: Address | None = call.query.peer
        return await self.node.resolve(call.task_id, side=side, peer=peer)

    def _view(self, task: Task) -> TaskView:
        return TaskView.of(task, self.node.address)


def _where(listener: Any) -> str:
    """Where a listener is reached, as people write it; what it was asked to listen on, until it does."""
    if listener.port is None:
        return str(listener.description)
    host = listener.port.getHost()
    if hasattr(host, "port"):
        return f"{host.host} {host.port}"
    return str(getattr(host, "name", host))
