"""What all contracts have in common: they are mixins, for whichever kind of test case."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

if TYPE_CHECKING:
    Base = TestCase
else:
    Base = object  # so that nobody runs a contract by itself


class Contract(Base):
    """Tests that any implementation has to pass. Inherit from a contract first, and from a test case after it.

    The tests are coroutines. ``twisted.trial.unittest.TestCase`` waits for them while the reactor runs. Any other kind
    of test case runs them at once, which does for implementations whose Deferreds have fired when they are returned.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if issubclass(cls, unittest.TestCase) and not issubclass(cls, TestCase):
            for name in dir(cls):
                if name.startswith("test") and iscoroutinefunction(test := getattr(cls, name)):
                    setattr(cls, name, _at_once(test))


def _at_once(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    @wraps(test)
    def run(case: Any) -> None:
        outcome: list[Any] = []
        Deferred.fromCoroutine(test(case)).addBoth(outcome.append)
        if not outcome:
            raise AssertionError("this waits for a reactor: inherit from twisted.trial.unittest.TestCase instead")
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()

    return run
