"""The verbs for keys and trust, with a node in memory and without one."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from typing_extensions import override

from tasksubmit.cli import commands
from tasksubmit.cli.control import Control, NodeUnreachable
from tasksubmit.node.mutual import MutualTLS
from tasksubmit.stores.disk import lock
from tasksubmit.stores.sqlite import LOCK
from tasksubmit.tls.identity import make_key, pin_of
from tests.cli import harness
from tests.cli.harness import CommandTestCase, Done, MemorySession
from tests.web.harness import OTHER, OWN, PEER

T = TypeVar("T")

PINS = [pin_of(make_key().public_key()) for _ in range(3)]


class LonelySession(MemorySession):
    """Finds no node."""

    @override
    def ask(self, work: Callable[[Control], Awaitable[T]]) -> T:
        raise NodeUnreachable("no node")


class IdentityCase(CommandTestCase):
    """Commands in a state directory."""

    @override
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        super().setUp()

    @override
    def run_command(self, *arguments: str, **options: Any) -> Done:
        return super().run_command("--state-dir", str(self.directory), *arguments, **options)

    def init(self) -> str:
        """Make a key; gives its fingerprint."""
        pin: str = self.data("init", "--address", str(OWN))["fingerprints"][0]
        return pin


class OfflineTests(IdentityCase):
    """No node runs."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.patch(harness, "MemorySession", LonelySession)

    def test_init(self) -> None:
        """A new key is told as what the operators of peers have to run; a second one is refused."""
        text = self.ok("init", "--address", str(OWN))
        line = self.ok("trust")
        self.assertRegex(line, rf"\Atasksubmit trust add {OWN} sha256:\S{{44}} tcp:HOST:PORT\n\Z")
        self.assertIn(f"  $ {line}", text)
        self.assertIn("is there already", self.failed("init", "--address", str(OWN)))
        self.assertIn("is not an address like", self.failed("init", "--address", "bob"))

    def test_init_of_a_running_node(self) -> None:
        """Keys that are made while the node runs hold from its next start on, and this is said."""
        self.directory.mkdir(mode=0o700)
        held = lock(self.directory / LOCK)
        try:
            text = self.ok("init", "--address", str(OWN))
        finally:
            os.close(held)
        self.assertIn("the running node was started without keys, and has to be started again", text)

    def test_unsaid_directory(self) -> None:
        """Keys are not made wherever somebody happens to be because a variable was not set."""
        done = self.run_command("--state-dir", "", "init", "--address", str(OWN))
        self.assertEqual(done.exit_code, 2)
        self.assertIn("--state-dir': it is empty", done.stderr)

    def test_nothing_there(self) -> None:
        """Without a key there is nothing to print or renew, and whoever asks is told where it was looked for."""
        for command in (("trust",), ("renew",), ("renew", "--next-key")):
            self.assertIn(str(self.directory), self.failed(*command))
        self.directory.mkdir(parents=True)
        for command in (("trust",), ("renew",), ("renew", "--next-key")):
            self.assertIn("has no key of the node's own yet: `tasksubmit init`", self.failed(*command))

    def test_trust(self) -> None:
        """Peers are added, listed and removed; each change says from when on it holds."""
        self.init()
        self.assertEqual(self.ok("trust", "list"), "nobody is trusted\n")
        text = self.ok("trust", "add", str(PEER), PINS[0], "tcp:b.example:1")
        self.assertEqual(
            text,
            f"{PEER} is trusted by {PINS[0]}, and reached at tcp:b.example:1; no node runs here, and it holds from the "
            "start on\n",
        )
        self.ok("trust", "add", str(PEER), PINS[1])
        self.assertIn("no CA is known yet: put its", self.ok("trust", "add", str(OTHER), f"{PINS[2]},ca"))
        expected = [
            {"address": str(PEER), "proofs": PINS[:2], "endpoint": "tcp:b.example:1"},
            {"address": str(OTHER), "proofs": [PINS[2], "ca"], "endpoint": ""},
        ]
        self.assertEqual(self.data("trust", "list"), expected)
        self.assertEqual(len(self.ok("trust", "list").splitlines()), 5)
        (self.directory / "ca.pem").touch(0o600)
        self.assertFalse(self.data("trust", "add", str(OTHER), "ca", "tcp:c.example:1")["lacks_ca"])
        self.assertIn(f"{PEER} is trusted by {PINS[1]}", self.ok("trust", "remove", str(PEER), PINS[0]))
        self.assertIn(f"{PEER} is not trusted any more", self.ok("trust", "remove", str(PEER)))
        self.assertEqual(self.data("trust", "remove", str(OTHER))["peer"], None)
        self.assertEqual(self.data("trust", "list"), [])
        lines = (self.directory / "trust").read_text().splitlines()
        self.assertEqual(lines[-2:], [f"{peer} removed" for peer in sorted(map(str, (PEER, OTHER)))])

    def test_refused(self) -> None:
        """What makes no sense changes nothing, and says what would."""
        own = self.init()
        self.ok("trust", "add", str(PEER), PINS[0])
        self.ok("trust", "add", str(OWN), own)  # a node may give work to itself
        before = self.data("trust", "list")
        for arguments, words in (
            (("add", "bob", PINS[1]), "is not an address"),
            (("add", str(PEER), "sha256:x"), "neither a fingerprint"),
            (("add", str(PEER), f"{PINS[1]},{PINS[2]}"), "may have 2 while it changes them"),
            (("add", str(OTHER), PINS[0]), "have the same key"),
            (("add", str(OTHER), own), "is the key of this node itself"),
            (("add", str(OTHER), PINS[1], "b.example:1"), "not an endpoint that Twisted understands"),
            (("remove", str(OTHER)), "is not trusted"),
            (("remove", str(PEER), PINS[1]), "is not trusted by"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(words, self.failed("trust", *arguments))
        self.assertEqual(self.data("trust", "list"), before)

    def test_deaf(self) -> None:
        """A node that runs but cannot be asked is not taken for one that does not run."""
        self.init()
        held = lock(self.directory / LOCK)
        try:
            error = self.failed("trust", "add", str(PEER), PINS[0], exit_code=3)
        finally:
            os.close(held)
        self.assertIn("the change is written, but the running node was not told", error)
        self.assertIn("SIGHUP", error)
        self.assertEqual(self.data("trust", "list")[0]["proofs"], [PINS[0]])
        self.assertIn("no node runs here", self.ok("trust", "remove", str(PEER)))

    def test_renew(self) -> None:
        """A new certificate has the same key, unless the next one is used, which is made before."""
        pin = self.init()
        self.assertIn(f"for the key {pin}; no node runs here", self.ok("renew"))
        self.assertIn("there is no next key", self.failed("renew", "--switch"))
        text = self.ok("renew", "--next-key")
        both = self.data("trust")["fingerprints"]
        self.assertEqual(both[0], pin)
        self.assertIn(f"made the next key, {both[1]}", text)
        self.assertIn(f"$ tasksubmit trust add {OWN} {pin},{both[1]} tcp:HOST:PORT", text)
        self.assertEqual(self.data("renew", "--switch")["fingerprint"], both[1])
        self.assertEqual(self.data("trust")["fingerprints"], [both[1]])
        self.assertEqual(self.run_command("renew", "--switch", "--next-key").exit_code, 2)


class RunningTests(IdentityCase):
    """A node runs, and was started with keys."""

    @property
    def options(self) -> Mapping[str, Any]:  # type: ignore[override]
        """The node's authenticator has the keys of the directory."""
        from tests.tls.support import Party

        party = Party(str(OWN), self.directory)
        self.pin = party.pin
        self.mutual = MutualTLS(party.credentials, lambda text: None, self.clock, lambda: 0.0)  # type: ignore[arg-type,return-value]
        return MappingProxyType({"authenticator": self.mutual})

    def test_taken_up(self) -> None:
        """The node takes up a change at once, and tells of it."""
        text = self.ok("trust", "add", str(PEER), PINS[0])
        self.assertIn("; the running node has taken it up\n", text)
        self.assertEqual(self.mutual.proofs(PEER), (PINS[0],))
        peers = {peer["address"]: peer["proofs"] for peer in self.data("peers")}
        self.assertEqual(peers, {str(PEER): [PINS[0]], str(OTHER): []})
        status = self.ok("status")
        self.assertIn(f"certificate  {self.pin}\n             good until 20", status)
        self.assertNotIn("warning", status)
        self.assertIn(f"{PEER}  no    key", status)
        self.ok("trust", "remove", str(PEER))
        self.assertEqual(self.mutual.proofs(PEER), ())

    def test_cannot_be_taken_up(self) -> None:
        """A file that the node cannot read is told with the command; the node goes on as before."""
        (self.directory / "certificate.pem").write_bytes(b"")
        self.assertIn("does not hold certificates", self.failed("reload"))
        self.assertIn("put it right", self.failed("trust", "add", str(PEER), PINS[0]))


class OtherTests(IdentityCase):
    """Another node runs, and answers."""

    def test_other(self) -> None:
        """A node that was told of what is not its own is not taken for the one that had to be told."""
        self.ok("init", "--address", str(OTHER))
        error = self.failed("trust", "add", str(PEER), PINS[0])
        self.assertIn(f"is another node, {OWN}", error)
        self.assertIn(f"the --control of {OTHER}", error)


class RestartTests(IdentityCase):
    """A node runs that was started without keys."""

    def test_restart(self) -> None:
        """It is said that the node has to be started again."""
        self.init()
        self.assertIn("has to be started again", self.ok("trust", "add", str(PEER), PINS[0]))
        self.assertIn("has to be started again", self.ok("renew"))


class HelpTests(IdentityCase):
    """What the verbs say of themselves."""

    def test_every_verb_is_described(self) -> None:
        """The new verbs are listed with what they do."""
        text = self.ok("--help")
        for verb in ("init", "renew", "trust", "status", "reload"):
            self.assertRegex(text, rf"\n  {verb} +[A-Z]")
            self.assertTrue(commands.tasksubmit.commands[verb].help)
