"""TLS over real sockets: two nodes in processes of their own, programs that are not ours, and a foreign application."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import endpoints, reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from typing_extensions import override

from tasksubmit.errors import CertificateRefused
from tasksubmit.tls.endpoints import admitted_name
from tasksubmit.tls.identity import dns_name, make_certificate
from tests.integration.test_twistd import CHECKOUT, SECONDS, TWISTD
from tests.processes import run, start, until
from tests.tiers import tier
from tests.tls.support import ALICE, BOB, CAROL, DAY, Authority, Party, now, vouched

clock: Any = reactor


class Echo(Protocol):
    """Says who is there, then what it hears: an application that knows nothing of this project."""

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(f"{admitted_name(self.transport)}\n".encode())

    @override
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


class Once(Protocol):
    """Says something, and keeps what it hears until ``count`` bytes are here or the end is."""

    def __init__(self, say: bytes, count: int) -> None:
        self.say, self.count, self.heard = say, count, b""
        self.done: Deferred[bytes] = Deferred()

    @override
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.say)

    @override
    def dataReceived(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) >= self.count:
            assert self.transport is not None
            self.transport.loseConnection()

    @override
    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.done.callback(self.heard) if self.heard else self.done.errback(reason)


class ForeignCase(TestCase):
    """Alice dials Bob, who listens with an endpoint string."""

    timeout = SECONDS

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.alice, self.bob = Party(ALICE, self.directory / "alice"), Party("bob.example", self.directory / "bob")
        self.alice.trust(f"bob.example {self.bob.pin}")
        self.bob.trust(f"{ALICE} {self.alice.pin}")

    async def listen(self, inner: str = "tcp:0:interface=127.0.0.1", options: str = "") -> int:
        """Listen; gives the port."""
        options = options or f"directory={self.bob.directory}"
        endpoint = serverFromString(clock, f"mtls:{inner}:{options}")
        port: IListeningPort = await endpoint.listen(Factory.forProtocol(Echo))
        self.addCleanup(port.stopListening)
        return int(getattr(port.getHost(), "port", 0))

    async def dial(self, inner: str, say: bytes = b"hello", options: str = "") -> bytes:
        """What Bob answers."""
        options = options or f"directory={self.alice.directory}"
        once = Once(say, len(say) + len(ALICE) + 1)
        factory = Factory()
        factory.protocol = lambda: once
        await clientFromString(clock, f"mtls:{inner}:peer=bob.example:{options}").connect(factory)
        return await once.done


class StringTests(ForeignCase):
    """``mtls:`` in front of other endpoints, for any program."""

    async def test_tcp(self) -> None:
        """Both ends of an application are told who is there; much goes through as little does."""
        port = await self.listen()
        for say in (b"hello", b"x" * 1_000_000):
            self.assertEqual(await self.dial(f"tcp:127.0.0.1:{port}", say), ALICE.encode() + b"\n" + say)

    async def test_unix(self) -> None:
        """Any other endpoint can be inside, with its own options."""
        path = Path(tempfile.mkdtemp(prefix="tasksubmit-")) / "a:b=c"
        self.addCleanup(shutil.rmtree, path.parent)
        quoted = str(path).replace(":", "\\:").replace("=", "\\=")
        await self.listen(f"unix:{quoted}:mode=600")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(await self.dial(f"unix:{quoted}"), ALICE.encode() + b"\nhello")

    async def test_systemd(self) -> None:
        """A socket that systemd opened is one of them."""
        opened = socket.create_server(("127.0.0.1", 0))
        port = opened.getsockname()[1]
        self.patch(endpoints._SystemdParser, "_sddaemon", ListenFDs([opened.detach()]))  # the endpoint closes it
        await self.listen("systemd:domain=INET:index=0")
        self.assertEqual(await self.dial(f"tcp:127.0.0.1:{port}"), ALICE.encode() + b"\nhello")

    async def test_files(self) -> None:
        """The files may be named one by one; with a CA nobody need be listed."""
        authority = Authority()
        for party, other in ((self.alice, "bob.example"), (self.bob, ALICE)):
            vouched(authority, party)
            party.trust_authority(authority)
            party.trust(f"{other} ca")
        bob, alice = (
            ":".join(f"{name}={party.directory / file}" for name, file in _FILES) for party in (self.bob, self.alice)
        )
        port = await self.listen(options=bob)
        self.assertEqual(await self.dial(f"tcp:127.0.0.1:{port}", options=alice), ALICE.encode() + b"\nhello")

    async def test_refused(self) -> None:
        """A refusal reaches the dialler's application as what it is, also when it has said something already."""
        port = await self.listen()
        self.bob.trust()
        error = await self.assertFailure(Deferred.fromCoroutine(self.dial(f"tcp:127.0.0.1:{port}")), CertificateRefused)
        self.assertIn("bob.example refuses the own certificate", str(error))
        say = b"x" * 1_000_000
        await self.assertFailure(Deferred.fromCoroutine(self.dial(f"tcp:127.0.0.1:{port}", say)), CertificateRefused)

    def test_wrong(self) -> None:
        """A string that says too little, or too much, is refused with what it needs."""
        where = f"directory={self.bob.directory}"
        for parse, text, words in (
            (serverFromString, "mtls:tcp:0", "needs either directory=DIR, or certificate=FILE"),
            (serverFromString, f"mtls:tcp:0:{where}:key=k", "needs either"),
            (serverFromString, "mtls:tcp:0:certificate=c:key=k", "one of trust=FILE and ca=FILE"),
            (serverFromString, "mtls:tcp:0:certificate=c:trust=t", "key=FILE"),
            (serverFromString, f"mtls:nonsense:0:{where}", "nonsense"),
            (serverFromString, f"mtls:{where}", ""),
            (clientFromString, f"mtls:tcp:a:1:{where}", "needs peer=NAME"),
        ):
            with self.subTest(text=text):
                self.assertIn(words, str(self.assertRaises((ValueError, TypeError), parse, clock, text)))


_FILES = (("certificate", "certificate.pem"), ("key", "key.pem"), ("trust", "trust"), ("ca", "ca.pem"))


class PythonTests(ForeignCase):
    """Python's own TLS, which has its own ideas of everything."""

    def context(self, party: Party | None) -> ssl.SSLContext:
        """A client that shows somebody's certificate, and takes any."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if party is not None:
            context.load_cert_chain(party.directory / "certificate.pem", party.directory / "key.pem")
        return context

    async def ask(self, context: ssl.SSLContext, port: int) -> tuple[bytes, ssl.SSLSession | None]:
        """Say something, and give what comes back, and the session that there was."""

        def talk() -> tuple[bytes, ssl.SSLSession | None]:
            with socket.create_connection(("127.0.0.1", port), SECONDS) as plain, context.wrap_socket(plain) as secure:
                secure.sendall(b"hello")
                heard = b""
                while not heard.endswith(b"hello"):
                    more = secure.recv(1000)
                    if not more:
                        break
                    heard += more
                session = secure.session
                secure.unwrap()  # after a clean end a session could be taken up again
                return heard, session

        return await deferToThread(talk)

    async def refused(self, context: ssl.SSLContext, port: int) -> str:
        """The error of a client that is refused."""
        error: Any = await self.assertFailure(Deferred.fromCoroutine(self.ask(context, port)), OSError)
        return str(error)

    async def test_admitted(self) -> None:
        """Whoever has a trusted key is admitted, with TLS 1.3 and 1.2; no session can be taken up again."""
        port = await self.listen()
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
            context = self.context(self.alice)
            context.minimum_version = context.maximum_version = version
            heard, session = await self.ask(context, port)
            self.assertEqual(heard, ALICE.encode() + b"\nhello")
            if version is ssl.TLSVersion.TLSv1_2:
                self.assertFalse(session is not None and session.has_ticket)

    async def test_no_resumption(self) -> None:
        """A client that brings back what it was given is judged anew: once its trust is gone it stays out."""
        port = await self.listen()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = self.context(self.alice)
            context.minimum_version = context.maximum_version = version
            self.bob.trust(f"{ALICE} {self.alice.pin}")
            await self.bring_back(context, port)

    async def bring_back(self, context: ssl.SSLContext, port: int) -> None:
        """Connect with what an earlier connection gave, then once more without being trusted."""
        _, session = await self.ask(context, port)

        def again() -> bool:
            with (
                socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
                context.wrap_socket(plain, session=session) as secure,
            ):
                secure.sendall(b"hello")
                secure.recv(1000)
                return bool(secure.session_reused)

        self.assertFalse(await deferToThread(again))
        self.bob.trust()
        error: Any = await self.assertFailure(deferToThread(again), OSError)
        self.assertIn("unknown ca", str(error).lower())

    async def test_refused(self) -> None:
        """Who is not to be admitted is told by the alerts that TLS has for it, whichever version."""
        port = await self.listen()
        stranger = Party(ALICE, self.directory / "stranger")  # claims to be Alice
        expired = Party(CAROL, self.directory / "expired")
        expired.use(make_certificate(expired.key, CAROL, now() - 9 * DAY, DAY))
        early = Party(CAROL, self.directory / "early")
        early.use(make_certificate(early.key, CAROL, now() + 9 * DAY))
        self.bob.trust(f"{ALICE} {self.alice.pin}", f"{CAROL} {expired.pin},{early.pin}")
        for party, words in (
            (None, "certificate"),
            (stranger, "unknown ca"),
            (expired, "expired"),
            (early, "certificate"),
        ):
            for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
                with self.subTest(words=words, version=version):
                    context = self.context(party)
                    context.minimum_version = context.maximum_version = version
                    told = (await self.refused(context, port)).lower().replace("_", " ")
                    if party is not None or version is ssl.TLSVersion.TLSv1_3:
                        self.assertIn(words, told)

    async def test_old(self) -> None:
        """TLS 1.1 is refused, and so are ciphers that keep no secret once a key is lost."""
        port = await self.listen()
        old = self.context(self.alice)
        old.set_ciphers("ALL:@SECLEVEL=0")
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        await self.refused(old, port)
        weak = self.context(self.alice)
        weak.maximum_version = ssl.TLSVersion.TLSv1_2
        weak.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA")
        await self.refused(weak, port)

    async def test_without_tls(self) -> None:
        """Who speaks no TLS gets no answer of the application's."""
        port = await self.listen()

        def talk() -> bytes:
            with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
                return plain.recv(1000)

        self.assertNotIn(b"None", await deferToThread(talk))

    async def test_as_a_server(self) -> None:
        """Our dialler takes a server of Python's if it has the trusted key, and tells one without TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.bob.directory / "certificate.pem", self.bob.directory / "key.pem")
        context.load_verify_locations(self.alice.directory / "certificate.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]

            def serve() -> None:
                with context.wrap_socket(listening.accept()[0], server_side=True) as secure:
                    secure.sendall(ALICE.encode() + b"\n" + secure.recv(1000))

            serving = deferToThread(serve)
            self.assertEqual(await self.dial(f"tcp:127.0.0.1:{port}"), ALICE.encode() + b"\nhello")
            await serving
            self.assertEqual(dns_name("bob.example"), "bob.example")

            def hang_up() -> None:
                with listening.accept()[0] as plain:
                    plain.recv(1000)
                    plain.sendall(b"220 mail.example ESMTP\r\n")

            hanging_up = deferToThread(hang_up)
            error: Any = await self.assertFailure(Deferred.fromCoroutine(self.dial(f"tcp:127.0.0.1:{port}")), Exception)
            self.assertIn("speak TLS", str(error))
            await hanging_up


class TwoNodesTests(SynchronousTestCase):
    """Two twistd processes that were set up by their operators, with nothing but commands."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tasksubmit-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.environ = {name: text for name, text in os.environ.items() if not name.startswith("TASKSUBMIT_")}
        self.environ |= {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1"}
        self.ports: dict[str, int] = {}
        self.addresses = {"a": ALICE, "b": BOB}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for name, address in self.addresses.items():
            self.command(name, "init", "--address", address)

    def command(self, name: str, *arguments: str, exit_code: int = 0) -> Any:
        """The data of a command's answer, or its message."""
        done = run(
            [sys.executable, "-m", "tasksubmit", "--state-dir", name, "--json", *arguments],
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
        )
        self.assertEqual(done.returncode, exit_code, done.stdout + done.stderr)
        answer = json.loads(done.stdout)
        return answer["message"] if exit_code else answer["data"]

    def trust(self, name: str, other: str) -> Any:
        """Have one trust the other by its key."""
        pins = ",".join(self.command(other, "trust")["fingerprints"])
        return self.command(name, "trust", "add", self.addresses[other], pins, f"tcp:127.0.0.1:{self.ports[other]}")

    def start(self, name: str, *more: str) -> None:
        """Start a node that listens on every interface, and wait until it answers."""
        options = ["--address", self.addresses[name], "--state-dir", name, "--listen", "tcp:0", *more]
        log = (self.directory / f"{name}.log").open("w")
        self.processes[name] = start(
            self,
            [*TWISTD, "--nodaemon", f"--pidfile={name}.pid", "tasksubmit", *options],
            cwd=self.directory,
            env=self.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.until(lambda: "listening on UNIXAddress" in self.log(name))
        host, port = self.command(name, "status")["listening"][0].split()
        self.assertEqual(host, "0.0.0.0")
        self.ports[name] = int(port)

    def log(self, name: str) -> str:
        """What a node has said."""
        return (self.directory / f"{name}.log").read_text()

    def until(self, condition: Any) -> None:
        """Wait for something that other processes do."""
        until(condition, lambda: "\n".join(map(self.log, self.processes)))

    @tier("full")
    def test_life(self) -> None:
        """A whole task over TLS; then renewal, a new key, the loss of trust and its return, with both running."""
        self.start("a")
        self.start("b", "--accept", "all", "--executor", "process:tr a-z A-Z")
        for name, other in ("ab", "ba"):
            self.assertEqual(self.trust(name, other)["effect"], "now")
        self.assertEqual(self.command("a", "submit", BOB, "hello", "--wait")["result"]["text"], "HELLO")
        self.assertEqual(self.command("a", "status")["peers"][0]["problem"], "")

        before = self.command("b", "status")["certificate"]
        self.assertEqual(self.command("b", "renew", "--days", "10")["effect"], "now")
        after = self.command("b", "status")["certificate"]
        self.assertEqual(before["fingerprint"], after["fingerprint"])
        self.assertIn("`tasksubmit renew`", after["warning"])
        self.assertEqual(self.command("a", "submit", BOB, "renewed", "--wait")["result"]["text"], "RENEWED")

        self.command("b", "renew", "--next-key")
        self.trust("a", "b")
        self.command("b", "renew", "--switch")
        self.assertNotEqual(self.command("b", "status")["certificate"]["fingerprint"], before["fingerprint"])
        self.assertEqual(self.command("a", "submit", BOB, "new key", "--wait")["result"]["text"], "NEW KEY")
        self.command("a", "trust", "remove", BOB, before["fingerprint"])
        self.assertEqual(self.command("a", "submit", BOB, "old key gone", "--wait")["result"]["text"], "OLD KEY GONE")

        self.assertEqual(self.command("b", "status")["connections"], 1)
        self.assertEqual(self.command("b", "trust", "remove", ALICE)["effect"], "now")
        self.assertEqual(self.command("b", "status")["connections"], 0)
        task = self.command("a", "submit", BOB, "refused", "--timeout", "0")["task_id"]
        self.until(lambda: self.command("a", "status")["peers"][0]["problem"])
        self.assertIn("refuses the own certificate", self.command("a", "why", task)["deliveries"][0]["last_error"])
        self.assertIn("nobody who is trusted has the key", self.log("b"))
        self.trust("b", "a")
        self.processes["a"].send_signal(signal.SIGHUP)
        self.assertEqual(self.command("a", "wait", task)["status"], "SUCCEEDED")
        self.assertIn("SIGHUP: keys and trust were read again", self.log("a"))
        for name in "ab":
            self.assertNotIn("Traceback", self.log(name))

    @tier("full")
    def test_trust_removed_from_what_waits(self) -> None:
        """No task is begun while its submitter is not trusted, nor with --deny after a restart; later all in order."""
        self.start("a")
        self.start("b", "--accept", "all")
        for name, other in ("ab", "ba"):
            self.trust(name, other)
        tasks = [self.command("a", "submit", BOB, text)["task_id"] for text in ("one", "two", "three")]

        def queued() -> list[str]:
            return [task["task_id"] for task in self.command("b", "queue")]

        self.until(lambda: queued() == tasks)
        self.command("b", "trust", "remove", ALICE)
        self.assertIn("the queue is empty", self.command("b", "execute", exit_code=1))
        self.until(lambda: self.command("b", "status")["held"] == 3)
        self.assertIn("not trusted", self.command("b", "why", tasks[0])["sentence"])
        self.assertIn("held", self.command("b", "execute", tasks[0], exit_code=1))

        self.processes["b"].terminate()
        self.processes["b"].wait()
        self.trust("b", "a")
        self.start("b", "--accept", "all", "--deny", ALICE)
        self.assertIn("the queue is empty", self.command("b", "execute", exit_code=1))
        self.processes["b"].terminate()
        self.processes["b"].wait()
        self.start("b", "--accept", "all")
        self.until(lambda: queued() == tasks)
        self.assertEqual(self.command("b", "execute")["task_id"], tasks[0])

    @tier("full")
    def test_guards(self) -> None:
        """A key that others can read, a half of an identity, and a peer without a key stop the start, with one line."""
        (self.directory / "a/trust").touch(0o600)
        for prepare, words in (
            (lambda: (self.directory / "a/key.pem").chmod(0o644), "others may read the private key"),
            (lambda: (self.directory / "a/key.pem").unlink(), "key.pem cannot be read"),
            (lambda: (self.directory / "a/certificate.pem").unlink(), "certificate.pem cannot be read"),
        ):
            prepare()
            self.assertIn(words, self.refused("--listen", "tcp:0"))
            self.assertIn(words, self.refused("--listen", "tcp:0:interface=127.0.0.1"))  # no way back to plain text
        shutil.rmtree(self.directory / "a")
        self.assertIn("tasksubmit --state-dir", self.refused("--listen", "tcp:0"))
        self.command("a", "init", "--address", ALICE)
        told = self.refused("--listen", "tcp:0", "--peer", f"{BOB}=tcp:127.0.0.1:1")
        self.assertIn(f"`tasksubmit trust add {BOB} sha256:... tcp:127.0.0.1:1`", told)

    def refused(self, *options: str) -> str:
        """The one line of a node that does not start."""
        command = [*TWISTD, "--nodaemon", "tasksubmit", "--address", ALICE, "--state-dir", "a", *options]
        done = run(command, cwd=self.directory, env=self.environ, capture_output=True)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        return done.stderr
