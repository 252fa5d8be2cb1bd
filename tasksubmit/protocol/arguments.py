"""Arguments of methods that return Deferreds: a wrong one fails the Deferred.

So callers handle errors in one way, whatever is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint, IStreamServerEndpoint
from typing_extensions import ParamSpec

from tasksubmit.validation import Kind, checker, provides

P = ParamSpec("P")
T = TypeVar("T")

CLOCK = provides(IReactorTime, "the reactor, or a task.Clock")
CLIENT_ENDPOINT = provides(
    IStreamClientEndpoint, "clientFromString(reactor, 'tcp:HOST:PORT') of twisted.internet.endpoints makes one"
)
SERVER_ENDPOINT = provides(
    IStreamServerEndpoint, "serverFromString(reactor, 'tcp:PORT') of twisted.internet.endpoints makes one"
)


def checked_later(**kinds: Kind[Any]) -> Callable[[Callable[P, Deferred[T]]], Callable[P, Deferred[T]]]:
    """Decorate a function so that the Deferred that it returns fails for arguments of other kinds.

    It fails with the ``TypeError`` or ``ValueError`` of `Kind.check`; the function is not called then.
    """

    def decorate(function: Callable[P, Deferred[T]]) -> Callable[P, Deferred[T]]:
        check = checker(function, kinds)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
            try:
                check(args, kwargs)
            except (TypeError, ValueError):
                return fail()
            return function(*args, **kwargs)

        return call

    return decorate
