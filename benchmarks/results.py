"""Results of 1 KiB, 1 MiB and 11 MiB through two nodes, and how long each node's reactor is kept from its timers.

The same two nodes and the same lifecycles as in ``lifecycles.py``, but with a file as the result. 11 MiB is close to
the largest that fits into a frame. The pause is the longest time, while the results passed, for which a timer that was
due every millisecond did not get its turn: for so long the node answered nobody. Beside it stands the same of a process
that does nothing else: so long the machine alone, which has much to do meanwhile, may keep anybody waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import partial

from benchmarks.agents import pair
from benchmarks.bystander import bystander
from benchmarks.lifecycles import run_tasks, settle
from benchmarks.measure import Figures
from benchmarks.plan import Plan
from benchmarks.report import FIGURES, figures_row, table
from benchmarks.rounds import Key, measure

_KIB, _MIB = 2**10, 2**20
_SIZES = {"1 KiB": (_KIB, 64), "1 MiB": (_MIB, 8), "11 MiB": (11 * _MIB, 2)}
"""The size of a result in bytes, and how many tasks are under way."""


@dataclass(frozen=True)
class Pauses:
    """The longest pauses of a run, in milliseconds."""

    submitter_ms: float
    worker_ms: float
    bystander_ms: float


@dataclass(frozen=True)
class Passed:
    """What went with results of one size."""

    figures: Figures
    mib_per_second: float
    pauses: list[Pauses]


def results(plan: Plan) -> dict[str, Passed]:
    """Measure and print; returns what went with each size."""
    keys: dict[str, Key] = {name: ("results", name) for name in _SIZES}
    pauses: dict[str, list[Pauses]] = {name: [] for name in _SIZES}
    measured = measure(
        {key: partial(_measured, plan, *_SIZES[name], pauses[name]) for name, key in keys.items()}, plan.rounds
    )
    passed = {
        name: Passed(measured[key], measured[key].rate * _SIZES[name][0] / _MIB, pauses[name])
        for name, key in keys.items()
    }
    table(
        "results through two nodes, with acknowledgement",
        ["size", "under way", *FIGURES, "MiB/s", "pause submitter", "pause worker", "pause bystander"],
        [_row(name, outstanding, passed[name]) for name, (_, outstanding) in _SIZES.items()],
        "pause: the longest time, in ms, in which the node's reactor came to nothing else, in each round.",
        "bystander: a process that does nothing but wait for its timer.",
    )
    return passed


def _measured(plan: Plan, size: int, outstanding: int, pauses: list[Pauses]) -> Figures:
    """Measure once, and add the pauses of that."""
    directory = plan.work_directory()
    with pair(directory) as agents, bystander(directory) as bystander_ms:
        both = (agents.submitter, agents.worker)
        agents.worker.ask("give", bytes_each=size)
        for agent in both:
            agent.ask("begin_pauses")
        figures = run_tasks(agents, plan, outstanding, size)
        submitter_ms, worker_ms = (agent.ask("end_pauses")["longest_ms"] for agent in both)
        pauses.append(Pauses(submitter_ms, worker_ms, bystander_ms()))
        settle(agents, figures.total)
    return figures


def _row(name: str, outstanding: int, passed: Passed) -> list[str]:
    figures = [*figures_row(passed.figures), f"{passed.mib_per_second:,.1f}"]
    return [name, str(outstanding), *figures, *map(_each, zip(*map(astuple, passed.pauses), strict=True))]


def _each(pauses_ms: Iterable[float]) -> str:
    return " ".join(f"{pause_ms:,.0f}" for pause_ms in pauses_ms)
