"""TLS around any endpoint, with both ends judged before either protocol hears of the other.

A protocol of the application is made, and connected, only when the other end was admitted: an unjudged peer makes the
program work for nothing but the handshake, which has limits: of time, of the bytes that are received in it
(`MAX_HANDSHAKE_BYTES`), and of how many there may be and how fast they may begin (`Handshakes`).
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IListeningPort,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import directlyProvides, implementer, providedBy

from tasksubmit.errors import CertificateRefused, ConfigurationError
from tasksubmit.logs import quiet_logger
from tasksubmit.protocol.bounds import host_of
from tasksubmit.protocol.handshakes import UNIT_BYTES, Handshakes
from tasksubmit.protocol.places import has_unread
from tasksubmit.tls.credentials import MAX_HANDSHAKE_BYTES, Credentials
from tasksubmit.tls.faults import fault_of
from tasksubmit.tls.identity import Identity, canonical_name
from tasksubmit.tls.judgement import Admitted, Inspection

HANDSHAKE_SECONDS = 10.0


def admitted_name(transport: object) -> str | None:
    """Who is at the other end of a connection that was made here, as the file of those who are trusted has it.

    :param transport: the one that a protocol was given, or one that wraps it.
    :returns: None for a connection of another kind.
    """
    admitted = getattr(transport, "admitted", None)
    return admitted.name if isinstance(admitted, Admitted) else None


@implementer(IHandshakeListener)
class Gate(ProtocolWrapper):
    """Stands between TLS and the application's protocol, which it makes once the other end was admitted.

    To that protocol it is the transport. Made by `_Gates` for each connection. When trust ends while the connection is
    open, the protocol's method ``trust_ended``, if it has one, is called before the connection is aborted.

    :ivar inspection: what finds out who is at the other end.
    :ivar admitted: who that is, once it is known.
    """

    admitted: Admitted | None = None
    wrappedProtocol: IProtocol | None  # type: ignore[assignment]  # none before, and none after

    def __init__(self, gates: _Gates, address: IAddress | None) -> None:
        super().__init__(gates, None)  # type: ignore[arg-type]
        self._gates = gates
        self._address = address
        self.host = host_of(address)
        self.inspection: Inspection | None = None
        self._time_limit: IDelayedCall | None = None
        self._has_heard = False
        self._is_judged = False
        self._received_bytes = 0
        self._paid_bytes = 0
        self._excess = ""
        self._is_cut = False

    # --- what TLS calls -----------------------------------------------------------------------------------------------

    @override
    def makeConnection(self, transport: Any) -> None:
        directlyProvides(self, providedBy(transport))
        self._time_limit = self._gates.clock.callLater(
            HANDSHAKE_SECONDS, self._end_handshake, f"took over {HANDSHAKE_SECONDS:g} s: timed out"
        )
        self.transport = transport
        self.connected = 1
        if full := self._gates.enter(self):
            self.give_way(full)

    def allowance(self, wanted: int) -> int:
        """Return how many more bytes TLS may have while the handshake is not over; the rest is dropped.

        :param wanted: how many there are.
        """
        if self._is_judged:
            return wanted
        if self._received_bytes == self._paid_bytes and not self._is_cut:
            if self._paid_bytes >= MAX_HANDSHAKE_BYTES:
                self._end_handshake(f"has more than {MAX_HANDSHAKE_BYTES} bytes: its certificates are too large")
            elif why := self._gates.pay(self.host):
                self._end_handshake(f"is one too many: {why}")
            else:
                self._paid_bytes = min(self._paid_bytes + UNIT_BYTES, MAX_HANDSHAKE_BYTES)
        allowed = 0 if self._is_cut else min(wanted, self._paid_bytes - self._received_bytes)
        self._received_bytes += allowed
        return allowed

    def handshakeCompleted(self) -> None:
        """Both ends have shown their certificates; this end has judged the other's."""
        self._is_judged = True
        self._stop_clock()
        self._gates.handshakes.leave(self)
        assert self.inspection is not None
        admitted = self.inspection.admitted
        # OpenSSL does not get here without a judgement; but what it was based on may have changed since.
        is_admitted = self._gates.credentials.still_admit(admitted)
        protocol = self._gates.application.buildProtocol(cast("IAddress", self._address)) if is_admitted else None
        if protocol is None:
            self.cut()
            return
        self.admitted = admitted
        self._gates.credentials.connections.add(self)
        self.wrappedProtocol = protocol
        protocol.makeConnection(cast("ITransport", self))
        if IHandshakeListener.providedBy(protocol):
            protocol.handshakeCompleted()
        self._gates.handshakes.admitted(self.host)
        self._gates.admitted(protocol)

    @override
    def dataReceived(self, data: bytes) -> None:
        self._has_heard = True
        if self.wrappedProtocol is not None and not self._is_cut:
            self.wrappedProtocol.dataReceived(data)

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_clock()
        self._gates.handshakes.leave(self)
        self._gates.credentials.connections.discard(self)
        if not self._has_heard:
            reason = self._explained(reason)
        if self.inspection is not None:
            self.inspection.forget()
        protocol, self.wrappedProtocol = self.wrappedProtocol, None
        if protocol is not None:
            protocol.connectionLost(reason)
        else:
            self._gates.refused(reason, self._address)

    # --- what ends it -------------------------------------------------------------------------------------------------

    def cut(self) -> None:
        """End the connection at once: nothing that comes from now on is heard, and what was not yet written is lost."""
        self._is_cut = True
        tell = getattr(self.wrappedProtocol, "trust_ended", None)  # it may hold what it was given before
        if tell is not None:
            tell()
        tls: Any = self.transport
        if hasattr(tls.transport, "abortConnection"):
            tls.abortConnection()
        else:  # a pipe, say
            tls.transport.loseConnection()

    def is_busy(self) -> bool:
        """See `Stranger.is_busy`: one that shakes hands is over soon."""
        return False

    def has_begun(self) -> bool:
        """See `Stranger.has_begun`."""
        tls: Any = self.transport
        return self._received_bytes > 0 or has_unread(tls.transport)

    def give_way(self, why: str) -> None:
        """See `Stranger.give_way`."""
        self._end_handshake(f"was ended: {why}")

    def _end_handshake(self, excess: str) -> None:
        self._excess = excess
        self.cut()

    def _stop_clock(self) -> None:
        if self._time_limit is not None and self._time_limit.active():
            self._time_limit.cancel()

    def _explained(self, reason: Failure) -> Failure:
        """Why the connection ended before the other end had said anything, as far as that can be known."""
        assert self.inspection is not None
        error: Exception | None = self.inspection.refusal
        if error is None and self._excess:
            error = ConnectionLost(f"the TLS handshake {self._excess}")
        elif error is None and isinstance(reason.value, SSL.Error):
            credentials = self._gates.credentials
            error = explain(reason.value, self._gates.whom, credentials.identity, credentials.own_name)
        elif error is None and self.admitted is None and reason.check(ConnectionDone, ConnectionLost):
            error = ConnectionLost("the connection was closed during the TLS handshake; does the other end speak TLS?")
        return reason if error is None else Failure(error)


_REFUSALS = ("certificate", "unknown ca", "access denied", "decrypt error", "internal error")
"""Words of the alerts with which certificates are refused; the last when it was not OpenSSL that found the reason."""


def explain(error: SSL.Error, whom: str, own: Identity, own_name: str = "") -> Exception:
    """An error of OpenSSL's in words that one can act on.

    :param whom: what to call the other end.
    :param own: what was shown, of which the other end may have said something. An alert has no words for most of what
        may be wrong with a certificate, so that is looked up in the certificate itself.
    :param own_name: the name that the certificate should be for; empty if unknown.
    """
    words = ", ".join(str(part[-1]) for part in (error.args[0] if error.args else []) if part) or "an error in TLS"
    if "peer did not return a certificate" in words:
        return CertificateRefused(f"{whom} shows no certificate; it has to make one with `tasksubmit init`")
    what = words.partition("alert ")[2]
    if any(word in what for word in _REFUSALS):
        fault = fault_of(own, what, datetime.now(timezone.utc), own_name)
        return CertificateRefused(f"{whom} refuses the own certificate, with the key {own.pin} ({what}): {fault}")
    if "wrong version number" in words or "http request" in words or "packet length" in words:
        return ConnectionLost(f"{whom} does not speak TLS ({words})")
    return ConnectionLost(f"the TLS handshake with {whom} failed: {words}")


@implementer(IOpenSSLServerConnectionCreator, IOpenSSLClientConnectionCreator)
class _Gates(Factory):
    """Makes a `Gate` for each connection, and the TLS below it."""

    noisy = False
    protocol = Gate

    def __init__(
        self, credentials: Credentials, application: IProtocolFactory, clock: IReactorTime, expected: str = ""
    ) -> None:
        self.credentials = credentials
        self.application = application
        self.clock = clock
        self.expected = expected
        self.whom = expected or "the other end"
        shared = getattr(application, "handshakes", None)
        self.handshakes = shared if isinstance(shared, Handshakes) else Handshakes(clock)
        self._log = quiet_logger(__name__)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._begin(tlsProtocol)

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._begin(tlsProtocol)

    def _begin(self, tls: TLSMemoryBIOProtocol) -> SSL.Connection:
        gate = tls.wrappedProtocol
        assert isinstance(gate, Gate)
        connection, gate.inspection = self.credentials.begin(self.expected)
        return connection

    @override
    def buildProtocol(self, addr: IAddress | None) -> Gate:
        return Gate(self, addr)

    @override
    def doStart(self) -> None:
        self.application.doStart()

    @override
    def doStop(self) -> None:
        self.application.doStop()

    def logPrefix(self) -> str:
        """The application's."""
        return str(getattr(self.application, "logPrefix", lambda: type(self.application).__name__)())

    def wrapped(self, is_client: bool) -> TLSMemoryBIOFactory:
        """What the inner endpoint is given."""
        return _TLSFactory(self, is_client, self, clock=self.clock)

    # --- what gates call ----------------------------------------------------------------------------------------------

    def admitted(self, protocol: IProtocol) -> None:
        """A protocol of the application was connected."""

    def pay(self, host: str | None) -> str:
        """Count `UNIT_BYTES` more of a handshake; returns why they cannot be had."""
        return self.handshakes.take(host)

    def enter(self, gate: Gate) -> str:
        """A connection is to be judged; returns why there is no place for it."""
        return self.handshakes.enter(gate)

    def refused(self, reason: Failure, address: IAddress | None) -> None:
        """A connection ended before the other end was admitted."""
        text = reason.getErrorMessage()
        if self.credentials.is_news(text):
            host = getattr(address, "host", address)
            self._log.warn("a connection from {host} was refused: {error}", host=host, error=text)


class _LimitedTLS(BufferingTLSTransport):
    """TLS that is given no more of a handshake than its gate allows: OpenSSL itself would take 100 KiB of certificates,
    and work on all of it, before it is known whose they are.
    """

    _is_over = False

    @override
    def dataReceived(self, bytes: bytes) -> None:
        gate = cast("Gate", self.wrappedProtocol)
        # What comes after a refusal is dropped: to count it, and abort, would drop the alert that is on its way.
        while bytes and not self._is_over and (allowed := gate.allowance(len(bytes))):
            super().dataReceived(bytes[:allowed])
            bytes = bytes[allowed:]

    @override
    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        self._is_over = True
        # Twisted keeps the failure in a variable of a frame that is in the failure's traceback. Until garbage is
        # collected, hundreds of such connections would hold 100 KiB each. The frames are of no use to anybody.
        if reason is not None:
            reason.cleanFailure()
        super()._tlsShutdownFinished(reason)


class _TLSFactory(TLSMemoryBIOFactory):
    protocol = _LimitedTLS


class _OneGate(_Gates):
    """For a connection that is dialled: tells how the handshake ended."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connected: Deferred[IProtocol] = Deferred(self._give_up)
        self._gate: Gate | None = None
        self._inner: Deferred[Any] | None = None

    def connect(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        """Dial; fires with the application's protocol, or fails with why there is none."""
        self._inner = endpoint.connect(self.wrapped(is_client=True))
        self._inner.addErrback(self._fail)
        return self.connected

    @override
    def buildProtocol(self, addr: IAddress | None) -> Gate:
        self._gate = super().buildProtocol(addr)
        return self._gate

    @override
    def pay(self, host: str | None) -> str:
        return ""  # who dials decides how often

    @override
    def enter(self, gate: Gate) -> str:
        return ""

    @override
    def admitted(self, protocol: IProtocol) -> None:
        if not self.connected.called:
            self.connected.callback(protocol)

    @override
    def refused(self, reason: Failure, address: IAddress | None) -> None:
        self._fail(reason)

    def _fail(self, reason: Failure) -> None:
        if not self.connected.called:
            self.connected.errback(reason)

    def _give_up(self, _: Deferred[IProtocol]) -> None:
        self.connected.errback(CancelledError())
        if self._inner is not None and not self._inner.called:
            self._inner.cancel()
        elif self._gate is not None and self._gate.transport is not None:
            self._gate.cut()


@implementer(IStreamServerEndpoint)
class MutualTLSServerEndpoint:
    """Listens as ``inner`` does, and admits those whom ``credentials`` trust.

    A factory with an attribute ``handshakes``, such as `TaskSubmitFactory`, says how many there may be, and how
    fast they may begin.

    :param clock: measures the handshake; commonly the reactor.
    """

    def __init__(self, inner: IStreamServerEndpoint, credentials: Credentials, clock: IReactorTime) -> None:
        self._inner = inner
        self._credentials = credentials
        self._clock = clock

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Fires with the port of the inner endpoint; fails as that does, or with `ConfigurationError` for the files."""
        try:
            self._credentials.refresh()
        except ConfigurationError:
            return fail()
        gates = _Gates(self._credentials, protocolFactory, self._clock)
        listening: Deferred[IListeningPort] = self._inner.listen(gates.wrapped(is_client=False))
        return listening


@implementer(IStreamClientEndpoint)
class MutualTLSClientEndpoint:
    """Dials as ``inner`` does, and goes on only with whom ``credentials`` know as ``name``.

    :param name: who has to be there, an address or a host name.
    :param clock: measures the handshake; commonly the reactor.
    """

    def __init__(self, inner: IStreamClientEndpoint, credentials: Credentials, name: str, clock: IReactorTime) -> None:
        self._inner = inner
        self._credentials = credentials
        self._name = canonical_name(name)
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Fires with the protocol once the other end was admitted; fails with `CertificateRefused`, with
        `ConfigurationError` for the own files, or as ``inner``.

        The other end may yet refuse: in TLS 1.3 that becomes known with the first that is read, and is then the reason
        of ``connectionLost``, again as `CertificateRefused`.
        """
        try:
            self._credentials.refresh()
        except ConfigurationError:
            return fail()
        gate = _OneGate(self._credentials, protocolFactory, self._clock, self._name)
        return gate.connect(self._inner)
