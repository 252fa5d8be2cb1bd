"""The lifecycle: its picture, and in words what each step stamps and brings about."""

from __future__ import annotations

from textwrap import indent

from sitegen.rst import literal, table
from tasksubmit.lifecycle.diagram import rows, svg
from tasksubmit.lifecycle.table import DECIDED_BY, Side


def picture(side: Side) -> str:
    """The picture of one side's record."""
    return f".. raw:: html\n\n{indent(svg(side), '   ')}\n\n"


def steps(side: Side) -> str:
    """A table of the same rows."""
    lines = []
    for row in rows(side):
        sources = ", ".join(str(source or "(nothing)") for source, _ in row.steps)
        targets = {target for source, target in row.steps if target is not source}
        target = ", ".join(map(str, targets)) or "the same"
        also = [*(stamp.value for stamp in row.transition.stamps), *(effect.value for effect in row.transition.effects)]
        if row.transition.outcome:
            also.append(f"outcome {literal(row.transition.outcome)}")
        who = DECIDED_BY[row.event] + (f", {row.limits}" if row.limits else "")
        lines.append((row.event.value, sources, target, who, "; ".join(also)))
    return table(("what happens", "in", "leads to", "by", "stamps and effects"), lines, "18 16 12 20 34")
