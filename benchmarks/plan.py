"""What is to be measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from benchmarks.measure import Shape

SHAPES = (Shape(1, 1), Shape(16, 1), Shape(16, 64), Shape(256, 4))

LONGEST_SECONDS = 50.0
"""A node cancels a task that nobody accepts for a minute, which would be measured, too."""


@dataclass(frozen=True)
class Plan:
    """The options of a run.

    :ivar directory: everything is stored below it; it is what is measured, and empty in the beginning.
    :ivar is_quick: measure everything, but so short that the figures mean little.
    :ivar seconds: how long each shape is measured, after the warm-up.
    :ivar rounds: how often; the median counts.
    :ivar left_out: the names of rivals that are not measured.
    """

    directory: Path
    is_quick: bool
    seconds: float
    rounds: int
    shapes: tuple[Shape, ...] = SHAPES
    left_out: frozenset[str] = field(default_factory=frozenset)

    @property
    def warm_up(self) -> float:
        """Seconds before the measurement."""
        return 0.05 if self.is_quick else 0.5

    @property
    def longest_seconds(self) -> float:
        """How long a driver may take, before it counts as stuck."""
        return self.seconds + 120

    def work_directory(self) -> Path:
        """An empty directory for one measurement.

        All go together at the end of the run: ext4 without a journal looks long for an inode for a new file when many
        were deleted in the minutes before.
        """
        return Path(mkdtemp(dir=self.directory))
