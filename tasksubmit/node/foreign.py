"""Event loops that are not Twisted's own, such as that of an ASGI server."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from twisted.internet.interfaces import IReactorTime

from tasksubmit.errors import ReactorNotStarted


def require_started_reactor(timers: IReactorTime) -> None:
    """Refuse a reactor that a foreign event loop runs, and that was not started.

    Its timers and sockets work, which hides what does not: its thread pool never starts, so whatever waits for a thread
    waits forever, and ``callWhenRunning`` never calls.

    :raises ReactorNotStarted: when that is so.
    """
    module: Any = sys.modules.get("twisted.internet.asyncioreactor")
    if module is None or not isinstance(timers, module.AsyncioSelectorReactor):
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return  # nothing runs yet: the reactor starts with its own `run`
    reactor: Any = timers
    if not reactor.running:
        raise ReactorNotStarted(
            "the reactor was not started, so its threads would never run anything: call "
            "reactor.startRunning(installSignalHandlers=False) before Node.startService()"
        )
