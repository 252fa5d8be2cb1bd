"""Those who do the work: chosen by name, as Twisted plugins, so that anybody can ship more."""

from __future__ import annotations

from typing import Any

from twisted.plugin import getPlugins

from tasksubmit.errors import ConfigurationError
from tasksubmit.interfaces import IExecutor, IExecutorMaker
from tasksubmit.protocol.strings import split_description


def executor_makers() -> dict[str, IExecutorMaker]:
    """Every kind of executor that is installed, by its name."""
    makers: list[IExecutorMaker] = sorted(getPlugins(IExecutorMaker), key=lambda maker: str(maker.name))
    return {maker.name: maker for maker in makers}


def make_executor(reactor: Any, description: str) -> IExecutor | None:
    """The executor that a text such as ``process:COMMAND:timeout=60`` describes; None for ``manual``.

    :raises ConfigurationError: saying what is wrong with the text.
    """
    (name, *arguments), options = split_description(description)
    makers = executor_makers()
    if name not in makers:
        raise ConfigurationError(f"there is no executor {name!r}; there are {', '.join(makers)}")
    try:
        executor: IExecutor | None = makers[name].make_executor(reactor, *arguments, **options)
        return executor
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({name}:{makers[name].usage})") from None
