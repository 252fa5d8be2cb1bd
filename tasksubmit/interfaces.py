"""Every replaceable part of the package: what it is asked, what it promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen
from typing_extensions import TypeAlias
from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from tasksubmit.wire.address import Address
    from tasksubmit.wire.messages import (
        SubmitRequest,
        SubmitResponse,
        TaskResult,
        TaskResultMessage,
        TaskStatusUpdate,
    )


@frozen
class Peer:
    """Who is at the other end of a connection.

    :ivar address: the authenticated address; None while the transport authenticates nobody. What a message says about
        its sender is not this, and not to be trusted more than this.
    :ivar transport: where the connection comes from, printable, for logs; no two of its forms need be alike.
    """

    address: Address | None
    transport: str


SendResult: TypeAlias = "Callable[[TaskResult], None]"
"""Sends the old synchronous result of one submission, on the connection on which it came, at any later time.

It never overtakes the answer to its submission. Raises `PeerVanished`, with nothing written, once the connection is
gone; without that it was handed to the transport, which says nothing about its arrival.
"""


class ITaskHandler(Interface):
    """Decides what a server answers; asked once for each frame that makes sense.

    What arrives here was decoded and validated. The frames of one connection are handed over in their order, but without
    waiting for the answer to the one before, so that many can share one commit; the server puts the answers in order.
    Each method returns its answer or a Deferred of it, which the server never cancels: a handler that was asked finishes
    its work also when the connection is lost meanwhile.

    A `TaskSubmitError` from a method is answered 400 with its ``code`` and its text (of a `StoreError` the code alone,
    since its text names files). Any other exception is logged and answered 400 ``overloaded``, which tells the peer to
    try again later. Nothing may be answered 200 before it is on disk (wire.md, section 6).
    """

    def task_submitted(  # type: ignore[empty-body]  # an interface has no bodies
        peer: Peer,  # noqa: N805
        request: SubmitRequest,
        send_result: SendResult,
    ) -> bool | SubmitResponse | Deferred[bool] | Deferred[SubmitResponse] | Deferred[bool | SubmitResponse]:
        """A task was submitted.

        :param request: its ``from_addr`` is the peer's own word; compare it with ``peer.address``.
        :param send_result: for handlers that answer with the old synchronous result.
        :returns: True for 200 ``Task accepted and queued``, False for 400 ``Task rejected``, or the answer itself, to
            which the server adds the features.
        """

    def status_updated(  # type: ignore[empty-body]  # an interface has no bodies
        peer: Peer,  # noqa: N805
        update: TaskStatusUpdate,
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        """The other side of a task tells where it stands.

        :returns: the acknowledgement; sent only when ``update.ack`` asks for it.
        """

    def results_received(  # type: ignore[empty-body]  # an interface has no bodies
        peer: Peer,  # noqa: N805
        message: TaskResultMessage,
    ) -> SubmitResponse | Deferred[SubmitResponse]:
        """The results of a task have arrived.

        :returns: the acknowledgement; sent only when ``message.ack`` asks for it.
        """
