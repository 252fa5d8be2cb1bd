"""Every replaceable part of the package: what it is asked, what it promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import define, field, frozen
from zope.interface import Attribute, Interface

from tasksubmit.lifecycle.task import Task
from tasksubmit.validation import BYTES, FUNCTION, SIZE, TEXT, instance_of, to_path_or_none
from tasksubmit.wire.address import Address, to_address_or_none

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IStreamClientEndpoint, ITransport

    from tasksubmit.lifecycle.change import Booking, Change, Delivery, DeliveryKind, OwedBooking, TaskEvent, Tombstone
    from tasksubmit.lifecycle.table import Deadline, Lease, Side, TaskStatus
    from tasksubmit.lifecycle.task import TaskKey
    from tasksubmit.wire.messages import (
        SubmitRequest,
        SubmitResponse,
        TaskResult,
        TaskResultMessage,
        TaskStatusUpdate,
    )


def _to_address(value: Address | str | None) -> Address | None:
    return to_address_or_none(value, "address")


@frozen
class Peer:
    """Who is at the other end of a connection.

    :ivar address: the authenticated address; None while the transport authenticates nobody. What a message says about
        its sender is not this, and not to be trusted more than this.
    :ivar transport: where the connection comes from, printable, for logs; no two of its forms need be alike.
    """

    address: Address | None = field(converter=_to_address)
    transport: str = field(validator=TEXT)


@frozen
class Refusal:
    """Why a submission is not taken.

    :ivar code: for programs (wire.md, section 6).
    :ivar message: for people.
    :ivar retry_after_s: a hint in seconds when trying again later makes sense; 0 when it does not.
    """

    code: str = field(validator=TEXT)
    message: str = field(validator=TEXT)
    retry_after_s: int = field(default=0, validator=SIZE)


SendResult: TypeAlias = "Callable[[TaskResult], None]"
"""Sends the old synchronous result of one submission, on the connection on which it came, at any later time.

It never overtakes the answer to its submission. Raises `PeerVanished`, with nothing written, once the connection is
gone; without that it was handed to the transport, which says nothing about its arrival.
"""


class ITaskHandler(Interface):
    """Decides what a server answers; asked once for each frame that makes sense.

    What arrives here was decoded and validated. The frames of one connection are handed over in their order, but
    without waiting for the answer to the one before, so that many can share one commit; the server puts the answers in
    order. Each method returns its answer or a Deferred of it, which the server never cancels: a handler that was asked
    finishes its work also when the connection is lost meanwhile.

    A `TaskSubmitError` from a method is answered 400 with its ``code`` and its text (of a `StoreError` the code alone,
    since its text names files). Any other exception is logged and answered 400 ``overloaded``, which tells the peer to
    try again later. Nothing may be answered 200 before it is on disk (wire.md, section 6).
    """

    def task_submitted(
        peer: Peer,
        request: SubmitRequest,
        send_result: SendResult,
    ) -> bool | SubmitResponse | Deferred[bool] | Deferred[SubmitResponse] | Deferred[bool | SubmitResponse]:
        """A task was submitted.

        :param request: its ``from_addr`` is the peer's own word; compare it with ``peer.address``.
        :param send_result: for handlers that answer with the old synchronous result.
        :returns: True for 200 ``Task accepted and queued``, False for 400 ``Task rejected``, or the answer itself, to
            which the server adds the features.
        """

    def status_updated(
        peer: Peer,
        update: TaskStatusUpdate,
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        """The other side of a task tells where it stands.

        :returns: the acknowledgement; sent only when ``update.ack`` asks for it.
        """

    def results_received(
        peer: Peer,
        message: TaskResultMessage,
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        """The results of a task have arrived.

        :returns: the acknowledgement; sent only when ``message.ack`` asks for it.
        """


@frozen
class SavedResult:
    """A result that a store keeps.

    :ivar name: its name there.
    :ivar sha256: the SHA-256 of its content, in hexadecimal digits.
    :ivar size_bytes: the length of its content, however the store keeps that.
    """

    name: str
    sha256: str
    size_bytes: int


@frozen
class ReturnedSpace:
    """Disk space that a store does not need any more.

    :ivar returned_bytes: what one call of `ITaskStore.return_space` has returned to the file system.
    :ivar free_bytes: what the store holds free after that, and uses again before it grows.
    :ivar can_shrink: False if the store cannot return free space while it is open.
    """

    returned_bytes: int
    free_bytes: int
    can_shrink: bool


SHIFTED = "clock_shift_ms"
"""The name of the note about `ITaskStore.shift_times`."""


@frozen
class DiskSpace:
    """The disk of a store: its size, and what is free for this process."""

    size_bytes: int
    free_bytes: int


@define
class PeerLoad:
    """The load that one peer puts on a node, see `ILoad`.

    :ivar new: how many of its tasks are NEW.
    :ivar queued: how many of its tasks are in the queue.
    :ivar held: how many of its tasks are held, see `Task.held_at`.
    :ivar open: how many tasks that it has submitted have not ended.
    :ivar records: how many tasks of it there are in all states, removed ones of which a tombstone is left included.
    :ivar stored_bytes: of the descriptions of these tasks, in UTF-8, and of results given to it or received from it.
    """

    address: Address
    new: int = 0
    queued: int = 0
    held: int = 0
    open: int = 0
    records: int = 0
    stored_bytes: int = 0


class ITaskStore(Interface):
    """Where a node keeps its tasks, their stories, what it owes to peers, and the ledger.

    Every method but `open` returns a Deferred. One that changes something fires only after the change is durable, and
    fails with `StoreError` when it is not; then nothing of it happened. After `StoreUncertain` it is unknown whether it
    happened, and whether what reads show survives a crash, until `confirm` has fired. Changes take effect in the order
    of the calls.
    """

    work_directory: Path | None = Attribute(
        "Directory for what executors keep while they execute tasks, which may be missing; None if nothing is on disk."
    )

    def open(owner: Address | None = None) -> None:
        """Make the store ready; opening an open store does nothing. Blocks while the schema is brought up to date.

        The store belongs to the first ``owner`` that opens it, and is refused to another.

        :raises StoreError: when it cannot be opened; `StoreLocked`, `StoreTooNew` and `StoreDamaged` say why.
        """

    def close() -> Deferred[None]:
        """Finish what was asked, then release everything; fires when done. The store can be opened again."""

    def confirm() -> Deferred[None]:
        """Make all that reads show durable, and drop what they do not show; fires when that is done.

        To be called after `StoreUncertain`, again after each failure. Once it has fired, what reads show is the truth:
        no restart brings back a change that is not there, or loses one that is. Changes that were asked for before are
        carried out, or have failed, by then.
        """

    def create(task: Task, owed: Sequence[Delivery]) -> Deferred[tuple[Task, bool]]:
        """Keep a new record and what it owes; fires with it and True, or with the record that has the key and False.

        Fails with `TaskForgotten` when a tombstone has the key.
        """

    def apply(change: Change) -> Deferred[Task]:
        """Carry out `change` in one transaction; fires with the record as it is then.

        A task that enters or leaves ACCEPTED on the receiver's side joins the queue or leaves it, and the task which
        that makes the head is staged, all in the same transaction. A held task is not in the queue; it keeps its place
        for when it rejoins, and a head behind that place is then staged no longer. A booking that was made before is
        left out. Fails with `StaleTask` when the record is not as ``change.before`` has it.
        """

    def get(key: TaskKey) -> Deferred[Task | None]:
        """Fires with the record known by ``key``, or None."""

    def recall(key: TaskKey) -> Deferred[Task | Tombstone | None]:
        """Fires with the record known by ``key``, or with what retention left of it, or None."""

    def find(task_id: str, peer: Address | None = None) -> Deferred[list[Task]]:
        """Fires with every record that has this id, of either side and whichever peer, or the one that is given.

        How long it takes does not tell whether there are records of other peers.
        """

    def list_tasks(
        *,
        side: Side | None,
        status: TaskStatus | None,
        peer: Address | None,
        before: int | None,
        limit: int,
        outcome: str | None = None,
        since: datetime | None = None,
        stuck_before: datetime | None = None,
        after: int | None = None,
        is_oldest_first: bool = False,
    ) -> Deferred[list[Task]]:
        """Fires with up to ``limit`` records that match, newest first; ``before`` is a ``Task.number``, not in it.

        With long descriptions they may be fewer than there are; none are the end.

        :param outcome: the outcome of the tasks; an empty string for those without.
        :param since: the earliest creation.
        :param stuck_before: only stuck tasks: those with a delivery that has failed or was abandoned, and those created
            before this time that have not ended.
        :param after: a ``Task.number``; only later records.
        :param is_oldest_first: True reverses the order.
        """

    def count_tasks(
        *,
        limit: int,
        side: Side | None = None,
        status: TaskStatus | None = None,
        peer: Address | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        stuck_before: datetime | None = None,
    ) -> Deferred[tuple[int, bool]]:
        """Fires with the number of matching records, see `list_tasks`, and True if that is all of them.

        Only the newest ``limit`` records are looked at, whatever else is stored, so that the cost has a bound.
        """

    def queue(limit: int, *, after: int | None = None, before: int | None = None) -> Deferred[list[Task]]:
        """Fires with the first ``limit`` tasks of the queue, the head first; with long descriptions, with fewer.

        ``after`` and ``before`` are a ``Task.queue_position``: only tasks behind, or ahead of it.
        """

    def load() -> Deferred[list[PeerLoad]]:
        """Fires with the load of every peer that has any.

        It is counted, and fires, in its place among the changes: after all that were asked for before, and before all
        that are asked for later.
        """

    def note(name: str) -> Deferred[str]:
        """Fires with what `keep_note` kept under a name, or an empty text."""

    def keep_note(name: str, text: str) -> Deferred[None]:
        """Keep a short text under a name, in place of what was kept there."""

    def put_back(limit: int) -> Deferred[list[Task]]:
        """Fires with the first ``limit`` EXECUTING tasks that wait to be taken again, in the order of taking.

        Those that are held are not among them.
        """

    def events_of(task: Task) -> Deferred[list[TaskEvent]]:
        """Fires with the story of a task, in order; it begins after the creation, which the record itself tells."""

    def disk_space() -> Deferred[DiskSpace | None]:
        """Fires with the space on the disk that the store writes to; None if it writes to none."""

    def passed_deadlines(limits: Sequence[tuple[Deadline, datetime]]) -> Deferred[list[Deadline]]:
        """Fires with those deadlines that at least one record meets, its column before the time beside the deadline.

        It reads no record, so a damaged one does not make it fail. A scan asks this first, as most find nothing.
        """

    def due(deadline: Deadline, before: datetime, limit: int) -> Deferred[list[Task]]:
        """Fires with up to ``limit`` records that meet ``deadline``, its column before ``before``, the oldest first.

        The cost grows with what is due, not with what is stored.
        """

    def ready_deliveries(
        peer: Address,
        now: datetime,
        limit: int,
        skip: Collection[int] = (),
        kinds: Collection[DeliveryKind] = ...,
        sides: Collection[Side] = ...,
    ) -> Deferred[list[tuple[Delivery, Task]]]:
        """Fires with up to ``limit`` messages that may be sent to ``peer`` now, at most one for each task.

        Those whose ids are in ``skip`` are left out, and those that are of none of ``kinds``, or about records of none
        of ``sides``, by default of all; the collections are not to be changed until then.
        """

    def next_delivery(
        peer: Address, kinds: Collection[DeliveryKind] = ..., sides: Collection[Side] = ...
    ) -> Deferred[datetime | None]:
        """Fires with when the next message may be sent to ``peer``; None when nothing is owed to it.

        Only those are meant that are of one of ``kinds``, and about records of one of ``sides``, by default of all.
        """

    def aged_deliveries(before: datetime, limit: int) -> Deferred[list[tuple[Delivery, Task]]]:
        """Fires with up to ``limit`` messages owed since before ``before`` and not given up, the oldest first.

        Submissions are not among them.
        """

    def postpone(delivery: Delivery, event: TaskEvent, ready_at: datetime, error: str) -> Deferred[None]:
        """Note that an attempt failed, which ``event`` tells, and not to try again before ``ready_at``."""

    def hasten(now: datetime) -> Deferred[None]:
        """Let everything that waits for its next attempt be sent from ``now`` on; what was never tried stays held."""

    def owed_peers() -> Deferred[list[Address]]:
        """Fires with every peer to whom something is owed."""

    def deliveries_of(key: TaskKey) -> Deferred[list[Delivery]]:
        """Fires with what is owed for one task, in the order in which it will be sent."""

    def end_bound_leases() -> Deferred[None]:
        """Let every lease run out that does not outlive its node: the node has just been started."""

    def limit_waits(now: datetime) -> Deferred[None]:
        """Limit every wait to its maximum, because the clock may have been set back since the times were stored.

        A delivery waits `LONGEST_WAIT` at most, and not at all if the clock was certainly set back: if the delivery,
        what last happened to its task, the previous call, or the last `shift_times` lies ahead of ``now``. A lease
        lasts at most as long as a new one. The head of the queue waits from ``now`` on at the latest, and so does a NEW
        task that was received. To be called when the node was started.
        """

    def shift_times(by: timedelta, now: datetime | None = None) -> Deferred[None]:
        """Move the times of what is under way, and those from which ages are counted: the clock was set by so much.

        Times that were agreed on (``expires_at``, ``result_due_at``, ``deliver_by``) stay, and so do the stamps of
        what has ended. The sum of all shifts is kept in the note `SHIFTED`, in milliseconds, so that a shift whose
        commit was in doubt is not made twice. No time leaves the years 1900 to 9000.

        :param now: the time before the clock was set. Times that lie ahead of it were stored by another setting of the
            clock, and stay. None moves all of them.
        """

    def ended(
        before: datetime, limit: int, *, min_result_bytes: int = 0, peer: Address | None = None
    ) -> Deferred[list[Task]]:
        """Fires with up to ``limit`` tasks that ended before ``before`` and owe nothing, the oldest first.

        Only those whose results have at least ``min_result_bytes``, and, if ``peer`` is given, of this other party.
        """

    def result_bytes() -> Deferred[dict[Address, int]]:
        """Fires with the size of the results of each peer that has any: those given to it, and those received from it.

        Late results are not counted.
        """

    def forget(task: Task, now: datetime) -> Deferred[bool]:
        """Remove an ended task, its story and its results, and leave a `Tombstone`; fires with whether that was done.

        It is not when the record has changed, or something is owed for it.
        """

    def return_space(max_bytes: int) -> Deferred[ReturnedSpace]:
        """Return up to ``max_bytes`` of free space to the file system; fires with what is left.

        With a small number it keeps no other call waiting for long. To be called again until nothing was returned. A
        reader that another program has in the middle of the store can delay the effect until it ends.
        """

    def tombstones(task_id: str, peer: Address | None = None) -> Deferred[list[Tombstone]]:
        """Fires with what retention left of every task with this id, or of those of one peer."""

    def leave_tombstone(tombstone: Tombstone) -> Deferred[Task | Tombstone | None]:
        """Put a tombstone in the place of a record that never came to be; fires with None.

        Fires with the record or the tombstone that has the key, if there is one; then nothing is changed.
        """

    def drop_tombstones(before: datetime, limit: int) -> Deferred[int]:
        """Remove up to ``limit`` tombstones put before ``before``; fires with how many."""

    def scores() -> Deferred[list[tuple[Address, int]]]:
        """Fires with the score of every address that has one."""

    def score(address: Address) -> Deferred[int]:
        """Fires with the score of an address, 0 if it has none."""

    def owed_bookings(limit: int) -> Deferred[list[OwedBooking]]:
        """Fires with up to ``limit`` of the bookings that are kept for a score book, in the order of booking."""

    def settle_bookings(ids: Collection[int]) -> Deferred[None]:
        """The score book has these bookings: they are not owed any longer."""

    def peer_features() -> Deferred[dict[Address, frozenset[str]]]:
        """Fires with what each peer last announced."""

    def remember_features(peer: Address, features: frozenset[str]) -> Deferred[None]:
        """Keep what ``peer`` announced."""

    def save_result(task_id: str, filename: str, content: bytes) -> Deferred[SavedResult]:
        """Keep a result durably; fires with what a later `Change` gives to a record.

        A result that no record comes to name is to be discarded; one left over by a crash goes at the next `open`.
        """

    def discard_result(name: str) -> Deferred[None]:
        """Forget a result that no record names."""

    def read_result(name: str, digest: str = "") -> Deferred[bytes]:
        """Fires with the content of a result; fails with `StoreDamaged` when its SHA-256 is not ``digest``.

        An empty ``digest`` is not compared.
        """


class IScoreBook(Interface):
    """Where the polo scores of agents are kept besides the ledger that each node has in its own store (wire.md, 5).

    A node with a score book asks it for scores, in place of its ledger.
    """

    def score(address: Address) -> Deferred[int]:
        """Fires with the score of an address, 0 if it has none."""

    def scores() -> Deferred[list[tuple[Address, int]]]:
        """Fires with the score of every address that has one."""

    def book(key: TaskKey, booking: Booking) -> Deferred[None]:
        """Add points to a party's score, once; fires when that is durable.

        A node tells each booking after the commit that holds it, in order, and again until it was told that it is kept,
        also after a restart: the same key and party again change nothing. ``key.side`` says whose record booked. Both
        parties of a task do; a book that both of them share takes what submitters book alone.
        """


class IAdmissionPolicy(Interface):
    """Who may submit what. It is asked about each new submission, after the message itself was found valid."""

    def admit(
        peer: Peer, request: SubmitRequest
    ) -> Refusal | Deferred[Refusal | None] | Coroutine[Any, Any, Refusal | None] | None:
        """Decide, at once or later: ``None`` admits the submission, a `Refusal` is the answer to it otherwise.

        Refusals are not remembered: the same submission may come again, and is asked about again.
        """


class IPureAdmissionPolicy(IAdmissionPolicy):
    """A policy on which being asked has no effect: the same question gets the same answer however often it is asked.

    A node may then ask it before it has looked whether the task is known already, and saves that look for new ones.
    """


class ILoad(Interface):
    """The work that waits in a node, and the load of each peer, kept by the node without asking its store."""

    queued: int = Attribute("Number of tasks in the queue.")

    def of(address: Address) -> PeerLoad:
        """Return the load of a peer, its tasks on their way to the disk included; not to be changed."""


class ILoadAdmissionPolicy(IAdmissionPolicy):
    """A policy that decides by the load of its node. A policy that asks others has to pass the load on to them."""

    def with_load(load: ILoad) -> IAdmissionPolicy:
        """Return the policy that a node asks, which counts its tasks in ``load``; this one stays as it is.

        A node calls it once, when it is made. The same policy may so be given to several nodes.
        """


class IPeerAdmissionPolicy(IAdmissionPolicy):
    """A policy that knows peers from which it admits nothing. What they have submitted before is held, not begun."""

    def excludes(address: Address) -> bool:
        """Return True if nothing from this address is admitted at present."""


class ICountingAdmissionPolicy(IAdmissionPolicy):
    """A policy that wants to know what became of what it admitted."""

    def created(peer: Peer, request: SubmitRequest) -> None:
        """A submission that was admitted is a task now, which it was not before.

        Others may have been admitted meanwhile: as many as were under way.
        """


class IWithdrawalPolicy(IAdmissionPolicy):
    """A policy that limits withdrawals of tasks that have not arrived, too: a node keeps a tombstone of each."""

    def admit_withdrawal(address: Address) -> Refusal | None:
        """Decide on such a withdrawal by ``address``: ``None`` admits it, and then it counts from now on.

        A refusal needs a retryable code (wire.md, section 6): with any other the submitter ends its record,
        although a submission that is still in flight could start it.
        """


class IPeers(Interface):
    """Who lives where."""

    def addresses() -> Collection[Address]:
        """Every peer that is known."""

    def endpoint(address: Address) -> IStreamClientEndpoint:
        """How to reach the peer.

        :raises UnknownPeer: when it is not one of `addresses`.
        """


@frozen
class Credential:
    """What a node shows to prove who it is.

    :ivar fingerprint: of its public key, by which peers know it.
    :ivar expires_at: when its certificate ends; an aware datetime.
    :ivar warning: what to do about that, once it is near; else empty.
    """

    fingerprint: str
    expires_at: datetime
    warning: str


class IAuthenticator(Interface):
    """Who is at the other end of a connection that somebody else made.

    An application that authenticates its peers in a way of its own provides this to its node.
    """

    def authenticate(transport: ITransport) -> Address | None:
        """Who it is; asked when the first frame of a connection has come.

        :returns: None when the transport proves nothing. If it raises, the peer's requests are refused.
        """

    def proofs(address: Address) -> Collection[str]:
        """What proves that somebody is ``address``, for people to read; empty when nothing does."""

    def needs_proof(address: Address) -> bool:
        """Whether nobody who proved nothing speaks for ``address``. Whoever proved to be another never does."""


class IReloadable(IAuthenticator):
    """An authenticator that reads files, which may change while the node runs."""

    def reload() -> None:
        """Read the files again, and end the connections of those whom they admit no longer.

        :raises ConfigurationError: when they cannot be read; then nothing has changed.
        """

    def credential() -> Credential:
        """What the node itself shows."""


# --- who does the work --------------------------------------------------------------------------------------------


class IAcceptancePolicy(Interface):
    """What becomes of tasks that were submitted here, when it is not a person who decides."""

    def decide(task: Task) -> bool | Refusal | Deferred[bool] | Deferred[Refusal] | Deferred[bool | Refusal]:
        """Decide on a task that is NEW, at once or later.

        Asked once after each submission was answered, and again after a start about those that are still NEW.

        :returns: True accepts the task; False leaves it to somebody else, which has to decide before its deadline; a
            `Refusal` declines it with its message. Any other answer, like an error, is logged and leaves it, too.
        """


@frozen
class ResultFile:
    """Results that are a file.

    :ivar name: what it is called between the parties; its extension tells what it is (wire.md, section 5).
    """

    name: str = field(validator=TEXT)
    content: bytes = field(validator=BYTES)


ExecutionResult: TypeAlias = "str | ResultFile"
"""A text, or a file."""

EventualResult: TypeAlias = (
    "ExecutionResult | Deferred[str] | Deferred[ResultFile] | Deferred[ExecutionResult]"
    " | Coroutine[Any, Any, ExecutionResult]"
)
"""Results, at once or later."""


def _to_work_directory(value: Path | str | None) -> Path | None:
    return to_path_or_none(value, "work_directory")


def _note_nothing(text: str) -> None:
    """Of an execution that no node watches."""


@frozen
class Execution:
    """One attempt at a task, as the executor sees it that makes the attempt.

    :ivar task: the record as it was when the attempt began.
    :ivar progress: tells the submitter how far it is, in words, and renews the lease. May be called as often as there
        is something to tell: only the newest is told. Never fails.
    :ivar work_directory: where executors keep what they need on disk for the time of an attempt; it may be missing. The
        executor removes what it made there. None when the node keeps nothing on disk.
    :ivar unended: notes for the operator what keeps the work from ending although it should, such as a process that
        cannot be killed; an empty string when nothing does any more. Never fails.
    """

    task: Task = field(validator=instance_of(Task, "a Task: the record of the attempt"))
    progress: Callable[[str], None] = field(validator=FUNCTION)
    work_directory: Path | None = field(default=None, converter=_to_work_directory)
    unended: Callable[[str], None] = field(default=_note_nothing, validator=FUNCTION)

    @property
    def description(self) -> str:
        """What is to be done, in the submitter's words."""
        return self.task.description


class IExecutor(Interface):
    """Does the tasks that a node takes from its queue. ``str`` of it is shown to people."""

    lease: Lease = Attribute("The terms under which its tasks are begun.")

    def execute(execution: Execution) -> EventualResult:
        """Do a task; called on the reactor's thread, and again while earlier calls are under way.

        The Deferred, or the coroutine, is cancelled when the results are not wanted any more: the task was cancelled,
        its lease ran out, or the node stops. It has to fire in any case, and only when nothing of the work goes on: the
        task may be begun again then, and a stopping node waits for it.

        :returns: the results, to be sent to the submitter.
        :raises ExecutionFailed: when it cannot be done; the submitter is told the text. Any other exception is logged,
            and the submitter told its type and text.
        :raises ExecutorUnavailable: when nothing of the work was started, for a reason that is not the task's: the task
            is requeued, and all tasks wait until the executor can start something again.
        """


class IExecutorMaker(Interface):
    """Makes executors from text, for ``--executor NAME:ARGUMENT:OPTION=VALUE``. A Twisted plugin, if it provides
    ``IPlugin`` and an instance stands in a module of ``twisted.plugins``.
    """

    name: str = Attribute("What it is chosen by.")
    usage: str = Attribute("What follows the name, such as ``COMMAND[:timeout=SECONDS]``.")
    summary: str = Attribute("What it does, in one line.")

    def make_executor(reactor: Any, *arguments: str, **options: str) -> IExecutor | None:
        """Make an executor; ``None`` leaves execution to people and programs outside of the node.

        :raises ConfigurationError: saying what is wrong with the arguments or the options.
        """
