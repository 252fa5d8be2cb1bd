"""The executor ``python``: calls a function, the operator's or that of the application which embeds the node."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn

from attrs import field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.reflect import namedAny
from typing_extensions import override
from zope.interface import implementer

from tasksubmit.errors import ConfigurationError, ExecutionFailed
from tasksubmit.interfaces import EventualResult, Execution, ExecutionResult, IExecutor
from tasksubmit.lifecycle.table import Lease
from tasksubmit.node.ending import to_its_end
from tasksubmit.node.executors.options import bound_lease, count, flag, read_options, seconds
from tasksubmit.validation import FUNCTION, instance_of

Function = Callable[[Execution], EventualResult]
"""What does a task; raises `ExecutionFailed` when it cannot be done."""


@implementer(IExecutor)
@frozen
class CallableExecutor:
    """Calls a function with each `Execution`, on the reactor's thread.

    :ivar function: returns the results, a Deferred or a coroutine; see `IExecutor.execute`.
    :ivar lease: by default that of work which ends with the node, without a limit of its own but for that of a day.
    """

    function: Function = field(validator=FUNCTION)
    lease: Lease = field(kw_only=True, factory=lambda: bound_lease(1, None), validator=instance_of(Lease))

    def execute(self, execution: Execution) -> EventualResult:
        """See `IExecutor.execute`."""
        return self.function(execution)

    @override
    def __str__(self) -> str:
        function = self.function
        return f"python:{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', repr(function))}"


def make_executor(reactor: Any, *arguments: str, **options: str) -> IExecutor:
    """See `IExecutorMaker.make_executor`.

    :raises ConfigurationError: when there is no such function, or an option is wrong.
    """
    if len(arguments) != 2:
        raise ConfigurationError("expected MODULE:FUNCTION")
    values = read_options(options, {"timeout": seconds, "attempts": count, "thread": flag})
    function = _named(*arguments)
    if values.get("thread"):
        function = _in_thread(reactor, function)
    timeout = values.get("timeout")
    if timeout is not None:
        function = _limited(reactor, function, timeout)
    return CallableExecutor(function, lease=bound_lease(values.get("attempts", 1), timeout))


def _named(module: str, name: str) -> Function:
    try:
        function = namedAny(f"{module}.{name}")
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigurationError(f"{module}:{name} cannot be imported: {type(error).__name__}: {error}") from None
    if not callable(function):
        raise ConfigurationError(f"{module}:{name} is not a function but {type(function).__name__}")
    named: Function = function
    return named


def _in_thread(reactor: Any, function: Function) -> Function:
    """The function, called in a thread of the reactor's. It cannot be interrupted: whoever cancels it waits."""

    @wraps(function)
    async def call(execution: Execution) -> ExecutionResult:
        there = Execution(execution.task, lambda text: reactor.callFromThread(execution.progress, text))
        work: Deferred[Any] = deferToThreadPool(reactor, reactor.getThreadPool(), function, there)
        result: ExecutionResult = await to_its_end(work, lambda: None)
        return result

    return call


def _limited(reactor: Any, function: Function, timeout_seconds: float) -> Function:
    """The function, cancelled when it takes too long."""

    def too_long(result: object, timeout: float) -> NoReturn:
        raise ExecutionFailed(f"it took longer than {timeout:g} s")

    @wraps(function)
    def call(execution: Execution) -> Deferred[ExecutionResult]:
        called: Callable[[Execution], Any] = function
        work: Deferred[ExecutionResult] = maybeDeferred(called, execution)
        return work.addTimeout(timeout_seconds, reactor, too_long)

    return call
