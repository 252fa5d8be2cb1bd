"""Sends what is owed: in order for each task, many tasks at once, again after a while when it failed.

What is owed is rows in the store, written with the change that caused them, so all of it survives a restart. Here is
only, for each peer that is owed something, whether it is being served and when it may be tried next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from datetime import timedelta
from random import Random
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from typing_extensions import override

from tasksubmit.errors import (
    CertificateRefused,
    NotAcknowledged,
    PeerError,
    PeerUnreachable,
    StoreError,
    TaskSubmitError,
)
from tasksubmit.interfaces import IPeers
from tasksubmit.lifecycle.change import Delivery, DeliveryKind, Note
from tasksubmit.lifecycle.table import Side
from tasksubmit.lifecycle.task import Task
from tasksubmit.logs import quiet_logger
from tasksubmit.node.courier import Courier, SubmissionRefused, TryAgain, is_query
from tasksubmit.node.peers import Clients
from tasksubmit.node.periodic import Periodic, Retrier
from tasksubmit.node.records import Records, clipped, described, noted
from tasksubmit.wire.address import Address

FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0

REFUSED_DELAY_SECONDS = 300.0
"""After a certificate was refused: somebody has to change something, and a reload says that it was done."""

LONGEST_HINT_SECONDS = 3600.0
"""What a peer may ask for with ``retry_after_s``, at most."""

_AT_ONCE = 256
"""Messages to one peer that are under way together, once it takes many on one connection; before that it is one."""

DELIVERY_AGE_LIMIT = timedelta(days=7)
"""After so long what is owed is given up, until somebody has it tried again."""

_GRACE_SECONDS = 3600.0
"""How long a node that was started gives nothing up."""

MAX_CLEAN_CLOSES = 5
"""Clean closes in a row, in place of acknowledgments, by a peer that announced ``ack``. From then on each message that
it does not acknowledge is abandoned: it may have become a peer that acknowledges nothing."""

_NO_SUBMISSIONS = tuple(kind for kind in DeliveryKind if kind is not DeliveryKind.SUBMISSION)

_BYTES_AT_ONCE = 32 * 1024 * 1024
"""What is long, to one peer and under way together, in bytes; a single message may be larger."""


def _small(task: Task) -> int:
    return 0


_SIZES: Mapping[DeliveryKind, Callable[[Task], int]] = {
    DeliveryKind.SUBMISSION: lambda task: len(task.description),
    DeliveryKind.RESULTS: lambda task: task.result_bytes,
}


@define(eq=False)
class _Owed:
    """A peer that is owed something. Times are seconds of the clock.

    A refusal that another attempt may get past holds all submissions to the peer, queries among them. Then one of them
    probes; with each submission that is answered the window is doubled, until it is as wide as for other messages.

    :ivar in_work: the messages under way, by id, and their size where it matters.
    :ivar submissions: the ids of the submissions and queries among them.
    :ivar window: how many submissions may be in flight together; None for as many as there may be messages.
    :ivar refusals: how often the probe was refused in a row.
    :ivar clean_closes: how often the peer closed a connection cleanly in place of an acknowledgement, in a row.
    """

    is_served: bool = False
    has_more: bool = True
    failures: int = 0
    not_before: float = 0.0  # because it could not be reached
    wake_at: float = 0.0  # because its messages are for later
    in_work: dict[int, int] = field(factory=dict)
    submissions: set[int] = field(factory=set)
    submissions_not_before: float = 0.0  # because the last was refused
    window: int | None = None
    refusals: int = 0
    clean_closes: int = 0
    _changed: Deferred[None] | None = None

    def may_be_sent_to(self, now: float) -> bool:
        """Whether nothing speaks against another attempt."""
        return now >= max(self.not_before, self.wake_at)

    def may_submit(self, now: float) -> bool:
        """Return True if one more submission may be in flight."""
        is_open = self.window is None or len(self.submissions) < self.window
        return is_open and now >= self.submissions_not_before

    def submission_refused(self, now: float, delay: float, retry_after_s: float) -> float:
        """Hold the submissions for a while; return how long."""
        if now >= self.submissions_not_before:  # else it was in flight together with the refused one
            self.refusals += 1
        self.submissions_not_before = max(self.submissions_not_before, now + max(delay, retry_after_s))
        self.window = 1
        return self.submissions_not_before - now

    def submission_answered(self, now: float, widest: int) -> None:
        """Double the window, unless submissions are held."""
        if self.window is not None and now >= self.submissions_not_before:
            self.refusals = 0
            self.window = 2 * self.window if 2 * self.window < widest else None

    def change(self) -> Deferred[None]:
        """Fires when a message has ended, or more is owed."""
        self._changed = Deferred()
        return self._changed

    def tell(self) -> None:
        """Something has changed."""
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.callback(None)


class DeliveryService(Service):
    """Delivers to every peer, none of them waiting for another.

    :param age_limit: how long a message is tried before it is given up.
    :param interval_seconds: how often to look for peers that may be tried again, and for what is too old.
    :param random: spreads the attempts of many nodes.
    :param is_authenticated: tells whether whatever seems to come from a peer really does.
    :param is_trusted: tells whether a peer may submit tasks; what is owed to others about tasks of theirs is held.
    :param retrier: repeats what has to be read and written besides messages, until it succeeds.
    """

    def __init__(
        self,
        records: Records,
        courier: Courier,
        peers: IPeers,
        *,
        age_limit: timedelta,
        interval_seconds: float,
        clock: IReactorTime,
        random: Random,
        retrier: Retrier,
        is_authenticated: Callable[[Address], bool] = lambda address: False,
        is_trusted: Callable[[Address], bool] = lambda address: True,
    ) -> None:
        self.setName("delivery")
        self._log = quiet_logger(__name__)
        self._records = records
        self._store = records.store
        self._courier = courier
        self._clock = clock
        self._random = random
        self._clients = Clients(records.own, peers, clock, self._learned, is_authenticated)
        self._owed: dict[Address, _Owed] = {}
        self._is_trusted = is_trusted
        self._held: set[Address] = set()
        self._age_limit = age_limit
        self._scan = Periodic(self._look, "scan for deliveries", interval_seconds, clock)
        self._retrier = retrier
        self._work: set[Deferred[None]] = set()
        self._is_giving_up = False
        self._started_at = 0.0
        self.refusals: dict[Address, str] = {}

    @override
    def startService(self) -> None:
        super().startService()
        self._started_at = self._clock.seconds()
        self._retrier.run("read what is to be delivered", self._read_what_is_owed)
        self._scan.start(now=False)

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._scan.stop()
        closed = self._clients.close()
        # That its own stop ended the attempts is no reason for the next start to wait.
        return DeferredList([closed, *self._work]).addCallback(lambda _: self._owed.clear())

    def owed(self, address: Address) -> None:
        """Something new, or something more, is to be sent to a peer."""
        if self.running:
            owed = self._owed.setdefault(address, _Owed())
            owed.has_more = True
            owed.wake_at = 0.0
            owed.tell()
            self._serve(address, owed)

    def hasten(self) -> None:
        """Try at once what waits for its next attempt."""
        if self.running:
            self.refusals.clear()
            self._retrier.run("have everything delivered now", self._hasten)

    async def _hasten(self) -> None:
        await self._store.hasten(self._records.now())
        for address, owed in list(self._owed.items()):
            owed.failures, owed.not_before, owed.submissions_not_before = 0, 0.0, 0.0
            self.owed(address)

    def acknowledges(self, address: Address) -> bool:
        """True if a peer has announced ``ack``."""
        return self._clients.acknowledges(address)

    def sends_now(self, address: Address) -> bool:
        """True if a submission to a peer with ``ack`` would be written immediately, on a connection that is open."""
        if not (self.running and self._clients.acknowledges(address) and self._clients.is_connected(address)):
            return False
        owed = self._owed.get(address)
        now = self._clock.seconds()
        return owed is None or (now >= owed.not_before and owed.may_submit(now))

    def announced(self, address: Address, features: Iterable[str]) -> None:
        """A peer has announced features in a submission; its answers to ours are heeded by the client itself."""
        self._clients.learn(address, features)
        owed = self._owed.get(address)
        if owed is not None:  # whoever submits can be reached again
            owed.failures, owed.not_before = 0, 0.0
            self._serve(address, owed)

    # --- when ----------------------------------------------------------------------------------------------------

    async def _read_what_is_owed(self) -> None:
        # The clock may have been set while the node was stopped. No wait exceeds its maximum because of that.
        await self._store.limit_waits(self._records.now())
        self._clients.remember(await self._store.peer_features())
        for address in await self._store.owed_peers():
            self.owed(address)

    def _look(self) -> None:
        if not self._is_giving_up:
            self._is_giving_up = True
            self._begin(self._give_up_aged())  # first, or what is too old would be under way at every look
        for address in [address for address in self._held if self._is_trusted(address)]:
            self._held.discard(address)
            self.owed(address)
        for address, owed in list(self._owed.items()):
            self._serve(address, owed)

    async def _give_up_aged(self) -> None:
        try:
            # After a long stop each has its chance first.
            grace = min(self._age_limit.total_seconds(), _GRACE_SECONDS)
            if self._clock.seconds() < self._started_at + grace:
                return
            before = self._records.now() - self._age_limit
            for delivery, task in await self._store.aged_deliveries(before, 2 * _AT_ONCE):
                owed = self._owed.get(delivery.key.peer)
                if owed is None or delivery.id not in owed.in_work:
                    await self._give_up(delivery, task)
        finally:
            self._is_giving_up = False

    async def _give_up(self, delivery: Delivery, task: Task) -> None:
        self._log.warn(
            "gave up {kind} of task {task_id} to {peer} after {attempts} attempts; `tasksubmit retry` tries it again",
            kind=delivery.kind.value,
            task_id=task.task_id,
            peer=task.peer,
            attempts=delivery.attempts,
        )
        try:
            await self._courier.give_up(delivery, task)
        except StoreError as error:  # the next look tries it again
            self._log.warn("task {task_id} could not be changed: {error}", task_id=task.task_id, error=error)

    def _serve(self, address: Address, owed: _Owed) -> None:
        if self.running and not owed.is_served and owed.may_be_sent_to(self._clock.seconds()):
            owed.is_served = True
            self._begin(self._talk_to(address, owed))

    async def _talk_to(self, address: Address, owed: _Owed) -> None:
        """Send what is owed until none is ready or the peer cannot be talked to; ends when none is under way."""
        try:
            await self._send_ready(address, owed)
        except Exception:
            self._log.failure("delivery to {peer} stumbled, will try again", peer=address)
        while owed.in_work:
            await owed.change()
        owed.is_served = False

    async def _send_ready(self, address: Address, owed: _Owed) -> None:
        """Keep as many messages under way as may be."""
        while self.running and owed.may_be_sent_to(self._clock.seconds()):
            owed.has_more = False
            room = max(1, self._at_once(address) - len(owed.in_work))
            kinds = tuple(DeliveryKind) if owed.may_submit(self._clock.seconds()) else _NO_SUBMISSIONS
            under_way = frozenset(owed.in_work)
            sides = self._sides(address)
            ready = await self._store.ready_deliveries(address, self._records.now(), room, under_way, kinds, sides)
            if not self.running:
                return  # the clients are closed; another would stay behind
            certain = [(delivery, task) for delivery, task in ready if not self._records.is_in_doubt(delivery.key)]
            self._send(address, owed, certain)
            if owed.has_more:
                continue
            if owed.in_work:
                await owed.change()
            elif len(certain) < len(ready):
                owed.wake_at = self._clock.seconds() + FIRST_DELAY_SECONDS  # `owed` is called when the doubt has ended
            else:
                await self._rest(address, owed)

    def _sides(self, address: Address) -> Collection[Side]:
        """The sides of the records about which a peer may be sent messages; if not both, it is looked at again."""
        if self._is_trusted(address):
            return tuple(Side)
        if address not in self._held:
            self._held.add(address)
            self._log.info("{peer} is not trusted: what is pending to it about its tasks is held", peer=address)
        return (Side.SUBMITTER,)

    async def _rest(self, address: Address, owed: _Owed) -> None:
        """Nothing is ready: forget the peer, or wake when the next message will be."""
        sides = self._sides(address)
        next_at = await self._store.next_delivery(address, tuple(DeliveryKind), sides)
        is_held = self._clock.seconds() < owed.submissions_not_before
        if is_held and next_at is not None:
            next_at = await self._store.next_delivery(address, _NO_SUBMISSIONS, sides)
        if owed.has_more:
            return
        if next_at is None and not is_held:
            owed.wake_at = float("inf")
            self._owed.pop(address, None)
        else:
            # Not for long, since the clock may just be being set.
            now = self._clock.seconds()
            seconds = LONGEST_DELAY_SECONDS
            if next_at is not None:
                seconds = min((next_at - self._records.now()).total_seconds(), seconds)
            if is_held:
                seconds = min(owed.submissions_not_before - now, seconds)
            owed.wake_at = now + seconds

    # --- what ----------------------------------------------------------------------------------------------------

    def _send(self, address: Address, owed: _Owed, ready: list[tuple[Delivery, Task]]) -> None:
        """Begin with those of the ready messages that there is room for."""
        bytes_in_work = sum(owed.in_work.values())
        for delivery, task in ready:
            if len(owed.in_work) >= self._at_once(address):
                return
            is_submission = delivery.kind is DeliveryKind.SUBMISSION
            if is_submission and not owed.may_submit(self._clock.seconds()):
                continue
            size = _SIZES.get(delivery.kind, _small)(task)
            if bytes_in_work and bytes_in_work + size > _BYTES_AT_ONCE:
                continue
            bytes_in_work += size
            owed.in_work[delivery.id] = size
            if is_submission:
                owed.submissions.add(delivery.id)
            self._begin(self._see_through(address, owed, delivery, task))

    def _at_once(self, address: Address) -> int:
        return _AT_ONCE if self._clients.takes_many(address) else 1

    async def _see_through(self, address: Address, owed: _Owed, delivery: Delivery, task: Task) -> None:
        try:
            could_talk = await self._attempt(address, owed, delivery, task)
        except Exception:
            self._log.failure("delivery to {peer} stumbled, will try again", peer=address)
            could_talk = False
        now = self._clock.seconds()
        if could_talk:
            owed.failures = 0
        elif now >= owed.not_before:  # else the failure of another message has said so
            is_refused = address in self.refusals
            owed.not_before = now + (REFUSED_DELAY_SECONDS if is_refused else self._delay(owed.failures))
            owed.failures += 1
        del owed.in_work[delivery.id]
        owed.submissions.discard(delivery.id)
        owed.tell()

    async def _attempt(self, address: Address, owed: _Owed, delivery: Delivery, task: Task) -> bool:
        """Whether the peer could be talked to; a message that it could not take is for later."""
        try:
            if await self._courier.deliver(self._clients.client(address), delivery, task):
                self.refusals.pop(address, None)
                if delivery.kind is not DeliveryKind.SUBMISSION:
                    owed.clean_closes = 0
                elif not is_query(task):  # queries are answered whatever the peer admits
                    owed.submission_answered(self._clock.seconds(), self._at_once(address))
            return True
        except Exception as error:
            self._note_refusal(address, error)
            if not self.running and not isinstance(error, PeerUnreachable):
                return False
            # What was certainly not sent is noted even while stopping: it may be sent to anybody by the next start.
            why = clipped(str(error))
            # That nobody was there says nothing of the message: when the peer is back, it need not wait as well.
            failures = owed.failures if isinstance(error, PeerUnreachable) else delivery.attempts
            delay = self._delay(failures) if self.running else 0.0
            if isinstance(error, NotAcknowledged):
                owed.clean_closes += 1
                if owed.clean_closes >= MAX_CLEAN_CLOSES:
                    await self._give_up(delivery, task)
                    return False
            if isinstance(error, CertificateRefused):
                delay = REFUSED_DELAY_SECONDS if self.running else 0.0
            elif isinstance(error, SubmissionRefused):
                hint = min(error.retry_after_s, LONGEST_HINT_SECONDS)
                delay = owed.submission_refused(self._clock.seconds(), self._delay(owed.refusals), hint)
            elif isinstance(error, TryAgain):
                owed.clean_closes = 0  # a refusal is an acknowledgment
                delay = max(delay, min(error.retry_after_s, LONGEST_HINT_SECONDS))
            elif not isinstance(error, TaskSubmitError):
                self._log.failure(
                    "{kind} of task {task_id} could not be sent to {peer}",
                    kind=delivery.kind.value,
                    task_id=task.task_id,
                    peer=address,
                )
            self._log.info(
                "{kind} of task {task_id} to {peer} failed, next attempt in {delay:.1f} s: {error}",
                kind=delivery.kind.value,
                task_id=task.task_id,
                peer=address,
                delay=delay,
                error=why,
            )
            now = self._records.now()
            event = noted(task.status, now, Note.DELIVERY_FAILED, f"{described(delivery)}: {why}")
            await self._store.postpone(delivery, event, now + timedelta(seconds=delay), why)
            return not isinstance(error, PeerError)

    def _note_refusal(self, address: Address, error: Exception) -> None:
        """Keep a refusal until something else is heard, and tell it once: it is for somebody to act on."""
        if not isinstance(error, CertificateRefused):
            if isinstance(error, PeerError):
                self.refusals.pop(address, None)
        elif self.refusals.get(address) != str(error):
            self.refusals[address] = str(error)
            self._log.error(
                "nothing can be sent to {peer} until this is settled: {error}; "
                "it is tried again every {delay:g} s, and after `tasksubmit reload`",
                peer=address,
                error=error,
                delay=REFUSED_DELAY_SECONDS,
            )

    def _delay(self, failures: int) -> float:
        """Seconds until the next attempt: doubled with each failure, with jitter downwards by up to half."""
        longest = min(FIRST_DELAY_SECONDS * 2 ** min(failures, 30), LONGEST_DELAY_SECONDS)
        return float(longest * self._random.uniform(0.5, 1.0))

    def _learned(self, address: Address, features: frozenset[str]) -> None:
        self._retrier.run(
            f"remember the features of {address}", lambda: self._store.remember_features(address, features)
        )

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Do ``work``, which stopping waits for."""
        done = Deferred.fromCoroutine(work).addErrback(
            lambda failure: self._log.failure("delivery stumbled, will try again", failure)
        )
        if not done.called:
            self._work.add(done)
            done.addCallback(lambda _: self._work.discard(done))
