"""The polo score: what a completed task earns its receiver (wire.md, section 5)."""

from __future__ import annotations

import math
from enum import Enum
from typing import Protocol

from attrs import frozen
from typing_extensions import override

from tasksubmit.validation import is_integer, to_member, wrong_type
from tasksubmit.wire.records import Record, double, integer

_BASE = 1.0
_MS_PER_SECOND = 1000
_MS_PER_MINUTE = 60_000

# The waits, in seconds, that cost the whole of a factor by the linear reading.
_FULL_IDLE_SECONDS = 60
_FULL_STAGED_SECONDS = 600

_LARGEST_FACTOR = 0.3
_SMALLEST_MULTIPLIER = 0.4
_SMALLEST_REWARD = 1


class ScoreFormula(str, Enum):
    """The two readings of the factors that take off for waiting (wire.md, section 5)."""

    DOCUMENTED = "documented"
    """As published: ``min(x, 0.3)``, where x is the wait as a part of 60 s idle or 600 s staged."""

    LINEAR = "linear"
    """As deployed peers pay: ``min(x, 1) * 0.3``."""

    @override
    def __str__(self) -> str:
        return self.value


class Timed(Protocol):
    """What has the three durations of a task, in milliseconds; a negative one counts as zero."""

    @property
    def time_idle_ms(self) -> int:
        """From creation to acceptance."""

    @property
    def time_staged_ms(self) -> int:
        """At the head of the queue."""

    @property
    def time_cpu_ms(self) -> int:
        """In execution."""


@frozen
class PoloScoreBreakdown(Record):
    """A reward and every part of it.

    :ivar base: always 1.0.
    :ivar cpu_bonus: log2(1 + cpu_minutes).
    :ivar cpu_minutes: minutes of execution.
    :ivar idle_factor: 0.0 to 0.3, taken off for the wait in NEW.
    :ivar staged_factor: 0.0 to 0.3, taken off for the wait at the head of the queue.
    :ivar efficiency_multiplier: what the factors leave of 1.0, at least 0.4.
    :ivar raw_reward: (base + cpu_bonus) * efficiency_multiplier.
    :ivar final_reward: raw_reward rounded half up, at least 1: the points.
    """

    base: float = double()
    cpu_bonus: float = double()
    cpu_minutes: float = double()
    idle_factor: float = double()
    staged_factor: float = double()
    efficiency_multiplier: float = double()
    raw_reward: float = double()
    final_reward: int = integer()


def polo_score(task: Timed, formula: ScoreFormula | str = ScoreFormula.DOCUMENTED) -> PoloScoreBreakdown:
    """Work out what a completed task earns.

    :param task: whose durations count: a record, a task file or a results message.
    :param formula: the reading of the factors, or its word.
    :returns: the reward, ``final_reward``, and its parts.
    :raises TypeError: the task has not the three durations.
    :raises ValueError: there is no formula of that name.
    """
    formula = to_member(formula, "formula", ScoreFormula)
    for name in ("time_idle_ms", "time_staged_ms", "time_cpu_ms"):
        if not is_integer(getattr(task, name, None)):
            raise wrong_type("task", "a record, a task file or a results message: three durations in whole ms", task)
    cpu_minutes = max(task.time_cpu_ms, 0) / _MS_PER_MINUTE
    cpu_bonus = math.log2(1 + cpu_minutes)
    idle_factor = _factor(task.time_idle_ms, _FULL_IDLE_SECONDS, formula)
    staged_factor = _factor(task.time_staged_ms, _FULL_STAGED_SECONDS, formula)
    multiplier = max(1.0 - idle_factor - staged_factor, _SMALLEST_MULTIPLIER)
    raw_reward = (_BASE + cpu_bonus) * multiplier
    return PoloScoreBreakdown(
        base=_BASE,
        cpu_bonus=cpu_bonus,
        cpu_minutes=cpu_minutes,
        idle_factor=idle_factor,
        staged_factor=staged_factor,
        efficiency_multiplier=multiplier,
        raw_reward=raw_reward,
        final_reward=max(math.floor(raw_reward + 0.5), _SMALLEST_REWARD),
    )


def highest_reward(task: Timed) -> int:
    """Return what ``task`` earns by the formula that gives more: a submitter may use either."""
    return max(polo_score(task, formula).final_reward for formula in ScoreFormula)


def _factor(wait_ms: int, full_seconds: int, formula: ScoreFormula) -> float:
    part = max(wait_ms, 0) / _MS_PER_SECOND / full_seconds
    if formula is ScoreFormula.LINEAR:
        return min(part, 1.0) * _LARGEST_FACTOR
    return min(part, _LARGEST_FACTOR)
