"""The locks in ``.ci/locks``, which pip verifies packages with: they fit setup.cfg for each supported Python."""

from __future__ import annotations

import configparser
import re
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[1]
MAKER = runpy.run_path(str(ROOT / ".ci" / "lock.py"))
PIN = re.compile(r"[\w.-]+(\[[\w,-]+\])?==\S+( \\\n +--hash=sha256:[0-9a-f]{64})+")
RENEW = "run 'python3 .ci/lock.py'"

Pins = dict[str, tuple[str, frozenset[str]]]
"""The version and the extras of each package in a lock."""


def entries(text: str) -> list[str]:
    """Return the entries of a lock, each of them over several lines, without comments."""
    return re.split(r"(?<!\\)\n", re.sub(r"(?m)^ *#.*\n?", "", text).strip())


def read_pins(text: str) -> Pins:
    """Return what a lock pins."""
    found = [Requirement(entry.partition(" ")[0]) for entry in entries(text)]
    return {
        canonicalize_name(pin.name): (str(pin.specifier).removeprefix("=="), frozenset(pin.extras)) for pin in found
    }


def lacks(pins: Pins, needed: Iterable[str], python: str) -> Iterator[str]:
    """Give the requirements that a lock does not satisfy on a version of Python, such as ``3.10``."""
    for line in needed:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"python_version": python}):
            continue
        version, extras = pins.get(canonicalize_name(requirement.name), ("", frozenset[str]()))
        if not version or not requirement.specifier.contains(version) or requirement.extras - extras:
            yield line


class LocksTests(SynchronousTestCase):
    """What is in the locks."""

    def read(self, name: str) -> str:
        """The text of a lock."""
        return (ROOT / ".ci" / "locks" / name).read_text("utf-8")

    def test_complete(self) -> None:
        """Each supported Python has its locks, and there are no others."""
        names = {f"{python}{kind}.txt" for python in MAKER["supported_pythons"]() for kind in MAKER["KINDS"]}
        self.assertIn("3.11-dev.txt", names)
        self.assertEqual({path.name for path in (ROOT / ".ci" / "locks").iterdir()}, names, RENEW)

    def test_satisfy_setup(self) -> None:
        """Each lock satisfies what setup.cfg and pyproject.toml require, extras and bounds included."""
        for python in MAKER["supported_pythons"]():
            for kind, extras in MAKER["KINDS"].items():
                found = list(lacks(read_pins(self.read(f"{python}{kind}.txt")), MAKER["requirements"](extras), python))
                self.assertEqual(found, [], f"{python}{kind}.txt: {RENEW}")

    def test_requirements(self) -> None:
        """A lock for an extra is for the project's own extras that this one names, and for builds, too."""
        needed = MAKER["requirements"](("dev",))
        for name in ("setuptools", "Twisted", "tomli", "hypothesis", "mypy"):
            self.assertTrue([line for line in needed if line.startswith(name)], name)
        self.assertFalse([line for line in needed if line.startswith(("tasksubmit", "celery", "atheris", "#"))])

    def test_unsatisfied(self) -> None:
        """A package that is not in a lock, a bound above its version, and an extra that is new are noticed."""
        pins = read_pins("# uv\ntwisted[tls]==26.10.0 \\\n    --hash=sha256:00\n    # via x\nzope-interface==8.0\n")
        fine = ["Twisted[tls] >= 26.4", "zope.interface >= 7", 'tomli >= 2; python_version < "3.11"']
        self.assertEqual(list(lacks(pins, fine, "3.14")), [])
        self.assertEqual(list(lacks(pins, fine, "3.10")), fine[2:])
        wrong = ["attrs", "Twisted >= 26.11", "Twisted[http2, tls] >= 26.4"]
        self.assertEqual(list(lacks(pins, wrong, "3.14")), wrong)

    def test_hashes(self) -> None:
        """Every package in every lock has one version and its hashes."""
        for path in (ROOT / ".ci" / "locks").iterdir():
            for entry in entries(path.read_text("utf-8")):
                self.assertTrue(PIN.fullmatch(entry), f"{path.name}: {entry}")

    def test_same_versions(self) -> None:
        """Nodes run with the versions that the tests ran with, and those with what is developed with."""
        for python in MAKER["supported_pythons"]():
            dev, test, run = (read_pins(self.read(f"{python}{kind}.txt")).items() for kind in ("-dev", "-test", ""))
            self.assertLessEqual(run, test)
            self.assertLessEqual(test, dev)


class UseTests(SynchronousTestCase):
    """Who installs from the locks."""

    def test_tox(self) -> None:
        """Every environment of tox uses a lock, but for ``unlocked``."""
        tox = configparser.ConfigParser(interpolation=None)
        tox.read(ROOT / "tox.ini", encoding="utf-8")
        base = tox["testenv"]["deps"]
        environments = {name.removeprefix("testenv:"): tox[name] for name in tox.sections() if ":" in name}
        without = [
            name
            for name, section in environments.items()
            if ".ci/locks/" not in section.get("deps", base) + section.get("set_env", "")
        ]
        self.assertIn(".ci/locks/", base)
        self.assertEqual(without, ["unlocked"])

    def test_ci(self) -> None:
        """The continuous integration verifies the hashes of all that it installs with pip."""
        installs = re.findall(r"(?m)^.*pip\"? install.*$", (ROOT / ".ci" / "run").read_text("utf-8"))
        self.assertEqual(len(installs), 2)
        for line in installs:
            self.assertTrue("--require-hashes" in line or line.strip().startswith("offline "), line)
