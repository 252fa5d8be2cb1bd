"""Full lifecycles through two nodes: submitted, accepted, queued, executed, results delivered and acknowledged.

Two programs with an embedded node each, default settings without limits for a peer, their stores in directories of one
disk. The submitter keeps some tasks under way; the worker does nothing for a task but send a short text. A lifecycle
counts when its results are at the submitter, and in the end every one must be SUCCEEDED in both databases, which the
worker's record is once the results were acknowledged. Both processes share the machine. Nothing is executed, and the
network is loopback.
"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.agents import Pair, pair
from benchmarks.measure import Figures
from benchmarks.plan import Plan
from benchmarks.processes import BenchmarkError
from benchmarks.report import FIGURES, figures_row, table
from benchmarks.rounds import Measured, measure
from benchmarks.servers import stored_tasks

_OUTSTANDING = (1, 256)
_SETTLE_SECONDS = 30.0

_WARM_UPS = 4
"""By how much the warm-up is longer than for a submission: a lifecycle takes longer, too."""


def lifecycles(plan: Plan) -> Measured:
    """Measure and print; returns what went with each number of tasks under way."""
    measured = measure(
        {("lifecycles", f"{count} under way"): partial(_measured, plan, count) for count in _OUTSTANDING},
        plan.rounds,
    )
    table(
        "full lifecycles through two nodes, with acknowledged results",
        ["what", *FIGURES],
        [[how, *figures_row(figures)] for (_, how), figures in measured.items()],
        "p50 and p99: from submit() to result(). driver: the submitter's process, its node and store included.",
    )
    return measured


def _measured(plan: Plan, outstanding: int) -> Figures:
    directory = plan.work_directory()
    with pair(directory) as agents:
        agents.worker.ask("give", bytes_each=0)
        figures = run_tasks(agents, plan, outstanding, 0)
        settle(agents, figures.total)
    return figures


def run_tasks(agents: Pair, plan: Plan, outstanding: int, bytes_each: int) -> Figures:
    """Keep so many tasks under way, whose results are files of this size, or texts when it is 0."""
    report = agents.submitter.ask(
        "run",
        plan.longest_seconds,
        warm_up=_WARM_UPS * plan.warm_up,
        seconds=plan.seconds,
        outstanding=outstanding,
        bytes_each=bytes_each,
    )
    return Figures(**report)


def settle(agents: Pair, count: int) -> None:
    """Wait until both have as many SUCCEEDED tasks as there were, and stop them.

    :raises BenchmarkError: they do not come to that.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while _succeeded(agents) != [count, count] and time.monotonic() < deadline:
        time.sleep(0.02)
    for agent in (agents.submitter, agents.worker):
        agent.stop()
    found = _succeeded(agents)
    if found != [count, count]:
        raise BenchmarkError(
            f"{count} tasks had results; SUCCEEDED are {found[0]} at the submitter, {found[1]} at the worker"
        )


def _succeeded(agents: Pair) -> list[int]:
    return [stored_tasks(agent.state_dir, "SUCCEEDED") for agent in (agents.submitter, agents.worker)]
