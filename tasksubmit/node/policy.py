"""Who may do what: the policies that submissions are put to."""

from __future__ import annotations

from attrs import frozen
from zope.interface import implementer

from tasksubmit.interfaces import IPeers, IPureAdmissionPolicy, Peer, Refusal
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest


@implementer(IPureAdmissionPolicy)
@frozen
class PeersOnly:
    """Admits submissions from the peers that are known, and from nobody else."""

    peers: IPeers

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        """See `IAdmissionPolicy.admit`."""
        if Address.parse(request.from_addr) in self.peers.addresses():
            return None
        return Refusal("not_a_peer", f"{request.from_addr} is not a peer of this node; ask its operator to add it")
