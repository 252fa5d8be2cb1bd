"""Every verb with wrong input of every kind, and output that nobody takes: one clear line, and the right exit code.

The verbs and their parameters are those that Click knows, so a new one is part of the tour.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
from attrs import frozen
from typing_extensions import override

from tasksubmit.cli.commands import tasksubmit
from tasksubmit.cli.parameters import Duration, GlobalOption, Moment
from tasksubmit.commandline import command_line
from tasksubmit.tls.identity import make_key, pin_of
from tasksubmit.web.faults import FAULTS
from tests.cli import harness
from tests.cli.harness import BrokenStream, CommandTestCase, Done, Stream
from tests.cli.test_identity import LonelySession
from tests.web.harness import PEER

PIN = pin_of(make_key().public_key())
UNKNOWN = "0:0000.0000.00FF"
UNDECODABLE = b"caf\xe9".decode("utf-8", "surrogateescape")

VALUES = {"task": "t1", "to": str(PEER), "description": "x", "text": "x", "address": UNKNOWN, "proof": PIN}
"""Values of arguments, by name; of options, those that a verb cannot do without are below."""

NEEDED = {
    "submit": ("--timeout", "0"),
    "decline": ("--justification", "no time"),
    "fail": ("--error", "boom"),
    "send-results": ("--text", "42"),
    "wait": ("--timeout", "0"),
    "drain": ("--timeout", "0"),
    "init": ("--address", UNKNOWN),
    "purge": ("--yes",),
}

PROCESSES = {"run", "demo"}
"""Verbs that start processes of their own; here they are only used wrongly."""

OFFLINE = {"check", "compact", "init", "renew", "trust", "trust add", "trust list", "trust remove"}
"""Verbs that need no node."""


@frozen
class Verb:
    """One verb: its words, and how Click knows it."""

    name: str
    command: click.Command

    def arguments(self, **values: str) -> list[str]:
        """Arguments that make sense, but for the ``values`` that were given."""
        given = {**VALUES, **values}
        named = [p for p in self.command.params if isinstance(p, click.Argument)]
        taken = (*values, "description", *(("task",) if self.name == "purge" else ()))
        positional = [given[str(p.name)] for p in named if p.required or p.name in taken]
        return [*self.name.split(), *NEEDED.get(self.name, ()), "--", *positional]

    def options(self) -> list[click.Option]:
        """Its own options, without the global ones."""
        return [p for p in self.command.params if isinstance(p, click.Option) and not isinstance(p, GlobalOption)]


def verbs(group: click.Group = tasksubmit, prefix: str = "") -> Iterator[Verb]:
    """Every verb, and every verb of a verb."""
    for name, command in sorted(group.commands.items()):
        yield Verb(prefix + name, command)
        if isinstance(command, click.Group):
            yield from verbs(command, f"{name} ")


def with_options(arguments: list[str], *options: str) -> list[str]:
    """The arguments of a verb with more options, which win over those that are there."""
    at = arguments.index("--")
    return [*arguments[:at], *options, *arguments[at:]]


VERBS = [verb for verb in verbs() if verb.name not in PROCESSES]
ONLINE = [verb for verb in VERBS if verb.name not in OFFLINE]


class TourTestCase(CommandTestCase):
    """Runs verbs in a state directory of their own."""

    @override
    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(self.mktemp()).absolute()
        self.receive("t1", "caf\xe9 \U0001f600 " + "words " * 50)

    def tour(self, verb: Verb, *arguments: str, stdout: Stream | None = None, is_terminal: bool = False) -> Done:
        """Run a verb; whatever happens, it is told in at most one line, and without a traceback."""
        shutil.rmtree(self.directory, ignore_errors=True)
        options = ("--state-dir", str(self.directory))
        done = self.run_command(*options, *arguments, stdout=stdout, is_terminal=is_terminal)
        told = f"{verb.name} {arguments}: {done}"
        self.assertNotIn("Traceback", done.stdout + done.stderr, told)
        self.assertNotIn("internal", done.stderr, told)
        self.assertIn(done.exit_code, (0, 1, 2, 3, 4, 141), told)
        if done.exit_code in (1, 3, 4) and "--json" not in arguments:
            self.assertTrue(done.stderr.startswith("tasksubmit: "), told)
            self.assertEqual(done.stderr.count("\n"), 1, told)
        if done.exit_code == 2:
            self.assertIn("\nError: ", done.stderr, told)
        if done.exit_code in (0, 141):
            self.assertEqual(done.stderr, "", told)
        return done


class NodeTests(TourTestCase):
    """A node that is not there."""

    def test_unreachable(self) -> None:
        """Every verb that asks a node ends with 3 when there is none."""
        self.patch(harness, "MemorySession", LonelySession)
        for verb in ONLINE:
            self.assertEqual(self.tour(verb, *verb.arguments()).exit_code, 3, verb)

    def test_no_state(self) -> None:
        """The other verbs do their work, or say what is missing in the state directory."""
        self.patch(harness, "MemorySession", LonelySession)
        for verb in VERBS:
            if verb.name in OFFLINE:
                done = self.tour(verb, *verb.arguments())
                self.assertTrue(
                    done.exit_code == 0 or str(self.directory) in done.stderr or UNKNOWN in done.stderr, done
                )

    def test_wrong_control(self) -> None:
        """A control socket that can be none is refused by every verb that asks a node."""
        for where, exit_code in (("", 2), (UNDECODABLE, 2)):
            for verb in ONLINE:
                done = self.tour(verb, "--control", where, *verb.arguments())
                self.assertEqual(done.exit_code, exit_code, done)
                self.assertIn("'--control'", done.stderr)


class ValueTests(TourTestCase):
    """Arguments and options that cannot be."""

    def refused(self, verb: Verb, name: str, *arguments: str) -> None:
        """The arguments are wrong usage, and the one that is wrong is named."""
        done = self.tour(verb, *arguments)
        self.assertEqual((done.exit_code, done.stdout), (2, ""), f"{arguments}: {done}")
        self.assertIn(name, done.stderr.splitlines()[-1], done)

    def test_ids(self) -> None:
        """A task that is not there, whatever its id, is an error of one line; an empty id is wrong usage."""
        for verb in ONLINE:
            if "task" in {p.name for p in verb.command.params}:
                for task_id in (
                    "t2",
                    "a/b?c#d",
                    "-x",
                    "--help",
                    "..",
                    "%2e",
                    "\x1b[2J",
                    "x" * 300,
                    "x" * 9000,
                    "\u20ac",
                ):
                    done = self.tour(verb, *verb.arguments(task=task_id))
                    self.assertEqual((done.exit_code, done.stdout), (1, ""), f"{verb} {task_id}: {done}")
                self.refused(verb, "TASK", *verb.arguments(task=""))

    def test_addresses(self) -> None:
        """A text that is no address, or that of nobody known, is an error of one line; an empty one is wrong usage."""
        for verb in VERBS:
            names = {p.name: p for p in verb.command.params if p.name in ("to", "from_", "peer", "address")}
            for name, parameter in names.items():
                for text in ("bob", UNKNOWN, "-1", "\x1b[2J"):
                    self.tour(verb, *self.with_value(verb, parameter, text))
                shown = parameter.opts[0] if isinstance(parameter, click.Option) else str(name).upper()
                self.refused(verb, shown, *self.with_value(verb, parameter, ""))

    def with_value(self, verb: Verb, parameter: click.Parameter, text: str) -> list[str]:
        """The arguments of a verb with one value that may be wrong."""
        if isinstance(parameter, click.Argument):
            return verb.arguments(**{str(parameter.name): text})
        return with_options(verb.arguments(), parameter.opts[0], text)

    def test_units(self) -> None:
        """A value of another kind or unit is wrong usage that names the option and the value."""
        wrong: list[tuple[type[object], tuple[str, ...]]] = [
            (Duration, ("soon", "", "-1", "nan", "5 parsecs", "1m1h", "99999999999w")),
            (Moment, ("soon", "", "2026-04-09", "noon", "+99999999w")),
            (click.IntRange, ("x", "", "0", "-1", "1.5")),
            (click.types.IntParamType, ("x", "", "1.5")),
            (click.Choice, ("x", "")),
        ]
        for verb in VERBS:
            for option in verb.options():
                for kind, values in wrong:
                    if type(option.type) is kind:
                        for value in values:
                            arguments = with_options(verb.arguments(), option.opts[0], value)
                            self.refused(verb, f"'{option.opts[0]}'", *arguments)

    def test_undecodable_bytes(self) -> None:
        """Bytes that are not UTF-8 are wrong usage that names the parameter, unless it names a file."""
        for verb in VERBS:
            for parameter in verb.command.params:
                is_own = not isinstance(parameter, GlobalOption)
                if is_own and isinstance(parameter.type, click.types.StringParamType):
                    shown = parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.name).upper()
                    self.refused(verb, shown, *self.with_value(verb, parameter, UNDECODABLE))

    def test_unknown_options(self) -> None:
        """An option that there is not, and an argument too many, are wrong usage."""
        for verb in VERBS:
            words = verb.name.split()
            self.refused(verb, "--no-such-option", *words, "--no-such-option")
            self.assertEqual(self.tour(verb, *verb.arguments(), "a", "b", "c").exit_code, 2)


class OutputTests(TourTestCase):
    """Output that is not taken, or not as it is."""

    def test_help(self) -> None:
        """Every verb has help, at any width of the terminal, and its lines are not longer than they need be."""
        for columns in ("1", "40", "80", "500", "0", "many"):
            self.patch(os, "environ", {**os.environ, "COLUMNS": columns})
            for verb in VERBS:
                done = self.tour(verb, *verb.name.split(), "--help", is_terminal=True)
                self.assertEqual(done.exit_code, 0)
                self.assertIn("--state-dir", done.stdout)

    def test_short_help(self) -> None:
        """The list of verbs says of each what it does in a whole line, on a terminal of 80 columns."""
        self.patch(os, "environ", {**os.environ, "COLUMNS": "80"})
        for words in ((), ("trust",)):
            text = self.run_command(*words, "--help").stdout.partition("\nCommands:\n")[2]
            self.assertNotIn("...", text)
            self.assertTrue(all(line.startswith("  ") and len(line) <= 80 for line in text.splitlines()), text)

    def test_terminals(self) -> None:
        """Every verb prints on a terminal of any width."""
        for columns in ("1", "40", "500", "0", "many"):
            self.patch(os, "environ", {**os.environ, "COLUMNS": columns})
            for verb in VERBS:
                self.tour(verb, *verb.arguments(), is_terminal=True)

    def test_locales(self) -> None:
        """Every verb prints in an encoding that lacks what peers have written."""
        for encoding in ("latin-1", "cp437"):
            for verb in VERBS:
                self.tour(verb, *verb.arguments(), stdout=Stream(encoding=encoding))
                self.tour(verb, *with_options(verb.arguments(), "--json"), stdout=Stream(encoding=encoding))

    def test_closed_pipe(self) -> None:
        """Every verb ends as by SIGPIPE, without a word, when the reader of its output is gone."""
        for verb in VERBS:
            for arguments in (verb.arguments(), [*verb.name.split(), "--help"]):
                done = self.tour(verb, *arguments, stdout=BrokenStream(errno.EPIPE))
                self.assertIn(done.exit_code, (1, 4, 141), done)  # what it refuses is told elsewhere

    def test_full_device(self) -> None:
        """Every verb says that its output could not be written, unless it has another error to tell."""
        for verb in VERBS:
            for arguments in (verb.arguments(), [*verb.name.split(), "--help"]):
                done = self.tour(verb, *arguments, stdout=BrokenStream(errno.ENOSPC))
                self.assertIn(done.exit_code, (1, 4), done)


class PrintedTests(TourTestCase):
    """Commands that the program prints."""

    def commands(self, text: str) -> list[list[str]]:
        """The commands in a text, as their words."""
        return [shlex.split(found)[1:] for found in re.findall(r"`(tasksubmit [^`]+)`", text)]

    def test_hints(self) -> None:
        """The commands in the hints of errors are complete, for any id."""
        for task_id in ("t1", "-x"):
            for fault in FAULTS.values():
                for words in self.commands(fault.hint.replace("wait ID", "wait ID --timeout 0")):
                    command = command_line(" ".join(words), task_id)
                    self.assertNotEqual(self.run_command(*shlex.split(command)[1:]).exit_code, 2, command)

    def test_errors(self) -> None:
        """An error about a task prints commands about that task."""
        self.receive("-x")
        self.ok("decline", "--justification", "no time", "--", "-x")
        for arguments in (("accept", "--", "-x"), ("accept", "t2"), ("result", "t1"), ("execute", "t1")):
            done = self.run_command(*arguments)
            self.assertEqual(done.exit_code, 1, done)
            found = self.commands(done.stderr)
            self.assertTrue(found, done)
            for words in found:
                self.assertEqual(self.run_command(*words).exit_code, 0, words)
