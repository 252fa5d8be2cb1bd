"""The settings of a node: defaults, where they come from, and what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tasksubmit.errors import ConfigurationError
from tasksubmit.lifecycle.polo import ScoreFormula
from tasksubmit.lifecycle.table import Timeouts
from tasksubmit.settings import (
    Settings,
    is_local,
    load_settings,
    with_defaults,
)
from tasksubmit.state_dir import MAX_SOCKET_PATH_BYTES, default_state_dir
from tasksubmit.tls.keeping import make_identity
from tasksubmit.wire.address import Address

OWN = "0:0000.0000.0001"
PEER = "0:0000.0000.0002"
OTHER = "0:0000.0000.0003"


class SettingsCase(SynchronousTestCase):
    """Ways to load settings."""

    def load(self, config: str | None = None, environ: dict[str, str] | None = None, **given: Any) -> Settings:
        """The settings of these options, over those of a file with this text."""
        path = None
        if config is not None:
            path = Path(self.mktemp())
            path.write_text(config)
        return load_settings(given, path, environ or {"XDG_STATE_HOME": "/var/state"})

    def refused(self, *words: str, config: str | None = None, **given: Any) -> None:
        """Loading is refused with a text of one line that has these words."""
        with self.assertRaises(ConfigurationError) as caught:
            self.load(config, **given)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        for word in words:
            self.assertIn(word, text)


class DefaultTests(SettingsCase):
    """What holds unless told otherwise."""

    def test_defaults(self) -> None:
        """With an address alone a node listens on loopback, keeps its state at home, and knows no peers."""
        self.assertEqual(
            self.load(address=OWN),
            Settings(
                address=Address.parse(OWN),
                listen=("tcp:11003:interface=127.0.0.1",),
                state_dir=Path("/var/state/tasksubmit"),
                peer={},
                control="unix:/var/state/tasksubmit/control.sock:mode=600",
                insecure=False,
                score_formula=ScoreFormula.DOCUMENTED,
                accept_timeout=timedelta(minutes=1),
                queue_head_timeout=timedelta(hours=1),
                answer_timeout=timedelta(seconds=90),
                silence_timeout=timedelta(hours=1),
                lease=timedelta(days=1),
                max_attempts=1,
                delivery_age_limit=timedelta(days=7),
                retention=timedelta(days=30),
                max_result_bytes=None,
                accept="manual",
                executor="manual",
                concurrency=1,
                tick=1.0,
                max_connections=2000,
                max_connections_per_peer=500,
                max_handshakes=400,
                max_handshakes_per_host=100,
                max_handshake_rate=400.0,
                max_handshake_rate_per_host=100.0,
                max_buffered_bytes=128 * 2**20,
                idle_timeout=60.0,
                max_description_bytes=1048576,
                log_format="text",
            ),
        )
        self.assertEqual(self.load(address=OWN).timeouts, Timeouts())

    def test_default_formula_is_a_formula(self) -> None:
        """The default reading of the score is of the same kind as one that was given."""
        self.assertIsInstance(self.load(address=OWN).score_formula, ScoreFormula)

    def test_state_dir(self) -> None:
        """The state goes where the environment says: our own variable first, then the desktop's, then home."""
        self.assertEqual(default_state_dir({"TASKSUBMIT_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}), Path("/a"))
        self.assertEqual(default_state_dir({"XDG_STATE_HOME": "/b"}), Path("/b/tasksubmit"))
        home = Path.home() / ".local/state/tasksubmit"
        self.assertEqual(default_state_dir({}), home)
        self.assertEqual(default_state_dir({"TASKSUBMIT_STATE_DIR": "", "XDG_STATE_HOME": ""}), home)

    def test_paths_are_absolute(self) -> None:
        """A relative directory is meant from where the node was started; ``~`` is home."""
        self.assertEqual(self.load(address=OWN, state_dir="here").state_dir, Path.cwd() / "here")
        self.assertEqual(self.load(address=OWN, state_dir="~/here").state_dir, Path.home() / "here")
        relative = self.load(address=OWN, environ={"TASKSUBMIT_STATE_DIR": "here"})
        self.assertEqual(relative.state_dir, Path.cwd() / "here")

    def test_control_socket_with_odd_characters(self) -> None:
        """A state directory with a colon in its name is quoted in the endpoint of the control API."""
        self.assertEqual(self.load(address=OWN, state_dir="/a:b").control, "unix:/a\\:b/control.sock:mode=600")


class SourceTests(SettingsCase):
    """The command line over the file over the defaults."""

    EVERYTHING = f"""
        address = "{OWN}"
        listen = ["tcp:1:interface=127.0.0.1", "unix:/a"]
        state-dir = "/srv/tasks"
        control = "unix:/run/tasks.sock"
        insecure = false
        score-formula = "linear"
        accept_timeout = 2
        queue-head-timeout = 3.5
        answer-timeout = 4
        tick = 0.5
        idle-timeout = 7
        max-description-bytes = 9
        accept = "all"
        executor = "process:cat"
        concurrency = 3
        log-format = "json"

        [peer]
        "{PEER}" = "tcp:127.0.0.1:5"
    """

    def test_file(self) -> None:
        """A file may hold every setting, spelt with ``-`` or ``_``."""
        self.assertEqual(
            self.load(self.EVERYTHING),
            Settings(
                address=Address.parse(OWN),
                listen=("tcp:1:interface=127.0.0.1", "unix:/a"),
                state_dir=Path("/srv/tasks"),
                peer={Address.parse(PEER): "tcp:127.0.0.1:5"},
                control="unix:/run/tasks.sock",
                insecure=False,
                score_formula=ScoreFormula.LINEAR,
                accept_timeout=timedelta(seconds=2),
                queue_head_timeout=timedelta(seconds=3.5),
                answer_timeout=timedelta(seconds=4),
                tick=0.5,
                idle_timeout=7.0,
                max_description_bytes=9,
                accept="all",
                executor="process:cat",
                concurrency=3,
                log_format="json",
            ),
        )

    def test_options_override(self) -> None:
        """An option wins over the file."""
        settings = self.load(self.EVERYTHING, address=OTHER, tick="2", listen=["unix:/a"], log_format="text")
        self.assertEqual(settings.address, Address.parse(OTHER))
        self.assertEqual((settings.tick, settings.listen, settings.log_format), (2.0, ("unix:/a",), "text"))
        self.assertEqual(settings.max_description_bytes, 9)

    def test_peers_add_up(self) -> None:
        """A peer of the command line is added to those of the file, and wins over the one of its address."""
        settings = self.load(self.EVERYTHING, peer=[f"{OTHER}=tcp:h:6", f"{PEER}=unix:/p=q"])
        self.assertEqual(settings.peer, {Address.parse(PEER): "unix:/p=q", Address.parse(OTHER): "tcp:h:6"})

    def test_one_text_for_a_list(self) -> None:
        """One endpoint in the file need not be a list."""
        settings = self.load(f'address = "{OWN}"\nlisten = "unix:/a"\npeer = "{PEER}=unix:/b"')
        self.assertEqual((settings.listen, settings.peer), (("unix:/a",), {Address.parse(PEER): "unix:/b"}))

    def test_timeouts(self) -> None:
        """The limits of a task's life are those that were given, each in its place."""
        settings = self.load(
            address=OWN, accept_timeout="1", queue_head_timeout="2", answer_timeout="3", silence_timeout="4"
        )
        self.assertEqual(settings.timeouts, Timeouts(*(timedelta(seconds=n) for n in (1, 2, 3, 4))))

    def test_durations(self) -> None:
        """A duration is a number of seconds, or has units, in an option and in the file."""
        config = f'address = "{OWN}"\nretention = "30d"\naccept-timeout = 120\nidle-timeout = "2m"'
        settings = self.load(config, queue_head_timeout="1h30m", answer_timeout="90", tick="250ms")
        self.assertEqual((settings.retention, settings.accept_timeout), (timedelta(days=30), timedelta(minutes=2)))
        self.assertEqual(
            (settings.queue_head_timeout, settings.answer_timeout), (timedelta(hours=1.5), timedelta(seconds=90))
        )
        self.assertEqual((settings.idle_timeout, settings.tick), (120.0, 0.25))

    def test_no_home(self) -> None:
        """Without a home directory, the error asks for --state-dir; with it none is needed."""

        def no_home() -> Path:
            raise RuntimeError("Could not determine home directory.")

        self.patch(Path, "home", no_home)
        error = self.assertRaises(ConfigurationError, load_settings, {"address": OWN}, None, {})
        self.assertIn("give --state-dir", str(error))
        load_settings({"address": OWN, "state_dir": "/srv/tasks"}, None, {})


class RefusedTests(SettingsCase):
    """What cannot be."""

    def test_no_address(self) -> None:
        """Without an address the error shows how to give one."""
        self.refused("--address 0:0000.0000.0001")

    def test_wrong_options(self) -> None:
        """A value that cannot be is refused by the option's name."""
        wrong: tuple[tuple[Any, ...], ...] = (
            ("address", "1.2.3.4", "--address", "1.2.3.4"),
            ("peer", [PEER], "--peer", "ADDRESS=ENDPOINT"),
            ("peer", [f"{PEER}="], "--peer", "ADDRESS=ENDPOINT"),
            ("peer", ["x=tcp:h:1"], "--peer", "x"),
            ("score_formula", "cubic", "--score-formula", "documented or linear"),
            ("accept_timeout", "soon", "--accept-timeout"),
            ("accept_timeout", "0", "--accept-timeout", "more than 0"),
            ("queue_head_timeout", "-1", "--queue-head-timeout", "is not a duration"),
            ("answer_timeout", "nan", "--answer-timeout", "is not a duration"),
            ("tick", "inf", "--tick", "is not a duration"),
            ("idle_timeout", "", "--idle-timeout"),
            ("max_description_bytes", "1.5", "--max-description-bytes"),
            ("max_description_bytes", "0", "--max-description-bytes", "more than 0"),
            ("max_attempts", "0", "--max-attempts", "whole number"),
            ("max_attempts", "1.5", "--max-attempts", "whole number"),
            ("max_result_bytes", "many", "--max-result-bytes", "whole number"),
            ("max_connections", "0", "--max-connections", "whole number"),
            ("max_connections_per_peer", "-1", "--max-connections-per-peer", "whole number"),
            ("max_handshakes", "0", "--max-handshakes", "whole number"),
            ("max_handshakes_per_host", "x", "--max-handshakes-per-host", "whole number"),
            ("max_handshake_rate", "0", "--max-handshake-rate", "a number a second"),
            ("max_handshake_rate_per_host", "-1", "--max-handshake-rate-per-host", "a number a second"),
            ("max_buffered_bytes", "16777216", "--max-buffered-bytes", "fit twice"),
            ("retention", "0", "--retention", "more than 0"),
            ("log_format", "xml", "--log-format", "text or json"),
            ("control", "", "--control"),
        )
        for name, value, *words in wrong:
            with self.subTest(name=name, value=value):
                self.refused(*words, **{"address": OWN, name: value})

    def test_wrong_file(self) -> None:
        """A value of the wrong kind in the file is refused by the file's name and the key's."""
        for line, *words in (
            ("addres = 5", "there is no setting 'addres'", "--help"),
            ("address = 5", ": address: "),
            ("listen = [7]", ": listen: "),
            ("insecure = 1", ": insecure: ", "true or false"),
            ("tick = true", ": tick: "),
            ("max-description-bytes = true", ": max-description-bytes: "),
            ("max-description-bytes = 2.5", ": max-description-bytes: "),
            ("state-dir = ''", ": state-dir: "),
            ("log-format = ['json']", ": log-format: ", "text or json"),
            (f"peer = {{'{PEER}' = 5}}", ": peer: "),
            ("peer = {'x' = 'tcp:h:1'}", ": peer: "),
            ("tick = ", "is not TOML"),
            ("tick = 1\ntick = 2", "is not TOML"),
        ):
            with self.subTest(line=line):
                self.refused(*words, config=line + "\n")

    def test_unreadable_file(self) -> None:
        """A file that is missing, or no text, is refused by its name."""
        missing = Path(self.mktemp())
        error = self.assertRaises(ConfigurationError, load_settings, {}, missing, {})
        self.assertIn(f"--config {missing} cannot be read: No such file", str(error))
        missing.write_bytes(b"\xff\xfe")
        error = self.assertRaises(ConfigurationError, load_settings, {}, missing, {})
        self.assertIn(f"--config {missing} is not TOML", str(error))

    def test_unknown_endpoint_type(self) -> None:
        """A misspelled type of endpoint is reported as such, with the types there are, and not as open to others."""
        for endpoint, kind in (
            ("tpc:11003:interface=127.0.0.1", "tpc"),
            ("mtls:tpc:11003:directory=/srv", "tpc"),
            ("11003", "11003"),
            (":11003", ""),
        ):
            words = f"--listen {endpoint}: ", f"unknown endpoint type '{kind}'", "systemd", "tcp, ", "unix"
            self.refused(*words, address=OWN, listen=[endpoint])
            self.refused(*words, config=f'address = "{OWN}"\nlisten = ["{endpoint}"]')
        self.refused("--control tpc:1: ", "unknown endpoint type 'tpc'", address=OWN, control="tpc:1")

    def test_beyond_loopback(self) -> None:
        """To listen where others can reach it, while nobody is authenticated, must be asked for."""
        self.refused("--listen tcp:11003 ", "interface=127.0.0.1", "--insecure", address=OWN, listen=["tcp:11003"])
        self.refused(address=OWN, listen=["unix:/a", "tcp:1:interface=0.0.0.0"])
        allowed = self.load(address=OWN, listen=["tcp:11003"], insecure=True)
        self.assertEqual(allowed.listen, ("tcp:11003",))

    def test_inherited(self) -> None:
        """Where a socket of systemd listens, its text does not say; whoever has the socket has to look."""
        endpoint = "systemd:domain=INET:name=peers"
        self.assertEqual(self.load(address=OWN, listen=[endpoint]).listen, (endpoint,))

    def test_control(self) -> None:
        """The control API is for this machine alone; a token is needed unless only the owner can open its socket."""
        for endpoint in ("tcp:80:interface=0.0.0.0", "tcp:80", "systemd:domain=UNIX:index=0", "nonsense"):
            self.refused(f"--control {endpoint}", "this machine alone", address=OWN, control=endpoint, insecure=True)
        for endpoint in (
            *(
                "unix:/run/a.sock",
                "unix:address=/run/a.sock",
                "unix:/run/a.sock:mode=600",
                "unix:/run/a.sock:mode=0700",
            ),
            *("unix:/run/a.sock:600", "unix:/run/a.sock:backlog=5"),
        ):
            settings = self.load(address=OWN, control=endpoint)
            self.assertEqual((settings.control, settings.needs_token), (endpoint, False))
            self.assertEqual(settings.control_socket, Path("/run/a.sock"))
        for endpoint in (
            *("tcp:80:interface=127.0.0.1", "tcp6:80:interface=\\:\\:1"),
            *("unix:/run/a.sock:mode=660", "unix:/run/a.sock:mode=666", "unix:/run/a.sock:666", "unix:\0a"),
            *("unix:address=/run/a.sock:mode=602", "unix:/run/a.sock:mode=0o666", "unix:/run/a.sock:mode= 666"),
        ):
            self.assertTrue(self.load(address=OWN, control=endpoint).needs_token, endpoint)
        self.refused("mode=600", "not '8'", address=OWN, control="unix:/run/a.sock:mode=8")

    def test_tls_twice(self) -> None:
        """With keys, a listener that brings TLS of its own would have it twice."""
        directory = Path(self.mktemp())
        make_identity(directory, Address.parse(OWN), datetime.now(timezone.utc), timedelta(days=1))
        for kind in ("ssl:1:interface=127.0.0.1", "tls:1:interface=127.0.0.1"):
            given: dict[str, Any] = {"state_dir": str(directory), "control": "unix:/run/a.sock", "listen": [kind]}
            self.refused(f"--listen {kind}", "give tcp:", address=OWN, **given)

    def test_with_defaults(self) -> None:
        """A Unix socket is its owner's, unless it says for whom it is, and many connections may wait to be accepted."""
        for endpoint, added in (
            ("unix:/run/a.sock", ":mode=600:backlog=1024:lockfile=0"),
            ("unix:/run/a.sock:mode=660", ":backlog=1024:lockfile=0"),
            ("unix:/run/a.sock:660", ":backlog=1024:lockfile=0"),
            ("unix:/run/a.sock:660:5", ":lockfile=0"),
            ("unix:/run/a.sock:660:5:1", ""),
            ("unix:/run/a.sock:660:5:lockfile=1", ""),
            ("unix:/run/a.sock:backlog=5", ":mode=600:lockfile=0"),
            ("tcp:1:interface=127.0.0.1", ":backlog=1024"),
            ("tcp:1:127.0.0.1:5", ""),
            ("tcp6:1:backlog=5", ""),
            ("systemd:domain=INET:index=0", ""),
            ("mtls:tcp:1:directory=/a", ":backlog=1024"),
            ("mtls:tcp:1:127.0.0.1:5:directory=/a", ""),
            ("mtls:unix:/run/a.sock:directory=/a", ":mode=600:backlog=1024:lockfile=0"),
            ("mtls:systemd:domain=INET:index=0:directory=/a", ""),
            ("mtls:", ""),
        ):
            self.assertEqual(with_defaults(endpoint), endpoint + added)

    def test_long_socket_path(self) -> None:
        """A path that is too long for a socket is refused at once, in bytes, and one of the exact length is not."""
        room = MAX_SOCKET_PATH_BYTES - len("/control.sock")
        self.load(address=OWN, state_dir="/" + "x" * (room - 1))
        self.refused("--state-dir", address=OWN, state_dir="/" + "x" * room)
        self.refused("--state-dir", address=OWN, state_dir="/" + "\u00e4" * (room // 2))
        self.refused(address=OWN, control="unix:address=/" + "x" * MAX_SOCKET_PATH_BYTES)


class LocalTests(SynchronousTestCase):
    """Which endpoints are certain to be reached from this machine alone."""

    def test_local(self) -> None:
        """Unix sockets and loopback interfaces are."""
        for endpoint in (
            "unix:/a",
            "unix:address=/a",
            "tcp:1:interface=127.0.0.1",
            "tcp:port=1:interface=127.8.9.10",
            "tcp:1:interface=localhost",
            "tcp:1:interface=\\:\\:1",
            "tcp6:1:interface=\\:\\:1",
            "ssl:1:interface=127.0.0.1",
        ):
            self.assertTrue(is_local(endpoint), endpoint)

    def test_not_local(self) -> None:
        """All else is not, or not for certain."""
        for endpoint in (
            "",
            "1",
            "tcp:1",
            "tcp:1:interface=",
            "tcp:1:interface=0.0.0.0",
            "tcp:1:interface=10.0.0.1",
            "tcp:1:interface=\\:\\:",
            "tcp:1:interface=localhost.example.com",
            "tcp:1:interface=127.0.0.1.example.com",
            "tcp:1:50:127.0.0.1",
            "systemd:domain=INET:index=0",
            "haproxy:tcp:1",
            "fd:3",
        ):
            self.assertFalse(is_local(endpoint), endpoint)
