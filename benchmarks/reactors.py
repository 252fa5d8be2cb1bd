"""Drivers that need a reactor."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred, FirstError

from benchmarks.processes import Spec, report

Work = Callable[[Any, Spec], Coroutine[Any, Any, Mapping[str, Any]]]
"""Is given the reactor and what to do, and returns what to report."""


def report_from_reactor(work: Work) -> None:
    """Be a driver, as `report` says, whose work is done while a reactor runs."""

    def run(spec: Spec) -> Mapping[str, Any]:
        found: dict[str, Any] = {}

        async def main(reactor: Any) -> None:
            try:
                found.update(await work(reactor, spec))
            except FirstError as error:
                found["error"] = error.subFailure.getErrorMessage()
            except (Exception, SystemExit) as error:
                found["error"] = str(error)

        try:
            task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
        except SystemExit as end:
            if end.code:
                raise
        if "error" in found:
            raise SystemExit(found["error"])
        return found

    report(run)
