"""Every provider against its interface, those of the tests and of the test kit too."""

from __future__ import annotations

import inspect
import io
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import GenericAlias
from typing import Any

from twisted.application.service import IService, IServiceMaker, ServiceMaker
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IListeningPort,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver
from twisted.plugin import IPlugin
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyObject

import tasksubmit
from tasksubmit import interfaces
from tasksubmit.interfaces import (
    IAcceptancePolicy,
    IAdmissionPolicy,
    IAuthenticator,
    ICountingAdmissionPolicy,
    IExecutor,
    IExecutorMaker,
    ILoad,
    ILoadAdmissionPolicy,
    IPeerAdmissionPolicy,
    IPeers,
    IPureAdmissionPolicy,
    IReloadable,
    IScoreBook,
    ITaskHandler,
    ITaskStore,
    IWithdrawalPolicy,
)
from tasksubmit.logs import json_observer
from tasksubmit.node.acceptance import AcceptAll
from tasksubmit.node.executors.process import ProcessExecutor
from tasksubmit.node.executors.python import CallableExecutor
from tasksubmit.node.identity import BelieveAll
from tasksubmit.node.listener import Listener
from tasksubmit.node.load import Load
from tasksubmit.node.mutual import MutualTLS
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.policy import (
    AllOf,
    Allow,
    Deny,
    PeerQuota,
    PeersOnly,
    QueueLimit,
    RateLimit,
    ScoreGate,
    SizeLimit,
)
from tasksubmit.node.service import Node
from tasksubmit.protocol.factory import TaskSubmitFactory
from tasksubmit.protocol.framing import TaskSubmitProtocol
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.clocks import ProcessClock
from tasksubmit.testing.directory import AgentPeers
from tasksubmit.testing.executors import FakeExecutor
from tasksubmit.testing.faults import FaultyTaskStore
from tasksubmit.testing.logged import LoggedErrors
from tasksubmit.testing.network import MemoryNetwork, MemoryPort
from tasksubmit.testing.scores import MemoryScoreBook
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.testing.transport import MemoryAddress, MemoryTransport
from tasksubmit.tls.credentials import Credentials
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint
from tasksubmit.wire.address import Address
from tests.protocol.support import WaitingHandler

OWN = Address.parse("0:0000.0000.0001")
CLOCK = Clock()
NETWORK = MemoryNetwork(CLOCK)
PEERS = StaticPeers({})
HERE = MemoryAddress("here")
NOBODYS = Credentials.of_directory(Path("nowhere"))


def node() -> Node:
    """A node in memory."""
    return Node(OWN, SQLiteTaskStore(None), PEERS, clock=CLOCK)


def mutual_tls() -> MutualTLS:
    """Peers that are known by their keys; nothing is read before it is needed."""
    return MutualTLS(NOBODYS, NETWORK.client_endpoint, CLOCK, CLOCK.seconds)


def function_handler() -> ITaskHandler:
    """What the factory makes of a function."""
    return TaskSubmitFactory(lambda peer, request, send_result: True, clock=CLOCK).handler


PROVIDERS: list[tuple[type[Interface], Callable[[], Any]]] = [
    (ITaskStore, lambda: SQLiteTaskStore(None)),
    (ITaskStore, lambda: SQLiteTaskStore(Path("state"), MemoryReactorClock())),
    (ITaskHandler, node),
    (ITaskHandler, function_handler),
    (ITaskHandler, WaitingHandler),
    (IAdmissionPolicy, lambda: PeersOnly(PEERS)),
    (IPureAdmissionPolicy, lambda: PeersOnly(PEERS)),
    (IPureAdmissionPolicy, lambda: Allow([])),
    (IPureAdmissionPolicy, lambda: Deny([])),
    (IPureAdmissionPolicy, lambda: SizeLimit(1)),
    (IPureAdmissionPolicy, lambda: PeerQuota(1, 1)),
    (IPureAdmissionPolicy, lambda: QueueLimit(1)),
    (IPureAdmissionPolicy, lambda: RateLimit(CLOCK, 1, 1)),
    (ICountingAdmissionPolicy, lambda: RateLimit(CLOCK, 1, 1)),
    (ICountingAdmissionPolicy, lambda: AllOf([])),
    (ILoadAdmissionPolicy, lambda: AllOf([])),
    (IPeerAdmissionPolicy, lambda: AllOf([])),
    (IPeerAdmissionPolicy, lambda: PeersOnly(PEERS)),
    (IPeerAdmissionPolicy, lambda: Allow([])),
    (IPeerAdmissionPolicy, lambda: Deny([])),
    (ILoadAdmissionPolicy, lambda: PeerQuota(1)),
    (ILoadAdmissionPolicy, lambda: QueueLimit(1)),
    (IWithdrawalPolicy, lambda: AllOf([])),
    (IWithdrawalPolicy, lambda: PeerQuota(1)),
    (IWithdrawalPolicy, lambda: RateLimit(CLOCK, 1, 1)),
    (ILoad, Load),
    (IAdmissionPolicy, lambda: ScoreGate(OWN, SQLiteTaskStore(None).score)),
    (IPeers, lambda: PEERS),
    (IAuthenticator, BelieveAll),
    *((interface, mutual_tls) for interface in (IPeers, IAuthenticator, IReloadable)),
    (IAcceptancePolicy, AcceptAll),
    (IScoreBook, MemoryScoreBook),
    (IExecutor, lambda: CallableExecutor(lambda execution: "")),
    (IExecutor, lambda: ProcessExecutor(reactor=CLOCK, command=("true",))),
    *((IExecutorMaker, lambda name=name: executor_plugin(name)) for name in ("manual", "process", "python")),
    (IPlugin, lambda: executor_plugin("manual")),
    # Twisted's
    (IService, node),
    (IService, lambda: Listener("here", NETWORK.server_endpoint("here"), Factory())),
    (IProtocolFactory, lambda: node().factory),
    (IPushProducer, lambda: TaskSubmitProtocol(CLOCK)),
    (ILogObserver, lambda: json_observer(io.StringIO())),
    (IServiceMaker, lambda: plugin()),
    (IPlugin, lambda: plugin()),
    # the test kit
    (ITaskStore, MemoryTaskStore),
    (ITaskStore, FaultyTaskStore),
    (IExecutor, FakeExecutor),
    (IPeers, lambda: AgentPeers(NETWORK, OWN, list)),
    (IReactorTime, lambda: ProcessClock(CLOCK)),
    (ILogObserver, lambda: logged_errors()),
    (IAddress, lambda: HERE),
    (ITransport, lambda: MemoryTransport(HERE, HERE, Protocol())),
    (IConsumer, lambda: MemoryTransport(HERE, HERE, Protocol())),
    (IPushProducer, lambda: MemoryTransport(HERE, HERE, Protocol())),
    (IListeningPort, lambda: MemoryPort(NETWORK, "here", Factory())),
    (IStreamServerEndpoint, lambda: NETWORK.server_endpoint("here")),
    (IStreamClientEndpoint, lambda: NETWORK.client_endpoint("here")),
    # TLS
    (IStreamServerEndpoint, lambda: mutual_tls().protect(NETWORK.server_endpoint("here"))),
    (IStreamClientEndpoint, lambda: MutualTLSClientEndpoint(NETWORK.client_endpoint("here"), NOBODYS, "bob", CLOCK)),
    (IPlugin, lambda: endpoint_plugin()),
    (IStreamServerEndpointStringParser, lambda: endpoint_plugin()),
    (IStreamClientEndpointStringParserWithReactor, lambda: endpoint_plugin()),
]


def logged_errors() -> LoggedErrors:
    """What keeps errors, and does no more."""
    logged = LoggedErrors()
    logged.close()
    return logged


def plugin() -> ServiceMaker:
    """What twistd finds."""
    maker: ServiceMaker = import_module("twisted.plugins.tasksubmit_plugin").tasksubmit
    return maker


def endpoint_plugin() -> Any:
    """What reads the endpoint strings that come with the package."""
    return import_module("twisted.plugins.tasksubmit_endpoints").mutual_tls


def executor_plugin(name: str) -> IExecutorMaker:
    """What makes executors of that name."""
    maker: IExecutorMaker = getattr(import_module("twisted.plugins.tasksubmit_executors"), name)
    return maker


def our_interfaces() -> list[InterfaceClass]:
    """Every interface of the package."""
    return [
        value
        for value in vars(interfaces).values()
        if isinstance(value, InterfaceClass) and value.__module__ == interfaces.__name__
    ]


class ProviderTests(SynchronousTestCase):
    """Those who say that they provide an interface."""

    def test_providers(self) -> None:
        """Each provider has every member of its interface, with arguments that fit."""
        for interface, make in PROVIDERS:
            self.assertTrue(verifyObject(interface, make()), interface)

    def test_arguments_have_the_same_names(self) -> None:
        """Providers of our interfaces call the arguments of their methods what the interface calls them."""
        for interface, make in PROVIDERS:
            if interface not in our_interfaces():
                continue
            provider = make()
            for name, member in interface.namesAndDescriptions():
                if isinstance(member, Method):
                    found = list(inspect.signature(getattr(provider, name)).parameters)
                    self.assertEqual(found[: len(member.positional)], list(member.positional), (provider, name))

    def test_nobody_is_left_out(self) -> None:
        """Each class of the package that implements one of our interfaces is in the list above."""
        implementers: set[type] = set()
        for module in pkgutil.walk_packages(tasksubmit.__path__, "tasksubmit."):
            if module.name != "tasksubmit.__main__":
                for value in vars(import_module(module.name)).values():
                    if (
                        inspect.isclass(value)
                        and not isinstance(value, GenericAlias)
                        and any(i.implementedBy(value) for i in our_interfaces())
                    ):
                        implementers.add(value)
        self.assertEqual(implementers - {type(make()) for _, make in PROVIDERS}, set())


class InterfaceTests(SynchronousTestCase):
    """The map of the replaceable parts."""

    def test_everything_is_explained(self) -> None:
        """Each interface and each of its methods says what it does."""
        for interface in our_interfaces():
            self.assertTrue(interface.__doc__)
            for name, member in interface.namesAndDescriptions():
                self.assertTrue(member.__doc__, f"{interface.__name__}.{name}")

    def test_every_interface_has_a_provider(self) -> None:
        """No interface is there for nobody."""
        self.assertEqual(set(our_interfaces()) - {interface for interface, _ in PROVIDERS}, set())
