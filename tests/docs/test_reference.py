"""The reference is whole: whatever the code has is on its page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

import tasksubmit
from sitegen import GENERATED
from sitegen.errors import ON_THE_WIRE, OUTCOMES
from sitegen.messages import MESSAGES
from tasksubmit import errors
from tasksubmit.cli.commands import tasksubmit as command_line
from tasksubmit.cli.identity import trust
from tasksubmit.cli.parameters import GlobalOption
from tasksubmit.lifecycle.table import TRANSITIONS
from tasksubmit.node.courier import WORTH_TRYING_AGAIN
from tasksubmit.settings import Settings
from tasksubmit.state_dir import CONTROL_SOCKET
from tasksubmit.stores.results import INCOMING
from tasksubmit.stores.sqlite import DATABASE, LOCK, RESULTS
from tasksubmit.tap import Options
from tasksubmit.web.faults import FAULTS
from tasksubmit.web.routes import OPENAPI_PATH, PREFIX, ROUTES
from tasksubmit.wire.records import Message, Record
from tests.docs import DOCS
from tests.docs.pages import pages

PACKAGE = Path(tasksubmit.__file__).parent


def sources() -> Iterator[str]:
    """The text of every module."""
    for path in PACKAGE.rglob("*.py"):
        yield path.read_text("utf-8")


class GeneratedTests(SynchronousTestCase):
    """What is made of the code."""

    def test_used(self) -> None:
        """Each text is on one page, and no page asks for one that there is not."""
        asked = [name for page in pages() for name in re.findall(r"^\.\. generated:: (\S+)$", page.read_text(), re.M)]
        self.assertEqual(sorted(asked), sorted(GENERATED))

    def test_same(self) -> None:
        """A text is the same each time."""
        for make in GENERATED.values():
            self.assertEqual(make(), make())

    def test_options(self) -> None:
        """Every option has a row: the settings, and those of the plugin alone."""
        text = GENERATED["options"]()
        names = {setting.name.replace("_", "-") for setting in attrs.fields(Settings)}
        names |= {name for name, *_ in (*Options.optFlags, *Options.optParameters)}
        for name in names:
            self.assertIn(f" - ``--{name}``\n", text)
        self.assertIn("``--version``", text)

    def test_verbs(self) -> None:
        """Every verb has a section, with each of its options and arguments; global options come before all."""
        text = GENERATED["verbs"]()
        for parameter in command_line.params:
            self.assertIn(parameter.opts[0], text.split("\n---", 1)[0])
        inner = {f"trust {name}": command for name, command in trust.commands.items()}
        for name, command in {**command_line.commands, **inner}.items():
            section = text.split(f"\n\n{name}\n---", 1)[1].split("\n---", 1)[0]
            for parameter in command.params:
                for option in () if isinstance(parameter, GlobalOption) else parameter.opts:
                    self.assertIn(option if option.startswith("-") else option.upper(), section, name)

    def test_routes(self) -> None:
        """Every route has a section, with each key that it takes; every answer has one, with each of its keys."""
        text, answers = GENERATED["routes"](), GENERATED["objects"]()
        for route in ROUTES:
            heading = f"{route.method} {PREFIX}{route.path}\n"
            section = text.split(f"{heading}{'-' * (len(heading) - 1)}", 1)[1].split("\n--", 1)[0]
            for cls in (route.query, route.body):
                for field in attrs.fields(cls):
                    self.assertIn(f" - ``{field.name.rstrip('_')}``\n", section, heading)
            for view in getattr(route.answers, "__args__", (route.answers,)):
                for field in attrs.fields(view):
                    self.assertIn(f" - ``{field.name.rstrip('_')}``\n", answers.split(f"{view.__name__}\n--", 1)[1])
        self.assertIn(f"GET {OPENAPI_PATH}\n", text)

    def test_messages(self) -> None:
        """Every message of the package has a section, and every field of it a row."""
        text = GENERATED["messages"]()
        self.assertEqual(
            {*Message.__subclasses__(), *Record.__subclasses__()} - {Message},
            set(MESSAGES),
        )
        for cls in MESSAGES:
            section = text.split(f"{cls.__name__}\n--", 1)[1]
            for field in attrs.fields(cls):
                self.assertIn(f" - ``{field.name.rstrip('_')}``\n", section)

    def test_exceptions(self) -> None:
        """Every exception has a row."""
        text = GENERATED["exceptions"]()
        for name, value in vars(errors).items():
            if isinstance(value, type) and issubclass(value, errors.TaskSubmitError):
                self.assertIn(f" - ``{name}``\n", text)

    def test_outcomes(self) -> None:
        """The words for how a task ended are those of the table."""
        self.assertEqual(set(OUTCOMES), {transition.outcome for transition in TRANSITIONS.values()} - {""})


class CodeTests(SynchronousTestCase):
    """The codes of errors."""

    def codes(self) -> Iterator[str]:
        """Every code that is written down somewhere in the package."""
        makers = ("Refusal", "CommandFailed", "ApiError", "_fail", "_error", "rejection", "__init__")
        for source in sources():
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in makers:
                    words = [str(one.value) for one in node.args if isinstance(one, ast.Constant)]
                    yield from filter(re.compile("[a-z_]+").fullmatch, words)

    def test_codes(self) -> None:
        """Every code that the package gives has a row, and so have those of the protocol."""
        text = GENERATED["error-codes"]()
        found = set(self.codes())
        self.assertTrue({"not_a_peer", "unreachable", "overloaded"} <= found, found)
        for code in {*found, *FAULTS, *ON_THE_WIRE, *WORTH_TRYING_AGAIN}:
            self.assertIn(f" - ``{code}``\n", text)

    def test_meanings(self) -> None:
        """Every code says what it means."""
        rows = GENERATED["error-codes"]().split("\n   * - ")[1:]
        for row in rows:
            self.assertRegex(row.rstrip().rsplit("\n", 1)[1], r"     - \S", row)


class EnvironmentTests(SynchronousTestCase):
    """The page of variables and files."""

    PAGE = DOCS / "reference" / "environment.rst"

    def test_variables(self) -> None:
        """Every variable that the package reads is there, and none that it does not."""
        read = {name for source in sources() for name in re.findall(r'"((?:TASKSUBMIT|XDG)_[A-Z_]+)"', source)}
        told = set(re.findall(r"``((?:TASKSUBMIT|XDG)_[A-Z_]+)``", self.PAGE.read_text()))
        self.assertEqual(told, read | {"TASKSUBMIT_DEBUG"})

    def test_files(self) -> None:
        """Every file of a state directory is there."""
        text = self.PAGE.read_text()
        for name in (DATABASE, f"{DATABASE}-wal", f"{RESULTS}/", f"{RESULTS}/{INCOMING}/", LOCK, CONTROL_SOCKET):
            self.assertIn(f"``{name}``", text)
