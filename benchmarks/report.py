"""Aligned tables of figures, with ratios."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Figures

FIGURES = ["per second", "spread", "p50 ms", "p99 ms", "driver"]
"""The columns that `figures_row` fills."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
    """Print a title, rows of text under their columns, the first to the left, and notes under them."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        first, *others = (text.rjust(width) for text, width in zip(line, widths, strict=True))
        print("  " + "  ".join([line[0].ljust(len(first)), *others]).rstrip(), flush=True)
    for note in notes:
        print(f"  {note}")


def figures_row(figures: Figures) -> list[str]:
    """The cells of `FIGURES`."""
    return [
        f"{figures.rate:,.0f}",
        "" if figures.spread is None else f"{figures.spread:.0%}",
        f"{figures.p50_ms:,.2f}",
        f"{figures.p99_ms:,.2f}",
        f"{figures.busy:.0%}",
    ]


def times(ratio: float) -> str:
    """A ratio, as it is printed."""
    return f"{ratio:.{3 if ratio < 0.1 else 2 if ratio < 10 else 0}f}x"
