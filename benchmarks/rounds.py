"""Measures everything that is compared in turn, several times, so that what else the machine does hits all alike.

Of the runs of each measurement the median counts; how far they lie apart is told as the spread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.measure import Figures
from benchmarks.processes import BenchmarkError

Key = tuple[str, str]
"""What is measured, and how hard it is driven."""

Measurements = Mapping[Key, Callable[[], Figures]]
Measured = Mapping[Key, Figures]


def measure(measurements: Measurements, rounds: int) -> dict[Key, Figures]:
    """Measure each once in every round."""
    runs: dict[Key, list[Figures]] = {key: [] for key in measurements}
    for number in range(1, rounds + 1):
        for key, run in measurements.items():
            progress(f"round {number} of {rounds}: {' '.join(key)}")
            try:
                runs[key].append(run())
            except BenchmarkError as error:
                raise BenchmarkError(f"{' '.join(key)}: {error}") from None
    return {key: _median(several) for key, several in runs.items()}


def _median(several: list[Figures]) -> Figures:
    if len(several) == 1:
        return several[0]
    ordered = sorted(several, key=lambda figures: figures.rate)
    median = ordered[len(ordered) // 2]
    return replace(median, spread=(ordered[-1].rate - ordered[0].rate) / median.rate)


def progress(text: str) -> None:
    """Tell somebody who watches what is going on."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
