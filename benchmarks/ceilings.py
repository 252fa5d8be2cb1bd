"""The two ceilings of a submission: everything but the store, and the store alone.

The first is this package's protocol with a function that accepts everything and keeps nothing, driven like the node at
every shape. The second is the SQLite store on a reactor of its own, without a network. The node can be as fast as the
slower of the two at best; what the ratios show beyond that is what the two cost each other in one process.
"""

from __future__ import annotations

from functools import partial

from benchmarks.driver import load
from benchmarks.measure import Figures, Shape
from benchmarks.ours import NAME
from benchmarks.plan import Plan
from benchmarks.processes import drive
from benchmarks.report import FIGURES, figures_row, table, times
from benchmarks.rounds import Measured, Measurements
from benchmarks.servers import bare, check_stored, stored_tasks

_OUTSTANDING = (1, 16, 1024)
_STORELESS = "without a store"
_ALONE = "store alone"


def measurements(plan: Plan) -> Measurements:
    """Both ceilings."""
    storeless = {(_STORELESS, str(shape)): partial(_without_store, plan, shape) for shape in plan.shapes}
    alone = {(_ALONE, str(count)): partial(_without_network, plan, count) for count in _OUTSTANDING}
    return {**storeless, **alone}


def show(plan: Plan, measured: Measured) -> None:
    """Print the tables."""
    table(
        "the first ceiling: the same submissions, and nothing is stored",
        ["shape", *FIGURES, "node/ceiling"],
        [_storeless_row(shape, measured) for shape in plan.shapes],
    )
    table(
        "the second ceiling: store.create alone, with fsync, without a network",
        ["under way", *FIGURES, "node/ceiling"],
        [_alone_row(plan, count, measured) for count in _OUTSTANDING],
        "node/ceiling: the node with as many submissions under way on all its connections.",
    )


def _storeless_row(shape: Shape, measured: Measured) -> list[str]:
    figures = measured[_STORELESS, str(shape)]
    return [str(shape), *figures_row(figures), times(measured[NAME, str(shape)].rate / figures.rate)]


def _alone_row(plan: Plan, count: int, measured: Measured) -> list[str]:
    figures = measured[_ALONE, str(count)]
    alike = [shape for shape in plan.shapes if shape.connections * shape.outstanding == count]
    ratio = times(measured[NAME, str(alike[0])].rate / figures.rate) if alike else ""
    return [str(count), *figures_row(figures), ratio]


def _without_store(plan: Plan, shape: Shape) -> Figures:
    directory = plan.work_directory()
    with bare("tasksubmit", directory) as server:
        return load(server.port, "tasksubmit", shape, plan)


def _without_network(plan: Plan, outstanding: int) -> Figures:
    directory = plan.work_directory()
    measured = drive(
        "benchmarks.lone_store",
        plan.longest_seconds,
        directory=str(directory),
        outstanding=outstanding,
        warm_up=plan.warm_up,
        seconds=plan.seconds,
    )
    figures = Figures(**measured)
    check_stored("the store", figures.total, stored_tasks(directory))
    return figures
