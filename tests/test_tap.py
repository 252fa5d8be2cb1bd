"""The twistd plugin: its options, and the service that it makes of them."""

from __future__ import annotations

import io
import os
import signal
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

from attrs import fields
from twisted.application.internet import TimerService
from twisted.application.service import Application, IServiceMaker, MultiService, Service
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, Logger, textFileLogObserver
from twisted.plugin import getPlugins
from twisted.python import usage
from twisted.python.runtime import seconds as wall_seconds
from twisted.trial.unittest import SynchronousTestCase
from typing_extensions import override
from zope.interface import implementer

from tasksubmit import __version__
from tasksubmit.errors import ConfigurationError, ListenError, StoreLocked, UnknownPeer
from tasksubmit.lifecycle.table import Lease
from tasksubmit.logs import json_observer, text_observer
from tasksubmit.node.clock import steady_seconds
from tasksubmit.node.listener import Listener
from tasksubmit.node.reloaded import Reloaded
from tasksubmit.node.retention import RetentionService
from tasksubmit.node.service import Node
from tasksubmit.settings import Settings
from tasksubmit.tap import AgentService, Options, Reload, make_node, makeService
from tasksubmit.testing.network import MemoryNetwork
from tasksubmit.tls.identity import dns_name, make_certificate
from tasksubmit.tls.keeping import change_trust, make_identity, renew
from tasksubmit.wire.address import Address
from tasksubmit.wire.messages import generate_task_id
from tests.tls.support import Authority, Party, now, vouched

OWN = "0:0000.0000.0001"
PEER = "0:0000.0000.0002"


class Runner(usage.Options):
    """What twistd's or twist's own options look like to those of a plugin."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.update(values)


class OptionsCase(SynchronousTestCase):
    """Ways to parse options."""

    def parse(self, *arguments: str, parent: usage.Options | None = None) -> Options:
        """The options after parsing these, besides an address and a state directory."""
        options = Options()
        options.parent = parent
        options.parseOptions(["--address", OWN, "--state-dir", "/srv/state", *arguments])
        return options

    def printed(self) -> io.StringIO:
        """What goes to standard output from now on."""
        stream = io.StringIO()
        self.patch(sys, "stdout", stream)
        return stream


class OptionsTests(OptionsCase):
    """The options."""

    def test_settings(self) -> None:
        """Each option becomes the setting of its name."""
        settings = self.parse(
            *("--listen", "tcp:1:interface=127.0.0.1", "--listen=unix:/a", "--insecure"),
            *("--peer", f"{PEER}=tcp:127.0.0.1:2", "--peer", "0:0000.0000.0003=unix:/b"),
            *("--control", "unix:/c", "--score-formula", "linear", "--accept-timeout", "1"),
            *("--queue-head-timeout", "2", "--answer-timeout", "3", "--tick", "4", "--idle-timeout", "5"),
            *("--max-description-bytes", "6", "--log-format", "json"),
            *("--accept", "all", "--executor", "process:cat", "--concurrency", "7"),
            *("--hold-limit", "8", "--stop-untrusted"),
        ).settings
        self.assertEqual((settings.accept, settings.executor, settings.concurrency), ("all", "process:cat", 7))
        self.assertEqual(settings.address, Address.parse(OWN))
        self.assertEqual(settings.listen, ("tcp:1:interface=127.0.0.1", "unix:/a"))
        self.assertEqual((settings.state_dir, settings.control), (Path("/srv/state"), "unix:/c"))
        self.assertTrue(settings.insecure)
        self.assertEqual([str(peer) for peer in settings.peer], [PEER, "0:0000.0000.0003"])
        self.assertEqual((settings.score_formula.value, settings.log_format), ("linear", "json"))
        self.assertEqual((settings.tick, settings.idle_timeout, settings.max_description_bytes), (4.0, 5.0, 6))
        limits = settings.timeouts
        seconds = [limit.total_seconds() for limit in (limits.accept_timeout, limits.queue_head_timeout)]
        seconds += [limits.answer_timeout.total_seconds(), limits.hold_limit.total_seconds()]
        self.assertEqual(seconds, [1, 2, 3, 8])
        self.assertTrue(settings.stop_untrusted)

    def test_defaults(self) -> None:
        """What is not given is as the settings have it."""
        self.assertEqual(self.parse().settings, Settings(address=Address.parse(OWN), state_dir=Path("/srv/state")))

    def test_file(self) -> None:
        """``--config`` gives what the options do not."""
        path = Path(self.mktemp())
        path.write_text("tick = 7\nidle-timeout = 8\n")
        settings = self.parse("--config", str(path), "--tick", "9").settings
        self.assertEqual((settings.tick, settings.idle_timeout), (9.0, 8.0))

    def test_help(self) -> None:
        """The help has every setting, with what it means."""
        text = " ".join(str(Options()).split())
        for setting in fields(Settings):
            self.assertIn(f"--{setting.name.replace('_', '-')}", text)
            if setting.name not in ("listen", "peer", "deny", "quarantine"):  # of which an option gives one at a time
                self.assertIn(" ".join(setting.metadata["help"].split()[:4]), text)
        for option in ("--config", "--check", "--version"):
            self.assertIn(option, text)
        self.assertIn("[default: 30d]", text)

    def test_no_working_directory(self) -> None:
        """A working directory that was removed matters to relative paths alone."""
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        directory = tempfile.mkdtemp()
        os.chdir(directory)
        os.rmdir(directory)
        options = Options()
        options.parseOptions(["--address", OWN, "--state-dir", "/srv/state"])
        self.assertEqual(options.load_again(), options.settings)
        error = self.assertRaises(usage.UsageError, Options().parseOptions, ["--address", OWN, "--state-dir", "a"])
        self.assertIn("--state-dir: ", str(error))
        self.assertIn("give an absolute path", str(error))

    def test_version(self) -> None:
        """``--version`` prints the version of this package and ends."""
        stream = self.printed()
        ended = self.assertRaises(SystemExit, Options().parseOptions, ["--version"])
        self.assertEqual((ended.code, stream.getvalue()), (0, f"tasksubmit {__version__}\n"))

    def test_check(self) -> None:
        """``--check`` says that all is well and ends, or refuses like any start."""
        stream = self.printed()
        ended = self.assertRaises(SystemExit, self.parse, "--check")
        self.assertEqual((ended.code, stream.getvalue()), (0, "tasksubmit: the configuration is fine\n"))
        self.assertRaises(usage.UsageError, self.parse, "--check", "--tick", "0")

    def test_wrong(self) -> None:
        """A wrong option is a usage error of one line that names it."""
        for arguments, *words in (
            (["--tick", "soon"], "--tick"),
            (["--nonsense"], "nonsense"),
            (["stray"], "unexpected argument 'stray'"),
            (["--listen", "tcp:11003"], "--listen tcp:11003", "--insecure"),
            (["--listen", "nonsense:1", "--insecure"], "--listen nonsense:1", "not an endpoint"),
            (["--listen", "tcp:ftp\0:interface=127.0.0.1"], "--listen", "not an endpoint"),
            (["--control", "tcp:80"], "--control tcp:80: the control API is for this machine alone"),
            (["--peer", f"{PEER}=nonsense:1"], f"--peer {PEER}=", "unknown endpoint type 'nonsense': the types are"),
            (["--config", "/nowhere"], "--config /nowhere"),
            (["--accept", "some"], "--accept", "expected manual or all"),
            (["--executor", "magic:x"], "--executor magic:x: there is no executor 'magic'", "manual, process, python"),
            (["--executor", "process:no-such-program"], "there is no program no-such-program (process:COMMAND["),
            (["--concurrency", "0"], "--concurrency"),
        ):
            with self.subTest(arguments=arguments):
                text = str(self.assertRaises(usage.UsageError, self.parse, *arguments))
                self.assertNotIn("\n", text)
                for word in words:
                    self.assertIn(word, text)

    def test_wrong_under_a_runner(self) -> None:
        """Under twistd a wrong option ends the process with that one line, instead of the whole help."""
        ended = self.assertRaises(SystemExit, self.parse, "--tick", "soon", parent=Runner())
        self.assertRegex(str(ended.code), r"\Atasksubmit: --tick: .*\(--help lists the options\)\Z")

    def test_no_address(self) -> None:
        """A node without an address is refused, with an example of one."""
        self.patch_environment()
        error = self.assertRaises(usage.UsageError, Options().parseOptions, [])
        self.assertIn("--address 0:0000.0000.0001", str(error))

    def patch_environment(self) -> None:
        """Make sure that nothing comes from the environment."""
        self.patch(sys.modules["tasksubmit.tap"].os, "environ", {"HOME": "/home/somebody"})


class JsonLogTests(OptionsCase):
    """``--log-format json``, whichever runner there is."""

    def test_twist(self) -> None:
        """Under twist it takes the place of twist's own observer."""
        runner = Runner(fileLogObserverFactory=None)
        self.parse("--log-format", "json", parent=runner)
        self.assertIs(runner["fileLogObserverFactory"], json_observer)

    def application(self, runner: Runner, *arguments: str) -> Any:
        """What twistd makes of the service."""
        application = Application("tasksubmit")
        makeService(self.parse(*arguments, parent=runner), MemoryReactorClock()).setServiceParent(application)
        return application

    def observed(self, runner: Runner) -> None:
        """The observer that twistd asks its application for observes something."""
        observer = self.application(runner, "--log-format", "json").getComponent(ILogObserver)
        observer({"log_format": "hello", "log_time": 0})
        vars(observer)["_outFile"].flush()
        if runner["logfile"]:
            vars(observer)["_outFile"].close()

    def test_twistd(self) -> None:
        """Under twistd it writes to the log file that twistd was told, or to standard output in the foreground."""
        path = Path(self.mktemp()).absolute()
        self.observed(Runner(logfile=str(path), nodaemon=False))
        self.assertIn('"message": "hello"', path.read_text())
        stream = self.printed()
        self.observed(Runner(logfile=None, nodaemon=True))
        self.assertIn('"message": "hello"', stream.getvalue())

    def test_text(self) -> None:
        """Without it both write the usual text, in which nothing is left that a terminal would obey."""
        runner = Runner(fileLogObserverFactory=textFileLogObserver)
        self.parse(parent=runner)
        self.assertIs(runner["fileLogObserverFactory"], text_observer)
        path = Path(self.mktemp()).absolute()
        observer = self.application(Runner(logfile=str(path), nodaemon=False)).getComponent(ILogObserver)
        observer({"log_format": "a\x1b[2Jb", "log_time": 0})
        vars(observer)["_outFile"].flush()
        self.assertRegex(path.read_text(), r"^[-0-9T:+]+ \[-#-\] a\\x1b\[2Jb\n$")
        vars(observer)["_outFile"].close()

    def test_log_file(self) -> None:
        """A log is its owner's alone, whatever the umask, also one that was there, and those that follow it."""
        new, old, of_twist = (Path(self.mktemp()).absolute() for _ in range(3))
        self.addCleanup(os.umask, os.umask(0))
        old.touch(0o666)
        for path in (new, old):
            observer = self.application(Runner(logfile=str(path), nodaemon=False)).getComponent(ILogObserver)
            file = vars(observer)["_outFile"]
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            file.rotate()
            self.assertEqual([one.stat().st_mode & 0o777 for one in (path, Path(f"{path}.1"))], [0o600, 0o600])
            file.close()
        with of_twist.open("a") as stream:
            self.parse(parent=Runner(fileLogObserverFactory=textFileLogObserver, logFile=stream))
        self.assertEqual(of_twist.stat().st_mode & 0o777, 0o600)

    def test_device(self) -> None:
        """A log that is no file is left as it is: others may need /dev/null."""
        changed: list[object] = []
        self.patch(os, "chmod", lambda path, mode: changed.append((path, mode)))
        mode = os.stat(os.devnull).st_mode & 0o777
        observer = self.application(Runner(logfile=os.devnull, nodaemon=False)).getComponent(ILogObserver)
        vars(observer)["_outFile"].close()
        self.assertIn(changed, ([], [(os.devnull, mode)]))
        self.parse(parent=Runner(fileLogObserverFactory=textFileLogObserver, logFile=sys.stdout))
        self.assertIn(changed, ([], [(os.devnull, mode)]))

    def test_short_ids(self) -> None:
        """Without keys no log has the whole id of a task; with keys it has."""
        task_id = generate_task_id()
        event = {"log_format": "task {task_id}", "task_id": task_id, "log_time": 0}
        keys = Party(OWN, Path(self.mktemp()))
        for state, expected in (("/srv/state", task_id[:8] + "..."), (str(keys.directory), task_id)):
            for log_format in ("text", "json"):
                given = ("--state-dir", state, "--control", "unix:/srv/c", "--log-format", log_format)
                runner = Runner(fileLogObserverFactory=textFileLogObserver)
                self.parse(*given, parent=runner)
                stream = io.StringIO()
                runner["fileLogObserverFactory"](stream)(event)
                path = Path(self.mktemp()).absolute()
                observer = self.application(Runner(logfile=str(path), nodaemon=False), *given).getComponent(
                    ILogObserver
                )
                observer(event)
                vars(observer)["_outFile"].close()
                for text in (stream.getvalue(), path.read_text()):
                    self.assertIn(f"task {expected}", text)
                    self.assertEqual(task_id in text, expected == task_id)

    def test_left_alone(self) -> None:
        """What writes neither of the two is the runner's own: twist's JSON, and twistd's way to the system's log."""
        runner = Runner(fileLogObserverFactory=None)
        self.parse(parent=runner)
        self.assertIsNone(runner["fileLogObserverFactory"])
        self.assertIsNone(self.application(Runner(syslog=True)).getComponent(ILogObserver))

    def test_rotation(self) -> None:
        """The signal that makes twistd begin a new log file still does."""
        self.addCleanup(signal.signal, signal.SIGUSR1, signal.signal(signal.SIGUSR1, signal.SIG_DFL))
        self.application(Runner(logfile=self.mktemp(), nodaemon=False))
        self.assertTrue(callable(signal.getsignal(signal.SIGUSR1)))


class ServiceTests(OptionsCase):
    """The service."""

    def test_plugin(self) -> None:
        """twistd finds the plugin under its name; it leads to the options and the service of this module."""
        [plugin] = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "tasksubmit"]
        self.assertIs(plugin.options, Options)
        self.assertIs(plugin.makeService, makeService)

    def test_service(self) -> None:
        """The service is a node and its control API, each listener called by its endpoint."""
        options = self.parse("--listen", "tcp:1:interface=127.0.0.1", "--listen", "unix:/a")
        service = makeService(options, MemoryReactorClock())
        assert isinstance(service, MultiService)
        node, control = service.services
        assert isinstance(node, Node)
        assert isinstance(control, Listener)
        self.assertEqual(service.name, "tasksubmit")
        self.assertEqual([one.description for one in node.listeners], ["tcp:1:interface=127.0.0.1", "unix:/a"])
        self.assertEqual(control.description, "unix:/srv/state/control.sock:mode=600")
        self.assertFalse(service.running)

    def test_nothing_is_touched(self) -> None:
        """Making the service makes no directory and opens nothing: that is for the start, when privileges are gone."""
        reactor = MemoryReactorClock()
        directory = tempfile.TemporaryDirectory()  # trial's own may be too deep for a socket
        self.addCleanup(directory.cleanup)
        state = Path(directory.name) / "state"
        options = Options()
        options.parseOptions(["--address", OWN, "--state-dir", str(state)])
        makeService(options, reactor)
        self.assertFalse(state.exists())
        self.assertEqual((reactor.tcpServers, reactor.unixServers), ([], []))

    def test_node(self) -> None:
        """The node has the address and the peers of the settings."""
        settings = self.parse("--peer", f"{PEER}=tcp:127.0.0.1:2").settings
        node = make_node(settings, MemoryReactorClock())
        self.assertEqual(node.address, Address.parse(OWN))
        self.assertEqual([str(peer) for peer in node.peers.addresses()], [PEER])

    def test_terms(self) -> None:
        """Leases, the age limit of delivery and retention are those of the options."""
        age = str(8 * 24 * 3600)
        given = ("--lease", "5", "--max-attempts", "3", "--delivery-age-limit", age, "--retention", "9")
        node = make_node(self.parse(*given, "--max-result-bytes", "1000").settings, MemoryReactorClock())
        self.assertEqual(node._lease, Lease(timedelta(seconds=5), 3))
        self.assertEqual(node._delivery._age_limit, timedelta(days=8))
        retention = node.getServiceNamed("retention")
        assert isinstance(retention, RetentionService)
        self.assertEqual((retention._retention.keep, retention._room.max_bytes), (timedelta(seconds=9), 1000))
        self.assertEqual(retention._keep_tombstones, timedelta(days=16))

    def test_workers(self) -> None:
        """A node has workers when it has an executor, and decides by itself when it is told to."""
        node = make_node(self.parse().settings, MemoryReactorClock())
        self.assertIsNone(node.workers)
        self.assertRaises(KeyError, node.getServiceNamed, "acceptance")
        given = ("--accept", "all", "--executor", "process:cat", "--concurrency", "7")
        node = make_node(self.parse(*given).settings, MemoryReactorClock())
        assert node.workers is not None
        self.assertRegex(str(node.workers.executor), r"^process:/.*/cat$")
        self.assertEqual(node.workers.concurrency, 7)
        self.assertIsNotNone(node.getServiceNamed("acceptance"))

    def test_help_executors(self) -> None:
        """``--help-executors`` lists those that are installed, and ends."""
        stream = self.printed()
        self.assertRaises(SystemExit, Options().parseOptions, ["--help-executors"])
        for words in ("manual\n", "process:COMMAND[:timeout=", "    A Python function does each task.\n"):
            self.assertIn(words, stream.getvalue())

    def test_endpoints_are_checked_again(self) -> None:
        """Settings that were made in a program are checked, too."""
        settings = Settings(address=Address.parse(OWN), state_dir=Path("/a"), peer={Address.parse(PEER): "nonsense"})
        self.assertRaises(ConfigurationError, make_node, settings, MemoryReactorClock())


class TimerTests(OptionsCase):
    """The timers of a process that is the node's."""

    def test_steady(self) -> None:
        """They measure the time that passes: setting the clock neither hurries nor stops them."""
        reactor: Any = MemoryReactorClock()
        reactor.seconds = wall_seconds
        AgentService(None, reactor=reactor).startService()
        self.assertIs(reactor.seconds, steady_seconds)
        first = steady_seconds()
        self.patch(time, "time", lambda: 0.0)
        self.assertGreaterEqual(steady_seconds(), first)

    def test_timers_under_way(self) -> None:
        """A reactor that has timers, measured otherwise, is left alone, and so is one with a time of its own."""
        reactor: Any = MemoryReactorClock()
        reactor.seconds = wall_seconds
        reactor.callLater(5, lambda: None)
        AgentService(None, reactor=reactor).startService()
        self.assertIs(reactor.seconds, wall_seconds)
        other = MemoryReactorClock()
        AgentService(None, reactor=other).startService()
        self.assertEqual(other.seconds(), 0.0)

    def test_records_follow_the_wall_clock(self) -> None:
        """A node of the service stamps its records with the wall clock's time, whatever its timers count."""
        node = make_node(self.parse().settings, MemoryReactorClock())
        self.assertLess(abs(node._records.now().timestamp() - time.time()), 5)


class KeysTests(OptionsCase):
    """A node whose state directory has keys."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()  # trial's own may be too deep for a socket
        self.addCleanup(directory.cleanup)
        self.party = Party(OWN, Path(directory.name) / "state")
        self.pin = Party(PEER, Path(directory.name) / "peer").pin
        self.where = ("--state-dir", str(self.party.directory))

    def test_beyond_loopback(self) -> None:
        """With keys a node listens anywhere, without --insecure; without them it says how to make some."""
        self.parse(*self.where, "--listen", "tcp:11003")
        self.parse("--listen", f"mtls:tcp:11003:directory={self.party.directory}")
        error = str(self.assertRaises(usage.UsageError, self.parse, "--listen", "tcp:11003"))
        self.assertIn(f"`tasksubmit --state-dir /srv/state init --address {OWN}`", error)

    def test_half_of_it(self) -> None:
        """Whichever file is left, a node that had keys does not go back to being without."""
        for name in ("key.pem", "certificate.pem"):
            self.party.trust()
            (self.party.directory / name).unlink()
            error = str(self.assertRaises(usage.UsageError, self.parse, *self.where))
            self.assertIn(f"{name} cannot be read", error)
            self.party.use(make_certificate(self.party.key, OWN, now()))
        for name in ("key.pem", "certificate.pem"):
            (self.party.directory / name).unlink()
        self.assertIn("cannot be read", str(self.assertRaises(usage.UsageError, self.parse, *self.where)))

    def test_no_socket_passed(self) -> None:
        """``mtls:`` around a socket of systemd's is checked without it, and told apart from one that is misspelled."""
        listen = f"mtls:systemd:domain=INET:name=tasks:directory={self.party.directory}"
        self.printed()
        self.assertRaises(SystemExit, self.parse, "--check", "--listen", listen)
        error = str(self.assertRaises(usage.UsageError, self.parse, "--listen", listen))
        self.assertIn("no such socket was passed to this process", error)

    def test_of_another(self) -> None:
        """A certificate for another address is refused, since peers would be told to trust this node as that one."""
        self.party.use(make_certificate(self.party.key, PEER, now()))
        error = str(self.assertRaises(usage.UsageError, self.parse, *self.where))
        self.assertIn(f"certificate.pem is for {PEER}, and this node is {OWN}", error)
        for names in (["bob.example"], [dns_name(PEER), dns_name(OWN)]):
            vouched(Authority(), self.party, *names)
            self.parse(*self.where)

    def test_listeners(self) -> None:
        """TLS is around every listener but those of this machine and those that have it."""
        listen = ["tcp:1", "unix:/a", f"mtls:tcp:2:directory={self.party.directory}", "tcp:3:interface=127.0.0.1"]
        options = [argument for text in listen for argument in ("--listen", text)]
        node = make_node(self.parse(*self.where, *options).settings, MemoryReactorClock())
        kinds = [type(listener._endpoint).__name__ for listener in node.listeners]
        mutual = "MutualTLSServerEndpoint"
        self.assertEqual(kinds, [mutual, "UNIXServerEndpoint", mutual, mutual])
        inner = [listener._endpoint._inner for listener in node.listeners if hasattr(listener._endpoint, "_inner")]
        self.assertEqual({type(endpoint).__name__ for endpoint in inner}, {"TCP4ServerEndpoint"})

    def test_peers(self) -> None:
        """Peers are those that are trusted; options say where they live, and name those of this machine."""
        third = "0:0000.0000.0003"
        self.party.trust(f"{PEER} {self.pin} tcp:127.0.0.1:1")
        given = ("--peer", f"{PEER}=tcp:127.0.0.1:2", "--peer", f"{third}=unix:/a")
        reactor = MemoryReactorClock()
        peers = make_node(self.parse(*self.where, *given).settings, reactor).peers
        self.assertEqual([str(peer) for peer in sorted(peers.addresses())], [PEER, third])
        peers.endpoint(Address.parse(PEER)).connect(Factory())
        peers.endpoint(Address.parse(third)).connect(Factory())
        self.assertEqual([client[1] for client in reactor.tcpClients], [2])
        self.assertEqual([client[0] for client in reactor.unixClients], ["/a"])
        error = self.assertRaises(usage.UsageError, self.parse, *self.where, "--peer", f"{third}=tcp:127.0.0.1:3")
        self.assertIn(f"`tasksubmit trust add {third} sha256:... tcp:127.0.0.1:3`", str(error))

    def test_removed_peers(self) -> None:
        """An option does not undo `trust remove`: the node starts, warns of it, and the address is no peer's."""
        reactor, third, fourth = MemoryReactorClock(), "0:0000.0000.0003", "0:0000.0000.0004"
        texts = (f"{PEER}=unix:/a", f"{fourth}=tcp:127.0.0.1:2", f"{third}=unix:/c")
        given = [argument for text in texts for argument in ("--peer", text)]
        self.party.trust(f"{PEER} removed", f"{fourth} removed")
        logged: list[str] = []
        self.patch(Logger, "warn", lambda log, message, **fields: logged.append(message.format(**fields)))
        service = makeService(self.parse(*self.where, *given), reactor)
        assert isinstance(service, MultiService)
        node = next(child for child in service if isinstance(child, Node))
        self.assertEqual(list(map(str, node.peers.addresses())), [third])
        warnings = [line for line in logged if "was removed" in line]
        for line, peer, endpoint in zip(warnings, (PEER, fourth), ("unix:/a", "tcp:127.0.0.1:2"), strict=True):
            self.assertIn(f"--peer {peer}={endpoint}: ", line)
            self.assertIn(f"`tasksubmit trust add {peer} FINGERPRINT`, or leave the option out", line)
            self.assertFalse(node.is_trusted(peer))
            self.assertTrue(node.authenticator.needs_proof(Address.parse(peer)))
            self.assertRaises(UnknownPeer, node.peers.endpoint, Address.parse(peer))
        self.assertTrue(node.is_trusted(third))
        self.party.trust(f"{PEER} {self.pin}")
        node.reload()
        self.assertTrue(node.is_trusted(PEER))
        node.peers.endpoint(Address.parse(PEER)).connect(Factory())
        self.assertEqual([client[0] for client in reactor.unixClients], ["/a"])

    def test_expiry(self) -> None:
        """The end of the certificate is told at the start and every day, once it is near."""
        self.party.use(make_certificate(self.party.key, OWN, now(), timedelta(days=5)))
        reactor = MemoryReactorClock()
        service = makeService(self.parse(*self.where), reactor)
        assert isinstance(service, MultiService)
        [watch] = [child for child in service if isinstance(child, TimerService)]
        warned: list[str] = []
        self.patch(Logger, "warn", lambda log, message, what: warned.append(what))
        watch.startService()
        self.assertEqual(len(warned), 1)
        reactor.advance(24 * 3600)
        self.assertEqual(len(warned), 2)
        self.assertIn("run `tasksubmit renew`", warned[0])
        self.successResultOf(watch.stopService())


class ReloadTests(OptionsCase):
    """What a reload of a node that twistd runs applies, and what it says of the rest."""

    @override
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.state = Path(directory.name) / "state"
        self.config = Path(directory.name) / "node.toml"
        self.write("")

    def write(self, *lines: str) -> None:
        """Write the configuration file."""
        self.config.write_text("\n".join(lines))

    def start(self) -> None:
        """Make a node, as of a start."""
        options = Options()
        options.parseOptions(["--address", OWN, "--state-dir", str(self.state), "--config", str(self.config)])
        self.node = make_node(options.settings, MemoryReactorClock())
        self.patch(self.node._delivery, "hasten", lambda: None)  # it needs an open store
        self.reload = Reload(options, self.node, MemoryReactorClock())

    def test_nothing_changed(self) -> None:
        """A reload that finds no change says so."""
        self.start()
        self.assertEqual(self.reload(), Reloaded(unchanged=("options and configuration file: no changes",)))

    def test_keys_made_since_the_start(self) -> None:
        """Keys of a node that was started without any need a restart."""
        self.start()
        make_identity(self.state, Address.parse(OWN), now(), timedelta(days=9))
        self.assertEqual(self.reload().needs_restart, ("keys, which were made since the start",))

    def test_peers_of_the_file(self) -> None:
        """Peers that were added to the file are applied, once; other changes of peers need a restart."""
        self.write("[peer]", f'"{PEER}" = "tcp:127.0.0.1:2"')
        self.start()
        other = "0:0000.0000.0003"
        self.write("[peer]", f'"{PEER}" = "tcp:127.0.0.1:2"', f'"{other}" = "tcp:127.0.0.1:3"')
        self.assertEqual(self.reload(), Reloaded(applied=(f"peers were added: {other}",)))
        self.assertIsInstance(self.node.peers.endpoint(Address.parse(other)), TCP4ClientEndpoint)
        self.assertEqual(self.reload().unchanged, ("options and configuration file: no changes",))
        for line in (f'"{PEER}" = "tcp:127.0.0.1:9"', ""):
            self.write("[peer]", line, f'"{other}" = "tcp:127.0.0.1:3"')
            self.assertEqual(self.reload(), Reloaded(needs_restart=("--peer",)))

    def test_other_options(self) -> None:
        """Every other change of the file needs a restart, and is named."""
        self.start()
        self.write('retention = "1d"', "tick = 2")
        reloaded = self.reload()
        self.assertEqual(reloaded, Reloaded(needs_restart=("--retention", "--tick")))
        self.assertEqual(str(reloaded), "needs a restart: --retention, --tick")

    def test_wrong_file(self) -> None:
        """A file that is wrong changes nothing, and the error names it."""
        self.start()
        for text, words in (("tick = ", "is not TOML"), (f"[peer]\n'{PEER}' = 'tpc:1'", "unknown endpoint type 'tpc'")):
            self.write(text)
            self.assertIn(words, str(self.assertRaises(ConfigurationError, self.reload)))
        self.assertEqual(list(self.node.peers.addresses()), [])

    def test_keys(self) -> None:
        """What was read again is told: the certificate and the peers with other proofs, or that nothing has changed."""
        make_identity(self.state, Address.parse(OWN), now(), timedelta(days=9))
        self.start()
        self.assertEqual(self.reload().unchanged[0], "keys and trust were read again: no changes")
        change_trust(self.state, lambda trust: trust.with_proof(PEER, "sha256:" + "A" * 43 + "=", "tcp:127.0.0.1:2"))
        self.assertEqual(self.reload().applied, (f"keys and trust were read again, with changes: {PEER}",))
        renew(self.state, now(), timedelta(days=99))
        self.assertIn("the own certificate", self.reload().applied[0])


class HangupTests(SynchronousTestCase):
    """SIGHUP."""

    def start(self, reload: Any) -> AgentService:
        """Start a service that reloads."""
        reactor: Any = MemoryReactorClock()
        reactor.callFromThread = lambda call: call()
        service = AgentService(None, reactor=reactor, reload=reload)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    def test_reload(self) -> None:
        """It reads again what may have changed, and logs the report; after the stop it means what it meant before."""
        before = signal.getsignal(signal.SIGHUP)
        logged: list[str] = []
        self.patch(Logger, "info", lambda log, message, **fields: logged.append(message.format(**fields)))
        service = self.start(lambda: Reloaded(applied=("a was read",), needs_restart=("--b", "--c")))
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertIn("SIGHUP: a was read; needs a restart: --b, --c", logged)
        self.successResultOf(maybeDeferred(service.stopService))
        self.assertIs(signal.getsignal(signal.SIGHUP), before)
        self.successResultOf(maybeDeferred(service.stopService))
        self.assertIs(signal.getsignal(signal.SIGHUP), before)

    def test_broken(self) -> None:
        """What is wrong then is logged, in a line, and the node goes on."""

        def broken() -> None:
            raise ConfigurationError("line 3 is wrong")

        told: list[str] = []
        self.patch(Logger, "error", lambda log, message, error: told.append(str(error)))
        self.start(broken)
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(told, ["line 3 is wrong"])

    def test_in_a_thread(self) -> None:
        """A node that an application runs in another thread leaves the process's signals alone."""
        before = signal.getsignal(signal.SIGHUP)
        thread = Thread(target=lambda: self.start(lambda: None).stopService())
        thread.start()
        thread.join()
        self.assertIs(signal.getsignal(signal.SIGHUP), before)


class Failing(Service):
    """Cannot start."""

    def __init__(self, error: Exception, privileged: bool) -> None:
        self.error = error
        self.privileged = privileged

    @override
    def privilegedStartService(self) -> None:
        if self.privileged:
            raise self.error

    @override
    def startService(self) -> None:
        raise self.error


class AgentServiceTests(SynchronousTestCase):
    """A start that fails."""

    def service(self, error: Exception, runner: usage.Options | None, privileged: bool = False) -> AgentService:
        """A service with a part that cannot start."""
        service = AgentService(runner)
        Failing(error, privileged).setServiceParent(service)
        return service

    def test_foreground(self) -> None:
        """In the foreground it ends the process with one line, and takes the pid file along."""
        pidfile = Path(self.mktemp())
        pidfile.write_text("1")
        service = self.service(StoreLocked("in use"), Runner(nodaemon=True, pidfile=str(pidfile)))
        ended = self.assertRaises(SystemExit, service.startService)
        self.assertEqual(ended.code, "tasksubmit: in use")
        self.assertFalse(pidfile.exists())

    def test_privileged(self) -> None:
        """So does one that fails while the privileges are still there."""
        service = self.service(ListenError("taken"), None, privileged=True)
        ended = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertEqual(ended.code, "tasksubmit: taken")

    def test_background(self) -> None:
        """In the background it is told to the process that waits for the daemon, too, as far as that reads."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        service = self.service(StoreLocked("in use" * 100), Runner(nodaemon=False, statusPipe=writing))
        self.assertRaises(SystemExit, service.startService)
        told = os.read(reading, 1000)
        self.assertEqual((told[:18], len(told)), (b"1 tasksubmit: in u", 100))

    def test_bug(self) -> None:
        """An error that is not one of ours keeps its traceback."""
        self.assertRaises(ZeroDivisionError, self.service(ZeroDivisionError(), None).startService)


@implementer(IStreamServerEndpoint)
class _Failing:
    """Cannot listen."""

    def __init__(self, reason: Exception) -> None:
        self._reason = reason

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        return fail(self._reason)


class ListenerTests(SynchronousTestCase):
    """What the listener adds to Twisted's."""

    def test_taken(self) -> None:
        """A port that is taken stops the start, with the endpoint's text; a listener that failed can try again."""
        network = MemoryNetwork(Clock())
        first = Listener("tcp:1", network.server_endpoint("here"), Factory())
        second = Listener("tcp:1", network.server_endpoint("here"), Factory())
        first.privilegedStartService()
        error = self.assertRaises(ListenError, second.privilegedStartService)
        self.assertIn("cannot listen on tcp:1: ", str(error))
        self.assertIn("taken by another process?", str(error))
        for reason in (
            CannotListenError("", 80, PermissionError(13, "Permission denied")),
            ConfigurationError("a/key.pem cannot be read: Permission denied"),
        ):
            error = self.assertRaises(
                ListenError, Listener("tcp:80", _Failing(reason), Factory()).privilegedStartService
            )
            self.assertTrue(str(error).endswith(": Permission denied"), error)
        first.startService()
        self.assertTrue(first.running)
        self.successResultOf(first.stopService())
        self.assertIsNone(first.port)
        second.startService()
        self.assertIn("here", network.ports)
        self.successResultOf(second.stopService())
        self.successResultOf(second.stopService())
        self.assertEqual(network.ports, {})
