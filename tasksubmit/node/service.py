"""The Node: one agent, as a service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from random import Random, SystemRandom
from typing import Any, TypeVar

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore, fail, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime, IStreamServerEndpoint
from twisted.logger import Logger
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import (
    AmbiguousTask,
    IllegalTransition,
    InvalidMessage,
    InvalidTime,
    NotAccepting,
    StoreDamaged,
    TaskConflict,
    UnknownTask,
)
from tasksubmit.interfaces import (
    IAcceptancePolicy,
    IAdmissionPolicy,
    IAuthenticator,
    IExecutor,
    IPeers,
    IReloadable,
    IScoreBook,
    ITaskHandler,
    ITaskStore,
    Peer,
    SendResult,
)
from tasksubmit.lifecycle.change import Tombstone
from tasksubmit.lifecycle.polo import ScoreFormula
from tasksubmit.lifecycle.table import Lease, Side, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.acceptance import Acceptance
from tasksubmit.node.attempt import UnendedExecution
from tasksubmit.node.availability import ExecutorProblem
from tasksubmit.node.clock import NodeClock
from tasksubmit.node.courier import Courier
from tasksubmit.node.deadlines import Deadlines
from tasksubmit.node.delivery import DELIVERY_AGE_LIMIT, DeliveryService
from tasksubmit.node.disk_space import DiskWatch
from tasksubmit.node.doubts import Doubts
from tasksubmit.node.drain import Drain, Drained
from tasksubmit.node.fanout import FanOut
from tasksubmit.node.foreign import require_started_reactor
from tasksubmit.node.holds import Holds, is_trusted
from tasksubmit.node.identity import BelieveAll, may_speak_for
from tasksubmit.node.inbox import Inbox, acknowledgement
from tasksubmit.node.listener import Listener
from tasksubmit.node.live import Condition, LiveTasks, raise_if_ended
from tasksubmit.node.load import Load
from tasksubmit.node.outbox import Outbox
from tasksubmit.node.periodic import Retrier
from tasksubmit.node.policy import PEERS, POLICY, default_policy, with_load
from tasksubmit.node.purge import Purger
from tasksubmit.node.records import Records
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.node.retention import Retention, RetentionService
from tasksubmit.node.room import ResultRoom
from tasksubmit.node.routing import Routing, TaskOrder, sides_meant
from tasksubmit.node.scores import ScoreKeeper
from tasksubmit.node.story import Stories, Story
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.node.sweeper import Sweeper
from tasksubmit.node.workers import EXECUTOR_PAUSE_LIMIT, Workers
from tasksubmit.protocol.arguments import CLIENT_ENDPOINT, CLOCK, SERVER_ENDPOINT, checked_later
from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.elsewhere import do_elsewhere
from tasksubmit.protocol.factory import TaskSubmitFactory
from tasksubmit.protocol.framing import IDLE_TIMEOUT_SECONDS
from tasksubmit.validation import (
    BYTES,
    COUNT,
    DELAY,
    DURATION,
    FLAG,
    FUNCTION,
    SECONDS,
    TEXT,
    checked,
    instance_of,
    mapping_of,
    optional,
    provides,
    to_member,
    whole_number,
)
from tasksubmit.wire.address import Address, to_address, to_address_or_none
from tasksubmit.wire.frames import MAX_FRAME
from tasksubmit.wire.messages import (
    MAX_DESCRIPTION_BYTES,
    SubmitRequest,
    SubmitResponse,
    TaskResultMessage,
    TaskStatusUpdate,
    generate_task_id,
)
from tasksubmit.wire.timestamps import format_time

T = TypeVar("T")

DRAIN_SECONDS = 60.0

RECORDS_IN_WORK = 32
"""Messages of peers that are handled at the same time while a record is read for them. A peer may ask for its largest
tasks with the smallest of messages, and a description of 1 MiB can take 4 MiB of memory."""

_DISABLED = "disabled"
"""The name of the note that says so."""

_COUNT = "count the tasks that wait"
_READ_DISABLED = "read whether the node is disabled"
_END_LEASES = "end the leases of the last run"
_FOLLOW_UP = "follow up commits that were in doubt"
"""Steps that are retried until they succeed."""

_KEY = instance_of(TaskKey, "a TaskKey, such as task.key of a record or of what submit gave")
_TIME = optional(instance_of(datetime, "a datetime.datetime with a time zone"))
_ATTEMPT = optional(COUNT)


@implementer(ITaskHandler)
class Node(MultiService):
    """One agent, both sides of it: receives and submits tasks, keeps them, and delivers what it owes.

    A service: start it, alone or in a tree; everything that it does needs it to run. It opens the store when it
    starts and closes it when it stops, and may be started again. Cancelling the Deferred of a command gives up the
    wait, not the command.

    :param address: the node's own address.
    :param store: where tasks are kept; opening it blocks for a moment, so an application that minds opens it before.
    :param peers: who lives where.
    :param clock: all time and timers; commonly the reactor.
    :param listen: what to listen on for peers, by the name that errors give it.
    :param authenticator: who is at the other end of a connection; by default whoever it claims to be.
    :param policy: who may submit; by default the peers.
    :param acceptance: which of the tasks that were submitted are accepted; by default whoever calls `accept` decides.
    :param executor: what does accepted tasks; by default whoever calls `execute`.
    :param concurrency: how many tasks the executor is given at once.
    :param executor_pause_limit: how long the executor may be unable to start tasks before new tasks are refused.
    :param is_fair: whether the submitters take turns in the queue, instead of the order of acceptance alone.
    :param stops_untrusted: whether executions for a peer that is not trusted any more are ended, and held like its
        tasks that wait; by default they go on.
    :param score_book: where scores are kept besides the store's own ledger.
    :param wall: the wall clock, in seconds since 1970, when ``clock`` does not follow it; a reactor commonly does, and
        then its timers are led astray when that clock is set.
    :param timeouts: the limits of wire.md, section 4.
    :param lease: the terms of whoever calls `execute` and names none.
    :param delivery_age_limit: after so long what is owed to a peer is given up, until `retry`.
    :param retention: for how long ended tasks are kept.
    :param formula: how the rewards of submitted tasks are computed.
    :param tick_seconds: how often deadlines and deliveries are looked at.
    :param max_description_bytes: the longest description to take, in bytes of UTF-8.
    :param bounds: what all connections of peers together may be and hold.
    :param random: spreads attempts to deliver, and makes task ids.
    :ivar load: what has been received and not begun, by which policies measure quotas: the node gives it to its own.
    :raises TypeError: when an argument is of another type; a component counts as left out only when it is None.
    :raises ValueError: when an argument is out of its range.
    """

    _log = Logger()

    @checked(
        store=provides(ITaskStore, "such as SQLiteTaskStore"),
        peers=PEERS,
        clock=CLOCK,
        wall=optional(FUNCTION),
        listen=optional(mapping_of(TEXT, SERVER_ENDPOINT)),
        authenticator=optional(provides(IAuthenticator)),
        policy=optional(POLICY),
        acceptance=optional(provides(IAcceptancePolicy, "such as AcceptAll")),
        executor=optional(provides(IExecutor, "such as CallableExecutor")),
        concurrency=COUNT,
        executor_pause_limit=DURATION,
        is_fair=FLAG,
        stops_untrusted=FLAG,
        score_book=optional(provides(IScoreBook)),
        timeouts=optional(instance_of(Timeouts)),
        lease=optional(instance_of(Lease)),
        delivery_age_limit=DURATION,
        retention=optional(instance_of(Retention)),
        tick_seconds=SECONDS,
        idle_timeout_seconds=SECONDS,
        max_description_bytes=whole_number(1, MAX_FRAME),
        bounds=instance_of(Bounds),
        random=optional(instance_of(Random)),
    )
    def __init__(
        self,
        address: Address | str,
        store: ITaskStore,
        peers: IPeers,
        *,
        clock: IReactorTime,
        wall: Callable[[], float] | None = None,
        listen: Mapping[str, IStreamServerEndpoint] | None = None,
        authenticator: IAuthenticator | None = None,
        policy: IAdmissionPolicy | None = None,
        acceptance: IAcceptancePolicy | None = None,
        executor: IExecutor | None = None,
        concurrency: int = 1,
        executor_pause_limit: timedelta = EXECUTOR_PAUSE_LIMIT,
        is_fair: bool = False,
        stops_untrusted: bool = False,
        score_book: IScoreBook | None = None,
        timeouts: Timeouts | None = None,
        lease: Lease | None = None,
        delivery_age_limit: timedelta = DELIVERY_AGE_LIMIT,
        retention: Retention | None = None,
        formula: ScoreFormula | str = ScoreFormula.DOCUMENTED,
        tick_seconds: float = 1.0,
        idle_timeout_seconds: float = IDLE_TIMEOUT_SECONDS,
        max_description_bytes: int = MAX_DESCRIPTION_BYTES,
        bounds: Bounds = Bounds(),
        random: Random | None = None,
    ) -> None:
        super().__init__()
        address = to_address(address, "address")
        formula = to_member(formula, "formula", ScoreFormula)
        self.setName(f"tasksubmit {address}")  # several may have the same parent
        timeouts = Timeouts() if timeouts is None else timeouts
        self.address = address
        self.store = store
        self.peers = peers
        self.authenticator: IAuthenticator = BelieveAll() if authenticator is None else authenticator
        self._max_description_bytes = max_description_bytes
        self._random = SystemRandom() if random is None else random
        self._lease = Lease() if lease is None else lease
        self._live = LiveTasks(lambda key: self._records.get(key))
        self._timers = clock
        self._clock = NodeClock(clock, wall)
        self.load = Load()
        self._score_book = score_book
        self._scores = ScoreKeeper(store, score_book, tick_seconds, clock) if score_book is not None else None
        retention = Retention() if retention is None else retention
        room = ResultRoom(retention.max_result_bytes)
        self._retrier = Retrier(clock)
        doubts = Doubts(store, self._retrier)
        self._records = Records(
            address,
            store,
            self._clock,
            self._changed,
            lambda peer: self._delivery.owed(peer),
            doubts,
            room,
            partial(do_elsewhere, clock),
            self._scores.booked if self._scores is not None else None,
            is_fair,
        )
        self._policy = with_load(default_policy(peers, clock) if policy is None else policy, self.load)
        self._inbox = Inbox(
            self._records,
            self._policy,
            self.load,
            timeouts,
            lambda peer, features: self._delivery.announced(peer, features),
            lambda task: self._acceptance.created(task) if self._acceptance is not None else None,
            self._may_speak_for,
            lambda: DeferredList([self._retrier.attempt(step) for step in (_COUNT, _READ_DISABLED)]),
            lambda: self._retrier.wait(_END_LEASES),
            self.is_trusted,
            lambda key: self._records_in_work.run(store.recall, key),
        )
        self._outbox = Outbox(self._records, formula, timeouts, delivery_age_limit)
        self._routing = Routing(store, doubts, self._may_speak_for)
        self._order = TaskOrder()
        self._records_in_work = DeferredSemaphore(RECORDS_IN_WORK)
        courier = Courier(self._records, self._inbox, self._outbox)
        self._delivery = DeliveryService(
            self._records,
            courier,
            peers,
            age_limit=delivery_age_limit,
            interval_seconds=tick_seconds,
            clock=clock,
            random=self._random,
            is_authenticated=self.authenticator.needs_proof,
            is_trusted=self.is_trusted,
            retrier=self._retrier,
        )
        self._drains: list[Deferred[Drained]] = []
        self._draining: Deferred[Any] = succeed(None)
        self._drain = Drain(self._records, self._inbox, clock, self.is_trusted)
        self._stories = Stories(self._records, timeouts, delivery_age_limit)
        self.factory = TaskSubmitFactory(
            self,
            clock=clock,
            idle_timeout=idle_timeout_seconds,
            max_description_bytes=max_description_bytes,
            bounds=bounds,
            random=self._random,
            identify=self.authenticator.authenticate,
        )
        if executor is not None:
            instance_of(Lease).check("executor.lease", executor.lease)
        self._acceptance = (
            Acceptance(self._records, self._inbox, acceptance, self.load, tick_seconds, clock)
            if acceptance is not None
            else None
        )
        self.workers = (
            Workers(
                self._inbox,
                self._live,
                executor,
                concurrency,
                tick_seconds,
                clock,
                executor_pause_limit,
                store.work_directory,
            )
            if executor is not None
            else None
        )
        self._disk = DiskWatch(store, retention.min_free_bytes, tick_seconds, clock)
        if self.workers is not None:
            self._inbox.refusals.append(self.workers.refusal)
        if store.work_directory is not None:
            self._inbox.refusals.append(self._disk.refusal)
            self._disk.setServiceParent(self)
            Sweeper(store.work_directory, clock).setServiceParent(self)
        self._delivery.setServiceParent(self)
        Deadlines(self._records, self._clock, timeouts, tick_seconds, clock).setServiceParent(self)
        Holds(self._records, self.load, self.is_trusted, stops_untrusted, tick_seconds, clock).setServiceParent(self)
        # A message may be under way for its age limit, and the answer to it be lost on the last day.
        keep_tombstones = 2 * max(delivery_age_limit, DELIVERY_AGE_LIMIT)
        removal = RetentionService(
            store, self._clock, retention, room, self.load, keep_tombstones, clock, self._live.forgotten, doubts
        )
        removal.setServiceParent(self)
        self.purger = Purger(store, self._inbox, self._outbox, courier, doubts, clock, removal.forget)
        for service in (self._acceptance, self.workers, self._scores):
            if service is not None:
                service.setServiceParent(self)
        self._unresolved: set[TaskKey] = set()
        doubts.on_resolved(self._look_again)
        self.listeners = [
            Listener(name, endpoint, self.factory) for name, endpoint in ({} if listen is None else listen).items()
        ]
        for listener in self.listeners:
            listener.setServiceParent(self)

    # --- life ----------------------------------------------------------------------------------------------------

    @override
    def startService(self) -> None:
        """Open the store, then listen, look at deadlines and deliver.

        :raises ReactorNotStarted: when an event loop of asyncio runs the reactor, which nobody has started.
        :raises StoreError: when the store cannot be opened.
        :raises ListenError: when an endpoint cannot be listened on; stop the node then, for the rest of it runs.
        """
        require_started_reactor(self._timers)
        self.store.open(self.address)
        self._clock.adopt()
        self._order = TaskOrder()  # whatever the last run has not handled by now is not waited for
        self._inbox.is_draining = False
        self._inbox.is_enabled = None
        self.load.clear()
        self._records.doubts.clear()
        self._unresolved.clear()
        self._retrier.start()
        self._look_up()
        self._retrier.run(_END_LEASES, self.store.end_bound_leases)
        super().startService()

    def _look_up(self) -> None:
        """Read from the store how much waits here, and whether the node was disabled."""
        self._retrier.run(_COUNT, self._count)
        self._retrier.run(_READ_DISABLED, lambda: self.store.note(_DISABLED).addCallback(self._enable))

    async def _count(self) -> None:
        try:
            found = await self.store.load()
        except StoreDamaged:
            # It stays damaged until an operator acts. What is whole goes on meanwhile, and counts from zero.
            self._log.failure("the tasks that wait could not be counted")
            found = []
        self.load.recount(found)

    def _enable(self, note: str) -> None:
        self._inbox.is_enabled = not note

    def _look_again(self, keys: Collection[TaskKey]) -> None:
        """Do what was left undone while commits were in doubt: whether or not they hold is known now."""
        self._unresolved.update(keys)
        self._look_up()
        if self._acceptance is not None:
            self._acceptance.resolved(keys)
        self._retrier.run(_FOLLOW_UP, self._follow_up)

    async def _follow_up(self) -> None:
        while self._unresolved:
            key = next(iter(self._unresolved))
            await self._records.reread(key, partial(self._found, key))
            await self._inbox.requeue_unreported(key)
            self._unresolved.discard(key)
        if self._scores is not None:
            self._scores.booked()

    def _found(self, key: TaskKey, task: Task | None) -> None:
        """The record is as it is after commits that were in doubt, whose success or failure nobody was told."""
        if task is None:
            self._live.forgotten(key)
            return
        self._live.changed(task)
        self._delivery.owed(task.peer)
        if self.workers is not None:
            self.workers.changed(task)

    @property
    def retrying(self) -> Mapping[str, str]:
        """The steps of the node that have failed and are being retried, such as those of its start, and the errors."""
        return dict(self._retrier.unfinished)

    @override
    def stopService(self) -> Deferred[None]:
        """Take nothing new, finish what is in work, and close the store; fires when all of it is done."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._draining.cancel()
        await self._retrier.stop()
        await maybeDeferred(super().stopService)
        await self.factory.close_connections()
        self._live.stop()
        await self.store.close()

    @checked_later(timeout_seconds=DELAY)
    def drain(self, timeout_seconds: float = DRAIN_SECONDS) -> Deferred[Drained]:
        """Take nothing new, let what runs finish or put it back, and deliver what is owed; fires with what is left.

        A drain that is under way is joined. The node then still runs, and answers for what it has: stop it, or start it
        again after stopping to go on.
        """
        drained: Deferred[Drained] = Deferred()
        self._drains.append(drained)
        if len(self._drains) == 1:
            self._draining = Deferred.fromCoroutine(self._drain.run(timeout_seconds))
            self._draining.addBoth(self._end_drains)
        return drained

    def _end_drains(self, result: Any) -> None:
        drains, self._drains = self._drains, []
        for drained in drains:
            drained.callback(result)  # a Failure starts the errback chain

    def now(self) -> datetime:
        """The time of the node's clock, as records have it."""
        return self._records.now()

    @checked_later(is_enabled=FLAG)
    def set_enabled(self, is_enabled: bool) -> Deferred[None]:
        """Take new tasks from peers again, or take none until told otherwise, also after a restart.

        A node that is disabled goes on with what it has, and submits. Fires when that is on disk.
        """
        kept = self.store.keep_note(_DISABLED, "" if is_enabled else "disabled")

        def change(_: None) -> None:
            self._inbox.is_enabled = is_enabled

        return kept.addCallback(change).addErrback(self._records.doubts.note)

    @property
    def is_enabled(self) -> bool:
        """True if the node takes new tasks from peers, or does not know yet, at its start, whether it was disabled."""
        return self._inbox.is_enabled is not False

    @property
    def is_draining(self) -> bool:
        """Whether the node takes nothing new, because it is being drained or was."""
        return self._inbox.is_draining

    @property
    def disk_problem(self) -> str:
        """Why new tasks are refused for want of disk space; empty while there is enough."""
        return self._disk.problem

    @property
    def executor_problem(self) -> ExecutorProblem | None:
        """What keeps the executor from starting tasks; None while nothing does, or there is no executor."""
        return None if self.workers is None else self.workers.availability.problem(self._records.now())

    @property
    def unended(self) -> list[UnendedExecution]:
        """The executions that should have ended and keep their slots, with what keeps them; the oldest first."""
        return [] if self.workers is None else self.workers.unended(self._records.now())

    def reload(self) -> Reloaded:
        """Read again what the authenticator has in files, and retry pending deliveries now.

        :raises ConfigurationError: the files cannot be read; then those of before stay.
        """
        reloaded = Reloaded()
        if IReloadable.providedBy(self.authenticator):
            before = self._credentials()
            self.authenticator.reload()
            after = self._credentials()
            what = "keys and trust were read again"
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            if changed:
                reloaded = Reloaded(applied=(f"{what}, with changes: {', '.join(changed)}",))
            else:
                reloaded = Reloaded(unchanged=(f"{what}: no changes",))
        self._delivery.hasten()
        return reloaded

    def _credentials(self) -> dict[str, object]:
        """Return what the authenticator has read: its own certificate, and the credentials of each peer."""
        authenticator: IReloadable = self.authenticator  # type: ignore[assignment]  # its caller has asked
        own = authenticator.credential()
        proofs = {str(peer): tuple(authenticator.proofs(peer)) for peer in self.peers.addresses()}
        return {**proofs, "the own certificate": (own.fingerprint, own.expires_at)}

    @property
    def refusals(self) -> Mapping[Address, str]:
        """Which peers cannot be dialled for their certificates or the own one, and why."""
        return self._delivery.refusals

    def is_trusted(self, address: Address | str) -> bool:
        """Return whether work is done for a peer: the policy admits it, and it has a key if it needs one.

        The tasks of others are held, not begun, see `Timeouts.hold_limit`, and so is what is owed to them about these.
        """
        return is_trusted(to_address(address, "address"), self.authenticator, self._policy)

    def _may_speak_for(self, peer: Peer, address: Address) -> bool:
        return may_speak_for(peer, address, self.authenticator)

    def _changed(self, before: Task, after: Task) -> None:
        """A change of a record was committed."""
        self.load.changed(before, after)
        self._live.changed(after)
        self._outbox.changed(after)
        if self._acceptance is not None:
            self._acceptance.changed(before)
        if self.workers is not None:
            self.workers.changed(after)

    # --- what peers ask: ITaskHandler ----------------------------------------------------------------------------

    def task_submitted(self, peer: Peer, request: SubmitRequest, send_result: SendResult) -> Deferred[SubmitResponse]:
        """See `ITaskHandler.task_submitted`."""
        return self._order.run((peer.address, request.task_id), lambda: self._inbox.task_submitted(peer, request))

    def status_updated(self, peer: Peer, update: TaskStatusUpdate) -> Deferred[SubmitResponse]:
        """See `ITaskHandler.status_updated`."""
        return self._order.run(
            (peer.address, update.task_id), lambda: self._with_record(lambda: self._status_updated(peer, update))
        )

    def _with_record(self, handle: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """Handle a message about a task of which the record is read: of a few such messages at a time."""
        return self._records_in_work.run(lambda: Deferred.fromCoroutine(handle()))

    async def _status_updated(self, peer: Peer, update: TaskStatusUpdate) -> SubmitResponse:
        sender = self._routing.sender(peer, update.from_addr)
        sides = sides_meant(update)
        known: Task | Tombstone | SubmitResponse
        try:
            known = await self._routing.find(peer, sender, update.task_id, sides)
        except UnknownTask:
            if sides[0] is not Side.RECEIVER or sender is None or not self._is_peer(sender):
                raise
            known = await self._inbox.withdraw_unknown(TaskKey(Side.RECEIVER, sender, update.task_id), update)
        if isinstance(known, SubmitResponse):
            return known
        if isinstance(known, Tombstone):
            return acknowledgement(known)
        if known.side is Side.RECEIVER:
            return await self._inbox.status_updated(known, update)
        return await self._outbox.status_updated(known, update)

    def results_received(self, peer: Peer, message: TaskResultMessage) -> Deferred[SubmitResponse]:
        """See `ITaskHandler.results_received`."""
        return self._order.run(
            (peer.address, message.task_id), lambda: self._with_record(lambda: self._results_received(peer, message))
        )

    async def _results_received(self, peer: Peer, message: TaskResultMessage) -> SubmitResponse:
        sender = self._routing.sender(peer, message.from_addr)
        known = await self._routing.find(peer, sender, message.task_id, (Side.SUBMITTER,))
        if isinstance(known, Tombstone):
            return acknowledgement(known, known.reward or 0)
        return await self._outbox.results_received(known, message)

    def _is_peer(self, address: Address) -> bool:
        return address == self.address or address in self.peers.addresses()

    # --- what the submitter does ---------------------------------------------------------------------------------

    @checked_later(description=TEXT, task_id=optional(TEXT), expires_at=_TIME, result_due_at=_TIME, deliver_by=_TIME)
    def submit(
        self,
        to: Address | str,
        description: str,
        *,
        task_id: str | None = None,
        expires_at: datetime | None = None,
        result_due_at: datetime | None = None,
        deliver_by: datetime | None = None,
    ) -> Deferred[SubmittedTask]:
        """Submit a task; fires with a handle once it is recorded, and goes on to send it for as long as it takes.

        :param to: the receiver, or the string of its address.
        :param task_id: makes it safe to repeat the call; made up if it is left out.
        :param expires_at: a task not begun by then is cancelled by the receiver.
        :param result_due_at: when to cancel a task whose results did not arrive.
        :param deliver_by: until when to try to deliver the submission; by default for `Timeouts.delivery_timeout`, and
            never after ``expires_at``.

        Fails with `UnknownPeer`, with `InvalidAddress` for a string that is no address, with `InvalidMessage` for an id
        or a description that may not be sent, with `InvalidTime` for a time without a zone, and with `TaskConflict`
        when the id is taken by a task with another description, or by an open task with another peer whose messages
        could not be told from those of this one.
        """
        return _command(self._submit(to, description, task_id, expires_at, result_due_at, deliver_by))

    async def _submit(
        self,
        to: Address | str,
        description: str,
        task_id: str | None,
        expires_at: datetime | None,
        result_due_at: datetime | None,
        deliver_by: datetime | None,
    ) -> SubmittedTask:
        to = to_address(to, "to")
        CLIENT_ENDPOINT.check(f"what peers.endpoint gives for {to}", self.peers.endpoint(to))
        if self._inbox.is_draining:
            raise NotAccepting("the node is being drained: it submits nothing new")
        is_own_id = task_id is not None
        task_id = generate_task_id(self._random.randbytes) if task_id is None else task_id
        request = SubmitRequest(task_id, description, str(self.address), str(to))
        request.to_frame()
        request.validate(self._max_description_bytes)
        for name, deadline in (
            ("expires_at", expires_at),
            ("result_due_at", result_due_at),
            ("deliver_by", deliver_by),
        ):
            if deadline is not None and _written(name, deadline) and deadline <= self._records.now():
                await self._refuse_unless_known(TaskKey(Side.SUBMITTER, to, task_id), name, deadline)

        async def record() -> Task:
            is_sent_now = self._delivery.sends_now(to)
            if is_own_id:
                await self._refuse_if_indistinguishable(to, task_id)
                # A submission of a task that there is may have arrived already.
                is_sent_now = is_sent_now and await self.store.get(TaskKey(Side.SUBMITTER, to, task_id)) is None
            return await self._outbox.submit(
                to, description, task_id, expires_at, result_due_at, deliver_by, is_sent_now
            )

        # Of two calls at the same time, the second must find what the first has recorded under the id.
        recorded = self._order.run(task_id, lambda: Deferred.fromCoroutine(record())) if is_own_id else record()
        return SubmittedTask(self, (await recorded).key)

    async def _refuse_if_indistinguishable(self, to: Address, task_id: str) -> None:
        """Refuse an id that is open with another peer, if neither proves who it is, nor says so in each message.

        Peers that announced ``ack`` say so.
        """
        if self.authenticator.needs_proof(to):
            return
        for task in await self.store.find(task_id):
            if task.side is not Side.SUBMITTER or task.peer == to or task.is_settled:
                continue
            if self.authenticator.needs_proof(task.peer):
                continue
            if not (self._delivery.acknowledges(to) and self._delivery.acknowledges(task.peer)):
                raise TaskConflict(
                    f"task {task_id} is open with {task.peer}: messages about it could not be told from those of {to};"
                    " use another id"
                )

    async def _refuse_unless_known(self, key: TaskKey, name: str, deadline: datetime) -> None:
        """A task whose deadline has passed makes no sense; but the same task again is the one that there is."""
        if await self.store.get(key) is None:
            raise InvalidMessage(f"the deadline {format_time(deadline)} has passed already", name)

    @checked(concurrency=COUNT)
    def submit_many(self, tasks: Iterable[tuple[Address | str, str]], *, concurrency: int = 16) -> FanOut:
        """Submit a task for each receiver and description, so many at a time, and give each when it is finished.

        :param tasks: taken from when the next can be begun.
        :returns: for ``async for``, or see `FanOut.next` and `FanOut.all`.
        :raises ValueError: when ``concurrency`` is under 1.
        :raises TypeError: when ``tasks`` cannot be iterated over. See `FanOut` for one of them that is no pair.
        """
        return FanOut(self.submit, tasks, concurrency)

    @checked_later(key=_KEY, reason=TEXT)
    def cancel(self, key: TaskKey, reason: str = "Cancelled by the submitter") -> Deferred[Task]:
        """Ask for a submitted task to be withdrawn; fires with the record once that is owed to the receiver.

        The record becomes final when the receiver has answered. Fails with `IllegalTransition` when it is too late.
        """
        if key.side is not Side.SUBMITTER:
            return fail(IllegalTransition(f"task {key.task_id} was received here; only its submitter can cancel it"))
        return _command(self._outbox.cancel(key, reason))

    @checked_later(key=_KEY)
    def result(self, key: TaskKey) -> Deferred[TaskResultMessage]:
        """Fires with the results of a task, once they are here; fails like `SubmittedTask.result`.

        Cancelling gives up the wait, not the task.
        """
        return Deferred.fromCoroutine(self._result(key))

    async def _result(self, key: TaskKey) -> TaskResultMessage:
        task = await self.wait(key, lambda task: task.is_settled)
        raise_if_ended(task)
        return await self._records.results(task)

    # --- what the receiver does ----------------------------------------------------------------------------------

    @checked_later(key=_KEY, justification=TEXT)
    def accept(self, key: TaskKey, justification: str = "Task accepted") -> Deferred[Task]:
        """Take a NEW task into the queue; see `Inbox.accept`."""
        return _command(self._inbox.accept(key, justification))

    @checked_later(key=_KEY, justification=TEXT)
    def decline(self, key: TaskKey, justification: str) -> Deferred[Task]:
        """Turn a NEW task down, or withdraw from an ACCEPTED one; see `Inbox.decline`."""
        return _command(self._inbox.decline(key, justification))

    @checked_later(key=optional(_KEY), lease=optional(instance_of(Lease)))
    def execute(self, key: TaskKey | None = None, lease: Lease | None = None) -> Deferred[Task]:
        """Begin the head of the queue; see `Inbox.execute`.

        The ``attempt`` of the record that it fires with is a fencing token: the four verbs below take it, and refuse it
        once a later attempt was made. Without it they work only while there was a single attempt.

        :param lease: what to do when nothing more is heard of the execution; by default as the node was told.
        """
        return _command(self._inbox.execute(key, self._lease if lease is None else lease))

    @checked_later(key=_KEY, text=TEXT, attempt=_ATTEMPT)
    def progress(self, key: TaskKey, text: str, *, attempt: int | None = None) -> Deferred[Task]:
        """Tell how far an execution is, which renews its lease; see `Inbox.progress`."""
        return _command(self._inbox.progress(key, text, attempt))

    @checked_later(key=_KEY, reason=TEXT, attempt=_ATTEMPT)
    def put_back(
        self, key: TaskKey, reason: str = "The task was put back", *, attempt: int | None = None
    ) -> Deferred[Task]:
        """Have an execution begun again; see `Inbox.put_back`."""
        return _command(self._inbox.put_back(key, reason, attempt))

    @checked_later(key=_KEY, error=TEXT, attempt=_ATTEMPT)
    def fail(self, key: TaskKey, error: str, *, attempt: int | None = None) -> Deferred[Task]:
        """End an execution that cannot be done; see `Inbox.fail`."""
        return _command(self._inbox.fail(key, error, attempt))

    @checked_later(key=_KEY, text=TEXT, filename=TEXT, content=BYTES, attempt=_ATTEMPT)
    def send_results(
        self,
        key: TaskKey,
        text: str = "",
        *,
        filename: str = "",
        content: bytes = b"",
        attempt: int | None = None,
    ) -> Deferred[Task]:
        """Give the results of an EXECUTING task; see `Inbox.complete`."""
        return _command(self._inbox.complete(key, text, filename, content, attempt))

    # --- either side ---------------------------------------------------------------------------------------------

    @checked_later(task_id=TEXT)
    def resolve(
        self, task_id: str, *, side: Side | str | None = None, peer: Address | str | None = None
    ) -> Deferred[Task]:
        """Fires with the one record that has this id, and matches what else is given.

        Without a side a submitted task comes before received ones: their submitters chose the ids, and may choose one
        that is used here.

        Fails with `UnknownTask` when there is none, and with `AmbiguousTask` when there are several.
        """
        return Deferred.fromCoroutine(self._resolve(task_id, side, peer))

    async def _resolve(self, task_id: str, side: Side | str | None, peer: Address | str | None) -> Task:
        side = None if side is None else to_member(side, "side", Side)
        peer = to_address_or_none(peer, "peer")
        tasks = await self.store.find(task_id)
        matching = [task for task in tasks if side in (None, task.side) and peer in (None, task.peer)]
        if not tasks:
            for tombstone in await self.store.tombstones(task_id):
                raise UnknownTask(
                    f"task {task_id}, {_described(tombstone)}, ended as {tombstone.status}; it was removed on"
                    f" {format_time(tombstone.removed_at)}"
                )
        if tasks and not matching:
            held = "; ".join(_described(task) for task in tasks)
            wanted = {None: "of that peer", Side.RECEIVER: "received", Side.SUBMITTER: "submitted"}[side]
            raise UnknownTask(f"task {task_id} was {held}: this is for tasks {wanted}")
        submitted = [task for task in matching if task.side is Side.SUBMITTER]
        return _only(submitted or matching, task_id)

    def score(self, address: Address | str) -> Deferred[int]:
        """Fires with the polo score of an address, 0 if it has none: the score book's, or the ledger's."""
        return Deferred.fromCoroutine(self._score(address))

    async def _score(self, address: Address | str) -> int:
        score: int = await self._scored_by.score(to_address(address, "address"))
        return score

    def scores(self) -> Deferred[list[tuple[Address, int]]]:
        """Fires with the polo score of every address that has one: the score book's, or the ledger's."""
        return self._scored_by.scores()

    @property
    def _scored_by(self) -> IScoreBook | ITaskStore:
        return self.store if self._score_book is None else self._score_book

    @checked_later(key=_KEY)
    def story(self, key: TaskKey) -> Deferred[Story]:
        """Fires with all that happened to a task, and what it waits for; fails with `UnknownTask`."""
        return Deferred.fromCoroutine(self._stories.tell(key))

    @checked_later(key=_KEY)
    def retry(self, key: TaskKey) -> Deferred[Task]:
        """Try to deliver again what was given up for a task; fires with the record once that is owed again.

        Fails with `IllegalTransition` when nothing was given up.
        """
        return _command(self._records.retry(key))

    @checked_later(key=_KEY, condition=FUNCTION)
    def wait(self, key: TaskKey, condition: Condition) -> Deferred[Task]:
        """Fires with the record of ``key`` as soon as ``condition(task)`` is true, which may be at once.

        Fails with `UnknownTask`, and with `StoreClosed` when the node stops meanwhile. Cancelling gives up the wait.
        """
        return Deferred.fromCoroutine(self._live.wait(key, condition))


def _written(name: str, deadline: datetime) -> str:
    """The text of a deadline.

    :raises InvalidTime: it has none; the error names the parameter.
    """
    try:
        return format_time(deadline)
    except InvalidTime as error:
        raise InvalidTime(f"{name}: {error}") from None


def _command(work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Do ``work`` to its end, whoever still waits: a commit cannot be taken back, and what follows it must happen."""
    done: Deferred[T] = Deferred()
    Deferred.fromCoroutine(work).addCallbacks(done.callback, done.errback)
    return done


def _described(task: Task | Tombstone) -> str:
    """Which of several tasks with the same id this is."""
    key = task.key
    return f"received from {key.peer}" if key.side is Side.RECEIVER else f"submitted to {key.peer}"


def _only(tasks: list[Task], task_id: str) -> Task:
    if not tasks:
        raise UnknownTask(f"there is no task {task_id} here")
    if len(tasks) > 1:
        held = "; ".join(_described(task) for task in tasks)
        raise AmbiguousTask(f"several tasks have the id {task_id} ({held}): say which with --from or --to")
    return tasks[0]
