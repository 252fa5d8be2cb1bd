"""Who may submit what: the policies that submissions are put to, and how they compose.

Each says no with a code for programs, a reason for people, and a hint when to try again where that makes sense (see
wire.md, section 6). What is known already is answered all the same, whatever a policy says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Sequence
from math import ceil
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import alsoProvides, implementer

from tasksubmit.interfaces import (
    IAdmissionPolicy,
    ICountingAdmissionPolicy,
    IPeers,
    IPureAdmissionPolicy,
    Peer,
    Refusal,
)
from tasksubmit.node.load import Load
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest

_RETRY_QUOTA_SECONDS = 60


def submitter(request: SubmitRequest) -> Address:
    """Who submits: that this is who is authenticated was seen before any policy is asked."""
    return Address.parse(request.from_addr)


Answer = Refusal | Deferred[Refusal | None] | Coroutine[Any, Any, Refusal | None] | None


def eventual(answer: Answer) -> Refusal | Deferred[Refusal | None] | None:
    """What a policy has answered, a coroutine among it as the Deferred of what it returns."""
    if answer is None or isinstance(answer, Refusal | Deferred):
        return answer
    return Deferred.fromCoroutine(answer)


@implementer(ICountingAdmissionPolicy)
class AllOf:
    """Admits what all of several policies admit; the first that refuses is the answer."""

    def __init__(self, policies: Sequence[IAdmissionPolicy]) -> None:
        self._policies = policies
        self._counting = [policy for policy in policies if ICountingAdmissionPolicy.providedBy(policy)]
        if all(IPureAdmissionPolicy.providedBy(policy) for policy in policies):
            alsoProvides(self, IPureAdmissionPolicy)

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
        return refusal or self._ask_again(peer, request)

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


@implementer(IPureAdmissionPolicy)
@frozen
class PeersOnly:
    """Admits submissions from the peers that are known, and from nobody else."""

    peers: IPeers

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if submitter(request) in self.peers.addresses():
            return None
        return Refusal("not_a_peer", f"{request.from_addr} is not a peer of this node; ask its operator to add it")


@implementer(IPureAdmissionPolicy)
@frozen
class Allow:
    """Admits submissions from some addresses, and from nobody else."""

    addresses: Collection[Address]

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if submitter(request) in self.addresses:
            return None
        return Refusal("not_a_peer", f"{request.from_addr} may not submit to this node; ask its operator")


@implementer(IPureAdmissionPolicy)
@frozen
class Deny:
    """Refuses submissions from some addresses."""

    addresses: Collection[Address]

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if submitter(request) not in self.addresses:
            return None
        return Refusal("not_a_peer", f"{request.from_addr} may not submit to this node; ask its operator")


@implementer(IPureAdmissionPolicy)
@frozen
class SizeLimit:
    """Refuses descriptions that are longer than so many bytes of UTF-8."""

    limit: int

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

    own: Address
    score: Callable[[Address], Deferred[int]]

    def admit(self, peer: Peer, request: SubmitRequest) -> Deferred[Refusal | None]:
        """See `IAdmissionPolicy.admit`."""
        return Deferred.fromCoroutine(self._compare(submitter(request)))

    async def _compare(self, address: Address) -> Refusal | None:
        theirs, ours = await self.score(address), await self.score(self.own)
        if theirs >= ours:
            return None
        return Refusal("score_too_low", f"Polo score too low: submitter={theirs}, receiver={ours}")


# --- how much: these look at what is there, so that asking them has no effect ----------------------------------------


@implementer(IPureAdmissionPolicy)
@frozen
class PeerQuota:
    """Refuses a peer that has so many tasks which nobody has decided on, or so many bytes of descriptions in them.

    What is on its way to the disk counts as well.
    """

    load: Load
    tasks: int
    description_bytes: int

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        waiting = self.load.new(submitter(request))
        if waiting.tasks >= self.tasks:
            why = f"{waiting.tasks} of your tasks wait to be decided on; the quota is {self.tasks}"
        elif waiting.description_bytes >= self.description_bytes:
            why = (
                f"those of your tasks that wait to be decided on have {waiting.description_bytes} bytes of"
                f" descriptions; the quota is {self.description_bytes}"
            )
        else:
            return None
        return Refusal("quota", f"{why}: try again when some are decided on", _RETRY_QUOTA_SECONDS)


@implementer(IPureAdmissionPolicy)
@frozen
class QueueLimit:
    """Refuses everybody while so many tasks wait in the queue."""

    load: Load
    tasks: int

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if self.load.queued < self.tasks:
            return None
        why = f"the queue has {self.load.queued} tasks, and takes no more than {self.tasks}"
        return Refusal("quota", f"{why}: try again later", _RETRY_QUOTA_SECONDS)


_FEW = 1024


_SECOND = 1_000_000_000
_CLOCK_ERROR = 1000  # nanoseconds; a float has no more precise times of this century


@implementer(IPureAdmissionPolicy, ICountingAdmissionPolicy)
@define(slots=False)
class RateLimit:
    """Lets each peer submit so many tasks a second, and so many at once before that holds.

    It is the generic cell rate algorithm: of each peer is kept when it will have been idle for long enough to have its
    whole burst again, and of those who have it nothing. What is under way to the disk is not counted yet: who sends
    many at once may have those as well, and waits for longer afterwards.

    :ivar clock: gives the time; its ``seconds`` are looked up each time, for a reactor's may be made steady later.
    """

    clock: IReactorTime
    rate: float
    burst: int
    # In nanoseconds, as integers: sums of fractions of a second depend on the value of the clock.
    _full_at: dict[Address, int] = field(factory=dict, init=False)
    _most: int = field(default=_FEW, init=False)

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        full_at = self._full_at.get(submitter(request))
        if full_at is None:
            return None
        too_early = full_at - self._now() - (self.burst - 1) * self._interval()
        if too_early <= _CLOCK_ERROR:
            return None
        return Refusal(
            "rate_limited",
            f"you submit more than {self.rate:g} tasks a second, {self.burst} at once: slow down",
            ceil(too_early / _SECOND),
        )

    def created(self, peer: Peer, request: SubmitRequest) -> None:
        """See `ICountingAdmissionPolicy.created`."""
        address, now = submitter(request), self._now()
        self._full_at[address] = max(self._full_at.get(address, now), now) + self._interval()
        if len(self._full_at) > self._most:
            self._full_at = {one: full_at for one, full_at in self._full_at.items() if full_at > now}
            self._most = max(_FEW, 2 * len(self._full_at))

    def _now(self) -> int:
        return round(self.clock.seconds() * _SECOND)

    def _interval(self) -> int:
        """Return the time between two submissions at the full rate, in nanoseconds."""
        return round(_SECOND / self.rate)
