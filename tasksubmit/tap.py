"""The ``twistd tasksubmit`` plugin: options in, one service out; and the same without plugin discovery."""

from __future__ import annotations

import io
import ipaddress
import os
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from attrs import NOTHING, Attribute, evolve, fields
from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, clientFromString, serverFromString
from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.logger import ILogObserver, Logger, globalLogBeginner, textFileLogObserver
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from typing_extensions import override

from tasksubmit import __version__
from tasksubmit.errors import ConfigurationError, TaskSubmitError
from tasksubmit.interfaces import IAdmissionPolicy, IExecutor, IPeers, ITaskStore
from tasksubmit.lifecycle.table import Lease
from tasksubmit.logs import json_observer, text_observer
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.clock import use_steady_timers
from tasksubmit.node.executors import executor_makers, make_executor
from tasksubmit.node.listener import Listener
from tasksubmit.node.mutual import MutualTLS
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.policy import AllOf, Deny, PeerQuota, PeersOnly, QueueLimit, RateLimit, ScoreGate
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.node.retention import Retention
from tasksubmit.node.service import Node
from tasksubmit.node.tuning import allow_files, tune_interpreter
from tasksubmit.permissions import refuse_writable
from tasksubmit.protocol.strings import check_client_type
from tasksubmit.settings import (
    LEFT_ALONE,
    Settings,
    default_duration,
    is_inherited,
    kind_of,
    load_settings,
    needs_passing,
    with_defaults,
)
from tasksubmit.state_dir import CONTROL_TOKEN, absolute
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.files import CERTIFICATE_FILE
from tasksubmit.tls.identity import claimed_addresses
from tasksubmit.web import control_site
from tasksubmit.web.gate import TokenGate
from tasksubmit.web.site import MAX_CONTROL_CONNECTIONS, FewAtOnce
from tasksubmit.wire.address import Address


def _option_name(attribute: Attribute[Any]) -> str:
    return str(attribute.name).replace("_", "-")


def _is_flag(attribute: Attribute[Any]) -> bool:
    return attribute.default is False


def _help(attribute: Attribute[Any]) -> str:
    """What an option is for, and what it is without being given."""
    default = attribute.default
    shown = default_duration(attribute) or (f"{default:.15g}" if isinstance(default, float) else str(default))
    return str(attribute.metadata["help"]) + ("" if default is NOTHING or not default else f"  [default: {shown}]")


_OTHER_FILES = 256 + MAX_CONTROL_CONNECTIONS
"""What a node opens besides the connections of peers: the database, results, connections that it makes."""

Observer = Callable[[Any], ILogObserver]
"""Makes what writes a log to a stream."""

_DAY_SECONDS = 24 * 60 * 60

_REPEATED = ("listen", "peer", "deny", "quarantine")


class Options(usage.Options):
    """The options of a node: those of `Settings`, ``--config`` and ``--check``.

    After parsing, ``options.settings`` has the checked `Settings`. Under twistd and twist a wrong option ends the
    process with one line; parsed on its own, it raises ``twisted.python.usage.UsageError``.
    """

    longdesc = (
        "Runs one agent: receives and submits tasks, keeps them on disk, and delivers messages to peers. Durations are "
        "numbers of seconds, or have units: 90s, 5m, 1h30m, 30d, 2w."
    )

    optFlags = [
        ["check", None, "check the options and the configuration file, and exit"],
        *([_option_name(option), None, option.metadata["help"]] for option in fields(Settings) if _is_flag(option)),
    ]
    optParameters = [
        ["config", "c", None, "TOML file with the same names as these options, which override it"],
        *(
            [_option_name(option), None, None, _help(option)]
            for option in fields(Settings)
            if not _is_flag(option) and option.name not in _REPEATED
        ),
    ]

    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        self._repeated: dict[str, list[str]] = {}
        self._given: dict[str, object] = {}
        self._config: Path | None = None
        self._directory = ""

    def opt_version(self) -> None:
        """Print the version and exit."""
        print(f"tasksubmit {__version__}")
        raise SystemExit(0)

    def opt_help_executors(self) -> None:
        """List the executors that are installed, and exit."""
        for name, maker in executor_makers().items():
            print(f"{name}:{maker.usage}" if maker.usage else name)
            print(f"    {maker.summary}")
        raise SystemExit(0)

    def opt_listen(self, endpoint: str) -> None:
        """server endpoint to listen on for peers; may be repeated  [default: tcp:11003:interface=127.0.0.1]"""
        self._repeated.setdefault("listen", []).append(endpoint)

    def opt_peer(self, peer: str) -> None:
        """ADDRESS=ENDPOINT of a peer, which may then submit tasks; may be repeated"""
        self._repeated.setdefault("peer", []).append(peer)

    def opt_deny(self, address: str) -> None:
        """address of a peer that may not submit tasks; may be repeated"""
        self._repeated.setdefault("deny", []).append(address)

    def opt_quarantine(self, address: str) -> None:
        """address of a peer whose tasks somebody has to accept, whatever --accept says; may be repeated"""
        self._repeated.setdefault("quarantine", []).append(address)

    @override
    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}: every setting is an option")

    @override
    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            if self.parent is None:
                raise
            # The runner would print the whole help, twice.
            raise SystemExit(f"tasksubmit: {error} (--help lists the options)") from None

    @override
    def postOptions(self) -> None:
        given: dict[str, object] = dict(self._repeated)
        for option in fields(Settings):
            value = self.get(_option_name(option))
            if value:
                given[option.name] = True if _is_flag(option) else value
        try:
            self._given, self._directory = given, _working_directory()
            self._config = absolute(Path(self["config"]), "--config") if self["config"] else None
            self.settings = load_settings(given, self._config, os.environ)
            _check_parts(self.settings, is_dry=bool(self["check"]))
        except ConfigurationError as error:
            raise usage.UsageError(str(error)) from None
        if self["check"]:
            print("tasksubmit: the configuration is fine")
            raise SystemExit(0)
        if self.parent is not None and "fileLogObserverFactory" in self.parent:  # of twist; twistd asks its application
            # twist has opened its log file by now.
            _close_to_others(getattr(self.parent.get("logFile"), "name", None))
            if self.settings.log_format == "json" or self.parent["fileLogObserverFactory"] is textFileLogObserver:
                self.parent["fileLogObserverFactory"] = _observer(self.settings)

    def load_again(self) -> Settings:
        """Read the configuration file again.

        :raises ConfigurationError: it cannot be read, or the settings are wrong.
        """
        fresh = load_settings(self._given, self._config, os.environ)
        if _working_directory() != self._directory:  # of a daemon with --rundir: relative paths lead elsewhere now
            fresh = evolve(fresh, state_dir=self.settings.state_dir, control=self.settings.control)
        return fresh


def _working_directory() -> str:
    """Return the working directory, or an empty string when it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _observer(settings: Settings) -> Observer:
    """Make what writes the log to a stream. Without keys the id of a task is a secret, and is not written whole."""
    observer = json_observer if settings.log_format == "json" else text_observer
    return partial(observer, has_whole_ids=True) if settings.has_tls else observer


def _close_to_others(path: object) -> int | None:
    """Make a log its owner's alone, if it is a file; returns the mode for ``LogFile``."""
    if not isinstance(path, str) or (os.path.exists(path) and not os.path.isfile(path)):
        return None  # a descriptor, or a device such as /dev/null
    if os.path.isfile(path):
        with suppress(OSError):  # it belongs to another account, which can read it in any case
            os.chmod(path, 0o600)
    return 0o600


def _twistd_observer(runner: usage.Options, observer: Observer) -> ILogObserver:
    """What writes to wherever twistd would have written, and begins a new file when twistd would have."""
    name = runner.get("logfile") or ("-" if runner.get("nodaemon") else "twistd.log")
    if name == "-":
        if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the locale lacks is no reason to lose a line
            sys.stdout.reconfigure(errors="backslashreplace")
        return observer(sys.stdout)
    file = LogFile.fromFullPath(name, defaultMode=_close_to_others(name))

    def rotate(*_: object) -> None:
        from twisted.internet import reactor

        IReactorFromThreads(reactor).callFromThread(file.rotate)

    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, rotate)
    return observer(file)


# --- the service --------------------------------------------------------------------------------------------------


def _client_from_string(reactor: Any, text: str) -> IStreamClientEndpoint:
    check_client_type(text)
    endpoint: IStreamClientEndpoint = clientFromString(reactor, text)
    return endpoint


def _endpoint(parse: Callable[[Any, str], Any], reactor: object, text: str, option: str) -> Any:
    try:
        return parse(reactor, text)
    except Exception as error:  # parsers are plugins, and raise what they like
        reason = f"not an endpoint that Twisted understands: {error}"
        if needs_passing(text) and isinstance(error, LookupError):
            reason = "no such socket was passed to this process; systemd does, for a unit with a socket of that name"
        raise ConfigurationError(f"{option}{text}: {reason}") from None


def _check_parts(settings: Settings, *, is_dry: bool) -> None:
    """Make what is described by text, to see that it can be made, and that other accounts cannot change it.

    When it ``is_dry``, nobody has passed sockets, and those are left out.
    """
    from twisted.internet import reactor

    refuse_writable(settings.state_dir)
    if settings.control_socket is not None:
        refuse_writable(settings.control_socket.parent)
    listen = tuple(text for text in settings.listen if not (is_dry and needs_passing(text)))
    _server_endpoints(evolve(settings, listen=listen), reactor)
    _peers(settings, reactor)
    _executor(settings, reactor)


def _server_endpoints(settings: Settings, reactor: object) -> dict[str, IStreamServerEndpoint]:
    """What to listen on, by its description; the control API's is the last."""
    listen = {
        text: _inherited(settings, reactor, text)
        if is_inherited(text)
        else _endpoint(serverFromString, reactor, with_defaults(text), "--listen ")
        for text in settings.listen
    }
    control = _endpoint(serverFromString, reactor, with_defaults(settings.control), "--control ")
    return listen | {settings.control: control}


def _inherited(settings: Settings, reactor: object, text: str) -> IStreamServerEndpoint:
    """A socket that systemd opened and passed; where it listens is seen from the socket itself."""
    endpoint: AdoptedStreamServerEndpoint = _endpoint(serverFromString, reactor, text, "--listen ")
    with socket.socket(fileno=os.dup(endpoint.fileno)) as passed:
        family, where = passed.family, passed.getsockname()
    if family != endpoint.addressFamily:
        raise ConfigurationError(f"--listen {text}: the socket is of another domain: {family.name.removeprefix('AF_')}")
    if (
        family != socket.AF_UNIX
        and not ipaddress.ip_address(where[0]).is_loopback
        and not (settings.insecure or settings.has_tls)
    ):
        raise ConfigurationError(
            f"--listen {text}: the socket listens on {where[0]} port {where[1]}, where anybody could claim to be a "
            "peer: let its unit listen on loopback (ListenStream=127.0.0.1:PORT), make a key with `tasksubmit "
            f"--state-dir {shlex.quote(str(settings.state_dir))} init --address {settings.address}`, or give "
            "--insecure to do it all the same"
        )
    return endpoint


def _peers(settings: Settings, reactor: Any) -> StaticPeers | MutualTLS:
    """The peers: those of the options; with keys, those that are trusted, of which the options may say where they live.

    :raises ConfigurationError: keys or trust cannot be read, or no key is known of a peer of the options.
    """
    endpoints: dict[Address, IStreamClientEndpoint] = {
        address: _endpoint(_client_from_string, reactor, text, f"--peer {address}=")
        for address, text in settings.peer.items()
    }
    if not settings.has_tls:
        return StaticPeers(endpoints)
    credentials = Credentials.of_directory(settings.state_dir, str(settings.address))
    credentials.load()
    claimed = claimed_addresses(credentials.identity.certificate)
    if claimed and settings.address not in claimed:
        raise ConfigurationError(
            f"{settings.state_dir / CERTIFICATE_FILE} is for {claimed[0]}, and this node is {settings.address}: peers "
            f"would be told to trust it as the other; give --address {claimed[0]}, or another --state-dir"
        )
    unproved, trust = {}, credentials.trust
    for address, text in settings.peer.items():
        if str(address) in trust.peers or str(address) in trust.removed:  # which may be trusted again while this runs
            continue
        if kind_of(text) != "unix":
            raise ConfigurationError(
                f"--peer {address}={text}: this node has keys, so it has to know the peer's, too: "
                f"`tasksubmit trust add {address} sha256:... {shlex.quote(text)}` with --state-dir "
                f"{shlex.quote(str(settings.state_dir))}"
            )
        unproved[address] = endpoints.pop(address)
    return MutualTLS(
        credentials,
        partial(clientFromString, reactor),
        reactor,
        time.time,
        endpoints=endpoints,
        unproved=StaticPeers(unproved),
    )


def _executor(settings: Settings, reactor: object) -> IExecutor | None:
    try:
        return make_executor(reactor, settings.executor)
    except ConfigurationError as error:
        raise ConfigurationError(f"--executor {settings.executor}: {error}") from None


def _policy(settings: Settings, peers: IPeers, store: ITaskStore, clock: IReactorTime) -> AllOf:
    """Who may submit; what costs least is asked first."""
    quota = PeerQuota(settings.peer_tasks, settings.peer_bytes, settings.peer_records)
    policies: list[IAdmissionPolicy] = [PeersOnly(peers), quota]
    if settings.deny:
        policies.append(Deny(frozenset(settings.deny)))
    if settings.queue_limit is not None:
        policies.append(QueueLimit(settings.queue_limit))
    policies.append(RateLimit(clock, settings.peer_rate, settings.peer_burst))
    if settings.score_gate:
        policies.append(ScoreGate(settings.address, store.score))
    return AllOf(policies)


def make_node(settings: Settings, reactor: Any) -> Node:
    """The node that `settings` describe, not yet started."""
    endpoints = _server_endpoints(settings, reactor)
    endpoints.pop(settings.control)
    store, peers = SQLiteTaskStore(settings.state_dir, reactor), _peers(settings, reactor)
    authenticator = peers if isinstance(peers, MutualTLS) else None
    if authenticator is not None:
        for text, endpoint in endpoints.items():
            if kind_of(text) not in LEFT_ALONE:
                endpoints[text] = authenticator.protect(endpoint)
    return Node(
        settings.address,
        store,
        peers,
        authenticator=authenticator,
        clock=reactor,
        wall=time.time,
        listen=endpoints,
        policy=_policy(settings, peers, store, reactor),
        acceptance=AcceptAll(but=frozenset(settings.quarantine)) if settings.accept == "all" else None,
        is_fair=settings.fair_share,
        stops_untrusted=settings.stop_untrusted,
        executor=_executor(settings, reactor),
        concurrency=settings.concurrency,
        executor_pause_limit=settings.executor_pause_limit,
        timeouts=settings.timeouts,
        lease=Lease(settings.lease, settings.max_attempts),
        delivery_age_limit=settings.delivery_age_limit,
        retention=Retention(
            settings.retention, settings.max_result_bytes, settings.peer_bytes, settings.min_free_bytes
        ),
        formula=settings.score_formula,
        tick_seconds=settings.tick,
        idle_timeout_seconds=settings.idle_timeout,
        max_description_bytes=settings.max_description_bytes,
        bounds=settings.bounds,
    )


class Reload:
    """Reads again what a node was made of, applies what it can, and reports the rest.

    :param options: of the node, as they were given at the start.
    :param reactor: the node's, which the endpoints of new peers use.
    """

    def __init__(self, options: Options, node: Node, reactor: Any) -> None:
        self._options = options
        self._node = node
        self._reactor = reactor
        self._settings = options.settings

    def __call__(self) -> Reloaded:
        """Reload.

        :raises ConfigurationError: a file cannot be read, or says what cannot be; then nothing has changed.
        """
        fresh, peers = self._options.load_again(), self._node.peers
        added = {address: text for address, text in fresh.peer.items() if address not in self._settings.peer}
        endpoints = {
            address: _endpoint(_client_from_string, self._reactor, text, f"--peer {address}=")
            for address, text in added.items()
        }
        reloaded = self._node.reload()
        if isinstance(peers, StaticPeers):
            peers.add(endpoints)
            self._settings = evolve(self._settings, peer={**self._settings.peer, **added})
            if fresh.has_tls:
                reloaded += Reloaded(needs_restart=("keys, which were made since the start",))
            if added:
                reloaded += Reloaded(applied=(f"peers were added: {', '.join(map(str, added))}",))
        changed = [
            f"--{_option_name(option)}"
            for option in fields(Settings)
            if getattr(fresh, option.name) != getattr(self._settings, option.name)
        ]
        if not added and not changed:
            reloaded += Reloaded(unchanged=("options and configuration file: no changes",))
        return reloaded + Reloaded(needs_restart=tuple(changed))


class AgentService(MultiService):
    """A node and its control API. A start that fails ends the process with one line that says why.

    :param runner: the options of twistd or twist, if it is one of them that runs the service.
    :param observer: makes what writes the log of twistd's application to a stream.
    :param is_json: True if what it writes is not text; then it takes the place of the system's log, too.
    :param reactor: of this process, which is the node's: its timers are made steady.
    :param reload: is called when the process gets SIGHUP; what it returns is logged, and so is a `TaskSubmitError`.
    """

    _log = Logger()

    def __init__(
        self,
        runner: usage.Options | None,
        observer: Observer = text_observer,
        is_json: bool = False,
        reactor: Any = None,
        reload: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._reload = reload
        self._other_handler: Any = None
        self._runner = runner
        self._observer = observer
        self._is_json = is_json
        self._pidfile = str(runner.get("pidfile") or "") if runner is not None else ""
        self._logs_to_file = runner is not None and runner.get("logfile") not in (None, "", "-")

    @override
    def setServiceParent(self, parent: Any) -> None:
        runner = self._runner
        if (
            runner is not None
            and isinstance(parent, Componentized)
            and "fileLogObserverFactory" not in runner  # twist logs in its own way, which the options have set
            and (self._is_json or not runner.get("syslog"))
        ):
            parent.setComponent(ILogObserver, _twistd_observer(runner, self._observer))
        super().setServiceParent(parent)

    @override
    def privilegedStartService(self) -> None:
        self._or_exit(super().privilegedStartService)

    @override
    def startService(self) -> None:
        if self._reactor is not None:
            use_steady_timers(self._reactor)
        self._or_exit(super().startService)
        tune_interpreter()
        if self._reload is not None:
            self._handle_hangup(lambda number, frame: self._reactor.callFromThread(self._reload_or_log))

    @override
    def stopService(self) -> Deferred[None]:
        if self._other_handler is not None:
            self._handle_hangup(self._other_handler)
            self._other_handler = None
        return maybeDeferred(super().stopService)

    def _handle_hangup(self, handler: Any) -> None:
        with suppress(ValueError):  # not in the main thread: whoever runs a node there handles signals otherwise
            self._other_handler = signal.signal(signal.SIGHUP, handler)

    def _reload_or_log(self) -> None:
        assert self._reload is not None
        try:
            reloaded = self._reload()
        except TaskSubmitError as error:
            self._log.error("SIGHUP, but nothing has changed: {error}", error=error)
        else:
            self._log.info("SIGHUP: {reloaded}", reloaded=reloaded)

    def _or_exit(self, start: Callable[[], None]) -> None:
        try:
            start()
        except TaskSubmitError as error:
            if self._pidfile:  # twistd removes it after an error, but not after an exit
                Path(self._pidfile).unlink(missing_ok=True)
            line = f"tasksubmit: {error}"
            if self._logs_to_file:  # and sys.stderr does so, too, by now
                print(line, file=sys.__stderr__)
            self._tell_parent(line)
            raise SystemExit(line) from error

    def _tell_parent(self, line: str) -> None:
        """Say it to the process that made twistd a daemon, which waits for so many bytes and prints them."""
        pipe = self._runner.get("statusPipe") if self._runner is not None else None
        if pipe is not None:
            os.write(pipe, b"1 " + line.encode()[:98])
            os.close(pipe)


def makeService(options: Options, reactor: Any = None) -> IService:
    """The service that ``options`` ask for: a `Node` and its control API."""
    if reactor is None:
        from twisted.internet import reactor
    settings = options.settings
    node = make_node(settings, reactor)
    wanted = settings.max_connections + _OTHER_FILES
    if (allowed := allow_files(wanted)) < wanted:
        Logger(__name__).warn(
            "this process may open {allowed} files: too few for --max-connections {most}; raise its limit (ulimit -n)",
            allowed=allowed,
            most=settings.max_connections,
        )
    for address in sorted(set(settings.peer).difference(node.peers.addresses())):
        Logger(__name__).warn(
            "--peer {address}={endpoint}: the trust of {address} was removed, so it is no peer and its tasks are held; "
            "trust it again with `tasksubmit trust add {address} FINGERPRINT`, or leave the option out",
            address=address,
            endpoint=settings.peer[address],
        )
    reload = Reload(options, node, reactor)
    service = AgentService(options.parent, _observer(settings), settings.log_format == "json", reactor, reload)
    service.setName("tasksubmit")
    node.setServiceParent(service)
    if isinstance(node.authenticator, MutualTLS):
        watch = TimerService(_DAY_SECONDS, node.authenticator.warn_of_expiry)
        watch.clock = reactor
        watch.setServiceParent(service)
    control = serverFromString(reactor, with_defaults(settings.control))
    # Its socket is in the directory that the node's store makes, and belongs to whom the daemon becomes.
    gate = TokenGate(settings.state_dir / CONTROL_TOKEN) if settings.needs_token else None
    if gate is not None:
        gate.setServiceParent(service)
    site = control_site(node, __version__, stop=reactor.stop, gate=gate, reload=reload)
    Listener(settings.control, control, FewAtOnce(site), is_privileged=False).setServiceParent(service)
    return service


# --- the second door ----------------------------------------------------------------------------------------------


def run(arguments: Sequence[str]) -> int:
    """Run a node in the foreground until it is told to stop; returns the exit code.

    The same as ``twistd --nodaemon tasksubmit``, for installations in which plugins are not found.
    """
    options = Options()
    try:
        options.parseOptions(list(arguments))
    except usage.UsageError as error:
        print(f"tasksubmit: {error} (--help lists the options)", file=sys.stderr)
        return 2
    from twisted.internet import reactor

    globalLogBeginner.beginLoggingTo([_observer(options.settings)(sys.stdout)])
    service = makeService(options, reactor)
    service.privilegedStartService()
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
    return 0
