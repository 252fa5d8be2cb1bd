"""What pip makes of the project, and what twistd makes of that: wheel, sdist and editable, in real environments.

Nothing is downloaded: each environment shows the packages of the running one, all but ours.
"""

from __future__ import annotations

import atexit
import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase

import twisted
from tests import processes
from tests.tiers import tier

if TYPE_CHECKING:
    Base = SynchronousTestCase
else:
    Base = object  # so that trial runs the subclasses only

CHECKOUT = Path(__file__).resolve().parents[2]
FOLDERS = ("tasksubmit", "twisted", "tests", "benchmarks", "docs", "examples", "changelog.d", ".ci")
LEFTOVERS = shutil.ignore_patterns("__pycache__", "dropin.cache", "_build")
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
INSTALL = ("install", "--no-deps", "--no-build-isolation", "--no-index")
TWISTED_FOLDERS = "import os, twisted, twisted.internet.defer; print(*map(os.path.abspath, twisted.__path__))"


def run(*command: str | Path, cwd: Path, user: str | None = None) -> str:
    """Runs a command away from the checkout, and returns what it prints, warnings included.

    :raises AssertionError: when it fails, with all that it printed.
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    done = processes.run(command, cwd=cwd, user=user, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}")
    return done.stdout


def copy_checkout(target: Path) -> Path:
    """Copies what belongs to the project, and no leftovers of builds and runs, to a new directory."""
    for folder in FOLDERS:
        shutil.copytree(CHECKOUT / folder, target / folder, ignore=LEFTOVERS)
    for path in CHECKOUT.iterdir():
        if path.is_file():
            shutil.copy(path, target)
    return target


def files_of(tree: Path, folder: str) -> list[str]:
    """The files under a folder of the tree, as paths from the top of the tree."""
    return [path.relative_to(tree).as_posix() for path in (tree / folder).rglob("*") if path.is_file()]


def read_setup() -> configparser.ConfigParser:
    """The project's setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    return setup


def call_backend(tree: Path, hook: str) -> Path:
    """Has the project's build backend make one thing of the tree (PEP 517), and returns where it is."""
    output = tree.with_name(f"{tree.name}-dist")
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.{hook}({str(output)!r})", cwd=tree)
    (built,) = output.iterdir()
    return built


class Environment:
    """A virtual environment with the packages of the running one, all but ours, and with Twisted's own commands."""

    def __init__(self, root: Path) -> None:
        venv.create(root, symlinks=True)
        self.root = root
        self.bin = root / "bin"
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
        self.plugins = self.site / "twisted" / "plugins"
        self.plugins.mkdir(parents=True)
        source = Path(twisted.__file__).parents[1]
        hidden = {"__pycache__", "dropin.cache"}
        for folder in ("", "twisted", "twisted/plugins"):
            for entry in (source / folder).iterdir():
                shown = self.site / folder / entry.name
                if not shown.exists() and entry.name not in hidden and "tasksubmit" not in entry.name:
                    shown.symlink_to(entry)
        for command in ("twistd", "twist"):
            script = self.bin / command
            script.write_text(
                f"#!{self.bin / 'python'}\nfrom importlib.metadata import entry_points\n"
                f"(command,) = entry_points(group='console_scripts', name={command!r})\ncommand.load()()\n"
            )
            script.chmod(0o755)

    def pip(self, *arguments: str | Path) -> None:
        """Runs the running environment's pip for this one."""
        run(*PIP, "--python", self.bin / "python", *arguments, cwd=self.root)

    def python(self, code: str) -> str:
        """Runs code in a fresh interpreter and returns what it prints."""
        return run(self.bin / "python", "-c", code, cwd=self.root).strip()

    def serves(self, user: str) -> bool:
        """Whether the user may use the interpreter of this environment, which only root can find out."""
        try:
            run(self.bin / "python", "-c", "import twisted", cwd=self.root, user=user)
        except (AssertionError, OSError):
            return False
        return True

    def commands_with_plugin(self, user: str | None = None) -> list[str]:
        """Which of Twisted's commands offer ``tasksubmit`` in their ``--help``."""
        helps = {name: run(self.bin / name, "--help", cwd=self.root, user=user) for name in ("twistd", "twist")}
        return [name for name, text in helps.items() if "\n    tasksubmit " in text]


class InstalledMixin(Base):
    """What holds however the project was installed; a subclass says how, in ``install``."""

    @staticmethod
    def install(environment: Environment, work: Path) -> None:
        """Installs the project into the environment; ``work`` is a directory to build in."""
        raise NotImplementedError

    @classmethod
    def make_environment(cls) -> Environment:
        """A new environment with the project installed; it goes when the process ends."""
        work = Path(tempfile.mkdtemp(prefix="tasksubmit-")).resolve()
        atexit.register(shutil.rmtree, work)
        work.chmod(0o755)  # for other users
        environment = Environment(work / "environment")
        cls.install(environment, work)
        return environment

    @classmethod
    @cache
    def shared_environment(cls) -> Environment:
        """The environment for tests that leave it as it is; trial has no set-up for a class."""
        return cls.make_environment()

    def setUp(self) -> None:
        super().setUp()
        self.environment = self.shared_environment()

    def test_plugin_found(self) -> None:
        """Both of Twisted's commands offer ``tasksubmit``."""
        self.assertEqual(self.environment.commands_with_plugin(), ["twistd", "twist"])

    def test_plugin_found_by_other_user(self) -> None:
        """A user who cannot write the plugin cache is offered ``tasksubmit`` too."""
        plugins = self.environment.plugins
        cache = plugins / "dropin.cache"
        cache.unlink(missing_ok=True)
        user = None
        if os.geteuid() != 0:
            self.addCleanup(plugins.chmod, plugins.stat().st_mode)
            plugins.chmod(0o555)
        elif self.environment.serves("nobody"):
            user = "nobody"
        else:
            # Root may write anywhere, and nobody may not use this interpreter: a directory is in the way instead.
            (cache / "occupied").mkdir(parents=True)
            self.addCleanup(shutil.rmtree, cache)
        self.assertEqual(self.environment.commands_with_plugin(user), ["twistd", "twist"])
        self.assertFalse(cache.is_file(), "the cache was written after all")

    def test_twisted_intact(self) -> None:
        """Twisted is its own, not a directory of ours by that name."""
        self.assertEqual(self.environment.python(TWISTED_FOLDERS), str(self.environment.site / "twisted"))

    def test_plugin_is_light(self) -> None:
        """Reading the plugin, as every command of Twisted does, loads neither the reactor nor the node behind it."""
        heavy = ["twisted.internet.reactor", "tasksubmit.tap", "treq", "klein"]
        code = "import sys, twisted.plugins.tasksubmit_plugin; print(*[m for m in {} if m in sys.modules])"
        self.assertEqual(self.environment.python(code.format(heavy)), "")

    def test_runs_as_module(self) -> None:
        """``python -m tasksubmit run`` is a way in that needs no plugin."""
        output = run(self.environment.bin / "python", "-m", "tasksubmit", "run", "--help", cwd=self.environment.root)
        self.assertIn("Usage:", output)

    def test_console_script(self) -> None:
        """``tasksubmit`` is a command, and knows the version that setup.cfg has."""
        output = run(self.environment.bin / "tasksubmit", "--version", cwd=self.environment.root)
        self.assertIn(read_setup()["metadata"]["version"], output)

    def test_uninstall(self) -> None:
        """Uninstalling takes the plugin away from both commands, and nothing of Twisted."""
        environment = self.make_environment()
        environment.commands_with_plugin()  # leaves a plugin cache that has ours in it
        environment.pip("uninstall", "--yes", "tasksubmit")
        self.assertEqual(environment.commands_with_plugin(), [])
        self.assertEqual(environment.python(TWISTED_FOLDERS), str(environment.site / "twisted"))
        self.assertEqual(list(environment.site.rglob("*tasksubmit*")), [])


@tier("package")
class WheelTests(InstalledMixin, SynchronousTestCase):
    """Installed from a wheel."""

    @staticmethod
    def install(environment: Environment, work: Path) -> None:
        environment.pip(*INSTALL, call_backend(copy_checkout(work / "tree"), "build_wheel"))


@tier("package")
class SdistTests(InstalledMixin, SynchronousTestCase):
    """Installed from a source distribution."""

    @staticmethod
    def install(environment: Environment, work: Path) -> None:
        environment.pip(*INSTALL, call_backend(copy_checkout(work / "tree"), "build_sdist"))


@tier("package")
class EditableTests(InstalledMixin, SynchronousTestCase):
    """Installed as a path to a checkout."""

    @staticmethod
    def install(environment: Environment, work: Path) -> None:
        environment.pip(*INSTALL, "--editable", copy_checkout(work / "tree"))

    def test_is_editable(self) -> None:
        """What runs is the checkout."""
        origin = self.environment.python("import tasksubmit; print(tasksubmit.__file__)")
        self.assertEqual(origin, str(self.environment.root.parent / "tree" / "tasksubmit" / "__init__.py"))


PLUGINS = [
    "twisted/plugins/tasksubmit_endpoints.py",
    "twisted/plugins/tasksubmit_executors.py",
    "twisted/plugins/tasksubmit_plugin.py",
]


class ContentTests(SynchronousTestCase):
    """What is in the files that a release uploads, and in the tree that they are made from."""

    def build(self, hook: str) -> tuple[Path, Path]:
        """A copy of the checkout, and what the build backend makes of it."""
        tree = copy_checkout(Path(self.mktemp()).resolve())
        return tree, call_backend(tree, hook)

    def test_packages_listed(self) -> None:
        """setup.cfg lists every package of the tree, and the directory of the plugin."""
        modules = [path.relative_to(CHECKOUT) for path in CHECKOUT.glob("tasksubmit/**/__init__.py")]
        found = {".".join(path.parent.parts) for path in modules}
        listed = read_setup()["options"]["packages"].split()
        self.assertEqual(sorted(listed), sorted({*found, "twisted.plugins"}))

    def test_twisted_not_hidden(self) -> None:
        """``twisted/`` holds the plugins alone: an ``__init__.py`` there would hide Twisted, or our plugin from it."""
        files = [path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "twisted").rglob("*.py")]
        self.assertEqual(sorted(files), PLUGINS)

    @tier("package")
    def test_wheel(self) -> None:
        """The wheel has every file of the package, the plugin, its own metadata, and nothing else."""
        tree, built = self.build("build_wheel")
        with zipfile.ZipFile(built) as wheel:
            names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        self.assertEqual(sorted(names), sorted([*files_of(tree, "tasksubmit"), *PLUGINS]))
        self.assertIn("tasksubmit/py.typed", names)
        self.assertTrue(any(name.endswith(".sql") for name in names), "no schema in the wheel")
        self.assertTrue(built.name.endswith("-py3-none-any.whl"), built.name)

    @tier("package")
    def test_sdist(self) -> None:
        """The source distribution has the whole project, tests and docs included."""
        tree, built = self.build("build_sdist")
        with tarfile.open(built) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        wanted = {name for folder in FOLDERS for name in files_of(tree, folder)}
        wanted |= {"LICENSE", "README.rst", "CHANGELOG.rst", "CONTRIBUTING.rst", "pyproject.toml", "tox.ini"}
        self.assertEqual(wanted - names, set())
        self.assertEqual({name for name in names if name.endswith((".pyc", "dropin.cache"))}, set())
