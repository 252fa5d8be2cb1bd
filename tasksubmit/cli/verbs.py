"""What verbs are made of: the decorators and options that they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from tasksubmit.cli.control import Json, Page

if TYPE_CHECKING:
    from tasksubmit.cli.session import Session


def verb(show: Callable[[Any], None]) -> Callable[[Callable[..., Awaitable[Any]]], Callable[..., None]]:
    """Make a command of a coroutine function that asks the node, and whose answer `show` prints."""

    def decorate(function: Callable[..., Awaitable[Any]]) -> Callable[..., None]:
        @click.pass_obj
        @wraps(function)
        def command(session: Session, /, **arguments: Any) -> None:
            with session.errors_told():
                session.tell(session.ask(lambda control: function(control, **arguments)), show)

        return command

    return decorate


# --- pages of a list --------------------------------------------------------------------------------------------------

LONGEST_PAGE = 1000
"""Tasks that one answer of the control API holds at most."""


def paged(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--limit`` and ``--all``, as ``limit`` and ``is_all``."""
    everything = click.option("--all", "is_all", is_flag=True, help="Every task, however many.")
    limit = click.option(
        "--limit", type=click.IntRange(1, LONGEST_PAGE), default=100, show_default=True, help="Tasks at most."
    )
    return limit(everything(command))


async def all_pages(ask: Callable[..., Awaitable[Page]], cursor: str, column: str, **query: object) -> Page:
    """Ask for page after page, and return them as one.

    :param cursor: the parameter for the next page, which is the value of ``column`` in the last task of a page.
    """
    items: list[Json] = []
    while True:
        page = await ask(**query, limit=LONGEST_PAGE)
        items += page.items
        if not page.more or not page.items:
            return Page(items, len(items), True, False)
        query[cursor] = page.items[-1][column] or 0


# --- which task, if several have its id -------------------------------------------------------------------------------

from_option = click.option("--from", "peer", metavar="ADDRESS", help="Its submitter, if several tasks have the id.")
to_option = click.option("--to", "peer", metavar="ADDRESS", help="Its receiver, if several tasks have the id.")


def from_or_to(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--from`` and ``--to`` for a verb of either side; `which` reads them."""
    to = click.option("--to", metavar="ADDRESS", help="The task submitted from here to ADDRESS.")
    from_ = click.option("--from", "from_", metavar="ADDRESS", help="The task received here from ADDRESS.")
    return from_(to(command))


def which(from_: str | None, to: str | None) -> dict[str, str]:
    """The ``side`` and the ``peer`` that the options of `from_or_to` say.

    :raises click.UsageError: when both were given.
    """
    if from_ is not None and to is not None:
        raise click.UsageError("give either --from or --to")
    if from_ is not None:
        return {"side": "receiver", "peer": from_}
    return {"side": "submitter", "peer": to} if to is not None else {}
