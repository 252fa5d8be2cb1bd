"""Leaky buckets: how much of a rate each of many parties has used up. Empty ones are dropped."""

from __future__ import annotations

from collections.abc import Hashable

from attrs import define, field, frozen

_FEW = 1024


@frozen
class _Bucket:
    level: float
    at: float
    rate: float


@define(eq=False)
class LeakyBuckets:
    """One bucket for each key: each use adds 1 to its level, which falls by a rate in each second."""

    _buckets: dict[Hashable, _Bucket] = field(factory=dict, init=False)
    _most: int = field(default=_FEW, init=False)

    def __len__(self) -> int:
        return len(self._buckets)

    def level(self, key: Hashable, now: float) -> float:
        """Return the level of a bucket; 0 for a key that was never used."""
        # Whole numbers as long as no time passes, hence exact.
        found = self._buckets.get(key)
        return 0.0 if found is None else max(0.0, found.level - max(0.0, now - found.at) * found.rate)

    def add(self, key: Hashable, rate: float, now: float) -> None:
        """Count one use; from ``now`` on the level falls by ``rate`` a second."""
        self._buckets[key] = _Bucket(self.level(key, now) + 1, now, rate)
        if len(self._buckets) > self._most:
            self._buckets = {one: bucket for one, bucket in self._buckets.items() if self.level(one, now) > 0}
            self._most = max(_FEW, 2 * len(self._buckets))
