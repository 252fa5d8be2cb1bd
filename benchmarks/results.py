"""Results of 1 KiB, 1 MiB and 11 MiB through two nodes, and how long each node's reactor is kept from its timers.

The same two nodes and the same lifecycles as in ``lifecycles.py``, but with a file as the result. 11 MiB is close to
the largest that fits into a frame. The pause is the longest time, while the results passed, for which a timer that was
due every millisecond did not get its turn: for so long the node answered nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.agents import pair
from benchmarks.lifecycles import run_tasks, settle
from benchmarks.measure import Figures
from benchmarks.plan import Plan
from benchmarks.report import FIGURES, figures_row, table
from benchmarks.rounds import progress

_KIB, _MIB = 2**10, 2**20
_SIZES = ((_KIB, "1 KiB", 64), (_MIB, "1 MiB", 8), (11 * _MIB, "11 MiB", 2))
"""The size of a result in bytes, what it is called, and how many tasks are under way."""


@dataclass(frozen=True)
class Passed:
    """What went with results of one size; each node's longest pause is in milliseconds."""

    figures: Figures
    mib_per_second: float
    submitter_pause_ms: float
    worker_pause_ms: float


def results(plan: Plan) -> dict[str, Passed]:
    """Measure and print; returns what went with each size."""
    passed = {}
    for size, name, outstanding in _SIZES:
        progress(f"results of {name}")
        passed[name] = _measured(plan, size, outstanding)
    table(
        "results through two nodes, with acknowledgement",
        ["size", "under way", *FIGURES, "MiB/s", "pause submitter", "pause worker"],
        [_row(name, outstanding, passed[name]) for _, name, outstanding in _SIZES],
        "pause: the longest time, in ms, in which the node's reactor came to nothing else. One run of each.",
    )
    return passed


def _measured(plan: Plan, size: int, outstanding: int) -> Passed:
    directory = plan.work_directory()
    with pair(directory) as agents:
        agents.worker.ask("give", bytes_each=size)
        for agent in (agents.submitter, agents.worker):
            agent.ask("begin_pauses")
        figures = run_tasks(agents, plan, outstanding, size)
        pauses = [agent.ask("end_pauses")["longest_ms"] for agent in (agents.submitter, agents.worker)]
        settle(agents, figures.total)
    return Passed(figures, figures.rate * size / _MIB, *pauses)


def _row(name: str, outstanding: int, passed: Passed) -> list[str]:
    figures = [*figures_row(passed.figures), f"{passed.mib_per_second:,.1f}"]
    return [name, str(outstanding), *figures, f"{passed.submitter_pause_ms:,.0f}", f"{passed.worker_pause_ms:,.0f}"]
