"""Executors by name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from tasksubmit.errors import ConfigurationError
from tasksubmit.interfaces import IExecutor, IExecutorMaker
from tasksubmit.node import executors
from tasksubmit.node.executors import executor_makers, make_executor
from tasksubmit.node.executors.process import ProcessExecutor
from tasksubmit.node.executors.python import CallableExecutor


@implementer(IExecutorMaker)
class Theirs:
    """A maker that somebody else ships."""

    name = "theirs"
    usage = "ANYTHING"
    summary = "Does what it is told."

    def make_executor(self, reactor: object, *arguments: str, **options: str) -> IExecutor | None:
        """See `IExecutorMaker.make_executor`."""
        if options:
            raise ConfigurationError("no options, please")
        return CallableExecutor(lambda execution: " ".join(arguments))


class NameTests(SynchronousTestCase):
    """`make_executor` and the plugins that it finds."""

    def test_ours(self) -> None:
        """The three that come with the package are found, by name."""
        self.assertEqual(list(executor_makers()), ["manual", "process", "python"])
        self.assertIsNone(make_executor(Clock(), "manual"))
        self.assertIsInstance(make_executor(Clock(), "process:cat -n:timeout=3"), ProcessExecutor)
        self.assertIsInstance(make_executor(Clock(), "python:os:getcwd"), CallableExecutor)

    def test_theirs(self) -> None:
        """Any plugin is as good."""
        self.patch(executors, "getPlugins", lambda interface: [Theirs()])
        self.assertIsInstance(make_executor(Clock(), r"theirs:a\:b:c"), CallableExecutor)

    def test_refused(self) -> None:
        """A name that nobody has, and arguments that are wrong, are refused with what there is."""
        for text, words in (
            ("", "there is no executor ''; there are manual, process, python"),
            ("cat", "there is no executor 'cat'"),
            ("manual:x", "it takes nothing after its name"),
            ("python:os", "expected MODULE:FUNCTION (python:MODULE:FUNCTION["),
        ):
            self.assertIn(words, str(self.assertRaises(ConfigurationError, make_executor, Clock(), text)))

    def test_light(self) -> None:
        """The plugin file loads no executor, and no reactor, until one is made."""
        code = (
            "import sys, twisted.plugins.tasksubmit_executors\n"
            "print(sys.modules.keys() & {'twisted.internet.reactor', 'tasksubmit.node.executors.process'})"
        )
        self.assertEqual(subprocess.check_output([sys.executable, "-c", code], text=True), "set()\n")
        self.assertEqual(import_module("twisted.plugins.tasksubmit_executors").manual.name, "manual")
