"""What the plugins are that choose an executor by name: light, for Twisted loads them to see what there is."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import implementer

from tasksubmit.interfaces import IExecutor, IExecutorMaker


@implementer(IPlugin, IExecutorMaker)
@frozen
class ExecutorMaker:
    """An `IExecutorMaker` of which the function ``make_executor`` in the module named ``module`` does the work."""

    name: str
    module: str
    usage: str
    summary: str

    def make_executor(self, reactor: Any, *arguments: str, **options: str) -> IExecutor | None:
        """See `IExecutorMaker.make_executor`."""
        executor: IExecutor | None = import_module(self.module).make_executor(reactor, *arguments, **options)
        return executor
