"""The lifecycle as a picture, drawn from the tables that decide it: `TRANSITIONS` and `DEADLINES`.

A column for each status, a row for each thing that can happen. A dot marks a status in which it can; the arrow leads to
the status that follows, and a loop back to the one that stays. What time does by itself is dashed, with its limit. The
same tables give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from datetime import timedelta
from html import escape

from attrs import frozen

from tasksubmit.lifecycle.table import (
    DEADLINES,
    DECIDED_BY,
    TRANSITIONS,
    Deadline,
    Event,
    Side,
    TaskStatus,
    Timeouts,
    Transition,
)

COLUMNS: tuple[TaskStatus | None, ...] = (None, *sorted(TaskStatus, key=lambda status: status.is_final))
"""The order of the columns: what there is no record of, the statuses on the way, the final ones."""

COLORS = {"submitter": "#1f5fa8", "receiver": "#2c7a3f", "time": "#a2540b"}
"""How it is shown whose doing something is."""

_COLUMN, _ROW = 94, 36
_TOP, _MARGIN = 62, 8
_LETTER = 6  # about as wide as it is
_WIDTH = len(COLUMNS) * _COLUMN + 2 * _MARGIN
_STYLE = (
    "text{font:11px sans-serif;fill:#222}"
    ".status{font-weight:bold;text-anchor:middle}"
    ".label{paint-order:stroke;stroke:#fff;stroke-width:4px}"
    ".time{stroke-dasharray:5 3}"
)


@frozen
class Row:
    """One thing that can happen to a task, with what it stamps and brings about.

    :ivar steps: each status in which it can happen, with the one that follows; None is a task without a record.
    :ivar transition: what is the same for all of them: the stamps, the effects, the outcome.
    :ivar deadlines: those that bring it about.
    """

    event: Event
    steps: tuple[tuple[TaskStatus | None, TaskStatus], ...]
    transition: Transition
    deadlines: tuple[Deadline, ...]

    @property
    def limits(self) -> str:
        """When the deadlines fall due, in words; empty without any."""
        sources = {source for source, _ in self.steps}
        return ", or ".join(_limit(deadline, self.event, sources) for deadline in self.deadlines)


def rows(side: Side) -> tuple[Row, ...]:
    """What can happen to a record of ``side``, in the order of the table."""
    alike: dict[tuple[object, ...], list[tuple[TaskStatus | None, Event, Transition]]] = {}
    for (of, source, event), transition in TRANSITIONS.items():
        if of is side:
            consequences = (event, transition.stamps, transition.effects, transition.outcome)
            alike.setdefault(consequences, []).append((source, event, transition))
    return tuple(
        Row(
            event=event,
            steps=tuple((source, transition.target) for source, _, transition in steps),
            transition=transition,
            deadlines=tuple(
                deadline
                for deadline in DEADLINES
                if deadline.side is side
                and DECIDED_BY[event] == "time"
                and event in (deadline.event, *(other for _, other in deadline.instead))
                and any(source in deadline.statuses for source, _, _ in steps)
            ),
        )
        for steps in alike.values()
        for _, event, transition in steps[:1]
    )


def _limit(deadline: Deadline, event: Event, sources: Set[TaskStatus | None]) -> str:
    after = Timeouts().limit(deadline)
    words = f"{_span(after)} after {deadline.since}" if after else f"once {deadline.since} has passed"
    if deadline.needs_hearing:
        words += " and after any start"
    if not sources <= set(deadline.statuses):
        words += f" while {' or '.join(deadline.statuses)}"
    if len(deadline.unless) == 1:  # of more, the picture has no space
        words += f", unless {deadline.unless[0]}"
    condition = next((name for name, other in deadline.instead if other is event), "")
    return f"{words}, if it {condition.replace('_', ' ')}" if condition else words


def _span(duration: timedelta) -> str:
    seconds = int(duration.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


# --- drawing ----------------------------------------------------------------------------------------------------------


def svg(side: Side) -> str:
    """The picture of one side's record, as an SVG document of one root element, without a declaration in front."""
    drawn = rows(side)
    height = _TOP + len(drawn) * _ROW + _MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            f"<title>What can happen to a task in the {side}'s record</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
            *_legend(),
            *(line for status in COLUMNS for line in _column(status, height)),
            *(line for number, row in enumerate(drawn) for line in _row(row, _TOP + number * _ROW + _ROW - 10)),
            "</svg>",
        ]
    )


def _x(status: TaskStatus | None) -> int:
    return _MARGIN + COLUMNS.index(status) * _COLUMN + _COLUMN // 2


def _legend() -> Iterator[str]:
    x = _MARGIN
    for who, color in COLORS.items():
        yield f'<line x1="{x}" y1="12" x2="{x + 26}" y2="12" stroke="{color}" stroke-width="2"{_dashes(who)}/>'
        yield f'<text x="{x + 32}" y="16">{who}</text>'
        x += 110


def _column(status: TaskStatus | None, height: int) -> Iterator[str]:
    x, half = _x(status), _COLUMN // 2 - 4
    yield f'<line x1="{x}" y1="48" x2="{x}" y2="{height - _MARGIN}" stroke="#ccc"/>'
    if status is None:
        yield f'<circle cx="{x}" cy="38" r="7" fill="#222"/>'
        return
    border = 3 if status.is_final else 1
    yield (
        f'<rect x="{x - half}" y="26" width="{2 * half}" height="24" rx="5" fill="#f4f4f4" stroke="#222"'
        f' stroke-width="{border}"/>'
    )
    yield f'<text class="status" x="{x}" y="42">{status}</text>'


def _row(row: Row, y: int) -> Iterator[str]:
    who = DECIDED_BY[row.event]
    color = COLORS[who]
    line = f'stroke="{color}" stroke-width="1.6" fill="none"{_dashes(who)}'
    for source, target in row.steps:
        start, end = _x(source), _x(target)
        if source is target:
            yield f'<path d="M {start} {y} c 44 -14 44 20 13 5" stroke="{color}" stroke-width="1.6" fill="none"/>'
            yield _head(start + 4, y + 4, color, forward=False)
            continue
        forward = end > start
        yield f'<line x1="{start}" y1="{y}" x2="{end - 8 if forward else end + 8}" y2="{y}" {line}/>'
        yield _head(end, y, color, forward=forward)
    for source, _ in row.steps:
        yield f'<circle cx="{_x(source)}" cy="{y}" r="3.5" fill="{color}"/>'
    words = row.event.value + (f": {row.limits}" if row.limits else "")
    left = min(min(_x(source) for source, _ in row.steps) + 6, _WIDTH - _MARGIN - _LETTER * len(words))
    yield f'<text class="label" x="{left}" y="{y - 7}">{escape(words)}</text>'


def _head(x: int, y: int, color: str, *, forward: bool) -> str:
    back = x - 9 if forward else x + 9
    return f'<path d="M {x} {y} L {back} {y - 4} L {back} {y + 4} Z" fill="{color}"/>'


def _dashes(who: str) -> str:
    return ' class="time"' if who == "time" else ""
