"""Nodes that know each other by their keys, over TLS in memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted
from typing_extensions import override

from tasksubmit.errors import CertificateRefused, ConfigurationError, IllegalTransition, PeerUnreachable, UnknownPeer
from tasksubmit.interfaces import IAuthenticator
from tasksubmit.lifecycle.table import Side, TaskStatus, Timeouts
from tasksubmit.lifecycle.task import Task, TaskKey
from tasksubmit.node.delivery import REFUSED_DELAY_SECONDS
from tasksubmit.node.mutual import MutualTLS
from tasksubmit.node.peers import StaticPeers
from tasksubmit.node.service import Node
from tasksubmit.node.submitted import SubmittedTask
from tasksubmit.protocol import server
from tasksubmit.protocol.bounds import Bounds
from tasksubmit.protocol.client import Client
from tasksubmit.protocol.elsewhere import LARGE_BYTES
from tasksubmit.stores.sqlite import SQLiteTaskStore
from tasksubmit.testing.stores import MemoryTaskStore
from tasksubmit.tls.endpoints import MutualTLSClientEndpoint
from tasksubmit.tls.identity import make_certificate
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import SubmitRequest, TaskStatusUpdate
from tests.node.helpers import ALICE, BOB, CAROL, Message, NodeTestCase, request, results
from tests.protocol.support import RawFactory, RawPeer
from tests.tls.support import DAY, Party, now


class MutualCase(NodeTestCase):
    """Alice and Bob know each other's keys."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.wall = now().timestamp()
        self.parties = {address: Party(str(address), Path(self.mktemp())) for address in (ALICE, BOB, CAROL)}
        self.meet(ALICE, BOB)
        self.meet(BOB, ALICE)

    def meet(self, own: Address, *peers: Address) -> None:
        """Somebody trusts these from now on."""
        lines = [f"{peer} {self.parties[peer].pin} {peer}" for peer in peers]  # on this network a name is an endpoint
        self.parties[own].trust(*lines)

    def peers_of(self, own: Address, **options: Any) -> MutualTLS:
        """The peers of somebody, from the files."""
        credentials = self.parties[own].credentials
        return MutualTLS(credentials, self.network.client_endpoint, self.clock, lambda: self.wall, **options)

    def start(
        self, own: Address, peers: MutualTLS | None = None, store: MemoryTaskStore | None = None, **options: Any
    ) -> Node:
        """Start a node on TLS."""
        peers = peers or self.peers_of(own)
        listen = {str(own): peers.protect(self.network.server_endpoint(str(own)))}
        options = {"authenticator": peers, "timeouts": Timeouts(answer_timeout=DAY), **options}
        node = Node(own, store or SQLiteTaskStore(None), peers, clock=self.clock, listen=listen, **options)
        self.nodes.append(node)
        node.startService()
        return node

    def say_as(self, own: Address, to: Address, *messages: Message) -> RawPeer:
        """Dial a node with somebody's key, and send it messages."""
        factory = RawFactory()
        inner = self.network.client_endpoint(str(to))
        endpoint = MutualTLSClientEndpoint(inner, self.parties[own].credentials, str(to), self.clock)
        dialling = endpoint.connect(factory)
        self.network.flush()
        self.successResultOf(dialling)
        for message in messages:
            factory.peers[0].send(message.to_frame().encode())
        self.network.flush()
        return factory.peers[0]

    def submit(self, node: Node) -> tuple[SubmittedTask, TaskKey]:
        """Have a node submit a task to Bob; gives its handle, and the key of Bob's record."""
        handle = self.done(node.submit(BOB, "work"))
        return handle, TaskKey(Side.RECEIVER, node.address, handle.task_id)

    def attempts(self, node: Node, key: TaskKey) -> int:
        """How often the one thing that is owed for a task was tried."""
        [delivery] = self.owed(node, key)
        return delivery.attempts


class TalkTests(MutualCase):
    """Two nodes that trust each other."""

    def test_whole_task(self) -> None:
        """A task goes through its whole life."""
        alice, bob = self.start(ALICE), self.start(BOB)
        handle, key = self.submit(alice)
        self.done(bob.accept(key))
        self.done(bob.execute(key))
        self.done(bob.send_results(key, "done"))
        self.assertEqual(self.done(handle.result()).result_text, "done")
        self.assertEqual(self.task(bob, key).status, TaskStatus.SUCCEEDED)
        self.assert_idle(alice, bob)

    def test_reaches_the_handler(self) -> None:
        """The address that was proved is what the handler is given; it fits a peer of the same name only."""
        bob = self.start(BOB)
        self.assertEqual(self.say_as(ALICE, BOB, request(by=ALICE)).answers[0].status, 200)
        self.assertEqual([task.peer for task in self.tasks(bob)], [ALICE])
        for forged in (request("t2", by=CAROL), request("t2", by=BOB)):
            answer = self.say_as(ALICE, BOB, forged).answers[0]
            self.assertEqual((answer.status, answer.code), (400, "invalid"))
            self.assertIn(f"belongs to {ALICE}", answer.message)
        self.assertEqual(len(self.tasks(bob)), 1)

    def test_somebody_elses_tasks(self) -> None:
        """What a peer says of a task that is not its own is answered as if there were no such task."""
        self.meet(BOB, ALICE, CAROL)
        self.meet(CAROL, BOB)
        alice, bob = self.start(ALICE), self.start(BOB)
        handle, key = self.submit(alice)
        cancel = TaskStatusUpdate(handle.task_id, "CANCELLED", "mine", ack=True, outcome="cancelled_by_submitter")
        for message in (cancel, results(handle.task_id, ack=True)):
            self.assertEqual(self.say_as(CAROL, BOB, message).answers[0].code, "unknown_task")
        self.assertEqual(self.task(bob, key).status, TaskStatus.NEW)
        answer = self.say_as(ALICE, BOB, cancel).answers[0]
        self.assertEqual((answer.status, answer.current_status), (200, "CANCELLED"))

    def test_late_large_frame(self) -> None:
        """A peer is still known when its connection is gone and its last frame is yet to be handled."""
        bob = self.start(BOB)
        peer = self.say_as(ALICE, BOB, request("t1", by=ALICE))
        server = next(iter(bob.factory.connections))
        peer.close()
        self.network.flush()
        self.assertEqual(bob.authenticator.authenticate(server.transport), ALICE)  # type: ignore[arg-type]

    def test_many_connections(self) -> None:
        """A peer that sends nothing on its connections has as many as one that does, from wherever it makes them."""
        self.meet(BOB, ALICE, CAROL)
        self.meet(CAROL, BOB)
        bob = self.start(BOB, bounds=Bounds(max_connections_per_peer=2))
        peers = [self.say_as(ALICE, BOB) for _ in range(3)]
        self.assertEqual([peer.lost is None for peer in peers], [True, True, False])
        self.assertIsNone(self.say_as(CAROL, BOB).lost)
        peers[0].close()
        self.network.flush()
        self.assertIsNone(self.say_as(ALICE, BOB).lost)
        self.assertEqual(len(bob.factory.connections), 3)

    def test_embedded(self) -> None:
        """An application that knows its peers by other means says who they are."""

        class ByPort(StaticPeers):
            def authenticate(self, transport: Any) -> Address | None:
                return CAROL

            def proofs(self, address: Address) -> tuple[str, ...]:
                return ("its port",)

            def needs_proof(self, address: Address) -> bool:
                return True

        application: Any = ByPort({CAROL: self.network.client_endpoint("carol")})
        self.assertFalse(IAuthenticator.providedBy(application))  # what matters is that the methods are there
        node = Node(
            BOB,
            SQLiteTaskStore(None),
            application,
            clock=self.clock,
            authenticator=application,
            listen={str(BOB): self.network.server_endpoint(str(BOB))},
        )
        self.nodes.append(node)
        node.startService()
        self.assertEqual(self.ask(BOB, request("t1", by=CAROL)).status, 200)
        self.assertIn("belongs to 0:0000.0000.0003", self.ask(BOB, request("t2", by=ALICE)).message)


class PlainTests(MutualCase):
    """Connections that prove nothing, at a node that has peers which do."""

    def test_nobody_speaks_for_a_trusted_peer(self) -> None:
        """Over a socket of this machine nobody passes for a peer whose key is known; one without a key may."""
        unproved = StaticPeers({CAROL: self.network.client_endpoint("carol")})
        peers = self.peers_of(BOB, unproved=unproved)
        bob = self.start(BOB, peers)
        self.listen_plainly(bob)
        self.assertEqual(set(peers.addresses()), {ALICE, CAROL})
        self.assertIs(peers.endpoint(CAROL), unproved.endpoint(CAROL))
        self.assertEqual(self.ask_plainly(request("t1", by=CAROL)).status, 200)
        answer = self.ask_plainly(request("t2", by=ALICE))
        self.assertEqual((answer.status, answer.code), (400, "invalid"))
        self.assertIn("does not prove that: use TLS", answer.message)
        self.say_as(ALICE, BOB, request("t3", by=ALICE))
        cancel = TaskStatusUpdate("t3", "CANCELLED", "mine", ack=True)
        self.assertEqual(self.ask_plainly(cancel).code, "unknown_task")
        self.assertEqual(self.say_as(ALICE, BOB, cancel).answers[0].current_status, "CANCELLED")

    def test_trust_that_was_removed(self) -> None:
        """Nobody speaks for a peer that is not trusted any more, either: not even about its own tasks."""
        bob = self.start(BOB, self.peers_of(BOB))
        self.listen_plainly(bob)
        self.say_as(ALICE, BOB, request("t1", by=ALICE))
        self.parties[BOB].trust()
        bob.reload()
        self.network.flush()
        self.assertEqual(self.ask_plainly(TaskStatusUpdate("t1", "CANCELLED", "mine", ack=True)).code, "unknown_task")
        self.assertEqual(self.ask_plainly(request("t2", by=ALICE)).status, 400)

    def test_trust_that_was_removed_before_the_start(self) -> None:
        """A peer that was removed is not one without a key, also if the node is told that it lives on this machine."""
        self.parties[BOB].trust(f"{ALICE} removed")
        unproved = StaticPeers({peer: self.network.client_endpoint(str(peer)) for peer in (ALICE, CAROL)})
        peers = self.peers_of(BOB, unproved=unproved)
        bob = self.start(BOB, peers)
        self.listen_plainly(bob)
        self.assertEqual(set(peers.addresses()), {CAROL})
        self.assertTrue(peers.needs_proof(ALICE))
        self.assertRaises(UnknownPeer, peers.endpoint, ALICE)
        self.assertEqual([bob.is_trusted(peer) for peer in (ALICE, CAROL)], [False, True])
        self.assertEqual(self.ask_plainly(request("t1", by=ALICE)).status, 400)
        self.assertEqual(self.ask_plainly(request("t2", by=CAROL)).status, 200)

    def test_held_after_a_restart(self) -> None:
        """The tasks of a peer that was removed stay held when the node is started again, wherever that peer lives."""
        store, key = MemoryTaskStore(), TaskKey(Side.RECEIVER, ALICE, "t1")
        bob = self.start(BOB, store=store)
        self.say_as(ALICE, BOB, request("t1", by=ALICE))
        self.done(bob.accept(key))
        self.stop(bob)
        self.parties[BOB].trust(f"{ALICE} removed")
        unproved = StaticPeers({ALICE: self.network.client_endpoint(str(ALICE))})
        bob = self.start(BOB, self.peers_of(BOB, unproved=unproved), store)
        self.advance(10)
        self.assertIsNotNone(self.task(bob, key).held_at)

    def listen_plainly(self, node: Node) -> None:
        """Listen without TLS, too."""
        port = self.successResultOf(self.network.server_endpoint("plain").listen(node.factory))
        self.addCleanup(port.stopListening)

    def ask_plainly(self, message: SubmitRequest | TaskStatusUpdate) -> Any:
        """The answer to one message there."""
        factory = RawFactory()
        self.network.client_endpoint("plain").connect(factory)
        self.network.flush()
        factory.peers[0].send(message.to_frame().encode())
        self.network.flush()
        factory.peers[0].close()
        self.network.flush()
        return factory.peers[0].answers[0]


class RefusalTests(MutualCase):
    """Certificates that one end does not take."""

    def refused(self, alice: Node) -> SubmittedTask:
        """Submit, and see that it cannot be sent, and is not tried every second."""
        handle, _ = self.submit(alice)
        self.assertEqual(self.attempts(alice, handle.key), 1)
        self.advance(60)
        self.assertEqual(self.attempts(alice, handle.key), 1)
        [delivery] = self.owed(alice, handle.key)
        assert delivery.ready_at is not None
        waits = delivery.ready_at.timestamp() - (self.clock.seconds() - 60)
        self.assertAlmostEqual(waits, REFUSED_DELAY_SECONDS, delta=2)
        other, _ = self.submit(alice)  # of which nobody has to find out again that it cannot be sent
        self.advance(60)
        self.assertEqual(self.attempts(alice, other.key), 0)
        self.done(alice.cancel(other.key))
        self.assertIn(BOB, alice.refusals)
        story = self.done(alice.story(handle.key))
        self.assertIn(alice.refusals[BOB], story.deliveries[0].last_error)
        return handle

    def test_by_the_peer(self) -> None:
        """One that the peer refuses is tried after minutes, or at once when somebody says that it was settled."""
        self.parties[BOB].trust()
        alice, bob = self.start(ALICE), self.start(BOB)
        handle = self.refused(alice)
        self.assertIn(f"{BOB} refuses the own certificate", alice.refusals[BOB])
        self.assertIn(self.parties[ALICE].pin, alice.refusals[BOB])
        self.meet(BOB, ALICE)
        alice.reload()
        self.network.flush()
        self.assertEqual((self.owed(alice, handle.key), dict(alice.refusals)), ([], {}))
        self.assertEqual(len(self.tasks(bob)), 1)

    def test_of_the_peer(self) -> None:
        """One that this end refuses likewise; by itself it is tried again every few minutes."""
        self.meet(ALICE, CAROL)
        self.parties[ALICE].trust(f"{BOB} {self.parties[CAROL].pin} {BOB}")
        alice, bob = self.start(ALICE), self.start(BOB)
        handle = self.refused(alice)
        self.assertIn(f"{BOB} shows the key {self.parties[BOB].pin}, but is trusted by", alice.refusals[BOB])
        self.meet(ALICE, BOB)
        self.advance(REFUSED_DELAY_SECONDS - 122, step=2)
        self.assertEqual(self.attempts(alice, handle.key), 1)
        self.advance(6, step=2)
        self.assertEqual(self.owed(alice, handle.key), [])
        self.assertEqual(len(self.tasks(bob)), 1)
        self.assertEqual(dict(alice.refusals), {})

    def test_told_once(self) -> None:
        """However many messages wait, the log has one line that asks somebody to act, until the reason is another."""
        self.parties[BOB].trust()
        alice, _ = self.start(ALICE), self.start(BOB)
        told: list[Any] = []
        self.patch(type(alice._delivery._log), "error", lambda log, message, **fields: told.append(fields["error"]))
        for _ in range(3):
            self.submit(alice)
        self.advance(2 * REFUSED_DELAY_SECONDS, step=5)
        self.assertEqual(len(told), 1, told)
        self.assertIsInstance(told[0], CertificateRefused)

    def test_unreachable_is_no_refusal(self) -> None:
        """A peer that nobody answers for is tried again soon, and is no longer said to refuse."""
        self.parties[BOB].trust()
        alice, bob = self.start(ALICE), self.start(BOB)
        self.refused(alice)
        self.stop(bob)
        alice.reload()
        self.network.flush()
        self.assertEqual(dict(alice.refusals), {})

    def test_what_waits_behind(self) -> None:
        """One refusal is the answer to all that wait for a connection; none of them dials again."""
        self.parties[BOB].trust()
        self.start(BOB)
        client = Client(self.peers_of(ALICE).endpoint(BOB), ALICE, self.clock)
        sent = [client.send_status_update(f"t{number}", "ACCEPTED", "") for number in range(3)]
        self.network.flush()
        for deferred in sent:
            self.failureResultOf(deferred, CertificateRefused)
        self.assertEqual(self.network.dials, {str(BOB): 1})
        self.done(client.close())


class ReloadTests(MutualCase):
    """Trust that changes while the nodes run."""

    def test_removal_cuts(self) -> None:
        """A peer that loses trust loses its connections at once, those that it made and those that were made to it."""
        alice, bob = self.start(ALICE), self.start(BOB)
        handle, key = self.submit(alice)
        self.done(bob.accept(key))
        self.network.flush()
        self.assertEqual((len(alice.factory.connections), len(bob.factory.connections)), (1, 1))
        self.parties[BOB].trust()
        bob.reload()
        self.network.flush()
        self.assertEqual((len(alice.factory.connections), len(bob.factory.connections)), (0, 0))
        self.assertEqual(list(bob.peers.addresses()), [])
        self.failed(bob.submit(ALICE, "work"), UnknownPeer)
        self.assertIn("is not trusted", str(self.failed(bob.execute(key), IllegalTransition)))
        self.meet(BOB, ALICE)
        bob.reload()
        self.advance(1)
        self.done(bob.execute(key))
        self.assertEqual(self.task(alice, handle.key).status, TaskStatus.EXECUTING)

    def test_removal_of_what_waits(self) -> None:
        """What a peer has sent, and the node has not looked at, is not acted upon once trust has ended."""
        alice, bob = self.start(ALICE), self.start(BOB)
        bob.factory.max_outstanding = 1
        handle = self.done(bob.submit(ALICE, "work"))
        find, asked = bob.store.find, []

        def find_later(*arguments: Any) -> Deferred[list[Task]]:
            asked.append(found := Deferred[list[Task]]())
            return found.addCallback(lambda _: find(*arguments))

        self.patch(bob.store, "find", find_later)
        accepted = TaskStatusUpdate(handle.task_id, "ACCEPTED", "", ack=True)
        self.say_as(ALICE, BOB, accepted, results(handle.task_id, ack=True))
        self.parties[BOB].trust()
        bob.reload()
        self.network.flush()
        self.assertEqual(len(asked), 1)
        asked[0].callback([])
        self.network.flush()
        self.assertEqual(self.task(bob, handle.key).status, TaskStatus.ACCEPTED)
        self.assertEqual((self.scores(bob), self.scores(alice)), ({}, {}))
        self.assertEqual((bob.factory.connections, bob.factory.unfinished), (set(), set()))

    def test_removal_of_what_is_read(self) -> None:
        """Nor is a large message that is being read by then."""
        bob = self.start(BOB)
        handle = self.done(bob.submit(ALICE, "work"))
        reading: Deferred[None] = Deferred()
        self.patch(server, "do_elsewhere", lambda _, size, call: reading.addCallback(lambda _: call()))
        self.say_as(ALICE, BOB, results(handle.task_id, "x" * LARGE_BYTES))
        self.parties[BOB].trust()
        bob.reload()
        self.network.flush()
        self.assertEqual(len(bob.factory.unfinished), 1)
        reading.callback(None)
        self.network.flush()
        self.assertEqual((self.task(bob, handle.key).result_file, bob.factory.unfinished), ("", set()))

    def test_request_under_way(self) -> None:
        """What was under way on a connection that is cut may have arrived: it vanishes, it is not refused."""
        alice, bob = self.start(ALICE), self.start(BOB)
        self.submit(alice)
        peer = self.say_as(ALICE, BOB, request("t1", by=ALICE))
        self.parties[BOB].trust()
        bob.reload()
        self.network.flush()
        assert peer.lost is not None
        self.assertFalse(peer.lost.check(CertificateRefused, ConnectionAborted))

    def test_broken(self) -> None:
        """A reload that fails says why, and leaves all as it was."""
        alice, bob = self.start(ALICE), self.start(BOB)
        self.parties[BOB].trust("nonsense")
        self.assertIn("line 1", str(self.assertRaises(ConfigurationError, bob.reload)))
        handle, _ = self.submit(alice)
        self.assertEqual(self.owed(alice, handle.key), [])

    def test_moved(self) -> None:
        """Where a peer lives is looked up at each dial; without an endpoint it is unreachable, with a hint."""
        alice = self.start(ALICE)
        self.parties[ALICE].trust(f"{BOB} {self.parties[BOB].pin}")
        alice.reload()
        connecting = alice.peers.endpoint(BOB).connect(RawFactory())
        error = self.failed(connecting, PeerUnreachable)
        self.assertIn(f"`tasksubmit trust add {BOB} {self.parties[BOB].pin} ENDPOINT`", str(error))

    def test_endpoints_of_options(self) -> None:
        """What the options say of where a peer lives goes before what the file says."""
        peers = self.peers_of(ALICE, endpoints={BOB: self.network.client_endpoint("elsewhere")})
        self.failed(peers.endpoint(BOB).connect(RawFactory()), Exception)
        self.assertEqual(self.network.dials, {"elsewhere": 1})

    def test_no_endpoint(self) -> None:
        """An endpoint of the file that no parser understands is an error of that peer alone."""

        def dial(text: str) -> Any:
            raise ValueError("Unknown endpoint type")

        peers = MutualTLS(self.parties[ALICE].credentials, dial, self.clock, lambda: self.wall)
        error = self.failed(peers.endpoint(BOB).connect(RawFactory()), PeerUnreachable)
        self.assertIn("which is no endpoint: Unknown endpoint type", str(error))

    def test_expiry(self) -> None:
        """The own certificate's end is told with the status and in the log, once it is near."""
        party = self.parties[ALICE]
        peers = self.peers_of(ALICE)
        warned: list[str] = []
        self.patch(type(peers._log), "warn", lambda log, message, **fields: warned.append(fields["what"]))
        peers.warn_of_expiry()
        self.assertEqual((peers.credential().fingerprint, peers.credential().warning, warned), (party.pin, "", []))
        party.use(make_certificate(party.key, str(ALICE), now(), 10 * DAY))
        peers.reload()
        self.assertIn("run `tasksubmit renew`", peers.credential().warning)
        self.assertEqual(warned, [peers.credential().warning])

    def test_no_files_left(self) -> None:
        """A directory that is gone changes nothing for a node that runs, but for the reload that fails."""
        alice, _ = self.start(ALICE), self.start(BOB)
        shutil.rmtree(self.parties[ALICE].directory)
        self.assertRaises(ConfigurationError, alice.reload)
        handle, _ = self.submit(alice)
        self.assertEqual(self.owed(alice, handle.key), [])
