"""The walk over the public names: wrong arguments are refused by name, wherever they are given.

Everything that is importable from ``tasksubmit`` and ``tasksubmit.testing`` is found by introspection, with the public
methods of the classes. Each parameter gets values that do not fit its annotation. The call has to raise, or its
Deferred to fail, with an error that names the parameter. A parameter for which this module has no valid value, or of
whose annotation it knows no wrong one, fails the walk: so a new one is covered, or is in `EXEMPT` with a reason.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint, ITransport
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementedBy, implementer
from zope.interface.interface import InterfaceClass

import tasksubmit
import tasksubmit.testing
from tasksubmit import (
    AcceptAll,
    Address,
    AllOf,
    Allow,
    Booking,
    Bounds,
    CallableExecutor,
    Client,
    Credentials,
    Deny,
    Execution,
    FanOut,
    Frame,
    FrameDecoder,
    IAcceptancePolicy,
    IAdmissionPolicy,
    IAuthenticator,
    IExecutor,
    IPeers,
    IScoreBook,
    ITaskStore,
    Lease,
    Load,
    MutualTLS,
    Node,
    Peer,
    PeerQuota,
    ProcessExecutor,
    QueueLimit,
    RateLimit,
    Refusal,
    Retention,
    ScoreFormula,
    Side,
    SQLiteTaskStore,
    StaticPeers,
    SubmitRequest,
    SubmittedTask,
    Task,
    TaskFile,
    TaskKey,
    TaskResultMessage,
    TaskStatus,
    TaskStatusUpdate,
    TaskSubmitFactory,
    TaskSubmitProtocol,
    Timeouts,
    polo_score,
)
from tasksubmit.errors import InvalidAddress, InvalidTime, UnknownPeer
from tasksubmit.protocol.framing import Hold
from tasksubmit.testing import (
    Agents,
    Behaviour,
    FakeExecution,
    FakeExecutor,
    FaultyTaskStore,
    Line,
    MemoryNetwork,
    MemoryScoreBook,
    MemoryTaskStore,
    StoreFault,
)
from tasksubmit.validation import COUNT, checked
from tests.node.helpers import request as make_request

REFUSALS = (TypeError, ValueError, InvalidAddress, InvalidTime)
NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
ONE, TWO = Address(0, 1), Address(0, 2)

EXEMPT: Mapping[str, str] = {
    # whole classes and functions
    "Reloaded": "an answer of the node, which alone makes it",
    "Drained": "an answer of the node, which alone makes it",
    "ExecutorProblem": "an answer of the node, which alone makes it",
    "UnendedExecution": "an answer of the node, which alone makes it",
    "Reason": "a part of a record, which alone makes it",
    "Story": "an answer of the node, which alone makes it",
    "PeerLoad": "counts, made by the store and the node",
    "Delivery": "a row of the store, made by the node",
    "TaskEvent": "a row of the store, made by the node",
    "Tombstone": "a row of the store, made by the node",
    "Tombstone.*": "called by the node and the store with their records",
    # parameters
    "TaskResult(result)": "any JSON value is one; to_frame refuses others",
    "SubmitRequest.validate(max_description_bytes)": "the limit of a factory, which has checked it, with each message",
    "TaskStatusUpdate.validate(max_description_bytes)": "not used",
    "TaskResultMessage.validate(max_description_bytes)": "not used",
    "Agents.node(options)": "what Node takes and refuses",
    # methods that only other parts of the package call
    "Credentials.*": "called by the endpoints of TLS",
    "Load.*": "called by the node, which counts",
    "Task.*": "called by the node and the store with their own tables, rows and clock",
    "FaultyTaskStore.next_fault": "a hook that the store calls",
    "TaskSubmitFactory.check_size": "called by its connections with each frame",
    "TaskSubmitProtocol.is_held": "called for each frame",
    "TaskSubmitProtocol.part_received": "a hook that the protocol calls",
    "Timeouts.limit": "called with rows of the table of deadlines",
    **{
        f"{name}.{hook}": "a hook that ScriptedPeer calls"
        for name in ("Behaviour", "WellBehaved", "Deployed", "Refusing")
        for hook in ("connected", "heard", "received")
    },
    **{
        f"{name}.{hook}": "a hook that the hooks of ScriptedPeer call"
        for name in ("WellBehaved", "Deployed", "Refusing")
        for hook in ("answer", "response", "results", "work")
    },
}
"""What the walk leaves out, and why: a class or function, ``Class.method`` or ``Class.*`` for all methods but those in
`WALKED`, or one ``callable(parameter)``."""

WALKED = frozenset({"Credentials.of_directory", "Task.new"})
"""Methods that callers use, of classes whose other methods are left out."""


def is_exempt(name: str) -> bool:
    """True if a class, a function or a method is left out."""
    owner, _, method = name.partition(".")
    return name in EXEMPT or (f"{owner}.*" in EXEMPT and bool(method) and name not in WALKED)


ZERO_FITS = frozenset(
    {
        # points and counts
        "Booking(points)",
        "Finished(index)",
        "Refusal(retry_after_s)",
        # no wait at all
        "ProcessExecutor(grace_seconds)",
        "Node.drain(timeout_seconds)",
        "TaskSubmitFactory.close_connections(grace)",
        "Agents.done(seconds)",
        "Agents.advance(seconds)",
        "Agents.delay(seconds)",
        "MemoryNetwork.delay(seconds)",
        # before the first record there is none
        "SQLiteTaskStore.list_tasks(before)",
        "MemoryTaskStore.list_tasks(before)",
        "FaultyTaskStore.list_tasks(before)",
        "SQLiteTaskStore.list_tasks(after)",
        "MemoryTaskStore.list_tasks(after)",
        "FaultyTaskStore.list_tasks(after)",
        "FaultyTaskStore.fail(after)",
        # the user root
        "ProcessExecutor(result_owner)",
        # no floor
        "Retention(min_free_bytes)",
        # a number that has its own range
        "Address(network)",
        "Address(node)",
    }
)
"""Numbers that may be zero."""

ANY_NUMBER_FITS = frozenset(
    {
        *("Booking(points)", "Frame(type)", "Refusing(retry_after_s)", "type_name(n)"),
        *(
            f"{store}.queue({name})"
            for store in ("SQLiteTaskStore", "MemoryTaskStore", "FaultyTaskStore")
            for name in ("after", "before")
        ),
    }
)
"""Numbers of which the type alone is checked: a score may fall, `Frame.header` knows the range of types, a scripted
peer may say anything, and positions in the queue are any numbers."""

TYPES_ALONE = (Task, *(getattr(tasksubmit, name) for name in (
    "PoloScoreBreakdown", "SubmitRequest", "SubmitResponse", "TaskFile", "TaskResult", "TaskResultMessage",
    "TaskStatusUpdate",
)))  # fmt: skip
"""Values from the wire or the store: ``validate`` or the table of transitions says which of them make sense."""


ASKED_BY_APPLICATIONS = frozenset(
    {
        *("count_tasks", "deliveries_of", "events_of", "find", "get", "keep_note", "list_tasks", "note", "queue"),
        *("read_result", "recall", "score", "tombstones"),
    }
)
"""Methods of `ITaskStore` that applications call, too, and which are walked like others."""


class Wrong:
    """An object that fits nowhere."""


class Falsy:
    """An empty component, which is false, and fits nowhere."""

    def __len__(self) -> int:
        return 0


# --- what there is ------------------------------------------------------------------------------------------------


@frozen
class Public:
    """A public class, function or method.

    :ivar name: ``Class``, ``function`` or ``Class.method``.
    :ivar owner: the class, if it is a method.
    """

    name: str
    function: Callable[..., Any]
    owner: type | None = None

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters that callers give."""
        parameters = dict(inspect.signature(self.function).parameters)
        if self.owner is not None and not self.is_bound:
            parameters.pop("self")
        return parameters

    @property
    def is_bound(self) -> bool:
        """True of class methods and static ones."""
        assert self.owner is not None
        return not inspect.isfunction(inspect.getattr_static(self.owner, self.function.__name__))

    @property
    def returns_deferred(self) -> bool:
        """True if errors are to be given by a Deferred."""
        return "Deferred[" in str(inspect.signature(self.function).return_annotation)


def public_callables(*modules: Any) -> Iterator[Public]:
    """Everything public that takes arguments.

    Left out are interfaces, since their providers are here; exceptions, which take any text; enumerations; and methods
    that an interface of the package demands, which the node calls with values of its own (a store is asked by others,
    too).
    """
    for module in modules:
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, InterfaceClass) or not callable(value):
                continue
            if not inspect.isclass(value):
                yield Public(name, value)
            elif not issubclass(value, BaseException | Enum):
                yield Public(name, value)
                yield from _methods(name, value)


def _methods(name: str, cls: type) -> Iterator[Public]:
    demanded = {
        member
        for interface in implementedBy(cls)
        if interface.__module__.startswith("tasksubmit")
        for member in interface.names(all=True)
        if not (interface is ITaskStore and member in ASKED_BY_APPLICATIONS)
    }
    for attribute in dir(cls):
        static = inspect.getattr_static(cls, attribute)
        function = getattr(static, "__func__", static)
        is_ours = inspect.isfunction(function) and str(function.__module__).startswith("tasksubmit")
        is_hook = attribute != attribute.lower() and attribute != "sendFrame"  # Twisted calls camelCase
        if is_ours and not (attribute.startswith("_") or attribute in demanded or is_hook):
            yield Public(f"{name}.{attribute}", getattr(cls, attribute), cls)


def _properties(cls: type) -> list[Any]:
    """Return the annotations of the public properties of a class."""
    found = [inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_")]
    getters = [one.fget for one in found if isinstance(one, property) and one.fget is not None]
    return [inspect.signature(getter).return_annotation for getter in getters]


# --- values that do not fit -----------------------------------------------------------------------------------------

ALIASES = {
    "Condition": "Callable",
    "Function": "Callable",
    "ITaskHandler | SubmissionFunction": "ITaskHandler",
    "Names": "Iterable[str] | None",
    "Who | Iterable[Who] | None": "Iterable | None",
    "_Payload": "bytes",
    "Timed": "Timed",
    "Outcome": "Outcome",
    "ExecutionResult": "Outcome",
    "Message | bytes": "bytes",
}
"""Names that stand for other types."""


def wrong_values(annotation: str, is_number_free: bool, zero_fits: bool) -> Iterator[Any]:
    """Values that do not fit a type."""
    kind = ALIASES.get(annotation, annotation)
    if kind in ("Any", "object"):
        return
    yield from (Wrong(), Falsy())
    if "None" not in kind:
        yield None
    words = set(re.findall(r"[A-Za-z_]+", re.sub(r"\[.*\]", "", kind)))
    if "str" not in words and not words & {"Outcome", "Exception"}:
        yield "nonsense"
    if not words & {"int", "float"}:
        yield 5
    if words & {"int", "float"}:
        yield from ("5", timedelta(seconds=5), True)
        if not is_number_free:
            yield from (-1, math.nan) if zero_fits else (0, -1, math.nan)
    if words & {"float", "timedelta"} and not is_number_free:
        yield -0.5
    if "int" in words:
        yield from (1.5, math.nan)
    if "timedelta" in words:
        yield from (0.5, timedelta(0), timedelta(seconds=-1), timedelta.max)
    if words & {"Iterable", "Mapping", "list", "tuple"}:
        yield from (b"nonsense", [Wrong()])
    if "Mapping" in words:
        yield {Wrong(): Wrong()}
    if words & {"Address", "Side", "ScoreFormula"} and "str" in words:
        yield from ("nonsense", "")
    if "bool" in words:
        yield from ("no", 0)
    if "datetime" in words:
        yield from ("2026-11-30T00:00:00Z", 1.5e9, datetime(2026, 11, 30))


def shown(value: object) -> str:
    """A value, as it is in an error; of objects without a text the type, and of a collection its item."""
    if isinstance(value, list | dict):
        return shown(*value)
    if isinstance(value, datetime):
        return str(value.year)
    return type(value).__name__ if isinstance(value, (Wrong, Falsy)) else repr(value)[:20]


# --- values that fit ------------------------------------------------------------------------------------------------


@frozen
class World:
    """Everything that valid arguments are made of."""

    agents: Agents = field(factory=Agents)
    reactor: MemoryReactorClock = field(factory=MemoryReactorClock)

    def instances(self) -> Mapping[type, Callable[[], Any]]:
        """Objects whose methods are called."""
        clock, network = self.agents.clock, self.agents.network
        node = self.agents.node(TWO)
        key = TaskKey(Side.SUBMITTER, ONE, "t")
        return {
            Agents: lambda: self.agents,
            Client: lambda: Client(network.client_endpoint("nowhere"), ONE, clock),
            FakeExecution: lambda: FakeExecution(Execution(self.task(), print)),
            FrameDecoder: FrameDecoder,
            StaticPeers: lambda: StaticPeers({}),
            Line: Line,
            MutualTLS: self.mutual_tls,
            Node: lambda: node,
            SubmittedTask: lambda: SubmittedTask(node, key),
            TaskFile: lambda: TaskFile(created_at="2026-11-30T00:00:00Z"),
            TaskSubmitFactory: lambda: TaskSubmitFactory(lambda *_: True, clock=clock),
            TaskSubmitProtocol: lambda: TaskSubmitProtocol(clock),
            type(network): lambda: network,
            FaultyTaskStore: FaultyTaskStore,
            MemoryTaskStore: MemoryTaskStore,
            SQLiteTaskStore: lambda: SQLiteTaskStore(None),
            tasksubmit.testing.ScriptedPeer: lambda: self.agents.peer(Behaviour()),
        }

    def mutual_tls(self) -> MutualTLS:
        """Peers that are known by their keys."""
        dial = self.agents.network.client_endpoint
        return MutualTLS(Credentials.of_directory(Path("nowhere")), dial, Clock(), Clock().seconds)

    def task(self) -> Task:
        """A record."""
        return Task.new(side=Side.RECEIVER, peer=ONE, task_id="t", description="d", created_at=NOW)

    def values(self) -> Mapping[str, Any]:
        """Valid values by ``callable(parameter)``, or by the names of parameters whose annotation is not enough."""
        clock, network = self.agents.clock, self.agents.network
        endpoint = network.client_endpoint("nowhere")
        key = TaskKey(Side.SUBMITTER, ONE, "t")
        node = self.agents.node()
        return {
            **dict.fromkeys(("function", "condition", "handler"), lambda *_: succeed(True)),
            "acceptance": AcceptAll(),
            "address": ONE,
            "addresses": [ONE],
            "asked": Execution(self.task(), print),
            "authenticator": self.mutual_tls(),
            "behaviour": Behaviour(),
            "bounds": Bounds(),
            "but": [ONE],
            "clock": clock,
            "command": ("true",),
            "credentials": Credentials.of_directory(Path("nowhere")),
            "data": b"",
            "directory": Path("nowhere"),
            "SQLiteTaskStore(directory)": None,
            "endpoint": endpoint,
            "endpoints": {ONE: endpoint},
            "errors": KeyError,
            "executor": FakeExecutor(),
            "factory": Factory(),
            "features": ("ack",),
            "formula": ScoreFormula.LINEAR,
            "frame": Frame(1, b"{}"),
            "TaskSubmitProtocol.send_encoded(frame)": b"",
            "SubmitRequest.from_frame(frame)": make_request().to_frame(),
            "key": key,
            "lease": Lease(),
            "listen": {"here": network.server_endpoint("here")},
            "load": Load(),
            "local_address": ONE,
            "max_buffered_bytes": 2**26,
            "MutualTLS.protect(endpoint)": network.server_endpoint("there"),
            "Client.send_results(message)": TaskResultMessage("t", "text"),
            "Agents.crash(node)": node,
            "node": node,
            "ScriptedPeer(network)": network,
            "one": [ONE],
            "MemoryNetwork.part(one)": ["here"],
            "MemoryNetwork.delay(one)": ["here"],
            "other": [ONE],
            "MemoryNetwork.part(other)": ["here"],
            "MemoryNetwork.delay(other)": ["here"],
            "Finished(outcome)": ValueError("no"),
            "FakeExecutor(outcomes)": "done",
            "own": ONE,
            "party": ONE,
            "payload": b"",
            "peer": ONE,
            "peers": StaticPeers({}),
            "policies": [Deny([])],
            "policy": Deny([]),
            "random": Random(1),
            "reactor": self.reactor,
            "Client.submit(request)": make_request(),
            "request": make_request(),
            "retention": Retention(),
            "schema": (),
            "score_book": MemoryScoreBook(),
            "side": Side.SUBMITTER,
            "store": SQLiteTaskStore(None),
            "task": SubmittedTask(node, key),
            "Execution(task)": self.task(),
            "SQLiteTaskStore.events_of(task)": self.task(),
            "MemoryTaskStore.events_of(task)": self.task(),
            "polo_score(task)": self.task(),
            "FanOut(tasks)": [],
            "Node.submit_many(tasks)": [],
            "test": self.agents._test,
            "timeouts": Timeouts(),
            "to": ONE,
            "unproved": StaticPeers({}),
            "update": TaskStatusUpdate("t", "NEW"),
            "what": b"",
            "why": Hold.CLOSING,
            "work": succeed(None),
            "work_directory": Path("nowhere"),
            "FaultyTaskStore.fail(method)": "create",
            "fault": StoreFault.ROLLED_BACK,
            "FaultyTaskStore.list_tasks(status)": None,
            "FaultyTaskStore.events_of(task)": self.task(),
        }


BY_ANNOTATION: Mapping[str, Any] = {
    "Address": ONE,
    "Exception": ValueError("no"),
    "ExecutionResult": "text",
    "Mapping": {},
    "Callable": lambda *_: succeed(True),
    "None": None,
    "Side": Side.RECEIVER,
    "TaskStatus": TaskStatus.NEW,
    "bool": True,
    "bytes": b"{}",
    "datetime": NOW,
    "float": 1.0,
    "int": 1,
    "list": [],
    "str": "text",
    "timedelta": timedelta(seconds=1),
    "tuple": (),
}
"""Valid values by the first word of an annotation, for parameters that `World.values` does not name."""


# --- the walk -------------------------------------------------------------------------------------------------------


class Walk:
    """Gives wrong arguments to public callables, and collects complaints.

    :ivar complaints: a sentence for each wrong value that was not refused as it has to be.
    """

    def __init__(self, world: World) -> None:
        self._instances = world.instances()
        self._values = world.values()
        self.complaints: list[str] = []

    def go(self, public: Public) -> None:
        """Give each parameter wrong values."""
        if is_exempt(public.name):
            return
        parameters = public.parameters
        valid = {name: self._valid(public, name) for name, one in parameters.items() if one.default is one.empty}
        for name, parameter in parameters.items():
            where = f"{public.name}({name})"
            if where in EXEMPT:
                continue
            self._valid(public, name)
            annotation = str(parameter.annotation)
            types_alone = where in ANY_NUMBER_FITS or (public.function in TYPES_ALONE)
            values = list(wrong_values(annotation, types_alone, where in ZERO_FITS))
            if annotation == "Any" and name == "reactor":
                values = [Wrong(), Falsy(), 5]
            if not values:
                self.complaints.append(f"{where}: no value is known to be wrong for {annotation}; say why in EXEMPT")
            for value in values:
                self._give(public, valid, parameter, value)

    def _valid(self, public: Public, name: str) -> Any:
        where = f"{public.name}({name})"
        if where in EXEMPT:
            return None
        word = re.split(r"\W", str(public.parameters[name].annotation))[0]
        for values, key in ((self._values, where), (BY_ANNOTATION, word), (self._values, name)):
            if key in values:
                return values[key]
        self.complaints.append(f"{where}: give a valid value in World.values, or a reason in EXEMPT")
        return None

    def _give(self, public: Public, valid: Mapping[str, Any], parameter: inspect.Parameter, value: Any) -> None:
        where = f"{public.name}({parameter.name}={shown(value)})"
        try:
            error = self._error(public, valid, parameter, value)
        except Exception as raised:
            if public.returns_deferred and isinstance(raised, REFUSALS):
                self.complaints.append(f"{where} raised instead of failing its Deferred: {raised!r}")
                return
            error = raised
        if error is None:
            self.complaints.append(f"{where} was accepted")
        elif not isinstance(error, REFUSALS):
            self.complaints.append(f"{where} gave {error!r}")
        elif shown(value) not in str(error):
            self.complaints.append(f"{where} gave an error that does not say what was given: {error}")
        elif not re.search(rf"\b{parameter.name}\b", str(error)):
            self.complaints.append(f"{where} gave an error that does not name it: {error}")
        elif not re.search(r"must be .*, not .+|is not an address|has no time zone", str(error)):
            self.complaints.append(f"{where} gave an error that does not say what is needed and given: {error}")

    def _error(
        self, public: Public, valid: Mapping[str, Any], parameter: inspect.Parameter, value: Any
    ) -> BaseException | None:
        """Call it with one wrong value; return the error of its Deferred."""
        arguments = {**valid, parameter.name: value}
        given: list[Any] = []
        for name, one in public.parameters.items():
            if one.kind is one.VAR_POSITIONAL:
                # Only a positional argument reaches it, and those before it with it.
                arguments.pop(name, None)
                given = [value] if parameter.name == name else []
        before = list(public.parameters)
        for name in before[: before.index(parameter.name)] if given else ():
            given.insert(len(given) - 1, arguments.pop(name))
        function = public.function
        if public.owner is not None and not public.is_bound:
            function = getattr(self._instances[public.owner](), function.__name__)
        result = function(*given, **arguments)
        failures: list[Failure] = []
        if isinstance(result, FanOut):
            result = result.all()  # what is wrong with an item comes out when it is its turn
        if isinstance(result, Deferred):
            result.addErrback(failures.append)
        return failures[0].value if failures else None


class WalkTests(SynchronousTestCase):
    """The public names as they are."""

    def walked(self, *modules: Any) -> Walk:
        """The walk over the public names of some modules."""
        walk = Walk(World(Agents(self)))
        for public in public_callables(*modules):
            walk.go(public)
        return walk

    def test_wrong_arguments_are_refused_by_name(self) -> None:
        """Every wrong argument of every public class, function and method is refused with an error that names it."""
        complaints = self.walked(tasksubmit, tasksubmit.testing).complaints
        self.assertEqual(complaints, [], "\n".join(complaints))

    def test_exceptions_are_needed(self) -> None:
        """Whatever is left out of the walk is there."""
        found = set()
        for public in public_callables(tasksubmit, tasksubmit.testing):
            owner = public.name.partition(".")[0]
            found |= {public.name, f"{owner}.*", *(f"{public.name}({name})" for name in public.parameters)}
        self.assertEqual({*EXEMPT, *ZERO_FITS, *ANY_NUMBER_FITS} - found, set())

    def test_signatures_need_public_names_only(self) -> None:
        """Each class of the package that a public signature or property names is importable from the package, too."""
        exported = {*tasksubmit.__all__, *tasksubmit.testing.__all__}
        named: set[str] = set()
        for public in public_callables(tasksubmit, tasksubmit.testing):
            if not is_exempt(public.name):
                annotations = [one.annotation for one in public.parameters.values()]
                annotations.append(inspect.signature(public.function).return_annotation)
                if inspect.isclass(public.function):
                    annotations += _properties(public.function)
                named.update(re.findall(r"\w+", " ".join(map(str, annotations))))
        ours = {
            name
            for module in list(sys.modules.values())
            if getattr(module, "__name__", "").startswith("tasksubmit")
            for name, value in vars(module).items()
            if inspect.isclass(value) and value.__module__.startswith("tasksubmit") and not name.startswith("_")
        }
        self.assertEqual(named & ours - exported, set(INTERNAL))


INTERNAL = (
    "Files",  # of Credentials, which has of_directory to make them
    "Identity",  # of Credentials, too
    "Trust",
    "Hold",  # for subclasses of TaskSubmitProtocol, with which it is imported
    "MemoryClientEndpoint",  # what endpoints of MemoryNetwork are; callers need to know their interface alone
    "MemoryServerEndpoint",
    "Message",  # any of the messages
    "MutualTLSServerEndpoint",
    "Timed",  # whatever has the three durations
)
"""Classes of signatures that nobody has to name."""


class CheckerTests(SynchronousTestCase):
    """The walk itself complains."""

    def complaints(self, function: Callable[..., Any]) -> str:
        """What the walk says about a function."""
        module = ModuleType("tasksubmit.made_up")
        module.__dict__.update({"__all__": ["made_up"], "made_up": function})
        walk = Walk(World(Agents(self)))
        for public in public_callables(module):
            walk.go(public)
        return "\n".join(walk.complaints)

    def test_unchecked(self) -> None:
        """A parameter that is not checked is found."""

        def unchecked(limit: int) -> None:
            """Take everything."""

        self.assertIn("made_up(limit='5') was accepted", self.complaints(unchecked))
        self.assertIn("made_up(limit=nan) was accepted", self.complaints(unchecked))
        self.assertEqual(self.complaints(checked(limit=COUNT)(unchecked)), "")

    def test_unknown(self) -> None:
        """So is a new one, for which the walk has no valid value or knows no wrong one."""

        def new(unheard_of: Wrong) -> None:
            """Take something new."""

        def anything(limit: object) -> None:
            """Take anything."""

        self.assertIn("made_up(unheard_of): give a valid value", self.complaints(new))
        self.assertIn("made_up(limit): no value is known to be wrong for object", self.complaints(anything))

    def test_not_named(self) -> None:
        """An error that does not name the parameter, or of another kind, is none that helps."""

        def silent(limit: int) -> None:
            raise TypeError(f"it must be something else, not {shown(limit)}")

        def late(limit: int) -> None:
            raise AttributeError("'object' has no attribute 'bit_length'")

        self.assertIn("does not name it", self.complaints(silent))
        self.assertIn("gave AttributeError", self.complaints(late))

    def test_raised(self) -> None:
        """A function that returns a Deferred may not raise."""

        def raises(limit: int) -> Deferred[None]:
            COUNT.check("limit", limit)
            return succeed(None)

        self.assertIn("raised instead of failing its Deferred", self.complaints(raises))


class ConversionTests(SynchronousTestCase):
    """What is taken in more than one form."""

    def test_addresses(self) -> None:
        """Wherever an address is needed, its string is one."""
        text = "0:0000.0000.0002"
        clock = Clock()
        self.assertEqual(Peer(text, "memory"), Peer(TWO, "memory"))
        self.assertEqual(TaskKey("submitter", text, "t"), TaskKey(Side.SUBMITTER, TWO, "t"))
        self.assertEqual(Booking(text, 1, "completed").party, TWO)
        self.assertEqual(Node(text, SQLiteTaskStore(None), StaticPeers({}), clock=clock).address, TWO)
        endpoint = MemoryNetwork(clock).client_endpoint("there")
        peers = StaticPeers({text: endpoint})
        peers.add({str(ONE): endpoint})
        self.assertEqual(list(peers.addresses()), [ONE, TWO])
        self.assertEqual(Client(endpoint, text, clock).local_address, TWO)
        for made in (Deny([text]), Allow([text])):
            self.assertEqual(made.addresses, {TWO})
        self.assertEqual(AcceptAll(but=[text]).but, {TWO})

    def test_words(self) -> None:
        """A member of an enumeration may be given as its word; an unknown word gets the list of words."""
        task = TaskResultMessage(time_idle_ms=59_000, time_cpu_ms=10**7)
        self.assertEqual(polo_score(task, "linear"), polo_score(task, ScoreFormula.LINEAR))
        self.assertNotEqual(polo_score(task, "linear"), polo_score(task))
        error = self.assertRaises(ValueError, polo_score, task, "linaer")
        self.assertIn("formula must be one of 'documented', 'linear' (ScoreFormula), not 'linaer'", str(error))

    def test_generators_are_used_once(self) -> None:
        """An iterable is stored as a collection when it is given, so that a generator counts for every submission."""
        refused = [Deny(address for address in [ONE]), AllOf(policy for policy in [Deny([ONE])])]
        for policy in (*refused, Allow(address for address in [TWO])):
            for _ in range(3):
                answer = policy.admit(Peer(ONE, "memory"), make_request(by=ONE))
                assert isinstance(answer, Refusal), policy
                self.assertEqual(answer.code, "not_a_peer")
        words: Any = (word for word in ["ack"])
        self.assertEqual(SubmitRequest(features=words).features, ("ack",))
        command = ProcessExecutor(reactor=Clock(), command=(word for word in ["wc", "-w"])).command
        self.assertEqual(command, ("wc", "-w"))

    def test_later_changes_do_not_count(self) -> None:
        """A collection that changes after it was given changes nothing."""
        addresses = [ONE]
        content: Any = bytearray(b"content")
        policy, message = Deny(addresses), TaskResultMessage("t", "file", file_data=content)
        addresses.clear()
        content.clear()
        self.assertEqual((policy.addresses, message.file_data), ({ONE}, b"content"))

    def test_paths(self) -> None:
        """A path may be a string."""
        executor = ProcessExecutor(reactor=Clock(), command=["true"], directory="here")
        self.assertEqual(executor.directory, Path("here"))


@implementer(IAuthenticator, IAdmissionPolicy, IPeers, IExecutor, IScoreBook, IAcceptancePolicy)
class EmptyComponent:
    """Provides what a node can be given, refuses everything, and is false."""

    lease = Lease()

    def __len__(self) -> int:
        return 0

    def authenticate(self, transport: ITransport) -> Address | None:
        return None

    def proofs(self, address: Address) -> Collection[str]:
        return ()

    def needs_proof(self, address: Address) -> bool:
        return True

    def admit(self, peer: Peer, request: SubmitRequest) -> Refusal | None:
        return Refusal("not_a_peer", "nobody may submit here")

    def addresses(self) -> Collection[Address]:
        return ()

    def endpoint(self, address: Address) -> IStreamClientEndpoint:
        raise UnknownPeer(str(address))

    def execute(self, execution: Execution) -> str:
        return "done"

    def decide(self, task: Task) -> bool:
        return False

    def score(self, address: Address) -> Deferred[int]:
        return succeed(7)

    def scores(self) -> Deferred[list[tuple[Address, int]]]:
        return succeed([])

    def book(self, key: TaskKey, booking: Booking) -> Deferred[None]:
        return succeed(None)


class MistakeTests(SynchronousTestCase):
    """Mistakes that used to be silent, as a user sees them."""

    def test_empty_components_are_used(self) -> None:
        """A component that is false, because it is empty, is the node's all the same: None alone means the default."""
        empty = EmptyComponent()
        agents = Agents(self)
        asker = agents.node()
        node = agents.node(
            peers=empty, authenticator=empty, policy=empty, executor=empty, acceptance=empty, score_book=empty
        )
        self.assertIs(node.authenticator, empty)
        assert node.workers is not None
        self.assertIs(node.workers.executor, empty)
        self.assertIsNotNone(node.getServiceNamed("acceptance"))
        self.assertEqual(agents.done(node.score(ONE)), 7)
        task = agents.done(asker.submit(node.address, "work"))
        agents.advance(1)
        self.assertEqual(agents.submitted(task).status, "DECLINED")

    def test_quota_counts_without_a_load(self) -> None:
        """A node gives its counters to its policy: a quota refuses, by itself and among others, and after a restart."""
        agents = Agents(self)
        asker = agents.node()
        for policy in (PeerQuota(2), AllOf([AllOf([PeerQuota(2)])])):
            node = agents.node(policy=policy)
            for _ in range(2):
                agents.done(asker.submit(node.address, "work"))
            agents.advance(1)
            agents.restart(node)
            task = agents.done(asker.submit(node.address, "work"))
            agents.advance(1)
            self.assertEqual(node.load.of(asker.address).open, 2)
            self.assertEqual(agents.submitted(task).code, "quota")

    def test_queue_limit_counts_without_a_load(self) -> None:
        """So does the limit of a queue; two nodes may share one policy."""
        agents = Agents(self)
        asker, policy = agents.node(), QueueLimit(1)
        first, second = agents.node(policy=policy), agents.node(policy=policy)
        task = agents.done(asker.submit(first.address, "work"))
        agents.advance(1)
        agents.accept(task)
        other, refused = (agents.done(asker.submit(node.address, "work")) for node in (second, first))
        agents.advance(1)
        self.assertEqual([agents.submitted(one).code for one in (other, refused)], ["", "quota"])

    def test_quota_without_a_node(self) -> None:
        """A quota that no node has given its counters to says so, instead of admitting everybody."""
        for policy in (PeerQuota(2), QueueLimit(2)):
            error = self.assertRaises(RuntimeError, policy.admit, Peer(ONE, "memory"), make_request(by=ONE))
            self.assertIn("give it to a Node", str(error))

    def test_class_in_place_of_an_instance(self) -> None:
        """A class is no component, although it has the methods; an object with the methods is one."""

        class Everybody:
            def admit(self, peer: Peer, request: SubmitRequest) -> None:
                return None

        make = partial(Node, ONE, SQLiteTaskStore(None), StaticPeers({}), clock=Clock())
        make(policy=Everybody())  # type: ignore[arg-type]  # it does not say what it provides
        for options in ({"policy": Everybody}, {"acceptance": AcceptAll}, {"executor": CallableExecutor}):
            [name] = options
            error = self.assertRaises(TypeError, make, **options)
            self.assertIn(f"{name} must be a provider of", str(error))

    def test_command_is_no_string(self) -> None:
        """A command in one string is refused, with what makes arguments of it."""
        error = self.assertRaises(TypeError, ProcessExecutor, reactor=Clock(), command="wc -w")
        self.assertIn("command must be", str(error))
        self.assertIn("shlex.split('wc -w')", str(error))

    def test_units(self) -> None:
        """A number where a timedelta is needed is refused with an example, and so is the reverse."""
        error = self.assertRaises(TypeError, Timeouts, accept_timeout=5)
        self.assertEqual(
            str(error),
            "accept_timeout must be a datetime.timedelta over 0 and up to 100 years, such as timedelta(seconds=90),"
            " not 5 (int)",
        )
        self.assertRaises(TypeError, Retention, keep=30)
        error = self.assertRaises(
            TypeError, ProcessExecutor, reactor=Clock(), command=["a"], timeout_seconds=timedelta(1)
        )
        self.assertIn("timeout_seconds must be a number of seconds", str(error))

    def test_numbers_that_stop_a_node(self) -> None:
        """Numbers that would stop a part of a node, without a word, are refused."""
        store, peers, clock = SQLiteTaskStore(None), StaticPeers({}), Clock()
        for option in ("concurrency", "tick_seconds", "idle_timeout_seconds", "max_description_bytes"):
            for value in (0, -1, math.nan):
                error = self.assertRaises(
                    (TypeError, ValueError), Node, ONE, store, peers, clock=clock, **{option: value}
                )
                self.assertIn(f"{option} must be", str(error))
        self.assertRaises(ValueError, RateLimit, clock, rate=-1, burst=5)
        self.assertRaises(ValueError, RateLimit, clock, rate=math.inf, burst=5)

    def test_peers_need_endpoints(self) -> None:
        """The string of an endpoint is no endpoint: the error says what makes one of it."""
        error = self.assertRaises(TypeError, StaticPeers, {ONE: "tcp:127.0.0.1:11003"})
        self.assertIn("endpoints: the endpoint of 0:0000.0000.0001 must be", str(error))
        self.assertIn("clientFromString", str(error))
        endpoint = clientFromString(MemoryReactorClock(), "tcp:127.0.0.1:11003")
        self.assertIs(StaticPeers({ONE: endpoint}).endpoint(ONE), endpoint)

    def test_custom_peers_need_endpoints(self) -> None:
        """A submission fails when the peers of an application give something else than an endpoint."""

        class Texts(EmptyComponent):
            def endpoint(self, address: Address) -> Any:
                return "tcp:127.0.0.1:11003"

        asker = Agents(self).node(peers=Texts())
        failed = self.failureResultOf(asker.submit(ONE, "work"), TypeError)
        self.assertIn("clientFromString", failed.getErrorMessage())

    def test_executor_needs_a_lease(self) -> None:
        """The lease of an executor is a `Lease`, and no duration."""
        executor: Any = FakeExecutor()
        executor.lease = timedelta(1)
        make = partial(Node, ONE, SQLiteTaskStore(None), StaticPeers({}), clock=Clock(), executor=executor)
        self.assertIn("executor.lease must be an instance of Lease", str(self.assertRaises(TypeError, make)))

    def test_submit_to_a_string(self) -> None:
        """A task is submitted to the string of an address as well; to another string it is not."""
        agents = Agents(self)
        asker, worker = agents.node(), agents.node()
        self.assertEqual(agents.done(asker.submit(str(worker.address), "work")).key.peer, worker.address)
        self.failureResultOf(asker.submit("worker", "work"), InvalidAddress)

    def test_client_fails_its_deferreds(self) -> None:
        """A client does not raise for wrong arguments: its Deferred fails."""
        client = Client(MemoryNetwork(Clock()).client_endpoint("there"), ONE, Clock())
        failed = self.failureResultOf(client.submit_task(None, TWO), TypeError)  # type: ignore[arg-type]  # the mistake
        self.assertIn("description must be a string, not None", failed.getErrorMessage())
        self.failureResultOf(client.submit_task("work", 5), TypeError)  # type: ignore[arg-type]  # the mistake

    def test_messages_check_types(self) -> None:
        """A message refuses a value of a wrong type where it is made, and takes all that makes no sense."""
        error = self.assertRaises(TypeError, SubmitRequest, 5, "work")
        self.assertEqual(str(error), "task_id must be a string, not 5 (int)")
        error = self.assertRaises(TypeError, TaskStatusUpdate, ack="no")
        self.assertEqual(str(error), "ack must be True or False, not 'no' (str)")
        self.assertEqual(SubmitRequest("no task id").task_id, "no task id")
        self.assertEqual(TaskResultMessage(time_cpu_ms=-1).time_cpu_ms, -1)

    def test_reading_costs_no_checks(self) -> None:
        """What is read from a frame is not checked a second time."""
        frame = TaskStatusUpdate("t", "ODD", "", True).to_frame()
        checks: list[object] = []
        self.patch(TaskStatusUpdate, "__init__", lambda *arguments: checks.append(arguments))
        self.assertEqual((TaskStatusUpdate.from_frame(frame).status, checks), ("ODD", []))
