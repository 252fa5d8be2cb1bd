"""Every setting of a node: its name, its default, its check. The command line and the configuration file share them."""

from __future__ import annotations

import ipaddress
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from attrs import Attribute, field, fields, frozen
from twisted.internet.endpoints import quoteStringArgument

from tasksubmit.durations import format_duration, parse_duration
from tasksubmit.errors import ConfigurationError, InvalidAddress
from tasksubmit.lifecycle.polo import ScoreFormula
from tasksubmit.lifecycle.table import (
    ACCEPT_TIMEOUT,
    ANSWER_TIMEOUT,
    HOLD_LIMIT,
    LEASE,
    QUEUE_HEAD_TIMEOUT,
    SILENCE_TIMEOUT,
    Timeouts,
)
from tasksubmit.node.delivery import DELIVERY_AGE_LIMIT
from tasksubmit.node.policy import PEER_BURST, PEER_BYTES, PEER_RATE, PEER_RECORDS, PEER_TASKS
from tasksubmit.node.retention import RETENTION
from tasksubmit.node.workers import EXECUTOR_PAUSE_LIMIT
from tasksubmit.permissions import refuse_writable
from tasksubmit.protocol.bounds import LEAST_BUFFERED_BYTES, Bounds
from tasksubmit.protocol.framing import IDLE_TIMEOUT_SECONDS
from tasksubmit.protocol.strings import check_server_type, split_description
from tasksubmit.state_dir import CONTROL_SOCKET, MAX_SOCKET_PATH_BYTES, default_state_dir
from tasksubmit.tls.files import OTHERS_TOUCH, is_set_up
from tasksubmit.wire.address import Address
from tasksubmit.wire.frames import DEFAULT_TCP_PORT, MAX_FRAME
from tasksubmit.wire.messages import MAX_DESCRIPTION_BYTES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_SECONDS = 10**9

LEFT_ALONE = ("unix", "mtls")
"""The kinds of endpoints that a node with keys puts no TLS around: this machine's own, and that which has it."""

Environment = Mapping[str, str]


# --- parsing: each takes the text of an option or the value of a TOML key -----------------------------------------


def _address(value: object) -> Address:
    return Address.parse(_text(value))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a text, not {value!r}")
    return value


def _addresses(value: object) -> tuple[Address, ...]:
    return tuple(Address.parse(text) for text in _texts(value))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in (value if isinstance(value, list) else [value]))


def _path(value: object) -> Path:
    path = Path(_text(value))
    try:
        return path.expanduser().resolve()
    except RuntimeError as error:  # ~somebody who is not there
        raise ValueError(str(error)) from None
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror}; give an absolute path") from None


def _peers(value: object) -> dict[Address, str]:
    """``ADDRESS=ENDPOINT`` texts, or a table of the one to the other."""
    if isinstance(value, dict):
        return {Address.parse(address): _text(endpoint) for address, endpoint in value.items()}
    peers: dict[Address, str] = {}
    for item in _texts(value):
        text, equals, endpoint = item.partition("=")
        if not equals or not endpoint:
            raise ValueError(f"{item!r} is not ADDRESS=ENDPOINT, such as 0:0000.0000.0002=tcp:127.0.0.1:11003")
        address = Address.parse(text)
        if peers.setdefault(address, endpoint) != endpoint:
            raise ValueError(f"{address} has two endpoints, {peers[address]} and {endpoint}")
    return peers


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _seconds(value: object) -> float:
    seconds = parse_duration(value).total_seconds() if isinstance(value, str) else _number(value, float)
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError(f"expected a duration of more than 0 and at most {MAX_SECONDS} seconds, not {value}")
    return seconds


def _number(value: object, kind: type[int] | type[float]) -> float:
    """The number that a value is; one that is out of any range when it is none."""
    try:
        return kind(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1
    except (ValueError, OverflowError):
        return -1


def _rate(value: object) -> float:
    rate = _number(value, float)
    if not 0 < rate <= MAX_SECONDS:
        raise ValueError(f"expected a number a second, more than 0 and at most {MAX_SECONDS}, not {value}")
    return rate


def _duration(value: object) -> timedelta:
    return timedelta(seconds=_seconds(value))


def _size(value: object) -> int:
    size = -1 if isinstance(value, float) else int(_number(value, int))
    if not 0 < size <= MAX_FRAME:
        raise ValueError(f"expected a number of bytes, more than 0 and at most {MAX_FRAME}, not {value}")
    return size


def _count(value: object) -> int:
    count = -1 if isinstance(value, float) else int(_number(value, int))
    if not 0 < count < 2**63:
        raise ValueError(f"expected a whole number, more than 0, not {value}")
    return count


def _room(value: object) -> int:
    size = _count(value)
    if size < LEAST_BUFFERED_BYTES:
        raise ValueError(
            f"expected at least {LEAST_BUFFERED_BYTES} bytes, not {value}: the largest frame must fit twice"
        )
    return size


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in words:
            raise ValueError(f"expected {' or '.join(words)}")
        return _text(value)

    return parse


def _formula(value: object) -> ScoreFormula:
    return ScoreFormula(_one_of(*(formula.value for formula in ScoreFormula))(value))


def _option(parse: Callable[[object], Any], help: str, **options: Any) -> Any:
    return field(metadata={"parse": parse, "help": help}, **options)


@frozen(kw_only=True)
class Settings:
    """All that a node is told, checked. The names of the fields are those of the options, with underscores."""

    address: Address = _option(_address, "the node's own address, such as 0:0000.0000.0001 (required)")
    listen: tuple[str, ...] = _option(
        _texts,
        "server endpoints to listen on for peers",
        default=(f"tcp:{DEFAULT_TCP_PORT}:interface=127.0.0.1",),
    )
    state_dir: Path = _option(
        _path, "directory of the database, the results and the control socket  [default: ~/.local/state/tasksubmit]"
    )
    peer: Mapping[Address, str] = _option(
        _peers, "the peers, which may submit tasks, and where each is reached", factory=dict
    )
    control: str = _option(
        _text,
        "server endpoint of the control API: a Unix socket, or TCP on loopback; where others can connect it demands "
        "the token in control.token [default: control.sock in the state directory]",
        default="",
    )
    insecure: bool = _option(
        _flag, "listen beyond loopback without TLS: nobody is authenticated, and nothing encrypted", default=False
    )
    score_formula: ScoreFormula = _option(
        _formula,
        "reading of the score's formula: documented, or linear as deployed peers pay",
        default=ScoreFormula.DOCUMENTED,
    )
    accept_timeout: timedelta = _option(
        _duration, "time after which a received task that nobody accepted is cancelled", default=ACCEPT_TIMEOUT
    )
    queue_head_timeout: timedelta = _option(
        _duration, "time after which the head of the queue expires", default=QUEUE_HEAD_TIMEOUT
    )
    answer_timeout: timedelta = _option(
        _duration, "time after which a submitted task that is still NEW is cancelled", default=ANSWER_TIMEOUT
    )
    silence_timeout: timedelta = _option(
        _duration, "time without news of a submitted task after which its receiver is asked", default=SILENCE_TIMEOUT
    )
    hold_limit: timedelta = _option(
        _duration,
        "time after which a task that is held, because its submitter is not trusted any more, is cancelled",
        default=HOLD_LIMIT,
    )
    stop_untrusted: bool = _option(
        _flag,
        "end executions for peers that are not trusted any more, and hold these tasks as well; without, they go on",
        default=False,
    )
    lease: timedelta = _option(
        _duration, "time that an execution may go on without progress before it counts as lost", default=LEASE
    )
    max_attempts: int = _option(
        _count, "how often a task is begun; after the last attempt a lost lease cancels it", default=1
    )
    delivery_age_limit: timedelta = _option(
        _duration, "time after which a delivery that cannot be made is abandoned", default=DELIVERY_AGE_LIMIT
    )
    retention: timedelta = _option(
        _duration, "time for which ended tasks, their stories and their results are kept", default=RETENTION
    )
    max_result_bytes: int | None = _option(
        _count,
        "disk limit for results, in bytes, of which each peer has a share: past it the oldest ended tasks of the peer"
        " are removed, then its new results are refused",
        default=None,
    )
    min_free_bytes: int | None = _option(
        _count,
        "free space on the disk below which new tasks are refused; without, a twentieth of it, at most 256 MiB",
        default=None,
    )
    deny: tuple[Address, ...] = _option(_addresses, "peers that may not submit tasks", default=())
    score_gate: bool = _option(
        _flag, "refuse submitters whose polo score is below this node's own, as deployed peers do", default=False
    )
    peer_rate: float = _option(
        _rate, "tasks that a peer may submit a second, once its burst is used up", default=PEER_RATE
    )
    peer_burst: int = _option(_count, "tasks that a peer may submit at once", default=PEER_BURST)
    peer_tasks: int = _option(_count, "tasks of one peer that may be open", default=PEER_TASKS)
    peer_records: int = _option(
        _count, "tasks of one peer that may be on record in all states, removed ones included", default=PEER_RECORDS
    )
    peer_bytes: int = _option(
        _count,
        "bytes that the descriptions and results of one peer may take, in all states",
        default=PEER_BYTES,
    )
    queue_limit: int | None = _option(
        _count, "tasks in the queue at which peers with open tasks may not submit any more", default=None
    )
    accept: str = _option(
        _one_of("manual", "all"),
        "manual: somebody accepts each task with `accept`; all: every task that was admitted is accepted at once",
        default="manual",
    )
    quarantine: tuple[Address, ...] = _option(
        _addresses, "peers whose tasks somebody has to accept, whatever --accept says", default=()
    )
    fair_share: bool = _option(
        _flag, "have the submitters take turns in the queue, instead of the order of acceptance alone", default=False
    )
    executor: str = _option(
        _text, "what does accepted tasks: NAME:ARGUMENT:OPTION=VALUE; see --help-executors", default="manual"
    )
    concurrency: int = _option(_count, "how many tasks the executor is given at once", default=1)
    executor_pause_limit: timedelta = _option(
        _duration,
        "time for which the executor may be unable to start tasks before new tasks are refused",
        default=EXECUTOR_PAUSE_LIMIT,
    )
    tick: float = _option(_seconds, "time between looks for what is due", default=1.0)
    idle_timeout: float = _option(
        _seconds, "time after which an idle connection is closed", default=IDLE_TIMEOUT_SECONDS
    )
    max_description_bytes: int = _option(_size, "longest description of a task to take", default=MAX_DESCRIPTION_BYTES)
    max_connections: int = _option(
        _count, "how many connections of peers may be open at once", default=Bounds().max_connections
    )
    max_connections_per_peer: int = _option(
        _count, "how many of them from one host, or of one address", default=Bounds().max_connections_per_peer
    )
    max_handshakes: int = _option(
        _count, "how many connections may be in their TLS handshake at once", default=Bounds().max_handshakes
    )
    max_handshakes_per_host: int = _option(
        _count, "how many of them from one host", default=Bounds().max_handshakes_per_host
    )
    max_handshake_rate: float = _option(
        _rate, "TLS handshakes that may begin a second", default=Bounds().max_handshake_rate
    )
    max_handshake_rate_per_host: float = _option(
        _rate, "how many of them from one host", default=Bounds().max_handshake_rate_per_host
    )
    max_buffered_bytes: int = _option(
        _room, "what may be held of frames that are unfinished or in work", default=Bounds().max_buffered_bytes
    )
    log_format: str = _option(_one_of("text", "json"), "text, or json for one flat object a line", default="text")

    def __attrs_post_init__(self) -> None:
        if not self.control:
            socket = quoteStringArgument(str(self.state_dir / CONTROL_SOCKET))
            object.__setattr__(self, "control", f"unix:{socket}:mode=600")
        _check_control(self.control)
        for endpoint in self.listen:
            if self.listen.count(endpoint) > 1:
                raise ConfigurationError(f"--listen {endpoint} is given twice")
            if unknown := _unknown_type(endpoint):
                raise ConfigurationError(f"--listen {endpoint}: {unknown}")
            if self.has_tls and kind_of(endpoint) in ("ssl", "tls"):
                raise ConfigurationError(
                    f"--listen {endpoint}: this node has keys, and puts TLS around it a second time: give tcp: instead"
                )
            is_protected = self.has_tls or kind_of(endpoint) == "mtls"
            if not (self.insecure or is_protected or is_local(endpoint) or is_inherited(endpoint)):
                init = f"tasksubmit --state-dir {shlex.quote(str(self.state_dir))} init --address {self.address}"
                raise ConfigurationError(
                    f"--listen {endpoint} may be reached from beyond this machine, where anybody could claim to be a "
                    f"peer: make this node a key with `{init}`, so that it uses TLS; or listen on loopback "
                    "(tcp:PORT:interface=127.0.0.1); or give --insecure to do it all the same"
                )

    @property
    def bounds(self) -> Bounds:
        """What all connections of peers together may be and hold."""
        return Bounds(
            max_connections=self.max_connections,
            max_connections_per_peer=self.max_connections_per_peer,
            max_handshakes=self.max_handshakes,
            max_handshakes_per_host=self.max_handshakes_per_host,
            max_handshake_rate=self.max_handshake_rate,
            max_handshake_rate_per_host=self.max_handshake_rate_per_host,
            max_buffered_bytes=self.max_buffered_bytes,
        )

    @property
    def needs_token(self) -> bool:
        """True if others than its owner can connect to the control API."""
        if self.control_socket is None:
            return True
        is_abstract = str(self.control_socket).startswith("\0")  # a name without a file has no mode
        return is_abstract or bool(_socket_mode(self.control) & OTHERS_TOUCH)

    @property
    def control_socket(self) -> Path | None:
        """The path of the control API's Unix socket; None for TCP."""
        return _socket_path(self.control)

    @property
    def has_tls(self) -> bool:
        """Whether the state directory has keys, which the node then uses."""
        return is_set_up(self.state_dir)

    @property
    def timeouts(self) -> Timeouts:
        """The limits of a task's life."""
        return Timeouts(
            self.accept_timeout,
            self.queue_head_timeout,
            self.answer_timeout,
            self.silence_timeout,
            hold_limit=self.hold_limit,
        )


def default_duration(setting: Attribute[Any]) -> str:
    """Return the default of a setting that is a duration, with units; of any other setting an empty string."""
    if setting.metadata["parse"] not in (_duration, _seconds):
        return ""
    default: Any = setting.default
    return format_duration(default if isinstance(default, timedelta) else timedelta(seconds=default))


def load_settings(given: Mapping[str, object], config: Path | None, environ: Environment) -> Settings:
    """The settings of a command line and, below it, of a configuration file.

    :param given: the options that were given, by field name; a peer given here is added to those of the file.
    :param config: a TOML file whose keys are the options' names, with ``-`` or ``_``.
    :raises ConfigurationError: naming the option or the key, and the file.
    """
    known = {attribute.name: attribute.metadata["parse"] for attribute in fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in (_read(config) if config else {}).items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigurationError(f"{config}: there is no setting {key!r}; see --help for those that are")
        if name in values:
            raise ConfigurationError(f"{config}: {key} is set twice, with - and with _")
        values[name] = _parsed(known[name], value, f"{config}: {key}")
    for name, value in given.items():
        parsed = _parsed(known[name], value, "--" + name.replace("_", "-"))
        values[name] = {**values.get("peer", {}), **parsed} if name == "peer" else parsed
    if "address" not in values:
        raise ConfigurationError("the node needs an address: give --address, such as --address 0:0000.0000.0001")
    if "state_dir" not in values:
        values["state_dir"] = _parsed(_path, str(default_state_dir(environ)), "the default state directory")
    return Settings(**values)


def _parsed(parse: Callable[[object], Any], value: object, where: str) -> Any:
    try:
        return parse(value)
    except (ValueError, InvalidAddress) as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _read(config: Path) -> dict[str, Any]:
    try:
        refuse_writable(config)
        return tomllib.loads(config.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--config {config} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {config} is not TOML: {error}") from None


_BACKLOG = "1024"
"""Connections that wait to be accepted. With Twisted's 50, peers that come back at once wait a second, or three."""

_SERVER_DEFAULTS = {
    "tcp": {"backlog": (3, _BACKLOG)},
    "tcp6": {"backlog": (3, _BACKLOG)},
    # A pid lock would outlive a node that is killed; `node.listener` sees by itself whether a socket is in use.
    "unix": {"mode": (2, "600"), "backlog": (3, _BACKLOG), "lockfile": (4, "0")},
}


def with_defaults(endpoint: str) -> str:
    """The same server endpoint string; where it is silent, a Unix socket is for its owner alone, and many may wait.

    What ``mtls:`` is around is given the same.
    """
    positional, named = split_description(endpoint)
    positional = _without_mtls(positional)
    added = (
        f":{name}={value}"
        for name, (position, value) in _SERVER_DEFAULTS.get(positional[0], {}).items()
        if name not in named and len(positional) <= position
    )
    return endpoint + "".join(added)


def _without_mtls(positional: list[str]) -> list[str]:
    """The arguments of what ``mtls:`` is around, if it is around something."""
    return positional[1:] or [""] if positional[0] == "mtls" else positional


def kind_of(endpoint: str) -> str:
    """The word that an endpoint string begins with."""
    return split_description(endpoint)[0][0]


def is_local(endpoint: str) -> bool:
    """Whether a server endpoint string is certain to be reached from this machine alone."""
    positional, named = split_description(endpoint)
    if positional[0] == "unix":
        return True
    if positional[0] not in ("tcp", "tcp6", "ssl", "tls"):
        return False
    interface = named.get("interface", "")
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def is_inherited(endpoint: str) -> bool:
    """Whether an endpoint string means a socket that systemd opened; where that listens, its text does not say."""
    return kind_of(endpoint) == "systemd"


def needs_passing(endpoint: str) -> bool:
    """Whether it takes a socket that systemd opened, be it for ``mtls:`` to be around it."""
    positional, _ = split_description(endpoint)
    return _without_mtls(positional)[0] == "systemd"


def _unknown_type(endpoint: str) -> str:
    """Describe what is wrong with the type of a server endpoint string; an empty string if it is known."""
    try:
        check_server_type(endpoint)
    except ValueError as error:
        return f"not an endpoint that Twisted understands: {error}"
    return ""


def _socket_path(endpoint: str) -> Path | None:
    """The path of a Unix socket; None if the endpoint is none."""
    positional, named = split_description(endpoint)
    if positional[0] != "unix":
        return None
    return Path(named.get("address") or (positional[1] if len(positional) > 1 else ""))


def _socket_mode(endpoint: str) -> int:
    """The mode of the Unix socket that a server endpoint makes.

    :raises ConfigurationError: it is not octal.
    """
    positional, named = split_description(with_defaults(endpoint))
    mode = named["mode"] if "mode" in named else positional[2]
    try:
        return int(mode, 8)
    except ValueError:
        raise ConfigurationError(
            f"--control {endpoint}: the mode of a socket is octal, such as mode=600, not {mode!r}"
        ) from None


def _check_control(endpoint: str) -> None:
    if not is_local(endpoint):
        unknown = _unknown_type(endpoint)
        raise ConfigurationError(
            f"--control {endpoint}: {unknown + '; ' if unknown else ''}the control API is for this machine alone: give "
            "a Unix socket (unix:PATH), or TCP on loopback (tcp:PORT:interface=127.0.0.1), where it demands a token"
        )
    if kind_of(endpoint) != "unix":
        return
    _socket_mode(endpoint)
    path = str(_socket_path(endpoint))
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigurationError(
            f"the path of the control socket {path} is over {MAX_SOCKET_PATH_BYTES} bytes long: choose a shorter "
            "--state-dir, or --control unix:PATH"
        )
