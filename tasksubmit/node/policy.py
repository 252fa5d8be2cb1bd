"""Who may submit what: the policies that submissions are put to, and how they compose.

Each says no with a code for programs, a reason for people, and a hint when to try again where that makes sense (see
wire.md, section 6). What is known already is answered all the same, whatever a policy says.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from math import ceil
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import alsoProvides, implementer

from tasksubmit.interfaces import (
    IAdmissionPolicy,
    ICountingAdmissionPolicy,
    ILoad,
    ILoadAdmissionPolicy,
    IPeerAdmissionPolicy,
    IPeers,
    IPureAdmissionPolicy,
    IWithdrawalPolicy,
    Peer,
    PeerLoad,
    Refusal,
)
from tasksubmit.protocol.arguments import CLOCK
from tasksubmit.protocol.buckets import LeakyBuckets
from tasksubmit.validation import COUNT, FUNCTION, MAX_SECONDS, RATE, optional, provides, to_tuple
from tasksubmit.wire.address import Address, to_address, to_addresses
from tasksubmit.wire.messages import SubmitRequest

_RETRY_QUOTA_SECONDS = 60

PEER_RATE = 100.0
PEER_BURST = 2_000
PEER_TASKS = 10_000
PEER_RECORDS = 100_000
PEER_BYTES = 2**30
"""The default share of each peer: tasks a second and at once, open tasks, tasks in all states, bytes on the disk."""

POLICY = provides(IAdmissionPolicy, "such as PeersOnly")
PEERS = provides(IPeers, "such as StaticPeers")
_LOAD = optional(provides(ILoad, "a node gives its own to its policy"))


def submitter(request: SubmitRequest) -> Address:
    """Who submits: that this is who is authenticated was seen before any policy is asked."""
    return Address.parse(request.from_addr)


Answer = Refusal | Deferred[Refusal | None] | Coroutine[Any, Any, Refusal | None] | None


def eventual(answer: Answer) -> Refusal | Deferred[Refusal | None] | None:
    """What a policy has answered, a coroutine among it as the Deferred of what it returns."""
    if answer is None or isinstance(answer, Refusal | Deferred):
        return answer
    return Deferred.fromCoroutine(answer)


def with_load(policy: IAdmissionPolicy, load: ILoad) -> IAdmissionPolicy:
    """Return the policy that decides by ``load``, if it decides by one; else the policy itself."""
    if ILoadAdmissionPolicy.providedBy(policy):
        counted: IAdmissionPolicy = policy.with_load(load)
        return counted
    return policy


def _to_addresses(value: Iterable[Address | str]) -> frozenset[Address]:
    return to_addresses(value, "addresses")


def _to_own(value: Address | str) -> Address:
    return to_address(value, "own")


@implementer(ICountingAdmissionPolicy, ILoadAdmissionPolicy, IPeerAdmissionPolicy, IWithdrawalPolicy)
class AllOf:
    """Admits what all of several policies admit; the first that refuses is the answer.

    :param policies: in the order of asking.
    """

    def __init__(self, policies: Iterable[IAdmissionPolicy]) -> None:
        self._policies = to_tuple(policies, "policies", POLICY)
        self._counting = [policy for policy in self._policies if ICountingAdmissionPolicy.providedBy(policy)]
        if all(IPureAdmissionPolicy.providedBy(policy) for policy in self._policies):
            alsoProvides(self, IPureAdmissionPolicy)

    def with_load(self, load: ILoad) -> AllOf:
        """See `ILoadAdmissionPolicy.with_load`."""
        return AllOf(with_load(policy, load) for policy in self._policies)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | Deferred[Refusal | None] | None:
        """See `IAdmissionPolicy.admit`."""
        for position, policy in enumerate(self._policies):
            answer = policy.admit(peer, request)
            if answer is None:
                continue
            refusal = eventual(answer)
            if isinstance(refusal, Deferred):
                return Deferred.fromCoroutine(self._ask_rest(refusal, position + 1, peer, request))
            return refusal
        return None

    async def _ask_rest(
        self, asked: Deferred[Refusal | None], position: int, peer: Peer, request: SubmitRequest
    ) -> Refusal | None:
        refusal = await asked
        for policy in self._policies[position:]:
            if refusal is not None:
                break
            answer = policy.admit(peer, request)
            refusal = answer if answer is None or isinstance(answer, Refusal) else await answer
        return self._ask_again(peer, request) if refusal is None else refusal

    def _ask_again(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """What those say by now that answer at once: others may have been admitted while a slow one was waited for."""
        for policy in self._policies:
            if IPureAdmissionPolicy.providedBy(policy):
                refusal = policy.admit(peer, request)
                if isinstance(refusal, Refusal):
                    return refusal
        return None

    def created(self, peer: Peer, request: SubmitRequest) -> None:
        """See `ICountingAdmissionPolicy.created`."""
        for policy in self._counting:
            policy.created(peer, request)

    def excludes(self, address: Address) -> bool:
        """See `IPeerAdmissionPolicy.excludes`."""
        return any(IPeerAdmissionPolicy.providedBy(policy) and policy.excludes(address) for policy in self._policies)

    def admit_withdrawal(self, address: Address) -> Refusal | None:
        """See `IWithdrawalPolicy.admit_withdrawal`."""
        for policy in self._policies:
            if IWithdrawalPolicy.providedBy(policy):
                refusal: Refusal | None = policy.admit_withdrawal(address)
                if refusal is not None:
                    return refusal
        return None


@implementer(IPureAdmissionPolicy, IPeerAdmissionPolicy)
@frozen
class PeersOnly:
    """Admits submissions from the peers that are known, and from nobody else."""

    peers: IPeers = field(validator=PEERS)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if not self.excludes(submitter(request)):
            return None
        return Refusal("not_a_peer", f"{request.from_addr} is not a peer of this node; ask its operator to add it")

    def excludes(self, address: Address) -> bool:
        """See `IPeerAdmissionPolicy.excludes`."""
        return address not in self.peers.addresses()


@implementer(IPureAdmissionPolicy, IPeerAdmissionPolicy)
@frozen
class Allow:
    """Admits submissions from some addresses, and from nobody else.

    :ivar addresses: given as any iterable of addresses, or of strings such as ``0:0000.0000.0002``.
    """

    addresses: frozenset[Address] = field(converter=_to_addresses)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if not self.excludes(submitter(request)):
            return None
        return Refusal("not_a_peer", f"{request.from_addr} may not submit to this node; ask its operator")

    def excludes(self, address: Address) -> bool:
        """See `IPeerAdmissionPolicy.excludes`."""
        return address not in self.addresses


@implementer(IPureAdmissionPolicy, IPeerAdmissionPolicy)
@frozen
class Deny:
    """Refuses submissions from some addresses.

    :ivar addresses: given as any iterable of addresses, or of strings such as ``0:0000.0000.0002``.
    """

    addresses: frozenset[Address] = field(converter=_to_addresses)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if not self.excludes(submitter(request)):
            return None
        return Refusal("not_a_peer", f"{request.from_addr} may not submit to this node; ask its operator")

    def excludes(self, address: Address) -> bool:
        """See `IPeerAdmissionPolicy.excludes`."""
        return address in self.addresses


@implementer(IPureAdmissionPolicy)
@frozen
class SizeLimit:
    """Refuses descriptions that are longer than so many bytes of UTF-8."""

    limit: int = field(validator=COUNT)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        size_bytes = len(request.task_description.encode())
        if size_bytes <= self.limit:
            return None
        return Refusal("too_large", f"the description has {size_bytes} bytes; this node takes up to {self.limit}")


@implementer(IAdmissionPolicy)
@frozen
class ScoreGate:
    """Refuses submitters whose polo score is below the node's own, as deployed peers do (wire.md, section 5).

    :ivar own: the node's address.
    :ivar score: fires with the score of an address; see `Node.score`.
    """

    own: Address = field(converter=_to_own)
    score: Callable[[Address], Deferred[int]] = field(validator=FUNCTION)

    def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[Refusal | None]:
        """See `IAdmissionPolicy.admit`."""
        return Deferred.fromCoroutine(self._compare(submitter(request)))

    async def _compare(self, address: Address) -> Refusal | None:
        theirs, ours = await self.score(address), await self.score(self.own)
        if theirs >= ours:
            return None
        return Refusal("score_too_low", f"Polo score too low: submitter={theirs}, receiver={ours}")


# --- how much: these look at what is there, so that asking them has no effect ----------------------------------------


def _counted(load: ILoad | None, policy: str) -> ILoad:
    """The counts that a policy decides by.

    :raises RuntimeError: no node has given it any.
    """
    if load is None:
        raise RuntimeError(
            f"{policy} has no counts to decide by: give it to a Node as its policy, by itself or in AllOf; a policy"
            " that asks others has to provide ILoadAdmissionPolicy"
        )
    return load


@implementer(IPureAdmissionPolicy, ILoadAdmissionPolicy, IWithdrawalPolicy)
@frozen
class PeerQuota:
    """Refuses a peer that has used up its share, see `PeerLoad`. Tasks on their way to the disk count as well.

    Withdrawals of tasks that have not arrived are refused at the quota of records.

    :ivar tasks: the number of open tasks at which a peer is refused.
    :ivar stored_bytes: the bytes of descriptions and results at which it is refused.
    :ivar records: the number of tasks in all states, removed ones included, at which it is refused.
    :ivar load: the counts of the node, which gives them to its policy.
    """

    tasks: int = field(default=PEER_TASKS, validator=COUNT)
    stored_bytes: int = field(default=PEER_BYTES, validator=COUNT)
    records: int = field(default=PEER_RECORDS, validator=COUNT)
    load: ILoad | None = field(default=None, kw_only=True, repr=False, validator=_LOAD)

    def with_load(self, load: ILoad) -> PeerQuota:
        """See `ILoadAdmissionPolicy.with_load`."""
        return evolve(self, load=load)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        load = _counted(self.load, "PeerQuota").of(submitter(request))
        if load.open >= self.tasks:
            why = f"{load.open} of your tasks have not ended; the quota is {self.tasks}: try again when some have"
        elif load.records >= self.records:
            return self._too_many(load)
        elif load.stored_bytes >= self.stored_bytes:
            used = f"your tasks and results take {load.stored_bytes} bytes"
            why = f"{used}; the quota is {self.stored_bytes}: try again when some were removed"
        else:
            return None
        return Refusal("quota", why, _RETRY_QUOTA_SECONDS)

    def admit_withdrawal(self, address: Address) -> Refusal | None:
        """See `IWithdrawalPolicy.admit_withdrawal`."""
        load = _counted(self.load, "PeerQuota").of(address)
        return self._too_many(load) if load.records >= self.records else None

    def _too_many(self, load: PeerLoad) -> Refusal:
        why = f"{load.records} tasks of yours are on record; the quota is {self.records}: try again in some days"
        return Refusal("quota", why, _RETRY_QUOTA_SECONDS)


@implementer(IPureAdmissionPolicy, ILoadAdmissionPolicy)
@frozen
class QueueLimit:
    """Refuses peers that have open tasks while so many tasks wait in the queue.

    A peer without any is admitted: else the one that asks most often would get each place that becomes free.

    :ivar tasks: the length of the queue at which tasks are refused.
    :ivar load: the counts of the node, which gives them to its policy.
    """

    tasks: int = field(validator=COUNT)
    load: ILoad | None = field(default=None, kw_only=True, repr=False, validator=_LOAD)

    def with_load(self, load: ILoad) -> QueueLimit:
        """See `ILoadAdmissionPolicy.with_load`."""
        return evolve(self, load=load)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        load = _counted(self.load, "QueueLimit")
        queued = load.queued
        if queued < self.tasks or not load.of(submitter(request)).open:
            return None
        why = f"the queue has {queued} tasks, and takes no more than {self.tasks}"
        return Refusal("quota", f"{why}: try again later", _RETRY_QUOTA_SECONDS)


_TOLERANCE_SECONDS = 1e-6
"""How much too early a peer may be: a clock of this century rounds its seconds to a quarter of a microsecond."""


@implementer(IPureAdmissionPolicy, ICountingAdmissionPolicy, IWithdrawalPolicy)
@define(slots=False)
class RateLimit:
    """Lets each peer submit so many tasks a second, and so many at once before that holds.

    Withdrawals of tasks that have not arrived count as submissions do.

    Each peer has a leaky bucket. What is under way to the disk is not counted yet: who sends many at once may have
    those as well, and waits for longer afterwards.

    :ivar clock: gives the time; its ``seconds`` are looked up each time, for a reactor's may be made steady later.
    :ivar rate: tasks a second.
    :ivar burst: tasks at once; at one instant, a peer that was idle may submit exactly so many.
    """

    clock: IReactorTime = field(validator=CLOCK)
    rate: float = field(validator=RATE)
    burst: int = field(validator=COUNT)
    _used: LeakyBuckets = field(factory=LeakyBuckets, init=False)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        return self._refusal(submitter(request))

    def created(self, peer: Peer, request: SubmitRequest) -> None:
        """See `ICountingAdmissionPolicy.created`."""
        self._count(submitter(request))

    def admit_withdrawal(self, address: Address) -> Refusal | None:
        """See `IWithdrawalPolicy.admit_withdrawal`."""
        refusal = self._refusal(address)
        if refusal is None:
            self._count(address)
        return refusal

    def _count(self, address: Address) -> None:
        self._used.add(address, self.rate, self.clock.seconds())

    def _refusal(self, address: Address) -> Refusal | None:
        too_many = self._used.level(address, self.clock.seconds()) - (self.burst - 1)
        if too_many <= _TOLERANCE_SECONDS * max(1.0, self.rate):
            return None
        return Refusal(
            "rate_limited",
            f"you submit more than {self.rate:g} tasks a second, {self.burst} at once: slow down",
            ceil(min(too_many / self.rate, MAX_SECONDS)),
        )


def default_policy(peers: IPeers, clock: IReactorTime) -> IAdmissionPolicy:
    """Return the policy of a node that is given none: peers may submit, each of them its share."""
    return AllOf([PeersOnly(peers), PeerQuota(), RateLimit(clock, PEER_RATE, PEER_BURST)])
