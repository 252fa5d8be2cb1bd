"""Who may import whom: dependencies point down only, and the ground floor knows nothing of Twisted."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

PACKAGE = Path(__file__).resolve().parents[1] / "tasksubmit"

GROUND, EDGES, NODE, FRONT_DOOR, FACES = range(5)

#: The floor of each package and module. `tasksubmit` itself is the front door: names from below, handed to users.
FLOORS = {
    "wire": GROUND,
    "lifecycle": GROUND,
    "interfaces": GROUND,
    "errors": GROUND,
    "pieces": GROUND,
    "validation": GROUND,
    "durations": GROUND,
    "module_form": GROUND,
    "commandline": GROUND,
    "visible": GROUND,
    "protocol": EDGES,
    "logs": EDGES,
    "permissions": EDGES,
    "stores": EDGES,
    "pilot": EDGES,
    "tls": EDGES,
    "node": NODE,
    "": FRONT_DOOR,
    "tap": FACES,
    "settings": FACES,
    "state_dir": FACES,
    "cli": FACES,
    "web": FACES,
    "testing": FACES,
    "__main__": FACES,
}

#: The only ones that may know the global reactor; everybody else is handed one.
REACTOR_USERS = {"tap", "cli", "__main__"}

#: Programs that run tests. The test kit works with each of them and needs none; contracts know trial's test case.
RUNNERS = ("twisted.trial", "pytest", "_pytest")
CONTRACTS = "tasksubmit.testing.contracts."


@frozen
class Import:
    """One name that a module imports: its full name, and whether only type checkers ever do so."""

    name: str
    for_types_only: bool


def part_of(module: str) -> str:
    """The package or module right under `tasksubmit` that `module` belongs to; empty for `tasksubmit` itself."""
    return [*module.split("."), ""][1]


def imports(module: str, source: str, is_package: bool = False) -> Iterator[Import]:
    """Every import in the source, at any depth; ``from a import b`` counts as ``a.b``."""

    def visit(node: ast.AST, for_types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, for_types_only)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: -node.level + is_package or None] if node.level else []
            origin = [*above, node.module] if node.module else above
            for alias in node.names:
                yield Import(".".join([*origin, alias.name]), for_types_only)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for guarded in node.body:
                yield from visit(guarded, True)
            for other in node.orelse:
                yield from visit(other, for_types_only)
        else:
            for child in ast.iter_child_nodes(node):
                yield from visit(child, for_types_only)

    return visit(ast.parse(source), False)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    """A sentence for each import in the source that the rules forbid."""
    part = part_of(module)
    found = []
    for imported in imports(module, source, is_package):
        name = imported.name
        if name.split(".")[0] == "tasksubmit":
            target = part_of(name) if part_of(name) in FLOORS else ""  # else a name that the front door hands out
            if FLOORS[target] > FLOORS[part]:
                found.append(f"{module} imports {name} from a floor above")
            if target == "testing" != part:
                found.append(f"{module} imports {name}, which is for tests")
        elif name.split(".")[0] == "twisted":
            if FLOORS[part] == GROUND and not imported.for_types_only:
                found.append(f"{module} is on the ground floor and imports {name}")
            if name.startswith("twisted.internet.reactor") and part not in REACTOR_USERS:
                found.append(f"{module} imports the global reactor")
        is_for_contracts = module.startswith(CONTRACTS) and name == "twisted.trial.unittest.TestCase"
        if name.startswith(RUNNERS) and not is_for_contracts:
            found.append(f"{module} imports {name}, which belongs to one of the programs that run tests")
    return found


def modules() -> Iterator[tuple[str, Path]]:
    """The name and the file of each module in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


class LayersTests(SynchronousTestCase):
    """The package as it is."""

    def test_every_part_has_a_floor(self) -> None:
        """Each module belongs to a part whose floor is known."""
        self.assertEqual({part_of(name) for name, _ in modules()} - FLOORS.keys(), set())

    def test_imports_point_down(self) -> None:
        """No module imports from a floor above it, the test kit, Twisted on the ground floor, or the reactor."""
        found = [
            violation
            for name, path in modules()
            for violation in violations(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
        ]
        self.assertEqual(found, [])

    def test_ground_floor_runs_without_twisted(self) -> None:
        """Reading frames and asking the lifecycle table load nothing of Twisted."""
        code = "import sys, tasksubmit.wire, tasksubmit.lifecycle.table; print('twisted' in sys.modules)"
        output = subprocess.check_output([sys.executable, "-c", code], cwd=PACKAGE.parent, text=True)
        self.assertEqual(output.strip(), "False")


class CheckerTests(SynchronousTestCase):
    """The checker itself: each rule is seen to refuse something."""

    def assert_refused(self, module: str, source: str, words: str) -> None:
        """The source is refused once for the words, and for nothing else."""
        found = violations(module, source)
        self.assertNotEqual(found, [], source)
        for violation in found:
            self.assertIn(words, violation)

    def test_upward(self) -> None:
        """An import from a floor above is refused, in every spelling and even where only type checkers see it."""
        for source in (
            "import tasksubmit.node.service",
            "from tasksubmit.node.service import Node",
            "from tasksubmit import node",
            "from tasksubmit import Node",
            "from ..node import service",
            "from .. import node",
            "def later():\n    from tasksubmit import node",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tasksubmit.node import service",
        ):
            self.assert_refused("tasksubmit.stores.sqlite", source, "floor above")

    def test_downward_and_sideways(self) -> None:
        """Imports from the same floor and from those below are fine."""
        source = "from tasksubmit.wire import frames\nfrom tasksubmit import errors, lifecycle\nfrom . import codec\n"
        self.assertEqual(violations("tasksubmit.stores.sqlite", source), [])
        self.assertEqual(violations("tasksubmit.cli", "from tasksubmit import Node, __version__"), [])
        self.assertEqual(violations("tasksubmit.stores", "from .sqlite import SQLiteTaskStore", is_package=True), [])

    def test_testing(self) -> None:
        """Nothing but the test kit itself imports the test kit."""
        self.assert_refused("tasksubmit.cli.demo", "from tasksubmit.testing import network", "for tests")
        self.assertEqual(violations("tasksubmit.testing.fakes", "from tasksubmit.testing import network"), [])

    def test_runners(self) -> None:
        """Nothing needs a program that runs tests; contracts alone know the test case of trial."""
        case = "from twisted.trial.unittest import TestCase"
        for source in (case, "import pytest", "from pytest import fixture", "from twisted.trial import util"):
            self.assert_refused("tasksubmit.testing.agents", source, "run tests")
        self.assert_refused("tasksubmit.testing.contracts.base", "from twisted.trial.util import wait", "run tests")
        self.assertEqual(violations("tasksubmit.testing.contracts.base", case), [])

    def test_twisted_on_the_ground_floor(self) -> None:
        """The ground floor may name Twisted's types, and nothing more of it."""
        source = "from twisted.internet.defer import Deferred"
        guarded = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {source}"
        self.assert_refused("tasksubmit.wire.frames", source, "ground floor")
        self.assert_refused("tasksubmit.wire.frames", f"{guarded}\nelse:\n    {source}", "ground floor")
        self.assertEqual(violations("tasksubmit.interfaces", guarded), [])

    def test_reactor(self) -> None:
        """The global reactor is for those who start processes only, wherever in the module the import stands."""
        for source in (
            "from twisted.internet import reactor",
            "import twisted.internet.reactor",
            "from twisted.internet.reactor import callLater",
            "def late():\n    from twisted.internet import defer, reactor",
        ):
            self.assert_refused("tasksubmit.node.service", source, "global reactor")
            self.assertEqual(violations("tasksubmit.cli.main", source), [])
