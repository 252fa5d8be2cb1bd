"""The report of a reload."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Reloaded:
    """Effects of a reload on each thing that may have changed, in phrases for people.

    :ivar applied: changes that are in effect now.
    :ivar unchanged: what was read again and is as before.
    :ivar needs_restart: changes that are not in effect until the node is started again.
    """

    applied: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()

    def __add__(self, other: Reloaded) -> Reloaded:
        return Reloaded(
            applied=self.applied + other.applied,
            unchanged=self.unchanged + other.unchanged,
            needs_restart=self.needs_restart + other.needs_restart,
        )

    def __str__(self) -> str:
        restart = (f"needs a restart: {', '.join(self.needs_restart)}",) if self.needs_restart else ()
        return "; ".join([*self.applied, *self.unchanged, *restart]) or "there is nothing to read again"
